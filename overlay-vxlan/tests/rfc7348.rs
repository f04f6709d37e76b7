//! One test for each normative sentence of RFC 7348 that concerns a VTEP's frame path.

mod lab;

use lab::*;
use overlay_core::{MacAddr, Vni};
use overlay_vxlan::{
    DropReason, NetworkConfig, Outcome, flow,
    wire::{
        DecodeError,
        ethernet::EtherType,
        ipv4::Protocol,
        vxlan::{self, Packet, Repr},
    },
};

/// §4.1: "It then determines if the destination MAC is on the same segment and if there is a mapping of the destination
/// MAC address to the remote VTEP. If so, an outer header [...] are prepended to the original MAC frame."
#[test]
fn section_4_1_a_known_destination_is_sent_to_its_vtep_alone() {
    let mut lab = Lab::new();
    let frame = udp4(&lab.here, &lab.there, b"x");
    let (outcome, sent) = lab.send(lab.here.port, &frame);
    assert_eq!(outcome, Outcome::ToVtep);
    let (vtep, _, bytes) = sent.vtep();
    assert_eq!(vtep, lab.there.vtep);
    assert_eq!(bytes, encapsulated(lab.vni, &frame));
}

/// §4.1: "the remote VTEP verifies the validity of the VNI and whether or not there is a VM on that VNI using a MAC
/// address that matches the inner destination MAC address. If so, the packet is stripped of its encapsulating headers
/// and passed on to the destination VM."
#[test]
fn section_4_1_a_datagram_for_an_endpoint_here_is_stripped_and_passed_on() {
    let mut lab = Lab::new();
    let frame = udp4(&lab.there, &lab.here, b"x");
    let (outcome, sent) = lab.receive(lab.there.vtep, &frame);
    assert_eq!(outcome, Outcome::ToPort);
    assert_eq!(sent.port(), (lab.here.port, &frame[..]));
}

/// §4.1, the same sentence: where no such endpoint is, nothing comes out.
#[test]
fn section_4_1_a_datagram_for_an_endpoint_that_is_not_here_is_dropped() {
    let mut lab = Lab::new();
    for frame in [
        udp4(&lab.there, &lab.elsewhere, b"x"),
        udp4(&lab.there, &Endpoint::new(99, 9), b"x"),
    ] {
        let (outcome, sent) = lab.receive(lab.there.vtep, &frame);
        assert_eq!(outcome, Outcome::Dropped(DropReason::NotLocal));
        assert!(sent.is_empty());
    }
}

/// §4.1: "the remote VTEP learns the mapping from inner source MAC to outer source IP address" (as an option here: the
/// tables come from the control plane).
#[test]
fn section_4_1_a_network_with_learning_learns_inner_source_to_outer_source() {
    let learning = Some(std::time::Duration::from_secs(300));
    let mut lab = Lab::with(
        Default::default(),
        NetworkConfig {
            learning,
            ..network()
        },
    );
    let unknown = Endpoint::new(99, 2);
    assert_eq!(
        lab.receive(vtep(2), &udp4(&unknown, &lab.here, b"x")).0,
        Outcome::ToPort
    );
    let (outcome, sent) = lab.send(lab.here.port, &udp4(&lab.here, &unknown, b"y"));
    assert_eq!(outcome, Outcome::ToVtep);
    assert_eq!(sent.vtep().0, vtep(2));
}

/// §4.2: broadcast is sent to all VTEPs of the segment (with a multicast group there; by head-end replication here),
/// and to the endpoints of the segment on the same node.
#[test]
fn section_4_2_broadcast_reaches_every_vtep_and_every_other_port_once() {
    let mut lab = Lab::new();
    let frame = link(
        lab.here.mac,
        MacAddr::BROADCAST,
        EtherType::EXPERIMENT,
        b"hello",
    );
    let (outcome, sent) = lab.send(lab.here.port, &frame);
    assert_eq!(outcome, Outcome::Flooded);
    assert_eq!(sent.ports(), [lab.neighbour.port]);
    assert_eq!(sent.to_ports[0].1.bytes(), frame);
    assert_eq!(sent.vteps(), [vtep(2), vtep(3)]);
    for (_, _, datagram) in &sent.to_vteps {
        assert_eq!(datagram.bytes(), encapsulated(lab.vni, &frame));
    }
}

