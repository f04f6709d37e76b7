//! The table of flows: bounded, by least recent use within each state, by backend, and by either end's view.

mod flow;
mod key;
mod slot;
mod table;

use std::net::SocketAddr;

use overlay_core::{Instant, Seed};

pub use self::flow::Sequence;
pub(crate) use self::{
    flow::{Flow, FlowState, Marks},
    key::{End, Packed, words_of},
};
use self::{slot::Slot, table::Table};

use crate::{
    FlowKey, Timeouts,
    hash::TableKey,
    index::{Index, NONE},
};

/// The flows that are tracked.
#[derive(Debug)]
pub(crate) struct Flows {
    /// By what the client sees.
    table: Table,
    /// By what the backend sees.
    back: Index,
    links: Vec<Links>,
    key: TableKey,
    timeouts: Timeouts,
    /// Nothing is due before.
    due: Instant,
    /// Least recently used first, one for each state: since all flows of one state wait equally long, each list is in
    /// the order of its deadlines, too.
    recent: [List; FlowState::COUNT],
    /// The flows of each group.
    groups: Vec<Group>,
}

/// The four ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) key: FlowKey,
    pub(crate) backend: SocketAddr,
    /// Whom the backend takes for its client.
    pub(crate) source: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    recent: Link,
    sibling: Link,
    /// When its place among the recent was last changed.
    noted: Instant,
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
    address: SocketAddr,
    end: End,
    list: List,
    /// Flows that have not ended.
    live: u32,
}

impl Flows {
    pub(crate) fn new(seed: &Seed, timeouts: Timeouts, len_max: u32) -> Self {
        let mut rng = seed.rng();
        Self {
            table: Table::new(len_max),
            back: Index::default(),
            links: Vec::new(),
            key: TableKey::new([(); 5].map(|()| rng.next_u64())),
            timeouts,
            due: Instant::MAX,
            recent: [List::EMPTY; FlowState::COUNT],
            groups: Vec::new(),
        }
    }

    /// Finds a flow by what its client sees.
    #[inline(always)]
    pub(crate) fn find(&self, key: &Packed) -> Option<u32> {
        self.table.find(self.hash(key), key)
    }

    /// Reads where the flows of these hashes would be, so that their lines come into the cache.
    pub(crate) fn glance(&self, hashes: &[u32]) {
        let words = hashes.iter().map(|hash| self.table.glance(*hash));
        std::hint::black_box(words.fold(0, |all, word| all ^ word));
    }

    /// Finds a flow by what its backend sees.
    pub(crate) fn find_back(&self, key: &Packed) -> Option<u32> {
        self.back
            .find(self.hash(key), |at| self.back_key(at) == *key)
    }

    /// Adds a flow that is in under neither of its keys.
    pub(crate) fn insert(&mut self, key: &FlowKey, flow: Flow, now: Instant) -> u32 {
        if let Some(moved) = self.table.make_room(|key| self.key.hash(key.0)) {
            self.renumber(&moved);
        }
        let key = Packed::new(key);
        let slot = Slot::new(&key, flow, now);
        let links = Links {
            noted: now,
            ..Links::NONE
        };
        let at = self.table.insert(self.hash(&key), slot, &key);
        if self.links.len() < self.table.capacity() {
            self.links.resize(self.table.capacity(), Links::NONE);
        }
        self.links[at as usize] = links;
        self.back.insert(self.hash(&self.back_key(at)), at);
        self.link_recent(at);
        self.link_sibling(at);
        at
    }

    /// Removes a flow; returns its ends, what it was, and where it was.
    pub(crate) fn remove(&mut self, at: u32) -> (Ends, Flow, Option<Sequence>) {
        self.unlink_recent(at);
        self.unlink_sibling(at);
        let slot = *self.slot(at);
        let ends = self.ends(at);
        self.back.remove(self.hash(&self.back_key(at)), at);
        self.table.remove(self.hash(&self.table.key(at)), at);
        let known = slot.flow.marks.has(Marks::SEQUENCED);
        (ends, slot.flow, known.then_some(slot.sequence))
    }

    /// Notes a packet of a flow, and what the flow is now; its group, port and kind stay.
    #[inline(always)]
    pub(crate) fn touch(&mut self, at: u32, flow: Flow, now: Instant) {
        let slot = self.table.get_mut(at);
        let before = slot.flow;
        slot.flow.marks = flow.marks;
        if before.state == flow.state && slot.is_recent(now) {
            return;
        }
        self.move_up(at, before, flow.state, now);
    }

