//! Networks that the kernel carries on some hosts and the daemon on others, and captures.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, eventually, is_installed, say, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "hosts_of_both_planes_meet_in_one_network",
        hosts: 3,
        programs: &["ping", "iperf3"],
        tell: both_planes,
    },
    Story {
        name: "what_is_there_already_is_reached_by_an_endpoints_first_packet",
        hosts: 4,
        programs: &["ping"],
        tell: first_packets,
    },
    Story {
        name: "vlans_pass_between_planes_where_the_network_carries_them",
        hosts: 3,
        programs: &["ping", "iperf3", "python3", "ip"],
        tell: vlans,
    },
    Story {
        name: "what_is_changed_by_hand_in_the_kernel_plane_is_repaired_while_pings_go_on",
        hosts: 2,
        programs: &["ping", "nsenter", "bridge", "nft"],
        tell: damage,
    },
    Story {
        name: "an_endpoints_interface_that_is_changed_by_hand_is_repaired_while_programs_go_on",
        hosts: 2,
        programs: &["ping", "ip"],
        tell: meddled,
    },
    Story {
        name: "a_capture_shows_frames_as_endpoints_see_them",
        hosts: 2,
        programs: &["ping"],
        tell: capture,
    },
];

/// A VLAN on top of an interface, for kernels without 802.1Q.
const TAG: &str = include_str!("../../../vxlan-tap/tests/interop/tag.py");

/// Starts a daemon whose networks the kernel carries; false, and loudly, where that is not possible.
fn start_kernel(cluster: &mut Cluster, host: usize) -> anyhow::Result<bool> {
    if !rustix::process::geteuid().is_root() {
        say("SKIPPED: the kernel plane: it needs root");
        return Ok(false);
    }
    cluster.start(host, &["--data-path", "kernel"])?;
    Ok(true)
}

fn both_planes(cluster: &mut Cluster) -> anyhow::Result<()> {
    if !start_kernel(cluster, 0)? || !start_kernel(cluster, 2)? {
        return Ok(());
    }
    cluster.start(1, &["--data-path", "user"])?;
    cluster.join_all()?;
    let both = ["--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64"];
    let create = ["network", "create", "--attachable", "my-net"];
    cluster.ask(0, &[&create[..], &both].concat())?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
        let run = format!("run -d --name perf{host} --network my-net -- iperf3 -s");
        cluster.ask(host, &run.split(' ').collect::<Vec<_>>())?;
    }
    everyone_reaches_everyone(cluster)?;
    services_are_reached(cluster)?;
    // A network of the other plane is refused with the reason.
    cluster.ask(
        0,
        &[
            "network",
            "create",
            "--attachable",
            "-o",
            "data-path=user",
            "users",
        ],
    )?;
    let refusal = cluster.refused(0, &["run", "--rm", "--network", "users", "--", "true"])?;
    ensure!(format!("{refusal:?}").contains("data-path"), "{refusal:?}");
    Ok(())
}

/// A program that starts finds the names and the ways of all that was there before, in networks that are new to its host.
fn first_packets(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start(0, &["--data-path", "user"])?;
    cluster.start(1, &["--data-path", "user"])?;
    let hosts = match start_kernel(cluster, 2)? {
        true => {
            start_kernel(cluster, 3)?;
            4
        }
        false => {
            cluster.start(2, &[])?;
            cluster.start(3, &[])?;
            2
        }
    };
    cluster.join_all()?;
    for (from, to) in (0..hosts).flat_map(|from| (0..hosts).map(move |to| (from, to))) {
        if from == to {
            continue;
        }
        let (network, one) = (format!("net-{from}-{to}"), format!("one-{from}-{to}"));
        cluster.ask(0, &["network", "create", "--attachable", &network])?;
        cluster.sleep(to, &network, &one)?;
        // The other host may hear of this one a moment late: one reply has to come. A question for a MAC address that is lost
        // is put again after a second, as the times say.
        let run = format!("run --rm --network {network} -- ping -n -c 2 -i 0.3 -W 2 {one}");
        let said = cluster.ask(from, &words(&run, &[]))?;
        let times = said.split("time=").skip(1);
        for time in times.filter_map(|time| time.split(' ').next()) {
            say(&format!("host {from} to host {to}: {time} ms"));
            let milliseconds: f64 = time.parse()?;
            ensure!(milliseconds < 900.0, "the first frame was lost: {said}");
        }
    }
    Ok(())
}

