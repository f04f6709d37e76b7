//! Paths to VTEPs that are narrower than the network's MTU, and the maximum segment size of TCP.

mod lab;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use lab::*;
use overlay_vxlan::{
    Config, DropReason, Frame, NetworkConfig, Offload, Outcome, PartialChecksum, SegmentKind,
    Segmentation, VlanTags,
    wire::{
        checksum::Sum,
        ethernet::{self, EtherType},
        icmpv4, icmpv6,
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
    },
};

const TOLD: Outcome = Outcome::Dropped(DropReason::TooBigAnswered);

/// The MTU that the ICMP error to the sender names.
fn told_mtu(sent: &Sent) -> u32 {
    let (_, bytes) = sent.port();
    let link = ethernet::Packet::new_checked(bytes).expect("a frame");
    if link.ethertype() == EtherType::IPV4 {
        let packet = ipv4::Packet::new_checked(link.payload()).expect("a packet");
        let message = icmpv4::Packet::new_checked(packet.payload()).expect("a message");
        match icmpv4::Repr::parse(&message) {
            Ok(icmpv4::Repr::FragmentationNeeded { mtu }) => mtu.into(),
            other => unreachable!("{other:?}"),
        }
    } else {
        let packet = ipv6::Packet::new_checked(link.payload()).expect("a packet");
        let message = icmpv6::Packet::new_checked(packet.payload()).expect("a message");
        match icmpv6::Repr::parse(&message, packet.source(), packet.destination()) {
            Ok(icmpv6::Repr::PacketTooBig { mtu }) => mtu,
            other => unreachable!("{other:?}"),
        }
    }
}

/// A packet of so many octets of IP.
fn packet(from: &Endpoint, to: &Endpoint, v6: bool, octets: usize) -> Vec<u8> {
    if v6 {
        udp6(from, to, &vec![7; octets - 48])
    } else {
        udp4(from, to, &vec![7; octets - 28])
    }
}

/// A lab whose network has an MTU of 8,900, and a peer at an IPv6 VTEP.
fn jumbo(config: NetworkConfig) -> (Lab, Endpoint) {
    let config = NetworkConfig {
        mtu: 8_900,
        ..config
    };
    let mut lab = Lab::with(Config::default(), config);
    let far = Endpoint {
        vtep: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
        ..Endpoint::new(14, 9)
    };
    let set = lab
        .switch
        .set_remote(lab.vni, far.mac, &far.addresses(), far.vtep);
    set.expect("room for a row");
    let vteps = BTreeSet::from([lab.there.vtep, lab.elsewhere.vtep, far.vtep]);
    lab.switch.set_vteps(lab.vni, &vteps).expect("few VTEPs");
    (lab, far)
}

#[test]
fn a_narrow_path_counts_for_its_own_peer() {
    for (overhead_bytes, v4_mtu, v6_mtu) in [(0, 1_450, 1_430), (37, 1_413, 1_393)] {
        let (mut lab, far) = jumbo(NetworkConfig {
            overhead_bytes,
            ..network()
        });
        assert_eq!(
            lab.switch.endpoint_mtu(lab.vni, lab.there.vtep),
            Some(8_900)
        );
        assert!(lab.switch.set_path_mtu(lab.there.vtep, Some(1_500)));
        assert!(lab.switch.set_path_mtu(far.vtep, Some(1_500)));
        for (peer, mtu) in [(lab.there, v4_mtu), (far, v6_mtu)] {
            let endpoint_mtu = lab.switch.endpoint_mtu(lab.vni, peer.vtep);
            assert_eq!(endpoint_mtu.map(u32::from), Some(mtu));
            for v6 in [false, true] {
                let octets = usize::try_from(mtu).unwrap();
                let fits = packet(&lab.here, &peer, v6, octets);
                assert_eq!(lab.send(lab.here.port, &fits).0, Outcome::ToVtep);
                let big = packet(&lab.here, &peer, v6, octets + 1);
                let (outcome, sent) = lab.send(lab.here.port, &big);
                assert_eq!(outcome, TOLD);
                assert_eq!(told_mtu(&sent), mtu);
            }
        }
        // The path to another peer, and that to a neighbour, are as wide as the network.
        for peer in [lab.elsewhere, lab.neighbour] {
            let big = packet(&lab.here, &peer, false, 8_900);
            let outcome = lab.send(lab.here.port, &big).0;
            assert!(matches!(outcome, Outcome::ToVtep | Outcome::ToPort));
        }
        lab.switch.set_path_mtu(lab.there.vtep, None);
        let big = packet(&lab.here, &lab.there, false, 8_900);
        assert_eq!(lab.send(lab.here.port, &big).0, Outcome::ToVtep);
    }
}

