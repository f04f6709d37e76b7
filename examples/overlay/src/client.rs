//! Asks a daemon through its unix socket: HTTP with JSON, and upgraded connections for interactive streams.

use std::{io, path::PathBuf};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request as HttpRequest, StatusCode, header, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use overlay_node::{
    driver::{CaptureOptions, Finding, LookupOptions},
    plane::Found,
};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::{
    api::{Request, Response},
    cli::complain,
    wire::{
        CAPTURE_PATH, DIAGNOSE_PATH, EXEC_PATH, ExecRequest, LOGS_PATH, LOOKUP_PATH, LogItem,
        LogsRequest, PLAN_PATH, PROGRAMS_PATH, ProgramRequest, ProgramResponse, REQUEST_PATH,
        RUN_PATH, Refusal, RunRequest, Started, UPGRADE_PROTOCOL,
    },
};

/// Asks one daemon. Each question takes a connection of its own.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// What became of a run or an exec.
#[derive(Debug)]
pub(crate) enum Launched {
    /// It runs on its own.
    Detached(Started),
    /// Its streams are here, in frames.
    Attached(TokioIo<Upgraded>),
}

/// No answer, or a refusal.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// Nobody listens at the socket, or it may not be used.
    #[error(
        "cannot connect to the overlay daemon at {}: {source}; {}",
        socket.display(),
        advice(source)
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{}", .0.error)]
    Refused(Box<Refusal>),
    /// The connection failed in the middle, or what came was not what was asked for.
    #[error("the overlay daemon at {} gave no proper answer: {reason}; see its log", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "you may not use its socket: become the user who started it, or join its group"
        }
        _ => {
            "is it running? start it with `overlay daemon`, or name its socket with --socket or OVERLAY_SOCKET"
        }
    }
}

/// What a program or task has written, as it comes.
#[derive(Debug)]
pub(crate) struct LogLines {
    client: Client,
    body: hyper::body::Incoming,
    buffer: BytesMut,
}

/// A capture, as it comes.
#[derive(Debug)]
pub(crate) struct Captured {
    client: Client,
    body: hyper::body::Incoming,
}

impl Captured {
    /// Returns the next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

impl LogLines {
    /// Returns the next line: when it was written, and what; `None` at the end. Dropping a pending call loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<(Option<u64>, String)>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|octet| *octet == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let item = serde_json::from_slice(&line);
                return match item.map_err(|error| self.client.broken(&error))? {
                    LogItem::Line { at_unix_ms, text } => Ok(Some((at_unix_ms, text))),
                    LogItem::Refused(refusal) => Err(ClientError::Refused(Box::new(refusal))),
                };
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(self.client.broken(&"a line without end"));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.client.broken(&"half a line")),
                Some(Err(error)) => return Err(self.client.broken(&error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Longest line of an output with everything around it, in octets.
const LINE_BYTES_MAX: usize = 256 * 1024;
/// Largest answer that is read, in octets.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Client {
    /// Makes a client of the daemon behind `socket`.
    pub(crate) fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Asks the node.
    pub(crate) async fn request(&self, request: &Request) -> Result<Response, ClientError> {
        match self.ask(REQUEST_PATH, request).await? {
            Response::Stale(response) => {
                complain(
                    "no leader answers; this is what this manager knew last, and may be out of date",
                );
                Ok(*response)
            }
            response => Ok(response),
        }
    }

    /// Asks about programs.
    pub(crate) async fn programs(
        &self,
        request: &ProgramRequest,
    ) -> Result<ProgramResponse, ClientError> {
        self.ask(PROGRAMS_PATH, request).await
    }

    /// Runs a program on a network.
    pub(crate) async fn run(&self, request: &RunRequest) -> Result<Launched, ClientError> {
        self.launch(RUN_PATH, request).await
    }

    /// Runs a command beside a program.
    pub(crate) async fn exec(&self, request: &ExecRequest) -> Result<Launched, ClientError> {
        self.launch(EXEC_PATH, request).await
    }

    /// Asks what would be done for the system to hold what it shall of the data plane.
    pub(crate) async fn plan(&self) -> Result<Vec<String>, ClientError> {
        self.ask(PLAN_PATH, &()).await
    }

    /// Asks what is amiss with the daemon's node and its surroundings.
    pub(crate) async fn diagnose(&self) -> Result<Vec<Finding>, ClientError> {
        self.ask(DIAGNOSE_PATH, &()).await
    }

    /// Looks addresses up in the tables of the node's frame path.
    pub(crate) async fn lookup(&self, options: &LookupOptions) -> Result<Vec<Found>, ClientError> {
        self.ask(LOOKUP_PATH, options).await
    }

    /// Captures the frames of a network: the octets of a pcapng file, in pieces.
    pub(crate) async fn capture(&self, options: &CaptureOptions) -> Result<Captured, ClientError> {
        let response = self.post(CAPTURE_PATH, options, false).await?;
        if response.status().is_success() {
            return Ok(Captured {
                client: self.clone(),
                body: response.into_body(),
            });
        }
        let (status, body) = self.read(response).await?;
        Err(match self.decode::<IgnoredAny>(status, &body) {
            Err(error) => error,
            Ok(_) => self.broken(&"a refusal that is none"),
        })
    }

    /// Asks for what a program or task has written.
    pub(crate) async fn logs(&self, request: &LogsRequest) -> Result<LogLines, ClientError> {
        let response = self.post(LOGS_PATH, request, false).await?;
        if response.status().is_success() {
            return Ok(LogLines {
                client: self.clone(),
                body: response.into_body(),
                buffer: BytesMut::new(),
            });
        }
        let (status, body) = self.read(response).await?;
        Err(match self.decode::<IgnoredAny>(status, &body) {
            Err(error) => error,
            Ok(_) => self.broken(&"a refusal that is none"),
        })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &'static str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let response = self.post(path, body, false).await?;
        let (status, body) = self.read(response).await?;
        self.decode(status, &body)
    }

    async fn launch(
        &self,
        path: &'static str,
        body: &(impl Serialize + Sync),
    ) -> Result<Launched, ClientError> {
        let response = self.post(path, body, true).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(response).await;
            let upgraded = upgraded.map_err(|error| self.broken(&error))?;
            return Ok(Launched::Attached(TokioIo::new(upgraded)));
        }
        let (status, body) = self.read(response).await?;
        self.decode(status, &body).map(Launched::Detached)
    }

    async fn post(
        &self,
        path: &'static str,
        body: &(impl Serialize + Sync),
        upgrade: bool,
    ) -> Result<hyper::Response<hyper::body::Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Unreachable {
                    socket: self.socket.clone(),
                    source,
                })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(&error))?;
        // The task ends with the connection: after the answer, or when the upgraded stream is dropped.
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        let mut request = HttpRequest::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "overlay")
            .header(header::CONTENT_TYPE, "application/json");
        if upgrade {
            request = request
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, UPGRADE_PROTOCOL);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| self.broken(&error))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))
    }

    async fn read(
        &self,
        response: hyper::Response<hyper::body::Incoming>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| self.broken(&error))?;
        Ok((status, body.to_bytes()))
    }

    fn decode<T: DeserializeOwned>(
        &self,
        status: StatusCode,
        body: &[u8],
    ) -> Result<T, ClientError> {
        if status.is_success() {
            return serde_json::from_slice(body).map_err(|error| self.broken(&error));
        }
        match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => Err(ClientError::Refused(Box::new(refusal))),
            Err(_) => Err(self.broken(&format_args!(
                "{status}: {}",
                String::from_utf8_lossy(body.get(..200).unwrap_or(body))
            ))),
        }
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}
