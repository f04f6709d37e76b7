//! The programs of this host: attached, started, watched, detached and forgotten.
//!
//! A program is an endpoint on each of its networks and the main program of their holder. It is written down before anything is done,
//! so that whatever a crash leaves half done is undone at the next start.

pub(super) mod command;
mod entry;
mod networks;
mod record;
pub(super) mod supervise;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_core::{EndpointId, plane::PlatformError};
use overlay_linux::ProcessId;
use tokio::sync::watch;

use super::{
    holders::{self, Holders, Running, SIGKILL, SIGTERM, off_thread, storage},
    logs::Output,
    node::Node,
    records::Records,
};
use crate::{
    api::{Error, ErrorKind, Response},
    time,
    wire::{ExecRequest, ProgramInfo, ProgramState, Refusal, RunRequest},
};
use entry::{Entry, Phase, ended, find};
use record::Record;

/// The programs of this host.
#[derive(Clone)]
pub(crate) struct Programs(Arc<Inner>);

struct Inner {
    node: Arc<dyn Node>,
    holders: Arc<dyn Holders>,
    records: Records<Record>,
    entries: Mutex<BTreeMap<EndpointId, Entry>>,
}

/// A program with its streams, for whoever carries them.
pub(crate) struct Attached {
    /// The endpoint.
    pub(crate) id: EndpointId,
    /// The program and its streams.
    pub(crate) running: Running,
    /// Whether it is to end when nobody listens any more.
    pub(crate) ends_with_client: bool,
}

/// How long a killed program may take to be gone.
const KILL_TIME_MAX: Duration = Duration::from_secs(10);

impl Programs {
    /// Reads what an earlier life of the daemon left in `folder`. [`recover`](Self::recover) takes it up.
    pub(crate) fn open(
        folder: &Path,
        node: Arc<dyn Node>,
        holders: Arc<dyn Holders>,
    ) -> io::Result<Self> {
        let records = Records::open(folder.to_owned())?;
        let entry = |record: Record| (record.info.id, Entry::new(record.upgrade()));
        let entries = Mutex::new(records.load()?.into_iter().map(entry).collect());
        Ok(Self(Arc::new(Inner {
            node,
            holders,
            records,
            entries,
        })))
    }

    /// Lists the programs, newest first.
    pub(crate) fn list(&self, all: bool) -> Vec<ProgramInfo> {
        let shown = |info: &ProgramInfo| all || matches!(info.state, ProgramState::Running { .. });
        let infos = self
            .entries()
            .values()
            .map(|entry| entry.record.info.clone())
            .collect();
        let mut infos: Vec<ProgramInfo> = infos;
        infos.retain(shown);
        infos.sort_by_key(|info| (std::cmp::Reverse(info.created_unix_ms), info.id));
        infos
    }

