//! Ports that holders make, as a daemon drives both.

use std::{
    collections::BTreeMap,
    env,
    net::{IpAddr, TcpListener},
    time::Duration,
};

use overlay_core::{
    EndpointId, ServiceId,
    plane::{
        DataPath, Desired, DesiredBackend, DesiredService, Distance, Namespace, NetworkPolicy,
        Platform, PlatformError, PolicyRule, PortSpec, TrafficMatch, Verdict, VipConfig,
    },
};
use overlay_linux::{
    CommandSpec, EndpointServices, Exit, Linux, PortKind, Stdio,
    plane::{SwitchNamespace, can_filter, port_name},
};

use crate::net::{Folder, Outcome, World, endpoint, eventually, inside_of, mac, mtu, run, say};

/// The holders of both endpoints of the first host.
struct Holders {
    linux: Linux,
    specs: Vec<PortSpec>,
}

impl Holders {
    fn new(world: &World) -> Outcome<Self> {
        // Those that the world made go with their inner ends.
        for number in 1..=2 {
            world.inside(number, "ip link del eth0")?;
        }
        let folder = world.folder.path().join("endpoints");
        let linux = Linux::new(folder, env::current_exe()?).with_switch(&world.hosts[0].switch);
        let specs: Outcome<Vec<_>> = (1..=2).map(spec).collect();
        let mut holders = Self {
            linux,
            specs: specs?,
        };
        holders.make()?;
        Ok(holders)
    }

    fn make(&mut self) -> Outcome<()> {
        for spec in &self.specs {
            assert!(self.linux.create_port(spec)?.is_none());
        }
        Ok(())
    }

    fn run(&self, which: usize, words: &str) -> Outcome<()> {
        let words: Vec<&str> = words.split(' ').collect();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let command = CommandSpec::new(words[0]).args(words[1..].iter().copied());
        let command = command.env("PATH", path).stdio(Stdio::Kept);
        let mut process = self.linux.exec(self.specs[which].endpoint, command)?;
        match process.wait(Duration::from_secs(10))? {
            Some(Exit::Code(0)) => Ok(()),
            exit => Err(format!("{words:?}: {exit:?}").into()),
        }
    }

    fn reaches(&self) -> Outcome<()> {
        eventually(
            || {
                self.run(0, "ping -n -c 1 -W 1 10.0.1.2").is_ok()
                    && self.run(0, "ping -n -c 1 -W 1 10.0.1.3").is_ok()
                    && self.run(1, "ping -n -c 1 -W 1 fd00:1::4").is_ok()
            },
            "a reply",
        )
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for spec in &self.specs {
            let _ = self.linux.remove_port(spec.endpoint);
        }
    }
}

fn spec(number: u8) -> Outcome<PortSpec> {
    Ok(PortSpec {
        endpoint: endpoint(number),
        namespace: Namespace::Own,
        interface: "eth0".into(),
        mac: mac(number),
        addresses: vec![
            format!("10.0.1.{number}/24").parse()?,
            format!("fd00:1::{number}/64").parse()?,
        ],
        on_link: Vec::new(),
        gateway: None,
        mtu: mtu(false),
        hostname: format!("alpine{number}"),
        way_out: None,
        path: DataPath::Kernel,
    })
}

/// A port is made, taken up by the next daemon, made again after it was deleted by hand, and removed.
pub(crate) fn life() -> Outcome<()> {
    let mut world = World::new(false)?;
    let mut holders = Holders::new(&world)?;
    let report = world.apply(0)?;
    assert_eq!(report.missing, Vec::<String>::new());
    holders.reaches()?;
    let main = CommandSpec::new("sleep").args(["1000"]);
    let main = main.env("PATH", "/usr/bin:/bin");
    let mut main = holders.linux.start(endpoint(1), main)?;
    let expected: BTreeMap<EndpointId, _> = holders
        .specs
        .iter()
        .map(|spec| (spec.endpoint, spec.mac))
        .collect();
    let actual = holders.linux.actual()?;
    let actual: BTreeMap<_, _> = actual.iter().map(|(id, port)| (*id, port.mac)).collect();
    assert_eq!(actual, expected);
    // The next daemon.
    let found = holders.linux.list()?;
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|one| one.kind == Some(PortKind::Bridged)));
    assert_eq!(found[0].spec, holders.specs[0]);
    holders.make()?;
    assert_eq!(world.apply(0)?.operations, []);
    // A hand that deletes the outer end deletes both.
    let desired = world.hosts[0].desired.clone();
    assert_eq!(holders.linux.apply(&desired)?, []);
    world.in_switch(0, &format!("ip link del {}", port_name(endpoint(1))))?;
    assert_eq!(world.apply(0)?.missing, [port_name(endpoint(1))]);
    let changes = holders.linux.apply(&desired)?;
    let words: Vec<_> = changes
        .iter()
        .map(|change| change.action.as_str())
        .collect();
    assert_eq!(words, ["make eth0 again"]);
    let report = world.apply(0)?;
    assert_eq!(report.missing, Vec::<String>::new());
    holders.reaches()?;
    // And one in the endpoint's namespace.
    holders.run(0, "ip link set eth0 mtu 1300")?;
    assert_eq!(holders.linux.apply(&desired)?.len(), 1);
    holders.run(0, "ip link del eth0")?;
    assert_eq!(holders.linux.apply(&desired)?.len(), 1);
    world.apply(0)?;
    holders.reaches()?;
    assert_eq!(main.try_wait()?, None, "the program went on all the while");
    // A daemon that has no such plane takes the port up as it is.
    let folder = world.folder.path().join("endpoints");
    let mut bare = Linux::new(folder, env::current_exe()?);
    assert!(bare.create_port(&spec(2)?)?.is_none());
    assert_eq!(bare.apply(&desired)?, []);
    let port = port_name(endpoint(2));
    holders.linux.remove_port(endpoint(2))?;
    assert!(world.in_switch(0, &format!("ip link show {port}")).is_err());
    drop(holders);
    Ok(())
}

