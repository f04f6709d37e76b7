//! Frames from an independent encoder, read back by an independent parser that verifies each checksum.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, PacketBuilderStep,
    SlicedPacket, TransportSlice,
};
use overlay_core::{Instant, MacAddr, Seed};
use overlay_lb::{
    Backend, BackendId, Balancer, Config, PartialChecksum, Protocol, Verdict, Vip, VipConfig,
};

pub(crate) const CLIENT_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);
pub(crate) const VIP_MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 2]);
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// What a frame says, all its checksums being right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) macs: ([u8; 6], [u8; 6]),
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) hops: u8,
    pub(crate) upper: Upper,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    Udp,
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
    },
    Icmp {
        kind: u8,
        code: u8,
    },
}

pub(crate) fn read(bytes: &[u8]) -> Read {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a frame");
    let link = packet
        .link
        .as_ref()
        .and_then(|link| link.to_header())
        .expect("a link header");
    let link = link.ethernet2().expect("Ethernet");
    let (addresses, hops, upper) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.header_checksum,
                header.calc_header_checksum(),
                "{header:?}"
            );
            let addresses = (
                IpAddr::from(header.source),
                IpAddr::from(header.destination),
            );
            (addresses, header.time_to_live, ip.payload().payload)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            let addresses = (
                IpAddr::from(header.source),
                IpAddr::from(header.destination),
            );
            (addresses, header.hop_limit, ip.payload().payload)
        }
        NetSlice::Arp(_) => unreachable!("not IP"),
    };
    let (kind, ports, at) = match packet.transport.as_ref().expect("a transport") {
        TransportSlice::Udp(udp) => (Upper::Udp, (udp.source_port(), udp.destination_port()), 8),
        TransportSlice::Tcp(tcp) => {
            let upper = Upper::Tcp {
                flags: upper[13],
                sequence: tcp.sequence_number(),
                acknowledgement: tcp.acknowledgment_number(),
            };
            let header = usize::from(upper_length(tcp.data_offset()));
            (upper, (tcp.source_port(), tcp.destination_port()), header)
        }
        TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) => (
            Upper::Icmp {
                kind: upper[0],
                code: upper[1],
            },
            (0, 0),
            8,
        ),
        TransportSlice::Igmp(_) => unreachable!("IGMP"),
    };
    let proto = proto(&kind, addresses.0);
    let none = kind == Upper::Udp && upper[6..8] == [0, 0];
    assert!(
        none || sum(addresses, proto, upper) == 0xffff,
        "checksum of {upper:02x?}"
    );
    Read {
        macs: (link.destination, link.source),
        source: SocketAddr::new(addresses.0, ports.0),
        destination: SocketAddr::new(addresses.1, ports.1),
        hops,
        upper: kind,
        payload: upper[at..].to_vec(),
    }
}

fn proto(kind: &Upper, address: IpAddr) -> u8 {
    match (kind, address.is_ipv4()) {
        (Upper::Udp, _) => 17,
        (Upper::Tcp { .. }, _) => 6,
        (Upper::Icmp { .. }, true) => 1,
        (Upper::Icmp { .. }, false) => 58,
    }
}

fn upper_length(words: u8) -> u8 {
    words * 4
}

/// The Internet checksum's sum, the slow way; over a message with a right checksum it is 0xffff.
pub(crate) fn sum((source, destination): (IpAddr, IpAddr), proto: u8, upper: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    if proto != 1 {
        bytes.extend(octets(source));
        bytes.extend(octets(destination));
        bytes.extend(u32::try_from(upper.len()).expect("it fits").to_be_bytes());
        bytes.extend([0, 0, 0, proto]);
    }
    bytes.extend(upper);
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).expect("it fits")
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(crate) fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2(CLIENT_MAC.octets(), VIP_MAC.octets());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            link.ipv4(source.octets(), destination.octets(), 63)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            link.ipv6(source.octets(), destination.octets(), 63)
        }
        _ => unreachable!("two families"),
    }
}

pub(crate) fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = ip(source.ip(), destination.ip()).udp(source.port(), destination.port());
    builder.write(&mut frame, payload).expect("it fits");
    frame
}

pub(crate) fn tcp(
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    (sequence, acknowledgement): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut builder =
        ip(source.ip(), destination.ip()).tcp(source.port(), destination.port(), sequence, 1_000);
    if flags & FIN != 0 {
        builder = builder.fin();
    }
    if flags & SYN != 0 {
        builder = builder.syn();
    }
    if flags & RST != 0 {
        builder = builder.rst();
    }
    if flags & ACK != 0 {
        builder = builder.ack(acknowledgement);
    }
    builder.write(&mut frame, payload).expect("it fits");
    frame
}

/// A TCP segment or a datagram.
pub(crate) fn packet(
    proto: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    match proto {
        Protocol::Tcp => tcp(source, destination, flags, (1_000, 2_000), payload),
        Protocol::Udp => udp(source, destination, payload),
    }
}

