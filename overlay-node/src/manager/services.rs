//! Services and tasks: what clients ask for, as commands, and how they are described.

use ipnet::IpNet;
use overlay_core::{NodeId, ServiceId};

use super::{Manager, query::find};
use crate::{
    api::{
        self, DesiredState, ErrorKind, Request, Response, ServiceInfo, ServiceMode, ServiceSpec,
        TaskInfo, TaskState,
    },
    scheduler,
    state::{Command, CommandError, ServiceRecord, TaskRecord},
};

impl Manager {
    /// Turns a request that changes services into a command.
    pub(super) fn service_command(&mut self, request: &Request) -> Result<Command, api::Error> {
        Ok(match request {
            Request::ServiceCreate(spec) => {
                check(spec)?;
                Command::CreateService {
                    id: ServiceId::random(&mut self.rng),
                    spec: spec.clone(),
                }
            }
            Request::ServiceUpdate {
                service,
                version,
                spec,
            } => {
                check(spec)?;
                Command::UpdateService {
                    id: self.find_service(service)?,
                    version: *version,
                    spec: spec.clone(),
                }
            }
            Request::ServiceScale { service, replicas } => {
                let id = self.find_service(service)?;
                let unknown = CommandError::UnknownService { service: id };
                let record = self.state.services().get(&id).ok_or(unknown)?;
                let mut spec = record.spec().clone();
                if spec.mode == ServiceMode::Global {
                    let text = format!(
                        "service {service:?} is global: it has one task on each node and cannot be scaled"
                    );
                    return Err(api::Error::new(ErrorKind::Invalid, text));
                }
                spec.mode = ServiceMode::Replicated(*replicas);
                Command::UpdateService {
                    id,
                    // Whoever changed it meanwhile must not be undone.
                    version: Some(record.version),
                    spec: Box::new(spec),
                }
            }
            Request::ServiceRollback { service } => Command::RollBackService {
                id: self.find_service(service)?,
            },
            Request::ServiceRemove { service } => Command::RemoveService {
                id: self.find_service(service)?,
            },
            _ => {
                let text = "this request changes no service";
                return Err(api::Error::new(ErrorKind::Invalid, text));
            }
        })
    }

    pub(super) fn query_services(&self, request: &Request) -> Result<Response, api::Error> {
        let live = |record: &&ServiceRecord| !record.removing;
        Ok(match request {
            Request::ServiceInspect { service } => {
                let record = self.state.services().get(&self.find_service(service)?);
                let described = record.map(|record| self.describe_service(record));
                Response::Services(described.into_iter().collect())
            }
            Request::TaskList { service, node } => {
                let service = service.as_ref().map(|text| self.find_service(text));
                let service = service.transpose()?;
                let node = node.as_ref().map(|text| self.find_node(text)).transpose()?;
                let mut tasks: Vec<_> = self
                    .state
                    .tasks()
                    .values()
                    .filter(|task| service.is_none_or(|service| task.service == service))
                    .filter(|task| node.is_none_or(|node| task.node == Some(node)))
                    .collect();
                tasks.sort_by_key(|task| (task.service, task.slot, task.created));
                let describe = |task: &TaskRecord| self.describe_task(task);
                Response::Tasks(tasks.into_iter().map(describe).collect())
            }
            _ => {
                let mut services: Vec<_> = self.state.services().values().filter(live).collect();
                services.sort_by(|a, b| a.spec().name.cmp(&b.spec().name));
                let describe = |record: &ServiceRecord| self.describe_service(record);
                Response::Services(services.into_iter().map(describe).collect())
            }
        })
    }

    pub(super) fn describe_service(&self, record: &ServiceRecord) -> ServiceInfo {
        let tasks: Vec<_> = self.state.tasks_of(record.id).collect();
        let wanted = tasks
            .iter()
            .filter(|task| task.desired == DesiredState::Running);
        let running = wanted
            .clone()
            .filter(|task| task.status.state == TaskState::Running)
            .count();
        let desired = match record.spec().mode {
            ServiceMode::Replicated(replicas) => replicas,
            ServiceMode::Global => count(wanted.count()),
        };
        let addresses = record.virtual_addresses.iter();
        ServiceInfo {
            id: record.id,
            spec: record.spec().clone(),
            previous: record.previous().cloned(),
            version: record.version,
            ports: record.ports.clone(),
            virtual_addresses: addresses
                .map(|(network, all)| (*network, all.iter().map(IpNet::addr).collect()))
                .collect(),
            update: record.update.clone(),
            running: count(running),
            desired,
            created_unix_ms: record.created_unix_ms,
            updated_unix_ms: record.updated_unix_ms,
        }
    }

    fn describe_task(&self, task: &TaskRecord) -> TaskInfo {
        let service = self.state.services().get(&task.service);
        let spec = service.and_then(|service| service.specs.get(&task.spec_version));
        let hostname = |node: &NodeId| {
            self.state
                .nodes()
                .get(node)
                .map(|node| node.hostname.clone())
        };
        let endpoints = task.endpoints.iter();
        TaskInfo {
            id: task.id,
            service: task.service,
            service_name: spec.map(|spec| spec.name.clone()).unwrap_or_default(),
            slot: task.slot,
            spec: spec.map(|spec| spec.task.clone()).unwrap_or_default(),
            node: task.node,
            hostname: task.node.as_ref().and_then(hostname).unwrap_or_default(),
            desired: task.desired,
            status: task.status.clone(),
            addresses: endpoints
                .filter_map(|endpoint| self.state.endpoints().get(endpoint))
                .flat_map(|endpoint| endpoint.addresses.iter().map(IpNet::addr))
                .collect(),
        }
    }

    fn find_service(&self, text: &str) -> Result<ServiceId, api::Error> {
        let live = self.state.services().values();
        let live = live.filter(|service| !service.removing);
        let names = live.map(|service| (service.id, service.spec().name.as_str()));
        find("service", "`service ls` shows them", text, names)
    }
}

/// Refuses what the scheduler would not understand.
fn check(spec: &ServiceSpec) -> Result<(), api::Error> {
    let of_ports = spec.ports.iter().flat_map(|port| &port.nodes);
    for constraint in spec.placement.constraints.iter().chain(of_ports) {
        let parsed = scheduler::constraint::parse(constraint);
        parsed.map_err(|error| api::Error::new(ErrorKind::Invalid, error.to_string()))?;
    }
    for preference in &spec.placement.preferences {
        let parsed = scheduler::preference::parse(preference);
        parsed.map_err(|error| api::Error::new(ErrorKind::Invalid, error.to_string()))?;
    }
    Ok(())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
