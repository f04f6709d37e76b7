//! The log of consensus, opened on a disk that holds anything.

use std::collections::BTreeMap;

use overlay_core::{Disk, DiskError, Instant, Machine, Seed};
use overlay_raft::{
    Output, Raft,
    storage::{Log, StorageConfig},
};

use crate::{Script, input::Input, raft::config};

/// Files in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryDisk(pub BTreeMap<String, Vec<u8>>);

impl MemoryDisk {
    fn file(&mut self, name: &str) -> Result<&mut Vec<u8>, DiskError> {
        self.0.get_mut(name).ok_or_else(|| not_found(name))
    }
}

fn not_found(name: &str) -> DiskError {
    let name = name.to_owned();
    DiskError::NotFound { name }
}

impl Disk for MemoryDisk {
    fn list(&self) -> Result<Vec<String>, DiskError> {
        Ok(self.0.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, DiskError> {
        self.0.get(name).cloned().ok_or_else(|| not_found(name))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        self.0
            .entry(name.to_owned())
            .or_default()
            .extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length_bytes: u64) -> Result<(), DiskError> {
        let length = usize::try_from(length_bytes).expect("a file in memory is no longer");
        self.file(name)?.truncate(length);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), DiskError> {
        self.file(name).map(|_| ())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        let content = self.0.remove(from).ok_or_else(|| not_found(from))?;
        self.0.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.0
            .remove(name)
            .map(|_| ())
            .ok_or_else(|| not_found(name))
    }

    fn sync_directory(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Segments are small, so that a few writes make several.
pub(crate) const STORAGE: StorageConfig = StorageConfig {
    segment_bytes_max: 256,
    reserve_bytes_max: 128,
};

/// Opens a log, starts a member from it, lets it write, and opens the log again.
///
/// The first octet says whether checksums are made good first: no mutation finds one by chance, and what is behind them
/// shall be reached, too.
pub fn raft_log(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let is_repaired = input.u8() & 1 != 0;
    let mut disk = MemoryDisk::default();
    while !input.is_empty() {
        let number = input.u8();
        let mut content = input.bytes().to_vec();
        if is_repaired {
            repair(u64::from(number), &mut content);
        }
        disk.0.insert(name(u64::from(number)), content);
    }
    let Ok((log, restored)) = Log::open(disk, STORAGE) else {
        return;
    };
    let (mut log, again) =
        Log::open(log.into_disk(), STORAGE).expect("what was opened opens again");
    assert_eq!(restored, again);

    let Ok(mut raft) = Raft::new(config(), Seed::from_u64(1), Instant::EPOCH, restored) else {
        return;
    };
    let mut now = Instant::EPOCH;
    for _ in 0..4 {
        raft.handle_timeout(now);
        while let Some(output) = raft.poll_output() {
            if let Output::Persist(batch) = output {
                let (write, ticket) = batch.into_parts();
                log.write(&write).expect("a disk in memory does not fail");
                raft.handle_persisted(now, ticket);
            }
        }
        now = raft.poll_timeout().unwrap_or(now);
    }
    Log::open(log.into_disk(), STORAGE).expect("what a member wrote opens again");
}

/// Writes a disk as [`raft_log`] reads it; files that are no segments are left out.
pub fn disk_script(disk: &MemoryDisk, is_repaired: bool) -> Vec<u8> {
    let mut script = Script::new().op(&[u8::from(is_repaired)]);
    for number in 0..=u8::MAX {
        if let Some(content) = disk.0.get(&name(u64::from(number))) {
            script = script.op(&[number]).bytes(content);
        }
    }
    script.done()
}

fn name(number: u64) -> String {
    format!("segment-{number:020}")
}

/// Makes the checksums of a segment's records good, as far as they can be found.
fn repair(number: u64, mut segment: &mut [u8]) {
    while let Some((header, rest)) = segment.split_first_chunk_mut::<20>() {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        let Some((body, rest)) = usize::try_from(length)
            .ok()
            .and_then(|length| rest.split_at_mut_checked(length))
        else {
            return;
        };
        let covered = [&number.to_le_bytes(), &header[..16], &*body].concat();
        header[16..].copy_from_slice(&crc32c(&covered).to_le_bytes());
        segment = rest;
    }
}

/// CRC-32C bit by bit: a second opinion, and short.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    let mut state = u32::MAX;
    for octet in bytes {
        state ^= u32::from(*octet);
        for _ in 0..8 {
            let carry = state & 1;
            state = (state >> 1) ^ (0x82f6_3b78 * carry);
        }
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_that_is_made_good_is_good() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283); // RFC 3720 §B.4 names the polynomial, this is its check value
        let (mut log, _) = Log::open(MemoryDisk::default(), STORAGE).expect("an empty disk opens");
        let founders = overlay_raft::Restored::bootstrap([crate::raft::id(1)]);
        let now = Instant::EPOCH;
        let mut raft = Raft::new(config(), Seed::from_u64(1), now, founders).unwrap();
        while let Some(output) = raft.poll_output() {
            if let Output::Persist(batch) = output {
                log.write(batch.write()).unwrap();
            }
        }
        let good = log.into_disk();
        let mut damaged = good.clone();
        for segment in damaged.0.values_mut() {
            segment[16..20].fill(0);
            repair(1, segment);
        }
        assert!(!good.0.is_empty());
        assert_eq!(damaged, good);
    }
}
