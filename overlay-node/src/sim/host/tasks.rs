//! Tasks of a simulated host: they exist in memory alone and end as their commands say.
//!
//! `fail` ends badly after a while, `exit` well, `broken` cannot be started; whatever else runs until it is stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::TaskId;

use super::{Effect, SimHost};
use crate::{
    agent::{TaskOrder, TaskReport},
    api::TaskState,
};

/// The tasks of a host.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// Those that were started and not stopped.
    started: BTreeSet<TaskId>,
    running: BTreeSet<TaskId>,
    delayed: BTreeMap<u64, TaskReport>,
}

impl Tasks {
    pub(super) fn running(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.running.iter().copied()
    }

    pub(super) fn delay(&mut self, token: u64, report: TaskReport) {
        self.delayed.insert(token, report);
    }
}

impl SimHost {
    pub(super) fn start_task(&mut self, order: TaskOrder) {
        if !self.tasks.started.insert(order.task) {
            return;
        }
        let command = order.spec.command.first().map_or("", String::as_str);
        let task = order.task;
        if command == "broken" {
            return self.task_later(START, task, TaskState::Rejected, None);
        }
        self.task_later(START, task, TaskState::Running, None);
        match command {
            "fail" => self.task_later(LIFE, task, TaskState::Failed, Some(1)),
            "exit" => self.task_later(LIFE, task, TaskState::Complete, Some(0)),
            _ => {}
        }
    }

    pub(super) fn stop_task(&mut self, task: TaskId) {
        self.task_later(STOP, task, TaskState::Shutdown, None);
    }

    /// Returns whether `token` was about a task.
    pub(super) fn on_task(&mut self, token: u64) -> bool {
        let Some(report) = self.tasks.delayed.remove(&token) else {
            return false;
        };
        let known = self.tasks.started.contains(&report.task);
        if report.state == TaskState::Running {
            if !known {
                return true;
            }
            self.tasks.running.insert(report.task);
        } else {
            self.tasks.started.remove(&report.task);
            self.tasks.running.remove(&report.task);
            if !known && report.state != TaskState::Shutdown {
                return true;
            }
        }
        if let Some(node) = &mut self.node {
            node.handle_task(self.now, report);
        }
        true
    }

    fn task_later(
        &mut self,
        delay: Duration,
        task: TaskId,
        state: TaskState,
        exit_code: Option<i32>,
    ) {
        let report = TaskReport {
            task,
            state,
            message: String::new(),
            exit_code,
        };
        self.effects
            .push_back(Effect::Task(delay, Box::new(report)));
    }
}

/// How long a task takes to start.
const START: Duration = Duration::from_millis(40);
/// How long one runs that ends by itself.
const LIFE: Duration = Duration::from_millis(300);
/// How long a task takes to stop.
const STOP: Duration = Duration::from_millis(20);
