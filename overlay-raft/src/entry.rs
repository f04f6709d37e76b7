//! Entries of the log.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Index, Membership, Term};

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its position.
    pub index: Index,
    /// The term of the leader that made it.
    pub term: Term,
    /// What it holds.
    pub payload: Payload,
}

/// What an entry holds. Variants are only ever appended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Payload {
    /// The first entry of each term; never handed to the application (Raft §8).
    Noop,
    /// A command of the application, opaque here.
    Command(Bytes),
    /// The whole new membership; in force as soon as it is in the log (thesis §4.1).
    Membership(Membership),
}

impl Entry {
    /// Returns what the entry counts against every bound on octets: its content and a fixed share for the rest.
    pub(crate) fn weight_bytes(&self) -> u64 {
        const SHARE: u64 = 64;
        let content = match &self.payload {
            Payload::Noop => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership(membership) => membership.len().saturating_mul(16),
        };
        SHARE.saturating_add(u64::try_from(content).unwrap_or(u64::MAX))
    }
}
