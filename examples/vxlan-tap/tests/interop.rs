//! The example against VXLAN that somebody else made: a kernel device set up by hand, and Open vSwitch in user space.
//!
//! As root, in network namespaces of its own. Says `SKIPPED` where that, or a program, is not to be had.

#[path = "interop/lab.rs"]
mod lab;

use std::{
    fs,
    io::BufReader,
    path::PathBuf,
    process::{self, ChildStdout},
};

use anyhow::{Context as _, Result, bail, ensure};

use lab::{Host, Running, UNDERLAY, can_run, joined, until};

/// What is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// `ip link add type vxlan`, with these options.
    Kernel(&'static str),
    Ovs,
}

/// A way that is tested.
#[derive(Clone, Copy, Debug)]
struct Case {
    peer: Peer,
    underlay_mtu: u16,
    /// The outer protocol: 0 is IPv4, 1 IPv6.
    family: usize,
    /// Nobody has rows: both ends learn.
    learn: bool,
}

const IPV4: usize = 0;
const IPV6: usize = 1;

#[test]
fn a_kernel_device_over_ipv4() -> Result<()> {
    Case {
        peer: Peer::Kernel("nolearning"),
        underlay_mtu: 1_500,
        family: IPV4,
        learn: false,
    }
    .run("a_kernel_device_over_ipv4")
}

#[test]
fn a_kernel_device_over_ipv6() -> Result<()> {
    Case {
        peer: Peer::Kernel("nolearning"),
        underlay_mtu: 1_500,
        family: IPV6,
        learn: false,
    }
    .run("a_kernel_device_over_ipv6")
}

#[test]
fn a_kernel_device_with_jumbo_frames() -> Result<()> {
    Case {
        peer: Peer::Kernel("nolearning"),
        underlay_mtu: 9_000,
        family: IPV4,
        learn: false,
    }
    .run("a_kernel_device_with_jumbo_frames")
}

#[test]
fn a_kernel_device_that_learns() -> Result<()> {
    Case {
        peer: Peer::Kernel("learning"),
        underlay_mtu: 1_500,
        family: IPV4,
        learn: true,
    }
    .run("a_kernel_device_that_learns")
}

#[test]
fn open_vswitch() -> Result<()> {
    Case {
        peer: Peer::Ovs,
        underlay_mtu: 1_500,
        family: IPV4,
        learn: false,
    }
    .run("open_vswitch")
}

#[test]
fn open_vswitch_with_jumbo_frames() -> Result<()> {
    Case {
        peer: Peer::Ovs,
        underlay_mtu: 9_000,
        family: IPV4,
        learn: false,
    }
    .run("open_vswitch_with_jumbo_frames")
}

/// A group policy is of no concern to a network without one: its frames pass.
#[test]
fn a_kernel_device_with_group_policy() -> Result<()> {
    if !can_run(
        "a_kernel_device_with_group_policy",
        &[&PROGRAMS[..], &["nft"]].concat(),
    ) {
        return Ok(());
    }
    let case = Case {
        peer: Peer::Kernel("nolearning gbp"),
        underlay_mtu: 1_500,
        family: IPV4,
        learn: false,
    };
    let way = case.make()?;
    // The G flag is the first bit of the VXLAN header.
    way.ours.run("nft add table inet seen")?;
    way.ours
        .run("nft add chain inet seen in {\ttype\tfilter\thook\tinput\tpriority\t0;\t}")?;
    way.ours
        .run("nft add rule inet seen in udp dport 4789 @th,64,1 == 1 counter")?;
    ping(&way.theirs, "10.77.0.1", "-m 7")?;
    let seen = way.ours.run("nft list table inet seen")?;
    ensure!(!seen.contains("packets 0 "), "no group was sent: {seen}");
    Ok(())
}

/// Both hosts, with the way between them.
struct Way {
    case: Case,
    ours: Host,
    theirs: Host,
    /// MTU of the endpoints' interfaces.
    mtu: u16,
    _server: Running,
    _parts: Vec<Running>,
    _folder: Option<Folder>,
    _lines: Box<dyn std::io::BufRead>,
}

