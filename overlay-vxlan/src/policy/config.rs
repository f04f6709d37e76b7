//! Bounds and times of a policy.

use std::time::Duration;

use thiserror::Error;

/// The bounds of a [`Policy`](super::Policy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Flows at once. Default 65,536, about 11 MB when they are all there. Too low: under load new flows push out those that
    /// nobody has answered yet, and are refused if there are none. What is refused and pushed out is counted.
    pub flows_max: u32,
    /// Packets in fragments at once; the oldest are forgotten, and what still comes of them is dropped. Default 1,024.
    pub fragments_max: u32,
    /// Rules. Default 4,096.
    pub rules_max: usize,
    /// Addresses, subnets and kinds of traffic in all rules together. Default 65,536. With as many rules as may be, and no two
    /// addresses in the same rules, a policy takes up to 64 MB.
    pub matches_max: usize,
    /// For how long a flow without packets is known.
    pub timeouts: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flows_max: 65_536,
            fragments_max: 1_024,
            rules_max: 4_096,
            matches_max: 65_536,
            timeouts: Timeouts::default(),
        }
    }
}

/// For how long a flow without packets is known.
///
/// Packets count once in a [`GRANULARITY`](Self::GRANULARITY): a flow ends by so much earlier, at most. Too short: a quiet
/// flow breaks; too long: the table fills with what is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Nobody has answered yet. Default 60 s; every packet that the opener repeats begins it anew.
    pub unanswered: Duration,
    /// A TCP connection. Default 2 h 4 min (RFC 5382 §5): keep-alives come every two hours.
    pub tcp: Duration,
    /// A TCP connection that was reset, or that both ends have closed. Default 2 min.
    pub closing: Duration,
    /// UDP. Default 5 min (RFC 4787 §4.3).
    pub udp: Duration,
    /// An echo of ICMP. Default 60 s (RFC 5508 §3.2).
    pub icmp: Duration,
    /// Other protocols. Default 5 min.
    pub other: Duration,
    /// A flow that the rules allow no more. Default 5 min: so long its replies do not count as flows of their own.
    pub ended: Duration,
}

impl Timeouts {
    /// How exactly the time of a flow's last packet is known.
    pub const GRANULARITY: Duration = Duration::from_secs(1);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            unanswered: Duration::from_secs(60),
            tcp: Duration::from_secs(2 * 3_600 + 4 * 60),
            closing: Duration::from_secs(120),
            udp: Duration::from_secs(300),
            icmp: Duration::from_secs(60),
            other: Duration::from_secs(300),
            ended: Duration::from_secs(300),
        }
    }
}

/// Why rules were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// There are more rules than [`Config::rules_max`].
    #[error("expected at most {max} rules, found {found}")]
    Rules {
        /// How many there may be.
        max: usize,
        /// How many there are.
        found: usize,
    },
    /// There are more addresses and kinds of traffic than [`Config::matches_max`].
    #[error("expected at most {max} addresses and kinds of traffic in all rules, found {found}")]
    Matches {
        /// How many there may be.
        max: usize,
        /// How many there are.
        found: usize,
    },
}
