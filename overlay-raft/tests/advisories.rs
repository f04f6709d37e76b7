//! What went wrong in another implementation of the paper, on the disk and between members: a test for each advisory.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use bytes::Bytes;
use overlay_core::{Disk, Seed};
use overlay_raft::{
    Entry, HardState, Incarnation, Index, Membership, Payload, RaftId, Restored, Snapshot, Term,
    Write,
    storage::{Damage, Log, OpenError, StorageConfig},
};
use overlay_sim::SimDisk;

/// Records with good checksums whose lengths are made up, of the record and inside of its body: refused or cut as torn,
/// with the record before them kept, and never believed.
#[test]
fn cve_2020_15106_lengths_in_a_log_are_not_believed() {
    let honest = begun();
    let (_, before) = open(&honest).unwrap();
    for kind in 0..=255 {
        // Lengths as variable numbers: 2³² − 1 and 2⁶⁴ − 1, wherever the body has one.
        let bodies: [&[u8]; 6] = [
            b"",
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0xff; 10],
            &[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f],
            &[
                1, 1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
            ],
            &[1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1],
        ];
        for body in bodies {
            let disk = begun();
            append(&disk, &record(kind, body, None));
            refused_or_cut(&disk, &before, &format!("kind {kind}, body {body:x?}"));
        }
    }
    for length in [1, 100, 1 << 20, 1 << 31, u32::MAX - 19, u32::MAX] {
        let disk = begun();
        append(&disk, &record(4, b"1234", Some(length)));
        refused_or_cut(&disk, &before, &format!("a length of {length}"));
    }
}

/// Entries whose indices are elsewhere than they are, and what takes back what is committed: refused with the numbers.
#[test]
fn cve_2020_15112_entries_that_do_not_follow_are_refused() {
    let refused = |what: &str, third: &Write| {
        let disk = begun();
        let (mut log, _) = open(&disk).unwrap();
        log.write(third).unwrap();
        drop(log);
        let error = open(&disk).map(|_| ()).unwrap_err();
        let known = matches!(error, OpenError::Inconsistent { .. });
        assert!(
            known && error.to_string().contains("expected"),
            "{what}: {error}"
        );
    };
    for index in [0, 1, 4, 5, 1 << 32, u64::MAX - 1, u64::MAX] {
        refused(&format!("entry {index}"), &write(2, &[index]));
        refused(
            &format!("entry {index} after others"),
            &write(2, &[3, 4, 5, index.wrapping_add(3)]),
        );
    }
    for from in [0, 1, 2] {
        let taken_back = Write {
            truncate_from: Some(Index::new(from)),
            ..write(2, &[])
        };
        refused(&format!("nothing from {from} on"), &taken_back);
    }
    // What follows does.
    let disk = begun();
    let (mut log, _) = open(&disk).unwrap();
    log.write(&write(2, &[3, 4])).unwrap();
    drop(log);
    assert_eq!(open(&disk).unwrap().1.last_index(), Index::new(4));
}

fn refused_or_cut(disk: &SimDisk, before: &Restored, what: &str) {
    match open(disk) {
        // A record without the end of its write is torn: what was acknowledged before it is all there.
        Ok((_, restored)) => assert_eq!(&restored, before, "{what}"),
        Err(OpenError::Damaged { damage, .. }) => {
            let known = matches!(
                damage,
                Damage::Malformed { .. }
                    | Damage::Unknown { .. }
                    | Damage::Truncated { .. }
                    | Damage::Checksum { .. }
            );
            assert!(known, "{what}: {damage:?}");
        }
        Err(error) => assert!(
            matches!(error, OpenError::Inconsistent { .. }),
            "{what}: {error}"
        ),
    }
}

fn disk() -> SimDisk {
    SimDisk::new(&Seed::from_u64(1))
}

fn open(disk: &SimDisk) -> Result<(Log<SimDisk>, Restored), OpenError> {
    Log::open(disk.clone(), StorageConfig::default())
}

/// A disk with two honest writes.
fn begun() -> SimDisk {
    let disk = disk();
    let (mut log, _) = open(&disk).unwrap();
    log.write(&first()).unwrap();
    log.write(&write(2, &[1, 2])).unwrap();
    disk
}

fn first() -> Write {
    let snapshot = Snapshot {
        index: Index::new(0),
        term: Term::new(0),
        membership: Membership::default(),
        data: Bytes::new(),
    };
    Write {
        snapshot: Some(snapshot.into()),
        ..write(0, &[])
    }
}

fn write(term: u64, indices: &[u64]) -> Write {
    let entry = |index: &u64| Entry {
        index: Index::new(*index),
        term: Term::new(term),
        payload: Payload::Noop,
    };
    Write {
        snapshot: None,
        truncate_from: None,
        entries: indices.iter().map(entry).collect(),
        hard_state: HardState {
            group: 7,
            id: RaftId::new(1).unwrap(),
            incarnation: Incarnation::new(99),
            term: Term::new(term),
            vote: None,
            commit: Index::new(if term == 0 { 0 } else { 2 }),
        },
    }
}

/// Appends to the only segment, which has number 1.
fn append(disk: &SimDisk, record: &[u8]) {
    let mut disk = disk.clone();
    let names = disk.list().unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    disk.append(&names[0], record).unwrap();
    disk.sync(&names[0]).unwrap();
}

/// A record of the third write with a checksum that fits, and maybe another length.
fn record(kind: u8, body: &[u8], length: Option<u32>) -> Vec<u8> {
    let own = u32::try_from(body.len()).unwrap();
    let mut record = vec![kind, 1, 1, 0];
    record.extend(length.unwrap_or(own).to_le_bytes());
    record.extend(3_u64.to_le_bytes());
    record.extend([0; 4]);
    record.extend(body);
    let sum = checksum(1, &record);
    record[16..20].copy_from_slice(&sum.to_le_bytes());
    record
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
