//! A node at work: inputs from everywhere go into the machine, its outputs go where they belong.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use overlay_core::{EndpointId, Machine as _, NodeId, Seed, plane::PlatformError};
use overlay_raft::{PersistTicket, RaftId, Restored};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    bootstrap::{self, Admission, Bootstrap},
    clock::Clock,
    daemon::{Options, StartError},
    log::LogWriter,
    names,
    plane::PlaneThread,
    platform::{MadePort, PlatformThread},
    session::{self, Frames, SessionId},
    store::{Identity, Store},
};
use crate::{
    Boot, Config, Event, ManagerBoot, Node, Output, Peer, Reply, RequestToken,
    agent::Assignment,
    api::{self, ErrorKind, Request, Role},
    identity::{
        certificate::{self, Authority},
        tls::Credentials,
    },
    state::AddNode,
};

/// Whatever arrives for a node.
#[derive(Debug)]
pub(crate) enum Input {
    Peer {
        peer: Peer,
        frame: Vec<u8>,
    },
    SessionOpened {
        peer: Peer,
        frames: Frames,
    },
    SessionClosed {
        node: NodeId,
        id: SessionId,
    },
    PeerGone {
        node: NodeId,
        frames: Frames,
    },
    Bootstrap {
        peer: Option<Peer>,
        ask: Bootstrap,
        reply: oneshot::Sender<Admitted>,
    },
    Persisted {
        ticket: PersistTicket,
        durable: bool,
    },
    Port {
        endpoint: EndpointId,
        result: Result<MadePort, PlatformError>,
    },
    Gossip(overlay_gossip::driver::Input),
    Names(overlay_dns::driver::Input),
    Renewed(Result<(Admission, String), api::Error>),
}

type Admitted = Result<Admission, api::Error>;

/// Who waits for the answer to a request.
enum Waiting {
    Local(oneshot::Sender<Result<api::Response, api::Error>>),
    Join {
        request: String,
        role: Role,
        node: NodeId,
        reply: oneshot::Sender<Admitted>,
    },
    Init(oneshot::Sender<Result<Box<Assignment>, api::Error>>),
}

/// A session that frames can be sent on.
struct Line {
    id: SessionId,
    frames: Frames,
}

/// A node at work.
pub(crate) struct Active {
    node: Node,
    clock: Clock,
    identity: Identity,
    store: Arc<Store>,
    inputs: mpsc::Sender<Input>,
    received: mpsc::Receiver<Input>,
    log: Option<LogWriter>,
    plane: PlaneThread,
    platform: PlatformThread,
    gossip: overlay_gossip::driver::Sockets,
    names: overlay_dns::driver::Sockets,
    queries: mpsc::Receiver<overlay_dns::driver::Input>,
    credentials: watch::Sender<Credentials>,
    lines: BTreeMap<NodeId, Line>,
    waiting: BTreeMap<RequestToken, Waiting>,
    next: u64,
    tasks: JoinSet<()>,
    renewing: bool,
}

impl Active {
    /// Opens everything that a node needs and makes it.
    pub(crate) async fn start(
        options: &Options,
        clock: Clock,
        seed: Seed,
        store: Arc<Store>,
        platform: PlatformThread,
        identity: Identity,
        first: Option<RaftId>,
    ) -> Result<Self, StartError> {
        let (inputs, received) = mpsc::channel(INPUTS_MAX);
        let (log, manager) = open_manager(&store, &identity, first, &inputs)?;
        let mut config = Config::new(identity.node, &options.name, identity.address);
        config.management_port = options.management_port;
        config.gossip_port = options.gossip_port;
        config.unix_epoch = clock.unix_epoch();
        config.timers = options.timers;
        config.underlay_mtu = options.underlay_mtu;
        let boot = Boot {
            memory: store.memory()?,
            manager,
            seeds: identity.seeds.clone(),
        };

        let Bound {
            listener,
            gossip,
            data,
        } = Bound::open(options).await?;
        let plane = PlaneThread::start(data, clock, seed.derive("plane")).map_err(|error| {
            StartError::Thread {
                what: "frame path",
                error,
            }
        })?;

        let node = Node::new(config, seed, clock.now(), boot)?;
        let (credentials, watched) = watch::channel(identity.credentials.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(session::listen(listener, watched, inputs.clone()));
        let (names, queries) = overlay_dns::driver::Sockets::new(Default::default());
        let mut active = Self {
            node,
            clock,
            identity,
            store,
            inputs,
            received,
            log,
            plane,
            platform,
            gossip,
            names,
            queries,
            credentials,
            lines: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            tasks,
            renewing: false,
        };
        let upstreams = names::host_upstreams();
        active.node.set_upstreams(active.clock.now(), upstreams);
        active.carry_out();
        Ok(active)
    }

    /// Waits for the next thing to happen and deals with it. Dropping the future loses nothing.
    pub(crate) async fn step(&mut self) {
        let deadline = self.node.poll_timeout();
        let at = deadline.map(|at| self.clock.deadline(at));
        let sleep = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(input) = self.received.recv() => {
                self.handle(input);
                // What is there already is taken together: one round of outputs for many inputs.
                for _ in 0..BATCH {
                    match self.received.try_recv() {
                        Ok(input) => self.handle(input),
                        Err(_) => break,
                    }
                }
            }
            input = self.gossip.recv() => self.handle(Input::Gossip(input)),
            Some(input) = self.queries.recv() => self.handle(Input::Names(input)),
            Some(_) = self.tasks.join_next() => {}
            () = sleep => {}
        }
        self.node.handle_timeout(self.clock.now());
        self.carry_out();
    }

