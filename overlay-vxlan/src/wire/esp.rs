//! ESP (RFC 4303) as the payload of a UDP datagram (RFC 3948), with the layout of AES-GCM (RFC 4106).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |               Security Parameters Index (SPI)                 |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |               Sequence Number, lower 32 bits                  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                                                               |
//! +                     Initialization Vector                     +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                   Payload, encrypted ...                      |
//! +               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |               |     Padding 1, 2, 3 ...       |  Pad Length   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Header  | (the text ends on a multiple of 4 octets)
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |             Integrity Check Value (ICV), 128 bits             |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```
//!
//! A datagram of UDP port 4500 that begins with four zero octets is IKE's (the non-ESP marker, RFC 3948 §2.2); one of a
//! single octet 0xff only keeps a translation of addresses alive (§2.3).

use std::fmt;

use super::{
    DecodeError, EmitError,
    ipv4::Protocol,
    need,
    octets::{read, read_u32, write, write_u32},
    room,
};

/// The UDP port that IANA assigned to ESP in UDP (RFC 3948 §2).
pub const UDP_PORT: u16 = 4500;
/// Length of SPI, sequence number and initialization vector, in octets.
pub const HEADER_BYTES: usize = 16;
/// Length of pad length and next header, in octets.
pub const TRAILER_BYTES: usize = 2;
/// Length of the integrity check value, in octets (RFC 4106 §6 requires that receivers take it).
pub const ICV_BYTES: usize = 16;
/// The text, from the payload to the next header, is a multiple of so many octets (RFC 4303 §2.4).
pub const ALIGNMENT_BYTES: usize = 4;
/// Next header of a packet that says nothing (RFC 4303 §2.6).
pub const NO_NEXT_HEADER: Protocol = Protocol(59);

const SPI: usize = 0;
const SEQUENCE: usize = 4;
const IV: usize = 8;

/// The only octet of a keep-alive.
const KEEP_ALIVE: u8 = 0xff;
/// SPIs that IANA keeps to itself end here; zero never is on the wire (RFC 4303 §2.1).
const SPI_RESERVED_MAX: u32 = 255;

/// Names a security association, to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spi(pub u32);

impl Spi {
    /// Returns whether no association may have it (RFC 4303 §2.1): 0 to 255.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.0 <= SPI_RESERVED_MAX
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// What the payload of a datagram of UDP port 4500 is.
#[derive(Clone, Copy, Debug)]
pub enum Datagram<T> {
    /// An ESP packet.
    Esp(Packet<T>),
    /// Something else behind a non-ESP marker, such as IKE (RFC 3948 §2.2).
    NonEsp,
    /// A keep-alive, to be ignored (RFC 3948 §2.3).
    KeepAlive,
}

impl<T: AsRef<[u8]>> Datagram<T> {
    /// Tells what a payload is.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] of [`Packet::new_checked`] if it is neither of the others.
    pub fn read(bytes: T) -> Result<Self, DecodeError> {
        match bytes.as_ref() {
            [KEEP_ALIVE] => Ok(Self::KeepAlive),
            [0, 0, 0, 0, ..] => Ok(Self::NonEsp),
            _ => Packet::new_checked(bytes).map(Self::Esp),
        }
    }
}

/// A view of a packet whose text may be encrypted.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a packet with a text of at least 4 octets, and a multiple of 4.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] or [`DecodeError::Alignment`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        const LEAST: usize = HEADER_BYTES + ALIGNMENT_BYTES + ICV_BYTES;
        need(bytes.as_ref(), LEAST)?;
        // Header and ICV are multiples of it themselves.
        let found = bytes.as_ref().len();
        if !found.is_multiple_of(ALIGNMENT_BYTES) {
            return Err(DecodeError::Alignment {
                multiple: ALIGNMENT_BYTES,
                found,
            });
        }
        Ok(Self(bytes))
    }

    /// Returns the name of the association.
    pub fn spi(&self) -> Spi {
        Spi(read_u32(self.0.as_ref(), SPI))
    }

    /// Returns the lower half of the sequence number; the upper one is not sent (RFC 4303 §2.2.1).
    pub fn sequence_low(&self) -> u32 {
        read_u32(self.0.as_ref(), SEQUENCE)
    }

    /// Returns the initialization vector.
    pub fn iv(&self) -> [u8; 8] {
        read(self.0.as_ref(), IV)
    }
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// The name of the association.
    pub spi: Spi,
    /// The lower half of the sequence number.
    pub sequence_low: u32,
    /// The initialization vector.
    pub iv: [u8; 8],
}

impl Repr {
    /// Reads the header.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            spi: packet.spi(),
            sequence_low: packet.sequence_low(),
            iv: packet.iv(),
        }
    }

    /// Writes the header to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 16 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        write_u32(header, SPI, self.spi.0);
        write_u32(header, SEQUENCE, self.sequence_low);
        write(header, IV, self.iv);
        Ok(())
    }
}

/// What follows the payload: padding, its length and the next header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trailer {
    /// Length of the padding, in octets.
    pub padding_bytes: u8,
    /// What the payload is.
    pub next_header: Protocol,
}

impl Trailer {
    /// Makes the shortest one behind a payload of `payload_bytes` octets: 0 to 3 octets of padding.
    #[must_use]
    pub const fn behind(payload_bytes: usize, next_header: Protocol) -> Self {
        let padding_bytes = match payload_bytes % ALIGNMENT_BYTES {
            0 => 2,
            1 => 1,
            2 => 0,
            _ => 3,
        };
        Self {
            padding_bytes,
            next_header,
        }
    }

    /// Reads the end of a decrypted text, and checks the padding (RFC 4303 §2.4).
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], or [`DecodeError::Field`] for an octet of padding.
    pub fn parse(text: &[u8]) -> Result<Self, DecodeError> {
        let have = text.len();
        let truncated = |need| DecodeError::Truncated { need, have };
        let Some((front, [padding_bytes, next_header])) = text.split_last_chunk() else {
            return Err(truncated(TRAILER_BYTES));
        };
        let need = usize::from(*padding_bytes).saturating_add(TRAILER_BYTES);
        let begin = have.checked_sub(need).ok_or(truncated(need))?;
        let padding = front.get(begin..).unwrap_or_default();
        for ((offset, found), expected) in (begin..).zip(padding).zip(1_u8..=u8::MAX) {
            if *found != expected {
                return Err(DecodeError::Field {
                    offset,
                    expected: expected.into(),
                    found: (*found).into(),
                });
            }
        }
        Ok(Self {
            padding_bytes: *padding_bytes,
            next_header: Protocol(*next_header),
        })
    }

    /// Returns how long it is, padding included, in octets.
    #[must_use]
    pub fn bytes(&self) -> usize {
        usize::from(self.padding_bytes).saturating_add(TRAILER_BYTES)
    }

    /// Writes it, from the padding on, to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below [`bytes`](Self::bytes); nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let trailer = room(bytes, self.bytes())?;
        let padding = usize::from(self.padding_bytes);
        for (octet, number) in trailer.iter_mut().zip(1_u8..=u8::MAX).take(padding) {
            *octet = number;
        }
        write(trailer, padding, [self.padding_bytes, self.next_header.0]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> [u8; 40] {
        let mut bytes = [0xaa; 40];
        let repr = Repr {
            spi: Spi(0x0102_0304),
            sequence_low: 0x0506_0708,
            iv: [9, 10, 11, 12, 13, 14, 15, 16],
        };
        repr.emit(&mut bytes).unwrap();
        let Datagram::Esp(packet) = Datagram::read(&bytes[..]).unwrap() else {
            panic!("an ESP packet");
        };
        assert_eq!(Repr::parse(&packet), repr);
        bytes
    }

    #[test]
    fn the_header_is_where_the_rfc_has_it() {
        let bytes = packet();
        assert_eq!(
            bytes[..16],
            [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
        );
        assert_eq!(bytes[16..], [0xaa; 24]);
        let room = Repr::parse(&Packet::new_checked(bytes).unwrap()).emit(&mut [0; 15]);
        assert_eq!(room, Err(EmitError { need: 16, have: 15 }));
    }

    #[test]
    fn only_whole_words_behind_a_whole_header_are_a_packet() {
        let bytes = packet();
        for length in 0..=40 {
            let read = Packet::new_checked(&bytes[..length]);
            match length {
                36 | 40 => assert!(read.is_ok()),
                37..40 => assert_eq!(
                    read.unwrap_err(),
                    DecodeError::Alignment {
                        multiple: 4,
                        found: length
                    }
                ),
                have => assert_eq!(read.unwrap_err(), DecodeError::Truncated { need: 36, have }),
            }
        }
    }

    #[test]
    fn what_is_no_esp_is_told_apart() {
        let read = |bytes: &[u8]| Datagram::read(bytes.to_vec());
        assert!(matches!(read(&[0xff]), Ok(Datagram::KeepAlive)));
        assert!(matches!(read(&[0, 0, 0, 0]), Ok(Datagram::NonEsp)));
        assert!(matches!(read(&[0, 0, 0, 0, 1, 2]), Ok(Datagram::NonEsp)));
        for short in [&[][..], &[0xfe], &[0xff, 0xff], &[0, 0, 0]] {
            assert!(matches!(read(short), Err(DecodeError::Truncated { .. })));
        }
        // The least SPI on the wire that is not the marker.
        let mut bytes = packet();
        bytes[..4].copy_from_slice(&[0, 0, 0, 1]);
        let Ok(Datagram::Esp(packet)) = Datagram::read(bytes) else {
            panic!("an ESP packet");
        };
        assert!(packet.spi().is_reserved());
        assert!(Spi(255).is_reserved() && !Spi(256).is_reserved());
    }

    #[test]
    fn the_trailer_ends_on_a_multiple_of_four_octets() {
        for payload in 0..9 {
            let trailer = Trailer::behind(payload, Protocol::UDP);
            let mut text = vec![0xaa; payload + trailer.bytes()];
            trailer.emit(&mut text[payload..]).unwrap();
            assert_eq!(text.len() % 4, 0);
            assert!(trailer.padding_bytes < 4);
            let tail: &[u8] = match payload % 4 {
                0 => &[1, 2, 2, 17],
                1 => &[1, 1, 17],
                2 => &[0, 17],
                _ => &[1, 2, 3, 3, 17],
            };
            assert_eq!(text[payload..], *tail);
            assert_eq!(Trailer::parse(&text), Ok(trailer));
            let have = trailer.bytes() - 1;
            let need = trailer.bytes();
            assert_eq!(
                trailer.emit(&mut vec![0; have]),
                Err(EmitError { need, have })
            );
        }
    }

    #[test]
    fn padding_that_lies_is_refused() {
        let truncated = |need, have| Err(DecodeError::Truncated { need, have });
        assert_eq!(Trailer::parse(&[]), truncated(2, 0));
        assert_eq!(Trailer::parse(&[17]), truncated(2, 1));
        assert_eq!(Trailer::parse(&[7, 2, 17]), truncated(4, 3));
        for (at, found) in [(1, 0), (2, 1), (3, 4)] {
            let mut text = [0xaa, 1, 2, 3, 3, 17];
            text[at] = found;
            assert_eq!(
                Trailer::parse(&text),
                Err(DecodeError::Field {
                    offset: at,
                    expected: u32::try_from(at).unwrap(),
                    found: found.into()
                })
            );
        }
        // As long as it can be (RFC 4303 §2.4).
        let text: Vec<u8> = (1..=255).chain([255, 59]).collect();
        let trailer = Trailer::parse(&text).unwrap();
        assert_eq!(
            (trailer.padding_bytes, trailer.next_header),
            (255, NO_NEXT_HEADER)
        );
    }
}
