//! What a policy lets pass: rules, flows, fragments, and what changes of rules do to them.

mod lab;
mod rules;

use std::time::Duration;

use overlay_core::{
    Instant, Seed,
    plane::{NetworkPolicy, TrafficMatch, Verdict},
};
use overlay_vxlan::{
    DropReason,
    policy::{Config, Decision, Direction, Policy, PolicyError, Reason, Timeouts},
    wire::{ethernet::EtherType, tcp::Flags},
};

use rules::*;

const A: &str = "10.0.1.2";
const B: &str = "10.0.1.3";
const C: &str = "10.0.1.4";
const A6: &str = "fd00::2";
const B6: &str = "fd00::3";

/// A policy and its time.
struct Stage {
    policy: Policy,
    now: Instant,
}

impl Stage {
    fn new(rules: &NetworkPolicy) -> Self {
        Self::with(Config::default(), rules)
    }

    fn with(config: Config, rules: &NetworkPolicy) -> Self {
        let mut policy = Policy::new(config, &Seed::from_u64(1));
        let now = Instant::from_millis(1);
        policy.set(now, rules).expect("few rules");
        Self { policy, now }
    }

    fn decide(&mut self, frame: &[u8]) -> Decision {
        self.policy.decide(self.now, Direction::Egress, frame)
    }

    /// Returns why it passes (`Ok`) or not.
    fn try_it(&mut self, frame: &[u8]) -> Result<Reason, Reason> {
        let decision = self.decide(frame);
        match decision.verdict {
            Verdict::Allow => Ok(decision.reason),
            Verdict::Deny => Err(decision.reason),
        }
    }

    fn send(&mut self, from: &str, to: &str, load: Load) -> Result<Reason, Reason> {
        self.try_it(&frame(from, to, load))
    }

    fn set(&mut self, rules: &NetworkPolicy) {
        self.policy.set(self.now, rules).expect("few rules");
    }
}

#[test]
fn an_open_policy_lets_everything_pass_and_knows_no_flow() {
    let mut stage = Stage::new(&NetworkPolicy::default());
    assert_eq!(stage.send(A, B, Load::Tcp(1, 2, SYN)), Ok(Reason::Open));
    assert_eq!(stage.try_it(&[1, 2, 3]), Ok(Reason::Open));
    assert_eq!(stage.policy.stats(), Default::default());
}

#[test]
fn replies_pass_and_nothing_else_comes_back() {
    for (a, b) in [(A, B), (A6, B6)] {
        let open = format!("{a}/128").replace("2/128", if a == A { "2/32" } else { "2/128" });
        let mut stage = Stage::new(&closed([
            allow(&open, "*", tcp(80)),
            allow(&open, "*", udp(53)),
            allow(&open, "*", TrafficMatch::Icmp),
            allow(&open, "*", TrafficMatch::Protocol(132)),
        ]));
        for (there, back, other) in [
            (
                Load::Tcp(9, 80, SYN),
                Load::Tcp(80, 9, SYN | ACK),
                Load::Tcp(80, 8, SYN | ACK),
            ),
            (Load::Udp(9, 53), Load::Udp(53, 9), Load::Udp(53, 8)),
            (Load::Echo(9), Load::Reply(9), Load::Reply(8)),
            (Load::Other(132), Load::Other(132), Load::Other(131)),
        ] {
            assert!(stage.send(b, a, back.clone()).is_err(), "{back:?}");
            assert_eq!(stage.send(a, b, there.clone()), Ok(Reason::Rule));
            assert_eq!(stage.send(b, a, back), Ok(Reason::Flow));
            assert_eq!(stage.send(a, b, there), Ok(Reason::Flow));
            assert!(stage.send(b, a, other.clone()).is_err(), "{other:?}");
        }
        // Who was asked for an echo may not ask, and not with the same identifier either.
        assert_eq!(stage.send(b, a, Load::Echo(9)), Err(Reason::Default));
        assert_eq!(stage.policy.stats().flows, 4);
    }
}

