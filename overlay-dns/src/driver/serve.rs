//! Reads queries: datagrams, and streams of messages that are preceded by their length (RFC 7766 §8).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use overlay_core::EndpointId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{Answers, Datagrams, Input, Path, Room, Sockets};
use crate::Transport;

/// How much room for datagrams is kept; each thread of the runtime uses one at a time.
const ROOMS_MAX: usize = 2;
/// A pause after an error of the socket, so that a lasting one does not take a whole processor.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Reads datagrams, as many at once as are there, for as long as somebody takes them: the socket may have another reader
/// after that.
pub(super) async fn datagrams(
    sockets: Sockets,
    client: EndpointId,
    socket: tokio::net::UdpSocket,
    sender: Arc<UdpSocket>,
) {
    loop {
        let ready = tokio::select! {
            ready = socket.readable() => ready,
            () = sockets.shared.inputs.closed() => return,
        };
        let batch = ready.and_then(|()| receive(&sockets, &socket));
        let (peers, octets, ends) = match batch {
            Ok(batch) => batch,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        if peers.is_empty() {
            continue;
        }
        let first = sockets.register(Path::Datagrams {
            client,
            socket: Arc::clone(&sender),
            left: peers.len(),
            peers,
        });
        let input = Input::Datagrams(Datagrams {
            client,
            first,
            octets,
            ends,
        });
        if sockets.shared.inputs.try_send(input).is_err() {
            sockets.unregister(first);
        }
        // A socket that never runs dry leaves time for the answers.
        tokio::task::yield_now().await;
    }
}

/// Peers, the octets of their messages, and where each of these ends.
type Received = (Vec<Option<SocketAddr>>, Vec<u8>, Vec<usize>);

fn receive(sockets: &Sockets, socket: &tokio::net::UdpSocket) -> io::Result<Received> {
    let mut room = sockets.state().rooms.pop().unwrap_or_else(Room::new);
    let (mut peers, mut octets, mut ends) = Received::default();
    // One batch alone does not go beyond what may wait.
    let max = sockets.shared.config.queries_max.max(1);
    let received = socket.try_io(Interest::READABLE, || {
        room.receive(socket, max, |peer, bytes| {
            peers.push(Some(peer));
            octets.extend_from_slice(bytes);
            ends.push(octets.len());
        })
    });
    let mut state = sockets.state();
    if state.rooms.len() < ROOMS_MAX {
        state.rooms.push(room);
    }
    received.map(|()| (peers, octets, ends))
}

/// Accepts connections. Each has a task of its own, so that a slow one holds up nobody; they end with this one.
pub(super) async fn connections(sockets: Sockets, client: EndpointId, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sockets.shared.inputs.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() < sockets.shared.config.connections_max {
            connections.spawn(connection(sockets.clone(), client, stream));
        }
    }
}

async fn connection(sockets: Sockets, client: EndpointId, stream: TcpStream) {
    let (reader, writer) = stream.into_split();
    let config = &sockets.shared.config;
    let (answers, outgoing) = mpsc::channel(config.pipelined_max.max(1));
    let (message_timeout, idle_timeout) = (config.message_timeout, config.idle_timeout);
    let read = read_queries(&sockets, client, reader, answers);
    let write = write_answers(writer, outgoing, message_timeout);
    tokio::pin!(write);
    tokio::select! {
        _ = read => {}
        () = &mut write => return, // the client does not take its answers
    }
    // Nothing more is read; what is still being answered gets its time.
    let _ = timeout(idle_timeout, write).await;
}

async fn read_queries(
    sockets: &Sockets,
    client: EndpointId,
    mut reader: OwnedReadHalf,
    answers: Answers,
) -> io::Result<()> {
    let config = &sockets.shared.config;
    let permits = Arc::new(Semaphore::new(config.pipelined_max.max(1)));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let first = timeout(config.idle_timeout, reader.read_u8()).await??;
        let rest = read_rest(&mut reader, first);
        let bytes = timeout(config.message_timeout, rest).await??;
        let token = sockets.register(Path::Stream {
            client,
            answers: answers.clone(),
            permit,
        });
        let input = Input::Query {
            client,
            token,
            transport: Transport::Tcp,
            bytes,
        };
        let sent = sockets.shared.inputs.send(input).await;
        sent.map_err(io::Error::other)?;
    }
}

/// Reads what follows the first octet of the length.
async fn read_rest(reader: &mut OwnedReadHalf, first: u8) -> io::Result<Vec<u8>> {
    let length = u16::from_be_bytes([first, reader.read_u8().await?]);
    let mut bytes = Vec::new(); // grows with what arrives, not with what was announced
    let read = reader
        .take(u64::from(length))
        .read_to_end(&mut bytes)
        .await?;
    if read < usize::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

async fn write_answers(
    mut writer: OwnedWriteHalf,
    mut answers: mpsc::Receiver<(Vec<u8>, OwnedSemaphorePermit)>,
    message_timeout: Duration,
) {
    while let Some((bytes, _permit)) = answers.recv().await {
        let Some(framed) = framed(&bytes) else {
            continue;
        };
        match timeout(message_timeout, writer.write_all(&framed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Puts the length before a message, so that both leave in one segment.
pub(super) fn framed(bytes: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(bytes.len()).ok()?;
    Some([&length.to_be_bytes(), bytes].concat())
}
