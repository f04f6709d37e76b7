//! The clock of one host, which may be slow or fast.

use overlay_core::Instant;

/// Maps the world's time to a host's and back.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    world: Instant,
    local: Instant,
    /// Parts of a million; 1,000,000 is exact.
    rate_ppm: u32,
}

/// A clock that is neither slow nor fast.
const EXACT_PPM: u32 = 1_000_000;

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            world: Instant::EPOCH,
            local: Instant::EPOCH,
            rate_ppm: EXACT_PPM,
        }
    }

    /// Lets the clock run at another rate from `now` on; at least at one millionth.
    pub(crate) fn set_rate(&mut self, now: Instant, rate_ppm: u32) {
        self.local = self.local(now);
        self.world = now;
        self.rate_ppm = rate_ppm.max(1);
    }

    /// Puts the clock forward.
    pub(crate) fn advance(&mut self, by: std::time::Duration) {
        self.local += by;
    }

    pub(crate) fn local(&self, world: Instant) -> Instant {
        let elapsed = world.duration_since(self.world);
        if self.rate_ppm == EXACT_PPM {
            return self.local + elapsed;
        }
        let scaled = elapsed.as_nanos() * u128::from(self.rate_ppm) / u128::from(EXACT_PPM);
        self.local + nanoseconds(scaled)
    }

    /// Returns the first instant of the world at which the clock shows `local` or more.
    pub(crate) fn world(&self, local: Instant) -> Instant {
        let left = local.duration_since(self.local);
        if self.rate_ppm == EXACT_PPM {
            return self.world + left;
        }
        let scaled = left.as_nanos() * u128::from(EXACT_PPM);
        self.world + nanoseconds(scaled.div_ceil(u128::from(self.rate_ppm)))
    }
}

fn nanoseconds(count: u128) -> std::time::Duration {
    std::time::Duration::from_nanos(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wake_up_is_never_early_on_a_slow_or_fast_clock() {
        for rate_ppm in [
            1, 333_333, 900_000, 999_999, 1_000_000, 1_000_001, 1_100_000,
        ] {
            let mut clock = Clock::new();
            clock.advance(Duration::from_nanos(77));
            clock.set_rate(Instant::from_nanos(12_345), rate_ppm);
            for local in [0, 12_422, 12_423, 99_999, 1_000_000_007] {
                let local = Instant::from_nanos(local);
                let world = clock.world(local);
                assert!(clock.local(world) >= local, "{rate_ppm} {local}");
                let before = world - Duration::from_nanos(1);
                let first = world <= Instant::from_nanos(12_345) || clock.local(before) < local;
                assert!(first, "{rate_ppm} {local}");
            }
        }
    }

    #[test]
    fn the_end_of_time_is_reached_without_overflow() {
        let mut clock = Clock::new();
        clock.set_rate(Instant::EPOCH, 1);
        assert_eq!(clock.world(Instant::MAX), Instant::MAX);
        clock.set_rate(Instant::EPOCH, u32::MAX);
        assert_eq!(clock.local(Instant::MAX), Instant::MAX);
    }

    #[test]
    fn changing_the_rate_keeps_the_time_shown() {
        let mut clock = Clock::new();
        clock.set_rate(Instant::EPOCH, 500_000);
        let now = Instant::from_millis(1_000);
        assert_eq!(clock.local(now), Instant::from_millis(500));
        clock.set_rate(now, 2_000_000);
        assert_eq!(clock.local(now), Instant::from_millis(500));
        let later = Instant::from_millis(2_000);
        assert_eq!(clock.local(later), Instant::from_millis(2_500));
    }
}
