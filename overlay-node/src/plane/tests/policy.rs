//! What policies let through, on one node and between two.

use overlay_core::plane::{AddressMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict};
use overlay_vxlan::{policy::Reason, wire::vxlan};

use super::*;

#[test]
fn what_no_rule_allows_is_dropped_counted_and_captured() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (one, two) = (id(1), id(2));
    let rules = [allow("web", &[1], &[2], WEB)];
    plane.apply(Instant::EPOCH, &closed(two_here(), &rules));
    plane.start_capture(7, capture());
    let opened = segment(1, 2, PORTS, SYN, (100, 0));
    let answered = segment(2, 1, BACK, SYN_ACK, (900, 101));
    assert_eq!(arrives(&mut plane, one, &opened), Some(two));
    assert_eq!(arrives(&mut plane, two, &answered), Some(one));
    assert_eq!(plane.take_captured().count(), 1);
    // Another port, and the other way.
    let other = segment(1, 2, (40_000, 81), SYN, (100, 0));
    let back = segment(2, 1, (40_001, 80), SYN, (100, 0));
    assert_eq!(arrives(&mut plane, one, &other), None);
    assert_eq!(arrives(&mut plane, two, &back), None);
    let (vni, stats) = plane.policy_stats().next().unwrap();
    assert_eq!(vni, Vni::new(10).unwrap());
    assert_eq!(stats.egress.of(Verdict::Deny, Reason::Default), 2);
    assert_eq!(stats.flows, 1);
    let captured: Vec<_> = plane.take_captured().flat_map(|(_, all)| all).collect();
    let says = captured.windows(6).filter(|part| part == b"policy");
    assert_eq!(says.count(), 2, "why they were dropped");
}

#[test]
fn the_node_of_the_receiver_judges_by_itself() {
    let (mut sender, mut receiver) = (Plane::new(Seed::from_u64(1)), Plane::new(Seed::from_u64(2)));
    let (here, there) = (
        desired(10, &[(id(1), 1)], &[(id(2), 2)]),
        desired(10, &[(id(2), 2)], &[(id(1), 1)]),
    );
    // The sender has not heard of any rule.
    sender.apply(Instant::EPOCH, &here);
    let web = [allow("web", &[1], &[2], WEB)];
    receiver.apply(Instant::EPOCH, &closed(there.clone(), &web));
    receiver.start_capture(7, capture());
    let allowed = segment(1, 2, PORTS, SYN, (100, 0));
    let denied = segment(1, 2, (40_000, 81), SYN, (100, 0));
    assert_eq!(carried(&mut sender, &mut receiver, id(1), &allowed), 1);
    assert_eq!(carried(&mut sender, &mut receiver, id(1), &denied), 0);
    let (_, stats) = receiver.policy_stats().next().unwrap();
    assert_eq!(stats.ingress.of(Verdict::Deny, Reason::Default), 1);
    let captured: Vec<_> = receiver.take_captured().flat_map(|(_, all)| all).collect();
    assert!(captured.windows(6).any(|part| part == b"policy"));
    // The answer goes back, and neither end may begin the other way.
    let answer = segment(2, 1, BACK, SYN_ACK, (900, 101));
    assert_eq!(carried(&mut receiver, &mut sender, id(2), &answer), 1);
    let begun = segment(2, 1, (40_001, 80), SYN, (100, 0));
    assert_eq!(carried(&mut receiver, &mut sender, id(2), &begun), 0);
}

#[test]
fn a_service_is_reached_by_its_address_if_rules_name_both_addresses() {
    let answers = |rules: &[PolicyRule]| {
        let mut plane = Plane::new(Seed::from_u64(1));
        let (client, backend) = (id(1), id(2));
        plane.apply(Instant::EPOCH, &closed(served(&[2]), rules));
        let asked = segment(1, 200, PORTS, SYN, (100, 0));
        if arrives(&mut plane, client, &asked) != Some(backend) {
            return false;
        }
        let answer = segment(2, 1, BACK, SYN_ACK, (900, 101));
        assert_eq!(arrives(&mut plane, backend, &answer), Some(client));
        let direct = segment(2, 1, (40_001, 80), SYN, (100, 0));
        assert_eq!(arrives(&mut plane, backend, &direct), None);
        true
    };
    assert!(answers(&[allow("web", &[1], &[200, 2], WEB)]));
    // It leaves, and does not arrive; or does not leave.
    assert!(!answers(&[allow("web", &[1], &[200], WEB)]));
    assert!(!answers(&[allow("web", &[1], &[2], WEB)]));
}

