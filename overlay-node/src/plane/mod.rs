//! The frame path of one node: one value that one thread drives.
//!
//! Out of an endpoint: anti-spoof, balancer and switch (verdict), then encapsulation into the frame's headroom. Into one:
//! decapsulate, member and anti-spoof checks, switch, balancer back. Policy and sealing take their places between these
//! stages.

mod endpoint;
mod services;

use std::{collections::BTreeMap, net::IpAddr};

use overlay_core::{
    EndpointId, Instant, Seed,
    plane::{Desired, DesiredNetwork},
};
use overlay_vxlan::{Config, Frame, NetworkConfig, PortId, Sink, Switch};

use self::services::{Services, Way};

pub use endpoint::{EchoReply, Endpoint};

/// The frame path of one node.
#[derive(Debug)]
pub struct Plane {
    switch: Switch,
    services: Services,
    applied: Desired,
    ports: BTreeMap<EndpointId, PortId>,
    next_port: u32,
    refused: u64,
}

impl Plane {
    /// Makes a frame path that carries nothing.
    pub fn new(seed: Seed) -> Self {
        Self {
            services: Services::new(seed.derive("services")),
            switch: Switch::new(Config::default(), seed),
            applied: Desired::default(),
            ports: BTreeMap::new(),
            next_port: 0,
            refused: 0,
        }
    }

