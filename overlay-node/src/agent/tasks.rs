//! The tasks of a node: started when their ports are ready, stopped when they are not wanted, and reported.

use std::{collections::BTreeSet, time::Duration};

use overlay_core::{EndpointId, TaskId};
use overlay_gossip::RowState;

use super::{Agent, AssignedTask, PortState, Wish};
use crate::api::{DesiredState, Slot, TaskSpec, TaskState, TaskStatus};

/// What a task is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOrder {
    /// The task.
    pub task: TaskId,
    /// The name of its service.
    pub service_name: String,
    /// Which task of its service it is.
    pub slot: Slot,
    /// What it runs.
    pub spec: TaskSpec,
    /// Its endpoints, whose ports are ready; it runs in the namespace of the first.
    pub endpoints: Vec<EndpointId>,
}

/// How a task is, as whoever runs it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskReport {
    /// The task.
    pub task: TaskId,
    /// How far it is: starting, running, or how it ended.
    pub state: TaskState,
    /// What is amiss, in words for people.
    pub message: String,
    /// With what it ended: 128 and the signal's number if a signal did it.
    pub exit_code: Option<i32>,
}

/// A task of this node.
#[derive(Debug)]
pub(super) struct LocalTask {
    assigned: AssignedTask,
    phase: Phase,
    state: TaskState,
    /// Why it could not start, as it was reported last.
    obstacle: Option<String>,
    /// The endpoints to which there may be flows, while it drains.
    draining: BTreeSet<EndpointId>,
}

/// How far a task is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its ports are being made, or it shall wait.
    Waiting,
    /// It was handed to whoever runs it.
    Started,
    /// It takes no new flows, and those that it has go on.
    Draining,
    /// It was told to stop.
    Stopping,
    /// It has ended.
    Ended,
}

impl Agent {
    /// Takes the word of whoever runs a task.
    pub(crate) fn handle_task(&mut self, report: TaskReport) {
        let Some(local) = self.tasks.get_mut(&report.task) else {
            return;
        };
        if local.phase == Phase::Ended || report.state < local.state {
            return;
        }
        local.state = report.state;
        if report.state.is_terminal() {
            local.phase = Phase::Ended;
        }
        let endpoints = local.assigned.endpoints.clone();
        self.note(report);
        for endpoint in endpoints {
            self.put_row(endpoint);
        }
    }

    /// Returns what the leader has to be told, if there is anything.
    pub(crate) fn take_reports(&mut self) -> Vec<(TaskId, TaskStatus)> {
        std::mem::take(&mut self.reports).into_iter().collect()
    }

    /// Says how the row of a task's endpoint is: its names lead to it while it runs and shall run.
    pub(super) fn row_state(&self, task: TaskId) -> RowState {
        match self.tasks.get(&task) {
            Some(local) if local.phase == Phase::Started && local.state == TaskState::Running => {
                RowState::Live
            }
            Some(local) if matches!(local.phase, Phase::Waiting | Phase::Started) => {
                RowState::Starting
            }
            Some(_) => RowState::Draining,
            None => RowState::Starting,
        }
    }

    /// Stops the tasks that are assigned to this node no more, before their ports go.
    pub(super) fn stop_tasks(&mut self) {
        let assigned: BTreeSet<_> = self.assigned_tasks().map(|task| task.id).collect();
        let gone: Vec<_> = self.tasks.keys().copied().collect();
        for task in gone.into_iter().filter(|task| !assigned.contains(task)) {
            if let Some(local) = self.tasks.remove(&task)
                && matches!(
                    local.phase,
                    Phase::Started | Phase::Draining | Phase::Stopping
                )
            {
                self.wishes.push_back(Wish::StopTask(task, Duration::ZERO));
            }
            self.reports.remove(&task);
        }
    }

    /// Starts and stops what is assigned.
    pub(super) fn settle_tasks(&mut self) {
        let assigned: Vec<_> = self.assigned_tasks().cloned().collect();
        for task in assigned {
            let id = task.id;
            let local = self.tasks.entry(id).or_insert_with(|| LocalTask {
                assigned: task.clone(),
                phase: Phase::Waiting,
                state: TaskState::Assigned,
                obstacle: None,
                draining: BTreeSet::new(),
            });
            local.assigned = task;
            let (phase, desired) = (local.phase, local.assigned.desired);
            match (phase, desired) {
                (Phase::Waiting, DesiredState::Ready | DesiredState::Running) => self.prepare(id),
                (Phase::Waiting, DesiredState::Shutdown | DesiredState::Remove) => {
                    // Nobody runs it yet, or a former life of this daemon had it started.
                    self.stop(id);
                }
                (Phase::Started, DesiredState::Shutdown | DesiredState::Remove) => self.stop(id),
                (Phase::Started, DesiredState::Ready | DesiredState::Running)
                | (Phase::Draining | Phase::Stopping | Phase::Ended, _) => {}
            }
        }
    }

