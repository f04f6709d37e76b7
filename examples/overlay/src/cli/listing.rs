//! Listings: as tables, as JSON, or only the identities.

use std::str::FromStr;

use serde::Serialize;

use super::{Failure, ListingArgs, Report, table::Table};

/// How a listing is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" | "{{json .}}" => Ok(Self::Json),
            _ => Err(format!(
                "expected `table` or `json`, found `{text}`; templates are not offered"
            )),
        }
    }
}

/// One thing in a listing.
pub(super) trait Item: Serialize {
    /// What `--quiet` prints.
    fn identity(&self) -> String;
}

impl ListingArgs {
    /// Prints `items`; `table` lays them out if a table is asked for.
    pub(super) fn print<T: Item>(
        &self,
        items: &[T],
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<Report, Failure> {
        if self.quiet {
            let identities = items.iter().map(|item| item.identity() + "\n");
            return Ok(Report::text(identities.collect::<String>()));
        }
        match self.format {
            Format::Table => Ok(Report::text(table(items).render())),
            Format::Json => {
                let mut report = Report::default();
                for item in items {
                    report.add(Ok(json_line(item)?));
                }
                Ok(report)
            }
        }
    }
}

/// One object on one line.
pub(super) fn json_line(item: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(item).map_err(Failure::new)
}

/// An array as `inspect` prints it, indented by four spaces.
pub(super) fn json_array<T: Serialize>(items: &[T]) -> Result<String, Failure> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    items.serialize(&mut serializer).map_err(Failure::new)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(Failure::new)
}
