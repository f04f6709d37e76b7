//! Daemons that are killed: who leads next, what goes on, what is found again.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, address, eventually, name, say},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "after_the_leader_is_killed_the_next_write_comes_within_two_seconds",
        hosts: 3,
        programs: &["getent"],
        tell: leader,
    },
    Story {
        name: "a_restarted_daemon_finds_its_programs",
        hosts: 3,
        programs: &["ping"],
        tell: restart,
    },
    Story {
        name: "a_killed_daemon_has_forgotten_nothing_that_it_acknowledged",
        hosts: 3,
        programs: &[],
        tell: kills,
    },
    Story {
        name: "a_cluster_without_a_quorum_is_rebuilt_from_a_survivor",
        hosts: 4,
        programs: &["ping"],
        tell: rebuild,
    },
    Story {
        name: "a_host_that_has_another_address_is_reached_there",
        hosts: 4,
        programs: &["ping", "ip"],
        tell: moved,
    },
];

/// From the death of the leader to the next acknowledged write.
const WRITE_TIME_MAX: Duration = Duration::from_secs(2);
/// From the answer to `run` to the first answer by name on another host; half a second where nothing else runs.
const NAME_TIME_MAX: Duration = Duration::from_secs(2);
/// From the start of a daemon until its programs are back on the network.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(2);

fn leader(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for host in 0..3 {
        cluster.sleep(host, "my-net", &format!("alpine{}", host + 1))?;
    }
    let lost = cluster.leader(0)?;
    let (first, second) = ((lost + 1) % 3, (lost + 2) % 3);
    let began = Instant::now();
    cluster.kill(lost)?;
    let mut attempts = 0;
    // Each attempt has a name of its own: one that was not acknowledged may have happened.
    let wrote = eventually(PATIENCE, "an acknowledged write", || {
        attempts += 1;
        let name = format!("after-{attempts}");
        cluster
            .ask(first, &["network", "create", &name])
            .map(|_| Some(began.elapsed()))
    })?;
    say(&format!(
        "from the leader's death to the next acknowledged write: {wrote:?}, {attempts} attempts"
    ));
    ensure!(wrote <= WRITE_TIME_MAX, "the write took {wrote:?}");

    cluster.sleep(first, "my-net", "latecomer")?;
    let began = Instant::now();
    let from = format!("alpine{}", second + 1);
    let found = eventually(PATIENCE, "the latecomer's name on another host", || {
        cluster.ask(
            second,
            &["exec", &from, "--", "getent", "hosts", "latecomer"],
        )?;
        Ok(Some(began.elapsed()))
    })?;
    say(&format!(
        "from `run` to the name on another host: {found:?}"
    ));
    ensure!(found <= NAME_TIME_MAX, "the name took {found:?}");
    cluster.reach(PATIENCE, second, &from, "latecomer")?;
    Ok(())
}

fn restart(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    let first = cluster.sleep(0, "my-net", "alpine1")?;
    cluster.sleep(1, "my-net", "alpine2")?;
    cluster.reach(PATIENCE, 0, "alpine1", "alpine2")?;
    for (lost, name) in [(1, "alpine2"), (0, "alpine1")] {
        let (other, from) = if lost == 1 {
            (0, "alpine1")
        } else {
            (1, "alpine2")
        };
        let before = cluster.list(lost, &["ps"])?;
        cluster.kill(lost)?;
        let began = Instant::now();
        cluster.start(lost, &[])?;
        let after = cluster.list(lost, &["ps"])?;
        for column in ["ID", "Names", "Address", "State"] {
            assert_eq!(before[0][column], after[0][column]);
        }
        assert_eq!((after.len(), &after[0]["State"]), (1, &"running".into()));
        cluster.reach(PATIENCE, other, from, name)?;
        let recovered = began.elapsed();
        say(&format!(
            "from the daemon's start to the answer of {name}: {recovered:?}"
        ));
        ensure!(recovered <= RECOVERY_TIME_MAX, "{name} took {recovered:?}");
        cluster.reach(PATIENCE, lost, name, from)?;
    }
    codes(cluster, first.trim())?;
    last_words(cluster)?;
    streams(cluster)?;
    ends(cluster)
}

