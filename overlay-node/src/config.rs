//! What a node is made with.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{
    NodeId,
    plane::{DataPath, Namespace},
};

use crate::{api::Resources, secret::Secret};

/// How a node takes part in its cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its identity.
    pub node: NodeId,
    /// Its host's name, for people.
    pub hostname: String,
    /// The Ed25519 key by which it signs what it says of itself: the same in all its lives.
    pub key: Secret<32>,
    /// Which life of the node this is; higher than that of any life before. Others do not believe what an earlier life said once
    /// they have heard of a later one. Default 0.
    pub life: u64,
    /// The digest of the authority that signed its certificate; zero, which is the default, if it has none.
    pub issuer: [u8; 32],
    /// The address that others reach it at; also its VTEP.
    pub address: IpAddr,
    /// Its port for cluster management. Default 2377.
    pub management_port: u16,
    /// Its port for gossip. Default 7946.
    pub gossip_port: u16,
    /// MTU of the underlay, in octets. Default 1500. Too high: large packets vanish; too low: throughput.
    pub underlay_mtu: u16,
    /// Its port of VXLAN, and that of all other nodes. Default 4789.
    pub data_port: u16,
    /// The port of UDP that carries encrypted networks, on all nodes. Default 4500 (RFC 3948).
    pub esp_port: u16,
    /// By which plane it carries networks. One that asks for the other is not carried: a node has one of them, because a VXLAN
    /// device of the kernel has the data port for itself. Default: the one in user space.
    pub data_path: DataPath,
    /// By which plane it carries encrypted networks, or why by none. A node has one, because two would number packets of the
    /// same keys: one that asks for the other is not carried. Default: the one in user space.
    pub sealing: Result<DataPath, String>,
    /// Unix time of the driver's epoch, so that records can carry a date for people.
    pub unix_epoch: Duration,
    /// How often and how long.
    pub timers: Timers,
    /// How many local requests may wait for an answer. Default 1,024; more are refused.
    pub requests_max: usize,
    /// How long a local request waits for a leader. Default 10 s.
    pub request_timeout: Duration,
    /// The way out of endpoints whose networks are not internal; none if `None`, which is the default.
    pub way_out: Option<WayOutConfig>,
    /// Where the ports of tasks go. Default: a namespace of its own for each.
    pub task_namespace: Namespace,
    /// What the host has to give to tasks. Default: it does not say, and counts as having enough of everything.
    pub resources: Resources,
    /// Where the host has routes to; the default route is none of them. Subnets that are chosen for networks keep clear of
    /// them. At most 256 count. Default: none.
    pub routes: Vec<IpNet>,
    /// How many log entries are kept before the state is written as a snapshot. Default 10,000.
    pub snapshot_interval: u64,
    /// How many changes a manager keeps for [`ClusterState::changes_after`](crate::state::ClusterState::changes_after). Default
    /// 0: no more than the few hundred that it keeps for itself. Too few: a watcher that is slow has to read the whole
    /// state more often.
    pub changes_max: usize,
}

impl Config {
    /// Makes a configuration with the default of each field.
    pub fn new(node: NodeId, hostname: impl Into<String>, address: IpAddr) -> Self {
        Self {
            node,
            hostname: hostname.into(),
            key: Secret::zero(),
            life: 0,
            issuer: [0; 32],
            address,
            management_port: 2_377,
            gossip_port: 7_946,
            underlay_mtu: 1_500,
            data_port: 4_789,
            esp_port: 4_500,
            data_path: DataPath::User,
            sealing: Ok(DataPath::User),
            unix_epoch: Duration::ZERO,
            timers: Timers::default(),
            requests_max: 1_024,
            request_timeout: Duration::from_secs(10),
            way_out: None,
            task_namespace: Namespace::Own,
            resources: Resources::default(),
            routes: Vec::new(),
            snapshot_interval: 10_000,
            changes_max: 0,
        }
    }
}

/// The bridge by which endpoints leave their node, as Docker's `docker_gwbridge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayOutConfig {
    /// Its name, at most 15 octets.
    pub bridge: String,
    /// Its subnet; the first address is its own.
    pub subnet: Ipv4Net,
    /// Its MTU, in octets.
    pub mtu: u16,
}

impl Default for WayOutConfig {
    fn default() -> Self {
        Self {
            bridge: "overlay_gw".to_owned(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(172, 18, 0, 0), 16),
            mtu: 1_500,
        }
    }
}

/// How often and how long. The defaults are memberlist's for a LAN, Docker's for agents and overlay-raft's;
/// [`Timers::prompt`] answers failures within a second or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// How often gossip probes a member. Default 1 s.
    pub probe_interval: Duration,
    /// How long a probe waits before it asks others. Default 500 ms.
    pub probe_timeout: Duration,
    /// How long a suspected member has at least to answer. Default 4 s.
    pub suspicion_min: Duration,
    /// How often gossip sends what is queued. Default 200 ms.
    pub gossip_interval: Duration,
    /// How often the whole membership is exchanged with one member. Default 30 s.
    pub push_pull_interval: Duration,
    /// How often the tables of a network are compared with one member's. Default 5 s.
    pub sync_interval: Duration,
    /// How often an agent says to the leader that it is there. Default 5 s.
    pub heartbeat_interval: Duration,
    /// How many heartbeats may be missing before a node counts as down. Default 3.
    pub heartbeats_missing_max: u32,
    /// How long an endpoint that the managers keep for a node, but nobody there knows of, is left alone before its
    /// address goes back. Default 30 s.
    pub orphan_grace: Duration,
    /// How often a leader shows its followers that it leads. Default 100 ms.
    pub raft_heartbeat_interval: Duration,
    /// How long a follower waits for a leader at least; at the most twice as long. Default 500 ms.
    pub raft_election_timeout: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            suspicion_min: Duration::from_secs(4),
            gossip_interval: Duration::from_millis(200),
            push_pull_interval: Duration::from_secs(30),
            sync_interval: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(5),
            heartbeats_missing_max: 3,
            orphan_grace: Duration::from_secs(30),
            raft_heartbeat_interval: Duration::from_millis(100),
            raft_election_timeout: Duration::from_millis(500),
        }
    }
}

impl Timers {
    /// Times for a quiet LAN of some dozens of nodes: a node that is cut off is suspected within a second or
    /// two, and counts as down a second later.
    pub fn prompt() -> Self {
        Self {
            probe_interval: Duration::from_millis(300),
            probe_timeout: Duration::from_millis(200),
            suspicion_min: Duration::from_secs(1),
            gossip_interval: Duration::from_millis(100),
            push_pull_interval: Duration::from_secs(15),
            sync_interval: Duration::from_secs(2),
            heartbeat_interval: Duration::from_millis(500),
            ..Self::default()
        }
    }
}
