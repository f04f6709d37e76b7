//! Programs in an endpoint's namespaces.

use std::{io::Write, time::Duration};

use nix::libc;
use overlay_core::plane::PlatformError;
use overlay_linux::{CommandSpec, Exit, PortKind, Stdio, WindowSize};

use super::{
    Test,
    bench::{Bench, Outcome, command, eventually, pause, read_all, read_until},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the_exit_status_is_the_programs", exits),
    ("a_program_sees_its_own_machine", own_machine),
    ("pipes_carry_input_output_and_errors", pipes),
    ("a_terminal_is_one", terminal),
    ("a_builtin_is_the_holders_own_binary", builtin),
    ("what_cannot_be_started_says_why", not_started),
    ("stop_kills_what_does_not_listen", stop),
    ("with_the_main_program_all_others_end", main_ends),
    ("kept_output_is_bounded_to_the_newest", bounded_output),
    ("orphans_are_reaped", orphans),
    ("a_program_without_follower_goes_on", unfollowed),
];

const LIMIT: Duration = Duration::from_secs(5);

fn exits(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    assert_eq!(bench.run(0, &["true"])?.0, Exit::Code(0));
    assert_eq!(bench.run(0, &["sh", "-c", "exit 77"])?.0, Exit::Code(77));
    let (exit, _) = bench.run(0, &["sh", "-c", "kill -9 $$"])?;
    assert_eq!(exit, Exit::Signal(libc::SIGKILL));
    assert_eq!(exit.code(), 137);
    Ok(())
}

fn own_machine(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let before = [
        std::fs::read_to_string("/etc/hosts").ok(),
        std::fs::read_to_string("/etc/resolv.conf").ok(),
        std::fs::read_to_string("/etc/nsswitch.conf").ok(),
    ];
    assert_eq!(bench.succeed(0, &["hostname"])?.trim(), "alpine2");
    let text = bench.succeed(0, &["getent", "hosts", "alpine2"])?;
    assert!(text.starts_with("10.0.1.2"), "{text}");
    let text = bench.succeed(0, &["cat", "/etc/resolv.conf"])?;
    assert_eq!(text, "nameserver 127.0.0.11\noptions ndots:0\n");
    let text = bench.succeed(0, &["cat", "/etc/nsswitch.conf"])?;
    assert!(text.contains("hosts: files dns"), "{text}");
    // Only its own processes: the holder, and the program that looks.
    let text = bench.succeed(0, &["sh", "-c", "echo /proc/[0-9]*"])?;
    assert!(text.split_whitespace().count() <= 3, "{text}");
    // No signal is blocked or ignored, as a program expects it.
    let text = bench.succeed(0, &["grep", "^Sig[BI]", "/proc/self/status"])?;
    // Of the real-time signals two belong to the C library, and cannot be reset.
    let none = |line: &str| line.ends_with("00000000");
    let masks: Vec<_> = text
        .lines()
        .map(|line| line.replace("80000000", "00000000"))
        .collect();
    assert!(
        masks.len() == 2 && masks.iter().all(|line| none(line)),
        "{text}"
    );
    // What it mounts or writes there does not reach us.
    bench.succeed(0, &["mount", "-t", "tmpfs", "none", "/mnt"])?;
    bench.succeed(0, &["sh", "-c", "echo 10.0.1.9 other >> /etc/hosts"])?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(
        !mounts.lines().any(|line| line.starts_with("none /mnt ")),
        "{mounts}"
    );
    let after = [
        std::fs::read_to_string("/etc/hosts").ok(),
        std::fs::read_to_string("/etc/resolv.conf").ok(),
        std::fs::read_to_string("/etc/nsswitch.conf").ok(),
    ];
    assert_eq!(before, after);
    Ok(())
}

fn pipes(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let script = "pwd; echo $ANSWER; cat; echo wrong >&2";
    let mut spec = command(&["sh", "-c", script])
        .env("ANSWER", "42")
        .stdio(Stdio::Pipes { input: true });
    spec.directory = Some("/tmp".into());
    let mut process = bench.linux.exec(bench.endpoint(0), spec)?;
    let mut input = process.input.take().ok_or("no input")?;
    input.write_all(b"through\n")?;
    drop(input);
    let output = read_until(process.output.as_ref().ok_or("no output")?, None)?;
    let error = read_until(process.error.as_ref().ok_or("no error")?, None)?;
    assert_eq!(
        (output.as_str(), error.as_str()),
        ("/tmp\n42\nthrough\n", "wrong\n")
    );
    assert_eq!(process.wait(LIMIT)?, Some(Exit::Code(0)));
    Ok(())
}

