//! ICMP for IPv6 (RFC 4443) with the neighbour discovery of RFC 4861.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |     Type      |     Code      |            Checksum           |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |R|S|O| flags of an advertisement / identifier, sequence / MTU  |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |        Target of neighbour discovery, 16 octets / payload     |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Option type  |  Length / 8   |       Link-layer address ...
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv6Addr;

use overlay_core::MacAddr;

use super::{
    DecodeError, EmitError,
    checksum::Sum,
    ipv4::Protocol,
    need,
    octets::{
        read, read_ipv6, read_mac, read_u8, read_u16, read_u32, tail, write, write_u8, write_u16,
        write_u32,
    },
    room,
};

/// Length of the header, in octets.
pub const HEADER_BYTES: usize = 8;
/// Length of a solicitation or advertisement with its link-layer option, in octets.
pub const NEIGHBOUR_BYTES: usize = 32;

const TYPE: usize = 0;
const CODE: usize = 1;
const CHECKSUM: usize = 2;
const REST: usize = 4;
const TARGET: usize = 8;
const OPTIONS: usize = 24;

const SOURCE_OPTION: u8 = 1;
const TARGET_OPTION: u8 = 2;

const ROUTER: u32 = 0x8000_0000;
const SOLICITED: u32 = 0x4000_0000;
const OVERRIDE: u32 = 0x2000_0000;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

impl Kind {
    /// A packet was too big for a link.
    pub const PACKET_TOO_BIG: Self = Self(2);
    /// Asks for an echo.
    pub const ECHO_REQUEST: Self = Self(128);
    /// The echo.
    pub const ECHO_REPLY: Self = Self(129);
    /// Are there routers?
    pub const ROUTER_SOLICITATION: Self = Self(133);
    /// Here is a router.
    pub const ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Who has the target address?
    pub const NEIGHBOUR_SOLICITATION: Self = Self(135);
    /// The sender has the target address.
    pub const NEIGHBOUR_ADVERTISEMENT: Self = Self(136);
    /// There is a better first hop.
    pub const REDIRECT: Self = Self(137);

    /// Returns whether the message reports an error, to which no error may be sent (RFC 4443 §2.4).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }
}

