//! The kernel plane beside the same made by hand with `ip` and `bridge`: two hosts, one TCP flow, and round trips.
//!
//! Both are there at once, each with two hosts of its own, and take turns.
#![expect(
    clippy::disallowed_methods,
    reason = "programs are started and waited for, in real time"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs, io,
    net::IpAddr,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use nix::sched::{self, CloneFlags};
use overlay_core::{
    EndpointId, MacAddr, NetworkId, Vni,
    plane::{DataPath, Desired, DesiredNetwork, DesiredPort, RemoteEndpoint},
};
use overlay_linux::plane::{Host, Reconciler, Report, SwitchNamespace, Underlay, port_name};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Rounds of both.
pub const ROUNDS: usize = 15;

/// Starts [`measure`] in namespaces that end with it.
pub fn run(rounds: usize) -> Outcome<()> {
    let rounds = rounds.max(1).to_string();
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private"]);
    command
        .arg(env::current_exe()?)
        .args(["kernel-inside", &rounds]);
    Err(command.exec().into())
}

/// Measures both, alternately.
pub fn measure(rounds: usize) -> Outcome<()> {
    let folder = env::temp_dir().join(format!("overlay-benchmark-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure_in(&folder, rounds);
    // Each file in there keeps a namespace.
    for entry in fs::read_dir(&folder)? {
        SwitchNamespace::open(entry?.path())?.remove()?;
    }
    fs::remove_dir(&folder)?;
    measured
}

fn measure_in(folder: &Path, rounds: usize) -> Outcome<()> {
    let plane = Pair::new(folder, "plane")?;
    let (operations, took) = plane.carry()?;
    println!("kernel plane: {operations} operations made it on both hosts, {took} ms");
    let hand = Pair::new(folder, "hand")?;
    hand.wire_by_hand()?;
    for pair in [&plane, &hand] {
        pair.settle()?;
    }
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    println!(
        "{:>5} {:>14} {:>14} {:>7} {:>13} {:>13} {:>7}",
        "round", "plane Mbit/s", "hand Mbit/s", "ratio", "plane CPU/GB", "hand CPU/GB", "ratio"
    );
    for round in 0..rounds {
        let mut seen = [Flow::default(); 2];
        let mut order = [(0, &plane), (1, &hand)];
        if round % 2 == 1 {
            order.reverse();
        }
        for (at, pair) in order {
            seen[at] = pair.flow()?;
        }
        let [plane, hand] = seen;
        let (ratio, cost) = (plane.rate / hand.rate, plane.cost / hand.cost);
        println!(
            "{round:>5} {:>14.0} {:>14.0} {ratio:>7.3} {:>12.3}s {:>12.3}s {cost:>7.3}",
            plane.rate, hand.rate, plane.cost, hand.cost
        );
        ratios.push(ratio);
        costs.push(cost);
    }
    for all in [&mut ratios, &mut costs] {
        all.sort_by(f64::total_cmp);
    }
    let middle = rounds / 2;
    println!(
        "one TCP flow, median ratios: throughput {:.3}, CPU time of an octet {:.3}",
        ratios[middle], costs[middle]
    );
    for (name, pair) in [("plane", &plane), ("hand", &hand)] {
        println!("round trip, {name}: {}", pair.round_trip()?);
    }
    Ok(())
}

/// What one TCP flow came to.
#[derive(Clone, Copy, Default)]
struct Flow {
    /// Megabits a second.
    rate: f64,
    /// CPU time of both programs, with what the kernel does in their names, for a gigabyte, in seconds.
    cost: f64,
}

/// The number after a name, in what iperf3 writes.
fn number(text: &str, name: &str) -> Option<f64> {
    let (_, after) = text.split_once(&format!("\"{name}\":"))?;
    let end = after.find([',', '\n', '}'])?;
    after[..end].trim().parse().ok()
}

/// Two hosts joined by a veth pair of MTU 1,500, with an endpoint each.
struct Pair {
    hosts: [Side; 2],
}

struct Side {
    number: u8,
    outside: SwitchNamespace,
    switch: SwitchNamespace,
    endpoint: SwitchNamespace,
}

impl Pair {
    fn new(folder: &Path, name: &str) -> Outcome<Self> {
        let place =
            |what: &str, number: u8| -> PathBuf { folder.join(format!("{name}-{what}{number}")) };
        let hosts = [1, 2].map(|number| -> Outcome<Side> {
            let open = |what| SwitchNamespace::open(place(what, number));
            Ok(Side {
                number,
                outside: open("host")?,
                switch: open("switch")?,
                endpoint: open("endpoint")?,
            })
        });
        let [one, other] = hosts;
        let hosts = [one?, other?];
        let other = hosts[1].outside.path().display();
        sh(
            &hosts[0].outside,
            &format!("ip link add under type veth peer name under netns {other}"),
        )?;
        for host in &hosts {
            let number = host.number;
            sh(
                &host.outside,
                &format!("ip addr add 192.0.2.{number}/24 dev under"),
            )?;
            sh(&host.outside, "ip link set under up")?;
            let (mac, port) = (mac(number), port_name(endpoint(number)));
            let switch = host.switch.path().display();
            sh(
                &host.endpoint,
                &format!(
                    "ip link add eth0 address {mac} mtu 1450 type veth peer name {port} netns {switch}"
                ),
            )?;
            sh(
                &host.endpoint,
                &format!("ip addr add 10.0.1.{number}/24 dev eth0"),
            )?;
            sh(&host.endpoint, "ip link set eth0 up")?;
        }
        Ok(Self { hosts })
    }

    /// Makes both hosts' planes; returns how many operations that took, and how long, in milliseconds.
    fn carry(&self) -> Outcome<(usize, u128)> {
        let start = std::time::Instant::now();
        let mut operations = 0;
        for host in &self.hosts {
            operations += host.carry()?.operations.len();
        }
        Ok((operations, start.elapsed().as_millis()))
    }

    /// The same devices and rows as the usual tools make them, without any filter.
    fn wire_by_hand(&self) -> Outcome<()> {
        for host in &self.hosts {
            let (near, far) = (host.number, 3 - host.number);
            let (switch, port) = (host.switch.path().display(), port_name(endpoint(near)));
            sh(
                &host.outside,
                &format!(
                    "ip link add vx0 type vxlan id 4097 dstport 4789 local 192.0.2.{near} nolearning"
                ),
            )?;
            sh(&host.outside, &format!("ip link set vx0 netns {switch}"))?;
            for words in [
                "ip link add br0 type bridge".to_owned(),
                "ip link set vx0 mtu 1450 master br0 up".to_owned(),
                format!("ip link set {port} mtu 1450 master br0 up"),
                "ip link set br0 mtu 1450 up".to_owned(),
                format!("bridge link set dev {port} learning off"),
                "bridge link set dev vx0 learning off neigh_suppress on".to_owned(),
                format!("bridge fdb replace {} dev {port} master static", mac(near)),
                format!("bridge fdb replace {} dev vx0 master static", mac(far)),
                format!(
                    "bridge fdb replace {} dev vx0 self dst 192.0.2.{far}",
                    mac(far)
                ),
                format!("bridge fdb append 00:00:00:00:00:00 dev vx0 self dst 192.0.2.{far}"),
                format!(
                    "ip neigh replace 10.0.1.{far} lladdr {} dev br0 nud permanent",
                    mac(far)
                ),
            ] {
                sh(&host.switch, &words)?;
            }
        }
        Ok(())
    }

    fn settle(&self) -> Outcome<()> {
        for _ in 0..50 {
            if sh(&self.hosts[0].endpoint, "ping -n -q -c 1 -W 1 10.0.1.2").is_ok() {
                return Ok(());
            }
        }
        Err("the hosts do not reach each other".into())
    }

    /// One TCP flow for two seconds.
    fn flow(&self) -> Outcome<Flow> {
        let mut server = command(&self.hosts[1].endpoint, "iperf3 -s -1");
        let mut server = server.stdout(Stdio::null()).spawn()?;
        let mut said = Err("no measurement".into());
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(100));
            said = sh(&self.hosts[0].endpoint, "iperf3 -J -c 10.0.1.2 -t 2");
            if said.is_ok() {
                break;
            }
        }
        let said = said?;
        server.wait()?;
        let received = said.rfind("\"sum_received\"").ok_or("no figures")?;
        let figure = |name: &str| number(&said[received..], name).ok_or("a figure is missing");
        let (rate, seconds, octets) = (
            figure("bits_per_second")?,
            figure("seconds")?,
            figure("bytes")?,
        );
        let busy = (figure("host_total")? + figure("remote_total")?) / 100.0 * seconds;
        Ok(Flow {
            rate: rate / 1e6,
            cost: busy / octets * 1e9,
        })
    }

    fn round_trip(&self) -> Outcome<String> {
        let said = sh(
            &self.hosts[0].endpoint,
            "ping -n -q -i 0.002 -c 1000 10.0.1.2",
        )?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }
}

