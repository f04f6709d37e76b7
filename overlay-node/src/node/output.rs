//! What a node hands out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::{
    EndpointId, NodeId, TaskId,
    plane::{Desired, PlatformError, PortSpec},
};
use overlay_raft::{RaftId, WriteBatch};

use super::RequestToken;
use crate::{
    agent::{AgentMemory, AssignedPort, Assignment, TaskOrder},
    api::{self, Role},
};

/// What a node asks its driver to do.
#[derive(Debug)]
pub enum Output {
    /// Send `frame` over a management session to `to`: a present one, or one dialled to `address` if it is known. What
    /// cannot be sent is dropped; everything is repeated where it matters.
    Peer {
        /// The node.
        to: NodeId,
        /// Where it takes sessions; `None` if it only dials.
        address: Option<SocketAddr>,
        /// The frame, see [`wire`](crate::wire).
        frame: Vec<u8>,
    },
    /// Write to the log and say how it went.
    Persist(WriteBatch),
    /// Open an empty log: this node became a manager.
    OpenLog {
        /// The node's part in the consensus.
        raft: RaftId,
        /// How often the cluster was rebuilt from a survivor: which group the log belongs to.
        epoch: u64,
    },
    /// Remove the log: this node is no manager any more.
    CloseLog,
    /// Write down what the agent needs after a restart.
    Remember(Box<AgentMemory>),
    /// Gossip over UDP and TCP.
    Gossip(Box<overlay_gossip::Output>),
    /// Names: an answer for an endpoint, or a question for an upstream server.
    Dns(overlay_dns::Output),
    /// Make the port of an endpoint and say how it went. If it is the first in its namespace, open its resolver, too: the
    /// client of its queries is the endpoint after which the namespace is named. A port that is there is only told what is
    /// new about it.
    CreatePort(Box<PortSpec>),
    /// Remove the port of an endpoint.
    RemovePort(EndpointId),
    /// Close the resolver of the namespace that is named after an endpoint: the last port in there is removed.
    CloseResolver(EndpointId),
    /// Start a task, or take it up, and say how it is.
    StartTask(Box<TaskOrder>),
    /// Stop a task, kill it after this time, and say when it has ended.
    StopTask(TaskId, Duration),
    /// The ports that services publish on this node from now on: no others.
    Publish(Vec<AssignedPort>),
    /// The data plane as it shall be from now on. Where the system carries frames, say with
    /// [`Node::handle_plane`](super::Node::handle_plane) when it does as desired.
    Plane {
        /// Each has a higher one than those before.
        number: u64,
        /// What shall be.
        desired: Arc<Desired>,
    },
    /// Count the flows to an endpoint, those that its published ports carry on this node among them, in the data plane as it
    /// was handed out last, and say so with [`Node::handle_flows`](super::Node::handle_flows).
    CountFlows {
        /// Who asks.
        asker: NodeId,
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// The answer to a local request.
    Reply {
        /// The request.
        token: RequestToken,
        /// The answer.
        result: Result<Reply, api::Error>,
    },
    /// Something that an operator may want to know.
    Event(Event),
}

/// The answer to a local request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a request of the local API.
    Api(api::Response),
    /// To [`Node::admit`](super::Node::admit): what the new node has to know.
    Admitted(Box<Assignment>),
}

/// Something that an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another manager leads, or nobody is known to.
    LeaderChanged {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// A member of the gossip came, went or is in doubt.
    Member {
        /// The member.
        node: String,
        /// What gossip says of it.
        state: &'static str,
    },
    /// This node was removed from the cluster: it keeps what runs, and gets nothing new.
    Removed,
    /// The role of this node changed: it needs a certificate that says so.
    RoleChanged {
        /// The new role.
        role: Role,
    },
    /// The disk failed or the log cannot be understood: the manager's part stopped. Restart the node.
    Failed,
    /// The port of an endpoint could not be made; it is tried again.
    PortFailed {
        /// The endpoint.
        endpoint: EndpointId,
        /// Why.
        error: PlatformError,
    },
}
