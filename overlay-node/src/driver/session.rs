//! Management sessions: one TLS connection carries frames both ways.
//!
//! Whoever has something to say dials; the other side answers on the same connection. A frame that cannot be sent is
//! dropped, for everything is repeated where it matters.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::NodeId;
use rustls::{ClientConfig, ServerConfig};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::{
    active::Input,
    bootstrap,
    doorstep::{Bounds, Doorstep, Guest},
    ingress, logs,
    platform::PlatformThread,
};
use crate::{
    Peer,
    api::{Protocol, Role},
    identity::{
        certificate,
        tls::{Sides, node_name},
    },
    wire,
};

/// Names one connection, so that the end of an old one does not end its successor.
pub(crate) type SessionId = u64;

/// Where frames for a peer go in.
pub(crate) type Frames = mpsc::Sender<Vec<u8>>;

/// Takes connections until the node stops.
pub(crate) async fn listen(
    listener: TcpListener,
    sides: watch::Receiver<Sides>,
    platform: PlatformThread,
    outputs: logs::Room,
    inputs: mpsc::Sender<Input>,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let doorstep = Doorstep::new(Bounds::default());
    let (mut told, mut refused) = (0, 0_u64);
    let mut tell = tokio::time::interval(TELL);
    loop {
        let accepted = tokio::select! {
            _ = tell.tick() => {
                let (waiting, sent_away) = doorstep.counts();
                if sent_away > told {
                    let new = sent_away - told;
                    tracing::warn!(
                        new, waiting,
                        "management connections that showed no certificate made way for others: somebody opens many"
                    );
                    told = sent_away;
                }
                refused = 0;
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                refused += 1;
                // Whatever it is, it comes again and again.
                if refused == 1 {
                    tracing::warn!(%error, "a management connection could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (server, inputs) = (Arc::clone(&sides.borrow().server), inputs.clone());
        let (platform, outputs) = (platform.clone(), outputs.clone());
        let (guest, room) = (doorstep.enter(from.ip()), Arc::clone(&room));
        tokio::spawn(async move {
            let accepted = accept(stream, server, guest, room, &platform, &outputs, inputs);
            if let Err(error) = accepted.await {
                tracing::debug!(%from, %error, "a management connection ended");
            }
        });
    }
}

/// Dials a manager and carries what comes through `frames`.
pub(crate) async fn dial(
    to: NodeId,
    address: SocketAddr,
    id: SessionId,
    client: Arc<ClientConfig>,
    frames: mpsc::Receiver<Vec<u8>>,
    inputs: mpsc::Sender<Input>,
) {
    let connected = timeout(HANDSHAKE, connect(address, client)).await;
    let result = match connected {
        Ok(Ok((stream, peer))) if peer.node == to => pump(stream, peer, frames, &inputs).await,
        Ok(Ok((_, peer))) => Err(invalid(format!("{} answered", peer.node))),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    if let Err(error) = result {
        tracing::debug!(%to, %address, %error, "a management session ended");
    }
    let _ = inputs.send(Input::SessionClosed { node: to, id }).await;
}

async fn connect(
    address: SocketAddr,
    client: Arc<ClientConfig>,
) -> std::io::Result<(TlsStream<TcpStream>, Peer)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(client);
    let stream = connector.connect(node_name(Role::Manager), stream).await?;
    let peer = peer_of(&stream)?;
    Ok((stream, peer))
}

/// Connects to another node for something beside a session, and makes sure that it is this node.
pub(crate) async fn reach(
    sides: &watch::Receiver<Sides>,
    node: NodeId,
    role: Role,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let client = Arc::clone(&sides.borrow().client);
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(client);
    let stream = connector.connect(node_name(role), stream).await?;
    if peer_of(&stream)?.node != node {
        return Err(invalid("another node answered"));
    }
    Ok(stream)
}

/// Returns who is at the other end, as its certificate says.
pub(crate) fn peer_of(stream: &TlsStream<TcpStream>) -> std::io::Result<Peer> {
    let chain = stream.get_ref().1.peer_certificates();
    let leaf = chain.and_then(|chain| chain.first());
    certificate::peer(leaf.ok_or_else(|| invalid("no certificate"))?).map_err(invalid)
}

async fn accept(
    stream: TcpStream,
    server: Arc<ServerConfig>,
    mut guest: Guest,
    room: Arc<Semaphore>,
    platform: &PlatformThread,
    outputs: &logs::Room,
    inputs: mpsc::Sender<Input>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(server);
    let stream = guest.within(HANDSHAKE, acceptor.accept(stream)).await?;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let Some(leaf) = leaf else {
        // No certificate: it can only ask to join.
        let serve = bootstrap::serve(stream, None, &inputs);
        return guest.within(HANDSHAKE, serve).await;
    };
    let peer = certificate::peer(leaf).map_err(invalid)?;
    let mut stream = stream;
    let kind = guest.within(HANDSHAKE, stream.read_u8()).await?;
    // It is one of the cluster's, and means something.
    drop(guest);
    let _place = room
        .try_acquire_owned()
        .map_err(|_| invalid("there are too many connections of nodes"))?;
    let first = Some(kind);
    let stream = Prefixed { first, stream };
    match kind {
        bootstrap::KIND => {
            timeout(HANDSHAKE, bootstrap::serve(stream, Some(peer), &inputs)).await?
        }
        ingress::KIND => {
            let ask = async |forward| ask(&inputs, peer.node, Protocol::Tcp, forward).await;
            ingress::serve(stream, platform, ask).await
        }
        ingress::DATAGRAMS => {
            let ask = async |forward| ask(&inputs, peer.node, Protocol::Udp, forward).await;
            ingress::serve_datagrams(stream, platform, ask).await
        }
        logs::KIND => logs::serve(stream, peer, &inputs, outputs).await,
        _ => {
            let (frames, receiver) = mpsc::channel(FRAMES_MAX);
            // Who lets go of the session ends it.
            let weak = frames.downgrade();
            let opened = Input::SessionOpened { peer, frames };
            inputs.send(opened).await.map_err(invalid)?;
            let result = pump(stream, peer, receiver, &inputs).await;
            let _ = inputs
                .send(Input::PeerGone {
                    node: peer.node,
                    frames: weak,
                })
                .await;
            result
        }
    }
}

/// Asks the node's loop where a task of this node answers.
async fn ask(
    inputs: &mpsc::Sender<Input>,
    asker: NodeId,
    protocol: Protocol,
    forward: ingress::Forward,
) -> Option<(ingress::Target, ingress::Connections)> {
    let (reply, answer) = oneshot::channel();
    let ask = ingress::Ask {
        asker,
        forward,
        protocol,
        reply,
    };
    inputs.send(Input::Forward(ask)).await.ok()?;
    answer.await.ok()?
}

/// Carries frames both ways until either side ends.
async fn pump<S: AsyncRead + AsyncWrite>(
    stream: S,
    peer: Peer,
    mut frames: mpsc::Receiver<Vec<u8>>,
    inputs: &mpsc::Sender<Input>,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        loop {
            let mut header = [0; wire::HEADER_BYTES];
            reader.read_exact(&mut header).await?;
            let length = wire::body_length(header).map_err(invalid)?;
            let mut frame = header.to_vec();
            // Grows with what arrives, not with what the header claims.
            let taken = (&mut reader)
                .take(length as u64)
                .read_to_end(&mut frame)
                .await?;
            if taken < length {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if inputs.send(Input::Peer { peer, frame }).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some(frame) = frames.recv().await {
            timeout(WRITE, writer.write_all(&frame)).await??;
            if frames.is_empty() {
                timeout(WRITE, writer.flush()).await??;
            }
        }
        Ok(())
    };
    tokio::select! {
        result = read => result,
        result = write => result,
    }
}

/// A stream whose first octet was read already.
struct Prefixed<S> {
    first: Option<u8>,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if buffer.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buffer.put_slice(&[first]);
            return std::task::Poll::Ready(Ok(()));
        }
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

pub(crate) fn invalid(reason: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, reason.to_string())
}

/// How many connections of nodes there are at a time.
const CONNECTIONS_MAX: usize = 4_096;
/// How often it is told that connections made way.
const TELL: Duration = Duration::from_secs(10);
/// How many frames may wait for a peer; more are dropped.
pub(crate) const FRAMES_MAX: usize = 1_024;
/// How long dialling, a handshake or joining may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a peer may leave its window closed.
const WRITE: Duration = Duration::from_secs(5);