#[test]
fn a_path_wider_than_the_network_changes_nothing() {
    let mut lab = Lab::new();
    lab.switch.set_path_mtu(lab.there.vtep, Some(9_000));
    assert_eq!(
        lab.switch.endpoint_mtu(lab.vni, lab.there.vtep),
        Some(1_450)
    );
    let big = packet(&lab.here, &lab.there, false, 1_451);
    let (outcome, sent) = lab.send(lab.here.port, &big);
    assert_eq!((outcome, told_mtu(&sent)), (TOLD, 1_450));
}

/// No host sends less because of an ICMP error, so such packets are left to the underlay.
#[test]
fn what_every_host_must_be_able_to_send_passes_any_path() {
    let config = NetworkConfig {
        vlan_tags: VlanTags::Inspect,
        ..network()
    };
    let (mut lab, _) = jumbo(config);
    lab.switch.set_path_mtu(lab.there.vtep, Some(1_280));
    let fits = packet(&lab.here, &lab.there, true, 1_280);
    assert_eq!(lab.send(lab.here.port, &fits).0, Outcome::ToVtep);
    assert_eq!(
        lab.send(lab.here.port, &tagged(&fits, 7)).0,
        Outcome::ToVtep
    );
    let big = packet(&lab.here, &lab.there, true, 1_281);
    let (outcome, sent) = lab.send(lab.here.port, &big);
    assert_eq!((outcome, told_mtu(&sent)), (TOLD, 1_280));
    let (outcome, mut sent) = lab.send(lab.here.port, &tagged(&big, 7));
    let mut untagged = sent.port().1.to_vec();
    untagged.drain(12..16);
    sent.to_ports[0].1 = Frame::with_headroom(0, &untagged);
    assert_eq!((outcome, told_mtu(&sent)), (TOLD, 1_280));
    let big = packet(&lab.here, &lab.there, false, 1_280);
    let (outcome, sent) = lab.send(lab.here.port, &big);
    assert_eq!((outcome, told_mtu(&sent)), (TOLD, 1_230));
    lab.switch.set_path_mtu(lab.there.vtep, Some(0));
    let fits = packet(&lab.here, &lab.there, false, 68);
    assert_eq!(lab.send(lab.here.port, &fits).0, Outcome::ToVtep);
    let (outcome, sent) = lab.send(lab.here.port, &packet(&lab.here, &lab.there, false, 69));
    assert_eq!((outcome, told_mtu(&sent)), (TOLD, 68));
}

#[test]
fn the_segments_of_a_super_frame_have_to_fit_the_path() {
    let (mut lab, _) = jumbo(network());
    lab.switch.set_path_mtu(lab.there.vtep, Some(1_500));
    let syn = tcp_frame(&lab.here, &lab.there, false, Flags::ACK, &[], &[3; 20_000]);
    let super_frame = |size_bytes| {
        let mut frame = partial(&syn, false);
        frame.set_offload(Offload {
            segment: Some(Segmentation {
                kind: SegmentKind::TcpV4,
                size_bytes,
                header_bytes: 54,
                ecn: false,
            }),
            ..frame.offload()
        });
        frame
    };
    let (outcome, sent) = lab.send_frame(lab.here.port, super_frame(1_410));
    assert_eq!(outcome, Outcome::ToVtep);
    assert_eq!(sent.to_vteps.len(), 15);
    let (outcome, sent) = lab.send_frame(lab.here.port, super_frame(1_411));
    assert_eq!((outcome, told_mtu(&sent)), (TOLD, 1_450));
}

