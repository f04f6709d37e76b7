//! The VXLAN header (RFC 7348 §5), which follows the outer UDP header.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|R|R|R|I|R|R|R|            Reserved                           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use overlay_core::Vni;

use super::{
    DecodeError, EmitError, need,
    octets::{read, read_u8, tail, write},
    room,
};

/// Length of the header, in octets.
pub const HEADER_BYTES: usize = 8;
/// The UDP port that IANA assigned (RFC 7348 §8).
pub const UDP_PORT: u16 = 4789;

const FLAGS: usize = 0;
const VNI: usize = 4;

/// The I flag: the VNI is valid.
const VNI_VALID: u8 = 0x08;

/// A view of a header and the inner frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a header of at least 8 octets with the I flag. All reserved bits are ignored (RFC 7348 §5).
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], or [`DecodeError::FlagUnset`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        let octets = bytes.as_ref();
        need(octets, HEADER_BYTES)?;
        if read_u8(octets, FLAGS) & VNI_VALID == 0 {
            return Err(DecodeError::FlagUnset {
                offset: FLAGS,
                flags: VNI_VALID,
            });
        }
        Ok(Self(bytes))
    }

    /// Returns the network identifier.
    pub fn vni(&self) -> Vni {
        Vni::from_octets(read(self.0.as_ref(), VNI))
    }

    /// Returns the inner frame, which may be shorter than an Ethernet header.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), HEADER_BYTES..)
    }
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Repr {
    /// The network identifier.
    pub vni: Vni,
}

impl Repr {
    /// Makes the header of a network.
    pub const fn new(vni: Vni) -> Self {
        Self { vni }
    }

    /// Reads the header.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self::new(packet.vni())
    }

    /// Returns the octets of the header; all reserved bits are zero (RFC 7348 §5).
    #[must_use]
    pub const fn octets(&self) -> [u8; HEADER_BYTES] {
        let [a, b, c] = self.vni.octets();
        [VNI_VALID, 0, 0, 0, a, b, c, 0]
    }

    /// Writes the header to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 8 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        write(room(bytes, HEADER_BYTES)?, 0, self.octets());
        Ok(())
    }
}
