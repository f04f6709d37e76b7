//! Draining by acknowledgement: a backend stops when every balancer has said that it sends nothing more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use overlay_core::{Instant, Machine, NodeId};
use thiserror::Error;

use crate::BackendId;

/// The side of the one who runs the backends: asks the members of the network, counts their answers, has a deadline.
///
/// The backend's row says *draining*; each member's balancer takes it out of its choices when it sees the row, and
/// [`Balancer::flows_left`](crate::Balancer::flows_left) is its answer. Asking goes on until all have answered that no
/// flow is left, are gone, or the deadline is reached: nothing is awaited by sleeping for a time that is hoped to be
/// long enough. A machine (see [`Machine`]); several backends drain at once.
#[derive(Debug)]
pub struct Drains {
    config: DrainConfig,
    now: Instant,
    drains: BTreeMap<BackendId, Drain>,
    outputs: VecDeque<DrainOutput>,
}

#[derive(Debug)]
struct Drain {
    deadline: Instant,
    /// When those who have not answered are asked again.
    ask: Instant,
    waiting: BTreeSet<NodeId>,
}

/// What [`Drains`] are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// How often a member is asked; 500 ms by default. Answers may be lost, and the row may come late to some.
    pub ask_every: Duration,
    /// Backends that drain at once; 1,024 by default.
    pub drains_max: u32,
    /// Members that are asked about one backend; 4,096 by default.
    pub members_max: u32,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            ask_every: Duration::from_millis(500),
            drains_max: 1_024,
            members_max: 4_096,
        }
    }
}

/// What the draining side asks its driver to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainOutput {
    /// Ask a member how many flows to the backend are left.
    Ask {
        /// The member.
        member: NodeId,
        /// The backend.
        backend: BackendId,
    },
    /// The backend may stop.
    Ended {
        /// The backend.
        backend: BackendId,
        /// Members that have not said that no flow is left. None: every connection has come to its end.
        unanswered: Vec<NodeId>,
    },
}

/// A drain was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DrainError {
    /// As many backends drain as the configuration allows.
    #[error("{max} backends drain already")]
    TooMany {
        /// How many there may be.
        max: u32,
    },
    /// There are more members than the configuration allows.
    #[error("expected at most {max} members, found {found}")]
    Members {
        /// How many were given.
        found: usize,
        /// How many there may be.
        max: u32,
    },
}

impl Drains {
    /// Makes one without drains.
    pub fn new(config: DrainConfig, now: Instant) -> Self {
        Self {
            config,
            now,
            drains: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Begins to drain a backend, or begins anew: the live `members` are asked, until `patience` is over at the latest.
    ///
    /// Queues [`DrainOutput::Ask`] for each; without members, [`DrainOutput::Ended`].
    ///
    /// # Errors
    ///
    /// See [`DrainError`]; nothing changes.
    pub fn start(
        &mut self,
        now: Instant,
        backend: BackendId,
        members: impl IntoIterator<Item = NodeId>,
        patience: Duration,
    ) -> Result<(), DrainError> {
        self.now = self.now.max(now);
        let DrainConfig {
            drains_max,
            members_max,
            ask_every,
        } = self.config;
        let known = self.drains.contains_key(&backend);
        if !known && self.drains.len() >= drains_max as usize {
            return Err(DrainError::TooMany { max: drains_max });
        }
        let waiting: BTreeSet<NodeId> = members.into_iter().collect();
        if waiting.len() > members_max as usize {
            let found = waiting.len();
            return Err(DrainError::Members {
                found,
                max: members_max,
            });
        }
        let ask = |member: &NodeId| DrainOutput::Ask {
            member: *member,
            backend,
        };
        self.outputs.extend(waiting.iter().map(ask));
        let drain = Drain {
            deadline: self.now + patience,
            ask: self.now + ask_every.max(SHORTEST),
            waiting,
        };
        self.drains.insert(backend, drain);
        self.settle(now);
        Ok(())
    }

    /// Takes a member's answer: how many flows to the backend are left there. It may come from anybody, at any time, and
    /// again.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        member: NodeId,
        backend: BackendId,
        flows_left: u32,
    ) {
        if let Some(drain) = self.drains.get_mut(&backend)
            && flows_left == 0
        {
            drain.waiting.remove(&member);
        }
        self.settle(now);
    }

    /// Notes that a member has left or is down: nothing is awaited from it any more.
    pub fn handle_gone(&mut self, now: Instant, member: NodeId) {
        for drain in self.drains.values_mut() {
            drain.waiting.remove(&member);
        }
        self.settle(now);
    }

    /// Ends a drain without a word, because the backend is gone or serves again; returns false if there is none.
    pub fn cancel(&mut self, now: Instant, backend: BackendId) -> bool {
        let known = self.drains.remove(&backend).is_some();
        self.settle(now);
        known
    }

    /// Returns the members that have not yet said that no flow is left; `None` if the backend does not drain.
    pub fn waiting(&self, backend: BackendId) -> Option<impl Iterator<Item = NodeId> + '_> {
        Some(self.drains.get(&backend)?.waiting.iter().copied())
    }

    /// Ends what has ended, and asks whom it is time to ask.
    fn settle(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let (now, every, outputs) = (self.now, self.config.ask_every, &mut self.outputs);
        self.drains.retain(|backend, drain| {
            if drain.waiting.is_empty() || drain.deadline <= now {
                outputs.push_back(DrainOutput::Ended {
                    backend: *backend,
                    unanswered: drain.waiting.iter().copied().collect(),
                });
                return false;
            }
            if drain.ask <= now {
                drain.ask = now + every.max(SHORTEST);
                let ask = |member: &NodeId| DrainOutput::Ask {
                    member: *member,
                    backend: *backend,
                };
                outputs.extend(drain.waiting.iter().map(ask));
            }
            true
        });
    }
}

impl Machine for Drains {
    type Output = DrainOutput;

    fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        let due = |drain: &Drain| drain.ask.min(drain.deadline);
        self.drains.values().map(due).min()
    }

    fn poll_output(&mut self) -> Option<DrainOutput> {
        self.outputs.pop_front()
    }
}

/// So that time goes on.
const SHORTEST: Duration = Duration::from_millis(1);
