//! `network create`, `ls`, `inspect`, `rm`, `connect`, `disconnect`; `attach` and `detach`.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand};
use ipnet::IpNet;
use overlay_core::plane::Namespace;

use super::{Failure, ListingArgs, Report, listing::FormatArgs, pair, unexpected};
use crate::{
    api::{AttachRequest, NetworkChoice, NetworkCreate, NetworkInfo, Request, Response},
    client::Client,
    wire::ProgramRequest,
};

mod choice;
mod lookup;
mod print;
mod prune;
mod refused;
mod subnets;

pub(crate) use choice::{AddressArgs, choice};
use print::{NetworkJson, NetworkRow};
use subnets::{Parts, aux};

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// Create a network
    Create(Box<CreateArgs>),
    /// List the networks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Describe networks, as JSON
    Inspect(InspectArgs),
    /// Remove networks that nothing uses
    #[command(visible_alias = "remove")]
    Rm(NetworksArgs),
    /// Give a network more subnets
    Update(UpdateArgs),
    /// Print what would be done now on this host for the kernel to carry its networks as they shall be
    Plan(PlanArgs),
    /// Print where addresses of a network lead by the tables of this node's own data plane
    Lookup(lookup::LookupArgs),
    /// Connect a program of this host that runs to one more network
    Connect(ConnectArgs),
    /// Disconnect a program of this host that runs from a network
    Disconnect(DisconnectArgs),
    /// Remove all networks that nothing uses
    Prune(prune::PruneArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Of this network alone
    network: Option<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Driver of the network
    #[arg(short, long, default_value = "overlay")]
    driver: String,
    /// Let programs and namespaces attach to it
    #[arg(long)]
    attachable: bool,
    /// Give it no way out
    #[arg(long)]
    internal: bool,
    /// A subnet, such as 10.1.0.0/16; may be repeated [default: the next of the pool]
    #[arg(long, value_name = "PREFIX")]
    subnet: Vec<IpNet>,
    /// The gateway of a subnet; may be repeated [default: its first address]
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Choose addresses from this part of a subnet only; may be repeated
    #[arg(long, value_name = "PREFIX")]
    ip_range: Vec<IpNet>,
    /// An option of the driver; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    opt: Vec<(String, String)>,
    /// Free metadata; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// An address of a subnet that nobody shall have, and its name; may be repeated
    #[arg(long, value_name = "NAME=IP", value_parser = aux)]
    aux_address: Vec<(String, IpAddr)>,
    /// Make the network of published ports; there is one, which has to be removed before
    #[arg(long)]
    ingress: bool,
    /// Have IPv6 addresses, which come from a subnet that is given with --subnet
    #[arg(long)]
    ipv6: bool,
    #[command(flatten)]
    _refused: refused::RefusedArgs,
    /// Name of the network
    name: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// One more subnet, such as 10.1.0.0/16, or 0.0.0.0/24 for any of that length; may be repeated
    #[arg(long, value_name = "PREFIX", required = true)]
    subnet_add: Vec<IpNet>,
    /// The gateway of one of them; may be repeated [default: its first address]
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Choose addresses from this part of one of them only; may be repeated
    #[arg(long, value_name = "PREFIX")]
    ip_range: Vec<IpNet>,
    /// An address of one of them that nobody shall have, and its name; may be repeated
    #[arg(long, value_name = "NAME=IP", value_parser = aux)]
    aux_address: Vec<(String, IpAddr)>,
    /// Identity or name of the network
    network: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    listing: ListingArgs,
    /// Print whole identities
    #[arg(long)]
    no_trunc: bool,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    format: FormatArgs,
    /// As Docker's; everything is told anyway
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    networks: NetworksArgs,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct NetworksArgs {
    /// Identity, name, or the beginning of the identity
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// One more name to be found by on this network; may be repeated
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    #[command(flatten)]
    addresses: AddressArgs,
    /// Identity or name of the network
    network: String,
    /// The program: name, identity, or the beginning of the identity
    program: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// Do not fail when no manager answers: it is done as soon as one does
    #[arg(short, long)]
    force: bool,
    /// Identity or name of the network
    network: String,
    /// The program: name, identity, or the beginning of the identity
    program: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The network
    #[arg(long)]
    network: String,
    /// The name to be found by on this network
    #[arg(long)]
    name: String,
    /// The network namespace, such as /run/netns/blue or /proc/4711/ns/net
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    #[command(flatten)]
    addresses: AddressArgs,
    /// One more name to be found by; may be repeated
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct DetachArgs {
    /// Name or identity of the endpoint
    #[arg(required = true, value_name = "ENDPOINT")]
    endpoints: Vec<String>,
}

pub(super) async fn run(client: &Client, command: NetworkCommand) -> Result<Report, Failure> {
    match command {
        NetworkCommand::Create(args) => create(client, *args).await,
        NetworkCommand::Ls(args) => {
            let fits = fitting(&args.listing)?;
            let mut networks = networks(client, &Request::NetworkList).await?;
            networks.retain(fits);
            networks.sort_by(|a, b| a.name.cmp(&b.name));
            let rows: Vec<NetworkRow> = networks
                .iter()
                .map(|network| NetworkRow::new(network, args.no_trunc || args.listing.whole()))
                .collect();
            args.listing.print(&rows, print::table)
        }
        NetworkCommand::Inspect(args) => inspect(client, args).await,
        NetworkCommand::Plan(args) => plan(client, args).await,
        NetworkCommand::Lookup(args) => lookup::run(client, args).await,
        NetworkCommand::Prune(args) => prune::run(client, args).await,
        NetworkCommand::Rm(args) => {
            let mut report = Report::default();
            for network in args.networks {
                let request = Request::NetworkRemove {
                    network: network.clone(),
                };
                report.add(
                    client
                        .request(&request)
                        .await
                        .map(|_| network)
                        .map_err(Failure::from),
                );
            }
            Ok(report)
        }
        NetworkCommand::Update(args) => {
            let subnets = Parts {
                gateways: &args.gateway,
                ranges: &args.ip_range,
                aux: &args.aux_address,
            };
            let request = Request::NetworkExtend {
                network: args.network.clone(),
                subnets: subnets.of(&args.subnet_add)?,
            };
            networks(client, &request).await?;
            Ok(Report::line(args.network))
        }
        NetworkCommand::Connect(args) => {
            let network = NetworkChoice {
                network: args.network,
                addresses: args.addresses.list().collect(),
                aliases: args.alias,
            };
            let program = args.program;
            let request = ProgramRequest::Connect { program, network };
            client.programs(&request).await?;
            Ok(Report::default())
        }
        NetworkCommand::Disconnect(args) => {
            let request = ProgramRequest::Disconnect {
                program: args.program,
                network: args.network,
                force: args.force,
            };
            client.programs(&request).await?;
            Ok(Report::default())
        }
    }
}

async fn networks(client: &Client, request: &Request) -> Result<Vec<NetworkInfo>, Failure> {
    match client.request(request).await? {
        Response::Networks(networks) => Ok(networks),
        other => Err(unexpected(&other)),
    }
}

async fn create(client: &Client, args: CreateArgs) -> Result<Report, Failure> {
    if args.ipv6
        && !args
            .subnet
            .iter()
            .any(|subnet| matches!(subnet, IpNet::V6(_)))
    {
        let text = "the pools have no IPv6 addresses: give the network some with --subnet, such as --subnet fd00:1::/64";
        return Err(Failure::new(text).with_code(2));
    }
    let subnets = Parts {
        gateways: &args.gateway,
        ranges: &args.ip_range,
        aux: &args.aux_address,
    };
    let request = Request::NetworkCreate(NetworkCreate {
        name: args.name,
        driver: args.driver,
        attachable: args.attachable,
        internal: args.internal,
        ingress: args.ingress,
        subnets: subnets.of(&args.subnet)?,
        options: BTreeMap::from_iter(args.opt),
        labels: BTreeMap::from_iter(args.label),
    });
    let created = networks(client, &request).await?;
    created
        .first()
        .map(|network| Report::line(network.id))
        .ok_or_else(|| unexpected(&created))
}

/// Which networks the filters let pass.
fn fitting(listing: &ListingArgs) -> Result<impl Fn(&NetworkInfo) -> bool, Failure> {
    let filters = listing.filters(&["id", "name", "driver", "scope", "label", "type"])?;
    filters.one_of("scope", &["swarm", "local", "global"])?;
    filters.one_of("type", &["custom", "builtin"])?;
    Ok(move |network: &NetworkInfo| {
        let kind = if network.ingress { "builtin" } else { "custom" };
        filters.begins("id", &network.id.to_string())
            // As Docker does: any part of the name will do.
            && filters.any("name", |value| network.name.contains(value))
            && filters.is("driver", &network.driver)
            && filters.is("scope", &network.scope)
            && filters.labels("label", &network.labels)
            && filters.is("type", kind)
    })
}

async fn plan(client: &Client, args: PlanArgs) -> Result<Report, Failure> {
    let mut wanted = None;
    if let Some(network) = args.network {
        let request = Request::NetworkInspect { network };
        let found = networks(client, &request).await?;
        let vnis = found.iter().flat_map(|network| &network.subnets);
        wanted = Some(
            vnis.map(|subnet| subnet.vni.to_string())
                .collect::<Vec<_>>(),
        );
    }
    let mut report = Report::default();
    for line in client.plan().await? {
        // Devices, tables and sets have the VNI of their network in their names.
        let words = line.split(|c: char| !c.is_ascii_digit());
        let is_wanted =
            |vnis: &Vec<String>| words.clone().any(|word| vnis.iter().any(|vni| vni == word));
        if wanted.as_ref().is_none_or(is_wanted) {
            report.add(Ok(line));
        }
    }
    Ok(report)
}

async fn inspect(client: &Client, args: InspectArgs) -> Result<Report, Failure> {
    let (mut report, mut found) = (Report::default(), Vec::new());
    for network in args.networks.networks {
        let request = Request::NetworkInspect { network };
        match networks(client, &request).await {
            Ok(networks) => found.extend(networks.into_iter().map(NetworkJson::from)),
            Err(failure) => report.failures.push(failure),
        }
    }
    report.text = args.format.print(&found)?;
    Ok(report)
}

pub(super) async fn attach(client: &Client, args: AttachArgs) -> Result<Report, Failure> {
    let path = std::path::absolute(&args.netns).map_err(Failure::new)?;
    let request = Request::Attach(AttachRequest {
        network: args.network,
        name: args.name,
        aliases: args.alias,
        addresses: args.addresses.list().collect(),
        namespace: Namespace::Path(path),
        endpoint: None,
    });
    match client.request(&request).await? {
        Response::Endpoints(endpoints) => endpoints
            .first()
            .map(|endpoint| Report::line(endpoint.id))
            .ok_or_else(|| unexpected(&endpoints)),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn detach(client: &Client, args: DetachArgs) -> Result<Report, Failure> {
    let mut report = Report::default();
    for endpoint in args.endpoints {
        let request = Request::Detach {
            endpoint: endpoint.clone(),
        };
        report.add(
            client
                .request(&request)
                .await
                .map(|_| endpoint)
                .map_err(Failure::from),
        );
    }
    Ok(report)
}
