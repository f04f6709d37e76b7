//! Two hosts in network namespaces, joined by a veth pair, with two endpoints each.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{self, Write},
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
};

use nix::{
    poll::{PollTimeout, poll},
    sched::{self, CloneFlags},
};
use overlay_core::{
    EndpointId, MacAddr, NetworkId, Vni,
    plane::{DataPath, Desired, DesiredNetwork, DesiredPort, RemoteEndpoint},
};
use overlay_linux::plane::{Host, Reconciler, SwitchNamespace, Underlay, port_name};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The index of one end of each pair: the kernel takes an end whose index is its peer's for no pair, and sees up to a
/// second late that it is up (`linkwatch`).
pub(crate) const OWN_INDEX: u8 = 100;

/// Both hosts.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) hosts: [Node; 2],
    /// The endpoints' namespaces, from 1.
    pub(crate) endpoints: BTreeMap<u8, SwitchNamespace>,
    pub(crate) folder: Folder,
}

/// One host with its plane.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: IpAddr,
    /// The namespace of the underlay.
    pub(crate) outside: SwitchNamespace,
    pub(crate) plane: Reconciler<Host>,
    pub(crate) switch: PathBuf,
    pub(crate) desired: Desired,
}

impl World {
    /// With planes that hold what is desired, and pairs that carry.
    pub(crate) fn new(v6: bool) -> Outcome<Self> {
        let mut world = Self::bare(v6)?;
        for host in 0..2 {
            world.apply(host)?;
        }
        // How soon the kernel sees that a pair which was made by hand is up is not what the stories are of.
        for (from, to) in [(1, 3), (2, 4)] {
            // A try without an answer takes two seconds.
            let _ = (0..3).any(|_| world.reaches(from, to).is_ok());
        }
        Ok(world)
    }

    /// With planes that hold nothing yet.
    pub(crate) fn bare(v6: bool) -> Outcome<Self> {
        let folder = Folder::new("plane")?;
        let place = |name: &str| folder.path().join(name);
        let outsides = [1, 2].map(|number| SwitchNamespace::open(place(&format!("host{number}"))));
        let [one, other] = outsides;
        let (one, other) = (one?, other?);
        run(
            &one,
            &format!(
                "ip link add under index {OWN_INDEX} type veth peer name under netns {}",
                other.path().display()
            ),
        )?;
        for (number, host) in [(1, &one), (2, &other)] {
            run(host, &format!("ip addr add 192.0.2.{number}/24 dev under"))?;
            // The namespaces of this crate speak no IPv6 of their own accord.
            run(host, "sysctl -qw net.ipv6.conf.under.disable_ipv6=0")?;
            run(
                host,
                &format!("ip addr add 2001:db8::{number}/64 dev under nodad"),
            )?;
            run(host, "ip link set under up")?;
            run(host, "ip link set lo up")?;
        }
        let [one, other] = [(1, one), (2, other)].map(|(number, outside)| -> Outcome<Node> {
            let address = address(v6, number)?;
            let switch = place(&format!("switch{number}"));
            let plane = open(&outside, &switch, address)?;
            let desired = desired(number, v6)?;
            Ok(Node {
                address,
                outside,
                plane,
                switch,
                desired,
            })
        });
        let mut world = Self {
            hosts: [one?, other?],
            endpoints: BTreeMap::new(),
            folder,
        };
        for number in 1..=4 {
            world.attach(number)?;
        }
        Ok(world)
    }

    /// Makes the port of an endpoint, as its holder does.
    pub(crate) fn attach(&mut self, number: u8) -> Outcome<()> {
        let path = self.folder.path().join(format!("endpoint{number}"));
        let inside = SwitchNamespace::open(path)?;
        let host = &self.hosts[host_of(number)];
        let port = port_name(endpoint(number));
        let (switch, mtu) = (host.switch.display(), mtu(host.address.is_ipv6()));
        let mac = mac(number);
        run(
            &inside,
            &format!(
                "ip link add eth0 index {OWN_INDEX} address {mac} mtu {mtu} type veth peer name {port} netns {switch}"
            ),
        )?;
        run(&inside, "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0")?;
        run(&inside, &format!("ip addr add 10.0.1.{number}/24 dev eth0"))?;
        run(
            &inside,
            &format!("ip addr add fd00:1::{number}/64 dev eth0 nodad"),
        )?;
        run(&inside, "ip link set eth0 up")?;
        run(&inside, "ip link set lo up")?;
        self.endpoints.insert(number, inside);
        Ok(())
    }

    /// Makes a host's plane as it is desired.
    pub(crate) fn apply(&mut self, host: usize) -> Outcome<overlay_linux::plane::Report> {
        let node = &mut self.hosts[host];
        let desired = node.desired.clone();
        Ok(node.plane.apply(&desired)?)
    }

    /// What a host's plane would do, in words.
    pub(crate) fn plan(&mut self, host: usize) -> Outcome<Vec<String>> {
        let node = &mut self.hosts[host];
        let desired = node.desired.clone();
        let report = node.plane.plan(&desired)?;
        Ok(report.operations.iter().map(ToString::to_string).collect())
    }

    /// Runs something in an endpoint's namespace.
    pub(crate) fn inside(&self, number: u8, words: &str) -> Outcome<String> {
        run(
            self.endpoints.get(&number).ok_or("no such endpoint")?,
            words,
        )
    }

    /// Runs something in the switch namespace of a host.
    pub(crate) fn in_switch(&self, host: usize, words: &str) -> Outcome<String> {
        within(&self.hosts[host].switch, words)
    }

