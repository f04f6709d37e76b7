//! Random operations against a naive model: lists that are searched from end to end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use overlay_core::{Instant, Machine, Seed};
use overlay_lb::{
    Backend, BackendId, BackendState, Balancer, Choice, Config, Event, FlowKey, Output, Policy,
    Protocol, Reject, TcpFlags, Timeouts, Vip, VipConfig,
};
use proptest::{collection::vec, prelude::*, sample::select};

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
        maglev_entries: ENTRIES,
        maglev_seed: 3,
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
    )
        .prop_map(|(addr, proto)| Vip {
            addr: addr.parse().expect("an address"),
            proto,
            port: 80,
        })
}

fn id() -> impl Strategy<Value = BackendId> {
    (0_u8..6).prop_map(|octet| BackendId::from_bytes([octet; 16]))
}

fn state() -> impl Strategy<Value = BackendState> {
    prop_oneof![4 => Just(BackendState::Active), 2 => Just(BackendState::Draining), 1 => Just(BackendState::Down)]
}

fn flow() -> impl Strategy<Value = FlowKey> {
    (vip(), 0_u8..3, 0_u16..4).prop_map(|(vip, host, port)| {
        let client = if vip.addr.is_ipv4() {
            [10, 0, 1, 70 + host].into()
        } else {
            VIPS[2].parse().expect("an address")
        };
        FlowKey {
            vip,
            client: SocketAddr::new(client, port),
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
    );
    let config = config.prop_map(|(policy, affinity)| VipConfig { policy, affinity });
    let address = (0_u8..3, any::<bool>(), 0_u8..20).prop_map(|(last, six, odd)| {
        let v4 = format!("10.0.1.{last}:80");
        let v6 = format!("[fd00::{last}]:80");
        let text = if six ^ (odd == 0) { v6 } else { v4 };
        text.parse::<SocketAddr>().expect("an address")
    });
    let backend = (id(), address, 0_u16..4, state());
    let backend = backend.prop_map(|(id, address, weight, state)| Backend {
        id,
        address,
        weight,
        state,
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
        2 => (0_u64..20).prop_map(Op::Wait),
        1 => Just(Op::WaitForDeadline),
    ]
}

/// In the order in which they make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Closed,
    Opening,
    Datagram,
    HalfClosed,
    Established,
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    key: FlowKey,
    backend: BackendId,
    state: State,
    fins: (bool, bool),
    last: Instant,
    /// Counts up with each packet that refreshes a flow.
    touched: u64,
}

/// What Maglev's choice may depend on.
type Hashed = (Vec<(BackendId, u16)>, IpAddr, Option<u16>);

#[derive(Default)]
struct Model {
    now: Instant,
    vips: BTreeMap<Vip, VipConfig>,
    /// With the credit of weighted round robin.
    backends: BTreeMap<(Vip, BackendId), (Backend, i64)>,
    flows: Vec<Tracked>,
    affinities: BTreeMap<(Vip, IpAddr), (BackendId, Instant)>,
    maglev: BTreeMap<Hashed, BackendId>,
    touches: u64,
    outputs: Vec<Output>,
}

impl Model {
    fn timeout(flow: &Tracked) -> Duration {
        let timeouts = limits().timeouts;
        match flow.state {
            State::Closed => timeouts.closed,
            State::Opening => timeouts.opening,
            State::Datagram => timeouts.datagram,
            State::HalfClosed => timeouts.half_closed,
            State::Established => timeouts.established,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.flows
            .iter()
            .map(|flow| flow.last + Self::timeout(flow))
            .min()
    }

    fn pass(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let now = self.now;
        let due = |flow: &&Tracked| flow.last + Self::timeout(flow) <= now;
        let first = |flow: &&Tracked| (flow.last + Self::timeout(flow), flow.state, flow.touched);
        while let Some(flow) = self.flows.iter().filter(due).min_by_key(first).copied() {
            self.forget(flow);
        }
    }

    fn live(&self, vip: Vip, id: BackendId) -> usize {
        let of = |flow: &&Tracked| {
            flow.key.vip == vip && flow.backend == id && flow.state != State::Closed
        };
        self.flows.iter().filter(of).count()
    }

    fn forget(&mut self, flow: Tracked) {
        self.flows.retain(|other| other.key != flow.key);
        self.reset(flow);
        if flow.state != State::Closed {
            self.ended(flow);
        }
    }

    fn reset(&mut self, flow: Tracked) {
        if matches!(flow.state, State::HalfClosed | State::Established) {
            let address = self.backends[&(flow.key.vip, flow.backend)].0.address;
            self.outputs.push(Output::Reset {
                flow: flow.key,
                backend: flow.backend,
                address,
            });
        }
    }

    fn ended(&mut self, flow: Tracked) {
        let (vip, backend) = (flow.key.vip, flow.backend);
        let draining = self.backends[&(vip, backend)].0.state == BackendState::Draining;
        if draining && self.live(vip, backend) == 0 {
            self.outputs
                .push(Output::Event(Event::Drained { vip, backend }));
        }
    }

    fn cut(&mut self, vip: Vip, id: BackendId) {
        let (gone, kept) = self
            .flows
            .iter()
            .partition(|flow| flow.key.vip == vip && flow.backend == id);
        self.flows = kept;
        let gone: Vec<Tracked> = gone;
        gone.into_iter().for_each(|flow| self.reset(flow));
    }

    fn set_backend(&mut self, vip: Vip, backend: Backend) {
        let before = self.backends.get(&(vip, backend.id)).copied();
        let had = self.live(vip, backend.id) > 0;
        let lost = |old: Backend| {
            old.address != backend.address || backend.state == BackendState::Down && old != backend
        };
        if before.is_some_and(|(old, _)| lost(old)) {
            self.cut(vip, backend.id);
        }
        let credit = before.map_or(0, |(_, credit)| credit);
        self.backends.insert((vip, backend.id), (backend, credit));
        let emptied = had && self.live(vip, backend.id) == 0;
        let anew = before.is_none_or(|(old, _)| old.state != backend.state) || emptied;
        if anew && backend.state == BackendState::Draining && self.live(vip, backend.id) == 0 {
            let backend = backend.id;
            self.outputs
                .push(Output::Event(Event::Drained { vip, backend }));
        }
    }

    fn takers(&self, vip: Vip) -> Vec<(BackendId, u16)> {
        let of = self.backends.iter().filter(|((other, _), _)| *other == vip);
        let takes = |backend: &Backend| backend.state == BackendState::Active && backend.weight > 0;
        let takers = of.filter(|(_, (backend, _))| takes(backend));
        takers
            .map(|((_, id), (backend, _))| (*id, backend.weight))
            .collect()
    }

    /// `seen` is what the balancer chose, which Maglev alone can know the first time.
    fn choose(&mut self, key: &FlowKey, seen: Choice) -> Option<BackendId> {
        let (config, takers) = (self.vips[&key.vip], self.takers(key.vip));
        let remembered = config.affinity.and_then(|timeout| {
            let (id, last) = *self.affinities.get(&(key.vip, key.client.ip()))?;
            let fresh = self.now < last + timeout && takers.iter().any(|taker| taker.0 == id);
            fresh.then_some(id)
        });
        if remembered.is_some() || takers.is_empty() {
            return remembered;
        }
        match config.policy {
            Policy::Maglev => {
                let Choice::Backend { id, .. } = seen else {
                    return None;
                };
                let port = config.affinity.is_none().then_some(key.client.port());
                let known = (takers.clone(), key.client.ip(), port);
                // The same client and the same backends: the same choice, at every virtual address.
                let first = *self.maglev.entry(known).or_insert(id);
                assert!(takers.iter().any(|taker| taker.0 == first));
                Some(first)
            }
            Policy::WeightedRoundRobin => {
                let total: i64 = takers.iter().map(|taker| i64::from(taker.1)).sum();
                let mut best = None;
                for (id, weight) in &takers {
                    let (_, credit) = self.backends.get_mut(&(key.vip, *id))?;
                    *credit += i64::from(*weight);
                    if best.is_none_or(|(_, most)| *credit > most) {
                        best = Some((*id, *credit));
                    }
                }
                let (id, _) = best?;
                self.backends.get_mut(&(key.vip, id))?.1 -= total;
                Some(id)
            }
            Policy::LeastConnections => {
                // Weights are at most 3: the quotient times 6 is whole.
                let load = |(id, weight): &&(BackendId, u16)| {
                    (self.live(key.vip, *id) + 1) * 6 / usize::from(*weight)
                };
                takers.iter().min_by_key(load).map(|taker| taker.0)
            }
        }
    }

    fn track(&mut self, at: usize, client: bool, flags: Option<TcpFlags>) {
        let mut flow = self.flows[at];
        if flow.state == State::Closed {
            return;
        }
        if flow.state == State::Opening && client && !flags.is_some_and(opens) {
            flow.state = State::Established;
        }
        if let Some(flags) = flags {
            let fin = flags.contains(TcpFlags::FIN);
            let (one, other) = flow.fins;
            flow.fins = (one || client && fin, other || !client && fin);
            flow.state = match flow.fins {
                _ if flags.contains(TcpFlags::RST) => State::Closed,
                (true, true) => State::Closed,
                (false, false) => flow.state,
                _ => State::HalfClosed,
            };
        }
        self.touches += 1;
        (flow.last, flow.touched) = (self.now, self.touches);
        self.flows.remove(at);
        self.flows.push(flow);
        if flow.state == State::Closed {
            self.ended(flow);
        }
    }

    fn find(&self, key: &FlowKey) -> Option<usize> {
        self.flows.iter().position(|flow| flow.key == *key)
    }
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
            let address = model.backends[&(key.vip, flow.backend)].0.address;
            assert_eq!(
                choice,
                Choice::Backend {
                    id: flow.backend,
                    address
                }
            );
            return model.track(at, true, flags);
        }
        model.flows.remove(at);
    }
    let Some(config) = model.vips.get(&key.vip).copied() else {
        return assert_eq!(choice, Choice::Reject(Reject::UnknownVip));
    };
    let middle = flags.is_some_and(|flags| !opens(flags)) && config.policy != Policy::Maglev;
    if middle || flags.is_some_and(|flags| flags.contains(TcpFlags::RST)) {
        return assert_eq!(choice, Choice::Reject(Reject::UnknownFlow));
    }
    let Some(id) = model.choose(&key, choice) else {
        return assert_eq!(choice, Choice::Reject(Reject::NoBackend));
    };
    let address = model.backends[&(key.vip, id)].0.address;
    assert_eq!(choice, Choice::Backend { id, address });
    if config.affinity.is_some() {
        model
            .affinities
            .insert((key.vip, key.client.ip()), (id, model.now));
    }
    if model.flows.len() == FLOWS_MAX {
        let first = |flow: &&Tracked| (flow.state, flow.touched);
        let victim = model
            .flows
            .iter()
            .min_by_key(first)
            .copied()
            .expect("the table is full");
        model.forget(victim);
    }
    let state = match (key.vip.proto, flags) {
        (Protocol::Udp, _) => State::Datagram,
        (Protocol::Tcp, Some(flags)) if opens(flags) => State::Opening,
        (Protocol::Tcp, _) => State::Established,
    };
    model.touches += 1;
    let (last, touched) = (model.now, model.touches);
    model.flows.push(Tracked {
        key,
        backend: id,
        state,
        fins: (false, false),
        last,
        touched,
    });
    if flags.is_some_and(|flags| flags.contains(TcpFlags::FIN)) {
        model.track(model.flows.len() - 1, true, flags);
    }
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_balancer_is_a_list_of_flows(ops in vec(op(), 0..150), seed in any::<u64>()) {
        let (mut now, mut model) = (Instant::EPOCH, Model::default());
        let mut balancer = Balancer::new(limits(), &Seed::from_u64(seed), now).unwrap();
        for op in &ops {
            match op {
                Op::Wait(seconds) => now += Duration::from_secs(*seconds),
                Op::WaitForDeadline => now = balancer.poll_timeout().unwrap_or(now),
                _ => {}
            }
            command(op, &mut balancer, &mut model, now);
            let mut outputs: Vec<Output> = std::iter::from_fn(|| balancer.poll_output()).collect();
            let mut expected = std::mem::take(&mut model.outputs);
            // In which order the flows of one backend are reset is not promised.
            let by_text = |output: &Output| format!("{output:?}");
            outputs.sort_by_key(by_text);
            expected.sort_by_key(by_text);
            prop_assert_eq!(outputs, expected, "{:?}", op);
            prop_assert_eq!(balancer.poll_timeout(), model.deadline());
            prop_assert_eq!(balancer.stats().flows, model.flows.len());
            for ((vip, id), (backend, _)) in &model.backends {
                prop_assert_eq!(balancer.flows(*vip, *id), u32::try_from(model.live(*vip, *id)).ok());
                prop_assert!(balancer.backends(*vip).any(|other| other == *backend));
            }
        }
    }
}
