//! What a log needs of a disk.

use thiserror::Error;

/// One flat directory of files.
///
/// A driver implements it with the operating system's files; the simulator with files that lose or tear what was not
/// synced. Until [`sync`](Self::sync) returns, a crash may lose any part of what was appended or truncated since the
/// last one; until [`sync_directory`](Self::sync_directory) returns, it may undo creations, renames and removals.
///
/// Names are plain: letters, digits, `-`, `_` and `.`, no separators.
pub trait Disk {
    /// Returns the names of all files, sorted.
    ///
    /// # Errors
    ///
    /// [`DiskError::Failed`] if the directory cannot be read.
    fn list(&self) -> Result<Vec<String>, DiskError>;

    /// Returns the whole content of a file.
    ///
    /// # Errors
    ///
    /// [`DiskError::NotFound`], or [`DiskError::Failed`] if it cannot be read.
    /// A disk that seals what it stores also checks what it reads, here and before it changes a file:
    /// [`DiskError::Damaged`], [`DiskError::WrongKey`], [`DiskError::NotSealed`].
    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError>;

    /// Makes room, so that a file can grow to `length_bytes` without the file system having to record its new length at each
    /// [`sync`](Self::sync); creates the file if it does not exist. A hint: what fails here shows later, where it matters.
    ///
    /// The content and its length stay what they are, until the disk is opened again: then octets that nobody appended may
    /// follow, zeros or what some removed file held. So make room only in files whose content tells its own end, and cut
    /// them ([`truncate`](Self::truncate)) or write them anew before they are appended to.
    ///
    /// Default: nothing happens, and the file is created by its first octet.
    fn reserve(&mut self, name: &str, length_bytes: u64) {
        let _ = (name, length_bytes);
    }

    /// Appends `bytes`; creates the file if it does not exist.
    ///
    /// # Errors
    ///
    /// After any error the length of the file is unknown: rebuild from what the disk really holds.
    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Cuts a file to `length_bytes`; one that is not longer stays as it is.
    ///
    /// # Errors
    ///
    /// [`DiskError::NotFound`], or [`DiskError::Failed`].
    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError>;

    /// Makes the content and length of a file durable.
    ///
    /// # Errors
    ///
    /// A failed sync is final for the file: what it holds is unknown, and a second sync that succeeds proves nothing.
    fn sync(&mut self, name: &str) -> Result<(), DiskError>;

    /// Renames a file, replacing the target atomically.
    ///
    /// # Errors
    ///
    /// [`DiskError::NotFound`], or [`DiskError::Failed`].
    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// [`DiskError::NotFound`], or [`DiskError::Failed`].
    fn remove(&mut self, name: &str) -> Result<(), DiskError>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    ///
    /// As for [`sync`](Self::sync).
    fn sync_directory(&mut self) -> Result<(), DiskError>;
}

/// A disk did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// There is no such file.
    #[error("no file {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// The operation failed.
    #[error("{operation} of {name:?} failed: {kind}")]
    Failed {
        /// What was tried: `append`, `sync`, …
        operation: &'static str,
        /// The file, empty for the directory.
        name: String,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// What a file holds is not what was written to it.
    #[error(
        "{name:?} is damaged at offset {offset} ({reason}) although what was there was made durable. Restore the file \
         from a copy, or give up what its directory holds"
    )]
    Damaged {
        /// The file.
        name: String,
        /// Where in the file as it is stored.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A file is sealed with another key.
    #[error(
        "{name:?} is sealed with the key {found:016x}, {expected:016x} was given: the file is whole, give the key that \
         it was sealed with"
    )]
    WrongKey {
        /// The file.
        name: String,
        /// The identity of the key that was given.
        expected: u64,
        /// The identity of the key that it is sealed with.
        found: u64,
    },
    /// A file is in clear where only sealed ones are read.
    #[error(
        "{name:?} is not sealed. Seal its directory once if it was written before sealing was turned on; otherwise \
         somebody else wrote it, or its first octets are damaged"
    )]
    NotSealed {
        /// The file.
        name: String,
    },
}
