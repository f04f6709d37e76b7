//! Tasks as real processes, on holders that are the test's own.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use overlay_core::{EndpointId, TaskId};
use overlay_node::{
    agent::{TaskOrder, TaskReport},
    driver::{Executor, LogOptions, logs},
};
use tokio::sync::mpsc;

use super::{Tasks, Tell};
use crate::{
    api::{ErrorKind, Slot, TaskSpec, TaskState},
    daemon::{node::Soon, tests::fakes::FakeHolders},
};

const LIMIT: Duration = Duration::from_secs(20);

struct Listener(mpsc::UnboundedSender<TaskReport>);

impl Tell for Listener {
    fn tell(&self, report: TaskReport) -> Soon<()> {
        self.0.send(report).ok();
        Box::pin(async {})
    }
}

/// Tasks in a folder that is removed at the end.
struct Fixture {
    folder: PathBuf,
    holders: Arc<FakeHolders>,
    tasks: Tasks,
    tell: Arc<dyn Tell>,
    reports: mpsc::UnboundedReceiver<TaskReport>,
    /// Whether there is no later life over the same folder.
    last: bool,
}

impl Fixture {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("overlay-tasks-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        Self::over(folder, Arc::default())
    }

    fn over(folder: PathBuf, holders: Arc<FakeHolders>) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        Self {
            tasks: Tasks::open(&folder, holders.clone()).unwrap(),
            folder,
            holders,
            tell: Arc::new(Listener(sender)),
            reports,
            last: true,
        }
    }

    /// Another life over the same folder; the old one hears of no end any more.
    fn restart(&mut self) {
        self.holders.lose_followers();
        let next = Self::over(self.folder.clone(), self.holders.clone());
        self.last = false;
        drop(std::mem::replace(self, next));
    }

    fn start(&self, order: TaskOrder) {
        self.tasks.begin(order, self.tell.clone());
    }

    fn stop(&self, grace: Duration) {
        self.tasks.end(TASK, grace, self.tell.clone());
    }

    async fn report(&mut self) -> (TaskState, String, Option<i32>) {
        let report = tokio::time::timeout(LIMIT, self.reports.recv());
        let report = report.await.expect("a report in time").unwrap();
        (report.state, report.message, report.exit_code)
    }

    async fn runs(&mut self, script: &str) {
        self.start(order(script));
        assert_eq!(self.report().await.0, TaskState::Starting);
        assert_eq!(self.report().await.0, TaskState::Running);
    }

    /// The lines of the task.
    async fn written(&self, options: LogOptions) -> Vec<String> {
        let (sink, mut logs) = logs();
        Executor::logs(&self.tasks, TASK, options, sink);
        let mut lines = Vec::new();
        let read = async {
            while let Some(line) = logs.next().await {
                lines.push(String::from_utf8(line.unwrap().text).unwrap());
            }
            lines
        };
        tokio::time::timeout(LIMIT, read).await.expect("an end")
    }

    fn records(&self) -> usize {
        fs::read_dir(&self.folder).unwrap().count()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if self.last {
            self.holders.give_up();
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

const TASK: TaskId = TaskId::from_bytes([3; 16]);
const ENDPOINT: EndpointId = EndpointId::from_bytes([4; 16]);

fn order(script: &str) -> TaskOrder {
    TaskOrder {
        task: TASK,
        service_name: "web".into(),
        slot: Slot::Replica(2),
        spec: TaskSpec {
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec!["A=b".into()],
            ..TaskSpec::default()
        },
        endpoints: vec![ENDPOINT],
    }
}

#[tokio::test]
async fn a_task_runs_and_its_end_is_reported() {
    let cases = [
        ("exit 0", (TaskState::Complete, "", Some(0))),
        ("exit 7", (TaskState::Failed, "non-zero exit (7)", Some(7))),
        (
            "kill -9 $$",
            (TaskState::Failed, "killed by signal 9", Some(137)),
        ),
        (
            "test $OVERLAY_TASK.$A = web.2.b || exit 1",
            (TaskState::Complete, "", Some(0)),
        ),
    ];
    for (script, (state, message, code)) in cases {
        let mut fixture = Fixture::new();
        fixture.runs(script).await;
        let expected = (state, message.to_owned(), code);
        assert_eq!(fixture.report().await, expected, "{script}");
        fixture.holders.lose(ENDPOINT);
        let output = fixture.written(LogOptions::default()).await;
        assert_eq!(output.len(), 2, "it is kept beyond the end: {output:?}");
    }
}

#[tokio::test]
async fn a_task_is_stopped_and_one_that_does_not_listen_is_killed() {
    let scripts = [
        ("exec sleep 1000", Some(143)),
        ("trap '' TERM; while true; do sleep 0.1; done", Some(137)),
    ];
    for (script, code) in scripts {
        let mut fixture = Fixture::new();
        fixture.runs(script).await;
        let [shown] = fixture.tasks.list().try_into().unwrap();
        assert_eq!((shown.name.as_str(), shown.running), ("web.2", true));
        // Not before the shell ignores the signal.
        tokio::time::sleep(Duration::from_millis(300)).await;
        fixture.stop(Duration::from_millis(500));
        let expected = (TaskState::Shutdown, String::new(), code);
        assert_eq!(fixture.report().await, expected, "{script}");
        assert_eq!(fixture.holders.alive(), 0);
        // Asked once more it says the same.
        fixture.stop(Duration::ZERO);
        assert_eq!(fixture.report().await, expected, "{script}");
    }
}

#[tokio::test]
async fn what_cannot_run_is_rejected_with_the_reason() {
    let mut fixture = Fixture::new();
    let without = TaskOrder {
        endpoints: Vec::new(),
        ..order("true")
    };
    fixture.start(without);
    let (state, message, _) = fixture.report().await;
    assert_eq!(state, TaskState::Rejected);
    assert!(message.contains("--network"), "{message}");

    let mut missing = order("true");
    missing.spec.command = vec!["no-such-command".into()];
    fixture.start(missing);
    assert_eq!(fixture.report().await.0, TaskState::Starting);
    let (state, message, code) = fixture.report().await;
    assert_eq!((state, code), (TaskState::Rejected, Some(127)));
    assert!(message.contains("no-such-command"), "{message}");

    let mut fixture = Fixture::new();
    fixture.holders.refuse_start(true);
    fixture.start(order("true"));
    assert_eq!(fixture.report().await.0, TaskState::Starting);
    let (state, _, code) = fixture.report().await;
    assert_eq!((state, code), (TaskState::Rejected, Some(126)));
}

#[tokio::test]
async fn a_task_that_is_not_known_is_shut_down() {
    let mut fixture = Fixture::new();
    fixture.stop(Duration::ZERO);
    let expected = (TaskState::Shutdown, String::new(), None);
    assert_eq!(fixture.report().await, expected);
    let refused = fixture.tasks.locate("web.2").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn one_that_is_to_stop_while_it_starts_is_stopped() {
    let mut fixture = Fixture::new();
    fixture.holders.never_start();
    fixture.start(order("exec sleep 1000"));
    assert_eq!(fixture.report().await.0, TaskState::Starting);
    fixture.stop(Duration::from_secs(10));
    fixture.holders.start_again();
    assert_eq!(fixture.report().await.0, TaskState::Running);
    assert_eq!(fixture.report().await.0, TaskState::Shutdown);
}

#[tokio::test]
async fn a_restarted_daemon_takes_its_task_up_and_runs_it_once() {
    let mut fixture = Fixture::new();
    fixture.runs("exec sleep 1000").await;
    fixture.restart();
    for _ in 0..2 {
        fixture.start(order("exec sleep 1000"));
        assert_eq!(fixture.report().await.0, TaskState::Running);
    }
    assert_eq!(fixture.holders.alive(), 1);
    // A third life is told to stop it without having been asked for it before.
    fixture.restart();
    fixture.stop(Duration::from_secs(10));
    assert_eq!(fixture.report().await.0, TaskState::Running);
    let expected = (TaskState::Shutdown, String::new(), Some(143));
    assert_eq!(fixture.report().await, expected);
    fixture.restart();
    fixture.start(order("exec sleep 1000"));
    assert_eq!(fixture.report().await, expected, "its end is remembered");
}

#[tokio::test]
async fn the_loss_of_a_holder_is_a_failure_and_nothing_runs_again() {
    let mut fixture = Fixture::new();
    fixture.runs("exec sleep 1000").await;
    fixture.restart();
    fixture.holders.lose(ENDPOINT);
    fixture.start(order("exec sleep 1000"));
    let expected = (TaskState::Failed, "its process was lost".to_owned(), None);
    assert_eq!(fixture.report().await, expected);
    assert_eq!(fixture.holders.alive(), 0);
}

#[tokio::test]
async fn the_record_goes_with_the_endpoint() {
    let mut fixture = Fixture::new();
    fixture.runs("exit 3").await;
    assert_eq!(fixture.report().await.0, TaskState::Failed);
    assert_eq!(fixture.records(), 1);
    fixture.holders.lose(ENDPOINT);
    let gone = async {
        while fixture.records() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert_eq!(fixture.written(LogOptions::default()).await.len(), 2);
}
