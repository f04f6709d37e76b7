//! Frames of the endpoints that the targets know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_core::{MacAddr, Vni};
use overlay_fuzz::Script;
use overlay_vxlan::{
    Frame, Offload, Outer, PartialChecksum, SegmentKind, Segmentation,
    encap::{Ends, Template},
    pmtu::Probe,
    wire::{
        arp,
        ethernet::{self, EtherType},
        icmpv4, icmpv6,
        ipv4::{self, Protocol},
        ipv6, probe, tcp, udp, vlan, vxlan,
    },
};

use crate::{Seed, seed};

const FITS: &str = "the buffer was made for it";

fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, number.into())
}

fn link(from: u8, to: MacAddr, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_BYTES];
    let source = MacAddr::from_ipv4(v4(from));
    let header = ethernet::Repr {
        destination: to,
        source,
        ethertype,
    };
    header.emit(&mut bytes).expect(FITS);
    [bytes, payload.to_vec()].concat()
}

fn ip4(from: u8, to: u8, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
    let repr = ipv4::Repr {
        traffic_class: 0,
        identification: 7,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source: v4(from),
        destination: v4(to),
        payload_bytes: u16::try_from(payload.len()).expect(FITS),
    };
    let mut bytes = vec![0; ipv4::HEADER_BYTES];
    repr.emit(&mut bytes).expect(FITS);
    let packet = [bytes, payload.to_vec()].concat();
    link(from, MacAddr::from_ipv4(v4(to)), EtherType::IPV4, &packet)
}

fn ip6(from: u8, to: Ipv6Addr, mac: MacAddr, next_header: Protocol, payload: &[u8]) -> Vec<u8> {
    let repr = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header,
        hop_limit: 255,
        source: v6(from),
        destination: to,
        payload_bytes: u16::try_from(payload.len()).expect(FITS),
    };
    let mut bytes = vec![0; ipv6::HEADER_BYTES];
    repr.emit(&mut bytes).expect(FITS);
    let packet = [bytes, payload.to_vec()].concat();
    link(from, mac, EtherType::IPV6, &packet)
}

fn udp_to(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let repr = udp::Repr {
        source_port: 4_000,
        destination_port: 5_000,
        payload_bytes: u16::try_from(payload.len()).expect(FITS),
    };
    let mut bytes = vec![0; udp::HEADER_BYTES];
    repr.emit(&mut bytes).expect(FITS);
    bytes.extend_from_slice(payload);
    let mut packet = udp::Packet::new_checked(&mut bytes[..]).expect(FITS);
    packet.fill_checksum(source, destination);
    bytes
}

fn tcp_to(payload: &[u8]) -> Vec<u8> {
    let repr = tcp::Repr {
        source_port: 4_000,
        destination_port: 80,
        sequence: 1,
        acknowledgment: 2,
        flags: tcp::Flags::ACK,
        window: 3,
        urgent: 0,
    };
    let mut bytes = vec![0; tcp::HEADER_BYTES];
    repr.emit(&mut bytes).expect(FITS);
    [bytes, payload.to_vec()].concat()
}

fn arp_request(from: u8, target: u8) -> Vec<u8> {
    let repr = arp::Repr {
        operation: arp::Operation::REQUEST,
        sender_mac: MacAddr::from_ipv4(v4(from)),
        sender_address: v4(from),
        target_mac: MacAddr::UNSPECIFIED,
        target_address: v4(target),
    };
    let mut packet = vec![0; arp::PACKET_BYTES];
    repr.emit(&mut packet).expect(FITS);
    link(from, MacAddr::BROADCAST, EtherType::ARP, &packet)
}

fn solicitation(from: u8, target: u8) -> Vec<u8> {
    let source = Some(MacAddr::from_ipv4(v4(from)));
    let repr = icmpv6::Repr::NeighbourSolicitation {
        target: v6(target),
        source,
    };
    let group = ipv6::solicited_node(v6(target));
    let mut message = vec![0; repr.header_bytes()];
    repr.emit(&mut message, v6(from), group).expect(FITS);
    ip6(
        from,
        group,
        ipv6::multicast_mac(group),
        Protocol::ICMPV6,
        &message,
    )
}

