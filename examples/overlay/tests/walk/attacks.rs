//! Whoever has no part in the cluster tries to stop it, to get in, or to say again what others said: legitimate work goes
//! on, memory and logs stay bounded, and nothing of it counts.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use overlay_core::EndpointId;
use serde_json::Value;

use crate::{
    Story,
    sealed::unsealed,
    security::{generation, memory},
    support::{Cluster, OVERLAY, PATIENCE, address, eventually, say, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "wrong_and_old_tokens_as_fast_as_it_goes_keep_nobody_out",
        hosts: 4,
        programs: &["python3", "ip", "ping"],
        tell: guesses,
    },
    Story {
        name: "cve_2020_7219_connections_by_the_ten_thousand_and_slow_senders_keep_nobody_out",
        hosts: 4,
        programs: &["python3", "ip", "ping", "prlimit"],
        tell: crowds,
    },
    Story {
        name: "sealed_packets_of_before_a_restart_are_not_taken_again",
        hosts: 3,
        programs: &["python3", "nft"],
        tell: replays,
    },
    Story {
        name: "gossip_of_before_a_rotation_or_a_restart_changes_nothing",
        hosts: 4,
        programs: &["python3", "ping"],
        tell: rumours,
    },
    Story {
        name: "certificates_that_are_not_the_clusters_or_not_valid_get_no_answer",
        hosts: 3,
        programs: &["python3", "openssl"],
        tell: certificates,
    },
    Story {
        name: "a_removed_nodes_certificate_opens_no_published_port",
        hosts: 3,
        programs: &["python3"],
        tell: forwards,
    },
    Story {
        name: "a_clock_that_jumps_by_days_is_named_and_stops_nobody",
        hosts: 2,
        programs: &["faketime", "ping"],
        tell: jumps,
    },
    Story {
        name: "a_managers_clock_that_jumped_by_days_leaves_its_workers_their_sessions",
        hosts: 2,
        programs: &["faketime", "ping"],
        tell: manager_jumps,
    },
    Story {
        name: "who_joins_by_a_clock_that_is_days_off_is_told_of_the_clock",
        hosts: 2,
        programs: &["faketime"],
        tell: joins_by_wrong_clocks,
    },
];

/// What an attack may make a daemon's memory grow by.
const MEMORY_KB_MAX: u64 = 64 * 1_024;
/// What it may make its log grow by.
const LOG_BYTES_MAX: usize = 32 * 1_024;
/// Addresses of an attacker.
const SOURCES: usize = 16;

/// A program that goes on until its input ends, or this is dropped.
pub(crate) struct Running {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a script on a host, and waits until it says that it has begun.
    pub(crate) fn begin(
        cluster: &mut Cluster,
        host: usize,
        script: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("python3");
        command.arg("-c").arg(script).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cluster.lab.spawn_in(host, &mut command)?;
        let said = child.stdout.take().context("its output")?;
        let mut running = Self {
            child,
            said: BufReader::new(said),
        };
        let mut line = String::new();
        running.said.read_line(&mut line)?;
        ensure!(line.trim() == "begun", "it said {line:?}");
        Ok(running)
    }

