//! One simulated host: a node, its log on a simulated disk, its frame path, and endpoints without an operating system.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use overlay_core::{Disk as _, DiskError, EndpointId, Instant, Machine, NodeId, Seed};
use overlay_gossip::{Output as GossipOutput, StreamId};
use overlay_raft::{
    PersistTicket, RaftId, Restored,
    storage::{Log, StorageConfig},
};
use overlay_sim::{Boot, Channel, Host, HostId, Outbox, SimDisk};
use overlay_vxlan::{Frame, PortId, Sink};
use serde::{Deserialize, Serialize};

use super::{Options, packet::Packet};
use crate::{
    Boot as NodeBoot, Config, Event, ManagerBoot, Node, Output, Peer, Reply, RequestToken,
    agent::{AgentMemory, Assignment},
    api::{self, Role},
    group,
    plane::{EchoReply, Endpoint, Plane},
    state::{AddNode, ClusterSeed},
};

/// Who a host is, as its disk holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Identity {
    node: NodeId,
    cluster: NodeId,
    raft: Option<RaftId>,
    seeds: Vec<(NodeId, SocketAddr)>,
}

/// What a host does.
#[derive(Debug)]
pub enum Effect {
    /// What its node asked for.
    Node(Box<Output>),
    /// Send a packet to a host.
    Send(HostId, Channel, Vec<u8>),
    /// A write finishes.
    Written(Box<PersistTicket>, bool),
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
    endpoints: BTreeMap<EndpointId, Endpoint>,
    ports: BTreeMap<PortId, EndpointId>,
    lines: BTreeMap<NodeId, HostId>,
    accepted: BTreeMap<(HostId, u64), u64>,
    dialled: BTreeMap<u64, HostId>,
    next: u64,
    tickets: BTreeMap<u64, (PersistTicket, bool)>,
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
        match sim.identity.clone() {
            Some(identity) => sim.start(identity, None),
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

    fn initialize(&mut self) {
        let config = self.config(self.drawn);
        let mut rng = self.options.seed.derive("cluster").rng();
        let mut first = ClusterSeed::generate(&mut rng, &config, String::new(), String::new());
        // Every life of the first host makes the same cluster until it is on its disk.
        first.worker_token = self.options.token();
        let raft = RaftId::new(1).expect("one is not zero");
        let identity = Identity {
            node: self.drawn,
            cluster: first.id,
            raft: Some(raft),
            seeds: Vec::new(),
        };
        if self.clear_log().is_err() {
            return self.effects.push_back(Effect::Exit);
        }
        self.start(identity, Some(raft));
        if let Some(node) = &mut self.node {
            node.initialize(self.now, RequestToken(INIT), first);
        }
    }

    fn start(&mut self, identity: Identity, first: Option<RaftId>) {
        let manager = match identity.raft {
            None => None,
            Some(raft) => {
                let opened = Log::open(self.disk.clone(), StorageConfig::default());
                let Ok((log, found)) = opened else {
                    return self.effects.push_back(Effect::Exit);
                };
                self.log = Some(log);
                let restored = match first {
                    _ if !found.is_empty() => found,
                    Some(first) => Restored::bootstrap([first]),
                    None => Restored::joining(),
                };
                Some(ManagerBoot {
                    raft,
                    group: group(identity.cluster),
                    restored,
                })
            }
        };
        let memory = read(&self.disk, MEMORY).unwrap_or_default();
        let boot = NodeBoot {
            memory,
            manager,
            seeds: identity.seeds.clone(),
        };
        let config = self.config(identity.node);
        match Node::new(config, self.seed.derive("node"), self.now, boot) {
            Ok(node) => self.node = Some(node),
            // What the disk holds contradicts itself: a host that never comes up fails every test.
            Err(_) => return self.effects.push_back(Effect::Exit),
        }
        self.identity = Some(identity);
    }

    fn config(&self, node: NodeId) -> Config {
        let mut config = Config::new(node, format!("host{}", self.host.0), address(self.host));
        config.timers = self.options.timers;
        config.snapshot_interval = self.options.snapshot_interval;
        config
    }

    fn save<T: Serialize>(&mut self, name: &str, value: &T) -> bool {
        let bytes = postcard::to_allocvec(value).expect("every part serializes");
        let new = format!("{name}.new");
        let mut write = || -> Result<(), DiskError> {
            if self.disk.read(&new).is_ok() {
                self.disk.remove(&new)?;
            }
            self.disk.append(&new, &bytes)?;
            self.disk.sync(&new)?;
            self.disk.rename(&new, name)?;
            self.disk.sync_directory()
        };
        let written = write().is_ok();
        if !written {
            self.effects.push_back(Effect::Exit);
        }
        written
    }

    fn clear_log(&mut self) -> Result<(), DiskError> {
        self.log = None;
        for name in self.disk.list()? {
            if name != IDENTITY && name != MEMORY && name != LEFT {
                self.disk.remove(&name)?;
            }
        }
        self.disk.sync_directory()
    }

    fn ask_to_join(&mut self) {
        self.join_at = Some(self.now + JOIN_RETRY);
        let node = AddNode::new(&self.config(self.drawn), Role::Worker);
        let node = AddNode {
            role: self.options.role(self.host),
            ..node
        };
        // Any host may answer; those that are no managers refuse.
        let to = HostId(self.join_tries % self.options.hosts.max(1));
        self.join_tries += 1;
        self.send(to, Channel::Stream, &Packet::Join(node));
    }

    fn on_admitted(&mut self, assignment: Assignment) {
        if self.node.is_some() {
            return;
        }
        let node = self.drawn;
        let managers = assignment
            .managers
            .iter()
            .filter(|manager| manager.node != node);
        let identity = Identity {
            node,
            cluster: assignment.cluster,
            raft: assignment.raft,
            seeds: managers
                .map(|manager| (manager.node, manager.management))
                .collect(),
        };
        let memory = AgentMemory {
            assignment: Some(assignment),
            ..AgentMemory::default()
        };
        let cleared = self.clear_log().is_ok();
        if cleared && self.save(MEMORY, &memory) && self.save(IDENTITY, &identity) {
            self.join_at = None;
            self.start(identity, None);
        } else {
            self.effects.push_back(Effect::Exit);
        }
    }

    fn send(&mut self, to: HostId, channel: Channel, packet: &Packet) {
        self.effects
            .push_back(Effect::Send(to, channel, packet.encode()));
    }

    fn on_packet(&mut self, from: HostId, packet: Packet) {
        let now = self.now;
        match packet {
            Packet::Join(node) => self.on_join(from, node),
            Packet::Admitted(assignment) => self.on_admitted(*assignment),
            Packet::Peer {
                node,
                manager,
                frame,
            } => {
                self.lines.insert(node, from);
                let role = if manager { Role::Manager } else { Role::Worker };
                if let Some(own) = &mut self.node {
                    own.handle_peer(now, Peer { node, role }, &frame)
                        .expect("streams do not damage frames");
                }
            }
            Packet::Gossip(bytes) => {
                let source = SocketAddr::new(address(from), GOSSIP_PORT);
                if let Some(own) = &mut self.node {
                    own.handle_gossip_datagram(now, source, &bytes);
                }
            }
            Packet::Vxlan(bytes) => {
                let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
                let mut out = Out::default();
                self.plane
                    .handle_remote(now, address(from), &mut frame, &mut out);
                self.forward(out);
            }
            Packet::Open(id) => {
                self.next += 1;
                let stream = self.next;
                self.accepted.insert((from, id), stream);
                let source = SocketAddr::new(address(from), GOSSIP_PORT);
                if let Some(own) = &mut self.node {
                    own.handle_stream_opened(now, StreamId::Accepted(stream), source);
                }
                self.send(from, Channel::Stream, &Packet::Opened(id));
            }
            Packet::Opened(id) => {
                if let Some(own) = &mut self.node {
                    own.handle_stream_connected(now, StreamId::Dialled(id));
                }
            }
            Packet::Data { id, dialler, bytes } => {
                if let Some(stream) = self.stream(from, id, dialler)
                    && let Some(own) = &mut self.node
                {
                    own.handle_stream_data(now, stream, &bytes);
                }
            }
            Packet::Close { id, dialler } => {
                if let Some(stream) = self.stream(from, id, dialler)
                    && let Some(own) = &mut self.node
                {
                    own.handle_stream_closed(now, stream);
                }
            }
        }
        self.pump();
    }

    /// Returns what a stream of another host is called here.
    fn stream(&self, from: HostId, id: u64, dialler: bool) -> Option<StreamId> {
        if dialler {
            self.accepted
                .get(&(from, id))
                .map(|stream| StreamId::Accepted(*stream))
        } else {
            (self.dialled.get(&id) == Some(&from)).then_some(StreamId::Dialled(id))
        }
    }

    /// Returns where a stream goes, what it is called there, and whether this host dialled it.
    fn far_end(&self, stream: StreamId) -> Option<(HostId, u64, bool)> {
        match stream {
            StreamId::Dialled(id) => self.dialled.get(&id).map(|host| (*host, id, true)),
            StreamId::Accepted(own) => {
                let found = self.accepted.iter().find(|(_, stream)| **stream == own);
                found.map(|((host, id), _)| (*host, *id, false))
            }
        }
    }

    fn on_join(&mut self, from: HostId, node: AddNode) {
        self.next += 1;
        let token = RequestToken(self.next);
        if let Some(own) = self.node.as_mut().filter(|own| own.cluster().is_some()) {
            own.admit(self.now, token, node);
            self.joining.insert(token, from);
        }
    }

    /// Carries frames until every endpoint is quiet.
    fn pump(&mut self) {
        loop {
            let mut out = Out::default();
            let mut quiet = true;
            for (id, endpoint) in &mut self.endpoints {
                while let Some(bytes) = endpoint.poll_frame() {
                    quiet = false;
                    if let Some(port) = self.plane.port(*id) {
                        let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
                        self.plane
                            .handle_local(self.now, port, &mut frame, &mut out);
                    }
                }
                while let Some(echo) = endpoint.poll_reply() {
                    self.echoes.push_back(echo);
                }
            }
            self.forward(out);
            if quiet {
                return;
            }
        }
    }

    fn forward(&mut self, out: Out) {
        for (port, bytes) in out.local {
            let endpoint = self.ports.get(&port).copied();
            if let Some(endpoint) = endpoint.and_then(|id| self.endpoints.get_mut(&id)) {
                endpoint.handle_frame(&bytes);
            }
        }
        for (vtep, bytes) in out.remote {
            if let Some(to) = host(vtep) {
                self.send(to, Channel::Datagram, &Packet::Vxlan(bytes));
            }
        }
    }

    fn on_output(&mut self, output: Output) {
        let now = self.now;
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
            Output::OpenLog(raft) => self.change_log(Some(raft)),
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
            Output::CreatePort(spec) => {
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
                    node.handle_port(now, spec.endpoint, Ok(()));
                }
            }
            Output::RemovePort(endpoint) => {
                self.endpoints.remove(&endpoint);
                self.connect();
            }
            Output::Plane(desired) => {
                self.plane.apply(&desired);
                self.connect();
            }
            Output::Reply { token, result } => self.on_reply(token, result),
            Output::Event(Event::Failed) => self.effects.push_back(Effect::Exit),
            Output::Event(Event::Removed) => self.leave(),
            Output::Event(_) => {}
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

    /// Forgets the cluster, as a daemon does that left it, and begins anew.
    fn leave(&mut self) {
        self.log = None;
        let mut forget = || -> Result<(), DiskError> {
            // In this order: a host that forgot half of it goes on as a stranger, never as its former self.
            if self.disk.read(LEFT).is_err() {
                self.disk.append(LEFT, b"left")?;
                self.disk.sync(LEFT)?;
            }
            for name in [IDENTITY, MEMORY] {
                if self.disk.read(name).is_ok() {
                    self.disk.remove(name)?;
                }
            }
            self.disk.sync_directory()
        };
        // Whether or not it worked: the next life goes on with what there is.
        let _ = forget();
        self.effects.push_back(Effect::Exit);
    }

    fn on_gossip(&mut self, output: GossipOutput) {
        match output {
            GossipOutput::Datagram { to, bytes } => {
                if let Some(to) = host(to.ip()) {
                    self.send(to, Channel::Datagram, &Packet::Gossip(bytes));
                }
            }
            GossipOutput::Dial {
                stream: StreamId::Dialled(id),
                to,
            } => {
                if let Some(to) = host(to.ip()) {
                    self.dialled.insert(id, to);
                    self.send(to, Channel::Stream, &Packet::Open(id));
                }
            }
            GossipOutput::StreamSend { stream, bytes } => {
                if let Some((to, id, dialler)) = self.far_end(stream) {
                    self.send(to, Channel::Stream, &Packet::Data { id, dialler, bytes });
                }
            }
            GossipOutput::StreamClose { stream } => {
                if let Some((to, id, dialler)) = self.far_end(stream) {
                    self.send(to, Channel::Stream, &Packet::Close { id, dialler });
                }
                match stream {
                    StreamId::Dialled(id) => drop(self.dialled.remove(&id)),
                    StreamId::Accepted(own) => self.accepted.retain(|_, stream| *stream != own),
                }
            }
            GossipOutput::Dial { .. } | GossipOutput::Event(_) => {}
        }
    }

    fn change_log(&mut self, raft: Option<RaftId>) {
        let Some(mut identity) = self.identity.clone() else {
            return;
        };
        identity.raft = raft;
        // A log that is there belongs to the identity: without one it is emptied, with one it is filled.
        let changed = match raft {
            Some(_) => self.clear_log().is_ok() && self.save(IDENTITY, &identity),
            None => self.save(IDENTITY, &identity) && self.clear_log().is_ok(),
        };
        if !changed {
            return self.effects.push_back(Effect::Exit);
        }
        self.identity = Some(identity);
        if raft.is_some() {
            match Log::open(self.disk.clone(), StorageConfig::default()) {
                Ok((log, _)) => self.log = Some(log),
                Err(_) => self.effects.push_back(Effect::Exit),
            }
        }
    }

    fn connect(&mut self) {
        let ports = self
            .endpoints
            .keys()
            .filter_map(|id| Some((self.plane.port(*id)?, *id)));
        self.ports = ports.collect();
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
            node.handle_timeout(self.now);
        }
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
            Effect::Exit => outbox.exit(),
        }
    }

    fn handle_deferred(&mut self, now: Instant, token: u64) {
        self.now = self.now.max(now);
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

/// Frames on their way out of the switch.
#[derive(Default)]
struct Out {
    local: Vec<(PortId, Vec<u8>)>,
    remote: Vec<(IpAddr, Vec<u8>)>,
}

impl Sink for Out {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        self.local.push((port, frame.bytes().to_vec()));
    }

    fn to_vtep(&mut self, vtep: IpAddr, _source_port: u16, frame: &mut Frame) {
        self.remote.push((vtep, frame.bytes().to_vec()));
    }
}

/// Returns the underlay address of a host.
pub(super) fn address(host: HostId) -> IpAddr {
    let number = u16::try_from(host.0 + 1).expect("a simulation has fewer than 65,535 hosts");
    let [a, b] = number.to_be_bytes();
    Ipv4Addr::new(172, 31, a, b).into()
}

fn host(address: IpAddr) -> Option<HostId> {
    match address {
        IpAddr::V4(address) => {
            let [172, 31, a, b] = address.octets() else {
                return None;
            };
            usize::from(u16::from_be_bytes([a, b]))
                .checked_sub(1)
                .map(HostId)
        }
        IpAddr::V6(_) => None,
    }
}

fn read<T: for<'a> Deserialize<'a>>(disk: &SimDisk, name: &str) -> Option<T> {
    let bytes = disk.read(name).ok()?;
    Some(postcard::from_bytes(&bytes).expect("a file that was renamed into place is whole"))
}

const IDENTITY: &str = "identity";
const MEMORY: &str = "agent";
const LEFT: &str = "left";
/// Token of the request that makes the cluster.
const INIT: u64 = 1;
const GOSSIP_PORT: u16 = 7_946;
/// How long a host waits before it asks again to join.
const JOIN_RETRY: Duration = Duration::from_millis(500);
