//! `prost`, whose fields are `Vec<u8>`: each command is copied wherever it goes.

use prost::Message as _;
use raft::eraftpb::Message;

use crate::drive::Commands;

pub type Octets = Vec<u8>;

#[derive(Default)]
pub struct Data;

impl Data {
    pub fn of(&mut self, commands: &Commands, op: u64) -> Vec<u8> {
        commands.command(op).to_vec()
    }
}

pub fn encode(message: &Message) -> Vec<u8> {
    message.encode_to_vec()
}

pub fn decode(octets: Vec<u8>) -> Message {
    Message::decode(&octets[..]).expect("it was encoded")
}
