//! Reading outer headers from Ethernet on, for backends without a UDP socket; the way back of [`encap`](crate::encap).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_core::Vni;
use thiserror::Error;

use crate::{
    encap::{IP, IPV4_BYTES, V4_BYTES, V4_UDP, V6_UDP},
    outer::Ecn,
    wire::{
        DecodeError,
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6, udp, vxlan,
    },
};

/// A packet whose outer headers were found right; what they say is read when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulated<'a> {
    /// From Ethernet to the end of the inner frame.
    bytes: &'a [u8],
    places: Places,
}

impl<'a> Decapsulated<'a> {
    /// Returns the source address.
    #[must_use]
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.address(12, 8)
    }

    /// Returns the destination address.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.address(16, 24)
    }

    /// Returns the UDP source port.
    #[must_use]
    #[inline]
    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes(read(self.bytes, self.places.udp_at))
    }

    /// Returns the ECN field.
    #[must_use]
    #[inline]
    pub fn ecn(&self) -> Ecn {
        let [_, octet] = read(self.bytes, IP);
        let low = if self.places.is_v6 { octet >> 4 } else { octet };
        Ecn::from_traffic_class(low)
    }

    /// Returns the network identifier.
    #[must_use]
    #[inline]
    pub fn vni(&self) -> Vni {
        Vni::from_octets(read(self.bytes, self.vxlan_at() + 4))
    }

    /// Returns where the VXLAN header begins.
    #[must_use]
    #[inline]
    pub const fn vxlan_at(&self) -> usize {
        self.places.udp_at + udp::HEADER_BYTES
    }

    /// Returns where the inner frame ends; padding may follow.
    #[must_use]
    #[inline]
    pub const fn end(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the payload of the UDP datagram, VXLAN header included.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.vxlan_at()..).unwrap_or_default()
    }

    #[inline]
    fn address(&self, v4_at: usize, v6_at: usize) -> IpAddr {
        if self.places.is_v6 {
            Ipv6Addr::from(read::<16>(self.bytes, IP + v6_at)).into()
        } else {
            Ipv4Addr::from(read::<4>(self.bytes, IP + v4_at)).into()
        }
    }
}

/// A packet is no VXLAN for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecapsulateError {
    /// A header is cut short, or wrong.
    #[error(transparent)]
    Header(#[from] DecodeError),
    /// Neither IPv4 nor IPv6.
    #[error("expected IPv4 or IPv6, found the EtherType {0:#06x}")]
    EtherType(u16),
    /// A fragment: reassembling is the kernel's affair.
    #[error("expected a whole packet, found a fragment")]
    Fragment,
    /// Not UDP, or behind an extension header.
    #[error("expected UDP, found the protocol {0}")]
    Protocol(u8),
    /// Another port.
    #[error("expected UDP port {expected}, found {found}")]
    Port {
        /// The port of this node.
        expected: u16,
        /// The destination port.
        found: u16,
    },
    /// No UDP checksum over IPv6, where one was asked for (RFC 8200 §8.1).
    #[error("expected a UDP checksum over IPv6")]
    NoChecksum,
}

/// Reads the outer headers of a frame from Ethernet on, and checks lengths, checksums, port and VXLAN flags.
///
/// A UDP checksum of zero passes over IPv4, and over IPv6 if `zero_checksum` allows it (RFC 6935 §5). Options of IPv4 are
/// stepped over.
///
/// # Errors
///
/// [`DecapsulateError`].
// Always: else what was read goes through memory once more, in pieces that the processor waits for.
#[inline(always)]
pub fn decapsulate(
    bytes: &[u8],
    port: u16,
    zero_checksum: bool,
) -> Result<Decapsulated<'_>, DecapsulateError> {
    let places = match plain_v4(bytes, port) {
        Some(places) => places,
        None => places_of_any(bytes, port, zero_checksum)?,
    };
    Ok(Decapsulated {
        bytes: bytes.get(..places.end).unwrap_or_default(),
        places,
    })
}

/// Where the headers of a packet are that was found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    is_v6: bool,
    udp_at: usize,
    end: usize,
}

