//! What is left after crashes: a state that was, and nothing older than the last sync.

use overlay_core::{Disk, Seed};
use overlay_sim::{CrashPoint, SimDisk, Unsynced};
use proptest::prelude::*;

use super::{HEADER_BYTES, OVERHEAD_BYTES, copy, disk, open, written};

#[derive(Clone, Debug)]
enum Op {
    Append(Vec<u8>),
    Truncate(u64),
    Sync,
    /// Power is lost.
    Crash(Unsynced),
    /// The process is killed, and another one goes on.
    Kill,
    /// The power is lost at one of the next sync points.
    CrashSoon(u64, CrashPoint),
    /// One of the next appends fails half way.
    FailAppend(u64),
}

/// What a file may hold: any of the states since the last sync, the oldest of which is durable.
struct States(Vec<Vec<u8>>);

impl States {
    fn now(&self) -> &[u8] {
        self.0.last().unwrap()
    }

    fn settle(&mut self, text: Vec<u8>) {
        self.0 = vec![text];
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_after_a_crash_is_a_state_since_the_last_sync(
        number in any::<u64>(),
        holes in prop_oneof![Just(0), Just(700_000)],
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let below = SimDisk::new(&Seed::from_u64(number));
        below.set_holes(holes);
        let mut sealed = open(&below).unwrap();
        sealed.append("a", b"").unwrap();
        sealed.sync_directory().unwrap();
        let mut states = States(vec![Vec::new()]);
        for op in ops {
            let mut failed = false;
            match op {
                Op::Append(text) => {
                    let next = [states.now(), &text].concat();
                    states.0.push(next);
                    failed = sealed.append("a", &text).is_err();
                }
                Op::Truncate(length) => {
                    let mut next = states.now().to_vec();
                    next.truncate(usize::try_from(length).unwrap());
                    states.0.push(next);
                    failed = sealed.truncate("a", length).is_err();
                }
                Op::Sync => {
                    failed = sealed.sync("a").is_err();
                    if !failed {
                        let now = states.now().to_vec();
                        states.settle(now);
                    }
                }
                Op::CrashSoon(nth, side) => below.crash_at_sync(nth, side),
                Op::FailAppend(nth) => below.fail_append(nth),
                Op::Crash(unsynced) => {
                    below.crash_with(unsynced);
                    failed = true;
                }
                Op::Kill => {
                    below.kill();
                    failed = true;
                }
            }
            if failed {
                if below.is_down() {
                    below.crash();
                }
                below.fail_append(0);
                below.crash_at_sync(0, CrashPoint::Before);
                sealed = open(&below).unwrap();
                let text = sealed.read("a").unwrap();
                prop_assert!(states.0.contains(&text), "{:?} of {:?}", text, states.0);
                // Who goes on makes durable what it read, and only then adds to it.
                sealed.append("a", b"!").unwrap();
                let next = [&text[..], b"!"].concat();
                states.0 = vec![text, next];
            }
            prop_assert_eq!(&sealed.read("a").unwrap(), states.now());
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let side = prop_oneof![Just(CrashPoint::Before), Just(CrashPoint::After)];
    let unsynced = prop_oneof![
        4 => Just(Unsynced::Random),
        1 => Just(Unsynced::Lost),
        1 => Just(Unsynced::Kept),
        2 => (0..150_u64).prop_map(|octets| Unsynced::Torn { octets }),
    ];
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..30).prop_map(Op::Append),
        4 => (0..60_u64).prop_map(Op::Truncate),
        4 => Just(Op::Sync),
        3 => unsynced.prop_map(Op::Crash),
        1 => Just(Op::Kill),
        1 => (1..4_u64, side).prop_map(|(nth, side)| Op::CrashSoon(nth, side)),
        1 => (1..4_u64).prop_map(Op::FailAppend),
    ]
}

#[test]
fn a_file_that_is_cut_at_any_octet_is_the_records_before() {
    let below = written("a", &[b"one", b"two", b"three"]);
    let bytes = below.read("a").unwrap();
    let first = HEADER_BYTES + OVERHEAD_BYTES + 3;
    let second = first + OVERHEAD_BYTES + 3;
    for end in 0..bytes.len() {
        let torn = copy(&below);
        torn.edit("a", |bytes| bytes.truncate(end));
        let expected: &[u8] = match end {
            _ if end < first => b"",
            _ if end < second => b"one",
            _ => b"onetwo",
        };
        let mut sealed = open(&torn).unwrap();
        assert_eq!(sealed.read("a").unwrap(), expected, "cut at {end}");
        assert_eq!(
            torn.read("a").unwrap().len(),
            end,
            "reading changes nothing"
        );
        sealed.append("a", b"four").unwrap();
        let text = [expected, b"four"].concat();
        assert_eq!(sealed.read("a").unwrap(), text);
        assert_eq!(open(&torn).unwrap().read("a").unwrap(), text);
    }
}

/// Nothing was synced in between, so a later page may survive an earlier one.
#[test]
fn a_hole_in_what_was_not_synced_is_torn_and_in_what_was_is_damage() {
    let below = disk(1);
    let mut sealed = open(&below).unwrap();
    sealed.append("a", b"durable").unwrap();
    sealed.sync("a").unwrap();
    for text in [&b"first"[..], b"second", b"third"] {
        sealed.append("a", text).unwrap();
    }
    let first = HEADER_BYTES + OVERHEAD_BYTES + 7;
    let torn = copy(&below);
    torn.flip_bit("a", first + 40, 0);
    assert_eq!(open(&torn).unwrap().read("a").unwrap(), b"durable");
    sealed.sync("a").unwrap();
    sealed.append("a", b"fourth").unwrap();
    below.flip_bit("a", first + 40, 0);
    let error = open(&below).unwrap().read("a").unwrap_err();
    let expected = format!("\"a\" is damaged at offset {first} (a record is not authentic)");
    assert!(error.to_string().starts_with(&expected), "{error}");
    let error = open(&below).unwrap().append("a", b"x").unwrap_err();
    assert!(error.to_string().starts_with(&expected), "{error}");
}

/// A truncation removes what was durable only when something durable says so.
#[test]
fn a_truncation_that_a_crash_undoes_loses_nothing() {
    for unsynced in [Unsynced::Lost, Unsynced::Random, Unsynced::Kept] {
        for number in 0..20 {
            let below = disk(number);
            let mut sealed = open(&below).unwrap();
            sealed.append("a", b"0123456789").unwrap();
            sealed.sync("a").unwrap();
            sealed.sync_directory().unwrap();
            sealed.truncate("a", 4).unwrap();
            below.crash_with(unsynced);
            let text = open(&below).unwrap().read("a").unwrap();
            assert!(text == b"0123456789" || text == b"0123", "{text:?}");
            assert!(unsynced != Unsynced::Lost || text.len() == 10);
            assert!(unsynced != Unsynced::Kept || text.len() == 4);
        }
    }
}
