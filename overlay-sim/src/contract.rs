//! Checks that a machine keeps the contract of [`overlay_core::machine`], line by line.
//!
//! A test of a machine implements [`Subject`] and calls [`assert_holds`]. For each seed the checker drives one machine
//! with random inputs at random times and records what it does; then it drives others through the same script, each
//! with something changed that must not matter:
//!
//! | line | what is done | what must hold |
//! |---|---|---|
//! | 1 Time | some inputs come with a time in the past | the same outputs, states and deadlines |
//! | 2 Randomness | another seed | something differs (unless [`Subject::is_random`] says that it need not) |
//! | 3 Outputs | polled later and in pieces | the same outputs and states |
//! | 4 Deadlines | `poll_timeout` is asked again and again, before each poll of an output | always the same; the last seen time while outputs are queued |
//! | 5 Progress | wake-ups on time, late, twice, and early ones in addition | after each the deadline is later; the early ones change nothing |
//! | 6 `Err` | the refused inputs are left out | the same outputs and states; also nothing changed at the refusal itself |
//! | 7 Remote input | random octets, and samples with flipped bits, cut, prolonged, repeated | no panic; [`Subject::footprint`] stays within [`Subject::footprint_max`] |
//! | 8 Determinism | nothing | the same outputs, states and deadlines |
//!
//! Ambient randomness (line 2) shows as a broken line 8. What no checker can see from outside: a clock that is read and
//! has no effect yet, and memory that [`Subject::footprint`] does not count.
//!
//! # Example
//!
//! ```
//! use std::{collections::VecDeque, time::Duration};
//! use overlay_core::{Instant, Machine, Rng, Seed};
//! use overlay_sim::contract::{self, Acted, Subject};
//!
//! /// Sends one beat a second, at a random phase, until it is stopped.
//! struct Beat { now: Instant, next: Option<Instant>, queue: VecDeque<u64>, rng: Rng }
//!
//! impl Beat {
//!     fn stop(&mut self, now: Instant) -> Result<(), &'static str> {
//!         self.now = self.now.max(now);
//!         self.next.take().map(|_| ()).ok_or("stopped before")
//!     }
//! }
//!
//! impl Machine for Beat {
//!     type Output = u64;
//!     fn handle_timeout(&mut self, now: Instant) {
//!         self.now = self.now.max(now);
//!         if self.next.is_some_and(|next| next <= self.now) {
//!             self.next = Some(self.now + Duration::from_secs(1));
//!             self.queue.push_back(self.rng.next_u64());
//!         }
//!     }
//!     fn poll_timeout(&self) -> Option<Instant> {
//!         if self.queue.is_empty() { self.next } else { Some(self.now) }
//!     }
//!     fn poll_output(&mut self) -> Option<u64> { self.queue.pop_front() }
//! }
//!
//! struct BeatSubject;
//!
//! impl Subject for BeatSubject {
//!     type Machine = Beat;
//!     fn build(&mut self, seed: Seed, now: Instant) -> Beat {
//!         let mut rng = seed.rng();
//!         let phase = rng.duration(Duration::ZERO..Duration::from_secs(1));
//!         Beat { now, next: Some(now + phase), queue: VecDeque::new(), rng }
//!     }
//!     fn act(&mut self, beat: &mut Beat, now: Instant, rng: &mut Rng) -> Acted {
//!         if rng.chance(990_000) { return Acted::Skipped; }
//!         beat.stop(now).into()
//!     }
//!     fn take(&mut self, output: u64) -> String { output.to_string() }
//!     fn fingerprint(&self, beat: &Beat) -> String { format!("{:?}", beat.next) }
//!     fn footprint(&self, beat: &Beat) -> usize { beat.queue.len() }
//!     fn footprint_max(&self) -> usize { 1 }
//! }
//!
//! contract::assert_holds("beat_keeps_the_contract", 20, || BeatSubject);
//! ```

use std::fmt;

use overlay_core::{Instant, Machine, Rng, Seed};
use thiserror::Error;

use crate::runner;
use run::Run;
use script::{Script, Variant};

mod run;
mod script;

/// How the checker handles one kind of machine.
///
/// A subject is made afresh for every machine that is built. It may hold what a driver holds for its machine, such as
/// the tickets that came with outputs; it draws randomness only from the generators it is handed.
pub trait Subject {
    /// The machine.
    type Machine: Machine;

    /// Builds a machine, with small limits, so that they are reached.
    fn build(&mut self, seed: Seed, now: Instant) -> Self::Machine;

    /// Does one thing with the machine, drawn from `rng`: a command, a message, an acknowledgement; also wrong ones.
    ///
    /// What it answers with [`Acted::Refused`] must not have changed the subject either.
    fn act(&mut self, machine: &mut Self::Machine, now: Instant, rng: &mut Rng) -> Acted;

    /// Takes one output, as a driver would, and describes it completely.
    fn take(&mut self, output: <Self::Machine as Machine>::Output) -> String;

    /// Describes the state of the machine as completely as can be, by its `Debug` form or its queries.
    ///
    /// Without the queue of outputs, the last seen time and the counters of refused inputs.
    fn fingerprint(&self, machine: &Self::Machine) -> String;

    /// Counts what remote input can make grow: entries, octets.
    fn footprint(&self, machine: &Self::Machine) -> usize;

    /// Returns the bound of [`footprint`](Self::footprint) that follows from the machine's `Config`.
    fn footprint_max(&self) -> usize;

    /// Makes octets that a peer could have sent, so that damaged ones get past the first check.
    ///
    /// Draw from a space that is larger than the machine's limits. Default: random octets.
    fn sample(&mut self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = vec![0; rng.index(64).unwrap_or(0)];
        rng.fill(&mut bytes);
        bytes
    }

