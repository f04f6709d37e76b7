//! What a port carries, and what it looks like from inside and outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::ErrorKind,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::Ordering,
    time::Duration,
};

use overlay_core::{
    MacAddr, NetworkId, Vni,
    plane::{
        ActualPort, Change, DataPath, Desired, DesiredNetwork, DesiredPort, Namespace, Platform,
        PlatformError, PortSpec,
    },
};
use overlay_linux::{Exit, Linux, Offload, Port, PortKind, Stdio};

use super::{
    Test,
    bench::{
        self, Bench, Folder, Outcome, command, eventually, pause, read_all, read_until, say, spec,
    },
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_new_port_carries_the_very_first_frame", first_frame),
    ("ping_passes_with_frames_up_to_the_mtu", ping),
    ("ipv6_passes", ipv6),
    ("tcp_and_udp_pass", iperf),
    ("nothing_is_sent_that_nobody_asked_for", silence),
    ("a_frame_that_does_not_fit_is_dropped_whole", long_frames),
    ("a_port_is_read_back_as_it_was_made", actual),
    ("a_difference_is_repaired_and_said", repair),
    ("another_spec_replaces_the_port", replaced),
    (
        "a_port_is_taken_up_with_another_mtu_and_programs_go_on",
        taken_up,
    ),
    (
        "a_port_that_was_deleted_is_made_anew_and_programs_go_on",
        deleted,
    ),
    (
        "a_namespace_of_somebody_else_is_joined_and_left_clean",
        joined,
    ),
    ("what_is_no_namespace_is_refused", not_a_namespace),
];

/// Both ways, without a retry: an ARP request to the endpoint, and its reply.
fn first_frame(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), std::env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    for _ in 0..5 {
        let port = bench::port(&mut linux, &spec)?;
        assert_eq!(answers(&port)?, spec.mac);
        linux.remove_port(spec.endpoint)?;
    }
    Ok(())
}

/// Asks 10.0.1.2 behind a port for its MAC address.
fn answers(port: &Port) -> Outcome<MacAddr> {
    let mut request = vec![0xff; 6];
    let asker = [2, 0x42, 10, 0, 1, 3];
    request.extend_from_slice(&asker);
    request.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend_from_slice(&asker);
    request.extend_from_slice(&[10, 0, 1, 3, 0, 0, 0, 0, 0, 0, 10, 0, 1, 2]);
    port.write_frame(&request, Offload::NONE)?;
    let mut reply = Vec::new();
    eventually(|| port.read_frame(&mut reply).is_ok(), "an ARP reply")?;
    assert_eq!(reply[..6], asker);
    Ok(MacAddr::new(reply[6..12].try_into()?))
}

