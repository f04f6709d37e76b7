//! Properties: quorums against brute force, the log on a disk against a model, octets from anywhere against a member.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod cluster;

use std::collections::BTreeMap;

use std::sync::Arc;

use bytes::Bytes;
use overlay_core::Seed;
use overlay_raft::{
    Entry, HardState, Incarnation, Index, Snapshot, Term, Write,
    storage::{Log, StorageConfig},
};
use overlay_sim::{CrashPoint, SimDisk};
use proptest::prelude::*;

use cluster::{Body, GROUP, Message, Node, Stored, command, id, membership};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Reference, case 25: what a quorum has reached is what more than half of the voters have reached.
    #[test]
    fn a_quorum_value_is_reached_by_more_than_half(values in prop::collection::vec(0..6_u64, 0..8)) {
        let voters: Vec<u64> = (1..=values.len() as u64).collect();
        let membership = membership(&voters, &[90, 91]);
        let by_id: BTreeMap<u64, u64> = voters.iter().copied().zip(values.iter().copied()).collect();
        let found = membership.quorum_value(|id, _| by_id[&id.get()]);
        let reached_by = |value: u64| values.iter().filter(|held| **held >= value).count();
        let expected = (0..=6).rev().find(|value| 2 * reached_by(*value) > values.len()).unwrap_or(0);
        prop_assert_eq!(found, expected);
        for value in 0..=6 {
            let agreed = membership.has_quorum(|id, _| by_id[&id.get()] >= value);
            prop_assert_eq!(agreed, 2 * reached_by(value) > values.len());
        }
    }

    /// Any quorums of two memberships that differ by one voter have a member in common (thesis §4.1).
    #[test]
    fn quorums_before_and_after_a_change_overlap(
        count in 1..6_u64,
        before in any::<u8>(),
        after in any::<u8>(),
        adds in any::<bool>(),
    ) {
        let smaller: Vec<u64> = (1..=count).collect();
        let larger: Vec<u64> = (1..=count + 1).collect();
        let (old, new) = if adds { (&smaller, &larger) } else { (&larger, &smaller) };
        let holds = |set: u8, id: u64| set >> (id - 1) & 1 == 1;
        let (old, new) = (membership(old, &[]), membership(new, &[]));
        if old.has_quorum(|id, _| holds(before, id.get())) && new.has_quorum(|id, _| holds(after, id.get())) {
            let common = old.voters().chain(new.voters()).any(|id| holds(before & after, id.get()));
            prop_assert!(common);
        }
    }

    #[test]
    fn a_log_on_a_disk_holds_what_the_model_holds(steps in prop::collection::vec(steps(), 1..30), seed in any::<u64>()) {
        let mut bench = Bench::new(seed);
        for step in steps {
            bench.run(step);
        }
    }

    /// Several writes in one leave the same behind as one after the other.
    #[test]
    fn writes_that_are_made_one_leave_the_same_behind(
        steps in prop::collection::vec(steps(), 1..8),
        alone in 0..4_usize,
    ) {
        let mut bench = Bench::new(1);
        let mut together = bench.model.clone();
        let mut writes = Vec::new();
        for step in steps {
            if let Some(write) = bench.make(&step) {
                bench.model.apply(&write);
                writes.push(write);
            }
        }
        let mut rest = writes.split_off(alone.min(writes.len())).into_iter();
        if let Some(mut merged) = rest.next() {
            rest.for_each(|later| merged.absorb(later));
            writes.push(merged);
        }
        for write in &writes {
            together.apply(write);
        }
        prop_assert_eq!(together.hard_state, bench.model.hard_state);
        prop_assert_eq!(together.snapshot, bench.model.snapshot);
        prop_assert_eq!(together.entries, bench.model.entries);
    }

    #[test]
    fn octets_from_anywhere_do_not_panic_and_refused_ones_change_nothing(
        inputs in prop::collection::vec((1..5_u64, prop::collection::vec(any::<u8>(), 0..60)), 1..20),
    ) {
        let mut node = Node::leader();
        for (from, bytes) in inputs {
            let before = format!("{:?}", node.raft);
            let taken = overlay_raft::Message::decode(&bytes.into())
                .is_ok_and(|message| node.raft.handle_message(node.now, id(from), message).is_ok());
            if !taken {
                prop_assert_eq!(before, format!("{:?}", node.raft));
            }
            node.drain();
        }
    }

    /// Messages that are well formed, from peers that make everything up.
    #[test]
    fn lies_do_not_panic(
        leads in any::<bool>(),
        lies in prop::collection::vec((2..5_u64, 0..4_u64, lies()), 1..60),
    ) {
        let mut node = if leads { Node::leader() } else { Node::with_log(1, &[1, 1, 2]) };
        for (from, term, body) in lies {
            let message = Message {
                group: GROUP,
                to: 1,
                term: node.raft.term().get() + term.saturating_sub(2),
                incarnation: from % 2,
                means: Some(0),
                body,
            };
            let before = format!("{:?}", node.raft);
            if node.feed_message(from, &message).is_err() {
                prop_assert_eq!(before, format!("{:?}", node.raft));
            }
        }
        node.pass(cluster::ELECTION * 3);
    }
}

