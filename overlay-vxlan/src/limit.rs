//! How often something may happen.

use overlay_core::Instant;

const SECOND: u64 = 1_000_000_000;

/// A bound on how often something happens: `per_second` for ever, `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Times a second in the long run; 0 forbids it.
    pub per_second: u32,
    /// Times at once after a pause; 0 forbids it.
    pub burst: u32,
}

/// Measures one rate: a token bucket whose tokens are the nanoseconds that they take to come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    credit: u64,
    interval: u64,
    capacity: u64,
    last: Instant,
}

impl TokenBucket {
    /// Starts full.
    pub(crate) fn new(rate: Rate) -> Self {
        let interval = SECOND
            .checked_div(rate.per_second.into())
            .unwrap_or(0)
            .max(1);
        let burst = if rate.per_second == 0 { 0 } else { rate.burst };
        let capacity = interval.saturating_mul(burst.into());
        Self {
            credit: capacity,
            interval,
            capacity,
            last: Instant::EPOCH,
        }
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.as_nanos().saturating_sub(self.last.as_nanos());
        self.last = self.last.max(now);
        self.credit = self.credit.saturating_add(elapsed).min(self.capacity);
        let Some(rest) = self.credit.checked_sub(self.interval) else {
            return false;
        };
        self.credit = rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn taken(bucket: &mut TokenBucket, now: Instant) -> usize {
        (0..100).take_while(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(Rate {
            per_second: 10,
            burst: 3,
        });
        let start = Instant::from_millis(5);
        assert_eq!(taken(&mut bucket, start), 3);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(99)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(100)), 1);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3_600)), 3);
        assert_eq!(taken(&mut bucket, Instant::EPOCH), 0);
    }

    #[test]
    fn zero_forbids() {
        for (per_second, burst) in [(0, 5), (5, 0), (0, 0)] {
            let mut bucket = TokenBucket::new(Rate { per_second, burst });
            assert_eq!(taken(&mut bucket, Instant::MAX), 0);
        }
    }

    #[test]
    fn the_largest_rate_does_not_overflow() {
        let mut bucket = TokenBucket::new(Rate {
            per_second: u32::MAX,
            burst: u32::MAX,
        });
        assert_eq!(taken(&mut bucket, Instant::MAX), 100);
    }
}
