//! Services behind virtual addresses: asked by programs on every host, while tasks come and go.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    Story,
    networks::resolve,
    services::{create, host_of, remove, settled, start},
    support::{Cluster, OVERLAY, PATIENCE, eventually, say},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "a_service_is_reached_by_its_virtual_address",
        hosts: 3,
        programs: &["getent", "ping"],
        tell: addressed,
    },
    Story {
        name: "a_connection_to_a_virtual_address_outlives_other_tasks",
        hosts: 3,
        programs: &["iperf3"],
        tell: outlived,
    },
    Story {
        name: "a_connection_to_a_virtual_address_outlives_the_daemons",
        hosts: 3,
        programs: &["iperf3", "sh"],
        tell: restarted,
    },
    Story {
        name: "a_virtual_address_leads_past_a_lost_host",
        hosts: 3,
        programs: &[],
        tell: lost,
    },
];

const THREE: &[&str] = &["--replicas", "3", "--detach"];

fn addressed(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    create(cluster, THREE, &[OVERLAY, "httpd", "--port", "8000"])?;
    let tasks = settled(cluster, 0, 3, "three running tasks", |_| true)?;
    let own: BTreeSet<_> = tasks.iter().map(address_of).collect::<Result<_, _>>()?;
    let all = BTreeSet::from(["web.1", "web.2", "web.3"].map(str::to_owned));
    for host in 0..3 {
        cluster.sleep(host, "my-net", &client(host))?;
        // The service's name leads to one address, and that is no task's.
        let from = client(host);
        let found = eventually(PATIENCE, "one address", || {
            let found = resolve(cluster, host, &from, "web")?;
            Ok((found.len() == 1).then_some(found))
        })?;
        let address = &found[0];
        ensure!(!own.contains(address), "{address} is a task's: {own:?}");
        let named = resolve(cluster, host, &from, "tasks.web")?;
        let named: BTreeSet<_> = named.into_iter().collect();
        ensure!(named == own, "{named:?}, not {own:?}");
        cluster.reach(PATIENCE, host, &from, "web")?;
        let mut told = BTreeSet::new();
        // They run before they listen.
        eventually(PATIENCE, "pages of all tasks", || {
            told.extend(ask(cluster, host)?);
            Ok((told == all).then_some(()))
        })?;
        for _ in 0..20 {
            ask(cluster, host)?.context("a request failed")?;
        }
    }
    // Where no task is left, nobody is sent.
    cluster.ask(1, &["service", "scale", "web=1"])?;
    let left = settled(cluster, 0, 1, "one running task", |_| true)?;
    let left = left[0]["Name"].as_str().context("no name")?.to_owned();
    for host in 0..3 {
        let mut row = 0;
        eventually(PATIENCE, "twenty pages of the task that is left", || {
            row = if ask(cluster, host)?.as_ref() == Some(&left) {
                row + 1
            } else {
                0
            };
            Ok((row == 20).then_some(()))
        })?;
    }
    round_robin(cluster)?;
    remove_clients(cluster)?;
    remove(cluster)
}

/// A service without a virtual address: its name leads to its tasks.
fn round_robin(cluster: &Cluster) -> anyhow::Result<()> {
    let words = ["service", "create", "--name", "many", "--network", "my-net"];
    let more = ["--endpoint-mode", "dnsrr", "--replicas", "2", "--", OVERLAY];
    cluster.ask(0, &[&words[..], &more, &["sleep", "1000"]].concat())?;
    eventually(PATIENCE, "the addresses of both tasks", || {
        let found = resolve(cluster, 1, "client1", "many")?;
        Ok(
            (found.len() == 2 && found == resolve(cluster, 2, "client2", "tasks.many")?)
                .then_some(()),
        )
    })?;
    cluster.ask(0, &["service", "rm", "many"])?;
    Ok(())
}

