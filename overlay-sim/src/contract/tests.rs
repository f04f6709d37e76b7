use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::*;

#[test]
fn the_sound_machine_keeps_every_line() {
    let summary = assert_holds("contract::tests", 100, || Keeper::new(Flaw::None));
    assert!(summary.done > 1_000, "{summary:?}");
    assert!(summary.refused > 1_000, "{summary:?}");
    assert!(summary.outputs > 1_000, "{summary:?}");
    assert!(summary.footprint == NOTES_MAX, "{summary:?}");
}

#[test]
fn what_a_check_sees_does_not_depend_on_the_platform() {
    let summary = check(&Seed::from_u64(1), &Plan::default(), || {
        Keeper::new(Flaw::None)
    });
    assert_eq!(summary.map(|summary| summary.trace_hash), Ok(GOLDEN));
}

#[test]
fn each_broken_line_is_found_and_named() {
    for (flaw, line) in [
        (Flaw::TimeGoesBack, Line::Time),
        (Flaw::PanicsOnThePast, Line::Time),
        (Flaw::IgnoresTheSeed, Line::Randomness),
        (Flaw::MakesOutputsWhenPolled, Line::Outputs),
        (Flaw::DropsUnpolledOutputs, Line::Outputs),
        (Flaw::ForgetsQueuedOutputs, Line::Deadlines),
        (Flaw::DeadlineMovesWhenAsked, Line::Deadlines),
        (Flaw::DeadlineStaysInThePast, Line::Progress),
        (Flaw::WakesTooEarly, Line::Progress),
        (Flaw::EarlyWakesShowLater, Line::Progress),
        (Flaw::ErrorQueuesAnOutput, Line::Errors),
        (Flaw::ErrorChangesTheState, Line::Errors),
        (Flaw::ErrorChangesHiddenState, Line::Errors),
        (Flaw::PanicsOnRemoteInput, Line::RemoteInput),
        (Flaw::GrowsWithoutBound, Line::RemoteInput),
        (Flaw::HashOrder, Line::Determinism),
        // From outside, ambient randomness is the same as any other dependence on what is not handed in.
        (Flaw::AmbientRandomness, Line::Determinism),
    ] {
        let violations = (0..20).filter_map(|seed| {
            check(&Seed::from_u64(seed), &Plan::default(), || {
                Keeper::new(flaw)
            })
            .err()
        });
        let lines: Vec<Line> = violations.map(|violation| violation.line).collect();
        assert!(lines.len() >= 15, "{flaw:?} is found too rarely: {lines:?}");
        assert!(
            lines.iter().all(|found| *found == line),
            "{flaw:?}: {lines:?}"
        );
    }
}

/// The time of a step that did nothing is not that of any input, so the next one may come with an earlier time.
#[test]
fn skipped_steps_are_no_reason_to_find_a_flaw() {
    for skipped in [100_000, 500_000, 950_000] {
        for seed in 0..50 {
            let result = check(&Seed::from_u64(seed), &Plan::default(), || {
                Keeper::skipping(Flaw::None, skipped)
            });
            assert_eq!(result.err(), None, "seed {seed}, {skipped} ppm skipped");
        }
    }
}

#[test]
fn skipped_steps_do_not_hide_a_machine_that_acts_early() {
    for (flaw, skipped) in [
        (Flaw::WakesTooEarly, 500_000),
        (Flaw::WakesTooEarly, 950_000),
        (Flaw::EarlyWakesShowLater, 100_000),
        (Flaw::EarlyWakesShowLater, 500_000),
        (Flaw::EarlyWakesShowLater, 900_000),
    ] {
        let violations = (0..20).filter_map(|seed| {
            check(&Seed::from_u64(seed), &Plan::default(), || {
                Keeper::skipping(flaw, skipped)
            })
            .err()
        });
        let lines: Vec<Line> = violations.map(|violation| violation.line).collect();
        assert!(
            lines.len() >= 15 && lines.iter().all(|line| *line == Line::Progress),
            "{flaw:?}, {skipped} ppm skipped: {lines:?}"
        );
    }
}

