//! A policy against a naive one: a list of rules, a list of flows, and what is promised of them in words.

mod lab;
mod rules;

use std::{net::IpAddr, time::Duration};

use overlay_core::{
    Instant, Seed,
    plane::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict},
};
use overlay_vxlan::{
    policy::{Config, Direction, Policy, Reason, Timeouts},
    wire::tcp::Flags,
};
use proptest::{collection::vec, prelude::*, sample::select};

use rules::*;

const ADDRESSES: [&str; 7] = [
    "10.0.1.2",
    "10.0.1.3",
    "10.0.2.4",
    "224.0.0.1",
    "fd00::2",
    "fd00::3",
    "ff02::1",
];
const V4: usize = 4;
const FRAGMENTS_MAX: u32 = 3;

#[derive(Clone, Debug)]
enum Op {
    Send {
        ends: (usize, usize),
        load: Load,
    },
    /// An error of the first about what the second has sent to the third.
    Error {
        who: (usize, usize, usize),
        load: Load,
    },
    Fragment {
        ends: (usize, usize),
        load: Load,
        id: u16,
        is_first: bool,
    },
    Wait(Duration),
    Set(NetworkPolicy),
    Settle(Duration),
}

#[derive(Clone, Debug, PartialEq)]
struct Flow {
    opener: (IpAddr, u16),
    other: (IpAddr, u16),
    protocol: u8,
    is_answered: bool,
    opener_fin: bool,
    other_fin: bool,
    is_reset: bool,
    is_ended: bool,
    touched: Instant,
}

/// A packet, as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    protocol: u8,
    flags: Option<Flags>,
    is_reply: Option<bool>,
    /// Of ICMP that is no echo.
    has_flow: bool,
}

struct Model {
    rules: NetworkPolicy,
    flows: Vec<Flow>,
    fragments: Vec<(IpAddr, IpAddr, u8, u16, Instant)>,
    now: Instant,
    settled: Instant,
}

type Decided = (Verdict, Reason);

impl Flow {
    /// A name, and for how long.
    fn stage(&self) -> (&'static str, Duration) {
        let times = Timeouts::default();
        match self.protocol {
            _ if self.is_ended => ("ended", times.ended),
            _ if !self.is_answered => ("unanswered", times.unanswered),
            6 if self.is_reset || (self.opener_fin && self.other_fin) => ("closing", times.closing),
            6 => ("tcp", times.tcp),
            17 => ("udp", times.udp),
            1 | 58 => ("icmp", times.icmp),
            _ => ("other", times.other),
        }
    }

    fn asks(&self) -> FlowMatch {
        flow_match(self.opener, self.other, self.protocol)
    }

    fn note(&mut self, seen: &Seen, is_answer: bool) {
        self.is_answered |= is_answer;
        let Some(flags) = seen.flags else { return };
        let fin = flags.contains(Flags::FIN);
        if is_answer {
            self.other_fin |= fin;
        } else {
            self.opener_fin |= fin;
        }
        self.is_reset |= flags.contains(Flags::RST);
    }
}

fn flow_match(opener: (IpAddr, u16), other: (IpAddr, u16), protocol: u8) -> FlowMatch {
    FlowMatch {
        from: opener.0,
        to: other.0,
        protocol,
        port: if matches!(protocol, 6 | 17) {
            other.1
        } else {
            0
        },
    }
}

fn see(from: IpAddr, to: IpAddr, load: &Load) -> Seen {
    let icmp = if from.is_ipv4() { 1 } else { 58 };
    let (ports, protocol, flags, is_reply, has_flow) = match *load {
        Load::Tcp(source, destination, flags) => {
            ((source, destination), 6, Some(flags), None, true)
        }
        Load::Udp(source, destination) => ((source, destination), 17, None, None, true),
        Load::Echo(id) => ((id, id), icmp, None, Some(false), true),
        Load::Reply(id) => ((id, id), icmp, None, Some(true), true),
        Load::Icmp(..) => ((0, 0), icmp, None, None, false),
        Load::Other(number) => ((0, 0), number, None, None, true),
    };
    Seen {
        from: (from, ports.0),
        to: (to, ports.1),
        protocol,
        flags,
        is_reply,
        has_flow,
    }
}

