//! What gets through, and what does not.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use overlay_core::{
    EndpointId, MacAddr,
    plane::{DesiredPort, RemoteEndpoint},
};

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

/// Many endpoints, here and elsewhere: all rows and rules are there after one call, and a change among them is a small one.
pub(crate) fn many() -> Outcome<()> {
    let mut world = World::bare(false)?;
    let desired = &mut world.hosts[0].desired;
    let network = desired.networks.values_mut().next().ok_or("no network")?;
    network.subnets.push("10.8.0.0/16".parse()?);
    let number = |index: u16| {
        let [high, low] = index.to_be_bytes();
        let mut octets = [0xaa; 16];
        (octets[0], octets[1]) = (high, low);
        (
            EndpointId::from_bytes(octets),
            Ipv4Addr::new(10, 8, high, low),
        )
    };
    for index in 0..PORTS {
        let (id, address) = number(index);
        let addresses = vec![IpNet::new(address.into(), 16)?];
        let mac = MacAddr::from_ipv4(address);
        network.ports.insert(id, DesiredPort { mac, addresses });
    }
    let vtep = "192.0.2.2".parse()?;
    for index in PORTS..REMOTES {
        let (id, address) = number(index);
        let (mac, addresses) = (MacAddr::from_ipv4(address), vec![address.into()]);
        let remote = RemoteEndpoint {
            mac,
            addresses,
            vtep,
        };
        network.remotes.insert(id, remote);
    }
    let report = world.apply(0)?;
    assert_eq!(report.missing.len(), usize::from(PORTS));
    assert_eq!(world.plan(0)?, Vec::<String>::new());
    world.apply(1)?;
    crate::net::eventually(|| world.reaches(1, 3).is_ok(), "a reply")?;
    let (id, _) = number(PORTS);
    for network in world.hosts[0].desired.networks.values_mut() {
        network.remotes.remove(&id);
    }
    let gone = world.apply(0)?.operations;
    // Out of the filter, the bridge, the VXLAN device and the neighbours.
    assert_eq!(gone.len(), 4, "{}", gone.len());
    Ok(())
}

/// Whose ports nobody has made.
const PORTS: u16 = 100;
const REMOTES: u16 = 2_100;
