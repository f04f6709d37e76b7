//! The virtio header before each frame: what its sender left for the device to do (virtio 1.2 §5.1.6).
//!
//! ```text
//! 0        1          2            4           6             8              10
//! +--------+----------+------------+-----------+-------------+--------------+
//! | flags  | gso type | header len | gso size  | csum start  | csum offset  |
//! +--------+----------+------------+-----------+-------------+--------------+
//! ```
//! Numbers are in the machine's own octet order.

/// Octets of the header.
pub(crate) const HEADER_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const NO_SEGMENTS: u8 = 0;

/// What is left to do for a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// The checksum that is not complete yet.
    pub checksum: Option<PartialChecksum>,
}

/// A checksum whose field holds the sum of the pseudo-header only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where the summed octets begin, counted from the start of the frame; they go on to its end.
    pub start: u16,
    /// Where the field lies, counted from `start`.
    pub offset: u16,
}

/// Reads a header; `None` if it speaks of a super-frame, which is never asked for.
pub(crate) fn parse(header: &[u8; HEADER_BYTES]) -> Option<Offload> {
    let [flags, segments, _, _, _, _, s0, s1, o0, o1] = *header;
    if segments != NO_SEGMENTS {
        return None;
    }
    let checksum = (flags & NEEDS_CHECKSUM != 0).then_some(PartialChecksum {
        start: u16::from_ne_bytes([s0, s1]),
        offset: u16::from_ne_bytes([o0, o1]),
    });
    Some(Offload { checksum })
}

/// Writes a header.
pub(crate) fn emit(offload: Offload) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    if let Some(PartialChecksum { start, offset }) = offload.checksum {
        let ([s0, s1], [o0, o1]) = (start.to_ne_bytes(), offset.to_ne_bytes());
        header = [NEEDS_CHECKSUM, NO_SEGMENTS, 0, 0, 0, 0, s0, s1, o0, o1];
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips() {
        for checksum in [
            None,
            Some(PartialChecksum {
                start: 34,
                offset: 16,
            }),
            Some(PartialChecksum {
                start: 0xffff,
                offset: 0xffff,
            }),
        ] {
            let offload = Offload { checksum };
            assert_eq!(parse(&emit(offload)), Some(offload));
        }
    }

    #[test]
    fn a_super_frame_is_refused_and_unknown_flags_are_ignored() {
        assert_eq!(parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(
            parse(&[2, 0, 0, 0, 0, 0, 1, 1, 1, 1]),
            Some(Offload::default())
        );
    }
}
