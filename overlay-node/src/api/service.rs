//! Services as a client asks for them, and as they are shown.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

pub use overlay_core::plane::{Locality, Policy};
use overlay_core::{NetworkId, ServiceId, plane::VipConfig};
use serde::{Deserialize, Serialize};

/// What a service shall be. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    /// Its name, unique in the cluster: letters, digits, `_`, `-` and `.`, at most 63 octets.
    pub name: String,
    /// Free metadata.
    pub labels: BTreeMap<String, String>,
    /// How many tasks it has.
    pub mode: ServiceMode,
    /// What each task runs.
    pub task: TaskSpec,
    /// The networks that its tasks are on. One that publishes ports and names none is on the network of published ports.
    pub networks: Vec<NetworkChoice>,
    /// The ports that it offers outside of its networks.
    pub ports: Vec<PublishedPort>,
    /// The ports that are found by a name (RFC 2782): `_http._tcp.NAME`.
    pub named_ports: Vec<NamedPort>,
    /// Texts that its names have, one record each (RFC 1035 §3.3.14); at most 255 octets each.
    pub texts: Vec<String>,
    /// What its name resolves to.
    pub endpoint_mode: EndpointMode,
    /// How the flows to its virtual addresses are spread.
    pub balance: Balance,
    /// Where its tasks may run.
    pub placement: Placement,
    /// What happens when a task ends.
    pub restart: RestartPolicy,
    /// How tasks are replaced when the service changes.
    pub update: UpdatePolicy,
    /// How they are replaced when it changes back.
    pub rollback: UpdatePolicy,
}

/// How many tasks a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceMode {
    /// This many, wherever they fit.
    Replicated(u32),
    /// One on each node that fits.
    Global,
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated(1)
    }
}

/// What a task runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSpec {
    /// The program and its arguments. What they mean is the executor's business.
    pub command: Vec<String>,
    /// Its environment, `NAME=value`.
    pub environment: Vec<String>,
    /// The directory that it starts in; the executor's choice if empty.
    pub directory: String,
    /// How long flows to it may go on, once it takes no new ones, before it is told to stop. It is told as soon as the last
    /// has ended. Default 5,000; with 0 nothing is awaited.
    pub drain_ms: u64,
    /// How long it may take to stop before it is killed. Default 10,000.
    pub stop_grace_ms: u64,
    /// What is set aside for it on its node.
    pub resources: Resources,
}

impl Default for TaskSpec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            environment: Vec::new(),
            directory: String::new(),
            drain_ms: 5_000,
            stop_grace_ms: 10_000,
            resources: Resources::default(),
        }
    }
}

/// What a node has, or what of it is set aside for a task. Zero: nothing is known, or nothing is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Processors, in billionths.
    pub nano_cpus: u64,
    /// Memory, in octets.
    pub memory_bytes: u64,
}

/// A network to be on, and who to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkChoice {
    /// The network: identity or name.
    pub network: String,
    /// More names to be found by there; others may share them.
    pub aliases: Vec<String>,
    /// The addresses to have, at most one of each family; any free ones of the others. Those of a service are its virtual
    /// addresses.
    pub addresses: Vec<IpAddr>,
}

impl From<&str> for NetworkChoice {
    fn from(network: &str) -> Self {
        Self {
            network: network.to_owned(),
            ..Self::default()
        }
    }
}

/// A port that is found by a name (RFC 2782).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// Its name, without the underscore: one to 15 letters, digits and hyphens, at least one letter (RFC 6335 §5.1).
    pub name: String,
    /// The port that the tasks listen on.
    pub target: u16,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// How the flows to the virtual addresses of a service are spread over its tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Balance {
    /// How the task of a new flow is chosen.
    pub policy: Policy,
    /// For how long the next flow of a client goes to the task of its last one, in milliseconds; 0 for not at all.
    pub affinity_ms: u64,
    /// Whether near tasks come first. Nodes are of one zone whose label `zone` is the same.
    pub locality: Locality,
}

impl From<Balance> for VipConfig {
    fn from(balance: Balance) -> Self {
        let affinity = Duration::from_millis(balance.affinity_ms);
        Self {
            policy: balance.policy,
            affinity: (!affinity.is_zero()).then_some(affinity),
            locality: balance.locality,
        }
    }
}

/// A port that a service offers outside of its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct PublishedPort {
    /// The port outside; 0: one of 30000 to 32767 that is free.
    pub published: u16,
    /// The port that the tasks listen on.
    pub target: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is open.
    pub mode: PublishMode,
    /// The address at which it is open, on the nodes that have it; all addresses of the nodes if `None`.
    pub address: Option<IpAddr>,
    /// Conditions on the nodes at which it is open, as those of [`Placement::constraints`].
    pub nodes: Vec<String>,
    /// What a task learns of who connects.
    pub client: ClientAddress,
}

