//! A node at work: inputs from everywhere go into the machine, its outputs go where they belong.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use overlay_core::{DiskError, EndpointId, Instant, Machine as _, NodeId, plane::PlatformError};
use overlay_raft::PersistTicket;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    bootstrap::{Admission, Bootstrap},
    clock::Clock,
    error::StopError,
    executor::{Executor, Reports},
    ingress::{self, Ingress},
    log::LogWriter,
    logs, names,
    plane::PlaneThread,
    platform::{MadePort, PlatformThread},
    renewal::Renewal,
    session::{self, Frames, SessionId},
    store::{Identity, Store},
    waiting::Waiting,
};
use crate::{
    Event, Node, Output, Peer, RequestToken,
    agent::{Assignment, TaskReport},
    api::{self, ErrorKind, Request},
    identity::tls::Sides,
    secret::Secret,
};

mod start;

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
        frames: mpsc::WeakSender<Vec<u8>>,
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
    /// The log is under another key, by this identity.
    Rekeyed(Result<u64, DiskError>),
    /// The system carries what it can of the data plane with this number.
    Plane {
        number: u64,
    },
    /// The interface with the node's address has this MTU by now.
    UnderlayMtu(u16),
    Gossip(overlay_gossip::driver::Input),
    Names(overlay_dns::driver::Input),
    Renewed(Result<(Admission, Secret<0>), api::Error>),
    Task(TaskReport),
    Forward(ingress::Ask),
    Flows {
        asker: NodeId,
        endpoint: EndpointId,
        flows: Option<u32>,
    },
    Logs(logs::Asked),
}

pub(super) type Admitted = Result<Admission, api::Error>;

/// A session that frames can be sent on.
pub(super) struct Line {
    id: SessionId,
    frames: Frames,
}

/// A node at work.
pub(crate) struct Active {
    pub(super) node: Node,
    pub(super) clock: Clock,
    pub(super) identity: Identity,
    pub(super) store: Arc<Store>,
    pub(super) inputs: mpsc::Sender<Input>,
    received: mpsc::Receiver<Input>,
    pub(super) log: Option<LogWriter>,
    pub(super) plane: PlaneThread,
    pub(super) platform: PlatformThread,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) outputs: logs::Room,
    ingress: Ingress,
    gossip: overlay_gossip::driver::Sockets,
    names: overlay_dns::driver::Sockets,
    queries: mpsc::Receiver<overlay_dns::driver::Input>,
    pub(super) sides: watch::Sender<Sides>,
    pub(super) lines: BTreeMap<NodeId, Line>,
    pub(super) waiting: BTreeMap<RequestToken, Waiting>,
    pub(super) next: u64,
    pub(super) tasks: JoinSet<()>,
    pub(super) renewal: Renewal,
    /// When the node's certificate is looked at next.
    pub(super) certificate_check: Instant,
    /// Whether the log is being put under another key.
    pub(super) rekeying: bool,
    /// Why the daemon has to stop.
    failed: Option<StopError>,
}

