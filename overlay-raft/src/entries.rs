//! Runs of entries that are shared and not copied.

use std::{fmt, sync::Arc};

use crate::{Entry, Index};

/// A run of entries in the order of the log.
///
/// Cloning one copies no entry: log, messages, writes and what is applied share the same ones.
#[derive(Clone, Default)]
pub struct Entries {
    first: Option<Slice>,
    /// Seldom needed: what was appended in one turn is one slice. In a box, so that messages are short.
    #[expect(
        clippy::box_collection,
        reason = "moved a dozen times, used once in a while"
    )]
    rest: Option<Box<Vec<Slice>>>,
}

/// A part of what was appended at once. Never empty.
#[derive(Clone)]
pub(crate) struct Slice {
    shared: Arc<[Entry]>,
    start: u32,
    end: u32,
}

impl Entries {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.slices().map(Slice::len).sum()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Returns the first one.
    pub fn first(&self) -> Option<&Entry> {
        self.first.as_ref().map(Slice::first)
    }

    /// Returns the last one.
    pub fn last(&self) -> Option<&Entry> {
        self.slices().last().map(Slice::last)
    }

    /// Returns them one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slices().flat_map(Slice::as_ref)
    }

    pub(crate) fn slices(&self) -> impl Iterator<Item = &Slice> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        self.first.iter().chain(rest)
    }

    /// Returns those before `index`.
    pub(crate) fn before(&self, index: Index) -> Self {
        let mut kept = Self::default();
        for slice in self.slices() {
            match slice.take(index.distance(slice.first_index())) {
                Some(part) => kept.push(part),
                None => break,
            }
        }
        kept
    }

    pub(crate) fn push(&mut self, slice: Slice) {
        if self.first.is_none() {
            self.first = Some(slice);
        } else {
            self.rest.get_or_insert_default().push(slice);
        }
    }
}

impl Slice {
    /// Makes a slice of all of `entries`; `None` without any.
    pub(crate) fn new(entries: impl Into<Arc<[Entry]>>) -> Option<Self> {
        let shared = entries.into();
        let end =
            u32::try_from(shared.len()).expect("entries weigh more, and their weight is bounded");
        (end > 0).then_some(Self {
            shared,
            start: 0,
            end,
        })
    }

    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn first_index(&self) -> Index {
        self.first().index
    }

    pub(crate) fn last_index(&self) -> Index {
        self.last().index
    }

    pub(crate) fn first(&self) -> &Entry {
        &self.shared[self.start as usize]
    }

    pub(crate) fn last(&self) -> &Entry {
        &self.shared[self.end as usize - 1]
    }

    pub(crate) fn as_ref(&self) -> &[Entry] {
        &self.shared[self.start as usize..self.end as usize]
    }

    /// Returns the entries after `index`; `None` if there are none.
    pub(crate) fn after(&self, index: Index) -> Option<Self> {
        let skip = index.next().distance(self.first_index());
        self.part(skip, self.len())
    }

    /// Returns the first `count` entries; `None` for zero.
    pub(crate) fn take(&self, count: usize) -> Option<Self> {
        self.part(0, count.min(self.len()))
    }

    /// Returns the entries from place `from` to before place `to`, which is not past the end.
    pub(crate) fn part(&self, from: usize, to: usize) -> Option<Self> {
        let place = |at: usize| self.start + u32::try_from(at).unwrap_or(u32::MAX);
        (from < to).then(|| Self {
            shared: Arc::clone(&self.shared),
            start: place(from),
            end: place(to),
        })
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self {
            first: Slice::new(entries.into_iter().collect::<Arc<[Entry]>>()),
            rest: None,
        }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        Self {
            first: Slice::new(entries),
            rest: None,
        }
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_ref()).finish()
    }
}
