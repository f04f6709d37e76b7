//! What users of a balancer complain of, and must not see here.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use overlay_core::{Instant, Machine, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Choice, Config, Event, FlowKey, Output, Policy,
    Protocol, Reject, Reset, TcpFlags, Timeouts, Vip, VipConfig,
};

#[test]
fn an_idle_connection_survives_two_hours_and_eleven_minutes_and_then_both_ends_hear_of_it() {
    let mut balancer = balancer(Config::default(), Policy::Maglev, 3);
    let (flow, mut now) = (flow(1), Instant::EPOCH);
    let first = connect(&mut balancer, now, flow);
    now += Duration::from_secs(2 * 3600 + 11 * 60);
    balancer.handle_timeout(now);
    assert_eq!(balancer.choose_tcp(now, flow, TcpFlags::ACK), first);
    now = balancer.poll_timeout().unwrap();
    balancer.handle_timeout(now);
    let Choice::Backend {
        id: backend,
        address,
        ..
    } = first
    else {
        unreachable!("it was chosen")
    };
    assert_eq!(drain(&mut balancer), [reset(flow, backend, address)]);
    assert_eq!((balancer.poll_timeout(), balancer.stats().flows), (None, 0));
}

#[test]
fn a_packet_counts_for_the_time_out_at_most_once_a_second() {
    let mut balancer = balancer(Config::default(), Policy::Maglev, 3);
    let (flow, mut noted) = (flow(1), Instant::from_millis(123));
    connect(&mut balancer, noted, flow);
    let timeouts = Timeouts::default();
    for millis in (130..9_000).step_by(10) {
        let now = Instant::from_millis(millis);
        balancer.choose_tcp(now, flow, TcpFlags::ACK);
        if now >= noted + Timeouts::GRANULARITY {
            noted = now;
        }
        let due = noted + timeouts.established + Timeouts::GRANULARITY;
        assert_eq!(balancer.poll_timeout(), Some(due));
    }
}

#[test]
fn a_flood_of_first_segments_leaves_established_connections_alone() {
    let config = Config {
        flows_max: 100,
        ..Config::default()
    };
    let mut balancer = balancer(config, Policy::WeightedRoundRobin, 3);
    let old: Vec<_> = (0..90)
        .map(|port| {
            (
                flow(port),
                connect(&mut balancer, Instant::EPOCH, flow(port)),
            )
        })
        .collect();
    for port in 1_000..20_000 {
        balancer.choose_tcp(Instant::EPOCH, flow(port), TcpFlags::SYN);
    }
    assert_eq!(balancer.stats().flows, 100);
    for (flow, choice) in old {
        assert_eq!(
            balancer.choose_tcp(Instant::EPOCH, flow, TcpFlags::ACK),
            choice
        );
    }
    assert!(drain(&mut balancer).is_empty());
}

#[test]
fn segments_that_no_backend_answers_push_no_connection_out() {
    // A client can make up segments from the middle of connections, and both of its own of a handshake.
    let config = Config {
        flows_max: 100,
        ..Config::default()
    };
    let mut balancer = balancer(config, Policy::Maglev, 3);
    let now = Instant::EPOCH;
    let old: Vec<_> = (0..90)
        .map(|port| (flow(port), connect(&mut balancer, now, flow(port))))
        .collect();
    for port in 1_000..20_000 {
        if port % 2 == 0 {
            balancer.choose_tcp(now, flow(port), TcpFlags::SYN);
        }
        balancer.choose_tcp(now, flow(port), TcpFlags::ACK);
        balancer.choose_tcp(now, flow(port), TcpFlags::ACK);
        if port % 3 == 0 {
            // What a backend says of such a connection, if it says anything.
            balancer.handle_reply(now, flow(port), TcpFlags::RST);
            balancer.choose_tcp(now, flow(port), TcpFlags::ACK);
        }
    }
    for (flow, choice) in old {
        assert_eq!(balancer.choose_tcp(now, flow, TcpFlags::ACK), choice);
    }
    assert!(drain(&mut balancer).is_empty());
}

