//! What is done with a machine, and the comparison of what several machines do then.

use std::time::Duration;

use overlay_core::{Instant, Rng};

use super::{Acted, Line, Subject, Summary, Violation, run::Run};
use crate::trace::Hash;

/// What is changed in a replay, and must not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Nothing.
    Same,
    /// The machine is polled only when its outputs are taken.
    Lazy,
    /// Inputs that come without time going on come with a time in the past.
    Past,
    /// Additional wake-ups before the deadline.
    Early,
    /// Refused inputs do not come.
    WithoutRefused,
}

impl Variant {
    fn line(self) -> Line {
        match self {
            Self::Same => Line::Determinism,
            Self::Lazy => Line::Outputs,
            Self::Past => Line::Time,
            Self::Early => Line::Progress,
            Self::WithoutRefused => Line::Errors,
        }
    }
}

/// What was done with the first machine, and what it did.
pub(super) struct Script {
    steps: Vec<Step>,
    /// All outputs, described, in the order in which they were taken.
    outputs: Vec<String>,
    timeouts: u64,
    footprint: usize,
}

pub(super) struct Step {
    pub(super) at: Instant,
    pub(super) input: Input,
    /// How many outputs are taken afterwards.
    pub(super) take: usize,
    pub(super) seen: Seen,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    Act(u64),
    Feed(u64),
    Wake,
}

/// What can be seen of a machine after an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) acted: Acted,
    pub(super) fingerprint: String,
    /// After a full drain; `None` where the machine was not drained.
    pub(super) deadline: Option<Option<Instant>>,
}

impl Script {
    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn summary(&self) -> Summary {
        let count = |acted| {
            let steps = self.steps.iter();
            let inputs = steps.filter(|step| !matches!(step.input, Input::Wake));
            inputs.filter(|step| step.seen.acted == acted).count() as u64
        };
        let mut hash = Hash::new();
        for step in &self.steps {
            hash.mix(step.at.as_nanos());
            hash.mix_bytes(step.seen.fingerprint.as_bytes());
        }
        for output in &self.outputs {
            hash.mix_bytes(output.as_bytes());
        }
        Summary {
            done: count(Acted::Done),
            refused: count(Acted::Refused),
            timeouts: self.timeouts,
            outputs: self.outputs.len() as u64,
            footprint: self.footprint,
            trace_hash: hash.get(),
        }
    }
}

/// Drives a machine through random inputs and writes down what happens; checks lines 4, 5 and 6 on the way.
pub(super) fn record<S: Subject>(
    mut run: Run<S>,
    rng: &mut Rng,
    steps: usize,
) -> Result<Script, Violation> {
    let mut script = Script {
        steps: Vec::with_capacity(steps),
        outputs: Vec::new(),
        timeouts: 0,
        footprint: 0,
    };
    run.drain()?;
    for _ in 0..steps {
        let (at, input) = run.choose(rng);
        script.timeouts += u64::from(matches!(input, Input::Wake));
        let seen = run.eager(at, input, Line::Determinism)?;
        let take = if rng.chance(700_000) {
            run.polled.len()
        } else {
            rng.index(run.polled.len() + 1).unwrap_or(0)
        };
        run.take(take);
        script.steps.push(Step {
            at,
            input,
            take,
            seen,
        });
    }
    run.take(usize::MAX);
    script.outputs = run.outputs;
    script.footprint = run.footprint;
    Ok(script)
}

/// Drives another machine through the same script and requires that it does the same.
pub(super) fn replay<S: Subject>(
    run: Run<S>,
    script: &Script,
    variant: Variant,
    rng: &mut Rng,
) -> Result<(), Violation> {
    compare(run, script, variant, rng).map_err(|violation| {
        // The first machine kept all lines that are checked on the way: what broke one now is the change.
        if variant == Variant::Lazy || violation.line == variant.line() {
            return violation;
        }
        let detail = format!(
            "with {variant:?}: {} broken: {}",
            violation.line, violation.detail
        );
        Violation {
            line: variant.line(),
            detail,
            ..violation
        }
    })
}

fn compare<S: Subject>(
    mut run: Run<S>,
    script: &Script,
    variant: Variant,
    rng: &mut Rng,
) -> Result<(), Violation> {
    let line = variant.line();
    if variant != Variant::Lazy {
        run.drain()?;
    }
    for step in &script.steps {
        let mut at = step.at;
        match variant {
            Variant::WithoutRefused if step.seen.acted == Acted::Refused => {
                run.take(step.take);
                run.step += 1;
                continue;
            }
            Variant::Past if at <= run.last => at = past(at, rng),
            // Nobody called the machine at a skipped step: the next input may come with an earlier time than that of
            // the step, and a wake-up in between would make the machine see a later one than the first machine saw.
            Variant::Early if step.seen.acted != Acted::Skipped => run.early(at, rng)?,
            _ => {}
        }
        let seen = if variant == Variant::Lazy {
            run.lazy(at, step)?
        } else {
            run.eager(at, step.input, line)?
        };
        run.take(step.take);
        run.compare(line, &step.seen, &seen)?;
        let taken = run.outputs.len();
        if script.outputs.get(..taken) != Some(&run.outputs) {
            return Err(run.first_difference(line, &script.outputs));
        }
    }
    run.finish();
    if script.outputs != run.outputs {
        return Err(run.first_difference(line, &script.outputs));
    }
    Ok(())
}

/// Returns whether a machine with another seed can be told apart.
pub(super) fn differs<S: Subject>(mut run: Run<S>, script: &Script) -> bool {
    if run.drain().is_err() {
        return true;
    }
    for step in &script.steps {
        let seen = run.eager(step.at, step.input, Line::Determinism);
        if seen.as_ref() != Ok(&step.seen) || run.polled.len() < step.take {
            return true;
        }
        run.take(step.take);
    }
    run.take(usize::MAX);
    script.outputs != run.outputs
}

/// Feeds a machine with what no peer should send.
pub(super) fn feed<S: Subject>(
    mut run: Run<S>,
    rng: &mut Rng,
    feeds: usize,
    summary: &mut Summary,
) -> Result<(), Violation> {
    run.drain()?;
    for _ in 0..feeds {
        // Time hardly moves, so that what expires does not hide what grows.
        let at = run.latest + rng.duration(Duration::ZERO..Duration::from_micros(10));
        let seen = run.eager(at, Input::Feed(rng.next_u64()), Line::RemoteInput)?;
        match seen.acted {
            Acted::Done => summary.done += 1,
            Acted::Refused => summary.refused += 1,
            Acted::Skipped => {}
        }
        run.take(usize::MAX);
        let footprint = run.subject.footprint(&run.machine);
        summary.footprint = summary.footprint.max(footprint);
        let max = run.subject.footprint_max();
        if footprint > max {
            let detail = format!("footprint {footprint} is above the bound {max}");
            return Err(run.violation(Line::RemoteInput, detail));
        }
    }
    Ok(())
}

/// Draws a time before `at`; the edges more often than others.
fn past(at: Instant, rng: &mut Rng) -> Instant {
    match rng.below(4) {
        0 => Instant::EPOCH,
        1 => at - Duration::from_nanos(1),
        _ => Instant::from_nanos(rng.below(at.as_nanos().saturating_add(1))),
    }
}
