//! Partial checksums and super-frames on their way through the switch.

mod lab;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use lab::*;
use overlay_core::MacAddr;
use overlay_vxlan::{
    DropReason, Frame, Offload, OffloadError, Outcome, PartialChecksum, PortCapabilities,
    SegmentError, SegmentKind, Segmentation, segment,
    segment::SEGMENTS_MAX,
    wire::{
        checksum::Sum,
        ethernet::EtherType,
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
        udp, vxlan,
    },
};

/// Where the transport header begins in a frame without tag and options.
fn upper_at(v6: bool) -> usize {
    if v6 { 54 } else { 34 }
}

/// Makes the checksum of a frame partial, as a kernel leaves it.
fn partial(bytes: &[u8], v6: bool, protocol: Protocol, offset: usize) -> Frame {
    let start = upper_at(v6);
    let (source, destination) = addresses(bytes, v6);
    let length = u32::try_from(bytes.len() - start).expect("a frame");
    let pseudo = Sum::pseudo_header(source, destination, protocol, length).fold();
    let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
    let at = start + offset;
    frame.bytes_mut()[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = PartialChecksum {
        start: u16::try_from(start).expect("small"),
        offset: u16::try_from(offset).expect("small"),
    };
    frame.set_offload(Offload {
        checksum: Some(checksum),
        ..Offload::NONE
    });
    frame
}

fn addresses(bytes: &[u8], v6: bool) -> (IpAddr, IpAddr) {
    let packet = &bytes[14..];
    if v6 {
        let packet = ipv6::Packet::new_checked(packet).expect("IPv6");
        (packet.source().into(), packet.destination().into())
    } else {
        let packet = ipv4::Packet::new_checked(packet).expect("IPv4");
        (packet.source().into(), packet.destination().into())
    }
}

fn with_segments(mut frame: Frame, kind: SegmentKind, size_bytes: u16) -> Frame {
    let ecn = true;
    let segment = Some(Segmentation {
        kind,
        size_bytes,
        header_bytes: 0,
        ecn,
    });
    frame.set_offload(Offload {
        segment,
        ..frame.offload()
    });
    frame
}

const ALL_FLAGS: Flags = Flags(0xff);

/// A TCP super-frame with options in its header.
fn tcp_super(from: &Endpoint, to: &Endpoint, v6: bool, payload: &[u8]) -> Vec<u8> {
    let repr = tcp::Repr {
        source_port: 1_000,
        destination_port: 80,
        sequence: u32::MAX - 100,
        acknowledgment: 5,
        flags: ALL_FLAGS,
        window: 500,
        urgent: 0,
    };
    let (source, destination): (IpAddr, IpAddr) = if v6 {
        (from.v6.into(), to.v6.into())
    } else {
        (from.v4.into(), to.v4.into())
    };
    let mut upper = tcp_segment(repr, source, destination, &[]);
    upper[12] = 0x80;
    upper.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    upper.extend(payload);
    let packet = if v6 {
        ipv6_packet(from.v6, to.v6, Protocol::TCP, 64, &upper)
    } else {
        ipv4_packet(ipv4_repr(from.v4, to.v4, Protocol::TCP), &upper)
    };
    let ethertype = if v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    link(from.mac, to.mac, ethertype, &packet)
}

fn numbered(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from(at % 251).expect("below 251"))
        .collect()
}

#[test]
fn a_partial_checksum_is_completed_before_it_leaves_the_node() {
    for v6 in [false, true] {
        let mut lab = Lab::new();
        let full = if v6 {
            udp6(&lab.here, &lab.there, b"abc")
        } else {
            udp4(&lab.here, &lab.there, b"abc")
        };
        let frame = partial(&full, v6, Protocol::UDP, udp::CHECKSUM);
        assert_ne!(frame.bytes(), full);
        let (outcome, sent) = lab.send_frame(lab.here.port, frame);
        assert_eq!(outcome, Outcome::ToVtep);
        assert_eq!(sent.vtep().2, encapsulated(lab.vni, &full));
        assert_eq!(sent.to_vteps[0].2.offload(), Offload::NONE);
    }
}

