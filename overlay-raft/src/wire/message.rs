//! The messages themselves, one type for each kind.

use serde::{Deserialize, Serialize};

use crate::{Entry, Incarnation, Index, RaftId, Term, snapshot::Chunk};

/// What every message says first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// The cluster.
    pub(crate) group: u64,
    /// The recipient.
    pub(crate) to: RaftId,
    /// The sender's term.
    pub(crate) term: Term,
    /// The sender's incarnation.
    pub(crate) incarnation: Incarnation,
    /// The incarnation of the recipient that the sender means, if it knows one.
    pub(crate) means: Option<Incarnation>,
}

/// A message from another member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    PreVote(PreVote),
    PreVoteReply(PreVoteReply),
    Vote(Vote),
    VoteReply(VoteReply),
    Append(Append),
    AppendReply(AppendReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    Chunk(Chunk),
    SnapshotReply(SnapshotReply),
    /// The leader asks its successor to campaign at once (thesis §3.10).
    TimeoutNow,
}

/// Would you vote for me in the term after mine? (thesis §9.6)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PreVote {
    /// Tells the answers of one attempt from those of another.
    pub(crate) round: u64,
    pub(crate) last_index: Index,
    pub(crate) last_term: Term,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PreVoteReply {
    pub(crate) round: u64,
    pub(crate) granted: bool,
}

/// `RequestVote` (Raft figure 2), in the envelope's term.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Vote {
    pub(crate) last_index: Index,
    pub(crate) last_term: Term,
    /// The leader itself asked for this election, so its voters need not be loyal to it (thesis §4.2.3).
    pub(crate) transfer: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct VoteReply {
    pub(crate) granted: bool,
}

/// `AppendEntries` (Raft figure 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Append {
    pub(crate) previous: Index,
    pub(crate) previous_term: Term,
    pub(crate) commit: Index,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AppendReply {
    pub(crate) verdict: Verdict,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// The follower holds the leader's log up to here, durably.
    Accepted { matched: Index },
    /// It does not hold the entry before the ones sent.
    Rejected {
        /// Which entry that was.
        previous: Index,
        /// Where the logs may agree, and the term there.
        hint: Index,
        hint_term: Term,
    },
}

/// Says that the leader lives. Apart from [`Append`], so that it can carry a round and is never held up by entries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Heartbeat {
    /// Never more than what the follower acknowledged.
    pub(crate) commit: Index,
    /// Numbers the leader's heartbeats, for reads (thesis §6.4).
    pub(crate) round: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HeartbeatReply {
    pub(crate) round: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotReply {
    pub(crate) index: Index,
    /// The octet that the follower wants next.
    pub(crate) wanted: u64,
}

impl Message {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::PreVote(_) => 1,
            Self::PreVoteReply(_) => 2,
            Self::Vote(_) => 3,
            Self::VoteReply(_) => 4,
            Self::Append(_) => 5,
            Self::AppendReply(_) => 6,
            Self::Heartbeat(_) => 7,
            Self::HeartbeatReply(_) => 8,
            Self::Chunk(_) => 9,
            Self::SnapshotReply(_) => 10,
            Self::TimeoutNow => 11,
        }
    }

    /// Returns whether only a leader sends it. A leader's term is durable, and none of these promises anything more.
    pub(crate) fn is_of_leader(&self) -> bool {
        matches!(
            self,
            Self::Append(_) | Self::Heartbeat(_) | Self::Chunk(_) | Self::TimeoutNow
        )
    }
}
