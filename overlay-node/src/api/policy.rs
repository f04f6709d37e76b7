//! Who on a network may reach whom, as a client says it and as it is shown.
//!
//! Rules are about what travels on the network. What comes by a published port, and what leaves by the way out, does not.

use std::{fmt, net::IpAddr, str::FromStr};

use overlay_core::NetworkId;
pub use overlay_core::plane::{TrafficMatch, Verdict};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One rule of a network, about who opens a flow: replies pass with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSpec {
    /// Its name, unique on its network: letters, digits, `_`, `-` and `.`, at most 63 octets.
    pub name: String,
    /// Who opens the flow.
    pub from: Selector,
    /// To whom.
    pub to: Selector,
    /// What is carried, any of these; at least one.
    pub traffic: Vec<Traffic>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// Who is meant: whoever fits now or later. One that nobody fits means nobody.
///
/// Written as `any`, `service:web`, `label:tier=front` and `endpoint:db`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// Everybody, groups and broadcast included.
    Any,
    /// The tasks of the service of that name, and its virtual addresses.
    Service(String),
    /// The tasks and the virtual addresses of all services with that label. Endpoints that stand alone have no labels.
    Label {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The endpoint of that name, in whatever case. The name is what the endpoint's own node asked for.
    Endpoint(String),
}

/// What a packet carries, written as `any`, `tcp`, `tcp/80`, `udp/8000-8100`, `icmp` or `protocol/47`.
///
/// `icmp` stands for ICMPv6 between addresses of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Traffic(pub TrafficMatch);

/// A text is no [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected any, service:NAME, label:KEY=VALUE or endpoint:NAME, found `{found}`")]
pub struct SelectorError {
    /// The text.
    pub found: String,
}

/// A text is no [`Traffic`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "expected any, tcp, udp, tcp/PORT, udp/FIRST-LAST, icmp or protocol/NUMBER, found `{found}`"
)]
pub struct TrafficError {
    /// The text.
    pub found: String,
}

/// What to change of a network's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyChange {
    /// Adds a rule.
    Add {
        /// The rule.
        rule: RuleSpec,
        /// Before the rule of this name; behind all others if `None`.
        before: Option<String>,
        /// Put it in the place of the one of its name, if there is one, or before that which `before` names; otherwise a
        /// name that is taken is refused.
        replace: bool,
    },
    /// Removes a rule.
    Remove {
        /// Its name.
        name: String,
    },
    /// Says what becomes of flows that no rule matches.
    Default {
        /// What becomes of them.
        verdict: Verdict,
    },
}

/// The policy of a network, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// The network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// What becomes of flows that no rule matches.
    pub default: Verdict,
    /// The rules, in order: the first that matches decides.
    pub rules: Vec<RuleInfo>,
    /// Whether they mean more addresses than nodes take: then nothing passes on the network.
    pub too_large: bool,
}

/// A rule, and whom it means now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// The rule.
    pub rule: RuleSpec,
    /// How many addresses may open such flows now; `None`: all.
    pub from_addresses: Option<u64>,
    /// How many addresses they may lead to now; `None`: all.
    pub to_addresses: Option<u64>,
}

/// Which rule decides if somebody opens a flow to somebody?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyQuestion {
    /// On this network: identity or name; on each that has both if `None`.
    pub network: Option<String>,
    /// Who opens it: the name of an endpoint or of a service, or an address.
    pub from: String,
    /// To whom, as `from`.
    pub to: String,
    /// The protocol of the IP header: 6 is TCP; with 1 it is ICMPv6 between addresses of IPv6.
    pub protocol: u8,
    /// The destination port of TCP and UDP.
    pub port: u16,
}

