//! The table of flows: bounded, by least recent use within each state, and by backend.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use overlay_core::{Instant, Seed};

use crate::{
    FlowKey, Protocol, Timeouts, Vip,
    hash::{Key, halves},
    index::{Index, NONE},
};

/// The flows that are tracked.
#[derive(Debug)]
pub(crate) struct Flows {
    slots: Vec<Slot>,
    /// The first of the free slots, linked by `recent.next`.
    free: u32,
    index: Index,
    key: Key,
    /// Least recently used first, one for each state: since all flows of one state wait equally long, each list is in
    /// the order of its deadlines, too.
    recent: [List; STATES],
    /// The flows of each group.
    groups: Vec<Group>,
}

/// What the table knows about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Number of the backend in the balancer's list.
    pub(crate) group: u32,
    pub(crate) state: FlowState,
    /// TCP: which side has said that it has no more data.
    pub(crate) finished: Sides,
}

/// In which order flows have to make room: the first go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlowState {
    Closed,
    Opening,
    Datagram,
    HalfClosed,
    Established,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sides {
    pub(crate) client: bool,
    pub(crate) backend: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Packed,
    flow: Flow,
    last: Instant,
    recent: Link,
    sibling: Link,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    list: List,
    /// Flows that have not ended.
    live: u32,
}

impl Flows {
    pub(crate) fn new(seed: &Seed) -> Self {
        let mut rng = seed.rng();
        Self {
            slots: Vec::new(),
            free: NONE,
            index: Index::default(),
            key: Key::new(rng.next_u64(), rng.next_u64()),
            recent: [List::EMPTY; STATES],
            groups: Vec::new(),
        }
    }

    /// Finds a flow.
    pub(crate) fn find(&self, key: &FlowKey) -> Option<u32> {
        let key = Packed::new(key);
        self.index
            .find(self.hash(&key), |slot| self.slot(slot).key == key)
    }

    /// Adds a flow that is not in.
    pub(crate) fn insert(&mut self, key: &FlowKey, flow: Flow, now: Instant) -> u32 {
        let key = Packed::new(key);
        let slot = Slot {
            key,
            flow,
            last: now,
            recent: Link::NONE,
            sibling: Link::NONE,
        };
        let at = if self.free == NONE {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("the configuration bounds the flows")
        } else {
            let at = self.free;
            self.free = self.slot(at).recent.next;
            *self.slot_mut(at) = slot;
            at
        };
        self.index.insert(self.hash(&key), at);
        self.link_recent(at);
        self.link_sibling(at);
        at
    }

    /// Removes a flow; returns what it was.
    pub(crate) fn remove(&mut self, at: u32) -> (FlowKey, Flow) {
        self.unlink_recent(at);
        self.unlink_sibling(at);
        let Slot { key, flow, .. } = *self.slot(at);
        self.index.remove(self.hash(&key), at);
        self.slot_mut(at).recent.next = self.free;
        self.free = at;
        (key.unpack(), flow)
    }

    /// Notes a packet of a flow, and what the flow is now.
    pub(crate) fn touch(&mut self, at: u32, flow: Flow, now: Instant) {
        self.unlink_recent(at);
        let before = self.slot(at).flow;
        if before.group != flow.group || before.is_live() != flow.is_live() {
            self.unlink_sibling(at);
            self.slot_mut(at).flow = flow;
            self.link_sibling(at);
        }
        let slot = self.slot_mut(at);
        (slot.flow, slot.last) = (flow, now);
        self.link_recent(at);
    }

    /// Makes group `group` known; it has no flows.
    pub(crate) fn add_group(&mut self, group: u32) {
        let empty = Group {
            list: List::EMPTY,
            live: 0,
        };
        match self.groups.get_mut(group as usize) {
            Some(place) => *place = empty,
            None => self.groups.push(empty),
        }
    }

    pub(crate) fn flow(&self, at: u32) -> Flow {
        self.slot(at).flow
    }

    /// Returns some flow of a group.
    pub(crate) fn first_of(&self, group: u32) -> Option<u32> {
        some(self.groups[group as usize].list.first)
    }

    /// Returns how many flows of a group have not ended.
    pub(crate) fn live(&self, group: u32) -> u32 {
        self.groups[group as usize].live
    }

    /// Returns the flow whose time is over first, and when that is.
    pub(crate) fn next_due(&self, timeouts: &Timeouts) -> Option<(Instant, u32)> {
        let states = (0..).zip(FlowState::ALL);
        let first = states.filter_map(|(order, state)| {
            let at = some(self.recent[state.place()].first)?;
            Some((self.slot(at).last + state.timeout(timeouts), order, at))
        });
        first
            .min()
            .map(|(deadline, _, at): (_, u8, _)| (deadline, at))
    }

