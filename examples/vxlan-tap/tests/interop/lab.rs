//! Hosts that are network namespaces, and programs on them. Whatever is made here goes with its value; if the test is
//! killed, it goes within [`LIFE_SECONDS`].

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::MetadataExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A network namespace, which lives as long as the process in it.
pub(crate) struct Host {
    keeper: Running,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", LIFE_SECONDS]);
        let keeper = Running(command.stdin(Stdio::null()).spawn()?);
        let own = fs::read_link("/proc/self/ns/net")?;
        let host = Self { keeper };
        until(|| match fs::read_link(host.path()) {
            Ok(namespace) if namespace != own => Ok(()),
            _ => bail!("there is no namespace yet"),
        })?;
        // Addresses are there at once.
        host.run("sh -c echo\t0\t>/proc/sys/net/ipv6/conf/default/accept_dad")?;
        host.run("ip link set lo up")?;
        Ok(host)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// The process that keeps it, by which `ip link` names it.
    pub(crate) fn pid(&self) -> u32 {
        self.keeper.0.id()
    }

    fn command(&self, line: &str, seconds: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path()));
        command.args(["timeout", seconds]);
        // A tab is a space within a word.
        command.args(
            line.split(' ')
                .filter(|word| !word.is_empty())
                .map(|word| word.replace('\t', " ")),
        );
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program to its end and returns what it wrote.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line, RUN_SECONDS).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{line}: {}\n{text}{error}", output.status);
        }
        Ok(text)
    }

    /// Starts a program that goes with its value.
    pub(crate) fn start(&self, line: &str) -> Result<Running> {
        let mut command = self.command(line, LIFE_SECONDS);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running(command.spawn()?))
    }

    /// Starts a program and waits for its first line.
    pub(crate) fn start_and_read(&self, line: &str) -> Result<(Running, BufReader<ChildStdout>)> {
        let mut child = self
            .command(line, LIFE_SECONDS)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe")?);
        let running = Running(child);
        let mut first = String::new();
        if lines.read_line(&mut first)? == 0 {
            bail!("{line}: it ended");
        }
        Ok((running, lines))
    }
}

/// A program that ends with this value.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // `timeout` hands a signal on to its program; it cannot hand on what it cannot catch.
        let id = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let ended = until(|| match self.0.try_wait()? {
            Some(_) => Ok(()),
            None => bail!("it runs"),
        });
        if ended.is_err() {
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

/// Two hosts that are joined by a veth pair: `v0`, with [`UNDERLAY`] on them.
pub(crate) fn joined(mtu: u16) -> Result<[Host; 2]> {
    let hosts = [Host::new()?, Host::new()?];
    let [ours, theirs] = &hosts;
    ours.run(&format!(
        "ip link add v0 mtu {mtu} type veth peer name v0 mtu {mtu} netns {}",
        theirs.pid()
    ))?;
    for (host, addresses) in hosts.iter().zip(UNDERLAY) {
        for (address, length) in addresses.iter().zip([24, 64]) {
            host.run(&format!("ip addr add {address}/{length} dev v0"))?;
        }
        host.run("ip link set v0 up")?;
    }
    Ok(hosts)
}

/// Addresses of the two hosts.
pub(crate) const UNDERLAY: [[&str; 2]; 2] =
    [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];

/// Tries until it succeeds, for some seconds.
#[expect(clippy::disallowed_methods, reason = "real programs run in real time")]
pub(crate) fn until<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(8);
    loop {
        match attempt() {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

/// Whether a test can run here; if not, it is said.
pub(crate) fn can_run(test: &str, programs: &[&str]) -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    let missing = programs.iter().find(|program| {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .output();
        !found.is_ok_and(|found| found.status.success())
    });
    let why = match missing {
        _ if !is_root => "it needs root".to_owned(),
        Some(program) => format!("{program} is not installed"),
        None if fs::metadata("/dev/net/tun").is_err() => "there is no /dev/net/tun".to_owned(),
        None => return true,
    };
    // Past what captures the output of tests that pass.
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
    false
}

/// How long anything lives at most.
const LIFE_SECONDS: &str = "100";
/// How long a program runs at most that is waited for.
const RUN_SECONDS: &str = "10";
