//! The command line.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use overlay_raft::RaftId;

/// A key-value store on several machines, whose answers are those of one
#[derive(Debug, Parser)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one member
    Serve(Box<Serve>),
    /// Write a value
    Put {
        key: String,
        value: String,
        #[command(flatten)]
        at: At,
    },
    /// Remove a key
    Delete {
        key: String,
        #[command(flatten)]
        at: At,
    },
    /// Write NEW if the key has the value OLD; exit with 1 if it has not
    Cas {
        key: String,
        /// The value that is expected; with `--absent`, leave it empty
        old: String,
        new: String,
        /// Expect that there is no value
        #[arg(long)]
        absent: bool,
        #[command(flatten)]
        at: At,
    },
    /// Read a value; exit with 1 if there is none
    Get {
        key: String,
        /// Take whatever the member has, which may be of the past
        #[arg(long, conflicts_with = "lease")]
        stale: bool,
        /// Rely on clocks, see `serve --clock-drift-ppm`
        #[arg(long)]
        lease: bool,
        #[command(flatten)]
        at: At,
    },
    /// Show what each of the members says of itself
    Status {
        #[command(flatten)]
        at: At,
    },
    /// Add a member that is sent everything and has no vote
    AddLearner {
        /// The member and where it listens for the others, such as 4=127.0.0.1:7104
        #[arg(value_parser = peer)]
        member: (RaftId, SocketAddr),
        #[command(flatten)]
        at: At,
    },
    /// Give a learner that has caught up a vote
    Promote {
        id: u64,
        #[command(flatten)]
        at: At,
    },
    /// Remove a member
    Remove {
        id: u64,
        #[command(flatten)]
        at: At,
    },
    /// Hand leadership to a member
    Transfer {
        to: u64,
        #[command(flatten)]
        at: At,
    },
    /// Write as fast as the cluster takes it, or read
    Bench {
        /// Read instead, linearizably
        #[arg(long)]
        reads: bool,
        /// How many requests wait for their answers at any time
        #[arg(long, default_value_t = 256)]
        in_flight: usize,
        /// Over how many connections
        #[arg(long, default_value_t = 4)]
        connections: usize,
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        #[arg(long, default_value_t = 256)]
        value_bytes: usize,
        #[command(flatten)]
        at: At,
    },
    /// Measure how often the disk can append 4 KiB and sync
    BenchDisk {
        #[arg(long)]
        data: PathBuf,
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
}

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Where members take clients
    #[arg(
        long = "at",
        value_name = "ADDR,…",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) addresses: Vec<String>,
    /// How long to go on asking, in seconds
    #[arg(long, default_value_t = 10)]
    pub(crate) patience: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// This member
    #[arg(long, value_parser = id)]
    pub(crate) id: RaftId,
    /// All members, this one included, and where they listen for each other
    #[arg(long, value_name = "ID=ADDR,…", value_delimiter = ',', value_parser = peer, required = true)]
    pub(crate) peers: Vec<(RaftId, SocketAddr)>,
    /// Where clients are taken
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen_clients: SocketAddr,
    /// The directory of the log
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Found a cluster together with all peers: for the very first start of each of them
    #[arg(long, conflicts_with = "join")]
    pub(crate) found: bool,
    /// Wait to be added to a cluster: for the first start of a later member, or of one whose directory was lost
    #[arg(long)]
    pub(crate) join: bool,
    /// The cluster: members of different ones refuse each other
    #[arg(long, default_value_t = 1)]
    pub(crate) group: u64,
    /// How soon a leader is missed
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    pub(crate) profile: Profile,
    /// By how much clocks may run wrong, in millionths; allows `get --lease`. The same on all members
    #[arg(long, value_name = "PPM")]
    pub(crate) clock_drift_ppm: Option<u32>,
    /// After how many writes the log is compacted
    #[arg(long, value_name = "N")]
    pub(crate) compact_entries: Option<u64>,
}

/// Timers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Profile {
    /// Those of the crate: another leader within 1.5 s
    Default,
    /// For one rack: another leader within 0.5 s
    Lan,
}

impl Profile {
    /// The election time-out and the time between heartbeats; none for those of the crate.
    pub(crate) fn timers(self) -> Option<(Duration, Duration)> {
        match self {
            Self::Default => None,
            Self::Lan => Some((Duration::from_millis(150), Duration::from_millis(30))),
        }
    }
}

impl Serve {
    pub(crate) fn peers(&self) -> BTreeMap<RaftId, SocketAddr> {
        self.peers.iter().copied().collect()
    }
}

fn id(text: &str) -> anyhow::Result<RaftId> {
    RaftId::new(text.parse()?).context("members are numbered from 1")
}

fn peer(text: &str) -> anyhow::Result<(RaftId, SocketAddr)> {
    let (number, address) = text.split_once('=').context("expected ID=ADDR:PORT")?;
    Ok((id(number)?, address.parse()?))
}
