//! Times as Docker's command line prints them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The present, in milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago something was, in words: `About a minute`, `3 weeks`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1_800) / 3_600);
    let days = hours / 24;
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".into(),
        (1, ..) => "1 second".into(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".into(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".into(),
        (_, _, 2..48) => format!("{hours} hours"),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => format!("{} weeks", days / 7),
        _ if days < 730 => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

/// The same, from two times in milliseconds since 1970.
pub(crate) fn human_since(then_unix_ms: u64, now_unix_ms: u64) -> String {
    human(Duration::from_millis(
        now_unix_ms.saturating_sub(then_unix_ms),
    ))
}

/// A time as RFC 3339 writes it, in UTC: `2024-02-29T12:00:00.5Z`.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let (date, time, ms) = parts(unix_ms);
    let fraction = format!(".{ms:03}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    format!("{date}T{time}{fraction}Z")
}

/// The same with all its milliseconds, so that lines are aligned: `2024-02-29T12:00:00.500Z`.
pub(crate) fn rfc3339_ms(unix_ms: u64) -> String {
    let (date, time, ms) = parts(unix_ms);
    format!("{date}T{time}.{ms:03}Z")
}

/// Reads a time as RFC 3339 writes it, or only its date (midnight in UTC), or seconds since 1970 with or without a fraction.
/// The result is in milliseconds since 1970.
pub(crate) fn parse(text: &str) -> Option<u64> {
    if let Some(ms) = seconds(text) {
        return Some(ms);
    }
    let (date, clock) = text
        .split_once(['T', 't', ' '])
        .unwrap_or((text, "00:00:00Z"));
    let [year, month, day] = numbers(date, '-')?;
    let days = days(year, month, day)?;
    let (clock, offset_minutes) = match clock.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let sign_at = clock.rfind(['+', '-'])?;
            let (clock, offset) = clock.split_at(sign_at);
            let [hours, minutes] = numbers(offset.get(1..)?, ':')?;
            let minutes = i64::try_from(hours * 60 + minutes).ok()?;
            (
                clock,
                if offset.starts_with('-') {
                    -minutes
                } else {
                    minutes
                },
            )
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let ms = seconds(&format!(
        "{}.{fraction}",
        days * 86_400 + hour * 3_600 + minute * 60 + second
    ))?;
    ms.checked_add_signed(-offset_minutes * 60_000)
}

/// Reads `1709208000` or `1709208000.5`.
fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let ms: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000)?
        .checked_add(ms)
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let numbers: Option<Vec<u64>> = text
        .split(separator)
        .map(|part| {
            let digits = part.bytes().all(|octet| octet.is_ascii_digit());
            part.parse().ok().filter(|_| digits && part.len() <= 4)
        })
        .collect();
    numbers?.try_into().ok()
}

/// The days from 1970-01-01 to a day that there is.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let shifted_year = if month > 2 {
        year
    } else {
        year.checked_sub(1)?
    };
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    // A day that there is not is another one.
    (civil(days) == (year, month, day)).then_some(days)
}

fn parts(unix_ms: u64) -> (String, String, u64) {
    let (seconds, ms) = (unix_ms / 1_000, unix_ms % 1_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let date = format!("{year:04}-{month:02}-{day:02}");
    let time = format!("{:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60);
    (date, time, ms)
}

/// Year, month and day of the given day since 1970-01-01, by walking 400-year eras that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_docker() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3_599, "59 minutes"),
            (3_600, "About an hour"),
            (5_400, "2 hours"),
            (47 * 3_600, "47 hours"),
            (48 * 3_600, "2 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (730 * 86_400, "2 years"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn calendar_knows_leap_days_and_the_ends_of_years() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_709_208_000_500, "2024-02-29T12:00:00.5Z"),
            (1_704_067_199_999, "2023-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(rfc3339(ms), text);
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        assert_eq!(rfc3339_ms(1_500), "1970-01-01T00:00:01.500Z");
    }

    #[test]
    fn times_are_read_in_each_form_that_docker_reads() {
        let cases = [
            ("1709208000", 1_709_208_000_000),
            ("1709208000.5", 1_709_208_000_500),
            ("1709208000.123456789", 1_709_208_000_123),
            ("2024-02-29", 1_709_164_800_000),
            ("2024-02-29T12:00:00.5Z", 1_709_208_000_500),
            ("2024-02-29T13:00:00+01:00", 1_709_208_000_000),
            ("2024-02-29T06:30:00-05:30", 1_709_208_000_000),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        for text in [
            "",
            "x",
            "-1",
            "1.",
            "2023-02-29",
            "2024-13-01",
            "2024-00-10",
            "2024-02-29T25:00:00Z",
            "2024-02-29T12:00:00",
            "2024-02-29T12:00Z",
            "1969-12-31",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
