//! A frame of a flow that is known makes a policy allocate nothing, and a flood makes it hold no more than its bound.

mod lab;
mod rules;

use std::{alloc::System, time::Duration};

use overlay_core::{Instant, Seed, plane::TrafficMatch};
use overlay_vxlan::policy::{Config, Decision, Direction, Policy, Reason};
use rules::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const A: &str = "10.0.1.2";
const B: &str = "10.0.1.3";

fn policy(flows_max: u32) -> Policy {
    let config = Config {
        flows_max,
        ..Config::default()
    };
    let mut policy = Policy::new(config, &Seed::from_u64(1));
    let rules = closed([allow("10.0.1.2/32,fd00::2/128", "*", TrafficMatch::Any)]);
    policy.set(Instant::EPOCH, &rules).expect("few rules");
    policy
}

/// Decides about frames for the second time, and about such as are denied; returns reasons and allocations.
fn decide_again() -> Vec<(Reason, usize)> {
    let mut policy = policy(100);
    let syn = frame(A, B, Load::Tcp(9, 80, SYN));
    let udp = frame("fd00::2", "fd00::3", Load::Udp(9, 53));
    let [first, later] = fragments(A, B, Load::Udp(9, 53), 7, 8);
    let error = error("fd00::3", "fd00::2", 1, &udp, 500);
    let frames = [
        syn,
        frame(B, A, Load::Tcp(80, 9, SYN | ACK)),
        frame(A, B, Load::Tcp(9, 80, ACK)),
        udp,
        frame("fd00::3", "fd00::2", Load::Udp(53, 9)),
        error,
        first,
        later,
        frame(A, "224.0.0.1", Load::Udp(9, 53)),
        frame(B, A, Load::Udp(9, 54)),
        frame(B, A, Load::Tcp(9, 81, ACK)),
        lab::arp_request(&lab::Endpoint::new(2, 1), [10, 0, 1, 3].into()),
    ];
    let mut counted = Vec::with_capacity(frames.len());
    for seconds in 0..2 {
        let now = Instant::EPOCH + Duration::from_secs(seconds * 5);
        counted.clear();
        for frame in &frames {
            let region = Region::new(ALLOCATOR);
            let Decision { reason, .. } = policy.decide(now, Direction::Egress, frame);
            let change = region.change();
            counted.push((reason, change.allocations + change.reallocations));
        }
    }
    counted
}

/// Floods a policy; returns the octets that it then holds more than before.
fn flood(flows: u16) -> isize {
    let mut policy = policy(1_000);
    let mut bytes = frame(A, B, Load::Udp(0, 53));
    let region = Region::new(ALLOCATOR);
    for port in 0..flows {
        bytes[34..36].copy_from_slice(&port.to_be_bytes());
        let now = Instant::from_millis(u64::from(port));
        assert!(policy.decide(now, Direction::Egress, &bytes).is_allowed());
    }
    let change = region.change();
    let held = |bytes: usize| isize::try_from(bytes).expect("not so much");
    held(change.bytes_allocated) - held(change.bytes_deallocated)
}

/// One test, because the allocator counts for the whole process; the harness may allocate meanwhile, but not each time.
#[test]
fn a_policy_allocates_for_new_flows_only_and_within_its_bound() {
    let attempts: Vec<_> = (0..3).map(|_| decide_again()).collect();
    for at in 0..attempts[0].len() {
        let (reason, _) = attempts[0][at];
        let least = attempts.iter().map(|attempt| attempt[at].1).min();
        assert_eq!(least, Some(0), "frame {at}: {reason}");
    }
    let reasons: Vec<_> = attempts[0].iter().map(|(reason, _)| *reason).collect();
    for reason in [
        Reason::Flow,
        Reason::Related,
        Reason::Fragment,
        Reason::Rule,
        Reason::Default,
        Reason::NoFlow,
        Reason::Neighbour,
    ] {
        assert!(reasons.contains(&reason), "{reason} is not tried");
    }
    let least = |flows| (0..3).map(|_| flood(flows)).min().unwrap();
    let (full, flooded) = (least(1_000), least(60_000));
    assert!(full > 50_000 && full < 400_000, "{full} octets");
    assert!(
        flooded <= full * 3,
        "{flooded} octets, {full} when it was full"
    );
}
