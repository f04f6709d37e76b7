//! Names of services as `dig` finds them, and addresses of both families.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    services::{create, remove, settled, start},
    support::{Cluster, OVERLAY, PATIENCE, eventually},
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
    let words = [
        "service",
        "create",
        "--name",
        "web",
        "--detach",
        "--replicas",
        "2",
    ];
    let offers = [
        "--network",
        "name=my-net,alias=www,alias=shop",
        "--named-port",
        "http=8000",
        "--named-port",
        "dns=53/udp",
        "--txt",
        "v=1",
        "--txt",
        "two words",
    ];
    let httpd = ["--", OVERLAY, "httpd", "--port", "8000"];
    cluster.ask(0, &[&words[..], &offers, &httpd].concat())?;
    let tasks = settled(cluster, 0, 2, "two running tasks", |_| true)?;
    let plain = [
        "service",
        "create",
        "--name",
        "many",
        "--network",
        "name=my-net,alias=www",
    ];
    let plain_more = [
        "--endpoint-mode",
        "dnsrr",
        "--named-port",
        "http=8001",
        "--",
        OVERLAY,
        "sleep",
        "1000",
    ];
    cluster.ask(0, &[&plain[..], &plain_more].concat())?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("client{host}"))?;
        let one = |found: &[String]| found.len() == 1;
        let address = digs(cluster, host, &["web", "A"], one)?;
        ensure!(
            digs(cluster, host, &["shop", "A"], one)? == address,
            "an alias"
        );
        // Two services share a name: the one's virtual address, and nothing else has one.
        let shared = digs(cluster, host, &["www", "A"], |found| {
            found.contains(&address[0])
        })?;
        let own = digs(cluster, host, &["tasks.web", "A"], |found| found.len() == 2)?;
        ensure!(!own.contains(&address[0]), "{own:?} with {address:?}");
        let tasks = digs(cluster, host, &["tasks.shop", "A"], |found| {
            found.len() == 2
        })?;
        ensure!(tasks == own, "{tasks:?}, not {own:?}");
        ensure!(!shared.is_empty(), "no address");
        let port = digs(cluster, host, &["_http._tcp.web", "SRV"], one)?;
        ensure!(port[0].starts_with("0 1 8000 web."), "{port:?}");
        let port = digs(cluster, host, &["_dns._udp.shop", "SRV"], one)?;
        ensure!(port[0].starts_with("0 1 53 "), "{port:?}");
        let ports = digs(cluster, host, &["_http._tcp.tasks.web", "SRV"], |found| {
            found.len() == 2
        })?;
        let targets: BTreeSet<_> = ports
            .iter()
            .filter_map(|port| port.split(' ').nth(3))
            .collect();
        ensure!(
            targets.len() == 2 && targets.iter().all(|target| target.starts_with("web.")),
            "{ports:?}"
        );
        for target in targets {
            let found = digs(cluster, host, &[target, "A"], one)?;
            ensure!(own.contains(&found[0]), "{target} has {found:?}");
        }
        let port = digs(cluster, host, &["_http._tcp.many", "SRV"], one)?;
        ensure!(port[0].starts_with("0 1 8001 many.1."), "{port:?}");
        let texts = digs(cluster, host, &["web", "TXT"], |found| found.len() == 2)?;
        ensure!(texts == ["\"two words\"", "\"v=1\""], "{texts:?}");
        let names = digs(cluster, host, &["-x", &address[0]], one)?;
        ensure!(names[0].starts_with("web."), "{names:?}");
        let names = digs(cluster, host, &["-x", &own[0]], one)?;
        ensure!(
            names[0].starts_with("web.1.") || names[0].starts_with("web.2."),
            "{names:?}"
        );
        ensure!(
            digs(cluster, host, &["_ftp._tcp.web", "SRV"], |_| true)?.is_empty(),
            "no such port"
        );
    }
    // Another name of a port replaces no tasks, and is found at once.
    let words = [
        "service",
        "update",
        "--detach",
        "--named-port-rm",
        "http",
        "--named-port-add",
        "web=8000",
    ];
    cluster.ask(0, &[&words[..], &["--txt-rm", "v=1", "web"]].concat())?;
    for host in 0..3 {
        digs(cluster, host, &["_http._tcp.web", "SRV"], <[_]>::is_empty)?;
        digs(cluster, host, &["_web._tcp.web", "SRV"], |found| {
            found.len() == 1
        })?;
        digs(cluster, host, &["_web._tcp.tasks.web", "SRV"], |found| {
            found.len() == 2
        })?;
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
    for host in 0..3 {
        cluster.ask(host, &["rm", "-f", &format!("client{host}")])?;
    }
    remove(cluster)
}