/// §4.2, seen from the receiver: a replicated frame comes out at the endpoints here, and is not sent on.
#[test]
fn section_4_2_a_received_broadcast_is_never_sent_on() {
    let mut lab = Lab::new();
    let frame = link(
        lab.there.mac,
        MacAddr::BROADCAST,
        EtherType::EXPERIMENT,
        b"hello",
    );
    let (outcome, sent) = lab.receive(lab.there.vtep, &frame);
    assert_eq!(outcome, Outcome::Flooded);
    assert_eq!(sent.ports(), [lab.here.port, lab.neighbour.port]);
    assert!(sent.vteps().is_empty());
}

/// §4.2: "multicast frames and "unknown MAC destination" frames are also sent using the multicast tree, similar to the
/// broadcast frames"; the ports here are spared, because their addresses are all known.
#[test]
fn section_4_2_unknown_unicast_reaches_every_vtep_and_no_port() {
    let mut lab = Lab::new();
    let frame = udp4(&lab.here, &Endpoint::new(99, 9), b"x");
    let (outcome, sent) = lab.send(lab.here.port, &frame);
    assert_eq!(outcome, Outcome::Flooded);
    assert!(sent.ports().is_empty());
    assert_eq!(sent.vteps(), [vtep(2), vtep(3)]);
}

/// §5: "the I flag MUST be set to 1 for a valid VXLAN Network ID (VNI)."
#[test]
fn section_5_the_i_flag_is_set() {
    for number in [0, 1, 4_097, 0x00ff_ffff] {
        assert_eq!(Repr::new(vni(number)).octets()[0] & 0x08, 0x08);
    }
}

/// §5, the same sentence on receipt: without the flag there is no VNI.
#[test]
fn section_5_a_header_without_the_i_flag_is_refused() {
    let mut lab = Lab::new();
    let mut datagram = encapsulated(lab.vni, &udp4(&lab.there, &lab.here, b"x"));
    datagram[0] = !0x08;
    let unset = DecodeError::FlagUnset {
        offset: 0,
        flags: 0x08,
    };
    assert_eq!(Packet::new_checked(&datagram[..]).unwrap_err(), unset);
    let (outcome, sent) = lab.receive_datagram(lab.there.vtep, &datagram);
    assert_eq!(outcome, Outcome::Dropped(DropReason::VxlanHeader));
    assert!(sent.is_empty());
}