fn echo(from: u8, to: u8) -> Vec<u8> {
    let mut message = vec![0; 16];
    let repr = icmpv4::Repr::EchoRequest {
        identifier: 1,
        sequence: 2,
    };
    repr.emit(&mut message).expect(FITS);
    ip4(from, to, Protocol::ICMP, &message)
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    let (head, rest) = frame.split_at(12);
    let ethertype = EtherType(u16::from_be_bytes([rest[0], rest[1]]));
    let tag = vlan::Repr {
        priority: 0,
        drop_eligible: false,
        id: 5,
        ethertype,
    };
    let mut octets = [0; vlan::HEADER_BYTES];
    tag.emit(&mut octets).expect(FITS);
    [head, &EtherType::VLAN.0.to_be_bytes(), &octets, &rest[2..]].concat()
}

/// Frames from one endpoint to another, or to all.
fn frames(from: u8, to: u8) -> Vec<(&'static str, Vec<u8>)> {
    let udp4 = ip4(
        from,
        to,
        Protocol::UDP,
        &udp_to(v4(from).into(), v4(to).into(), b"payload"),
    );
    let udp6 = udp_to(v6(from).into(), v6(to).into(), b"payload");
    let udp6 = ip6(
        from,
        v6(to),
        MacAddr::from_ipv4(v4(to)),
        Protocol::UDP,
        &udp6,
    );
    vec![
        ("arp", arp_request(from, to)),
        ("arp-unknown", arp_request(from, 77)),
        ("nd", solicitation(from, to)),
        ("echo", echo(from, to)),
        ("tcp4", ip4(from, to, Protocol::TCP, &tcp_to(b"payload"))),
        ("tagged", tagged(&udp4)),
        ("tagged-twice", tagged(&tagged(&udp6))),
        ("too-big", ip4(from, to, Protocol::UDP, &[7; 1_500])),
        (
            "unknown",
            link(
                from,
                MacAddr::new([2, 9, 9, 9, 9, 9]),
                EtherType(0x88b5),
                b"x",
            ),
        ),
        ("udp4", udp4),
        ("udp6", udp6),
    ]
}

fn encapsulated(frame: &[u8]) -> Vec<u8> {
    let vni = Vni::new(4_097).expect("24 bits");
    [&vxlan::Repr::new(vni).octets()[..], frame].concat()
}

fn offloaded(offload: Offload, frame: &[u8]) -> Vec<u8> {
    [&offload.header()[..], frame].concat()
}

pub(crate) fn headers() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, frame) in frames(2, 12)
        .into_iter()
        .filter(|(name, _)| *name != "too-big")
    {
        for at in [14, 34, 54] {
            if let Some(rest) = frame.get(at..).filter(|rest| !rest.is_empty()) {
                seeds.push(seed(format!("{name}-{at}"), rest));
            }
        }
        seeds.push(seed(format!("{name}-vxlan"), encapsulated(&frame)));
        seeds.push(seed(name, frame));
    }
    seeds
}

pub(crate) fn remote() -> Vec<Seed> {
    let frames = frames(12, 2).into_iter().enumerate();
    frames
        .map(|(at, (name, frame))| {
            let flags = u8::try_from(at % 4).expect("below four");
            seed(name, [&[flags], &encapsulated(&frame)[..]].concat())
        })
        .collect()
}

pub(crate) fn local() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (at, (name, frame)) in frames(2, 12).into_iter().enumerate() {
        let flags = u8::try_from(at % 8).expect("below eight");
        let bytes = offloaded(Offload::NONE, &frame);
        seeds.push(seed(name, [&[flags], &bytes[..]].concat()));
    }
    for (name, to) in [("near", 3), ("far", 12)] {
        let frame = ip4(2, to, Protocol::TCP, &tcp_to(&[7; 400]));
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 16,
            }),
            segment: Some(Segmentation {
                kind: SegmentKind::TcpV4,
                size_bytes: 150,
                header_bytes: 54,
                ecn: false,
            }),
            validated: false,
        };
        for flags in [0, 4] {
            let bytes = offloaded(offload, &frame);
            seeds.push(seed(
                format!("super-{name}-{flags}"),
                [&[flags], &bytes[..]].concat(),
            ));
        }
    }
    seeds
}

