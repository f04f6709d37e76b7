//! Runs a test over many seeds, says how to replay the one that failed, and what all of them reached.
//!
//! ```no_run
//! use overlay_sim::runner;
//!
//! #[test]
//! fn leaders_are_unique() {
//!     runner::seeds("leaders_are_unique", 200, |seed| {
//!         // build a world from Seed::from_u64(seed), run it, assert
//!     });
//! }
//! ```
//!
//! Environment: `OVERLAY_SEED=n` runs seed `n` alone, and `OVERLAY_TRACE=1` beside it prints every event of its worlds;
//! `OVERLAY_SEEDS=n` runs another number of seeds. What the worlds
//! of a thread counted and which situations they reached ([`sometimes`]) is gathered until the run ends, and printed to
//! standard error, which `cargo test` shows with `--nocapture`.

use std::{
    any::Any,
    cell::RefCell,
    collections::BTreeMap,
    env, fmt, fs,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use overlay_core::Instant;
use thiserror::Error;

use crate::Stats;

/// Runs `test` with the seed numbers from 0 on, `count` of them.
///
/// `name` is the path of the test function as `cargo test` prints it.
///
/// # Panics
///
/// When `test` does, with the seed and the one command that replays it.
pub fn seeds(name: &str, count: u64, test: impl FnMut(u64)) {
    seeds_reaching(name, count, &[], test);
}

/// As [`seeds`], and requires that every one of `markers` was reached by some seed.
///
/// Where the environment picks the seeds, markers are printed but not required.
///
/// # Panics
///
/// As [`seeds`]; and with the markers that were not reached, because then the test does not test them.
#[expect(clippy::panic, reason = "a failed test panics")]
pub fn seeds_reaching(name: &str, count: u64, markers: &[&'static str], mut test: impl FnMut(u64)) {
    let chosen = match (number("OVERLAY_SEED"), number("OVERLAY_SEEDS")) {
        (Some(seed), _) => Some(seed..seed.saturating_add(1)),
        (None, Some(count)) => Some(0..count),
        (None, None) => None,
    };
    let required = chosen.is_none();
    let started = wall_clock();
    drop(take_tally());
    let mut report = Report::default();
    for seed in chosen.unwrap_or(0..count) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            panic!(
                "seed {seed} failed: {}\nreplay: {}",
                message(payload.as_ref()),
                replay_command(name, seed)
            );
        }
        report.seeds += 1;
    }
    report.merge(take_tally());
    report.elapsed = started.elapsed();
    print(&format!("{name}: {report}"));
    let missed: Vec<_> = markers
        .iter()
        .filter(|marker| !report.reached(marker))
        .collect();
    assert!(
        !required || missed.is_empty(),
        "never reached by {} seeds: {missed:?}",
        report.seeds
    );
}

/// Notes that the situation `marker` was looked for, and whether it was `reached` here; returns `reached`.
///
/// A marker that no seed reaches means that the test does not test it. Counted for each thread on its own.
pub fn sometimes(marker: &'static str, reached: bool) -> bool {
    TALLY.with_borrow_mut(|tally| {
        *tally.markers.entry(marker).or_default() += u64::from(reached);
    });
    reached
}

/// How a [`soak`] runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Soak {
    /// The seed numbers.
    pub seeds: Range<u64>,
    /// No new seed is started after so much real time.
    pub elapsed_max: Duration,
    /// Threads that run seeds side by side.
    pub threads: usize,
}

/// A seed of a [`soak`] failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("seed {seed} failed: {message}")]
pub struct SeedFailure {
    /// The seed.
    pub seed: u64,
    /// The message of the panic.
    pub message: String,
}

/// Runs `test` with as many seeds as time allows, on several threads.
///
/// # Errors
///
/// The first [`SeedFailure`]; the other threads end after their present seeds.
#[expect(
    clippy::missing_panics_doc,
    reason = "the threads catch what their seeds throw"
)]
pub fn soak(options: &Soak, test: impl Fn(u64) + Sync) -> Result<Report, SeedFailure> {
    let started = wall_clock();
    let next = AtomicU64::new(options.seeds.start);
    let stop = AtomicBool::new(false);
    let work = || {
        drop(take_tally());
        let mut report = Report::default();
        while !stop.load(Ordering::Relaxed) && started.elapsed() < options.elapsed_max {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= options.seeds.end {
                break;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
                stop.store(true, Ordering::Relaxed);
                let message = message(payload.as_ref()).to_owned();
                return Err(SeedFailure { seed, message });
            }
            report.seeds += 1;
        }
        report.merge(take_tally());
        Ok(report)
    };
    let reports: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .expect("panics of the test are caught in `work`")
        });
        joined.collect()
    });
    let mut sum = Report::default();
    for report in reports {
        let report = report?;
        sum.seeds += report.seeds;
        sum.merge(report);
    }
    sum.elapsed = started.elapsed();
    Ok(sum)
}

