//! Rules in few words, and packets to try them with.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::IpAddr;

use overlay_core::{
    MacAddr,
    plane::{AddressMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict},
};
use overlay_vxlan::wire::{
    checksum,
    ethernet::EtherType,
    ipv4::{self, Protocol},
    tcp::Flags,
};

use crate::lab::*;

pub(crate) const SYN: Flags = Flags::SYN;
pub(crate) const ACK: Flags = Flags::ACK;

pub(crate) fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Subnets with commas between them; `*` is any.
pub(crate) fn nets(nets: &str) -> AddressMatch {
    if nets == "*" {
        return AddressMatch::Any;
    }
    let nets = nets.split(',').filter(|net| !net.is_empty());
    nets.map(|net| net.parse::<ipnet::IpNet>().expect("a subnet"))
        .collect()
}

pub(crate) fn rule(from: &str, to: &str, traffic: &[TrafficMatch], verdict: Verdict) -> PolicyRule {
    PolicyRule {
        name: format!("{from} to {to}"),
        from: nets(from),
        to: nets(to),
        traffic: traffic.to_vec(),
        verdict,
    }
}

pub(crate) fn allow(from: &str, to: &str, traffic: TrafficMatch) -> PolicyRule {
    rule(from, to, &[traffic], Verdict::Allow)
}

pub(crate) fn deny(from: &str, to: &str, traffic: TrafficMatch) -> PolicyRule {
    rule(from, to, &[traffic], Verdict::Deny)
}

/// Denies what these do not allow.
pub(crate) fn closed(rules: impl Into<Vec<PolicyRule>>) -> NetworkPolicy {
    NetworkPolicy {
        default: Verdict::Deny,
        rules: rules.into(),
    }
}

/// Allows what these do not deny.
pub(crate) fn lenient(rules: impl Into<Vec<PolicyRule>>) -> NetworkPolicy {
    NetworkPolicy {
        default: Verdict::Allow,
        rules: rules.into(),
    }
}

pub(crate) const fn tcp(port: u16) -> TrafficMatch {
    TrafficMatch::Tcp {
        first: port,
        last: port,
    }
}

pub(crate) const fn udp(port: u16) -> TrafficMatch {
    TrafficMatch::Udp {
        first: port,
        last: port,
    }
}

/// What a packet carries; ports are that of the source and that of the destination.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    Tcp(u16, u16, Flags),
    Udp(u16, u16),
    Echo(u16),
    Reply(u16),
    /// ICMP of a type, with octets behind its header.
    Icmp(u8, Vec<u8>),
    Other(u8),
}

impl Load {
    fn protocol(&self, is_v4: bool) -> Protocol {
        match self {
            Self::Tcp(..) => Protocol::TCP,
            Self::Udp(..) => Protocol::UDP,
            Self::Other(number) => Protocol(*number),
            _ if is_v4 => Protocol::ICMP,
            _ => Protocol::ICMPV6,
        }
    }

    fn octets(&self, is_v4: bool) -> Vec<u8> {
        let icmp = |kind: u8, rest: u16| {
            let [high, low] = rest.to_be_bytes();
            vec![kind, 0, 0, 0, high, low, 0, 1]
        };
        let ports = |source: &u16, destination: &u16| {
            [source.to_be_bytes(), destination.to_be_bytes()].concat()
        };
        match self {
            Self::Tcp(source, destination, flags) => {
                let mut octets = ports(source, destination);
                octets.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags.0, 1, 0, 0, 0, 0, 0]);
                octets.extend(*b"data");
                octets
            }
            Self::Udp(source, destination) => {
                let mut octets = ports(source, destination);
                octets.extend([0, 12, 0, 0]);
                octets.extend(*b"data");
                octets
            }
            Self::Echo(identifier) => icmp(if is_v4 { 8 } else { 128 }, *identifier),
            Self::Reply(identifier) => icmp(if is_v4 { 0 } else { 129 }, *identifier),
            Self::Icmp(kind, rest) => [icmp(*kind, 0), rest.clone()].concat(),
            Self::Other(_) => b"whatever".to_vec(),
        }
    }
}

/// A frame with a whole packet.
pub(crate) fn frame(from: &str, to: &str, load: Load) -> Vec<u8> {
    packet(ip(from), ip(to), &load)
}

pub(crate) fn packet(from: IpAddr, to: IpAddr, load: &Load) -> Vec<u8> {
    let octets = load.octets(from.is_ipv4());
    let protocol = load.protocol(from.is_ipv4());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            around_v4(&ipv4_packet(ipv4_repr(from, to, protocol), &octets))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            around_v6(&ipv6_packet(from, to, protocol, 64, &octets))
        }
        _ => unreachable!("one family"),
    }
}

/// The packet of [`frame`] in two fragments: the first has so many octets of the upper layer, a multiple of 8.
pub(crate) fn fragments(from: &str, to: &str, load: Load, id: u16, first: usize) -> [Vec<u8>; 2] {
    let (from, to) = (ip(from), ip(to));
    let octets = load.octets(from.is_ipv4());
    let protocol = load.protocol(from.is_ipv4());
    let (front, back) = octets.split_at(first);
    let offset = u16::try_from(first / 8).expect("short");
    [(front, 0, true), (back, offset, false)].map(|(part, offset, more)| match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let repr = ipv4::Repr {
                identification: id,
                dont_fragment: false,
                more_fragments: more,
                fragment_offset: offset,
                ..ipv4_repr(from, to, protocol)
            };
            around_v4(&ipv4_packet(repr, part))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            let [c, d] = id.to_be_bytes();
            // Destination options in the fragmentable part, so that the next header is not the upper layer's.
            let mut inner = vec![60, 0, a, b, 0, 0, c, d];
            if offset == 0 {
                inner.extend([protocol.0, 0, 1, 4, 0, 0, 0, 0]);
            }
            inner.extend_from_slice(part);
            around_v6(&ipv6_packet(from, to, Protocol(44), 64, &inner))
        }
        _ => unreachable!("one family"),
    })
}

/// An error from `from` about a packet that it got, as `kind` and with so many octets of the packet.
pub(crate) fn error(from: &str, to: &str, kind: u8, about: &[u8], octets: usize) -> Vec<u8> {
    let quoted = &about[14..about.len().min(14 + octets)];
    frame(from, to, Load::Icmp(kind, quoted.to_vec()))
}

fn around_v4(packet: &[u8]) -> Vec<u8> {
    assert_eq!(checksum::of(&packet[..20]), 0);
    link(mac(1), mac(2), EtherType::IPV4, packet)
}

fn around_v6(packet: &[u8]) -> Vec<u8> {
    link(mac(1), mac(2), EtherType::IPV6, packet)
}

fn mac(number: u8) -> MacAddr {
    MacAddr::from_ipv4([10, 0, 1, number].into())
}
