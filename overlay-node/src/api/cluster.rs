//! The cluster as a whole, as the local API shows and changes it.

use overlay_core::NodeId;
use serde::{Deserialize, Serialize};

/// What holds for the cluster as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// How many tasks of a slot are remembered after they have ended. Default 5. More shows more of what went wrong, and
    /// makes the state larger.
    pub task_history_limit: u32,
    /// How often an agent says to the leader that it is there, in milliseconds; each node's own setting if `None`, which is
    /// the default. Longer costs less and finds a lost node later.
    pub heartbeat_ms: Option<u64>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            task_history_limit: 5,
            heartbeat_ms: None,
        }
    }
}

/// What to change of the [`ClusterSettings`]; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterUpdate {
    /// See [`ClusterSettings::task_history_limit`].
    pub task_history_limit: Option<u32>,
    /// See [`ClusterSettings::heartbeat_ms`]; at least 100.
    pub heartbeat_ms: Option<u64>,
}

/// The cluster, described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Its identity.
    pub id: NodeId,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// How often it was rebuilt from a survivor after its quorum was lost.
    pub epoch: u64,
    /// What holds for it.
    pub settings: ClusterSettings,
    /// The certificate of its certificate authority, PEM.
    pub ca_certificate: String,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many of them are managers.
    pub managers: usize,
}
