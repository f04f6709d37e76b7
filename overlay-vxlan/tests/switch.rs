//! What the switch does with frames, case by case, edges first.

mod lab;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use lab::*;
use overlay_core::{MacAddr, Machine, plane::RemoteEndpoint};
use overlay_vxlan::{
    Config, DropReason, EndpointError, Event, Frame, Location, NetworkConfig, NetworkError,
    Outcome, Output, PortId, Rate, VlanTags,
    wire::{
        arp,
        ethernet::{self, EtherType},
        icmpv4,
        icmpv6::{self, Kind},
        ipv4::{self, Protocol},
        ipv6,
    },
};

fn dropped(reason: DropReason, (outcome, sent): (Outcome, Sent)) {
    assert_eq!(outcome, Outcome::Dropped(reason));
    assert!(sent.is_empty(), "{sent:?}");
}

mod shortest_frames {
    use super::*;

    #[test]
    fn an_ethernet_header_alone_is_a_frame() {
        let mut lab = Lab::new();
        let frame = link(lab.here.mac, lab.there.mac, EtherType::EXPERIMENT, &[]);
        assert_eq!(frame.len(), 14);
        let (_, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(sent.vtep().2, encapsulated(lab.vni, &frame));
        let back = link(lab.there.mac, lab.here.mac, EtherType::EXPERIMENT, &[]);
        assert_eq!(lab.receive(lab.there.vtep, &back).1.port().1, back);
    }

    #[test]
    fn less_than_a_header_is_malformed() {
        let mut lab = Lab::new();
        let frame = udp4(&lab.here, &lab.there, b"x");
        for length in 0..frame.len() {
            let outcome = lab.send(lab.here.port, &frame[..length]);
            dropped(DropReason::Malformed, outcome);
        }
        let frame = udp4(&lab.there, &lab.here, b"x");
        for length in 0..frame.len() {
            let outcome = lab.receive(lab.there.vtep, &frame[..length]);
            dropped(DropReason::Malformed, outcome);
        }
        let datagram = encapsulated(lab.vni, &[]);
        for length in 0..datagram.len() {
            let outcome = lab.receive_datagram(lab.there.vtep, &datagram[..length]);
            dropped(DropReason::VxlanHeader, outcome);
        }
    }

    #[test]
    fn padding_behind_a_packet_passes() {
        let mut lab = Lab::new();
        let mut frame = udp4(&lab.here, &lab.there, b"x");
        frame.resize(60, 0);
        assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::ToVtep);
    }
}

mod local_delivery {
    use super::*;

    #[test]
    fn a_frame_for_a_neighbour_stays_on_the_node() {
        let mut lab = Lab::new();
        for frame in [
            udp4(&lab.here, &lab.neighbour, b"x"),
            udp6(&lab.here, &lab.neighbour, b"x"),
        ] {
            let (outcome, sent) = lab.send(lab.here.port, &frame);
            assert_eq!(outcome, Outcome::ToPort);
            assert_eq!(sent.port(), (lab.neighbour.port, &frame[..]));
        }
    }

    #[test]
    fn a_frame_to_its_own_sender_is_dropped() {
        let mut lab = Lab::new();
        let frame = udp4(&lab.here, &lab.here, b"x");
        dropped(DropReason::SamePort, lab.send(lab.here.port, &frame));
    }

    #[test]
    fn unknown_ports_and_networks_have_no_frames() {
        let mut lab = Lab::new();
        let frame = udp4(&lab.here, &lab.there, b"x");
        dropped(DropReason::UnknownPort, lab.send(PortId(99), &frame));
        let datagram = encapsulated(vni(1), &udp4(&lab.there, &lab.here, b"x"));
        let outcome = lab.receive_datagram(lab.there.vtep, &datagram);
        dropped(DropReason::UnknownNetwork, outcome);
        assert!(lab.switch.remove_network(lab.vni));
        dropped(DropReason::UnknownPort, lab.send(lab.here.port, &frame));
    }

    #[test]
    fn what_bridges_keep_to_themselves_is_dropped() {
        let mut lab = Lab::new();
        for last in [0x00, 0x0e, 0x0f] {
            let group = MacAddr::new([0x01, 0x80, 0xc2, 0, 0, last]);
            let frame = link(lab.here.mac, group, EtherType(0x0026), &[0x42; 38]);
            dropped(DropReason::ReservedGroup, lab.send(lab.here.port, &frame));
        }
        let group = MacAddr::new([0x01, 0x80, 0xc2, 0, 0, 0x10]);
        let frame = link(lab.here.mac, group, EtherType::EXPERIMENT, &[]);
        assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::Flooded);
    }
}

mod anti_spoof {
    use super::*;

    #[test]
    fn a_port_has_one_source_mac_address() {
        let mut lab = Lab::new();
        for mac in [
            lab.neighbour.mac,
            lab.there.mac,
            MacAddr::BROADCAST,
            MacAddr::UNSPECIFIED,
        ] {
            let frame = link(mac, lab.there.mac, EtherType::EXPERIMENT, &[]);
            dropped(DropReason::SourceMac, lab.send(lab.here.port, &frame));
        }
    }

    #[test]
    fn a_port_sends_from_its_own_addresses_only() {
        let mut lab = Lab::new();
        let liar = Endpoint {
            mac: lab.here.mac,
            ..lab.neighbour
        };
        for frame in [udp4(&liar, &lab.there, b"x"), udp6(&liar, &lab.there, b"x")] {
            dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
        }
        for source in [
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            Ipv4Addr::LOCALHOST,
        ] {
            let liar = Endpoint {
                v4: source,
                ..lab.here
            };
            let frame = udp4(&liar, &lab.there, b"x");
            dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
        }
    }

    #[test]
    fn the_check_sees_through_tags() {
        let mut lab = Lab::with(
            Config::default(),
            NetworkConfig {
                vlan_tags: VlanTags::Inspect,
                ..network()
            },
        );
        let liar = Endpoint {
            mac: lab.here.mac,
            ..lab.neighbour
        };
        let mut frame = udp4(&liar, &lab.there, b"x");
        for _ in 0..2 {
            frame = tagged(&frame, 5);
            dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
        }
        let frame = tagged(&frame, 5);
        dropped(DropReason::Malformed, lab.send(lab.here.port, &frame));
    }

