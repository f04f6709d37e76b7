//! Who belongs to the cluster, and what a quorum of them is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Incarnation, RaftId};

/// Voters and learners. An entry of the log carries the whole of it, never a difference.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    voters: BTreeMap<RaftId, Incarnation>,
    learners: BTreeSet<RaftId>,
}

/// A change of the membership by one member (thesis §4.1): any two quorums before and after it overlap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// Adds a member that is sent the log but has no vote (thesis §4.2.1).
    AddLearner(RaftId),
    /// Makes a learner that has caught up a voter.
    Promote(RaftId),
    /// Makes a voter a learner.
    Demote(RaftId),
    /// Removes a voter or a learner.
    Remove(RaftId),
}

impl Membership {
    /// Makes the membership of a new cluster.
    pub(crate) fn founders(voters: impl IntoIterator<Item = RaftId>) -> Self {
        let voters = voters
            .into_iter()
            .map(|id| (id, Incarnation::FOUNDER))
            .collect();
        Self {
            voters,
            learners: BTreeSet::new(),
        }
    }

    /// Makes the membership of a single voter.
    pub(crate) fn sole(id: RaftId, incarnation: Incarnation) -> Self {
        Self {
            voters: BTreeMap::from([(id, incarnation)]),
            learners: BTreeSet::new(),
        }
    }

    /// Returns the voters, in order.
    pub fn voters(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.voters.keys().copied()
    }

    /// Returns the learners, in order.
    pub fn learners(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.learners.iter().copied()
    }

    /// Returns all members, voters first.
    pub fn members(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.voters().chain(self.learners())
    }

    /// Returns whether `id` is a voter.
    pub fn is_voter(&self, id: RaftId) -> bool {
        self.voters.contains_key(&id)
    }

    /// Returns whether `id` is a learner.
    pub fn is_learner(&self, id: RaftId) -> bool {
        self.learners.contains(&id)
    }

    /// Returns whether `id` is a member.
    pub fn contains(&self, id: RaftId) -> bool {
        self.is_voter(id) || self.is_learner(id)
    }

    /// Returns which incarnation of the voter `id` is meant, `None` if it is no voter.
    pub fn incarnation(&self, id: RaftId) -> Option<Incarnation> {
        self.voters.get(&id).copied()
    }

    /// Returns the number of members.
    pub fn len(&self) -> usize {
        self.voters.len().saturating_add(self.learners.len())
    }

    /// Returns whether there is no member at all, as on a disk that waits to be joined.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many voters a quorum takes: more than half.
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Returns whether `id` is the only voter.
    pub fn is_sole_voter(&self, id: RaftId) -> bool {
        self.voters.len() == 1 && self.is_voter(id)
    }

    /// Returns whether those for which `agrees` holds are a quorum. Without voters there is none.
    pub fn has_quorum(&self, agrees: impl Fn(RaftId, Incarnation) -> bool) -> bool {
        let agreeing = self
            .voters
            .iter()
            .filter(|&(&id, &incarnation)| agrees(id, incarnation))
            .count();
        agreeing >= self.quorum()
    }

    /// Returns the highest value that a quorum has reached or passed; the default without voters.
    pub fn quorum_value<T: Ord + Copy + Default>(
        &self,
        value: impl Fn(RaftId, Incarnation) -> T,
    ) -> T {
        let mut values: Vec<T> = self
            .voters
            .iter()
            .map(|(&id, &incarnation)| value(id, incarnation))
            .collect();
        values.sort_unstable_by(|a, b| b.cmp(a));
        values.get(self.quorum() - 1).copied().unwrap_or_default()
    }

    /// Returns the membership with `id` added as a learner.
    pub(crate) fn with_learner(&self, id: RaftId) -> Self {
        let mut next = self.clone();
        next.voters.remove(&id);
        next.learners.insert(id);
        next
    }

    /// Returns the membership with `id` as a voter of this incarnation.
    pub(crate) fn with_voter(&self, id: RaftId, incarnation: Incarnation) -> Self {
        let mut next = self.clone();
        next.learners.remove(&id);
        next.voters.insert(id, incarnation);
        next
    }

    /// Returns the membership without `id`.
    pub(crate) fn without(&self, id: RaftId) -> Self {
        let mut next = self.clone();
        next.voters.remove(&id);
        next.learners.remove(&id);
        next
    }

    /// Returns whether no member is both voter and learner; a decoded membership must be asked.
    pub(crate) fn is_disjoint(&self) -> bool {
        self.learners.iter().all(|id| !self.is_voter(*id))
    }
}
