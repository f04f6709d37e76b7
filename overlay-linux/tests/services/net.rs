//! Two network namespaces, joined: one of clients, in which the test's thread is, and one of backends.
//!
//! Each backend is an address with a program on all ports that are asked for: of TCP it says its address and sends back what
//! it hears, of UDP it says its address to whoever says anything.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{self, CloneFlags};
use overlay_core::{
    EndpointId, MacAddr, ServiceId,
    plane::{DesiredBackend, DesiredService, Distance, VipConfig},
};
use overlay_linux::{
    netlink::{LinkChange, Netlink},
    services::{Kernel, Netfilter, Reconciler},
};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) type Services = BTreeMap<ServiceId, DesiredService>;

/// Runs in a thread of its own, in a namespace of clients. Says so loudly where that cannot be.
pub(crate) fn with_backends(
    name: &str,
    test: impl FnOnce(&mut Reconciler<Netfilter>) -> Outcome<()> + Send,
) -> Outcome<()> {
    thread::scope(|scope| {
        let told = scope.spawn(|| -> Outcome<()> {
            if let Err(error) = sched::unshare(CloneFlags::CLONE_NEWNET) {
                skip(name, &format!("no namespace: {error}"));
                return Ok(());
            }
            let mut kernel = Netfilter::open()?;
            if let Err(error) = kernel.read() {
                skip(name, &format!("no nf_tables: {error}"));
                return Ok(());
            }
            furnish()?;
            test(&mut Reconciler::new(kernel))
        });
        told.join().map_err(|_| "the test panicked")?
    })
}

pub(crate) fn skip(name: &str, why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {name}: {why}");
}

/// The pair of interfaces, and the backends.
fn furnish() -> Outcome<()> {
    let clients = File::open("/proc/thread-self/ns/net")?;
    let (said, ready) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        let made = backends(&clients).map_err(|error| error.to_string());
        let _ = said.send(made);
    })?;
    ready.recv()??;
    let own = (1..=2).map(|number| (v4(number), v6(number)));
    furnish_end("clients", own)
}

/// In a namespace of their own, which is there as long as their sockets are.
fn backends(clients: &File) -> Outcome<()> {
    sched::unshare(CloneFlags::CLONE_NEWNET)?;
    let mut netlink = Netlink::open()?;
    netlink.create_veth("backends", "clients", Some(clients.as_fd()))?;
    let own = BACKENDS.map(|number| (v4(number), v6(number)));
    furnish_end("backends", own)?;
    for number in BACKENDS {
        for address in [v4(number), v6(number)] {
            for port in PORTS {
                let stream = TcpListener::bind((address, port))?;
                let datagrams = UdpSocket::bind((address, port))?;
                thread::Builder::new().spawn(move || serve(&stream, address))?;
                thread::Builder::new().spawn(move || answer(&datagrams, address))?;
            }
        }
    }
    Ok(())
}

fn furnish_end(name: &str, addresses: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Outcome<()> {
    let mut netlink = Netlink::open()?;
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    for name in ["lo", name] {
        let link = netlink.link(name)?;
        netlink.change(link.index, up)?;
    }
    let link = netlink.link(name)?;
    for (v4, v6) in addresses {
        netlink.add_address(link.index, ipnet::IpNet::new(v4, 24)?)?;
        netlink.add_address(link.index, ipnet::IpNet::new(v6, 64)?)?;
    }
    Ok(())
}

fn serve(listener: &TcpListener, address: IpAddr) {
    for mut stream in listener.incoming().flatten() {
        let _ = thread::Builder::new().spawn(move || -> io::Result<()> {
            writeln!(stream, "{address}")?;
            io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
        });
    }
}

fn answer(socket: &UdpSocket, address: IpAddr) {
    let mut buffer = [0; 100];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(address.to_string().as_bytes(), from);
    }
}

/// A connection to a backend, with the backend's address.
pub(crate) struct Client {
    pub(crate) backend: IpAddr,
    stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(to: IpAddr) -> io::Result<Self> {
        Self::connect_port(to, PORTS[0])
    }

    pub(crate) fn connect_port(to: IpAddr, port: u16) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut line = Vec::new();
        let mut octet = [0];
        while octet != *b"\n" {
            stream.read_exact(&mut octet)?;
            line.extend_from_slice(&octet);
        }
        let text = String::from_utf8_lossy(&line);
        let backend = text.trim().parse().map_err(io::Error::other)?;
        Ok(Self { backend, stream })
    }

    /// Waits for something, which is never sent.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.stream.read_exact(&mut [0])
    }

    /// Ends the connection by a reset, so that nothing of it lingers.
    pub(crate) fn break_off(self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Sends something, and gets it back.
    pub(crate) fn echo(&mut self) -> io::Result<()> {
        self.stream.write_all(b"ping")?;
        let mut heard = [0; 4];
        self.stream.read_exact(&mut heard)?;
        assert_eq!(&heard, b"ping");
        Ok(())
    }
}

/// A socket of datagrams to an address.
pub(crate) fn datagrams(to: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv6() {
        [0; 16].into()
    } else {
        [0; 4].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect((to, PORTS[0]))?;
    Ok(socket)
}

/// Which backend answers a datagram.
pub(crate) fn ask(socket: &UdpSocket) -> io::Result<IpAddr> {
    socket.send(b"who")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    text.parse().map_err(io::Error::other)
}

/// A service with these backends, by number and weight.
pub(crate) fn service(addresses: &[IpAddr], backends: &[(u8, u16)]) -> DesiredService {
    let backends = backends.iter().map(|(number, weight)| {
        let backend = DesiredBackend {
            mac: MacAddr::new([2, 0, 0, 0, 1, *number]),
            addresses: vec![v4(*number), v6(*number)],
            weight: *weight,
            draining: false,
            distance: Distance::Far,
        };
        (endpoint(*number), backend)
    });
    DesiredService {
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        addresses: addresses.to_vec(),
        config: VipConfig::default(),
        backends: backends.collect(),
    }
}

pub(crate) fn one(service: DesiredService) -> Services {
    Services::from([(id(1), service)])
}

pub(crate) fn id(number: u8) -> ServiceId {
    ServiceId::from_bytes([number; 16])
}

pub(crate) fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

pub(crate) fn v4(number: u8) -> IpAddr {
    [10, 0, 1, number].into()
}

pub(crate) fn v6(number: u8) -> IpAddr {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[15] = number;
    octets.into()
}

/// Runs the usual tool in the namespace of the clients; none where it is not installed.
pub(crate) fn nft(words: &str) -> Outcome<Option<String>> {
    let Ok(output) = Command::new("nft").args(words.split(' ')).output() else {
        return Ok(None);
    };
    let said = String::from_utf8(output.stderr)?;
    assert!(output.status.success(), "nft {words}: {said}");
    Ok(Some(String::from_utf8(output.stdout)?))
}

/// Backends 3 to 6.
pub(crate) const BACKENDS: [u8; 4] = [3, 4, 5, 6];
const PORTS: [u16; 2] = [80, 8_080];
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
