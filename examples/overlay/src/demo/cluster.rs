//! Three hosts and their daemons, asked by the command line of this very program.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};
use overlay_linux::hosts::{Lab, LabConfig};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{interrupt::Interrupt, steps::Steps};

/// One host of the demo.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    pub(super) daemon: Option<Child>,
}

/// The hosts, their daemons and the directory of all of them. Dropping it leaves nothing behind.
pub(super) struct Cluster<'a> {
    // Ends every process of the lab, before the directory goes.
    pub(super) lab: Lab,
    directory: TempDir,
    pub(super) exe: PathBuf,
    pub(super) hosts: Vec<Host>,
    pub(super) interrupt: &'a Interrupt,
}

impl<'a> Cluster<'a> {
    /// Makes the hosts, does `work` there, and leaves nothing behind however it ends.
    pub(super) fn with(
        steps: &mut Steps,
        interrupt: &'a Interrupt,
        exe: PathBuf,
        work: impl FnOnce(&mut Self, &mut Steps) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut cluster = steps.step("three hosts on one network", || {
            let cluster = Self::new(exe, interrupt)?;
            let addresses = cluster.hosts.iter().map(|host| host.address.to_string());
            let addresses: Vec<_> = addresses.collect();
            Ok((cluster, addresses.join(", ")))
        })?;
        work(&mut cluster, steps).map_err(|error| match interrupt.check() {
            Err(interrupted) => interrupted.into(),
            Ok(()) => error.context(cluster.logs()),
        })
    }

    fn new(exe: PathBuf, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        let address = |number| Ipv4Addr::new(192, 168, 77, number);
        let hosts: Vec<_> = (1..=3)
            .map(|number| Host {
                name: format!("host{number}"),
                address: address(number),
                daemon: None,
            })
            .collect();
        let networks = hosts
            .iter()
            .map(|host| Ipv4Net::new(host.address, 24).map(IpNet::V4));
        let networks: Result<Vec<_>, _> = networks.map(|net| net.map(|net| vec![net])).collect();
        let config = LabConfig {
            hosts: networks?,
            mtu: 1_500,
        };
        let lab = Lab::new(&exe, &config).context("the hosts could not be made")?;
        let directory = tempfile::Builder::new().prefix("overlay-demo-").tempdir()?;
        Ok(Self {
            lab,
            directory,
            exe,
            hosts,
            interrupt,
        })
    }
    /// Starts the daemons, and makes them managers of one cluster with a network and a program on each host.
    pub(super) fn make(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        steps.step("a daemon on each", || {
            for host in 0..self.hosts.len() {
                self.start(host)?;
            }
            Ok(((), "ready".to_owned()))
        })?;
        self.make_cluster(steps)?;
        self.make_network(steps)
    }