impl Model {
    fn ask(&self, flow: &FlowMatch) -> Decided {
        let (verdict, rule) = self.rules.decide(flow);
        let reason = rule.map_or(Reason::Default, |_| Reason::Rule);
        (verdict, reason)
    }

    fn expire(&mut self) {
        let now = self.now;
        self.flows
            .retain(|flow| now < flow.touched + flow.stage().1);
    }

    /// The flow of a packet, and whether it comes from the other end.
    fn find(&mut self, seen: &Seen) -> Option<(&mut Flow, bool)> {
        self.expire();
        self.flows.iter_mut().find_map(|flow| {
            let forth = flow.opener == seen.from && flow.other == seen.to;
            let back = flow.opener == seen.to && flow.other == seen.from;
            let (forth, back) = match seen.is_reply {
                Some(is_reply) => (forth && !is_reply, back && is_reply),
                None => (forth, back),
            };
            (flow.protocol == seen.protocol && (forth || back)).then_some((flow, !forth))
        })
    }

    fn send(&mut self, from: IpAddr, to: IpAddr, load: &Load) -> Decided {
        if self.rules.is_open() {
            return (Verdict::Allow, Reason::Open);
        }
        let (seen, now) = (see(from, to, load), self.now);
        if !seen.has_flow || to.is_multicast() {
            return self.ask(&flow_match(seen.from, seen.to, seen.protocol));
        }
        let is_syn = seen.flags.is_some_and(|flags| {
            flags.contains(SYN)
                && [ACK, Flags::RST, Flags::FIN]
                    .iter()
                    .all(|other| !flags.contains(*other))
        });
        let mut is_replaced = false;
        if let Some((flow, is_answer)) = self.find(&seen) {
            let has_begun = flow.is_answered || flow.is_ended || flow.opener_fin || flow.is_reset;
            if is_answer && is_syn && has_begun {
                is_replaced = true;
            } else {
                let before = flow.stage();
                let was_closing = flow.is_reset || (flow.opener_fin && flow.other_fin);
                if flow.is_ended {
                } else if is_syn && was_closing {
                    (flow.is_answered, flow.is_reset) = (false, false);
                    (flow.opener_fin, flow.other_fin) = (false, false);
                } else {
                    flow.note(&seen, is_answer);
                }
                if before != flow.stage() || now - flow.touched >= Timeouts::GRANULARITY {
                    flow.touched = now;
                }
                return match flow.is_ended {
                    true => (Verdict::Deny, Reason::Ended),
                    false => (Verdict::Allow, Reason::Flow),
                };
            }
        }
        let decided = self.open(&seen, is_syn);
        if let (true, Some(new)) = (is_replaced, &decided.1) {
            let ends = [new.opener, new.other];
            self.flows.retain(|flow| {
                flow.protocol != new.protocol
                    || !ends.contains(&flow.opener)
                    || !ends.contains(&flow.other)
            });
        }
        self.flows.extend(decided.1);
        decided.0
    }

