//! What other nodes say over management sessions, and what is said to them.

use std::time::Duration;

use bytes::Bytes;
use overlay_core::{Instant, NodeId};
use overlay_raft::{RaftId, Restored};

use super::{Event, ManagerBoot, Node, Output, Peer};
use crate::{
    agent::{Agent, Assignment, AssignmentChange},
    api::Role,
    manager::{Manager, Served, allowed_for_worker},
    state::{NodeRecord, RequestId},
    wire::{self, Ask, FrameError, Message},
};

impl Node {
    /// Takes a frame of a management session with `peer`.
    ///
    /// A message that the peer's role does not allow is dropped.
    ///
    /// # Errors
    ///
    /// [`FrameError`] if it is malformed; nothing changed.
    pub fn handle_peer(
        &mut self,
        now: Instant,
        peer: Peer,
        frame: &[u8],
    ) -> Result<(), FrameError> {
        let message = wire::decode(frame)?;
        self.advance(now);
        self.on_message(peer, message);
        self.settle();
        Ok(())
    }

    pub(super) fn on_message(&mut self, peer: Peer, message: Message) {
        let now = self.now;
        let from_manager = peer.role == Role::Manager;
        match message {
            Message::Raft { from, to, bytes } if from_manager => {
                self.on_raft_message(peer.node, from, to, &bytes);
            }
            Message::Ask { request, ask } if from_manager || allowed_for_worker(&ask) => {
                self.on_ask(peer.node, request, ask);
            }
            Message::Answer { request, result } if from_manager => self.on_answer(request, result),
            Message::NotLeader {
                leader, managers, ..
            } if from_manager => {
                if !managers.is_empty() {
                    self.session.set_managers(&managers);
                }
                let leader = leader.filter(|leader| *leader != peer.node);
                if leader.is_some_and(|leader| self.session.redirect(now, leader)) {
                    self.hasten_requests();
                }
            }
            // Whom this node takes for a manager, and who is none any more, knows better: it is believed as gossip is.
            Message::NotLeader { managers, .. } if self.session.target() == Some(peer.node) => {
                for manager in managers {
                    let at = Some(manager.management);
                    self.session.find(now, manager.node, at);
                }
            }
            Message::Heartbeat { version, epoch } => {
                self.on_heartbeat(peer, version, epoch);
            }
            Message::HeartbeatAck if from_manager => self.session.heard(now, peer.node),
            Message::Assignment(assignment) if from_manager => {
                self.session.heard(now, peer.node);
                self.on_assignment(*assignment);
            }
            Message::AssignmentChange(change) if from_manager => {
                self.session.heard(now, peer.node);
                self.on_assignment_change(peer.node, *change);
            }
            Message::AssignmentLost => {
                if let Some(manager) = &mut self.manager {
                    manager.handle_assignment_lost(now, peer.node);
                }
            }
            Message::Removed if from_manager => self.note_removed(),
            Message::Raft { .. }
            | Message::Ask { .. }
            | Message::Answer { .. }
            | Message::NotLeader { .. }
            | Message::HeartbeatAck
            | Message::Assignment(_)
            | Message::AssignmentChange(_)
            | Message::Removed => {}
        }
    }

