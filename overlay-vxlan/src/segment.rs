//! Segmentation in software: a super-frame of TCP or UDP becomes frames that fit the network.

use std::net::IpAddr;

use thiserror::Error;

use crate::{
    frame::Frame,
    headers::{Headers, Ip, Payload},
    offload::{Offload, OffloadError, SegmentKind, complete_checksum},
    wire::{
        ipv4::{self, Protocol},
        ipv6,
        tcp::{self, Flags},
        udp,
    },
};

/// Segments that one super-frame may become: 64 KiB at the least MSS that Linux takes, 88 octets, are 745.
pub const SEGMENTS_MAX: usize = 1_024;

/// A super-frame that cannot be segmented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The frame is not of the kind that its offload says, or is malformed or a fragment.
    #[error("expected a packet of the kind {expected:?}")]
    Kind {
        /// What the offload says.
        expected: SegmentKind,
    },
    /// The size of a segment is zero, or so small that there would be too many.
    #[error(
        "expected at most {SEGMENTS_MAX} segments, found {octets} octets in segments of {size}"
    )]
    Size {
        /// Octets of payload.
        octets: usize,
        /// Octets of one segment.
        size: usize,
    },
    /// The partial checksum of a frame without segments cannot be completed.
    #[error(transparent)]
    Checksum(#[from] OffloadError),
}

/// Cuts `frame` as its [`Offload`] says and hands each segment, with complete checksums, to `sink`.
///
/// Each segment is written into `scratch`, which has `headroom` octets in front; what `sink` leaves of it is used again.
/// A frame without segmentation is handed over itself, after its checksum is completed. Returns the number of frames.
///
/// # Errors
///
/// [`SegmentError`]; `sink` was not called then.
pub fn segment(
    frame: &mut Frame,
    scratch: &mut Frame,
    headroom: usize,
    mut sink: impl FnMut(&mut Frame),
) -> Result<usize, SegmentError> {
    let Some(plan) = Plan::new(frame)? else {
        complete_checksum(frame)?;
        sink(frame);
        return Ok(1);
    };
    let bytes = frame.bytes();
    let (header, payload) = bytes.split_at(plan.header_bytes);
    let payload = &payload[..plan.payload_bytes];
    let count = plan.payload_bytes.div_ceil(plan.size).max(1);
    for index in 0..count {
        let from = index * plan.size;
        let chunk = &payload[from..plan.payload_bytes.min(from + plan.size)];
        let target = scratch.receive_buffer(headroom, header.len() + chunk.len());
        target[..header.len()].copy_from_slice(header);
        target[header.len()..].copy_from_slice(chunk);
        plan.finish(target, index, index + 1 == count);
        scratch.set_offload(Offload {
            validated: frame.offload().validated,
            ..Offload::NONE
        });
        sink(scratch);
    }
    Ok(count)
}

/// Returns the length of the longest segment's frame, in octets; the frame's own if it is not to be segmented.
///
/// # Errors
///
/// As [`segment`], but for the checksum.
pub fn segment_bytes_max(frame: &Frame) -> Result<usize, SegmentError> {
    Ok(Plan::new(frame)?.map_or(frame.len(), |plan| {
        plan.header_bytes + plan.size.min(plan.payload_bytes)
    }))
}

/// How a super-frame is cut.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: SegmentKind,
    size: usize,
    payload_at: usize,
    upper_at: usize,
    /// All headers, from the start of the frame.
    header_bytes: usize,
    payload_bytes: usize,
    source: IpAddr,
    destination: IpAddr,
}

impl Plan {
    fn new(frame: &Frame) -> Result<Option<Self>, SegmentError> {
        let Some(segment) = frame.offload().segment else {
            return Ok(None);
        };
        let wrong = SegmentError::Kind {
            expected: segment.kind,
        };
        let bytes = frame.bytes();
        let headers = Headers::read(bytes).map_err(|_| wrong)?;
        let Payload::Ip(ip) = headers.payload else {
            return Err(wrong);
        };
        let upper_bytes = Self::upper_bytes(segment.kind, &ip, bytes).ok_or(wrong)?;
        let header_bytes = ip.upper_at + upper_bytes;
        let octets = ip.end.checked_sub(header_bytes).ok_or(wrong)?;
        let size = usize::from(segment.size_bytes);
        if size == 0 || octets.div_ceil(size) > SEGMENTS_MAX {
            return Err(SegmentError::Size { octets, size });
        }
        Ok(Some(Self {
            kind: segment.kind,
            size,
            payload_at: headers.payload_at,
            upper_at: ip.upper_at,
            header_bytes,
            payload_bytes: octets,
            source: ip.source,
            destination: ip.destination,
        }))
    }

    /// Returns the length of the transport header, if the packet is of the kind.
    fn upper_bytes(kind: SegmentKind, ip: &Ip, bytes: &[u8]) -> Option<usize> {
        let upper = ip.upper(bytes);
        let fits = ip.fragment.is_none()
            && match kind {
                SegmentKind::TcpV4 => ip.protocol == Protocol::TCP && ip.source.is_ipv4(),
                SegmentKind::TcpV6 => ip.protocol == Protocol::TCP && ip.source.is_ipv6(),
                SegmentKind::Udp => ip.protocol == Protocol::UDP,
            };
        match kind {
            _ if !fits => None,
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => {
                Some(tcp::Packet::new_checked(upper).ok()?.header_bytes())
            }
            SegmentKind::Udp => udp::Packet::new_checked(upper)
                .is_ok()
                .then_some(udp::HEADER_BYTES),
        }
    }

    /// Corrects the headers of segment number `index`.
    fn finish(&self, bytes: &mut [u8], index: usize, last: bool) {
        let proof = "the headers were read from the super-frame";
        let number = u16::try_from(index).expect("there are at most SEGMENTS_MAX");
        let packet = &mut bytes[self.payload_at..];
        let ip_bytes = packet.len();
        if self.source.is_ipv4() {
            let mut network = ipv4::Packet::new_unchecked(packet);
            network.set_total_bytes(u16::try_from(ip_bytes).expect(proof));
            network.set_identification(network.identification().wrapping_add(number));
            network.fill_checksum();
        } else {
            let mut network = ipv6::Packet::new_unchecked(packet);
            let length = ip_bytes - ipv6::HEADER_BYTES;
            network.set_payload_bytes(u16::try_from(length).expect(proof));
        }
        let upper = &mut bytes[self.upper_at..];
        match self.kind {
            SegmentKind::TcpV4 | SegmentKind::TcpV6 => {
                let mut segment = tcp::Packet::new_checked(upper).expect(proof);
                let skipped = u32::try_from(index * self.size).expect("a frame is below 2^32");
                segment.set_sequence(segment.sequence().wrapping_add(skipped));
                let mut flags = segment.flags();
                if !last {
                    flags = flags.without(Flags::FIN | Flags::PSH);
                }
                if index > 0 {
                    flags = flags.without(Flags::CWR);
                }
                segment.set_flags(flags);
                segment.fill_checksum(self.source, self.destination);
            }
            SegmentKind::Udp => {
                let length = u16::try_from(upper.len()).expect(proof);
                let mut datagram = udp::Packet::new_unchecked(upper);
                datagram.set_total_bytes(length);
                datagram.fill_checksum(self.source, self.destination);
            }
        }
    }
}
