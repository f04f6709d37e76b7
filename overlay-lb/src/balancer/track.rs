//! Packets: choosing, tracking, forgetting.

use overlay_core::Instant;

use super::{Balancer, Choice, Event, Output, Reject};
use crate::{
    BackendState, FlowKey, Policy, Protocol, TcpFlags,
    flows::{Flow, FlowState, Sides},
    service::Among,
};

/// Who sent a packet.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Backend,
}

impl Balancer {
    /// Says where a packet from a client goes: where the flow's earlier ones went, or to a backend chosen now.
    ///
    /// A TCP flow counts as established; with the segment's flags at hand, use [`choose_tcp`](Self::choose_tcp).
    pub fn choose(&mut self, now: Instant, flow: FlowKey) -> Choice {
        self.packet(now, &flow, None)
    }

    /// Says where a TCP segment from a client goes, and follows the connection's state.
    ///
    /// A segment from the middle of an unknown connection goes where Maglev would have sent the first one; with other
    /// policies it is [`Reject::UnknownFlow`]. For a flow that is not TCP the flags are ignored.
    pub fn choose_tcp(&mut self, now: Instant, flow: FlowKey, flags: TcpFlags) -> Choice {
        self.packet(now, &flow, Some(flags))
    }

    /// Notes a packet from a backend, on its way to the client; `flags` are those of a TCP segment, else ignored.
    ///
    /// Returns false if the flow is not known. Calling it is optional: where replies take another way, a connection
    /// counts as half closed after the client's FIN.
    pub fn handle_reply(&mut self, now: Instant, flow: FlowKey, flags: TcpFlags) -> bool {
        self.pass(now);
        let Some(at) = self.flows.find(&flow) else {
            return false;
        };
        self.advance(
            at,
            Side::Backend,
            Some(flags).filter(|_| flow.vip.proto == Protocol::Tcp),
        );
        true
    }

