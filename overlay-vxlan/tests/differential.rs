//! Damaged headers: we accept, refuse and read what two independent parsers do, but for the differences named here.

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::*;
use overlay_core::MacAddr;
use overlay_vxlan::wire::{
    arp,
    ethernet::{self, EtherType},
    icmpv4, icmpv6,
    ipv4::{self, Protocol},
    ipv6, tcp, udp, vlan,
};
use proptest::prelude::*;
use smoltcp::{phy::ChecksumCapabilities, wire as smol};

const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 1, 2), Ipv4Addr::new(10, 0, 1, 12)];

fn v6() -> [Ipv6Addr; 2] {
    [Endpoint::new(2, 1).v6, Endpoint::new(12, 2).v6]
}

/// Headers of one kind each, with what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Arp,
    Ipv4,
    Ipv6,
    Udp,
    Tcp,
    Icmpv4,
    Icmpv6,
    Vlan,
}

fn sample(kind: Kind) -> Vec<u8> {
    let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    match kind {
        Kind::Arp => arp_request(&from, to.v4)[14..].to_vec(),
        Kind::Ipv4 => udp4(&from, &to, b"0123456789")[14..].to_vec(),
        Kind::Ipv6 => udp6(&from, &to, b"0123456789")[14..].to_vec(),
        Kind::Udp => udp4(&from, &to, b"0123456789")[34..].to_vec(),
        Kind::Tcp => {
            let repr = tcp::Repr {
                source_port: 4_000,
                destination_port: 80,
                sequence: 1,
                acknowledgment: 2,
                flags: tcp::Flags::SYN,
                window: 3,
                urgent: 0,
            };
            let payload = [1, 2, 4, 5, 180, 3, 3, 7, 0, 0, 0, 0, 9, 9];
            let mut bytes = tcp_segment(repr, V4[0].into(), V4[1].into(), &payload);
            bytes[12] = 0x80;
            let mut view = tcp::Packet::new_checked(&mut bytes[..]).expect("a segment");
            view.fill_checksum(V4[0].into(), V4[1].into());
            bytes
        }
        Kind::Icmpv4 => {
            let mut bytes = vec![7; 20];
            let echo = icmpv4::Repr::EchoRequest {
                identifier: 1,
                sequence: 2,
            };
            echo.emit(&mut bytes).expect("room");
            bytes
        }
        Kind::Icmpv6 => solicitation(from.mac, from.v6, to.v6)[54..].to_vec(),
        Kind::Vlan => {
            let frame = tagged(&udp4(&from, &to, b"0123456789"), 0x123);
            frame[14..].to_vec()
        }
    }
}

/// Mostly numbers that a length, an offset or a kind of option may have.
fn octet() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0..24u8, 1 => any::<u8>(), 1 => (0..8u8).prop_map(|bit| 1 << bit)]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Arp),
        Just(Kind::Ipv4),
        Just(Kind::Ipv6),
        Just(Kind::Udp),
        Just(Kind::Tcp),
        Just(Kind::Icmpv4),
        Just(Kind::Icmpv6),
        Just(Kind::Vlan),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn damaged_headers_are_the_same_to_all(
        kind in kinds(), writes in proptest::collection::vec((0..44usize, octet()), 0..4), cut in 0..100usize,
    ) {
        let mut bytes = sample(kind);
        for (at, value) in writes {
            let length = bytes.len();
            bytes[at % length] = value;
        }
        bytes.truncate(cut);
        match kind {
            Kind::Arp => same_arp(&bytes)?,
            Kind::Ipv4 => same_ipv4(&bytes)?,
            Kind::Ipv6 => same_ipv6(&bytes)?,
            Kind::Udp => same_udp(&bytes)?,
            Kind::Tcp => same_tcp(&bytes)?,
            Kind::Icmpv4 => same_icmpv4(&bytes)?,
            Kind::Icmpv6 => same_icmpv6(&bytes)?,
            Kind::Vlan => same_vlan(&bytes)?,
        }
    }

    #[test]
    fn an_ethernet_header_is_the_same_to_all(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let ours = ethernet::Packet::new_checked(&bytes[..]);
        let smol = smol::EthernetFrame::new_checked(&bytes[..]);
        let ether = etherparse::Ethernet2HeaderSlice::from_slice(&bytes);
        prop_assert_eq!((ours.is_ok(), ours.is_ok()), (smol.is_ok(), ether.is_ok()));
        let (Ok(ours), Ok(smol), Ok(ether)) = (ours, smol, ether) else { return Ok(()) };
        prop_assert_eq!(ours.source().octets(), smol.src_addr().0);
        prop_assert_eq!(ours.destination().octets(), ether.destination());
        prop_assert_eq!(ours.ethertype().0, u16::from(smol.ethertype()));
        prop_assert_eq!(ours.ethertype().0, ether.ether_type().0);
        prop_assert_eq!(ours.payload(), smol.payload());
    }
}

