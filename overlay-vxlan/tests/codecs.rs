//! Codecs: what is emitted parses back, what parses re-emits to the same, and no octets make anything panic.

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::*;
use overlay_core::{MacAddr, Vni};
use overlay_vxlan::{
    Frame, NetworkConfig, Offload, PartialChecksum, SegmentKind, Segmentation, complete_checksum,
    segment,
    wire::{
        DecodeError, EmitError, arp,
        checksum::{self, Sum},
        ethernet::{self, EtherType},
        icmpv4,
        icmpv6::{self, Kind},
        ipv4::{self, Protocol},
        ipv6, tcp, udp, vlan, vxlan,
    },
};
use proptest::prelude::*;

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr::new)
}

fn vni_any() -> impl Strategy<Value = Vni> {
    any::<[u8; 3]>().prop_map(Vni::from_octets)
}

prop_compose! {
    fn ethernet_repr()(destination in mac(), source in mac(), kind in any::<u16>()) -> ethernet::Repr {
        ethernet::Repr { destination, source, ethertype: EtherType(kind) }
    }
}

prop_compose! {
    fn vlan_repr()(priority in 0..8u8, drop_eligible: bool, id in 0..0x1000u16, kind: u16) -> vlan::Repr {
        vlan::Repr { priority, drop_eligible, id, ethertype: EtherType(kind) }
    }
}

prop_compose! {
    fn arp_repr()(operation: u16, sender in (mac(), any::<Ipv4Addr>()), target in (mac(), any::<Ipv4Addr>()))
        -> arp::Repr
    {
        arp::Repr {
            operation: arp::Operation(operation),
            sender_mac: sender.0,
            sender_address: sender.1,
            target_mac: target.0,
            target_address: target.1,
        }
    }
}

prop_compose! {
    fn ipv4_any()(
        octets in (any::<u8>(), any::<u8>(), any::<u8>()),
        identification: u16,
        flags in (any::<bool>(), any::<bool>()),
        fragment_offset in 0..0x2000u16,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        payload_bytes in 0..100u16,
    ) -> ipv4::Repr {
        ipv4::Repr {
            traffic_class: octets.0,
            identification,
            dont_fragment: flags.0,
            more_fragments: flags.1,
            fragment_offset,
            ttl: octets.1,
            protocol: Protocol(octets.2),
            source,
            destination,
            payload_bytes,
        }
    }
}

prop_compose! {
    fn ipv6_any()(
        octets in (any::<u8>(), any::<u8>(), any::<u8>()),
        flow_label in 0..0x10_0000u32,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        payload_bytes in 0..100u16,
    ) -> ipv6::Repr {
        ipv6::Repr {
            traffic_class: octets.0,
            flow_label,
            next_header: Protocol(octets.1),
            hop_limit: octets.2,
            source,
            destination,
            payload_bytes,
        }
    }
}

prop_compose! {
    fn tcp_any()(ports: (u16, u16), numbers: (u32, u32), flags: u8, window: u16, urgent: u16) -> tcp::Repr {
        tcp::Repr {
            source_port: ports.0,
            destination_port: ports.1,
            sequence: numbers.0,
            acknowledgment: numbers.1,
            flags: tcp::Flags(flags),
            window,
            urgent,
        }
    }
}

fn icmpv4_any() -> impl Strategy<Value = icmpv4::Repr> {
    use icmpv4::Repr::*;
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(identifier, sequence)| EchoRequest {
            identifier,
            sequence
        }),
        any::<(u16, u16)>().prop_map(|(identifier, sequence)| EchoReply {
            identifier,
            sequence
        }),
        any::<u16>().prop_map(|mtu| FragmentationNeeded { mtu }),
        (any::<u8>(), any::<u8>(), any::<[u8; 4]>()).prop_map(|(kind, code, rest)| Other {
            kind: kind.max(9),
            code,
            rest
        }),
    ]
}

