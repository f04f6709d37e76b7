//! The agent's session with the leader: whom to talk to, when to speak, when to look for another manager.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use overlay_core::{Instant, NodeId};

use crate::{Timers, wire::ManagerAddress};

/// Which manager the node talks to.
#[derive(Debug)]
pub(crate) struct Session {
    node: NodeId,
    interval: Duration,
    patience: Duration,
    managers: Vec<ManagerAddress>,
    /// Managers to begin with, before an assignment says which there are.
    seeds: Vec<(NodeId, SocketAddr)>,
    /// Managers that gossip knows.
    found: BTreeMap<NodeId, SocketAddr>,
    target: Option<NodeId>,
    heard_at: Instant,
    next_heartbeat: Instant,
    redirected_at: Option<Instant>,
}

impl Session {
    pub(crate) fn new(node: NodeId, timers: &Timers, now: Instant) -> Self {
        let interval = timers.heartbeat_interval;
        Self {
            node,
            interval,
            patience: interval * timers.heartbeats_missing_max,
            managers: Vec::new(),
            seeds: Vec::new(),
            found: BTreeMap::new(),
            target: None,
            heard_at: now,
            next_heartbeat: now,
            redirected_at: None,
        }
    }

    /// Names a manager to begin with.
    pub(crate) fn add_seed(&mut self, node: NodeId, address: SocketAddr) {
        self.seeds.push((node, address));
    }

    /// Takes gossip's word on where a node takes sessions, `None` if it does not or is down: the next manager is tried then.
    pub(crate) fn find(&mut self, now: Instant, node: NodeId, address: Option<SocketAddr>) {
        match address {
            Some(address) if node != self.node => {
                if self.found.contains_key(&node) || self.found.len() < FOUND_MAX {
                    self.found.insert(node, address);
                }
            }
            _ => {
                if self.found.remove(&node).is_some() && self.target == Some(node) {
                    self.target = self.next_target();
                    self.heard_at = now;
                    self.next_heartbeat = now;
                }
            }
        }
    }

    /// Says how often to speak, and so how long a silent manager is waited for.
    pub(crate) fn set_interval(
        &mut self,
        now: Instant,
        timers: &Timers,
        interval: Option<Duration>,
    ) {
        let interval = interval.unwrap_or(timers.heartbeat_interval);
        if self.interval != interval {
            self.interval = interval;
            self.patience = interval * timers.heartbeats_missing_max;
            self.next_heartbeat = now;
        }
    }

    /// Takes the list of managers.
    pub(crate) fn set_managers(&mut self, managers: &[ManagerAddress]) {
        if self.managers != managers {
            self.managers = managers.to_vec();
        }
        if self
            .target
            .is_some_and(|target| self.address(target).is_none() && target != self.node)
        {
            self.target = None;
        }
    }

    /// Says who leads, as far as somebody knows; returns whether that is news to act on at once.
    ///
    /// Managers that each take another for the leader would otherwise send an agent round as fast as messages go.
    pub(crate) fn redirect(&mut self, now: Instant, leader: NodeId) -> bool {
        if self.target == Some(leader) {
            return false;
        }
        self.target = Some(leader);
        self.heard_at = now;
        let at_once = self.redirected_at.is_none_or(|at| at + REDIRECT <= now);
        if at_once {
            self.redirected_at = Some(now);
            self.next_heartbeat = now;
        }
        at_once
    }

    /// Notes that the leader answered.
    pub(crate) fn heard(&mut self, now: Instant, from: NodeId) {
        if self.target == Some(from) {
            self.heard_at = now;
        }
    }

    /// Returns the manager to send a heartbeat to, if one is due.
    pub(crate) fn poll_heartbeat(&mut self, now: Instant) -> Option<NodeId> {
        if now < self.next_heartbeat {
            return None;
        }
        self.next_heartbeat = now + self.interval;
        if self.target.is_none() || now.duration_since(self.heard_at) > self.patience {
            self.target = self.next_target();
            self.heard_at = now;
        }
        self.target
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        self.next_heartbeat
    }

    pub(crate) fn target(&self) -> Option<NodeId> {
        self.target
    }

    pub(crate) fn managers(&self) -> &[ManagerAddress] {
        &self.managers
    }

    /// Returns where a manager takes sessions.
    pub(crate) fn address(&self, node: NodeId) -> Option<SocketAddr> {
        let known = self.managers.iter().find(|manager| manager.node == node);
        let seed = || {
            self.seeds
                .iter()
                .find(|(seed, _)| *seed == node)
                .map(|(_, address)| *address)
        };
        let found = || self.found.get(&node).copied();
        known
            .map(|manager| manager.management)
            .or_else(found)
            .or_else(seed)
    }

    /// Takes the manager after the present one, so that all are tried in turn.
    fn next_target(&self) -> Option<NodeId> {
        let managers = self.managers.iter().map(|manager| manager.node);
        let mut all: Vec<_> = managers.chain(self.found.keys().copied()).collect();
        if all.is_empty() {
            all = self.seeds.iter().map(|(node, _)| *node).collect();
        }
        all.sort_unstable();
        all.dedup();
        let after = |target| all.iter().copied().find(|node| *node > target);
        self.target.and_then(after).or_else(|| all.first().copied())
    }
}

/// How many managers are taken from gossip at the most.
const FOUND_MAX: usize = 64;
/// How often an agent turns to another manager at once when it is told to.
const REDIRECT: Duration = Duration::from_millis(100);