fn rebuild(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.ask(0, &["init"])?;
    for (host, role) in [(1, "manager"), (2, "manager"), (3, "worker")] {
        cluster.join(host, role)?;
    }
    let worker = cluster.refused(3, &["init", "--force-new-cluster"])?;
    ensure!(worker.said.contains("a worker"), "{worker:?}");
    let healthy = cluster.refused(0, &["init", "--force-new-cluster"])?;
    ensure!(healthy.said.contains("has a leader"), "{healthy:?}");
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for (host, name) in [(0, "one"), (1, "two"), (3, "four")] {
        cluster.sleep(host, "my-net", name)?;
    }
    let service = ["service", "create", "--name", "web", "--network", "my-net"];
    let more = ["--replicas", "3", "--", OVERLAY, "sleep", "1000"];
    cluster.ask(0, &[&service[..], &more[..]].concat())?;
    cluster.reach(PATIENCE, 0, "one", "four")?;
    for lost in [1, 2] {
        cluster.kill(lost)?;
    }
    eventually(PATIENCE, "no leader", || {
        let refused = cluster.refused(0, &["network", "create", "none"])?;
        Ok(refused.said.contains("host2").then_some(()))
    })?;
    let began = Instant::now();
    let said = cluster.ask(0, &["init", "--force-new-cluster"])?;
    say(&format!("rebuilt after {:?}: {said}", began.elapsed()));
    ensure!(said.contains("manager host2") && said.contains("manager host3"));
    // What ran goes on; what the lost ran is started elsewhere; names and addresses are right again.
    cluster.reach(PATIENCE, 0, "one", "four")?;
    cluster.reach(PATIENCE, 3, "four", "one")?;
    cluster.ask(0, &["network", "create", "new"])?;
    cluster.sleep(3, "my-net", "five")?;
    cluster.reach(PATIENCE, 0, "one", "five")?;
    let gone = cluster.pings(3, "four", "two")?;
    ensure!(!gone.status.success(), "{gone:?}");
    eventually(PATIENCE, "three tasks on what is left", || {
        let tasks = cluster.list(0, &["service", "ps", "web"])?;
        let running = tasks.iter().filter(|task| {
            let state = task["CurrentState"].as_str().unwrap_or_default();
            state.starts_with("Running")
        });
        Ok((running.count() == 3).then_some(()))
    })?;
    // A dropped manager finds out, stops what it ran, and joins again.
    cluster.start(1, &[])?;
    eventually(PATIENCE, "the dropped manager to leave", || {
        let info = cluster.ask(1, &["info", "--format", "json"])?;
        Ok(info.contains("inactive").then_some(()))
    })?;
    cluster.join(1, "manager")?;
    eventually(PATIENCE, "two managers", || {
        let nodes = cluster.nodes(0)?;
        let managers = nodes.iter().filter(|node| node["ManagerStatus"] != "");
        Ok((managers.count() == 2).then_some(()))
    })?;
    // And what was rebuilt survives a restart.
    cluster.kill(0)?;
    cluster.start(0, &[])?;
    eventually(PATIENCE, "an acknowledged write", || {
        Ok(cluster.ask(0, &["network", "create", "later"]).ok())
    })?;
    cluster.reach(PATIENCE, 0, "one", "five")?;
    Ok(())
}

/// A worker, a manager that follows and the leader come back at other addresses, one after the other.
fn moved(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.ask(0, &["init"])?;
    for (host, role) in [(1, "manager"), (2, "manager"), (3, "worker")] {
        cluster.join(host, role)?;
    }
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    for host in 0..4 {
        cluster.sleep(host, "my-net", &format!("alpine{host}"))?;
    }
    for host in [3, 1, cluster.leader(2)?] {
        let (asked, from) = if host == 2 {
            (1, "alpine1")
        } else {
            (2, "alpine2")
        };
        let to = format!("alpine{host}");
        cluster.reach(PATIENCE, asked, from, &to)?;
        cluster.kill(host)?;
        let new = format!("192.168.77.{}", 101 + host);
        let (old, own) = (format!("{}/24", address(host)), format!("{new}/24"));
        cluster.on_host(host, &["ip", "address", "del", &old, "dev", "eth0"])?;
        cluster.on_host(host, &["ip", "address", "add", &own, "dev", "eth0"])?;
        let began = Instant::now();
        cluster.start(host, &["--advertise-addr", &new])?;
        eventually(PATIENCE, "the new address in the list", || {
            let node = cluster.ask(asked, &["node", "inspect", &name(host)])?;
            Ok((node.contains(&new) && node.contains("\"ready\"")).then_some(()))
        })?;
        cluster.reach(PATIENCE, asked, from, &to)?;
        cluster.reach(PATIENCE, host, &to, from)?;
        say(&format!(
            "{} is reached at {new} after {:?}",
            name(host),
            began.elapsed()
        ));
        cluster.ask(asked, &["network", "create", &format!("after-{host}")])?;
    }
    Ok(())
}

