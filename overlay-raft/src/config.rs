//! What an embedder chooses.

use std::time::Duration;

use thiserror::Error;

use crate::RaftId;

/// The settings of one member.
///
/// [`Config::new`] gives values for a LAN. Sizes should be the same on all members: one that takes less than its
/// leader sends refuses it and falls behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This member.
    pub id: RaftId,
    /// The cluster, or its epoch: on each message and on the disk. Messages of another one are refused, and so is a
    /// disk. A cluster that is rebuilt from one survivor gets a new number.
    pub group: u64,
    /// The least time without a leader before an election; the most is twice that (Raft §5.2). Default 500 ms. At
    /// least three heartbeats: lower elects needlessly on a busy host, higher prolongs every failure.
    pub election_timeout: Duration,
    /// The time between heartbeats. Default 100 ms. Lower costs messages, higher makes lost ones matter.
    pub heartbeat_interval: Duration,
    /// The most entries in one append message. Default 256.
    pub entries_per_append_max: usize,
    /// The most octets of entries in one append message; a single larger entry still goes. Default 256 KiB.
    pub append_bytes_max: u64,
    /// The most append messages on their way to one follower. Default 64. One makes replication stop and wait.
    pub inflight_max: usize,
    /// The most octets of one command. Default 1 MiB.
    pub command_bytes_max: usize,
    /// The most octets of proposals that are not committed, each counted with 64 more. Default 16 MiB. What is
    /// beyond is refused with [`ProposeError::Busy`](crate::ProposeError::Busy).
    pub uncommitted_bytes_max: u64,
    /// The most octets of the log in memory, each entry counted with 64 more. Default 256 MiB. A leader that reached
    /// it refuses proposals, a follower with twice as much appends, until [`compact`](crate::Raft::compact) made room.
    pub log_bytes_max: u64,
    /// How many entries before the snapshot stay in memory for slow followers. Default 500. Zero sends a snapshot to
    /// every follower that was one entry behind at a compaction.
    pub trailing_entries_max: usize,
    /// The most octets of a snapshot. Default 256 MiB.
    pub snapshot_bytes_max: u64,
    /// The most octets of a snapshot in one message. Default 256 KiB. One chunk is on its way at a time.
    pub snapshot_chunk_bytes_max: usize,
    /// The most members, learners included. Default 64.
    pub members_max: usize,
    /// The most reads that wait for their round. Default 65,536.
    pub reads_max: usize,
    /// The most writes handed out and not acknowledged; what comes then goes into the next one together. Default 4.
    pub writes_inflight_max: usize,
    /// The most messages that wait for a write or for the driver; more are dropped like lost ones. Default 16,384.
    pub messages_max: usize,
}

impl Config {
    /// Makes the settings for a LAN.
    pub fn new(id: RaftId, group: u64) -> Self {
        Self {
            id,
            group,
            election_timeout: Duration::from_millis(500),
            heartbeat_interval: Duration::from_millis(100),
            entries_per_append_max: 256,
            append_bytes_max: 256 << 10,
            inflight_max: 64,
            command_bytes_max: 1 << 20,
            uncommitted_bytes_max: 16 << 20,
            log_bytes_max: 256 << 20,
            trailing_entries_max: 500,
            snapshot_bytes_max: 256 << 20,
            snapshot_chunk_bytes_max: 256 << 10,
            members_max: 64,
            reads_max: 65_536,
            writes_inflight_max: 4,
            messages_max: 16_384,
        }
    }

    /// Checks that the settings can work together.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the first setting that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.heartbeat_interval.is_zero() {
            return Err(ConfigError::Zero {
                setting: "heartbeat_interval",
            });
        }
        if self.election_timeout < self.heartbeat_interval * 2 {
            return Err(ConfigError::ElectionTimeout {
                election_timeout: self.election_timeout,
                heartbeat_interval: self.heartbeat_interval,
            });
        }
        let counts = [
            ("entries_per_append_max", self.entries_per_append_max),
            ("inflight_max", self.inflight_max),
            ("snapshot_chunk_bytes_max", self.snapshot_chunk_bytes_max),
            ("members_max", self.members_max),
            ("reads_max", self.reads_max),
            ("writes_inflight_max", self.writes_inflight_max),
            ("messages_max", self.messages_max),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some(&(setting, _)) => Err(ConfigError::Zero { setting }),
            None => Ok(()),
        }
    }
}

/// Settings that cannot work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A setting is zero that must not be.
    #[error("{setting} must not be zero")]
    Zero {
        /// Its name.
        setting: &'static str,
    },
    /// The election time-out leaves no room for two heartbeats.
    #[error(
        "election_timeout {election_timeout:?} is less than two heartbeat_interval of {heartbeat_interval:?}"
    )]
    ElectionTimeout {
        /// As configured.
        election_timeout: Duration,
        /// As configured.
        heartbeat_interval: Duration,
    },
}
