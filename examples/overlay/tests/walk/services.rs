//! Services: tasks on all hosts, found by name, restarted, moved, replaced, and gone without a trace.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, address, eventually, name, say},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "a_service_runs_everywhere_is_found_by_name_and_leaves_nothing",
        hosts: 3,
        programs: &["getent", "ping"],
        tell: everywhere,
    },
    Story {
        name: "a_published_port_reaches_a_task_from_every_host",
        hosts: 3,
        programs: &["ping"],
        tell: published,
    },
    Story {
        name: "tasks_are_restarted_and_moved",
        hosts: 3,
        programs: &["sleep"],
        tell: losses,
    },
    Story {
        name: "a_restarted_daemon_takes_its_tasks_up",
        hosts: 3,
        programs: &["sleep"],
        tell: restart,
    },
    Story {
        name: "the_end_of_tasks_that_end_at_once_is_seen",
        hosts: 3,
        programs: &["true"],
        tell: short,
    },
    Story {
        name: "an_update_replaces_tasks_and_one_that_fails_is_taken_back",
        hosts: 3,
        programs: &["sleep"],
        tell: updates,
    },
];

pub(crate) fn start(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.join_all()?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    Ok(())
}

/// Creates a service and waits until all its tasks run.
pub(crate) fn create(cluster: &Cluster, more: &[&str], command: &[&str]) -> anyhow::Result<String> {
    let words = [
        "service",
        "create",
        "--name",
        "web",
        "--network",
        "my-net",
        "--restart-delay",
        "200ms",
        "--update-monitor",
        "500ms",
        "--rollback-monitor",
        "500ms",
    ];
    cluster.ask(0, &[&words[..], more, &["--"], command].concat())
}

/// A command that notes each of its starts, its task and its process number, in a file of its slot.
fn noting(cluster: &Cluster) -> String {
    let folder = cluster.path("");
    format!(
        "echo $OVERLAY_TASK_ID $$ >> {}/$OVERLAY_TASK; exec sleep 86400",
        folder.display()
    )
}

pub(crate) fn notes(cluster: &Cluster, task: &str) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(cluster.path(task))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The tasks of the service that run and shall run.
fn running(cluster: &Cluster, host: usize) -> anyhow::Result<Vec<Value>> {
    let mut tasks = cluster.list(host, &["service", "ps", "web"])?;
    tasks.retain(|task| {
        let state = task["CurrentState"].as_str().unwrap_or_default();
        task["DesiredState"] == "Running" && state.starts_with("Running")
    });
    Ok(tasks)
}

/// Waits until so many run, and all of them fit.
pub(crate) fn settled(
    cluster: &Cluster,
    host: usize,
    count: usize,
    what: &str,
    fits: impl Fn(&Value) -> bool,
) -> anyhow::Result<Vec<Value>> {
    eventually(PATIENCE, what, || {
        let tasks = running(cluster, host)?;
        Ok((tasks.len() == count && tasks.iter().all(&fits)).then_some(tasks))
    })
}

fn on(task: &Value) -> String {
    task["Node"].as_str().unwrap_or_default().to_owned()
}

/// The host of a task.
pub(crate) fn host_of(task: &Value) -> anyhow::Result<usize> {
    let node = on(task);
    (0..3)
        .find(|host| name(*host) == node)
        .with_context(|| format!("a foreign host: {task}"))
}

/// One task, so that two of the three hosts have to carry connections to another.
fn published(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let httpd = [OVERLAY, "httpd", "--port", "8000"];
    create(cluster, &["--publish", "8080:8000", "--detach"], &httpd)?;
    settled(cluster, 0, 1, "a running task", |_| true)?;
    for host in 0..3 {
        eventually(PATIENCE, "an answer at the published port", || {
            let page = fetch(cluster, host)?;
            Ok(page.filter(|page| page.contains("task: web.1")))
        })?;
    }
    // Programs reach what their host reaches, in its name; those of an internal network do not.
    let other = address(1).to_string();
    let ping = ["ping", "-c", "1", "-W", "2", &other];
    cluster.sleep(0, "my-net", "out")?;
    cluster.ask(0, &[&["exec", "out", "--"], &ping[..]].concat())?;
    cluster.ask(
        0,
        &["network", "create", "--attachable", "--internal", "inner"],
    )?;
    cluster.sleep(0, "inner", "shy")?;
    cluster.refused(0, &[&["exec", "shy", "--"], &ping[..]].concat())?;
    cluster.ask(0, &["rm", "-f", "out", "shy"])?;
    remove(cluster)?;
    eventually(PATIENCE, "the end of the published port", || {
        Ok(fetch(cluster, 2)?.is_none().then_some(()))
    })
}

