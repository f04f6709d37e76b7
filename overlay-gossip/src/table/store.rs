//! Putting records in place, and forgetting them.

use std::time::Duration;

use overlay_core::{EndpointId, Instant, NetworkId};

use super::{
    Row, Tables,
    message::WireRecord,
    network::{Content, Network, OwnerTable, Record, content_of},
};
use crate::Name;

impl Tables {
    /// Returns the place of an owner, made if there is room.
    pub(super) fn owner_place(
        &mut self,
        network: NetworkId,
        name: &Name,
    ) -> Option<&mut OwnerTable> {
        if self.owner(network, name).is_none() {
            let new_network = !self.networks.contains_key(&network);
            let full = self.attachments >= self.limits.attachments_max
                || (new_network && self.networks.len() >= self.limits.networks_max);
            if full && !self.is_own(name) {
                self.stats.attachments_refused += 1;
                return None;
            }
            self.attachments += 1;
            let forget_at = self.now + STRANGER_MEMORY;
            let stranger = !self.members.contains_key(name) && !self.is_own(name);
            let mut owner = OwnerTable::new(name, self.members.get(name) != Some(&false));
            if stranger {
                owner.expires = Some(forget_at);
                self.prune_by(forget_at);
            }
            let owners = &mut self.networks.entry(network).or_default().owners;
            owners.insert(name.clone(), owner);
        }
        self.owner_mut(network, name)
    }

    /// Returns where a member has an entry: network, whether attached, whether confirmed.
    pub(super) fn where_owner(&self, member: &Name) -> Vec<(NetworkId, bool, bool)> {
        let entry = |(id, network): (&NetworkId, &Network)| {
            let owner = network.owners.get(member)?;
            Some((*id, owner.is_attached(), owner.confirmed))
        };
        self.networks.iter().filter_map(entry).collect()
    }

    /// Puts a record in place and tells the difference. `None` if there is no room.
    pub(super) fn store(
        &mut self,
        network: NetworkId,
        name: &Name,
        endpoint: EndpointId,
        record: Record,
    ) -> Option<()> {
        let known = self.owner(network, name)?.get(endpoint).is_some();
        if !known && self.rows >= self.limits.rows_max {
            self.stats.rows_refused += 1;
            return None;
        }
        let row = content_of(&record).cloned();
        if let Some(expires) = record.expires {
            self.prune_by(expires);
        }
        let previous = self
            .owner_mut(network, name)?
            .insert(endpoint, record)
            .and_then(|previous| previous.content)
            .map(|content| content.row);
        self.rows += usize::from(!known);
        if self.is_owner_visible(network, name) {
            self.row_changed(network, name, endpoint, previous, row);
        }
        Some(())
    }

    /// Removes a record and tells it.
    pub(super) fn forget(&mut self, network: NetworkId, name: &Name, endpoint: EndpointId) {
        let visible = self.is_owner_visible(network, name);
        let removed = self
            .owner_mut(network, name)
            .and_then(|owner| owner.remove(endpoint));
        let Some(record) = removed else { return };
        self.rows -= 1;
        let previous = record.content.map(|content| content.row);
        if visible {
            self.row_changed(network, name, endpoint, previous, None);
        }
    }

    pub(super) fn drop_owner(&mut self, network: NetworkId, name: &Name) {
        let endpoints = self.owner(network, name).map(|owner| owner.which(|_| true));
        for endpoint in endpoints.unwrap_or_default() {
            self.forget(network, name, endpoint);
        }
        let network = self.networks.get_mut(&network);
        if network.is_some_and(|network| network.owners.remove(name).is_some()) {
            self.attachments -= 1;
        }
    }

    pub(super) fn drop_empty_networks(&mut self) {
        let empty = |n: &Network| n.joined.is_none() && n.owners.is_empty();
        self.networks.retain(|_, network| !empty(network));
    }

    /// Forgets what is past its time.
    pub(super) fn prune(&mut self) {
        let now = self.now;
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (mut records, mut owners) = (Vec::new(), Vec::new());
        for (id, network) in &self.networks {
            for (name, owner) in &network.owners {
                let known = self.members.contains_key(name) || self.is_own(name);
                if over(owner.expires) && (!known || !owner.is_attached()) {
                    owners.push((*id, name.clone()));
                }
                let old = owner.which(|record| over(record.expires));
                records.extend(
                    old.into_iter()
                        .map(|endpoint| (*id, name.clone(), endpoint)),
                );
            }
        }
        for (network, name, endpoint) in records {
            self.forget(network, &name, endpoint);
        }
        for (network, name) in owners {
            self.drop_owner(network, &name);
        }
        self.drop_empty_networks();
        self.timers.prune_at = None;
        let owners = self.networks.values().flat_map(|n| n.owners.values());
        let records = owners.clone().flat_map(OwnerTable::records);
        let expiries = records.filter_map(|(_, record)| record.expires);
        let expiries = expiries.chain(owners.filter_map(|owner| owner.expires));
        if let Some(next) = expiries.filter(|at| *at > now).min() {
            self.prune_by(next);
        }
    }

    /// Sees to it that what expires at `expires` is forgotten soon after; pruning takes place at most once a second.
    pub(super) fn prune_by(&mut self, expires: Instant) {
        let at = expires.max(self.now + PRUNE_INTERVAL);
        let next = self.timers.prune_at.map_or(at, |next| next.min(at));
        self.timers.prune_at = Some(next);
    }

    /// Decodes a row and checks its lease, unless the same lease was checked before.
    pub(super) fn admit(
        &mut self,
        network: NetworkId,
        record: &WireRecord,
    ) -> Option<Option<Content>> {
        let Some(bytes) = &record.row else {
            return Some(None);
        };
        let Ok(row) = Row::decode(network, record.endpoint, bytes) else {
            self.stats.malformed += 1;
            return None;
        };
        if !self.is_lease_good(network, &record.owner, &row) {
            self.stats.leases_rejected += 1;
            return None;
        }
        Some(Some(Content {
            bytes: bytes.clone(),
            row,
        }))
    }

    pub(super) fn is_lease_good(&mut self, network: NetworkId, owner: &Name, row: &Row) -> bool {
        let Some(verifier) = &self.verifier else {
            return true;
        };
        let known = self
            .owner(network, owner)
            .and_then(|table| content_of(table.get(row.endpoint)?));
        if known.is_some_and(|known| known.lease == row.lease) {
            return true;
        }
        let good = verifier.is_owner(owner, row.lease.node)
            && verifier.verify(&row.lease.signed_bytes(), &row.lease.signature);
        self.stats.leases_verified += 1;
        good
    }
}

/// How long the words of a member that nobody knows are kept.
const STRANGER_MEMORY: Duration = Duration::from_secs(60);
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);
