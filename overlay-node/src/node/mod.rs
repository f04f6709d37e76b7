//! The node: every part put together, as one machine.

mod boot;
mod drain;
mod gossip;
mod inputs;
mod names;
mod networks;
mod output;
mod peers;
mod requests;
mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use overlay_core::{EndpointId, Instant, Machine, NodeId, Rng, Seed, plane::Desired};
use overlay_dns::Resolver;
use overlay_gossip::{Gossip, Member, MemberState};
use overlay_lb::Drains;
use overlay_raft::RestoreError;
use thiserror::Error;

use crate::{
    Config,
    agent::{Agent, ServiceNames, Session},
    api::Role,
    identity::{NodeKey, Pairs},
    manager::{Action, Manager},
    state::{Cluster, ClusterState, RequestId},
    wire::Message,
};
pub use boot::{Beginning, Boot, ManagerBoot};
use names::Names;
pub use output::{Event, Output, Reply};
pub use peers::group;
use requests::{Attaching, Pending};

/// Names a local request; drawn by the caller, given back with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestToken(pub u64);

/// Who is at the other end of a management session, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
}

/// A node could not be made.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum NodeError {
    /// What the disk holds does not fit together.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// A node of a cluster: manager and agent, gossip, names, as one machine.
#[derive(Debug)]
pub struct Node {
    config: Config,
    now: Instant,
    seed: Seed,
    rng: Rng,
    manager: Option<Manager>,
    agent: Agent,
    session: Session,
    gossip: Option<Gossip>,
    names: Names,
    pending: BTreeMap<RequestId, Pending>,
    attaching: BTreeMap<EndpointId, Attaching>,
    loopback: VecDeque<Message>,
    outputs: VecDeque<Output>,
    plane: Arc<Desired>,
    plane_dirty: bool,
    /// How many data planes were ordered, and the last of these that the system carries.
    ordered: u64,
    carried: u64,
    /// What the resolver was told of services.
    services: ServiceNames,
    removed: bool,
    /// Whether the leader was told what this node is.
    described: bool,
    /// Managers of a group that came after this one's, as gossip says.
    rebuilt: BTreeSet<NodeId>,
    /// The request that carries what was reported of tasks last.
    reporting: Option<RequestId>,
    /// The endpoints here that take no new flows, and who may still have some to them.
    drains: Drains,
    /// By which it signs what it says of itself, and how often it has done so in this life.
    key: Option<NodeKey>,
    said: u32,
    /// The keys of encrypted networks.
    pairs: Pairs,
    /// Flows that somebody wants counted, once the data plane is what it shall be.
    counts: Vec<(NodeId, EndpointId)>,
}

impl Node {
    /// Makes a node from what it begins with.
    ///
    /// # Errors
    ///
    /// [`NodeError::Restore`] if the log and its hard state contradict each other.
    pub fn new(config: Config, seed: Seed, now: Instant, boot: Boot) -> Result<Self, NodeError> {
        let manager = boot
            .manager
            .map(|boot| Manager::new(config.clone(), boot, &seed, now))
            .transpose()?;
        let mut session = Session::new(config.node, &config.timers, now);
        for (node, address) in boot.seeds {
            session.add_seed(node, address);
        }
        let agent = Agent::new(config.clone(), boot.memory, now);
        if let Some(assignment) = agent.assignment() {
            session.set_managers(&assignment.standing.managers);
        }
        let resolver = Resolver::new(overlay_dns::Config::default(), seed.derive("dns"), now);
        let names = Names::new(resolver, &seed.derive("names"));
        let key = NodeKey::new(&config.key);
        let pairs = Pairs::new(&seed.derive("exchange"));
        let mut node = Self {
            rng: seed.derive("node").rng(),
            config,
            now,
            seed,
            manager,
            agent,
            session,
            gossip: None,
            names,
            pending: BTreeMap::new(),
            attaching: BTreeMap::new(),
            loopback: VecDeque::new(),
            outputs: VecDeque::new(),
            plane: Arc::default(),
            plane_dirty: true,
            ordered: 0,
            carried: 0,
            services: ServiceNames::new(),
            removed: false,
            described: false,
            rebuilt: BTreeSet::new(),
            reporting: None,
            drains: Drains::new(drain::CONFIG, now),
            counts: Vec::new(),
            key,
            said: 0,
            pairs,
        };
        node.pace();
        // It may have stopped after its new role was written down and before its log was.
        if let Some(assignment) = node.agent.assignment() {
            let (role, raft) = (assignment.standing.role, assignment.standing.raft);
            let (cluster, epoch) = (assignment.cluster, assignment.epoch);
            node.take_role(role, raft, cluster, epoch);
        }
        node.settle();
        Ok(node)
    }

    /// Returns how this node takes part in its cluster.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the cluster state as this manager applied it.
    pub fn state(&self) -> Option<&ClusterState> {
        self.manager.as_ref().map(Manager::state)
    }

