//! `logs` and `service logs`: what programs and tasks of this node have written.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;

use super::{
    Failure, Report, complain, print,
    service::{task_list, tasks},
    unexpected,
};
use crate::{
    api::{Info, Request, Response, TaskState},
    client::Client,
    wire::{ProgramRequest, ProgramResponse, TaskProgram},
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines, of each task
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<usize>,
    /// A program, a task, or a service
    #[arg(value_name = "NAME")]
    name: String,
}

/// Between two looks at what was written.
const PAUSE: Duration = Duration::from_millis(500);
/// As much of what was shown last is looked for in what there is now.
const KNOWN_BYTES: usize = 4 * 1024;

/// `overlay logs`: a program or task by its name, or all tasks of a service.
pub(super) async fn run(client: &Client, args: LogsArgs) -> Result<Report, Failure> {
    match output(client, &args.name).await {
        Ok(first) => one(client, args, first).await,
        Err(failure) if failure.is_missing() => of_service(client, args).await,
        Err(failure) => Err(failure),
    }
}

/// `overlay service logs`: the tasks of a service on this node, and where the others are.
pub(super) async fn of_service(client: &Client, args: LogsArgs) -> Result<Report, Failure> {
    let info = match client.request(&Request::Info).await? {
        Response::Info(info) => info,
        other => return Err(unexpected(&other)),
    };
    let here = here(client, &args.name).await?;
    match elsewhere(client, &info, &args.name).await {
        Ok(others) => {
            for other in &others {
                complain(other);
            }
            if here.is_empty() && others.is_empty() {
                return Ok(Report::default());
            }
        }
        // A worker knows its own; a refusal matters where there is nothing else to show.
        Err(failure) if here.is_empty() => return Err(failure),
        Err(_) => {}
    }
    if here.is_empty() {
        let message = format!("no task of {} runs on this node", args.name);
        return Err(Failure::new(message));
    }
    let mut shown = BTreeMap::<String, String>::new();
    let mut tasks = here;
    loop {
        for task in &tasks {
            let id = task.id.to_string();
            let Ok(now) = output(client, &id).await else {
                continue;
            };
            let new = match shown.get(&id) {
                Some(before) => after(before, &now),
                None => last_lines(&now, args.tail),
            };
            let whole = if args.follow { whole_lines(new) } else { new };
            print(&prefixed(&task.name, whole, &info.name));
            let unshown = new.len() - whole.len();
            let seen = now
                .get(..now.len() - unshown)
                .unwrap_or_default()
                .to_owned();
            shown.insert(id, seen);
        }
        if !args.follow {
            return Ok(Report::default());
        }
        tokio::time::sleep(PAUSE).await;
        tasks = here_or_before(client, &args.name, tasks).await;
    }
}

async fn one(client: &Client, args: LogsArgs, first: String) -> Result<Report, Failure> {
    let text = last_lines(&first, args.tail);
    if !args.follow {
        return Ok(Report::text(text));
    }
    print(text);
    let mut shown = first;
    loop {
        tokio::time::sleep(PAUSE).await;
        let now = match output(client, &args.name).await {
            Ok(now) => now,
            // It was removed.
            Err(failure) if failure.is_missing() => return Ok(Report::default()),
            Err(failure) => return Err(failure),
        };
        print(after(&shown, &now));
        shown = now;
    }
}

async fn output(client: &Client, name: &str) -> Result<String, Failure> {
    let request = ProgramRequest::Logs {
        program: name.to_owned(),
    };
    match client.programs(&request).await? {
        ProgramResponse::Logs { output } => Ok(output),
        other => Err(unexpected(&other)),
    }
}

/// The tasks of a service, or a single one, that this node has.
async fn here(client: &Client, name: &str) -> Result<Vec<TaskProgram>, Failure> {
    let mut tasks = match client.programs(&ProgramRequest::Tasks).await? {
        ProgramResponse::Tasks(tasks) => tasks,
        other => return Err(unexpected(&other)),
    };
    tasks.retain(|task| {
        let fits = [&task.service, &task.name].iter().any(|one| *one == name);
        fits || task.id.to_string().starts_with(name)
    });
    tasks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tasks)
}

async fn here_or_before(client: &Client, name: &str, before: Vec<TaskProgram>) -> Vec<TaskProgram> {
    here(client, name).await.unwrap_or(before)
}

/// Where to ask for the running tasks that are on other nodes.
async fn elsewhere(client: &Client, info: &Info, service: &str) -> Result<Vec<String>, Failure> {
    let tasks = task_list(client, Some(service.to_owned()), None).await?;
    let others = tasks.iter().filter(|task| {
        task.status.state == TaskState::Running && task.node.is_some() && task.node != info.node
    });
    let line = |task| {
        let name = tasks::name(task);
        format!(
            "{name} runs on {host}: ask there, `overlay service logs {name}` on {host}",
            host = task.hostname
        )
    };
    Ok(others.map(line).collect())
}

/// Each line behind the name of its task, as Docker writes it.
fn prefixed(task: &str, text: &str, host: &str) -> String {
    let prefix = format!("{task}@{host}");
    let lines = text.lines().map(|line| format!("{prefix}    | {line}\n"));
    lines.collect()
}

/// The last lines of a text.
fn last_lines(text: &str, lines: Option<usize>) -> &str {
    let Some(lines) = lines else { return text };
    let body = text.strip_suffix('\n').unwrap_or(text);
    let start = match lines {
        0 => text.len(),
        _ => body
            .rmatch_indices('\n')
            .nth(lines - 1)
            .map_or(0, |(at, _)| at + 1),
    };
    text.get(start..).unwrap_or_default()
}

/// What ends with a line's end.
fn whole_lines(text: &str) -> &str {
    let end = text.rfind('\n').map_or(0, |at| at + 1);
    text.get(..end).unwrap_or_default()
}

/// What `now` has beyond `before`, of which the beginning may be gone.
fn after<'a>(before: &str, now: &'a str) -> &'a str {
    if let Some(new) = now.strip_prefix(before) {
        return new;
    }
    let mut start = before.len().saturating_sub(KNOWN_BYTES);
    while !before.is_char_boundary(start) {
        start += 1;
    }
    let known = before.get(start..).unwrap_or_default();
    match now.rfind(known) {
        Some(at) if !known.is_empty() => now.get(at + known.len()..).unwrap_or_default(),
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_counted_from_the_end() {
        let text = "a\nb\nc\n";
        let cases = [
            (None, text),
            (Some(0), ""),
            (Some(1), "c\n"),
            (Some(2), "b\nc\n"),
            (Some(9), text),
        ];
        for (lines, expected) in cases {
            assert_eq!(last_lines(text, lines), expected);
        }
        assert_eq!(last_lines("a\nb", Some(1)), "b");
        assert_eq!(last_lines("", Some(1)), "");
    }

    #[test]
    fn only_what_is_new_is_shown() {
        assert_eq!(after("a\n", "a\nb\n"), "b\n");
        assert_eq!(after("", "a\n"), "a\n");
        // The beginning was turned over.
        assert_eq!(after("a\nb\nc\n", "c\nd\n"), "c\nd\n");
        let long = "é".repeat(KNOWN_BYTES);
        let kept = format!("{}\nnew\n", &long[KNOWN_BYTES..]);
        assert_eq!(after(&long, &kept), "\nnew\n");
        assert_eq!(whole_lines("a\nb"), "a\n");
        assert_eq!(
            prefixed("web.1", "x\ny", "h"),
            "web.1@h    | x\nweb.1@h    | y\n"
        );
    }
}
