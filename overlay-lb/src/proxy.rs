//! The PROXY protocol, versions 1 and 2: who the client of a relayed connection is.
//!
//! A proxy that opens a connection of its own to a backend writes a [`Header`] before the client's octets; the backend
//! reads it there and learns the addresses that it would have seen without the proxy. Source: "The PROXY protocol,
//! versions 1 & 2", `doc/proxy-protocol.txt` of HAProxy, cited as "spec §". A receiver has to know that a header comes: who
//! may reach it past the proxy could claim any address (spec §2).
//!
//! ```text
//! version 1  "PROXY" SP "TCP4" / "TCP6" SP source SP destination SP source port SP destination port CR LF
//!            "PROXY" SP "UNKNOWN" [SP anything] CR LF
//! version 2  0 signature 12 | 12 version, command | 13 family, transport | 14 length of what follows 2 | 16 addresses
//!   IPv4     16 source 4  | 20 destination 4  | 24 source port 2 | 26 destination port 2 | 28 TLVs
//!   IPv6     16 source 16 | 32 destination 16 | 48 source port 2 | 50 destination port 2 | 52 TLVs
//! ```
//!
//! TLVs (spec §2.2) are stepped over, a CRC32C among them is not checked, and none is written.
//!
//! ```
//! use overlay_lb::{Protocol, proxy::{Header, Relayed, Version}};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (client, published) = ("192.0.2.7:56324".parse()?, "198.51.100.1:443".parse()?);
//! let header = Header::Relayed(Relayed::new(Protocol::Tcp, client, published)?);
//! let mut octets = header.emit(Version::V1);
//! assert_eq!(octets, b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n");
//!
//! // The backend reads until the header is there; what follows it is the client's.
//! assert_eq!(Header::parse(&octets[..20])?, None);
//! octets.extend(b"GET /");
//! let parsed = Header::parse(&octets)?.ok_or("the header is whole")?;
//! assert_eq!((parsed.header, &octets[parsed.length..]), (header, &b"GET /"[..]));
//! # Ok(())
//! # }
//! ```

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod binary;
mod text;

use std::net::SocketAddr;

use thiserror::Error;

use crate::Protocol;

/// What a header says about the connection that it is at the front of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Header {
    /// The proxy itself is the client, as when it checks whether the backend is well: the ends of the connection count.
    ///
    /// Version 1 has no word for it and says `UNKNOWN`.
    Local,
    /// The connection is relayed for somebody whose address the header does not say, or not in a family of
    /// [`Relayed`]: the ends of the connection count, or it is refused (spec §2.2).
    Unknown,
    /// The connection is relayed between these ends.
    ///
    /// Version 1 has no word for UDP and says `UNKNOWN`.
    Relayed(Relayed),
}

/// Both ends of a relayed connection, of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relayed {
    proto: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parsed {
    /// What it says.
    pub header: Header,
    /// How it was written.
    pub version: Version,
    /// Its length in octets: what follows is the client's.
    pub length: usize,
}

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text (spec §2.1).
    V1,
    /// Binary (spec §2.2).
    V2,
}

impl Header {
    /// Returns the octets that go before the client's: at most [`V1_BYTES_MAX`] of version 1, at most 52 of version 2.
    ///
    /// They are to be sent at once (spec §2).
    pub fn emit(&self, version: Version) -> Vec<u8> {
        match version {
            Version::V1 => text::emit(self),
            Version::V2 => binary::emit(self),
        }
    }

    /// Reads a header of either version from the front of what a connection has brought so far.
    ///
    /// `Ok(None)`: these octets may become a header, so call again with more of them; [`V2_BYTES_MAX`] are always enough
    /// to know. Most of what cannot become one is refused before that.
    ///
    /// # Errors
    ///
    /// See [`DecodeError`]; more octets would not help, and the connection is to be closed (spec §2.1).
    pub fn parse(bytes: &[u8]) -> Result<Option<Parsed>, DecodeError> {
        if begins(bytes, binary::SIGNATURE) {
            binary::parse(bytes)
        } else if begins(bytes, text::PREFIX) {
            text::parse(bytes)
        } else {
            Err(DecodeError::Signature)
        }
    }
}

impl Relayed {
    /// Describes a connection from `source`, the client, to `destination`, where it had connected to. Scopes and flow
    /// labels of IPv6 addresses are left out.
    ///
    /// # Errors
    ///
    /// [`RelayedError`] if one address is IPv4 and the other IPv6. A socket that serves both families gives IPv4
    /// addresses as IPv6 ones at both ends: [`IpAddr::to_canonical`](std::net::IpAddr::to_canonical) undoes that.
    pub fn new(
        proto: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Self, RelayedError> {
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(RelayedError {
                client: source,
                destination,
            });
        }
        let bare = |end: SocketAddr| SocketAddr::new(end.ip(), end.port());
        Ok(Self {
            proto,
            source: bare(source),
            destination: bare(destination),
        })
    }

    /// Returns the transport protocol.
    pub const fn proto(&self) -> Protocol {
        self.proto
    }

    /// Returns the client's end.
    pub const fn source(&self) -> SocketAddr {
        self.source
    }

    /// Returns the end that the client had connected to.
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }
}

/// The ends of a connection are of different address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{client} and {destination} are not of one address family")]
pub struct RelayedError {
    /// The client's end.
    pub client: SocketAddr,
    /// The end that it had connected to.
    pub destination: SocketAddr,
}

/// Octets are not a header, and no more of them would make them one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// They begin like neither version.
    #[error("expected the signature of a PROXY header")]
    Signature,
    /// Version 1: a part of the line is not what has to be there.
    #[error("the part of the PROXY line at octet {offset} is malformed")]
    Line {
        /// Where the part begins.
        offset: usize,
    },
    /// Version 1: no CR LF within [`V1_BYTES_MAX`] octets. Version 2: a length that makes more than [`V2_BYTES_MAX`].
    #[error("the header would be longer than {max} octets")]
    TooLong {
        /// How long it may be.
        max: usize,
    },
    /// Binary, but not of version 2.
    #[error("expected version 2, found {found}")]
    Version {
        /// The version.
        found: u8,
    },
    /// A command that is not assigned.
    #[error("expected command 0 or 1, found {found}")]
    Command {
        /// The command.
        found: u8,
    },
    /// An address family that is not assigned.
    #[error("expected address family 0 to 3, found {found}")]
    Family {
        /// The address family.
        found: u8,
    },
    /// A transport protocol that is not assigned.
    #[error("expected transport protocol 0 to 2, found {found}")]
    Transport {
        /// The transport protocol.
        found: u8,
    },
    /// The addresses do not fit into the length.
    #[error("expected {need} octets of addresses, found {have}")]
    Addresses {
        /// How long the addresses of this family are, with their ports.
        need: usize,
        /// The length that the header gives.
        have: usize,
    },
}

/// Whether `bytes` and `prefix` are the same as far as both go.
fn begins(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.iter().zip(prefix).all(|(byte, other)| byte == other)
}

/// Length of the longest line of version 1, with its CR LF, in octets (spec §2.1).
pub const V1_BYTES_MAX: usize = 107;

/// Length of the longest header of version 2 that is accepted, TLVs included, in octets. The specification means it to
/// fit into 536.
pub const V2_BYTES_MAX: usize = 4_096;
