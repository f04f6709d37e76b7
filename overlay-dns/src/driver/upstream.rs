//! One query to one upstream server, from a socket of its own.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::mpsc,
};

use super::{Input, serve::framed};
use crate::{Transport, UpstreamToken};

/// We announce at most 1,232 octets by default; a server that sends more than this was not asked to.
const DATAGRAM_BYTES_MAX: usize = 4_096;

/// Sends the query and hands on what comes back, until the task is aborted.
pub(super) async fn exchange(
    inputs: mpsc::Sender<Input>,
    upstream: UpstreamToken,
    to: SocketAddr,
    transport: Transport,
    query: Vec<u8>,
) {
    let ended = match transport {
        Transport::Udp => datagram(&inputs, upstream, to, &query).await,
        Transport::Tcp => stream(&inputs, upstream, to, &query).await,
    };
    if ended.is_err() {
        // If the receiver is gone, so is the resolver.
        let _ = inputs.send(Input::UpstreamFailed { upstream }).await;
    }
}

/// The system chooses a random port for each new socket (RFC 5452 §9.2); being connected, the socket takes nothing
/// from any other address, and learns of unreachable ports.
async fn datagram(
    inputs: &mpsc::Sender<Input>,
    upstream: UpstreamToken,
    to: SocketAddr,
    query: &[u8],
) -> io::Result<()> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let input = Input::Upstream {
            upstream,
            from: to,
            bytes: buffer.get(..length).unwrap_or_default().to_vec(),
        };
        // The resolver may ignore it, as one that was forged: read on.
        inputs.send(input).await.map_err(io::Error::other)?;
    }
}

async fn stream(
    inputs: &mpsc::Sender<Input>,
    upstream: UpstreamToken,
    to: SocketAddr,
    query: &[u8],
) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    let framed = framed(query).ok_or(io::ErrorKind::InvalidInput)?;
    stream.write_all(&framed).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut bytes = Vec::new(); // grows with what arrives, not with what was announced
        let mut message = (&mut stream).take(u64::from(length));
        if message.read_to_end(&mut bytes).await? < usize::from(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let input = Input::Upstream {
            upstream,
            from: to,
            bytes,
        };
        inputs.send(input).await.map_err(io::Error::other)?;
    }
}
