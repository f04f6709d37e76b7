//! Outer headers from Ethernet on: written by a template, read by us and by an independent parser.

mod lab;

use std::{collections::BTreeSet, net::IpAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::*;
use overlay_core::{MacAddr, Seed};
use overlay_vxlan::{
    Config, Ecn, FlowKey, Frame, NetworkConfig, Outcome, Outer,
    decap::{DecapsulateError, Decapsulated, decapsulate},
    encap::{EncapsulateError, Ends, Template},
    wire::{DecodeError, ethernet::EtherType, ipv4, udp, vxlan},
};
use proptest::prelude::*;

fn ends(v6: bool, udp_checksum: bool) -> Ends {
    let [source, destination] = if v6 {
        ["2001:db8::1", "2001:db8::2"].map(|address| address.parse::<IpAddr>().expect("IPv6"))
    } else {
        ["192.0.2.1", "192.0.2.2"].map(|address| address.parse::<IpAddr>().expect("IPv4"))
    };
    Ends {
        source_mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddr::new([2, 0, 0, 0, 0, 2]),
        source,
        destination,
        port: vxlan::UDP_PORT,
        hop_limit: 64,
        udp_checksum,
    }
}

fn outer(source_port: u16, traffic_class: u8) -> Outer {
    Outer {
        source_port,
        traffic_class,
    }
}

/// An encapsulated frame.
fn packet(v6: bool, udp_checksum: bool, outer: Outer, inner: &[u8]) -> Vec<u8> {
    let template = Template::new(&ends(v6, udp_checksum), vxlan::Repr::new(vni(4_097)));
    let mut frame = Frame::with_headroom(Frame::HEADROOM, inner);
    let template = template.expect("one family");
    assert_eq!(template.header_bytes(), if v6 { 70 } else { 50 });
    template.encapsulate(outer, &mut frame).expect("room");
    frame.bytes().to_vec()
}

proptest! {
    #[test]
    fn what_a_template_writes_others_read(
        v6: bool, udp_checksum: bool, port in 49_152u16.., class: u8,
        inner in proptest::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let bytes = packet(v6, udp_checksum, outer(port, class), &inner);
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let (source, destination) = match sliced.net {
            Some(NetSlice::Ipv4(packet)) => {
                let header = packet.header();
                prop_assert!(!v6 && header.dont_fragment());
                prop_assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
                prop_assert_eq!(header.dcp().value() << 2 | header.ecn().value(), class);
                prop_assert_eq!((header.ttl(), usize::from(header.total_len())), (64, bytes.len() - 14));
                (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()))
            }
            Some(NetSlice::Ipv6(packet)) => {
                let header = packet.header();
                prop_assert!(v6);
                prop_assert_eq!((header.traffic_class(), header.flow_label().value()), (class, port.into()));
                prop_assert_eq!((header.hop_limit(), usize::from(header.payload_length())), (64, bytes.len() - 54));
                (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()))
            }
            other => panic!("{other:?}"),
        };
        let ends = ends(v6, udp_checksum);
        prop_assert_eq!((source, destination), (ends.source, ends.destination));
        let Some(TransportSlice::Udp(datagram)) = sliced.transport else { panic!("no UDP") };
        prop_assert_eq!((datagram.source_port(), datagram.destination_port()), (port, 4_789));
        prop_assert_eq!(usize::from(datagram.length()), 16 + inner.len());
        let expected = match (udp_checksum, source, destination) {
            (false, ..) => 0,
            (true, IpAddr::V4(source), IpAddr::V4(destination)) => datagram.to_header()
                .calc_checksum_ipv4_raw(source.octets(), destination.octets(), datagram.payload()).unwrap(),
            (true, IpAddr::V6(source), IpAddr::V6(destination)) => datagram.to_header()
                .calc_checksum_ipv6_raw(source.octets(), destination.octets(), datagram.payload()).unwrap(),
            _ => unreachable!(),
        };
        prop_assert_eq!(datagram.checksum(), expected);
        prop_assert_eq!(&datagram.payload()[..8], &vxlan::Repr::new(vni(4_097)).octets());
        prop_assert_eq!(&datagram.payload()[8..], &inner[..]);
        // We read it, too, also with padding behind it.
        for padding in [0, 10] {
            let mut bytes = bytes.clone();
            bytes.resize(bytes.len() + padding, 0xee);
            let read = decapsulate(&bytes, 4_789, !udp_checksum).unwrap();
            prop_assert_eq!((read.source(), read.destination()), (ends.source, ends.destination));
            prop_assert_eq!((read.source_port(), read.ecn()), (port, Ecn::from_traffic_class(class)));
            prop_assert_eq!((read.vni(), &bytes[read.vxlan_at() + 8..read.end()]), (vni(4_097), &inner[..]));
        }
    }

    /// No octet of the headers can change without being refused, or seen in what was read.
    #[test]
    fn damage_is_refused_or_seen(v6: bool, at in 12usize..70, flip in 1u8.., cut in 0usize..120) {
        let inner = [7; 60];
        let udp_checksum = true;
        let good = packet(v6, udp_checksum, outer(50_000, 0), &inner);
        let expected = decapsulate(&good, 4_789, false).unwrap();
        let mut bad = good.clone();
        bad[at] ^= flip;
        // Without a checksum of its header, IPv6 lets a changed flow label, traffic class or hop limit pass.
        let unseen = v6 && (at == 14 && flip & 0xf0 == 0 || (15..=17).contains(&at) || at == 21);
        match decapsulate(&bad, 4_789, false) {
            Ok(read) if unseen => {
                prop_assert_eq!(all_but_ecn(&read), all_but_ecn(&expected));
                prop_assert!(read.ecn() == expected.ecn() || at == 15);
            }
            Ok(_) => prop_assert!(false, "octet {} passed", at),
            Err(_) => {}
        }
        prop_assert!(cut >= good.len() || decapsulate(&good[..cut], 4_789, false).is_err());
    }

    #[test]
    fn any_octets_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for ethertype in [[0x08, 0x00], [0x86, 0xdd]] {
            let mut bytes = bytes.clone();
            if let Some(field) = bytes.get_mut(12..14) {
                field.copy_from_slice(&ethertype);
            }
            if let Ok(read) = decapsulate(&bytes, 4_789, true) {
                prop_assert_eq!(read.payload(), &bytes[read.vxlan_at()..read.end()]);
                prop_assert!(read.vxlan_at() + 8 <= read.end() && read.end() <= bytes.len());
            }
        }
    }
}

