//! `doctor`: what is amiss with this host, its peers and the paths to them, and what to do about each.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    process::Command,
};

use clap::Args;
use overlay_linux::{
    Linux, Verdict,
    plane::{Obstacle, Underlay},
};
use overlay_node::driver::{Finding, Health, Options};
use serde::Serialize;

use super::{
    Failure, ListingArgs, Report,
    listing::Item,
    table::{Table, printable},
};
use crate::client::{Client, ClientError};

/// Look for what is amiss with this host, its peers and the paths to them, and say what to do
///
/// Packets are sent to one endpoint of each network on each peer: to UDP and TCP port 9, where nobody listens. Ends with 1 if
/// something does not work.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

/// A finding, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct FindingJson {
    health: Health,
    check: String,
    about: String,
    found: String,
    advice: String,
}

impl Item for FindingJson {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("Health", "HEALTH"),
        ("Check", "CHECK"),
        ("About", "ABOUT"),
        ("Found", "FOUND"),
        ("Advice", "ADVICE"),
    ];

    fn identity(&self) -> String {
        format!("{} {}", self.check, self.about)
    }
}

impl From<Finding> for FindingJson {
    fn from(finding: Finding) -> Self {
        Self {
            health: finding.health,
            check: finding.check,
            about: finding.about,
            found: finding.found,
            advice: finding.advice.unwrap_or_default(),
        }
    }
}

/// Asks the daemon, and looks at what can be seen without it.
pub(super) async fn run(client: &Client, args: DoctorArgs) -> Result<Report, Failure> {
    let filters = args.listing.filters(&["health", "check", "about"])?;
    let mut findings = host();
    match client.diagnose().await {
        Ok(found) => {
            findings.push(Finding::good("daemon", "this host", "it answers"));
            findings.extend(found);
        }
        Err(ClientError::Refused(refusal)) => {
            findings.push(Finding::good("daemon", "this host", "it answers"));
            let advice = "`overlay init` makes a cluster, `overlay join` joins one";
            let message = refusal.error.message;
            findings.push(Finding::bad("cluster", "this host", message, advice).as_warning());
        }
        Err(error) => {
            let found = "it cannot be asked";
            findings.push(Finding::bad(
                "daemon",
                "this host",
                found,
                error.to_string(),
            ));
            findings.extend(ports());
            findings.extend(kernel_plane());
        }
    }
    let failed = findings.iter().any(|one| one.health == Health::Bad);
    let findings: Vec<_> = findings.into_iter().map(FindingJson::from).collect();
    let fits = |one: &&FindingJson| {
        filters.is("health", health(one.health))
            && filters.is("check", &one.check)
            && filters.begins("about", &one.about)
    };
    let shown: Vec<_> = findings.iter().filter(fits).collect();
    let report = args.listing.print(&shown, table)?;
    let mut text = report.text.clone();
    if args.listing.is_table() {
        for one in shown.iter().filter(|one| !one.advice.is_empty()) {
            let FindingJson {
                check,
                about,
                found,
                advice,
                ..
            } = one;
            let advice = printable(format!("{check} {about}: {found}: {advice}"));
            text.push_str(&format!("\n{advice}\n"));
        }
    }
    Ok(Report {
        text,
        code: u8::from(failed),
        ..report
    })
}

impl Item for &FindingJson {
    const FIELDS: &'static [(&'static str, &'static str)] = FindingJson::FIELDS;

    fn identity(&self) -> String {
        (*self).identity()
    }
}

fn table(findings: &[&FindingJson]) -> Table {
    let mut table = Table::new(&["HEALTH", "CHECK", "ABOUT", "FOUND"]);
    for one in findings {
        table.row([
            health(one.health).to_owned(),
            one.check.clone(),
            one.about.clone(),
            one.found.clone(),
        ]);
    }
    table
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Good => "good",
        Health::Warning => "warning",
        Health::Bad => "bad",
    }
}

/// What can be seen of a host without a daemon.
fn host() -> Vec<Finding> {
    let mut findings = vec![endpoints()];
    findings.extend(firewall());
    findings.extend(time_service());
    findings
}

