//! The machine: its state, its four kinds of method, and the order in which consequences are drawn.

use std::{collections::BTreeSet, fmt, sync::Arc};

use overlay_core::{Instant, Machine, Rng, Seed};

use crate::{
    ApplyBatch, Config, Event, HardState, Incarnation, Index, Message, MessageError, Output,
    PersistTicket, RaftId, RestoreError, Restored, Stats,
    leader::Leader,
    log::Log,
    output::Outbox,
    persist::{Write, WriteBatch, Writes},
    planted::{self, Bug},
    proposals::Proposals,
    read::Reads,
    snapshot::Incoming,
    trace::{TraceEvent, Tracer},
    wire::{AppendReply, Body, Envelope, Verdict},
};

/// One member of a Raft cluster.
///
/// A [`Machine`]: it is handed messages, acknowledgements of writes and the time, and hands back what to do. The
/// [crate documentation](crate) shows the loop.
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) hard_state: HardState,
    pub(crate) log: Log,
    pub(crate) writes: Writes,
    pub(crate) outbox: Outbox,
    pub(crate) standing: Standing,
    pub(crate) election_deadline: Instant,
    /// The last entry that was handed to the application, or skipped because it is none of its business.
    pub(crate) applied: Index,
    /// The ticket that makes an installed snapshot durable; the application gets it then.
    pub(crate) restoring: Option<u64>,
    pub(crate) incoming: Option<Incoming>,
    /// Proposals of this member whose fate is open.
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    /// What the leader is to be told: up to where the log agrees with its own.
    pub(crate) accepted: Option<(RaftId, Index)>,
    /// Until then this member votes for nobody, where leases are relied upon.
    pub(crate) vow_until: Instant,
    /// Since when something has happened whose consequences were not drawn yet.
    unsettled: Option<Instant>,
    pub(crate) stats: Stats,
    pub(crate) tracer: Option<Tracer>,
    pub(crate) stopped: bool,
}

/// What the member is at the moment, with what it needs for that.
#[derive(Debug)]
pub(crate) enum Standing {
    Follower {
        leader: Option<RaftId>,
        /// When the leader was last heard.
        contact: Instant,
    },
    PreCandidate {
        round: u64,
        granted: BTreeSet<RaftId>,
    },
    Candidate {
        granted: BTreeSet<RaftId>,
        /// The ticket that makes its vote for itself durable; only then does it count.
        ticket: u64,
    },
    Leader(Box<Leader>),
}

/// What a member is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It has no vote: a learner, one that was removed, one that waits to be added.
    Learner,
    /// It follows a leader or waits for one.
    Follower,
    /// It asks whether it would be elected.
    PreCandidate,
    /// It asks to be elected.
    Candidate,
    /// It leads.
    Leader,
}

impl Raft {
    /// Starts a member from what its disk holds.
    ///
    /// `seed` must be a fresh one for every life, from the system's entropy: what tells a disk from the one before it
    /// ([`Incarnation`]) and a ticket from those of another life comes from it, and both are there for safety.
    ///
    /// Queues [`Output::Restore`] and [`Output::Apply`] for what is known to be committed.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] if the settings cannot work, or the disk is empty or belongs to somebody else.
    pub fn new(
        config: Config,
        seed: Seed,
        now: Instant,
        restored: Restored,
    ) -> Result<Self, RestoreError> {
        config.check()?;
        // Another one for each member, also where a test gives all of them one seed.
        let mut rng = seed
            .derive("raft")
            .derive(&format!("{} of {}", config.id, config.group))
            .rng();
        let incarnation = Incarnation::new(rng.next_u64() | 1);
        let state = restored.into_state(&config, incarnation)?;
        let is_new = state.is_new;
        let log = Log::new(Arc::new(state.snapshot), state.entries);
        let mut writes = Writes::new(rng.next_u64(), log.last_index());
        if is_new {
            writes.note_install(log.snapshot().index);
        }
        let mut raft = Self {
            now,
            hard_state: state.hard_state,
            writes,
            outbox: Outbox::default(),
            standing: Standing::Follower {
                leader: None,
                contact: now,
            },
            election_deadline: now,
            applied: log.snapshot().index,
            restoring: None,
            incoming: None,
            proposals: Proposals::default(),
            reads: Reads::default(),
            accepted: None,
            vow_until: now,
            unsettled: None,
            stats: Stats::default(),
            tracer: None,
            stopped: false,
            config,
            rng,
            log,
        };
        raft.outbox.announced = (None, raft.hard_state.term);
        if raft.applied > Index::ZERO {
            let snapshot = Arc::clone(raft.log.snapshot());
            raft.outbox.push(Output::Restore(snapshot));
        }
        if !is_new {
            // What it vowed to a leader in its last life, it does not know.
            raft.vow();
        }
        if !raft.membership().is_sole_voter(raft.config.id) {
            raft.postpone_election();
        }
        raft.settle();
        Ok(raft)
    }