/// The exit status of `exec` and `run` is the command's.
fn codes(cluster: &Cluster, id: &str) -> anyhow::Result<()> {
    let exec = |words: &[&str]| cluster.refused(0, &[&["exec", "alpine1", "--"], words].concat());
    assert_eq!(exec(&["sh", "-c", "exit 7"])?.code, 7);
    assert_eq!(exec(&["sh", "-c", "kill -9 $$"])?.code, 137);
    let missing = exec(&["no-such-command"])?;
    assert_eq!(missing.code, 127);
    ensure!(missing.said.contains("no-such-command"), "{missing:?}");
    assert_eq!(exec(&["/etc/passwd"])?.code, 126);
    cluster.ask(
        0,
        &[
            "exec",
            id.get(..6).context("a short identity")?,
            "--",
            "true",
        ],
    )?;
    let said = cluster.ask(0, &["exec", "alpine1", "--", "hostname"])?;
    assert_eq!(said.trim(), "alpine1");
    let run = [
        "run",
        "--rm",
        "--name",
        "short",
        "--network",
        "my-net",
        "--",
    ];
    let ended = cluster.refused(
        0,
        &[&run[..], &["sh", "-c", "echo why >&2; exit 3"]].concat(),
    )?;
    assert_eq!((ended.code, ended.said.as_str()), (3, "why\n"));
    assert_eq!(cluster.list(0, &["ps", "-a"])?.len(), 1, "`--rm` removes");
    Ok(())
}

/// The last words of a program that ends at once arrive, always.
fn last_words(cluster: &Cluster) -> anyhow::Result<()> {
    for attempt in 0..LAST_WORDS {
        let script = format!("echo {attempt} >&2; exit 3");
        let words = ["exec", "alpine1", "--", "sh", "-c", &script];
        let ended = cluster.refused(0, &words)?;
        assert_eq!((ended.code, ended.said), (3, format!("{attempt}\n")));
    }
    Ok(())
}

/// How many are asked for: one in ten was lost where somebody else read them, too.
const LAST_WORDS: u32 = 60;

/// Standard input goes in, all of it; what comes out is the same.
fn streams(cluster: &Cluster) -> anyhow::Result<()> {
    let input: Vec<u8> = (0..48_000_u32).flat_map(u32::to_le_bytes).collect();
    let path = cluster.path("input");
    fs::write(&path, &input)?;
    for words in [
        &[
            "run",
            "-i",
            "--rm",
            "--name",
            "cat",
            "--network",
            "my-net",
            "--",
            "cat",
        ][..],
        &["exec", "-i", "alpine1", "--", "cat"],
    ] {
        let out = cluster.path("output");
        let status = cluster
            .command(0, words)
            .stdin(Stdio::from(fs::File::open(&path)?))
            .stdout(fs::File::create(&out)?)
            .status()?;
        ensure!(status.success(), "{words:?}: {status}");
        ensure!(
            fs::read(&out)? == input,
            "{words:?} changed what went through"
        );
    }
    Ok(())
}