#[test]
fn where_replies_are_not_seen_the_clients_word_counts() {
    for (replies_seen, established) in [(true, false), (false, true)] {
        let config = Config {
            replies_seen,
            ..Config::default()
        };
        let mut balancer = balancer(config, Policy::Maglev, 3);
        let mut now = Instant::EPOCH;
        balancer.choose_tcp(now, flow(1), TcpFlags::SYN);
        balancer.choose_tcp(now, flow(1), TcpFlags::ACK);
        balancer.choose_tcp(now, flow(2), TcpFlags::ACK);
        now += Duration::from_secs(2 * 3_600);
        balancer.handle_timeout(now);
        let flows = if established { 2 } else { 0 };
        assert_eq!(balancer.stats().flows, flows);
    }
}

#[test]
fn no_connection_breaks_over_a_hundred_rolling_updates() {
    for policy in [
        Policy::Maglev,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
    ] {
        let mut balancer = balancer(Config::default(), policy, 4);
        let mut now = Instant::EPOCH;
        for update in 0..100 {
            // Clients are busy all the while; each round the oldest task is replaced, start first.
            let flows: Vec<_> = (0..50).map(|port| flow(update * 100 + port)).collect();
            let choices: Vec<_> = flows
                .iter()
                .map(|flow| connect(&mut balancer, now, *flow))
                .collect();
            balancer
                .set_backend(now, vip(Protocol::Tcp), backend(update + 4))
                .unwrap();
            balancer
                .set_state(now, vip(Protocol::Tcp), id(update), BackendState::Draining)
                .unwrap();
            now += Duration::from_secs(1);
            for (flow, choice) in flows.iter().zip(&choices) {
                assert_eq!(balancer.choose_tcp(now, *flow, TcpFlags::ACK), *choice);
                balancer.choose_tcp(now, *flow, TcpFlags::FIN.with(TcpFlags::ACK));
                assert_eq!(balancer.choose_tcp(now, *flow, TcpFlags::ACK), *choice);
                balancer.handle_reply(now, *flow, TcpFlags::FIN.with(TcpFlags::ACK));
            }
            let drained = Event::Drained {
                vip: vip(Protocol::Tcp),
                backend: id(update),
            };
            assert_eq!(drain(&mut balancer), [Output::Event(drained)], "{policy:?}");
            balancer
                .remove_backend(now, vip(Protocol::Tcp), id(update))
                .unwrap();
        }
        assert_eq!(
            (drain(&mut balancer).len(), balancer.stats().rejected),
            (0, 0)
        );
    }
}

#[test]
fn datagrams_leave_a_dead_backend_with_the_next_one() {
    let mut balancer = balancer(Config::default(), Policy::Maglev, 2);
    let flow = FlowKey {
        vip: vip(Protocol::Udp),
        client: flow(7).client,
    };
    balancer
        .set_vip(Instant::EPOCH, flow.vip, VipConfig::default())
        .unwrap();
    for nth in 0..2 {
        balancer
            .set_backend(Instant::EPOCH, flow.vip, backend(nth))
            .unwrap();
    }
    let Choice::Backend { id, .. } = balancer.choose(Instant::EPOCH, flow) else {
        unreachable!("two are active")
    };
    balancer
        .set_state(Instant::EPOCH, flow.vip, id, BackendState::Down)
        .unwrap();
    let next = balancer.choose(Instant::EPOCH, flow);
    assert!(
        matches!(next, Choice::Backend { id: other, .. } if other != id),
        "{next:?}"
    );
    assert!(drain(&mut balancer).is_empty()); // there is nobody to reset
}

#[test]
fn a_dead_backend_resets_its_connections_and_nobody_is_a_rejection() {
    let mut balancer = balancer(Config::default(), Policy::Maglev, 1);
    let (now, flow) = (Instant::EPOCH, flow(1));
    connect(&mut balancer, now, flow);
    balancer
        .set_state(now, flow.vip, id(0), BackendState::Down)
        .unwrap();
    let address = backend(0).address;
    assert_eq!(drain(&mut balancer), [reset(flow, id(0), address)]);
    let rejected = balancer.choose_tcp(now, flow, TcpFlags::SYN);
    assert_eq!(rejected, Choice::Reject(Reject::NoBackend));
}