/// Finds what nearly all packets are: IPv4 without options, UDP without a checksum, nothing wrong. `None` says nothing.
#[inline(always)]
fn plain_v4(bytes: &[u8], port: u16) -> Option<Places> {
    let header = bytes.first_chunk::<V4_BYTES>()?;
    // Octets in the order in which they come are the machine's own order nearly everywhere.
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let total = u16::from_be_bytes([header[IP + 2], header[IP + 3]]);
    // Swapped words sum up to the swapped sum (RFC 1071 §2), and so do pairs of them.
    let sum = (IP..V4_UDP)
        .step_by(4)
        .fold(0, |sum, at| sum + u64::from(word(at)));
    let length = total.wrapping_sub(IPV4_BYTES);
    let datagram = u32::from(port.swap_bytes()) | u32::from(length.swap_bytes()) << 16;
    let end = IP + usize::from(total);
    let is_plain = word(IP - 2) & 0x00ff_ffff == IPV4_WITHOUT_OPTIONS
        && word(IP + 6) & 0xff00_ff3f == u32::from(Protocol::UDP.0) << 24
        && fold(sum) == 0xffff
        && word(V4_UDP + 2) == datagram
        && word(V4_UDP + 6) & 0x0008_ffff == NO_CHECKSUM_AND_VNI
        && total >= IPV4_BYTES
        && end >= V4_BYTES
        && end <= bytes.len();
    is_plain.then_some(Places {
        is_v6: false,
        udp_at: V4_UDP,
        end,
    })
}

/// Folds a sum of words of 32 bits into 16: what is added to itself with its halves exchanged has them folded in its upper
/// half.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The EtherType of IPv4, and the first octet of a header of 20 octets, swapped.
const IPV4_WITHOUT_OPTIONS: u32 = 0x0045_0008;
/// A UDP checksum of zero, and the I flag (RFC 7348 §5), swapped.
const NO_CHECKSUM_AND_VNI: u32 = 0x0008_0000;

#[cold]
#[inline(never)]
fn places_of_any(bytes: &[u8], port: u16, zero_checksum: bool) -> Result<Places, DecapsulateError> {
    let link = ethernet::Packet::new_checked(bytes)?;
    let packet = bytes.get(IP..).unwrap_or_default();
    match link.ethertype() {
        EtherType::IPV4 => {
            let packet = ipv4::Packet::new_checked(packet)?;
            if packet.is_fragment() {
                return Err(DecapsulateError::Fragment);
            }
            if packet.protocol() != Protocol::UDP {
                return Err(DecapsulateError::Protocol(packet.protocol().0));
            }
            if !packet.is_checksum_valid() {
                return Err(DecodeError::Checksum.into());
            }
            let network = Network {
                source: packet.source().into(),
                destination: packet.destination().into(),
                is_v6: false,
                udp_at: IP + packet.header_bytes(),
            };
            network.datagram(packet.payload(), port, true)
        }
        EtherType::IPV6 => {
            let packet = ipv6::Packet::new_checked(packet)?;
            if packet.next_header() != Protocol::UDP {
                return Err(DecapsulateError::Protocol(packet.next_header().0));
            }
            let network = Network {
                source: packet.source().into(),
                destination: packet.destination().into(),
                is_v6: true,
                udp_at: V6_UDP,
            };
            network.datagram(packet.payload(), port, zero_checksum)
        }
        other => Err(DecapsulateError::EtherType(other.0)),
    }
}

/// What the IP header said.
struct Network {
    source: IpAddr,
    destination: IpAddr,
    is_v6: bool,
    udp_at: usize,
}

impl Network {
    #[inline]
    fn datagram(
        self,
        bytes: &[u8],
        port: u16,
        zero_checksum: bool,
    ) -> Result<Places, DecapsulateError> {
        let datagram = udp::Packet::new_checked(bytes)?;
        let found = datagram.destination_port();
        if found != port {
            return Err(DecapsulateError::Port {
                expected: port,
                found,
            });
        }
        vxlan::Packet::new_checked(datagram.payload())?;
        if datagram.checksum() == 0 {
            if !zero_checksum {
                return Err(DecapsulateError::NoChecksum);
            }
        } else if !datagram.is_checksum_valid(self.source, self.destination) {
            return Err(DecodeError::Checksum.into());
        }
        Ok(Places {
            is_v6: self.is_v6,
            udp_at: self.udp_at,
            end: self.udp_at + datagram.total_bytes(),
        })
    }
}

/// Reads octets that are there.
#[inline(always)]
fn read<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    debug_assert!(field.is_some(), "the packet was found right");
    field.copied().unwrap_or([0; N])
}
