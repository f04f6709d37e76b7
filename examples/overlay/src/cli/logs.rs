//! `logs` and `service logs`: what programs and tasks have written, on whatever node.

mod streams;

use std::collections::BTreeMap;

use clap::Args;
use overlay_core::TaskId;
use overlay_node::driver::LogOptions;

use super::{
    Failure, Report, complain, is_read,
    service::{task_list, values::duration_ms},
    unexpected,
};
use crate::{
    api::{Request, Response, TaskInfo},
    client::Client,
    time,
    wire::{LogsOf, LogsRequest, ProgramRequest, ProgramResponse},
};
use streams::Streams;

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    part: PartArgs,
    /// A program, a task, or a service
    #[arg(value_name = "NAME")]
    name: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ServiceLogsArgs {
    #[command(flatten)]
    part: PartArgs,
    #[command(flatten)]
    prefix: PrefixArgs,
    /// Name or identity of a service or task, or the beginning of its identity
    #[arg(value_name = "SERVICE|TASK")]
    name: String,
}

/// Which part of the output is shown.
#[derive(Clone, Debug, Args)]
struct PartArgs {
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines, of each task; or `all`
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Only what was written since then: 2024-02-29T12:00:00Z, seconds since 1970, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Begin each line with when it was written
    #[arg(short, long)]
    timestamps: bool,
}

/// What stands before the lines of a task.
#[derive(Clone, Copy, Debug, Default, Args)]
struct PrefixArgs {
    /// Print whole identities
    #[arg(long)]
    no_trunc: bool,
    /// Print lines as they were written, without the name of their task
    #[arg(long, conflicts_with_all = ["no_trunc", "no_task_ids", "no_resolve"])]
    raw: bool,
    /// Leave the identities of tasks out
    #[arg(long)]
    no_task_ids: bool,
    /// Print identities instead of names
    #[arg(long)]
    no_resolve: bool,
}

/// How many of the last lines.
#[derive(Clone, Copy, Debug)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => number
            .parse()
            .map(|lines| Tail(Some(lines)))
            .map_err(|_| format!("expected a number of lines or `all`, found `{text}`")),
    }
}

fn since(text: &str) -> Result<u64, String> {
    if let Some(ms) = time::parse(text) {
        return Ok(ms);
    }
    let ago = duration_ms(text).map_err(|_| {
        format!(
            "expected a time such as 2024-02-29T12:00:00Z, seconds since 1970, or how long ago, such as 10m, found `{text}`"
        )
    })?;
    Ok(time::unix_ms().saturating_sub(ago))
}

impl PartArgs {
    fn options(&self) -> LogOptions {
        LogOptions {
            follow: self.follow,
            tail: self.tail.0,
            since_unix_ms: self.since,
        }
    }

    /// A line with its time, if that is asked for.
    fn line(&self, at_unix_ms: Option<u64>, prefix: &str, text: &str) -> String {
        let time = match at_unix_ms {
            _ if !self.timestamps => String::new(),
            Some(at) => time::rfc3339_ms(at) + " ",
            // What an older holder keeps has no times.
            None => format!("{:24} ", "-"),
        };
        format!("{time}{prefix}{text}\n")
    }
}

/// A task whose output is shown.
#[derive(Clone, Debug)]
struct Shown {
    id: TaskId,
    prefix: String,
}

impl PrefixArgs {
    /// The task of a service as Docker names it: `web.1.l3jz8n8jqz5r@host1    | `.
    ///
    /// The bars stand below each other where hosts have names of one length and slots at most `slot_width` digits.
    fn of(&self, task: &TaskInfo, slot_width: usize) -> String {
        let slot = task.slot.to_string();
        let padding = " ".repeat(slot_width.saturating_sub(slot.len()));
        let (service, host) = if self.no_resolve {
            let node = task.node.map(|node| self.id(&node.to_string()));
            let service = self.id(&task.service.to_string());
            (service, node.unwrap_or_default())
        } else {
            (task.service_name.clone(), task.hostname.clone())
        };
        self.write(&format!("{service}.{slot}"), &task.id, &host, &padding)
    }

