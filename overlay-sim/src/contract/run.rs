//! Drives one machine: gives it inputs, polls and takes its outputs, and checks what holds at each single input.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use overlay_core::{Instant, Machine, Rng, Seed};

use super::{
    Acted, Line, Subject, Violation,
    script::{Input, Seen, Step},
};
use crate::network::flip_bit;

/// One machine under way.
pub(super) struct Run<S: Subject> {
    pub(super) subject: S,
    pub(super) machine: S::Machine,
    /// The last seen time.
    pub(super) last: Instant,
    /// The latest time that an input came with: a machine need not have seen the time of an input that it refused.
    pub(super) latest: Instant,
    /// Outputs that were polled, and not yet taken by the subject.
    pub(super) polled: VecDeque<<S::Machine as Machine>::Output>,
    pub(super) outputs: Vec<String>,
    pub(super) step: usize,
    pub(super) footprint: usize,
}

/// A machine that queues so many outputs for one input never stops.
const OUTPUTS_MAX: usize = 1_000_000;

/// Makes remote input: samples as they are, damaged ones, and random octets.
fn hostile_bytes<S: Subject>(subject: &mut S, rng: &mut Rng) -> Vec<u8> {
    if rng.chance(150_000) {
        let mut bytes = vec![0; rng.index(1_500).unwrap_or(0)];
        rng.fill(&mut bytes);
        return bytes;
    }
    let mut bytes = subject.sample(rng);
    match rng.below(8) {
        0 => (0..=rng.below(4)).for_each(|_| flip_bit(&mut bytes, rng)),
        1 => bytes.truncate(rng.index(bytes.len() + 1).unwrap_or(0)),
        2 => bytes.extend_from_slice(&rng.bytes::<7>()),
        3 => bytes.extend_from_within(..),
        4 => {
            // A length field that claims as much as it can.
            let from = rng.index(bytes.len() + 1).unwrap_or(0);
            let to = bytes.len().min(from + 1 + rng.index(8).unwrap_or(0));
            bytes[from..to].fill(0xff);
        }
        _ => {}
    }
    bytes
}

impl<S: Subject> Run<S> {
    pub(super) fn new(subject: S, machine: S::Machine, start: Instant) -> Self {
        Self {
            subject,
            machine,
            last: start,
            latest: start,
            polled: VecDeque::new(),
            outputs: Vec::new(),
            step: 0,
            footprint: 0,
        }
    }

    /// Draws when the next input comes, and what it is.
    pub(super) fn choose(&self, rng: &mut Rng) -> (Instant, Input) {
        let deadline = self.machine.poll_timeout();
        let gap = deadline.map_or(Duration::from_secs(1), |at| at.duration_since(self.latest));
        let input = match rng.below(100) {
            0..50 => Input::Act(rng.next_u64()),
            50..65 => Input::Feed(rng.next_u64()),
            // Half of all wake-ups come when a driver would send them.
            65..85 => {
                return (
                    self.latest.max(deadline.unwrap_or(self.latest)),
                    Input::Wake,
                );
            }
            _ => Input::Wake,
        };
        let later = match rng.below(100) {
            0..40 => Duration::ZERO,
            40..60 => gap,
            60..80 => rng.duration(Duration::ZERO..gap),
            80..90 => rng.duration(Duration::ZERO..Duration::from_millis(10)),
            90..98 => gap + rng.duration(Duration::ZERO..Duration::from_secs(1)),
            98 => gap + rng.duration(Duration::ZERO..Duration::from_secs(60)),
            _ => Duration::from_secs(3_600),
        };
        (self.latest + later, input)
    }

    /// Gives one input and drains the machine at once.
    pub(super) fn eager(
        &mut self,
        at: Instant,
        input: Input,
        line: Line,
    ) -> Result<Seen, Violation> {
        let before = self.subject.fingerprint(&self.machine);
        let deadline_before = self.machine.poll_timeout();
        let acted = self.input(at, input, line)?;
        let queued = self.drain()?;
        let fingerprint = self.subject.fingerprint(&self.machine);
        let deadline = self.machine.poll_timeout();
        if acted == Acted::Refused {
            if queued > 0 {
                let detail = format!("{input:?} was refused, but queued {queued} outputs");
                return Err(self.violation(Line::Errors, detail));
            }
            if (&before, deadline_before) != (&fingerprint, deadline) {
                let detail = format!(
                    "{input:?} was refused, but changed the state\nbefore: {before} {deadline_before:?}\nafter: {fingerprint} {deadline:?}"
                );
                return Err(self.violation(Line::Errors, detail));
            }
        }
        if matches!(input, Input::Wake) && deadline.is_some_and(|deadline| deadline <= self.last) {
            let detail = format!(
                "after a wake-up and a drain the deadline is {deadline:?}, but it is {:?}",
                self.last
            );
            return Err(self.violation(Line::Progress, detail));
        }
        self.footprint = self.footprint.max(self.subject.footprint(&self.machine));
        self.step += 1;
        Ok(Seen {
            acted,
            fingerprint,
            deadline: Some(deadline),
        })
    }

