//! `init`, `join`, `leave`, `join-token`, `token`, `ca`, `unlock`, `unlock-key`, `info`, `cluster`.

pub(super) mod authority;
pub(super) mod locking;
pub(super) mod settings;
pub(super) mod token;

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
};

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::Serialize;

use super::{Failure, Report, listing, service::duration_ms, unexpected};
use crate::{
    api::{
        Info, InitRequest, JoinRequest, LocalState, Recovered, Request, Response, Role,
        TokenCreate, TokenInfo,
    },
    client::Client,
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The address that other nodes reach this one at [default: the daemon's]
    #[arg(long, value_name = "IP")]
    advertise_addr: Option<IpAddr>,
    /// A pool that networks take their subnets from; may be repeated [default: 10.0.0.0/8]
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    default_addr_pool: Vec<IpNet>,
    /// Prefix length of the subnets that are cut from the pools [default: 24]
    #[arg(long, value_name = "LENGTH")]
    default_addr_pool_mask_length: Option<u8>,
    /// Lock the data directories of managers: one that is restarted waits for `unlock`
    #[arg(long, conflicts_with = "force_new_cluster")]
    autolock: bool,
    /// Rebuild the cluster of this manager with it as the only one, after the quorum was lost for good
    #[arg(long)]
    force_new_cluster: bool,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The join token, which also says what this node becomes
    #[arg(long)]
    token: String,
    /// The address that other nodes reach this one at [default: the daemon's]
    #[arg(long, value_name = "IP")]
    advertise_addr: Option<IpAddr>,
    /// A manager of the cluster
    #[arg(value_name = "HOST:PORT", value_parser = remote)]
    remote: SocketAddr,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// Leave although this node is a manager
    #[arg(short, long)]
    force: bool,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct JoinTokenArgs {
    /// Only print the token
    #[arg(short, long)]
    quiet: bool,
    /// Replace the token first; the old one stops working
    #[arg(long)]
    rotate: bool,
    /// Make another token, which lets nodes in for so long only, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, conflicts_with = "rotate")]
    expires: Option<u64>,
    /// Make another token, which lets so many nodes in only
    #[arg(long, value_name = "NUMBER", conflicts_with = "rotate")]
    uses: Option<u32>,
    /// What the joining node becomes
    role: RoleArg,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// `table`, `json` for one object on one line, or a template such as '{{.NodeID}}'
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: listing::Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    Worker,
    Manager,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Worker => Self::Worker,
            RoleArg::Manager => Self::Manager,
        }
    }
}

const MANAGEMENT_PORT: u16 = 2377;

/// Reads `address`, `address:port`, `name` or `name:port`.
fn remote(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, MANAGEMENT_PORT));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (
            name,
            port.parse()
                .map_err(|_| format!("expected a port number, found `{port}`"))?,
        ),
        None => (text, MANAGEMENT_PORT),
    };
    let mut found = (name, port)
        .to_socket_addrs()
        .map_err(|error| format!("cannot find the address of `{name}`: {error}"))?;
    found
        .next()
        .ok_or_else(|| format!("`{name}` has no address"))
}

pub(super) async fn init(client: &Client, args: InitArgs) -> Result<Report, Failure> {
    let request = Request::Init(InitRequest {
        advertise: args.advertise_addr,
        pools: args.default_addr_pool,
        pool_split: args.default_addr_pool_mask_length,
        force_new_cluster: args.force_new_cluster,
    });
    let joined = match client.request(&request).await? {
        Response::Joined(joined) => joined,
        Response::Recovered(recovered) => return Ok(Report::text(rebuilt(&recovered))),
        other => return Err(unexpected(&other)),
    };
    let mut text = format!(
        "Cluster initialized: current node ({}) is now a manager.\n\n",
        joined.node
    );
    if let Some(token) = &joined.worker_token {
        text.push_str(&join_command(token));
    }
    text.push_str(
        "To add a manager to this cluster, run 'overlay join-token manager' and follow the instructions.\n\n",
    );
    if args.autolock {
        text.push_str(locking::autolock(client, true).await?.trim_start());
    }
    Ok(Report::text(text))
}

/// Says what a rebuilt cluster kept and what it dropped.
fn rebuilt(recovered: &Recovered) -> String {
    let Recovered {
        node,
        epoch,
        index,
        dropped,
        nodes,
        networks,
        endpoints,
        services,
    } = recovered;
    let mut text = format!(
        "Cluster rebuilt: current node ({node}) is its only manager now (epoch {epoch}).\n\n\
         Kept, as of change {index} of the log: {nodes} nodes, {networks} networks, {endpoints} endpoints, {services} services,\n\
         the cluster's identity, its certificate authority and its join tokens. Workers follow by themselves.\n\n"
    );
    if dropped.is_empty() {
        text.push_str("Dropped: nothing; there was no other manager.\n");
        return text;
    }
    text.push_str("Dropped, with what only they had acknowledged and what they ran:\n");
    for (node, hostname) in dropped {
        let _ = writeln!(text, "    manager {hostname} ({node})");
    }
    text.push_str(
        "A dropped manager whose daemon runs again leaves as soon as it hears of this; let it join again then,\n\
         with the command of 'overlay join-token manager'.\n",
    );
    text
}

