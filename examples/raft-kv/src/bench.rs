//! How fast it is, and how fast the disk.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use overlay_core::Disk as _;
use overlay_raft::driver::FileDisk;
use tokio::task::JoinSet;

use crate::{
    client::{Client, Connection},
    protocol::{Answer, Freshness, Request},
};

/// What a load is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) reads: bool,
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    pub(crate) seconds: u64,
    pub(crate) value_bytes: usize,
}

/// Writes, or reads, as fast as the leader answers, each of `in_flight` sessions one after the other.
pub(crate) async fn run(addresses: Vec<String>, load: Load) -> anyhow::Result<()> {
    let mut client = Client::new(addresses, Duration::from_secs(10))?;
    // Whoever opens a session leads.
    client.ask(&Request::Open).await?;
    let leader = client.at().to_owned();
    let connections = load.connections.clamp(1, load.in_flight.max(1));
    let until = Instant::now() + Duration::from_secs(load.seconds);
    let mut writers = JoinSet::new();
    for number in 0..connections {
        let sessions = share(load.in_flight, connections, number);
        let writer = Writer {
            sessions: vec![Session::default(); sessions],
            value: "x".repeat(load.value_bytes),
            reads: load.reads,
            number,
            latencies: Vec::new(),
        };
        writers.spawn(writer.run(leader.clone(), until));
    }
    let begun = Instant::now();
    let mut latencies = Vec::new();
    while let Some(done) = writers.join_next().await {
        latencies.extend(done??);
    }
    let took = begun.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / took;
    let at = |percent: usize| {
        let place = latencies.len() * percent / 100;
        latencies.get(place).copied().unwrap_or_default()
    };
    let what = if load.reads {
        "linearizable reads"
    } else {
        "committed writes"
    };
    println!(
        "{} {what} of {} octets in {took:.2} s by {leader}: {rate:.0} a second, {} in flight; \
         half within {:?}, 99 of 100 within {:?}",
        latencies.len(),
        load.value_bytes,
        load.in_flight,
        at(50),
        at(99),
    );
    Ok(())
}

/// How many of `all` fall to this one of `parts`.
fn share(all: usize, parts: usize, number: usize) -> usize {
    all / parts + usize::from(number < all % parts)
}

/// A connection with its sessions.
struct Writer {
    sessions: Vec<Session>,
    value: String,
    reads: bool,
    number: usize,
    latencies: Vec<Duration>,
}

#[derive(Clone, Default)]
struct Session {
    id: u64,
    number: u64,
    sent: Option<Instant>,
}

impl Writer {
    async fn run(mut self, leader: String, until: Instant) -> anyhow::Result<Vec<Duration>> {
        let mut connection = Connection::open(&leader).await?;
        for slot in 0..self.sessions.len() {
            connection.send(slot as u64, &Request::Open);
        }
        let mut open = self.sessions.len();
        while open > 0 {
            if !connection.has_answer() {
                connection.flush().await?;
            }
            let answered = connection.receive().await?;
            let slot = usize::try_from(answered.id)?;
            let Some(session) = self.sessions.get_mut(slot) else {
                bail!("an answer to nothing: {answered:?}");
            };
            match answered.answer {
                Answer::Opened { session: id } => session.id = id,
                Answer::Done | Answer::Value { .. } => {
                    let sent = session.sent.map(|sent| sent.elapsed());
                    self.latencies.extend(sent);
                }
                other => bail!("the leader changed, or has enough: {other:?}"),
            }
            if Instant::now() >= until {
                open -= 1;
                continue;
            }
            session.number += 1;
            session.sent = Some(Instant::now());
            let key = format!("bench-{}-{slot}", self.number);
            let request = if self.reads {
                let freshness = Freshness::Linearizable;
                Request::Get { key, freshness }
            } else {
                Request::Put {
                    session: session.id,
                    number: session.number,
                    key,
                    value: self.value.clone(),
                }
            };
            connection.send(answered.id, &request);
        }
        Ok(self.latencies)
    }
}

/// Appends and syncs as often as it can, with and without room that was made before, by turns.
pub(crate) fn disk(directory: &Path, seconds: u64) -> anyhow::Result<()> {
    let directory = directory.join("bench-disk");
    let mut disk = FileDisk::open(&directory)?;
    let block = [0x5a; BLOCK_BYTES];
    let (mut grown, mut given) = (Appends::default(), Appends::default());
    for _ in 0..seconds.max(1) {
        let turns = [(&mut grown, "grown", 0), (&mut given, "given", ROOM_BYTES)];
        for (appends, name, room) in turns {
            appends.run(&mut disk, name, room, &block)?;
        }
    }
    drop(disk);
    std::fs::remove_dir_all(directory)?;
    println!(
        "{:.0} appends of {BLOCK_BYTES} octets a second, each synced; {:.0} into room that was made before ({:.2} times)",
        grown.rate(),
        given.rate(),
        given.rate() / grown.rate(),
    );
    Ok(())
}

/// Appends to one file.
#[derive(Default)]
struct Appends {
    synced: u32,
    length: u64,
    reserved: u64,
    took: Duration,
}

impl Appends {
    /// For half a second; what it takes to make room is counted, as a log has to make it, too.
    fn run(
        &mut self,
        disk: &mut FileDisk,
        name: &str,
        room: u64,
        block: &[u8],
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < TURN {
            self.length += block.len() as u64;
            if room > 0 && self.length > self.reserved {
                self.reserved = self.length + room;
                disk.reserve(name, self.reserved);
            }
            disk.append(name, block)?;
            disk.sync(name)?;
            self.synced += 1;
        }
        self.took += begun.elapsed();
        Ok(())
    }

    fn rate(&self) -> f64 {
        f64::from(self.synced) / self.took.as_secs_f64()
    }
}

const BLOCK_BYTES: usize = 4_096;
const TURN: Duration = Duration::from_millis(500);

/// What the log is given at once.
const ROOM_BYTES: u64 = 1 << 20;
