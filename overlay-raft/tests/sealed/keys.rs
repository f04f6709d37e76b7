//! Keys: wrong ones, new ones, and the first one of a disk that was in clear.

use std::{collections::BTreeMap, sync::Arc};

use overlay_core::{
    Disk, DiskError,
    aead::{Aead, AeadError, AeadProvider},
};
use overlay_raft::storage::{DataKey, SealedDisk};
use overlay_sim::{CrashPoint, SimDisk, Unsynced};

use super::{HEADER_BYTES, copy, disk, key, open, open_with, seed, written};
use crate::aes::AesGcm256;

fn new_key() -> DataKey {
    DataKey::new([8; 32])
}

#[test]
fn a_wrong_key_is_told_from_damage() {
    let below = written("a", &[b"text"]);
    let sealed = open_with(&below, &new_key()).unwrap();
    let error = sealed.read("a").unwrap_err();
    let (expected, found) = (sealed.key_id(), open(&below).unwrap().key_id());
    assert_ne!(expected, found);
    let wrong = DiskError::WrongKey {
        name: "a".to_owned(),
        expected,
        found,
    };
    assert_eq!(error, wrong);
    assert!(error.to_string().contains("the file is whole"), "{error}");
    let mut sealed = sealed;
    assert_eq!(sealed.append("a", b"x"), Err(wrong.clone()));
    assert_eq!(sealed.truncate("a", 0), Err(wrong));
    assert_eq!(open(&below).unwrap().read("a").unwrap(), b"text");
}

#[test]
fn a_plain_file_is_refused() {
    let below = disk(1);
    let texts: [&[u8]; 4] = [
        b"1",
        b"plain text",
        &[1; HEADER_BYTES],
        &[0; HEADER_BYTES + 1],
    ];
    for text in texts {
        below.wipe();
        below.clone().append("a", text).unwrap();
        let mut sealed = open(&below).unwrap();
        let refused = DiskError::NotSealed {
            name: "a".to_owned(),
        };
        assert_eq!(sealed.read("a"), Err(refused.clone()));
        assert_eq!(sealed.append("a", b"x"), Err(refused.clone()));
        assert_eq!(sealed.rekey(&new_key()), Err(refused));
        assert_eq!(below.read("a").unwrap(), text);
    }
}

/// Everything that a disk holds, as its owner sees it.
fn texts(disk: &impl Disk) -> Result<BTreeMap<String, Vec<u8>>, DiskError> {
    let names = disk.list()?.into_iter();
    names
        .map(|name| disk.read(&name).map(|text| (name, text)))
        .collect()
}

fn plain() -> SimDisk {
    let below = disk(5);
    let mut writer = below.clone();
    for (name, text) in [("a", &b"text of a"[..]), ("b", b""), ("lock", &[0; 200])] {
        writer.append(name, text).unwrap();
        writer.sync(name).unwrap();
    }
    writer.sync_directory().unwrap();
    below
}

fn seal_plain(below: &SimDisk) -> Result<SealedDisk<SimDisk>, DiskError> {
    SealedDisk::seal_plain(below.clone(), Arc::new(AesGcm256), &key(), &seed())
}

#[test]
fn a_plain_disk_is_sealed_whatever_crashes_on_the_way() {
    let expected = texts(&plain()).unwrap();
    let probe = copy(&plain());
    let before = probe.sync_points();
    drop(seal_plain(&probe).unwrap());
    let points = probe.sync_points() - before;
    assert!(points >= 9, "{points}");
    for point in 1..=points {
        for side in [CrashPoint::Before, CrashPoint::After] {
            for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Random] {
                let below = copy(&plain());
                below.crash_at_sync(point, side);
                assert!(seal_plain(&below).is_err());
                below.crash_with(unsynced);
                let sealed = seal_plain(&below).unwrap();
                assert_eq!(texts(&sealed).unwrap(), expected);
                below.crash_with(Unsynced::Lost);
                assert_eq!(texts(&open(&below).unwrap()).unwrap(), expected);
                let stored = texts(&below).unwrap();
                assert_eq!(stored.len(), expected.len(), "{:?}", stored.keys());
                drop(seal_plain(&below).unwrap());
                assert_eq!(texts(&below).unwrap(), stored, "sealed once, not twice");
            }
        }
    }
}

fn sealed_disk() -> SimDisk {
    let below = disk(6);
    let mut sealed = open(&below).unwrap();
    for name in ["a", "b", "c"] {
        sealed.append(name, name.as_bytes()).unwrap();
        sealed.append(name, b" and more").unwrap();
        sealed.truncate(name, 5).unwrap();
        sealed.sync(name).unwrap();
    }
    sealed.sync_directory().unwrap();
    below
}