    /// Ends it, and returns what it says at the end.
    pub(crate) fn end(mut self) -> anyhow::Result<String> {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        self.said.read_to_string(&mut rest)?;
        Ok(rest.trim().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How much a daemon had of what an attack may take.
struct Before {
    memory_kb: u64,
    log_bytes: usize,
}

impl Before {
    fn of(cluster: &Cluster, host: usize) -> anyhow::Result<Self> {
        Ok(Self {
            memory_kb: memory(cluster, host)?,
            log_bytes: cluster.log_of(host)?.len(),
        })
    }

    /// Compares it with what the daemon has now.
    fn is_bounded(&self, cluster: &Cluster, host: usize) -> anyhow::Result<()> {
        let now = Self::of(cluster, host)?;
        say(&format!(
            "memory {} kB, then {} kB; log {} octets, then {}",
            self.memory_kb, now.memory_kb, self.log_bytes, now.log_bytes
        ));
        ensure!(
            now.memory_kb < self.memory_kb + MEMORY_KB_MAX,
            "{} kB, then {} kB",
            self.memory_kb,
            now.memory_kb
        );
        ensure!(
            now.log_bytes < self.log_bytes + LOG_BYTES_MAX,
            "{}",
            cluster.log_of(host)?
        );
        Ok(())
    }
}

/// A manager and a worker with programs that reach each other.
fn two(cluster: &mut Cluster, network: &[&str]) -> anyhow::Result<()> {
    for host in 0..2 {
        if cluster.pid(host).is_err() {
            cluster.start(host, &[])?;
        }
    }
    cluster.ask(0, &["init"])?;
    cluster.join(1, "worker")?;
    let create = words("network create --attachable", network);
    cluster.ask(0, &create)?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    cluster.reach(PATIENCE, 1, "c1", "c0").map(drop)
}

/// None of them is lost.
fn pings(cluster: &Cluster) -> anyhow::Result<()> {
    let line = "exec c1 -- ping -q -c 20 -i 0.02 -W 5 c0";
    let said = cluster.ask(1, &words(line, &[]))?;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

/// Gives a host many addresses.
fn sources(cluster: &mut Cluster, host: usize) -> anyhow::Result<Vec<String>> {
    let all: Vec<_> = (0..SOURCES)
        .map(|number| format!("192.168.77.{}", 100 + number))
        .collect();
    for source in &all {
        let add = format!("ip address add {source}/24 dev eth0");
        cluster.on_host(host, &words(&add, &[]))?;
    }
    Ok(all)
}

fn guesses(cluster: &mut Cluster) -> anyhow::Result<()> {
    two(cluster, &["my-net"])?;
    cluster.start(2, &[])?;
    // Both of them were good a moment ago.
    let old = [cluster.token("worker")?, cluster.token("manager")?].join(",");
    for role in ["worker", "manager"] {
        cluster.ask(0, &["join-token", "--rotate", "-q", role])?;
    }
    let sources = sources(cluster, 3)?;
    let before = Before::of(cluster, 0)?;
    let to = address(0).to_string();
    let mut arguments = vec![&*to, &*old];
    arguments.extend(sources.iter().map(String::as_str));
    let attack = Running::begin(cluster, 3, include_str!("attacks/guess.py"), &arguments)?;
    for _ in 0..4 {
        cluster.join(2, "worker")?;
        pings(cluster)?;
        cluster.ask(2, &["leave"])?;
    }
    cluster.join(2, "manager")?;
    let counts = attack.end()?;
    let numbers: Vec<u32> = counts
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [shown, told, rate] = numbers[..] else {
        bail!("{counts}");
    };
    say(&format!(
        "{shown} tokens shown, {rate} a second, {told} of them answered"
    ));
    ensure!(shown > 200 && told > 0, "{counts}");
    let nodes = cluster.nodes(0)?;
    let known = |name: &Value| ["host1", "host2", "host3"].iter().any(|host| name == host);
    ensure!(
        nodes.iter().all(|node| known(&node["Hostname"])),
        "{nodes:?}"
    );
    before.is_bounded(cluster, 0)
}

fn crowds(cluster: &mut Cluster) -> anyhow::Result<()> {
    // As much as a system gives to whoever asks for no more.
    cluster.start_by(&["prlimit", "--nofile=1024:8192"], 0, &[])?;
    two(cluster, &["my-net"])?;
    cluster.start(2, &[])?;
    let sources = sources(cluster, 3)?;
    let to = address(0).to_string();
    let before = Before::of(cluster, 0)?;
    for port in ["2377", "7946"] {
        let mut arguments = vec![&*to, port, "10000"];
        arguments.extend(sources.iter().map(String::as_str));
        let attack = Running::begin(cluster, 3, include_str!("attacks/crowd.py"), &arguments)?;
        cluster.join(2, "worker")?;
        pings(cluster)?;
        cluster.ask(0, &["network", "create", &format!("during-{port}")])?;
        cluster.ask(2, &["leave"])?;
        say(&format!(
            "connections to {port}, and held at the end: {}",
            attack.end()?
        ));
        before.is_bounded(cluster, 0)?;
    }
    cluster.join(2, "worker").map(drop)
}

/// Packets are recorded as they leave: now and then two are one by then, which is no packet any more when it comes again.
/// So few have to be left.
const ENOUGH: usize = 10;

/// Datagrams that come to a program, a line each.
pub(crate) const HEAR: &str = "
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(('0.0.0.0', 9000))
file = open(sys.argv[1], 'a', buffering=1)
while True:
    print(heard.recv(100).decode(), file=file)
";
const TELL: &str = "
import socket, sys, time
told = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[2])):
    told.sendto(f'{sys.argv[1]}-{number}'.encode(), ('c1', 9000))
    # One by one: what leaves together may be recorded as one.
    time.sleep(0.002)
";

/// Has `c0` tell `c1` some datagrams.
fn tell(cluster: &Cluster, what: &str, count: u32) -> anyhow::Result<()> {
    let count = count.to_string();
    let exec = ["exec", "c0", "--", "python3", "-c", TELL, what, &count];
    cluster.ask(0, &exec).map(drop)
}

pub(crate) fn heard(path: &Path, what: &str) -> anyhow::Result<usize> {
    let heard = fs::read_to_string(path).unwrap_or_default();
    let lines = heard.lines();
    let lines = lines.filter(|line| line.starts_with(&format!("{what}-")));
    Ok(lines.count())
}

/// Puts what was recorded on the wire again, and waits until the receiver has taken it from its socket.
fn replay(cluster: &mut Cluster, file: &Path, to: usize) -> anyhow::Result<usize> {
    let arrived = |cluster: &mut Cluster| -> anyhow::Result<usize> {
        let table = cluster.on_host_says(to, &["cat", "/proc/net/snmp"])?;
        let line = table.lines().filter(|line| line.starts_with("Udp:")).nth(1);
        let count = line.and_then(|line| line.split(' ').nth(1));
        Ok(count.context("no count of datagrams")?.parse()?)
    };
    let before = arrived(cluster)?;
    let (file, address) = (file.display().to_string(), address(to).to_string());
    let script = include_str!("attacks/replay.py");
    let sent = cluster.on_host_says(2, &["python3", "-c", script, &file, &address])?;
    let sent: usize = sent.trim().parse()?;
    eventually(PATIENCE, "what was replayed to arrive", || {
        let now = arrived(cluster)?;
        ensure!(now >= before + sent, "{} of {sent} arrived", now - before);
        Ok(Some(()))
    })?;
    Ok(sent)
}

/// Of the sender and of the receiver. What the receiver never had is taken once, which shows that replaying works.
fn replays(cluster: &mut Cluster) -> anyhow::Result<()> {
    two(cluster, &["-o", "encrypted", "my-net"])?;
    let (file, path) = (cluster.path("packets"), cluster.path("heard"));
    let shown = path.display().to_string();
    let hear = ["exec", "-d", "c1", "--", "python3", "-c", HEAR, &shown];
    cluster.ask(1, &hear)?;
    eventually(PATIENCE, "the first datagram", || {
        tell(cluster, "first", 1)?;
        Ok((heard(&path, "first")? > 0).then_some(()))
    })?;
    let arguments = ["eth0", "4500", &*file.display().to_string()].map(str::to_owned);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let record = Running::begin(cluster, 0, include_str!("attacks/record.py"), &arguments)?;
    tell(cluster, "old", 100)?;
    eventually(PATIENCE, "what was told", || {
        Ok((heard(&path, "old")? == 100).then_some(()))
    })?;
    // These get lost on their way.
    let block = "nft add table ip lost; nft add chain ip lost drops '{ type filter hook input priority 0; }'; nft add rule ip lost drops udp dport 4500 drop";
    cluster.on_host(1, &["sh", "-c", block])?;
    let before = recorded(&file)?;
    tell(cluster, "late", 100)?;
    eventually(PATIENCE, "the recording", || {
        Ok((recorded(&file)? >= before + ENOUGH).then_some(()))
    })?;
    say(&format!("{} packets recorded", record.end()?));
    cluster.on_host(1, &words("nft delete table ip lost", &[]))?;
    ensure!(heard(&path, "late")? == 0, "they were not lost");
    let sent = replay(cluster, &file, 1)?;
    eventually(PATIENCE, "what had been lost", || {
        Ok((heard(&path, "late")? >= ENOUGH).then_some(()))
    })?;
    eventually(PATIENCE, "what comes after it", || {
        tell(cluster, "next", 1)?;
        Ok((heard(&path, "next")? > 0).then_some(()))
    })?;
    let late = heard(&path, "late")?;
    say(&format!(
        "{sent} packets put on the wire, {late} of 100 lost ones taken"
    ));
    let again = |cluster: &mut Cluster, when: &str| -> anyhow::Result<()> {
        let sent = replay(cluster, &file, 1)?;
        // What comes after them has been through the same queue.
        eventually(PATIENCE, when, || {
            tell(cluster, when, 1)?;
            Ok((heard(&path, when)? > 0).then_some(()))
        })?;
        let heard = (heard(&path, "old")?, heard(&path, "late")?);
        say(&format!("{sent} packets again, {when}: {heard:?} heard"));
        ensure!(heard == (100, late), "{when}: {heard:?} heard");
        Ok(())
    };
    ensure!(sent >= 2 * ENOUGH, "{sent} packets");
    again(cluster, "in the same life")?;
    cluster.kill(1)?;
    cluster.start(1, &[])?;
    again(cluster, "after the receiver began anew")?;
    cluster.kill(0)?;
    cluster.start(0, &[])?;
    again(cluster, "after the sender began anew")?;
    cluster.kill(0)?;
    cluster.kill(1)?;
    cluster.start(1, &[])?;
    cluster.start(0, &[])?;
    again(cluster, "after both began anew")
}

/// How many packets a recording has so far.
fn recorded(file: &Path) -> anyhow::Result<usize> {
    let octets = fs::read(file)?;
    let (mut count, mut rest) = (0, &octets[..]);
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        let Some(more) = more.get(length..) else {
            break;
        };
        (count, rest) = (count + 1, more);
    }
    Ok(count)
}

/// What was said of a host that went and came back; the accusations among it.
fn rumours(cluster: &mut Cluster) -> anyhow::Result<()> {
    two(cluster, &["my-net"])?;
    for host in [2, 3] {
        cluster.start(host, &[])?;
        cluster.join(host, "worker")?;
    }
    let file = cluster.path("rumours");
    let shown = file.display().to_string();
    let script = include_str!("attacks/record.py");
    let record = Running::begin(cluster, 0, script, &["eth0", "7946", &shown])?;
    cluster.kill(3)?;
    status_of(cluster, "host4", "Down")?;
    eventually(PATIENCE, "what members say of it", || {
        Ok(cluster.log_of(0)?.contains("state: \"down\"").then_some(()))
    })?;
    cluster.start(3, &[])?;
    status_of(cluster, "host4", "Ready")?;
    say(&format!("{} datagrams recorded", record.end()?));
    let unmoved = |cluster: &mut Cluster, when: &str| -> anyhow::Result<()> {
        let before = Before::of(cluster, 0)?;
        for to in [0, 1, 3] {
            let sent = replay(cluster, &file, to)?;
            for _ in 0..5 {
                let nodes = cluster.nodes(0)?;
                let down = nodes.iter().find(|node| node["Status"] != "Ready");
                ensure!(nodes.len() >= 3 && down.is_none(), "{when}: {nodes:?}");
            }
            say(&format!("{sent} datagrams to host {to}, {when}"));
        }
        pings(cluster)?;
        before.is_bounded(cluster, 0)
    };
    unmoved(cluster, "with the same keys")?;
    // A node that is removed takes all keys along that it knew.
    let began = generation(cluster)?;
    cluster.kill(2)?;
    status_of(cluster, "host3", "Down")?;
    cluster.ask(0, &["node", "rm", "--force", "host3"])?;
    eventually(PATIENCE, "keys that are new", || {
        Ok((generation(cluster)? >= began + 3).then_some(()))
    })?;
    unmoved(cluster, "after the keys changed")?;
    cluster.kill(0)?;
    cluster.start(0, &[])?;
    eventually(PATIENCE, "all nodes", || {
        let nodes = cluster.nodes(0)?;
        let ready = nodes.iter().filter(|node| node["Status"] == "Ready");
        Ok((ready.count() == 3).then_some(()))
    })?;
    unmoved(cluster, "after the receiver began anew")
}

/// Waits until a node is as it should be.
fn status_of(cluster: &Cluster, name: &str, wanted: &str) -> anyhow::Result<()> {
    eventually(PATIENCE, wanted, || {
        let nodes = cluster.nodes(0)?;
        let of = nodes.iter().find(|node| node["Hostname"] == name);
        Ok((of.context("no such node")?["Status"] == wanted).then_some(()))
    })
}

fn certificates(cluster: &mut Cluster) -> anyhow::Result<()> {
    two(cluster, &["my-net"])?;
    // The shortest life that there is, for one that shall be over.
    cluster.ask(0, &words("cluster update --cert-expiry 10s", &[]))?;
    cluster.start(2, &[])?;
    cluster.join(2, "worker")?;
    keep(cluster, 2, "expired")?;
    cluster.kill(2)?;
    cluster.ask(0, &words("cluster update --cert-expiry 2160h", &[]))?;
    keep(cluster, 1, "own")?;
    let subject = subject(cluster)?;
    let make = |line: String| -> anyhow::Result<()> {
        let mut words: Vec<_> = line.split(' ').collect();
        words.extend(["-subj", &subject]);
        let made = Command::new("openssl").args(&words).output()?;
        ensure!(made.status.success(), "{line}: {made:?}");
        Ok(())
    };
    let folder = cluster.path("").display().to_string();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    make(format!(
        "req -x509 -days 3 {key} -keyout {folder}/selfmade.key -out {folder}/selfmade.pem"
    ))?;
    make(format!(
        "req -x509 -days 3 {key} -keyout {folder}/ca.key -out {folder}/ca.pem"
    ))?;
    make(format!(
        "req -x509 -days 3 -CA {folder}/ca.pem -CAkey {folder}/ca.key {key} -keyout {folder}/foreign.key -out {folder}/foreign.pem"
    ))?;

    let present = |cluster: &mut Cluster, name: &str| present(cluster, (2, 0), name, &[]);
    eventually(PATIENCE, "the end of a certificate", || {
        Ok((!present(cluster, "expired")?.starts_with("answered")).then_some(()))
    })?;
    for name in ["expired", "selfmade", "foreign", "-"] {
        let said = present(cluster, name)?;
        say(&format!("{name}: {}", said.trim()));
        ensure!(!said.starts_with("answered"), "{name}: {said}");
    }
    // The very same with a good one is answered.
    let said = present(cluster, "own")?;
    ensure!(said.starts_with("answered"), "{said}");
    pings(cluster)?;
    let log = cluster.log_of(0)?;
    ensure!(log.len() < LOG_BYTES_MAX, "{log}");
    Ok(())
}

/// Shows a certificate that was kept, or none, from one host to another; returns what came of it.
fn present(
    cluster: &mut Cluster,
    (from, to): (usize, usize),
    name: &str,
    says: &[&str],
) -> anyhow::Result<String> {
    let file = |kind: &str| match name {
        "-" => "-".to_owned(),
        name => {
            let path = cluster.path(&format!("{name}.{kind}"));
            path.display().to_string()
        }
    };
    let (certificate, key) = (file("pem"), file("key"));
    let script = include_str!("attacks/present.py");
    let to = address(to).to_string();
    let words = ["python3", "-c", script, &to, &certificate, &key];
    cluster.on_host_says(from, &[&words[..], says].concat())
}

/// A certificate is good for longer than a membership.
fn forwards(cluster: &mut Cluster) -> anyhow::Result<()> {
    for host in 0..3 {
        cluster.start(host, &[])?;
    }
    cluster.ask(0, &["init"])?;
    for host in [1, 2] {
        cluster.join(host, "worker")?;
    }
    let create = "service create --detach --name web --mode global --publish 8080:8000 --";
    let httpd = [OVERLAY, "httpd", "--port", "8000"];
    cluster.ask(0, &[&words(create, &[])[..], &httpd].concat())?;
    let endpoints = eventually(PATIENCE, "a task on each host", || {
        let ingress = cluster.inspect(0, "ingress")?;
        let inside = ingress["Containers"].as_object().context("containers")?;
        let ids: Vec<String> = inside.keys().cloned().collect();
        Ok((ids.len() == 3).then_some(ids))
    })?;
    keep(cluster, 1, "own")?;
    // Whether a host takes a connection for any of its tasks.
    let takes = |cluster: &mut Cluster, host: usize| -> anyhow::Result<bool> {
        for endpoint in &endpoints {
            let said = present(cluster, (1, host), "own", &[&forward(endpoint)?])?;
            if said.starts_with("answered 0") {
                return Ok(true);
            }
        }
        Ok(false)
    };
    for host in [0, 2] {
        eventually(PATIENCE, "a connection of a member", || {
            Ok(takes(cluster, host)?.then_some(()))
        })?;
    }
    cluster.kill(1)?;
    cluster.ask(0, &["node", "rm", "--force", "host2"])?;
    for host in [0, 2] {
        eventually(PATIENCE, "the end of that", || {
            Ok((!takes(cluster, host)?).then_some(()))
        })?;
    }
    Ok(())
}

/// Asks for a connection to a task, on behalf of 192.0.2.9:5000 that connected to 192.0.2.1:8080.
fn forward(endpoint: &str) -> anyhow::Result<String> {
    let endpoint: EndpointId = endpoint.parse()?;
    let mut body = endpoint.as_bytes().to_vec();
    body.extend([0x90, 0x3f]);
    body.extend([0, 192, 0, 2, 9, 0x88, 0x27]);
    body.extend([0, 192, 0, 2, 1, 0x90, 0x3f]);
    let mut frame = vec![b'F', 1];
    frame.extend(u32::try_from(body.len())?.to_be_bytes());
    frame.extend(body);
    Ok(frame.iter().map(|octet| format!("{octet:02x}")).collect())
}

/// Keeps the certificate and the key that a host has now.
fn keep(cluster: &Cluster, host: usize, name: &str) -> anyhow::Result<()> {
    let identity = unsealed(&cluster.data(host).join("node"), "identity.json")?;
    let identity: Value = serde_json::from_slice(&identity)?;
    let credentials = &identity["credentials"];
    let certificate = credentials["certificate"]
        .as_str()
        .context("a certificate")?;
    fs::write(cluster.path(&format!("{name}.pem")), certificate)?;
    let key: Vec<u8> = serde_json::from_value(credentials["key"].clone())?;
    Ok(fs::write(cluster.path(&format!("{name}.key")), key)?)
}

/// Whom the certificate of a host is for, as `openssl` takes it: what a forger would write.
fn subject(cluster: &Cluster) -> anyhow::Result<String> {
    let shown = Command::new("openssl")
        .args(["x509", "-noout", "-subject", "-nameopt", "compat", "-in"])
        .arg(cluster.path("own.pem"))
        .output()?;
    let shown = String::from_utf8(shown.stdout)?;
    let subject = shown.trim().strip_prefix("subject=").context("a subject")?;
    Ok(format!(
        "/{}",
        subject.trim_start_matches('/').replace(", ", "/")
    ))
}

/// A clock of a daemon's own, which a file sets.
struct Clock {
    file: PathBuf,
    by: Vec<String>,
}

impl Clock {
    fn new(cluster: &Cluster, name: &str) -> anyhow::Result<Self> {
        let library = fs::read_dir("/usr/lib")?.flatten().find_map(|folder| {
            let library = folder.path().join("faketime/libfaketimeMT.so.1");
            library.exists().then_some(library)
        });
        let library = library.context("libfaketime")?;
        let clock = Self {
            by: vec![
                "env".to_owned(),
                format!("LD_PRELOAD={}", library.display()),
                format!("FAKETIME_TIMESTAMP_FILE={}", cluster.path(name).display()),
                "FAKETIME_NO_CACHE=1".to_owned(),
                // What only ever goes on is nobody's to set.
                "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
                "DONT_FAKE_MONOTONIC=1".to_owned(),
            ],
            file: cluster.path(name),
        };
        clock.set("+0")?;
        Ok(clock)
    }

