//! The application's state at an index, and the pieces in which it travels.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Index, Membership, RaftId, Term,
    planted::{self, Bug},
};

/// The application's state with everything up to `index` applied (Raft §7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The last entry that the state contains.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The membership at that entry.
    pub membership: Membership,
    /// The state itself, opaque here.
    pub data: Bytes,
}

impl Snapshot {
    /// Makes the snapshot of nothing, at index zero.
    pub(crate) fn nothing() -> Self {
        Self {
            index: Index::ZERO,
            term: Term::ZERO,
            membership: Membership::default(),
            data: Bytes::new(),
        }
    }

    /// Returns the size of the state in octets.
    pub fn data_bytes(&self) -> u64 {
        u64::try_from(self.data.len()).unwrap_or(u64::MAX)
    }
}

/// One piece of a snapshot on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Chunk {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) membership: Membership,
    /// The size of the whole state.
    pub(crate) total_bytes: u64,
    /// Where `data` belongs in it.
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
}

/// A snapshot that is being received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Incoming {
    from: RaftId,
    index: Index,
    term: Term,
    /// Grows by what really arrived, never by what was announced.
    data: Vec<u8>,
}

impl Incoming {
    /// Begins to receive what `chunk` is a piece of.
    pub(crate) fn new(from: RaftId, chunk: &Chunk) -> Self {
        Self {
            from,
            index: chunk.index,
            term: chunk.term,
            data: Vec::new(),
        }
    }

    /// Returns whether `chunk` is a piece of this one.
    pub(crate) fn matches(&self, from: RaftId, chunk: &Chunk) -> bool {
        self.from == from && self.index == chunk.index && self.term == chunk.term
    }

    /// Takes a piece if it is the next one; returns what is wanted next.
    pub(crate) fn take(&mut self, chunk: &Chunk) -> u64 {
        if chunk.offset == self.len_bytes() || planted::has(Bug::JoinsAnyPieces) {
            self.data.extend_from_slice(&chunk.data);
        }
        self.len_bytes()
    }

    /// Ends with the whole state.
    pub(crate) fn into_data(self) -> Bytes {
        Bytes::from(self.data)
    }

    fn len_bytes(&self) -> u64 {
        u64::try_from(self.data.len()).unwrap_or(u64::MAX)
    }
}
