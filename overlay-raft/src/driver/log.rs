//! The log on disk, in a thread of its own: syncing blocks.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use overlay_core::{Disk, DiskError};

use crate::{
    PersistTicket, Restored, WriteBatch,
    storage::{Log, OpenError, StorageConfig},
};

/// Where writes go in; the thread ends with it, and nothing is written any more once it is dropped.
///
/// Group commit: whatever waits when the disk is free becomes one write, synced once, and the newest of the tickets says so
/// for all of them.
pub struct LogWriter<D> {
    orders: mpsc::Sender<Order<D>>,
    /// Held during a write.
    closed: Arc<Mutex<bool>>,
    thread: Option<JoinHandle<()>>,
}

/// What came of writes.
#[derive(Debug)]
pub enum Written {
    /// For [`handle_persisted`](crate::Raft::handle_persisted).
    Durable(PersistTicket),
    /// For [`handle_persist_failed`](crate::Raft::handle_persist_failed): the disk failed.
    Failed(PersistTicket, DiskError),
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No thread.
    #[error("the thread of the log could not be started: {0}")]
    Thread(#[from] io::Error),
    /// What the disk holds cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What the thread is told.
enum Order<D> {
    Write(WriteBatch),
    Disk(Box<dyn FnOnce(&mut D) -> Answer + Send>),
}

/// Says what came of something that was done with the disk.
type Answer = Box<dyn FnOnce()>;

impl<D: Disk + Send + 'static> LogWriter<D> {
    /// Opens the log on `disk` and returns what it holds.
    ///
    /// `tell` is called on the thread of the log with what came of each write. It may block, which holds up the next one;
    /// the thread ends when it returns `false`.
    ///
    /// # Errors
    ///
    /// [`LogError`] if there is no thread to be had, or the disk holds no sound log.
    pub fn open(
        disk: D,
        config: StorageConfig,
        tell: impl FnMut(Written) -> bool + Send + 'static,
    ) -> Result<(Self, Restored), LogError> {
        let (log, restored) = Log::open(disk, config)?;
        let (sender, orders) = mpsc::channel();
        let closed = Arc::new(Mutex::new(false));
        let work = Work {
            log,
            orders,
            closed: Arc::clone(&closed),
            next: None,
        };
        let thread = thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || work.run(tell))?;
        let writer = Self {
            orders: sender,
            closed,
            thread: Some(thread),
        };
        Ok((writer, restored))
    }

    /// Writes a batch; how it went is told.
    pub fn write(&self, batch: WriteBatch) {
        // The thread ends only with this end, or with the one that is told.
        let _ = self.orders.send(Order::Write(batch));
    }

    /// Does something with the disk, between two writes, that is no business of the log; `then` tells of it, and may block.
    pub fn with_disk<R: 'static>(
        &self,
        what: impl FnOnce(&mut D) -> R + Send + 'static,
        then: impl FnOnce(R) + Send + 'static,
    ) {
        let order = Order::Disk(Box::new(move |disk| {
            let done = what(disk);
            Box::new(move || then(done))
        }));
        // As above.
        let _ = self.orders.send(order);
    }

    /// Ends the thread and waits for it: afterwards the disk is closed. What waits is not written. Blocks as long as a write
    /// takes.
    pub fn close(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            // A panic over there was said on standard error.
            let _ = thread.join();
        }
    }
}

impl<D> Drop for LogWriter<D> {
    fn drop(&mut self) {
        // What waits is not written: the directory may become another log's.
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

impl<D> fmt::Debug for LogWriter<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").finish_non_exhaustive()
    }
}

/// What the thread has.
struct Work<D> {
    log: Log<D>,
    orders: mpsc::Receiver<Order<D>>,
    closed: Arc<Mutex<bool>>,
    /// Taken, and not to be done together with what came before it.
    next: Option<Order<D>>,
}

impl<D: Disk> Work<D> {
    fn run(mut self, mut tell: impl FnMut(Written) -> bool) {
        let closed = Arc::clone(&self.closed);
        while let Some(order) = self.next.take().or_else(|| self.orders.recv().ok()) {
            let closed = closed.lock().unwrap_or_else(PoisonError::into_inner);
            if *closed {
                return;
            }
            let written = match order {
                Order::Write(batch) => self.write(batch),
                Order::Disk(what) => {
                    let answer = what(self.log.disk_mut());
                    drop(closed);
                    answer();
                    continue;
                }
            };
            drop(closed);
            if !tell(written) {
                return;
            }
        }
    }