#[test]
fn a_partial_checksum_stays_for_a_port_that_takes_it() {
    let mut lab = Lab::new();
    let full = udp4(&lab.here, &lab.neighbour, b"abc");
    let frame = partial(&full, false, Protocol::UDP, udp::CHECKSUM);
    let (_, sent) = lab.send_frame(lab.here.port, frame.clone());
    assert_eq!(sent.port().1, full);
    let capabilities = PortCapabilities {
        partial_checksum: true,
        ..PortCapabilities::default()
    };
    lab.switch
        .set_port_capabilities(lab.neighbour.port, capabilities)
        .unwrap();
    let (_, sent) = lab.send_frame(lab.here.port, frame.clone());
    assert_eq!(sent.to_ports[0].1, frame);
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let mut lab = Lab::new();
    let bare = udp4(&lab.here, &lab.there, &[0, 0]);
    let sum = [bare[40], bare[41]];
    // A payload of the checksum itself makes the sum all ones, and the checksum zero.
    let full = udp4(&lab.here, &lab.there, &sum);
    let frame = partial(&full, false, Protocol::UDP, udp::CHECKSUM);
    let (_, sent) = lab.send_frame(lab.here.port, frame);
    let bytes = &sent.vtep().2[8..];
    assert_eq!(bytes[40..42], [0xff, 0xff]);
    assert_eq!(bytes, full);
}

#[test]
fn a_flooded_frame_has_whole_checksums() {
    let mut lab = Lab::new();
    let everybody = Endpoint {
        mac: MacAddr::BROADCAST,
        v4: Ipv4Addr::BROADCAST,
        ..lab.there
    };
    let full = udp4(&lab.here, &everybody, b"abc");
    let frame = partial(&full, false, Protocol::UDP, udp::CHECKSUM);
    let (outcome, sent) = lab.send_frame(lab.here.port, frame);
    assert_eq!(outcome, Outcome::Flooded);
    assert_eq!(sent.to_ports[0].1.bytes(), full);
    assert!(
        sent.to_vteps
            .iter()
            .all(|(_, _, sent)| sent.bytes() == encapsulated(lab.vni, &full))
    );
}

/// A partial checksum writes into the frame after it was checked: it must not reach what was checked.
#[test]
fn a_partial_checksum_reaches_nothing_but_the_upper_layer() {
    let mut lab = Lab::new();
    let bytes = udp4(&lab.here, &lab.there, b"abc");
    let end = u16::try_from(bytes.len()).unwrap();
    let mut padded = bytes.clone();
    padded.resize(60, 0);
    for (start, offset) in [
        (0, 6),
        (0, 34),
        (14, 12),
        (26, 0),
        (33, 7),
        (34, end - 34 - 1),
        (end, 0),
        (u16::MAX, 6),
    ] {
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &padded);
        frame.set_offload(Offload {
            checksum: Some(PartialChecksum { start, offset }),
            ..Offload::NONE
        });
        let (outcome, sent) = lab.send_frame(lab.here.port, frame);
        assert_eq!(
            outcome,
            Outcome::Dropped(DropReason::Offload),
            "{start}+{offset}"
        );
        assert!(sent.is_empty());
    }
    // The checksum of a fragment would cover a part of the packet.
    let fragment = ipv4::Repr {
        more_fragments: true,
        ..ipv4_repr(lab.here.v4, lab.there.v4, Protocol::UDP)
    };
    let packet = ipv4_packet(fragment, &bytes[34..]);
    let fragment = link(lab.here.mac, lab.there.mac, EtherType::IPV4, &packet);
    let frame = partial(&fragment, false, Protocol::UDP, udp::CHECKSUM);
    let (outcome, _) = lab.send_frame(lab.here.port, frame);
    assert_eq!(outcome, Outcome::Dropped(DropReason::Offload));
    let arp = arp_request(&lab.here, lab.there.v4);
    let frame = partial(&bytes, false, Protocol::UDP, udp::CHECKSUM);
    let mut wrong = Frame::with_headroom(Frame::HEADROOM, &arp);
    wrong.set_offload(frame.offload());
    let (outcome, _) = lab.send_frame(lab.here.port, wrong);
    assert_eq!(outcome, Outcome::Dropped(DropReason::Offload));
}

