//! How a refusal reads.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A refusal or failure: what was wrong, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Error {
    /// What kind, for programs.
    pub kind: ErrorKind,
    /// What was wrong and what next, for people: a full sentence or two.
    pub message: String,
}

impl Error {
    /// Makes an error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// The kind of an [`Error`](struct@Error).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense: correct it.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// The reference fits several things.
    Ambiguous,
    /// It exists already, or overlaps something that does.
    Conflict,
    /// Something uses it.
    InUse,
    /// Nothing is left to allocate.
    Exhausted,
    /// This node is not part of a cluster.
    NotMember,
    /// This node is part of a cluster already.
    AlreadyMember,
    /// This node is a worker, and the request needs a manager.
    NotManager,
    /// It would cost the quorum.
    QuorumLoss,
    /// No manager that leads answered in time.
    Unavailable,
    /// The other side is not who the token says, or the token is not valid.
    Untrusted,
    /// The certificate's role does not allow it.
    Forbidden,
    /// The operating system refused.
    Platform,
    /// The disk failed or its content is damaged.
    Storage,
    /// A limit was reached.
    Limit,
    /// The daemon waits for the unlock key.
    Locked,
}
