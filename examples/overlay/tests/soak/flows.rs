//! Pings that go on all the time between endpoints that nobody touches.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};

use crate::{
    faults::Window,
    support::{Cluster, PATIENCE, eventually},
    world::{HOSTS, NETWORKS, is_kernel},
};

/// A ping from the watcher of one host to that of another.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) to: usize,
    family: &'static str,
}

/// How many answers came, and how many did not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) answered: usize,
    pub(crate) excused: usize,
    /// What no fault explains.
    pub(crate) unexplained: Vec<String>,
}

/// How long a fault may be felt after it is over.
const GRACE: Duration = Duration::from_secs(5);
/// Between two pings, in seconds.
const INTERVAL: f64 = 0.2;

/// Starts a watcher on each host, and between them one flow of each kind.
pub(crate) fn start(cluster: &Cluster) -> anyhow::Result<Vec<Flow>> {
    for host in 0..HOSTS {
        cluster.sleep(host, NETWORKS[0], &watcher(host))?;
    }
    let flows = [
        (0, 2, "-4"),
        (1, 3, "-6"),
        (3, 0, "-4"),
        (2, 1, "-6"),
        (2, 0, "-6"),
    ];
    let mut started = Vec::new();
    for (from, to, family) in flows {
        let flow = Flow { from, to, family };
        let (other, name) = (watcher(to), flow.name());
        cluster.reach(PATIENCE, from, &watcher(from), &other)?;
        let ping = format!("exec ping -nDO -i {INTERVAL} {family} {other}");
        let run = ["run", "-d", "--name", &name, "--network", NETWORKS[0]];
        cluster.ask(from, &[&run[..], &["--", "sh", "-c", &ping]].concat())?;
        eventually(PATIENCE, &name, || {
            let said = cluster.ask(from, &["logs", &name])?;
            ensure!(said.contains(ANSWER), "{said}");
            Ok(Some(()))
        })?;
        started.push(flow);
    }
    Ok(started)
}

pub(crate) fn watcher(host: usize) -> String {
    format!("watcher{host}")
}

impl Flow {
    pub(crate) fn name(&self) -> String {
        format!("flow{}{}{}", self.from, self.to, self.family)
    }

    /// What became of its pings.
    pub(crate) fn losses(&self, cluster: &Cluster, windows: &[Window]) -> anyhow::Result<Losses> {
        let said = cluster.ask(self.from, &["logs", &self.name()])?;
        let (mut losses, mut answers) = (Losses::default(), BTreeMap::new());
        for line in said.lines().filter(|line| line.contains(ANSWER)) {
            let at = line
                .strip_prefix('[')
                .and_then(|rest| rest.split(']').next());
            let number = line.split("icmp_seq=").nth(1);
            let number = number.and_then(|rest| rest.split(' ').next());
            let (at, number) = at.zip(number).context("a line of ping")?;
            answers.insert(number.parse::<u32>()?, at.parse::<f64>()?);
        }
        losses.answered = answers.len();
        let answered: Vec<_> = answers.into_iter().collect();
        for two in answered.windows(2) {
            let ((before, then), (number, at)) = (two[0], two[1]);
            for missing in 1..number - before {
                let share = f64::from(missing) / f64::from(number - before);
                losses.lost(self, then + (at - then) * share, windows);
            }
        }
        let (_, last) = answered.last().context("no answer at all")?;
        let silent = crate::faults::unix_now() - last;
        if silent > GRACE.as_secs_f64() {
            losses.lost(self, last + INTERVAL, windows);
        }
        Ok(losses)
    }
}

impl Losses {
    fn lost(&mut self, flow: &Flow, at: f64, windows: &[Window]) {
        let excuse = windows.iter().any(|window| {
            let to = window
                .to
                .map_or(f64::INFINITY, |to| to + GRACE.as_secs_f64());
            window.concern.touches(flow.from, flow.to)
                && (window.from - INTERVAL..=to).contains(&at)
        });
        if excuse {
            self.excused += 1;
        } else {
            self.unexplained.push(format!("{flow} at {at:.3}"));
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.excused += other.excused;
        self.unexplained.extend(other.unexplained);
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plane = |host| if is_kernel(host) { "kernel" } else { "user" };
        let (from, to) = (plane(self.from), plane(self.to));
        write!(f, "{} ({from} to {to})", self.name())
    }
}

const ANSWER: &str = "bytes from";
