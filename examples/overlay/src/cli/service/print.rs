//! Services in Docker's columns and shapes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    endpoint::{EndpointSpecJson, PortJson},
    mode,
    values::shown,
};
use crate::{
    api::{
        EndpointMode, FailureAction, Placement, Resources, RestartCondition, RestartPolicy,
        ServiceInfo, ServiceMode, ServiceSpec, TaskSpec, UpdateOrder, UpdatePhase, UpdatePolicy,
    },
    cli::{Table, listing::Item, table::ellipsis},
    time,
};

/// A line of `service ls`; fields in the order that Docker prints in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceRow {
    command: String,
    #[serde(rename = "ID")]
    id: String,
    mode: &'static str,
    name: String,
    ports: String,
    replicas: String,
}

impl Item for ServiceRow {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("Command", "COMMAND"),
        ("ID", "ID"),
        ("Mode", "MODE"),
        ("Name", "NAME"),
        ("Ports", "PORTS"),
        ("Replicas", "REPLICAS"),
    ];

    fn identity(&self) -> String {
        self.id.clone()
    }
}

const COMMAND_WIDTH_MAX: usize = 30;

impl ServiceRow {
    pub(super) fn new(service: &ServiceInfo, whole: bool) -> Self {
        let most = match service.spec.placement.replicas_per_node_max {
            0 => String::new(),
            most => format!(" (max {most} per node)"),
        };
        let ports: Vec<String> = service.ports.iter().map(shown).collect();
        Self {
            command: if whole {
                service.spec.task.command.join(" ")
            } else {
                ellipsis(&service.spec.task.command.join(" "), COMMAND_WIDTH_MAX)
            },
            id: if whole {
                service.id.to_string()
            } else {
                service.id.short()
            },
            mode: mode(service),
            name: service.spec.name.clone(),
            ports: ports.join(", "),
            replicas: format!("{}/{}{most}", service.running, service.desired),
        }
    }
}

pub(super) fn table(rows: &[ServiceRow]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "MODE", "REPLICAS", "COMMAND", "PORTS"]);
    for row in rows {
        table.row([
            row.id.clone(),
            row.name.clone(),
            row.mode.into(),
            row.replicas.clone(),
            row.command.clone(),
            row.ports.clone(),
        ]);
    }
    table
}

/// The phase of an update in Docker's word.
pub(super) const fn phase(phase: UpdatePhase) -> &'static str {
    match phase {
        UpdatePhase::Updating => "updating",
        UpdatePhase::Paused => "paused",
        UpdatePhase::Completed => "completed",
        UpdatePhase::RollbackStarted => "rollback_started",
        UpdatePhase::RollbackPaused => "rollback_paused",
        UpdatePhase::RollbackCompleted => "rollback_completed",
    }
}

pub(super) const fn order(order: UpdateOrder) -> &'static str {
    match order {
        UpdateOrder::StopFirst => "stop-first",
        UpdateOrder::StartFirst => "start-first",
    }
}

pub(super) const fn action(action: FailureAction) -> &'static str {
    match action {
        FailureAction::Pause => "pause",
        FailureAction::Continue => "continue",
        FailureAction::Rollback => "rollback",
    }
}

pub(super) const fn condition(condition: RestartCondition) -> &'static str {
    match condition {
        RestartCondition::None => "none",
        RestartCondition::OnFailure => "on-failure",
        RestartCondition::Any => "any",
    }
}

pub(super) const fn endpoint_mode(mode: EndpointMode) -> &'static str {
    match mode {
        EndpointMode::Vip => "vip",
        EndpointMode::Dnsrr => "dnsrr",
    }
}

pub(super) fn ratio(permille: u16) -> f64 {
    f64::from(permille) / 1_000.0
}

