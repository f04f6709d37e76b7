//! One simulated host: a node, its log on a simulated disk, its frame path, and endpoints without an operating system.

mod life;
mod tasks;
mod traffic;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use overlay_core::{
    Disk as _, EndpointId, Instant, Machine, NetworkId, NodeId, Seed, TaskId, plane::PortSpec,
};
use overlay_raft::{PersistTicket, storage::Log};
use overlay_sim::{Boot, Channel, Host, HostId, Outbox, SimDisk};
use overlay_vxlan::PortId;

use self::{
    life::{IDENTITY, Identity, LEFT, MEMORY, RECOVER, read},
    tasks::Tasks,
    traffic::host,
};
use super::{Options, packet::Packet};
use crate::{
    Beginning, Event, Node, Output, Peer, Reply, RequestToken,
    agent::TaskReport,
    api,
    plane::{EchoReply, Endpoint, Plane, Sealing},
};

/// What a host does.
#[derive(Debug)]
pub enum Effect {
    /// What its node asked for.
    Node(Box<Output>),
    /// Send a packet to a host.
    Send(HostId, Channel, Vec<u8>),
    /// A write finishes.
    Written(Box<PersistTicket>, bool),
    /// A task gets so far after a while.
    Task(Duration, Box<TaskReport>),
    /// Stop: what a daemon does when its disk fails.
    Exit,
}

/// One simulated host.
#[derive(Debug)]
pub struct SimHost {
    host: HostId,
    options: Options,
    seed: Seed,
    now: Instant,
    disk: SimDisk,
    identity: Option<Identity>,
    node: Option<Node>,
    log: Option<Log<SimDisk>>,
    plane: Plane,
    sealing: Sealing,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    ports: BTreeMap<PortId, EndpointId>,
    lines: BTreeMap<NodeId, HostId>,
    accepted: BTreeMap<(HostId, u64), u64>,
    dialled: BTreeMap<u64, HostId>,
    next: u64,
    tickets: BTreeMap<u64, (PersistTicket, bool)>,
    tasks: Tasks,
    joining: BTreeMap<RequestToken, HostId>,
    /// The request to leave.
    leaving: Option<u64>,
    join_at: Option<Instant>,
    join_tries: usize,
    drawn: NodeId,
    effects: VecDeque<Effect>,
    replies: BTreeMap<u64, Result<Reply, api::Error>>,
    answers: VecDeque<Vec<u8>>,
    echoes: VecDeque<EchoReply>,
}

impl SimHost {
    pub(super) fn boot(options: &Options, boot: Boot<'_>) -> Self {
        let Boot {
            host,
            disk,
            now,
            seed,
            life,
            ..
        } = boot;
        let drawn = NodeId::random(&mut seed.derive("identity").rng());
        let mut sim = Self {
            host,
            options: options.clone(),
            plane: Plane::new(seed.derive("plane")),
            sealing: Sealing::new(seed.derive("sealing")),
            seed,
            now,
            disk,
            identity: None,
            node: None,
            log: None,
            endpoints: BTreeMap::new(),
            ports: BTreeMap::new(),
            lines: BTreeMap::new(),
            accepted: BTreeMap::new(),
            dialled: BTreeMap::new(),
            // No number of an earlier life comes again: its answers must not be taken for new ones.
            next: (life + 1) << 32,
            tickets: BTreeMap::new(),
            tasks: Tasks::default(),
            joining: BTreeMap::new(),
            leaving: None,
            join_at: None,
            join_tries: 0,
            drawn,
            effects: VecDeque::new(),
            replies: BTreeMap::new(),
            answers: VecDeque::new(),
            echoes: VecDeque::new(),
        };
        sim.identity = read(&sim.disk, IDENTITY);
        let rebuilds = sim.disk.read(RECOVER).is_ok() && sim.forget(RECOVER);
        match sim.identity.clone() {
            Some(identity) if rebuilds => sim.start(identity, Beginning::Recover),
            Some(identity) => sim.start(identity, Beginning::Resume),
            // It founds the cluster once; after it left, it joins like any other.
            None if host.0 == 0 && sim.disk.read(LEFT).is_err() => sim.initialize(),
            None => sim.join_at = Some(now),
        }
        sim
    }

    /// Returns its node, once it is part of the cluster.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Returns its frame path.
    pub fn plane(&self) -> &Plane {
        &self.plane
    }

