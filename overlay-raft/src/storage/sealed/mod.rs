//! A disk that seals what it stores: AES-256-GCM over any [`Disk`].
//!
//! # Format
//!
//! A file begins with a header of 96 octets, synced before anything follows:
//!
//! ```text
//!  0       4       5       8       16        32      44                     92
//! +-------+-------+-------+-------+---------+-------+----------------------+----------------+
//! | OVLS  |version|   0   | key   | file    | nonce | file's key and tag   |  CRC-32C (LE)  |
//! +-------+-------+-------+-------+---------+-------+----------------------+----------------+
//! ```
//!
//! `key` tells which data key the file's own key is sealed under, with octets 0..32 as associated data. `file` is random
//! and names the file for as long as it exists; its name in the directory is not bound, because files are renamed. Then
//! follow records, of 48 octets and the text:
//!
//! ```text
//!  0      1         4                  8       16       28               32
//! +------+---------+------------------+-------+--------+----------------+---------------------
//! | kind | length  |  unsynced (LE)   | link  | nonce  |  CRC-32C (LE)  |  text … and its tag
//! +------+---------+------------------+-------+--------+----------------+---------------------
//! ```
//!
//! Kind 1 continues the file, with at most 1 MiB; kind 2 cuts it to the length that is its text. Records are only ever
//! added: a truncation overwrites nothing, so whatever a crash leaves of it, what was durable before it is there. The
//! checksum covers the record's position and header, and serves to find records behind damage.
//!
//! # What is bound to what
//!
//! The associated data of a record are `file`, its position in the sealed file and its header, so that records cannot be
//! changed, reordered or moved between files. `link` repeats the first octets of the tag of the record before, so that
//! neither can one that a crash undid, or that was sealed at the same position in another past, take the place of the
//! one that followed. What is *not* noticed here: a file, or a directory, that is put back as a whole to what it once was;
//! a tail that is cut off; and whole files that change names. The log notices the last.
//!
//! # Torn or damaged
//!
//! `unsynced` says how many octets before the record were not known to be durable when it was written. What cannot be
//! read is a torn tail, and cut, unless a later record says that it was durable: then it is damage, and refused with file
//! and offset. What a crash cannot be told from is damage to what was appended between the last two syncs.
//!
//! # Nonces
//!
//! Random, 96 bits, under a random key for each file, which takes at most 2³² records: the chance that any two of them
//! share a nonce stays below 2⁻³² (NIST SP 800-38D §8.3). That needs no memory of what was used, so neither truncations
//! nor records that a crash undid can make one repeat. It does need a [`Seed`] that was never used before: take it from
//! the operating system's entropy each time a disk is opened.

mod content;
mod header;
mod key;
mod record;
mod rewrite;
#[cfg(test)]
mod tests;

use std::{fmt, io::ErrorKind, sync::Arc};

use overlay_core::{
    Disk, DiskError, Rng, Seed,
    aead::{AeadError, AeadProvider},
};

use content::Content;
use header::{HEADER_BYTES, Header, Unusable};
pub use key::DataKey;
use key::{FileKey, Wrapping};
use record::{Link, Place, TEXT_BYTES_MAX};

/// A [`Disk`] that seals what it stores on another one: AES-256-GCM, a random key for each file, wrapped under a
/// [`DataKey`].
///
/// Whoever has the disk and not the key learns names, lengths and the order of writes, and nothing else; what they change,
/// reorder or move between files is refused with [`DiskError::Damaged`]. They can still put a file or the whole disk back
/// to what it once was, give files each other's names, and cut the end of a file off as a crash would.
///
/// After a crash a file ends with the last record that is whole, of one append or of 1 MiB of a longer one. Damage to what
/// was synced is refused, but for what was appended between the last two syncs: there it looks like a crash.
///
/// An append and a sync are one call of the disk below each; the first append to a file is a sync more, and reads the file
/// if another process wrote it. A truncation only adds a record: what it cuts off stays on the disk, sealed, until that is
/// as much as the rest and 1 MiB. Reading takes twice the memory of the file; of at most 8 files the keys are kept.
///
/// The name `sealed-rewritten` is its own.
pub struct SealedDisk<D> {
    disk: D,
    provider: Arc<dyn AeadProvider>,
    wrapping: Wrapping,
    rng: Rng,
    /// The files that were appended to, the latest last.
    open: Vec<(String, File)>,
}

