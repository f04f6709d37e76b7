//! Several ports in one namespace.

use std::{
    collections::BTreeSet,
    env, fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use overlay_core::{
    EndpointId, MacAddr,
    plane::{Namespace, Platform, PlatformError, PortSpec},
};
use overlay_linux::{Exit, Linux, Offload, PortKind};

use super::{
    Test,
    bench::{self, Folder, Outcome, command, eventually, pause, run, succeed},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("one_namespace_has_an_interface_a_network", two_networks),
    ("a_namespace_goes_with_its_last_port", last_port),
    ("any_port_of_a_namespace_may_come_first", any_order),
    ("a_restarted_daemon_finds_all_ports", restarted),
    ("a_lost_holder_leaves_nothing_of_any_port", lost),
    ("what_nobody_wants_any_more_is_swept", swept),
    ("an_interface_belongs_to_one_endpoint", taken),
    ("an_interface_keeps_to_its_own_addresses", flux),
];

/// The endpoint 10.0.`network`.`number`.
fn spec(network: u8, number: u8) -> Outcome<PortSpec> {
    let address = Ipv4Addr::new(10, 0, network, number);
    Ok(PortSpec {
        endpoint: id(network, number),
        mac: MacAddr::from_ipv4(address),
        addresses: vec![format!("{address}/24").parse()?],
        ..bench::spec(number)?
    })
}

fn id(network: u8, number: u8) -> EndpointId {
    EndpointId::from_bytes([network * 16 + number; 16])
}

/// The same in the namespace of another.
fn beside(mut spec: PortSpec, with: &PortSpec, interface: u8) -> PortSpec {
    let with = with.endpoint;
    spec.interface = format!("eth{interface}");
    spec.namespace = Namespace::Shared { with, interface };
    spec.hostname = "alpine2".into();
    spec
}

/// One on two networks, and one on each of them; ports of a network are joined.
struct Networks {
    linux: Linux,
    both: [PortSpec; 2],
    others: [PortSpec; 2],
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
    folder: Folder,
}

impl Networks {
    fn new(kind: PortKind) -> Outcome<Self> {
        let folder = Folder::new()?;
        let linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
        let first = spec(1, 2)?;
        let second = beside(spec(2, 2)?, &first, 1);
        let mut networks = Self {
            linux,
            both: [first, second],
            others: [spec(1, 3)?, spec(2, 3)?],
            stop: Arc::new(AtomicBool::new(false)),
            carriers: Vec::new(),
            folder,
        };
        networks.carry()?;
        Ok(networks)
    }

    fn carry(&mut self) -> Outcome<()> {
        for (one, other) in self.both.iter().zip(&self.others) {
            let ports = [
                bench::port(&mut self.linux, one)?,
                bench::port(&mut self.linux, other)?,
            ];
            let stop = Arc::clone(&self.stop);
            let seen = bench::Seen::default();
            let carrier = thread::Builder::new();
            let carrier = carrier.spawn(move || bench::carry(&ports, &stop, &seen))?;
            self.carriers.push(carrier);
        }
        Ok(())
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
        self.stop = Arc::new(AtomicBool::new(false));
    }

    fn name(&self) -> EndpointId {
        self.both[0].endpoint
    }

    fn pings(&self, from: EndpointId, to: &str) -> Outcome<bool> {
        let words = ["ping", "-n", "-c", "1", "-W", "1", to];
        Ok(run(&self.linux, from, &words)?.0 == Exit::Code(0))
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.halt();
        for spec in self.both.iter().chain(&self.others) {
            if let Err(error) = self.linux.remove_port(spec.endpoint) {
                bench::say(&format!("cannot remove a port: {error}"));
            }
        }
    }
}

fn two_networks(kind: PortKind) -> Outcome<()> {
    let mut networks = Networks::new(kind)?;
    let name = networks.name();
    for to in ["10.0.1.3", "10.0.2.3"] {
        assert!(networks.pings(name, to)?, "{to}");
    }
    assert!(networks.pings(networks.others[0].endpoint, "10.0.1.2")?);
    assert!(networks.pings(networks.others[1].endpoint, "10.0.2.2")?);
    // Who is on one of them reaches nobody on the other.
    assert!(!networks.pings(networks.others[0].endpoint, "10.0.2.3")?);
    assert!(!networks.pings(networks.others[0].endpoint, "10.0.2.2")?);
    let hosts = succeed(&networks.linux, name, &["cat", "/etc/hosts"])?;
    let lines = "10.0.1.2\talpine2\n10.0.2.2\talpine2\n";
    assert!(hosts.ends_with(lines), "{hosts}");
    for (spec, interface) in networks.both.clone().iter().zip(["eth0", "eth1"]) {
        let actual = networks.linux.actual()?;
        let actual = &actual[&spec.endpoint];
        assert_eq!(actual.interface, interface);
        assert_eq!((actual.mac, &actual.addresses), (spec.mac, &spec.addresses));
    }
    // One process keeps both, and the resolver of one is that of the other.
    let processes = networks.linux.processes(networks.both[1].endpoint)?;
    assert_eq!(processes, networks.linux.processes(name)?);
    let at = "127.0.0.11:53".parse()?;
    let one = networks.linux.open_sockets(name, at)?;
    let other = networks.linux.open_sockets(networks.both[1].endpoint, at)?;
    assert_eq!(one.udp.local_addr()?, other.udp.local_addr()?);
    Ok(())
}

fn last_port(kind: PortKind) -> Outcome<()> {
    let mut networks = Networks::new(kind)?;
    let name = networks.name();
    let main = command(&["sleep", "1000"]);
    let mut main = networks.linux.start(name, main)?;
    // The one after which it is named goes: its programs stay, and the other port.
    networks.linux.remove_port(name)?;
    assert_eq!(main.try_wait()?, None);
    assert!(networks.pings(name, "10.0.2.3")?);
    assert!(!networks.pings(name, "10.0.1.3")?);
    let links = succeed(&networks.linux, name, &["cat", "/proc/net/dev"])?;
    assert!(!links.contains("eth0"), "{links}");
    let unknown = networks.linux.way_out(name);
    assert!(matches!(
        unknown,
        Err(PlatformError::UnknownEndpoint { endpoint }) if endpoint == name
    ));
    let hosts = succeed(&networks.linux, name, &["cat", "/etc/hosts"])?;
    assert!(!hosts.contains("10.0.1.2"), "{hosts}");
    // Another takes its place and its interface.
    let again = beside(spec(1, 4)?, &networks.both[0], 0);
    networks.linux.create_port(&again)?;
    let links = succeed(&networks.linux, name, &["cat", "/proc/net/dev"])?;
    assert!(links.contains("eth0"), "{links}");
    networks.linux.remove_port(networks.both[1].endpoint)?;
    assert_eq!(main.try_wait()?, None);
    networks.linux.remove_port(again.endpoint)?;
    let exit = main.wait(Duration::from_secs(5))?;
    assert!(exit.is_some(), "all ended with the last port");
    networks.halt();
    for spec in &networks.others {
        networks.linux.remove_port(spec.endpoint)?;
    }
    empty(&networks.folder)
}

/// Nothing but what the daemon itself remembers is in the folder.
fn empty(folder: &Folder) -> Outcome<()> {
    let left: Result<Vec<_>, _> = fs::read_dir(folder.path())?.collect();
    let left: Vec<_> = left?.iter().map(fs::DirEntry::file_name).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

fn any_order(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let first = spec(1, 2)?;
    let second = beside(spec(2, 2)?, &first, 1);
    linux.create_port(&second)?;
    // Programs go by the name, also while the endpoint of that name is not there.
    let links = ["cat", "/proc/net/dev"];
    let before = succeed(&linux, first.endpoint, &links)?;
    assert!(
        before.contains("eth1") && !before.contains("eth0"),
        "{before}"
    );
    linux.create_port(&first)?;
    let after = succeed(&linux, first.endpoint, &links)?;
    assert!(after.contains("eth0") && after.contains("eth1"), "{after}");
    linux.remove_port(second.endpoint)?;
    // Again, as whoever does not know whether it was done does.
    linux.remove_port(second.endpoint)?;
    let after = succeed(&linux, first.endpoint, &links)?;
    assert!(after.contains("eth0") && !after.contains("eth1"), "{after}");
    linux.remove_port(first.endpoint)?;
    empty(&folder)
}

fn restarted(kind: PortKind) -> Outcome<()> {
    let mut networks = Networks::new(kind)?;
    let name = networks.name();
    let mut main = networks.linux.start(name, command(&["sleep", "1000"]))?;
    networks.halt();
    let fresh = Linux::new(networks.folder.path(), env::current_exe()?).with_kind(kind);
    networks.linux = fresh;
    let found: Vec<_> = networks.linux.list()?;
    assert_eq!(found.len(), 4);
    for spec in networks.both.iter().chain(&networks.others) {
        assert!(found.iter().any(|found| found.spec == *spec), "{spec:?}");
    }
    networks.carry()?;
    assert_eq!(main.try_wait()?, None);
    for to in ["10.0.1.3", "10.0.2.3"] {
        assert!(networks.pings(name, to)?, "{to}");
    }
    Ok(())
}

fn lost(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let first = spec(1, 2)?;
    let second = beside(spec(2, 2)?, &first, 1);
    for order in [[0, 1], [1, 0]] {
        let ports = [&first, &second];
        for spec in ports {
            linux.create_port(spec)?;
        }
        // Process 1 of a namespace is killed from outside only.
        let shown = succeed(&linux, first.endpoint, &["readlink", "/proc/1/ns/net"])?;
        let mut holders = Vec::new();
        for process in fs::read_dir("/proc")? {
            let path = process?.path().join("ns/net");
            let link = fs::read_link(&path).unwrap_or_default();
            if link.to_string_lossy() == shown.trim() {
                let number = path.iter().nth(2).and_then(|name| name.to_str());
                holders.push(number.ok_or("no number")?.parse()?);
            }
        }
        let [holder] = holders[..] else {
            return Err(format!("{holders:?} keep one namespace").into());
        };
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(holder),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        let gone = || linux.processes(first.endpoint).is_err();
        eventually(gone, "the end of the holder")?;
        assert_eq!(linux.list()?.len(), 2, "what it wrote down");
        for which in order {
            linux.remove_port(ports[which].endpoint)?;
        }
        empty(&folder)?;
    }
    Ok(())
}

/// What a daemon leaves that dies between two steps.
fn swept(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let first = spec(1, 2)?;
    let second = beside(spec(2, 2)?, &first, 1);
    let other = spec(1, 3)?;
    for spec in [&first, &second, &other] {
        linux.create_port(spec)?;
    }
    // A folder without a holder, and a link that leads nowhere.
    let (lost, link) = (id(3, 1), id(3, 2));
    fs::create_dir(folder.path().join(lost.to_string()))?;
    std::os::unix::fs::symlink(lost.to_string(), folder.path().join(link.to_string()))?;
    let main = command(&["sleep", "1000"]);
    let mut main = linux.start(first.endpoint, main)?;
    let kept = BTreeSet::from([second.endpoint]);
    let gone: BTreeSet<_> = linux.retain_ports(&kept)?.into_iter().collect();
    let expected = [first.endpoint, other.endpoint, lost, link];
    assert_eq!(gone, BTreeSet::from(expected));
    assert_eq!(main.try_wait()?, None);
    let ports: Vec<_> = linux.actual()?.into_keys().collect();
    assert_eq!(ports, [second.endpoint]);
    assert_eq!(linux.retain_ports(&kept)?, [], "again");
    linux.retain_ports(&BTreeSet::new())?;
    empty(&folder)
}

fn taken(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let first = spec(1, 2)?;
    linux.create_port(&first)?;
    let second = beside(spec(2, 2)?, &first, 0);
    let refused = linux.create_port(&second).map(drop);
    let said = refused.expect_err("eth0 is taken").to_string();
    assert!(said.contains("make eth0"), "{said}");
    assert_eq!(linux.list()?.len(), 1, "nothing half made is left");
    succeed(&linux, first.endpoint, &["grep", "eth0", "/proc/net/dev"])?;
    linux.remove_port(first.endpoint)?;
    empty(&folder)
}

/// A question for the address of one network on the other gets no answer.
fn flux(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let first = spec(1, 2)?;
    let second = beside(spec(2, 2)?, &first, 1);
    let ports = [
        bench::port(&mut linux, &first)?,
        bench::port(&mut linux, &second)?,
    ];
    let question = |target: [u8; 4]| {
        let asker = [2, 0x42, 10, 0, 1, 3];
        let mut request = vec![0xff; 6];
        request.extend_from_slice(&asker);
        request.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend_from_slice(&asker);
        request.extend_from_slice(&[10, 0, 1, 3, 0, 0, 0, 0, 0, 0]);
        request.extend_from_slice(&target);
        request
    };
    let mut reply = Vec::new();
    ports[0].write_frame(&question([10, 0, 2, 2]), Offload::NONE)?;
    pause(200)?;
    assert!(ports[0].read_frame(&mut reply).is_err(), "{reply:02x?}");
    ports[0].write_frame(&question([10, 0, 1, 2]), Offload::NONE)?;
    eventually(|| ports[0].read_frame(&mut reply).is_ok(), "an ARP reply")?;
    assert_eq!(reply[6..12], first.mac.octets());
    for spec in [&second, &first] {
        linux.remove_port(spec.endpoint)?;
    }
    empty(&folder)
}