fn ping(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    // 1450 octets of IP less 28 of IPv4 and ICMP; fragmentation forbidden.
    for size in ["0", "56", "1422"] {
        let words = [
            "ping", "-n", "-M", "do", "-c", "2", "-i", "0.1", "-W", "2", "-s", size, "10.0.1.3",
        ];
        let text = bench.succeed(0, &words)?;
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
    let words = ["ping", "-n", "-M", "do", "-c", "1", "-W", "1", "-s", "1423"];
    let (exit, text) = bench.run(0, &[&words[..], &["10.0.1.3"]].concat())?;
    assert_ne!(exit, Exit::Code(0), "{text}");
    Ok(())
}

fn ipv6(kind: PortKind) -> Outcome<()> {
    let mut specs = [spec(2)?, spec(3)?];
    specs[0].addresses.push("fd00:1::2/64".parse()?);
    specs[1].addresses.push("fd00:1::3/64".parse()?);
    let bench = Bench::with(kind, specs)?;
    let words = ["ping", "-n", "-c", "1", "-W", "2", "fd00:1::3"];
    let text = bench.succeed(0, &words)?;
    assert!(text.contains(" 0% packet loss"), "{text}");
    let hosts = bench.succeed(0, &["cat", "/etc/hosts"])?;
    assert!(hosts.contains("fd00:1::2\talpine2"), "{hosts}");
    Ok(())
}

/// Checksums are partial on the way, so a wrong one shows as nothing getting through.
fn iperf(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let tcp = ["-n", "20M"];
    if measure(&bench, &tcp)?.is_none() {
        say("SKIPPED: tcp_and_udp_pass: iperf3 is not installed");
        return Ok(());
    }
    // The other direction, and datagrams so slowly that none is lost.
    measure(&bench, &["-n", "20M", "-R"])?;
    let text = measure(&bench, &["-u", "-b", "50M", "-n", "4M"])?.unwrap_or_default();
    let received = text.lines().find(|line| line.ends_with("receiver"));
    let received = received.ok_or(format!("no summary: {text}"))?;
    let lost = received
        .split('(')
        .nth(1)
        .and_then(|rest| rest.split('%').next());
    let lost: f64 = lost.ok_or(format!("no loss: {received}"))?.parse()?;
    assert!(lost < 5.0, "{text}");
    let seen = bench.seen();
    assert_eq!(seen.beyond_mtu.load(Ordering::Relaxed), 0);
    assert_ne!(seen.super_frames.load(Ordering::Relaxed), 0);
    Ok(())
}

/// Runs iperf3 from the first endpoint to the second; `None` if it is not installed.
fn measure(bench: &Bench, how: &[&str]) -> Outcome<Option<String>> {
    let server = command(&["iperf3", "-s", "-1", "--forceflush"]);
    let server = server.stdio(Stdio::Pipes { input: false });
    let mut server = match bench.linux.exec(bench.endpoint(1), server) {
        Ok(server) => server,
        Err(PlatformError::System { code, .. }) if code == nix::libc::ENOENT => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let output = server.output.as_ref().ok_or("no output")?;
    read_until(output, Some("Server listening"))?;
    let client = ["iperf3", "-c", "10.0.1.3"];
    let text = bench.succeed(0, &[&client[..], how].concat())?;
    read_until(server.output.as_ref().ok_or("no output")?, None)?;
    server.wait(Duration::from_secs(5))?;
    Ok(Some(text))
}

/// No router solicitation, no multicast report, no duplicate address detection; also where others' settings hold.
fn silence(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), std::env::current_exe()?).with_kind(kind);
    let mut specs = vec![spec(2)?];
    let foreign = Foreign::new()?;
    if let Some(foreign) = &foreign {
        let mut joining = spec(3)?;
        joining.namespace = Namespace::Path(foreign.path.clone());
        specs.push(joining);
    }
    let ports: Outcome<Vec<_>> = specs
        .iter()
        .map(|spec| bench::port(&mut linux, spec))
        .collect();
    let ports = ports?;
    pause(1_500)?;
    let mut read = Vec::new();
    for port in &ports {
        let mut frame = Vec::new();
        read.push((
            port.read_frame(&mut frame).map_err(|error| error.kind()),
            frame,
        ));
    }
    // Nor does anything come from the outer end.
    let shown = command(&["grep", "eth0", "/proc/net/dev"]).stdio(Stdio::Pipes { input: false });
    let received = read_all(&linux.exec(specs[0].endpoint, shown)?)?;
    for spec in &specs {
        linux.remove_port(spec.endpoint)?;
    }
    let counters = received.split_whitespace().collect::<Vec<_>>();
    assert_eq!(counters[..2], ["eth0:", "0"], "{received}");
    for (read, frame) in read {
        assert_eq!(read, Err(ErrorKind::WouldBlock), "{frame:02x?}");
        assert!(frame.is_empty());
    }
    Ok(())
}

