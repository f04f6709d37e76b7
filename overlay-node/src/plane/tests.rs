use std::{collections::BTreeSet, net::IpAddr};

use overlay_core::{
    MacAddr, NetworkId, ServiceId, Vni,
    plane::{
        DataPath, DesiredBackend, DesiredPort, DesiredService, Distance, RemoteEndpoint, VipConfig,
    },
};
use overlay_vxlan::{
    Outer,
    wire::{ethernet, ipv4, tcp, udp},
};

use super::*;

mod policy;

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
fn an_address_leads_where_its_endpoint_is_or_nowhere() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (now, network) = (Instant::EPOCH, NetworkId::from_bytes([1; 16]));
    let found = |plane: &Plane, number| {
        let by_mac = plane.lookup(network, Address::Mac(mac(number)));
        let by_ip = plane.lookup(network, Address::Ip(address(number)));
        assert_eq!(by_mac, by_ip);
        assert_eq!(by_mac.mac.is_some(), by_mac.place.is_some());
        by_mac.place
    };
    let all = desired(10, &[(id(1), 1)], &[(id(2), 2)]);
    plane.apply(now, &all);
    assert_eq!(found(&plane, 1), Some(Place::Endpoint(id(1))));
    let vteps = all.networks.values().flat_map(|network| &network.vteps);
    let vtep = vteps.map(|vtep| Place::Vtep(*vtep)).next();
    assert!(vtep.is_some());
    assert_eq!(found(&plane, 2), vtep);
    assert_eq!(found(&plane, 3), None);
    let other = NetworkId::from_bytes([2; 16]);
    let elsewhere = plane.lookup(other, Address::Mac(mac(1)));
    assert_eq!(elsewhere, Found::default());
    // The address of a service has no place.
    plane.apply(now, &served(&[2]));
    let service = Found {
        mac: Some(mac(200)),
        place: None,
    };
    assert_eq!(plane.lookup(network, Address::Ip(address(200))), service);
}

#[test]
fn endpoints_hear_of_an_address_that_moved() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (one, two) = (id(1), id(2));
    let before = desired(10, &[(one, 1)], &[(two, 2)]);
    plane.apply(Instant::EPOCH, &before);
    assert_eq!(plane.poll_timeout(), None);
    let mut after = before;
    for network in after.networks.values_mut() {
        for remote in network.remotes.values_mut() {
            remote.mac = mac(3);
        }
    }
    plane.apply(Instant::EPOCH, &after);
    assert!(
        plane
            .poll_timeout()
            .is_some_and(|due| due <= Instant::EPOCH)
    );
    let mut sent = Sent::default();
    plane.handle_timeout(Instant::EPOCH, &mut sent);
    let [(port, frame)] = &sent.ports[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(Some(*port), plane.port(one));
    let link = ethernet::Packet::new_checked(&frame[..]).unwrap();
    assert_eq!(
        (link.source(), link.ethertype()),
        (mac(3), ethernet::EtherType::ARP)
    );
    assert_eq!(plane.poll_timeout(), None);
}

#[test]
fn a_service_is_reached_by_its_address_and_answers_by_it() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (client, here) = (id(1), id(2));
    let (now, vni) = (Instant::EPOCH, Vni::new(10).unwrap());
    plane.apply(now, &served(&[2]));
    assert_eq!(plane.switch().neighbour(vni, address(200)), Some(mac(200)));
    let sent = send(&mut plane, client, &datagram(1, 200, (40_000, 53)));
    let to_backend = (plane.port(here).unwrap(), datagram(1, 2, (40_000, 53)));
    assert_eq!(sent.ports, [to_backend]);
    // Only the client's node knows: the backend answers whom it heard.
    let sent = send(&mut plane, here, &datagram(2, 1, (53, 40_000)));
    let [(port, reply)] = &sent.ports[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(Some(*port), plane.port(client));
    let from = "it comes from the service's address";
    assert_eq!(reply[26..30], [10, 0, 1, 200], "{from}");
    let packet = ipv4::Packet::new_checked(&reply[14..]).unwrap();
    assert!(packet.is_checksum_valid());
}