/// `stop`, `rm` and `rm -f`.
fn ends(cluster: &Cluster) -> anyhow::Result<()> {
    let held = cluster.refused(0, &["rm", "alpine1"])?;
    ensure!(
        held.said.contains("is running") && held.said.contains("--force"),
        "{held:?}"
    );
    cluster.ask(0, &["stop", "alpine1"])?;
    let listed = cluster.list(0, &["ps", "-a"])?;
    ensure!(
        listed[0]["Status"]
            .as_str()
            .is_some_and(|status| status.starts_with("Exited (143)")),
        "{listed:?}"
    );
    ensure!(cluster.list(0, &["ps"])?.is_empty(), "it does not run");
    let stopped = cluster.refused(0, &["exec", "alpine1", "--", "true"])?;
    ensure!(stopped.said.contains("is not running"), "{stopped:?}");
    cluster.ask(0, &["rm", "alpine1"])?;
    cluster.ask(1, &["rm", "-f", "alpine2"])?;
    for host in [0, 1] {
        ensure!(
            cluster.list(host, &["ps", "-a"])?.is_empty(),
            "all are removed"
        );
    }
    eventually(PATIENCE, "an empty network", || {
        let network = cluster.inspect(0, "my-net")?;
        let empty = network["Containers"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        Ok((empty && network["IPAM"]["Config"][0]["Used"] == 0).then_some(()))
    })?;
    cluster.ask(0, &["network", "rm", "my-net"])?;
    Ok(())
}

/// Daemons that are killed in a normal run; the issue asks for 200, which `OVERLAY_KILLS=200` gives.
const KILLS: u32 = 30;
/// Between two kills.
const KILL_INTERVAL: Duration = Duration::from_millis(300);

fn kills(cluster: &mut Cluster) -> anyhow::Result<()> {
    let kills = std::env::var("OVERLAY_KILLS")
        .ok()
        .map(|text| text.parse::<u32>());
    let kills = kills.transpose().context("OVERLAY_KILLS")?.unwrap_or(KILLS);
    cluster.start_all()?;
    cluster.join_all()?;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64 ^ u64::from(std::process::id());
    let mut next = move || {
        // xorshift64: the choice of victims needs no more.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (mut acknowledged, mut names) = (Vec::new(), 0);
    let mut writers: Vec<(String, std::process::Child)> = Vec::new();
    let began = Instant::now();
    for kill in 0..kills {
        let until = began + KILL_INTERVAL * (kill + 1);
        while Instant::now() < until {
            collect(&mut writers, &mut acknowledged)?;
            if writers.len() < 3 {
                names += 1;
                let name = format!("net-{names}");
                let host = usize::try_from(next() % 3)?;
                writers.push((name.clone(), write(cluster, host, &name)?));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let victim = usize::try_from(next() % 3)?;
        cluster.kill(victim)?;
        cluster.start(victim, &[])?;
    }
    say(&format!(
        "{kills} daemons killed in {:?}; {names} writes asked for, {} acknowledged meanwhile",
        began.elapsed(),
        acknowledged.len()
    ));
    eventually(PATIENCE, "the last writers", || {
        collect(&mut writers, &mut acknowledged)?;
        Ok(writers.is_empty().then_some(()))
    })?;
    ensure!(!acknowledged.is_empty(), "nothing was acknowledged");
    let back = Instant::now();
    eventually(PATIENCE, "a write after all kills", || {
        names += 1;
        let name = format!("net-{names}");
        cluster.ask(0, &["network", "create", &name])?;
        acknowledged.push(name);
        Ok(Some(()))
    })?;
    say(&format!(
        "the next write after the last kill took {:?}",
        back.elapsed()
    ));
    for host in 0..3 {
        let listed = eventually(PATIENCE, "a list of networks", || {
            cluster.list(host, &["network", "ls"]).map(Some)
        })?;
        for name in &acknowledged {
            let found = listed.iter().filter(|network| network["Name"] == **name);
            assert_eq!(found.count(), 1, "{name} was acknowledged");
        }
    }
    Ok(())
}

/// Asks for a network, without waiting.
fn write(cluster: &Cluster, host: usize, name: &str) -> anyhow::Result<std::process::Child> {
    let mut command: Command = cluster.command(host, &["network", "create", name]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Takes those that ended away, and notes what was acknowledged.
fn collect(
    writers: &mut Vec<(String, std::process::Child)>,
    acknowledged: &mut Vec<String>,
) -> anyhow::Result<()> {
    let mut left = Vec::new();
    for (name, mut writer) in writers.drain(..) {
        match writer.try_wait()? {
            Some(status) if status.success() => acknowledged.push(name),
            Some(_) => {}
            None => left.push((name, writer)),
        }
    }
    *writers = left;
    Ok(())
}