    /// Takes a request of a local client.
    pub(crate) fn request(
        &mut self,
        request: Request,
        reply: oneshot::Sender<Result<api::Response, api::Error>>,
    ) {
        let token = self.token(Waiting::Local(reply));
        self.node.request(self.clock.now(), token, request);
        self.carry_out();
    }

    /// Makes the cluster that this node was started for.
    pub(crate) async fn initialize(
        &mut self,
        seed: crate::state::ClusterSeed,
    ) -> Result<Box<Assignment>, api::Error> {
        let (reply, mut answer) = oneshot::channel();
        let token = self.token(Waiting::Init(reply));
        self.node.initialize(self.clock.now(), token, seed);
        self.carry_out();
        loop {
            match answer.try_recv() {
                Ok(result) => return result,
                Err(oneshot::error::TryRecvError::Empty) => self.step().await,
                Err(oneshot::error::TryRecvError::Closed) => {
                    let text = "the node stopped while it made the cluster: see its log";
                    return Err(api::Error::new(ErrorKind::Storage, text));
                }
            }
        }
    }

    /// Hands leadership over, if there is somebody to take it, and waits a little for that.
    pub(crate) async fn retire(&mut self) {
        self.node.step_aside(self.clock.now());
        self.carry_out();
        let patience = tokio::time::Instant::now() + RETIRE;
        while self.node.leads()
            && self
                .node
                .raft()
                .is_some_and(|raft| raft.membership().voters().count() > 1)
        {
            if tokio::time::timeout_at(patience, self.step())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    fn token(&mut self, waiting: Waiting) -> RequestToken {
        self.next += 1;
        let token = RequestToken(self.next);
        self.waiting.insert(token, waiting);
        token
    }

    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Peer { peer, frame } => {
                if let Err(error) = self.node.handle_peer(now, peer, &frame) {
                    tracing::warn!(peer = %peer.node, %error, "a frame was malformed");
                }
            }
            Input::SessionOpened { peer, frames } => {
                self.next += 1;
                self.lines.insert(
                    peer.node,
                    Line {
                        id: self.next,
                        frames,
                    },
                );
            }
            Input::SessionClosed { node, id } => {
                if self.lines.get(&node).is_some_and(|line| line.id == id) {
                    self.lines.remove(&node);
                }
            }
            Input::PeerGone { node, frames } => {
                let same = |line: &Line| line.frames.same_channel(&frames);
                if self.lines.get(&node).is_some_and(same) {
                    self.lines.remove(&node);
                }
            }
            Input::Bootstrap { peer, ask, reply } => self.on_bootstrap(peer, ask, reply),
            Input::Persisted {
                ticket,
                durable: true,
            } => self.node.handle_persisted(now, ticket),
            Input::Persisted {
                ticket,
                durable: false,
            } => {
                self.node.handle_persist_failed(now, ticket);
            }
            Input::Port { endpoint, result } => self.on_port(endpoint, result),
            Input::Gossip(input) => self.on_gossip(input),
            Input::Names(input) => names::handle(&mut self.node, now, input),
            Input::Renewed(result) => self.on_renewed(result),
        }
    }

