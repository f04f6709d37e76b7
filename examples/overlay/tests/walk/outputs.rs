//! What comes out: the logs of tasks on all nodes, and JSON as its schema says.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use jsonschema::{Validator, options};
use serde_json::{Value, json};

use crate::{
    Story,
    support::{Cluster, OVERLAY, PATIENCE, eventually, name},
};

pub(crate) const STORIES: &[Story] = &[
    Story {
        name: "what_tasks_write_is_read_from_any_manager",
        hosts: 3,
        programs: &["sleep"],
        tell: logs,
    },
    Story {
        name: "what_commands_print_is_what_the_schema_says",
        hosts: 2,
        programs: &["sleep"],
        tell: schema,
    },
    Story {
        name: "the_figures_have_a_number_on_each_line",
        hosts: 0,
        programs: &[],
        tell: figures,
    },
];

/// Two managers and a worker, and a service with a task on each that writes every now and then.
fn start(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    cluster.ask(0, &["init"])?;
    cluster.join(1, "manager")?;
    cluster.join(2, "worker")?;
    cluster.ask(0, &["network", "create", "--attachable", "my-net"])?;
    let script = "echo $OVERLAY_TASK begins; while true; do echo tick; sleep 0.2; done";
    let create = [
        "service", "create", "--name", "web", "--mode", "global", "-q",
    ];
    let more = ["--network", "my-net", "--", "sh", "-c", script];
    cluster.ask(0, &[&create[..], &more].concat()).map(drop)
}

/// A command that goes on, and what it has said.
struct Following {
    child: Child,
    files: [std::path::PathBuf; 2],
}

impl Following {
    fn start(cluster: &Cluster, host: usize, words: &[&str]) -> anyhow::Result<Self> {
        let files = ["follow.out", "follow.err"].map(|name| cluster.path(name));
        let child = cluster
            .command(host, words)
            .stdin(Stdio::null())
            .stdout(File::create(&files[0])?)
            .stderr(File::create(&files[1])?)
            .spawn()?;
        Ok(Self { child, files })
    }

