//! What is secret stays so, and what is none of the cluster's changes nothing.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use overlay_linux::plane;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, PATIENCE, address, eventually, say, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "an_encrypted_network_shows_nothing_between_hosts_of_both_planes",
        hosts: 3,
        programs: &["ping", "iperf3", "tshark"],
        tell: encrypted,
    },
    Story {
        name: "a_kernel_that_can_seal_carries_encrypted_networks",
        hosts: 3,
        programs: &["ping", "ip", "tshark"],
        tell: in_the_kernel,
    },
    Story {
        name: "floods_of_garbage_stop_nobody_and_take_no_memory",
        hosts: 4,
        programs: &["ping", "python3"],
        tell: floods,
    },
];

/// Keys and authority change under way, too, and no ping is lost.
fn encrypted(cluster: &mut Cluster) -> anyhow::Result<()> {
    let kernel = rustix::process::geteuid().is_root();
    if !kernel {
        say("SKIPPED: a host of the kernel plane: it needs root");
    }
    for (host, plane) in [(0, "user"), (1, "user"), (2, "kernel")] {
        let plane = if kernel { plane } else { "user" };
        cluster.start(host, &["--data-path", plane])?;
    }
    let mut tshark = sealed(cluster)?;
    for host in 0..3 {
        let run = format!("run -d --name perf{host} --network my-net -- iperf3 -s");
        cluster.ask(host, &words(&run, &[]))?;
    }
    for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))) {
        if from == to {
            continue;
        }
        for how in ["-4 -s 56", "-6 -s 56", "-4 -M do -s 1377", "-6 -s 4000"] {
            let line = format!("exec c{from} -- ping -c 2 -i 0.2 -W 2 {how} c{to}");
            eventually(PATIENCE, &line, || {
                cluster.ask(from, &words(&line, &[])).map(Some)
            })?;
        }
        let line = format!("exec c{from} -- iperf3 -c perf{to} -n 20M");
        eventually(PATIENCE, &line, || {
            cluster.ask(from, &words(&line, &[])).map(Some)
        })?;
    }
    cluster.ask(0, &words("cluster update --key-rotation 10s", &[]))?;
    let before = generation(cluster)?;
    cluster.ask(0, &["ca", "--rotate"])?;
    let mut sent = 0;
    while generation(cluster)? < before + 2 {
        let said = cluster.ask(0, &words("exec c0 -- ping -q -f -c 5000 c1", &[]))?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        sent += 5_000;
    }
    say(&format!(
        "{sent} pings while keys changed twice, all answered"
    ));
    let pid = Pid::from_child(&tshark);
    kill_process(pid, Signal::INT)?;
    tshark.wait()?;
    nothing_is_shown(cluster, 5_000)
}

/// Makes the daemons one cluster with an encrypted network, and an endpoint on each host; captures what goes between these.
fn sealed(cluster: &mut Cluster) -> anyhow::Result<Child> {
    cluster.join_all()?;
    let both = ["--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64"];
    let create = words("network create --attachable -o encrypted my-net", &both);
    cluster.ask(0, &create)?;
    let tshark = capture(cluster)?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    Ok(tshark)
}

/// Between two of its kind, and with the plane in user space. Keys change under a flow, and daemons come and go.
fn in_the_kernel(cluster: &mut Cluster) -> anyhow::Result<()> {
    if let Err(reason) = plane::can_seal(false) {
        say(&format!(
            "SKIPPED: encrypted networks in the kernel: {reason}"
        ));
        return Ok(());
    }
    for (host, plane) in [(0, "kernel"), (1, "kernel"), (2, "user")] {
        cluster.start(host, &["--data-path", plane])?;
    }
    let mut tshark = sealed(cluster)?;
    let reaches = |cluster: &Cluster, from: usize, to: usize, how: &str| {
        let line = format!("exec c{from} -- ping -c 2 -i 0.2 -W 2 {how} c{to}");
        eventually(PATIENCE, &line, || {
            cluster.ask(from, &words(&line, &[])).map(Some)
        })
    };
    for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))) {
        for how in ["-4 -s 56", "-6 -s 56", "-4 -M do -s 1377", "-6 -s 4000"] {
            if from != to {
                reaches(cluster, from, to, how)?;
            }
        }
    }
    for (host, sealed) in [(0, true), (1, true), (2, false)] {
        let list = cluster.on_host_says(host, &["ip", "xfrm", "state"])?;
        ensure!(list.contains("proto esp") == sealed, "host {host}: {list}");
    }
    cluster.ask(0, &words("cluster update --key-rotation 10s", &[]))?;
    let before = generation(cluster)?;
    let mut sent = 0;
    while generation(cluster)? < before + 2 {
        for to in ["c1", "c2"] {
            let line = format!("exec c0 -- ping -q -i 0.005 -c 400 {to}");
            let said = cluster.ask(0, &words(&line, &[]))?;
            ensure!(said.contains(" 0% packet loss"), "{said}");
            sent += 400;
        }
    }
    say(&format!(
        "{sent} pings while keys changed twice, all answered"
    ));
    // One who comes again has other keys.
    cluster.kill(1)?;
    cluster.start(1, &["--data-path", "kernel"])?;
    for (from, to) in [(0, 1), (1, 0), (2, 1), (1, 2)] {
        reaches(cluster, from, to, "-s 1000")?;
    }
    let pid = Pid::from_child(&tshark);
    kill_process(pid, Signal::INT)?;
    tshark.wait()?;
    nothing_is_shown(cluster, 500)
}