#[test]
fn another_node_continues_a_connection() {
    let mut here = balancer(Config::default(), Policy::Maglev, 10);
    let mut there = Balancer::new(Config::default(), &Seed::from_u64(9), Instant::EPOCH).unwrap();
    there
        .set_vip(Instant::EPOCH, vip(Protocol::Tcp), VipConfig::default())
        .unwrap();
    for nth in (0..10).rev() {
        there
            .set_backend(Instant::EPOCH, vip(Protocol::Tcp), backend(nth))
            .unwrap();
    }
    for port in 0..200 {
        let choice = connect(&mut here, Instant::EPOCH, flow(port));
        assert_eq!(
            there.choose_tcp(Instant::EPOCH, flow(port), TcpFlags::ACK),
            choice
        );
    }
    let mut other = balancer(Config::default(), Policy::LeastConnections, 10);
    let unknown = other.choose_tcp(Instant::EPOCH, flow(1), TcpFlags::ACK);
    assert_eq!(unknown, Choice::Reject(Reject::UnknownFlow));
}

#[test]
fn a_client_keeps_its_backend_and_the_memory_of_it_is_bounded() {
    let config = Config {
        affinities_max: 50,
        ..Config::default()
    };
    let mut balancer = balancer(config, Policy::WeightedRoundRobin, 5);
    let (now, vip) = (Instant::EPOCH, vip(Protocol::Tcp));
    let affinity = Some(Duration::from_secs(60));
    balancer
        .set_vip(
            now,
            vip,
            VipConfig {
                policy: Policy::WeightedRoundRobin,
                affinity,
                ..VipConfig::default()
            },
        )
        .unwrap();
    let choices: BTreeSet<_> = (0..20)
        .map(|port| chosen(balancer.choose(now, flow(port))))
        .collect();
    assert_eq!(choices.len(), 1);
    for host in 0..200 {
        let client = SocketAddr::new([10, 0, 3, host].into(), 1);
        balancer.choose(now, FlowKey { vip, client });
    }
    assert_eq!(balancer.stats().affinities, 50);
}

#[test]
fn the_end_of_a_drain_is_said_once() {
    let mut balancer = balancer(Config::default(), Policy::Maglev, 1);
    let (mut now, vip) = (Instant::EPOCH, vip(Protocol::Tcp));
    connect(&mut balancer, now, flow(1));
    connect(&mut balancer, now, flow(2));
    balancer
        .set_state(now, vip, id(0), BackendState::Draining)
        .unwrap();
    balancer.choose_tcp(now, flow(1), TcpFlags::RST);
    assert!(drain(&mut balancer).is_empty());
    // The first connection's entry outlives it; its end says nothing more.
    now += Duration::from_secs(3_600);
    balancer.handle_timeout(now);
    assert!(drain(&mut balancer).is_empty());
    balancer.choose_tcp(now, flow(2), TcpFlags::RST);
    let drained = Output::Event(Event::Drained {
        vip,
        backend: id(0),
    });
    assert_eq!(drain(&mut balancer), [drained]);
    now += Duration::from_secs(3_600);
    balancer.handle_timeout(now);
    assert!(drain(&mut balancer).is_empty());
}

#[test]
fn a_draining_backend_that_moves_has_drained() {
    let mut balancer = balancer(Config::default(), Policy::Maglev, 1);
    let (now, vip, flow) = (Instant::EPOCH, vip(Protocol::Tcp), flow(1));
    connect(&mut balancer, now, flow);
    let draining = Backend {
        state: BackendState::Draining,
        ..backend(0)
    };
    balancer.set_backend(now, vip, draining).unwrap();
    let moved = Backend {
        address: backend(9).address,
        ..draining
    };
    balancer.set_backend(now, vip, moved).unwrap();
    let reset = reset(flow, id(0), draining.address);
    let drained = Output::Event(Event::Drained {
        vip,
        backend: id(0),
    });
    assert_eq!(drain(&mut balancer), [reset, drained]);
}

#[test]
fn resets_that_wait_are_bounded_and_the_lost_are_counted() {
    let config = Config {
        resets_max: 10,
        ..Config::default()
    };
    let mut balancer = balancer(config, Policy::Maglev, 1);
    let (now, vip) = (Instant::EPOCH, vip(Protocol::Tcp));
    for round in 1..3 {
        for port in 0..25 {
            connect(&mut balancer, now, flow(port));
        }
        balancer
            .set_state(now, vip, id(0), BackendState::Down)
            .unwrap();
        assert_eq!(
            (drain(&mut balancer).len(), balancer.stats().resets_lost),
            (10, 15 * round)
        );
        balancer
            .set_state(now, vip, id(0), BackendState::Active)
            .unwrap();
    }
}

