//! Packets: the wrappers around the messages of one datagram.

use overlay_core::aead::NONCE_BYTES;

use super::{
    checksum::crc32,
    compress::{compress, decompress},
    kind,
    message::Message,
};
use crate::{
    DecodeError,
    keyring::{Framing, Keyring, SEAL_BYTES},
};

/// What a datagram held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// Parts that were left out: unknown types, malformed or cut parts of a compound.
    pub ignored: usize,
}

/// Packs and unpacks datagrams as one cluster does.
#[derive(Clone, Copy, Debug)]
pub struct PacketCodec<'a> {
    /// The cluster's label, empty for none.
    pub label: &'a [u8],
    /// The keys, if the cluster has any.
    pub keyring: Option<&'a Keyring>,
    /// Whether datagrams in the clear are refused if there are keys.
    pub verify_incoming: bool,
    /// Whether datagrams are encrypted if there are keys.
    pub verify_outgoing: bool,
    /// Whether datagrams are compressed where that makes them shorter.
    pub compress: bool,
    /// Most octets that the compressed parts of one datagram may expand to.
    pub decompressed_bytes_max: usize,
}

impl PacketCodec<'_> {
    /// Packs encoded messages into one datagram; `None` if there are none or more than 255.
    ///
    /// `checksum`: whether the receiver is known to understand one. `nonce` is used if the cluster has keys, and must
    /// never repeat.
    pub fn encode(
        &self,
        parts: &[&[u8]],
        checksum: bool,
        nonce: [u8; NONCE_BYTES],
    ) -> Option<Vec<u8>> {
        let mut content = match parts {
            [single] => single.to_vec(),
            _ => compound(parts)?,
        };
        if self.compress {
            let squeezed = compress(&content);
            if let Some(squeezed) = squeezed.filter(|squeezed| squeezed.len() < content.len()) {
                content = squeezed;
            }
        }
        if checksum {
            let mut wrapped = vec![kind::CRC];
            wrapped.extend_from_slice(&crc32(&content).to_be_bytes());
            wrapped.append(&mut content);
            content = wrapped;
        }
        if let Some(keyring) = self.keyring.filter(|_| self.verify_outgoing) {
            content = keyring.seal(Framing::Plain, nonce, self.label, &content)?;
        }
        Some(labelled(self.label, content))
    }

    /// Unpacks a datagram.
    ///
    /// # Errors
    ///
    /// If nothing of it is readable. Of a compound, what is readable is returned and the rest is counted.
    pub fn decode(&self, bytes: &[u8]) -> Result<Packet, DecodeError> {
        let sealed = unlabel(self.label, bytes)?;
        let opened;
        let content = match self.keyring {
            None => sealed,
            Some(keyring) => match keyring.open(self.label, sealed) {
                Ok(text) => {
                    opened = text;
                    &opened
                }
                Err(error) if self.verify_incoming => return Err(error),
                Err(_) => sealed,
            },
        };
        let content = match content.split_first() {
            Some((&kind::CRC, rest)) => verified(rest)?,
            _ => content,
        };
        let mut unpacking = Unpacking {
            packet: Packet::default(),
            budget: self.decompressed_bytes_max,
            first_error: None,
        };
        unpacking.unpack(content, 0);
        match unpacking.first_error {
            Some(error) if unpacking.packet.messages.is_empty() => Err(error),
            _ => Ok(unpacking.packet),
        }
    }
}

/// Octets that wrappers add around one message, compound and compression aside.
pub fn overhead_bytes(label: &[u8], sealed: bool) -> usize {
    let label = if label.is_empty() {
        0
    } else {
        label.len().saturating_add(LABEL_HEAD_BYTES)
    };
    let seal = if sealed { SEAL_BYTES } else { 0 };
    label.saturating_add(seal).saturating_add(CRC_BYTES)
}

struct Unpacking {
    packet: Packet,
    budget: usize,
    first_error: Option<DecodeError>,
}

