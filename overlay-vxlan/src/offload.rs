//! What a sender left to the device: a checksum to complete, a super-frame to segment.
//!
//! The meaning is that of virtio-net (VIRTIO 1.2 §5.1.6), whose header precedes each frame of a TAP or packet socket
//! that was asked for it:
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Flags     |   GSO type    |         Header length         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           GSO size            |        Checksum start         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Checksum offset        |  Number of buffers (merged)   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! Numbers are in the machine's own byte order, as Linux exchanges them with the process that holds the descriptor.

use thiserror::Error;

use crate::{frame::Frame, wire::checksum::Sum};

/// Length of the header without the number of buffers, in octets.
pub const HEADER_BYTES: usize = 10;
/// Length of the header with the number of buffers, in octets.
pub const MERGED_HEADER_BYTES: usize = 12;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a frame's sender left to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offload {
    /// A checksum of which only the pseudo-header is summed up.
    pub checksum: Option<PartialChecksum>,
    /// The frame is a super-frame.
    pub segment: Option<Segmentation>,
    /// The device verified the checksums of this frame, so that nobody has to do so again.
    pub validated: bool,
}

/// A checksum to complete: the sum from `start` to the end goes to `start + offset`, where the pseudo-header's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PartialChecksum {
    /// Where the sum begins, in octets from the start of the frame.
    pub start: u16,
    /// Where the checksum is, in octets from `start`.
    pub offset: u16,
}

/// How a super-frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segmentation {
    /// What is cut.
    pub kind: SegmentKind,
    /// Payload of each segment but the last, in octets.
    pub size_bytes: u16,
    /// The sender's hint on the length of all headers, in octets; never trusted.
    pub header_bytes: u16,
    /// The TCP header has CWR, which only the first segment keeps (RFC 3168).
    pub ecn: bool,
}

/// What a super-frame is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// A TCP segment over IPv4 (TSO).
    TcpV4,
    /// A TCP segment over IPv6 (TSO).
    TcpV6,
    /// Datagrams of UDP over IPv4 or IPv6 (USO).
    Udp,
}

/// An offload that cannot be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// The header is cut short.
    #[error("expected at least {need} octets, found {have}")]
    Truncated {
        /// Octets that would be needed.
        need: usize,
        /// Octets that are there.
        have: usize,
    },
    /// A kind of super-frame that nobody asked for, such as UFO.
    #[error("expected a known kind of segmentation, found {found:#04x}")]
    Kind {
        /// The kind in the header.
        found: u8,
    },
    /// The checksum would be outside of the frame.
    #[error("expected a checksum within {have} octets, found it at {at}")]
    OutOfFrame {
        /// Where it would be, in octets from the start of the frame.
        at: usize,
        /// Octets of the frame.
        have: usize,
    },
}

impl Offload {
    /// Nothing was left to the device.
    pub const NONE: Self = Self {
        checksum: None,
        segment: None,
        validated: false,
    };

    /// Reads a virtio-net header of 10 or 12 octets; a number of buffers is ignored, as are unknown flags.
    ///
    /// # Errors
    ///
    /// [`OffloadError::Truncated`] or [`OffloadError::Kind`].
    pub fn parse(bytes: &[u8]) -> Result<Self, OffloadError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(OffloadError::Truncated {
                need: HEADER_BYTES,
                have: bytes.len(),
            });
        };
        let [flags, gso, l0, l1, z0, z1, s0, s1, o0, o1] = *header;
        let kind = match gso & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCPV4 => Some(SegmentKind::TcpV4),
            GSO_TCPV6 => Some(SegmentKind::TcpV6),
            GSO_UDP_L4 => Some(SegmentKind::Udp),
            _ => return Err(OffloadError::Kind { found: gso }),
        };
        let checksum = (flags & NEEDS_CHECKSUM != 0).then(|| PartialChecksum {
            start: u16::from_ne_bytes([s0, s1]),
            offset: u16::from_ne_bytes([o0, o1]),
        });
        Ok(Self {
            checksum,
            segment: kind.map(|kind| Segmentation {
                kind,
                size_bytes: u16::from_ne_bytes([z0, z1]),
                header_bytes: u16::from_ne_bytes([l0, l1]),
                ecn: gso & GSO_ECN != 0,
            }),
            validated: flags & DATA_VALID != 0 && checksum.is_none(),
        })
    }

    /// Returns the virtio-net header of 12 octets, with one buffer; its first 10 are the shorter form.
    #[must_use]
    pub fn header(&self) -> [u8; MERGED_HEADER_BYTES] {
        let flags = match (self.checksum, self.validated) {
            (Some(_), _) => NEEDS_CHECKSUM,
            (None, true) => DATA_VALID,
            (None, false) => 0,
        };
        let (mut gso, mut length, mut size) = (GSO_NONE, 0, 0);
        if let Some(segment) = self.segment {
            gso = match segment.kind {
                SegmentKind::TcpV4 => GSO_TCPV4,
                SegmentKind::TcpV6 => GSO_TCPV6,
                SegmentKind::Udp => GSO_UDP_L4,
            };
            gso |= if segment.ecn { GSO_ECN } else { 0 };
            (length, size) = (segment.header_bytes, segment.size_bytes);
        }
        let (start, offset) = self.checksum.map_or((0, 0), |sum| (sum.start, sum.offset));
        let mut header = [0; MERGED_HEADER_BYTES];
        let (pairs, _) = header.as_chunks_mut::<2>();
        let numbers = [
            u16::from_ne_bytes([flags, gso]),
            length,
            size,
            start,
            offset,
            1,
        ];
        for (pair, number) in pairs.iter_mut().zip(numbers) {
            *pair = number.to_ne_bytes();
        }
        header
    }

    /// Writes the virtio-net header over `bytes`: 10 octets, or 12 with one buffer if there is room for them.
    ///
    /// Returns how many octets were written.
    ///
    /// # Errors
    ///
    /// [`OffloadError::Truncated`] below 10 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<usize, OffloadError> {
        let have = bytes.len();
        let length = if have >= MERGED_HEADER_BYTES {
            MERGED_HEADER_BYTES
        } else {
            HEADER_BYTES
        };
        let Some(target) = bytes.get_mut(..length) else {
            return Err(OffloadError::Truncated {
                need: HEADER_BYTES,
                have,
            });
        };
        target.copy_from_slice(&self.header()[..length]);
        Ok(length)
    }
}

