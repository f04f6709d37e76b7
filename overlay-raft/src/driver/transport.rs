//! How a connection is made, and who is at its other end.

use std::{future::Future, io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::RaftId;

/// Makes streams to and from other members: the place for TLS.
///
/// [`Tcp`] takes connections as they are. One that authenticates wraps them, for instance with `tokio-rustls`, whose streams
/// fit: [`connect`](Self::connect) checks that the certificate is that of `to`, [`accept`](Self::accept) reads out of the
/// certificate who the peer is.
pub trait Transport: Send + Sync + 'static {
    /// A stream in both directions.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to `to` at `address`. Dropped if that takes longer than
    /// [`connect_timeout`](super::LinksConfig::connect_timeout).
    fn connect(
        &self,
        to: RaftId,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Takes a connection that somebody at `address` made. Dropped if that takes longer than
    /// [`hello_timeout`](super::LinksConfig::hello_timeout).
    fn accept(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Accepted<Self::Stream>>> + Send;
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The stream.
    pub stream: S,
    /// Who the peer has proven to be: its hello must say the same. `None` takes the hello's word.
    pub proven: Option<RaftId>,
}

/// Plain TCP. It authenticates nobody and hides nothing: for networks where every host is trusted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Transport for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, _to: RaftId, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn accept(
        &self,
        stream: TcpStream,
        _address: SocketAddr,
    ) -> io::Result<Accepted<TcpStream>> {
        stream.set_nodelay(true)?;
        let proven = None;
        Ok(Accepted { stream, proven })
    }
}
