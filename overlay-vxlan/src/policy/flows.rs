//! The flows that are known: found by their ends, and in the order in which their times end.

use std::{collections::HashMap, time::Duration};

use overlay_core::{Instant, Seed};

use super::{
    config::Timeouts,
    flow::{Flow, Key, Stage},
};
use crate::{hash::HashKey, slab::Slab};

/// A bounded table. For each stage there is a list: all flows in it have the same time to live, so that the one which was
/// touched first ends first.
#[derive(Debug)]
pub(super) struct Flows {
    numbers: HashMap<Key, u32, HashKey>,
    entries: Slab<Entry>,
    lists: [List; Stage::ALL.len()],
    max: usize,
    timeouts: Timeouts,
    evicted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    flow: Flow,
    /// In which list it is.
    stage: Stage,
    before: u32,
    behind: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// No entry.
const NONE: u32 = u32::MAX;

impl Flows {
    pub(super) fn new(seed: &Seed, max: u32, timeouts: Timeouts) -> Self {
        let empty = List {
            first: NONE,
            last: NONE,
        };
        Self {
            numbers: HashMap::with_hasher(HashKey::new(seed)),
            entries: Slab::new(),
            lists: [empty; Stage::ALL.len()],
            max: usize::try_from(max).unwrap_or(usize::MAX),
            timeouts,
            evicted: 0,
        }
    }

    /// Returns the number of a flow whose time is not over.
    #[inline]
    pub(super) fn find(&self, now: Instant, key: &Key) -> Option<u32> {
        let at = *self.numbers.get(key)?;
        let entry = self.entries.get(at)?;
        (now < self.end(entry)).then_some(at)
    }

    pub(super) fn get(&self, at: u32) -> Option<&Flow> {
        self.entries.get(at).map(|entry| &entry.flow)
    }

    /// Changes a flow that a packet has come for.
    #[inline]
    pub(super) fn touch(&mut self, now: Instant, at: u32, change: impl FnOnce(&mut Flow)) {
        let Some(entry) = self.entries.get_mut(at) else {
            return;
        };
        change(&mut entry.flow);
        let stage = entry.flow.stage(entry.key.protocol());
        let passed = now.duration_since(entry.flow.touched);
        if stage != entry.stage || passed >= Timeouts::GRANULARITY {
            entry.flow.touched = now;
            self.unlink(at);
            self.link(at, stage);
        }
    }

    /// Adds a flow, in the place of one with the same ends. Returns whether there was room.
    pub(super) fn insert(&mut self, now: Instant, key: Key, flow: Flow) -> bool {
        if let Some(known) = self.numbers.get(&key) {
            self.remove(*known);
        }
        if self.len() >= self.max {
            self.expire(now);
        }
        if self.len() >= self.max && !self.evict() {
            return false;
        }
        let stage = flow.stage(key.protocol());
        let at = self.entries.insert(Entry {
            key,
            flow,
            stage,
            before: NONE,
            behind: NONE,
        });
        self.numbers.insert(key, at);
        self.link(at, stage);
        true
    }

    /// Judges all flows anew: who opened it and what it was. `judge` returns whether it may go on, and by which rule.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        mut judge: impl FnMut(&Key, bool) -> Option<u32>,
    ) -> u64 {
        self.expire(now);
        let mut ended = 0;
        for at in 0..self.entries.numbers() {
            let Some(entry) = self.entries.get_mut(at) else {
                continue;
            };
            let (was_ended, opened_by_lower) = (entry.flow.is_ended(), entry.flow.opened_by_lower);
            let allowed = judge(&entry.key, opened_by_lower);
            entry.flow.rule = allowed.unwrap_or(entry.flow.rule);
            entry.flow.set_ended(allowed.is_none());
            if was_ended == allowed.is_some() {
                ended += u64::from(allowed.is_none());
                entry.flow.touched = now;
                let stage = entry.flow.stage(entry.key.protocol());
                self.unlink(at);
                self.link(at, stage);
            }
        }
        ended
    }

    /// Forgets all flows.
    pub(super) fn clear(&mut self) {
        self.numbers = HashMap::with_hasher(self.numbers.hasher().clone());
        self.entries = Slab::new();
        let empty = List {
            first: NONE,
            last: NONE,
        };
        self.lists = [empty; Stage::ALL.len()];
    }

    /// Forgets the flows whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        for stage in Stage::ALL {
            while let Some(at) = self.first(stage)
                && self.entries.get(at).is_some_and(|it| self.end(it) <= now)
            {
                self.remove(at);
            }
        }
    }

    /// Returns when the time of some flow is over, if there is one.
    pub(super) fn first_end(&self) -> Option<Instant> {
        let firsts = Stage::ALL.into_iter().filter_map(|stage| {
            let entry = self.entries.get(self.first(stage)?)?;
            Some(self.end(entry))
        });
        firsts.min()
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Makes room for one: the oldest that is ended goes, or else the oldest that nobody has answered.
    fn evict(&mut self) -> bool {
        let ended = self.first(Stage::Ended);
        let Some(at) = ended.or_else(|| self.first(Stage::Unanswered)) else {
            return false;
        };
        self.evicted += u64::from(ended.is_none());
        self.remove(at);
        true
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        if let Some(entry) = self.entries.remove(at) {
            self.numbers.remove(&entry.key);
        }
    }

    fn end(&self, entry: &Entry) -> Instant {
        entry.flow.touched + self.lifetime(entry.stage)
    }

    const fn lifetime(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Ended => self.timeouts.ended,
            Stage::Unanswered => self.timeouts.unanswered,
            Stage::Closing => self.timeouts.closing,
            Stage::Tcp => self.timeouts.tcp,
            Stage::Udp => self.timeouts.udp,
            Stage::Icmp => self.timeouts.icmp,
            Stage::Other => self.timeouts.other,
        }
    }

    fn first(&self, stage: Stage) -> Option<u32> {
        let first = self.lists[stage as usize].first;
        (first != NONE).then_some(first)
    }

    /// Puts an entry behind the others of its stage.
    fn link(&mut self, at: u32, stage: Stage) {
        let list = &mut self.lists[stage as usize];
        let before = std::mem::replace(&mut list.last, at);
        if before == NONE {
            list.first = at;
        } else if let Some(entry) = self.entries.get_mut(before) {
            entry.behind = at;
        }
        if let Some(entry) = self.entries.get_mut(at) {
            (entry.stage, entry.before, entry.behind) = (stage, before, NONE);
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(entry) = self.entries.get(at) else {
            return;
        };
        let (stage, before, behind) = (entry.stage, entry.before, entry.behind);
        let list = &mut self.lists[stage as usize];
        if before == NONE {
            list.first = behind;
        }
        if behind == NONE {
            list.last = before;
        }
        if let Some(entry) = self.entries.get_mut(before) {
            entry.behind = behind;
        }
        if let Some(entry) = self.entries.get_mut(behind) {
            entry.before = before;
        }
    }
}
