//! Services: made, published, scaled, moved off a host that is drained and off one that is lost.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{
    cluster::{Cluster, NETWORK},
    steps::Steps,
};

impl Cluster<'_> {
    /// Does the steps about services, all on a cluster that is whole.
    pub(super) fn services(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        self.create_services(steps)?;
        self.by_name(steps)?;
        for host in 0..self.hosts.len() {
            let address = self.hosts[host].address;
            steps.step(&format!("http://{address}:{PORT}/"), || {
                Ok(((), self.get(host)?))
            })?;
        }
        for replicas in [6, 2] {
            steps.step(&format!("overlay service scale web={replicas}"), || {
                let scale = format!("web={replicas}");
                self.ask(0, &["service", "scale", "--detach", &scale])?;
                Ok(((), self.running(replicas, None)?))
            })?;
        }
        self.drain(steps)?;
        self.lose_host(steps)
    }

    fn create_services(&self, steps: &mut Steps) -> anyhow::Result<()> {
        let exe = self.exe.display().to_string();
        steps.step("overlay service create --name db", || {
            let create = [
                "service",
                "create",
                "-q",
                "--detach",
                "--name",
                "db",
                "--network",
                NETWORK,
            ];
            self.ask(0, &[&create[..], &["--", &exe, "sleep", "86400"]].concat())?;
            let hosts = self.eventually("a task of db", || self.hosts_of("db", 1))?;
            Ok(((), format!("runs on {}", hosts.join(", "))))
        })?;
        let what = format!("overlay service create --replicas 3 -p {PORT}:80 web");
        steps.step(&what, || {
            let create = [
                "service",
                "create",
                "-q",
                "--detach",
                "--name",
                "web",
                "--network",
                NETWORK,
            ];
            let publish = format!("{PORT}:80");
            let rest = ["--replicas", "3", "-p", &publish, "--", &exe, "httpd"];
            self.ask(0, &[&create[..], &rest[..]].concat())?;
            Ok(((), self.running(3, None)?))
        })?;
        steps.step("overlay service ls", || {
            let listed = self.ask(1, &["service", "ls", "--format", "json"])?;
            let services: Result<Vec<Value>, _> =
                listed.lines().map(serde_json::from_str).collect();
            let line = |service: &Value| {
                let text = |key: &str| service[key].as_str().unwrap_or("?").to_owned();
                format!("{} {}", text("Name"), text("Replicas"))
            };
            let lines: Vec<_> = services?.iter().map(line).collect();
            Ok(((), lines.join(", ")))
        })
    }

    /// Reaches all tasks of web by the one address that its name leads to.
    fn by_name(&self, steps: &mut Steps) -> anyhow::Result<()> {
        let exe = self.exe.display().to_string();
        let get = ["exec", "alpine1", "--", &exe, "get", "--timeout", "2"];
        let get = [&get[..], &["web:80"]].concat();
        steps.step("alpine1: http://web/, until all answered", || {
            let mut told = BTreeSet::new();
            let tasks = self.eventually("answers of all tasks", || {
                let page = self.ask(0, &get)?;
                let task = page.lines().find_map(|line| line.strip_prefix("task: "));
                told.extend(task.map(str::to_owned));
                let all = told.iter().cloned().collect::<Vec<_>>().join(", ");
                Ok((told.len() == 3).then_some(all))
            })?;
            Ok(((), format!("by one address: {tasks}")))
        })
    }

    fn drain(&self, steps: &mut Steps) -> anyhow::Result<()> {
        let crowded = self.hosts_of("web", 2)?.context("web does not run")?;
        let drained = crowded.last().context("web runs nowhere")?.clone();
        let what = format!("overlay node update --availability drain {drained}");
        steps.step(&what, || {
            self.ask(0, &["node", "update", "--availability", "drain", &drained])?;
            Ok(((), self.running(2, Some(&drained))?))
        })?;
        self.ask(0, &["node", "update", "--availability", "active", &drained])?;
        Ok(())
    }

    fn lose_host(&mut self, steps: &mut Steps) -> anyhow::Result<()> {
        let running = self.hosts_of("web", 2)?.context("web does not run")?;
        // Commands go to the first host: another one is lost.
        let position = |name: &String| self.hosts.iter().position(|host| host.name == *name);
        let lost = running.iter().filter_map(position).find(|host| *host > 0);
        let lost = lost.context("web runs on the first host alone")?;
        let name = self.hosts[lost].name.clone();
        steps.step(&format!("{name} is cut off the network"), || {
            self.lab.set_link(lost, false)?;
            Ok(((), self.running(2, Some(&name))?))
        })?;
        let first = self.hosts[0].address;
        steps.step(&format!("http://{first}:{PORT}/"), || {
            Ok(((), self.get(0)?))
        })?;
        steps.step(&format!("{name} is back"), || {
            self.lab.set_link(lost, true)?;
            let text = self.eventually("all nodes ready", || {
                let nodes = self.ask(0, &["node", "ls", "--format", "json"])?;
                let nodes: Result<Vec<Value>, _> =
                    nodes.lines().map(serde_json::from_str).collect();
                let ready = nodes?
                    .iter()
                    .filter(|node| node["Status"] == "Ready")
                    .count();
                Ok((ready == self.hosts.len()).then(|| format!("{ready} nodes ready")))
            })?;
            Ok(((), text))
        })
    }

    /// Waits until `replicas` tasks of web run, none of them on `without`, and says where.
    fn running(&self, replicas: usize, without: Option<&str>) -> anyhow::Result<String> {
        let hosts = self.eventually(&format!("{replicas} tasks of web"), || {
            let hosts = self.hosts_of("web", replicas)?;
            Ok(hosts.filter(|hosts| !hosts.iter().any(|host| Some(host.as_str()) == without)))
        })?;
        Ok(format!("{replicas} running: {}", hosts.join(", ")))
    }

    /// Returns the hosts of the tasks that run, if there are as many.
    fn hosts_of(&self, service: &str, replicas: usize) -> anyhow::Result<Option<Vec<String>>> {
        let listed = self.ask(0, &["service", "ps", service, "--format", "json"])?;
        let tasks: Result<Vec<Value>, _> = listed.lines().map(serde_json::from_str).collect();
        let is = |task: &Value, key: &str| {
            task[key]
                .as_str()
                .is_some_and(|text| text.starts_with("Running"))
        };
        let mut hosts: Vec<_> = tasks?
            .iter()
            .filter(|task| is(task, "DesiredState") && is(task, "CurrentState"))
            .filter_map(|task| task["Node"].as_str().map(str::to_owned))
            .collect();
        hosts.sort();
        Ok((hosts.len() == replicas).then_some(hosts))
    }

    /// Fetches the page of the published port of a host, from that host.
    fn get(&mut self, host: usize) -> anyhow::Result<String> {
        let address = format!("{}:{PORT}", self.hosts[host].address);
        let mut last = String::new();
        for _ in 0..TRIES {
            let mut command = Command::new(&self.exe);
            command
                .args(["get", "--timeout", "2", &address])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let output = self.lab.spawn_in(host, &mut command)?.wait_with_output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Some(line) = text.lines().find(|line| line.starts_with("task:")) {
                return Ok(line.replace("task:", "answered by"));
            }
            last = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        bail!("nobody answers at {address}: {last}")
    }
}

/// The published port.
const PORT: u16 = 8_080;
/// How often a page is asked for before the demo gives up.
const TRIES: u32 = 20;
