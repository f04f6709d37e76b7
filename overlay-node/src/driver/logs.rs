//! What tasks have written: read from the executor of their node, which may be another one's.
//!
//! The daemon that is asked reads that of its own tasks from its executor. For a task of another node it dials that node on
//! the management port, shows its certificate, and sends one request; what comes back are frames of the same kind until
//! the end. Only managers ask, and only they are answered: what programs write may be as secret as what they know.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::{NodeId, TaskId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    active::{Active, Input},
    session,
};
#[cfg(test)]
mod tests;

use crate::{
    Peer,
    api::{self, ErrorKind, Role},
    identity::tls::Sides,
    wire,
};

/// Which part of a task's output is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Go on as more is written, until the task has ended.
    pub follow: bool,
    /// Only so many of the last lines; all if `None`. What is written later on is not counted.
    pub tail: Option<u64>,
    /// Only what was written since then, in milliseconds since 1970; lines without a time pass.
    pub since_unix_ms: Option<u64>,
}

/// One line that a task has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, in milliseconds since 1970, by the clock of its node; `None` if nobody noted it.
    pub at_unix_ms: Option<u64>,
    /// What, without the end of the line; at most [`LINE_BYTES_MAX`](Self::LINE_BYTES_MAX) octets.
    pub text: Vec<u8>,
}

impl LogLine {
    /// Octets of a line at the most; an executor cuts a longer one into several.
    pub const LINE_BYTES_MAX: usize = 16 * 1024;
}

/// Where an executor puts what a task has written. The end of the output is when it is dropped.
#[derive(Clone, Debug)]
pub struct LogSink(mpsc::Sender<Result<LogLine, api::Error>>);

/// What a task has written, line by line.
#[derive(Debug)]
pub struct Logs {
    lines: mpsc::Receiver<Result<LogLine, api::Error>>,
    /// What a task that is not known here is answered with.
    unknown: Option<api::Error>,
    _room: Option<OwnedSemaphorePermit>,
}

/// Nobody reads any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct LogClosed;

/// Makes the two ends of an output.
pub fn logs() -> (LogSink, Logs) {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    let logs = Logs {
        lines,
        unknown: None,
        _room: None,
    };
    (LogSink(sender), logs)
}

impl LogSink {
    /// Adds a line; waits while many are unread.
    ///
    /// # Errors
    ///
    /// [`LogClosed`] if nobody reads any more: stop.
    pub async fn line(&self, mut line: LogLine) -> Result<(), LogClosed> {
        line.text.truncate(LogLine::LINE_BYTES_MAX);
        self.0.send(Ok(line)).await.map_err(|_| LogClosed)
    }

    /// Says why there is nothing, or nothing more.
    pub async fn refuse(self, error: api::Error) {
        // Whoever asked may have gone away.
        let _ = self.0.send(Err(error)).await;
    }

    /// Returns when nobody reads any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Logs {
    /// Returns the next line, `None` at the end.
    ///
    /// # Errors
    ///
    /// Why there is nothing more; the next call returns the end.
    pub async fn next(&mut self) -> Option<Result<LogLine, api::Error>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](Self::next), for those who poll.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<LogLine, api::Error>>> {
        self.lines.poll_recv(context).map(|next| match next? {
            Err(error) if error.kind == ErrorKind::NotFound => {
                Some(Err(self.unknown.take().unwrap_or(error)))
            }
            next => Some(next),
        })
    }

    /// The same, with another answer for a task that is not known.
    pub(crate) fn or(self, unknown: Option<api::Error>) -> Self {
        Self { unknown, ..self }
    }
}

/// What the other daemon is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogAsk {
    pub(crate) task: TaskId,
    pub(crate) options: LogOptions,
}

/// What it answers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum LogFrame {
    Line(LogLine),
    /// There is nothing new, and it is still there.
    Idle,
    /// There is nothing, or nothing more; the last frame.
    Refused(api::Error),
    /// All was told; the last frame.
    End,
}

