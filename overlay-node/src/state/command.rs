//! What the log carries. Variants and fields are only ever appended; postcard writes them by position.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use overlay_core::{EndpointId, Instant, NetworkId, NodeId, Rng, ServiceId, TaskId};
use overlay_raft::RaftId;
use serde::{Deserialize, Serialize};

use super::{
    CommandError, NodeRecord, Secret, TaskChange,
    admission::{IssuedToken, TokenId},
};
use crate::{
    Config,
    api::{
        ClusterUpdate, NetworkCreate, NodeUpdate, PolicyChange, Resources, Role, ServiceSpec,
        SubnetSpec, TaskStatus,
    },
    identity::{NextAuthority, NodeKey, UnlockKey},
};

/// Identifies a request over all its retries, so that it is applied once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId([u8; 16]);

impl RequestId {
    /// Draws a fresh one.
    pub fn random(rng: &mut Rng) -> Self {
        Self(rng.bytes())
    }

    /// Makes one from its octets.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns its octets.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({:08x})", u128::from_be_bytes(self.0) >> 96)
    }
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The request that it carries out.
    pub request: RequestId,
    /// The node on whose behalf.
    pub actor: NodeId,
    /// The leader's wall clock when it proposed, in milliseconds since 1970; for people only.
    pub at_unix_ms: u64,
    /// What to do.
    pub command: Command,
}

impl Proposal {
    /// Makes one at `now`, on behalf of `actor`.
    pub fn new(
        config: &Config,
        now: Instant,
        actor: NodeId,
        request: RequestId,
        command: Command,
    ) -> Self {
        let unix = config.unix_epoch.as_millis() + u128::from(now.as_millis());
        Self {
            request,
            actor,
            at_unix_ms: u64::try_from(unix).unwrap_or(u64::MAX),
            command,
        }
    }
}

