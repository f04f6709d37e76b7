//! UDP (RFC 768).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source port          |       Destination port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |             Length            |            Checksum           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::IpAddr;

use super::{
    DecodeError, EmitError,
    checksum::Sum,
    ipv4::Protocol,
    need,
    octets::{read_u16, write_u16},
    room,
};

/// Length of the header, in octets.
pub const HEADER_BYTES: usize = 8;
/// Offset of the checksum, in octets from the start of the header.
pub const CHECKSUM: usize = 6;

const SOURCE_PORT: usize = 0;
const DESTINATION_PORT: usize = 2;
const LENGTH: usize = 4;

/// A view of a datagram.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a datagram whose length fits the octets.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], or [`DecodeError::Length`] for a length below 8.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        let packet = Self(bytes);
        let found = packet.total_bytes();
        if found < HEADER_BYTES {
            return Err(DecodeError::Length {
                offset: LENGTH,
                need: HEADER_BYTES,
                found,
            });
        }
        need(packet.0.as_ref(), found)?;
        Ok(packet)
    }

    /// Takes a datagram whose header is known to be right, though its length may not fit the octets (yet).
    ///
    /// An accessor that would read outside of the octets returns zero or nothing.
    pub const fn new_unchecked(bytes: T) -> Self {
        Self(bytes)
    }

    /// Returns the port of the sender.
    pub fn source_port(&self) -> u16 {
        read_u16(self.0.as_ref(), SOURCE_PORT)
    }

    /// Returns the port of the receiver.
    pub fn destination_port(&self) -> u16 {
        read_u16(self.0.as_ref(), DESTINATION_PORT)
    }

    /// Returns the length of header and payload, in octets.
    pub fn total_bytes(&self) -> usize {
        read_u16(self.0.as_ref(), LENGTH).into()
    }

    /// Returns the checksum, zero if the sender computed none.
    pub fn checksum(&self) -> u16 {
        read_u16(self.0.as_ref(), CHECKSUM)
    }

    /// Returns whether the checksum fits; a zero checksum does over IPv4 only (RFC 8200 §8.1).
    pub fn is_checksum_valid(&self, source: IpAddr, destination: IpAddr) -> bool {
        if self.checksum() == 0 {
            return source.is_ipv4();
        }
        let mut sum = self.pseudo_header(source, destination);
        sum.add_bytes(self.datagram());
        sum.finish() == 0
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        let range = HEADER_BYTES..self.total_bytes();
        self.0.as_ref().get(range).unwrap_or_default()
    }

    fn datagram(&self) -> &[u8] {
        self.0
            .as_ref()
            .get(..self.total_bytes())
            .unwrap_or_default()
    }

    fn pseudo_header(&self, source: IpAddr, destination: IpAddr) -> Sum {
        let length = u32::from(read_u16(self.0.as_ref(), LENGTH));
        Sum::pseudo_header(source, destination, Protocol::UDP, length)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Writes the length of header and payload, in octets.
    pub fn set_total_bytes(&mut self, length: u16) {
        write_u16(self.0.as_mut(), LENGTH, length);
    }

    /// Computes and writes the checksum of header and payload.
    pub fn fill_checksum(&mut self, source: IpAddr, destination: IpAddr) {
        write_u16(self.0.as_mut(), CHECKSUM, 0);
        let mut sum = self.pseudo_header(source, destination);
        sum.add_bytes(self.datagram());
        // Zero means "none"; all ones is its equal in one's complement (RFC 768).
        let checksum = match sum.finish() {
            0 => u16::MAX,
            other => other,
        };
        write_u16(self.0.as_mut(), CHECKSUM, checksum);
    }
}

/// The header as a value. The checksum is the view's affair, because it needs addresses and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Length of the payload, in octets; at most 65,527.
    pub payload_bytes: u16,
}

impl Repr {
    /// Reads the header.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            source_port: packet.source_port(),
            destination_port: packet.destination_port(),
            payload_bytes: u16::try_from(packet.payload().len()).unwrap_or(u16::MAX),
        }
    }

    /// Writes the header, with a checksum of zero, to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 8 octets, or if the datagram would be longer than 65,535; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        let total = self.payload_bytes.checked_add(8).ok_or(EmitError {
            need: usize::from(self.payload_bytes).saturating_add(HEADER_BYTES),
            have: u16::MAX.into(),
        })?;
        write_u16(header, SOURCE_PORT, self.source_port);
        write_u16(header, DESTINATION_PORT, self.destination_port);
        write_u16(header, LENGTH, total);
        write_u16(header, CHECKSUM, 0);
        Ok(())
    }
}
