//! What went wrong elsewhere, tried on real daemons: a story for each advisory that concerns more than one crate.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    attacks::{HEAR, Running, heard},
    support::{Cluster, OVERLAY, PATIENCE, address, eventually, say, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "cve_2023_28840_rules_that_accept_all_open_no_encrypted_network",
        hosts: 3,
        programs: &["python3", "ip", "nft", "ping"],
        tell: accepted,
    },
    Story {
        name: "cve_2025_54388_and_cve_2025_54410_a_flushed_ruleset_opens_nothing",
        hosts: 3,
        programs: &["python3", "ip", "nft", "nsenter", "ping"],
        tell: flushed,
    },
    Story {
        name: "cve_2020_10136_cve_2024_7595_7596_and_cve_2026_7473_no_tunnel_of_a_stranger_leads_in",
        hosts: 3,
        programs: &["python3", "ip", "ping"],
        tell: tunnels,
    },
    Story {
        name: "cve_2018_19653_cve_2022_41924_and_41925_no_port_answers_in_clear_or_to_http",
        hosts: 3,
        programs: &["python3", "ss"],
        tell: in_clear,
    },
    Story {
        name: "cve_2023_28841_without_its_port_an_encrypted_network_is_refused_not_opened",
        hosts: 2,
        programs: &["python3"],
        tell: port_taken,
    },
    Story {
        name: "cve_2026_31738_cve_2025_37921_and_cve_2026_23293_kernel_devices_answer_for_nobody",
        hosts: 2,
        programs: &["ip", "nsenter", "ping", "sysctl"],
        tell: devices,
    },
];

/// What a stranger has to know of a network in order to lie: more than it would.
struct Target {
    vni: String,
    macs: String,
    ips: String,
    heard: PathBuf,
}

/// A manager and a worker, an endpoint on each, and an ear on the second one.
fn target(cluster: &Cluster, network: &[&str]) -> anyhow::Result<Target> {
    let name = network.last().context("a name")?;
    let create = words("network create --attachable", network);
    cluster.ask(0, &create)?;
    let (mut macs, mut ips) = (Vec::new(), Vec::new());
    for host in 0..2 {
        let endpoint = format!("{name}{host}");
        cluster.sleep(host, name, &endpoint)?;
        let inside = |line: &str| -> anyhow::Result<String> {
            let line = format!("exec {endpoint} -- {line}");
            let said = cluster.ask(host, &words(&line, &[]))?;
            let third = said.split_whitespace().nth(2);
            Ok(third.context("an address")?.to_owned())
        };
        macs.push(inside("ip -br link show eth0")?);
        let ip = inside("ip -4 -br address show eth0")?;
        ips.push(ip.split('/').next().unwrap_or_default().to_owned());
    }
    let heard = cluster.path(&format!("heard-{name}"));
    let ear = format!("{name}1");
    let shown = heard.display().to_string();
    let hear = ["exec", "-d", &ear, "--", "python3", "-c", HEAR, &shown];
    cluster.ask(1, &hear)?;
    cluster.reach(PATIENCE, 0, &format!("{name}0"), &ear)?;
    let options = &cluster.inspect(0, name)?["Options"];
    let vni = options["com.docker.network.driver.overlay.vxlanid_list"].as_str();
    Ok(Target {
        vni: vni.context("a VNI")?.to_owned(),
        macs: macs.join(","),
        ips: ips.join(","),
        heard,
    })
}

/// All that may carry a frame.
const KINDS: &str = "vxlan vxlan-esp-port vxlan-no-flag vxlan-gpe-ip vxlan-other-port ipip gre-ip gre-ethernet nvgre gue gue-vxlan-port fou geneve geneve-vxlan-port l2tp etherip esp";

impl Target {
    /// Sends tunnels of these kinds from the last host to the second one.
    fn inject(
        &self,
        cluster: &mut Cluster,
        outer: usize,
        tag: &str,
        kinds: &str,
    ) -> anyhow::Result<()> {
        let (from, to) = (address(outer).to_string(), address(1).to_string());
        let script = include_str!("attacks/tunnels.py");
        let head = [
            "python3", "-c", script, &from, &to, &self.vni, &self.macs, &self.ips, tag,
        ];
        let kinds = words(kinds, &[]);
        cluster
            .on_host_says(2, &[&head[..], &kinds].concat())
            .map(drop)
    }

    /// Waits until what an endpoint of the network says arrives: what came before it has been through the same queues.
    fn catch_up(&self, cluster: &Cluster, from: &str, tag: &str) -> anyhow::Result<()> {
        let to = self.ips.split(',').nth(1).context("two addresses")?;
        let tell = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(f'{sys.argv[1]}-x'.encode(), (sys.argv[2], 9000))";
        let exec = ["exec", from, "--", "python3", "-c", tell, tag, to];
        eventually(PATIENCE, tag, || {
            cluster.ask(0, &exec)?;
            Ok((heard(&self.heard, tag)? > 0).then_some(()))
        })
    }

