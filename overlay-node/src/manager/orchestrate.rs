//! The scheduler's decisions, proposed while this manager leads.

use std::collections::BTreeSet;

use overlay_core::{Instant, NodeId};

use super::Manager;
use crate::{
    scheduler::{Scheduler, View},
    state::{Command, Proposal, RequestId},
};

/// The scheduler of a leader, and what its last plan was made from.
#[derive(Debug)]
pub(super) struct Orchestration {
    scheduler: Scheduler,
    /// The index of the state, and the nodes that were ready and down.
    seen: Option<(u64, Readiness)>,
    /// The request that carries the last plan.
    under_way: Option<RequestId>,
}

/// Which nodes answer and which do not; those in neither set were not heard of yet.
#[derive(Debug, PartialEq, Eq)]
struct Readiness {
    ready: BTreeSet<NodeId>,
    down: BTreeSet<NodeId>,
}

impl Manager {
    /// Plans if anything changed or is due, and proposes the plan.
    pub(super) fn orchestrate(&mut self, now: Instant) {
        if !self.leads() || self.state.cluster().is_none() {
            self.orchestration = None;
            return;
        }
        let readiness = self.readiness(now);
        let seed = &self.seed;
        let mut orchestration = self.orchestration.take().unwrap_or_else(|| Orchestration {
            scheduler: Scheduler::new(seed.derive(&format!("scheduler {now:?}"))),
            seen: None,
            under_way: None,
        });
        let waits = orchestration
            .under_way
            .is_some_and(|request| self.proposals.contains_key(&request));
        let due = orchestration.scheduler.poll_timeout();
        let same = orchestration
            .seen
            .as_ref()
            .is_some_and(|(index, seen)| *index == self.state.applied() && *seen == readiness);
        if !waits && (!same || due.is_some_and(|due| due <= now)) {
            let limit = self.settings().task_history_limit;
            let history_max = usize::try_from(limit).unwrap_or(usize::MAX);
            let view = View {
                services: self.state.services(),
                tasks: self.state.tasks(),
                nodes: self.state.nodes(),
                ready: &readiness.ready,
                down: &readiness.down,
                history_max,
            };
            let changes = orchestration.scheduler.plan(now, &view);
            orchestration.seen = Some((self.state.applied(), readiness));
            if !changes.is_empty() {
                let (request, own) = (RequestId::random(&mut self.rng), self.config.node);
                let command = Command::ChangeTasks { changes };
                let proposal = Proposal::new(&self.config, now, own, request, command);
                if self.propose(now, &proposal) {
                    orchestration.under_way = Some(request);
                } else {
                    // It is planned again with the next tick.
                    orchestration.seen = None;
                }
            }
        }
        self.orchestration = Some(orchestration);
    }

    fn readiness(&self, now: Instant) -> Readiness {
        let nodes = self.state.nodes().keys().copied();
        let (ready, silent): (BTreeSet<_>, BTreeSet<_>) =
            nodes.partition(|node| self.is_heard(now, *node));
        let silent = silent.into_iter();
        let down = silent.filter(|node| self.is_late(now, *node)).collect();
        Readiness { ready, down }
    }
}