/// A change of the cluster state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes the cluster; the first command of a log.
    InitCluster(Box<ClusterSeed>),
    /// Adds a node, or takes up one that is known.
    AddNode(AddNode),
    /// Takes a node's word on itself: where it is reached, and what it is.
    DescribeNode {
        /// The node.
        node: NodeId,
        /// What it says.
        description: NodeDescription,
    },
    /// Changes the role of a node.
    SetRole {
        /// The node.
        node: NodeId,
        /// Its new role.
        role: Role,
    },
    /// Removes a node and what it runs.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Replaces a join token's secret.
    RotateToken {
        /// Whose token.
        role: Role,
        /// The new secret.
        secret: Secret<16>,
    },
    /// Creates a network.
    CreateNetwork {
        /// Its identity, drawn by whoever proposes.
        id: NetworkId,
        /// What was asked for.
        spec: NetworkCreate,
    },
    /// Removes a network that nothing uses.
    RemoveNetwork {
        /// The network.
        network: NetworkId,
    },
    /// Attaches an endpoint.
    AttachEndpoint(AttachEndpoint),
    /// Detaches an endpoint.
    DetachEndpoint {
        /// The endpoint.
        endpoint: EndpointId,
        /// Only if it is this node's.
        node: Option<NodeId>,
    },
    /// Forgets parts in the consensus that are out of its membership: whoever had them is needed no more.
    RetireParts {
        /// The parts.
        parts: Vec<RaftId>,
    },
    /// Changes what a client may change of a node.
    UpdateNode {
        /// The node.
        node: NodeId,
        /// What to change; the reference to the node in it is not looked at.
        change: NodeUpdate,
    },
    /// Creates a service.
    CreateService {
        /// Its identity, drawn by whoever proposes.
        id: ServiceId,
        /// What it shall be.
        spec: Box<ServiceSpec>,
    },
    /// Changes a service.
    UpdateService {
        /// The service.
        id: ServiceId,
        /// The version that the client has seen; any if `None`.
        version: Option<u64>,
        /// What it shall be.
        spec: Box<ServiceSpec>,
    },
    /// Changes a service back to what it was before.
    RollBackService {
        /// The service.
        id: ServiceId,
    },
    /// Removes a service and its tasks.
    RemoveService {
        /// The service.
        id: ServiceId,
    },
    /// Carries out what the scheduler decided.
    ChangeTasks {
        /// The decisions, in order.
        changes: Vec<TaskChange>,
    },
    /// Takes a node's word on its tasks.
    ReportTasks {
        /// The node.
        node: NodeId,
        /// The tasks and how they are.
        reports: Vec<(TaskId, TaskStatus)>,
    },
    /// Goes on with one manager, in a new consensus group, after the quorum was lost; the other managers are dropped.
    Recover {
        /// The survivor.
        manager: NodeId,
        /// The new group's number; nothing happens if the cluster has it already.
        epoch: u64,
    },
    /// Changes what holds for the cluster as a whole.
    UpdateCluster {
        /// What to change.
        change: ClusterUpdate,
    },
    /// Gives a network more subnets.
    ExtendNetwork {
        /// The network.
        network: NetworkId,
        /// The subnets.
        subnets: Vec<SubnetSpec>,
    },
    /// Adds a shared key and drops the oldest one.
    RotateKeys {
        /// The number of the newest key that is known; nothing happens if there is a newer one.
        generation: u64,
        /// The new gossip key.
        gossip: Secret<16>,
    },
    /// Makes a join token that expires, or that lets a certain number of nodes in.
    IssueToken {
        /// Its identity, drawn by whoever proposes.
        id: TokenId,
        /// What it is.
        token: IssuedToken,
    },
    /// Takes such a token back.
    RevokeToken {
        /// The token.
        id: TokenId,
    },
    /// Adds a node that showed such a token, and counts it.
    Admit {
        /// The node; its role is the token's.
        node: AddNode,
        /// The token.
        token: TokenId,
    },
    /// Begins to replace the certificate authority.
    BeginAuthority(Box<NextAuthority>),
    /// Ends it: every node has a certificate of the new one.
    FinishAuthority {
        /// The digest of the new authority's certificate; nothing happens if it is not the next one.
        digest: [u8; 32],
    },
    /// Has managers' data directories locked, or open.
    LockManagers {
        /// What they open with; `None` leaves them open.
        unlock: Option<UnlockKey>,
        /// Whether it takes the place of a key that there is, and only of one.
        rotate: bool,
    },
    /// Changes who on a network may reach whom.
    ChangePolicy {
        /// The network.
        network: NetworkId,
        /// What to change.
        change: Box<PolicyChange>,
    },
}

/// See [`Command::InitCluster`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSeed {
    /// The cluster's identity.
    pub id: NodeId,
    /// The certificate of its certificate authority, PEM.
    pub ca_certificate: String,
    /// The key of its certificate authority, PEM.
    pub ca_key: Secret<0>,
    /// The seed of the Ed25519 key that signs address leases.
    pub lease_key: Secret<32>,
    /// The first gossip keys: the second one seals.
    pub gossip_keys: [Secret<16>; 3],
    /// The secret of the workers' join token.
    pub worker_token: Secret<16>,
    /// The secret of the managers' join token.
    pub manager_token: Secret<16>,
    /// Pools that networks take their subnets from; 10.0.0.0/8 if empty.
    pub pools: Vec<IpNet>,
    /// Prefix length of a subnet cut from a pool.
    pub pool_split: u8,
    /// The identity of the network `ingress`.
    pub ingress: NetworkId,
    /// The first manager.
    pub manager: AddNode,
}

