//! A member of TiKV's `raft`, driven as its documentation says.

use std::{ops::Range, time::Duration};

use raft::{
    Config, RawNode, StateRole,
    eraftpb::{Entry, HardState, Message, MessageType},
};
use slog::{Discard, Logger, o};

use crate::{
    codec::{self, Data, Octets},
    drive::{Applied, Case, Commands, Member, Network, Setup},
    storage::Log,
};

pub struct Peer {
    node: RawNode<Log>,
    setup: Setup,
    data: Data,
}

impl Peer {
    pub fn new(case: &Case, at: usize) -> Self {
        let config = Config {
            id: at as u64 + 1,
            ..config(case.setup)
        };
        let log = Log::new(case.members);
        let node = RawNode::new(&config, log, &Logger::root(Discard, o!()));
        Self {
            node: node.expect("a good configuration"),
            setup: case.setup,
            data: Default::default(),
        }
    }

    fn set_hard_state(&mut self, state: Option<&HardState>) {
        if let Some(state) = state {
            self.node.mut_store().hard_state = state.clone();
        }
    }
}

/// The settings that were found to be the fastest here, or the defaults.
fn config(setup: Setup) -> Config {
    let default = Config::default();
    if setup == Setup::Default {
        return default;
    }
    Config {
        // No limit, because one has the size of each entry counted at each step.
        max_size_per_msg: u64::MAX,
        // With a call for each proposal, one message at a time has those that wait leave together. `batch_append` does
        // so, too, and takes longer.
        max_inflight_msgs: if setup == Setup::Single { 1 } else { 1_024 },
        // Followers learn what is committed with the next entries. It saves messages, and whoever applies later.
        skip_bcast_commit: true,
        ..default
    }
}

fn send(messages: Vec<Message>, network: &mut Network<Peer>) {
    for message in messages {
        network.send(message.to as usize - 1, message);
    }
}

fn apply(entries: &[Entry], applied: &mut Applied) {
    for entry in entries {
        // A new leader begins its term with an empty entry.
        if !entry.data.is_empty() {
            applied.apply(&entry.data);
        }
    }
}

impl Member for Peer {
    type Message = Message;
    type Octets = Octets;

    fn propose(&mut self, commands: &Commands, ops: Range<u64>) {
        if self.setup != Setup::Tuned {
            for op in ops {
                let proposed = self.node.propose(vec![], commands.command(op).to_vec());
                proposed.expect("the leader takes it");
            }
            return;
        }
        let entries = ops.map(|op| Entry {
            data: self.data.of(commands, op),
            ..Entry::default()
        });
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.entries = entries.collect();
        message.from = self.node.raft.id;
        self.node.step(message).expect("the leader takes it");
    }

    fn handle(&mut self, _from: usize, message: Message) {
        self.node.step(message).expect("a good message");
    }

    fn drain(&mut self, network: &mut Network<Self>, applied: &mut Applied) {
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            send(ready.take_messages(), network);
            apply(ready.committed_entries(), applied);
            self.node.mut_store().append(ready.take_entries());
            self.set_hard_state(ready.hs());
            send(ready.take_persisted_messages(), network);
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().hard_state.commit = commit;
            }
            send(light.take_messages(), network);
            apply(light.committed_entries(), applied);
            self.node.advance_apply();
        }
        let applied = self.node.raft.raft_log.applied;
        self.node.mut_store().compact(applied);
    }

    fn due(&self) -> Duration {
        Duration::ZERO
    }

    fn wake(&mut self, _now: Duration) {
        if self.is_leader() {
            self.node.ping();
        } else if self.node.raft.leader_id == raft::INVALID_ID && self.node.raft.id == 1 {
            self.node.campaign().expect("a voter");
        }
    }

    fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn encode(message: &Message) -> Octets {
        codec::encode(message)
    }

    fn decode(octets: Octets) -> Message {
        codec::decode(octets)
    }
}
