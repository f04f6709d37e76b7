//! Sockets that several resolvers share.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt::{Ipv6V6Only, ReuseAddr, ReusePort},
};

/// How many connections wait to be accepted.
const BACKLOG: i32 = 128;

/// Opens a UDP socket and a listener at an address that other sockets of this user may have as well.
///
/// A resolver is the work of one thread. Where one is not enough, each thread has a resolver of its own with the same
/// records, and serves sockets that it opened here: the system spreads clients over them (SO_REUSEPORT). With port 0 the
/// system chooses one, the same for both.
///
/// # Errors
///
/// What the system says: no such address, no permission, or somebody has the port who does not share it.
pub fn bind_shared(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let listener = open(address, SockType::Stream)?;
    let backlog = Backlog::new(BACKLOG).map_err(io::Error::from)?;
    listen(&listener, backlog)?;
    let listener = TcpListener::from(listener);
    let port = listener.local_addr()?.port();
    let udp = open(SocketAddr::new(address.ip(), port), SockType::Datagram)?;
    Ok((UdpSocket::from(udp), listener))
}

fn open(address: SocketAddr, kind: SockType) -> io::Result<std::os::fd::OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        setsockopt(&socket, ReuseAddr, &true)?;
    }
    setsockopt(&socket, ReusePort, &true)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}
