//! Virtual addresses, backends and flows: the words of the model.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use overlay_core::{EndpointId, MacAddr, NodeId, TaskId, plane::Distance};
use serde::{Deserialize, Serialize};

/// A virtual address: what clients connect to, one transport protocol and one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub addr: IpAddr,
    /// The transport protocol.
    pub proto: Protocol,
    /// The port. In [`Balancer::set_vip`](crate::Balancer::set_vip), 0 stands for every port that has no virtual address of
    /// its own: what Docker does with the address of a service.
    pub port: u16,
}

impl Vip {
    /// The one that stands for every port of this address.
    pub(crate) const fn any_port(self) -> Self {
        Self { port: 0, ..self }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proto = match self.proto {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{proto}", SocketAddr::new(self.addr, self.port))
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which backend: 16 octets that the embedder chooses, the same on all nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackendId([u8; 16]);

impl BackendId {
    /// Makes an identity from its 16 octets.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 octets.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The same text as that of the identity behind it.
        fmt::Display::fmt(&EndpointId::from_bytes(self.0), f)
    }
}

impl fmt::Debug for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendId({})", EndpointId::from_bytes(self.0).short())
    }
}

macro_rules! from_identity {
    ($($name:ident),*) => {$(
        impl From<$name> for BackendId {
            fn from(id: $name) -> Self {
                Self(*id.as_bytes())
            }
        }
    )*};
}

from_identity!(EndpointId, NodeId, TaskId);

/// One of those who serve a virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Which one.
    pub id: BackendId,
    /// Where it listens. Port 0: at the port that the client asked for. Two may have one address for a while, when a task
    /// moves.
    pub address: SocketAddr,
    /// Where frames that are rewritten to it are sent; `None` leaves their destination to the caller.
    pub mac: Option<MacAddr>,
    /// Its share of the new flows, relative to the others'. Zero: none.
    pub weight: u16,
    /// Whether it takes flows.
    pub state: BackendState,
    /// How far it is.
    pub distance: Distance,
}

impl Backend {
    /// Makes an active backend of weight 1 that is far away.
    pub const fn new(id: BackendId, address: SocketAddr) -> Self {
        Self {
            id,
            address,
            mac: None,
            weight: 1,
            state: BackendState::Active,
            distance: Distance::Far,
        }
    }
}

/// Whether a backend takes flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendState {
    /// It takes new flows.
    Active,
    /// It keeps its flows and takes no new ones.
    Draining,
    /// It is dead: it has no flows and takes none.
    Down,
}

/// A flow as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// Where the client connects to.
    pub vip: Vip,
    /// The client's address and port.
    pub client: SocketAddr,
}

/// The control bits of a TCP segment (RFC 9293 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronize sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);

    /// Makes flags from the header's octet; all values are valid.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Returns both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they are those of a client's first segment.
    pub(crate) const fn opens(self) -> bool {
        self.contains(Self::SYN) && !self.contains(Self::ACK)
    }

    /// Returns true if all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
