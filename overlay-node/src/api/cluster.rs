//! The cluster as a whole, as the local API shows and changes it.

use std::net::SocketAddr;

use overlay_core::NodeId;
use serde::{Deserialize, Serialize};

use super::Role;

/// What holds for the cluster as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// How many tasks of a slot are remembered after they have ended. Default 5. More shows more of what went wrong, and
    /// makes the state larger.
    pub task_history_limit: u32,
    /// How often an agent says to the leader that it is there, in milliseconds; each node's own setting if `None`, which is
    /// the default. Longer costs less and finds a lost node later.
    pub heartbeat_ms: Option<u64>,
    /// How long the certificates of nodes are valid, in milliseconds. Default 90 days. A node has its own renewed at half of
    /// that; shorter ends sooner what somebody can do who stole a node's key, longer bears longer outages of the managers.
    pub certificate_ms: u64,
    /// How long each shared key is the one that seals, in milliseconds. Default 12 hours.
    pub key_rotation_ms: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            task_history_limit: 5,
            heartbeat_ms: None,
            certificate_ms: 90 * 24 * 3_600 * 1_000,
            key_rotation_ms: 12 * 3_600 * 1_000,
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
    /// See [`ClusterSettings::certificate_ms`]; at least 10 s, at the most 10 years.
    pub certificate_ms: Option<u64>,
    /// See [`ClusterSettings::key_rotation_ms`]; at least 10 s, at the most a year.
    pub key_rotation_ms: Option<u64>,
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
    /// The authority that takes over, if one does.
    pub next_authority: Option<NextAuthorityInfo>,
    /// Whether managers' data directories are locked.
    pub autolock: bool,
    /// The number of the newest shared key.
    pub key_generation: u64,
    /// When it was added, in milliseconds since 1970.
    pub keys_rotated_unix_ms: u64,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many of them are managers.
    pub managers: usize,
}

/// How far the replacement of the certificate authority has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAuthorityInfo {
    /// The certificate of the authority that takes over, PEM.
    pub certificate: String,
    /// The nodes that have no certificate of it yet.
    pub awaited: Vec<NodeId>,
}

/// A join token to make, beside the two that every cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenCreate {
    /// What it makes of a node.
    pub role: Role,
    /// For how long it lets nodes in, in milliseconds; for good if `None`.
    pub lifetime_ms: Option<u64>,
    /// How many nodes it lets in; any number if `None`.
    pub uses: Option<u32>,
}

/// Describes a join token that was made by [`TokenCreate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedTokenInfo {
    /// Its identity, by which it is removed.
    pub id: String,
    /// What it makes of a node.
    pub role: Role,
    /// The token itself.
    pub token: String,
    /// The manager's address and port to join at.
    pub remote: SocketAddr,
    /// Until when it lets nodes in, in milliseconds since 1970; for good if `None`.
    pub expires_unix_ms: Option<u64>,
    /// How many nodes more it lets in; any number if `None`.
    pub uses_left: Option<u32>,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
}
