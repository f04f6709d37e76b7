//! What the outer header of a datagram says beside addresses: source port, DSCP and ECN (RFC 6040, RFC 2983).

use std::net::IpAddr;

use crate::headers::{Headers, Payload};

/// What the driver is to write into the outer headers of a datagram to a VTEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outer {
    /// UDP source port, 49,152..=65,535 (RFC 7348 §5): the same for all frames of a flow.
    pub source_port: u16,
    /// The octet with DSCP and ECN: type of service of IPv4, traffic class of IPv6.
    pub traffic_class: u8,
}

/// What the outer headers of a datagram from a VTEP said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Received {
    /// Source address.
    pub from: IpAddr,
    /// ECN field. A driver that cannot read it says [`Ecn::NotEct`], and congestion marks of the underlay are lost.
    pub ecn: Ecn,
    /// Whether the datagram was sealed, and came out of an association with this very source
    /// ([`Associations::open`](crate::esp::Associations::open)).
    pub sealed: bool,
}

impl From<IpAddr> for Received {
    fn from(from: IpAddr) -> Self {
        Self {
            from,
            ecn: Ecn::NotEct,
            sealed: false,
        }
    }
}

/// Where the DSCP of the outer header comes from (RFC 2983 §3). That of the inner one is never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OuterDscp {
    /// Always this one, of which the lower 6 bits count: the pipe model.
    Fixed(u8),
    /// The inner packet's; that of frames without IP is 0.
    Inner,
}

/// The ECN field (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ecn {
    /// The transport takes no marks.
    NotEct,
    /// The transport takes marks; for L4S the low-latency one (RFC 9331).
    Ect1,
    /// The transport takes marks.
    Ect0,
    /// Congestion was experienced.
    Ce,
}

impl Ecn {
    /// All codepoints, in the order of their bits.
    pub const ALL: [Self; 4] = [Self::NotEct, Self::Ect1, Self::Ect0, Self::Ce];

    /// Reads the lower two bits of a traffic class.
    #[must_use]
    pub const fn from_traffic_class(traffic_class: u8) -> Self {
        match traffic_class & ECN_BITS {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// Returns the two bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }

    /// Combines the field of an inner packet with that of the outer header it came in (RFC 6040 §4.2, figure 4).
    #[must_use]
    pub const fn decapsulate(self, outer: Self) -> Decapsulated {
        let (ecn, unexpected) = match (self, outer) {
            (Self::NotEct, Self::NotEct) => (Some(Self::NotEct), false),
            (Self::NotEct, Self::Ect0 | Self::Ect1) => (Some(Self::NotEct), true),
            (Self::NotEct, Self::Ce) => (None, true),
            (Self::Ect0, Self::NotEct | Self::Ect0) => (Some(Self::Ect0), false),
            (Self::Ect0, Self::Ect1) => (Some(Self::Ect1), false),
            (Self::Ect1, Self::Ect0) => (Some(Self::Ect1), true),
            (Self::Ect1, Self::NotEct | Self::Ect1) => (Some(Self::Ect1), false),
            (Self::Ce, Self::Ect1) => (Some(Self::Ce), true),
            (Self::Ect0 | Self::Ect1 | Self::Ce, _) => (Some(Self::Ce), false),
        };
        Decapsulated { ecn, unexpected }
    }
}

/// What becomes of an ECN field on the way out of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulated {
    /// The new field; `None` drops the packet, because its transport would not understand the mark.
    pub ecn: Option<Ecn>,
    /// No tunnel that follows a standard makes this pair: something on the way changes ECN fields.
    pub unexpected: bool,
}

/// Returns the outer traffic class of a frame: its ECN field is the inner one (RFC 6040 §4.1, normal mode).
pub(crate) fn traffic_class(dscp: OuterDscp, headers: &Headers) -> u8 {
    let inner = match headers.payload {
        Payload::Ip(ip) => ip.traffic_class,
        Payload::Arp(_) | Payload::Other => 0,
    };
    match dscp {
        OuterDscp::Fixed(dscp) => dscp << 2 | inner & ECN_BITS,
        OuterDscp::Inner => inner,
    }
}

/// Returns how many octets of an outer IP packet to `vtep` are not the inner packet: outer IP, UDP and VXLAN header, and the
/// inner Ethernet header. 50 over IPv4, 70 over IPv6; what else a network adds,
/// [`underlay_bytes`](crate::NetworkConfig::underlay_bytes) knows.
#[must_use]
pub const fn encapsulation_bytes(vtep: IpAddr) -> u16 {
    match vtep {
        IpAddr::V4(_) => 50,
        IpAddr::V6(_) => 70,
    }
}

/// The ECN field in a traffic class.
pub(crate) const ECN_BITS: u8 = 0b11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cells_of_rfc_6040_figure_4() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        // Inner field; then for an outer Not-ECT, ECT(0), ECT(1) and CE the new field, with the figure's marks.
        let figure = [
            (
                NotEct,
                [
                    (Some(NotEct), false),
                    (Some(NotEct), true),
                    (Some(NotEct), true),
                    (None, true),
                ],
            ),
            (
                Ect0,
                [
                    (Some(Ect0), false),
                    (Some(Ect0), false),
                    (Some(Ect1), false),
                    (Some(Ce), false),
                ],
            ),
            (
                Ect1,
                [
                    (Some(Ect1), false),
                    (Some(Ect1), true),
                    (Some(Ect1), false),
                    (Some(Ce), false),
                ],
            ),
            (
                Ce,
                [
                    (Some(Ce), false),
                    (Some(Ce), false),
                    (Some(Ce), true),
                    (Some(Ce), false),
                ],
            ),
        ];
        for (inner, cells) in figure {
            for (outer, (ecn, unexpected)) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(cells) {
                let expected = Decapsulated { ecn, unexpected };
                assert_eq!(inner.decapsulate(outer), expected, "{inner:?} {outer:?}");
            }
        }
    }

    #[test]
    fn the_bits_are_those_of_rfc_3168() {
        for (bits, ecn) in (0..).zip(Ecn::ALL) {
            assert_eq!(ecn.bits(), bits);
            assert_eq!(Ecn::from_traffic_class(bits | 0xa8), ecn);
        }
        assert_eq!(Ecn::Ect0.bits(), 2);
    }
}
