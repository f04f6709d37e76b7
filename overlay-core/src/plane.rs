//! The seam to the operating system: what the data plane shall be, as data, and who makes it so.
//!
//! [`Desired`] is computed by the node from its assignment and from the gossip tables. A [`Platform`] makes ports and
//! sockets, and lowers what of `Desired` the kernel carries; it reads back what is really there, so that the difference
//! is a value that can be printed, tested and counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{EndpointId, MacAddr, NetworkId, ServiceId, Vni};

mod balance;
mod policy;
mod sealing;
mod source;
mod way_out;

pub use balance::{Distance, Locality, Policy, VipConfig};
pub use policy::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict};
pub use sealing::{PeerKeys, SaKeys};
pub use source::{NoSource, SourceKind};
pub use way_out::{NoWayOut, WayOut, WayOutState};

/// The whole data plane of one node, as it shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// This node's end of the tunnels; none while it is not known.
    pub underlay: Option<Underlay>,
    /// The networks that have an endpoint here.
    pub networks: BTreeMap<NetworkId, DesiredNetwork>,
    /// What is sealed with for each VTEP of an encrypted network. Nothing goes to one that is not here, and nothing of it is
    /// taken.
    #[serde(default)]
    pub peers: BTreeMap<IpAddr, PeerKeys>,
}

/// One end of the tunnels between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The address of this node's VTEP: the outer source.
    pub address: IpAddr,
    /// The port of VXLAN, of UDP, on all nodes: 4789 (RFC 7348 §5).
    pub port: u16,
    /// The port of ESP in UDP, on all nodes: 4500 (RFC 3948).
    #[serde(default = "esp_port")]
    pub esp_port: u16,
    /// The MTU of the interface with that address, in octets.
    pub mtu: u16,
}

fn esp_port() -> u16 {
    4_500
}

/// One network on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredNetwork {
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Which plane carries its frames.
    #[serde(default)]
    pub path: DataPath,
    /// Its subnets; a frame from or to other addresses is dropped.
    pub subnets: Vec<IpNet>,
    /// Largest inner IP packet, in octets: the underlay's less the encapsulation's.
    pub mtu: u16,
    /// Whether frames of VLANs (IEEE 802.1Q) are carried, by their MAC addresses and whatever is in them; else they are dropped.
    #[serde(default)]
    pub vlan_tags: bool,
    /// Whether its frames are sealed between nodes. Then none leaves in clear, whatever else is or is not there, and none that
    /// comes in clear is taken.
    #[serde(default)]
    pub encrypted: bool,
    /// Who may reach whom.
    #[serde(default)]
    pub policy: NetworkPolicy,
    /// The endpoints that run here.
    pub ports: BTreeMap<EndpointId, DesiredPort>,
    /// The endpoints that run elsewhere: one FDB and one neighbour row each.
    pub remotes: BTreeMap<EndpointId, RemoteEndpoint>,
    /// The VTEPs of all other members: the flood list, and the only accepted outer sources.
    pub vteps: BTreeSet<IpAddr>,
    /// The services that are reached by a virtual address.
    pub services: BTreeMap<ServiceId, DesiredService>,
}

/// Which plane carries a network's frames on a node. Nodes may differ: what goes between them is VXLAN either way.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum DataPath {
    /// A switch in the daemon's process, which reads and writes the ports' frames.
    #[default]
    User,
    /// The system's own devices: the daemon programs them and sees no frame.
    Kernel,
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "user",
            Self::Kernel => "kernel",
        })
    }
}

/// One service of a network, as endpoints of this node reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredService {
    /// The MAC address that requests for its addresses are answered with; no endpoint has it.
    pub mac: MacAddr,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// How they are served.
    pub config: VipConfig,
    /// The endpoints that serve it, also on other nodes.
    pub backends: BTreeMap<EndpointId, DesiredBackend>,
}

/// One endpoint that serves a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredBackend {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its share of new flows, relative to the others'.
    pub weight: u16,
    /// Whether it keeps its flows and takes no new ones.
    pub draining: bool,
    /// How far it is.
    pub distance: Distance,
}

/// One endpoint that runs here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPort {
    /// Its MAC address; frames with another source are dropped.
    pub mac: MacAddr,
    /// Its addresses with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
}

/// One endpoint that runs on another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteEndpoint {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The underlay address of its node.
    pub vtep: IpAddr,
}

