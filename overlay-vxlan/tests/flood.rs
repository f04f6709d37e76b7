//! Who fills tables fills its own share: nobody else's rows go.

mod lab;

use std::time::Duration;

use lab::*;
use overlay_core::MacAddr;
use overlay_vxlan::{Config, DropReason, Location, NetworkConfig, Outcome, PortStats, Traffic};

fn learning() -> NetworkConfig {
    NetworkConfig {
        learning: Some(Duration::from_secs(300)),
        ..network()
    }
}

fn made_up(number: u32) -> MacAddr {
    let [_, a, b, c] = number.to_be_bytes();
    MacAddr::new([0x02, 0xff, 0xff, a, b, c])
}

/// A container that makes up source MAC addresses reaches no table: its port has one.
#[test]
fn a_port_cannot_fill_the_table() {
    let mut lab = Lab::with(Config::default(), learning());
    for number in 0..5_000 {
        let mut frame = udp4(&lab.here, &lab.there, b"x");
        frame[6..12].copy_from_slice(&made_up(number).octets());
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::Dropped(DropReason::SourceMac));
        assert!(sent.is_empty());
    }
    assert_eq!(lab.switch.stats().learned, 0);
    let honest = udp4(&lab.neighbour, &lab.there, b"x");
    assert_eq!(lab.send(lab.neighbour.port, &honest).0, Outcome::ToVtep);
}

/// Behind a node that lets it, it fills the share of its network, and no more.
#[test]
fn a_flood_of_addresses_takes_the_quota_of_its_network_only() {
    let config = Config {
        learned_rows_max: 100,
        ..Config::default()
    };
    let mut lab = Lab::with(config, learning());
    let (flooded, other) = (lab.vni, vni(8));
    lab.switch.add_network(other, learning()).unwrap();
    lab.switch
        .set_vteps(other, &[vtep(2), vtep(3)].into())
        .unwrap();
    // Learned before the flood, in the flooded network.
    let early = Endpoint::new(90, 3);
    lab.receive(vtep(3), &udp4(&early, &lab.here, b"x"));
    for number in 0..5_000 {
        let mut frame = udp4(&lab.there, &lab.here, b"x");
        frame[6..12].copy_from_slice(&made_up(number).octets());
        lab.receive(vtep(2), &frame);
    }
    let stats = lab.switch.network_stats(flooded).unwrap();
    assert_eq!((stats.learned, stats.learning_full), (100, 4_901));
    let at = |lab: &Lab, vni, mac| lab.switch.location(vni, mac);
    assert_eq!(at(&lab, flooded, early.mac), Some(Location::Vtep(vtep(3))));
    // Static rows of the network, and the share of another one, are as they were.
    assert_eq!(
        at(&lab, flooded, lab.there.mac),
        Some(Location::Vtep(vtep(2)))
    );
    assert_eq!(
        at(&lab, flooded, lab.here.mac),
        Some(Location::Port(lab.here.port))
    );
    lab.vni = other;
    for number in 100..200 {
        let endpoint = Endpoint::new(number, 2);
        lab.receive(vtep(2), &udp4(&endpoint, &lab.here, b"x"));
        assert_eq!(at(&lab, other, endpoint.mac), Some(Location::Vtep(vtep(2))));
    }
}

/// What each port sent, got and lost is counted for itself, and adds up to what the network counts.
#[test]
fn each_port_has_its_own_counters() {
    let mut lab = Lab::new();
    let (here, neighbour) = (lab.here, lab.neighbour);
    lab.send(here.port, &udp4(&here, &neighbour, b"x"));
    lab.send(here.port, &udp4(&here, &lab.there, b"x"));
    lab.send(here.port, &udp4(&lab.there, &here, b"spoofed"));
    lab.send(here.port, &udp4(&here, &lab.there, &[7; 1_450]));
    lab.send(here.port, &[1, 2, 3]);
    lab.send(neighbour.port, &arp_request(&neighbour, lab.there.v4));
    lab.send(
        neighbour.port,
        &arp_request(&neighbour, "10.0.1.99".parse().unwrap()),
    );
    lab.receive(lab.there.vtep, &udp4(&lab.there, &here, b"x"));
    let of = |port| *lab.switch.port_stats(port).unwrap();
    let (first, second) = (of(here.port), of(neighbour.port));
    assert_eq!((first.received.frames, second.received.frames), (5, 2));
    // A reply, an ICMP error, a flooded request; a packet, an ARP reply.
    assert_eq!((first.sent.frames, second.sent.frames), (3, 2));
    for (reason, count) in [
        (DropReason::SourceMac, 1),
        (DropReason::TooBigAnswered, 1),
        (DropReason::Malformed, 1),
    ] {
        assert_eq!(first.drops.of(reason), count, "{reason}");
    }
    assert_eq!((first.drops.total(), second.drops.total()), (3, 0));
    let network = lab.switch.network_stats(lab.vni).unwrap();
    let sum = |a: Traffic, b: Traffic| (a.frames + b.frames, a.octets + b.octets);
    assert_eq!(
        sum(first.received, second.received),
        (network.from_ports.frames, network.from_ports.octets)
    );
    assert_eq!(
        sum(first.sent, second.sent),
        (network.to_ports.frames, network.to_ports.octets)
    );
    assert_eq!(network.drops.total(), 3);
    // A port that comes anew, be it with the same number, starts at zero.
    lab.switch.remove_port(here.port);
    assert_eq!(lab.switch.port_stats(here.port), None);
    lab.switch
        .add_port(here.port, lab.vni, here.mac, &here.addresses())
        .unwrap();
    assert_eq!(
        *lab.switch.port_stats(here.port).unwrap(),
        PortStats::default()
    );
}
