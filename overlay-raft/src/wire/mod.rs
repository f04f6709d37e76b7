//! The messages between members, as octets.
//!
//! ```text
//!  0        1        2                          6
//! +--------+--------+--------+--------+--------+--------+----------------------+
//! |  kind  | version|     length of the body (LE)       | envelope | message … |
//! +--------+--------+--------+--------+--------+--------+----------------------+
//! ```
//!
//! Envelope and message are `postcard`. Entries follow their count one by one, so that nothing is allocated by a number
//! that a peer claims.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod message;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use message::{
    Append, AppendReply, Envelope, Heartbeat, HeartbeatReply, Message, PreVote, PreVoteReply,
    SnapshotReply, Verdict, Vote, VoteReply,
};

use crate::{DecodeError, Entry, Index, Payload, Term};

/// Encodes a message.
pub(crate) fn encode(envelope: &Envelope, message: &Message) -> Bytes {
    let mut out = vec![0; HEADER_BYTES];
    put(&mut out, envelope);
    match message {
        Message::PreVote(body) => put(&mut out, body),
        Message::PreVoteReply(body) => put(&mut out, body),
        Message::Vote(body) => put(&mut out, body),
        Message::VoteReply(body) => put(&mut out, body),
        Message::Append(body) => put_append(&mut out, body),
        Message::AppendReply(body) => put(&mut out, body),
        Message::Heartbeat(body) => put(&mut out, body),
        Message::HeartbeatReply(body) => put(&mut out, body),
        Message::Chunk(body) => put(&mut out, body),
        Message::SnapshotReply(body) => put(&mut out, body),
        Message::TimeoutNow => {}
    }
    let length = u32::try_from(out.len().saturating_sub(HEADER_BYTES))
        .expect("a message is bounded by append_bytes_max and snapshot_chunk_bytes_max");
    let header = [message.kind(), VERSION]
        .into_iter()
        .chain(length.to_le_bytes());
    for (octet, value) in out.iter_mut().zip(header) {
        *octet = value;
    }
    Bytes::from(out)
}

/// Decodes a message; never panics and never allocates more than it was given.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Envelope, Message), DecodeError> {
    let (kind, body) = open(bytes)?;
    let mut reader = Reader { kind, bytes, body };
    let envelope = reader.take("envelope")?;
    let message = match kind {
        1 => Message::PreVote(reader.take("pre-vote")?),
        2 => Message::PreVoteReply(reader.take("pre-vote reply")?),
        3 => Message::Vote(reader.take("vote")?),
        4 => Message::VoteReply(reader.take("vote reply")?),
        5 => Message::Append(reader.take_append()?),
        6 => Message::AppendReply(reader.take("append reply")?),
        7 => Message::Heartbeat(reader.take("heartbeat")?),
        8 => Message::HeartbeatReply(reader.take("heartbeat reply")?),
        9 => Message::Chunk(reader.take("snapshot chunk")?),
        10 => Message::SnapshotReply(reader.take("snapshot reply")?),
        11 => Message::TimeoutNow,
        kind => return Err(DecodeError::UnknownKind { kind }),
    };
    if !reader.body.is_empty() {
        return Err(DecodeError::TrailingBytes {
            offset: reader.offset(),
            extra: reader.body.len(),
        });
    }
    Ok((envelope, message))
}

/// Checks the header; returns the kind and the body.
fn open(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let Some((&[kind, version, a, b, c, d], rest)) = bytes.split_first_chunk::<HEADER_BYTES>()
    else {
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
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let need = length.saturating_add(HEADER_BYTES);
    if rest.len() < length {
        return Err(DecodeError::Truncated {
            need,
            have: bytes.len(),
        });
    }
    if rest.len() > length {
        return Err(DecodeError::TrailingBytes {
            offset: need,
            extra: rest.len().saturating_sub(length),
        });
    }
    Ok((kind, rest))
}

struct Reader<'a> {
    kind: u8,
    bytes: &'a [u8],
    body: &'a [u8],
}

impl Reader<'_> {
    fn take<T: DeserializeOwned>(&mut self, part: &'static str) -> Result<T, DecodeError> {
        match postcard::take_from_bytes(self.body) {
            Ok((value, rest)) => {
                self.body = rest;
                Ok(value)
            }
            Err(_) => Err(DecodeError::Malformed {
                kind: self.kind,
                part,
                offset: self.offset(),
            }),
        }
    }

    fn take_append(&mut self) -> Result<Append, DecodeError> {
        let (previous, previous_term, commit): (Index, Term, Index) = self.take("append")?;
        let count: u32 = self.take("count of entries")?;
        let mut entries = Vec::new();
        let mut index = previous;
        for _ in 0..count {
            let (term, payload): (Term, Payload) = self.take("entry")?;
            index = index.next();
            entries.push(Entry {
                index,
                term,
                payload,
            });
        }
        Ok(Append {
            previous,
            previous_term,
            commit,
            entries,
        })
    }

    fn offset(&self) -> usize {
        self.bytes.len().saturating_sub(self.body.len())
    }
}

fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    *out = postcard::to_extend(value, std::mem::take(out))
        .expect("a vector takes everything and no message has a map of unknown length");
}

fn put_append(out: &mut Vec<u8>, append: &Append) {
    put(out, &(append.previous, append.previous_term, append.commit));
    put(
        out,
        &u32::try_from(append.entries.len()).expect("entries_per_append_max is far below 2^32"),
    );
    for entry in &append.entries {
        put(out, &(entry.term, &entry.payload));
    }
}

/// The size of the header in octets.
const HEADER_BYTES: usize = 6;

/// The version of all messages.
const VERSION: u8 = 1;