fn same_arp(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = arp::Packet::new_checked(bytes);
    let smol = smol::ArpPacket::new_checked(bytes).and_then(|packet| smol::ArpRepr::parse(&packet));
    prop_assert_eq!(ours.is_ok(), smol.is_ok());
    let (Ok(ours), Ok(smol)) = (ours, smol) else {
        return Ok(());
    };
    let smol::ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = smol
    else {
        return Err(TestCaseError::fail("another kind of address"));
    };
    let repr = arp::Repr::parse(&ours);
    prop_assert_eq!(repr.operation.0, u16::from(operation));
    prop_assert_eq!(repr.sender_mac, MacAddr::new(source_hardware_addr.0));
    prop_assert_eq!(repr.target_mac, MacAddr::new(target_hardware_addr.0));
    prop_assert_eq!(repr.sender_address, source_protocol_addr);
    prop_assert_eq!(repr.target_address, target_protocol_addr);
    Ok(())
}

/// smoltcp looks at the version only where it reads the whole header, takes header lengths below 20 octets, and leaves
/// fragments to another reader.
fn same_ipv4(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = ipv4::Packet::new_checked(bytes);
    let smol = smol::Ipv4Packet::new_checked(bytes);
    let version_and_length = bytes
        .first()
        .is_some_and(|octet| octet >> 4 == 4 && octet & 0xf >= 5);
    prop_assert_eq!(ours.is_ok(), smol.is_ok() && version_and_length);
    let (Ok(ours), Ok(smol)) = (ours, smol) else {
        return Ok(());
    };
    prop_assert_eq!(ours.is_checksum_valid(), smol.verify_checksum());
    prop_assert_eq!(
        (ours.source(), ours.destination()),
        (smol.src_addr(), smol.dst_addr())
    );
    prop_assert_eq!(
        (ours.ttl(), ours.protocol().0),
        (smol.hop_limit(), u8::from(smol.next_header()))
    );
    prop_assert_eq!(ours.traffic_class(), smol.dscp() << 2 | smol.ecn());
    prop_assert_eq!(
        (ours.dont_fragment(), ours.more_fragments()),
        (smol.dont_frag(), smol.more_frags())
    );
    // Theirs counts octets.
    prop_assert_eq!(ours.fragment_offset() << 3, smol.frag_offset());
    prop_assert_eq!(ours.identification(), smol.ident());
    prop_assert_eq!(ours.payload(), smol.payload());
    let parsed = smol::Ipv4Repr::parse(&smol, &ChecksumCapabilities::default());
    prop_assert_eq!(
        ipv4::Repr::parse(&ours).is_ok() && !ours.is_fragment(),
        parsed.is_ok()
    );
    Ok(())
}

/// smoltcp looks at the version only where it reads the whole header.
fn same_ipv6(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = ipv6::Packet::new_checked(bytes);
    let smol = smol::Ipv6Packet::new_checked(bytes);
    let version = bytes.first().is_some_and(|octet| octet >> 4 == 6);
    prop_assert_eq!(ours.is_ok(), smol.is_ok() && version);
    let (Ok(ours), Ok(smol)) = (ours, smol) else {
        return Ok(());
    };
    prop_assert_eq!(
        (ours.source(), ours.destination()),
        (smol.src_addr(), smol.dst_addr())
    );
    prop_assert_eq!(
        (ours.traffic_class(), ours.flow_label()),
        (smol.traffic_class(), smol.flow_label())
    );
    prop_assert_eq!(
        (ours.hop_limit(), ours.next_header().0),
        (smol.hop_limit(), u8::from(smol.next_header()))
    );
    prop_assert_eq!(ours.payload(), smol.payload());
    Ok(())
}

