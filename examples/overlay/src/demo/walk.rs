//! The whole walk: three hosts, three daemons, the command line of this very program.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    cluster::{Cluster, NAMES, leader},
    interrupt::Interrupt,
    steps::Steps,
};

/// Does the walk.
pub(super) fn walk(
    steps: &mut Steps,
    interrupt: &Interrupt,
    exe: PathBuf,
    keep: bool,
) -> anyhow::Result<()> {
    Cluster::with(steps, interrupt, exe, |cluster, steps| {
        cluster.steps(steps)?;
        steps.done();
        if keep { cluster.keep(steps) } else { Ok(()) }
    })
}

impl Cluster<'_> {
    fn steps(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        self.make(steps)?;
        self.ping_all(steps)?;
        self.lose_leader(steps)?;
        self.services(steps)
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

/// How many of the pings across the leader's death may stay without a reply.
const LOST_MAX: u32 = 2;