#[test]
fn echoes_of_both_ends_with_one_identifier_are_two_flows() {
    let mut stage = Stage::new(&closed([allow("*", "*", TrafficMatch::Icmp)]));
    assert_eq!(stage.send(A, B, Load::Echo(7)), Ok(Reason::Rule));
    assert_eq!(stage.send(A, B, Load::Reply(7)), Err(Reason::NoFlow));
    assert_eq!(stage.send(B, A, Load::Echo(7)), Ok(Reason::Rule));
    assert_eq!(stage.send(A, B, Load::Reply(7)), Ok(Reason::Flow));
    assert_eq!(stage.policy.stats().flows, 2);
}

#[test]
fn only_a_syn_opens_a_connection() {
    let mut stage = Stage::new(&closed([allow("*", "*", TrafficMatch::Any)]));
    for flags in [
        ACK,
        SYN | ACK,
        Flags::RST,
        SYN | Flags::RST,
        SYN | Flags::FIN,
        Flags(0),
    ] {
        let decided = stage.send(A, B, Load::Tcp(1, 2, flags));
        assert_eq!(decided, Err(Reason::NoFlow), "{flags:?}");
    }
    let congestion = SYN | Flags::ECE | Flags::CWR;
    assert_eq!(
        stage.send(A, B, Load::Tcp(1, 2, congestion)),
        Ok(Reason::Rule)
    );
    assert_eq!(stage.send(A, B, Load::Tcp(1, 2, ACK)), Ok(Reason::Flow));
}

#[test]
fn where_the_default_is_to_allow_a_segment_without_a_flow_is_judged_and_opens_none() {
    let mut stage = Stage::new(&lenient([deny("*", "10.0.1.2/32", tcp(22))]));
    // A connection from B to A that was there before the rule: its replies may go, and do not let its requests pass.
    assert_eq!(stage.send(A, B, Load::Tcp(22, 9, ACK)), Ok(Reason::Default));
    assert_eq!(stage.send(B, A, Load::Tcp(9, 22, ACK)), Err(Reason::Rule));
    assert_eq!(stage.policy.stats().flows, 0);
}

#[test]
fn who_was_reached_cannot_connect_back_by_the_same_ports() {
    let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", tcp(80))]));
    assert_eq!(stage.send(A, B, Load::Tcp(9, 80, SYN)), Ok(Reason::Rule));
    // Both at once (RFC 9293 §3.5).
    assert_eq!(stage.send(B, A, Load::Tcp(80, 9, SYN)), Ok(Reason::Flow));
    assert_eq!(
        stage.send(B, A, Load::Tcp(80, 9, SYN)),
        Err(Reason::Default)
    );
    assert_eq!(stage.send(B, A, Load::Tcp(80, 9, ACK)), Ok(Reason::Flow));
}

#[test]
fn a_rule_may_let_the_other_end_open_a_connection_of_its_own() {
    let mut stage = Stage::new(&closed([allow("*", "*", tcp(9)), allow("*", "*", tcp(80))]));
    stage.send(A, B, Load::Tcp(9, 80, SYN)).unwrap();
    stage.send(B, A, Load::Tcp(80, 9, SYN | ACK)).unwrap();
    let decision = stage.decide(&frame(B, A, Load::Tcp(80, 9, SYN)));
    assert_eq!((decision.reason, decision.rule), (Reason::Rule, Some(0)));
    // It is that of B now: it goes by the rule for port 9.
    stage.set(&closed([allow("*", "*", tcp(80))]));
    assert_eq!(stage.send(A, B, Load::Tcp(9, 80, ACK)), Err(Reason::Ended));
    assert_eq!(stage.policy.stats().flows, 1);
}

