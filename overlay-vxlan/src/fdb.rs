//! The forwarding database: which MAC address of which network is where.
//!
//! One flat table with open addressing and one owner. A key is network index and MAC address in 64 bits, a slot 16
//! octets. Static rows come from the control plane and always win; learned rows come from frames, age, and have a quota
//! for each network, for which room is reserved beforehand: learning never allocates.

use std::time::Duration;

use overlay_core::{Instant, MacAddr, Seed};

use crate::hash::HashKey;

/// The least time between two sweeps over the learned rows, which are as long as there are rows.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Addresses whose rows [`Fdb::lookup_batch`] reads at once.
pub const BATCH: usize = 128;

/// A network, by its place in the switch's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkIndex(pub u16);

/// Where a frame goes next, by its place in the switch's tables; 30 bits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// A local port.
    Port(u32),
    /// A VTEP.
    Vtep(u32),
}

/// What became of an address that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was unknown.
    New,
    /// It was learned elsewhere before.
    Moved {
        /// Where it was.
        from: NextHop,
    },
    /// It was known there; its age starts anew.
    Refreshed,
    /// A static row says otherwise, or the network learns nothing.
    Refused,
    /// The network's quota is used up.
    Full,
}

/// The forwarding database.
#[derive(Clone, Debug)]
pub struct Fdb {
    hash: HashKey,
    slots: Vec<Slot>,
    static_rows: usize,
    learned: Vec<LearnedRow>,
    quotas: Vec<Quota>,
    /// Rows for which room is kept, over all quotas.
    reserved: usize,
    /// When to look for rows that aged; none has by then.
    sweep: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: Key,
    row: Row,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Static(NextHop),
    /// Index into the learned rows.
    Learned(u32),
}

#[derive(Clone, Copy, Debug)]
struct LearnedRow {
    key: Key,
    hop: NextHop,
    expires: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Quota {
    used: usize,
    max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(u64);

impl Key {
    /// No row has it: it would be the broadcast address.
    const EMPTY: Self = Self(u64::MAX);

    #[inline]
    const fn new(network: NetworkIndex, mac: MacAddr) -> Self {
        let [a, b, c, d, e, f] = mac.octets();
        let [x, y] = network.0.to_be_bytes();
        Self(u64::from_be_bytes([x, y, a, b, c, d, e, f]))
    }

    const fn network(self) -> NetworkIndex {
        let [x, y, ..] = self.0.to_be_bytes();
        NetworkIndex(u16::from_be_bytes([x, y]))
    }

    const fn mac(self) -> MacAddr {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        MacAddr::new([a, b, c, d, e, f])
    }
}

impl Fdb {
    const VACANT: Slot = Slot {
        key: Key::EMPTY,
        row: Row::Static(NextHop::Port(0)),
    };

    /// Makes an empty table.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        Self {
            hash: HashKey::new(&seed.derive("fdb")),
            slots: vec![Self::VACANT; 16],
            static_rows: 0,
            learned: Vec::new(),
            quotas: Vec::new(),
            reserved: 0,
            sweep: None,
        }
    }

    /// Sets how many rows a network may learn, and makes room for them. Rows beyond a smaller quota stay until they age.
    pub fn set_quota(&mut self, network: NetworkIndex, learned_rows_max: usize) {
        let at = usize::from(network.0);
        if self.quotas.len() <= at {
            self.quotas.resize(at + 1, Quota::default());
        }
        let quota = &mut self.quotas[at];
        let before = quota.max.max(quota.used);
        quota.max = learned_rows_max;
        self.reserved = self.reserved - before + quota.max.max(quota.used);
        let more = self.reserved.saturating_sub(self.learned.len());
        self.learned.reserve(more);
        self.make_room();
        self.check();
    }

    /// Writes a static row over whatever is there; group addresses have none.
    pub fn insert(&mut self, network: NetworkIndex, mac: MacAddr, hop: NextHop) {
        debug_assert!(!mac.is_multicast(), "a group address is nobody's");
        let key = Key::new(network, mac);
        if key == Key::EMPTY {
            return;
        }
        if let Some(at) = self.find(key) {
            if let Row::Learned(index) = self.slots[at].row {
                self.forget(index);
                self.static_rows += 1;
            }
            self.slots[at].row = Row::Static(hop);
            self.make_room();
            return;
        }
        self.static_rows += 1;
        self.make_room();
        self.place(Slot {
            key,
            row: Row::Static(hop),
        });
    }