/// etherparse takes a length of zero for that of a jumbogram (RFC 2675); smoltcp takes a checksum of zero over IPv6, too.
fn same_udp(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = udp::Packet::new_checked(bytes);
    let smol = smol::UdpPacket::new_checked(bytes);
    let ether = etherparse::UdpSlice::from_slice(bytes);
    let zero = bytes.get(4..6) == Some(&[0, 0]);
    prop_assert_eq!(ours.is_ok(), smol.is_ok());
    prop_assert_eq!(ours.is_ok(), ether.is_ok() && !zero);
    let (Ok(ours), Ok(smol), Ok(ether)) = (ours, smol, ether) else {
        return Ok(());
    };
    prop_assert_eq!(
        (ours.source_port(), ours.destination_port()),
        (smol.src_port(), ether.destination_port())
    );
    prop_assert_eq!(ours.payload(), smol.payload());
    prop_assert_eq!(ours.payload(), ether.payload());
    let pairs: [[IpAddr; 2]; 2] = [V4.map(Into::into), v6().map(Into::into)];
    for [source, destination] in pairs {
        let expected = smol.verify_checksum(&source.into(), &destination.into());
        let unsummed = smol.checksum() == 0 && source.is_ipv6();
        prop_assert_eq!(
            ours.is_checksum_valid(source, destination),
            expected && !unsummed
        );
    }
    Ok(())
}

/// smoltcp gives the options up at the first that is malformed, or of a length that its kind does not have; we look on.
fn same_tcp(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = tcp::Packet::new_checked(bytes);
    let smol = smol::TcpPacket::new_checked(bytes);
    let ether = etherparse::TcpHeaderSlice::from_slice(bytes);
    prop_assert_eq!((ours.is_ok(), ours.is_ok()), (smol.is_ok(), ether.is_ok()));
    let (Ok(ours), Ok(smol), Ok(ether)) = (ours, smol, ether) else {
        return Ok(());
    };
    prop_assert_eq!(
        (ours.source_port(), ours.destination_port()),
        (smol.src_port(), smol.dst_port())
    );
    prop_assert_eq!(
        (ours.sequence(), ours.acknowledgment()),
        (ether.sequence_number(), ether.acknowledgment_number())
    );
    prop_assert_eq!(
        i32::from_ne_bytes(ours.sequence().to_ne_bytes()),
        smol.seq_number().0
    );
    prop_assert_eq!(
        (ours.window(), ours.urgent()),
        (smol.window_len(), smol.urgent_at())
    );
    prop_assert_eq!(ours.flags().contains(tcp::Flags::SYN), smol.syn());
    prop_assert_eq!(
        (ours.options(), ours.payload()),
        (smol.options(), smol.payload())
    );
    let [source, destination]: [IpAddr; 2] = V4.map(Into::into);
    let valid = smol.verify_checksum(&source.into(), &destination.into());
    prop_assert_eq!(ours.is_checksum_valid(source, destination), valid);
    let mut rest = smol.options();
    while let Ok((next, option)) = smol::TcpOption::parse(rest) {
        match option {
            smol::TcpOption::MaxSegmentSize(mss) => {
                prop_assert_eq!(ours.mss(), Some(mss));
                break;
            }
            smol::TcpOption::EndOfList => {
                prop_assert_eq!(ours.mss(), None);
                break;
            }
            _ if next.is_empty() => {
                prop_assert_eq!(ours.mss(), None);
                break;
            }
            _ => rest = next,
        }
    }
    Ok(())
}

/// smoltcp reads only the errors that quote a whole IP header.
fn same_icmpv4(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = icmpv4::Packet::new_checked(bytes);
    let smol = smol::Icmpv4Packet::new_checked(bytes);
    prop_assert_eq!(ours.is_ok(), smol.is_ok());
    let (Ok(ours), Ok(smol)) = (ours, smol) else {
        return Ok(());
    };
    prop_assert_eq!(ours.is_checksum_valid(), smol.verify_checksum());
    prop_assert_eq!(
        (ours.kind(), ours.code()),
        (smol.msg_type().into(), smol.msg_code())
    );
    let theirs = smol::Icmpv4Repr::parse(&smol, &ChecksumCapabilities::default());
    match (icmpv4::Repr::parse(&ours), theirs) {
        (
            Ok(icmpv4::Repr::EchoRequest {
                identifier,
                sequence,
            }),
            Ok(smol::Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            }),
        ) => {
            prop_assert_eq!(
                (identifier, sequence, ours.payload()),
                (ident, seq_no, data)
            );
        }
        (Ok(icmpv4::Repr::EchoRequest { .. } | icmpv4::Repr::EchoReply { .. }), Err(_)) => {
            return Err(TestCaseError::fail("only we read an echo"));
        }
        (Err(_), Ok(theirs)) => {
            return Err(TestCaseError::fail(format!("only they read {theirs:?}")));
        }
        _ => {}
    }
    Ok(())
}