    fn write(&self, name: &str, id: &TaskId, host: &str, padding: &str) -> String {
        if self.raw {
            return String::new();
        }
        let id = if self.no_task_ids {
            String::new()
        } else {
            format!(".{}", self.id(&id.to_string()))
        };
        format!("{name}{id}@{host}{padding}    | ")
    }

    fn id(&self, id: &str) -> String {
        let short = id.get(..12).filter(|_| !self.no_trunc);
        short.unwrap_or(id).to_owned()
    }
}

/// `overlay logs`: a program or task of this node by its name, or all tasks of a service.
pub(super) async fn run(client: &Client, args: LogsArgs) -> Result<Report, Failure> {
    let request = LogsRequest {
        of: LogsOf::Program(args.name.clone()),
        options: args.part.options(),
    };
    let mut lines = match client.logs(&request).await.map_err(Failure::from) {
        Ok(lines) => lines,
        Err(failure) if failure.is_missing() => {
            let (part, name) = (args.part, args.name);
            let prefix = PrefixArgs::default();
            let found = of_service(client, ServiceLogsArgs { part, prefix, name }).await;
            // Neither is there: what was asked for first says more.
            return found.map_err(|other| if other.is_missing() { failure } else { other });
        }
        Err(failure) => return Err(failure),
    };
    while let Some((at, text)) = lines.next().await? {
        if !is_read(&args.part.line(at, "", &text)) {
            break;
        }
    }
    Ok(Report::default())
}

/// `overlay service logs`: the tasks of a service, or one task, on whatever node.
pub(super) async fn of_service(client: &Client, args: ServiceLogsArgs) -> Result<Report, Failure> {
    let tasks = find(client, &args).await?;
    let whole = matches!(tasks, Found::Service(_)) && args.part.follow;
    let mut streams = Streams::new(client, args.part.clone());
    let (Found::Service(tasks) | Found::Fixed(tasks)) = tasks;
    tasks.into_iter().for_each(|task| streams.open(task));
    if !args.part.follow {
        return Ok(streams.merge().await);
    }
    let again = async || {
        let found = task_list(client, Some(args.name.clone()), None).await?;
        Ok(shown(found, args.prefix))
    };
    Ok(streams.follow(whole.then_some(again)).await)
}

/// What a name stands for.
enum Found {
    /// The tasks of a service, to which others may come.
    Service(Vec<Shown>),
    /// A task, or those of this node alone.
    Fixed(Vec<Shown>),
}

async fn find(client: &Client, args: &ServiceLogsArgs) -> Result<Found, Failure> {
    let missing = match task_list(client, Some(args.name.clone()), None).await {
        Ok(tasks) => return Ok(Found::Service(shown(tasks, args.prefix))),
        Err(failure) if failure.is_missing() => failure,
        Err(failure) if failure.is_not_manager() => return here(client, args, failure).await,
        Err(failure) => return Err(failure),
    };
    let mut tasks = task_list(client, None, None).await?;
    let name = args.name.as_str();
    let exact = |task: &TaskInfo| {
        let (id, shown) = (
            task.id.to_string(),
            format!("{}.{}", task.service_name, task.slot),
        );
        [
            &id,
            &format!("{shown}.{id}"),
            &format!("{shown}.{}", task.id.short()),
        ]
        .contains(&&args.name)
    };
    // The newest of those that had a slot one after another comes last.
    let slot = |task: &&TaskInfo| format!("{}.{}", task.service_name, task.slot) == name;
    let slot = tasks.iter().rev().find(slot).map(|task| task.id);
    if tasks.iter().any(exact) {
        tasks.retain(exact);
    } else if let Some(id) = slot {
        tasks.retain(|task| task.id == id);
    } else {
        tasks.retain(|task| !name.is_empty() && task.id.to_string().starts_with(name));
    }
    match tasks.len() {
        0 => Err(missing.said(format_args!(
            "no such service or task: {name}; `overlay service ls` and `overlay service ps` list them"
        ))),
        1 => Ok(Found::Fixed(shown(tasks, args.prefix))),
        several => Err(Failure::new(format_args!(
            "{name} is the beginning of the identities of {several} tasks: give more of it"
        ))),
    }
}

