//! What somebody may do to the octets: nothing of it gives another text.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use overlay_core::{
    Disk, DiskError, Rng, Seed,
    aead::{Aead, AeadError, AeadProvider, NONCE_BYTES},
};
use overlay_raft::storage::SealedDisk;
use overlay_sim::SimDisk;
use proptest::prelude::*;

use super::{HEADER_BYTES, OVERHEAD_BYTES, copy, disk, key, open, seed, written};
use crate::aes::AesGcm256;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// In batches of several records and truncations, synced each.
    #[test]
    fn a_flipped_bit_is_refused_or_in_the_last_batch_cut(
        batches in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..30),
    ) {
        let below = disk(1);
        let mut sealed = open(&below).unwrap();
        let mut states = vec![Vec::new()];
        let (mut last_batch, mut last_octet) = (0, 0);
        for batch in &batches {
            let (states_before, octets_before) = (states.len() - 1, stored(&below));
            for step in batch {
                let mut next = states.last().unwrap().clone();
                match step {
                    Ok(text) => {
                        sealed.append("a", text).unwrap();
                        next.extend(text);
                    }
                    Err(length) => {
                        if sealed.truncate("a", *length).is_ok() {
                            next.truncate(usize::try_from(*length).unwrap());
                        }
                    }
                }
                states.push(next);
            }
            let _ = sealed.sync("a");
            // What changes nothing writes nothing.
            if stored(&below) > octets_before {
                (last_batch, last_octet) = (states_before, octets_before);
            }
        }
        let Ok(bytes) = below.read("a") else { return Ok(()) };
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            let damaged = copy(&below);
            damaged.flip_bit("a", at, bit);
            match open(&damaged).unwrap().read("a") {
                Ok(text) if bytes.len() == HEADER_BYTES => prop_assert!(text.is_empty()),
                Ok(text) => {
                    prop_assert!(at >= last_octet && at >= HEADER_BYTES, "{} was lost", at);
                    prop_assert!(states[last_batch..].contains(&text));
                }
                Err(DiskError::Damaged { name, offset, .. }) => {
                    prop_assert_eq!(name, "a");
                    prop_assert!(offset <= at as u64);
                }
                Err(DiskError::NotSealed { .. }) => prop_assert!(at < 4),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }

    /// Records moved, repeated, left out and put in from elsewhere.
    #[test]
    fn records_in_another_order_never_give_another_text(order in prop::collection::vec(0..9_usize, 0..9)) {
        let (one, other) = (written("a", &TEXTS), written("b", &TEXTS));
        let (one, other) = (one.read("a").unwrap(), other.read("b").unwrap());
        let size = OVERHEAD_BYTES + TEXTS[0].len();
        let records: Vec<&[u8]> = [&one, &other]
            .iter()
            .flat_map(|bytes| bytes[HEADER_BYTES..].chunks(size))
            .collect();
        let mut forged = one[..HEADER_BYTES].to_vec();
        for at in &order {
            forged.extend(records[*at]);
        }
        let below = disk(2);
        below.clone().append("a", &forged).unwrap();
        let whole = order.iter().zip(0..).take_while(|(at, expected)| at == &expected).count();
        let whole = whole.min(TEXTS.len());
        match open(&below).unwrap().read("a") {
            Ok(text) => prop_assert_eq!(text, TEXTS[..whole].concat()),
            Err(DiskError::Damaged { .. }) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

fn stored(disk: &SimDisk) -> usize {
    disk.read("a").map_or(0, |bytes| bytes.len())
}

const TEXTS: [&[u8]; 5] = [b"text 0", b"text 1", b"text 2", b"text 3", b"text 4"];

fn step() -> impl Strategy<Value = Result<Vec<u8>, u64>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Ok),
        1 => (0..30_u64).prop_map(Err),
    ]
}