    /// Notes a packet that may not be the first since a flow's place among the recent was changed, or that changes its state.
    fn move_up(&mut self, at: u32, before: Flow, state: FlowState, now: Instant) {
        let noted = self.links[at as usize].noted;
        if before.state == state && now < noted + Timeouts::GRANULARITY {
            return;
        }
        self.unlink_recent(at);
        let slot = self.table.get_mut(at);
        slot.flow.state = state;
        slot.note(now);
        let ended = before.is_live() && !slot.flow.is_live();
        self.groups[before.group as usize].live -= u32::from(ended);
        self.links[at as usize].noted = now;
        self.link_recent(at);
    }

    /// Notes where a client's connection is; it never moves back.
    #[inline(always)]
    pub(crate) fn advance(&mut self, at: u32, next: Sequence) {
        let slot = self.table.get_mut(at);
        let known = &mut slot.sequence;
        if !slot.flow.marks.has(Marks::SEQUENCED) {
            slot.flow.marks.set(Marks::SEQUENCED);
            *known = next;
        }
        if next.client.wrapping_sub(known.client) < 1 << 31 {
            known.client = next.client;
        }
        if next.backend.wrapping_sub(known.backend) < 1 << 31 {
            known.backend = next.backend;
        }
    }

    /// Makes group `group` known, or changes its address; it has no flows.
    pub(crate) fn set_group(&mut self, group: u32, address: SocketAddr) {
        let empty = Group {
            address,
            end: address.into(),
            list: List::EMPTY,
            live: 0,
        };
        match self.groups.get_mut(group as usize) {
            Some(place) => *place = empty,
            None => self.groups.push(empty),
        }
    }

    #[inline(always)]
    pub(crate) fn flow(&self, at: u32) -> Flow {
        self.slot(at).flow
    }

    /// Returns both ends of a client's packet as its backend gets it: source and destination.
    #[inline(always)]
    pub(crate) fn forth(&self, at: u32) -> (End, End) {
        let flow = self.flow(at);
        let (vip, client) = self.table.key(at).ends();
        let hairpin = flow.marks.has(Marks::HAIRPIN);
        let from = if hairpin { vip } else { client };
        let source = End {
            port: flow.port,
            ..from
        };
        let end = self.groups[flow.group as usize].end;
        let port = if end.port == 0 { vip.port } else { end.port };
        (source, End { port, ..end })
    }

    /// Returns both ends of a backend's packet as its client gets it: source and destination.
    #[inline]
    pub(crate) fn back(&self, at: u32) -> (End, End) {
        self.table.key(at).ends()
    }

    pub(crate) fn ends(&self, at: u32) -> Ends {
        let (key, flow) = (self.table.key(at).unpack(), self.flow(at));
        Ends {
            key,
            backend: self.address(flow.group, &key),
            source: flow.source(&key),
        }
    }

    /// Returns where the backend of a group listens for a flow.
    pub(crate) fn address(&self, group: u32, key: &FlowKey) -> SocketAddr {
        at_port(self.groups[group as usize].address, key)
    }

    /// Returns some flow of a group.
    pub(crate) fn first_of(&self, group: u32) -> Option<u32> {
        some(self.groups[group as usize].list.first)
    }

    /// Returns how many flows of a group have not ended.
    pub(crate) fn live(&self, group: u32) -> u32 {
        self.groups[group as usize].live
    }

    /// Whether no flow's time is over at `now`; quick, and now and then wrong.
    #[inline]
    pub(crate) fn is_early(&self, now: Instant) -> bool {
        now < self.due
    }

    /// Notes that nothing is due before the deadline of the first flow.
    pub(crate) fn note_due(&mut self) {
        self.due = self
            .next_due()
            .map_or(Instant::MAX, |(deadline, _)| deadline);
    }