    fn has_heard(&self, tag: &str) -> anyhow::Result<String> {
        let all = fs::read_to_string(&self.heard).unwrap_or_default();
        let lines = all.lines();
        let lines: BTreeSet<_> = lines
            .filter(|line| line.starts_with(&format!("{tag}-")))
            .collect();
        Ok(lines.into_iter().collect::<Vec<_>>().join(" "))
    }
}

fn start_two(cluster: &mut Cluster, more: &[&str]) -> anyhow::Result<()> {
    cluster.start(0, more)?;
    cluster.start(1, more)?;
    cluster.ask(0, &["init"])?;
    cluster.join(1, "worker").map(drop)
}

/// From a stranger's own address, and from one that is forged to be a member's. In the open, the latter is believed, as
/// nothing there could tell; which also shows that the attack is one.
fn accepted(cluster: &mut Cluster) -> anyhow::Result<()> {
    for host in 0..2 {
        for (hook, number) in [("prerouting", -450), ("input", -400), ("output", -400)] {
            let rules = format!(
                "nft add table ip all_{hook}; nft add chain ip all_{hook} accepts '{{ type filter hook {hook} priority {number}; policy accept; }}'; nft add rule ip all_{hook} accepts accept"
            );
            cluster.on_host(host, &["sh", "-c", &rules])?;
        }
    }
    start_two(cluster, &[])?;
    let sealed = target(cluster, &["-o", "encrypted", "sealed"])?;
    let open = target(cluster, &["open"])?;
    for (outer, tag) in [(2, "own"), (0, "forged")] {
        sealed.inject(cluster, outer, tag, KINDS)?;
        open.inject(cluster, outer, tag, "vxlan")?;
    }
    sealed.catch_up(cluster, "sealed0", "after")?;
    open.catch_up(cluster, "open0", "after")?;
    for tag in ["own", "forged"] {
        let said = sealed.has_heard(tag)?;
        ensure!(said.is_empty(), "an encrypted network took {said}");
    }
    ensure!(
        open.has_heard("own")?.is_empty(),
        "{}",
        open.has_heard("own")?
    );
    let control = open.has_heard("forged")?;
    ensure!(control == "forged-vxlan", "the attack is none: {control:?}");
    Ok(())
}

/// On hosts of either plane.
fn flushed(cluster: &mut Cluster) -> anyhow::Result<()> {
    let kernel = rustix::process::geteuid().is_root();
    let plane = if kernel { "kernel" } else { "user" };
    start_two(cluster, &["--data-path", plane])?;
    let sealed = target(cluster, &["-o", "encrypted", "sealed"])?;
    let inside = target(cluster, &["--internal", "inside"])?;
    // While they go, and after.
    for round in 0..5 {
        for host in 0..2 {
            cluster.on_host(host, &words("nft flush ruleset", &[]))?;
            let switch = cluster.data(host).join("switch");
            if switch.exists() {
                let enter = format!("--net={}", switch.display());
                let flush = ["nsenter", &enter, "nft", "flush", "ruleset"];
                cluster.on_host(host, &flush)?;
            }
        }
        let tag = format!("flushed{round}");
        for outer in [2, 0] {
            sealed.inject(cluster, outer, &tag, KINDS)?;
        }
        let from = [
            "exec",
            "inside0",
            "--",
            "ping",
            "-c",
            "1",
            "-W",
            "1",
            "192.168.77.3",
        ];
        cluster.refused(0, &from)?;
        sealed.catch_up(cluster, "sealed0", &format!("after{round}"))?;
        let said = sealed.has_heard(&tag)?;
        ensure!(said.is_empty(), "an encrypted network took {said}");
    }
    eventually(PATIENCE, "an empty plan", || {
        let plan = cluster.ask(1, &["network", "plan"])?;
        ensure!(plan.is_empty(), "still to do: {plan}");
        Ok(Some(()))
    })?;
    // What the rules are for is kept out again: a stranger's frames for a network in the open.
    inside.inject(cluster, 2, "stranger", KINDS)?;
    inside.catch_up(cluster, "inside0", "after")?;
    let said = inside.has_heard("stranger")?;
    ensure!(said.is_empty(), "a network took {said} of a stranger");
    Ok(())
}