#[test]
fn a_subject_that_does_nothing_is_no_test() {
    struct Idle;
    impl Subject for Idle {
        type Machine = Notes;
        fn build(&mut self, seed: Seed, now: Instant) -> Notes {
            let mut notes = Notes::new(Flaw::None, &seed, now);
            notes.next = Instant::MAX;
            notes
        }
        fn act(&mut self, _: &mut Notes, _: Instant, _: &mut Rng) -> Acted {
            Acted::Skipped
        }
        fn take(&mut self, output: Out) -> String {
            format!("{output:?}")
        }
        fn fingerprint(&self, _: &Notes) -> String {
            String::new()
        }
        fn footprint(&self, _: &Notes) -> usize {
            0
        }
        fn footprint_max(&self) -> usize {
            0
        }
        fn is_random(&self) -> bool {
            false
        }
    }
    let result = std::panic::catch_unwind(|| assert_holds("idle", 1, || Idle));
    assert!(result.is_err());
}

/// What is wrong with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    TimeGoesBack,
    PanicsOnThePast,
    IgnoresTheSeed,
    MakesOutputsWhenPolled,
    DropsUnpolledOutputs,
    ForgetsQueuedOutputs,
    DeadlineMovesWhenAsked,
    DeadlineStaysInThePast,
    WakesTooEarly,
    /// An early wake-up changes nothing that can be seen at once.
    EarlyWakesShowLater,
    ErrorQueuesAnOutput,
    ErrorChangesTheState,
    ErrorChangesHiddenState,
    PanicsOnRemoteInput,
    GrowsWithoutBound,
    HashOrder,
    AmbientRandomness,
}

/// Keeps notes that peers send, at most eight; reads one at random every 100 ms and throws it away.
struct Notes {
    flaw: Flaw,
    now: Instant,
    next: Instant,
    rng: Rng,
    notes: BTreeMap<u8, Vec<u8>>,
    unseen: u64,
    asked: Cell<u64>,
    queue: VecDeque<Out>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "shown by their Debug form")]
enum Out {
    Kept(u8, Instant),
    Read(u8, u64, usize),
}

const NOTES_MAX: usize = 8;
const GOLDEN: u64 = 6_391_317_807_305_255_489;
static AMBIENT: AtomicU64 = AtomicU64::new(0);

impl Notes {
    fn new(flaw: Flaw, seed: &Seed, now: Instant) -> Self {
        let fixed = Seed::from_u64(4);
        let seed = if flaw == Flaw::IgnoresTheSeed {
            &fixed
        } else {
            seed
        };
        let mut rng = seed.rng();
        let phase = rng.duration(Duration::ZERO..Duration::from_millis(100));
        Self {
            flaw,
            now,
            next: now + phase,
            rng,
            notes: BTreeMap::new(),
            unseen: 0,
            asked: Cell::new(0),
            queue: VecDeque::new(),
        }
    }

    fn see(&mut self, now: Instant) {
        assert!(self.flaw != Flaw::PanicsOnThePast || now >= self.now);
        self.now = if self.flaw == Flaw::TimeGoesBack {
            now
        } else {
            self.now.max(now)
        };
    }

    /// A note: its key, its length, its text.
    fn handle_note(&mut self, now: Instant, bytes: &[u8]) -> Result<(), &'static str> {
        if self.flaw == Flaw::PanicsOnRemoteInput && bytes.get(1).is_some_and(|&len| len == 0xff) {
            let _ = bytes[2 + 0xff];
        }
        self.see(now);
        let [key, length, text @ ..] = bytes else {
            return Err("too short");
        };
        if usize::from(*length) != text.len() {
            match self.flaw {
                Flaw::ErrorQueuesAnOutput => self.queue.push_back(Out::Kept(*key, self.now)),
                Flaw::ErrorChangesTheState => drop(self.notes.pop_first()),
                Flaw::ErrorChangesHiddenState => self.unseen += 1,
                _ => {}
            }
            return Err("wrong length");
        }
        let full = self.notes.len() >= NOTES_MAX && !self.notes.contains_key(key);
        if full && self.flaw != Flaw::GrowsWithoutBound {
            return Err("full");
        }
        self.notes.insert(*key, text.to_vec());
        self.queue.push_back(Out::Kept(*key, self.now));
        Ok(())
    }

    fn read(&mut self) {
        let mut keys: Vec<u8> = self.notes.keys().copied().collect();
        if self.flaw == Flaw::HashOrder {
            let set: HashSet<u8> = keys.into_iter().collect();
            keys = set.into_iter().collect();
        }
        let Some(at) = self.rng.index(keys.len()) else {
            return;
        };
        let mut draw = self.rng.next_u64() ^ self.unseen;
        if self.flaw == Flaw::AmbientRandomness {
            draw ^= AMBIENT.fetch_add(1, Ordering::Relaxed);
        }
        self.notes.remove(&keys[at]);
        self.queue
            .push_back(Out::Read(keys[at], draw, self.notes.len()));
    }
}

