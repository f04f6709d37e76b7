//! What tables say to one another, inside memberlist's user messages.
//!
//! ```text
//! 0xf7 | kind 1 | version 1 | length 4 (big endian) | body (postcard)
//! ```

use bytes::Bytes;
use overlay_core::{EndpointId, NetworkId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{DecodeError, Name};

/// The order of what one owner says: a later life has a higher incarnation, a later word a higher sequence.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) struct Version {
    pub(crate) incarnation: u32,
    pub(crate) sequence: u64,
}

impl Version {
    /// The highest incarnation and the highest sequence that are taken from anybody; messages with more are malformed.
    ///
    /// An owner outbids whatever it hears below: by incarnation, in the last one by sequence. Only a forged word at the
    /// very last version is above all that its owner can say; it ends when the owner leaves the cluster.
    pub(crate) const MAX: Self = Self {
        incarnation: 1 << 31,
        sequence: 1 << 62,
    };

    fn is_sound(self) -> bool {
        self.incarnation <= Self::MAX.incarnation && self.sequence <= Self::MAX.sequence
    }

    /// Returns the next version of the same life.
    pub(crate) fn next(self) -> Self {
        Self {
            sequence: self.sequence.saturating_add(1).min(Self::MAX.sequence),
            ..self
        }
    }

    /// Returns the version after which a life begins that outdates this one; `None` if nothing is above.
    pub(crate) fn above(self) -> Option<Self> {
        if self.incarnation < Self::MAX.incarnation {
            let incarnation = self.incarnation.saturating_add(1);
            return Some(Self {
                incarnation,
                sequence: 0,
            });
        }
        (self < Self::MAX).then_some(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TableMessage {
    Attachments(Vec<Attachment>),
    Rows(Rows),
    Digest(Digest),
    Summary(Summary),
    Versions(Versions),
    /// The sender is in the network, and asks who else is.
    Enquiry(Attachment),
    Members(Members),
}

/// A member is in a network, or no longer. Whatever it said of the network before this version is void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) owner: Name,
    pub(crate) network: NetworkId,
    pub(crate) version: Version,
    /// Random for each life of the owner, so that it tells its own words from those of a former life.
    pub(crate) life: u64,
    pub(crate) joined: bool,
}

/// Some members of a network whom the sender knows, and all of them if they are fewer than an answer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    pub(crate) sender: Name,
    pub(crate) network: NetworkId,
    pub(crate) attachments: Vec<Attachment>,
}

/// Rows, told unasked or as an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rows {
    pub(crate) sender: Name,
    pub(crate) network: NetworkId,
    pub(crate) purpose: Purpose,
    pub(crate) records: Vec<WireRecord>,
    /// Records that the sender wants to have, by owner.
    pub(crate) wanted: Vec<(OwnerHash, EndpointId)>,
}

/// Why rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    /// News.
    News,
    /// A part of what was asked for.
    Part,
    /// All that was asked for; the receiver now has every row of the sender.
    Whole,
}

/// One record on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireRecord {
    pub(crate) owner: Name,
    pub(crate) endpoint: EndpointId,
    pub(crate) version: Version,
    /// The encoded row; `None` if it was deleted.
    pub(crate) row: Option<Bytes>,
    /// How long a deletion is still to be remembered, so that no chain of members remembers it for ever. 0 for rows.
    pub(crate) memory_seconds: u32,
}

/// A whole table in a few octets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    pub(crate) attachment: Attachment,
    /// Over all visible rows.
    pub(crate) table: u64,
    /// Over the sender's own rows.
    pub(crate) own: u64,
    pub(crate) wish: Wish,
}

/// What the sender of a digest wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wish {
    /// A summary, if the tables differ.
    Differences,
    /// A summary in any case, because rows of the receiver wait for its word.
    Word,
    /// Everything.
    Everything,
}

/// The digest of each owner's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) attachment: Attachment,
    pub(crate) owners: Vec<(OwnerHash, u64)>,
}

/// Which records the sender has of some owners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    pub(crate) sender: Name,
    pub(crate) network: NetworkId,
    pub(crate) owners: Vec<OwnerVersions>,
}

/// Which records the sender has of one owner, between two endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerVersions {
    pub(crate) owner: OwnerHash,
    /// The first endpoint that this speaks of.
    pub(crate) from: EndpointId,
    /// The last endpoint that this speaks of.
    pub(crate) until: EndpointId,
    /// What is there between; what is not listed is not there.
    pub(crate) rows: Vec<RecordVersion>,
}

/// What identifies one state of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordVersion {
    pub(crate) endpoint: EndpointId,
    pub(crate) version: Version,
    /// Of the record; zero if it was deleted.
    pub(crate) digest: u64,
}

/// Stands for the name of an owner.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub(crate) struct OwnerHash(pub(crate) u64);

impl OwnerVersions {
    /// All records of an owner.
    pub(crate) fn all(owner: OwnerHash, rows: Vec<RecordVersion>) -> Self {
        Self {
            owner,
            from: FIRST,
            until: LAST,
            rows,
        }
    }

    pub(crate) fn is_all(&self) -> bool {
        (self.from, self.until) == (FIRST, LAST)
    }

    pub(crate) fn covers(&self, endpoint: EndpointId) -> bool {
        (self.from..=self.until).contains(&endpoint)
    }