    /// Gives one input, and polls only so many outputs as are taken.
    pub(super) fn lazy(&mut self, at: Instant, step: &Step) -> Result<Seen, Violation> {
        let acted = self.input(at, step.input, Line::Outputs)?;
        let fingerprint = self.subject.fingerprint(&self.machine);
        for _ in 0..step.take {
            if !self.poll()? {
                break; // the comparison of the outputs finds it
            }
        }
        self.step += 1;
        Ok(Seen {
            acted,
            fingerprint,
            deadline: None,
        })
    }

    /// Wakes the machine when nothing is due, and requires that this does nothing.
    pub(super) fn early(&mut self, before: Instant, rng: &mut Rng) -> Result<(), Violation> {
        let deadline = self.machine.poll_timeout();
        let end = before.min(deadline.map_or(before, |at| at - Duration::from_nanos(1)));
        let start = self.latest;
        if end < start || deadline.is_some_and(|at| at <= start) || rng.chance(500_000) {
            return Ok(());
        }
        let at = match rng.below(3) {
            0 => start,
            1 => end,
            _ => start + rng.duration(Duration::ZERO..end.duration_since(start)),
        };
        let before = self.subject.fingerprint(&self.machine);
        self.input(at, Input::Wake, Line::Progress)?;
        let queued = self.drain()?;
        let after = self.subject.fingerprint(&self.machine);
        let next = self.machine.poll_timeout();
        if queued > 0 || before != after || next != deadline {
            let detail = format!(
                "an early wake-up at {at} queued {queued} outputs\nbefore: {before} {deadline:?}\nafter: {after} {next:?}"
            );
            return Err(self.violation(Line::Progress, detail));
        }
        Ok(())
    }

    fn input(&mut self, at: Instant, input: Input, line: Line) -> Result<Acted, Violation> {
        let (subject, machine) = (&mut self.subject, &mut self.machine);
        let acted = catch_unwind(AssertUnwindSafe(|| match input {
            Input::Act(number) => subject.act(machine, at, &mut step_rng(number)),
            Input::Feed(number) => {
                let rng = &mut step_rng(number);
                let bytes = hostile_bytes(subject, rng);
                subject.feed(machine, at, &bytes, rng)
            }
            Input::Wake => {
                machine.handle_timeout(at);
                Acted::Done
            }
        }));
        if !matches!(acted, Ok(Acted::Skipped)) {
            self.latest = self.latest.max(at);
        }
        if matches!(acted, Ok(Acted::Done)) {
            self.last = self.last.max(at);
        }
        acted.map_err(|payload| {
            let line = match input {
                Input::Feed(_) => Line::RemoteInput,
                _ => line,
            };
            let text = crate::runner::message(payload.as_ref() as &(dyn Any + Send));
            self.violation(line, format!("{input:?} at {at} panicked: {text}"))
        })
    }

    /// Polls until nothing is left; returns how many outputs there were.
    pub(super) fn drain(&mut self) -> Result<usize, Violation> {
        let mut count = 0;
        while self.poll()? {
            count += 1;
            if count > OUTPUTS_MAX {
                let detail = format!("one input queued more than {OUTPUTS_MAX} outputs");
                return Err(self.violation(Line::Outputs, detail));
            }
        }
        Ok(count)
    }

    /// Polls one output and checks line 4 around it.
    fn poll(&mut self) -> Result<bool, Violation> {
        let deadlines = [(); 3].map(|()| self.machine.poll_timeout());
        if deadlines[0] != deadlines[1] || deadlines[1] != deadlines[2] {
            let detail = format!("poll_timeout answered {deadlines:?} when asked three times");
            return Err(self.violation(Line::Deadlines, detail));
        }
        let Some(output) = self.machine.poll_output() else {
            return Ok(false);
        };
        self.polled.push_back(output);
        let seen = self.last..=self.latest;
        if !deadlines[0].is_some_and(|at| seen.contains(&at)) {
            let detail = format!(
                "outputs were queued, the last seen time was {:?}, and poll_timeout answered {:?}",
                self.last, deadlines[0]
            );
            return Err(self.violation(Line::Deadlines, detail));
        }
        Ok(true)
    }

    pub(super) fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(output) = self.polled.pop_front() else {
                break;
            };
            self.outputs.push(self.subject.take(output));
        }
    }

    pub(super) fn finish(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            self.polled.push_back(output);
        }
        self.take(usize::MAX);
    }

    pub(super) fn compare(
        &self,
        line: Line,
        expected: &Seen,
        found: &Seen,
    ) -> Result<(), Violation> {
        let same_deadline = found.deadline.is_none() || found.deadline == expected.deadline;
        if expected.acted == found.acted
            && expected.fingerprint == found.fingerprint
            && same_deadline
        {
            return Ok(());
        }
        let detail = format!("expected {expected:?}\nfound {found:?}");
        Err(self.violation(line, detail))
    }

    pub(super) fn first_difference(&self, line: Line, expected: &[String]) -> Violation {
        let pairs = expected.iter().zip(&self.outputs);
        let at = pairs
            .take_while(|(expected, found)| expected == found)
            .count();
        let detail = format!(
            "output {at}: expected {:?}, found {:?}",
            expected.get(at),
            self.outputs.get(at)
        );
        self.violation(line, detail)
    }

    pub(super) fn violation(&self, line: Line, detail: String) -> Violation {
        Violation {
            line,
            step: self.step,
            detail,
        }
    }
}

fn step_rng(number: u64) -> Rng {
    Seed::from_u64(number).rng()
}