/// What is decided of pairs of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyAnswer {
    /// The name of the network.
    pub network: String,
    /// What becomes of the flow.
    pub verdict: Verdict,
    /// The number of the rule that decides, from 1, and its name; `None`: no rule matches, and the default decides.
    pub rule: Option<(u64, String)>,
    /// Who opens the flow and to whom: all pairs of which this is true, among the first [`PAIRS_MAX`].
    pub pairs: Vec<(IpAddr, IpAddr)>,
    /// How many pairs of the network were left out, beyond the first [`PAIRS_MAX`].
    pub left_out: u64,
}

/// Of how many pairs of addresses a [`PolicyQuestion`] is answered on each network.
pub const PAIRS_MAX: usize = 256;

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Service(name) => write!(f, "service:{name}"),
            Self::Label { key, value } => write!(f, "label:{key}={value}"),
            Self::Endpoint(name) => write!(f, "endpoint:{name}"),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let found = || SelectorError {
            found: text.to_owned(),
        };
        if text == "any" {
            return Ok(Self::Any);
        }
        let (kind, rest) = text.split_once(':').ok_or_else(found)?;
        match (kind, rest.split_once('=')) {
            ("service", _) if !rest.is_empty() => Ok(Self::Service(rest.to_owned())),
            ("endpoint", _) if !rest.is_empty() => Ok(Self::Endpoint(rest.to_owned())),
            ("label", Some((key, value))) if !key.is_empty() => Ok(Self::Label {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(found()),
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = |name, first, last| match (first, last) {
            (0, u16::MAX) => f.write_str(name),
            (first, last) if first == last => write!(f, "{name}/{first}"),
            (first, last) => write!(f, "{name}/{first}-{last}"),
        };
        match self.0 {
            TrafficMatch::Any => f.write_str("any"),
            TrafficMatch::Tcp { first, last } => ports("tcp", first, last),
            TrafficMatch::Udp { first, last } => ports("udp", first, last),
            TrafficMatch::Icmp => f.write_str("icmp"),
            TrafficMatch::Protocol(number) => write!(f, "protocol/{number}"),
        }
    }
}

impl FromStr for Traffic {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let parts = text.split_once('/');
        let parsed = match parts {
            None => match text {
                "any" => Some(TrafficMatch::Any),
                "icmp" => Some(TrafficMatch::Icmp),
                "tcp" => Some(of_ports(true, (0, u16::MAX))),
                "udp" => Some(of_ports(false, (0, u16::MAX))),
                _ => None,
            },
            Some(("tcp", range)) => ports(range).map(|range| of_ports(true, range)),
            Some(("udp", range)) => ports(range).map(|range| of_ports(false, range)),
            Some(("protocol", number)) => number.parse().ok().map(TrafficMatch::Protocol),
            Some(_) => None,
        };
        let found = || TrafficError {
            found: text.to_owned(),
        };
        parsed.map(Self).ok_or_else(found)
    }
}

fn of_ports(tcp: bool, (first, last): (u16, u16)) -> TrafficMatch {
    if tcp {
        TrafficMatch::Tcp { first, last }
    } else {
        TrafficMatch::Udp { first, last }
    }
}

fn ports(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range: (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "any",
            "service:web",
            "label:tier=front",
            "label:tier=",
            "label:url=a=b:c",
            "endpoint:db.1",
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        for text in [
            "any",
            "tcp",
            "udp",
            "tcp/0",
            "tcp/65535",
            "udp/1-65535",
            "tcp/8000-8100",
            "icmp",
            "protocol/255",
        ] {
            assert_eq!(text.parse::<Traffic>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_is_refused_with_what_was_found() {
        for text in [
            "", "web", "Any", "service:", "label:a", "label:=a", "net:x", ":",
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert_eq!(error.found, text);
        }
        for text in [
            "",
            "sctp/1",
            "tcp/",
            "tcp/65536",
            "tcp/2-1",
            "tcp/-1",
            "tcp/1-2-3",
            "protocol/256",
            "icmp/8",
            "TCP/80",
        ] {
            let error = text.parse::<Traffic>().unwrap_err();
            assert_eq!(error.found, text);
        }
    }
}
