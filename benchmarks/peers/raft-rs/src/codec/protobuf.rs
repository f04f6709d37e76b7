//! `rust-protobuf`, whose fields are `Bytes`: a command is a piece of what it came in.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::Message;

use crate::drive::{CHUNK, Commands};

pub type Octets = Bytes;

/// The commands that came last out of the read buffer.
#[derive(Default)]
pub struct Data {
    chunk: Bytes,
}

impl Data {
    pub fn of(&mut self, commands: &Commands, op: u64) -> Bytes {
        if op.is_multiple_of(CHUNK) {
            self.chunk = Bytes::copy_from_slice(commands.chunk());
        }
        self.chunk.slice(commands.place(op))
    }
}

pub fn encode(message: &Message) -> Bytes {
    message.write_to_bytes().expect("all is set").into()
}

pub fn decode(octets: Bytes) -> Message {
    Message::parse_from_carllerche_bytes(&octets).expect("it was encoded")
}
