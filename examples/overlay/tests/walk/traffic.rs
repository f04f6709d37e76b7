//! TCP and UDP between hosts, over both kinds of port.

use std::path::Path;

use anyhow::{Context as _, ensure};
use overlay_linux::capabilities;
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, eventually, say},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "tcp_and_udp_pass_over_tap_ports",
        hosts: 2,
        programs: &["iperf3"],
        tell: |cluster| traffic(cluster, "tap"),
    },
    Story {
        name: "tcp_and_udp_pass_over_packet_ports",
        hosts: 2,
        programs: &["iperf3"],
        tell: |cluster| traffic(cluster, "packet"),
    },
];

fn traffic(cluster: &mut Cluster, kind: &str) -> anyhow::Result<()> {
    let possible = capabilities(Path::new(OVERLAY))?;
    let verdict = if kind == "tap" {
        &possible.tap
    } else {
        &possible.packet
    };
    if !verdict.is_possible() {
        say(&format!("SKIPPED: {kind} ports: {verdict}"));
        return Ok(());
    }
    for host in [0, 1] {
        cluster.start(host, &["--port-kind", kind])?;
    }
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    cluster.sleep(1, "my-net", "client")?;
    let tcp = iperf(cluster, "tcp", &["-t", "1"])?;
    let received = &tcp["end"]["sum_received"];
    let bytes = received["bytes"].as_u64().context("bytes")?;
    let bits = received["bits_per_second"].as_f64().context("speed")?;
    say(&format!(
        "TCP over {kind}: {bytes} octets, {:.0} Mbit/s",
        bits / 1e6
    ));
    ensure!(bytes > 0, "nothing arrived: {tcp}");
    let udp = iperf(cluster, "udp", &["-u", "-b", "10M", "-t", "1"])?;
    let sum = &udp["end"]["sum"];
    let count = |name: &str| sum[name].as_u64().with_context(|| format!("{name}: {udp}"));
    let (packets, lost) = (count("packets")?, count("lost_packets")?);
    say(&format!(
        "UDP over {kind}: {packets} datagrams, {lost} lost"
    ));
    ensure!(packets > lost, "nothing arrived: {udp}");
    Ok(())
}

/// Runs a server for one client on the first host, and the client on the second.
fn iperf(cluster: &Cluster, server: &str, how: &[&str]) -> anyhow::Result<Value> {
    let run = ["run", "-d", "--name", server, "--network", "my-net", "--"];
    cluster.ask(0, &[&run[..], &["iperf3", "-s", "-1"]].concat())?;
    let client = ["exec", "client", "--", "iperf3", "-J", "-c", server];
    let words = [&client[..], how].concat();
    // Until the server listens. Told as JSON, a failure is no failure by the exit status.
    eventually(PATIENCE, "a run of iperf3", || {
        let told: Value = serde_json::from_str(&cluster.ask(1, &words)?)?;
        ensure!(told["error"].is_null(), "iperf3: {}", told["error"]);
        Ok(Some(told))
    })
}
