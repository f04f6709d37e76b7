//! Two nodes, frames to send between them, and a sink that keeps what a switch sends.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_core::{Instant, MacAddr, Seed, Vni};
use overlay_vxlan::{
    Config, Frame, NetworkConfig, Outcome, Outer, PortId, Received, Sink, Switch,
    wire::{
        arp,
        ethernet::{self, EtherType},
        icmpv6,
        ipv4::{self, Protocol},
        ipv6, tcp, udp, vlan, vxlan,
    },
};

/// One endpoint and where it lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint {
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    pub(crate) vtep: IpAddr,
}

impl Endpoint {
    pub(crate) fn new(number: u8, node: u8) -> Self {
        let v4 = Ipv4Addr::new(10, 0, 1, number);
        Self {
            port: PortId(number.into()),
            mac: MacAddr::from_ipv4(v4),
            v4,
            v6: Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, number.into()),
            vtep: vtep(node),
        }
    }

    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

pub(crate) fn vtep(node: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, node).into()
}

pub(crate) fn vni(number: u32) -> Vni {
    Vni::new(number).expect("24 bits")
}

pub(crate) fn network() -> NetworkConfig {
    NetworkConfig {
        subnets: vec![
            "10.0.1.0/24".parse().expect("a subnet"),
            "fd00:0:0:1::/64".parse().expect("a subnet"),
        ],
        ..NetworkConfig::default()
    }
}

/// What a switch sent, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) to_ports: Vec<(PortId, Frame)>,
    pub(crate) to_vteps: Vec<(IpAddr, Outer, Frame)>,
}

impl Sink for Sent {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        self.to_ports.push((port, std::mem::take(frame)));
    }

    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) {
        self.to_vteps.push((vtep, outer, std::mem::take(frame)));
    }
}

impl Sent {
    /// The one frame to a port.
    pub(crate) fn port(&self) -> (PortId, &[u8]) {
        assert_eq!(
            (self.to_ports.len(), self.to_vteps.len()),
            (1, 0),
            "{self:?}"
        );
        (self.to_ports[0].0, self.to_ports[0].1.bytes())
    }

    /// The one frame to a VTEP.
    pub(crate) fn vtep(&self) -> (IpAddr, u16, &[u8]) {
        assert_eq!(
            (self.to_ports.len(), self.to_vteps.len()),
            (0, 1),
            "{self:?}"
        );
        let (vtep, outer, frame) = &self.to_vteps[0];
        (*vtep, outer.source_port, frame.bytes())
    }

    pub(crate) fn ports(&self) -> Vec<PortId> {
        self.to_ports.iter().map(|(port, _)| *port).collect()
    }

    pub(crate) fn vteps(&self) -> Vec<IpAddr> {
        self.to_vteps.iter().map(|(vtep, ..)| *vtep).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.to_ports.is_empty() && self.to_vteps.is_empty()
    }
}

