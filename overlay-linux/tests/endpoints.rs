//! Endpoints on this machine's kernel: ports, programs, resolvers' sockets, and what a restarted daemon finds.

use libtest_mimic::{Arguments, Trial};
use overlay_linux::{PortKind, holder};

#[path = "support/bench.rs"]
mod bench;

use bench::*;

fn main() {
    holder::main_if_holder();
    let trials = vec![
        Trial::test("ping_tap", || pings(PortKind::Tap)),
        Trial::test("ping_packet", || pings(PortKind::Packet)),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn pings(kind: PortKind) -> Result<(), libtest_mimic::Failed> {
    let bench = Bench::new(kind)?;
    let (mut process, text) =
        bench.run(0, &["ping", "-c", "3", "-i", "0.2", "-W", "1", "10.0.1.3"])?;
    println!("{text}");
    assert_eq!(
        process.try_wait()?,
        Some(overlay_linux::Exit::Code(0)),
        "{text}"
    );
    Ok(())
}
