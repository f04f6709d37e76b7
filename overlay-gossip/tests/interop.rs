//! A cluster of two makes: this crate and HashiCorp's memberlist.
//!
//! Needs Go and Debian's `golang-github-hashicorp-memberlist-dev` (0.2.2); run with `--ignored`.
#![cfg(feature = "tokio")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use overlay_core::Seed;
use overlay_gossip::{
    Config, Event, Keyring, MemberState, Timing,
    driver::{Driver, Sockets},
};
use tokio::sync::mpsc;

#[path = "support/aead.rs"]
mod support;

#[test]
#[ignore = "needs Go and Debian's golang-github-hashicorp-memberlist-dev"]
fn memberlist_and_we_are_one_cluster() {
    let program = build();
    run(story(program.clone(), None, Ending::Leave));
    run(story(program.clone(), None, Ending::Killed));
    run(story(program.clone(), Some([7; 16]), Ending::WeLeave));
    run(story(program, Some([7; 16]), Ending::Killed));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// memberlist leaves.
    Leave,
    /// memberlist is killed.
    Killed,
    /// We leave.
    WeLeave,
}

async fn story(program: PathBuf, key: Option<[u8; 16]>, ending: Ending) {
    let sockets = Sockets::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    let sockets = sockets.await.expect("a free port");
    let ours = sockets.local_addr();
    let ring = key.map(|key| support::ring(&key));
    let mut we = driver(sockets, ring);
    let mut peer = Peer::start(&program, key);
    assert_eq!(peer.line(&mut we).await, "join go1 m1");
    assert_eq!(peer.line(&mut we).await, "ready");

    // It finds us, and what we say of ourselves.
    peer.tell(&format!("join {ours}"));
    assert_eq!(peer.line(&mut we).await, "join rust hello");
    assert_eq!(peer.line(&mut we).await, "joined 1 <nil>");
    let member = we.gossip().member("go1").expect("it told us of itself");
    assert_eq!(
        (&member.meta[..], member.state),
        (&b"m1"[..], MemberState::Alive)
    );

    // What either says of itself changes.
    peer.tell("meta m2");
    let updated = event(&mut we, |event| match event {
        Event::MemberUpdated(member) => Some(member.meta.clone()),
        _ => None,
    });
    assert_eq!(updated.await, "m2");
    assert_eq!(peer.line(&mut we).await, "update go1 m2");
    we.command(|gossip, now| gossip.set_meta(now, b"again".to_vec()))
        .expect("short meta data");
    assert_eq!(peer.line(&mut we).await, "update rust again");

    // Messages, by datagram and by stream.
    let message = |event: &Event| match event {
        Event::UserMessage { bytes, .. } => Some(bytes.clone()),
        _ => None,
    };
    peer.tell("send packet");
    assert_eq!(event(&mut we, message).await, "packet");
    peer.tell("reliable stream!");
    assert_eq!(event(&mut we, message).await, "stream!".repeat(1_000));
    for text in ["short".to_owned(), "long".repeat(1_000)] {
        we.command(|gossip, now| gossip.send(now, "go1", text.as_bytes()))
            .expect("a member");
        assert_eq!(peer.line(&mut we).await, format!("message {text}"));
    }

    // Several probe intervals of both: nobody suspects anybody.
    let quiet = tokio::time::timeout(Duration::from_secs(3), we.next_event());
    let quiet = quiet.await;
    assert!(quiet.is_err(), "{quiet:?}");
    let stats = we.gossip().stats();
    assert_eq!(
        (stats.probes_failed, stats.malformed, stats.refutations),
        (0, 0, 0)
    );
    assert!(stats.probes >= 5, "{stats:?}");

    match ending {
        Ending::Leave => {
            peer.tell("quit");
            let left = |event: &Event| matches!(event, Event::MemberLeft(_)).then_some(());
            event(&mut we, left).await;
        }
        Ending::Killed => {
            peer.child.kill().expect("it runs");
            let down = |event: &Event| matches!(event, Event::MemberDown(_)).then_some(());
            event(&mut we, down).await;
        }
        Ending::WeLeave => {
            we.command(|gossip, now| gossip.leave(now));
            assert_eq!(peer.line(&mut we).await, "leave rust");
        }
    }
}

fn driver(sockets: Sockets, keyring: Option<Keyring>) -> Driver {
    let config = Config {
        keyring,
        meta: b"hello".to_vec(),
        timing: Timing::quick(),
        ..Config::lan("rust", sockets.local_addr())
    };
    Driver::new(config, Seed::from_u64(1), sockets).expect("a good configuration")
}

/// Drives us until an event is the wanted one.
async fn event<R>(we: &mut Driver, wanted: impl Fn(&Event) -> Option<R>) -> R {
    loop {
        if let Some(found) = wanted(&we.next_event().await) {
            return found;
        }
    }
}

/// memberlist in a process of its own.
struct Peer {
    child: Child,
    input: ChildStdin,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Peer {
    fn start(program: &Path, key: Option<[u8; 16]>) -> Self {
        let free = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|s| s.local_addr());
        let port = free.expect("a free port").port();
        let mut command = Command::new(program);
        command.arg("-port").arg(port.to_string());
        if let Some(key) = key {
            let hex: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
            command.arg("-key").arg(hex);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program was built");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::unbounded_channel();
        read_lines(output, sender);
        Self {
            child,
            input,
            lines,
        }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("it reads");
    }

    /// Drives us until it says something.
    async fn line(&mut self, we: &mut Driver) -> String {
        loop {
            tokio::select! {
                line = self.lines.recv() => return line.expect("it still runs"),
                _ = we.next_event() => {}
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the output of a process is read by a thread"
)]
fn read_lines(output: impl BufRead + Send + 'static, sender: mpsc::UnboundedSender<String>) {
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
}

fn run(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let story = tokio::time::timeout(Duration::from_secs(60), story);
        story.await.expect("the story ends in time");
    });
}

fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
    fs::create_dir_all(&folder).expect("a folder for what is built");
    let program = folder.join("peer");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/main.go");
    let status = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", folder.join("cache"))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "needs `apt-get install golang-go golang-github-hashicorp-memberlist-dev`"
    );
    program
}
