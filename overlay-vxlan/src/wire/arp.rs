//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |       Hardware type = 1       |     Protocol type = 0x0800    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  HW len = 6   | Proto len = 4 |           Operation           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Sender MAC                           |
//! +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                               |     Sender address (high)     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Sender address (low)      |                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+          Target MAC           +
//! |                                                               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                        Target address                         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use overlay_core::MacAddr;

use super::{
    DecodeError, EmitError,
    ethernet::EtherType,
    need,
    octets::{read_ipv4, read_mac, read_u8, read_u16, write, write_u8, write_u16},
    room,
};

/// Length of the packet, in octets.
pub const PACKET_BYTES: usize = 28;

const HARDWARE_TYPE: usize = 0;
const PROTOCOL_TYPE: usize = 2;
const HARDWARE_LENGTH: usize = 4;
const PROTOCOL_LENGTH: usize = 5;
const OPERATION: usize = 6;
const SENDER_MAC: usize = 8;
const SENDER_ADDRESS: usize = 14;
const TARGET_MAC: usize = 18;
const TARGET_ADDRESS: usize = 24;

const ETHERNET: u16 = 1;
const MAC_BYTES: u8 = 6;
const ADDRESS_BYTES: u8 = 4;

/// What the packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation(pub u16);

impl Operation {
    /// Who has the target address?
    pub const REQUEST: Self = Self(1);
    /// The sender has the sender address.
    pub const REPLY: Self = Self(2);
}

/// A view of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a packet of at least 28 octets, for IPv4 over Ethernet.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], or [`DecodeError::Field`] for other hardware or protocols.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        let octets = bytes.as_ref();
        need(octets, PACKET_BYTES)?;
        for (offset, expected, found) in [
            (HARDWARE_TYPE, ETHERNET, read_u16(octets, HARDWARE_TYPE)),
            (
                PROTOCOL_TYPE,
                EtherType::IPV4.0,
                read_u16(octets, PROTOCOL_TYPE),
            ),
            (
                HARDWARE_LENGTH,
                MAC_BYTES.into(),
                read_u8(octets, HARDWARE_LENGTH).into(),
            ),
            (
                PROTOCOL_LENGTH,
                ADDRESS_BYTES.into(),
                read_u8(octets, PROTOCOL_LENGTH).into(),
            ),
        ] {
            if expected != found {
                let (expected, found) = (expected.into(), found.into());
                return Err(DecodeError::Field {
                    offset,
                    expected,
                    found,
                });
            }
        }
        Ok(Self(bytes))
    }

    /// Returns what the packet asks or says.
    pub fn operation(&self) -> Operation {
        Operation(read_u16(self.0.as_ref(), OPERATION))
    }

    /// Returns the MAC address of the sender.
    pub fn sender_mac(&self) -> MacAddr {
        read_mac(self.0.as_ref(), SENDER_MAC)
    }

    /// Returns the IPv4 address of the sender.
    pub fn sender_address(&self) -> Ipv4Addr {
        read_ipv4(self.0.as_ref(), SENDER_ADDRESS)
    }

    /// Returns the MAC address of the target, mostly zeroes in a request.
    pub fn target_mac(&self) -> MacAddr {
        read_mac(self.0.as_ref(), TARGET_MAC)
    }

    /// Returns the IPv4 address that is asked for.
    pub fn target_address(&self) -> Ipv4Addr {
        read_ipv4(self.0.as_ref(), TARGET_ADDRESS)
    }
}

/// The packet as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// What it asks or says.
    pub operation: Operation,
    /// MAC address of the sender.
    pub sender_mac: MacAddr,
    /// IPv4 address of the sender; unspecified in a probe (RFC 5227 §2.1.1).
    pub sender_address: Ipv4Addr,
    /// MAC address of the target.
    pub target_mac: MacAddr,
    /// IPv4 address of the target.
    pub target_address: Ipv4Addr,
}

impl Repr {
    /// Reads the packet.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            operation: packet.operation(),
            sender_mac: packet.sender_mac(),
            sender_address: packet.sender_address(),
            target_mac: packet.target_mac(),
            target_address: packet.target_address(),
        }
    }

    /// Writes the packet to the start of `bytes`.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 28 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let packet = room(bytes, PACKET_BYTES)?;
        write_u16(packet, HARDWARE_TYPE, ETHERNET);
        write_u16(packet, PROTOCOL_TYPE, EtherType::IPV4.0);
        write_u8(packet, HARDWARE_LENGTH, MAC_BYTES);
        write_u8(packet, PROTOCOL_LENGTH, ADDRESS_BYTES);
        write_u16(packet, OPERATION, self.operation.0);
        write(packet, SENDER_MAC, self.sender_mac.octets());
        write(packet, SENDER_ADDRESS, self.sender_address.octets());
        write(packet, TARGET_MAC, self.target_mac.octets());
        write(packet, TARGET_ADDRESS, self.target_address.octets());
        Ok(())
    }
}
