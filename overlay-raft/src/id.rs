//! Numbers with a meaning: members, terms, indexes, and what a caller waits for.

use std::{fmt, num::NonZeroU64};

use serde::{Deserialize, Serialize};

/// The small number by which Raft knows a member. Never zero, never given to another member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RaftId(NonZeroU64);

impl RaftId {
    /// Makes an id; `None` for zero.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// A term: Raft's logical clock, with at most one leader each (Raft §5.1).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Term(u64);

impl Term {
    /// The term before the first election.
    pub const ZERO: Self = Self(0);
    /// The highest term that is accepted from a peer, far below the end of the number.
    pub const MAX: Self = Self(1 << 62);

    /// Makes a term.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The position of an entry in the log; the first entry has index 1.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Index(u64);

impl Index {
    /// The position before the first entry.
    pub const ZERO: Self = Self(0);
    /// The highest index that is accepted from a peer, far below the end of the number.
    pub const MAX: Self = Self(1 << 62);

    /// Makes an index.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the index before this one; zero stays zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the index `count` positions further.
    #[must_use]
    pub(crate) fn plus(self, count: usize) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(count).unwrap_or(u64::MAX)),
        )
    }

    /// Returns how many positions `self` is past `earlier`, zero if it is not.
    pub(crate) fn distance(self, earlier: Self) -> usize {
        usize::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One life of one member's disk.
///
/// A member whose disk was wiped has forgotten its votes and its acknowledgements. It starts again under a new random
/// incarnation, and the membership says which incarnation of a voter it means: a vote is only asked of, and given by,
/// that one (Raft §5.2 needs votes on stable storage; this closes the gap that a lost disk leaves).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Incarnation(u64);

impl Incarnation {
    /// The incarnation of a voter that the cluster was bootstrapped with.
    pub const FOUNDER: Self = Self(0);

    /// Makes an incarnation.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What [`propose`](crate::Raft::propose) and [`change`](crate::Raft::change) hand out: where the entry went.
///
/// The entry is committed when an entry with this very index *and* term is applied; if another term appears at the
/// index, it is lost ([`Event::ProposalLost`](crate::Event::ProposalLost)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ProposalId {
    /// The term in which it was proposed.
    pub term: Term,
    /// The index that it got.
    pub index: Index,
}

/// What [`read_index`](crate::Raft::read_index) hands out. Unique within one life of a machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub(crate) u64);

impl ReadId {
    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}
