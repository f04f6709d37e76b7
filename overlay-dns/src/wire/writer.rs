//! Emits a message into a buffer that the caller keeps, with name compression (RFC 1035 §4.1.4).

use thiserror::Error;

use super::{Class, Edns, HEADER_BYTES, Header, Name, RecordType, Section};

/// Offsets from here on do not fit into a compression pointer.
const POINTER_LIMIT: usize = 0x4000;
const SLOTS: usize = 256;
/// What stands before the data of a record whose owner is a pointer.
const FIXED_BYTES: usize = 12;

/// What is to be written does not fit into the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the message is full")]
pub struct Full;

/// Remembers where names stand in the message being written. Kept between messages to spare the allocation.
#[derive(Clone, Debug)]
pub struct Compressor {
    slots: Box<[u16; SLOTS]>,
    dirty: bool,
}

impl Compressor {
    /// Makes an empty one.
    #[inline]
    pub fn new() -> Self {
        Self {
            slots: Box::new([0; SLOTS]),
            dirty: false,
        }
    }

    #[inline]
    fn clear(&mut self) {
        if self.dirty {
            self.slots.fill(0);
            self.dirty = false;
        }
    }

    /// Returns the slot of a name. A collision costs a compression, never correctness.
    fn slot(&mut self, wire: &[u8]) -> Option<&mut u16> {
        let hash = wire.iter().fold(0x811c_9dc5_u32, |hash, octet| {
            (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193) // FNV-1a
        });
        let [.., high, low] = (hash ^ hash >> 16).to_be_bytes();
        self.slots.get_mut(usize::from(high ^ low))
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

/// The owner of a record that is written.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A name that stands at this offset, below 0x4000.
    At(u16),
    /// Any name.
    Name(&'a Name),
}

/// A place to return to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    len: usize,
    counts: [u16; 3],
}

/// Writes one message from the beginning of a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    compressor: &'a mut Compressor,
    limit: usize,
    questions: u16,
    counts: [u16; 3],
}

impl<'a> Writer<'a> {
    /// Empties `out` and leaves room for the header. The message will have at most `limit` octets.
    pub fn new(out: &'a mut Vec<u8>, compressor: &'a mut Compressor, limit: usize) -> Self {
        out.clear();
        out.resize(HEADER_BYTES, 0);
        compressor.clear();
        Self {
            out,
            compressor,
            limit: limit.min(usize::from(u16::MAX)),
            questions: 0,
            counts: [0; 3],
        }
    }

    /// Writes a question as it was asked. It is the first thing in a message, and not subject to the limit.
    #[inline]
    pub fn question(&mut self, wire: &[u8]) {
        self.out.extend_from_slice(wire);
        self.questions = self.questions.saturating_add(1);
    }

    /// Lets later names be compressed against the question's name.
    pub fn remember_question(&mut self) {
        if let Ok((name, _)) = Name::decode(self.out, HEADER_BYTES) {
            self.remember(&name, HEADER_BYTES);
        }
    }

    /// Writes a record whose data `rdata` writes.
    ///
    /// # Errors
    ///
    /// [`Full`]: the record did not fit, and the message is as before.
    #[inline]
    pub fn record(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        (kind, class, ttl): (RecordType, Class, u32),
        rdata: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        let mark = self.mark();
        let written = self.try_record(owner, (kind, class, ttl), rdata);
        if written.is_err() {
            self.rollback(mark);
            return written;
        }
        let count = self.count(section);
        *count = count.saturating_add(1);
        Ok(())
    }

    #[inline]
    fn try_record(
        &mut self,
        owner: Owner<'_>,
        (kind, class, ttl): (RecordType, Class, u32),
        rdata: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        match owner {
            Owner::At(offset) => self.bytes(&(offset | 0xc000).to_be_bytes())?,
            Owner::Name(name) => self.name(name, true)?,
        }
        let ([a, b], [c, d]) = (kind.0.to_be_bytes(), class.0.to_be_bytes());
        let [e, f, g, h] = ttl.to_be_bytes();
        self.bytes(&[a, b, c, d, e, f, g, h, 0, 0])?;
        let start = self.out.len();
        rdata(self)?;
        let length = self.out.len().saturating_sub(start);
        let length = u16::try_from(length).map_err(|_| Full)?.to_be_bytes();
        let place = start.saturating_sub(2)..start;
        if let Some(place) = self.out.get_mut(place) {
            place.copy_from_slice(&length);
        }
        Ok(())
    }

