//! Hosts in a box with a daemon on each, asked by the program's own command line.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use overlay_linux::hosts::{Lab, LabConfig};
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const OVERLAY: &str = env!("CARGO_BIN_EXE_overlay");
/// How long anything may take that has no limit of its own: the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Hosts on one network. Dropping it ends all that runs there, and removes all that was written.
pub(crate) struct Cluster {
    // Ends before the directory goes.
    pub(crate) lab: Lab,
    directory: TempDir,
    daemons: Vec<Option<Child>>,
    /// The host of each daemon.
    places: Vec<usize>,
}

/// A command that was refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: i32,
    pub(crate) said: String,
}

impl Cluster {
    /// Makes hosts without daemons.
    pub(crate) fn new(hosts: usize) -> anyhow::Result<Self> {
        let networks = (0..hosts).map(|host| Ipv4Net::new(address(host), 24).map(IpNet::V4));
        let networks: Result<Vec<_>, _> = networks.map(|net| net.map(|net| vec![net])).collect();
        let config = LabConfig {
            hosts: networks?,
            mtu: 1_500,
        };
        Ok(Self {
            lab: Lab::new(Path::new(OVERLAY), &config)?,
            directory: tempfile::Builder::new().prefix("overlay-walk-").tempdir()?,
            daemons: (0..hosts).map(|_| None).collect(),
            places: (0..hosts).collect(),
        })
    }

    /// Makes room for one more daemon on a host, and returns its number.
    pub(crate) fn add(&mut self, host: usize) -> usize {
        self.daemons.push(None);
        self.places.push(host);
        self.places.len() - 1
    }

    /// Starts a daemon on each host.
    pub(crate) fn start_all(&mut self) -> anyhow::Result<()> {
        (0..self.daemons.len()).try_for_each(|host| self.start(host, &[]))
    }

    /// Makes the daemons managers of one cluster.
    pub(crate) fn join_all(&self) -> anyhow::Result<()> {
        self.ask(0, &["init"])?;
        let hosts = self.daemons.len();
        for host in 1..hosts {
            self.join(host, "manager")?;
        }
        eventually(PATIENCE, "all managers to be reachable", || {
            let nodes = self.nodes(0)?;
            let ready = nodes.iter().filter(|node| {
                node["Status"] == "Ready"
                    && (node["ManagerStatus"] == "Leader" || node["ManagerStatus"] == "Reachable")
            });
            Ok((ready.count() == hosts).then_some(()))
        })
    }

    /// Lets the daemon of a host join that of the first one.
    pub(crate) fn join(&self, host: usize, role: &str) -> anyhow::Result<String> {
        let token = self.token(role)?;
        let remote = format!("{}:2377", address(0));
        self.ask(host, &["join", "--token", &token, &remote])
    }

    pub(crate) fn token(&self, role: &str) -> anyhow::Result<String> {
        Ok(self.ask(0, &["join-token", "-q", role])?.trim().to_owned())
    }

    /// Starts the daemon of a host and waits until it answers.
    pub(crate) fn start(&mut self, host: usize, more: &[&str]) -> anyhow::Result<()> {
        self.start_by(&[], host, more)
    }

    /// Starts the daemon of a host by a program that becomes it.
    pub(crate) fn start_by(
        &mut self,
        by: &[&str],
        host: usize,
        more: &[&str],
    ) -> anyhow::Result<()> {
        let (socket, data) = (self.socket(host), self.data(host));
        let mut daemon = self.spawn_daemon(by, host, &socket, &data, more)?;
        let ready = eventually(PATIENCE, &format!("the daemon of {}", name(host)), || {
            if let Some(status) = daemon.try_wait()? {
                bail!("the daemon of {} ended with {status}", name(host));
            }
            Ok(UnixStream::connect(&socket).is_ok().then_some(()))
        });
        self.daemons[host] = Some(daemon);
        ready
    }

    /// Starts the daemon of a host, which must refuse, and returns what it said.
    pub(crate) fn refuse_to_start(&mut self, host: usize, data: &Path) -> anyhow::Result<String> {
        let before = fs::read_to_string(self.log(host)).unwrap_or_default().len();
        let mut daemon = self.spawn_daemon(&[], host, &self.socket(host), data, &[])?;
        let ended = eventually(PATIENCE, "the end of a daemon", || Ok(daemon.try_wait()?));
        if ended.is_err() {
            daemon.kill()?;
            daemon.wait()?;
        }
        ensure!(!ended?.success(), "a daemon reported success");
        let log = fs::read_to_string(self.log(host))?;
        Ok(log.get(before..).unwrap_or_default().to_owned())
    }

