//! Listings and descriptions: as tables, as JSON, by a template, or only the identities.
//!
//! Listings print one JSON object a line, `inspect` prints one array. Identities are whole in JSON, and times are as in
//! RFC 3339; `schema/overlay.schema.json` describes all of it.

use std::str::FromStr;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{
    Failure, Report,
    filter::{Filter, Filters},
    table::{Table, printable},
    template::Template,
};

/// How a listing is printed, and what of it.
#[derive(Debug, Args)]
pub(crate) struct ListingArgs {
    /// `table`, `json` for one object a line, or a template such as '{{.ID}} {{.Name}}' or 'table {{.ID}}\t{{.Name}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Only list what fits, by KEY=VALUE; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<Filter>,
    /// Only print identities
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// How a description is printed.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// `json` for one line, or a template such as '{{.ID}}' [default: JSON for people]
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<Format>,
}

/// How something is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// One object a line.
    Json,
    /// As the user wishes.
    Template(Template),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "json" | "{{json .}}" => Ok(Self::Json),
            _ => text.parse().map(Self::Template),
        }
    }
}

/// One thing in a listing.
pub(super) trait Item: Serialize {
    /// Its fields as JSON has them, and the headers of their columns.
    const FIELDS: &'static [(&'static str, &'static str)];

    /// What `--quiet` prints.
    fn identity(&self) -> String;
}

impl ListingArgs {
    /// The conditions, of which a command knows these.
    pub(super) fn filters(&self, known: &[&str]) -> Result<Filters<'_>, Failure> {
        Filters::new(&self.filter, known)
    }

    /// Whether identities and texts are to be whole, whatever else is said: in JSON.
    pub(super) fn whole(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether columns for people are asked for.
    pub(super) fn is_table(&self) -> bool {
        self.format == Format::Table && !self.quiet
    }

    /// Prints `items`; `table` lays them out if a table is asked for.
    pub(super) fn print<T: Item>(
        &self,
        items: &[T],
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<Report, Failure> {
        if let Format::Template(template) = &self.format {
            template.check(T::FIELDS)?;
        }
        if self.quiet {
            let identities = items.iter().map(|item| item.identity() + "\n");
            return Ok(Report::text(identities.collect::<String>()));
        }
        match &self.format {
            Format::Table => Ok(Report::text(table(items).render())),
            Format::Template(template) if template.table => {
                let headers = template.headers(T::FIELDS);
                let mut table = Table::new(&headers.split('\t').collect::<Vec<_>>());
                for item in items {
                    let line = template.render(&value(item)?)?;
                    table.row(line.split('\t').map(str::to_owned));
                }
                Ok(Report::text(table.render()))
            }
            format => {
                let mut report = Report::default();
                for item in items {
                    report.add(Ok(format.line(item)?));
                }
                Ok(report)
            }
        }
    }
}

impl FormatArgs {
    /// Prints what `inspect` found.
    pub(super) fn print<T: Serialize>(&self, items: &[T]) -> Result<String, Failure> {
        match &self.format {
            None | Some(Format::Table) => json_array(items),
            Some(Format::Json) => serde_json::to_string(items)
                .map(|line| line + "\n")
                .map_err(Failure::new),
            Some(format) => {
                let lines = items.iter().map(|item| Ok(format.line(item)? + "\n"));
                lines.collect()
            }
        }
    }
}

impl Format {
    /// Prints one thing on one line; as JSON unless there is a template.
    pub(super) fn line(&self, item: &impl Serialize) -> Result<String, Failure> {
        match self {
            Self::Table | Self::Json => serde_json::to_string(item).map_err(Failure::new),
            Self::Template(template) => {
                let line = template.render(&value(item)?)?;
                // Line ends and tabs are the template's; what else steers a terminal came from other hosts.
                let lines = line.split('\n').map(|line| {
                    let cells = line.split('\t').map(|cell| printable(cell.to_owned()));
                    cells.collect::<Vec<_>>().join("\t")
                });
                Ok(lines.collect::<Vec<_>>().join("\n"))
            }
        }
    }
}

fn value(item: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(item).map_err(Failure::new)
}

/// An array as `inspect` prints it, indented by four spaces.
fn json_array<T: Serialize>(items: &[T]) -> Result<String, Failure> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    items.serialize(&mut serializer).map_err(Failure::new)?;
    text.push(b'\n');
    String::from_utf8(text).map_err(Failure::new)
}