fn families(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    let words = [
        "network",
        "create",
        "--attachable",
        "--subnet",
        "10.77.0.0/24",
    ];
    cluster.ask(
        0,
        &[&words[..], &["--subnet", "fd00:77::/64", "my-net"]].concat(),
    )?;
    create(
        cluster,
        &["--replicas", "3", "--detach", "--publish", "8080:8000"],
        &[OVERLAY, "httpd", "--port", "8000"],
    )?;
    settled(cluster, 0, 3, "three running tasks", |_| true)?;
    for host in 0..3 {
        let client = format!("client{host}");
        cluster.sleep(host, "my-net", &client)?;
        for (kind, begins) in [("A", "10.77.0."), ("AAAA", "fd00:77::")] {
            let one = digs(cluster, host, &["web", kind], |found| found.len() == 1)?;
            ensure!(one[0].starts_with(begins), "{one:?}");
            let all = digs(cluster, host, &["tasks.web", kind], |found| {
                found.len() == 3
            })?;
            ensure!(!all.contains(&one[0]), "{all:?}");
            let other = format!("client{}", (host + 2) % 3);
            if host == 2 {
                let found = digs(cluster, host, &[&other, kind], |found| found.len() == 1)?;
                let ping = [
                    "exec", &client, "--", "ping", "-c", "2", "-W", "2", &found[0],
                ];
                eventually(PATIENCE, "an echo", || {
                    Ok(cluster.run(host, &ping)?.status.success().then_some(()))
                })?;
                let names = digs(cluster, host, &["-x", &found[0]], |found| found.len() == 1)?;
                ensure!(names[0].starts_with(&other), "{names:?}");
            }
        }
        for family in ["-4", "-6"] {
            let mut told = BTreeSet::new();
            eventually(PATIENCE, "pages of all tasks", || {
                let curl = [
                    "exec",
                    &client,
                    "--",
                    "curl",
                    "-s",
                    family,
                    "--max-time",
                    "3",
                ];
                let output = cluster.run(host, &[&curl[..], &["http://web:8000/"]].concat())?;
                let page = String::from_utf8_lossy(&output.stdout).into_owned();
                told.extend(
                    page.lines()
                        .find_map(|line| line.strip_prefix("task: ").map(str::to_owned)),
                );
                Ok((told.len() == 3).then_some(()))
            })?;
        }
    }
    let asked = [
        "run",
        "-d",
        "--name",
        "fixed",
        "--network",
        "my-net",
        "--ip",
        "10.77.0.99",
    ];
    cluster.ask(
        1,
        &[
            &asked[..],
            &["--ip6", "fd00:77::99", "--", OVERLAY, "sleep", "1000"],
        ]
        .concat(),
    )?;
    ensure!(
        digs(cluster, 2, &["fixed", "AAAA"], |found| found.len() == 1)? == ["fd00:77::99"],
        "asked for"
    );
    ensure!(
        digs(cluster, 2, &["fixed", "A"], |found| found.len() == 1)? == ["10.77.0.99"],
        "asked for"
    );
    for (host, name) in [(0, "client0"), (1, "client1"), (2, "client2"), (1, "fixed")] {
        cluster.ask(host, &["rm", "-f", name])?;
    }
    remove(cluster)
}

fn growth(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    let words = [
        "network",
        "create",
        "--attachable",
        "--subnet",
        "10.77.0.0/29",
    ];
    let aside = ["--aux-address", "printer=10.77.0.2", "my-net"];
    cluster.ask(0, &[&words[..], &aside].concat())?;
    // Six addresses, one the gateway's and one set aside.
    for number in 0..4 {
        cluster.sleep(number % 3, "my-net", &format!("a{number}"))?;
    }
    let run = [
        "run",
        "-d",
        "--name",
        "b0",
        "--network",
        "my-net",
        "--",
        OVERLAY,
        "sleep",
        "1000",
    ];
    let refused = cluster.refused(0, &run)?;
    ensure!(refused.said.contains("my-net"), "{}", refused.said);
    cluster.ask(
        1,
        &[
            "network",
            "update",
            "--subnet-add",
            "10.78.0.0/29",
            "my-net",
        ],
    )?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("b{host}"))?;
    }
    // Those of before and those of after reach each other, on the same host and elsewhere.
    for (host, from, to) in [
        (0, "b0", "a0"),
        (0, "a0", "b0"),
        (0, "a0", "b1"),
        (1, "b1", "a2"),
        (2, "a2", "b2"),
        (2, "b2", "b0"),
    ] {
        cluster.reach(PATIENCE, host, from, to)?;
    }
    let inspected = cluster.inspect(2, "my-net")?;
    let config = inspected["IPAM"]["Config"].as_array().context("subnets")?;
    ensure!(config.len() == 2, "{inspected}");
    ensure!(
        config[0]["AuxiliaryAddresses"]["printer"] == "10.77.0.2",
        "{inspected}"
    );
    let homes: BTreeSet<_> = cluster.inspect(0, "my-net")?["Containers"]
        .as_object()
        .context("endpoints")?
        .values()
        .filter_map(|one| one["IPv4Address"].as_str().map(str::to_owned))
        .collect();
    ensure!(
        homes.len() == 7 && !homes.iter().any(|one| one.starts_with("10.77.0.2/")),
        "{homes:?}"
    );
    Ok(())
}
