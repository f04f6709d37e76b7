//! Why a change of the switch's tables was refused.

use overlay_core::{MacAddr, Vni};
use thiserror::Error;

use crate::switch::PortId;

/// A network was not added or changed; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// There is such a network.
    #[error("network {vni} is there already")]
    Exists {
        /// Its identifier.
        vni: Vni,
    },
    /// There is no such network.
    #[error("no network {vni}")]
    Unknown {
        /// The identifier.
        vni: Vni,
    },
    /// There is no room for another network.
    #[error("expected at most {max} networks")]
    Full {
        /// The bound, [`Config::networks_max`](crate::Config::networks_max).
        max: usize,
    },
    /// There are more VTEPs than the network may have.
    #[error("expected at most {max} VTEPs, found {found}")]
    Vteps {
        /// The bound, [`Config::vteps_max`](crate::Config::vteps_max).
        max: usize,
        /// How many there would be.
        found: usize,
    },
    /// There are more virtual addresses than the network may have.
    #[error("expected at most {max} virtual addresses, found {found}")]
    VirtualAddresses {
        /// The bound, [`Config::virtual_addresses_max`](crate::Config::virtual_addresses_max).
        max: usize,
        /// How many there would be.
        found: usize,
    },
}

/// A port or a remote endpoint was not added; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// There is no such network.
    #[error("no network {vni}")]
    UnknownNetwork {
        /// The identifier.
        vni: Vni,
    },
    /// There is no such port.
    #[error("no port {port}")]
    UnknownPort {
        /// The port.
        port: PortId,
    },
    /// There is such a port.
    #[error("port {port} is there already")]
    PortExists {
        /// The port.
        port: PortId,
    },
    /// The MAC address is that of a group, or of nobody.
    #[error("expected the MAC address of one interface, found {mac}")]
    Mac {
        /// The address.
        mac: MacAddr,
    },
    /// The endpoint has more addresses than one may have.
    #[error("expected at most {max} addresses, found {found}")]
    Addresses {
        /// The bound, [`Config::addresses_max`](crate::Config::addresses_max).
        max: usize,
        /// How many there would be.
        found: usize,
    },
    /// There is no room for another one.
    #[error("expected at most {max} rows")]
    Full {
        /// The bound, [`Config::ports_max`](crate::Config::ports_max) or
        /// [`Config::remotes_max`](crate::Config::remotes_max).
        max: usize,
    },
}
