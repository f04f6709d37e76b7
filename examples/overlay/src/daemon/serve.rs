//! The local API: HTTP with JSON over a unix socket.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes, HttpBody},
    extract::{FromRequest as _, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use hyper::{body::Frame, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use overlay_node::driver::Captured;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    logs::Lines,
    node::Node,
    programs::{Attached, Programs},
    stream,
    tasks::Tasks,
};
use crate::{
    api,
    wire::{
        CAPTURE_PATH, DIAGNOSE_PATH, EXEC_PATH, ExecRequest, LOGS_PATH, LOOKUP_PATH, LogsOf,
        LogsRequest, PLAN_PATH, PROGRAMS_PATH, ProgramRequest, ProgramResponse, REQUEST_PATH,
        RUN_PATH, Refusal, RunRequest, Started, Stdio, UPGRADE_PROTOCOL,
    },
};

/// What the handlers share.
#[derive(Clone)]
struct Server {
    node: Arc<dyn Node>,
    programs: Programs,
    tasks: Tasks,
}

/// Makes the routes of the local API.
pub(crate) fn router(node: Arc<dyn Node>, programs: Programs, tasks: Tasks) -> Router {
    Router::new()
        .route(REQUEST_PATH, post(request))
        .route(PROGRAMS_PATH, post(programs_request))
        .route(LOGS_PATH, post(logs))
        .route(CAPTURE_PATH, post(capture))
        .route(PLAN_PATH, post(plan))
        .route(DIAGNOSE_PATH, post(diagnose))
        .route(LOOKUP_PATH, post(lookup))
        .route(RUN_PATH, post(run))
        .route(EXEC_PATH, post(exec))
        .fallback(unknown)
        .with_state(Server {
            node,
            programs,
            tasks,
        })
}

type Answer = Result<Response, Rejection>;

async fn request(State(server): State<Server>, body: Bytes) -> Answer {
    let request: api::Request = parse(&body)?;
    if let api::Request::Detach { endpoint } = &request
        && server.programs.owns(endpoint)
    {
        let message = format!(
            "{endpoint} is the endpoint of a program: end the program with `overlay stop` or `overlay rm` instead"
        );
        return Err(api::Error::new(api::ErrorKind::InUse, message).into());
    }
    // A client that goes away does not leave a request half done.
    let answer = tokio::spawn(async move { server.node.request(request).await });
    Ok(Json(finished(answer).await??).into_response())
}

async fn programs_request(State(server): State<Server>, body: Bytes) -> Answer {
    let request: ProgramRequest = parse(&body)?;
    let Server {
        programs, tasks, ..
    } = server;
    let answer = tokio::spawn(async move {
        match request {
            ProgramRequest::List { all } => Ok(ProgramResponse::Programs(programs.list(all))),
            ProgramRequest::Stop {
                program,
                timeout_seconds,
            } => {
                let grace = Duration::from_secs(timeout_seconds.into());
                programs
                    .stop(&program, grace)
                    .await
                    .map(|()| ProgramResponse::Done)
            }
            ProgramRequest::Remove { program, force } => programs
                .remove(&program, force)
                .await
                .map(|()| ProgramResponse::Done),
            ProgramRequest::Wait { program } => programs
                .wait(&program)
                .await
                .map(|code| ProgramResponse::Exited { code }),
            ProgramRequest::Connect { program, network } => {
                is_no_task(&programs, &tasks, &program)?;
                let connected = programs.connect(&program, network).await;
                connected.map(|()| ProgramResponse::Done)
            }
            ProgramRequest::Disconnect {
                program,
                network,
                force,
            } => {
                is_no_task(&programs, &tasks, &program)?;
                let disconnected = programs.disconnect(&program, &network, force).await;
                disconnected.map(|()| ProgramResponse::Done)
            }
            ProgramRequest::Tasks => Ok(ProgramResponse::Tasks(tasks.list())),
        }
    });
    Ok(Json(finished(answer).await??).into_response())
}

/// Refuses what is for programs alone, and says what to do instead.
fn is_no_task(programs: &Programs, tasks: &Tasks, reference: &str) -> Result<(), api::Error> {
    match tasks.service_of(reference) {
        // Programs come first: their names were chosen by hand.
        Some(service) if !programs.knows(reference) => {
            let message = format!(
                "{reference} is a task of service {service}, and has the networks of its service: change them with `overlay service update --network-add` or `--network-rm`"
            );
            Err(api::Error::new(api::ErrorKind::Forbidden, message))
        }
        _ => Ok(()),
    }
}

async fn logs(State(server): State<Server>, body: Bytes) -> Answer {
    let LogsRequest { of, options } = parse(&body)?;
    let logs = match of {
        LogsOf::Task(task) => server.node.logs(task, options).await?,
        LogsOf::Program(name) => {
            let output = match server.programs.output(&name) {
                // Programs come first: their names were chosen by hand.
                Err(error) if error.kind == api::ErrorKind::NotFound => server.tasks.output(&name),
                output => output,
            };
            let (output, (sink, logs)) = (output?, overlay_node::driver::logs());
            tokio::spawn(output.send(options, sink));
            logs
        }
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::new(Lines(logs))).into_response())
}