/// Whoever saw the disk before a crash has a record that was undone, sealed for the very same place.
#[test]
fn a_record_that_a_crash_undid_does_not_come_back() {
    let below = disk(1);
    let mut sealed = open(&below).unwrap();
    sealed.append("a", b"kept").unwrap();
    sealed.sync("a").unwrap();
    sealed.sync_directory().unwrap();
    let from = below.read("a").unwrap().len();
    sealed.append("a", b"undone").unwrap();
    let undone = below.read("a").unwrap()[from..].to_vec();
    below.crash_with(overlay_sim::Unsynced::Lost);
    let mut sealed = open(&below).unwrap();
    for text in [b"second", b"third!"] {
        sealed.append("a", text).unwrap();
        sealed.sync("a").unwrap();
    }
    below.edit("a", |bytes| {
        bytes[from..from + undone.len()].copy_from_slice(&undone);
    });
    let error = open(&below).unwrap().read("a").unwrap_err();
    let DiskError::Damaged { offset, reason, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*offset, (from + undone.len()) as u64);
    assert!(reason.contains("follows another"), "{error}");
}

/// A record of a later release is whole, so it is no torn tail.
#[test]
fn a_header_of_another_version_is_refused() {
    for at in 4..8 {
        let below = written("a", &[b"text"]);
        below.edit("a", |bytes| {
            bytes[at] = 9;
            let sum = crc32c(&bytes[..92]);
            bytes[92..96].copy_from_slice(&sum.to_le_bytes());
        });
        let error = open(&below).unwrap().read("a").unwrap_err();
        assert!(error.to_string().contains("unknown version"), "{error}");
    }
}

/// A file that holds nothing may have been torn while it was made. One whose header passes must go on passing.
#[test]
fn a_torn_header_with_a_good_checksum_is_written_anew() {
    for at in 0..4 {
        let below = written("a", &[b""]);
        below.edit("a", |bytes| {
            bytes[at] = 0;
            let sum = crc32c(&bytes[..92]);
            bytes[92..96].copy_from_slice(&sum.to_le_bytes());
        });
        let mut sealed = open(&below).unwrap();
        assert_eq!(sealed.read("a").unwrap(), b"");
        sealed.append("a", b"text").unwrap();
        assert_eq!(sealed.read("a").unwrap(), b"text");
        assert_eq!(open(&below).unwrap().read("a").unwrap(), b"text");
    }
}

/// A header's checksum is no secret, its tag is.
#[test]
fn a_header_that_was_made_up_is_refused() {
    for at in 16..92 {
        let below = written("a", &[b"text"]);
        below.edit("a", |bytes| {
            bytes[at] ^= 1;
            let sum = crc32c(&bytes[..92]);
            bytes[92..96].copy_from_slice(&sum.to_le_bytes());
        });
        let error = open(&below).unwrap().read("a").unwrap_err();
        assert!(
            matches!(error, DiskError::Damaged { offset: 0, .. }),
            "{error}"
        );
    }
}

#[test]
fn arbitrary_octets_never_panic() {
    let mut rng = Seed::from_u64(4).rng();
    let whole = written("a", &TEXTS).read("a").unwrap();
    for round in 0..3_000 {
        let below = disk(1);
        let mut bytes = vec![0; usize::try_from(rng.below(300)).unwrap()];
        rng.fill(&mut bytes);
        if round % 2 == 0 {
            let keep = rng.index(whole.len()).unwrap();
            bytes.splice(..0, whole[..keep].iter().copied());
        }
        below.clone().append("a", &bytes).unwrap();
        let mut sealed = open(&below).unwrap();
        let _ = sealed.read("a");
        let _ = sealed.append("a", b"x");
        let _ = sealed.truncate("a", 1);
    }
}

/// Headers of records with good checksums, each of which says that the rest of the file is its text.
#[test]
fn what_it_takes_to_refuse_a_file_is_bounded() {
    let below = written("a", &[b"text"]);
    let genuine = below.read("a").unwrap().len();
    let mut bytes = Vec::new();
    while bytes.len() < 200_000 {
        let position = (genuine + 1 + bytes.len()) as u64;
        let length = 200_000_u32.saturating_sub(u32::try_from(bytes.len()).unwrap());
        let mut head = vec![1];
        head.extend(&length.to_le_bytes()[..3]);
        head.resize(28, 0);
        let sum = crc32c(&[&position.to_le_bytes(), &head[..]].concat());
        head.extend(sum.to_le_bytes());
        bytes.extend(head);
    }
    below.clone().append("a", &[0]).unwrap();
    below.clone().append("a", &bytes).unwrap();
    below.clone().append("a", &[0; 100]).unwrap();
    let watched = Arc::new(Watched::default());
    let provider: Arc<dyn AeadProvider> = Arc::<Watched>::clone(&watched);
    let sealed = SealedDisk::open(below, provider, &key(), &seed()).unwrap();
    let error = sealed.read("a").unwrap_err();
    assert!(matches!(error, DiskError::Damaged { .. }), "{error}");
    let opened = watched.opened.load(Ordering::Relaxed);
    assert!((200_000..1_000_000).contains(&opened), "{opened} octets");
}

