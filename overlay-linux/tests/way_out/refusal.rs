//! Where there is no way out, the endpoint works without, and it is said why.

use std::{env, fs, path::PathBuf, process::Command};

use nix::{
    sched::{CloneFlags, unshare},
    unistd,
};
use overlay_core::plane::{NoWayOut, Platform, WayOutState};

use super::{
    FOLDER, Outcome, Story,
    node::{BRIDGE, Node, WORLD, host, spec, succeed},
    reach, say,
};

pub(crate) const STORIES: &[(&str, Story)] = &[
    ("without_the_privilege_it_is_said_so", unprivileged),
    ("the_right_over_the_network_is_enough", network_alone),
    ("a_bridge_of_somebody_else_is_used_or_refused", foreign),
    ("what_cannot_be_is_refused", invalid),
];

/// In a user namespace that does not own the host's network.
pub(crate) fn without_privilege() -> Outcome<()> {
    let (user, group) = (unistd::geteuid(), unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    let (mut node, spec) = (Node::named("unprivileged")?, spec(2)?);
    let state = node.make(&[&spec])?;
    let WayOutState::Closed(reason @ NoWayOut::Privilege { .. }) = &state else {
        return Err(format!("{state:?}").into());
    };
    let said = reason.to_string();
    assert!(
        said.starts_with("no privilege over the host's network: "),
        "{said}"
    );
    // The port is good.
    let (ran, shown) = node.run(&spec, &["ip", "address", "show", "dev", "eth0"])?;
    assert!(ran && shown.contains("10.0.1.2/24"), "{shown}");
    let actual = node.linux.actual()?;
    let port = actual.get(&spec.endpoint).ok_or("no port")?;
    assert_eq!(port.way_out, Some(state.clone()));
    assert!(node.linux.address_from_host(spec.endpoint).is_err());
    // It is tried again, and nothing is said to have changed.
    assert_eq!(node.apply(&spec)?, []);
    assert_eq!(node.make(&[&spec])?, state);
    node.linux.remove_port(spec.endpoint)?;
    Ok(())
}

fn unprivileged() -> Outcome<()> {
    let before = succeed("ip -o link")?;
    let part = |name| -> Outcome<bool> {
        let mut command = Command::new(env::current_exe()?);
        Ok(command.args(["part", name]).status()?.success())
    };
    assert!(part("without_privilege")?);
    assert_eq!(succeed("ip -o link")?, before);
    // Nor does it take away what the host's root has made.
    let (mut node, other) = (Node::new()?, spec(3)?);
    if !node.make_or_skip(&[&other])? {
        return Ok(());
    }
    assert!(part("without_privilege")?);
    assert_eq!(node.state(&other)?, WayOutState::Open);
    assert!(node.pings(&other, WORLD)?);
    Ok(())
}

/// An ordinary user with one capability: endpoints are in user namespaces, and the host's side is made all the same.
fn network_alone() -> Outcome<()> {
    let folder = PathBuf::from(env::var_os(FOLDER).ok_or("no folder")?).join("nobody");
    fs::create_dir(&folder)?;
    // In a user namespace there may be nobody else.
    let mine = std::os::unix::fs::chown(&folder, Some(65_534), Some(65_534));
    if mine.is_err() || !host("setpriv --version").is_ok_and(|(there, _)| there) {
        say("SKIPPED: the_right_over_the_network_is_enough: no other user, or no setpriv");
        return Ok(());
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"])
        .arg(env::current_exe()?)
        .args(["part", reach::STORIES[0].0])
        .env(FOLDER, &folder);
    assert!(command.status()?.success());
    Ok(())
}

fn foreign() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    node.linux.remove_port(spec.endpoint)?;
    succeed(&format!("ip link add {BRIDGE} type veth peer name other"))?;
    let refused = |node: &mut Node, why: &str| -> Outcome<()> {
        match node.make(&[&spec])? {
            WayOutState::Closed(NoWayOut::Bridge { bridge, reason }) => {
                assert_eq!((bridge.as_str(), reason.contains(why)), (BRIDGE, true));
                Ok(())
            }
            other => Err(format!("{why}: {other:?}").into()),
        }
    };
    refused(&mut node, "is no bridge")?;
    succeed(&format!("ip link delete {BRIDGE}"))?;
    succeed(&format!("ip link add {BRIDGE} type bridge"))?;
    succeed(&format!("ip address add 172.20.0.1/16 dev {BRIDGE}"))?;
    refused(&mut node, "without the address 172.18.0.1/16")?;
    succeed(&format!("ip address add 172.18.0.1/16 dev {BRIDGE}"))?;
    refused(&mut node, "it is down")?;
    succeed(&format!("ip link set {BRIDGE} up"))?;
    assert_eq!(node.make(&[&spec])?, WayOutState::Open);
    assert!(node.pings(&spec, WORLD)?);
    node.linux.remove_port(spec.endpoint)?;
    let shown = succeed(&format!("ip address show dev {BRIDGE}"))?;
    assert!(
        shown.contains("172.18.0.1/16") && shown.contains("172.20.0.1/16"),
        "{shown}"
    );
    Ok(())
}

fn invalid() -> Outcome<()> {
    let (mut node, mut spec) = (Node::new()?, spec(2)?);
    let before = succeed("ip -o link")?;
    if let Some(way) = &mut spec.way_out {
        way.address = "172.19.0.2/16".parse()?;
    }
    let state = node.make(&[&spec])?;
    assert!(
        matches!(state, WayOutState::Closed(NoWayOut::Invalid { .. })),
        "{state:?}"
    );
    // The name is the port's own.
    if let Some(way) = &mut spec.way_out {
        way.address = "172.18.0.2/16".parse()?;
        way.interface = "eth0".into();
    }
    let state = node.make(&[&spec])?;
    assert!(matches!(state, WayOutState::Closed(_)), "{state:?}");
    assert_eq!(succeed("ip -o link")?, before);
    let (_, shown) = node.run(&spec, &["ip", "address", "show", "dev", "eth0"])?;
    assert!(shown.contains("10.0.1.2/24"), "{shown}");
    Ok(())
}
