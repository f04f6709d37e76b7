//! What becomes of a change: shown task by task until it is done, or has failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use overlay_core::TaskId;

use super::{service, task_list, tasks};
use crate::{
    api::{
        DesiredState, PendingReason, Request, ServiceInfo, ServiceMode, Slot, TaskInfo, TaskState,
        UpdatePhase,
    },
    cli::{
        Failure, Report, print,
        table::{ellipsis, printable},
        terminal,
    },
    client::Client,
};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// That the service is as its spec says.
    Change,
    /// That it changes back.
    Rollback,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Not all tasks run yet.
    Moving,
    /// All that shall run do; to be watched for a while.
    Steady,
    /// All have ended, and nothing else is due; to be watched for a while.
    Ended,
    /// It was given up.
    Failed(String),
}

/// A service and its tasks, as they were at one moment.
struct Seen {
    service: ServiceInfo,
    tasks: Vec<TaskInfo>,
}

const PAUSE: Duration = Duration::from_millis(200);
/// How long no answer is borne with: there may be an election.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Tasks with a line of their own.
const LINES_MAX: usize = 20;
const BAR_WIDTH: usize = 50;
/// How shells say that SIGINT ended something.
const INTERRUPTED: u8 = 130;

/// Shows how a service converges, until it has, or has failed, or somebody interrupts; that leaves the service alone.
pub(super) async fn follow(
    client: &Client,
    id: String,
    asked: Asked,
    quiet: bool,
) -> Result<Report, Failure> {
    let mut show = Show {
        quiet,
        terminal: std::io::stdout().is_terminal(),
        lines: Vec::new(),
    };
    tokio::select! {
        followed = watch(client, &id, asked, &mut show) => followed,
        _ = tokio::signal::ctrl_c() => {
            let hint = format!("overlay service ps {}", id.get(..12).unwrap_or(&id));
            show.add(&[
                "Operation continuing in background.".to_owned(),
                format!("Use `{hint}` to check progress."),
            ]);
            Ok(Report::code(INTERRUPTED))
        }
    }
}