/// The first pair of a switch namespace has different indices at its ends: else the kernel finds that it is up only within a
/// second, and drops what an endpoint sends before.
pub(crate) fn indices() -> Outcome<()> {
    let folder = Folder::new("indices")?;
    let switch = SwitchNamespace::open(folder.path().join("switch"))?;
    let endpoints = folder.path().join("endpoints");
    let specs: Outcome<Vec<_>> = (1..=3).map(spec).collect();
    let mut holders = Holders {
        linux: Linux::new(endpoints, env::current_exe()?).with_switch(switch.path()),
        specs: specs?,
    };
    holders.make()?;
    for spec in &holders.specs {
        let outer = port_name(spec.endpoint);
        let words = format!("ip -o link show {outer}");
        let said = run(&switch, &words)?;
        let (own, rest) = said.split_once(':').ok_or("no index")?;
        let peer = rest
            .split_once("@if")
            .and_then(|(_, rest)| rest.split_once(':'));
        let (peer, _) = peer.ok_or_else(|| format!("no other end: {said}"))?;
        assert_ne!(own.trim(), peer, "{said}");
    }
    Ok(())
}

/// Without a switch namespace there are no such ports, and nothing is left of the attempt.
pub(crate) fn refused() -> Outcome<()> {
    let world = World::bare(false)?;
    let folder = world.folder.path().join("endpoints");
    let mut linux = Linux::new(&folder, env::current_exe()?);
    let refused = linux.create_port(&spec(5)?).map(drop);
    assert!(
        matches!(refused, Err(PlatformError::Unsupported { .. })),
        "{refused:?}"
    );
    let mut linux = linux.with_switch(world.folder.path().join("absent"));
    let refused = linux.create_port(&spec(5)?).map(drop);
    assert!(
        matches!(refused, Err(PlatformError::System { .. })),
        "{refused:?}"
    );
    assert_eq!(linux.list()?, []);
    Ok(())
}

/// A virtual address leads to a backend elsewhere, and goes on doing so; without services there is nothing to track.
pub(crate) fn services() -> Outcome<()> {
    let mut world = World::new(false)?;
    let holders = Holders::new(&world)?;
    world.apply(0)?;
    holders.reaches()?;
    let mut served = EndpointServices::new();
    let desired = world.hosts[0].desired.clone();
    let rules = |holders: &Holders| holders.run(0, "nft list table inet overlay_services");
    let report = served.apply(&holders.linux, &desired)?;
    assert_eq!(
        report.operations,
        [],
        "no table is made in order to be removed"
    );
    assert!(rules(&holders).is_err(), "nothing is served");
    let mut serving = desired.clone();
    serve(&mut serving)?;
    let report = served.apply(&holders.linux, &serving)?;
    assert_eq!((report.failed.len(), report.refused.len()), (0, 0));
    assert!(!report.operations.is_empty() && report.repairs == 0);
    let listener = inside_of(&world.endpoints[&3], || {
        Ok(TcpListener::bind("10.0.1.3:80")?)
    })?;
    listener.set_nonblocking(true)?;
    let asked = |holders: &Holders| -> Outcome<()> {
        holders.run(0, "bash -c :>/dev/tcp/10.0.1.100/80")?;
        eventually(|| listener.accept().is_ok(), "a connection")
    };
    asked(&holders)?;
    assert_eq!(served.apply(&holders.linux, &serving)?.operations, []);
    holders.run(0, "nft flush ruleset")?;
    assert!(served.apply(&holders.linux, &serving)?.repairs > 0);
    asked(&holders)?;
    // The next daemon has nothing to do.
    let mut next = EndpointServices::new();
    assert_eq!(next.apply(&holders.linux, &serving)?.operations, []);
    next.apply(&holders.linux, &desired)?;
    assert!(rules(&holders).is_err());
    assert!(asked(&holders).is_err());
    let figures = (served.stats().repairs > 0, next.stats().operations > 0);
    assert_eq!(figures, (true, true));
    Ok(())
}

