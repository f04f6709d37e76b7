//! What a member has proposed, until its fate is known.

use std::collections::VecDeque;

use crate::{Index, ProposalId, Term, log::Log};

/// Proposals whose fate is open.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    /// In the order in which they were made. Those of an earlier term may have higher indexes.
    runs: VecDeque<Run>,
    /// Those of them that change the membership.
    changes: Vec<ProposalId>,
}

/// Proposals of one term at successive indexes.
#[derive(Clone, Copy, Debug)]
struct Run {
    term: Term,
    first: Index,
    last: Index,
}

impl Proposals {
    /// Notes that the fate of a proposal is open.
    pub(crate) fn add(&mut self, id: ProposalId) {
        match self.runs.back_mut() {
            Some(newest) if newest.term == id.term && newest.last.next() == id.index => {
                newest.last = id.index;
            }
            _ => self.runs.push_back(Run {
                term: id.term,
                first: id.index,
                last: id.index,
            }),
        }
    }

    /// Notes that one that was added changes the membership.
    pub(crate) fn note_change(&mut self, id: ProposalId) {
        self.changes.push(id);
    }

    /// Takes the changes up to `commit`, all of which are decided; returns the ones that `log` holds.
    pub(crate) fn committed_changes(
        &mut self,
        commit: Index,
        log: &Log,
    ) -> impl Iterator<Item = ProposalId> {
        self.changes
            .extract_if(.., move |id| id.index <= commit)
            .filter(|id| log.term_at(id.index) == Some(id.term))
    }

    /// Takes those up to `commit`, all of which are decided; returns the ones that `log` does not hold.
    pub(crate) fn decide(&mut self, commit: Index, log: &Log) -> Vec<ProposalId> {
        let mut lost = Vec::new();
        while let Some(decided) = self.take(commit) {
            // A log that holds the last one holds all before it (Raft §5.3, log matching).
            if log.term_at(decided.last) != Some(decided.term) {
                lost.extend(
                    decided
                        .ids()
                        .filter(|id| log.term_at(id.index) != Some(id.term)),
                );
            }
        }
        lost
    }

    /// Takes those up to `until`, of which nothing is known.
    pub(crate) fn forget(&mut self, until: Index) -> Vec<ProposalId> {
        self.changes.retain(|id| id.index > until);
        let mut forgotten = Vec::new();
        while let Some(taken) = self.take(until) {
            forgotten.extend(taken.ids());
        }
        forgotten
    }

    /// Takes those of one term up to `until`.
    fn take(&mut self, until: Index) -> Option<Run> {
        let at = self.runs.iter().position(|run| run.first <= until)?;
        let run = self.runs.get_mut(at)?;
        let taken = Run {
            last: run.last.min(until),
            ..*run
        };
        run.first = taken.last.next();
        if run.first > run.last {
            self.runs.remove(at);
        }
        Some(taken)
    }
}

impl Run {
    fn ids(self) -> impl Iterator<Item = ProposalId> {
        (self.first.get()..=self.last.get()).map(move |index| ProposalId {
            term: self.term,
            index: Index::new(index),
        })
    }
}
