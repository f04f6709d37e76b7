//! Packets: choosing, tracking, forgetting.

use overlay_core::Instant;

use super::{Balancer, Choice, Event, Output, Reject};
use crate::{
    BackendState, FlowKey, Policy, Protocol, Sequence, TcpFlags, Vip,
    flows::{Ends, Flow, FlowState, Marks, Packed},
    openings::TRIES_MAX,
    reset::Reset,
    service::{Among, is_other},
};

/// Who sent a packet.
#[derive(Clone, Copy)]
pub(crate) enum Side {
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
    /// policies it is [`Reject::UnknownFlow`]. What [`Config::replies_seen`](crate::Config::replies_seen) says decides
    /// when a connection counts as established. For a flow that is not TCP the flags are ignored.
    pub fn choose_tcp(&mut self, now: Instant, flow: FlowKey, flags: TcpFlags) -> Choice {
        self.packet(now, &flow, Some(flags))
    }

    /// Notes a packet from a backend, on its way to the client; `flags` are those of a TCP segment, else ignored.
    ///
    /// Returns false if the flow is not known. Calling it is optional: where replies take another way, a connection
    /// counts as half closed after the client's FIN.
    pub fn handle_reply(&mut self, now: Instant, flow: FlowKey, flags: TcpFlags) -> bool {
        self.pass(now);
        let Some(at) = self.flows.find(&Packed::new(&flow)) else {
            return false;
        };
        let flags = Some(flags).filter(|_| flow.vip.proto == Protocol::Tcp);
        self.follow(at, Side::Backend, flags).is_some()
    }