fn endpoints() -> Finding {
    let (check, about) = ("rights", "endpoints");
    let tried = std::env::current_exe()
        .map_err(|error| error.to_string())
        .and_then(|own| overlay_linux::capabilities(&own).map_err(|error| error.to_string()));
    let possible = match tried {
        Ok(possible) => possible,
        Err(error) => {
            let advice = "run `overlay doctor` once more, as the user whom the daemon runs as";
            return Finding::bad(check, about, format!("it cannot be tried: {error}"), advice)
                .as_warning();
        }
    };
    let namespaces = [&possible.privileged, &possible.user_namespace];
    let ports = [&possible.tap, &possible.packet];
    let refusal = |verdicts: [&Verdict; 2]| {
        let refused = verdicts.map(ToString::to_string);
        format!("{}; {}", refused[0], refused[1])
    };
    if !namespaces.iter().any(|one| one.is_possible()) {
        let found = format!("no namespaces of its own: {}", refusal(namespaces));
        let advice = "run the daemon as root, or allow user namespaces: `sysctl kernel.unprivileged_userns_clone=1`, `kernel.apparmor_restrict_unprivileged_userns=0`, `user.max_net_namespaces` above 0";
        return Finding::bad(check, about, found, advice);
    }
    if !ports.iter().any(|one| one.is_possible()) {
        let found = format!("no ports: {}", refusal(ports));
        let advice = "load the modules `tun` or `veth`, and make /dev/net/tun";
        return Finding::bad(check, about, found, advice);
    }
    if !possible.tap.is_possible() {
        let found = format!("no TAP, so ports are slower: {}", possible.tap);
        let advice = "load the module `tun` (`modprobe tun`), and let the user open /dev/net/tun";
        return Finding::bad(check, about, found, advice).as_warning();
    }
    Finding::good(check, about, "namespaces and TAP ports can be made")
}

/// Other firewalls that may drop what endpoints send to the world, or the world to published ports.
fn firewall() -> Vec<Finding> {
    let (Ok(program), folder) = (std::env::current_exe(), std::env::temp_dir()) else {
        return Vec::new();
    };
    // Without the right to look there is no way out to be dropped, either.
    let chains = Linux::new(folder, program).dropping_chains();
    let finding = |chain: overlay_linux::DroppingChain| {
        let about = format!("table {} chain {}", chain.table, chain.chain);
        let found = "it drops forwarded packets that none of its rules accepts";
        let advice = "endpoints reach the world only if it accepts their bridge: `iptables -I DOCKER-USER -i overlay_gw -j ACCEPT`, and the same with `-o`, where Docker made it";
        Finding::bad("firewall", about, found, advice).as_warning()
    };
    chains
        .unwrap_or_default()
        .into_iter()
        .map(finding)
        .collect()
}

/// Whether the clock is kept in step, where systemd can tell.
fn time_service() -> Option<Finding> {
    let mut asked = Command::new("timedatectl");
    let told = asked.args(["show", "--property=NTPSynchronized", "--value"]);
    let told = told.output().ok().filter(|told| told.status.success())?;
    let (check, about) = ("clock", "NTP");
    Some(match String::from_utf8_lossy(&told.stdout).trim() {
        "yes" => Finding::good(check, about, "the clock is in step"),
        _ => Finding::bad(
            check,
            about,
            "the clock is not in step",
            "start an NTP client (`timedatectl set-ntp true`): certificates are dated",
        )
        .as_warning(),
    })
}

/// Whether a daemon could listen.
fn ports() -> Vec<Finding> {
    let options = Options::new("", "");
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let tcp = [options.management_port, options.gossip_port];
    let udp = [options.gossip_port, options.data_port];
    let finding = |protocol: &str, port: u16, bound: std::io::Result<()>| {
        let about = format!("{protocol} {port}");
        match bound {
            Ok(()) => Finding::good("port", about, "it is free"),
            Err(error) => {
                let flag = if protocol == "TCP" { "t" } else { "u" };
                let advice = format!(
                    "see who has it: `ss -{flag}lnp 'sport = {port}'`; or choose another one on all nodes (`overlay daemon --help`)"
                );
                Finding::bad(
                    "port",
                    about,
                    format!("a daemon could not take it: {error}"),
                    advice,
                )
            }
        }
    };
    let tcp = tcp.map(|port| finding("TCP", port, TcpListener::bind((any, port)).map(drop)));
    let udp = udp.map(|port| finding("UDP", port, UdpSocket::bind((any, port)).map(drop)));
    tcp.into_iter().chain(udp).collect()
}

/// Whether the kernel could carry networks, for `--data-path kernel`.
fn kernel_plane() -> Option<Finding> {
    let scratch = std::env::temp_dir().join(format!("overlay-doctor-{}", std::process::id()));
    let underlay = Underlay {
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: Options::new("", "").data_port,
    };
    let (check, about) = ("kernel", "--data-path kernel");
    let refused = |obstacle: &dyn Display| {
        let advice = "none if the daemon carries networks itself (--data-path user)";
        Finding::bad(check, about, obstacle.to_string(), advice).as_warning()
    };
    Some(match overlay_linux::plane::check(&underlay, &scratch) {
        Ok(()) => Finding::good(check, about, "VXLAN, bridges and nf_tables can be had"),
        Err(Obstacle::Privilege) => return None,
        Err(obstacle) => refused(&obstacle),
    })
}
