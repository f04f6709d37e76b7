//! A port's way out of the cluster's networks, and the host's way in.

use std::io;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One more interface of an endpoint, on a bridge of its host, with the default route and masquerading.
///
/// What Docker's `docker_gwbridge` is: the endpoint reaches what the host reaches, in the host's name; the host reaches
/// the endpoint; endpoints do not reach one another by it. IPv4 only. A node has one such bridge, so all its ports name
/// the same one, with the same gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayOut {
    /// Name of the bridge in the host's namespace, at most 15 octets: `overlay_gw`.
    pub bridge: String,
    /// The bridge's own address with the prefix length of its subnet: the endpoint's next hop. `172.18.0.1/16`.
    pub gateway: Ipv4Net,
    /// Name of the interface inside the endpoint, at most 15 octets: `out0`.
    pub interface: String,
    /// Its address, in the gateway's subnet and with its prefix length. `172.18.0.5/16`.
    pub address: Ipv4Net,
    /// MTU of the interface, in octets: the host's own, usually 1,500.
    pub mtu: u16,
}

/// What became of the [`WayOut`] that a port asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WayOutState {
    /// It is there.
    Open,
    /// It is not there; the port works without.
    Closed(NoWayOut),
}

/// Why a port has no way out although it asks for one.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NoWayOut {
    /// The process may not change the host's network.
    #[error("no privilege over the host's network: {operation}: {}", said(*code))]
    Privilege {
        /// What was tried, with its object: `make bridge overlay_gw`.
        operation: String,
        /// `errno`.
        code: i32,
    },
    /// The kernel has no nf_tables, or none that masquerades.
    #[error("the kernel does not masquerade by nf_tables: {operation}: {}", said(*code))]
    Netfilter {
        /// What was tried.
        operation: String,
        /// `errno`.
        code: i32,
    },
    /// The interface of the bridge's name was made by somebody else, and does not fit.
    #[error("{bridge} is not the bridge that is asked for: {reason}")]
    Bridge {
        /// Its name.
        bridge: String,
        /// What is the matter with it.
        reason: String,
    },
    /// What is asked for cannot be: an address outside its subnet, a name that is too long.
    #[error("such a way out is not possible: {reason}")]
    Invalid {
        /// What is the matter with it.
        reason: String,
    },
    /// Another system call failed.
    #[error("{operation}{}", said_of(*code))]
    System {
        /// What was tried, with its object.
        operation: String,
        /// `errno`, 0 if there was none.
        code: i32,
    },
    /// Somebody took parts of it away; the next [`apply`](super::Platform::apply) makes it again.
    #[error("it is incomplete: {missing}")]
    Incomplete {
        /// What is missing.
        missing: String,
    },
    /// This platform makes none.
    #[error("this platform has no way out")]
    Platform,
}

impl WayOut {
    /// Checks what no system would accept, before anything is changed.
    ///
    /// # Errors
    ///
    /// [`NoWayOut::Invalid`], in words.
    pub fn check(&self) -> Result<(), NoWayOut> {
        let refuse = |reason: String| Err(NoWayOut::Invalid { reason });
        for name in [&self.bridge, &self.interface] {
            let odd = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
            if name.is_empty() || name.len() > 15 || name.contains(odd) || name.starts_with('.') {
                return refuse(format!("{name:?} is no name of an interface"));
            }
        }
        let (gateway, address) = (self.gateway, self.address);
        if gateway.prefix_len() != address.prefix_len() || gateway.trunc() != address.trunc() {
            return refuse(format!("{address} is not in the subnet of {gateway}"));
        }
        if gateway.addr() == address.addr() {
            return refuse(format!("{} is the bridge's own address", address.addr()));
        }
        Ok(())
    }
}

/// The system's words for an error.
fn said(code: i32) -> String {
    io::Error::from_raw_os_error(code).to_string()
}

/// The same, after what was tried, where there was an error of the system.
fn said_of(code: i32) -> String {
    match code {
        0 => String::new(),
        code => format!(": {}", said(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way_out() -> WayOut {
        WayOut {
            bridge: "overlay_gw".into(),
            gateway: "172.18.0.1/16".parse().unwrap(),
            interface: "eth1".into(),
            address: "172.18.0.5/16".parse().unwrap(),
            mtu: 1500,
        }
    }

    #[test]
    fn what_no_system_would_accept_is_refused() {
        assert_eq!(way_out().check(), Ok(()));
        for (change, said) in [
            (
                (|way| way.bridge = "x".repeat(16)) as fn(&mut WayOut),
                "is no name of an interface",
            ),
            (|way| way.interface.clear(), "is no name of an interface"),
            (
                |way| way.interface = "../x".into(),
                "is no name of an interface",
            ),
            (
                |way| way.address = "172.19.0.5/16".parse().unwrap(),
                "is not in the subnet of 172.18.0.1/16",
            ),
            (
                |way| way.address = "172.18.0.5/24".parse().unwrap(),
                "is not in the subnet of 172.18.0.1/16",
            ),
            (
                |way| way.address = way.gateway,
                "is the bridge's own address",
            ),
        ] {
            let mut way = way_out();
            change(&mut way);
            let refused = way.check().unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn a_reason_is_readable() {
        let closed = NoWayOut::Privilege {
            operation: "make bridge overlay_gw".into(),
            code: 1,
        };
        let said = closed.to_string();
        assert!(
            said.starts_with("no privilege over the host's network: make bridge overlay_gw: "),
            "{said}"
        );
    }
}
