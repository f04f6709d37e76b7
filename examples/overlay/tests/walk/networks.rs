//! Several networks: of a service's tasks, and of programs, also while they run.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use overlay_linux::capabilities;
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, address, eventually},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "a_service_on_two_networks_is_reached_from_either",
        hosts: 2,
        programs: &["getent", "ping"],
        tell: service,
    },
    Story {
        name: "a_program_on_two_networks_sees_both",
        hosts: 2,
        programs: &["getent", "ping", "ip"],
        tell: program,
    },
    Story {
        name: "a_program_is_connected_and_disconnected_while_it_runs",
        hosts: 2,
        programs: &["getent", "ping"],
        tell: |cluster| connect(cluster, "tap"),
    },
    Story {
        name: "the_same_over_packet_ports",
        hosts: 2,
        programs: &["getent", "ping"],
        tell: |cluster| connect(cluster, "packet"),
    },
    Story {
        name: "a_daemon_that_is_killed_in_a_run_leaves_all_of_it_or_nothing",
        hosts: 1,
        programs: &["sleep"],
        tell: killed,
    },
];

fn start(cluster: &mut Cluster, more: &[&str]) -> anyhow::Result<()> {
    for host in [0, 1] {
        cluster.start(host, more)?;
    }
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "front"])?;
    let internal = ["--attachable", "--internal", "back"];
    cluster.ask(0, &[&["network", "create"], &internal[..]].concat())?;
    Ok(())
}

/// The addresses that a name has for a program; none if it is not known.
pub(crate) fn resolve(
    cluster: &Cluster,
    host: usize,
    from: &str,
    name: &str,
) -> anyhow::Result<Vec<String>> {
    let output = cluster.run(host, &["exec", from, "--", "getent", "ahostsv4", name])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let mut addresses: Vec<_> = text.lines().filter_map(first).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

fn resolves(
    cluster: &Cluster,
    host: usize,
    from: &str,
    name: &str,
    count: usize,
) -> anyhow::Result<Vec<String>> {
    let what = format!("{count} addresses of {name} for {from}");
    eventually(PATIENCE, &what, || {
        let found = resolve(cluster, host, from, name)?;
        Ok((found.len() == count).then_some(found))
    })
}

/// The names that an address has for a program.
fn reverse(cluster: &Cluster, host: usize, from: &str, address: &str) -> anyhow::Result<String> {
    cluster.ask(host, &["exec", from, "--", "getent", "hosts", address])
}

/// The addresses of a program, by its interfaces.
fn addresses(cluster: &Cluster, host: usize, name: &str) -> anyhow::Result<Vec<String>> {
    let rows = cluster.list(host, &["ps"])?;
    let row = rows.iter().find(|row| row["Names"] == name);
    let shown = row.and_then(|row| row["Address"].as_str());
    let shown = shown.with_context(|| format!("{name} is not in {rows:?}"))?;
    Ok(shown.split(',').map(str::to_owned).collect())
}

/// The interfaces of a program or task, but for the loopback.
fn interfaces(cluster: &Cluster, host: usize, name: &str) -> anyhow::Result<Vec<String>> {
    let text = cluster.ask(host, &["exec", name, "--", "cat", "/proc/net/dev"])?;
    let named = text.lines().filter_map(|line| line.split_once(':'));
    let named = named.map(|(name, _)| name.trim().to_owned());
    let mut named: Vec<_> = named.filter(|name| name.starts_with("eth")).collect();
    named.sort();
    Ok(named)
}

fn run(cluster: &Cluster, host: usize, name: &str, networks: &[&str]) -> anyhow::Result<()> {
    let mut words = vec!["run", "-d", "--name", name];
    for network in networks {
        words.extend(["--network", network]);
    }
    words.extend(["--", "sleep", "86400"]);
    cluster.ask(host, &words)?;
    Ok(())
}

fn service(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster, &[])?;
    let httpd = [OVERLAY, "httpd", "--port", "8000"];
    // The internal one first: what is published leads past it.
    let create = ["service", "create", "--name", "web", "--mode", "global"];
    let how = ["--network", "back", "--network", "front", "-p", "8080:8000"];
    cluster.ask(0, &[&create[..], &how, &["--"], &httpd].concat())?;
    run(cluster, 0, "fore", &["front"])?;
    run(cluster, 1, "rear", &["back"])?;
    for (host, from, other) in [(0, "fore", "rear"), (1, "rear", "fore")] {
        let found = resolves(cluster, host, from, "tasks.web", 2)?;
        for address in &found {
            cluster.reach(PATIENCE, host, from, address)?;
        }
        cluster.reach(PATIENCE, host, from, "web")?;
        // Who is on one of the networks alone sees nothing of the other.
        let of_other = addresses(cluster, 1 - host, other)?;
        ensure!(!cluster.pings(host, from, other)?.status.success());
        ensure!(!cluster.pings(host, from, &of_other[0])?.status.success());
    }
    let front = resolves(cluster, 0, "fore", "tasks.web", 2)?;
    let back = resolves(cluster, 1, "rear", "tasks.web", 2)?;
    ensure!(front.iter().all(|address| !back.contains(address)));
    // Nor by way of a task that is on both.
    ensure!(!cluster.pings(0, "fore", &back[0])?.status.success());

    let tasks = cluster.list(0, &["service", "ps", "web"])?;
    let task = |host: usize| -> anyhow::Result<String> {
        let name = crate::support::name(host);
        let on = tasks.iter().find(|task| task["Node"] == name.as_str());
        let id = on.and_then(|task| task["ID"].as_str());
        id.map(str::to_owned).context("no task there")
    };
    for host in [0, 1] {
        let task = task(host)?;
        assert_eq!(interfaces(cluster, host, &task)?, ["eth0", "eth1"]);
        cluster.reach(PATIENCE, host, &task, "fore")?;
        cluster.reach(PATIENCE, host, &task, "rear.back")?;
        eventually(PATIENCE, "an answer at the published port", || {
            let page = fetch(cluster, host)?;
            Ok(page.filter(|page| page.contains("service: web") || page.contains("task: web")))
        })?;
    }
    let refused = cluster.refused(0, &["network", "connect", "front", &task(0)?])?;
    ensure!(refused.said.contains("--network-add"), "{refused:?}");

    // One network less: other tasks, which the programs of that one see no more.
    let update = ["service", "update", "--network-rm", "back", "web"];
    cluster.ask(0, &update)?;
    resolves(cluster, 1, "rear", "tasks.web", 0)?;
    resolves(cluster, 0, "fore", "tasks.web", 2)?;
    let update = ["service", "update", "--network-add", "back", "web"];
    cluster.ask(0, &update)?;
    resolves(cluster, 1, "rear", "tasks.web", 2)?;

    cluster.ask(0, &["service", "rm", "web"])?;
    cluster.ask(0, &["rm", "-f", "fore"])?;
    cluster.ask(1, &["rm", "-f", "rear"])?;
    nothing_left(cluster, &["front", "back"])
}

