//! Who reaches whom by the way out, and who does not.

use std::{
    env,
    io::Read,
    process::{Child, Command},
    time::Duration,
};

use overlay_core::plane::{Namespace, Platform, PlatformError};
use overlay_linux::{CommandSpec, DroppingChain, Linux};

use super::{
    BEHIND, Outcome, Story,
    node::{BRIDGE, Node, WORLD, forwards, has_nft, host, pause, spec, succeed},
};

pub(crate) const STORIES: &[(&str, Story)] = &[
    ("an_endpoint_reaches_the_world_in_the_hosts_name", world),
    ("the_host_reaches_an_endpoint", host_hop),
    ("endpoints_do_not_reach_each_other", apart),
    ("a_false_source_address_does_not_leave", spoofed),
    (
        "a_namespace_of_somebody_else_has_it_and_is_left_clean",
        joined,
    ),
    ("the_host_becomes_no_router", no_router),
    ("a_router_is_left_as_it_is", router),
    ("another_firewall_in_the_way_is_found", firewall),
];

fn world() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    assert!(node.pings(&spec, WORLD)?);
    // With full packets, too.
    let large = [
        "ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", "1472", WORLD,
    ];
    let (reached, text) = node.run(&spec, &large)?;
    assert!(reached, "{text}");
    assert_eq!(node.hears(&spec, "192.0.2.2:7")?, "192.0.2.1");
    let (_, routes) = node.run(&spec, &["ip", "route"])?;
    assert!(
        routes.contains("default via 172.18.0.1 dev eth1"),
        "{routes}"
    );
    let (_, shown) = node.run(&spec, &["ip", "-6", "address", "show", "dev", "eth1"])?;
    assert!(!shown.contains("inet6"), "{shown}");
    // The first interface is none the worse.
    let (_, shown) = node.run(&spec, &["ip", "address", "show", "dev", "eth0"])?;
    assert!(shown.contains("10.0.1.2/24"), "{shown}");
    Ok(())
}

fn host_hop() -> Outcome<()> {
    let (mut node, spec, mut internal) = (Node::new()?, spec(2)?, spec(3)?);
    internal.way_out = None;
    if !node.make_or_skip(&[&spec, &internal])? {
        return Ok(());
    }
    let server = CommandSpec::new(env::current_exe()?).args(["part", "serve", "172.18.0.2:80"]);
    let _server = node.linux.start(spec.endpoint, server)?;
    let dialled = |linux: &mut Linux| -> Outcome<_> {
        for _ in 0..100 {
            if let Ok(stream) = linux.dial(spec.endpoint, 80, Duration::from_secs(1)) {
                return Ok(stream);
            }
            pause(20)?;
        }
        Err("the server is not reached".into())
    };
    let mut text = String::new();
    dialled(&mut node.linux)?.read_to_string(&mut text)?;
    assert_eq!(text, "172.18.0.1");
    let address = node.linux.address_from_host(spec.endpoint)?;
    assert_eq!(address.to_string(), "172.18.0.2");
    // Nobody listens there, and it is said at once.
    let refused = node.linux.dial(spec.endpoint, 81, Duration::from_secs(1));
    assert!(
        matches!(refused, Err(PlatformError::System { code, .. }) if code == nix::libc::ECONNREFUSED),
        "{refused:?}"
    );
    assert_eq!(node.linux.way_out(internal.endpoint)?, None);
    let none = node
        .linux
        .dial(internal.endpoint, 80, Duration::from_secs(1));
    assert!(
        matches!(none, Err(PlatformError::Unsupported { .. })),
        "{none:?}"
    );
    let (reached, _) = node.run(&internal, &["ping", "-n", "-c", "1", "-W", "1", WORLD])?;
    assert!(!reached, "an internal network has no way out");
    Ok(())
}

fn apart() -> Outcome<()> {
    let (mut node, one, other) = (Node::new()?, spec(2)?, spec(3)?);
    if !node.make_or_skip(&[&one, &other])? {
        return Ok(());
    }
    for spec in [&one, &other] {
        assert!(node.pings(spec, WORLD)? && node.pings(spec, "172.18.0.1")?);
    }
    for address in ["172.18.0.2", "172.18.0.3"] {
        succeed(&format!("ping -n -c 1 -W 1 {address}"))?;
    }
    assert!(!node.pings(&one, "172.18.0.3")?);
    assert!(!node.pings(&other, "172.18.0.2")?);
    // Nor by way of the host.
    let by_host = [
        "ip",
        "route",
        "add",
        "172.18.0.3/32",
        "via",
        "172.18.0.1",
        "dev",
        "eth1",
    ];
    let (added, text) = node.run(&one, &by_host)?;
    assert!(added, "{text}");
    let by_host = ["ip", "route", "add", "172.18.0.2/32", "via", "172.18.0.1"];
    assert!(node.run(&other, &by_host)?.0);
    assert!(!node.pings(&one, "172.18.0.3")?);
    Ok(())
}

/// A machine behind the node: a namespace of a child, joined to the node by a pair of interfaces.
struct Behind(Child);

