//! What others say: attachments and rows.

use std::{net::SocketAddr, time::Duration};

use overlay_core::NetworkId;

use super::{
    TableOutput, Tables, ZERO,
    message::{Attachment, Purpose, Rows, TableMessage, WireRecord},
    network::{Record, record_digest},
};
use crate::{Event, Name};

impl Tables {
    /// An attachment of somebody became known. `from` is set if its owner said it itself.
    pub(super) fn on_attachment(&mut self, attachment: Attachment, from: Option<SocketAddr>) {
        if self.is_own(&attachment.owner) {
            self.on_own_attachment(&attachment);
            return;
        }
        let (network, name) = (attachment.network, attachment.owner.clone());
        let forget_at = self.now + self.timing.tombstone_memory;
        let stranger = !self.members.contains_key(&name);
        let known = self.owner(network, &name);
        let known_life = known.and_then(|owner| Some(owner.attachment.as_ref()?.life));
        // In the same life it says all its rows anew at once; in a new one it first has to find what it still runs.
        let grace = if known_life == Some(attachment.life) {
            self.timing.row_grace.min(self.timing.sync_interval)
        } else {
            self.timing.row_grace
        };
        let Some(owner) = self.owner_place(network, &name) else {
            return;
        };
        let known = owner.attachment.as_ref();
        if known.is_some_and(|known| known.version >= attachment.version) {
            self.remind(&attachment, from);
            return;
        }
        let was = owner.is_attached();
        let joined = attachment.joined;
        let message = TableMessage::Attachments(vec![attachment.clone()]);
        owner.attachment = Some(attachment);
        if !stranger {
            owner.expires = (!joined).then_some(forget_at);
        }
        if !joined {
            self.prune_by(forget_at);
        }
        self.void_older(network, &name, joined, grace);
        if self.is_up(&name) {
            match (was, joined) {
                (false, true) => self.network_member_joined(network, &name),
                (true, false) => self.network_member_left(network, &name),
                // It began anew: fetch its rows.
                (true, true) => self.sync_with(network, &name),
                (false, false) => {}
            }
        }
        self.outputs.push_back(TableOutput::Broadcast {
            owner: name,
            network,
            bytes: message.encode(),
            own: false,
        });
    }

    /// An owner may have forgotten what it said in a former life: tells it, at once if it spoke itself.
    fn remind(&mut self, stale: &Attachment, from: Option<SocketAddr>) {
        let (now, interval) = (self.now, self.timing.sync_retry);
        let Some(owner) = self.owner_mut(stale.network, &stale.owner) else {
            return;
        };
        let known = owner.attachment.clone().filter(|known| known != stale);
        let known = match known {
            Some(known) if from.is_some() => Some(known),
            Some(known) if known.life != stale.life => owner.reminder(now, interval),
            _ => None,
        };
        if let Some(known) = known {
            self.send(&stale.owner, from, &TableMessage::Attachments(vec![known]));
        }
    }

    /// Voids what an owner said before its last attachment.
    pub(super) fn void_older(
        &mut self,
        network: NetworkId,
        name: &Name,
        joined: bool,
        grace: Duration,
    ) {
        let visible = self.is_owner_visible(network, name);
        let expires = self.now + grace;
        let Some(owner) = self.owner_mut(network, name) else {
            return;
        };
        let floor = owner.floor();
        let older = owner.which(|record| !joined || record.version < floor);
        if !older.is_empty() {
            self.prune_by(expires);
        }
        for endpoint in older {
            let live = self
                .owner(network, name)
                .and_then(|owner| owner.get(endpoint))
                .is_some_and(|record| record.content.is_some());
            if joined && visible && live {
                if let Some(owner) = self.owner_mut(network, name) {
                    owner.outdate(endpoint, expires);
                }
            } else {
                self.forget(network, name, endpoint);
            }
        }
    }

