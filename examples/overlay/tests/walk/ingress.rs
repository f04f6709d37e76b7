//! Published ports: what a task learns of who connects, and where a port is open.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    Story,
    services::{host_of, settled, start},
    support::{Cluster, OVERLAY, PATIENCE, address, eventually, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "a_task_sees_who_connects_to_its_published_port",
        hosts: 3,
        programs: &["curl"],
        tell: clients,
    },
    Story {
        name: "a_proxied_port_says_who_connects",
        hosts: 3,
        programs: &["curl", "python3"],
        tell: proxied,
    },
    Story {
        name: "a_port_is_open_where_it_was_asked_for",
        hosts: 3,
        programs: &["curl", "python3"],
        tell: places,
    },
];

/// The service `web`, which is on no network of its own.
fn publish(cluster: &Cluster, ports: &[&str]) -> anyhow::Result<()> {
    let ports = ports.iter().flat_map(|port| ["--publish", *port]);
    let ports: Vec<_> = ports.collect();
    let words = ["service", "create", "--name", "web", "--detach"];
    let httpd = ["--", OVERLAY, "httpd", "--port", "8000"];
    cluster.ask(0, &[&words[..], &ports, &httpd].concat())?;
    Ok(())
}

fn clients(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    publish(cluster, &["8080:8000"])?;
    let tasks = settled(cluster, 0, 1, "a running task", |_| true)?;
    let home = host_of(&tasks[0])?;
    // It is on the network of published ports, and that one can be looked at.
    let ingress = cluster.inspect(0, "ingress")?;
    let inside = ingress["Containers"].as_object().context("containers")?;
    ensure!(inside.len() == 1, "{ingress}");
    for to in 0..3 {
        for from in 0..3 {
            let url = format!("http://{}:8080/", address(to));
            let page = eventually(PATIENCE, "a page", || curl(cluster, from, &[&url]))?;
            let client = format!("client: {}\n", address(from));
            ensure!(page.contains(&client), "{from} to {to}: {page}");
        }
        // What comes over loopback is not taken for the task's own.
        for url in ["http://127.0.0.1:8080/", "http://[::1]:8080/"] {
            let page = curl(cluster, to, &[url])?.context("no page over loopback")?;
            ensure!(
                !page.contains("client: 127.") && !page.contains("client: ::1"),
                "{page}"
            );
        }
    }
    // Many at once by the same ways.
    let url = format!("http://{}:8080/", address((home + 1) % 3));
    let all = format!("{url}?[1-200]");
    let pages = curl(cluster, home, &["--parallel", "--parallel-max", "50", &all])?;
    let pages = pages.context("some of 200 requests failed")?;
    let client = format!("client: {}\n", address(home));
    ensure!(pages.matches(&client).count() == 200, "{pages}");
    apart(cluster, home)?;
    replaced(cluster)
}

/// Services that only publish reach nobody by their network, and find no names there.
fn apart(cluster: &Cluster, home: usize) -> anyhow::Result<()> {
    let other = words(
        "service create --name other --publish 8090:7 --",
        &[OVERLAY, "echod"],
    );
    cluster.ask(0, &other)?;
    let get = |task: &'static str| words(task, &[OVERLAY, "get", "--timeout", "1"]);
    cluster.refused(home, &[&get("exec web.1 --")[..], &["other:8000"]].concat())?;
    let ingress = cluster.inspect(0, "ingress")?;
    let inside = ingress["Containers"].as_object().context("containers")?;
    let tasks = cluster.list(0, &["service", "ps", "other"])?;
    let elsewhere = host_of(&tasks[0])?;
    for end in inside.values() {
        let end = end["IPv4Address"].as_str().context("no address")?;
        let to = end.split('/').next().map(|end| format!("{end}:8000"));
        let to = to.unwrap_or_default();
        cluster.refused(elsewhere, &[&get("exec other.1 --")[..], &[&to]].concat())?;
    }
    cluster.refused(0, &["network", "rm", "ingress"])?;
    cluster.ask(0, &["service", "rm", "web", "other"])?;
    Ok(())
}

