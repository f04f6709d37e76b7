//! Random operations against a naive model.

use std::{net::SocketAddr, time::Duration};

use overlay_core::{Instant, Machine, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Choice, Config, Distance, FlowKey, Locality,
    Output, Policy, Protocol, Reject, TcpFlags, Timeouts, Vip, VipConfig,
};
use proptest::{collection::vec, prelude::*, sample::select, strategy::ValueTree as _};

mod model;

use model::{Model, State, Tracked};

#[derive(Clone, Debug)]
enum Op {
    SetVip(Vip, VipConfig),
    RemoveVip(Vip),
    SetBackend(Vip, Backend),
    RemoveBackend(Vip, BackendId),
    SetState(Vip, BackendId, BackendState),
    Choose(FlowKey),
    ChooseTcp(FlowKey, TcpFlags),
    Reply(FlowKey, TcpFlags),
    Wait(u64),
    WaitForDeadline,
}

const VIPS: [&str; 3] = ["10.0.1.2", "10.0.1.3", "fd00::2"];
const FLOWS_MAX: usize = 7;
const ENTRIES: u32 = 31;

fn limits() -> Config {
    let seconds = Duration::from_secs;
    Config {
        flows_max: 7,
        affinities_max: 1_000,
        vips_max: 4,
        backends_max: 4,
        resets_max: 1_000,
        fragments_max: 10,
        fragments_held_max: 4,
        fragments_held_octets_max: 4_096,
        openings_max: 0,
        maglev_entries: ENTRIES,
        maglev_seed: 3,
        replies_seen: true,
        timeouts: Timeouts {
            opening: seconds(4),
            established: seconds(50),
            half_closed: seconds(15),
            closed: seconds(5),
            datagram: seconds(6),
        },
    }
}

fn vip() -> impl Strategy<Value = Vip> {
    (
        select(&VIPS[..]),
        select(&[Protocol::Tcp, Protocol::Udp][..]),
        select(&[80, 80, 0][..]),
    )
        .prop_map(|(addr, proto, port)| Vip {
            addr: addr.parse().expect("an address"),
            proto,
            port,
        })
}

fn locality() -> impl Strategy<Value = Locality> {
    use Locality::{Any, Node, NodeOnly, Zone};
    select(&[Any, Any, Any, Zone, Node, NodeOnly][..])
}

fn id() -> impl Strategy<Value = BackendId> {
    (0_u8..6).prop_map(|octet| BackendId::from_bytes([octet; 16]))
}

fn state() -> impl Strategy<Value = BackendState> {
    prop_oneof![4 => Just(BackendState::Active), 2 => Just(BackendState::Draining), 1 => Just(BackendState::Down)]
}

