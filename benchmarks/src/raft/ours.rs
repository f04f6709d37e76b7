//! A member of overlay-raft, as it comes.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use overlay_core::{Instant, Machine, Seed};
use overlay_raft::{Config, Index, Message, Output, Raft, RaftId, Restored};

use super::drive::{Applied, CHUNK, COMPACT_EVERY, Case, Commands, Member, Network};

pub struct Ours {
    raft: Raft,
    now: Instant,
    /// The commands that came last out of the read buffer.
    chunk: Bytes,
    compacted: Index,
}

fn id(at: usize) -> RaftId {
    RaftId::new(at as u64 + 1).expect("not zero")
}

impl Ours {
    pub fn new(case: &Case, at: usize) -> Self {
        let now = Instant::EPOCH;
        let members = Restored::bootstrap((0..case.members).map(id));
        let seed = Seed::from_u64(at as u64);
        Self {
            raft: Raft::new(Config::new(id(at), 7), seed, now, members).expect("good settings"),
            now,
            chunk: Bytes::new(),
            compacted: Index::ZERO,
        }
    }

    /// Forgets entries now and then; the machine keeps some of them for members that are behind.
    fn compact(&mut self) {
        let applied = self.raft.applied();
        if applied.get() >= self.compacted.get() + COMPACT_EVERY {
            let compacted = self.raft.compact(self.now, applied, Bytes::new());
            compacted.expect("it is applied");
            self.compacted = applied;
        }
    }
}

impl Member for Ours {
    type Message = Message;
    type Octets = Bytes;

    fn propose(&mut self, commands: &Commands, ops: Range<u64>) {
        for op in ops {
            if op.is_multiple_of(CHUNK) {
                self.chunk = Bytes::copy_from_slice(commands.chunk());
            }
            let command = self.chunk.slice(commands.place(op));
            let proposed = self.raft.propose(self.now, command);
            proposed.expect("the leader takes it");
        }
    }

    fn handle(&mut self, from: usize, message: Message) {
        let handled = self.raft.handle_message(self.now, id(from), message);
        handled.expect("a good message");
    }

    fn drain(&mut self, network: &mut Network<Self>, applied: &mut Applied) {
        self.raft.handle_timeout(self.now);
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Persist(batch) => {
                    let (_, ticket) = batch.into_parts();
                    self.raft.handle_persisted(self.now, ticket);
                }
                Output::Send { to, message } => network.send(to.get() as usize - 1, message),
                Output::Apply(committed) => {
                    for committed in committed.iter() {
                        applied.apply(committed.command);
                    }
                }
                Output::Restore(_) | Output::ReadReady { .. } | Output::Event(_) => {}
            }
        }
        self.compact();
    }

    fn due(&self) -> Duration {
        let due = self
            .raft
            .poll_timeout()
            .expect("a voter waits for its leader");
        due.duration_since(Instant::EPOCH)
    }

    fn wake(&mut self, now: Duration) {
        self.now = Instant::EPOCH + now;
    }

    fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    fn encode(message: &Message) -> Bytes {
        message.encode()
    }

    fn decode(octets: Bytes) -> Message {
        Message::decode(&octets).expect("it was encoded")
    }
}
