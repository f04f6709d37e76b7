//! The tasks of this host: processes in the namespaces of their endpoints, which are named after the first, kept by its
//! holder.
//!
//! The node makes and removes the endpoints. A task is written down before it is started, and its record stays until its
//! endpoint is gone: the same order never runs it twice, also when the daemon or the holder died in between.

mod entry;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_core::{EndpointId, TaskId};
use overlay_linux::{CommandSpec, Exit, OutputCursor, ProcessStatus};
use overlay_node::{
    agent::{TaskOrder, TaskReport},
    driver::{Executor, LogOptions, LogSink, Reports},
};

use super::{
    holders::{self, Holders, Running, SIGTERM, off_thread, storage},
    logs::Output,
    node::Soon,
    programs::{command::specify, supervise::drain},
    records::Records,
};
use crate::{
    api::{Error, ErrorKind, TaskState},
    time,
    wire::{self, Refusal, TaskProgram},
};
use entry::{End, Entry, Phase, Record, Tell, find};

/// The tasks of this host.
#[derive(Clone)]
pub(crate) struct Tasks(Arc<Inner>);

struct Inner {
    holders: Arc<dyn Holders>,
    records: Records<Record>,
    entries: Mutex<BTreeMap<TaskId, Entry>>,
}

/// How often it is looked whether the endpoint of a task that ended is gone, at first and later on.
const LOOK_MIN: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(4);
/// Between two attempts to stop a task whose holder does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Tasks that ended and whose last output is remembered.
const ENDED_MAX: usize = 64;

impl Tasks {
    /// Reads what an earlier life of the daemon left in `folder`. The node asks for what it still wants.
    pub(crate) fn open(folder: &Path, holders: Arc<dyn Holders>) -> io::Result<Self> {
        let records = Records::open(folder.to_owned())?;
        let entry = |record: Record| (record.task, Entry::new(record, Phase::Found));
        let entries = records.load()?.into_iter().map(entry).collect();
        let tasks = Self(Arc::new(Inner {
            holders,
            records,
            entries: Mutex::new(entries),
        }));
        for entry in tasks.entries().values() {
            tasks.forget_later(entry.record.task, entry.record.endpoint);
        }
        Ok(tasks)
    }

    /// Lists the tasks that run, and those that ended lately.
    pub(crate) fn list(&self) -> Vec<TaskProgram> {
        self.entries().values().map(Entry::shown).collect()
    }

    /// What a task has written, as far as it is kept.
    pub(crate) fn output(&self, reference: &str) -> Result<Output, Error> {
        let (id, endpoint) = {
            let entries = self.entries();
            let record = &find(&entries, reference)?.record;
            (record.task, record.endpoint)
        };
        let tasks = self.clone();
        let last = move || match tasks.entries().get(&id) {
            Some(entry) if entry.phase == Phase::Ended => Some(entry.last_output.clone()),
            Some(_) => None,
            None => Some(Vec::new()),
        };
        Ok(Output::new(&self.0.holders, endpoint, last))
    }

    /// Where a running task is, and its host name.
    pub(crate) fn locate(&self, reference: &str) -> Result<(EndpointId, String), Error> {
        let entries = self.entries();
        let entry = find(&entries, reference)?;
        match entry.phase {
            Phase::Running(_) => Ok((entry.record.endpoint, entry.record.hostname())),
            Phase::Found | Phase::Starting | Phase::Ended => {
                let message = format!("task {reference} is not running");
                Err(Error::new(ErrorKind::Conflict, message))
            }
        }
    }

    /// The service of a task that runs or ran lately.
    pub(crate) fn service_of(&self, reference: &str) -> Option<String> {
        let entries = self.entries();
        let entry = find(&entries, reference).ok()?;
        Some(entry.record.service.clone())
    }

