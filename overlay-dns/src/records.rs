//! What an embedder says about names: the records of one endpoint or service in one network.

use std::net::IpAddr;

use overlay_core::NetworkId;

/// What an endpoint has in one network. One row of the network's table makes one of these.
///
/// Names are text as Docker takes it: labels separated by dots; case does not matter. A text that is no domain name is
/// left out, and counted in [`Stats::names_refused`](crate::Stats::names_refused).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    /// Name and aliases; the first is the primary name, to which reverse lookups lead.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Name and aliases of the service that it is a task of. `tasks.NAME` has its addresses, and so has `NAME` while
    /// no [`ServiceRecords`] give it a virtual address.
    pub services: Vec<String>,
    /// Its named ports: `_name._protocol.NAME` leads to them.
    pub ports: Vec<Port>,
    /// Texts of its names, one record each.
    pub texts: Vec<Vec<u8>>,
    /// Makes its names aliases of this one, wherever that leads. Ignored for names that have an address.
    pub canonical: Option<String>,
}

/// What a service has in one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRecords {
    /// Name and aliases; the first is the primary one, to which reverse lookups of its addresses lead.
    pub names: Vec<String>,
    /// Its virtual addresses. Without any its names lead to its tasks.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    pub ports: Vec<Port>,
    /// Texts of its names, one record each.
    pub texts: Vec<Vec<u8>>,
}

/// A named port (RFC 2782).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Its name without the underscore: `http`.
    pub name: String,
    /// Its protocol without the underscore: `tcp`.
    pub protocol: String,
    /// Its number.
    pub number: u16,
    /// Lower is taken first.
    pub priority: u16,
    /// Share among those of equal priority.
    pub weight: u16,
}

/// What one client can see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The networks that it is on, in the order in which they are searched: the first that has a name answers.
    pub networks: Vec<NetworkId>,
    /// Whether foreign names are forwarded. False for a client on internal networks only: nothing of it leaves.
    pub forward: bool,
}