#[test]
fn each_refusal_says_why() {
    let good = packet(false, false, outer(50_000, 0), &[7; 60]);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        let packet = bad.get_mut(14..).unwrap();
        ipv4::Packet::new_unchecked(packet).fill_checksum();
        decapsulate(&bad, 4_789, true).unwrap_err()
    };
    assert_eq!(
        refused(&|bad| bad[12] = 0x81),
        DecapsulateError::EtherType(0x8100)
    );
    assert_eq!(refused(&|bad| bad[20] = 0x20), DecapsulateError::Fragment);
    assert_eq!(refused(&|bad| bad[21] = 0x01), DecapsulateError::Fragment);
    assert_eq!(refused(&|bad| bad[23] = 6), DecapsulateError::Protocol(6));
    let port = DecapsulateError::Port {
        expected: 4_789,
        found: 4_790,
    };
    assert_eq!(refused(&|bad| bad[37] = 0xb6), port);
    let flag = DecodeError::FlagUnset {
        offset: 0,
        flags: 8,
    };
    assert_eq!(refused(&|bad| bad[42] = 0), DecapsulateError::Header(flag));
    // A datagram that ends within the VXLAN header, and one that is longer than its packet.
    let short = DecodeError::Truncated { need: 8, have: 7 };
    assert_eq!(
        refused(&|bad| bad[39] = 15),
        DecapsulateError::Header(short)
    );
    let long = DecodeError::Truncated { need: 77, have: 76 };
    assert_eq!(refused(&|bad| bad[39] = 77), DecapsulateError::Header(long));
    let mut wrong_sum = good.clone();
    wrong_sum[24] ^= 1;
    let checksum = DecapsulateError::Header(DecodeError::Checksum);
    assert_eq!(decapsulate(&wrong_sum, 4_789, true), Err(checksum));
    let unsummed = packet(true, false, outer(50_000, 0), &[7; 60]);
    assert_eq!(
        decapsulate(&unsummed, 4_789, false),
        Err(DecapsulateError::NoChecksum)
    );
    assert!(decapsulate(&unsummed, 4_789, true).is_ok());
}

