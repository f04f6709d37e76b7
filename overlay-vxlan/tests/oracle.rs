//! Our codecs against an independent parser: what we build it reads alike, what it builds we read alike.

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpPacket, IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice,
};
use lab::*;
use overlay_core::MacAddr;
use overlay_vxlan::wire::{
    arp,
    ethernet::{self, EtherType},
    icmpv6,
    ipv4::{self, Protocol},
    ipv6, tcp, udp,
};
use proptest::prelude::*;

fn octets(length: core::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), length)
}

proptest! {
    #[test]
    fn a_udp_frame_that_it_builds_we_read_alike(
        macs: [[u8; 6]; 2], v4: Option<[[u8; 4]; 2]>, v6: [[u8; 16]; 2], ports: (u16, u16), ttl: u8,
        vlan in proptest::option::of(0..4_096u16), payload in octets(0..300),
    ) {
        let builder = PacketBuilder::ethernet2(macs[0], macs[1]);
        let mut bytes = Vec::new();
        let (source, destination): (IpAddr, IpAddr) = match v4 {
            Some([from, to]) => (from.into(), to.into()),
            None => (v6[0].into(), v6[1].into()),
        };
        // Its builder has a type for each chain of headers.
        match (vlan, v4) {
            (None, Some([from, to])) => builder.ipv4(from, to, ttl).udp(ports.0, ports.1).write(&mut bytes, &payload),
            (None, None) => builder.ipv6(v6[0], v6[1], ttl).udp(ports.0, ports.1).write(&mut bytes, &payload),
            (Some(id), Some([from, to])) => builder.single_vlan(id.try_into().unwrap()).ipv4(from, to, ttl)
                .udp(ports.0, ports.1).write(&mut bytes, &payload),
            (Some(id), None) => builder.single_vlan(id.try_into().unwrap()).ipv6(v6[0], v6[1], ttl)
                .udp(ports.0, ports.1).write(&mut bytes, &payload),
        }.unwrap();

        let link = ethernet::Packet::new_checked(&bytes[..]).unwrap();
        prop_assert_eq!(link.source().octets(), macs[0]);
        prop_assert_eq!(link.destination().octets(), macs[1]);
        let mut rest = link.payload();
        let mut ethertype = link.ethertype();
        if let Some(id) = vlan {
            let tag = overlay_vxlan::wire::vlan::Packet::new_checked(rest).unwrap();
            prop_assert_eq!(tag.id(), id);
            ethertype = tag.ethertype();
            rest = &rest[4..];
        }
        let datagram = if v4.is_some() {
            prop_assert_eq!(ethertype, EtherType::IPV4);
            let packet = ipv4::Packet::new_checked(rest).unwrap();
            prop_assert!(packet.is_checksum_valid());
            prop_assert_eq!(IpAddr::from(packet.source()), source);
            prop_assert_eq!(IpAddr::from(packet.destination()), destination);
            prop_assert_eq!((packet.ttl(), packet.protocol()), (ttl, Protocol::UDP));
            packet.payload().to_vec()
        } else {
            prop_assert_eq!(ethertype, EtherType::IPV6);
            let packet = ipv6::Packet::new_checked(rest).unwrap();
            prop_assert_eq!(IpAddr::from(packet.source()), source);
            prop_assert_eq!(IpAddr::from(packet.destination()), destination);
            prop_assert_eq!((packet.hop_limit(), packet.next_header()), (ttl, Protocol::UDP));
            packet.payload().to_vec()
        };
        let packet = udp::Packet::new_checked(&datagram[..]).unwrap();
        prop_assert!(packet.is_checksum_valid(source, destination));
        prop_assert_eq!((packet.source_port(), packet.destination_port()), ports);
        prop_assert_eq!(packet.payload(), &payload[..]);
        // And we build the very same octets.
        prop_assert_eq!(udp_datagram(ports, source, destination, &payload), datagram);
    }

    #[test]
    fn a_tcp_segment_that_we_build_it_reads_alike(
        addresses: [[u8; 4]; 2], ports: (u16, u16), numbers: (u32, u32), window: u16, flags: u8, identification: u16,
        payload in octets(0..300),
    ) {
        let [source, destination] = addresses.map(Ipv4Addr::from);
        let repr = tcp::Repr {
            source_port: ports.0,
            destination_port: ports.1,
            sequence: numbers.0,
            acknowledgment: numbers.1,
            flags: tcp::Flags(flags),
            window,
            urgent: 0,
        };
        let segment = tcp_segment(repr, source.into(), destination.into(), &payload);
        let network = ipv4::Repr { identification, ..ipv4_repr(source, destination, Protocol::TCP) };
        let packet = ipv4_packet(network, &segment);
        let frame = link(MacAddr::new([2; 6]), MacAddr::new([4; 6]), EtherType::IPV4, &packet);
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Ipv4(theirs)) = sliced.net else { panic!("no IPv4") };
        let header = theirs.header();
        prop_assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
        prop_assert_eq!((header.source(), header.destination()), (addresses[0], addresses[1]));
        prop_assert_eq!((header.identification(), header.ttl()), (identification, 64));
        prop_assert!(header.dont_fragment() && !header.more_fragments());
        let Some(TransportSlice::Tcp(theirs)) = sliced.transport else { panic!("no TCP") };
        let header = theirs.to_header();
        prop_assert_eq!(header.calc_checksum_ipv4_raw(addresses[0], addresses[1], &payload), Ok(header.checksum));
        prop_assert_eq!((header.source_port, header.destination_port), ports);
        prop_assert_eq!((header.sequence_number, header.acknowledgment_number), numbers);
        prop_assert_eq!(header.window_size, window);
        let theirs_flags = [header.fin, header.syn, header.rst, header.psh, header.ack, header.urg, header.ece, header.cwr];
        let ours = [0, 1, 2, 3, 4, 5, 6, 7].map(|bit| flags >> bit & 1 == 1);
        prop_assert_eq!(theirs_flags, ours);
        prop_assert_eq!(theirs.payload(), &payload[..]);
    }

    #[test]
    fn an_ipv6_header_that_we_build_it_reads_alike(
        addresses: [[u8; 16]; 2], traffic_class: u8, flow_label in 0..0x10_0000u32, next_header: u8, hop_limit: u8,
        payload in octets(0..100),
    ) {
        let repr = ipv6::Repr {
            traffic_class,
            flow_label,
            next_header: Protocol(next_header),
            hop_limit,
            source: addresses[0].into(),
            destination: addresses[1].into(),
            payload_bytes: u16::try_from(payload.len()).unwrap(),
        };
        let mut bytes = vec![0; 40];
        repr.emit(&mut bytes).unwrap();
        bytes.extend(&payload);
        let theirs = Ipv6HeaderSlice::from_slice(&bytes).unwrap().to_header();
        prop_assert_eq!(theirs.traffic_class, traffic_class);
        prop_assert_eq!(theirs.flow_label.value(), flow_label);
        prop_assert_eq!((theirs.next_header, theirs.hop_limit), (IpNumber(next_header), hop_limit));
        prop_assert_eq!((theirs.source, theirs.destination), (addresses[0], addresses[1]));
        prop_assert_eq!(usize::from(theirs.payload_length), payload.len());
    }

    #[test]
    fn an_arp_packet_is_the_same_to_both(
        operation: u16, macs: [[u8; 6]; 2], addresses: [[u8; 4]; 2]
    ) {
        let ours = arp::Repr {
            operation: arp::Operation(operation),
            sender_mac: MacAddr::new(macs[0]),
            sender_address: addresses[0].into(),
            target_mac: MacAddr::new(macs[1]),
            target_address: addresses[1].into(),
        };
        let theirs = ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            etherparse::ArpOperation(operation),
            &macs[0],
            &addresses[0],
            &macs[1],
            &addresses[1],
        ).unwrap();
        let mut bytes = [0; arp::PACKET_BYTES];
        ours.emit(&mut bytes).unwrap();
        prop_assert_eq!(&bytes[..], &theirs.to_bytes()[..]);
    }

    #[test]
    fn an_echo_over_ipv6_has_the_checksum_that_it_computes(
        addresses: [[u8; 16]; 2], id: u16, seq: u16, payload in octets(0..100)
    ) {
        let builder = PacketBuilder::ipv6(addresses[0], addresses[1], 64).icmpv6_echo_request(id, seq);
        let mut theirs = Vec::new();
        builder.write(&mut theirs, &payload).unwrap();
        let mut ours = vec![0; 8];
        ours.extend(&payload);
        let [source, destination] = addresses.map(Ipv6Addr::from);
        let echo = icmpv6::Repr::EchoRequest { identifier: id, sequence: seq };
        echo.emit(&mut ours, source, destination).unwrap();
        prop_assert_eq!(&theirs[40..], &ours[..]);
    }

    /// Damaged headers: both accept, or both refuse.
    #[test]
    fn we_accept_and_refuse_the_same_ip_headers(
        v6: bool, flips in proptest::collection::vec((0..44usize, any::<u8>()), 0..5), cut in 0..80usize,
    ) {
        let (from, to) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
        let mut bytes = if v6 { udp6(&from, &to, b"0123456789") } else { udp4(&from, &to, b"0123456789") }[14..].to_vec();
        for (at, value) in flips {
            if let Some(octet) = bytes.get_mut(at) {
                *octet ^= value;
            }
        }
        bytes.truncate(cut);
        if v6 {
            let ours = ipv6::Packet::new_checked(&bytes[..]).is_ok();
            // Its slice is of the header alone: add our promise on the payload's length.
            let theirs = Ipv6HeaderSlice::from_slice(&bytes)
                .is_ok_and(|header| 40 + usize::from(header.payload_length()) <= bytes.len());
            prop_assert_eq!(ours, theirs);
        } else {
            let ours = ipv4::Packet::new_checked(&bytes[..]).is_ok();
            let theirs = Ipv4HeaderSlice::from_slice(&bytes).is_ok_and(|header| {
                let total = usize::from(header.total_len());
                usize::from(header.ihl()) * 4 <= total && total <= bytes.len()
            });
            prop_assert_eq!(ours, theirs);
        }
    }
}