async fn capture(State(server): State<Server>, body: Bytes) -> Answer {
    let captured = server.node.capture(parse(&body)?).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-pcapng")];
    Ok((kind, Body::new(Pieces(captured))).into_response())
}

async fn plan(State(server): State<Server>) -> Answer {
    let changes = server.node.plan().await?;
    let lines: Vec<_> = changes.iter().map(ToString::to_string).collect();
    Ok(Json(lines).into_response())
}

async fn diagnose(State(server): State<Server>) -> Answer {
    Ok(Json(server.node.diagnose().await?).into_response())
}

async fn lookup(State(server): State<Server>, body: Bytes) -> Answer {
    let found = server.node.lookup(parse(&body)?).await?;
    Ok(Json(found).into_response())
}

/// A capture as the body of an answer.
struct Pieces(Captured);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.get_mut().0.poll_next(context);
        piece.map(|piece| piece.map(|octets| Ok(Frame::data(octets.into()))))
    }
}

async fn run(State(server): State<Server>, request: Request) -> Answer {
    let (run, upgrade) = split::<RunRequest>(request, |run| run.stdio).await?;
    let programs = server.programs.clone();
    let answer = tokio::spawn(async move {
        let attached = programs.run(run).await?;
        Ok(launched(programs, attached, upgrade))
    });
    finished(answer).await?.map_err(Rejection)
}

async fn exec(State(server): State<Server>, request: Request) -> Answer {
    let (exec, upgrade) = split::<ExecRequest>(request, |exec| exec.stdio).await?;
    let programs = server.programs.clone();
    let answer = tokio::spawn(async move {
        let attached = match server.tasks.locate(&exec.program) {
            // Programs come first: their names were chosen by hand.
            Ok((endpoint, name)) if !server.programs.knows(&exec.program) => {
                programs.exec_in(endpoint, &name, exec).await?
            }
            _ => programs.exec(exec).await?,
        };
        Ok(launched(programs, attached, upgrade))
    });
    finished(answer).await?.map_err(Rejection)
}

async fn unknown(request: Request) -> Rejection {
    let message = format!(
        "there is no {} {}: client and daemon are of different versions",
        request.method(),
        request.uri().path()
    );
    api::Error::new(api::ErrorKind::NotFound, message).into()
}

/// Answers with a launched program: its identity, or an upgrade to its streams.
fn launched(programs: Programs, attached: Attached, upgrade: Option<OnUpgrade>) -> Response {
    let Some(upgrade) = upgrade else {
        let started = Json(Started { id: attached.id }).into_response();
        programs.let_run(attached);
        return started;
    };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => {
                stream::carry(TokioIo::new(connection), programs, attached).await;
            }
            Err(error) => {
                tracing::debug!(%error, "a client went away before its stream began");
                stream::carry(tokio::io::empty(), programs, attached).await;
            }
        }
    });
    let headers = [
        (header::CONNECTION, "upgrade"),
        (header::UPGRADE, UPGRADE_PROTOCOL),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

/// Reads the body of a request that may become a stream, and what it will be upgraded by.
async fn split<T: DeserializeOwned>(
    mut request: Request,
    stdio: impl FnOnce(&T) -> Stdio,
) -> Result<(T, Option<OnUpgrade>), Rejection> {
    let asked = request.headers().get(header::UPGRADE);
    let asked = asked.is_some_and(|protocol| protocol.as_bytes() == UPGRADE_PROTOCOL.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|error| invalid(&error))?;
    let parsed: T = parse(&body)?;
    match (stdio(&parsed), asked) {
        (Stdio::Detached, _) => Ok((parsed, None)),
        (Stdio::Pipes { .. } | Stdio::Terminal { .. }, true) => Ok((parsed, Some(upgrade))),
        (Stdio::Pipes { .. } | Stdio::Terminal { .. }, false) => {
            let message =
                format!("streams need `upgrade: {UPGRADE_PROTOCOL}` in the request's headers");
            Err(api::Error::new(api::ErrorKind::Invalid, message).into())
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Rejection> {
    serde_json::from_slice(body).map_err(|error| invalid(&error))
}

fn invalid(error: &dyn std::fmt::Display) -> Rejection {
    let message = format!(
        "the request cannot be read: {error}; client and daemon may be of different versions"
    );
    api::Error::new(api::ErrorKind::Invalid, message).into()
}

async fn finished<T>(task: tokio::task::JoinHandle<T>) -> Result<T, Rejection> {
    task.await.map_err(|error| {
        let message = format!("the daemon failed at this request: {error}; see its log");
        api::Error::new(api::ErrorKind::Platform, message).into()
    })
}

/// A refusal as an answer.
struct Rejection(Refusal);

impl<T: Into<Refusal>> From<T> for Rejection {
    fn from(refusal: T) -> Self {
        Self(refusal.into())
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        use api::ErrorKind;
        let status = match self.0.error.kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Invalid | ErrorKind::Ambiguous => StatusCode::BAD_REQUEST,
            ErrorKind::Forbidden | ErrorKind::Untrusted => StatusCode::FORBIDDEN,
            ErrorKind::Platform | ErrorKind::Storage => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        (status, Json(self.0)).into_response()
    }
}
