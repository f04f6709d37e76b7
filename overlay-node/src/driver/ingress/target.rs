//! Tasks of this node, reached from inside their namespaces on behalf of clients of published ports.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use overlay_core::EndpointId;
use overlay_lb::proxy::{Header, Relayed, Version};
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    api::ClientAddress,
    driver::{platform::PlatformThread, session::invalid},
};

/// Who connects to a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The client.
    client: SocketAddr,
    /// Where it connected to.
    published: SocketAddr,
}

impl Origin {
    pub(super) fn new(client: SocketAddr, published: SocketAddr) -> Self {
        // A socket for both families writes IPv4 addresses as IPv6 ones.
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self {
            client: canonical(client),
            published: canonical(published),
        }
    }
}

/// A task of this node that answers on a published port.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(super) endpoint: EndpointId,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port: u16,
    pub(super) client: ClientAddress,
}

impl Target {
    /// Connects to it, from the client's own address if that is wanted and can be.
    pub(super) async fn connect(
        &self,
        platform: &PlatformThread,
        origin: Origin,
    ) -> io::Result<TcpStream> {
        let (to, source) = self.ends(origin)?;
        // Its port may be in use: the client reaches another published port of the same task by it, or did a moment ago.
        let any_port = source.map(|source| SocketAddr::new(source.ip(), 0));
        for source in [source, any_port].into_iter().flatten() {
            let made = platform
                .stream(self.endpoint, to.is_ipv6(), Some(source))
                .await;
            let connected = match made {
                Ok(socket) => reach(socket, to).await,
                Err(_) => continue,
            };
            match connected {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
                connected => return connected,
            }
        }
        let socket = platform.stream(self.endpoint, to.is_ipv6(), None).await;
        let mut stream = reach(socket.map_err(invalid)?, to).await?;
        if let Some(header) = self.header(origin) {
            stream.write_all(&header).await?;
        }
        Ok(stream)
    }

    /// Opens a socket to it, with the client's own address if that is wanted and can be.
    pub(super) async fn datagrams(
        &self,
        platform: &PlatformThread,
        origin: Origin,
    ) -> io::Result<(UdpSocket, SocketAddr)> {
        let (to, source) = self.ends(origin)?;
        if source.is_some()
            && let Ok(socket) = platform
                .datagrams(self.endpoint, to.is_ipv6(), source)
                .await
        {
            let socket = UdpSocket::from_std(socket)?;
            socket.connect(to).await?;
            return Ok((socket, to));
        }
        let socket = platform.datagrams(self.endpoint, to.is_ipv6(), None).await;
        let socket = UdpSocket::from_std(socket.map_err(invalid)?)?;
        socket.connect(to).await?;
        Ok((socket, to))
    }

    /// Where it is reached, and from what address of the client's if it shall be that.
    fn ends(&self, origin: Origin) -> io::Result<(SocketAddr, Option<SocketAddr>)> {
        let from = origin.client;
        let mut addresses = self.addresses.iter();
        let same = addresses.find(|address| address.is_ipv4() == from.is_ipv4());
        let address = same.or(self.addresses.first());
        let address = address.ok_or_else(|| invalid("the task has no address"))?;
        // A program trusts what comes from its own loopback; and replies to one's own link would not come back.
        let shown =
            self.client == ClientAddress::Kept && same.is_some() && !from.ip().is_loopback();
        Ok((SocketAddr::new(*address, self.port), shown.then_some(from)))
    }

    /// What comes before the client's octets.
    fn header(&self, origin: Origin) -> Option<Vec<u8>> {
        let version = match self.client {
            ClientAddress::ProxyV1 => Version::V1,
            ClientAddress::ProxyV2 => Version::V2,
            ClientAddress::Kept | ClientAddress::Hidden => return None,
        };
        let relayed = Relayed::new(overlay_lb::Protocol::Tcp, origin.client, origin.published);
        Some(
            relayed
                .map_or(Header::Unknown, Header::Relayed)
                .emit(version),
        )
    }
}

async fn reach(socket: std::net::TcpStream, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket);
    let stream = timeout(CONNECT, socket.connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The connections to tasks of this node that its published ports carry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<BTreeMap<EndpointId, u32>>>);

