//! The log in memory: everything since the last snapshot, and a little before it.

use std::collections::VecDeque;

use crate::{Entry, Index, Membership, Payload, Snapshot, Term};

/// Entries after a base, the newest snapshot, and the memberships in force along the way.
///
/// The base is at or before the snapshot: entries between the two are kept for followers that are a little behind.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    base: Index,
    base_term: Term,
    entries: VecDeque<Entry>,
    snapshot: Snapshot,
    /// Where each membership came into force; the first is the snapshot's.
    memberships: Vec<(Index, Membership)>,
    bytes: u64,
}

impl Log {
    /// Makes a log of a snapshot and the entries that follow it without a gap.
    pub(crate) fn new(snapshot: Snapshot, entries: Vec<Entry>) -> Self {
        let mut log = Self {
            base: snapshot.index,
            base_term: snapshot.term,
            entries: VecDeque::new(),
            memberships: vec![(snapshot.index, snapshot.membership.clone())],
            snapshot,
            bytes: 0,
        };
        for entry in entries {
            log.append(entry);
        }
        log
    }

    /// Appends an entry; its index must be the next.
    pub(crate) fn append(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last_index().next(), "the log has no gaps");
        debug_assert!(entry.term >= self.last_term(), "terms never fall");
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.index, membership.clone()));
        }
        self.bytes = self.bytes.saturating_add(entry.weight_bytes());
        self.entries.push_back(entry);
    }

    /// Removes the entries from `index` on and returns them.
    pub(crate) fn truncate_from(&mut self, index: Index) -> Vec<Entry> {
        debug_assert!(
            index > self.snapshot.index,
            "what is in a snapshot is committed"
        );
        let keep = index.distance(self.base.next()).min(self.entries.len());
        let removed: Vec<Entry> = self.entries.split_off(keep).into();
        for entry in &removed {
            self.bytes = self.bytes.saturating_sub(entry.weight_bytes());
        }
        self.memberships.retain(|(at, _)| *at < index);
        removed
    }

    /// Takes a newer snapshot of applied state; keeps what follows it, and up to `trailing` entries before.
    pub(crate) fn compact(&mut self, snapshot: Snapshot, trailing: usize) {
        let behind = snapshot.index.get().saturating_sub(trailing as u64);
        while self.base.get() < behind {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(entry.weight_bytes());
            self.base = entry.index;
            self.base_term = entry.term;
        }
        self.memberships.retain(|(at, _)| *at > snapshot.index);
        self.memberships
            .insert(0, (snapshot.index, snapshot.membership.clone()));
        self.snapshot = snapshot;
    }

    /// Replaces everything by a snapshot; returns the entries that are discarded.
    pub(crate) fn install(&mut self, snapshot: Snapshot) -> Vec<Entry> {
        let discarded = std::mem::take(&mut self.entries).into();
        *self = Self::new(snapshot, Vec::new());
        discarded
    }

    /// Returns the newest snapshot.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns the index before the first entry that is still here.
    pub(crate) fn base(&self) -> Index {
        self.base
    }

    pub(crate) fn last_index(&self) -> Index {
        self.entries.back().map_or(self.base, |entry| entry.index)
    }

    pub(crate) fn last_term(&self) -> Term {
        self.entries
            .back()
            .map_or(self.base_term, |entry| entry.term)
    }

    /// Returns what the entries in memory weigh.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the term of the entry at `index`; `None` before the base and past the end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base {
            return Some(self.base_term);
        }
        self.get(index).map(|entry| entry.term)
    }

    pub(crate) fn get(&self, index: Index) -> Option<&Entry> {
        if index <= self.base {
            return None;
        }
        self.entries.get(index.distance(self.base.next()))
    }

    /// Returns the entries after `index`, oldest first.
    pub(crate) fn after(&self, index: Index) -> impl Iterator<Item = &Entry> {
        self.entries.iter().skip(index.distance(self.base))
    }

    /// Returns entries after `index`, as many as a message takes, but one at least if there is one.
    pub(crate) fn batch_after(
        &self,
        index: Index,
        entries_max: usize,
        bytes_max: u64,
    ) -> Vec<Entry> {
        let (mut batch, mut bytes) = (Vec::new(), 0_u64);
        for entry in self.after(index).take(entries_max) {
            bytes = bytes.saturating_add(entry.weight_bytes());
            if bytes > bytes_max && !batch.is_empty() {
                break;
            }
            batch.push(entry.clone());
        }
        batch
    }

    /// Returns whether a log that ends at `(index, term)` is at least as up to date as this one (Raft §5.4.1).
    pub(crate) fn is_up_to_date(&self, index: Index, term: Term) -> bool {
        (term, index) >= (self.last_term(), self.last_index())
    }

    /// Returns the last position at or before `index` whose term is not above `term`, and that term.
    ///
    /// A follower answers a failed consistency check with it, and the leader looks for it in its own log: both skip a
    /// whole term at a time (Raft §5.3, the optimization at its end).
    pub(crate) fn last_not_above(&self, index: Index, term: Term) -> (Index, Term) {
        let mut at = index.min(self.last_index());
        while let Some(found) = self.term_at(at) {
            if found <= term || at == self.base {
                return (at, found);
            }
            at = at.previous();
        }
        (self.base, self.base_term)
    }

    /// Returns the membership in force: the newest in the log, committed or not.
    pub(crate) fn membership(&self) -> &Membership {
        let (_, membership) = self
            .memberships
            .last()
            .expect("the snapshot's membership is never removed");
        membership
    }

    /// Returns where the membership in force came from.
    pub(crate) fn membership_index(&self) -> Index {
        self.memberships.last().map_or(self.base, |(at, _)| *at)
    }

    /// Returns the membership that was in force at `index`, and where it came from.
    pub(crate) fn membership_at(&self, index: Index) -> (Index, &Membership) {
        let position = self
            .memberships
            .partition_point(|(at, _)| *at <= index)
            .max(1);
        let (at, membership) = &self.memberships[position - 1];
        (*at, membership)
    }

    /// Returns the memberships from the one in force at `commit` on: what may yet turn out to hold.
    pub(crate) fn memberships_from(&self, commit: Index) -> impl Iterator<Item = &Membership> {
        let position = self
            .memberships
            .partition_point(|(at, _)| *at <= commit)
            .max(1);
        self.memberships[position - 1..]
            .iter()
            .map(|(_, membership)| membership)
    }
}
