//! Who starts programs in the namespaces of endpoints and keeps them beyond the daemon's life.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::Duration,
};

use overlay_core::{EndpointId, plane::PlatformError};
use overlay_linux::{
    CommandSpec, Exit, Linux, OutputCursor, Process, ProcessId, ProcessStatus, Written,
};
use tokio::{io::Interest, net::UnixStream, task::spawn_blocking};

use super::node::Soon;
use crate::api::{Error, ErrorKind};

/// Starts and finds programs: `overlay-linux`'s holders, or a test's. All calls block for a moment.
///
/// The endpoint is that after which the namespace of the program is named, also when it has gone and others are in there.
pub(crate) trait Holders: Send + Sync + 'static {
    /// Starts the main program of an endpoint, or another beside it.
    fn start(
        &self,
        endpoint: EndpointId,
        command: CommandSpec,
        main: bool,
    ) -> Result<Running, PlatformError>;

    /// Takes up a program that an earlier life of the daemon started.
    fn follow(&self, endpoint: EndpointId, process: ProcessId) -> Result<Running, PlatformError>;

    /// Finds the main program of an endpoint, also if it ended.
    fn main_program(&self, endpoint: EndpointId) -> Result<Option<ProcessStatus>, PlatformError>;

    /// Whether anything is left of an endpoint: its holder, or what that wrote down.
    fn holds(&self, endpoint: EndpointId) -> Result<bool, PlatformError>;

    /// What the main program of an endpoint has written beyond what `cursor` has seen, as far as it is kept.
    fn output(
        &self,
        endpoint: EndpointId,
        cursor: &mut OutputCursor,
    ) -> Result<Vec<Written>, PlatformError>;

    /// Sends a signal to a program and its process group.
    fn signal(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
    ) -> Result<(), PlatformError>;

    /// Sends a signal, and kills what still runs after `grace`. Does not wait.
    fn stop(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
        grace: Duration,
    ) -> Result<(), PlatformError>;
}

/// A program that runs.
pub(crate) struct Running {
    /// Its number within the endpoint.
    pub(crate) process: ProcessId,
    /// The other ends of its streams, non-blocking.
    pub(crate) streams: Streams,
    /// Its end. Needs a tokio runtime.
    pub(crate) exit: Soon<Exit>,
}

/// The other ends of a program's streams; none if its output is kept for it.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Of its terminal.
    pub(crate) terminal: Option<File>,
    /// Of its standard input.
    pub(crate) input: Option<File>,
    /// Of its standard output.
    pub(crate) output: Option<File>,
    /// Of its standard error.
    pub(crate) error: Option<File>,
    /// Held while they are read: the holder itself reads the streams of a program that nobody follows, also after its end.
    pub(crate) follower: Option<OwnedFd>,
}

/// Asks the holders on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    holders: &Arc<dyn Holders>,
    work: impl FnOnce(&dyn Holders) -> Result<T, PlatformError> + Send + 'static,
) -> Result<T, Error> {
    let holders = Arc::clone(holders);
    off_thread(move || {
        work(&*holders).map_err(|error| Error::new(ErrorKind::Platform, error.to_string()))
    })
    .await
}

/// Does what blocks on a thread that may.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::new(ErrorKind::Platform, error.to_string())))
}

/// Sends a signal, and kills what still runs after `grace`; what has ended already is fine. Does not wait.
pub(super) async fn end(
    holders: &Arc<dyn Holders>,
    endpoint: EndpointId,
    process: ProcessId,
    signal: i32,
    grace: Duration,
) -> Result<(), Error> {
    const ESRCH: i32 = 3;
    let stop = move |holders: &dyn Holders| match holders.stop(endpoint, process, signal, grace) {
        // Ended in the meantime, alone or with its holder.
        Err(PlatformError::UnknownEndpoint { .. } | PlatformError::System { code: ESRCH, .. }) => {
            Ok(())
        }
        stopped => stopped,
    };
    blocking(holders, stop).await
}

