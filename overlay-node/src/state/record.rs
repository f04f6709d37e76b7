//! What the state holds of each thing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId, ServiceId, TaskId, Vni};
use overlay_ipam::NetworkAddresses;
use overlay_raft::RaftId;
use serde::{Deserialize, Serialize};

use super::{
    admission::{IssuedToken, TokenId},
    keys::SharedKeys,
};
use crate::{
    api::{Availability, ClusterSettings, Resources, Role, RuleSpec},
    identity::{NextAuthority, UnlockKey},
    secret::Secret,
};

/// What is true of the cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its identity.
    pub id: NodeId,
    /// The certificate of its certificate authority, PEM.
    pub ca_certificate: String,
    /// The key of its certificate authority, PEM.
    pub ca_key: Secret<0>,
    /// The authority that takes over, while all nodes' certificates are being replaced.
    pub next_authority: Option<Box<NextAuthority>>,
    /// The seed of the Ed25519 key that signs address leases.
    pub lease_key: Secret<32>,
    /// The keys that all nodes share.
    pub keys: SharedKeys,
    /// The secret of the workers' join token.
    pub worker_token: Secret<16>,
    /// The secret of the managers' join token.
    pub manager_token: Secret<16>,
    /// Join tokens that expire, or that let a certain number of nodes in.
    pub tokens: BTreeMap<TokenId, IssuedToken>,
    /// What managers' data directories open with after a restart; with nothing if `None`.
    pub unlock_key: Option<UnlockKey>,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// How often it was rebuilt from a survivor after its quorum was lost. Each time begins a new consensus group.
    pub epoch: u64,
    /// What was chosen for it.
    pub settings: ClusterSettings,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its identity.
    pub id: NodeId,
    /// Its host's name.
    pub hostname: String,
    /// Its role.
    pub role: Role,
    /// Its part in the consensus, for managers. Assigned by `apply`, never used again.
    pub raft: Option<RaftId>,
    /// The address that others reach it at.
    pub address: IpAddr,
    /// Its port for cluster management.
    pub management_port: u16,
    /// Its port for gossip.
    pub gossip_port: u16,
    /// Whether it gets new tasks.
    pub availability: Availability,
    /// Version of its program.
    pub version: String,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
    /// What it has to give to tasks.
    pub resources: Resources,
    /// Where its host has routes to already: subnets that are chosen keep clear of them.
    pub routes: Vec<IpNet>,
    /// The index of the log at which it was let in last.
    pub admitted: u64,
    /// The public half of the key by which it signs what it says of itself, since it was let in.
    pub key: [u8; 32],
    /// The digest of the authority that signed its certificate, as it says; zero if it does not.
    pub issuer: [u8; 32],
}

impl NodeRecord {
    /// Returns where it is reached for cluster management.
    pub fn management(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.management_port)
    }

    /// Returns where it is reached for gossip.
    pub fn gossip(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.gossip_port)
    }
}

/// A part in the consensus that a node had and shall have no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerPart {
    /// The node.
    pub node: NodeId,
    /// Where it is reached for cluster management.
    pub management: SocketAddr,
    /// Where it is reached for gossip.
    pub gossip: SocketAddr,
}

/// One network.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Its identity.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Whether standalone endpoints may attach.
    pub attachable: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it is the network of published ports.
    pub ingress: bool,
    /// Its subnets.
    pub subnets: Vec<SubnetRecord>,
    /// Who has which of their addresses.
    pub addresses: NetworkAddresses,
    /// Largest inner packet asked for, in octets; the underlay's less the encapsulation's if `None`.
    pub mtu: Option<u16>,
    /// Driver options, as given.
    pub options: BTreeMap<String, String>,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The one node that it is on, if its scope is local; on all nodes if `None`.
    pub node: Option<NodeId>,
    /// Who on it may reach whom: the first rule that matches decides, else the default of its options.
    pub rules: Vec<RuleSpec>,
}

/// One subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRecord {
    /// The prefix.
    pub prefix: IpNet,
    /// Its gateway; the address is reserved.
    pub gateway: Option<IpAddr>,
    /// Addresses are chosen from this part only.
    pub ip_range: Option<IpNet>,
    /// Addresses that are used otherwise, by their names; nobody gets one of them.
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// Its VXLAN network identifier.
    pub vni: Vni,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Its identity.
    pub id: EndpointId,
    /// The node that runs it.
    pub node: NodeId,
    /// Its network.
    pub network: NetworkId,
    /// Its name, unique on the network.
    pub name: String,
    /// More names.
    pub aliases: Vec<String>,
    /// Its addresses with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The index at which it was attached; a later lease of the same address has a higher one.
    pub generation: u64,
    /// The task that it is for; `None` if it stands alone.
    pub task: Option<TaskEndpoint>,
}

/// What an endpoint's task is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEndpoint {
    /// The task.
    pub task: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// The name of its service.
    pub service_name: String,
}