impl Machine for Notes {
    type Output = Out;

    fn handle_timeout(&mut self, now: Instant) {
        self.see(now);
        if self.flaw == Flaw::DropsUnpolledOutputs {
            self.queue.clear();
        }
        let slack = if self.flaw == Flaw::WakesTooEarly {
            Duration::from_millis(50)
        } else {
            Duration::ZERO
        };
        if self.now + slack < self.next {
            self.unseen += u64::from(self.flaw == Flaw::EarlyWakesShowLater);
            return;
        }
        self.read();
        self.next = if self.flaw == Flaw::DeadlineStaysInThePast {
            self.next + Duration::from_millis(100) // a late wake-up leaves it behind
        } else {
            self.now + Duration::from_millis(100)
        };
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.asked.set(self.asked.get() + 1);
        if self.flaw == Flaw::DeadlineMovesWhenAsked {
            return Some(self.next + Duration::from_nanos(self.asked.get()));
        }
        let drained = self.queue.is_empty() || self.flaw == Flaw::ForgetsQueuedOutputs;
        Some(if drained { self.next } else { self.now })
    }

    fn poll_output(&mut self) -> Option<Out> {
        let mut output = self.queue.pop_front();
        if self.flaw == Flaw::MakesOutputsWhenPolled
            && let Some(Out::Read(.., left)) = &mut output
        {
            *left = self.notes.len();
        }
        output
    }
}

/// Drives [`Notes`].
struct Keeper {
    flaw: Flaw,
    /// Of how many inputs in a million it makes none.
    skipped: u32,
}

impl Keeper {
    fn new(flaw: Flaw) -> Self {
        Self::skipping(flaw, 0)
    }

    fn skipping(flaw: Flaw, skipped: u32) -> Self {
        Self { flaw, skipped }
    }
}

impl Subject for Keeper {
    type Machine = Notes;

    fn build(&mut self, seed: Seed, now: Instant) -> Notes {
        Notes::new(self.flaw, &seed, now)
    }

    fn act(&mut self, notes: &mut Notes, now: Instant, rng: &mut Rng) -> Acted {
        if self.skipped > 0 && rng.chance(self.skipped) {
            return Acted::Skipped;
        }
        let bytes = self.sample(rng);
        notes.handle_note(now, &bytes).into()
    }

    fn take(&mut self, output: Out) -> String {
        format!("{output:?}")
    }

    fn fingerprint(&self, notes: &Notes) -> String {
        format!("{:?} {:?}", notes.notes, notes.next)
    }

    fn footprint(&self, notes: &Notes) -> usize {
        notes.notes.len()
    }

    fn footprint_max(&self) -> usize {
        NOTES_MAX
    }

    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        let [key, length] = rng.bytes();
        let mut bytes = vec![key, length % 4];
        bytes.extend(std::iter::repeat_n(7, usize::from(length % 4)));
        bytes
    }

    fn feed(&mut self, notes: &mut Notes, now: Instant, bytes: &[u8], rng: &mut Rng) -> Acted {
        if self.skipped > 0 && rng.chance(self.skipped) {
            return Acted::Skipped;
        }
        notes.handle_note(now, bytes).into()
    }
}
