//! What simulated hosts send each other, in place of the sockets of the driver.

use serde::{Deserialize, Serialize};

use crate::{agent::Assignment, state::AddNode};
use overlay_core::NodeId;

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Packet {
    /// TCP 2377 without a certificate: let me in.
    Join(AddNode),
    /// And its answer.
    Admitted(Box<Assignment>),
    /// TCP 2377: a frame of a management session, and what the certificate says.
    Peer {
        node: NodeId,
        manager: bool,
        frame: Vec<u8>,
    },
    /// UDP 7946.
    Gossip(Vec<u8>),
    /// TCP 7946: dial, the connection stands, octets, end. Numbers are the dialler's.
    Open(u64),
    Opened(u64),
    Data {
        id: u64,
        dialler: bool,
        bytes: Vec<u8>,
    },
    Close {
        id: u64,
        dialler: bool,
    },
    /// UDP 4789.
    Vxlan(Vec<u8>),
    /// A datagram to the port of ESP.
    Esp(Vec<u8>),
}

impl Packet {
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("every packet serializes")
    }

    /// Reads a packet; one that the network damaged may be none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}
