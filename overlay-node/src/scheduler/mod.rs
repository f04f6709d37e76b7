//! Which tasks there shall be and where: a pure value that the leader owns.
//!
//! [`Scheduler::plan`] looks at the whole state and says what to change; the changes travel through the log and are
//! applied by every manager alike. Nothing but delays is remembered between two plans, so that another leader goes on
//! from the state alone. A plan that is applied and followed by another one at the same instant soon leads to an empty
//! one.
//!
//! | module | holds |
//! |---|---|
//! | [`constraint`], [`preference`] | what a client writes under `placement` |
//! | `ledger`, `placer` | what nodes carry, and the choice among them |
//! | `slots`, `service` | what each slot of a service needs |
//! | `restart`, `rollout` | what follows an end, and how one version replaces another |
//! | `memory` | since when what is so |

pub mod constraint;
mod ledger;
mod memory;
mod pass;
mod placer;
pub mod preference;
mod restart;
mod rollout;
mod service;
mod slots;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::{Instant, NodeId, Rng, Seed, ServiceId, TaskId};

use crate::state::{NodeRecord, ServiceRecord, TaskChange, TaskRecord};
pub use constraint::{Constraint, ConstraintError};
pub use preference::PreferenceError;

use memory::Memory;
use pass::Pass;

/// Decides which tasks there shall be and where.
#[derive(Debug)]
pub struct Scheduler {
    rng: Rng,
    memory: Memory,
    /// Where the plan before was full: the next one starts there, so that no service waits for ever.
    start: Option<ServiceId>,
    latest: Instant,
    wake: Option<Instant>,
}

impl Scheduler {
    /// Makes one that has seen nothing yet: for a manager that has just become the leader.
    pub fn new(seed: Seed) -> Self {
        Self {
            rng: seed.rng(),
            memory: Memory::default(),
            start: None,
            latest: Instant::EPOCH,
            wake: None,
        }
    }

    /// Says what to change, in the order in which it is to be applied; about [`CHANGES_MAX`] changes at the most, the rest
    /// next time.
    ///
    /// To be called when the state or the readiness of a node changed and when [`poll_timeout`](Self::poll_timeout) is
    /// due, but not while an earlier plan is on its way: it would be made again. If that one got lost, just call again. A
    /// plan that is full asks for no wake-up: once it is applied, the state has changed.
    pub fn plan(&mut self, now: Instant, view: &View<'_>) -> Vec<TaskChange> {
        self.latest = self.latest.max(now);
        self.memory.observe(self.latest, view);
        let mut pass = Pass::new(self.latest, *view, &mut self.memory, &mut self.rng);
        self.start = pass.run(self.start);
        let (changes, wake) = pass.finish();
        self.wake = wake;
        changes
    }

    /// Returns when to plan again even if nothing changes until then.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// All services.
    pub services: &'a BTreeMap<ServiceId, ServiceRecord>,
    /// All tasks.
    pub tasks: &'a BTreeMap<TaskId, TaskRecord>,
    /// All nodes.
    pub nodes: &'a BTreeMap<NodeId, NodeRecord>,
    /// The nodes whose session is alive.
    pub ready: &'a BTreeSet<NodeId>,
    /// The nodes whose session has expired. Those in neither set were not heard of yet: they keep what they run and get
    /// nothing new.
    pub down: &'a BTreeSet<NodeId>,
    /// How many tasks of a slot are kept after they have ended.
    pub history_max: usize,
}

/// How many changes a plan has, about.
pub const CHANGES_MAX: usize = 1_000;
/// How many tasks of a service wait for a node at the most; more are made when these have found one.
pub const PENDING_MAX: usize = 1_000;
/// How many tasks that have ended are kept of each slot, in tests.
#[cfg(test)]
pub(crate) const HISTORY_MAX: usize = 5;
/// After this time on a node that is down, a task is given up, and its addresses come back.
pub const ORPHANED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// How much longer than its grace a task may take to stop until the one that replaces it starts nevertheless.
pub const STOP_OVERTIME_MAX: Duration = Duration::from_secs(60);