#[test]
fn after_a_new_key_the_old_one_opens_nothing() {
    let below = sealed_disk();
    let expected = texts(&open(&below).unwrap()).unwrap();
    let records = |disk: &SimDisk| -> Vec<Vec<u8>> {
        let files = texts(disk).unwrap().into_values();
        files.map(|bytes| bytes[HEADER_BYTES..].to_vec()).collect()
    };
    let before = records(&below);
    let mut sealed = open(&below).unwrap();
    let old = sealed.key_id();
    sealed.append("a", b"!").unwrap();
    sealed.truncate("a", 5).unwrap();
    sealed.rekey(&new_key()).unwrap();
    assert_ne!(sealed.key_id(), old);
    assert_eq!(texts(&sealed).unwrap(), expected);
    assert_eq!(
        records(&below)[1..],
        before[1..],
        "only keys are wrapped anew"
    );
    below.crash_with(Unsynced::Lost);
    let again = open_with(&below, &new_key()).unwrap();
    assert_eq!(texts(&again).unwrap(), expected, "durably");
    let old = open(&below).unwrap();
    for name in expected.keys() {
        let error = old.read(name).unwrap_err();
        assert!(matches!(error, DiskError::WrongKey { .. }), "{error}");
        let header = below.read(name).unwrap()[..HEADER_BYTES].to_vec();
        assert!(
            !header
                .windows(8)
                .any(|octets| octets == old.key_id().to_be_bytes())
        );
    }
    // What was open stays so.
    sealed.append("a", b"?").unwrap();
    assert_eq!(
        sealed.read("a").unwrap(),
        [&expected["a"][..], b"?"].concat()
    );
}

#[test]
fn a_new_key_is_given_whatever_crashes_on_the_way() {
    let expected = texts(&open(&sealed_disk()).unwrap()).unwrap();
    let probe = sealed_disk();
    let mut sealed = open(&probe).unwrap();
    let before = probe.sync_points();
    sealed.rekey(&new_key()).unwrap();
    let points = probe.sync_points() - before;
    assert_eq!(points, 6);
    for point in 1..=points {
        for side in [CrashPoint::Before, CrashPoint::After] {
            for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Random] {
                let below = sealed_disk();
                let mut sealed = open(&below).unwrap();
                below.crash_at_sync(point, side);
                assert!(sealed.rekey(&new_key()).is_err());
                below.crash_with(unsynced);
                let mut sealed = open(&below).unwrap();
                sealed.rekey(&new_key()).unwrap();
                assert_eq!(texts(&sealed).unwrap(), expected);
                below.crash_with(Unsynced::Lost);
                let sealed = open_with(&below, &new_key()).unwrap();
                assert_eq!(texts(&sealed).unwrap(), expected);
            }
        }
    }
}

#[test]
fn a_disk_with_a_file_under_a_third_key_keeps_its_key() {
    let below = sealed_disk();
    let third = DataKey::new([9; 32]);
    let mut other = open_with(&below, &third).unwrap();
    other.append("z", b"of another key").unwrap();
    let stored = texts(&below).unwrap();
    let mut sealed = open(&below).unwrap();
    let error = sealed.rekey(&new_key()).unwrap_err();
    assert!(
        matches!(&error, DiskError::WrongKey { name, .. } if name == "z"),
        "{error}"
    );
    assert_eq!(texts(&below).unwrap(), stored, "nothing was changed");
    assert_eq!(sealed.key_id(), open(&below).unwrap().key_id());
}

/// A torn or damaged tail is as it was: it may be evidence.
#[test]
fn a_new_key_does_not_touch_damage() {
    let below = written("a", &[b"one", b"two", b"three"]);
    below.flip_bit("a", HEADER_BYTES + 40, 1);
    let before = open(&below).unwrap().read("a").unwrap_err();
    let mut sealed = open(&below).unwrap();
    sealed.rekey(&new_key()).unwrap();
    assert_eq!(sealed.read("a").unwrap_err(), before);
}

#[test]
fn nothing_shows_a_key() {
    let below = written("a", &[b"text"]);
    let secret = DataKey::new(*b"secretsecretsecretsecretsecretse");
    let sealed = open_with(&below, &secret).unwrap();
    let shown = format!("{secret:?} {sealed:?} {sealed:#?}");
    for octets in ["secret", "115, 101, 99", "736563"] {
        assert!(!shown.contains(octets), "{shown}");
    }
    assert!(shown.contains(&format!("{:016x}", sealed.key_id())));
}

#[test]
fn a_provider_without_the_cipher_is_refused() {
    #[derive(Debug)]
    struct NoCipher;
    impl AeadProvider for NoCipher {
        fn aes_gcm(&self, key: &[u8]) -> Result<Box<dyn Aead>, AeadError> {
            Err(AeadError::KeyLength { found: key.len() })
        }
    }
    let opened = SealedDisk::open(disk(1), Arc::new(NoCipher), &key(), &seed());
    let expected = DiskError::Failed {
        operation: "seal",
        name: String::new(),
        kind: std::io::ErrorKind::Unsupported,
    };
    assert_eq!(opened.err(), Some(expected));
}