    /// Makes the tables what `desired` says; what does not differ is not touched.
    ///
    /// What the switch or a balancer refuses (a bound of its configuration) is left out and counted by
    /// [`refused`](Self::refused). Connections to backends that are gone are reset by the next
    /// [`handle_timeout`](Self::handle_timeout), which is due at once.
    pub fn apply(&mut self, now: Instant, desired: &Desired) {
        let before = std::mem::take(&mut self.applied);
        for (network, present) in &before.networks {
            let kept = desired
                .networks
                .get(network)
                .is_some_and(|next| next.vni == present.vni);
            if !kept {
                self.services.remove_network(*network);
                self.remove_network(present);
            }
        }
        for (network, next) in &desired.networks {
            let present = before
                .networks
                .get(network)
                .filter(|present| present.vni == next.vni);
            if present != Some(next) {
                self.set_network(present, next);
                let (ports, switch) = (&self.ports, &mut self.switch);
                self.services
                    .set_network(now, *network, next, ports, switch);
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
        if !self.services.concerns(port) {
            self.switch
                .handle_local(now, port, frame, &mut self.services.delivery(now, sink));
            return;
        }
        if self.switch.admit_local(now, port, frame).is_err() {
            return;
        }
        match self.services.outbound(now, port, frame) {
            Way::On => {
                let mut delivery = self.services.delivery(now, sink);
                self.switch.forward_local(now, port, frame, &mut delivery);
            }
            Way::Back => sink.to_port(port, frame),
            Way::End => {}
        }
    }

    /// Takes the payload of a datagram that came from a VTEP: the VXLAN header and a frame.
    pub fn handle_remote(
        &mut self,
        now: Instant,
        from: IpAddr,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) {
        let mut delivery = self.services.delivery(now, sink);
        self.switch.handle_remote(now, from, frame, &mut delivery);
    }

    /// Lets time pass: idle flows are forgotten, and who has lost a connection hears of it.
    pub fn handle_timeout(&mut self, now: Instant, sink: &mut impl Sink) {
        self.services.handle_timeout(now, &mut self.switch, sink);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.services.poll_timeout()
    }

    /// Returns the port of an endpoint that runs here.
    pub fn port(&self, endpoint: EndpointId) -> Option<PortId> {
        self.ports.get(&endpoint).copied()
    }

    /// Returns the switch, for its tables and counters.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Returns how many rows, ports, virtual addresses and backends were refused.
    pub fn refused(&self) -> u64 {
        self.refused + self.services.refused()
    }

    fn remove_network(&mut self, network: &DesiredNetwork) {
        for endpoint in network.ports.keys() {
            if let Some(port) = self.ports.remove(endpoint) {
                self.switch.remove_port(port);
            }
        }
        self.switch.remove_network(network.vni);
    }

    fn set_network(&mut self, present: Option<&DesiredNetwork>, next: &DesiredNetwork) {
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
        MacAddr, NetworkId, ServiceId, Vni,
        plane::{DesiredBackend, DesiredPort, DesiredService, RemoteEndpoint},
    };
    use overlay_vxlan::wire::{ethernet, ipv4, udp};

    use super::*;

    #[test]
    fn what_is_not_desired_any_more_is_in_no_table() {
        let mut plane = Plane::new(Seed::from_u64(1));
        let (one, two) = (id(1), id(2));
        plane.apply(Instant::EPOCH, &desired(10, &[(one, 1)], &[(two, 2)]));
        let first = plane.port(one).unwrap();
        assert_eq!(seen(&plane, 10), [Some(mac(1)), Some(mac(2)), None]);
        // Another address makes another port, and the old address is nobody's.
        plane.apply(Instant::EPOCH, &desired(10, &[(one, 3)], &[(two, 2)]));
        assert_ne!(plane.port(one), Some(first));
        assert_eq!(seen(&plane, 10), [None, Some(mac(2)), Some(mac(3))]);
        // The endpoint moves to another host and another takes its place.
        plane.apply(Instant::EPOCH, &desired(10, &[(two, 2)], &[(one, 3)]));
        assert_eq!(plane.port(one), None);
        assert_eq!(seen(&plane, 10), [None, Some(mac(2)), Some(mac(3))]);
        plane.apply(Instant::EPOCH, &desired(10, &[(two, 2)], &[]));
        assert_eq!(seen(&plane, 10), [None, Some(mac(2)), None]);
        plane.apply(Instant::EPOCH, &desired(11, &[(two, 2)], &[]));
        assert_eq!(seen(&plane, 10), [None; 3]);
        assert_eq!(seen(&plane, 11), [None, Some(mac(2)), None]);
        plane.apply(Instant::EPOCH, &Desired::default());
        assert_eq!(seen(&plane, 11), [None; 3]);
        assert_eq!((plane.port(two), plane.refused()), (None, 0));
    }

    #[test]
    fn a_service_is_reached_by_its_address_and_answers_by_it() {
        let mut plane = Plane::new(Seed::from_u64(1));
        let (client, here, there) = (id(1), id(2), id(3));
        let mut wanted = desired(10, &[(client, 1), (here, 2)], &[(there, 3)]);
        let serve = |wanted: &mut Desired, backends: &[u8]| {
            let backend = |number: &u8| {
                let (mac, addresses) = (mac(*number), vec![address(*number)]);
                let weight = 1;
                (
                    id(*number),
                    DesiredBackend {
                        mac,
                        addresses,
                        weight,
                        draining: false,
                    },
                )
            };
            let service = DesiredService {
                mac: mac(200),
                addresses: vec![address(200)],
                backends: backends.iter().map(backend).collect(),
            };
            let network = wanted.networks.values_mut().next().unwrap();
            network.services = [(ServiceId::from_bytes([7; 16]), service)].into();
        };
        let now = Instant::EPOCH;
        serve(&mut wanted, &[2]);
        plane.apply(now, &wanted);
        let vni = Vni::new(10).unwrap();
        assert_eq!(plane.switch().neighbour(vni, address(200)), Some(mac(200)));
        let send = |plane: &mut Plane, from: EndpointId, bytes: &[u8]| {
            let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
            let (mut sent, port) = (Sent::default(), plane.port(from).unwrap());
            plane.handle_local(now, port, &mut frame, &mut sent);
            sent
        };
        let request = datagram(1, 200, (40_000, 53));
        let sent = send(&mut plane, client, &request);
        let expected = vec![(plane.port(here).unwrap(), datagram(1, 2, (40_000, 53)))];
        assert_eq!(sent.ports, expected);
        // Only the client's node knows: the backend answers whom it heard.
        let sent = send(&mut plane, here, &datagram(2, 1, (53, 40_000)));
        let [(port, reply)] = &sent.ports[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(Some(*port), plane.port(client));
        assert_eq!(
            reply[26..30],
            [10, 0, 1, 200],
            "it comes from the service's address"
        );
        assert!(
            ipv4::Packet::new_checked(&reply[14..])
                .unwrap()
                .is_checksum_valid()
        );
        // The other backend is on another node; the flow goes with the first one.
        serve(&mut wanted, &[3]);
        plane.apply(now, &wanted);
        let sent = send(&mut plane, client, &request);
        assert_eq!((sent.ports.len(), sent.vteps.len()), (0, 1));
        let inner = &sent.vteps[0].1[8..];
        assert_eq!(inner, datagram(1, 3, (40_000, 53)));
        // Nobody serves: the client hears of it at once.
        serve(&mut wanted, &[]);
        plane.apply(now, &wanted);
        let sent = send(&mut plane, client, &request);
        assert_eq!(sent.ports.len(), 1, "port unreachable");
        assert_eq!(Some(sent.ports[0].0), plane.port(client));
        // The address is nobody's any more.
        wanted
            .networks
            .values_mut()
            .next()
            .unwrap()
            .services
            .clear();
        plane.apply(now, &wanted);
        assert_eq!(plane.switch().neighbour(vni, address(200)), None);
        let sent = send(&mut plane, client, &request);
        assert!(sent.ports.is_empty(), "{sent:?}");
        assert_eq!(plane.refused(), 0);
    }

    #[derive(Debug, Default)]
    struct Sent {
        ports: Vec<(PortId, Vec<u8>)>,
        vteps: Vec<(IpAddr, Vec<u8>)>,
    }

    impl Sink for Sent {
        fn to_port(&mut self, port: PortId, frame: &mut Frame) {
            self.ports.push((port, frame.bytes().to_vec()));
        }

        fn to_vtep(&mut self, vtep: IpAddr, _: u16, frame: &mut Frame) {
            self.vteps.push((vtep, frame.bytes().to_vec()));
        }
    }

    /// A datagram with its checksums.
    fn datagram(from: u8, to: u8, (source_port, destination_port): (u16, u16)) -> Vec<u8> {
        let v4 = |number| std::net::Ipv4Addr::new(10, 0, 1, number);
        let mut bytes =
            vec![0; ethernet::HEADER_BYTES + ipv4::HEADER_BYTES + udp::HEADER_BYTES + 4];
        let header = ethernet::Repr {
            destination: mac(to),
            source: mac(from),
            ethertype: ethernet::EtherType::IPV4,
        };
        header.emit(&mut bytes).unwrap();
        let packet = ipv4::Repr {
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: ipv4::Protocol::UDP,
            source: v4(from),
            destination: v4(to),
            payload_bytes: 12,
        };
        packet.emit(&mut bytes[ethernet::HEADER_BYTES..]).unwrap();
        let at = ethernet::HEADER_BYTES + ipv4::HEADER_BYTES;
        let header = udp::Repr {
            source_port,
            destination_port,
            payload_bytes: 4,
        };
        header.emit(&mut bytes[at..]).unwrap();
        let mut segment = udp::Packet::new_checked(&mut bytes[at..]).unwrap();
        segment.fill_checksum(address(from), address(to));
        bytes
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
            services: BTreeMap::new(),
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
