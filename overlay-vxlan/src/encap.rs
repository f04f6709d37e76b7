//! Outer headers for backends without a UDP socket: a template for each peer. [`decap`](crate::decap) is the way back.
//!
//! ```text
//!  IPv4: |Ethernet 14|IPv4 20|UDP 8|VXLAN 8| inner frame      50 octets in front
//!  IPv6: |Ethernet 14|IPv6 40|UDP 8|VXLAN 8| inner frame      70 octets in front
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_core::MacAddr;
use thiserror::Error;

use crate::{
    frame::Frame,
    outer::Outer,
    wire::{
        checksum::Sum,
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6, udp, vxlan,
    },
};

pub(crate) const IP: usize = ethernet::HEADER_BYTES;
pub(crate) const V4_UDP: usize = IP + ipv4::HEADER_BYTES;
pub(crate) const V6_UDP: usize = IP + ipv6::HEADER_BYTES;
pub(crate) const IPV4_BYTES: u16 = 20;
const IPV6_BYTES: u16 = 40;
/// All headers over IPv4.
pub(crate) const V4_BYTES: usize = V4_UDP + udp::HEADER_BYTES + vxlan::HEADER_BYTES;
/// All headers over IPv6.
const V6_BYTES: usize = V6_UDP + udp::HEADER_BYTES + vxlan::HEADER_BYTES;

/// Both ends of the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// MAC address of this node's interface.
    pub source_mac: MacAddr,
    /// MAC address of the next hop.
    pub destination_mac: MacAddr,
    /// Address of this node.
    pub source: IpAddr,
    /// Address of the peer, of the same family.
    pub destination: IpAddr,
    /// UDP port of the peer, mostly [`vxlan::UDP_PORT`].
    pub port: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Whether the UDP checksum is computed over the whole datagram. RFC 7348 §5 asks for none over IPv4. Over IPv6 a
    /// receiver has to be told that it may be absent (RFC 6935).
    pub udp_checksum: bool,
}

/// The headers of all frames to one peer in one network.
///
/// Packets over IPv4 must not be fragmented, and their identification is zero (RFC 6864 §4.1).
#[derive(Clone, Debug)]
pub struct Template {
    headers: Headers,
    udp_checksum: bool,
    source: IpAddr,
    destination: IpAddr,
}

#[derive(Clone, Debug)]
enum Headers {
    V4 {
        bytes: [u8; V4_BYTES],
        /// The IPv4 header's sum without length and traffic class, octets swapped. Those, checksum, source port and length of
        /// UDP are zero.
        sum: u32,
    },
    V6([u8; V6_BYTES]),
}

/// A frame was not encapsulated; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncapsulateError {
    /// There is too little room in front.
    #[error("expected a headroom of {need} octets, found {have}")]
    Headroom {
        /// Octets that would be needed.
        need: usize,
        /// Octets that are there.
        have: usize,
    },
    /// The packet would be longer than 65,535 octets.
    #[error("expected an inner frame that fits an IP packet, found {found} octets")]
    Length {
        /// Octets of the inner frame.
        found: usize,
    },
}

impl Template {
    /// Makes the template for a peer and a network; `None` if the addresses are of two families.
    #[must_use]
    pub fn new(ends: &Ends, header: vxlan::Repr) -> Option<Self> {
        let headers = match (ends.source, ends.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Headers::v4(ends, source, destination, header)?
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Headers::v6(ends, source, destination, header)?
            }
            _ => return None,
        };
        Some(Self {
            headers,
            udp_checksum: ends.udp_checksum,
            source: ends.source,
            destination: ends.destination,
        })
    }

    /// Returns how many octets it puts in front of a frame: 50 or 70.
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        match self.headers {
            Headers::V4 { .. } => V4_BYTES,
            Headers::V6(_) => V6_BYTES,
        }
    }

    /// Puts all outer headers in front of an inner frame.
    ///
    /// A frame from [`Sink::to_vtep`](crate::Sink::to_vtep) has its VXLAN header already:
    /// [`pull_header`](Frame::pull_header) takes it off, which costs nothing.
    ///
    /// # Errors
    ///
    /// [`EncapsulateError`]; the frame is as it was.
    pub fn encapsulate(&self, outer: Outer, frame: &mut Frame) -> Result<(), EncapsulateError> {
        let (need, found) = (self.header_bytes(), frame.len());
        self.ip_bytes(found)?;
        let have = frame.headroom();
        let room = EncapsulateError::Headroom { need, have };
        self.write(outer, found, frame.push_header(need).ok_or(room)?)?;
        if self.udp_checksum {
            let at = need - vxlan::HEADER_BYTES - udp::HEADER_BYTES;
            let datagram = frame.bytes_mut().get_mut(at..).unwrap_or_default();
            udp::Packet::new_unchecked(datagram).fill_checksum(self.source, self.destination);
        }
        Ok(())
    }

    /// Writes the headers of an inner frame of `inner_bytes` octets to the start of `header`, without a UDP checksum.
    ///
    /// # Errors
    ///
    /// [`EncapsulateError`]; nothing is written.
    #[inline]
    pub fn write(
        &self,
        outer: Outer,
        inner_bytes: usize,
        header: &mut [u8],
    ) -> Result<(), EncapsulateError> {
        let ip_bytes = self.ip_bytes(inner_bytes)?;
        let (need, have) = (self.header_bytes(), header.len());
        let room = EncapsulateError::Headroom { need, have };
        match &self.headers {
            Headers::V4 { bytes, sum } => {
                let header = header.first_chunk_mut::<V4_BYTES>().ok_or(room)?;
                write_v4(header, bytes, *sum, outer, ip_bytes);
            }
            Headers::V6(bytes) => {
                let header = header.first_chunk_mut::<V6_BYTES>().ok_or(room)?;
                *header = *bytes;
                patch_v6(header, outer, ip_bytes);
            }
        }
        Ok(())
    }

    #[inline]
    fn ip_bytes(&self, found: usize) -> Result<u16, EncapsulateError> {
        let total = found.saturating_add(self.header_bytes() - IP);
        u16::try_from(total).map_err(|_| EncapsulateError::Length { found })
    }
}

