//! The whole walk: three hosts, three daemons, the command line of this very program.

use std::{
    fs,
    io::Read as _,
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};
use overlay_linux::hosts::{Lab, LabConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{interrupt::Interrupt, steps::Steps};

/// One host of the demo.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: Ipv4Addr,
    daemon: Option<Child>,
}

/// The hosts, their daemons and the directory of all of them. Dropping it leaves nothing behind.
pub(super) struct Walk<'a> {
    // Ends every process of the lab, before the directory goes.
    pub(super) lab: Lab,
    directory: TempDir,
    pub(super) exe: PathBuf,
    pub(super) hosts: Vec<Host>,
    interrupt: &'a Interrupt,
}

/// Does the walk.
pub(super) fn walk(
    steps: &mut Steps,
    interrupt: &Interrupt,
    exe: PathBuf,
    keep: bool,
) -> anyhow::Result<()> {
    let mut walk = steps.step("three hosts on one network", || {
        let walk = Walk::new(exe, interrupt)?;
        let addresses: Vec<_> = walk
            .hosts
            .iter()
            .map(|host| host.address.to_string())
            .collect();
        Ok((walk, addresses.join(", ")))
    })?;
    let result = walk.steps(steps);
    match result {
        Ok(()) => {
            steps.done();
            if keep { walk.keep(steps) } else { Ok(()) }
        }
        Err(error) => Err(match interrupt.check() {
            Err(interrupted) => interrupted.into(),
            Ok(()) => error.context(walk.logs()),
        }),
    }
}

impl<'a> Walk<'a> {
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

