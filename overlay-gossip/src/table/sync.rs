//! The exchange that finds what was missed.
//!
//! ```text
//! A: Digest ── equal: silence ──▶ B
//! A ◀── Summary: a digest for each owner ── B
//! A: Versions of the owners that differ ──▶ B
//! A ◀── Rows that A lacks, and which B wants ── B
//! A: Rows ──▶ B
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use overlay_core::{EndpointId, NetworkId};

use super::{
    Ask, Tables, ZERO,
    message::{
        Attachment, Digest, OwnerHash, OwnerVersions, Purpose, RecordVersion, Rows, Summary,
        TableMessage, Version, Versions, WireRecord, Wish,
    },
    network::OwnerTable,
};
use crate::Name;

impl Tables {
    pub(super) fn on_digest(&mut self, from: SocketAddr, digest: Digest) {
        let (network, sender) = (digest.attachment.network, digest.attachment.owner.clone());
        self.on_attachment(digest.attachment, Some(from));
        if self.is_own(&sender) {
            return;
        }
        if !self.is_joined(network) {
            self.deny(network, &sender, from);
            return;
        }
        let held = self.owner(network, &sender).map_or(0, OwnerTable::digest);
        if held == digest.own {
            self.confirm(network, &sender);
        }
        let equal = self.digest(network) == digest.table;
        match digest.wish {
            Wish::Everything => self.answer_everything(network, &sender, from),
            Wish::Differences if equal => self.stats.digests_equal += 1,
            Wish::Differences | Wish::Word => {
                self.stats.digests_unequal += u64::from(!equal);
                self.send_summary(network, &sender, from);
            }
        }
    }

    /// Somebody believes that we are in a network: we are not.
    fn deny(&mut self, network: NetworkId, sender: &Name, from: SocketAddr) {
        let name = self.identity.name.clone();
        if self.owner(network, &name).is_none() {
            self.leave_former(network);
        }
        let known = self.owner(network, &name);
        if let Some(attachment) = known.and_then(|owner| owner.attachment.clone()) {
            let message = TableMessage::Attachments(vec![attachment]);
            self.send(sender, Some(from), &message);
        }
    }

    fn answer_everything(&mut self, network: NetworkId, sender: &Name, from: SocketAddr) {
        let Some(place) = self.networks.get(&network) else {
            return;
        };
        let mut records = Vec::new();
        for (name, owner) in &place.owners {
            if name != sender && self.is_visible(name, owner) {
                // Deletions, too: without them an old packet could bring a row back.
                let told = owner.records().filter(|(_, record)| !record.outdated);
                records.extend(told.map(|(id, record)| record.on_wire(name, id, self.now)));
            }
        }
        self.send_records(network, sender, from, records, Vec::new(), true);
    }

    fn send_summary(&mut self, network: NetworkId, to: &Name, from: SocketAddr) {
        let Some((place, attachment)) = self.place(network) else {
            return;
        };
        let visible = place
            .owners
            .iter()
            .filter(|(name, owner)| self.is_visible(name, owner) && owner.digest() != 0);
        let owners = visible.map(|(_, owner)| (owner.hash, owner.digest()));
        let summary = Summary {
            attachment,
            owners: owners.collect(),
        };
        self.send(to, Some(from), &TableMessage::Summary(summary));
    }

    pub(super) fn on_summary(&mut self, from: SocketAddr, summary: Summary) {
        let (network, sender) = (summary.attachment.network, summary.attachment.owner.clone());
        self.on_attachment(summary.attachment, Some(from));
        if !self.is_joined(network) || self.is_own(&sender) {
            return;
        }
        let theirs: BTreeMap<OwnerHash, u64> = summary.owners.into_iter().collect();
        let Some(place) = self.networks.get(&network) else {
            return;
        };
        let sender_hash = OwnerHash::of(&sender);
        let (mut differing, mut known) = (Vec::new(), BTreeSet::new());
        for (name, owner) in &place.owners {
            known.insert(owner.hash);
            // Owners that wait for their own word are not judged by hearsay.
            let judged = *name == sender || self.is_visible(name, owner);
            let digest = theirs.get(&owner.hash).copied().unwrap_or(0);
            if judged && owner.digest() != digest {
                differing.push(OwnerVersions::all(owner.hash, versions_of(owner)));
            }
        }
        let unknown = theirs.keys().filter(|hash| !known.contains(hash));
        differing.extend(unknown.map(|hash| OwnerVersions::all(*hash, Vec::new())));
        if !differing.iter().any(|owner| owner.owner == sender_hash) {
            self.confirm(network, &sender);
        }
        if differing.is_empty() {
            self.synced(network);
            return;
        }
        let message = TableMessage::Versions(Versions {
            sender: self.identity.name.clone(),
            network,
            owners: self.cut(differing),
        });
        self.send(&sender, Some(from), &message);
    }

