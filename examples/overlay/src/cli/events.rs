//! `events`: what changed in the cluster.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{
    Failure, Report,
    filter::{Filter, Filters},
    is_read, listing,
    table::printable,
    unexpected,
};
use crate::{
    api::{EventInfo, Request, Response},
    client::Client,
    time,
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only what happened after this index of the log
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    since: u64,
    /// Go on as more happens
    #[arg(short, long)]
    follow: bool,
    /// `table`, `json` for one object a line, or a template such as '{{.Type}} {{.Action}} {{.Actor.ID}}'
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: listing::Format,
    /// Only show what fits: type=, event=, id=, name= or node=; may be repeated
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
}

const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn run(client: &Client, args: EventsArgs) -> Result<Report, Failure> {
    let filters = Filters::new(&args.filter, &["type", "event", "id", "name", "node"])?;
    let fits = |event: &EventInfo| {
        filters.is("type", &event.kind)
            && filters.is("event", &event.action)
            && filters.begins("id", &event.id)
            && filters.begins("name", &event.name)
            && filters.begins("node", &event.actor.to_string())
    };
    let mut after = args.since;
    let mut events = after_index(client, after).await?;
    loop {
        let mut text = String::new();
        for event in &events {
            after = after.max(event.index);
            if !fits(event) {
                continue;
            }
            text.push_str(&match &args.format {
                listing::Format::Table => line(event),
                format => format.line(&EventJson::from(event))?,
            });
            text.push('\n');
        }
        if !args.follow {
            return Ok(Report::text(text));
        }
        if !is_read(&text) {
            return Ok(Report::default());
        }
        tokio::time::sleep(PAUSE).await;
        events = match after_index(client, after).await {
            Err(failure) if failure.is_transient() => Vec::new(),
            events => events?,
        };
    }
}

async fn after_index(client: &Client, after: u64) -> Result<Vec<EventInfo>, Failure> {
    match client.request(&Request::Events { after }).await? {
        Response::Events(events) => Ok(events),
        other => Err(unexpected(&other)),
    }
}

/// A line as Docker's: the time, what, which one.
fn line(event: &EventInfo) -> String {
    format!(
        "{} {} {} {} (name={}, actor={}, index={})",
        time::rfc3339(event.at_unix_ms),
        event.kind,
        event.action,
        event.id,
        printable(event.name.clone()),
        event.actor.short(),
        event.index
    )
}

/// An event as Docker's JSON has it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventJson<'a> {
    #[serde(rename = "Type")]
    kind: &'a str,
    action: &'a str,
    actor: ActorJson<'a>,
    node: String,
    index: u64,
    time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ActorJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    attributes: AttributesJson<'a>,
}

#[derive(Serialize)]
struct AttributesJson<'a> {
    name: &'a str,
}

impl<'a> From<&'a EventInfo> for EventJson<'a> {
    fn from(event: &'a EventInfo) -> Self {
        Self {
            kind: &event.kind,
            action: &event.action,
            actor: ActorJson {
                id: &event.id,
                attributes: AttributesJson { name: &event.name },
            },
            node: event.actor.to_string(),
            index: event.index,
            time: time::rfc3339(event.at_unix_ms),
        }
    }
}
