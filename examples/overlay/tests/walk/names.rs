//! Names of services as `dig` finds them, and addresses of both families.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    services::{create, remove, settled, start},
    support::{Cluster, OVERLAY, PATIENCE, eventually, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "a_service_is_found_by_aliases_ports_and_texts",
        hosts: 3,
        programs: &["dig"],
        tell: found,
    },
    Story {
        name: "endpoints_and_services_have_addresses_of_both_families",
        hosts: 3,
        programs: &["dig", "ping", "curl"],
        tell: families,
    },
    Story {
        name: "a_full_network_grows_by_a_subnet",
        hosts: 3,
        programs: &["ping"],
        tell: growth,
    },
];

/// What `dig` finds from inside a program, line by line, in order.
fn dig(cluster: &Cluster, host: usize, from: &str, words: &[&str]) -> anyhow::Result<Vec<String>> {
    let dig = ["exec", from, "--", "dig", "+short", "+time=2", "+tries=1"];
    let output = cluster.run(host, &[&dig[..], words].concat())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn digs(
    cluster: &Cluster,
    host: usize,
    words: &[&str],
    fits: impl Fn(&[String]) -> bool,
) -> anyhow::Result<Vec<String>> {
    let mut last = Vec::new();
    let from = format!("client{host}");
    eventually(PATIENCE, &format!("what dig {words:?} finds"), || {
        last = dig(cluster, host, &from, words)?;
        Ok(fits(&last).then(|| last.clone()))
    })
    .with_context(|| format!("the last was {last:?}"))
}

fn found(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let web = "service create --name web --detach --replicas 2 --network name=my-net,alias=www,alias=shop \
        --named-port http=8000 --named-port dns=53/udp --txt v=1 --txt";
    let web: Vec<_> = web.split_whitespace().collect();
    let httpd = ["two words", "--", OVERLAY, "httpd", "--port", "8000"];
    cluster.ask(0, &[&web[..], &httpd].concat())?;
    let tasks = settled(cluster, 0, 2, "two running tasks", |_| true)?;
    let many = "service create --name many --network name=my-net,alias=www --endpoint-mode dnsrr --named-port http=8001 --";
    cluster.ask(0, &words(many, &[OVERLAY, "sleep", "1000"]))?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("client{host}"))?;
        let own = addressed(cluster, host)?;
        ports(cluster, host, &own)?;
        let texts = digs(cluster, host, &["web", "TXT"], |found| found.len() == 2)?;
        ensure!(texts == ["\"two words\"", "\"v=1\""], "{texts:?}");
    }
    // Another name of a port replaces no tasks, and is found at once.
    let update =
        "service update --detach --named-port-rm http --named-port-add web=8000 --txt-rm v=1 web";
    cluster.ask(0, &words(update, &[]))?;
    for host in 0..3 {
        digs(cluster, host, &["_http._tcp.web", "SRV"], <[_]>::is_empty)?;
        digs(cluster, host, &["_web._tcp.web", "SRV"], one)?;
        digs(cluster, host, &["_web._tcp.tasks.web", "SRV"], two)?;
        digs(cluster, host, &["web", "TXT"], |found| {
            found == ["\"two words\""]
        })?;
    }
    let after = settled(cluster, 0, 2, "two running tasks", |_| true)?;
    let ids = |tasks: &[serde_json::Value]| -> BTreeSet<String> {
        tasks.iter().map(|task| task["ID"].to_string()).collect()
    };
    ensure!(ids(&tasks) == ids(&after), "tasks were replaced");
    cluster.ask(0, &["service", "rm", "many"])?;
    remove_clients(cluster)?;
    remove(cluster)
}

/// Forward and backward; returns the addresses of the tasks.
fn addressed(cluster: &Cluster, host: usize) -> anyhow::Result<Vec<String>> {
    let address = digs(cluster, host, &["web", "A"], one)?;
    ensure!(
        digs(cluster, host, &["shop", "A"], one)? == address,
        "an alias"
    );
    // Two services share a name, and one of them has a virtual address.
    digs(cluster, host, &["www", "A"], |found| {
        found.contains(&address[0])
    })?;
    let own = digs(cluster, host, &["tasks.web", "A"], two)?;
    ensure!(!own.contains(&address[0]), "{own:?} with {address:?}");
    let tasks = digs(cluster, host, &["tasks.shop", "A"], two)?;
    ensure!(tasks == own, "{tasks:?}, not {own:?}");
    let names = digs(cluster, host, &["-x", &address[0]], one)?;
    ensure!(names[0].starts_with("web."), "{names:?}");
    let names = digs(cluster, host, &["-x", &own[0]], one)?;
    let first = names[0].starts_with("web.1.") || names[0].starts_with("web.2.");
    ensure!(first, "{names:?}");
    Ok(own)
}

/// Ports of the service and of each of its tasks, by their names.
fn ports(cluster: &Cluster, host: usize, own: &[String]) -> anyhow::Result<()> {
    let port = digs(cluster, host, &["_http._tcp.web", "SRV"], one)?;
    ensure!(port[0].starts_with("0 1 8000 web."), "{port:?}");
    let port = digs(cluster, host, &["_dns._udp.shop", "SRV"], one)?;
    ensure!(port[0].starts_with("0 1 53 "), "{port:?}");
    let ports = digs(cluster, host, &["_http._tcp.tasks.web", "SRV"], two)?;
    let targets = ports.iter().filter_map(|port| port.split(' ').nth(3));
    let targets: BTreeSet<_> = targets.collect();
    ensure!(targets.len() == 2, "{ports:?}");
    for target in targets {
        ensure!(target.starts_with("web."), "{ports:?}");
        let found = digs(cluster, host, &[target, "A"], one)?;
        ensure!(own.contains(&found[0]), "{target} has {found:?}");
    }
    let port = digs(cluster, host, &["_http._tcp.many", "SRV"], one)?;
    ensure!(port[0].starts_with("0 1 8001 many.1."), "{port:?}");
    let none = digs(cluster, host, &["_ftp._tcp.web", "SRV"], |_| true)?;
    ensure!(none.is_empty(), "{none:?}");
    Ok(())
}

