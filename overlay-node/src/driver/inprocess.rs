//! Endpoints inside the daemon's own process, where there is no privilege to make namespaces.
//!
//! Each has an [`Endpoint`] for a network stack. Frames and names go the same way as for any other endpoint.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixDatagram,
    },
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use overlay_core::{
    EndpointId,
    plane::{ActualPort, Change, DataPath, Desired, Namespace, Platform, PlatformError, PortSpec},
};
use overlay_vxlan::Offload;
use thiserror::Error;

use super::{PortIo, platform::ResolverSockets};
use crate::{
    plane::{EchoReply, Endpoint},
    stub,
};

/// A platform whose endpoints live in this process. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct InProcess(Arc<Mutex<Endpoints>>);

#[derive(Debug, Default)]
struct Endpoints {
    stacks: BTreeMap<EndpointId, Arc<Stack>>,
    /// Where the resolvers are, by the endpoints after which their namespaces are named.
    resolvers: BTreeMap<EndpointId, SocketAddr>,
}

/// An endpoint did not get an answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PingError {
    /// There is no such endpoint here.
    #[error("no endpoint {endpoint} in this process")]
    UnknownEndpoint {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// The name has no address.
    #[error("{name}: name or service not known")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// Nobody answered.
    #[error("{address} did not answer")]
    NoAnswer {
        /// Who was asked.
        address: Ipv4Addr,
    },
    /// The system refused.
    #[error("the resolver could not be asked: {kind}")]
    System {
        /// What it said.
        kind: io::ErrorKind,
    },
}

/// An endpoint's network stack and the wire to its port.
#[derive(Debug)]
struct Stack {
    spec: PortSpec,
    wire: UnixDatagram,
    far: UnixDatagram,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug)]
struct State {
    endpoint: Endpoint,
    replies: VecDeque<EchoReply>,
    sequence: u16,
}

/// The frame side of an endpoint's port.
#[derive(Debug)]
pub struct InProcessPort(UnixDatagram);

impl InProcess {
    /// Makes a platform without endpoints.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pings `target`, a name or an address, from an endpoint; returns who answered.
    ///
    /// Blocks for up to `patience`.
    ///
    /// # Errors
    ///
    /// See [`PingError`].
    pub fn ping(
        &self,
        endpoint: EndpointId,
        target: &str,
        patience: Duration,
    ) -> Result<EchoReply, PingError> {
        let stack = lock(&self.0).stacks.get(&endpoint).map(Arc::clone);
        let stack = stack.ok_or(PingError::UnknownEndpoint { endpoint })?;
        let address = match target.parse() {
            Ok(address) => address,
            Err(_) => {
                let resolver = lock(&self.0).resolvers.get(&stack.name()).copied();
                resolve(resolver, target, patience)?
            }
        };
        stack.ping(address, patience)
    }
}

