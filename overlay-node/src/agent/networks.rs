//! The networks of a node: joined and left, and how each is carried here.

use std::collections::BTreeSet;

use overlay_core::{
    Instant, NetworkId,
    plane::{DataPath, PlatformError},
};

use overlay_vxlan::NetworkConfig;

use super::{Agent, AssignedNetwork, Wish, readiness};

impl Agent {
    pub(super) fn settle_networks(&mut self, now: Instant) {
        let Some(assignment) = &self.memory.assignment else {
            return;
        };
        let wanted: BTreeSet<_> = self.carried().map(|network| network.id).collect();
        for network in self.joined.difference(&wanted) {
            self.wishes.push_back(Wish::LeaveNetwork(*network));
            self.wishes.push_back(Wish::RemoveZone(*network));
            self.fetching.remove(network);
        }
        for network in assignment
            .networks
            .iter()
            .filter(|network| !network.ingress)
        {
            if !self.joined.contains(&network.id) {
                self.wishes
                    .push_back(Wish::SetZone(Box::new(network.clone())));
                self.wishes.push_back(Wish::JoinNetwork(network.id));
                self.fetching.insert(network.id, now + readiness::FETCHING);
            }
        }
        self.joined = wanted;
    }

    /// Tells names and ports of the subnets that networks have got since `before`.
    pub(super) fn grow_networks(&mut self, before: &[AssignedNetwork]) {
        let grown = |network: &&AssignedNetwork| {
            let mut before = before.iter().filter(|before| before.id == network.id);
            before.any(|before| before.subnets != network.subnets)
        };
        let grown: Vec<_> = self.carried().filter(grown).cloned().collect();
        for network in grown {
            let locals = self.endpoints.values();
            let on = locals.filter(|local| local.assigned.record.network == network.id);
            let endpoints: Vec<_> = on.map(|local| local.assigned.record.id).collect();
            self.wishes.push_back(Wish::SetZone(Box::new(network)));
            for endpoint in endpoints {
                // It is told what is new; whatever runs behind it goes on.
                self.create_port(endpoint);
            }
        }
    }

    /// Returns the networks whose frames this node carries, and whose names it knows.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &AssignedNetwork> {
        let networks = self.assignment().into_iter().flat_map(|all| &all.networks);
        networks.filter(|network| !network.ingress)
    }

    pub(super) fn network(&self, network: NetworkId) -> Option<&AssignedNetwork> {
        self.assignment()?
            .networks
            .iter()
            .find(|candidate| candidate.id == network)
    }

    /// Takes the MTU that the underlay has by now, in octets: networks without one of their own follow it.
    pub(crate) fn set_underlay_mtu(&mut self, mtu: u16) {
        self.config.underlay_mtu = mtu;
    }

    /// By which plane a network is carried here, or why it is not.
    pub(super) fn path(&self, network: &AssignedNetwork) -> Result<DataPath, PlatformError> {
        // No frames travel on the network of published ports.
        if network.ingress {
            return Ok(DataPath::User);
        }
        let (path, networks) = if network.encrypted {
            let unsealed = |reason| PlatformError::Unsupported {
                what: "an encrypted network",
                reason: format!("{} is not carried in clear, either: {reason}", network.name),
            };
            let path = self.config.sealing.as_ref();
            (*path.map_err(unsealed)?, "encrypted networks")
        } else {
            (self.config.data_path, "networks")
        };
        match network.path {
            Some(wanted) if wanted != path => Err(PlatformError::Unsupported {
                what: "a network whose data path is not this node's",
                reason: format!(
                    "{} is carried by {wanted}, and this node carries {networks} by {path}: create the network with \
                     data-path=auto{}",
                    network.name,
                    // Where the other one would not help: the kernel of this node cannot seal, as its daemon said at its start.
                    if wanted == self.config.data_path {
                        ", for its kernel cannot seal"
                    } else {
                        ", or start this node's daemon with the other --data-path"
                    }
                ),
            }),
            _ => Ok(path),
        }
    }

    /// The underlay's MTU less the octets of outer IP, UDP and VXLAN headers and the inner Ethernet header, and of what seals.
    pub(super) fn mtu(&self, network: &AssignedNetwork) -> u16 {
        let carried = NetworkConfig {
            encrypted: network.encrypted,
            ..NetworkConfig::default()
        };
        let overhead = carried.underlay_bytes(self.config.address);
        let most = self.config.underlay_mtu.saturating_sub(overhead);
        network.mtu.map_or(most, |wanted| wanted.min(most))
    }
}
