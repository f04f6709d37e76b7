//! The messages themselves, one type for each kind.

use crate::{Incarnation, Index, RaftId, Term, entries::Entries, snapshot::Chunk};

/// A message from one member to another.
///
/// Cheap to clone: entries and pieces of snapshots are shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub(crate) envelope: Envelope,
    pub(crate) body: Body,
}

/// What every message says first.
#[derive(Clone, PartialEq, Eq, Debug)]
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

/// What a message says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Body {
    PreVote(PreVote),
    PreVoteReply(PreVoteReply),
    Vote(Vote),
    VoteReply(VoteReply),
    Append(Append),
    AppendReply(AppendReply),
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    Chunk(Box<Chunk>),
    SnapshotReply(SnapshotReply),
    /// The leader asks its successor to campaign at once (thesis §3.10).
    TimeoutNow,
    Commit(Commit),
    ReadAsk(ReadAsk),
    ReadAnswer(ReadAnswer),
}

/// Would you vote for me in the term after mine? (thesis §9.6)
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PreVote {
    /// Tells the answers of one attempt from those of another.
    pub(crate) round: u64,
    pub(crate) last_index: Index,
    pub(crate) last_term: Term,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PreVoteReply {
    pub(crate) round: u64,
    pub(crate) granted: bool,
}

/// `RequestVote` (Raft figure 2), in the envelope's term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Vote {
    pub(crate) last_index: Index,
    pub(crate) last_term: Term,
    /// The leader itself asked for this election, so its voters need not be loyal to it (thesis §4.2.3).
    pub(crate) transfer: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct VoteReply {
    pub(crate) granted: bool,
}

/// `AppendEntries` (Raft figure 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Append {
    pub(crate) previous: Index,
    pub(crate) previous_term: Term,
    pub(crate) commit: Index,
    pub(crate) entries: Entries,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AppendReply {
    pub(crate) verdict: Verdict,
}

#[derive(Clone, PartialEq, Eq, Debug)]
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heartbeat {
    /// Never more than what the follower acknowledged.
    pub(crate) commit: Index,
    /// Numbers the leader's heartbeats, for reads (thesis §6.4).
    pub(crate) round: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HeartbeatReply {
    pub(crate) round: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotReply {
    pub(crate) index: Index,
    /// The octet that the follower wants next.
    pub(crate) wanted: u64,
}

/// Tells how far the log is committed, where there are no entries to say it with. Nobody answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Commit {
    /// Never more than what the follower acknowledged.
    pub(crate) commit: Index,
}

/// Asks the leader from which index on the sender may answer reads that came in until now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReadAsk {
    /// Tells the reads of one life of a machine from those of another.
    pub(crate) life: u64,
    /// The last of these reads.
    pub(crate) number: u64,
}

/// Answers [`ReadAsk`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReadAnswer {
    /// As asked.
    pub(crate) life: u64,
    /// As asked.
    pub(crate) number: u64,
    /// What the answers to the reads must contain.
    pub(crate) index: Index,
}

impl Message {
    /// Returns for whom it is.
    pub fn to(&self) -> RaftId {
        self.envelope.to
    }
}

impl Body {
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
            Self::Commit(_) => 12,
            Self::ReadAsk(_) => 13,
            Self::ReadAnswer(_) => 14,
        }
    }

    /// Returns whether only a leader sends it. A leader's term is durable, and none of these promises anything more.
    pub(crate) fn is_of_leader(&self) -> bool {
        matches!(
            self,
            Self::Append(_)
                | Self::Heartbeat(_)
                | Self::Chunk(_)
                | Self::TimeoutNow
                | Self::Commit(_)
                | Self::ReadAnswer(_)
        )
    }
}
