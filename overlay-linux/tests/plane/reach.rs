//! What gets through, and what does not.

use crate::net::{Outcome, World, has, mtu, say};

pub(crate) fn over_ipv4() -> Outcome<()> {
    reach(false)
}

pub(crate) fn over_ipv6() -> Outcome<()> {
    reach(true)
}

fn reach(v6: bool) -> Outcome<()> {
    let mut world = World::new(v6)?;
    for host in 0..2 {
        assert_eq!(world.plan(host)?, Vec::<String>::new());
        assert_eq!(world.apply(host)?.operations, []);
    }
    for from in 1..=4 {
        for to in (1..=4).filter(|to| *to != from) {
            world.reaches(from, to)?;
        }
    }
    // As big as a packet may be, and bigger.
    for (size, options) in [(mtu(v6) - 28, "-M do"), (4_000, "-M dont")] {
        world.inside(
            1,
            &format!("ping -n -c 1 -W 2 {options} -s {size} 10.0.1.3"),
        )?;
        world.inside(1, &format!("ping -n -c 1 -W 2 -s {size} fd00:1::4"))?;
    }
    if has("iperf3") {
        let mut server = world.start(3, "iperf3 -s")?;
        crate::net::eventually(
            || world.inside(1, "iperf3 -c 10.0.1.3 -n 20M").is_ok(),
            "a measurement",
        )?;
        world.inside(2, "iperf3 -c fd00:1::3 -n 20M -R")?;
        server.kill()?;
        server.wait()?;
    } else {
        say("SKIPPED: measurements: no iperf3");
    }
    for host in 0..2 {
        let drops = world.hosts[host].plane.kernel().drops()?;
        assert!(drops.values().all(|dropped| *dropped == 0), "{drops:?}");
    }
    Ok(())
}
