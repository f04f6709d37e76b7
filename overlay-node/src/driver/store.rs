//! What a node keeps in its data directory beside the log: who it is, and what it was assigned.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use overlay_core::NodeId;
use overlay_raft::RaftId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{agent::AgentMemory, identity::tls::Credentials, secret::Secret};

/// The data directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another daemon has it.
    #[error(
        "data directory {path:?} is in use by another daemon: stop it, or give another --data-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{operation} {path:?} failed: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file's content cannot be understood.
    #[error(
        "{path:?} is damaged ({reason}): restore it from a copy, or remove the data directory and join again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) node: NodeId,
    pub(crate) cluster: NodeId,
    /// How often the cluster was rebuilt from a survivor: which group the log belongs to.
    #[serde(default)]
    pub(crate) epoch: u64,
    pub(crate) raft: Option<RaftId>,
    pub(crate) address: std::net::IpAddr,
    /// Whether the address was given with `init` or `join`: the daemon's setting does not change it then.
    #[serde(default)]
    pub(crate) is_fixed: bool,
    pub(crate) credentials: Credentials,
    /// By which the node signs what it says of itself.
    pub(crate) key: Secret<32>,
    /// How many lives it has had, this one included.
    #[serde(default)]
    pub(crate) life: u64,
    /// Managers' addresses at the time of joining.
    pub(crate) seeds: Vec<(NodeId, std::net::SocketAddr)>,
}

/// A locked data directory.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    _lock: File,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| system("create", path, source))?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock)
            .map_err(|source| system("open", &lock, source))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: file,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse {
                path: path.to_owned(),
            }),
            Err(error) => Err(system("lock", &lock, error.into())),
        }
    }

    pub(crate) fn raft(&self) -> PathBuf {
        self.path.join("raft")
    }

    pub(crate) fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let path = self.path.join(IDENTITY);
        let Some(bytes) = self.read(IDENTITY)? else {
            return Ok(None);
        };
        let damaged = |reason: String| StoreError::Damaged {
            path: path.clone(),
            reason,
        };
        let identity: Identity =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if identity.format != FORMAT {
            let text = format!("format {} where {FORMAT} is understood", identity.format);
            return Err(damaged(text));
        }
        Ok(Some(identity))
    }

    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), StoreError> {
        let identity = Identity {
            format: FORMAT,
            ..identity.clone()
        };
        let bytes = serde_json::to_vec_pretty(&identity).expect("every part serializes");
        self.replace(IDENTITY, &bytes)
    }

    pub(crate) fn memory(&self) -> Result<AgentMemory, StoreError> {
        let Some(bytes) = self.read(MEMORY)? else {
            return Ok(AgentMemory::default());
        };
        let damaged = |reason: &str| StoreError::Damaged {
            path: self.path.join(MEMORY),
            reason: reason.to_owned(),
        };
        let (version, content) = bytes.split_first().ok_or_else(|| damaged("it is empty"))?;
        if *version != MEMORY_VERSION {
            return Err(damaged("it is of another version"));
        }
        postcard::from_bytes(content).map_err(|_| damaged("its content is malformed"))
    }

    pub(crate) fn save_memory(&self, memory: &AgentMemory) -> Result<(), StoreError> {
        let mut bytes = vec![MEMORY_VERSION];
        bytes.extend(postcard::to_allocvec(memory).expect("every part serializes"));
        self.replace(MEMORY, &bytes)
    }

    /// Removes everything that made this node part of a cluster; the identity first, so that no half of one is taken up.
    pub(crate) fn clear(&self) -> Result<(), StoreError> {
        for name in [IDENTITY, MEMORY] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(system("remove", &path, error));
                }
                _ => {}
            }
        }
        self.clear_raft()
    }

    pub(crate) fn clear_raft(&self) -> Result<(), StoreError> {
        let raft = self.raft();
        match fs::remove_dir_all(&raft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system("remove", &raft, error))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(system("read", &path, error)),
        }
    }

    /// Replaces a file so that after a crash it has the old content or the new.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| system("write", &path, source))
    }
}

fn system(operation: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::System {
        operation,
        path: path.to_owned(),
        source,
    }
}

const IDENTITY: &str = "identity.json";
const MEMORY: &str = "agent";
const FORMAT: u32 = 1;
const MEMORY_VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_daemon() {
        let path = std::env::temp_dir().join(format!("overlay-store-{}", std::process::id()));
        let store = Store::open(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::InUse { .. })));
        assert_eq!(store.identity().unwrap(), None);
        assert_eq!(store.memory().unwrap(), AgentMemory::default());
        fs::write(path.join(IDENTITY), b"{").unwrap();
        assert!(matches!(store.identity(), Err(StoreError::Damaged { .. })));
        store.clear().unwrap();
        assert_eq!(store.identity().unwrap(), None);
        drop(store);
        Store::open(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }
}
