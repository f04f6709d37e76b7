//! The OPT pseudo-record (RFC 6891 §6.1).

use super::{DecodeError, Rcode, Record, read_u16, truncated};

/// How many octets an OPT record without options has.
pub const OPT_BYTES: usize = 11;

const DNSSEC_OK: u32 = 1 << 15;

/// What an OPT record says. Options are checked for their lengths and otherwise ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP payload that its sender takes, in octets.
    pub payload_bytes: u16,
    /// The upper 8 bits of the response code.
    pub rcode_high: u8,
    /// Version; ours is 0.
    pub version: u8,
    /// DO: the sender wants signatures (RFC 3225).
    pub dnssec_ok: bool,
}

impl Edns {
    /// Makes version 0 with the given payload size.
    pub const fn new(payload_bytes: u16, dnssec_ok: bool) -> Self {
        Self {
            payload_bytes,
            rcode_high: 0,
            version: 0,
            dnssec_ok,
        }
    }

    /// Reads an OPT record, whose place and owner the message has checked.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if an option ends behind the record.
    #[inline]
    pub fn parse(record: &Record<'_>) -> Result<Self, DecodeError> {
        let (rdata, mut at) = (record.rdata, 0_usize);
        while at < rdata.len() {
            let value = at.saturating_add(4);
            let length = usize::from(read_u16(rdata, at.saturating_add(2))?);
            let end = value.saturating_add(length);
            if rdata.len() < end {
                return Err(truncated(rdata, value, length));
            }
            at = end;
        }
        let [rcode_high, version, ..] = record.ttl.to_be_bytes();
        Ok(Self {
            payload_bytes: record.class.0,
            rcode_high,
            version,
            dnssec_ok: record.ttl & DNSSEC_OK != 0,
        })
    }

    /// Puts the upper 8 bits of a response code into it.
    #[must_use]
    pub fn with_rcode(mut self, rcode: Rcode) -> Self {
        [self.rcode_high, _] = (rcode.0 << 4).to_be_bytes(); // the lower 4 bits stand in the header
        self
    }

    /// Returns the record as it stands in a message, without options.
    #[inline]
    pub fn emit(&self) -> [u8; OPT_BYTES] {
        let [a, b] = self.payload_bytes.to_be_bytes();
        let flags = if self.dnssec_ok { 0x80 } else { 0 };
        [
            0,
            0,
            41,
            a,
            b,
            self.rcode_high,
            self.version,
            flags,
            0,
            0,
            0,
        ]
    }
}
