//! Rules in a form in which the first that matches is found without looking at each.
//!
//! For each part of a flow (source, destination, traffic) there is the set of rules that match it, as bits (Lakshman and
//! Stiliadis, SIGCOMM'98 §4): the first bit that is in all three is the rule.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::plane::{
    AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, TrafficMatch, Verdict,
};

use super::{
    config::{Config, PolicyError},
    intervals::{Intervals, Range, Sets, SetsBuilder},
};
use crate::wire::ipv4::Protocol;

#[derive(Clone, Debug)]
pub(super) struct Compiled {
    default: Verdict,
    verdicts: Vec<Verdict>,
    sets: Sets,
    from: Addresses,
    to: Addresses,
    tcp: Intervals<u16>,
    udp: Intervals<u16>,
    /// All other protocols, of IPv4 and of IPv6.
    protocols: [Intervals<u8>; 2],
}

impl Compiled {
    pub(super) fn new(policy: &NetworkPolicy, config: &Config) -> Result<Self, PolicyError> {
        let rules = &policy.rules;
        check(rules, config)?;
        let mut sets = SetsBuilder::new(rules.len().div_ceil(64));
        let ports = |protocol| ranges(rules, |traffic| ports(traffic, protocol));
        let protocols = [Protocol::ICMP, Protocol::ICMPV6]
            .map(|icmp| ranges(rules, |traffic| protocol(traffic, icmp)));
        Ok(Self {
            default: policy.default,
            verdicts: rules.iter().map(|rule| rule.verdict).collect(),
            from: Addresses::new(rules, |rule| &rule.from, &mut sets),
            to: Addresses::new(rules, |rule| &rule.to, &mut sets),
            tcp: Intervals::new(&ports(Protocol::TCP), &mut sets),
            udp: Intervals::new(&ports(Protocol::UDP), &mut sets),
            protocols: protocols.map(|ranges| Intervals::new(&ranges, &mut sets)),
            sets: sets.done(),
        })
    }

    /// As [`NetworkPolicy::decide`] has it.
    pub(super) fn decide(&self, flow: &FlowMatch) -> (Verdict, Option<usize>) {
        let (from, to) = (self.from.get(flow.from), self.to.get(flow.to));
        let traffic = match Protocol(flow.protocol) {
            Protocol::TCP => self.tcp.get(flow.port),
            Protocol::UDP => self.udp.get(flow.port),
            _ => self.protocols[usize::from(flow.from.is_ipv6())].get(flow.protocol),
        };
        let [from, to, traffic] = [from, to, traffic].map(|set| self.sets.get(set));
        for (at, ((from, to), traffic)) in from.iter().zip(to).zip(traffic).enumerate() {
            let all = from & to & traffic;
            if all != 0 {
                let rule = at * 64 + all.trailing_zeros() as usize;
                return (self.verdicts[rule], Some(rule));
            }
        }
        (self.default, None)
    }

    pub(super) const fn default(&self) -> Verdict {
        self.default
    }
}

fn check(rules: &[PolicyRule], config: &Config) -> Result<(), PolicyError> {
    let (max, found) = (config.rules_max, rules.len());
    if found > max {
        return Err(PolicyError::Rules { max, found });
    }
    let count = |matched: &AddressMatch| match matched {
        AddressMatch::Any => 1,
        AddressMatch::Of(nets) => nets.len(),
    };
    let each = |rule: &PolicyRule| count(&rule.from) + count(&rule.to) + rule.traffic.len();
    let (max, found) = (config.matches_max, rules.iter().map(each).sum());
    if found > max {
        return Err(PolicyError::Matches { max, found });
    }
    Ok(())
}

/// The ranges in which the traffic of rules lies.
fn ranges<T>(
    rules: &[PolicyRule],
    range: impl Fn(&TrafficMatch) -> Option<(T, T)>,
) -> Vec<Range<T>> {
    let all = rules.iter().enumerate().flat_map(|(at, rule)| {
        let ranges = rule.traffic.iter().filter_map(&range);
        ranges.map(move |(first, last)| (first, last, at))
    });
    all.collect()
}

fn ports(traffic: &TrafficMatch, protocol: Protocol) -> Option<(u16, u16)> {
    match *traffic {
        TrafficMatch::Any => Some((0, u16::MAX)),
        TrafficMatch::Tcp { first, last } => (protocol == Protocol::TCP).then_some((first, last)),
        TrafficMatch::Udp { first, last } => (protocol == Protocol::UDP).then_some((first, last)),
        TrafficMatch::Icmp => None,
        TrafficMatch::Protocol(number) => (number == protocol.0).then_some((0, u16::MAX)),
    }
}

fn protocol(traffic: &TrafficMatch, icmp: Protocol) -> Option<(u8, u8)> {
    match *traffic {
        TrafficMatch::Any => Some((0, u8::MAX)),
        TrafficMatch::Tcp { .. } | TrafficMatch::Udp { .. } => None,
        TrafficMatch::Icmp => Some((icmp.0, icmp.0)),
        TrafficMatch::Protocol(number) => Some((number, number)),
    }
}

/// One end of the flows.
#[derive(Clone, Debug)]
struct Addresses {
    v4: Intervals<u32>,
    v6: Intervals<u128>,
}

impl Addresses {
    fn new(
        rules: &[PolicyRule],
        end: impl Fn(&PolicyRule) -> &AddressMatch,
        sets: &mut SetsBuilder,
    ) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (at, rule) in rules.iter().enumerate() {
            match end(rule) {
                AddressMatch::Any => {
                    v4.push((0, u32::MAX, at));
                    v6.push((0, u128::MAX, at));
                }
                AddressMatch::Of(nets) => {
                    for net in nets {
                        match net {
                            IpNet::V4(net) => {
                                v4.push((net.network().to_bits(), net.broadcast().to_bits(), at));
                            }
                            IpNet::V6(net) => {
                                v6.push((net.network().to_bits(), net.broadcast().to_bits(), at));
                            }
                        }
                    }
                }
            }
        }
        Self {
            v4: Intervals::new(&v4, sets),
            v6: Intervals::new(&v6, sets),
        }
    }

    fn get(&self, address: IpAddr) -> u32 {
        match address {
            IpAddr::V4(address) => self.v4.get(address.to_bits()),
            IpAddr::V6(address) => self.v6.get(address.to_bits()),
        }
    }
}
