//! What the source documents do, with the programs of the system.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{HOSTS, Swarm, finish, has, remote, tell};

const NAMES: [&str; HOSTS] = ["alpine1", "alpine2", "alpine3"];
const ADDRESSES: [&str; HOSTS] = ["10.0.1.2", "10.0.1.3", "10.0.1.4"];

#[test]
fn three_hosts_one_network_and_a_leader_that_dies() {
    let Some(mut swarm) = Swarm::with_cluster("the walk over three hosts") else {
        return;
    };
    swarm.ok(0, &["network", "create", "--attachable", "my-net"]);
    let network: Value =
        serde_json::from_str(&swarm.ok(1, &["network", "inspect", "my-net"])).unwrap();
    assert_eq!(network[0]["IPAM"]["Config"][0]["Subnet"], "10.0.1.0/24");
    assert_eq!(
        network[0]["Options"]["com.docker.network.driver.overlay.vxlanid_list"],
        "4097"
    );
    for (host, name) in NAMES.iter().enumerate() {
        let run = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "my-net",
            "--",
            "sleep",
            "100000",
        ];
        swarm.ok(host, &run);
    }
    pings_by_name(&swarm);
    names_as_the_system_sees_them(&swarm);
    exec_carries_streams_and_exit_codes(&swarm);
    vxlan_on_the_wire(&mut swarm);
    throughput(&swarm);
    foreign_namespace(&mut swarm);
    leader_dies_and_comes_back(&mut swarm);
    everything_is_taken_down(&swarm);
}

fn pings_by_name(swarm: &Swarm) {
    for (host, from) in NAMES.iter().enumerate() {
        for to in NAMES.iter().filter(|to| *to != from) {
            ping(swarm, host, from, to);
        }
    }
}

/// Pings until answered: with the system's program if there is one, else with our own.
fn ping(swarm: &Swarm, host: usize, from: &str, to: &str) -> Duration {
    let begun = Instant::now();
    let ours = [crate::support::OVERLAY, "ping"];
    let program = if has("ping") {
        &["ping"][..]
    } else {
        &ours[..]
    };
    let words = [&["exec", from, "--"], program, &["-c", "1", "-W", "1", to]].concat();
    swarm.until(&format!("the answer of {to} to {from}"), |swarm| {
        swarm.run(host, &words).status.success().then_some(())
    });
    begun.elapsed()
}

fn names_as_the_system_sees_them(swarm: &Swarm) {
    if !has("getent") {
        return;
    }
    for (name, address) in NAMES.iter().zip(ADDRESSES) {
        let found = swarm.ok(1, &["exec", "alpine2", "--", "getent", "ahostsv4", name]);
        assert!(found.starts_with(address), "{name}: {found}");
    }
    let reverse = swarm.ok(
        1,
        &["exec", "alpine2", "--", "getent", "hosts", ADDRESSES[0]],
    );
    assert!(reverse.contains("alpine1"), "{reverse}");
    let unknown = swarm.run(1, &["exec", "alpine2", "--", "getent", "hosts", "alpine9"]);
    assert_eq!(
        unknown.status.code(),
        Some(2),
        "getent says 2 for what is not found: {unknown:?}"
    );
}

fn exec_carries_streams_and_exit_codes(swarm: &Swarm) {
    let status = swarm
        .run(0, &["exec", "alpine1", "--", "sh", "-c", "exit 7"])
        .status;
    assert_eq!(status.code(), Some(7));
    let input = "one line\n".repeat(20_000);
    let output = swarm.run_with_input(0, &["exec", "-i", "alpine1", "--", "cat"], &input);
    assert!(
        output.stdout == input.as_bytes(),
        "{} octets came back",
        output.stdout.len()
    );
    let output = swarm.run(
        0,
        &[
            "exec",
            "-t",
            "alpine1",
            "--",
            "sh",
            "-c",
            "test -t 1 && hostname",
        ],
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "alpine1\r\n",
        "{output:?}"
    );
    let missing = swarm.run(0, &["exec", "alpine1", "--", "no-such-command"]);
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    let words = [
        "run",
        "--rm",
        "--name",
        "once",
        "--network",
        "my-net",
        "--",
        "sh",
        "-c",
        "exit 5",
    ];
    assert_eq!(swarm.run(0, &words).status.code(), Some(5));
    assert_eq!(
        swarm.ok(0, &["ps", "-aq"]).lines().count(),
        1,
        "--rm leaves nothing"
    );
}