    /// See [`Executor::start`].
    fn begin(&self, order: TaskOrder, tell: Arc<dyn Tell>) {
        let tasks = self.clone();
        let id = order.task;
        let Some(endpoint) = order.endpoints.first().copied() else {
            let reason = "the service has no network, and a task runs in a network's endpoint: give it one with --network";
            let end = End::rejected(reason.to_owned(), None);
            tokio::spawn(async move { tell.tell(end.report(id)).await });
            return;
        };
        let known = {
            let mut entries = self.entries();
            let entry = entries.entry(id).or_insert_with(|| {
                let record = Record {
                    task: id,
                    service: order.service_name.clone(),
                    slot: order.slot,
                    endpoint,
                    end: None,
                };
                Entry::new(record, Phase::Starting)
            });
            let fresh = entry.tell.is_none() && entry.phase == Phase::Starting;
            entry.tell = Some(tell);
            if entry.phase == Phase::Found {
                entry.phase = Phase::Starting;
                Known::Found
            } else if fresh {
                Known::Not
            } else {
                Known::Here
            }
        };
        tokio::spawn(async move {
            match known {
                Known::Not => tasks.launch(order, endpoint).await,
                Known::Found => tasks.take_up(id, endpoint, None).await,
                Known::Here => tasks.say(id).await,
            }
        });
    }

    /// See [`Executor::stop`].
    fn end(&self, id: TaskId, grace: Duration, tell: Arc<dyn Tell>) {
        let tasks = self.clone();
        let known = {
            let mut entries = self.entries();
            entries.get_mut(&id).map(|entry| {
                entry.tell = Some(Arc::clone(&tell));
                entry.stop = Some(grace);
                let before = entry.phase;
                if before == Phase::Found {
                    entry.phase = Phase::Starting;
                }
                (before, entry.record.endpoint)
            })
        };
        tokio::spawn(async move {
            match known {
                None => {
                    let end = End::of(Exit::Unknown, true);
                    tell.tell(end.report(id)).await;
                }
                Some((Phase::Found, endpoint)) => tasks.take_up(id, endpoint, None).await,
                // Whoever starts it sees that it is to stop.
                Some((Phase::Starting, _)) => {}
                Some((Phase::Running(_), _)) => tasks.stop(id).await,
                Some((Phase::Ended, _)) => tasks.say(id).await,
            }
        });
    }

    /// Starts a task for the first time.
    async fn launch(&self, order: TaskOrder, endpoint: EndpointId) {
        let id = order.task;
        let Some(record) = self.record(id) else {
            return;
        };
        self.tell(id, record.report(TaskState::Starting)).await;
        let command = match command(&order, &record) {
            Ok(command) => command,
            Err(refusal) => {
                let code = refusal.exit_code.map(i32::from);
                let end = End::rejected(refusal.error.message, code);
                return self.conclude(id, end).await;
            }
        };
        if let Err(error) = self.save(id).await {
            return self.conclude(id, End::rejected(error.message, None)).await;
        }
        self.take_up(id, endpoint, Some(command)).await;
    }

    /// Takes up a task that runs or ended; starts it if there is none, and a command to start.
    async fn take_up(&self, id: TaskId, endpoint: EndpointId, command: Option<CommandSpec>) {
        let ended = self.record(id).and_then(|record| record.end);
        if let Some(end) = ended {
            return self.conclude(id, end).await;
        }
        let found = move |all: &dyn Holders| all.main_program(endpoint);
        let found = holders::blocking(&self.0.holders, found).await;
        let taken = match (found, command) {
            (
                Ok(Some(ProcessStatus {
                    exit: Some(exit), ..
                })),
                _,
            ) => {
                let end = End::of(exit, self.is_to_stop(id));
                return self.conclude(id, end).await;
            }
            (
                Ok(Some(ProcessStatus {
                    exit: None,
                    id: process,
                    ..
                })),
                _,
            ) => {
                let follow = move |all: &dyn Holders| all.follow(endpoint, process);
                let followed = holders::blocking(&self.0.holders, follow).await;
                followed.map_err(|error| {
                    tracing::warn!(%error, task = %id, "cannot follow a task");
                    End::of(Exit::Unknown, self.is_to_stop(id))
                })
            }
            (Ok(None), Some(command)) => {
                let start = move |all: &dyn Holders| all.start(endpoint, command, true);
                let started = holders::blocking(&self.0.holders, start).await;
                started.map_err(|error| End::rejected(error.message, Some(NOT_EXECUTABLE)))
            }
            (Ok(None), None) => Err(End::of(Exit::Unknown, self.is_to_stop(id))),
            (Err(error), _) => {
                tracing::warn!(%error, task = %id, "cannot ask the holder of a task");
                Err(End::of(Exit::Unknown, self.is_to_stop(id)))
            }
        };
        match taken {
            Ok(running) => self.run(id, running).await,
            Err(end) => self.conclude(id, end).await,
        }
    }