fn one(found: &[String]) -> bool {
    found.len() == 1
}

fn two(found: &[String]) -> bool {
    found.len() == 2
}

fn families(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    let network = "network create --attachable --subnet 10.77.0.0/24 --subnet fd00:77::/64 my-net";
    cluster.ask(0, &words(network, &[]))?;
    let more = words("--replicas 3 --detach", &[]);
    create(cluster, &more, &[OVERLAY, "httpd", "--port", "8000"])?;
    settled(cluster, 0, 3, "three running tasks", |_| true)?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("client{host}"))?;
    }
    for host in 0..3 {
        for (kind, begins) in [("A", "10.77.0."), ("AAAA", "fd00:77::")] {
            family(cluster, host, kind, begins)?;
        }
        for family in ["-4", "-6"] {
            let client = format!("client{host}");
            let curl = format!("exec {client} -- curl -s {family} --max-time 3 http://web:8000/");
            let mut told = BTreeSet::new();
            eventually(PATIENCE, "pages of all tasks", || {
                let output = cluster.run(host, &words(&curl, &[]))?;
                let page = String::from_utf8_lossy(&output.stdout).into_owned();
                let mut lines = page.lines();
                let task = lines.find_map(|line| line.strip_prefix("task: "));
                told.extend(task.map(str::to_owned));
                Ok((told.len() == 3).then_some(()))
            })?;
        }
    }
    let fixed = "run -d --name fixed --network my-net --ip 10.77.0.99 --ip6 fd00:77::99 --";
    cluster.ask(1, &words(fixed, &[OVERLAY, "sleep", "1000"]))?;
    for (kind, address) in [("A", "10.77.0.99"), ("AAAA", "fd00:77::99")] {
        let found = digs(cluster, 2, &["fixed", kind], one)?;
        ensure!(found == [address], "{found:?}");
    }
    cluster.ask(1, &["rm", "-f", "fixed"])?;
    remove_clients(cluster)?;
    remove(cluster)
}

/// Names of one family, forward and backward, and echoes by it.
fn family(cluster: &Cluster, host: usize, kind: &str, begins: &str) -> anyhow::Result<()> {
    let address = digs(cluster, host, &["web", kind], one)?;
    ensure!(address[0].starts_with(begins), "{address:?}");
    let all = digs(cluster, host, &["tasks.web", kind], |found| {
        found.len() == 3
    })?;
    ensure!(!all.contains(&address[0]), "{all:?}");
    let (own, other) = (format!("client{host}"), format!("client{}", (host + 1) % 3));
    let found = digs(cluster, host, &[&other, kind], one)?;
    let ping = format!("exec {own} -- ping -c 2 -W 2 {}", found[0]);
    eventually(PATIENCE, "an echo", || {
        let output = cluster.run(host, &words(&ping, &[]))?;
        Ok(output.status.success().then_some(()))
    })?;
    let names = digs(cluster, host, &["-x", &found[0]], one)?;
    ensure!(names[0].starts_with(&other), "{names:?}");
    Ok(())
}

fn remove_clients(cluster: &Cluster) -> anyhow::Result<()> {
    for host in 0..3 {
        cluster.ask(host, &["rm", "-f", &format!("client{host}")])?;
    }
    Ok(())
}

fn growth(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    let network =
        "network create --attachable --subnet 10.77.0.0/29 --aux-address printer=10.77.0.2 my-net";
    cluster.ask(0, &words(network, &[]))?;
    // Six addresses, one the gateway's and one set aside.
    for number in 0..4 {
        cluster.sleep(number % 3, "my-net", &format!("a{number}"))?;
    }
    let run = words("run -d --name b0 --network my-net --", &[OVERLAY, "sleep"]);
    let refused = cluster.refused(0, &run)?;
    ensure!(refused.said.contains("my-net"), "{}", refused.said);
    let update = "network update --subnet-add 10.78.0.0/29 my-net";
    cluster.ask(1, &words(update, &[]))?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("b{host}"))?;
    }
    // Those of before and those of after reach each other, on the same host and elsewhere.
    let ways = [(0, "b0", "a0"), (0, "a0", "b0"), (0, "a0", "b1")];
    for (host, from, to) in ways {
        cluster.reach(PATIENCE, host, from, to)?;
    }
    for (host, from, to) in [(1, "b1", "a2"), (2, "a2", "b2"), (2, "b2", "b0")] {
        cluster.reach(PATIENCE, host, from, to)?;
    }
    let inspected = cluster.inspect(2, "my-net")?;
    let config = inspected["IPAM"]["Config"].as_array().context("subnets")?;
    let aside = &config[0]["AuxiliaryAddresses"]["printer"];
    ensure!(config.len() == 2 && aside == "10.77.0.2", "{inspected}");
    let inside = inspected["Containers"].as_object().context("endpoints")?;
    let homes = inside.values();
    let homes: BTreeSet<_> = homes
        .filter_map(|one| one["IPv4Address"].as_str())
        .collect();
    ensure!(homes.len() == 7, "{homes:?}");
    ensure!(!homes.contains("10.77.0.2/29"), "{homes:?}");
    Ok(())
}