    /// Runs something in the namespace of a host.
    pub(crate) fn outside(&self, host: usize, words: &str) -> Outcome<String> {
        run(&self.hosts[host].outside, words)
    }

    /// Whether an endpoint is answered by another.
    pub(crate) fn reaches(&self, from: u8, to: u8) -> Outcome<()> {
        self.inside(from, &format!("ping -n -c 1 -W 2 10.0.1.{to}"))?;
        self.inside(from, &format!("ping -n -c 1 -W 2 fd00:1::{to}"))?;
        Ok(())
    }

    /// Starts something in an endpoint's namespace.
    pub(crate) fn start(&self, number: u8, words: &str) -> Outcome<Child> {
        let inside = self.endpoints.get(&number).ok_or("no such endpoint")?;
        let mut command = command(inside.path(), words);
        Ok(command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?)
    }
}

/// Opens a host's plane, as a daemon does.
pub(crate) fn open(
    outside: &SwitchNamespace,
    switch: &Path,
    address: IpAddr,
) -> Outcome<Reconciler<Host>> {
    let switch = switch.to_owned();
    let host = inside_of(outside, || Ok(Host::open(SwitchNamespace::open(switch)?)?))?;
    let underlay = Underlay {
        local: address,
        port: 4789,
    };
    Ok(Reconciler::new(host, underlay))
}

/// What one of the hosts, 1 or 2, shall have.
pub(crate) fn desired(host: u8, v6: bool) -> Outcome<Desired> {
    let (mut ports, mut remotes) = (BTreeMap::new(), BTreeMap::new());
    for number in 1..=4_u8 {
        let addresses = [
            format!("10.0.1.{number}/24"),
            format!("fd00:1::{number}/64"),
        ];
        let addresses: Result<Vec<ipnet::IpNet>, _> = addresses.iter().map(|a| a.parse()).collect();
        let (addresses, mac) = (addresses?, mac(number));
        if host_of(number) + 1 == usize::from(host) {
            ports.insert(endpoint(number), DesiredPort { mac, addresses });
        } else {
            let addresses = addresses.iter().map(ipnet::IpNet::addr).collect();
            let vtep = address(v6, 3 - host)?;
            remotes.insert(
                endpoint(number),
                RemoteEndpoint {
                    mac,
                    addresses,
                    vtep,
                },
            );
        }
    }
    let network = DesiredNetwork {
        vlan_tags: false,
        encrypted: false,
        policy: Default::default(),
        vni: Vni::new(4097).ok_or("no VNI")?,
        path: DataPath::Kernel,
        subnets: vec!["10.0.1.0/24".parse()?, "fd00:1::/64".parse()?],
        mtu: mtu(v6),
        ports,
        remotes,
        vteps: BTreeSet::from([address(v6, 3 - host)?]),
        services: BTreeMap::new(),
    };
    let id = NetworkId::from_bytes([1; 16]);
    Ok(Desired {
        peers: BTreeMap::new(),
        underlay: None,
        networks: BTreeMap::from([(id, network)]),
    })
}

/// 1,500 octets less the outer headers.
pub(crate) fn mtu(v6: bool) -> u16 {
    if v6 { 1430 } else { 1450 }
}

fn address(v6: bool, number: u8) -> Outcome<IpAddr> {
    let text = if v6 {
        format!("2001:db8::{number}")
    } else {
        format!("192.0.2.{number}")
    };
    Ok(text.parse()?)
}

pub(crate) fn host_of(number: u8) -> usize {
    usize::from(number > 2)
}

pub(crate) fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

pub(crate) fn mac(number: u8) -> MacAddr {
    MacAddr::from_ipv4([10, 0, 1, number].into())
}

/// Runs something in a namespace; its output, or what it said if it failed.
pub(crate) fn run(namespace: &SwitchNamespace, words: &str) -> Outcome<String> {
    within(namespace.path(), words)
}

pub(crate) fn within(namespace: &Path, words: &str) -> Outcome<String> {
    let output = command(namespace, words).output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{words}: {}\n{text}", output.status).into())
    }
}

fn command(namespace: &Path, words: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display()));
    command.args(words.split(' '));
    command
}

/// Whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new("which").arg(program).output();
    found.is_ok_and(|output| output.status.success())
}

pub(crate) fn pause(milliseconds: u16) {
    let _ = poll(&mut [], PollTimeout::from(milliseconds));
}

/// Waits until something is so, for some seconds.
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool, what: &str) -> Outcome<()> {
    for _ in 0..500 {
        if is_so() {
            return Ok(());
        }
        pause(10);
    }
    Err(format!("not even after seconds: {what}").into())
}

pub(crate) fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// A folder that goes with this value.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Outcome<Self> {
        let path = env::temp_dir().join(format!("overlay-{name}-{}", process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Files that keep namespaces are in the way, as long as they do.
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let _ = nix::mount::umount2(&entry.path(), nix::mount::MntFlags::MNT_DETACH);
            }
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Does something in a thread that is in a namespace.
pub(crate) fn inside_of<T: Send + 'static>(
    namespace: &SwitchNamespace,
    act: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let descriptor = namespace.as_fd().try_clone_to_owned()?;
    let within = move || -> Outcome<T> {
        sched::setns(descriptor, CloneFlags::CLONE_NEWNET)?;
        act()
    };
    let acted = thread::Builder::new().spawn(within)?;
    acted.join().map_err(|_| "the thread panicked")?
}