/// Writes eight octets at a time: each field on its own would be a write of its own.
#[inline]
fn write_v4(
    header: &mut [u8; V4_BYTES],
    template: &[u8; V4_BYTES],
    sum: u32,
    outer: Outer,
    ip_bytes: u16,
) {
    let (class, port) = (
        u64::from(outer.traffic_class),
        outer.source_port.swap_bytes(),
    );
    let (total, length) = (ip_bytes.swap_bytes(), (ip_bytes - IPV4_BYTES).swap_bytes());
    // Swapped words sum up to the swapped sum (RFC 1071 §2). A sum of three is below 2^18; both halves of what is added
    // to itself with its halves exchanged are that sum in 16 bits.
    let sum = sum + (u32::from(outer.traffic_class) << 8) + u32::from(total);
    let sum = sum.wrapping_add(sum.rotate_left(16)) >> 16;
    let word = |at: usize| match template[at..].first_chunk() {
        Some(octets) => u64::from_le_bytes(*octets),
        None => 0,
    };
    let mut write = |at: usize, word: u64| {
        header[at..at + 8].copy_from_slice(&word.to_le_bytes());
    };
    write(0, word(0));
    // The traffic class is the last octet.
    write(8, word(8) | class << 56);
    write(16, word(16) | u64::from(total));
    write(24, word(24) | u64::from(!sum & 0xffff));
    write(
        32,
        word(32) | u64::from(port) << 16 | u64::from(length) << 48,
    );
    write(40, word(40));
    write(V4_BYTES - 8, word(V4_BYTES - 8));
}

#[inline]
fn patch_v6(header: &mut [u8; V6_BYTES], outer: Outer, ip_bytes: u16) {
    let length = (ip_bytes - IPV6_BYTES).to_be_bytes();
    // The source port as flow label, for underlays that look no further (RFC 6438).
    let [high, low] = outer.source_port.to_be_bytes();
    header[IP] = 0x60 | outer.traffic_class >> 4;
    header[IP + 1] = outer.traffic_class << 4;
    [header[IP + 2], header[IP + 3]] = [high, low];
    [header[IP + 4], header[IP + 5]] = length;
    [header[V6_UDP], header[V6_UDP + 1]] = [high, low];
    [header[V6_UDP + 4], header[V6_UDP + 5]] = length;
}

impl Headers {
    fn v4(
        ends: &Ends,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        header: vxlan::Repr,
    ) -> Option<Self> {
        let mut bytes = [0; V4_BYTES];
        emit_link(&mut bytes, ends, EtherType::IPV4)?;
        let network = ipv4::Repr {
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: ends.hop_limit,
            protocol: Protocol::UDP,
            source,
            destination,
            payload_bytes: 0,
        };
        network.emit(bytes.get_mut(IP..)?).ok()?;
        // Length and checksum are each frame's.
        [bytes[IP + 2], bytes[IP + 3]] = [0, 0];
        [bytes[IP + 10], bytes[IP + 11]] = [0, 0];
        let mut sum = Sum::new();
        sum.add_bytes(bytes.get(IP..V4_UDP)?);
        emit_datagram(bytes.get_mut(V4_UDP..)?, ends, header)?;
        [bytes[V4_UDP + 4], bytes[V4_UDP + 5]] = [0, 0];
        let sum = sum.fold().swap_bytes().into();
        Some(Self::V4 { bytes, sum })
    }

    fn v6(
        ends: &Ends,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        header: vxlan::Repr,
    ) -> Option<Self> {
        let mut bytes = [0; V6_BYTES];
        emit_link(&mut bytes, ends, EtherType::IPV6)?;
        let network = ipv6::Repr {
            traffic_class: 0,
            flow_label: 0,
            next_header: Protocol::UDP,
            hop_limit: ends.hop_limit,
            source,
            destination,
            payload_bytes: 0,
        };
        network.emit(bytes.get_mut(IP..)?).ok()?;
        emit_datagram(bytes.get_mut(V6_UDP..)?, ends, header)?;
        Some(Self::V6(bytes))
    }
}

fn emit_link(bytes: &mut [u8], ends: &Ends, ethertype: EtherType) -> Option<()> {
    let link = ethernet::Repr {
        destination: ends.destination_mac,
        source: ends.source_mac,
        ethertype,
    };
    link.emit(bytes).ok()
}

fn emit_datagram(bytes: &mut [u8], ends: &Ends, header: vxlan::Repr) -> Option<()> {
    let transport = udp::Repr {
        source_port: 0,
        destination_port: ends.port,
        payload_bytes: 0,
    };
    transport.emit(bytes).ok()?;
    header.emit(bytes.get_mut(udp::HEADER_BYTES..)?).ok()
}
