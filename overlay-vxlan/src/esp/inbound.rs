//! The receiving end of an association.

use overlay_core::aead::{AeadError, AeadProvider};
use thiserror::Error;

use super::{
    FRONT_BYTES, WINDOW_BLOCKS,
    cipher::{Cipher, Fingerprint},
    keys::SaKeys,
    stats::OpenStats,
    window::{Refused, Window},
};
use crate::{
    frame::Frame,
    wire::{
        DecodeError,
        esp::{Datagram, HEADER_BYTES, ICV_BYTES, NO_NEXT_HEADER, Repr, Spi, Trailer},
        ipv4::Protocol,
        udp,
    },
};

/// An association that frames come with.
#[derive(Debug)]
pub struct Inbound {
    spi: Spi,
    cipher: Cipher,
    fingerprint: Fingerprint,
    window: Window<WINDOW_BLOCKS>,
    stats: OpenStats,
}

/// What a packet said beside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Source port of the UDP header within.
    pub source_port: u16,
    /// Sequence number of the packet.
    pub sequence: u64,
}

impl Inbound {
    /// Makes an association that nothing came with.
    ///
    /// # Errors
    ///
    /// [`AeadError`] of the provider.
    pub fn new(keys: &SaKeys, provider: &dyn AeadProvider) -> Result<Self, AeadError> {
        Self::resume(keys, provider, 0)
    }

    /// Makes an association that takes no packet up to this sequence number.
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
            window: Window::behind(sequence),
            stats: OpenStats::default(),
        })
    }

    /// Checks and decrypts the payload of a datagram of UDP port 4500, in place: VXLAN header and inner frame are left.
    ///
    /// The sequence number is looked at first, which costs little, and noted once the packet was found authentic, whatever
    /// is in it. `data_port` is the port of VXLAN here. The UDP checksum within is not looked at: the ICV says more.
    ///
    /// # Errors
    ///
    /// [`OpenError`], counted. The window is as it was, unless the packet is authentic but not what is expected; the frame is
    /// as long as it was, but what it holds is unspecified.
    pub fn open(&mut self, data_port: u16, frame: &mut Frame) -> Result<Opened, OpenError> {
        match header(frame) {
            Ok(header) => self.open_behind(&header, data_port, frame),
            Err(error) => {
                self.stats.count(&Err(error), frame);
                Err(error)
            }
        }
    }

    /// Does that for a packet whose header was read.
    pub(super) fn open_behind(
        &mut self,
        header: &Repr,
        data_port: u16,
        frame: &mut Frame,
    ) -> Result<Opened, OpenError> {
        let opened = self.open_with(header, data_port, frame);
        self.stats.count(&opened, frame);
        opened
    }

    /// Returns the name of the association.
    #[must_use]
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// Returns the highest sequence number of an authentic packet; there was none while it is zero.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.window.highest()
    }

    /// Returns what was counted.
    #[must_use]
    pub const fn stats(&self) -> &OpenStats {
        &self.stats
    }

    pub(super) const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Takes all numbers up to `sequence` for seen.
    pub(super) const fn go_on_after(&mut self, sequence: u64) {
        self.window = Window::behind(sequence);
    }

    /// Takes another name; the window stays.
    pub(super) const fn rename(&mut self, spi: Spi) {
        self.spi = spi;
    }

    fn open_with(
        &mut self,
        header: &Repr,
        data_port: u16,
        frame: &mut Frame,
    ) -> Result<Opened, OpenError> {
        let Repr {
            spi,
            sequence_low,
            iv,
        } = *header;
        if spi != self.spi {
            return Err(OpenError::UnknownSpi { spi });
        }
        let sequence = self.window.complete(sequence_low);
        let sequence = sequence.ok_or(OpenError::TooOld { sequence_low })?;
        self.window
            .check(sequence)
            .map_err(|refused| match refused {
                Refused::TooOld => OpenError::TooOld { sequence_low },
                Refused::Replayed => OpenError::Replayed { sequence },
            })?;
        let rest = frame.bytes_mut().get_mut(HEADER_BYTES..);
        let rest = rest.unwrap_or_default();
        self.cipher
            .open(spi, sequence, iv, rest)
            .map_err(|_| OpenError::Unauthentic)?;
        self.window.accept(sequence);
        let text_bytes = rest.len().saturating_sub(ICV_BYTES);
        let text = rest.get(..text_bytes).unwrap_or_default();
        let (source_port, payload_bytes) = read_text(text, data_port)?;
        let pulled = frame.pull_header(FRONT_BYTES);
        debug_assert_eq!(pulled, Some(()), "a datagram was read there");
        frame.truncate(payload_bytes);
        Ok(Opened {
            source_port,
            sequence,
        })
    }
}

