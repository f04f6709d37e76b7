//! Ethernet II (IEEE 802.3), without preamble and frame check sequence.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Destination                          |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+            Source             +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |           EtherType           |            Payload ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use overlay_core::MacAddr;

use super::{
    DecodeError, EmitError, need,
    octets::{read_mac, read_u16, tail, write, write_u16},
    room,
};

/// Length of the header, in octets.
pub const HEADER_BYTES: usize = 14;

const DESTINATION: usize = 0;
const SOURCE: usize = 6;
const ETHERTYPE: usize = 12;

/// What the payload is; below 0x0600 the length of an IEEE 802.2 payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// A service VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: Self = Self(0x88a8);
    /// For experiments (IEEE 802).
    pub const EXPERIMENT: Self = Self(0x88b5);

    /// Returns true if a VLAN tag follows.
    #[must_use]
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }
}

/// A view of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a frame of at least 14 octets.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        Ok(Self(bytes))
    }

    /// Returns the MAC address that the frame goes to.
    pub fn destination(&self) -> MacAddr {
        read_mac(self.0.as_ref(), DESTINATION)
    }

    /// Returns the MAC address that the frame comes from.
    pub fn source(&self) -> MacAddr {
        read_mac(self.0.as_ref(), SOURCE)
    }

    /// Returns what the payload is.
    pub fn ethertype(&self) -> EtherType {
        EtherType(read_u16(self.0.as_ref(), ETHERTYPE))
    }

    /// Returns what follows the header, padding included.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), HEADER_BYTES..)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Writes the MAC address that the frame goes to.
    pub fn set_destination(&mut self, mac: MacAddr) {
        write(self.0.as_mut(), DESTINATION, mac.octets());
    }

    /// Writes the MAC address that the frame comes from.
    pub fn set_source(&mut self, mac: MacAddr) {
        write(self.0.as_mut(), SOURCE, mac.octets());
    }
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// Where the frame goes to.
    pub destination: MacAddr,
    /// Where it comes from.
    pub source: MacAddr,
    /// What the payload is.
    pub ethertype: EtherType,
}

impl Repr {
    /// Reads the header.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            destination: packet.destination(),
            source: packet.source(),
            ethertype: packet.ethertype(),
        }
    }

    /// Writes the header to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 14 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        write(header, DESTINATION, self.destination.octets());
        write(header, SOURCE, self.source.octets());
        write_u16(header, ETHERTYPE, self.ethertype.0);
        Ok(())
    }
}
