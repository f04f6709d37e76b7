//! What the table holds of a flow, in 32 octets.

use overlay_core::Instant;

use super::{
    Flow, FlowState, Marks, Sequence,
    key::{Packed, REST_BITS, Short},
};
use crate::index::NONE;

/// All that a packet of a known flow needs, two in a line of the processor's cache; of IPv6, the addresses besides.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Slot {
    /// As in [`Short`].
    addresses: u64,
    /// As in [`Short`]; above that the [`moment`] when its place among the recent was last changed.
    rest: u64,
    pub(super) sequence: Sequence,
    pub(super) flow: Flow,
}

impl Slot {
    pub(super) const EMPTY: Self = Self {
        addresses: 0,
        rest: 0,
        sequence: Sequence {
            client: 0,
            backend: 0,
        },
        flow: Flow {
            group: NONE,
            port: 0,
            state: FlowState::Closed,
            marks: Marks::NONE,
        },
    };

    pub(super) fn new(key: &Packed, flow: Flow, now: Instant) -> Self {
        let Short { addresses, rest } = Short::of(key);
        let mut slot = Self {
            addresses,
            rest,
            flow,
            ..Self::EMPTY
        };
        slot.note(now);
        slot
    }

    #[inline(always)]
    pub(super) fn short(&self) -> Short {
        Short {
            addresses: self.addresses,
            rest: self.rest & KEY,
        }
    }

    pub(super) fn note(&mut self, now: Instant) {
        self.rest = self.rest & KEY | moment(now) << REST_BITS;
    }

    /// Whether its place among the recent was certainly changed less than [`GRANULARITY`](crate::Timeouts::GRANULARITY) ago.
    #[inline(always)]
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        // Times of which the moments are two apart are themselves less than three moments apart, which is 0.81 s.
        let passed = moment(now).wrapping_sub(self.rest >> REST_BITS);
        passed & (u64::MAX >> REST_BITS) <= 2
    }
}

/// The bits of a slot's `rest` that are of its key.
const KEY: u64 = !(u64::MAX << REST_BITS);

/// A time in units of 2^28 ns, about a quarter of a second. What a slot holds of it comes round in two years.
#[inline(always)]
const fn moment(time: Instant) -> u64 {
    time.as_nanos() >> 28
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use overlay_core::Seed;

    use super::*;
    use crate::{Protocol, Timeouts, flows::End};

    #[test]
    fn what_is_taken_for_recent_is() {
        let key = Packed::of_ends(
            Protocol::Tcp,
            false,
            End::from(SocketAddr::from(([1, 2, 3, 4], 5))),
            End::from(SocketAddr::from(([6, 7, 8, 9], 10))),
        );
        let mut rng = Seed::from_u64(3).rng();
        for _ in 0..10_000 {
            let noted = Instant::from_nanos(rng.below(1 << 62));
            let passed = Duration::from_nanos(rng.below(1_500_000_000));
            let slot = Slot::new(&key, Flow::new(0, Protocol::Tcp), noted);
            let seen = slot.is_recent(noted + passed);
            assert!(!seen || passed < Timeouts::GRANULARITY);
            assert!(seen || passed > Timeouts::GRANULARITY / 2);
            assert_eq!(slot.short(), Short::of(&key));
        }
    }

    #[test]
    fn a_flow_is_half_a_line_of_the_cache() {
        assert_eq!(size_of::<Slot>(), 32);
    }
}
