//! What the parts cost, in CPU time. See `README.md`.

mod clock;
mod mix;
mod schedule;
mod state;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("state") => state::run(),
        Some("schedule") => schedule::run(),
        _ => {
            eprintln!("usage: overlay-benchmarks state | schedule");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