/// §5: "The other 7 bits (designated "R") are reserved fields and MUST be set to zero on transmission", and "Reserved
/// fields (24 bits and 8 bits): MUST be set to zero on transmission".
#[test]
fn section_5_reserved_bits_are_zero_on_transmission() {
    let octets = Repr::new(Vni::MAX).octets();
    assert_eq!(octets, [0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
    assert_eq!(Repr::new(Vni::MIN).octets(), [0x08, 0, 0, 0, 0, 0, 0, 0]);
}

/// §5: "and ignored on receipt", of both kinds of reserved bits.
#[test]
fn section_5_reserved_bits_are_ignored_on_receipt() {
    let mut lab = Lab::new();
    let frame = udp4(&lab.there, &lab.here, b"x");
    let mut datagram = encapsulated(lab.vni, &frame);
    for octet in [0, 1, 2, 3, 7] {
        datagram[octet] |= 0xff;
    }
    let (outcome, sent) = lab.receive_datagram(lab.there.vtep, &datagram);
    assert_eq!(outcome, Outcome::ToPort);
    assert_eq!(sent.port().1, frame);
}

/// §5: "VXLAN Segment ID/VXLAN Network Identifier (VNI): this is a 24-bit value".
#[test]
fn section_5_the_vni_has_24_bits_edges_included() {
    for vni in [Vni::MIN, Vni::MAX] {
        let octets = Repr::new(vni).octets();
        assert_eq!(Packet::new_checked(&octets[..]).unwrap().vni(), vni);
        let mut lab = Lab::new();
        lab.switch.add_network(vni, network()).unwrap();
        let (from, to) = (Endpoint::new(40, 1), Endpoint::new(41, 2));
        lab.switch
            .add_port(from.port, vni, from.mac, &from.addresses())
            .unwrap();
        lab.switch
            .set_remote(vni, to.mac, &to.addresses(), to.vtep)
            .unwrap();
        let frame = udp4(&from, &to, b"x");
        let (_, sent) = lab.send(from.port, &frame);
        assert_eq!(sent.vtep().2, encapsulated(vni, &frame));
    }
}

/// §4: "Only VMs within the same VXLAN segment can communicate with each other", whatever their addresses.
#[test]
fn section_4_only_endpoints_of_one_segment_reach_each_other() {
    let mut lab = Lab::new();
    let other = vni(4_098);
    lab.switch.add_network(other, network()).unwrap();
    // The same addresses as an endpoint of the first network, and its VTEP is no member here.
    let twin = Endpoint {
        port: overlay_vxlan::PortId(200),
        ..lab.here
    };
    lab.switch
        .add_port(twin.port, other, twin.mac, &twin.addresses())
        .unwrap();
    let frame = udp4(&twin, &lab.neighbour, b"x");
    let (outcome, sent) = lab.send(twin.port, &frame);
    assert_eq!((outcome, sent.is_empty()), (Outcome::Flooded, true));
    let datagram = encapsulated(other, &udp4(&lab.there, &twin, b"x"));
    let (outcome, sent) = lab.receive_datagram(lab.there.vtep, &datagram);
    assert_eq!(outcome, Outcome::Dropped(DropReason::UnknownVtep));
    assert!(sent.is_empty());
}

/// §5: "It is recommended that the UDP source port number be calculated using a hash of fields from the inner packet",
/// so that a flow keeps its path and flows are spread.
#[test]
fn section_5_the_source_port_is_the_same_within_a_flow_and_spreads_flows() {
    let mut lab = Lab::new();
    let mut ports = std::collections::BTreeSet::new();
    for port in 0..256 {
        let (from, to) = (lab.here.v4, lab.there.v4);
        let frame = |payload: &[u8]| {
            let datagram = udp_datagram((port, 53), from.into(), to.into(), payload);
            let packet = ipv4_packet(ipv4_repr(from, to, Protocol::UDP), &datagram);
            link(lab.here.mac, lab.there.mac, EtherType::IPV4, &packet)
        };
        let (first, second) = (frame(b"first"), frame(b"second, longer"));
        let first = lab.send(lab.here.port, &first).1.vtep().1;
        assert_eq!(lab.send(lab.here.port, &second).1.vtep().1, first);
        ports.insert(first);
    }
    // 256 draws from 16,384 collide about twice.
    assert!(
        ports.len() > 240,
        "{} source ports for 256 flows",
        ports.len()
    );
}

/// §5: "When calculating the UDP source port number in this manner, it is RECOMMENDED that the value be in the
/// dynamic/private port range 49152-65535 [RFC6335]."
#[test]
fn section_5_the_source_port_is_a_dynamic_one() {
    let mut lab = Lab::new();
    let mut seen = [false; 4];
    for number in 0..64 {
        let other = Endpoint::new(100 + number, 2);
        lab.switch
            .set_remote(lab.vni, other.mac, &other.addresses(), other.vtep)
            .unwrap();
        for frame in [udp4(&lab.here, &other, b"x"), udp6(&lab.here, &other, b"x")] {
            let (_, sent) = lab.send(lab.here.port, &frame);
            let port = sent.vtep().1;
            assert!(port >= flow::SOURCE_PORT_MIN);
            seen[usize::from((port - flow::SOURCE_PORT_MIN) >> 12)] = true;
        }
    }
    assert_eq!(seen, [true; 4], "all quarters of the range are in use");
}

/// §5: the fragments of a packet have no ports but the first; all take one path, or they would overtake each other.
#[test]
fn section_5_fragments_of_a_packet_have_one_source_port() {
    let mut lab = Lab::new();
    let (from, to) = (lab.here.v4, lab.there.v4);
    let datagram = udp_datagram((1, 2), from.into(), to.into(), &[7; 24]);
    let fragment = |offset: u16, more_fragments, payload: &[u8]| {
        let repr = overlay_vxlan::wire::ipv4::Repr {
            dont_fragment: false,
            more_fragments,
            fragment_offset: offset,
            ..ipv4_repr(from, to, Protocol::UDP)
        };
        link(
            lab.here.mac,
            lab.there.mac,
            EtherType::IPV4,
            &ipv4_packet(repr, payload),
        )
    };
    let first = fragment(0, true, &datagram[..16]);
    let last = fragment(2, false, &datagram[16..]);
    let first = lab.send(lab.here.port, &first).1.vtep().1;
    assert_eq!(lab.send(lab.here.port, &last).1.vtep().1, first);
}

/// §4.3: "VTEPs MUST NOT fragment VXLAN packets": what would not fit is refused with the reason, before encapsulation.
#[test]
fn section_4_3_nothing_bigger_than_the_mtu_is_encapsulated() {
    let mut lab = Lab::new();
    let mtu = usize::from(network().mtu);
    let fits = udp4(&lab.here, &lab.there, &vec![0; mtu - 28]);
    assert_eq!(fits.len(), 14 + mtu);
    assert_eq!(lab.send(lab.here.port, &fits).0, Outcome::ToVtep);
    let too_big = udp4(&lab.here, &lab.there, &vec![0; mtu - 27]);
    let (outcome, sent) = lab.send(lab.here.port, &too_big);
    assert_eq!(outcome, Outcome::Dropped(DropReason::TooBigAnswered));
    assert!(sent.vteps().is_empty());
}

/// §5: "IANA has assigned the value 4789 for the VXLAN UDP port, and this value SHOULD be used by default as the
/// destination UDP port."
#[test]
fn section_5_the_assigned_port_is_4789() {
    assert_eq!(vxlan::UDP_PORT, 4_789);
}

/// §6.1: "Decapsulated VXLAN frames with the inner VLAN tag SHOULD be discarded unless configured otherwise."
#[test]
fn section_6_1_a_tagged_inner_frame_is_dropped_on_receipt_unless_configured() {
    let frame = |lab: &Lab| tagged(&udp4(&lab.there, &lab.here, b"x"), 100);
    let mut lab = Lab::new();
    let tagged = frame(&lab);
    let (outcome, _) = lab.receive(lab.there.vtep, &tagged);
    assert_eq!(outcome, Outcome::Dropped(DropReason::VlanTag));
    let mut lab = Lab::with(
        Default::default(),
        NetworkConfig {
            vlan_tags: overlay_vxlan::VlanTags::Inspect,
            ..network()
        },
    );
    let (outcome, sent) = lab.receive(lab.there.vtep, &tagged);
    assert_eq!(outcome, Outcome::ToPort);
    assert_eq!(sent.port().1, tagged);
}

/// §6.1: "On the encapsulation side, a VTEP SHOULD NOT include an inner VLAN tag on tunnel packets unless configured
/// otherwise." The frame is dropped where the RFC would strip its tag, which would mix the VLANs of the sender.
#[test]
fn section_6_1_a_tagged_frame_is_not_encapsulated_unless_configured() {
    let mut lab = Lab::new();
    let frame = tagged(&udp4(&lab.here, &lab.there, b"x"), 100);
    let (outcome, _) = lab.send(lab.here.port, &frame);
    assert_eq!(outcome, Outcome::Dropped(DropReason::VlanTag));
    let mut lab = Lab::with(
        Default::default(),
        NetworkConfig {
            vlan_tags: overlay_vxlan::VlanTags::Inspect,
            ..network()
        },
    );
    let (outcome, sent) = lab.send(lab.here.port, &frame);
    assert_eq!(outcome, Outcome::ToVtep);
    assert_eq!(sent.vtep().2, encapsulated(lab.vni, &frame));
}

/// §7, on injected frames: only the VTEPs of members are heard, and only with addresses that are theirs.
#[test]
fn section_7_injected_datagrams_are_refused() {
    let mut lab = Lab::new();
    let stranger = vtep(66);
    let frame = udp4(&lab.there, &lab.here, b"x");
    let refused = |(outcome, sent): (Outcome, Sent), reason| {
        assert_eq!(outcome, Outcome::Dropped(reason));
        assert!(sent.is_empty());
    };
    refused(lab.receive(stranger, &frame), DropReason::UnknownVtep);
    refused(
        lab.receive(lab.elsewhere.vtep, &frame),
        DropReason::SourceMac,
    );
    let unknown = udp4(&Endpoint::new(99, 2), &lab.here, b"x");
    refused(lab.receive(lab.there.vtep, &unknown), DropReason::SourceMac);
    let own = udp4(&lab.neighbour, &lab.here, b"x");
    refused(lab.receive(lab.there.vtep, &own), DropReason::SourceMac);
}
