//! A way out comes, is taken up by the daemon's next life, is repaired, and goes.

use std::{env, fs, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_core::plane::{NoWayOut, Platform, PlatformError, PortSpec, WayOutState};
use overlay_linux::CommandSpec;

use super::{
    Outcome, Story,
    node::{BRIDGE, Node, WORLD, forwards, has_nft, pause, spec, succeed},
};

pub(crate) const STORIES: &[(&str, Story)] = &[
    ("a_restarted_daemon_takes_it_up", restarted),
    ("a_lost_holder_leaves_nothing_in_the_way", lost_holder),
    ("what_is_taken_away_is_made_again", repaired),
    ("with_the_last_port_all_of_it_goes", removed),
    ("it_comes_and_goes_while_programs_run", live),
    ("another_bridge_takes_the_place_of_the_former", moved),
];

/// Makes an endpoint with a program, and ends.
pub(crate) fn first_life() -> Outcome<()> {
    let mut node = Node::new()?;
    let spec = spec(2)?;
    node.make_or_skip(&[&spec])?;
    let sleep = CommandSpec::new("/bin/sleep").args(["1000"]);
    node.linux.start(spec.endpoint, sleep)?;
    Ok(())
}

fn index(node: &Node, spec: &PortSpec) -> Outcome<String> {
    let (_, text) = node.run(spec, &["ip", "-o", "link", "show", "eth1"])?;
    assert!(text.contains("eth1"), "{text}");
    Ok(text)
}

fn restarted() -> Outcome<()> {
    let mut first = Command::new(env::current_exe()?);
    assert!(first.args(["part", "first_life"]).status()?.success());
    let (mut node, spec) = (Node::new()?, spec(2)?);
    let found = node.linux.list()?;
    assert_eq!(found.len(), 1, "the memory is no endpoint");
    assert_eq!(found[0].spec, spec);
    // Without a word of the next life all is there already.
    let before = (index(&node, &spec)?, succeed("ip -o link")?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    assert_eq!((index(&node, &spec)?, succeed("ip -o link")?), before);
    assert_eq!(node.apply(&spec)?, []);
    assert!(node.linux.processes(spec.endpoint)?[0].exit.is_none());
    assert!(node.pings(&spec, WORLD)?);
    node.linux.remove_port(spec.endpoint)?;
    gone(&node)
}

fn lost_holder() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    kill_holder(&node)?;
    assert!(node.make_or_skip(&[&spec])?);
    assert!(node.pings(&spec, WORLD)?);
    kill_holder(&node)?;
    node.linux.remove_port(spec.endpoint)?;
    gone(&node)
}

/// Kills the one holder whose log is in the node's folder.
fn kill_holder(node: &Node) -> Outcome<()> {
    let mut holders = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let log = fs::read_link(entry.path().join("fd/2"));
        if log.is_ok_and(|log| log.starts_with(node.folder())) {
            holders.push(entry.file_name().to_string_lossy().parse()?);
        }
    }
    let [holder] = holders[..] else {
        return Err(format!("expected one holder, found {holders:?}").into());
    };
    kill(Pid::from_raw(holder), Signal::SIGKILL)?;
    for _ in 0..250 {
        let processes = node.linux.processes(spec(2)?.endpoint);
        if matches!(processes, Err(PlatformError::UnknownEndpoint { .. })) {
            return Ok(());
        }
        pause(20)?;
    }
    Err("the holder does not end".into())
}

fn repaired() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    assert_eq!(node.apply(&spec)?, []);
    let outer = format!("vo-{}", spec.endpoint.short());
    let damages = [
        format!("ip link delete {outer}"),
        format!("ip link set {outer} down"),
        format!("ip link set {outer} nomaster"),
        format!("ip link set {outer} type bridge_slave isolated off"),
        format!("ip link set {BRIDGE} down"),
        format!("ip address flush dev {BRIDGE}"),
        format!("ip link delete {BRIDGE}"),
    ];
    let rules = [
        "nft flush ruleset",
        "nft insert rule ip overlay forward drop",
        "nft flush chain ip overlay guard",
        "nft delete table ip overlay",
    ];
    let rules = rules.into_iter().map(str::to_owned);
    let rules = rules.filter(|_| has_nft()).collect();
    for damage in [damages.to_vec(), rules].concat() {
        succeed(&damage)?;
        let state = node.state(&spec)?;
        assert!(
            matches!(state, WayOutState::Closed(NoWayOut::Incomplete { .. })),
            "{damage}: {state:?}"
        );
        assert_ne!(node.apply(&spec)?, [], "{damage}");
        assert_eq!(node.state(&spec)?, WayOutState::Open, "{damage}");
        assert_eq!(node.apply(&spec)?, [], "{damage}");
        assert!(node.pings(&spec, WORLD)?, "{damage}");
    }
    for damage in [
        &["ip", "route", "delete", "default"][..],
        &["ip", "address", "flush", "dev", "eth1"],
        &["ip", "link", "set", "eth1", "down"],
        &["ip", "link", "delete", "eth1"],
    ] {
        let (done, text) = node.run(&spec, damage)?;
        assert!(done, "{damage:?}: {text}");
        assert_ne!(node.apply(&spec)?, [], "{damage:?}");
        assert_eq!(node.apply(&spec)?, [], "{damage:?}");
        assert!(node.pings(&spec, WORLD)?, "{damage:?}");
    }
    for interface in ["eth0", BRIDGE] {
        let setting = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
        fs::write(setting, "0")?;
        assert!(!node.pings(&spec, WORLD)?, "{interface}");
        assert_ne!(node.apply(&spec)?, [], "{interface}");
        assert!(node.pings(&spec, WORLD)?, "{interface}");
    }
    // Who was opened is known although the rules that said so were flushed.
    node.linux.remove_port(spec.endpoint)?;
    gone(&node)
}

