//! Raft's safety properties (figure 3), checked on what all members let out.

use std::collections::{BTreeMap, BTreeSet};

use overlay_raft::{
    Committed, Entry, Incarnation, Index, Payload, ProposalId, Raft, RaftId, Term, TraceEvent,
};

use crate::{history::Clients, model::Model};

/// What all members together have shown so far.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// Election safety: one leader each.
    leaders: BTreeMap<Term, RaftId>,
    /// One vote each.
    votes: BTreeMap<(RaftId, Incarnation, Term), RaftId>,
    /// Log matching: an index and a term determine the entry and the term before it.
    entries: BTreeMap<(Index, Term), (Term, Payload)>,
    /// State machine safety: what was applied at each index, and the highest term in which that can have been decided.
    applied: BTreeMap<Index, (Term, u64, Term)>,
    acknowledged: BTreeMap<u64, Index>,
    lost: BTreeSet<u64>,
    /// The terms of changes of the membership that were said to be certain, or to be lost.
    changed: BTreeMap<Index, Term>,
    lost_ids: BTreeSet<ProposalId>,
    proposed: BTreeMap<ProposalId, u64>,
    next_operation: u64,
    pub(crate) clients: Clients,
    /// All steps are steps of the model, too.
    model: Model,
}

impl Checker {
    /// Names a new operation.
    pub(crate) fn operation(&mut self) -> u64 {
        self.next_operation += 1;
        self.next_operation
    }

    pub(crate) fn on_proposed(&mut self, id: ProposalId, operation: u64) {
        self.clients.on_write(operation);
        assert!(
            self.proposed.insert(id, operation).is_none(),
            "{id:?} handed out twice"
        );
    }

    /// A member took a step.
    pub(crate) fn on_step(&mut self, id: (RaftId, Incarnation), step: &TraceEvent) {
        let needs = self.model.take(id, step).err();
        assert_eq!(needs, None, "{id:?} may not {step:?}");
        assert_eq!(self.model.broken, [""; 0], "after {step:?} of {id:?}");
    }

    /// A voter promised its vote.
    pub(crate) fn on_vote(
        &mut self,
        voter: RaftId,
        incarnation: Incarnation,
        term: Term,
        candidate: RaftId,
    ) {
        let vote = *self
            .votes
            .entry((voter, incarnation, term))
            .or_insert(candidate);
        assert_eq!(
            vote, candidate,
            "{voter:?} voted twice in term {term}: for {vote:?} and for {candidate:?}"
        );
    }

    /// A member took office.
    pub(crate) fn on_elected(&mut self, raft: &Raft) {
        let leader = *self.leaders.entry(raft.term()).or_insert(raft.id());
        assert_eq!(
            leader,
            raft.id(),
            "election safety: two leaders in term {}: {leader:?} and {:?}",
            raft.term(),
            raft.id()
        );
        for (&index, &(term, operation, decided)) in &self.applied {
            if decided < raft.term() && index > raft.snapshot_index() {
                assert_eq!(
                    raft.term_at(index),
                    Some(term),
                    "leader completeness: {:?} leads in term {} without operation {operation} at {index}",
                    raft.id(),
                    raft.term()
                );
            }
        }
    }

    /// A member wrote an entry.
    pub(crate) fn on_entry(&mut self, before: Term, entry: &Entry) {
        let found = (before, entry.payload.clone());
        let known = self
            .entries
            .entry((entry.index, entry.term))
            .or_insert_with(|| found.clone());
        assert_eq!(
            *known, found,
            "log matching: two entries at index {} of term {}",
            entry.index, entry.term
        );
    }

    /// The membership in force is the newest in the log (thesis §4.1), as far as the log was written by anybody.
    pub(crate) fn check_membership(&self, raft: &Raft) {
        let mut index = raft.last_index();
        while index > raft.snapshot_index() {
            let term = raft.term_at(index).unwrap_or_default();
            let Some((_, payload)) = self.entries.get(&(index, term)) else {
                return;
            };
            if let Payload::Membership(newest) = payload {
                assert_eq!(
                    raft.membership(),
                    newest,
                    "{:?} does not go by the membership at {index}",
                    raft.id()
                );
                return;
            }
            index = index.previous();
        }
    }

    /// A member applied a command; `own` says that it had proposed it.
    pub(crate) fn on_applied(&mut self, raft: &Raft, committed: &Committed<'_>) -> u64 {
        let operation = decode(committed.command);
        self.clients.on_written(operation);
        let found = (committed.term, operation);
        let entry =
            self.applied
                .entry(committed.index)
                .or_insert((committed.term, operation, raft.term()));
        assert_eq!(
            (entry.0, entry.1),
            found,
            "state machine safety: {:?} applies something else at {}",
            raft.id(),
            committed.index
        );
        assert!(
            !self.lost.contains(&operation),
            "operation {operation} was reported lost and is applied at {}",
            committed.index
        );
        operation
    }

    /// The client was told that its write is done.
    pub(crate) fn on_acknowledged(&mut self, operation: u64, index: Index) {
        self.acknowledged.insert(operation, index);
    }

    /// The proposer was told that its change is certain.
    pub(crate) fn on_changed(&mut self, id: ProposalId) {
        let entry = self.entries.get(&(id.index, id.term));
        assert!(
            matches!(entry, Some((_, Payload::Membership(_)))),
            "{id:?} is no change, but {entry:?}"
        );
        let before = *self.changed.entry(id.index).or_insert(id.term);
        assert_eq!(before, id.term, "two changes are certain at {}", id.index);
        assert!(!self.lost_ids.contains(&id), "{id:?} was reported lost");
        let applied = self.applied.get(&id.index);
        assert!(applied.is_none(), "{id:?} is certain, and {applied:?} too");
    }

    pub(crate) fn on_lost(&mut self, id: ProposalId) {
        assert!(
            self.changed.get(&id.index) != Some(&id.term),
            "{id:?} is certain and reported lost"
        );
        self.lost_ids.insert(id);
        if let Some(&operation) = self.proposed.get(&id) {
            let applied = self.applied.get(&id.index);
            assert!(
                applied.is_none_or(|found| found.1 != operation),
                "operation {operation} was applied at {} and is reported lost",
                id.index
            );
            self.lost.insert(operation);
        }
    }

    /// Returns what a read that begins now must see.
    pub(crate) fn read_floor(&self) -> Index {
        self.acknowledged
            .values()
            .copied()
            .max()
            .unwrap_or_default()
    }

    /// Checks that `operations` are exactly what was applied up to `index`.
    pub(crate) fn check_state(&self, index: Index, operations: &[u64]) {
        let expected: Vec<u64> = self
            .applied
            .range(..=index)
            .map(|(_, found)| found.1)
            .collect();
        assert_eq!(operations, expected, "snapshot at {index} and log differ");
    }

    /// Checks that nothing is missing that a client was told is done, and nothing is there twice.
    pub(crate) fn check_final(&self, operations: &[u64]) {
        let state: BTreeSet<u64> = operations.iter().copied().collect();
        assert_eq!(
            state.len(),
            operations.len(),
            "an operation was applied twice"
        );
        for operation in self.acknowledged.keys() {
            assert!(
                state.contains(operation),
                "acknowledged operation {operation} is gone"
            );
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}

pub(crate) fn decode(command: &[u8]) -> u64 {
    u64::from_le_bytes(command[..8].try_into().expect("operations have 8 octets"))
}
