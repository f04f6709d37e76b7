//! Errors, one enum for each family of operations.

use thiserror::Error;

use crate::{ConfigError, Index, RaftId, Term};

/// A command was not taken; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This member does not lead.
    #[error("not the leader{}", who_leads(*.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<RaftId>,
    },
    /// Leadership is being handed over; ask the next leader.
    #[error("leadership is being handed to {to}: ask it in a moment")]
    Transferring {
        /// Who will lead.
        to: RaftId,
    },
    /// The command is too large.
    #[error("command of {bytes} octets, at most {bytes_max} are taken")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// [`Config::command_bytes_max`](crate::Config::command_bytes_max).
        bytes_max: usize,
    },
    /// Too much is waiting to be committed; ask again after some of it was applied.
    #[error(
        "{bytes} octets wait to be committed, at most {bytes_max} may: ask again when some are"
    )]
    Busy {
        /// What waits.
        bytes: u64,
        /// [`Config::uncommitted_bytes_max`](crate::Config::uncommitted_bytes_max).
        bytes_max: u64,
    },
    /// The log has no room; [`compact`](crate::Raft::compact) first.
    #[error("log of {bytes} octets, at most {bytes_max} are kept: compact it")]
    LogFull {
        /// What it holds.
        bytes: u64,
        /// [`Config::log_bytes_max`](crate::Config::log_bytes_max).
        bytes_max: u64,
    },
    /// A write failed and the machine stopped; rebuild it from its disk.
    #[error("stopped after a failed write: start the member again from its disk")]
    Stopped,
}

impl ProposeError {
    /// Returns who leads, or is about to: whom to ask instead.
    pub fn leader(&self) -> Option<RaftId> {
        match self {
            Self::NotLeader { leader } => *leader,
            Self::Transferring { to } => Some(*to),
            _ => None,
        }
    }
}

/// A change of the membership was not taken; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It could not be proposed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// No change was named.
    #[error("no change is named")]
    Nothing,
    /// Another change is not committed yet.
    #[error("the change at index {index} is not committed yet: ask again when it is")]
    InProgress {
        /// Where it is.
        index: Index,
    },
    /// The leader has not committed an entry of its own term yet (erratum to the thesis, §4.1).
    #[error("no entry of term {term} is committed yet: ask again in a moment")]
    NotReady {
        /// The leader's term.
        term: Term,
    },
    /// It is a member already.
    #[error("{id} is a member already")]
    AlreadyMember {
        /// Who.
        id: RaftId,
    },
    /// It is no member.
    #[error("{id} is no member")]
    NotMember {
        /// Who.
        id: RaftId,
    },
    /// It is no learner, so it cannot be promoted.
    #[error("{id} is no learner")]
    NotLearner {
        /// Who.
        id: RaftId,
    },
    /// It is no voter, so it cannot be demoted.
    #[error("{id} is no voter")]
    NotVoter {
        /// Who.
        id: RaftId,
    },
    /// The cluster would be left without a voter.
    #[error("{id} is the last voter")]
    LastVoter {
        /// Who.
        id: RaftId,
    },
    /// The learner is too far behind to vote; ask again later (thesis §4.2.1).
    #[error("{id} holds the log up to {matched} of {last}: ask again when it has caught up")]
    NotCaughtUp {
        /// Who.
        id: RaftId,
        /// What it acknowledged.
        matched: Index,
        /// The leader's last index.
        last: Index,
    },
    /// The voter answers with another disk than the one that was promoted, and cannot change its vote for a new one in one
    /// step: both would count.
    #[error(
        "{id} lost the disk that its vote is of: demote or remove it first, and promote it once that is committed"
    )]
    OtherDisk {
        /// Who.
        id: RaftId,
    },
    /// There would be too many members, those who go included until they are gone.
    #[error("{members} members with those who go, at most {members_max} may be: make room first")]
    TooMany {
        /// How many there would be.
        members: usize,
        /// [`Config::members_max`](crate::Config::members_max).
        members_max: usize,
    },
}

impl ChangeError {
    /// Returns who leads, or is about to: whom to ask instead.
    pub fn leader(&self) -> Option<RaftId> {
        match self {
            Self::Propose(error) => error.leader(),
            _ => None,
        }
    }
}