/// A view of a message.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a message of at least 8 octets, of at least 24 if it is a neighbour solicitation or advertisement.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        let packet = Self(bytes);
        if packet.is_neighbour() {
            need(packet.0.as_ref(), OPTIONS)?;
        }
        Ok(packet)
    }

    /// Returns the type.
    pub fn kind(&self) -> Kind {
        Kind(read_u8(self.0.as_ref(), TYPE))
    }

    /// Returns the code.
    pub fn code(&self) -> u8 {
        read_u8(self.0.as_ref(), CODE)
    }

    /// Returns whether the checksum fits.
    pub fn is_checksum_valid(&self, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
        self.sum(source, destination).finish() == 0
    }

    /// Returns the target of a neighbour solicitation or advertisement.
    pub fn target(&self) -> Option<Ipv6Addr> {
        self.is_neighbour()
            .then(|| read_ipv6(self.0.as_ref(), TARGET))
    }

    /// Returns the link-layer address in the source option of a solicitation or the target option of an advertisement.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Length`] or [`DecodeError::Truncated`] for options that do not add up (RFC 4861 §7.1),
    /// [`DecodeError::Contradiction`] for two that differ.
    pub fn link_layer(&self) -> Result<Option<MacAddr>, DecodeError> {
        let wanted = match self.kind() {
            Kind::NEIGHBOUR_SOLICITATION => SOURCE_OPTION,
            Kind::NEIGHBOUR_ADVERTISEMENT => TARGET_OPTION,
            _ => return Ok(None),
        };
        let mut found = None;
        let mut options = tail(self.0.as_ref(), OPTIONS..);
        // Each step takes at least 8 octets, so it ends.
        while !options.is_empty() {
            need(options, 8)?;
            let length = usize::from(read_u8(options, 1)) << 3;
            if length == 0 {
                return Err(DecodeError::Length {
                    offset: 1,
                    need: 8,
                    found: 0,
                });
            }
            need(options, length)?;
            if read_u8(options, 0) == wanted {
                let mac = read_mac(options, 2);
                // Receivers differ on which of two they take.
                if found.is_some_and(|found| found != mac) {
                    return Err(DecodeError::Contradiction { kind: wanted });
                }
                found = Some(mac);
            }
            options = tail(options, length..);
        }
        Ok(found)
    }

    /// Returns what follows the header.
    pub fn payload(&self) -> &[u8] {
        tail(self.0.as_ref(), HEADER_BYTES..)
    }

    fn is_neighbour(&self) -> bool {
        let kind = self.kind();
        kind == Kind::NEIGHBOUR_SOLICITATION || kind == Kind::NEIGHBOUR_ADVERTISEMENT
    }

    fn sum(&self, source: Ipv6Addr, destination: Ipv6Addr) -> Sum {
        let message = self.0.as_ref();
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let (source, destination) = (source.into(), destination.into());
        let mut sum = Sum::pseudo_header(source, destination, Protocol::ICMPV6, length);
        sum.add_bytes(message);
        sum
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Computes and writes the checksum of the whole message.
    pub fn fill_checksum(&mut self, source: Ipv6Addr, destination: Ipv6Addr) {
        write_u16(self.0.as_mut(), CHECKSUM, 0);
        let checksum = self.sum(source, destination).finish();
        write_u16(self.0.as_mut(), CHECKSUM, checksum);
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
    /// The packet is too big for a link (RFC 4443 §3.2).
    PacketTooBig {
        /// MTU of that link, in octets.
        mtu: u32,
    },
    /// Who has `target`?
    NeighbourSolicitation {
        /// The address that is asked for.
        target: Ipv6Addr,
        /// The source link-layer option, absent in duplicate address detection.
        source: Option<MacAddr>,
    },
    /// The sender has `target`.
    NeighbourAdvertisement {
        /// The sender is a router.
        router: bool,
        /// The answer to a solicitation.
        solicited: bool,
        /// Replaces what the receiver has.
        overrides: bool,
        /// The address.
        target: Ipv6Addr,
        /// The target link-layer option.
        mac: Option<MacAddr>,
    },
    /// Any other message.
    Other {
        /// Its type.
        kind: Kind,
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
    /// [`DecodeError::Checksum`], or what [`Packet::link_layer`] says.
    pub fn parse<T: AsRef<[u8]>>(
        packet: &Packet<T>,
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) -> Result<Self, DecodeError> {
        if !packet.is_checksum_valid(source, destination) {
            return Err(DecodeError::Checksum);
        }
        let bytes = packet.0.as_ref();
        let (identifier, sequence) = (read_u16(bytes, REST), read_u16(bytes, 6));
        let rest = read_u32(bytes, REST);
        Ok(match (packet.kind(), packet.code()) {
            (Kind::ECHO_REQUEST, 0) => Self::EchoRequest {
                identifier,
                sequence,
            },
            (Kind::ECHO_REPLY, 0) => Self::EchoReply {
                identifier,
                sequence,
            },
            (Kind::PACKET_TOO_BIG, 0) => Self::PacketTooBig { mtu: rest },
            (Kind::NEIGHBOUR_SOLICITATION, 0) => Self::NeighbourSolicitation {
                target: read_ipv6(bytes, TARGET),
                source: packet.link_layer()?,
            },
            (Kind::NEIGHBOUR_ADVERTISEMENT, 0) => Self::NeighbourAdvertisement {
                router: rest & ROUTER != 0,
                solicited: rest & SOLICITED != 0,
                overrides: rest & OVERRIDE != 0,
                target: read_ipv6(bytes, TARGET),
                mac: packet.link_layer()?,
            },
            (kind, code) => Self::Other {
                kind,
                code,
                rest: read(bytes, REST),
            },
        })
    }

    /// Returns the length of the header with its options, in octets.
    #[must_use]
    pub const fn header_bytes(&self) -> usize {
        match self {
            Self::NeighbourSolicitation {
                source: Some(_), ..
            }
            | Self::NeighbourAdvertisement { mac: Some(_), .. } => NEIGHBOUR_BYTES,
            Self::NeighbourSolicitation { source: None, .. }
            | Self::NeighbourAdvertisement { mac: None, .. } => OPTIONS,
            Self::EchoRequest { .. }
            | Self::EchoReply { .. }
            | Self::PacketTooBig { .. }
            | Self::Other { .. } => HEADER_BYTES,
        }
    }

    /// Writes the header to the start of `bytes`, whose rest is the payload, and the checksum over all of it.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below [`header_bytes`](Self::header_bytes); nothing is written.
    pub fn emit(
        &self,
        bytes: &mut [u8],
        source: Ipv6Addr,
        destination: Ipv6Addr,
    ) -> Result<(), EmitError> {
        let header = room(bytes, self.header_bytes())?;
        let echo =
            |identifier: u16, sequence: u16| (u32::from(identifier) << 16) | u32::from(sequence);
        let flag = |set, bit| if set { bit } else { 0 };
        let (kind, code, rest) = match *self {
            Self::EchoRequest {
                identifier,
                sequence,
            } => (Kind::ECHO_REQUEST, 0, echo(identifier, sequence)),
            Self::EchoReply {
                identifier,
                sequence,
            } => (Kind::ECHO_REPLY, 0, echo(identifier, sequence)),
            Self::PacketTooBig { mtu } => (Kind::PACKET_TOO_BIG, 0, mtu),
            Self::NeighbourSolicitation {
                target,
                source: link,
            } => {
                write_neighbour(header, target, SOURCE_OPTION, link);
                (Kind::NEIGHBOUR_SOLICITATION, 0, 0)
            }
            Self::NeighbourAdvertisement {
                router,
                solicited,
                overrides,
                target,
                mac,
            } => {
                write_neighbour(header, target, TARGET_OPTION, mac);
                let flags = flag(router, ROUTER) | flag(solicited, SOLICITED);
                (
                    Kind::NEIGHBOUR_ADVERTISEMENT,
                    0,
                    flags | flag(overrides, OVERRIDE),
                )
            }
            Self::Other { kind, code, rest } => (kind, code, u32::from_be_bytes(rest)),
        };
        write_u8(header, TYPE, kind.0);
        write_u8(header, CODE, code);
        write_u32(header, REST, rest);
        Packet(bytes).fill_checksum(source, destination);
        Ok(())
    }
}

/// Writes target and option of a solicitation or advertisement.
fn write_neighbour(header: &mut [u8], target: Ipv6Addr, option: u8, mac: Option<MacAddr>) {
    write(header, TARGET, target.octets());
    if let Some(mac) = mac {
        write(header, OPTIONS, [option, 1]);
        write(header, 26, mac.octets());
    }
}
