//! `logs` against daemons that answer as the test says: which outputs are asked for, and what is printed.

use std::process::Command as Process;

use overlay_core::TaskId;

use super::*;
use crate::{
    api::TaskState,
    cli::tests::services::task,
    wire::{LOGS_PATH, LogItem, LogsOf, LogsRequest},
};

/// What a daemon has.
#[derive(Clone, Default)]
struct Has {
    /// The tasks of the cluster; `None` on a worker.
    tasks: Option<Vec<crate::api::TaskInfo>>,
    /// The tasks of this node.
    here: Vec<crate::wire::TaskProgram>,
}

fn line(at: u64, text: &str) -> LogItem {
    let (at_unix_ms, text) = (Some(at), text.to_owned());
    LogItem::Line { at_unix_ms, text }
}

/// Tasks whose identities begin with 1 and 2 have written something, and 3 is on a node that does not answer.
fn written(of: &LogsOf) -> Result<Vec<LogItem>, Error> {
    let id = match of {
        LogsOf::Program(name) if name == "alpine1" => return Ok(vec![line(1, "hi")]),
        LogsOf::Program(_) => return Err(Error::new(ErrorKind::NotFound, "no such program")),
        LogsOf::Task(id) => id,
    };
    let refused = |kind, text: &str| LogItem::Refused(Error::new(kind, text).into());
    Ok(match id.as_bytes()[0] {
        1 => vec![line(1_000, "a"), line(3_000, "c")],
        2 => vec![line(2_000, "b")],
        3 => vec![refused(ErrorKind::Unavailable, "host3 does not answer")],
        _ => vec![refused(ErrorKind::NotFound, "no such task")],
    })
}

/// A daemon that has this.
fn daemon(has: Has, log: Arc<Mutex<Vec<LogsRequest>>>) -> Router {
    let refused = |error: Error| (StatusCode::CONFLICT, Json(json!(error)));
    let cluster = has.tasks.clone();
    let request = post(async move |Json(request): Json<Request>| {
        let Request::TaskList { service, .. } = request else {
            return (
                StatusCode::OK,
                Json(answer(Response::Info(Box::new(info())))),
            );
        };
        let Some(mut tasks) = cluster.clone() else {
            return refused(Error::new(ErrorKind::NotManager, "this is a worker"));
        };
        match service {
            Some(name) if name != "web" => refused(Error::new(ErrorKind::NotFound, "no service")),
            service => {
                tasks.retain(|_| service.is_none() || service.as_deref() == Some("web"));
                (StatusCode::OK, Json(answer(Response::Tasks(tasks))))
            }
        }
    });
    let programs =
        post(async move || Json(serde_json::to_value(ProgramResponse::Tasks(has.here)).unwrap()));
    let logs = post(async move |Json(request): Json<LogsRequest>| {
        let items = written(&request.of);
        log.lock().unwrap().push(request);
        match items {
            Ok(items) => {
                let lines = items
                    .iter()
                    .map(|item| serde_json::to_string(item).unwrap() + "\n");
                (StatusCode::OK, lines.collect::<String>())
            }
            Err(error) => (StatusCode::NOT_FOUND, json!(error).to_string()),
        }
    });
    Router::new()
        .route(REQUEST_PATH, request)
        .route(PROGRAMS_PATH, programs)
        .route(LOGS_PATH, logs)
}

/// Runs the command line against a daemon; what it prints goes to a process of its own, for it is printed at once.
async fn run_logs(words: &str, has: Has) -> (String, String, i32, Vec<LogsRequest>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("overlay-cli-logs-{}-{number}", std::process::id());
    let socket: PathBuf = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&socket).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let router = daemon(has, Arc::clone(&asked));
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let (words, path) = (words.to_owned(), socket.clone());
    let output = tokio::task::spawn_blocking(move || {
        // This very test binary is not the program: the words are carried out by a test below, which prints.
        Process::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "cli::tests::outputs::carried_out",
                "--nocapture",
                "--include-ignored",
            ])
            .env("OVERLAY_TEST_WORDS", words)
            .env("OVERLAY_TEST_SOCKET", path)
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    serving.abort();
    fs::remove_file(&socket).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, text) = text
        .split_once("BEGIN\n")
        .unwrap_or_else(|| panic!("{text}{said}"));
    let (text, code) = text.split_once("END ").unwrap();
    let code = code.split_whitespace().next().unwrap().parse().unwrap();
    let asked = asked.lock().unwrap().clone();
    (text.to_owned(), said, code, asked)
}

#[tokio::test]
#[ignore = "carries out what the other tests in this file want to see printed"]
async fn carried_out() {
    let Ok(words) = std::env::var("OVERLAY_TEST_WORDS") else {
        return;
    };
    let socket = std::env::var("OVERLAY_TEST_SOCKET").unwrap();
    let words = std::iter::once("overlay").chain(words.split_whitespace());
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
    let Command::Ask(command) = cli.command else {
        panic!()
    };
    println!("BEGIN");
    let report = ask(&Client::new(socket), command).await;
    let report = report.unwrap_or_else(|failure| Report {
        failures: vec![failure],
        ..Report::default()
    });
    let code = report.failures.iter().map(|failure| failure.code).max();
    let code = report.code.max(code.unwrap_or_default());
    report.finish();
    println!("END {code}");
}

