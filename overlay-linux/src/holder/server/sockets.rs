//! Sockets of the namespace, handed to the daemon.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use super::Server;
use crate::{
    failure::{Doing, Failure},
    holder::{
        server::NOT_UNDERSTOOD,
        wire::{Reply, Request},
    },
};

impl Server {
    /// Answers a request for sockets.
    pub(super) fn open(&mut self, request: Request) -> Result<(Reply, Vec<OwnedFd>), Failure> {
        let sockets = match request {
            Request::Sockets(address) => self.sockets(address)?,
            Request::Stream { v6 } => vec![unbound(SockType::Stream, v6)?],
            Request::Datagrams { v6 } => vec![unbound(SockType::Datagram, v6)?],
            Request::From {
                endpoint,
                source,
                datagrams,
            } => {
                let kind = if datagrams {
                    SockType::Datagram
                } else {
                    SockType::Stream
                };
                match self.ports.open_from(endpoint, source, kind)? {
                    Ok(socket) => vec![socket],
                    Err(reason) => return Ok((Reply::NoSource(reason), Vec::new())),
                }
            }
            _ => return Err(Failure::new(NOT_UNDERSTOOD, &Errno::EINVAL.into())),
        };
        Ok((Reply::Done, sockets))
    }

    /// Datagram and listening sockets in the namespace. They are kept, so that queries wait while no daemon is there.
    fn sockets(&mut self, address: SocketAddr) -> Result<Vec<OwnedFd>, Failure> {
        if !self.sockets.contains_key(&address) {
            if self.sockets.len() >= SOCKETS_MAX {
                return Err(Failure::new("open more sockets", &Errno::EMFILE.into()));
            }
            let datagram = UdpSocket::bind(address).doing(|| format!("bind UDP {address}"))?;
            let stream = TcpListener::bind(address).doing(|| format!("bind TCP {address}"))?;
            for unblocked in [datagram.set_nonblocking(true), stream.set_nonblocking(true)] {
                unblocked.doing(|| "set a socket non-blocking".into())?;
            }
            self.sockets.insert(address, (datagram, stream));
        }
        let Some((datagram, stream)) = self.sockets.get(&address) else {
            return Ok(Vec::new());
        };
        let copies = [datagram.as_fd(), stream.as_fd()].map(|one| one.try_clone_to_owned());
        let copies: io::Result<Vec<_>> = copies.into_iter().collect();
        copies.doing(|| "copy sockets".into())
    }
}

/// Makes a TCP or UDP socket in the namespace that this process is in.
fn unbound(kind: SockType, v6: bool) -> Result<OwnedFd, Failure> {
    let family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, kind, flags, None).doing(|| format!("make a {kind:?} socket"))
}

/// Addresses with sockets.
const SOCKETS_MAX: usize = 16;
