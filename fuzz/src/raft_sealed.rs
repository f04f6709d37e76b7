//! A sealed file that holds anything.

use std::sync::{Arc, OnceLock};

use overlay_core::{Disk, Seed};
use overlay_node::identity::cipher::Ciphers;
use overlay_raft::storage::{DataKey, SealedDisk};

use crate::{MemoryDisk, Script, input::Input, raft_disk::crc32c};

/// Reads a file that a disk once sealed, or somebody made up, appends to it, cuts it, and reads it again.
///
/// The first octet says whether checksums are made good first. Nobody knows the key, so whatever is read was written:
/// it is one of the states that [`sealed_scripts`] went through.
pub fn raft_sealed(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let is_repaired = input.u8() & 1 != 0;
    let mut content = input.rest().to_vec();
    if is_repaired {
        repair(&mut content);
    }
    let mut below = MemoryDisk::default();
    below.0.insert(NAME.to_owned(), content);
    let mut disk = open(below.clone(), 1);
    let Ok(mut text) = disk.read(NAME) else {
        assert!(disk.append(NAME, b"more").is_err());
        assert!(disk.truncate(NAME, 0).is_err());
        assert_eq!(disk.into_disk(), below, "what is refused stays as it is");
        return;
    };
    assert!(
        text.is_empty() || stories().iter().any(|story| story.states.contains(&text)),
        "{text:?} was never written"
    );
    disk.append(NAME, b"more").expect("what is read goes on");
    text.extend(b"more");
    let half = text.len() / 2;
    disk.truncate(NAME, half as u64).expect("it exists");
    text.truncate(half);
    disk.sync(NAME).expect("a disk in memory does not fail");
    assert_eq!(disk.read(NAME).as_ref(), Ok(&text));
    let disk = open(disk.into_disk(), 2);
    assert_eq!(disk.read(NAME).as_ref(), Ok(&text));
}

/// Returns sealed files as [`raft_sealed`] reads them.
pub fn sealed_scripts() -> Vec<Vec<u8>> {
    let files = stories().iter().zip([0, 1].into_iter().cycle());
    files
        .map(|(story, is_repaired)| {
            let mut script = Script::new().op(&[is_repaired]).done();
            script.extend(&story.file);
            script
        })
        .collect()
}

/// A file and every text that it held.
struct Story {
    file: Vec<u8>,
    states: Vec<Vec<u8>>,
}

/// What is appended, or to what length the file is cut; each may be followed by a sync.
enum Step {
    Append(&'static [u8]),
    Cut(u64),
    Sync,
}

fn stories() -> &'static [Story] {
    use Step::{Append, Cut, Sync};
    static STORIES: OnceLock<Vec<Story>> = OnceLock::new();
    STORIES.get_or_init(|| {
        let synced = [
            Append(b"one"),
            Sync,
            Append(b"two"),
            Sync,
            Append(b"three"),
            Sync,
        ];
        let batch = [
            Append(b"first"),
            Append(b"second"),
            Append(b"third"),
            Sync,
            Append(b"!"),
        ];
        let cut = [
            Append(b"to be cut"),
            Sync,
            Cut(3),
            Append(b"re"),
            Sync,
            Cut(0),
            Append(b"end"),
        ];
        let scripts: [&[Step]; 5] = [&synced, &batch, &cut, &[Append(b"")], &[Append(&[7; 500])]];
        scripts
            .iter()
            .zip(10..)
            .map(|(steps, seed)| tell(steps, seed))
            .collect()
    })
}

fn tell(steps: &[Step], seed: u64) -> Story {
    let mut disk = open(MemoryDisk::default(), seed);
    let mut states = vec![Vec::new()];
    for step in steps {
        let done = match step {
            Step::Append(text) => disk.append(NAME, text),
            Step::Cut(length) => disk.truncate(NAME, *length),
            Step::Sync => disk.sync(NAME),
        };
        done.expect("a disk in memory does not fail");
        states.push(disk.read(NAME).expect("it was just written"));
    }
    let file = disk.into_disk().0.remove(NAME);
    Story {
        file: file.unwrap_or_default(),
        states,
    }
}

fn open(disk: MemoryDisk, seed: u64) -> SealedDisk<MemoryDisk> {
    let (key, seed) = (DataKey::new([7; 32]), Seed::from_u64(seed));
    SealedDisk::open(disk, Arc::new(Ciphers), &key, &seed).expect("the provider has AES-256")
}

/// Makes the checksums of a file's header and records good, as far as they can be found.
fn repair(file: &mut [u8]) {
    let mut position = HEADER_BYTES;
    let Some((header, mut rest)) = file.split_at_mut_checked(position) else {
        return;
    };
    let (covered, sum) = header.split_at_mut(HEADER_BYTES - 4);
    sum.copy_from_slice(&crc32c(covered).to_le_bytes());
    while let Some((head, sealed)) = rest.split_first_chunk_mut::<32>() {
        let covered = [&(position as u64).to_le_bytes(), &head[..28]].concat();
        head[28..].copy_from_slice(&crc32c(&covered).to_le_bytes());
        let length = u32::from_le_bytes([head[1], head[2], head[3], 0]);
        let length = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .saturating_add(16);
        let Some((_, behind)) = sealed.split_at_mut_checked(length) else {
            return;
        };
        position += 32 + length;
        rest = behind;
    }
}

const NAME: &str = "segment-00000000000000000001";
const HEADER_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_that_is_made_good_is_good() {
        for story in stories() {
            let mut damaged = story.file.clone();
            damaged[92..96].fill(0);
            if damaged.len() > HEADER_BYTES {
                damaged[HEADER_BYTES + 28..HEADER_BYTES + 32].fill(0);
            }
            repair(&mut damaged);
            assert_eq!(damaged, story.file);
        }
    }
}