/// What must be known of a file in order to append to it.
struct File {
    key: FileKey,
    /// Its length as its owner sees it.
    length: u64,
    /// Its length as it is stored.
    end: u64,
    /// Up to where it is durable.
    durable: u64,
    link: Link,
    records: u64,
}

impl<D: Disk> SealedDisk<D> {
    /// Opens a disk that is sealed with `key`, or empty. Removes what an interrupted [`rekey`](Self::rekey) left.
    ///
    /// `seed`: never the same one twice, or two texts are sealed with one nonce and the key is as good as known.
    ///
    /// # Errors
    ///
    /// [`DiskError::Failed`] if the disk fails, or if `provider` has no AES-256 (`Unsupported`). Whether the key fits
    /// shows when a file is read.
    pub fn open(
        disk: D,
        provider: Arc<dyn AeadProvider>,
        key: &DataKey,
        seed: &Seed,
    ) -> Result<Self, DiskError> {
        let wrapping = Wrapping::new(&*provider, key).map_err(|error| refused("", error))?;
        let mut sealed = Self {
            disk,
            provider,
            wrapping,
            rng: seed.derive("sealed disk").rng(),
            open: Vec::new(),
        };
        sealed.remove_rewritten()?;
        Ok(sealed)
    }

    /// Returns the identity of the data key, which every file's header shows.
    pub fn key_id(&self) -> u64 {
        self.wrapping.id
    }

    /// Returns the disk below.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Gives the disk below back.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Returns the key of the file that is `bytes`, `None` if it was never finished and holds nothing.
    fn key_of(&self, name: &str, bytes: &[u8]) -> Result<Option<FileKey>, DiskError> {
        let Some(header) = header_of(name, bytes)? else {
            return Ok(None);
        };
        if header.key != self.wrapping.id {
            return Err(DiskError::WrongKey {
                name: name.to_owned(),
                expected: self.wrapping.id,
                found: header.key,
            });
        }
        match header.unwrap(&*self.provider, &self.wrapping) {
            Ok(key) => Ok(Some(key)),
            Err(_) => Err(damaged_header(name, UNAUTHENTIC)),
        }
    }

    /// Takes a file out of those that are open, or opens it: cuts a torn tail and makes the rest durable.
    ///
    /// What fails before the file is put back forgets it, and so has it read again.
    fn take(&mut self, name: &str) -> Result<File, DiskError> {
        if let Some(at) = self.open.iter().position(|(open, _)| open == name) {
            return Ok(self.open.remove(at).1);
        }
        let bytes = self.disk.read(name)?;
        let Some(key) = self.key_of(name, &bytes)? else {
            self.disk.truncate(name, 0)?;
            return self.create(name);
        };
        let content = Content::read(name, &key, &bytes)?;
        let (length, end) = (octets(content.text.len()), octets(content.end));
        if content.end < bytes.len() {
            self.disk.truncate(name, end)?;
        }
        // A process that was killed leaves octets that can be read and are not on the disk.
        self.disk.sync(name)?;
        Ok(File {
            key,
            length,
            end,
            durable: end,
            link: content.link,
            records: content.records,
        })
    }

    /// Makes a file durable that holds nothing. That it exists is not.
    fn create(&mut self, name: &str) -> Result<File, DiskError> {
        let (header, key) = header::create(&*self.provider, &self.wrapping, &mut self.rng)
            .map_err(|error| refused(name, error))?;
        self.disk.append(name, &header)?;
        self.disk.sync(name)?;
        let Content { link, .. } = Content::empty(&key);
        Ok(File {
            key,
            length: 0,
            end: octets(HEADER_BYTES),
            durable: octets(HEADER_BYTES),
            link,
            records: 0,
        })
    }

    fn keep(&mut self, name: &str, file: File) {
        if self.open.len() >= OPEN_FILES_MAX {
            self.open.remove(0);
        }
        self.open.push((name.to_owned(), file));
    }

    fn forget(&mut self, name: &str) {
        self.open.retain(|(open, _)| open != name);
    }

    /// Adds `bytes` to a file, in as many records as it takes.
    fn put_all(&mut self, name: &str, file: &mut File, bytes: &[u8]) -> Result<(), DiskError> {
        for text in bytes.chunks(TEXT_BYTES_MAX) {
            self.put(name, file, record::APPEND, text)?;
            file.length = file.length.saturating_add(octets(text.len()));
        }
        Ok(())
    }

