//! Linearizable reads without writing to the log (thesis §6.4): on the leader, on followers, and by lease.

use std::{collections::VecDeque, time::Duration};

use overlay_core::Instant;

use crate::{
    Event, Index, Output, Raft, RaftId, ReadError, ReadId,
    planted::{self, Bug},
    raft::Standing,
    wire::{Body, ReadAnswer, ReadAsk},
};

/// How a read is made sure of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadMode {
    /// A quorum confirms that the leader still leads. Safe whatever the clocks do.
    #[default]
    Quorum,
    /// The leader relies on what a quorum said within the last election time-out, less what clocks may differ; where that is
    /// too long ago, as [`Quorum`](Self::Quorum). It saves a round trip, and needs
    /// [`Config::clock_drift_ppm_max`](crate::Config::clock_drift_ppm_max) to be true. On a member that does not lead it is
    /// [`Quorum`](Self::Quorum).
    Lease,
}

/// Reads of this member that were not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The last one; each is counted once in a life.
    last: u64,
    /// Those that the leader, another member, has not confirmed.
    asked: VecDeque<u64>,
    /// Whether the leader was not asked about the newest of them.
    unsent: bool,
    /// Those that are confirmed, until everything up to their index is applied.
    confirmed: VecDeque<(u64, Index)>,
}

/// What a leader knows about its own right to answer.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The last round of heartbeats that was sent.
    last: u64,
    /// When the rounds were sent that no quorum has acknowledged.
    sent: VecDeque<(u64, Instant)>,
    /// When the last round was sent that a quorum has acknowledged.
    confirmed_at: Option<Instant>,
    /// In the order in which they came; rounds and indexes never fall.
    waiting: VecDeque<Waiting>,
    /// Whether somebody may have been asked to campaign: no lease holds then.
    pub(crate) gives_way: bool,
}

/// A read that waits until a quorum has confirmed, after it came in, that this leader still leads.
#[derive(Debug)]
struct Waiting {
    reader: Reader,
    index: Index,
    round: u64,
}

#[derive(Clone, Copy, Debug)]
enum Reader {
    Own(u64),
    Follower { id: RaftId, life: u64, number: u64 },
}

impl Rounds {
    pub(crate) fn begin(&mut self, now: Instant) -> u64 {
        self.last += 1;
        if self.sent.len() >= ROUNDS_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last, now));
        self.last
    }

    /// Forgets what a quorum said: it was one of another membership.
    pub(crate) fn end_lease(&mut self) {
        self.confirmed_at = None;
        self.sent.clear();
    }
}

impl Raft {
    /// Asks from which index on the application's state may answer a read that came in now.
    ///
    /// Works on any member; one that does not lead asks the leader. Queues [`Output::ReadReady`] once it is certain that
    /// nobody leads in a later term (see [`ReadMode`]), an entry of the leader's term is committed (Raft §8), and everything
    /// up to the index was handed out here; [`Event::ReadLost`] if the leader changes before that.
    ///
    /// # Errors
    ///
    /// Nothing changes on error. [`ReadError::NoLeader`] and [`ReadError::Busy`] ask to retry later.
    pub fn read_index(&mut self, now: Instant, mode: ReadMode) -> Result<ReadId, ReadError> {
        self.touch(now);
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        if mode == ReadMode::Lease && self.config.clock_drift_ppm_max.is_none() {
            return Err(ReadError::NoLease);
        }
        let reads_max = self.config.reads_max;
        let reads = self.waiting_reads();
        if reads >= reads_max {
            return Err(ReadError::Busy { reads, reads_max });
        }
        if self.leader().is_none() {
            return Err(ReadError::NoLeader);
        }
        self.stats.reads += 1;
        self.reads.last += 1;
        let number = self.reads.last;
        if !self.is_leader() && planted::has(Bug::FollowersReadAlone) {
            let index = self.commit();
            self.reads.confirmed.push_back((number, index));
        } else if !self.is_leader() {
            self.reads.asked.push_back(number);
            self.reads.unsent = true;
        } else if planted::has(Bug::ReadsWithoutARound) {
            let index = self.readable();
            self.reads.confirmed.push_back((number, index));
        } else if mode == ReadMode::Lease && self.has_lease() {
            self.stats.lease_reads += 1;
            let index = self.readable();
            self.reads.confirmed.push_back((number, index));
        } else {
            self.wait_for_round(Reader::Own(number));
        }
        self.unsettle();
        Ok(ReadId(number))
    }

    /// Answers reads that are confirmed, and starts a round for those that wait for one.
    pub(crate) fn answer_reads(&mut self) {
        while self.confirm_reads() {}
        self.ask_leader();
        let reach = self.applied;
        while let Some(&(number, index)) = self.reads.confirmed.front()
            && index <= reach
        {
            self.reads.confirmed.pop_front();
            let read = ReadId(number);
            self.outbox.push(Output::ReadReady { read, index });
        }
    }

    /// A follower asks for its reads. Asking again costs little, and answers are lost as anything is.
    pub(crate) fn on_read_ask(&mut self, from: RaftId, body: &ReadAsk) {
        let reads_max = self.config.reads_max;
        let Standing::Leader(leader) = &self.standing else {
            return;
        };
        let is_member = leader.followers.get(from).is_some();
        if is_member && leader.rounds.waiting.len() < reads_max {
            self.wait_for_round(Reader::Follower {
                id: from,
                life: body.life,
                number: body.number,
            });
        }
    }

    pub(crate) fn on_read_answer(&mut self, from: RaftId, body: &ReadAnswer) {
        if self.leader() != Some(from) || body.life != self.writes.machine() {
            return;
        }
        while let Some(&number) = self.reads.asked.front()
            && (number <= body.number || planted::has(Bug::MixesUpAnswers))
        {
            self.reads.asked.pop_front();
            self.reads.confirmed.push_back((number, body.index));
        }
    }

