//! The log in memory: everything since the last snapshot, and a little before it.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    Entry, Index, Membership, Payload, Snapshot, Term,
    entries::{Entries, Slice},
    planted::{self, Bug},
};

/// Entries after a base, the newest snapshot, and the memberships in force along the way.
///
/// The base is at or before the snapshot: entries between the two are kept for followers that are a little behind.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    base: Index,
    base_term: Term,
    last: Index,
    /// What was appended in earlier turns, shared with whoever was sent it.
    slices: VecDeque<Slice>,
    /// What was appended in this turn.
    tail: Vec<Entry>,
    /// Where each term begins after the base.
    terms: VecDeque<(Index, Term)>,
    snapshot: Arc<Snapshot>,
    /// Where each membership came into force; the first is the snapshot's.
    memberships: Vec<(Index, Membership)>,
    bytes: u64,
}

impl Log {
    /// Makes a log of a snapshot and the entries that follow it without a gap.
    pub(crate) fn new(snapshot: Arc<Snapshot>, entries: Vec<Entry>) -> Self {
        let mut log = Self {
            base: snapshot.index,
            base_term: snapshot.term,
            last: snapshot.index,
            slices: VecDeque::new(),
            tail: Vec::new(),
            terms: VecDeque::new(),
            memberships: vec![(snapshot.index, snapshot.membership.clone())],
            snapshot,
            bytes: 0,
        };
        if let Some(slice) = Slice::new(entries) {
            log.append_slice(slice);
        }
        log
    }

    /// Appends an entry; its index must be the next.
    pub(crate) fn append(&mut self, entry: Entry) {
        self.note(&entry);
        self.tail.push(entry);
    }

    /// Appends a slice as it is; its first index must be the next.
    pub(crate) fn append_slice(&mut self, slice: Slice) {
        self.seal();
        for entry in slice.as_ref() {
            self.note(entry);
        }
        self.slices.push_back(slice);
    }

    /// Ends a turn: what was appended in it can be shared from now on.
    pub(crate) fn seal(&mut self) {
        if !self.tail.is_empty() {
            let shared: Arc<[Entry]> = self.tail.drain(..).collect();
            self.slices.extend(Slice::new(shared));
        }
    }

    /// Removes the entries from `index` on; returns whether a membership was among them.
    pub(crate) fn truncate_from(&mut self, index: Index) -> bool {
        debug_assert!(
            index > self.snapshot.index,
            "what is in a snapshot is committed"
        );
        self.seal();
        while let Some(slice) = self.slices.pop_back() {
            let keep = index.distance(slice.first_index());
            for entry in slice.as_ref().iter().skip(keep) {
                self.bytes = self.bytes.saturating_sub(entry.weight_bytes());
            }
            if let Some(kept) = slice.take(keep) {
                self.slices.push_back(kept);
                break;
            }
        }
        self.last = self.last.min(index.previous());
        self.terms.retain(|(at, _)| *at < index);
        let before = self.memberships.len();
        if !planted::has(Bug::KeepsAnOverwrittenMembership) {
            self.memberships.retain(|(at, _)| *at < index);
        }
        self.memberships.len() < before
    }

    /// Takes a newer snapshot of applied state; keeps what follows it, and before it no more entries and octets than are
    /// allowed.
    pub(crate) fn compact(
        &mut self,
        snapshot: Arc<Snapshot>,
        trailing_max: usize,
        trailing_bytes_max: u64,
    ) {
        self.seal();
        let trailing = u64::try_from(trailing_max).unwrap_or(u64::MAX);
        let mut base = Index::new(snapshot.index.get().saturating_sub(trailing)).max(self.base);
        let mut bytes = self.weight_bytes(base, snapshot.index);
        for entry in self.slices_after(base).flat_map(Slice::as_ref) {
            if bytes <= trailing_bytes_max {
                break;
            }
            if entry.index > base {
                bytes = bytes.saturating_sub(entry.weight_bytes());
                base = entry.index;
            }
        }
        let base_term = self.term_at(base).unwrap_or(self.base_term);
        while let Some(slice) = self.slices.pop_front() {
            for entry in slice
                .as_ref()
                .iter()
                .take_while(|entry| entry.index <= base)
            {
                self.bytes = self.bytes.saturating_sub(entry.weight_bytes());
            }
            if let Some(kept) = slice.after(base) {
                self.slices.push_front(kept);
                break;
            }
        }
        (self.base, self.base_term) = (base, base_term);
        while self.terms.get(1).is_some_and(|(at, _)| *at <= base.next()) {
            self.terms.pop_front();
        }
        self.memberships.retain(|(at, _)| *at > snapshot.index);
        self.memberships
            .insert(0, (snapshot.index, snapshot.membership.clone()));
        self.snapshot = snapshot;
    }