/// By both families, whole and in fragments, with flows of both protocols.
fn everyone_reaches_everyone(cluster: &Cluster) -> anyhow::Result<()> {
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            for how in ["-4 -s 56", "-6 -s 56", "-4 -s 4000", "-6 -s 4000"] {
                let line = format!("exec c{from} -- ping -c 2 -i 0.2 -W 2 {how} c{to}");
                let words: Vec<_> = line.split(' ').collect();
                eventually(PATIENCE, &line, || cluster.ask(from, &words).map(Some))?;
            }
            for how in ["-4 -n 20M", "-6 -n 20M", "-4 -u -b 20M -n 1M"] {
                let line = format!("exec c{from} -- iperf3 -c perf{to} {how}");
                let words: Vec<_> = line.split(' ').collect();
                let told = eventually(PATIENCE, &line, || cluster.ask(from, &words).map(Some))?;
                let sum = told.lines().find(|line| line.ends_with("receiver"));
                say(&format!("{line}: {}", sum.context("no sum")?.trim()));
            }
        }
    }
    Ok(())
}

/// A VLAN is a network of its own: other addresses, carried by MAC addresses alone; without the option nothing passes.
fn vlans(cluster: &mut Cluster) -> anyhow::Result<()> {
    if !start_kernel(cluster, 0)? || !start_kernel(cluster, 2)? {
        return Ok(());
    }
    cluster.start(1, &["--data-path", "user"])?;
    cluster.join_all()?;
    let create = "network create --attachable";
    cluster.ask(0, &words(create, &["-o", "vlan-tags=carry", "trunk"]))?;
    cluster.ask(0, &words(create, &["plain"]))?;
    for (network, own) in [("trunk", 1), ("plain", 11)] {
        for host in 0..3 {
            let name = format!("{network}{host}");
            cluster.sleep(host, network, &name)?;
            let run = format!("exec -d {name} -- python3 -c");
            cluster.ask(host, &words(&run, &[TAG, "eth0", "5"]))?;
            let inside = |line: &str| {
                let line = format!("exec {name} -- {line}");
                eventually(PATIENCE, &line, || {
                    cluster.ask(host, &words(&line, &[])).map(Some)
                })
            };
            let shown = inside("ip -br link show eth0")?;
            let mac = shown.split_whitespace().nth(2).context("no MAC address")?;
            inside(&format!("ip link set tagged address {mac}"))?;
            inside(&format!(
                "ip address add 10.55.0.{}/24 dev tagged",
                own + host
            ))?;
            inside("sysctl -qw net.ipv6.conf.tagged.disable_ipv6=0")?;
            inside(&format!(
                "ip address add fd55::{}/64 dev tagged nodad",
                own + host
            ))?;
            inside("ip link set tagged mtu 1446 up")?;
        }
    }
    for host in 0..3 {
        let serve = format!("exec -d trunk{host} -- iperf3 -s");
        cluster.ask(host, &words(&serve, &[]))?;
    }
    for (from, to) in (0..3).flat_map(|from| (0..3).map(move |to| (from, to))) {
        if from == to {
            continue;
        }
        let other = to + 1;
        for line in [
            format!("ping -n -c 2 -i 0.2 -W 2 10.55.0.{other}"),
            format!("ping -n -c 2 -i 0.2 -W 2 -M do -s 1418 10.55.0.{other}"),
            format!("ping -n -c 2 -i 0.2 -W 2 -s 4000 10.55.0.{other}"),
            format!("ping -n -c 2 -i 0.2 -W 2 fd55::{other}"),
            format!("iperf3 -n 5M -c 10.55.0.{other}"),
            format!("iperf3 -n 5M -c fd55::{other}"),
            format!("iperf3 -u -b 20M -n 1M -c 10.55.0.{other}"),
        ] {
            let line = format!("exec trunk{from} -- {line}");
            eventually(PATIENCE, &line, || {
                cluster.ask(from, &words(&line, &[])).map(Some)
            })?;
        }
        let line = format!("exec plain{from} -- ping -n -c 1 -W 1 10.55.0.{}", 11 + to);
        let told = cluster.run(from, &words(&line, &[]))?;
        ensure!(!told.status.success(), "{line}: {told:?}");
    }
    addresses_twice(cluster)
}

