//! The naive model: lists that are searched from end to end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use overlay_core::Instant;
use overlay_lb::{
    Backend, BackendId, BackendState, Choice, Distance, Event, FlowKey, Locality, Output, Policy,
    Protocol, Reset, TcpFlags, Timeouts, Vip, VipConfig,
};

use crate::{limits, opens};

/// In the order in which they make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Closed,
    Opening,
    Datagram,
    HalfClosed,
    Established,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracked {
    pub(crate) key: FlowKey,
    /// The virtual address that serves it.
    pub(crate) service: Vip,
    pub(crate) backend: BackendId,
    pub(crate) source: SocketAddr,
    pub(crate) state: State,
    pub(crate) fins: (bool, bool),
    pub(crate) answered: bool,
    pub(crate) noted: Instant,
    /// Counts up with each packet that refreshes a flow.
    pub(crate) touched: u64,
}

/// What Maglev's choice may depend on.
type Hashed = (Vec<(BackendId, u16)>, IpAddr, Option<u16>);

#[derive(Default)]
pub(crate) struct Model {
    pub(crate) now: Instant,
    pub(crate) vips: BTreeMap<Vip, VipConfig>,
    /// With the credit of weighted round robin.
    pub(crate) backends: BTreeMap<(Vip, BackendId), (Backend, i64)>,
    pub(crate) flows: Vec<Tracked>,
    pub(crate) affinities: BTreeMap<(Vip, IpAddr), (BackendId, Instant)>,
    pub(crate) maglev: BTreeMap<Hashed, BackendId>,
    pub(crate) touches: u64,
    pub(crate) outputs: Vec<Output>,
}

impl Model {
    pub(crate) fn due(flow: &Tracked) -> Instant {
        let timeouts = limits().timeouts;
        let timeout = match flow.state {
            State::Closed => timeouts.closed,
            State::Opening => timeouts.opening,
            State::Datagram => timeouts.datagram,
            State::HalfClosed => timeouts.half_closed,
            State::Established => timeouts.established,
        };
        flow.noted + timeout + Timeouts::GRANULARITY
    }

    pub(crate) fn served(&self, vip: Vip) -> Option<Vip> {
        let any = Vip { port: 0, ..vip };
        [vip, any]
            .into_iter()
            .find(|vip| self.vips.contains_key(vip))
    }

    /// Where the backend of a flow listens.
    pub(crate) fn address(&self, service: Vip, id: BackendId, key: &FlowKey) -> SocketAddr {
        let address = self.backends[&(service, id)].0.address;
        let port = if address.port() == 0 {
            key.vip.port
        } else {
            address.port()
        };
        SocketAddr::new(address.ip(), port)
    }

    pub(crate) fn choice(&self, flow: &Tracked) -> Choice {
        Choice::Backend {
            id: flow.backend,
            address: self.address(flow.service, flow.backend, &flow.key),
            source: flow.source,
        }
    }

    /// Whether a backend would see another flow from this source, or its packets would look like those of a flow.
    pub(crate) fn is_taken(
        &self,
        proto: Protocol,
        backend: SocketAddr,
        source: SocketAddr,
        hairpin: bool,
    ) -> bool {
        self.flows.iter().any(|flow| {
            let theirs = self.address(flow.service, flow.backend, &flow.key);
            let same = (theirs, flow.source) == (backend, source);
            let vip = SocketAddr::new(flow.key.vip.addr, flow.key.vip.port);
            let reverse = hairpin && (vip, flow.key.client) == (source, backend);
            flow.key.vip.proto == proto && (same || reverse)
        })
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.flows.iter().map(Self::due).min()
    }

    pub(crate) fn pass(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let now = self.now;
        let due = |flow: &&Tracked| Self::due(flow) <= now;
        let first = |flow: &&Tracked| (Self::due(flow), flow.state, flow.touched);
        while let Some(flow) = self.flows.iter().filter(due).min_by_key(first).copied() {
            self.forget(flow);
        }
    }

    pub(crate) fn live(&self, vip: Vip, id: BackendId) -> usize {
        let of = |flow: &&Tracked| {
            flow.service == vip && flow.backend == id && flow.state != State::Closed
        };
        self.flows.iter().filter(of).count()
    }

    pub(crate) fn forget(&mut self, flow: Tracked) {
        self.flows.retain(|other| other.key != flow.key);
        self.reset(flow);
        if flow.state != State::Closed {
            self.ended(flow);
        }
    }

    pub(crate) fn reset(&mut self, flow: Tracked) {
        if matches!(flow.state, State::HalfClosed | State::Established) {
            self.outputs.push(Output::Reset(Reset {
                flow: flow.key,
                backend: flow.backend,
                address: self.address(flow.service, flow.backend, &flow.key),
                source: flow.source,
                mac: None,
                sequence: None,
            }));
        }
    }

    pub(crate) fn ended(&mut self, flow: Tracked) {
        let (vip, backend) = (flow.service, flow.backend);
        let draining = self.backends[&(vip, backend)].0.state == BackendState::Draining;
        if draining && self.live(vip, backend) == 0 {
            self.outputs
                .push(Output::Event(Event::Drained { vip, backend }));
        }
    }

    pub(crate) fn cut(&mut self, vip: Vip, id: BackendId) {
        let (gone, kept) = self
            .flows
            .iter()
            .partition(|flow| flow.service == vip && flow.backend == id);
        self.flows = kept;
        let gone: Vec<Tracked> = gone;
        gone.into_iter().for_each(|flow| self.reset(flow));
    }

