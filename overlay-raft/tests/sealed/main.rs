//! The sealed disk: what it returns, what crashes leave of it, what it refuses, and how its keys change.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../layer/aes.rs"]
mod aes;
mod attacks;
mod contract;
mod crashes;
mod keys;

use std::{cell::Cell, sync::Arc};

use overlay_core::{Disk, DiskError, Seed};
use overlay_raft::storage::{DataKey, SealedDisk};
use overlay_sim::SimDisk;

use aes::AesGcm256;

/// Octets before the first record of a file.
const HEADER_BYTES: usize = 96;
/// Octets that a record adds to its text.
const OVERHEAD_BYTES: usize = 48;

fn disk(number: u64) -> SimDisk {
    SimDisk::new(&Seed::from_u64(number))
}

fn key() -> DataKey {
    DataKey::new([7; 32])
}

/// Draws other nonces each time.
fn seed() -> Seed {
    thread_local! {
        static DRAWN: Cell<u64> = const { Cell::new(0) };
    }
    Seed::from_u64(DRAWN.replace(DRAWN.get() + 1))
}

fn open(disk: &SimDisk) -> Result<SealedDisk<SimDisk>, DiskError> {
    open_with(disk, &key())
}

fn open_with(disk: &SimDisk, key: &DataKey) -> Result<SealedDisk<SimDisk>, DiskError> {
    SealedDisk::open(disk.clone(), Arc::new(AesGcm256), key, &seed())
}

/// Writes a file with one record for each text, synced each.
fn written(name: &str, texts: &[&[u8]]) -> SimDisk {
    let disk = disk(1);
    let mut sealed = open(&disk).unwrap();
    for text in texts {
        sealed.append(name, text).unwrap();
        sealed.sync(name).unwrap();
    }
    sealed.sync_directory().unwrap();
    disk
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.copy(&seed())
}