    #[test]
    fn a_vlan_that_is_carried_is_a_network_of_its_own_and_a_mere_priority_is_none() {
        let mut lab = Lab::with(
            Config::default(),
            NetworkConfig {
                vlan_tags: VlanTags::Carry,
                ..network()
            },
        );
        // Other addresses, those of somebody else, and a foreign subnet.
        let (v4, other) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let guest = Endpoint { v4, ..lab.here };
        let liar = Endpoint {
            v4: lab.there.v4,
            ..lab.here
        };
        let host = Endpoint {
            v4: other,
            ..lab.there
        };
        for (from, to) in [(guest, host), (liar, lab.there)] {
            let bare = udp4(&from, &to, b"x");
            for frame in [tagged(&bare, 5), tagged(&tagged(&bare, 0), 4_095)] {
                let (outcome, sent) = lab.send(lab.here.port, &frame);
                assert_eq!(outcome, Outcome::ToVtep);
                assert_eq!(sent.to_vteps[0].2.bytes()[8..], frame);
            }
            for frame in [bare.clone(), tagged(&bare, 0), tagged(&tagged(&bare, 5), 0)] {
                dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
            }
        }
        let back = tagged(&udp4(&host, &guest, b"x"), 5);
        assert_eq!(lab.receive(lab.there.vtep, &back).0, Outcome::ToPort);
        let back = tagged(&udp4(&host, &guest, b"x"), 0);
        dropped(
            DropReason::ForeignAddress,
            lab.receive(lab.there.vtep, &back),
        );
        // A question about an address that the tables know is not theirs to answer.
        let request = arp_request(&lab.here, lab.there.v4);
        let (outcome, _) = lab.send(lab.here.port, &request);
        assert_eq!(outcome, Outcome::Answered);
        let (outcome, sent) = lab.send(lab.here.port, &tagged(&request, 5));
        assert_eq!(outcome, Outcome::Flooded);
        assert!(!sent.to_vteps.is_empty());
        // And whoever it is from: its MAC address is its own.
        let stranger = Endpoint {
            mac: lab.there.mac,
            ..lab.here
        };
        let frame = tagged(&udp4(&stranger, &lab.there, b"x"), 5);
        dropped(DropReason::SourceMac, lab.send(lab.here.port, &frame));
    }

    #[test]
    fn a_derived_link_local_address_is_the_ports_own() {
        let mut lab = Lab::new();
        let own = Endpoint {
            v6: ipv6::link_local(lab.here.mac),
            ..lab.here
        };
        let peer = Endpoint {
            v6: ipv6::link_local(lab.there.mac),
            ..lab.there
        };
        let frame = udp6(&own, &peer, b"x");
        assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::ToVtep);
        let liar = Endpoint {
            v6: ipv6::link_local(lab.neighbour.mac),
            ..lab.here
        };
        dropped(
            DropReason::SourceAddress,
            lab.send(lab.here.port, &udp6(&liar, &peer, b"x")),
        );
    }

    #[test]
    fn an_unspecified_source_may_only_ask_and_join() {
        let mut lab = Lab::new();
        let nobody = Ipv6Addr::UNSPECIFIED;
        let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        let to = ipv6::multicast_mac(all_routers);
        let asking = icmpv6::Repr::Other {
            kind: Kind::ROUTER_SOLICITATION,
            code: 0,
            rest: [0; 4],
        };
        let frame = icmpv6_frame(lab.here.mac, to, nobody, all_routers, 255, &asking);
        assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::Flooded);
        let echo = icmpv6::Repr::EchoRequest {
            identifier: 1,
            sequence: 1,
        };
        let frame = icmpv6_frame(lab.here.mac, lab.there.mac, nobody, lab.there.v6, 64, &echo);
        dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
        let liar = Endpoint {
            v6: nobody,
            ..lab.here
        };
        let datagram = udp_datagram((1, 2), nobody.into(), all_routers.into(), b"x");
        let packet = ipv6_packet(nobody, all_routers, Protocol::UDP, 1, &datagram);
        let frame = link(lab.here.mac, to, EtherType::IPV6, &packet);
        dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
        dropped(
            DropReason::SourceAddress,
            lab.send(lab.here.port, &udp6(&liar, &lab.there, b"x")),
        );
    }

    #[test]
    fn arp_says_nothing_about_others() {
        let mut lab = Lab::new();
        let honest = arp::Repr {
            operation: arp::Operation::REPLY,
            sender_mac: lab.here.mac,
            sender_address: lab.here.v4,
            target_mac: lab.there.mac,
            target_address: lab.there.v4,
        };
        let frame = |repr: &arp::Repr| arp_frame(lab.here.mac, lab.there.mac, repr);
        let good = frame(&honest);
        let lies = [
            arp::Repr {
                sender_address: lab.neighbour.v4,
                ..honest
            },
            arp::Repr {
                sender_mac: lab.neighbour.mac,
                ..honest
            },
            arp::Repr {
                sender_address: Ipv4Addr::UNSPECIFIED,
                ..honest
            },
        ]
        .map(|lie| frame(&lie));
        assert_eq!(lab.send(lab.here.port, &good).0, Outcome::ToVtep);
        for lie in lies {
            dropped(DropReason::SourceAddress, lab.send(lab.here.port, &lie));
        }
    }

    #[test]
    fn neighbour_discovery_says_nothing_about_others() {
        let mut lab = Lab::new();
        let advertise = |target, mac| {
            let repr = icmpv6::Repr::NeighbourAdvertisement {
                router: false,
                solicited: true,
                overrides: true,
                target,
                mac,
            };
            icmpv6_frame(
                lab.here.mac,
                lab.there.mac,
                lab.here.v6,
                lab.there.v6,
                255,
                &repr,
            )
        };
        let own = lab.here.mac;
        let good = [
            advertise(lab.here.v6, Some(own)),
            advertise(lab.here.v6, None),
            advertise(ipv6::link_local(own), Some(own)),
        ];
        let lies = [
            advertise(lab.neighbour.v6, Some(own)),
            advertise(lab.here.v6, Some(lab.neighbour.mac)),
        ];
        let ask = icmpv6::Repr::NeighbourSolicitation {
            target: lab.there.v6,
            source: Some(lab.neighbour.mac),
        };
        let ask = icmpv6_frame(own, lab.there.mac, lab.here.v6, lab.there.v6, 255, &ask);
        for frame in good {
            assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::ToVtep);
        }
        for frame in lies.into_iter().chain([ask]) {
            dropped(DropReason::SourceAddress, lab.send(lab.here.port, &frame));
        }
    }

    #[test]
    fn nobody_plays_router_from_either_side() {
        let mut lab = Lab::new();
        for kind in [Kind::ROUTER_ADVERTISEMENT, Kind::REDIRECT] {
            let repr = icmpv6::Repr::Other {
                kind,
                code: 0,
                rest: [64, 0, 7, 8],
            };
            let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            let to = ipv6::multicast_mac(all);
            let source = ipv6::link_local(lab.here.mac);
            let frame = icmpv6_frame(lab.here.mac, to, source, all, 255, &repr);
            dropped(DropReason::RouterMessage, lab.send(lab.here.port, &frame));
            let source = ipv6::link_local(lab.there.mac);
            let frame = icmpv6_frame(lab.there.mac, to, source, all, 255, &repr);
            dropped(
                DropReason::RouterMessage,
                lab.receive(lab.there.vtep, &frame),
            );
        }
    }

    #[test]
    fn neighbour_discovery_never_comes_in_fragments() {
        let mut lab = Lab::new();
        let whole = solicitation(lab.here.mac, lab.here.v6, lab.there.v6);
        let group = ipv6::solicited_node(lab.there.v6);
        // A first fragment that holds all of the message.
        let mut payload = vec![Protocol::ICMPV6.0, 0, 0, 1, 0, 0, 0, 9];
        payload.extend_from_slice(&whole[54..]);
        let packet = ipv6_packet(lab.here.v6, group, Protocol(44), 255, &payload);
        let frame = link(
            lab.here.mac,
            ipv6::multicast_mac(group),
            EtherType::IPV6,
            &packet,
        );
        dropped(DropReason::Malformed, lab.send(lab.here.port, &frame));
    }

    #[test]
    fn other_subnets_are_neither_source_nor_destination() {
        let mut lab = Lab::new();
        let foreign = Endpoint {
            v4: Ipv4Addr::new(10, 0, 2, 1),
            ..lab.there
        };
        let frame = udp4(&lab.here, &foreign, b"x");
        dropped(DropReason::ForeignAddress, lab.send(lab.here.port, &frame));
        let frame = udp4(&foreign, &lab.here, b"x");
        dropped(
            DropReason::ForeignAddress,
            lab.receive(lab.there.vtep, &frame),
        );
        let frame = arp_request(&lab.here, foreign.v4);
        dropped(DropReason::ForeignAddress, lab.send(lab.here.port, &frame));
        // Without subnets there is nothing to check against.
        let config = NetworkConfig {
            subnets: Vec::new(),
            ..network()
        };
        lab.switch.set_network(lab.vni, config).unwrap();
        let frame = udp4(&lab.here, &foreign, b"x");
        assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::ToVtep);
    }

    #[test]
    fn an_outer_source_may_be_a_mapped_address() {
        let mut lab = Lab::new();
        let mapped: IpAddr = "::ffff:192.0.2.2".parse().unwrap();
        let frame = udp4(&lab.there, &lab.here, b"x");
        assert_eq!(lab.receive(mapped, &frame).0, Outcome::ToPort);
    }
}

