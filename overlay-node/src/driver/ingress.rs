//! Published ports: each node listens on them, and carries what comes to a task that runs, here or on another node.
//!
//! Connections and datagrams to tasks of other nodes travel over TLS between the daemons, on the management port: both ends know each
//! other by their certificates.

mod datagrams;
mod flows;
mod outside;
mod target;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use overlay_core::{EndpointId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

pub(crate) use self::target::{Connections, Origin, Target};
use super::{bootstrap, clock::Clock, platform::PlatformThread, session};
use crate::{
    agent::{AssignedPort, Backend, Keyed as _},
    api::Protocol,
    identity::tls::Sides,
    wire,
};

/// What the other daemon is asked for: a connection to a task of its node.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Forward {
    endpoint: EndpointId,
    /// The port that its service publishes.
    published: u16,
    /// On whose behalf.
    origin: Origin,
}

/// A request for a connection, to be answered by the node's loop.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) asker: NodeId,
    pub(crate) forward: Forward,
    pub(crate) protocol: Protocol,
    pub(crate) reply: oneshot::Sender<Option<(Target, Connections)>>,
}

/// What carries connections and datagrams.
#[derive(Clone)]
struct Carrier {
    node: NodeId,
    clock: Clock,
    platform: PlatformThread,
    sides: watch::Receiver<Sides>,
    /// For connections.
    room: Arc<Semaphore>,
    /// For flows to other nodes.
    flows_room: Arc<Semaphore>,
    /// For octets of datagrams that wait.
    queued: Arc<Semaphore>,
    turn: Arc<AtomicUsize>,
    connections: Connections,
}

/// The listeners of a node.
pub(crate) struct Ingress {
    listen: IpAddr,
    carrier: Carrier,
    assigned: BTreeMap<(u16, Protocol), AssignedPort>,
    open: BTreeMap<(u16, Protocol), Listener>,
}