#[test]
fn affinity_ends_with_its_time() {
    let (vip, minute) = (vip(Protocol::Tcp), Duration::from_secs(60));
    for (pause, same) in [(minute - Duration::from_nanos(1), true), (minute, false)] {
        let mut balancer = balancer(Config::default(), Policy::WeightedRoundRobin, 2);
        let config = VipConfig {
            policy: Policy::WeightedRoundRobin,
            affinity: Some(minute),
            ..VipConfig::default()
        };
        balancer.set_vip(Instant::EPOCH, vip, config).unwrap();
        let first = chosen(balancer.choose(Instant::EPOCH, flow(1)));
        let later = chosen(balancer.choose(Instant::EPOCH + pause, flow(2)));
        assert_eq!(first == later, same);
    }
}

#[test]
fn shares_follow_the_weights() {
    for policy in [
        Policy::Maglev,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
    ] {
        let mut balancer = balancer(Config::default(), policy, 3);
        let (now, vip) = (Instant::EPOCH, vip(Protocol::Tcp));
        for (nth, weight) in [(0, 1), (1, 2), (2, 3)] {
            balancer
                .set_backend(
                    now,
                    vip,
                    Backend {
                        weight,
                        ..backend(nth)
                    },
                )
                .unwrap();
        }
        for port in 0..6_000 {
            connect(&mut balancer, now, flow(port));
        }
        for (nth, fair) in [(0, 1_000), (1, 2_000), (2, 3_000)] {
            let share = balancer.flows(vip, id(nth)).unwrap();
            assert!(share.abs_diff(fair) <= 120, "{policy:?}: {share} of {fair}");
        }
    }
}

/// A balancer with one virtual address and some backends.
fn balancer(config: Config, policy: Policy, backends: u16) -> Balancer {
    let (now, vip) = (Instant::EPOCH, vip(Protocol::Tcp));
    let mut balancer =
        Balancer::new(config, &Seed::from_u64(1), now).expect("a valid configuration");
    balancer
        .set_vip(
            now,
            vip,
            VipConfig {
                policy,
                ..VipConfig::default()
            },
        )
        .expect("there is room");
    for nth in 0..backends {
        balancer
            .set_backend(now, vip, backend(nth))
            .expect("there is room");
    }
    balancer
}

/// Goes through the handshake.
fn connect(balancer: &mut Balancer, now: Instant, flow: FlowKey) -> Choice {
    let choice = balancer.choose_tcp(now, flow, TcpFlags::SYN);
    balancer.handle_reply(now, flow, TcpFlags::SYN.with(TcpFlags::ACK));
    assert_eq!(balancer.choose_tcp(now, flow, TcpFlags::ACK), choice);
    choice
}

fn reset(flow: FlowKey, backend: BackendId, address: SocketAddr) -> Output {
    Output::Reset(Reset {
        flow,
        backend,
        address,
        source: flow.client,
        mac: None,
        sequence: None,
    })
}

fn drain(balancer: &mut Balancer) -> Vec<Output> {
    std::iter::from_fn(|| balancer.poll_output()).collect()
}

fn chosen(choice: Choice) -> BackendId {
    match choice {
        Choice::Backend { id, .. } => id,
        Choice::Reject(reject) => unreachable!("{reject:?}"),
    }
}

fn vip(proto: Protocol) -> Vip {
    Vip {
        addr: [10, 0, 1, 2].into(),
        proto,
        port: 80,
    }
}

fn flow(port: u16) -> FlowKey {
    FlowKey {
        vip: vip(Protocol::Tcp),
        client: SocketAddr::new([10, 0, 1, 77].into(), port),
    }
}

fn backend(nth: u16) -> Backend {
    let [high, low] = nth.to_be_bytes();
    Backend::new(id(nth), SocketAddr::new([10, 1, high, low].into(), 8080))
}

fn id(nth: u16) -> BackendId {
    BackendId::from_bytes(u128::from(nth).to_be_bytes())
}