    /// Notes the time, and nothing else: what a refused command may do.
    pub(super) fn see(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Notes the time, and forgets the flows whose time is over.
    pub(super) fn pass(&mut self, now: Instant) {
        self.see(now);
        while let Some((deadline, at)) = self.flows.next_due(&self.config.timeouts) {
            if deadline > self.now {
                break;
            }
            self.stats.expired += 1;
            self.forget(at);
        }
    }

    /// Ends all flows of a backend.
    pub(super) fn cut(&mut self, group: u32) {
        while let Some(at) = self.flows.first_of(group) {
            self.stats.cut += 1;
            let (key, flow) = self.flows.remove(at);
            self.reset(key, flow);
        }
    }

    fn packet(&mut self, now: Instant, key: &FlowKey, flags: Option<TcpFlags>) -> Choice {
        self.pass(now);
        let flags = flags.filter(|_| key.vip.proto == Protocol::Tcp);
        if let Some(at) = self.flows.find(key) {
            let flow = self.flows.flow(at);
            if flow.is_live() || !flags.is_some_and(opens) {
                self.advance(at, Side::Client, flags);
                return self.to(flow.group);
            }
            // The client uses the port of an ended connection again.
            self.flows.remove(at);
        }
        match self.open(key, flags) {
            Ok(group) => self.to(group),
            Err(reject) => {
                self.stats.rejected += 1;
                Choice::Reject(reject)
            }
        }
    }

    /// Chooses a backend for an unknown flow, and tracks it.
    fn open(&mut self, key: &FlowKey, flags: Option<TcpFlags>) -> Result<u32, Reject> {
        let service = self.services.get_mut(&key.vip).ok_or(Reject::UnknownVip)?;
        let middle = flags.is_some_and(|flags| !opens(flags));
        let reset = flags.is_some_and(|flags| flags.contains(TcpFlags::RST));
        if reset || middle && service.config.policy != Policy::Maglev {
            return Err(Reject::UnknownFlow);
        }
        let client = key.client.ip();
        let known = service.config.affinity.and_then(|timeout| {
            let backend = self.affinities.get(key.vip, client, timeout, self.now)?;
            let group = *service.groups.get(&backend)?;
            let member = self.members.get(group as usize)?.as_ref()?;
            member.takes().then_some(group)
        });
        let mut among = Among {
            members: &mut self.members,
            flows: &self.flows,
            maglev_entries: self.config.maglev_entries,
            maglev_seed: self.config.maglev_seed,
        };
        let group = known
            .or_else(|| service.choose(key, &mut among))
            .ok_or(Reject::NoBackend)?;
        if service.config.affinity.is_some()
            && let Some(member) = self.member(group)
        {
            let backend = member.backend.id;
            self.affinities.set(key.vip, client, backend, self.now);
        }
        self.make_room();
        let state = match (key.vip.proto, flags) {
            (Protocol::Udp, _) => FlowState::Datagram,
            (Protocol::Tcp, Some(flags)) if opens(flags) => FlowState::Opening,
            (Protocol::Tcp, _) => FlowState::Established,
        };
        let flow = Flow {
            group,
            state,
            finished: Sides::default(),
        };
        let at = self.flows.insert(key, flow, self.now);
        self.stats.chosen += 1;
        if flags.is_some_and(|flags| flags.contains(TcpFlags::FIN)) {
            self.advance(at, Side::Client, flags);
        }
        Ok(group)
    }

    /// Follows a flow by one packet. TCP as far as a balancer needs it: which sides have finished.
    fn advance(&mut self, at: u32, side: Side, flags: Option<TcpFlags>) {
        let mut flow = self.flows.flow(at);
        if flow.state == FlowState::Closed {
            // Late segments do not keep the entry.
            return;
        }
        if let (FlowState::Opening, Side::Client, false) =
            (flow.state, side, flags.is_some_and(opens))
        {
            flow.state = FlowState::Established;
        }
        if let Some(flags) = flags {
            let fin = flags.contains(TcpFlags::FIN);
            match side {
                Side::Client => flow.finished.client |= fin,
                Side::Backend => flow.finished.backend |= fin,
            }
            let Sides { client, backend } = flow.finished;
            if flags.contains(TcpFlags::RST) || client && backend {
                flow.state = FlowState::Closed;
            } else if client || backend {
                flow.state = FlowState::HalfClosed;
            }
        }
        self.flows.touch(at, flow, self.now);
        self.ended(flow);
    }

    fn make_room(&mut self) {
        while self.flows.len() >= self.config.flows_max as usize
            && let Some(at) = self.flows.victim()
        {
            self.stats.evicted += 1;
            self.forget(at);
        }
    }

    fn forget(&mut self, at: u32) {
        let (key, mut flow) = self.flows.remove(at);
        self.reset(key, flow);
        let was_live = flow.is_live();
        flow.state = FlowState::Closed;
        if was_live {
            self.ended(flow);
        }
    }

    /// Reports a draining backend whose last flow has just ended.
    fn ended(&mut self, flow: Flow) {
        if flow.is_live() || self.flows.live(flow.group) > 0 {
            return;
        }
        if let Some(member) = self.member(flow.group)
            && member.backend.state == BackendState::Draining
        {
            let (vip, backend) = (member.vip, member.backend.id);
            self.outputs
                .push_back(Output::Event(Event::Drained { vip, backend }));
        }
    }

    /// Asks for resets of both ends, if the flow needs them.
    fn reset(&mut self, key: FlowKey, flow: Flow) {
        let Some(member) = self.member(flow.group).filter(|_| flow.state.needs_reset()) else {
            return;
        };
        if self.resets >= self.config.resets_max {
            self.stats.resets_lost += 1;
            return;
        }
        let (backend, address) = (member.backend.id, member.backend.address);
        self.resets += 1;
        self.outputs.push_back(Output::Reset {
            flow: key,
            backend,
            address,
        });
    }

    fn to(&self, group: u32) -> Choice {
        match self.member(group) {
            Some(member) => Choice::Backend {
                id: member.backend.id,
                address: member.backend.address,
            },
            None => Choice::Reject(Reject::NoBackend),
        }
    }
}

/// A client's first segment.
fn opens(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK)
}
