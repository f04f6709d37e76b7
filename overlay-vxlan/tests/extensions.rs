//! Networks whose VXLAN headers carry a group policy, or say what follows.

mod lab;

use std::time::Duration;

use lab::*;
use overlay_vxlan::{
    Config, DropReason, HeaderFormat, Location, NetworkConfig, Outcome,
    wire::vxlan::{self, Extension, GroupPolicy, NextProtocol},
};

fn lab(header: HeaderFormat, learning: Option<Duration>) -> Lab {
    let config = NetworkConfig {
        header,
        learning,
        ..network()
    };
    Lab::with(Config::default(), config)
}

fn with_flags(vni: overlay_core::Vni, first: [u8; 4], inner: &[u8]) -> Vec<u8> {
    let mut datagram = encapsulated(vni, inner);
    datagram[..4].copy_from_slice(&first);
    datagram
}

#[test]
fn each_network_writes_its_own_header() {
    for (header, first) in [
        (HeaderFormat::Plain, [0x08, 0, 0, 0]),
        (
            HeaderFormat::GroupPolicy { id: 0x1234 },
            [0x88, 0, 0x12, 0x34],
        ),
        (HeaderFormat::Gpe, [0x0c, 0, 0, 3]),
    ] {
        let mut lab = lab(header, None);
        let inner = udp4(&lab.here, &lab.there, b"x");
        let (_, sent) = lab.send(lab.here.port, &inner);
        assert_eq!(sent.vtep().2, with_flags(lab.vni, first, &inner));
        let hello = arp_request(&lab.here, "10.0.1.77".parse().unwrap());
        let (outcome, sent) = lab.send(lab.here.port, &hello);
        assert_eq!(outcome, Outcome::Flooded);
        for (_, _, datagram) in &sent.to_vteps {
            assert_eq!(datagram.bytes(), with_flags(lab.vni, first, &hello));
        }
        // What one writes the other reads.
        let back = udp4(&lab.there, &lab.here, b"x");
        let datagram = with_flags(lab.vni, first, &back);
        assert_eq!(
            lab.receive_datagram(lab.there.vtep, &datagram).0,
            Outcome::ToPort
        );
    }
}

#[test]
fn what_is_no_ethernet_frame_is_dropped_if_the_network_knows() {
    for (first, is_ethernet) in [
        ([0x0c, 0, 0, 3], true),
        ([0x08, 0, 0, 1], true),
        ([0x0e, 0xff, 0xff, 3], true),
        ([0x0c, 0, 0, 1], false),
        ([0x0c, 0, 0, 2], false),
        ([0x0c, 0, 0, 4], false),
        ([0x0c, 0, 0, 0], false),
        ([0x0d, 0, 0, 3], false),
        ([0x1c, 0, 0, 3], false),
    ] {
        let mut gpe = lab(HeaderFormat::Gpe, None);
        let inner = udp4(&gpe.there, &gpe.here, b"x");
        let datagram = with_flags(gpe.vni, first, &inner);
        let (outcome, sent) = gpe.receive_datagram(gpe.there.vtep, &datagram);
        if is_ethernet {
            assert_eq!(outcome, Outcome::ToPort, "{first:x?}");
        } else {
            assert_eq!(
                outcome,
                Outcome::Dropped(DropReason::NextProtocol),
                "{first:x?}"
            );
            assert!(sent.is_empty());
            assert_eq!(gpe.switch.stats().drops.of(DropReason::NextProtocol), 1);
        }
        // To a network of RFC 7348 these bits are reserved.
        let mut plain = lab(HeaderFormat::Plain, None);
        assert_eq!(
            plain.receive_datagram(plain.there.vtep, &datagram).0,
            Outcome::ToPort
        );
    }
}

#[test]
fn a_stranger_is_refused_before_the_header_is_read() {
    let mut lab = lab(HeaderFormat::Gpe, None);
    let datagram = with_flags(lab.vni, [0x0c, 0, 0, 1], &[]);
    let (outcome, _) = lab.receive_datagram(vtep(9), &datagram);
    assert_eq!(outcome, Outcome::Dropped(DropReason::UnknownVtep));
}

#[test]
fn what_must_not_be_learned_is_not() {
    let learning = Some(Duration::from_secs(60));
    for (header, learns) in [
        (HeaderFormat::GroupPolicy { id: 1 }, false),
        (HeaderFormat::Plain, true),
    ] {
        let mut lab = lab(header, learning);
        let other = Endpoint::new(99, 2);
        let policy = GroupPolicy {
            id: 7,
            dont_learn: true,
            applied: true,
        };
        let repr = vxlan::Repr::with_extension(lab.vni, Extension::GroupPolicy(policy));
        let marked = |inner: &[u8]| [&repr.octets()[..], inner].concat();
        let inner = udp4(&other, &lab.here, b"x");
        let (outcome, _) = lab.receive_datagram(vtep(2), &marked(&inner));
        assert_eq!(outcome, Outcome::ToPort, "it is forwarded all the same");
        let at = |lab: &Lab| lab.switch.location(lab.vni, other.mac);
        assert_eq!(at(&lab).is_some(), learns);
        // Nor is what was learned moved.
        lab.receive(vtep(2), &inner);
        assert_eq!(at(&lab), Some(Location::Vtep(vtep(2))));
        lab.receive_datagram(vtep(3), &marked(&inner));
        let expected = if learns { vtep(3) } else { vtep(2) };
        assert_eq!(at(&lab), Some(Location::Vtep(expected)));
        // A static row is right, whatever the flag says.
        let spoofed = udp4(&lab.there, &lab.here, b"x");
        let (outcome, _) = lab.receive_datagram(vtep(3), &marked(&spoofed));
        assert_eq!(outcome, Outcome::Dropped(DropReason::SourceMac));
    }
}

#[test]
fn a_next_protocol_survives_as_a_number() {
    for next in 0..=u8::MAX {
        let extension = Extension::NextProtocol(NextProtocol(next));
        let octets = vxlan::Repr::with_extension(vni(5), extension).octets();
        let packet = vxlan::Packet::new_checked(octets).unwrap();
        assert_eq!(packet.next_protocol(), Ok(NextProtocol(next)));
    }
}
