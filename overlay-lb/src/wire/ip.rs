//! IP headers, in frames and in the quotes of ICMP errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    ETHERNET_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_BYTES, IPV6_BYTES, TCP, TCP_BYTES,
    octets::{read, read_u8, read_u16},
};
use crate::flows::End;

/// Both addresses of a packet, and where it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    /// Where the IP header begins, in octets from the start of the frame.
    pub(crate) at: usize,
    pub(crate) v6: bool,
    /// The octets as numbers; an IPv4 address fills the lower half of the second word.
    pub(crate) from: [u64; 2],
    pub(crate) to: [u64; 2],
}

impl Addresses {
    pub(crate) fn source(&self) -> IpAddr {
        self.address(self.from)
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.address(self.to)
    }

    fn address(&self, [high, low]: [u64; 2]) -> IpAddr {
        match u32::try_from(low) {
            Ok(low) if !self.v6 => Ipv4Addr::from(low).into(),
            _ => Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into(),
        }
    }
}

/// A packet whose headers are within the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip<'a> {
    pub(crate) addresses: &'a Addresses,
    /// The protocol of what follows all IP headers; of a later fragment, that of the whole.
    pub(crate) proto: u8,
    /// Where the header of that protocol begins, in octets from the start of the frame.
    pub(crate) upper: usize,
    /// Where the packet ends; what follows is padding.
    pub(crate) end: usize,
    /// `None`: the packet is whole.
    pub(crate) fragment: Option<Fragment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// In octets from the start of what was fragmented.
    pub(crate) offset: u16,
}

/// Returns where the IP header of an Ethernet frame begins; `None` for other frames. One VLAN tag is stepped over.
#[inline]
pub(crate) fn network_at(bytes: &[u8]) -> Option<usize> {
    let (at, kind) = match read_u16(bytes, ETHERTYPE_AT)? {
        ETHERTYPE_TAGGED => (
            ETHERNET_BYTES.saturating_add(TAG_BYTES),
            read_u16(bytes, ETHERTYPE_AT.saturating_add(TAG_BYTES))?,
        ),
        kind => (ETHERNET_BYTES, kind),
    };
    matches!(kind, ETHERTYPE_IPV4 | ETHERTYPE_IPV6).then_some(at)
}

/// Reads both addresses of a packet that is IPv4 without options, TCP, and in an Ethernet frame without a tag; `None` for
/// all others.
#[inline(always)]
pub(crate) fn plain_addresses(bytes: &[u8]) -> Option<Addresses> {
    let headers = bytes.first_chunk::<PLAIN_BYTES>()?;
    let is_plain = read_u16(headers, ETHERTYPE_AT)? == ETHERTYPE_IPV4
        && read_u8(headers, ETHERNET_BYTES)? == IPV4_PLAIN
        && read_u8(headers, PROTO_AT)? == TCP;
    if !is_plain {
        return None;
    }
    addresses(headers, ETHERNET_BYTES)
}

/// Reads both addresses of the packet at `at`; `None` if it is not IP.
#[inline(always)]
pub(crate) fn addresses(bytes: &[u8], at: usize) -> Option<Addresses> {
    let header = bytes.get(at..)?;
    let (v6, from, to) = match header.first()? >> 4 {
        4 => {
            let header = header.first_chunk::<IPV4_BYTES>()?;
            let address = |at| {
                let word = read::<4>(header, at).map(u32::from_be_bytes);
                word.map(|word| [0, u64::from(word)])
            };
            (false, address(12)?, address(16)?)
        }
        6 => {
            let header = header.first_chunk::<IPV6_BYTES>()?;
            let word = |at| read::<8>(header, at).map(u64::from_be_bytes);
            (true, [word(8)?, word(16)?], [word(24)?, word(32)?])
        }
        _ => return None,
    };
    Some(Addresses { at, v6, from, to })
}

impl<'a> Ip<'a> {
    /// Reads the headers of a packet that lies in the frame as a whole; `None` if it does not.
    #[inline(always)]
    pub(crate) fn parse(bytes: &[u8], addresses: &'a Addresses) -> Option<Self> {
        let ip = Self::parse_quoted(bytes, addresses)?;
        (ip.end <= bytes.len()).then_some(ip)
    }