/// A read was not taken; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nobody leads, as far as this member knows; ask again after an election.
    #[error("no leader is known: ask again after an election")]
    NoLeader,
    /// Clocks are not said to keep to any bound, so no lease holds.
    #[error("leases need clock_drift_ppm_max, which is not set")]
    NoLease,
    /// Too many reads are waiting.
    #[error("{reads} reads wait, at most {reads_max} may: ask again when some are answered")]
    Busy {
        /// How many.
        reads: usize,
        /// [`Config::reads_max`](crate::Config::reads_max).
        reads_max: usize,
    },
    /// A write failed and the machine stopped; rebuild it from its disk.
    #[error("stopped after a failed write: start the member again from its disk")]
    Stopped,
}

/// A transfer of leadership was not begun; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum TransferError {
    /// This member does not lead.
    #[error("not the leader{}", who_leads(*.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<RaftId>,
    },
    /// The target leads already.
    #[error("{to} leads already")]
    AlreadyLeader {
        /// Who.
        to: RaftId,
    },
    /// The target is no voter.
    #[error("{to} is no voter")]
    NotVoter {
        /// Who.
        to: RaftId,
    },
    /// Nothing was heard of the target within an election time-out, or its disk is not the one that was promoted.
    #[error("{to} does not answer")]
    Unreachable {
        /// Who.
        to: RaftId,
    },
    /// The target lacks so much that it is being sent a snapshot.
    #[error("{to} is still being sent a snapshot")]
    Behind {
        /// Who.
        to: RaftId,
    },
    /// Another transfer is under way.
    #[error("leadership is already being handed to {to}")]
    InProgress {
        /// To whom.
        to: RaftId,
    },
    /// A write failed and the machine stopped; rebuild it from its disk.
    #[error("stopped after a failed write: start the member again from its disk")]
    Stopped,
}

impl TransferError {
    /// Returns who leads: whom to ask instead.
    pub fn leader(&self) -> Option<RaftId> {
        match self {
            Self::NotLeader { leader } => *leader,
            _ => None,
        }
    }
}

/// A snapshot was not taken; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CompactError {
    /// The index was not applied yet.
    #[error("index {index} is not applied yet, {applied} is")]
    NotApplied {
        /// What was asked.
        index: Index,
        /// What is applied.
        applied: Index,
    },
    /// The commands up to the index are applied as far as the machine is concerned, but are not all taken out.
    #[error(
        "commands up to index {index} wait to be taken out: take all outputs and apply them before the state is compacted"
    )]
    NotTaken {
        /// What was asked.
        index: Index,
    },
    /// The present snapshot is as new.
    #[error("index {index} is compacted already, the snapshot is at {snapshot}")]
    AlreadyCompacted {
        /// What was asked.
        index: Index,
        /// Where the snapshot is.
        snapshot: Index,
    },
    /// The snapshot is too large.
    #[error("snapshot of {bytes} octets, at most {bytes_max} are taken")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// [`Config::snapshot_bytes_max`](crate::Config::snapshot_bytes_max).
        bytes_max: u64,
    },
    /// A write failed and the machine stopped; rebuild it from its disk.
    #[error("stopped after a failed write: start the member again from its disk")]
    Stopped,
}

/// Octets from a peer were refused; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message ends early.
    #[error("message of {have} octets, {need} needed")]
    Truncated {
        /// How many are needed.
        need: usize,
        /// How many there are.
        have: usize,
    },
    /// The message goes on after its end.
    #[error("{extra} octets after the end of the message at {offset}")]
    TrailingBytes {
        /// Where it ends.
        offset: usize,
        /// How many follow.
        extra: usize,
    },
    /// The kind of message is not known.
    #[error("unknown kind of message {kind}")]
    UnknownKind {
        /// What the header says.
        kind: u8,
    },
    /// The version of the message is not known.
    #[error("message version {version}, expected {expected}")]
    UnknownVersion {
        /// What the header says.
        version: u8,
        /// What this release speaks.
        expected: u8,
    },
    /// The body does not follow its schema.
    #[error("malformed {part} at offset {offset} of a message of kind {kind}")]
    Malformed {
        /// The kind of message.
        kind: u8,
        /// Which part.
        part: &'static str,
        /// Where it begins.
        offset: usize,
    },
}