impl Behind {
    fn new() -> Outcome<Self> {
        let child = Command::new("unshare")
            .args(["-n", "sleep", "60"])
            .spawn()?;
        let behind = Self(child);
        let pid = behind.0.id();
        for _ in 0..250 {
            let ours = std::fs::read_link("/proc/self/ns/net")?;
            if std::fs::read_link(format!("/proc/{pid}/ns/net"))? != ours {
                break;
            }
            pause(20)?;
        }
        succeed(&format!(
            "ip link add d0 type veth peer name d1 netns {pid}"
        ))?;
        succeed("ip address add 198.51.100.1/24 dev d0")?;
        succeed("ip link set d0 up")?;
        behind.succeed("ip address add 198.51.100.2/24 dev d1")?;
        behind.succeed("ip link set d1 up")?;
        behind.succeed("ip route add default via 198.51.100.1")?;
        assert!(BEHIND.starts_with("198.51.100."));
        Ok(behind)
    }

    fn succeed(&self, words: &str) -> Outcome<String> {
        succeed(&format!("nsenter -t {} -n {words}", self.0.id()))
    }

    fn pings(&self, target: &str) -> Outcome<bool> {
        let ping = format!("ping -n -c 1 -W 1 {target}");
        Ok(host(&format!("nsenter -t {} -n {ping}", self.0.id()))?.0)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spoofed() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    let _behind = Behind::new()?;
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    // The way back is open, so that nothing but the source is in the way.
    succeed(&format!("ip route add 203.0.113.9 dev {BRIDGE}"))?;
    let address = ["ip", "address", "add", "203.0.113.9/32", "dev", "eth1"];
    assert!(node.run(&spec, &address)?.0);
    succeed("ping -n -c 1 -W 1 203.0.113.9")?;
    let ping = |source: &str| -> Outcome<bool> {
        let words = ["ping", "-n", "-c", "1", "-W", "1", "-I", source];
        let (reached, _) = node.run(&spec, &[&words[..], &["198.51.100.2"]].concat())?;
        Ok(reached)
    };
    assert!(ping("172.18.0.2")? && !ping("203.0.113.9")?);
    Ok(())
}

fn joined() -> Outcome<()> {
    let (mut node, mut spec) = (Node::new()?, spec(2)?);
    let other = Behind::new()?;
    spec.namespace = Namespace::Path(format!("/proc/{}/ns/net", other.0.id()).into());
    spec.interface = "overlay0".into();
    let before = other.succeed("ip -o link")?;
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    let routes = other.succeed("ip route")?;
    assert!(
        routes.contains("default via 198.51.100.1 dev d1") && !routes.contains("172.18.0.1"),
        "its default route stays: {routes}"
    );
    node.linux.remove_port(spec.endpoint)?;
    assert_eq!(other.succeed("ip -o link")?, before);
    other.succeed("ip route delete default")?;
    assert!(node.make_or_skip(&[&spec])?);
    assert!(other.pings(WORLD)?);
    Ok(())
}

fn no_router() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    let behind = Behind::new()?;
    assert!(!behind.pings(WORLD)?, "it is no router before");
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    assert!(forwards("eth0")? && forwards("d0")? && forwards(BRIDGE)?);
    assert!(!behind.pings(WORLD)?, "nor after");
    assert!(!behind.pings("172.18.0.2")?, "and endpoints are not open");
    // And yet the way out leads to both.
    assert!(node.pings(&spec, WORLD)? && node.pings(&spec, "198.51.100.2")?);
    node.linux.remove_port(spec.endpoint)?;
    assert!(!forwards("eth0")? && !forwards("d0")?);
    assert!(!behind.pings(WORLD)?);
    Ok(())
}

fn router() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    let behind = Behind::new()?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    assert!(behind.pings(WORLD)?);
    if !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    assert!(behind.pings(WORLD)? && node.pings(&spec, WORLD)?);
    assert!(!behind.pings("172.18.0.2")?, "endpoints are not open");
    if has_nft() {
        let rules = succeed("nft list table ip overlay")?;
        assert!(!rules.contains("jump guard"), "{rules}");
    }
    node.linux.remove_port(spec.endpoint)?;
    assert!(behind.pings(WORLD)? && forwards("eth0")?);
    Ok(())
}

fn firewall() -> Outcome<()> {
    let (mut node, spec) = (Node::new()?, spec(2)?);
    if !has_nft() || !node.make_or_skip(&[&spec])? {
        return Ok(());
    }
    assert_eq!(node.linux.dropping_chains()?, []);
    let place = "{ type filter hook forward priority filter ; policy drop ; }";
    for table in ["ip filter", "inet fw"] {
        succeed(&format!("nft add table {table}"))?;
        succeed(&format!("nft add chain {table} FORWARD {place}"))?;
        let expected = DroppingChain {
            table: table.into(),
            chain: "FORWARD".into(),
        };
        assert_eq!(node.linux.dropping_chains()?, [expected]);
        assert!(!node.pings(&spec, WORLD)?, "{table}");
        succeed(&format!("nft delete table {table}"))?;
        assert!(node.pings(&spec, WORLD)?, "{table}");
    }
    Ok(())
}