/// In Docker's order: slot by slot, and in each the oldest first.
fn shown(mut tasks: Vec<TaskInfo>, prefix: PrefixArgs) -> Vec<Shown> {
    tasks.retain(|task| task.node.is_some());
    tasks.sort_by_key(|task| task.slot);
    let slots = tasks.iter().map(|task| task.slot.to_string().len());
    let slot_width = slots.max().unwrap_or_default();
    let shown = |task: &TaskInfo| Shown {
        id: task.id,
        prefix: prefix.of(task, slot_width),
    };
    tasks.iter().map(shown).collect()
}

/// What a worker knows by itself.
async fn here(client: &Client, args: &ServiceLogsArgs, failure: Failure) -> Result<Found, Failure> {
    let mut tasks = match client.programs(&ProgramRequest::Tasks).await? {
        ProgramResponse::Tasks(tasks) => tasks,
        other => return Err(unexpected(&other)),
    };
    tasks.retain(|task| {
        let fits = [&task.service, &task.name].contains(&&args.name);
        fits || !args.name.is_empty() && task.id.to_string().starts_with(&args.name)
    });
    tasks.sort_by(|a, b| a.name.cmp(&b.name));
    if tasks.is_empty() {
        return Err(failure.said(format_args!(
            "no task of {} is on this node, and as a worker it knows no others: ask a manager, `overlay service logs {}` there",
            args.name, args.name
        )));
    }
    complain(
        "this node is a worker and shows its own tasks alone: ask a manager for those of others",
    );
    let info = match client.request(&Request::Info).await? {
        Response::Info(info) => info,
        other => return Err(unexpected(&other)),
    };
    let tasks = tasks.iter().map(|task| Shown {
        id: task.id,
        prefix: args.prefix.write(&task.name, &task.id, &info.name, ""),
    });
    Ok(Found::Fixed(tasks.collect()))
}

/// What went wrong with some, each thing once.
#[derive(Debug, Default)]
struct Complaints(BTreeMap<String, ()>);

impl Complaints {
    fn add(&mut self, failure: &Failure) {
        if self.0.insert(failure.message.clone(), ()).is_none() {
            complain(failure);
        }
    }

    fn report(&self) -> Report {
        Report::code(u8::from(!self.0.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_of_lines_are_read_as_by_docker() {
        assert_eq!(tail("all").unwrap().0, None);
        assert_eq!(tail("0").unwrap().0, Some(0));
        assert!(tail("-1").is_err() && tail("some").is_err());
        assert_eq!(since("2024-02-29T12:00:00Z"), Ok(1_709_208_000_000));
        assert_eq!(since("1709208000"), Ok(1_709_208_000_000));
        let ago = time::unix_ms() - since("10m").unwrap();
        assert!((600_000..660_000).contains(&ago), "{ago}");
        assert!(since("yesterday").unwrap_err().contains("such as 10m"));
    }

    #[test]
    fn lines_begin_with_their_time_if_that_is_asked_for() {
        let part = |timestamps| PartArgs {
            follow: false,
            tail: Tail(None),
            since: None,
            timestamps,
        };
        assert_eq!(part(false).line(Some(1), "p | ", "x"), "p | x\n");
        let line = part(true).line(Some(1_500), "p | ", "x");
        assert_eq!(line, "1970-01-01T00:00:01.500Z p | x\n");
        let blank = part(true).line(None, "p | ", "x");
        assert_eq!(line.find("p |"), blank.find("p |"));
    }
}
