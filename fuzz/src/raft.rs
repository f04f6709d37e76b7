//! Consensus: single messages, and a member that is driven by octets.

use std::time::Duration;

use bytes::Bytes;
use overlay_core::{Instant, Machine, Seed};
use overlay_raft::{
    Change, Config, Message, Output, PersistTicket, Raft, RaftId, ReadMode, Restored, Role, Write,
    storage::Log,
};

use crate::{
    input::Input,
    raft_disk::{MemoryDisk, STORAGE},
};

pub(crate) fn id(number: u8) -> RaftId {
    RaftId::new(u64::from(number.max(1))).expect("it is at least one")
}

/// The settings of member 1; small, so that every bound is met.
pub(crate) fn config() -> Config {
    Config {
        entries_per_append_max: 4,
        append_bytes_max: 256,
        inflight_max: 3,
        command_bytes_max: 128,
        uncommitted_bytes_max: 1_024,
        log_bytes_max: 4_096,
        trailing_entries_max: 2,
        snapshot_bytes_max: 512,
        snapshot_chunk_bytes_max: 16,
        members_max: 5,
        reads_max: 4,
        writes_inflight_max: 2,
        messages_max: 32,
        inflight_bytes_max: 300,
        clock_drift_ppm_max: Some(1_000),
        ..Config::new(id(1), 7)
    }
}

fn founders() -> Restored {
    Restored::bootstrap([id(1), id(2), id(3)])
}

/// A message from member 2 to a member that has just started: nothing happens if it is refused.
pub fn raft_message(bytes: &[u8]) {
    let now = Instant::from_millis(1);
    let mut raft = Raft::new(config(), Seed::from_u64(1), now, founders()).expect("good settings");
    while raft.poll_output().is_some() {}
    let before = format!("{raft:?}");
    let Ok(message) = Message::decode(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let again = Message::decode(&message.encode());
    assert_eq!(
        again.as_ref(),
        Ok(&message),
        "encoded anew, it is another one"
    );
    if raft.handle_message(now, id(2), message).is_err() {
        assert_eq!(
            format!("{raft:?}"),
            before,
            "a refused message changed something"
        );
        assert!(
            raft.poll_output().is_none(),
            "a refused message queued something"
        );
    }
    raft.handle_timeout(now);
    while raft.poll_output().is_some() {}
}

/// A member whose peers, disk, clients and clock say whatever the octets say.
pub fn raft_machine(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut bench = Bench::new();
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        bench.act(&mut input);
        bench.drain();
    }
    bench.persist(usize::MAX);
    bench.drain();
    bench.restart();
}