/// Fetches the page at the published port of a host, from there; none if nobody answers.
pub(crate) fn fetch(cluster: &mut Cluster, host: usize) -> anyhow::Result<Option<String>> {
    let mut command = Command::new(OVERLAY);
    command
        .args(["get", "--timeout", "2"])
        .arg(format!("{}:8080", address(host)))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let output = cluster
        .lab
        .spawn_in(host, &mut command)?
        .wait_with_output()?;
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(output.status.success().then_some(page))
}

fn everywhere(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let began = Instant::now();
    let httpd = [OVERLAY, "httpd", "--port", "8000"];
    let said = create(cluster, &["--replicas", "3"], &httpd)?;
    say(&format!(
        "from `service create` to three running and stable tasks: {:?}",
        began.elapsed()
    ));
    ensure!(said.contains("verify: Service web converged"), "{said}");
    let tasks = settled(cluster, 1, 3, "three running tasks", |_| true)?;
    let hosts: BTreeSet<String> = tasks.iter().map(on).collect();
    ensure!(hosts.len() == 3, "one on each host: {tasks:?}");

    cluster.sleep(0, "my-net", "alpine1")?;
    resolves(cluster, "tasks.web", 3)?;
    cluster.reach(PATIENCE, 0, "alpine1", "tasks.web")?;
    cluster.ask(0, &["exec", "alpine1", "--", "getent", "hosts", "web"])?;

    let first = tasks.first().context("no task")?;
    let (host, task) = (host_of(first)?, "web.1");
    for host in [host, (host + 1) % 3] {
        let logs = cluster.ask(host, &["service", "logs", "web"])?;
        ensure!(
            logs.contains("web.1.") && logs.contains("listening"),
            "{logs}"
        );
    }
    let inside = cluster.ask(host, &["exec", task, "--", "hostname"])?;
    ensure!(inside.starts_with("web.1."), "{inside}");

    cluster.ask(1, &["service", "scale", "web=5"])?;
    settled(cluster, 0, 5, "five running tasks", |_| true)?;
    resolves(cluster, "tasks.web", 5)?;
    cluster.ask(2, &["service", "scale", "web=1"])?;
    settled(cluster, 0, 1, "one running task", |_| true)?;
    resolves(cluster, "tasks.web", 1)?;
    cluster.ask(0, &["rm", "-f", "alpine1"])?;
    remove(cluster)
}

fn resolves(cluster: &Cluster, to: &str, count: usize) -> anyhow::Result<()> {
    let words = ["exec", "alpine1", "--", "getent", "ahostsv4", to];
    eventually(PATIENCE, &format!("{count} addresses of {to}"), || {
        let found = cluster.ask(0, &words)?;
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let addresses: BTreeSet<String> = found.lines().filter_map(first).collect();
        Ok((addresses.len() == count).then_some(()))
    })
}

/// Removes the service: no task, no endpoint, no address and no file is left.
pub(crate) fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.ask(1, &["service", "rm", "web"])?;
    let unknown = cluster.refused(0, &["service", "inspect", "web"])?;
    ensure!(unknown.said.contains("web"), "{unknown:?}");
    for host in 0..3 {
        for folder in ["tasks", "endpoints"] {
            let folder = cluster.data(host).join(folder);
            eventually(PATIENCE, &format!("an empty {}", folder.display()), || {
                // A host that never had any has no folder.
                if !folder.exists() {
                    return Ok(Some(()));
                }
                let mut left = fs::read_dir(&folder)?;
                Ok(left.next().is_none().then_some(()))
            })
            .with_context(|| left(cluster, host))?;
        }
    }
    // Networks without endpoints and services can be removed.
    eventually(PATIENCE, "the removal of the network", || {
        cluster.ask(0, &["network", "rm", "my-net"]).map(Some)
    })?;
    Ok(())
}