    fn on_gossip(&mut self, input: overlay_gossip::driver::Input) {
        use overlay_gossip::driver::Input as G;
        let now = self.clock.now();
        match input {
            G::Datagram { from, bytes } => self.node.handle_gossip_datagram(now, from, &bytes),
            G::StreamOpened { stream, from } => self.node.handle_stream_opened(now, stream, from),
            G::StreamConnected { stream } => self.node.handle_stream_connected(now, stream),
            G::StreamData { stream, bytes } => self.node.handle_stream_data(now, stream, &bytes),
            G::StreamClosed { stream } => self.node.handle_stream_closed(now, stream),
        }
    }

    fn on_port(&mut self, endpoint: EndpointId, result: Result<MadePort, PlatformError>) {
        let result = result.map(|made| {
            self.plane.add(endpoint, made.port);
            if let Some((udp, tcp)) = made.sockets
                && let Err(error) = self.names.serve(endpoint, udp, Some(tcp))
            {
                tracing::error!(%endpoint, %error, "an endpoint has no resolver");
            }
        });
        self.node.handle_port(self.clock.now(), endpoint, result);
    }

    /// Carries out everything that the node asked for.
    fn carry_out(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Peer { to, address, frame } => self.send(to, address, frame),
                Output::Persist(batch) => {
                    if let Some(log) = &self.log {
                        log.write(batch);
                    }
                }
                Output::OpenLog(raft) => self.open_log(raft),
                Output::CloseLog => self.close_log(),
                Output::Remember(memory) => {
                    if let Err(error) = self.store.save_memory(&memory) {
                        tracing::error!(%error, "the last assignment could not be kept");
                    }
                }
                Output::Gossip(output) => self.gossip.apply(*output),
                Output::Dns(output) => {
                    if let Some(event) = self.names.carry_out(output) {
                        tracing::debug!(?event, "names");
                    }
                }
                Output::CreatePort(spec) => self.platform.create(spec, self.inputs.clone()),
                Output::RemovePort(endpoint) => {
                    self.plane.remove(endpoint);
                    self.names.stop(endpoint);
                    self.platform.remove(endpoint);
                }
                Output::Plane(desired) => self.plane.apply(desired),
                Output::Reply { token, result } => self.on_reply(token, result),
                Output::Event(event) => self.on_event(event),
            }
        }
    }

    fn send(&mut self, to: NodeId, address: Option<SocketAddr>, frame: Vec<u8>) {
        if let Some(line) = self.lines.get(&to) {
            match line.frames.try_send(frame) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                Err(mpsc::error::TrySendError::Closed(frame)) => {
                    self.lines.remove(&to);
                    return self.send(to, address, frame);
                }
            }
        }
        let Some(address) = address else { return };
        self.next += 1;
        let (id, (frames, receiver)) = (self.next, mpsc::channel(session::FRAMES_MAX));
        // There is room for the first frame of a fresh channel.
        let _ = frames.try_send(frame);
        self.lines.insert(to, Line { id, frames });
        let (credentials, inputs) = (self.credentials.borrow().clone(), self.inputs.clone());
        self.tasks.spawn(session::dial(
            to,
            address,
            id,
            credentials,
            receiver,
            inputs,
        ));
    }

    fn on_reply(&mut self, token: RequestToken, result: Result<Reply, api::Error>) {
        // Whoever asked may have gone away meanwhile: then there is nobody to tell.
        match (self.waiting.remove(&token), result) {
            (Some(Waiting::Local(reply)), Ok(Reply::Api(response))) => {
                let _ = reply.send(Ok(response));
            }
            (Some(Waiting::Local(reply)), Ok(Reply::Admitted(_))) => {
                let _ = reply.send(Ok(api::Response::Done));
            }
            (Some(Waiting::Local(reply)), Err(error)) => {
                let _ = reply.send(Err(error));
            }
            (Some(Waiting::Init(reply)), result) => {
                let _ = reply.send(result.and_then(admitted));
            }
            (
                Some(Waiting::Join {
                    request,
                    role,
                    node,
                    reply,
                }),
                result,
            ) => {
                let admission = result.and_then(admitted).and_then(|assignment| {
                    let issued = self.issue(&request, node, role)?;
                    Ok(Admission {
                        assignment: Some(assignment),
                        ..issued
                    })
                });
                let _ = reply.send(admission);
            }
            (None, _) => {}
        }
    }

    fn on_bootstrap(
        &mut self,
        peer: Option<Peer>,
        ask: Bootstrap,
        reply: oneshot::Sender<Admitted>,
    ) {
        match (ask, peer) {
            (
                Bootstrap::Join {
                    secret,
                    request,
                    node,
                },
                _,
            ) => {
                let Some(role) = self.role_for(secret.expose()) else {
                    let text = "the token's secret is not valid (any more): get a fresh token with `join-token` on a manager";
                    let _ = reply.send(Err(api::Error::new(ErrorKind::Untrusted, text)));
                    return;
                };
                let node = AddNode { role, ..node };
                let waiting = Waiting::Join {
                    request,
                    role,
                    node: node.id,
                    reply,
                };
                let token = self.token(waiting);
                self.node.admit(self.clock.now(), token, node);
            }
            (Bootstrap::Renew { request }, Some(peer)) => {
                let _ = reply.send(self.renew_for(peer.node, &request));
            }
            (Bootstrap::Renew { .. }, None) => {
                let text = "a certificate is renewed only for who shows one";
                let _ = reply.send(Err(api::Error::new(ErrorKind::Forbidden, text)));
            }
        }
    }

    fn renew_for(&self, node: NodeId, request: &str) -> Admitted {
        let record = self.node.state().and_then(|state| state.nodes().get(&node));
        let role = record.map(|record| record.role).ok_or_else(|| {
            let text =
                "this manager does not know the node: it was removed, or ask another manager";
            api::Error::new(ErrorKind::Forbidden, text)
        })?;
        self.issue(request, node, role)
    }

    /// Returns the role that a token's secret stands for; takes the same time whatever the secret.
    fn role_for(&self, secret: &[u8]) -> Option<Role> {
        let cluster = self.node.cluster()?;
        let same = |known: &[u8]| {
            let differ = known
                .iter()
                .zip(secret)
                .fold(0, |sum, (a, b)| sum | (a ^ b));
            known.len() == secret.len() && std::hint::black_box(differ) == 0
        };
        let worker = same(cluster.worker_token.expose());
        let manager = same(cluster.manager_token.expose());
        match (manager, worker) {
            (true, _) => Some(Role::Manager),
            (false, true) => Some(Role::Worker),
            (false, false) => None,
        }
    }

    fn issue(&self, request: &str, node: NodeId, role: Role) -> Admitted {
        let cluster = self.node.cluster().ok_or_else(|| {
            let text = "this manager has not caught up with the cluster yet: try again, or ask another one";
            api::Error::new(ErrorKind::Unavailable, text)
        })?;
        let authority = Authority::new(&cluster.ca_certificate, &cluster.ca_key);
        let certificate = authority
            .issue(request, node, cluster.id, role, Clock::unix_now())
            .map_err(|error| api::Error::new(ErrorKind::Invalid, error.to_string()))?;
        let authority = cluster.ca_certificate.clone();
        Ok(Admission {
            authority,
            certificate,
            assignment: None,
        })
    }

    fn open_log(&mut self, raft: RaftId) {
        self.identity.raft = Some(raft);
        let opened = self
            .store
            .clear_raft()
            .and_then(|()| self.store.save_identity(&self.identity))
            .map_err(|error| error.to_string())
            .and_then(|()| {
                LogWriter::open(&self.store.raft(), self.inputs.clone())
                    .map_err(|error| error.to_string())
            });
        match opened {
            Ok((log, _)) => self.log = Some(log),
            Err(error) => tracing::error!(%error, "no log could be opened: restart this node"),
        }
    }

    fn close_log(&mut self) {
        self.log = None;
        self.identity.raft = None;
        let closed = self
            .store
            .save_identity(&self.identity)
            .and_then(|()| self.store.clear_raft());
        if let Err(error) = closed {
            tracing::error!(%error, "the log of a former manager could not be removed");
        }
    }

    fn on_event(&mut self, event: Event) {
        match &event {
            Event::RoleChanged { .. } => self.renew(),
            Event::Failed => tracing::error!("the manager's part of this node stopped: restart it"),
            Event::PortFailed { endpoint, error } => {
                tracing::warn!(%endpoint, %error, "a port could not be made");
            }
            event => tracing::info!(?event, "node"),
        }
    }

    /// Has the node's key signed again for its present role.
    fn renew(&mut self) {
        if std::mem::replace(&mut self.renewing, true) {
            return;
        }
        let managers: Vec<_> = self
            .node
            .assignment()
            .into_iter()
            .flat_map(|assignment| &assignment.managers)
            .filter(|manager| manager.node != self.identity.node)
            .map(|manager| manager.management)
            .collect();
        let (credentials, inputs) = (self.credentials.borrow().clone(), self.inputs.clone());
        self.tasks.spawn(async move {
            let text = "no manager signed this node's key again";
            let mut result = Err(api::Error::new(ErrorKind::Unavailable, text));
            for remote in managers {
                result = match certificate::request() {
                    Err(error) => Err(api::Error::new(ErrorKind::Invalid, error.to_string())),
                    Ok((key, request)) => bootstrap::renew(remote, &credentials, request)
                        .await
                        .map(|admission| (admission, key)),
                };
                if result.is_ok() {
                    break;
                }
            }
            let _ = inputs.send(Input::Renewed(result)).await;
        });
    }

    fn on_renewed(&mut self, result: Result<(Admission, String), api::Error>) {
        self.renewing = false;
        let (admission, key) = match result {
            Ok(renewed) => renewed,
            Err(error) => return tracing::error!(%error, "the certificate was not renewed"),
        };
        let credentials = Credentials {
            authority: admission.authority,
            certificate: admission.certificate,
            key: crate::state::Secret::any(key.into_bytes()),
        };
        self.identity.credentials = credentials.clone();
        if let Err(error) = self.store.save_identity(&self.identity) {
            tracing::error!(%error, "the renewed certificate could not be kept");
        }
        self.credentials.send_replace(credentials);
        // Sessions of the old certificate end; whoever needs one dials again.
        self.lines.clear();
    }
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Active")
            .field("node", &self.identity.node)
            .finish_non_exhaustive()
    }
}

