//! `node ls`, `inspect`, `promote`, `demote`, `update`, `ps`, `rm`.

use std::{collections::BTreeMap, fmt::Write as _};

use clap::{Args, Subcommand, ValueEnum};
use overlay_core::NodeId;
use serde::Serialize;

use super::{
    Failure, ListingArgs, Report,
    cluster::RoleArg,
    listing::{FormatArgs, Item},
    pair,
    service::{
        AmountsJson, task_list,
        tasks::{self, TasksArgs},
    },
    table::{Table, printable},
    unexpected,
};
use crate::{
    api::{
        Availability, Info, ManagerStatus, NodeInfo, NodeStatus, NodeUpdate, Request, Response,
        Role,
    },
    client::Client,
};

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes of the cluster
    #[command(visible_alias = "list")]
    Ls(ListingArgs),
    /// Describe nodes, as JSON
    Inspect(InspectArgs),
    /// Make nodes managers
    Promote(NodesArgs),
    /// Make managers workers
    Demote(NodesArgs),
    /// Change a node: its availability, role and labels
    Update(UpdateArgs),
    /// List the tasks of nodes
    Ps(PsArgs),
    /// Remove nodes from the cluster
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    /// Identity, host name, or the beginning of the identity; `self` is the node that answers
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
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
    nodes: NodesArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Remove the node although it is not down
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    nodes: NodesArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Whether it gets new tasks; `drain` moves those that it has to other nodes
    #[arg(long)]
    availability: Option<AvailabilityArg>,
    /// What it is to be
    #[arg(long)]
    role: Option<RoleArg>,
    /// Set a label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label_add: Vec<(String, String)>,
    /// Drop a label; may be repeated
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Identity, host name, or the beginning of the identity; `self` is the node that answers
    node: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    shown: TasksArgs,
    /// Identity, host name, or the beginning of the identity; `self` is the node that answers
    #[arg(value_name = "NODE", default_value = "self")]
    nodes: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AvailabilityArg {
    Active,
    Pause,
    Drain,
}

impl From<AvailabilityArg> for Availability {
    fn from(availability: AvailabilityArg) -> Self {
        match availability {
            AvailabilityArg::Active => Self::Active,
            AvailabilityArg::Pause => Self::Pause,
            AvailabilityArg::Drain => Self::Drain,
        }
    }
}

pub(super) async fn run(client: &Client, command: NodeCommand) -> Result<Report, Failure> {
    match command {
        NodeCommand::Ls(listing) => {
            let fits = fitting(&listing)?;
            let mut nodes = nodes(client, &Request::NodeList).await?;
            nodes.retain(fits);
            let rows: Vec<NodeRow> = nodes.iter().map(NodeRow::from).collect();
            listing.print(&rows, table)
        }
        NodeCommand::Inspect(args) => inspect(client, args).await,
        NodeCommand::Promote(args) => set_role(client, args, Role::Manager).await,
        NodeCommand::Demote(args) => set_role(client, args, Role::Worker).await,
        NodeCommand::Update(args) => update(client, args).await,
        NodeCommand::Ps(args) => ps(client, args).await,
        NodeCommand::Rm(args) => {
            let mut report = Report::default();
            for node in args.nodes.nodes {
                let request = Request::NodeRemove {
                    node: node.clone(),
                    force: args.force,
                };
                report.add(
                    client
                        .request(&request)
                        .await
                        .map(|_| node)
                        .map_err(Failure::from),
                );
            }
            Ok(report)
        }
    }
}

async fn nodes(client: &Client, request: &Request) -> Result<Vec<NodeInfo>, Failure> {
    match client.request(request).await? {
        Response::Nodes(nodes) => Ok(nodes),
        other => Err(unexpected(&other)),
    }
}

async fn node(client: &Client, reference: &str) -> Result<NodeInfo, Failure> {
    let (request, own) = match reference {
        "self" => (Request::NodeList, true),
        _ => (
            Request::NodeInspect {
                node: reference.to_owned(),
            },
            false,
        ),
    };
    let mut found = nodes(client, &request).await?;
    found.retain(|node| node.is_self || !own);
    found.pop().ok_or_else(|| {
        Failure::new(format_args!(
            "no such node: {reference}; `overlay node ls` lists them"
        ))
    })
}