    fn said(&self) -> anyhow::Result<[String; 2]> {
        let [out, err] = &self.files;
        Ok([fs::read_to_string(out)?, fs::read_to_string(err)?])
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn logs(cluster: &mut Cluster) -> anyhow::Result<()> {
    start(cluster)?;
    // From the manager that does not lead, too.
    for host in [0, 1] {
        let text = cluster.ask(host, &["service", "logs", "web"])?;
        for task in 0..3 {
            let begins = |line: &&str| {
                line.starts_with("web.") && line.contains(&format!("@{}    | web.", name(task)))
            };
            let lines: Vec<_> = text.lines().filter(begins).collect();
            ensure!(lines.len() == 1, "{} on {}: {text}", name(task), name(host));
        }
    }
    parts(cluster)?;
    worker(cluster)?;
    follow(cluster)
}

/// Tails, times, and single tasks.
fn parts(cluster: &Cluster) -> anyhow::Result<()> {
    let asked = |more: &[&str]| cluster.ask(0, &[&["service", "logs"], more, &["web"]].concat());
    let tail = asked(&["--tail", "2", "--raw", "--timestamps"])?;
    let lines: Vec<_> = tail.lines().collect();
    let timed = lines.iter().all(|line| line.ends_with("Z tick"));
    ensure!(lines.len() == 6 && timed, "{tail}");
    ensure!(lines.is_sorted(), "by time: {tail}");
    let now = asked(&["--since", "1h", "--raw"])?;
    ensure!(now.contains("begins"), "{now}");
    let later = asked(&["--since", "2100-01-01"])?;
    ensure!(later.is_empty(), "{later}");
    let tasks = cluster.list(0, &["service", "ps", "web"])?;
    let there = tasks.iter().find(|task| task["Node"] == name(2));
    let id = there
        .and_then(|task| task["ID"].as_str())
        .context("a task")?;
    let words = ["service", "logs", "--no-trunc", "-n", "1", id];
    let one = cluster.ask(1, &words)?;
    ensure!(
        one.contains(&format!(".{id}@{}    | tick\n", name(2))),
        "{one}"
    );
    Ok(())
}

/// A worker knows its own task, and says who knows the others.
fn worker(cluster: &Cluster) -> anyhow::Result<()> {
    let output = cluster.run(2, &["service", "logs", "web"])?;
    let (text, said) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let own = text
        .lines()
        .all(|line| line.contains(&format!("@{}", name(2))));
    ensure!(
        output.status.success() && own && text.contains("begins"),
        "{text}"
    );
    ensure!(said.contains("ask a manager"), "{said}");
    let tasks = cluster.list(0, &["service", "ps", "web"])?;
    let elsewhere = tasks.iter().find(|task| task["Node"] == name(0));
    let id = elsewhere
        .and_then(|task| task["ID"].as_str())
        .context("a task")?;
    let refusal = cluster.refused(2, &["service", "logs", id])?;
    ensure!(refusal.said.contains("ask a manager"), "{refusal:?}");
    Ok(())
}

/// A node that dies is named, and the others go on; it comes back, and so do its lines.
fn follow(cluster: &mut Cluster) -> anyhow::Result<()> {
    let words = ["service", "logs", "--follow", "--tail", "0", "web"];
    let following = Following::start(cluster, 0, &words)?;
    let from = |host: usize, text: &str| {
        let host = format!("@{}    | tick", name(host));
        text.lines().filter(|line| line.contains(&host)).count()
    };
    let all = |more: [usize; 3]| {
        let what = format!("{more:?} lines more of each host");
        let before = following.said()?[0].clone();
        let before = [0, 1, 2].map(|host| from(host, &before));
        eventually(PATIENCE, &what, || {
            let [out, _] = following.said()?;
            let now = [0, 1, 2].map(|host| from(host, &out));
            let enough = (0..3).all(|host| now[host] >= before[host] + more[host]);
            Ok(enough.then_some(()))
        })
    };
    all([3, 3, 3])?;
    cluster.kill(2)?;
    eventually(PATIENCE, "the name of the node that died", || {
        Ok(following.said()?[1]
            .contains(&format!("{} (192.168.77.3:2377)", name(2)))
            .then_some(()))
    })?;
    let still = cluster.run(0, &["service", "logs", "-n", "1", "web"])?;
    let text = String::from_utf8_lossy(&still.stdout);
    ensure!(
        still.status.code() == Some(1) && text.lines().count() == 2,
        "{still:?}"
    );
    all([3, 3, 0])?;
    cluster.start(2, &[])?;
    all([3, 3, 3])?;
    let [out, _] = following.said()?;
    let mut lines: Vec<_> = out.lines().filter(|line| line.contains("begins")).collect();
    lines.dedup();
    ensure!(lines.is_empty(), "nothing is told twice: {lines:?}");
    Ok(())
}

/// The judge of one definition of the committed schema.
fn judge(definition: &str) -> anyhow::Result<Validator> {
    let text = include_str!("../../schema/overlay.schema.json");
    let mut schema: Value = serde_json::from_str(text)?;
    let object = schema.as_object_mut().context("an object")?;
    object.remove("anyOf");
    object.insert("$ref".into(), json!(format!("#/$defs/{definition}")));
    Ok(options().should_validate_formats(true).build(&schema)?)
}

fn schema(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.start_all()?;
    let bare = cluster.ask(0, &["info", "--format", "json"])?;
    check("info", &[serde_json::from_str(&bare)?])?;
    cluster.ask(0, &["init"])?;
    cluster.join(1, "worker")?;
    let create = [
        "network",
        "create",
        "--attachable",
        "--label",
        "a=b",
        "my-net",
    ];
    cluster.ask(0, &create)?;
    cluster.sleep(1, "my-net", "one")?;
    cluster.run(
        1,
        &["run", "--name", "two", "--network", "my-net", "--", "false"],
    )?;
    let service = ["service", "create", "-q", "--network", "my-net", "--name"];
    let web = [
        "web",
        "--replicas",
        "2",
        "-p",
        "8080:80",
        "--",
        "sleep",
        "86400",
    ];
    cluster.ask(0, &[&service[..], &web].concat())?;
    let lost = [
        "lost",
        "-d",
        "--mode",
        "global",
        "--constraint",
        "node.hostname==nobody",
    ];
    cluster.ask(0, &[&service[..], &lost, &["--", "true"]].concat())?;
    let one = [
        "update",
        "--update-monitor",
        "0s",
        "--label-add",
        "c=d",
        "--env-add",
        "A=b",
    ];
    cluster.ask(0, &[&["service"], &one[..], &["web"]].concat())?;
    let update = ["node", "update", "--label-add", "zone=a", "host2"];
    cluster.ask(0, &update)?;
    whole(cluster)
}

/// Everything that prints JSON.
fn whole(cluster: &Cluster) -> anyhow::Result<()> {
    for (definition, host, words) in [
        ("node-ls", 0, &["node", "ls"][..]),
        ("node-ps", 0, &["node", "ps", "self", "host2"]),
        ("network-ls", 0, &["network", "ls"]),
        ("service-ls", 0, &["service", "ls"]),
        ("service-ps", 0, &["service", "ps", "web", "lost"]),
        ("events", 0, &["events"]),
        ("ps", 1, &["ps", "-a"]),
        ("info", 0, &["info"]),
        ("info", 1, &["info"]),
        ("doctor", 0, &["doctor"]),
    ] {
        check(definition, &cluster.list(host, words)?)?;
    }
    for (definition, words) in [
        ("node-inspect", &["node", "inspect", "self", "host2"][..]),
        ("cluster-inspect", &["cluster", "inspect"]),
        (
            "network-inspect",
            &["network", "inspect", "my-net", "ingress"],
        ),
        ("service-inspect", &["service", "inspect", "web", "lost"]),
    ] {
        let value = serde_json::from_str(&cluster.ask(0, words)?)?;
        check(definition, &[value])?;
    }
    Ok(())
}

fn check(definition: &str, values: &[Value]) -> anyhow::Result<()> {
    let judge = judge(definition)?;
    ensure!(!values.is_empty(), "{definition} printed nothing");
    for value in values {
        let errors: Vec<_> = judge
            .iter_errors(value)
            .map(|error| error.to_string())
            .collect();
        ensure!(errors.is_empty(), "{definition}: {errors:?}\n{value:#}");
    }
    Ok(())
}

/// The command makes hosts of its own, and leaves none of their files behind.
fn figures(cluster: &mut Cluster) -> anyhow::Result<()> {
    let files = cluster.path("figures");
    fs::create_dir(&files)?;
    let measured = Command::new(OVERLAY)
        .args(["figures", "--rounds", "1"])
        .env("TMPDIR", &files)
        .stdin(Stdio::null())
        .output()?;
    let printed = String::from_utf8(measured.stdout)?;
    let said = String::from_utf8_lossy(&measured.stderr);
    ensure!(measured.status.success(), "{printed}\n{said}");
    for (figure, count, unit) in [
        ("1  leader cut off", 1, "s"),
        ("2a node cut off", 2, "s"),
        ("2b node cut off", 2, "s"),
        ("3  link healed", 2, "s"),
        ("4a network create", 10, "s"),
        ("4b network create", 10, "s"),
        ("5  memory", 3, "MB"),
    ] {
        let line = printed.lines().find(|line| line.starts_with(figure));
        let line = line.with_context(|| format!("no {figure}: {printed}"))?;
        let (_, measured) = line.split_once("<= ").context("a reach")?;
        let (_, measured) = measured.split_once("   ").context("what was measured")?;
        let (median, worst) = measured
            .trim()
            .split_once(&format!(" (of {count}), worst "))
            .with_context(|| line.to_owned())?;
        for amount in [median, worst] {
            let (number, of) = amount.split_once(' ').context("a unit")?;
            ensure!(number.parse::<f64>()? > 0.0, "{line}");
            ensure!(of.ends_with(unit), "{line}");
        }
    }
    ensure!(fs::read_dir(&files)?.next().is_none(), "files are left");
    Ok(())
}