/// What the data directory did not take.
pub(super) fn storage(error: &io::Error) -> Error {
    let message = format!("cannot write the program down in the data directory: {error}");
    Error::new(ErrorKind::Storage, message)
}

/// The end of an output, which is kept in memory when its endpoint is gone.
pub(super) fn tail(output: Vec<Written>) -> Vec<Written> {
    let mut room = TAIL_BYTES;
    let mut last: Vec<Written> = output
        .into_iter()
        .rev()
        .map_while(|mut written| {
            let over = written.octets.len().saturating_sub(room);
            room -= written.octets.len() - over;
            written.octets.drain(..over);
            written.from.offset += u64::try_from(over).unwrap_or_default();
            (!written.octets.is_empty()).then_some(written)
        })
        .collect();
    last.reverse();
    last
}

/// How much of an output outlives its endpoint.
const TAIL_BYTES: usize = 16 * 1024;
pub(super) const SIGTERM: i32 = 15;
pub(super) const SIGKILL: i32 = 9;

impl Holders for Linux {
    fn start(
        &self,
        endpoint: EndpointId,
        command: CommandSpec,
        main: bool,
    ) -> Result<Running, PlatformError> {
        let started = if main {
            Self::start(self, endpoint, command)
        } else {
            self.exec(endpoint, command)
        };
        started.map(Running::from)
    }

    fn follow(&self, endpoint: EndpointId, process: ProcessId) -> Result<Running, PlatformError> {
        Self::follow(self, endpoint, process).map(Running::from)
    }

    fn main_program(&self, endpoint: EndpointId) -> Result<Option<ProcessStatus>, PlatformError> {
        match self.processes(endpoint) {
            // Of a holder that is gone there may still be a note of how the program ended.
            Err(PlatformError::UnknownEndpoint { .. }) => Ok(self.left(endpoint).flatten()),
            processes => Ok(processes?.into_iter().rev().find(|process| process.main)),
        }
    }

    fn holds(&self, endpoint: EndpointId) -> Result<bool, PlatformError> {
        match self.processes(endpoint) {
            Err(PlatformError::UnknownEndpoint { .. }) => Ok(self.left(endpoint).is_some()),
            processes => processes.map(|_| true),
        }
    }

    fn output(
        &self,
        endpoint: EndpointId,
        cursor: &mut OutputCursor,
    ) -> Result<Vec<Written>, PlatformError> {
        self.read_output(endpoint, cursor)
    }

    fn signal(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
    ) -> Result<(), PlatformError> {
        Self::signal(self, endpoint, process, signal, true)
    }

    fn stop(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
        grace: Duration,
    ) -> Result<(), PlatformError> {
        Self::stop(self, endpoint, process, signal, grace)
    }
}

impl From<Process> for Running {
    fn from(mut process: Process) -> Self {
        let streams = Streams {
            terminal: process.terminal.take(),
            input: process.input.take(),
            output: process.output.take(),
            error: process.error.take(),
            follower: process.as_fd().try_clone_to_owned().ok(),
        };
        let id = process.id();
        Self {
            process: id,
            streams,
            exit: Box::pin(exit(process)),
        }
    }
}

async fn exit(mut process: Process) -> Exit {
    wait(&mut process).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "lost sight of a program");
        Exit::Unknown
    })
}

/// Waits on a copy of the descriptor, which becomes readable with the program's end.
async fn wait(process: &mut Process) -> io::Result<Exit> {
    // The end of one that ended at once came together with its start, and nothing is left to become readable.
    if let Some(exit) = process.try_wait()? {
        return Ok(exit);
    }
    let descriptor = process.as_fd().try_clone_to_owned()?;
    let stream = UnixStream::from_std(descriptor.into())?;
    loop {
        stream.readable().await?;
        let ended = stream.try_io(Interest::READABLE, || {
            process
                .try_wait()?
                .ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        match ended {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            ended => return ended,
        }
    }
}