mod resolution {
    use super::*;

    fn reply(bytes: &[u8]) -> arp::Repr {
        let link = ethernet::Packet::new_checked(bytes).expect("the switch sends whole headers");
        assert_eq!(link.ethertype(), EtherType::ARP);
        arp::Repr::parse(&arp::Packet::new_checked(link.payload()).expect("an ARP packet"))
    }

    #[test]
    fn an_arp_request_for_a_known_endpoint_is_answered_and_not_flooded() {
        let mut lab = Lab::new();
        for known in [lab.there, lab.elsewhere, lab.neighbour] {
            let (outcome, sent) = lab.send(lab.here.port, &arp_request(&lab.here, known.v4));
            assert_eq!(outcome, Outcome::Answered);
            let (port, bytes) = sent.port();
            let link = ethernet::Packet::new_checked(bytes).unwrap();
            assert_eq!(port, lab.here.port);
            assert_eq!(
                (link.source(), link.destination()),
                (known.mac, lab.here.mac)
            );
            assert_eq!(
                reply(bytes),
                arp::Repr {
                    operation: arp::Operation::REPLY,
                    sender_mac: known.mac,
                    sender_address: known.v4,
                    target_mac: lab.here.mac,
                    target_address: lab.here.v4,
                }
            );
        }
        assert_eq!(lab.switch.stats().arp_answered, 3);
    }

    #[test]
    fn the_switch_answers_for_virtual_addresses_and_endpoints_come_first() {
        let mut lab = Lab::new();
        let (address, mac) = (
            Ipv4Addr::new(10, 0, 1, 200),
            MacAddr::new([2, 0, 0, 0, 0, 200]),
        );
        let v6: IpAddr = "fd00:0:0:1::200".parse().unwrap();
        let there = IpAddr::from(lab.there.v4);
        let virtuals = [(address.into(), mac), (v6, mac), (there, mac)];
        let set = |lab: &mut Lab, of: &[(IpAddr, MacAddr)]| {
            lab.switch
                .set_virtual_addresses(lab.vni, &of.iter().copied().collect())
        };
        assert_ne!(
            lab.send(lab.here.port, &arp_request(&lab.here, address)).0,
            Outcome::Answered
        );
        set(&mut lab, &virtuals).unwrap();
        let (outcome, sent) = lab.send(lab.here.port, &arp_request(&lab.here, address));
        assert_eq!(outcome, Outcome::Answered);
        let (port, bytes) = sent.port();
        assert_eq!((port, reply(bytes).sender_mac), (lab.here.port, mac));
        assert_eq!(lab.switch.neighbour(lab.vni, v6), Some(mac));
        assert_eq!(lab.switch.neighbour(lab.vni, there), Some(lab.there.mac));
        assert_eq!(lab.switch.neighbour(vni(2), v6), None);
        set(&mut lab, &[]).unwrap();
        assert_eq!(lab.switch.neighbour(lab.vni, v6), None);
        set(&mut lab, &virtuals).unwrap();
        assert!(lab.switch.remove_network(lab.vni));
        lab.switch.add_network(lab.vni, network()).unwrap();
        assert_eq!(lab.switch.neighbour(lab.vni, v6), None);
    }

    #[test]
    fn virtual_addresses_are_bounded() {
        let config = Config {
            virtual_addresses_max: 1,
            ..Config::default()
        };
        let mut lab = Lab::with(config, network());
        let of = |last: u8| {
            (
                IpAddr::from([10, 0, 1, last]),
                MacAddr::new([2, 0, 0, 0, 0, last]),
            )
        };
        let one = [of(200)].into();
        assert_eq!(lab.switch.set_virtual_addresses(lab.vni, &one), Ok(()));
        let refused = NetworkError::VirtualAddresses { max: 1, found: 2 };
        let two = [of(201), of(202)].into();
        assert_eq!(
            lab.switch.set_virtual_addresses(lab.vni, &two),
            Err(refused)
        );
        assert_eq!(lab.switch.neighbour(lab.vni, of(200).0), Some(of(200).1));
    }

    #[test]
    fn a_padded_and_a_tagged_request_are_answered_alike() {
        let mut lab = Lab::with(
            Config::default(),
            NetworkConfig {
                vlan_tags: VlanTags::Inspect,
                ..network()
            },
        );
        let mut request = arp_request(&lab.here, lab.there.v4);
        request.resize(60, 0xee);
        assert_eq!(lab.send(lab.here.port, &request).1.port().1.len(), 42);
        let request = tagged(&request, 9);
        let (_, sent) = lab.send(lab.here.port, &request);
        let bytes = sent.port().1;
        assert_eq!((bytes.len(), &bytes[12..18]), (46, &request[12..18]));
    }

    #[test]
    fn a_probe_for_a_taken_address_is_answered() {
        let mut lab = Lab::new();
        let nobody = Endpoint {
            v4: Ipv4Addr::UNSPECIFIED,
            ..lab.here
        };
        let (outcome, sent) = lab.send(lab.here.port, &arp_request(&nobody, lab.there.v4));
        assert_eq!(outcome, Outcome::Answered);
        assert_eq!(reply(sent.port().1).sender_mac, lab.there.mac);
    }

    #[test]
    fn probes_and_announcements_of_ones_own_address_go_to_all() {
        let mut lab = Lab::new();
        let nobody = Endpoint {
            v4: Ipv4Addr::UNSPECIFIED,
            ..lab.here
        };
        for frame in [
            arp_request(&nobody, lab.here.v4),
            arp_request(&lab.here, lab.here.v4),
        ] {
            let (outcome, sent) = lab.send(lab.here.port, &frame);
            assert_eq!(outcome, Outcome::Flooded);
            assert_eq!(sent.ports(), [lab.neighbour.port]);
            assert_eq!(sent.vteps().len(), 2);
        }
    }

