//! The socket half, on tokio: it reads queries from the sockets of endpoints and asks upstream servers.
//!
//! [`Sockets`] owns every socket and no protocol; the resolver stays with its driver, which may be a part of a larger
//! machine. What arrives comes out of one channel as [`Input`]; what the resolver wants done goes into
//! [`Sockets::carry_out`]. Where a resolver is all there is, [`Sockets::drive`] is the whole loop body:
//!
//! ```no_run
//! # async fn run(
//! #     mut resolver: overlay_dns::Resolver,
//! #     client: overlay_core::EndpointId,
//! #     clock: impl Fn() -> overlay_core::Instant,
//! # ) -> std::io::Result<()> {
//! use overlay_core::Machine;
//! use overlay_dns::driver::{Sockets, SocketsConfig};
//!
//! let (sockets, mut inputs) = Sockets::new(SocketsConfig::default());
//! let udp = std::net::UdpSocket::bind("127.0.0.11:53")?;
//! let tcp = std::net::TcpListener::bind("127.0.0.11:53")?;
//! sockets.serve(client, udp, Some(tcp))?;
//! loop {
//!     let pause = resolver.poll_timeout().map_or(std::time::Duration::MAX, |due| due - clock());
//!     let input = tokio::time::timeout(pause, inputs.recv()).await.ok().flatten();
//!     for event in sockets.drive(&mut resolver, clock(), input) {
//!         println!("{event:?}");
//!     }
//! }
//! # }
//! ```

mod bind;
mod datagrams;
mod serve;
mod upstream;

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_core::{EndpointId, Instant, Machine};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    task::AbortHandle,
};

pub use self::bind::bind_shared;
use self::datagrams::Room;
use crate::{Event, Output, QueryToken, Resolver, Transport, UpstreamToken};

/// Limits of the sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketsConfig {
    /// How many inputs wait in the channel; datagrams beyond it are dropped, streams wait. Default 1,024.
    pub inputs_max: usize,
    /// How many queries wait for an answer; beyond it the oldest is forgotten. Default 4,096.
    pub queries_max: usize,
    /// How many TCP connections one client may have; more are closed at once. Default 64.
    pub connections_max: usize,
    /// How many queries of one connection are answered at the same time; more wait unread. Default 32.
    pub pipelined_max: usize,
    /// How long a connection may be silent between queries. Default 10 s (RFC 7766 §6.2.3).
    pub idle_timeout: Duration,
    /// How long a message, once begun, may take to arrive or to be sent. Default 5 s.
    pub message_timeout: Duration,
}

impl Default for SocketsConfig {
    fn default() -> Self {
        Self {
            inputs_max: 1_024,
            queries_max: 4_096,
            connections_max: 64,
            pipelined_max: 32,
            idle_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(5),
        }
    }
}

/// Something for the resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Datagrams, each for [`Resolver::handle_query`].
    Datagrams(Datagrams),
    /// A message of a stream, for [`Resolver::handle_query`].
    Query {
        /// Who asks.
        client: EndpointId,
        /// Names the query.
        token: QueryToken,
        /// How it came.
        transport: Transport,
        /// The message.
        bytes: Vec<u8>,
    },
    /// For [`Resolver::handle_upstream`].
    Upstream {
        /// The forward that is answered.
        upstream: UpstreamToken,
        /// Who answers.
        from: SocketAddr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// For [`Resolver::handle_upstream_failed`].
    UpstreamFailed {
        /// The forward that failed.
        upstream: UpstreamToken,
    },
}

/// Queries that one client sent as datagrams and that were read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagrams {
    /// Who asks.
    pub client: EndpointId,
    first: QueryToken,
    octets: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
}

impl Datagrams {
    /// Returns the messages and what names them, in the order in which they came.
    pub fn queries(&self) -> impl Iterator<Item = (QueryToken, &[u8])> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let messages = starts.zip(&self.ends).map(|(start, end)| {
            let message = self.octets.get(*start..*end);
            message.unwrap_or_default()
        });
        (self.first.0..).map(QueryToken).zip(messages)
    }
}

/// A handle to all sockets of a resolver. Clones are handles to the same; nothing blocks.
#[derive(Clone, Debug)]
pub struct Sockets {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: SocketsConfig,
    runtime: Handle,
    inputs: mpsc::Sender<Input>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last_token: u64,
    /// Where answers go, by the first token of each.
    paths: BTreeMap<QueryToken, Path>,
    /// How many answers are still to come.
    waiting: usize,
    /// Room to read datagrams into, while nobody does.
    rooms: Vec<Room>,
    clients: BTreeMap<EndpointId, Vec<AbortHandle>>,
    forwards: BTreeMap<UpstreamToken, AbortHandle>,
    dropped: u64,
}

/// Answers on their way into a stream, each with what lets the connection read on once it is written.
type Answers = mpsc::Sender<(Vec<u8>, OwnedSemaphorePermit)>;