/// A request of another node, to be answered by the node's loop.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) peer: Peer,
    pub(crate) ask: LogAsk,
    pub(crate) reply: oneshot::Sender<Result<Logs, api::Error>>,
}

/// Where a task is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    pub(crate) hostname: String,
    pub(crate) management: SocketAddr,
}

/// Room for outputs that are read over the network, those that are asked for and those that are served alike.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, api::Error> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let text = format!(
                "the output of {STREAMS_MAX} tasks is read over the network at a time: end others, or ask for fewer"
            );
            api::Error::new(ErrorKind::Limit, text)
        })
    }
}

/// Starts to read the output of a task of another node.
pub(crate) fn fetch(
    place: Place,
    ask: LogAsk,
    sides: watch::Receiver<Sides>,
    room: &Room,
) -> Result<Logs, api::Error> {
    let permit = room.take()?;
    let (sink, mut logs) = logs();
    logs._room = Some(permit);
    tokio::spawn(async move {
        let read = tokio::select! {
            read = read(&place, ask, &sides, &sink) => read,
            () = sink.closed() => return,
        };
        if let Err(error) = read {
            sink.refuse(error).await;
        }
    });
    Ok(logs)
}

async fn read(
    place: &Place,
    ask: LogAsk,
    sides: &watch::Receiver<Sides>,
    sink: &LogSink,
) -> Result<(), api::Error> {
    let silent = |error: std::io::Error| {
        let text = format!(
            "{} ({}) does not answer ({error}): check that its daemon runs, is of this version, and that TCP port {} is open",
            place.hostname,
            place.management,
            place.management.port()
        );
        api::Error::new(ErrorKind::Unavailable, text)
    };
    let late = |_| silent(std::io::ErrorKind::TimedOut.into());
    let reached = session::reach(sides, place.node, place.role, place.management);
    let mut stream = timeout(PATIENCE, reached)
        .await
        .map_err(late)?
        .map_err(silent)?;
    let sent = async {
        stream.write_all(&wire::encode_body(KIND, &ask)).await?;
        stream.flush().await
    };
    sent.await.map_err(silent)?;
    loop {
        let frame = timeout(SILENCE_MAX, receive(&mut stream)).await;
        match frame.map_err(late)?.map_err(silent)? {
            LogFrame::Line(line) => {
                if sink.line(line).await.is_err() {
                    return Ok(());
                }
            }
            LogFrame::Idle => {}
            LogFrame::Refused(error) => return Err(error),
            LogFrame::End => return Ok(()),
        }
    }
}

/// Serves another node's request for the output of a task of this one.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite>(
    stream: S,
    peer: Peer,
    inputs: &mpsc::Sender<Input>,
    room: &Room,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let ask: LogAsk = timeout(PATIENCE, receive(&mut reader)).await??;
    // Until the end, which is also that of the connection.
    let mut permit = None;
    let found = match (peer.role, room.take()) {
        (Role::Worker, _) => Err(not_a_manager()),
        (Role::Manager, Err(full)) => Err(full),
        (Role::Manager, Ok(taken)) => {
            permit = Some(taken);
            let (reply, answer) = oneshot::channel();
            let asked = Asked { peer, ask, reply };
            let sent = inputs.send(Input::Logs(asked)).await;
            sent.map_err(session::invalid)?;
            answer.await.map_err(session::invalid)?
        }
    };
    let pump = async {
        match found {
            Ok(mut logs) => loop {
                let frame = match timeout(IDLE, logs.next()).await {
                    Ok(Some(Ok(line))) => LogFrame::Line(line),
                    Ok(Some(Err(error))) => LogFrame::Refused(error),
                    Ok(None) => LogFrame::End,
                    Err(_) => LogFrame::Idle,
                };
                writer.write_all(&wire::encode_body(KIND, &frame)).await?;
                writer.flush().await?;
                if matches!(frame, LogFrame::Refused(_) | LogFrame::End) {
                    return writer.shutdown().await;
                }
            },
            Err(error) => {
                let frame = LogFrame::Refused(error);
                writer.write_all(&wire::encode_body(KIND, &frame)).await?;
                writer.shutdown().await
            }
        }
    };
    // Whoever asked says nothing more: what comes is the end.
    let gone = async { reader.read_u8().await.map(drop).or(Ok(())) };
    let served = tokio::select! {
        served = pump => served,
        gone = gone => gone,
        // The node has stopped.
        () = inputs.closed() => Ok(()),
    };
    drop(permit);
    served
}