#[test]
fn a_flow_ends_with_its_rule_and_goes_on_with_it() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (one, two) = (id(1), id(2));
    let web = [allow("web", &[1], &[2], WEB)];
    plane.apply(Instant::EPOCH, &closed(two_here(), &web));
    let forth = segment(1, 2, PORTS, ACK, (101, 901));
    let back = segment(2, 1, BACK, ACK, (901, 101));
    arrives(&mut plane, one, &segment(1, 2, PORTS, SYN, (100, 0)));
    arrives(&mut plane, two, &segment(2, 1, BACK, SYN_ACK, (900, 101)));
    assert_eq!(arrives(&mut plane, one, &forth), Some(two));
    let other = [allow("other", &[2], &[1], WEB)];
    plane.apply(LATER, &closed(two_here(), &other));
    assert_eq!(arrives(&mut plane, one, &forth), None);
    assert_eq!(arrives(&mut plane, two, &back), None);
    let (_, stats) = plane.policy_stats().next().unwrap();
    assert_eq!(stats.flows_ended, 1);
    plane.apply(LATER, &closed(two_here(), &web));
    assert_eq!(arrives(&mut plane, one, &forth), Some(two));
    assert_eq!(arrives(&mut plane, two, &back), Some(one));
}

#[test]
fn connections_from_before_the_first_rule_go_on_if_rules_allow_them() {
    let rules = [allow("web", &[1], &[2], WEB)];
    let forth = segment(1, 2, PORTS, ACK, (101, 901));
    let back = segment(2, 1, BACK, ACK, (901, 101));
    let other = segment(1, 2, (40_000, 81), ACK, (101, 901));
    let mut plane = Plane::new(Seed::from_u64(1));
    let (one, two) = (id(1), id(2));
    plane.apply(Instant::EPOCH, &two_here());
    plane.apply(LATER, &closed(two_here(), &rules));
    assert_eq!(arrives(&mut plane, one, &other), None);
    assert_eq!(arrives(&mut plane, two, &back), Some(one));
    assert_eq!(arrives(&mut plane, one, &forth), Some(two));
    // Whoever comes too late begins anew; who was known by then goes on.
    let late = LATER + std::time::Duration::from_secs(60);
    let quiet = segment(1, 2, (40_001, 80), ACK, (101, 901));
    let sent = |plane: &mut Plane, bytes: &[u8]| send_at(plane, late, one, bytes).ports.len();
    assert_eq!(sent(&mut plane, &quiet), 0);
    assert_eq!(sent(&mut plane, &forth), 1);
}

#[test]
fn an_open_network_keeps_nothing_of_flows() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (one, two) = (id(1), id(2));
    let opened = segment(1, 2, PORTS, SYN, (100, 0));
    plane.apply(Instant::EPOCH, &two_here());
    assert_eq!(arrives(&mut plane, one, &opened), Some(two));
    assert_eq!(plane.policy_stats().count(), 0);
    plane.apply(LATER, &closed(two_here(), &[]));
    assert_eq!(arrives(&mut plane, one, &opened), None);
    plane.apply(LATER, &two_here());
    assert_eq!(plane.policy_stats().count(), 0);
    assert_eq!(arrives(&mut plane, one, &opened), Some(two));
    plane.apply(LATER, &closed(two_here(), &[]));
    plane.apply(LATER, &Desired::default());
    assert_eq!(plane.policy_stats().count(), 0);
}

#[test]
fn an_endpoint_that_comes_is_judged_from_its_first_frame() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let alone = desired(10, &[(id(1), 1)], &[]);
    plane.apply(Instant::EPOCH, &closed(alone, &[]));
    plane.apply(LATER, &closed(two_here(), &[]));
    let opened = segment(2, 1, PORTS, SYN, (100, 0));
    assert_eq!(arrives(&mut plane, id(2), &opened), None);
    assert_eq!(plane.switch().stats().drops.total(), 0, "by the policy");
}