pub(crate) fn scripts() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for flags in [0, 1, 2, 3, 0x18, 0x29, 0x34, 0xc0] {
        let mut script = Script::new().op(&[flags]);
        for (name, frame) in frames(2, 12) {
            if name != "too-big" {
                script = script
                    .op(&[0])
                    .bytes(&offloaded(Offload::NONE, &frame))
                    .op(&[6, 1]);
            }
        }
        for (name, frame) in frames(12, 2) {
            if name != "too-big" {
                script = script.op(&[3, 1]).bytes(&encapsulated(&frame)).op(&[7]);
            }
        }
        // A search for the path MTU, an acknowledgement that nobody asked for, and a probe.
        let probe = Probe {
            size_bytes: 1_400,
            token: 7,
        };
        script = script.op(&[8, 15, 6, 1, 7, 9, 5, 40]);
        for message in [
            probe::Repr::Acknowledgement(probe),
            probe::Repr::Probe(probe),
        ] {
            script = script
                .op(&[3, 1])
                .bytes(&encapsulated(&path_frame(message)));
        }
        seeds.push(seed(
            format!("both-{flags}"),
            script.op(&[6, 200, 7]).done(),
        ));
    }
    seeds
}

fn path_frame(message: probe::Repr) -> Vec<u8> {
    let mut payload = [0; 32];
    message.emit(&mut payload).expect(FITS);
    let mut frame = link(2, probe::DESTINATION, EtherType::EXPERIMENT, &payload);
    frame[6..12].copy_from_slice(&probe::SOURCE.octets());
    frame
}

/// Whole packets over both families, with and without a UDP checksum.
pub(crate) fn outer() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let addresses: [(&str, [IpAddr; 2]); 2] = [
        ("v4", [v4(2).into(), v4(3).into()]),
        ("v6", [v6(2).into(), v6(3).into()]),
    ];
    for (family, [source, destination]) in addresses {
        for (sum, udp_checksum) in [("plain", false), ("summed", true)] {
            let ends = Ends {
                source_mac: MacAddr::from_ipv4(v4(2)),
                destination_mac: MacAddr::from_ipv4(v4(3)),
                source,
                destination,
                port: vxlan::UDP_PORT,
                hop_limit: 64,
                udp_checksum,
            };
            let vni = Vni::new(4_097).expect("24 bits");
            let template = Template::new(&ends, vxlan::Repr::new(vni)).expect("one family");
            let inner = ip4(2, 12, Protocol::UDP, &[7; 30]);
            let mut frame = Frame::with_headroom(Frame::HEADROOM, &inner);
            let outer = Outer {
                source_port: 50_000,
                traffic_class: 2,
            };
            template.encapsulate(outer, &mut frame).expect(FITS);
            seeds.push(seed(format!("{family}-{sum}"), frame.bytes()));
        }
    }
    seeds
}

/// Steps of a prober: time, acknowledgements, ICMP errors, another ceiling.
pub(crate) fn paths() -> Vec<Seed> {
    [
        ("found", vec![30, 1, 2, 2, 0, 100, 2, 0, 200]),
        (
            "narrow",
            [vec![180, 1, 2], [1, 1, 1, 2].repeat(12)].concat(),
        ),
        ("silent", [vec![30], vec![1; 40]].concat()),
        ("error", vec![30, 1, 2, 2, 4, 5, 40, 1, 1, 1, 2, 2, 2]),
        (
            "ceiling",
            vec![30, 1, 2, 2, 5, 180, 2, 2, 5, 20, 2, 2, 3, 5, 0, 7],
        ),
    ]
    .map(|(name, bytes)| seed(name, bytes))
    .into()
}