/// Returns the number of the newest key that all nodes share.
pub(crate) fn generation(cluster: &Cluster) -> anyhow::Result<u64> {
    let inspect = ["cluster", "inspect", "--format", "json"];
    let inspected: Value = serde_json::from_str(&cluster.ask(0, &inspect)?)?;
    let generation = inspected[0]["SharedKeys"]["Generation"].as_u64();
    generation.context("no generation of keys")
}

/// Captures what goes between host 0 and the others.
fn capture(cluster: &mut Cluster) -> anyhow::Result<Child> {
    let file = cluster.path("wire.pcapng");
    let mut command = Command::new("tshark");
    command.args(["-q", "-n", "-i", "eth0", "-s", "160", "-w"]);
    command.arg(&file);
    command.args(["-f", "udp port 4500 or udp port 4789"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let tshark = cluster.lab.spawn_in(0, &mut command)?;
    eventually(PATIENCE, "a capture", || {
        Ok(fs::metadata(&file)
            .is_ok_and(|file| file.len() > 0)
            .then_some(()))
    })?;
    Ok(tshark)
}

fn nothing_is_shown(cluster: &Cluster, at_least: usize) -> anyhow::Result<()> {
    let file = cluster.path("wire.pcapng");
    let count = |filter: &str| -> anyhow::Result<usize> {
        let read = Command::new("tshark")
            .args(["-n", "-r"])
            .arg(&file)
            .args(["-Y", filter, "-T", "fields", "-e", "frame.number"])
            .output()?;
        Ok(String::from_utf8(read.stdout)?.lines().count())
    };
    let (sealed, plain) = (count("esp")?, count("vxlan")?);
    say(&format!("{sealed} packets of ESP, {plain} of VXLAN"));
    ensure!(sealed > at_least, "only {sealed} packets of ESP");
    ensure!(plain == 0, "{plain} packets of VXLAN");
    Ok(())
}

fn floods(cluster: &mut Cluster) -> anyhow::Result<()> {
    for host in 0..3 {
        cluster.start(host, &[])?;
    }
    cluster.ask(0, &["init"])?;
    for host in 1..3 {
        cluster.join(host, "worker")?;
    }
    cluster.ask(0, &words("network create --attachable open", &[]))?;
    cluster.ask(
        0,
        &words("network create --attachable -o encrypted sealed", &[]),
    )?;
    for host in 0..2 {
        cluster.sleep(host, "open", &format!("open{host}"))?;
        cluster.sleep(host, "sealed", &format!("sealed{host}"))?;
    }
    let line = "exec sealed1 -- ping -c 1 -W 1 sealed0";
    eventually(PATIENCE, line, || {
        cluster.ask(1, &words(line, &[])).map(Some)
    })?;
    let before = memory(cluster, 0)?;
    let script = cluster.path("flood.py");
    fs::write(&script, FLOOD)?;
    let mut command = Command::new("python3");
    command.arg(&script).arg(address(0).to_string()).arg("8");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    // From a host that is none of the cluster's.
    let flood = cluster.lab.spawn_in(3, &mut command)?;
    let mut lost = 0;
    for (from, to) in [("open1", "open0"), ("sealed1", "sealed0")].repeat(4) {
        let line = format!("exec {from} -- ping -q -c 10 -i 0.05 -W 1 {to}");
        let said = cluster.run(1, &words(&line, &[]))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let received = said.split(" received").next().unwrap_or_default();
        let received = received.rsplit(' ').next().unwrap_or_default();
        lost += 10 - received.parse::<u32>().with_context(|| said.clone())?;
    }
    // A node leaves and joins, and the state changes, meanwhile.
    cluster.ask(2, &["leave"])?;
    cluster.join(2, "worker")?;
    cluster.ask(0, &words("network create late", &[]))?;
    let sent = flood.wait_with_output()?;
    say(&format!(
        "datagrams and connections: {}; {lost} of 80 pings lost",
        String::from_utf8_lossy(&sent.stdout).trim()
    ));
    let after = memory(cluster, 0)?;
    say(&format!("{before} kB of memory before, {after} kB after"));
    ensure!(after < before + 64 * 1_024, "{before} kB, then {after} kB");
    // The queue of the data port may have overflowed, as with any traffic of that rate.
    ensure!(lost <= 40, "{lost} of 80 pings lost");
    let nodes = cluster.nodes(0)?;
    let down = nodes.iter().find(|node| node["Status"] != "Ready");
    ensure!(nodes.len() == 3 && down.is_none(), "{nodes:?}");
    Ok(())
}

/// Returns how much memory the daemon of a host has, in kB.
pub(crate) fn memory(cluster: &Cluster, host: usize) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.pid(host)?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let amount = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(amount.context("no VmRSS")?.trim().parse()?)
}

/// What is sent.
const FLOOD: &str = include_str!("flood.py");