impl ClusterSeed {
    /// Draws the secrets and identities of a new cluster whose first manager is `config`'s node.
    pub fn generate(
        rng: &mut Rng,
        config: &Config,
        ca_certificate: String,
        ca_key: String,
    ) -> Self {
        Self {
            id: NodeId::random(rng),
            ca_certificate,
            ca_key: Secret::any(ca_key.into_bytes()),
            lease_key: Secret::random(rng),
            gossip_keys: std::array::from_fn(|_| Secret::random(rng)),
            worker_token: Secret::random(rng),
            manager_token: Secret::random(rng),
            pools: Vec::new(),
            pool_split: 24,
            ingress: NetworkId::random(rng),
            manager: AddNode::new(config, Role::Manager),
        }
    }
}

/// See [`Command::AddNode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddNode {
    /// Its identity.
    pub id: NodeId,
    /// Its host's name.
    pub hostname: String,
    /// Its role.
    pub role: Role,
    /// The address that others reach it at.
    pub address: IpAddr,
    /// Its port for cluster management.
    pub management_port: u16,
    /// Its port for gossip.
    pub gossip_port: u16,
    /// Version of its program.
    pub version: String,
    /// The public half of the key by which it signs what it says of itself.
    pub key: [u8; 32],
}

impl AddNode {
    /// Describes `config`'s node.
    pub fn new(config: &Config, role: Role) -> Self {
        Self {
            id: config.node,
            hostname: config.hostname.clone(),
            role,
            address: config.address,
            management_port: config.management_port,
            gossip_port: config.gossip_port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: NodeKey::new(&config.key).map_or([0; 32], |key| key.public()),
        }
    }
}

/// What a node says of itself each time that it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Its host's name.
    pub hostname: String,
    /// The address that others reach it at.
    pub address: IpAddr,
    /// Its port for cluster management.
    pub management_port: u16,
    /// Its port for gossip.
    pub gossip_port: u16,
    /// Version of its program.
    pub version: String,
    /// What it has to give to tasks; all zero if it does not say.
    pub resources: Resources,
    /// Where its host has routes to.
    pub routes: Vec<IpNet>,
    /// The digest of the authority that signed its certificate; zero if it has none.
    pub issuer: [u8; 32],
}

impl NodeDescription {
    /// Describes `config`'s node.
    pub fn new(config: &Config) -> Self {
        Self {
            hostname: config.hostname.clone(),
            address: config.address,
            management_port: config.management_port,
            gossip_port: config.gossip_port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            resources: config.resources,
            routes: config.routes.clone(),
            issuer: config.issuer,
        }
    }

    /// Returns whether the record says the same.
    pub fn matches(&self, record: &NodeRecord) -> bool {
        let Self {
            hostname,
            address,
            management_port,
            gossip_port,
            version,
            resources,
            routes,
            issuer,
        } = self;
        *hostname == record.hostname
            && *address == record.address
            && *management_port == record.management_port
            && *gossip_port == record.gossip_port
            && *version == record.version
            && *resources == record.resources
            && *routes == record.routes
            && *issuer == record.issuer
    }
}

/// See [`Command::AttachEndpoint`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachEndpoint {
    /// Its identity, drawn by the node that runs it.
    pub id: EndpointId,
    /// The node that runs it.
    pub node: NodeId,
    /// Its network.
    pub network: NetworkId,
    /// Its name, unique on the network.
    pub name: String,
    /// More names.
    pub aliases: Vec<String>,
    /// The addresses to have, at most one of each family; any free ones of the others.
    pub addresses: Vec<IpAddr>,
}

/// What an applied command answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is done; there is nothing to tell.
    Done,
    /// The node, and its part in the consensus if it is a manager.
    Node(NodeId, Option<RaftId>),
    /// The network.
    Network(NetworkId),
    /// The endpoint.
    Endpoint(EndpointId),
    /// The join token of this role.
    Token(Role),
    /// The service.
    Service(ServiceId),
    /// The reports were taken.
    Taken,
    /// The join token that was made.
    Issued(TokenId),
    /// Managers are locked by this unlock key or open: the one that the state has.
    UnlockKey,
}

/// What is remembered of a request.
pub(super) type Applied = Result<Outcome, CommandError>;
