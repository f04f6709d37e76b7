//! What tells flows apart, and what is known of one.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_core::{Instant, plane::FlowMatch};

use super::packet::{Carried, Packet};
use crate::wire::{ipv4::Protocol, tcp::Flags};

/// Both ends of a flow, the same for both directions: the lower one is first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Of IPv4 both in the first word.
    addresses: [u64; 4],
    /// Ports, protocol, and the bits below.
    rest: u64,
}

/// The addresses are of IPv6.
const IS_V6: u64 = 1;
/// An echo that the lower end has asked for: requests with the same identifier may come from both.
const ECHO_OF_LOWER: u64 = 2;

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.addresses[0]);
        if self.rest & IS_V6 != 0 {
            for word in &self.addresses[1..] {
                state.write_u64(*word);
            }
        }
        state.write_u64(self.rest);
    }
}

/// A flow, and which way a packet goes in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Oriented {
    pub(super) key: Key,
    pub(super) from_lower: bool,
}

impl Oriented {
    /// Returns the flow of a packet; none if it is of a kind that is judged each by itself.
    #[inline]
    pub(super) fn of(packet: &Packet) -> Option<Self> {
        let (ports, echo) = match packet.carried {
            Carried::Tcp { ports, .. } | Carried::Udp { ports } => (ports, None),
            Carried::Echo {
                identifier,
                is_reply,
            } => ([identifier; 2], Some(is_reply)),
            Carried::Other => ([0; 2], None),
            Carried::Message | Carried::Error { .. } | Carried::LaterFragment => return None,
        };
        let [source, destination] = ports;
        let (from_lower, addresses, v6) = match (packet.from, packet.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [from, to] = [from, to].map(|address| u64::from(address.to_bits()));
                let from_lower = (from, source) <= (to, destination);
                let (low, high) = if from_lower { (from, to) } else { (to, from) };
                (from_lower, [low << 32 | high, 0, 0, 0], 0)
            }
            (from, to) => {
                let [from, to] = [from, to].map(bits);
                let from_lower = (from, source) <= (to, destination);
                let (low, high) = if from_lower { (from, to) } else { (to, from) };
                let [[a, b], [c, d]] = [low, high].map(halves);
                (from_lower, [a, b, c, d], IS_V6)
            }
        };
        let [low, high] = if from_lower {
            [source, destination]
        } else {
            [destination, source]
        };
        let echo = match echo {
            Some(is_reply) if is_reply != from_lower => ECHO_OF_LOWER,
            _ => 0,
        };
        let ports = u64::from(low) << 48 | u64::from(high) << 32;
        let rest = ports | u64::from(packet.protocol.0) << 8 | echo | v6;
        let key = Key { addresses, rest };
        Some(Self { key, from_lower })
    }
}

impl Key {
    /// Returns what the rules see of the flow, by who has opened it.
    #[expect(clippy::cast_possible_truncation, reason = "takes words apart")]
    pub(super) fn flow_match(&self, opened_by_lower: bool) -> FlowMatch {
        let [a, b, c, d] = self.addresses;
        let (low, high): (IpAddr, IpAddr) = if self.rest & IS_V6 == 0 {
            let [low, high] = [a >> 32, a].map(|bits| Ipv4Addr::from_bits(bits as u32));
            (low.into(), high.into())
        } else {
            let address = |high, low| Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
            (address(a, b).into(), address(c, d).into())
        };
        let [low_port, high_port] = [self.rest >> 48, self.rest >> 32].map(|port| port as u16);
        let (from, to, port) = if opened_by_lower {
            (low, high, high_port)
        } else {
            (high, low, low_port)
        };
        let has_ports = matches!(self.protocol(), Protocol::TCP | Protocol::UDP);
        FlowMatch {
            from,
            to,
            protocol: self.protocol().0,
            port: if has_ports { port } else { 0 },
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes words apart")]
    pub(super) const fn protocol(&self) -> Protocol {
        Protocol((self.rest >> 8) as u8)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes words apart")]
const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

/// A flow that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) opened_by_lower: bool,
    /// The rule that allowed it, or [`NO_RULE`]; while it is ended, the one that did last.
    pub(super) rule: u32,
    state: u8,
    pub(super) touched: Instant,
}

/// The default allowed it.
pub(super) const NO_RULE: u32 = u32::MAX;

/// The other end has sent something.
const ANSWERED: u8 = 1;
const FIN_OF_LOWER: u8 = 2;
const FIN_OF_HIGHER: u8 = 4;
const RESET: u8 = 8;
/// The rules allow it no more.
const ENDED: u8 = 16;

impl Flow {
    pub(super) const fn new(opened_by_lower: bool, rule: u32, now: Instant) -> Self {
        Self {
            opened_by_lower,
            rule,
            state: 0,
            touched: now,
        }
    }

    /// Notes a packet, which may have brought the connection nearer to its end.
    #[inline]
    pub(super) fn advance(&mut self, carried: &Carried, from_lower: bool) {
        let is_answer = from_lower != self.opened_by_lower;
        let Carried::Tcp { flags, .. } = carried else {
            self.state |= u8::from(is_answer) * ANSWERED;
            return;
        };
        if is_syn(*flags) && self.is_closing() {
            // The opener begins a new connection with the same ports.
            self.state = 0;
            return;
        }
        self.state |= u8::from(is_answer) * ANSWERED;
        if flags.contains(Flags::FIN) {
            self.state |= match from_lower {
                true => FIN_OF_LOWER,
                false => FIN_OF_HIGHER,
            };
        }
        if flags.contains(Flags::RST) {
            self.state |= RESET;
        }
    }

    /// Marks a flow of which the opening was not seen.
    pub(super) fn set_answered(&mut self) {
        self.state |= ANSWERED;
    }

    pub(super) fn set_ended(&mut self, is_ended: bool) {
        self.state = (self.state & !ENDED) | (u8::from(is_ended) * ENDED);
    }

    pub(super) const fn is_ended(&self) -> bool {
        self.state & ENDED != 0
    }

    /// Whether a connection request from the other end would be one of its own: while nobody has answered the opener's, both
    /// may have asked at once (RFC 9293 §3.5).
    pub(super) const fn is_beyond_opening(&self) -> bool {
        self.state != 0
    }

    const fn is_closing(&self) -> bool {
        let both = FIN_OF_LOWER | FIN_OF_HIGHER;
        self.state & RESET != 0 || self.state & both == both
    }

    pub(super) const fn stage(&self, protocol: Protocol) -> Stage {
        if self.is_ended() {
            return Stage::Ended;
        }
        if self.state & ANSWERED == 0 {
            return Stage::Unanswered;
        }
        match protocol {
            Protocol::TCP if self.is_closing() => Stage::Closing,
            Protocol::TCP => Stage::Tcp,
            Protocol::UDP => Stage::Udp,
            Protocol::ICMP | Protocol::ICMPV6 => Stage::Icmp,
            _ => Stage::Other,
        }
    }
}

/// Whether a segment asks for a connection.
pub(super) fn is_syn(flags: Flags) -> bool {
    let others = Flags::ACK | Flags::RST | Flags::FIN;
    flags.contains(Flags::SYN) && flags.0 & others.0 == 0
}

/// What decides for how long a flow is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Those of the first two make room for others, in this order.
    Ended,
    Unanswered,
    Closing,
    Tcp,
    Udp,
    Icmp,
    Other,
}

impl Stage {
    pub(super) const ALL: [Self; 7] = [
        Self::Ended,
        Self::Unanswered,
        Self::Closing,
        Self::Tcp,
        Self::Udp,
        Self::Icmp,
        Self::Other,
    ];
}