fn terminal(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let size = WindowSize {
        rows: 33,
        columns: 111,
    };
    let spec = command(&["sh"]).stdio(Stdio::Terminal(size));
    let mut process = bench.linux.exec(bench.endpoint(0), spec)?;
    let mut terminal = process
        .terminal
        .as_ref()
        .ok_or("no terminal")?
        .try_clone()?;
    terminal.write_all(b"stty size; tty; echo done-$((1+1))\n")?;
    let text = read_until(&terminal, Some("done-2"))?;
    assert!(text.contains("33 111"), "{text}");
    process.resize(WindowSize {
        rows: 20,
        columns: 60,
    })?;
    terminal.write_all(b"stty size; echo done-$((2+2))\n")?;
    let text = read_until(&terminal, Some("done-4"))?;
    assert!(text.contains("20 60"), "{text}");
    // It is the controlling terminal: ^C reaches what runs in the foreground, and not the shell.
    terminal.write_all(b"sleep 100; echo over-$((3+3))\n")?;
    pause(200)?;
    terminal.write_all(&[3])?;
    read_until(&terminal, Some("^C"))?;
    terminal.write_all(b"exit 5\n")?;
    assert_eq!(process.wait(LIMIT)?, Some(Exit::Code(5)));
    Ok(())
}

/// `main` of this test: under this name it would say its arguments. Without, libtest lists nothing.
fn builtin(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let spec = CommandSpec::builtin("some-name")
        .args(["--list", "--exact", "no-such-test"])
        .stdio(Stdio::Pipes { input: false });
    let mut process = bench.linux.exec(bench.endpoint(0), spec)?;
    let text = read_all(&process)?;
    assert_eq!(process.wait(LIMIT)?, Some(Exit::Code(0)), "{text}");
    let spec = CommandSpec {
        arg0: Some("its-name".into()),
        ..command(&["/bin/sh", "-c", "echo $0"])
    };
    let mut process = bench
        .linux
        .exec(bench.endpoint(0), spec.stdio(Stdio::Pipes { input: false }))?;
    assert_eq!(read_all(&process)?, "its-name\n");
    assert_eq!(process.wait(LIMIT)?, Some(Exit::Code(0)));
    Ok(())
}

fn not_started(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    for (program, expected) in [("/no/such", libc::ENOENT), ("/etc/hosts", libc::EACCES)] {
        match bench.linux.exec(bench.endpoint(0), command(&[program])) {
            Err(PlatformError::System {
                code, operation, ..
            }) => {
                assert_eq!(code, expected);
                assert!(operation.contains(program), "{operation}");
            }
            other => return Err(format!("{program}: {other:?}").into()),
        }
    }
    bench
        .linux
        .start(bench.endpoint(0), command(&["sleep", "100"]))?;
    let second = bench
        .linux
        .start(bench.endpoint(0), command(&["sleep", "100"]));
    let busy = matches!(
        second,
        Err(PlatformError::System {
            code: libc::EBUSY,
            ..
        })
    );
    assert!(busy, "{second:?}");
    Ok(())
}

fn stop(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let endpoint = bench.endpoint(0);
    let polite = command(&[
        "sh",
        "-c",
        "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done",
    ])
    .stdio(Stdio::Pipes { input: false });
    let mut process = bench.linux.start(endpoint, polite)?;
    read_until(process.output.as_ref().ok_or("no output")?, Some("ready"))?;
    bench.linux.stop(
        endpoint,
        process.id(),
        libc::SIGTERM,
        Duration::from_secs(60),
    )?;
    assert_eq!(process.wait(LIMIT)?, Some(Exit::Code(3)));
    let deaf = command(&[
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
    ])
    .stdio(Stdio::Pipes { input: false });
    let mut process = bench.linux.start(endpoint, deaf)?;
    read_until(process.output.as_ref().ok_or("no output")?, Some("ready"))?;
    bench.linux.stop(
        endpoint,
        process.id(),
        libc::SIGTERM,
        Duration::from_millis(200),
    )?;
    assert_eq!(process.wait(Duration::from_millis(100))?, None);
    assert_eq!(process.wait(LIMIT)?, Some(Exit::Signal(libc::SIGKILL)));
    let late = bench
        .linux
        .signal(endpoint, process.id(), libc::SIGTERM, false);
    assert!(
        matches!(
            late,
            Err(PlatformError::System {
                code: libc::ESRCH,
                ..
            })
        ),
        "{late:?}"
    );
    let unknown = bench
        .linux
        .signal(endpoint, overlay_linux::ProcessId(99), 15, false);
    assert!(matches!(
        unknown,
        Err(PlatformError::System {
            code: libc::ESRCH,
            ..
        })
    ));
    Ok(())
}

