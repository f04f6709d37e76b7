//! Who may reach whom, between services on three hosts: what is explained is what happens.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::ensure;

use crate::{
    Story,
    services::settled,
    support::{Cluster, OVERLAY, PATIENCE, eventually, words},
};

pub(crate) const STORIES: &[Story] = &[Story {
    name: "services_reach_each_other_by_rules_alone",
    hosts: 3,
    programs: &["ping", "python3", "sh"],
    tell: ruled,
}];

fn ruled(cluster: &mut Cluster) -> anyhow::Result<()> {
    for host in 0..3 {
        cluster.start(host, &["--data-path", "user"])?;
    }
    cluster.join_all()?;
    let create = "network create --attachable -o policy=deny my-net";
    cluster.ask(0, &words(create, &[]))?;
    let httpd = [OVERLAY, "httpd", "--port", "8000"];
    serve(cluster, "web", &httpd)?;
    settled(cluster, 0, 1, "a running task", |_| true)?;
    let front = asker(cluster, "front", "--label tier=front --mode global")?;
    let other = asker(cluster, "other", "--mode global")?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
    }
    everybody_is_denied(cluster, &front, &other)?;
    rule(
        cluster,
        "web --from label:tier=front --to service:web --port tcp/8000",
    )?;
    becomes(&front, true)?;
    stays(&other, false)?;
    explained(cluster, "front web:8000", "allowed by rule 1 (web)")?;
    explained(cluster, "other web:8000", "denied by default")?;
    explained(cluster, "front web:8001", "denied by default")?;
    explained(cluster, "web front:8000", "denied by default")?;
    pings(cluster)?;
    a_connection_ends_with_its_rule(cluster)?;
    // Whoever replaces a task is meant as it was.
    let update = words("service update --detach --env-add ROUND=1 web", &[]);
    cluster.ask(0, &update)?;
    becomes(&front, true)?;
    listed(cluster)?;
    // Something else may be amiss on this machine.
    let said = cluster.run(0, &["doctor", "--filter", "check=frames"])?;
    let said = String::from_utf8_lossy(&said.stdout);
    ensure!(said.contains("dropped by the policy"), "{said}");
    cluster.ask(1, &["policy", "default", "my-net", "allow"])?;
    becomes(&other, true)?;
    explained(cluster, "other web:8000", "allowed by default")?;
    cluster.ask(1, &["policy", "default", "my-net", "deny"])?;
    becomes(&other, false)?;
    stays(&front, true)
}

fn everybody_is_denied(cluster: &Cluster, front: &Path, other: &Path) -> anyhow::Result<()> {
    for asker in [front, other] {
        becomes(asker, false)?;
    }
    let pinged = cluster.pings(0, "c0", "c1")?;
    ensure!(!pinged.status.success(), "{pinged:?}");
    explained(cluster, "c0 c1/icmp", "denied by default")?;
    explained(cluster, "front web:8000", "denied by default")
}

/// Echo requests are allowed, and then not those of one endpoint: those to it still are.
fn pings(cluster: &Cluster) -> anyhow::Result<()> {
    rule(cluster, "ping --port icmp")?;
    for (host, from, to) in [(0, "c0", "c1"), (1, "c1", "c0"), (2, "c2", "c0")] {
        cluster.reach(PATIENCE, host, from, to)?;
    }
    explained(cluster, "c0 c1/icmp", "allowed by rule 2 (ping)")?;
    rule(
        cluster,
        "quiet --from endpoint:c0 --port icmp --deny --before ping",
    )?;
    explained(cluster, "c0 c1/icmp", "denied by rule 2 (quiet)")?;
    explained(cluster, "c1 c0/icmp", "allowed by rule 3 (ping)")?;
    eventually(PATIENCE, "no answer any more", || {
        let pinged = cluster.pings(0, "c0", "c1")?;
        Ok((!pinged.status.success()).then_some(()))
    })?;
    cluster.reach(PATIENCE, 1, "c1", "c0")?;
    Ok(())
}

/// It outlives both daemons, and not its rule.
fn a_connection_ends_with_its_rule(cluster: &mut Cluster) -> anyhow::Result<()> {
    rule(
        cluster,
        "talk --from endpoint:talker --to endpoint:echo --port tcp/7000",
    )?;
    let run = ["run", "-d", "--network", "my-net", "--name"];
    let server = ["echo", "--", "python3", "-c", SERVER];
    cluster.ask(1, &[&run[..], &server].concat())?;
    let file = cluster.path("talker");
    let said = file.to_string_lossy().into_owned();
    let talker = ["talker", "--", "python3", "-c", TALKER, &said];
    cluster.ask(2, &[&run[..], &talker].concat())?;
    becomes(&file, true)?;
    for host in [1, 2] {
        cluster.kill(host)?;
        cluster.start(host, &["--data-path", "user"])?;
        becomes(&file, true)?;
    }
    explained(cluster, "talker echo:7000", "allowed by rule 4 (talk)")?;
    cluster.ask(0, &["policy", "rm", "my-net", "talk"])?;
    explained(cluster, "talker echo:7000", "denied by default")?;
    eventually(PATIENCE, "the end of a connection", || {
        let said = fs::read_to_string(&file)?;
        Ok(said.ends_with("1\n").then_some(()))
    })
}

