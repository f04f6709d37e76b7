//! Look-ups: where the tables of a frame path lead, for whoever asks and not for a frame.

use std::net::IpAddr;

use overlay_core::{EndpointId, MacAddr, NetworkId};
use overlay_vxlan::Location;
use serde::{Deserialize, Serialize};

use super::Plane;

/// An address of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// Of an Ethernet interface.
    Mac(MacAddr),
    /// Of either family.
    Ip(IpAddr),
}

/// What the tables say of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The MAC address that requests for an IP address are answered with, or the one that was asked for; none if nobody has
    /// the address.
    pub mac: Option<MacAddr>,
    /// Where frames to that MAC address go; none if nowhere, or to a balancer.
    pub place: Option<Place>,
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// It runs here.
    Endpoint(EndpointId),
    /// Behind this VTEP.
    Vtep(IpAddr),
}

impl Plane {
    /// Returns what the switch's tables say of an address of a network; nothing of one that user space does not carry here.
    pub fn lookup(&self, network: NetworkId, address: Address) -> Found {
        let Some(carried) = self.applied.networks.get(&network) else {
            return Found::default();
        };
        let mac = match address {
            Address::Mac(mac) => Some(mac),
            Address::Ip(address) => self.switch.neighbour(carried.vni, address),
        };
        let location = mac.and_then(|mac| self.switch.location(carried.vni, mac));
        let place = location.and_then(|location| match location {
            Location::Vtep(vtep) => Some(Place::Vtep(vtep)),
            Location::Port(port) => {
                let mut ports = self.ports.iter();
                let found = ports.find(|(_, other)| **other == port);
                found.map(|(endpoint, _)| Place::Endpoint(*endpoint))
            }
        });
        let mac = match address {
            Address::Mac(mac) => place.map(|_| mac),
            Address::Ip(_) => mac,
        };
        Found { mac, place }
    }
}