/// The network of published ports goes when nothing uses it, and another one takes its place.
fn replaced(cluster: &mut Cluster) -> anyhow::Result<()> {
    eventually(PATIENCE, "the end of the network", || {
        let output = cluster.run(0, &["network", "rm", "ingress"])?;
        Ok(output.status.success().then_some(()))
    })?;
    let web = words("service create -p 8080:8000 --", &[OVERLAY, "httpd"]);
    let refused = cluster.refused(0, &web)?;
    ensure!(refused.said.contains("--ingress"), "{}", refused.said);
    let edge = "network create --ingress --subnet 172.30.0.0/24 edge";
    cluster.ask(0, &words(edge, &[]))?;
    publish(cluster, &["8080:8000"])?;
    let url = format!("http://{}:8080/", address(2));
    let page = eventually(PATIENCE, "a page", || curl(cluster, 1, &[&url]))?;
    ensure!(page.contains("address: 172.30.0."), "{page}");
    Ok(())
}

/// Tells what it gets before the first line of the request, in hexadecimal digits; then echoes lines.
const READER: &str = "\
import socket, threading
def serve(c):
    got = b''
    while more := c.recv(4096):
        got += more
        if b'GET /' in got:
            before = got[:got.index(b'GET /')].hex()
            c.sendall(('HTTP/1.0 200 OK\\r\\n\\r\\nbefore: ' + before + '\\n').encode())
            break
        if not got.startswith((b'PROXY', b'\\r\\n')):
            c.sendall(more)
    c.close()
s = socket.create_server(('', 9000))
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
";

fn proxied(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let web = "service create --name web --network my-net --detach \
        --publish published=9001,target=9000,client=proxy-v1 --publish published=9002,target=9000,client=proxy-v2 \
        --publish published=9003,target=9000,client=hidden -- python3 -c";
    let web: Vec<_> = web.split_whitespace().collect();
    cluster.ask(0, &[&web[..], &[READER]].concat())?;
    settled(cluster, 0, 1, "a running task", |_| true)?;
    for (from, to) in [(0, 0), (0, 1), (1, 2), (2, 2)] {
        let text = String::from_utf8(before(cluster, from, to, 9_001)?)?;
        let ends = format!("PROXY TCP4 {} {} ", address(from), address(to));
        let whole = text.starts_with(&ends) && text.ends_with(" 9001\r\n");
        ensure!(whole, "{text}");
        let binary = before(cluster, from, to, 9_002)?;
        ensure!(binary.len() == 28, "{binary:x?}");
        let (fixed, ends) = binary.split_at(16);
        ensure!(
            fixed == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c",
            "{binary:x?}"
        );
        ensure!(ends[..4] == address(from).octets(), "{binary:x?}");
        ensure!(ends[4..8] == address(to).octets(), "{binary:x?}");
        ensure!(ends[10..] == 9_002_u16.to_be_bytes(), "{binary:x?}");
        let none = before(cluster, from, to, 9_003)?;
        ensure!(none.is_empty(), "octets before the client's: {none:x?}");
    }
    let udp = "service create -p target=53,protocol=udp,client=proxy -- true";
    let refused = cluster.refused(0, &words(udp, &[]))?;
    let said = refused.said;
    ensure!(said.contains("PROXY protocol is for TCP"), "{said}");
    Ok(())
}

/// What a task gets before the client's own octets.
fn before(cluster: &mut Cluster, from: usize, to: usize, port: u16) -> anyhow::Result<Vec<u8>> {
    let url = format!("http://{}:{port}/", address(to));
    let page = eventually(PATIENCE, "a page", || curl(cluster, from, &[&url]))?;
    let hex = page.trim().strip_prefix("before:");
    let hex = hex.with_context(|| page.clone())?.trim();
    let octets = (0..hex.len()).step_by(2);
    let octets = octets.map(|at| u8::from_str_radix(&hex[at..at + 2], 16));
    Ok(octets.collect::<Result<_, _>>()?)
}

