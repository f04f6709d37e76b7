//! Leading: taking office, committing, and the deadlines of a leader.

use bytes::Bytes;
use overlay_core::Instant;

use crate::{
    Entry, Event, Index, Payload, ProposalId, ProposeError, Raft, RaftId,
    planted::{self, Bug},
    progress::{Followers, Mode, Progress},
    raft::Standing,
    read::Rounds,
    trace::TraceEvent,
    transfer::Transfer,
    wire::Body,
};

/// What only a leader has.
#[derive(Debug)]
pub(crate) struct Leader {
    /// The first entry of its own term. Before it is committed, nothing is known to be (Raft §5.4.2, §8).
    pub(crate) first: Index,
    pub(crate) followers: Followers,
    pub(crate) heartbeat_deadline: Instant,
    /// When followers are told what is committed, if there were no entries to tell it with.
    pub(crate) commit_deadline: Option<Instant>,
    pub(crate) rounds: Rounds,
    pub(crate) transfer: Option<Transfer>,
    pub(crate) uncommitted_bytes: u64,
    /// The membership whose commitment has been acted upon: nobody else is sent anything.
    pub(crate) settled_membership: Option<Index>,
}

impl Raft {
    /// Appends `command` to the leader's log and starts replicating it.
    ///
    /// It leaves at the next [`handle_timeout`](overlay_core::Machine::handle_timeout), which is due at once, together with
    /// all that was proposed before that: [`Output::Persist`](crate::Output::Persist) and
    /// [`Output::Send`](crate::Output::Send) are queued then. With
    /// [`Config::writes_inflight_max`](crate::Config::writes_inflight_max) writes under way it goes into the next one. It is
    /// applied once a quorum holds it durably (Raft §5.3, §5.4.2).
    ///
    /// # Errors
    ///
    /// Nothing changes on error. [`ProposeError::NotLeader`] carries the leader if one is known;
    /// [`ProposeError::Busy`] asks to retry after more was applied.
    pub fn propose(&mut self, now: Instant, command: Bytes) -> Result<ProposalId, ProposeError> {
        self.touch(now);
        let bytes_max = self.config.command_bytes_max;
        if command.len() > bytes_max {
            return Err(ProposeError::TooLarge {
                bytes: command.len(),
                bytes_max,
            });
        }
        let id = self.append_proposal(Payload::Command(command))?;
        self.unsettle();
        Ok(id)
    }

    /// Appends a proposal of this member, if it leads and there is room.
    pub(crate) fn append_proposal(&mut self, payload: Payload) -> Result<ProposalId, ProposeError> {
        if self.stopped {
            return Err(ProposeError::Stopped);
        }
        let known = self.leader();
        let Standing::Leader(leader) = &self.standing else {
            return Err(ProposeError::NotLeader { leader: known });
        };
        if let Some(transfer) = &leader.transfer {
            return Err(ProposeError::Transferring { to: transfer.to });
        }
        let entry = Entry {
            index: self.log.last_index().next(),
            term: self.term(),
            payload,
        };
        let weight = entry.weight_bytes();
        let bytes = leader.uncommitted_bytes.saturating_add(weight);
        if bytes > self.config.uncommitted_bytes_max && leader.uncommitted_bytes > 0 {
            return Err(ProposeError::Busy {
                bytes: leader.uncommitted_bytes,
                bytes_max: self.config.uncommitted_bytes_max,
            });
        }
        if self.log.bytes().saturating_add(weight) > self.config.log_bytes_max {
            return Err(ProposeError::LogFull {
                bytes: self.log.bytes(),
                bytes_max: self.config.log_bytes_max,
            });
        }
        let id = ProposalId {
            term: entry.term,
            index: entry.index,
        };
        self.append_own(entry);
        self.proposals.add(id);
        Ok(id)
    }