/// Where an answer goes.
#[derive(Debug)]
enum Path {
    /// One answer to each of these; none to those who have had theirs.
    Datagrams {
        client: EndpointId,
        socket: Arc<UdpSocket>,
        peers: Vec<Option<SocketAddr>>,
        left: usize,
    },
    Stream {
        client: EndpointId,
        answers: Answers,
        permit: OwnedSemaphorePermit,
    },
}

impl Path {
    fn client(&self) -> EndpointId {
        match self {
            Self::Datagrams { client, .. } | Self::Stream { client, .. } => *client,
        }
    }

    /// How many answers may still go this way.
    fn left(&self) -> usize {
        match self {
            Self::Datagrams { left, .. } => *left,
            Self::Stream { .. } => 1,
        }
    }
}

impl Sockets {
    /// Makes the handle and the channel out of which the inputs come. The tasks run on the present runtime.
    ///
    /// # Panics
    ///
    /// If called outside a tokio runtime.
    pub fn new(config: SocketsConfig) -> (Self, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel(config.inputs_max.max(1));
        let shared = Shared {
            config,
            runtime: Handle::current(),
            inputs,
            state: Mutex::default(),
        };
        let shared = Arc::new(shared);
        (Self { shared }, receiver)
    }

    /// Reads the queries of a client from sockets that were opened in its namespace, until [`stop`](Self::stop) or until
    /// nobody takes the inputs any more.
    ///
    /// # Errors
    ///
    /// What the system says when the sockets are made non-blocking or registered; nothing is read then.
    pub fn serve(
        &self,
        client: EndpointId,
        udp: UdpSocket,
        tcp: Option<TcpListener>,
    ) -> io::Result<()> {
        let _context = self.shared.runtime.enter();
        udp.set_nonblocking(true)?;
        let sender = Arc::new(udp.try_clone()?);
        let udp = tokio::net::UdpSocket::from_std(udp)?;
        let listener = match tcp {
            Some(tcp) => {
                tcp.set_nonblocking(true)?;
                Some(tokio::net::TcpListener::from_std(tcp)?)
            }
            None => None,
        };
        let mut tasks = vec![self.spawn(serve::datagrams(self.clone(), client, udp, sender))];
        if let Some(listener) = listener {
            tasks.push(self.spawn(serve::connections(self.clone(), client, listener)));
        }
        self.state()
            .clients
            .entry(client)
            .or_default()
            .extend(tasks);
        Ok(())
    }

    /// Closes the sockets of a client.
    pub fn stop(&self, client: EndpointId) {
        let mut state = self.state();
        for task in state.clients.remove(&client).unwrap_or_default() {
            task.abort();
        }
        state.paths.retain(|_, path| path.client() != client);
        state.waiting = state.paths.values().map(Path::left).sum();
    }

    /// Closes everything. The tasks hold handles of their own: without this they end a moment after the channel's receiver
    /// was dropped.
    pub fn close(&self) {
        let mut state = self.state();
        let clients = std::mem::take(&mut state.clients);
        let forwards = std::mem::take(&mut state.forwards);
        for task in clients
            .into_values()
            .flatten()
            .chain(forwards.into_values())
        {
            task.abort();
        }
        state.paths.clear();
        state.waiting = 0;
    }

    /// Hands `input`, or the time alone, to the resolver, and carries out all that it wants. Returns its events.
    ///
    /// Answers to datagrams leave together, and their buffers go back to the resolver.
    pub fn drive(&self, resolver: &mut Resolver, now: Instant, input: Option<Input>) -> Vec<Event> {
        let query = |resolver: &mut Resolver, client, token, transport, bytes: &[u8]| {
            let taken = resolver.handle_query(now, client, token, transport, bytes);
            if taken.is_err() {
                self.forget(token);
            }
        };
        match input {
            Some(Input::Datagrams(datagrams)) => {
                for (token, bytes) in datagrams.queries() {
                    query(resolver, datagrams.client, token, Transport::Udp, bytes);
                }
            }
            Some(Input::Query {
                client,
                token,
                transport,
                bytes,
            }) => query(resolver, client, token, transport, &bytes),
            Some(Input::Upstream {
                upstream,
                from,
                bytes,
            }) => {
                // What is ignored is counted by the resolver.
                let _ = resolver.handle_upstream(now, upstream, from, &bytes);
            }
            Some(Input::UpstreamFailed { upstream }) => {
                let _ = resolver.handle_upstream_failed(now, upstream);
            }
            None => {}
        }
        resolver.handle_timeout(now);
        let outputs = std::iter::from_fn(|| resolver.poll_output());
        let (events, sent) = self.run(outputs);
        for bytes in sent {
            resolver.recycle(now, bytes);
        }
        events
    }

    /// Carries outputs out; the events among them come back. Answers to datagrams are sent in batches: give it all that there
    /// are at once.
    pub fn carry_out(&self, outputs: impl IntoIterator<Item = Output>) -> Vec<Event> {
        self.run(outputs).0
    }

