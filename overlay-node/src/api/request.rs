//! Requests of the local API.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use overlay_core::{EndpointId, plane::Namespace};
use serde::{Deserialize, Serialize};

use super::{ClusterUpdate, PolicyChange, PolicyQuestion, ServiceSpec, TokenCreate};
use crate::identity::NextAuthority;

/// What a local client asks for.
///
/// References to nodes, networks and endpoints are text: the whole identity, the whole name, or an unambiguous prefix of
/// the identity, tried in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Describes this node. Every node answers.
    Info,
    /// Makes a new cluster with this node as its first manager.
    Init(InitRequest),
    /// Joins an existing cluster.
    Join(JoinRequest),
    /// Leaves the cluster. A manager needs `force` unless it was demoted before.
    Leave {
        /// Leave although this node is a manager.
        force: bool,
    },
    /// Reads a join token, after replacing it if `rotate`.
    JoinToken {
        /// Whose token.
        role: Role,
        /// Replace it first; the old one stops working.
        rotate: bool,
    },
    /// Lists the nodes.
    NodeList,
    /// Describes one node.
    NodeInspect {
        /// The node.
        node: String,
    },
    /// Changes the role of a node.
    NodeSetRole {
        /// The node.
        node: String,
        /// Its new role.
        role: Role,
    },
    /// Removes a node that is down, or any with `force`.
    NodeRemove {
        /// The node.
        node: String,
        /// Remove it although it is not down.
        force: bool,
    },
    /// Creates a network.
    NetworkCreate(NetworkCreate),
    /// Gives a network more subnets.
    NetworkExtend {
        /// The network.
        network: String,
        /// The subnets.
        subnets: Vec<SubnetSpec>,
    },
    /// Lists the networks.
    NetworkList,
    /// Describes one network.
    NetworkInspect {
        /// The network.
        network: String,
    },
    /// Removes a network that nothing uses.
    NetworkRemove {
        /// The network.
        network: String,
    },
    /// Attaches an endpoint of this node to an attachable network, and waits until it is ready.
    Attach(AttachRequest),
    /// Detaches an endpoint of this node.
    Detach {
        /// The endpoint: identity or name.
        endpoint: String,
    },
    /// Lists the endpoints that this node runs.
    EndpointList,
    /// Changes a node.
    NodeUpdate(NodeUpdate),
    /// Creates a service.
    ServiceCreate(Box<ServiceSpec>),
    /// Changes a service.
    ServiceUpdate {
        /// The service: identity or name.
        service: String,
        /// The version that the client has seen: a change of another one is refused; any if `None`.
        version: Option<u64>,
        /// What it shall be.
        spec: Box<ServiceSpec>,
    },
    /// Changes how many tasks a replicated service has.
    ServiceScale {
        /// The service.
        service: String,
        /// How many.
        replicas: u32,
    },
    /// Changes a service back to what it was before its last change.
    ServiceRollback {
        /// The service.
        service: String,
    },
    /// Removes a service and its tasks.
    ServiceRemove {
        /// The service.
        service: String,
    },
    /// Lists the services.
    ServiceList,
    /// Describes one service.
    ServiceInspect {
        /// The service.
        service: String,
    },
    /// Lists tasks, newest last; all that are remembered if neither is given.
    TaskList {
        /// Of this service only.
        service: Option<String>,
        /// On this node only.
        node: Option<String>,
    },
    /// Reads what changed in the cluster after an index, oldest first; the last 1,024 changes are remembered.
    Events {
        /// The index of the last change that is known.
        after: u64,
    },
    /// Describes the cluster as a whole.
    ClusterInspect,
    /// Changes what holds for the cluster as a whole.
    ClusterUpdate(ClusterUpdate),
    /// Makes a join token that expires, or that lets a certain number of nodes in.
    TokenCreate(TokenCreate),
    /// Lists such tokens.
    TokenList,
    /// Takes such a token back.
    TokenRemove {
        /// Its identity.
        token: String,
    },
    /// Replaces the certificate authority; the nodes go on. It is done when [`Request::ClusterInspect`] names no next one.
    AuthorityRotate {
        /// The authority to have, with what makes nodes take it that know only the present one; the manager that takes the
        /// request makes one if `None`.
        next: Option<Box<NextAuthority>>,
    },
    /// Has the data directories of managers locked, so that a daemon that starts waits for [`Request::Unlock`]; or open.
    Autolock {
        /// Whether they are locked.
        on: bool,
    },
    /// Reads the unlock key of managers.
    UnlockKey {
        /// Replace it first. A manager that is down has the one that was valid when it went.
        rotate: bool,
    },
    /// Opens the data directory of a daemon that was started locked, and has it go on as what it was.
    Unlock {
        /// The unlock key.
        key: String,
    },
    /// Changes who on a network may reach whom.
    PolicyChange {
        /// The network.
        network: String,
        /// What to change.
        change: Box<PolicyChange>,
    },
    /// Describes who on a network may reach whom.
    PolicyInspect {
        /// The network.
        network: String,
    },
    /// Says which rule decides about a flow.
    PolicyExplain(PolicyQuestion),
}

