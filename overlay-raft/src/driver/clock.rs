//! The one place where the driver reads a clock and draws entropy.

use std::io;

use overlay_core::{Instant, Seed};

/// Monotonic time since the member started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver hands the machine the time"
    )]
    pub(super) fn start() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        Instant::EPOCH + self.start.elapsed()
    }

    /// Returns the deadline as tokio knows time.
    pub(super) fn deadline(&self, at: Instant) -> tokio::time::Instant {
        let since = at.duration_since(Instant::EPOCH).min(FAR);
        tokio::time::Instant::from_std(self.start + since)
    }
}

/// Draws a seed from the operating system's entropy.
pub(super) fn entropy() -> io::Result<Seed> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Seed::from_bytes(bytes))
}

/// Ten years: further ahead, some clocks overflow.
const FAR: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 24 * 3_600);