fn icmpv6_any() -> impl Strategy<Value = icmpv6::Repr> {
    use icmpv6::Repr::*;
    let link_layer = || proptest::option::of(mac());
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(identifier, sequence)| EchoRequest {
            identifier,
            sequence
        }),
        any::<(u16, u16)>().prop_map(|(identifier, sequence)| EchoReply {
            identifier,
            sequence
        }),
        any::<u32>().prop_map(|mtu| PacketTooBig { mtu }),
        (any::<Ipv6Addr>(), link_layer())
            .prop_map(|(target, source)| NeighbourSolicitation { target, source }),
        (any::<[bool; 3]>(), any::<Ipv6Addr>(), link_layer()).prop_map(
            |([router, solicited, overrides], target, mac)| NeighbourAdvertisement {
                router,
                solicited,
                overrides,
                target,
                mac
            }
        ),
        (3..128u8, any::<u8>(), any::<[u8; 4]>()).prop_map(|(kind, code, rest)| Other {
            kind: Kind(kind),
            code,
            rest
        }),
    ]
}

fn octets(length: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), length)
}

proptest! {
    #[test]
    fn what_is_emitted_parses_back(
        ethernet in ethernet_repr(), vlan in vlan_repr(), arp in arp_repr(), vni in vni_any(), rest in octets(0..64)
    ) {
        let mut bytes = vec![0xaa; 14];
        ethernet.emit(&mut bytes).unwrap();
        bytes.extend(&rest);
        let packet = ethernet::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(ethernet::Repr::parse(&packet), ethernet);
        prop_assert_eq!(packet.payload(), &rest[..]);

        let mut bytes = vec![0xaa; 4];
        vlan.emit(&mut bytes).unwrap();
        bytes.extend(&rest);
        let packet = vlan::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(vlan::Repr::parse(&packet), vlan);
        prop_assert_eq!(packet.payload(), &rest[..]);

        let mut bytes = vec![0xaa; 28];
        arp.emit(&mut bytes).unwrap();
        prop_assert_eq!(arp::Repr::parse(&arp::Packet::new_checked(&bytes[..]).unwrap()), arp);

        let bytes = encapsulated(vni, &rest);
        let packet = vxlan::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(vxlan::Repr::parse(&packet), vxlan::Repr::new(vni));
        prop_assert_eq!(packet.payload(), &rest[..]);
        let mut emitted = [0xaa; 8];
        vxlan::Repr::new(vni).emit(&mut emitted).unwrap();
        prop_assert_eq!(&emitted[..], &bytes[..8]);
    }

    #[test]
    fn ip_headers_that_are_emitted_parse_back(v4 in ipv4_any(), v6 in ipv6_any(), padding in octets(0..8)) {
        let mut bytes = vec![0xaa; 20 + usize::from(v4.payload_bytes)];
        v4.emit(&mut bytes).unwrap();
        bytes.extend(&padding);
        let packet = ipv4::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(ipv4::Repr::parse(&packet), Ok(v4));
        prop_assert_eq!(packet.payload().len(), usize::from(v4.payload_bytes));

        let mut bytes = vec![0xaa; 40 + usize::from(v6.payload_bytes)];
        v6.emit(&mut bytes).unwrap();
        bytes.extend(&padding);
        let packet = ipv6::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(ipv6::Repr::parse(&packet), v6);
        prop_assert_eq!(packet.payload().len(), usize::from(v6.payload_bytes));
    }

    #[test]
    fn transport_headers_that_are_emitted_parse_back(
        tcp in tcp_any(), ports: (u16, u16), source: Ipv6Addr, destination: Ipv6Addr, payload in octets(0..64)
    ) {
        let (source, destination) = (IpAddr::from(source), IpAddr::from(destination));
        let bytes = tcp_segment(tcp, source, destination, &payload);
        let packet = tcp::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(tcp::Repr::parse(&packet), tcp);
        prop_assert!(packet.is_checksum_valid(source, destination));
        prop_assert_eq!((packet.options(), packet.payload()), (&[][..], &payload[..]));

        let mut bytes = udp_datagram(ports, source, destination, &payload);
        bytes.push(0xaa);
        let packet = udp::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!((packet.source_port(), packet.destination_port()), ports);
        prop_assert!(packet.is_checksum_valid(source, destination));
        prop_assert_eq!(packet.payload(), &payload[..]);
    }

    #[test]
    fn icmp_that_is_emitted_parses_back(
        v4 in icmpv4_any(), v6 in icmpv6_any(), source: Ipv6Addr, destination: Ipv6Addr, payload in octets(0..64)
    ) {
        let mut bytes = vec![0xaa; 8];
        bytes.extend(&payload);
        v4.emit(&mut bytes).unwrap();
        let packet = icmpv4::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(icmpv4::Repr::parse(&packet), Ok(v4));
        prop_assert_eq!(packet.payload(), &payload[..]);

        let mut bytes = vec![0xaa; v6.header_bytes()];
        if v6.header_bytes() == icmpv6::HEADER_BYTES {
            bytes.extend(&payload);
        }
        v6.emit(&mut bytes, source, destination).unwrap();
        let packet = icmpv6::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(icmpv6::Repr::parse(&packet, source, destination), Ok(v6));
    }

    #[test]
    fn a_checksum_updated_is_the_checksum_anew(
        mut bytes in octets(2..64), at: prop::sample::Index, new: [u8; 2]
    ) {
        let at = at.index(bytes.len() / 2) * 2;
        let before = checksum::of(&bytes);
        let old = [bytes[at], bytes[at + 1]];
        bytes[at..at + 2].copy_from_slice(&new);
        let updated = checksum::update(before, u16::from_be_bytes(old), u16::from_be_bytes(new));
        let anew = checksum::of(&bytes);
        // Of the two zeroes of one's complement, a message of zeroes has the other one (RFC 1624 §3).
        prop_assert!(updated == anew || [updated, anew] == [0, 0xffff] || [updated, anew] == [0xffff, 0]);
        if bytes.iter().any(|octet| *octet != 0) && old != new {
            prop_assert_eq!(updated, anew);
        }
    }

    #[test]
    fn a_checksum_is_the_plain_sum_of_words(bytes in octets(0..100)) {
        let mut plain = 0u32;
        for pair in bytes.chunks(2) {
            plain += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            plain = (plain & 0xffff) + (plain >> 16);
        }
        let mut sum = Sum::new();
        sum.add_bytes(&bytes);
        prop_assert_eq!(u32::from(sum.fold()), plain);
    }

    #[test]
    fn a_partial_checksum_is_completed_to_the_full_one(payload in octets(0..100), v6: bool) {
        let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
        let (full, start) = if v6 { (udp6(&from, &to, &payload), 54) } else { (udp4(&from, &to, &payload), 34) };
        let (source, destination) = if v6 { (from.v6.into(), to.v6.into()) } else { (from.v4.into(), to.v4.into()) };
        let length = u32::try_from(full.len() - start).unwrap();
        let pseudo = Sum::pseudo_header(source, destination, Protocol::UDP, length).fold();
        let mut frame = Frame::with_headroom(0, &full);
        frame.bytes_mut()[start + 6..start + 8].copy_from_slice(&pseudo.to_be_bytes());
        let start = u16::try_from(start).unwrap();
        let checksum = Some(PartialChecksum { start, offset: 6 });
        frame.set_offload(Offload { checksum, ..Offload::NONE });
        complete_checksum(&mut frame).unwrap();
        prop_assert_eq!(frame.bytes(), &full[..]);
        prop_assert_eq!(frame.offload(), Offload::NONE);
    }
}

