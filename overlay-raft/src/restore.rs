//! From what a disk holds to a machine that may start.

use serde::{Deserialize, Serialize};

use crate::{
    Config, Entry, Incarnation, Index, Membership, Payload, RaftId, RestoreError, Snapshot, Term,
};

/// What must survive a crash besides the log (Raft §5.1, figure 2), and whose it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HardState {
    /// The cluster that the disk belongs to.
    pub group: u64,
    /// The member that the disk belongs to.
    pub id: RaftId,
    /// Which life of the disk it is.
    pub incarnation: Incarnation,
    /// The latest term that the member has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<RaftId>,
    /// A commit index that it knew; a hint, it may be behind.
    pub commit: Index,
}

impl HardState {
    /// Returns whether `other` says the same but for the commit index.
    pub(crate) fn differs_in_commit_alone(&self, other: &Self) -> bool {
        let with_commit = Self {
            commit: other.commit,
            ..self.clone()
        };
        with_commit == *other
    }
}

/// What a member starts from, proven to be consistent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored(Origin);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    Empty,
    Bootstrap(Membership),
    Joining,
    Disk(Box<State>),
}

/// The state that a machine begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub(crate) hard_state: HardState,
    pub(crate) snapshot: Snapshot,
    pub(crate) entries: Vec<Entry>,
    /// Whether none of it is on the disk yet.
    pub(crate) is_new: bool,
}

impl Restored {
    /// An empty disk. [`Raft::new`](crate::Raft::new) refuses it: only the embedder knows whether the member founds a
    /// cluster, joins one, or has lost its disk.
    pub fn empty() -> Self {
        Self(Origin::Empty)
    }

    /// A new cluster of these voters, each of which is started with the very same ones.
    ///
    /// Never for a member of which a write was ever acknowledged, however its disk came to be empty: it would vote again
    /// in terms in which it voted already. One whose very first write did not finish has said nothing and starts again.
    pub fn bootstrap(voters: impl IntoIterator<Item = RaftId>) -> Self {
        Self(Origin::Bootstrap(Membership::founders(voters)))
    }

    /// A member that waits to be added to a cluster, also one that lost its disk.
    ///
    /// It starts under a new [`Incarnation`] and votes only once the cluster has promoted this incarnation.
    pub fn joining() -> Self {
        Self(Origin::Joining)
    }

    /// Checks what a disk holds; the only way to start from it.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] says which numbers contradict each other.
    pub fn check(
        hard_state: HardState,
        snapshot: Snapshot,
        entries: Vec<Entry>,
    ) -> Result<Self, RestoreError> {
        if snapshot.term > hard_state.term {
            return Err(RestoreError::SnapshotTerm {
                snapshot: snapshot.term,
                term: hard_state.term,
            });
        }
        if snapshot.index > Index::ZERO && snapshot.membership.voters().next().is_none() {
            return Err(RestoreError::NoVoters {
                snapshot: snapshot.index,
            });
        }
        let is_joining = snapshot.index == Index::ZERO && snapshot.membership.is_empty();
        if !is_joining && !snapshot.membership.is_sound() {
            let index = snapshot.index;
            return Err(RestoreError::Membership { index });
        }
        let (mut index, mut term) = (snapshot.index, snapshot.term);
        for entry in &entries {
            if let Payload::Membership(membership) = &entry.payload
                && !membership.is_sound()
            {
                let index = entry.index;
                return Err(RestoreError::Membership { index });
            }
            if entry.index != index.next() {
                return Err(RestoreError::Gap {
                    expected: index.next(),
                    found: entry.index,
                });
            }
            if entry.term < term || entry.term > hard_state.term {
                return Err(RestoreError::TermOrder {
                    index: entry.index,
                    term: entry.term,
                    least: term,
                    most: hard_state.term,
                });
            }
            (index, term) = (entry.index, entry.term);
        }
        if hard_state.commit < snapshot.index || hard_state.commit > index {
            return Err(RestoreError::CommitOutOfRange {
                commit: hard_state.commit,
                snapshot: snapshot.index,
                last: index,
            });
        }
        Ok(Self(Origin::Disk(Box::new(State {
            hard_state,
            snapshot,
            entries,
            is_new: false,
        }))))
    }