fn places(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let only = format!("published=9002,target=9000,ip={}", address(2));
    let ports = [
        "9000:9000",
        "127.0.0.1:9001:9000",
        &only,
        "published=9003,target=9000,nodes=node.hostname==host2",
        "published=9004,target=9000,nodes=node.labels.edge==yes",
    ];
    let ports: Vec<_> = ports
        .into_iter()
        .flat_map(|port| ["--publish", port])
        .collect();
    let words = ["service", "create", "--name", "web", "--detach"];
    cluster.ask(
        0,
        &[&words[..], &ports, &["--", "python3", "-c", READER]].concat(),
    )?;
    let before = settled(cluster, 0, 1, "a running task", |_| true)?;
    let at = |host: usize, port: u16| format!("http://{}:{port}/", address(host));
    eventually(PATIENCE, "a page", || curl(cluster, 1, &[&at(0, 9_000)]))?;
    // A connection that stays open while other ports come and go.
    let mut open = Line::connect(cluster, 1, address(0).into(), 9_000)?;
    open.echo("one")?;
    cluster.ask(0, &["node", "update", "--label-add", "edge=yes", "host1"])?;
    for host in 0..3 {
        let loopback = "http://127.0.0.1:9001/".to_owned();
        for (url, wanted) in [
            (loopback, true),
            (at(host, 9_001), false),
            (at(host, 9_002), host == 2),
            (at(host, 9_003), host == 1),
            (at(host, 9_004), host == 0),
        ] {
            eventually(PATIENCE, &format!("{url} on {host}: {wanted}"), || {
                Ok((curl(cluster, host, &[&url])?.is_some() == wanted).then_some(()))
            })?;
        }
    }
    // Labels move a port.
    cluster.ask(0, &["node", "update", "--label-rm", "edge", "host1"])?;
    cluster.ask(0, &["node", "update", "--label-add", "edge=yes", "host3"])?;
    for (host, wanted) in [(0, false), (2, true)] {
        eventually(PATIENCE, "the port at the other host", || {
            Ok((curl(cluster, host, &[&at(host, 9_004)])?.is_some() == wanted).then_some(()))
        })?;
    }
    open.echo("two")?;
    let update = ["service", "update", "--detach", "--publish-rm", "9000"];
    let kept = ["--publish-add", "9000:9000", "web"];
    cluster.ask(0, &[&update[..], &kept].concat())?;
    eventually(PATIENCE, "the end of the other ports", || {
        let page = curl(cluster, 0, &["http://127.0.0.1:9001/"])?;
        Ok(page.is_none().then_some(()))
    })?;
    open.echo("three")?;
    let after = settled(cluster, 0, 1, "a running task", |_| true)?;
    ensure!(before[0]["ID"] == after[0]["ID"], "ports replace no tasks");
    Ok(())
}

/// Fetches with `curl` from a host; none if it fails.
fn curl(cluster: &mut Cluster, from: usize, words: &[&str]) -> anyhow::Result<Option<String>> {
    let mut command = Command::new("curl");
    command
        .args([
            "--silent",
            "--fail",
            "--max-time",
            "10",
            "--http0.9",
            "--noproxy",
            "*",
        ])
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let child = cluster.lab.spawn_in(from, &mut command)?;
    let output = child.wait_with_output()?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    // Without a word it is no answer, which HTTP 0.9 cannot tell from an empty one.
    let answered = output.status.success() && !page.is_empty();
    Ok(answered.then_some(page))
}

/// A connection of lines that are echoed.
struct Line(BufReader<TcpStream>);

impl Line {
    fn connect(cluster: &Cluster, from: usize, to: IpAddr, port: u16) -> anyhow::Result<Self> {
        let network = cluster.lab.namespace(from).context("an unknown host")?;
        let open = || -> anyhow::Result<TcpStream> {
            move_into_link_name_space(network, Some(LinkNameSpaceType::Network))?;
            Ok(TcpStream::connect((to, port))?)
        };
        // A namespace is a thread's own, and a socket stays where it was made.
        let opened = thread::scope(|scope| scope.spawn(open).join());
        let stream = opened.expect("it does not panic")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn echo(&mut self, text: &str) -> anyhow::Result<()> {
        self.0.get_mut().write_all(format!("{text}\n").as_bytes())?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.trim() == text, "{line:?}, not {text:?}");
        Ok(())
    }
}