    /// Returns the endpoints that run here.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.endpoints.keys().copied()
    }

    /// Returns the tasks that run here.
    pub fn running(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.tasks.running()
    }

    /// Asks its node for something; [`take_reply`](Self::take_reply) has the answer later.
    pub fn request(&mut self, now: Instant, request: api::Request) -> Option<u64> {
        self.now = self.now.max(now);
        self.next += 1;
        let token = self.next;
        if matches!(request, api::Request::Leave { .. }) {
            self.leaving = Some(token);
        }
        self.node
            .as_mut()?
            .request(now, RequestToken(token), request);
        Some(token)
    }

    /// Has its next life rebuild the cluster from its disk, with it as the only manager. It ends this life.
    pub fn force_new_cluster(&mut self) {
        if self.save(RECOVER, &()) {
            self.effects.push_back(Effect::Exit);
        }
    }

    /// Has this host hand leadership over, if it leads.
    pub fn step_aside(&mut self, now: Instant) {
        if let Some(node) = &mut self.node {
            node.step_aside(now);
        }
    }

    /// Has its node say that it is on a network on which it has no endpoint.
    pub fn claim_network(&mut self, now: Instant, network: NetworkId) {
        if let Some(node) = &mut self.node {
            node.claim_network(now, network);
        }
    }

    /// Takes the answer to a request.
    pub fn take_reply(&mut self, token: u64) -> Option<Result<Reply, api::Error>> {
        self.replies.remove(&token)
    }

    /// Returns whether the answer to a request is there.
    pub fn has_reply(&self, token: u64) -> bool {
        self.replies.contains_key(&token)
    }

    /// Hands its node a frame, as if `peer` had sent it over a session that its certificate opened.
    pub fn receive(&mut self, now: Instant, peer: Peer, frame: &[u8]) {
        self.now = self.now.max(now);
        if let Some(node) = &mut self.node {
            // A malformed one ends a session, of which there is none here.
            let _ = node.handle_peer(now, peer, frame);
        }
    }

    /// Sends a DNS message from an endpoint to its resolver.
    pub fn query(&mut self, now: Instant, endpoint: EndpointId, message: &[u8]) {
        self.now = self.now.max(now);
        self.next += 1;
        let (token, transport) = (
            overlay_dns::QueryToken(self.next),
            overlay_dns::Transport::Udp,
        );
        if let Some(node) = &mut self.node {
            // A query that is refused gets no answer, as over a socket.
            let _ = node.handle_query(now, endpoint, token, transport, message);
        }
    }

    /// Takes the oldest answer of the resolver.
    pub fn take_answer(&mut self) -> Option<Vec<u8>> {
        self.answers.pop_front()
    }

    /// Sends an echo request from an endpoint.
    pub fn ping(&mut self, now: Instant, from: EndpointId, to: Ipv4Addr, sequence: u16) {
        self.now = self.now.max(now);
        if let Some(endpoint) = self.endpoints.get_mut(&from) {
            endpoint.ping(to, sequence);
        }
        self.pump();
    }

    /// Takes the oldest echo reply that an endpoint of this host got.
    pub fn take_echo(&mut self) -> Option<EchoReply> {
        self.echoes.pop_front()
    }

    /// Returns whether an echo reply arrived.
    pub fn has_echo(&self) -> bool {
        !self.echoes.is_empty()
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Peer { to, address, frame } => {
                let known = self.lines.get(&to).copied();
                let Some(to) = address.and_then(|address| host(address.ip())).or(known) else {
                    return;
                };
                let Some(identity) = &self.identity else {
                    return;
                };
                let (node, manager) = (identity.node, identity.raft.is_some());
                self.send(
                    to,
                    Channel::Stream,
                    &Packet::Peer {
                        node,
                        manager,
                        frame,
                    },
                );
            }
            Output::Persist(batch) => {
                let (write, ticket) = batch.into_parts();
                let written = self.log.as_mut().map(|log| log.write(&write));
                let durable = matches!(written, Some(Ok(())));
                self.effects
                    .push_back(Effect::Written(Box::new(ticket), durable));
            }
            Output::OpenLog { raft, epoch } => self.change_log(Some((raft, epoch))),
            Output::CloseLog => self.change_log(None),
            Output::Remember(memory) => {
                self.save(MEMORY, &*memory);
            }
            Output::Gossip(output) => self.on_gossip(*output),
            Output::Dns(output) => {
                if let overlay_dns::Output::Answer { bytes, .. } = output {
                    self.answers.push_back(bytes);
                }
            }
            Output::CreatePort(spec) => self.create_port(&spec),
            Output::RemovePort(endpoint) => {
                self.endpoints.remove(&endpoint);
                self.connect();
            }
            Output::StartTask(order) => self.start_task(*order),
            Output::StopTask(task, _) => self.stop_task(task),
            Output::CountFlows { asker, endpoint } => {
                let flows = self.plane.flows_left(endpoint);
                if let Some(node) = &mut self.node {
                    node.handle_flows(self.now, asker, endpoint, flows);
                }
            }
            Output::Plane { desired, .. } => {
                self.sealing.apply(&desired);
                self.plane.apply(self.now, &desired);
                self.connect();
            }
            Output::Reply { token, result } => self.on_reply(token, result),
            Output::Event(Event::Failed) => self.effects.push_back(Effect::Exit),
            Output::Event(Event::Removed) => self.leave(),
            Output::CloseResolver(_) | Output::Publish(_) | Output::Event(_) => {}
        }
    }

    fn create_port(&mut self, spec: &PortSpec) {
        let v4 = spec
            .addresses
            .iter()
            .find_map(|address| match address.addr() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
        if let Some(address) = v4 {
            self.endpoints
                .insert(spec.endpoint, Endpoint::new(spec.mac, address));
        }
        self.connect();
        if let Some(node) = &mut self.node {
            node.handle_port(self.now, spec.endpoint, Ok(()));
        }
    }

    fn on_reply(&mut self, token: RequestToken, result: Result<Reply, api::Error>) {
        if token == RequestToken(INIT) {
            if let (Ok(_), Some(identity)) = (result, self.identity.clone()) {
                self.save(IDENTITY, &identity);
            }
        } else if let Some(to) = self.joining.remove(&token) {
            if let Ok(Reply::Admitted(assignment)) = result {
                self.send(to, Channel::Stream, &Packet::Admitted(assignment));
            }
        } else {
            if self.leaving == Some(token.0) && result.is_ok() {
                self.leave();
            }
            self.replies.insert(token.0, result);
        }
    }
}