    /// Takes a message that `from` sent; the driver vouches for who that is.
    ///
    /// What follows from it is drawn at the next [`handle_timeout`](Machine::handle_timeout), which is due at once.
    ///
    /// # Errors
    ///
    /// [`MessageError`] if it is for somebody else, or says what cannot be. Nothing changes then.
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: RaftId,
        message: Message,
    ) -> Result<(), MessageError> {
        self.touch(now);
        if self.stopped {
            return Ok(());
        }
        let Message { envelope, body } = message;
        if let Err(error) = self.admit(from, &envelope, &body) {
            self.stats.messages_refused += 1;
            return Err(error);
        }
        self.stats.messages_received += 1;
        self.step(from, &envelope, body);
        self.unsettle();
        Ok(())
    }

    /// Takes back the ticket of a write that is durable now. Covers all earlier ones.
    ///
    /// Queues what waited for it; the rest follows at the next [`handle_timeout`](Machine::handle_timeout), which is due at
    /// once. A ticket of another machine, or one that a later one covered, does nothing.
    pub fn handle_persisted(&mut self, now: Instant, ticket: PersistTicket) {
        self.touch(now);
        if self.stopped || !self.writes.complete(&ticket) {
            return;
        }
        let done = self.writes.done();
        self.trace(|raft| TraceEvent::Durable {
            index: raft.writes.durable(),
        });
        self.outbox.release(done);
        self.count_own_vote();
        self.unsettle();
    }

    /// Takes back the ticket of a write that failed: what the disk holds is unknown.
    ///
    /// Queues [`Event::Fatal`] and nothing else ever after; what was queued is forgotten. Rebuild the machine from
    /// what the disk really holds.
    pub fn handle_persist_failed(&mut self, now: Instant, ticket: PersistTicket) {
        self.touch(now);
        if self.stopped || !self.writes.is_known(&ticket) {
            return;
        }
        self.stopped = true;
        self.outbox.clear();
        self.incoming = None;
        self.standing = Standing::Follower {
            leader: None,
            contact: self.now,
        };
        self.outbox.event(Event::Fatal);
    }

    /// Notes the time; it never goes back.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Notes that something happened, whose consequences the next time-out draws.
    pub(crate) fn unsettle(&mut self) {
        self.unsettled.get_or_insert(self.now);
    }

    /// Returns whether this member, in this incarnation, is a voter of the membership in force.
    pub(crate) fn has_vote(&self) -> bool {
        self.membership().incarnation(self.config.id) == Some(self.hard_state.incarnation)
    }

    /// Queues a message. All but a leader's own wait until everything that came before them is durable.
    pub(crate) fn send(&mut self, to: RaftId, means: Option<Incarnation>, body: Body) {
        if self.outbox.len() >= self.config.messages_max {
            self.stats.messages_dropped += 1;
            return;
        }
        let envelope = Envelope {
            group: self.config.group,
            to,
            term: self.hard_state.term,
            incarnation: self.hard_state.incarnation,
            means,
        };
        let done = self.writes.done();
        let required = if body.is_of_leader() || planted::has(Bug::AnswersBeforeItIsDurable) {
            done
        } else {
            self.writes.required(self.log.last_index())
        };
        self.stats.messages_sent += 1;
        let message = Message { envelope, body };
        self.outbox
            .send_after(required, done, Output::Send { to, message });
    }

    /// Draws all consequences of what happened since the last time. So what came together leaves together: one message for
    /// each follower, one write.
    fn settle(&mut self) {
        self.unsettled = None;
        self.log.seal();
        self.advance_commit();
        self.leave_joint();
        self.apply();
        self.answer_reads();
        self.replicate();
        self.flush();
        self.tell_accepted();
        self.check();
    }

    /// Sets the commit index and tells what became certain by it.
    pub(crate) fn commit_to(&mut self, index: Index) {
        let index = index.min(self.log.last_index());
        if index <= self.hard_state.commit {
            return;
        }
        let before = std::mem::replace(&mut self.hard_state.commit, index);
        self.trace(|_| TraceEvent::Committed { index });
        let (at, membership) = self.log.membership_at(index);
        if at > before {
            let membership = membership.clone();
            self.outbox.event(Event::MembershipChanged {
                index: at,
                membership,
                committed: true,
            });
        }
        if let Standing::Leader(leader) = &mut self.standing {
            let committed = self.log.weight_bytes(before, index);
            leader.uncommitted_bytes = leader.uncommitted_bytes.saturating_sub(committed);
        }
        for id in self.proposals.committed_changes(index, &self.log) {
            self.outbox.event(Event::ChangeCommitted(id));
        }
        for id in self.proposals.decide(index, &self.log) {
            self.outbox.event(Event::ProposalLost(id));
        }
    }

    /// Says that a snapshot took the place of proposals up to `until`.
    pub(crate) fn forget_proposals(&mut self, until: Index) {
        for id in self.proposals.forget(until) {
            self.outbox.event(Event::ProposalUnknown(id));
        }
    }

    /// Hands out what is committed and durable here.
    fn apply(&mut self) {
        if let Some(ticket) = self.restoring {
            if self.writes.done() < ticket {
                return;
            }
            self.restoring = None;
            let snapshot = Arc::clone(self.log.snapshot());
            self.applied = snapshot.index;
            self.outbox.push(Output::Restore(snapshot));
        }
        let until = self.hard_state.commit.min(self.writes.durable());
        if until > self.applied {
            let committed = self.log.range(self.applied, until);
            self.applied = if planted::has(Bug::AppliesTwice) {
                until.previous()
            } else {
                until
            };
            self.trace(|raft| TraceEvent::Applied {
                index: raft.applied,
            });
            self.outbox
                .extend(ApplyBatch::new(committed).map(Output::Apply));
        }
    }

    /// Hands out the next write, unless enough are out already.
    fn flush(&mut self) {
        let last = self.log.last_index();
        if !self.writes.is_dirty(last)
            || self.writes.outstanding() >= self.config.writes_inflight_max
        {
            return;
        }
        let (parts, ticket) = self.writes.issue(self.now, last);
        let snapshot = parts.snapshot.then(|| Arc::clone(self.log.snapshot()));
        let after = snapshot
            .as_ref()
            .map_or(parts.after, |snapshot| snapshot.index);
        let write = Write {
            truncate_from: parts.truncate_from,
            entries: self.log.range(after, last),
            hard_state: self.hard_state.clone(),
            snapshot,
        };
        self.stats.writes += 1;
        self.outbox
            .push(Output::Persist(WriteBatch::new(write, ticket)));
    }

    /// Acknowledges all appends of this turn at once.
    fn tell_accepted(&mut self) {
        if let Some((to, matched)) = self.accepted.take() {
            let verdict = Verdict::Accepted { matched };
            self.send(to, None, Body::AppendReply(AppendReply { verdict }));
        }
    }

    /// Vows to vote for nobody within an election time-out, for which a leader may rely on it.
    pub(crate) fn vow(&mut self) {
        if self.config.clock_drift_ppm_max.is_some() {
            self.vow_until = self.now + self.config.election_timeout;
        }
    }

    /// Tells the driver about leader and term if it does not know yet.
    pub(crate) fn announce(&mut self) {
        let now = (self.leader(), self.hard_state.term);
        if self.outbox.announced != now {
            self.lose_reads();
            self.outbox.announced = now;
            let (leader, term) = now;
            self.outbox.event(Event::LeaderChanged { leader, term });
        }
    }

    /// Invariants that are worth more than speed.
    fn check(&self) {
        if cfg!(debug_assertions) {
            let (commit, last) = (self.hard_state.commit, self.log.last_index());
            assert!(commit <= last, "commit {commit} past the last entry {last}");
            assert!(
                self.log.base() <= self.log.snapshot().index,
                "the log goes back to the snapshot at least"
            );
            assert!(
                self.log.snapshot().index <= commit,
                "only committed entries are in a snapshot"
            );
            assert!(
                self.applied <= commit,
                "applied {} past commit {commit}",
                self.applied
            );
            assert!(
                self.writes.durable() <= last && self.writes.handed() <= last,
                "durable {} or handed out {} past the last entry {last}",
                self.writes.durable(),
                self.writes.handed()
            );
            assert!(
                self.log.last_term() <= self.hard_state.term,
                "no entry is from the future"
            );
        }
    }
}

