//! News of rows: packets to members of their network.

use std::net::SocketAddr;

use bytes::Bytes;
use overlay_core::NetworkId;

use super::{
    TableOutput, Tables,
    message::{Purpose, Rows, TableMessage, WireRecord},
    network::OwnerTable,
};
use crate::{Name, queue::retransmits};

impl Tables {
    pub(super) fn send(&mut self, to: &Name, via: Option<SocketAddr>, message: &TableMessage) {
        self.outputs.push_back(TableOutput::Send {
            to: to.clone(),
            via,
            bytes: message.encode(),
        });
    }

    /// Queues a record for the members of its network.
    pub(super) fn queue(&mut self, network: NetworkId, record: &WireRecord, own: bool) {
        let bytes = postcard::to_allocvec(record)
            .expect("a vector takes every octet, and no field has an unknown length");
        let joined = self.networks.get_mut(&network);
        let Some(joined) = joined.and_then(|network| network.joined.as_mut()) else {
            return;
        };
        let key = (record.owner.clone(), record.endpoint);
        joined.queue.push(key, Bytes::from(bytes), own);
        let at = self.now + self.timing.gossip_interval;
        self.timers.gossip_at.get_or_insert(at);
    }

    /// One round of gossip: of each network with news, some packets to some members.
    pub(super) fn gossip(&mut self) {
        self.timers.gossip_at = None;
        let joined = self
            .networks
            .iter()
            .filter_map(|(id, n)| Some((id, n.joined.as_ref()?)));
        let speaking = joined.filter(|(_, joined)| !joined.queue.is_empty());
        let ids: Vec<NetworkId> = speaking.map(|(id, _)| *id).collect();
        for id in ids {
            let peers = self.random_members(id, self.timing.gossip_nodes);
            let members = self.network_members(id).count();
            let times_max = retransmits(self.timing.retransmit_mult, members);
            for _ in 0..ROW_PACKETS_MAX {
                for peer in &peers {
                    self.gossip_to(id, peer, times_max);
                }
            }
            let Some(joined) = self.networks.get(&id).and_then(|n| n.joined.as_ref()) else {
                continue;
            };
            if !joined.queue.is_empty() {
                let at = self.now + self.timing.gossip_interval;
                self.timers.gossip_at.get_or_insert(at);
            }
        }
    }

    pub(super) fn gossip_to(&mut self, id: NetworkId, peer: &Name, times_max: u32) {
        let budget = self.packet_bytes.saturating_sub(ROWS_HEAD_BYTES);
        let joined = self.networks.get_mut(&id).and_then(|n| n.joined.as_mut());
        let Some(joined) = joined else { return };
        let taken = joined.queue.take(budget, 0, RECORDS_MAX, times_max);
        let records: Vec<WireRecord> = taken
            .iter()
            .filter_map(|bytes| postcard::from_bytes(bytes).ok())
            .collect();
        if !records.is_empty() {
            let rows = self.news(id, records);
            self.send(peer, None, &rows);
        }
    }

    pub(super) fn news(&self, network: NetworkId, records: Vec<WireRecord>) -> TableMessage {
        TableMessage::Rows(Rows {
            sender: self.identity.name.clone(),
            network,
            purpose: Purpose::News,
            records,
            wanted: Vec::new(),
        })
    }

    pub(super) fn random_members(&mut self, network: NetworkId, count: usize) -> Vec<Name> {
        let members = self.network_members(network).cloned().collect();
        self.random(members, count)
    }

    /// Returns a member to compare tables with: one of the network, or one that has rows there and never said that it is.
    pub(super) fn random_speaker(&mut self, network: NetworkId) -> Option<Name> {
        let owners = self.networks.get(&network).map(|network| &network.owners);
        let speaks = |owner: &OwnerTable| match &owner.attachment {
            Some(attachment) => attachment.joined,
            None => owner.rows().next().is_some(),
        };
        let speakers = owners
            .into_iter()
            .flatten()
            .filter(|(name, owner)| self.is_up(name) && speaks(owner))
            .map(|(name, _)| name.clone());
        let speakers = speakers.collect();
        self.random(speakers, 1).pop()
    }

    fn random(&mut self, mut members: Vec<Name>, count: usize) -> Vec<Name> {
        for at in 0..count.min(members.len()) {
            if let Some(other) = self.rng.index(members.len() - at) {
                members.swap(at, at + other);
            }
        }
        members.truncate(count);
        members
    }
}

/// Most packets with rows of one network to one member in one round.
const ROW_PACKETS_MAX: usize = 4;
/// Most records in one packet.
const RECORDS_MAX: usize = 100;
/// Octets around the records of a packet: type, head, sender, network, purpose, counts.
const ROWS_HEAD_BYTES: usize = 1 + 7 + 1 + crate::NAME_BYTES_MAX + 16 + 1 + 2 + 1;