/// A service as `inspect` prints it, in Docker's shape.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceJson<'a> {
    #[serde(rename = "ID")]
    id: String,
    version: VersionJson,
    created_at: String,
    updated_at: String,
    spec: SpecJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_spec: Option<SpecJson<'a>>,
    endpoint: EndpointJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update_status: Option<UpdateStatusJson<'a>>,
    service_status: StatusJson,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionJson {
    index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SpecJson<'a> {
    name: &'a str,
    labels: &'a BTreeMap<String, String>,
    task_template: TemplateJson<'a>,
    mode: ModeJson,
    update_config: PolicyJson,
    rollback_config: PolicyJson,
    endpoint_spec: EndpointSpecJson<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TemplateJson<'a> {
    process_spec: ProcessJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<ResourcesJson>,
    restart_policy: RestartJson,
    placement: PlacementJson<'a>,
    networks: Vec<TargetJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessJson<'a> {
    command: &'a [String],
    env: &'a [String],
    dir: &'a str,
    drain_period: u64,
    stop_grace_period: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ResourcesJson {
    reservations: AmountsJson,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::cli) struct AmountsJson {
    #[serde(rename = "NanoCPUs")]
    nano_cpus: u64,
    memory_bytes: u64,
}

impl AmountsJson {
    pub(in crate::cli) fn new(resources: Resources) -> Self {
        Self {
            nano_cpus: resources.nano_cpus,
            memory_bytes: resources.memory_bytes,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TargetJson<'a> {
    target: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    aliases: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RestartJson {
    condition: &'static str,
    delay: u64,
    max_attempts: u32,
    window: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PlacementJson<'a> {
    constraints: &'a [String],
    preferences: &'a [String],
    max_replicas: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
enum ModeJson {
    #[serde(rename_all = "PascalCase")]
    Replicated {
        replicas: u32,
    },
    Global {},
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PolicyJson {
    parallelism: u32,
    delay: u64,
    failure_action: &'static str,
    monitor: u64,
    max_failure_ratio: f64,
    order: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointJson<'a> {
    ports: Vec<PortJson<'a>>,
    #[serde(rename = "VirtualIPs")]
    virtual_ips: Vec<VirtualJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VirtualJson {
    #[serde(rename = "NetworkID")]
    network_id: String,
    addr: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateStatusJson<'a> {
    state: &'static str,
    started_at: String,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusJson {
    running_tasks: u32,
    desired_tasks: u32,
}

/// Docker's JSON has durations in nanoseconds.
pub(super) const fn nanoseconds(ms: u64) -> u64 {
    ms.saturating_mul(1_000_000)
}

impl<'a> From<&'a ServiceInfo> for ServiceJson<'a> {
    fn from(service: &'a ServiceInfo) -> Self {
        let virtual_ips = service.virtual_addresses.iter();
        let virtual_ips = virtual_ips.flat_map(|(network, addresses)| {
            addresses.iter().map(|address| VirtualJson {
                network_id: network.to_string(),
                addr: address.to_string(),
            })
        });
        Self {
            id: service.id.to_string(),
            version: VersionJson {
                index: service.version,
            },
            created_at: time::rfc3339(service.created_unix_ms),
            updated_at: time::rfc3339(service.updated_unix_ms),
            spec: SpecJson::from(&service.spec),
            previous_spec: service.previous.as_ref().map(SpecJson::from),
            endpoint: EndpointJson {
                ports: service.ports.iter().map(PortJson::from).collect(),
                virtual_ips: virtual_ips.collect(),
            },
            update_status: service.update.as_ref().map(|update| UpdateStatusJson {
                state: phase(update.phase),
                started_at: time::rfc3339(update.since_unix_ms),
                message: &update.message,
            }),
            service_status: StatusJson {
                running_tasks: service.running,
                desired_tasks: service.desired,
            },
        }
    }
}

impl<'a> From<&'a ServiceSpec> for SpecJson<'a> {
    fn from(spec: &'a ServiceSpec) -> Self {
        let networks = spec.networks.iter().map(|on| TargetJson {
            target: &on.network,
            aliases: &on.aliases,
        });
        Self {
            name: &spec.name,
            labels: &spec.labels,
            task_template: TemplateJson {
                process_spec: ProcessJson::from(&spec.task),
                resources: resources(spec.task.resources),
                restart_policy: RestartJson::from(&spec.restart),
                placement: PlacementJson::from(&spec.placement),
                networks: networks.collect(),
            },
            mode: match spec.mode {
                ServiceMode::Replicated(replicas) => ModeJson::Replicated { replicas },
                ServiceMode::Global => ModeJson::Global {},
            },
            update_config: PolicyJson::from(&spec.update),
            rollback_config: PolicyJson::from(&spec.rollback),
            endpoint_spec: EndpointSpecJson::from(spec),
        }
    }
}

fn resources(set_aside: Resources) -> Option<ResourcesJson> {
    let reservations = AmountsJson::new(set_aside);
    (set_aside != Resources::default()).then_some(ResourcesJson { reservations })
}

impl<'a> From<&'a TaskSpec> for ProcessJson<'a> {
    fn from(task: &'a TaskSpec) -> Self {
        Self {
            command: &task.command,
            env: &task.environment,
            dir: &task.directory,
            drain_period: nanoseconds(task.drain_ms),
            stop_grace_period: nanoseconds(task.stop_grace_ms),
        }
    }
}

impl From<&RestartPolicy> for RestartJson {
    fn from(policy: &RestartPolicy) -> Self {
        Self {
            condition: condition(policy.condition),
            delay: nanoseconds(policy.delay_ms),
            max_attempts: policy.attempts_max,
            window: nanoseconds(policy.window_ms),
        }
    }
}

impl<'a> From<&'a Placement> for PlacementJson<'a> {
    fn from(placement: &'a Placement) -> Self {
        Self {
            constraints: &placement.constraints,
            preferences: &placement.preferences,
            max_replicas: placement.replicas_per_node_max,
        }
    }
}

impl From<&UpdatePolicy> for PolicyJson {
    fn from(policy: &UpdatePolicy) -> Self {
        Self {
            parallelism: policy.parallelism,
            delay: nanoseconds(policy.delay_ms),
            failure_action: action(policy.failure_action),
            monitor: nanoseconds(policy.monitor_ms),
            max_failure_ratio: ratio(policy.failures_max_permille),
            order: order(policy.order),
        }
    }
}