#[test]
fn errors_about_a_flow_pass_from_who_got_its_packets_to_who_sent_them() {
    for (a, b, kind) in [(A, B, 3), (A, B, 11), (A6, B6, 1), (A6, B6, 2)] {
        let any = if a == A { "10.0.1.2/32" } else { "fd00::2/128" };
        let mut stage = Stage::new(&closed([
            allow(any, "*", udp(53)),
            allow(any, "*", TrafficMatch::Icmp),
        ]));
        for load in [Load::Udp(9, 53), Load::Echo(5)] {
            let request = frame(a, b, load);
            // With what RFC 792 asks for, and with all.
            let header = if a == A { 20 } else { 40 };
            for octets in [header + 8, 500] {
                let told = error(b, a, kind, &request, octets);
                let mut fresh = Stage::new(&closed([]));
                assert_eq!(fresh.try_it(&told), Err(Reason::Default));
                assert_eq!(stage.try_it(&request).map(|_| ()), Ok(()));
                assert_eq!(stage.try_it(&told), Ok(Reason::Related));
            }
            for octets in 0..header + 8 {
                let short = error(b, a, kind, &request, octets);
                assert_eq!(stage.try_it(&short), Err(Reason::Default), "{octets}");
            }
            // From somebody else, to somebody else, about another flow, and redirects.
            let others = if a == A { C } else { "fd00::4" };
            let forged = error(others, a, kind, &request, 500);
            assert_eq!(stage.try_it(&forged), Err(Reason::Default));
            let misled = error(b, others, kind, &request, 500);
            assert_eq!(stage.try_it(&misled), Err(Reason::Default));
            let unknown = error(b, a, kind, &frame(a, b, Load::Udp(8, 53)), 500);
            assert_eq!(stage.try_it(&unknown), Err(Reason::Default));
        }
        let redirect = if a == A { 5 } else { 137 };
        let told = error(b, a, redirect, &frame(a, b, Load::Udp(9, 53)), 500);
        assert_eq!(stage.try_it(&told), Err(Reason::Default));
    }
}

#[test]
fn an_error_of_the_opener_about_a_reply_passes() {
    let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", udp(53))]));
    stage.send(A, B, Load::Udp(9, 53)).unwrap();
    let reply = frame(B, A, Load::Udp(53, 9));
    let told = error(A, B, 3, &reply, 500);
    assert_eq!(stage.try_it(&told), Ok(Reason::Related));
    stage.set(&closed([]));
    assert_eq!(stage.try_it(&told), Err(Reason::Default));
}

#[test]
fn a_change_of_rules_ends_the_flows_that_are_not_allowed_any_more() {
    let (web, dns) = (allow("*", "*", tcp(80)), allow("*", "*", udp(53)));
    let mut stage = Stage::new(&closed([web.clone(), dns.clone()]));
    stage.send(A, B, Load::Tcp(9, 80, SYN)).unwrap();
    stage.send(B, A, Load::Tcp(80, 9, SYN | ACK)).unwrap();
    stage.send(A, B, Load::Udp(9, 53)).unwrap();
    stage.set(&closed([dns.clone()]));
    assert_eq!(stage.policy.stats().flows_ended, 1);
    for (from, to, load) in [
        (A, B, Load::Tcp(9, 80, ACK)),
        (B, A, Load::Tcp(80, 9, ACK)),
        (A, B, Load::Tcp(9, 80, SYN)),
    ] {
        assert_eq!(stage.send(from, to, load), Err(Reason::Ended));
    }
    let dns_goes_on = stage.decide(&frame(B, A, Load::Udp(53, 9)));
    assert_eq!(
        (dns_goes_on.reason, dns_goes_on.rule),
        (Reason::Flow, Some(0))
    );
    // Allowed again before it was forgotten.
    stage.set(&closed([dns, web]));
    let web_goes_on = stage.decide(&frame(B, A, Load::Tcp(80, 9, ACK)));
    assert_eq!(
        (web_goes_on.reason, web_goes_on.rule),
        (Reason::Flow, Some(1))
    );
}

#[test]
fn what_still_comes_of_an_ended_flow_opens_none_the_other_way_round() {
    let mut stage = Stage::new(&lenient([deny("*", "*", udp(1))]));
    stage.send(A, B, Load::Udp(9, 53)).unwrap();
    stage.set(&lenient([deny("10.0.1.2/32", "*", udp(53))]));
    // B may send to A by the rules; but that is a reply.
    assert_eq!(stage.send(B, A, Load::Udp(53, 9)), Err(Reason::Ended));
    assert_eq!(stage.send(A, B, Load::Udp(9, 53)), Err(Reason::Ended));
    stage.now += Timeouts::default().ended;
    assert_eq!(stage.send(B, A, Load::Udp(53, 9)), Ok(Reason::Default));
}

