//! Endpoints hear of addresses that moved to another MAC address.

mod lab;

use std::net::{IpAddr, Ipv4Addr};

use lab::*;
use overlay_core::{MacAddr, Machine, plane::RemoteEndpoint};
use overlay_vxlan::{
    Announcement, Config, Output,
    wire::{arp, ethernet, icmpv6, ipv6},
};

const NEW: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0x77]);

fn announced(lab: &mut Lab) -> Vec<Announcement> {
    let outputs = std::iter::from_fn(|| lab.switch.poll_output());
    let announced = outputs.filter_map(|output| match output {
        Output::Announce(announcement) => Some(announcement),
        Output::Event(_) | Output::PathPacket(_) => None,
    });
    announced.collect()
}

fn expected(lab: &Lab, addresses: &[IpAddr], mac: MacAddr) -> Vec<Announcement> {
    let one = |address: &IpAddr| Announcement {
        vni: lab.vni,
        address: *address,
        mac,
    };
    addresses.iter().map(one).collect()
}

#[test]
fn what_is_new_is_not_announced() {
    let mut lab = Lab::new();
    assert_eq!(announced(&mut lab), []);
    let other = Endpoint::new(50, 2);
    let set = |lab: &mut Lab, vtep| {
        let set = lab
            .switch
            .set_remote(lab.vni, other.mac, &other.addresses(), vtep);
        set.unwrap();
    };
    set(&mut lab, vtep(2));
    // Another VTEP, and gone and back, with the same MAC address: nobody has to know.
    set(&mut lab, vtep(3));
    lab.switch.remove_remote(lab.vni, other.mac, vtep(3));
    lab.switch.remove_remote(lab.vni, other.mac, vtep(2));
    set(&mut lab, vtep(2));
    assert_eq!(announced(&mut lab), []);
    assert_eq!(lab.switch.poll_timeout(), None);
}

#[test]
fn another_mac_address_is_announced_however_it_comes() {
    type Move = fn(&mut Lab, &Endpoint);
    let moves: [Move; 4] = [
        // The new row first.
        |lab, old| {
            let set = lab
                .switch
                .set_remote(lab.vni, NEW, &old.addresses(), vtep(3));
            set.unwrap();
        },
        // The old row first.
        |lab, old| {
            assert!(lab.switch.remove_remote(lab.vni, old.mac, old.vtep));
            let set = lab
                .switch
                .set_remote(lab.vni, NEW, &old.addresses(), vtep(3));
            set.unwrap();
        },
        // All rows at once.
        |lab, old| {
            let row = RemoteEndpoint {
                mac: NEW,
                addresses: old.addresses().to_vec(),
                vtep: vtep(3),
            };
            assert_eq!(lab.switch.set_remotes(lab.vni, [&row]), Ok(0));
        },
        // To a port of this node.
        |lab, old| {
            let added =
                lab.switch
                    .add_port(overlay_vxlan::PortId(70), lab.vni, NEW, &old.addresses());
            added.unwrap();
        },
    ];
    for change in moves {
        let mut lab = Lab::new();
        let old = lab.there;
        change(&mut lab, &old);
        assert_eq!(
            lab.switch.poll_timeout(),
            Some(overlay_core::Instant::EPOCH)
        );
        let addresses = old.addresses();
        assert_eq!(announced(&mut lab), expected(&lab, &addresses, NEW));
    }
    // The way back: the winner leaves, and the former holder is right again.
    let mut lab = Lab::new();
    let addresses = lab.there.addresses();
    lab.switch
        .set_remote(lab.vni, NEW, &addresses, vtep(3))
        .unwrap();
    announced(&mut lab);
    lab.switch.remove_remote(lab.vni, NEW, vtep(3));
    assert_eq!(
        announced(&mut lab),
        expected(&lab, &addresses, lab.there.mac)
    );
    // From here to elsewhere.
    let mut lab = Lab::new();
    let addresses = lab.neighbour.addresses();
    lab.switch.remove_port(lab.neighbour.port);
    lab.switch
        .set_remote(lab.vni, NEW, &addresses, vtep(3))
        .unwrap();
    assert_eq!(announced(&mut lab), expected(&lab, &addresses, NEW));
}

