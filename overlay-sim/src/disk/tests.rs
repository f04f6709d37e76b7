use std::collections::{BTreeMap, BTreeSet};

use super::*;

#[test]
fn unsynced_appends_are_torn_at_every_octet_and_synced_ones_never() {
    let mut lengths = BTreeSet::new();
    for seed in 0..300 {
        let mut disk = disk(seed);
        disk.append("log", b"synced").unwrap();
        disk.sync("log").unwrap();
        disk.sync_directory().unwrap();
        disk.append("log", b"ab").unwrap();
        disk.append("log", b"cde").unwrap();
        disk.crash();
        let bytes = disk.read("log").unwrap();
        assert!(b"syncedabcde".starts_with(&bytes), "{bytes:?}");
        lengths.insert(bytes.len());
    }
    assert_eq!(lengths, (6..=11).collect());
}

#[test]
fn a_chosen_tear_keeps_exactly_so_many_octets() {
    for octets in 0..=6 {
        let mut disk = disk(1);
        disk.append("log", b"12").unwrap();
        disk.sync("log").unwrap();
        disk.append("log", b"345").unwrap();
        disk.append("log", b"67").unwrap();
        disk.crash_with(Unsynced::Torn { octets });
        let length = 2 + usize::try_from(octets).unwrap();
        assert_eq!(disk.read("log").unwrap(), b"1234567"[..length.min(7)]);
    }
}

#[test]
fn unsynced_truncations_are_undone_or_kept() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.append("log", b"abcdef").unwrap();
        disk.sync("log").unwrap();
        disk.sync_directory().unwrap();
        disk.truncate("log", 2).unwrap();
        disk.append("log", b"X").unwrap();
        disk.crash();
        outcomes.insert(disk.read("log").unwrap());
    }
    let expected = [&b"abcdef"[..], b"ab", b"abX"].map(<[u8]>::to_vec);
    assert_eq!(outcomes, expected.into_iter().collect());
}

#[test]
fn a_new_file_lasts_once_the_directory_is_synced_and_not_before() {
    let mut survived = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.append("log", b"x").unwrap();
        disk.sync("log").unwrap();
        disk.crash();
        match disk.read("log") {
            Ok(bytes) => {
                assert_eq!(bytes, b"x");
                survived += 1;
            }
            Err(error) => assert_eq!(error, DiskError::NotFound { name: "log".into() }),
        }
    }
    assert!((20..80).contains(&survived), "{survived}");
    let mut disk = disk(0);
    disk.append("log", b"x").unwrap();
    disk.sync_directory().unwrap();
    disk.crash_with(Unsynced::Lost);
    assert_eq!(disk.read("log").unwrap(), b"", "its name, not its content");
}

#[test]
fn a_rename_is_atomic_and_may_be_undone() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = disk(seed);
        for (name, content) in [("a", b"old"), ("a.new", b"new")] {
            disk.append(name, content).unwrap();
            disk.sync(name).unwrap();
        }
        disk.sync_directory().unwrap();
        disk.rename("a.new", "a").unwrap();
        assert_eq!(disk.read("a").unwrap(), b"new");
        disk.crash();
        outcomes.insert((disk.list().unwrap(), disk.read("a").unwrap()));
    }
    let undone = (vec!["a".to_owned(), "a.new".to_owned()], b"old".to_vec());
    let done = (vec!["a".to_owned()], b"new".to_vec());
    assert_eq!(outcomes, [undone, done].into_iter().collect());
}

#[test]
fn a_file_that_was_renamed_twice_has_one_name_of_the_three() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = disk(seed);
        disk.append("a", b"x").unwrap();
        disk.sync("a").unwrap();
        disk.sync_directory().unwrap();
        disk.rename("a", "b").unwrap();
        disk.rename("b", "c").unwrap();
        disk.crash();
        outcomes.insert(disk.list().unwrap());
    }
    let expected = ["a", "b", "c"].map(|name| vec![name.to_owned()]);
    assert_eq!(outcomes, expected.into_iter().collect());
}

