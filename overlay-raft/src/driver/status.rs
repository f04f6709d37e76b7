//! What a member says about itself.

use std::{collections::BTreeMap, net::SocketAddr};

use overlay_core::Instant;

use super::LinksStats;
use crate::{FollowerStatus, Index, Membership, MessageError, RaftId, Role, Stats, Term};

/// A member at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Who it is.
    pub id: RaftId,
    /// What it is.
    pub role: Role,
    /// Who leads, if known.
    pub leader: Option<RaftId>,
    /// The present term.
    pub term: Term,
    /// The last entry that is known to be committed.
    pub commit: Index,
    /// The last entry that the application has seen, or need not see.
    pub applied: Index,
    /// The last entry of the log.
    pub last_index: Index,
    /// Where the newest snapshot is.
    pub snapshot_index: Index,
    /// What the log in memory weighs.
    pub log_bytes: u64,
    /// The membership in force.
    pub membership: Membership,
    /// What a leader knows about the others.
    pub followers: Vec<FollowerStatus>,
    /// Where the others listen.
    pub peers: BTreeMap<RaftId, SocketAddr>,
    /// The time, as [`FollowerStatus::contact`] counts it.
    pub now: Instant,
    /// The machine's counters.
    pub stats: Stats,
    /// The sockets' counters.
    pub links: LinksStats,
    /// Snapshots of the application that were refused, for instance because they are too large.
    pub compactions_refused: u64,
    /// The last message that was refused, of whom and why; [`Stats::messages_refused`] counts them.
    pub refused: Option<(RaftId, MessageError)>,
}

/// Who leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Leading {
    /// The leader, if known.
    pub leader: Option<RaftId>,
    /// In which term.
    pub term: Term,
}