fn removed() -> Outcome<()> {
    let (mut node, one, other) = (Node::new()?, spec(2)?, spec(3)?);
    let before = succeed("ip -o link")?;
    if !node.make_or_skip(&[&one, &other])? {
        return Ok(());
    }
    for name in [one.endpoint.short(), other.endpoint.short()] {
        let end = succeed(&format!("ip -o link show vo-{name}"))?;
        assert!(
            end.contains("state UP"),
            "ready from the first packet on: {end}"
        );
    }
    let mac = "02:42:ac:12:00:01";
    assert!(succeed(&format!("ip -o link show {BRIDGE}"))?.contains(mac));
    node.linux.remove_port(one.endpoint)?;
    assert!(node.pings(&other, WORLD)?);
    let links = succeed("ip -o link")?;
    assert!(!links.contains(&one.endpoint.short()), "{links}");
    assert!(links.contains(mac), "whoever comes and goes: {links}");
    node.linux.remove_port(other.endpoint)?;
    gone(&node)?;
    assert_eq!(succeed("ip -o link")?, before);
    // And it comes again.
    assert!(node.make_or_skip(&[&one])?);
    assert!(node.pings(&one, WORLD)?);
    Ok(())
}

/// Nothing is left of it on the host.
fn gone(node: &Node) -> Outcome<()> {
    let links = succeed("ip -o link")?;
    assert!(!links.contains(BRIDGE) && !links.contains("vo-"), "{links}");
    if has_nft() {
        assert_eq!(succeed("nft list ruleset")?, "");
    }
    assert!(!forwards("eth0")?);
    assert_eq!(fs::read_dir(node.folder())?.count(), 0);
    Ok(())
}

fn live() -> Outcome<()> {
    let (mut node, mut spec) = (Node::new()?, spec(2)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    let sleep = CommandSpec::new("/bin/sleep").args(["1000"]);
    node.linux.start(spec.endpoint, sleep)?;
    let way = spec.way_out.take();
    node.linux.create_port(&spec)?;
    assert_eq!(node.linux.way_out(spec.endpoint)?, None);
    assert!(!node.pings(&spec, WORLD)?);
    gone_but_for_the_port(&node)?;
    assert_eq!(node.linux.list()?[0].spec, spec, "it is remembered so");
    spec.way_out = way;
    assert_eq!(node.make(&[&spec])?, WayOutState::Open);
    assert!(node.pings(&spec, WORLD)?);
    // Another address and another MTU.
    if let Some(way) = &mut spec.way_out {
        way.address = "172.18.0.99/16".parse()?;
        way.mtu = 1400;
    }
    assert_eq!(node.make(&[&spec])?, WayOutState::Open);
    let (_, shown) = node.run(&spec, &["ip", "address", "show", "dev", "eth1"])?;
    assert!(
        shown.contains("172.18.0.99/16") && shown.contains("mtu 1400"),
        "{shown}"
    );
    assert!(!shown.contains("172.18.0.2/16"), "{shown}");
    assert!(node.pings(&spec, WORLD)?);
    assert_eq!(node.linux.list()?[0].spec, spec);
    assert!(node.linux.processes(spec.endpoint)?[0].exit.is_none());
    Ok(())
}

fn gone_but_for_the_port(node: &Node) -> Outcome<()> {
    let links = succeed("ip -o link")?;
    assert!(!links.contains(BRIDGE) && !links.contains("vo-"), "{links}");
    assert_eq!(fs::read_dir(node.folder())?.count(), 1);
    Ok(())
}

fn moved() -> Outcome<()> {
    let (mut node, mut one, mut other) = (Node::new()?, spec(2)?, spec(3)?);
    if !node.make_or_skip(&[&one, &other])? {
        return Ok(());
    }
    for spec in [&mut one, &mut other] {
        if let Some(way) = &mut spec.way_out {
            way.bridge = "gw2".into();
            way.gateway = "172.19.0.1/24".parse()?;
            let last = way.address.addr().octets()[3];
            way.address = format!("172.19.0.{last}/24").parse()?;
        }
    }
    // A host has one: as long as somebody is on the former, there is no other.
    let closed = node.make(&[&one])?;
    assert!(
        matches!(&closed, WayOutState::Closed(NoWayOut::Bridge { bridge, .. }) if bridge == "gw2"),
        "{closed:?}"
    );
    assert_eq!(node.make(&[&other])?, WayOutState::Open);
    let opened = node.apply(&one)?;
    assert_ne!(opened, [], "the next try succeeds");
    assert_eq!(node.state(&one)?, WayOutState::Open);
    assert!(node.pings(&one, WORLD)? && node.pings(&other, WORLD)?);
    let links = succeed("ip -o link")?;
    assert!(!links.contains(BRIDGE) && links.contains("gw2"), "{links}");
    Ok(())
}
