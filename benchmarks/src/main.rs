//! What the parts cost, in CPU time. See `README.md`.

mod clock;
mod dns;
mod heap;
mod ipam;
mod kernel;
mod lb;
mod mix;
mod schedule;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    let rounds: Result<Option<usize>, _> =
        std::env::args().nth(2).map(|text| text.parse()).transpose();
    match (std::env::args().nth(1).as_deref(), rounds) {
        (Some("state"), Ok(rounds)) if rounds != Some(0) => {
            state::run(rounds.unwrap_or(state::ROUNDS));
        }
        (Some("schedule"), Ok(_)) => schedule::run(),
        (Some("ipam"), Ok(rounds)) => ipam::run(rounds.unwrap_or(9).max(1)),
        (Some("lb"), Ok(rounds)) => lb::run(rounds.unwrap_or(9).max(1)),
        (Some("dns"), Ok(_)) => dns::run(),
        // What `dns` measures; not for people.
        (Some("dns-serve"), Ok(_)) => {
            if let Err(error) = dns::serve() {
                eprintln!("dns-serve: {error}");
                return ExitCode::FAILURE;
            }
        }
        (Some(word @ ("kernel" | "kernel-inside")), Ok(rounds)) => {
            let rounds = rounds.unwrap_or(kernel::ROUNDS);
            let done = match word {
                "kernel" => kernel::run(rounds),
                // What `kernel` starts; not for people.
                _ => kernel::measure(rounds),
            };
            if let Err(error) = done {
                eprintln!("kernel: {error}");
                return ExitCode::FAILURE;
            }
        }
        _ => {
            eprintln!(
                "usage: overlay-benchmarks state [ROUNDS] | schedule | ipam [ROUNDS] | lb [ROUNDS] | dns | kernel [ROUNDS]"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