fn admitted(reply: Reply) -> Result<Box<Assignment>, api::Error> {
    match reply {
        Reply::Admitted(assignment) => Ok(assignment),
        Reply::Api(_) => {
            let text = "the leader answered something else than was asked";
            Err(api::Error::new(ErrorKind::Invalid, text))
        }
    }
}

/// Opens a manager's log and says what it holds; nothing for a worker.
fn open_manager(
    store: &Store,
    identity: &Identity,
    first: Option<RaftId>,
    inputs: &mpsc::Sender<Input>,
) -> Result<(Option<LogWriter>, Option<ManagerBoot>), StartError> {
    let Some(raft) = identity.raft else {
        return Ok((None, None));
    };
    let (log, found) = LogWriter::open(&store.raft(), inputs.clone())?;
    let restored = match first {
        _ if !found.is_empty() => found,
        Some(first) => Restored::bootstrap([first]),
        None => Restored::joining(),
    };
    let group = crate::group(identity.cluster);
    Ok((
        Some(log),
        Some(ManagerBoot {
            raft,
            group,
            restored,
        }),
    ))
}

/// The sockets that a node listens on.
struct Bound {
    listener: tokio::net::TcpListener,
    gossip: overlay_gossip::driver::Sockets,
    data: std::net::UdpSocket,
}