/// Puts the segments of a TCP super-frame together again and checks each on its own.
fn check_tcp_segments(segments: &[Vec<u8>], v6: bool, whole: &[u8], size: usize) {
    let header = upper_at(v6) + 32;
    let mut payload = Vec::new();
    for (at, bytes) in segments.iter().enumerate() {
        let (first, last) = (at == 0, at + 1 == segments.len());
        let (source, destination) = addresses(bytes, v6);
        let upper = &bytes[upper_at(v6)..];
        let packet = tcp::Packet::new_checked(upper).expect("a segment");
        assert!(packet.is_checksum_valid(source, destination));
        let skipped = u32::try_from(payload.len()).expect("small");
        assert_eq!(packet.sequence(), (u32::MAX - 100).wrapping_add(skipped));
        assert_eq!(packet.options(), &whole[header - 12..header]);
        let mut flags = ALL_FLAGS;
        if !last {
            flags = flags.without(Flags::FIN | Flags::PSH);
            assert_eq!(packet.payload().len(), size);
        }
        if !first {
            flags = flags.without(Flags::CWR);
        }
        assert_eq!(packet.flags(), flags, "segment {at}");
        if v6 {
            let network = ipv6::Packet::new_checked(&bytes[14..]).expect("IPv6");
            assert_eq!(network.total_bytes(), bytes.len() - 14);
        } else {
            let network = ipv4::Packet::new_checked(&bytes[14..]).expect("IPv4");
            assert!(network.is_checksum_valid());
            assert_eq!(network.total_bytes(), bytes.len() - 14);
            assert_eq!(usize::from(network.identification()), 7 + at);
        }
        payload.extend_from_slice(packet.payload());
    }
    assert_eq!(payload, &whole[header..]);
}

#[test]
fn a_tcp_super_frame_is_cut_to_segments() {
    for (v6, kind) in [(false, SegmentKind::TcpV4), (true, SegmentKind::TcpV6)] {
        for (length, count) in [
            (0, 1),
            (1, 1),
            (1_000, 1),
            (1_001, 2),
            (2_000, 2),
            (12_345, 13),
        ] {
            let mut lab = Lab::new();
            let whole = tcp_super(&lab.here, &lab.there, v6, &numbered(length));
            let frame = partial(&whole, v6, Protocol::TCP, tcp::CHECKSUM);
            let frame = with_segments(frame, kind, 1_000);
            let (outcome, sent) = lab.send_frame(lab.here.port, frame);
            assert_eq!(outcome, Outcome::ToVtep);
            let ports: BTreeSet<_> = sent
                .to_vteps
                .iter()
                .map(|(_, outer, _)| outer.source_port)
                .collect();
            assert_eq!(ports.len(), 1, "a flow has one source port");
            let segments = sent.to_vteps.iter().map(|(_, _, datagram)| {
                assert_eq!(datagram.offload(), Offload::NONE);
                vxlan::Packet::new_checked(datagram.bytes())
                    .unwrap()
                    .payload()
                    .to_vec()
            });
            let segments: Vec<_> = segments.collect();
            assert_eq!(segments.len(), count);
            check_tcp_segments(&segments, v6, &whole, 1_000);
            assert_eq!(lab.switch.stats().to_vteps.frames, count as u64);
        }
    }
}

