//! What programs and tasks have written: from their holders, line by line, and as the local API carries it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use overlay_core::EndpointId;
use overlay_linux::{OutputCursor, Written};
use overlay_node::driver::{LogClosed, LogLine, LogOptions, LogSink, Logs};

use super::holders::{self, Holders};
use crate::{api::Error, wire::LogItem};

/// The output of a program or task.
pub(crate) struct Output {
    holders: Arc<dyn Holders>,
    endpoint: EndpointId,
    last: Last,
}

/// Says what was kept of an output when its writer had ended; `None` while that may write.
type Last = Box<dyn Fn() -> Option<Vec<Written>> + Send + Sync>;

/// Between two looks at what was written.
const PAUSE: Duration = Duration::from_millis(250);

impl Output {
    /// The output of the main program of an endpoint.
    pub(super) fn new(
        holders: &Arc<dyn Holders>,
        endpoint: EndpointId,
        last: impl Fn() -> Option<Vec<Written>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            holders: Arc::clone(holders),
            endpoint,
            last: Box::new(last),
        }
    }

    /// Sends what is there, and if it is to be followed, what comes until the end.
    pub(super) async fn send(self, options: LogOptions, sink: LogSink) {
        if let Err(Some(error)) = self.try_send(options, &sink).await {
            sink.refuse(error).await;
        }
    }

    /// Fails with nothing if nobody reads any more.
    async fn try_send(&self, options: LogOptions, sink: &LogSink) -> Result<(), Option<Error>> {
        let (mut cursor, mut unfinished) = (OutputCursor::default(), Unfinished::default());
        let (written, mut ended) = self.read(&mut cursor).await?;
        let mut first = VecDeque::new();
        let tail = options
            .tail
            .map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
        let mut keep = |line: LogLine| {
            first.push_back(line);
            if tail.is_some_and(|most| first.len() > most) {
                first.pop_front();
            }
        };
        unfinished.take(written).into_iter().for_each(&mut keep);
        if ended || !options.follow {
            unfinished.rest().into_iter().for_each(&mut keep);
        }
        send(first, options, sink).await?;
        while options.follow && !ended {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = sink.closed() => return Err(None),
            }
            let written;
            (written, ended) = self.read(&mut cursor).await?;
            send(unfinished.take(written), options, sink).await?;
        }
        send(unfinished.rest(), options, sink).await?;
        Ok(())
    }

    /// Reads on, and says whether that was the last of it.
    async fn read(&self, cursor: &mut OutputCursor) -> Result<(Vec<Written>, bool), Error> {
        // Looked at first: what is read afterwards has all of it, or nothing because the endpoint is gone.
        let last = (self.last)();
        let (endpoint, mut next) = (self.endpoint, *cursor);
        let read = move |all: &dyn Holders| {
            let written = all.output(endpoint, &mut next)?;
            Ok((written, next))
        };
        let (mut written, next) = holders::blocking(&self.holders, read).await?;
        *cursor = next;
        let ended = last.is_some();
        written.extend(beyond(last.unwrap_or_default(), *cursor));
        Ok((written, ended))
    }
}

async fn send(
    lines: impl IntoIterator<Item = LogLine>,
    options: LogOptions,
    sink: &LogSink,
) -> Result<(), Option<Error>> {
    let since = options.since_unix_ms.unwrap_or_default();
    for line in lines {
        if line.at_unix_ms.is_none_or(|at| at >= since) {
            let sent = sink.line(line).await;
            sent.map_err(|LogClosed| None)?;
        }
    }
    Ok(())
}

/// What of an output is beyond what was read.
fn beyond(mut output: Vec<Written>, cursor: OutputCursor) -> Vec<Written> {
    let read = |written: &Written| {
        written.from.file == cursor.file && written.from.offset <= cursor.offset
    };
    let Some(at) = output.iter().rposition(read) else {
        // Nothing was read, or so long ago that all of this is newer.
        return output;
    };
    let mut rest = output.split_off(at);
    if let Some(first) = rest.first_mut() {
        let known = usize::try_from(cursor.offset - first.from.offset).unwrap_or(usize::MAX);
        first.octets.drain(..known.min(first.octets.len()));
    }
    rest.retain(|written| !written.octets.is_empty());
    rest
}

/// A line that has not ended.
#[derive(Debug, Default)]
struct Unfinished {
    line: Option<LogLine>,
}

impl Unfinished {
    /// Adds output; returns the lines that have ended with it. Those that are too long are cut.
    fn take(&mut self, output: Vec<Written>) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for Written {
            at_unix_ms, octets, ..
        } in output
        {
            for piece in octets.split_inclusive(|octet| *octet == b'\n') {
                let (text, ended) = match piece.split_last() {
                    Some((b'\n', text)) => (text, true),
                    _ => (piece, false),
                };
                let fresh = || LogLine {
                    at_unix_ms,
                    text: Vec::new(),
                };
                let mut text = text;
                loop {
                    let line = self.line.get_or_insert_with(fresh);
                    let room = LogLine::LINE_BYTES_MAX - line.text.len();
                    let (now, later) = text.split_at(room.min(text.len()));
                    line.text.extend_from_slice(now);
                    text = later;
                    if text.is_empty() {
                        break;
                    }
                    lines.extend(self.line.take());
                }
                if ended {
                    lines.extend(self.line.take());
                }
            }
        }
        lines
    }

    /// What was begun, once nothing more will come.
    fn rest(&mut self) -> Option<LogLine> {
        self.line.take()
    }
}

