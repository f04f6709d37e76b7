//! IPv4 (RFC 791).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version|  IHL  |    DSCP   |ECN|          Total length         |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Identification        |0|D|M|     Fragment offset     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! | Time to live  |    Protocol   |        Header checksum        |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                             Source                            |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                          Destination                          |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Options, 0 to 40 octets                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv4Addr;

use super::{
    DecodeError, EmitError, checksum, need,
    octets::{read_ipv4, read_u8, read_u16, write, write_u8, write_u16},
    room,
};

/// Length of a header without options, in octets.
pub const HEADER_BYTES: usize = 20;

const VERSION_IHL: usize = 0;
const TRAFFIC_CLASS: usize = 1;
const TOTAL_LENGTH: usize = 2;
const IDENTIFICATION: usize = 4;
const FRAGMENT: usize = 6;
const TTL: usize = 8;
const PROTOCOL: usize = 9;
const CHECKSUM: usize = 10;
const SOURCE: usize = 12;
const DESTINATION: usize = 16;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What the payload is: the protocol of IPv4, the next header of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
}

/// A view of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a packet whose lengths fit the octets; octets behind the total length are padding.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], [`DecodeError::Version`], or [`DecodeError::Length`] for a header length below 20 or
    /// a total length below the header's.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        let packet = Self(bytes);
        let octets = packet.0.as_ref();
        let version = read_u8(octets, VERSION_IHL) >> 4;
        if version != 4 {
            return Err(DecodeError::Version {
                expected: 4,
                found: version,
            });
        }
        let (header, total) = (packet.header_bytes(), packet.total_bytes());
        for (offset, least, found) in [
            (VERSION_IHL, HEADER_BYTES, header),
            (TOTAL_LENGTH, header, total),
        ] {
            if found < least {
                return Err(DecodeError::Length {
                    offset,
                    need: least,
                    found,
                });
            }
        }
        need(octets, total)?;
        Ok(packet)
    }

    /// Takes a packet whose header is known to be right, though its length may not fit the octets (yet).
    ///
    /// An accessor that would read outside of the octets returns zero or nothing.
    pub const fn new_unchecked(bytes: T) -> Self {
        Self(bytes)
    }

    /// Returns the length of the header with its options, in octets.
    pub fn header_bytes(&self) -> usize {
        usize::from(read_u8(self.0.as_ref(), VERSION_IHL) & 0x0f) << 2
    }

    /// Returns the length of the packet, in octets.
    pub fn total_bytes(&self) -> usize {
        read_u16(self.0.as_ref(), TOTAL_LENGTH).into()
    }

    /// Returns DSCP and ECN (RFC 2474, RFC 3168).
    pub fn traffic_class(&self) -> u8 {
        read_u8(self.0.as_ref(), TRAFFIC_CLASS)
    }

    /// Returns the identification, which the fragments of a packet share.
    pub fn identification(&self) -> u16 {
        read_u16(self.0.as_ref(), IDENTIFICATION)
    }

    /// Returns whether the packet must not be fragmented.
    pub fn dont_fragment(&self) -> bool {
        self.fragment() & DONT_FRAGMENT != 0
    }

    /// Returns whether more fragments follow.
    pub fn more_fragments(&self) -> bool {
        self.fragment() & MORE_FRAGMENTS != 0
    }

    /// Returns where the fragment belongs, in units of 8 octets.
    pub fn fragment_offset(&self) -> u16 {
        self.fragment() & FRAGMENT_OFFSET
    }

    /// Returns whether the packet is one of several fragments.
    pub fn is_fragment(&self) -> bool {
        self.fragment() & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Returns how many hops are left.
    pub fn ttl(&self) -> u8 {
        read_u8(self.0.as_ref(), TTL)
    }

    /// Returns what the payload is.
    pub fn protocol(&self) -> Protocol {
        Protocol(read_u8(self.0.as_ref(), PROTOCOL))
    }

    /// Returns whether the checksum fits the header.
    pub fn is_checksum_valid(&self) -> bool {
        let header = self.0.as_ref().get(..self.header_bytes());
        checksum::of(header.unwrap_or_default()) == 0
    }

    /// Returns the address of the sender.
    pub fn source(&self) -> Ipv4Addr {
        read_ipv4(self.0.as_ref(), SOURCE)
    }

    /// Returns the address of the receiver.
    pub fn destination(&self) -> Ipv4Addr {
        read_ipv4(self.0.as_ref(), DESTINATION)
    }

    /// Returns the payload, without padding.
    pub fn payload(&self) -> &[u8] {
        let range = self.header_bytes()..self.total_bytes();
        self.0.as_ref().get(range).unwrap_or_default()
    }

    fn fragment(&self) -> u16 {
        read_u16(self.0.as_ref(), FRAGMENT)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Writes the length of the packet, in octets. The checksum is left to [`fill_checksum`](Self::fill_checksum).
    pub fn set_total_bytes(&mut self, length: u16) {
        write_u16(self.0.as_mut(), TOTAL_LENGTH, length);
    }

    /// Writes the identification. The checksum is left to [`fill_checksum`](Self::fill_checksum).
    pub fn set_identification(&mut self, identification: u16) {
        write_u16(self.0.as_mut(), IDENTIFICATION, identification);
    }

    /// Writes where the fragment belongs, in units of 8 octets of which the lower 13 bits count, and whether more follow.
    /// The checksum is left to [`fill_checksum`](Self::fill_checksum).
    pub fn set_fragment(&mut self, offset: u16, more: bool) {
        let flags = self.fragment() & !(MORE_FRAGMENTS | FRAGMENT_OFFSET);
        let more = if more { MORE_FRAGMENTS } else { 0 };
        let field = flags | more | (offset & FRAGMENT_OFFSET);
        write_u16(self.0.as_mut(), FRAGMENT, field);
    }

    /// Writes DSCP and ECN, and updates the checksum (RFC 1624): one that was wrong stays wrong.
    pub fn set_traffic_class(&mut self, traffic_class: u8) {
        let bytes = self.0.as_mut();
        let before = read_u16(bytes, VERSION_IHL);
        write_u8(bytes, TRAFFIC_CLASS, traffic_class);
        let after = read_u16(bytes, VERSION_IHL);
        let sum = checksum::update(read_u16(bytes, CHECKSUM), before, after);
        write_u16(bytes, CHECKSUM, sum);
    }

    /// Computes and writes the checksum of the header.
    pub fn fill_checksum(&mut self) {
        let header_bytes = self.header_bytes();
        let bytes = self.0.as_mut();
        write_u16(bytes, CHECKSUM, 0);
        let sum = checksum::of(bytes.get(..header_bytes).unwrap_or_default());
        write_u16(bytes, CHECKSUM, sum);
    }
}

/// The header as a value, without options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Identification, which the fragments of a packet share.
    pub identification: u16,
    /// Whether the packet must not be fragmented.
    pub dont_fragment: bool,
    /// Whether more fragments follow.
    pub more_fragments: bool,
    /// Where the fragment belongs, in units of 8 octets; the lower 13 bits count.
    pub fragment_offset: u16,
    /// Hops that are left.
    pub ttl: u8,
    /// What the payload is.
    pub protocol: Protocol,
    /// Address of the sender.
    pub source: Ipv4Addr,
    /// Address of the receiver.
    pub destination: Ipv4Addr,
    /// Length of the payload, in octets; with the header at most 65,535.
    pub payload_bytes: u16,
}