/// What a port is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSpec {
    /// The endpoint behind the port.
    pub endpoint: EndpointId,
    /// Where the inner end of the port goes.
    pub namespace: Namespace,
    /// Name of the interface in there, at most 15 octets: `eth0`.
    pub interface: String,
    /// MAC address of the interface.
    pub mac: MacAddr,
    /// Addresses of the interface, with the prefix lengths of their subnets.
    pub addresses: Vec<IpNet>,
    /// What else is reached by the interface directly, without a router: the other subnets of its network.
    pub on_link: Vec<IpNet>,
    /// Next hop of the default route, if the network has a way out.
    pub gateway: Option<IpAddr>,
    /// MTU of the interface, in octets.
    pub mtu: u16,
    /// The name of the endpoint's host, for its `/etc/hosts`.
    pub hostname: String,
    /// The way out of its namespace, if a network in there is not internal; then `gateway` is none. All ports of a
    /// namespace name the same one, and the port that was made last has the say. Where it cannot be made, the port is made
    /// without, and [`Platform::way_out`] says why.
    pub way_out: Option<WayOut>,
    /// Which plane the port belongs to: that of its network.
    #[serde(default)]
    pub path: DataPath,
}

/// The namespace in which the inner end of a port lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// A namespace made for this endpoint, with a resolver at 127.0.0.11; programs are started in it.
    Own,
    /// A network namespace that somebody else made, by its path.
    Path(PathBuf),
    /// None: the endpoint lives inside the platform's own process.
    InProcess,
    /// One that several endpoints of the same program share, each by an interface of its own: that of the endpoint after
    /// which it is named, which is in it as [`Own`](Self::Own) itself.
    ///
    /// It is made with the first of them and goes with the last, whichever they are: also when the endpoint that gave the
    /// name has gone before, or never came.
    Shared {
        /// The endpoint after which it is named.
        with: EndpointId,
        /// The number of this endpoint's interface in there, which no other has: 1 is `eth1`.
        interface: u8,
    },
}

impl Namespace {
    /// Returns the endpoint after which the namespace of `endpoint` is named: programs and the resolver go by it.
    pub fn name(&self, endpoint: EndpointId) -> EndpointId {
        match self {
            Self::Own | Self::Path(_) | Self::InProcess => endpoint,
            Self::Shared { with, .. } => *with,
        }
    }

    /// Returns the number of the endpoint's interface in there: 0 is `eth0`.
    pub fn interface(&self) -> u8 {
        match self {
            Self::Own | Self::Path(_) | Self::InProcess => 0,
            Self::Shared { interface, .. } => *interface,
        }
    }
}

/// The operating system below a node, or a stand-in for it.
///
/// `node`'s driver takes any platform: Linux, an in-memory one for the simulator, in-process endpoints where there is
/// no privilege. Calls block for as long as a system call does.
pub trait Platform {
    /// The frame side of a port: whoever holds it reads and writes frames.
    type Port;
    /// Sockets inside an endpoint's namespace.
    type Sockets;

    /// Makes the port of an endpoint, or takes up the one that a former life of this daemon left.
    ///
    /// There is none to hold where the system carries the frames itself ([`DataPath::Kernel`]); for [`DataPath::User`]
    /// there always is one.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]; nothing half made is left behind. [`PlatformError::Unsupported`] if the platform has no plane
    /// of this kind.
    fn create_port(&mut self, spec: &PortSpec) -> Result<Option<Self::Port>, PlatformError>;

    /// Removes the port of an endpoint, and its namespace with all that runs in there if the platform made it and no other
    /// port is left in it. Unknown endpoints are fine.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn remove_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError>;

    /// Removes what earlier lives of this daemon left of all other endpoints than these; returns whose it was.
    ///
    /// To be called once, before anything else: whoever died between two steps of a removal left the rest of it.
    ///
    /// # Errors
    ///
    /// The first of [`PlatformError`]; what could be removed is removed.
    fn retain_ports(
        &mut self,
        kept: &BTreeSet<EndpointId>,
    ) -> Result<Vec<EndpointId>, PlatformError>;

