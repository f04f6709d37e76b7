//! `service create`, `ls`, `inspect`, `ps`, `logs`, `scale`, `update`, `rollback`, `rm`.

mod endpoint;
mod options;
mod pretty;
mod print;
mod progress;
mod refused;
pub(super) mod tasks;
pub(super) mod values;

use clap::{Args, Subcommand};

use super::{
    Failure, ListingArgs, Report,
    listing::FormatArgs,
    logs::{self, ServiceLogsArgs},
    print as say, unexpected,
};
use crate::{
    api::{Request, Response, ServiceInfo, ServiceMode, TaskInfo},
    client::Client,
};
use options::{CreateArgs, UpdateArgs, WaitArgs};
pub(super) use print::AmountsJson;
use print::{ServiceJson, ServiceRow};
use progress::Asked;
use tasks::{TaskRow, TasksArgs};
pub(super) use values::duration_ms;

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Create a service: tasks that run a program wherever they fit
    Create(Box<CreateArgs>),
    /// List the services
    #[command(visible_alias = "list")]
    Ls(ListingArgs),
    /// Describe services, as JSON
    Inspect(InspectArgs),
    /// List the tasks of services, those that ended among them
    Ps(PsArgs),
    /// Print what the tasks of a service have written, or one task, on whatever node
    Logs(ServiceLogsArgs),
    /// Change how many tasks services have
    Scale(ScaleArgs),
    /// Change a service; its tasks are replaced
    Update(Box<UpdateArgs>),
    /// Change a service back to what it was before its last change
    Rollback(RollbackArgs),
    /// Remove services and their tasks
    #[command(visible_alias = "remove")]
    Rm(ServicesArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ServicesArgs {
    /// Name, identity, or the beginning of the identity
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    format: FormatArgs,
    /// Text for people instead
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    #[command(flatten)]
    services: ServicesArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    shown: TasksArgs,
    #[command(flatten)]
    services: ServicesArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    wait: WaitArgs,
    /// Which service, and how many tasks
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = scale_of)]
    scales: Vec<(String, u32)>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    wait: WaitArgs,
    /// Name, identity, or the beginning of the identity
    service: String,
}

fn scale_of(text: &str) -> Result<(String, u32), String> {
    let parsed = text
        .rsplit_once('=')
        .and_then(|(service, replicas)| Some((service.to_owned(), replicas.parse().ok()?)));
    parsed
        .filter(|(service, _)| !service.is_empty())
        .ok_or_else(|| format!("expected SERVICE=REPLICAS, found `{text}`"))
}

pub(super) async fn run(client: &Client, command: ServiceCommand) -> Result<Report, Failure> {
    match command {
        ServiceCommand::Create(args) => create(client, *args).await,
        ServiceCommand::Ls(listing) => {
            let fits = fitting(&listing)?;
            let mut services = services(client, &Request::ServiceList).await?;
            services.retain(fits);
            let whole = listing.quiet || listing.whole();
            let rows: Vec<ServiceRow> = services
                .iter()
                .map(|service| ServiceRow::new(service, whole))
                .collect();
            listing.print(&rows, print::table)
        }
        ServiceCommand::Inspect(args) => inspect(client, args).await,
        ServiceCommand::Ps(args) => ps(client, args).await,
        ServiceCommand::Logs(args) => logs::of_service(client, args).await,
        ServiceCommand::Scale(args) => scale(client, args).await,
        ServiceCommand::Update(args) => update(client, *args).await,
        ServiceCommand::Rollback(args) => rollback(client, args.service, args.wait).await,
        ServiceCommand::Rm(args) => {
            let mut report = Report::default();
            for service in args.services {
                let request = Request::ServiceRemove {
                    service: service.clone(),
                };
                let removed = client.request(&request).await;
                report.add(removed.map(|_| service).map_err(Failure::from));
            }
            Ok(report)
        }
    }
}

async fn services(client: &Client, request: &Request) -> Result<Vec<ServiceInfo>, Failure> {
    match client.request(request).await? {
        Response::Services(services) => Ok(services),
        other => Err(unexpected(&other)),
    }
}

/// Which services the filters let pass.
fn fitting(listing: &ListingArgs) -> Result<impl Fn(&ServiceInfo) -> bool, Failure> {
    let filters = listing.filters(&["id", "name", "label", "mode"])?;
    filters.one_of("mode", &["replicated", "global"])?;
    Ok(move |service: &ServiceInfo| {
        filters.begins("id", &service.id.to_string())
            && filters.begins("name", &service.spec.name)
            && filters.labels("label", &service.spec.labels)
            && filters.is("mode", mode(service))
    })
}

