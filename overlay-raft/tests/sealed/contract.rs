//! To its owner it is a disk like any other.

use std::collections::BTreeMap;

use overlay_core::{Disk, DiskError, Rng};
use overlay_raft::storage::{DataKey, SealedDisk};
use overlay_sim::{
    SimDisk,
    disk_contract::{self, Subject},
};
use proptest::prelude::*;

use super::{HEADER_BYTES, OVERHEAD_BYTES, disk, key, open, open_with, seed, written};
use crate::aes::AesGcm256;

#[derive(Clone, Debug)]
enum Op {
    Append(usize, Vec<u8>),
    Truncate(usize, u64),
    Rename(usize, usize),
    Remove(usize),
    Sync(usize),
    /// Another process goes on.
    Reopen,
    Rekey(u8),
}

const NAMES: [&str; 4] = ["segment-1", "segment-2", "a", "lock.tmp"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_files_in_memory_do(ops in prop::collection::vec(op(), 1..60)) {
        let below = disk(1);
        let mut data_key = key();
        let mut sealed = open(&below).unwrap();
        let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Append(at, bytes) => {
                    sealed.append(NAMES[at], &bytes).unwrap();
                    files.entry(NAMES[at]).or_default().extend(bytes);
                }
                Op::Truncate(at, length) => {
                    let file = files.get_mut(NAMES[at]);
                    let exists = file.is_some();
                    if let Some(file) = file {
                        file.truncate(usize::try_from(length).unwrap());
                    }
                    check(exists, sealed.truncate(NAMES[at], length))?;
                }
                Op::Rename(from, to) if from != to => {
                    let file = files.remove(NAMES[from]);
                    let exists = file.is_some();
                    files.extend(file.map(|file| (NAMES[to], file)));
                    check(exists, sealed.rename(NAMES[from], NAMES[to]))?;
                }
                Op::Rename(..) => {}
                Op::Remove(at) => check(files.remove(NAMES[at]).is_some(), sealed.remove(NAMES[at]))?,
                Op::Sync(at) => check(files.contains_key(NAMES[at]), sealed.sync(NAMES[at]))?,
                Op::Reopen => sealed = open_with(&below, &data_key).unwrap(),
                Op::Rekey(octet) => {
                    data_key = DataKey::new([octet; 32]);
                    sealed.rekey(&data_key).unwrap();
                }
            }
            for name in NAMES {
                let expected = files.get(name).cloned().ok_or_else(|| not_found(name));
                prop_assert_eq!(sealed.read(name), expected);
            }
            let names: Vec<&str> = files.keys().copied().collect();
            prop_assert_eq!(sealed.list().unwrap(), names);
        }
    }
}

#[test]
fn it_keeps_the_contract_of_disks_over_one_that_does() {
    struct OverMemory(SimDisk);

    impl Subject for OverMemory {
        type Disk = SealedDisk<SimDisk>;

        fn open(&mut self) -> Self::Disk {
            self.0.kill();
            open(&self.0).unwrap()
        }

        fn cut_power(&mut self, _rng: &mut Rng) -> bool {
            self.0.crash();
            true
        }
    }

    let name = "contract::it_keeps_the_contract_of_disks_over_one_that_does";
    let summary = disk_contract::assert_holds(name, 100, |seed| OverMemory(SimDisk::new(seed)));
    assert!(summary.power_cuts > 100, "{summary:?}");
}

fn op() -> impl Strategy<Value = Op> {
    let file = || 0..NAMES.len();
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        6 => (file(), bytes).prop_map(|(at, bytes)| Op::Append(at, bytes)),
        3 => (file(), 0..80_u64).prop_map(|(at, length)| Op::Truncate(at, length)),
        1 => (file(), file()).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => file().prop_map(Op::Remove),
        2 => file().prop_map(Op::Sync),
        2 => Just(Op::Reopen),
        1 => any::<u8>().prop_map(Op::Rekey),
    ]
}

fn check(exists: bool, result: Result<(), DiskError>) -> Result<(), TestCaseError> {
    let is_not_found = matches!(result, Err(DiskError::NotFound { .. }));
    prop_assert_eq!(!exists, is_not_found);
    prop_assert!(is_not_found || result.is_ok());
    Ok(())
}

