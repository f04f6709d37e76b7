//! Which packets an association or a policy is for, and addresses as XFRM has them.
//!
//! ```text
//! 0                16             32    34    36    38    40      42 43 44 45    48       52     56
//! +----------------+--------------+-----+-----+-----+-----+-------+--+--+--+-----+--------+------+
//! | destination    | source       |dport|mask |sport|mask |family |ld|ls|pr| -   | device | user |
//! +----------------+--------------+-----+-----+-----+-----+-------+--+--+--+-----+--------+------+
//! ```

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Which packets are meant, as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Selector([u8; Self::BYTES]);

impl Selector {
    pub(super) const BYTES: usize = 56;

    /// UDP from one address to another.
    pub(crate) fn udp(source: IpAddr, destination: IpAddr) -> Self {
        let bits = if destination.is_ipv6() { 128 } else { 32 };
        let mut octets = [0; Self::BYTES];
        let fields: [(usize, &[u8]); 5] = [
            (0, &address(destination)),
            (16, &address(source)),
            (FAMILY, &family(destination).to_ne_bytes()),
            (LENGTHS, &[bits, bits]),
            (PROTOCOL, &[UDP]),
        ];
        for (offset, value) in fields {
            put(&mut octets, offset, value);
        }
        Self(octets)
    }

    /// The same, to one port.
    pub(crate) fn udp_to(source: IpAddr, destination: IpAddr, port: u16) -> Self {
        let mut selector = Self::udp(source, destination);
        put(&mut selector.0, PORT, &port.to_be_bytes());
        put(&mut selector.0, PORT + 2, &[0xff; 2]);
        selector
    }

    pub(super) fn parse(octets: &[u8]) -> Option<Self> {
        octets.first_chunk().map(|octets| Self(*octets))
    }

    pub(super) fn octets(&self) -> &[u8] {
        &self.0
    }

    /// The destination, or the first of them.
    pub(crate) fn destination(&self) -> Option<IpAddr> {
        let family = self.0.get(FAMILY..)?.first_chunk()?;
        parse_address(&self.0, u16::from_ne_bytes(*family))
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.0.get(FAMILY..).and_then(<[u8]>::first_chunk);
        let source = source.map(|family| u16::from_ne_bytes(*family));
        let source = source.and_then(|family| parse_address(self.0.get(16..)?, family));
        let destination = self.destination();
        write!(f, "Selector({source:?} -> {destination:?})")
    }
}

/// An address as it stands in all of XFRM: 16 octets.
pub(super) fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Reads an address of 16 octets back.
pub(super) fn parse_address(octets: &[u8], of: u16) -> Option<IpAddr> {
    if of == FAMILY_IPV4 {
        let octets: [u8; 4] = *octets.first_chunk()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets: [u8; 16] = *octets.first_chunk()?;
    (of == FAMILY_IPV6).then(|| Ipv6Addr::from(octets).into())
}

pub(super) fn family(address: IpAddr) -> u16 {
    if address.is_ipv6() {
        FAMILY_IPV6
    } else {
        FAMILY_IPV4
    }
}

/// Writes octets at a place that they fit in.
pub(super) fn put(octets: &mut [u8], offset: usize, value: &[u8]) {
    let place = octets.get_mut(offset..).unwrap_or_default();
    debug_assert!(place.len() >= value.len(), "a field inside its structure");
    for (place, octet) in place.iter_mut().zip(value) {
        *place = *octet;
    }
}

const PORT: usize = 32;
const FAMILY: usize = 40;
/// Of both prefixes.
const LENGTHS: usize = 42;
const PROTOCOL: usize = 44;
const UDP: u8 = 17;
/// `AF_INET`.
const FAMILY_IPV4: u16 = 2;
/// `AF_INET6`.
const FAMILY_IPV6: u16 = 10;