    #[test]
    fn a_request_to_one_neighbour_goes_there() {
        let mut lab = Lab::new();
        let mut request = arp_request(&lab.here, lab.there.v4);
        request[..6].copy_from_slice(&lab.there.mac.octets());
        assert_eq!(lab.send(lab.here.port, &request).0, Outcome::ToVtep);
    }

    #[test]
    fn a_solicitation_for_a_known_endpoint_is_answered() {
        let mut lab = Lab::new();
        for (target, mac) in [
            (lab.there.v6, lab.there.mac),
            (lab.neighbour.v6, lab.neighbour.mac),
            (ipv6::link_local(lab.there.mac), lab.there.mac),
        ] {
            let frame = solicitation(lab.here.mac, lab.here.v6, target);
            let (outcome, sent) = lab.send(lab.here.port, &frame);
            assert_eq!(outcome, Outcome::Answered);
            let (port, bytes) = sent.port();
            let link = ethernet::Packet::new_checked(bytes).unwrap();
            let packet = ipv6::Packet::new_checked(link.payload()).unwrap();
            let message = icmpv6::Packet::new_checked(packet.payload()).unwrap();
            assert_eq!(port, lab.here.port);
            assert_eq!((link.source(), link.destination()), (mac, lab.here.mac));
            assert_eq!(
                (packet.source(), packet.destination()),
                (target, lab.here.v6)
            );
            assert_eq!(packet.hop_limit(), 255);
            let repr = icmpv6::Repr::parse(&message, packet.source(), packet.destination());
            assert_eq!(
                repr,
                Ok(icmpv6::Repr::NeighbourAdvertisement {
                    router: false,
                    solicited: true,
                    overrides: true,
                    target,
                    mac: Some(mac),
                })
            );
        }
        assert_eq!(lab.switch.stats().nd_answered, 3);
    }

    #[test]
    fn duplicate_address_detection_is_answered_to_all_nodes() {
        let mut lab = Lab::new();
        let frame = solicitation(lab.here.mac, Ipv6Addr::UNSPECIFIED, lab.there.v6);
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::Answered);
        let bytes = sent.port().1;
        let link = ethernet::Packet::new_checked(bytes).unwrap();
        let packet = ipv6::Packet::new_checked(link.payload()).unwrap();
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert_eq!(packet.destination(), all_nodes);
        assert_eq!(link.destination(), ipv6::multicast_mac(all_nodes));
        let message = icmpv6::Packet::new_checked(packet.payload()).unwrap();
        assert!(message.is_checksum_valid(packet.source(), packet.destination()));
        // For its own address, nobody answers.
        let frame = solicitation(lab.here.mac, Ipv6Addr::UNSPECIFIED, lab.here.v6);
        assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::Flooded);
    }

    #[test]
    fn an_invalid_solicitation_is_not_answered() {
        let mut lab = Lab::new();
        let good = solicitation(lab.here.mac, lab.here.v6, lab.there.v6);
        let mut wrong_hop_limit = good.clone();
        wrong_hop_limit[14 + 7] = 254;
        let mut wrong_checksum = good.clone();
        wrong_checksum[14 + 40 + 2] ^= 1;
        let mut wrong_code = good.clone();
        wrong_code[14 + 40 + 1] = 1;
        // Without an address there is no link-layer option, and the target's group is asked.
        let nobody = Ipv6Addr::UNSPECIFIED;
        let (mac, target) = (lab.here.mac, lab.there.v6);
        let group = ipv6::solicited_node(target);
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let detection = |group, source| {
            let repr = icmpv6::Repr::NeighbourSolicitation { target, source };
            icmpv6_frame(mac, ipv6::multicast_mac(group), nobody, group, 255, &repr)
        };
        let wrong_option = detection(group, Some(mac));
        let wrong_group = detection(all_nodes, None);
        for frame in [
            wrong_hop_limit,
            wrong_checksum,
            wrong_code,
            wrong_option,
            wrong_group,
        ] {
            assert_eq!(lab.send(lab.here.port, &frame).0, Outcome::Flooded);
        }
        assert_eq!(lab.send(lab.here.port, &good).0, Outcome::Answered);
    }

    #[test]
    fn a_request_from_elsewhere_reaches_the_asked_port_alone() {
        let mut lab = Lab::new();
        for frame in [
            arp_request(&lab.there, lab.here.v4),
            solicitation(lab.there.mac, lab.there.v6, lab.here.v6),
        ] {
            let (outcome, sent) = lab.receive(lab.there.vtep, &frame);
            assert_eq!(outcome, Outcome::ToPort);
            assert_eq!(sent.port(), (lab.here.port, &frame[..]));
        }
    }

    #[test]
    fn requests_for_nobody_are_limited_apart_from_other_floods() {
        let rate = |burst| Rate {
            per_second: 1,
            burst,
        };
        let config = Config {
            resolve_rate_max: rate(2),
            flood_rate_max: rate(3),
            ..Config::default()
        };
        let mut lab = Lab::with(config, network());
        let arp = arp_request(&lab.here, Ipv4Addr::new(10, 0, 1, 250));
        let nd = solicitation(
            lab.here.mac,
            lab.here.v6,
            "fd00:0:0:1::ffff".parse().unwrap(),
        );
        assert_eq!(lab.send(lab.here.port, &arp).0, Outcome::Flooded);
        assert_eq!(lab.send(lab.here.port, &nd).0, Outcome::Flooded);
        dropped(DropReason::ResolveRate, lab.send(lab.here.port, &arp));
        dropped(DropReason::ResolveRate, lab.send(lab.here.port, &nd));
        // Another port has a rate of its own.
        let other = arp_request(&lab.neighbour, Ipv4Addr::new(10, 0, 1, 250));
        assert_eq!(lab.send(lab.neighbour.port, &other).0, Outcome::Flooded);
        let broadcast = link(lab.here.mac, MacAddr::BROADCAST, EtherType::EXPERIMENT, &[]);
        for _ in 0..3 {
            assert_eq!(lab.send(lab.here.port, &broadcast).0, Outcome::Flooded);
        }
        dropped(DropReason::FloodRate, lab.send(lab.here.port, &broadcast));
        lab.now += Duration::from_secs(1);
        assert_eq!(lab.send(lab.here.port, &broadcast).0, Outcome::Flooded);
        assert_eq!(lab.send(lab.here.port, &arp).0, Outcome::Flooded);
        let drops = lab.switch.network_stats(lab.vni).unwrap().drops;
        assert_eq!(drops.of(DropReason::ResolveRate), 2);
        assert_eq!(drops.of(DropReason::FloodRate), 1);
        assert_eq!(drops.total(), 3);
    }

    #[test]
    fn what_vteps_flood_is_limited() {
        let rate = Rate {
            per_second: 1,
            burst: 1,
        };
        let config = Config {
            remote_flood_rate_max: rate,
            ..Config::default()
        };
        let mut lab = Lab::with(config, network());
        let frame = link(
            lab.there.mac,
            MacAddr::BROADCAST,
            EtherType::EXPERIMENT,
            &[],
        );
        assert_eq!(lab.receive(lab.there.vtep, &frame).0, Outcome::Flooded);
        dropped(DropReason::FloodRate, lab.receive(lab.there.vtep, &frame));
    }
}