    /// Writes a whole set of records whose data have one size, or nothing of it.
    ///
    /// # Errors
    ///
    /// [`Full`]: the set did not fit, and the message is as before.
    #[inline]
    pub(crate) fn fixed_set<const N: usize>(
        &mut self,
        section: Section,
        owner_at: u16,
        (kind, class, ttl): (RecordType, Class, u32),
        members: &[[u8; N]],
    ) -> Result<(), Full> {
        let ([a, b], [c, d]) = ((owner_at | 0xc000).to_be_bytes(), kind.0.to_be_bytes());
        let ([e, f], [g, h, i, j]) = (class.0.to_be_bytes(), ttl.to_be_bytes());
        let [k, l] = u16::try_from(N).map_err(|_| Full)?.to_be_bytes();
        let head: [u8; FIXED_BYTES] = [a, b, c, d, e, f, g, h, i, j, k, l];
        let one = FIXED_BYTES.saturating_add(N);
        let start = self.out.len();
        let end = start.saturating_add(members.len().saturating_mul(one));
        if end > self.limit {
            return Err(Full);
        }
        self.out.resize(end, 0);
        let places = self.out.get_mut(start..).unwrap_or_default();
        for (place, member) in places.chunks_exact_mut(one).zip(members) {
            if let Some((first, rest)) = place.split_first_chunk_mut() {
                *first = head;
                rest.copy_from_slice(member);
            }
        }
        let added = u16::try_from(members.len()).map_err(|_| Full)?;
        let count = self.count(section);
        *count = count.saturating_add(added);
        Ok(())
    }

    /// Writes octets as they are.
    ///
    /// # Errors
    ///
    /// [`Full`]: they did not fit; nothing was written.
    #[inline]
    pub fn bytes(&mut self, octets: &[u8]) -> Result<(), Full> {
        if self.out.len().saturating_add(octets.len()) > self.limit {
            return Err(Full);
        }
        self.out.extend_from_slice(octets);
        Ok(())
    }

    /// Writes a name; compressed against what stands in the message already if `compress`.
    ///
    /// # Errors
    ///
    /// [`Full`]: it did not fit; a part may have been written.
    pub fn name(&mut self, name: &Name, compress: bool) -> Result<(), Full> {
        let at = self.out.len();
        for skipped in 0..name.count() {
            let suffix = name.suffix(skipped);
            let found = compress.then(|| self.find(suffix)).flatten();
            if let Some(offset) = found {
                self.bytes(name.prefix(skipped))?;
                self.bytes(&(offset | 0xc000).to_be_bytes())?;
                self.remember_labels(name, skipped, at);
                return Ok(());
            }
        }
        self.bytes(name.as_bytes())?;
        self.bytes(&[0])?;
        self.remember(name, at);
        Ok(())
    }

    /// Returns the place that has been reached.
    pub fn mark(&self) -> Mark {
        Mark {
            len: self.out.len(),
            counts: self.counts,
        }
    }

    /// Takes back everything that was written after `mark`.
    pub fn rollback(&mut self, mark: Mark) {
        self.out.truncate(mark.len);
        self.counts = mark.counts;
        self.compressor.clear();
    }

    /// Returns how many octets have been written.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Returns true if there is nothing but the header.
    pub fn is_empty(&self) -> bool {
        self.out.len() <= HEADER_BYTES
    }

    /// Returns how many records have been written to each section.
    pub fn counts(&self) -> [u16; 3] {
        self.counts
    }

    /// Fills in the header and writes the OPT record, which the limit does not bind: the caller kept room for it.
    #[inline]
    pub fn finish(mut self, header: Header, edns: Option<Edns>) {
        if let Some(edns) = edns {
            self.out.extend_from_slice(&edns.emit());
            let [.., additional] = &mut self.counts;
            *additional = additional.saturating_add(1);
        }
        let [answer, authority, additional] = self.counts;
        let [a, b, c, d] = header.emit();
        let ([e, f], [g, h]) = (self.questions.to_be_bytes(), answer.to_be_bytes());
        let ([i, j], [k, l]) = (authority.to_be_bytes(), additional.to_be_bytes());
        if let Some(place) = self.out.first_chunk_mut::<HEADER_BYTES>() {
            *place = [a, b, c, d, e, f, g, h, i, j, k, l];
        }
    }

    #[inline]
    fn count(&mut self, section: Section) -> &mut u16 {
        let [answer, authority, additional] = &mut self.counts;
        match section {
            Section::Answer => answer,
            Section::Authority => authority,
            Section::Additional => additional,
        }
    }

    fn remember(&mut self, name: &Name, at: usize) {
        self.remember_labels(name, name.count(), at);
    }

    /// Remembers the names that begin with each of the first `labels` labels of `name`, which stands at `at`.
    fn remember_labels(&mut self, name: &Name, labels: usize, at: usize) {
        for skipped in 0..labels {
            let offset = at.saturating_add(name.offset(skipped));
            let Some(offset) = u16::try_from(offset)
                .ok()
                .filter(|offset| usize::from(*offset) < POINTER_LIMIT)
            else {
                return;
            };
            self.compressor.dirty = true;
            if let Some(slot) = self.compressor.slot(name.suffix(skipped)) {
                *slot = offset;
            }
        }
    }

    fn find(&mut self, suffix: &[u8]) -> Option<u16> {
        let offset = self.compressor.slot(suffix).copied()?;
        if offset == 0 {
            return None;
        }
        let (name, _) = Name::decode(self.out, usize::from(offset)).ok()?;
        (name.as_bytes() == suffix).then_some(offset)
    }
}