fn lies() -> impl Strategy<Value = Body> {
    let number = || prop_oneof![0..8_u64, Just(u64::MAX), Just(1 << 62)];
    prop_oneof![
        (number(), number(), number()).prop_map(|(round, last_index, last_term)| Body::PreVote {
            round,
            last_index,
            last_term
        }),
        (number(), any::<bool>())
            .prop_map(|(round, granted)| Body::PreVoteReply { round, granted }),
        (number(), number(), any::<bool>()).prop_map(|(last_index, last_term, transfer)| {
            Body::Vote {
                last_index,
                last_term,
                transfer,
            }
        }),
        any::<bool>().prop_map(|granted| Body::VoteReply { granted }),
        (
            number(),
            number(),
            number(),
            prop::collection::vec(number(), 0..4)
        )
            .prop_map(|(previous, previous_term, commit, terms)| Body::Append {
                previous,
                previous_term,
                commit,
                entries: terms
                    .into_iter()
                    .map(|term| (term, command("lie")))
                    .collect(),
            }),
        number().prop_map(|matched| Body::Accepted { matched }),
        (number(), number(), number()).prop_map(|(previous, hint, hint_term)| Body::Rejected {
            previous,
            hint,
            hint_term
        }),
        (number(), number()).prop_map(|(commit, round)| Body::Heartbeat { commit, round }),
        number().prop_map(|round| Body::HeartbeatReply { round }),
        (number(), number(), number(), number()).prop_map(|(index, term, total, offset)| {
            Body::Chunk {
                index,
                term,
                membership: membership(&[1, 2, 3], &[4]),
                total,
                offset,
                data: Bytes::from_static(b"lie"),
            }
        }),
        (number(), number()).prop_map(|(index, wanted)| Body::SnapshotReply { index, wanted }),
        Just(Body::TimeoutNow),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Entries, after so many that are taken back.
    Write {
        back: u64,
        entries: u64,
    },
    Vote,
    Compact {
        behind: u64,
    },
    Install {
        ahead: u64,
    },
    Reopen,
    Crash {
        nth: u64,
        before: bool,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_u64, 0..6_u64).prop_map(|(back, entries)| Step::Write { back, entries }),
        1 => Just(Step::Vote),
        1 => (0..4_u64).prop_map(|behind| Step::Compact { behind }),
        1 => (1..4_u64).prop_map(|ahead| Step::Install { ahead }),
        1 => Just(Step::Reopen),
        2 => (1..4_u64, any::<bool>()).prop_map(|(nth, before)| Step::Crash { nth, before }),
    ]
}