pub(crate) fn echo(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let (mut frame, builder) = (Vec::new(), ip(source, destination));
    let echo = IcmpEchoHeader { id: 7, seq: 9 };
    let written = if source.is_ipv4() {
        builder
            .icmpv4(Icmpv4Type::EchoRequest(echo))
            .write(&mut frame, payload)
    } else {
        builder
            .icmpv6(Icmpv6Type::EchoRequest(echo))
            .write(&mut frame, payload)
    };
    written.expect("it fits");
    frame
}

/// An ICMP error about `quote`, a packet without its link header: fragmentation needed, or packet too big.
pub(crate) fn too_big(source: IpAddr, destination: IpAddr, quote: &[u8]) -> Vec<u8> {
    let (mut frame, builder) = (Vec::new(), ip(source, destination));
    let written = if source.is_ipv4() {
        builder
            .icmpv4_raw(3, 4, [0, 0, 5, 0])
            .write(&mut frame, quote)
    } else {
        builder
            .icmpv6_raw(2, 0, [0, 0, 5, 0])
            .write(&mut frame, quote)
    };
    written.expect("it fits");
    frame
}

/// Leaves all but the pseudo-header's sum of a TCP or UDP checksum to the device, as a kernel does.
pub(crate) fn left_to_device(frame: &mut [u8], v6: bool, proto: Protocol) -> PartialChecksum {
    let start = 14 + if v6 { 40 } else { 20 };
    let (number, offset) = match proto {
        Protocol::Tcp => (6, 16),
        Protocol::Udp => (17, 6),
    };
    let (addresses, length) = (read_addresses(frame, v6), frame.len() - start);
    let empty = vec![0; length];
    let pseudo = sum(addresses, number, &empty);
    frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    PartialChecksum {
        start: u16::try_from(start).expect("it fits"),
        offset: u16::try_from(offset).expect("it fits"),
    }
}

/// Does what was left to the device.
pub(crate) fn complete(frame: &mut [u8], partial: PartialChecksum) {
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    let none = IpAddr::from([0; 4]);
    let sum = sum((none, none), 1, &frame[start..]);
    frame[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

fn read_addresses(frame: &[u8], v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        let address =
            |at: usize| IpAddr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).expect("it fits"));
        (address(22), address(38))
    } else {
        let address =
            |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).expect("it fits"));
        (address(26), address(30))
    }
}

/// Addresses in one of both families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lab {
    pub(crate) v6: bool,
}

pub(crate) const FAMILIES: [Lab; 2] = [Lab { v6: false }, Lab { v6: true }];

impl Lab {
    pub(crate) fn ip(self, last: u8) -> IpAddr {
        let text = if self.v6 {
            format!("fd00::{last:x}")
        } else {
            format!("10.0.1.{last}")
        };
        text.parse().expect("an address")
    }

    pub(crate) fn at(self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(last), port)
    }

    /// The virtual address: host 2.
    pub(crate) fn vip(self, proto: Protocol, port: u16) -> Vip {
        Vip {
            addr: self.ip(2),
            proto,
            port,
        }
    }

    /// Serves port 80 of both protocols by these hosts' port 8080.
    pub(crate) fn balancer(self, config: Config, hosts: &[u8]) -> Balancer {
        let now = Instant::EPOCH;
        let mut balancer = Balancer::new(config, &Seed::from_u64(5), now).expect("valid");
        for proto in [Protocol::Tcp, Protocol::Udp] {
            let vip = self.vip(proto, 80);
            balancer
                .set_vip(now, vip, VipConfig::default())
                .expect("room");
            for host in hosts {
                balancer
                    .set_backend(now, vip, self.backend(*host))
                    .expect("room");
            }
        }
        balancer
    }

    pub(crate) fn backend(self, host: u8) -> Backend {
        Backend {
            mac: Some(mac(host)),
            ..Backend::new(id(host), self.at(host, 8_080))
        }
    }
}

pub(crate) fn id(host: u8) -> BackendId {
    BackendId::from_bytes([host; 16])
}

pub(crate) fn mac(host: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 1, host])
}

/// Sends a frame out; it must reach a backend, whose last octet is returned.
pub(crate) fn reaches(balancer: &mut Balancer, now: Instant, frame: &mut [u8]) -> u8 {
    match balancer.handle_outbound(now, frame, None) {
        Verdict::Backend {
            id,
            address,
            addressed,
        } => {
            assert!(addressed);
            assert_eq!(address, read(frame).destination);
            assert_eq!(read(frame).macs.0, mac(id.as_bytes()[0]).octets());
            id.as_bytes()[0]
        }
        other => unreachable!("{other:?}"),
    }
}

/// Sends a frame out; returns the answer to it.
pub(crate) fn answer(balancer: &mut Balancer, frame: &mut [u8]) -> Read {
    match balancer.handle_outbound(Instant::EPOCH, frame, None) {
        Verdict::Answer(bytes) => read(bytes),
        other => unreachable!("{other:?}"),
    }
}
