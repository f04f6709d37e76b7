//! Per-network tables: which endpoint is behind which VTEP.
//!
//! Only the owner of a row writes it. Each of its words (rows, deletions, attachments to networks) carries a
//! [`Version`] of incarnation and sequence, and the newest wins. An attachment voids whatever its
//! owner said of that network before. A row is visible while its owner is up and the row is known to be its present
//! word: a member that was Down shows again once it confirmed its rows, by equal digests or by sending the differences.
//!
//! News leave at once to some members of the network, then with the gossip ticks; digests, exchanged periodically and
//! on joining, find what was missed.

mod enquiry;
mod heard;
pub(crate) mod message;
mod network;
mod news;
mod own;
mod renewal;
mod row;
mod store;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use overlay_core::{EndpointId, Instant, NetworkId, Rng, Seed};

pub(crate) use self::message::{MARK, RECORD_OVERHEAD_BYTES};
pub use self::row::{Lease, LeaseVerifier, PortMapping, Protocol, ROW_BYTES_MAX, Row, RowState};
use self::{
    message::{Attachment, TableMessage, Version},
    network::{Joined, Key, Network, OwnerTable},
};
use crate::{Config, DecodeError, Event, Limits, Name, TableStats, Timing, queue::Queue};

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
    /// The highest version of a word of a former life that was heard and is not outdated yet.
    heard: Option<Version>,
    renew_after: Instant,
    /// Networks of a former life, and when we say that we left them.
    former: BTreeMap<NetworkId, Instant>,
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
                heard: None,
                renew_after: now,
                former: BTreeMap::new(),
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
        self.enquire_of(member);
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
        self.give_up(member);
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
            TableMessage::Enquiry(attachment) => self.on_enquiry(from, attachment),
            TableMessage::Members(members) => self.on_members(members),
        }
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
        self.renew_due();
        self.former_due();
        self.sync_due();
        self.ask_due();
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let joined = self.networks.values().filter_map(|n| n.joined.as_ref());
        let syncs = joined.map(|joined| joined.sync_at);
        let asks = self.asks.values().map(|ask| ask.at);
        let timers = [self.timers.gossip_at, self.timers.prune_at];
        let Identity { former, heard, .. } = &self.identity;
        let renewal = heard.map(|_| self.identity.renew_after);
        let own = former.values().copied().chain(renewal);
        let waiting = syncs.chain(asks).chain(own);
        waiting.chain(timers.into_iter().flatten()).min()
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
        self.rows
            + self.attachments
            + self.networks.len()
            + self.asks.len()
            + self.identity.former.len()
            + queued
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

    fn new_joined(&self) -> Joined {
        Joined {
            queue: Queue::new(self.limits.row_broadcasts_max),
            synced: false,
            fetching: false,
            asked: BTreeSet::new(),
            awaited: BTreeSet::new(),
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