    fn steps(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        steps.step("a daemon on each", || {
            for host in 0..self.hosts.len() {
                self.start(host)?;
            }
            Ok(((), "ready".to_owned()))
        })?;
        self.make_cluster(steps)?;
        self.make_network(steps)?;
        self.ping_all(steps)?;
        self.lose_leader(steps)?;
        self.services(steps)
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

    fn ping_all(&self, steps: &mut Steps) -> anyhow::Result<()> {
        for (host, from) in NAMES.iter().enumerate() {
            for to in NAMES.iter().filter(|to| *to != from) {
                steps.step(&format!("{from}: ping {to}"), || {
                    Ok(((), self.ping(host, from, to)?))
                })?;
            }
        }
        Ok(())
    }

    fn lose_leader(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        let nodes = self.nodes(0)?;
        let name = leader(&nodes).context("nobody leads")?;
        let lost = self
            .hosts
            .iter()
            .position(|host| host.name == name)
            .context("a foreign leader")?;
        let left: Vec<_> = (0..self.hosts.len()).filter(|host| *host != lost).collect();
        let (from, to) = (NAMES[left[0]], NAMES[left[1]]);
        let pings = self.ping_on(left[0], from, to)?;
        steps.step(&format!("kill -9 the daemon of the leader, {name}"), || {
            let daemon = self.hosts[lost]
                .daemon
                .as_mut()
                .context("it has no daemon")?;
            daemon.kill()?;
            daemon.wait()?;
            self.hosts[lost].daemon = None;
            Ok(((), "gone".to_owned()))
        })?;
        steps.step("who leads now?", || {
            let leads = self.eventually("a new leader", || {
                Ok(leader(&self.nodes(left[0])?).filter(|leader| *leader != name))
            })?;
            Ok(((), leads))
        })?;
        steps.step("overlay network create another-net", || {
            self.ask(left[1], &["network", "create", "another-net"])?;
            Ok(((), "acknowledged".to_owned()))
        })?;
        steps.step(&format!("{from}: ping -i 0.05 {to}, meanwhile"), || {
            Ok(((), pings.end()?))
        })?;
        steps.step(&format!("{name}: start the daemon again"), || {
            self.start(lost)?;
            Ok(((), "ready".to_owned()))
        })?;
        let (from, to) = (NAMES[left[0]], NAMES[lost]);
        steps.step(
            &format!("{from}: ping {to}, which ran on meanwhile"),
            || Ok(((), self.ping(left[0], from, to)?)),
        )
    }

    /// Starts the daemon of a host and waits until its socket answers.
    fn start(&mut self, host: usize) -> anyhow::Result<()> {
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

    fn run(&self, host: usize, words: &[&str]) -> anyhow::Result<Output> {
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
        while child.try_wait()?.is_none() {
            if self.interrupt.check().is_err() || began.elapsed() > PATIENCE {
                child.kill()?;
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.interrupt.check()?;
        Ok(child.wait_with_output()?)
    }

    /// Pings by name from the program on a host, until answered.
    fn ping(&self, host: usize, from: &str, to: &str) -> anyhow::Result<String> {
        let exe = self.exe.display().to_string();
        self.eventually(&format!("an answer of {to}"), || {
            let output = self.run(
                host,
                &["exec", from, "--", &exe, "ping", "-c", "1", "-W", "1", to],
            )?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let reply = text.lines().find(|line| line.contains("bytes from"));
            Ok(reply.filter(|_| output.status.success()).map(str::to_owned))
        })
    }

    /// Begins to ping by name twenty times a second, and returns once the first reply was seen.
    fn ping_on(&self, host: usize, from: &str, to: &str) -> anyhow::Result<Pings> {
        self.ping(host, from, to)?;
        let child = Command::new(&self.exe)
            .arg("--socket")
            .arg(self.socket(host))
            .args(["exec", from, "--"])
            .arg(&self.exe)
            .args(["ping", "-i", "0.05", "-W", "1", to])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut pings = Pings(child);
        let mut first = [0; 1];
        let output = pings.0.stdout.as_mut().context("it has no output")?;
        output.read_exact(&mut first)?;
        Ok(pings)
    }

    fn nodes(&self, host: usize) -> anyhow::Result<Vec<Value>> {
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
                _ => self.interrupt.pause(Duration::from_millis(20))?,
            }
        }
    }

    fn keep(&self, steps: &Steps) -> anyhow::Result<()> {
        steps.note("the cluster stays up until Ctrl-C; in another terminal:");
        for host in 0..self.hosts.len() {
            let socket = self.socket(host);
            steps.note(&format!(
                "  {} --socket {} node ls",
                self.exe.display(),
                socket.display()
            ));
            if let Some(enter) = self.lab.enter_command(host) {
                steps.note(&format!(
                    "  {enter}    # a shell on {}",
                    self.hosts[host].name
                ));
            }
        }
        while self.interrupt.pause(Duration::from_millis(100)).is_ok() {}
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

    fn socket(&self, host: usize) -> PathBuf {
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

/// A `ping` that goes on until it is told to end.
struct Pings(Child);

impl Pings {
    /// Ends it; an error if more than the ones that were on their way remained without a reply.
    fn end(mut self) -> anyhow::Result<String> {
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        let mut text = String::new();
        let output = self.0.stdout.as_mut().context("it has no output")?;
        output.read_to_string(&mut text)?;
        self.0.wait()?;
        let summary = text.lines().find(|line| line.contains("transmitted"));
        let summary = summary.context("it was ended before it said how many were answered")?;
        let mut numbers = summary
            .split(' ')
            .filter_map(|word| word.parse::<u32>().ok());
        let (sent, answered) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if sent == 0 || sent - answered.min(sent) > LOST_MAX {
            bail!("{answered} of {sent} were answered");
        }
        Ok(format!("{answered} of {sent} answered"))
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        // One that has ended is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn leader(nodes: &[Value]) -> Option<String> {
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

pub(super) const NETWORK: &str = "my-net";
const NAMES: [&str; 3] = ["alpine1", "alpine2", "alpine3"];
/// How many of the pings across the leader's death may stay without a reply.
const LOST_MAX: u32 = 2;
/// How long anything may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(20);