impl Repr {
    /// Reads the header; options are skipped.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Checksum`].
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Result<Self, DecodeError> {
        if !packet.is_checksum_valid() {
            return Err(DecodeError::Checksum);
        }
        Ok(Self {
            traffic_class: packet.traffic_class(),
            identification: packet.identification(),
            dont_fragment: packet.dont_fragment(),
            more_fragments: packet.more_fragments(),
            fragment_offset: packet.fragment_offset(),
            ttl: packet.ttl(),
            protocol: packet.protocol(),
            source: packet.source(),
            destination: packet.destination(),
            payload_bytes: u16::try_from(packet.payload().len()).unwrap_or(u16::MAX),
        })
    }

    /// Writes the header, with its checksum, to the start of `bytes`; the payload is the caller's.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 20 octets, or if the packet would be longer than 65,535; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        let total = self.payload_bytes.checked_add(20).ok_or(EmitError {
            need: usize::from(self.payload_bytes).saturating_add(HEADER_BYTES),
            have: u16::MAX.into(),
        })?;
        let flag = |set, bit| if set { bit } else { 0 };
        write_u8(header, VERSION_IHL, 0x45);
        write_u8(header, TRAFFIC_CLASS, self.traffic_class);
        write_u16(header, TOTAL_LENGTH, total);
        write_u16(header, IDENTIFICATION, self.identification);
        let fragment = flag(self.dont_fragment, DONT_FRAGMENT)
            | flag(self.more_fragments, MORE_FRAGMENTS)
            | (self.fragment_offset & FRAGMENT_OFFSET);
        write_u16(header, FRAGMENT, fragment);
        write_u8(header, TTL, self.ttl);
        write_u8(header, PROTOCOL, self.protocol.0);
        write(header, SOURCE, self.source.octets());
        write(header, DESTINATION, self.destination.octets());
        Packet(header).fill_checksum();
        Ok(())
    }
}