    /// Writes a batch and all that wait behind it.
    fn write(&mut self, batch: WriteBatch) -> Written {
        let (mut write, mut ticket) = batch.into_parts();
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Write(later) => {
                    let (later, newest) = later.into_parts();
                    write.absorb(later);
                    ticket = newest;
                }
                Order::Disk(_) => {
                    self.next = Some(order);
                    break;
                }
            }
        }
        match self.log.write(&write) {
            Ok(()) => Written::Durable(ticket),
            Err(error) => Written::Failed(ticket, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use overlay_core::{Instant, Machine as _, Seed};

    use super::*;
    use crate::{Config, Output, Raft, RaftId, driver::FileDisk};

    #[test]
    fn what_waits_when_the_log_is_given_up_is_not_written() {
        let directory = directory("given-up");
        let mut batches = batches();
        let last = batches.last().map(|batch| batch.write().hard_state.term);
        let (tell, told) = mpsc::sync_channel(0);
        let (log, found) = open(&directory, move |written| tell.send(written).is_ok());
        assert!(found.is_empty());
        log.write(batches.remove(0));
        // The thread waits until somebody takes what it says about the first one.
        while size(&directory) == 0 {
            thread::yield_now();
        }
        for batch in batches {
            log.write(batch);
        }
        let closing = thread::Builder::new().spawn(move || drop(log)).unwrap();
        closing.join().unwrap();
        while told.recv().is_ok() {}
        let (log, found) = open(&directory, |_| true);
        let written = found.hard_state().map(|hard_state| hard_state.term);
        assert!(written.is_some() && written < last, "{written:?}");
        log.close();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_waits_together_is_one_write_and_the_newest_ticket() {
        let directory = directory("together");
        let mut batches = batches();
        let count = batches.len();
        let last = batches.last().map(|batch| batch.write().hard_state.clone());
        let (tell, told) = mpsc::sync_channel(0);
        let (log, _) = open(&directory, move |written| tell.send(written).is_ok());
        log.write(batches.remove(0));
        while size(&directory) == 0 {
            thread::yield_now();
        }
        for batch in batches {
            log.write(batch);
        }
        let mut tickets = 0;
        while tickets < 2 {
            assert!(matches!(told.recv().unwrap(), Written::Durable(_)));
            tickets += 1;
        }
        assert!(count > 2 && told.try_recv().is_err());
        log.close();
        let (log, found) = open(&directory, |_| true);
        assert_eq!(found.hard_state(), last.as_ref());
        log.close();
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn entries_of_several_writes_are_all_there() {
        let directory = directory("entries");
        let (tell, told) = mpsc::channel();
        let (log, _) = open(&directory, move |written| tell.send(written).is_ok());
        let id = RaftId::new(1).unwrap();
        let (config, founder) = (Config::new(id, 7), Restored::bootstrap([id]));
        let mut raft = Raft::new(config, Seed::from_u64(1), Instant::EPOCH, founder).unwrap();
        let mut applied = BTreeSet::new();
        let mut proposed = 0;
        while applied.len() < 100 {
            raft.handle_timeout(raft.poll_timeout().unwrap_or(Instant::EPOCH));
            while let Some(output) = raft.poll_output() {
                match output {
                    Output::Persist(batch) => log.write(batch),
                    Output::Apply(batch) => applied.extend(batch.iter().map(|one| one.index)),
                    _ => {}
                }
            }
            let now = raft.poll_timeout().unwrap_or(Instant::EPOCH);
            if raft.is_leader() && proposed < 100 {
                raft.propose(now, bytes::Bytes::from(vec![0; proposed]))
                    .unwrap();
                proposed += 1;
            } else if let Ok(Written::Durable(ticket)) = told.recv_timeout(PATIENCE) {
                raft.handle_persisted(now, ticket);
            }
        }
        let last = raft.last_index();
        log.close();
        let (log, found) = open(&directory, |_| true);
        assert_eq!(found.last_index(), last);
        log.close();
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// How long to wait for a write; there may be none.
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(20);

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

    fn open(
        directory: &std::path::Path,
        tell: impl FnMut(Written) -> bool + Send + 'static,
    ) -> (LogWriter<FileDisk>, Restored) {
        let disk = FileDisk::open(directory).unwrap();
        LogWriter::open(disk, StorageConfig::default(), tell).unwrap()
    }

    fn directory(name: &str) -> PathBuf {
        let name = format!("overlay-raft-log-{name}-{}", std::process::id());
        std::env::temp_dir().join(name)
    }

    fn size(directory: &std::path::Path) -> u64 {
        let segment = directory.join("segment-00000000000000000001");
        std::fs::metadata(segment).map_or(0, |found| found.len())
    }
}
