//! A daemon's platform on the lab's host 0, with endpoints 10.0.1.n that have the way out 172.18.0.n.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{ErrorKind, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_core::{
    EndpointId, MacAddr, NetworkId, Vni,
    plane::{
        Change, DataPath, Desired, DesiredNetwork, DesiredPort, Namespace, NoWayOut, Platform,
        PortSpec, WayOut, WayOutState,
    },
};
use overlay_linux::{CommandSpec, Exit, Linux, Stdio};

use super::{FOLDER, Outcome, say};

/// A daemon's platform.
pub(crate) struct Node {
    pub(crate) linux: Linux,
    folder: PathBuf,
}

impl Node {
    /// Over what an earlier life left, if there was one.
    pub(crate) fn new() -> Outcome<Self> {
        Self::named("daemon")
    }

    /// Another daemon than the first.
    pub(crate) fn named(name: &str) -> Outcome<Self> {
        let folder = env::var_os(FOLDER).ok_or("no folder")?;
        let folder = PathBuf::from(folder).join(name);
        fs::create_dir_all(&folder)?;
        let linux = Linux::new(&folder, env::current_exe()?);
        Ok(Self { linux, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes the endpoints and says what became of the first one's way out.
    pub(crate) fn make(&mut self, specs: &[&PortSpec]) -> Outcome<WayOutState> {
        let mut states = Vec::new();
        for spec in specs {
            self.linux.create_port(spec)?;
            states.push(self.linux.way_out(spec.endpoint)?);
        }
        Ok(states.into_iter().flatten().next().ok_or("no way out")?)
    }

    /// The same, but false (and loudly) where this kernel cannot do it.
    pub(crate) fn make_or_skip(&mut self, specs: &[&PortSpec]) -> Outcome<bool> {
        match self.make(specs)? {
            WayOutState::Open => Ok(true),
            WayOutState::Closed(reason @ NoWayOut::Netfilter { .. }) => {
                say(&format!("SKIPPED: a way out: {reason}"));
                Ok(false)
            }
            WayOutState::Closed(reason) => Err(reason.into()),
        }
    }

    pub(crate) fn state(&mut self, spec: &PortSpec) -> Outcome<WayOutState> {
        Ok(self.linux.way_out(spec.endpoint)?.ok_or("no way out")?)
    }

    pub(crate) fn apply(&mut self, spec: &PortSpec) -> Outcome<Vec<Change>> {
        let port = DesiredPort {
            mac: spec.mac,
            addresses: spec.addresses.clone(),
        };
        let network = DesiredNetwork {
            vlan_tags: false,
            vni: Vni::new(4097).ok_or("no VNI")?,
            encrypted: false,
            path: DataPath::User,
            subnets: vec!["10.0.1.0/24".parse()?],
            mtu: spec.mtu,
            ports: BTreeMap::from([(spec.endpoint, port)]),
            remotes: BTreeMap::new(),
            vteps: Default::default(),
            services: Default::default(),
        };
        let networks = BTreeMap::from([(NetworkId::from_bytes([9; 16]), network)]);
        Ok(self.linux.apply(&Desired {
            peers: BTreeMap::new(),
            underlay: None,
            networks,
        })?)
    }

    /// Runs a program inside an endpoint; returns whether it succeeded, and what it wrote.
    pub(crate) fn run(&self, spec: &PortSpec, words: &[&str]) -> Outcome<(bool, String)> {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let command = CommandSpec::new(words[0])
            .args(words[1..].iter().copied())
            .env("PATH", path)
            .stdio(Stdio::Pipes { input: false });
        let mut process = self.linux.exec(spec.endpoint, command)?;
        let mut text = String::new();
        for mut stream in [&process.output, &process.error].into_iter().flatten() {
            let mut octets = Vec::new();
            loop {
                match stream.read_to_end(&mut octets) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let watched = PollFd::new(stream.as_fd(), PollFlags::POLLIN);
                        if poll(&mut [watched], PollTimeout::from(20_000_u16))? == 0 {
                            return Err(format!("{words:?} does not end").into());
                        }
                    }
                    other => break other.map(drop)?,
                }
            }
            text.push_str(&String::from_utf8_lossy(&octets));
        }
        let exit = process.wait(Duration::from_secs(5))?;
        Ok((exit == Some(Exit::Code(0)), text))
    }

    pub(crate) fn pings(&self, spec: &PortSpec, target: &str) -> Outcome<bool> {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", target];
        Ok(self.run(spec, &ping)?.0)
    }

    /// Connects to a server from inside an endpoint; returns by which address it came there.
    pub(crate) fn hears(&self, spec: &PortSpec, address: &str) -> Outcome<String> {
        let exe = env::current_exe()?;
        let exe = exe.to_str().ok_or("an odd path")?;
        let mut said = String::new();
        // The server may not listen yet.
        for _ in 0..20 {
            match self.run(spec, &[exe, "part", "hear", address])? {
                (true, text) => return Ok(text),
                (false, text) => said = text,
            }
            pause(50)?;
        }
        Err(format!("{address} is not reached: {said}").into())
    }
}

/// The endpoint 10.0.1.`number`.
pub(crate) fn spec(number: u8) -> Outcome<PortSpec> {
    Ok(PortSpec {
        endpoint: EndpointId::from_bytes([number; 16]),
        namespace: Namespace::Own,
        interface: "eth0".into(),
        mac: MacAddr::from_ipv4([10, 0, 1, number].into()),
        addresses: vec![format!("10.0.1.{number}/24").parse()?],
        on_link: Vec::new(),
        gateway: None,
        mtu: 1450,
        hostname: format!("alpine{number}"),
        way_out: Some(WayOut {
            bridge: BRIDGE.into(),
            gateway: "172.18.0.1/16".parse()?,
            interface: "eth1".into(),
            address: format!("172.18.0.{number}/16").parse()?,
            mtu: 1500,
        }),
        path: DataPath::User,
    })
}

/// Runs a program on the host itself; returns whether it succeeded, and what it wrote.
pub(crate) fn host(words: &str) -> Outcome<(bool, String)> {
    let mut words = words.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok((output.status.success(), text))
}

/// The same, of one that must succeed.
pub(crate) fn succeed(words: &str) -> Outcome<String> {
    match host(words)? {
        (true, text) => Ok(text),
        (false, text) => Err(format!("{words}: {text}").into()),
    }
}

pub(crate) fn has_nft() -> bool {
    let there = host("nft --version").is_ok_and(|(there, _)| there);
    if !there {
        say("SKIPPED: a look at the rules: nft is not installed");
    }
    there
}

pub(crate) fn forwards(interface: &str) -> Outcome<bool> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/forwarding");
    Ok(fs::read_to_string(path)?.trim() == "1")
}

/// Lets some real time pass.
pub(crate) fn pause(milliseconds: u16) -> Outcome<()> {
    poll(&mut [], PollTimeout::from(milliseconds))?;
    Ok(())
}

pub(crate) const BRIDGE: &str = "overlay_gw";
pub(crate) const WORLD: &str = "192.0.2.2";