    /// Attaches an endpoint on each network and starts a program there. All of it is undone if any of it fails.
    pub(crate) async fn run(&self, request: RunRequest) -> Result<Attached, Refusal> {
        networks::check(&request.networks)?;
        let id = draw_id()?;
        let name = request.name.clone().unwrap_or_else(|| id.short());
        let spec = command::specify(
            &request.command,
            &request.environment,
            request.directory.as_deref(),
            &name,
            request.stdio,
        )?;
        self.reserve(id, name, &request).await?;
        if let Err(error) = self.attach_all(id, request.networks).await {
            return Err(self.undo(id, error).await.into());
        }
        let started = self
            .blocking(move |holders| holders.start(id, spec, true))
            .await;
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                return Err(Refusal {
                    error: self.undo(id, error).await,
                    exit_code: Some(126),
                });
            }
        };
        let process = running.process;
        let saved = self.change(id, |record| {
            record.process = Some(process);
            record.info.state = ProgramState::Running {
                since_unix_ms: time::unix_ms(),
            };
        });
        if let Err(error) = saved.await {
            return Err(self.undo(id, error).await.into());
        }
        let exit = std::mem::replace(&mut running.exit, Box::pin(std::future::pending()));
        self.supervise(id, exit);
        Ok(Attached {
            id,
            running,
            ends_with_client: false,
        })
    }

    /// Starts a command beside a program.
    pub(crate) async fn exec(&self, request: ExecRequest) -> Result<Attached, Refusal> {
        let (id, name) = {
            let entries = self.entries();
            let record = &find(&entries, &request.program)?.record;
            if record.running().is_none() {
                let message = format!(
                    "program {} is not running: start a new one with `overlay run`",
                    request.program
                );
                return Err(Error::new(ErrorKind::Conflict, message).into());
            }
            (record.info.id, record.info.name.clone())
        };
        self.exec_in(id, &name, request).await
    }

    /// Starts a command in the namespaces of an endpoint that has this host name.
    pub(crate) async fn exec_in(
        &self,
        id: EndpointId,
        name: &str,
        request: ExecRequest,
    ) -> Result<Attached, Refusal> {
        let spec = command::specify(
            &request.command,
            &request.environment,
            request.directory.as_deref(),
            name,
            request.stdio,
        )?;
        let started = self
            .blocking(move |holders| holders.start(id, spec, false))
            .await;
        let running = started.map_err(|error| Refusal {
            error,
            exit_code: Some(126),
        })?;
        Ok(Attached {
            id,
            running,
            ends_with_client: true,
        })
    }

    /// Ends a program: SIGTERM, and SIGKILL after `grace`. One that ended already is fine.
    pub(crate) async fn stop(&self, reference: &str, grace: Duration) -> Result<(), Error> {
        let (id, running, phase) = self.look_up(reference)?;
        if let Some(process) = running {
            self.end(id, process, SIGTERM, grace).await?;
            ended(phase, grace + KILL_TIME_MAX).await?;
        }
        Ok(())
    }

    /// Forgets a program that ended, or ends it first if `force`.
    pub(crate) async fn remove(&self, reference: &str, force: bool) -> Result<(), Error> {
        let (id, running, phase) = self.look_up(reference)?;
        let Some(process) = running else {
            if let Phase::Alive = *phase.borrow() {
                let message =
                    format!("program {reference} is being started: try again in a moment");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            return self.remove_ended(id, reference).await;
        };
        if !force {
            let message = format!(
                "cannot remove program {reference}: it is running; stop it before or force the removal with --force"
            );
            return Err(Error::new(ErrorKind::InUse, message));
        }
        self.change(id, |record| record.info.remove = true).await?;
        self.end(id, process, SIGKILL, Duration::ZERO).await?;
        ended(phase, KILL_TIME_MAX).await.map(drop)
    }

    async fn remove_ended(&self, id: EndpointId, reference: &str) -> Result<(), Error> {
        // Whoever still tries to detach it goes on; it will find nothing left to write.
        self.detach(id).await.map_err(|error| {
            let message = format!(
                "program {reference} ended, but its address cannot be given back yet: {}",
                error.message
            );
            Error::new(error.kind, message)
        })?;
        self.forget(id).await
    }

    /// Waits for the end of a program and returns its exit code.
    pub(crate) async fn wait(&self, reference: &str) -> Result<i32, Error> {
        let (_, _, phase) = self.look_up(reference)?;
        ended(phase, Duration::MAX).await
    }

    /// The end of a program, for whoever carries its streams.
    pub(crate) async fn end_of(&self, id: EndpointId) -> i32 {
        let phase = self.entries().get(&id).map(|entry| entry.phase.subscribe());
        match phase {
            Some(phase) => ended(phase, Duration::MAX).await.unwrap_or(255),
            None => 255,
        }
    }

    /// What a program has written, as far as it is kept. What went to a client instead is not.
    pub(crate) fn output(&self, reference: &str) -> Result<Output, Error> {
        let id = find(&self.entries(), reference)?.record.info.id;
        let programs = self.clone();
        let last = move || match programs.entries().get(&id) {
            Some(entry) if entry.record.info.state.is_running() => None,
            Some(entry) => Some(entry.last_output.clone().unwrap_or_default()),
            None => Some(Vec::new()),
        };
        Ok(Output::new(&self.0.holders, id, last))
    }

    /// Sends a signal to a program or to a command beside it; one that has just ended is fine.
    pub(crate) async fn signal(&self, id: EndpointId, process: ProcessId, signal: i32) {
        let sent = self
            .blocking(move |holders| holders.signal(id, process, signal))
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a signal was not delivered");
        }
    }

    /// Ends a command whose client went away.
    pub(crate) async fn hang_up(&self, id: EndpointId, process: ProcessId) {
        const SIGHUP: i32 = 1;
        let ended = self.end(id, process, SIGHUP, Duration::from_secs(10)).await;
        if let Err(error) = ended {
            tracing::debug!(%error, "a command without a client was not ended");
        }
    }

    /// Lets a program run that no client listens to.
    pub(crate) fn let_run(&self, attached: Attached) {
        supervise::drain(attached.running.streams);
    }

    /// Whether there is a program by this reference.
    pub(crate) fn knows(&self, reference: &str) -> bool {
        find(&self.entries(), reference).is_ok()
    }

    /// Whether `reference` is the endpoint of one of the programs, which must not be detached under it.
    pub(crate) fn owns(&self, reference: &str) -> bool {
        let entries = self.entries();
        let is_link = |entry: &Entry| {
            let mut links = entry.record.links.iter();
            links.any(|link| link.endpoint.to_string() == reference)
        };
        let of = find(&entries, reference).ok();
        let of = of.or_else(|| entries.values().find(|entry| is_link(entry)));
        of.is_some_and(|entry| entry.record.attached)
    }

    fn look_up(
        &self,
        reference: &str,
    ) -> Result<(EndpointId, Option<ProcessId>, watch::Receiver<Phase>), Error> {
        let entries = self.entries();
        let entry = find(&entries, reference)?;
        Ok((
            entry.record.info.id,
            entry.record.running(),
            entry.phase.subscribe(),
        ))
    }

    async fn end(
        &self,
        id: EndpointId,
        process: ProcessId,
        signal: i32,
        grace: Duration,
    ) -> Result<(), Error> {
        holders::end(&self.0.holders, id, process, signal, grace).await
    }

    /// Writes a program down before anything is done about it.
    async fn reserve(
        &self,
        id: EndpointId,
        name: String,
        request: &RunRequest,
    ) -> Result<(), Error> {
        let names = request.networks.iter().map(|one| one.network.as_str());
        let mut record = Record {
            info: ProgramInfo {
                id,
                name: name.clone(),
                command: request.command.clone(),
                network: names.collect::<Vec<_>>().join(","),
                addresses: Vec::new(),
                remove: request.remove,
                created_unix_ms: time::unix_ms(),
                state: ProgramState::Created,
            },
            process: None,
            attached: true,
            links: Vec::new(),
        };
        for (number, choice) in request.networks.iter().enumerate() {
            // Its programs go by the first one.
            let endpoint = if number == 0 { id } else { draw_id()? };
            record.add(endpoint, &choice.network);
        }
        {
            let mut entries = self.entries();
            let other = entries
                .values()
                .find(|entry| entry.record.info.name == name);
            if let Some(other) = other {
                let message = format!(
                    "the name {name} is already in use by program {}: remove that program with `overlay rm {name}`, or choose another name",
                    other.record.info.id.short()
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            entries.insert(id, Entry::new(record));
        }
        let saved = self.change(id, |_| {}).await;
        if saved.is_err() {
            self.entries().remove(&id);
        }
        saved
    }

    /// Takes back what a run had done before it failed; returns the failure.
    async fn undo(&self, id: EndpointId, failure: Error) -> Error {
        if let Err(error) = self.detach(id).await {
            tracing::warn!(%error, endpoint = %id, "cannot detach what a failed run had attached yet");
            self.discard(id);
        } else if let Err(error) = self.forget(id).await {
            tracing::warn!(%error, endpoint = %id, "could not forget a failed run");
        }
        failure
    }

    async fn forget(&self, id: EndpointId) -> Result<(), Error> {
        let records = self.0.records.clone();
        off_thread(move || {
            records
                .remove(&id.to_string())
                .map_err(|error| storage(&error))
        })
        .await?;
        self.entries().remove(&id);
        Ok(())
    }

    /// Changes a record, in memory and on disk.
    async fn change(&self, id: EndpointId, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let record = match self.entries().get_mut(&id) {
            Some(entry) => {
                change(&mut entry.record);
                entry.record.clone()
            }
            None => return Ok(()),
        };
        let records = self.0.records.clone();
        off_thread(move || records.save(&record).map_err(|error| storage(&error))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Holders) -> Result<T, PlatformError> + Send + 'static,
    ) -> Result<T, Error> {
        holders::blocking(&self.0.holders, work).await
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Entry>> {
        // Whoever panicked holding it left whole entries behind: each change is one assignment.
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn unexpected(response: &Response) -> Error {
    let message = format!("the node answered something else than was asked: {response:?}");
    Error::new(ErrorKind::Platform, message)
}

/// Draws an identity from the operating system's entropy.
fn draw_id() -> Result<EndpointId, Error> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| {
            let message = format!("cannot draw an identity from /dev/urandom: {error}");
            Error::new(ErrorKind::Platform, message)
        })?;
    Ok(EndpointId::from_bytes(bytes))
}