    fn put(&mut self, name: &str, file: &mut File, kind: u8, text: &[u8]) -> Result<(), DiskError> {
        if file.records >= RECORDS_MAX {
            return Err(failed("append", name, ErrorKind::FileTooLarge));
        }
        let unsynced = file.end.saturating_sub(file.durable);
        let place = Place {
            position: file.end,
            unsynced: u32::try_from(unsynced).unwrap_or(record::UNSYNCED_UNKNOWN),
            link: file.link,
        };
        let (record, link) = record::seal(&file.key, place, kind, self.rng.bytes(), text)
            .map_err(|error| refused(name, error))?;
        self.disk.append(name, &record)?;
        file.end = file.end.saturating_add(octets(record.len()));
        file.link = link;
        file.records += 1;
        Ok(())
    }
}

impl<D: Disk> Disk for SealedDisk<D> {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = self.disk.list()?;
        names.retain(|name| name != REWRITTEN);
        Ok(names)
    }

    /// As the contract says; also [`DiskError::Damaged`], [`DiskError::WrongKey`] and [`DiskError::NotSealed`].
    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        let bytes = self.disk.read(name)?;
        match self.key_of(name, &bytes)? {
            Some(key) => Content::read(name, &key, &bytes).map(|content| content.text),
            None => Ok(Vec::new()),
        }
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        check_name("append", name)?;
        let mut file = match self.take(name) {
            Err(DiskError::NotFound { .. }) => self.create(name)?,
            taken => taken?,
        };
        self.put_all(name, &mut file, bytes)?;
        self.keep(name, file);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        let mut file = self.take(name)?;
        if length_bytes < file.length {
            let heaviest = length_bytes
                .saturating_mul(2)
                .saturating_add(WASTE_BYTES_MAX);
            if file.end > heaviest {
                let mut text = self.read(name)?;
                text.truncate(usize::try_from(length_bytes).unwrap_or(usize::MAX));
                file = self.rewrite(name, &text)?;
            } else {
                self.put(name, &mut file, record::CUT, &length_bytes.to_le_bytes())?;
                file.length = length_bytes;
            }
        }
        self.keep(name, file);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        self.disk.sync(name)?;
        for (_, file) in self.open.iter_mut().filter(|(open, _)| open == name) {
            file.durable = file.end;
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        check_name("rename", to)?;
        let renamed = self.disk.rename(from, to);
        self.forget(to);
        if renamed.is_err() {
            self.forget(from);
        }
        for (open, _) in self.open.iter_mut().filter(|(open, _)| open == from) {
            to.clone_into(open);
        }
        renamed
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.forget(name);
        self.disk.remove(name)
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        self.disk.sync_directory()
    }
}

impl<D: fmt::Debug> fmt::Debug for SealedDisk<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedDisk")
            .field("disk", &self.disk)
            .field("key_id", &format_args!("{:016x}", self.wrapping.id))
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

/// Returns the header of a file, `None` if it was never finished.
fn header_of(name: &str, bytes: &[u8]) -> Result<Option<Header>, DiskError> {
    match Header::parse(bytes) {
        Ok(header) => Ok(Some(header)),
        Err(Unusable::Torn) => Ok(None),
        Err(Unusable::Plain) => Err(DiskError::NotSealed {
            name: name.to_owned(),
        }),
        Err(Unusable::Damaged(reason)) => Err(damaged_header(name, reason)),
    }
}

fn damaged_header(name: &str, reason: &'static str) -> DiskError {
    DiskError::Damaged {
        name: name.to_owned(),
        offset: 0,
        reason,
    }
}

fn check_name(operation: &'static str, name: &str) -> Result<(), DiskError> {
    if name == REWRITTEN {
        return Err(failed(operation, name, ErrorKind::InvalidInput));
    }
    Ok(())
}

/// The cipher does not take what is within the bounds of the format: it is not the one that is needed.
fn refused(name: &str, _: AeadError) -> DiskError {
    failed("seal", name, ErrorKind::Unsupported)
}

fn failed(operation: &'static str, name: &str, kind: ErrorKind) -> DiskError {
    DiskError::Failed {
        operation,
        name: name.to_owned(),
        kind,
    }
}

fn octets(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Where a file is written anew before it takes the place of the old one.
const REWRITTEN: &str = "sealed-rewritten";
/// Files of which the key is kept; others are read again when they are appended to.
const OPEN_FILES_MAX: usize = 8;
/// Records of one file (NIST SP 800-38D §8.3).
const RECORDS_MAX: u64 = 1 << 32;
/// Octets that a truncation may leave besides as many as the file has.
const WASTE_BYTES_MAX: u64 = 1 << 20;
const UNAUTHENTIC: &str = "the file's key is not authentic";
