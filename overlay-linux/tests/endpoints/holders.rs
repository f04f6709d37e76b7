//! Holders outlive their daemon, and leave nothing when they go.

use std::{
    collections::BTreeSet,
    env, fs, io,
    os::fd::AsFd,
    process::{Child, Command, Stdio as StreamOf},
    time::Duration,
};

use nix::libc;
use overlay_core::plane::{Platform, PlatformError};
use overlay_linux::{Exit, Linux, PortKind, Sockets, Stdio};

use super::{
    Test,
    bench::{self, Bench, Folder, Outcome, command, eventually, pause, read_until, spec},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_killed_daemon_leaves_everything_running", killed_daemon),
    ("a_restarted_daemon_goes_on_where_it_was", restarted),
    ("resolver_sockets_are_inside_and_keep_queries", sockets),
    ("a_killed_holder_is_found_lost_and_replaced", killed_holder),
    ("nothing_is_left_behind", nothing_left),
    ("a_long_path_is_fine", long_path),
];

const LIMIT: Duration = Duration::from_secs(5);

/// A daemon of a few lines, in a process of its own: makes a port, starts a program in it, and waits to be killed.
pub(crate) fn main_if_daemon() {
    let arguments: Vec<String> = env::args().collect();
    let [_, name, folder, kind] = arguments.as_slice() else {
        return;
    };
    if name != DAEMON {
        return;
    }
    let kind = if kind == "tap" {
        PortKind::Tap
    } else {
        PortKind::Packet
    };
    let lived = daemon(folder, kind);
    std::process::exit(i32::from(lived.is_err()));
}

const DAEMON: &str = "test-daemon";

fn daemon(folder: &str, kind: PortKind) -> Outcome<()> {
    let mut linux = Linux::new(folder, env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    let _port = linux.create_port(&spec)?;
    let main = command(&["sh", "-c", "echo up; sleep 0.5; echo still up; sleep 1000"]);
    let _main = linux.start(spec.endpoint, main)?;
    let interactive = command(&["cat"]).stdio(Stdio::Terminal(overlay_linux::WindowSize {
        rows: 24,
        columns: 80,
    }));
    let _interactive = linux.exec(spec.endpoint, interactive)?;
    fs::write(format!("{folder}/ready"), "")?;
    nix::unistd::pause();
    Ok(())
}

fn start_daemon(folder: &Folder, kind: PortKind) -> Outcome<Child> {
    let kind = match kind {
        PortKind::Tap => "tap",
        PortKind::Packet => "packet",
        PortKind::Bridged => return Err("nobody reads the frames of such a port".into()),
    };
    let mut child = Command::new(env::current_exe()?)
        .args([DAEMON.as_ref(), folder.path().as_os_str(), kind.as_ref()])
        .stdout(StreamOf::null())
        .spawn()?;
    let ready = folder.path().join("ready");
    eventually(
        || ready.exists() || !matches!(child.try_wait(), Ok(None)),
        "the daemon to be ready",
    )?;
    match child.try_wait()? {
        None => Ok(child),
        Some(status) => Err(format!("the daemon ended: {status}").into()),
    }
}

fn killed_daemon(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut daemon = start_daemon(&folder, kind)?;
    daemon.kill()?;
    daemon.wait()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    // What the next life sees.
    let found = linux.list()?;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].spec, found[0].kind), (&spec, Some(kind)));
    let [main, interactive] = found[0].processes.as_slice() else {
        return Err(format!("{:?}", found[0].processes).into());
    };
    assert!(main.main && main.exit.is_none() && !interactive.main);
    assert_eq!(
        main.command.args[1..],
        ["echo up; sleep 0.5; echo still up; sleep 1000"]
    );
    // The port is the same one, and carries frames again.
    let port = bench::port(&mut linux, &spec)?;
    linux.exec(
        spec.endpoint,
        command(&["ping", "-c", "1", "-W", "1", "10.0.1.9"]),
    )?;
    let mut frame = Vec::new();
    eventually(|| port.read_frame(&mut frame).is_ok(), "a frame")?;
    assert_eq!(frame[6..12], spec.mac.octets());
    // The program went on, and its output was kept.
    let went_on = || {
        linux
            .output(spec.endpoint)
            .is_ok_and(|text| text == b"up\nstill up\n")
    };
    eventually(went_on, "the program to go on")?;
    let mut main = linux.follow(spec.endpoint, main.id)?;
    linux.signal(spec.endpoint, main.id(), libc::SIGTERM, true)?;
    assert_eq!(main.wait(LIMIT)?, Some(Exit::Signal(libc::SIGTERM)));
    // The terminal's program has ended with the main one, and says so.
    let mut interactive = linux.follow(spec.endpoint, interactive.id)?;
    assert_eq!(interactive.wait(LIMIT)?, Some(Exit::Signal(libc::SIGKILL)));
    linux.remove_port(spec.endpoint)?;
    Ok(())
}

