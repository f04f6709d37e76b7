//! Streams: one request, at most one reply, each one message with its wrappers.

use overlay_core::aead::NONCE_BYTES;

use super::{
    compress::{compress, decompress},
    kind,
    message::{Ack, Message, Ping, PushPull, PushPullNode},
    msgpack::{Reader, Writer},
    packet::{labelled, unlabel},
};
use crate::{
    DecodeError,
    keyring::{Framing, Keyring},
};

/// The message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// The whole state; answered with the receiver's.
    PushPull(PushPull),
    /// Answered with an ack.
    Ping(Ping),
    /// The answer to a ping.
    Ack(Ack),
    /// Octets of the application; not answered.
    User(Vec<u8>),
    /// What the other side did not like.
    Error(String),
}

/// Packs streams as one cluster does.
#[derive(Clone, Copy, Debug)]
pub struct StreamCodec<'a> {
    /// The cluster's label, empty for none.
    pub label: &'a [u8],
    /// The keys, if the cluster has any.
    pub keyring: Option<&'a Keyring>,
    /// Whether streams in the clear are refused if there are keys.
    pub verify_incoming: bool,
    /// Whether streams are encrypted if there are keys.
    pub verify_outgoing: bool,
    /// Whether streams are compressed.
    pub compress: bool,
    /// Most octets of a stream's message, as it comes and expanded.
    pub stream_bytes_max: usize,
}

