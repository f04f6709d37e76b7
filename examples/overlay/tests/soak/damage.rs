//! Damage by hand: in the namespace of a kernel plane's devices, and in those of endpoints.

use std::collections::BTreeSet;

use overlay_core::Rng;

use crate::{
    faults::Concern,
    support::{Cluster, words},
    tables::{Kernel, Row},
};

/// What was done, and to whose frames.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    pub(crate) kind: &'static str,
    pub(crate) what: String,
    pub(crate) concern: Concern,
}

/// Damages the switch of a host whose networks the kernel carries; nothing if there is nothing of the chosen kind.
pub(crate) fn switch(
    cluster: &mut Cluster,
    host: usize,
    random: &mut Rng,
) -> anyhow::Result<Option<Damage>> {
    let found = Kernel::read(cluster, host)?;
    let Some((kind, line)) = choose(&found, random) else {
        return Ok(None);
    };
    // Rules and rows of nobody are missed by nobody's frames.
    let harmless = matches!(kind, "foreign row" | "rules flushed");
    let concern = match harmless {
        true => Concern::Nobody,
        false => Concern::Host(host),
    };
    let switch = format!("--net={}", cluster.data(host).join("switch").display());
    let mut command = vec!["nsenter", &switch];
    command.extend(line.split(' '));
    // Somebody may have repaired or removed it already.
    let _ = cluster.on_host(host, &command);
    Ok(Some(Damage {
        kind,
        what: format!("host{}: {line}", host + 1),
        concern,
    }))
}

fn choose(found: &Kernel, random: &mut Rng) -> Option<(&'static str, String)> {
    match random.below(15) {
        0..8 => of_rows(found, random),
        8..14 => of_devices(found, random),
        _ => Some(("rules flushed", "nft flush ruleset".to_owned())),
    }
}

fn of_rows(found: &Kernel, random: &mut Rng) -> Option<(&'static str, String)> {
    let foreign = "02:66:66:66:66:66";
    Some(match random.below(9) {
        0 => {
            let (device, mac, vtep) = one(&found.tunnels, random)?;
            let line = format!("bridge fdb del {mac} dev {device} dst {vtep}");
            ("forwarding row deleted", line)
        }
        1 => {
            let (device, mac, _) = one(&found.tunnels, random)?;
            // Where all VTEPs are flooded to, one cannot be replaced.
            let verb = match mac.starts_with("00:00") {
                true => "append",
                false => "replace",
            };
            let line = format!("bridge fdb {verb} {mac} dev {device} dst 192.168.77.99");
            ("forwarding row replaced", line)
        }
        2 => {
            let device = device(found, &["ovx"], random)?;
            let line = format!("bridge fdb flush dev {device}");
            ("forwarding rows flushed", line)
        }
        3 => {
            let device = device(found, &["ovx"], random)?;
            let line = format!("bridge fdb add {foreign} dev {device} dst 192.168.77.98");
            ("foreign row", line)
        }
        4 => {
            let (device, mac, address) = one(&found.neighbours, random)?;
            let line = format!("ip neigh del {address} lladdr {mac} dev {device}");
            ("neighbour row deleted", line)
        }
        5 => {
            let (device, _, address) = one(&found.neighbours, random)?;
            let line =
                format!("ip neigh replace {address} lladdr {foreign} dev {device} nud permanent");
            ("neighbour row replaced", line)
        }
        6 => {
            let device = device(found, &["ovb"], random)?;
            let line = format!("ip neigh flush dev {device} nud permanent");
            ("neighbour rows flushed", line)
        }
        7 => {
            let device = device(found, &["ovb"], random)?;
            let line =
                format!("ip neigh add 10.9.0.250 lladdr {foreign} dev {device} nud permanent");
            ("foreign row", line)
        }
        _ => {
            let (member, mac, _) = one(&found.forwarding, random)?;
            let line = format!("bridge fdb del {mac} dev {member} master");
            ("forwarding row of a bridge deleted", line)
        }
    })
}

fn of_devices(found: &Kernel, random: &mut Rng) -> Option<(&'static str, String)> {
    let all = &["ovx", "ovb", "p"][..];
    Some(match random.below(5) {
        0 => {
            let line = format!("ip link set {} down", device(found, all, random)?);
            ("device set down", line)
        }
        1 => {
            let line = format!("ip link del {}", device(found, all, random)?);
            ("device deleted", line)
        }
        2 => {
            let line = format!("ip link set {} mtu 1300", device(found, all, random)?);
            ("MTU of a device changed", line)
        }
        3 => {
            let device = device(found, &["ovx", "p"], random)?;
            let line = format!("ip link set {device} nomaster");
            ("device taken out of its bridge", line)
        }
        _ => {
            let device = device(found, &["ovx"], random)?;
            let line =
                format!("ip link set {device} type bridge_slave learning on neigh_suppress off");
            ("member of a bridge changed", line)
        }
    })
}

fn one(rows: &BTreeSet<Row>, random: &mut Rng) -> Option<Row> {
    let at = random.index(rows.len())?;
    rows.iter().nth(at).cloned()
}

/// One of our devices whose name begins so.
fn device(found: &Kernel, prefixes: &[&str], random: &mut Rng) -> Option<String> {
    let ours = found.devices.keys().filter(|name| {
        let begins = |prefix: &&str| name.starts_with(*prefix);
        prefixes.iter().any(begins)
    });
    let ours: Vec<_> = ours.collect();
    ours.get(random.index(ours.len())?).map(ToString::to_string)
}

/// Damages the interface of an endpoint, as somebody inside may do.
pub(crate) fn endpoint(
    cluster: &Cluster,
    host: usize,
    program: &str,
    random: &mut Rng,
) -> anyhow::Result<Damage> {
    let damages = [
        ("endpoint: interface deleted", "ip link delete eth0"),
        ("endpoint: addresses flushed", "ip address flush dev eth0"),
        (
            "endpoint: IPv6 addresses flushed",
            "ip -6 address flush dev eth0",
        ),
        (
            "endpoint: MAC address changed",
            "ip link set eth0 address 02:00:00:00:00:99",
        ),
        ("endpoint: interface down", "ip link set eth0 down"),
        ("endpoint: MTU changed", "ip link set eth0 mtu 1290"),
    ];
    let (kind, line) = damages[random.index(damages.len()).unwrap_or_default()];
    // Whoever has gone meanwhile is not damaged.
    let _ = cluster.run(host, &words(&format!("exec {program} -- {line}"), &[]))?;
    Ok(Damage {
        kind,
        what: format!("{program} on host{}: {line}", host + 1),
        concern: Concern::Nobody,
    })
}
