//! `sleep`.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Failure;

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct SleepArgs {
    /// Seconds, or a number with s, m, h or d, or `infinity`
    #[arg(value_parser = duration)]
    duration: Duration,
}

/// As good as for ever, and still a deadline that timers take: a hundred years.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn duration(text: &str) -> Result<Duration, String> {
    if text == "infinity" || text == "inf" {
        return Ok(FOREVER);
    }
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (text.split_at(at).0, 1.0),
        Some((at, 'm')) => (text.split_at(at).0, 60.0),
        Some((at, 'h')) => (text.split_at(at).0, 3_600.0),
        Some((at, 'd')) => (text.split_at(at).0, 86_400.0),
        _ => (text, 1.0),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("expected seconds, found `{text}`"))?;
    let duration = Duration::try_from_secs_f64(number * unit);
    Ok(duration.map_err(|error| error.to_string())?.min(FOREVER))
}

/// Sleeps, until a signal ends it at the latest: as the first process of a namespace it would ignore them otherwise.
pub(super) async fn run(args: SleepArgs) -> Result<u8, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    tokio::select! {
        () = tokio::time::sleep(args.duration) => Ok(0),
        _ = terminate.recv() => Ok(128 + 15),
        _ = interrupt.recv() => Ok(128 + 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_by_sleep() {
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("infinity"), Ok(FOREVER));
        assert_eq!(duration("1e300").map_err(|_| ()), Err(()));
        for text in ["", "s", "-1", "x", "1µ"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