/// Reads everything that a view can say; what parses is emitted and parsed again.
fn read_all(bytes: &[u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let mut buffer = [0xaa; 64];
    if let Ok(packet) = ethernet::Packet::new_checked(bytes) {
        let repr = ethernet::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        let again = ethernet::Packet::new_checked(&buffer[..]).expect("it was emitted");
        assert_eq!(ethernet::Repr::parse(&again), repr);
        assert_eq!(packet.payload().len(), bytes.len() - 14);
    }
    if let Ok(packet) = vlan::Packet::new_checked(bytes) {
        let repr = vlan::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..4], bytes[..4]);
    }
    if let Ok(packet) = arp::Packet::new_checked(bytes) {
        let repr = arp::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..28], bytes[..28]);
    }
    if let Ok(packet) = vxlan::Packet::new_checked(bytes) {
        let repr = vxlan::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        let again = vxlan::Packet::new_checked(&buffer[..]).expect("it was emitted");
        assert_eq!(vxlan::Repr::parse(&again), repr);
    }
    if let Ok(packet) = ipv4::Packet::new_checked(bytes) {
        assert!(packet.payload().len() <= bytes.len());
        if let Ok(repr) = ipv4::Repr::parse(&packet) {
            repr.emit(&mut buffer).expect("there is room");
            let again = ipv4::Packet::new_unchecked(&buffer[..]);
            assert!(again.is_checksum_valid());
            assert_eq!(
                (again.source(), again.destination()),
                (repr.source, repr.destination)
            );
        }
    }
    if let Ok(packet) = ipv6::Packet::new_checked(bytes) {
        let repr = ipv6::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        assert_eq!(buffer[..40], bytes[..40]);
        if let Ok(upper) = packet.upper() {
            assert!((40..=packet.total_bytes()).contains(&upper.offset));
        }
    }
    read_upper(bytes, source, destination);
    let _ = Offload::parse(bytes);
}