/// See [`Request::Init`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InitRequest {
    /// The address that other nodes reach this one at; the daemon's own setting if `None`.
    pub advertise: Option<IpAddr>,
    /// Pools that networks take their subnets from; 10.0.0.0/8 if empty.
    pub pools: Vec<IpNet>,
    /// Prefix length of a subnet cut from a pool; 24 if `None`.
    pub pool_split: Option<u8>,
    /// Rebuild the cluster that this manager is part of, with it as the only manager, after the quorum was lost for good.
    pub force_new_cluster: bool,
}

/// See [`Request::Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// A join token, as [`Request::JoinToken`] gave it to somebody.
    pub token: String,
    /// A manager's address and port.
    pub remote: SocketAddr,
    /// The address that other nodes reach this one at; the daemon's own setting if `None`.
    pub advertise: Option<IpAddr>,
}

/// What a node is allowed to do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs endpoints and tasks.
    #[default]
    Worker,
    /// Keeps the cluster state, too.
    Manager,
}

impl Role {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a node gets new tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// No new ones.
    Pause,
    /// No new ones, and its present ones move away.
    Drain,
}

/// See [`Request::NetworkCreate`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkCreate {
    /// Its name, unique in the cluster: letters, digits, `_`, `-` and `.`, at most 63 octets.
    pub name: String,
    /// Its driver; `overlay` if empty.
    pub driver: String,
    /// Whether standalone endpoints may attach.
    pub attachable: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it is the network of published ports; there is one at the most.
    pub ingress: bool,
    /// Its subnets; one from the pools if empty.
    pub subnets: Vec<SubnetSpec>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
}

/// One subnet that a network shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubnetSpec {
    /// The prefix; with an unspecified address any free one of that length.
    pub subnet: Option<IpNet>,
    /// Its gateway; the first usable address if `None`.
    pub gateway: Option<IpAddr>,
    /// Addresses are chosen from this part only.
    pub ip_range: Option<IpNet>,
    /// Addresses that are used otherwise, by their names; nobody gets one of them.
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// See [`Request::Attach`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The network.
    pub network: String,
    /// Name of the endpoint, unique on this network.
    pub name: String,
    /// More names that resolve to it; other endpoints may share them.
    pub aliases: Vec<String>,
    /// The addresses to have, at most one of each family; any free ones of the others.
    pub addresses: Vec<IpAddr>,
    /// Where the inner end of its port goes.
    pub namespace: Namespace,
    /// The identity to have, drawn by the caller, so that it can prepare a namespace; a fresh one if `None`.
    pub endpoint: Option<EndpointId>,
}

/// See [`Request::NodeUpdate`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeUpdate {
    /// The node: identity or host name.
    pub node: String,
    /// Whether it gets new tasks.
    pub availability: Option<Availability>,
    /// Its role.
    pub role: Option<Role>,
    /// Labels to set.
    pub labels_add: BTreeMap<String, String>,
    /// Labels to remove.
    pub labels_remove: Vec<String>,
}
