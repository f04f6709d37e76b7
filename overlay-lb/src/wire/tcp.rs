//! What a balancer reads of a TCP segment (RFC 9293 §3.1).

use super::{
    TCP_BYTES,
    octets::{read_u8, read_u32},
};
use crate::TcpFlags;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) flags: TcpFlags,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// How far the segment moves the sequence on: its payload, and one each for SYN and FIN.
    pub(crate) length: u32,
}

impl Segment {
    /// Reads the segment from `at` to `end`; `None` if its header is not within.
    #[inline(always)]
    pub(crate) fn parse(bytes: &[u8], at: usize, end: usize) -> Option<Self> {
        let segment = bytes.get(at..end)?;
        let header = usize::from(read_u8(segment, 12)? >> 4).saturating_mul(4);
        if header < TCP_BYTES {
            return None;
        }
        let payload = u32::try_from(segment.len().checked_sub(header)?).ok()?;
        let flags = TcpFlags::from_bits(read_u8(segment, 13)?);
        let controls = [TcpFlags::SYN, TcpFlags::FIN].map(|flag| u32::from(flags.contains(flag)));
        Some(Self {
            flags,
            sequence: read_u32(segment, 4)?,
            acknowledgement: read_u32(segment, 8)?,
            length: controls.into_iter().fold(payload, u32::saturating_add),
        })
    }

    /// The number of the octet that the sender will send next.
    pub(crate) fn next(&self) -> u32 {
        self.sequence.wrapping_add(self.length)
    }
}