fn long_frames(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), std::env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    let port = bench::port(&mut linux, &spec)?;
    let words = ["ping", "-n", "-c", "1", "-W", "1", "-s", "1000", "10.0.1.9"];
    linux.exec(spec.endpoint, command(&words))?;
    // An ARP request of 42 octets: it fits exactly, or not at all.
    let (mut small, mut exact) = ([0; 41], [0; 42]);
    let mut first = None;
    let asked = || {
        first = port.read_into(&mut exact).ok();
        first.is_some()
    };
    eventually(asked, "an ARP request")?;
    assert_eq!(first.map(|(length, _)| length), Some(42));
    assert_eq!(exact[12..14], [0x08, 0x06]);
    // The request is repeated after a second; the second one is dropped, and nothing of it is left over.
    pause(1_200)?;
    let dropped = port.read_into(&mut small).map_err(|error| error.kind());
    assert_eq!(dropped.map(|_| ()), Err(ErrorKind::WouldBlock));
    linux.remove_port(spec.endpoint)?;
    Ok(())
}

fn actual(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let [first, second] = bench.specs.clone();
    let expected = |spec: &PortSpec| ActualPort {
        interface: "eth0".into(),
        mac: spec.mac,
        addresses: spec.addresses.clone(),
        mtu: 1450,
        up: true,
        way_out: None,
    };
    let ports = BTreeMap::from([
        (first.endpoint, expected(&first)),
        (second.endpoint, expected(&second)),
    ]);
    assert_eq!(bench.linux.actual()?, ports);
    bench.linux.remove_port(first.endpoint)?;
    bench.linux.remove_port(first.endpoint)?;
    let left: Vec<_> = bench.linux.actual()?.into_keys().collect();
    assert_eq!(left, [second.endpoint]);
    Ok(())
}

