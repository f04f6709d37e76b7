//! Draining by acknowledgement.

use std::{collections::BTreeMap, time::Duration};

use overlay_core::{Instant, Machine, NodeId, Rng, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Config, DrainConfig, DrainError, DrainOutput,
    Drains, FlowKey, Protocol, TcpFlags, Vip, VipConfig,
};
use overlay_sim::contract::{self, Acted, Subject};

const PATIENCE: Duration = Duration::from_secs(10);

fn node(nth: u8) -> NodeId {
    NodeId::from_bytes([nth; 16])
}

fn backend(nth: u8) -> BackendId {
    BackendId::from_bytes([nth; 16])
}

fn drain(drains: &mut Drains) -> Vec<DrainOutput> {
    std::iter::from_fn(|| drains.poll_output()).collect()
}

fn ask(member: u8) -> DrainOutput {
    DrainOutput::Ask {
        member: node(member),
        backend: backend(1),
    }
}

fn ended(unanswered: &[u8]) -> DrainOutput {
    DrainOutput::Ended {
        backend: backend(1),
        unanswered: unanswered.iter().copied().map(node).collect(),
    }
}

#[test]
fn a_drain_ends_with_the_last_acknowledgement_and_not_before() {
    let mut now = Instant::EPOCH;
    let mut drains = Drains::new(DrainConfig::default(), now);
    let members = [1, 2, 3].map(node);
    drains.start(now, backend(1), members, PATIENCE).unwrap();
    assert_eq!(drain(&mut drains), [ask(1), ask(2), ask(3)]);
    drains.handle_answer(now, node(1), backend(1), 0);
    drains.handle_answer(now, node(2), backend(1), 7);
    drains.handle_answer(now, node(9), backend(1), 0);
    drains.handle_answer(now, node(3), backend(9), 0);
    assert_eq!(drain(&mut drains), []);
    // Those who have not are asked again, and again.
    for _ in 0..3 {
        now = drains.poll_timeout().unwrap();
        drains.handle_timeout(now);
        assert_eq!(drain(&mut drains), [ask(2), ask(3)]);
    }
    assert_eq!(now, Instant::EPOCH + Duration::from_millis(1_500));
    drains.handle_answer(now, node(2), backend(1), 0);
    drains.handle_gone(now, node(3));
    assert_eq!(drain(&mut drains), [ended(&[])]);
    assert_eq!(drains.poll_timeout(), None);
}

#[test]
fn a_deadline_ends_it_and_says_who_is_missing() {
    let mut now = Instant::EPOCH;
    let mut drains = Drains::new(DrainConfig::default(), now);
    drains
        .start(now, backend(1), [1, 2].map(node), PATIENCE)
        .unwrap();
    drains.handle_answer(now, node(2), backend(1), 0);
    while let Some(next) = drains.poll_timeout() {
        drain(&mut drains);
        now = next;
        drains.handle_timeout(now);
        if now >= Instant::EPOCH + PATIENCE {
            assert_eq!(drain(&mut drains), [ended(&[1])]);
        }
    }
    assert_eq!(now, Instant::EPOCH + PATIENCE);
}

#[test]
fn nobody_to_ask_is_the_end_and_bounds_are_kept() {
    let now = Instant::EPOCH;
    let config = DrainConfig {
        drains_max: 1,
        members_max: 2,
        ..DrainConfig::default()
    };
    let mut drains = Drains::new(config, now);
    drains.start(now, backend(1), [], PATIENCE).unwrap();
    assert_eq!(drain(&mut drains), [ended(&[])]);
    let start = |drains: &mut Drains, nth, members: &[u8]| {
        let members: Vec<_> = members.iter().copied().map(node).collect();
        drains.start(now, backend(nth), members, PATIENCE)
    };
    let found = Err(DrainError::Members { found: 3, max: 2 });
    assert_eq!(start(&mut drains, 1, &[1, 2, 3]), found);
    assert_eq!(start(&mut drains, 1, &[1, 2]), Ok(()));
    let many = Err(DrainError::TooMany { max: 1 });
    assert_eq!(start(&mut drains, 2, &[1]), many);
    assert_eq!(start(&mut drains, 1, &[1, 1, 1]), Ok(()));
    assert_eq!(
        drains.waiting(backend(1)).unwrap().collect::<Vec<_>>(),
        [node(1)]
    );
    assert!(drains.cancel(now, backend(1)));
    assert!(!drains.cancel(now, backend(1)));
    assert!(drains.waiting(backend(1)).is_none());
}

