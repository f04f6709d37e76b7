//! Three hosts with a daemon each, and the command line.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use overlay_linux::{
    capabilities,
    hosts::{Lab, LabConfig},
};
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const OVERLAY: &str = env!("CARGO_BIN_EXE_overlay");
pub(crate) const HOSTS: usize = 3;
/// How long anything may take, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One cluster at a time: they are heavy, and their figures would suffer.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Hosts and daemons; dropping it ends all of it.
pub(crate) struct Swarm {
    daemons: [Option<Child>; HOSTS],
    lab: Lab,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// Says aloud that something is left out.
pub(crate) fn skip(what: &str, why: &str) {
    // Not by `eprintln!`, which the test harness swallows when the test passes.
    drop(writeln!(io::stderr(), "SKIPPED: {what}: {why}"));
}

/// Says a measured figure aloud.
pub(crate) fn tell(what: &str, time: Duration) {
    drop(writeln!(
        io::stderr(),
        "{what}: {:.2} s",
        time.as_secs_f64()
    ));
}

/// Whether a program of the system is there; says so if it is not.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        skip(&format!("the part with {program}"), "it is not installed");
    }
    found
}

impl Swarm {
    /// Makes the hosts; `None`, said aloud, where there is no privilege to.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let found = capabilities(Path::new(OVERLAY)).unwrap();
        // A user namespace is only to be had by a process with one thread, which a test is not.
        if !found.privileged.is_possible() || !found.endpoints() {
            skip(test, &format!("namespaces are {}", found.privileged));
            return None;
        }
        let host = |host| vec![format!("{}/24", address(host)).parse().unwrap()];
        let config = LabConfig {
            hosts: (0..HOSTS).map(host).collect(),
            mtu: 1_500,
        };
        let lab = Lab::new(Path::new(OVERLAY), &config).unwrap();
        let folder = tempfile::Builder::new()
            .prefix("overlay-e2e-")
            .tempdir()
            .unwrap();
        Some(Self {
            daemons: [const { None }; HOSTS],
            lab,
            folder,
            _turn: turn,
        })
    }

    /// Makes hosts, and a cluster of as many managers.
    pub(crate) fn with_cluster(test: &str) -> Option<Self> {
        let mut swarm = Self::new(test)?;
        (0..HOSTS).for_each(|host| swarm.start(host));
        swarm.ok(0, &["init"]);
        let token = swarm.ok(0, &["join-token", "-q", "manager"]);
        for host in 1..HOSTS {
            let said = swarm.ok(host, &["join", "--token", token.trim(), &remote(0)]);
            assert_eq!(said, "This node joined a cluster as a manager.\n");
        }
        swarm.until("three managers that are ready", |swarm| {
            let nodes = swarm.lines(0, &["node", "ls", "--format", "json"])?;
            let well = |node: &&Value| node["Status"] == "Ready" && node["ManagerStatus"] != "";
            (nodes.iter().filter(well).count() == HOSTS).then_some(())
        });
        Some(swarm)
    }

    /// The arguments of a host's daemon.
    pub(crate) fn daemon(&self, host: usize) -> Command {
        let mut command = Command::new(OVERLAY);
        command
            .arg("daemon")
            .arg("--data-dir")
            .arg(self.path(host, "data"));
        command.arg("--socket").arg(self.path(host, "sock"));
        command.args([
            "--name",
            &name(host),
            "--advertise-addr",
            &address(host).to_string(),
        ]);
        command
    }

    /// Starts a host's daemon and waits until it answers.
    pub(crate) fn start(&mut self, host: usize) {
        let log = self.path(host, "log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.daemon(host);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut child = self.spawn(host, &mut command);
        self.until(&format!("the daemon of {}", name(host)), |swarm| {
            let ended = child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", swarm.log(host));
            swarm.run(host, &["info"]).status.success().then_some(())
        });
        self.daemons[host] = Some(child);
    }

    /// Kills a host's daemon with SIGKILL.
    pub(crate) fn kill(&mut self, host: usize) {
        let mut daemon = self.daemons[host].take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Starts a program on a host.
    pub(crate) fn spawn(&mut self, host: usize, command: &mut Command) -> Child {
        self.lab.spawn_in(host, command).unwrap()
    }

    /// Runs the command line against a host's daemon.
    pub(crate) fn run(&self, host: usize, words: &[&str]) -> Output {
        self.run_with_input(host, words, "")
    }

    /// The same, with something on standard input.
    pub(crate) fn run_with_input(&self, host: usize, words: &[&str], input: &str) -> Output {
        let mut command = self.command(host, words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // One that reads nothing may be gone already.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        finish(child, &words.join(" "))
    }

    /// A command line against a host's daemon.
    pub(crate) fn command(&self, host: usize, words: &[&str]) -> Command {
        let mut command = Command::new(OVERLAY);
        command
            .arg("--socket")
            .arg(self.path(host, "sock"))
            .args(words);
        command
    }

    /// Runs a command line that is to succeed; returns what it prints.
    pub(crate) fn ok(&self, host: usize, words: &[&str]) -> String {
        let output = self.run(host, words);
        assert!(
            output.status.success(),
            "{words:?}: {output:?}\n{}",
            self.log(host)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command line that is to be refused; returns the message.
    pub(crate) fn refused(&self, host: usize, words: &[&str]) -> String {
        let output = self.run(host, words);
        assert!(!output.status.success(), "{words:?}: {output:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            message.starts_with("overlay: ") && message.len() > 20,
            "{words:?}: {message:?}"
        );
        message
    }

    /// The lines of a listing with `--format json`; `None` if it was refused.
    pub(crate) fn lines(&self, host: usize, words: &[&str]) -> Option<Vec<Value>> {
        let output = self.run(host, words);
        let text = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| {
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        })
    }

    /// Tries until there is something.
    pub(crate) fn until<T>(&self, what: &str, mut attempt: impl FnMut(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(found) = attempt(self) {
                return found;
            }
            if begun.elapsed() > PATIENCE {
                let logs: Vec<String> = (0..HOSTS).map(|host| self.log(host)).collect();
                panic!("{what} did not come\n{}", logs.join("\n"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what a host's daemon said.
    pub(crate) fn log(&self, host: usize) -> String {
        let log = fs::read_to_string(self.path(host, "log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.len().saturating_sub(20);
        format!("--- {}:\n{}", name(host), lines[last..].join("\n"))
    }

    /// Something of a host in the folder of the test.
    pub(crate) fn path(&self, host: usize, what: &str) -> PathBuf {
        self.folder.path().join(format!("{}.{what}", name(host)))
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        for mut daemon in self.daemons.iter_mut().filter_map(Option::take) {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}

/// Waits for a child and what it says; kills it when it takes too long.
pub(crate) fn finish(mut child: Child, what: &str) -> Output {
    let mut output = child.stdout.take().unwrap();
    let mut error = child.stderr.take().unwrap();
    let readers = [
        thread::spawn(move || read_all(&mut output)),
        thread::spawn(move || read_all(&mut error)),
    ];
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{what} did not end");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let [stdout, stderr] = readers.map(|reader| reader.join().unwrap());
    Output {
        status,
        stdout,
        stderr,
    }
}

fn read_all(source: &mut impl io::Read) -> Vec<u8> {
    let mut read = Vec::new();
    source.read_to_end(&mut read).unwrap();
    read
}

pub(crate) fn name(host: usize) -> String {
    format!("host{}", host + 1)
}

pub(crate) fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 78, u8::try_from(host + 1).unwrap())
}

/// Where a host's manager is joined.
pub(crate) fn remote(host: usize) -> String {
    format!("{}:2377", address(host))
}