fn restarted(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let endpoint = bench.endpoint(0);
    let ping =
        command(&["ping", "-n", "-i", "0.2", "10.0.1.3"]).stdio(Stdio::Pipes { input: false });
    let process = bench.linux.start(endpoint, ping)?;
    read_until(
        process.output.as_ref().ok_or("no output")?,
        Some("icmp_seq=2"),
    )?;
    let id = process.id();
    drop(process);
    bench.restart()?;
    // The very process that was started before: it counts on.
    let process = bench.linux.follow(endpoint, id)?;
    let text = read_until(
        process.output.as_ref().ok_or("no output")?,
        Some("bytes from"),
    )?;
    assert!(!text.contains("icmp_seq=1 "), "{text}");
    Ok(())
}

/// A stream socket of an endpoint reaches what is in there, and one of another endpoint does not.
fn streams(bench: &mut Bench, own: &Sockets, other: &Sockets) -> Outcome<()> {
    let address = own.tcp.local_addr()?;
    for (endpoint, reached, missed) in [(0, own, other), (1, other, own)] {
        let stream = bench
            .linux
            .open_stream(bench.endpoint(endpoint), false, None)?;
        let outcome = socket2::Socket::from(stream).connect(&address.into());
        if let Err(error) = outcome {
            assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "{error}");
        }
        pause(50)?;
        reached.tcp.accept()?;
        let nobody = missed.tcp.accept().map_err(|error| error.kind());
        assert_eq!(nobody.map(|_| ()), Err(io::ErrorKind::WouldBlock));
    }
    Ok(())
}

fn sockets(kind: PortKind) -> Outcome<()> {
    let mut bench = Bench::new(kind)?;
    let address = "127.0.0.11:53".parse()?;
    let endpoint = bench.endpoint(0);
    let sockets = bench.linux.open_sockets(endpoint, address)?;
    assert_eq!(sockets.udp.local_addr()?, address);
    assert_eq!(sockets.tcp.local_addr()?, address);
    // The same address in the other endpoint is another socket, and here on the host there is none.
    let other = bench.linux.open_sockets(bench.endpoint(1), address)?;
    assert_eq!(other.udp.local_addr()?, address);
    let silent = |sockets: &Sockets| {
        let nothing = sockets
            .udp
            .recv_from(&mut [0; 512])
            .map_err(|error| error.kind());
        assert_eq!(nothing.map(|_| ()), Err(io::ErrorKind::WouldBlock));
    };
    silent(&sockets);
    streams(&mut bench, &sockets, &other)?;
    // A query that comes while no daemon is there waits for the next one.
    drop(sockets);
    let mut asking = bench
        .linux
        .exec(endpoint, command(&["getent", "hosts", "alpine1"]))?;
    pause(300)?;
    assert_eq!(asking.try_wait()?, None, "it waits for an answer");
    let sockets = bench.linux.open_sockets(endpoint, address)?;
    let mut query = [0; 512];
    let (length, from) = sockets.udp.recv_from(&mut query)?;
    assert!(
        query[..length]
            .windows(8)
            .any(|part| part == b"\x07alpine1"),
        "{:02x?}",
        &query[..length]
    );
    assert!(from.ip().is_loopback());
    silent(&other);
    // SERVFAIL ends it.
    query[2..4].copy_from_slice(&[0x81, 0x82]);
    for _ in 0..8 {
        let reply = sockets.udp.recv_from(&mut [0; 512]);
        if asking.wait(Duration::from_millis(50))?.is_some() {
            break;
        }
        let _ = (reply, sockets.udp.send_to(&query[..length], from));
    }
    let taken = bench
        .linux
        .open_sockets(endpoint, "203.0.113.1:53".parse()?);
    let refused = matches!(
        &taken,
        Err(PlatformError::System {
            code: libc::EADDRNOTAVAIL,
            ..
        })
    );
    assert!(refused, "{taken:?}");
    Ok(())
}