/// What is left on a host, for the message of a failure.
fn left(cluster: &Cluster, host: usize) -> String {
    let mut text = String::new();
    for folder in ["tasks", "endpoints"] {
        for file in fs::read_dir(cluster.data(host).join(folder))
            .into_iter()
            .flatten()
            .flatten()
        {
            let content = fs::read_to_string(file.path()).unwrap_or_default();
            text.push_str(&format!("{}: {content}\n", file.path().display()));
        }
    }
    text + &cluster
        .ask(host, &["node", "ps", "--no-trunc"])
        .unwrap_or_default()
}

fn losses(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let script = noting(cluster);
    create(cluster, &["--replicas", "3"], &["sh", "-c", &script])?;
    let tasks = settled(cluster, 0, 3, "three running tasks", |_| true)?;

    // A process that is killed is replaced by another task in its slot.
    let victim = tasks.first().context("no task")?;
    let (id, host) = (victim["ID"].clone(), host_of(victim)?);
    let noted = notes(cluster, "web.1")?.pop().context("no process")?;
    let process = noted.split(' ').next_back().context("no number")?;
    cluster.ask(
        host,
        &[
            "exec",
            "web.1",
            "--",
            "sh",
            "-c",
            &format!("kill -9 {process}"),
        ],
    )?;
    settled(cluster, 0, 3, "another task", |task| task["ID"] != id)?;
    let history = cluster.list(0, &["service", "ps", "web"])?;
    let told = history.iter().find(|task| task["ID"] == id);
    let told = told.context("the killed task is remembered")?;
    ensure!(told["Error"] == "\"killed by signal 9\"", "{told}");

    // A node that is drained has none, and gets some again only when there is need.
    let drained = name(1);
    cluster.ask(0, &["node", "update", "--availability", "drain", &drained])?;
    settled(cluster, 0, 3, "tasks elsewhere", |task| on(task) != drained)?;
    let of_node = cluster.list(0, &["node", "ps", &drained])?;
    ensure!(
        of_node.iter().all(|task| task["DesiredState"] != "Running"),
        "{of_node:?}"
    );
    cluster.ask(0, &["node", "update", "--availability", "active", &drained])?;

    // A host that is lost with all that runs on it.
    let (lost, witness) = (2, 0);
    ensure!(
        running(cluster, witness)?
            .iter()
            .any(|task| on(task) == name(lost)),
        "there is something to lose"
    );
    let began = Instant::now();
    cluster.kill(lost)?;
    for holder in holders(&cluster.data(lost))? {
        kill_process(holder, Signal::KILL)?;
    }
    settled(
        cluster,
        witness,
        3,
        "tasks on the hosts that are left",
        |task| on(task) != name(lost),
    )?;
    say(&format!(
        "from the loss of a host to three running tasks elsewhere: {:?}",
        began.elapsed()
    ));
    // It comes back and runs nothing twice.
    cluster.start(lost, &[])?;
    let left = cluster.data(lost).join("tasks");
    eventually(PATIENCE, "the end of what was lost", || {
        Ok(fs::read_dir(&left)?.next().is_none().then_some(()))
    })?;
    settled(cluster, lost, 3, "three running tasks", |_| true)?;
    for slot in ["web.1", "web.2", "web.3"] {
        let notes = notes(cluster, slot)?;
        let tasks: BTreeSet<_> = notes.iter().map(|note| note.split(' ').next()).collect();
        ensure!(tasks.len() == notes.len(), "one ran twice: {notes:?}");
    }
    remove(cluster)
}

