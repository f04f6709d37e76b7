//! What this member says itself, and what is left of its former lives.

use std::net::SocketAddr;

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, NetworkId};

use super::{
    Row, TableOutput, Tables,
    message::{Attachment, TableMessage, Version, WireRecord, Wish},
    network::{Content, Record, content_of, record_digest},
};
use crate::{Name, RowError};

impl Tables {
    /// Joins a network: tell everybody, and fetch its table from some members at once.
    pub(crate) fn join_network(&mut self, now: Instant, network: NetworkId) {
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
        for peer in self.random_members(network, self.timing.sync_fanout) {
            self.send_digest(network, &peer, Wish::Everything);
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
        if self.store(network, &name, endpoint, record).is_some() {
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

    /// Somebody holds this version of a record of ours: is it what we said?
    pub(super) fn on_own_version(
        &mut self,
        network: NetworkId,
        endpoint: EndpointId,
        version: Version,
        digest: u64,
    ) {
        let Some(owner) = self.owner(network, &self.identity.name) else {
            return;
        };
        if version < owner.floor() {
            return;
        }
        let known = owner.get(endpoint);
        let same = known.is_some_and(|known| {
            known.version > version || (known.version == version && known.digest == digest)
        });
        if same {
            return;
        }
        if version > self.identity.version || known.is_some_and(|k| k.version == version) {
            self.renew(version.incarnation);
        } else if known.is_none() && digest != 0 {
            self.stats.strays_deleted += 1;
            self.write(network, endpoint, None);
        }
    }

    /// Somebody speaks of an attachment of ours.
    pub(super) fn on_own_attachment(&mut self, attachment: &Attachment) {
        let ours = attachment.life == self.identity.life;
        if ours && attachment.version <= self.identity.version {
            return;
        }
        if attachment.version.incarnation >= self.identity.version.incarnation {
            self.renew(attachment.version.incarnation);
        }
        let known = self.owner(attachment.network, &self.identity.name);
        match known.and_then(|owner| owner.attachment.clone()) {
            Some(known) if known.version > attachment.version => self.announce(&known),
            Some(_) => {}
            None if attachment.joined => self.leave_former(attachment.network),
            None => {}
        }
    }

    /// A former life of this member was in a network. It may be about to join it again: only then its rows there stay
    /// visible without a gap. If it does not, it says after a while that it left.
    pub(super) fn leave_former(&mut self, network: NetworkId) {
        if self.identity.former.len() < self.limits.networks_max {
            let at = self.now + self.timing.row_grace;
            self.identity.former.entry(network).or_insert(at);
        }
    }

    pub(super) fn former_due(&mut self) {
        let now = self.now;
        let due = self.identity.former.iter().filter(|(_, at)| **at <= now);
        let due: Vec<NetworkId> = due.map(|(network, _)| *network).collect();
        for network in due {
            self.identity.former.remove(&network);
            let limits = &self.limits;
            let room =
                self.networks.len() < limits.networks_max || self.networks.contains_key(&network);
            if room && self.attachments < limits.attachments_max {
                self.attach(network, false);
            } else {
                self.stats.attachments_refused += 1;
            }
        }
    }

    /// Outdates what a former life of this member said, by saying everything anew in a higher incarnation.
    fn renew(&mut self, seen: u32) {
        if self.now < self.identity.renew_after || seen < self.identity.version.incarnation {
            return;
        }
        let Some(incarnation) = seen.checked_add(1) else {
            return;
        };
        self.stats.renewals += 1;
        self.identity.renew_after = self.now + self.timing.sync_retry;
        self.identity.version = Version {
            incarnation,
            sequence: 0,
        };
        let name = self.identity.name.clone();
        for (network, joined, _) in self.where_owner(&name) {
            self.attach(network, joined);
            let Some(owner) = self.owner(network, &name) else {
                continue;
            };
            let records: Vec<_> = owner
                .records()
                .map(|(endpoint, record)| (endpoint, record.content.clone()))
                .collect();
            for (endpoint, content) in records {
                self.write(network, endpoint, content);
            }
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

    /// Tells an attachment of ours to everybody, and to some members of the network at once.
    fn announce(&mut self, attachment: &Attachment) {
        let message = TableMessage::Attachments(vec![attachment.clone()]);
        self.outputs.push_back(TableOutput::Broadcast {
            owner: attachment.owner.clone(),
            network: attachment.network,
            bytes: message.encode(),
            own: true,
        });
        for peer in self.random_members(attachment.network, self.timing.row_fanout) {
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

    fn next_version(&mut self) -> Version {
        let version = &mut self.identity.version;
        version.sequence = version.sequence.saturating_add(1);
        *version
    }
}

/// Most own records that leave at once between two rounds of gossip; more wait for the round, which packs them.
const BURST_MAX: usize = 32;
