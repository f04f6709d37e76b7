//! Network namespaces, and programs in them. Whatever is made here goes with its value.

use std::{
    io,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(name: &str) -> io::Result<Self> {
        let name = format!("obp-{}-{name}", std::process::id());
        run("ip", ["netns", "add", &name])?;
        let made = Self { name };
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// Runs `ip` in there, with the words of a line.
    pub fn ip(&self, line: &str) -> io::Result<()> {
        let words = ["-n", &self.name]
            .into_iter()
            .chain(line.split_whitespace());
        run("ip", words).map(drop)
    }

    /// Runs `bridge` in there, with the words of a line.
    pub fn bridge(&self, line: &str) -> io::Result<()> {
        let words = ["-n", &self.name]
            .into_iter()
            .chain(line.split_whitespace());
        run("bridge", words).map(drop)
    }

    /// The words in front of a command that runs it in there.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run("ip", ["netns", "del", &self.name]);
    }
}

/// Two hosts joined by a veth pair of MTU 1,500: `10.99.0.1` and `10.99.0.2`.
pub fn hosts(name: &str) -> io::Result<[Namespace; 2]> {
    let hosts = [
        Namespace::new(&format!("{name}-h1"))?,
        Namespace::new(&format!("{name}-h2"))?,
    ];
    let [one, two] = &hosts;
    one.ip(&format!(
        "link add v0 type veth peer name v0 netns {}",
        two.name
    ))?;
    for (at, host) in hosts.iter().enumerate() {
        host.ip(&format!("addr add 10.99.0.{}/24 dev v0", at + 1))?;
        host.ip("link set v0 up")?;
    }
    Ok(hosts)
}

/// A program that runs beside us and ends with this value.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    pub fn start(words: &[String]) -> io::Result<Self> {
        let (program, rest) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(rest);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let id = self.0.id().to_string();
        let _ = run("kill", ["-TERM", &id]);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end and returns its output.
pub fn run<S: AsRef<str>>(program: &str, words: impl IntoIterator<Item = S>) -> io::Result<String> {
    let words: Vec<String> = words
        .into_iter()
        .map(|word| word.as_ref().to_owned())
        .collect();
    let output = Command::new(program)
        .args(&words)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    said(program, &words, output)
}

/// As [`run`], of a command in one list.
pub fn run_all(words: &[String]) -> io::Result<String> {
    let (program, rest) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    run(program, rest)
}

fn said(program: &str, words: &[String], output: Output) -> io::Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{program} {}: {}",
        words.join(" "),
        error.trim()
    )))
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    run("sh", ["-c", &format!("command -v {program}")]).is_ok()
}

/// Tries until it succeeds, for some seconds.
pub fn until<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}
