//! Per-network tables: which endpoint is behind which VTEP.
//!
//! Only the owner of a row writes it. Each of its words (rows, deletions, attachments to networks) carries a
//! [`Version`] of incarnation and sequence, and the newest wins. An attachment voids whatever its
//! owner said of that network before. A row is visible while its owner is up and the row is known to be its present
//! word: a member that was Down shows again once it confirmed its rows, by equal digests or by sending the differences.
//!
//! News leave at once to some members of the network, then with the gossip ticks; digests, exchanged periodically and
//! on joining, find what was missed.

pub(crate) mod message;
mod network;
mod own;
mod row;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, NetworkId, Rng, Seed};

pub(crate) use self::message::{MARK, RECORD_OVERHEAD_BYTES};
pub use self::row::{Lease, LeaseVerifier, PortMapping, Protocol, ROW_BYTES_MAX, Row, RowState};
use self::{
    message::{Attachment, Purpose, Rows, TableMessage, Version, WireRecord},
    network::{Content, Joined, Key, Network, OwnerTable, Record, content_of},
};
use crate::{
    Config, DecodeError, Event, Limits, Name, TableStats, Timing,
    queue::{Queue, retransmits},
};

/// The tables of all networks, as one part of the gossip machine.
#[derive(Debug)]
pub(crate) struct Tables {
    identity: Identity,
    timing: Timing,
    limits: Limits,
    verifier: Option<Arc<dyn LeaseVerifier>>,
    /// Octets of a message that still goes by datagram.
    packet_bytes: usize,
    rng: Rng,
    now: Instant,
    /// Members that are up or Down; those that left are not in here.
    members: BTreeMap<Name, bool>,
    networks: BTreeMap<NetworkId, Network>,
    rows: usize,
    attachments: usize,
    outputs: VecDeque<TableOutput>,
    /// Owners that are up again and whose word on their rows is awaited.
    asks: BTreeMap<Key, Ask>,
    timers: Timers,
    stats: TableStats,
}

/// What the tables ask of the gossip machine.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "events are rare beside their handling, and a box would be an allocation for each"
)]
pub(crate) enum TableOutput {
    /// To one member; `via` is where its message came from, should its address not be known yet.
    Send {
        to: Name,
        via: Option<SocketAddr>,
        bytes: Vec<u8>,
    },
    /// To all members of the cluster, with the gossip.
    Broadcast {
        owner: Name,
        network: NetworkId,
        bytes: Vec<u8>,
        own: bool,
    },
    Event(Event),
}

/// Who this member is in the tables.
#[derive(Debug)]
struct Identity {
    name: Name,
    life: u64,
    /// The last version that was given out.
    version: Version,
    renew_after: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Ask {
    at: Instant,
    tries: u32,
}

#[derive(Debug, Default)]
struct Timers {
    gossip_at: Option<Instant>,
    prune_at: Option<Instant>,
    burst_from: Instant,
    burst: usize,
}

impl Tables {
    pub(crate) fn new(config: &Config, packet_bytes: usize, seed: &Seed, now: Instant) -> Self {
        let mut rng = seed.rng();
        Self {
            identity: Identity {
                name: Name::from(config.name.as_str()),
                life: rng.next_u64(),
                version: Version {
                    incarnation: 1,
                    sequence: 0,
                },
                renew_after: now,
            },
            timing: config.timing.clone(),
            limits: config.limits.clone(),
            verifier: config.verifier.clone(),
            packet_bytes,
            rng,
            now,
            members: BTreeMap::new(),
            networks: BTreeMap::new(),
            rows: 0,
            attachments: 0,
            outputs: VecDeque::new(),
            asks: BTreeMap::new(),
            timers: Timers::default(),
            stats: TableStats::default(),
        }
    }

    /// A member is up: show what waited for it, or ask for its word.
    pub(crate) fn handle_member_up(&mut self, now: Instant, member: &Name) {
        self.now = now;
        if self.members.insert(member.clone(), true) == Some(true) {
            return;
        }
        for (network, attached, confirmed) in self.where_owner(member) {
            if attached {
                if let Some(owner) = self.owner_mut(network, member) {
                    owner.expires = None;
                }
                self.network_member_joined(network, member);
            }
            if confirmed {
                self.announce_rows(network, member, true);
            } else {
                self.ask(network, member);
            }
        }
    }

