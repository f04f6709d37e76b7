//! `policy add`, `rm`, `ls`, `default` and `explain`: who on a network may reach whom.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::{Failure, ListingArgs, Report, Table, listing::Item, unexpected};
use crate::{
    api::{
        PolicyChange, PolicyInfo, Request, Response, RuleInfo, RuleSpec, Selector, Traffic, Verdict,
    },
    client::Client,
};

mod explain;

/// See the help texts.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Add a rule to a network: the first one that matches who opens a flow, and to what, decides
    Add(AddArgs),
    /// Remove rules of a network; flows that only they allowed end
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// List the rules of a network, in order, and its default last
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Say what becomes of flows that no rule of a network matches
    Default(DefaultArgs),
    /// Say which rule decides about a flow
    Explain(explain::ExplainArgs),
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Who opens the flow: any, service:NAME, label:KEY=VALUE of a service, or endpoint:NAME
    #[arg(long, value_name = "SELECTOR", default_value = "any")]
    from: Selector,
    /// To whom: as --from; a service is its tasks and its virtual addresses
    #[arg(long, value_name = "SELECTOR", default_value = "any")]
    to: Selector,
    /// What is carried: any, tcp, tcp/80, udp/8000-8100, icmp, protocol/47; may be repeated
    #[arg(
        long,
        value_name = "TRAFFIC",
        value_delimiter = ',',
        default_value = "any"
    )]
    port: Vec<Traffic>,
    /// Drop such flows; otherwise they are allowed
    #[arg(long)]
    deny: bool,
    /// Put it before this rule [default: behind all others]
    #[arg(long, value_name = "RULE")]
    before: Option<String>,
    /// Put it in the place of the rule of its name, if there is one
    #[arg(long)]
    replace: bool,
    /// Identity or name of the network
    network: String,
    /// Name of the rule
    name: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Identity or name of the network
    network: String,
    /// Names of the rules
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    listing: ListingArgs,
    /// Identity or name of the network
    network: String,
}

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct DefaultArgs {
    /// Identity or name of the network
    network: String,
    /// What becomes of them
    verdict: VerdictArg,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum VerdictArg {
    /// It may be
    Allow,
    /// It is dropped, and the sender is told nothing
    Deny,
}

impl From<VerdictArg> for Verdict {
    fn from(verdict: VerdictArg) -> Self {
        match verdict {
            VerdictArg::Allow => Self::Allow,
            VerdictArg::Deny => Self::Deny,
        }
    }
}

pub(super) async fn run(client: &Client, command: PolicyCommand) -> Result<Report, Failure> {
    match command {
        PolicyCommand::Add(args) => add(client, args).await,
        PolicyCommand::Rm(args) => {
            let mut report = Report::default();
            for name in args.names {
                let remove = PolicyChange::Remove { name: name.clone() };
                let removed = change(client, args.network.clone(), remove).await;
                report.add(removed.map(|()| name));
            }
            Ok(report)
        }
        PolicyCommand::Ls(args) => list(client, args).await,
        PolicyCommand::Default(args) => {
            let verdict = args.verdict.into();
            let default = PolicyChange::Default { verdict };
            change(client, args.network.clone(), default).await?;
            Ok(Report::line(args.network))
        }
        PolicyCommand::Explain(args) => explain::run(client, args).await,
    }
}

async fn add(client: &Client, args: AddArgs) -> Result<Report, Failure> {
    let add = PolicyChange::Add {
        rule: RuleSpec {
            name: args.name.clone(),
            from: args.from,
            to: args.to,
            traffic: args.port,
            verdict: if args.deny {
                Verdict::Deny
            } else {
                Verdict::Allow
            },
        },
        before: args.before,
        replace: args.replace,
    };
    change(client, args.network, add).await?;
    Ok(Report::line(args.name))
}

async fn change(client: &Client, network: String, change: PolicyChange) -> Result<(), Failure> {
    let request = Request::PolicyChange {
        network,
        change: Box::new(change),
    };
    match client.request(&request).await? {
        Response::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

/// A rule, or the default, which has no name.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RuleJson {
    /// From 1.
    number: usize,
    name: String,
    from: String,
    to: String,
    traffic: Vec<String>,
    verdict: &'static str,
    /// How many addresses fit now; all if `null`.
    from_addresses: Option<u64>,
    to_addresses: Option<u64>,
}

impl RuleJson {
    fn new(number: usize, info: RuleInfo) -> Self {
        let rule = info.rule;
        Self {
            number,
            name: rule.name,
            from: rule.from.to_string(),
            to: rule.to.to_string(),
            traffic: rule.traffic.iter().map(ToString::to_string).collect(),
            verdict: word(rule.verdict),
            from_addresses: info.from_addresses,
            to_addresses: info.to_addresses,
        }
    }

    fn of_default(number: usize, verdict: Verdict) -> Self {
        Self {
            number,
            name: String::new(),
            from: Selector::Any.to_string(),
            to: Selector::Any.to_string(),
            traffic: vec!["any".to_owned()],
            verdict: word(verdict),
            from_addresses: None,
            to_addresses: None,
        }
    }
}

impl Item for RuleJson {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("Number", "NUMBER"),
        ("Name", "NAME"),
        ("From", "FROM"),
        ("To", "TO"),
        ("Traffic", "TRAFFIC"),
        ("Verdict", "VERDICT"),
        ("FromAddresses", "FROM ADDRESSES"),
        ("ToAddresses", "TO ADDRESSES"),
    ];

    fn identity(&self) -> String {
        self.name.clone()
    }
}

async fn list(client: &Client, args: LsArgs) -> Result<Report, Failure> {
    args.listing.filters(&[])?;
    let network = args.network;
    let policy: PolicyInfo = match client.request(&Request::PolicyInspect { network }).await? {
        Response::Policy(policy) => *policy,
        other => return Err(unexpected(&other)),
    };
    let rules = policy.rules.into_iter();
    let mut items: Vec<_> = (1..)
        .zip(rules)
        .map(|(number, rule)| RuleJson::new(number, rule))
        .collect();
    if !args.listing.quiet {
        items.push(RuleJson::of_default(items.len() + 1, policy.default));
    }
    let mut report = args.listing.print(&items, |items| {
        let mut table = Table::new(&["NUMBER", "NAME", "FROM", "TO", "TRAFFIC", "VERDICT"]);
        for item in items {
            let number = item.number.to_string();
            let is_default = item.name.is_empty();
            table.row([
                if is_default { "-".to_owned() } else { number },
                if is_default {
                    "(default)".to_owned()
                } else {
                    item.name.clone()
                },
                counted(&item.from, item.from_addresses),
                counted(&item.to, item.to_addresses),
                item.traffic.join(","),
                item.verdict.to_owned(),
            ]);
        }
        table
    })?;
    if policy.too_large {
        report.failures.push(Failure::new(format_args!(
            "the rules of network {} mean more addresses than nodes take, so nothing passes on it: remove some, or let them name `any` rather than many",
            policy.network_name
        )));
    }
    Ok(report)
}

/// Whom a selector means, and how many addresses that are.
fn counted(selector: &str, addresses: Option<u64>) -> String {
    match addresses {
        None => selector.to_owned(),
        Some(0) => format!("{selector} (nobody)"),
        Some(number) => format!("{selector} ({number})"),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}
