//! What changed, for whoever looks on.

use std::collections::VecDeque;

use overlay_core::NodeId;
use thiserror::Error;

use super::{
    Cluster, ClusterState, EndpointRecord, NetworkRecord, NodeRecord, ServiceRecord, TaskRecord,
};

/// One object as it was and as it is.
#[derive(Clone, Debug)]
pub struct Change {
    /// The index of the command that changed it. One command may change much, and one object more than once.
    pub index: u64,
    /// The node on whose behalf.
    pub actor: NodeId,
    /// The object.
    pub object: Changed,
}

/// An object before and after: `previous` is `None` if it was made, `new` if it was removed.
///
/// An address that is given out or taken back is told with the endpoint or the service that has it, not as a change of
/// its network.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Changed {
    /// What is true of the cluster as a whole.
    Cluster {
        /// As it was.
        previous: Option<Box<Cluster>>,
        /// As it is.
        new: Option<Box<Cluster>>,
    },
    /// A node.
    Node {
        /// As it was.
        previous: Option<Box<NodeRecord>>,
        /// As it is.
        new: Option<Box<NodeRecord>>,
    },
    /// A network.
    Network {
        /// As it was.
        previous: Option<Box<NetworkRecord>>,
        /// As it is.
        new: Option<Box<NetworkRecord>>,
    },
    /// An endpoint.
    Endpoint {
        /// As it was.
        previous: Option<Box<EndpointRecord>>,
        /// As it is.
        new: Option<Box<EndpointRecord>>,
    },
    /// A service.
    Service {
        /// As it was.
        previous: Option<Box<ServiceRecord>>,
        /// As it is.
        new: Option<Box<ServiceRecord>>,
    },
    /// A task.
    Task {
        /// As it was.
        previous: Option<Box<TaskRecord>>,
        /// As it is.
        new: Option<Box<TaskRecord>>,
    },
}

/// Changes cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// Nothing is kept for watchers.
    #[error("changes are not kept: switch watching on first")]
    Off,
    /// Some of what was asked for is not kept any more, or came with a snapshot: read the state anew, and go on from
    /// [`ClusterState::applied`].
    #[error(
        "changes after index {asked} are kept only from behind index {since}: read the state anew"
    )]
    Missed {
        /// The index that was asked for.
        asked: u64,
        /// Changes behind this index are kept.
        since: u64,
    },
}

impl ClusterState {
    /// Keeps the last `changes_max` changes for [`changes_after`](Self::changes_after); 0 switches it off, which is the
    /// default and costs nothing. What was kept so far is dropped.
    ///
    /// Changes are no part of the state: neither of its hash nor of its snapshot. Each one holds its object twice; too
    /// few, and watchers have to read the whole state anew more often.
    pub fn watch(&mut self, changes_max: usize) {
        self.journal.kept = (changes_max > 0).then(|| Kept {
            changes: VecDeque::new(),
            changes_max,
            since: self.applied,
        });
    }

    /// Returns what changed behind `index`, oldest first. A watcher reads the state, remembers [`applied`](Self::applied),
    /// and asks with that; from then on with the `applied` of each time it asked. Indexes are those of the log, so that
    /// it may as well go on with another manager.
    ///
    /// # Errors
    ///
    /// [`WatchError`]: never are changes left out silently.
    pub fn changes_after(&self, index: u64) -> Result<impl Iterator<Item = &Change>, WatchError> {
        let kept = self.journal.kept.as_ref().ok_or(WatchError::Off)?;
        if index < kept.since {
            let (asked, since) = (index, kept.since);
            return Err(WatchError::Missed { asked, since });
        }
        let start = kept.changes.partition_point(|change| change.index <= index);
        Ok(kept.changes.range(start..))
    }

    /// Puts a restored state in the place of this one. Whoever watches is told that there is a gap.
    pub fn replace(&mut self, restored: Self) {
        let changes_max = self.journal.kept.as_ref().map(|kept| kept.changes_max);
        *self = restored;
        self.watch(changes_max.unwrap_or_default());
    }
}

/// Where changes are noted while a command is applied.
#[derive(Clone, Debug, Default)]
pub(super) struct Journal {
    kept: Option<Kept>,
    /// The command that is being applied: its index, and on whose behalf.
    present: Option<(u64, NodeId)>,
}

#[derive(Clone, Debug)]
struct Kept {
    /// In ascending order of the index.
    changes: VecDeque<Change>,
    changes_max: usize,
    /// Every change behind this index is kept.
    since: u64,
}

impl Journal {
    pub(super) fn begin(&mut self, index: u64, actor: NodeId) {
        self.present = Some((index, actor));
    }

    pub(super) const fn is_on(&self) -> bool {
        self.kept.is_some()
    }

    pub(super) fn note(&mut self, object: Option<Changed>) {
        let (Some(kept), Some((index, actor)), Some(object)) =
            (&mut self.kept, self.present, object)
        else {
            return;
        };
        kept.changes.push_back(Change {
            index,
            actor,
            object,
        });
        while kept.changes.len() > kept.changes_max {
            if let Some(oldest) = kept.changes.pop_front() {
                kept.since = oldest.index;
            }
        }
    }
}