fn not_found(name: &str) -> DiskError {
    let name = name.to_owned();
    DiskError::NotFound { name }
}

/// Version 1 as it is written down for ever: `tests/golden/sealed-1.txt`.
#[test]
fn version_1_never_changes() {
    let below = disk(1);
    let seed = overlay_core::Seed::from_u64(1);
    let provider = std::sync::Arc::new(AesGcm256);
    let mut sealed = SealedDisk::open(below.clone(), provider, &key(), &seed).unwrap();
    sealed.append("a", b"first").unwrap();
    sealed.sync("a").unwrap();
    sealed.append("a", b"second").unwrap();
    sealed.append("a", b"third").unwrap();
    sealed.truncate("a", 7).unwrap();
    assert_eq!(sealed.read("a").unwrap(), b"firstse");
    let hex: String = below
        .read("a")
        .unwrap()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let golden = include_str!("../golden/sealed-1.txt");
    let lines = golden.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(hex, lines.collect::<String>());
}

#[test]
fn an_append_takes_48_octets_more_and_the_first_96() {
    let below = written("a", &[b"12345", b"", b"1"]);
    assert_eq!(
        below.read("a").unwrap().len(),
        HEADER_BYTES + 2 * OVERHEAD_BYTES + 6,
        "nothing is written for nothing"
    );
}

#[test]
fn an_append_of_any_length_is_read_back() {
    let mut sealed = open(&disk(1)).unwrap();
    let mut expected = Vec::new();
    for length in [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 5] {
        let text: Vec<u8> = (0..=250).cycle().take(length).collect();
        sealed.append("a", &text).unwrap();
        expected.extend(text);
        assert!(sealed.read("a").unwrap() == expected, "{length} octets");
    }
}

/// What a truncation leaves behind is bounded, and what is read stays right.
#[test]
fn truncations_give_their_space_back() {
    let below = disk(1);
    let mut sealed = open(&below).unwrap();
    let block = vec![5; 1 << 19];
    for round in 0..40 {
        sealed.append("a", &block).unwrap();
        sealed.append("a", &[round]).unwrap();
        sealed.truncate("a", u64::from(round) + 1).unwrap();
        assert!(below.used_bytes() < 2 << 20, "round {round}");
        let text = sealed.read("a").unwrap();
        assert!(text.len() == usize::from(round) + 1);
    }
    sealed.sync("a").unwrap();
    let text = open(&below).unwrap().read("a").unwrap();
    assert_eq!(text.len(), 40);
}

#[test]
fn its_own_name_is_refused_and_not_listed() {
    let below = disk(1);
    let mut sealed = open(&below).unwrap();
    assert!(sealed.append("sealed-rewritten", b"x").is_err());
    sealed.append("a", b"x").unwrap();
    assert!(sealed.rename("a", "sealed-rewritten").is_err());
    below.clone().append("sealed-rewritten", b"half").unwrap();
    assert_eq!(sealed.list().unwrap(), ["a"]);
    let sealed = open(&below).unwrap();
    assert_eq!(sealed.disk().list().unwrap(), ["a"], "removed when opened");
}

#[test]
fn nothing_of_a_text_occurs_on_the_disk() {
    const CANARY: &[u8] = b"canary-canary-canary";
    let below = disk(1);
    let mut sealed = open(&below).unwrap();
    sealed.append("a", CANARY).unwrap();
    sealed.append("a", &CANARY.repeat(100_000)).unwrap();
    sealed.truncate("a", 30).unwrap();
    sealed.append("a", &CANARY.repeat(3)).unwrap();
    below.clone().append("plain", &CANARY.repeat(3)).unwrap();
    drop(sealed);
    let provider = std::sync::Arc::new(AesGcm256);
    let sealed = SealedDisk::seal_plain(below, provider, &key(), &seed()).unwrap();
    assert_eq!(sealed.read("plain").unwrap(), CANARY.repeat(3));
    for name in sealed.list().unwrap() {
        let stored = sealed.disk().read(&name).unwrap();
        assert!(
            !stored.windows(6).any(|window| window == b"canary"),
            "{name}"
        );
    }
}