    fn prepare(&mut self, task: TaskId) {
        let Some(local) = self.tasks.get(&task) else {
            return;
        };
        let mut ready = true;
        let mut failure = None;
        for endpoint in &local.assigned.endpoints {
            match self.endpoints.get(endpoint).map(|local| &local.port) {
                Some(PortState::Ready) => {}
                Some(PortState::Failed(error)) => {
                    ready = false;
                    failure = Some(error.to_string());
                }
                Some(PortState::Creating | PortState::Made { .. }) | None => ready = false,
            }
        }
        let start = ready && local.assigned.desired == DesiredState::Running;
        if start {
            let order = TaskOrder {
                task,
                service_name: local.assigned.service_name.clone(),
                slot: local.assigned.slot,
                spec: local.assigned.spec.clone(),
                endpoints: local.assigned.endpoints.clone(),
            };
            self.wishes.push_back(Wish::StartTask(Box::new(order)));
        } else if local.state < TaskState::Preparing
            || (failure.is_some() && failure != local.obstacle)
        {
            self.note(TaskReport {
                task,
                state: TaskState::Preparing,
                message: failure.clone().unwrap_or_default(),
                exit_code: None,
            });
        }
        if let Some(local) = self.tasks.get_mut(&task) {
            // It is tried again, and fails for the same reason as before: that is no news.
            local.obstacle = failure.or(local.obstacle.take());
            local.state = local.state.max(TaskState::Preparing);
            if start {
                local.phase = Phase::Started;
            }
        }
    }

    /// Stops a task: one that serves takes no new flows first, and is told to stop once it has none.
    fn stop(&mut self, task: TaskId) {
        let Some(local) = self.tasks.get_mut(&task) else {
            return;
        };
        let patience = Duration::from_millis(local.assigned.spec.drain_ms);
        let serves = local.phase == Phase::Started && local.state == TaskState::Running;
        let endpoints: Vec<_> = local
            .assigned
            .endpoints
            .iter()
            .filter_map(|id| Some((*id, self.endpoints.get(id)?.assigned.record.network)))
            .collect();
        if !serves || patience.is_zero() || endpoints.is_empty() {
            return self.halt(task);
        }
        local.phase = Phase::Draining;
        local.draining = endpoints.iter().map(|(endpoint, _)| *endpoint).collect();
        for (endpoint, network) in endpoints {
            self.put_row(endpoint);
            self.wishes.push_back(Wish::Drain {
                network,
                endpoint,
                patience,
            });
        }
    }

    /// Notes that nobody has flows to an endpoint any more, or that this was awaited long enough.
    pub(crate) fn handle_drained(&mut self, endpoint: EndpointId) {
        let drained = self.tasks.iter_mut().find_map(|(task, local)| {
            let ended = local.draining.remove(&endpoint) && local.draining.is_empty();
            (ended && local.phase == Phase::Draining).then_some(*task)
        });
        if let Some(task) = drained {
            self.halt(task);
        }
    }

    fn halt(&mut self, task: TaskId) {
        let Some(local) = self.tasks.get_mut(&task) else {
            return;
        };
        local.phase = Phase::Stopping;
        let grace = Duration::from_millis(local.assigned.spec.stop_grace_ms);
        let endpoints = local.assigned.endpoints.clone();
        self.wishes.push_back(Wish::StopTask(task, grace));
        for endpoint in endpoints {
            self.put_row(endpoint);
        }
    }

    /// Keeps a report until it is told; a later one of the same task takes its place.
    fn note(&mut self, report: TaskReport) {
        let status = TaskStatus {
            state: report.state,
            message: report.message,
            exit_code: report.exit_code,
            ..TaskStatus::default()
        };
        self.reports.insert(report.task, status);
    }

    fn assigned_tasks(&self) -> impl Iterator<Item = &AssignedTask> {
        let assignment = self.memory.assignment.iter();
        assignment.flat_map(|assignment| &assignment.tasks)
    }
}