/// What a task learns of who connects to a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddress {
    /// Its connection, or its datagram, comes from the client's own address and port. From an address of the task's own
    /// where that cannot be: for clients on the node's loopback, and on platforms that cannot do it.
    #[default]
    Kept,
    /// A line before the client's octets says it: version 1 of the PROXY protocol. TCP alone.
    ProxyV1,
    /// Octets before the client's own say it: version 2 of the PROXY protocol. TCP alone.
    ProxyV2,
    /// Nothing: all come from an address of the task's own.
    Hidden,
}

/// A transport protocol.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Where a published port is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node, and any task of the service may answer.
    #[default]
    Ingress,
    /// On the nodes that run a task, which answers.
    Host,
}

/// What the name of a service resolves to; `tasks.NAME` resolves to its tasks whatever the mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// Its virtual address, behind which each connection gets a task.
    #[default]
    Vip,
    /// The addresses of its tasks that run.
    Dnsrr,
}

/// Where tasks may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// Conditions on a node, all of which must hold: `node.labels.zone==a`, `node.role!=manager`, `node.hostname==h1`,
    /// `node.id==…`, `node.ip==10.0.0.0/8`.
    pub constraints: Vec<String>,
    /// Properties whose values tasks are spread over, outermost first: `spread=node.labels.zone`.
    pub preferences: Vec<String>,
    /// How many tasks of the service a node has at the most; 0 for any number.
    pub replicas_per_node_max: u32,
}

/// What happens when a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// After which ends there is another one.
    pub condition: RestartCondition,
    /// How long to wait before. Doubled for each failure after the first within the window, up to a minute. Default 5,000.
    pub delay_ms: u64,
    /// How many times within the window; 0 for any number.
    pub attempts_max: u32,
    /// How far back attempts are counted; 0 for ever.
    pub window_ms: u64,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay_ms: 5_000,
            attempts_max: 0,
            window_ms: 0,
        }
    }
}

/// After which ends of a task there is another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None.
    None,
    /// Those that are failures.
    OnFailure,
    /// All.
    #[default]
    Any,
}

/// How the tasks of a service are replaced by such of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdatePolicy {
    /// How many at a time; 0 for all.
    pub parallelism: u32,
    /// How long to wait between two rounds.
    pub delay_ms: u64,
    /// What happens when too many fail.
    pub failure_action: FailureAction,
    /// How long a new task is watched for failures. Default 5,000.
    pub monitor_ms: u64,
    /// How many of a thousand may fail.
    pub failures_max_permille: u16,
    /// What comes first.
    pub order: UpdateOrder,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay_ms: 0,
            failure_action: FailureAction::Pause,
            monitor_ms: 5_000,
            failures_max_permille: 0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What happens when an update fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// It stops where it is.
    #[default]
    Pause,
    /// It goes on.
    Continue,
    /// The service changes back.
    Rollback,
}

/// What comes first when a task is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old one stops.
    #[default]
    StopFirst,
    /// The new one runs.
    StartFirst,
}

/// How far the replacement of a service's tasks is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdatePhase {
    /// Tasks are being replaced.
    Updating,
    /// Too many failed; nothing more is replaced.
    Paused,
    /// All are replaced.
    Completed,
    /// Tasks are being replaced by such of the version before.
    RollbackStarted,
    /// Too many of those failed; nothing more is replaced.
    RollbackPaused,
    /// All are of the version before.
    RollbackCompleted,
}

/// How far the replacement of a service's tasks is, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// How far.
    pub phase: UpdatePhase,
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// In words for people.
    pub message: String,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    /// Its identity.
    pub id: ServiceId,
    /// What it shall be.
    pub spec: ServiceSpec,
    /// What it was before the last change.
    pub previous: Option<ServiceSpec>,
    /// To be named by whoever changes it: a change of another version is refused.
    pub version: u64,
    /// Its published ports, with those that were chosen.
    pub ports: Vec<PublishedPort>,
    /// Its virtual addresses on each network.
    pub virtual_addresses: BTreeMap<NetworkId, Vec<IpAddr>>,
    /// How far its last change is.
    pub update: Option<UpdateStatus>,
    /// How many tasks run.
    pub running: u32,
    /// How many shall run.
    pub desired: u32,
    /// When it was created, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it was changed last.
    pub updated_unix_ms: u64,
}
