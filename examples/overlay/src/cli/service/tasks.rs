//! Tasks in Docker's columns: `service ps` and `node ps`.

use clap::Args;
use overlay_core::ServiceId;
use serde::Serialize;

use crate::{
    api::{DesiredState, Slot, TaskInfo},
    cli::{Failure, ListingArgs, Table, listing::Item, table::ellipsis},
    time,
};

/// How tasks are listed.
#[derive(Debug, Args)]
pub(crate) struct TasksArgs {
    /// Print whole identities, commands and errors
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    pub(in crate::cli) listing: ListingArgs,
}

/// A line of `service ps`; fields in the order that Docker prints in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::cli) struct TaskRow {
    addresses: String,
    command: String,
    current_state: String,
    desired_state: &'static str,
    error: String,
    #[serde(rename = "ID")]
    id: String,
    name: String,
    node: String,
    since: String,
    state: String,
}

impl Item for TaskRow {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("Addresses", "ADDRESS"),
        ("Command", "COMMAND"),
        ("CurrentState", "CURRENT STATE"),
        ("DesiredState", "DESIRED STATE"),
        ("Error", "ERROR"),
        ("ID", "ID"),
        ("Name", "NAME"),
        ("Node", "NODE"),
        ("Since", "SINCE"),
        ("State", "STATE"),
    ];

    fn identity(&self) -> String {
        self.id.clone()
    }
}

const COMMAND_WIDTH_MAX: usize = 24;
const ERROR_WIDTH_MAX: usize = 48;

/// Lists tasks, slot by slot, the newest first and those before it below.
pub(in crate::cli) fn rows(mut tasks: Vec<TaskInfo>, args: &TasksArgs) -> Vec<TaskRow> {
    // They come oldest first.
    tasks.reverse();
    tasks.sort_by(|a, b| (&a.service_name, a.slot).cmp(&(&b.service_name, b.slot)));
    let now = time::unix_ms();
    let mut last: Option<(ServiceId, Slot)> = None;
    let row = |task: &TaskInfo| {
        let place = (task.service, task.slot);
        let older = last.replace(place) == Some(place);
        TaskRow::new(task, older, now, args)
    };
    tasks.iter().map(row).collect()
}

/// The name of a task: that of its service, and its slot.
pub(in crate::cli) fn name(task: &TaskInfo) -> String {
    format!("{}.{}", task.service_name, task.slot)
}

/// Why a task is not what is wanted, if it is not.
pub(in crate::cli) fn error(task: &TaskInfo) -> String {
    match &task.status.pending {
        Some(reason) => reason.to_string(),
        None => task.status.message.clone(),
    }
}

impl TaskRow {
    fn new(task: &TaskInfo, older: bool, now: u64, args: &TasksArgs) -> Self {
        let whole = args.no_trunc || args.listing.quiet || args.listing.whole();
        let short = |text: String, width| {
            if whole { text } else { ellipsis(&text, width) }
        };
        let error = error(task);
        let error = match error.as_str() {
            "" => error,
            _ => format!("\"{}\"", short(error, ERROR_WIDTH_MAX)),
        };
        let branch = if older { " \\_ " } else { "" };
        let addresses: Vec<String> = task.addresses.iter().map(ToString::to_string).collect();
        let since = time::human_since(task.status.since_unix_ms, now).to_lowercase();
        Self {
            addresses: addresses.join(","),
            command: short(task.spec.command.join(" "), COMMAND_WIDTH_MAX),
            current_state: format!("{} {since} ago", capital(&task.status.state.to_string())),
            desired_state: desired(task.desired),
            error,
            id: if whole {
                task.id.to_string()
            } else {
                task.id.short()
            },
            name: format!("{branch}{}", name(task)),
            node: task.hostname.clone(),
            since: time::rfc3339(task.status.since_unix_ms),
            state: task.status.state.to_string(),
        }
    }
}

const fn desired(state: DesiredState) -> &'static str {
    match state {
        DesiredState::Ready => "Ready",
        DesiredState::Running => "Running",
        DesiredState::Shutdown => "Shutdown",
        DesiredState::Remove => "Remove",
    }
}

/// Which tasks the filters let pass.
pub(in crate::cli) fn fitting(
    listing: &ListingArgs,
) -> Result<impl Fn(&TaskInfo) -> bool, Failure> {
    let filters = listing.filters(&["id", "name", "node", "desired-state"])?;
    // What has not ended is accepted, in Docker's word.
    let known = ["running", "shutdown", "accepted", "ready", "remove"];
    filters.one_of("desired-state", &known)?;
    Ok(move |task: &TaskInfo| {
        let node = task.node.map(|node| node.to_string()).unwrap_or_default();
        let wanted = |value: &str| match value.to_ascii_lowercase().as_str() {
            "accepted" => task.desired == DesiredState::Ready,
            value => value.eq_ignore_ascii_case(desired(task.desired)),
        };
        filters.begins("id", &task.id.to_string())
            && filters.begins("name", &name(task))
            && filters.any("node", |value| {
                !value.is_empty() && (task.hostname == value || node.starts_with(value))
            })
            && filters.any("desired-state", wanted)
    })
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

pub(in crate::cli) fn table(rows: &[TaskRow]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "NAME",
        "COMMAND",
        "NODE",
        "DESIRED STATE",
        "CURRENT STATE",
        "ADDRESS",
        "ERROR",
    ]);
    for row in rows {
        table.row([
            row.id.clone(),
            row.name.clone(),
            row.command.clone(),
            row.node.clone(),
            row.desired_state.into(),
            row.current_state.clone(),
            row.addresses.clone(),
            row.error.clone(),
        ]);
    }
    table
}
