//! Programs of endpoints, and what they have written.

use std::time::Duration;

use overlay_core::{EndpointId, plane::PlatformError};

use super::{Linux, exchange, system, unexpected};
use crate::{
    command::{CommandSpec, ProcessId, ProcessStatus},
    holder::{
        output::{self, OutputCursor, Written},
        record::Record,
        wire::{Reply, Request},
    },
    process::Process,
};

impl Linux {
    /// Starts the endpoint's main program: with it all others of the endpoint end, and its output is kept.
    ///
    /// # Errors
    ///
    /// `EBUSY` while another main program runs; what the system said if it cannot be started (`ENOENT`, `EACCES`).
    pub fn start(
        &self,
        endpoint: EndpointId,
        command: CommandSpec,
    ) -> Result<Process, PlatformError> {
        self.run(
            endpoint,
            Request::Start {
                command,
                main: true,
            },
        )
    }

    /// Starts another program beside the main one.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn exec(
        &self,
        endpoint: EndpointId,
        command: CommandSpec,
    ) -> Result<Process, PlatformError> {
        let main = false;
        self.run(endpoint, Request::Start { command, main })
    }

    /// Takes up a program that was started earlier, perhaps by an earlier life of the daemon. Whoever followed it
    /// before hears no more of it.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such program.
    pub fn follow(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
    ) -> Result<Process, PlatformError> {
        self.run(endpoint, Request::Follow(process))
    }

    /// Sends a signal to a program, or to its whole process group.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended, `EINVAL` for a number that is no signal.
    pub fn signal(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
        group: bool,
    ) -> Result<(), PlatformError> {
        self.call(
            endpoint,
            &Request::Signal {
                process,
                signal,
                group,
            },
        )
        .map(drop)
    }

    /// Sends a signal to a program's process group; what still runs of it after `grace` is killed. Returns at once.
    ///
    /// # Errors
    ///
    /// As [`signal`](Self::signal).
    pub fn stop(
        &self,
        endpoint: EndpointId,
        process: ProcessId,
        signal: i32,
        grace: Duration,
    ) -> Result<(), PlatformError> {
        self.call(
            endpoint,
            &Request::Stop {
                process,
                signal,
                grace,
            },
        )
        .map(drop)
    }

    /// Returns the endpoint's programs, ended ones among them.
    ///
    /// # Errors
    ///
    /// [`PlatformError::UnknownEndpoint`] if it has no holder; else see [`PlatformError`].
    pub fn processes(&self, endpoint: EndpointId) -> Result<Vec<ProcessStatus>, PlatformError> {
        let (description, _) = self.describe_any(endpoint)?;
        Ok(description.processes)
    }

    /// Returns the newest main program as a holder that is gone has left it; none if it left nothing.
    pub fn left(&self, endpoint: EndpointId) -> Option<Option<ProcessStatus>> {
        let record = Record::read(&self.folder_of(endpoint)).ok()?;
        Some(record.ended())
    }

    /// Returns what is kept of the endpoint's output.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn output(&self, endpoint: EndpointId) -> Result<Vec<u8>, PlatformError> {
        let folder = self.folder_of(endpoint);
        output::read(&folder)
            .map_err(|error| system(&format!("read the output in {}", folder.display()), &error))
    }

    /// Returns what the endpoint has written beyond what `cursor` has seen, as far as it is kept, with its times; a fresh
    /// cursor has seen nothing. Of an endpoint that is gone there is nothing.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]; the cursor is as before.
    pub fn read_output(
        &self,
        endpoint: EndpointId,
        cursor: &mut OutputCursor,
    ) -> Result<Vec<Written>, PlatformError> {
        let folder = self.folder_of(endpoint);
        output::read_on(&folder, cursor)
            .map_err(|error| system(&format!("read the output in {}", folder.display()), &error))
    }

    fn run(&self, endpoint: EndpointId, request: Request) -> Result<Process, PlatformError> {
        let mut connection = self.connect(endpoint)?;
        let (reply, descriptors) = exchange(&mut connection, &request)?;
        match reply {
            Reply::Started(streams, id) => Process::new(id, streams, descriptors, connection)
                .map_err(|error| system("take up a program", &error)),
            other => Err(unexpected(&other)),
        }
    }
}