    /// Takes office: the first entry of the term is an empty one (Raft §8).
    pub(crate) fn become_leader(&mut self) {
        let next = self.log.last_index().next();
        let (commit, last) = (self.commit(), self.log.last_index());
        let uncommitted_bytes = self.log.weight_bytes(commit, last);
        self.standing = Standing::Leader(Box::new(Leader {
            first: next,
            followers: Followers::default(),
            heartbeat_deadline: self.now + self.config.heartbeat_interval,
            commit_deadline: None,
            rounds: Rounds::default(),
            transfer: None,
            uncommitted_bytes,
            settled_membership: None,
        }));
        self.stats.elections_won += 1;
        self.trace(|raft| TraceEvent::Leads { term: raft.term() });
        self.incoming = None;
        self.track_members(next);
        self.append_own(Entry {
            index: next,
            term: self.term(),
            payload: Payload::Noop,
        });
        self.announce();
    }

    /// Keeps a [`Progress`] for each member of every membership that may yet hold, and for nobody else.
    ///
    /// A member that leaves is sent entries until its removal is committed and it was told so, or for an election time-out.
    pub(crate) fn track_members(&mut self, next: Index) {
        let (own, now, commit) = (self.config.id, self.now, self.hard_state.commit);
        let Standing::Leader(leader) = &mut self.standing else {
            return;
        };
        let wanted = |id: RaftId| {
            self.log
                .memberships_from(commit)
                .any(|membership| membership.contains(id))
        };
        let votes = |id: RaftId| {
            self.log
                .memberships_from(commit)
                .any(|membership| membership.is_voter(id))
        };
        let (at, _) = self.log.membership_at(commit);
        let until = now + self.config.election_timeout;
        leader.followers.retain(|id, progress| {
            if !votes(id) {
                progress.lose_vote();
            }
            if wanted(id) {
                progress.stay();
                return true;
            }
            progress.part(at, now, until)
        });
        for id in self
            .log
            .memberships_from(commit)
            .flat_map(|membership| membership.members())
        {
            if id != own {
                leader.followers.add(id, || Progress::new(next, now));
            }
        }
    }

    /// Commits what a quorum holds durably, if it is of this term (Raft §5.4.2).
    pub(crate) fn advance_commit(&mut self) {
        let Standing::Leader(leader) = &self.standing else {
            return;
        };
        let index = self.membership().quorum_value(|id, incarnation| {
            if id == self.config.id {
                return if planted::has(Bug::CountsItselfTooEarly) {
                    self.log.last_index()
                } else {
                    self.writes.durable()
                };
            }
            leader
                .followers
                .get(id)
                .filter(|progress| progress.counts(incarnation))
                .map_or(Index::ZERO, |progress| progress.matched)
        });
        let is_own = self.log.term_at(index) == Some(self.term())
            || planted::has(Bug::CommitsOfEarlierTerms);
        if index > self.commit() && is_own {
            self.commit_to(index);
        }
    }

    /// Runs what is due on a leader.
    pub(crate) fn lead_on(&mut self) {
        let Standing::Leader(leader) = &mut self.standing else {
            return;
        };
        let transfer_failed = leader
            .transfer
            .take_if(|transfer| self.now >= transfer.deadline);
        let heartbeat_due = self.now >= leader.heartbeat_deadline;
        if let Some(transfer) = transfer_failed {
            self.outbox.event(Event::TransferFailed { to: transfer.to });
        }
        if let Standing::Leader(leader) = &self.standing
            && self.now >= self.quorum_deadline(leader)
        {
            self.stats.quorums_lost += 1;
            self.become_follower(self.hard_state.term, None);
            return;
        }
        if let Some(since) = self.stalled_since()
            && self.now >= since + self.config.election_timeout
        {
            self.outbox.event(Event::DiskStalled { since });
            self.hand_over();
            return;
        }
        if heartbeat_due {
            self.track_members(self.log.last_index().next());
            self.broadcast_heartbeat();
        }
        self.tell_commit_if_due();
    }

