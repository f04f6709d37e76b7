//! Bad input: what is said, with which exit code, and what is left behind, which is nothing.

use std::fs;

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    support::{Cluster, Refusal, address},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "joins_that_cannot_be_are_refused_and_leave_nothing_behind",
        hosts: 2,
        programs: &[],
        tell: joins,
    },
    Story {
        name: "names_and_subnets_that_are_taken_are_refused",
        hosts: 2,
        programs: &[],
        tell: taken,
    },
    Story {
        name: "places_that_are_in_use_are_refused",
        hosts: 1,
        programs: &[],
        tell: places,
    },
    Story {
        name: "a_damaged_log_is_refused_with_file_offset_and_advice",
        hosts: 1,
        programs: &[],
        tell: damaged,
    },
];

/// Checks the exit code, and that the message says each of the things.
fn expect(refusal: &Refusal, code: i32, said: &[&str]) -> anyhow::Result<()> {
    let all = said.iter().all(|part| refusal.said.contains(part));
    ensure!(refusal.code == code && all, "{code}, {said:?}: {refusal:?}");
    ensure!(refusal.said.starts_with("overlay: "), "{refusal:?}");
    Ok(())
}

/// Replaces the last character of one part of a token by another.
fn forge(token: &str, part: usize) -> anyhow::Result<String> {
    let mut parts: Vec<_> = token.split('-').map(str::to_owned).collect();
    let last = parts
        .get_mut(part)
        .and_then(String::pop)
        .context("a token of four parts")?;
    parts[part].push(if last == '0' { '1' } else { '0' });
    Ok(parts.join("-"))
}