    /// Says to the leader that this node is there, when it is time.
    pub(super) fn beat(&mut self) {
        // A manager knows who leads from the consensus, whatever it was told before.
        if let Some(leader) = self.manager.as_ref().and_then(Manager::leader) {
            self.session.redirect(self.now, leader);
        }
        if let Some(target) = self.session.poll_heartbeat(self.now) {
            let (version, epoch) = self
                .agent
                .assignment()
                .map_or((0, 0), |assignment| (assignment.version, assignment.epoch));
            self.send(target, Message::Heartbeat { version, epoch });
            // Managers of a group that came after this one's say whether this node is still part of the cluster.
            for rebuilt in self.rebuilt.clone() {
                self.send(rebuilt, Message::Heartbeat { version, epoch });
            }
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        if to == self.config.node {
            self.loopback.push_back(message);
            return;
        }
        let address = self.address(to);
        let frame = wire::encode(&message);
        self.outputs.push_back(Output::Peer { to, address, frame });
    }

    pub(super) fn send_raft(&mut self, to: RaftId, bytes: Bytes) {
        let Some(manager) = &self.manager else { return };
        let from = manager.raft_id();
        let known = || {
            let managers = self.session.managers().iter();
            managers
                .clone()
                .find(|manager| manager.raft == to)
                .map(|manager| manager.node)
        };
        if let Some(node) = manager.node_of(to).or_else(known) {
            self.send(node, Message::Raft { from, to, bytes });
        }
    }

    fn on_raft_message(&mut self, node: NodeId, from: RaftId, to: RaftId, bytes: &Bytes) {
        let Some(manager) = &mut self.manager else {
            return;
        };
        if !manager.may_speak_for(node, from) {
            // Perhaps one of a group before this one's, which hears of it nowhere else: its gossip keys are outdated.
            let (version, epoch) = (0, manager.epoch());
            // Or one that was removed and does not know: its own log does not say who leads.
            let leads = manager.leads();
            if leads
                && self
                    .state()
                    .is_some_and(|state| !state.nodes().contains_key(&node))
            {
                self.on_stranger(node);
            } else if !leads {
                self.refer(node, None);
            }
            self.send(node, Message::Heartbeat { version, epoch });
        } else if to == manager.raft_id() {
            manager.handle_raft(self.now, from, bytes);
        }
    }

    /// Has a node that is none of the cluster's told so, once it is certain.
    fn on_stranger(&mut self, node: NodeId) {
        if let Some(manager) = &mut self.manager {
            manager.handle_heartbeat(self.now, node, 0);
        }
    }

    fn on_ask(&mut self, from: NodeId, request: RequestId, ask: Ask) {
        let served = match &mut self.manager {
            Some(manager) => manager.serve(self.now, from, request, ask),
            None => Served::NotLeader,
        };
        if served == Served::NotLeader {
            self.refer(from, Some(request));
        }
    }

    fn on_heartbeat(&mut self, Peer { node: from, role }: Peer, version: u64, epoch: u64) {
        let now = self.now;
        if self
            .manager
            .as_ref()
            .is_some_and(|manager| manager.epoch() < epoch)
        {
            // The cluster was rebuilt without this manager. It has nothing to say to whoever knows that, and asks managers of
            // the later group whether it is still part of the cluster.
            if role == Role::Manager {
                self.note_rebuilt(from);
            }
            let (request, leader, managers) = (None, None, Vec::new());
            return self.send(
                from,
                Message::NotLeader {
                    request,
                    leader,
                    managers,
                },
            );
        }
        match &mut self.manager {
            Some(manager) if manager.leads() => {
                if manager.handle_heartbeat(now, from, version) {
                    self.meet(from);
                    self.send(from, Message::HeartbeatAck);
                }
            }
            _ => self.refer(from, None),
        }
    }

    /// Says who leads, as far as this node knows.
    fn refer(&mut self, to: NodeId, request: Option<RequestId>) {
        if to == self.config.node {
            return;
        }
        let (leader, managers) = match &self.manager {
            Some(manager) => (manager.leader(), manager.managers()),
            None => (self.session.target(), self.session.managers().to_vec()),
        };
        self.send(
            to,
            Message::NotLeader {
                request,
                leader,
                managers,
            },
        );
    }

    fn on_assignment(&mut self, assignment: Assignment) {
        self.session.set_managers(&assignment.standing.managers);
        let stale = self
            .agent
            .assignment()
            .is_some_and(|present| present.is_newer(&assignment));
        let (raft, role) = (assignment.standing.raft, assignment.standing.role);
        let (cluster, epoch) = (assignment.cluster, assignment.epoch);
        let said = |agent: &Agent| {
            let standing = agent.assignment().map(|all| &all.standing);
            standing.map(|standing| (standing.zone.clone(), standing.pass.clone()))
        };
        let before = said(&self.agent);
        self.agent.assign(self.now, assignment);
        self.take_keys();
        // How a service is balanced is said by the assignment alone.
        self.plane_dirty = true;
        if !stale {
            self.pace();
            self.take_role(role, raft, cluster, epoch);
        }
        if said(&self.agent) != before {
            self.tell_standing();
        }
    }

    /// Speaks as often as the assignment says.
    pub(super) fn pace(&mut self) {
        let assignment = self.agent.assignment();
        let interval = assignment.and_then(|assignment| assignment.standing.heartbeat_ms);
        let interval = interval.map(Duration::from_millis);
        self.session
            .set_interval(self.now, &self.config.timers, interval);
    }

    fn on_assignment_change(&mut self, from: NodeId, change: AssignmentChange) {
        let present = self.agent.assignment();
        if present.is_some_and(|present| {
            (present.epoch, present.version) >= (change.epoch, change.version)
        }) {
            return;
        }
        match present.and_then(|present| present.changed(change)) {
            Some(next) => self.on_assignment(next),
            None => self.send(from, Message::AssignmentLost),
        }
    }

    /// Becomes a manager or stops being one, as the assignment says.
    pub(super) fn take_role(
        &mut self,
        role: Role,
        raft: Option<RaftId>,
        cluster: NodeId,
        epoch: u64,
    ) {
        let present = self.manager.as_ref().map(Manager::raft_id);
        if present == raft {
            return;
        }
        // Before the log: after a crash between the two the role that was written down is taken again.
        self.remember();
        if present.is_some() {
            self.manager = None;
            self.outputs.push_back(Output::CloseLog);
        }
        if let Some(raft) = raft {
            self.outputs.push_back(Output::OpenLog { raft, epoch });
            // No two parts draw the same: a ticket of the one must not be taken by the other.
            let seed = self.seed.derive(&format!("part {raft}"));
            let boot = ManagerBoot {
                raft,
                cluster,
                epoch,
                restored: Restored::joining(),
            };
            self.manager = Manager::new(self.config.clone(), boot, &seed, self.now).ok();
        }
        self.tell_standing();
        self.outputs
            .push_back(Output::Event(Event::RoleChanged { role }));
    }

    fn address(&self, node: NodeId) -> Option<std::net::SocketAddr> {
        let in_state = || {
            let state = self.state()?;
            let record = state.nodes().get(&node).filter(|node| node.raft.is_some());
            let mut former = state.former().values().filter(|part| part.node == node);
            record
                .map(NodeRecord::management)
                .or_else(|| former.next().map(|part| part.management))
        };
        in_state().or_else(|| self.session.address(node))
    }
}

/// Returns the number that stands for a cluster on each consensus message, since it was rebuilt from a survivor `epoch`
/// times: members of a former group are not understood.
pub fn group(cluster: NodeId, epoch: u64) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *cluster.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).wrapping_add(epoch)
}
