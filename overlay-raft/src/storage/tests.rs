use bytes::Bytes;
use proptest::prelude::*;

use super::{record::Content, *};
use crate::{Entry, HardState, Incarnation, Index, Membership, Payload, RaftId, Snapshot, Term};

/// Version 2 as it is written down for ever: `tests/golden/records-2.txt`.
#[test]
fn version_2_never_changes() {
    let golden = include_str!("../../tests/golden/records-2.txt");
    let short = Write {
        snapshot: None,
        truncate_from: None,
        ..sample()
    };
    let bytes = [
        record::encode(3, 0x1234, &sample(), false),
        record::encode(3, 0x1235, &short, true),
    ]
    .concat();
    let hex: String = bytes.iter().map(|octet| format!("{octet:02x}")).collect();
    let lines: String = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(hex, lines);
}

#[test]
fn the_records_of_a_write_come_back_as_they_were() {
    let write = sample();
    let bytes = record::encode(3, 0x1234, &write, false);
    let (mut rest, mut contents, mut lasts) = (&bytes[..], Vec::new(), Vec::new());
    while !rest.is_empty() {
        let record = record::decode(3, rest).unwrap();
        assert_eq!(record.write, 0x1234);
        assert!(record::is_of_write(3, rest, 0x1234..=0x1234));
        rest = &rest[record.length..];
        lasts.push(record.last);
        contents.push(record.content);
    }
    let mut expected = vec![
        Content::Snapshot(Snapshot::clone(&write.snapshot.unwrap())),
        Content::Truncate(write.truncate_from.unwrap()),
    ];
    expected.extend(write.entries.iter().cloned().map(Content::Entry));
    expected.push(Content::HardState(write.hard_state));
    assert_eq!(contents, expected);
    assert_eq!(lasts, [false, false, false, false, false, true]);
}

#[test]
fn a_record_is_bound_to_its_segment() {
    let bytes = record::encode(3, 1, &sample(), true);
    assert!(matches!(
        record::decode(4, &bytes),
        Err(Damage::Checksum { .. })
    ));
}

#[test]
fn names_of_segments_are_told_from_others() {
    assert_eq!(name_of(7), "segment-00000000000000000007");
    assert_eq!(number_of(&name_of(7)), Some(7));
    assert_eq!(number_of(&name_of(u64::MAX)), Some(u64::MAX));
    for other in [
        "segment-7",
        "segment-00000000000000000000",
        "segment-rewritten",
        "segment-+0000000000000000007",
        "xegment-00000000000000000007",
        "segment-99999999999999999999",
    ] {
        assert_eq!(number_of(other), None, "{other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_octets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = record::decode(1, &bytes);
        let _ = record::is_of_write(1, &bytes, 0..=u64::MAX);
    }

    #[test]
    fn each_flipped_bit_is_found(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = record::encode(3, 7, &sample(), true);
        let length = record::decode(3, &bytes).unwrap().length;
        bytes[at.index(length)] ^= 1 << bit;
        prop_assert!(record::decode(3, &bytes).is_err());
    }
}

/// A record of each kind.
fn sample() -> Write {
    let id = |number| RaftId::new(number).unwrap();
    let membership = Membership::founders([id(1), id(2)])
        .with_voter(id(3), Incarnation::new(1 << 40))
        .with_learner(id(4));
    let entry = |index, payload| Entry {
        index: Index::new(index),
        term: Term::new(7),
        payload,
    };
    Write {
        snapshot: Some(std::sync::Arc::new(Snapshot {
            index: Index::new(300),
            term: Term::new(6),
            membership: membership.clone(),
            data: Bytes::from_static(b"state"),
        })),
        truncate_from: Some(Index::new(301)),
        entries: vec![
            entry(301, Payload::Noop),
            entry(302, Payload::Command(Bytes::from_static(b"command"))),
            entry(303, Payload::Membership(membership)),
        ]
        .into(),
        hard_state: HardState {
            group: 0xfeed,
            id: id(1),
            incarnation: Incarnation::new(9),
            term: Term::new(7),
            vote: Some(id(2)),
            commit: Index::new(300),
        },
    }
}