    /// Returns the flow that has to make room for another.
    pub(crate) fn victim(&self) -> Option<u32> {
        self.recent.iter().find_map(|list| some(list.first))
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    fn hash(&self, key: &Packed) -> u32 {
        u32::try_from(self.key.hash(key.0) >> 32).expect("the upper half")
    }

    fn link_recent(&mut self, at: u32) {
        let list = self.slot(at).flow.state.place();
        let before = self.recent[list].last;
        self.slot_mut(at).recent = Link { before, next: NONE };
        match some(before) {
            Some(before) => self.slot_mut(before).recent.next = at,
            None => self.recent[list].first = at,
        }
        self.recent[list].last = at;
    }

    fn unlink_recent(&mut self, at: u32) {
        let list = self.slot(at).flow.state.place();
        let Link { before, next } = self.slot(at).recent;
        match some(before) {
            Some(before) => self.slot_mut(before).recent.next = next,
            None => self.recent[list].first = next,
        }
        match some(next) {
            Some(next) => self.slot_mut(next).recent.before = before,
            None => self.recent[list].last = before,
        }
    }

    fn link_sibling(&mut self, at: u32) {
        let flow = self.slot(at).flow;
        let group = &mut self.groups[flow.group as usize];
        group.live += u32::from(flow.is_live());
        let before = group.list.last;
        group.list.last = at;
        if before == NONE {
            group.list.first = at;
        } else {
            self.slot_mut(before).sibling.next = at;
        }
        self.slot_mut(at).sibling = Link { before, next: NONE };
    }

    fn unlink_sibling(&mut self, at: u32) {
        let Slot {
            flow,
            sibling: Link { before, next },
            ..
        } = *self.slot(at);
        let group = &mut self.groups[flow.group as usize];
        group.live -= u32::from(flow.is_live());
        if before == NONE {
            group.list.first = next;
        }
        if next == NONE {
            group.list.last = before;
        }
        if let Some(before) = some(before) {
            self.slot_mut(before).sibling.next = next;
        }
        if let Some(next) = some(next) {
            self.slot_mut(next).sibling.before = before;
        }
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }
}

impl Flow {
    /// A closed connection is kept only for late segments.
    pub(crate) fn is_live(self) -> bool {
        self.state != FlowState::Closed
    }
}

impl FlowState {
    const ALL: [Self; STATES] = [
        Self::Closed,
        Self::Opening,
        Self::Datagram,
        Self::HalfClosed,
        Self::Established,
    ];

    fn place(self) -> usize {
        self as usize
    }

    fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            Self::Closed => timeouts.closed,
            Self::Opening => timeouts.opening,
            Self::Datagram => timeouts.datagram,
            Self::HalfClosed => timeouts.half_closed,
            Self::Established => timeouts.established,
        }
    }

    /// Whether both ends have to be told when the flow is forgotten.
    pub(crate) fn needs_reset(self) -> bool {
        matches!(self, Self::HalfClosed | Self::Established)
    }
}

/// A flow's key in 40 octets: both addresses, then both ports and a bit each for UDP and the address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed([u64; 5]);

impl Packed {
    fn new(key: &FlowKey) -> Self {
        let (vip, vip_family) = number(key.vip.addr);
        let (client, client_family) = number(key.client.ip());
        let [a, b] = halves(vip);
        let [c, d] = halves(client);
        let proto = u64::from(key.vip.proto == Protocol::Udp);
        let ports = u64::from(key.vip.port) << 16 | u64::from(key.client.port());
        let bits = proto << 32 | vip_family << 33 | client_family << 34;
        Self([a, b, c, d, ports | bits])
    }

    fn unpack(self) -> FlowKey {
        let Self([a, b, c, d, rest]) = self;
        let port = |shift: u32| u16::try_from(rest >> shift & 0xffff).expect("16 bits");
        let proto = if rest >> 32 & 1 == 1 {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        let vip = Vip {
            addr: address(a, b, rest >> 33),
            proto,
            port: port(16),
        };
        FlowKey {
            vip,
            client: SocketAddr::new(address(c, d, rest >> 34), port(0)),
        }
    }
}

fn number(address: IpAddr) -> (u128, u64) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), 0),
        IpAddr::V6(address) => (address.into(), 1),
    }
}

fn address(high: u64, low: u64, family: u64) -> IpAddr {
    match u32::try_from(low) {
        Ok(number) if family & 1 == 0 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into(),
    }
}

impl List {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };
}

impl Link {
    const NONE: Self = Self {
        before: NONE,
        next: NONE,
    };
}

fn some(at: u32) -> Option<u32> {
    Some(at).filter(|at| *at != NONE)
}

const STATES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_families_come_back_and_differ() {
        let addresses = ["10.0.1.2", "::ffff:10.0.1.2", "::a00:102", "fd00::1", "::"];
        let addresses = addresses.map(|text| text.parse::<IpAddr>().expect("an address"));
        let mut seen = Vec::new();
        for addr in addresses {
            for client in addresses {
                for proto in [Protocol::Tcp, Protocol::Udp] {
                    let vip = Vip {
                        addr,
                        proto,
                        port: 0xfffe,
                    };
                    let key = FlowKey {
                        vip,
                        client: SocketAddr::new(client, 0x0102),
                    };
                    assert_eq!(Packed::new(&key).unpack(), key);
                    assert!(!seen.contains(&Packed::new(&key)));
                    seen.push(Packed::new(&key));
                }
            }
        }
    }

    #[test]
    fn the_room_of_ended_flows_is_used_again() {
        let mut flows = Flows::new(&Seed::from_u64(1));
        flows.add_group(0);
        let vip = Vip {
            addr: [10, 0, 1, 2].into(),
            proto: Protocol::Tcp,
            port: 80,
        };
        let flow = Flow {
            group: 0,
            state: FlowState::Opening,
            finished: Sides::default(),
        };
        let mut held = std::collections::VecDeque::new();
        for port in 0..10_000 {
            let key = FlowKey {
                vip,
                client: SocketAddr::new([10, 0, 1, 3].into(), port),
            };
            held.push_back(flows.insert(&key, flow, Instant::EPOCH));
            if held.len() > 3 {
                held.pop_front().map(|at| flows.remove(at));
            }
        }
        assert_eq!((flows.len(), flows.slots.len(), flows.live(0)), (3, 4, 3));
    }
}
