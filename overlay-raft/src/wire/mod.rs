//! The messages between members, as octets.
//!
//! ```text
//!  0        1        2                          6
//! +--------+--------+--------+--------+--------+--------+----------------------+
//! |  kind  | version|     length of the body (LE)       | envelope | message … |
//! +--------+--------+--------+--------+--------+--------+----------------------+
//! ```
//!
//! Numbers are written as groups of seven bits, the lowest first, each octet but the last with its highest bit set; octets
//! and lists follow their length; an option follows 0 or 1. (So does `postcard`, with which tests compare.) Commands and
//! pieces of snapshots are not copied when they are read: they are parts of what was received.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod message;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use bytes::Bytes;

pub use message::Message;
pub(crate) use message::{
    Append, AppendReply, Body, Commit, Envelope, Heartbeat, HeartbeatReply, PreVote, PreVoteReply,
    ReadAnswer, ReadAsk, SnapshotReply, Verdict, Vote, VoteReply,
};

use crate::DecodeError;
use reader::Reader;

impl Message {
    /// Encodes the message.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        Bytes::from(out)
    }

    /// Appends the encoded message to `out`.
    #[expect(
        clippy::missing_panics_doc,
        reason = "Config::check bounds what a message holds"
    )]
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(writer::size_hint(&self.body));
        let start = out.len();
        out.extend([self.body.kind(), VERSION, 0, 0, 0, 0]);
        writer::put_envelope(out, &self.envelope);
        writer::put_body(out, &self.body);
        let body = start.saturating_add(HEADER_BYTES);
        let length = u32::try_from(out.len().saturating_sub(body))
            .expect("a message is bounded by append_bytes_max and snapshot_chunk_bytes_max");
        let place = out.iter_mut().skip(start.saturating_add(2));
        for (octet, value) in place.zip(length.to_le_bytes()) {
            *octet = value;
        }
    }

    /// Decodes one whole message. Never panics, never allocates by a length that `bytes` claim; what the message carries
    /// stays a part of `bytes`, which is held in memory as a whole as long as an entry of it is.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] says what is wrong, and where.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let kind = open(bytes)?;
        let mut reader = Reader::new(bytes, kind, HEADER_BYTES);
        let envelope = reader.envelope()?;
        let body = reader.body()?;
        reader.end()?;
        Ok(Self { envelope, body })
    }

    /// Returns how many octets the message takes that `bytes` begin with; `None` as long as too few are there to tell.
    ///
    /// For a driver that cuts a stream into messages: it refuses what is longer than it takes.
    pub fn length(bytes: &[u8]) -> Option<usize> {
        let (head, _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let &[_, _, a, b, c, d] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        Some(length.saturating_add(HEADER_BYTES))
    }
}

/// Checks the header; returns the kind.
fn open(bytes: &[u8]) -> Result<u8, DecodeError> {
    let (Some(need), &[kind, version, ..]) = (Message::length(bytes), bytes) else {
        return Err(DecodeError::Truncated {
            need: HEADER_BYTES,
            have: bytes.len(),
        });
    };
    if version != VERSION {
        return Err(DecodeError::UnknownVersion {
            version,
            expected: VERSION,
        });
    }
    if bytes.len() < need {
        return Err(DecodeError::Truncated {
            need,
            have: bytes.len(),
        });
    }
    if bytes.len() > need {
        return Err(DecodeError::TrailingBytes {
            offset: need,
            extra: bytes.len().saturating_sub(need),
        });
    }
    Ok(kind)
}

/// The size of the header in octets.
const HEADER_BYTES: usize = 6;

/// The version of all messages.
const VERSION: u8 = 2;
