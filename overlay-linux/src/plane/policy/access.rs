//! Rules of networks before the balancer: what the programs of a namespace may open to virtual addresses.
//!
//! ```text
//! table inet overlay_access {
//!     map judged4 { type ipv4_addr : verdict; elements = { 10.0.1.100 : goto vip_10.0.1.100 } }
//!     chain output { type filter hook output priority mangle;        # still to the virtual address
//!         ct original ip daddr vmap @judged4; ct original ip6 daddr vmap @judged6 }
//!     chain input { type filter hook input priority filter; … }       # and what comes back
//!     chain vip_10.0.1.100 {
//!         ct original ip saddr 10.0.1.2 ct protocol tcp ct original proto-dst 80-81 accept
//!         goto denied }
//!     chain denied { counter drop }
//! }
//! ```
//!
//! Like all packets of such flows these are judged one by one, so that what is not allowed any more ends.

use std::{collections::BTreeMap, net::IpAddr};

use overlay_core::plane::{FlowMatch, NetworkPolicy, Verdict as Allowed};

use super::{
    classes::{TCP, TRAFFIC_LAST, UDP, at, traffic},
    counted,
};
use crate::{
    nftables::{
        Chain, Element, Expression, Found, Hook, Register, Rule, Set, SetKind, Table, Tracked,
        Verdict, octets,
    },
    plane::filter::digit,
};

/// What leads from an address of a namespace to a virtual one, under the rules of their network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) policy: &'a NetworkPolicy,
}

