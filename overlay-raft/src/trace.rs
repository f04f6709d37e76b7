//! What a member does, step by step, for whoever checks it against a model.

use crate::{Index, Membership, Raft, RaftId, Term};

/// A step of the protocol. Steps are told in the order in which they happen, each before what follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TraceEvent {
    /// The trace begins here: what the member knows.
    Started {
        /// Its term.
        term: Term,
        /// Whom it voted for in that term.
        vote: Option<RaftId>,
        /// The commit index.
        commit: Index,
        /// Up to where the application was handed the log.
        applied: Index,
        /// Where its snapshot is, and the term there.
        snapshot: (Index, Term),
        /// The term of each entry after the snapshot.
        terms: Vec<Term>,
        /// The membership in force.
        membership: Membership,
    },
    /// It follows somebody, or waits for a leader.
    Follows {
        /// In which term.
        term: Term,
        /// Whom, if known.
        leader: Option<RaftId>,
    },
    /// It asks whether it would be elected.
    AsksFirst,
    /// It entered a term and asks to be elected.
    Campaigns {
        /// The term.
        term: Term,
    },
    /// It gives its vote; who asked hears of it once that is durable.
    Votes {
        /// The term.
        term: Term,
        /// To whom.
        candidate: RaftId,
    },
    /// It leads.
    Leads {
        /// The term.
        term: Term,
    },
    /// Entries were appended.
    Appended {
        /// The first one.
        first: Index,
        /// The term of each.
        terms: Vec<Term>,
    },
    /// The entries from an index on were removed.
    Truncated {
        /// The first that was.
        from: Index,
    },
    /// Its disk holds the log up to an index.
    Durable {
        /// The index.
        index: Index,
    },
    /// The commit index rose.
    Committed {
        /// To what.
        index: Index,
    },
    /// A snapshot took the place of the log.
    Installed {
        /// Where it is.
        index: Index,
        /// The term there.
        term: Term,
    },
    /// A snapshot took the place of what was applied.
    Compacted {
        /// Where it is.
        index: Index,
    },
    /// Another membership is in force.
    Reconfigured {
        /// Where it is in the log.
        index: Index,
        /// The membership.
        membership: Membership,
    },
    /// Everything up to an index was handed to the application.
    Applied {
        /// The index.
        index: Index,
    },
}

/// What takes the steps.
pub(crate) type Tracer = Box<dyn FnMut(&TraceEvent) + Send>;

impl Raft {
    /// Has `tracer` told each step from now on, beginning with [`TraceEvent::Started`]. It must not take long.
    pub fn set_tracer(&mut self, tracer: impl FnMut(&TraceEvent) + Send + 'static) {
        self.tracer = Some(Box::new(tracer));
        self.trace(|raft| {
            let snapshot = raft.log.snapshot();
            TraceEvent::Started {
                term: raft.hard_state.term,
                vote: raft.hard_state.vote,
                commit: raft.hard_state.commit,
                applied: raft.applied,
                snapshot: (snapshot.index, snapshot.term),
                terms: raft.terms(snapshot.index.next(), raft.log.last_index()),
                membership: raft.membership().clone(),
            }
        });
    }

    /// Tells a step, if anybody wants to know.
    #[inline]
    pub(crate) fn trace(&mut self, event: impl FnOnce(&Self) -> TraceEvent) {
        if let Some(mut tracer) = self.tracer.take() {
            tracer(&event(self));
            self.tracer = Some(tracer);
        }
    }

    /// Returns the terms of the entries from `first` to `last`.
    pub(crate) fn terms(&self, first: Index, last: Index) -> Vec<Term> {
        (first.get()..=last.get())
            .filter_map(|index| self.log.term_at(Index::new(index)))
            .collect()
    }
}
