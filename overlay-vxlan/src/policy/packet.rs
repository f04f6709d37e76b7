//! What a policy needs to know of a frame.

use std::net::IpAddr;

use super::flow::Oriented;
use crate::{
    headers::{Fragment, Headers, Ip, Payload},
    wire::{
        icmpv4,
        icmpv6::{self, Kind},
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
    },
};

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Seen {
    /// ARP or neighbour discovery.
    Neighbour,
    Packet(Packet),
    Malformed,
    NotIp,
}

/// An IP packet, or one that an error quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) carried: Carried,
    /// What the fragments of the packet share, if this is one.
    pub(super) identification: Option<u32>,
}

/// What a packet carries. Ports are that of the source and that of the destination.
#[derive(Clone, Copy, Debug)]
pub(super) enum Carried {
    Tcp {
        ports: [u16; 2],
        flags: Flags,
    },
    Udp {
        ports: [u16; 2],
    },
    Echo {
        identifier: u16,
        is_reply: bool,
    },
    /// An ICMP error, with the flow of the packet that it quotes if that went the other way.
    Error {
        about: Option<Oriented>,
    },
    /// Any other message of ICMP.
    Message,
    /// A protocol whose flows are told apart by their addresses.
    Other,
    LaterFragment,
}

/// Octets of a TCP header from which a first fragment tells enough, and later fragments cannot (RFC 1858 §3).
const TCP_BYTES_MIN: usize = 16;
/// Octets of both ports.
const PORTS_BYTES: usize = 4;
/// Octets that an error quotes of the upper layer at least (RFC 792).
const QUOTED_BYTES: usize = 8;

impl Packet {
    /// Whether it goes to one endpoint, which may answer.
    pub(super) fn is_unicast(&self) -> bool {
        match self.to {
            IpAddr::V4(to) => !to.is_multicast() && !to.is_broadcast(),
            IpAddr::V6(to) => !to.is_multicast(),
        }
    }

    /// The port that rules look at.
    pub(super) const fn port(&self) -> u16 {
        match self.carried {
            Carried::Tcp { ports, .. } | Carried::Udp { ports } => ports[1],
            _ => 0,
        }
    }
}

impl Seen {
    #[inline]
    pub(super) fn of(headers: &Headers, bytes: &[u8]) -> Self {
        match &headers.payload {
            Payload::Arp(_) => Self::Neighbour,
            Payload::Other => Self::NotIp,
            Payload::Ip(ip) => Self::of_ip(ip, bytes),
        }
    }

    #[inline]
    fn of_ip(ip: &Ip, bytes: &[u8]) -> Self {
        let Some(carried) = carried(ip, bytes) else {
            return Self::Malformed;
        };
        if let (Carried::Message, IpAddr::V6(_)) = (carried, ip.source)
            && is_neighbour_discovery(ip, bytes)
        {
            return Self::Neighbour;
        }
        Self::Packet(Packet {
            from: ip.source,
            to: ip.destination,
            protocol: ip.protocol,
            carried,
            identification: ip.fragment.map(|_| ip.identification),
        })
    }
}

/// Returns what a packet carries, if the headers that tell are there.
#[inline]
fn carried(ip: &Ip, bytes: &[u8]) -> Option<Carried> {
    if ip.fragment == Some(Fragment::Later) {
        // The one that begins with the second eight octets could write over the flags (RFC 3128).
        let is_over_flags = ip.protocol == Protocol::TCP && ip.fragment_offset == 1;
        return (!is_over_flags).then_some(Carried::LaterFragment);
    }
    let upper = ip.upper(bytes);
    match (ip.protocol, ip.source) {
        (Protocol::TCP, _) => {
            let is_enough = match ip.fragment {
                Some(_) => upper.len() >= TCP_BYTES_MIN,
                None => tcp::Packet::new_checked(upper).is_ok(),
            };
            let segment = tcp::Packet::new_unchecked(upper);
            is_enough.then(|| Carried::Tcp {
                ports: [segment.source_port(), segment.destination_port()],
                flags: segment.flags(),
            })
        }
        (Protocol::UDP, _) => ports(upper).map(|ports| Carried::Udp { ports }),
        (Protocol::ICMP, IpAddr::V4(_)) => {
            let message = icmpv4::Packet::new_checked(upper).ok()?;
            let is_error = matches!(message.kind(), 3 | 11 | 12);
            Some(icmp(message.kind(), is_error, [8, 0], ip, upper))
        }
        (Protocol::ICMPV6, IpAddr::V6(_)) => {
            let message = icmpv6::Packet::new_checked(upper).ok()?;
            let Kind(kind) = message.kind();
            let is_error = matches!(kind, 1..=4);
            Some(icmp(kind, is_error, [128, 129], ip, upper))
        }
        _ => Some(Carried::Other),
    }
}