/// A node with endpoints 2 and 3, and endpoints 12 on node 2 and 13 on node 3, all in one network.
pub(crate) struct Lab {
    pub(crate) switch: Switch,
    pub(crate) vni: Vni,
    pub(crate) here: Endpoint,
    pub(crate) neighbour: Endpoint,
    pub(crate) there: Endpoint,
    pub(crate) elsewhere: Endpoint,
    pub(crate) now: Instant,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), network())
    }

    pub(crate) fn with(config: Config, network: NetworkConfig) -> Self {
        let mut lab = Self {
            switch: Switch::new(config, Seed::from_u64(1)),
            vni: vni(4097),
            here: Endpoint::new(2, 1),
            neighbour: Endpoint::new(3, 1),
            there: Endpoint::new(12, 2),
            elsewhere: Endpoint::new(13, 3),
            now: Instant::from_millis(1),
        };
        lab.switch
            .add_network(lab.vni, network)
            .expect("the lab keeps to the bounds");
        for local in [lab.here, lab.neighbour] {
            let added = lab
                .switch
                .add_port(local.port, lab.vni, local.mac, &local.addresses());
            added.expect("the lab keeps to the bounds");
        }
        for remote in [lab.there, lab.elsewhere] {
            let set = lab
                .switch
                .set_remote(lab.vni, remote.mac, &remote.addresses(), remote.vtep);
            set.expect("the lab keeps to the bounds");
        }
        lab.switch
            .set_vteps(lab.vni, &BTreeSet::from([vtep(2), vtep(3)]))
            .expect("the lab keeps to the bounds");
        lab
    }

    /// Sends octets from a port.
    pub(crate) fn send(&mut self, from: PortId, bytes: &[u8]) -> (Outcome, Sent) {
        self.send_frame(from, Frame::with_headroom(Frame::HEADROOM, bytes))
    }

    pub(crate) fn send_frame(&mut self, from: PortId, mut frame: Frame) -> (Outcome, Sent) {
        let mut sent = Sent::default();
        let outcome = self
            .switch
            .handle_local(self.now, from, &mut frame, &mut sent);
        (outcome, sent)
    }

    /// Receives an inner frame from a VTEP.
    pub(crate) fn receive(&mut self, from: impl Into<Received>, inner: &[u8]) -> (Outcome, Sent) {
        let datagram = encapsulated(self.vni, inner);
        self.receive_datagram(from, &datagram)
    }

    pub(crate) fn receive_datagram(
        &mut self,
        from: impl Into<Received>,
        datagram: &[u8],
    ) -> (Outcome, Sent) {
        let mut sent = Sent::default();
        let mut frame = Frame::with_headroom(Frame::HEADROOM, datagram);
        let outcome = self
            .switch
            .handle_remote(self.now, from, &mut frame, &mut sent);
        (outcome, sent)
    }
}

pub(crate) fn encapsulated(vni: Vni, inner: &[u8]) -> Vec<u8> {
    let mut datagram = vxlan::Repr::new(vni).octets().to_vec();
    datagram.extend_from_slice(inner);
    datagram
}

pub(crate) fn link(
    source: MacAddr,
    destination: MacAddr,
    ethertype: EtherType,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_BYTES];
    let header = ethernet::Repr {
        destination,
        source,
        ethertype,
    };
    header
        .emit(&mut bytes)
        .expect("the lab keeps to the bounds");
    bytes.extend_from_slice(payload);
    bytes
}

/// Inserts a VLAN tag into a frame.
pub(crate) fn tagged(frame: &[u8], id: u16) -> Vec<u8> {
    let inner = ethernet::Repr::parse(
        &ethernet::Packet::new_checked(frame).expect("the lab keeps to the bounds"),
    );
    let tag = vlan::Repr {
        priority: 0,
        drop_eligible: false,
        id,
        ethertype: inner.ethertype,
    };
    let mut payload = vec![0; vlan::HEADER_BYTES];
    tag.emit(&mut payload).expect("the lab keeps to the bounds");
    payload.extend_from_slice(&frame[ethernet::HEADER_BYTES..]);
    link(inner.source, inner.destination, EtherType::VLAN, &payload)
}

pub(crate) fn ipv4_repr(source: Ipv4Addr, destination: Ipv4Addr, protocol: Protocol) -> ipv4::Repr {
    ipv4::Repr {
        traffic_class: 0,
        identification: 7,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source,
        destination,
        payload_bytes: 0,
    }
}

