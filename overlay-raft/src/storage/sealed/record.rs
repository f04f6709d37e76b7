//! Sealed records: what one append, or one truncation, did to a file.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use overlay_core::aead::{AeadError, NONCE_BYTES, TAG_BYTES};

use super::{
    super::crc::crc32c,
    key::{FILE_BYTES, FileKey},
};

/// Where a record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The offset in the sealed file at which it begins.
    pub(super) position: u64,
    /// How many octets before it may not be durable yet when it is written; [`UNSYNCED_UNKNOWN`] if too many.
    pub(super) unsynced: u32,
    /// What names the record before it.
    pub(super) link: Link,
}

/// The beginning of a record's tag, or of the file's identity before the first.
pub(super) type Link = [u8; LINK_BYTES];

/// A record whose header is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: u8,
    pub(super) place: Place,
    nonce: [u8; NONCE_BYTES],
    head: &'a [u8; HEAD_BYTES],
    /// Text and tag.
    sealed: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the record at the beginning of `bytes`, which stands at `position` in its file.
    pub(super) fn parse(position: u64, bytes: &'a [u8]) -> Result<Self, &'static str> {
        let (head, rest) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or("the file ends within a record")?;
        let (covered, sum) = head.split_last_chunk::<4>().ok_or(CHECKSUM)?;
        if checksum(position, covered) != u32::from_le_bytes(*sum) {
            return Err(CHECKSUM);
        }
        let &[kind, l0, l1, l2, u0, u1, u2, u3, ref names @ ..] = covered else {
            return Err(CHECKSUM);
        };
        let (link, nonce) = names.split_first_chunk().ok_or(CHECKSUM)?;
        let nonce = nonce.first_chunk().ok_or(CHECKSUM)?;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, 0])).unwrap_or(usize::MAX);
        if length > TEXT_BYTES_MAX {
            return Err("a record is longer than any");
        }
        let sealed = rest
            .get(..length.saturating_add(TAG_BYTES))
            .ok_or("the file ends within a record")?;
        Ok(Self {
            kind,
            place: Place {
                position,
                unsynced: u32::from_le_bytes([u0, u1, u2, u3]),
                link: *link,
            },
            nonce: *nonce,
            head,
            sealed,
        })
    }

    /// Checks the record and appends its text to `out`, which is unchanged if it is not authentic.
    pub(super) fn open(&self, key: &FileKey, out: &mut Vec<u8>) -> Result<(), AeadError> {
        let from = out.len();
        out.extend_from_slice(self.sealed);
        let associated = associated(key, self.place.position, self.head);
        let opened = key.cipher.open(self.nonce, &associated, out, from);
        if opened.is_err() {
            out.truncate(from);
        }
        opened
    }

    /// Returns its size in octets.
    pub(super) fn length(&self) -> usize {
        HEAD_BYTES.saturating_add(self.sealed.len())
    }

    /// Returns the offset in the file up to which everything was durable when it was written.
    pub(super) fn durable(&self) -> u64 {
        match self.place.unsynced {
            UNSYNCED_UNKNOWN => 0,
            unsynced => self.place.position.saturating_sub(u64::from(unsynced)),
        }
    }

    /// Returns what the next record names it by.
    pub(super) fn link(&self) -> Link {
        link_of(self.sealed)
    }
}

/// Seals `text`, of at most [`TEXT_BYTES_MAX`] octets, as a record; returns it and what the next one names it by.
pub(super) fn seal(
    key: &FileKey,
    place: Place,
    kind: u8,
    nonce: [u8; NONCE_BYTES],
    text: &[u8],
) -> Result<(Vec<u8>, Link), AeadError> {
    let found = text.len();
    let length = u32::try_from(found)
        .ok()
        .filter(|_| found <= TEXT_BYTES_MAX)
        .ok_or(AeadError::TooLong { found })?;
    let [l0, l1, l2, _] = length.to_le_bytes();
    let mut out = Vec::with_capacity(found.saturating_add(OVERHEAD_BYTES));
    out.extend([kind, l0, l1, l2]);
    out.extend(place.unsynced.to_le_bytes());
    out.extend(place.link);
    out.extend(nonce);
    let sum = checksum(place.position, &out);
    out.extend(sum.to_le_bytes());
    let head = out.first_chunk().ok_or(AeadError::TooLong { found })?;
    let associated = associated(key, place.position, head);
    out.extend_from_slice(text);
    key.cipher.seal(nonce, &associated, &mut out, HEAD_BYTES)?;
    let link = link_of(&out);
    Ok((out, link))
}

/// Returns what names a record that ends with its tag.
fn link_of(sealed: &[u8]) -> Link {
    sealed
        .last_chunk::<TAG_BYTES>()
        .and_then(|tag| tag.first_chunk())
        .copied()
        .unwrap_or_default()
}

fn checksum(position: u64, covered: &[u8]) -> u32 {
    crc32c(crc32c(0, &position.to_le_bytes()), covered)
}

/// The file, the position and the header.
fn associated(key: &FileKey, position: u64, head: &[u8; HEAD_BYTES]) -> [u8; ASSOCIATED_BYTES] {
    let mut out = [0; ASSOCIATED_BYTES];
    let position = position.to_le_bytes();
    let octets = key.file.iter().chain(&position).chain(head);
    for (to, octet) in out.iter_mut().zip(octets) {
        *to = *octet;
    }
    out
}

/// The text continues the file.
pub(super) const APPEND: u8 = 1;
/// The text is the length, in 8 octets, that the file is cut to.
pub(super) const CUT: u8 = 2;

/// More than can be said.
pub(super) const UNSYNCED_UNKNOWN: u32 = u32::MAX;
/// Octets of text that one record takes; what is longer becomes several.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Octets that a record adds to its text.
pub(super) const OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;
const LINK_BYTES: usize = 8;
const HEAD_BYTES: usize = 32;
const ASSOCIATED_BYTES: usize = FILE_BYTES + 8 + HEAD_BYTES;
const CHECKSUM: &str = "checksum of a record's header";
