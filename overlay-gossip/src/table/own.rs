//! What this member says itself.

use std::net::SocketAddr;

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, NetworkId};

use super::{
    Row, TableOutput, Tables,
    message::{Attachment, TableMessage, WireRecord},
    network::{Content, Record, content_of, record_digest},
};
use crate::{Name, RowError};

impl Tables {
    /// Joins a network: tell everybody, and fetch its table from some members at once. `alone` says that nobody else is in
    /// the cluster, as far as anybody could know.
    pub(crate) fn join_network(&mut self, now: Instant, network: NetworkId, alone: bool) {
        self.now = now;
        if self.is_joined(network) {
            return;
        }
        let joined = self.new_joined();
        let place = self.networks.entry(network).or_default();
        place.joined = Some(joined);
        for owner in place.owners.values_mut() {
            // Nothing is held of it yet; what comes now is its present word.
            owner.confirmed = true;
        }
        self.attach(network, true);
        self.fetch(network);
        if alone {
            self.synced(network);
        }
    }

    /// Leaves a network: its table is dropped here, and our rows everywhere.
    pub(crate) fn leave_network(&mut self, now: Instant, network: NetworkId) {
        self.now = now;
        if !self.is_joined(network) {
            return;
        }
        let names: Vec<_> = self
            .networks
            .get(&network)
            .map_or_else(Vec::new, |n| n.owners.keys().cloned().collect());
        for name in names {
            let endpoints = self
                .owner(network, &name)
                .map_or_else(Vec::new, |owner| owner.which(|_| true));
            for endpoint in endpoints {
                self.forget(network, &name, endpoint);
            }
            self.asks.remove(&(network, name));
        }
        if let Some(place) = self.networks.get_mut(&network)
            && let Some(joined) = place.joined.take()
        {
            self.stats.broadcasts_dropped += joined.queue.dropped();
        }
        self.attach(network, false);
    }

    /// Puts a row of ours in place.
    pub(crate) fn put_row(
        &mut self,
        now: Instant,
        network: NetworkId,
        row: Row,
    ) -> Result<(), RowError> {
        if !self.is_joined(network) {
            return Err(RowError::NotJoined);
        }
        row.check(network)?;
        let (name, endpoint) = (self.identity.name.clone(), row.endpoint);
        let known = self
            .owner(network, &name)
            .and_then(|owner| owner.get(endpoint));
        if known.and_then(content_of) == Some(&row) {
            self.now = now;
            return Ok(());
        }
        let limit = self.limits.rows_max;
        if known.is_none() && self.rows >= limit {
            return Err(RowError::Full { limit });
        }
        if !self.is_lease_good(network, &name, &row) {
            return Err(RowError::Lease);
        }
        self.now = now;
        let bytes = Bytes::from(row.encode());
        self.write(network, endpoint, Some(Content { bytes, row }));
        Ok(())
    }

    /// Deletes a row of ours; unknown ones are fine.
    pub(crate) fn delete_row(&mut self, now: Instant, network: NetworkId, endpoint: EndpointId) {
        self.now = now;
        let owner = self.owner(network, &self.identity.name);
        let record = owner.and_then(|owner| owner.get(endpoint));
        if record.is_some_and(|record| record.content.is_some()) {
            self.write(network, endpoint, None);
        }
    }

    /// Writes a record of ours with the next version, and tells it.
    pub(super) fn write(
        &mut self,
        network: NetworkId,
        endpoint: EndpointId,
        content: Option<Content>,
    ) {
        let name = self.identity.name.clone();
        let (version, forget_at) = (self.next_version(), self.now + self.timing.tombstone_memory);
        let record = Record::new(&name, endpoint, version, content, forget_at);
        let wire = record.on_wire(&name, endpoint, self.now);
        // Where there is no room to remember a deletion, it is told nevertheless: others hold the row.
        if self.store(network, &name, endpoint, record).is_some() || wire.row.is_none() {
            self.tell(network, &wire);
        }
    }

    /// Somebody speaks of a record of ours.
    pub(super) fn on_own_record(
        &mut self,
        network: NetworkId,
        record: &WireRecord,
        sender: &Name,
        from: SocketAddr,
    ) {
        let digest = record_digest(
            &record.owner,
            record.endpoint,
            record.version,
            record.row.as_deref(),
        );
        self.on_own_version(network, record.endpoint, record.version, digest);
        self.remind_deleted(network, record, sender, from);
    }

    /// Tells who still speaks of a row that was deleted.
    pub(super) fn remind_deleted(
        &mut self,
        network: NetworkId,
        stale: &WireRecord,
        sender: &Name,
        from: SocketAddr,
    ) {
        let owner = self.owner(network, &stale.owner);
        let known = owner.and_then(|owner| owner.get(stale.endpoint));
        let deleted = known.filter(|known| known.content.is_none());
        let deleted = deleted.filter(|known| known.version > stale.version && stale.row.is_some());
        if let Some(known) = deleted {
            let reminder = known.on_wire(&stale.owner, stale.endpoint, self.now);
            let reminder = self.news(network, vec![reminder]);
            self.send(sender, Some(from), &reminder);
        }
    }

    /// Says whether we are in a network.
    pub(super) fn attach(&mut self, network: NetworkId, joined: bool) {
        self.identity.former.remove(&network);
        let (version, name) = (self.next_version(), self.identity.name.clone());
        let attachment = self.attachment(network, version, joined);
        let forget_at = self.now + self.timing.tombstone_memory;
        let Some(owner) = self.owner_place(network, &name) else {
            return;
        };
        owner.attachment = Some(attachment.clone());
        owner.expires = (!joined).then_some(forget_at);
        owner.confirmed = true;
        if !joined {
            self.prune_by(forget_at);
        }
        self.announce(&attachment);
    }

    /// Tells an attachment of ours to everybody, and to some members of the network and its directory at once.
    pub(super) fn announce(&mut self, attachment: &Attachment) {
        let message = TableMessage::Attachments(vec![attachment.clone()]);
        self.outputs.push_back(TableOutput::Broadcast {
            owner: attachment.owner.clone(),
            network: attachment.network,
            bytes: message.encode(),
            own: true,
        });
        let mut told = self.random_members(attachment.network, self.timing.row_fanout);
        for peer in self.directory(attachment.network) {
            // The question says the same.
            if attachment.joined && self.enquire(attachment, &peer) {
                told.retain(|told| *told != peer);
            } else if !told.contains(&peer) {
                told.push(peer);
            }
        }
        for peer in told {
            self.send(&peer, None, &message);
        }
    }

    /// Tells a record of ours: at once to some members of the network, then with the gossip.
    fn tell(&mut self, network: NetworkId, record: &WireRecord) {
        self.queue(network, record, true);
        if self.now.duration_since(self.timers.burst_from) >= self.timing.gossip_interval {
            self.timers.burst_from = self.now;
            self.timers.burst = 0;
        }
        if self.timers.burst >= BURST_MAX {
            return;
        }
        self.timers.burst += 1;
        let message = self.news(network, vec![record.clone()]);
        for peer in self.random_members(network, self.timing.row_fanout) {
            self.send(&peer, None, &message);
        }
    }
}

/// Most own records that leave at once between two rounds of gossip; more wait for the round, which packs them.
const BURST_MAX: usize = 32;
