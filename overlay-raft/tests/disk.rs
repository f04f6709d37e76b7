//! The log on a disk that crashes, tears, flips bits and fails, in clear and sealed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod cluster;
mod layer;

use std::cell::Cell;

use bytes::Bytes;
use overlay_core::{Disk, DiskError, Seed};
use overlay_raft::{
    Entry, HardState, Incarnation, Index, Payload, RestoreError, Restored, Snapshot, Term, Write,
    storage::{Damage, Log, OpenError, StorageConfig},
};
use overlay_sim::{CrashPoint, SimDisk, Unsynced};

use cluster::{Stored, command, id, membership};
use layer::{Layer, LayerDisk};

/// Small, so that segments rotate in the middle of the script.
const SMALL: StorageConfig = StorageConfig {
    segment_bytes_max: 150,
    reserve_bytes_max: 100,
};

/// Octets before the first record of a sealed file.
const SEALED_HEADER_BYTES: usize = 96;

/// Runs tests over each layer.
macro_rules! over_each_layer {
    ($($test:ident)*) => {
        mod plain {
            $(#[test] fn $test() { super::$test(super::Layer::Plain); })*
        }

        mod sealed {
            $(#[test] fn $test() { super::$test(super::Layer::Sealed); })*
        }
    };
}

over_each_layer! {
    what_was_written_is_restored_at_every_point
    older_segments_go_when_a_snapshot_replaces_them
    no_acknowledged_write_is_lost_by_a_crash_at_any_sync_point
    what_a_killed_process_left_unsynced_is_durable_once_opened
    a_failed_write_stops_the_log
    a_failed_sync_of_the_directory_stops_the_log
    a_tail_torn_at_any_octet_is_cut
    a_flipped_bit_is_refused_with_its_place_or_in_the_last_write_cut
    a_flipped_bit_is_told_from_the_end_of_one_large_segment
    a_damaged_snapshot_is_refused_when_nothing_older_is_left
    writes_that_are_missing_at_the_end_of_a_segment_are_refused_there
    a_missing_segment_is_refused
    two_segments_that_were_swapped_are_refused
    files_of_others_are_left_alone
    a_state_that_cannot_be_is_refused_with_the_numbers
}

fn disk(number: u64) -> SimDisk {
    SimDisk::new(&Seed::from_u64(number))
}

fn open(layer: Layer, disk: &SimDisk) -> Result<(Log<LayerDisk>, Restored), OpenError> {
    open_with(SMALL, layer, disk)
}

fn open_with(
    config: StorageConfig,
    layer: Layer,
    disk: &SimDisk,
) -> Result<(Log<LayerDisk>, Restored), OpenError> {
    thread_local! {
        static OPENED: Cell<u64> = const { Cell::new(0) };
    }
    let number = OPENED.replace(OPENED.get() + 1);
    Log::open(layer.over(disk, &Seed::from_u64(number))?, config)
}

fn hard_state(term: u64, vote: Option<u64>, commit: u64) -> HardState {
    HardState {
        group: 7,
        id: id(1),
        incarnation: Incarnation::new(99),
        term: Term::new(term),
        vote: vote.map(id),
        commit: Index::new(commit),
    }
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = match index % 5 {
        0 => Payload::Noop,
        1 => Payload::Membership(membership(&[1, 2, 3], &[index + 10])),
        _ => command(&format!("command {index} of term {term}")),
    };
    Entry {
        index: Index::new(index),
        term: Term::new(term),
        payload,
    }
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot {
        index: Index::new(index),
        term: Term::new(term),
        membership: if index == 0 {
            membership(&[], &[])
        } else {
            membership(&[1, 2, 3], &[4])
        },
        data: Bytes::from(vec![
            u8::try_from(index).unwrap();
            20 * usize::try_from(index).unwrap()
        ]),
    }
}

fn write(state: HardState, entries: &[(u64, u64)]) -> Write {
    Write {
        snapshot: None,
        truncate_from: None,
        entries: entries
            .iter()
            .map(|&(index, term)| entry(index, term))
            .collect(),
        hard_state: state,
    }
}

/// Writes of every shape: a new disk, votes, entries, truncations, a compaction, an installed snapshot.
fn script() -> Vec<Write> {
    let with_snapshot = |index, term, write: Write| Write {
        snapshot: Some(snapshot(index, term).into()),
        ..write
    };
    let truncating = |from, write: Write| Write {
        truncate_from: Some(Index::new(from)),
        ..write
    };
    vec![
        with_snapshot(0, 0, write(hard_state(0, None, 0), &[])),
        write(hard_state(1, Some(2), 0), &[]),
        write(hard_state(1, Some(2), 0), &[(1, 1), (2, 1), (3, 1)]),
        write(hard_state(2, None, 1), &[(4, 2)]),
        truncating(3, write(hard_state(3, Some(1), 2), &[(3, 3), (4, 3)])),
        write(
            hard_state(3, Some(1), 4),
            &[(5, 3), (6, 3), (7, 3), (8, 3), (9, 3)],
        ),
        write(hard_state(3, Some(1), 8), &[(10, 3)]),
        with_snapshot(
            8,
            3,
            write(hard_state(3, Some(1), 9), &[(9, 3), (10, 3), (11, 3)]),
        ),
        write(hard_state(4, Some(3), 9), &[]),
        truncating(11, write(hard_state(5, None, 10), &[(11, 5)])),
        with_snapshot(20, 5, write(hard_state(6, None, 20), &[])),
        write(hard_state(6, Some(1), 20), &[(21, 6)]),
        write(hard_state(7, Some(1), 20), &[]),
    ]
}

/// Returns what must be restored after the first `count` writes of the script.
fn expected(count: usize) -> Restored {
    let mut stored = Stored::default();
    for write in &script()[..count] {
        stored.apply(write);
    }
    stored.restore()
}

/// Writes the whole script; returns how many writes were acknowledged.
fn run(log: &mut Log<LayerDisk>, from: usize) -> usize {
    let script = script();
    for (done, write) in script.iter().enumerate().skip(from) {
        if log.write(write).is_err() {
            return done;
        }
    }
    script.len()
}

fn written(layer: Layer) -> SimDisk {
    let disk = disk(1);
    let (mut log, restored) = open(layer, &disk).unwrap();
    assert!(restored.is_empty());
    assert_eq!(run(&mut log, 0), script().len());
    disk
}

fn what_was_written_is_restored_at_every_point(layer: Layer) {
    for count in 0..=script().len() {
        let disk = disk(1);
        let (mut log, _) = open(layer, &disk).unwrap();
        for write in &script()[..count] {
            log.write(write).unwrap();
        }
        let (mut log, restored) = open(layer, &disk).unwrap();
        assert_eq!(restored, expected(count), "after {count} writes");
        run(&mut log, count);
        let (_, restored) = open(layer, &disk).unwrap();
        assert_eq!(restored, expected(script().len()), "{count}, then the rest");
    }
}

fn older_segments_go_when_a_snapshot_replaces_them(layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open(layer, &disk).unwrap();
    let mut most = 0;
    for write in &script() {
        log.write(write).unwrap();
        let files = log.disk().list().unwrap().len();
        most = most.max(files);
        if write.snapshot.is_some() {
            assert_eq!(files, 1);
        }
    }
    assert!(most >= 3, "segments rotate by size, {most} at most");
}

/// Crashes before and after each sync point, with everything that may remain of what was not synced; then crashes once
/// more while the disk is opened; then goes on to the end.
fn no_acknowledged_write_is_lost_by_a_crash_at_any_sync_point(layer: Layer) {
    let points = written(layer).sync_points();
    assert!(points > 20);
    let outcomes = [Unsynced::Lost, Unsynced::Kept, Unsynced::Random];
    for point in 1..=points {
        for side in [CrashPoint::Before, CrashPoint::After] {
            for (unsynced, again) in outcomes
                .iter()
                .flat_map(|outcome| (0..5).map(move |n| (*outcome, n)))
            {
                let disk = disk(point * 10 + again);
                disk.set_holes(300_000);
                disk.crash_at_sync(point, side);
                let acknowledged = match open(layer, &disk) {
                    Ok((mut log, _)) => run(&mut log, 0),
                    Err(_) => 0,
                };
                disk.crash_with(unsynced);
                disk.crash_at_sync(again, side);
                drop(open(layer, &disk));
                disk.crash_with(unsynced);
                let (mut log, restored) = open(layer, &disk).unwrap();
                let found = (acknowledged..=acknowledged + 1)
                    .find(|count| *count <= script().len() && restored == expected(*count));
                let Some(found) = found else {
                    panic!(
                        "{acknowledged} acknowledged, found {restored:?}: {point} {side:?} {unsynced:?}"
                    );
                };
                run(&mut log, found);
                disk.crash_with(Unsynced::Lost);
                let (_, restored) = open(layer, &disk).unwrap();
                assert_eq!(restored, expected(script().len()));
            }
        }
    }
}

/// A process that was killed leaves octets that can be read and are not on the disk. Who opens and builds on them must
/// make them durable first.
fn what_a_killed_process_left_unsynced_is_durable_once_opened(layer: Layer) {
    for point in 1..=written(layer).sync_points() {
        let disk = disk(point);
        disk.crash_at_sync(point, CrashPoint::Before);
        if let Ok((mut log, _)) = open(layer, &disk) {
            run(&mut log, 0);
        }
        disk.kill();
        let (_, seen) = open(layer, &disk).unwrap();
        disk.crash_with(Unsynced::Lost);
        let (_, restored) = open(layer, &disk).unwrap();
        assert_eq!(seen, restored, "sync point {point}");
    }
}

fn a_failed_write_stops_the_log(layer: Layer) {
    for fail_append in [true, false] {
        let disk = disk(1);
        let (mut log, _) = open(layer, &disk).unwrap();
        let script = script();
        log.write(&script[0]).unwrap();
        log.write(&script[1]).unwrap();
        if fail_append {
            disk.fail_append(1);
        } else {
            disk.fail_sync(1);
        }
        assert!(log.write(&script[2]).is_err());
        let error = log.write(&script[2]).unwrap_err();
        assert!(
            matches!(error, DiskError::Failed { operation, .. } if operation.contains("failed write")),
            "{error}"
        );
        disk.kill();
        let (mut log, restored) = open(layer, &disk).unwrap();
        let found = [2, 3]
            .into_iter()
            .find(|count| restored == expected(*count));
        run(
            &mut log,
            found.expect("the last acknowledged, or the one that failed"),
        );
        disk.crash_with(Unsynced::Lost);
        assert_eq!(open(layer, &disk).unwrap().1, expected(script.len()));
    }
}

/// Also the sync of the directory after old segments were removed: files created later would not be durable.
fn a_failed_sync_of_the_directory_stops_the_log(layer: Layer) {
    let script = script();
    for nth in 1..=3 {
        let disk = disk(nth);
        let (mut log, _) = open(layer, &disk).unwrap();
        for write in &script[..7] {
            log.write(write).unwrap();
        }
        disk.fail_sync(nth);
        assert!(
            log.write(&script[7]).is_err(),
            "sync point {nth} of a snapshot"
        );
        assert!(log.write(&script[8]).is_err());
    }
}

fn a_tail_torn_at_any_octet_is_cut(layer: Layer) {
    for count in 1..=script().len() {
        let disk = disk(1);
        let (mut log, _) = open(layer, &disk).unwrap();
        for write in &script()[..count - 1] {
            log.write(write).unwrap();
        }
        let before = disk.list().unwrap();
        let lengths: Vec<usize> = before
            .iter()
            .map(|name| disk.read(name).unwrap().len())
            .collect();
        // A snapshot removes the older segments only when it is durable, so a torn one stands beside them.
        let old = disk.copy(&Seed::from_u64(2));
        log.write(&script()[count - 1]).unwrap();
        let last = disk.list().unwrap().pop().unwrap();
        let bytes = disk.read(&last).unwrap();
        let start = match before.last() {
            Some(name) if *name == last => lengths[lengths.len() - 1],
            _ => 0,
        };
        for end in start..bytes.len() {
            for zeroes in [0, 7] {
                // The header of a sealed file is durable before anything follows.
                let is_header = layer == Layer::Sealed && end < SEALED_HEADER_BYTES;
                let zeroes = match is_header {
                    true => zeroes.min(SEALED_HEADER_BYTES - end),
                    false => zeroes,
                };
                let torn = old.copy(&Seed::from_u64(3));
                let mut half = torn.clone();
                half.append(&last, &bytes[start..end]).unwrap();
                half.append(&last, &vec![0; zeroes]).unwrap();
                let (mut log, restored) = open(layer, &torn).unwrap();
                // What is missing may be zeroes itself.
                let whole =
                    bytes.len() - end <= zeroes && bytes[end..].iter().all(|octet| *octet == 0);
                let count = count - usize::from(!whole);
                assert_eq!(restored, expected(count), "torn at {end}, {zeroes} zeroes");
                if end % 16 == 0 {
                    run(&mut log, count);
                    assert_eq!(open(layer, &torn).unwrap().1, expected(script().len()));
                }
            }
        }
    }
}

/// Each single bit of the whole disk.
fn a_flipped_bit_is_refused_with_its_place_or_in_the_last_write_cut(layer: Layer) {
    flip_each_octet(SMALL, layer);
}

fn a_flipped_bit_is_told_from_the_end_of_one_large_segment(layer: Layer) {
    let large = StorageConfig {
        segment_bytes_max: 1 << 20,
        ..SMALL
    };
    flip_each_octet(large, layer);
}

fn flip_each_octet(config: StorageConfig, layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open_with(config, layer, &disk).unwrap();
    let script = script();
    let mut lengths = Vec::new();
    for write in &script[..7] {
        let last = disk.list().unwrap().pop();
        lengths.push(last.map(|name| (disk.read(&name).unwrap().len(), name)));
        log.write(write).unwrap();
    }
    let names = disk.list().unwrap();
    assert_eq!(names.len() > 1, config == SMALL, "several segments");
    let last = names.last().unwrap().clone();
    let last_write = match lengths.pop().flatten() {
        Some((length, name)) if name == last => length,
        _ => 0,
    };
    // Behind the last write there is the room that was made.
    let end = disk.read(&last).unwrap().len();
    drop(log);
    disk.kill();
    let (mut refused, mut cut) = (0, 0);
    for name in &names {
        for at in 0..disk.read(name).unwrap().len() {
            let damaged = disk.copy(&Seed::from_u64(2));
            damaged.flip_bit(name, at, u8::try_from(at % 8).unwrap());
            let files = |disk: &SimDisk| -> Vec<Vec<u8>> {
                let names = disk.list().unwrap();
                names.iter().map(|name| disk.read(name).unwrap()).collect()
            };
            let evidence = files(&damaged);
            match open_with(config, layer, &damaged) {
                Err(
                    OpenError::Damaged { file, offset, .. }
                    | OpenError::Disk(DiskError::Damaged {
                        name: file, offset, ..
                    }),
                ) => {
                    refused += 1;
                    assert_eq!(file, *name);
                    assert!(offset <= at as u64, "found at {offset}, flipped at {at}");
                    assert_eq!(files(&damaged), evidence, "nothing is removed or cut");
                }
                Err(OpenError::Disk(DiskError::NotSealed { name: file })) => {
                    assert!(layer == Layer::Sealed && file == *name && at < 4);
                }
                Err(error) => panic!("{name} {at}: {error}"),
                Ok((_, restored)) => {
                    cut += 1;
                    assert!(*name == last && at >= last_write, "{name} {at} was lost");
                    let count = if at < end { 6 } else { 7 };
                    assert_eq!(restored, expected(count));
                }
            }
        }
    }
    assert!(refused > 500 && cut > 20, "{refused} refused, {cut} cut");
}

fn a_damaged_snapshot_is_refused_when_nothing_older_is_left(layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open(layer, &disk).unwrap();
    for write in &script()[..8] {
        log.write(write).unwrap();
    }
    let names = disk.list().unwrap();
    assert_eq!(names.len(), 1);
    for at in (0..disk.read(&names[0]).unwrap().len()).step_by(7) {
        let damaged = disk.copy(&Seed::from_u64(2));
        damaged.flip_bit(&names[0], at, 3);
        let error = open(layer, &damaged)
            .map(|(_, restored)| restored)
            .unwrap_err();
        assert!(is_damage(&error), "{at}: {error}");
        damaged.edit(&names[0], |bytes| bytes.truncate(at));
        let error = open(layer, &damaged)
            .map(|(_, restored)| restored)
            .unwrap_err();
        assert!(is_damage(&error), "{at}: {error}");
    }
}

/// The disk below may have cut what it could not tell from a torn tail.
fn writes_that_are_missing_at_the_end_of_a_segment_are_refused_there(layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open(layer, &disk).unwrap();
    for write in &script()[..7] {
        log.write(write).unwrap();
    }
    let first = disk.list().unwrap()[0].clone();
    let lengths =
        |disk: &SimDisk| open(layer, disk).map(|(log, _)| log.disk().read(&first).unwrap().len());
    let whole = lengths(&disk).unwrap();
    disk.edit(&first, |bytes| bytes.truncate(bytes.len() - 1));
    match lengths(&disk).unwrap_err() {
        OpenError::Damaged { file, offset, .. } => {
            assert_eq!(file, first);
            assert!(0 < offset && offset < whole as u64);
        }
        error => panic!("{error}"),
    }
}

#[test]
fn an_error_says_where_what_and_what_next() {
    let disk = written(Layer::Plain);
    let name = disk.list().unwrap()[0].clone();
    disk.flip_bit(&name, 40, 0);
    let error = open(Layer::Plain, &disk)
        .map(|(_, restored)| restored)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("{name} is damaged at offset 0 (checksum 0x")),
        "{error}"
    );
    assert!(error.contains("join again"), "{error}");
}