    /// Rebuilds a cluster that lost its quorum from this one survivor, as the only voter of a new `group`.
    ///
    /// Everything that the survivor holds is kept and becomes committed, also what never was; what only the lost
    /// members held is gone. The other members must not be started again from their disks: the new group number makes
    /// them refuse each other. Does nothing to a disk that is empty.
    ///
    /// # Errors
    ///
    /// [`RestoreError::SameGroup`] if the number is the one that the disk has.
    pub fn recover(mut self, group: u64) -> Result<Self, RestoreError> {
        if let Origin::Disk(state) = &mut self.0 {
            if state.hard_state.group == group {
                return Err(RestoreError::SameGroup { group });
            }
            let last = state.entries.last();
            let index = last.map_or(state.snapshot.index, |entry| entry.index);
            state.hard_state.term = state.hard_state.term.next();
            state.hard_state.vote = None;
            state.hard_state.group = group;
            state.entries.push(Entry {
                index: index.next(),
                term: state.hard_state.term,
                payload: Payload::Membership(Membership::sole(
                    state.hard_state.id,
                    state.hard_state.incarnation,
                )),
            });
            state.is_new = true;
        }
        Ok(self)
    }

    /// Returns whether the disk held nothing.
    pub fn is_empty(&self) -> bool {
        self.0 == Origin::Empty
    }

    /// Returns the hard state that the disk held.
    pub fn hard_state(&self) -> Option<&HardState> {
        match &self.0 {
            Origin::Disk(state) => Some(&state.hard_state),
            Origin::Empty | Origin::Bootstrap(_) | Origin::Joining => None,
        }
    }

    /// Returns the index of the last entry that the disk held.
    pub fn last_index(&self) -> Index {
        match &self.0 {
            Origin::Disk(state) => state
                .entries
                .last()
                .map_or(state.snapshot.index, |entry| entry.index),
            Origin::Empty | Origin::Bootstrap(_) | Origin::Joining => Index::ZERO,
        }
    }

    /// Returns the membership in force at the end of what the disk held, `None` for an empty one.
    pub fn membership(&self) -> Option<&Membership> {
        match &self.0 {
            Origin::Disk(state) => Some(
                state
                    .entries
                    .iter()
                    .rev()
                    .find_map(|entry| match &entry.payload {
                        Payload::Membership(membership) => Some(membership),
                        Payload::Noop | Payload::Command(_) => None,
                    })
                    .unwrap_or(&state.snapshot.membership),
            ),
            Origin::Bootstrap(membership) => Some(membership),
            Origin::Empty | Origin::Joining => None,
        }
    }

    /// Turns it into the state of the member that `config` describes; `incarnation` is for a new disk.
    pub(crate) fn into_state(
        self,
        config: &Config,
        incarnation: Incarnation,
    ) -> Result<State, RestoreError> {
        let state = match self.0 {
            Origin::Empty => return Err(RestoreError::Empty),
            Origin::Bootstrap(membership) => {
                if !membership.is_voter(config.id) {
                    return Err(RestoreError::NotAmongVoters { id: config.id });
                }
                if membership.len() > config.members_max {
                    return Err(RestoreError::TooMany {
                        members: membership.len(),
                        members_max: config.members_max,
                    });
                }
                State::founding(config, membership)
            }
            Origin::Joining => State::new(config, incarnation),
            Origin::Disk(state) => *state,
        };
        if state.hard_state.id != config.id {
            return Err(RestoreError::WrongMember {
                expected: config.id,
                found: state.hard_state.id,
            });
        }
        if state.hard_state.group != config.group {
            return Err(RestoreError::WrongGroup {
                expected: config.group,
                found: state.hard_state.group,
            });
        }
        Ok(state)
    }
}

impl State {
    fn new(config: &Config, incarnation: Incarnation) -> Self {
        Self {
            hard_state: HardState {
                group: config.group,
                id: config.id,
                incarnation,
                term: Term::ZERO,
                vote: None,
                commit: Index::ZERO,
            },
            snapshot: Snapshot::nothing(),
            entries: Vec::new(),
            is_new: true,
        }
    }

    /// The membership is the first entry, the same on all founders, so that a newcomer is sent it like any other.
    fn founding(config: &Config, membership: Membership) -> Self {
        let mut state = Self::new(config, Incarnation::FOUNDER);
        state.hard_state.commit = Index::new(1);
        state.entries.push(Entry {
            index: Index::new(1),
            term: Term::ZERO,
            payload: Payload::Membership(membership),
        });
        state
    }
}