fn listed(cluster: &Cluster) -> anyhow::Result<()> {
    let rules = cluster.list(1, &["policy", "ls", "my-net"])?;
    let names: Vec<_> = rules.iter().map(|rule| rule["Name"].clone()).collect();
    ensure!(names == ["web", "quiet", "ping", ""], "{rules:?}");
    ensure!(rules[3]["Verdict"] == "deny", "{rules:?}");
    // The tasks of a global service; and whoever has no such name is nobody.
    eventually(PATIENCE, "four addresses", || {
        let rules = cluster.list(1, &["policy", "ls", "my-net"])?;
        Ok((rules[0]["FromAddresses"] == 4).then_some(()))
    })?;
    let add = words("policy add my-net web", &[]);
    let taken = cluster.refused(0, &add)?;
    ensure!(taken.said.contains("already"), "{taken:?}");
    let unknown = cluster.refused(0, &words("policy rm my-net none", &[]))?;
    ensure!(unknown.said.contains("policy ls"), "{unknown:?}");
    rule(cluster, "none --from service:none --to service:web")?;
    explained(cluster, "other web:8000", "denied by default")?;
    cluster.ask(0, &words("policy rm my-net none", &[]))?;
    Ok(())
}

/// Adds a rule.
fn rule(cluster: &Cluster, text: &str) -> anyhow::Result<()> {
    let add = ["policy", "add", "my-net"];
    cluster.ask(0, &[&add[..], &words(text, &[])].concat())?;
    Ok(())
}

/// Waits until it is explained so: a task may be about to come.
fn explained(cluster: &Cluster, flow: &str, by: &str) -> anyhow::Result<()> {
    let ends: Vec<_> = flow.split(' ').collect();
    let mut said = String::new();
    let expected = format!("my-net: {by}\n");
    eventually(PATIENCE, &expected, || {
        said = cluster.ask(1, &[&["policy", "explain"][..], &ends].concat())?;
        Ok((said == expected).then_some(()))
    })
    .map_err(|error| error.context(format!("{flow}: {said}")))
}

fn serve(cluster: &Cluster, name: &str, command: &[&str]) -> anyhow::Result<()> {
    let create = "service create --detach --network my-net --name";
    cluster.ask(0, &[&words(create, &[name, "--"])[..], command].concat())?;
    Ok(())
}

/// Creates a service whose tasks ask the other one for its page over and over; returns where it is said what came of it.
fn asker(cluster: &Cluster, name: &str, more: &str) -> anyhow::Result<PathBuf> {
    let file = cluster.path(name);
    let script = format!(
        "while :; do {OVERLAY} get --timeout 1 web:8000 > /dev/null 2>&1; echo $? >> {}; sleep 0.1; done",
        file.display()
    );
    let create = format!("service create --detach --network my-net {more} --name {name} --");
    let command = ["sh", "-c", &script];
    cluster.ask(0, &[&words(&create, &[])[..], &command].concat())?;
    Ok(file)
}

/// Waits until the last ten attempts had the same outcome, and ten at least came after now.
fn becomes(file: &Path, answered: bool) -> anyhow::Result<()> {
    let before = attempts(file).len();
    let what = format!("{}: answers: {answered}", file.display());
    eventually(PATIENCE, &what, || {
        let all = attempts(file);
        let last = all.iter().rev().take(10);
        let alike = last.filter(|success| **success == answered).count();
        Ok((all.len() >= before + 10 && alike == 10).then_some(()))
    })
}

/// Looks whether all of the next ten attempts have this outcome.
fn stays(file: &Path, answered: bool) -> anyhow::Result<()> {
    let before = attempts(file).len();
    let next = eventually(PATIENCE, "ten more attempts", || {
        let all = attempts(file);
        Ok((all.len() >= before + 10).then(|| all[before..].to_vec()))
    })?;
    let others = next.iter().filter(|success| **success != answered).count();
    ensure!(others == 0, "{}: {others} were not", file.display());
    Ok(())
}

fn attempts(file: &Path) -> Vec<bool> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line == "0").collect()
}

/// Sends back what it gets.
const SERVER: &str = "\
import socket, threading
def serve(c):
    while data := c.recv(4096):
        c.sendall(data)
s = socket.create_server(('', 7000), family=socket.AF_INET)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
";

/// Says a word ten times a second by one and the same connection, and notes that it came back; and at last that it did not.
const TALKER: &str = "\
import socket, sys, time
def note(word):
    with open(sys.argv[1], 'a') as f:
        f.write(word + '\\n')
while True:
    try:
        c = socket.create_connection(('echo', 7000), timeout=2)
        break
    except OSError:
        time.sleep(0.1)
c.settimeout(8)
try:
    while True:
        c.sendall(b'word')
        if not c.recv(4096):
            break
        note('0')
        time.sleep(0.1)
except OSError:
    pass
note('1')
time.sleep(86400)
";