mod mtu {
    use super::*;

    const MTU: usize = 1_450;

    #[test]
    fn the_sender_of_a_big_ipv4_packet_is_told() {
        let mut lab = Lab::new();
        let frame = udp4(&lab.here, &lab.there, &[7; MTU - 28 + 1]);
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::Dropped(DropReason::TooBigAnswered));
        let (port, bytes) = sent.port();
        let link = ethernet::Packet::new_checked(bytes).unwrap();
        let packet = ipv4::Packet::new_checked(link.payload()).unwrap();
        let message = icmpv4::Packet::new_checked(packet.payload()).unwrap();
        assert_eq!(port, lab.here.port);
        assert_eq!(
            (link.source(), link.destination()),
            (lab.there.mac, lab.here.mac)
        );
        assert_eq!(
            (packet.source(), packet.destination()),
            (lab.there.v4, lab.here.v4)
        );
        assert_eq!(packet.total_bytes(), 576);
        assert!(packet.is_checksum_valid());
        let mtu = u16::try_from(MTU).unwrap();
        assert_eq!(
            icmpv4::Repr::parse(&message),
            Ok(icmpv4::Repr::FragmentationNeeded { mtu })
        );
        assert_eq!(message.payload(), &frame[14..14 + 548]);
    }

    #[test]
    fn the_sender_of_a_big_ipv6_packet_is_told() {
        let mut lab = Lab::new();
        let frame = udp6(&lab.here, &lab.there, &[7; MTU - 48 + 1]);
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::Dropped(DropReason::TooBigAnswered));
        let bytes = sent.port().1;
        let link = ethernet::Packet::new_checked(bytes).unwrap();
        let packet = ipv6::Packet::new_checked(link.payload()).unwrap();
        let message = icmpv6::Packet::new_checked(packet.payload()).unwrap();
        assert_eq!(
            (packet.source(), packet.destination()),
            (lab.there.v6, lab.here.v6)
        );
        assert_eq!(packet.total_bytes(), 1_280);
        let repr = icmpv6::Repr::parse(&message, lab.there.v6, lab.here.v6);
        assert_eq!(repr, Ok(icmpv6::Repr::PacketTooBig { mtu: 1_450 }));
        assert_eq!(message.payload(), &frame[14..14 + 1_232]);
        let fits = udp6(&lab.here, &lab.there, &[7; MTU - 48]);
        assert_eq!(lab.send(lab.here.port, &fits).0, Outcome::ToVtep);
    }

    #[test]
    fn no_error_answers_an_error_a_group_or_who_may_fragment() {
        let mut lab = Lab::new();
        let (here, there) = (lab.here, lab.there);
        let may_fragment = ipv4::Repr {
            dont_fragment: false,
            ..ipv4_repr(here.v4, there.v4, Protocol::UDP)
        };
        let v4 = |repr, to, payload: &[u8]| {
            link(here.mac, to, EtherType::IPV4, &ipv4_packet(repr, payload))
        };
        let mut error = vec![0; MTU];
        icmpv4::Repr::FragmentationNeeded { mtu: 1_400 }
            .emit(&mut error)
            .unwrap();
        let mut error6 = vec![0; MTU];
        let repr = icmpv6::Repr::PacketTooBig { mtu: 1_400 };
        repr.emit(&mut error6, here.v6, there.v6).unwrap();
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let group_mac = MacAddr::new([0x01, 0x00, 0x5e, 0, 0, 0xfb]);
        for frame in [
            v4(may_fragment, there.mac, &[0; MTU]),
            v4(
                ipv4_repr(here.v4, there.v4, Protocol::ICMP),
                there.mac,
                &error,
            ),
            v4(
                ipv4_repr(here.v4, group, Protocol::UDP),
                group_mac,
                &[0; MTU],
            ),
            v4(
                ipv4::Repr {
                    fragment_offset: 8,
                    ..ipv4_repr(here.v4, there.v4, Protocol::UDP)
                },
                there.mac,
                &[0; MTU],
            ),
            link(
                here.mac,
                there.mac,
                EtherType::IPV6,
                &ipv6_packet(here.v6, there.v6, Protocol::ICMPV6, 64, &error6),
            ),
            link(here.mac, there.mac, EtherType::EXPERIMENT, &[0; MTU + 1]),
        ] {
            dropped(DropReason::TooBig, lab.send(here.port, &frame));
        }
        // An echo is no error.
        let mut echo = vec![0; MTU];
        icmpv4::Repr::EchoRequest {
            identifier: 1,
            sequence: 1,
        }
        .emit(&mut echo)
        .unwrap();
        let frame = v4(
            ipv4_repr(here.v4, there.v4, Protocol::ICMP),
            there.mac,
            &echo,
        );
        let outcome = lab.send(here.port, &frame).0;
        assert_eq!(outcome, Outcome::Dropped(DropReason::TooBigAnswered));
    }

    #[test]
    fn errors_have_a_rate() {
        let rate = Rate {
            per_second: 1,
            burst: 1,
        };
        let mut lab = Lab::with(
            Config {
                icmp_rate_max: rate,
                ..Config::default()
            },
            network(),
        );
        let frame = udp4(&lab.here, &lab.there, &[7; MTU]);
        let told = Outcome::Dropped(DropReason::TooBigAnswered);
        assert_eq!(lab.send(lab.here.port, &frame).0, told);
        dropped(DropReason::TooBig, lab.send(lab.here.port, &frame));
        lab.now += Duration::from_secs(1);
        assert_eq!(lab.send(lab.here.port, &frame).0, told);
    }

    #[test]
    fn a_tag_counts() {
        let mut lab = Lab::with(
            Config::default(),
            NetworkConfig {
                vlan_tags: VlanTags::Inspect,
                ..network()
            },
        );
        let fits = tagged(&udp4(&lab.here, &lab.there, &[7; MTU - 28 - 4]), 1);
        assert_eq!(lab.send(lab.here.port, &fits).0, Outcome::ToVtep);
        let frame = tagged(&udp4(&lab.here, &lab.there, &[7; MTU - 28 - 3]), 1);
        let (outcome, sent) = lab.send(lab.here.port, &frame);
        assert_eq!(outcome, Outcome::Dropped(DropReason::TooBigAnswered));
        let bytes = sent.port().1;
        assert_eq!(bytes[12..18], frame[12..18]);
        let message = icmpv4::Packet::new_checked(&bytes[18 + 20..]).unwrap();
        let told = icmpv4::Repr::FragmentationNeeded { mtu: 1_446 };
        assert_eq!(icmpv4::Repr::parse(&message), Ok(told));
    }

    #[test]
    fn headroom_is_all_that_encapsulation_needs() {
        let mut lab = Lab::new();
        let bytes = udp4(&lab.here, &lab.there, b"x");
        let (outcome, sent) = lab.send_frame(lab.here.port, Frame::with_headroom(8, &bytes));
        assert_eq!(outcome, Outcome::ToVtep);
        assert_eq!(sent.to_vteps[0].2.headroom(), 0);
        let outcome = lab.send_frame(lab.here.port, Frame::with_headroom(7, &bytes));
        dropped(DropReason::Headroom, outcome);
    }
}