    fn open(&self, seen: &Seen, is_syn: bool) -> (Decided, Option<Flow>) {
        let is_settling = self.now < self.settled && seen.is_reply.is_none();
        let begins = seen.is_reply == Some(false) || is_syn;
        let cannot = seen.is_reply == Some(true) || (seen.flags.is_some() && !is_syn);
        if cannot && !is_settling && self.rules.default == Verdict::Deny {
            return ((Verdict::Deny, Reason::NoFlow), None);
        }
        let flow = |opener, other, is_answer| {
            let mut flow = Flow {
                opener,
                other,
                protocol: seen.protocol,
                is_answered: cannot,
                opener_fin: false,
                other_fin: false,
                is_reset: false,
                is_ended: false,
                touched: self.now,
            };
            flow.note(seen, is_answer);
            Some(flow)
        };
        let forth = self.ask(&flow_match(seen.from, seen.to, seen.protocol));
        let back = self.ask(&flow_match(seen.to, seen.from, seen.protocol));
        if forth.0 == Verdict::Allow {
            let is_new = !cannot || is_settling;
            return (
                forth,
                is_new.then(|| flow(seen.from, seen.to, false)).flatten(),
            );
        }
        if is_settling && !begins && back.0 == Verdict::Allow {
            return (back, flow(seen.to, seen.from, true));
        }
        (forth, None)
    }

    fn error(&mut self, from: IpAddr, to: IpAddr, about: (IpAddr, IpAddr), load: &Load) -> Decided {
        if self.rules.is_open() {
            return (Verdict::Allow, Reason::Open);
        }
        let quoted = see(about.0, about.1, load);
        if about == (to, from)
            && quoted.has_flow
            && self.find(&quoted).is_some_and(|(flow, _)| !flow.is_ended)
        {
            return (Verdict::Allow, Reason::Related);
        }
        let icmp = if from.is_ipv4() { 1 } else { 58 };
        self.ask(&flow_match((from, 0), (to, 0), icmp))
    }

    fn fragment(
        &mut self,
        ends: (IpAddr, IpAddr),
        load: &Load,
        id: u16,
        is_first: bool,
    ) -> Decided {
        if self.rules.is_open() {
            return (Verdict::Allow, Reason::Open);
        }
        let (from, to) = ends;
        let protocol = if from.is_ipv4() {
            see(from, to, load).protocol
        } else {
            0
        };
        let place = self
            .fragments
            .iter()
            .position(|it| (it.0, it.1, it.2, it.3) == (from, to, protocol, id));
        if is_first {
            let decided = self.send(from, to, load);
            if decided.0 == Verdict::Allow {
                let note = (from, to, protocol, id, self.now);
                match place {
                    Some(at) => self.fragments[at] = note,
                    None => self.fragments.push(note),
                }
                if self.fragments.len() > FRAGMENTS_MAX as usize {
                    self.fragments.remove(0);
                }
            }
            return decided;
        }
        match place {
            Some(at) if self.now < self.fragments[at].4 + Duration::from_secs(60) => {
                (Verdict::Allow, Reason::Fragment)
            }
            _ => (Verdict::Deny, Reason::LaterFragment),
        }
    }

    fn set(&mut self, rules: &NetworkPolicy) {
        self.rules = rules.clone();
        self.fragments.clear();
        self.expire();
        if rules.is_open() {
            self.flows.clear();
        }
        for flow in &mut self.flows {
            let is_ended = rules.decide(&flow.asks()).0 == Verdict::Deny;
            if is_ended != flow.is_ended {
                (flow.is_ended, flow.touched) = (is_ended, self.now);
            }
        }
    }
}

fn ends() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        3 => (0..3usize, 1..4usize).prop_map(|(from, apart)| (from, (from + apart) % V4)),
        1 => (0..2usize, 1..3usize).prop_map(|(from, apart)| (V4 + from, V4 + (from + apart) % 3)),
    ]
}

