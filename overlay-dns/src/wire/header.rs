//! The first twelve octets of a message (RFC 1035 §4.1.1, RFC 4035 §3.2 for AD and CD).

use super::{DecodeError, Opcode, Rcode, read_u16, truncated};

/// How many octets a header has.
pub const HEADER_BYTES: usize = 12;

const QR: u16 = 1 << 15;
const AA: u16 = 1 << 10;
const TC: u16 = 1 << 9;
const RD: u16 = 1 << 8;
const RA: u16 = 1 << 7;
const AD: u16 = 1 << 5;
const CD: u16 = 1 << 4;

/// The header of a message; its counts belong to the sections. Bit Z is ignored when read and zero when written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Names the query that a response answers.
    pub id: u16,
    /// QR: this is a response.
    pub response: bool,
    /// What is asked; 4 bits.
    pub opcode: Opcode,
    /// AA: the responder owns the data.
    pub authoritative: bool,
    /// TC: something required was left out.
    pub truncated: bool,
    /// RD: the client wants the server to ask others.
    pub recursion_desired: bool,
    /// RA: the server asks others.
    pub recursion_available: bool,
    /// AD: the responder validated the data.
    pub authentic_data: bool,
    /// CD: the client validates for itself.
    pub checking_disabled: bool,
    /// The lower 4 bits of the response code.
    pub rcode: Rcode,
}

impl Header {
    /// Reads a header from the first 12 octets.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if there are fewer.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() < HEADER_BYTES {
            return Err(truncated(bytes, 0, HEADER_BYTES));
        }
        let (id, flags) = (read_u16(bytes, 0)?, read_u16(bytes, 2)?);
        let [high, _] = flags.to_be_bytes();
        Ok(Self {
            id,
            response: flags & QR != 0,
            opcode: Opcode(high >> 3 & 0x0f),
            authoritative: flags & AA != 0,
            truncated: flags & TC != 0,
            recursion_desired: flags & RD != 0,
            recursion_available: flags & RA != 0,
            authentic_data: flags & AD != 0,
            checking_disabled: flags & CD != 0,
            rcode: Rcode(flags & 0x0f),
        })
    }

    /// Makes the header of a query.
    pub const fn query(id: u16) -> Self {
        Self {
            id,
            response: false,
            opcode: Opcode::QUERY,
            authoritative: false,
            truncated: false,
            recursion_desired: true,
            recursion_available: false,
            authentic_data: false,
            checking_disabled: false,
            rcode: Rcode::NOERROR,
        }
    }

    /// Makes the header of a response to `self`: id, opcode, RD and CD are kept.
    #[must_use]
    #[inline]
    pub const fn reply(&self, rcode: Rcode) -> Self {
        Self {
            id: self.id,
            response: true,
            opcode: self.opcode,
            authoritative: false,
            truncated: false,
            recursion_desired: self.recursion_desired,
            recursion_available: false,
            authentic_data: false,
            checking_disabled: self.checking_disabled,
            rcode,
        }
    }

    /// Returns id and flags as they stand in a message; of the response code the lower 4 bits.
    #[inline]
    pub fn emit(&self) -> [u8; 4] {
        let mut flags = u16::from(self.opcode.0 & 0x0f) << 11 | self.rcode.0 & 0x0f;
        for (set, bit) in [
            (self.response, QR),
            (self.authoritative, AA),
            (self.truncated, TC),
            (self.recursion_desired, RD),
            (self.recursion_available, RA),
            (self.authentic_data, AD),
            (self.checking_disabled, CD),
        ] {
            if set {
                flags |= bit;
            }
        }
        let ([a, b], [c, d]) = (self.id.to_be_bytes(), flags.to_be_bytes());
        [a, b, c, d]
    }
}
