//! The ways between two containers on two hosts that are compared.

use std::{
    any::Any,
    env, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::host::{Namespace, Running, hosts, run, run_all, until};

/// A way between two programs on two hosts.
pub struct Setup {
    pub name: &'static str,
    /// The words in front of a command that runs it beside the one that asks.
    pub client: Vec<String>,
    /// The same beside the one that answers.
    pub server: Vec<String>,
    pub address: IpAddr,
    /// What the way is made of, in the order in which it goes.
    _parts: Vec<Box<dyn Any>>,
}

impl Setup {
    fn new(
        name: &'static str,
        [client, server]: [Vec<String>; 2],
        address: &str,
        parts: Vec<Box<dyn Any>>,
    ) -> Self {
        Self {
            name,
            client,
            server,
            address: address.parse().expect("an address"),
            _parts: parts,
        }
    }
}

/// The name of the kernel's own, made by hand.
pub const KERNEL: &str = "kernel vxlan";

/// The veth pair between the hosts, and nothing else.
pub fn raw() -> io::Result<Setup> {
    let hosts = hosts("raw")?;
    let prefixes = hosts.each_ref().map(Namespace::prefix);
    Ok(Setup::new(
        "raw veth",
        prefixes,
        "10.99.0.2",
        vec![Box::new(hosts)],
    ))
}

/// Two containers, each with an interface `e0` whose other end is `p0` of its host, without addresses yet.
fn containers(name: &str, hosts: &[Namespace; 2]) -> io::Result<[Namespace; 2]> {
    let made = [
        Namespace::new(&format!("{name}-c1"))?,
        Namespace::new(&format!("{name}-c2"))?,
    ];
    for (host, container) in hosts.iter().zip(&made) {
        host.ip(&format!(
            "link add p0 type veth peer name e0 netns {}",
            container.name
        ))?;
        host.ip("link set p0 up")?;
    }
    Ok(made)
}

/// Gives the containers' interfaces their addresses: `10.77.0.1` and `10.77.0.2`.
fn address(containers: &[Namespace; 2], interface: &str, mtu: u16) -> io::Result<()> {
    for (at, container) in containers.iter().enumerate() {
        let number = at + 1;
        let mac = format!("02:42:0a:4d:00:0{number}");
        container.ip(&format!("link set {interface} address {mac} mtu {mtu} up"))?;
        container.ip(&format!("addr add 10.77.0.{number}/24 dev {interface}"))?;
    }
    Ok(())
}

/// The kernel's own VXLAN: bridge, `nolearning`, static rows, made by hand.
pub fn kernel() -> io::Result<Setup> {
    let hosts = hosts("k")?;
    let containers = containers("k", &hosts)?;
    for (at, host) in hosts.iter().enumerate() {
        let (here, there) = (at + 1, 2 - at);
        host.ip("link add br0 type bridge")?;
        host.ip("link set br0 mtu 1450 up")?;
        let local = format!("local 10.99.0.{here} dev v0");
        host.ip(&format!(
            "link add vx0 type vxlan id 77 dstport 4789 nolearning proxy {local}"
        ))?;
        host.ip("link set vx0 master br0 mtu 1450 up")?;
        host.ip("link set p0 master br0 mtu 1450")?;
        let mac = format!("02:42:0a:4d:00:0{there}");
        host.bridge(&format!("fdb append {mac} dev vx0 dst 10.99.0.{there}"))?;
        host.ip(&format!(
            "neigh add 10.77.0.{there} lladdr {mac} dev vx0 nud permanent"
        ))?;
    }
    address(&containers, "e0", 1_450)?;
    let prefixes = containers.each_ref().map(Namespace::prefix);
    let parts: Vec<Box<dyn Any>> = vec![Box::new(containers), Box::new(hosts)];
    Ok(Setup::new(KERNEL, prefixes, "10.77.0.2", parts))
}

/// Ours: two daemons, a network, an endpoint on each.
pub struct Ours {
    name: &'static str,
    binary: PathBuf,
    folder: PathBuf,
    hosts: Option<[Namespace; 2]>,
    daemons: Vec<Running>,
}

impl Ours {
    /// Starts two daemons with these options and makes a cluster of them, with one network. The hosts' names begin with
    /// `prefix`.
    pub fn start(name: &'static str, prefix: &str, options: &[&str]) -> io::Result<Self> {
        let binary = env::var_os("OVERLAY")
            .map(PathBuf::from)
            .unwrap_or_else(|| {
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/overlay")
            });
        if !binary.exists() {
            return Err(io::Error::other(format!(
                "{} is not there: build it by `cargo build --release`, or name it in OVERLAY",
                binary.display()
            )));
        }
        let own = format!("overlay-benchmarks-{prefix}-{}", std::process::id());
        let folder = env::temp_dir().join(own);
        fs::create_dir_all(&folder)?;
        let hosts = hosts(prefix)?;
        let mut daemons = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            let number = at + 1;
            let state = folder.join(number.to_string());
            let mut words = host.prefix();
            words.push(binary.display().to_string());
            let socket = format!("{}/{number}.sock", folder.display());
            words.extend(["--socket".into(), socket, "daemon".into()]);
            words.extend(["--data-dir".into(), state.display().to_string()]);
            words.extend(["--name".into(), format!("host{number}")]);
            words.extend(["--advertise-addr".into(), format!("10.99.0.{number}")]);
            words.extend(options.iter().map(|option| (*option).to_owned()));
            daemons.push(Running::start(&words)?);
        }
        let hosts = Some(hosts);
        let ours = Self {
            name,
            binary,
            folder,
            hosts,
            daemons,
        };
        until(|| ours.say(0, "init"))?;
        let token = ours.say(0, "join-token -q manager")?;
        ours.say(1, &format!("join --token {} 10.99.0.1:2377", token.trim()))?;
        let network = "network create --attachable --subnet 10.88.0.0/24 bench";
        until(|| ours.say(0, network))?;
        Ok(ours)
    }

    /// Runs the command line of one host's daemon.
    fn say(&self, host: usize, line: &str) -> io::Result<String> {
        let mut words = self.words(host);
        words.extend(line.split_whitespace().map(str::to_owned));
        run_all(&words)
    }

    fn words(&self, host: usize) -> Vec<String> {
        let mut words = self.hosts.as_ref().expect("until the end")[host].prefix();
        words.push(self.binary.display().to_string());
        words.extend([
            "--socket".into(),
            format!("{}/{}.sock", self.folder.display(), host + 1),
        ]);
        words
    }

    /// The way between an endpoint on each host.
    pub fn setup(self) -> io::Result<Setup> {
        let prefix = |host, name: &str| {
            let mut words = self.words(host);
            words.extend(["exec".into(), name.into(), "--".into()]);
            words
        };
        for host in 0..2 {
            let number = host + 1;
            self.say(
                host,
                &format!("run -d --name c{number} --network bench -- sleep 100000"),
            )?;
        }
        let prefixes = [prefix(0, "c1"), prefix(1, "c2")];
        let mut ask = prefixes[0].clone();
        ask.extend("getent ahostsv4 c2".split(' ').map(str::to_owned));
        let found = until(|| run_all(&ask))?;
        let address = found
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        Ok(Setup::new(
            self.name,
            prefixes,
            &address,
            vec![Box::new(self)],
        ))
    }

    /// How long it takes from the command that attaches an endpoint to the first answer to a ping by its name from another
    /// host, the start of a program there included.
    pub fn attach_and_ping(&self, round: usize) -> io::Result<Duration> {
        if round == 0 {
            self.say(0, "run -d --name asker --network bench -- sleep 100000")?;
        }
        let name = format!("new{round}");
        let start = Instant::now();
        self.say(
            1,
            &format!("run -d --name {name} --network bench -- sleep 100000"),
        )?;
        let mut ping = self.words(0);
        ping.extend(
            format!("exec asker -- ping -c 1 -W 1 {name}")
                .split(' ')
                .map(str::to_owned),
        );
        let end = start + Duration::from_secs(10);
        while let Err(error) = run_all(&ping) {
            if Instant::now() > end {
                return Err(error);
            }
        }
        let took = start.elapsed();
        self.say(1, &format!("rm -f {name}"))?;
        Ok(took)
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        for host in 0..2 {
            let Ok(listed) = self.say(host, "ps -q") else {
                continue;
            };
            for endpoint in listed.split_whitespace() {
                let _ = self.say(host, &format!("rm -f {endpoint}"));
            }
            // The answer comes before the last process of an endpoint has gone, and a daemon that ends leaves it behind.
            let left = self.folder.join(format!("{}/endpoints", host + 1));
            let none = || match fs::read_dir(&left)?.next() {
                None => Ok(()),
                Some(_) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            };
            let _ = until(none);
        }
        self.daemons.clear();
        self.hosts = None;
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Open vSwitch in user space (its `netdev` datapath), by packet sockets.
pub fn ovs() -> io::Result<Setup> {
    let folder = env::temp_dir().join(format!("overlay-benchmarks-ovs-{}", std::process::id()));
    let hosts = hosts("v")?;
    let containers = containers("v", &hosts)?;
    let mut parts: Vec<Box<dyn Any>> = Vec::new();
    for (at, host) in hosts.iter().enumerate() {
        let (here, there) = (at + 1, 2 - at);
        let place = folder.join(here.to_string());
        fs::create_dir_all(&place)?;
        let place = place.display().to_string();
        run(
            "ovsdb-tool",
            [
                "create",
                &format!("{place}/db"),
                "/usr/share/openvswitch/vswitch.ovsschema",
            ],
        )?;
        let start = |line: String| {
            let mut words = host.prefix();
            words.extend(["env".into(), format!("OVS_RUNDIR={place}")]);
            words.extend(line.split_whitespace().map(str::to_owned));
            Running::start(&words)
        };
        parts.push(Box::new(start(format!(
            "ovsdb-server {place}/db --remote=punix:{place}/db.sock"
        ))?));
        let set = |line: &str| {
            let mut words = host.prefix();
            words.extend(["ovs-vsctl".into(), format!("--db=unix:{place}/db.sock")]);
            words.extend(["-t".into(), "10".into()]);
            words.extend(line.split_whitespace().map(str::to_owned));
            run_all(&words)
        };
        until(|| set("--no-wait init"))?;
        parts.push(Box::new(start(format!(
            "ovs-vswitchd unix:{place}/db.sock"
        ))?));
        for bridge in ["phy", "br0"] {
            set(&format!(
                "add-br {bridge} -- set bridge {bridge} datapath_type=netdev"
            ))?;
        }
        host.ip("addr flush dev v0")?;
        set("add-port phy v0")?;
        host.ip(&format!("addr add 10.99.0.{here}/24 dev phy"))?;
        host.ip("link set phy up")?;
        set("add-port br0 p0")?;
        let options = format!("options:remote_ip=10.99.0.{there} options:key=77");
        set(&format!(
            "add-port br0 vx0 -- set interface vx0 type=vxlan {options}"
        ))?;
    }
    address(&containers, "e0", 1_450)?;
    // Its packet sockets take neither super-frames nor partial checksums.
    for namespace in containers.iter().chain(&hosts) {
        let interface = if namespace.name.contains("-c") {
            "e0"
        } else {
            "v0"
        };
        let mut words = namespace.prefix();
        words.extend(
            format!("ethtool -K {interface} tx off")
                .split(' ')
                .map(str::to_owned),
        );
        run_all(&words)?;
    }
    thread::sleep(Duration::from_secs(1));
    let prefixes = containers.each_ref().map(Namespace::prefix);
    parts.reverse();
    parts.extend([
        Box::new(containers) as Box<dyn Any>,
        Box::new(hosts),
        Box::new(Folder(folder)),
    ]);
    Ok(Setup::new(
        "OVS, netdev datapath",
        prefixes,
        "10.77.0.2",
        parts,
    ))
}

/// A frame, a datagram: see [`plain`](super::plain).
pub fn plain() -> io::Result<Setup> {
    let own = env::current_exe()?.display().to_string();
    let mut words = |host: &Namespace, here: usize, there: usize| {
        let line = format!("{own} plane-carry tap0 10.99.0.{here}:4789 10.99.0.{there}:4789");
        let mut words = host.prefix();
        words.extend(line.split_whitespace().map(str::to_owned));
        words
    };
    taps("plain TAP", "t", 1_450, &mut words)
}

/// OpenVPN with TAP devices, without encryption.
pub fn openvpn() -> io::Result<Setup> {
    let mut words = |host: &Namespace, here: usize, there: usize| {
        let mut words = host.prefix();
        let line = format!(
            "openvpn --dev tap0 --dev-type tap --proto udp --local 10.99.0.{here} --remote 10.99.0.{there} \
             --cipher none --auth none --ping 10 --sndbuf 4194304 --rcvbuf 4194304 --txqueuelen 2000 --tun-mtu 1400"
        );
        words.extend(line.split_whitespace().map(str::to_owned));
        words
    };
    taps("OpenVPN TAP, no cipher", "p", 1_400, &mut words)
}

/// A program on each host that makes the TAP device `tap0`, which then is the container's interface. `words` are the command,
/// with the numbers of both hosts.
fn taps(
    name: &'static str,
    prefix: &str,
    mtu: u16,
    words: &mut dyn FnMut(&Namespace, usize, usize) -> Vec<String>,
) -> io::Result<Setup> {
    let hosts = hosts(prefix)?;
    let containers = [
        Namespace::new(&format!("{prefix}-c1"))?,
        Namespace::new(&format!("{prefix}-c2"))?,
    ];
    let mut parts: Vec<Box<dyn Any>> = Vec::new();
    for (at, host) in hosts.iter().enumerate() {
        let words = words(host, at + 1, 2 - at);
        parts.push(Box::new(Running::start(&words)?));
        until(|| host.ip(&format!("link set tap0 netns {}", containers[at].name)))?;
    }
    address(&containers, "tap0", mtu)?;
    let prefixes = containers.each_ref().map(Namespace::prefix);
    parts.extend([Box::new(containers) as Box<dyn Any>, Box::new(hosts)]);
    Ok(Setup::new(name, prefixes, "10.77.0.2", parts))
}

/// A folder that goes with this value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