impl Case {
    fn run(self, test: &str) -> Result<()> {
        let programs = match self.peer {
            Peer::Kernel(_) => &PROGRAMS[..],
            Peer::Ovs => &[
                &PROGRAMS[..],
                &[
                    "ovs-vswitchd",
                    "ovsdb-server",
                    "ovs-vsctl",
                    "ovsdb-tool",
                    "ethtool",
                ],
            ]
            .concat(),
        };
        if !can_run(test, programs) {
            return Ok(());
        }
        let way = self.make()?;
        way.exercise(PLAIN, way.mtu).context("without a tag")?;
        let _taggers = way.add_vlan()?;
        way.exercise(TAGGED, way.mtu - 4)
            .context("with a VLAN tag")?;
        way.check_checksums()
    }

    fn make(self) -> Result<Way> {
        let [ours, theirs] = joined(self.underlay_mtu)?;
        let mtu = self.underlay_mtu - [50, 70][self.family];
        let (parts, folder) = match self.peer {
            Peer::Kernel(options) => {
                self.make_device(&theirs, options, mtu)?;
                (Vec::new(), None)
            }
            Peer::Ovs => {
                // It takes no partial checksums.
                ours.run("ethtool -K v0 tx off")?;
                let (parts, folder) = make_bridges(&theirs, mtu)?;
                (parts, Some(folder))
            }
        };
        let device = self.device();
        let [_, [v4, v6]] = PLAIN;
        theirs.run(&format!("ip addr add {v4}/24 dev {device}"))?;
        theirs.run(&format!("ip addr add {v6}/64 dev {device}"))?;
        let (tap, lines) = ours.start_and_read(&self.words())?;
        let server = theirs.start("iperf3 -s")?;
        let mut parts = parts;
        parts.insert(0, tap);
        Ok(Way {
            case: self,
            ours,
            theirs,
            mtu,
            _server: server,
            _parts: parts,
            _folder: folder,
            _lines: Box::new(lines),
        })
    }

    /// The example and its arguments.
    fn words(&self) -> String {
        let [local, peer] = UNDERLAY.map(|addresses| addresses[self.family]);
        let [[own_v4, own_v6], [v4, v6]] = PLAIN;
        let [[also_v4, also_v6], [tagged_v4, tagged_v6]] = TAGGED;
        let rows = if self.learn {
            "--learn".to_owned()
        } else {
            format!("--remote {THEIR_MAC}={v4},{v6},{tagged_v4},{tagged_v6}")
        };
        format!(
            "{} --name tap0 --mac {OUR_MAC} --address {own_v4}/24 --address {own_v6}/64 --also {also_v4} --also {also_v6} \
             --vni 77 --local {local} --peer {peer} --vlan-tags {rows}",
            env!("CARGO_BIN_EXE_vxlan-tap")
        )
    }

    fn make_device(&self, theirs: &Host, options: &str, mtu: u16) -> Result<()> {
        let [peer, local] = UNDERLAY.map(|addresses| addresses[self.family]);
        theirs.run(&format!(
            "ip link add vx0 address {THEIR_MAC} mtu {mtu} type vxlan id 77 dstport 4789 dev v0 local {local} {options}"
        ))?;
        theirs.run("ip link set vx0 up")?;
        if self.learn {
            theirs.run(&format!(
                "bridge fdb append 00:00:00:00:00:00 dev vx0 dst {peer}"
            ))?;
            return Ok(());
        }
        theirs.run(&format!("bridge fdb append {OUR_MAC} dev vx0 dst {peer}"))?;
        for address in PLAIN[0] {
            theirs.run(&format!(
                "ip neigh add {address} lladdr {OUR_MAC} dev vx0 nud permanent"
            ))?;
        }
        Ok(())
    }

    /// The interface of the other endpoint.
    fn device(&self) -> &'static str {
        match self.peer {
            Peer::Kernel(_) => "vx0",
            Peer::Ovs => "e0",
        }
    }
}