    /// Starts the daemon of a host and waits until its socket answers.
    pub(super) fn start(&mut self, host: usize) -> anyhow::Result<()> {
        let (name, address) = (
            self.hosts[host].name.clone(),
            self.hosts[host].address.to_string(),
        );
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log(host))?;
        let mut command = Command::new(&self.exe);
        command
            .arg("--socket")
            .arg(self.socket(host))
            .args([
                "daemon",
                "--name",
                &name,
                "--advertise-addr",
                &address,
                "--data-dir",
            ])
            .arg(self.directory.path().join(&name))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut daemon = self.lab.spawn_in(host, &mut command)?;
        let socket = self.socket(host);
        let ready = self.eventually(&format!("the daemon of {name}"), || {
            if let Some(status) = daemon.try_wait()? {
                bail!("the daemon of {name} ended with {status}");
            }
            Ok(UnixStream::connect(&socket).is_ok().then_some(()))
        });
        self.hosts[host].daemon = Some(daemon);
        ready
    }

    /// Runs this program's command line against the daemon of a host.
    pub(super) fn ask(&self, host: usize, words: &[&str]) -> anyhow::Result<String> {
        let output = self.run(host, words)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(anyhow!(
            "`overlay {}` on {}: {said}",
            words.join(" "),
            self.hosts[host].name
        ))
    }

    pub(super) fn run(&self, host: usize, words: &[&str]) -> anyhow::Result<Output> {
        self.interrupt.check()?;
        let mut child = Command::new(&self.exe)
            .arg("--socket")
            .arg(self.socket(host))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let began = Instant::now();
        let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let look = Timespec::try_from(Duration::from_millis(50))?;
        while child.try_wait()?.is_none() {
            if self.interrupt.check().is_err() || began.elapsed() > PATIENCE {
                child.kill()?;
                break;
            }
            // Readable as soon as it has ended; a signal that ends the wait is looked at above.
            let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&look));
        }
        self.interrupt.check()?;
        Ok(child.wait_with_output()?)
    }

    pub(super) fn nodes(&self, host: usize) -> anyhow::Result<Vec<Value>> {
        let text = self.ask(host, &["node", "ls", "--format", "json"])?;
        let nodes: Result<Vec<_>, _> = text.lines().map(serde_json::from_str).collect();
        Ok(nodes?)
    }

    /// Tries until there is something, for as long as patience lasts.
    pub(super) fn eventually<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        loop {
            match attempt() {
                Ok(Some(found)) => return Ok(found),
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                _ if began.elapsed() > PATIENCE => bail!("{what} did not come within {PATIENCE:?}"),
                _ => self.interrupt.pause(Duration::from_millis(10))?,
            }
        }
    }

    fn make_cluster(&self, steps: &mut Steps) -> anyhow::Result<()> {
        steps.step("host1: overlay init", || {
            self.ask(0, &["init"])?;
            Ok(((), "is the first manager".to_owned()))
        })?;
        let token = self.ask(0, &["join-token", "-q", "manager"])?;
        let remote = format!("{}:2377", self.hosts[0].address);
        for host in 1..self.hosts.len() {
            let name = self.hosts[host].name.clone();
            steps.step(&format!("{name}: overlay join --token …"), || {
                self.ask(host, &["join", "--token", token.trim(), &remote])?;
                Ok(((), "joined as a manager".to_owned()))
            })?;
        }
        steps.step("overlay node ls", || {
            let nodes = self.eventually("three nodes that are ready", || {
                let nodes = self.nodes(0)?;
                let ready = nodes
                    .iter()
                    .filter(|node| node["Status"] == "Ready")
                    .count();
                let managers = nodes
                    .iter()
                    .filter(|node| node["ManagerStatus"] != "")
                    .count();
                Ok((ready == 3 && managers == 3).then_some(nodes))
            })?;
            let leader = leader(&nodes).unwrap_or_default();
            Ok(((), format!("{} nodes ready, {leader} leads", nodes.len())))
        })
    }

    fn make_network(&self, steps: &mut Steps) -> anyhow::Result<()> {
        steps.step("overlay network create --attachable my-net", || {
            self.ask(0, &["network", "create", "--attachable", NETWORK])?;
            let inspected = self.ask(1, &["network", "inspect", NETWORK])?;
            let inspected: Value = serde_json::from_str(&inspected)?;
            let subnet = inspected[0]["IPAM"]["Config"][0]["Subnet"]
                .as_str()
                .unwrap_or("?");
            Ok(((), subnet.to_owned()))
        })?;
        let exe = self.exe.display().to_string();
        for (host, name) in NAMES.iter().enumerate() {
            steps.step(
                &format!("{}: overlay run -d --name {name}", self.hosts[host].name),
                || {
                    let run = [
                        "run",
                        "-d",
                        "--name",
                        name,
                        "--network",
                        NETWORK,
                        "--",
                        &exe,
                        "sleep",
                        "86400",
                    ];
                    self.ask(host, &run)?;
                    let found = self.ask(host, &["network", "inspect", NETWORK])?;
                    let found: Value = serde_json::from_str(&found)?;
                    Ok((
                        (),
                        address_of(&found, name).unwrap_or_else(|| "attached".to_owned()),
                    ))
                },
            )?;
        }
        Ok(())
    }

    /// What the daemons said last, for the message of a failure.
    fn logs(&self) -> String {
        let mut text = "the daemons said last:".to_owned();
        for host in 0..self.hosts.len() {
            let log = fs::read_to_string(self.log(host)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines
                .get(lines.len().saturating_sub(8)..)
                .unwrap_or_default();
            text.push_str(&format!(
                "\n{}:\n  {}",
                self.hosts[host].name,
                last.join("\n  ")
            ));
        }
        text
    }

    pub(super) fn socket(&self, host: usize) -> PathBuf {
        self.path(host, "sock")
    }

    fn log(&self, host: usize) -> PathBuf {
        self.path(host, "log")
    }

    fn path(&self, host: usize, extension: &str) -> PathBuf {
        let directory: &Path = self.directory.path();
        directory.join(format!("{}.{extension}", self.hosts[host].name))
    }
}

/// The name of the host that leads.
pub(super) fn leader(nodes: &[Value]) -> Option<String> {
    let leads = nodes
        .iter()
        .find(|node| node["ManagerStatus"] == "Leader")?;
    leads["Hostname"].as_str().map(str::to_owned)
}

fn address_of(inspected: &Value, name: &str) -> Option<String> {
    let containers = inspected[0]["Containers"].as_object()?;
    let found = containers
        .values()
        .find(|container| container["Name"] == name)?;
    found["IPv4Address"].as_str().map(str::to_owned)
}

/// The network of the programs.
pub(super) const NETWORK: &str = "my-net";
/// The program on each host.
pub(super) const NAMES: [&str; 3] = ["alpine1", "alpine2", "alpine3"];
/// How long anything may take before the program gives up.
const PATIENCE: Duration = Duration::from_secs(30);
