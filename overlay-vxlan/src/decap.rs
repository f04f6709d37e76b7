//! Reading outer headers from Ethernet on, for backends without a UDP socket; the way back of [`encap`](crate::encap).

use std::net::{IpAddr, Ipv4Addr};

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

/// What the outer headers of a packet said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decapsulated {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// UDP source port.
    pub source_port: u16,
    /// ECN field.
    pub ecn: Ecn,
    /// Network identifier.
    pub vni: Vni,
    /// Where the VXLAN header begins.
    pub vxlan_at: usize,
    /// Where the inner frame ends; padding may follow.
    pub end: usize,
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
) -> Result<Decapsulated, DecapsulateError> {
    match plain_v4(bytes, port) {
        Some(read) => Ok(read),
        None => decapsulate_any(bytes, port, zero_checksum),
    }
}

/// Reads what nearly all packets are: IPv4 without options, UDP without a checksum, nothing wrong. `None` says nothing.
#[inline(always)]
fn plain_v4(bytes: &[u8], port: u16) -> Option<Decapsulated> {
    let header = bytes.first_chunk::<V4_BYTES>()?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    // The words lie two octets before those of the IPv4 header: each has the end of one field and the start of another.
    let (link, length, fragment) = (word(IP - 2), word(IP + 2), word(IP + 6));
    let (checksum, addresses, ports) = (word(IP + 10), word(IP + 14), word(IP + 18));
    let (datagram, flags) = (word(V4_UDP + 2), word(V4_UDP + 6));
    let sum = [
        link & 0xffff,
        length,
        fragment,
        checksum,
        addresses,
        ports >> 16,
    ]
    .into_iter()
    .fold(0, |sum, word| sum + u64::from(word));
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let total = length >> 16;
    let end = IP + total as usize;
    let is_plain = link & 0xffff_ff00 == IPV4_WITHOUT_OPTIONS
        && fragment & 0x3fff_00ff == u32::from(Protocol::UDP.0)
        && sum == 0xffff
        && datagram == u32::from(port) << 16 | total.wrapping_sub(u32::from(IPV4_BYTES)) & 0xffff
        && flags & 0xffff_0800 == NO_CHECKSUM_AND_VNI
        && total >= u32::from(IPV4_BYTES)
        && end >= V4_BYTES
        && end <= bytes.len();
    if !is_plain {
        return None;
    }
    let [source_high, source_low] = [checksum << 16, addresses >> 16];
    let [destination_high, destination_low] = [addresses << 16, ports >> 16];
    let [.., port_high, port_low] = ports.to_be_bytes();
    let [.., traffic_class] = link.to_be_bytes();
    let [vni @ .., _] = word(V4_BYTES - 4).to_be_bytes();
    Some(Decapsulated {
        source: Ipv4Addr::from_bits(source_high | source_low).into(),
        destination: Ipv4Addr::from_bits(destination_high | destination_low).into(),
        source_port: u16::from_be_bytes([port_high, port_low]),
        ecn: Ecn::from_traffic_class(traffic_class),
        vni: Vni::from_octets(vni),
        vxlan_at: V4_UDP + udp::HEADER_BYTES,
        end,
    })
}

/// The EtherType of IPv4, and the first octet of a header of 20 octets.
const IPV4_WITHOUT_OPTIONS: u32 = 0x0800_4500;
/// A UDP checksum of zero, and the I flag (RFC 7348 §5).
const NO_CHECKSUM_AND_VNI: u32 = 0x0000_0800;

#[cold]
#[inline(never)]
fn decapsulate_any(
    bytes: &[u8],
    port: u16,
    zero_checksum: bool,
) -> Result<Decapsulated, DecapsulateError> {
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
                ecn: Ecn::from_traffic_class(packet.traffic_class()),
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
                ecn: Ecn::from_traffic_class(packet.traffic_class()),
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
    ecn: Ecn,
    udp_at: usize,
}

impl Network {
    #[inline]
    fn datagram(
        self,
        bytes: &[u8],
        port: u16,
        zero_checksum: bool,
    ) -> Result<Decapsulated, DecapsulateError> {
        let datagram = udp::Packet::new_checked(bytes)?;
        let found = datagram.destination_port();
        if found != port {
            return Err(DecapsulateError::Port {
                expected: port,
                found,
            });
        }
        let header = vxlan::Packet::new_checked(datagram.payload())?;
        if datagram.checksum() == 0 {
            if !zero_checksum {
                return Err(DecapsulateError::NoChecksum);
            }
        } else if !datagram.is_checksum_valid(self.source, self.destination) {
            return Err(DecodeError::Checksum.into());
        }
        Ok(Decapsulated {
            source: self.source,
            destination: self.destination,
            source_port: datagram.source_port(),
            ecn: self.ecn,
            vni: header.vni(),
            vxlan_at: self.udp_at + udp::HEADER_BYTES,
            end: self.udp_at + datagram.total_bytes(),
        })
    }
}