/// Also on the short way, which packets without a UDP checksum take.
#[test]
fn no_cut_is_overlooked() {
    for (v6, udp_checksum) in [(false, false), (false, true), (true, false), (true, true)] {
        let good = packet(v6, udp_checksum, outer(50_000, 0), &[7; 60]);
        assert!(decapsulate(&good, 4_789, true).is_ok());
        for cut in 0..good.len() {
            assert!(decapsulate(&good[..cut], 4_789, true).is_err(), "{cut}");
        }
    }
}

/// What a packet says, but for its ECN field.
fn all_but_ecn(read: &Decapsulated<'_>) -> impl PartialEq + std::fmt::Debug {
    let ends = (read.source(), read.destination(), read.source_port());
    (ends, read.vni(), read.vxlan_at(), read.end())
}

#[test]
fn options_of_ipv4_are_stepped_over() {
    let mut bytes = packet(false, false, outer(50_000, 0), &[7; 60]);
    for _ in 0..4 {
        bytes.insert(34, 1);
    }
    bytes[14] = 0x46;
    let mut header = ipv4::Packet::new_unchecked(&mut bytes[14..]);
    header.set_total_bytes(100);
    header.fill_checksum();
    let read = decapsulate(&bytes, 4_789, true).unwrap();
    assert_eq!((read.vxlan_at(), read.end()), (46, 114));
    assert_eq!(bytes[read.vxlan_at() + 8..], [7; 60]);
}

#[test]
fn too_little_room_and_too_much_frame_change_nothing() {
    for (v6, headers, ip_headers) in [(false, 50, 36), (true, 70, 56)] {
        let template = Template::new(&ends(v6, false), vxlan::Repr::new(vni(1))).unwrap();
        let mut frame = Frame::with_headroom(headers - 1, &[7; 60]);
        let before = frame.clone();
        let need = EncapsulateError::Headroom {
            need: headers,
            have: headers - 1,
        };
        assert_eq!(template.encapsulate(outer(1, 1), &mut frame), Err(need));
        assert_eq!(frame, before);
        let most = 65_535 - ip_headers;
        let mut frame = Frame::with_headroom(headers, &vec![7; most]);
        assert_eq!(template.encapsulate(outer(50_000, 3), &mut frame), Ok(()));
        let read = decapsulate(frame.bytes(), 4_789, true).unwrap();
        assert_eq!(read.end(), headers + most);
        let mut frame = Frame::with_headroom(headers, &vec![7; most + 1]);
        let before = frame.clone();
        let length = EncapsulateError::Length { found: most + 1 };
        assert_eq!(template.encapsulate(outer(1, 1), &mut frame), Err(length));
        assert_eq!(frame, before);
    }
    let mixed = Ends {
        destination: ends(true, false).destination,
        ..ends(false, false)
    };
    assert!(Template::new(&mixed, vxlan::Repr::new(vni(1))).is_none());
}

/// What a switch hands to its sink gets the same octets as a kernel's socket would put in front.
#[test]
fn a_frame_of_the_switch_is_encapsulated_without_a_copy() {
    let mut lab = Lab::new();
    let inner = udp4(&lab.here, &lab.there, b"hello");
    let (_, mut sent) = lab.send(lab.here.port, &inner);
    let (_, outer, mut frame) = sent.to_vteps.remove(0);
    let at = frame.bytes()[8..].as_ptr();
    let template = Template::new(&ends(false, false), vxlan::Repr::new(lab.vni)).unwrap();
    frame.pull_header(vxlan::HEADER_BYTES).unwrap();
    template.encapsulate(outer, &mut frame).unwrap();
    assert_eq!(frame.bytes()[50..].as_ptr(), at);
    assert_eq!(frame.bytes()[42..], encapsulated(lab.vni, &inner));
    let datagram = udp::Packet::new_checked(&frame.bytes()[34..]).unwrap();
    assert_eq!(datagram.source_port(), outer.source_port);
}

