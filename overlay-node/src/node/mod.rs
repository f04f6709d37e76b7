//! The node: every part put together, as one machine.

mod boot;
mod drain;
mod gossip;
mod networks;
mod output;
mod peers;
mod requests;
mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use overlay_core::{
    EndpointId, Instant, Machine, NodeId, Rng, Seed,
    plane::{Desired, PlatformError},
};
use overlay_dns::{QueryError, QueryToken, Resolver, Transport, UpstreamToken};
use overlay_gossip::{Gossip, StreamId};
use overlay_lb::Drains;
use overlay_raft::{PersistTicket, RestoreError};
use thiserror::Error;

use crate::{
    Config,
    agent::{Agent, ServiceNames, Session, TaskReport},
    api::Role,
    manager::{Action, Manager},
    state::{Cluster, ClusterState, RequestId},
    wire::Message,
};
pub use boot::{Beginning, Boot, ManagerBoot};
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
    resolver: Resolver,
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
        let mut node = Self {
            rng: seed.derive("node").rng(),
            config,
            now,
            seed,
            manager,
            agent,
            session,
            gossip: None,
            resolver,
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

    /// Takes the driver's word that a write is durable, and with it all earlier ones.
    pub fn handle_persisted(&mut self, now: Instant, ticket: PersistTicket) {
        self.advance(now);
        if let Some(manager) = &mut self.manager {
            manager.handle_persisted(self.now, ticket);
        }
        self.settle();
    }

    /// Takes the driver's word that a write failed. The manager's part stops: rebuild the node from what the disk holds.
    pub fn handle_persist_failed(&mut self, now: Instant, ticket: PersistTicket) {
        self.advance(now);
        if let Some(manager) = &mut self.manager {
            manager.handle_persist_failed(self.now, ticket);
        }
        self.settle();
    }

    /// Takes the driver's word on a port that [`Output::CreatePort`] asked for.
    pub fn handle_port(
        &mut self,
        now: Instant,
        endpoint: EndpointId,
        result: Result<(), PlatformError>,
    ) {
        self.advance(now);
        self.take_port(endpoint, result);
        self.settle();
    }

    /// Takes the MTU that the underlay has by now, in octets.
    pub fn handle_underlay_mtu(&mut self, now: Instant, mtu: u16) {
        self.advance(now);
        self.agent.set_underlay_mtu(mtu);
        self.plane_dirty = true;
        self.settle();
    }

    /// Takes the driver's word that the system carries what it can of the data plane that was ordered with this number. An
    /// endpoint whose frames the system carries is ready only then.
    pub fn handle_plane(&mut self, now: Instant, number: u64) {
        self.advance(now);
        self.carried = self.carried.max(number.min(self.ordered));
        self.settle();
    }

    fn take_port(&mut self, endpoint: EndpointId, result: Result<(), PlatformError>) {
        if let Err(error) = &result {
            let error = error.clone();
            self.outputs
                .push_back(Output::Event(Event::PortFailed { endpoint, error }));
        }
        self.agent.handle_port(self.now, endpoint, result);
        self.plane_dirty = true;
    }

    /// Takes the word of whoever runs the tasks that [`Output::StartTask`] and [`Output::StopTask`] were about.
    pub fn handle_task(&mut self, now: Instant, report: TaskReport) {
        self.advance(now);
        self.agent.handle_task(report);
        self.settle();
    }

    /// Lets go of everything that was assigned to this node, as it has left its cluster or was removed from it.
    pub fn disband(&mut self, now: Instant) {
        self.advance(now);
        self.agent.disband(self.now);
        self.settle();
    }

    /// Returns whether the managers said that this node is none of the cluster's any more.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// Takes a query that an endpoint sent to its resolver.
    ///
    /// # Errors
    ///
    /// [`QueryError`] if nobody will answer it: the driver forgets `token`.
    pub fn handle_query(
        &mut self,
        now: Instant,
        client: EndpointId,
        token: QueryToken,
        transport: Transport,
        bytes: &[u8],
    ) -> Result<(), QueryError> {
        self.advance(now);
        self.resolver
            .handle_query(self.now, client, token, transport, bytes)?;
        self.settle();
        Ok(())
    }

    /// Takes the answer of an upstream server.
    pub fn handle_upstream(
        &mut self,
        now: Instant,
        upstream: UpstreamToken,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        self.advance(now);
        let _ = self
            .resolver
            .handle_upstream(self.now, upstream, from, bytes);
        self.settle();
    }

    /// Takes the driver's word that an upstream server could not be asked.
    pub fn handle_upstream_failed(&mut self, now: Instant, upstream: UpstreamToken) {
        self.advance(now);
        let _ = self.resolver.handle_upstream_failed(self.now, upstream);
        self.settle();
    }

    /// Says which servers know foreign names.
    pub fn set_upstreams(&mut self, now: Instant, upstreams: Vec<SocketAddr>) {
        self.advance(now);
        self.resolver.set_upstreams(self.now, upstreams);
        self.settle();
    }

    /// Takes a gossip datagram. Malformed ones are counted and dropped.
    pub fn handle_gossip_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.with_gossip(now, |gossip, now| {
            let _ = gossip.handle_datagram(now, from, bytes);
        });
    }

    /// Takes a gossip stream that somebody dialled.
    pub fn handle_stream_opened(&mut self, now: Instant, stream: StreamId, from: SocketAddr) {
        self.with_gossip(now, |gossip, now| {
            gossip.handle_stream_opened(now, stream, from)
        });
    }

    /// Takes the driver's word that a stream it was told to dial stands.
    pub fn handle_stream_connected(&mut self, now: Instant, stream: StreamId) {
        self.with_gossip(now, |gossip, now| {
            gossip.handle_stream_connected(now, stream)
        });
    }

    /// Takes octets of a gossip stream.
    pub fn handle_stream_data(&mut self, now: Instant, stream: StreamId, bytes: &[u8]) {
        self.with_gossip(now, |gossip, now| {
            gossip.handle_stream_data(now, stream, bytes)
        });
    }

    /// Takes the end of a gossip stream, whoever ended it.
    pub fn handle_stream_closed(&mut self, now: Instant, stream: StreamId) {
        self.with_gossip(now, |gossip, now| gossip.handle_stream_closed(now, stream));
    }

    /// Hands leadership to another manager, if this node leads and there is one: do so before stopping.
    pub fn step_aside(&mut self, now: Instant) {
        self.advance(now);
        if let Some(manager) = &mut self.manager {
            manager.step_aside(self.now);
        }
        self.settle();
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

    /// Returns the data plane as it shall be.
    pub fn plane(&self) -> &Arc<Desired> {
        &self.plane
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
            while let Some(output) = self.resolver.poll_output() {
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
        self.resolver.handle_timeout(now);
        self.drains.handle_timeout(now);
        self.settle();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        [
            self.manager.as_ref().and_then(Manager::poll_timeout),
            self.agent.poll_timeout(),
            self.gossip.as_ref().and_then(Machine::poll_timeout),
            self.resolver.poll_timeout(),
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