/// The processes whose network namespace is not ours, by what the kernel shows of them.
fn strangers() -> BTreeSet<String> {
    let mut namespaces = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Ok(link) = fs::read_link(entry.path().join("ns/net")) {
            namespaces.insert(link.display().to_string());
        }
    }
    namespaces
}

fn holders_of(folder: &std::path::Path) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let log = fs::read_link(entry.path().join("fd/2"));
        let pid = entry.file_name().to_string_lossy().parse();
        if let (Ok(log), Ok(pid)) = (log, pid)
            && log.starts_with(folder)
        {
            pids.push(pid);
        }
    }
    pids
}

fn killed_holder(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let mut linux = Linux::new(folder.path(), env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    let port = bench::port(&mut linux, &spec)?;
    let mut main = linux.start(spec.endpoint, command(&["sleep", "1000"]))?;
    let holders = holders_of(folder.path());
    let [holder] = holders.as_slice() else {
        return Err(format!("expected one holder, found {holders:?}").into());
    };
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(*holder),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    assert_eq!(main.wait(LIMIT)?, Some(Exit::Unknown));
    eventually(
        || holders_of(folder.path()).is_empty(),
        "the holder to be gone",
    )?;
    let found = linux.list()?;
    assert_eq!((&found[0].spec, found[0].kind), (&spec, None));
    assert_eq!(found[0].processes[0].exit, Some(Exit::Unknown));
    assert!(linux.actual()?.is_empty());
    let gone = linux.exec(spec.endpoint, command(&["true"]));
    assert!(
        matches!(gone, Err(PlatformError::UnknownEndpoint { .. })),
        "{gone:?}"
    );
    drop(port);
    // The next one is like new.
    let port = bench::port(&mut linux, &spec)?;
    assert!(port.as_fd().try_clone_to_owned().is_ok());
    assert_eq!(linux.processes(spec.endpoint)?, []);
    linux.remove_port(spec.endpoint)?;
    Ok(())
}

fn nothing_left(kind: PortKind) -> Outcome<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let links = fs::read_to_string("/proc/self/net/dev")?;
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(name, _)| name.trim().to_owned()).collect()
    };
    let folder = {
        let bench = Bench::new(kind)?;
        bench.linux.start(
            bench.endpoint(0),
            command(&["sh", "-c", "setsid sleep 1000 & sleep 1000"]),
        )?;
        let folder = bench.folder().to_owned();
        assert_eq!(holders_of(&folder).len(), 2);
        let others = strangers();
        assert!(others.len() >= 3, "{others:?}");
        folder
    };
    eventually(|| holders_of(&folder).is_empty(), "the holders to be gone")?;
    assert!(!folder.exists());
    assert_eq!(fs::read_to_string("/proc/self/mounts")?, mounts);
    assert_eq!(
        names(&fs::read_to_string("/proc/self/net/dev")?),
        names(&links)
    );
    Ok(())
}

fn long_path(kind: PortKind) -> Outcome<()> {
    let folder = Folder::new()?;
    let long = folder.path().join("x".repeat(200));
    let mut linux = Linux::new(&long, env::current_exe()?).with_kind(kind);
    let spec = spec(2)?;
    linux.create_port(&spec)?;
    assert_eq!(linux.list()?.len(), 1);
    linux.remove_port(spec.endpoint)?;
    assert_eq!(linux.list()?, []);
    Ok(())
}