fn read_upper(bytes: &[u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let mut buffer = [0xaa; 64];
    if let Ok(packet) = udp::Packet::new_checked(bytes) {
        packet.is_checksum_valid(source.into(), destination.into());
        udp::Repr::parse(&packet)
            .emit(&mut buffer)
            .expect("there is room");
        assert_eq!(buffer[..6], bytes[..6]);
    }
    if let Ok(packet) = tcp::Packet::new_checked(bytes) {
        packet.is_checksum_valid(source.into(), destination.into());
        assert_eq!(
            20 + packet.options().len() + packet.payload().len(),
            bytes.len()
        );
        let repr = tcp::Repr::parse(&packet);
        repr.emit(&mut buffer).expect("there is room");
        let again = tcp::Packet::new_checked(&buffer[..]).expect("it was emitted");
        assert_eq!(tcp::Repr::parse(&again), repr);
    }
    if let Ok(packet) = icmpv4::Packet::new_checked(bytes) {
        packet.is_error();
        let mut emitted = bytes.to_vec();
        if let Ok(repr) = icmpv4::Repr::parse(&packet) {
            repr.emit(&mut emitted).expect("there is room");
            let again = icmpv4::Packet::new_checked(&emitted[..]).expect("it was emitted");
            assert_eq!(icmpv4::Repr::parse(&again), Ok(repr));
        }
    }
    if let Ok(packet) = icmpv6::Packet::new_checked(bytes) {
        let _ = (packet.target(), packet.link_layer());
        let mut emitted = bytes.to_vec();
        if let Ok(repr) = icmpv6::Repr::parse(&packet, source, destination) {
            emitted.truncate(repr.header_bytes().max(8));
            repr.emit(&mut emitted, source, destination)
                .expect("there is room");
            let again = icmpv6::Packet::new_checked(&emitted[..]).expect("it was emitted");
            assert_eq!(icmpv6::Repr::parse(&again, source, destination), Ok(repr));
        }
    }
}

/// A good header of each kind, to be damaged.
fn samples() -> Vec<Vec<u8>> {
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let frames = [
        arp_request(&from, to.v4),
        udp4(&from, &to, b"payload"),
        udp6(&from, &to, b"payload"),
        solicitation(from.mac, from.v6, to.v6),
        tagged(&tagged(&udp4(&from, &to, b"payload"), 1), 2),
    ];
    let mut all = Vec::new();
    for frame in frames {
        all.push(encapsulated(vni(4_097), &frame));
        all.extend([14, 34, 54].map(|at| frame.get(at..).unwrap_or_default().to_vec()));
        all.push(frame);
    }
    let flags = tcp::Flags::ACK;
    let repr = tcp::Repr {
        source_port: 1,
        destination_port: 2,
        sequence: 3,
        acknowledgment: 4,
        flags,
        window: 5,
        urgent: 0,
    };
    all.push(tcp_segment(repr, from.v4.into(), to.v4.into(), b"payload"));
    all
}

fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let sample = (
        0..samples().len(),
        flips,
        any::<prop::sample::Index>(),
        any::<bool>(),
    );
    let sample = sample.prop_map(|(which, flips, cut, whole)| {
        let mut bytes = samples().swap_remove(which);
        for (at, value) in flips {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= value;
            }
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes
    });
    prop_oneof![octets(0..120), sample]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_octets_make_a_view_panic(bytes in damaged(), source: Ipv6Addr, destination: Ipv6Addr) {
        read_all(&bytes, source, destination);
    }

    #[test]
    fn no_octets_make_the_switch_panic(
        bytes in damaged(),
        local: bool,
        headroom in 0..60usize,
        checksum in proptest::option::of((0..140u16, 0..20u16)),
        gso in proptest::option::of((0..3u8, 0..100u16)),
    ) {
        let mut lab = Lab::with(Default::default(), NetworkConfig { vlan_tags: overlay_vxlan::VlanTags::Inspect, ..network() });
        let mut frame = Frame::with_headroom(headroom, &bytes);
        let checksum = checksum.map(|(start, offset)| PartialChecksum { start, offset });
        let segment_size = gso.map(|(kind, size_bytes)| Segmentation {
            kind: [SegmentKind::TcpV4, SegmentKind::TcpV6, SegmentKind::Udp][usize::from(kind)],
            size_bytes,
            header_bytes: 0,
            ecn: false,
        });
        frame.set_offload(Offload { checksum, segment: segment_size, validated: false });
        let mut sent = Sent::default();
        let _ = segment(&mut frame.clone(), &mut Frame::new(), 0, |_| {});
        if local {
            lab.switch.handle_local(lab.now, lab.here.port, &mut frame, &mut sent);
        } else {
            lab.switch.handle_remote(lab.now, lab.there.vtep, &mut frame, &mut sent);
        }
        // Whatever came out is well formed, and of this network.
        for (_, _, datagram) in &sent.to_vteps {
            let packet = vxlan::Packet::new_checked(datagram.bytes()).unwrap();
            prop_assert_eq!(packet.vni(), lab.vni);
            prop_assert_eq!(datagram.offload().checksum, None);
            let inner = ethernet::Packet::new_checked(packet.payload()).unwrap();
            prop_assert_eq!(inner.source(), lab.here.mac);
        }
    }
}

