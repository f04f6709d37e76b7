//! `network create`, `ls`, `inspect`, `rm`, `connect`, `disconnect`; `attach` and `detach`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use clap::{Args, Subcommand};
use ipnet::IpNet;
use overlay_core::plane::Namespace;

use super::{Failure, ListingArgs, Report, listing::FormatArgs, pair, unexpected};
use crate::{
    api::{
        AttachRequest, NetworkChoice, NetworkCreate, NetworkInfo, Request, Response, SubnetSpec,
    },
    client::Client,
    wire::ProgramRequest,
};

mod print;
mod prune;
mod refused;

use print::{NetworkJson, NetworkRow};

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
    /// Connect a program of this host that runs to one more network
    Connect(ConnectArgs),
    /// Disconnect a program of this host that runs from a network
    Disconnect(DisconnectArgs),
    /// Remove all networks that nothing uses
    Prune(prune::PruneArgs),
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

/// The addresses that something asks for.
#[derive(Debug, Default, Args)]
pub(crate) struct AddressArgs {
    /// The IPv4 address to have [default: any free one]
    #[arg(long, value_name = "IP")]
    ip: Option<IpAddr>,
    /// The IPv6 address to have [default: any free one]
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
}

impl AddressArgs {
    pub(crate) fn is_empty(&self) -> bool {
        self.ip.is_none() && self.ip6.is_none()
    }

    pub(crate) fn list(self) -> impl Iterator<Item = IpAddr> {
        self.ip.into_iter().chain(self.ip6.map(IpAddr::V6))
    }
}

/// Reads `my-net`, or `name=my-net,alias=web,ip=10.0.1.9`.
pub(crate) fn choice(text: &str) -> Result<NetworkChoice, String> {
    let mut choice = NetworkChoice::default();
    if !text.contains('=') {
        text.clone_into(&mut choice.network);
    } else {
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("name", name)) if choice.network.is_empty() => {
                    name.clone_into(&mut choice.network);
                }
                Some(("alias", alias)) if !alias.is_empty() => choice.aliases.push(alias.into()),
                Some(("ip" | "ip6", address)) if choice.addresses.len() < 2 => {
                    let parsed = address.parse();
                    choice
                        .addresses
                        .push(parsed.map_err(|_| format!("{address} is no address"))?);
                }
                _ => {
                    return Err(format!(
                        "expected name=NETWORK once, ip=IP at most once a family and alias=NAME any number of times, found `{field}`"
                    ));
                }
            }
        }
    }
    if choice.network.is_empty() || choice.network.contains(',') {
        return Err(format!(
            "expected the name of one network, found `{text}`: repeat --network for more"
        ));
    }
    Ok(choice)
}

fn aux(text: &str) -> Result<(String, IpAddr), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(name, address)| Some((name.to_owned(), address.parse().ok()?)));
    parsed
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("expected NAME=IP, found `{text}`"))
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

/// What belongs to subnets.
#[derive(Clone, Copy, Default)]
struct Parts<'a> {
    gateways: &'a [IpAddr],
    ranges: &'a [IpNet],
    aux: &'a [(String, IpAddr)],
}

impl Parts<'_> {
    /// Gives each gateway, range and address to the subnet that contains it.
    fn of(self, prefixes: &[IpNet]) -> Result<Vec<SubnetSpec>, Failure> {
        let spec = |prefix: &IpNet| SubnetSpec {
            subnet: Some(*prefix),
            ..SubnetSpec::default()
        };
        let mut specs: Vec<SubnetSpec> = prefixes.iter().map(spec).collect();
        for gateway in self.gateways {
            let spec = specs.iter_mut().find(|spec| {
                spec.gateway.is_none() && spec.subnet.is_some_and(|subnet| subnet.contains(gateway))
            });
            let spec = spec.ok_or_else(|| orphan("gateway", gateway, prefixes))?;
            spec.gateway = Some(*gateway);
        }
        for range in self.ranges {
            let spec = specs.iter_mut().find(|spec| {
                spec.ip_range.is_none() && spec.subnet.is_some_and(|subnet| subnet.contains(range))
            });
            let spec = spec.ok_or_else(|| orphan("ip-range", range, prefixes))?;
            spec.ip_range = Some(*range);
        }
        for (name, address) in self.aux {
            let spec = specs
                .iter_mut()
                .find(|spec| spec.subnet.is_some_and(|subnet| subnet.contains(address)));
            let spec = spec.ok_or_else(|| orphan("aux-address", address, prefixes))?;
            spec.aux_addresses.insert(name.clone(), *address);
        }
        Ok(specs)
    }
}

fn orphan(what: &str, value: &impl std::fmt::Display, prefixes: &[IpNet]) -> Failure {
    let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    let among = match prefixes.as_slice() {
        [] => "there is none: add --subnet".to_owned(),
        _ => format!("found {}", prefixes.join(", ")),
    };
    Failure::new(format_args!(
        "every gateway, ip-range and aux-address needs a subnet that contains it, the first two one of their own: {what} {value}, {among}"
    ))
    .with_code(2)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn gateways_and_ranges_go_to_the_subnet_that_contains_them() {
        let parts = Parts {
            gateways: &["fd00::1".parse().unwrap(), "10.1.0.9".parse().unwrap()],
            ranges: &[net("10.1.2.0/26")],
            aux: &[("router".to_owned(), "fd00::5".parse().unwrap())],
        };
        let specs = parts.of(&[net("10.1.0.0/16"), net("fd00::/64")]).unwrap();
        assert_eq!(
            specs,
            [
                SubnetSpec {
                    subnet: Some(net("10.1.0.0/16")),
                    gateway: Some("10.1.0.9".parse().unwrap()),
                    ip_range: Some(net("10.1.2.0/26")),
                    ..SubnetSpec::default()
                },
                SubnetSpec {
                    subnet: Some(net("fd00::/64")),
                    gateway: Some("fd00::1".parse().unwrap()),
                    aux_addresses: BTreeMap::from([(
                        "router".to_owned(),
                        "fd00::5".parse().unwrap()
                    )]),
                    ..SubnetSpec::default()
                },
            ]
        );
    }

    #[test]
    fn a_gateway_without_its_subnet_is_a_usage_error() {
        for (prefixes, gateways) in [
            (vec![], vec!["10.1.0.1"]),
            (vec![net("10.2.0.0/16")], vec!["10.1.0.1"]),
            (vec![net("10.1.0.0/16")], vec!["10.1.0.1", "10.1.0.2"]),
        ] {
            let gateways: Vec<IpAddr> = gateways.iter().map(|text| text.parse().unwrap()).collect();
            let parts = Parts {
                gateways: &gateways,
                ..Parts::default()
            };
            let failure = parts.of(&prefixes).unwrap_err();
            assert_eq!(failure.code, 2, "{failure}");
        }
    }
}
