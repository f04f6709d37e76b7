//! What a local client may ask of a node, what it gets, and how refusals read.
//!
//! The daemon carries these as JSON over its unix socket; an embedder calls them directly. A manager that does not lead
//! forwards what it gets, and a worker answers what it knows and refuses the rest with the reason.

mod cluster;
mod error;
mod policy;
mod request;
mod response;
mod service;
mod task;

pub use cluster::{
    ClusterInfo, ClusterSettings, ClusterUpdate, IssuedTokenInfo, NextAuthorityInfo, TokenCreate,
};
pub use error::{Error, ErrorKind};
pub use policy::{
    PAIRS_MAX, PolicyAnswer, PolicyChange, PolicyInfo, PolicyQuestion, RuleInfo, RuleSpec,
    Selector, SelectorError, Traffic, TrafficError, TrafficMatch, Verdict,
};
pub use request::{
    AttachRequest, Availability, InitRequest, JoinRequest, NetworkCreate, NodeUpdate, Request,
    Role, SubnetSpec,
};
pub use response::{
    EndpointInfo, EventInfo, Info, IpamConfig, Joined, LocalState, ManagerInfo, ManagerStatus,
    NetworkInfo, NodeInfo, NodeStatus, Recovered, Response, TokenInfo,
};
pub use service::{
    Balance, ClientAddress, EndpointMode, FailureAction, Locality, NamedPort, NetworkChoice,
    Placement, Policy, Protocol, PublishMode, PublishedPort, Resources, RestartCondition,
    RestartPolicy, ServiceInfo, ServiceMode, ServiceSpec, TaskSpec, UpdateOrder, UpdatePhase,
    UpdatePolicy, UpdateStatus,
};
pub use task::{DesiredState, PendingReason, Slot, TaskInfo, TaskState, TaskStatus};