#[test]
fn errors_say_where_and_what() {
    let short = ethernet::Packet::new_checked([0; 13]).unwrap_err();
    assert_eq!(short, DecodeError::Truncated { need: 14, have: 13 });
    assert_eq!(short.to_string(), "expected at least 14 octets, found 13");
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let packet = udp4(&from, &to, b"12345")[14..].to_vec();
    let changed = |at: usize, value: u8| {
        let mut packet = packet.clone();
        packet[at] = value;
        ipv4::Packet::new_checked(packet).map(|_| ()).unwrap_err()
    };
    assert_eq!(
        changed(0, 0x65),
        DecodeError::Version {
            expected: 4,
            found: 6
        }
    );
    assert_eq!(
        changed(0, 0x44),
        DecodeError::Length {
            offset: 0,
            need: 20,
            found: 16
        }
    );
    assert_eq!(
        changed(3, 19),
        DecodeError::Length {
            offset: 2,
            need: 20,
            found: 19
        }
    );
    assert_eq!(
        changed(3, 34),
        DecodeError::Truncated { need: 34, have: 33 }
    );
    let mut wrong = packet.clone();
    wrong[8] ^= 1;
    let wrong = ipv4::Packet::new_checked(wrong).unwrap();
    assert_eq!(ipv4::Repr::parse(&wrong), Err(DecodeError::Checksum));
    let datagram = &packet[20..];
    let mut lying = datagram.to_vec();
    lying[5] = 7;
    let error = udp::Packet::new_checked(lying).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Length {
            offset: 4,
            need: 8,
            found: 7
        }
    );
    let mut other = arp_request(&from, to.v4)[14..].to_vec();
    other[1] = 6;
    let error = arp::Packet::new_checked(other).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Field {
            offset: 0,
            expected: 1,
            found: 6
        }
    );
}

