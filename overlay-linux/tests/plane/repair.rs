//! What somebody does by hand is undone, what is somebody else's stays, and what runs goes on.

use std::{
    collections::BTreeMap,
    env,
    io::Read,
    process::Command,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_core::plane::Desired;
use overlay_linux::plane::{Host, Reconciler, SwitchNamespace, Underlay, Watch, port_name};

use crate::net::{Outcome, World, endpoint, inside_of, mac, open, pause};

/// Every kind of damage that a hand can do, by itself.
pub(crate) fn damages() -> Outcome<()> {
    let mut world = World::new(false)?;
    let hands = [rows(), devices(), rules()];
    for damage in hands.iter().flatten() {
        world.in_switch(0, damage)?;
        settle(&mut world, damage)?;
    }
    // As another kind of thing under the same name.
    world.in_switch(0, "ip link del ovx4097")?;
    world.in_switch(0, "ip link add ovx4097 type bridge")?;
    settle(&mut world, "another device of the name")?;
    let outside = [
        "nft delete table inet overlay_guard",
        "nft flush ruleset",
        "nft flush set inet overlay_guard members4",
        "nft flush chain inet overlay_guard strangers",
        "nft insert rule inet overlay_guard input accept",
    ];
    for damage in outside {
        world.outside(0, damage)?;
        settle(&mut world, damage)?;
    }
    let stats = world.hosts[0].plane.stats();
    let repairs: u64 = stats.repairs.values().sum();
    assert!(stats.repairs.len() == 5 && repairs >= 40, "{stats:?}");
    Ok(())
}

/// To rows of bridges, VXLAN devices and neighbours.
fn rows() -> Vec<String> {
    let (port, far) = (port_name(endpoint(1)), mac(3));
    vec![
        format!("bridge fdb del {far} dev ovx4097 dst 192.0.2.2 self"),
        format!("bridge fdb del {far} dev ovx4097 master"),
        format!("bridge fdb replace {far} dev ovx4097 self dst 192.0.2.99"),
        format!("bridge fdb replace {far} dev {port} master static"),
        format!("bridge fdb replace {far} dev {port} master permanent"),
        format!("bridge fdb del {} dev {port} master", mac(1)),
        "bridge fdb add 02:00:00:00:00:99 dev ovx4097 self dst 192.0.2.99".to_owned(),
        format!("bridge fdb add 02:00:00:00:00:98 dev {port} master static"),
        "bridge fdb append 00:00:00:00:00:00 dev ovx4097 self dst 192.0.2.98".to_owned(),
        "bridge fdb append 00:00:00:00:00:00 dev ovx4097 self dst 192.0.2.2 vni 7".to_owned(),
        format!("bridge fdb replace {far} dev ovx4097 self dst 192.0.2.2 port 9999"),
        format!("bridge fdb replace {far} dev ovx4097 self dst 192.0.2.2 dynamic"),
        "bridge fdb add 02:00:00:00:00:97 dev ovx4097 self dst 192.0.2.2 port 9999".to_owned(),
        "bridge fdb del 00:00:00:00:00:00 dev ovx4097 self dst 192.0.2.2".to_owned(),
        "ip neigh del 10.0.1.3 dev ovb4097".to_owned(),
        "ip neigh replace 10.0.1.3 lladdr 02:00:00:00:00:99 dev ovb4097 nud permanent".to_owned(),
        "ip neigh replace 10.0.1.3 lladdr 02:00:00:00:00:99 dev ovb4097 nud stale".to_owned(),
        "ip neigh add 10.0.1.77 lladdr 02:00:00:00:00:99 dev ovb4097 nud permanent".to_owned(),
        "ip -6 neigh del fd00:1::3 dev ovb4097".to_owned(),
        "ip neigh flush dev ovb4097 nud permanent".to_owned(),
    ]
}

/// To devices.
fn devices() -> Vec<String> {
    let port = port_name(endpoint(1));
    vec![
        "ip link set ovx4097 down".to_owned(),
        "ip link set ovb4097 down".to_owned(),
        "ip link set ovx4097 nomaster".to_owned(),
        format!("ip link set {port} nomaster"),
        format!("ip link set {port} down"),
        format!("ip link set {port} mtu 1300"),
        "ip link set ovb4097 mtu 1300".to_owned(),
        format!("bridge link set dev {port} learning on"),
        format!("bridge link set dev {port} flood on"),
        format!("bridge link set dev {port} mcast_flood off"),
        format!("bridge link set dev {port} isolated on"),
        "bridge link set dev ovx4097 neigh_suppress off".to_owned(),
        "bridge link set dev ovx4097 hairpin on".to_owned(),
        "ip link set ovx4097 type vxlan learning".to_owned(),
        "ip link set ovb4097 type bridge mcast_snooping 1".to_owned(),
        "ip link set ovb4097 type bridge stp_state 1".to_owned(),
        "ip link del ovx4097".to_owned(),
        "ip link del ovb4097".to_owned(),
        "ip link add ovb5000 type bridge".to_owned(),
        "ip link add stranger master ovb4097 type veth peer name outside".to_owned(),
        "sysctl -qw net.ipv6.conf.ovb4097.disable_ipv6=1".to_owned(),
    ]
}

/// To rules in the switch namespace.
fn rules() -> Vec<String> {
    let (port, far) = (port_name(endpoint(1)), mac(3));
    vec![
        format!("nft flush chain bridge overlay_plane port_{port}"),
        "nft add chain bridge overlay_plane intruder".to_owned(),
        "nft insert rule bridge overlay_plane prerouting accept".to_owned(),
        format!("nft delete element bridge overlay_plane remotes_4097 {{ {far} }}"),
        format!(
            "nft add element bridge overlay_plane remotes_4097 {{ {} }}",
            mac(1)
        ),
        "nft delete table bridge overlay_plane".to_owned(),
        "nft flush ruleset".to_owned(),
    ]
}

/// Repairs a damage and looks that nothing is left of it.
fn settle(world: &mut World, damage: &str) -> Outcome<()> {
    let plan = world.plan(0)?;
    assert!(!plan.is_empty(), "{damage} is not seen");
    let report = world
        .apply(0)
        .map_err(|error| format!("{damage}: {error}"))?;
    assert!(report.repairs > 0, "{damage} is no repair");
    assert_eq!(world.plan(0)?, Vec::<String>::new(), "{damage}");
    for other in [2, 3] {
        let reached = crate::net::eventually(|| world.reaches(1, other).is_ok(), "a reply");
        reached.map_err(|_| format!("{damage}: {plan:?} did not help"))?;
    }
    Ok(())
}

/// Others' devices, rows and rules stay, in both namespaces.
pub(crate) fn foreign() -> Outcome<()> {
    let mut world = World::bare(false)?;
    let others = [
        "ip link add docker0 type bridge",
        "ip link add vx99 type vxlan id 99 dstport 4789 local 192.0.2.1",
        "ip link set vx99 master docker0",
        "ip link set docker0 up",
        "bridge fdb add 02:00:00:00:00:99 dev vx99 self dst 192.0.2.2",
        "bridge fdb add 02:00:00:00:00:99 dev vx99 master static",
        "ip addr add 10.9.9.1/24 dev docker0",
        "ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:99 dev docker0 nud permanent",
        "nft add table inet foreign",
        "nft add chain inet foreign input { type filter hook input priority 0 ; }",
        "nft add table bridge foreign",
        "nft add table inet overlay_planes",
    ];
    let seen = |world: &World| -> Outcome<Vec<String>> {
        let mut seen = Vec::new();
        for words in [
            "ip -o link show dev docker0",
            "ip -d -o link show dev vx99",
            "bridge fdb show dev vx99",
            "ip neigh show dev docker0 nud permanent",
            "nft list table inet foreign",
            "nft list table bridge foreign",
            "nft list table inet overlay_planes",
        ] {
            seen.push(world.outside(0, words)?);
            seen.push(world.in_switch(0, words)?);
        }
        Ok(seen)
    };
    for words in others {
        world.outside(0, words)?;
        // The same VNI and port in the switch namespace has a socket of its own.
        world.in_switch(0, words)?;
    }
    let before = seen(&world)?;
    for _ in 0..2 {
        for host in 0..2 {
            world.apply(host)?;
        }
        world.reaches(1, 3)?;
        assert_eq!(seen(&world)?, before);
        for host in &mut world.hosts {
            host.desired = Desired::default();
        }
        for host in 0..2 {
            world.apply(host)?;
        }
        assert_eq!(seen(&world)?, before);
        let links = world.in_switch(0, "ip -o link")?;
        assert!(!links.contains(" ov"), "{links}");
        assert!(
            !world
                .outside(0, "nft list tables")?
                .contains("overlay_guard")
        );
        for number in 1..=2 {
            world.hosts[usize::from(number) - 1].desired = crate::net::desired(number, false)?;
        }
    }
    Ok(())
}

/// A network that goes leaves nothing, and the namespace goes, too.
pub(crate) fn removal() -> Outcome<()> {
    let mut world = World::new(false)?;
    for number in 1..=2 {
        world.inside(number, "ip link del eth0")?;
    }
    world.hosts[0].desired = Desired::default();
    world.apply(0)?;
    let links = world.in_switch(0, "ip -o link")?;
    assert_eq!(links.lines().count(), 1, "{links}");
    assert_eq!(world.in_switch(0, "nft list ruleset")?, "");
    assert_eq!(world.outside(0, "nft list ruleset")?, "");
    assert_eq!(world.in_switch(0, "bridge fdb")?, "");
    let World { hosts, .. } = world;
    let [one, _] = hosts;
    one.plane.into_kernel().into_namespace().remove()?;
    assert!(!one.switch.exists());
    Ok(())
}

/// A running flow loses nothing while its daemon is killed and another one takes up, and while others' objects are
/// damaged and repaired.
pub(crate) fn kill() -> Outcome<()> {
    let mut world = World::new(false)?;
    let begun = || {
        world
            .reaches(1, 3)
            .and(world.reaches(2, 4))
            .and(world.reaches(1, 2))
    };
    crate::net::eventually(|| begun().is_ok(), "all to be reached")?;
    let mut flows = Vec::new();
    for (from, to) in [(1, "10.0.1.3"), (2, "fd00:1::4"), (1, "10.0.1.2")] {
        flows.push(world.start(from, &format!("ping -n -q -i 0.01 -c 600 -W 1 {to}"))?);
    }
    let (mut grew, mut shrank) = (0, 0);
    for life in 0..40_u16 {
        let node = &world.hosts[0];
        let mut daemon = Command::new("nsenter")
            .arg(format!("--net={}", node.outside.path().display()))
            .arg(env::current_exe()?)
            .arg("daemon")
            .arg(&node.switch)
            .spawn()?;
        // In the midst of something.
        pause(30 + life);
        daemon.kill()?;
        daemon.wait()?;
        let rows = world.in_switch(0, "bridge fdb show dev ovx4097")?;
        match rows.contains(&mac(9).to_string()) {
            true => grew += 1,
            false => shrank += 1,
        }
    }
    // It was killed in all kinds of states, and another one makes good of the last.
    assert!(grew > 0 && shrank > 0, "{grew} {shrank}");
    let node = &mut world.hosts[0];
    node.plane = open(&node.outside, &node.switch, node.address)?;
    world.apply(0)?;
    assert_eq!(world.plan(0)?, Vec::<String>::new());
    let hands = [
        "bridge fdb add 02:00:00:00:00:99 dev ovx4097 self dst 192.0.2.99",
        "bridge fdb append 00:00:00:00:00:00 dev ovx4097 self dst 192.0.2.98",
        "nft add chain bridge overlay_plane intruder",
        "ip neigh add 10.0.1.77 lladdr 02:00:00:00:00:99 dev ovb4097 nud permanent",
    ];
    for hand in hands {
        world.in_switch(0, hand)?;
        assert!(world.apply(0)?.repairs > 0, "{hand}");
    }
    for mut flow in flows {
        let mut text = String::new();
        flow.wait()?;
        flow.stdout
            .take()
            .ok_or("no output")?
            .read_to_string(&mut text)?;
        assert!(text.contains("600 received, 0% packet loss"), "{text}");
    }
    Ok(())
}

/// A daemon whose networks grow and shrink all the time, until it is killed.
pub(crate) fn daemon(switch: &str) -> Outcome<()> {
    let small = crate::net::desired(1, false)?;
    let mut grown = small.clone();
    for network in grown.networks.values_mut() {
        let remote = network.remotes.values().next().cloned();
        let mut remote = remote.ok_or("no remote endpoint")?;
        (remote.mac, remote.addresses) = (mac(9), vec!["10.0.1.9".parse()?]);
        network.remotes.insert(endpoint(9), remote);
        network.subnets.push("10.0.2.0/24".parse()?);
    }
    let underlay = Underlay {
        local: "192.0.2.1".parse()?,
        port: 4789,
    };
    let host = Host::open(SwitchNamespace::open(switch)?)?;
    let mut plane = Reconciler::new(host, underlay);
    loop {
        plane.apply(&grown)?;
        plane.apply(&small)?;
    }
}

/// Damage is heard of and repaired within two seconds.
pub(crate) fn watched() -> Outcome<()> {
    let mut world = World::new(false)?;
    let switch = SwitchNamespace::open(&world.hosts[0].switch)?;
    let mut watch = inside_of(&world.hosts[0].outside, move || Ok(Watch::open(&switch)?))?;
    assert!(!watch.is_due()?);
    let damages = [
        (
            true,
            format!("bridge fdb del {} dev ovx4097 dst 192.0.2.2 self", mac(3)),
        ),
        (
            true,
            format!("bridge fdb del {} dev ovx4097 master", mac(3)),
        ),
        (true, "ip neigh del 10.0.1.3 dev ovb4097".to_owned()),
        (true, "ip link set ovx4097 down".to_owned()),
        (true, "ip link del ovx4097".to_owned()),
        (true, "nft flush ruleset".to_owned()),
        (false, "nft flush ruleset".to_owned()),
    ];
    let mut waited = BTreeMap::new();
    for (in_switch, damage) in damages {
        let start = now();
        if in_switch {
            world.in_switch(0, &damage)?;
        } else {
            world.outside(0, &damage)?;
        }
        let polled = watch.descriptors().into_iter();
        let mut polled: Vec<_> = polled
            .map(|one| PollFd::new(one, PollFlags::POLLIN))
            .collect();
        poll(&mut polled, PollTimeout::from(2_000_u16))?;
        assert!(watch.is_due()?, "{damage} is not heard of");
        assert!(world.apply(0)?.repairs > 0, "{damage}");
        assert_eq!(world.plan(0)?, Vec::<String>::new());
        waited.insert(damage, now() - start);
        // Our own changes are heard of, too, and looking at them again changes nothing.
        while watch.is_due()? {
            assert_eq!(world.apply(0)?.operations, []);
        }
    }
    let longest = waited.values().max();
    assert!(
        longest.is_some_and(|longest| *longest < Duration::from_secs(2)),
        "{waited:?}"
    );
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a repair takes in the real kernel"
)]
fn now() -> Instant {
    Instant::now()
}
