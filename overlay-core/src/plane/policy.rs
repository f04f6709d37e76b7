//! Who on a network may reach whom.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The rules of a network: of those that match who opens a flow and to what, the first decides; else the default does.
///
/// A rule is about who opens a flow: replies, and errors about it, pass with it. The default value is open: everybody
/// reaches everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// What becomes of a flow that no rule matches.
    pub default: Verdict,
    /// The rules, in order.
    pub rules: Vec<PolicyRule>,
}

/// Whether a flow may be.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may.
    #[default]
    Allow,
    /// It is dropped, and the sender is told nothing.
    Deny,
}

/// One rule. It matches if all of its parts do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// What people call it; nothing depends on it.
    pub name: String,
    /// Who opens the flow.
    pub from: AddressMatch,
    /// To whom: endpoints, virtual addresses, groups.
    pub to: AddressMatch,
    /// What is carried, any of these; nothing matches if there is none.
    pub traffic: Vec<TrafficMatch>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressMatch {
    /// Every address of both families, those of groups and broadcast included.
    Any,
    /// These, and nothing if there are none: a service without endpoints is not everybody.
    Of(BTreeSet<IpNet>),
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficMatch {
    /// Everything.
    Any,
    /// TCP to one of these ports; to none if the last is less than the first.
    Tcp {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// UDP to one of these ports; to none if the last is less than the first.
    Udp {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
    /// ICMP between addresses of IPv4, ICMPv6 between those of IPv6.
    Icmp,
    /// Another protocol, by its number in the IP header.
    Protocol(u8),
}

impl NetworkPolicy {
    /// Returns whether everybody reaches everybody, without a rule to look at.
    pub fn is_open(&self) -> bool {
        self.default == Verdict::Allow && self.rules.is_empty()
    }

    /// Returns what becomes of a flow, and which rule says so. It looks at one rule after the other.
    pub fn decide(&self, flow: &FlowMatch) -> (Verdict, Option<usize>) {
        let found = self.rules.iter().position(|rule| rule.matches(flow));
        match found {
            Some(at) => (self.rules[at].verdict, Some(at)),
            None => (self.default, None),
        }
    }
}

/// What rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowMatch {
    /// Who opens the flow.
    pub from: IpAddr,
    /// To whom, of the same family.
    pub to: IpAddr,
    /// The protocol of the IP header, behind extension headers: 6 is TCP.
    pub protocol: u8,
    /// The destination port of TCP and UDP; nobody looks at it of others.
    pub port: u16,
}

impl PolicyRule {
    /// Returns whether the rule is about such a flow.
    pub fn matches(&self, flow: &FlowMatch) -> bool {
        self.from.contains(flow.from)
            && self.to.contains(flow.to)
            && self.traffic.iter().any(|traffic| traffic.matches(flow))
    }
}

impl AddressMatch {
    /// Returns whether `address` is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Of(nets) => nets.iter().any(|net| net.contains(&address)),
        }
    }
}

impl FromIterator<IpNet> for AddressMatch {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        Self::Of(nets.into_iter().collect())
    }
}

impl FromIterator<IpAddr> for AddressMatch {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(IpNet::from).collect()
    }
}

impl TrafficMatch {
    /// Returns whether a flow is such traffic.
    pub fn matches(&self, flow: &FlowMatch) -> bool {
        match *self {
            Self::Any => true,
            Self::Tcp { first, last } => {
                flow.protocol == TCP && (first..=last).contains(&flow.port)
            }
            Self::Udp { first, last } => {
                flow.protocol == UDP && (first..=last).contains(&flow.port)
            }
            Self::Icmp => {
                let icmp = if flow.from.is_ipv4() { ICMP } else { ICMPV6 };
                flow.protocol == icmp
            }
            Self::Protocol(number) => flow.protocol == number,
        }
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(from: &str, to: &str, protocol: u8, port: u16) -> FlowMatch {
        let [from, to] = [from, to].map(|address| address.parse().unwrap());
        FlowMatch {
            from,
            to,
            protocol,
            port,
        }
    }

    fn rule(from: &[&str], traffic: TrafficMatch, verdict: Verdict) -> PolicyRule {
        let nets = from.iter().map(|net| net.parse::<IpNet>().unwrap());
        PolicyRule {
            name: String::new(),
            from: nets.collect(),
            to: AddressMatch::Any,
            traffic: vec![traffic],
            verdict,
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_and_else_the_default() {
        let http = TrafficMatch::Tcp {
            first: 80,
            last: 81,
        };
        let mut policy = NetworkPolicy {
            default: Verdict::Deny,
            rules: vec![
                rule(&["10.0.1.3/32"], http, Verdict::Deny),
                rule(&["10.0.1.0/24", "fd00::/64"], http, Verdict::Allow),
            ],
        };
        for (from, protocol, port, expected) in [
            ("10.0.1.3", 6, 80, (Verdict::Deny, Some(0))),
            ("10.0.1.2", 6, 80, (Verdict::Allow, Some(1))),
            ("10.0.1.2", 6, 81, (Verdict::Allow, Some(1))),
            ("10.0.1.2", 6, 79, (Verdict::Deny, None)),
            ("10.0.1.2", 6, 82, (Verdict::Deny, None)),
            ("10.0.1.2", 17, 80, (Verdict::Deny, None)),
            ("10.0.2.2", 6, 80, (Verdict::Deny, None)),
        ] {
            let flow = flow(from, "10.0.1.9", protocol, port);
            assert_eq!(policy.decide(&flow), expected, "{flow:?}");
        }
        let six = flow("fd00::1", "fd00::2", 6, 80);
        assert_eq!(policy.decide(&six), (Verdict::Allow, Some(1)));
        policy.default = Verdict::Allow;
        let other = flow("10.0.2.2", "10.0.1.9", 6, 80);
        assert_eq!(policy.decide(&other), (Verdict::Allow, None));
        assert!(!policy.is_open() && NetworkPolicy::default().is_open());
    }

    #[test]
    fn nobody_and_nothing_are_not_everybody_and_everything() {
        let mut nobody = rule(&[], TrafficMatch::Any, Verdict::Allow);
        let flow = flow("10.0.1.2", "10.0.1.3", 6, 80);
        assert!(!nobody.matches(&flow));
        nobody.from = AddressMatch::Any;
        assert!(nobody.matches(&flow));
        nobody.traffic.clear();
        assert!(!nobody.matches(&flow));
    }

    #[test]
    fn icmp_is_that_of_the_family() {
        for (from, to, protocol, expected) in [
            ("10.0.1.2", "10.0.1.3", 1, true),
            ("10.0.1.2", "10.0.1.3", 58, false),
            ("fd00::1", "fd00::2", 58, true),
            ("fd00::1", "fd00::2", 1, false),
        ] {
            let flow = flow(from, to, protocol, 0);
            assert_eq!(TrafficMatch::Icmp.matches(&flow), expected, "{flow:?}");
        }
        let sctp = flow("10.0.1.2", "10.0.1.3", 132, 0);
        assert!(TrafficMatch::Protocol(132).matches(&sctp));
        assert!(!TrafficMatch::Protocol(133).matches(&sctp));
    }
}
