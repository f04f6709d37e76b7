//! What is held of one network: attachments, and rows by owner.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, NetworkId};

use super::{
    Row,
    message::{Attachment, OwnerHash, RecordVersion, Version, WireRecord, hash},
};
use crate::{Name, queue::Queue};

/// One network. Attachments are held of all networks, rows only of those that were joined.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) joined: Option<Joined>,
    pub(super) owners: BTreeMap<Name, OwnerTable>,
}

/// What is under way for a network that was joined.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) queue: Queue<(Name, EndpointId)>,
    /// Whether a member answered with its table since we joined.
    pub(super) synced: bool,
    /// Whether members were asked for their tables.
    pub(super) fetching: bool,
    /// Members that were asked who is there, and those of them that have not answered.
    pub(super) asked: BTreeSet<Name>,
    pub(super) awaited: BTreeSet<Name>,
    pub(super) sync_at: Instant,
    /// A member that is asked next, before random ones.
    pub(super) next_peer: Option<Name>,
}

/// What one member says of a network.
#[derive(Debug)]
pub(super) struct OwnerTable {
    pub(super) hash: OwnerHash,
    pub(super) attachment: Option<Attachment>,
    /// When a left network is forgotten, and when an owner whom nobody knows is.
    pub(super) expires: Option<Instant>,
    /// Whether the rows are its present word: false from when it was Down until it said so again.
    pub(super) confirmed: bool,
    /// When somebody who speaks of a former life of the owner may be told of its present one again.
    remind_after: Instant,
    records: BTreeMap<EndpointId, Record>,
    digest: u64,
}

/// The last word of an owner on one endpoint.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) version: Version,
    /// Zero for a tombstone.
    pub(super) digest: u64,
    pub(super) content: Option<Content>,
    /// When a tombstone is forgotten, or a row of a former life.
    pub(super) expires: Option<Instant>,
    /// A row of a former life of its owner: shown for a while yet, but told to nobody.
    pub(super) outdated: bool,
}

/// A row and its octets, which are passed on as they came.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) bytes: Bytes,
    pub(super) row: Row,
}

impl Network {
    /// Returns the digest over the visible rows.
    pub(super) fn digest(&self, visible: impl Fn(&Name, &OwnerTable) -> bool) -> u64 {
        let seen = self
            .owners
            .iter()
            .filter(|(name, owner)| visible(name, owner));
        seen.fold(0, |sum: u64, (_, owner)| sum.wrapping_add(owner.digest))
    }
}

impl OwnerTable {
    pub(super) fn new(name: &str, confirmed: bool) -> Self {
        Self {
            hash: OwnerHash::of(name),
            attachment: None,
            expires: None,
            confirmed,
            remind_after: Instant::EPOCH,
            records: BTreeMap::new(),
            digest: 0,
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attachment
            .as_ref()
            .is_some_and(|attachment| attachment.joined)
    }

    /// Returns the version before which nothing that the owner said is valid.
    pub(super) fn floor(&self) -> Version {
        self.attachment
            .as_ref()
            .map_or_else(Version::default, |attachment| attachment.version)
    }

    /// Returns whether a record of this version is void.
    pub(super) fn is_void(&self, version: Version) -> bool {
        let left = |attachment: &Attachment| !attachment.joined;
        version < self.floor() || self.attachment.as_ref().is_some_and(left)
    }

    /// Returns the last attachment if it was not told for a while: many words may be stale at once.
    pub(super) fn reminder(&mut self, now: Instant, interval: Duration) -> Option<Attachment> {
        if now < self.remind_after {
            return None;
        }
        self.remind_after = now + interval;
        self.attachment.clone()
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn get(&self, endpoint: EndpointId) -> Option<&Record> {
        self.records.get(&endpoint)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (EndpointId, &Record)> {
        self.records
            .iter()
            .map(|(endpoint, record)| (*endpoint, record))
    }

    /// Returns the rows, those of a former life included.
    pub(super) fn rows(&self) -> impl Iterator<Item = (EndpointId, &Row)> {
        let content = |(endpoint, record)| Some((endpoint, content_of(record)?));
        self.records().filter_map(content)
    }

    /// Puts a record in place of what was there, which is returned.
    pub(super) fn insert(&mut self, endpoint: EndpointId, record: Record) -> Option<Record> {
        let previous = self.remove(endpoint);
        self.digest = self.digest.wrapping_add(record.counted());
        self.records.insert(endpoint, record);
        previous
    }

    pub(super) fn remove(&mut self, endpoint: EndpointId) -> Option<Record> {
        let previous = self.records.remove(&endpoint)?;
        self.digest = self.digest.wrapping_sub(previous.counted());
        Some(previous)
    }

    /// Lets a row of a former life stand until `expires`.
    pub(super) fn outdate(&mut self, endpoint: EndpointId, expires: Instant) {
        if let Some(record) = self.records.get_mut(&endpoint).filter(|r| !r.outdated) {
            self.digest = self.digest.wrapping_sub(record.counted());
            record.outdated = true;
            record.expires = Some(expires);
        }
    }

    /// Returns the endpoints whose records satisfy `condition`.
    pub(super) fn which(&self, condition: impl Fn(&Record) -> bool) -> Vec<EndpointId> {
        let chosen = self.records().filter(|(_, record)| condition(record));
        chosen.map(|(endpoint, _)| endpoint).collect()
    }
}

impl Record {
    /// Makes a record of an owner.
    pub(super) fn new(
        owner: &str,
        endpoint: EndpointId,
        version: Version,
        content: Option<Content>,
        forget_at: Instant,
    ) -> Self {
        let bytes = content.as_ref().map(|content| &content.bytes[..]);
        Self {
            version,
            digest: record_digest(owner, endpoint, version, bytes),
            expires: content.is_none().then_some(forget_at),
            content,
            outdated: false,
        }
    }

    pub(super) fn on_wire(&self, owner: &Name, endpoint: EndpointId, now: Instant) -> WireRecord {
        let memory = match (&self.content, self.expires) {
            (None, Some(expires)) => expires.duration_since(now).as_secs(),
            _ => 0,
        };
        WireRecord {
            memory_seconds: u32::try_from(memory).unwrap_or(u32::MAX),
            owner: owner.clone(),
            endpoint,
            version: self.version,
            row: self.content.as_ref().map(|content| content.bytes.clone()),
        }
    }

    pub(super) fn identity(&self, endpoint: EndpointId) -> RecordVersion {
        RecordVersion {
            endpoint,
            version: self.version,
            digest: self.digest,
        }
    }

    fn counted(&self) -> u64 {
        if self.outdated { 0 } else { self.digest }
    }
}

pub(super) fn content_of(record: &Record) -> Option<&Row> {
    record.content.as_ref().map(|content| &content.row)
}

/// Returns the digest of a record, zero for a tombstone.
pub(super) fn record_digest(
    owner: &str,
    endpoint: EndpointId,
    version: Version,
    row: Option<&[u8]>,
) -> u64 {
    let Some(row) = row else { return 0 };
    let parts: [&[u8]; 5] = [
        owner.as_bytes(),
        endpoint.as_bytes(),
        &version.incarnation.to_be_bytes(),
        &version.sequence.to_be_bytes(),
        row,
    ];
    hash(&parts).max(1)
}

/// Names the network for outputs.
pub(super) type Key = (NetworkId, Name);
