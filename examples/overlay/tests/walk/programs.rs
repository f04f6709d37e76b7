//! Programs and what runs beside them: streams, terminals, exit codes; and namespaces that somebody else made.

use std::{
    cell::Cell,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal};

use crate::{
    Story,
    support::{Cluster, PATIENCE, eventually},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "streams_and_exit_codes_of_programs_reach_the_command_line",
        hosts: 1,
        programs: &["sh", "cat", "hostname"],
        tell: streams,
    },
    Story {
        name: "foreign_namespaces_are_attached_and_detached",
        hosts: 2,
        programs: &["sh", "unshare", "ping"],
        tell: foreign,
    },
];

fn streams(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.ask(0, &["init"])?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    cluster.sleep(0, "my-net", "web")?;
    let code = |words: &[&str]| anyhow::Ok(cluster.run(0, words)?.status.code());
    assert_eq!(code(&["exec", "web", "--", "sh", "-c", "exit 7"])?, Some(7));
    assert_eq!(
        code(&["exec", "web", "--", "sh", "-c", "kill -9 $$"])?,
        Some(137)
    );
    assert_eq!(code(&["exec", "web", "--", "no-such-command"])?, Some(127));
    assert_eq!(code(&["exec", "web", "--", "/etc/passwd"])?, Some(126));
    assert_eq!(code(&["exec", "nobody", "--", "true"])?, Some(1));
    let run = [
        "run",
        "--rm",
        "--name",
        "once",
        "--network",
        "my-net",
        "--",
        "sh",
        "-c",
        "exit 5",
    ];
    assert_eq!(code(&run)?, Some(5));
    assert_eq!(
        cluster.ask(0, &["ps", "-aq"])?.lines().count(),
        1,
        "--rm leaves nothing"
    );

    let output = cluster.run(
        0,
        &["exec", "web", "--", "sh", "-c", "echo out; echo err >&2"],
    )?;
    assert_eq!(
        (&output.stdout[..], &output.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let output = cluster.run(
        0,
        &[
            "exec",
            "-t",
            "web",
            "--",
            "sh",
            "-c",
            "test -t 1 && hostname",
        ],
    )?;
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "web\r\n",
        "a terminal, and the name"
    );
    input(cluster)?;
    signals(cluster)
}

/// A signal to the command line reaches the command; one that ignores them is left alone after the third.
fn signals(cluster: &Cluster) -> anyhow::Result<()> {
    let cases = [
        ("exec sleep 1000", 143, 1),
        ("trap '' TERM; sleep 1000", 125, 3),
    ];
    for (script, code, times) in cases {
        let script = format!("echo ready; {script}");
        let mut command = cluster.command(0, &["exec", "web", "--", "sh", "-c", &script]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        assert_eq!(lines.next().context("no line")??, "ready");
        let sent = Cell::new(0);
        let status = eventually(PATIENCE, "the end of the command line", || {
            if sent.get() < times {
                rustix::process::kill_process(Pid::from_child(&child), Signal::TERM)?;
                sent.set(sent.get() + 1);
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(child.try_wait()?)
        })?;
        assert_eq!(status.code(), Some(code), "{script}");
    }
    Ok(())
}

/// More input than any buffer on the way holds comes back whole.
fn input(cluster: &Cluster) -> anyhow::Result<()> {
    let text = "one line\n".repeat(50_000);
    let (given, taken) = (cluster.path("input"), cluster.path("output"));
    File::create(&given)?.write_all(text.as_bytes())?;
    let mut command = cluster.command(0, &["exec", "-i", "web", "--", "cat"]);
    command
        .stdin(File::open(&given)?)
        .stdout(File::create(&taken)?);
    let status = command.status()?;
    let back = std::fs::read(&taken)?;
    ensure!(
        status.success() && back == text.as_bytes(),
        "{status}, {} octets",
        back.len()
    );
    Ok(())
}

fn foreign(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    cluster.sleep(0, "my-net", "alpine1")?;
    let mut command = Command::new("unshare");
    command
        .args(["-n", "sh", "-c", "echo $$; exec sleep 1000"])
        .stdout(Stdio::piped());
    let mut other = cluster.lab.spawn_in(1, &mut command)?;
    let told = attach(cluster, other.stdout.take().context("no output")?);
    other.kill()?;
    other.wait()?;
    told
}

fn attach(cluster: &Cluster, output: impl std::io::Read) -> anyhow::Result<()> {
    let process = BufReader::new(output)
        .lines()
        .next()
        .context("no process number")??;
    let path = format!("/proc/{process}/ns/net");
    let attach = |netns| {
        [
            "attach",
            "--network",
            "my-net",
            "--name",
            "blue",
            "--alias",
            "sky",
            "--netns",
            netns,
        ]
    };
    let missing = cluster.refused(1, &attach("/no/such/namespace"))?;
    ensure!(missing.said.contains("/no/such/namespace"), "{missing:?}");
    cluster.ask(1, &attach(&path))?;
    for name in ["blue", "sky"] {
        cluster.reach(PATIENCE, 0, "alpine1", name)?;
    }
    assert_eq!(cluster.ask(1, &["detach", "blue"])?, "blue\n");
    let twice = cluster.refused(1, &["detach", "blue"])?;
    ensure!(twice.said.contains("blue"), "{twice:?}");
    let program = cluster.refused(0, &["detach", "alpine1"])?;
    ensure!(program.said.contains("overlay stop"), "{program:?}");
    Ok(())
}
