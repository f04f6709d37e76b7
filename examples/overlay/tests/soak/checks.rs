//! What is looked at after each round, on every host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, ensure};

use crate::{
    desired::{Desired, Endpoint},
    flows::watcher,
    orders::{Program, Running},
    support::{Cluster, name},
    tables::{self, same},
    world::{HOSTS, NETWORKS, SERVICE, is_kernel},
};

/// The managers know of exactly those programs that run, and of as many tasks as there shall be.
pub(crate) fn state(
    desired: &Desired,
    programs: &[Program],
    flows: &BTreeMap<String, usize>,
    replicas: usize,
) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    for host in 0..HOSTS {
        wanted.insert((watcher(host), host, 0));
    }
    for (flow, host) in flows {
        wanted.insert((flow.clone(), *host, 0));
    }
    for program in programs {
        if let Some(place) = &program.place {
            let networks = place.networks.iter();
            wanted.extend(networks.map(|network| (program.name.clone(), place.host, *network)));
        }
    }
    let all = desired.endpoints.iter();
    let (tasks, others): (Vec<&Endpoint>, Vec<_>) = all.partition(|one| is_task(one));
    let found = others.into_iter();
    let found = found.map(|one| (one.name.clone(), one.host, one.network));
    same("the managers", "endpoints", &found.collect(), &wanted)?;
    ensure!(
        tasks.len() == replicas,
        "{} tasks, not {replicas}: {tasks:?}",
        tasks.len()
    );
    Ok(())
}

fn is_task(endpoint: &Endpoint) -> bool {
    endpoint.name.starts_with(&format!("{SERVICE}."))
}

/// The tables of all hosts are what is desired, and the interfaces of their programs.
pub(crate) fn tables(
    cluster: &mut Cluster,
    desired: &Desired,
    gone: &[Endpoint],
) -> anyhow::Result<()> {
    for host in 0..HOSTS {
        if is_kernel(host) {
            tables::kernel(cluster, host, desired)?;
        } else {
            tables::user(cluster, host, desired, gone)?;
        }
        tables::interfaces(cluster, host, desired)?;
    }
    Ok(())
}

/// Nothing is left of what is gone: no folders, holders, interfaces, programs.
pub(crate) fn leftovers(
    cluster: &mut Cluster,
    desired: &Desired,
    programs: &[Program],
) -> anyhow::Result<()> {
    for host in 0..HOSTS {
        let at = name(host);
        let wanted: BTreeSet<String> = desired.at(host).map(|one| one.id.clone()).collect();
        let folder = cluster.data(host).join("endpoints");
        let mut folders = BTreeSet::new();
        let mut named = BTreeSet::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let endpoint = entry.file_name().to_string_lossy().into_owned();
            if endpoint == "way-out" {
                continue;
            }
            if !entry.file_type()?.is_symlink() {
                named.insert(endpoint.clone());
            }
            folders.insert(endpoint);
        }
        let holders = holders(&folder)?;
        ensure!(
            named.is_superset(&holders) && holders.len() >= named.len(),
            "{at}: holders {holders:?}, folders {named:?}"
        );
        // The endpoint that gave a folder its name may have gone before others of its namespace.
        let gone = |one: &String| named.contains(one) && !wanted.contains(one);
        let gone: BTreeSet<_> = folders.iter().filter(|one| gone(one)).cloned().collect();
        let left = folders.difference(&gone).cloned().collect();
        same(&at, "endpoints with folders", &left, &wanted)?;
        for one in &gone {
            let mut links = folders.difference(&named);
            let leads = |link: &String| {
                let leads = fs::read_link(folder.join(link)).ok();
                leads.is_some_and(|to| to.ends_with(one))
            };
            ensure!(links.any(leads), "{at}: the folder of {one} is left");
        }
        let mut listed = BTreeSet::new();
        for row in cluster.list(host, &["ps", "-a"])? {
            ensure!(row["State"] == "running", "{at}: {row}");
            listed.insert(row["Names"].as_str().context("no name")?.to_owned());
        }
        let others = desired.at(host).filter(|one| !is_task(one));
        let mut others: BTreeSet<String> = others.map(|one| one.name.clone()).collect();
        let here = programs.iter();
        let here = here.filter(|one| one.place.as_ref().is_some_and(|place| place.host == host));
        others.extend(here.map(|one| one.name.clone()));
        same(&at, "programs", &listed, &others)?;
        interfaces(cluster, host, holders.len())?;
    }
    Ok(())
}