/// The holders of a host: they have files below its data directory open.
fn holders(data: &Path) -> anyhow::Result<Vec<Pid>> {
    let endpoints = data.join("endpoints");
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")? {
        let path = process?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        let Some(process) = number.and_then(Pid::from_raw) else {
            continue;
        };
        // Processes come and go.
        let Ok(files) = fs::read_dir(path.join("fd")) else {
            continue;
        };
        let open = |file: PathBuf| fs::read_link(file).is_ok_and(|to| to.starts_with(&endpoints));
        if files.flatten().any(|file| open(file.path())) {
            found.push(process);
        }
    }
    ensure!(
        !found.is_empty(),
        "no holder has files in {}",
        data.display()
    );
    Ok(found)
}

fn restart(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let script = noting(cluster);
    create(cluster, &["--mode", "global"], &["sh", "-c", &script])?;
    let before = settled(cluster, 0, 3, "three running tasks", |_| true)?;
    for host in 0..3 {
        cluster.kill(host)?;
        cluster.start(host, &[])?;
    }
    let after = settled(cluster, 1, 3, "the same tasks", |_| true)?;
    let ids = |tasks: &[Value]| -> BTreeSet<String> {
        tasks.iter().map(|task| task["ID"].to_string()).collect()
    };
    assert_eq!(ids(&before), ids(&after));
    for task in &after {
        let task_name = task["Name"].as_str().context("no name")?;
        let host = host_of(task)?;
        // By now the daemon knows its task again.
        eventually(PATIENCE, "a command beside a task", || {
            cluster
                .ask(host, &["exec", task_name, "--", "true"])
                .map(Some)
        })?;
        assert_eq!(
            notes(cluster, task_name)?.len(),
            1,
            "{task_name} was started once"
        );
    }
    remove(cluster)
}

fn short(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    let once = ["--replicas", "30", "--restart-condition", "none"];
    let said = create(cluster, &once, &["true"])?;
    ensure!(said.contains("have ended"), "{said}");
    let tasks = cluster.list(0, &["service", "ps", "web"])?;
    let complete = |task: &Value| {
        let state = task["CurrentState"].as_str().unwrap_or_default();
        state.starts_with("Complete")
    };
    ensure!(tasks.len() == 30 && tasks.iter().all(complete), "{tasks:?}");
    remove(cluster)
}

fn updates(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    create(cluster, &["--replicas", "3"], &["sleep", "86400"])?;
    let before = settled(cluster, 0, 3, "three running tasks", |_| true)?;
    let said = cluster.ask(0, &["service", "update", "--args", "sleep 86401", "web"])?;
    ensure!(said.contains("converged"), "{said}");
    let changed = |task: &Value| task["Command"] == "sleep 86401";
    let after = settled(cluster, 0, 3, "three tasks of the new version", changed)?;
    ensure!(
        after
            .iter()
            .all(|task| before.iter().all(|old| old["ID"] != task["ID"])),
        "all are others"
    );

    // One that fails is paused, says why, and is taken back by hand.
    let failing = ["service", "update", "--args", "sh -c 'exit 7'", "web"];
    let failed = cluster.refused(0, &failing)?;
    ensure!(
        failed.said.contains("paused the update") && failed.said.contains("non-zero exit (7)"),
        "{failed:?}"
    );
    let status = cluster.ask(0, &["service", "inspect", "--pretty", "web"])?;
    ensure!(status.contains("paused"), "{status}");
    cluster.ask(0, &["service", "rollback", "web"])?;
    settled(cluster, 0, 3, "three tasks of the version before", changed)?;

    // The same by itself.
    let failing = [
        &failing[..2],
        &["--update-failure-action", "rollback"],
        &failing[2..],
    ];
    let failed = cluster.refused(0, &failing.concat())?;
    ensure!(failed.said.contains("rolled back the update"), "{failed:?}");
    settled(cluster, 0, 3, "three tasks of the version before", changed)?;

    let events = cluster.list(0, &["events"])?;
    let about = |kind: &str| events.iter().any(|event| event["Type"] == kind);
    ensure!(about("service") && about("task"), "{events:?}");
    remove(cluster)
}