#[test]
fn rules_beyond_every_bound_let_nothing_pass() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let (one, two) = (id(1), id(2));
    let rules = [allow("web", &[1], &[2], WEB)];
    let opened = segment(1, 2, PORTS, SYN, (100, 0));
    plane.apply(Instant::EPOCH, &closed(two_here(), &rules));
    assert_eq!(arrives(&mut plane, one, &opened), Some(two));
    let many = closed(two_here(), &vec![rules[0].clone(); 5_000]);
    plane.apply(LATER, &many);
    plane.apply(LATER, &many);
    assert_eq!(arrives(&mut plane, one, &opened), None);
    assert_eq!(plane.refused(), 1);
    plane.apply(LATER, &closed(two_here(), &rules));
    assert_eq!(arrives(&mut plane, one, &opened), Some(two));
}

#[test]
fn flows_are_forgotten_in_time() {
    let mut plane = Plane::new(Seed::from_u64(1));
    let rules = [allow("web", &[1], &[2], WEB)];
    plane.apply(Instant::EPOCH, &closed(two_here(), &rules));
    arrives(&mut plane, id(1), &segment(1, 2, PORTS, SYN, (100, 0)));
    let due = plane.poll_timeout().unwrap();
    assert!(due > Instant::EPOCH);
    let late = due + std::time::Duration::from_secs(120);
    plane.handle_timeout(late, &mut Sent::default());
    let (_, stats) = plane.policy_stats().next().unwrap();
    assert_eq!(stats.flows, 0);
    assert!(plane.poll_timeout().is_none_or(|due| due > late));
}

/// Returns which endpoint a frame arrives at that another one sends, after the time in which flows from before count.
fn arrives(plane: &mut Plane, from: EndpointId, bytes: &[u8]) -> Option<EndpointId> {
    let sent = send_at(plane, LATER, from, bytes);
    assert!(sent.ports.len() < 2 && sent.vteps.is_empty(), "{sent:?}");
    let (port, _) = sent.ports.first()?;
    (1..=2)
        .map(id)
        .find(|id| plane.port(*id).as_ref() == Some(port))
}

/// Carries what an endpoint sends from one node to the other; returns how often it arrives.
fn carried(sender: &mut Plane, receiver: &mut Plane, from: EndpointId, bytes: &[u8]) -> usize {
    let sent = send_at(sender, LATER, from, bytes);
    assert!(sent.ports.is_empty(), "{sent:?}");
    let arrived = sent.vteps.iter().map(|(vtep, bytes)| {
        assert!(bytes.len() > vxlan::HEADER_BYTES);
        let mut frame = Frame::with_headroom(Frame::HEADROOM, bytes);
        let mut sent = Sent::default();
        receiver.handle_remote(LATER, *vtep, &mut frame, &mut sent);
        sent.ports.len()
    });
    arrived.sum()
}

fn two_here() -> Desired {
    desired(10, &[(id(1), 1), (id(2), 2)], &[])
}

/// The same, and what these rules do not allow is denied.
fn closed(mut desired: Desired, rules: &[PolicyRule]) -> Desired {
    for network in desired.networks.values_mut() {
        network.policy = NetworkPolicy {
            default: Verdict::Deny,
            rules: rules.to_vec(),
        };
    }
    desired
}

fn allow(name: &str, from: &[u8], to: &[u8], traffic: TrafficMatch) -> PolicyRule {
    let addresses = |numbers: &[u8]| -> AddressMatch {
        let addresses = numbers.iter().map(|number| address(*number));
        addresses.collect()
    };
    PolicyRule {
        name: name.to_owned(),
        from: addresses(from),
        to: addresses(to),
        traffic: vec![traffic],
        verdict: Verdict::Allow,
    }
}

fn capture() -> CaptureSpec {
    CaptureSpec {
        vni: Vni::new(10).unwrap(),
        name: "net".to_owned(),
        mtu: 1_450,
        snap_bytes: 64,
        unix_epoch: std::time::Duration::ZERO,
    }
}

const WEB: TrafficMatch = TrafficMatch::Tcp {
    first: 80,
    last: 80,
};
const PORTS: (u16, u16) = (40_000, 80);
const BACK: (u16, u16) = (80, 40_000);
const SYN: tcp::Flags = tcp::Flags::SYN;
const ACK: tcp::Flags = tcp::Flags::ACK;
const SYN_ACK: tcp::Flags = tcp::Flags(SYN.0 | ACK.0);
/// When nothing counts as from before any more of what was made at the epoch.
const LATER: Instant = Instant::from_millis(60_000);