#[test]
fn of_two_new_files_either_may_survive_alone() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = disk(seed);
        disk.append("a", b"").unwrap();
        disk.append("b", b"").unwrap();
        disk.crash();
        outcomes.insert(disk.list().unwrap());
    }
    assert_eq!(
        outcomes.len(),
        4,
        "none, one, the other, both: {outcomes:?}"
    );
}

#[test]
fn a_directory_in_doubt_stays_so_until_the_crash() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.append("log", b"").unwrap();
        disk.fail_sync(1);
        assert!(disk.sync_directory().is_err());
        assert_eq!(
            disk.sync_directory(),
            Ok(()),
            "the second one claims success"
        );
        if seed % 2 == 0 {
            disk.kill();
        } else {
            disk.crash();
        }
        lost += u32::from(disk.list().unwrap().is_empty());
        disk.append("log", b"").unwrap();
        disk.sync_directory().unwrap();
        disk.crash();
        assert_eq!(disk.list().unwrap(), ["log"], "the doubt has ended");
    }
    assert!((20..80).contains(&lost), "{lost}");
}

#[test]
fn a_removed_file_comes_back_with_what_was_synced() {
    let mut disk = disk(0);
    disk.append("log", b"x").unwrap();
    disk.sync("log").unwrap();
    disk.sync_directory().unwrap();
    disk.remove("log").unwrap();
    assert!(disk.read("log").is_err());
    assert_eq!(disk.used_bytes(), 0);
    disk.crash_with(Unsynced::Lost);
    assert_eq!(disk.read("log").unwrap(), b"x");
    disk.remove("log").unwrap();
    disk.sync_directory().unwrap();
    disk.crash_with(Unsynced::Lost);
    assert_eq!(disk.list().unwrap(), [""; 0]);
}

#[test]
fn a_sync_after_a_failed_one_proves_nothing() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.append("log", b"").unwrap();
        disk.sync_directory().unwrap();
        disk.append("log", b"x").unwrap();
        disk.fail_sync(1);
        assert!(disk.sync("log").is_err());
        assert_eq!(disk.sync("log"), Ok(()), "the second one claims success");
        if seed % 2 == 0 {
            disk.kill(); // the next process sees what the disk really holds
        } else {
            disk.crash();
        }
        let bytes = disk.read("log").unwrap();
        lost += u32::from(bytes.is_empty());
        disk.append("log", b"y").unwrap();
        disk.sync("log").unwrap();
        disk.crash();
        let expected = [&bytes[..], b"y"].concat();
        assert_eq!(disk.read("log").unwrap(), expected, "the doubt has ended");
    }
    assert!((20..80).contains(&lost), "{lost}");
}

#[test]
fn a_killed_process_leaves_what_it_wrote_and_a_crash_may_still_take_it() {
    let mut disk = disk(0);
    disk.append("log", b"").unwrap();
    disk.sync_directory().unwrap();
    disk.append("log", b"x").unwrap();
    disk.kill();
    assert_eq!(disk.read("log").unwrap(), b"x");
    disk.crash_with(Unsynced::Lost);
    assert_eq!(disk.read("log").unwrap(), b"");
}

#[test]
fn power_goes_at_the_chosen_sync_point() {
    for (side, expected) in [(CrashPoint::Before, &b"1"[..]), (CrashPoint::After, b"12")] {
        let mut disk = disk(0);
        disk.append("log", b"1").unwrap();
        disk.crash_at_sync(3, side);
        disk.sync("log").unwrap();
        disk.sync_directory().unwrap();
        disk.append("log", b"2").unwrap();
        assert!(disk.is_armed());
        assert!(disk.sync("log").is_err());
        assert!(disk.is_down());
        assert!(disk.read("log").is_err(), "nothing works without power");
        assert!(disk.append("log", b"3").is_err());
        assert_eq!(disk.sync_points(), 3);
        disk.crash_with(Unsynced::Lost);
        assert!(!disk.is_down() && !disk.is_armed());
        assert_eq!(disk.read("log").unwrap(), expected);
    }
}

