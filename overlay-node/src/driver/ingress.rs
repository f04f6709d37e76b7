//! Published ports: each node listens on them, and carries what comes to a task that runs, here or on another node.
//!
//! Connections and datagrams to tasks of other nodes travel over TLS between the daemons, on the management port: both ends know each
//! other by their certificates.

mod datagrams;
mod flows;
mod outside;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use overlay_core::{EndpointId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{bootstrap, clock::Clock, platform::PlatformThread, session};
use crate::{
    agent::{AssignedPort, Backend, Keyed as _},
    api::Protocol,
    identity::tls::Credentials,
    wire,
};

/// What the other daemon is asked for: a connection to a task of its node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Forward {
    endpoint: EndpointId,
    /// The port that its service publishes.
    published: u16,
}

/// A request for a connection, to be answered by the node's loop.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) forward: Forward,
    pub(crate) protocol: Protocol,
    pub(crate) reply: oneshot::Sender<Option<(EndpointId, SocketAddr)>>,
}

/// What carries connections and datagrams.
#[derive(Clone)]
struct Carrier {
    node: NodeId,
    clock: Clock,
    platform: PlatformThread,
    credentials: watch::Receiver<Credentials>,
    /// For connections.
    room: Arc<Semaphore>,
    /// For flows to other nodes.
    flows_room: Arc<Semaphore>,
    /// For octets of datagrams that wait.
    queued: Arc<Semaphore>,
    turn: Arc<AtomicUsize>,
}

/// The listeners of a node.
pub(crate) struct Ingress {
    listen: IpAddr,
    carrier: Carrier,
    ports: BTreeMap<(u16, Protocol), Listener>,
}

