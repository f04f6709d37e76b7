//! Commands about the cluster as a whole and its nodes.

use std::collections::BTreeMap;

use overlay_core::NodeId;
use overlay_ipam::{OwnerId, PoolConfig, Pools};
use overlay_raft::RaftId;

use super::{
    AddNode, Cluster, ClusterSeed, ClusterState, CommandError, FormerPart, INGRESS,
    NodeDescription, NodeRecord, Outcome, Secret, SharedKeys,
};
use crate::api::{
    Availability, ClusterSettings, ClusterUpdate, NetworkCreate, NodeUpdate, Resources, Role,
};

impl ClusterState {
    pub(super) fn init_cluster(
        &mut self,
        index: u64,
        seed: ClusterSeed,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        if self.cluster().is_some() {
            return Err(CommandError::AlreadyInitialized);
        }
        let mut made = self.clone();
        if !seed.pools.is_empty() {
            let pools: Vec<_> = seed
                .pools
                .iter()
                .map(|prefix| PoolConfig {
                    prefix: *prefix,
                    split: seed.pool_split,
                })
                .collect();
            made.pools = Pools::new(&pools).map_err(|error| CommandError::InvalidSubnet {
                subnet: format!("{:?}", seed.pools),
                reason: error.to_string(),
            })?;
        }
        let cluster = Cluster {
            id: seed.id,
            ca_certificate: seed.ca_certificate,
            ca_key: seed.ca_key,
            next_authority: None,
            unlock_key: None,
            lease_key: seed.lease_key,
            keys: SharedKeys::new(seed.gossip_keys.into(), at_unix_ms),
            worker_token: seed.worker_token,
            manager_token: seed.manager_token,
            tokens: BTreeMap::new(),
            created_unix_ms: at_unix_ms,
            epoch: 0,
            settings: ClusterSettings::default(),
        };
        made.cluster.insert(&mut made.journal, (), cluster);
        // The first subnet and VNI are kept for published ports from the start, as Docker does.
        let ingress = NetworkCreate {
            name: INGRESS.to_owned(),
            ingress: true,
            ..NetworkCreate::default()
        };
        made.create_network(seed.ingress, ingress, seed.manager.id, at_unix_ms)?;
        let outcome = made.add_node(index, seed.manager)?;
        *self = made;
        Ok(outcome)
    }

    pub(super) fn add_node(&mut self, index: u64, node: AddNode) -> Result<Outcome, CommandError> {
        self.initialized()?;
        if !is_hostname(&node.hostname) {
            return Err(CommandError::InvalidName {
                name: node.hostname.chars().take(80).collect(),
            });
        }
        if !self.nodes.contains(node.id) && self.nodes.len() >= NODES_MAX {
            return Err(CommandError::Limit {
                what: "nodes".to_owned(),
                limit: NODES_MAX as u64,
            });
        }
        let id = node.id;
        let known = self.nodes.get(id).and_then(|known| known.raft);
        let raft = match (node.role, known) {
            // Joining is not a way to demote, least of all the last manager.
            (Role::Worker, Some(_)) => return Err(CommandError::IsManager { node: id }),
            (Role::Worker, None) => None,
            // A node that joins again has an empty log: its old part in the consensus must not vote with it.
            (Role::Manager, _) => Some(self.draw_raft_id()),
        };
        self.note_former(id);
        let record = NodeRecord {
            id,
            hostname: node.hostname,
            role: node.role,
            raft,
            address: node.address,
            management_port: node.management_port,
            gossip_port: node.gossip_port,
            availability: Availability::Active,
            version: node.version,
            labels: BTreeMap::new(),
            resources: Resources::default(),
            routes: Vec::new(),
            admitted: index,
            key: node.key,
            issuer: [0; 32],
        };
        self.nodes.insert(&mut self.journal, id, record);
        Ok(Outcome::Node(id, raft))
    }

    pub(super) fn describe_node(
        &mut self,
        node: NodeId,
        description: NodeDescription,
    ) -> Result<Outcome, CommandError> {
        if !is_hostname(&description.hostname) {
            return Err(CommandError::InvalidName {
                name: description.hostname.chars().take(80).collect(),
            });
        }
        let change = |record: &mut NodeRecord| {
            record.hostname = description.hostname;
            record.address = description.address;
            record.management_port = description.management_port;
            record.gossip_port = description.gossip_port;
            record.version = description.version;
            record.resources = description.resources;
            record.routes = description.routes;
            record.routes.retain(|route| route.prefix_len() > 0);
            record.routes.truncate(ROUTES_MAX);
            record.issuer = description.issuer;
        };
        self.nodes
            .modify(&mut self.journal, node, change)
            .map(|()| Outcome::Taken)
            .ok_or(CommandError::UnknownNode { node })
    }

