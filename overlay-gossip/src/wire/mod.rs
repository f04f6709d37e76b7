//! memberlist's messages and their wrappers, as octets.
//!
//! ```text
//! packet: [244, n, label] [version, nonce, ciphertext, tag] [12, crc32] [9, {Algo, Buf}] [7, count, lengths, messages] [type, body]
//! stream: [244, n, label] [10, length, version, nonce, ciphertext, tag] [9, {Algo, Buf}] [type] body
//! ```
//!
//! Each wrapper but the innermost type is optional; which of label and encryption are there is decided by
//! configuration and never by looking. Bodies are msgpack maps with string keys in the old raw dialect.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod checksum;
mod compress;
mod message;
mod msgpack;
mod packet;
mod stream;

pub use message::{
    Accusation, Ack, Alive, IndirectPing, Message, Nack, Origin, Ping, PushPull, PushPullNode,
    Versions,
};
pub(crate) use packet::{COMPOUND_BYTES, LENGTH_BYTES, PARTS_MAX};
pub use packet::{Packet, PacketCodec, overhead_bytes};
pub use stream::{StreamCodec, StreamMessage, StreamReader};

/// Type octets (memberlist).
pub(crate) mod kind {
    pub(crate) const PING: u8 = 0;
    pub(crate) const INDIRECT_PING: u8 = 1;
    pub(crate) const ACK: u8 = 2;
    pub(crate) const SUSPECT: u8 = 3;
    pub(crate) const ALIVE: u8 = 4;
    pub(crate) const DEAD: u8 = 5;
    pub(crate) const PUSH_PULL: u8 = 6;
    pub(crate) const COMPOUND: u8 = 7;
    pub(crate) const USER: u8 = 8;
    pub(crate) const COMPRESS: u8 = 9;
    pub(crate) const ENCRYPT: u8 = 10;
    pub(crate) const NACK: u8 = 11;
    pub(crate) const CRC: u8 = 12;
    pub(crate) const ERROR: u8 = 13;
    pub(crate) const LABEL: u8 = 244;
}
