//! Who belongs to the cluster, and what a quorum of them is.

use serde::{Deserialize, Serialize};

use crate::{
    Incarnation, RaftId,
    planted::{self, Bug},
};

/// Voters and learners. An entry of the log carries the whole of it, never a difference.
///
/// While voters are replaced by others, it is *joint*: whatever takes a quorum takes one of the voters and one of the
/// outgoing voters (Raft §6, thesis §4.3).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Membership {
    /// By id.
    voters: Vec<(RaftId, Incarnation)>,
    /// By id; empty unless it is joint.
    outgoing: Vec<(RaftId, Incarnation)>,
    /// By id. Those that are outgoing voters besides vote until the joint membership is left.
    learners: Vec<RaftId>,
}

/// A change of one member.
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
        let mut membership = Self::default();
        for id in voters {
            membership.put_voter(id, Incarnation::FOUNDER);
        }
        membership
    }

    /// Makes the membership of a single voter.
    pub(crate) fn sole(id: RaftId, incarnation: Incarnation) -> Self {
        Self {
            voters: vec![(id, incarnation)],
            ..Self::default()
        }
    }

    /// Makes a membership of parts that came from outside; ask [`is_sound`](Self::is_sound).
    pub(crate) fn from_parts(
        voters: Vec<(RaftId, Incarnation)>,
        outgoing: Vec<(RaftId, Incarnation)>,
        learners: Vec<RaftId>,
    ) -> Self {
        Self {
            voters,
            outgoing,
            learners,
        }
    }

    /// Returns the voters, in order.
    pub fn voters(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.voters.iter().map(|(id, _)| *id)
    }

    /// Returns the voters before a change that is under way, in order; none unless the membership is joint.
    pub fn outgoing(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.outgoing.iter().map(|(id, _)| *id)
    }

    /// Returns the learners, in order.
    pub fn learners(&self) -> impl Iterator<Item = RaftId> + '_ {
        self.learners.iter().copied()
    }

    /// Returns all members: voters, learners, and voters that leave; each once.
    pub fn members(&self) -> impl Iterator<Item = RaftId> + '_ {
        let leaving = self
            .outgoing()
            .filter(|id| !self.is_incoming(*id) && !self.is_learner(*id));
        self.voters().chain(self.learners()).chain(leaving)
    }

    /// Returns whether voters are being replaced: a quorum of the old ones is asked for, too.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Returns whether `id` has a vote, also one that goes.
    pub fn is_voter(&self, id: RaftId) -> bool {
        self.incarnation(id).is_some()
    }

    /// Returns whether `id` is a learner, or will be one.
    pub fn is_learner(&self, id: RaftId) -> bool {
        self.learners.binary_search(&id).is_ok()
    }

    /// Returns whether `id` is a member.
    pub fn contains(&self, id: RaftId) -> bool {
        self.is_voter(id) || self.is_learner(id)
    }

    /// Returns which incarnation of the voter `id` is meant, `None` if it is no voter.
    pub fn incarnation(&self, id: RaftId) -> Option<Incarnation> {
        find(&self.voters, id).or_else(|| find(&self.outgoing, id))
    }

    /// Returns the number of members.
    pub fn len(&self) -> usize {
        self.members().count()
    }

    /// Returns whether there is no member at all, as on a disk that waits to be joined.
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty() && self.learners.is_empty()
    }

    /// Returns how many voters a quorum takes: more than half. A joint membership takes as much of the outgoing ones.
    pub fn quorum(&self) -> usize {
        quorum(&self.voters)
    }

    /// Returns whether `id` is the only voter.
    pub fn is_sole_voter(&self, id: RaftId) -> bool {
        matches!(&self.voters[..], [(only, _)] if *only == id) && self.outgoing.is_empty()
    }

    /// Returns whether those for which `agrees` holds are a quorum. Without voters there is none.
    pub fn has_quorum(&self, agrees: impl Fn(RaftId, Incarnation) -> bool) -> bool {
        self.quorum_value(agrees)
    }

    /// Returns the highest value that a quorum has reached or passed; the default without voters.
    pub fn quorum_value<T: Ord + Copy + Default>(
        &self,
        value: impl Fn(RaftId, Incarnation) -> T,
    ) -> T {
        let incoming = value_of(&self.voters, &value);
        if self.outgoing.is_empty() || planted::has(Bug::AsksOnlyTheNewVoters) {
            return incoming;
        }
        incoming.min(value_of(&self.outgoing, &value))
    }

    /// Returns the membership with `id` added as a learner, no longer as a voter.
    pub(crate) fn with_learner(&self, id: RaftId) -> Self {
        let mut next = self.without(id);
        let at = next.learners.partition_point(|other| *other < id);
        next.learners.insert(at, id);
        next
    }

    /// Returns the membership with `id` as a voter of this incarnation.
    pub(crate) fn with_voter(&self, id: RaftId, incarnation: Incarnation) -> Self {
        let mut next = self.without(id);
        next.put_voter(id, incarnation);
        next
    }

    /// Returns the membership without `id`.
    pub(crate) fn without(&self, id: RaftId) -> Self {
        let mut next = self.clone();
        next.voters.retain(|(other, _)| *other != id);
        next.learners.retain(|other| *other != id);
        next
    }

    /// Returns the way from this membership to `next`: `next` itself if they differ in one voter at most, because their
    /// quorums overlap then (thesis §4.1); else both of them jointly.
    pub(crate) fn towards(&self, next: Self) -> Self {
        let lacks = |of: &Self, other: &Self| {
            of.voters
                .iter()
                .filter(|voter| !other.voters.contains(voter))
                .count()
        };
        let differ = lacks(self, &next) + lacks(&next, self);
        if differ <= 1 || planted::has(Bug::SkipsTheJointStep) {
            return next;
        }
        Self {
            outgoing: self.voters.clone(),
            ..next
        }
    }

    /// Returns what comes after a joint membership.
    pub(crate) fn left(&self) -> Self {
        Self {
            outgoing: Vec::new(),
            ..self.clone()
        }
    }

    /// Returns whether it can be one: somebody votes, nobody is there twice, and no learner is a voter that stays. What
    /// was decoded must be asked.
    pub(crate) fn is_sound(&self) -> bool {
        let rises = |voters: &[(RaftId, Incarnation)]| voters.is_sorted_by(|a, b| a.0 < b.0);
        !self.voters.is_empty()
            && rises(&self.voters)
            && rises(&self.outgoing)
            && self.learners.is_sorted_by(|a, b| a < b)
            && self.learners.iter().all(|id| !self.is_incoming(*id))
            && self.conflict().is_none()
    }

    /// Returns a member that would vote with two disks: with one before, with another after it is left.
    pub(crate) fn conflict(&self) -> Option<RaftId> {
        let differs = |&(id, incarnation): &(RaftId, Incarnation)| {
            find(&self.voters, id)
                .is_some_and(|other| other != incarnation)
                .then_some(id)
        };
        self.outgoing.iter().find_map(differs)
    }

    pub(crate) fn voters_with_incarnation(&self) -> &[(RaftId, Incarnation)] {
        &self.voters
    }

    pub(crate) fn outgoing_with_incarnation(&self) -> &[(RaftId, Incarnation)] {
        &self.outgoing
    }

    /// Returns whether `id` has a vote that stays.
    fn is_incoming(&self, id: RaftId) -> bool {
        find(&self.voters, id).is_some()
    }

    fn put_voter(&mut self, id: RaftId, incarnation: Incarnation) {
        let at = self.voters.partition_point(|(other, _)| *other < id);
        if !self.is_incoming(id) {
            self.voters.insert(at, (id, incarnation));
        }
    }
}

fn find(voters: &[(RaftId, Incarnation)], id: RaftId) -> Option<Incarnation> {
    let at = voters.binary_search_by_key(&id, |(other, _)| *other).ok()?;
    voters.get(at).map(|(_, incarnation)| *incarnation)
}

fn quorum(voters: &[(RaftId, Incarnation)]) -> usize {
    voters.len() / 2 + 1
}

fn value_of<T: Ord + Copy + Default>(
    voters: &[(RaftId, Incarnation)],
    value: impl Fn(RaftId, Incarnation) -> T,
) -> T {
    let mut few = [T::default(); FEW];
    let mut many;
    let values = if let Some(values) = few.get_mut(..voters.len()) {
        values
    } else {
        many = vec![T::default(); voters.len()];
        &mut many[..]
    };
    for (place, &(id, incarnation)) in values.iter_mut().zip(voters) {
        *place = value(id, incarnation);
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(quorum(voters) - 1).copied().unwrap_or_default()
}

/// Up to so many voters are counted without asking for memory.
const FEW: usize = 9;