fn joins(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    let outside = cluster.refused(1, &["node", "ls"])?;
    expect(&outside, 1, &["not part of a cluster", "init", "join"])?;
    cluster.ask(0, &["init"])?;
    let again = cluster.refused(0, &["init"])?;
    expect(&again, 1, &["already", "leave"])?;
    let token = cluster.token("worker")?;
    let manager = format!("{}:2377", address(0));
    let nobody = format!("{}:2377", address(1));
    let nowhere = format!("{}:2377", address(50));
    let (digest, secret) = (forge(&token, 2)?, forge(&token, 3)?);
    let attempts: [(&str, &str, &[&str]); 5] = [
        (&secret, &manager, &["token", "join-token"]),
        (&digest, &manager, &["digest", "token"]),
        ("no-token", &manager, &["token"]),
        (&token, &nobody, &[&nobody]),
        (&token, &nowhere, &[&nowhere]),
    ];
    for (token, remote, said) in attempts {
        let refusal = cluster.refused(1, &["join", "--token", token, remote])?;
        expect(&refusal, 1, said)?;
        let info = cluster.ask(1, &["info", "--format", "json"])?;
        ensure!(info.contains(r#""LocalNodeState":"inactive""#), "{info}");
        ensure!(
            !cluster.data(1).join("node/node/identity.json").exists(),
            "an identity"
        );
    }
    ensure!(cluster.nodes(0)?.len() == 1, "nobody joined");
    // What was refused is in nobody's way.
    cluster.join(1, "manager")?;
    let twice = cluster.refused(1, &["join", "--token", &token, &manager])?;
    expect(&twice, 1, &["already", "leave"])
}

fn taken(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    subnets(cluster)?;
    endpoints(cluster)
}

fn subnets(cluster: &Cluster) -> anyhow::Result<()> {
    let create = |more: &[&str]| cluster.refused(1, &[&["network", "create"], more].concat());
    expect(
        &create(&["my-net"])?,
        1,
        &["\"my-net\" exists", "another name"],
    )?;
    for subnet in ["10.0.1.0/24", "10.0.1.128/25", "10.0.0.0/16"] {
        let overlap = create(&["--subnet", subnet, "other"])?;
        expect(&overlap, 1, &[subnet, "overlaps", "choose another"])?;
    }
    let usage = create(&["--subnet", "10.0.1.0/33", "other"])?;
    ensure!(
        usage.code == 2 && usage.said.contains("10.0.1.0/33"),
        "{usage:?}"
    );
    expect(
        &create(&["--gateway", "10.7.0.1", "other"])?,
        2,
        &["gateway", "--subnet"],
    )?;
    ensure!(
        cluster
            .list(0, &["network", "ls", "--filter", "scope=swarm"])?
            .len()
            == 2,
        "`ingress` and `my-net`"
    );
    Ok(())
}

fn endpoints(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.sleep(0, "my-net", "alpine1")?;
    for host in [0, 1] {
        expect(
            &attempt(cluster, host, "my-net", "alpine1")?,
            125,
            &["alpine1", "in use", "another"],
        )?;
    }
    expect(
        &attempt(cluster, 1, "nowhere", "lost")?,
        125,
        &["no network \"nowhere\"", "network ls"],
    )?;
    let inspect = cluster.refused(1, &["network", "inspect", "nowhere"])?;
    expect(&inspect, 1, &["no network \"nowhere\"", "network ls"])?;
    full(cluster)?;

    // Nothing half done: neither programs, nor addresses, nor endpoints.
    ensure!(
        cluster.list(1, &["ps", "-a"])?.is_empty(),
        "the other host runs nothing"
    );
    ensure!(
        cluster.list(0, &["ps", "-a"])?.len() == 2,
        "`alpine1` and `only`"
    );
    for (network, used) in [("my-net", 1), ("tiny", 1)] {
        let found = cluster.inspect(1, network)?;
        let endpoints = found["Containers"].as_object().map(serde_json::Map::len);
        assert_eq!(endpoints, Some(used), "{found}");
        assert_eq!(found["IPAM"]["Config"][0]["Used"], used, "{found}");
    }
    // The address that is given back is given out again.
    cluster.ask(0, &["rm", "-f", "only"])?;
    cluster.sleep(1, "tiny", "next").map(drop)
}

/// Asks for one endpoint too many on the smallest network there is.
fn full(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ask(
        0,
        &[
            "network",
            "create",
            "--attachable",
            "--subnet",
            "10.9.0.0/30",
            "tiny",
        ],
    )?;
    cluster.sleep(0, "tiny", "only")?;
    for host in [0, 1] {
        let full = attempt(cluster, host, "tiny", "surplus")?;
        expect(
            &full,
            125,
            &["no address is left", "\"tiny\"", "remove", "larger"],
        )?;
    }
    let busy = cluster.refused(0, &["network", "rm", "tiny"])?;
    expect(&busy, 1, &["in use", "only", "stop"])?;
    let absent = [
        "run",
        "--name",
        "ghost",
        "--network",
        "my-net",
        "--",
        "no-such-program",
    ];
    expect(
        &cluster.refused(1, &absent)?,
        127,
        &["no-such-program", "not found"],
    )?;
    Ok(())
}

/// Asks for a program that must be refused.
fn attempt(cluster: &Cluster, host: usize, network: &str, name: &str) -> anyhow::Result<Refusal> {
    let words = [
        "run",
        "-d",
        "--name",
        name,
        "--network",
        network,
        "--",
        "sleep",
        "9999",
    ];
    cluster.refused(host, &words)
}

fn places(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start(0, &[])?;
    cluster.ask(0, &["init"])?;
    let second = cluster.add(0);
    let taken = cluster.refuse_to_start(second, &cluster.data(0))?;
    for part in ["in use by the daemon with process number", "--data-dir"] {
        ensure!(taken.contains(part), "{part}: {taken}");
    }
    // A daemon without a cluster listens nowhere; it is told at `init`.
    cluster.start(second, &[])?;
    let port = cluster.refused(second, &["init"])?;
    expect(&port, 1, &["2377", "is another daemon running here?"])?;
    let info = cluster.ask(second, &["info", "--format", "json"])?;
    ensure!(info.contains(r#""LocalNodeState":"inactive""#), "{info}");
    cluster.ask(0, &["node", "ls"])?;
    cluster.kill(0)?;
    cluster.ask(second, &["init"])?;
    let port = cluster.refuse_to_start(0, &cluster.data(0))?;
    for part in ["2377", "is another daemon running here?"] {
        ensure!(port.contains(part), "{part}: {port}");
    }
    cluster.kill(second)?;
    cluster.start(0, &[])?;
    let gone = cluster.refused(second, &["info"])?;
    expect(&gone, 1, &["cannot connect", "overlay daemon", "--socket"])
}

fn damaged(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start(0, &[])?;
    cluster.ask(0, &["init"])?;
    for number in 0..8 {
        cluster.ask(0, &["network", "create", &format!("net-{number}")])?;
    }
    cluster.kill(0)?;
    let folder = cluster.data(0).join("node/raft");
    let segment = fs::read_dir(&folder)?.next().context("no segment")??;
    let whole = fs::read(segment.path())?;
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(segment.path(), &bytes)?;
    let said = cluster.refuse_to_start(0, &cluster.data(0))?;
    let file = segment.file_name().to_string_lossy().into_owned();
    for part in [&file, "offset", "damaged", "Restore", "join again"] {
        ensure!(said.contains(part), "{part}: {said}");
    }
    ensure!(
        fs::read(segment.path())? == bytes,
        "the refusal left the file as it is"
    );
    // The copy that the message asks for.
    fs::write(segment.path(), &whole)?;
    cluster.start(0, &[])?;
    let networks = cluster.list(0, &["network", "ls", "--filter", "scope=swarm"])?;
    ensure!(networks.len() == 9, "{networks:?}");
    Ok(())
}