/// Starts Open vSwitch with its `netdev` datapath; the endpoint is its interface `e0`.
fn make_bridges(theirs: &Host, mtu: u16) -> Result<(Vec<Running>, Folder)> {
    let folder = Folder::new(theirs.pid())?;
    let place = folder.0.display();
    let schema = "/usr/share/openvswitch/vswitch.ovsschema";
    theirs.run(&format!("ovsdb-tool create {place}/db {schema}"))?;
    let environment = format!("env OVS_RUNDIR={place} OVS_LOGDIR={place}");
    let database = theirs.start(&format!(
        "{environment} ovsdb-server {place}/db --remote=punix:{place}/db.sock"
    ))?;
    let set = |line: &str| theirs.run(&format!("ovs-vsctl --db=unix:{place}/db.sock -t 10 {line}"));
    until(|| set("--no-wait init"))?;
    let daemon = theirs.start(&format!("{environment} ovs-vswitchd unix:{place}/db.sock"))?;
    for bridge in ["phy", "br0"] {
        set(&format!(
            "add-br {bridge} -- set bridge {bridge} datapath_type=netdev"
        ))?;
    }
    theirs.run("ip addr flush dev v0")?;
    set("add-port phy v0")?;
    theirs.run(&format!("ip addr add {}/24 dev phy", UNDERLAY[1][0]))?;
    theirs.run("ip link set phy up")?;
    let options = format!("options:remote_ip={} options:key=77", UNDERLAY[0][0]);
    set(&format!(
        "add-port br0 vx0 -- set interface vx0 type=vxlan {options}"
    ))?;
    // The endpoint, and its member of the VLAN.
    for (name, tag, mtu) in [("e0", "", mtu), ("tagged", "tag=5", mtu - 4)] {
        let interface = format!("type=internal mtu_request={mtu} mac=\"{THEIR_MAC}\"");
        set(&format!(
            "add-port br0 {name} {tag} -- set interface {name} {interface}"
        ))?;
    }
    theirs.run("ip link set e0 up")?;
    // Dropped before the database.
    Ok((vec![daemon, database], folder))
}

impl Way {
    /// Puts VLAN 5 on top of both interfaces. A tag counts among the octets of an inner packet.
    fn add_vlan(&self) -> Result<Vec<Tagger>> {
        let mut taggers = Vec::new();
        taggers.extend(add_tagged(&self.ours, "tap0", OUR_MAC)?);
        if self.case.peer != Peer::Ovs {
            taggers.extend(add_tagged(&self.theirs, "vx0", THEIR_MAC)?);
        }
        for (host, [v4, v6]) in [&self.ours, &self.theirs].into_iter().zip(TAGGED) {
            host.run(&format!("ip link set tagged mtu {} up", self.mtu - 4))?;
            host.run(&format!("ip addr add {v4}/24 dev tagged"))?;
            host.run(&format!("ip addr add {v6}/64 dev tagged"))?;
        }
        if let Case {
            peer: Peer::Kernel(_),
            learn: false,
            ..
        } = self.case
        {
            for address in TAGGED[0] {
                self.theirs.run(&format!(
                    "ip neigh add {address} lladdr {OUR_MAC} dev tagged nud permanent"
                ))?;
            }
        }
        Ok(taggers)
    }

    /// Sends all kinds of traffic both ways.
    fn exercise(&self, [ours, theirs]: [[&str; 2]; 2], mtu: u16) -> Result<()> {
        for (family, headers) in [(0, 28), (1, 48)] {
            for (host, address) in [(&self.ours, theirs[family]), (&self.theirs, ours[family])] {
                ping(host, address, "")?;
                // As long as it fits, and in fragments.
                let full = mtu - headers;
                ping(host, address, &format!("-M do -s {full}"))?;
                ping(host, address, &format!("-s {}", full * 3))?;
            }
            let datagram = mtu - headers;
            for (name, options) in [
                ("TCP", "-n 8M".to_owned()),
                ("TCP backwards", "-n 8M -R".to_owned()),
                ("UDP", format!("-u -b 80M -n 1M -l {datagram}")),
                ("UDP backwards", format!("-u -b 80M -n 1M -l {datagram} -R")),
                (
                    "UDP in fragments",
                    format!("-u -b 80M -n 500K -l {}", datagram * 2),
                ),
            ] {
                let line = format!("iperf3 -J -c {} {options}", theirs[family]);
                let said = until(|| {
                    let said = self.ours.run(&line)?;
                    // It may be that the server has not finished with the one before.
                    ensure!(!said.contains("\"error\":"), "{said}");
                    Ok(said)
                })
                .context(name)?;
                let last = said.rsplit("\"sum\"").next().unwrap_or_default();
                if name.starts_with("UDP") {
                    ensure!(number(last, "lost_percent")? < 50.0, "{name}: {said}");
                }
            }
        }
        Ok(())
    }

