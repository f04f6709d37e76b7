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
    /// The least time without a leader before an election; the most is twice that (Raft §5.2). Default 500 ms, at most an
    /// hour. Two heartbeats at least, better five: lower elects needlessly on a busy host, higher prolongs every failure.
    pub election_timeout: Duration,
    /// The time between heartbeats. Default 100 ms. Lower costs messages, higher makes lost ones matter.
    pub heartbeat_interval: Duration,
    /// How long word of a commit waits for entries to travel with. Default 2 ms. Zero has followers apply a little sooner
    /// where writes are few, for two messages more each; longer has them, and reads on them, wait.
    pub commit_delay: Duration,
    /// The most entries in one append message. Default 256.
    pub entries_per_append_max: usize,
    /// The most octets of entries in one append message; a single larger entry still goes. Default 256 KiB.
    pub append_bytes_max: u64,
    /// The most append messages on their way to one follower. Default 64. One makes replication stop and wait.
    pub inflight_max: usize,
    /// How many octets of entries, each counted with 64 more, are on their way to one follower when no further message
    /// follows until some arrived. Default 8 MiB. Less than what a link holds leaves it idle; more delays what follows.
    pub inflight_bytes_max: u64,
    /// The most octets of one command. Default 1 MiB.
    pub command_bytes_max: usize,
    /// The most octets of proposals that are not committed, each counted with 64 more. Default 16 MiB. What is
    /// beyond is refused with [`ProposeError::Busy`](crate::ProposeError::Busy).
    pub uncommitted_bytes_max: u64,
    /// By how much any member's clock may run faster or slower than real time, in millionths; at most 500,000. `None`,
    /// the default, is no bound: [`ReadMode::Lease`](crate::ReadMode::Lease) is refused. The same on all members, for a
    /// member with a bound keeps it after a restart that it votes for nobody within an election time-out. A clock that
    /// breaks the bound makes stale reads.
    pub clock_drift_ppm_max: Option<u32>,
    /// The most octets of the log in memory, each entry counted with 64 more. Default 256 MiB. A leader that reached
    /// it refuses proposals, a follower with twice as much appends, until [`compact`](crate::Raft::compact) made room.
    pub log_bytes_max: u64,
    /// How many entries before the snapshot stay in memory for slow followers. Default 500. Zero sends a snapshot to
    /// every follower that was one entry behind at a compaction.
    pub trailing_entries_max: usize,
    /// The most octets of these, each counted with 64 more; never more than half of
    /// [`log_bytes_max`](Self::log_bytes_max), which new ones need as well. Default 64 MiB.
    pub trailing_bytes_max: u64,
    /// The most octets of a snapshot. Default 256 MiB.
    pub snapshot_bytes_max: u64,
    /// The most octets of a snapshot in one message. Default 256 KiB. One chunk is on its way at a time.
    pub snapshot_chunk_bytes_max: usize,
    /// The most members, learners and voters that go included. Default 64.
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
            commit_delay: Duration::from_millis(2),
            entries_per_append_max: 256,
            append_bytes_max: 256 << 10,
            inflight_max: 64,
            inflight_bytes_max: 8 << 20,
            command_bytes_max: 1 << 20,
            uncommitted_bytes_max: 16 << 20,
            clock_drift_ppm_max: None,
            log_bytes_max: 256 << 20,
            trailing_entries_max: 500,
            trailing_bytes_max: 64 << 20,
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
        let times = [
            ("heartbeat_interval", self.heartbeat_interval),
            ("election_timeout", self.election_timeout),
            ("commit_delay", self.commit_delay),
        ];
        if let Some(&(setting, time)) = times.iter().find(|(_, time)| *time > TIME_MAX) {
            return Err(ConfigError::TooLong {
                setting,
                time,
                time_max: TIME_MAX,
            });
        }
        if self.election_timeout < self.heartbeat_interval * 2 {
            return Err(ConfigError::ElectionTimeout {
                election_timeout: self.election_timeout,
                heartbeat_interval: self.heartbeat_interval,
            });
        }
        let counts = [
            (
                "entries_per_append_max",
                as_u64(self.entries_per_append_max),
            ),
            ("inflight_max", as_u64(self.inflight_max)),
            ("command_bytes_max", as_u64(self.command_bytes_max)),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("log_bytes_max", self.log_bytes_max),
            ("snapshot_bytes_max", self.snapshot_bytes_max),
            (
                "snapshot_chunk_bytes_max",
                as_u64(self.snapshot_chunk_bytes_max),
            ),
            ("members_max", as_u64(self.members_max)),
            ("reads_max", as_u64(self.reads_max)),
            ("writes_inflight_max", as_u64(self.writes_inflight_max)),
            ("messages_max", as_u64(self.messages_max)),
        ];
        if let Some(drift) = self.clock_drift_ppm_max
            && drift > CLOCK_DRIFT_PPM_MAX
        {
            return Err(ConfigError::ClockDrift {
                drift_ppm: drift,
                drift_ppm_max: CLOCK_DRIFT_PPM_MAX,
            });
        }
        let sizes = [
            ("append_bytes_max", self.append_bytes_max),
            ("command_bytes_max", as_u64(self.command_bytes_max)),
            (
                "snapshot_chunk_bytes_max",
                as_u64(self.snapshot_chunk_bytes_max),
            ),
        ];
        if let Some(&(setting, bytes)) = sizes.iter().find(|(_, bytes)| *bytes > MESSAGE_BYTES_MAX)
        {
            return Err(ConfigError::TooLarge {
                setting,
                bytes,
                bytes_max: MESSAGE_BYTES_MAX,
            });
        }
        match counts.iter().find(|(_, count)| *count == 0) {
            Some(&(setting, _)) => Err(ConfigError::Zero { setting }),
            None => Ok(()),
        }
    }
}

fn as_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Longer, a time is a mistake, and sums of times have no room.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// What a message may hold: its length must fit into 32 bits.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;

/// Beyond this, a clock is no clock.
const CLOCK_DRIFT_PPM_MAX: u32 = 500_000;

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
    /// A time is longer than anybody waits.
    #[error("{setting} is {time:?}, at most {time_max:?} can be")]
    TooLong {
        /// The setting's name.
        setting: &'static str,
        /// As configured.
        time: Duration,
        /// What can be.
        time_max: Duration,
    },
    /// A message could become longer than its header can say.
    #[error("{setting} is {bytes} octets, at most {bytes_max} can be")]
    TooLarge {
        /// The setting's name.
        setting: &'static str,
        /// As configured.
        bytes: u64,
        /// What can be.
        bytes_max: u64,
    },
    /// The bound on clocks is no bound.
    #[error("clock_drift_ppm_max is {drift_ppm}, at most {drift_ppm_max} can be")]
    ClockDrift {
        /// As configured.
        drift_ppm: u32,
        /// What can be.
        drift_ppm_max: u32,
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
