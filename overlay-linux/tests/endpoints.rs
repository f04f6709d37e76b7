//! Endpoints on this machine's kernel: ports, programs, resolvers' sockets, and what a restarted daemon finds.
//!
//! The binary is its own holder, hence its own `main`. What this machine does not allow is skipped, loudly.

use libtest_mimic::{Arguments, Failed, Trial};
use overlay_linux::{PortKind, capabilities, holder};

#[path = "support/bench.rs"]
mod bench;
#[path = "endpoints/holders.rs"]
mod holders;
#[path = "endpoints/ordinary.rs"]
mod ordinary;
#[path = "endpoints/ports.rs"]
mod ports;
#[path = "endpoints/programs.rs"]
mod programs;
#[path = "endpoints/shared.rs"]
mod shared;
#[path = "endpoints/sources.rs"]
mod sources;

use bench::{Outcome, say};

fn main() {
    holder::main_if_holder();
    holders::main_if_daemon();
    let arguments = Arguments::from_args();
    let trials = match trials() {
        Ok(trials) => trials,
        Err(error) => {
            let said = error.to_string();
            vec![Trial::test("capabilities", move || Err(said.into()))]
        }
    };
    libtest_mimic::run(&arguments, trials).exit();
}

/// What a test takes, and what it is given.
type Test = fn(PortKind) -> Outcome<()>;

fn trials() -> Outcome<Vec<Trial>> {
    let possible = capabilities(&std::env::current_exe()?)?;
    let kinds = [
        (PortKind::Tap, "tap", &possible.tap),
        (PortKind::Packet, "packet", &possible.packet),
    ];
    let mut trials = Vec::new();
    for (kind, name, verdict) in kinds {
        if !verdict.is_possible() {
            say(&format!("SKIPPED: all tests of {name} ports: {verdict}"));
            continue;
        }
        let tests = ports::TESTS.iter().chain(holders::TESTS);
        let tests = tests.chain(shared::TESTS).chain(sources::TESTS);
        for (test, function) in tests {
            trials.push(trial(format!("{name}::{test}"), *function, kind));
        }
    }
    // Programs do not care by what means their port is attached.
    let kind = kinds.iter().find(|(_, _, verdict)| verdict.is_possible());
    if let Some((kind, _, _)) = kind {
        for (test, function) in programs::TESTS {
            trials.push(trial(format!("programs::{test}"), *function, *kind));
        }
    }
    if possible.privileged.is_possible() {
        trials.push(trial(
            "an_ordinary_user_can_do_the_same".into(),
            ordinary::all,
            PortKind::Packet,
        ));
    }
    Ok(trials)
}

fn trial(name: String, test: Test, kind: PortKind) -> Trial {
    Trial::test(name, move || {
        test(kind).map_err(|error| Failed::from(error.to_string()))
    })
}