pub(super) async fn join(client: &Client, args: JoinArgs) -> Result<Report, Failure> {
    let request = Request::Join(JoinRequest {
        token: args.token,
        remote: args.remote,
        advertise: args.advertise_addr,
    });
    match client.request(&request).await? {
        Response::Joined(joined) => Ok(Report::line(format_args!(
            "This node joined a cluster as a {}.",
            joined.role
        ))),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn leave(client: &Client, args: LeaveArgs) -> Result<Report, Failure> {
    match client
        .request(&Request::Leave { force: args.force })
        .await?
    {
        Response::Done => Ok(Report::line("Node left the cluster.")),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn join_token(client: &Client, args: JoinTokenArgs) -> Result<Report, Failure> {
    let role = args.role.into();
    if args.expires.is_some() || args.uses.is_some() {
        let wanted = TokenCreate {
            role,
            lifetime_ms: args.expires,
            uses: args.uses,
        };
        return token::create(client, wanted, args.quiet).await;
    }
    let request = Request::JoinToken {
        role,
        rotate: args.rotate,
    };
    let token = match client.request(&request).await? {
        Response::Token(token) => token,
        other => return Err(unexpected(&other)),
    };
    if args.quiet {
        return Ok(Report::line(token.token));
    }
    let mut text = String::new();
    if args.rotate {
        text = format!("Successfully rotated {} join token.\n\n", token.role);
    }
    text.push_str(&join_command(&token));
    Ok(Report::text(text))
}

fn join_command(token: &TokenInfo) -> String {
    format!(
        "To add a {} to this cluster, run the following command:\n\n    overlay join --token {} {}\n\n",
        token.role, token.token, token.remote
    )
}

pub(super) async fn info(client: &Client, args: InfoArgs) -> Result<Report, Failure> {
    let info = match client.request(&Request::Info).await? {
        Response::Info(info) => info,
        other => return Err(unexpected(&other)),
    };
    match args.format {
        listing::Format::Table => Ok(Report::text(info_text(&info))),
        format => Ok(Report::line(format.line(&InfoJson::from(&*info))?)),
    }
}

fn info_text(info: &Info) -> String {
    let mut text = format!("Name: {}\nServer Version: {}\n", info.name, info.version);
    let mut line = |indent: usize, label: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{:indent$}{label}: {value}", "").expect("writing to a string cannot fail");
    };
    line(0, "Cluster", &state_word(info.state));
    if let Some(node) = info.node {
        line(1, "NodeID", &node);
    }
    if let Some(role) = info.role {
        line(1, "Is Manager", &(role == Role::Manager));
    }
    if let Some(cluster) = info.cluster {
        line(1, "ClusterID", &cluster);
    }
    if !matches!(info.state, LocalState::Inactive | LocalState::Locked) {
        line(1, "Managers", &info.managers.len());
        line(1, "Nodes Alive", &info.nodes_alive);
        line(
            1,
            "Leader",
            &info
                .leader
                .map_or_else(|| "unknown".into(), |id| id.to_string()),
        );
    }
    if let Some(applied) = info.applied {
        line(1, "Applied Index", &applied);
    }
    line(1, "Endpoints", &info.endpoints);
    if let Some(address) = info.address {
        line(1, "Node Address", &address);
    }
    if !info.managers.is_empty() {
        text.push_str(" Manager Addresses:\n");
        for manager in &info.managers {
            writeln!(text, "  {}", manager.address).expect("writing to a string cannot fail");
        }
    }
    for warning in &info.warnings {
        writeln!(text, "WARNING: {warning}").expect("writing to a string cannot fail");
    }
    text
}

const fn state_word(state: LocalState) -> &'static str {
    match state {
        LocalState::Inactive => "inactive",
        LocalState::Active => "active",
        LocalState::Failed => "failed",
        LocalState::Locked => "locked",
    }
}

/// `info` with Docker's names.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct InfoJson {
    name: String,
    server_version: String,
    local_node_state: &'static str,
    #[serde(rename = "NodeID")]
    node_id: String,
    #[serde(rename = "ClusterID")]
    cluster_id: String,
    control_available: bool,
    node_addr: String,
    leader: String,
    nodes_alive: usize,
    managers: usize,
    remote_managers: Vec<RemoteManager>,
    endpoints: usize,
    applied_index: Option<u64>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RemoteManager {
    #[serde(rename = "NodeID")]
    node_id: String,
    addr: String,
}

impl From<&Info> for InfoJson {
    fn from(info: &Info) -> Self {
        let text =
            |id: Option<overlay_core::NodeId>| id.map_or_else(String::new, |id| id.to_string());
        Self {
            name: info.name.clone(),
            server_version: info.version.clone(),
            local_node_state: state_word(info.state),
            node_id: text(info.node),
            cluster_id: text(info.cluster),
            control_available: info.role == Some(Role::Manager),
            node_addr: info
                .address
                .map_or_else(String::new, |address| address.to_string()),
            leader: text(info.leader),
            nodes_alive: info.nodes_alive,
            managers: info.managers.len(),
            remote_managers: info
                .managers
                .iter()
                .map(|manager| RemoteManager {
                    node_id: manager.node.to_string(),
                    addr: manager.address.to_string(),
                })
                .collect(),
            endpoints: info.endpoints,
            applied_index: info.applied,
            warnings: info.warnings.clone(),
        }
    }
}