/// Asks for what is answered with one service.
async fn service(client: &Client, request: &Request) -> Result<ServiceInfo, Failure> {
    let mut found = services(client, request).await?;
    found.pop().ok_or_else(|| unexpected(&found))
}

pub(super) async fn task_list(
    client: &Client,
    service: Option<String>,
    node: Option<String>,
) -> Result<Vec<TaskInfo>, Failure> {
    match client.request(&Request::TaskList { service, node }).await? {
        Response::Tasks(tasks) => Ok(tasks),
        other => Err(unexpected(&other)),
    }
}

async fn create(client: &Client, args: CreateArgs) -> Result<Report, Failure> {
    let wait = args.wait;
    let request = Request::ServiceCreate(Box::new(args.spec()?));
    let created = service(client, &request).await?;
    let id = created.id.to_string();
    if wait.detach {
        return Ok(Report::line(id));
    }
    say(&format!("{id}\n"));
    progress::follow(client, id, Asked::Change, wait.quiet).await
}

async fn inspect(client: &Client, args: InspectArgs) -> Result<Report, Failure> {
    let (mut report, mut found) = (Report::default(), Vec::new());
    for reference in args.services.services {
        let request = Request::ServiceInspect { service: reference };
        match service(client, &request).await {
            Ok(service) => found.push(service),
            Err(failure) => report.failures.push(failure),
        }
    }
    if args.pretty {
        let texts: Vec<String> = found.iter().map(pretty::pretty).collect();
        report.text = texts.join("\n");
    } else {
        let found: Vec<ServiceJson<'_>> = found.iter().map(ServiceJson::from).collect();
        report.text = args.format.print(&found)?;
    }
    Ok(report)
}

async fn ps(client: &Client, args: PsArgs) -> Result<Report, Failure> {
    let fits = tasks::fitting(&args.shown.listing)?;
    let (mut failures, mut found) = (Vec::new(), Vec::new());
    for reference in args.services.services {
        match task_list(client, Some(reference), None).await {
            Ok(tasks) => found.extend(tasks),
            Err(failure) => failures.push(failure),
        }
    }
    found.retain(fits);
    let rows: Vec<TaskRow> = tasks::rows(found, &args.shown);
    let mut report = args.shown.listing.print(&rows, tasks::table)?;
    report.failures = failures;
    Ok(report)
}

async fn scale(client: &Client, args: ScaleArgs) -> Result<Report, Failure> {
    let (mut report, mut scaled) = (Report::default(), Vec::new());
    for (name, replicas) in args.scales {
        let request = Request::ServiceScale {
            service: name.clone(),
            replicas,
        };
        match service(client, &request).await {
            Ok(service) => {
                say(&format!("{name} scaled to {replicas}\n"));
                scaled.push(service.id.to_string());
            }
            Err(failure) => {
                let message = format!("{name}: {failure}");
                report.failures.push(Failure::new(message));
            }
        }
    }
    for id in scaled.into_iter().filter(|_| !args.wait.detach) {
        let followed = progress::follow(client, id, Asked::Change, args.wait.quiet).await;
        match followed {
            Ok(followed) => {
                report.code = report.code.max(followed.code);
                report.failures.extend(followed.failures);
            }
            Err(failure) => report.failures.push(failure),
        }
    }
    Ok(report)
}

async fn update(client: &Client, args: UpdateArgs) -> Result<Report, Failure> {
    let (name, wait) = (args.service.clone(), args.wait);
    if args.rollback {
        return rollback(client, name, wait).await;
    }
    let seen = Request::ServiceInspect {
        service: name.clone(),
    };
    let seen = service(client, &seen).await?;
    let mut spec = seen.spec;
    args.change(&mut spec)?;
    let request = Request::ServiceUpdate {
        service: seen.id.to_string(),
        version: Some(seen.version),
        spec: Box::new(spec),
    };
    let changed = service(client, &request).await?;
    if wait.detach {
        return Ok(Report::line(name));
    }
    say(&format!("{name}\n"));
    progress::follow(client, changed.id.to_string(), Asked::Change, wait.quiet).await
}

async fn rollback(client: &Client, name: String, wait: WaitArgs) -> Result<Report, Failure> {
    let request = Request::ServiceRollback {
        service: name.clone(),
    };
    let changed = service(client, &request).await?;
    if wait.detach {
        return Ok(Report::line(name));
    }
    say(&format!("{name}\n"));
    progress::follow(client, changed.id.to_string(), Asked::Rollback, wait.quiet).await
}

/// The mode in Docker's word.
fn mode(service: &ServiceInfo) -> &'static str {
    match service.spec.mode {
        ServiceMode::Replicated(_) => "replicated",
        ServiceMode::Global => "global",
    }
}
