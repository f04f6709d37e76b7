//! The replicated state of the cluster: one deterministic value, changed by [`ClusterState::apply`] alone.
//!
//! Everything that a command needs travels in it or is in the state: no clock, no randomness, no hash order.

mod addresses;
mod admission;
mod audit;
mod authority;
mod command;
mod consistency;
mod digest;
mod endpoint;
mod error;
mod index;
mod keys;
mod locking;
mod needs;
mod network;
mod node;
mod policy;
mod record;
mod requests;
mod ring;
mod service;
mod snapshot;
mod stored;
mod table;
mod task;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_ipam::{Pools, VniAllocator};
use overlay_raft::RaftId;
use serde::{Deserialize, Serialize};

pub use admission::{IssuedToken, TokenId};
pub use command::{
    AddNode, AttachEndpoint, ClusterSeed, Command, NodeDescription, Outcome, Proposal, RequestId,
};
pub use consistency::Inconsistency;
pub use error::CommandError;
pub use keys::SharedKeys;
pub(crate) use network::OF_EACH_NODE;
pub use network::{BRIDGE, INGRESS};
pub use record::{
    Cluster, EndpointRecord, FormerPart, NetworkRecord, NodeRecord, SubnetRecord, TaskEndpoint,
};
pub use service::{ServiceRecord, TaskChange, TaskRecord};
pub use snapshot::SnapshotError;
pub use watch::{Change, Changed, WatchError};

pub use crate::secret::Secret;
use audit::Audit;
use requests::Requests;
use table::Table;
use watch::Journal;

/// The replicated state of the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    #[serde(with = "table::single")]
    cluster: Table<Cluster>,
    nodes: Table<NodeRecord>,
    networks: Table<NetworkRecord>,
    endpoints: Table<EndpointRecord>,
    services: Table<ServiceRecord>,
    tasks: Table<TaskRecord>,
    pools: Pools,
    vnis: VniAllocator,
    requests: Requests,
    former: Table<FormerPart>,
    audit: Audit,
    next_raft_id: u64,
    applied: u64,
    #[serde(skip)]
    journal: Journal,
}

impl ClusterState {
    /// Makes the empty state, before anything was applied.
    pub fn new() -> Self {
        Self {
            cluster: Table::default(),
            nodes: Table::default(),
            networks: Table::default(),
            endpoints: Table::default(),
            services: Table::default(),
            tasks: Table::default(),
            pools: Pools::docker_default(),
            vnis: VniAllocator::new(),
            requests: Requests::default(),
            former: Table::default(),
            audit: Audit::default(),
            next_raft_id: 1,
            applied: 0,
            journal: Journal::default(),
        }
    }

    /// Applies the command at `index` of the log.
    ///
    /// A request that was applied before is not applied again: its outcome is returned as it was.
    ///
    /// # Errors
    ///
    /// Why the command changes nothing. The error is an outcome like any other: it is remembered with the request.
    pub fn apply(&mut self, index: u64, proposal: Proposal) -> Result<Outcome, CommandError> {
        debug_assert!(
            index > self.applied,
            "each index is applied once, in order: {index} after {}",
            self.applied
        );
        self.applied = index;
        if let Some(outcome) = self.requests.outcome(proposal.request) {
            return outcome.clone();
        }
        let request = proposal.request;
        let outcome = self.run(index, proposal);
        self.requests.remember(request, outcome.clone());
        outcome
    }

    /// Returns the index of the last command that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Returns what is true of the cluster as a whole, `None` before it was made.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.get(())
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeRecord> {
        self.nodes.rows()
    }

    /// Returns all networks.
    pub fn networks(&self) -> &BTreeMap<NetworkId, NetworkRecord> {
        self.networks.rows()
    }

    /// Returns all endpoints.
    pub fn endpoints(&self) -> &BTreeMap<EndpointId, EndpointRecord> {
        self.endpoints.rows()
    }

    /// Returns all services, those that are being removed among them.
    pub fn services(&self) -> &BTreeMap<ServiceId, ServiceRecord> {
        self.services.rows()
    }

    /// Returns all tasks, those that have ended among them.
    pub fn tasks(&self) -> &BTreeMap<TaskId, TaskRecord> {
        self.tasks.rows()
    }