fn flow() -> impl Strategy<Value = FlowKey> {
    // Some clients are backends, too; few ports, so that flows look the same to a backend.
    let hosts = select(&[0_u8, 1, 70, 71][..]);
    (vip(), hosts, 78_u16..82, 80_u16..82).prop_map(|(vip, host, client, port)| {
        let address = if vip.addr.is_ipv4() {
            format!("10.0.1.{host}")
        } else {
            format!("fd00::{host}")
        };
        let address = address.parse().expect("an address");
        FlowKey {
            vip: Vip { port, ..vip },
            client: SocketAddr::new(address, client),
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let policy = select(
        &[
            Policy::Maglev,
            Policy::WeightedRoundRobin,
            Policy::LeastConnections,
        ][..],
    );
    let config = (
        policy,
        proptest::option::weighted(0.3, (1_u64..40).prop_map(Duration::from_secs)),
        locality(),
    );
    let config = config.prop_map(|(policy, affinity, locality)| VipConfig {
        policy,
        affinity,
        locality,
    });
    let ports = select(&[80, 80, 0][..]);
    let address = (0_u8..3, any::<bool>(), 0_u8..20, ports).prop_map(|(last, six, odd, port)| {
        let v4 = format!("10.0.1.{last}:{port}");
        let v6 = format!("[fd00::{last}]:{port}");
        let text = if six ^ (odd == 0) { v6 } else { v4 };
        text.parse::<SocketAddr>().expect("an address")
    });
    let distance = select(&[Distance::Node, Distance::Zone, Distance::Far][..]);
    let backend = (id(), address, 0_u16..4, state(), distance);
    let backend = backend.prop_map(|(id, address, weight, state, distance)| Backend {
        weight,
        state,
        distance,
        ..Backend::new(id, address)
    });
    let flags = select(&[0x02_u8, 0x12, 0x10, 0x11, 0x04, 0x03, 0x10, 0x02][..])
        .prop_map(TcpFlags::from_bits);
    prop_oneof![
        2 => (vip(), config).prop_map(|(vip, config)| Op::SetVip(vip, config)),
        1 => (vip(), 0_u8..8).prop_map(|(vip, odd)| if odd == 0 { Op::RemoveVip(vip) } else { Op::Wait(1) }),
        6 => (vip(), backend).prop_map(|(vip, backend)| Op::SetBackend(vip, backend)),
        1 => (vip(), id()).prop_map(|(vip, id)| Op::RemoveBackend(vip, id)),
        2 => (vip(), id(), state()).prop_map(|(vip, id, state)| Op::SetState(vip, id, state)),
        6 => flow().prop_map(Op::Choose),
        12 => (flow(), flags.clone()).prop_map(|(flow, flags)| Op::ChooseTcp(flow, flags)),
        5 => (flow(), flags).prop_map(|(flow, flags)| Op::Reply(flow, flags)),
        2 => prop_oneof![0_u64..20_000, 900_u64..1_100].prop_map(Op::Wait),
        1 => Just(Op::WaitForDeadline),
    ]
}

fn opens(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK)
}

/// One packet from a client, on both; the balancer's choice is checked, and taken over where Maglev makes it.
fn packet(
    balancer: &mut Balancer,
    model: &mut Model,
    now: Instant,
    key: FlowKey,
    flags: Option<TcpFlags>,
) {
    let choice = match flags {
        Some(flags) => balancer.choose_tcp(now, key, flags),
        None => balancer.choose(now, key),
    };
    model.pass(now);
    let flags = flags.filter(|_| key.vip.proto == Protocol::Tcp);
    if let Some(at) = model.find(&key) {
        let flow = model.flows[at];
        if flow.state != State::Closed || !flags.is_some_and(opens) {
            assert_eq!(choice, model.choice(&flow));
            return model.track(at, true, flags);
        }
        model.flows.remove(at);
    }
    let Some(service) = model.served(key.vip) else {
        return assert_eq!(choice, Choice::Reject(Reject::UnknownVip));
    };
    let config = model.vips[&service];
    let middle = flags.is_some_and(|flags| !opens(flags)) && config.policy != Policy::Maglev;
    if middle || flags.is_some_and(|flags| flags.contains(TcpFlags::RST)) {
        return assert_eq!(choice, Choice::Reject(Reject::UnknownFlow));
    }
    let Some(id) = model.choose(service, &key, choice) else {
        return assert_eq!(choice, Choice::Reject(Reject::NoBackend));
    };
    let source = source(model, service, id, &key, choice);
    if config.affinity.is_some() {
        let client = (service, key.client.ip());
        model.affinities.insert(client, (id, model.now));
    }
    if model.flows.len() == FLOWS_MAX {
        let first = |flow: &&Tracked| (flow.state, flow.touched);
        let victim = model.flows.iter().min_by_key(first).copied();
        model.forget(victim.expect("the table is full"));
    }
    let state = match (key.vip.proto, flags) {
        (Protocol::Udp, _) => State::Datagram,
        (Protocol::Tcp, Some(_)) => State::Opening,
        (Protocol::Tcp, None) => State::Established,
    };
    model.touches += 1;
    let flow = Tracked {
        key,
        service,
        backend: id,
        source,
        state,
        fins: (false, false),
        answered: false,
        noted: model.now,
        touched: model.touches,
    };
    assert_eq!(choice, model.choice(&flow));
    model.flows.push(flow);
    if flags.is_some_and(|flags| flags.contains(TcpFlags::FIN)) {
        model.track(model.flows.len() - 1, true, flags);
    }
}

/// Whom the backend takes for its client. If its port is taken, any free one is right.
fn source(model: &Model, service: Vip, id: BackendId, key: &FlowKey, choice: Choice) -> SocketAddr {
    let backend = model.address(service, id, key);
    let hairpin = backend.ip() == key.client.ip();
    let ip = if hairpin {
        key.vip.addr
    } else {
        key.client.ip()
    };
    let own = SocketAddr::new(ip, key.client.port());
    let taken = |source| model.is_taken(key.vip.proto, backend, source, hairpin);
    if !taken(own) {
        return own;
    }
    let Choice::Backend { source, .. } = choice else {
        unreachable!("{choice:?}")
    };
    assert_eq!(source.ip(), ip);
    assert!(!taken(source));
    source
}

fn command(op: &Op, balancer: &mut Balancer, model: &mut Model, now: Instant) {
    match *op {
        Op::SetVip(vip, config) => {
            let result = balancer.set_vip(now, vip, config);
            let room = model.vips.contains_key(&vip) || model.vips.len() < 4;
            assert_eq!(result.is_ok(), room);
            if room {
                model.pass(now);
                model.vips.insert(vip, config);
            }
        }
        Op::RemoveVip(vip) => {
            model.pass(now);
            assert_eq!(
                balancer.remove_vip(now, vip),
                model.vips.remove(&vip).is_some()
            );
            let ids: Vec<_> = model
                .backends
                .keys()
                .filter(|key| key.0 == vip)
                .copied()
                .collect();
            for (vip, id) in ids {
                model.cut(vip, id);
                model.backends.remove(&(vip, id));
            }
        }
        Op::SetBackend(vip, backend) => set_backend(vip, backend, balancer, model, now),
        Op::SetState(vip, id, state) => {
            let known = model.backends.get(&(vip, id)).copied();
            assert_eq!(
                balancer.set_state(now, vip, id, state).is_ok(),
                known.is_some()
            );
            if let Some((backend, _)) = known {
                model.pass(now);
                model.set_backend(vip, Backend { state, ..backend });
            }
        }
        Op::RemoveBackend(vip, id) => {
            let known = model.backends.contains_key(&(vip, id));
            assert_eq!(balancer.remove_backend(now, vip, id).is_ok(), known);
            if known {
                model.pass(now);
                model.cut(vip, id);
                model.backends.remove(&(vip, id));
            }
        }
        Op::Choose(key) => packet(balancer, model, now, key, None),
        Op::ChooseTcp(key, flags) => packet(balancer, model, now, key, Some(flags)),
        Op::Reply(key, flags) => {
            model.pass(now);
            let at = model.find(&key);
            assert_eq!(balancer.handle_reply(now, key, flags), at.is_some());
            if let Some(at) = at {
                model.track(
                    at,
                    false,
                    Some(flags).filter(|_| key.vip.proto == Protocol::Tcp),
                );
            }
        }
        Op::Wait(_) | Op::WaitForDeadline => {
            model.pass(now);
            balancer.handle_timeout(now);
        }
    }
}

fn set_backend(
    vip: Vip,
    backend: Backend,
    balancer: &mut Balancer,
    model: &mut Model,
    now: Instant,
) {
    let count = model.backends.keys().filter(|key| key.0 == vip).count();
    let known = model.backends.contains_key(&(vip, backend.id));
    let family = vip.addr.is_ipv4() == backend.address.is_ipv4();
    let fine = model.vips.contains_key(&vip) && family && (known || count < 4);
    assert_eq!(balancer.set_backend(now, vip, backend).is_ok(), fine);
    if fine {
        model.pass(now);
        model.set_backend(vip, backend);
    }
}

/// Does one operation on both, and compares all that is to be seen.
fn step(op: &Op, balancer: &mut Balancer, model: &mut Model, now: &mut Instant) {
    match op {
        Op::Wait(millis) => *now += Duration::from_millis(*millis),
        Op::WaitForDeadline => *now = balancer.poll_timeout().unwrap_or(*now),
        _ => {}
    }
    command(op, balancer, model, *now);
    let mut outputs: Vec<Output> = std::iter::from_fn(|| balancer.poll_output()).collect();
    let mut expected = std::mem::take(&mut model.outputs);
    // In which order the flows of one backend are reset is not promised.
    let by_text = |output: &Output| format!("{output:?}");
    outputs.sort_by_cached_key(by_text);
    expected.sort_by_cached_key(by_text);
    assert_eq!(outputs, expected, "{op:?}");
    assert_eq!(balancer.poll_timeout(), model.deadline());
    assert_eq!(balancer.stats().flows, model.flows.len());
    for ((vip, id), (backend, _)) in &model.backends {
        let live = u32::try_from(model.live(*vip, *id)).ok();
        assert_eq!(balancer.flows(*vip, *id), live);
        assert!(balancer.backends(*vip).any(|other| other == *backend));
    }
}

fn fresh(seed: u64) -> (Balancer, Model) {
    let balancer = Balancer::new(limits(), &Seed::from_u64(seed), Instant::EPOCH);
    (balancer.expect("a valid configuration"), Model::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_balancer_is_a_list_of_flows(ops in vec(op(), 0..150), seed in any::<u64>()) {
        let (mut now, (mut balancer, mut model)) = (Instant::EPOCH, fresh(seed));
        for op in &ops {
            step(op, &mut balancer, &mut model, &mut now);
        }
    }
}

/// `cargo test --release -p overlay-lb --test properties -- --ignored`
#[test]
#[ignore = "takes minutes"]
fn ten_million_operations_are_those_of_a_list_of_flows() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let ops = op();
    for round in 0..10_000 {
        let (mut now, (mut balancer, mut model)) = (Instant::EPOCH, fresh(round));
        for _ in 0..1_000 {
            let op = ops.new_tree(&mut runner).expect("no filters").current();
            step(&op, &mut balancer, &mut model, &mut now);
        }
    }
}
