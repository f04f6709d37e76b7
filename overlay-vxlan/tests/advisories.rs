//! What went wrong in other tunnels, sent to this one: a test for each advisory.

mod lab;

use std::{collections::BTreeSet, net::IpAddr};

use lab::*;
use overlay_core::{Instant, MacAddr, Seed};
use overlay_vxlan::{
    Config, DropReason, Frame, NetworkConfig, Outcome, Received, Switch, wire::ethernet::EtherType,
};

fn encrypted() -> NetworkConfig {
    NetworkConfig {
        encrypted: true,
        ..network()
    }
}

/// Frames of every kind from one endpoint to another, and to all.
fn frames(from: &Endpoint, to: &Endpoint) -> Vec<Vec<u8>> {
    vec![
        udp4(from, to, b"x"),
        udp6(from, to, b"x"),
        arp_request(from, to.v4),
        solicitation(from.mac, from.v6, to.v6),
        link(from.mac, MacAddr::BROADCAST, EtherType::EXPERIMENT, b"x"),
    ]
}

/// Whoever is no member is heard of in no form: not as VXLAN with the right VNI, and not as another tunnel.
#[test]
fn cve_2020_10136_a_tunnel_takes_nothing_from_strangers() {
    let mut lab = Lab::new();
    let member = lab.there.vtep;
    let strangers: [IpAddr; 4] = [
        vtep(9),
        "203.0.113.1".parse().unwrap(),
        "2001:db8::1".parse().unwrap(),
        "::ffff:203.0.113.1".parse().unwrap(),
    ];
    for inner in frames(&lab.there.clone(), &lab.here.clone()) {
        for stranger in strangers {
            let (outcome, sent) = lab.receive(stranger, &inner);
            assert_eq!(outcome, Outcome::Dropped(DropReason::UnknownVtep));
            assert!(sent.is_empty());
        }
        // The very same from a member is taken.
        let (outcome, sent) = lab.receive(member, &inner);
        assert!(!matches!(outcome, Outcome::Dropped(_)), "{outcome:?}");
        assert!(!sent.is_empty());
    }
}

/// Headers of IP in IP, GRE, GUE, Geneve and VXLAN-GPE where a VXLAN header is due: none is taken for one.
#[test]
fn cve_2024_7595_7596_and_cve_2026_7473_another_kind_of_tunnel_is_none() {
    let mut lab = Lab::new();
    let (from, to) = (lab.there, lab.here);
    let vni = lab.vni.get().to_be_bytes();
    let inner = udp4(&from, &to, b"x");
    let packet = &inner[14..];
    let with = |head: &[u8], rest: &[u8]| [head, rest].concat();
    let vni_at_4 = |head: [u8; 4]| [&head[..], &vni[1..], &[0]].concat();
    let tunnels = [
        ("IP in IP", packet.to_vec()),
        ("GRE of IPv4", with(&[0, 0, 0x08, 0], packet)),
        ("GRE of Ethernet", with(&[0, 0, 0x65, 0x58], &inner)),
        (
            "NVGRE",
            with(&[&[0x20, 0, 0x65, 0x58], &vni[1..], &[0]].concat(), &inner),
        ),
        ("GUE of IPv4", with(&[0, 4, 0, 0], packet)),
        ("GUE variant 1", packet.to_vec()),
        ("Geneve", with(&vni_at_4([0, 0, 0x65, 0x58]), &inner)),
        ("no valid VNI", with(&vni_at_4([0, 0, 0, 0]), &inner)),
        (
            "another VNI",
            with(&[0x08, 0, 0, 0, 0xff, 0xff, 0xff, 0], &inner),
        ),
        (
            "IP where Ethernet is due",
            with(&vni_at_4([0x08, 0, 0, 0]), packet),
        ),
        ("MPLS", with(&[0x00, 0x01, 0x01, 0x40], packet)),
    ];
    for (what, datagram) in tunnels {
        let (outcome, sent) = lab.receive_datagram(from.vtep, &datagram);
        assert!(
            matches!(outcome, Outcome::Dropped(_)),
            "{what}: {outcome:?}"
        );
        assert!(sent.is_empty(), "{what}");
    }
    // And what a member says is none of another member's, or of this node's own.
    let elsewhere = udp4(&lab.elsewhere, &to, b"x");
    let own = udp4(&lab.neighbour, &to, b"x");
    for inner in [elsewhere, own] {
        let (outcome, sent) = lab.receive(from.vtep, &inner);
        assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?}");
        assert!(sent.is_empty());
    }
}

/// Where nobody seals, an encrypted network sends nothing; no way leads out in the open.
#[test]
fn cve_2023_28841_without_a_cipher_nothing_leaves() {
    let mut lab = Lab::with(Config::default(), encrypted());
    let (here, there) = (lab.here, lab.there);
    for bytes in frames(&here, &there) {
        // The lab's sink carries VXLAN, and knows of no ESP.
        let (_, sent) = lab.send(here.port, &bytes);
        assert_eq!(sent.vteps(), [] as [IpAddr; 0]);
    }
    assert!(lab.switch.stats().drops.of(DropReason::NoAssociation) > 0);
}

/// From the moment that the network is known: without endpoints, with them, and after they are gone.
#[test]
fn cve_2023_28842_an_encrypted_network_is_closed_before_it_has_endpoints() {
    let (here, there) = (Endpoint::new(2, 1), Endpoint::new(12, 2));
    let mut switch = Switch::new(Config::default(), Seed::from_u64(1));
    let now = Instant::from_millis(1);
    switch.add_network(vni(5), encrypted()).unwrap();
    let closed = |switch: &mut Switch| {
        for inner in frames(&there, &here) {
            for from in [there.vtep, vtep(9)] {
                let datagram = encapsulated(vni(5), &inner);
                let mut frame = Frame::with_headroom(Frame::HEADROOM, &datagram);
                let mut sent = Sent::default();
                let outcome =
                    switch.handle_remote(now, Received::from(from), &mut frame, &mut sent);
                assert_eq!(outcome, Outcome::Dropped(DropReason::Unencrypted));
                assert!(sent.is_empty());
            }
        }
    };
    closed(&mut switch);
    switch
        .set_vteps(vni(5), &BTreeSet::from([there.vtep]))
        .unwrap();
    switch
        .set_remote(vni(5), there.mac, &there.addresses(), there.vtep)
        .unwrap();
    closed(&mut switch);
    switch
        .add_port(here.port, vni(5), here.mac, &here.addresses())
        .unwrap();
    closed(&mut switch);
    switch.remove_port(here.port);
    closed(&mut switch);
}
