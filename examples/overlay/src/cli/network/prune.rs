//! `network prune`.

use std::io::{self, BufRead as _};

use clap::Args;

use super::{Request, networks};
use crate::{
    api::ErrorKind,
    cli::{
        Failure, Report,
        filter::{Filter, Filters},
        print,
    },
    client::{Client, ClientError},
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do not ask first
    #[arg(short, long)]
    force: bool,
    /// Only remove what fits: label=KEY or label=KEY=VALUE; may be repeated
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
}

const QUESTION: &str = "WARNING! This will remove all networks that no endpoint and no service uses.\n\
    Are you sure you want to continue? [y/N] ";

pub(super) async fn run(client: &Client, args: PruneArgs) -> Result<Report, Failure> {
    let filters = Filters::new(&args.filter, &["label"])?;
    if !args.force {
        print(QUESTION);
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(Failure::new)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::new(
                "nothing was removed: answer y, or say --force",
            ));
        }
    }
    let mut all = networks(client, &Request::NetworkList).await?;
    all.retain(|network| !network.ingress && filters.labels("label", &network.labels));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let (mut report, mut removed) = (Report::default(), String::new());
    for network in all {
        let request = Request::NetworkRemove {
            network: network.id.to_string(),
        };
        match client.request(&request).await {
            Ok(_) => removed += &format!("{}\n", network.name),
            // Whether something uses it, it knows who removes it.
            Err(ClientError::Refused(refusal)) if is_used(refusal.error.kind) => {}
            Err(error) => report.failures.push(error.into()),
        }
    }
    if !removed.is_empty() {
        report.text = format!("Deleted Networks:\n{removed}\n");
    }
    Ok(report)
}

/// One that somebody else removed in the meantime is gone as well.
const fn is_used(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InUse | ErrorKind::NotFound)
}
