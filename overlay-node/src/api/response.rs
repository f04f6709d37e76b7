//! Answers of the local API.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId, Vni, plane::Namespace};
use serde::{Deserialize, Serialize};

use super::{
    Availability, ClusterInfo, IssuedTokenInfo, PolicyAnswer, PolicyInfo, Resources, Role,
    ServiceInfo, TaskInfo,
};

/// The answer to a [`Request`](super::Request).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Info`.
    Info(Box<Info>),
    /// To `Init` and `Join`.
    Joined(Joined),
    /// To `JoinToken`.
    Token(TokenInfo),
    /// To `NodeList` and `NodeInspect`.
    Nodes(Vec<NodeInfo>),
    /// To `NetworkList`, `NetworkInspect` and `NetworkCreate`.
    Networks(Vec<NetworkInfo>),
    /// To `Attach` and `EndpointList`.
    Endpoints(Vec<EndpointInfo>),
    /// It is done; there is nothing to tell.
    Done,
    /// To `ServiceList`, `ServiceInspect` and the changes of a service.
    Services(Vec<ServiceInfo>),
    /// To `TaskList`.
    Tasks(Vec<TaskInfo>),
    /// To `Events`.
    Events(Vec<EventInfo>),
    /// To `ClusterInspect`.
    Cluster(Box<ClusterInfo>),
    /// To `Init` that rebuilt a cluster.
    Recovered(Recovered),
    /// The answer of a manager that reaches no leader: as it knew things last, and perhaps out of date.
    Stale(Box<Self>),
    /// To `TokenCreate` and `TokenList`.
    Tokens(Vec<IssuedTokenInfo>),
    /// To `UnlockKey` and `Autolock`; none if managers are not locked.
    UnlockKey(Option<String>),
    /// To `PolicyInspect`.
    Policy(Box<PolicyInfo>),
    /// To `PolicyExplain`: one answer for each network and each decision.
    PolicyAnswers(Vec<PolicyAnswer>),
}

/// The membership of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalState {
    /// Not part of a cluster.
    Inactive,
    /// Part of one.
    Active,
    /// Stopped after a failure of its disk: restart it.
    Failed,
    /// Waiting for the unlock key.
    Locked,
}

/// Describes a node to its own user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Whether it is part of a cluster.
    pub state: LocalState,
    /// Its name.
    pub name: String,
    /// Version of this program.
    pub version: String,
    /// Its identity, once it is part of a cluster.
    pub node: Option<NodeId>,
    /// The cluster's identity.
    pub cluster: Option<NodeId>,
    /// Its role.
    pub role: Option<Role>,
    /// The address that others reach it at.
    pub address: Option<IpAddr>,
    /// The leader, as far as it knows.
    pub leader: Option<NodeId>,
    /// The managers that it knows.
    pub managers: Vec<ManagerInfo>,
    /// How many nodes gossip holds alive, this one included.
    pub nodes_alive: usize,
    /// How many endpoints it runs.
    pub endpoints: usize,
    /// The index up to which a manager applied the log.
    pub applied: Option<u64>,
    /// What is amiss, in words for people; empty when all is well.
    pub warnings: Vec<String>,
}

/// Where a manager is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerInfo {
    /// The manager.
    pub node: NodeId,
    /// Its address and port for cluster management.
    pub address: SocketAddr,
}

/// The node is part of a cluster now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its identity.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// A worker's join token and where to use it; only from a manager.
    pub worker_token: Option<TokenInfo>,
}

/// A cluster was rebuilt from this manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The only manager now.
    pub node: NodeId,
    /// How often the cluster was rebuilt by now.
    pub epoch: u64,
    /// The index of the last change that this manager had: what only the lost ones had is gone.
    pub index: u64,
    /// The managers that were dropped, with their hostnames.
    pub dropped: Vec<(NodeId, String)>,
    /// How many nodes were kept, this one included.
    pub nodes: usize,
    /// How many networks were kept.
    pub networks: usize,
    /// How many endpoints were kept.
    pub endpoints: usize,
    /// How many services were kept.
    pub services: usize,
}

/// A join token and where to use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Whose token.
    pub role: Role,
    /// The token.
    pub token: String,
    /// The manager's address and port to join at.
    pub remote: SocketAddr,
}

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// Nothing was heard of it yet.
    Unknown,
    /// It answers.
    Ready,
    /// It does not.
    Down,
}

/// A manager's part in the consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManagerStatus {
    /// It leads.
    Leader,
    /// It answers.
    Reachable,
    /// It does not.
    Unreachable,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// Its host's name.
    pub hostname: String,
    /// Whether it is the node that answers.
    pub is_self: bool,
    /// Whether it answers.
    pub status: NodeStatus,
    /// Whether it gets new tasks.
    pub availability: Availability,
    /// Its role.
    pub role: Role,
    /// Its part in the consensus, for managers.
    pub manager_status: Option<ManagerStatus>,
    /// The address that others reach it at.
    pub address: IpAddr,
    /// Version of its program.
    pub version: String,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
    /// What it has to give to tasks; all zero if it does not say.
    pub resources: Resources,
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    /// The prefix.
    pub subnet: IpNet,
    /// Its gateway.
    pub gateway: Option<IpAddr>,
    /// Addresses are chosen from this part only.
    pub ip_range: Option<IpNet>,
    /// Addresses that are used otherwise, by their names.
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// The VXLAN network identifier of this subnet.
    pub vni: Vni,
    /// How many addresses are given out.
    pub used: u64,
    /// How many are left to choose from; the largest number if they are more.
    pub available: u64,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// Its identity.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// `swarm` or `local`.
    pub scope: String,
    /// Whether standalone endpoints may attach.
    pub attachable: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it is the network of published ports.
    pub ingress: bool,
    /// Its subnets.
    pub subnets: Vec<IpamConfig>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Its endpoints, cluster-wide on managers. Filled by `NetworkInspect` only.
    pub endpoints: Vec<EndpointInfo>,
    /// The nodes that take part in it. Filled by `NetworkInspect` only.
    pub peers: Vec<ManagerInfo>,
    /// The one node that it is on, if its scope is local.
    pub node: Option<NodeId>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Its identity.
    pub id: EndpointId,
    /// Its name.
    pub name: String,
    /// More names that resolve to it.
    pub aliases: Vec<String>,
    /// Its network.
    pub network: NetworkId,
    /// Name of its network.
    pub network_name: String,
    /// The node that runs it.
    pub node: NodeId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// Where its port goes, if it runs on the node that answers.
    pub namespace: Option<Namespace>,
    /// Whether its port is up and its row is with gossip, if it runs on the node that answers.
    pub ready: bool,
}

/// A change of the cluster, for whoever looks on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInfo {
    /// The index of the log at which it happened.
    pub index: u64,
    /// When, in milliseconds since 1970, by the leader's clock.
    pub at_unix_ms: u64,
    /// The node on whose behalf.
    pub actor: NodeId,
    /// What it is about: `node`, `network`, `endpoint`, `service`, `task`, `cluster`.
    pub kind: String,
    /// What happened: `create`, `update`, `remove`, and for tasks their new state.
    pub action: String,
    /// The identity of what it is about.
    pub id: String,
    /// Its name.
    pub name: String,
}