#[test]
fn a_udp_super_frame_is_cut_to_datagrams() {
    for v6 in [false, true] {
        let mut lab = Lab::new();
        let payload = numbered(2_500);
        let (from, to) = (lab.here, lab.there);
        let whole = if v6 {
            udp6(&from, &to, &payload)
        } else {
            udp4(&from, &to, &payload)
        };
        let frame = partial(&whole, v6, Protocol::UDP, udp::CHECKSUM);
        let frame = with_segments(frame, SegmentKind::Udp, 1_200);
        let (_, sent) = lab.send_frame(lab.here.port, frame);
        let frames: Vec<_> = sent
            .to_vteps
            .iter()
            .map(|(_, _, datagram)| datagram.bytes()[8..].to_vec())
            .collect();
        let pieces = [&payload[..1_200], &payload[1_200..2_400], &payload[2_400..]];
        let expected = pieces.map(|piece| {
            if v6 {
                udp6(&from, &to, piece)
            } else {
                udp4(&from, &to, piece)
            }
        });
        assert_eq!(frames.len(), 3);
        for (at, (frame, expected)) in frames.iter().zip(expected).enumerate() {
            // The identification counts up; nothing else differs from a datagram that was sent alone.
            let mut expected = expected;
            if !v6 {
                let mut network = ipv4::Packet::new_unchecked(&mut expected[14..]);
                network.set_identification(7 + u16::try_from(at).unwrap());
                network.fill_checksum();
            }
            assert_eq!(frame, &expected);
        }
    }
}

#[test]
fn a_super_frame_stays_whole_for_a_port_that_takes_it() {
    let mut lab = Lab::new();
    let whole = tcp_super(&lab.here, &lab.neighbour, false, &numbered(5_000));
    let frame = partial(&whole, false, Protocol::TCP, tcp::CHECKSUM);
    let frame = with_segments(frame, SegmentKind::TcpV4, 1_000);
    let (_, sent) = lab.send_frame(lab.here.port, frame.clone());
    let segments: Vec<_> = sent
        .to_ports
        .iter()
        .map(|(_, frame)| frame.bytes().to_vec())
        .collect();
    assert_eq!(segments.len(), 5);
    check_tcp_segments(&segments, false, &whole, 1_000);
    for partial_checksum in [false, true] {
        let capabilities = PortCapabilities {
            partial_checksum,
            udp_segmentation: true,
            segmentation: false,
        };
        lab.switch
            .set_port_capabilities(lab.neighbour.port, capabilities)
            .unwrap();
        assert_eq!(
            lab.send_frame(lab.here.port, frame.clone()).1.ports().len(),
            5
        );
    }
    let capabilities = PortCapabilities {
        partial_checksum: true,
        segmentation: true,
        udp_segmentation: false,
    };
    lab.switch
        .set_port_capabilities(lab.neighbour.port, capabilities)
        .unwrap();
    let (_, sent) = lab.send_frame(lab.here.port, frame.clone());
    assert_eq!(sent.to_ports[0].1, frame);
}

#[test]
fn a_port_may_take_super_frames_of_one_protocol_only() {
    let mut lab = Lab::new();
    let whole = udp4(&lab.here, &lab.neighbour, &numbered(2_500));
    let frame = partial(&whole, false, Protocol::UDP, udp::CHECKSUM);
    let frame = with_segments(frame, SegmentKind::Udp, 1_000);
    for (udp_segmentation, frames) in [(false, 3), (true, 1)] {
        let capabilities = PortCapabilities {
            partial_checksum: true,
            segmentation: true,
            udp_segmentation,
        };
        lab.switch
            .set_port_capabilities(lab.neighbour.port, capabilities)
            .unwrap();
        let (_, sent) = lab.send_frame(lab.here.port, frame.clone());
        assert_eq!(sent.ports().len(), frames);
    }
}