#[test]
fn fragments_follow_the_first() {
    for (a, b, load, first) in [
        (A, B, Load::Udp(9, 53), 8),
        (A, B, Load::Tcp(9, 80, SYN), 16),
        (A6, B6, Load::Udp(9, 53), 8),
        (A6, B6, Load::Tcp(9, 80, SYN), 16),
    ] {
        let rules = closed([allow("*", "*", tcp(80)), allow("*", "*", udp(53))]);
        let mut stage = Stage::new(&rules);
        let [front, back] = fragments(a, b, load.clone(), 7, first);
        let [_, foreign] = fragments(a, b, load.clone(), 8, first);
        assert_eq!(stage.try_it(&back), Err(Reason::LaterFragment));
        assert_eq!(stage.try_it(&front), Ok(Reason::Rule), "{load:?}");
        assert_eq!(stage.try_it(&back), Ok(Reason::Fragment));
        assert_eq!(stage.try_it(&foreign), Err(Reason::LaterFragment));
        stage.now += Duration::from_secs(60);
        assert_eq!(stage.try_it(&back), Err(Reason::LaterFragment));
        assert!(stage.try_it(&front).is_ok());
        stage.set(&rules);
        assert_eq!(stage.try_it(&back), Err(Reason::LaterFragment));
    }
}

#[test]
fn a_denied_first_fragment_takes_the_others_with_it() {
    let mut stage = Stage::new(&closed([allow("*", "*", udp(53))]));
    let [front, back] = fragments(A, B, Load::Udp(9, 54), 7, 8);
    assert_eq!(stage.try_it(&front), Err(Reason::Default));
    assert_eq!(stage.try_it(&back), Err(Reason::LaterFragment));
}

#[test]
fn fragments_that_hide_the_flags_are_dropped() {
    let mut stage = Stage::new(&closed([allow("*", "*", TrafficMatch::Any)]));
    for (a, b) in [(A, B), (A6, B6)] {
        // RFC 1858: the flags are in the second one.
        let [tiny, _] = fragments(a, b, Load::Tcp(9, 80, SYN), 7, 8);
        assert_eq!(stage.try_it(&tiny), Err(Reason::Malformed));
    }
    // RFC 3128: the second one writes over them.
    let [front, _] = fragments(A, B, Load::Tcp(9, 80, SYN), 7, 16);
    let [_, over] = fragments(A, B, Load::Tcp(9, 80, SYN), 7, 8);
    assert!(stage.try_it(&front).is_ok());
    assert_eq!(stage.try_it(&over), Err(Reason::Malformed));
}

#[test]
fn packets_in_fragments_are_bounded_and_the_oldest_are_forgotten() {
    let config = Config {
        fragments_max: 2,
        ..Config::default()
    };
    let mut stage = Stage::with(config, &closed([allow("*", "*", udp(53))]));
    let packets = [1, 2, 3].map(|id| fragments(A, B, Load::Udp(9, 53), id, 8));
    for [front, _] in &packets {
        assert!(stage.try_it(front).is_ok());
    }
    let passed = packets.map(|[_, back]| stage.try_it(&back).is_ok());
    assert_eq!(passed, [false, true, true]);
}

#[test]
fn what_finds_neighbours_always_passes() {
    let mut stage = Stage::new(&closed([]));
    let [here, there] = [2, 3].map(|number| lab::Endpoint::new(number, 1));
    let arp = lab::arp_request(&here, there.v4);
    assert_eq!(stage.try_it(&arp), Ok(Reason::Neighbour));
    let question = lab::solicitation(here.mac, here.v6, there.v6);
    assert_eq!(stage.try_it(&question), Ok(Reason::Neighbour));
    // Other messages of ICMPv6 do not; nor does what only looks so, in IPv4.
    for kind in [130, 131, 134, 137, 143] {
        let message = frame(A6, B6, Load::Icmp(kind, vec![0; 20]));
        assert_eq!(stage.try_it(&message), Err(Reason::Default), "{kind}");
    }
    let disguised = frame(A, B, Load::Icmp(135, vec![0; 20]));
    assert_eq!(stage.try_it(&disguised), Err(Reason::Default));
}

