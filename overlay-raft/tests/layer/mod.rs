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
#[derive(Debug)]
pub(crate) enum LayerDisk {
    Plain(SimDisk),
    Sealed(SealedDisk<SimDisk>),
}

impl Layer {
    /// Puts the layer over a disk; never twice with the same seed.
    pub(crate) fn over(self, disk: &SimDisk, seed: &Seed) -> Result<LayerDisk, DiskError> {
        Ok(match self {
            Self::Plain => LayerDisk::Plain(disk.clone()),
            Self::Sealed => LayerDisk::Sealed(SealedDisk::open(
                disk.clone(),
                Arc::new(AesGcm256),
                &DataKey::new([7; 32]),
                seed,
            )?),
        })
    }
}

impl LayerDisk {
    fn disk(&self) -> &dyn Disk {
        match self {
            Self::Plain(disk) => disk,
            Self::Sealed(disk) => disk,
        }
    }

    fn disk_mut(&mut self) -> &mut dyn Disk {
        match self {
            Self::Plain(disk) => disk,
            Self::Sealed(disk) => disk,
        }
    }
}

impl Disk for LayerDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.disk().list()
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        self.disk().read(name)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.disk_mut().append(name, bytes)
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        self.disk_mut().truncate(name, length_bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        self.disk_mut().sync(name)
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.disk_mut().rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.disk_mut().remove(name)
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        self.disk_mut().sync_directory()
    }
}