impl Machine for SimHost {
    type Output = Effect;

    fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.join_at.is_some_and(|at| at <= self.now) {
            self.ask_to_join();
        }
        if let Some(node) = &mut self.node {
            // Certificates are not simulated: a host has the one that it shall have.
            if let Some(issuer) = node.assignment().map(|all| all.standing.issuer) {
                node.handle_certificate(self.now, issuer);
            }
            node.handle_timeout(self.now);
        }
        self.expire_flows();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if !self.effects.is_empty() {
            return Some(self.now);
        }
        self.node
            .as_ref()
            .and_then(Machine::poll_timeout)
            .into_iter()
            .chain(self.join_at)
            .chain(self.plane.poll_timeout())
            .min()
    }

    fn poll_output(&mut self) -> Option<Effect> {
        self.effects.pop_front().or_else(|| {
            let output = self.node.as_mut()?.poll_output()?;
            Some(Effect::Node(Box::new(output)))
        })
    }
}

impl Host for SimHost {
    fn deliver(&mut self, now: Instant, from: HostId, _channel: Channel, bytes: &[u8]) {
        self.now = self.now.max(now);
        if let Some(packet) = Packet::decode(bytes) {
            self.on_packet(from, packet);
        }
    }

    fn route(&mut self, now: Instant, output: Effect, outbox: &mut Outbox) {
        self.now = self.now.max(now);
        match output {
            Effect::Node(output) => self.on_output(*output),
            Effect::Send(to, channel, bytes) => outbox.send(to, channel, bytes),
            Effect::Written(ticket, durable) => {
                self.next += 1;
                let delay = outbox.rng().duration(self.options.write_delay.clone());
                self.tickets.insert(self.next, (*ticket, durable));
                outbox.after(delay, self.next);
            }
            Effect::Task(delay, report) => {
                self.next += 1;
                self.tasks.delay(self.next, *report);
                outbox.after(delay, self.next);
            }
            Effect::Exit => outbox.exit(),
        }
    }

    fn handle_deferred(&mut self, now: Instant, token: u64) {
        self.now = self.now.max(now);
        if self.on_task(token) {
            return;
        }
        let (Some((ticket, durable)), Some(node)) = (self.tickets.remove(&token), &mut self.node)
        else {
            return;
        };
        if durable {
            node.handle_persisted(now, ticket);
        } else {
            node.handle_persist_failed(now, ticket);
        }
    }
}

/// Token of the request that makes the cluster.
const INIT: u64 = 1;
