//! What other users of a host get of a daemon: nothing.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, eventually, say, words},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "the_local_api_is_for_its_owner_and_group_whatever_the_mode_of_its_socket",
        hosts: 1,
        programs: &["setpriv", "python3"],
        tell: callers,
    },
    Story {
        name: "cve_2020_15113_files_are_for_their_owner_alone",
        hosts: 2,
        programs: &["setpriv", "python3"],
        tell: files,
    },
];

/// A user and a group that are nobody's.
const NOBODY: u32 = 65_534;
/// A group that nobody is in.
const GROUP: u32 = 54_321;

fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(fs::symlink_metadata(path)?.permissions().mode() & 0o7777)
}

fn callers(cluster: &mut Cluster) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        say("SKIPPED: another user: it needs root");
        return Ok(());
    }
    cluster.start(0, &[])?;
    cluster.ask(0, &["init"])?;
    let socket = cluster.socket(0);
    ensure!(mode(&socket)? == 0o660, "{:o}", mode(&socket)?);
    // The way there is open to all, and so is the program.
    let program = cluster.path("overlay");
    fs::copy(OVERLAY, &program)?;
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    open(&program, 0o755)?;
    open(&cluster.path(""), 0o711)?;
    let stranger = ["--clear-groups"].as_slice();
    let said = refused(cluster, &program, stranger)?;
    ensure!(said.contains("you may not use its socket"), "{said}");
    open(&socket, 0o666)?;
    let said = refused(cluster, &program, stranger)?;
    ensure!(
        said.contains("user 65534 may not use this daemon"),
        "{said}"
    );
    ensure!(said.contains("number 0"), "{said}");
    // Whoever is in the socket's group is let in, and only then.
    let (groups, group) = (format!("--groups={GROUP}"), format!("--regid={GROUP}"));
    let members = [[&groups[..], "--regid=65534"], ["--clear-groups", &group]];
    for member in &members {
        refused(cluster, &program, member)?;
    }
    std::os::unix::fs::chown(&socket, None, Some(GROUP))?;
    for (number, member) in members.iter().enumerate() {
        let name = format!("of-a-member-{number}");
        let asked = as_nobody(cluster, &program, member, &["network", "create", &name])?;
        ensure!(asked.status.success(), "{asked:?}");
    }
    refused(cluster, &program, stranger)?;
    crowd(cluster)?;
    let networks = cluster.ask(0, &["network", "ls"])?;
    ensure!(!networks.contains("of-a-stranger"), "{networks}");
    ensure!(networks.matches("of-a-member").count() == 2, "{networks}");
    let log = cluster.log_of(0)?;
    ensure!(log.contains("refused at the local API"), "{log}");
    ensure!(
        log.matches("refused at the local API").count() < 10,
        "{log}"
    );
    Ok(())
}

/// Asks as a user that is nobody, with these groups.
fn as_nobody(
    cluster: &Cluster,
    program: &Path,
    groups: &[&str],
    words: &[&str],
) -> anyhow::Result<std::process::Output> {
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={NOBODY}"));
    if !groups.iter().any(|word| word.starts_with("--regid")) {
        command.arg(format!("--regid={NOBODY}"));
    }
    command.args(groups).arg(program);
    command.arg("--socket").arg(cluster.socket(0)).args(words);
    command.stdin(Stdio::null());
    Ok(command.output()?)
}

fn refused(cluster: &Cluster, program: &Path, groups: &[&str]) -> anyhow::Result<String> {
    let create = ["network", "create", "of-a-stranger"];
    let asked = as_nobody(cluster, program, groups, &create)?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(asked.status.code() == Some(1), "{asked:?}");
    Ok(said)
}