    /// Returns when a leader is next due.
    pub(crate) fn leader_deadline(&self, leader: &Leader) -> Instant {
        let stalled = self
            .stalled_since()
            .map(|since| since + self.config.election_timeout);
        let transfer = leader.transfer.as_ref().map(|transfer| transfer.deadline);
        [stalled, transfer, leader.commit_deadline]
            .into_iter()
            .flatten()
            .fold(leader.heartbeat_deadline, Instant::min)
            .min(self.quorum_deadline(leader))
    }

    /// Gives up leadership, to the voter that holds the most of the log if one answers.
    pub(crate) fn hand_over(&mut self) {
        if let Standing::Leader(leader) = &self.standing {
            let best = self
                .membership()
                .voters()
                .filter_map(|id| {
                    let progress = leader.followers.get(id)?;
                    let meant = self.membership().incarnation(id);
                    let answers = meant.is_some_and(|meant| progress.counts(meant))
                        && self.now < progress.contact + self.config.election_timeout;
                    let replicates = matches!(progress.mode, Mode::Replicate { .. });
                    (answers && replicates).then_some((progress.matched, id))
                })
                .max();
            if let Some((_, id)) = best {
                self.send(id, None, Body::TimeoutNow);
            }
        }
        self.become_follower(self.hard_state.term, None);
    }

    /// Leaves a joint membership as soon as it is committed, whoever entered it (Raft §6, thesis §4.3).
    pub(crate) fn leave_joint(&mut self) {
        let Standing::Leader(leader) = &self.standing else {
            return;
        };
        let is_due = self.membership().is_joint()
            && self.is_membership_committed()
            && self.commit() >= leader.first
            && leader.transfer.is_none();
        if is_due {
            let membership = self.membership().left();
            self.append_own(Entry {
                index: self.log.last_index().next(),
                term: self.term(),
                payload: Payload::Membership(membership),
            });
            self.membership_changed();
        }
    }

    /// Draws what follows from another membership in the leader's log.
    pub(crate) fn membership_changed(&mut self) {
        if let Standing::Leader(leader) = &mut self.standing {
            leader.rounds.end_lease();
            leader.settled_membership = None;
        }
        self.track_members(self.log.last_index());
        self.tell_membership();
    }

    /// Draws what follows from the membership in force being committed, once.
    pub(crate) fn settle_membership(&mut self) {
        let (index, is_committed) = (self.log.membership_index(), self.is_membership_committed());
        let Standing::Leader(leader) = &mut self.standing else {
            return;
        };
        if is_committed && leader.settled_membership != Some(index) {
            leader.settled_membership = Some(index);
            self.tell_commit();
            self.track_members(self.log.last_index().next());
            self.leave_if_removed();
        }
    }

    /// Steps down once a membership is committed in which this leader has no vote (thesis §4.2.2).
    fn leave_if_removed(&mut self) {
        if self.is_leader() && !self.has_vote() && self.is_membership_committed() {
            self.hand_over();
        }
    }

    fn append_own(&mut self, entry: Entry) {
        if let Standing::Leader(leader) = &mut self.standing {
            leader.uncommitted_bytes = leader
                .uncommitted_bytes
                .saturating_add(entry.weight_bytes());
        }
        self.trace(|_| TraceEvent::Appended {
            first: entry.index,
            terms: vec![entry.term],
        });
        self.log.append(entry);
    }

    /// Returns when the leader will not have heard from a quorum for an election time-out (thesis §6.2).
    fn quorum_deadline(&self, leader: &Leader) -> Instant {
        let contact = self.membership().quorum_value(|id, incarnation| {
            if id == self.config.id {
                return Instant::MAX;
            }
            leader
                .followers
                .get(id)
                .filter(|progress| progress.incarnation.is_none() || progress.counts(incarnation))
                .map_or(Instant::EPOCH, |progress| progress.contact)
        });
        contact + self.config.election_timeout
    }

    /// Returns since when the oldest write is under way, unless nobody else could lead.
    fn stalled_since(&self) -> Option<Instant> {
        self.writes
            .oldest()
            .filter(|_| !self.membership().is_sole_voter(self.config.id))
    }
}