/// Shows the protocol's state: without the time, the queue of outputs and the counters.
impl fmt::Debug for Raft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raft")
            .field("id", &self.config.id)
            .field("hard_state", &self.hard_state)
            .field("standing", &self.standing)
            .field("log", &self.log)
            .field("applied", &self.applied)
            .field("restoring", &self.restoring)
            .field("incoming", &self.incoming)
            .field("proposals", &self.proposals)
            .field("reads", &self.reads)
            .field("accepted", &self.accepted)
            .field("vow_until", &self.vow_until)
            .field("unsettled", &self.unsettled)
            .field("writes", &self.writes)
            .field("withheld", &self.outbox.withheld())
            .field("election_deadline", &self.election_deadline)
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl Machine for Raft {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.touch(now);
        if self.stopped {
            return;
        }
        if self.is_leader() {
            self.lead_on();
        } else if self.waits_for_leader() && self.now >= self.election_deadline {
            self.miss_leader();
        }
        self.settle();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        if self.stopped {
            return None;
        }
        if self.unsettled.is_some() {
            return self.unsettled;
        }
        match &self.standing {
            Standing::Leader(leader) => Some(self.leader_deadline(leader)),
            _ if self.waits_for_leader() => Some(self.election_deadline),
            _ => None,
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop()
    }
}
