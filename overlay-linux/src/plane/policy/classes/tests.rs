use overlay_core::plane::FlowMatch;
use proptest::prelude::*;

use super::*;

impl Classes {
    /// What the kernel makes of it: look-ups, and the default where there is nothing.
    fn verdict(&self, flow: &FlowMatch, default: Verdict) -> Verdict {
        let find = |spans: &[Span], number: u128| {
            let mut found = spans
                .iter()
                .filter(|span| (span.first..=span.last).contains(&number));
            let span = found.next();
            assert!(found.next().is_none(), "ranges do not overlap");
            span.map(|span| span.class)
        };
        let v6 = usize::from(flow.from.is_ipv6());
        let port = if [TCP, UDP].contains(&flow.protocol) {
            flow.port
        } else {
            // Whatever the kernel has there.
            0x0800
        };
        let carried = u128::from(flow.protocol) << 16 | u128::from(port);
        let decided = || {
            let to = find(&self.to[v6], number(flow.to))?;
            let from = find(&self.from[v6], number(flow.from))?;
            let list = self.pairs.get(&(to, from))?;
            let traffic = find(&self.traffic[v6], carried)?;
            self.decisions.get(&(*list, traffic)).copied()
        };
        decided().unwrap_or(default)
    }
}

pub(in crate::plane) fn any_address() -> impl Strategy<Value = IpAddr> {
    let edges = (
        any::<bool>(),
        prop::sample::select(vec![0_u8, 1, 2, 3, 4, 127, 128, 255]),
    );
    edges.prop_map(|(v6, last)| {
        if v6 {
            let mut octets = [0; 16];
            octets[..2].copy_from_slice(&[0xfd, 0]);
            octets[15] = last;
            IpAddr::from(octets)
        } else {
            IpAddr::from([10, 0, 1, last])
        }
    })
}

fn any_match() -> impl Strategy<Value = AddressMatch> {
    let net = (
        any_address(),
        prop::sample::select(vec![0_u8, 1, 7, 8, 9, 32]),
    );
    let net = net.prop_map(|(address, less)| {
        let whole = IpNet::from(address).prefix_len();
        IpNet::new(address, whole.saturating_sub(less))
            .unwrap()
            .trunc()
    });
    prop_oneof![
        1 => Just(AddressMatch::Any),
        4 => prop::collection::btree_set(net, 0..4).prop_map(AddressMatch::Of),
    ]
}

fn any_traffic() -> impl Strategy<Value = TrafficMatch> {
    let port = || prop::sample::select(vec![0_u16, 79, 80, 81, 443, 65_535]);
    prop_oneof![
        Just(TrafficMatch::Any),
        Just(TrafficMatch::Icmp),
        (port(), port()).prop_map(|(first, last)| TrafficMatch::Tcp { first, last }),
        (port(), port()).prop_map(|(first, last)| TrafficMatch::Udp { first, last }),
        prop::sample::select(vec![0_u8, 1, 6, 17, 58, 132, 255]).prop_map(TrafficMatch::Protocol),
    ]
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![Just(Verdict::Allow), Just(Verdict::Deny)]
}

fn any_policy() -> impl Strategy<Value = NetworkPolicy> {
    let traffic = prop::collection::vec(any_traffic(), 0..3);
    let rule = (any_match(), any_match(), traffic, any_verdict());
    let rule = rule.prop_map(|(from, to, traffic, verdict)| PolicyRule {
        name: String::new(),
        from,
        to,
        traffic,
        verdict,
    });
    (any_verdict(), prop::collection::vec(rule, 0..8))
        .prop_map(|(default, rules)| NetworkPolicy { default, rules })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn look_ups_decide_as_the_rules_one_by_one(
        policy in any_policy(),
        flows in prop::collection::vec(
            (any_address(), any_address(),
             prop::sample::select(vec![0_u8, 1, 6, 17, 58, 132, 255]),
             prop::sample::select(vec![0_u16, 79, 80, 81, 442, 443, 65_535])),
            1..64,
        ),
    ) {
        let classes = compile(&policy).unwrap();
        for (from, to, protocol, port) in flows {
            if from.is_ipv4() != to.is_ipv4() {
                continue;
            }
            let flow = FlowMatch { from, to, protocol, port };
            let (expected, _) = policy.decide(&flow);
            prop_assert_eq!(classes.verdict(&flow, policy.default), expected, "{:?}", flow);
        }
    }
}

/// Between different endpoints each, as the rules of a large network are.
pub(in crate::plane) fn thousand() -> NetworkPolicy {
    let rules = (0..1_000_u32).map(|at| {
        let five = |net: u32| {
            let nets = (0..5).map(move |one| {
                let address = net << 24 | (at * 5 + one);
                IpNet::from(IpAddr::from(address.to_be_bytes()))
            });
            AddressMatch::Of(nets.collect())
        };
        PolicyRule {
            name: format!("rule {at}"),
            from: five(10),
            to: if at % 100 == 99 {
                AddressMatch::Any
            } else {
                five(11)
            },
            traffic: vec![TrafficMatch::Tcp {
                first: u16::try_from(at % 50).unwrap(),
                last: 1_000,
            }],
            verdict: Verdict::Allow,
        }
    });
    NetworkPolicy {
        default: Verdict::Deny,
        rules: rules.collect(),
    }
}

#[test]
fn a_thousand_rules_are_few_look_ups() {
    let classes = compile(&thousand()).unwrap();
    // One for each rule with a destination, and ten for those without, at each destination and beyond.
    assert!(classes.pairs.len() < 20_000, "{}", classes.pairs.len());
    assert!(
        classes.decisions.len() < 5_000,
        "{}",
        classes.decisions.len()
    );
    assert!(classes.to[0].len() < 3_000, "{}", classes.to[0].len());
}

#[test]
fn more_pairs_than_there_may_be_are_refused() {
    let rule = |at: u32, half: bool| {
        let one = AddressMatch::Of([IpNet::from(IpAddr::from(at.to_be_bytes()))].into());
        let (from, to) = if half {
            (one, AddressMatch::Any)
        } else {
            (AddressMatch::Any, one)
        };
        PolicyRule {
            name: String::new(),
            from,
            to,
            traffic: vec![TrafficMatch::Icmp],
            verdict: Verdict::Allow,
        }
    };
    let policy = |count: u32| NetworkPolicy {
        default: Verdict::Deny,
        rules: (0..count).map(|at| rule(at * 2, at % 2 == 0)).collect(),
    };
    assert!(compile(&policy(100)).is_ok());
    let refused = compile(&policy(1_000));
    let max = PAIRS_MAX;
    assert_eq!(
        refused,
        Err(TooMany {
            what: "pairs of addresses",
            max
        })
    );
}
