//! The sending end of an association.

use overlay_core::aead::{AeadError, AeadProvider};
use thiserror::Error;

use super::{
    DATAGRAM_BYTES_MAX, FRONT_BYTES,
    cipher::{Cipher, Fingerprint},
    keys::SaKeys,
    overhead_bytes,
};
use crate::{
    frame::Frame,
    stats::Traffic,
    wire::{
        esp::{HEADER_BYTES, ICV_BYTES, Repr, Spi, Trailer},
        ipv4::Protocol,
        udp, vxlan,
    },
};

/// An association that frames are sent with.
#[derive(Debug)]
pub struct Outbound {
    spi: Spi,
    cipher: Cipher,
    fingerprint: Fingerprint,
    /// That of the last packet.
    sequence: u64,
    sealed: Traffic,
}

impl Outbound {
    /// Makes an association that nothing was sent with.
    ///
    /// # Errors
    ///
    /// [`AeadError`] of the provider.
    pub fn new(keys: &SaKeys, provider: &dyn AeadProvider) -> Result<Self, AeadError> {
        Self::resume(keys, provider, 0)
    }

    /// Makes an association whose last packet had this sequence number: the next one has the number after it.
    ///
    /// # Errors
    ///
    /// [`AeadError`] of the provider.
    pub fn resume(
        keys: &SaKeys,
        provider: &dyn AeadProvider,
        sequence: u64,
    ) -> Result<Self, AeadError> {
        let cipher = Cipher::new(keys, provider)?;
        Ok(Self {
            spi: keys.spi(),
            fingerprint: cipher.fingerprint()?,
            cipher,
            sequence,
            sealed: Traffic::default(),
        })
    }

    /// Makes a VXLAN header and an inner frame the payload of a datagram to UDP port 4500, in place.
    ///
    /// `source_port` is that of the [`Outer`](crate::Outer), `data_port` that of VXLAN at the peer: those of the UDP header
    /// within, which has no checksum. [`FRONT_BYTES`] are pushed and up to [`TAIL_BYTES_MAX`](super::TAIL_BYTES_MAX)
    /// appended; where the frame's buffer has room for them nothing is allocated.
    ///
    /// # Errors
    ///
    /// [`SealError`]; the frame is as it was, and no sequence number is used up.
    pub fn seal(
        &mut self,
        source_port: u16,
        data_port: u16,
        frame: &mut Frame,
    ) -> Result<(), SealError> {
        let (plain_bytes, headroom) = (frame.len(), frame.headroom());
        let sequence = self.sequence.checked_add(1).ok_or(SealError::Exhausted)?;
        let around = self.prepare(sequence, (source_port, data_port), frame)?;
        // Written where they belong: what is built elsewhere and copied has to be waited for.
        let sealed = around.write(frame).and_then(|()| {
            let rest = frame.bytes_mut().get_mut(HEADER_BYTES..)?;
            let (text, icv) = rest.split_last_chunk_mut()?;
            *icv = self.cipher.seal(self.spi, sequence, text).ok()?;
            Some(())
        });
        if sealed.is_none() {
            let pushed = headroom.saturating_sub(frame.headroom());
            let pulled = frame.pull_header(pushed);
            debug_assert_eq!(pulled, Some(()), "it was just pushed");
            frame.truncate(plain_bytes);
            return Err(SealError::Length { found: plain_bytes });
        }
        self.sequence = sequence;
        self.sealed
            .add(plain_bytes.saturating_sub(vxlan::HEADER_BYTES));
        Ok(())
    }

    /// Returns the name that the peer knows the association by.
    #[must_use]
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// Returns the sequence number of the last packet; none was sent while it is zero.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the frames that were sealed.
    #[must_use]
    pub const fn sealed(&self) -> Traffic {
        self.sealed
    }

    pub(super) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Takes `sequence` for that of the last packet.
    pub(super) const fn go_on_after(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Takes another name; sequence numbers go on.
    pub(super) const fn rename(&mut self, spi: Spi) {
        self.spi = spi;
    }

    /// Checks that a frame can be sealed, and makes what goes in front of it and behind.
    fn prepare(
        &self,
        sequence: u64,
        (source_port, destination_port): (u16, u16),
        frame: &Frame,
    ) -> Result<Around, SealError> {
        let (found, have) = (frame.len(), frame.headroom());
        let offload = frame.offload();
        if offload.checksum.is_some() || offload.segment.is_some() {
            return Err(SealError::Unfinished);
        }
        if have < FRONT_BYTES {
            let need = FRONT_BYTES;
            return Err(SealError::Headroom { need, have });
        }
        let payload_bytes = u16::try_from(found).map_err(|_| SealError::Length { found })?;
        if found.saturating_add(overhead_bytes(found)) > DATAGRAM_BYTES_MAX {
            return Err(SealError::Length { found });
        }
        let iv = sequence.to_be_bytes();
        let [.., a, b, c, d] = iv;
        Ok(Around {
            header: Repr {
                spi: self.spi,
                sequence_low: u32::from_be_bytes([a, b, c, d]),
                iv,
            },
            datagram: udp::Repr {
                source_port,
                destination_port,
                payload_bytes,
            },
            trailer: Trailer::behind(udp::HEADER_BYTES.saturating_add(found), Protocol::UDP),
        })
    }
}

/// What goes around VXLAN header and inner frame.
struct Around {
    header: Repr,
    datagram: udp::Repr,
    trailer: Trailer,
}

impl Around {
    /// Writes it around a frame, with room for the ICV.
    #[inline]
    fn write(&self, frame: &mut Frame) -> Option<()> {
        let tail_bytes = self.trailer.bytes().saturating_add(ICV_BYTES);
        self.trailer.emit(frame.push_trailer(tail_bytes)).ok()?;
        let front = frame.push_header(FRONT_BYTES)?;
        let (header, datagram) = front.split_at_mut_checked(HEADER_BYTES)?;
        self.header.emit(header).ok()?;
        self.datagram.emit(datagram).ok()
    }
}

/// A frame was not sealed; it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no association with the VTEP.
    #[error("expected an association with the VTEP, found none")]
    NoAssociation,
    /// All sequence numbers are used up: other keys are needed.
    #[error("expected a sequence number below 2^64")]
    Exhausted,
    /// The frame has too little room in front.
    #[error("expected a headroom of {need} octets, found {have}")]
    Headroom {
        /// Octets that would be needed.
        need: usize,
        /// Octets that are there.
        have: usize,
    },
    /// The datagram would be longer than one can be.
    #[error("expected a frame that fits a datagram, found {found} octets")]
    Length {
        /// Octets of VXLAN header and inner frame.
        found: usize,
    },
    /// Its checksum is to be completed yet, or it is a super-frame: no device could do that once it is sealed.
    #[error("expected a whole frame, found one with work left to a device")]
    Unfinished,
}
