//! What is amiss with a node and its surroundings, found by trying it, and what to do about each.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use overlay_core::{
    Vni,
    plane::{DataPath, Desired, Verdict},
};
use overlay_gossip::{Member, MemberState};
use overlay_vxlan::policy;
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    active::Active,
    clock::Clock,
    plane::{PathInfo, Report},
    platform::{Actual, Planned, PlatformThread},
};

mod probe;
#[cfg(test)]
mod tests;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How it is.
    pub health: Health,
    /// What kind of thing was looked at: `port`, `path`, `clock`.
    pub check: String,
    /// Which one: an address, a network, a peer.
    pub about: String,
    /// What was found, in words for people.
    pub found: String,
    /// What to do about it; none where nothing is amiss.
    pub advice: Option<String>,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As it shall be.
    Good,
    /// It works, and not as well as it could; or it is not known.
    Warning,
    /// It does not work.
    Bad,
}

impl Finding {
    /// Says that something is as it shall be.
    pub fn good(check: &str, about: impl ToString, found: impl Into<String>) -> Self {
        Self {
            health: Health::Good,
            check: check.to_owned(),
            about: about.to_string(),
            found: found.into(),
            advice: None,
        }
    }

    /// Says that something does not work, and what to do about it.
    pub fn bad(
        check: &str,
        about: impl ToString,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            health: Health::Bad,
            advice: Some(advice.into()),
            ..Self::good(check, about, found)
        }
    }

    /// The same, of something that works all the same or is not known.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.health = Health::Warning;
        self
    }
}

