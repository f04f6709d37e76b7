//! What a manager tells a node to run and to know.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use overlay_core::{
    EndpointId, NetworkId, NodeId, ServiceId, TaskId, Vni,
    plane::{DataPath, NetworkPolicy},
};
use overlay_gossip::Lease;
use overlay_raft::RaftId;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Balance, DesiredState, NamedPort, PublishedPort, Role, Slot, TaskSpec},
    identity::{LeaseKey, Pass},
    state::{EndpointRecord, SharedKeys},
    wire::ManagerAddress,
};

/// Everything that a node has to run and to know, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Index of the log that it stands for; a lower one is out of date.
    pub version: u64,
    /// The cluster's identity.
    pub cluster: NodeId,
    /// How often the cluster was rebuilt from a survivor; an assignment of an earlier time is out of date whatever its
    /// version.
    pub epoch: u64,
    /// What the node is, and whom it talks to.
    pub standing: Standing,
    /// The networks that the node has endpoints on.
    pub networks: Vec<AssignedNetwork>,
    /// The services on these networks.
    pub services: Vec<AssignedService>,
    /// The endpoints that the node runs.
    pub endpoints: Vec<AssignedEndpoint>,
    /// The tasks that the node runs, and those that it shall stop.
    pub tasks: Vec<AssignedTask>,
    /// The ports that services publish on this node.
    pub ports: Vec<AssignedPort>,
}

impl Assignment {
    /// Returns whether this one was made after `other`, for the same cluster.
    pub fn is_newer(&self, other: &Self) -> bool {
        self.cluster == other.cluster && (self.epoch, self.version) > (other.epoch, other.version)
    }
}

/// What a node is, and whom it talks to with which keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How often the agent says that it is there, in milliseconds; the node's own setting if `None`.
    pub heartbeat_ms: Option<u64>,
    /// The node's role.
    pub role: Role,
    /// The node's zone: the value of its label `zone`, empty without one.
    pub zone: String,
    /// The node's part in the consensus, for managers.
    pub raft: Option<RaftId>,
    /// All managers.
    pub managers: Vec<ManagerAddress>,
    /// The keys that all nodes share.
    pub keys: SharedKeys,
    /// The certificates of the authorities that it trusts, PEM.
    pub authorities: Vec<String>,
    /// The digest of the authority that signs: the node has its certificate renewed if another one signed it.
    pub issuer: [u8; 32],
    /// How long certificates are valid, in milliseconds.
    pub certificate_ms: u64,
    /// Checks the signatures on leases and passes.
    pub lease_key: LeaseKey,
    /// A manager's word that the node's key is its own.
    pub pass: Pass,
}

/// A service that endpoints of the node reach by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedService {
    /// Its identity.
    pub id: ServiceId,
    /// Its name.
    pub name: String,
    /// What it has on each of the node's networks.
    pub networks: BTreeMap<NetworkId, ServiceOnNetwork>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
    /// The texts of its names.
    pub texts: Vec<String>,
    /// How the flows to its virtual addresses are spread.
    pub balance: Balance,
}

/// What a service has on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOnNetwork {
    /// Its virtual addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// More names.
    pub aliases: Vec<String>,
}

/// A port that a service publishes on the node, or that leads to a task of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedPort {
    /// The port, outside and inside.
    pub port: PublishedPort,
    /// The name of the service.
    pub service_name: String,
    /// Whether it is open on the node; one that is not leads to a task of the node's for others.
    pub open: bool,
    /// The tasks that answer.
    pub backends: Vec<Backend>,
}

/// A task that answers on a published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its node.
    pub node: NodeId,
    /// The role of its node.
    pub role: Role,
    /// Where its node takes sessions.
    pub management: SocketAddr,
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// The addresses of its endpoint.
    pub addresses: Vec<IpAddr>,
}

/// A task of the node that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedTask {
    /// The task.
    pub id: TaskId,
    /// The name of its service.
    pub service_name: String,
    /// Which task of its service it is.
    pub slot: Slot,
    /// What it runs.
    pub spec: TaskSpec,
    /// What is wanted of it.
    pub desired: DesiredState,
    /// Its endpoints.
    pub endpoints: Vec<EndpointId>,
}

/// A network that the node has endpoints on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedNetwork {
    /// Its identity.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Largest inner packet asked for, in octets.
    pub mtu: Option<u16>,
    /// By which plane it is carried; by whichever the node has if `None`.
    pub path: Option<DataPath>,
    /// Whether frames of VLANs are carried on it.
    pub vlan_tags: bool,
    /// Whether its frames are sealed between nodes.
    pub encrypted: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it is the network of published ports, on which no frames travel and nobody has a name: what comes to a
    /// published port is carried by the daemons.
    pub ingress: bool,
    /// Who on it may reach whom, by the addresses of all its endpoints and services.
    pub policy: NetworkPolicy,
    /// Whether endpoints do not find the names of whom they may not reach.
    pub hides_names: bool,
}

/// An endpoint that the node runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedEndpoint {
    /// The endpoint.
    pub record: EndpointRecord,
    /// Its address lease, signed.
    pub lease: Lease,
}
