//! Linearizable reads without writing to the log (ReadIndex, thesis §6.4).

use std::collections::VecDeque;

use overlay_core::Instant;

use crate::{Index, Output, Raft, ReadError, ReadId, raft::Standing};

/// Reads that wait until a quorum has confirmed, after they came in, that this leader still leads.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The last round of heartbeats that was sent.
    round: u64,
    /// In the order in which they came; rounds and indexes never fall.
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    read: ReadId,
    index: Index,
    round: u64,
}

impl Reads {
    pub(crate) fn next_round(&mut self) -> u64 {
        self.round += 1;
        self.round
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = ReadId> {
        std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|waiting| waiting.read)
    }
}

impl Raft {
    /// Asks from which index on the application's state may answer a read that came in now.
    ///
    /// Queues [`Output::ReadReady`] once a quorum confirmed that this member still leads, an entry of its term is
    /// committed (Raft §8), and everything up to the index was handed out; [`Event::ReadLost`](crate::Event::ReadLost)
    /// if it stops leading before that.
    ///
    /// # Errors
    ///
    /// Nothing changes on error. [`ReadError::NotLeader`] carries the leader if one is known.
    pub fn read_index(&mut self, now: Instant) -> Result<ReadId, ReadError> {
        self.touch(now);
        if self.stopped {
            return Err(ReadError::Stopped);
        }
        let (known, commit) = (self.leader(), self.commit());
        let Standing::Leader(leader) = &mut self.standing else {
            return Err(ReadError::NotLeader { leader: known });
        };
        let reads = leader.reads.waiting.len();
        if reads >= self.config.reads_max {
            return Err(ReadError::Busy {
                reads,
                reads_max: self.config.reads_max,
            });
        }
        self.stats.reads += 1;
        let read = ReadId(self.stats.reads);
        leader.reads.waiting.push_back(Waiting {
            read,
            // What earlier terms committed is at or before this leader's first entry.
            index: commit.max(leader.first),
            round: leader.reads.round + 1,
        });
        self.settle();
        Ok(read)
    }

    /// Answers reads that are confirmed, and starts a round for those that wait for one.
    pub(crate) fn answer_reads(&mut self) {
        loop {
            let confirmed = self.confirmed_round();
            let reach = self.applied;
            let Standing::Leader(leader) = &mut self.standing else {
                return;
            };
            let reads = &mut leader.reads;
            while let Some(ready) = reads.waiting.front() {
                if ready.round > confirmed || ready.index > reach {
                    break;
                }
                self.outbox.push(Output::ReadReady {
                    read: ready.read,
                    index: ready.index,
                });
                reads.waiting.pop_front();
            }
            let unsent = reads
                .waiting
                .back()
                .is_some_and(|waiting| waiting.round > reads.round);
            if !unsent || confirmed < reads.round {
                return;
            }
            self.broadcast_heartbeat();
        }
    }

    /// Returns the last round that a quorum has acknowledged.
    fn confirmed_round(&self) -> u64 {
        let Standing::Leader(leader) = &self.standing else {
            return 0;
        };
        self.membership().quorum_value(|id, incarnation| {
            if id == self.config.id {
                return leader.reads.round;
            }
            leader
                .progress
                .get(&id)
                .filter(|progress| progress.counts(incarnation))
                .map_or(0, |progress| progress.round)
        })
    }
}