#[test]
fn groups_and_broadcast_need_a_rule_and_have_no_flow() {
    for (from, group, net) in [
        (A, "224.0.0.251", "224.0.0.0/4"),
        (A, "255.255.255.255", "255.255.255.255/32"),
        (A6, "ff02::fb", "ff02::/16"),
    ] {
        let unicast = allow("*", "10.0.1.0/24,fd00::/64", TrafficMatch::Any);
        let mut stage = Stage::new(&closed([unicast]));
        let load = Load::Udp(5353, 5353);
        assert_eq!(stage.send(from, group, load.clone()), Err(Reason::Default));
        stage.set(&closed([allow("*", net, udp(5353))]));
        for _ in 0..2 {
            assert_eq!(stage.send(from, group, load.clone()), Ok(Reason::Rule));
        }
        assert_eq!(stage.policy.stats().flows, 0);
    }
}

#[test]
fn what_is_not_ip_goes_by_the_default() {
    let other = lab::link(
        overlay_core::MacAddr::BROADCAST,
        overlay_core::MacAddr::BROADCAST,
        EtherType::EXPERIMENT,
        b"x",
    );
    let syn = frame(A, B, Load::Tcp(9, 80, SYN));
    let rules = [allow("*", "*", tcp(81)), deny("*", "*", tcp(80))];
    let mut stage = Stage::new(&closed(rules.clone()));
    assert_eq!(stage.try_it(&other), Err(Reason::NotIp));
    let tagged = |id| lab::tagged(&frame(A, B, Load::Tcp(9, 81, SYN)), id);
    assert_eq!(stage.try_it(&tagged(5)), Err(Reason::NotIp));
    assert_eq!(stage.try_it(&tagged(0)), Ok(Reason::Rule));
    let mut stage = Stage::new(&lenient(rules));
    assert_eq!(stage.try_it(&other), Ok(Reason::NotIp));
    assert_eq!(stage.try_it(&lab::tagged(&syn, 5)), Err(Reason::Rule));
}

#[test]
fn each_kind_of_flow_has_its_time() {
    let times = Timeouts::default();
    let (syn, fin) = (Load::Tcp(9, 80, SYN), |a, b| {
        Load::Tcp(a, b, Flags::FIN | ACK)
    });
    let request = Load::Udp(9, 53);
    for (loads, time) in [
        (vec![(A, syn.clone())], times.unanswered),
        (
            vec![(A, syn.clone()), (B, Load::Tcp(80, 9, SYN | ACK))],
            times.tcp,
        ),
        (
            vec![
                (A, syn.clone()),
                (B, Load::Tcp(80, 9, SYN | ACK)),
                (A, fin(9, 80)),
            ],
            times.tcp,
        ),
        (
            vec![(A, syn.clone()), (B, fin(80, 9)), (A, fin(9, 80))],
            times.closing,
        ),
        (
            vec![(A, syn.clone()), (B, Load::Tcp(80, 9, Flags::RST))],
            times.closing,
        ),
        (vec![(A, request.clone())], times.unanswered),
        (vec![(A, request), (B, Load::Udp(53, 9))], times.udp),
        (vec![(A, Load::Echo(1)), (B, Load::Reply(1))], times.icmp),
        (
            vec![(A, Load::Other(132)), (B, Load::Other(132))],
            times.other,
        ),
    ] {
        let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", TrafficMatch::Any)]));
        for (from, load) in loads.clone() {
            let to = if from == A { B } else { A };
            assert!(stage.send(from, to, load).is_ok());
        }
        let end = stage.policy.poll_timeout().unwrap();
        assert_eq!(end, stage.now + time, "{loads:?}");
        stage.policy.handle_timeout(end - Duration::from_nanos(1));
        assert_eq!(stage.policy.stats().flows, 1);
        stage.policy.handle_timeout(end);
        assert_eq!(stage.policy.stats().flows, 0);
        assert_eq!(stage.policy.poll_timeout(), None);
    }
}

