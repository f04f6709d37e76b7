//! `overlay doctor`: what is broken on purpose is found, and nothing else.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, PATIENCE, address, eventually, say},
};

pub(crate) const STORIES: &[Story] = &[Story {
    name: "the_doctor_finds_what_is_broken_on_the_way_to_a_peer",
    hosts: 2,
    programs: &["nft", "python3"],
    tell: told,
}];

/// What a firewall does to VXLAN on its way in, what is found then, and in which words.
///
/// Within the datagram, the protocol of the inner IPv4 packet is at octet 39 (8 of UDP, 8 of VXLAN, 14 of Ethernet, and its
/// own 9), the checksum of the inner TCP at octet 66.
const FAULTS: &[(&str, &str, &str)] = &[
    ("drop", "is answered", "4789"),
    (
        "udp length > 1300 drop",
        "small ones pass",
        "--underlay-mtu",
    ),
    (
        "@th,312,8 6 @th,528,16 set 0xdead",
        "UDP passes and TCP does not",
        "checksums",
    ),
];

fn told(cluster: &mut Cluster) -> anyhow::Result<()> {
    let lost = cluster.run(0, &["doctor"])?;
    let said = String::from_utf8_lossy(&lost.stdout).into_owned();
    ensure!(
        lost.status.code() == Some(1) && said.contains("overlay daemon"),
        "without a daemon: {said}"
    );
    cluster.start(0, &["--data-path", "user"])?;
    // The kernel does not probe the path, so what is lost is lost.
    let path = if rustix::process::geteuid().is_root() {
        "kernel"
    } else {
        say("SKIPPED: the doctor and the kernel plane: it needs root");
        "user"
    };
    cluster.start(1, &["--data-path", path])?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    for host in 0..2 {
        eventually(PATIENCE, "a healthy host", || {
            let bad = amiss(cluster, host)?;
            ensure!(bad.is_empty(), "{bad:#?}");
            Ok(Some(()))
        })?;
    }
    for (fault, found, advice) in FAULTS {
        let chain = format!(
            "add table inet doctor; add chain inet doctor in {{ type filter hook input priority -10; }}; add rule inet doctor in udp dport 4789 {fault}"
        );
        // What comes to the host of user space is what the other one has sent.
        cluster.on_host(0, &["nft", &chain])?;
        let bad = amiss(cluster, 1)?;
        cluster.on_host(0, &["nft", "delete table inet doctor"])?;
        let is = |one: &&Value, field: &str, text: &str| {
            one[field]
                .as_str()
                .is_some_and(|words| words.contains(text))
        };
        let mut overlay = bad.iter().filter(|one| is(one, "Check", "overlay"));
        let one = overlay.next().context("nothing was found")?;
        let peer = address(0).to_string();
        ensure!(
            is(&one, "Found", found) && is(&one, "Advice", advice) && is(&one, "About", &peer),
            "{fault}: {one:#}"
        );
        say(&format!("{fault}: {}", one["Found"]));
    }
    dropped(cluster)?;
    cluster.kill(1)?;
    eventually(PATIENCE, "a peer that is gone", || {
        let bad = amiss(cluster, 0)?;
        let member = bad.iter().any(|one| one["Check"] == "member");
        let reach = bad.iter().filter(|one| one["Check"] == "reach");
        Ok((member && reach.count() == 2).then_some(()))
    })
}

/// A datagram of a network that is not here is dropped, and the reason is told.
fn dropped(cluster: &mut Cluster) -> anyhow::Result<()> {
    let send = format!(
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(bytes([8, 0, 0, 0, 0, 0, 99, 0]) + bytes(60), ('{}', 4789))",
        address(0)
    );
    cluster.on_host(1, &["python3", "-c", &send])?;
    eventually(PATIENCE, "a reason", || {
        let told = cluster.list(0, &["doctor", "--filter", "check=frames"])?;
        let mut found = told.iter().filter_map(|one| one["Found"].as_str());
        Ok(found
            .any(|words| words.contains("unknown_network 1"))
            .then_some(()))
    })
}

/// What does not work, or not as well as it could, on the way to peers. Hosts have their own firewalls and clocks.
fn amiss(cluster: &Cluster, host: usize) -> anyhow::Result<Vec<Value>> {
    let told = cluster.run(host, &["doctor", "--format", "json"])?;
    let said = String::from_utf8(told.stdout)?;
    let mut found = Vec::new();
    for line in said.lines() {
        let one: Value = serde_json::from_str(line)?;
        let own = ["rights", "firewall", "clock"];
        if one["Health"] != "good" && !own.iter().any(|check| one["Check"] == *check) {
            ensure!(one["Advice"] != "", "no advice: {one:#}");
            found.push(one);
        }
    }
    let bad = found.iter().any(|one| one["Health"] == "bad");
    ensure!(
        bad <= (told.status.code() == Some(1)),
        "{:?}: {found:#?}",
        told.status
    );
    Ok(found)
}
