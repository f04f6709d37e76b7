//! Who runs tasks: the seam between the agent and whatever an orchestrator calls a task.

use std::{fmt, time::Duration};

use overlay_core::TaskId;
use tokio::sync::mpsc;

use super::{
    active::Input,
    logs::{LogOptions, LogSink},
};
use crate::{
    agent::{TaskOrder, TaskReport},
    api::{self, ErrorKind, TaskState},
};

/// Runs tasks. Calls return at once; what comes of them is reported.
///
/// After a restart of the daemon each task that it had is started again by the same order: an executor takes up one that
/// still runs, reports the end of one that ended meanwhile, and never runs one twice. A node that comes back from a crash
/// reports tasks that are gone as failed; their service gets others.
pub trait Executor: Send + Sync + 'static {
    /// Starts a task, or takes it up. `reports` stays good until the task ends.
    fn start(&self, order: TaskOrder, reports: Reports);

    /// Stops a task, and kills it after `grace`; its end is reported through what `start` was given. A task that is not
    /// known is reported as shut down through `reports`.
    fn stop(&self, task: TaskId, grace: Duration, reports: Reports);

    /// Puts what a task of this node has written into `sink`, oldest first, and drops that at the end; one that is not known
    /// is refused as [`ErrorKind::NotFound`]. Which lines are wanted is the executor's to heed, so that no others travel.
    /// By default no output is kept.
    fn logs(&self, task: TaskId, options: LogOptions, sink: LogSink) {
        let _ = (task, options);
        tokio::spawn(async move {
            let text = "this node's executor keeps no output of its tasks";
            sink.refuse(api::Error::new(ErrorKind::Invalid, text)).await;
        });
    }
}

/// Where an executor says how its tasks are.
#[derive(Clone)]
pub struct Reports(mpsc::Sender<Input>);

impl Reports {
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self(inputs)
    }

    /// Says how a task is. Nothing happens once the node has stopped; the next life asks again.
    pub async fn send(&self, report: TaskReport) {
        // Only a node that has stopped does not listen.
        let _ = self.0.send(Input::Task(report)).await;
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reports(..)")
    }
}

/// An executor for nodes that run no tasks: it rejects each.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTasks;

impl Executor for NoTasks {
    fn start(&self, order: TaskOrder, reports: Reports) {
        tokio::spawn(async move {
            let report = TaskReport {
                task: order.task,
                state: TaskState::Rejected,
                message: "this node runs no tasks".to_owned(),
                exit_code: None,
            };
            reports.send(report).await;
        });
    }

    fn stop(&self, task: TaskId, _grace: Duration, reports: Reports) {
        tokio::spawn(async move {
            let report = TaskReport {
                task,
                state: TaskState::Shutdown,
                message: String::new(),
                exit_code: None,
            };
            reports.send(report).await;
        });
    }
}