#[test]
fn the_mtu_is_that_of_the_segments() {
    let mut lab = Lab::new();
    let whole = tcp_super(&lab.here, &lab.there, false, &numbered(30_000));
    let frame = partial(&whole, false, Protocol::TCP, tcp::CHECKSUM);
    // 20 octets of IP and 32 of TCP leave 1,398 of 1,450.
    let fits = with_segments(frame.clone(), SegmentKind::TcpV4, 1_398);
    assert_eq!(lab.send_frame(lab.here.port, fits).0, Outcome::ToVtep);
    let too_big = with_segments(frame, SegmentKind::TcpV4, 1_399);
    let (outcome, sent) = lab.send_frame(lab.here.port, too_big);
    assert_eq!(outcome, Outcome::Dropped(DropReason::TooBigAnswered));
    assert_eq!(sent.port().0, lab.here.port);
}

#[test]
fn super_frames_that_are_not_what_they_say_are_refused() {
    let mut lab = Lab::new();
    let (from, to) = (lab.here, lab.there);
    let tcp = tcp_super(&from, &to, false, &numbered(3_000));
    let udp = udp4(&from, &to, &numbered(3_000));
    let fragment = ipv4::Repr {
        more_fragments: true,
        ..ipv4_repr(from.v4, to.v4, Protocol::UDP)
    };
    let datagram = udp_datagram((1, 2), from.v4.into(), to.v4.into(), &[0; 3_000]);
    let fragment = link(
        from.mac,
        to.mac,
        EtherType::IPV4,
        &ipv4_packet(fragment, &datagram),
    );
    let mut short_header = tcp.clone();
    short_header[34 + 12] = 0x40;
    let other = link(from.mac, to.mac, EtherType::EXPERIMENT, &[0; 3_000]);
    for (bytes, kind, size) in [
        (&tcp, SegmentKind::TcpV6, 1_000),
        (&tcp, SegmentKind::Udp, 1_000),
        (&udp, SegmentKind::TcpV4, 1_000),
        (&short_header, SegmentKind::TcpV4, 1_000),
        (&fragment, SegmentKind::Udp, 1_000),
        (&other, SegmentKind::Udp, 1_000),
        (&tcp, SegmentKind::TcpV4, 0),
        (&tcp, SegmentKind::TcpV4, 2),
    ] {
        let frame = Frame::with_headroom(Frame::HEADROOM, bytes);
        let (outcome, sent) = lab.send_frame(from.port, with_segments(frame, kind, size));
        assert_eq!(
            outcome,
            Outcome::Dropped(DropReason::Offload),
            "{kind:?} {size}"
        );
        assert!(sent.is_empty());
    }
}

#[test]
fn a_super_frame_becomes_a_bounded_number_of_segments() {
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let count = |octets: usize| {
        let frame = Frame::with_headroom(0, &udp4(&from, &to, &numbered(octets)));
        let mut frame = with_segments(frame, SegmentKind::Udp, 1);
        let mut calls = 0;
        let result = segment(&mut frame, &mut Frame::new(), 0, |_| calls += 1);
        (result, calls)
    };
    assert_eq!(count(SEGMENTS_MAX), (Ok(SEGMENTS_MAX), SEGMENTS_MAX));
    let octets = SEGMENTS_MAX + 1;
    assert_eq!(
        count(octets),
        (Err(SegmentError::Size { octets, size: 1 }), 0)
    );
}

#[test]
fn what_is_alone_is_handed_over_itself() {
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let full = udp4(&from, &to, b"abc");
    let mut frame = partial(&full, false, Protocol::UDP, udp::CHECKSUM);
    let mut handed = Vec::new();
    let result = segment(&mut frame, &mut Frame::new(), 0, |frame| {
        handed.push(frame.bytes().to_vec())
    });
    assert_eq!((result, handed), (Ok(1), vec![full.clone()]));
    let mut frame = Frame::with_headroom(0, &full);
    let outside = PartialChecksum {
        start: 45,
        offset: 0,
    };
    frame.set_offload(Offload {
        checksum: Some(outside),
        ..Offload::NONE
    });
    let error = OffloadError::OutOfFrame {
        at: 45,
        have: full.len(),
    };
    assert_eq!(full.len(), 45);
    assert_eq!(
        segment(&mut frame, &mut Frame::new(), 0, |_| {}),
        Err(error.into())
    );
}
