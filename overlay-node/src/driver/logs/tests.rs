//! Two daemons on loopback, whose executors say what the test wants them to.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use super::*;
use crate::{
    agent::{TaskOrder, TaskReport},
    api::{
        InitRequest, JoinRequest, Request, Response, ServiceMode, ServiceSpec, TaskInfo, TaskSpec,
        TaskState,
    },
    driver::{Daemon, Executor, InProcess, Options, Reports, store::Identity},
};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs tasks that only speak: two lines with the name of their node, and what was asked for.
struct Speaks(&'static str);

impl Executor for Speaks {
    fn start(&self, order: TaskOrder, reports: Reports) {
        let report = TaskReport {
            task: order.task,
            state: TaskState::Running,
            message: String::new(),
            exit_code: None,
        };
        tokio::spawn(async move { reports.send(report).await });
    }

    fn stop(&self, task: TaskId, _grace: Duration, reports: Reports) {
        let report = TaskReport {
            task,
            state: TaskState::Shutdown,
            message: String::new(),
            exit_code: None,
        };
        tokio::spawn(async move { reports.send(report).await });
    }

    fn logs(&self, task: TaskId, options: LogOptions, sink: LogSink) {
        let name = self.0;
        tokio::spawn(async move {
            if task == UNKNOWN {
                let error = api::Error::new(ErrorKind::NotFound, "no such task");
                return sink.refuse(error).await;
            }
            for text in [format!("{name} speaks"), format!("{options:?}")] {
                let at_unix_ms = Some(7);
                let text = text.into_bytes();
                sink.line(LogLine { at_unix_ms, text }).await.unwrap();
            }
            if options.follow {
                sink.closed().await;
            }
        });
    }
}

const UNKNOWN: TaskId = TaskId::from_bytes([9; 16]);

struct Lab {
    daemons: Vec<(Daemon, PathBuf, IpAddr)>,
    tasks: Vec<TaskInfo>,
}

impl Lab {
    /// A manager and a worker, each with a task.
    async fn start(number: u8) -> Self {
        let mut lab = Self {
            daemons: Vec::new(),
            tasks: Vec::new(),
        };
        for (index, name) in ["host1", "host2"].into_iter().enumerate() {
            let address = IpAddr::from([127, 92, number, u8::try_from(index + 1).unwrap()]);
            let folder = format!("overlay-logs-{number}-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            let mut options = Options::new(name, &folder);
            (options.advertise, options.listen) = (Some(address), address);
            let executor = Arc::new(Speaks(name));
            let daemon = Daemon::start_with(options, InProcess::new(), executor).await;
            lab.daemons.push((daemon.unwrap(), folder, address));
        }
        let made = lab.ask(0, Request::Init(InitRequest::default())).await;
        let Response::Joined(made) = made else {
            panic!("{made:?}")
        };
        let token = made.worker_token.unwrap();
        let join = JoinRequest {
            token: token.token,
            remote: token.remote,
            advertise: None,
        };
        lab.ask(1, Request::Join(join)).await;
        let spec = ServiceSpec {
            name: "web".into(),
            mode: ServiceMode::Global,
            task: TaskSpec {
                command: vec!["speak".into()],
                ..TaskSpec::default()
            },
            ..ServiceSpec::default()
        };
        lab.ask(0, Request::ServiceCreate(Box::new(spec))).await;
        let run = async {
            loop {
                let list = Request::TaskList {
                    service: None,
                    node: None,
                };
                let Response::Tasks(tasks) = lab.ask(0, list).await else {
                    panic!()
                };
                let running = |task: &&TaskInfo| task.status.state == TaskState::Running;
                if tasks.iter().filter(running).count() == 2 {
                    return tasks;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut tasks = timeout(LIMIT, run).await.expect("two tasks that run");
        tasks.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        lab.tasks = tasks;
        lab
    }

    async fn ask(&self, host: usize, request: Request) -> Response {
        let handle = self.daemons[host].0.handle();
        handle.request(request).await.unwrap()
    }

    async fn logs(&self, host: usize, task: TaskId, options: LogOptions) -> Logs {
        let handle = self.daemons[host].0.handle();
        handle.logs(task, options).await.unwrap()
    }

    fn credentials(&self, host: usize) -> watch::Receiver<Sides> {
        let identity = Identity::of_running(&self.daemons[host].1);
        watch::channel(Sides::new(&identity.credentials).unwrap()).1
    }

    async fn stop(self) {
        for (daemon, folder, _) in self.daemons {
            daemon.handle().shutdown().await;
            daemon.stopped().await.unwrap();
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}

async fn all(mut logs: Logs) -> Result<Vec<String>, api::Error> {
    let mut lines = Vec::new();
    let read = async {
        while let Some(line) = logs.next().await {
            lines.push(String::from_utf8(line?.text).unwrap());
        }
        Ok(lines)
    };
    timeout(LIMIT, read).await.expect("an end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_reads_what_tasks_of_other_nodes_have_written() {
    let lab = Lab::start(1).await;
    let options = LogOptions {
        tail: Some(3),
        since_unix_ms: Some(5),
        follow: false,
    };
    for (task, name) in [(0, "host1"), (1, "host2")] {
        let read = lab.logs(0, lab.tasks[task].id, options).await;
        let expected = [format!("{name} speaks"), format!("{options:?}")];
        assert_eq!(all(read).await.unwrap(), expected);
    }
    // Whoever follows hears of the death of the other node, and gets everything up to there.
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut read = lab.logs(0, lab.tasks[1].id, follow).await;
    for _ in 0..2 {
        timeout(LIMIT, read.next()).await.unwrap().unwrap().unwrap();
    }
    let idle = timeout(Duration::from_millis(300), read.next()).await;
    assert!(idle.is_err(), "{idle:?}");
    let (worker, ..) = &lab.daemons[1];
    worker.handle().shutdown().await;
    let error = all(read).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("host2 (127.92.1.2:2377)"), "{error}");
    let error = all(lab.logs(0, lab.tasks[1].id, options).await)
        .await
        .unwrap_err();
    assert!(error.message.contains("TCP port 2377 is open"), "{error}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_reads_its_own_alone_whatever_it_asks() {
    let lab = Lab::start(2).await;
    let own = lab.logs(1, lab.tasks[1].id, LogOptions::default()).await;
    assert_eq!(all(own).await.unwrap()[0], "host2 speaks");
    let other = lab.logs(1, UNKNOWN, LogOptions::default()).await;
    let error = all(other).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotManager);
    assert!(error.message.contains("ask a manager"), "{error}");
    let missing = lab.logs(0, UNKNOWN, LogOptions::default()).await;
    let error = all(missing).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);

    // A worker that asks the other node by itself, past its daemon.
    let Response::Info(info) = lab.ask(0, Request::Info).await else {
        panic!()
    };
    let place = |host: usize, role| Place {
        node: lab.tasks[host].node.unwrap(),
        role,
        hostname: "it".into(),
        management: (lab.daemons[host].2, 2377).into(),
    };
    assert_eq!(place(0, Role::Manager).node, info.node.unwrap());
    let ask = |host: usize| LogAsk {
        task: lab.tasks[host].id,
        options: LogOptions::default(),
    };
    let room = Room::new();
    let worker = lab.credentials(1);
    let stolen = fetch(place(0, Role::Manager), ask(0), worker.clone(), &room).unwrap();
    assert_eq!(all(stolen).await.unwrap_err().kind, ErrorKind::Forbidden);
    let manager = lab.credentials(0);
    let asked = fetch(place(1, Role::Worker), ask(1), manager.clone(), &room).unwrap();
    assert_eq!(all(asked).await.unwrap()[0], "host2 speaks");
    // Another node at the address, or one with another role, is asked nothing.
    let mut wrong = place(1, Role::Worker);
    wrong.node = info.node.unwrap();
    let error = all(fetch(wrong, ask(1), manager.clone(), &room).unwrap())
        .await
        .unwrap_err();
    assert!(error.message.contains("another node"), "{error}");
    lab.stop().await;
}

#[tokio::test]
async fn there_is_room_for_so_many_and_no_more() {
    let room = Room::new();
    let all: Vec<_> = (0..STREAMS_MAX).map(|_| room.take().unwrap()).collect();
    let error = room.take().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Limit);
    drop(all);
    assert!(room.take().is_ok());
}

#[tokio::test]
async fn frames_are_bounded_before_they_are_read() {
    let mut frame = wire::encode_body(KIND, &LogFrame::Idle);
    let read: LogFrame = receive(&mut frame.as_slice()).await.unwrap();
    assert_eq!(read, LogFrame::Idle);
    let long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    frame[2..6].copy_from_slice(&long.to_be_bytes());
    let error = receive::<LogFrame>(&mut frame.as_slice()).await;
    assert!(error.unwrap_err().to_string().contains("larger than"));
    let line = LogLine {
        at_unix_ms: Some(u64::MAX),
        text: vec![b'x'; LogLine::LINE_BYTES_MAX],
    };
    let frame = wire::encode_body(KIND, &LogFrame::Line(line));
    assert!(frame.len() - wire::HEADER_BYTES <= FRAME_BYTES_MAX);
}

#[tokio::test]
async fn lines_that_nobody_reads_are_not_heaped_up() {
    let (sink, mut logs) = logs();
    let line = |text: Vec<u8>| LogLine {
        at_unix_ms: None,
        text,
    };
    for _ in 0..LINES_MAX {
        sink.line(line(vec![b'x'; LogLine::LINE_BYTES_MAX + 1]))
            .await
            .unwrap();
    }
    let more = timeout(Duration::from_millis(50), sink.line(line(Vec::new()))).await;
    assert!(more.is_err(), "one line more than there is room for");
    let first = logs.next().await.unwrap().unwrap();
    assert_eq!(first.text.len(), LogLine::LINE_BYTES_MAX);
    drop(logs);
    assert_eq!(sink.line(line(Vec::new())).await, Err(LogClosed));
}