    pub(super) fn on_versions(&mut self, from: SocketAddr, versions: Versions) {
        let (network, sender) = (versions.network, versions.sender);
        if !self.is_joined(network) {
            self.deny(network, &sender, from);
            return;
        }
        let names: BTreeMap<OwnerHash, Name> = self
            .networks
            .get(&network)
            .into_iter()
            .flat_map(|place| &place.owners)
            .map(|(name, owner)| (owner.hash, name.clone()))
            .collect();
        let (mut records, mut wanted, mut own) = (Vec::new(), Vec::new(), false);
        for theirs in versions.owners {
            let hash = theirs.owner;
            let Some(name) = names.get(&hash) else {
                let live = theirs.rows.iter().filter(|version| version.digest != 0);
                wanted.extend(live.map(|version| (hash, version.endpoint)));
                continue;
            };
            if self.is_own(name) {
                own = theirs.is_all();
                for version in &theirs.rows {
                    self.on_own_version(network, version.endpoint, version.version, version.digest);
                }
            }
            self.compare(network, name, &theirs, &mut records, &mut wanted);
        }
        if own || !records.is_empty() || !wanted.is_empty() {
            self.send_records(network, &sender, from, records, wanted, own);
        }
    }

    /// Finds what the other side lacks of an owner's records, and what we lack.
    fn compare(
        &self,
        network: NetworkId,
        name: &Name,
        theirs: &OwnerVersions,
        records: &mut Vec<WireRecord>,
        wanted: &mut Vec<(OwnerHash, EndpointId)>,
    ) {
        let Some(owner) = self.owner(network, name) else {
            return;
        };
        let listed: BTreeMap<EndpointId, (Version, u64)> = theirs
            .rows
            .iter()
            .map(|listed| (listed.endpoint, (listed.version, listed.digest)))
            .collect();
        for (endpoint, record) in owner.records() {
            if record.outdated || !theirs.covers(endpoint) {
                continue;
            }
            let ours = (record.version, record.digest);
            let lacks = match listed.get(&endpoint) {
                Some(theirs) => *theirs < ours,
                None => record.content.is_some() && self.is_visible(name, owner),
            };
            if lacks {
                records.push(record.on_wire(name, endpoint, self.now));
            }
        }
        if self.is_own(name) {
            return;
        }
        for (endpoint, theirs) in listed {
            let lack = match owner.get(endpoint) {
                Some(record) => (record.version, record.digest) < theirs,
                None => theirs.1 != 0 && !owner.is_void(theirs.0),
            };
            if lack {
                wanted.push((owner.hash, endpoint));
            }
        }
    }

    pub(super) fn answer_wanted(
        &mut self,
        network: NetworkId,
        sender: &Name,
        from: SocketAddr,
        wanted: &[(OwnerHash, EndpointId)],
    ) {
        if wanted.is_empty() {
            return;
        }
        let Some(place) = self.networks.get(&network) else {
            return;
        };
        let names: BTreeMap<OwnerHash, &Name> = place
            .owners
            .iter()
            .map(|(name, owner)| (owner.hash, name))
            .collect();
        let found = wanted.iter().filter_map(|(hash, endpoint)| {
            let name = *names.get(hash)?;
            let record = place.owners.get(name)?.get(*endpoint)?;
            Some(record.on_wire(name, *endpoint, self.now))
        });
        let records = found.collect();
        self.send_records(network, sender, from, records, Vec::new(), false);
    }

    /// Sends rows as an answer; as much as one answer may hold. The rest comes with the next digest.
    fn send_records(
        &mut self,
        network: NetworkId,
        to: &Name,
        from: SocketAddr,
        records: Vec<WireRecord>,
        wanted: Vec<(OwnerHash, EndpointId)>,
        whole: bool,
    ) {
        let (count, mut left) = (records.len(), self.limits.sync_bytes_max);
        let mut sent = Vec::new();
        for record in records {
            let need = record.row.as_ref().map_or(0, bytes::Bytes::len) + RECORD_BYTES;
            let Some(rest) = left.checked_sub(need) else {
                break;
            };
            left = rest;
            sent.push(record);
        }
        let purpose = if whole && sent.len() == count {
            Purpose::Whole
        } else {
            Purpose::Part
        };
        let wanted = wanted.into_iter().take(left / WANTED_BYTES).collect();
        let message = TableMessage::Rows(Rows {
            sender: self.identity.name.clone(),
            network,
            purpose: if whole { purpose } else { Purpose::News },
            records: sent,
            wanted,
        });
        self.send(to, Some(from), &message);
    }