    /// Returns the outcome of a request that was applied, as long as it is remembered.
    pub fn outcome(&self, request: RequestId) -> Option<&Result<Outcome, CommandError>> {
        self.requests.outcome(request)
    }

    /// Returns the managers by their part in the consensus.
    pub fn voters(&self) -> impl Iterator<Item = (RaftId, &NodeRecord)> {
        let managers = self.nodes.index().managers.iter();
        managers.filter_map(|node| {
            let node = self.nodes.get(*node)?;
            Some((node.raft?, node))
        })
    }

    /// Returns the parts in the consensus that nodes had and shall have no more, until [`Command::RetireParts`]: as long
    /// as their votes may count, whoever had them must go on voting.
    pub fn former(&self) -> &BTreeMap<RaftId, FormerPart> {
        self.former.rows()
    }

    /// Returns whether a part in the consensus is one that nobody has any more, and never will: numbers are not used again.
    pub fn is_retired(&self, part: RaftId) -> bool {
        let present = self.voters().any(|(id, _)| id == part);
        part.get() < self.next_raft_id && !present && self.former.get(part).is_none()
    }

    fn run(&mut self, index: u64, proposal: Proposal) -> Result<Outcome, CommandError> {
        let Proposal {
            command,
            actor,
            at_unix_ms,
            request: _,
        } = proposal;
        self.audit.begin(index, at_unix_ms, actor);
        self.journal.begin(index, actor);
        let subject = self.subject(&command);
        let outcome = match command {
            Command::InitCluster(seed) => self.init_cluster(index, *seed, at_unix_ms),
            Command::AddNode(node) => self.add_node(index, node),
            Command::DescribeNode { node, description } => self.describe_node(node, description),
            Command::SetRole { node, role } => self.set_role(node, role),
            Command::RemoveNode { node } => self.remove_node(index, node, at_unix_ms),
            Command::RotateToken { role, secret } => self.rotate_token(role, secret),
            Command::RotateKeys { generation, gossip } => {
                self.rotate_keys(index, at_unix_ms, generation, gossip)
            }
            Command::IssueToken { id, token } => self.issue_token(at_unix_ms, id, token),
            Command::RevokeToken { id } => self.revoke_token(id),
            Command::Admit { node, token } => self.admit(index, at_unix_ms, node, token),
            Command::BeginAuthority(next) => self.begin_authority(*next),
            Command::FinishAuthority { digest } => self.finish_authority(digest),
            Command::LockManagers { unlock, rotate } => self.lock_managers(unlock, rotate),
            Command::CreateNetwork { id, spec } => self.create_network(id, spec, actor, at_unix_ms),
            Command::RemoveNetwork { network } => self.remove_network(network),
            Command::ExtendNetwork { network, subnets } => self.extend_network(network, &subnets),
            Command::ChangePolicy { network, change } => self.change_policy(network, *change),
            Command::AttachEndpoint(attach) => self.attach_endpoint(index, attach),
            Command::DetachEndpoint { endpoint, node } => {
                self.detach_endpoint(index, endpoint, node)
            }
            Command::UpdateNode { node, change } => self.update_node(node, change),
            Command::CreateService { id, spec } => {
                self.create_service(index, id, *spec, at_unix_ms)
            }
            Command::UpdateService { id, version, spec } => {
                self.update_service(index, id, version, *spec, at_unix_ms)
            }
            Command::RollBackService { id } => self.roll_back_service(index, id, at_unix_ms),
            Command::RemoveService { id } => self.remove_service(index, id),
            Command::ChangeTasks { changes } => self.change_tasks(index, changes, at_unix_ms),
            Command::ReportTasks { node, reports } => {
                self.report_tasks(index, node, reports, at_unix_ms)
            }
            Command::Recover { manager, epoch } => self.recover(index, manager, epoch, at_unix_ms),
            Command::UpdateCluster { change } => self.update_cluster(change),
            Command::RetireParts { parts } => {
                for part in parts {
                    self.former.remove(&mut self.journal, part);
                }
                Ok(Outcome::Done)
            }
        }?;
        self.note_done(subject, &outcome);
        Ok(outcome)
    }
}

impl Default for ClusterState {
    fn default() -> Self {
        Self::new()
    }
}
