//! The state as octets.

use ring::digest::{SHA256, digest};
use thiserror::Error;

use super::ClusterState;

/// A snapshot could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// It ends early.
    #[error("a snapshot of {found} octets is too short: expected {expected}")]
    Truncated {
        /// What its header says, or the header's own length.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// It is of a later version.
    #[error("snapshot version {found} is newer than {known}: run the program that wrote it")]
    Version {
        /// The version.
        found: u8,
        /// The newest that is understood.
        known: u8,
    },
    /// The content does not parse.
    #[error("the snapshot's content is malformed")]
    Malformed,
}

impl ClusterState {
    /// Writes the state as `{kind, version, length, content}`.
    pub fn snapshot(&self) -> Vec<u8> {
        let content = self.content();
        let mut bytes = vec![KIND, VERSION];
        bytes.extend_from_slice(&(content.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&content);
        bytes
    }

    /// Reads a state back.
    ///
    /// # Errors
    ///
    /// See [`SnapshotError`].
    pub fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let found = bytes.len() as u64;
        let (header, content) =
            bytes
                .split_at_checked(HEADER_BYTES)
                .ok_or(SnapshotError::Truncated {
                    expected: HEADER_BYTES as u64,
                    found,
                })?;
        let [kind, version, length @ ..] = header else {
            return Err(SnapshotError::Malformed);
        };
        if *kind != KIND {
            return Err(SnapshotError::Malformed);
        }
        if *version != VERSION {
            return Err(SnapshotError::Version {
                found: *version,
                known: VERSION,
            });
        }
        let length = <[u8; 8]>::try_from(length).map_err(|_| SnapshotError::Malformed)?;
        let expected = u64::from_be_bytes(length);
        if expected != content.len() as u64 {
            return Err(SnapshotError::Truncated { expected, found });
        }
        postcard::from_bytes(content).map_err(|_| SnapshotError::Malformed)
    }

    /// Returns a digest of the state; it agrees on all managers that applied the same log.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.snapshot()).as_ref());
        hash
    }

    fn content(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("every part of the state serializes")
    }
}

const KIND: u8 = b'S';
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 10;
