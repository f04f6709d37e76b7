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
/// fit: after [`prepare`], [`connect`](Self::connect) checks that the certificate is that of `to`, [`accept`](Self::accept) reads out of the
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
        prepare(&stream)?;
        Ok(stream)
    }

    async fn accept(
        &self,
        stream: TcpStream,
        _address: SocketAddr,
    ) -> io::Result<Accepted<TcpStream>> {
        prepare(&stream)?;
        let proven = None;
        Ok(Accepted { stream, proven })
    }
}

/// Sets what a connection between members needs, for transports of one's own: nothing waits for more to send, and where the
/// system can do that, what nobody acknowledges within three seconds ends the connection.
///
/// Otherwise TCP would wait ever longer before it tries again, and a partition would last long after the network is whole.
///
/// # Errors
///
/// What the system said.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
        sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    }
    Ok(())
}

/// When a silent connection is asked whether it lives, and how often.
#[cfg(target_os = "linux")]
const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(1);

/// How long anything may stay unacknowledged, keep-alives included.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS_MAX: u32 = 3_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_prepared_connection_does_not_outlive_its_peer_for_long() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let id = RaftId::new(1).unwrap();
        let stream = Tcp.connect(id, listener.local_addr().unwrap()).await;
        let stream = stream.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(rustix::net::sockopt::socket_keepalive(&stream).unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(
            rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(),
            UNACKNOWLEDGED_MS_MAX
        );
    }
}
