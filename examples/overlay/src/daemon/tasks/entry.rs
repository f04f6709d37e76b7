//! One task as this daemon knows it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use overlay_core::{EndpointId, TaskId};
use overlay_linux::{Exit, ProcessId, Written};
use overlay_node::agent::TaskReport;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Error, ErrorKind, Slot, TaskState},
    daemon::{node::Soon, records::Recorded},
    wire::TaskProgram,
};

/// Where the word of a task goes: to the node, or to a test.
pub(crate) trait Tell: Send + Sync + 'static {
    /// Says how a task is.
    fn tell(&self, report: TaskReport) -> Soon<()>;
}

/// A task as it is written down before anything is done about it, so that it never runs twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) task: TaskId,
    pub(super) service: String,
    pub(super) slot: Slot,
    /// In whose namespaces it runs.
    pub(super) endpoint: EndpointId,
    /// How it ended.
    pub(super) end: Option<End>,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) state: TaskState,
    pub(super) message: String,
    pub(super) exit_code: Option<i32>,
}

/// A task as this daemon knows it.
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) phase: Phase,
    /// The grace with which it is to stop, once that is asked for.
    pub(super) stop: Option<Duration>,
    /// Who is told; nobody yet of one that was only found.
    pub(super) tell: Option<Arc<dyn Tell>>,
    /// What it wrote last, of one that ended.
    pub(super) last_output: Vec<Written>,
    /// When its record was removed, in milliseconds since 1970; what is left serves those who look on.
    pub(super) forgotten_unix_ms: Option<u64>,
}

/// How far a task is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// An earlier life of the daemon left it; nobody has asked for it in this one.
    Found,
    /// It is being started, or taken up.
    Starting,
    /// It runs.
    Running(ProcessId),
    /// It has ended.
    Ended,
}

impl Record {
    /// Its name, as lists show it.
    pub(super) fn shown(&self) -> String {
        format!("{}.{}", self.service, self.slot)
    }

    /// The name of its host, which is that of its endpoint.
    pub(super) fn hostname(&self) -> String {
        format!("{}.{}", self.shown(), self.task.short())
    }

    pub(super) fn report(&self, state: TaskState) -> TaskReport {
        TaskReport {
            task: self.task,
            state,
            message: String::new(),
            exit_code: None,
        }
    }
}

impl Recorded for Record {
    fn name(&self) -> String {
        self.task.to_string()
    }
}

impl End {
    /// The end of a task that did not begin.
    pub(super) fn rejected(message: String, exit_code: Option<i32>) -> Self {
        Self {
            state: TaskState::Rejected,
            message,
            exit_code,
        }
    }

    /// The end of a task that nobody saw.
    pub(super) fn lost() -> Self {
        Self {
            state: TaskState::Failed,
            message: "its process was lost".to_owned(),
            exit_code: None,
        }
    }

    /// The end of a process; `asked` if it had been told to stop.
    pub(super) fn of(exit: Exit, asked: bool) -> Self {
        let exit_code = match exit {
            Exit::Code(_) | Exit::Signal(_) => Some(exit.code()),
            Exit::Unknown => None,
        };
        let (state, message) = match exit {
            _ if asked => (TaskState::Shutdown, String::new()),
            Exit::Unknown => return Self::lost(),
            Exit::Code(0) => (TaskState::Complete, String::new()),
            Exit::Code(code) => (TaskState::Failed, format!("non-zero exit ({code})")),
            Exit::Signal(number) => (TaskState::Failed, format!("killed by signal {number}")),
        };
        Self {
            state,
            message,
            exit_code,
        }
    }

    pub(super) fn report(&self, task: TaskId) -> TaskReport {
        TaskReport {
            task,
            state: self.state,
            message: self.message.clone(),
            exit_code: self.exit_code,
        }
    }
}

impl Entry {
    pub(super) fn new(record: Record, phase: Phase) -> Self {
        Self {
            record,
            phase,
            stop: None,
            tell: None,
            last_output: Vec::new(),
            forgotten_unix_ms: None,
        }
    }

    /// What its users see.
    pub(super) fn shown(&self) -> TaskProgram {
        TaskProgram {
            id: self.record.task,
            name: self.record.shown(),
            service: self.record.service.clone(),
            running: matches!(self.phase, Phase::Running(_)),
        }
    }
}

/// Finds a task by its identity, its name with or without it, or an unambiguous beginning of its identity; of several with
/// one name the one that runs.
pub(super) fn find<'a>(
    entries: &'a BTreeMap<TaskId, Entry>,
    reference: &str,
) -> Result<&'a Entry, Error> {
    let exact = entries.values().find(|entry| {
        let record = &entry.record;
        record.task.to_string() == reference || record.hostname() == reference
    });
    let named = || {
        let mut named: Vec<_> = entries
            .values()
            .filter(|entry| entry.record.shown() == reference)
            .collect();
        named.sort_by_key(|entry| matches!(entry.phase, Phase::Running(_)));
        named.pop()
    };
    if let Some(entry) = exact.or_else(named) {
        return Ok(entry);
    }
    let mut fitting = entries
        .values()
        .filter(|entry| entry.record.task.to_string().starts_with(reference))
        .filter(|_| !reference.is_empty());
    match (fitting.next(), fitting.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => {
            let message = format!("no such task on this node: {reference}");
            Err(Error::new(ErrorKind::NotFound, message))
        }
        (Some(_), Some(_)) => {
            let message =
                format!("{reference} is the beginning of several identities: give more of it");
            Err(Error::new(ErrorKind::Ambiguous, message))
        }
    }
}
