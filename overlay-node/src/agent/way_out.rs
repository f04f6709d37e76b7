//! Addresses on the bridge by which endpoints leave their node: the node's own business, given out by the node.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{EndpointId, plane::WayOut};
use overlay_ipam::{OwnerId, Subnet, SubnetConfig};

use super::Agent;

impl Agent {
    /// Returns the way out of the namespace that is named after an endpoint, the same each time; none if there is to be
    /// none, or no address is left.
    pub(super) fn open_way_out(&mut self, endpoint: EndpointId) -> Option<WayOut> {
        let config = self.config.way_out.clone()?;
        let prefix = IpNet::V4(config.subnet);
        let index = self.assignment().map_or(0, |assignment| assignment.version);
        let known = self.memory.way_out.take();
        // Another subnet than in the last life: its addresses are nobody's any more.
        let known = known.filter(|subnet| subnet.config().prefix == prefix);
        let mut subnet = match known {
            Some(subnet) => subnet,
            None => Subnet::new(SubnetConfig::new(prefix)).ok()?,
        };
        let lease = subnet.allocate(owner(endpoint), index);
        let gateway = subnet.gateway();
        self.memory.way_out = Some(subnet);
        self.memory_changed = true;
        let (IpAddr::V4(address), Some(IpAddr::V4(gateway))) = (lease.ok()?.address, gateway)
        else {
            return None;
        };
        let length = config.subnet.prefix_len();
        Some(WayOut {
            bridge: config.bridge,
            gateway: Ipv4Net::new(gateway, length).ok()?,
            interface: INTERFACE.to_owned(),
            address: Ipv4Net::new(address, length).ok()?,
            mtu: config.mtu,
        })
    }

    /// Takes back the address of a namespace that is gone, or has no way out any more.
    pub(super) fn close_way_out(&mut self, endpoint: EndpointId) {
        let index = self.assignment().map_or(0, |assignment| assignment.version);
        if let Some(subnet) = &mut self.memory.way_out {
            subnet.release_owner(owner(endpoint), index);
            self.memory_changed = true;
        }
    }
}

fn owner(endpoint: EndpointId) -> OwnerId {
    OwnerId::from_bytes(*endpoint.as_bytes())
}

/// Name of the interface inside a namespace: none of those that networks have, however many come and go.
const INTERFACE: &str = "out0";