/// Fetches the page at the published port of a host, from there; none if nobody answers.
fn fetch(cluster: &mut Cluster, host: usize) -> anyhow::Result<Option<String>> {
    let mut command = Command::new(OVERLAY);
    command
        .args(["get", "--timeout", "2"])
        .arg(format!("{}:8080", address(host)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let output = cluster.lab.spawn_in(host, &mut command)?;
    let output = output.wait_with_output()?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(page))
}

fn program(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster, &[])?;
    run(cluster, 1, "fore", &["front"])?;
    run(cluster, 1, "rear", &["back"])?;
    let networks = ["front", "name=back,alias=twin,alias=double"];
    run(cluster, 0, "both", &networks)?;
    let both = addresses(cluster, 0, "both")?;
    ensure!(both.len() == 2, "{both:?}");
    assert_eq!(interfaces(cluster, 0, "both")?, ["eth0", "eth1"]);
    for to in ["fore", "fore.front", "rear", "rear.back"] {
        cluster.reach(PATIENCE, 0, "both", to)?;
    }
    // Each sees it by its own network, under the names that it has there.
    cluster.reach(PATIENCE, 1, "fore", "both")?;
    assert_eq!(resolve(cluster, 1, "fore", "both")?, both[..1]);
    assert_eq!(resolve(cluster, 1, "fore", "twin")?, [""; 0]);
    for name in ["both", "twin", "double"] {
        cluster.reach(PATIENCE, 1, "rear", name)?;
        assert_eq!(resolve(cluster, 1, "rear", name)?, both[1..]);
    }
    for (network, name) in [("front", "fore"), ("back", "rear")] {
        let address = &addresses(cluster, 1, name)?[0];
        let names = reverse(cluster, 0, "both", address)?;
        ensure!(names.contains(&format!("{name}.{network}")), "{names}");
    }
    // A name on both networks is the first-named one's; with the network's name it is either's.
    run(cluster, 1, "same", &["back"])?;
    run(cluster, 0, "other", &["name=front,alias=same"])?;
    let of = |host, name| anyhow::Ok(addresses(cluster, host, name)?[0].clone());
    let (back, front) = (of(1, "same")?, of(0, "other")?);
    eventually(PATIENCE, "both addresses", || {
        let one = resolve(cluster, 0, "both", "same.front")?;
        let other = resolve(cluster, 0, "both", "same.back")?;
        Ok((one == [front.clone()] && other == [back.clone()]).then_some(()))
    })?;
    assert_eq!(resolve(cluster, 0, "both", "same")?, vec![front]);
    // The way out is that of the network that is not internal, once.
    let routes = cluster.ask(0, &["exec", "both", "--", "ip", "route"])?;
    let defaults = routes.lines().filter(|line| line.starts_with("default"));
    ensure!(defaults.count() == 1, "{routes}");
    cluster.reach(PATIENCE, 0, "both", &address(1).to_string())?;
    refusals(cluster)?;
    for name in ["both", "other"] {
        cluster.ask(0, &["rm", "-f", name])?;
    }
    for name in ["fore", "rear", "same"] {
        cluster.ask(1, &["rm", "-f", name])?;
    }
    nothing_left(cluster, &["front", "back"])
}

