//! Reads queries: datagrams, and streams of messages that are preceded by their length (RFC 7766 §8).

use std::{io, net::UdpSocket, sync::Arc, time::Duration};

use overlay_core::EndpointId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{Input, Path, Sockets};
use crate::Transport;

/// More than any query has; what is longer is cut and answered as malformed.
const DATAGRAM_BYTES_MAX: usize = 4_096;
/// A pause after an error of the socket, so that a lasting one does not take a whole processor.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Reads datagrams.
pub(super) async fn datagrams(
    sockets: Sockets,
    client: EndpointId,
    socket: tokio::net::UdpSocket,
    sender: Arc<UdpSocket>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        let token = sockets.register(Path::Datagram {
            client,
            socket: Arc::clone(&sender),
            peer,
        });
        let input = Input::Query {
            client,
            token,
            transport: Transport::Udp,
            bytes: buffer.get(..length).unwrap_or_default().to_vec(),
        };
        if sockets.shared.inputs.try_send(input).is_err() {
            let mut state = sockets.state();
            state.paths.remove(&token);
            state.dropped += 1;
        }
    }
}

/// Accepts connections. Each has a task of its own, so that a slow one holds up nobody; they end with this one.
pub(super) async fn connections(sockets: Sockets, client: EndpointId, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
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
    answers: mpsc::Sender<Vec<u8>>,
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
            _permit: permit,
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
    mut answers: mpsc::Receiver<Vec<u8>>,
    message_timeout: Duration,
) {
    while let Some(bytes) = answers.recv().await {
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