#[test]
fn a_path_is_forgotten_with_its_vtep() {
    let mut lab = Lab::new();
    let vtep = lab.there.vtep;
    assert!(!lab.switch.set_path_mtu(lab::vtep(9), Some(1_400)));
    assert_eq!(lab.switch.path_mtu(lab::vtep(9)), None);
    assert!(lab.switch.set_path_mtu(vtep, Some(1_400)));
    assert_eq!(lab.switch.path_mtu(vtep), Some(1_400));
    lab.switch.remove_remote(lab.vni, lab.there.mac, vtep);
    assert_eq!(lab.switch.path_mtu(vtep), Some(1_400), "it is a member yet");
    lab.switch.set_vteps(lab.vni, &BTreeSet::new()).unwrap();
    assert_eq!(lab.switch.path_mtu(vtep), None);
    lab.switch.set_vteps(lab.vni, &[vtep].into()).unwrap();
    assert_eq!(lab.switch.path_mtu(vtep), None);
    assert_eq!(lab.switch.endpoint_mtu(lab.vni, vtep), Some(1_450));
}

/// A TCP segment with options, which are padded.
fn tcp_frame(
    from: &Endpoint,
    to: &Endpoint,
    v6: bool,
    flags: Flags,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let (source, destination): (IpAddr, IpAddr) = if v6 {
        (from.v6.into(), to.v6.into())
    } else {
        (from.v4.into(), to.v4.into())
    };
    let header_bytes = 20 + options.len().next_multiple_of(4);
    let mut segment = vec![0; header_bytes];
    let repr = tcp::Repr {
        source_port: 4_000,
        destination_port: 80,
        sequence: 0x0102_0304,
        acknowledgment: 0,
        flags,
        window: 64_240,
        urgent: 0,
    };
    repr.emit(&mut segment).expect("room");
    segment[12] = u8::try_from(header_bytes / 4 * 16).expect("a header");
    segment[20..20 + options.len()].copy_from_slice(options);
    segment.extend_from_slice(payload);
    let mut view = tcp::Packet::new_checked(&mut segment[..]).expect("a segment");
    view.fill_checksum(source, destination);
    let (ethertype, packet) = if v6 {
        let packet = ipv6_packet(from.v6, to.v6, Protocol::TCP, 64, &segment);
        (EtherType::IPV6, packet)
    } else {
        let repr = ipv4_repr(from.v4, to.v4, Protocol::TCP);
        (EtherType::IPV4, ipv4_packet(repr, &segment))
    };
    link(from.mac, to.mac, ethertype, &packet)
}

/// Makes the checksum of a TCP frame partial.
fn partial(bytes: &[u8], v6: bool) -> Frame {
    let start: u16 = if v6 { 54 } else { 34 };
    let (source, destination) = ends(bytes, v6);
    let length = u32::try_from(bytes.len()).expect("a frame") - u32::from(start);
    let pseudo = Sum::pseudo_header(source, destination, Protocol::TCP, length).fold();
    let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
    let at = usize::from(start) + tcp::CHECKSUM;
    frame.bytes_mut()[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    frame.set_offload(Offload {
        checksum: Some(PartialChecksum { start, offset: 16 }),
        ..Offload::NONE
    });
    frame
}

fn ends(bytes: &[u8], v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        let packet = ipv6::Packet::new_checked(&bytes[14..]).expect("IPv6");
        (packet.source().into(), packet.destination().into())
    } else {
        let packet = ipv4::Packet::new_checked(&bytes[14..]).expect("IPv4");
        (packet.source().into(), packet.destination().into())
    }
}

/// The announced size; the checksum has to fit.
fn mss_of(bytes: &[u8], v6: bool) -> Option<u16> {
    let (source, destination) = ends(bytes, v6);
    let segment = &bytes[if v6 { 54 } else { 34 }..];
    let segment = tcp::Packet::new_checked(segment).expect("a segment");
    assert!(segment.is_checksum_valid(source, destination));
    segment.mss()
}

fn clamping() -> NetworkConfig {
    NetworkConfig {
        mss_clamp: true,
        ..network()
    }
}

/// The option alone, and at an odd offset.
const OPTIONS: [&[u8]; 2] = [&[2, 4, 0x23, 0x00], &[1, 3, 3, 7, 1, 2, 4, 0x23, 0x00]];