/// What a diagnosis begins with: a copy of what the node knows.
#[derive(Debug)]
pub(super) struct Patient {
    platform: PlatformThread,
    desired: Arc<Desired>,
    members: Vec<Member>,
    managers: Vec<SocketAddr>,
    own: IpAddr,
    /// The wall clock now less what it would be, had nobody set it since the daemon began.
    drift: Drift,
    frames: oneshot::Receiver<Report>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Drift {
    ahead: bool,
    by: Duration,
}

impl Active {
    /// Begins a diagnosis; what it takes from the node is as of now.
    pub(super) fn diagnosis(&self) -> Patient {
        let node = self.node();
        let config = node.config();
        let managers = node.info().managers.into_iter();
        let gossip = node.gossip().into_iter();
        let own = config.address;
        Patient {
            platform: self.platform.clone(),
            desired: Arc::clone(node.desired()),
            members: gossip
                .flat_map(|gossip| gossip.members().cloned())
                .filter(|member| member.address.ip() != own)
                .collect(),
            managers: managers
                .map(|manager| manager.address)
                .filter(|address| address.ip() != own)
                .collect(),
            own,
            drift: drift(self.clock),
            frames: self.plane.report(),
        }
    }
}

/// How far somebody has set the wall clock since the daemon began.
fn drift(clock: Clock) -> Drift {
    let expected = clock.unix_epoch() + Duration::from_nanos(clock.now().as_nanos());
    let now = Clock::unix_now();
    Drift {
        ahead: now > expected,
        by: now.abs_diff(expected),
    }
}

impl Patient {
    /// Looks at everything. Takes a few seconds where something does not answer.
    pub(super) async fn examine(self) -> Vec<Finding> {
        let mut findings = vec![clock(self.drift)];
        let (reply, planned) = oneshot::channel();
        self.platform.plan(Arc::clone(&self.desired), reply);
        let actual = self.platform.actual().await;
        findings.extend(tables(planned.await.ok(), &self.desired, actual));
        findings.extend(self.members.iter().map(member));
        findings.extend(reached(&self.members, &self.managers).await);
        let frames = self.frames.await.unwrap_or_default();
        findings.extend(frames_lost(&frames));
        let paths = frames.paths.into_iter();
        let paths: BTreeMap<_, _> = paths.map(|info| (info.vtep, info)).collect();
        let underlay = self.desired.underlay.map(|underlay| underlay.mtu);
        findings.extend(paths.values().filter_map(|info| path(info, underlay)));
        findings.extend(probe::overlay(&self.platform, &self.desired, &paths).await);
        if self.members.is_empty() {
            let alone = format!("{} is the only node of its cluster", self.own);
            findings.push(Finding::good("member", self.own, alone));
        }
        findings
    }
}

fn clock(drift: Drift) -> Finding {
    let since = "since the daemon began";
    if drift.by <= DRIFT_MAX {
        return Finding::good(
            "clock",
            "this host",
            format!("nobody has set the clock {since}"),
        );
    }
    let way = if drift.ahead { "forward" } else { "back" };
    let found = format!("the clock was set {way} by {:?} {since}", drift.by);
    let advice = "start the daemon anew, and keep the clock in step by NTP: certificates are dated";
    Finding::bad("clock", "this host", found, advice).as_warning()
}

/// What is desired, against what is there.
fn tables(planned: Option<Planned>, desired: &Desired, actual: Option<Actual>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let repaired = "it is repaired within two seconds: if this stays, see the daemon's log";
    let kernel = |network: &overlay_core::plane::DesiredNetwork| network.path == DataPath::Kernel;
    match planned {
        Some(Ok(changes)) if changes.is_empty() && desired.networks.values().any(kernel) => {
            let found = "devices, rows and rules of the kernel are as desired";
            findings.push(Finding::good("tables", "kernel", found));
        }
        Some(Ok(changes)) => findings.extend(changes.iter().map(|change| {
            let found = format!("to be done: {change}");
            Finding::bad("tables", "kernel", found, repaired).as_warning()
        })),
        Some(Err(error)) => {
            findings.push(Finding::bad("tables", "kernel", error.message, SEE_LOG));
        }
        None => {}
    }
    let actual = match actual {
        Some(Ok(actual)) => actual,
        Some(Err(error)) => {
            findings.push(Finding::bad("port", "all", error.to_string(), SEE_LOG));
            return findings;
        }
        None => return findings,
    };
    for network in desired.networks.values() {
        for (endpoint, port) in &network.ports {
            let about = format!("endpoint {}", endpoint.short());
            let mut wanted = port.addresses.clone();
            wanted.sort_unstable();
            let amiss = actual.get(endpoint).map(|actual| {
                let mut found = actual.addresses.clone();
                found.sort_unstable();
                let mut amiss = Vec::new();
                if !actual.up {
                    amiss.push("it is down".to_owned());
                }
                if actual.mac != port.mac {
                    amiss.push(format!(
                        "its MAC address is {}, not {}",
                        actual.mac, port.mac
                    ));
                }
                if found != wanted {
                    amiss.push(format!("its addresses are {found:?}, not {wanted:?}"));
                }
                if actual.mtu != network.mtu {
                    amiss.push(format!("its MTU is {}, not {}", actual.mtu, network.mtu));
                }
                amiss
            });
            findings.push(match amiss {
                None => Finding::bad("port", about, "it has no interface", repaired),
                Some(amiss) if amiss.is_empty() => {
                    Finding::good("port", about, "its interface is as desired")
                }
                Some(amiss) => Finding::bad("port", about, amiss.join("; "), repaired).as_warning(),
            });
        }
    }
    findings
}

fn member(member: &Member) -> Finding {
    let about = format!("{} ({})", member.name, member.address.ip());
    let port = member.address.port();
    let ways = format!("both ways: UDP and TCP port {port} must pass");
    match member.state {
        MemberState::Alive => Finding::good("member", about, "it answers in gossip"),
        MemberState::Left => Finding::good("member", about, "it has left the cluster"),
        MemberState::Suspect => Finding::bad(
            "member",
            about,
            "it did not answer somebody lately",
            format!("see whether its host is overloaded, or packets are lost, {ways}"),
        )
        .as_warning(),
        MemberState::Down => Finding::bad(
            "member",
            about,
            "it does not answer",
            format!("see whether its daemon runs and a firewall is between, {ways}"),
        ),
    }
}

/// Connects to the TCP ports of all that are said to be alive.
async fn reached(members: &[Member], managers: &[SocketAddr]) -> Vec<Finding> {
    let alive = members
        .iter()
        .filter(|member| member.state != MemberState::Left);
    let gossip = alive.map(|member| (member.address, "gossip"));
    let management = managers.iter().map(|address| (*address, "management"));
    let mut tried = JoinSet::new();
    for (address, what) in gossip.chain(management).take(PEERS_MAX) {
        tried.spawn(async move {
            let connecting = tokio::net::TcpStream::connect(address);
            let connected = tokio::time::timeout(PATIENCE, connecting).await;
            let about = format!("TCP {address}");
            let advice = |cause: &str| {
                format!(
                    "see whether the daemon there runs and {cause}: nodes need TCP port {} ({what})",
                    address.port()
                )
            };
            match connected {
                Ok(Ok(_)) => Finding::good("reach", about, format!("{what}: it takes connections")),
                Ok(Err(error)) => Finding::bad(
                    "reach",
                    about,
                    format!("{what}: {error}"),
                    advice("listens at that address"),
                ),
                Err(_) => Finding::bad(
                    "reach",
                    about,
                    format!("{what}: no answer within {PATIENCE:?}"),
                    advice("no firewall drops what is sent to it"),
                ),
            }
        });
    }
    let mut findings = tried.join_all().await;
    findings.sort_by(|a, b| a.about.cmp(&b.about));
    findings
}

/// Frames that went no further, and why. Most reasons are somebody's doing, and the switch's work.
fn frames_lost(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (network, drops) in &report.drops {
        let counted = drops.iter().filter(|(_, count)| *count > 0);
        let counted: Vec<_> = counted
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        if !counted.is_empty() {
            let about = network.map_or("no network".to_owned(), |vni| format!("VNI {vni}"));
            let found = format!("frames dropped: {}", counted.join(", "));
            findings.push(Finding::good("frames", about, found));
        }
    }
    for (network, stats) in &report.policies {
        findings.extend(policy(*network, stats));
    }
    for (count, about, advice) in [
        (
            report.not_written,
            "not taken by interfaces of endpoints",
            "their programs are too slow, or stand still; lost frames are sent again by TCP",
        ),
        (
            report.not_sent,
            "not taken by the underlay",
            "its queue was full, or it has no route to a peer: see `ip route get PEER` and `ip -s link`",
        ),
        (
            report.refused,
            "rows, ports and policies beyond a bound of the switch",
            "fewer endpoints on this node, or on its networks; a network whose policy is one of them carries nothing",
        ),
    ] {
        if count > 0 {
            let finding = Finding::bad("frames", about, count.to_string(), advice);
            findings.push(finding.as_warning());
        }
    }
    findings
}

/// What the policy of a network has dropped, and whether it has room for all flows.
fn policy(network: Vni, stats: &policy::Stats) -> Option<Finding> {
    let denied = |decided: &policy::Decided| decided.total(Verdict::Deny);
    let (out, into) = (denied(&stats.egress), denied(&stats.ingress));
    if out + into == 0 && stats.flows_evicted == 0 {
        return None;
    }
    let reasons = policy::Reason::ALL.into_iter().filter_map(|reason| {
        let of = |decided: &policy::Decided| decided.of(Verdict::Deny, reason);
        let count = of(&stats.egress) + of(&stats.ingress);
        (count > 0).then(|| format!("{reason} {count}"))
    });
    let reasons: Vec<_> = reasons.collect();
    let found = format!(
        "frames dropped by the policy: {out} out of endpoints, {into} into them ({}); {} flows are known",
        reasons.join(", "),
        stats.flows
    );
    let about = format!("VNI {network}");
    let full = policy::Reason::Full;
    let full = stats.egress.of(Verdict::Deny, full) + stats.ingress.of(Verdict::Deny, full);
    if full + stats.flows_evicted == 0 {
        return Some(Finding::good("frames", about, found));
    }
    let advice = format!(
        "{full} flows had no room, and {} that nobody had answered made room for others: spread what runs here over more nodes, or look for who floods",
        stats.flows_evicted
    );
    Some(Finding::bad("frames", about, found, advice).as_warning())
}

/// The path to a peer, as the switch's probes have found it.
fn path(info: &PathInfo, underlay: Option<u16>) -> Option<Finding> {
    let (found, underlay) = (info.mtu?, underlay?);
    let about = format!("to {}", info.vtep);
    let text = format!("datagrams of {found} octets pass, of {underlay} that leave here");
    if found >= underlay {
        return Some(Finding::good("path", about, text));
    }
    let advice = format!(
        "endpoints are told and send less; for full speed let {underlay} octets pass on the whole way, or set --underlay-mtu {found} on all nodes"
    );
    Some(Finding::bad("path", about, text, advice).as_warning())
}

const SEE_LOG: &str =
    "see the daemon's log, and whether it has the rights that it had when it began";
/// Of what is waited for longer, nothing is expected any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// Peers that are tried.
const PEERS_MAX: usize = 256;
/// A clock in step by NTP is set by less.
const DRIFT_MAX: Duration = Duration::from_secs(2);
