//! The one place where the driver reads a clock and draws entropy.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay_core::{Instant, Seed};

/// Monotonic time since the daemon started, and what that is in the world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
    unix_epoch: Duration,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the driver hands machines the time"
    )]
    pub(crate) fn start() -> Self {
        let unix_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start: std::time::Instant::now(),
            unix_epoch,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::EPOCH + self.start.elapsed()
    }

    /// Returns the Unix time of the machines' epoch.
    pub(crate) fn unix_epoch(&self) -> Duration {
        self.unix_epoch
    }

    /// Returns the Unix time.
    #[expect(
        clippy::disallowed_methods,
        reason = "certificates are dated by the world's clock"
    )]
    pub(crate) fn unix_now() -> Duration {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }

    /// Returns the deadline as tokio knows time.
    pub(crate) fn deadline(&self, at: Instant) -> tokio::time::Instant {
        let at = self.start + Duration::from_nanos(at.as_nanos().min(FAR));
        tokio::time::Instant::from_std(at)
    }
}

/// Draws a seed from the operating system's entropy.
pub(crate) fn entropy() -> Result<Seed, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(Seed::from_bytes(bytes))
}

/// Ten years: further ahead, some clocks overflow.
const FAR: u64 = 10 * 365 * 24 * 3_600 * 1_000_000_000;