    fn set(&self, offset: &str) -> anyhow::Result<()> {
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, offset)?;
        Ok(fs::rename(&fresh, &self.file)?)
    }

    fn start(&self, cluster: &mut Cluster, host: usize) -> anyhow::Result<()> {
        let by: Vec<_> = self.by.iter().map(String::as_str).collect();
        cluster.start_by(&by, host, &[])
    }
}

/// Of a worker and of the manager: what stands goes on, doctor and info name the clock, and it is over when the clock is right.
fn jumps(cluster: &mut Cluster) -> anyhow::Result<()> {
    let clocks = [
        Clock::new(cluster, "clock0")?,
        Clock::new(cluster, "clock1")?,
    ];
    for (host, clock) in clocks.iter().enumerate() {
        clock.start(cluster, host)?;
    }
    two(cluster, &["-o", "encrypted", "my-net"])?;
    let before = [Before::of(cluster, 0)?, Before::of(cluster, 1)?];
    for (host, offset, way) in [
        (1, "+100d", "forward"),
        (1, "-3d", "back"),
        (0, "-3d", "back"),
        (0, "+100d", "forward"),
    ] {
        clocks[host].set(offset)?;
        let doctor = cluster.run(host, &["doctor"])?;
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let set = format!("the clock was set {way}");
        ensure!(said.contains(&set), "{offset} at {host}: {said}");
        // A worker cannot have its key signed by that clock; a manager does so itself.
        if host == 1 {
            let said = info(cluster, host)?;
            ensure!(said.contains("set the clock"), "{offset} at {host}: {said}");
        }
        pings(cluster)?;
        clocks[host].set("+0")?;
        pings(cluster)?;
        eventually(PATIENCE, "a certificate of this time", || {
            let said = info(cluster, host)?;
            ensure!(!said.contains("set the clock"), "{said}");
            Ok(Some(()))
        })?;
        if host == 1 {
            cluster.ask(1, &words("network ls", &[]))?;
        }
    }
    eventually(PATIENCE, "both nodes", || {
        let nodes = cluster.nodes(0)?;
        let ready = nodes.iter().filter(|node| node["Status"] == "Ready");
        Ok((ready.count() == 2).then_some(()))
    })?;
    before[0].is_bounded(cluster, 0)?;
    before[1].is_bounded(cluster, 1)
}

