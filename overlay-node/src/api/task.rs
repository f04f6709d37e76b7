//! Tasks as they are shown, and what is wanted of them.

use std::{fmt, net::IpAddr};

use overlay_core::{NodeId, ServiceId, TaskId};
use serde::{Deserialize, Serialize};

use super::{Resources, TaskSpec};

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