fn seeded() -> FlowKey {
    FlowKey::new(&Seed::from_u64(1))
}

/// The port is that of the switch, whose key comes from the same seed.
#[test]
fn a_flow_has_the_port_that_the_switch_gives_it() {
    let config = NetworkConfig {
        vlan_tags: overlay_vxlan::VlanTags::Inspect,
        ..network()
    };
    let mut lab = Lab::with(Config::default(), config);
    let (here, there) = (lab.here, lab.there);
    let mut ports = BTreeSet::new();
    let mut fragment = udp4(&here, &there, b"hello");
    fragment[20] |= 0x20;
    let mut later = fragment.clone();
    later[21] = 1;
    for frame in [
        udp4(&here, &there, b"hello"),
        udp4(&here, &there, b""),
        udp6(&here, &there, b"hello"),
        tagged(&udp4(&here, &there, b"hello"), 7),
        fragment.clone(),
        later.clone(),
        link(here.mac, there.mac, EtherType::EXPERIMENT, b"hello"),
        link(
            here.mac,
            there.mac,
            EtherType::IPV4,
            &ipv4_packet(ipv4_repr(here.v4, there.v4, ipv4::Protocol(253)), b"abcd"),
        ),
        link(
            here.mac,
            there.mac,
            EtherType::IPV4,
            &ipv4_packet(ipv4_repr(here.v4, there.v4, ipv4::Protocol::UDP), b"abc"),
        ),
    ] {
        let (outcome, sent) = lab.send(here.port, &frame);
        assert_eq!(outcome, Outcome::ToVtep);
        let port = seeded().source_port(&frame);
        assert_eq!(sent.vtep().1, port);
        assert!(port >= 49_152);
        ports.insert(port);
    }
    assert_eq!(
        seeded().source_port(&fragment),
        seeded().source_port(&later)
    );
    let whole = [
        udp4(&here, &there, b""),
        tagged(&udp4(&here, &there, b"x"), 9),
    ];
    let [plain, tagged] = whole.map(|frame| seeded().source_port(&frame));
    assert_eq!(plain, tagged, "a flow is one with and without a tag");
    // The packets of one flow share a port, and so does what has no ports: fragments, and what is too short for them.
    assert_eq!(ports.len(), 5);
    let other = FlowKey::new(&Seed::from_u64(2));
    assert_ne!(
        other.source_port(&fragment),
        seeded().source_port(&fragment)
    );
    // What cannot be read has a port, too: that of its MAC addresses.
    let whole = udp4(&here, &there, b"hello");
    let unreadable = seeded().source_port(&whole[..12]);
    assert_ne!(unreadable, seeded().source_port(&whole));
    for cut in 0..whole.len() {
        let port = seeded().source_port(&whole[..cut]);
        assert!(port >= 49_152 && (cut < 12 || port == unreadable), "{cut}");
    }
}

#[test]
fn flows_spread_over_the_ports() {
    let (here, there) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let mut buckets = [0_u32; 16];
    for number in 0..4_000_u16 {
        let datagram = udp_datagram((number, 443), here.v4.into(), there.v4.into(), b"");
        let packet = ipv4_packet(ipv4_repr(here.v4, there.v4, ipv4::Protocol::UDP), &datagram);
        let port = seeded().source_port(&link(here.mac, there.mac, EtherType::IPV4, &packet));
        buckets[usize::from(port) % 16] += 1;
    }
    // 250 each, with a standard deviation below 16.
    assert!(
        buckets.iter().all(|count| (170..330).contains(count)),
        "{buckets:?}"
    );
}