impl Active {
    /// Waits for the next thing to happen and deals with it. Dropping the future loses nothing.
    pub(crate) async fn step(&mut self) {
        let deadline = self.node.poll_timeout().into_iter();
        let deadline = deadline.fold(self.certificate_check, Instant::min);
        let sleep = tokio::time::sleep_until(self.clock.deadline(deadline));
        // A timer takes a millisecond for what is due already.
        let is_due = deadline <= self.clock.now();
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
            () = std::future::ready(()), if is_due => {}
            () = sleep => {}
        }
        let now = self.clock.now();
        if now >= self.certificate_check {
            self.certificate_check = now + CERTIFICATE_CHECK;
            self.check_certificate();
        }
        self.node.handle_timeout(now);
        self.carry_out();
    }

    /// Takes a request of a local client.
    pub(crate) fn request(
        &mut self,
        request: Request,
        reply: oneshot::Sender<Result<api::Response, api::Error>>,
    ) {
        let request = match request {
            Request::AuthorityRotate { next: None } => match self.succeed() {
                Ok(next) => Request::AuthorityRotate { next: Some(next) },
                // Whoever asked may have gone away.
                Err(error) => return drop(reply.send(Err(error))),
            },
            request => request,
        };
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

    /// Ends everything that was begun, and waits until its ports are free.
    pub(crate) async fn stop(mut self) {
        // Its successor gets the same sockets.
        self.names.close();
        self.tasks.shutdown().await;
    }

    /// Lets go of everything that was assigned: tasks are stopped, ports go.
    pub(crate) fn disband(&mut self) {
        self.node.disband(self.clock.now());
        self.carry_out();
    }

    /// Returns whether the managers said that this node is none of the cluster's any more.
    pub(crate) fn is_removed(&self) -> bool {
        self.node.is_removed()
    }

    /// Returns why the daemon has to stop, if it has to.
    pub(crate) fn failure(&self) -> Option<&StopError> {
        self.failed.as_ref()
    }

    pub(super) fn fail(&mut self, reason: &dyn std::fmt::Display) {
        let reason = reason.to_string();
        tracing::error!(%reason, "this node cannot go on");
        self.failed.get_or_insert(StopError::Storage { reason });
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
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
                let frames = frames.upgrade();
                let same = |line: &Line| {
                    let mut frames = frames.iter();
                    frames.any(|frames| line.frames.same_channel(frames))
                };
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
            Input::Rekeyed(result) => self.on_rekeyed(result),
            Input::Plane { number } => self.node.handle_plane(now, number),
            Input::UnderlayMtu(mtu) => self.node.handle_underlay_mtu(now, mtu),
            Input::Port { endpoint, result } => self.on_port(endpoint, result),
            Input::Gossip(input) => self.on_gossip(input),
            Input::Names(input) => names::handle(&mut self.node, &self.names, now, input),
            Input::Renewed(result) => self.on_renewed(result),
            Input::Task(report) => self.node.handle_task(now, report),
            Input::Logs(asked) => self.on_logs(asked),
            Input::Flows {
                asker,
                endpoint,
                flows,
            } => self.node.handle_flows(now, asker, endpoint, flows),
            Input::Forward(ask) => {
                // A certificate is good for longer than a membership.
                let is_member = self.node.is_member(ask.asker);
                let local = is_member.then(|| self.ingress.local(ask.forward, ask.protocol));
                let local = local.flatten();
                let connections = self.ingress.connections().clone();
                // Whoever asked may have gone away.
                let _ = ask.reply.send(local.map(|target| (target, connections)));
            }
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
            if let Some(port) = made.port {
                self.plane.add(endpoint, port);
            }
            if let Some((client, (udp, tcp))) = made.resolver
                && let Err(error) = self.names.serve(client, udp, Some(tcp))
            {
                tracing::error!(%endpoint, %error, "an endpoint has no resolver");
            }
        });
        self.node.handle_port(self.clock.now(), endpoint, result);
    }

    /// Asks the frame path, and adds what published ports carry.
    fn count_flows(&self, asker: NodeId, endpoint: EndpointId) {
        let counted = self.plane.flows_left(endpoint);
        let (connections, inputs) = (self.ingress.connections().clone(), self.inputs.clone());
        tokio::spawn(async move {
            let flows = counted.await.ok().flatten();
            let flows = flows.map(|flows| flows.saturating_add(connections.to(endpoint)));
            let counted = Input::Flows {
                asker,
                endpoint,
                flows,
            };
            // The node may have stopped.
            let _ = inputs.send(counted).await;
        });
    }

    /// Carries out everything that the node asked for.
    fn carry_out(&mut self) {
        self.keep_keys();
        let mut names = Vec::new();
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Peer { to, address, frame } => self.send(to, address, frame),
                Output::Persist(batch) => {
                    if let Some(log) = &self.log {
                        log.write(batch);
                    }
                }
                Output::OpenLog { raft, epoch } => self.open_log(raft, epoch),
                Output::CloseLog => self.close_log(),
                Output::Remember(memory) => {
                    if let Err(error) = self.store.save_memory(&memory) {
                        // What follows may rest on it: a role is taken once it is written down.
                        return self.fail(&error);
                    }
                }
                Output::Gossip(output) => self.gossip.apply(*output),
                Output::Dns(output) => names.push(output),
                Output::CreatePort(spec) => self.platform.create(spec, self.inputs.clone()),
                Output::CountFlows { asker, endpoint } => self.count_flows(asker, endpoint),
                Output::Publish(ports) => self.ingress.publish(ports),
                Output::StartTask(order) => {
                    self.executor
                        .start(*order, Reports::new(self.inputs.clone()));
                }
                Output::StopTask(task, grace) => {
                    let reports = Reports::new(self.inputs.clone());
                    self.executor.stop(task, grace, reports);
                }
                Output::RemovePort(endpoint) => {
                    self.plane.remove(endpoint);
                    self.platform.remove(endpoint);
                }
                Output::CloseResolver(client) => self.names.stop(client),
                Output::Plane { number, desired } => {
                    let inputs = self.inputs.clone();
                    self.platform.apply(Arc::clone(&desired), move || {
                        // The node may have stopped.
                        let _ = inputs.blocking_send(Input::Plane { number });
                    });
                    self.plane.apply(desired);
                }
                Output::Reply { token, result } => self.on_reply(token, result),
                Output::Event(event) => self.on_event(event),
            }
        }
        for event in self.names.carry_out(names) {
            tracing::debug!(?event, "names");
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
        let (client, inputs) = (Arc::clone(&self.sides.borrow().client), self.inputs.clone());
        self.tasks
            .spawn(session::dial(to, address, id, client, receiver, inputs));
    }

    fn on_event(&mut self, event: Event) {
        match &event {
            Event::RoleChanged { .. } => self.check_certificate(),
            Event::Failed => self.fail(&"its log could not be written"),
            Event::PortFailed { endpoint, error } => {
                tracing::warn!(%endpoint, %error, "a port could not be made");
            }
            event => tracing::info!(?event, "node"),
        }
    }
}

impl std::fmt::Debug for Active {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Active")
            .field("node", &self.identity.node)
            .finish_non_exhaustive()
    }
}

/// The wildcard address that a daemon listens on by default.
pub(crate) const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// How long a leader that stops waits for its successor.
const RETIRE: Duration = Duration::from_millis(300);
/// How often the node's certificate is looked at: clocks may be set, and hosts may sleep.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(1);
/// How many inputs may wait; their senders wait then.
const INPUTS_MAX: usize = 4_096;
/// How many inputs are taken before outputs are carried out.
const BATCH: usize = 256;
