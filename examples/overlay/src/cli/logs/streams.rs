//! The outputs of several tasks at a time.

use std::{collections::BTreeMap, time::Duration};

use overlay_core::TaskId;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{Complaints, PartArgs, Shown};
use crate::{
    cli::{Failure, Report, is_read},
    client::Client,
    wire::{LogsOf, LogsRequest},
};

/// When a line was written, and what.
type Line = (Option<u64>, String);

/// Lines of one task that wait to be printed, at most.
const LINES_MAX: usize = 64;
/// Between two looks for more tasks, and before an output that broke off is asked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// The outputs of several tasks.
pub(super) struct Streams<'a> {
    client: &'a Client,
    part: PartArgs,
    tasks: BTreeMap<TaskId, Stream>,
    /// In the order in which they were opened.
    order: Vec<TaskId>,
    /// When all of them are followed: whose line it is.
    lines: mpsc::Receiver<(TaskId, Result<Option<Line>, Failure>)>,
    sender: mpsc::Sender<(TaskId, Result<Option<Line>, Failure>)>,
    complaints: Complaints,
}

struct Stream {
    prefix: String,
    /// Reads, and puts what it reads into `lines`; its end is that of the channel.
    lines: Option<mpsc::Receiver<Result<Line, Failure>>>,
    /// When the last line was written.
    seen_unix_ms: Option<u64>,
    state: State,
    reader: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// It broke off, and is asked for again from then on.
    Lost(Instant),
    Ended,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl<'a> Streams<'a> {
    pub(super) fn new(client: &'a Client, part: PartArgs) -> Self {
        let (sender, lines) = mpsc::channel(LINES_MAX);
        Self {
            client,
            part,
            tasks: BTreeMap::new(),
            order: Vec::new(),
            lines,
            sender,
            complaints: Complaints::default(),
        }
    }

    /// Starts to read the output of a task, unless it is read already.
    pub(super) fn open(&mut self, task: Shown) {
        if self.tasks.contains_key(&task.id) {
            return;
        }
        let (lines, reader) = self.read(task.id, None);
        self.order.push(task.id);
        let stream = Stream {
            prefix: task.prefix,
            lines: Some(lines),
            seen_unix_ms: None,
            state: State::Open,
            reader,
        };
        self.tasks.insert(task.id, stream);
    }

    fn read(
        &self,
        task: TaskId,
        after_unix_ms: Option<u64>,
    ) -> (mpsc::Receiver<Result<Line, Failure>>, JoinHandle<()>) {
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let client = self.client.clone();
        let mut options = self.part.options();
        if let Some(after) = after_unix_ms {
            options.tail = None;
            options.since_unix_ms = Some(after + 1);
        }
        let request = LogsRequest {
            of: LogsOf::Task(task),
            options,
        };
        let reader = tokio::spawn(async move {
            let read = async {
                let mut lines = client.logs(&request).await?;
                while let Some(line) = lines.next().await? {
                    if sender.send(Ok(line)).await.is_err() {
                        break;
                    }
                }
                Ok::<_, Failure>(())
            };
            if let Err(failure) = read.await {
                // Nobody is left to be told once the command ends.
                drop(sender.send(Err(failure)).await);
            }
        });
        (lines, reader)
    }

    /// Prints all that there is, sorted by time as far as it has times.
    pub(super) async fn merge(mut self) -> Report {
        let mut heads: BTreeMap<usize, Line> = BTreeMap::new();
        let mut open: Vec<usize> = (0..self.order.len()).collect();
        while !(open.is_empty() && heads.is_empty()) {
            // Of each the next one is known before the first of them is printed.
            for place in std::mem::take(&mut open) {
                let stream = self.tasks.get_mut(&self.order[place]);
                let Some(lines) = stream.and_then(|stream| stream.lines.as_mut()) else {
                    continue;
                };
                match lines.recv().await {
                    Some(Ok(line)) => drop(heads.insert(place, line)),
                    Some(Err(failure)) => self.complaints.add(&failure),
                    None => {}
                }
            }
            let first = heads.iter().min_by_key(|(place, (at, _))| (*at, **place));
            let Some(place) = first.map(|(place, _)| *place) else {
                continue;
            };
            if let Some((at, text)) = heads.remove(&place) {
                let prefix = self.tasks.get(&self.order[place]);
                let prefix = prefix.map_or("", |stream| &stream.prefix);
                if !is_read(&self.part.line(at, prefix, &text)) {
                    break;
                }
            }
            open.push(place);
        }
        self.complaints.report()
    }

    /// Prints what comes, in the order in which it comes, until all have ended; those that `again` finds, too.
    pub(super) async fn follow(
        mut self,
        again: Option<impl AsyncFn() -> Result<Vec<Shown>, Failure>>,
    ) -> Report {
        for id in self.order.clone() {
            self.forward(id);
        }
        let mut look = tokio::time::interval(PAUSE);
        let mut may_grow = again.is_some();
        loop {
            let ended = |stream: &Stream| stream.state == State::Ended;
            if !may_grow && self.tasks.values().all(ended) {
                return self.complaints.report();
            }
            tokio::select! {
                // The sender is here: it never ends by itself.
                Some((id, read)) = self.lines.recv() => {
                    if !self.take(id, read) {
                        return self.complaints.report();
                    }
                }
                _ = look.tick() => {
                    if let Some(again) = again.as_ref().filter(|_| may_grow) {
                        may_grow = self.grow(again().await);
                    }
                    self.reopen();
                }
            }
        }
    }

    /// Opens what is new; returns whether there may be more.
    fn grow(&mut self, found: Result<Vec<Shown>, Failure>) -> bool {
        match found {
            Ok(found) => {
                for task in found {
                    let (id, known) = (task.id, self.tasks.contains_key(&task.id));
                    self.open(task);
                    if !known {
                        self.forward(id);
                    }
                }
                true
            }
            // The service was removed.
            Err(failure) if failure.is_missing() => false,
            // An election, or the end of the daemon.
            Err(failure) => {
                self.complaints.add(&failure);
                failure.is_transient()
            }
        }
    }

    /// Prints a line, or notes an end; returns whether anybody reads.
    fn take(&mut self, id: TaskId, read: Result<Option<Line>, Failure>) -> bool {
        let Some(stream) = self.tasks.get_mut(&id) else {
            return true;
        };
        match read {
            Ok(Some((at, text))) => {
                stream.seen_unix_ms = at.or(stream.seen_unix_ms);
                return is_read(&self.part.line(at, &stream.prefix, &text));
            }
            Ok(None) if stream.state == State::Open => stream.state = State::Ended,
            Ok(None) => {}
            Err(failure) => {
                // Its node may come back; what it does not have will not come.
                stream.state = if failure.is_transient() {
                    State::Lost(Instant::now() + PAUSE)
                } else {
                    State::Ended
                };
                self.complaints.add(&failure);
            }
        }
        true
    }

    fn reopen(&mut self) {
        let due = |stream: &Stream| matches!(stream.state, State::Lost(at) if at <= Instant::now());
        let lost = self.tasks.iter().filter(|(_, stream)| due(stream));
        let lost: Vec<_> = lost
            .map(|(id, stream)| (*id, stream.seen_unix_ms))
            .collect();
        for (id, seen) in lost {
            let (lines, reader) = self.read(id, seen);
            if let Some(stream) = self.tasks.get_mut(&id) {
                stream.reader.abort();
                (stream.lines, stream.reader) = (Some(lines), reader);
                stream.state = State::Open;
            }
            self.forward(id);
        }
    }

    /// Has the lines of a task come in with those of the others.
    fn forward(&mut self, id: TaskId) {
        let lines = self
            .tasks
            .get_mut(&id)
            .and_then(|stream| stream.lines.take());
        let (Some(mut lines), sender) = (lines, self.sender.clone()) else {
            return;
        };
        tokio::spawn(async move {
            loop {
                let next = lines.recv().await.transpose();
                let last = !matches!(next, Ok(Some(_)));
                if sender.send((id, next)).await.is_err() || last {
                    return;
                }
            }
        });
    }
}