    /// Returns what is true of the cluster as a whole, on a manager that has applied it.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.state()?.cluster()
    }

    /// Returns the leader, as far as it is known.
    pub fn leader(&self) -> Option<NodeId> {
        match &self.manager {
            Some(manager) => manager.leader(),
            None => self.session.target(),
        }
    }

    /// Returns whether a node is one of the cluster's: by the state, where this node has it, and else by gossip, of whose keys
    /// a node that was removed has none after seconds.
    pub fn is_member(&self, node: NodeId) -> bool {
        if let Some(state) = self.state().filter(|state| state.cluster().is_some()) {
            return state.nodes().contains_key(&node);
        }
        let mut managers = self.session.managers().iter();
        let is_there = |member: &Member| {
            matches!(member.state, MemberState::Alive | MemberState::Suspect)
                && member.name.parse() == Ok(node)
        };
        let mut members = self.gossip.iter().flat_map(Gossip::members);
        managers.any(|manager| manager.node == node) || members.any(is_there)
    }

    /// Returns whether this node leads.
    pub fn leads(&self) -> bool {
        self.manager.as_ref().is_some_and(Manager::leads)
    }

    /// Returns the consensus, for checks and figures.
    pub fn raft(&self) -> Option<&overlay_raft::Raft> {
        self.manager.as_ref().map(Manager::raft)
    }

    /// Returns the gossip, for checks and figures.
    pub fn gossip(&self) -> Option<&Gossip> {
        self.gossip.as_ref()
    }

    /// Returns how many local requests wait for an answer.
    pub fn pending(&self) -> usize {
        self.pending.len() + self.attaching.len()
    }

    /// Returns the data plane as it shall be.
    pub fn desired(&self) -> &Arc<Desired> {
        &self.plane
    }

    /// Returns the endpoints that run here.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        let networks = self.plane.networks.values();
        networks.flat_map(|network| network.ports.keys().copied())
    }

    /// Returns what was assigned to this node last.
    pub fn assignment(&self) -> Option<&crate::agent::Assignment> {
        self.agent.assignment()
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    fn with_gossip(&mut self, now: Instant, act: impl FnOnce(&mut Gossip, Instant)) {
        self.advance(now);
        if let Some(gossip) = &mut self.gossip {
            act(gossip, self.now);
        }
        self.settle();
    }

    /// Brings the data plane in line with what every child says, until that makes no further endpoint ready.
    fn settle(&mut self) {
        loop {
            self.drain_children();
            self.remember();
            self.settle_plane();
            if !self.agent.settle_ports(self.ordered, self.carried) {
                break;
            }
        }
        for (asker, endpoint) in std::mem::take(&mut self.counts) {
            self.outputs
                .push_back(Output::CountFlows { asker, endpoint });
        }
    }

    /// Drains every child in a fixed order, until none has anything to say and nothing is due.
    fn drain_children(&mut self) {
        loop {
            let before = self.outputs.len();
            // A change of leader makes these due at once: they come before the next deadline is told.
            self.beat();
            self.retry_requests();
            self.return_orphans();
            let mut quiet = self.loopback.is_empty();
            while let Some(message) = self.loopback.pop_front() {
                let peer = Peer {
                    node: self.config.node,
                    role: self.role(),
                };
                self.on_message(peer, message);
            }
            while let Some(action) = self.manager.as_mut().and_then(Manager::poll_action) {
                quiet = false;
                self.on_manager(action);
            }
            // Before it is carried out: what is made and not remembered would be found by nobody.
            self.remember();
            while let Some(wish) = self.agent.poll_wish() {
                quiet = false;
                self.on_wish(wish);
            }
            self.start_gossip();
            while let Some(output) = self.gossip.as_mut().and_then(Machine::poll_output) {
                quiet = false;
                self.on_gossip(output);
            }
            while let Some(output) = self.drains.poll_output() {
                quiet = false;
                self.on_drain(output);
            }
            while let Some(output) = self.names.resolver.poll_output() {
                self.outputs.push_back(Output::Dns(output));
            }
            self.report_tasks();
            self.describe_self();
            self.settle_attaching();
            if quiet && self.outputs.len() == before && self.loopback.is_empty() {
                break;
            }
        }
    }

    pub(super) fn remember(&mut self) {
        if let Some(memory) = self.agent.poll_memory() {
            self.outputs.push_back(Output::Remember(Box::new(memory)));
        }
    }

    fn on_manager(&mut self, action: Action) {
        match action {
            Action::Raft { to, bytes } => self.send_raft(to, bytes),
            Action::Persist(batch) => self.outputs.push_back(Output::Persist(batch)),
            Action::Answer {
                to,
                request,
                result,
            } => {
                self.send(to, Message::Answer { request, result });
            }
            Action::Send { to, message } => self.send(to, message),
            Action::LeaderChanged => {
                let leader = self.leader();
                if let Some(leader) = leader {
                    self.session.redirect(self.now, leader);
                }
                self.hasten_requests();
                self.outputs
                    .push_back(Output::Event(Event::LeaderChanged { leader }));
            }
            Action::Failed => self.outputs.push_back(Output::Event(Event::Failed)),
        }
    }

    fn gossip_do(&mut self, act: impl FnOnce(&mut Gossip)) {
        self.start_gossip();
        if let Some(gossip) = &mut self.gossip {
            act(gossip);
        }
    }

    fn role(&self) -> Role {
        if self.manager.is_some() {
            Role::Manager
        } else {
            Role::Worker
        }
    }
}

impl Machine for Node {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        let now = self.now;
        if let Some(manager) = &mut self.manager {
            manager.handle_timeout(now);
        }
        self.agent.handle_timeout(now);
        if let Some(gossip) = &mut self.gossip {
            gossip.handle_timeout(now);
        }
        self.names.resolver.handle_timeout(now);
        self.drains.handle_timeout(now);
        self.settle();
        while let Some(manager) = &mut self.manager
            && manager.is_unsettled(now)
        {
            manager.handle_timeout(now);
            self.settle();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        [
            self.manager.as_ref().and_then(Manager::poll_timeout),
            self.agent.poll_timeout(),
            self.gossip.as_ref().and_then(Machine::poll_timeout),
            self.names.resolver.poll_timeout(),
            self.drains.poll_timeout(),
            Some(self.session.poll_timeout()),
            self.next_retry(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}
