//! The VLAN tag (IEEE 802.1Q), which follows an Ethernet header whose EtherType announces it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | PCP |D|        VLAN id        |           EtherType           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::{
    DecodeError, EmitError,
    ethernet::EtherType,
    need,
    octets::{read_u16, tail, write_u16},
    room,
};

/// Length of the tag, in octets.
pub const HEADER_BYTES: usize = 4;

const CONTROL: usize = 0;
const ETHERTYPE: usize = 2;

const DROP_ELIGIBLE: u16 = 0x1000;
const ID: u16 = 0x0fff;

/// A view of a tag and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a tag of at least 4 octets.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        Ok(Self(bytes))
    }

    /// Returns the priority, 0..=7.
    pub fn priority(&self) -> u8 {
        let [high, _] = self.control().to_be_bytes();
        high >> 5
    }

    /// Returns whether the frame may be dropped first.
    pub fn drop_eligible(&self) -> bool {
        self.control() & DROP_ELIGIBLE != 0
    }

    /// Returns the VLAN identifier, 0..=4095.
    pub fn id(&self) -> u16 {
        self.control() & ID
    }

    /// Returns what the payload is.
    pub fn ethertype(&self) -> EtherType {
        EtherType(read_u16(self.0.as_ref(), ETHERTYPE))
    }

    /// Returns what follows the tag.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), HEADER_BYTES..)
    }

    fn control(&self) -> u16 {
        read_u16(self.0.as_ref(), CONTROL)
    }
}

/// The tag as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Priority; the lower 3 bits count.
    pub priority: u8,
    /// Whether the frame may be dropped first.
    pub drop_eligible: bool,
    /// VLAN identifier; the lower 12 bits count.
    pub id: u16,
    /// What the payload is.
    pub ethertype: EtherType,
}

impl Repr {
    /// Reads the tag.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            priority: packet.priority(),
            drop_eligible: packet.drop_eligible(),
            id: packet.id(),
            ethertype: packet.ethertype(),
        }
    }

    /// Writes the tag to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 4 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        let priority = u16::from(self.priority & 7) << 13;
        let eligible = if self.drop_eligible { DROP_ELIGIBLE } else { 0 };
        write_u16(header, CONTROL, priority | eligible | (self.id & ID));
        write_u16(header, ETHERTYPE, self.ethertype.0);
        Ok(())
    }
}