    /// Removes a static row; learned ones stay.
    pub fn remove(&mut self, network: NetworkIndex, mac: MacAddr) -> Option<NextHop> {
        let at = self.find(Key::new(network, mac))?;
        let Row::Static(hop) = self.slots[at].row else {
            return None;
        };
        self.static_rows -= 1;
        self.vacate(at);
        Some(hop)
    }

    /// Notes that `mac` was seen at `hop`, until `expires`.
    ///
    /// Never overrides a static row, never allocates.
    pub fn learn(
        &mut self,
        now: Instant,
        network: NetworkIndex,
        mac: MacAddr,
        hop: NextHop,
        expires: Instant,
    ) -> Learned {
        let key = Key::new(network, mac);
        if mac.is_multicast() {
            return Learned::Refused;
        }
        if let Some(at) = self.find(key) {
            let Row::Learned(index) = self.slots[at].row else {
                return Learned::Refused;
            };
            let row = &mut self.learned[index as usize];
            let before = *row;
            (row.hop, row.expires) = (hop, expires);
            return match (before.hop == hop, now < before.expires) {
                (true, true) => Learned::Refreshed,
                (false, true) => Learned::Moved { from: before.hop },
                (_, false) => Learned::New,
            };
        }
        let quota = self.quotas.get_mut(usize::from(network.0));
        let Some(quota) = quota.filter(|quota| quota.max > 0) else {
            return Learned::Refused;
        };
        let index = u32::try_from(self.learned.len());
        let (Ok(index), true) = (index, quota.used < quota.max) else {
            return Learned::Full;
        };
        quota.used += 1;
        self.learned.push(LearnedRow { key, hop, expires });
        self.sweep = Some(self.sweep.map_or(expires, |sweep| sweep.min(expires)));
        self.place(Slot {
            key,
            row: Row::Learned(index),
        });
        Learned::New
    }

    /// Removes what aged by `now` and calls `aged` for each row.
    pub fn age(&mut self, now: Instant, mut aged: impl FnMut(NetworkIndex, MacAddr, NextHop)) {
        if self.sweep.is_none_or(|sweep| now < sweep) {
            return;
        }
        self.forget_where(
            |row| row.expires <= now,
            |row| aged(row.key.network(), row.key.mac(), row.hop),
        );
        let next = self.learned.iter().map(|row| row.expires).min();
        self.sweep = next.map(|next| next.max(now + SWEEP_INTERVAL));
    }

    /// Returns when to call [`age`](Self::age). A row that aged is not found any more, be it removed yet or not.
    #[must_use]
    pub const fn next_ageing(&self) -> Option<Instant> {
        self.sweep
    }

    /// Removes the rows that `network` learned at `hop`, or all that it learned.
    pub fn unlearn(&mut self, network: NetworkIndex, hop: Option<NextHop>) {
        self.forget_where(
            |row| row.key.network() == network && hop.is_none_or(|hop| hop == row.hop),
            |_| {},
        );
    }

    /// Returns where `mac` is.
    #[must_use]
    pub fn lookup(&self, now: Instant, network: NetworkIndex, mac: MacAddr) -> Option<NextHop> {
        let key = Key::new(network, mac);
        let home = self.home(key);
        self.resolve(now, self.slots[home], home, key)
    }

    /// Looks up several addresses and calls `found` for each, in order.
    ///
    /// The reads of [`BATCH`] addresses overlap, so that a table that outgrew the processor's caches answers many times
    /// faster than one look-up after the other.
    pub fn lookup_batch(
        &self,
        now: Instant,
        keys: &[(NetworkIndex, MacAddr)],
        mut found: impl FnMut(Option<NextHop>),
    ) {
        let mut wanted = [Key::EMPTY; BATCH];
        let mut homes = [0; BATCH];
        let mut there = [Key::EMPTY; BATCH];
        for keys in keys.chunks(BATCH) {
            // First where, then what: a processor overlaps reads only of instructions that are near each other.
            for ((key, home), (network, mac)) in wanted.iter_mut().zip(&mut homes).zip(keys) {
                *key = Key::new(*network, *mac);
                *home = self.home(*key);
            }
            for (key, home) in there.iter_mut().zip(&homes).take(keys.len()) {
                *key = self.slots[*home].key;
            }
            for ((key, home), there) in wanted.iter().zip(&homes).zip(&there).take(keys.len()) {
                found(if key == there && *key != Key::EMPTY {
                    self.read(now, self.slots[*home].row)
                } else {
                    self.resolve(now, self.slots[*home], *home, *key)
                });
            }
        }
    }