    fn spawn_daemon(
        &mut self,
        by: &[&str],
        host: usize,
        socket: &Path,
        data: &Path,
        more: &[&str],
    ) -> anyhow::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(host))?;
        let mut words = by.iter().copied().chain([OVERLAY]);
        let mut command = Command::new(words.next().unwrap_or(OVERLAY));
        command
            .args(words)
            .arg("--socket")
            .arg(socket)
            .arg("daemon");
        command.args(["--name", &name(host)]);
        let place = self.places[host];
        if !more.contains(&"--advertise-addr") {
            command.args(["--advertise-addr", &address(place).to_string()]);
        }
        command.arg("--data-dir").arg(data).args(more);
        command.stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        Ok(self.lab.spawn_in(place, &mut command)?)
    }

    /// Kills the daemon of a host, with SIGKILL.
    pub(crate) fn kill(&mut self, host: usize) -> anyhow::Result<()> {
        let mut daemon = self.daemons[host].take().context("it has no daemon")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Returns the process of a host's daemon.
    pub(crate) fn pid(&self, host: usize) -> anyhow::Result<u32> {
        let daemon = self.daemons[host].as_ref().context("it has no daemon")?;
        Ok(daemon.id())
    }

    /// Asks the daemon of a host for what must succeed.
    pub(crate) fn ask(&self, host: usize, words: &[&str]) -> anyhow::Result<String> {
        let output = self.run(host, words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`overlay {}` on {}: {}: {said}{}",
            words.join(" "),
            name(host),
            output.status,
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Asks the daemon of a host for what it must refuse.
    pub(crate) fn refused(&self, host: usize, words: &[&str]) -> anyhow::Result<Refusal> {
        let output = self.run(host, words)?;
        ensure!(
            !output.status.success(),
            "`overlay {}` on {} succeeded",
            words.join(" "),
            name(host)
        );
        Ok(Refusal {
            code: output.status.code().context("ended by a signal")?,
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs the command line against the daemon of a host.
    pub(crate) fn run(&self, host: usize, words: &[&str]) -> anyhow::Result<Output> {
        // Files, which never fill up while nobody reads.
        let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut child = self
            .command(host, words)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()?;
        let what = format!("the end of `overlay {}`", words.join(" "));
        let ended = eventually(PATIENCE, &what, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        let contents = |file: &mut File| -> anyhow::Result<Vec<u8>> {
            let mut contents = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut contents)?;
            Ok(contents)
        };
        Ok(Output {
            status: ended?,
            stdout: contents(&mut stdout)?,
            stderr: contents(&mut stderr)?,
        })
    }

    /// Runs a program of the system on a host.
    pub(crate) fn on_host(&mut self, host: usize, words: &[&str]) -> anyhow::Result<()> {
        let (program, arguments) = words.split_first().context("a program")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let status = self.lab.spawn_in(self.places[host], &mut command)?.wait()?;
        ensure!(status.success(), "`{}`: {status}", words.join(" "));
        Ok(())
    }

    /// Runs a program of the system on a host, and returns what it wrote.
    pub(crate) fn on_host_says(&mut self, host: usize, words: &[&str]) -> anyhow::Result<String> {
        let (program, arguments) = words.split_first().context("a program")?;
        let mut output = tempfile::tempfile()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(output.try_clone()?);
        let status = self.lab.spawn_in(self.places[host], &mut command)?.wait()?;
        ensure!(status.success(), "`{}`: {status}", words.join(" "));
        let mut said = String::new();
        output.rewind()?;
        output.read_to_string(&mut said)?;
        Ok(said)
    }

    /// Makes a command that asks the daemon of a host.
    pub(crate) fn command(&self, host: usize, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(OVERLAY);
        command.arg("--socket").arg(self.socket(host)).args(words);
        command
    }

    /// Runs a program that sleeps, on a host, and waits until it is there.
    pub(crate) fn sleep(&self, host: usize, network: &str, name: &str) -> anyhow::Result<String> {
        let run = ["run", "-d", "--name", name, "--network", network, "--"];
        self.ask(host, &[&run[..], &["sleep", "86400"]].concat())
    }

    /// Pings once, from a program on a host.
    pub(crate) fn pings(&self, host: usize, from: &str, to: &str) -> anyhow::Result<Output> {
        let ping = ["exec", from, "--", "ping", "-c", "1", "-W", "1", to];
        self.run(host, &ping)
    }

    /// Pings until there is an answer.
    pub(crate) fn reach(
        &self,
        limit: Duration,
        host: usize,
        from: &str,
        to: &str,
    ) -> anyhow::Result<String> {
        let mut last = String::new();
        eventually(limit, &format!("an answer of {to} to {from}"), || {
            let output = self.pings(host, from, to)?;
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            last.push_str(&String::from_utf8_lossy(&output.stderr));
            Ok(output.status.success().then(|| last.clone()))
        })
        .with_context(|| last.clone())
    }

    /// What `node ls` lists.
    pub(crate) fn nodes(&self, host: usize) -> anyhow::Result<Vec<Value>> {
        self.list(host, &["node", "ls"])
    }

    /// What a listing lists.
    pub(crate) fn list(&self, host: usize, words: &[&str]) -> anyhow::Result<Vec<Value>> {
        let text = self.ask(host, &[words, &["--format", "json"]].concat())?;
        let rows: Result<_, _> = text.lines().map(serde_json::from_str).collect();
        Ok(rows?)
    }

    /// The host that leads, as a host sees it.
    pub(crate) fn leader(&self, host: usize) -> anyhow::Result<usize> {
        let nodes = self.nodes(host)?;
        let leads = nodes.iter().find(|node| node["ManagerStatus"] == "Leader");
        let leads = leads.context("nobody leads")?;
        (0..self.daemons.len())
            .find(|host| leads["Hostname"] == name(*host))
            .context("a foreign leader")
    }

    /// What `network inspect` says of one network.
    pub(crate) fn inspect(&self, host: usize, network: &str) -> anyhow::Result<Value> {
        let text = self.ask(host, &["network", "inspect", network])?;
        let mut found: Vec<Value> = serde_json::from_str(&text)?;
        ensure!(found.len() == 1, "{text}");
        found.pop().context("nothing")
    }

    /// What the daemons said last, for the message of a failure.
    pub(crate) fn logs(&self) -> String {
        let mut text = "the daemons said last:".to_owned();
        for host in 0..self.daemons.len() {
            let log = fs::read_to_string(self.log(host)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(12)..];
            text.push_str(&format!("\n{}:\n  {}", name(host), last.join("\n  ")));
        }
        text
    }

    /// A place for the files of a test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn socket(&self, host: usize) -> PathBuf {
        self.path(&format!("{}.sock", name(host)))
    }

    pub(crate) fn data(&self, host: usize) -> PathBuf {
        self.path(&name(host))
    }

    /// What the daemon of a host has said.
    pub(crate) fn log_of(&self, host: usize) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.log(host))?)
    }

    fn log(&self, host: usize) -> PathBuf {
        self.path(&format!("{}.log", name(host)))
    }
}

/// The address of a host.
pub(crate) fn address(host: usize) -> Ipv4Addr {
    let number = u8::try_from(host + 1).expect("a lab has at most 60 hosts");
    Ipv4Addr::new(192, 168, 77, number)
}

/// Splits words at spaces, and adds those that have some.
pub(crate) fn words<'a>(text: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    text.split(' ').chain(more.iter().copied()).collect()
}

/// The name of a host.
pub(crate) fn name(host: usize) -> String {
    format!("host{}", host + 1)
}

/// Tries until there is something; the last error is told if there never is.
pub(crate) fn eventually<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        let tried = attempt();
        let late = began.elapsed() > limit;
        match tried {
            Ok(Some(found)) => return Ok(found),
            Err(error) if late => return Err(error.context(format!("{what}, within {limit:?}"))),
            Ok(None) if late => bail!("{what} did not come within {limit:?}"),
            _ => thread::sleep(PAUSE),
        }
    }
}

/// Whether a program is there to be run.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says something that must not be overlooked.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
