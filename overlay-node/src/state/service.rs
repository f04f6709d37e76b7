//! Services, and the tasks that stand for them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use serde::{Deserialize, Serialize};

use crate::api::{DesiredState, PublishedPort, ServiceSpec, Slot, TaskStatus, UpdateStatus};

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Its identity.
    pub id: ServiceId,
    /// What it shall be and what it was, by version: the present one, the one before, and those that tasks still stand for.
    pub specs: BTreeMap<u64, ServiceSpec>,
    /// Which of them is the present one.
    pub spec_version: u64,
    /// Which of them was the one before.
    pub previous_version: Option<u64>,
    /// The index at which a client changed it last.
    pub version: u64,
    /// The networks that its tasks are on, in the order of the present spec.
    pub networks: Vec<NetworkId>,
    /// Its published ports, with those that were chosen.
    pub ports: Vec<PublishedPort>,
    /// Its virtual address on each network, with the prefix length of its subnet.
    pub virtual_addresses: BTreeMap<NetworkId, IpNet>,
    /// How far its last change is.
    pub update: Option<UpdateStatus>,
    /// It was removed; it goes with its last task.
    pub removing: bool,
    /// When it was created, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it was changed last.
    pub updated_unix_ms: u64,
}

impl ServiceRecord {
    /// Returns what it shall be.
    pub fn spec(&self) -> &ServiceSpec {
        &self.specs[&self.spec_version]
    }

    /// Returns what it was before its last change.
    pub fn previous(&self) -> Option<&ServiceSpec> {
        self.specs.get(&self.previous_version?)
    }
}

/// One run of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Its identity.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// Which task of its service it is.
    pub slot: Slot,
    /// The version of the service's spec that it stands for.
    pub spec_version: u64,
    /// The node that was chosen.
    pub node: Option<NodeId>,
    /// What is wanted of it; it only ever goes forward.
    pub desired: DesiredState,
    /// How it is; the state only ever goes forward.
    pub status: TaskStatus,
    /// Its endpoints, one on each network, from when a node is chosen until it has ended.
    pub endpoints: Vec<EndpointId>,
    /// The index at which it was made: later tasks of a slot have a higher one.
    pub created: u64,
}

/// A decision of the scheduler, carried out by [`ClusterState::apply`](super::ClusterState::apply). What no longer fits
/// when it is applied (the task, the service or the node is gone, the version is another) is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskChange {
    /// Makes a task.
    Create {
        /// Its identity.
        task: TaskId,
        /// Its service.
        service: ServiceId,
        /// Which task of its service it is.
        slot: Slot,
        /// The version of the service's spec that it stands for.
        spec_version: u64,
        /// What is wanted of it.
        desired: DesiredState,
    },
    /// Gives a task without a node one, and addresses on its networks.
    Place {
        /// The task.
        task: TaskId,
        /// The node.
        node: NodeId,
    },
    /// Says why a task has no node.
    Pend {
        /// The task.
        task: TaskId,
        /// Why.
        reason: crate::api::PendingReason,
    },
    /// Wants something else of a task.
    Desire {
        /// The task.
        task: TaskId,
        /// What is wanted of it.
        desired: DesiredState,
    },
    /// Gives a task up whose node does not answer any more, so that its addresses come back.
    Orphan {
        /// The task.
        task: TaskId,
    },
    /// Forgets a task that has ended or has no node.
    Remove {
        /// The task.
        task: TaskId,
    },
    /// Says how far the replacement of a service's tasks is.
    Update {
        /// The service.
        service: ServiceId,
        /// The version of the spec that this is about.
        spec_version: u64,
        /// How far.
        phase: crate::api::UpdatePhase,
        /// In words for people.
        message: String,
    },
    /// Changes a service back to its spec before: its update failed, and that is its failure action.
    RollBack {
        /// The service.
        service: ServiceId,
        /// The version of the spec that failed.
        spec_version: u64,
    },
}
