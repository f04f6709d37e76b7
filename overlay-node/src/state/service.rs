//! Services: what they are, and the commands about them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use serde::{Deserialize, Serialize};

use super::{
    ClusterState, CommandError, NetworkRecord, Outcome,
    index::TaskIndex,
    needs::{invalid, limit},
    node::is_name,
};
use crate::api::{
    DesiredState, PendingReason, PublishedPort, ServiceSpec, Slot, TaskStatus, UpdatePhase,
    UpdateStatus,
};

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
    /// Its virtual addresses on each network, with the prefix lengths of their subnets.
    pub virtual_addresses: BTreeMap<NetworkId, Vec<IpNet>>,
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

    fn needs_spec(&self, version: u64, tasks: &TaskIndex) -> bool {
        version == self.spec_version
            || Some(version) == self.previous_version
            || tasks.stands_for(self.id, version)
    }

    /// Forgets specs that nothing stands for any more.
    fn forget_specs(&mut self, tasks: &TaskIndex) {
        let mut specs = std::mem::take(&mut self.specs);
        specs.retain(|version, _| self.needs_spec(*version, tasks));
        self.specs = specs;
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
        reason: PendingReason,
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
        phase: UpdatePhase,
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

impl ClusterState {
    pub(super) fn create_service(
        &mut self,
        index: u64,
        id: ServiceId,
        spec: ServiceSpec,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        self.initialized()?;
        if !is_name(&spec.name) {
            return Err(CommandError::InvalidName {
                name: spec.name.chars().take(80).collect(),
            });
        }
        let other = self.service_named(&spec.name);
        if let Some(other) = other.or_else(|| self.services.get(id)) {
            return Err(CommandError::ServiceExists {
                name: other.spec().name.clone(),
                service: other.id,
            });
        }
        if self.services.len() >= SERVICES_MAX {
            return Err(limit("services", SERVICES_MAX as u64));
        }
        let needs = self.needs(id, &spec, &BTreeMap::new())?;
        let virtual_addresses = self.take_addresses(index, id, needs.held, &needs.wanted);
        let record = ServiceRecord {
            id,
            specs: BTreeMap::from([(index, spec)]),
            spec_version: index,
            previous_version: None,
            version: index,
            networks: needs.networks,
            ports: needs.ports,
            virtual_addresses,
            update: None,
            removing: false,
            created_unix_ms: at_unix_ms,
            updated_unix_ms: at_unix_ms,
        };
        self.services.insert(&mut self.journal, id, record);
        Ok(Outcome::Service(id))
    }

    pub(super) fn update_service(
        &mut self,
        index: u64,
        id: ServiceId,
        version: Option<u64>,
        spec: ServiceSpec,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        let record = self.service(id)?;
        if let Some(expected) = version.filter(|version| *version != record.version) {
            return Err(CommandError::Outdated {
                service: id,
                expected,
                found: record.version,
            });
        }
        if spec.name != record.spec().name {
            return Err(invalid("the name", "a service keeps its name"));
        }
        self.change_spec(index, id, spec, at_unix_ms, None)?;
        Ok(Outcome::Service(id))
    }

    pub(super) fn roll_back_service(
        &mut self,
        index: u64,
        id: ServiceId,
        at_unix_ms: u64,
    ) -> Result<Outcome, CommandError> {
        let record = self.service(id)?;
        let previous = record.previous().cloned();
        let spec = previous.ok_or(CommandError::NoPrevious { service: id })?;
        let status = UpdateStatus {
            phase: UpdatePhase::RollbackStarted,
            since_unix_ms: at_unix_ms,
            message: "rollback in progress".to_owned(),
        };
        self.change_spec(index, id, spec, at_unix_ms, Some(status))?;
        Ok(Outcome::Service(id))
    }

    pub(super) fn remove_service(
        &mut self,
        index: u64,
        id: ServiceId,
    ) -> Result<Outcome, CommandError> {
        self.service(id)?;
        self.services.modify(&mut self.journal, id, |record| {
            record.removing = true;
            record.ports.clear();
        });
        let tasks: Vec<_> = self.tasks.index().of_service.of(&id).collect();
        for task in tasks {
            self.desire(index, task, DesiredState::Remove);
        }
        self.sweep_service(index, id);
        Ok(Outcome::Done)
    }

    /// Returns the service, unless it is being removed.
    pub(super) fn service(&self, id: ServiceId) -> Result<&ServiceRecord, CommandError> {
        let record = self.services.get(id).filter(|service| !service.removing);
        record.ok_or(CommandError::UnknownService { service: id })
    }

    /// Forgets specs that nothing stands for any more, and the service itself once it was removed and its tasks are gone.
    pub(super) fn sweep_service(&mut self, index: u64, id: ServiceId) {
        let Some(record) = self.services.get(id) else {
            return;
        };
        let tasks = self.tasks.index();
        if record.removing && tasks.of_service.len(&id) == 0 {
            let networks: Vec<_> = record.virtual_addresses.keys().copied().collect();
            for network in networks {
                self.release(network, id.as_bytes(), index);
            }
            self.services.remove(&mut self.journal, id);
            return;
        }
        if !record
            .specs
            .keys()
            .all(|version| record.needs_spec(*version, tasks))
        {
            self.services
                .modify(&mut self.journal, id, |record| record.forget_specs(tasks));
        }
    }

    /// Returns the service of that name, unless it is being removed.
    pub fn service_named(&self, name: &str) -> Option<&ServiceRecord> {
        self.services.get(self.services.index().named(name)?)
    }

    /// Takes the virtual addresses that [`needs`](Self::needs) found to be there.
    fn take_addresses(
        &mut self,
        index: u64,
        id: ServiceId,
        held: BTreeMap<NetworkId, Vec<IpNet>>,
        wanted: &[(NetworkId, Vec<IpAddr>)],
    ) -> BTreeMap<NetworkId, Vec<IpNet>> {
        let mut addresses = held;
        for (network, asked) in wanted {
            let take = |record: &mut NetworkRecord| record.take(id.as_bytes(), asked, index);
            let taken = self.networks.modify_part(*network, take);
            addresses.insert(*network, taken.expect("the network is there"));
        }
        addresses
    }

    fn change_spec(
        &mut self,
        index: u64,
        id: ServiceId,
        spec: ServiceSpec,
        at_unix_ms: u64,
        status: Option<UpdateStatus>,
    ) -> Result<(), CommandError> {
        let record = self.service(id)?;
        let held = record.virtual_addresses.clone();
        let needs = self.needs(id, &spec, &held)?;
        let virtual_addresses = self.take_addresses(index, id, needs.held, &needs.wanted);
        for network in held.keys() {
            if !virtual_addresses.contains_key(network) {
                self.release(*network, id.as_bytes(), index);
            }
        }
        let tasks = self.tasks.index();
        self.services.modify(&mut self.journal, id, |record| {
            if *record.spec() != spec {
                record.previous_version = Some(record.spec_version);
                record.spec_version = index;
                record.specs.insert(index, spec);
            }
            record.version = index;
            record.networks = needs.networks;
            record.ports = needs.ports;
            record.virtual_addresses = virtual_addresses;
            record.update = status;
            record.updated_unix_ms = at_unix_ms;
            record.forget_specs(tasks);
        });
        Ok(())
    }
}

/// How many services a cluster has at the most.
const SERVICES_MAX: usize = 10_000;
