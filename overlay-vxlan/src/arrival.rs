//! What one read of a UDP socket with generic receive offload (`UDP_GRO`) returns, taken apart again.

use crate::{
    headers::{Headers, Payload},
    outer::Received,
    wire::vxlan,
};

/// Datagrams of one sender, each of the same length but the last; or one datagram with a super-frame in it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// What their outer headers said.
    pub received: Received,
    octets: &'a [u8],
    datagram_bytes: usize,
}

impl<'a> Arrival<'a> {
    /// Takes what was read, and what the system said was the length of each datagram; of a single one that is its own.
    #[must_use]
    pub const fn new(received: Received, octets: &'a [u8], datagram_bytes: usize) -> Self {
        Self {
            received,
            octets,
            datagram_bytes,
        }
    }

    /// Walks over the datagrams.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        let size = match self.segment_bytes() {
            Some(_) => self.octets.len(),
            None => self.datagram_bytes.max(1),
        };
        self.octets.chunks(size)
    }

    /// Returns the payload of a segment, in octets, if this is a super-frame: what [`Coalescer::push`](crate::Coalescer::push)
    /// has to know of it.
    ///
    /// A tunnel of the same machine hands one over as it is, and the system then names that length in place of a datagram's.
    #[must_use]
    pub fn segment_bytes(&self) -> Option<u16> {
        let whole = (1..self.octets.len()).contains(&self.datagram_bytes) && is_frame(self.octets);
        let size = u16::try_from(self.datagram_bytes).ok()?;
        whole.then_some(size)
    }
}

/// Whether octets behind a VXLAN header are one frame, by the length that its IP packet says.
fn is_frame(octets: &[u8]) -> bool {
    let inner = octets.get(vxlan::HEADER_BYTES..).unwrap_or_default();
    match Headers::read(inner).map(|headers| headers.payload) {
        Ok(Payload::Ip(ip)) => ip.end == inner.len(),
        Ok(Payload::Arp(_) | Payload::Other) | Err(_) => false,
    }
}
