//! Tasks that stop: whoever balances flows to one of them is asked how many are left, until there are none.
//!
//! The row of the endpoint says that it drains. Each live member of its network takes it out of its balancer's choices when
//! the row comes, and says from then on how many flows it has; before, it says nothing, and is asked again. Questions and
//! answers are messages of the gossip.

use std::time::Duration;

use overlay_core::{EndpointId, Instant, NetworkId, NodeId};
use overlay_gossip::Member;
use overlay_lb::{BackendId, DrainConfig, DrainOutput};
use serde::{Deserialize, Serialize};

use super::Node;
use crate::wire;

/// What members of a network say to each other about an endpoint that drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum DrainMessage {
    /// How many flows to the endpoint are left at the receiver?
    Ask { from: NodeId, endpoint: EndpointId },
    /// This many.
    Left {
        from: NodeId,
        endpoint: EndpointId,
        flows: u32,
    },
}

impl Node {
    /// Takes the driver's answer to [`Output::CountFlows`](super::Output::CountFlows): how many flows to the endpoint are left, `None` while it is still
    /// given new ones.
    pub fn handle_flows(
        &mut self,
        now: Instant,
        asker: NodeId,
        endpoint: EndpointId,
        flows: Option<u32>,
    ) {
        self.advance(now);
        let (now, own) = (self.now, self.config.node);
        match flows {
            Some(flows) if asker == own => {
                self.drains.handle_answer(now, own, endpoint.into(), flows);
            }
            Some(flows) => {
                let from = own;
                self.say(
                    asker,
                    DrainMessage::Left {
                        from,
                        endpoint,
                        flows,
                    },
                );
            }
            None => {}
        }
        self.settle();
    }

    /// Begins to ask who may have flows to an endpoint of this node.
    pub(super) fn drain(&mut self, network: NetworkId, endpoint: EndpointId, patience: Duration) {
        let gossip = self.gossip.iter();
        let others = gossip.flat_map(|gossip| gossip.network_members(network).filter_map(named));
        // What comes by published ports, this node itself carries to the task.
        let members: Vec<_> = others.chain([self.config.node]).collect();
        let (now, backend) = (self.now, endpoint.into());
        if self.drains.start(now, backend, members, patience).is_err() {
            self.agent.handle_drained(endpoint);
        }
    }

    pub(super) fn on_drain(&mut self, output: DrainOutput) {
        match output {
            DrainOutput::Ask { member, backend } if member == self.config.node => {
                self.counts.push((member, endpoint_of(backend)));
            }
            DrainOutput::Ask { member, backend } => {
                let (from, endpoint) = (self.config.node, endpoint_of(backend));
                self.say(member, DrainMessage::Ask { from, endpoint });
            }
            DrainOutput::Ended { backend, .. } => self.agent.handle_drained(endpoint_of(backend)),
        }
    }

    /// Takes a message of the gossip; what is none of these is ignored.
    pub(super) fn on_user_message(&mut self, bytes: &[u8]) {
        let Some((header, body)) = bytes.split_first_chunk() else {
            return;
        };
        if wire::length_of(KIND, *header) != Ok(body.len()) {
            return;
        }
        match wire::decode_body(body) {
            Ok(DrainMessage::Ask { from, endpoint }) => {
                let asked = (from, endpoint);
                if self.counts.len() < COUNTS_MAX && !self.counts.contains(&asked) {
                    self.counts.push(asked);
                }
            }
            Ok(DrainMessage::Left {
                from,
                endpoint,
                flows,
            }) => {
                let now = self.now;
                self.drains.handle_answer(now, from, endpoint.into(), flows);
            }
            Err(_) => {}
        }
    }

    /// Notes that nothing is to be awaited from a member any more.
    pub(super) fn on_member_gone(&mut self, member: &Member) {
        if let Some(node) = named(member) {
            self.drains.handle_gone(self.now, node);
        }
    }

    fn say(&mut self, to: NodeId, message: DrainMessage) {
        let now = self.now;
        if let Some(gossip) = &mut self.gossip {
            // Asked again, so one that is lost is no matter.
            let _ = gossip.send(now, &to.to_string(), &wire::encode_body(KIND, &message));
        }
    }
}

fn named(member: &Member) -> Option<NodeId> {
    member.name.parse().ok()
}

fn endpoint_of(backend: BackendId) -> EndpointId {
    EndpointId::from_bytes(*backend.as_bytes())
}

/// Within a node's memory; asks are short and far between.
pub(super) const CONFIG: DrainConfig = DrainConfig {
    ask_every: Duration::from_millis(100),
    drains_max: 1_024,
    members_max: 4_096,
};
/// Of these messages among those of the gossip.
const KIND: u8 = b'D';
/// How many questions are counted at a time at the most; more are asked again.
const COUNTS_MAX: usize = 1_024;
