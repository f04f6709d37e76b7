//! Who may use the local API: whoever else connects is told so, and nothing that it asks is done.
//!
//! The mode of the socket keeps others out already; what is here holds whoever opened the mode, too.

use std::{io, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream, unix::SocketAddr},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use super::{Place, caller::Caller};
use crate::{
    api::{Error, ErrorKind},
    wire::Refusal,
};

/// The connections of those who may use the local API.
#[derive(Debug)]
pub(in crate::daemon) struct Gate {
    listener: UnixListener,
    place: Place,
    own: u32,
    /// Places for those who are told that they may not.
    refusals: Arc<Semaphore>,
    refused: Told,
}

/// How many were refused, and when that was last said in the log.
#[derive(Debug, Default)]
struct Told {
    count: u64,
    last: Option<Instant>,
}

impl Gate {
    pub(super) fn new(listener: UnixListener, place: Place) -> Self {
        Self {
            listener,
            place,
            own: rustix::process::geteuid().as_raw(),
            refusals: Arc::new(Semaphore::new(REFUSALS_MAX)),
            refused: Told::default(),
        }
    }

    /// Lets in who may, and sends away who may not.
    fn admit(&mut self, stream: UnixStream) -> Option<UnixStream> {
        let group = self.place.group();
        let text = match Caller::of(&stream) {
            Ok(caller) if caller.may_ask(self.own, group) => return Some(stream),
            Ok(caller) => {
                let group = group.map_or_else(String::new, |group| {
                    format!(", or join the socket's group (number {group})")
                });
                format!(
                    "user {} may not use this daemon, whatever the mode of its socket: become root or the user who started it{group}",
                    caller.user
                )
            }
            Err(error) => format!(
                "who you are cannot be found out ({error}): the daemon takes no commands from you"
            ),
        };
        self.refused.note(Instant::now(), &text);
        // There are few places, so that nobody takes all descriptors by asking again and again.
        if let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() {
            tokio::spawn(async move {
                drop(timeout(REFUSAL_TIME_MAX, refuse(stream, &text)).await);
                drop(place);
            });
        }
        None
    }
}

impl Listener for Gate {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => {
                    if let Some(stream) = self.admit(stream) {
                        return (stream, from);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the local API could not be accepted");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Told {
    fn note(&mut self, now: Instant, text: &str) {
        self.count += 1;
        if self.last.is_none_or(|last| now - last >= TELL) {
            let count = std::mem::take(&mut self.count);
            tracing::warn!(count, "refused at the local API: {text}");
            self.last = Some(now);
        }
    }
}

/// Answers whatever is asked, after it began to be asked, as clients expect of HTTP.
async fn refuse(mut stream: UnixStream, text: &str) -> io::Result<()> {
    let mut some = [0; 1_024];
    if stream.read(&mut some).await? == 0 {
        return Ok(());
    }
    let refusal = Refusal::from(Error::new(ErrorKind::Forbidden, text.to_owned()));
    let body = serde_json::to_string(&refusal)?;
    let answer = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // What is left unread at the end would make an error of the answer.
    while stream.read(&mut some).await? > 0 {}
    Ok(())
}

/// Connections that are being refused at a time; more are closed without a word.
const REFUSALS_MAX: usize = 16;
/// How long one may take.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);
/// How often the log says that there were some.
const TELL: Duration = Duration::from_secs(10);
/// After an error, of which there may be many.
const RETRY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_is_an_answer_that_the_client_understands() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let refusing = tokio::spawn(async move { refuse(ours, "no").await });
        theirs.write_all(b"POST / HTTP/1.1\r\n").await.unwrap();
        let mut said = String::new();
        let rest = theirs.write_all(&[b'x'; 5_000]).await;
        theirs.read_to_string(&mut said).await.unwrap();
        rest.unwrap();
        drop(theirs);
        refusing.await.unwrap().unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        let refusal: Refusal = serde_json::from_str(body).unwrap();
        assert_eq!(refusal.error.kind, ErrorKind::Forbidden);
        assert_eq!(refusal.error.message, "no");
    }

    #[test]
    fn the_log_says_once_in_a_while_how_many_were_refused() {
        let (mut told, now) = (Told::default(), Instant::now());
        for _ in 0..1_000 {
            told.note(now, "no");
        }
        assert_eq!(told.count, 999);
        told.note(now + TELL, "no");
        assert_eq!(told.count, 0);
    }
}