/// On hosts of either plane, into a network in the open, with all that is right but the sender.
fn tunnels(cluster: &mut Cluster) -> anyhow::Result<()> {
    let root = rustix::process::geteuid().is_root();
    cluster.start(0, &[])?;
    let planes: &[&str] = if root { &["user", "kernel"] } else { &["user"] };
    for (number, plane) in planes.iter().enumerate() {
        let data = format!("--data-path={plane}");
        cluster.start(1, &[&data])?;
        if number == 0 {
            cluster.ask(0, &["init"])?;
        }
        cluster.join(1, "worker")?;
        let name = format!("open-{plane}-");
        let target = target(cluster, &[&name])?;
        target.inject(cluster, 2, "stranger", KINDS)?;
        // A member is taken at its word in the open, but for VXLAN only.
        target.inject(cluster, 0, "member", KINDS)?;
        target.catch_up(cluster, &format!("{name}0"), "after")?;
        let (stranger, member) = (target.has_heard("stranger")?, target.has_heard("member")?);
        say(&format!(
            "{plane}: of a stranger {stranger:?}, of a member {member:?}"
        ));
        ensure!(stranger.is_empty(), "{plane}: {stranger}");
        ensure!(member == "member-vxlan", "{plane}: {member}");
        cluster.ask(1, &words("rm -f", &[&format!("{name}1")]))?;
        cluster.ask(1, &["leave"])?;
        cluster.kill(1)?;
    }
    Ok(())
}

fn in_clear(cluster: &mut Cluster) -> anyhow::Result<()> {
    start_two(cluster, &[])?;
    let help = std::process::Command::new(OVERLAY)
        .args(["daemon", "--help"])
        .output()?;
    let help = String::from_utf8(help.stdout)?.to_lowercase();
    for word in ["tls", "insecure", "plain", "verify", "no-auth"] {
        ensure!(!help.contains(word), "an option about {word}: {help}");
    }
    for host in 0..2 {
        let listed = cluster.on_host_says(host, &words("ss -Hltn", &[]))?;
        let ports = listed
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3));
        let ports: BTreeSet<_> = ports.filter_map(|local| local.rsplit(':').next()).collect();
        let expected = BTreeSet::from(["2377", "7946"]);
        ensure!(
            ports == expected,
            "host {host} listens at {ports:?}: {listed}"
        );
        let script = include_str!("attacks/knock.py");
        let address = address(host).to_string();
        let knock = ["python3", "-c", script, &address, "2377", "7946"];
        let answers = cluster.on_host_says(2, &knock)?;
        // Three ways to say eight things to two ports.
        ensure!(answers == "begun 48\n", "host {host} answered {answers}");
    }
    // It still does to those who may ask.
    ensure!(cluster.nodes(0)?.len() == 2, "two nodes");
    Ok(())
}

/// Where there is no way to carry it sealed, whoever wants to be on it is told why, whatever else goes on; nothing leaves.
fn port_taken(cluster: &mut Cluster) -> anyhow::Result<()> {
    let take = "import socket, sys; taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); taken.bind(('0.0.0.0', 4500)); print('begun', flush=True); sys.stdin.read()";
    let taken = Running::begin(cluster, 1, take, &[])?;
    start_two(cluster, &[])?;
    let create = "network create --attachable";
    cluster.ask(0, &words(create, &["-o", "encrypted", "sealed"]))?;
    cluster.ask(0, &words(create, &["open"]))?;
    for (host, name) in [(0, "sealed"), (0, "open"), (1, "open")] {
        cluster.sleep(host, name, &format!("{name}{host}"))?;
    }
    let run = words("run -d --name sealed1 --network sealed -- sleep 1000", &[]);
    let refusal = cluster.refused(1, &run)?;
    ensure!(refusal.said.contains("4500"), "{refusal:?}");
    cluster.reach(PATIENCE, 1, "open1", "open0")?;
    // Once it is to be had, it is used.
    taken.end()?;
    cluster.kill(1)?;
    cluster.start(1, &[])?;
    eventually(PATIENCE, "an endpoint", || cluster.ask(1, &run).map(Some))?;
    cluster.reach(PATIENCE, 1, "sealed1", "sealed0").map(drop)
}

/// They answer no questions in the place of others, tell nobody of what they miss, and filter no VNIs; and IPv6 may be off.
fn devices(cluster: &mut Cluster) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        say("SKIPPED: the kernel plane: it needs root");
        return Ok(());
    }
    for host in 0..2 {
        cluster.on_host(
            host,
            &words("sysctl -qw net.ipv6.conf.all.disable_ipv6=1", &[]),
        )?;
        cluster.on_host(
            host,
            &words("sysctl -qw net.ipv6.conf.default.disable_ipv6=1", &[]),
        )?;
    }
    start_two(cluster, &["--data-path", "kernel"])?;
    let create = "network create --attachable --subnet 10.9.0.0/24 --subnet fd00:9::/64 my-net";
    cluster.ask(0, &words(create, &[]))?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    cluster.reach(PATIENCE, 1, "c1", "c0")?;
    for host in 0..2 {
        let enter = format!("--net={}", cluster.data(host).join("switch").display());
        let list = [
            "nsenter", &enter, "ip", "-d", "link", "show", "type", "vxlan",
        ];
        let shown = cluster.on_host_says(host, &list)?;
        ensure!(shown.contains("vxlan id"), "{shown}");
        for word in ["proxy", "l2miss", "l3miss", "rsc", "vnifilter", "external"] {
            let has = shown.split_whitespace().any(|found| found == word);
            ensure!(!has, "a device with {word}: {shown}");
        }
    }
    Ok(())
}
