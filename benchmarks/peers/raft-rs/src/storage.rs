//! A log in memory, without the lock of `MemStorage` and without copies besides those that the trait demands.

use raft::{
    Error, GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
    util::limit_size,
};

use crate::drive::COMPACT_EVERY;

/// How many applied entries a compaction leaves, for members that are behind. As many as ours by default.
const KEEP: u64 = 500;

/// What a member would have on its disk.
pub struct Log {
    pub hard_state: HardState,
    voters: ConfState,
    entries: Vec<Entry>,
    /// The index of the first entry that is held.
    first: u64,
    /// The term of the entry before it.
    term_before: u64,
}

impl Log {
    pub fn new(members: usize) -> Self {
        let mut voters = ConfState::default();
        voters.set_voters((1..=members as u64).collect());
        Self {
            hard_state: HardState::default(),
            voters,
            entries: Vec::new(),
            first: 1,
            term_before: 0,
        }
    }

    pub fn append(&mut self, mut entries: Vec<Entry>) {
        if let Some(entry) = entries.first() {
            self.entries.truncate((entry.index - self.first) as usize);
            self.entries.append(&mut entries);
        }
    }

    /// Forgets entries now and then, of those up to `applied`.
    pub fn compact(&mut self, applied: u64) {
        let count = (applied + 1 - self.first) as usize;
        if count < (COMPACT_EVERY + KEEP) as usize {
            return;
        }
        let count = count - KEEP as usize;
        self.term_before = self.entries[count - 1].term;
        self.entries.drain(..count);
        self.first += count as u64;
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.voters.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        let mut entries =
            self.entries[(low - self.first) as usize..(high - self.first) as usize].to_vec();
        limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index + 1 == self.first {
            return Ok(self.term_before);
        }
        if index < self.first {
            return Err(Error::Store(StorageError::Compacted));
        }
        match self.entries.get((index - self.first) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.first + self.entries.len() as u64 - 1)
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> Result<Snapshot> {
        panic!("no member is so far behind")
    }
}