mod moves {
    use super::*;

    fn at(lab: &Lab, mac: MacAddr) -> Option<Location> {
        lab.switch.location(lab.vni, mac)
    }

    #[test]
    fn the_newest_of_two_rows_wins_and_the_other_comes_back() {
        let mut lab = Lab::new();
        let (vni, moving) = (lab.vni, lab.there);
        lab.switch
            .set_remote(vni, moving.mac, &moving.addresses(), vtep(3))
            .unwrap();
        assert_eq!(at(&lab, moving.mac), Some(Location::Vtep(vtep(3))));
        // The same row once more changes nothing, not even which one is the newest.
        lab.switch
            .set_remote(vni, moving.mac, &moving.addresses(), vtep(2))
            .unwrap();
        assert_eq!(at(&lab, moving.mac), Some(Location::Vtep(vtep(3))));
        assert!(lab.switch.remove_remote(vni, moving.mac, vtep(3)));
        assert_eq!(at(&lab, moving.mac), Some(Location::Vtep(vtep(2))));
        assert!(!lab.switch.remove_remote(vni, moving.mac, vtep(3)));
        assert!(lab.switch.remove_remote(vni, moving.mac, vtep(2)));
        assert_eq!(at(&lab, moving.mac), None);
    }

    #[test]
    fn delete_before_add_and_add_before_delete_end_alike() {
        // Docker's peer database: add A, add B, delete A leaves B, in any order in which they may arrive.
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2]] {
            let mut lab = Lab::new();
            let (vni, moving) = (lab.vni, Endpoint::new(50, 2));
            for step in order {
                match step {
                    0 => lab
                        .switch
                        .set_remote(vni, moving.mac, &moving.addresses(), vtep(2))
                        .unwrap(),
                    1 => lab
                        .switch
                        .set_remote(vni, moving.mac, &moving.addresses(), vtep(3))
                        .unwrap(),
                    _ => assert!(lab.switch.remove_remote(vni, moving.mac, vtep(2))),
                }
            }
            assert_eq!(at(&lab, moving.mac), Some(Location::Vtep(vtep(3))));
        }
    }

    #[test]
    fn while_it_moves_an_endpoint_is_heard_from_both_vteps() {
        let mut lab = Lab::new();
        let moving = lab.there;
        let frame = udp4(&moving, &lab.here, b"x");
        dropped(DropReason::SourceMac, lab.receive(vtep(3), &frame));
        lab.switch
            .set_remote(lab.vni, moving.mac, &moving.addresses(), vtep(3))
            .unwrap();
        assert_eq!(lab.receive(vtep(2), &frame).0, Outcome::ToPort);
        assert_eq!(lab.receive(vtep(3), &frame).0, Outcome::ToPort);
        lab.switch.remove_remote(lab.vni, moving.mac, vtep(2));
        dropped(DropReason::SourceMac, lab.receive(vtep(2), &frame));
    }

    #[test]
    fn an_endpoint_that_is_here_is_nowhere_else() {
        let mut lab = Lab::new();
        let (vni, own) = (lab.vni, lab.neighbour);
        lab.switch
            .set_remote(vni, own.mac, &own.addresses(), vtep(2))
            .unwrap();
        assert_eq!(at(&lab, own.mac), Some(Location::Port(own.port)));
        let frame = udp4(&own, &lab.here, b"x");
        dropped(DropReason::SourceMac, lab.receive(vtep(2), &frame));
        // Once it is gone from here, the row counts.
        assert!(lab.switch.remove_port(own.port));
        assert_eq!(at(&lab, own.mac), Some(Location::Vtep(vtep(2))));
        assert_eq!(lab.receive(vtep(2), &frame).0, Outcome::ToPort);
    }

    #[test]
    fn two_endpoints_with_one_address_take_turns() {
        let mut lab = Lab::new();
        let (vni, old) = (lab.vni, lab.there);
        let new = Endpoint {
            mac: MacAddr::new([2, 0, 0, 0, 0, 9]),
            vtep: vtep(3),
            ..old
        };
        let neighbour = |lab: &Lab| lab.switch.neighbour(vni, old.v4.into());
        lab.switch
            .set_remote(vni, new.mac, &new.addresses(), new.vtep)
            .unwrap();
        assert_eq!(neighbour(&lab), Some(new.mac));
        assert!(lab.switch.remove_remote(vni, new.mac, new.vtep));
        assert_eq!(neighbour(&lab), Some(old.mac));
        // One with changed addresses is a new row.
        lab.switch
            .set_remote(vni, new.mac, &[old.v4.into()], new.vtep)
            .unwrap();
        lab.switch
            .set_remote(vni, old.mac, &[old.v4.into()], old.vtep)
            .unwrap();
        assert_eq!(neighbour(&lab), Some(old.mac));
        assert_eq!(lab.switch.neighbour(vni, old.v6.into()), None);
        lab.switch.remove_remote(vni, old.mac, old.vtep);
        assert_eq!(neighbour(&lab), Some(new.mac));
    }

    #[test]
    fn a_restarted_endpoint_on_the_same_node_takes_over_its_port() {
        let mut lab = Lab::new();
        let again = PortId(77);
        lab.switch
            .add_port(again, lab.vni, lab.here.mac, &lab.here.addresses())
            .unwrap();
        assert_eq!(at(&lab, lab.here.mac), Some(Location::Port(again)));
        assert!(lab.switch.remove_port(lab.here.port));
        assert_eq!(at(&lab, lab.here.mac), Some(Location::Port(again)));
        assert_eq!(
            lab.switch.neighbour(lab.vni, lab.here.v4.into()),
            Some(lab.here.mac)
        );
    }

    #[test]
    fn a_whole_set_of_rows_replaces_the_former() {
        let mut lab = Lab::new();
        let row = |endpoint: &Endpoint, vtep| RemoteEndpoint {
            mac: endpoint.mac,
            addresses: endpoint.addresses().to_vec(),
            vtep,
        };
        let new = Endpoint::new(50, 3);
        // `there` stays, `elsewhere` goes, `new` comes; twice, for it is the difference that counts.
        for _ in 0..2 {
            let rows = [row(&lab.there, lab.there.vtep), row(&new, new.vtep)];
            assert_eq!(lab.switch.set_remotes(lab.vni, &rows), Ok(0));
            assert_eq!(at(&lab, lab.there.mac), Some(Location::Vtep(vtep(2))));
            assert_eq!(at(&lab, lab.elsewhere.mac), None);
            assert_eq!(at(&lab, new.mac), Some(Location::Vtep(vtep(3))));
        }
        // Two endpoints that share MAC address and VTEP share the row.
        let twin = RemoteEndpoint {
            addresses: vec![new.v4.into()],
            ..row(&new, new.vtep)
        };
        lab.switch
            .set_remotes(lab.vni, &[row(&new, new.vtep), twin.clone()])
            .unwrap();
        lab.switch.set_remotes(lab.vni, &[twin]).unwrap();
        assert_eq!(lab.switch.neighbour(lab.vni, new.v4.into()), Some(new.mac));
        assert_eq!(lab.switch.neighbour(lab.vni, new.v6.into()), None);
        lab.switch.set_remotes(lab.vni, &[]).unwrap();
        assert_eq!(at(&lab, new.mac), None);
    }

    #[test]
    fn a_row_that_is_refused_is_left_out_of_the_set() {
        let mut lab = Lab::with(
            Config {
                remotes_max: 2,
                ..Config::default()
            },
            network(),
        );
        let row = |number| {
            let endpoint = Endpoint::new(number, 3);
            let (mac, vtep) = (endpoint.mac, endpoint.vtep);
            RemoteEndpoint {
                mac,
                addresses: endpoint.addresses().to_vec(),
                vtep,
            }
        };
        let group = RemoteEndpoint {
            mac: MacAddr::BROADCAST,
            ..row(49)
        };
        // Both rows of before go, so that there is room for two of the three.
        let rows = [group, row(50), row(51), row(52)];
        assert_eq!(lab.switch.set_remotes(lab.vni, &rows), Ok(2));
        let held = [12, 13, 50, 51, 52].map(|n| at(&lab, Endpoint::new(n, 3).mac).is_some());
        assert_eq!(held, [false, false, true, true, false]);
    }
}

