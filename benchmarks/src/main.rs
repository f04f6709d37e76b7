//! What the parts cost, in CPU time. See `README.md`.

mod clock;
mod dns;
mod heap;
mod mix;
mod schedule;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    let rounds = std::env::args()
        .nth(2)
        .map_or(Ok(state::ROUNDS), |text| text.parse());
    match (std::env::args().nth(1).as_deref(), rounds) {
        (Some("state"), Ok(rounds @ 1..)) => state::run(rounds),
        (Some("schedule"), Ok(_)) => schedule::run(),
        (Some("dns"), Ok(_)) => dns::run(),
        // What `dns` measures; not for people.
        (Some("dns-serve"), Ok(_)) => {
            if let Err(error) = dns::serve() {
                eprintln!("dns-serve: {error}");
                return ExitCode::FAILURE;
            }
        }
        _ => {
            eprintln!("usage: overlay-benchmarks state [ROUNDS] | schedule | dns");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
