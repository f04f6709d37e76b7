//! Handing leadership to a chosen voter (thesis §3.10).

use overlay_core::Instant;

use crate::{Raft, RaftId, TransferError, progress::Mode, raft::Standing, wire::Body};

/// A transfer that is under way; proposals are refused meanwhile.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) to: RaftId,
    pub(crate) deadline: Instant,
    /// Whether the successor was asked to campaign since the last heartbeat; the message may have been lost.
    pub(crate) asked: bool,
}

impl Raft {
    /// Hands leadership to `to` as soon as its log is at the leader's.
    ///
    /// Proposals are refused from now on until another leader is known or an election time-out has passed
    /// ([`Event::TransferFailed`](crate::Event::TransferFailed)).
    ///
    /// # Errors
    ///
    /// Nothing changes on error. [`TransferError`] says why the target cannot lead.
    pub fn transfer(&mut self, now: Instant, to: RaftId) -> Result<(), TransferError> {
        self.touch(now);
        if self.stopped {
            return Err(TransferError::Stopped);
        }
        let (known, now) = (self.leader(), self.now);
        let patience = self.config.election_timeout;
        let meant = self.membership().incarnation(to);
        let Standing::Leader(leader) = &mut self.standing else {
            return Err(TransferError::NotLeader { leader: known });
        };
        if to == self.config.id {
            return Err(TransferError::AlreadyLeader { to });
        }
        let Some(progress) = leader.followers.get(to).filter(|_| meant.is_some()) else {
            return Err(TransferError::NotVoter { to });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(TransferError::InProgress { to: transfer.to });
        }
        if matches!(progress.mode, Mode::Snapshot { .. }) {
            return Err(TransferError::Behind { to });
        }
        if !meant.is_some_and(|meant| progress.counts(meant)) || now >= progress.contact + patience
        {
            return Err(TransferError::Unreachable { to });
        }
        leader.transfer = Some(Transfer {
            to,
            deadline: now + patience,
            asked: false,
        });
        self.unsettle();
        Ok(())
    }

    /// Asks the successor to campaign once it holds everything.
    pub(crate) fn continue_transfer(&mut self) {
        let last = self.log.last_index();
        let Standing::Leader(leader) = &mut self.standing else {
            return;
        };
        let Some(transfer) = &mut leader.transfer else {
            return;
        };
        let to = transfer.to;
        let holds_all = leader
            .followers
            .get(to)
            .is_some_and(|progress| progress.matched >= last);
        if holds_all && !transfer.asked {
            transfer.asked = true;
            leader.rounds.gives_way = true;
            self.send(to, None, Body::TimeoutNow);
        }
    }

    /// The leader asks this member to campaign at once.
    pub(crate) fn on_timeout_now(&mut self, from: RaftId) {
        let follows = matches!(self.standing, Standing::Follower { leader: Some(leader), .. } if leader == from);
        if follows && self.has_vote() {
            self.start_vote(true);
        }
    }
}
