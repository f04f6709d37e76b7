//! What is behind the key file of a data directory.

use std::{fs, io, path::Path, sync::Arc};

use overlay_core::{Disk, DiskError, Seed};
use overlay_raft::storage::{DataKey, SealedDisk};

use super::{
    KEY, NODE, RAFT,
    error::{StoreError, disk, system},
    keys::{KeyFile, Keys},
};
use crate::{
    driver::{FileDisk, clock},
    identity::{UnlockKey, cipher::Ciphers},
    secret::Secret,
};

/// What is behind the key file.
#[derive(Debug)]
pub(super) enum Vault {
    Locked(KeyFile),
    Open(Box<Opened>),
}

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) keys: Keys,
    /// What they are kept under.
    pub(super) unlock: Option<UnlockKey>,
    pub(super) node: SealedDisk<FileDisk>,
}

impl Opened {
    pub(super) fn new(
        path: &Path,
        keys: Keys,
        unlock: Option<UnlockKey>,
    ) -> Result<Self, StoreError> {
        let node = sealed(&path.join(NODE), &keys.current())?;
        let mut opened = Self { keys, unlock, node };
        opened.settle(path)?;
        Ok(opened)
    }

    /// Goes on with a key that takes over, up to where only the log is under the former one.
    pub(super) fn settle(&mut self, path: &Path) -> Result<(), StoreError> {
        let Some(next) = self.keys.next() else {
            return Ok(());
        };
        let rekeyed = self.node.rekey(&next);
        rekeyed.map_err(|error| disk(&path.join(NODE), error))?;
        match path.join(RAFT).exists() {
            true => Ok(()),
            false => self.finish(path),
        }
    }

    /// Drops the former key, if one was being replaced: nothing is sealed with it.
    pub(super) fn finish(&mut self, path: &Path) -> Result<(), StoreError> {
        if self.keys.next().is_none() {
            return Ok(());
        }
        let mut keys = self.keys.clone();
        keys.settle();
        let file = KeyFile::new(&keys, self.unlock.as_ref(), &mut seed()?.rng());
        replace_key_file(path, &file)?;
        self.keys = keys;
        Ok(())
    }
}

/// Makes a directory's first key.
pub(super) fn fresh(path: &Path) -> Result<Vault, StoreError> {
    let mut rng = seed()?.rng();
    let keys = Keys::random(&mut rng);
    replace_key_file(path, &KeyFile::new(&keys, None, &mut rng))?;
    Ok(Vault::Open(Box::new(Opened::new(path, keys, None)?)))
}

pub(super) fn sealed(directory: &Path, key: &DataKey) -> Result<SealedDisk<FileDisk>, StoreError> {
    SealedDisk::open(files(directory)?, Arc::new(Ciphers), key, &seed()?)
        .map_err(|error| disk(directory, error))
}

/// Draws what no other opening of a directory had.
pub(super) fn seed() -> Result<Seed, StoreError> {
    clock::entropy().map_err(|error| StoreError::Entropy {
        reason: error.to_string(),
    })
}

pub(super) fn read_key_file(directory: &Path) -> Result<Option<KeyFile>, StoreError> {
    let damaged = |reason: &str| StoreError::Damaged {
        path: directory.join(KEY),
        reason: reason.to_owned(),
    };
    match files(directory)?.read(KEY) {
        Ok(bytes) => KeyFile::from_bytes(&bytes).map(Some).map_err(damaged),
        Err(DiskError::NotFound { .. }) => Ok(None),
        Err(error) => Err(disk(directory, error)),
    }
}

pub(super) fn replace_key_file(directory: &Path, file: &KeyFile) -> Result<(), StoreError> {
    let bytes = Secret::any(file.to_bytes());
    let replaced = replace(&mut files(directory)?, KEY, bytes.expose());
    replaced.map_err(|error| disk(directory, error))
}

/// Replaces a file so that after a crash it has the old content or the new.
pub(super) fn replace(disk: &mut impl Disk, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
    let new = format!("{name}.new");
    match disk.remove(&new) {
        Ok(()) | Err(DiskError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    disk.append(&new, bytes)?;
    disk.sync(&new)?;
    disk.rename(&new, name)?;
    disk.sync_directory()
}

fn files(directory: &Path) -> Result<FileDisk, StoreError> {
    FileDisk::open(directory).map_err(|source| system("open", directory, source))
}

pub(super) fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system("remove", path, error)),
        _ => Ok(()),
    }
}
