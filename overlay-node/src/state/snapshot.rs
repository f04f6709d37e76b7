//! The state as octets.

use thiserror::Error;
use twox_hash::XxHash3_128;

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
    /// The content does not parse, or contradicts itself.
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
        let state: Self = postcard::from_bytes(content).map_err(|_| SnapshotError::Malformed)?;
        let whole = state.refers_to_what_is_there();
        whole.then_some(state).ok_or(SnapshotError::Malformed)
    }

    /// Returns a digest of the state; it agrees on all managers that applied the same log.
    ///
    /// Each part keeps its own hash while commands change it; this takes them together, whatever their size. It finds
    /// managers that disagree; whoever can choose identities freely can also make states that it does not tell apart.
    pub fn hash(&self) -> [u8; 32] {
        // Each field is named, so that a new one is not left out.
        let Self {
            cluster,
            nodes,
            networks,
            endpoints,
            services,
            tasks,
            pools,
            vnis,
            requests,
            former,
            audit,
            next_raft_id,
            applied,
            journal: _,
        } = self;
        let wide = [
            cluster.sum(),
            nodes.sum(),
            networks.sum(),
            endpoints.sum(),
            services.sum(),
            tasks.sum(),
            former.sum(),
            requests.sum(),
            audit.sum(),
        ];
        let narrow = [
            pools.state_hash(),
            vnis.state_hash(),
            *next_raft_id,
            *applied,
        ];
        let mut octets = [0; 9 * 16 + 4 * 8];
        let (left, right) = octets.split_at_mut(9 * 16);
        for (place, number) in left.as_chunks_mut::<16>().0.iter_mut().zip(wide) {
            *place = number.to_be_bytes();
        }
        for (place, number) in right.as_chunks_mut::<8>().0.iter_mut().zip(narrow) {
            *place = number.to_be_bytes();
        }
        let mut hash = [0; 32];
        for (place, seed) in hash.as_chunks_mut::<16>().0.iter_mut().zip(0..) {
            *place = XxHash3_128::oneshot_with_seed(seed, &octets).to_be_bytes();
        }
        hash
    }

    fn content(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("every part of the state serializes")
    }
}

const KIND: u8 = b'S';
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 10;
