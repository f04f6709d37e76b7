//! What a policy takes of a frame: none, a flow that is known, a flow that is new.

use std::hint::black_box;

use overlay_core::{
    Instant, Seed,
    plane::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict},
};
use overlay_vxlan::{
    policy::{Config, Direction, Policy},
    wire::{
        ethernet::{self, EtherType},
        ipv4::{self, Protocol},
    },
};

use crate::{
    heap,
    lb::{nanos, row},
};

/// Frames of a pass.
const FRAMES: u16 = 50_000;
const RULES: [u16; 3] = [1, 10, 1_000];

pub fn run(rounds: usize) {
    println!(
        "CPU time of a frame of 60 octets (TCP over IPv4), the best and the median of {rounds} rounds of {FRAMES} frames"
    );
    let opening: Vec<_> = (0..FRAMES).map(|flow| frame(flow, 0x02)).collect();
    let going_on: Vec<_> = (0..FRAMES).map(|flow| frame(flow, 0x10)).collect();
    let one = vec![frame(7, 0x10); FRAMES.into()];
    let mut open = policy(None);
    row("no policy", pass(&mut open, &opening, rounds), "");
    for rules in RULES {
        let rules_of = rules_of(rules);
        println!("{rules} rules, the last of which matches");
        let mut known = policy(Some(&rules_of));
        pass(&mut known, &opening, 1);
        row("  one known flow", pass(&mut known, &one, rounds), "");
        let asked = heap::asked();
        let seen = pass(&mut known, &going_on, rounds);
        let asked = heap::asked() - asked;
        row(
            &format!("  {FRAMES} known flows in turn"),
            seen,
            &format!("{asked} allocations, measuring included"),
        );
        // The flows are forgotten between the rounds, outside of what is measured.
        let mut fresh: Vec<_> = (0..rounds).map(|_| policy(Some(&rules_of))).collect();
        let mut each = fresh.iter_mut();
        let seen = nanos(rounds, FRAMES.into(), || {
            let policy = each.next().expect("one for each round");
            decide(policy, &opening);
        });
        row("  a new flow each", seen, "");
        let denied: Vec<_> = (0..FRAMES).map(|flow| frame_to(flow, 0x02, 2)).collect();
        row(
            "  a flow that is denied each",
            pass(&mut known, &denied, rounds),
            "",
        );
        let last = FlowMatch {
            from: [10, 0, 0, 1].into(),
            to: [10, 1, 0, 1].into(),
            protocol: 6,
            port: 80,
        };
        let seen = nanos(rounds, FRAMES.into(), || {
            for _ in 0..FRAMES {
                black_box(rules_of.decide(black_box(&last)));
            }
        });
        row("  beside it: one rule after the other, no state", seen, "");
        let before = heap::held();
        let held = policy(Some(&rules_of));
        println!("  the rules take {} octets", heap::held() - before);
        drop(held);
    }
}

fn policy(rules: Option<&NetworkPolicy>) -> Policy {
    let mut policy = Policy::new(Config::default(), &Seed::from_u64(1));
    if let Some(rules) = rules {
        policy.set(Instant::EPOCH, rules).expect("few rules");
    }
    policy
}

fn pass(policy: &mut Policy, frames: &[Vec<u8>], rounds: usize) -> (f64, f64) {
    nanos(rounds, frames.len(), || decide(policy, frames))
}

fn decide(policy: &mut Policy, frames: &[Vec<u8>]) {
    for frame in frames {
        let decision = policy.decide(Instant::EPOCH, Direction::Egress, black_box(frame));
        black_box(decision.is_allowed());
    }
}

/// As services have them: each of 20 addresses to each of 20 others, by one port; the last is about the frames.
fn rules_of(count: u16) -> NetworkPolicy {
    let hosts = |number: u16| -> AddressMatch {
        let [high, low] = number.to_be_bytes();
        let hosts = (1..=20u8).map(|host| std::net::IpAddr::from([172, 16 + high, low, host]));
        hosts.collect()
    };
    let others = (1..count).map(|number| PolicyRule {
        name: format!("{number}"),
        from: hosts(number),
        to: hosts(number + 1),
        traffic: vec![port(number)],
        verdict: Verdict::Allow,
    });
    let [from, to]: [AddressMatch; 2] = ["10.0.0.0/16", "10.1.0.1/32"].map(|net| {
        let net: ipnet::IpNet = net.parse().expect("a subnet");
        [net].into_iter().collect()
    });
    let last = PolicyRule {
        name: "last".into(),
        from,
        to,
        traffic: vec![port(80)],
        verdict: Verdict::Allow,
    };
    NetworkPolicy {
        default: Verdict::Deny,
        rules: others.chain([last]).collect(),
    }
}

fn port(number: u16) -> TrafficMatch {
    TrafficMatch::Tcp {
        first: number,
        last: number,
    }
}

fn frame(flow: u16, flags: u8) -> Vec<u8> {
    frame_to(flow, flags, 1)
}

fn frame_to(flow: u16, flags: u8, to: u8) -> Vec<u8> {
    let [high, low] = flow.to_be_bytes();
    let macs = [[2; 6], [4; 6]].map(overlay_core::MacAddr::new);
    let mut bytes = vec![0; 14 + 20 + 26];
    let link = ethernet::Repr {
        destination: macs[1],
        source: macs[0],
        ethertype: EtherType::IPV4,
    };
    link.emit(&mut bytes).expect("there is room");
    let network = ipv4::Repr {
        source: [10, 0, high, low].into(),
        destination: [10, 1, 0, to].into(),
        protocol: Protocol::TCP,
        payload_bytes: 26,
        ttl: 64,
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
    };
    network.emit(&mut bytes[14..]).expect("there is room");
    let ports = [0x9c, 0x40, 0, 80];
    bytes[34..38].copy_from_slice(&ports);
    bytes[46..48].copy_from_slice(&[0x50, flags]);
    bytes
}