#[test]
fn in_a_vlan_nobody_has_a_virtual_address() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (client, here) = (id(1), id(2));
    let mut desired = served(&[2]);
    for network in desired.networks.values_mut() {
        network.vlan_tags = true;
    }
    plane.apply(Instant::EPOCH, &desired);
    let in_vlan = |mut frame: Vec<u8>| {
        frame.splice(12..12, [0x81, 0, 0, 5]);
        frame
    };
    let question = datagram(1, 200, (40_000, 53));
    let sent = send(&mut plane, client, &in_vlan(question.clone()));
    assert_eq!(sent.ports, [], "it is led to no backend");
    // The flow outside of the VLAN is another one.
    send(&mut plane, client, &question);
    let answer = in_vlan(datagram(2, 1, (53, 40_000)));
    let sent = send(&mut plane, here, &answer);
    assert_eq!(sent.ports, [(plane.port(client).unwrap(), answer)]);
}

#[test]
fn a_flow_goes_with_its_backend_and_an_address_with_its_service() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let client = id(1);
    let (now, vni) = (Instant::EPOCH, Vni::new(10).unwrap());
    let request = datagram(1, 200, (40_000, 53));
    plane.apply(now, &served(&[2]));
    assert_eq!(send(&mut plane, client, &request).ports.len(), 1);
    // The other one is on another node.
    plane.apply(now, &served(&[3]));
    let sent = send(&mut plane, client, &request);
    assert_eq!((sent.ports.len(), sent.vteps.len()), (0, 1));
    assert_eq!(sent.vteps[0].1[8..], datagram(1, 3, (40_000, 53)));
    // Nobody serves: the client hears of it at once, but not while somebody may be on the way.
    plane.apply(now, &served(&[]));
    let sent = send(&mut plane, client, &request);
    assert!(sent.ports.is_empty(), "{sent:?}");
    let now = now + std::time::Duration::from_secs(3);
    plane.handle_timeout(now, &mut Sent::default());
    let sent = send(&mut plane, client, &request);
    assert_eq!(sent.ports.len(), 1, "port unreachable");
    assert_eq!(Some(sent.ports[0].0), plane.port(client));
    // The address is nobody's any more.
    let mut none = served(&[]);
    none.networks
        .values_mut()
        .for_each(|network| network.services.clear());
    plane.apply(now, &none);
    assert_eq!(plane.switch().neighbour(vni, address(200)), None);
    let sent = send(&mut plane, client, &request);
    assert!(sent.ports.is_empty(), "{sent:?}");
    assert_eq!(plane.refused(), 0);
}

#[test]
fn both_ends_of_a_connection_hear_that_its_backend_is_gone() {
    let (syn, ack) = (tcp::Flags::SYN, tcp::Flags::ACK);
    let both = tcp::Flags(syn.0 | ack.0);
    let mut plane = Plane::new(Seed::from_u64(1));
    let (client, here) = (id(1), id(2));
    plane.apply(Instant::EPOCH, &served(&[2]));
    let ports = (40_000, 80);
    send(&mut plane, client, &segment(1, 200, ports, syn, (100, 0)));
    send(
        &mut plane,
        here,
        &segment(2, 1, (80, 40_000), both, (900, 101)),
    );
    send(&mut plane, client, &segment(1, 200, ports, ack, (101, 901)));
    plane.apply(Instant::EPOCH, &served(&[3]));
    assert!(
        plane
            .poll_timeout()
            .is_some_and(|due| due <= Instant::EPOCH)
    );
    let mut sent = Sent::default();
    plane.handle_timeout(Instant::EPOCH, &mut sent);
    assert!(plane.poll_timeout().is_none_or(|due| due > Instant::EPOCH));
    let [(first, to_client), (second, to_backend)] = &sent.ports[..] else {
        panic!("{sent:?}");
    };
    let found = [Some(*first), Some(*second)];
    assert_eq!(found, [plane.port(client), plane.port(here)]);
    let (from, to, reset) = read(to_client);
    assert_eq!((from, to), (address(200), address(1)));
    assert!(reset.flags.contains(tcp::Flags::RST));
    assert_eq!(reset.sequence, 901, "what the client awaits");
    let (from, to, reset) = read(to_backend);
    assert_eq!((from, to), (address(1), address(2)));
    assert!(reset.flags.contains(tcp::Flags::RST));
    assert_eq!(reset.sequence, 101, "what the backend awaits");
}