    pub(crate) fn set_backend(&mut self, vip: Vip, backend: Backend) {
        let before = self.backends.get(&(vip, backend.id)).copied();
        let had = self.live(vip, backend.id) > 0;
        let lost = |old: Backend| {
            old.address != backend.address || backend.state == BackendState::Down && old != backend
        };
        if before.is_some_and(|(old, _)| lost(old)) {
            self.cut(vip, backend.id);
        }
        let credit = before.map_or(0, |(_, credit)| credit);
        self.backends.insert((vip, backend.id), (backend, credit));
        let emptied = had && self.live(vip, backend.id) == 0;
        let anew = before.is_none_or(|(old, _)| old.state != backend.state) || emptied;
        if anew && backend.state == BackendState::Draining && self.live(vip, backend.id) == 0 {
            let backend = backend.id;
            self.outputs
                .push(Output::Event(Event::Drained { vip, backend }));
        }
    }

    pub(crate) fn takers(&self, vip: Vip) -> Vec<(BackendId, u16)> {
        let of = self.backends.iter().filter(|((other, _), _)| *other == vip);
        let takes = |backend: &Backend| backend.state == BackendState::Active && backend.weight > 0;
        let takers: Vec<_> = of.filter(|(_, (backend, _))| takes(backend)).collect();
        let near = |most: Distance| {
            let is_near =
                move |taker: &&(&(Vip, BackendId), &(Backend, i64))| taker.1.0.distance <= most;
            takers.iter().filter(is_near).copied().collect::<Vec<_>>()
        };
        let ranks: &[Distance] = match self.vips[&vip].locality {
            Locality::Any => &[Distance::Far],
            Locality::Zone => &[Distance::Zone, Distance::Far],
            Locality::Node => &[Distance::Node, Distance::Zone, Distance::Far],
            Locality::NodeOnly => &[Distance::Node],
        };
        let nearest = ranks
            .iter()
            .map(|most| near(*most))
            .find(|near| !near.is_empty());
        nearest
            .unwrap_or_default()
            .into_iter()
            .map(|((_, id), (backend, _))| (*id, backend.weight))
            .collect()
    }

    /// `seen` is what the balancer chose, which Maglev alone can know the first time.
    pub(crate) fn choose(
        &mut self,
        service: Vip,
        key: &FlowKey,
        seen: Choice,
    ) -> Option<BackendId> {
        let (config, takers) = (self.vips[&service], self.takers(service));
        let remembered = config.affinity.and_then(|timeout| {
            let (id, last) = *self.affinities.get(&(service, key.client.ip()))?;
            let fresh = self.now < last + timeout && takers.iter().any(|taker| taker.0 == id);
            fresh.then_some(id)
        });
        if remembered.is_some() || takers.is_empty() {
            return remembered;
        }
        match config.policy {
            Policy::Maglev => {
                let Choice::Backend { id, .. } = seen else {
                    return None;
                };
                let port = config.affinity.is_none().then_some(key.client.port());
                let known = (takers.clone(), key.client.ip(), port);
                // The same client and the same backends: the same choice, at every virtual address.
                let first = *self.maglev.entry(known).or_insert(id);
                assert!(takers.iter().any(|taker| taker.0 == first));
                Some(first)
            }
            Policy::WeightedRoundRobin => {
                let total: i64 = takers.iter().map(|taker| i64::from(taker.1)).sum();
                let mut best = None;
                for (id, weight) in &takers {
                    let (_, credit) = self.backends.get_mut(&(service, *id))?;
                    *credit += i64::from(*weight);
                    if best.is_none_or(|(_, most)| *credit > most) {
                        best = Some((*id, *credit));
                    }
                }
                let (id, _) = best?;
                self.backends.get_mut(&(service, id))?.1 -= total;
                Some(id)
            }
            Policy::LeastConnections => {
                // Weights are at most 3: the quotient times 6 is whole.
                let load = |(id, weight): &&(BackendId, u16)| {
                    (self.live(service, *id) + 1) * 6 / usize::from(*weight)
                };
                takers.iter().min_by_key(load).map(|taker| taker.0)
            }
        }
    }

    pub(crate) fn track(&mut self, at: usize, client: bool, flags: Option<TcpFlags>) {
        let mut flow = self.flows[at];
        if flow.state == State::Closed {
            return;
        }
        let before = flow.state;
        flow.answered |= !client;
        let believed = flow.answered || flags.is_none() || !limits().replies_seen;
        if flow.state == State::Opening && client && !flags.is_some_and(opens) && believed {
            flow.state = State::Established;
        }
        if let Some(flags) = flags {
            let fin = flags.contains(TcpFlags::FIN);
            let (one, other) = flow.fins;
            flow.fins = (one || client && fin, other || !client && fin);
            flow.state = match flow.fins {
                _ if flags.contains(TcpFlags::RST) => State::Closed,
                (true, true) => State::Closed,
                (false, false) => flow.state,
                _ => State::HalfClosed,
            };
        }
        if flow.state != before || self.now >= flow.noted + Timeouts::GRANULARITY {
            self.touches += 1;
            (flow.noted, flow.touched) = (self.now, self.touches);
        }
        self.flows[at] = flow;
        if flow.state == State::Closed {
            self.ended(flow);
        }
    }

    pub(crate) fn find(&self, key: &FlowKey) -> Option<usize> {
        self.flows.iter().position(|flow| flow.key == *key)
    }
}
