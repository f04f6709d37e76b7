//! The log on disk, in a thread of its own: syncing blocks.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc as sync},
    thread,
};

use overlay_core::DiskError;
use overlay_raft::{
    PersistTicket, Restored, WriteBatch,
    storage::{DataKey, Log, OpenError, SealedDisk, StorageConfig},
};
use tokio::sync::mpsc;

use super::{FileDisk, active::Input};

/// Where writes go in; the thread ends with it, and nothing is written any more once it is dropped.
#[derive(Debug)]
pub(crate) struct LogWriter {
    orders: sync::Sender<Order>,
    /// Held during a write.
    closed: Arc<Mutex<bool>>,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Write(WriteBatch),
    Rekey(DataKey),
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("the thread of the log could not be started: {0}")]
    Thread(#[from] std::io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl LogWriter {
    /// Opens the log on `disk` and returns what it holds.
    pub(crate) fn open(
        disk: SealedDisk<FileDisk>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<(Self, Restored), LogError> {
        let (mut log, restored) = Log::open(disk, StorageConfig::default())?;
        let (sender, orders) = sync::channel();
        let closed = Arc::new(Mutex::new(false));
        let is_closed = Arc::clone(&closed);
        thread::Builder::new()
            .name("overlay-log".to_owned())
            .spawn(move || {
                while let Ok(order) = orders.recv() {
                    let closed = is_closed.lock().unwrap_or_else(PoisonError::into_inner);
                    if *closed {
                        return;
                    }
                    let done = carry_out(&mut log, order);
                    drop(closed);
                    if inputs.blocking_send(done).is_err() {
                        return;
                    }
                }
            })?;
        let writer = Self {
            orders: sender,
            closed,
        };
        Ok((writer, restored))
    }

    /// Writes a batch; how it went comes back as an input.
    pub(crate) fn write(&self, batch: WriteBatch) {
        // The thread ends only with the node that owns this end.
        let _ = self.orders.send(Order::Write(batch));
    }

    /// Puts another key in the place of the present one; how it went comes back as an input.
    pub(crate) fn rekey(&self, key: DataKey) {
        // As above.
        let _ = self.orders.send(Order::Rekey(key));
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        // What waits is not written: the directory may become another log's.
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

fn carry_out(log: &mut Log<SealedDisk<FileDisk>>, order: Order) -> Input {
    match order {
        Order::Write(batch) => {
            let (write, ticket): (_, PersistTicket) = batch.into_parts();
            let written = log.write(&write);
            if let Err(error) = &written {
                tracing::error!(%error, "the log could not be written");
            }
            let durable = written.is_ok();
            Input::Persisted { ticket, durable }
        }
        Order::Rekey(key) => {
            let rekeyed: Result<(), DiskError> = log.disk_mut().rekey(&key);
            Input::Rekeyed(rekeyed.map(|()| log.disk().key_id()))
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{EndpointId, Instant, Machine as _, Seed, plane::PlatformError};
    use overlay_raft::{Config, Output, Raft, RaftId};

    use super::*;
    use crate::driver::store::Store;

    #[test]
    fn what_waits_when_the_log_is_given_up_is_not_written() {
        let name = format!("overlay-log-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let store = Store::open(&directory).unwrap();
        let batches = batches();
        let terms: Vec<_> = batches
            .iter()
            .map(|batch| batch.write().hard_state.term)
            .collect();
        // Nobody takes what the thread says after the first write: it waits there.
        let (inputs, mut received) = mpsc::channel(1);
        inputs.try_send(any()).unwrap();
        let (log, found) = LogWriter::open(store.raft().unwrap(), inputs).unwrap();
        assert!(found.is_empty());
        for batch in batches {
            log.write(batch);
        }
        drop(log);
        while received.blocking_recv().is_some() {}
        let (inputs, _received) = mpsc::channel(1);
        let (log, found) = LogWriter::open(store.raft().unwrap(), inputs).unwrap();
        let written = found.hard_state().map(|hard_state| hard_state.term);
        assert!(written < terms.last().copied(), "{written:?} of {terms:?}");
        drop(log);
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// What a member writes that stands for election again and again, because no write comes to an end.
    fn batches() -> Vec<WriteBatch> {
        let id = RaftId::new(1).unwrap();
        let (config, founder) = (Config::new(id, 7), Restored::bootstrap([id]));
        let mut raft = Raft::new(config, Seed::from_u64(1), Instant::EPOCH, founder).unwrap();
        let mut batches = Vec::new();
        while batches.len() < 3 {
            while let Some(output) = raft.poll_output() {
                if let Output::Persist(batch) = output {
                    batches.push(batch);
                }
            }
            let next = raft.poll_timeout().unwrap();
            raft.handle_timeout(next);
        }
        batches
    }

    fn any() -> Input {
        Input::Port {
            endpoint: EndpointId::from_bytes([1; 16]),
            result: Err(PlatformError::Unsupported {
                what: "ports",
                reason: "a test".to_owned(),
            }),
        }
    }
}
