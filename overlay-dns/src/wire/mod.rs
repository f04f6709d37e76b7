//! Messages as octets (RFC 1035 §4): a checked view for reading, a writer with compression for emitting.
//!
//! ```text
//!  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//! +-----------------------------------------------+
//! |                      ID                       |  0
//! |QR|   opcode  |AA|TC|RD|RA| Z|AD|CD|   rcode   |  2
//! |                    QDCOUNT                    |  4
//! |                    ANCOUNT                    |  6
//! |                    NSCOUNT                    |  8
//! |                    ARCOUNT                    | 10
//! +-----------------------------------------------+
//! ```
//!
//! Nothing in here trusts a length or a count: every read is checked, every chain of compression pointers only goes
//! backwards and is bounded, and nothing is allocated by a number that came from outside.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod code;
mod edns;
mod header;
mod message;
mod name;
mod rdata;
mod writer;

pub use code::{Class, Opcode, Rcode, RecordType};
pub use edns::{Edns, OPT_BYTES};
pub use header::{HEADER_BYTES, Header};
pub use message::{Message, Question, Record, Section};
pub use name::{Name, ParseNameError};
pub use rdata::RdataError;
pub use writer::{Compressor, Full, Mark, Owner, Writer};

use thiserror::Error;

/// The octets are no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Something begins that does not end within the message.
    #[error("expected {need} more octets at {at}, found {have}")]
    Truncated {
        /// Where it begins.
        at: usize,
        /// How many octets it needs.
        need: usize,
        /// How many are left.
        have: usize,
    },
    /// A compression pointer does not point backwards to a name, or there are too many of them.
    #[error("the compression pointer at {at} does not lead back to a name")]
    Pointer {
        /// Where the pointer is.
        at: usize,
    },
    /// The upper two bits of a label's length are neither 00 nor 11.
    #[error("the label at {at} has reserved bits")]
    Label {
        /// Where the label is.
        at: usize,
    },
    /// A name is longer than 255 octets.
    #[error("the name at {at} is longer than 255 octets")]
    NameLength {
        /// Where the name begins.
        at: usize,
    },
    /// There is more than one OPT record, or one outside the additional section, or not owned by the root.
    #[error("the OPT record at {at} is misplaced or doubled")]
    Opt {
        /// Where the record is.
        at: usize,
    },
}

/// Reads a big-endian 16-bit number.
fn read_u16(bytes: &[u8], at: usize) -> Result<u16, DecodeError> {
    let octets = bytes.get(at..).and_then(|rest| rest.first_chunk::<2>());
    octets
        .map(|octets| u16::from_be_bytes(*octets))
        .ok_or_else(|| truncated(bytes, at, 2))
}

fn truncated(bytes: &[u8], at: usize, need: usize) -> DecodeError {
    DecodeError::Truncated {
        at,
        need,
        have: bytes.len().saturating_sub(at),
    }
}

#[cfg(test)]
mod tests;