/// What fails at the second network leaves nothing on the first.
fn refusals(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ask(0, &["network", "create", "closed"])?;
    let before = cluster.list(0, &["ps", "-a"])?.len();
    let refused = |networks: [&str; 2]| {
        let [one, other] = networks;
        let run = ["run", "-d", "--name", "late", "--network", one];
        let words = [&run[..], &["--network", other, "--", "sleep", "1"]].concat();
        cluster.refused(0, &words)
    };
    for (networks, said) in [
        (["front", "closed"], "attachable"),
        (["front", "nowhere"], "nowhere"),
        (["front", "front"], "twice"),
        (["front", "name=back,ip=192.0.2.1"], "192.0.2.1"),
    ] {
        let refusal = refused(networks)?;
        ensure!(refusal.said.contains(said), "{networks:?}: {refusal:?}");
        ensure!(refusal.code == 125, "{networks:?}: {refusal:?}");
    }
    ensure!(cluster.list(0, &["ps", "-a"])?.len() == before);
    eventually(PATIENCE, "nothing of it on the network", || {
        let found = cluster.inspect(0, "front")?.to_string();
        Ok((!found.contains("late")).then_some(()))
    })?;
    cluster.ask(0, &["network", "rm", "closed"])?;
    Ok(())
}

fn connect(cluster: &mut Cluster, kind: &str) -> anyhow::Result<()> {
    let possible = capabilities(std::path::Path::new(OVERLAY))?;
    if kind == "tap" && !possible.tap.is_possible() {
        crate::support::say(&format!("SKIPPED: tap ports: {}", possible.tap));
        return Ok(());
    }
    let kind = ["--port-kind", kind];
    start(cluster, &kind)?;
    run(cluster, 0, "mover", &["front"])?;
    run(cluster, 1, "fore", &["front"])?;
    run(cluster, 1, "rear", &["back"])?;
    cluster.reach(PATIENCE, 0, "mover", "fore")?;
    assert_eq!(resolve(cluster, 0, "mover", "rear")?, [""; 0]);

    let alias = ["network", "connect", "--alias", "twin", "back", "mover"];
    cluster.ask(0, &alias)?;
    assert_eq!(interfaces(cluster, 0, "mover")?, ["eth0", "eth1"]);
    on_both(cluster)?;
    let shown = cluster.list(0, &["ps"])?;
    ensure!(shown[0]["Networks"] == "front,back", "{shown:?}");
    let again = cluster.refused(0, &alias)?;
    ensure!(again.said.contains("already"), "{again:?}");
    let unknown = cluster.refused(0, &["network", "connect", "nowhere", "mover"])?;
    ensure!(unknown.said.contains("nowhere"), "{unknown:?}");
    let nobody = cluster.refused(0, &["network", "connect", "back", "nobody"])?;
    ensure!(nobody.said.contains("nobody"), "{nobody:?}");

    // Both ways of a restart: with a moment to say goodbye, and without.
    cluster.kill(0)?;
    cluster.start(0, &kind)?;
    on_both(cluster)?;

    // The first of its networks, after which its namespace is named.
    cluster.ask(0, &["network", "disconnect", "front", "mover"])?;
    off_front(cluster)?;
    let again = cluster.refused(0, &["network", "disconnect", "front", "mover"])?;
    ensure!(again.said.contains("not connected"), "{again:?}");
    let last = cluster.refused(0, &["network", "disconnect", "back", "mover"])?;
    ensure!(last.said.contains("only network"), "{last:?}");
    cluster.kill(0)?;
    cluster.start(0, &kind)?;
    off_front(cluster)?;

    // Back again, with an address of its choice.
    let subnet = cluster.inspect(0, "front")?["IPAM"]["Config"][0]["Subnet"].clone();
    let subnet = subnet.as_str().and_then(|text| text.split_once(".0/"));
    let wanted = format!("{}.77", subnet.context("no subnet")?.0);
    let connect = ["network", "connect", "--ip", &wanted, "front", "mover"];
    cluster.ask(0, &connect)?;
    assert_eq!(addresses(cluster, 0, "mover")?[0], wanted);
    assert_eq!(interfaces(cluster, 0, "mover")?, ["eth0", "eth1"]);
    on_both(cluster)?;
    cluster.ask(0, &["rm", "-f", "mover"])?;
    for name in ["fore", "rear"] {
        cluster.ask(1, &["rm", "-f", name])?;
    }
    nothing_left(cluster, &["front", "back"])
}