fn a_missing_segment_is_refused(layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open(layer, &disk).unwrap();
    for write in &script()[..7] {
        log.write(write).unwrap();
    }
    let names = disk.list().unwrap();
    assert!(names.len() >= 3);
    for name in &names[..names.len() - 1] {
        let mut damaged = disk.copy(&Seed::from_u64(2));
        damaged.remove(name).unwrap();
        let error = open(layer, &damaged)
            .map(|(_, restored)| restored)
            .unwrap_err();
        assert_eq!(error, OpenError::Missing { file: name.clone() });
    }
}

fn two_segments_that_were_swapped_are_refused(layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open(layer, &disk).unwrap();
    for write in &script()[..7] {
        log.write(write).unwrap();
    }
    let names = disk.list().unwrap();
    let (first, second) = (disk.read(&names[0]).unwrap(), disk.read(&names[1]).unwrap());
    disk.edit(&names[0], |bytes| *bytes = second);
    disk.edit(&names[1], |bytes| *bytes = first);
    let error = open(layer, &disk)
        .map(|(_, restored)| restored)
        .unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

fn files_of_others_are_left_alone(layer: Layer) {
    let mut disk = written(layer);
    disk.append("lock", b"1234").unwrap();
    disk.append("segment-1", b"not ours").unwrap();
    let (_, restored) = open(layer, &disk).unwrap();
    assert_eq!(restored, expected(script().len()));
    assert_eq!(disk.read("lock").unwrap(), b"1234");
    assert_eq!(disk.read("segment-1").unwrap(), b"not ours");
}

fn a_state_that_cannot_be_is_refused_with_the_numbers(layer: Layer) {
    let disk = disk(1);
    let (mut log, _) = open(layer, &disk).unwrap();
    log.write(&script()[0]).unwrap();
    log.write(&write(hard_state(1, None, 0), &[(1, 1), (3, 1)]))
        .unwrap();
    let error = open(layer, &disk)
        .map(|(_, restored)| restored)
        .unwrap_err();
    let expected = RestoreError::Gap {
        expected: Index::new(2),
        found: Index::new(3),
    };
    assert!(matches!(&error, OpenError::Inconsistent { reason, .. } if *reason == expected));
    assert!(
        error.to_string().contains("entry 3 where 2 was expected"),
        "{error}"
    );
}

/// Entries of 256 octets, one by one and many at a time: what is written besides them is less than a fifth.
#[test]
fn an_entry_costs_little_more_than_itself_on_the_disk() {
    for at_once in [1, 16, 256] {
        let disk = disk(1);
        let (mut log, _) = Log::open(disk.clone(), StorageConfig::default()).unwrap();
        log.write(&Write {
            snapshot: Some(snapshot(0, 0).into()),
            ..write(hard_state(7, None, 0), &[])
        })
        .unwrap();
        let before = log.written_bytes();
        let (mut index, count) = (0, 1_024);
        while index < count {
            let entries = (1..=at_once).map(|next| Entry {
                index: Index::new(index + next),
                term: Term::new(7),
                payload: Payload::Command(vec![7; 256].into()),
            });
            log.write(&Write {
                snapshot: None,
                truncate_from: None,
                entries: entries.collect(),
                hard_state: hard_state(7, None, index),
            })
            .unwrap();
            index += at_once;
        }
        let each = (log.written_bytes() - before) / count;
        assert!(each * 10 <= 256 * 12, "{each} octets, {at_once} at once");
        drop(log);
        let (_, restored) = Log::open(disk, StorageConfig::default()).unwrap();
        let commit = restored.hard_state().unwrap().commit;
        assert_eq!(
            commit,
            Index::new(count - at_once),
            "told by the last entry"
        );
    }
}

#[test]
fn check_refuses_every_contradiction() {
    let check = |state: HardState, snapshot: Snapshot, entries: &[(u64, u64)]| {
        let entries = entries.iter().map(|&(index, term)| entry(index, term));
        Restored::check(state, snapshot, entries.collect())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let refused = |message: &str| Err(message.to_owned());
    assert_eq!(
        check(hard_state(3, None, 5), snapshot(5, 3), &[(6, 3)]),
        Ok(())
    );
    assert_eq!(
        check(hard_state(2, None, 5), snapshot(5, 3), &[]),
        refused("snapshot of term 3, the member is in term 2")
    );
    assert_eq!(
        check(hard_state(3, None, 5), snapshot(5, 3), &[(6, 2)]),
        refused("entry 6 of term 2, between 3 and 3 expected")
    );
    assert_eq!(
        check(hard_state(3, None, 5), snapshot(5, 3), &[(6, 4)]),
        refused("entry 6 of term 4, between 3 and 3 expected")
    );
    assert_eq!(
        check(hard_state(3, None, 4), snapshot(5, 3), &[(6, 3)]),
        refused("commit index 4, between snapshot 5 and last entry 6 expected")
    );
    assert_eq!(
        check(hard_state(3, None, 7), snapshot(5, 3), &[(6, 3)]),
        refused("commit index 7, between snapshot 5 and last entry 6 expected")
    );
    let nobody = Snapshot {
        membership: membership(&[], &[4]),
        ..snapshot(5, 3)
    };
    assert_eq!(
        check(hard_state(3, None, 5), nobody, &[]),
        refused("no voters in the snapshot at 5")
    );
    for (voters, learners) in [(&[2, 1][..], &[][..]), (&[1, 1], &[]), (&[1, 2], &[2])] {
        let odd = membership(voters, learners);
        let error = refused("the membership at 5 has no voters, or a member twice");
        let with_odd = Snapshot {
            membership: odd.clone(),
            ..snapshot(5, 3)
        };
        assert_eq!(check(hard_state(3, None, 5), with_odd, &[]), error);
        let odd = Entry {
            payload: Payload::Membership(odd),
            ..entry(5, 3)
        };
        let found = Restored::check(hard_state(3, None, 4), snapshot(4, 3), vec![odd]);
        assert_eq!(found.map(|_| ()).map_err(|found| found.to_string()), error);
    }
}

#[test]
fn a_disk_of_another_member_is_refused() {
    let start = |number: u64| {
        let (_, restored) = open(Layer::Plain, &written(Layer::Plain)).unwrap();
        let config = cluster::config(number);
        overlay_raft::Raft::new(
            config,
            Seed::from_u64(1),
            overlay_core::Instant::EPOCH,
            restored,
        )
    };
    assert!(start(1).is_ok());
    assert_eq!(
        start(2).unwrap_err().to_string(),
        "the disk belongs to member 1, this is 2"
    );
}

#[test]
fn a_record_of_a_later_release_is_refused_not_cut() {
    // The same octets with another version and a checksum that fits.
    let disk = disk(1);
    let (mut log, _) = open(Layer::Plain, &disk).unwrap();
    log.write(&script()[0]).unwrap();
    log.write(&script()[1]).unwrap();
    let name = disk.list().unwrap()[0].clone();
    let start = second_write(&disk, &name);
    disk.edit(&name, |bytes| {
        bytes[start + 1] = 9;
        let sum = checksum(1, &bytes[start..]);
        bytes[start + 16..start + 20].copy_from_slice(&sum.to_le_bytes());
    });
    let error = open(Layer::Plain, &disk)
        .map(|(_, restored)| restored)
        .unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Damaged {
                damage: Damage::Unknown { version: 9, .. },
                ..
            }
        ),
        "{error}"
    );
}

fn is_damage(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::Damaged { .. }
            | OpenError::Disk(DiskError::Damaged { .. } | DiskError::NotSealed { .. })
    )
}

/// Returns where the second write begins, by the lengths in the headers.
fn second_write(disk: &SimDisk, name: &str) -> usize {
    let bytes = disk.read(name).unwrap();
    let mut at = 0;
    loop {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let last = bytes[at + 2] == 1;
        at += 20 + length;
        if last {
            return at;
        }
    }
}

/// CRC-32C bit by bit, over the segment's number, the header without the checksum, and the body.
fn checksum(segment: u64, record: &[u8]) -> u32 {
    let mut state = !0_u32;
    let parts = [&segment.to_le_bytes()[..], &record[..16], &record[20..]];
    for octet in parts.into_iter().flatten() {
        state ^= u32::from(*octet);
        for _ in 0..8 {
            state = (state >> 1) ^ (0x82f6_3b78 * (state & 1));
        }
    }
    !state
}
