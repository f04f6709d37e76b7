//! A UDP echo server (RFC 862) that says who answers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use tokio::net::UdpSocket;

use crate::cli::{Failure, print};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct EchodArgs {
    /// UDP port to listen at
    #[arg(long, default_value_t = 7)]
    port: u16,
}

/// The longest datagram, in octets.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// After a datagram that could not be taken.
const PAUSE: Duration = Duration::from_millis(10);

/// Answers until a signal ends it.
pub(super) async fn run(args: EchodArgs) -> Result<u8, Failure> {
    let port = args.port;
    let socket = bind(port).await;
    let socket = socket
        .map_err(|error| Failure::new(format_args!("cannot listen at port {port}: {error}")))?;
    print(&format!("listening at port {port}\n"));
    let task = std::env::var("OVERLAY_TASK").unwrap_or_default();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        if echo(&socket, &mut datagram, &task).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Listens at all addresses of both kinds, or at those of IPv4 where there is no other.
async fn bind(port: u16) -> io::Result<UdpSocket> {
    let any = |address: IpAddr| SocketAddr::new(address, port);
    match UdpSocket::bind(any(Ipv6Addr::UNSPECIFIED.into())).await {
        Ok(socket) => Ok(socket),
        Err(_) => UdpSocket::bind(any(Ipv4Addr::UNSPECIFIED.into())).await,
    }
}

/// Sends one datagram back. One that is empty asks who answers.
async fn echo(socket: &UdpSocket, datagram: &mut [u8], task: &str) -> io::Result<()> {
    let (length, from) = socket.recv_from(datagram).await?;
    let answer = match datagram.get(..length) {
        Some(same) if length > 0 => same,
        _ => task.as_bytes(),
    };
    socket.send_to(answer, from).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_datagram_comes_back_and_an_empty_one_asks_who_answers() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(server.local_addr().unwrap()).await.unwrap();
        let (mut datagram, mut answer) = (vec![0; DATAGRAM_BYTES_MAX], vec![0; DATAGRAM_BYTES_MAX]);
        for (asked, told) in [("hello", "hello"), ("", "echo.1"), ("a", "a")] {
            client.send(asked.as_bytes()).await.unwrap();
            echo(&server, &mut datagram, "echo.1").await.unwrap();
            let length = client.recv(&mut answer).await.unwrap();
            assert_eq!(&answer[..length], told.as_bytes());
        }
    }
}
