//! What a local client may ask of a node, what it gets, and how refusals read.
//!
//! The daemon carries these as JSON over its unix socket; an embedder calls them directly. A manager that does not lead
//! forwards what it gets, and a worker answers what it knows and refuses the rest with the reason.

mod cluster;
mod error;
mod request;
mod response;
mod service;

pub use cluster::{ClusterInfo, ClusterSettings, ClusterUpdate};
pub use error::{Error, ErrorKind};
pub use request::{
    AttachRequest, Availability, InitRequest, JoinRequest, NetworkCreate, Request, Role, SubnetSpec,
};
pub use response::{
    EndpointInfo, Info, IpamConfig, Joined, LocalState, ManagerInfo, ManagerStatus, NetworkInfo,
    NodeInfo, NodeStatus, Recovered, Response, TokenInfo,
};
pub use service::{
    DesiredState, EndpointMode, EventInfo, FailureAction, NodeUpdate, PendingReason, Placement,
    Protocol, PublishMode, PublishedPort, Resources, RestartCondition, RestartPolicy, ServiceInfo,
    ServiceMode, ServiceSpec, Slot, TaskInfo, TaskSpec, TaskState, TaskStatus, UpdateOrder,
    UpdatePhase, UpdatePolicy, UpdateStatus,
};
