//! The log on disk: what its thread says becomes inputs of the node.

use overlay_raft::{
    Restored, WriteBatch,
    driver::{self, FileDisk, LogError, Written},
    storage::{DataKey, SealedDisk, StorageConfig},
};
use tokio::sync::mpsc;

use super::active::Input;

/// Where writes go in; nothing is written any more once it is dropped.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: driver::LogWriter<SealedDisk<FileDisk>>,
    inputs: mpsc::Sender<Input>,
}

impl LogWriter {
    /// Opens the log on `disk` and returns what it holds.
    pub(crate) fn open(
        disk: SealedDisk<FileDisk>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<(Self, Restored), LogError> {
        let told = inputs.clone();
        let (log, restored) =
            driver::LogWriter::open(disk, StorageConfig::default(), move |written| {
                let input = match written {
                    Written::Durable(ticket) => Input::Persisted {
                        ticket,
                        durable: true,
                    },
                    Written::Failed(ticket, error) => {
                        tracing::error!(%error, "the log could not be written");
                        Input::Persisted {
                            ticket,
                            durable: false,
                        }
                    }
                };
                told.blocking_send(input).is_ok()
            })?;
        Ok((Self { log, inputs }, restored))
    }

    /// Writes a batch; how it went comes back as an input.
    pub(crate) fn write(&self, batch: WriteBatch) {
        self.log.write(batch);
    }

    /// Puts another key in the place of the present one; how it went comes back as an input.
    pub(crate) fn rekey(&self, key: DataKey) {
        let inputs = self.inputs.clone();
        self.log.with_disk(
            move |disk| disk.rekey(&key).map(|()| disk.key_id()),
            move |rekeyed| {
                // A node that has gone needs no word.
                let _ = inputs.blocking_send(Input::Rekeyed(rekeyed));
            },
        );
    }
}