/// What a daemon says of itself, warnings among it.
fn info(cluster: &Cluster, host: usize) -> anyhow::Result<String> {
    let info = cluster.run(host, &["info"])?;
    Ok(String::from_utf8_lossy(&[info.stdout, info.stderr].concat()).into_owned())
}

/// A manager whose clock is ahead signs its own key anew, which ends its sessions; its workers dial again.
fn manager_jumps(cluster: &mut Cluster) -> anyhow::Result<()> {
    let clock = Clock::new(cluster, "clock0")?;
    clock.start(cluster, 0)?;
    two(cluster, &["my-net"])?;
    clock.set("+100d")?;
    let certificate = cluster.data(0).join("node/node/identity.json");
    let before = fs::read(&certificate)?;
    eventually(PATIENCE, "another certificate", || {
        Ok((fs::read(&certificate)? != before).then_some(()))
    })?;
    clock.set("+0")?;
    pings(cluster)?;
    eventually(PATIENCE, "an answer to the worker", || {
        cluster.ask(1, &words("network ls", &[])).map(Some)
    })
    .map(drop)
}

fn joins_by_wrong_clocks(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start(0, &[])?;
    cluster.ask(0, &["init"])?;
    let clock = Clock::new(cluster, "clock1")?;
    clock.start(cluster, 1)?;
    let (token, remote) = (cluster.token("worker")?, format!("{}:2377", address(0)));
    for offset in ["-3d", "+100d"] {
        clock.set(offset)?;
        let refusal = cluster.refused(1, &["join", "--token", &token, &remote])?;
        ensure!(refusal.said.contains("clock"), "{offset}: {refusal:?}");
    }
    clock.set("+0")?;
    cluster.join(1, "worker").map(drop)
}