    pub(super) fn on_rows(&mut self, from: SocketAddr, rows: Rows) {
        let network = rows.network;
        if !self.is_joined(network) {
            self.stats.rows_not_joined += 1;
            return;
        }
        let relay = rows.purpose == Purpose::News || rows.records.len() <= RELAYED_MAX;
        for record in rows.records {
            self.apply(network, record, &rows.sender, from, relay);
        }
        self.answer_wanted(network, &rows.sender, from, &rows.wanted);
        match rows.purpose {
            Purpose::News => {}
            Purpose::Part => {
                self.synced(network);
                self.sync_with(network, &rows.sender);
            }
            Purpose::Whole => {
                self.confirm(network, &rows.sender);
                self.synced(network);
            }
        }
    }

    /// Takes a record if it is newer than what is there.
    pub(super) fn apply(
        &mut self,
        network: NetworkId,
        wire: WireRecord,
        sender: &Name,
        from: SocketAddr,
        relay: bool,
    ) {
        if self.is_own(&wire.owner) {
            self.on_own_record(network, &wire, sender, from);
            return;
        }
        let (name, endpoint) = (wire.owner.clone(), wire.endpoint);
        let digest = record_digest(&name, endpoint, wire.version, wire.row.as_deref());
        let (now, interval) = (self.now, self.timing.sync_retry);
        let Some(owner) = self.owner_place(network, &name) else {
            return;
        };
        if owner.is_void(wire.version) {
            // Said before it attached anew. The sender missed that; if it is the owner, it forgot a former life.
            if let Some(known) = owner.reminder(now, interval) {
                self.send(sender, Some(from), &TableMessage::Attachments(vec![known]));
            }
            return;
        }
        if let Some(known) = owner.get(endpoint)
            && (known.version, known.digest) >= (wire.version, digest)
        {
            let differs = (known.version, known.digest) != (wire.version, digest);
            if differs && *sender == name {
                let reminder = known.on_wire(&name, endpoint, now);
                let reminder = self.news(network, vec![reminder]);
                self.send(&name, Some(from), &reminder);
            } else if differs {
                self.remind_deleted(network, &wire, sender, from);
            }
            return;
        }
        let Some(content) = self.admit(network, &wire) else {
            return;
        };
        let memory = Duration::from_secs(u64::from(wire.memory_seconds));
        let forget_at = self.now + memory.min(self.timing.tombstone_memory);
        let record = Record::new(&name, endpoint, wire.version, content, forget_at);
        if self.store(network, &name, endpoint, record).is_some() && relay {
            self.queue(network, &wire, false);
        }
    }

    /// The rows that are held of an owner are its present word.
    pub(super) fn confirm(&mut self, network: NetworkId, name: &Name) {
        let up = self.is_up(name);
        let Some(owner) = self.owner_mut(network, name) else {
            return;
        };
        if owner.confirmed || !up {
            return;
        }
        owner.confirmed = true;
        self.asks.remove(&(network, name.clone()));
        self.announce_rows(network, name, true);
    }

    pub(super) fn synced(&mut self, network: NetworkId) {
        let place = self.networks.get_mut(&network);
        let Some(joined) = place.and_then(|network| network.joined.as_mut()) else {
            return;
        };
        if !joined.synced {
            joined.synced = true;
            joined.sync_at = self.now + self.rng.duration(ZERO..self.timing.sync_interval);
            let event = Event::NetworkSynced { network };
            self.outputs.push_back(TableOutput::Event(event));
        }
    }

    /// Compares tables with `peer` soon.
    pub(super) fn sync_with(&mut self, network: NetworkId, peer: &Name) {
        let soon = self.now + self.rng.duration(ZERO..self.timing.gossip_interval);
        let place = self.networks.get_mut(&network);
        if let Some(joined) = place.and_then(|network| network.joined.as_mut()) {
            joined.sync_at = joined.sync_at.min(soon);
            joined.next_peer = Some(peer.clone());
        }
    }
}

/// Answers with more rows than these are not passed on: others will find them by their own digests.
const RELAYED_MAX: usize = 64;
