//! Proves the checker: bugs are planted, one at a time, and each must be found.
//!
//! `RUSTFLAGS="--cfg overlay_raft_planted" cargo test -p overlay-raft --test simulation planted -- --nocapture`

use std::{
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use overlay_raft::planted::{BUGS, Bug, plant};

use crate::{Cluster, layer::Layer};

/// Each bug is found within so many seeds.
const SEEDS_MAX: u64 = 10_000;

#[test]
fn planted_bugs_are_found() {
    // What is looked for are panics: thousands of them say nothing.
    panic::set_hook(Box::new(|_| {}));
    // `OVERLAY_BUG` looks for one of them.
    let chosen = std::env::var("OVERLAY_BUG").ok();
    let is_chosen = |bug: &&Bug| {
        chosen
            .as_ref()
            .is_none_or(|name| format!("{bug:?}") == *name)
    };
    let bugs: Vec<Bug> = BUGS.iter().filter(is_chosen).copied().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut missed = Vec::new();
        while let Some(&bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            match find(bug) {
                Some((seeds, what)) => println!("{bug:?}: found by seed {seeds}: {what}"),
                None => missed.push(bug),
            }
        }
        missed
    };
    let missed: Vec<Bug> = thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    drop(panic::take_hook());
    assert!(
        missed.is_empty(),
        "not found by {SEEDS_MAX} seeds: {missed:?}"
    );
}

/// Returns the first seed that finds `bug`, and by what.
fn find(bug: Bug) -> Option<(u64, String)> {
    plant(Some(bug));
    let found = (0..SEEDS_MAX).find_map(|seed| {
        let run = AssertUnwindSafe(|| Cluster::new(seed, Layer::Plain).run());
        let what = panic::catch_unwind(run).err()?;
        let what = what
            .downcast_ref::<String>()
            .map_or("a panic", String::as_str);
        let line = what.lines().next().unwrap_or_default();
        Some((seed, line.chars().take(120).collect()))
    });
    plant(None);
    found
}