#[test]
fn a_flow_lives_as_long_as_packets_come_and_no_longer() {
    let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", udp(53))]));
    stage.send(A, B, Load::Udp(9, 53)).unwrap();
    for _ in 0..10 {
        stage.now += Timeouts::default().unanswered - Duration::from_secs(1);
        assert_eq!(stage.send(B, A, Load::Udp(53, 9)), Ok(Reason::Flow));
    }
    stage.now += Timeouts::default().udp;
    assert_eq!(stage.send(B, A, Load::Udp(53, 9)), Err(Reason::Default));
}

#[test]
fn a_connection_may_be_opened_again_with_the_same_ports() {
    let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", tcp(80))]));
    stage.send(A, B, Load::Tcp(9, 80, SYN)).unwrap();
    stage.send(B, A, Load::Tcp(80, 9, Flags::RST)).unwrap();
    assert_eq!(stage.send(A, B, Load::Tcp(9, 80, SYN)), Ok(Reason::Flow));
    let end = stage.policy.poll_timeout();
    assert_eq!(end, Some(stage.now + Timeouts::default().unanswered));
}

#[test]
fn a_flood_of_openings_takes_no_more_than_its_room_and_ends_no_flow_that_was_answered() {
    let config = Config {
        flows_max: 100,
        ..Config::default()
    };
    let mut stage = Stage::with(
        config,
        &closed([allow("10.0.1.2/32,10.0.1.4/32", "*", TrafficMatch::Any)]),
    );
    for port in 0..10 {
        stage.send(A, B, Load::Tcp(port, 80, SYN)).unwrap();
        stage.send(B, A, Load::Tcp(80, port, SYN | ACK)).unwrap();
    }
    for port in 100..10_000 {
        assert!(stage.send(C, B, Load::Tcp(port, 80, SYN)).is_ok());
        assert!(stage.send(C, B, Load::Udp(port, 53)).is_ok());
        assert!(stage.policy.stats().flows <= 100);
    }
    assert_eq!(stage.policy.stats().flows_evicted, 2 * 9_900 - 90);
    for port in 0..10 {
        assert_eq!(stage.send(B, A, Load::Tcp(80, port, ACK)), Ok(Reason::Flow));
    }
    // When all were answered, new ones are refused, and counted.
    for port in 9_900..10_000 {
        let _ = stage.send(B, C, Load::Udp(53, port));
        let _ = stage.send(B, C, Load::Tcp(80, port, SYN | ACK));
    }
    assert_eq!(stage.send(C, B, Load::Tcp(1, 80, SYN)), Err(Reason::Full));
    assert_eq!(
        stage.policy.stats().egress.of(Verdict::Deny, Reason::Full),
        1
    );
    stage.now += Timeouts::default().udp;
    assert_eq!(stage.send(C, B, Load::Tcp(1, 80, SYN)), Ok(Reason::Rule));
}

#[test]
fn what_is_denied_takes_no_room() {
    let mut stage = Stage::new(&closed([]));
    for port in 0..10_000 {
        assert!(stage.send(C, B, Load::Udp(port, 53)).is_err());
        assert!(stage.send(C, B, Load::Tcp(port, 53, SYN)).is_err());
    }
    assert_eq!(stage.policy.stats().flows, 0);
    assert_eq!(stage.policy.stats().egress.total(Verdict::Deny), 20_000);
}

#[test]
fn settling_takes_up_what_was_there_before() {
    let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", tcp(80))]));
    let until = stage.now + Duration::from_secs(30);
    stage.policy.settle_until(stage.now, until);
    // The server speaks first; its own connection requests are no part of anything.
    assert_eq!(
        stage.send(B, A, Load::Tcp(80, 8, SYN)),
        Err(Reason::Default)
    );
    assert_eq!(stage.send(B, A, Load::Tcp(80, 9, ACK)), Ok(Reason::Rule));
    assert_eq!(stage.send(A, C, Load::Tcp(9, 80, ACK)), Ok(Reason::Rule));
    assert_eq!(
        stage.send(B, A, Load::Tcp(22, 9, ACK)),
        Err(Reason::Default)
    );
    stage.now = until;
    assert_eq!(stage.send(A, B, Load::Tcp(9, 80, ACK)), Ok(Reason::Flow));
    assert_eq!(stage.send(A, B, Load::Tcp(7, 80, ACK)), Err(Reason::NoFlow));
}

