//! The log on a disk: checksummed records in segments, over any [`Disk`].
//!
//! # Format
//!
//! Segments are named `segment-` and a number of 20 digits, which rises by one. A segment is a row of records:
//!
//! ```text
//!  0        1        2        3        4                8
//! +--------+--------+--------+--------+----------------+--------------------------------+
//! |  kind  | version| flags  |   0    |  length (LE)   |       number of the write      |
//! +--------+--------+--------+--------+----------------+--------------------------------+
//! 16               20
//! +----------------+---------------
//! |  CRC-32C (LE)  |  body …        over the segment's number, octets 0..16 and the body
//! +----------------+---------------
//! ```
//!
//! The records of one [`Write`] carry the same number, which rises by one from write to write, and the
//! last of them is flagged. Term and vote are written where they changed; otherwise the last entry tells the commit index, too,
//! so that a write of one entry is one record. A write counts only if all its records are whole, so that it is atomic; it is synced before
//! the next one begins. A write that holds a snapshot begins a new segment and replaces everything before it, whereupon
//! the older segments are removed.
//!
//! A segment is given room ahead ([`Disk::reserve`]), so that most syncs have octets alone to make durable. What a crash
//! leaves in that room is no record of this segment: zeros, or records of another one, whose number is in their checksums.
//! Before the next segment is begun, what is left of the room is cut off.
//!
//! # What a damaged disk does
//!
//! A crash can only tear the write that was not synced, the very last one: it is cut off. If a later write follows, there or
//! in a later segment, the damage is no crash's doing, and [`Log::open`] refuses with the file and the offset: what is
//! lost there may have been acknowledged, and the cluster counts on it. What a crash cannot be told from, and is
//! therefore cut as well, is damage in the very last write.
//!
//! # Sealed at rest
//!
//! [`SealedDisk`] is a [`Disk`] over another one that encrypts and authenticates what it stores; the log does not see a
//! difference.

mod crc;
mod record;
mod recovery;
mod sealed;
#[cfg(test)]
mod tests;

use overlay_core::{Disk, DiskError};
use thiserror::Error;

pub use sealed::{DataKey, SealedDisk};

use crate::{HardState, RestoreError, Restored, persist::Write};

/// The settings of a log on a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StorageConfig {
    /// The size in octets at which a new segment is begun. Default 16 MiB. Lower makes many files; higher makes
    /// [`Log::open`] hold more in memory at once. A single write may exceed it.
    pub segment_bytes_max: u64,
    /// The room in octets that a segment is given ahead, at most: [`Disk::reserve`]. Default 1 MiB; as much as the segment
    /// holds, at least 64 KiB, is asked for at once. Zero turns it off.
    pub reserve_bytes_max: u64,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            segment_bytes_max: 16 << 20,
            reserve_bytes_max: 1 << 20,
        }
    }
}

/// The log of one member on a disk that it has for itself.
#[derive(Debug)]
pub struct Log<D> {
    disk: D,
    config: StorageConfig,
    /// The number of the segment that is written to, zero before the first.
    segment: u64,
    segment_bytes: u64,
    /// How long the segment can become in the room that it was given.
    reserved_bytes: u64,
    /// The number of the last write.
    write: u64,
    /// What the disk holds of it; the commit index may be behind.
    hard_state: Option<HardState>,
    /// What was written since the log was opened.
    written_bytes: u64,
    failed: bool,
}

impl<D: Disk> Log<D> {
    /// Opens what the disk holds: cuts a torn tail, removes what a snapshot replaced, checks the rest.
    ///
    /// An empty disk gives [`Restored::empty`]. Files with other names are left alone.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if the disk fails, holds damage, or contradicts itself. Nothing that could be evidence is removed.
    pub fn open(disk: D, config: StorageConfig) -> Result<(Self, Restored), OpenError> {
        recovery::open(disk, config)
    }

    /// Makes a write durable: appends and syncs. Afterwards its ticket may be given back.
    ///
    /// # Errors
    ///
    /// After any error what the disk holds is unknown: the log takes no more writes. Tell the machine with
    /// [`handle_persist_failed`](crate::Raft::handle_persist_failed), then [`open`](Self::open) the disk again.
    pub fn write(&mut self, write: &Write) -> Result<(), DiskError> {
        if self.failed {
            return Err(DiskError::Failed {
                operation: "write after a failed write",
                name: name_of(self.segment),
                kind: std::io::ErrorKind::Other,
            });
        }
        self.failed = true;
        self.append(write)?;
        if write.snapshot.is_some() {
            self.remove_older()?;
        }
        self.failed = false;
        Ok(())
    }