impl Platform for InProcess {
    type Port = InProcessPort;
    type Sockets = ResolverSockets;
    fn create_port(&mut self, spec: &PortSpec) -> Result<Option<InProcessPort>, PlatformError> {
        if spec.path == DataPath::Kernel {
            return Err(PlatformError::Unsupported {
                what: "a network that the kernel carries",
                reason: "endpoints inside the process are not of the kernel's making".to_owned(),
            });
        }
        if let Namespace::Own | Namespace::Path(_) = spec.namespace {
            let what = "an endpoint in a namespace";
            let reason =
                "this daemon runs without the privilege to make namespaces; start it as root, \
                          or where the kernel allows user namespaces"
                    .to_owned();
            return Err(PlatformError::Unsupported { what, reason });
        }
        let v4 = spec
            .addresses
            .iter()
            .find_map(|address| match address.addr() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
        let address = v4.ok_or_else(|| PlatformError::Unsupported {
            what: "an in-process endpoint without an IPv4 address",
            reason: "its network stack speaks IPv4 only".to_owned(),
        })?;
        let system = |error| PlatformError::system("make a socket pair", &error);
        let (wire, far) = UnixDatagram::pair().map_err(system)?;
        far.set_nonblocking(true).map_err(system)?;
        let port = InProcessPort(far.try_clone().map_err(system)?);
        let state = State {
            endpoint: Endpoint::new(spec.mac, address),
            replies: VecDeque::new(),
            sequence: 0,
        };
        let (spec, state, answered) = (spec.clone(), Mutex::new(state), Condvar::new());
        let endpoint = spec.endpoint;
        let stack = Arc::new(Stack {
            spec,
            wire,
            far,
            state,
            answered,
        });
        let runner = Arc::clone(&stack);
        thread::Builder::new()
            .name("overlay-endpoint".to_owned())
            .spawn(move || runner.run())
            .map_err(|error| PlatformError::system("start a thread", &error))?;
        if let Some(former) = lock(&self.0).stacks.insert(endpoint, stack) {
            former.stop();
        }
        Ok(Some(port))
    }

    fn remove_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError> {
        let mut endpoints = lock(&self.0);
        if let Some(stack) = endpoints.stacks.remove(&endpoint) {
            stack.stop();
            let name = stack.name();
            if endpoints.stacks.values().all(|other| other.name() != name) {
                endpoints.resolvers.remove(&name);
            }
        }
        Ok(())
    }

    fn retain_ports(
        &mut self,
        kept: &BTreeSet<EndpointId>,
    ) -> Result<Vec<EndpointId>, PlatformError> {
        let mut gone: Vec<_> = lock(&self.0).stacks.keys().copied().collect();
        gone.retain(|endpoint| !kept.contains(endpoint));
        for endpoint in &gone {
            self.remove_port(*endpoint)?;
        }
        Ok(gone)
    }

    fn open_sockets(
        &mut self,
        endpoint: EndpointId,
        _address: SocketAddr,
    ) -> Result<ResolverSockets, PlatformError> {
        let stack = lock(&self.0).stacks.get(&endpoint).map(Arc::clone);
        let stack = stack.ok_or(PlatformError::UnknownEndpoint { endpoint })?;
        // There is no namespace in which 127.0.0.11 would be this endpoint's alone.
        let any_port = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let (sockets, address) = one_port_of_both(any_port)
            .map_err(|error| PlatformError::system("bind the resolver", &error))?;
        lock(&self.0).resolvers.insert(stack.name(), address);
        Ok(sockets)
    }

    fn apply(&mut self, _desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        Ok(Vec::new())
    }

    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError> {
        let describe = |(id, stack): (&EndpointId, &Arc<Stack>)| {
            let spec = &stack.spec;
            let (interface, mac, addresses) =
                (spec.interface.clone(), spec.mac, spec.addresses.clone());
            (
                *id,
                ActualPort {
                    interface,
                    mac,
                    addresses,
                    mtu: spec.mtu,
                    up: true,
                    way_out: None,
                },
            )
        };
        Ok(lock(&self.0).stacks.iter().map(describe).collect())
    }
}

impl Stack {
    fn run(&self) {
        let mut frame = vec![0; FRAME_BYTES_MAX];
        loop {
            match self.wire.recv(&mut frame) {
                Ok(0) => return,
                Ok(length) => {
                    let mut state = lock(&self.state);
                    state
                        .endpoint
                        .handle_frame(frame.get(..length).unwrap_or_default());
                    while let Some(reply) = state.endpoint.poll_reply() {
                        state.replies.push_back(reply);
                        self.answered.notify_all();
                    }
                    self.send(&mut state);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn stop(&self) {
        // The thread wakes with an end of file.
        let _ = self.wire.shutdown(std::net::Shutdown::Both);
        let _ = self.far.shutdown(std::net::Shutdown::Both);
    }

    fn send(&self, state: &mut State) {
        while let Some(frame) = state.endpoint.poll_frame() {
            // A wire may lose what does not fit.
            let _ = self.wire.send(&frame);
        }
    }

    fn ping(&self, address: Ipv4Addr, patience: Duration) -> Result<EchoReply, PingError> {
        let mut state = lock(&self.state);
        state.sequence = state.sequence.wrapping_add(1);
        let sequence = state.sequence;
        state.replies.clear();
        state.endpoint.ping(address, sequence);
        self.send(&mut state);
        let missing = |state: &mut State| {
            !state
                .replies
                .iter()
                .any(|reply| reply.from == address && reply.sequence == sequence)
        };
        let waited = self.answered.wait_timeout_while(state, patience, missing);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let reply = state
            .replies
            .iter()
            .find(|reply| reply.sequence == sequence)
            .copied();
        reply.ok_or(PingError::NoAnswer { address })
    }

    /// The endpoint after which its namespace is named.
    fn name(&self) -> EndpointId {
        self.spec.namespace.name(self.spec.endpoint)
    }
}

/// Opens TCP at the port that UDP got. A port that is free for UDP may be taken for TCP, as by a connection that closed
/// within the last minute: then another is tried.
fn one_port_of_both(
    mut udp: impl FnMut() -> io::Result<UdpSocket>,
) -> io::Result<(ResolverSockets, SocketAddr)> {
    let mut refused = Vec::new();
    loop {
        let udp = udp()?;
        let address = udp.local_addr()?;
        match TcpListener::bind(address) {
            Ok(tcp) => return Ok(((udp, tcp), address)),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(error) if refused.len() >= PORTS_TRIED_MAX => return Err(error),
            // Kept for so long, so that the next is another one.
            Err(_) => refused.push(udp),
        }
    }
}

fn resolve(
    resolver: Option<SocketAddr>,
    name: &str,
    patience: Duration,
) -> Result<Ipv4Addr, PingError> {
    let unknown = || PingError::UnknownName {
        name: name.to_owned(),
    };
    let resolver = resolver.ok_or_else(unknown)?;
    let query = stub::query(1, name).ok_or_else(unknown)?;
    let ask = || -> io::Result<Vec<IpAddr>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(resolver)?;
        socket.send(&query)?;
        let mut answer = vec![0; 1_232];
        let length = socket.recv(&mut answer)?;
        Ok(stub::addresses(answer.get(..length).unwrap_or_default()))
    };
    let addresses = ask().map_err(|error| PingError::System { kind: error.kind() })?;
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    v4.ok_or_else(unknown)
}

impl AsFd for InProcessPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PortIo for InProcessPort {
    fn read_into(&self, place: &mut [u8]) -> io::Result<(usize, Offload)> {
        match self.0.recv(place)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok((length, Offload::default())),
        }
    }

    fn write_frame(&self, frame: &[u8], _offload: Offload) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }
}

/// Takes a lock; what a panicking thread left is still whole, for every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const FRAME_BYTES_MAX: usize = 9_216;
/// At how many ports the resolver is tried.
const PORTS_TRIED_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_for_tcp_is_left_alone() {
        let loopback = || (Ipv4Addr::LOCALHOST, 0);
        let taken = TcpListener::bind(loopback()).unwrap();
        let mut first = Some(UdpSocket::bind(taken.local_addr().unwrap()).unwrap());
        let ports = || first.take().map_or_else(|| UdpSocket::bind(loopback()), Ok);
        let ((udp, tcp), address) = one_port_of_both(ports).unwrap();
        assert_ne!(address, taken.local_addr().unwrap());
        assert_eq!(udp.local_addr().unwrap(), address);
        assert_eq!(tcp.local_addr().unwrap(), address);
    }

    #[test]
    fn a_system_without_a_free_port_is_not_asked_for_ever() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = UdpSocket::bind(taken.local_addr().unwrap()).unwrap();
        let error = one_port_of_both(|| udp.try_clone()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
