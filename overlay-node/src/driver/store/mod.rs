//! What a node keeps in its data directory: who it is, what it was assigned, and the log; all of it sealed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use overlay_core::{Disk as _, DiskError, NodeId};
use overlay_raft::{
    RaftId,
    storage::{DataKey, SealedDisk},
};
use serde::{Deserialize, Serialize};

pub use self::error::StoreError;
use self::{
    error::{disk, system},
    keys::KeyFile,
    vault::{
        Opened, Vault, fresh, read_key_file, remove_directory, replace_key_file, sealed, seed,
    },
};
use super::FileDisk;
use crate::{
    agent::AgentMemory,
    identity::{UnlockKey, tls::Credentials},
    secret::Secret,
};

mod error;
mod keys;
mod vault;

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

/// A data directory that no other daemon has.
///
/// | file | content |
/// |---|---|
/// | `lock` | nothing; whoever has the directory holds a lock on it |
/// | `key` | the key of the others, as it is or under the cluster's unlock key |
/// | `node/` | sealed: who the node is, what it was assigned |
/// | `raft/` | sealed: the log and its snapshots, of managers |
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    _lock: File,
    vault: Mutex<Vault>,
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
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(StoreError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(system("lock", &lock, error.into())),
        }
        let vault = match read_key_file(path)? {
            None if RAFT_AND_FORMER.iter().any(|name| path.join(name).exists()) => {
                return Err(StoreError::NoKey {
                    path: path.to_owned(),
                });
            }
            None => fresh(path)?,
            Some(file) => match file.open(None) {
                Some(keys) => Vault::Open(Box::new(Opened::new(path, keys, None)?)),
                None => Vault::Locked(file),
            },
        };
        Ok(Self {
            path: path.to_owned(),
            _lock: file,
            vault: Mutex::new(vault),
        })
    }

    /// Returns whether nothing can be read before the unlock key is given.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(*self.vault(), Vault::Locked(_))
    }

    /// Opens what is locked; `false` if it is under another key.
    pub(crate) fn unlock(&self, unlock: &UnlockKey) -> Result<bool, StoreError> {
        let mut vault = self.vault();
        let Vault::Locked(file) = &*vault else {
            return Ok(true);
        };
        let Some(keys) = file.open(Some(unlock)) else {
            return Ok(false);
        };
        let opened = Opened::new(&self.path, keys, Some(unlock.clone()))?;
        *vault = Vault::Open(Box::new(opened));
        Ok(true)
    }

    /// Returns whether the keys are kept under this unlock key, or under none.
    pub(crate) fn is_kept_under(&self, unlock: Option<&UnlockKey>) -> bool {
        match &*self.vault() {
            Vault::Locked(_) => false,
            Vault::Open(opened) => opened.unlock.as_ref() == unlock,
        }
    }

    /// Keeps the keys under another unlock key, or under none.
    ///
    /// Whoever had the former key file may know the keys in it: so where there is an unlock key, another data key takes over.
    /// It is returned for the log to take, if there is one; then [`log_settled`](Self::log_settled) ends it.
    pub(crate) fn keep_under(
        &self,
        unlock: Option<&UnlockKey>,
    ) -> Result<Option<DataKey>, StoreError> {
        self.opened(|path, opened| {
            let mut rng = seed()?.rng();
            let mut keys = opened.keys.clone();
            if unlock.is_some() {
                keys.succeed(&mut rng);
            }
            replace_key_file(path, &KeyFile::new(&keys, unlock, &mut rng))?;
            (opened.keys, opened.unlock) = (keys, unlock.cloned());
            opened.settle(path)?;
            Ok(opened.keys.next())
        })
    }

    /// Notes that the log is sealed with the key of this identity, and no more with the one before it.
    pub(crate) fn log_settled(&self, key: u64) -> Result<(), StoreError> {
        self.opened(|path, opened| {
            if opened.keys.next().is_some() && opened.node.key_id() == key {
                opened.finish(path)?;
            }
            Ok(())
        })
    }

    /// Returns the directory of the log; a key that is to take over has done so.
    pub(crate) fn raft(&self) -> Result<SealedDisk<FileDisk>, StoreError> {
        self.opened(|path, opened| {
            let mut raft = sealed(&path.join(RAFT), &opened.keys.current())?;
            if let Some(next) = opened.keys.next() {
                raft.rekey(&next)
                    .map_err(|error| disk(&path.join(RAFT), error))?;
                opened.finish(path)?;
            }
            Ok(raft)
        })
    }

    pub(crate) fn identity(&self) -> Result<Option<Identity>, StoreError> {
        let path = self.path.join(NODE).join(IDENTITY);
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
        let bytes = serde_json::to_vec(&identity).expect("every part serializes");
        self.replace(IDENTITY, &bytes)
    }

    pub(crate) fn memory(&self) -> Result<AgentMemory, StoreError> {
        let Some(bytes) = self.read(MEMORY)? else {
            return Ok(AgentMemory::default());
        };
        let damaged = |reason: &str| StoreError::Damaged {
            path: self.path.join(NODE).join(MEMORY),
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
    /// What comes then is sealed with a key of its own. Works on what is locked, too.
    pub(crate) fn clear(&self) -> Result<(), StoreError> {
        let mut vault = self.vault();
        let node = self.path.join(NODE);
        for name in [IDENTITY, MEMORY] {
            let path = node.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(system("remove", &path, error));
                }
                _ => {}
            }
        }
        remove_directory(&node)?;
        remove_directory(&self.path.join(RAFT))?;
        *vault = fresh(&self.path)?;
        Ok(())
    }

    pub(crate) fn clear_raft(&self) -> Result<(), StoreError> {
        self.opened(|path, opened| {
            remove_directory(&path.join(RAFT))?;
            opened.finish(path)
        })
    }

    fn vault(&self) -> MutexGuard<'_, Vault> {
        self.vault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened<T>(
        &self,
        work: impl FnOnce(&Path, &mut Opened) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &mut *self.vault() {
            Vault::Locked(_) => Err(StoreError::Locked {
                path: self.path.clone(),
            }),
            Vault::Open(opened) => work(&self.path, opened),
        }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.opened(|path, opened| match opened.node.read(name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(DiskError::NotFound { .. }) => Ok(None),
            Err(error) => Err(disk(&path.join(NODE), error)),
        })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.opened(|path, opened| {
            let replaced = vault::replace(&mut opened.node, name, bytes);
            replaced.map_err(|error| disk(&path.join(NODE), error))
        })
    }
}

const KEY: &str = "key";
const NODE: &str = "node";
const RAFT: &str = "raft";
/// What a directory without a key would have, if it had one: the log, and what was written before files were sealed.
const RAFT_AND_FORMER: [&str; 3] = [RAFT, NODE, "identity.json"];
const IDENTITY: &str = "identity.json";
const MEMORY: &str = "agent";
const FORMAT: u32 = 1;
const MEMORY_VERSION: u8 = 1;

#[cfg(test)]
mod tests;
