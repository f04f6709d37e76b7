//! Random attaching, detaching, moving, partitions, killed daemons and damage by hand, on hosts of both planes: after each
//! round, tables and everything else are equal to what is desired, on every node.
//!
//! `OVERLAY_SOAK=SECONDS` says for how long, `OVERLAY_SOAK_SEED=NUMBER` repeats a choice of operations. What this machine does
//! not allow or does not have is skipped, loudly.

#![expect(
    clippy::disallowed_methods,
    reason = "real processes take real time: all is polled, with deadlines"
)]

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use libtest_mimic::{Arguments, Failed, Trial};
use overlay_linux::{capabilities, holder, hosts};
use tokio::signal::unix::{SignalKind, signal};

#[path = "soak/checks.rs"]
mod checks;
#[path = "soak/damage.rs"]
mod damage;
#[path = "soak/desired.rs"]
mod desired;
#[path = "soak/faults.rs"]
mod faults;
#[path = "soak/flows.rs"]
mod flows;
#[path = "soak/orders.rs"]
mod orders;
#[expect(dead_code, reason = "the walk needs more of it")]
mod support;
#[path = "soak/tables.rs"]
mod tables;
#[path = "soak/tally.rs"]
mod tally;
#[path = "soak/world.rs"]
mod world;

use support::{Cluster, OVERLAY, is_installed, say};
use world::World;

/// Set by Ctrl-C: all that was made is to go.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long it goes on where nothing else is said; the issue asks for ten minutes, which `OVERLAY_SOAK=600` gives.
const SECONDS: u64 = 25;
/// The programs of the system that it takes.
const PROGRAMS: &[&str] = &["bridge", "ip", "nft", "nsenter", "ping", "sh"];

fn main() {
    holder::main_if_holder();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let name = "random_operations_and_damage_leave_tables_as_desired_on_every_node";
    let trials = match refusal() {
        Some(reason) => {
            say(&format!("SKIPPED: {name}: {reason}"));
            Vec::new()
        }
        None => vec![Trial::test(name, || {
            soak().map_err(|error| Failed::from(format!("{error:#}")))
        })],
    };
    libtest_mimic::run(&arguments, trials).exit();
}

/// Why it cannot be done here; namespaces are entered before any thread starts.
fn refusal() -> Option<String> {
    if let Some(name) = PROGRAMS.iter().find(|name| !is_installed(name)) {
        return Some(format!("{name} is not installed"));
    }
    match capabilities(Path::new(OVERLAY)) {
        Ok(found) if found.endpoints() => {}
        Ok(found) => {
            return Some(format!(
                "hosts and endpoints cannot be made here: {found:?}"
            ));
        }
        Err(error) => return Some(error.to_string()),
    }
    if let Err(error) = hosts::enter() {
        return Some(error.to_string());
    }
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| "the kernel plane needs root".to_owned())
}

fn soak() -> anyhow::Result<()> {
    let number = |name: &str| -> anyhow::Result<Option<u64>> {
        let text = std::env::var(name).ok();
        let number = text.map(|text| text.parse());
        number.transpose().with_context(|| name.to_owned())
    };
    let duration = Duration::from_secs(number("OVERLAY_SOAK")?.unwrap_or(SECONDS));
    let now = SystemTime::UNIX_EPOCH.elapsed()?;
    let seed = number("OVERLAY_SOAK_SEED")?.unwrap_or(u64::from(now.subsec_nanos()));
    say(&format!(
        "soak: {} s with OVERLAY_SOAK_SEED={seed}",
        duration.as_secs()
    ));
    std::thread::spawn(heed_signals);
    let mut world = World::new(seed)?;
    let done = world.run(duration);
    say(&world.summary());
    done.with_context(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}"));
        let kept = match keep_logs(&world.cluster, &folder) {
            Ok(()) => format!("what the daemons said is in {}", folder.display()),
            Err(error) => format!("what the daemons said is lost: {error}"),
        };
        let (history, logs) = (world.history(), world.cluster.logs());
        format!("OVERLAY_SOAK_SEED={seed}\n{history}\n{logs}\n{kept}\n")
    })
}

/// Keeps all that the daemons said, in a folder that stays.
fn keep_logs(cluster: &Cluster, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for host in 0..world::HOSTS {
        let log = format!("{}.log", support::name(host));
        std::fs::copy(cluster.path(&log), folder.join(log))?;
    }
    Ok(())
}

/// The first Ctrl-C ends it in order, the second at once.
fn heed_signals() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let both = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        );
        let (Ok(mut interrupt), Ok(mut terminate)) = both else {
            return;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        }
    });
}
