//! The frame path of one node: one value that one thread drives.
//!
//! Out of an endpoint: anti-spoof and switch (verdict), then encapsulation into the frame's headroom. Into one: decapsulate,
//! member and anti-spoof checks, switch. Policy, balancer and sealing take their places between these stages.

mod endpoint;

use std::{collections::BTreeMap, net::IpAddr};

use overlay_core::{
    EndpointId, Instant, NetworkId, Seed,
    plane::{Desired, DesiredNetwork},
};
use overlay_vxlan::{Config, Frame, NetworkConfig, PortId, Sink, Switch};

pub use endpoint::{EchoReply, Endpoint};

/// The frame path of one node.
#[derive(Debug)]
pub struct Plane {
    switch: Switch,
    applied: Desired,
    ports: BTreeMap<EndpointId, PortId>,
    next_port: u32,
    refused: u64,
}

impl Plane {
    /// Makes a frame path that carries nothing.
    pub fn new(seed: Seed) -> Self {
        Self {
            switch: Switch::new(Config::default(), seed),
            applied: Desired::default(),
            ports: BTreeMap::new(),
            next_port: 0,
            refused: 0,
        }
    }

    /// Makes the tables what `desired` says; what does not differ is not touched.
    ///
    /// What the switch refuses (a bound of its configuration) is left out and counted by [`refused`](Self::refused).
    pub fn apply(&mut self, desired: &Desired) {
        let before = std::mem::take(&mut self.applied);
        for (network, present) in &before.networks {
            let kept = desired
                .networks
                .get(network)
                .is_some_and(|next| next.vni == present.vni);
            if !kept {
                self.remove_network(present);
            }
        }
        for (network, next) in &desired.networks {
            let present = before
                .networks
                .get(network)
                .filter(|present| present.vni == next.vni);
            if present != Some(next) {
                self.set_network(*network, present, next);
            }
        }
        self.applied = desired.clone();
    }

    /// Takes a frame that the endpoint behind `port` sent.
    pub fn handle_local(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) {
        self.switch.handle_local(now, port, frame, sink);
    }

    /// Takes the payload of a datagram that came from a VTEP: the VXLAN header and a frame.
    pub fn handle_remote(
        &mut self,
        now: Instant,
        from: IpAddr,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) {
        self.switch.handle_remote(now, from, frame, sink);
    }

    /// Returns the port of an endpoint that runs here.
    pub fn port(&self, endpoint: EndpointId) -> Option<PortId> {
        self.ports.get(&endpoint).copied()
    }