    /// No packet was dropped for its checksum, at either end.
    fn check_checksums(&self) -> Result<()> {
        for host in [&self.ours, &self.theirs] {
            let counters =
                host.run("cat /proc/net/snmp6")? + &snmp(&host.run("cat /proc/net/snmp")?);
            let mut seen = 0;
            for line in counters
                .lines()
                .filter(|line| line.contains("InCsumErrors"))
            {
                seen += 1;
                ensure!(line.split_whitespace().nth(1) == Some("0"), "{line}");
            }
            ensure!(seen > 4, "expected counters, found {counters}");
        }
        Ok(())
    }
}

/// Makes the interface `tagged` on top of another one: the kernel's, or a program's where it has none.
fn add_tagged(host: &Host, under: &str, mac: &str) -> Result<Option<Tagger>> {
    if host
        .run(&format!(
            "ip link add link {under} name tagged type vlan id 5"
        ))
        .is_ok()
    {
        return Ok(None);
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/tag.py");
    let tagger = host.start_and_read(&format!("python3 {script} {under} 5"))?;
    host.run(&format!("ip link set tagged address {mac}"))?;
    Ok(Some(tagger))
}

/// A program that is a VLAN, with its output.
type Tagger = (Running, BufReader<ChildStdout>);

/// Makes a line of each counter, as in `snmp6`.
fn snmp(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let mut counters = String::new();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        let kind = names.split(':').next().unwrap_or_default();
        for (name, value) in names
            .split_whitespace()
            .zip(values.split_whitespace())
            .skip(1)
        {
            counters += &format!("{kind}{name} {value}\n");
        }
    }
    counters
}

fn ping(host: &Host, address: &str, options: &str) -> Result<()> {
    let line = format!("ping -q -c 3 -i 0.02 -W 2 {options} {address}");
    // The first ones may meet an interface that just came up, or a tunnel that does not know its next hop.
    until(|| {
        let said = host.run(&line)?;
        ensure!(said.contains(" 0% packet loss"), "{line}: {said}");
        Ok(())
    })
}

/// Reads a number from JSON.
fn number(text: &str, key: &str) -> Result<f64> {
    let Some((_, rest)) = text.split_once(&format!("\"{key}\":")) else {
        bail!("expected {key}, found {text}");
    };
    let digits = rest.trim_start().split([',', '\n', '}']).next();
    Ok(digits.unwrap_or_default().trim().parse()?)
}

/// A folder that goes with its value.
struct Folder(PathBuf);

impl Folder {
    fn new(number: u32) -> Result<Self> {
        let name = format!("vxlan-tap-{}-{number}", process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const PROGRAMS: [&str; 8] = [
    "ip", "bridge", "unshare", "nsenter", "timeout", "ping", "iperf3", "python3",
];
const OUR_MAC: &str = "02:00:00:00:77:01";
const THEIR_MAC: &str = "02:00:00:00:77:02";
/// Addresses of the two endpoints.
const PLAIN: [[&str; 2]; 2] = [["10.77.0.1", "fd77::1"], ["10.77.0.2", "fd77::2"]];
/// Those in the VLAN.
const TAGGED: [[&str; 2]; 2] = [["10.78.0.1", "fd78::1"], ["10.78.0.2", "fd78::2"]];
