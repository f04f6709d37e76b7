//! The local API over a real socket, with real processes, on a node and holders that are the test's own.

pub(super) mod fakes;
mod networks;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{io::AsyncWriteExt as _, net::UnixListener};

use super::{programs::Programs, serve, tasks::Tasks};
use crate::{
    api::{ErrorKind, NetworkChoice, Request, Response},
    client::{Client, ClientError, Launched},
    wire::{
        ExecRequest, Frame, FrameReader, ProgramInfo, ProgramRequest, ProgramResponse,
        ProgramState, RunRequest, Stdio, encode,
    },
};
use fakes::{FakeHolders, FakeNode};

const LIMIT: Duration = Duration::from_secs(20);

/// A daemon's insides behind a socket, in a folder that is removed at the end.
struct Fixture {
    folder: PathBuf,
    node: Arc<FakeNode>,
    holders: Arc<FakeHolders>,
    programs: Programs,
    client: Client,
}

impl Fixture {
    async fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("overlay-test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let (node, holders) = (
            Arc::new(FakeNode::default()),
            Arc::new(FakeHolders::default()),
        );
        Self::over(folder, node, holders).await
    }

    async fn over(folder: PathBuf, node: Arc<FakeNode>, holders: Arc<FakeHolders>) -> Self {
        let records = folder.join("programs");
        let programs = Programs::open(&records, node.clone(), holders.clone()).unwrap();
        programs.recover().await;
        let socket = folder.join("socket");
        drop(fs::remove_file(&socket));
        let listener = UnixListener::bind(&socket).unwrap();
        let tasks = Tasks::open(&folder.join("tasks"), holders.clone()).unwrap();
        let router = serve::router(node.clone(), programs.clone(), tasks);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            folder,
            node,
            holders,
            programs,
            client: Client::new(socket),
        }
    }

    /// Another life over the same folder; the old one stays and is asked nothing more.
    async fn restart(&self) -> Self {
        Self::over(self.folder.clone(), self.node.clone(), self.holders.clone()).await
    }

    async fn list(&self) -> Vec<ProgramInfo> {
        match self.ask(ProgramRequest::List { all: true }).await.unwrap() {
            ProgramResponse::Programs(programs) => programs,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&self, request: ProgramRequest) -> Result<ProgramResponse, (ErrorKind, String)> {
        self.client.programs(&request).await.map_err(refusal)
    }

    async fn until<T>(&self, what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
        let found = tokio::time::timeout(LIMIT, async {
            loop {
                if let Some(found) = check().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("{what} did not happen"))
    }

    fn records(&self) -> usize {
        count(&self.folder.join("programs"))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.holders.give_up();
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn refusal(error: ClientError) -> (ErrorKind, String) {
    match error {
        ClientError::Refused(refusal) => (refusal.error.kind, refusal.error.message),
        other => panic!("{other}"),
    }
}

fn shell(name: &str, script: &str, stdio: Stdio) -> RunRequest {
    RunRequest {
        name: Some(name.to_owned()),
        networks: vec![on("my-net")],
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        environment: Vec::new(),
        directory: None,
        stdio,
        remove: false,
    }
}

fn on(network: &str) -> NetworkChoice {
    NetworkChoice {
        network: network.to_owned(),
        ..NetworkChoice::default()
    }
}

fn beside(program: &str, script: &str) -> ExecRequest {
    ExecRequest {
        program: program.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        environment: vec!["GREETING=hello".to_owned()],
        directory: None,
        stdio: Stdio::Pipes { stdin: true },
    }
}

/// What came over a stream: standard output, standard error, exit code.
async fn talk(launched: Launched, input: &[u8]) -> (String, String, i32) {
    let Launched::Attached(connection) = launched else {
        panic!("{launched:?}")
    };
    let (reader, mut writer) = tokio::io::split(connection);
    let mut frames = BytesMut::new();
    if !input.is_empty() {
        encode(&Frame::Stdin(Bytes::copy_from_slice(input)), &mut frames);
    }
    encode(&Frame::Stdin(Bytes::new()), &mut frames);
    let sending = tokio::spawn(async move {
        drop(writer.write_all(&frames).await);
        writer
    });
    let (mut out, mut err, mut reader) = (Vec::new(), Vec::new(), FrameReader::new(reader));
    let code = loop {
        match tokio::time::timeout(LIMIT, reader.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
        {
            Frame::Stdout(data) => out.extend_from_slice(&data),
            Frame::Stderr(data) => err.extend_from_slice(&data),
            Frame::Exit(code) => break code,
            other => panic!("{other:?}"),
        }
    };
    sending.abort();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
        code,
    )
}

#[tokio::test]
async fn a_program_runs_is_listed_stopped_and_removed() {
    let fixture = Fixture::start().await;
    let launched = fixture
        .client
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await;
    let Ok(Launched::Detached(started)) = launched else {
        panic!("{launched:?}")
    };
    let [program] = fixture.list().await.try_into().unwrap();
    assert_eq!((program.id, program.name.as_str()), (started.id, "web"));
    assert!(
        matches!(program.state, ProgramState::Running { .. }),
        "{program:?}"
    );
    assert_eq!(program.addresses, ["10.0.1.2/24".parse().unwrap()]);

    let remove = |force| ProgramRequest::Remove {
        program: "web".into(),
        force,
    };
    let (kind, message) = fixture.ask(remove(false)).await.unwrap_err();
    assert_eq!(kind, ErrorKind::InUse, "{message}");
    let detach = Request::Detach {
        endpoint: "web".into(),
    };
    let (kind, message) = fixture
        .client
        .request(&detach)
        .await
        .map_err(refusal)
        .unwrap_err();
    assert_eq!(kind, ErrorKind::InUse, "{message}");

    let stop = ProgramRequest::Stop {
        program: started.id.short(),
        timeout_seconds: 10,
    };
    assert_eq!(fixture.ask(stop.clone()).await, Ok(ProgramResponse::Done));
    let [program] = fixture.list().await.try_into().unwrap();
    assert!(
        matches!(program.state, ProgramState::Exited { code: 143, .. }),
        "{program:?}"
    );
    assert_eq!(
        fixture.node.attached(),
        0,
        "the address is given back with the end"
    );
    assert_eq!(
        fixture.ask(stop).await,
        Ok(ProgramResponse::Done),
        "stopping twice is fine"
    );

    assert_eq!(fixture.ask(remove(false)).await, Ok(ProgramResponse::Done));
    assert_eq!((fixture.list().await.len(), fixture.records()), (0, 0));
    let (kind, _) = fixture.ask(remove(false)).await.unwrap_err();
    assert_eq!(kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn streams_and_the_exit_code_of_a_foreground_program_reach_the_client() {
    let fixture = Fixture::start().await;
    let script = "cat; echo complaint >&2; exit 7";
    let run = shell("cat", script, Stdio::Pipes { stdin: true });
    let input = "0123456789".repeat(30_000);
    let (out, err, code) = talk(fixture.client.run(&run).await.unwrap(), input.as_bytes()).await;
    assert_eq!((out.len(), out == input), (input.len(), true));
    assert_eq!((err.as_str(), code), ("complaint\n", 7));
    let wait = ProgramRequest::Wait {
        program: "cat".into(),
    };
    assert_eq!(
        fixture.ask(wait).await,
        Ok(ProgramResponse::Exited { code: 7 })
    );
}

#[tokio::test]
async fn a_command_runs_beside_a_program_with_its_environment() {
    let fixture = Fixture::start().await;
    fixture
        .client
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await
        .unwrap();
    let exec = beside(
        "web",
        "echo $GREETING from $HOSTNAME; read line; echo got $line; exit 3",
    );
    let (out, err, code) = talk(fixture.client.exec(&exec).await.unwrap(), b"a line\n").await;
    assert_eq!(
        (out.as_str(), err.as_str(), code),
        ("hello from web\ngot a line\n", "", 3)
    );

    let missing = ExecRequest {
        command: vec!["no-such-command".into()],
        ..exec.clone()
    };
    let error = fixture.client.exec(&missing).await.unwrap_err();
    let ClientError::Refused(refused) = error else {
        panic!("{error}")
    };
    assert_eq!(refused.exit_code, Some(127), "{refused:?}");

    let (kind, _) = fixture
        .client
        .exec(&beside("nobody", "true"))
        .await
        .map_err(refusal)
        .unwrap_err();
    assert_eq!(kind, ErrorKind::NotFound);
    fixture
        .ask(ProgramRequest::Remove {
            program: "web".into(),
            force: true,
        })
        .await
        .unwrap();
    let (kind, _) = fixture
        .client
        .exec(&exec)
        .await
        .map_err(refusal)
        .unwrap_err();
    assert_eq!(kind, ErrorKind::NotFound, "forced removal leaves nothing");
    assert_eq!((fixture.node.attached(), fixture.records()), (0, 0));
}

#[tokio::test]
async fn a_command_whose_client_goes_away_is_ended_and_a_program_is_not() {
    let fixture = Fixture::start().await;
    let run = shell("web", "exec sleep 1000", Stdio::Pipes { stdin: false });
    drop(fixture.client.run(&run).await.unwrap());
    let exec = fixture
        .client
        .exec(&beside("web", "exec sleep 1000"))
        .await
        .unwrap();
    assert_eq!(fixture.holders.alive(), 2);
    drop(exec);
    fixture
        .until("the end of the command", async || {
            (fixture.holders.alive() == 1).then_some(())
        })
        .await;
    let [program] = fixture.list().await.try_into().unwrap();
    assert!(
        matches!(program.state, ProgramState::Running { .. }),
        "{program:?}"
    );
    fixture
        .ask(ProgramRequest::Remove {
            program: "web".into(),
            force: true,
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_failed_run_leaves_nothing_behind() {
    let fixture = Fixture::start().await;
    fixture.node.refuse_attach(ErrorKind::Exhausted);
    let run = shell("web", "true", Stdio::Detached);
    let (kind, _) = fixture.client.run(&run).await.map_err(refusal).unwrap_err();
    assert_eq!(kind, ErrorKind::Exhausted);
    assert_eq!((fixture.list().await.len(), fixture.records()), (0, 0));

    fixture.node.accept_attach();
    fixture.holders.refuse_start(true);
    let error = fixture.client.run(&run).await.unwrap_err();
    let ClientError::Refused(refused) = error else {
        panic!("{error}")
    };
    assert_eq!(refused.exit_code, Some(126), "{refused:?}");
    assert_eq!(
        (
            fixture.list().await.len(),
            fixture.records(),
            fixture.node.attached()
        ),
        (0, 0, 0)
    );

    fixture.holders.refuse_start(false);
    fixture
        .client
        .run(&shell("web", "exec sleep 1000", Stdio::Detached))
        .await
        .unwrap();
    let (kind, message) = fixture.client.run(&run).await.map_err(refusal).unwrap_err();
    assert_eq!(kind, ErrorKind::Conflict, "{message}");
    assert!(message.contains("overlay rm web"), "{message}");
    fixture
        .ask(ProgramRequest::Remove {
            program: "web".into(),
            force: true,
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_program_to_be_removed_is_forgotten_when_it_ends() {
    let fixture = Fixture::start().await;
    let run = RunRequest {
        remove: true,
        ..shell("once", "exit 5", Stdio::Pipes { stdin: false })
    };
    let (_, _, code) = talk(fixture.client.run(&run).await.unwrap(), b"").await;
    assert_eq!(code, 5);
    // The name is free again as soon as the client knows.
    assert_eq!(
        (
            fixture.list().await.len(),
            fixture.records(),
            fixture.node.attached()
        ),
        (0, 0, 0)
    );
    let (_, _, code) = talk(fixture.client.run(&run).await.unwrap(), b"").await;
    assert_eq!(code, 5);
}

#[tokio::test]
async fn a_restarted_daemon_finds_its_programs_and_the_ends_it_missed() {
    let fixture = Fixture::start().await;
    fixture
        .client
        .run(&shell("stays", "exec sleep 1000", Stdio::Detached))
        .await
        .unwrap();
    fixture
        .client
        .run(&shell(
            "ends",
            "read line; exit 9",
            Stdio::Pipes { stdin: true },
        ))
        .await
        .unwrap();
    let ends = fixture
        .list()
        .await
        .into_iter()
        .find(|program| program.name == "ends")
        .unwrap();
    // Its end is known to the holder alone.
    fixture.holders.lose_followers();
    fixture
        .until("its end", async || {
            (!fixture.holders.runs(ends.id)).then_some(())
        })
        .await;

    let restarted = fixture.restart().await;
    let states = restarted
        .until("the end that was missed", async || {
            let listed = restarted.list().await;
            let find = |name: &str| {
                listed
                    .iter()
                    .find(|program| program.name == name)
                    .unwrap()
                    .state
            };
            let ended = matches!(find("ends"), ProgramState::Exited { .. });
            (ended && fixture.node.attached() == 1).then(|| (find("stays"), find("ends")))
        })
        .await;
    assert!(
        matches!(states.0, ProgramState::Running { .. }),
        "{states:?}"
    );
    assert!(
        matches!(
            states.1,
            ProgramState::Exited {
                code: 9 | 1 | 129,
                ..
            }
        ),
        "{states:?}"
    );
    let stop = ProgramRequest::Stop {
        program: "stays".into(),
        timeout_seconds: 10,
    };
    assert_eq!(restarted.ask(stop).await, Ok(ProgramResponse::Done));
}

#[tokio::test]
async fn what_a_crash_left_half_done_is_undone_at_the_next_start() {
    let fixture = Fixture::start().await;
    // The crash comes between the attachment and the start.
    fixture.holders.never_start();
    let run = shell("half", "true", Stdio::Detached);
    let client = fixture.client.clone();
    tokio::spawn(async move { client.run(&run).await });
    fixture
        .until("the attachment", async || {
            (fixture.node.attached() == 1 && fixture.records() == 1).then_some(())
        })
        .await;
    // And an endpoint whose record was lost.
    fixture.node.attach_orphan();

    let restarted = fixture.restart().await;
    restarted
        .until("the undoing", async || {
            let left = (
                fixture.node.attached(),
                fixture.records(),
                restarted.list().await.len(),
            );
            (left == (0, 0, 0)).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_detachment_that_fails_is_tried_again() {
    let fixture = Fixture::start().await;
    fixture.node.refuse_detach(2);
    let run = RunRequest {
        remove: true,
        ..shell("once", "true", Stdio::Detached)
    };
    fixture.client.run(&run).await.unwrap();
    fixture
        .until("the removal", async || {
            (fixture.records() == 0).then_some(())
        })
        .await;
    assert_eq!(fixture.node.attached(), 0);
}

#[tokio::test]
async fn requests_go_to_the_node_and_refusals_come_back() {
    let fixture = Fixture::start().await;
    let listed = fixture
        .client
        .request(&Request::EndpointList)
        .await
        .unwrap();
    assert_eq!(listed, Response::Endpoints(Vec::new()));
    let (kind, message) = fixture
        .client
        .request(&Request::NodeList)
        .await
        .map_err(refusal)
        .unwrap_err();
    assert_eq!(
        (kind, message.as_str()),
        (ErrorKind::NotMember, "this node is not part of a cluster")
    );
    assert_eq!(fixture.programs.list(true).len(), 0);
}