pub(crate) fn ipv4_packet(repr: ipv4::Repr, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u16::try_from(payload.len()).expect("the lab keeps to the bounds");
    let mut bytes = vec![0; ipv4::HEADER_BYTES];
    ipv4::Repr {
        payload_bytes,
        ..repr
    }
    .emit(&mut bytes)
    .expect("the lab keeps to the bounds");
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn ipv6_packet(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: Protocol,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let repr = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header,
        hop_limit,
        source,
        destination,
        payload_bytes: u16::try_from(payload.len()).expect("the lab keeps to the bounds"),
    };
    let mut bytes = vec![0; ipv6::HEADER_BYTES];
    repr.emit(&mut bytes).expect("the lab keeps to the bounds");
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn udp_datagram(
    ports: (u16, u16),
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
) -> Vec<u8> {
    let repr = udp::Repr {
        source_port: ports.0,
        destination_port: ports.1,
        payload_bytes: u16::try_from(payload.len()).expect("the lab keeps to the bounds"),
    };
    let mut bytes = vec![0; udp::HEADER_BYTES];
    repr.emit(&mut bytes).expect("the lab keeps to the bounds");
    bytes.extend_from_slice(payload);
    udp::Packet::new_checked(&mut bytes[..])
        .expect("the lab keeps to the bounds")
        .fill_checksum(source, destination);
    bytes
}

pub(crate) fn tcp_segment(
    repr: tcp::Repr,
    source: IpAddr,
    destination: IpAddr,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![0; tcp::HEADER_BYTES];
    repr.emit(&mut bytes).expect("the lab keeps to the bounds");
    bytes.extend_from_slice(payload);
    tcp::Packet::new_checked(&mut bytes[..])
        .expect("the lab keeps to the bounds")
        .fill_checksum(source, destination);
    bytes
}

/// A UDP datagram over IPv4 from one endpoint to another.
pub(crate) fn udp4(from: &Endpoint, to: &Endpoint, payload: &[u8]) -> Vec<u8> {
    let datagram = udp_datagram((4_000, 5_000), from.v4.into(), to.v4.into(), payload);
    let packet = ipv4_packet(ipv4_repr(from.v4, to.v4, Protocol::UDP), &datagram);
    link(from.mac, to.mac, EtherType::IPV4, &packet)
}

/// A UDP datagram over IPv6 from one endpoint to another.
pub(crate) fn udp6(from: &Endpoint, to: &Endpoint, payload: &[u8]) -> Vec<u8> {
    let datagram = udp_datagram((4_000, 5_000), from.v6.into(), to.v6.into(), payload);
    let packet = ipv6_packet(from.v6, to.v6, Protocol::UDP, 64, &datagram);
    link(from.mac, to.mac, EtherType::IPV6, &packet)
}

/// A broadcast ARP request for `target`.
pub(crate) fn arp_request(from: &Endpoint, target: Ipv4Addr) -> Vec<u8> {
    arp_frame(
        from.mac,
        MacAddr::BROADCAST,
        &arp::Repr {
            operation: arp::Operation::REQUEST,
            sender_mac: from.mac,
            sender_address: from.v4,
            target_mac: MacAddr::UNSPECIFIED,
            target_address: target,
        },
    )
}

pub(crate) fn arp_frame(source: MacAddr, destination: MacAddr, repr: &arp::Repr) -> Vec<u8> {
    let mut packet = vec![0; arp::PACKET_BYTES];
    repr.emit(&mut packet).expect("the lab keeps to the bounds");
    link(source, destination, EtherType::ARP, &packet)
}

/// A neighbour solicitation for `target`, sent to its group.
pub(crate) fn solicitation(mac: MacAddr, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let option = (!source.is_unspecified()).then_some(mac);
    let repr = icmpv6::Repr::NeighbourSolicitation {
        target,
        source: option,
    };
    let group = ipv6::solicited_node(target);
    icmpv6_frame(mac, ipv6::multicast_mac(group), source, group, 255, &repr)
}

pub(crate) fn icmpv6_frame(
    mac: MacAddr,
    to: MacAddr,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    repr: &icmpv6::Repr,
) -> Vec<u8> {
    let mut message = vec![0; repr.header_bytes()];
    repr.emit(&mut message, source, destination)
        .expect("the lab keeps to the bounds");
    let packet = ipv6_packet(source, destination, Protocol::ICMPV6, hop_limit, &message);
    link(mac, to, EtherType::IPV6, &packet)
}
