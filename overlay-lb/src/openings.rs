//! Connections that no backend has answered yet: one that refuses, or says nothing, is not the last word while there are
//! others.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use overlay_core::Instant;

use crate::{
    BackendId, Config, PartialChecksum,
    flows::Packed,
    wire::{Sum, read_u16, write},
};

/// First segments of connections, as their clients sent them: bounded in number, octets and time.
#[derive(Debug)]
pub(crate) struct Openings {
    entries: BTreeMap<Packed, Opening>,
    /// In the order in which they began, with those that are gone since.
    order: VecDeque<(Instant, Packed)>,
    max: usize,
}

#[derive(Debug)]
pub(crate) struct Opening {
    /// The frame, its checksum complete.
    pub(crate) first: Box<[u8]>,
    /// What a refusal acknowledges.
    pub(crate) next: u32,
    /// The backends that did not take it.
    pub(crate) tried: Vec<BackendId>,
    began: Instant,
    /// When a backend was chosen last.
    chosen: Instant,
}

impl Openings {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            max: config.openings_max.into(),
        }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes a first segment that goes to a backend now. What there is no room for is not tried again.
    pub(crate) fn begin(
        &mut self,
        key: Packed,
        bytes: &[u8],
        partial: Option<PartialChecksum>,
        next: u32,
        now: Instant,
    ) {
        while let Some((began, key)) = self.order.front()
            && (self.order.len() >= self.max || *began + OPENING_FOR <= now)
        {
            if self
                .entries
                .get(key)
                .is_some_and(|entry| entry.began == *began)
            {
                self.entries.remove(key);
            }
            self.order.pop_front();
        }
        if let Some(opening) = self
            .entries
            .get_mut(&key)
            .filter(|known| known.next == next)
        {
            opening.chosen = now;
            return;
        }
        if self.max == 0 || bytes.len() > FIRST_BYTES_MAX {
            return;
        }
        let mut first: Box<[u8]> = bytes.into();
        complete(&mut first, partial);
        let opening = Opening {
            first,
            next,
            tried: Vec::new(),
            began: now,
            chosen: now,
        };
        self.entries.insert(key, opening);
        self.order.push_back((now, key));
    }

    pub(crate) fn get_mut(&mut self, key: &Packed) -> Option<&mut Opening> {
        self.entries.get_mut(key)
    }

    /// Returns the backends that did not take a connection.
    pub(crate) fn tried(&self, key: &Packed) -> &[BackendId] {
        self.entries.get(key).map_or(&[], |opening| &opening.tried)
    }

    /// Returns whether a backend has said nothing for so long that its client asks again.
    pub(crate) fn is_silent(&self, key: &Packed, now: Instant) -> bool {
        let opening = self.entries.get(key);
        opening.is_some_and(|opening| opening.chosen + SILENCE <= now)
    }

    /// Forgets a connection: a backend has answered it.
    pub(crate) fn end(&mut self, key: &Packed) {
        self.entries.remove(key);
    }
}

/// Does what a sender has left to the device: nobody knows which device sends the copy.
fn complete(bytes: &mut [u8], partial: Option<PartialChecksum>) {
    let Some(partial) = partial else { return };
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    let (Some(rest), Some(_)) = (bytes.get(start..), read_u16(bytes, at)) else {
        return;
    };
    // The field holds the sum of the pseudo-header, and counts as such.
    let mut sum = Sum::default();
    sum.add(rest);
    let checksum = sum.finish();
    write(bytes, at, checksum.to_be_bytes());
}

/// How many backends a connection is tried at.
pub(crate) const TRIES_MAX: usize = 3;
/// How long a backend may take to answer; clients ask again after a second (RFC 6298 §2).
const SILENCE: Duration = Duration::from_millis(800);
/// How long a first segment is kept: clients have asked again three times by then.
const OPENING_FOR: Duration = Duration::from_secs(10);
/// The longest first segment that is kept, in octets of its frame: headers with all their options, and no data.
const FIRST_BYTES_MAX: usize = 160;