fn repair(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let spec = bench.specs[0].clone();
    let mut network = network(&spec)?;
    assert_eq!(bench.linux.apply(&desired(&network))?, []);
    // Somebody inside meddles with everything.
    for words in [
        &["ip", "link", "set", "eth0", "down"][..],
        &[
            "ip",
            "link",
            "set",
            "eth0",
            "address",
            "02:00:00:00:00:01",
            "mtu",
            "1000",
        ],
        &["ip", "address", "add", "10.0.9.77/24", "dev", "eth0"],
        &["ip", "address", "del", "10.0.1.2/24", "dev", "eth0"],
    ] {
        match bench.succeed(0, words) {
            Ok(_) => {}
            Err(error) if error.to_string().contains("os error 2") => {
                say("SKIPPED: a_difference_is_repaired_and_said: ip is not installed");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    let changes = bench.linux.apply(&desired(&network))?;
    let said = |action: &str| changes.contains(&Change::new(Some(spec.endpoint), action));
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert!(said("MTU 1000 -> 1450 of eth0"), "{changes:?}");
    assert!(
        said("MAC 02:00:00:00:00:01 -> 02:42:0a:00:01:02 of eth0"),
        "{changes:?}"
    );
    assert!(said("add 10.0.1.2/24 to eth0"), "{changes:?}");
    assert!(said("remove 10.0.9.77/24 from eth0"), "{changes:?}");
    assert!(said("set eth0 up"), "{changes:?}");
    assert_eq!(bench.linux.apply(&desired(&network))?, []);
    bench.succeed(1, &["ping", "-n", "-c", "1", "-W", "2", "10.0.1.2"])?;
    readdress(&mut bench, &mut network)?;
    // A network that is changed: the holder remembers it, so that a restarted daemon takes the port up.
    network.mtu = 1300;
    assert_eq!(bench.linux.apply(&desired(&network))?.len(), 1);
    let found = bench.linux.list()?;
    assert_eq!(found[0].spec.mtu, 1300);
    Ok(())
}

/// A network with this port alone.
fn network(spec: &PortSpec) -> Outcome<DesiredNetwork> {
    let port = DesiredPort {
        mac: spec.mac,
        addresses: spec.addresses.clone(),
    };
    Ok(DesiredNetwork {
        vlan_tags: false,
        vni: Vni::new(4097).ok_or("no VNI")?,
        encrypted: false,
        path: DataPath::User,
        subnets: vec!["10.0.1.0/24".parse()?],
        mtu: 1450,
        ports: BTreeMap::from([(spec.endpoint, port)]),
        remotes: BTreeMap::new(),
        vteps: BTreeSet::new(),
        services: BTreeMap::new(),
    })
}

/// Several addresses in one subnet: the kernel drops all others together with the first.
fn readdress(bench: &mut Bench, network: &mut DesiredNetwork) -> Outcome<()> {
    for (addresses, changes) in [
        (&["10.0.1.2/24", "10.0.1.5/24"][..], 1),
        (&["10.0.1.5/24"], 2),
        (&["10.0.1.6/24"], 2),
    ] {
        let addresses: Result<Vec<_>, _> = addresses.iter().map(|text| text.parse()).collect();
        let addresses = addresses?;
        for port in network.ports.values_mut() {
            port.addresses.clone_from(&addresses);
        }
        assert_eq!(bench.linux.apply(&desired(network))?.len(), changes);
        assert_eq!(bench.linux.apply(&desired(network))?, []);
    }
    bench.succeed(1, &["ping", "-n", "-c", "1", "-W", "2", "10.0.1.6"])?;
    Ok(())
}

fn desired(network: &DesiredNetwork) -> Desired {
    Desired {
        underlay: None,
        networks: BTreeMap::from([(NetworkId::from_bytes([9; 16]), network.clone())]),
        peers: BTreeMap::new(),
    }
}

fn replaced(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let mut spec = bench.specs[0].clone();
    bench.linux.create_port(&spec)?;
    bench.succeed(0, &["touch", "/dev/null"])?;
    let same = bench.linux.processes(spec.endpoint)?;
    assert_eq!(same.len(), 1, "an equal spec takes the port up");
    spec.mac = MacAddr::new([2, 0, 0, 0, 0, 9]);
    bench.linux.create_port(&spec)?;
    assert_eq!(bench.linux.processes(spec.endpoint)?, []);
    let actual = bench.linux.actual()?;
    assert_eq!(
        actual.get(&spec.endpoint).map(|port| port.mac),
        Some(spec.mac)
    );
    Ok(())
}

/// As by a daemon that starts after the underlay has got another MTU.
fn taken_up(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let mut spec = bench.specs[0].clone();
    bench.succeed(0, &["touch", "/dev/null"])?;
    for mtu in [1_350, 1_450] {
        spec.mtu = mtu;
        let port = bench.linux.create_port(&spec)?;
        assert!(port.is_some(), "it can be read and written");
        let programs = bench.linux.processes(spec.endpoint)?;
        assert_eq!(programs.len(), 1, "its namespace stays");
        let actual = bench.linux.actual()?;
        let found = actual.get(&spec.endpoint).map(|port| port.mtu);
        assert_eq!(found, Some(mtu));
    }
    Ok(())
}

fn deleted(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), std::env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    let port = bench::port(&mut linux, &spec)?;
    linux.start(spec.endpoint, command(&["sleep", "60"]))?;
    let mut delete = linux.exec(spec.endpoint, command(&["ip", "link", "delete", "eth0"]))?;
    assert_eq!(delete.wait(Duration::from_secs(10))?, Some(Exit::Code(0)));
    let gone = || matches!(port.read_frame(&mut Vec::new()), Err(error) if error.kind() != ErrorKind::WouldBlock);
    eventually(gone, "an error of the port")?;
    assert_eq!(linux.actual()?, BTreeMap::new());
    // Its reader has it made anew; until then it is in the way of nobody.
    let network = network(&spec)?;
    assert_eq!(linux.apply(&desired(&network))?, []);

    let port = bench::port(&mut linux, &spec)?;
    assert_eq!(answers(&port)?, spec.mac);
    let actual = linux.actual()?;
    let found = actual.get(&spec.endpoint).ok_or("no port")?;
    assert_eq!((&found.addresses, found.up), (&spec.addresses, true));
    let running = linux.processes(spec.endpoint)?;
    let running = running.iter().filter(|process| process.exit.is_none());
    assert_eq!(running.count(), 1, "the program goes on");
    assert_eq!(linux.apply(&desired(&network))?, []);
    linux.remove_port(spec.endpoint)?;
    Ok(())
}

/// A namespace that a child of this test keeps, as a container's would be.
struct Foreign {
    keeper: std::process::Child,
    path: PathBuf,
}

impl Foreign {
    fn new() -> Outcome<Option<Self>> {
        let mut command = Command::new("unshare");
        let spawned = command.args(["--net", "sleep", "60"]).spawn();
        let Ok(keeper) = spawned else {
            return Ok(None);
        };
        let path = PathBuf::from(format!("/proc/{}/ns/net", keeper.id()));
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let mut foreign = Self { keeper, path };
        let moved = || {
            let now = std::fs::read_link(&foreign.path);
            now.is_ok_and(|now| now != own) || !matches!(foreign.keeper.try_wait(), Ok(None))
        };
        eventually(moved, "a namespace of its own")?;
        Ok(foreign.keeper.try_wait()?.is_none().then_some(foreign))
    }

    fn inside(&self, words: &[&str]) -> Outcome<String> {
        let target = format!("--net={}", self.path.display());
        let output = Command::new("nsenter").arg(target).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

fn joined(kind: PortKind) -> Outcome<()> {
    let Some(foreign) = Foreign::new()? else {
        say("SKIPPED: a namespace of somebody else: unshare --net is not possible");
        return Ok(());
    };
    let before = foreign.inside(&["ip", "-o", "link"])?;
    let mut specs = [spec(2)?, spec(3)?];
    specs[0].namespace = Namespace::Path(foreign.path.clone());
    specs[0].interface = "overlay0".into();
    specs[0].gateway = Some("10.0.1.3".parse()?);
    let mut bench = Bench::with(kind, specs)?;
    let text = foreign.inside(&["ping", "-n", "-c", "1", "-W", "2", "10.0.1.3"])?;
    assert!(text.contains(" 0% packet loss"), "{text}");
    let routes = foreign.inside(&["ip", "route"])?;
    assert!(
        routes.contains("default via 10.0.1.3 dev overlay0"),
        "{routes}"
    );
    // Its resolver's sockets are in there, too.
    let address: SocketAddr = "127.0.0.1:5353".parse()?;
    assert!(
        bench
            .linux
            .open_sockets(bench.endpoint(0), address)
            .is_err(),
        "its loopback interface is down, and none of our business"
    );
    // The name is taken now, for whoever else comes with it.
    let mut other = spec(7)?;
    other.namespace = Namespace::Path(foreign.path.clone());
    other.interface = "overlay0".into();
    let refused = bench.linux.create_port(&other);
    assert!(
        matches!(refused, Err(PlatformError::System { .. })),
        "{refused:?}"
    );
    // The frame side is still open in this process, and yet the interface goes.
    bench.linux.remove_port(bench.endpoint(0))?;
    assert_eq!(foreign.inside(&["ip", "-o", "link"])?, before);
    Ok(())
}

fn not_a_namespace(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), std::env::current_exe()?).with_kind(kind);
    let plain = folder.path().join("plain");
    File::create(&plain)?;
    let mut spec = spec(2)?;
    for (path, expected) in [
        (plain, ErrorKind::InvalidInput),
        (folder.path().join("absent"), ErrorKind::NotFound),
        // A namespace, but no network one.
        (PathBuf::from("/proc/self/ns/uts"), ErrorKind::InvalidInput),
    ] {
        spec.namespace = Namespace::Path(path.clone());
        match linux.create_port(&spec) {
            Err(PlatformError::Namespace { path: named, kind }) => {
                assert_eq!((named, kind), (path, expected));
            }
            other => return Err(format!("{}: {other:?}", path.display()).into()),
        }
    }
    spec.namespace = Namespace::InProcess;
    let refused = linux.create_port(&spec);
    assert!(
        matches!(refused, Err(PlatformError::Unsupported { .. })),
        "{refused:?}"
    );
    assert_eq!(linux.list()?, []);
    assert_eq!(
        std::fs::read_dir(folder.path())?.count(),
        1,
        "only the plain file"
    );
    Ok(())
}
