//! A client: it asks one member after the other until it has an answer.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time,
};

use crate::protocol::{Answer, Answered, Asked, Request};

/// Asks members, wherever they are.
#[derive(Debug)]
pub(crate) struct Client {
    addresses: Vec<String>,
    /// Whom to ask next.
    next: String,
    connection: Option<Connection>,
    asked: u64,
    /// How long to go on asking.
    patience: Duration,
    session: Option<u64>,
    number: u64,
}

impl Client {
    pub(crate) fn new(addresses: Vec<String>, patience: Duration) -> anyhow::Result<Self> {
        let next = addresses.first().cloned();
        Ok(Self {
            next: next.context("no address to ask at")?,
            addresses,
            connection: None,
            asked: 0,
            patience,
            session: None,
            number: 0,
        })
    }

    /// Writes, once, however often the request has to be sent: a session numbers its requests, and the members remember
    /// what came of the last one.
    pub(crate) async fn write(
        &mut self,
        request: impl Fn(u64, u64) -> Request,
    ) -> anyhow::Result<Answer> {
        let session = match self.session {
            Some(session) => session,
            None => self.open().await?,
        };
        self.number += 1;
        self.ask(&request(session, self.number)).await
    }

    async fn open(&mut self) -> anyhow::Result<u64> {
        match self.ask(&Request::Open).await? {
            Answer::Opened { session } => {
                self.session = Some(session);
                Ok(session)
            }
            other => bail!("no session was opened: {other:?}"),
        }
    }

    /// Asks until there is an answer that means something.
    pub(crate) async fn ask(&mut self, request: &Request) -> anyhow::Result<Answer> {
        let until = Instant::now() + self.patience;
        loop {
            let why = match time::timeout(ANSWER_TIMEOUT, self.ask_once(request)).await {
                Ok(Ok(Answer::NotLeader { leader, at })) => {
                    self.go_on(at);
                    format!("not the leader, which is {leader:?}")
                }
                Ok(Ok(Answer::Again { why })) => {
                    self.go_on(None);
                    why
                }
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    self.go_on(None);
                    error.to_string()
                }
                Err(_) => {
                    self.go_on(None);
                    "no answer".to_owned()
                }
            };
            if Instant::now() >= until {
                bail!(
                    "nobody answered in {:?}; the last said: {why}",
                    self.patience
                );
            }
            time::sleep(PAUSE).await;
        }
    }

    /// Where the member is that answered last.
    pub(crate) fn at(&self) -> &str {
        &self.next
    }

    /// Asks somebody else: the one that was named, or whoever is next.
    fn go_on(&mut self, named: Option<String>) {
        let named = named.filter(|named| *named != self.next);
        let place = self.addresses.iter().position(|one| *one == self.next);
        let following = place.map_or(0, |place| (place + 1) % self.addresses.len());
        let next = named.or_else(|| self.addresses.get(following).cloned());
        self.connection = None;
        if let Some(next) = next {
            self.next = next;
        }
    }

    async fn ask_once(&mut self, request: &Request) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.next).await?,
        };
        self.asked += 1;
        connection.send(self.asked, request);
        connection.flush().await?;
        loop {
            let answered = connection.receive().await?;
            if answered.id == self.asked {
                self.connection = Some(connection);
                return Ok(answered.answer);
            }
        }
    }
}

/// A connection to one member. Requests may be sent before earlier ones are answered.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
    unsent: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: BufReader::with_capacity(64 << 10, reader),
            writer,
            line: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// Notes a request for [`flush`](Self::flush).
    pub(crate) fn send(&mut self, id: u64, request: &Request) {
        let request = request.clone();
        let asked = Asked { id, request };
        serde_json::to_writer(&mut self.unsent, &asked).expect("memory takes what is written");
        self.unsent.push(b'\n');
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.unsent).await?;
        self.unsent.clear();
        Ok(())
    }

    pub(crate) async fn receive(&mut self) -> io::Result<Answered> {
        self.line.clear();
        if self.reader.read_until(b'\n', &mut self.line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&self.line)?)
    }

    /// Returns whether an answer is here already.
    pub(crate) fn has_answer(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

/// After so long, another member is asked the same.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
