//! How large a packet may be on its way to a VTEP.

use std::net::IpAddr;

use overlay_core::Vni;

use crate::{
    config::NetworkConfig,
    switch::Switch,
    tables::{Network, Vtep},
};

/// Least MTU of a link that carries IPv6 (RFC 8200 §5): nobody sends smaller packets because of an ICMP error.
const IPV6_MTU_MIN: u16 = 1_280;
/// Least MTU of a link that carries IPv4 (RFC 791 §3.2).
const IPV4_MTU_MIN: u16 = 68;

impl Switch {
    /// Says how large an outer IP packet to a VTEP may be, in octets; `None` if it is not known.
    ///
    /// A packet for an endpoint behind the VTEP then counts as too big above that less
    /// [`NetworkConfig::underlay_bytes`] (50 octets over IPv4, 70 over IPv6, 45 more if it is encrypted), even if the network's MTU would let it pass; but never
    /// at or below what any host must be able to send (1,280 octets of IPv6, 68 of IPv4): the underlay may fragment those.
    /// A packet of IPv4 without the DF flag is cut, the sender of any other one is told.
    /// What goes to all VTEPs is sent whatever their paths are. Returns whether the tables know the VTEP; what is said of
    /// it is forgotten with its last row.
    pub fn set_path_mtu(&mut self, vtep: IpAddr, outer_mtu: Option<u16>) -> bool {
        let index = self.tables.vtep_index(vtep.to_canonical());
        let vtep = index.and_then(|index| self.tables.vtep_mut(index));
        let known = vtep.is_some();
        if let Some(vtep) = vtep {
            vtep.path_mtu = outer_mtu;
        }
        known
    }

    /// Returns how large an outer IP packet to a VTEP may be, in octets, if that was said.
    #[must_use]
    pub fn path_mtu(&self, vtep: IpAddr) -> Option<u16> {
        let index = self.tables.vtep_index(vtep.to_canonical())?;
        self.tables.vtep(index)?.path_mtu
    }

    /// Returns the largest packet, in octets, that an endpoint of the network may send to one behind the VTEP.
    #[must_use]
    pub fn endpoint_mtu(&self, vni: Vni, vtep: IpAddr) -> Option<u16> {
        let network = self.tables.network(self.tables.network_index(vni)?)?;
        let index = self.tables.vtep_index(vtep.to_canonical())?;
        Some(self.tables.vtep(index)?.inner_mtu(&network.config))
    }
}

impl Vtep {
    /// Returns the largest inner packet, in octets, tags included.
    pub(crate) fn inner_mtu(&self, network: &NetworkConfig) -> u16 {
        let Some(outer) = self.path_mtu else {
            return network.mtu;
        };
        let overhead = network.underlay_bytes(self.address);
        network.mtu.min(outer.saturating_sub(overhead))
    }
}

impl Network {
    /// Returns the limit for a packet from `source` whose path has room for `mtu` octets, `tag_bytes` of tags included.
    pub(crate) fn limit(&self, source: IpAddr, mtu: u16, tag_bytes: u16) -> u16 {
        let least = match source {
            IpAddr::V4(_) => IPV4_MTU_MIN,
            IpAddr::V6(_) => IPV6_MTU_MIN,
        };
        mtu.max(least.saturating_add(tag_bytes))
            .min(self.config.mtu)
    }
}