/// Which nodes the filters let pass.
fn fitting(listing: &ListingArgs) -> Result<impl Fn(&NodeInfo) -> bool, Failure> {
    let known = ["id", "name", "label", "node.label", "role", "membership"];
    let filters = listing.filters(&known)?;
    filters.one_of("role", &["manager", "worker"])?;
    filters.one_of("membership", &["accepted", "pending"])?;
    Ok(move |node: &NodeInfo| {
        filters.begins("id", &node.id.to_string())
            && filters.begins("name", &node.hostname)
            && filters.labels("label", &node.labels)
            && filters.labels("node.label", &node.labels)
            && filters.is("role", node.role.as_str())
            // A node that a token let in is a member; nobody waits to be accepted.
            && filters.is("membership", "accepted")
    })
}

async fn inspect(client: &Client, args: InspectArgs) -> Result<Report, Failure> {
    let info = match client.request(&Request::Info).await? {
        Response::Info(info) => info,
        other => return Err(unexpected(&other)),
    };
    let (mut report, mut found) = (Report::default(), Vec::new());
    for reference in &args.nodes.nodes {
        match node(client, reference).await {
            Ok(node) => found.push(NodeJson::new(node, &info)),
            Err(failure) => report.failures.push(failure),
        }
    }
    report.text = if args.pretty {
        let texts: Vec<String> = found.iter().map(pretty).collect();
        texts.join("\n")
    } else {
        args.format.print(&found)?
    };
    Ok(report)
}

async fn set_role(client: &Client, args: NodesArgs, role: Role) -> Result<Report, Failure> {
    let mut report = Report::default();
    for reference in args.nodes {
        report.add(set_one_role(client, reference, role).await);
    }
    Ok(report)
}

async fn set_one_role(client: &Client, reference: String, role: Role) -> Result<String, Failure> {
    let found = node(client, &reference).await?;
    if found.role == role {
        return Ok(format!("Node {reference} is already a {role}."));
    }
    let request = Request::NodeSetRole {
        node: found.id.to_string(),
        role,
    };
    match client.request(&request).await? {
        Response::Done | Response::Nodes(_) => Ok(match role {
            Role::Manager => format!("Node {reference} promoted to a manager in the cluster."),
            Role::Worker => format!("Manager {reference} demoted in the cluster."),
        }),
        other => Err(unexpected(&other)),
    }
}

async fn update(client: &Client, args: UpdateArgs) -> Result<Report, Failure> {
    let found = node(client, &args.node).await?;
    let request = Request::NodeUpdate(NodeUpdate {
        node: found.id.to_string(),
        availability: args.availability.map(Availability::from),
        role: args.role.map(Role::from),
        labels_add: BTreeMap::from_iter(args.label_add),
        labels_remove: args.label_rm,
    });
    match client.request(&request).await? {
        Response::Done | Response::Nodes(_) => Ok(Report::line(args.node)),
        other => Err(unexpected(&other)),
    }
}

async fn ps(client: &Client, args: PsArgs) -> Result<Report, Failure> {
    let fits = tasks::fitting(&args.shown.listing)?;
    let (mut failures, mut found) = (Vec::new(), Vec::new());
    for reference in args.nodes {
        let listed = async {
            let node = node(client, &reference).await?;
            task_list(client, None, Some(node.id.to_string())).await
        };
        match listed.await {
            Ok(tasks) => found.extend(tasks),
            Err(failure) => failures.push(failure),
        }
    }
    found.retain(fits);
    let rows = tasks::rows(found, &args.shown);
    let mut report = args.shown.listing.print(&rows, tasks::table)?;
    report.failures = failures;
    Ok(report)
}

/// A line of `node ls`; fields in the order that Docker prints in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeRow {
    availability: &'static str,
    engine_version: String,
    hostname: String,
    #[serde(rename = "ID")]
    id: String,
    manager_status: &'static str,
    #[serde(rename = "Self")]
    is_self: bool,
    status: &'static str,
}

impl Item for NodeRow {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("Availability", "AVAILABILITY"),
        ("EngineVersion", "ENGINE VERSION"),
        ("Hostname", "HOSTNAME"),
        ("ID", "ID"),
        ("ManagerStatus", "MANAGER STATUS"),
        ("Self", "SELF"),
        ("Status", "STATUS"),
    ];

    fn identity(&self) -> String {
        self.id.clone()
    }
}