impl Connections {
    /// Counts a connection until what is returned is dropped.
    pub(super) fn open(&self, endpoint: EndpointId) -> Connection {
        *self.lock().entry(endpoint).or_default() += 1;
        let all = self.clone();
        Connection { all, endpoint }
    }

    pub(crate) fn to(&self, endpoint: EndpointId) -> u32 {
        self.lock().get(&endpoint).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Connection {
    all: Connections,
    endpoint: EndpointId,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(count) = all.get_mut(&self.endpoint) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.endpoint);
            }
        }
    }
}

/// How long a task may take to accept.
const CONNECT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn target(addresses: &[&str], client: ClientAddress) -> Target {
        Target {
            endpoint: EndpointId::from_bytes([1; 16]),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            port: 80,
            client,
        }
    }

    fn origin(client: &str) -> Origin {
        Origin::new(
            client.parse().unwrap(),
            "[::ffff:192.0.2.1]:8080".parse().unwrap(),
        )
    }

    #[test]
    fn a_client_is_shown_to_a_task_that_speaks_its_family() {
        let both = ["10.0.1.2", "fd00::2"];
        for (addresses, client, to, shown) in [
            (&both[..], "192.0.2.7:99", "10.0.1.2:80", true),
            (&both, "[::ffff:192.0.2.7]:99", "10.0.1.2:80", true),
            (&both, "[2001:db8::7]:99", "[fd00::2]:80", true),
            (&both[..1], "[2001:db8::7]:99", "10.0.1.2:80", false),
            (&both[1..], "192.0.2.7:99", "[fd00::2]:80", false),
            (&both, "127.0.0.1:99", "10.0.1.2:80", false),
            (&both, "[::1]:99", "[fd00::2]:80", false),
        ] {
            let origin = origin(client);
            let kept = target(addresses, ClientAddress::Kept).ends(origin).unwrap();
            assert_eq!(kept.0.to_string(), to, "{client}");
            assert_eq!(kept.1.is_some(), shown, "{client}");
            assert!(
                kept.1
                    .is_none_or(|shown| !shown.ip().to_string().contains("ffff"))
            );
            for other in [
                ClientAddress::Hidden,
                ClientAddress::ProxyV1,
                ClientAddress::ProxyV2,
            ] {
                let ends = target(addresses, other).ends(origin).unwrap();
                assert_eq!(ends.1, None);
            }
        }
        let nowhere = target(&[], ClientAddress::Kept).ends(origin("192.0.2.7:99"));
        assert!(nowhere.is_err());
    }

    #[test]
    fn the_proxy_protocol_says_both_ends() {
        let header = |client, origin| target(&["10.0.1.2"], client).header(origin);
        let kept = origin("192.0.2.7:99");
        assert_eq!(header(ClientAddress::Kept, kept), None);
        assert_eq!(header(ClientAddress::Hidden, kept), None);
        assert_eq!(
            header(ClientAddress::ProxyV1, kept).unwrap(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 99 8080\r\n"
        );
        let binary = header(ClientAddress::ProxyV2, kept).unwrap();
        let parsed = Header::parse(&binary).unwrap().unwrap();
        let Header::Relayed(relayed) = parsed.header else {
            panic!("{parsed:?}")
        };
        assert_eq!(
            relayed,
            Relayed::new(overlay_lb::Protocol::Tcp, kept.client, kept.published).unwrap()
        );
        // Families that do not go together cannot be written down.
        let mixed = origin("[2001:db8::7]:99");
        assert_eq!(
            header(ClientAddress::ProxyV1, mixed).unwrap(),
            b"PROXY UNKNOWN\r\n"
        );
    }

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let (all, [one, two]) = (
            Connections::default(),
            [1, 2].map(|number| EndpointId::from_bytes([number; 16])),
        );
        let open = [all.open(one), all.open(one), all.open(two)];
        assert_eq!((all.to(one), all.to(two)), (2, 1));
        drop(open);
        assert_eq!((all.to(one), all.to(two)), (0, 0));
        assert!(all.lock().is_empty());
    }
}