#[test]
fn explanations_name_the_rule() {
    let mut named = allow("10.0.1.2/32", "10.0.1.3/32", tcp(80));
    named.name = "front to back".into();
    let mut stage = Stage::new(&closed([
        deny("10.0.1.4/32", "*", TrafficMatch::Any),
        named,
    ]));
    let explain = |stage: &Stage, from, port| {
        let explained = stage.policy.explain(ip(from), ip(B), 6, port);
        explained.to_string()
    };
    assert_eq!(explain(&stage, A, 80), "allowed by rule 2 (front to back)");
    assert_eq!(explain(&stage, A, 81), "denied by default");
    assert_eq!(
        explain(&stage, C, 80),
        "denied by rule 1 (10.0.1.4/32 to *)"
    );
    let decision = stage.decide(&frame(A, B, Load::Tcp(9, 80, SYN)));
    assert_eq!(
        stage.policy.rule(decision.rule.unwrap()),
        Some("front to back")
    );
    stage.set(&NetworkPolicy::default());
    assert_eq!(explain(&stage, C, 80), "allowed by default");
}

#[test]
fn what_is_dropped_has_a_reason_for_captures() {
    let mut stage = Stage::new(&closed([]));
    let denied = stage.decide(&frame(A, B, Load::Udp(1, 2)));
    assert_eq!(denied.drop_reason(), Some(DropReason::Policy));
    let cut = stage.decide(&frame(A, B, Load::Udp(1, 2))[..30]);
    assert_eq!(cut.drop_reason(), Some(DropReason::Malformed));
    let arp = lab::arp_request(&lab::Endpoint::new(2, 1), [10, 0, 1, 3].into());
    assert_eq!(stage.decide(&arp).drop_reason(), None);
}

#[test]
fn more_rules_than_may_be_change_nothing() {
    let config = Config {
        rules_max: 2,
        matches_max: 7,
        ..Config::default()
    };
    let web = allow("*", "10.0.1.3/32", tcp(80));
    let mut stage = Stage::with(config, &closed([web.clone()]));
    stage.send(A, B, Load::Tcp(9, 80, SYN)).unwrap();
    let three = lenient([web.clone(), web.clone(), web.clone()]);
    let (max, found) = (2, 3);
    assert_eq!(
        stage.policy.set(stage.now, &three),
        Err(PolicyError::Rules { max, found })
    );
    let two = lenient([
        web,
        allow("10.0.1.2/32,10.0.1.3/32,10.0.1.4/32", "*", tcp(1)),
    ]);
    let (max, found) = (7, 8);
    assert_eq!(
        stage.policy.set(stage.now, &two),
        Err(PolicyError::Matches { max, found })
    );
    assert_eq!(stage.send(A, B, Load::Tcp(9, 80, ACK)), Ok(Reason::Flow));
    assert_eq!(stage.send(A, B, Load::Udp(1, 1)), Err(Reason::Default));
}

#[test]
fn both_directions_share_flows_and_are_counted_apart() {
    let mut stage = Stage::new(&closed([allow("10.0.1.2/32", "*", udp(53))]));
    let (request, reply) = (frame(A, B, Load::Udp(9, 53)), frame(B, A, Load::Udp(53, 9)));
    let now = stage.now;
    assert!(
        stage
            .policy
            .decide(now, Direction::Egress, &request)
            .is_allowed()
    );
    assert!(
        stage
            .policy
            .decide(now, Direction::Ingress, &reply)
            .is_allowed()
    );
    let stats = stage.policy.stats();
    assert_eq!(stats.egress.of(Verdict::Allow, Reason::Rule), 1);
    assert_eq!(stats.ingress.of(Verdict::Allow, Reason::Flow), 1);
    assert_eq!(stats.egress.total(Verdict::Allow), 1);
}
