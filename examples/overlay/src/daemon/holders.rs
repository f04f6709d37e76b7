//! Who starts programs in the namespaces of endpoints and keeps them beyond the daemon's life.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use overlay_core::{EndpointId, plane::PlatformError};
use overlay_linux::{CommandSpec, Exit, Linux, Process, ProcessId, ProcessStatus};
use tokio::{io::Interest, net::UnixStream};

use super::node::Soon;

/// Starts and finds programs: `overlay-linux`'s holders, or a test's. All calls block for a moment.
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
        let processes = match self.processes(endpoint) {
            // Of a holder that is gone there may still be a note of how the program ended.
            Err(PlatformError::UnknownEndpoint { .. }) => self
                .list()?
                .into_iter()
                .find(|found| found.spec.endpoint == endpoint)
                .map(|found| found.processes)
                .unwrap_or_default(),
            processes => processes?,
        };
        Ok(processes.into_iter().rev().find(|process| process.main))
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
