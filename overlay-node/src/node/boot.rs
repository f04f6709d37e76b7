//! What a node begins with.

use std::net::SocketAddr;

use overlay_core::NodeId;
use overlay_raft::{RaftId, Restored};

use super::group;
use crate::agent::AgentMemory;

/// What a node begins with.
#[derive(Debug)]
pub struct Boot {
    /// The last assignment and where ports go; empty for the first node of a new cluster.
    pub memory: AgentMemory,
    /// Its part in the consensus, for managers.
    pub manager: Option<ManagerBoot>,
    /// Managers to begin with, before an assignment says which there are.
    pub seeds: Vec<(NodeId, SocketAddr)>,
}

/// What a manager begins with.
#[derive(Debug)]
pub struct ManagerBoot {
    /// Its part in the consensus.
    pub raft: RaftId,
    /// The cluster's identity.
    pub cluster: NodeId,
    /// How often the cluster was rebuilt from a survivor. One more than the state knows: rebuild it, with what
    /// [`Restored::recover`] made of the log.
    pub epoch: u64,
    /// What its log holds.
    pub restored: Restored,
}

/// How a manager begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With what its disk holds, or as one that joins if that is nothing.
    Resume,
    /// A new cluster, as its first manager; with what its disk holds if that is anything.
    Found,
    /// The cluster that its disk holds, as the only manager. What only the others had is lost, and they must never be
    /// started from their disks as part of it: they are of another group from here on.
    Recover,
}

impl ManagerBoot {
    /// Works out how a manager begins from what its disk holds.
    ///
    /// `epoch` is the one that was written down beside the log. After [`Beginning::Recover`] the new one is written down
    /// once the node's state has it; a manager that stopped in between finds it in its log.
    #[expect(
        clippy::missing_panics_doc,
        reason = "a log that is rebuilt already is not rebuilt again"
    )]
    pub fn new(
        raft: RaftId,
        cluster: NodeId,
        epoch: u64,
        found: Restored,
        beginning: Beginning,
    ) -> Self {
        let written = found.hard_state().map(|hard_state| hard_state.group);
        let rebuilt = written == Some(group(cluster, epoch + 1));
        let epoch = if rebuilt { epoch + 1 } else { epoch };
        let boot = |epoch, restored| Self {
            raft,
            cluster,
            epoch,
            restored,
        };
        match beginning {
            Beginning::Found if found.is_empty() => boot(epoch, Restored::bootstrap([raft])),
            Beginning::Recover if !found.is_empty() => {
                let epoch = epoch + 1;
                let recovered = found.recover(group(cluster, epoch));
                boot(epoch, recovered.expect("each epoch is another group"))
            }
            _ if found.is_empty() => boot(epoch, Restored::joining()),
            _ => boot(epoch, found),
        }
    }
}