impl Active {
    /// Reads what a task has written, wherever it is, for a local client.
    pub(super) fn logs(&self, ask: LogAsk) -> Result<Logs, api::Error> {
        let Some(state) = self.node.state() else {
            let unknown = "this node is a worker and knows its own tasks alone, of which this is none: ask a manager";
            let unknown = api::Error::new(ErrorKind::NotManager, unknown);
            return Ok(self.own_logs(ask).or(Some(unknown)));
        };
        let Some(record) = state.tasks().get(&ask.task) else {
            // Its executor may remember what the cluster has forgotten.
            return Ok(self.own_logs(ask));
        };
        let node = match record.node {
            Some(node) if node == self.identity.node => return Ok(self.own_logs(ask)),
            Some(node) => state.nodes().get(&node),
            None => {
                let text =
                    "the task waits for a node, and has written nothing: `service ps` says why";
                return Err(api::Error::new(ErrorKind::NotFound, text));
            }
        };
        let node = node.ok_or_else(|| {
            let text = "the node of the task was removed, and what the task has written with it";
            api::Error::new(ErrorKind::NotFound, text)
        })?;
        let place = Place {
            node: node.id,
            role: node.role,
            hostname: node.hostname.clone(),
            management: node.management(),
        };
        fetch(place, ask, self.sides.subscribe(), &self.outputs)
    }

    /// Answers another node about a task of this one.
    pub(super) fn on_logs(&self, asked: Asked) {
        let Asked { peer, ask, reply } = asked;
        let mut managers = self.node.assignment().into_iter();
        // A certificate is good for longer than a role.
        let manages = managers.any(|assignment| {
            let mut managers = assignment.standing.managers.iter();
            managers.any(|manager| manager.node == peer.node)
        });
        let found = match (peer.role, manages) {
            (Role::Manager, true) => Ok(self.own_logs(ask)),
            _ => Err(not_a_manager()),
        };
        // Whoever asked may have gone away.
        let _ = reply.send(found);
    }

    fn own_logs(&self, ask: LogAsk) -> Logs {
        let (sink, logs) = logs();
        self.executor.logs(ask.task, ask.options, sink);
        logs
    }
}

/// What a node is answered with that does not manage the cluster.
pub(crate) fn not_a_manager() -> api::Error {
    let text = "only managers read what the tasks of other nodes have written: ask a manager";
    api::Error::new(ErrorKind::Forbidden, text)
}

async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<T> {
    let mut header = [0; wire::HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = wire::length_of(KIND, header).map_err(session::invalid)?;
    if length > FRAME_BYTES_MAX {
        let text = format!("a frame of {length} octets is larger than {FRAME_BYTES_MAX}");
        return Err(session::invalid(text));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    wire::decode_body(&body).map_err(session::invalid)
}

pub(crate) const KIND: u8 = b'L';
/// Lines of one output that wait to be read, at most.
const LINES_MAX: usize = 64;
/// Octets of a frame at the most: a line, or a message, and a little.
const FRAME_BYTES_MAX: usize = LogLine::LINE_BYTES_MAX + 4 * 1024;
/// How many outputs are read over the network at a time.
const STREAMS_MAX: usize = 256;
/// How long another node may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long nothing new is before that is said.
const IDLE: Duration = Duration::from_secs(3);
/// How long nothing may be heard of another node.
const SILENCE_MAX: Duration = Duration::from_secs(10);
