//! `policy explain`: which rule decides about a flow.

use std::str::FromStr;

use clap::Args;

use crate::{
    api::{PolicyAnswer, PolicyQuestion, Request, Response, Verdict},
    cli::{Failure, Report, unexpected},
    client::Client,
};

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// On this network alone [default: on each that has both]
    #[arg(long)]
    network: Option<String>,
    /// Who opens the flow: an endpoint, a service, or an address
    from: String,
    #[arg(
        value_name = "TO:PORT",
        help = "To whom: db:5432, db:53/udp, db/icmp, db/47, 10.0.1.9:80, [fd00::9]:80"
    )]
    to: Target,
}

/// Whom a flow leads to, and what it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    name: String,
    protocol: u8,
    port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("expected NAME:PORT, NAME:PORT/udp, NAME/icmp or NAME/NUMBER, found `{text}`")
        };
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, TCP),
            Some((rest, "udp")) => (rest, UDP),
            Some((rest, "icmp")) => (rest, ICMP),
            Some((rest, number)) => (rest, number.parse().map_err(|_| expected())?),
            None => (text, TCP),
        };
        let (name, port) = if [TCP, UDP].contains(&protocol) {
            let (name, port) = rest.rsplit_once(':').ok_or_else(expected)?;
            (name, port.parse().map_err(|_| expected())?)
        } else {
            (rest, 0)
        };
        let bare = name.strip_prefix('[');
        let bare = bare.and_then(|name| name.strip_suffix(']'));
        let name = match bare {
            Some(address) => address,
            // Of what belongs to the port nobody would know.
            None if port != 0 && name.contains(':') => return Err(expected()),
            None => name,
        };
        if name.is_empty() {
            return Err(expected());
        }
        Ok(Self {
            name: name.to_owned(),
            protocol,
            port,
        })
    }
}

pub(super) async fn run(client: &Client, args: ExplainArgs) -> Result<Report, Failure> {
    let Target {
        name,
        protocol,
        port,
    } = args.to;
    let question = PolicyQuestion {
        network: args.network,
        from: args.from,
        to: name,
        protocol,
        port,
    };
    let answers = match client.request(&Request::PolicyExplain(question)).await? {
        Response::PolicyAnswers(answers) => answers,
        other => return Err(unexpected(&other)),
    };
    let mut report = Report::default();
    for answer in &answers {
        // Where all pairs are alike, it goes without saying which they are.
        let of_network = answers
            .iter()
            .filter(|other| other.network == answer.network);
        let differ = of_network.count() > 1;
        explain(&mut report, answer, differ);
    }
    Ok(report)
}

fn explain(report: &mut Report, answer: &PolicyAnswer, differ: bool) {
    let verdict = match answer.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    };
    let by = match &answer.rule {
        Some((number, name)) => format!("rule {number} ({name})"),
        None => "default".to_owned(),
    };
    let network = &answer.network;
    report.add(Ok(format!("{network}: {verdict} by {by}")));
    if differ {
        for (from, to) in &answer.pairs {
            report.add(Ok(format!("  {from} to {to}")));
        }
    }
    if answer.left_out > 0 {
        let left_out = answer.left_out;
        report.add(Ok(format!("  {left_out} more pairs were not looked at")));
    }
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_a_protocol_and_a_port() {
        for (text, name, protocol, port) in [
            ("db:5432", "db", 6, 5_432),
            ("db:5432/tcp", "db", 6, 5_432),
            ("db:53/udp", "db", 17, 53),
            ("db/icmp", "db", 1, 0),
            ("db/47", "db", 47, 0),
            ("10.0.1.9:80", "10.0.1.9", 6, 80),
            ("[fd00::9]:80", "fd00::9", 6, 80),
            ("fd00::9/icmp", "fd00::9", 1, 0),
            ("[fd00::9]/icmp", "fd00::9", 1, 0),
        ] {
            let parsed: Target = text.parse().unwrap();
            assert_eq!(
                (&*parsed.name, parsed.protocol, parsed.port),
                (name, protocol, port),
                "{text}"
            );
        }
        for text in [
            "db",
            ":80",
            "db:",
            "db:x",
            "db:65536",
            "db:80/sctp",
            "fd00::9:80",
            "db/256",
            "/icmp",
        ] {
            text.parse::<Target>().unwrap_err();
        }
    }
}
