//! Three processes on loopback: what was acknowledged outlives the leader.
//!
//! `KILLS=12 cargo test -p raft-kv --release --test cluster -- --nocapture fail_over` prints how long fail-over takes.

#![expect(clippy::disallowed_methods, reason = "a test of processes has a clock")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

#[test]
fn what_was_acknowledged_outlives_the_leader() {
    let mut cluster = Cluster::start(&["--compact-entries", "20"]);
    for number in 0..30 {
        cluster.done(&["put", &format!("key-{number}"), &format!("value-{number}")]);
    }
    cluster.done(&["cas", "key-0", "value-0", "changed"]);
    let refused = cluster.run(&["cas", "key-0", "value-0", "again"]);
    assert_eq!(refused.status.code(), Some(1));

    let leader = cluster.leader();
    cluster.kill(leader);
    for number in 30..40 {
        cluster.done(&["put", &format!("key-{number}"), &format!("value-{number}")]);
    }
    cluster.done(&["cas", "key-1", "value-1", "changed"]);
    for number in 2..40 {
        assert_eq!(
            cluster.get(&format!("key-{number}")),
            format!("value-{number}")
        );
    }
    assert_eq!(cluster.get("key-0"), "changed");
    assert_eq!(cluster.get("key-1"), "changed");

    cluster.begin(leader);
    // On a member that was away, a linearizable read waits until it has everything.
    let at = cluster.clients(leader);
    let read = until("the killed one answers", || {
        let read = cluster.run_at(&["get", "key-39"], &at);
        (read.status.success()).then(|| text(&read))
    });
    assert_eq!(read, "value-39");
    let behind = |status: &Value| status["keys"] != 40;
    until("the killed one has everything", || {
        let status = cluster.status(leader)?;
        (!behind(&status)).then_some(())
    });
}

#[test]
fn what_was_acknowledged_outlives_all_of_them() {
    let mut cluster = Cluster::start(&[]);
    for number in 0..10 {
        cluster.done(&["put", &format!("key-{number}"), &format!("value-{number}")]);
    }
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.begin(id);
    }
    for number in 0..10 {
        assert_eq!(
            cluster.get(&format!("key-{number}")),
            format!("value-{number}")
        );
    }
}

#[test]
fn operators_add_promote_transfer_and_remove() {
    let mut cluster = Cluster::start(&["--clock-drift-ppm", "500"]);
    cluster.done(&["put", "a", "1"]);
    cluster.begin_as(4, &["--join"]);
    let fourth = format!("4={}", cluster.peer(4));
    cluster.done(&["add-learner", &fourth]);
    until("the learner can be promoted", || {
        cluster
            .run(&["promote", "4"])
            .status
            .success()
            .then_some(())
    });
    until("leadership can be handed to the fourth", || {
        let transfer = cluster.run(&["transfer", "4"]);
        (transfer.status.success() || cluster.leader() == 4).then_some(())
    });
    assert_eq!(cluster.leader(), 4);
    let at = cluster.clients(4);
    assert_eq!(text(&cluster.run_at(&["get", "a", "--lease"], &at)), "1");
    assert_eq!(text(&cluster.run_at(&["get", "a", "--stale"], &at)), "1");
    until("the first is removed", || {
        cluster.run(&["remove", "1"]).status.success().then_some(())
    });
    cluster.done(&["put", "a", "2"]);
    assert_eq!(cluster.get("a"), "2");
}

/// Asserts nothing about speed.
#[test]
fn fail_over_is_measured() {
    let kills = std::env::var("KILLS").ok();
    let kills = kills.and_then(|kills| kills.parse().ok()).unwrap_or(1);
    for profile in ["default", "lan"] {
        let mut cluster = Cluster::start(&["--profile", profile]);
        let mut times = Vec::new();
        for kill in 0..kills {
            cluster.done(&["put", "before", &kill.to_string()]);
            until("all three have everything", || {
                cluster.is_level().then_some(())
            });
            let leader = cluster.leader();
            cluster.kill(leader);
            let killed = Instant::now();
            cluster.write_somewhere(leader);
            times.push(killed.elapsed());
            cluster.begin(leader);
        }
        times.sort_unstable();
        println!("from kill -9 of the leader to the next acknowledged write, {profile}: {times:?}");
    }
}

/// Members, as processes.
struct Cluster {
    directory: TempDir,
    /// By number less one: where they listen for each other and for clients.
    ports: Vec<(u16, u16)>,
    members: Vec<Option<Child>>,
    options: Vec<String>,
}

