//! Rules as look-ups: as many for a thousand rules as for one.
//!
//! Addresses that the same rules name are of one class, and so is what the same rules carry. A pair of classes, who opens and
//! to whom, has a list: those rules that name both, in order, and of them only what they carry and their verdict. Most pairs
//! of different rules have the same few lists. A list and a class of traffic have a verdict; nothing is kept of those that
//! have the default.
//!
//! ```text
//! from 10.0.1.2 ── class 4 ┐
//!                          ├ pair (7, 4) ── list 2 ┐
//! to 10.0.1.9 ──── class 7 ┘                       ├ decision (2, 1) ── accept
//! TCP to 80 ───────────────────────────── class 1 ─┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_core::plane::{AddressMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict};
use thiserror::Error;

/// The rules of a network, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes {
    /// Classes of those to whom flows are opened, of IPv4 and IPv6.
    pub(super) to: [Vec<Span>; 2],
    /// Classes of those who open them.
    pub(super) from: [Vec<Span>; 2],
    /// Classes of what they carry, the protocol's number before that of the port.
    pub(super) traffic: [Vec<Span>; 2],
    /// Lists by classes: to whom, and who.
    pub(super) pairs: BTreeMap<(u32, u32), u32>,
    /// Verdicts that are not the default's, by lists and classes of traffic.
    pub(super) decisions: BTreeMap<(u32, u32), Verdict>,
}

/// Numbers from the first to the last one, and their class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u128,
    pub(super) last: u128,
    pub(super) class: u32,
}

/// Rules that are too many to look up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "its policy takes more than {max} {what}: name fewer addresses one by one, or take the user data path"
)]
pub struct TooMany {
    /// What there is too much of.
    pub what: &'static str,
    /// How many there may be.
    pub max: usize,
}

/// Compiles rules.
pub(super) fn compile(policy: &NetworkPolicy) -> Result<Classes, TooMany> {
    let rules: Vec<&PolicyRule> = policy.rules.iter().collect();
    let (mut to, mut from) = (Names::default(), Names::default());
    let mut classes = Classes::default();
    for v6 in [false, true] {
        let spans = |part: fn(&PolicyRule) -> &AddressMatch| {
            let named = rules.iter().enumerate();
            let named = named.flat_map(move |(at, rule)| addresses(part(rule), v6, at));
            named.collect::<Vec<_>>()
        };
        let max = if v6 { u128::MAX } else { u32::MAX.into() };
        classes.to[usize::from(v6)] = sweep(&spans(|rule| &rule.to), max, &mut to)?;
        classes.from[usize::from(v6)] = sweep(&spans(|rule| &rule.from), max, &mut from)?;
    }
    let carried = carried(&rules, &mut classes)?;
    let mut lists = Names::default();
    for v6 in [0, 1] {
        let mut openers: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        for class in present(&classes.from[v6]) {
            for rule in from.of(class) {
                openers.entry(*rule).or_default().insert(class);
            }
        }
        for class in present(&classes.to[v6]) {
            let named = to.of(class);
            let met = named.iter().filter_map(|rule| openers.get(rule)).flatten();
            for opener in met.copied().collect::<BTreeSet<u32>>() {
                let others = from.of(opener);
                let both = named
                    .iter()
                    .filter(|rule| others.binary_search(rule).is_ok());
                let both =
                    both.filter_map(|rule| Some((carried.by_rule.get(*rule)?, rules.get(*rule)?)));
                let list = list(both, policy.default);
                if !list.is_empty() {
                    classes.pairs.insert((class, opener), lists.number(list));
                    bound(classes.pairs.len(), "pairs of addresses", PAIRS_MAX)?;
                }
            }
        }
    }
    decide(&mut classes, &lists, &carried.classes, policy.default)?;
    Ok(classes)
}

/// What rules carry, each combination of it under a number.
struct Carried {
    /// The number of each rule's.
    by_rule: Vec<usize>,
    /// The combinations that each class of traffic is in.
    classes: Names<Vec<usize>>,
}

fn carried(rules: &[&PolicyRule], classes: &mut Classes) -> Result<Carried, TooMany> {
    let mut combinations: Names<Vec<TrafficMatch>> = Names::default();
    let by_rule = rules.iter().map(|rule| {
        let mut all = rule.traffic.clone();
        all.sort_unstable();
        all.dedup();
        index(combinations.number(all))
    });
    let by_rule: Vec<usize> = by_rule.collect();
    let mut named = Names::default();
    for v6 in [false, true] {
        let spans = combinations.iter().flat_map(|(all, at)| {
            let at = index(at);
            all.iter().filter_map(move |one| {
                let (first, last) = traffic(*one, v6)?;
                Some((first, last, at))
            })
        });
        let spans: Vec<_> = spans.collect();
        classes.traffic[usize::from(v6)] = sweep(&spans, TRAFFIC_LAST, &mut named)?;
    }
    Ok(Carried {
        by_rule,
        classes: named,
    })
}

/// What decides between two classes: combinations of traffic and verdicts, in order, without what cannot have a say.
fn list<'a>(
    rules: impl Iterator<Item = (&'a usize, &'a &'a PolicyRule)>,
    default: Verdict,
) -> Vec<(usize, bool)> {
    let (mut list, mut known) = (Vec::new(), BTreeSet::new());
    for (carried, rule) in rules {
        if known.insert(*carried) {
            list.push((*carried, rule.verdict == Verdict::Allow));
        }
        if rule.traffic.contains(&TrafficMatch::Any) {
            break;
        }
    }
    let silent = |entry: &(usize, bool)| entry.1 == (default == Verdict::Allow);
    while list.last().is_some_and(silent) {
        list.pop();
    }
    list
}