    /// Carries outputs out; returns events, and the buffers of answers that were sent.
    fn run(&self, outputs: impl IntoIterator<Item = Output>) -> (Vec<Event>, Vec<Vec<u8>>) {
        let (mut events, mut batch) = (Vec::new(), Batch::default());
        for output in outputs {
            match output {
                Output::Answer { token, bytes, .. } => self.answer(&mut batch, token, bytes),
                Output::Forward {
                    upstream,
                    to,
                    transport,
                    bytes,
                } => self.forward(upstream, to, transport, bytes),
                Output::CloseForward { upstream } => {
                    if let Some(task) = self.state().forwards.remove(&upstream) {
                        task.abort();
                    }
                }
                Output::Event(event) => events.push(event),
            }
        }
        self.send(&mut batch);
        (events, batch.sent)
    }

    /// Forgets a query that the resolver did not take: nobody will answer it.
    pub fn forget(&self, token: QueryToken) {
        self.state().take(token);
    }

    /// Returns how many datagrams and answers were dropped because something was full or gone.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Lets an answer go: over a stream at once, as a datagram with the batch.
    fn answer(&self, batch: &mut Batch, token: QueryToken, bytes: Vec<u8>) {
        let way = self.state().take(token); // and unlocked again, for what follows locks as well
        match way {
            Some(Way::Datagram(socket, peer)) => {
                let same = (batch.socket.as_ref()).is_some_and(|other| Arc::ptr_eq(other, &socket));
                if !same {
                    self.send(batch);
                    batch.socket = Some(socket);
                }
                batch.answers.push((peer, bytes));
            }
            Some(Way::Stream(answers, permit)) => {
                // There is room for as many answers as there are permits, and each keeps its own until it is written.
                if answers.try_send((bytes, permit)).is_err() {
                    self.state().dropped += 1;
                }
            }
            None => batch.sent.push(bytes),
        }
    }

    /// Sends a batch. A full buffer loses answers, as any datagram can be lost; the client asks again.
    fn send(&self, batch: &mut Batch) {
        let Some(socket) = batch.socket.take() else {
            return;
        };
        let sent = datagrams::send(&socket, &batch.answers);
        if sent < batch.answers.len() {
            let lost = u64::try_from(batch.answers.len() - sent);
            self.state().dropped += lost.unwrap_or(u64::MAX);
        }
        let answers = batch.answers.drain(..);
        batch.sent.extend(answers.map(|(_, bytes)| bytes));
    }

    fn forward(
        &self,
        upstream: UpstreamToken,
        to: SocketAddr,
        transport: Transport,
        bytes: Vec<u8>,
    ) {
        let inputs = self.shared.inputs.clone();
        let mut state = self.state(); // held, so that the task cannot be closed before it is known
        let task = self.spawn(upstream::exchange(inputs, upstream, to, transport, bytes));
        state.forwards.insert(upstream, task);
    }

    /// Remembers where the answers to a query, or to several, go; returns the first of their tokens.
    fn register(&self, path: Path) -> QueryToken {
        let mut state = self.state();
        let (first, left) = (state.last_token + 1, path.left());
        state.last_token += u64::try_from(left).unwrap_or(u64::MAX);
        state.waiting += left;
        while state.waiting > self.shared.config.queries_max
            && let Some((_, oldest)) = state.paths.pop_first()
        {
            state.waiting -= oldest.left();
            state.dropped += u64::try_from(oldest.left()).unwrap_or(u64::MAX);
        }
        state.paths.insert(QueryToken(first), path);
        QueryToken(first)
    }

    /// Forgets all queries of a path that nobody will see.
    fn unregister(&self, first: QueryToken) {
        let mut state = self.state();
        if let Some(path) = state.paths.remove(&first) {
            state.waiting -= path.left();
            state.dropped += u64::try_from(path.left()).unwrap_or(u64::MAX);
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.shared.runtime.spawn(task).abort_handle()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under the lock panics half way.
        let state = self.shared.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one answer goes.
enum Way {
    Datagram(Arc<UdpSocket>, SocketAddr),
    Stream(Answers, OwnedSemaphorePermit),
}

/// Answers that leave a socket together, and buffers of those that have left.
#[derive(Default)]
struct Batch {
    socket: Option<Arc<UdpSocket>>,
    answers: Vec<(SocketAddr, Vec<u8>)>,
    sent: Vec<Vec<u8>>,
}

impl State {
    /// Takes the way of one answer; each has one.
    fn take(&mut self, token: QueryToken) -> Option<Way> {
        let (first, path) = self.paths.range_mut(..=token).next_back()?;
        let first = *first;
        let (way, last) = match path {
            Path::Datagrams {
                socket,
                peers,
                left,
                ..
            } => {
                let at = usize::try_from(token.0 - first.0).ok()?;
                let peer = peers.get_mut(at)?.take()?;
                *left -= 1;
                (Some(Way::Datagram(Arc::clone(socket), peer)), *left == 0)
            }
            Path::Stream { .. } => (None, first == token),
        };
        let path = last.then(|| self.paths.remove(&first)).flatten();
        let way = match (way, path) {
            (Some(way), _) => way,
            (
                None,
                Some(Path::Stream {
                    answers, permit, ..
                }),
            ) => Way::Stream(answers, permit),
            (None, _) => return None,
        };
        self.waiting -= 1;
        Some(way)
    }
}
