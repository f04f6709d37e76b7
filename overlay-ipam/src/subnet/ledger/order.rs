//! Numbers of records in the order of some key of theirs.

use std::cmp::Ordering;

/// A sorted list in chunks, four octets a number. The keys lie in the records: a search is handed a comparison of a
/// record's key with the one sought.
///
/// Against a hash index it needs no secret to be safe from chosen keys, and it lists the records in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    /// None is empty; neighbours have more than [`MERGED_MAX`] together.
    chunks: Vec<Vec<u32>>,
}

impl Order {
    pub(super) fn find(&self, compare: impl Fn(u32) -> Ordering) -> Option<u32> {
        let (chunk, place) = self.locate(&compare);
        let slot = *self.chunks.get(chunk)?.get(place)?;
        (compare(slot) == Ordering::Equal).then_some(slot)
    }

    /// Adds a record whose key is not in.
    pub(super) fn insert(&mut self, slot: u32, compare: impl Fn(u32) -> Ordering) {
        let (at, place) = self.locate(&compare);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(vec![slot]);
            return;
        };
        if chunk.len() == chunk.capacity() {
            chunk.reserve_exact(chunk.len() / 4 + 1);
        }
        chunk.insert(place, slot);
        if chunk.len() > CHUNK_MAX {
            // Ascending keys fill chunks to the brim, others half.
            let ascending = place == chunk.len() - 1 && at == self.chunks.len() - 1;
            let chunk = &mut self.chunks[at];
            let rest = chunk.split_off(if ascending { CHUNK_MAX } else { CHUNK_MAX / 2 });
            chunk.shrink_to_fit();
            self.chunks.insert(at + 1, rest);
        }
    }

    /// Removes the record that is sought; returns its number.
    pub(super) fn remove(&mut self, compare: impl Fn(u32) -> Ordering) -> Option<u32> {
        let (at, place) = self.locate(&compare);
        let slot = *self.chunks.get(at)?.get(place)?;
        if compare(slot) != Ordering::Equal {
            return None;
        }
        self.chunks[at].remove(place);
        if self.chunks[at].is_empty() {
            self.chunks.remove(at);
        } else {
            self.merge(at);
            self.merge(at.saturating_sub(1));
        }
        Some(slot)
    }

    /// Gives the record that is sought another number.
    pub(super) fn replace(&mut self, slot: u32, compare: impl Fn(u32) -> Ordering) {
        let (at, place) = self.locate(&compare);
        self.chunks[at][place] = slot;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.chunks.iter().flatten().copied()
    }

    /// Returns where the record is, or where it belongs: chunk and place.
    fn locate(&self, compare: impl Fn(u32) -> Ordering) -> (usize, usize) {
        let before = |chunk: &Vec<u32>| {
            chunk
                .first()
                .is_some_and(|slot| compare(*slot) != Ordering::Greater)
        };
        let at = self.chunks.partition_point(before).saturating_sub(1);
        let chunk = self.chunks.get(at).map_or(&[][..], Vec::as_slice);
        (
            at,
            chunk.partition_point(|slot| compare(*slot) == Ordering::Less),
        )
    }

    /// Joins a chunk with the next one if both are small.
    fn merge(&mut self, at: usize) {
        if let Some([one, next]) = self.chunks.get_mut(at..at + 2)
            && one.len() + next.len() <= MERGED_MAX
        {
            one.reserve_exact(next.len());
            one.append(next);
            self.chunks.remove(at + 1);
        }
    }
}

#[cfg(test)]
impl Order {
    pub(super) fn heap_bytes(&self) -> usize {
        let chunks = self.chunks.iter().map(|chunk| chunk.capacity() * 4);
        self.chunks.capacity() * size_of::<Vec<u32>>() + chunks.sum::<usize>()
    }

    pub(super) fn check(&self) {
        assert!(
            self.chunks
                .iter()
                .all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len()))
        );
        let pairs = self.chunks.windows(2);
        pairs.for_each(|pair| assert!(pair[0].len() + pair[1].len() > MERGED_MAX));
    }
}

const CHUNK_MAX: usize = 512;
const MERGED_MAX: usize = 256;
