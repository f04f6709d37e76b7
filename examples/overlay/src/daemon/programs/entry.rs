//! One program as the daemon knows it, and those who wait for its end.

use std::{collections::BTreeMap, time::Duration};

use overlay_core::EndpointId;
use overlay_linux::Written;
use tokio::{sync::watch, time::timeout};

use super::record::Record;
use crate::{
    api::{Error, ErrorKind},
    wire::ProgramState,
};

/// A program as the daemon knows it.
pub(super) struct Entry {
    /// What is written down.
    pub(super) record: Record,
    /// How far it has come.
    pub(super) phase: watch::Sender<Phase>,
    /// What it wrote last, since it ended under this daemon.
    pub(super) last_output: Option<Vec<Written>>,
}

/// How far a program has come, for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being started, or runs.
    Alive,
    /// It ended; its endpoint is being detached.
    Ended(i32),
    /// It ended, and its endpoint is detached.
    Settled(i32),
}

/// How long those who wait for a program's end wait for its detachment, too.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(3);

impl Entry {
    pub(super) fn new(record: Record) -> Self {
        let phase = match record.info.state {
            ProgramState::Created | ProgramState::Running { .. } => Phase::Alive,
            ProgramState::Exited { code, .. } if record.attached => Phase::Ended(code),
            ProgramState::Exited { code, .. } => Phase::Settled(code),
        };
        Self {
            record,
            phase: watch::Sender::new(phase),
            last_output: None,
        }
    }
}

/// Finds a program by its whole identity, its name, or an unambiguous beginning of its identity, in this order.
pub(super) fn find<'a>(
    entries: &'a BTreeMap<EndpointId, Entry>,
    reference: &str,
) -> Result<&'a Entry, Error> {
    let exact = entries
        .values()
        .find(|entry| entry.record.info.id.to_string() == reference)
        .or_else(|| {
            entries
                .values()
                .find(|entry| entry.record.info.name == reference)
        });
    if let Some(entry) = exact {
        return Ok(entry);
    }
    let begins = |entry: &&Entry| entry.record.info.id.to_string().starts_with(reference);
    let mut fitting = entries
        .values()
        .filter(begins)
        .filter(|_| !reference.is_empty());
    match (fitting.next(), fitting.next()) {
        (Some(entry), None) => Ok(entry),
        (None, _) => {
            let message = format!("no such program: {reference}; `overlay ps -a` lists them");
            Err(Error::new(ErrorKind::NotFound, message))
        }
        (Some(_), Some(_)) => {
            let message =
                format!("{reference} is the beginning of several identities: give more of it");
            Err(Error::new(ErrorKind::Ambiguous, message))
        }
    }
}

/// Waits for a program's end, and a little for its detachment.
pub(super) async fn ended(
    mut phase: watch::Receiver<Phase>,
    limit: Duration,
) -> Result<i32, Error> {
    let code = {
        let over = phase.wait_for(|phase| !matches!(phase, Phase::Alive));
        match timeout(limit, over).await {
            Ok(Ok(phase)) => match *phase {
                Phase::Ended(code) | Phase::Settled(code) => code,
                Phase::Alive => 255,
            },
            // The entry is gone, and so is the program.
            Ok(Err(_)) => return Ok(255),
            Err(_) => {
                let message =
                    "the program was asked to end and still runs: try `overlay rm --force`";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
    };
    let settled = phase.wait_for(|phase| matches!(phase, Phase::Settled(_)));
    drop(timeout(SETTLE_TIME_MAX, settled).await);
    Ok(code)
}