    /// Returns the flow whose time is over first, and when that is.
    pub(crate) fn next_due(&self) -> Option<(Instant, u32)> {
        let states = (0..).zip(FlowState::ALL);
        let first = states.filter_map(|(order, state)| {
            let at = some(self.recent[state.place()].first)?;
            Some((self.deadline(at), order, at))
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
        self.table.len()
    }

    #[inline(always)]
    pub(crate) fn hash(&self, key: &Packed) -> u32 {
        self.key.hash(key.0)
    }

    fn deadline(&self, at: u32) -> Instant {
        let timeout = self.slot(at).flow.state.timeout(&self.timeouts);
        self.links[at as usize].noted + timeout + Timeouts::GRANULARITY
    }

    fn link_recent(&mut self, at: u32) {
        self.due = self.due.min(self.deadline(at));
        let list = self.slot(at).flow.state.place();
        let before = self.recent[list].last;
        self.links[at as usize].recent = Link { before, next: NONE };
        match some(before) {
            Some(before) => self.links[before as usize].recent.next = at,
            None => self.recent[list].first = at,
        }
        self.recent[list].last = at;
    }

    fn unlink_recent(&mut self, at: u32) {
        let list = self.slot(at).flow.state.place();
        let Link { before, next } = self.links[at as usize].recent;
        match some(before) {
            Some(before) => self.links[before as usize].recent.next = next,
            None => self.recent[list].first = next,
        }
        match some(next) {
            Some(next) => self.links[next as usize].recent.before = before,
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
            self.links[before as usize].sibling.next = at;
        }
        self.links[at as usize].sibling = Link { before, next: NONE };
    }

    fn unlink_sibling(&mut self, at: u32) {
        let flow = self.slot(at).flow;
        let Link { before, next } = self.links[at as usize].sibling;
        let group = &mut self.groups[flow.group as usize];
        group.live -= u32::from(flow.is_live());
        if before == NONE {
            group.list.first = next;
        }
        if next == NONE {
            group.list.last = before;
        }
        if let Some(before) = some(before) {
            self.links[before as usize].sibling.next = next;
        }
        if let Some(next) = some(next) {
            self.links[next as usize].sibling.before = before;
        }
    }

    /// Follows the slots, which the table has moved.
    fn renumber(&mut self, moved: &[u32]) {
        let to = |at: &mut u32| {
            if let Some(moved) = moved.get(*at as usize) {
                *at = *moved;
            }
        };
        let mut links = Vec::with_capacity(self.table.room());
        links.resize(self.table.capacity(), Links::NONE);
        let mut back = Index::default();
        for (before, after) in self.links.iter().zip(moved) {
            let Some(place) = links.get_mut(*after as usize) else {
                continue; // it was free
            };
            *place = *before;
            for link in [&mut place.recent, &mut place.sibling] {
                to(&mut link.before);
                to(&mut link.next);
            }
            back.insert(self.hash(&self.back_key(*after)), *after);
        }
        (self.links, self.back) = (links, back);
        let of_groups = self.groups.iter_mut().map(|group| &mut group.list);
        for list in self.recent.iter_mut().chain(of_groups) {
            to(&mut list.first);
            to(&mut list.last);
        }
    }

    /// The key by which the backend's packets find a flow.
    #[inline]
    fn back_key(&self, at: u32) -> Packed {
        let (source, backend) = self.forth(at);
        self.table.key(at).with_ends(backend, source)
    }

    #[inline(always)]
    fn slot(&self, at: u32) -> &Slot {
        self.table.get(at)
    }
}

impl List {
    const EMPTY: Self = Self {
        first: NONE,
        last: NONE,
    };
}

impl Links {
    const NONE: Self = Self {
        recent: Link::NONE,
        sibling: Link::NONE,
        noted: Instant::EPOCH,
    };
}

impl Link {
    const NONE: Self = Self {
        before: NONE,
        next: NONE,
    };
}

fn at_port(address: SocketAddr, key: &FlowKey) -> SocketAddr {
    match address.port() {
        0 => SocketAddr::new(address.ip(), key.vip.port),
        _ => address,
    }
}

fn some(at: u32) -> Option<u32> {
    Some(at).filter(|at| *at != NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Protocol, Vip};

    #[test]
    fn the_room_of_ended_flows_is_used_again() {
        let mut flows = Flows::new(&Seed::from_u64(1), Timeouts::default(), 100);
        flows.set_group(0, ([10, 0, 1, 9], 80).into());
        let vip = Vip {
            addr: [10, 0, 1, 2].into(),
            proto: Protocol::Tcp,
            port: 80,
        };
        let mut held = std::collections::VecDeque::new();
        for port in 0..10_000 {
            let key = FlowKey {
                vip,
                client: SocketAddr::new([10, 0, 1, 3].into(), port),
            };
            let flow = Flow {
                port,
                ..Flow::new(0, Protocol::Tcp)
            };
            held.push_back(flows.insert(&key, flow, Instant::EPOCH));
            if held.len() > 3 {
                held.pop_front().map(|at| flows.remove(at));
            }
        }
        assert_eq!(
            (flows.len(), flows.table.capacity(), flows.live(0)),
            (3, 32, 3)
        );
        assert_eq!(flows.back.len(), 3);
    }
}