fn main_ends(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let endpoint = bench.endpoint(0);
    // It leaves one behind that even left its session.
    let script = "setsid sleep 1000 & sleep 0.1; exit 4";
    let mut main = bench
        .linux
        .start(endpoint, command(&["sh", "-c", script]))?;
    let mut other = bench.linux.exec(endpoint, command(&["sleep", "1000"]))?;
    assert_eq!(main.wait(LIMIT)?, Some(Exit::Code(4)));
    assert_eq!(other.wait(LIMIT)?, Some(Exit::Signal(libc::SIGKILL)));
    let alone = || {
        let seen = bench.succeed(0, &["sh", "-c", "echo /proc/[0-9]*"]);
        seen.is_ok_and(|text| text.split_whitespace().count() <= 3)
    };
    eventually(alone, "the endpoint's processes to be gone")?;
    // The namespaces stay, and another main program may be started in them.
    let mut again = bench.linux.start(endpoint, command(&["true"]))?;
    assert_eq!(again.wait(LIMIT)?, Some(Exit::Code(0)));
    Ok(())
}

fn bounded_output(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let bounded = bench.linux.clone().with_output_bytes_max(10_000);
    // The bound is the holder's, so it takes a new one.
    let mut spec = bench.specs[0].clone();
    spec.hostname = "bounded".into();
    overlay_core::plane::Platform::create_port(&mut bounded.clone(), &spec)?;
    bench.linux = bounded;
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo last >&2";
    let mut main = bench
        .linux
        .start(spec.endpoint, command(&["sh", "-c", script]))?;
    assert_eq!(main.wait(Duration::from_secs(20))?, Some(Exit::Code(0)));
    let output = String::from_utf8(bench.linux.output(spec.endpoint)?)?;
    assert!(
        output.len() <= 10_000 && output.len() >= 5_000,
        "{}",
        output.len()
    );
    assert!(output.ends_with("line 4998\nline 4999\nlast\n"));
    // What others write is not the endpoint's output.
    bench.succeed(0, &["true"])?;
    let mut other = bench
        .linux
        .exec(spec.endpoint, command(&["echo", "other"]))?;
    assert_eq!(other.wait(LIMIT)?, Some(Exit::Code(0)));
    assert_eq!(bench.linux.output(spec.endpoint)?, output.as_bytes());
    Ok(())
}

fn orphans(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    bench.succeed(
        0,
        &["sh", "-c", "for i in 1 2 3 4 5; do setsid sleep 0.1 & done"],
    )?;
    let reaped = || {
        let seen = bench.succeed(
            0,
            &["sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z ' || true"],
        );
        seen.is_ok_and(|text| text.trim() == "0")
            && bench
                .succeed(0, &["sh", "-c", "echo /proc/[0-9]*"])
                .is_ok_and(|text| text.split_whitespace().count() <= 3)
    };
    eventually(reaped, "orphans to be reaped")
}

/// A daemon that goes away in the middle of a dialogue must not stop the program, whatever that writes.
fn unfollowed(kind: PortKind) -> Outcome<()> {
    let bench = Bench::new(kind)?;
    let endpoint = bench.endpoint(0);
    let script = "echo first; sleep 0.3; i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 6";
    let spec = command(&["sh", "-c", script]).stdio(Stdio::Pipes { input: false });
    let process = bench.linux.start(endpoint, spec)?;
    read_until(process.output.as_ref().ok_or("no output")?, Some("first"))?;
    let id = process.id();
    drop(process);
    let mut process = bench.linux.follow(endpoint, id)?;
    // Nobody reads now, and a pipe holds less than it writes.
    drop((process.output.take(), process.error.take()));
    assert_eq!(
        process.wait(Duration::from_millis(500))?,
        None,
        "it waits for its reader"
    );
    drop(process);
    let ended = || {
        let all = bench.linux.processes(endpoint).unwrap_or_default();
        all.iter().any(|one| one.exit == Some(Exit::Code(6)))
    };
    eventually(ended, "the program to end without a reader")?;
    let output = String::from_utf8(bench.linux.output(endpoint)?)?;
    assert!(output.ends_with("line 19999\n"), "{}", output.len());
    let mut late = bench.linux.follow(endpoint, id)?;
    assert_eq!(late.try_wait()?.or(late.wait(LIMIT)?), Some(Exit::Code(6)));
    Ok(())
}
