//! The socket of a published UDP port. It answers from the very address that was asked: a host may have several, and the
//! kernel would choose the one of its way to the client.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd as _,
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        SockaddrStorage, recvmsg, sendmsg, setsockopt, socket,
        sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only},
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// Who asked, and at which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Client {
    pub(super) from: SocketAddr,
    pub(super) at: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Outside(UdpSocket);

impl Outside {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Datagram, flags, None)?;
        if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            setsockopt(&socket, Ipv6V6Only, &false)?;
        }
        nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        let socket = UdpSocket::from_std(socket.into())?;
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        }
        Ok(Self(socket))
    }

    /// Waits for a datagram; returns its length and who sent it.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
        self.0
            .async_io(Interest::READABLE, || receive(&self.0, buffer))
            .await
    }

    /// Sends an answer to a client.
    pub(super) async fn send(&self, bytes: &[u8], client: Client) -> io::Result<()> {
        self.0
            .async_io(Interest::WRITABLE, || send(&self.0, bytes, client))
            .await
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let from = message.address.as_ref().and_then(address_of);
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    let at = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::V4(Ipv4Addr::from(
            info.ipi_spec_dst.s_addr.to_ne_bytes(),
        ))),
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)))
        }
        _ => None,
    });
    let at = at.filter(|at| !at.is_multicast());
    Ok((message.bytes, Client { from, at }))
}

fn send(socket: &UdpSocket, bytes: &[u8], client: Client) -> io::Result<()> {
    let (v4, v6);
    let control = match client.at {
        Some(IpAddr::V4(at)) => {
            v4 = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(at.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            Some(ControlMessage::Ipv4PacketInfo(&v4))
        }
        Some(IpAddr::V6(at)) => {
            v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: at.octets(),
                },
                ipi6_ifindex: 0,
            };
            Some(ControlMessage::Ipv6PacketInfo(&v6))
        }
        None => None,
    };
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control.as_slice(),
        MsgFlags::MSG_DONTWAIT,
        Some(&SockaddrStorage::from(client.from)),
    )?;
    Ok(())
}

fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in();
    let v6 = storage.as_sockaddr_in6();
    v4.map(|v4| SocketAddr::V4((*v4).into()))
        .or_else(|| v6.map(|v6| SocketAddr::V6((*v6).into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback is a whole subnet of addresses: what is asked at one of them is answered from there.
    #[tokio::test]
    async fn an_answer_comes_from_the_address_that_was_asked() {
        for (any, asked) in [
            ("0.0.0.0:0", "127.0.0.7"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::]:0", "::1"),
            ("[::]:0", "127.0.0.9"),
        ] {
            let Ok(outside) = Outside::bind(any.parse().unwrap()) else {
                // There are hosts without IPv6.
                assert!(any.starts_with('['));
                continue;
            };
            let port = outside.0.local_addr().unwrap().port();
            let to = SocketAddr::new(asked.parse().unwrap(), port);
            // Not connected: it sees where answers come from.
            let client = if to.is_ipv4() {
                "127.0.0.1:0"
            } else {
                "[::1]:0"
            };
            let client = UdpSocket::bind(client).await.unwrap();
            client.send_to(b"ping", to).await.unwrap();
            let mut buffer = [0; 16];
            let (length, from) = outside.receive(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"ping");
            outside.send(b"pong!", from).await.unwrap();
            let (length, answered) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], answered), (&b"pong!"[..], to));
        }
    }
}