    /// Returns whether `mac` has a static row.
    #[must_use]
    pub fn is_static(&self, network: NetworkIndex, mac: MacAddr) -> bool {
        let at = self.find(Key::new(network, mac));
        at.is_some_and(|at| matches!(self.slots[at].row, Row::Static(_)))
    }

    /// Returns how many rows there are, learned ones included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.static_rows + self.learned.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[inline]
    fn home(&self, key: Key) -> usize {
        let mask = self.slots.len() as u64 - 1;
        usize::try_from(self.hash.word(key.0) & mask).expect("the mask is below the length")
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    /// Returns where `key` is, whose home has been read.
    #[inline]
    fn resolve(&self, now: Instant, slot: Slot, home: usize, key: Key) -> Option<NextHop> {
        if key == Key::EMPTY || slot.key == Key::EMPTY {
            return None;
        }
        let row = if slot.key == key {
            slot.row
        } else {
            self.slots[self.find_from(self.next(home), key)?].row
        };
        self.read(now, row)
    }

    #[inline]
    fn read(&self, now: Instant, row: Row) -> Option<NextHop> {
        match row {
            Row::Static(hop) => Some(hop),
            Row::Learned(index) => {
                let row = &self.learned[index as usize];
                (now < row.expires).then_some(row.hop)
            }
        }
    }

    fn find(&self, key: Key) -> Option<usize> {
        if key == Key::EMPTY {
            return None;
        }
        self.find_from(self.home(key), key)
    }

    fn find_from(&self, mut at: usize, key: Key) -> Option<usize> {
        // Ends: an eighth of the slots is vacant.
        loop {
            let found = self.slots[at].key;
            if found == key {
                return Some(at);
            }
            if found == Key::EMPTY {
                return None;
            }
            at = self.next(at);
        }
    }

    /// Puts a slot whose key is not there into the first vacancy.
    fn place(&mut self, slot: Slot) {
        let mut at = self.home(slot.key);
        while self.slots[at].key != Key::EMPTY {
            at = self.next(at);
        }
        self.slots[at] = slot;
    }

    /// Empties a slot and moves up those behind it that would no longer be found.
    fn vacate(&mut self, at: usize) {
        let mask = self.slots.len() - 1;
        let (mut hole, mut at) = (at, self.next(at));
        while self.slots[at].key != Key::EMPTY {
            let home = self.home(self.slots[at].key);
            // Distance from home to the slot against that from the hole: may it move up without passing its home?
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.slots[hole] = Self::VACANT;
    }

    /// Removes a learned row; its slot is the caller's affair.
    fn forget(&mut self, index: u32) {
        let row = self.learned.swap_remove(index as usize);
        let quota = &mut self.quotas[usize::from(row.key.network().0)];
        quota.used -= 1;
        if quota.used >= quota.max {
            self.reserved -= 1;
        }
        if let Some(moved) = self.learned.get(index as usize) {
            let at = self.find(moved.key).expect("each learned row has a slot");
            self.slots[at].row = Row::Learned(index);
        }
    }

    fn forget_where(
        &mut self,
        mut which: impl FnMut(&LearnedRow) -> bool,
        mut forgotten: impl FnMut(&LearnedRow),
    ) {
        let mut at = 0;
        while let Some(row) = self.learned.get(at).copied() {
            if !which(&row) {
                at += 1;
                continue;
            }
            let slot = self.find(row.key).expect("each learned row has a slot");
            self.vacate(slot);
            self.forget(u32::try_from(at).expect("quotas are bounded by 2^30"));
            forgotten(&row);
        }
        if self.learned.is_empty() {
            self.sweep = None;
        }
        self.check();
    }

    /// Checks, in debug builds, that room is kept for every quota and for no more.
    fn check(&self) {
        let room = |quota: &Quota| quota.max.max(quota.used);
        debug_assert_eq!(self.reserved, self.quotas.iter().map(room).sum::<usize>());
        debug_assert!(self.static_rows + self.reserved <= self.slots.len() / 8 * 7);
    }

    /// Grows until all rows, and all that may yet be learned, fill at most seven eighths.
    fn make_room(&mut self) {
        let rows = self.static_rows + self.reserved;
        let mut length = self.slots.len();
        while rows > length / 8 * 7 {
            length *= 2;
        }
        if length == self.slots.len() {
            return;
        }
        let old = std::mem::replace(&mut self.slots, vec![Self::VACANT; length]);
        for slot in old {
            if slot.key != Key::EMPTY {
                self.place(slot);
            }
        }
    }
}