    /// Reads the headers of a packet of which the end may be missing: `end` is where it would be.
    #[inline(always)]
    pub(crate) fn parse_quoted(bytes: &[u8], addresses: &'a Addresses) -> Option<Self> {
        if addresses.v6 {
            Self::parse_v6(bytes, addresses)
        } else {
            Self::parse_v4(bytes, addresses)
        }
    }

    #[inline(always)]
    fn parse_v4(bytes: &[u8], addresses: &'a Addresses) -> Option<Self> {
        let at = addresses.at;
        let header: [u8; IPV4_BYTES] = read(bytes, at)?;
        let length = usize::from(header[0] & 0xf).saturating_mul(4);
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length < IPV4_BYTES || total < length {
            return None;
        }
        let place = u16::from_be_bytes([header[6], header[7]]);
        let (more, offset) = (place & 0x2000 != 0, (place & 0x1fff).checked_mul(8));
        let id = u16::from_be_bytes([header[4], header[5]]);
        Some(Self {
            addresses,
            proto: header[9],
            upper: at.saturating_add(length),
            end: at.saturating_add(total),
            fragment: fragment(more, offset?, id.into()),
        })
    }

    fn parse_v6(bytes: &[u8], addresses: &'a Addresses) -> Option<Self> {
        let at = addresses.at;
        let payload = usize::from(read_u16(bytes, at.saturating_add(4))?);
        let mut proto = read_u8(bytes, at.saturating_add(6))?;
        let mut upper = at.saturating_add(IPV6_BYTES);
        let end = upper.saturating_add(payload);
        let mut found = None;
        for _ in 0..EXTENSIONS_MAX {
            let length = match proto {
                HOP_BY_HOP | ROUTING | DESTINATION => {
                    let octets = usize::from(read_u8(bytes, upper.saturating_add(1))?);
                    octets.saturating_add(1).saturating_mul(8)
                }
                FRAGMENT => {
                    let place = read_u16(bytes, upper.saturating_add(2))?;
                    let id = u32::from_be_bytes(read(bytes, upper.saturating_add(4))?);
                    found = fragment(place & 1 != 0, place & !7, id);
                    8
                }
                _ => break,
            };
            proto = read_u8(bytes, upper)?;
            upper = upper.saturating_add(length);
            if found.is_some_and(|fragment| fragment.offset > 0) {
                break;
            }
        }
        (upper <= end).then_some(Self {
            addresses,
            proto,
            upper,
            end,
            fragment: found,
        })
    }

    /// Whether it is a fragment without the header of its protocol.
    pub(crate) fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset > 0)
    }

    /// Whether it is a later fragment that would overwrite the header in the first one, which was looked at (RFC 3128 §4).
    pub(crate) fn overlaps_header(&self) -> bool {
        let header = if self.proto == TCP { TCP_BYTES } else { 0 };
        self.fragment
            .is_some_and(|fragment| fragment.offset > 0 && usize::from(fragment.offset) < header)
    }

    /// Returns both ends of TCP or UDP: source, destination.
    #[inline(always)]
    pub(crate) fn ends(&self, bytes: &[u8]) -> Option<(End, End)> {
        let (source, destination) = self.ports(bytes)?;
        let end = |words, port| End { words, port };
        let Addresses { from, to, .. } = *self.addresses;
        Some((end(from, source), end(to, destination)))
    }

    /// Returns both ports of TCP or UDP: source, destination.
    #[inline(always)]
    pub(crate) fn ports(&self, bytes: &[u8]) -> Option<(u16, u16)> {
        let [a, b, c, d] = read(bytes, self.upper)?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }
}

/// A packet that says it is its own only fragment is whole (RFC 6946).
fn fragment(more: bool, offset: u16, id: u32) -> Option<Fragment> {
    (more || offset > 0).then_some(Fragment { id, offset })
}

const ETHERTYPE_AT: usize = 12;
const ETHERTYPE_TAGGED: u16 = 0x8100;
const TAG_BYTES: usize = 4;

/// Version 4, and a header of five words.
const IPV4_PLAIN: u8 = 0x45;
const PROTO_AT: usize = ETHERNET_BYTES + 9;
/// Length of the headers of a frame without anything optional, in octets.
const PLAIN_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + TCP_BYTES;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const EXTENSIONS_MAX: usize = 8;
