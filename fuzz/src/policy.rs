//! Frames through a policy, while its rules change.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use overlay_core::{
    Instant, Seed,
    plane::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict},
};
use overlay_vxlan::policy::{Config, Decision, Direction, Policy, Reason};

use crate::input::Input;

const FLOWS_MAX: u32 = 16;

/// A script: an octet chooses what happens, frames have their length in front.
///
/// What is denied stays so, without a rule only what finds neighbours passes, rules in their compiled form say what they say
/// one after the other, and nothing grows beyond its bound.
pub fn vxlan_policy(bytes: &[u8]) {
    let (mut input, mut now) = (Input::new(bytes), Instant::EPOCH);
    let config = Config {
        flows_max: FLOWS_MAX,
        fragments_max: 4,
        rules_max: 12,
        ..Config::default()
    };
    let mut policy = Policy::new(config, &Seed::from_u64(1));
    let mut rules = NetworkPolicy::default();
    while !input.is_empty() {
        let kind = input.u8();
        now += Duration::from_millis(u64::from(kind >> 3) * 2_500);
        match kind & 7 {
            0..=3 => {
                let direction = match kind & 1 {
                    0 => Direction::Egress,
                    _ => Direction::Ingress,
                };
                let frame = input.bytes();
                let decision = policy.decide(now, direction, frame);
                check(&decision, &rules);
                if !decision.is_allowed() {
                    let again = policy.decide(now, direction, frame);
                    assert_eq!(again, decision);
                }
            }
            4 | 5 => {
                let next = read(&mut input);
                match policy.set(now, &next) {
                    Ok(()) => rules = next,
                    Err(_) => assert!(next.rules.len() > 12),
                }
            }
            6 => {
                let flow = flow(&mut input);
                let explained = policy.explain(flow.from, flow.to, flow.protocol, flow.port);
                let rule = explained.rule.map(|(at, _)| at);
                assert_eq!((explained.verdict, rule), rules.decide(&flow));
            }
            _ => {
                let until = now + Duration::from_secs(input.u8().into());
                policy.settle_until(now, until);
                policy.handle_timeout(now);
                assert!(policy.poll_timeout().is_none_or(|end| end > now));
            }
        }
        assert_eq!(policy.is_open(), rules.is_open());
        assert!(policy.stats().flows <= FLOWS_MAX as usize);
    }
}

fn check(decision: &Decision, rules: &NetworkPolicy) {
    assert_eq!(decision.is_allowed(), decision.drop_reason().is_none());
    if let Some(rule) = decision.rule {
        let rule = rules.rules.get(rule as usize).expect("a rule of these");
        assert_eq!(rule.verdict, decision.verdict);
    }
    if rules.is_open() {
        assert_eq!(decision.reason, Reason::Open);
    } else if rules.default == Verdict::Deny
        && rules.rules.iter().all(|rule| rule.verdict == Verdict::Deny)
        && decision.is_allowed()
    {
        assert_eq!(decision.reason, Reason::Neighbour);
    }
}

fn read(input: &mut Input<'_>) -> NetworkPolicy {
    let head = input.u8();
    let rules = (0..head & 15).map(|_| rule(input));
    NetworkPolicy {
        default: verdict(head & 16 == 0),
        rules: rules.collect(),
    }
}

fn rule(input: &mut Input<'_>) -> PolicyRule {
    let kind = input.u8();
    let [from, to] = [kind & 1, kind & 2].map(|is_any| match is_any {
        0 => {
            let nets = (0..input.u8() % 3).map(|_| {
                let (address, bits) = (address(input.u8()), input.u8());
                let all = if address.is_ipv4() { 32 } else { 128 };
                IpNet::new(address, all - bits % (all + 1)).expect("as long as the address or less")
            });
            nets.collect()
        }
        _ => AddressMatch::Any,
    });
    let (first, last) = (input.u16(), input.u16());
    let traffic = match kind >> 2 & 7 {
        0 | 1 => TrafficMatch::Tcp { first, last },
        2 | 3 => TrafficMatch::Udp { first, last },
        4 => TrafficMatch::Icmp,
        5 => TrafficMatch::Protocol(input.u8()),
        _ => TrafficMatch::Any,
    };
    PolicyRule {
        name: String::new(),
        from,
        to,
        traffic: vec![traffic],
        verdict: verdict(kind & 128 == 0),
    }
}

fn flow(input: &mut Input<'_>) -> FlowMatch {
    let kind = input.u8();
    let family = kind & 128;
    let [from, to] = [input.u8(), input.u8()].map(|octet| address(octet & 127 | family));
    FlowMatch {
        from,
        to,
        protocol: [1, 6, 17, 58][usize::from(kind & 3)],
        port: input.u16(),
    }
}

fn verdict(allow: bool) -> Verdict {
    if allow { Verdict::Allow } else { Verdict::Deny }
}

fn address(octet: u8) -> IpAddr {
    match octet {
        0..128 => [10, 0, 1, octet].into(),
        _ => [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(octet)].into(),
    }
}