/// Strangers by the thousand keep nobody out, and take no descriptors.
fn crowd(cluster: &Cluster) -> anyhow::Result<()> {
    let open = || -> anyhow::Result<usize> {
        let folder = format!("/proc/{}/fd", cluster.pid(0)?);
        Ok(fs::read_dir(folder)?.count())
    };
    let before = open()?;
    let mut crowd = stranger()
        .args(["python3", "-c", CROWD])
        .arg(cluster.socket(0))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = [0; 1];
    let mut begun = crowd.stdout.take().context("its output")?;
    let met = std::io::Read::read_exact(&mut begun, &mut line);
    let asked = cluster.ask(0, &["node", "ls"]);
    let during = open()?;
    // The end of its input is its end.
    drop(crowd.stdin.take());
    crowd.wait()?;
    met?;
    asked?;
    say(&format!(
        "{before} descriptors before 3,000 strangers, {during} then"
    ));
    ensure!(during <= before + 32, "{before} descriptors, then {during}");
    Ok(())
}

const CROWD: &str = "
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = []
for _ in range(3000):
    one = socket.socket(socket.AF_UNIX)
    one.connect(sys.argv[1])
    held.append(one)
print('.', flush=True)
sys.stdin.read()
";

/// After all that a daemon does.
fn files(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.ask(0, &["init"])?;
    cluster.join(1, "worker")?;
    cluster.ask(0, &words("network create --attachable my-net", &[]))?;
    let create = "service create -d --name web --network my-net --replicas 2 -- sleep 1000";
    cluster.ask(0, &words(create, &[]))?;
    for host in 0..2 {
        cluster.sleep(host, "my-net", &format!("c{host}"))?;
        cluster.ask(host, &words("exec", &[&format!("c{host}"), "--", "true"]))?;
        let tasks = cluster.data(host).join("tasks");
        eventually(PATIENCE, "a task on each host", || {
            Ok((fs::read_dir(&tasks)?.count() > 0).then_some(()))
        })?;
    }
    cluster.kill(1)?;
    cluster.start(1, &[])?;
    let mut seen = Vec::new();
    for host in 0..2 {
        let mut found = vec![cluster.data(host)];
        while let Some(path) = found.pop() {
            check(&path)?;
            if path.is_dir() {
                let inside: Result<Vec<PathBuf>, _> = fs::read_dir(&path)?
                    .map(|entry| entry.map(|entry| entry.path()))
                    .collect();
                found.extend(inside?);
            }
            seen.push(path);
        }
    }
    say(&format!("{} files and folders", seen.len()));
    ensure!(seen.len() > 30, "{} files and folders", seen.len());
    nobody_opens(cluster, &seen)
}

fn check(path: &Path) -> anyhow::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    ensure!(metadata.uid() == own, "{} is another's", path.display());
    let name = path.file_name().and_then(|name| name.to_str());
    let is_of_a_holder = name.is_some_and(|name| OF_HOLDERS.contains(&name));
    let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
    let found = mode(path)?;
    let is_kept = found == wanted || is_of_a_holder && found & 0o022 == 0;
    ensure!(is_kept, "{found:o}, not {wanted:o}: {}", path.display());
    Ok(())
}

/// What holders write: that which endpoints see as their own `/etc`, which any user in there may read, and what is kept by
/// the mode of the folder that it is in. Others neither write nor, by the folders, reach it.
const OF_HOLDERS: [&str; 8] = [
    "hosts",
    "resolv.conf",
    "nsswitch.conf",
    "output",
    "output.times",
    "record",
    "holder.sock",
    "way-out",
];

/// Whatever the modes say: another user opens nothing of it, though the way there were open to all.
fn nobody_opens(cluster: &Cluster, paths: &[PathBuf]) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        say("SKIPPED: another user: it needs root");
        return Ok(());
    }
    fs::set_permissions(cluster.path(""), Permissions::from_mode(0o711))?;
    let open = "
import os, sys
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDONLY))
        print(path)
    except PermissionError:
        pass
print('done')
";
    let opened = stranger()
        .args(["python3", "-c", open])
        .args(paths)
        .output()?;
    let opened = String::from_utf8(opened.stdout)?;
    ensure!(opened == "done\n", "another user opened {opened}");
    Ok(())
}

/// A command of a user that is nobody, with the programs of the system.
fn stranger() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}