    /// Returns how many octets were appended since the log was opened.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Returns the disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Returns the disk, for what is no business of the log: a [`SealedDisk`] takes another key by it. Files that change
    /// under the log are damage.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn append(&mut self, write: &Write) -> Result<(), DiskError> {
        let fresh = self.segment == 0
            || write.snapshot.is_some()
            || self.segment_bytes >= self.config.segment_bytes_max;
        if fresh {
            self.give_room_back()?;
            self.segment += 1;
            self.segment_bytes = 0;
            self.reserved_bytes = 0;
        }
        self.write += 1;
        let is_known = self
            .hard_state
            .as_ref()
            .is_some_and(|held| held.differs_in_commit_alone(&write.hard_state));
        let bytes = record::encode(self.segment, self.write, write, is_known);
        let name = name_of(self.segment);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.segment_bytes = self.segment_bytes.saturating_add(length);
        self.reserve(&name);
        self.disk.append(&name, &bytes)?;
        self.disk.sync(&name)?;
        if fresh {
            self.disk.sync_directory()?;
        }
        self.written_bytes = self.written_bytes.saturating_add(length);
        self.hard_state = Some(write.hard_state.clone());
        Ok(())
    }

    /// Cuts off the room that the segment did not need: only the last one may end with something that is no record.
    fn give_room_back(&mut self) -> Result<(), DiskError> {
        if self.reserved_bytes > self.segment_bytes {
            let name = name_of(self.segment);
            self.disk.truncate(&name, self.segment_bytes)?;
            self.disk.sync(&name)?;
        }
        Ok(())
    }

    /// Makes room for what comes next, if the segment is about to outgrow what it has.
    fn reserve(&mut self, name: &str) {
        let most = self.config.reserve_bytes_max;
        if self.segment_bytes <= self.reserved_bytes || most == 0 {
            return;
        }
        let ahead = self.segment_bytes.max(RESERVE_BYTES_MIN).min(most);
        self.reserved_bytes = self.segment_bytes.saturating_add(ahead);
        self.disk.reserve(name, self.reserved_bytes);
    }

    /// Removes the segments before the present one.
    ///
    /// An error here stops the log as well, although the write is durable: a directory whose sync failed proves nothing
    /// about the segments that are created in it later.
    fn remove_older(&mut self) -> Result<(), DiskError> {
        let mut removed = false;
        for name in self.disk.list()? {
            if number_of(&name).is_some_and(|number| number < self.segment) {
                self.disk.remove(&name)?;
                removed = true;
            }
        }
        if removed {
            self.disk.sync_directory()?;
        }
        Ok(())
    }
}

/// A disk could not be opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Something that was durable is damaged.
    #[error(
        "{file} is damaged at offset {offset} ({damage}) although later writes follow: what was there may have been \
         acknowledged. Restore the file from a copy, or remove this member from the cluster and let it join again \
         with an empty disk"
    )]
    Damaged {
        /// The file.
        file: String,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// A segment is missing.
    #[error(
        "{file} is missing although later segments are there. Restore the file from a copy, or remove this member from \
         the cluster and let it join again with an empty disk"
    )]
    Missing {
        /// The file.
        file: String,
    },
    /// Everything is readable but contradicts itself.
    #[error(
        "{file} holds a state that cannot be: {reason}. Restore the files from a copy, or remove this member from the \
         cluster and let it join again with an empty disk"
    )]
    Inconsistent {
        /// The last file that was read.
        file: String,
        /// What contradicts what.
        reason: RestoreError,
    },
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file ends within it.
    #[error("record of {need} octets where {have} are left")]
    Truncated {
        /// How many octets it takes.
        need: u64,
        /// How many there are.
        have: u64,
    },
    /// Its checksum does not fit.
    #[error("checksum {found:#010x}, {expected:#010x} expected")]
    Checksum {
        /// What the octets give.
        expected: u32,
        /// What the record says.
        found: u32,
    },
    /// Its kind is not known, although its checksum fits: a later release wrote it.
    #[error("unknown kind of record {kind}, version {version}")]
    Unknown {
        /// The kind.
        kind: u8,
        /// The version.
        version: u8,
    },
    /// Its body does not follow its schema.
    #[error("malformed record of kind {kind}")]
    Malformed {
        /// The kind.
        kind: u8,
    },
    /// It belongs to another write than the one that is due.
    #[error("write {found} where {expected} was expected")]
    OutOfOrder {
        /// The number that is due.
        expected: u64,
        /// The number that is there.
        found: u64,
    },
    /// The write is not finished, but another one follows.
    #[error("write {write} is not finished")]
    Unfinished {
        /// Its number.
        write: u64,
    },
}

/// Returns the name of a segment.
fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:020}")
}

/// Returns the number of a segment, `None` for a file that is none.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let number = digits.parse().ok()?;
    (is_number && number > 0).then_some(number)
}

const PREFIX: &str = "segment-";

/// A small segment is given room for some writes of one entry.
const RESERVE_BYTES_MIN: u64 = 64 << 10;