/// Reads the header of a packet; what is none of ESP is an error here.
pub(super) fn header(frame: &Frame) -> Result<Repr, OpenError> {
    match Datagram::read(frame.bytes())? {
        Datagram::Esp(packet) => Ok(Repr::parse(&packet)),
        Datagram::NonEsp => Err(OpenError::NonEsp),
        Datagram::KeepAlive => Err(OpenError::KeepAlive),
    }
}

/// Reads what an authentic packet holds: source port and length of a datagram's payload.
fn read_text(text: &[u8], data_port: u16) -> Result<(u16, usize), OpenError> {
    let trailer = Trailer::parse(text).map_err(OpenError::Content)?;
    match trailer.next_header {
        Protocol::UDP => {}
        NO_NEXT_HEADER => return Err(OpenError::Dummy),
        found => return Err(OpenError::NextHeader { found }),
    }
    let end = text.len().saturating_sub(trailer.bytes());
    // What the datagram does not claim is padding as well (RFC 4303 §2.7).
    let datagram = udp::Packet::new_checked(text.get(..end).unwrap_or_default());
    let datagram = datagram.map_err(OpenError::Content)?;
    let found = datagram.destination_port();
    if found != data_port {
        return Err(OpenError::Port {
            expected: data_port,
            found,
        });
    }
    Ok((datagram.source_port(), datagram.payload().len()))
}

/// A datagram of UDP port 4500 holds no frame of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A keep-alive, to be ignored.
    #[error("expected an ESP packet, found a keep-alive")]
    KeepAlive,
    /// Something else than ESP, such as IKE.
    #[error("expected an ESP packet, found a non-ESP marker")]
    NonEsp,
    /// It is cut short or not aligned.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// There is no such association with whoever sent it.
    #[error("expected the SPI of an association with the sender, found {spi}")]
    UnknownSpi {
        /// The SPI.
        spi: Spi,
    },
    /// The sequence number is below the window, and there is none above it with that lower half.
    #[error("expected a sequence number within the window or above it, found {sequence_low}")]
    TooOld {
        /// Its lower half.
        sequence_low: u32,
    },
    /// A packet with this sequence number came before.
    #[error("expected a new packet, found sequence number {sequence} again")]
    Replayed {
        /// The sequence number.
        sequence: u64,
    },
    /// The ICV does not fit: forged, damaged, of another key, or so late that it is taken for 2^32 packets later.
    #[error("expected an ICV that fits the packet")]
    Unauthentic,
    /// Authentic, and made to be dropped (RFC 4303 §2.6).
    #[error("expected a frame, found a dummy packet")]
    Dummy,
    /// Authentic, but its padding or the datagram within is malformed.
    #[error("expected a UDP datagram in an authentic packet: {0}")]
    Content(#[source] DecodeError),
    /// Authentic, but no UDP.
    #[error("expected UDP in an authentic packet, found protocol {}", found.0)]
    NextHeader {
        /// The next header.
        found: Protocol,
    },
    /// Authentic, but for another port.
    #[error("expected UDP port {expected} in an authentic packet, found {found}")]
    Port {
        /// The port of VXLAN here.
        expected: u16,
        /// The destination port.
        found: u16,
    },
}