fn on_both(cluster: &Cluster) -> anyhow::Result<()> {
    for to in ["fore", "rear"] {
        cluster.reach(PATIENCE, 0, "mover", to)?;
    }
    cluster.reach(PATIENCE, 1, "fore", "mover")?;
    cluster.reach(PATIENCE, 1, "rear", "mover")?;
    Ok(())
}

fn off_front(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.reach(PATIENCE, 0, "mover", "rear")?;
    cluster.reach(PATIENCE, 1, "rear", "twin")?;
    resolves(cluster, 0, "mover", "fore", 0)?;
    resolves(cluster, 1, "fore", "mover", 0)?;
    assert_eq!(interfaces(cluster, 0, "mover")?, ["eth1"]);
    let fore = &addresses(cluster, 1, "fore")?[0];
    ensure!(!cluster.pings(0, "mover", fore)?.status.success());
    Ok(())
}

/// Neither an address nor a process is left of what was on the networks.
fn nothing_left(cluster: &Cluster, networks: &[&str]) -> anyhow::Result<()> {
    for network in networks {
        eventually(PATIENCE, &format!("the end of {network}"), || {
            cluster.ask(0, &["network", "rm", network]).map(Some)
        })?;
    }
    for host in [0, 1] {
        let endpoints = cluster.data(host).join("endpoints");
        eventually(PATIENCE, "the end of all holders", || {
            let left: Result<Vec<_>, _> = std::fs::read_dir(&endpoints)?.collect();
            Ok(left?.is_empty().then_some(()))
        })?;
        let programs: Vec<Value> = cluster.list(host, &["ps", "-a"])?;
        ensure!(programs.is_empty(), "{programs:?}");
    }
    Ok(())
}

/// Three endpoints are attached one after the other: whenever the daemon dies, all of them stay with their program, or none.
fn killed(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start(0, &[])?;
    cluster.ask(0, &["init"])?;
    let networks = ["front", "back", "third"];
    for network in networks {
        cluster.ask(0, &["network", "create", "--attachable", network])?;
    }
    for milliseconds in [5, 15, 25, 30, 35, 40, 50, 60, 80, 100] {
        let name = format!("web{milliseconds}");
        let mut words = vec!["run", "-d", "--name", &name];
        words.extend(networks.iter().flat_map(|network| ["--network", *network]));
        words.extend(["--", "sleep", "86400"]);
        let mut run = cluster.command(0, &words);
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_millis(milliseconds));
        cluster.kill(0)?;
        run.wait()?;
        cluster.start(0, &[])?;
        let what = format!("all or nothing of a run, {milliseconds} ms before a kill");
        eventually(PATIENCE, &what, || {
            let mut attached = 0;
            for network in networks {
                let found = cluster.inspect(0, network)?.to_string();
                attached += usize::from(found.contains(&name));
            }
            let programs = cluster.list(0, &["ps", "-a"])?.len();
            let folders = std::fs::read_dir(cluster.data(0).join("endpoints"));
            let folders = folders.map_or(0, |entries| {
                let names = entries.flatten().map(|entry| entry.file_name());
                names.filter(|name| *name != "way-out").count()
            });
            let state = (programs, attached, folders);
            Ok((state == (1, 3, 3) || state == (0, 0, 0)).then_some(()))
        })?;
        if cluster.list(0, &["ps"])?.len() == 1 {
            cluster.ask(0, &["exec", &name, "--", "true"])?;
            cluster.ask(0, &["rm", "-f", &name])?;
        }
    }
    Ok(())
}
