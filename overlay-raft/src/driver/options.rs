//! What an embedder chooses about a member.

use std::{collections::BTreeMap, net::SocketAddr};

use super::LinksConfig;
use crate::{Config, RaftId, storage::StorageConfig};

/// The settings of a member and of what is around it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine's.
    pub config: Config,
    /// Where members listen, this one included. More may be said later with [`Member::set_peer`](super::Member::set_peer).
    pub peers: BTreeMap<RaftId, SocketAddr>,
    /// What an empty disk means.
    pub start: Start,
    /// After how many applied commands a snapshot is taken and the log before it forgotten. Default 50,000. A log that weighs
    /// less than the snapshot before is let grow, but for half of [`Config::log_bytes_max`]. Lower writes the whole state more
    /// often; higher makes a longer log to read at the next start.
    pub compact_entries: u64,
    /// The sockets'.
    pub links: LinksConfig,
    /// The log's.
    pub storage: StorageConfig,
    /// How many requests wait for the loop; whoever asks waits. Default 8,192.
    pub requests_max: usize,
}

impl Options {
    /// Makes the settings of a member that finds its peers there.
    pub fn new(start: Start, config: Config, peers: BTreeMap<RaftId, SocketAddr>) -> Self {
        Self {
            config,
            peers,
            start,
            compact_entries: 50_000,
            links: LinksConfig::default(),
            storage: StorageConfig::default(),
            requests_max: 8_192,
        }
    }
}

/// What an empty disk means. A disk that holds something is always gone on with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// It was lost, or is another one: [`StartError::Empty`](super::StartError::Empty). For every start but the first.
    Resume,
    /// The member founds a cluster together with all its peers, each of which is told the same peers. To be said once in the
    /// life of a cluster, and never by a member that comes later or lost its disk: it would vote again in terms in which it
    /// voted already ([`Restored::bootstrap`](crate::Restored::bootstrap)), and logs that begin differently are not told apart.
    Found,
    /// The member waits to be added, also one that lost its disk ([`Restored::joining`](crate::Restored::joining)).
    Join,
}