/// What many seeds did and reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Real time.
    pub elapsed: Duration,
    /// Virtual time of all worlds together.
    pub virtual_elapsed: Duration,
    /// Counters of all worlds together.
    pub stats: Stats,
    /// How often each marker of [`sometimes`] was reached; zero where it was only looked for.
    pub markers: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Returns whether a marker was reached.
    pub fn reached(&self, marker: &str) -> bool {
        self.markers.get(marker).is_some_and(|count| *count > 0)
    }

    fn merge(&mut self, other: Self) {
        self.virtual_elapsed += other.virtual_elapsed;
        self.stats.merge(&other.stats);
        for (marker, count) in other.markers {
            *self.markers.entry(marker).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.elapsed.as_millis().max(1);
        let seeds_per_second = u128::from(self.seeds) * 1_000 / milliseconds;
        let ratio = self.virtual_elapsed.as_millis() / milliseconds;
        write!(
            f,
            "{} seeds in {:.1?} ({seeds_per_second} a second), {} virtual seconds ({ratio} times real time, {} events a virtual second), {}",
            self.seeds,
            self.elapsed,
            self.virtual_elapsed.as_secs(),
            self.stats.events_per_second(self.virtual_elapsed),
            self.stats,
        )?;
        for (marker, count) in &self.markers {
            write!(f, "\n  sometimes {marker}: {count}")?;
        }
        Ok(())
    }
}

/// Returns the one command that runs the present test with one seed alone.
///
/// Cargo tells a running test its package, and the binary's name its target; `name` is used where the thread is not
/// named after the test.
pub fn replay_command(name: &str, seed: u64) -> String {
    let thread = std::thread::current();
    // libtest names the thread of a test after it, unless it runs all of them on one.
    let test = thread.name().filter(|name| *name != "main").unwrap_or(name);
    let mut command = format!("OVERLAY_SEED={seed} cargo test");
    if !cfg!(debug_assertions) {
        command.push_str(" --release");
    }
    if let Ok(package) = env::var("CARGO_PKG_NAME") {
        command.push_str(" -p ");
        command.push_str(&package);
    }
    let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if has_features(Path::new(&folder)) {
        command.push_str(" --all-features"); // a feature only adds items, and which ones were on is not to be seen
    }
    if let Some(target) = env::current_exe().ok().and_then(|path| target(&path)) {
        command.push(' ');
        command.push_str(&target);
    }
    format!("{command} {test} -- --exact --include-ignored")
}

/// Says which target of its package a test binary is: `deps/simulation-0123456789abcdef`.
fn target(binary: &Path) -> Option<String> {
    let (name, _hash) = binary.file_stem()?.to_str()?.rsplit_once('-')?;
    let package = env::var("CARGO_PKG_NAME").ok()?;
    if name == package.replace('-', "_") {
        return Some("--lib".to_owned());
    }
    Some(format!("--test {name}"))
}

/// Returns whether a package has other features than `default`.
fn has_features(folder: &Path) -> bool {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        section == "[features]" && line.contains('=') && !line.starts_with("default")
    })
}

/// Returns whether a single seed is replayed and its trace is wanted.
pub(crate) fn prints_traces() -> bool {
    env::var_os("OVERLAY_TRACE").is_some() && env::var_os("OVERLAY_SEED").is_some()
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return text;
    }
    payload
        .downcast_ref::<String>()
        .map_or("panic without a message", String::as_str)
}

thread_local! {
    static TALLY: RefCell<Report> = RefCell::default();
}

/// Adds what a world counted to the run of this thread.
pub(crate) fn tally(stats: &Stats, now: Instant) {
    // A world may be dropped while its thread ends, when there is nothing to add to.
    let _ = TALLY.try_with(|tally| {
        if let Ok(mut tally) = tally.try_borrow_mut() {
            tally.virtual_elapsed += now.duration_since(Instant::EPOCH);
            tally.stats.merge(stats);
        }
    });
}

fn take_tally() -> Report {
    TALLY.take()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a runner is no machine: it says how fast it was"
)]
fn wall_clock() -> std::time::Instant {
    std::time::Instant::now()
}

#[expect(clippy::print_stderr, reason = "the report of a test run")]
pub(crate) fn print(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests;