impl StreamCodec<'_> {
    /// Packs a message; `dialler` says whether the stream was opened by this side, which then names the label.
    pub fn encode(
        &self,
        message: &StreamMessage,
        dialler: bool,
        nonce: [u8; NONCE_BYTES],
    ) -> Option<Vec<u8>> {
        let mut content = message.encode();
        if self.compress {
            content = compress(&content)?;
        }
        if let Some(keyring) = self.keyring.filter(|_| self.verify_outgoing) {
            let length = content.len().checked_add(crate::keyring::SEAL_BYTES)?;
            let mut out = vec![kind::ENCRYPT];
            out.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
            let associated = [&out, self.label].concat();
            let frame = keyring.seal(Framing::Plain, nonce, &associated, &content)?;
            out.extend_from_slice(&frame);
            content = out;
        }
        Some(if dialler {
            labelled(self.label, content)
        } else {
            content
        })
    }

    /// Reads the message from the front of `bytes`; `None` if it is not complete yet.
    fn decode(
        &self,
        bytes: &[u8],
        dialled: bool,
        partial: &mut Partial,
    ) -> Result<Option<StreamMessage>, DecodeError> {
        let incomplete = |result| match result {
            Err(DecodeError::Truncated { .. }) => Ok(None),
            other => other.map(Some),
        };
        let content = if dialled {
            bytes
        } else {
            match unlabel(self.label, bytes) {
                Err(DecodeError::Truncated { .. }) => return Ok(None),
                other => other?,
            }
        };
        match content.split_first() {
            None => Ok(None),
            Some((&kind::ENCRYPT, _)) => {
                let Some(text) = self.open(content)? else {
                    return Ok(None);
                };
                self.expanded(&text).map(Some)
            }
            Some(_) if self.keyring.is_some() && self.verify_incoming => Err(DecodeError::Sealed),
            Some((&kind::COMPRESS, _)) => incomplete(self.expanded(content)),
            Some((&kind::PUSH_PULL, rest)) => partial.push_pull(rest, self.stream_bytes_max),
            Some(_) => incomplete(StreamMessage::decode(content, self.stream_bytes_max)),
        }
    }

    fn open(&self, content: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
        let keyring = self.keyring.ok_or(DecodeError::Sealed)?;
        let Some((head, rest)) = content.split_first_chunk::<ENCRYPT_HEAD_BYTES>() else {
            return Ok(None);
        };
        let [_, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.stream_bytes_max {
            return Err(too_long(self.stream_bytes_max, length));
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let associated = [head.as_slice(), self.label].concat();
        keyring.open(&associated, frame).map(Some)
    }

    /// Decodes what is complete by its wrapper: being cut is malformed here.
    fn expanded(&self, content: &[u8]) -> Result<StreamMessage, DecodeError> {
        match content.split_first() {
            Some((&kind::COMPRESS, rest)) => {
                let (content, _) = decompress(rest, self.stream_bytes_max)?;
                let message = StreamMessage::decode(&content, self.stream_bytes_max);
                message.map_err(|error| match error {
                    DecodeError::Truncated { .. } => DecodeError::Compression,
                    other => other,
                })
            }
            _ => StreamMessage::decode(content, self.stream_bytes_max),
        }
    }
}

/// Gathers the octets of one direction of a stream until its message is complete.
#[derive(Debug, Default)]
pub struct StreamReader {
    buffer: Vec<u8>,
    partial: Partial,
}

impl StreamReader {
    /// Makes a reader with nothing read.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the octets that wait for the rest.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Returns whether nothing arrived yet.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Takes octets; returns the message once it is complete. `dialled`: whether this side opened the stream.
    ///
    /// # Errors
    ///
    /// If it can become no message any more: close the stream.
    pub fn push(
        &mut self,
        codec: &StreamCodec<'_>,
        dialled: bool,
        bytes: &[u8],
    ) -> Result<Option<StreamMessage>, DecodeError> {
        let found = self.buffer.len().saturating_add(bytes.len());
        let limit = codec.stream_bytes_max;
        if found > limit.saturating_add(WRAPPER_BYTES_MAX) {
            return Err(too_long(limit, found));
        }
        self.buffer.extend_from_slice(bytes);
        codec.decode(&self.buffer, dialled, &mut self.partial)
    }
}

/// How far a push/pull in the clear was read, so that each octet is looked at once.
#[derive(Debug, Default)]
struct Partial {
    offset: usize,
    header: Option<Header>,
    nodes: Vec<PushPullNode>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Header {
    nodes: u64,
    user_state_bytes: usize,
    join: bool,
}

impl Partial {
    fn push_pull(
        &mut self,
        bytes: &[u8],
        limit: usize,
    ) -> Result<Option<StreamMessage>, DecodeError> {
        match self.advance(bytes, limit) {
            Ok(push_pull) => Ok(Some(StreamMessage::PushPull(push_pull))),
            Err(DecodeError::Truncated { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn advance(&mut self, bytes: &[u8], limit: usize) -> Result<PushPull, DecodeError> {
        let mut reader = Reader::new(bytes, self.offset);
        let header = match self.header {
            Some(header) => header,
            None => *self.header.insert(Header::parse(&mut reader)?),
        };
        if header.nodes > NODES_MAX || header.user_state_bytes > limit {
            return Err(DecodeError::Value { field: "Nodes" });
        }
        self.offset = reader.offset();
        while u64::try_from(self.nodes.len()).unwrap_or(u64::MAX) < header.nodes {
            self.nodes.push(PushPullNode::parse(&mut reader)?);
            self.offset = reader.offset();
        }
        let user_state = reader.take(header.user_state_bytes)?.to_vec();
        Ok(PushPull {
            join: header.join,
            nodes: std::mem::take(&mut self.nodes),
            user_state,
        })
    }
}

impl Header {
    fn parse(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut header = Self::default();
        for _ in 0..reader.map()? {
            match reader.raw()? {
                b"Nodes" => header.nodes = reader.uint("Nodes")?,
                b"UserStateLen" => header.user_state_bytes = reader.number("UserStateLen")?,
                b"Join" => header.join = reader.boolean()?,
                _ => reader.skip()?,
            }
        }
        Ok(header)
    }
}

impl StreamMessage {
    /// Encodes the message without wrappers, type octet first.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::PushPull(push_pull) => push_pull.encode(),
            Self::Ping(ping) => Message::Ping(ping.clone()).encode(),
            Self::Ack(ack) => Message::Ack(ack.clone()).encode(),
            Self::User(bytes) => {
                let mut out = vec![kind::USER];
                let mut writer = Writer(&mut out);
                writer.map(1);
                writer
                    .key("UserMsgLen")
                    .uint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                out.extend_from_slice(bytes);
                out
            }
            Self::Error(text) => {
                let mut out = vec![kind::ERROR];
                let mut writer = Writer(&mut out);
                writer.map(1);
                writer.key("Error").raw(text.as_bytes());
                out
            }
        }
    }

    /// Decodes a message without wrappers; [`DecodeError::Truncated`] if it is not complete.
    ///
    /// # Errors
    ///
    /// What is malformed.
    pub fn decode(bytes: &[u8], stream_bytes_max: usize) -> Result<Self, DecodeError> {
        let (&first, body) = bytes
            .split_first()
            .ok_or(DecodeError::Truncated { need: 1, have: 0 })?;
        let reader = &mut Reader::new(body, 0);
        Ok(match first {
            kind::PUSH_PULL => Self::PushPull(Partial::default().advance(body, stream_bytes_max)?),
            kind::PING => Self::Ping(Ping::parse(reader)?),
            kind::ACK => Self::Ack(Ack::parse(reader)?),
            kind::USER => Self::User(user(reader, stream_bytes_max)?),
            kind::ERROR => Self::Error(error_text(reader)?),
            found => return Err(DecodeError::Kind { found }),
        })
    }
}

impl PushPull {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![kind::PUSH_PULL];
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let mut writer = Writer(&mut out);
        writer.map(3);
        writer.key("Join").boolean(self.join);
        writer.key("Nodes").uint(count(self.nodes.len()));
        writer
            .key("UserStateLen")
            .uint(count(self.user_state.len()));
        for node in &self.nodes {
            node.emit(&mut out);
        }
        out.extend_from_slice(&self.user_state);
        out
    }
}

fn user(reader: &mut Reader<'_>, limit: usize) -> Result<Vec<u8>, DecodeError> {
    let mut length = 0;
    for _ in 0..reader.map()? {
        match reader.raw()? {
            b"UserMsgLen" => length = reader.number("UserMsgLen")?,
            _ => reader.skip()?,
        }
    }
    if length > limit {
        return Err(too_long(limit, length));
    }
    reader.take(length).map(<[u8]>::to_vec)
}

fn error_text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    let mut text = &[][..];
    for _ in 0..reader.map()? {
        match reader.raw()? {
            b"Error" => text = reader.raw()?,
            _ => reader.skip()?,
        }
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn too_long(limit: usize, found: usize) -> DecodeError {
    DecodeError::TooLong {
        what: "stream",
        limit,
        found,
    }
}

const ENCRYPT_HEAD_BYTES: usize = 5;
/// Label and head of the encryption frame.
const WRAPPER_BYTES_MAX: usize = 300;
/// Most nodes of a push/pull (memberlist).
const NODES_MAX: u64 = 1_048_576;
