//! What the parts cost, in CPU time. See `README.md`.

mod clock;
mod commits;
mod dns;
mod esp;
mod gossip;
mod heap;
mod ipam;
mod kernel;
mod lb;
mod mix;
mod plane;
mod policy;
mod raft;
mod schedule;
mod state;
mod vxlan;

use std::process::ExitCode;

fn said(what: &str, result: std::io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{what}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How often `vxlan` measures if nobody says.
const VXLAN_ROUNDS: usize = 9;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        // What `raft` starts; not for people.
        Some((what, rest)) if what == "raft-case" => return said(what, raft::run_case(rest)),
        Some((what, rest)) if what == "plane-send" => return said(what, plane::send(rest)),
        Some((what, rest)) if what == "plane-receive" => return said(what, plane::receive(rest)),
        Some((what, rest)) if what == "plane-carry" => return said(what, plane::carry(rest)),
        _ => {}
    }
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
        (Some("commits"), Ok(rounds)) => {
            return said("commits", commits::run(rounds.unwrap_or(5).max(1)));
        }
        (Some("gossip"), Ok(rounds)) => gossip::run(rounds.unwrap_or(20).max(1) as u64),
        (Some("esp"), Ok(rounds)) => esp::run(rounds.unwrap_or(9).max(1)),
        (Some("policy"), Ok(rounds)) => policy::run(rounds.unwrap_or(9).max(1)),
        (Some("raft"), Ok(rounds)) => {
            return said("raft", raft::run(rounds.unwrap_or(raft::ROUNDS).max(1)));
        }
        (Some("plane"), Ok(rounds)) => {
            return said("plane", plane::run(rounds.unwrap_or(plane::ROUNDS).max(1)));
        }
        (Some("data-plane"), Ok(rounds)) => {
            vxlan::run(VXLAN_ROUNDS);
            let measured = plane::run(rounds.unwrap_or(plane::ROUNDS).max(1))
                .and_then(|()| kernel::run(kernel::ROUNDS).map_err(std::io::Error::other));
            return said("data-plane", measured);
        }
        (Some("vxlan"), Ok(rounds)) => vxlan::run(rounds.unwrap_or(VXLAN_ROUNDS).max(1)),
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
                "usage: overlay-benchmarks state [ROUNDS] | schedule | ipam [ROUNDS] | lb [ROUNDS] | dns | esp [ROUNDS] | commits [ROUNDS] | policy [ROUNDS] | raft [ROUNDS] | vxlan [ROUNDS] | kernel [ROUNDS] | plane [ROUNDS] | data-plane [ROUNDS]"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
