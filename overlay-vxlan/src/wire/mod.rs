//! Headers as they are on the wire: for each a view and a `Repr`.
//!
//! A view (`Packet<T>`) borrows octets and copies nothing. `new_checked` proves that every accessor reads inside them;
//! what a field *means* is left to the caller. A `Repr` is the small owned form: `parse` reads it from a view and also
//! checks what the RFC asks of a sender, `emit` writes it. Unknown is not malformed: what an RFC says to ignore is
//! ignored.
//!
//! All numbers are big-endian on the wire and host order in Rust.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

pub mod arp;
pub mod checksum;
pub mod esp;
pub mod ethernet;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
mod octets;
pub mod probe;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

use thiserror::Error;

/// The octets are no such header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The octets end before the header does, or before the length that it states.
    #[error("expected at least {need} octets, found {have}")]
    Truncated {
        /// Octets that would be needed.
        need: usize,
        /// Octets that are there.
        have: usize,
    },
    /// Another version of the protocol.
    #[error("expected version {expected}, found {found}")]
    Version {
        /// The version of this header.
        expected: u8,
        /// The version in the octets.
        found: u8,
    },
    /// A stated length is less than the header itself.
    #[error("expected a length of at least {need} octets at offset {offset}, found {found}")]
    Length {
        /// Offset of the field in the header.
        offset: usize,
        /// The least length that makes sense.
        need: usize,
        /// The stated length.
        found: usize,
    },
    /// A length is no multiple of what it has to be one of.
    #[error("expected a multiple of {multiple} octets, found {found}")]
    Alignment {
        /// What it has to be a multiple of.
        multiple: usize,
        /// The length.
        found: usize,
    },
    /// A field has a value that this header cannot have.
    #[error("expected {expected} at offset {offset}, found {found}")]
    Field {
        /// Offset of the field in the header.
        offset: usize,
        /// The value that is needed.
        expected: u32,
        /// The value in the octets.
        found: u32,
    },
    /// A flag that must be set is not.
    #[error("expected the flags {flags:#04x} at offset {offset} to be set")]
    FlagUnset {
        /// Offset of the octet in the header.
        offset: usize,
        /// The flags.
        flags: u8,
    },
    /// Two options of a kind contradict each other.
    #[error("expected one option of kind {kind}, found two that differ")]
    Contradiction {
        /// The kind of option.
        kind: u8,
    },
    /// The checksum does not fit the octets.
    #[error("the checksum does not fit the octets")]
    Checksum,
}

/// The buffer is too small for what is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected room for {need} octets, found {have}")]
pub struct EmitError {
    /// Octets that would be needed.
    pub need: usize,
    /// Octets that are there.
    pub have: usize,
}

/// Proves that `bytes` has at least `need` octets.
fn need(bytes: &[u8], need: usize) -> Result<(), DecodeError> {
    let have = bytes.len();
    if have < need {
        Err(DecodeError::Truncated { need, have })
    } else {
        Ok(())
    }
}

/// Returns the first `need` octets of `bytes`, for writing.
fn room(bytes: &mut [u8], need: usize) -> Result<&mut [u8], EmitError> {
    let have = bytes.len();
    bytes.get_mut(..need).ok_or(EmitError { need, have })
}
