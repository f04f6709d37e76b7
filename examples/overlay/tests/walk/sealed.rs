//! What a daemon has sealed, for who has its whole data directory.

use std::{fs, path::Path, sync::Arc};

use anyhow::bail;
use overlay_core::{Disk as _, Seed};
use overlay_node::{driver::FileDisk, identity::cipher::Ciphers};
use overlay_raft::storage::{DataKey, SealedDisk};

/// Reads a file of a node's data directory, which is not locked.
pub(crate) fn unsealed(directory: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let file = fs::read(directory.join("key"))?;
    // A version, the variant that is open, and a key of 32 octets after its length.
    let [1, 0, 32, key @ ..] = &file[..] else {
        bail!("the key file is locked or of another version")
    };
    let Some(key) = key.first_chunk() else {
        bail!("the key file is too short")
    };
    let files = FileDisk::open(&directory.join("node"))?;
    // Nothing is sealed here, so the seed does not matter.
    let sealed = SealedDisk::open(
        files,
        Arc::new(Ciphers),
        &DataKey::new(*key),
        &Seed::from_u64(0),
    )?;
    Ok(sealed.read(name)?)
}