struct Listener {
    assigned: watch::Sender<AssignedPort>,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ingress {
    pub(crate) fn new(
        node: NodeId,
        clock: Clock,
        listen: IpAddr,
        platform: PlatformThread,
        credentials: watch::Receiver<Credentials>,
    ) -> Self {
        let (flows_room, queued) = datagrams::rooms();
        let carrier = Carrier {
            node,
            clock,
            platform,
            credentials,
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            flows_room,
            queued,
            turn: Arc::default(),
        };
        Self {
            listen,
            carrier,
            ports: BTreeMap::new(),
        }
    }

    /// Listens on these ports and no others.
    pub(crate) fn publish(&mut self, assigned: Vec<AssignedPort>) {
        let wanted: BTreeMap<_, _> = assigned
            .into_iter()
            .map(|assigned| (assigned.key(), assigned))
            .collect();
        self.ports.retain(|port, _| wanted.contains_key(port));
        for (port, assigned) in wanted {
            if let Some(listener) = self.ports.get(&port) {
                listener.assigned.send_replace(assigned);
                continue;
            }
            let (sender, watched) = watch::channel(assigned);
            let (published, protocol) = port;
            let address = SocketAddr::new(self.listen, published);
            let carrier = self.carrier.clone();
            let task = match protocol {
                Protocol::Tcp => tokio::spawn(listen(address, carrier, watched)),
                Protocol::Udp => tokio::spawn(datagrams::listen(address, carrier, watched)),
            };
            let assigned = sender;
            self.ports.insert(port, Listener { assigned, task });
        }
    }

    /// Returns where a task of this node answers, if another node may ask for it.
    pub(crate) fn local(
        &self,
        forward: Forward,
        protocol: Protocol,
    ) -> Option<(EndpointId, SocketAddr)> {
        let listener = self.ports.get(&(forward.published, protocol))?;
        let assigned = listener.assigned.borrow();
        let mut own = assigned.backends.iter();
        let backend = own.find(|backend| {
            backend.node == self.carrier.node && backend.endpoint == forward.endpoint
        })?;
        let address = SocketAddr::new(backend.address, assigned.port.target);
        Some((backend.endpoint, address))
    }
}

/// Binds a published port, as soon as it is free.
async fn listening<T>(
    address: SocketAddr,
    assigned: &watch::Receiver<AssignedPort>,
    bind: impl AsyncFn(SocketAddr) -> io::Result<T>,
) -> T {
    loop {
        match bind(address).await {
            Ok(listener) => return listener,
            Err(error) => {
                let (service, protocol) = {
                    let assigned = assigned.borrow();
                    (assigned.service_name.clone(), assigned.port.protocol)
                };
                tracing::warn!(%address, ?protocol, %service, %error, "a published port cannot be listened on; trying again");
                sleep(RETRY).await;
            }
        }
    }
}

/// Takes connections on a published port until it is no more.
async fn listen(address: SocketAddr, carrier: Carrier, assigned: watch::Receiver<AssignedPort>) {
    let listener = listening(address, &assigned, TcpListener::bind).await;
    loop {
        let Ok(permit) = Arc::clone(&carrier.room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (carrier, assigned) = (carrier.clone(), assigned.borrow().clone());
                tokio::spawn(async move {
                    if let Err(error) = carrier.carry(stream, &assigned).await {
                        let service = assigned.service_name;
                        tracing::debug!(%from, %service, %error, "a connection to a published port ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%address, %error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Carrier {
    /// Carries a connection to the first task that takes it, beginning with another one each time.
    async fn carry(&self, mut client: TcpStream, assigned: &AssignedPort) -> io::Result<()> {
        client.set_nodelay(true)?;
        let count = assigned.backends.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no task of the service runs");
        for at in 0..count {
            let backend = &assigned.backends[(first + at) % count];
            let tried = if backend.node == self.node {
                let address = SocketAddr::new(backend.address, assigned.port.target);
                let reached = connect(&self.platform, backend.endpoint, address).await;
                match reached {
                    Ok(mut task) => {
                        return copy_bidirectional(&mut client, &mut task).await.map(drop);
                    }
                    Err(error) => error,
                }
            } else {
                match timeout(PATIENCE, self.reach(KIND, backend, assigned.port.published)).await {
                    Ok(Ok(mut task)) => {
                        return copy_bidirectional(&mut client, &mut task).await.map(drop);
                    }
                    Ok(Err(error)) => error,
                    Err(_) => io::ErrorKind::TimedOut.into(),
                }
            };
            failure = tried;
        }
        Err(failure)
    }

    /// Asks the daemon of another node for a connection or a flow to its task.
    async fn reach(
        &self,
        kind: u8,
        backend: &Backend,
        published: u16,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let Backend {
            node,
            role,
            management,
            ..
        } = *backend;
        let mut stream = session::reach(&self.credentials, node, role, management).await?;
        let forward = Forward {
            endpoint: backend.endpoint,
            published,
        };
        stream.write_all(&wire::encode_body(kind, &forward)).await?;
        stream.flush().await?;
        match stream.read_u8().await? {
            TAKEN => Ok(stream),
            _ => Err(session::invalid("the task does not answer")),
        }
    }
}

/// Serves another node's request for a connection to a task of this one.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    platform: &PlatformThread,
    ask: impl AsyncFnOnce(Forward) -> Option<(EndpointId, SocketAddr)>,
) -> io::Result<()> {
    let forward: Forward = timeout(PATIENCE, bootstrap::receive(KIND, &mut stream)).await??;
    let connected = match ask(forward).await {
        Some((endpoint, address)) => connect(platform, endpoint, address).await,
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let mut task = answer(&mut stream, connected).await?;
    copy_bidirectional(&mut stream, &mut task).await.map(drop)
}

/// Serves another node's request for a flow to a task of this one.
pub(crate) async fn serve_datagrams<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    platform: &PlatformThread,
    ask: impl AsyncFnOnce(Forward) -> Option<(EndpointId, SocketAddr)>,
) -> io::Result<()> {
    let received = bootstrap::receive(DATAGRAMS, &mut stream);
    let forward: Forward = timeout(PATIENCE, received).await??;
    let opened = match ask(forward).await {
        Some((endpoint, address)) => datagrams::open(platform, endpoint, address)
            .await
            .map(|task| (task, address)),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let (task, address) = answer(&mut stream, opened).await?;
    datagrams::exchange(stream, &task, address, datagrams::SILENCE).await
}

/// Tells the other node whether its request is taken.
async fn answer<S: AsyncWrite + Unpin, T>(stream: &mut S, reached: io::Result<T>) -> io::Result<T> {
    let taken = if reached.is_ok() { TAKEN } else { REFUSED };
    stream.write_u8(taken).await?;
    stream.flush().await?;
    if reached.is_err() {
        stream.shutdown().await?;
    }
    reached
}

/// Connects to an address from inside an endpoint's namespace.
async fn connect(
    platform: &PlatformThread,
    endpoint: EndpointId,
    address: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = platform.stream(endpoint, address.is_ipv6()).await;
    let socket = TcpSocket::from_std_stream(socket.map_err(session::invalid)?);
    let stream = timeout(CONNECT, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection to a task.
pub(crate) const KIND: u8 = b'F';
/// A flow of datagrams to a task.
pub(crate) const DATAGRAMS: u8 = b'U';
const TAKEN: u8 = 0;
const REFUSED: u8 = 1;
/// How many connections to published ports a node carries at a time; more wait.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a task may take to accept.
const CONNECT: Duration = Duration::from_secs(1);
/// How long another node may take to reach its task.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait before a port that is in use is tried again.
const RETRY: Duration = Duration::from_secs(1);