/// Completes the partial checksum of a frame, if it has one.
///
/// # Errors
///
/// [`OffloadError::OutOfFrame`]; the frame is unchanged.
pub fn complete_checksum(frame: &mut Frame) -> Result<(), OffloadError> {
    let mut offload = frame.offload();
    let Some(partial) = offload.checksum else {
        return Ok(());
    };
    let (start, have) = (usize::from(partial.start), frame.len());
    let at = start + usize::from(partial.offset);
    let bytes = frame.bytes_mut();
    if at + 2 > have {
        return Err(OffloadError::OutOfFrame { at, have });
    }
    let mut sum = Sum::new();
    sum.add_bytes(&bytes[start..]);
    // Zero would mean "none" in UDP; in TCP both are the same number.
    let checksum = match sum.finish() {
        0 => u16::MAX,
        other => other,
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    offload.checksum = None;
    frame.set_offload(offload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segmentation(kind: SegmentKind) -> Segmentation {
        Segmentation {
            kind,
            size_bytes: 1_398,
            header_bytes: 66,
            ecn: true,
        }
    }

    #[test]
    fn a_header_survives_the_round_trip() {
        let sum = PartialChecksum {
            start: 34,
            offset: 16,
        };
        for checksum in [None, Some(sum)] {
            for segment in [
                None,
                Some(segmentation(SegmentKind::TcpV4)),
                Some(segmentation(SegmentKind::TcpV6)),
                Some(segmentation(SegmentKind::Udp)),
            ] {
                for validated in [false, checksum.is_none()] {
                    let offload = Offload {
                        checksum,
                        segment,
                        validated,
                    };
                    assert_eq!(Offload::parse(&offload.header()), Ok(offload));
                }
            }
        }
    }

    #[test]
    fn both_lengths_of_the_header_are_written() {
        let offload = Offload {
            validated: true,
            ..Offload::NONE
        };
        let mut bytes = [0xaa; 12];
        assert_eq!(
            offload.emit(&mut bytes[..9]),
            Err(OffloadError::Truncated { need: 10, have: 9 })
        );
        assert_eq!(offload.emit(&mut bytes[..11]), Ok(10));
        assert_eq!(bytes, [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa, 0xaa]);
        assert_eq!(offload.emit(&mut bytes), Ok(12));
        assert_eq!(u16::from_ne_bytes([bytes[10], bytes[11]]), 1);
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let fragmentation_offload = [0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            Offload::parse(&fragmentation_offload),
            Err(OffloadError::Kind { found: 3 })
        );
        assert_eq!(
            Offload::parse(&[0; 9]),
            Err(OffloadError::Truncated { need: 10, have: 9 })
        );
        // Unknown flags are not malformed.
        assert_eq!(
            Offload::parse(&[0xf8, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Ok(Offload::NONE)
        );
    }

    #[test]
    fn a_checksum_outside_of_the_frame_is_refused() {
        let mut frame = Frame::with_headroom(0, &[0; 20]);
        let partial = |start, offset| Offload {
            checksum: Some(PartialChecksum { start, offset }),
            ..Offload::NONE
        };
        frame.set_offload(partial(2, 16));
        assert_eq!(complete_checksum(&mut frame), Ok(()));
        for (start, offset) in [(3, 16), (20, 0), (u16::MAX, u16::MAX)] {
            frame.set_offload(partial(start, offset));
            let before = frame.clone();
            assert!(complete_checksum(&mut frame).is_err());
            assert_eq!(frame, before);
        }
    }
}
