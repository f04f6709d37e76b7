//! The machine contract, line by line, by the checker of `overlay-sim`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod cluster;

use std::collections::VecDeque;

use bytes::Bytes;
use overlay_core::{Instant, Machine, Rng, Seed};
use overlay_raft::{
    Change, Config, Index, Output, Payload, PersistTicket, Raft, ReadMode, Restored,
};
use overlay_sim::contract::{self, Acted, Subject};

use cluster::{Body, GROUP, Message, command, config, id, membership, message::joint};

#[test]
fn raft_keeps_the_contract() {
    let summary = contract::assert_holds("raft_keeps_the_contract", 60, RaftSubject::default);
    assert!(summary.refused > 1_000, "{summary:?}");
    assert!(summary.outputs > 10_000, "{summary:?}");
}

/// A member of three, with small limits.
#[derive(Default)]
struct RaftSubject {
    tickets: VecDeque<PersistTicket>,
    /// What the member last said, so that samples are near to what it expects.
    term: u64,
    last: u64,
    round: u64,
    applied: u64,
}

impl RaftSubject {
    fn config() -> Config {
        Config {
            log_bytes_max: 4_000,
            uncommitted_bytes_max: 1_000,
            snapshot_bytes_max: 300,
            snapshot_chunk_bytes_max: 20,
            trailing_entries_max: 2,
            members_max: 5,
            reads_max: 4,
            inflight_max: 2,
            messages_max: 50,
            writes_inflight_max: 3,
            ..config(1)
        }
    }

    fn body(&self, rng: &mut Rng) -> Body {
        let near = |rng: &mut Rng, value: u64| (value + 1).saturating_sub(rng.below(3));
        let (index, term) = (near(rng, self.last), near(rng, self.term));
        match rng.below(17) {
            0 => Body::PreVote {
                round: 1,
                last_index: index,
                last_term: term,
            },
            1 | 2 => Body::PreVoteReply {
                round: self.round,
                granted: rng.chance(800_000),
            },
            3 => Body::Vote {
                last_index: index,
                last_term: term,
                transfer: rng.chance(500_000),
            },
            4 | 5 => Body::VoteReply {
                granted: rng.chance(800_000),
            },
            6 | 7 => Body::Append {
                previous: index,
                previous_term: term,
                commit: near(rng, self.last),
                entries: (0..rng.below(4)).map(|_| (term, payload(rng))).collect(),
            },
            8 => Body::Accepted {
                matched: near(rng, self.last),
            },
            9 => Body::Rejected {
                previous: index,
                hint: rng.below(self.last + 2),
                hint_term: term,
            },
            10 => Body::Heartbeat {
                commit: near(rng, self.last),
                round: rng.below(10),
            },
            11 => Body::HeartbeatReply {
                round: rng.below(20),
            },
            12 => {
                let total = rng.below(400);
                let offset = rng.below(40) / 20 * 20;
                let length = usize::try_from(total.saturating_sub(offset).min(20)).unwrap();
                Body::Chunk {
                    index: index + rng.below(5),
                    term,
                    membership: membership(&[1, 2, 3], &[4]),
                    total,
                    offset,
                    data: Bytes::from(vec![7; length]),
                }
            }
            13 => Body::Commit {
                commit: near(rng, self.last),
            },
            14 => reading(rng, index),
            15 => Body::SnapshotReply {
                index,
                wanted: rng.below(300),
            },
            _ => Body::TimeoutNow,
        }
    }
}

fn reading(rng: &mut Rng, index: u64) -> Body {
    let (life, number) = (rng.below(2), rng.below(4));
    if rng.chance(500_000) {
        return Body::ReadAsk { life, number };
    }
    Body::ReadAnswer {
        life,
        number,
        index,
    }
}

fn payload(rng: &mut Rng) -> Payload {
    match rng.below(10) {
        0 => Payload::Noop,
        1 => Payload::Membership(membership(&[1, 2, 3], &[5])),
        2 => Payload::Membership(membership(&[2, 3], &[])),
        3 => Payload::Membership(joint(&[2, 3], &[1, 2, 3], &[1])),
        _ => command(&"x".repeat(rng.index(100).unwrap())),
    }
}

impl Subject for RaftSubject {
    type Machine = Raft;

    fn build(&mut self, seed: Seed, now: Instant) -> Raft {
        let restored = Restored::bootstrap([id(1), id(2), id(3)]);
        Raft::new(Self::config(), seed, now, restored).unwrap()
    }