/// In a VLAN somebody may have the address that it has outside: who asks for it there is not answered from the tables.
fn addresses_twice(cluster: &Cluster) -> anyhow::Result<()> {
    let shown = cluster.ask(1, &words("exec trunk1 -- ip -4 -br address show eth0", &[]))?;
    let address = shown
        .split_whitespace()
        .nth(2)
        .and_then(|net| net.split_once('/'));
    let (address, _) = address.context("no address")?;
    for (host, line) in [
        (0, "ip address add 10.55.1.1/32 dev tagged".to_owned()),
        (
            0,
            format!("ip route add {address}/32 dev tagged src 10.55.1.1"),
        ),
        (1, "ip route add 10.55.1.1/32 dev tagged".to_owned()),
    ] {
        let line = format!("exec trunk{host} -- {line}");
        cluster.ask(host, &words(&line, &[]))?;
    }
    let line = format!("exec trunk0 -- ping -n -c 1 -W 1 {address}");
    let told = eventually(PATIENCE, &line, || {
        cluster.ask(0, &words(&line, &[])).map(Some)
    })?;
    say(&format!(
        "{line}: {}",
        told.lines().nth(1).unwrap_or_default()
    ));
    Ok(())
}

/// Names of services lead to tasks on hosts of both planes.
fn services_are_reached(cluster: &Cluster) -> anyhow::Result<()> {
    let service = ["service", "create", "--name", "web", "--replicas", "3"];
    let rest = [
        "--network",
        "my-net",
        "--",
        OVERLAY,
        "httpd",
        "--port",
        "80",
    ];
    cluster.ask(0, &[&service[..], &rest].concat())?;
    if is_installed("curl") {
        for host in 0..3 {
            for family in ["-4", "-6"] {
                let client = format!("c{host}");
                let ask = [
                    "exec",
                    &client,
                    "--",
                    "curl",
                    "-sS",
                    "-m",
                    "3",
                    family,
                    "http://web/",
                ];
                let told = eventually(PATIENCE, "an answer", || cluster.ask(host, &ask).map(Some))?;
                ensure!(told.contains("task"), "{told}");
            }
        }
    } else {
        say("SKIPPED: services over both planes: curl is not installed");
    }
    Ok(())
}

fn damage(cluster: &mut Cluster) -> anyhow::Result<()> {
    if !start_kernel(cluster, 0)? || !start_kernel(cluster, 1)? {
        return Ok(());
    }
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
        cluster.sleep(host, "my-net", &format!("d{host}"))?;
    }
    let reach = |cluster: &Cluster| {
        let ping = ["exec", "c0", "--", "ping", "-c", "1", "-W", "1", "c1"];
        eventually(PATIENCE, "a ping", || cluster.ask(0, &ping).map(Some))
    };
    let as_planned = |cluster: &Cluster| {
        eventually(PATIENCE, "an empty plan", || {
            let plan = cluster.ask(0, &["network", "plan"])?;
            ensure!(plan.is_empty(), "still to do: {plan}");
            Ok(Some(()))
        })
    };
    reach(cluster)?;
    as_planned(cluster)?;
    let switch = format!("--net={}", cluster.data(0).join("switch").display());
    let enter = ["nsenter", &*switch];
    let list = words("ip -o link show type vxlan", &[]);
    let shown = cluster.on_host_says(0, &[&enter[..], &list].concat())?;
    let vxlan = shown
        .split([':', '@'])
        .nth(1)
        .context("no VXLAN device")?
        .trim()
        .to_owned();
    let bridge = vxlan.replace("ovx", "ovb");
    for damage in [
        format!("bridge fdb flush dev {vxlan}"),
        format!("ip neigh flush dev {bridge} nud permanent"),
        "nft flush ruleset".to_owned(),
        format!("ip link set {bridge} down"),
        format!("ip link del {vxlan}"),
        format!("ip link del {bridge}"),
    ] {
        cluster.on_host(0, &[&enter[..], &words(&damage, &[])].concat())?;
        let planned = cluster.ask(0, &["network", "plan"])?;
        as_planned(cluster)?;
        reach(cluster)?;
        say(&format!(
            "{damage}: {} lines planned, repaired",
            planned.lines().count()
        ));
    }
    restart(cluster)?;
    reach(cluster)?;
    as_planned(cluster)
}

/// On a host of each plane, as somebody inside may do.
fn meddled(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start(0, &["--data-path", "user"])?;
    if !start_kernel(cluster, 1)? {
        cluster.start(1, &["--data-path", "user"])?;
    }
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    for host in 0..2 {
        let (name, other) = (format!("c{host}"), format!("c{}", 1 - host));
        let running = alive(cluster, host)?;
        for damage in [
            "ip address flush dev eth0",
            "ip link set eth0 address 02:00:00:00:00:99",
            "ip link set eth0 down",
            "ip link delete eth0",
            "ip link delete eth0",
        ] {
            cluster.reach(PATIENCE, 1 - host, &other, &name)?;
            let words = ["exec", &name, "--"].into_iter().chain(damage.split(' '));
            cluster.ask(host, &words.collect::<Vec<_>>())?;
            // Whoever reads at once may still find the state of before.
            let began = Instant::now();
            cluster.reach(PATIENCE, 1 - host, &other, &name)?;
            cluster.reach(PATIENCE, host, &name, &other)?;
            say(&format!(
                "{damage}: {name} answers after {:?}",
                began.elapsed()
            ));
        }
        let now = alive(cluster, host)?;
        ensure!(now == running, "{now:?}, not {running:?}");
    }
    Ok(())
}