fn running(octet: u8, slot: u32) -> crate::api::TaskInfo {
    let mut task = task(octet, slot, TaskState::Running);
    (task.node, task.hostname) = (Some(node_id(octet)), format!("host{octet}"));
    task
}

fn cluster(octets: &[u8]) -> Has {
    let tasks = octets
        .iter()
        .map(|octet| running(*octet, u32::from(*octet)));
    Has {
        tasks: Some(tasks.collect()),
        ..Has::default()
    }
}

fn id(octet: u8) -> TaskId {
    TaskId::from_bytes([octet; 16])
}

#[tokio::test]
async fn lines_of_all_tasks_come_in_the_order_of_their_times_behind_their_names() {
    let (text, said, code, asked) = run_logs("service logs --tail 7 web", cluster(&[1, 2])).await;
    let (one, two) = (id(1).short(), id(2).short());
    let expected =
        format!("web.1.{one}@host1    | a\nweb.2.{two}@host2    | b\nweb.1.{one}@host1    | c\n");
    assert_eq!((text, said.as_str(), code), (expected, "", 0));
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (asked[0].options.tail, asked[0].options.follow),
        (Some(7), false)
    );
}

#[tokio::test]
async fn prefixes_are_as_the_options_say() {
    let first = async |options: &str| {
        let (text, ..) = run_logs(&format!("service logs {options} web"), cluster(&[1])).await;
        text.lines().next().unwrap().to_owned()
    };
    let (task, service) = (id(1), overlay_core::ServiceId::from_bytes([7; 16]));
    assert_eq!(first("--raw").await, "a");
    assert_eq!(first("--no-task-ids").await, "web.1@host1    | a");
    assert_eq!(
        first("--no-trunc").await,
        format!("web.1.{task}@host1    | a")
    );
    let expected = format!("{}.1@{}    | a", service.short(), node_id(1).short());
    assert_eq!(first("--no-resolve --no-task-ids").await, expected);
    let timed = first("-t --raw").await;
    assert_eq!(timed, "1970-01-01T00:00:01.000Z a");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named_and_the_rest_goes_on() {
    let (text, said, code, _) = run_logs("service logs --raw web", cluster(&[3, 1])).await;
    assert_eq!((text.as_str(), code), ("a\nc\n", 1));
    assert_eq!(said, "overlay: host3 does not answer\n");
}

#[tokio::test]
async fn one_task_is_found_by_its_name_or_identity_and_followed_to_its_end() {
    let whole = id(2).to_string();
    for name in ["web.2", &whole, &whole[..9], &format!("web.2.{whole}")] {
        let words = format!("service logs --raw --follow {name}");
        let (text, said, code, asked) = run_logs(&words, cluster(&[1, 2])).await;
        assert_eq!(
            (text.as_str(), said.as_str(), code),
            ("b\n", "", 0),
            "{name}"
        );
        assert_eq!(asked[0].of, LogsOf::Task(id(2)));
        assert!(asked[0].options.follow);
    }
    let (_, said, code, _) = run_logs("service logs nothing", cluster(&[1])).await;
    assert!(said.contains("no such service or task: nothing"), "{said}");
    assert_eq!(code, 1);
}

#[tokio::test]
async fn a_worker_shows_its_own_tasks_and_says_who_knows_the_others() {
    let here = |octet: u8| Has {
        here: vec![crate::wire::TaskProgram {
            id: id(octet),
            name: "web.1".into(),
            service: "web".into(),
            running: true,
        }],
        tasks: None,
    };
    let (text, said, code, _) = run_logs("service logs web", here(1)).await;
    assert!(
        text.starts_with("web.1.") && text.contains("@host1    | a"),
        "{text}"
    );
    assert!(said.contains("ask a manager"), "{said}");
    assert_eq!(code, 0);
    let (text, said, code, _) = run_logs("service logs other", here(1)).await;
    assert!(said.contains("ask a manager") && text.is_empty(), "{said}");
    assert_eq!(code, 1);
}

#[tokio::test]
async fn logs_are_those_of_a_program_and_failing_that_of_a_service() {
    let (text, _, code, asked) = run_logs("logs -n 3 alpine1", cluster(&[1])).await;
    assert_eq!((text.as_str(), code, asked.len()), ("hi\n", 0, 1));
    let (text, ..) = run_logs("logs web", cluster(&[2])).await;
    assert!(text.contains("web.2.") && text.ends_with("| b\n"), "{text}");
    let (_, said, code, _) = run_logs("logs nothing", cluster(&[])).await;
    assert_eq!((said.as_str(), code), ("overlay: no such program\n", 1));
}
