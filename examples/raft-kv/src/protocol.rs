//! What clients and members say to each other: one JSON object a line.

use serde::{Deserialize, Serialize};

/// A request. `id` comes back with the answer: answers may overtake each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) request: Request,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) id: u64,
    pub(crate) answer: Answer,
}

/// What a client wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    Open,
    Put {
        session: u64,
        number: u64,
        key: String,
        value: String,
    },
    Delete {
        session: u64,
        number: u64,
        key: String,
    },
    Cas {
        session: u64,
        number: u64,
        key: String,
        old: Option<String>,
        new: String,
    },
    Get {
        key: String,
        #[serde(default)]
        freshness: Freshness,
    },
    Status,
    AddLearner {
        id: u64,
        address: String,
    },
    Promote {
        id: u64,
    },
    Remove {
        id: u64,
    },
    Transfer {
        to: u64,
    },
}

/// How new the answer to a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Freshness {
    /// Everything that was acknowledged before.
    #[default]
    Linearizable,
    /// The same, as far as clocks keep to their bound.
    Lease,
    /// Whatever the member has.
    Stale,
}

/// What came of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    Opened {
        session: u64,
    },
    Value {
        value: Option<String>,
    },
    /// A `cas` found another value.
    Differs {
        found: Option<String>,
    },
    /// The session has been forgotten: whether the request was applied before is not known.
    NoSession,
    /// Ask the leader, which is there if that is known.
    NotLeader {
        leader: Option<u64>,
        at: Option<String>,
    },
    /// Ask again: nothing was decided, or nobody knows.
    Again {
        why: String,
    },
    /// It cannot be done.
    Refused {
        why: String,
    },
    Status(Box<Status>),
}

/// A member at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) id: u64,
    pub(crate) role: String,
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) snapshot: u64,
    pub(crate) keys: usize,
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    /// What a leader knows of the others: how far each has come.
    pub(crate) followers: Vec<(u64, u64)>,
    /// Writes to the log, which are as many syncs at most.
    pub(crate) writes: u64,
    pub(crate) messages_sent: u64,
    /// Writes to sockets, each of many messages.
    pub(crate) socket_writes: u64,
    pub(crate) messages_dropped: u64,
}