    /// Returns the switch, for its tables and counters.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Returns how many rows and ports the switch refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn remove_network(&mut self, network: &DesiredNetwork) {
        for endpoint in network.ports.keys() {
            if let Some(port) = self.ports.remove(endpoint) {
                self.switch.remove_port(port);
            }
        }
        self.switch.remove_network(network.vni);
    }

    fn set_network(
        &mut self,
        _network: NetworkId,
        present: Option<&DesiredNetwork>,
        next: &DesiredNetwork,
    ) {
        let config = NetworkConfig {
            mtu: next.mtu,
            subnets: next.subnets.clone(),
            ..NetworkConfig::default()
        };
        let made = match present {
            None => self.switch.add_network(next.vni, config),
            Some(present) if present.mtu != next.mtu || present.subnets != next.subnets => {
                self.switch.set_network(next.vni, config)
            }
            Some(_) => Ok(()),
        };
        self.count(made.is_ok());
        let none = BTreeMap::new();
        let before = present.map_or(&none, |present| &present.ports);
        for (endpoint, port) in before {
            if next.ports.get(endpoint) != Some(port)
                && let Some(port) = self.ports.remove(endpoint)
            {
                self.switch.remove_port(port);
            }
        }
        for (endpoint, port) in &next.ports {
            if before.get(endpoint) != Some(port) {
                let id = PortId(self.next_port);
                self.next_port = self.next_port.wrapping_add(1);
                let addresses: Vec<_> = port.addresses.iter().map(ipnet::IpNet::addr).collect();
                let added = self.switch.add_port(id, next.vni, port.mac, &addresses);
                self.count(added.is_ok());
                self.ports.insert(*endpoint, id);
            }
        }
        if present.is_none_or(|present| present.vteps != next.vteps) {
            let set = self.switch.set_vteps(next.vni, &next.vteps);
            self.count(set.is_ok());
        }
        if present.is_none_or(|present| present.remotes != next.remotes) {
            let refused = self.switch.set_remotes(next.vni, next.remotes.values());
            self.refused += refused.map_or(1, |rows| rows as u64);
        }
    }

    fn count(&mut self, taken: bool) {
        self.refused += u64::from(!taken);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_core::{
        MacAddr, Vni,
        plane::{DesiredPort, RemoteEndpoint},
    };

    use super::*;

    #[test]
    fn what_is_not_desired_any_more_is_in_no_table() {
        let mut plane = Plane::new(Seed::from_u64(1));
        let (one, two) = (id(1), id(2));
        plane.apply(&desired(10, &[(one, 1)], &[(two, 2)]));
        let first = plane.port(one).unwrap();
        assert_eq!(seen(&plane, 10), [Some(mac(1)), Some(mac(2)), None]);
        // Another address makes another port, and the old address is nobody's.
        plane.apply(&desired(10, &[(one, 3)], &[(two, 2)]));
        assert_ne!(plane.port(one), Some(first));
        assert_eq!(seen(&plane, 10), [None, Some(mac(2)), Some(mac(3))]);
        // The endpoint moves to another host and another takes its place.
        plane.apply(&desired(10, &[(two, 2)], &[(one, 3)]));
        assert_eq!(plane.port(one), None);
        assert_eq!(seen(&plane, 10), [None, Some(mac(2)), Some(mac(3))]);
        plane.apply(&desired(10, &[(two, 2)], &[]));
        assert_eq!(seen(&plane, 10), [None, Some(mac(2)), None]);
        plane.apply(&desired(11, &[(two, 2)], &[]));
        assert_eq!(seen(&plane, 10), [None; 3]);
        assert_eq!(seen(&plane, 11), [None, Some(mac(2)), None]);
        plane.apply(&Desired::default());
        assert_eq!(seen(&plane, 11), [None; 3]);
        assert_eq!((plane.port(two), plane.refused()), (None, 0));
    }

    /// One network with the ports of endpoints here and the rows of endpoints elsewhere, each with an address.
    fn desired(vni: u32, ports: &[(EndpointId, u8)], remotes: &[(EndpointId, u8)]) -> Desired {
        let vtep = IpAddr::from([192, 0, 2, 9]);
        let port = |number| DesiredPort {
            mac: mac(number),
            addresses: vec![ipnet::IpNet::new(address(number), 24).unwrap()],
        };
        let remote = |number| RemoteEndpoint {
            mac: mac(number),
            addresses: vec![address(number)],
            vtep,
        };
        let network = DesiredNetwork {
            vni: Vni::new(vni).unwrap(),
            subnets: vec!["10.0.1.0/24".parse().unwrap()],
            mtu: 1_450,
            ports: ports.iter().map(|(id, of)| (*id, port(*of))).collect(),
            remotes: remotes.iter().map(|(id, of)| (*id, remote(*of))).collect(),
            vteps: BTreeSet::from([vtep]),
        };
        Desired {
            networks: BTreeMap::from([(NetworkId::from_bytes([1; 16]), network)]),
        }
    }

    /// Whom the tables give the addresses 1 to 3.
    fn seen(plane: &Plane, vni: u32) -> [Option<MacAddr>; 3] {
        let vni = Vni::new(vni).unwrap();
        [1, 2, 3].map(|number| plane.switch().neighbour(vni, address(number)))
    }

    fn address(number: u8) -> IpAddr {
        [10, 0, 1, number].into()
    }

    fn mac(number: u8) -> MacAddr {
        MacAddr::new([2, 0, 0, 0, 0, number])
    }

    fn id(number: u8) -> EndpointId {
        EndpointId::from_bytes([number; 16])
    }
}