impl Bound {
    async fn open(options: &Options) -> Result<Self, StartError> {
        let bind = |port| SocketAddr::new(options.listen, port);
        let listener = tokio::net::TcpListener::bind(bind(options.management_port))
            .await
            .map_err(|error| StartError::port("TCP", bind(options.management_port), error))?;
        let gossip = overlay_gossip::driver::Sockets::bind(bind(options.gossip_port))
            .await
            .map_err(|error| StartError::port("TCP and UDP", bind(options.gossip_port), error))?;
        let data = data_socket(bind(options.data_port))
            .map_err(|error| StartError::port("UDP", bind(options.data_port), error))?;
        Ok(Self {
            listener,
            gossip,
            data,
        })
    }
}

/// Opens the socket of the data port with room for bursts.
fn data_socket(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // The kernel grants what its limit allows.
    let _ = socket.set_recv_buffer_size(DATA_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(DATA_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The wildcard address that a daemon listens on by default.
pub(crate) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// How long a leader that stops waits for its successor.
const RETIRE: Duration = Duration::from_millis(300);
/// How many inputs may wait; their senders wait then.
const INPUTS_MAX: usize = 4_096;
/// How many inputs are taken before outputs are carried out.
const BATCH: usize = 256;
const DATA_BUFFER_BYTES: usize = 4 * 1024 * 1024;