#[test]
fn a_syn_announces_no_more_than_the_path_has_room_for() {
    let (mut lab, far) = jumbo(clamping());
    lab.switch.set_path_mtu(lab.there.vtep, Some(1_500));
    lab.switch.set_path_mtu(far.vtep, Some(1_500));
    let (here, there) = (lab.here, lab.there);
    for flags in [Flags::SYN, Flags::SYN | Flags::ACK] {
        for (at, options) in OPTIONS.into_iter().enumerate() {
            assert_eq!(at == 1, options.len() % 4 == 1, "one is at an odd offset");
            for (to, v6, mss) in [
                (there, false, 1_410),
                (there, true, 1_390),
                (far, false, 1_390),
                (far, true, 1_370),
                (lab.elsewhere, false, 8_860),
                (lab.elsewhere, true, 8_840),
            ] {
                let syn = tcp_frame(&here, &to, v6, flags, options, &[]);
                let (outcome, sent) = lab.send(here.port, &syn);
                assert_eq!(outcome, Outcome::ToVtep);
                assert_eq!(mss_of(&sent.vtep().2[8..], v6), Some(mss));
                // With a partial checksum the field is completed on the way.
                let (_, sent) = lab.send_frame(here.port, partial(&syn, v6));
                assert_eq!(mss_of(&sent.vtep().2[8..], v6), Some(mss));
                // The way back has the same path.
                let syn = tcp_frame(&to, &here, v6, flags, options, &[]);
                let (outcome, sent) = lab.receive(to.vtep, &syn);
                assert_eq!(outcome, Outcome::ToPort);
                assert_eq!(mss_of(sent.port().1, v6), Some(mss));
            }
        }
    }
    let syn = tcp_frame(&here, &lab.neighbour, false, Flags::SYN, OPTIONS[0], &[]);
    let (_, sent) = lab.send(here.port, &syn);
    assert_eq!(mss_of(sent.port().1, false), Some(8_860));
}

#[test]
fn a_tag_counts_and_what_is_smaller_stays() {
    let config = NetworkConfig {
        vlan_tags: VlanTags::Inspect,
        ..clamping()
    };
    let mut lab = Lab::with(Config::default(), config);
    let syn = tcp_frame(&lab.here, &lab.there, false, Flags::SYN, OPTIONS[0], &[]);
    let (_, sent) = lab.send(lab.here.port, &tagged(&syn, 7));
    let mut untagged = sent.vtep().2[8..].to_vec();
    untagged.drain(12..16);
    assert_eq!(mss_of(&untagged, false), Some(1_450 - 4 - 40));
    for mss in [0, 536, 1_410] {
        let [high, low] = u16::to_be_bytes(mss);
        let syn = tcp_frame(
            &lab.here,
            &lab.there,
            false,
            Flags::SYN,
            &[2, 4, high, low],
            &[],
        );
        let (_, sent) = lab.send(lab.here.port, &syn);
        assert_eq!(sent.vtep().2[8..], syn);
    }
}

#[test]
fn whatever_is_no_syn_with_the_option_stays() {
    let mut lab = Lab::with(Config::default(), clamping());
    let (here, there) = (lab.here, lab.there);
    for (flags, options) in [
        (Flags::ACK, OPTIONS[0]),
        (Flags::SYN, &[][..]),
        (Flags::SYN, &[1, 1, 1, 1]),
        // Behind the end of the options.
        (Flags::SYN, &[0, 2, 4, 0x23, 0x00]),
        // Of a wrong length, and cut off.
        (Flags::SYN, &[2, 3, 0x23, 0x00]),
        (Flags::SYN, &[1, 1, 2, 4]),
        (Flags::SYN, &[8, 200, 2, 4, 0x23, 0x00]),
        (Flags::SYN, &[1, 1, 1, 2]),
    ] {
        let segment = tcp_frame(&here, &there, false, flags, options, &[]);
        let (_, sent) = lab.send(here.port, &segment);
        assert_eq!(sent.vtep().2[8..], segment, "{options:?}");
    }
    // An option of no length is stepped over.
    let segment = tcp_frame(
        &here,
        &there,
        false,
        Flags::SYN,
        &[8, 0, 2, 4, 0x23, 0x00],
        &[],
    );
    let (_, sent) = lab.send(here.port, &segment);
    assert_eq!(mss_of(&sent.vtep().2[8..], false), Some(1_410));
    // Without the network's wish, nothing is touched.
    let mut lab = Lab::new();
    let syn = tcp_frame(&here, &there, false, Flags::SYN, OPTIONS[0], &[]);
    assert_eq!(lab.send(here.port, &syn).1.vtep().2[8..], syn);
    assert_eq!(
        lab.receive(
            there.vtep,
            &tcp_frame(&there, &here, false, Flags::SYN, OPTIONS[0], &[])
        )
        .1
        .port()
        .1[54..],
        syn[54..]
    );
}
