//! Sockets that show the address of a client which is on the endpoint's own network, beside that client itself.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use overlay_core::plane::Platform;
use overlay_linux::{PortKind, Sockets};
use socket2::Socket;

use super::{
    Test,
    bench::{Bench, Outcome},
};

pub(crate) const TESTS: &[(&str, Test)] = &[("a_shown_client_is_not_in_its_own_way", beside)];

const LIMIT: Duration = Duration::from_secs(5);

fn beside(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let address: SocketAddr = "10.0.1.2:5353".parse()?;
    let shown: SocketAddr = "10.0.1.3:40000".parse()?;
    let (server, client) = (bench.endpoint(0), bench.endpoint(1));
    let sockets = bench.linux.open_sockets(server, address)?;
    sockets.udp.set_nonblocking(false)?;
    sockets.udp.set_read_timeout(Some(LIMIT))?;
    sockets.tcp.set_nonblocking(false)?;
    // The client itself, over the network.
    let own = datagrams(bench.linux.open_datagrams(client, false, None)?, address)?;
    let seen = exchange(&own, &sockets)?;
    assert_eq!(seen.ip(), shown.ip());
    let own_stream = bench.linux.open_stream(client, false, None)?;
    let mut own_stream = stream(own_stream, address, &sockets)?;
    assert_eq!(own_stream.2.ip(), shown.ip());
    // Whoever speaks for it.
    let proxy = bench.linux.open_datagrams(server, false, Some(shown))?;
    let proxy = datagrams(proxy, address)?;
    let proxy_stream = bench.linux.open_stream(server, false, Some(shown))?;
    let mut proxy_stream = stream(proxy_stream, address, &sockets)?;
    assert_eq!(proxy_stream.2, shown);
    for _ in 0..3 {
        assert_eq!(exchange(&own, &sockets)?, seen);
        assert_eq!(exchange(&proxy, &sockets)?, shown);
        for (near, far, _) in [&mut own_stream, &mut proxy_stream] {
            near.write_all(b"ping")?;
            let mut heard = [0; 4];
            far.read_exact(&mut heard)?;
            far.write_all(b"pong")?;
            near.read_exact(&mut heard)?;
            assert_eq!(&heard, b"pong");
        }
        bench.succeed(0, &["ping", "-n", "-c", "1", "-W", "1", "10.0.1.3"])?;
    }
    // And new ones of its own.
    let another = bench.linux.open_stream(client, false, None)?;
    assert_eq!(stream(another, address, &sockets)?.2.ip(), shown.ip());
    Ok(())
}

fn datagrams(socket: UdpSocket, to: SocketAddr) -> Outcome<UdpSocket> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(to)?;
    Ok(socket)
}

/// A datagram there and one back; returns by which address it came.
fn exchange(socket: &UdpSocket, sockets: &Sockets) -> Outcome<SocketAddr> {
    socket.send(b"ping")?;
    let mut heard = [0; 4];
    let (_, from) = sockets.udp.recv_from(&mut heard)?;
    sockets.udp.send_to(b"pong", from)?;
    socket.recv(&mut heard)?;
    assert_eq!(&heard, b"pong");
    Ok(from)
}

/// Both ends of a connection, and by which address it came.
fn stream(
    socket: TcpStream,
    to: SocketAddr,
    sockets: &Sockets,
) -> Outcome<(TcpStream, TcpStream, SocketAddr)> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(false)?;
    socket.connect_timeout(&to.into(), LIMIT)?;
    let (far, from) = sockets.tcp.accept()?;
    let near = TcpStream::from(socket);
    for end in [&near, &far] {
        end.set_read_timeout(Some(LIMIT))?;
    }
    Ok((near, far, from))
}
