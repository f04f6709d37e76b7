//! The node: frames of management sessions, join tokens, the cluster state, and what peers say.

use std::time::Duration;

use overlay_core::{Instant, Machine, NodeId, Seed};
use overlay_node::{
    Boot, Config, ManagerBoot, Node, Output, Peer, RequestToken,
    api::Role,
    identity::JoinToken,
    state::{ClusterSeed, ClusterState, Proposal},
    wire,
};
use overlay_raft::{RaftId, Restored};

use crate::input::Input;

/// A frame: what reads is written, and reads the same.
pub fn node_frame(bytes: &[u8]) {
    let Ok(message) = wire::decode(bytes) else {
        return;
    };
    let frame = wire::encode(&message);
    let again = wire::decode(&frame).expect("what was written reads");
    assert_eq!(wire::encode(&again), frame);
}

/// A join token as somebody typed it.
pub fn node_token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string(), text.trim());
    }
}

/// Commands with their lengths, applied to the state that follows them; to a fresh one if it does not read.
pub fn node_state(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut proposals = Vec::new();
    for _ in 0..input.u8() % 32 {
        if let Ok(proposal) = postcard::from_bytes::<Proposal>(input.bytes()) {
            proposals.push(proposal);
        }
    }
    let mut state = ClusterState::restore(input.rest()).unwrap_or_default();
    for proposal in proposals {
        let Some(index) = state.applied().checked_add(1) else {
            break;
        };
        let _ = state.apply(index, proposal);
    }
    let again = ClusterState::restore(&state.snapshot()).expect("what was written reads");
    assert_eq!(again.hash(), state.hash());
}

/// A manager that leads, and peers of either role that say anything.
pub fn node_peer(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut now = Instant::from_millis(1);
    let mut node = leader(&mut now);
    for _ in 0..100 {
        if input.is_empty() {
            break;
        }
        let op = input.u8();
        let role = if op & 1 == 0 {
            Role::Worker
        } else {
            Role::Manager
        };
        let number = input.u8();
        let peer = Peer {
            node: NodeId::from_bytes([number % 4; 16]),
            role,
        };
        if op & 6 == 6 {
            now += Duration::from_millis(u64::from(number) * 8);
            node.handle_timeout(now);
        } else {
            let mut frame = input.bytes().to_vec();
            if op & 8 == 0 {
                let length = u32::try_from(frame.len()).expect("a frame is short");
                let header = [b'M', 1].into_iter().chain(length.to_be_bytes());
                frame.splice(0..0, header);
            }
            let _ = node.handle_peer(now, peer, &frame);
        }
        drain(&mut node, now);
    }
}

/// Boots a node that makes a cluster of its own.
fn leader(now: &mut Instant) -> Node {
    let seed = Seed::from_u64(1);
    let config = Config::new(NodeId::from_bytes([1; 16]), "one", [127, 0, 0, 1].into());
    let raft = RaftId::new(1).expect("not zero");
    let manager = ManagerBoot {
        raft,
        cluster: NodeId::from_bytes([7; 16]),
        epoch: 0,
        restored: Restored::bootstrap([raft]),
    };
    let boot = Boot {
        memory: Default::default(),
        manager: Some(manager),
        seeds: Vec::new(),
    };
    let mut rng = seed.derive("cluster").rng();
    let cluster = ClusterSeed::generate(&mut rng, &config, "certificate".into(), "key".into());
    let mut node = Node::new(config, seed, *now, boot).expect("good settings");
    node.initialize(*now, RequestToken(1), cluster);
    for _ in 0..10 {
        drain(&mut node, *now);
        if node.leads() && node.cluster().is_some() {
            return node;
        }
        *now = node.poll_timeout().unwrap_or(*now).max(*now);
        node.handle_timeout(*now);
    }
    unreachable!("a sole voter leads soon");
}

fn drain(node: &mut Node, now: Instant) {
    while let Some(output) = node.poll_output() {
        match output {
            Output::Persist(batch) => {
                let (_, ticket) = batch.into_parts();
                node.handle_persisted(now, ticket);
            }
            Output::CreatePort(port) => node.handle_port(now, port.endpoint, Ok(())),
            Output::Plane { number, .. } => node.handle_plane(now, number),
            _ => {}
        }
    }
    if let Some(state) = node.state() {
        let again = ClusterState::restore(&state.snapshot()).expect("what was written reads");
        assert_eq!(again.hash(), state.hash());
    }
}