impl Side {
    /// Makes the plane, as a daemon does: in a thread that is in the host's namespace.
    fn carry(&self) -> Outcome<Report> {
        let namespace = self.outside.as_fd().try_clone_to_owned()?;
        let (switch, number) = (self.switch.path().to_owned(), self.number);
        let carried = thread::spawn(move || -> Outcome<Report> {
            sched::setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let underlay = Underlay {
                local: vtep(number),
                port: 4789,
            };
            let host = Host::open(SwitchNamespace::open(switch)?)?;
            Ok(Reconciler::new(host, underlay).apply(&desired(number)?)?)
        });
        carried.join().map_err(|_| "the thread panicked")?
    }
}

fn desired(near: u8) -> Outcome<Desired> {
    let far = 3 - near;
    let port = DesiredPort {
        mac: mac(near),
        addresses: vec![format!("10.0.1.{near}/24").parse()?],
    };
    let remote = RemoteEndpoint {
        mac: mac(far),
        addresses: vec![format!("10.0.1.{far}").parse()?],
        vtep: vtep(far),
    };
    let network = DesiredNetwork {
        vlan_tags: false,
        encrypted: false,
        policy: Default::default(),
        vni: Vni::new(4097).ok_or("no VNI")?,
        path: DataPath::Kernel,
        subnets: vec!["10.0.1.0/24".parse()?],
        mtu: 1_450,
        ports: BTreeMap::from([(endpoint(near), port)]),
        remotes: BTreeMap::from([(endpoint(far), remote)]),
        vteps: BTreeSet::from([vtep(far)]),
        services: BTreeMap::new(),
    };
    Ok(Desired {
        peers: BTreeMap::new(),
        underlay: None,
        networks: BTreeMap::from([(NetworkId::from_bytes([1; 16]), network)]),
    })
}

fn vtep(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

fn mac(number: u8) -> MacAddr {
    MacAddr::from_ipv4([10, 0, 1, number].into())
}

fn sh(namespace: &SwitchNamespace, words: &str) -> Outcome<String> {
    let output = command(namespace, words).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Err(io::Error::other(format!("{words}: {text}")).into())
}

fn command(namespace: &SwitchNamespace, words: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.path().display()));
    command.args(words.split(' '));
    command
}
