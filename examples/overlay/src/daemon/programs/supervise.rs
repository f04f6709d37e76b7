//! What happens when a program ends, and what a restarted daemon does about those that it finds.

use std::time::Duration;

use overlay_core::{EndpointId, plane::Namespace};
use overlay_linux::{Exit, OutputCursor, ProcessStatus};
use tokio::io::sink;

use super::{
    Programs,
    entry::{Entry, Phase},
    record::Record,
};
use crate::{
    api::{ErrorKind, Request, Response},
    daemon::{
        holders::{self, Holders, Running, Streams},
        node::Soon,
        stream,
    },
    time,
    wire::ProgramState,
};

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

impl Programs {
    /// Takes up the programs of an earlier life, undoes what it left half done, and detaches endpoints without a program.
    pub(crate) async fn recover(&self) {
        let records: Vec<Record> = self
            .entries()
            .values()
            .map(|entry| entry.record.clone())
            .collect();
        for record in records {
            let id = record.info.id;
            match (record.info.state, record.process) {
                (ProgramState::Exited { .. }, _) if !record.attached => {}
                (ProgramState::Running { .. }, Some(_)) => {
                    self.take_up(id).await;
                    self.settle_links(id);
                }
                (ProgramState::Exited { code, .. }, _) => {
                    let programs = self.clone();
                    tokio::spawn(async move { programs.settle(id, code).await });
                }
                (ProgramState::Created | ProgramState::Running { .. }, _) => self.discard(id),
            }
        }
        let programs = self.clone();
        tokio::spawn(async move { programs.detach_orphans().await });
    }

    /// Watches a program until its end, and cleans up after it.
    pub(super) fn supervise(&self, id: EndpointId, exit: Soon<Exit>) {
        let programs = self.clone();
        tokio::spawn(async move {
            let exit = exit.await;
            programs.finish(id, exit.code(), time::unix_ms()).await;
        });
    }

    async fn take_up(&self, id: EndpointId) {
        let found = self.blocking(move |holders| holders.main_program(id)).await;
        match found {
            Ok(Some(ProcessStatus {
                exit: None,
                id: process,
                ..
            })) => {
                match self
                    .blocking(move |holders| holders.follow(id, process))
                    .await
                {
                    Ok(Running { streams, exit, .. }) => {
                        drain(streams);
                        self.supervise(id, exit);
                    }
                    Err(error) => {
                        tracing::warn!(%error, endpoint = %id, "cannot follow a program");
                        self.finish_later(id, Exit::Unknown, None);
                    }
                }
            }
            Ok(Some(ProcessStatus {
                exit: Some(exit),
                ended,
                ..
            })) => {
                self.finish_later(id, exit, ended);
            }
            // The holder is gone, perhaps with a restart of the host.
            Ok(None) => self.finish_later(id, Exit::Unknown, None),
            Err(error) => {
                tracing::warn!(%error, endpoint = %id, "cannot ask the holder of a program");
                self.finish_later(id, Exit::Unknown, None);
            }
        }
    }

    fn finish_later(&self, id: EndpointId, exit: Exit, ended: Option<Duration>) {
        let at = ended.and_then(|ended| u64::try_from(ended.as_millis()).ok());
        let programs = self.clone();
        tokio::spawn(async move {
            programs
                .finish(id, exit.code(), at.unwrap_or_else(time::unix_ms))
                .await;
        });
    }

    async fn finish(&self, id: EndpointId, code: i32, at_unix_ms: u64) {
        // With the endpoint its output goes.
        let read = move |all: &dyn Holders| all.output(id, &mut OutputCursor::default());
        let output = self.blocking(read).await;
        if let Some(entry) = self.entries().get_mut(&id) {
            entry.last_output = output.ok().map(holders::tail);
        }
        let state = ProgramState::Exited { code, at_unix_ms };
        if let Err(error) = self.change(id, |record| record.info.state = state).await {
            tracing::warn!(%error, endpoint = %id, "the end of a program is not on disk");
        }
        self.tell(id, Phase::Ended(code));
        self.settle(id, code).await;
    }

    /// Detaches the endpoint of a program that ended, however long it takes, and forgets it if it is to be removed.
    async fn settle(&self, id: EndpointId, code: i32) {
        self.release(id).await;
        let remove = self
            .entries()
            .get(&id)
            .is_some_and(|entry| entry.record.info.remove);
        let done = if remove {
            // Those who wait hear of it by the end of the entry.
            self.forget(id).await
        } else {
            let settled = |record: &mut Record| {
                record.attached = false;
                record.links.clear();
            };
            self.change(id, settled).await
        };
        if let Err(error) = done {
            tracing::warn!(%error, endpoint = %id, "the end of a program is not on disk");
        }
        self.tell(id, Phase::Settled(code));
    }

    /// Detaches all endpoints of a program, however long it takes.
    async fn release(&self, id: EndpointId) {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.detach(id).await {
            tracing::warn!(%error, endpoint = %id, "cannot detach yet, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Detaches an endpoint, however long it takes. Returns false if it is not ours to detach: it goes with its task.
    pub(super) async fn detach_for_sure(&self, endpoint: EndpointId) -> bool {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.detach_one(endpoint).await {
            if error.kind == ErrorKind::Forbidden {
                return false;
            }
            tracing::warn!(%error, %endpoint, "cannot detach yet, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        true
    }

    /// Undoes a run that a crash interrupted.
    pub(super) fn discard(&self, id: EndpointId) {
        let programs = self.clone();
        tokio::spawn(async move {
            programs.release(id).await;
            if let Err(error) = programs.forget(id).await {
                tracing::warn!(%error, endpoint = %id, "could not forget a failed run");
            }
        });
    }

    /// A crash between the removal of a record and the detachment leaves an endpoint that nobody knows.
    async fn detach_orphans(&self) {
        let Ok(Response::Endpoints(endpoints)) = self.0.node.request(Request::EndpointList).await
        else {
            return;
        };
        for endpoint in endpoints {
            let ours = matches!(
                endpoint.namespace,
                Some(Namespace::Own | Namespace::Shared { .. })
            );
            let has = |entry: &Entry| {
                let mut links = entry.record.links.iter();
                links.any(|link| link.endpoint == endpoint.id)
            };
            let known = self.entries().values().any(has);
            if ours && !known && self.detach_for_sure(endpoint.id).await {
                tracing::info!(endpoint = %endpoint.id, name = endpoint.name, "detached an endpoint without a program");
            }
        }
    }

    fn tell(&self, id: EndpointId, phase: Phase) {
        if let Some(entry) = self.entries().get(&id) {
            entry.phase.send_replace(phase);
        }
    }
}

/// Reads what nobody wants to know, so that the program does not wait for a reader.
pub(in crate::daemon) fn drain(streams: Streams) {
    for file in [streams.terminal, streams.output, streams.error]
        .into_iter()
        .flatten()
    {
        tokio::spawn(async move {
            if let Ok(mut reader) = stream::reader(file) {
                drop(tokio::io::copy(&mut reader, &mut sink()).await);
            }
        });
    }
}