/// Also after truncations, crashes that undo records, and restarts.
#[test]
fn no_nonce_is_used_twice_with_a_key() {
    let watched = Arc::new(Watched::default());
    let below = disk(3);
    let mut rng: Rng = Seed::from_u64(9).rng();
    let start = |below: &SimDisk| {
        let provider: Arc<dyn AeadProvider> = Arc::<Watched>::clone(&watched);
        SealedDisk::open(below.clone(), provider, &key(), &seed()).unwrap()
    };
    let mut sealed = start(&below);
    for _ in 0..2_000 {
        match rng.below(10) {
            0 => {
                below.crash();
                sealed = start(&below);
            }
            1 => drop(sealed.truncate("a", rng.below(200))),
            2 => drop(sealed.sync("a")),
            3 => sealed.sync_directory().unwrap(),
            _ => sealed.append("a", b"some text").unwrap(),
        }
    }
    let seen = watched.seen.lock().unwrap();
    assert!(seen.len() > 1_000);
    assert_eq!(watched.sealed.load(Ordering::Relaxed), seen.len());
}

/// Only a few are kept open.
#[test]
fn many_files_are_appended_to_by_turns() {
    let watched = Arc::new(Watched::default());
    let provider: Arc<dyn AeadProvider> = Arc::<Watched>::clone(&watched);
    let mut sealed = SealedDisk::open(disk(1), provider, &key(), &seed()).unwrap();
    for round in 0..3 {
        for file in 0..30 {
            let name = format!("file-{file}");
            sealed.append(&name, &[round, file]).unwrap();
            let ciphers = Arc::strong_count(&watched.opened) - 1;
            assert!(ciphers <= 9, "{ciphers} kept, one of them wraps");
        }
    }
    for file in 0..30 {
        let text = sealed.read(&format!("file-{file}")).unwrap();
        assert_eq!(text, [0, file, 1, file, 2, file]);
    }
}

/// Counts what is done with keys.
#[derive(Debug, Default)]
struct Watched {
    sealed: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    seen: Seen,
}

/// Keys with the nonces that something was sealed with.
type Seen = Arc<Mutex<BTreeSet<(Vec<u8>, [u8; NONCE_BYTES])>>>;

#[derive(Debug)]
struct WatchedCipher {
    cipher: Box<dyn Aead>,
    key: Vec<u8>,
    sealed: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
    seen: Seen,
}

impl AeadProvider for Watched {
    fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
        Ok(Box::new(WatchedCipher {
            cipher: AesGcm256.aes_gcm(key)?,
            key: key.to_vec(),
            sealed: Arc::clone(&self.sealed),
            opened: Arc::clone(&self.opened),
            seen: Arc::clone(&self.seen),
        }))
    }
}

impl Aead for WatchedCipher {
    fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        // The identity of a key is the same each time.
        if buffer.len() > from {
            self.sealed.fetch_add(1, Ordering::Relaxed);
            let mut seen = self.seen.lock().unwrap();
            seen.insert((self.key.clone(), nonce));
        }
        self.cipher.seal(nonce, associated, buffer, from)
    }

    fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        associated: &[u8],
        buffer: &mut Vec<u8>,
        from: usize,
    ) -> Result<(), AeadError> {
        let octets = buffer.len() - from;
        self.opened.fetch_add(octets, Ordering::Relaxed);
        self.cipher.open(nonce, associated, buffer, from)
    }
}

/// CRC-32C bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut state = u32::MAX;
    for octet in bytes {
        state ^= u32::from(*octet);
        for _ in 0..8 {
            state = (state >> 1) ^ (0x82f6_3b78 * (state & 1));
        }
    }
    !state
}