impl Cluster {
    fn start(options: &[&str]) -> Self {
        let mut cluster = Self {
            directory: TempDir::new().unwrap(),
            ports: (0..4).map(|_| (free_port(), free_port())).collect(),
            members: (0..4).map(|_| None).collect(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        for id in 1..=3 {
            cluster.begin_as(id, &["--found"]);
        }
        cluster.leader();
        cluster
    }

    fn begin(&mut self, id: usize) {
        self.begin_as(id, &[]);
    }

    fn begin_as(&mut self, id: usize, more: &[&str]) {
        let members = if id > 3 { id } else { 3 };
        let peers: Vec<_> = (1..=members)
            .map(|id| format!("{id}={}", self.peer(id)))
            .collect();
        let mut serve = Command::new(BINARY);
        serve
            .args([
                "serve",
                "--id",
                &id.to_string(),
                "--peers",
                &peers.join(","),
            ])
            .args(["--listen-clients", &self.clients(id)])
            .arg("--data")
            .arg(self.data(id))
            .args(&self.options)
            .args(more)
            .stdout(Stdio::piped());
        // A port may be somebody else's at the moment: the member ends then, without a word that it takes clients.
        let child = until("a member starts", || {
            let mut child = serve.spawn().unwrap();
            let mut said = String::new();
            let read = BufReader::new(child.stdout.take().unwrap()).read_line(&mut said);
            if read.is_ok_and(|length| length > 0) {
                return Some(child);
            }
            child.wait().unwrap();
            None
        });
        self.members[id - 1] = Some(child);
    }

    fn kill(&mut self, id: usize) {
        let mut child = self.members[id - 1].take().unwrap();
        // SIGKILL, on Unix.
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until one leads, by its own word and another's.
    fn leader(&self) -> usize {
        until("somebody leads", || {
            let all: Vec<_> = self.running().filter_map(|id| self.status(id)).collect();
            let leads = all.iter().find(|status| status["role"] == "leader")?;
            let known = all
                .iter()
                .filter(|one| one["leader"] == leads["id"])
                .count();
            (known > 1).then(|| usize::try_from(leads["id"].as_u64().unwrap()).unwrap())
        })
    }

    fn is_level(&self) -> bool {
        let all: Vec<_> = self.running().map(|id| self.status(id)).collect();
        let first = all.first().cloned().flatten();
        first.is_some_and(|first| {
            let level = |one: &Option<Value>| {
                one.as_ref()
                    .is_some_and(|one| one["applied"] == first["applied"])
            };
            all.iter().all(level)
        })
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        let members = self.members.iter().enumerate();
        members.filter_map(|(at, member)| member.as_ref().map(|_| at + 1))
    }

    fn status(&self, id: usize) -> Option<Value> {
        let answer = self.ask(id, &json!("status"))?;
        answer.get("status").cloned()
    }

    /// Asks one member without any process.
    fn ask(&self, id: usize, request: &Value) -> Option<Value> {
        let mut stream = TcpStream::connect(self.clients(id)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        writeln!(stream, "{}", json!({"id": 1, "request": request})).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let answered: Value = serde_json::from_str(&line).ok()?;
        answered.get("answer").cloned()
    }

    /// Opens a session, which is a write, at whichever member takes it.
    fn write_somewhere(&self, not: usize) {
        until("a write is acknowledged", || {
            self.running().filter(|id| *id != not).find_map(|id| {
                let answer = self.ask(id, &json!("open"))?;
                answer.get("opened").cloned()
            })
        });
    }

    fn done(&self, args: &[&str]) {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    fn get(&self, key: &str) -> String {
        text(&self.run(&["get", key]))
    }

    /// Runs a command that may ask any of the first three.
    fn run(&self, args: &[&str]) -> Output {
        let at: Vec<_> = (1..=3).map(|id| self.clients(id)).collect();
        self.run_at(args, &at.join(","))
    }

    fn run_at(&self, args: &[&str], at: &str) -> Output {
        let mut command = Command::new(BINARY);
        command.args(args).args(["--at", at, "--patience", "60"]);
        command.output().unwrap()
    }

    fn peer(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.ports[id - 1].0)
    }

    fn clients(&self, id: usize) -> String {
        format!("127.0.0.1:{}", self.ports[id - 1].1)
    }

    fn data(&self, id: usize) -> PathBuf {
        self.directory.path().join(id.to_string())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in self.members.iter_mut().flatten() {
            // One that ended already needs no end.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Returns a port that nobody listens on and that no connection is given: below those that the system hands out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 200).unwrap() * 100;
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits for something, generously.
fn until<T>(what: &str, mut happens: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(happened) = happens() {
            return happened;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        sleep(Duration::from_millis(2));
    }
}

const BINARY: &str = env!("CARGO_BIN_EXE_raft-kv");

const PATIENCE: Duration = Duration::from_secs(120);