fn load() -> impl Strategy<Value = Load> {
    let port = || select(vec![1u16, 2, 80]);
    let flags = vec![SYN, SYN | ACK, ACK, Flags::FIN | ACK, Flags::RST];
    prop_oneof![
        4 => (port(), port(), select(flags)).prop_map(|(a, b, flags)| Load::Tcp(a, b, flags)),
        2 => (port(), port()).prop_map(|(a, b)| Load::Udp(a, b)),
        1 => (1..3u16).prop_map(Load::Echo),
        1 => (1..3u16).prop_map(Load::Reply),
        1 => Just(Load::Icmp(13, vec![0; 12])),
        1 => (132..134u8).prop_map(Load::Other),
    ]
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let addresses = || {
        let nets = [
            "10.0.1.2/32",
            "10.0.1.0/24",
            "10.0.2.4/32",
            "224.0.0.0/4",
            "fd00::/64",
            "fd00::3/128",
            "0.0.0.0/0",
        ];
        prop_oneof![
            1 => Just(AddressMatch::Any),
            2 => vec(select(nets.to_vec()), 0..3).prop_map(|some| nets_of(&some)),
        ]
    };
    let traffic = prop_oneof![
        2 => Just(TrafficMatch::Any),
        2 => (0..3u16, 1..90u16).prop_map(|(first, last)| TrafficMatch::Tcp { first, last }),
        2 => (0..3u16, 1..90u16).prop_map(|(first, last)| TrafficMatch::Udp { first, last }),
        1 => Just(TrafficMatch::Icmp),
        1 => select(vec![6, 58, 132u8]).prop_map(TrafficMatch::Protocol),
    ];
    let verdict = || select(vec![Verdict::Allow, Verdict::Allow, Verdict::Deny]);
    let rule = (addresses(), addresses(), vec(traffic, 0..3), verdict());
    let rule = rule.prop_map(|(from, to, traffic, verdict)| PolicyRule {
        name: String::new(),
        from,
        to,
        traffic,
        verdict,
    });
    let default = select(vec![Verdict::Deny, Verdict::Deny, Verdict::Allow]);
    let policy = (default, vec(rule, 0..5));
    policy.prop_map(|(default, rules)| NetworkPolicy { default, rules })
}

fn nets_of(some: &[&str]) -> AddressMatch {
    nets(&some.join(","))
}

fn op() -> impl Strategy<Value = Op> {
    let who = prop_oneof![
        3 => (0..3usize, 0..3usize, 0..3usize),
        1 => (V4..6, V4..6usize, V4..6usize),
    ];
    let port = || select(vec![1u16, 2, 80]);
    let whole = prop_oneof![
        (port(), port()).prop_map(|(a, b)| Load::Tcp(a, b, SYN)),
        (port(), port()).prop_map(|(a, b)| Load::Tcp(a, b, ACK)),
        (port(), port()).prop_map(|(a, b)| Load::Udp(a, b)),
    ];
    let wait = select(vec![
        0u64, 1, 500, 1_000, 59_000, 60_000, 120_000, 300_000, 7_440_000,
    ]);
    prop_oneof![
        20 => (ends(), load()).prop_map(|(ends, load)| Op::Send { ends, load }),
        3 => (who, load()).prop_map(|(who, load)| Op::Error { who, load }),
        3 => (ends(), whole, 0..5u16, any::<bool>())
            .prop_map(|(ends, load, id, is_first)| Op::Fragment { ends, load, id, is_first }),
        5 => wait.prop_map(|milliseconds| Op::Wait(Duration::from_millis(milliseconds))),
        2 => policy().prop_map(Op::Set),
        1 => (0..100u64).prop_map(|seconds| Op::Settle(Duration::from_secs(seconds))),
    ]
}