#[test]
fn a_balancer_answers_when_it_has_seen_the_row() {
    let now = Instant::EPOCH;
    let mut balancer = Balancer::new(Config::default(), &Seed::from_u64(1), now).unwrap();
    assert_eq!(balancer.flows_left(backend(1)), Some(0));
    let vips = [80, 81].map(|port| Vip {
        addr: [10, 0, 1, 2].into(),
        proto: Protocol::Tcp,
        port,
    });
    for vip in vips {
        balancer.set_vip(now, vip, VipConfig::default()).unwrap();
        let backend = Backend::new(backend(1), ([10, 0, 1, 5], 80).into());
        balancer.set_backend(now, vip, backend).unwrap();
        let client = ([10, 0, 1, 77], 1_000).into();
        balancer.choose_tcp(now, FlowKey { vip, client }, TcpFlags::SYN);
    }
    let draining = BackendState::Draining;
    assert_eq!(balancer.flows_left(backend(1)), None);
    balancer
        .set_state(now, vips[0], backend(1), draining)
        .unwrap();
    assert_eq!(balancer.flows_left(backend(1)), None);
    balancer
        .set_state(now, vips[1], backend(1), draining)
        .unwrap();
    assert_eq!(balancer.flows_left(backend(1)), Some(2));
    balancer
        .set_state(now, vips[1], backend(1), BackendState::Down)
        .unwrap();
    assert_eq!(balancer.flows_left(backend(1)), Some(1));
}

/// Owner and members over a network that loses every third message: the backend stops after its last connection.
#[test]
fn an_exchange_over_a_bad_network_ends_after_the_last_connection() {
    for seed in 0..50 {
        let mut rng = Seed::from_u64(seed).rng();
        let mut now = Instant::EPOCH;
        let mut drains = Drains::new(DrainConfig::default(), now);
        // When each member's last connection ends.
        let mut ends: BTreeMap<NodeId, Instant> = BTreeMap::new();
        for nth in 0..5 {
            ends.insert(
                node(nth),
                now + rng.duration(Duration::ZERO..Duration::from_secs(8)),
            );
        }
        let patience = Duration::from_secs(60);
        drains
            .start(now, backend(1), ends.keys().copied(), patience)
            .unwrap();
        let ended = loop {
            match drains.poll_output() {
                Some(DrainOutput::Ask { member, backend }) => {
                    let left = u32::from(now < ends[&member]);
                    if !rng.chance(333_333) {
                        drains.handle_answer(now, member, backend, left);
                    }
                }
                Some(DrainOutput::Ended { unanswered, .. }) => break unanswered,
                None => {
                    now = drains.poll_timeout().unwrap();
                    drains.handle_timeout(now);
                }
            }
        };
        let last = *ends.values().max().unwrap();
        assert_eq!(ended, []);
        assert!(
            last <= now && now < last + Duration::from_secs(10),
            "{seed}: {last} {now}"
        );
    }
}

struct DrainsSubject;

impl Subject for DrainsSubject {
    type Machine = Drains;

    fn build(&mut self, _seed: Seed, now: Instant) -> Drains {
        let config = DrainConfig {
            drains_max: 3,
            members_max: 4,
            ..DrainConfig::default()
        };
        Drains::new(config, now)
    }

    fn act(&mut self, drains: &mut Drains, now: Instant, rng: &mut Rng) -> Acted {
        let mut octet = |bound| u8::try_from(rng.below(bound)).expect("bounds are small");
        let (member, which) = (node(octet(6)), backend(octet(5)));
        match octet(6) {
            0 | 1 => {
                let members: Vec<_> = (0..octet(6)).map(node).collect();
                drains.start(now, which, members, PATIENCE).into()
            }
            2 => {
                drains.handle_gone(now, member);
                Acted::Done
            }
            3 => {
                drains.cancel(now, which);
                Acted::Done
            }
            left => {
                drains.handle_answer(now, member, which, u32::from(left - 4));
                Acted::Done
            }
        }
    }

    fn take(&mut self, output: DrainOutput) -> String {
        format!("{output:?}")
    }

    fn fingerprint(&self, drains: &Drains) -> String {
        let waiting = |nth| {
            drains
                .waiting(backend(nth))
                .map(Iterator::collect::<Vec<_>>)
        };
        format!("{:?}", (0..5).map(waiting).collect::<Vec<_>>())
    }

    fn footprint(&self, drains: &Drains) -> usize {
        let waiting = |nth| drains.waiting(backend(nth)).map_or(0, Iterator::count);
        (0..5).map(waiting).sum()
    }

    fn footprint_max(&self) -> usize {
        12
    }

    fn feed(&mut self, drains: &mut Drains, now: Instant, bytes: &[u8], _rng: &mut Rng) -> Acted {
        drains.handle_timeout(now);
        for pair in bytes.as_chunks::<2>().0 {
            drains.handle_answer(now, node(pair[0] % 8), backend(pair[1] % 8), 0);
        }
        Acted::Done
    }

    fn is_random(&self) -> bool {
        false
    }
}

#[test]
fn drains_keep_the_contract() {
    contract::assert_holds("drains_keep_the_contract", 30, || DrainsSubject);
}