#[test]
fn a_lying_disk_syncs_nothing() {
    let mut disk = disk(0);
    disk.append("log", b"").unwrap();
    disk.sync_directory().unwrap();
    disk.set_lying(true);
    disk.append("log", b"x").unwrap();
    assert_eq!(disk.sync("log"), Ok(()));
    disk.crash_with(Unsynced::Lost);
    assert_eq!(disk.read("log").unwrap(), b"");
}

#[test]
fn a_failed_append_leaves_a_part() {
    let mut lengths = BTreeSet::new();
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.fail_append(2);
        disk.append("log", b"ab").unwrap();
        assert!(disk.append("log", b"cd").is_err());
        disk.append("log", b"").unwrap();
        lengths.insert(disk.read("log").unwrap().len());
    }
    assert_eq!(lengths, [2, 3, 4].into_iter().collect());
}

#[test]
fn a_full_disk_takes_what_fits() {
    let mut disk = disk(0);
    disk.set_capacity_bytes(5);
    disk.append("a", b"123").unwrap();
    let error = disk.append("b", b"456").unwrap_err();
    assert_eq!(error, failed("append", "b", ErrorKind::StorageFull));
    assert_eq!(disk.read("b").unwrap(), b"45");
    disk.remove("a").unwrap();
    disk.append("b", b"678").unwrap();
    assert_eq!(disk.used_bytes(), 5);
}

#[test]
fn error_rates_strike_about_as_often_as_they_say() {
    let mut disk = disk(0);
    disk.set_error_rates(100_000, 300_000);
    for _ in 0..1_000 {
        let _ = disk.append("log", b"x");
        let _ = disk.sync_directory();
    }
    let (appends, syncs) = disk.injected_errors();
    assert!((60..140).contains(&appends), "{appends}");
    assert!((240..360).contains(&syncs), "{syncs}");
}

#[test]
fn holes_zero_only_what_was_not_synced() {
    let mut holes = 0;
    for seed in 0..200 {
        let mut disk = disk(seed);
        disk.set_holes(1_000_000);
        disk.append("log", b"aaaa").unwrap();
        disk.sync("log").unwrap();
        disk.sync_directory().unwrap();
        disk.append("log", b"bbbb").unwrap();
        disk.append("log", b"cccc").unwrap();
        disk.crash();
        let bytes = disk.read("log").unwrap();
        assert!(bytes.starts_with(b"aaaa"), "{bytes:?}");
        let tail_lives = bytes.last().is_some_and(|last| *last != 0);
        holes += u32::from(bytes.contains(&0) && tail_lives);
    }
    assert!(holes > 10, "a later page survives an earlier one: {holes}");
}

#[test]
fn damage_and_copies_are_durable() {
    let mut disk = disk(0);
    disk.append("log", &[0, 0]).unwrap();
    assert!(disk.flip_bit("log", 1, 3));
    assert!(!disk.flip_bit("log", 2, 0) && !disk.flip_bit("other", 0, 0));
    let copy = disk.copy(&Seed::from_u64(1));
    disk.wipe();
    assert_eq!(disk.list().unwrap(), [""; 0]);
    copy.crash_with(Unsynced::Lost);
    assert_eq!(copy.read("log").unwrap(), [0, 8]);
}

#[test]
fn names_with_separators_are_refused() {
    let mut disk = disk(0);
    for name in ["", ".", "..", "a/b", "a b", "é"] {
        let expected = failed("append", name, ErrorKind::InvalidInput);
        assert_eq!(disk.append(name, b"x"), Err(expected));
    }
    disk.append("A-z_0.9", b"x").unwrap();
    assert!(disk.rename("A-z_0.9", "../up").is_err());
}

