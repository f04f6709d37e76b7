//! Local health (Lifeguard §IV-A): how far this node should doubt itself before it doubts others.

use std::time::Duration;

/// A score from 0, healthy, up to but not including a maximum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awareness {
    score: u32,
    max: u32,
}

impl Awareness {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            score: 0,
            max: max.max(1),
        }
    }

    pub(crate) fn score(self) -> u32 {
        self.score
    }

    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    pub(crate) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(self.max - 1);
    }

    /// Stretches a duration by the score.
    pub(crate) fn scale(self, duration: Duration) -> Duration {
        duration * (self.score + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_stays_between_zero_and_the_maximum() {
        let mut awareness = Awareness::new(8);
        awareness.improve();
        assert_eq!(awareness.score(), 0);
        awareness.worsen(3);
        awareness.worsen(9);
        assert_eq!(awareness.score(), 7);
        assert_eq!(
            awareness.scale(Duration::from_secs(1)),
            Duration::from_secs(8)
        );
    }
}