/// What goes over the bridge between two hosts is VXLAN with the network's VNI, and whole.
fn vxlan_on_the_wire(swarm: &mut Swarm) {
    if !has("tshark") {
        return;
    }
    let mut command = Command::new("tshark");
    command.args(["-n", "-l", "-i", "eth0", "-c", "2", "-a", "duration:25"]);
    command.args([
        "-f",
        "udp port 4789",
        "-o",
        "udp.check_checksum:TRUE",
        "-T",
        "fields",
    ]);
    for field in [
        "vxlan.vni",
        "ip.src",
        "ip.dst",
        "icmp.type",
        "_ws.malformed",
    ] {
        command.args(["-e", field]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut capture = swarm.spawn(0, &mut command);
    let mut said = BufReader::new(capture.stderr.take().unwrap()).lines();
    // Only then does it capture.
    let ready = said.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("Capturing on"))
    });
    assert!(ready.is_some(), "tshark did not begin to capture");
    capture.stderr = None;
    for _ in 0..5 {
        ping(swarm, 0, "alpine1", "alpine2");
    }
    let mut lines = BufReader::new(capture.stdout.take().unwrap()).lines();
    let request = lines
        .find_map(|line| Some(line.unwrap()).filter(|line| line.ends_with("\t8\t")))
        .expect("an echo request in VXLAN");
    capture.kill().unwrap();
    capture.wait().unwrap();
    assert_eq!(
        request, "4097\t192.168.78.1,10.0.1.2\t192.168.78.2,10.0.1.3\t8\t",
        "VNI, outer and inner source, outer and inner destination, type, nothing malformed"
    );
}

fn throughput(swarm: &Swarm) {
    if !has("iperf3") {
        return;
    }
    for protocol in [&[][..], &["-u", "-b", "10M"]] {
        let server = ["exec", "-d", "alpine1", "--", "iperf3", "-s", "-1"];
        swarm.ok(0, &server);
        let client = [
            "exec", "alpine2", "--", "iperf3", "-J", "-t", "1", "-c", "alpine1",
        ];
        let client = [&client[..], protocol].concat();
        let report = swarm.until("iperf3's connection", |swarm| {
            let output = swarm.run(1, &client);
            output.status.success().then_some(output.stdout)
        });
        let report: Value = serde_json::from_slice(&report).unwrap();
        let received = report["end"]["sum_received"]["bytes"].as_f64();
        let received = received.or(report["end"]["sum"]["bytes"].as_f64()).unwrap();
        assert!(
            received > 100_000.0,
            "{protocol:?}: {received} octets in a second"
        );
    }
}