#[test]
fn nothing_is_written_without_room() {
    let mut bytes = [0xaa; 19];
    let repr = ipv4_repr(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, Protocol::UDP);
    assert_eq!(repr.emit(&mut bytes), Err(EmitError { need: 20, have: 19 }));
    assert_eq!(bytes, [0xaa; 19]);
    let too_long = ipv4::Repr {
        payload_bytes: 65_516,
        ..repr
    };
    assert!(too_long.emit(&mut [0; 20]).is_err());
    assert!(
        ipv4::Repr {
            payload_bytes: 65_515,
            ..repr
        }
        .emit(&mut [0; 20])
        .is_ok()
    );
    let datagram = |payload_bytes| udp::Repr {
        source_port: 1,
        destination_port: 2,
        payload_bytes,
    };
    assert!(datagram(65_528).emit(&mut [0; 8]).is_err());
    assert!(datagram(65_527).emit(&mut [0; 8]).is_ok());
}

#[test]
fn a_udp_checksum_of_zero_is_none_over_ipv4_only() {
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let mut datagram = udp_datagram((1, 2), from.v4.into(), to.v4.into(), b"x");
    datagram[6..8].fill(0);
    let packet = udp::Packet::new_checked(&datagram[..]).unwrap();
    assert!(packet.is_checksum_valid(from.v4.into(), to.v4.into()));
    assert!(!packet.is_checksum_valid(from.v6.into(), to.v6.into()));
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    // The payload is chosen so that the sum is 0xffff.
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let (source, destination) = (from.v4.into(), to.v4.into());
    let bare = udp_datagram((1, 2), source, destination, &[0, 0]);
    let sum = udp::Packet::new_checked(&bare[..]).unwrap().checksum();
    let full = udp_datagram((1, 2), source, destination, &sum.to_be_bytes());
    let packet = udp::Packet::new_checked(&full[..]).unwrap();
    assert_eq!(packet.checksum(), 0xffff);
    assert!(packet.is_checksum_valid(source, destination));
}

#[test]
fn options_of_neighbour_discovery_that_do_not_add_up_are_refused() {
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let frame = solicitation(from.mac, from.v6, to.v6);
    let message = |change: fn(&mut Vec<u8>)| {
        let mut message = frame[54..].to_vec();
        change(&mut message);
        icmpv6::Packet::new_checked(message).map(|packet| packet.link_layer())
    };
    assert_eq!(message(|_| {}), Ok(Ok(Some(from.mac))));
    let zero = DecodeError::Length {
        offset: 1,
        need: 8,
        found: 0,
    };
    assert_eq!(message(|bytes| bytes[25] = 0), Ok(Err(zero)));
    let beyond = DecodeError::Truncated { need: 16, have: 8 };
    assert_eq!(message(|bytes| bytes[25] = 2), Ok(Err(beyond)));
    assert_eq!(message(|bytes| bytes.truncate(24)), Ok(Ok(None)));
    let short = DecodeError::Truncated { need: 24, have: 23 };
    assert_eq!(message(|bytes| bytes.truncate(23)), Err(short));
    // An unknown option is skipped (RFC 4861 §4.6).
    let skipped = message(|bytes| {
        let mut unknown = vec![99, 1, 0, 0, 0, 0, 0, 0];
        unknown.extend_from_slice(&bytes[24..]);
        bytes.splice(24.., unknown);
    });
    assert_eq!(skipped, Ok(Ok(Some(from.mac))));
    let twice = message(|bytes| bytes.extend_from_within(24..32));
    assert_eq!(twice, Ok(Ok(Some(from.mac))));
    let two = message(|bytes| {
        bytes.extend_from_within(24..32);
        bytes[39] ^= 1;
    });
    assert_eq!(two, Ok(Err(DecodeError::Contradiction { kind: 1 })));
}