    /// Hands octets from a remote peer to the machine. Default: it has no remote input.
    fn feed(
        &mut self,
        machine: &mut Self::Machine,
        now: Instant,
        bytes: &[u8],
        rng: &mut Rng,
    ) -> Acted {
        let _ = (machine, now, bytes, rng);
        Acted::Skipped
    }

    /// Returns whether the seed has any influence on what can be seen. Default: yes.
    fn is_random(&self) -> bool {
        true
    }
}

/// What became of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// The machine took it.
    Done,
    /// The machine returned `Err`.
    Refused,
    /// There was nothing to do, and the machine was not called: it has not seen the time either.
    Skipped,
}

impl<T, E> From<Result<T, E>> for Acted {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(_) => Self::Refused,
        }
    }
}

/// A line of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// A time in the past is raised to the last seen one.
    Time = 1,
    /// Randomness comes from the seed.
    Randomness,
    /// Polling later, or in pieces, changes nothing.
    Outputs,
    /// `poll_timeout` is idempotent, and the last seen time while outputs are queued.
    Deadlines,
    /// After a wake-up and a drain the next deadline is later; early and late wake-ups are harmless.
    Progress,
    /// `Err` means that nothing happened.
    Errors,
    /// Remote input neither panics nor grows memory without bound.
    RemoteInput,
    /// The same calls give the same outputs.
    Determinism,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} ({self:?})", *self as u8)
    }
}

/// A machine broke a line of the contract.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("contract {line} broken at step {step}: {detail}")]
pub struct Violation {
    /// Which line.
    pub line: Line,
    /// At which step of the script.
    pub step: usize,
    /// What was expected and what was found.
    pub detail: String,
}

/// How much one check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Inputs of the script. Default 300; longer ones get deeper.
    pub steps: usize,
    /// Remote inputs, besides those of the script. Default 500; must be well above the machine's limits.
    pub feeds: usize,
    /// When the machine is built. Default `t+1000s`.
    pub start: Instant,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            steps: 300,
            feeds: 500,
            start: Instant::from_millis(1_000_000),
        }
    }
}

/// What a check saw, so that a test can require that it saw something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Actions and remote inputs that the machine took.
    pub done: u64,
    /// Actions and remote inputs that it refused.
    pub refused: u64,
    /// Wake-ups.
    pub timeouts: u64,
    /// Outputs.
    pub outputs: u64,
    /// The largest footprint.
    pub footprint: usize,
    /// A hash of all that was seen. Pin it in a test: line 8 holds across platforms and releases of the compiler.
    pub trace_hash: u64,
}

impl Summary {
    fn merge(&mut self, other: &Self) {
        self.done += other.done;
        self.refused += other.refused;
        self.timeouts += other.timeouts;
        self.outputs += other.outputs;
        self.footprint = self.footprint.max(other.footprint);
        self.trace_hash = self.trace_hash.rotate_left(7) ^ other.trace_hash;
    }
}

/// Checks a machine with the default [`Plan`] and `seeds` seeds; `name` is the path of the test, for the replay.
///
/// # Panics
///
/// With the [`Violation`] and the command that replays its seed; and when no action was ever taken or no output ever
/// seen, because then nothing was tested.
#[expect(clippy::panic, reason = "a failed check panics")]
pub fn assert_holds<S: Subject>(name: &str, seeds: u64, subject: impl Fn() -> S) -> Summary {
    let mut sum = Summary::default();
    runner::seeds(name, seeds, |number| {
        match check(&Seed::from_u64(number), &Plan::default(), &subject) {
            Ok(summary) => sum.merge(&summary),
            Err(violation) => panic!("{violation}"),
        }
    });
    assert!(
        sum.done + sum.timeouts > 0 && sum.outputs > 0,
        "nothing was tested: {sum:?}"
    );
    sum
}

/// Checks a machine with one seed.
///
/// # Errors
///
/// The first [`Violation`] found.
pub fn check<S: Subject>(
    seed: &Seed,
    plan: &Plan,
    subject: impl Fn() -> S,
) -> Result<Summary, Violation> {
    let new = || {
        let mut subject = subject();
        let machine = subject.build(seed.derive("machine"), plan.start);
        Run::new(subject, machine, plan.start)
    };
    let script = script::record(new(), &mut seed.derive("script").rng(), plan.steps)?;
    for variant in [
        Variant::Same,
        Variant::Same,
        Variant::Lazy,
        Variant::Past,
        Variant::Early,
        Variant::WithoutRefused,
    ] {
        let rng = &mut seed.derive("variant").rng();
        script::replay(new(), &script, variant, rng)?;
    }
    check_seed_matters(seed, plan, &script, &subject)?;
    let mut summary = script.summary();
    script::feed(
        new(),
        &mut seed.derive("feed").rng(),
        plan.feeds,
        &mut summary,
    )?;
    Ok(summary)
}

/// Requires that one of several other seeds shows.
fn check_seed_matters<S: Subject>(
    seed: &Seed,
    plan: &Plan,
    script: &Script,
    subject: &impl Fn() -> S,
) -> Result<(), Violation> {
    if !subject().is_random() {
        return Ok(());
    }
    for other in ["other 1", "other 2", "other 3"] {
        let mut subject = subject();
        let machine = subject.build(seed.derive(other), plan.start);
        let run = Run::new(subject, machine, plan.start);
        if script::differs(run, script) {
            return Ok(());
        }
    }
    Err(Violation {
        line: Line::Randomness,
        step: script.len(),
        detail: "four seeds gave the same outputs, states and deadlines: is the seed ignored?"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests;