fn outlived(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    create(cluster, &["--detach"], &["iperf3", "-s"])?;
    let task = settled(cluster, 0, 1, "a running task", |_| true)?;
    let home = host_of(task.first().context("no task")?)?;
    for host in [home, (home + 1) % 3] {
        cluster.sleep(host, "my-net", &client(host))?;
        eventually(PATIENCE, "a server that listens", || {
            let words = ["exec", &client(host), "--", "iperf3", "-J", "-n", "1K"];
            let output = cluster.run(host, &[&words[..], &["-c", "web"]].concat())?;
            let told: Value = serde_json::from_slice(&output.stdout)?;
            Ok(told["error"].is_null().then_some(()))
        })?;
        for how in [&["-t", "4"][..], &["-u", "-b", "10M", "-t", "2"]] {
            let words = ["exec", &client(host), "--", "iperf3", "-J", "-c", "web"];
            let mut running = cluster.command(host, &[&words[..], how].concat());
            let running = std::thread::spawn(move || running.output());
            std::thread::sleep(Duration::from_millis(700));
            // Others come and go, on other hosts and on this one.
            cluster.ask(0, &["service", "scale", "web=4"])?;
            settled(cluster, 0, 4, "four running tasks", |_| true)?;
            cluster.ask(0, &["service", "scale", "web=1"])?;
            let output = running.join().expect("it does not panic")?;
            let told: Value = serde_json::from_slice(&output.stdout)?;
            ensure!(told["error"].is_null(), "iperf3: {}", told["error"]);
            let end = &told["end"];
            let sum = if end["sum_received"].is_null() {
                &end["sum"]
            } else {
                &end["sum_received"]
            };
            let bits = sum["bits_per_second"].as_f64().context("speed")?;
            ensure!(bits > 0.0, "nothing arrived: {sum}");
            say(&format!(
                "{how:?} by a virtual address: {:.0} Mbit/s",
                bits / 1e6
            ));
            settled(cluster, 0, 1, "one running task", |_| true)?;
        }
    }
    remove_clients(cluster)?;
    remove(cluster)
}

/// The daemons of both ends are killed and started anew under a connection.
fn restarted(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    create(cluster, &["--detach"], &["iperf3", "-s"])?;
    let tasks = settled(cluster, 0, 1, "a running task", |_| true)?;
    let home = host_of(tasks.first().context("no task")?)?;
    let away = (home + 1) % 3;
    // A program of its own, which outlives the daemon as its task does; the server runs before it listens.
    let said = cluster.path("pump.json");
    let script = format!(
        "sleep 2; iperf3 -J -b 5M -t 14 -c web > {0}.part; mv {0}.part {0}",
        said.display()
    );
    let words = ["run", "-d", "--name", "pump", "--network", "my-net"];
    cluster.ask(away, &[&words[..], &["--", "sh", "-c", &script]].concat())?;
    std::thread::sleep(Duration::from_secs(2));
    for host in [away, home] {
        std::thread::sleep(Duration::from_millis(1_500));
        cluster.kill(host)?;
        cluster.start(host, &[])?;
        std::thread::sleep(Duration::from_millis(3_500));
    }
    let text = eventually(PATIENCE, "the end of the transfer", || {
        Ok(std::fs::read_to_string(&said).ok())
    })?;
    let told: Value = serde_json::from_str(&text)?;
    ensure!(told["error"].is_null(), "iperf3: {}", told["error"]);
    let bytes = told["end"]["sum_received"]["bytes"]
        .as_u64()
        .context("bytes")?;
    say(&format!(
        "5 Mbit/s for 14 s, both daemons killed once: {bytes} octets"
    ));
    ensure!(bytes > 4_000_000, "it stood still: {bytes}");
    Ok(())
}

fn lost(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    create(cluster, THREE, &[OVERLAY, "httpd", "--port", "8000"])?;
    settled(cluster, 0, 3, "three running tasks", |_| true)?;
    cluster.sleep(0, "my-net", &client(0))?;
    eventually(PATIENCE, "a page", || ask(cluster, 0))?;
    cluster.lab.set_link(2, false)?;
    let began = std::time::Instant::now();
    let (mut failed, mut row) = (0, 0);
    let until = eventually(PATIENCE, "thirty pages in a row", || {
        match ask(cluster, 0)? {
            Some(_) => row += 1,
            None => (failed, row) = (failed + 1, 0),
        }
        Ok((row == 30).then(|| began.elapsed()))
    })?;
    say(&format!(
        "a host lost: {failed} requests failed; thirty in a row were answered after {until:?}"
    ));
    Ok(())
}

fn client(host: usize) -> String {
    format!("client{host}")
}

fn remove_clients(cluster: &Cluster) -> anyhow::Result<()> {
    for host in 0..3 {
        cluster.run(host, &["rm", "-f", &client(host)])?;
    }
    Ok(())
}

/// Fetches the service's page and returns which task wrote it; `None` if nobody did.
fn ask(cluster: &Cluster, host: usize) -> anyhow::Result<Option<String>> {
    let words = [
        "exec",
        &client(host),
        "--",
        OVERLAY,
        "get",
        "--timeout",
        "2",
        "web:8000",
    ];
    let output = cluster.run(host, &words)?;
    let page = String::from_utf8_lossy(&output.stdout);
    let task = page.lines().find_map(|line| line.strip_prefix("task: "));
    Ok(task.map(str::to_owned))
}

fn address_of(task: &Value) -> anyhow::Result<String> {
    let address = task["Addresses"].as_str().context("no address")?;
    Ok(address.split('/').next().unwrap_or(address).to_owned())
}