/// A disk, and a model of what it must hold.
struct Bench {
    disk: SimDisk,
    log: Log<SimDisk>,
    model: Stored,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(&Seed::from_u64(seed));
        disk.set_holes(200_000);
        let mut bench = Self {
            log: open(&disk).0,
            disk,
            model: Stored::default(),
        };
        bench.write(bench.replacing(0, 0, &[]));
        bench
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Write { .. } | Step::Vote | Step::Compact { .. } | Step::Install { .. } => {
                if let Some(write) = self.make(&step) {
                    self.write(write);
                }
            }
            Step::Reopen => self.reopen(vec![self.model.clone()]),
            Step::Crash { nth, before } => {
                let side = if before {
                    CrashPoint::Before
                } else {
                    CrashPoint::After
                };
                self.disk.crash_at_sync(nth, side);
                for entries in 0..3 {
                    let write = self
                        .make(&Step::Write { back: 1, entries })
                        .expect("entries");
                    let mut next = self.model.clone();
                    next.apply(&write);
                    if self.log.write(&write).is_err() {
                        self.disk.crash();
                        self.reopen(vec![self.model.clone(), next]);
                        return;
                    }
                    self.model = next;
                }
                self.disk.crash();
                self.reopen(vec![self.model.clone()]);
            }
        }
    }

    fn make(&self, step: &Step) -> Option<Write> {
        let state = self.model.hard_state.clone()?;
        let first = self.model.snapshot.as_ref()?.index.get();
        let last = first + self.model.entries.len() as u64;
        match *step {
            Step::Write { back, entries } => {
                let from = (last + 1).saturating_sub(back).max(state.commit.get() + 1);
                let term = Term::new(state.term.get() + 1);
                Some(Write {
                    snapshot: None,
                    truncate_from: (from <= last).then(|| Index::new(from)),
                    entries: (from..from + entries)
                        .map(|index| entry(index, term))
                        .collect(),
                    hard_state: HardState { term, ..state },
                })
            }
            Step::Vote => Some(Write {
                snapshot: None,
                truncate_from: None,
                entries: Vec::new().into(),
                hard_state: HardState {
                    vote: Some(id(2)),
                    commit: Index::new(last),
                    ..state
                },
            }),
            Step::Compact { behind } => {
                let index = last.saturating_sub(behind).max(first);
                let kept = &self.model.entries[usize::try_from(index - first).unwrap()..];
                Some(self.replacing(index, last.max(index), kept))
            }
            Step::Install { ahead } => Some(self.replacing(last + ahead, last + ahead, &[])),
            Step::Reopen | Step::Crash { .. } => None,
        }
    }

    /// A write that replaces everything by a snapshot at `index` and `kept`.
    fn replacing(&self, index: u64, commit: u64, kept: &[Entry]) -> Write {
        let term = self
            .model
            .hard_state
            .as_ref()
            .map_or(Term::ZERO, |state| state.term);
        Write {
            snapshot: Some(Arc::new(Snapshot {
                index: Index::new(index),
                term: kept.first().map_or(term, |_| Term::ZERO),
                membership: membership(&[1, 2, 3], &[]),
                data: Bytes::from(vec![7; 50]),
            })),
            truncate_from: None,
            entries: kept.to_vec().into(),
            hard_state: HardState {
                group: GROUP,
                id: id(1),
                incarnation: Incarnation::new(5),
                term,
                vote: None,
                commit: Index::new(commit),
            },
        }
    }

    fn write(&mut self, write: Write) {
        self.log.write(&write).expect("nothing fails here");
        self.model.apply(&write);
    }

    /// Opens the disk, which must hold one of `possible`.
    fn reopen(&mut self, possible: Vec<Stored>) {
        let (log, restored) = open(&self.disk);
        self.log = log;
        let mut possible = possible.into_iter();
        let found = possible.find(|stored| stored.restore() == restored);
        self.model = found.unwrap_or_else(|| panic!("this was never written: {restored:?}"));
    }
}

fn open(disk: &SimDisk) -> (Log<SimDisk>, overlay_raft::Restored) {
    let config = StorageConfig {
        segment_bytes_max: 200,
        reserve_bytes_max: 128,
    };
    Log::open(disk.clone(), config).expect("a crash damages nothing")
}

fn entry(index: u64, term: Term) -> Entry {
    Entry {
        index: Index::new(index),
        term,
        payload: command(&"x".repeat(usize::try_from(index % 40).unwrap())),
    }
}
