//! What was measured of one figure, and the table of all of them.

use std::{fmt, time::Duration};

use crate::cli::Table;

/// What a figure counts. Samples of one figure are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Amount {
    Time(Duration),
    Octets(u64),
}

/// The samples of one figure.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    what: &'static str,
    /// What the figure is to be at most.
    reach: Amount,
    found: Vec<Amount>,
}

impl Samples {
    pub(super) fn new(what: &'static str, reach: Amount) -> Self {
        Self {
            what,
            reach,
            found: Vec::new(),
        }
    }

    /// Adds samples, and says which.
    pub(super) fn add(&mut self, more: impl IntoIterator<Item = Amount>) -> String {
        let before = self.found.len();
        self.found.extend(more);
        let added = self.found.iter().skip(before).map(Amount::to_string);
        added.collect::<Vec<_>>().join(", ")
    }

    /// Returns the median, of an even number the greater one, and the worst.
    fn median_and_worst(&self) -> Option<(Amount, Amount)> {
        let mut sorted = self.found.clone();
        sorted.sort();
        Some((*sorted.get(sorted.len() / 2)?, *sorted.last()?))
    }
}

impl fmt::Display for Amount {
    #[expect(
        clippy::cast_precision_loss,
        reason = "one digit after the point is shown"
    )]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) if *time < Duration::from_millis(100) => {
                write!(f, "{:.1} ms", time.as_secs_f64() * 1e3)
            }
            Self::Time(time) => write!(f, "{:.2} s", time.as_secs_f64()),
            Self::Octets(octets) => write!(f, "{:.1} MB", *octets as f64 / 1e6),
        }
    }
}

/// Lays the table out.
pub(super) fn table(all: &[&Samples]) -> String {
    let mut table = Table::new(&["FIGURE", "REACH", "MEASURED (MEDIAN OF N, WORST)"]);
    for samples in all {
        let measured = samples.median_and_worst().map(|(median, worst)| {
            let count = samples.found.len();
            format!("{median} (of {count}), worst {worst}")
        });
        table.row([
            samples.what.to_owned(),
            format!("<= {}", samples.reach),
            measured.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_median_number_and_worst() {
        let time = |milliseconds| Amount::Time(Duration::from_millis(milliseconds));
        let mut samples = Samples::new("a write", time(1_500));
        assert_eq!(
            table(&[&samples]).lines().last(),
            Some("a write   <= 1.50 s   -")
        );
        assert_eq!(samples.add([time(900), time(20)]), "0.90 s, 20.0 ms");
        assert_eq!(samples.add([time(1_730)]), "1.73 s");
        assert_eq!(
            table(&[&samples]).lines().last(),
            Some("a write   <= 1.50 s   0.90 s (of 3), worst 1.73 s")
        );
        samples.add([time(1_000)]);
        assert_eq!(samples.median_and_worst(), Some((time(1_000), time(1_730))));
    }

    #[test]
    fn memory_is_told_in_millions_of_octets() {
        assert_eq!(Amount::Octets(12_345_678).to_string(), "12.3 MB");
    }
}