struct Bench {
    raft: Raft,
    now: Instant,
    lives: u64,
    log: Option<Log<MemoryDisk>>,
    writes: Vec<(Write, PersistTicket)>,
    /// The last message that was sent.
    sent: Option<(RaftId, Bytes)>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::from_millis(1);
        let (log, _) = Log::open(MemoryDisk::default(), STORAGE).expect("an empty disk opens");
        let raft = Raft::new(config(), Seed::from_u64(1), now, founders());
        let mut bench = Self {
            raft: raft.expect("good settings"),
            now,
            lives: 1,
            log: Some(log),
            writes: Vec::new(),
            sent: None,
        };
        bench.drain();
        bench.persist(usize::MAX);
        bench.drain();
        bench
    }

    fn act(&mut self, input: &mut Input<'_>) {
        let now = self.now;
        match input.u8() % 16 {
            0..=2 => self.tell(input),
            3 => {
                let from = id(input.u8() % 8);
                hear(&mut self.raft, now, from, input.bytes());
            }
            4..=6 => self.agree(),
            7 => {
                self.now += Duration::from_millis(u64::from(input.u8()) * 8);
                self.raft.handle_timeout(self.now);
            }
            8 => self.persist(1),
            9 => self.persist(usize::MAX),
            10 => {
                let command = Bytes::copy_from_slice(input.bytes());
                let _ = self.raft.propose(now, command);
            }
            11 => {
                let of = id(input.u8() % 8);
                let changes = [
                    Change::AddLearner(of),
                    Change::Promote(of),
                    Change::Demote(of),
                    Change::Remove(of),
                ];
                let first = usize::from(input.u8() % 4);
                let second = usize::from(input.u8() % 8);
                let several = changes.get(second).map(|second| [changes[first], *second]);
                let one = [changes[first]];
                let several = several.as_ref().map_or(&one[..], |several| &several[..]);
                let _ = self.raft.change(now, several);
            }
            12 => {
                let data = Bytes::copy_from_slice(input.bytes());
                let _ = self.raft.compact(now, self.raft.applied(), data);
            }
            13 => {
                let _ = self.raft.read_index(now, ReadMode::Lease);
            }
            14 => match input.u8() % 4 {
                0 => self.raft.campaign(now),
                1 => self.fail(),
                _ => {
                    let _ = self.raft.transfer(now, id(input.u8() % 8));
                }
            },
            _ => self.restart(),
        }
    }

    /// Sends a message with a header that is admitted, and a body that is anything.
    fn tell(&mut self, input: &mut Input<'_>) {
        let (from, kind, flags) = (id(2 + input.u8() % 4), input.u8() % 15, input.u8());
        let term = self.raft.term().get();
        let term = match flags & 3 {
            0 | 1 => term,
            2 => term + u64::from(flags >> 4),
            _ => term.saturating_sub(u64::from(flags >> 4)),
        };
        let means = match flags >> 2 & 3 {
            0 => None,
            1 => Some(self.raft.incarnation().get()),
            other => Some(u64::from(other)),
        };
        let message = message(kind, (7, 1, term, 0, means), input.bytes());
        hear(&mut self.raft, self.now, from, &message);
    }

    /// Answers the last message as a peer does that agrees.
    fn agree(&mut self) {
        let Some((from, bytes)) = self.sent.take() else {
            return;
        };
        let (header, body) = bytes.split_at(6);
        let (envelope, body): (Envelope, _) =
            postcard::take_from_bytes(body).expect("every message has an envelope");
        let numbers = postcard::take_from_bytes::<(u64, u64, u64, u64)>(body);
        let ((a, _, _, count), _) = numbers.unwrap_or_default();
        let first = postcard::take_from_bytes::<u64>(body).map_or(a, |(first, _)| first);
        let (kind, body) = match header[0] {
            1 => (2, octets(&(first, true))),
            3 => (4, octets(&true)),
            5 => (6, octets(&(0_u8, first.saturating_add(count)))),
            7 => match postcard::take_from_bytes::<(u64, u64)>(body) {
                Ok(((_, round), _)) => (8, octets(&round)),
                Err(_) => return,
            },
            9 => (10, octets(&(first, 16_u64))),
            _ => return,
        };
        let (group, _, term, _, _) = envelope;
        // A pre-vote is for the term after the one that the envelope tells, and is answered in the latter.
        let message = message(kind, (group, 1, term, 0, Some(0)), &body);
        hear(&mut self.raft, self.now, from, &message);
    }

    fn persist(&mut self, count: usize) {
        let count = count.min(self.writes.len());
        for (write, ticket) in self.writes.drain(..count) {
            let log = self.log.as_mut().expect("it is only taken to restart");
            log.write(&write).expect("a disk in memory does not fail");
            self.raft.handle_persisted(self.now, ticket);
        }
    }

    /// The oldest write fails; the log takes none of the later ones then.
    fn fail(&mut self) {
        if let Some((_, ticket)) = self.writes.drain(..).next() {
            self.raft.handle_persist_failed(self.now, ticket);
        }
    }

    /// Starts again from what the disk holds; what was not persisted is lost.
    fn restart(&mut self) {
        self.writes.clear();
        self.sent = None;
        self.lives += 1;
        let log = self.log.take().expect("it is only taken here");
        let (log, restored) =
            Log::open(log.into_disk(), STORAGE).expect("what a member wrote opens again");
        self.log = Some(log);
        let seed = Seed::from_u64(self.lives);
        self.raft = Raft::new(config(), seed, self.now, restored)
            .expect("a member starts from what it wrote");
        self.drain();
    }

    fn drain(&mut self) {
        self.raft.handle_timeout(self.now);
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Persist(batch) => self.writes.push(batch.into_parts()),
                Output::Send { to, message } => self.sent = Some((to, message.encode())),
                _ => {}
            }
        }
        assert!(
            self.writes.len() <= config().writes_inflight_max,
            "too many writes are out"
        );
        if self.raft.role() == Role::Leader {
            assert_eq!(self.raft.leader(), Some(id(1)));
        }
    }
}

fn hear(raft: &mut Raft, now: Instant, from: RaftId, bytes: &[u8]) {
    if let Ok(message) = Message::decode(&Bytes::copy_from_slice(bytes)) {
        let _ = raft.handle_message(now, from, message);
    }
}

/// Group, recipient, term, incarnation of the sender, and the one that is meant of the recipient.
type Envelope = (u64, u64, u64, u64, Option<u64>);

fn message(kind: u8, envelope: Envelope, body: &[u8]) -> Vec<u8> {
    let mut content = octets(&envelope);
    content.extend_from_slice(body);
    let length = u32::try_from(content.len()).expect("a message is short");
    let mut message = vec![kind, 2];
    message.extend(length.to_le_bytes());
    message.extend(content);
    message
}

fn octets(value: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).expect("numbers serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_can_make_the_member_lead_and_commit() {
        let mut bench = Bench::new();
        let script = [
            14, 0, 9, 4, 9, 4, 9, 4, 9, 10, 1, 0, 7, 9, 4, 9, 12, 1, 0, 7, 9,
        ];
        let mut input = Input::new(&script);
        while !input.is_empty() {
            bench.act(&mut input);
            bench.drain();
        }
        assert!(bench.raft.is_leader());
        assert!(
            bench.raft.snapshot_index().get() >= 2,
            "the command is committed and compacted: {:?}",
            bench.raft
        );
    }
}