    /// Notes the time, and nothing else: what a refused command may do.
    #[inline]
    pub(super) fn see(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Notes the time, and forgets the flows whose time is over.
    #[inline]
    pub(crate) fn pass(&mut self, now: Instant) {
        self.see(now);
        if self.flows.is_early(self.now) {
            return;
        }
        while let Some((deadline, at)) = self.flows.next_due() {
            if deadline > self.now {
                break;
            }
            self.stats.expired += 1;
            self.forget(at);
        }
        self.flows.note_due();
    }

    /// Ends all flows of a backend.
    pub(super) fn cut(&mut self, group: u32) {
        while let Some(at) = self.flows.first_of(group) {
            self.stats.cut += 1;
            let (ends, flow, sequence) = self.flows.remove(at);
            self.reset(ends, flow, sequence);
        }
    }

    fn packet(&mut self, now: Instant, key: &FlowKey, flags: Option<TcpFlags>) -> Choice {
        self.pass(now);
        let flags = flags.filter(|_| key.vip.proto == Protocol::Tcp);
        let known = self.flows.find(&Packed::new(key));
        let known = known.and_then(|at| self.follow(at, Side::Client, flags));
        match known.map_or_else(|| self.open(key, flags), Ok) {
            Ok(at) => self.to(at),
            Err(reject) => Choice::Reject(reject),
        }
    }

    /// Follows a flow by one packet of a side; returns where it is, or `None` if the packet begins another one.
    #[inline(always)]
    pub(crate) fn follow(&mut self, at: u32, side: Side, flags: Option<TcpFlags>) -> Option<u32> {
        let opens = matches!(side, Side::Client) && flags.is_some_and(TcpFlags::opens);
        if opens && !self.flows.flow(at).is_live() {
            // The client uses the port of an ended connection again.
            self.flows.remove(at);
            return None;
        }
        self.advance(at, side, flags);
        Some(at)
    }

    /// Chooses a backend for an unknown flow, and tracks it; `flags` are those of a TCP segment.
    pub(crate) fn open(&mut self, key: &FlowKey, flags: Option<TcpFlags>) -> Result<u32, Reject> {
        let opened = self.try_open(key, flags);
        self.stats.rejected += u64::from(opened.is_err());
        opened
    }

    fn try_open(&mut self, key: &FlowKey, flags: Option<TcpFlags>) -> Result<u32, Reject> {
        let vip = self.served(key.vip).ok_or(Reject::UnknownVip)?;
        let service = self.services.get_mut(&vip).ok_or(Reject::UnknownVip)?;
        let middle = flags.is_some_and(|flags| !flags.opens());
        let reset = flags.is_some_and(|flags| flags.contains(TcpFlags::RST));
        if reset || middle && service.config.policy != Policy::Maglev {
            return Err(Reject::UnknownFlow);
        }
        let (client, affinity) = (key.client.ip(), service.config.affinity);
        let known = affinity.and_then(|timeout| {
            let backend = self.affinities.get(vip, client, timeout, self.now)?;
            let group = *service.groups.get(&backend)?;
            service.takes(group, &self.members).then_some(group)
        });
        let mut among = Among {
            members: &mut self.members,
            flows: &self.flows,
            maglev_entries: self.config.maglev_entries,
            maglev_seed: self.config.maglev_seed,
        };
        let tried = self.openings.tried(&Packed::new(key));
        let group = if tried.is_empty() {
            known.or_else(|| service.choose(key, &mut among))
        } else {
            let other = service.choose_other(key, &among, tried);
            other.or_else(|| service.choose(key, &mut among))
        };
        let group = group.ok_or(Reject::NoBackend)?;
        let mut flow = Flow::new(group, key.vip.proto);
        let believed = match flags {
            Some(flags) => !flags.opens() && !self.config.replies_seen,
            None => key.vip.proto == Protocol::Tcp,
        };
        if believed {
            flow.state = FlowState::Established;
        }
        self.set_source(key, &mut flow).ok_or(Reject::NoPort)?;
        if affinity.is_some()
            && let Some(member) = self.member(group)
        {
            let backend = member.backend.id;
            self.affinities.set(vip, client, backend, self.now);
        }
        self.make_room();
        let at = self.flows.insert(key, flow, self.now);
        self.stats.chosen += 1;
        if flags.is_some_and(|flags| flags.contains(TcpFlags::FIN)) {
            self.advance(at, Side::Client, flags);
        }
        Ok(at)
    }

    /// Returns among how many backends that of a flow was chosen.
    pub(crate) fn choices(&mut self, at: u32) -> usize {
        let group = self.flows.flow(at).group;
        let vip = self.member(group).map(|member| member.vip);
        let service = vip.and_then(|vip| self.services.get_mut(&vip));
        service.map_or(0, |service| service.takers(&self.members).len())
    }

    /// Takes a backend's refusal of a connection; returns whether another backend is asked instead.
    pub(crate) fn refused(&mut self, at: u32, acknowledged: u32) -> bool {
        let key = Packed::new(&self.flows.ends(at).key);
        let opening = self.openings.get_mut(&key);
        if opening.is_none_or(|opening| opening.next != acknowledged) || !self.retry(at, &key) {
            return false;
        }
        if let Some(opening) = self.openings.get_mut(&key) {
            let first = opening.first.clone();
            self.outputs.push_back(Output::Retried(first));
        }
        true
    }

    /// Notes that a backend has answered a connection.
    pub(crate) fn answered(&mut self, at: u32) {
        if !self.flows.flow(at).marks.has(Marks::ANSWERED) {
            let key = Packed::new(&self.flows.ends(at).key);
            self.openings.end(&key);
        }
    }

    /// Takes a client's first segment that comes again; returns whether the backend of before is given up, and with it the
    /// flow.
    pub(crate) fn is_given_up(&mut self, at: u32) -> bool {
        if self.openings.is_empty() {
            return false;
        }
        let key = Packed::new(&self.flows.ends(at).key);
        self.openings.is_silent(&key, self.now) && self.retry(at, &key)
    }

    /// Gives the backend of a flow up if there is another one that was not tried; the flow is gone then.
    fn retry(&mut self, at: u32, key: &Packed) -> bool {
        let mut flow = self.flows.flow(at);
        if flow.state != FlowState::Opening || flow.marks.has(Marks::ANSWERED) {
            return false;
        }
        let Some((vip, backend)) = self
            .member(flow.group)
            .map(|member| (member.vip, member.backend.id))
        else {
            return false;
        };
        let Some(opening) = self.openings.get_mut(key) else {
            return false;
        };
        let Some(service) = self.services.get_mut(&vip) else {
            return false;
        };
        opening.tried.push(backend);
        let takers = service.takers(&self.members);
        let is_other = |group: &&u32| is_other(&self.members, **group, &opening.tried);
        if opening.tried.len() >= TRIES_MAX || takers.iter().find(is_other).is_none() {
            opening.tried.pop();
            return false;
        }
        self.flows.remove(at);
        self.stats.retried += 1;
        flow.state = FlowState::Closed;
        self.ended(flow);
        true
    }

    /// Returns the virtual address that serves this one: itself, or the one for all ports.
    fn served(&self, vip: Vip) -> Option<Vip> {
        let candidates = [vip, vip.any_port()];
        candidates
            .into_iter()
            .find(|vip| self.services.contains_key(vip))
    }

    /// Finds whom the backend takes for its client, so that no two flows look the same to it; `None` if none was found.
    fn set_source(&self, key: &FlowKey, flow: &mut Flow) -> Option<()> {
        let backend = self.flows.address(flow.group, key);
        if key.client.ip() == backend.ip() {
            flow.marks.set(Marks::HAIRPIN);
        }
        let client = key.client.port();
        let first = self.flows.hash(&Packed::new(key));
        let others = (0..PORT_TRIES).map(|nth| {
            // Far apart, for clients use ports in a row.
            let spread = first.wrapping_add(nth.wrapping_mul(0x9e37_79b1));
            let port = spread % (65_536 - PORT_MIN) + PORT_MIN;
            u16::try_from(port).unwrap_or(client)
        });
        let port = std::iter::once(client).chain(others).find(|port| {
            let flow = Flow {
                port: *port,
                ..*flow
            };
            let source = flow.source(key);
            let back = Packed::of(key.vip.proto, backend, source);
            // The backend's packets to a virtual address must not look like those of a client.
            let forth = Packed::of(key.vip.proto, source, backend);
            let clash = flow.marks.has(Marks::HAIRPIN) && self.flows.find(&forth).is_some();
            !clash && self.flows.find_back(&back).is_none()
        });
        flow.port = port?;
        Some(())
    }

    /// Follows a flow by one packet. TCP as far as a balancer needs it: which sides have finished.
    #[inline(always)]
    fn advance(&mut self, at: u32, side: Side, flags: Option<TcpFlags>) {
        let mut flow = self.flows.flow(at);
        if flow.state == FlowState::Closed {
            // Late segments do not keep the entry.
            return;
        }
        let before = flow.state;
        if let Side::Backend = side {
            flow.marks.set(Marks::ANSWERED);
        }
        let answered = flow.marks.has(Marks::ANSWERED) || !self.config.replies_seen;
        if let (FlowState::Opening, Side::Client, false) =
            (flow.state, side, flags.is_some_and(TcpFlags::opens))
            && (answered || flags.is_none())
        {
            flow.state = FlowState::Established;
        }
        if let Some(flags) = flags {
            if flags.contains(TcpFlags::FIN) {
                flow.marks.set(match side {
                    Side::Client => Marks::CLIENT_FINISHED,
                    Side::Backend => Marks::BACKEND_FINISHED,
                });
            }
            let finished = [Marks::CLIENT_FINISHED, Marks::BACKEND_FINISHED];
            let finished = finished.map(|mark| flow.marks.has(mark));
            if flags.contains(TcpFlags::RST) || finished == [true; 2] {
                flow.state = FlowState::Closed;
            } else if finished != [false; 2] {
                flow.state = FlowState::HalfClosed;
            }
        }
        self.flows.touch(at, flow, self.now);
        if flow.state != before {
            self.ended(flow);
        }
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
        let (ends, mut flow, sequence) = self.flows.remove(at);
        self.reset(ends, flow, sequence);
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
    fn reset(&mut self, ends: Ends, flow: Flow, sequence: Option<Sequence>) {
        let Some(member) = self.member(flow.group).filter(|_| flow.state.needs_reset()) else {
            return;
        };
        if self.resets >= self.config.resets_max {
            self.stats.resets_lost += 1;
            return;
        }
        let reset = Reset {
            flow: ends.key,
            backend: member.backend.id,
            address: ends.backend,
            source: ends.source,
            mac: member.backend.mac,
            sequence,
        };
        self.resets += 1;
        self.outputs.push_back(Output::Reset(reset));
    }

    fn to(&self, at: u32) -> Choice {
        let ends = self.flows.ends(at);
        match self.member(self.flows.flow(at).group) {
            Some(member) => Choice::Backend {
                id: member.backend.id,
                address: ends.backend,
                source: ends.source,
            },
            None => Choice::Reject(Reject::NoBackend),
        }
    }
}

/// How many ports are tried for a flow whose own is taken.
const PORT_TRIES: u32 = 64;
/// The first port that is tried: those below are for servers.
const PORT_MIN: u32 = 1_024;