    /// Keeps `count` rows from row `at` on.
    pub(crate) fn cut(mut self, at: usize, count: usize) -> Self {
        let end = at.saturating_add(count).min(self.rows.len());
        let kept = self.rows.get(at..end).unwrap_or_default().to_vec();
        if let Some(first) = kept.first().filter(|_| at > 0) {
            self.from = first.endpoint;
        }
        if let Some(last) = kept.last().filter(|_| end < self.rows.len()) {
            self.until = last.endpoint;
        }
        self.rows = kept;
        self
    }
}

impl OwnerHash {
    pub(crate) fn of(owner: &str) -> Self {
        Self(hash(&[owner.as_bytes()]))
    }
}

impl TableMessage {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Attachments(body) => frame(1, body),
            Self::Rows(body) => frame(2, body),
            Self::Digest(body) => frame(3, body),
            Self::Summary(body) => frame(4, body),
            Self::Versions(body) => frame(5, body),
            Self::Enquiry(body) => frame(6, body),
            Self::Members(body) => frame(7, body),
        }
    }

    /// Decodes a message that begins with [`MARK`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let truncated = DecodeError::Truncated {
            need: HEAD_BYTES,
            have: bytes.len(),
        };
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(truncated)?;
        let [mark, kind, version, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if mark != MARK {
            return Err(DecodeError::Kind { found: mark });
        }
        if version != VERSION {
            return Err(DecodeError::Version { found: version });
        }
        let body = rest.get(..length).ok_or(DecodeError::Truncated {
            need: length,
            have: rest.len(),
        })?;
        let message = match kind {
            1 => Self::Attachments(parse(body)?),
            2 => Self::Rows(parse(body)?),
            3 => Self::Digest(parse(body)?),
            4 => Self::Summary(parse(body)?),
            5 => Self::Versions(parse(body)?),
            6 => Self::Enquiry(parse(body)?),
            7 => Self::Members(parse(body)?),
            found => return Err(DecodeError::Kind { found }),
        };
        message.check().map(|()| message)
    }

    /// Names and versions are bounded wherever they occur.
    fn check(&self) -> Result<(), DecodeError> {
        let names: Vec<&Name> = match self {
            Self::Attachments(attachments) => attachments.iter().map(|a| &a.owner).collect(),
            Self::Rows(rows) => {
                let owners = rows.records.iter().map(|record| &record.owner);
                owners.chain([&rows.sender]).collect()
            }
            Self::Digest(digest) => vec![&digest.attachment.owner],
            Self::Summary(summary) => vec![&summary.attachment.owner],
            Self::Versions(versions) => vec![&versions.sender],
            Self::Enquiry(attachment) => vec![&attachment.owner],
            Self::Members(members) => {
                let owners = members.attachments.iter().map(|a| &a.owner);
                owners.chain([&members.sender]).collect()
            }
        };
        let sound = |name: &&Name| (1..=crate::NAME_BYTES_MAX).contains(&name.len());
        if !names.iter().all(sound) {
            return Err(DecodeError::Value { field: "owner" });
        }
        if !self.versions().all(Version::is_sound) {
            return Err(DecodeError::Value { field: "version" });
        }
        Ok(())
    }

    fn versions(&self) -> Box<dyn Iterator<Item = Version> + '_> {
        match self {
            Self::Attachments(attachments) => Box::new(attachments.iter().map(|a| a.version)),
            Self::Rows(rows) => Box::new(rows.records.iter().map(|record| record.version)),
            Self::Digest(digest) => Box::new([digest.attachment.version].into_iter()),
            Self::Summary(summary) => Box::new([summary.attachment.version].into_iter()),
            Self::Enquiry(attachment) => Box::new([attachment.version].into_iter()),
            Self::Members(members) => Box::new(members.attachments.iter().map(|a| a.version)),
            Self::Versions(versions) => {
                let rows = versions.owners.iter().flat_map(|owner| &owner.rows);
                Box::new(rows.map(|row| row.version))
            }
        }
    }
}

/// Returns a 64-bit hash of some parts, the same on every platform (FNV-1a, then mixed).
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for octet in part.iter().chain(&[0xff]) {
            state = (state ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    // The last steps of MurmurHash3: without them, sums of similar inputs collide.
    state = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    state = (state ^ (state >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    state ^ (state >> 33)
}

fn frame(kind: u8, body: &impl Serialize) -> Vec<u8> {
    let head = vec![MARK, kind, VERSION, 0, 0, 0, 0];
    let mut out = postcard::to_extend(body, head)
        .expect("a vector takes every octet, and no field has an unknown length");
    let length = u32::try_from(out.len().saturating_sub(HEAD_BYTES)).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(3..HEAD_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    out
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, DecodeError> {
    let (value, _later) = postcard::take_from_bytes(body).map_err(|_| DecodeError::Value {
        field: "table message",
    })?;
    Ok(value)
}

/// First octet of every table message; messages of the application begin otherwise.
pub(crate) const MARK: u8 = 0xf7;
const VERSION: u8 = 1;
const FIRST: EndpointId = EndpointId::from_bytes([0; 16]);
const LAST: EndpointId = EndpointId::from_bytes([0xff; 16]);
const HEAD_BYTES: usize = 7;
/// Most octets around one row in a message of its own: type, head, sender, network, purpose, counts, key, version.
pub(crate) const RECORD_OVERHEAD_BYTES: usize =
    1 + HEAD_BYTES + NAME + 16 + 1 + 2 + NAME + 16 + 15 + 3 + 5;
const NAME: usize = 1 + crate::NAME_BYTES_MAX;