/// A message was refused; nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message belongs to another cluster.
    #[error("message of group {found:#x}, this is group {expected:#x}")]
    WrongGroup {
        /// Ours.
        expected: u64,
        /// Theirs.
        found: u64,
    },
    /// The message is for another member.
    #[error("message for {found}, this is {expected}")]
    WrongRecipient {
        /// This member.
        expected: RaftId,
        /// Whom it is for.
        found: RaftId,
    },
    /// The message claims to come from this member.
    #[error("message from this member itself, {id}")]
    FromSelf {
        /// This member.
        id: RaftId,
    },
    /// A field is outside what can be.
    #[error("{field} is {found}, at most {max} can be")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What can be.
        max: u64,
    },
    /// A membership has no voter, or a member twice.
    #[error("a membership without voters, or with a member twice")]
    Membership,
    /// A leader contradicts what is committed here. Somebody's disk lost what it acknowledged.
    #[error("entry {index} is of term {found}, but it is committed here with term {expected}")]
    CommittedConflict {
        /// Where.
        index: Index,
        /// Ours.
        expected: Term,
        /// Theirs.
        found: Term,
    },
    /// There is no room for the entries; [`compact`](crate::Raft::compact) first.
    #[error("log of {bytes} octets, at most {bytes_max} are kept: compact it")]
    LogFull {
        /// What it would hold.
        bytes: u64,
        /// Twice [`Config::log_bytes_max`](crate::Config::log_bytes_max).
        bytes_max: u64,
    },
}

/// What a disk holds cannot be the state of a member.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The disk is empty and the embedder did not say whether the member founds a cluster or joins one.
    #[error("the disk is empty: start it with Restored::bootstrap or Restored::joining")]
    Empty,
    /// A new cluster needs this member among its voters.
    #[error("{id} is not among the voters to bootstrap with")]
    NotAmongVoters {
        /// This member.
        id: RaftId,
    },
    /// There are too many voters to bootstrap with.
    #[error("{members} voters to bootstrap with, at most {members_max} members may be")]
    TooMany {
        /// How many there are.
        members: usize,
        /// [`Config::members_max`](crate::Config::members_max).
        members_max: usize,
    },
    /// A cluster that is rebuilt must have another number, or its lost members would be heard again.
    #[error("the disk is of group {group:#x} already: recover it under another number")]
    SameGroup {
        /// The group.
        group: u64,
    },
    /// The disk belongs to another member.
    #[error("the disk belongs to member {found}, this is {expected}")]
    WrongMember {
        /// This member.
        expected: RaftId,
        /// Whose it is.
        found: RaftId,
    },
    /// The disk belongs to another cluster.
    #[error("the disk belongs to group {found:#x}, this is group {expected:#x}")]
    WrongGroup {
        /// Ours.
        expected: u64,
        /// The disk's.
        found: u64,
    },
    /// Entries are not numbered one by one after the snapshot.
    #[error("entry {found} where {expected} was expected")]
    Gap {
        /// The index that must follow.
        expected: Index,
        /// The index that does.
        found: Index,
    },
    /// The term of an entry is lower than that of the entry before, or higher than the member's.
    #[error("entry {index} of term {term}, between {least} and {most} expected")]
    TermOrder {
        /// Which entry.
        index: Index,
        /// Its term.
        term: Term,
        /// The term of the entry before.
        least: Term,
        /// The member's term.
        most: Term,
    },
    /// The commit index is before the snapshot or past the log.
    #[error("commit index {commit}, between snapshot {snapshot} and last entry {last} expected")]
    CommitOutOfRange {
        /// The commit index.
        commit: Index,
        /// The snapshot's index.
        snapshot: Index,
        /// The last entry.
        last: Index,
    },
    /// The snapshot's term is higher than the member's.
    #[error("snapshot of term {snapshot}, the member is in term {term}")]
    SnapshotTerm {
        /// The snapshot's.
        snapshot: Term,
        /// The member's.
        term: Term,
    },
    /// A membership has no voter, or a member twice.
    #[error("the membership at {index} has no voters, or a member twice")]
    Membership {
        /// Where it is.
        index: Index,
    },
    /// The snapshot names no voter.
    #[error("no voters in the snapshot at {snapshot}")]
    NoVoters {
        /// The snapshot's index.
        snapshot: Index,
    },
}

/// The end of a sentence.
fn who_leads(leader: Option<RaftId>) -> String {
    match leader {
        Some(leader) => format!(", which is {leader}: ask it"),
        None => ", and none is known: ask again after an election".to_owned(),
    }
}
