//! Suspicions (Lifeguard §IV-B): the more members independently confirm one, the sooner it ends.

use std::time::Duration;

use overlay_core::Instant;

use crate::{Name, Timing};

/// A suspicion that runs.
#[derive(Debug)]
pub(crate) struct Suspicion {
    /// Who suspects, the first one first; at most one more than expected.
    from: Vec<Name>,
    span: Span,
    start: Instant,
}

/// How long a suspicion takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Confirmations that are expected, beyond the first suspicion.
    pub(crate) expected: usize,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Suspicion {
    pub(crate) fn new(from: Name, span: Span, start: Instant) -> Self {
        Self {
            from: vec![from],
            span,
            start,
        }
    }

    /// Takes a confirmation; returns whether it is news that is worth passing on.
    pub(crate) fn confirm(&mut self, from: &Name) -> bool {
        if self.from.len() > self.span.expected || self.from.contains(from) {
            return false;
        }
        self.from.push(from.clone());
        true
    }

    /// Returns when the member is Down unless it refutes.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + self.span.timeout(self.from.len() - 1)
    }

    /// Gives more time, because this node slept.
    pub(crate) fn delay(&mut self, gap: Duration) {
        self.start += gap;
    }
}

impl Span {
    /// Returns the span in a cluster of `members`, ourselves included.
    pub(crate) fn of(timing: &Timing, members: usize) -> Self {
        let wanted = usize::try_from(timing.suspicion_mult.saturating_sub(2)).unwrap_or(0);
        // Everybody but the suspect and ourselves can confirm.
        let expected = if members.saturating_sub(2) < wanted {
            0
        } else {
            wanted
        };
        let min = scaled(timing.probe_interval * timing.suspicion_mult, members);
        let min = min.max(timing.suspicion_min);
        let max = min * timing.suspicion_max_timeout_mult;
        Self { expected, min, max }
    }

    /// Returns the time-out after some confirmations:
    /// `max(min, max - log(confirmations + 1) / log(expected + 1) * (max - min))`.
    pub(crate) fn timeout(self, confirmations: usize) -> Duration {
        if self.expected == 0 {
            return self.min;
        }
        let part = log2(confirmations.min(self.expected) + 1);
        let whole = log2(self.expected + 1);
        let spread = u128::from(nanos(self.max.saturating_sub(self.min)));
        let less = spread * u128::from(part) / u128::from(whole);
        let less = Duration::from_nanos(u64::try_from(less).unwrap_or(u64::MAX));
        self.max.saturating_sub(less).max(self.min)
    }
}

/// Multiplies by `max(1, log10(members))`.
fn scaled(duration: Duration, members: usize) -> Duration {
    let factor = log2(members.max(10));
    let scaled = u128::from(nanos(duration)) * u128::from(factor) / u128::from(log2(10));
    Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the binary logarithm in units of 2^-32: the same on every platform, unlike that of floats.
fn log2(number: usize) -> u64 {
    let number = u64::try_from(number).unwrap_or(u64::MAX).max(1);
    let whole = u64::from(number.ilog2());
    // The number as a fraction in [1, 2), with 63 bits behind the point; each squaring gives one bit.
    let mut fraction = number << (63 - whole);
    let mut result = whole;
    for _ in 0..32 {
        let square = (u128::from(fraction) * u128::from(fraction)) >> 63;
        let carried = square >> 64 != 0;
        result = (result << 1) | u64::from(carried);
        let normal = if carried { square >> 1 } else { square };
        fraction = u64::try_from(normal).unwrap_or(u64::MAX);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(expected: usize) -> Span {
        Span {
            expected,
            min: Duration::from_secs(2),
            max: Duration::from_secs(30),
        }
    }

    #[test]
    fn confirmations_shorten_a_suspicion_logarithmically() {
        let millis: Vec<u128> = (0..6)
            .map(|count| span(3).timeout(count).as_millis())
            .collect();
        // 30 - 28 * log(n + 1) / log(4)
        assert_eq!(millis, [30_000, 16_000, 7_810, 2_000, 2_000, 2_000]);
    }

    #[test]
    fn without_possible_confirmations_the_shortest_time_holds() {
        assert_eq!(span(0).timeout(0), Duration::from_secs(2));
    }

    #[test]
    fn the_span_grows_with_the_logarithm_of_the_members() {
        let timing = Timing::lan();
        let seconds = |members| Span::of(&timing, members).min.as_secs_f64();
        assert!((seconds(1) - 4.0).abs() < 1e-6);
        assert!((seconds(10) - 4.0).abs() < 1e-6);
        assert!((seconds(100) - 8.0).abs() < 1e-6);
        assert!((seconds(1_000) - 12.0).abs() < 1e-6);
        assert_eq!(Span::of(&timing, 3).expected, 0);
        assert_eq!(Span::of(&timing, 4).expected, 2);
    }

    #[test]
    fn only_new_accusers_confirm_and_only_as_many_as_expected() {
        let mut suspicion = Suspicion::new("a".into(), span(2), Instant::EPOCH);
        assert!(!suspicion.confirm(&"a".into()), "the first one");
        assert!(suspicion.confirm(&"b".into()));
        assert!(!suspicion.confirm(&"b".into()), "twice");
        assert!(suspicion.confirm(&"c".into()));
        assert!(!suspicion.confirm(&"d".into()), "one too many");
        assert_eq!(
            suspicion.deadline(),
            Instant::EPOCH + Duration::from_secs(2)
        );
    }

    #[test]
    fn logarithms_are_exact_at_powers_and_close_between() {
        assert_eq!(log2(1), 0);
        assert_eq!(log2(1_024), 10 << 32);
        let ten = log2(10) as f64 / (1_u64 << 32) as f64;
        assert!((ten - 10_f64.log2()).abs() < 1e-9, "{ten}");
    }
}