    /// Replaces everything by a snapshot.
    pub(crate) fn install(&mut self, snapshot: Arc<Snapshot>) {
        *self = Self::new(snapshot, Vec::new());
    }

    /// Returns the newest snapshot.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Returns the index before the first entry that is still here.
    pub(crate) fn base(&self) -> Index {
        self.base
    }

    pub(crate) fn last_index(&self) -> Index {
        self.last
    }

    pub(crate) fn last_term(&self) -> Term {
        self.terms.back().map_or(self.base_term, |(_, term)| *term)
    }

    /// Returns what the entries in memory weigh.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the term of the entry at `index`; `None` before the base and past the end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last || index < self.base {
            return None;
        }
        if index == self.base {
            return Some(self.base_term);
        }
        // Most questions are about the newest term.
        let newest = self.terms.back().filter(|(at, _)| *at <= index);
        let run = newest.or_else(|| {
            let runs = self.terms.partition_point(|(at, _)| *at <= index);
            self.terms.get(runs.checked_sub(1)?)
        });
        run.map(|(_, term)| *term)
    }

    /// Returns the entries after `index` up to `until`.
    pub(crate) fn range(&mut self, index: Index, until: Index) -> Entries {
        let mut entries = Entries::default();
        for slice in self.slices_after(index) {
            let from = index.next().distance(slice.first_index());
            let to = until.next().distance(slice.first_index());
            match slice.part(from, to.min(slice.len())) {
                Some(part) => entries.push(part),
                None => break,
            }
        }
        entries
    }

    /// Returns entries after `index`, as many as a message takes, but one at least if there is one; and their weight.
    pub(crate) fn batch_after(
        &mut self,
        index: Index,
        entries_max: usize,
        bytes_max: u64,
    ) -> (Entries, u64) {
        let (mut batch, mut count, mut bytes) = (Entries::default(), 0_usize, 0_u64);
        for slice in self.slices_after(index) {
            let from = index.next().distance(slice.first_index());
            let mut to = from;
            for entry in slice.as_ref().iter().skip(from) {
                let weight = entry.weight_bytes();
                let over = bytes.saturating_add(weight) > bytes_max && count > 0;
                if over || count >= entries_max {
                    break;
                }
                bytes = bytes.saturating_add(weight);
                count += 1;
                to += 1;
            }
            if let Some(part) = slice.part(from, to) {
                batch.push(part);
            }
            if to < slice.len() {
                break;
            }
        }
        (batch, bytes)
    }

    /// Returns what the entries after `index` up to `until` weigh.
    pub(crate) fn weight_bytes(&mut self, index: Index, until: Index) -> u64 {
        self.slices_after(index)
            .flat_map(Slice::as_ref)
            .skip_while(|entry| entry.index <= index)
            .take_while(|entry| entry.index <= until)
            .map(Entry::weight_bytes)
            .fold(0, u64::saturating_add)
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
        let mut at = index.min(self.last);
        for &(begin, found) in self.terms.iter().rev() {
            if begin > at {
                continue;
            }
            if found <= term {
                return (at, found);
            }
            at = begin.previous();
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

    /// Draws from an entry, which is appended, what is known without looking at it again.
    fn note(&mut self, entry: &Entry) {
        debug_assert_eq!(entry.index, self.last.next(), "the log has no gaps");
        debug_assert!(entry.term >= self.last_term(), "terms never fall");
        if self.terms.back().is_none_or(|(_, term)| *term < entry.term) {
            self.terms.push_back((entry.index, entry.term));
        }
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.index, membership.clone()));
        }
        self.bytes = self.bytes.saturating_add(entry.weight_bytes());
        self.last = entry.index;
    }

    /// Returns the slices that hold the entries after `index`; the first one may hold others before.
    fn slices_after(&mut self, index: Index) -> impl Iterator<Item = &Slice> {
        self.seal();
        // Whoever is sent the log lacks its end, as a rule.
        let mut begin = self.slices.len();
        for _ in 0..4 {
            let before = begin.checked_sub(1).and_then(|at| self.slices.get(at));
            if before.is_none_or(|slice| slice.last_index() <= index) {
                return self.slices.range(begin..);
            }
            begin -= 1;
        }
        begin = self
            .slices
            .partition_point(|slice| slice.last_index() <= index);
        self.slices.range(begin..)
    }
}
