//! What a manager keeps besides: its log, and the keys of its data directory as the cluster has them kept.

use overlay_core::DiskError;
use overlay_raft::RaftId;

use super::{active::Active, log::LogWriter};

impl Active {
    pub(super) fn open_log(&mut self, raft: RaftId, epoch: u64) {
        (self.identity.raft, self.identity.epoch) = (Some(raft), epoch);
        self.rekeying = false;
        let opened = self
            .store
            .clear_raft()
            .and_then(|()| self.store.save_identity(&self.identity))
            .and_then(|()| self.store.raft())
            .map_err(|error| error.to_string())
            .and_then(|disk| {
                LogWriter::open(disk, self.inputs.clone()).map_err(|error| error.to_string())
            });
        match opened {
            Ok((log, _)) => self.log = Some(log),
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn close_log(&mut self) {
        self.log = None;
        self.identity.raft = None;
        self.rekeying = false;
        let closed = self
            .store
            .save_identity(&self.identity)
            .and_then(|()| self.store.clear_raft());
        if let Err(error) = closed {
            self.fail(&error);
        }
    }

    /// Keeps the keys of the data directory under the cluster's unlock key, where managers are locked; a worker's are open,
    /// because it does not know that key.
    pub(super) fn keep_keys(&mut self) {
        if self.rekeying || self.failure().is_some() {
            return;
        }
        let unlock = match (self.identity.raft, self.node.state()) {
            (None, _) => None,
            // Not known before it has caught up.
            (Some(_), state) => match state.and_then(|state| state.cluster()) {
                Some(cluster) => cluster.unlock_key.as_ref(),
                None => return,
            },
        };
        if self.store.is_kept_under(unlock) {
            return;
        }
        match self.store.keep_under(unlock) {
            Ok(None) => {}
            Ok(Some(key)) => match &self.log {
                Some(log) => {
                    log.rekey(key);
                    self.rekeying = true;
                }
                None => tracing::warn!("the former key is kept until a log is opened or removed"),
            },
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn on_rekeyed(&mut self, result: Result<u64, DiskError>) {
        let settled = match result {
            Ok(key) => self
                .store
                .log_settled(key)
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.rekeying = false;
        if let Err(error) = settled {
            self.fail(&error);
        }
    }
}
