//! Changing the membership (Raft §6, thesis §4), and compacting the log (thesis §5.1).

use std::sync::Arc;

use bytes::Bytes;
use overlay_core::Instant;

use crate::{
    Change, ChangeError, CompactError, Index, Membership, Payload, ProposalId, ProposeError, Raft,
    RaftId, Snapshot,
    planted::{self, Bug},
    raft::Standing,
    trace::TraceEvent,
};

impl Raft {
    /// Proposes a membership that differs by `changes`, all of them at once. It is in force at once, and certain when
    /// committed.
    ///
    /// Where one voter comes or goes, this is one step (thesis §4.1). Where more do, the membership is joint until that is
    /// committed, and whoever leads then leaves it (Raft §6): a second [`Event::MembershipChanged`](crate::Event::MembershipChanged) follows. The
    /// [`ProposalId`] is that of the first step. It ends with [`Event::ChangeCommitted`](crate::Event::ChangeCommitted),
    /// [`ProposalLost`](crate::Event::ProposalLost) or [`ProposalUnknown`](crate::Event::ProposalUnknown).
    ///
    /// A member that was removed is sent entries until its removal is committed and it heard of that, or for an election
    /// time-out: one that cannot be reached then never hears of it, asks for pre-votes that nobody gives, and is to be stopped
    /// by whoever removed it. A leader that removed or demoted
    /// itself leads until then without counting itself, and hands over.
    ///
    /// # Errors
    ///
    /// Nothing changes on error. [`ChangeError::InProgress`], [`ChangeError::NotReady`] and
    /// [`ChangeError::NotCaughtUp`] ask to retry later.
    pub fn change(&mut self, now: Instant, changes: &[Change]) -> Result<ProposalId, ChangeError> {
        self.touch(now);
        let membership = self.changed(changes)?;
        let id = self.append_proposal(Payload::Membership(membership))?;
        self.proposals.note_change(id);
        self.membership_changed();
        self.unsettle();
        Ok(id)
    }

    /// Takes the application's state as of `index`, which must be applied, and forgets the log before it.
    ///
    /// Queues [`Output::Persist`](crate::Output::Persist) at the next
    /// [`handle_timeout`](overlay_core::Machine::handle_timeout), which is due at once.
    ///
    /// # Errors
    ///
    /// Nothing changes on error. [`CompactError`] says which indexes do not fit.
    pub fn compact(
        &mut self,
        now: Instant,
        index: Index,
        snapshot: Bytes,
    ) -> Result<(), CompactError> {
        self.touch(now);
        if self.stopped {
            return Err(CompactError::Stopped);
        }
        if index > self.applied {
            return Err(CompactError::NotApplied {
                index,
                applied: self.applied,
            });
        }
        if self.outbox.holds_commands_up_to(index) {
            return Err(CompactError::NotTaken { index });
        }
        let Some(term) = self
            .log
            .term_at(index)
            .filter(|_| index > self.snapshot_index())
        else {
            return Err(CompactError::AlreadyCompacted {
                index,
                snapshot: self.snapshot_index(),
            });
        };
        let snapshot = Arc::new(Snapshot {
            index,
            term,
            membership: self.log.membership_at(index).1.clone(),
            data: snapshot,
        });
        if snapshot.data_bytes() > self.config.snapshot_bytes_max {
            return Err(CompactError::TooLarge {
                bytes: snapshot.data_bytes(),
                bytes_max: self.config.snapshot_bytes_max,
            });
        }
        self.trace(|_| TraceEvent::Compacted { index });
        let config = &self.config;
        let bytes_max = config.trailing_bytes_max.min(config.log_bytes_max / 2);
        self.log
            .compact(snapshot, config.trailing_entries_max, bytes_max);
        self.writes.note_snapshot();
        self.unsettle();
        Ok(())
    }

    /// Returns the membership that comes next on the way to the one that `changes` make of the present one.
    fn changed(&self, changes: &[Change]) -> Result<Membership, ChangeError> {
        if self.stopped {
            return Err(ProposeError::Stopped.into());
        }
        let Standing::Leader(leader) = &self.standing else {
            let leader = self.leader();
            return Err(ProposeError::NotLeader { leader }.into());
        };
        if self.commit() < leader.first && !planted::has(Bug::ChangesTooEarly) {
            return Err(ChangeError::NotReady { term: self.term() });
        }
        let present = self.membership();
        if !self.is_membership_committed() || present.is_joint() {
            let index = self.log.membership_index();
            return Err(ChangeError::InProgress { index });
        }
        if changes.is_empty() {
            return Err(ChangeError::Nothing);
        }
        let mut next = present.clone();
        for change in changes {
            next = self.with_change(&next, *change)?;
        }
        let next = present.towards(next);
        let (members, members_max) = (next.len(), self.config.members_max);
        if members > members_max {
            return Err(ChangeError::TooMany {
                members,
                members_max,
            });
        }
        match next.conflict() {
            Some(id) => Err(ChangeError::OtherDisk { id }),
            None => Ok(next),
        }
    }

    fn with_change(
        &self,
        membership: &Membership,
        change: Change,
    ) -> Result<Membership, ChangeError> {
        match change {
            Change::AddLearner(id) if membership.contains(id) => {
                Err(ChangeError::AlreadyMember { id })
            }
            Change::AddLearner(id) => Ok(membership.with_learner(id)),
            Change::Promote(id) => self.with_promoted(membership, id),
            Change::Demote(id) if !membership.is_voter(id) => Err(ChangeError::NotVoter { id }),
            Change::Remove(id) if !membership.contains(id) => Err(ChangeError::NotMember { id }),
            Change::Demote(id) | Change::Remove(id) if membership.is_sole_voter(id) => {
                Err(ChangeError::LastVoter { id })
            }
            Change::Demote(id) => Ok(membership.with_learner(id)),
            Change::Remove(id) => Ok(membership.without(id)),
        }
    }

    /// A learner is promoted when one more message brings it up to date, under the incarnation that it answers with.
    fn with_promoted(
        &self,
        membership: &Membership,
        id: RaftId,
    ) -> Result<Membership, ChangeError> {
        if !membership.contains(id) {
            return Err(ChangeError::NotMember { id });
        }
        if !membership.is_learner(id) {
            return Err(ChangeError::NotLearner { id });
        }
        let progress = match &self.standing {
            Standing::Leader(leader) => leader.followers.get(id),
            _ => None,
        };
        let matched = progress.map_or(Index::ZERO, |progress| progress.matched);
        let incarnation = progress.and_then(|progress| progress.incarnation);
        let lag = self.last_index().distance(matched);
        match incarnation {
            Some(incarnation) if lag <= self.config.entries_per_append_max => {
                Ok(membership.with_voter(id, incarnation))
            }
            _ => Err(ChangeError::NotCaughtUp {
                id,
                matched,
                last: self.last_index(),
            }),
        }
    }
}
