//! Runs one case of `overlay-benchmarks raft` on TiKV's `raft`, and prints its figures on one line.

#[path = "../../../src/clock.rs"]
mod clock;
#[cfg_attr(feature = "protobuf-codec", path = "codec/protobuf.rs")]
#[cfg_attr(feature = "prost-codec", path = "codec/prost.rs")]
mod codec;
#[path = "../../../src/raft/drive.rs"]
mod drive;
#[path = "../../../src/heap.rs"]
#[expect(dead_code, reason = "what is held is no figure here")]
mod heap;
mod member;
mod storage;

use std::process::ExitCode;

use drive::Case;
use member::Peer;

fn main() -> ExitCode {
    let case: Result<Case, _> = std::env::args().nth(1).unwrap_or_default().parse();
    match case {
        Ok(case) => {
            println!("{}", drive::run(&case, |at| Peer::new(&case, at)));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("usage: raft-rs-peer MEMBERS,OCTETS,IN_FLIGHT,CODEC,SETUP: {error}");
            ExitCode::from(2)
        }
    }
}