mod learning {
    use super::*;

    const AGE: Duration = Duration::from_secs(300);

    fn lab(learned_rows_max: u16) -> Lab {
        let config = Config {
            learned_rows_max,
            outputs_max: 4,
            ..Config::default()
        };
        Lab::with(
            config,
            NetworkConfig {
                learning: Some(AGE),
                ..network()
            },
        )
    }

    fn events(lab: &mut Lab) -> Vec<Event> {
        let outputs = std::iter::from_fn(|| lab.switch.poll_output());
        let events = outputs.filter_map(|output| match output {
            Output::Event(event) => Some(event),
            Output::Announce(_) | Output::PathPacket(_) => None,
        });
        events.collect()
    }

    #[test]
    fn a_learned_row_ages_unless_it_is_seen_again() {
        let mut lab = lab(10);
        let other = Endpoint::new(99, 2);
        let frame = udp4(&other, &lab.here, b"x");
        let (vni, mac) = (lab.vni, other.mac);
        assert_eq!(lab.receive(vtep(2), &frame).0, Outcome::ToPort);
        let learned = Event::Learned {
            vni,
            mac,
            vtep: vtep(2),
        };
        assert_eq!(lab.switch.poll_timeout(), Some(lab.now));
        assert_eq!(events(&mut lab), [learned]);
        assert_eq!(lab.switch.poll_timeout(), Some(lab.now + AGE));
        lab.now += AGE / 2;
        assert_eq!(lab.receive(vtep(2), &frame).0, Outcome::ToPort);
        assert!(events(&mut lab).is_empty());
        lab.now += AGE - Duration::from_nanos(1);
        lab.switch.handle_timeout(lab.now);
        assert_eq!(lab.switch.location(vni, mac), Some(Location::Vtep(vtep(2))));
        lab.now += Duration::from_nanos(1);
        // Gone at once, though the sweep may come later.
        let outgoing = udp4(&lab.here, &other, b"x");
        assert_eq!(lab.send(lab.here.port, &outgoing).0, Outcome::Flooded);
        lab.now = lab.switch.poll_timeout().unwrap().max(lab.now);
        lab.switch.handle_timeout(lab.now);
        assert_eq!(
            events(&mut lab),
            [Event::Aged {
                vni,
                mac,
                vtep: vtep(2)
            }]
        );
        assert_eq!(lab.switch.poll_timeout(), None);
    }

    #[test]
    fn learning_never_overrides_a_row() {
        let mut lab = lab(10);
        for known in [lab.there, lab.here] {
            let frame = udp4(&known, &lab.neighbour, b"x");
            dropped(DropReason::SourceMac, lab.receive(vtep(3), &frame));
        }
        // A row that comes later replaces what was learned.
        let other = Endpoint::new(99, 2);
        lab.receive(vtep(2), &udp4(&other, &lab.here, b"x"));
        lab.switch
            .set_remote(lab.vni, other.mac, &other.addresses(), vtep(3))
            .unwrap();
        assert_eq!(
            lab.switch.location(lab.vni, other.mac),
            Some(Location::Vtep(vtep(3)))
        );
        dropped(
            DropReason::SourceMac,
            lab.receive(vtep(2), &udp4(&other, &lab.here, b"x")),
        );
    }

    #[test]
    fn a_learned_row_moves_and_goes_with_its_vtep() {
        let mut lab = lab(10);
        let other = Endpoint::new(99, 2);
        let frame = udp4(&other, &lab.here, b"x");
        lab.receive(vtep(2), &frame);
        lab.receive(vtep(3), &frame);
        assert_eq!(
            lab.switch.location(lab.vni, other.mac),
            Some(Location::Vtep(vtep(3)))
        );
        assert_eq!(lab.switch.stats().learned, 2);
        lab.switch
            .set_vteps(lab.vni, &BTreeSet::from([vtep(2)]))
            .unwrap();
        assert_eq!(lab.switch.location(lab.vni, other.mac), None);
    }

    #[test]
    fn a_flood_of_addresses_fills_the_quota_of_its_network_only() {
        let mut lab = lab(3);
        let other = vni(5);
        let config = NetworkConfig {
            learning: Some(AGE),
            ..network()
        };
        lab.switch.add_network(other, config).unwrap();
        lab.switch
            .add_port(PortId(50), other, lab.here.mac, &lab.here.addresses())
            .unwrap();
        lab.switch
            .set_vteps(other, &BTreeSet::from([vtep(2)]))
            .unwrap();
        for number in 100..200 {
            let frame = udp4(&Endpoint::new(number, 2), &lab.here, b"x");
            assert_eq!(lab.receive(vtep(2), &frame).0, Outcome::ToPort);
        }
        let stats = lab.switch.network_stats(lab.vni).unwrap();
        assert_eq!((stats.learned, stats.learning_full), (3, 97));
        let frame = udp4(&Endpoint::new(100, 2), &lab.here, b"x");
        lab.receive_datagram(vtep(2), &encapsulated(other, &frame));
        assert_eq!(lab.switch.network_stats(other).unwrap().learned, 1);
        assert_eq!(events(&mut lab).len(), 4);
        lab.receive_datagram(vtep(2), &encapsulated(other, &frame));
        assert!(
            events(&mut lab).is_empty(),
            "a row that is known is no event"
        );
    }

    #[test]
    fn events_that_nobody_polls_are_counted() {
        let mut lab = lab(10);
        for number in 100..106 {
            lab.receive(vtep(2), &udp4(&Endpoint::new(number, 2), &lab.here, b"x"));
        }
        assert_eq!(events(&mut lab).len(), 4);
        assert_eq!(lab.switch.stats().outputs_lost, 2);
    }