impl Unpacking {
    fn unpack(&mut self, bytes: &[u8], depth: usize) {
        let result = match bytes.split_first() {
            _ if depth > DEPTH_MAX => Err(DecodeError::Nested { limit: DEPTH_MAX }),
            Some((&kind::COMPOUND, rest)) => self.compound(rest, depth),
            Some((&kind::COMPRESS, rest)) => self.compressed(rest, depth),
            _ => Message::decode(bytes).map(|message| self.packet.messages.push(message)),
        };
        if let Err(error) = result {
            self.packet.ignored = self.packet.ignored.saturating_add(1);
            self.first_error.get_or_insert(error);
        }
    }

    fn compound(&mut self, rest: &[u8], depth: usize) -> Result<(), DecodeError> {
        let truncated = |need| DecodeError::Truncated {
            need,
            have: rest.len(),
        };
        let (&count, rest) = rest.split_first().ok_or(truncated(1))?;
        let lengths_bytes = usize::from(count).saturating_mul(LENGTH_BYTES);
        let (lengths, mut parts) = rest
            .split_at_checked(lengths_bytes)
            .ok_or(truncated(lengths_bytes))?;
        for length in lengths.chunks_exact(LENGTH_BYTES) {
            let length = length.try_into().map_or(0, u16::from_be_bytes);
            let (part, behind) = parts
                .split_at_checked(usize::from(length))
                .ok_or(truncated(usize::from(length)))?;
            parts = behind;
            self.unpack(part, depth.saturating_add(1));
        }
        Ok(())
    }

    fn compressed(&mut self, rest: &[u8], depth: usize) -> Result<(), DecodeError> {
        // What fails costs all that is left: else each part of a compound could cost as much again.
        let budget = std::mem::take(&mut self.budget);
        let (content, _) = decompress(rest, budget)?;
        self.budget = budget.saturating_sub(content.len());
        self.unpack(&content, depth.saturating_add(1));
        Ok(())
    }
}

fn compound(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let count = u8::try_from(parts.len()).ok().filter(|count| *count > 0)?;
    let mut out = vec![kind::COMPOUND, count];
    for part in parts {
        out.extend_from_slice(&u16::try_from(part.len()).ok()?.to_be_bytes());
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    Some(out)
}

fn verified(rest: &[u8]) -> Result<&[u8], DecodeError> {
    let (claimed, content) = rest
        .split_first_chunk::<4>()
        .ok_or(DecodeError::Truncated {
            need: CRC_BYTES,
            have: rest.len(),
        })?;
    let (expected, found) = (u32::from_be_bytes(*claimed), crc32(content));
    if expected == found {
        Ok(content)
    } else {
        Err(DecodeError::Checksum { expected, found })
    }
}

/// Puts the label in front.
pub(crate) fn labelled(label: &[u8], content: Vec<u8>) -> Vec<u8> {
    match u8::try_from(label.len()) {
        Ok(length) if length > 0 => {
            let mut out = vec![kind::LABEL, length];
            out.extend_from_slice(label);
            out.extend_from_slice(&content);
            out
        }
        _ => content,
    }
}

/// Cuts the label off and compares it; with an empty label, nothing may begin like one.
pub(crate) fn unlabel<'a>(label: &[u8], bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Truncated { need: 1, have: 0 }),
        Some((&kind::LABEL, rest)) => {
            let (&length, rest) = rest
                .split_first()
                .ok_or(DecodeError::Truncated { need: 2, have: 1 })?;
            let (found, content) =
                rest.split_at_checked(usize::from(length))
                    .ok_or(DecodeError::Truncated {
                        need: usize::from(length),
                        have: rest.len(),
                    })?;
            if found == label && !label.is_empty() {
                Ok(content)
            } else {
                Err(DecodeError::Label)
            }
        }
        Some(_) if label.is_empty() => Ok(bytes),
        Some(_) => Err(DecodeError::Label),
    }
}

/// Octets of a compound's head.
pub(crate) const COMPOUND_BYTES: usize = 2;
/// Octets of a length in a compound's head.
pub(crate) const LENGTH_BYTES: usize = 2;
/// Most parts of a compound.
pub(crate) const PARTS_MAX: usize = 255;
const LABEL_HEAD_BYTES: usize = 2;
const CRC_BYTES: usize = 5;
const DEPTH_MAX: usize = 4;
