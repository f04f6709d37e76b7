//! Orders to daemons, several at a time: what is asked of them while hosts are cut off and daemons die.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io::{Read as _, Seek as _},
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::bail;

use crate::{support::Cluster, world::NETWORKS};

/// A command of the command line that goes on.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) words: Vec<String>,
    child: Child,
    output: File,
    pub(crate) began: Instant,
}

/// How long an order may take, with whatever happens meanwhile.
const ORDER_TIME_MAX: Duration = Duration::from_secs(60);

impl Running {
    pub(crate) fn start(
        cluster: &Cluster,
        host: usize,
        words: Vec<String>,
    ) -> anyhow::Result<Self> {
        let output = tempfile::tempfile()?;
        let child = cluster
            .command(host, &words)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()?;
        Ok(Self {
            words,
            child,
            output,
            began: Instant::now(),
        })
    }

    /// What became of it, once it has ended.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<(ExitStatus, String)>> {
        let Some(status) = self.child.try_wait()? else {
            if self.began.elapsed() > ORDER_TIME_MAX {
                self.child.kill()?;
                self.child.wait()?;
                let words = self.words.join(" ");
                bail!("`overlay {words}` did not end within {ORDER_TIME_MAX:?}");
            }
            return Ok(None);
        };
        let mut said = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut said)?;
        Ok(Some((status, String::from_utf8_lossy(&said).into_owned())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended is none the worse.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program runs, and on which networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: usize,
    pub(crate) networks: BTreeSet<usize>,
}

/// One order about a program.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Run(Place),
    Remove,
    Connect(usize),
    Disconnect(usize),
}

/// A program that comes and goes under one name.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) place: Option<Place>,
    /// Whether an order failed, which may have been carried out nevertheless.
    pub(crate) doubtful: bool,
    steps: VecDeque<Step>,
    running: Option<(Step, Running)>,
}

/// What became of an order about a program.
pub(crate) enum Progress {
    Idle,
    Busy,
    Done(String),
    Refused { said: String, began: Instant },
}

impl Program {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            place: None,
            doubtful: false,
            steps: VecDeque::new(),
            running: None,
        }
    }

    /// Whether it can be ordered about.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none() && self.steps.is_empty() && !self.doubtful
    }

    pub(crate) fn order(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
    }

    /// Goes on with what was ordered.
    pub(crate) fn poll(&mut self, cluster: &Cluster) -> anyhow::Result<Progress> {
        if let Some((step, running)) = &mut self.running {
            let Some((status, said)) = running.poll()? else {
                return Ok(Progress::Busy);
            };
            let (step, began) = (step.clone(), running.began);
            let words = running.words.join(" ");
            self.running = None;
            if !status.success() {
                self.steps.clear();
                self.doubtful = true;
                let said = format!("`overlay {words}`: {}", said.trim());
                return Ok(Progress::Refused { said, began });
            }
            self.carried_out(step);
            return Ok(Progress::Done(words));
        }
        let Some(step) = self.steps.pop_front() else {
            return Ok(Progress::Idle);
        };
        let (host, words) = self.words(&step);
        let running = Running::start(cluster, host, words)?;
        self.running = Some((step, running));
        Ok(Progress::Busy)
    }

    fn words(&self, step: &Step) -> (usize, Vec<String>) {
        let host = self.place.as_ref().map_or(0, |place| place.host);
        let name = &self.name;
        let (host, line) = match step {
            Step::Run(place) => {
                let networks = place.networks.iter();
                let networks = networks.map(|one| format!("--network {} ", NETWORKS[*one]));
                let networks: String = networks.collect();
                let line = format!("run -d --name {name} {networks}-- sleep 86400");
                (place.host, line)
            }
            Step::Remove => (host, format!("rm -f {name}")),
            Step::Connect(network) => {
                let line = format!("network connect {} {name}", NETWORKS[*network]);
                (host, line)
            }
            Step::Disconnect(network) => {
                let line = format!("network disconnect {} {name}", NETWORKS[*network]);
                (host, line)
            }
        };
        (host, line.split(' ').map(str::to_owned).collect())
    }

    fn carried_out(&mut self, step: Step) {
        let networks = self.place.as_mut().map(|place| &mut place.networks);
        match (step, networks) {
            (Step::Run(place), _) => self.place = Some(place),
            (Step::Remove, _) => self.place = None,
            (Step::Connect(network), Some(networks)) => {
                networks.insert(network);
            }
            (Step::Disconnect(network), Some(networks)) => {
                networks.remove(&network);
            }
            (Step::Connect(_) | Step::Disconnect(_), None) => {}
        }
    }
}
