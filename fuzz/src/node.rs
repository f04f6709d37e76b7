//! The node: frames of management sessions, join tokens, the cluster state, and what peers say.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use overlay_core::{Instant, Machine, NodeId, Seed};
use overlay_gossip::{
    Keyring,
    wire::{Alive, Message, PacketCodec, Versions},
};
use overlay_node::{
    Boot, Config, ManagerBoot, Node, Output, Peer, RequestToken,
    api::Role,
    identity::{JoinToken, cipher::Ciphers},
    state::{AddNode, ClusterSeed, ClusterState, Proposal, Secret},
    wire,
};
use overlay_raft::{RaftId, Restored};
use serde::{Deserialize, Serialize};

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

/// What a node asks for that has no certificate yet: the same parts in the same order as the driver reads them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Bootstrap {
    Join {
        secret: Secret<16>,
        request: String,
        node: AddNode,
    },
    Renew {
        request: String,
    },
}

/// The body of an ask of whoever has no certificate: what reads is written, and reads the same; a secret has its length.
pub fn node_join(bytes: &[u8]) {
    let Ok(ask) = postcard::from_bytes::<Bootstrap>(bytes) else {
        return;
    };
    if let Bootstrap::Join { secret, .. } = &ask {
        assert_eq!(secret.expose().len(), 16);
    }
    let written = postcard::to_allocvec(&ask).expect("what reads is written");
    let again = postcard::from_bytes::<Bootstrap>(&written);
    assert_eq!(again.as_ref(), Ok(&ask));
}

/// What members say of themselves, sealed with the cluster's key: nobody whose words are not signed is taken for a member, and
/// nobody else's words for the node's own.
///
/// A step begins with whose name it is (the node's, another node's, or any octets), then where it is.
pub fn node_member(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut now = Instant::from_millis(1);
    let mut node = leader(&mut now);
    let keys = &node.assignment().expect("it leads").standing.keys;
    let (_, key) = keys.sealing().expect("there are keys");
    let keyring = Keyring::new(Arc::new(Ciphers), key.expose()).expect("a good key");
    let codec = PacketCodec {
        label: b"",
        keyring: Some(&keyring),
        verify_incoming: true,
        verify_outgoing: true,
        compress: false,
        decompressed_bytes_max: 65_536,
    };
    let own = own(&node);
    for number in 0..50 {
        if input.is_empty() {
            break;
        }
        let (whose, place) = (input.u8(), input.u8());
        let name = match whose % 3 {
            0 => own.node.clone(),
            1 => NodeId::from_bytes([whose; 16]).to_string(),
            _ => String::from_utf8_lossy(input.bytes()).into_owned(),
        };
        let is_sound = whose % 3 < 2;
        let alive = Message::Alive(Alive {
            incarnation: u32::from(input.u8()) + number,
            node: name,
            address: match place % 2 {
                0 => own.address,
                _ => SocketAddr::from(([192, 0, 2, place], 7_946)),
            },
            meta: input.bytes().iter().copied().take(META_BYTES_MAX).collect(),
            versions: Versions([1, 5, 2, 0, 0, 0]),
        });
        let nonce = [u8::try_from(number).unwrap_or_default(); 12];
        let packet = codec.encode(&[&alive.encode()], true, nonce);
        let from = SocketAddr::from(([192, 0, 2, 9], 7_946));
        let malformed = |node: &Node| node.gossip().map(|gossip| gossip.stats().malformed);
        let before = malformed(&node);
        node.handle_gossip_datagram(now, from, &packet.expect("one part fits"));
        assert!(
            !is_sound || malformed(&node) == before,
            "it is sealed as the node does"
        );
        drain(&mut node, now);
        now += Duration::from_millis(200);
        node.handle_timeout(now);
        drain(&mut node, now);
        let gossip = node.gossip().expect("it is a member");
        let others = gossip.members().filter(|member| *member.name != *own.node);
        assert_eq!(others.count(), 0, "somebody was taken for a member");
        assert_eq!(gossip.local().address, own.address);
        assert_eq!(gossip.local().meta[..], own.meta[..]);
    }
}

/// Octets that a member may say of itself (memberlist).
const META_BYTES_MAX: usize = 512;

/// What the node of [`node_member`] says of itself.
pub fn own_member() -> Vec<u8> {
    own(&leader(&mut Instant::from_millis(1))).meta
}

fn own(node: &Node) -> Alive {
    let gossip = node.gossip().expect("it is a member");
    let local = gossip.local();
    Alive {
        incarnation: local.incarnation.0,
        node: local.name.to_string(),
        address: local.address,
        meta: local.meta.to_vec(),
        versions: local.versions,
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