/// What runs on a host, and when each of it began.
fn alive(cluster: &Cluster, host: usize) -> anyhow::Result<Vec<(Value, String)>> {
    let mut alive = Vec::new();
    for task in cluster.list(host, &["ps"])? {
        let name = task["Names"].as_str().context("no name")?;
        let stat = cluster.ask(host, &["exec", name, "--", "cat", "/proc/1/stat"])?;
        // See proc_pid_stat(5).
        let began = stat.split(' ').nth(21).context("no time")?.to_owned();
        alive.push((task["ID"].clone(), began));
    }
    Ok(alive)
}

/// The daemon is killed and started anew, with a flow on its way.
fn restart(cluster: &mut Cluster) -> anyhow::Result<()> {
    let ping = "exec c1 -- ping -q -i 0.01 -c 800 c0"
        .split(' ')
        .collect::<Vec<_>>();
    let mut flow = Command::new(OVERLAY);
    flow.arg("--socket").arg(cluster.socket(1)).args(&ping);
    let flow = flow.stdout(Stdio::piped()).spawn()?;
    cluster.kill(0)?;
    cluster.start(0, &["--data-path", "kernel"])?;
    let told = flow.wait_with_output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains(" 0% packet loss"), "{told}");
    Ok(())
}

fn capture(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    let ping = ["exec", "c0", "--", "ping", "-c", "1", "-W", "1", "c1"];
    eventually(PATIENCE, "a ping", || cluster.ask(0, &ping).map(Some))?;
    let file = cluster.path("captured.pcapng");
    let mut capture = Command::new(OVERLAY);
    capture.arg("--socket").arg(cluster.socket(0));
    capture.args(["capture", "my-net", "-w"]).arg(&file);
    let mut capture = capture.stdin(Stdio::null()).spawn()?;
    // The head of the file says that it has begun.
    eventually(PATIENCE, "the head of the capture", || {
        Ok(std::fs::metadata(&file).ok().filter(|file| file.len() > 0))
    })?;
    cluster.ask(
        0,
        &[
            "exec", "c0", "--", "ping", "-c", "3", "-i", "0.2", "-p", "c0ffee", "c1",
        ],
    )?;
    let captured = eventually(PATIENCE, "the frames", || {
        let octets = std::fs::read(&file)?;
        let marks = octets
            .windows(6)
            .filter(|six| *six == [0xc0, 0xff, 0xee, 0xc0, 0xff, 0xee]);
        Ok((marks.count() >= 6 * 8).then_some(octets))
    })?;
    let id = i32::try_from(capture.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("a process")?;
    kill_process(id, Signal::INT)?;
    ensure!(
        capture.wait()?.success(),
        "an interrupted capture has ended well"
    );
    ensure!(
        captured.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]),
        "not a pcapng file"
    );
    if !is_installed("tshark") {
        say("SKIPPED: reading the capture: tshark is not installed");
        return Ok(());
    }
    read(&file)
}

/// What tshark reads: requests outwards to the other host, answers inwards from there.
fn read(file: &Path) -> anyhow::Result<()> {
    let fields = [
        "-T",
        "fields",
        "-e",
        "icmp.type",
        "-e",
        "frame.packet_flags_direction",
        "-e",
        "frame.comment",
    ];
    let read = Command::new("tshark")
        .arg("-r")
        .arg(file)
        .args(["-Y", "icmp"])
        .args(fields)
        .output()?;
    let read = String::from_utf8_lossy(&read.stdout).into_owned();
    let peer = format!("peer {}", crate::support::address(1));
    let count = |kind: &str, way: &str| {
        let begin = format!("{kind}\t{way}\t");
        let lines = read.lines();
        lines
            .filter(|line| line.starts_with(&begin) && line.contains(&peer))
            .count()
    };
    ensure!(
        count("8", "0x00000002") == 3 && count("0", "0x00000001") == 3,
        "{read}"
    );
    Ok(())
}