/// The endpoints whose holders run: their standard error is a file in their folder.
fn holders(folder: &std::path::Path) -> anyhow::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        let Ok(words) = fs::read(process.join("cmdline")) else {
            continue;
        };
        if !words
            .split(|octet| *octet == 0)
            .any(|word| word == b"overlay-holder")
        {
            continue;
        }
        let Ok(output) = fs::read_link(process.join("fd/2")) else {
            continue;
        };
        let path = output.to_string_lossy().into_owned();
        let Some(rest) = path.strip_prefix(&*folder.to_string_lossy()) else {
            continue;
        };
        let endpoint = rest.trim_start_matches('/').split('/').next();
        found.insert(endpoint.unwrap_or_default().to_owned());
    }
    Ok(found)
}

/// In the host's own namespace there is one way out for each namespace at most.
fn interfaces(cluster: &mut Cluster, host: usize, namespaces: usize) -> anyhow::Result<()> {
    let told = cluster.on_host_says(host, &["ip", "-o", "link"])?;
    let names: Vec<_> = told
        .lines()
        .filter_map(|line| line.split([':', '@']).nth(1).map(str::trim))
        .filter(|name| !matches!(*name, "lo" | "eth0"))
        .collect();
    // One is the bridge.
    ensure!(
        names.len() <= namespaces + 1,
        "{}: {namespaces} namespaces, {names:?}",
        name(host)
    );
    Ok(())
}

/// Every endpoint reaches all others of its networks by name, by both families, at their addresses; what is gone answers
/// nowhere.
pub(crate) fn reach(cluster: &Cluster, desired: &Desired, gone: &[Endpoint]) -> anyhow::Result<()> {
    let mut asked: BTreeMap<(String, usize), String> = BTreeMap::new();
    for from in &desired.endpoints {
        let script = asked.entry((from.name.clone(), from.host)).or_default();
        for to in desired.on(from.network).filter(|to| to.name != from.name) {
            for (family, address) in ["-4", "-6"].iter().zip(&to.addresses) {
                // A name may have addresses of several networks.
                let shared = (0..NETWORKS.len())
                    .flat_map(|network| desired.on(network))
                    .filter(|one| one.name == to.name)
                    .flat_map(|one| &one.addresses)
                    .filter(|one| one.is_ipv4() == address.is_ipv4());
                let shared: Vec<_> = shared.map(ToString::to_string).collect();
                let shared = shared.join("|");
                script.push_str(&format!(
                    "(ping {family} -nc1 -W2 {name} 2>&1 | grep -Eq 'from ({shared}):' || echo {name}:{family}) &\n\
                     (ping -nc1 -W2 {address} >/dev/null 2>&1 || echo {name}:{address}) &\n",
                    name = to.name
                ));
            }
        }
    }
    for ((name, host), script) in &mut asked {
        let gone = gone.iter().rev().filter(|one| {
            let here = desired.on(one.network);
            here.into_iter()
                .any(|here| here.name == *name && here.host == *host)
        });
        for one in gone.take(GONE_MAX) {
            script.push_str(&format!(
                "(ping -nc1 -W1 {name} >/dev/null 2>&1 && echo {name}, which is gone) &\n",
                name = one.name
            ));
            for address in &one.addresses {
                script.push_str(&format!(
                    "(ping -nc1 -W1 {address} >/dev/null 2>&1 && echo {address}, which is gone) &\n"
                ));
            }
        }
        script.push_str("wait\n");
    }
    let mut failures = Vec::new();
    // Not all at a time: the machine may be small.
    let asked: Vec<_> = asked.into_iter().collect();
    for some in asked.chunks(4) {
        let mut running = Vec::new();
        for ((name, host), script) in some {
            let words = ["exec", name, "--", "sh", "-c", script].map(str::to_owned);
            let one = Running::start(cluster, *host, words.to_vec())?;
            running.push((name, one));
        }
        for (from, mut one) in running {
            let (status, said) = loop {
                if let Some(ended) = one.poll()? {
                    break ended;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            };
            if !status.success() || !said.trim().is_empty() {
                let said: Vec<_> = said.lines().collect();
                failures.push(format!(
                    "{from} does not reach, or reaches: {said:?} ({status})"
                ));
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// How many of the gone are asked for.
const GONE_MAX: usize = 3;
