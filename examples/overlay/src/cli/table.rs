//! Tables as Docker's command line prints them.

use std::fmt::Write as _;

/// A table: a line of headers, then lines of cells, in columns aligned by spaces.
///
/// A column is as wide as its widest cell and three spaces, and at least ten characters; the last one is not padded.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

const WIDTH_MIN: usize = 10;
const PADDING: usize = 3;

impl Table {
    /// Starts a table with its headers.
    pub(crate) fn new(headers: &[&str]) -> Self {
        Self {
            rows: vec![headers.iter().map(|header| (*header).to_owned()).collect()],
        }
    }

    /// Adds a line.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(printable).collect());
    }

    /// Lays it out.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or_default();
                (widest + PADDING).max(WIDTH_MIN)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let width = if at + 1 == row.len() { 0 } else { *width };
                write!(text, "{cell:width$}").expect("writing to a string cannot fail");
            }
            text.push('\n');
        }
        text
    }
}

/// Cuts `text` to at most `width_max` characters; the last one is then an ellipsis.
pub(crate) fn ellipsis(text: &str, width_max: usize) -> String {
    if text.chars().count() <= width_max {
        return text.to_owned();
    }
    text.chars()
        .take(width_max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Names come from other hosts: what would steer the terminal is made visible.
pub(crate) fn printable(cell: String) -> String {
    if cell.chars().any(char::is_control) {
        return cell.chars().flat_map(char::escape_debug).collect();
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_at_least_ten_wide_and_the_last_is_not_padded() {
        let mut table = Table::new(&["ID", "NAME", "SCOPE"]);
        table.row(["1".into(), "a-rather-long-name".into(), "x".into()]);
        assert_eq!(
            table.render(),
            "ID        NAME                 SCOPE\n1         a-rather-long-name   x\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\x1b[2Jb\n".into()]);
        assert_eq!(table.render(), "NAME\na\\u{1b}[2Jb\\n\n");
    }

    #[test]
    fn ellipsis_counts_characters() {
        assert_eq!(ellipsis("äöü", 3), "äöü");
        assert_eq!(ellipsis("äöüß", 3), "äö…");
    }
}