/// A namespace that somebody else made is attached, found by name and detached.
fn foreign_namespace(swarm: &mut Swarm) {
    let mut command = Command::new("unshare");
    command
        .args(["-n", "sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped());
    if !has("unshare") {
        return;
    }
    let mut other = swarm.spawn(2, &mut command);
    let mut lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let process = lines.next().unwrap().unwrap();
    let path = format!("/proc/{process}/ns/net");
    swarm.ok(
        2,
        &[
            "attach",
            "--network",
            "my-net",
            "--name",
            "blue",
            "--alias",
            "sky",
            "--netns",
            &path,
        ],
    );
    ping(swarm, 0, "alpine1", "blue");
    ping(swarm, 1, "alpine2", "sky");
    assert_eq!(swarm.ok(2, &["detach", "blue"]), "blue\n");
    let message = swarm.refused(2, &["detach", "blue"]);
    assert!(message.contains("blue"), "{message}");
    other.kill().unwrap();
    other.wait().unwrap();
}

fn leader_dies_and_comes_back(swarm: &mut Swarm) {
    let nodes = swarm.lines(0, &["node", "ls", "--format", "json"]).unwrap();
    let leader = nodes
        .iter()
        .find(|node| node["ManagerStatus"] == "Leader")
        .unwrap();
    let leads = |host: &usize| leader["Hostname"] == format!("host{}", host + 1);
    let lost = (0..HOSTS).find(leads).unwrap();
    let [one, other] = [(lost + 1) % HOSTS, (lost + 2) % HOSTS];

    let pinging = [
        "exec",
        NAMES[one],
        "--",
        "ping",
        "-i",
        "0.2",
        "-c",
        "20",
        NAMES[other],
    ];
    let mut pinging = swarm.command(one, &pinging);
    pinging.stdout(Stdio::piped()).stderr(Stdio::piped());
    let pinging = has("ping").then(|| pinging.spawn().unwrap());

    swarm.kill(lost);
    let killed = Instant::now();
    swarm.until("an acknowledged write", |swarm| {
        let created = swarm.run(one, &["network", "create", "--attachable", "second-net"]);
        created.status.success().then_some(())
    });
    tell(
        "leader killed, next acknowledged write after",
        killed.elapsed(),
    );
    let nodes = swarm
        .lines(other, &["node", "ls", "--format", "json"])
        .unwrap();
    let leader = nodes
        .iter()
        .find(|node| node["ManagerStatus"] == "Leader")
        .unwrap();
    assert!(
        !(leader["Hostname"] == format!("host{}", lost + 1)),
        "{nodes:?}"
    );
    if let Some(pinging) = pinging {
        let output = finish(pinging, "ping");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("20 received") || text.contains("19 received"),
            "{text}"
        );
    }

    let again = Instant::now();
    swarm.start(lost);
    let running = swarm.lines(lost, &["ps", "--format", "json"]).unwrap();
    let states: Vec<_> = running
        .iter()
        .map(|program| (&program["Names"], &program["State"]))
        .collect();
    assert_eq!(
        format!("{states:?}"),
        format!(
            "{:?}",
            [(NAMES[lost], "running")]
                .map(|(name, state)| { (Value::from(name), Value::from(state)) })
        )
    );
    ping(swarm, one, NAMES[one], NAMES[lost]);
    tell(
        "daemon started again, its program answers by name after",
        again.elapsed(),
    );
    pings_by_name(swarm);
}

fn everything_is_taken_down(swarm: &Swarm) {
    let message = swarm.refused(0, &["network", "rm", "my-net"]);
    assert!(message.contains("my-net"), "{message}");
    for (host, name) in NAMES.iter().enumerate() {
        assert_eq!(swarm.ok(host, &["rm", "-f", name]), format!("{name}\n"));
        assert_eq!(swarm.ok(host, &["ps", "-aq"]), "");
    }
    swarm.until("the removal of the network", |swarm| {
        swarm
            .run(0, &["network", "rm", "my-net"])
            .status
            .success()
            .then_some(())
    });
    assert_eq!(
        swarm.ok(1, &["network", "rm", "second-net"]),
        "second-net\n"
    );
    assert_eq!(
        swarm.ok(2, &["leave", "--force"]),
        "Node left the cluster.\n"
    );
    let token = swarm.ok(0, &["join-token", "-q", "worker"]);
    let joined = swarm.ok(2, &["join", "--token", token.trim(), &remote(0)]);
    assert_eq!(joined, "This node joined a cluster as a worker.\n");
    let message = swarm.refused(2, &["node", "ls"]);
    assert!(message.contains("manager"), "{message}");
}
