//! Services as a client asks for them, and their tasks as they are shown.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use overlay_core::{NetworkId, NodeId, ServiceId, TaskId};
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
    /// The networks that its tasks are on: identities or names.
    pub networks: Vec<String>,
    /// The ports that it offers outside of its networks.
    pub ports: Vec<PublishedPort>,
    /// What its name resolves to.
    pub endpoint_mode: EndpointMode,
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

/// A port that a service offers outside of its networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The port outside; 0: one of 30000 to 32767 that is free.
    pub published: u16,
    /// The port that the tasks listen on.
    pub target: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is open.
    pub mode: PublishMode,
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

/// How far a task is; it only ever goes forward.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// No node was chosen yet.
    #[default]
    Pending,
    /// A node was chosen.
    Assigned,
    /// The node makes its ports.
    Preparing,
    /// The executor starts it.
    Starting,
    /// It runs.
    Running,
    /// It ended by itself, well.
    Complete,
    /// It was stopped.
    Shutdown,
    /// It ended by itself, badly.
    Failed,
    /// Its node cannot run it.
    Rejected,
    /// Its node was lost for good.
    Orphaned,
}

impl TaskState {
    /// Returns whether it has ended.
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Orphaned => "orphaned",
        })
    }
}

/// What is wanted of a task.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// That it is ready to run, and waits.
    Ready,
    /// That it runs.
    #[default]
    Running,
    /// That it stops, or does not start again.
    Shutdown,
    /// That it is forgotten.
    Remove,
}

/// Why a task has no node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PendingReason {
    /// There is no node that is ready and active.
    NoNode,
    /// No node satisfies this constraint together with those before it.
    Constraint {
        /// The constraint.
        constraint: String,
    },
    /// Each node that fits has as many tasks of the service as it may.
    NodeLimit {
        /// How many.
        limit: u32,
    },
    /// The host port is taken on each node that fits.
    HostPort {
        /// The port.
        port: u16,
    },
    /// No node that fits has so much left.
    Resources {
        /// What was asked for.
        wanted: Resources,
    },
    /// A network has no address left.
    Address {
        /// The name of the network.
        network: String,
    },
    /// It waits for the delay of the restart policy.
    RestartDelay {
        /// How often it was restarted within the window.
        attempt: u32,
    },
}

impl fmt::Display for PendingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode => f.write_str("no suitable node (none is ready and active)"),
            Self::Constraint { constraint } => {
                write!(f, "no suitable node (none satisfies {constraint})")
            }
            Self::NodeLimit { limit } => {
                write!(
                    f,
                    "no suitable node (max replicas per node {limit} reached)"
                )
            }
            Self::HostPort { port } => {
                write!(f, "no suitable node (host port {port} is in use on each)")
            }
            Self::Resources { .. } => {
                f.write_str("no suitable node (insufficient resources on each)")
            }
            Self::Address { network } => write!(f, "no address is left on network {network}"),
            Self::RestartDelay { attempt } => write!(f, "restart {attempt} is due after a delay"),
        }
    }
}

/// How a task is, as its node or its manager says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// How far it is.
    pub state: TaskState,
    /// Since when, in milliseconds since 1970; for people.
    pub since_unix_ms: u64,
    /// What is amiss, in words for people; empty if nothing is.
    pub message: String,
    /// Why it has no node.
    pub pending: Option<PendingReason>,
    /// With what its program ended: 128 and the signal's number if a signal did it.
    pub exit_code: Option<i32>,
}

/// Which task of its service a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Of a replicated service: counted from 1.
    Replica(u32),
    /// Of a global one: that of this node.
    Node(NodeId),
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(number) => write!(f, "{number}"),
            Self::Node(node) => f.pad(&node.short()),
        }
    }
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
    /// Its virtual address on each network.
    pub virtual_addresses: BTreeMap<NetworkId, IpAddr>,
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

/// One task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInfo {
    /// Its identity.
    pub id: TaskId,
    /// Its service.
    pub service: ServiceId,
    /// The name of its service.
    pub service_name: String,
    /// Which task of its service it is.
    pub slot: Slot,
    /// What it runs.
    pub spec: TaskSpec,
    /// The node that was chosen.
    pub node: Option<NodeId>,
    /// The name of that node's host.
    pub hostname: String,
    /// What is wanted of it.
    pub desired: DesiredState,
    /// How it is.
    pub status: TaskStatus,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A change of the cluster, for whoever looks on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventInfo {
    /// The index of the log at which it happened.
    pub index: u64,
    /// When, in milliseconds since 1970, by the leader's clock.
    pub at_unix_ms: u64,
    /// The node on whose behalf.
    pub actor: NodeId,
    /// What it is about: `node`, `network`, `endpoint`, `service`, `task`, `cluster`.
    pub kind: String,
    /// What happened: `create`, `update`, `remove`, and for tasks their new state.
    pub action: String,
    /// The identity of what it is about.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// See [`Request::NodeUpdate`](super::Request::NodeUpdate).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeUpdate {
    /// The node: identity or host name.
    pub node: String,
    /// Whether it gets new tasks.
    pub availability: Option<super::Availability>,
    /// Its role.
    pub role: Option<super::Role>,
    /// Labels to set.
    pub labels_add: BTreeMap<String, String>,
    /// Labels to remove.
    pub labels_remove: Vec<String>,
}