/// smoltcp takes messages of unknown kinds from four octets on, and asks of each known kind for its whole header.
fn same_icmpv6(bytes: &[u8]) -> Result<(), TestCaseError> {
    let [source, target] = v6();
    let destination = ipv6::solicited_node(target);
    let ours = icmpv6::Packet::new_checked(bytes);
    let smol = smol::Icmpv6Packet::new_checked(bytes);
    let (Ok(ours), Ok(smol)) = (ours, smol) else {
        return Ok(());
    };
    let valid = ours.is_checksum_valid(source, destination);
    prop_assert_eq!(valid, smol.verify_checksum(&source, &destination));
    let theirs = smol::Icmpv6Repr::parse(
        &source,
        &destination,
        &smol,
        &ChecksumCapabilities::default(),
    );
    let ours = icmpv6::Repr::parse(&ours, source, destination);
    if let (
        Ok(icmpv6::Repr::NeighbourSolicitation { target, source }),
        Ok(smol::Icmpv6Repr::Ndisc(smol::NdiscRepr::NeighborSolicit {
            target_addr,
            lladdr,
        })),
    ) = (ours, theirs)
    {
        prop_assert_eq!(target, target_addr);
        let lladdr = lladdr.map(|address| address.as_bytes().to_vec());
        // Theirs may be longer than a MAC address, if the option is.
        prop_assert!(
            source.is_none_or(|mac| lladdr.is_some_and(|other| other.starts_with(&mac.octets())))
        );
    } else {
        prop_assert!(valid || ours.is_err() && theirs.is_err());
    }
    Ok(())
}

fn same_vlan(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = vlan::Packet::new_checked(bytes);
    let ether = etherparse::SingleVlanSlice::from_slice(bytes);
    prop_assert_eq!(ours.is_ok(), ether.is_ok());
    let (Ok(ours), Ok(ether)) = (ours, ether) else {
        return Ok(());
    };
    let repr = vlan::Repr::parse(&ours);
    prop_assert_eq!(
        (repr.id, repr.priority),
        (
            ether.vlan_identifier().value(),
            ether.priority_code_point().value()
        )
    );
    prop_assert_eq!(repr.drop_eligible, ether.drop_eligible_indicator());
    prop_assert_eq!(repr.ethertype, EtherType(ether.ether_type().0));
    Ok(())
}

/// The samples are what they should be: undamaged, all are read by all.
#[test]
fn the_samples_are_sound() {
    for kind in [
        Kind::Arp,
        Kind::Ipv4,
        Kind::Ipv6,
        Kind::Udp,
        Kind::Tcp,
        Kind::Icmpv4,
        Kind::Icmpv6,
        Kind::Vlan,
    ] {
        let bytes = sample(kind);
        let same = match kind {
            Kind::Arp => same_arp(&bytes),
            Kind::Ipv4 => same_ipv4(&bytes),
            Kind::Ipv6 => same_ipv6(&bytes),
            Kind::Udp => same_udp(&bytes),
            Kind::Tcp => same_tcp(&bytes),
            Kind::Icmpv4 => same_icmpv4(&bytes),
            Kind::Icmpv6 => same_icmpv6(&bytes),
            Kind::Vlan => same_vlan(&bytes),
        };
        assert!(same.is_ok(), "{kind:?}: {same:?}");
    }
    let tcp = sample(Kind::Tcp);
    let segment = tcp::Packet::new_checked(&tcp[..]).unwrap();
    assert_eq!(
        (segment.mss(), segment.payload()),
        (Some(1_460), &[9, 9][..])
    );
    assert!(segment.is_checksum_valid(V4[0].into(), V4[1].into()));
    assert_eq!(
        ipv4::Packet::new_checked(&sample(Kind::Ipv4)[..])
            .unwrap()
            .protocol(),
        Protocol::UDP
    );
}