    /// A member is Down: hide its rows, and remember them.
    pub(crate) fn handle_member_down(&mut self, now: Instant, member: &Name) {
        self.now = now;
        if self.members.get(member) != Some(&true) {
            self.members.insert(member.clone(), false);
            return;
        }
        for (network, attached, confirmed) in self.where_owner(member) {
            if confirmed {
                self.announce_rows(network, member, false);
            }
            self.asks.remove(&(network, member.clone()));
            let joined = self.is_joined(network);
            if let Some(owner) = self.owner_mut(network, member).filter(|_| joined) {
                owner.confirmed = false;
            }
            if attached {
                self.network_member_left(network, member);
            }
        }
        self.members.insert(member.clone(), false);
    }

    /// A member left or was forgotten: forget what it said.
    pub(crate) fn handle_member_gone(&mut self, now: Instant, member: &Name) {
        self.handle_member_down(now, member);
        for (network, _, _) in self.where_owner(member) {
            self.drop_owner(network, member);
        }
        self.members.remove(member);
        self.drop_empty_networks();
    }

    /// A message of another member's tables arrived.
    pub(crate) fn handle_message(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), DecodeError> {
        let limit = self.limits.sync_bytes_max.saturating_mul(2);
        let message = if bytes.len() > limit {
            Err(DecodeError::TooLong {
                what: "table message",
                limit,
                found: bytes.len(),
            })
        } else {
            TableMessage::decode(bytes)
        };
        let message = message.inspect_err(|_| self.stats.malformed += 1)?;
        self.now = now;
        match message {
            TableMessage::Attachments(attachments) => {
                for attachment in attachments {
                    self.on_attachment(attachment, None);
                }
            }
            TableMessage::Rows(rows) => self.on_rows(from, rows),
            TableMessage::Digest(digest) => self.on_digest(from, digest),
            TableMessage::Summary(summary) => self.on_summary(from, summary),
            TableMessage::Versions(versions) => self.on_versions(from, versions),
        }
        self.prune_soon();
        Ok(())
    }

    /// What push/pull tells of the tables: all attachments.
    pub(crate) fn user_state(&self) -> Vec<u8> {
        let owners = self.networks.values().flat_map(|n| n.owners.values());
        let attachments: Vec<_> = owners
            .filter_map(|owner| owner.attachment.clone())
            .collect();
        if attachments.is_empty() {
            return Vec::new();
        }
        TableMessage::Attachments(attachments).encode()
    }

