//! Where the headers of a frame are, and what its checksum says.

use crate::{
    headers::TAGS_MAX,
    offload::{Offload, PartialChecksum, SegmentKind, Segmentation},
    wire::{
        checksum::Sum,
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
        udp, vlan,
    },
};

/// A frame that may be part of a super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) kind: SegmentKind,
    /// Where the IP packet begins.
    pub(super) network_at: usize,
    /// Where TCP or UDP begins.
    pub(super) upper_at: usize,
    /// Where its payload begins.
    pub(super) payload_at: usize,
}

impl Layout {
    /// Reads a frame of TCP or UDP without options of IPv4, extensions of IPv6, fragments and padding.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (ethertype, network_at) = network(bytes)?;
        let packet = bytes.get(network_at..)?;
        let (header_bytes, protocol) = match ethertype {
            EtherType::IPV4 => {
                let packet = ipv4::Packet::new_checked(packet).ok()?;
                let plain = packet.header_bytes() == ipv4::HEADER_BYTES
                    && !packet.is_fragment()
                    && packet.total_bytes() == bytes.len() - network_at
                    && packet.is_checksum_valid();
                plain.then_some((ipv4::HEADER_BYTES, packet.protocol()))?
            }
            EtherType::IPV6 => {
                let packet = ipv6::Packet::new_checked(packet).ok()?;
                let plain = packet.total_bytes() == bytes.len() - network_at;
                plain.then_some((ipv6::HEADER_BYTES, packet.next_header()))?
            }
            _ => return None,
        };
        let (is_ipv4, upper_at) = (ethertype == EtherType::IPV4, network_at + header_bytes);
        let upper = bytes.get(upper_at..)?;
        let (kind, header_bytes) = match protocol {
            Protocol::TCP => {
                let header_bytes = tcp::Packet::new_checked(upper).ok()?.header_bytes();
                let kind = if is_ipv4 {
                    SegmentKind::TcpV4
                } else {
                    SegmentKind::TcpV6
                };
                (kind, header_bytes)
            }
            Protocol::UDP => {
                let datagram = udp::Packet::new_checked(upper).ok()?;
                let whole = datagram.total_bytes() == upper.len();
                whole.then_some((SegmentKind::Udp, udp::HEADER_BYTES))?
            }
            _ => return None,
        };
        Some(Self {
            kind,
            network_at,
            upper_at,
            payload_at: upper_at + header_bytes,
        })
    }

    /// Whether the frame has payload, and no meaning beside it.
    pub(super) fn may_join(&self, bytes: &[u8]) -> bool {
        let plain = match self.kind {
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => {
                let flags = tcp::Packet::new_unchecked(&bytes[self.upper_at..]).flags();
                flags.without(Flags::PSH) == Flags::ACK
            }
            // Without a checksum nothing would tell whether its octets are right.
            SegmentKind::Udp => udp::Packet::new_unchecked(&bytes[self.upper_at..]).checksum() != 0,
        };
        plain && bytes.len() > self.payload_at
    }

    /// Whether a segment asks for its delivery at once: nothing follows it in a super-frame.
    pub(super) fn is_last(&self, bytes: &[u8]) -> bool {
        let upper = tcp::Packet::new_unchecked(&bytes[self.upper_at..]);
        self.is_tcp() && upper.flags().contains(Flags::PSH)
    }

    pub(super) const fn is_tcp(&self) -> bool {
        matches!(self.kind, SegmentKind::TcpV4 | SegmentKind::TcpV6)
    }

    pub(super) const fn is_ipv4(&self) -> bool {
        self.upper_at == self.network_at + ipv4::HEADER_BYTES
    }

    /// Where source and destination address are.
    pub(super) fn addresses(&self) -> std::ops::Range<usize> {
        if self.is_ipv4() {
            self.network_at + 12..self.upper_at
        } else {
            self.network_at + 8..self.upper_at
        }
    }

    pub(super) const fn protocol(&self) -> Protocol {
        match self.kind {
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => Protocol::TCP,
            SegmentKind::Udp => Protocol::UDP,
        }
    }

    /// Where the checksum is, from the start of the transport header.
    pub(super) const fn checksum_at(&self) -> usize {
        match self.kind {
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => tcp::CHECKSUM,
            SegmentKind::Udp => udp::CHECKSUM,
        }
    }

    /// Sums up the pseudo-header of a transport header and payload of `length` octets.
    pub(super) fn pseudo_header(&self, bytes: &[u8], length: usize) -> Sum {
        let mut sum = Sum::new();
        sum.add_bytes(&bytes[self.addresses()]);
        sum.add_word(u16::from(self.protocol().0));
        // Below 2^16, or the frame would be longer than one can be.
        sum.add_word(u16::try_from(length).unwrap_or(u16::MAX));
        sum
    }

    pub(super) fn is_checksum_valid(&self, bytes: &[u8]) -> bool {
        let mut sum = self.pseudo_header(bytes, bytes.len() - self.upper_at);
        sum.add_bytes(&bytes[self.upper_at..]);
        sum.finish() == 0
    }

    /// Says what is known of the checksum, and what is left to do if it is `unfinished` and that is allowed.
    pub(super) fn offload(
        &self,
        bytes: &[u8],
        size_bytes: Option<u16>,
        unfinished: bool,
    ) -> Offload {
        let upper = &bytes[self.upper_at..];
        let at = self.checksum_at();
        let field = u16::from_be_bytes([upper[at], upper[at + 1]]);
        if !self.is_tcp() && field == 0 {
            return Offload::NONE;
        }
        if self.is_checksum_valid(bytes) {
            return Offload {
                validated: true,
                ..Offload::NONE
            };
        }
        if !unfinished || field != self.pseudo_header(bytes, upper.len()).fold() {
            return Offload::NONE;
        }
        let number = |octets: usize| u16::try_from(octets).unwrap_or(u16::MAX);
        let frame_bytes = self.network_at + UNFINISHED_PACKET_BYTES;
        let room = frame_bytes.saturating_sub(self.payload_at);
        let long = bytes.len() > frame_bytes && self.is_tcp();
        let size_bytes = size_bytes.or_else(|| long.then(|| number(room)));
        let segment = size_bytes.map(|size_bytes| Segmentation {
            kind: self.kind,
            size_bytes,
            header_bytes: number(self.payload_at),
            ecn: false,
        });
        Offload {
            checksum: Some(PartialChecksum {
                start: number(self.upper_at),
                offset: number(at),
            }),
            segment,
            validated: false,
        }
    }
}

/// Reads what is behind the Ethernet header and its tags, and where.
fn network(bytes: &[u8]) -> Option<(EtherType, usize)> {
    let mut ethertype = ethernet::Packet::new_checked(bytes).ok()?.ethertype();
    let mut at = ethernet::HEADER_BYTES;
    for _ in 0..TAGS_MAX {
        if !ethertype.is_vlan() {
            break;
        }
        ethertype = vlan::Packet::new_checked(bytes.get(at..)?)
            .ok()?
            .ethertype();
        at += vlan::HEADER_BYTES;
    }
    Some((ethertype, at))
}

/// Longest packet that surely fits a network, into which unfinished super-frames are segmented: IPv6's least MTU.
const UNFINISHED_PACKET_BYTES: usize = 1_280;