/// A service of one backend at 10.0.1.100 and fd00:1::100.
fn serve(desired: &mut Desired) -> Outcome<()> {
    let backend = DesiredBackend {
        mac: mac(3),
        addresses: vec!["10.0.1.3".parse()?, "fd00:1::3".parse()?],
        weight: 1,
        draining: false,
        distance: Distance::Far,
    };
    let service = DesiredService {
        mac: mac(100),
        addresses: vec!["10.0.1.100".parse()?, "fd00:1::100".parse()?],
        config: VipConfig::default(),
        backends: BTreeMap::from([(endpoint(3), backend)]),
    };
    for network in desired.networks.values_mut() {
        let id = ServiceId::from_bytes([1; 16]);
        network.services.insert(id, service.clone());
    }
    Ok(())
}

#[expect(clippy::too_many_lines, reason = "one story")]
/// A flow to a virtual address is judged under that address, and under that of its backend.
pub(crate) fn judged() -> Outcome<()> {
    if let Err(reason) = can_filter() {
        say(&format!("SKIPPED: rules of networks: {reason}"));
        return Ok(());
    }
    let mut world = World::new(false)?;
    let holders = Holders::new(&world)?;
    for host in &mut world.hosts {
        serve(&mut host.desired)?;
    }
    let mut served = EndpointServices::new();
    let listeners = [80, 81].map(|port| -> Outcome<TcpListener> {
        inside_of(&world.endpoints[&3], move || {
            Ok(TcpListener::bind(("::", port))?)
        })
    });
    let [_one, _other] = listeners;
    let web = |to: &[&str], last| -> Outcome<PolicyRule> {
        let to: Result<Vec<IpAddr>, _> = to.iter().map(|to| to.parse()).collect();
        Ok(PolicyRule {
            name: String::new(),
            from: ["10.0.1.1".parse::<IpAddr>()?, "fd00:1::1".parse()?]
                .into_iter()
                .collect(),
            to: to?.into_iter().collect(),
            traffic: vec![TrafficMatch::Tcp { first: 80, last }],
            verdict: Verdict::Allow,
        })
    };
    let (vips, backends) = (["10.0.1.100", "fd00:1::100"], ["10.0.1.3", "fd00:1::3"]);
    // By which rules, and whether ports 80 and 81 are reached at the virtual address.
    for (rules, expected) in [
        (vec![web(&vips, 80)?, web(&backends, 81)?], [true, false]),
        (vec![web(&vips, 81)?, web(&backends, 80)?], [true, false]),
        (vec![web(&vips, 81)?, web(&backends, 81)?], [true, true]),
        (vec![web(&vips, 81)?], [false, false]),
        (vec![web(&backends, 81)?], [false, false]),
    ] {
        let mut desired = Vec::new();
        for host in 0..2 {
            for network in world.hosts[host].desired.networks.values_mut() {
                network.policy = NetworkPolicy {
                    default: Verdict::Deny,
                    rules: rules.clone(),
                };
            }
            world.apply(host)?;
            desired.push(world.hosts[host].desired.clone());
        }
        let report = served.apply(&holders.linux, &desired[0])?;
        assert_eq!((report.failed.len(), report.refused.len()), (0, 0));
        for vip in vips {
            for (port, expected) in [80, 81].into_iter().zip(expected) {
                let asks = |seconds: &str| {
                    let words = format!("timeout {seconds} bash -c :>/dev/tcp/{vip}/{port}");
                    holders.run(0, &words)
                };
                let words = format!("{vip} {port} {rules:?}");
                match expected {
                    true => eventually(|| asks("3").is_ok(), &words)?,
                    false => assert!(asks("0.4").is_err(), "{words}"),
                }
            }
        }
        // Another endpoint may not, whatever it asks for.
        let words = "timeout 0.4 bash -c :>/dev/tcp/10.0.1.100/80";
        assert!(holders.run(1, words).is_err());
        let again = served.apply(&holders.linux, &desired[0])?;
        assert_eq!((again.operations, again.repairs), (Vec::new(), 0));
    }
    let desired = world.hosts[0].desired.clone();
    holders.run(0, "nft flush ruleset")?;
    assert!(served.apply(&holders.linux, &desired)?.repairs > 1);
    assert_eq!(served.apply(&holders.linux, &desired)?.operations, []);
    holders.run(0, "nft list table inet overlay_access")?;
    let mut open = desired;
    for network in open.networks.values_mut() {
        network.policy = NetworkPolicy::default();
    }
    served.apply(&holders.linux, &open)?;
    assert!(
        holders
            .run(0, "nft list table inet overlay_access")
            .is_err()
    );
    Ok(())
}