#[test]
fn the_ports_are_told_by_arp_and_neighbour_discovery() {
    let mut lab = Lab::new();
    let moved = lab.there;
    lab.switch
        .set_remote(lab.vni, NEW, &moved.addresses(), vtep(3))
        .unwrap();
    let now = lab.now;
    for announcement in announced(&mut lab) {
        let mut sent = Sent::default();
        assert_eq!(lab.switch.announce(now, &announcement, &mut sent), 2);
        assert_eq!(sent.ports(), [lab.here.port, lab.neighbour.port]);
        assert_eq!(sent.vteps(), [] as [IpAddr; 0], "each node tells its own");
        let link = ethernet::Packet::new_checked(sent.to_ports[0].1.bytes()).unwrap();
        assert_eq!(link.source(), NEW);
        match announcement.address {
            // RFC 5227 §2.3: a request whose sender and target are the address.
            IpAddr::V4(address) => {
                assert_eq!(link.destination(), MacAddr::BROADCAST);
                let packet = arp::Packet::new_checked(link.payload()).unwrap();
                assert_eq!(
                    arp::Repr::parse(&packet),
                    arp::Repr {
                        operation: arp::Operation::REQUEST,
                        sender_mac: NEW,
                        sender_address: address,
                        target_mac: MacAddr::UNSPECIFIED,
                        target_address: address,
                    }
                );
                assert_eq!(address, moved.v4);
            }
            // RFC 4861 §7.2.6: unsolicited, overriding, to all nodes; §7.1.2: hop limit 255.
            IpAddr::V6(address) => {
                let all_nodes = "ff02::1".parse().unwrap();
                assert_eq!(link.destination(), ipv6::multicast_mac(all_nodes));
                let packet = ipv6::Packet::new_checked(link.payload()).unwrap();
                assert_eq!(
                    (packet.source(), packet.destination(), packet.hop_limit()),
                    (address, all_nodes, 255)
                );
                let message = icmpv6::Packet::new_checked(packet.payload()).unwrap();
                assert_eq!(
                    icmpv6::Repr::parse(&message, address, all_nodes),
                    Ok(icmpv6::Repr::NeighbourAdvertisement {
                        router: false,
                        solicited: false,
                        overrides: true,
                        target: address,
                        mac: Some(NEW),
                    })
                );
                assert_eq!(address, moved.v6);
            }
        }
    }
    let stats = lab.switch.network_stats(lab.vni).unwrap();
    assert_eq!((stats.announced, stats.to_ports.frames), (2, 4));
}

#[test]
fn the_owner_is_not_told_and_stale_news_are_not_spread() {
    let mut lab = Lab::new();
    let addresses = [IpAddr::from(lab.there.v4)];
    let port = overlay_vxlan::PortId(70);
    lab.switch.add_port(port, lab.vni, NEW, &addresses).unwrap();
    let [announcement] = announced(&mut lab)[..] else {
        panic!("one address moved");
    };
    let mut sent = Sent::default();
    assert_eq!(lab.switch.announce(lab.now, &announcement, &mut sent), 2);
    assert!(!sent.ports().contains(&port));
    lab.switch.remove_port(port);
    let mut sent = Sent::default();
    assert_eq!(lab.switch.announce(lab.now, &announcement, &mut sent), 0);
    assert!(sent.is_empty());
    assert_eq!(announced(&mut lab)[0].mac, lab.there.mac);
    lab.switch.remove_network(lab.vni);
    assert_eq!(lab.switch.announce(lab.now, &announcement, &mut sent), 0);
}

#[test]
fn the_queue_and_the_memory_of_former_addresses_are_bounded() {
    let config = Config {
        outputs_max: 3,
        former_addresses_max: 2,
        ..Config::default()
    };
    let mut lab = Lab::with(config, network());
    let address = |number| IpAddr::from(Ipv4Addr::new(10, 0, 1, 100 + number));
    let mac = |number, generation| MacAddr::new([2, 0, 0, 0, generation, number]);
    let set = |lab: &mut Lab, number, generation| {
        let (mac, address) = (mac(number, generation), address(number));
        lab.switch
            .set_remote(lab.vni, mac, &[address], vtep(2))
            .unwrap();
    };
    for number in 0..5 {
        set(&mut lab, number, 0);
    }
    // The newest two of those that are gone are remembered.
    for number in 0..5 {
        lab.switch.remove_remote(lab.vni, mac(number, 0), vtep(2));
    }
    for number in 0..5 {
        set(&mut lab, number, 1);
    }
    let known: Vec<_> = announced(&mut lab).iter().map(|one| one.address).collect();
    assert_eq!(known, [address(3), address(4)]);
    for number in 0..5 {
        set(&mut lab, number, 2);
    }
    assert_eq!(announced(&mut lab).len(), 3);
    assert_eq!(lab.switch.stats().outputs_lost, 2);
    // A network that is gone has no former addresses.
    for number in 0..5 {
        lab.switch.remove_remote(lab.vni, mac(number, 2), vtep(2));
    }
    lab.switch.remove_network(lab.vni);
    lab.switch.add_network(lab.vni, network()).unwrap();
    announced(&mut lab);
    set(&mut lab, 4, 3);
    assert_eq!(announced(&mut lab), []);
}