    /// Opens datagram and stream sockets at `address` inside the endpoint's namespace, for its resolver.
    ///
    /// Endpoints that share a namespace share its resolver: whoever has the sockets by way of one of them needs no others.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn open_sockets(
        &mut self,
        endpoint: EndpointId,
        address: SocketAddr,
    ) -> Result<Self::Sockets, PlatformError>;

    /// Makes a TCP socket inside the endpoint's namespace that is not connected yet: whoever gets it connects to what is
    /// reached from there.
    ///
    /// With a `source` it is bound to that address although nobody in there has it, so whoever accepts it sees that one as
    /// its peer: the client of a published port rather than the proxy. It reaches addresses of the namespace itself and no
    /// others, and answers come back to it whatever routes the namespace has; nothing else that the namespace sends goes
    /// another way than before. Port 0 lets the system choose one as it connects.
    ///
    /// Several such sockets may have the same source, as a client may come by the same port to several of the endpoint's.
    /// That it comes by the same one to the same one, so that two connections would have the same four numbers, is said
    /// by connecting: `EADDRNOTAVAIL`. It also is while a former connection of these numbers, which the proxy was the first
    /// to close, lingers (60 s); the same address with port 0 is of use then.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]; [`PlatformError::Unsupported`] unless the platform has such sockets. With a source besides:
    /// [`PlatformError::Source`] if it can be none, or none here, and [`PlatformError::System`] with `EADDRINUSE` if
    /// somebody in there listens at its port on all addresses. Without a source the socket may still be had.
    fn open_stream(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<TcpStream, PlatformError> {
        let _ = source;
        Err(no_sockets(endpoint, v6))
    }

    /// Makes a UDP socket inside the endpoint's namespace that is not connected yet, and does not block. Without a `source`
    /// it is not bound either.
    ///
    /// With one it is as in [`open_stream`](Self::open_stream), but for these: a datagram from an endpoint that listens on
    /// all of its addresses comes from its first one of the family, so that is the one to connect to. Port 0 is chosen at
    /// once. No two sockets of a namespace have the same source: what the second of them would hear would be lost to the
    /// first.
    ///
    /// # Errors
    ///
    /// As [`open_stream`](Self::open_stream); `EADDRINUSE` also if another socket in there has this source, and `EMFILE` if
    /// too many have one.
    fn open_datagrams(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<UdpSocket, PlatformError> {
        let _ = source;
        Err(no_sockets(endpoint, v6))
    }

    /// Returns the MTU of the interface that has this address, in octets; none if the platform knows of no such interface.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn underlay_mtu(&mut self, address: IpAddr) -> Result<Option<u16>, PlatformError> {
        let _ = address;
        Ok(None)
    }

    /// Lowers what of `desired` the kernel carries; returns what had to change.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]; changes before the failing one stay, and the next call goes on from there.
    fn apply(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError>;

    /// Lowers what of `desired` has changed, as soon as possible: others wait for it. It may leave the rest as it is, because
    /// [`apply`](Self::apply) looks at that soon; by default it is the same as that.
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply).
    fn apply_changes(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        self.apply(desired)
    }

    /// Says what [`apply`](Self::apply) would change of what the kernel carries, and changes nothing.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn plan(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        let _ = desired;
        Ok(Vec::new())
    }

    /// Reads back which endpoints really have a port.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError>;

    /// Says what became of the way out that the endpoint's port asks for; none if it asks for none.
    ///
    /// To be asked after [`create_port`](Self::create_port), which does not fail for the want of a way out.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn way_out(&mut self, endpoint: EndpointId) -> Result<Option<WayOutState>, PlatformError> {
        let port = self.actual()?.remove(&endpoint);
        let port = port.ok_or(PlatformError::UnknownEndpoint { endpoint })?;
        Ok(port.way_out)
    }
}

fn no_sockets(endpoint: EndpointId, v6: bool) -> PlatformError {
    let family = if v6 { "IPv6" } else { "IPv4" };
    PlatformError::Unsupported {
        what: "sockets of an endpoint",
        reason: format!("this platform has none of {family} for {endpoint}"),
    }
}

/// A port as it was read back from the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActualPort {
    /// Name of the interface.
    pub interface: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its MTU, in octets.
    pub mtu: u16,
    /// Whether it is up.
    pub up: bool,
    /// What became of its way out; none if it asks for none.
    pub way_out: Option<WayOutState>,
}

/// One repair of the difference between desired and actual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The endpoint that it is about, if one.
    pub endpoint: Option<EndpointId>,
    /// What was done, in words for people.
    pub action: String,
}

impl Change {
    /// Makes a change.
    pub fn new(endpoint: Option<EndpointId>, action: impl Into<String>) -> Self {
        Self {
            endpoint,
            action: action.into(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoint {
            Some(endpoint) => write!(f, "{}: {}", endpoint.short(), self.action),
            None => f.write_str(&self.action),
        }
    }
}

/// The system did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// A system call failed.
    #[error("{operation} failed: {kind} (os error {code})")]
    System {
        /// What was tried, with its object: `open /dev/net/tun`.
        operation: String,
        /// The kind of error.
        kind: std::io::ErrorKind,
        /// `errno`, 0 if there was none.
        code: i32,
    },
    /// The platform cannot do this at all.
    #[error("{what} is not possible here: {reason}")]
    Unsupported {
        /// What was asked.
        what: &'static str,
        /// Why not, and what would help.
        reason: String,
    },
    /// The endpoint has no port.
    #[error("endpoint {endpoint} has no port")]
    UnknownEndpoint {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// No socket in there can show this address as its own; without it one may still be had.
    #[error("no socket with the source {address}: {reason}")]
    Source {
        /// The address.
        address: SocketAddr,
        /// Why not.
        reason: NoSource,
    },
    /// The namespace does not exist or is none.
    #[error("{path:?} is not a network namespace: {kind}")]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
}

impl PlatformError {
    /// Makes a [`PlatformError::System`] from what the system said.
    pub fn system(operation: impl Into<String>, error: &std::io::Error) -> Self {
        Self::System {
            operation: operation.into(),
            kind: error.kind(),
            code: error.raw_os_error().unwrap_or_default(),
        }
    }
}