/// An output as the body of an answer: a [`LogItem`] a line.
pub(super) struct Lines(pub(super) Logs);

/// Octets that are sent together, about.
const CHUNK_BYTES: usize = 32 * 1024;

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_BYTES {
            let item = match self.0.poll_next(context) {
                Poll::Ready(Some(Ok(line))) => LogItem::Line {
                    at_unix_ms: line.at_unix_ms,
                    text: String::from_utf8_lossy(&line.text).into_owned(),
                },
                Poll::Ready(Some(Err(error))) => LogItem::Refused(error.into()),
                Poll::Ready(None) if chunk.is_empty() => return Poll::Ready(None),
                Poll::Pending if chunk.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            };
            let line = serde_json::to_vec(&item).expect("a line of text serializes");
            chunk.extend(line);
            chunk.push(b'\n');
        }
        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use overlay_node::driver::logs;

    use super::*;
    use crate::daemon::tests::fakes::FakeHolders;

    fn written(at: u64, offset: u64, text: &str) -> Written {
        Written {
            at_unix_ms: Some(at),
            from: OutputCursor { file: 1, offset },
            octets: text.into(),
        }
    }

    fn texts(lines: impl IntoIterator<Item = LogLine>) -> Vec<(u64, String)> {
        let text = |line: LogLine| {
            let text = String::from_utf8(line.text).unwrap();
            (line.at_unix_ms.unwrap(), text)
        };
        lines.into_iter().map(text).collect()
    }

    #[test]
    fn lines_have_the_time_of_their_beginning_and_an_end() {
        let mut unfinished = Unfinished::default();
        let lines = unfinished.take(vec![written(1, 0, "a\nb"), written(2, 3, "c\n\nd")]);
        let expected = [(1, "a".into()), (1, "bc".into()), (2, String::new())];
        assert_eq!(texts(lines), expected);
        assert_eq!(texts(unfinished.rest()), [(2, "d".into())]);
        assert_eq!(texts(unfinished.rest()), []);
    }

    #[test]
    fn lines_without_end_are_cut() {
        let mut unfinished = Unfinished::default();
        let most = LogLine::LINE_BYTES_MAX;
        let lines = unfinished.take(vec![written(1, 0, &"x".repeat(2 * most + 1))]);
        let lengths: Vec<_> = lines.iter().map(|line| line.text.len()).collect();
        assert_eq!(lengths, [most, most]);
        let lines = unfinished.take(vec![written(2, 0, &format!("{}\n", "y".repeat(most - 1)))]);
        assert_eq!(lines.len(), 1, "exactly full, and no empty line behind");
        assert_eq!(lines[0].text.len(), most);
    }

    #[test]
    fn of_what_was_kept_only_that_is_told_which_was_not_read() {
        let kept = || vec![written(1, 10, "abc"), written(2, 13, "def")];
        let at = |file, offset| beyond(kept(), OutputCursor { file, offset });
        assert_eq!(at(0, 0), kept());
        assert_eq!(at(2, 99), kept(), "of another file");
        assert_eq!(at(1, 10), kept());
        assert_eq!(at(1, 12)[0].octets, b"c");
        assert_eq!(at(1, 13), [written(2, 13, "def")]);
        assert_eq!(at(1, 16), []);
    }

    async fn read(options: LogOptions) -> Vec<(u64, String)> {
        let holders: Arc<dyn Holders> = Arc::new(FakeHolders::default());
        let ended = Mutex::new(0);
        let endpoint = EndpointId::from_bytes([4; 16]);
        // It ends while it is followed, and writes half a line before.
        let last = move || {
            let mut looks = ended.lock().unwrap();
            *looks += 1;
            (*looks > 2).then(|| vec![written(9, 44, "more\nlast")])
        };
        let (sink, mut logs) = logs();
        tokio::spawn(Output::new(&holders, endpoint, last).send(options, sink));
        let mut lines = Vec::new();
        while let Some(line) = logs.next().await {
            lines.push(line.unwrap());
        }
        texts(lines)
    }

    #[tokio::test]
    async fn the_tail_and_the_time_choose_lines_and_following_goes_to_the_end() {
        let endpoint = EndpointId::from_bytes([4; 16]);
        let all = [
            (1_000, format!("the output of {endpoint}")),
            (1_000, "and more".into()),
        ];
        assert_eq!(read(LogOptions::default()).await, all);
        let tail = LogOptions {
            tail: Some(1),
            ..LogOptions::default()
        };
        assert_eq!(read(tail).await, all[1..]);
        let late = LogOptions {
            since_unix_ms: Some(1_001),
            ..LogOptions::default()
        };
        assert_eq!(read(late).await, []);
        let follow = LogOptions {
            follow: true,
            tail: Some(0),
            ..LogOptions::default()
        };
        assert_eq!(read(follow).await, [(9, "last".into())]);
    }
}