fn run(policy: &mut Policy, model: &mut Model, op: &Op) -> Option<(Decided, Decided)> {
    let at = |number: usize| ip(ADDRESSES[number]);
    let (frame, expected) = match op {
        Op::Send {
            ends: (from, to),
            load,
        } => {
            let (from, to) = (at(*from), at(*to));
            (packet(from, to, load), model.send(from, to, load))
        }
        Op::Error {
            who: (who, from, to),
            load,
        } => {
            let (who, from, to) = (at(*who), at(*from), at(*to));
            let about = packet(from, to, load);
            let kind = if who.is_ipv4() { 3 } else { 1 };
            let quoted = Load::Icmp(kind, about[14..].to_vec());
            (
                packet(who, from, &quoted),
                model.error(who, from, (from, to), load),
            )
        }
        Op::Fragment {
            ends: (from, to),
            load,
            id,
            is_first,
        } => {
            let length = if matches!(load, Load::Tcp(..)) { 16 } else { 8 };
            let parts = fragments(ADDRESSES[*from], ADDRESSES[*to], load.clone(), *id, length);
            let [first, later] = parts;
            let frame = if *is_first { first } else { later };
            (
                frame,
                model.fragment((at(*from), at(*to)), load, *id, *is_first),
            )
        }
        Op::Wait(time) => {
            model.now += *time;
            return None;
        }
        Op::Set(rules) => {
            policy.set(model.now, rules).expect("few rules");
            model.set(rules);
            return None;
        }
        Op::Settle(time) => {
            model.settled = model.now + *time;
            policy.settle_until(model.now, model.settled);
            return None;
        }
    };
    let decision = policy.decide(model.now, Direction::Ingress, &frame);
    Some(((decision.verdict, decision.reason), expected))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn it_decides_as_a_naive_one_does(rules in policy(), ops in vec(op(), 1..120)) {
        let config = Config { fragments_max: FRAGMENTS_MAX, ..Config::default() };
        let mut policy = Policy::new(config, &Seed::from_u64(7));
        let now = Instant::from_millis(1);
        let mut model = Model {
            rules: NetworkPolicy::default(), flows: Vec::new(), fragments: Vec::new(), now, settled: now,
        };
        run(&mut policy, &mut model, &Op::Set(rules));
        for (at, op) in ops.iter().enumerate() {
            if let Some((found, expected)) = run(&mut policy, &mut model, op) {
                prop_assert_eq!(found, expected, "step {}: {:?}", at, op);
            }
            policy.handle_timeout(model.now);
            model.expire();
            prop_assert_eq!(policy.stats().flows, model.flows.len(), "step {}: {:?}", at, op);
        }
    }

    #[test]
    fn a_full_table_keeps_to_its_bound(rules in policy(), max in 0..6u32, ops in vec(op(), 1..120)) {
        let config = Config { flows_max: max, ..Config::default() };
        let mut policy = Policy::new(config, &Seed::from_u64(7));
        let now = Instant::from_millis(1);
        let mut model = Model {
            rules: NetworkPolicy::default(), flows: Vec::new(), fragments: Vec::new(), now, settled: now,
        };
        run(&mut policy, &mut model, &Op::Set(rules));
        for op in &ops {
            run(&mut policy, &mut model, op);
            prop_assert!(policy.stats().flows <= max as usize);
        }
        // Whatever happened, all of them end.
        while let Some(end) = policy.poll_timeout() {
            let before = policy.stats().flows;
            policy.handle_timeout(end);
            prop_assert!(policy.stats().flows < before);
        }
        prop_assert_eq!(policy.stats().flows, 0);
    }

    #[test]
    fn many_rules_decide_as_one_after_the_other(
        rules in vec(policy(), 0..60),
        flows in vec((0..6usize, 0..7usize, select(vec![1u8, 6, 17, 58, 132]), select(vec![0u16, 1, 2, 3, 80, 89, 90, 65_535])), 1..50),
    ) {
        let rules = NetworkPolicy {
            default: Verdict::Deny,
            rules: rules.into_iter().flat_map(|policy| policy.rules).collect(),
        };
        let mut policy = Policy::new(Config::default(), &Seed::from_u64(7));
        policy.set(Instant::EPOCH, &rules).unwrap();
        for (from, to, protocol, port) in flows {
            if (from < V4) != (to < V4) {
                continue;
            }
            let flow = FlowMatch { from: ip(ADDRESSES[from]), to: ip(ADDRESSES[to]), protocol, port };
            let explained = policy.explain(flow.from, flow.to, protocol, port);
            let found = (explained.verdict, explained.rule.map(|(at, _)| at));
            prop_assert_eq!(found, rules.decide(&flow), "{:?}", flow);
        }
    }
}
