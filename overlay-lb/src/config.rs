//! Bounds and time-outs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a balancer is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Flows that are tracked at once; 262,144 by default, at some 100 octets each, 140 of IPv6. When it is reached, a new flow takes the
    /// place of one that has ended, else of one still opening, of an idle datagram flow, and last of the established
    /// one that was idle for longest, which is reset. Too low breaks idle connections.
    pub flows_max: u32,
    /// Clients whose backend is remembered for affinity; 65,536 by default. Beyond, the one that came last the longest
    /// ago is forgotten.
    pub affinities_max: u32,
    /// Virtual addresses; 16,384 by default.
    pub vips_max: u32,
    /// Backends of one virtual address; 4,096 by default, 65,535 at most.
    pub backends_max: u16,
    /// Resets that wait to be polled; 65,536 by default. Beyond, a connection is dropped without one: its next segment
    /// is answered by a backend that does not know it, which comes to the same, later.
    pub resets_max: u32,
    /// Fragmented packets whose first fragment's way is remembered for the others; 1,024 by default, at some 100 octets
    /// each. Beyond, the oldest is forgotten, and what is left of its packet is dropped.
    pub fragments_max: u32,
    /// Fragments to virtual addresses that are held because their first one has not come; 0 by default: they are dropped.
    /// Beyond, they are dropped, too. Whoever raises it takes [`Output::Released`](crate::Output::Released); networks that
    /// reorder need some tens.
    pub fragments_held_max: u16,
    /// Octets of all frames that are held; 262,144 by default.
    pub fragments_held_octets_max: u32,
    /// Connections whose first segment is kept until a backend answers, so that one that is refused, or that nobody answers
    /// when the client asks again, goes to another backend, three at the most; 0 by default: they go to one. At some 300
    /// octets each. Whoever raises it takes [`Output::Retried`](crate::Output::Retried).
    pub openings_max: u16,
    /// Entries of a Maglev table: a prime, at least a hundred times the number of backends for shares right to one
    /// percent. 65,537 by default, which takes 128 KiB for each virtual address in use. All nodes need the same.
    pub maglev_entries: u32,
    /// Seed of the Maglev hash. Nodes that shall choose alike need the same. 0 by default.
    pub maglev_seed: u64,
    /// Whether backends' replies pass the balancer, too. True by default: then a connection counts as established once
    /// its backend has answered, so that made-up segments push no real connection out of the table. False where replies
    /// take another way (direct return): the client's word counts.
    pub replies_seen: bool,
    /// When an idle flow is forgotten.
    pub timeouts: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            flows_max: 262_144,
            affinities_max: 65_536,
            vips_max: 16_384,
            backends_max: 4_096,
            resets_max: 65_536,
            fragments_max: 1_024,
            fragments_held_max: 0,
            fragments_held_octets_max: 262_144,
            openings_max: 0,
            maglev_entries: 65_537,
            maglev_seed: 0,
            replies_seen: true,
            timeouts: Timeouts::default(),
        }
    }
}

impl Config {
    /// How long a fragment is held at most. Who reorders does it within milliseconds; its sender sends again after a
    /// second (RFC 6298 §2).
    pub const FRAGMENTS_HELD_FOR: Duration = Duration::from_secs(1);

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let found = self.maglev_entries;
        if !is_prime(found) {
            return Err(ConfigError::NotPrime { found });
        }
        if found <= u32::from(self.backends_max) {
            let backends_max = self.backends_max;
            return Err(ConfigError::TooFewEntries {
                found,
                backends_max,
            });
        }
        if self.flows_max == 0 || self.flows_max > FLOWS_LIMIT {
            return Err(ConfigError::Flows {
                found: self.flows_max,
                limit: FLOWS_LIMIT,
            });
        }
        Ok(())
    }
}

/// After which time without a packet a flow is forgotten, and up to [`GRANULARITY`](Self::GRANULARITY) later.
///
/// The defaults follow RFC 5382 §5 (TCP) and RFC 4787 §4.3 (UDP). Too low cuts connections that are only idle, the most
/// reported defect of swarm mode's balancer (900 s); too high fills the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// TCP, before the handshake is through and the backend has answered. 4 min by default.
    pub opening: Duration,
    /// TCP, established; then both ends are reset. 2 h 11 min 15 s by default: just longer than the two hours and eleven
    /// probes or so after which systems give up an idle connection themselves.
    pub established: Duration,
    /// TCP, one side has no more data; then both ends are reset. 15 min by default.
    pub half_closed: Duration,
    /// TCP, both sides have closed, or one has reset. 4 min by default.
    pub closed: Duration,
    /// UDP. 5 min by default.
    pub datagram: Duration,
}

impl Timeouts {
    /// A flow's last packet is noted no more often than this: it saves each packet a change of the order of flows.
    pub const GRANULARITY: Duration = Duration::from_secs(1);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            opening: Duration::from_secs(240),
            established: Duration::from_secs(2 * 3600 + 11 * 60 + 15),
            half_closed: Duration::from_secs(900),
            closed: Duration::from_secs(240),
            datagram: Duration::from_secs(300),
        }
    }
}

/// The configuration makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The entries of a Maglev table are no prime number.
    #[error("expected a prime number of Maglev entries, found {found}")]
    NotPrime {
        /// What was given.
        found: u32,
    },
    /// A Maglev table has no entry for each backend.
    #[error("expected more Maglev entries than the {backends_max} backends, found {found}")]
    TooFewEntries {
        /// What was given.
        found: u32,
        /// How many backends there may be.
        backends_max: u16,
    },
    /// The number of flows is out of range.
    #[error("expected 1 to {limit} flows, found {found}")]
    Flows {
        /// What was given.
        found: u32,
        /// The most that are possible.
        limit: u32,
    },
}

pub(crate) fn is_prime(number: u32) -> bool {
    let divisors = (2..).take_while(|divisor| u64::from(*divisor).pow(2) <= u64::from(number));
    number > 1
        && divisors
            .into_iter()
            .all(|divisor: u32| !number.is_multiple_of(divisor))
}

/// So that the flow table's index stays below 2^31 places.
const FLOWS_LIMIT: u32 = 1 << 29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_primes_above_the_backends_are_tables() {
        let entries = |maglev_entries| {
            Config {
                maglev_entries,
                backends_max: 6,
                ..Config::default()
            }
            .check()
        };
        for prime in [7, 65_537, 4_294_967_291] {
            assert_eq!(entries(prime), Ok(()));
        }
        for found in [0, 1, 9, 65_536, u32::MAX] {
            assert_eq!(entries(found), Err(ConfigError::NotPrime { found }));
        }
        assert!(matches!(entries(5), Err(ConfigError::TooFewEntries { .. })));
    }
}