    pub(super) fn set_role(&mut self, node: NodeId, role: Role) -> Result<Outcome, CommandError> {
        let record = self
            .nodes
            .get(node)
            .ok_or(CommandError::UnknownNode { node })?;
        match (record.role, role) {
            (Role::Manager, Role::Worker) => {
                if self.is_last_manager() {
                    return Err(CommandError::LastManager { node });
                }
                self.update_role(node, role, None)
            }
            (Role::Worker, Role::Manager) => {
                let raft = self.draw_raft_id();
                self.update_role(node, role, Some(raft))
            }
            (Role::Worker, Role::Worker) | (Role::Manager, Role::Manager) => Ok(Outcome::Done),
        }
    }

    pub(super) fn update_node(
        &mut self,
        node: NodeId,
        change: NodeUpdate,
    ) -> Result<Outcome, CommandError> {
        let unknown = CommandError::UnknownNode { node };
        let record = self.nodes.get(node).ok_or(unknown.clone())?;
        let (added, removed) = (&change.labels_add, &change.labels_remove);
        let stays =
            |label: &&String| !removed.contains(*label) && !added.contains_key(label.as_str());
        if record.labels.keys().filter(stays).count() + added.len() > LABELS_MAX {
            return Err(CommandError::Limit {
                what: "labels a node".to_owned(),
                limit: LABELS_MAX as u64,
            });
        }
        let outcome = match change.role {
            Some(role) => self.set_role(node, role)?,
            None => Outcome::Done,
        };
        let change = |record: &mut NodeRecord| {
            for label in &change.labels_remove {
                record.labels.remove(label);
            }
            record.labels.extend(change.labels_add);
            record.availability = change.availability.unwrap_or(record.availability);
        };
        self.nodes
            .modify(&mut self.journal, node, change)
            .map(|()| outcome)
            .ok_or(unknown)
    }

    pub(super) fn remove_node(
        &mut self,
        index: u64,
        node: NodeId,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        let record = self
            .nodes
            .get(node)
            .ok_or(CommandError::UnknownNode { node })?;
        if record.role == Role::Manager && self.is_last_manager() {
            return Err(CommandError::LastManager { node });
        }
        let endpoints: Vec<_> = self.endpoints.index().on_node.of(&node).collect();
        for endpoint in endpoints {
            self.remove_endpoint(index, endpoint);
        }
        self.orphan_tasks(index, node, at_unix_ms);
        let local = self.networks().values();
        let local = local.filter(|network| network.node == Some(node));
        for network in local.map(|network| network.id).collect::<Vec<_>>() {
            self.drop_network(network);
        }
        self.note_former(node);
        self.nodes.remove(&mut self.journal, node);
        self.outdate_keys();
        Ok(Outcome::Done)
    }

    pub(super) fn update_cluster(
        &mut self,
        change: ClusterUpdate,
    ) -> Result<Outcome, CommandError> {
        for (what, found, most) in [
            (
                "remembered tasks of a slot",
                change.task_history_limit.map(u64::from),
                u64::from(TASK_HISTORY_MAX),
            ),
            (
                "milliseconds between two heartbeats",
                change.heartbeat_ms,
                HEARTBEAT_MS_MAX,
            ),
            (
                "milliseconds of a certificate's life",
                change.certificate_ms,
                CERTIFICATE_MS_MAX,
            ),
            (
                "milliseconds between two changes of the shared keys",
                change.key_rotation_ms,
                KEY_ROTATION_MS_MAX,
            ),
        ] {
            if found.is_some_and(|found| found > most) {
                let what = what.to_owned();
                return Err(CommandError::Limit { what, limit: most });
            }
        }
        let change = |cluster: &mut Cluster| {
            let settings = &mut cluster.settings;
            settings.task_history_limit = change
                .task_history_limit
                .unwrap_or(settings.task_history_limit);
            let heartbeat = change.heartbeat_ms.map(|ms| ms.max(HEARTBEAT_MS_MIN));
            settings.heartbeat_ms = heartbeat.or(settings.heartbeat_ms);
            let at_least =
                |ms: Option<u64>, present| ms.map_or(present, |ms| ms.max(SECURITY_MS_MIN));
            settings.certificate_ms = at_least(change.certificate_ms, settings.certificate_ms);
            settings.key_rotation_ms = at_least(change.key_rotation_ms, settings.key_rotation_ms);
        };
        self.cluster
            .modify(&mut self.journal, (), change)
            .map(|()| Outcome::Done)
            .ok_or(CommandError::NotInitialized)
    }

