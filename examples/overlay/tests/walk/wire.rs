//! The walk, and what goes over the wire between the hosts meanwhile.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    support::{Cluster, PATIENCE, address, eventually},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "three_hosts_become_a_cluster_and_their_programs_ping_by_name",
        hosts: 3,
        programs: &["ping", "getent"],
        tell: walk,
    },
    Story {
        name: "frames_between_hosts_are_well_formed_vxlan",
        hosts: 3,
        programs: &["ping", "tshark"],
        tell: capture,
    },
];

const NAMES: [&str; 3] = ["alpine1", "alpine2", "alpine3"];

/// Makes the cluster, the network and a program on each host.
fn set_out(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for (host, name) in NAMES.iter().enumerate() {
        cluster.sleep(host, "my-net", name)?;
    }
    Ok(())
}

fn walk(cluster: &mut Cluster) -> anyhow::Result<()> {
    set_out(cluster)?;
    let network = cluster.inspect(1, "my-net")?;
    assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "10.0.1.0/24");
    assert_eq!(network["IPAM"]["Config"][0]["Gateway"], "10.0.1.1");
    for (host, from) in NAMES.iter().enumerate() {
        for (other, to) in NAMES.iter().enumerate().filter(|(other, _)| *other != host) {
            let said = cluster.reach(PATIENCE, host, from, to)?;
            let expected = format!("PING {to} (10.0.1.{})", other + 2);
            ensure!(said.contains(&expected), "{expected}: {said}");
        }
    }
    // By the way of the C library, which a name that ends in nothing but the network's table proves.
    let line = cluster.ask(0, &["exec", "alpine1", "--", "getent", "hosts", "alpine2"])?;
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words, ["10.0.1.3", "alpine2"]);
    let reverse = cluster.ask(2, &["exec", "alpine3", "--", "getent", "hosts", "10.0.1.2"])?;
    ensure!(reverse.contains("alpine1"), "{reverse}");
    let unknown = cluster.refused(0, &["exec", "alpine1", "--", "getent", "hosts", "alpine9"])?;
    assert_eq!(unknown.code, 2, "getent's own code for what is not found");
    Ok(())
}

/// What `tshark` tells of a frame.
const FIELDS: [&str; 9] = [
    "frame.protocols",
    "udp.dstport",
    "vxlan.flags",
    "vxlan.vni",
    "ip.src",
    "ip.dst",
    "icmp.type",
    "icmp.checksum.status",
    "ip.checksum.status",
];

fn capture(cluster: &mut Cluster) -> anyhow::Result<()> {
    set_out(cluster)?;
    let mut tshark = start_tshark(cluster, 0)?;
    for (host, from, to) in [(0, 0, 1), (0, 0, 2), (1, 1, 0)] {
        cluster.reach(PATIENCE, host, NAMES[from], NAMES[to])?;
    }
    // Request and answer of each.
    let mut awaited = BTreeSet::new();
    for (from, to) in [(0, 1), (0, 2), (1, 0)] {
        awaited.extend([ping(from, to, "8"), ping(to, from, "0")]);
    }
    let mut pings = Vec::new();
    let complete = eventually(PATIENCE, "all messages", || {
        let text = fs::read_to_string(cluster.path("frames"))?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        pings = whole.lines().map(check).collect::<Result<Vec<_>, _>>()?;
        let pings: BTreeSet<_> = pings.iter().flatten().cloned().collect();
        Ok(awaited.is_subset(&pings).then_some(()))
    });
    tshark.kill()?;
    tshark.wait()?;
    complete.with_context(|| format!("seen: {pings:?}"))
}

/// An ICMP message: between which hosts, between which endpoints, and its type.
type Ping = (String, String, String, String, String);

fn ping(from: usize, to: usize, kind: &str) -> Ping {
    let outer = |host| address(host).to_string();
    let inner = |host| format!("10.0.1.{}", host + 2);
    (
        outer(from),
        outer(to),
        inner(from),
        inner(to),
        kind.to_owned(),
    )
}

/// Checks a captured frame, and tells the ICMP message that it carries, if it does.
fn check(line: &str) -> anyhow::Result<Option<Ping>> {
    let fields: Vec<_> = line.split('\t').collect();
    let [
        protocols,
        port,
        flags,
        vni,
        sources,
        destinations,
        icmp,
        icmp_sum,
        ip_sums,
    ] = fields[..]
    else {
        anyhow::bail!("{} fields", fields.len());
    };
    let inner = protocols.strip_prefix("eth:ethertype:ip:udp:vxlan:eth:ethertype:");
    let inner = inner.with_context(|| format!("no Ethernet frame in VXLAN: {line}"))?;
    ensure!(!protocols.contains("malformed"), "malformed: {line}");
    let head = (port, flags, vni);
    ensure!(
        head == ("4789", "0x0800", "4097"),
        "another VXLAN header: {line}"
    );
    ensure!(
        ip_sums.split(',').all(|status| status == "1"),
        "a bad IP checksum: {line}"
    );
    if !inner.starts_with("ip:icmp") {
        return Ok(None);
    }
    ensure!(icmp_sum == "1", "a bad ICMP checksum: {line}");
    let (from, source) = sources.split_once(',').context("one source")?;
    let (to, destination) = destinations.split_once(',').context("one destination")?;
    let words = [from, to, source, destination, icmp].map(str::to_owned);
    Ok(Some(words.into()))
}

/// Captures what goes in and out of a host, into the file `frames`.
fn start_tshark(cluster: &mut Cluster, host: usize) -> anyhow::Result<Child> {
    let mut command = Command::new("tshark");
    command.args(["-l", "-n", "-i", "eth0", "-f", "udp port 4789"]);
    command.args(["-o", "ip.check_checksum:TRUE", "-T", "fields"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let said = cluster.path("tshark");
    command.stdin(Stdio::null()).stderr(File::create(&said)?);
    command.stdout(File::create(cluster.path("frames"))?);
    let mut tshark = cluster.lab.spawn_in(host, &mut command)?;
    // It says that it captures a moment before it does: a frame that it shows is the proof.
    eventually(PATIENCE, "a first captured frame", || {
        if let Some(status) = tshark.try_wait()? {
            anyhow::bail!("tshark ended with {status}: {}", fs::read_to_string(&said)?);
        }
        cluster.pings(host, NAMES[host], NAMES[host + 1])?;
        Ok((fs::metadata(cluster.path("frames"))?.len() > 0).then_some(()))
    })?;
    Ok(tshark)
}