#[test]
fn a_connection_that_one_backend_refuses_goes_to_another() {
    let (syn, ack) = (tcp::Flags::SYN, tcp::Flags::ACK);
    let refusal = tcp::Flags(tcp::Flags::RST.0 | ack.0);
    let mut plane = Plane::new(Seed::from_u64(1));
    let (client, here) = (id(1), id(2));
    plane.apply(Instant::EPOCH, &served(&[2, 3]));
    // Until one goes to the backend that is here.
    let port = (40_000..41_000).find(|port| {
        let sent = send(
            &mut plane,
            client,
            &segment(1, 200, (*port, 80), syn, (100, 0)),
        );
        sent.ports
            .iter()
            .any(|(to, _)| Some(*to) == plane.port(here))
    });
    let port = port.expect("each gets its share");
    let refused = segment(2, 1, (80, port), refusal, (0, 101));
    let sent = send(&mut plane, here, &refused);
    assert!(sent.ports.is_empty(), "the client hears nothing: {sent:?}");
    assert!(
        plane
            .poll_timeout()
            .is_some_and(|due| due <= Instant::EPOCH)
    );
    let mut sent = Sent::default();
    plane.handle_timeout(Instant::EPOCH, &mut sent);
    let [(_, elsewhere)] = &sent.vteps[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(elsewhere[8..], segment(1, 3, (port, 80), syn, (100, 0)));
    // Both refuse: then it is refused.
    let mut alone = Plane::new(Seed::from_u64(1));
    alone.apply(Instant::EPOCH, &served(&[2]));
    send(
        &mut alone,
        client,
        &segment(1, 200, (port, 80), syn, (100, 0)),
    );
    let sent = send(&mut alone, here, &refused);
    let [(to, _)] = &sent.ports[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(Some(*to), alone.port(client));
}

/// Endpoints 1 and 2 here, 3 elsewhere, and a service at address 200 with some of them behind it.
fn served(backends: &[u8]) -> Desired {
    let backend = |number: &u8| {
        let backend = DesiredBackend {
            mac: mac(*number),
            addresses: vec![address(*number)],
            weight: 1,
            draining: false,
            distance: Distance::Far,
        };
        (id(*number), backend)
    };
    let service = DesiredService {
        mac: mac(200),
        addresses: vec![address(200)],
        config: VipConfig::default(),
        backends: backends.iter().map(backend).collect(),
    };
    let mut desired = desired(10, &[(id(1), 1), (id(2), 2)], &[(id(3), 3)]);
    for network in desired.networks.values_mut() {
        network.services = [(ServiceId::from_bytes([7; 16]), service.clone())].into();
    }
    desired
}

/// Lets an endpoint send a frame; returns what came of it.
fn send(plane: &mut Plane, from: EndpointId, bytes: &[u8]) -> Sent {
    send_at(plane, Instant::EPOCH, from, bytes)
}

fn send_at(plane: &mut Plane, now: Instant, from: EndpointId, bytes: &[u8]) -> Sent {
    let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
    let (mut sent, port) = (Sent::default(), plane.port(from).unwrap());
    plane.handle_local(now, port, &mut frame, &mut sent);
    sent
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

    fn to_vtep(&mut self, vtep: IpAddr, _: Outer, frame: &mut Frame) {
        self.vteps.push((vtep, frame.bytes().to_vec()));
    }
}

/// A datagram with its checksums.
fn datagram(from: u8, to: u8, (source_port, destination_port): (u16, u16)) -> Vec<u8> {
    let mut upper = [0; udp::HEADER_BYTES + 4];
    let header = udp::Repr {
        source_port,
        destination_port,
        payload_bytes: 4,
    };
    header.emit(&mut upper).unwrap();
    let mut whole = udp::Packet::new_checked(&mut upper).unwrap();
    whole.fill_checksum(address(from), address(to));
    packet(from, to, ipv4::Protocol::UDP, &upper)
}

/// A segment without data, with its checksums.
fn segment(from: u8, to: u8, ports: (u16, u16), flags: tcp::Flags, numbers: (u32, u32)) -> Vec<u8> {
    let mut upper = [0; tcp::HEADER_BYTES];
    let header = tcp::Repr {
        source_port: ports.0,
        destination_port: ports.1,
        sequence: numbers.0,
        acknowledgment: numbers.1,
        flags,
        window: 1_000,
        urgent: 0,
    };
    header.emit(&mut upper).unwrap();
    let mut whole = tcp::Packet::new_checked(&mut upper).unwrap();
    whole.fill_checksum(address(from), address(to));
    packet(from, to, ipv4::Protocol::TCP, &upper)
}

fn packet(from: u8, to: u8, protocol: ipv4::Protocol, upper: &[u8]) -> Vec<u8> {
    let v4 = |number| std::net::Ipv4Addr::new(10, 0, 1, number);
    let mut bytes = vec![0; ethernet::HEADER_BYTES + ipv4::HEADER_BYTES];
    let header = ethernet::Repr {
        destination: mac(to),
        source: mac(from),
        ethertype: ethernet::EtherType::IPV4,
    };
    header.emit(&mut bytes).unwrap();
    let header = ipv4::Repr {
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        source: v4(from),
        destination: v4(to),
        payload_bytes: u16::try_from(upper.len()).unwrap(),
    };
    header.emit(&mut bytes[ethernet::HEADER_BYTES..]).unwrap();
    bytes.extend_from_slice(upper);
    bytes
}

/// The addresses and the TCP header of a frame.
fn read(frame: &[u8]) -> (IpAddr, IpAddr, tcp::Repr) {
    let packet = ipv4::Packet::new_checked(&frame[ethernet::HEADER_BYTES..]).unwrap();
    let segment = tcp::Packet::new_checked(packet.payload()).unwrap();
    let (source, destination) = (packet.source(), packet.destination());
    (
        source.into(),
        destination.into(),
        tcp::Repr::parse(&segment),
    )
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
        vlan_tags: false,
        encrypted: false,
        policy: Default::default(),
        vni: Vni::new(vni).unwrap(),
        path: DataPath::User,
        subnets: vec!["10.0.1.0/24".parse().unwrap()],
        mtu: 1_450,
        ports: ports.iter().map(|(id, of)| (*id, port(*of))).collect(),
        remotes: remotes.iter().map(|(id, of)| (*id, remote(*of))).collect(),
        vteps: BTreeSet::from([vtep]),
        services: BTreeMap::new(),
    };
    Desired {
        peers: Default::default(),
        underlay: None,
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

#[test]
fn a_network_that_the_system_carries_is_not_carried_here() {
    let here = EndpointId::from_bytes([1; 16]);
    let (mut plane, mut desired) = (Plane::new(Seed::from_u64(1)), desired(1, &[(here, 1)], &[]));
    plane.apply(Instant::EPOCH, &desired);
    assert!(plane.port(here).is_some());
    for network in desired.networks.values_mut() {
        network.path = DataPath::Kernel;
    }
    plane.apply(Instant::EPOCH, &desired);
    assert_eq!(plane.port(here), None);
    assert_eq!(plane.refused(), 0);
}