    #[test]
    fn without_learning_what_was_learned_is_forgotten() {
        let mut lab = lab(10);
        let other = Endpoint::new(99, 2);
        lab.receive(vtep(2), &udp4(&other, &lab.here, b"x"));
        lab.switch.set_network(lab.vni, network()).unwrap();
        assert_eq!(lab.switch.location(lab.vni, other.mac), None);
    }
}

mod control {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let config = Config {
            networks_max: 1,
            ports_max: 2,
            remotes_max: 2,
            vteps_max: 2,
            addresses_max: 2,
            ..Config::default()
        };
        let mut lab = Lab::with(config, network());
        let known = lab.vni;
        let exists = NetworkError::Exists { vni: known };
        assert_eq!(lab.switch.add_network(known, network()), Err(exists));
        assert_eq!(
            lab.switch.add_network(vni(1), network()),
            Err(NetworkError::Full { max: 1 })
        );
        let unknown = NetworkError::Unknown { vni: vni(1) };
        assert_eq!(lab.switch.set_network(vni(1), network()), Err(unknown));
        let three = BTreeSet::from([vtep(1), vtep(2), vtep(3)]);
        let too_many = NetworkError::Vteps { max: 2, found: 3 };
        assert_eq!(lab.switch.set_vteps(known, &three), Err(too_many));

        let new = Endpoint::new(50, 2);
        let full = Err(EndpointError::Full { max: 2 });
        let addresses = new.addresses();
        let (port, mac) = (lab.here.port, lab.here.mac);
        let add = lab.switch.add_port(port, known, mac, &addresses);
        assert_eq!(add, Err(EndpointError::PortExists { port }));
        assert_eq!(
            lab.switch.add_port(new.port, known, new.mac, &addresses),
            full
        );
        assert_eq!(
            lab.switch.set_remote(known, new.mac, &addresses, new.vtep),
            full
        );
        let unknown = Err(EndpointError::UnknownNetwork { vni: vni(1) });
        assert_eq!(
            lab.switch.set_remote(vni(1), new.mac, &addresses, new.vtep),
            unknown
        );
        for mac in [MacAddr::BROADCAST, MacAddr::UNSPECIFIED] {
            let refused = Err(EndpointError::Mac { mac });
            assert_eq!(
                lab.switch.set_remote(known, mac, &addresses, new.vtep),
                refused
            );
        }
        let three = [addresses[0], addresses[1], Ipv4Addr::LOCALHOST.into()];
        let too_many = Err(EndpointError::Addresses { max: 2, found: 3 });
        assert_eq!(
            lab.switch.set_remote(known, new.mac, &three, new.vtep),
            too_many
        );
        assert_eq!(lab.switch.location(known, new.mac), None);

        // A known row may be set at the bound, and a removed one makes room.
        let there = lab.there;
        lab.switch
            .set_remote(known, there.mac, &[there.v4.into()], there.vtep)
            .unwrap();
        assert!(lab.switch.remove_remote(known, there.mac, there.vtep));
        lab.switch
            .set_remote(known, new.mac, &addresses, new.vtep)
            .unwrap();
    }

    #[test]
    fn a_network_that_was_removed_leaves_nothing_to_the_next() {
        let learning = Some(Duration::from_secs(9));
        let mut lab = Lab::with(
            Config::default(),
            NetworkConfig {
                learning,
                ..network()
            },
        );
        let other = Endpoint::new(99, 2);
        lab.receive(vtep(2), &udp4(&other, &lab.here, b"x"));
        assert!(lab.switch.remove_network(lab.vni));
        assert!(!lab.switch.remove_network(lab.vni));
        // It takes the same place in the tables.
        lab.switch.add_network(vni(5), network()).unwrap();
        for mac in [other.mac, lab.here.mac, lab.there.mac] {
            assert_eq!(lab.switch.location(vni(5), mac), None);
        }
        assert_eq!(lab.switch.neighbour(vni(5), lab.there.v4.into()), None);
        assert_eq!(
            lab.switch.network_stats(vni(5)).unwrap(),
            &Default::default()
        );
        let frame = udp4(&lab.there, &lab.here, b"x");
        let outcome = lab.receive_datagram(vtep(2), &encapsulated(vni(5), &frame));
        dropped(DropReason::UnknownVtep, outcome);
        assert_eq!(lab.switch.vtep_stats(vtep(2)), None);
    }

    #[test]
    fn traffic_is_counted_by_network_and_by_vtep() {
        let mut lab = Lab::new();
        let out = udp4(&lab.here, &lab.there, b"12345");
        lab.send(lab.here.port, &out);
        lab.receive(lab.there.vtep, &udp4(&lab.there, &lab.here, b"1"));
        let stats = *lab.switch.network_stats(lab.vni).unwrap();
        assert_eq!(&stats, lab.switch.stats());
        assert_eq!(
            (stats.from_ports.frames, stats.from_ports.octets),
            (1, out.len() as u64)
        );
        assert_eq!(stats.to_vteps, stats.from_ports);
        assert_eq!((stats.from_vteps.frames, stats.to_ports.frames), (1, 1));
        let vtep_stats = lab.switch.vtep_stats(lab.there.vtep).unwrap();
        assert_eq!(
            (vtep_stats.sent, vtep_stats.received),
            (stats.to_vteps, stats.from_vteps)
        );
        assert_eq!(
            lab.switch.vtep_stats(lab.elsewhere.vtep),
            Some(&Default::default())
        );
        // A VTEP that comes back begins at zero.
        lab.switch.remove_remote(lab.vni, lab.there.mac, vtep(2));
        lab.switch.set_vteps(lab.vni, &BTreeSet::new()).unwrap();
        lab.switch
            .set_vteps(lab.vni, &BTreeSet::from([vtep(9)]))
            .unwrap();
        assert_eq!(lab.switch.vtep_stats(vtep(2)), None);
        assert_eq!(lab.switch.vtep_stats(vtep(9)), Some(&Default::default()));
    }

    #[test]
    fn the_halves_do_what_the_whole_does() {
        let mut lab = Lab::new();
        let bytes = udp4(&lab.here, &lab.there, b"x");
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
        lab.switch
            .admit_local(lab.now, lab.here.port, &frame)
            .unwrap();
        let mut sent = Sent::default();
        let outcome = lab
            .switch
            .forward_local(lab.now, lab.here.port, &mut frame, &mut sent);
        assert_eq!(outcome, Outcome::ToVtep);
        assert_eq!(sent.vtep().2, encapsulated(lab.vni, &bytes));

        let bytes = udp4(&lab.there, &lab.here, b"x");
        let datagram = encapsulated(lab.vni, &bytes);
        let mut frame = Frame::with_headroom(0, &datagram);
        let vni = lab
            .switch
            .admit_remote(lab.now, lab.there.vtep, &mut frame)
            .unwrap();
        assert_eq!((vni, frame.bytes()), (lab.vni, &bytes[..]));
        let mut sent = Sent::default();
        let outcome = lab
            .switch
            .forward_remote(lab.now, vni, &mut frame, &mut sent);
        assert_eq!(outcome, Outcome::ToPort);
    }
}