    /// Goes on with one manager after the quorum was lost. The others are dropped: they hold another group's log.
    pub(super) fn recover(
        &mut self,
        index: u64,
        manager: NodeId,
        epoch: u64,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        let present = self.cluster().ok_or(CommandError::NotInitialized)?;
        if epoch <= present.epoch {
            // It came again.
            return Ok(Outcome::Done);
        }
        if self
            .nodes
            .get(manager)
            .is_none_or(|node| node.raft.is_none())
        {
            return Err(CommandError::UnknownNode { node: manager });
        }
        let dropped: Vec<_> = self.voters().map(|(_, node)| node.id).collect();
        for node in dropped.into_iter().filter(|node| *node != manager) {
            self.remove_node(index, node, at_unix_ms)?;
        }
        // Nobody else's vote counts in the new group.
        let former: Vec<_> = self.former().keys().copied().collect();
        for part in former {
            self.former.remove(&mut self.journal, part);
        }
        let change = |cluster: &mut Cluster| cluster.epoch = epoch;
        self.cluster
            .modify(&mut self.journal, (), change)
            .map(|()| Outcome::Done)
            .ok_or(CommandError::NotInitialized)
    }

    /// Returns the number of a lease that is given at `index`: higher than that of any before, also of those that were
    /// given in a part of the log that a recovery lost.
    pub(super) fn generation(&self, index: u64) -> u64 {
        let epoch = self.cluster().map_or(0, |cluster| cluster.epoch);
        epoch << EPOCH_SHIFT | index
    }

    pub(super) fn rotate_token(
        &mut self,
        role: Role,
        secret: Secret<16>,
    ) -> Result<Outcome, CommandError> {
        let change = |cluster: &mut Cluster| match role {
            Role::Worker => cluster.worker_token = secret,
            Role::Manager => cluster.manager_token = secret,
        };
        self.cluster
            .modify(&mut self.journal, (), change)
            .map(|()| Outcome::Token(role))
            .ok_or(CommandError::NotInitialized)
    }

    pub(super) fn initialized(&self) -> Result<(), CommandError> {
        if self.cluster().is_some() {
            Ok(())
        } else {
            Err(CommandError::NotInitialized)
        }
    }

    fn update_role(
        &mut self,
        node: NodeId,
        role: Role,
        raft: Option<RaftId>,
    ) -> Result<Outcome, CommandError> {
        self.note_former(node);
        let change = |record: &mut NodeRecord| {
            record.role = role;
            record.raft = raft;
        };
        self.nodes
            .modify(&mut self.journal, node, change)
            .map(|()| Outcome::Node(node, raft))
            .ok_or(CommandError::UnknownNode { node })
    }

    fn is_last_manager(&self) -> bool {
        self.nodes.index().managers.len() == 1
    }

    /// Notes that the node's present part in the consensus, if it has one, will be its former one.
    fn note_former(&mut self, node: NodeId) {
        let Some(record) = self.nodes.get(node) else {
            return;
        };
        let former = FormerPart {
            node,
            management: record.management(),
            gossip: record.gossip(),
        };
        if let Some(part) = record.raft {
            self.former.insert(&mut self.journal, part, former);
        }
    }

    fn draw_raft_id(&mut self) -> RaftId {
        let id = RaftId::new(self.next_raft_id).expect("the counter starts at one");
        // The log ends long before the numbers do.
        self.next_raft_id = self.next_raft_id.saturating_add(1);
        id
    }
}

/// Returns the owner under which addresses of an endpoint are leased.
pub(super) fn owner(id: &[u8; 16]) -> OwnerId {
    OwnerId::from_bytes(*id)
}

/// Returns whether `name` can be the name of a network, an endpoint or a host (RFC 1123 §2.1, with `_`).
pub(super) fn is_name(name: &str) -> bool {
    let body = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len())
        && name.bytes().all(body)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.ends_with('.')
        && !name.contains("..")
}

/// Returns whether `name` can be the name of a host: as [`is_name`], but up to 253 octets.
fn is_hostname(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_name)
}

/// How many labels a node has at the most.
const LABELS_MAX: usize = 64;
/// How many tasks of a slot are remembered at the most.
const TASK_HISTORY_MAX: u32 = 100;
/// How long an agent may be silent between two heartbeats at the most: an hour.
const HEARTBEAT_MS_MAX: u64 = 3_600_000;
/// How often agents speak at the most.
const HEARTBEAT_MS_MIN: u64 = 100;
/// How long certificates are valid at the most: ten years.
const CERTIFICATE_MS_MAX: u64 = 10 * 365 * 24 * 3_600_000;
/// How long a shared key is in use at the most: a year.
const KEY_ROTATION_MS_MAX: u64 = 365 * 24 * 3_600_000;
/// How short the lives of certificates and shared keys may be: ten seconds, for tests.
const SECURITY_MS_MIN: u64 = 10_000;
/// Indices stay below this power of two: a million commands a second for half a year.
const EPOCH_SHIFT: u32 = 44;
/// How many nodes a cluster has at the most.
const NODES_MAX: usize = 10_000;
/// How many routes of a node's host count at the most.
const ROUTES_MAX: usize = 256;
