//! Workers, and nodes that change what they are.

use anyhow::ensure;
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, PATIENCE, eventually, name},
};

pub(crate) const STORIES: &[Story] = &[Story {
    name: "workers_join_are_promoted_and_demoted_and_leave",
    hosts: 3,
    programs: &["ping"],
    tell: roles,
}];

fn roles(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.ask(0, &["init"])?;
    for host in [1, 2] {
        let said = cluster.join(host, "worker")?;
        assert_eq!(said, "This node joined a cluster as a worker.\n");
        listed(cluster, host, "Ready", "")?;
    }
    worker(cluster)?;
    let (second, third) = (name(1), name(2));
    for host in [1, 2] {
        cluster.ask(0, &["node", "promote", &name(host)])?;
        listed(cluster, host, "Ready", "Reachable")?;
        // It answers as a manager, and its writes count.
        eventually(PATIENCE, "an answer of the new manager", || {
            cluster.ask(host, &["network", "create", &format!("of-{host}")])?;
            Ok(Some(()))
        })?;
    }
    for host in [1, 2] {
        cluster.ask(0, &["node", "demote", &name(host)])?;
        listed(cluster, host, "Ready", "")?;
        eventually(PATIENCE, "the refusal of a worker", || {
            Ok(cluster.refused(host, &["node", "ls"]).ok())
        })?;
    }
    // Still on the network, whatever its node is.
    cluster.reach(PATIENCE, 1, "alpine2", "alpine3")?;
    let early = cluster.refused(0, &["node", "rm", &third])?;
    ensure!(early.said.contains("not down"), "{early:?}");
    cluster.ask(2, &["rm", "-f", "alpine3"])?;
    cluster.ask(2, &["leave"])?;
    let left = cluster.refused(2, &["network", "ls"])?;
    ensure!(left.said.contains("not part of a cluster"), "{left:?}");
    // Whether it stays in the list until it is removed or not: it is not up any more.
    let row = eventually(PATIENCE, "the node to be gone or down", || {
        let nodes = cluster.nodes(0)?;
        let row = nodes.into_iter().find(|node| node["Hostname"] == third);
        Ok(row
            .as_ref()
            .is_none_or(|row| row["Status"] == "Down")
            .then_some(row))
    })?;
    if row.is_some() {
        cluster.ask(0, &["node", "rm", &third])?;
    }
    let last = cluster.refused(0, &["leave"])?;
    ensure!(last.said.contains("--force"), "{last:?}");
    let nodes = cluster.nodes(0)?;
    ensure!(nodes.len() == 2, "{nodes:?}");
    cluster.ask(0, &["node", "rm", "--force", &second])?;
    ensure!(cluster.nodes(0)?.len() == 1, "it is removed");
    // Who left joins again, as somebody new.
    cluster.join(2, "worker")?;
    listed(cluster, 2, "Ready", "")?;
    Ok(())
}

/// What a worker may do, and what not.
fn worker(cluster: &Cluster) -> anyhow::Result<()> {
    for words in [&["node", "ls"][..], &["join-token", "worker"]] {
        let refusal = cluster.refused(1, words)?;
        assert_eq!(refusal.code, 1);
        ensure!(refusal.said.contains("manager"), "{refusal:?}");
    }
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    cluster.ask(0, &["network", "create", "closed"])?;
    cluster.sleep(1, "my-net", "alpine2")?;
    cluster.sleep(2, "my-net", "alpine3")?;
    cluster.reach(PATIENCE, 1, "alpine2", "alpine3")?;
    let run = [
        "run",
        "-d",
        "--name",
        "no",
        "--network",
        "closed",
        "--",
        "true",
    ];
    let closed = cluster.refused(1, &run)?;
    ensure!(closed.said.contains("--attachable"), "{closed:?}");
    Ok(())
}

/// Waits until the first host lists another one so.
fn listed(cluster: &Cluster, host: usize, status: &str, manager: &str) -> anyhow::Result<()> {
    let what = format!("{} to be {status} {manager}", name(host));
    let mut last = Value::Null;
    let seen = eventually(PATIENCE, &what, || {
        let nodes = cluster.nodes(0)?;
        last = nodes
            .into_iter()
            .find(|node| node["Hostname"] == name(host))
            .unwrap_or_default();
        Ok((last["Status"] == status && last["ManagerStatus"] == manager).then_some(()))
    });
    seen.map_err(|error| error.context(last.to_string()))
}
