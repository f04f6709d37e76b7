//! The TCP header (RFC 9293 §3.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Source port          |       Destination port        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Sequence number                        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Acknowledgment number                      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Offset| Rsrvd |     Flags     |             Window            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |            Checksum           |         Urgent pointer        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Options, 0 to 40 octets                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::{net::IpAddr, ops::BitOr};

use super::{
    DecodeError, EmitError,
    checksum::{self, Sum},
    ipv4::Protocol,
    need,
    octets::{read_u8, read_u16, read_u32, tail, write_u8, write_u16, write_u32},
    room,
};

/// Length of a header without options, in octets.
pub const HEADER_BYTES: usize = 20;
/// Offset of the checksum, in octets from the start of the header.
pub const CHECKSUM: usize = 16;

const SOURCE_PORT: usize = 0;
const DESTINATION_PORT: usize = 2;
const SEQUENCE: usize = 4;
const ACKNOWLEDGMENT: usize = 8;
const DATA_OFFSET: usize = 12;
const FLAGS: usize = 13;
const WINDOW: usize = 14;
const URGENT: usize = 18;

const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
const OPTION_MSS: u8 = 2;

/// The control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Returns whether all of `flags` are set.
    #[must_use]
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Returns the flags without those of `flags`.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A view of a segment.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a segment whose header fits the octets; all octets are the segment's.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], or [`DecodeError::Length`] for a header below 20 octets.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        let packet = Self(bytes);
        let found = packet.header_bytes();
        if found < HEADER_BYTES {
            return Err(DecodeError::Length {
                offset: DATA_OFFSET,
                need: HEADER_BYTES,
                found,
            });
        }
        need(packet.0.as_ref(), found)?;
        Ok(packet)
    }

    /// Takes a segment whose header is known to be right.
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

    /// Returns the sequence number of the first octet.
    pub fn sequence(&self) -> u32 {
        read_u32(self.0.as_ref(), SEQUENCE)
    }

    /// Returns the next sequence number that the sender expects.
    pub fn acknowledgment(&self) -> u32 {
        read_u32(self.0.as_ref(), ACKNOWLEDGMENT)
    }

    /// Returns the length of the header with its options, in octets.
    pub fn header_bytes(&self) -> usize {
        usize::from(read_u8(self.0.as_ref(), DATA_OFFSET) >> 4) << 2
    }

    /// Returns the control bits.
    pub fn flags(&self) -> Flags {
        Flags(read_u8(self.0.as_ref(), FLAGS))
    }

    /// Returns how much the sender can take, unscaled.
    pub fn window(&self) -> u16 {
        read_u16(self.0.as_ref(), WINDOW)
    }

    /// Returns the checksum.
    pub fn checksum(&self) -> u16 {
        read_u16(self.0.as_ref(), CHECKSUM)
    }

    /// Returns the urgent pointer.
    pub fn urgent(&self) -> u16 {
        read_u16(self.0.as_ref(), URGENT)
    }

    /// Returns the options, padding included.
    pub fn options(&self) -> &[u8] {
        let range = HEADER_BYTES..self.header_bytes();
        self.0.as_ref().get(range).unwrap_or_default()
    }

    /// Returns the maximum segment size that the sender announces (RFC 9293 §3.2), in octets.
    pub fn mss(&self) -> Option<u16> {
        self.mss_at().map(|at| read_u16(self.0.as_ref(), at))
    }

    /// Returns where the value of the maximum segment size option is.
    fn mss_at(&self) -> Option<usize> {
        let options = self.options();
        let mut at: usize = 0;
        // Ends: each round steps over at least one octet.
        loop {
            let [kind, rest @ ..] = options.get(at..)? else {
                return None;
            };
            let length = match (*kind, rest.first()) {
                (OPTION_END, _) => return None,
                (OPTION_NONE, _) => 1,
                (_, Some(length)) => usize::from(*length).max(2),
                (_, None) => return None,
            };
            let next = at.saturating_add(length);
            if *kind == OPTION_MSS && length == 4 && next <= options.len() {
                return Some(at.saturating_add(HEADER_BYTES).saturating_add(2));
            }
            at = next;
        }
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), self.header_bytes()..)
    }

    /// Returns whether the checksum fits.
    pub fn is_checksum_valid(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.sum(source, destination).finish() == 0
    }

    fn sum(&self, source: IpAddr, destination: IpAddr) -> Sum {
        let segment = self.0.as_ref();
        let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        let mut sum = Sum::pseudo_header(source, destination, Protocol::TCP, length);
        sum.add_bytes(segment);
        sum
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Writes the sequence number of the first octet.
    pub fn set_sequence(&mut self, sequence: u32) {
        write_u32(self.0.as_mut(), SEQUENCE, sequence);
    }

    /// Writes the control bits.
    pub fn set_flags(&mut self, flags: Flags) {
        write_u8(self.0.as_mut(), FLAGS, flags.0);
    }

    /// Writes the maximum segment size, if the segment has the option.
    ///
    /// A complete checksum is updated (RFC 1624): one that was wrong stays wrong. A partial one is not about options.
    pub fn set_mss(&mut self, mss: u16, is_checksum_complete: bool) {
        let Some(at) = self.mss_at() else {
            return;
        };
        let bytes = self.0.as_mut();
        let (mut before, mut after) = (read_u16(bytes, at), mss);
        write_u16(bytes, at, mss);
        if !is_checksum_complete {
            return;
        }
        if !at.is_multiple_of(2) {
            // Its octets belong to two words of the sum, in which their order is the other one (RFC 1071 §2 B).
            (before, after) = (before.swap_bytes(), after.swap_bytes());
        }
        let sum = checksum::update(read_u16(bytes, CHECKSUM), before, after);
        write_u16(bytes, CHECKSUM, sum);
    }

    /// Computes and writes the checksum of the whole segment.
    pub fn fill_checksum(&mut self, source: IpAddr, destination: IpAddr) {
        write_u16(self.0.as_mut(), CHECKSUM, 0);
        let checksum = self.sum(source, destination).finish();
        write_u16(self.0.as_mut(), CHECKSUM, checksum);
    }
}

/// The header as a value, without options. The checksum is the view's affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Sequence number of the first octet.
    pub sequence: u32,
    /// Next sequence number that the sender expects.
    pub acknowledgment: u32,
    /// Control bits.
    pub flags: Flags,
    /// How much the sender can take, unscaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl Repr {
    /// Reads the header; options are skipped.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            source_port: packet.source_port(),
            destination_port: packet.destination_port(),
            sequence: packet.sequence(),
            acknowledgment: packet.acknowledgment(),
            flags: packet.flags(),
            window: packet.window(),
            urgent: packet.urgent(),
        }
    }

    /// Writes the header, without options and with a checksum of zero, to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 20 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        write_u16(header, SOURCE_PORT, self.source_port);
        write_u16(header, DESTINATION_PORT, self.destination_port);
        write_u32(header, SEQUENCE, self.sequence);
        write_u32(header, ACKNOWLEDGMENT, self.acknowledgment);
        write_u8(header, DATA_OFFSET, 0x50);
        write_u8(header, FLAGS, self.flags.0);
        write_u16(header, WINDOW, self.window);
        write_u16(header, CHECKSUM, 0);
        write_u16(header, URGENT, self.urgent);
        Ok(())
    }
}
