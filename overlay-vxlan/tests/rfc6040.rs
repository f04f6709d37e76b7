//! RFC 6040: the ECN field through the tunnel; RFC 2983: the DSCP.

mod lab;

use lab::{Endpoint, Lab, encapsulated, link, network, tagged, udp6};
use overlay_core::MacAddr;
use overlay_vxlan::{
    Config, DropReason, Ecn, NetworkConfig, Outcome, OuterDscp, Received,
    wire::{
        ethernet::{self, EtherType},
        ipv4, ipv6,
    },
};

/// A packet with a traffic class.
fn packet(from: &Endpoint, to: &Endpoint, v6: bool, traffic_class: u8) -> Vec<u8> {
    let mut frame = if v6 {
        udp6(from, to, b"hello")
    } else {
        lab::udp4(from, to, b"hello")
    };
    let packet = &mut frame[ethernet::HEADER_BYTES..];
    if v6 {
        ipv6::Packet::new_unchecked(packet).set_traffic_class(traffic_class);
    } else {
        let mut packet = ipv4::Packet::new_unchecked(packet);
        packet.set_traffic_class(traffic_class);
        assert!(packet.is_checksum_valid());
    }
    frame
}

fn class_of(frame: &[u8], v6: bool) -> u8 {
    let packet = &frame[ethernet::HEADER_BYTES..];
    if v6 {
        ipv6::Packet::new_checked(packet)
            .expect("a packet")
            .traffic_class()
    } else {
        let packet = ipv4::Packet::new_checked(packet).expect("a packet");
        assert!(packet.is_checksum_valid());
        packet.traffic_class()
    }
}

#[test]
fn section_4_1_the_outer_field_is_the_inner_one() {
    for v6 in [false, true] {
        for ecn in Ecn::ALL {
            let mut lab = Lab::new();
            let frame = packet(&lab.here, &lab.there, v6, 0xb8 | ecn.bits());
            let (outcome, sent) = lab.send(lab.here.port, &frame);
            assert_eq!(outcome, Outcome::ToVtep);
            let (_, outer, datagram) = &sent.to_vteps[0];
            assert_eq!(outer.traffic_class, ecn.bits(), "the DSCP stays inside");
            assert_eq!(datagram.bytes(), encapsulated(lab.vni, &frame));
        }
    }
}

#[test]
fn the_dscp_is_fixed_or_the_inner_one() {
    for (dscp, expected) in [
        (OuterDscp::Fixed(0x2e), 0xb9),
        (OuterDscp::Fixed(0xff), 0xfd),
        (OuterDscp::Inner, 0x49),
    ] {
        let config = NetworkConfig {
            dscp,
            vlan_tags: overlay_vxlan::VlanTags::Inspect,
            ..network()
        };
        let mut lab = Lab::with(Config::default(), config);
        for v6 in [false, true] {
            let frame = packet(&lab.here, &lab.there, v6, 0x49);
            for frame in [tagged(&frame, 7), frame] {
                let (_, sent) = lab.send(lab.here.port, &frame);
                assert_eq!(sent.to_vteps[0].1.traffic_class, expected);
            }
        }
        // What is flooded, and what is not IP.
        let hello = link(
            lab.here.mac,
            MacAddr::BROADCAST,
            EtherType::EXPERIMENT,
            b"hello",
        );
        let (_, sent) = lab.send(lab.here.port, &hello);
        let plain = match dscp {
            OuterDscp::Fixed(_) => expected & !3,
            OuterDscp::Inner => 0,
        };
        for (_, outer, _) in &sent.to_vteps {
            assert_eq!(outer.traffic_class, plain);
        }
        assert_eq!(sent.to_vteps.len(), 2);
    }
}

/// §4.2, figure 4; which field comes out is the table in `outer`.
#[test]
fn section_4_2_marks_of_the_underlay_are_carried_inwards() {
    for v6 in [false, true] {
        for (inner, outer) in Ecn::ALL
            .into_iter()
            .flat_map(|inner| Ecn::ALL.map(|outer| (inner, outer)))
        {
            let mut lab = Lab::new();
            let frame = packet(&lab.there, &lab.here, v6, 0x48 | inner.bits());
            let received = Received {
                from: lab.there.vtep,
                ecn: outer,
                sealed: false,
            };
            let (outcome, sent) = lab.receive(received, &frame);
            let expected = inner.decapsulate(outer);
            let stats = *lab.switch.network_stats(lab.vni).unwrap();
            assert_eq!(stats.ecn_unexpected, u64::from(expected.unexpected));
            let Some(ecn) = expected.ecn else {
                assert_eq!(outcome, Outcome::Dropped(DropReason::Congestion));
                assert_eq!(stats.drops.of(DropReason::Congestion), 1);
                assert!(sent.is_empty());
                continue;
            };
            assert_eq!(outcome, Outcome::ToPort);
            let (_, bytes) = sent.port();
            assert_eq!(class_of(bytes, v6), 0x48 | ecn.bits());
            assert_eq!(bytes.len(), frame.len());
            // Nothing but the field, and what sums over it, has changed.
            let changed = bytes.iter().zip(&frame).filter(|(a, b)| a != b).count();
            assert!(changed <= 3, "{changed} octets");
        }
    }
}

#[test]
fn a_mark_on_what_is_not_ip_says_nothing() {
    let mut lab = Lab::new();
    let frame = link(lab.there.mac, lab.here.mac, EtherType::EXPERIMENT, b"hello");
    let received = Received {
        from: lab.there.vtep,
        ecn: Ecn::Ce,
        sealed: false,
    };
    let (outcome, sent) = lab.receive(received, &frame);
    assert_eq!(outcome, Outcome::ToPort);
    assert_eq!(sent.port().1, frame);
}

/// Behind a tag, too; and a checksum that was wrong is not made right.
#[test]
fn a_mark_reaches_tagged_and_damaged_packets() {
    let config = NetworkConfig {
        vlan_tags: overlay_vxlan::VlanTags::Inspect,
        ..network()
    };
    let mut lab = Lab::with(Config::default(), config);
    let received = Received {
        from: lab.there.vtep,
        ecn: Ecn::Ce,
        sealed: false,
    };
    let frame = tagged(&packet(&lab.there, &lab.here, false, 2), 7);
    let (_, sent) = lab.receive(received, &frame);
    assert_eq!(class_of(&sent.port().1[4..], false), 3);

    let mut damaged = packet(&lab.there, &lab.here, false, 2);
    damaged[ethernet::HEADER_BYTES + 10] ^= 0x40;
    let (_, sent) = lab.receive(received, &damaged);
    let packet = ipv4::Packet::new_checked(&sent.port().1[ethernet::HEADER_BYTES..]).unwrap();
    assert_eq!(packet.traffic_class(), 3);
    assert!(!packet.is_checksum_valid());
}

/// Whoever may not send at all marks nothing and counts as nothing.
#[test]
fn strangers_leave_no_trace_in_the_counters_of_ecn() {
    let mut lab = Lab::new();
    let frame = packet(&lab.there, &lab.here, false, 0);
    let received = Received {
        from: lab::vtep(9),
        ecn: Ecn::Ce,
        sealed: false,
    };
    let (outcome, _) = lab.receive(received, &frame);
    assert_eq!(outcome, Outcome::Dropped(DropReason::UnknownVtep));
    assert_eq!(lab.switch.stats().ecn_unexpected, 0);
}
