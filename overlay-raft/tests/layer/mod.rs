//! What lies between a log and the simulated disk: nothing, or a disk that seals.

mod aes;

use std::sync::Arc;

use overlay_core::{Disk, DiskError, Seed};
use overlay_raft::storage::{DataKey, SealedDisk};
use overlay_sim::SimDisk;

use aes::AesGcm256;

/// How a log's octets get to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layer {
    Plain,
    Sealed,
}

/// A disk as a log sees it.
pub(crate) struct LayerDisk(Box<dyn Disk>);

impl Layer {
    /// Puts the layer over a disk; never twice with the same seed.
    pub(crate) fn over(self, disk: &SimDisk, seed: &Seed) -> Result<LayerDisk, DiskError> {
        Ok(LayerDisk(match self {
            Self::Plain => Box::new(disk.clone()),
            Self::Sealed => Box::new(SealedDisk::open(
                disk.clone(),
                Arc::new(AesGcm256),
                &DataKey::new([7; 32]),
                seed,
            )?),
        }))
    }
}

impl Disk for LayerDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.0.list()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        self.0.read(name)
    }

    fn reserve(&mut self, name: &str, length_bytes: u64) {
        self.0.reserve(name, length_bytes);
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.0.append(name, bytes)
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        self.0.truncate(name, length_bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        self.0.sync(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.0.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.0.remove(name)
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        self.0.sync_directory()
    }
}
