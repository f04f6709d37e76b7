//! What was done, how often, and how long it took until all was well again.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// Counts and times.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    done: BTreeMap<String, u64>,
    took: BTreeMap<String, Vec<Duration>>,
    history: Vec<String>,
}

/// How many of the last things that were done are told with a failure.
const HISTORY_MAX: usize = 60;

impl Tally {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            done: BTreeMap::new(),
            took: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    /// Counts one of a kind, and remembers what it was.
    pub(crate) fn count(&mut self, kind: &str, what: &str) {
        *self.done.entry(kind.to_owned()).or_default() += 1;
        self.note(&format!("{kind}: {what}"));
    }

    /// Remembers what happened.
    pub(crate) fn note(&mut self, what: &str) {
        let at = self.began.elapsed();
        self.history
            .push(format!("{:8.3} {what}", at.as_secs_f64()));
    }

    pub(crate) fn took(&mut self, what: &str, time: Duration) {
        self.took.entry(what.to_owned()).or_default().push(time);
    }

    pub(crate) fn history(&self) -> String {
        let first = self.history.len().saturating_sub(HISTORY_MAX);
        format!("what was done last:\n{}", self.history[first..].join("\n"))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "soak: {:.0} s", self.began.elapsed().as_secs_f64())?;
        for (kind, count) in &self.done {
            writeln!(f, "  {count:6} {kind}")?;
        }
        for (what, times) in &self.took {
            let mut times = times.clone();
            times.sort_unstable();
            let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
            writeln!(
                f,
                "  {what}: {} times, half within {middle:.2?}, all within {worst:.2?}",
                times.len()
            )?;
        }
        Ok(())
    }
}