#[test]
fn random_operations_crash_into_a_state_that_was_possible() {
    let mut survivors = 0;
    for seed in 0..500 {
        let mut rng = Seed::from_u64(seed).derive("operations").rng();
        let mut model = Model::new(disk(seed));
        for _ in 0..rng.below(30) {
            model.operate(&mut rng);
            model.check_visible();
        }
        let disk = &model.disk;
        disk.crash();
        let left = disk.list().unwrap();
        if !model.changed {
            assert_eq!(left, model.durable.keys().copied().collect::<Vec<_>>());
        }
        let mut firsts = BTreeSet::new();
        for name in &left {
            let bytes = disk.read(name).unwrap();
            let mut histories = model.histories.values();
            let possible = histories.any(|history| history.contains(&bytes));
            assert!(possible, "seed {seed}: {name} holds {bytes:?}");
            if let Some(first) = bytes.first() {
                assert!(firsts.insert(*first), "seed {seed}: two names for a file");
            }
        }
        survivors += left.len();
    }
    assert!(survivors > 200, "{survivors}");
}

/// What must be visible on a disk, and what may be after a crash.
struct Model {
    disk: SimDisk,
    /// The files by their names; each file is known by its first octet.
    names: BTreeMap<&'static str, u8>,
    durable: BTreeMap<&'static str, u8>,
    /// Names changed since the last sync of the directory.
    changed: bool,
    /// All states of each file since its last sync; an append adds one for each octet.
    histories: BTreeMap<u8, Vec<Vec<u8>>>,
    next_file: u8,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Model {
    fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            changed: false,
            histories: BTreeMap::new(),
            next_file: 0,
        }
    }

    fn operate(&mut self, rng: &mut Rng) {
        let (name, to) = (NAMES[rng.index(3).unwrap()], NAMES[rng.index(3).unwrap()]);
        let Some(&file) = self.names.get(name) else {
            assert!(self.disk.sync(name).is_err() && self.disk.remove(name).is_err());
            return self.create(name);
        };
        let history = self.histories.get_mut(&file).unwrap();
        let mut bytes = history.last().unwrap().clone();
        match rng.below(8) {
            0..3 => {
                for octet in rng.bytes::<3>() {
                    bytes.push(octet);
                    history.push(bytes.clone());
                }
                self.disk.append(name, &bytes[bytes.len() - 3..]).unwrap();
            }
            3 => {
                bytes.truncate(1 + rng.index(bytes.len()).unwrap());
                self.disk.truncate(name, bytes.len() as u64).unwrap();
                history.push(bytes);
            }
            4 => {
                self.disk.sync(name).unwrap();
                history.drain(..history.len() - 1);
            }
            5 => {
                self.disk.rename(name, to).unwrap();
                self.names.remove(name);
                self.names.insert(to, file);
                self.changed = true;
            }
            6 => {
                self.disk.remove(name).unwrap();
                self.names.remove(name);
                self.changed = true;
            }
            _ => {
                self.disk.sync_directory().unwrap();
                self.durable = self.names.clone();
                self.changed = false;
            }
        }
    }

    fn create(&mut self, name: &'static str) {
        self.disk.append(name, &[self.next_file]).unwrap();
        let history = vec![vec![], vec![self.next_file]];
        self.histories.insert(self.next_file, history);
        self.names.insert(name, self.next_file);
        self.next_file += 1;
        self.changed = true;
    }

    fn check_visible(&self) {
        let listed = self.disk.list().unwrap();
        assert_eq!(listed, self.names.keys().copied().collect::<Vec<_>>());
        let mut used = 0;
        for (name, file) in &self.names {
            let bytes = self.disk.read(name).unwrap();
            assert_eq!(Some(&bytes), self.histories[file].last());
            used += bytes.len() as u64;
        }
        assert_eq!(self.disk.used_bytes(), used);
    }
}

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(&Seed::from_u64(seed))
}
