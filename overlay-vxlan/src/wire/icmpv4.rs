//! ICMP for IPv4 (RFC 792).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |            Checksum           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      Identifier / unused      |  Sequence / next-hop MTU      |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |   Payload, or as much of the packet that caused the error ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::{
    DecodeError, EmitError, checksum, need,
    octets::{read, read_u8, read_u16, tail, write, write_u8, write_u16},
    room,
};

/// Length of the header, in octets.
pub const HEADER_BYTES: usize = 8;

const TYPE: usize = 0;
const CODE: usize = 1;
const CHECKSUM: usize = 2;
const REST: usize = 4;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const FRAGMENTATION_NEEDED: u8 = 4;

/// A view of a message.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a message of at least 8 octets; all octets are the message's.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        Ok(Self(bytes))
    }

    /// Returns the type.
    pub fn kind(&self) -> u8 {
        read_u8(self.0.as_ref(), TYPE)
    }

    /// Returns the code.
    pub fn code(&self) -> u8 {
        read_u8(self.0.as_ref(), CODE)
    }

    /// Returns whether the message reports an error, to which no error may be sent (RFC 1122 §3.2.2).
    pub fn is_error(&self) -> bool {
        matches!(self.kind(), 3 | 4 | 5 | 11 | 12)
    }

    /// Returns whether the checksum fits.
    pub fn is_checksum_valid(&self) -> bool {
        checksum::of(self.0.as_ref()) == 0
    }

    /// Returns what follows the header.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), HEADER_BYTES..)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Computes and writes the checksum of the whole message.
    pub fn fill_checksum(&mut self) {
        write_u16(self.0.as_mut(), CHECKSUM, 0);
        let sum = checksum::of(self.0.as_ref());
        write_u16(self.0.as_mut(), CHECKSUM, sum);
    }
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repr {
    /// Asks for an echo; the payload comes back.
    EchoRequest {
        /// Tells the askers of a host apart.
        identifier: u16,
        /// Counts the requests of one asker.
        sequence: u16,
    },
    /// The echo.
    EchoReply {
        /// As in the request.
        identifier: u16,
        /// As in the request.
        sequence: u16,
    },
    /// The packet is too big and must not be fragmented (type 3, code 4; RFC 1191 §4).
    FragmentationNeeded {
        /// MTU of the next hop, in octets.
        mtu: u16,
    },
    /// Any other message.
    Other {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// The rest of the header.
        rest: [u8; 4],
    },
}

impl Repr {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Checksum`].
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Result<Self, DecodeError> {
        if !packet.is_checksum_valid() {
            return Err(DecodeError::Checksum);
        }
        let bytes = packet.0.as_ref();
        let rest = read(bytes, REST);
        let (first, second) = (read_u16(bytes, REST), read_u16(bytes, 6));
        Ok(match (packet.kind(), packet.code()) {
            (ECHO_REQUEST, 0) => Self::EchoRequest {
                identifier: first,
                sequence: second,
            },
            (ECHO_REPLY, 0) => Self::EchoReply {
                identifier: first,
                sequence: second,
            },
            (UNREACHABLE, FRAGMENTATION_NEEDED) if first == 0 => {
                Self::FragmentationNeeded { mtu: second }
            }
            (kind, code) => Self::Other { kind, code, rest },
        })
    }

    /// Writes the header to the start of `bytes`, whose rest is the payload, and the checksum over all of it.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 8 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        let pair = |first: u16, second: u16| {
            let ([a, b], [c, d]) = (first.to_be_bytes(), second.to_be_bytes());
            [a, b, c, d]
        };
        let (kind, code, rest) = match *self {
            Self::EchoRequest {
                identifier,
                sequence,
            } => (ECHO_REQUEST, 0, pair(identifier, sequence)),
            Self::EchoReply {
                identifier,
                sequence,
            } => (ECHO_REPLY, 0, pair(identifier, sequence)),
            Self::FragmentationNeeded { mtu } => (UNREACHABLE, FRAGMENTATION_NEEDED, pair(0, mtu)),
            Self::Other { kind, code, rest } => (kind, code, rest),
        };
        write_u8(header, TYPE, kind);
        write_u8(header, CODE, code);
        write(header, REST, rest);
        Packet(bytes).fill_checksum();
        Ok(())
    }
}