    /// Keeps of some owners' versions what one message may hold, from a random place on, so that all get their turn.
    fn cut(&mut self, mut owners: Vec<OwnerVersions>) -> Vec<OwnerVersions> {
        let first = self.rng.index(owners.len()).unwrap_or(0);
        owners.rotate_left(first);
        let (mut left, mut kept) = (self.limits.sync_bytes_max, Vec::new());
        for owner in owners {
            let rows = owner.rows.len();
            let room = left.saturating_sub(OWNER_BYTES) / VERSION_BYTES;
            if rows > room {
                let at = self.rng.index(rows).unwrap_or(0);
                kept.push(owner.cut(at, room.max(1)));
                return kept;
            }
            left = left.saturating_sub(OWNER_BYTES + rows * VERSION_BYTES);
            kept.push(owner);
        }
        kept
    }

    /// Sends the digests that are due.
    pub(super) fn sync_due(&mut self) {
        let now = self.now;
        let due: Vec<NetworkId> = self
            .networks
            .iter()
            .filter(|(_, n)| n.joined.as_ref().is_some_and(|j| j.sync_at <= now))
            .map(|(id, _)| *id)
            .collect();
        for network in due {
            self.sync(network);
        }
    }

    fn sync(&mut self, network: NetworkId) {
        let interval = self.timing.sync_interval;
        let wait = interval / 2 + self.rng.duration(ZERO..interval);
        let place = self.networks.get_mut(&network);
        let Some(joined) = place.and_then(|network| network.joined.as_mut()) else {
            return;
        };
        let (synced, next_peer) = (joined.synced, joined.next_peer.take());
        joined.sync_at = self.now + if synced { wait } else { self.timing.sync_retry };
        if synced {
            let up = next_peer.filter(|peer| self.is_up(peer));
            let peer = up.or_else(|| self.random_speaker(network));
            if let Some(peer) = peer {
                self.send_digest(network, &peer, Wish::Differences);
            }
            return;
        }
        if !self.fetch(network) {
            self.synced(network);
        }
    }

    pub(super) fn send_digest(&mut self, network: NetworkId, to: &Name, wish: Wish) {
        let Some((place, attachment)) = self.place(network) else {
            return;
        };
        let own = place.owners.get(&self.identity.name);
        let digest = Digest {
            attachment,
            table: self.digest(network),
            own: own.map_or(0, OwnerTable::digest),
            wish,
        };
        self.stats.digests_sent += 1;
        self.send(to, None, &TableMessage::Digest(digest));
    }

    /// Asks an owner that is up again for its word on its rows.
    pub(super) fn ask(&mut self, network: NetworkId, owner: &Name) {
        if self.is_joined(network) {
            let at = self.now + self.rng.duration(ZERO..self.timing.sync_retry / 4);
            let ask = Ask { at, tries: 0 };
            self.asks.insert((network, owner.clone()), ask);
        }
    }

    pub(super) fn ask_due(&mut self) {
        let now = self.now;
        let due: Vec<_> = self
            .asks
            .iter()
            .filter(|(_, ask)| ask.at <= now)
            .map(|(key, ask)| (key.clone(), *ask))
            .collect();
        for ((network, owner), ask) in due {
            let wait = self.timing.sync_retry * (1 << ask.tries.min(ASK_BACKOFF_MAX));
            let at = now + wait / 2 + self.rng.duration(ZERO..wait);
            let tries = ask.tries.saturating_add(1);
            self.asks
                .insert((network, owner.clone()), Ask { at, tries });
            self.send_digest(network, &owner, Wish::Word);
        }
    }

    fn place(&self, network: NetworkId) -> Option<(&super::Network, Attachment)> {
        let place = self.networks.get(&network)?;
        let own = place.owners.get(&self.identity.name)?;
        Some((place, own.attachment.clone()?))
    }
}

fn versions_of(owner: &OwnerTable) -> Vec<RecordVersion> {
    owner
        .records()
        .filter(|(_, record)| !record.outdated)
        .map(|(endpoint, record)| record.identity(endpoint))
        .collect()
}

/// Octets around a row in an answer.
const RECORD_BYTES: usize = crate::NAME_BYTES_MAX + 36;
const WANTED_BYTES: usize = 32;
/// Octets around the versions of an owner, and of one version: hash, endpoints, count; endpoint, version, digest.
const OWNER_BYTES: usize = 48;
const VERSION_BYTES: usize = 16 + 15 + 10;
/// Largest exponent of the back-off of an ask.
const ASK_BACKOFF_MAX: u32 = 3;