fn icmp(kind: u8, is_error: bool, [request, reply]: [u8; 2], ip: &Ip, upper: &[u8]) -> Carried {
    if is_error {
        let quoted = upper.get(icmpv4::HEADER_BYTES..).unwrap_or_default();
        return Carried::Error {
            about: about(ip, quoted),
        };
    }
    match upper.get(4..6) {
        Some([high, low]) if kind == request || kind == reply => Carried::Echo {
            identifier: u16::from_be_bytes([*high, *low]),
            is_reply: kind == reply,
        },
        _ => Carried::Message,
    }
}

fn is_neighbour_discovery(ip: &Ip, bytes: &[u8]) -> bool {
    let kind = ip.upper(bytes).first().map(|kind| Kind(*kind));
    ip.protocol == Protocol::ICMPV6
        && ip.fragment.is_none()
        && matches!(
            kind,
            Some(
                Kind::ROUTER_SOLICITATION
                    | Kind::NEIGHBOUR_SOLICITATION
                    | Kind::NEIGHBOUR_ADVERTISEMENT
            )
        )
}

fn ports(upper: &[u8]) -> Option<[u16; 2]> {
    let [a, b, c, d] = *upper.first_chunk::<PORTS_BYTES>()?;
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// Returns the flow of the packet that an error quotes, if that went to who sends the error from who is told: nobody else
/// is on the way.
fn about(error: &Ip, quoted: &[u8]) -> Option<Oriented> {
    let (from, to, protocol, upper) = match error.source {
        IpAddr::V4(_) => {
            if quoted.len() < ipv4::HEADER_BYTES || quoted.first()? >> 4 != 4 {
                return None;
            }
            let packet = ipv4::Packet::new_unchecked(quoted);
            let header = packet.header_bytes();
            if header < ipv4::HEADER_BYTES || packet.fragment_offset() != 0 {
                return None;
            }
            let (from, to) = (packet.source().into(), packet.destination().into());
            (from, to, packet.protocol(), quoted.get(header..)?)
        }
        IpAddr::V6(_) => {
            if quoted.len() < ipv6::HEADER_BYTES || quoted.first()? >> 4 != 6 {
                return None;
            }
            let packet = ipv6::Packet::new_unchecked(quoted);
            let upper = packet.upper().ok()?;
            if upper.fragment.is_some_and(|fragment| fragment.offset != 0) {
                return None;
            }
            let (from, to): (IpAddr, IpAddr) =
                (packet.source().into(), packet.destination().into());
            (from, to, upper.protocol, quoted.get(upper.offset..)?)
        }
    };
    if from != error.destination || to != error.source {
        return None;
    }
    let carried = quoted_carried(protocol, from.is_ipv4(), upper.get(..QUOTED_BYTES)?)?;
    Oriented::of(&Packet {
        from,
        to,
        protocol,
        carried,
        identification: None,
    })
}

fn quoted_carried(protocol: Protocol, is_v4: bool, upper: &[u8]) -> Option<Carried> {
    let echo = |kinds: [u8; 2]| {
        let (kind, identifier) = (upper.first()?, upper.get(4..6)?);
        kinds.contains(kind).then(|| Carried::Echo {
            identifier: u16::from_be_bytes([identifier[0], identifier[1]]),
            is_reply: *kind == kinds[1],
        })
    };
    match protocol {
        Protocol::TCP => Some(Carried::Tcp {
            ports: ports(upper)?,
            flags: Flags::default(),
        }),
        Protocol::UDP => Some(Carried::Udp {
            ports: ports(upper)?,
        }),
        Protocol::ICMP if is_v4 => echo([8, 0]),
        Protocol::ICMPV6 if !is_v4 => echo([128, 129]),
        _ => Some(Carried::Other),
    }
}