/// Compiles the table; none where there is nothing to judge.
pub(crate) fn access(all: &[Access<'_>]) -> Option<Table> {
    if all.is_empty() {
        return None;
    }
    let mut table = Table::default();
    let mut vips: BTreeMap<IpAddr, Vec<Rule>> = BTreeMap::new();
    for Access { from, to, policy } in all {
        let rules = vips.entry(*to).or_default();
        for (first, last) in allowed(policy, *from, *to) {
            rules.extend(grants(*from, first, last));
        }
    }
    let mut judged = [BTreeMap::new(), BTreeMap::new()];
    let goto = |chain: &str| Verdict::Goto(chain.to_owned());
    for (to, mut rules) in vips {
        let name = match to {
            IpAddr::V4(v4) => format!("vip_{v4}"),
            IpAddr::V6(v6) => format!("vip_{:032x}", v6.to_bits()),
        };
        let leads = Element::Verdict(goto(&name));
        judged[usize::from(to.is_ipv6())].insert(octets(to), leads);
        rules.push(Rule::new().ends(goto(DENIED)));
        table.chains.insert(name, Chain { hook: None, rules });
    }
    let denied = Chain {
        hook: None,
        rules: vec![counted()],
    };
    table.chains.insert(DENIED.to_owned(), denied);
    for (name, hook) in [
        ("output", Hook::output_before_nat()),
        ("input", Hook::input()),
    ] {
        let rules = [false, true].map(|v6| {
            let to = Expression::Tracked(Tracked::Destination { v6 }, Register::FIRST);
            let judged = Expression::Lookup(judged_name(v6), Found::Decides);
            Rule::new().load(to).load(judged)
        });
        let (hook, rules) = (Some(hook), rules.into());
        table.chains.insert(name.to_owned(), Chain { hook, rules });
    }
    for (v6, elements) in [false, true].into_iter().zip(judged) {
        let kind = SetKind::verdicts(v6);
        table.sets.insert(judged_name(v6), Set { kind, elements });
    }
    Some(table)
}

/// What may be opened, by [`at`]: from the first to the last one.
fn allowed(policy: &NetworkPolicy, from: IpAddr, to: IpAddr) -> Vec<(u128, u128)> {
    let mut edges = vec![0];
    for rule in &policy.rules {
        let spans = rule.traffic.iter();
        let spans = spans.filter_map(|one| traffic(*one, from.is_ipv6()));
        edges.extend(spans.flat_map(|(first, last)| [first, last + 1]));
    }
    edges.retain(|edge| *edge <= TRAFFIC_LAST);
    edges.sort_unstable();
    edges.dedup();
    let ends = edges.iter().skip(1).map(|edge| edge - 1);
    let spans = edges.iter().zip(ends.chain([TRAFFIC_LAST]));
    let mut allowed: Vec<(u128, u128)> = Vec::new();
    for (first, last) in spans {
        let [.., protocol, high, low] = first.to_be_bytes();
        let flow = FlowMatch {
            from,
            to,
            protocol,
            port: u16::from_be_bytes([high, low]),
        };
        if policy.decide(&flow).0 == Allowed::Deny {
            continue;
        }
        match allowed.last_mut() {
            Some((_, end)) if *end + 1 == *first => *end = last,
            _ => allowed.push((*first, last)),
        }
    }
    allowed
}

/// Rules that accept from the first to the last one: by ports of TCP and UDP, and other protocols whole.
fn grants(from: IpAddr, first: u128, last: u128) -> Vec<Rule> {
    let v6 = from.is_ipv6();
    let source = || {
        let source = Expression::Tracked(Tracked::Source { v6 }, Register::FIRST);
        Rule::new().load(source).compare(true, &octets(from))
    };
    if (first, last) == (0, TRAFFIC_LAST) {
        return vec![source().ends(Verdict::Accept)];
    }
    let protocol = |first: u8, last: u8| {
        let protocol = Expression::Tracked(Tracked::Protocol, Register::FIRST);
        source().load(protocol).within(&[first], &[last])
    };
    let mut rules = Vec::new();
    for number in [TCP, UDP] {
        let (low, high) = (first.max(at(number, 0)), last.min(at(number, u16::MAX)));
        if low <= high {
            let port = |number: u128| {
                let [.., high, low] = number.to_be_bytes();
                [high, low]
            };
            let rule = protocol(number, number);
            let rule = rule.load(Expression::Tracked(Tracked::Port, Register::FIRST));
            rules.push(rule.within(&port(low), &port(high)));
        }
    }
    for (one, other) in [(0, TCP - 1), (TCP + 1, UDP - 1), (UDP + 1, u8::MAX)] {
        // A protocol is there if all of its ports are.
        let (low, high) = (first.max(at(one, 0)), last.min(at(other, u16::MAX)));
        if low <= high {
            let number = |number: u128| {
                let [.., protocol, _, _] = number.to_be_bytes();
                protocol
            };
            rules.push(protocol(number(low), number(high)));
        }
    }
    let rules = rules.into_iter().map(|rule| rule.ends(Verdict::Accept));
    rules.collect()
}

fn judged_name(v6: bool) -> String {
    format!("judged{}", digit(v6))
}

/// The table's name.
pub(crate) const ACCESS: &str = "overlay_access";
const DENIED: &str = "denied";

#[cfg(test)]
mod tests {
    use overlay_core::plane::{PolicyRule, TrafficMatch};

    use super::*;

    #[test]
    fn what_is_allowed_is_what_the_rules_say() {
        let tcp = |first, last| TrafficMatch::Tcp { first, last };
        let rule = |traffic, verdict| PolicyRule {
            name: String::new(),
            from: overlay_core::plane::AddressMatch::Any,
            to: overlay_core::plane::AddressMatch::Any,
            traffic,
            verdict,
        };
        let rules = vec![
            rule(vec![tcp(81, 90)], Allowed::Deny),
            rule(vec![tcp(80, 100), TrafficMatch::Icmp], Allowed::Allow),
            rule(vec![TrafficMatch::Protocol(58)], Allowed::Deny),
        ];
        let [from, to] = [1, 100].map(|last| IpAddr::from([10, 0, 1, last]));
        for default in [Allowed::Deny, Allowed::Allow] {
            let policy = NetworkPolicy {
                default,
                rules: rules.clone(),
            };
            let spans = allowed(&policy, from, to);
            for protocol in 0..=u8::MAX {
                for port in [0, 79, 80, 81, 90, 91, 100, 101, u16::MAX] {
                    let number = at(protocol, port);
                    let mut within = spans.iter();
                    let is_within = within.any(|(one, other)| (one..=other).contains(&&number));
                    let flow = FlowMatch {
                        from,
                        to,
                        protocol,
                        port,
                    };
                    let expected = policy.decide(&flow).0 == Allowed::Allow;
                    assert_eq!(is_within, expected, "{flow:?} {default:?}");
                }
            }
        }
        assert_eq!(access(&[]), None);
    }
}