    fn act(&mut self, raft: &mut Raft, now: Instant, rng: &mut Rng) -> Acted {
        let target = id(1 + rng.below(5));
        match rng.below(16) {
            0..7 => {
                match self.tickets.pop_front() {
                    Some(ticket) => raft.handle_persisted(now, ticket),
                    None => raft.handle_timeout(now),
                }
                Acted::Done
            }
            7 => match self.tickets.pop_back() {
                Some(ticket) if rng.chance(50_000) => {
                    raft.handle_persist_failed(now, ticket);
                    Acted::Done
                }
                Some(ticket) => {
                    raft.handle_persisted(now, ticket); // covers those that are still here
                    Acted::Done
                }
                None => {
                    raft.handle_timeout(now);
                    Acted::Done
                }
            },
            8 | 9 => {
                let length = rng.index(300).unwrap();
                raft.propose(now, Bytes::from(vec![1; length])).into()
            }
            10 => raft.read_index(now, ReadMode::Quorum).into(),
            11 => raft.transfer(now, target).into(),
            12 => {
                let change = match rng.below(4) {
                    0 => Change::AddLearner(target),
                    1 => Change::Promote(target),
                    2 => Change::Demote(target),
                    _ => Change::Remove(target),
                };
                let second = Change::Demote(id(1 + rng.below(3)));
                let changes = [change, second];
                let count = 1 + usize::from(rng.chance(300_000));
                raft.change(now, &changes[..count]).into()
            }
            13 => {
                let index = Index::new(self.applied + rng.below(2));
                let state = vec![2; rng.index(310).unwrap()];
                raft.compact(now, index, Bytes::from(state)).into()
            }
            14 => {
                raft.campaign(now);
                Acted::Done
            }
            _ => {
                let body = self.body(rng);
                self.feed_body(raft, now, rng, body)
            }
        }
    }

    fn take(&mut self, output: Output) -> String {
        match output {
            Output::Persist(batch) => {
                let text = format!("{:?}", batch.write());
                let (write, ticket) = batch.into_parts();
                self.term = write.hard_state.term.get();
                self.last = write
                    .entries
                    .last()
                    .map_or(self.last, |entry| entry.index.get());
                self.tickets.push_back(ticket);
                text
            }
            Output::Send { to, message } => {
                let message = Message::decode(&message.encode());
                if let Body::PreVote { round, .. } = message.body {
                    self.round = round;
                }
                format!("{to} {message:?}")
            }
            Output::Apply(batch) => {
                self.applied = batch.iter().last().unwrap().index.get();
                format!("{batch:?}")
            }
            other => format!("{other:?}"),
        }
    }

    /// Everything but the queue, the time, the generator, which only moves on, and the counter of refused messages.
    fn fingerprint(&self, raft: &Raft) -> String {
        let mut stats = *raft.stats();
        stats.messages_refused = 0;
        format!("{raft:?} {stats:?}")
    }

    /// What remote input can make grow. A driver drains outputs, so they do not count.
    fn footprint(&self, raft: &Raft) -> usize {
        usize::try_from(raft.log_bytes()).unwrap()
    }

    fn footprint_max(&self) -> usize {
        8_000
    }

    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        let body = self.body(rng);
        self.message(rng, body).encode()
    }

    fn feed(&mut self, raft: &mut Raft, now: Instant, bytes: &[u8], rng: &mut Rng) -> Acted {
        let from = id(1 + rng.below(5));
        let decoded = overlay_raft::Message::decode(&Bytes::copy_from_slice(bytes));
        let Ok(message) = decoded else {
            return Acted::Refused;
        };
        raft.handle_message(now, from, message).into()
    }
}

impl RaftSubject {
    fn message(&self, rng: &mut Rng, body: Body) -> Message {
        Message {
            group: GROUP + u64::from(rng.chance(20_000)),
            to: 1 + u64::from(rng.chance(20_000)),
            term: (self.term + 1).saturating_sub(rng.below(3)),
            incarnation: u64::from(rng.chance(20_000)),
            means: (!rng.chance(50_000)).then_some(0),
            body,
        }
    }

    fn feed_body(&self, raft: &mut Raft, now: Instant, rng: &mut Rng, body: Body) -> Acted {
        let bytes = self.message(rng, body).encode().into();
        let message = overlay_raft::Message::decode(&bytes).unwrap();
        raft.handle_message(now, id(2 + rng.below(2)), message)
            .into()
    }
}
