//! Records: one part of a write each.

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde::Serialize;

use super::{Damage, crc::crc32c};
use crate::{Entry, HardState, Index, Membership, Snapshot, Term, persist::Write};

/// What a record holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Content {
    Snapshot(Snapshot),
    Truncate(Index),
    Entry(Entry),
    HardState(HardState),
}

/// A record that is whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// The number of the write that it is a part of.
    pub(super) write: u64,
    /// Whether it is the write's last.
    pub(super) last: bool,
    pub(super) content: Content,
    /// The commit index, on the last record of a write that holds no hard state.
    pub(super) commit: Option<Index>,
    /// The size of the record in octets.
    pub(super) length: usize,
}

/// Encodes a write as a row of records. The hard state is the last, unless it `is_known` but for the commit index and there are
/// entries, the last of which tells that.
pub(super) fn encode(segment: u64, number: u64, write: &Write, is_known: bool) -> Vec<u8> {
    let needs_state = !is_known || write.snapshot.is_some() || write.entries.is_empty();
    let mut left = write.entries.len();
    let mut out = Vec::new();
    let mut put =
        |kind: u8, flags: u8, body: &[u8]| emit(&mut out, segment, number, kind, flags, body);
    if let Some(snapshot) = &write.snapshot {
        let head = (
            snapshot.index,
            snapshot.term,
            &snapshot.membership,
            snapshot.data.len(),
        );
        let mut body = serialize(&head);
        body.extend_from_slice(&snapshot.data);
        put(SNAPSHOT, 0, &body);
    }
    if let Some(index) = &write.truncate_from {
        put(TRUNCATE, 0, &serialize(index));
    }
    for entry in write.entries.iter() {
        left = left.saturating_sub(1);
        if left == 0 && !needs_state {
            put(ENTRY, LAST, &serialize(&(entry, write.hard_state.commit)));
        } else {
            put(ENTRY, 0, &serialize(entry));
        }
    }
    if needs_state {
        put(HARD_STATE, LAST, &serialize(&write.hard_state));
    }
    out
}

/// Decodes the record at the beginning of `bytes`, which are in segment `segment`.
pub(super) fn decode(segment: u64, bytes: &[u8]) -> Result<Record, Damage> {
    let (header, body, expected) = frame(segment, bytes)?;
    if header.checksum != expected {
        return Err(Damage::Checksum {
            expected,
            found: header.checksum,
        });
    }
    let (kind, version) = (header.kind, header.version);
    if version != VERSION {
        return Err(Damage::Unknown { kind, version });
    }
    let malformed = |_| Damage::Malformed { kind };
    let last = header.flags & LAST != 0;
    let mut commit = None;
    let (content, rest) = match kind {
        SNAPSHOT => snapshot(body)
            .map(|snapshot| (Content::Snapshot(snapshot), 0))
            .ok_or(Damage::Malformed { kind })?,
        TRUNCATE => postcard::take_from_bytes(body)
            .map(|(index, rest)| (Content::Truncate(index), rest.len()))
            .map_err(malformed)?,
        ENTRY if last => postcard::take_from_bytes::<(_, Index)>(body)
            .map(|((entry, at), rest)| {
                commit = Some(at);
                (Content::Entry(entry), rest.len())
            })
            .map_err(malformed)?,
        ENTRY => postcard::take_from_bytes(body)
            .map(|(entry, rest)| (Content::Entry(entry), rest.len()))
            .map_err(malformed)?,
        HARD_STATE => postcard::take_from_bytes(body)
            .map(|(state, rest)| (Content::HardState(state), rest.len()))
            .map_err(malformed)?,
        kind => return Err(Damage::Unknown { kind, version }),
    };
    if rest > 0 {
        return Err(Damage::Malformed { kind });
    }
    Ok(Record {
        write: header.write,
        last,
        content,
        commit,
        length: HEADER_BYTES.saturating_add(body.len()),
    })
}

/// Returns whether `bytes` begin with a whole record, whatever it holds, of one of these writes.
///
/// Of other octets, most are told by the number alone: a checksum over whatever a length claims takes long.
pub(super) fn is_of_write(segment: u64, bytes: &[u8], writes: RangeInclusive<u64>) -> bool {
    let number = bytes
        .get(8..)
        .and_then(<[u8]>::first_chunk)
        .map(|number| u64::from_le_bytes(*number));
    number.is_some_and(|number| writes.contains(&number))
        && frame(segment, bytes).is_ok_and(|(header, _, expected)| header.checksum == expected)
}

struct Header {
    kind: u8,
    version: u8,
    flags: u8,
    write: u64,
    checksum: u32,
}

/// Takes a record apart; returns its header, its body and the checksum that it should have.
fn frame(segment: u64, bytes: &[u8]) -> Result<(Header, &[u8], u32), Damage> {
    let size = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Damage::Truncated {
            need: size(HEADER_BYTES),
            have: size(bytes.len()),
        });
    };
    let &[
        kind,
        version,
        flags,
        zero,
        l0,
        l1,
        l2,
        l3,
        w0,
        w1,
        w2,
        w3,
        w4,
        w5,
        w6,
        w7,
        c0,
        c1,
        c2,
        c3,
    ] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let Some(body) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
    else {
        return Err(Damage::Truncated {
            need: u64::from(length).saturating_add(size(HEADER_BYTES)),
            have: size(bytes.len()),
        });
    };
    let write = u64::from_le_bytes([w0, w1, w2, w3, w4, w5, w6, w7]);
    let expected = checksum(segment, [kind, version, flags, zero], length, write, body);
    let header = Header {
        kind,
        version,
        flags,
        write,
        checksum: u32::from_le_bytes([c0, c1, c2, c3]),
    };
    Ok((header, body, expected))
}

fn emit(out: &mut Vec<u8>, segment: u64, write: u64, kind: u8, flags: u8, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("a record is bounded by snapshot_bytes_max");
    let head = [kind, VERSION, flags, 0];
    out.extend(head);
    out.extend(length.to_le_bytes());
    out.extend(write.to_le_bytes());
    out.extend(checksum(segment, head, length, write, body).to_le_bytes());
    out.extend_from_slice(body);
}

fn checksum(segment: u64, head: [u8; 4], length: u32, write: u64, body: &[u8]) -> u32 {
    let sum = crc32c(0, &segment.to_le_bytes());
    let sum = crc32c(sum, &head);
    let sum = crc32c(sum, &length.to_le_bytes());
    let sum = crc32c(sum, &write.to_le_bytes());
    crc32c(sum, body)
}

/// The state is copied as it is: it may be long, and `postcard` takes octets one by one.
fn snapshot(body: &[u8]) -> Option<Snapshot> {
    type Head = (Index, Term, Membership, usize);
    let ((index, term, membership, length), data): (Head, &[u8]) =
        postcard::take_from_bytes(body).ok()?;
    (data.len() == length).then(|| Snapshot {
        index,
        term,
        membership,
        data: Bytes::copy_from_slice(data),
    })
}

fn serialize(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value)
        .expect("a vector takes everything and no record has a map of unknown length")
}

const HEADER_BYTES: usize = 20;
const VERSION: u8 = 2;

/// Flags the last record of a write.
const LAST: u8 = 1;

const SNAPSHOT: u8 = 1;
const TRUNCATE: u8 = 2;
const ENTRY: u8 = 3;
const HARD_STATE: u8 = 4;