    /// Has the leader asked once more at the next opportunity.
    pub(crate) fn ask_again(&mut self) {
        self.reads.unsent = !self.reads.asked.is_empty();
    }

    /// Another member leads, or nobody: what nobody confirmed, nobody will.
    pub(crate) fn lose_reads(&mut self) {
        let asked = std::mem::take(&mut self.reads.asked);
        self.reads.unsent = false;
        for number in asked {
            self.outbox.event(Event::ReadLost(ReadId(number)));
        }
    }

    /// As above, on a leader that ceases to be one.
    pub(crate) fn lose_own_reads(&mut self) {
        let Standing::Leader(leader) = &mut self.standing else {
            return;
        };
        for waiting in std::mem::take(&mut leader.rounds.waiting) {
            if let Reader::Own(number) = waiting.reader {
                self.outbox.event(Event::ReadLost(ReadId(number)));
            }
        }
    }

    /// Returns whether nobody else can lead yet, by what a quorum vowed and by the bound on clocks.
    fn has_lease(&self) -> bool {
        let (Standing::Leader(leader), Some(drift)) =
            (&self.standing, self.config.clock_drift_ppm_max)
        else {
            return false;
        };
        let gives_way = leader.rounds.gives_way || leader.transfer.is_some();
        if (gives_way && !planted::has(Bug::KeepsItsLease)) || self.commit() < leader.first {
            return false;
        }
        let lease = lease_of(self.config.election_timeout, drift);
        self.membership().is_sole_voter(self.config.id)
            || leader
                .rounds
                .confirmed_at
                .is_some_and(|since| self.now < since + lease)
    }

    /// Moves on what a quorum confirmed; returns whether a round was begun that may be confirmed already.
    fn confirm_reads(&mut self) -> bool {
        if let Standing::Leader(leader) = &self.standing
            && leader.rounds.waiting.is_empty()
            && leader.rounds.sent.is_empty()
        {
            return false;
        }
        let confirmed = self.confirmed_round();
        let commit = self.commit();
        let Standing::Leader(leader) = &mut self.standing else {
            return false;
        };
        let rounds = &mut leader.rounds;
        while let Some(&(round, at)) = rounds.sent.front()
            && round <= confirmed
        {
            rounds.confirmed_at = Some(at);
            rounds.sent.pop_front();
        }
        let mut answers = Vec::new();
        while let Some(ready) = rounds.waiting.front()
            && ready.round <= confirmed
            && ready.index <= commit
        {
            let index = ready.index;
            match ready.reader {
                Reader::Own(number) => self.reads.confirmed.push_back((number, index)),
                Reader::Follower { id, life, number } => answers.push((
                    id,
                    ReadAnswer {
                        life,
                        number,
                        index,
                    },
                )),
            }
            rounds.waiting.pop_front();
        }
        let waits = rounds
            .waiting
            .back()
            .is_some_and(|waiting| waiting.round > rounds.last);
        let begins = waits && rounds.sent.len() < ROUNDS_AT_ONCE;
        if !answers.is_empty() {
            // Whoever asked waits for it.
            self.tell_commit();
        }
        for (id, answer) in answers {
            self.send(id, None, Body::ReadAnswer(answer));
        }
        if begins {
            self.broadcast_heartbeat();
        }
        begins
    }

    /// Asks the leader about all reads that came in since it was asked.
    fn ask_leader(&mut self) {
        let (Some(leader), Some(&number)) = (self.leader(), self.reads.asked.back()) else {
            return;
        };
        if std::mem::take(&mut self.reads.unsent) {
            let life = self.writes.machine();
            self.send(leader, None, Body::ReadAsk(ReadAsk { life, number }));
        }
    }

    fn wait_for_round(&mut self, reader: Reader) {
        let index = self.readable();
        if let Standing::Leader(leader) = &mut self.standing {
            let round = leader.rounds.last + 1;
            leader.rounds.waiting.push_back(Waiting {
                reader,
                index,
                round,
            });
        }
    }

    /// Returns what a read that comes in now must see. What earlier terms committed is at or before a leader's first entry.
    fn readable(&self) -> Index {
        match &self.standing {
            Standing::Leader(leader) if !planted::has(Bug::ReadsTooEarly) => {
                self.commit().max(leader.first)
            }
            _ => self.commit(),
        }
    }

    fn waiting_reads(&self) -> usize {
        let rounds = match &self.standing {
            Standing::Leader(leader) => leader.rounds.waiting.len(),
            _ => 0,
        };
        let own = self.reads.asked.len() + self.reads.confirmed.len();
        own.saturating_add(rounds)
    }

    /// Returns the last round that a quorum has acknowledged.
    fn confirmed_round(&self) -> u64 {
        let Standing::Leader(leader) = &self.standing else {
            return 0;
        };
        self.membership().quorum_value(|id, incarnation| {
            if id == self.config.id {
                return leader.rounds.last;
            }
            leader
                .followers
                .get(id)
                .filter(|progress| progress.counts(incarnation))
                .map_or(0, |progress| progress.round)
        })
    }
}

/// Returns how long a leader may rely on vows of `timeout`: its own clock may be slow while a voter's is fast.
fn lease_of(timeout: Duration, drift_ppm: u32) -> Duration {
    const MILLION: u32 = 1_000_000;
    timeout * MILLION.saturating_sub(drift_ppm) / MILLION.saturating_add(drift_ppm)
}

/// So many rounds are begun for reads before a quorum acknowledged the first of them.
const ROUNDS_AT_ONCE: usize = 4;

/// So many rounds may wait for a quorum at once; a lease counts from the oldest that is known.
const ROUNDS_MAX: usize = 64;