fn decide(
    classes: &mut Classes,
    lists: &Names<Vec<(usize, bool)>>,
    traffic: &Names<Vec<usize>>,
    default: Verdict,
) -> Result<(), TooMany> {
    let mut by_combination: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (combinations, class) in traffic.iter() {
        for one in combinations {
            by_combination.entry(*one).or_default().push(class);
        }
    }
    for (list, number) in lists.iter() {
        let mut known = BTreeSet::new();
        for (combination, allows) in list {
            let verdict = if *allows {
                Verdict::Allow
            } else {
                Verdict::Deny
            };
            for class in by_combination.get(combination).into_iter().flatten() {
                if known.insert(*class) && verdict != default {
                    classes.decisions.insert((number, *class), verdict);
                    bound(classes.decisions.len(), "verdicts", DECISIONS_MAX)?;
                }
            }
        }
    }
    Ok(())
}

/// Cuts overlapping ranges of rules into ranges that the same rules have.
fn sweep(
    spans: &[(u128, u128, usize)],
    max: u128,
    names: &mut Names<Vec<usize>>,
) -> Result<Vec<Span>, TooMany> {
    bound(spans.len(), "ranges", RANGES_MAX)?;
    let mut edges: BTreeMap<u128, Vec<(usize, bool)>> = BTreeMap::new();
    for (first, last, rule) in spans {
        edges.entry(*first).or_default().push((*rule, true));
        if *last < max {
            edges.entry(last + 1).or_default().push((*rule, false));
        }
    }
    let mut open: BTreeMap<usize, usize> = BTreeMap::new();
    let mut swept: Vec<Span> = Vec::new();
    let mut begin = 0;
    let mut close = |first: u128, last: u128, open: &BTreeMap<usize, usize>| {
        if open.is_empty() {
            return;
        }
        let class = names.number(open.keys().copied().collect());
        match swept.last_mut() {
            Some(before) if before.class == class && before.last.checked_add(1) == Some(first) => {
                before.last = last;
            }
            _ => swept.push(Span { first, last, class }),
        }
    };
    for (at, changes) in edges {
        if let Some(last) = at.checked_sub(1) {
            close(begin, last, &open);
        }
        begin = at;
        for (rule, opens) in changes {
            let count = open.entry(rule).or_default();
            *count = if opens {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
        }
        open.retain(|_, count| *count > 0);
    }
    close(begin, max, &open);
    Ok(swept)
}

/// The ranges of addresses that a rule names.
fn addresses(matched: &AddressMatch, v6: bool, rule: usize) -> Vec<(u128, u128, usize)> {
    match matched {
        AddressMatch::Any => {
            let last = if v6 { u128::MAX } else { u32::MAX.into() };
            vec![(0, last, rule)]
        }
        AddressMatch::Of(nets) => {
            let nets = nets.iter().filter(|net| net.addr().is_ipv6() == v6);
            let ends = nets.map(|net| match net {
                IpNet::V4(net) => (number(net.network().into()), number(net.broadcast().into())),
                IpNet::V6(net) => (number(net.network().into()), number(net.broadcast().into())),
            });
            ends.map(|(first, last)| (first, last, rule)).collect()
        }
    }
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// What is carried as numbers, the protocol's before that of the port; none if there is nothing.
pub(super) fn traffic(carried: TrafficMatch, v6: bool) -> Option<(u128, u128)> {
    let of = |protocol: u8, first: u16, last: u16| {
        (first <= last).then(|| (at(protocol, first), at(protocol, last)))
    };
    match carried {
        TrafficMatch::Any => Some((0, TRAFFIC_LAST)),
        TrafficMatch::Tcp { first, last } => of(TCP, first, last),
        TrafficMatch::Udp { first, last } => of(UDP, first, last),
        TrafficMatch::Icmp => of(if v6 { ICMPV6 } else { ICMP }, 0, u16::MAX),
        TrafficMatch::Protocol(protocol) => of(protocol, 0, u16::MAX),
    }
}

/// A protocol and a port as one number.
pub(super) fn at(protocol: u8, port: u16) -> u128 {
    u128::from(protocol) << 16 | u128::from(port)
}

fn present(spans: &[Span]) -> BTreeSet<u32> {
    spans.iter().map(|span| span.class).collect()
}

fn bound(count: usize, what: &'static str, max: usize) -> Result<(), TooMany> {
    if count > max {
        return Err(TooMany { what, max });
    }
    Ok(())
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Numbers for what is different, from 0, in the order in which it came.
#[derive(Debug)]
struct Names<T> {
    numbers: BTreeMap<T, u32>,
    all: Vec<T>,
}

impl<T: Clone + Ord> Names<T> {
    fn number(&mut self, one: T) -> u32 {
        if let Some(number) = self.numbers.get(&one) {
            return *number;
        }
        // Bounded long before by what it is made of.
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(one.clone());
        self.numbers.insert(one, number);
        number
    }

    fn iter(&self) -> impl Iterator<Item = (&T, u32)> {
        self.numbers.iter().map(|(one, number)| (one, *number))
    }
}

impl<T> Names<Vec<T>> {
    fn of(&self, number: u32) -> &[T] {
        self.all.get(index(number)).map_or(&[], Vec::as_slice)
    }
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self {
            numbers: BTreeMap::new(),
            all: Vec::new(),
        }
    }
}

pub(super) const TRAFFIC_LAST: u128 = 0xff_ffff;
const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Ranges of addresses that rules name in one place, of one family. In the kernel one takes some 200 octets.
const RANGES_MAX: usize = 65_536;
/// Pairs of classes that any rule names. In the kernel one takes some 100 octets.
const PAIRS_MAX: usize = 131_072;
/// Verdicts, as many as pairs.
const DECISIONS_MAX: usize = 131_072;

#[cfg(test)]
mod tests;
