//! Runs a test over many seeds and says how to replay the one that failed.

use std::{
    any::Any,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

/// Runs `test` with the seed numbers from 0 on, `count` of them.
///
/// `name` is the path of the test function as `cargo test` prints it. `OVERLAY_SEED=n` in the environment runs seed `n`
/// alone; `OVERLAY_SEEDS=n` sets another count.
///
/// # Panics
///
/// When `test` does, with the seed and the one command that replays it.
#[expect(clippy::panic, reason = "a failed test panics")]
pub fn seeds(name: &str, count: u64, mut test: impl FnMut(u64)) {
    let numbers = match (number("OVERLAY_SEED"), number("OVERLAY_SEEDS")) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, Some(count)) => 0..count,
        (None, None) => 0..count,
    };
    for seed in numbers {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            panic!(
                "seed {seed} failed: {}\nreplay: {}",
                message(payload.as_ref()),
                replay_command(name, seed)
            );
        }
    }
}

/// Returns the one command that runs the present test with one seed alone.
pub fn replay_command(name: &str, seed: u64) -> String {
    let thread = std::thread::current();
    // libtest names the thread of a test after it, unless it runs all of them on one.
    let test = thread.name().filter(|name| *name != "main").unwrap_or(name);
    let package = env::var("CARGO_PKG_NAME").ok();
    let package = package.map_or_else(String::new, |package| format!(" -p {package}"));
    let target = env::current_exe().ok().and_then(|path| target(&path));
    let target = target.map_or_else(String::new, |target| format!(" {target}"));
    format!("OVERLAY_SEED={seed} cargo test{package}{target} {test} -- --exact")
}

/// Says which target of the package a test binary is: `deps/simulation-0123456789abcdef`.
fn target(binary: &Path) -> Option<String> {
    let stem = binary.file_stem()?.to_str()?;
    let (name, _hash) = stem.rsplit_once('-')?;
    let package = env::var("CARGO_PKG_NAME").unwrap_or_default();
    if name == package.replace('-', "_") {
        return Some("--lib".to_owned());
    }
    Some(format!("--test {name}"))
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

pub(crate) fn message(payload: &(dyn Any + Send)) -> &str {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "panic without a message",
    }
}