struct Listener {
    address: Option<IpAddr>,
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
        sides: watch::Receiver<Sides>,
    ) -> Self {
        let (flows_room, queued) = datagrams::rooms();
        let [a, b, ..] = *node.as_bytes();
        let first = [a, b];
        let carrier = Carrier {
            node,
            clock,
            platform,
            sides,
            room: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            flows_room,
            queued,
            // Nodes begin with different tasks.
            turn: Arc::new(AtomicUsize::new(u16::from_be_bytes(first).into())),
            connections: Connections::default(),
        };
        Self {
            listen,
            carrier,
            assigned: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// Listens on these ports and no others.
    pub(crate) fn publish(&mut self, assigned: Vec<AssignedPort>) {
        let assigned = assigned.into_iter();
        self.assigned = assigned
            .map(|assigned| (assigned.key(), assigned))
            .collect();
        self.open.retain(|port, listener| {
            let assigned = self.assigned.get(port).filter(|assigned| assigned.open);
            assigned.is_some_and(|assigned| assigned.port.address == listener.address)
        });
        for (port, assigned) in self.assigned.iter().filter(|(_, assigned)| assigned.open) {
            let port = *port;
            if let Some(listener) = self.open.get(&port) {
                listener.assigned.send_replace(assigned.clone());
                continue;
            }
            let (sender, watched) = watch::channel(assigned.clone());
            let (published, protocol) = port;
            let address = sender.borrow().port.address;
            let at = SocketAddr::new(address.unwrap_or(self.listen), published);
            let carrier = self.carrier.clone();
            let task = match protocol {
                Protocol::Tcp => tokio::spawn(listen(at, carrier, watched)),
                Protocol::Udp => tokio::spawn(datagrams::listen(at, carrier, watched)),
            };
            let assigned = sender;
            let listener = Listener {
                address,
                assigned,
                task,
            };
            self.open.insert(port, listener);
        }
    }

    /// Returns where a task of this node answers, if another node may ask for it.
    pub(crate) fn local(&self, forward: Forward, protocol: Protocol) -> Option<Target> {
        let assigned = self.assigned.get(&(forward.published, protocol))?;
        let mut own = assigned.backends.iter();
        let backend = own.find(|backend| {
            backend.node == self.carrier.node && backend.endpoint == forward.endpoint
        })?;
        Some(target(assigned, backend))
    }

    /// Returns what counts the connections to tasks of this node.
    pub(crate) fn connections(&self) -> &Connections {
        &self.carrier.connections
    }
}

fn target(assigned: &AssignedPort, backend: &Backend) -> Target {
    Target {
        endpoint: backend.endpoint,
        addresses: backend.addresses.clone(),
        port: assigned.port.target,
        client: assigned.port.client,
    }
}

/// Binds a published port, as soon as it is free and its address is there.
async fn listening<T>(
    address: SocketAddr,
    assigned: &watch::Receiver<AssignedPort>,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> T {
    loop {
        // One socket for both families, where there are both.
        let both = (address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
            .then(|| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port()));
        let bound = match both.map(&bind) {
            Some(Ok(listener)) => Ok(listener),
            _ => bind(address),
        };
        let error = match bound {
            Ok(listener) => return listener,
            Err(error) => error,
        };
        let (service, protocol) = {
            let assigned = assigned.borrow();
            (assigned.service_name.clone(), assigned.port.protocol)
        };
        if error.kind() == io::ErrorKind::AddrNotAvailable {
            // It is for the nodes that have the address; this one may get it yet.
            tracing::debug!(%address, ?protocol, %service, "this host has no such address to publish a port at");
        } else {
            tracing::warn!(%address, ?protocol, %service, %error, "a published port cannot be listened on; trying again");
        }
        sleep(RETRY).await;
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        setsockopt(&socket, Ipv6V6Only, &false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections on a published port until it is no more.
async fn listen(address: SocketAddr, carrier: Carrier, assigned: watch::Receiver<AssignedPort>) {
    let listener = listening(address, &assigned, bind).await;
    loop {
        let Ok(permit) = Arc::clone(&carrier.room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let (carrier, assigned) = (carrier.clone(), assigned.borrow().clone());
                tokio::spawn(async move {
                    if let Err(error) = carrier.carry(stream, from, &assigned).await {
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
    async fn carry(
        &self,
        mut client: TcpStream,
        from: SocketAddr,
        assigned: &AssignedPort,
    ) -> io::Result<()> {
        client.set_nodelay(true)?;
        let origin = Origin::new(from, client.local_addr()?);
        let count = assigned.backends.len();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "no task of the service runs");
        for at in 0..count {
            let backend = &assigned.backends[(first + at) % count];
            let tried = if backend.node == self.node {
                let _open = self.connections.open(backend.endpoint);
                let target = target(assigned, backend);
                match target.connect(&self.platform, origin).await {
                    Ok(mut task) => {
                        return copy_bidirectional(&mut client, &mut task).await.map(drop);
                    }
                    Err(error) => error,
                }
            } else {
                let reached = self.reach(KIND, backend, assigned.port.published, origin);
                match timeout(PATIENCE, reached).await {
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
        origin: Origin,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let Backend {
            node,
            role,
            management,
            ..
        } = *backend;
        let mut stream = session::reach(&self.sides, node, role, management).await?;
        let forward = Forward {
            endpoint: backend.endpoint,
            published,
            origin,
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
    ask: impl AsyncFnOnce(Forward) -> Option<(Target, Connections)>,
) -> io::Result<()> {
    let forward: Forward = timeout(PATIENCE, bootstrap::receive(KIND, &mut stream)).await??;
    let found = ask(forward).await;
    let _open = found
        .as_ref()
        .map(|(target, all)| all.open(target.endpoint));
    let connected = match &found {
        Some((target, _)) => target.connect(platform, forward.origin).await,
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let mut task = answer(&mut stream, connected).await?;
    copy_bidirectional(&mut stream, &mut task).await.map(drop)
}

/// Serves another node's request for a flow to a task of this one.
pub(crate) async fn serve_datagrams<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    platform: &PlatformThread,
    ask: impl AsyncFnOnce(Forward) -> Option<(Target, Connections)>,
) -> io::Result<()> {
    let received = bootstrap::receive(DATAGRAMS, &mut stream);
    let forward: Forward = timeout(PATIENCE, received).await??;
    let opened = match ask(forward).await {
        Some((target, _)) => target.datagrams(platform, forward.origin).await,
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

/// A connection to a task.
pub(crate) const KIND: u8 = b'F';
/// A flow of datagrams to a task.
pub(crate) const DATAGRAMS: u8 = b'U';
const TAKEN: u8 = 0;
const REFUSED: u8 = 1;
/// How many connections to published ports a node carries at a time; more wait.
const CONNECTIONS_MAX: usize = 4_096;
/// How many connections wait at a port to be accepted.
const BACKLOG: u32 = 1_024;
/// How long another node may take to reach its task.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait before a port that is in use is tried again.
const RETRY: Duration = Duration::from_secs(1);