    /// Watches a task until its end.
    async fn run(&self, id: TaskId, running: Running) {
        let Running {
            process,
            streams,
            exit,
        } = running;
        drain(streams);
        let report = match self.entries().get_mut(&id) {
            Some(entry) => {
                entry.phase = Phase::Running(process);
                entry.record.report(TaskState::Running)
            }
            None => return,
        };
        self.tell(id, report).await;
        if self.is_to_stop(id) {
            let tasks = self.clone();
            tokio::spawn(async move { tasks.stop(id).await });
        }
        let exit = exit.await;
        self.conclude(id, End::of(exit, self.is_to_stop(id))).await;
    }

    /// Asks a running task to stop, however often it takes.
    async fn stop(&self, id: TaskId) {
        loop {
            let target = match self.entries().get(&id) {
                Some(entry) => match (entry.phase, entry.stop) {
                    (Phase::Running(process), Some(grace)) => {
                        (entry.record.endpoint, process, grace)
                    }
                    _ => return,
                },
                None => return,
            };
            let (endpoint, process, grace) = target;
            let asked = holders::end(&self.0.holders, endpoint, process, SIGTERM, grace).await;
            match asked {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, task = %id, "cannot stop a task yet, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Notes the end of a task, and says it.
    async fn conclude(&self, id: TaskId, end: End) {
        let Some(endpoint) = self.record(id).map(|record| record.endpoint) else {
            return;
        };
        // With the endpoint, which goes as soon as the node knows of the end, its output goes.
        let read = move |all: &dyn Holders| all.output(endpoint, &mut OutputCursor::default());
        let output = holders::blocking(&self.0.holders, read).await;
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.last_output = output.map(holders::tail).unwrap_or_default();
            entry.record.end = Some(end.clone());
            entry.phase = Phase::Ended;
        }
        if let Err(error) = self.save(id).await {
            tracing::warn!(%error, task = %id, "the end of a task is not on disk");
        }
        self.tell(id, end.report(id)).await;
        self.forget_later(id, endpoint);
    }

    /// Forgets a task once nothing is left of its endpoint, unless it is taken up in the meantime.
    fn forget_later(&self, id: TaskId, endpoint: EndpointId) {
        let tasks = self.clone();
        tokio::spawn(async move {
            let (mut pause, mut gone) = (LOOK_MIN, 0);
            // Twice: an endpoint that is made anew is gone for a moment.
            while gone < 2 {
                tokio::time::sleep(pause).await;
                let phase = tasks.entries().get(&id).map(|entry| entry.phase);
                if matches!(phase, Some(Phase::Starting | Phase::Running(_))) {
                    return;
                }
                let holds = move |all: &dyn Holders| all.holds(endpoint);
                match holders::blocking(&tasks.0.holders, holds).await {
                    Ok(false) => gone += 1,
                    Ok(true) | Err(_) => {
                        gone = 0;
                        pause = (pause * 2).min(LOOK_MAX);
                    }
                }
            }
            tasks.forget(id).await;
        });
    }

    /// Removes a record; the end and the last output of the newest are remembered.
    async fn forget(&self, id: TaskId) {
        let records = self.0.records.clone();
        let name = id.to_string();
        let removed = move || records.remove(&name).map_err(|error| storage(&error));
        if let Err(error) = off_thread(removed).await {
            tracing::warn!(%error, task = %id, "could not forget a task");
        }
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&id) {
            match entry.phase {
                Phase::Ended => entry.forgotten_unix_ms = Some(time::unix_ms()),
                Phase::Found => drop(entries.remove(&id)),
                // Taken up in this moment: its end is written down again.
                Phase::Starting | Phase::Running(_) => {}
            }
        }
        let forgotten = entries
            .values()
            .filter_map(|entry| Some((entry.forgotten_unix_ms?, entry.record.task)));
        let mut forgotten: Vec<_> = forgotten.collect();
        forgotten.sort_unstable();
        for (_, id) in forgotten.iter().rev().skip(ENDED_MAX) {
            entries.remove(id);
        }
    }

    /// Says how a task is that is known already.
    async fn say(&self, id: TaskId) {
        let report = match self.entries().get(&id) {
            Some(entry) => match (&entry.record.end, entry.phase) {
                (Some(end), _) => end.report(id),
                (None, Phase::Running(_)) => entry.record.report(TaskState::Running),
                (None, _) => entry.record.report(TaskState::Starting),
            },
            None => return,
        };
        self.tell(id, report).await;
    }

    async fn tell(&self, id: TaskId, report: TaskReport) {
        let tell = self.entries().get(&id).and_then(|one| one.tell.clone());
        if let Some(tell) = tell {
            tell.tell(report).await;
        }
    }

    async fn save(&self, id: TaskId) -> Result<(), Error> {
        let Some(record) = self.record(id) else {
            return Ok(());
        };
        let records = self.0.records.clone();
        off_thread(move || records.save(&record).map_err(|error| storage(&error))).await
    }

    fn record(&self, id: TaskId) -> Option<Record> {
        self.entries().get(&id).map(|entry| entry.record.clone())
    }

    fn is_to_stop(&self, id: TaskId) -> bool {
        self.entries().get(&id).is_some_and(|e| e.stop.is_some())
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<TaskId, Entry>> {
        // Whoever panicked holding it left whole entries behind: each change is one assignment.
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was known of a task when it was ordered.
enum Known {
    Not,
    Found,
    Here,
}

impl Executor for Tasks {
    fn start(&self, order: TaskOrder, reports: Reports) {
        self.begin(order, Arc::new(reports));
    }

    fn stop(&self, task: TaskId, grace: Duration, reports: Reports) {
        self.end(task, grace, Arc::new(reports));
    }

    fn logs(&self, task: TaskId, options: LogOptions, sink: LogSink) {
        let output = self.output(&task.to_string());
        tokio::spawn(async move {
            match output {
                Ok(output) => output.send(options, sink).await,
                Err(error) => sink.refuse(error).await,
            }
        });
    }
}

impl Tell for Reports {
    fn tell(&self, report: TaskReport) -> Soon<()> {
        let reports = self.clone();
        Box::pin(async move { reports.send(report).await })
    }
}

/// Makes the command of a task; it knows who it is by its environment.
fn command(order: &TaskOrder, record: &Record) -> Result<CommandSpec, Refusal> {
    let mut environment = vec![
        format!("OVERLAY_SERVICE={}", record.service),
        format!("OVERLAY_TASK={}", record.shown()),
        format!("OVERLAY_TASK_ID={}", record.task),
    ];
    environment.extend(order.spec.environment.iter().cloned());
    let directory = &order.spec.directory;
    let directory = (!directory.is_empty()).then(|| Path::new(directory));
    specify(
        &order.spec.command,
        &environment,
        directory,
        &record.hostname(),
        wire::Stdio::Detached,
    )
}

/// Exit code for a command that is there and cannot be executed.
const NOT_EXECUTABLE: i32 = 126;
