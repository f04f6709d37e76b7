//! What nodes say to each other over a management session (TCP 2377).
//!
//! A frame is `{kind, version, length}` and a body:
//!
//! ```text
//!  0      1         2                                    6
//!  +------+---------+------------------------------------+------- - -
//!  | kind | version | length of the body, network order  | body
//!  +------+---------+------------------------------------+------- - -
//! ```
//!
//! The body is a [`Message`] in postcard; its variants are only ever appended. The session itself (TLS, who the peer is)
//! is the driver's.

use std::net::SocketAddr;

use bytes::Bytes;
use overlay_core::{NodeId, TaskId};
use overlay_raft::RaftId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    agent::{Assignment, AssignmentChange},
    api::{self, TaskStatus},
    state::{AddNode, NodeDescription, RequestId, TokenId},
};

/// One message of a management session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// Consensus, between managers.
    Raft {
        /// The sender's part in the consensus.
        from: RaftId,
        /// Whom it is for.
        to: RaftId,
        /// The message, in `overlay-raft`'s codec.
        bytes: Bytes,
    },
    /// Asks the leader for something. Sent again until answered.
    Ask {
        /// The same over all retries.
        request: RequestId,
        /// What is asked for.
        ask: Ask,
    },
    /// The leader's answer.
    Answer {
        /// What it answers.
        request: RequestId,
        /// The answer.
        result: Result<Answer, api::Error>,
    },
    /// The receiver of an [`Ask`](Self::Ask) or [`Heartbeat`](Self::Heartbeat) does not lead.
    NotLeader {
        /// The ask, if it was one.
        request: Option<RequestId>,
        /// Who leads, as far as the sender knows.
        leader: Option<NodeId>,
        /// All managers that the sender knows.
        managers: Vec<ManagerAddress>,
    },
    /// An agent says to the leader that it is there.
    Heartbeat {
        /// Version of the assignment that it has, 0 for none.
        version: u64,
        /// How often the cluster was rebuilt from a survivor, as far as the agent knows.
        epoch: u64,
    },
    /// The leader has seen a heartbeat.
    HeartbeatAck,
    /// What a node has to run and to know, complete.
    Assignment(Box<Assignment>),
    /// The receiver is not a node of the cluster any more.
    Removed,
    /// What changed of what a node has to run and to know.
    AssignmentChange(Box<AssignmentChange>),
    /// A change does not start from what the sender has: it needs the whole.
    AssignmentLost,
}

/// What a node asks the leader for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// What a local client asked for; the sender is the actor.
    Api(api::Request),
    /// A manager let a node in that showed a valid token.
    AddNode(AddNode),
    /// How the sender's tasks are.
    Report(Vec<(TaskId, TaskStatus)>),
    /// What the sender is, and where it is reached.
    Describe(NodeDescription),
    /// A manager let a node in that showed a token of which the leader keeps count.
    Admit {
        /// The node.
        node: AddNode,
        /// The token.
        token: TokenId,
    },
}

/// What the leader answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Api`].
    Api(api::Response),
    /// To [`Ask::AddNode`] and [`Ask::Admit`]: what the new node has to know.
    Admitted(Box<Assignment>),
    /// To [`Ask::Report`] and [`Ask::Describe`].
    Taken,
}

/// Where a manager is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagerAddress {
    /// The manager.
    pub node: NodeId,
    /// Its part in the consensus.
    pub raft: RaftId,
    /// Where it takes management sessions.
    pub management: SocketAddr,
    /// Where it takes gossip.
    pub gossip: SocketAddr,
}

/// A frame of a management session could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first octet is no kind of frame.
    #[error("expected a frame of kind {KIND:#04x}, found {found:#04x}")]
    Kind {
        /// The octet.
        found: u8,
    },
    /// The peer speaks a later version.
    #[error("frame version {found} is newer than {VERSION}: upgrade this node")]
    Version {
        /// The version.
        found: u8,
    },
    /// The frame is larger than allowed.
    #[error("a frame of {found} octets is larger than {FRAME_BYTES_MAX}")]
    TooLong {
        /// What the header says.
        found: u32,
    },
    /// The body does not parse.
    #[error("the body of {length} octets is malformed")]
    Malformed {
        /// Octets of the body.
        length: usize,
    },
}

/// Writes `message` as a frame.
pub fn encode(message: &Message) -> Vec<u8> {
    encode_body(KIND, message)
}

/// Writes any body as a frame of `kind`.
pub(crate) fn encode_body<T: Serialize>(kind: u8, body: &T) -> Vec<u8> {
    let mut bytes = vec![kind, VERSION, 0, 0, 0, 0];
    let body = postcard::to_allocvec(body).expect("every message serializes");
    let length = u32::try_from(body.len()).expect("a message is far below 4 GiB");
    if let Some(field) = bytes.get_mut(2..HEADER_BYTES) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads the header of a frame: how many octets of body follow.
///
/// # Errors
///
/// See [`FrameError`]; the session cannot go on after any.
pub fn body_length(header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    length_of(KIND, header)
}

/// Reads the header of a frame of `kind`.
pub(crate) fn length_of(kind: u8, header: [u8; HEADER_BYTES]) -> Result<usize, FrameError> {
    let [found, version, a, b, c, d] = header;
    if found != kind {
        return Err(FrameError::Kind { found });
    }
    if version != VERSION {
        return Err(FrameError::Version { found: version });
    }
    let found = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(found) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(length),
        _ => Err(FrameError::TooLong { found }),
    }
}

/// Reads a whole frame.
///
/// # Errors
///
/// See [`FrameError`].
pub fn decode(frame: &[u8]) -> Result<Message, FrameError> {
    let malformed = FrameError::Malformed {
        length: frame.len(),
    };
    let (header, body) = frame.split_first_chunk().ok_or_else(|| malformed.clone())?;
    if body_length(*header)? != body.len() {
        return Err(malformed);
    }
    decode_body(body)
}

/// Reads the body of a frame.
pub(crate) fn decode_body<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, FrameError> {
    postcard::from_bytes(body).map_err(|_| FrameError::Malformed { length: body.len() })
}

/// Octets of a frame's header.
pub const HEADER_BYTES: usize = 6;
/// Octets of a frame's body at the most.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
const KIND: u8 = b'M';
const VERSION: u8 = 1;