async fn watch(
    client: &Client,
    id: &str,
    asked: Asked,
    show: &mut Show,
) -> Result<Report, Failure> {
    let (mut since, mut heard) = (None::<(Instant, Verdict, BTreeSet<TaskId>)>, Instant::now());
    loop {
        let seen = match Seen::look(client, id).await {
            Ok(seen) => seen,
            // Who removed it meanwhile had a reason; an election does not take so long.
            Err(failure) if heard.elapsed() > SILENCE_MAX || !failure.is_transient() => {
                return Err(failure);
            }
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        heard = Instant::now();
        let verdict = seen.verdict(asked);
        let patience = seen.patience(&verdict);
        let mut lines = seen.lines();
        if let Verdict::Failed(reason) = &verdict {
            show.draw(lines);
            return Err(Failure::new(reason));
        }
        let running = seen.running();
        let began = match &since {
            Some((began, before, tasks)) if *before == verdict && *tasks == running => *began,
            _ => Instant::now(),
        };
        let left = patience.saturating_sub(began.elapsed());
        since = Some((began, verdict.clone(), running));
        match verdict {
            Verdict::Steady | Verdict::Ended if left.is_zero() => {
                let name = &seen.service.spec.name;
                let (line, ended) = seen.last_word(&verdict, name);
                lines.push(line);
                show.draw(lines);
                return ended;
            }
            Verdict::Steady => lines.push(format!(
                "verify: Waiting {} seconds to verify that tasks are stable...",
                left.as_secs() + 1
            )),
            Verdict::Moving | Verdict::Ended | Verdict::Failed(_) => {}
        }
        show.draw(lines);
        tokio::time::sleep(PAUSE.min(left.max(Duration::from_millis(10)))).await;
    }
}

impl Seen {
    async fn look(client: &Client, id: &str) -> Result<Self, Failure> {
        let request = Request::ServiceInspect {
            service: id.to_owned(),
        };
        let service = service(client, &request).await?;
        let tasks = task_list(client, Some(id.to_owned()), None).await?;
        Ok(Self { service, tasks })
    }

    /// The newest task of each slot that is to stay.
    fn newest(&self) -> BTreeMap<Slot, &TaskInfo> {
        let replicas = match self.service.spec.mode {
            ServiceMode::Replicated(replicas) => replicas,
            ServiceMode::Global => u32::MAX,
        };
        let tasks = self.tasks.iter().filter(|task| match task.slot {
            Slot::Replica(_) => true,
            // A node that is to have none any more.
            Slot::Node(_) => task.desired <= DesiredState::Running,
        });
        let mut newest: BTreeMap<Slot, &TaskInfo> = BTreeMap::new();
        for task in tasks {
            newest.insert(task.slot, task);
        }
        if newest.len() > usize::try_from(replicas).unwrap_or(usize::MAX) {
            newest.retain(|_, task| task.desired <= DesiredState::Running);
        }
        newest
    }

    fn up_to_date(&self, task: &TaskInfo) -> bool {
        task.desired == DesiredState::Running && task.spec == self.service.spec.task
    }

    /// The tasks that run as they shall.
    fn running(&self) -> BTreeSet<TaskId> {
        let running = self
            .tasks
            .iter()
            .filter(|task| task.status.state == TaskState::Running && self.up_to_date(task));
        running.map(|task| task.id).collect()
    }

    fn desired(&self) -> usize {
        usize::try_from(self.service.desired).unwrap_or(usize::MAX)
    }

    fn verdict(&self, asked: Asked) -> Verdict {
        let name = &self.service.spec.name;
        if let Some(update) = &self.service.update {
            let failed = |what: &str| {
                let reason = self.reason(&update.message);
                Verdict::Failed(format!("{what} of service {name}: {reason}"))
            };
            match (update.phase, asked) {
                (UpdatePhase::Paused, _) => return failed("paused the update"),
                (UpdatePhase::RollbackPaused, _) => return failed("paused the rollback"),
                (UpdatePhase::RollbackCompleted, Asked::Change) => {
                    return failed("rolled back the update");
                }
                (UpdatePhase::Updating | UpdatePhase::RollbackStarted, _) => {
                    return Verdict::Moving;
                }
                (UpdatePhase::Completed, _) | (UpdatePhase::RollbackCompleted, Asked::Rollback) => {
                }
            }
        }
        let wanted = self.tasks.iter().filter(|task| {
            task.desired <= DesiredState::Running && !task.status.state.is_terminal()
        });
        let running = self.running().len();
        if running == self.desired() && wanted.count() == running {
            return Verdict::Steady;
        }
        let newest = self.newest();
        if !newest.is_empty() && newest.values().all(|task| task.status.state.is_terminal()) {
            return Verdict::Ended;
        }
        Verdict::Moving
    }

    /// How long it is watched whether it stays so.
    fn patience(&self, verdict: &Verdict) -> Duration {
        let spec = &self.service.spec;
        Duration::from_millis(match verdict {
            Verdict::Ended => spec.update.monitor_ms + spec.restart.delay_ms,
            Verdict::Steady | Verdict::Moving | Verdict::Failed(_) => spec.update.monitor_ms,
        })
    }

    fn lines(&self) -> Vec<String> {
        let (running, desired) = (self.running().len(), self.desired());
        let mut lines = Vec::new();
        if let Some(update) = &self.service.update
            && update.phase == UpdatePhase::RollbackStarted
        {
            lines.push(format!("rollback: {}", update.message));
        }
        lines.push(format!(
            "overall progress: {running} out of {desired} tasks"
        ));
        let newest = self.newest();
        if newest.len() <= LINES_MAX {
            let line = |task: &&TaskInfo| self.line(task);
            lines.extend(newest.values().map(line));
        }
        lines
    }

    fn line(&self, task: &TaskInfo) -> String {
        let place = match task.slot {
            Slot::Replica(number) => format!("{number}/{}", self.service.desired),
            Slot::Node(_) if task.hostname.is_empty() => task.slot.to_string(),
            Slot::Node(_) => task.hostname.clone(),
        };
        let state = match task.status.state {
            // One of the version before goes on until its turn comes.
            TaskState::Running if !self.up_to_date(task) => "old".to_owned(),
            state => state.to_string(),
        };
        let mut error = tasks::error(task);
        if let Some(PendingReason::RestartDelay { .. }) = task.status.pending
            && let Some(before) = self.failure_in(task.slot)
        {
            error = format!("{error}: {before}");
        }
        if !error.is_empty() {
            return printable(format!("{place}: {state}: {error}"));
        }
        let steps = match task.status.state {
            TaskState::Pending => 1,
            TaskState::Assigned => 2,
            TaskState::Preparing => 3,
            TaskState::Starting => 4,
            TaskState::Running if state == "old" => 0,
            TaskState::Running => 5,
            _ => return format!("{place}: {state}"),
        };
        let mut bar = "=".repeat(steps * BAR_WIDTH / 5);
        bar.push('>');
        format!("{place}: {state:9} [{bar:width$}]", width = BAR_WIDTH + 1)
    }

    /// What the last task that failed in a slot says.
    fn failure_in(&self, slot: Slot) -> Option<String> {
        let mut of = self.tasks.iter().rev().filter(|task| task.slot == slot);
        let failed = of.find(|task| is_failure(task))?;
        Some(failed.status.message.clone())
    }

    /// Why an update was given up: what its manager says, and what the last task that failed says.
    fn reason(&self, message: &str) -> String {
        let failed = self.tasks.iter().filter(|task| is_failure(task));
        match failed.max_by_key(|task| task.status.since_unix_ms) {
            Some(task) => format!("{message}; {}: {}", tasks::name(task), task.status.message),
            None => message.to_owned(),
        }
    }

    /// The last line, and how the command ends.
    fn last_word(&self, verdict: &Verdict, name: &str) -> (String, Result<Report, Failure>) {
        if *verdict != Verdict::Ended {
            let line = format!("verify: Service {name} converged");
            return (line, Ok(Report::default()));
        }
        let line = format!("verify: the tasks of service {name} have ended");
        let newest = self.newest();
        let bad = newest
            .values()
            .find(|task| task.status.state != TaskState::Complete);
        let ended = match bad {
            None => Ok(Report::default()),
            Some(task) => Err(Failure::new(format_args!(
                "task {} {} and is not restarted: {}",
                tasks::name(task),
                match task.status.state {
                    TaskState::Rejected => "was rejected",
                    TaskState::Failed => "failed",
                    _ => "has ended",
                },
                tasks::error(task)
            ))),
        };
        (line, ended)
    }
}

fn is_failure(task: &TaskInfo) -> bool {
    let failed = matches!(
        task.status.state,
        TaskState::Failed | TaskState::Rejected | TaskState::Orphaned
    );
    failed && !task.status.message.is_empty()
}

/// Where progress is shown: redrawn on a terminal, elsewhere line by line when one changes.
struct Show {
    quiet: bool,
    terminal: bool,
    lines: Vec<String>,
}

impl Show {
    fn draw(&mut self, lines: Vec<String>) {
        if self.quiet || lines == self.lines {
            return;
        }
        if self.terminal {
            let width = terminal::size().map_or(80, |size| usize::from(size.columns));
            let mut text = String::new();
            if !self.lines.is_empty() {
                text = format!("\x1b[{}A\r\x1b[J", self.lines.len());
            }
            for line in &lines {
                text.push_str(&ellipsis(line, width.saturating_sub(1)));
                text.push('\n');
            }
            print(&text);
        } else {
            // Seconds that pass are no news.
            let countdown = |line: &str| line.starts_with("verify: Waiting");
            let waits = self.lines.iter().any(|line| countdown(line));
            let news = lines
                .iter()
                .filter(|line| !(self.lines.contains(line) || waits && countdown(line)));
            print(&news.map(|line| format!("{line}\n")).collect::<String>());
        }
        self.lines = lines;
    }

    /// Writes below what is shown.
    fn add(&mut self, lines: &[String]) {
        self.lines.clear();
        print(
            &lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        );
    }
}