impl From<&NodeInfo> for NodeRow {
    fn from(node: &NodeInfo) -> Self {
        Self {
            availability: availability(node.availability),
            engine_version: node.version.clone(),
            hostname: node.hostname.clone(),
            id: node.id.to_string(),
            manager_status: match node.manager_status {
                None => "",
                Some(ManagerStatus::Leader) => "Leader",
                Some(ManagerStatus::Reachable) => "Reachable",
                Some(ManagerStatus::Unreachable) => "Unreachable",
            },
            is_self: node.is_self,
            status: word(node.status),
        }
    }
}

fn table(rows: &[NodeRow]) -> Table {
    let headers = [
        "ID",
        "HOSTNAME",
        "STATUS",
        "AVAILABILITY",
        "MANAGER STATUS",
        "ENGINE VERSION",
    ];
    let mut table = Table::new(&headers);
    for row in rows {
        table.row([
            format!("{} {}", row.id, if row.is_self { "*" } else { " " }),
            row.hostname.clone(),
            row.status.into(),
            row.availability.into(),
            row.manager_status.into(),
            row.engine_version.clone(),
        ]);
    }
    table
}

/// A node as `inspect` prints it, in Docker's shape.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeJson {
    #[serde(rename = "ID")]
    id: NodeId,
    spec: SpecJson,
    description: DescriptionJson,
    status: StatusJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    manager_status: Option<ManagerStatusJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SpecJson {
    labels: BTreeMap<String, String>,
    role: Role,
    availability: Availability,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DescriptionJson {
    hostname: String,
    resources: AmountsJson,
    engine: EngineJson,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EngineJson {
    engine_version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusJson {
    state: NodeStatus,
    addr: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManagerStatusJson {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leader: bool,
    reachability: &'static str,
    addr: String,
}

/// A node as `inspect --pretty` prints it.
fn pretty(node: &NodeJson) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, label: &str, value: &dyn std::fmt::Display| {
        let (label, value) = (format!("{label}:"), printable(value.to_string()));
        let width = 24 - indent;
        let line = format!("{:indent$}{label:width$}{value}", "");
        writeln!(text, "{}", line.trim_end()).expect("writing to a string cannot fail");
    };
    line(0, "ID", &node.id);
    for (key, value) in &node.spec.labels {
        line(0, "Label", &format_args!("{key}={value}"));
    }
    line(0, "Hostname", &node.description.hostname);
    line(0, "Status", &"");
    line(1, "State", &word(node.status.state));
    line(1, "Availability", &availability(node.spec.availability));
    line(1, "Address", &node.status.addr);
    if let Some(manager) = &node.manager_status {
        line(0, "Manager Status", &"");
        line(1, "Address", &manager.addr);
        line(1, "Raft Status", &manager.reachability);
        line(1, "Leader", &if manager.leader { "Yes" } else { "No" });
    }
    let version = &node.description.engine.engine_version;
    line(0, "Engine Version", version);
    text
}

const fn word(status: NodeStatus) -> &'static str {
    match status {
        NodeStatus::Unknown => "Unknown",
        NodeStatus::Ready => "Ready",
        NodeStatus::Down => "Down",
    }
}

const fn availability(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "Active",
        Availability::Pause => "Pause",
        Availability::Drain => "Drain",
    }
}

impl NodeJson {
    fn new(node: NodeInfo, info: &Info) -> Self {
        let manager = info.managers.iter().find(|manager| manager.node == node.id);
        let manager_status = node.manager_status.map(|status| ManagerStatusJson {
            leader: status == ManagerStatus::Leader,
            reachability: match status {
                ManagerStatus::Leader | ManagerStatus::Reachable => "reachable",
                ManagerStatus::Unreachable => "unreachable",
            },
            addr: manager.map_or_else(String::new, |manager| manager.address.to_string()),
        });
        Self {
            id: node.id,
            spec: SpecJson {
                labels: node.labels,
                role: node.role,
                availability: node.availability,
            },
            description: DescriptionJson {
                hostname: node.hostname,
                resources: AmountsJson::new(node.resources),
                engine: EngineJson {
                    engine_version: node.version,
                },
            },
            status: StatusJson {
                state: node.status,
                addr: node.address.to_string(),
            },
            manager_status,
        }
    }
}