    /// Takes what a push/pull told.
    pub(crate) fn handle_user_state(&mut self, now: Instant, bytes: &[u8]) {
        self.now = now;
        match TableMessage::decode(bytes) {
            Ok(TableMessage::Attachments(attachments)) => {
                for attachment in attachments {
                    self.on_attachment(attachment, None);
                }
                self.prune_soon();
            }
            Ok(_) | Err(_) => self.stats.malformed += 1,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.timers.gossip_at.is_some_and(|at| at <= now) {
            self.gossip();
        }
        if self.timers.prune_at.is_some_and(|at| at <= now) {
            self.prune();
        }
        self.sync_due();
        self.ask_due();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let joined = self.networks.values().filter_map(|n| n.joined.as_ref());
        let syncs = joined.map(|joined| joined.sync_at);
        let asks = self.asks.values().map(|ask| ask.at);
        let timers = [self.timers.gossip_at, self.timers.prune_at];
        syncs.chain(asks).chain(timers.into_iter().flatten()).min()
    }

    pub(crate) fn poll_output(&mut self) -> Option<TableOutput> {
        self.outputs.pop_front()
    }

    /// Returns the visible rows of a network.
    pub(crate) fn rows(&self, network: NetworkId) -> impl Iterator<Item = (&str, &Row)> {
        let owners = self.networks.get(&network).map(|network| &network.owners);
        owners
            .into_iter()
            .flatten()
            .filter(|(name, owner)| self.is_visible(name, owner))
            .flat_map(|(name, owner)| owner.rows().map(|(_, row)| (&**name, row)))
    }

    /// Returns the other members of a network that are up.
    pub(crate) fn network_members(&self, network: NetworkId) -> impl Iterator<Item = &Name> {
        let owners = self.networks.get(&network).map(|network| &network.owners);
        let attached = owners.into_iter().flatten();
        let attached = attached.filter(|(_, owner)| owner.is_attached());
        attached
            .map(|(name, _)| name)
            .filter(|name| self.is_up(name))
    }

    /// Returns a digest that is equal where the visible rows are.
    pub(crate) fn digest(&self, network: NetworkId) -> u64 {
        let visible = |name: &Name, owner: &OwnerTable| self.is_visible(name, owner);
        let network = self.networks.get(&network);
        network.map_or(0, |network| network.digest(visible))
    }

    /// Returns the networks that were joined.
    pub(crate) fn joined_networks(&self) -> impl Iterator<Item = NetworkId> {
        let joined = self.networks.iter().filter(|(_, n)| n.joined.is_some());
        joined.map(|(id, _)| *id)
    }

    pub(crate) fn stats(&self) -> TableStats {
        let joined = self.networks.values().filter_map(|n| n.joined.as_ref());
        let dropped = joined.map(|joined| joined.queue.dropped()).sum::<u64>();
        TableStats {
            broadcasts_dropped: self.stats.broadcasts_dropped + dropped,
            ..self.stats
        }
    }

    /// Counts what remote input can make grow.
    #[cfg(test)]
    pub(crate) fn footprint(&self) -> usize {
        let joined = self.networks.values().filter_map(|n| n.joined.as_ref());
        let queued: usize = joined.map(|joined| joined.queue.len()).sum();
        let owners = self.networks.values().map(|n| n.owners.len());
        assert_eq!(owners.sum::<usize>(), self.attachments);
        self.rows + self.attachments + self.networks.len() + self.asks.len() + queued
    }

    /// Everything but the queue of outputs, the time and the counters.
    #[cfg(test)]
    pub(crate) fn fingerprint(&self) -> String {
        format!(
            "{:?} {:?} {:?} {:?} {:?}",
            self.identity, self.members, self.networks, self.asks, self.timers
        )
    }

    fn is_up(&self, member: &Name) -> bool {
        self.members.get(member) == Some(&true)
    }

    fn is_own(&self, owner: &Name) -> bool {
        *owner == self.identity.name
    }

    fn is_visible(&self, name: &Name, owner: &OwnerTable) -> bool {
        self.is_own(name) || (owner.confirmed && self.is_up(name))
    }

    fn is_owner_visible(&self, network: NetworkId, name: &Name) -> bool {
        let owner = self.owner(network, name);
        owner.is_some_and(|owner| self.is_visible(name, owner))
    }

    fn is_joined(&self, network: NetworkId) -> bool {
        let network = self.networks.get(&network);
        network.is_some_and(|network| network.joined.is_some())
    }

    fn owner(&self, network: NetworkId, name: &Name) -> Option<&OwnerTable> {
        self.networks.get(&network)?.owners.get(name)
    }

    fn owner_mut(&mut self, network: NetworkId, name: &Name) -> Option<&mut OwnerTable> {
        self.networks.get_mut(&network)?.owners.get_mut(name)
    }

    /// Returns the place of an owner, made if there is room.
    fn owner_place(&mut self, network: NetworkId, name: &Name) -> Option<&mut OwnerTable> {
        if self.owner(network, name).is_none() {
            let new_network = !self.networks.contains_key(&network);
            let full = self.attachments >= self.limits.attachments_max
                || (new_network && self.networks.len() >= self.limits.networks_max);
            if full && !self.is_own(name) {
                self.stats.attachments_refused += 1;
                return None;
            }
            self.attachments += 1;
            let mut owner = OwnerTable::new(name, self.members.get(name) != Some(&false));
            if !self.members.contains_key(name) && !self.is_own(name) {
                owner.expires = Some(self.now + STRANGER_MEMORY);
            }
            let owners = &mut self.networks.entry(network).or_default().owners;
            owners.insert(name.clone(), owner);
        }
        self.owner_mut(network, name)
    }

    /// Returns where a member has an entry: network, whether attached, whether confirmed.
    fn where_owner(&self, member: &Name) -> Vec<(NetworkId, bool, bool)> {
        let entry = |(id, network): (&NetworkId, &Network)| {
            let owner = network.owners.get(member)?;
            Some((*id, owner.is_attached(), owner.confirmed))
        };
        self.networks.iter().filter_map(entry).collect()
    }

    /// Tells that all rows of an owner became visible, or are about to be hidden.
    fn announce_rows(&mut self, network: NetworkId, owner: &Name, shown: bool) {
        let Some(table) = self.owner(network, owner) else {
            return;
        };
        let rows: Vec<_> = table.rows().map(|(id, row)| (id, row.clone())).collect();
        for (endpoint, row) in rows {
            let (previous, row) = if shown {
                (None, Some(row))
            } else {
                (Some(row), None)
            };
            self.row_changed(network, owner, endpoint, previous, row);
        }
    }

    fn row_changed(
        &mut self,
        network: NetworkId,
        owner: &Name,
        endpoint: EndpointId,
        previous: Option<Row>,
        row: Option<Row>,
    ) {
        if previous != row {
            self.outputs
                .push_back(TableOutput::Event(Event::RowChanged {
                    network,
                    endpoint,
                    owner: owner.clone(),
                    previous,
                    row,
                }));
        }
    }

    fn network_member_joined(&mut self, network: NetworkId, member: &Name) {
        let event = Event::NetworkMemberJoined {
            network,
            member: member.clone(),
        };
        self.outputs.push_back(TableOutput::Event(event));
        let soon = self.now + self.rng.duration(ZERO..self.timing.gossip_interval);
        let joined = self.networks.get_mut(&network);
        if let Some(joined) = joined.and_then(|network| network.joined.as_mut()) {
            joined.sync_at = joined.sync_at.min(soon);
            joined.next_peer = Some(member.clone());
        }
    }

    fn network_member_left(&mut self, network: NetworkId, member: &Name) {
        let event = Event::NetworkMemberLeft {
            network,
            member: member.clone(),
        };
        self.outputs.push_back(TableOutput::Event(event));
    }

    /// Puts a record in place and tells the difference. `None` if there is no room.
    fn store(
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
    fn forget(&mut self, network: NetworkId, name: &Name, endpoint: EndpointId) {
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

    fn drop_owner(&mut self, network: NetworkId, name: &Name) {
        let endpoints = self.owner(network, name).map(|owner| owner.which(|_| true));
        for endpoint in endpoints.unwrap_or_default() {
            self.forget(network, name, endpoint);
        }
        let network = self.networks.get_mut(&network);
        if network.is_some_and(|network| network.owners.remove(name).is_some()) {
            self.attachments -= 1;
        }
    }

    fn drop_empty_networks(&mut self) {
        let empty = |n: &Network| n.joined.is_none() && n.owners.is_empty();
        self.networks.retain(|_, network| !empty(network));
    }

    fn send(&mut self, to: &Name, via: Option<SocketAddr>, message: &TableMessage) {
        self.outputs.push_back(TableOutput::Send {
            to: to.clone(),
            via,
            bytes: message.encode(),
        });
    }

    /// Queues a record for the members of its network.
    fn queue(&mut self, network: NetworkId, record: &WireRecord, own: bool) {
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
    fn gossip(&mut self) {
        self.timers.gossip_at = None;
        let ids: Vec<NetworkId> = self.joined_networks().collect();
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

    fn gossip_to(&mut self, id: NetworkId, peer: &Name, times_max: u32) {
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

    fn news(&self, network: NetworkId, records: Vec<WireRecord>) -> TableMessage {
        TableMessage::Rows(Rows {
            sender: self.identity.name.clone(),
            network,
            purpose: Purpose::News,
            records,
            wanted: Vec::new(),
        })
    }

    fn random_members(&mut self, network: NetworkId, count: usize) -> Vec<Name> {
        let mut members: Vec<Name> = self.network_members(network).cloned().collect();
        for at in 0..count.min(members.len()) {
            if let Some(other) = self.rng.index(members.len() - at) {
                members.swap(at, at + other);
            }
        }
        members.truncate(count);
        members
    }

    /// Forgets what is past its time.
    fn prune(&mut self) {
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
        self.prune_soon();
    }

    /// Sets the time of the next pruning, at most once a second.
    fn prune_soon(&mut self) {
        if self.timers.prune_at.is_some() {
            return;
        }
        let owners = self.networks.values().flat_map(|n| n.owners.values());
        let any = owners.clone().any(|owner| owner.expires.is_some())
            || owners
                .flat_map(OwnerTable::records)
                .any(|(_, record)| record.expires.is_some());
        if any {
            self.timers.prune_at = Some(self.now + PRUNE_INTERVAL);
        }
    }

    /// Decodes a row and checks its lease, unless the same lease was checked before.
    fn admit(&mut self, network: NetworkId, record: &WireRecord) -> Option<Option<Content>> {
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

    fn is_lease_good(&mut self, network: NetworkId, owner: &Name, row: &Row) -> bool {
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

    fn new_joined(&self) -> Joined {
        Joined {
            queue: Queue::new(self.limits.row_broadcasts_max),
            synced: false,
            sync_at: self.now + self.timing.sync_retry,
            next_peer: None,
        }
    }

    fn attachment(&self, network: NetworkId, version: Version, joined: bool) -> Attachment {
        Attachment {
            owner: self.identity.name.clone(),
            network,
            version,
            life: self.identity.life,
            joined,
        }
    }
}

const ZERO: Duration = Duration::ZERO;
/// How long the words of a member that nobody knows are kept.
const STRANGER_MEMORY: Duration = Duration::from_secs(60);
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);
/// Most packets with rows of one network to one member in one round.
const ROW_PACKETS_MAX: usize = 4;
/// Most records in one packet.
const RECORDS_MAX: usize = 100;
/// Octets around the records of a packet: type, head, sender, network, purpose, counts.
const ROWS_HEAD_BYTES: usize = 1 + 7 + 1 + crate::NAME_BYTES_MAX + 16 + 1 + 2 + 1;
