use proptest::prelude::*;

use super::*;
use crate::{Entry, Incarnation, Index, Membership, Payload, RaftId, Term, snapshot::Chunk};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_back_as_it_was(envelope in envelopes(), message in messages()) {
        let bytes = encode(&envelope, &message);
        prop_assert_eq!(decode(&bytes), Ok((envelope, message)));
    }

    #[test]
    fn arbitrary_octets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(kind in 0..16_u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&framed(kind, VERSION, &body));
    }

    #[test]
    fn what_is_taken_is_encoded_again_as_the_same_message(
        kind in 0..16_u8,
        body in prop::collection::vec(0..4_u8, 0..40),
    ) {
        if let Ok((envelope, message)) = decode(&framed(kind, VERSION, &body)) {
            prop_assert_eq!(decode(&encode(&envelope, &message)), Ok((envelope, message)));
        }
    }

    #[test]
    fn a_message_that_is_cut_or_prolonged_is_refused(
        envelope in envelopes(),
        message in messages(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encode(&envelope, &message).to_vec();
        let end = cut.index(bytes.len());
        let refused = matches!(decode(&bytes[..end]), Err(DecodeError::Truncated { .. }));
        prop_assert!(refused);
        let longer = [&bytes[..], &[0]].concat();
        let extra = DecodeError::TrailingBytes { offset: bytes.len(), extra: 1 };
        prop_assert_eq!(decode(&longer), Err(extra));
        let body = &bytes[HEADER_BYTES..];
        let shorter = decode(&framed(bytes[0], VERSION, body.split_last().unwrap().1));
        prop_assert!(shorter.is_err());
        let inner = decode(&framed(bytes[0], VERSION, &[body, &[0]].concat()));
        let refused = matches!(inner, Err(DecodeError::TrailingBytes { extra: 1, .. }));
        prop_assert!(refused);
    }
}

#[test]
fn unknown_kinds_and_versions_are_named() {
    let envelope = envelope_of(1, 2, 3, 4, None);
    let bytes = encode(&envelope, &Body::TimeoutNow);
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        decode(&bytes)
    };
    assert_eq!(with(0, 99), Err(DecodeError::UnknownKind { kind: 99 }));
    assert_eq!(
        with(1, 1),
        Err(DecodeError::UnknownVersion {
            version: 1,
            expected: 2
        })
    );
    assert_eq!(
        decode(&[]),
        Err(DecodeError::Truncated { need: 6, have: 0 })
    );
}

#[test]
fn a_count_that_is_claimed_allocates_nothing() {
    let envelope = envelope_of(1, 2, 3, 4, None);
    let mut body = Vec::new();
    writer::put_envelope(&mut body, &envelope);
    let message = HEADER_BYTES + body.len();
    // Previous entry, its term and the commit index; then more entries than there are octets.
    body.extend([0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert_eq!(
        decode(&framed(5, VERSION, &body)),
        Err(DecodeError::Malformed {
            kind: 5,
            part: "message",
            offset: message,
        })
    );
    body.truncate(body.len() - 5);
    body.push(2);
    body.extend([0, 0]);
    assert_eq!(
        decode(&framed(5, VERSION, &body)),
        Err(DecodeError::Malformed {
            kind: 5,
            part: "entry",
            offset: HEADER_BYTES + body.len(),
        })
    );
}

/// Version 2 as it is written down for ever: `tests/golden/messages-2.txt`.
#[test]
fn version_2_never_changes() {
    let golden = include_str!("../../tests/golden/messages-2.txt");
    let lines: Vec<&str> = golden
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    let samples = samples();
    assert_eq!(lines.len(), samples.len());
    for (line, (envelope, message)) in lines.iter().zip(samples) {
        let bytes = encode(&envelope, &message);
        let hex: String = bytes.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, *line, "{message:?}");
        assert_eq!(decode(&bytes), Ok((envelope, message)));
    }
}

/// One of each kind, and of each kind of entry and verdict.
fn samples() -> Vec<(Envelope, Body)> {
    let (index, term) = (Index::new(300), Term::new(7));
    let membership = Membership::founders([id(1), id(2)])
        .with_voter(id(3), Incarnation::new(1 << 40))
        .with_learner(id(4));
    let joint = membership.towards(Membership::founders([id(1)]).with_learner(id(2)));
    let entries = vec![
        entry(301, 6, Payload::Noop),
        entry(302, 6, Payload::Command(Bytes::from_static(b"command"))),
        entry(303, 7, Payload::Membership(membership.clone())),
        entry(304, 7, Payload::Membership(joint)),
    ];
    let messages = vec![
        Body::PreVote(PreVote {
            round: 9,
            last_index: index,
            last_term: term,
        }),
        Body::PreVoteReply(PreVoteReply {
            round: 9,
            granted: true,
        }),
        Body::Vote(Vote {
            last_index: index,
            last_term: term,
            transfer: true,
        }),
        Body::VoteReply(VoteReply { granted: true }),
        Body::Append(Append {
            previous: index,
            previous_term: Term::new(6),
            commit: Index::new(299),
            entries: entries.into(),
        }),
        Body::AppendReply(AppendReply {
            verdict: Verdict::Accepted { matched: index },
        }),
        Body::AppendReply(AppendReply {
            verdict: Verdict::Rejected {
                previous: index,
                hint: Index::new(200),
                hint_term: Term::new(5),
            },
        }),
        Body::Heartbeat(Heartbeat {
            commit: index,
            round: 1000,
        }),
        Body::HeartbeatReply(HeartbeatReply { round: 1000 }),
        Body::Chunk(Box::new(Chunk {
            index,
            term,
            membership,
            total_bytes: 1000,
            offset: 500,
            data: Bytes::from_static(b"state"),
        })),
        Body::SnapshotReply(SnapshotReply { index, wanted: 505 }),
        Body::TimeoutNow,
    ];
    let envelopes = [
        envelope_of(0xfeed, 2, 7, 0, Some(0)),
        envelope_of(1, 300, 7, 1 << 40, None),
    ];
    messages
        .into_iter()
        .chain(later_samples())
        .zip(envelopes.into_iter().cycle())
        .map(|(message, envelope)| (envelope, message))
        .collect()
}

/// What was added to the file later.
fn later_samples() -> [Body; 3] {
    let index = Index::new(300);
    [
        Body::Commit(Commit { commit: index }),
        Body::ReadAsk(ReadAsk {
            life: 1 << 60,
            number: 3,
        }),
        Body::ReadAnswer(ReadAnswer {
            life: 1 << 60,
            number: 3,
            index,
        }),
    ]
}

fn encode(envelope: &Envelope, body: &Body) -> Bytes {
    let (envelope, body) = (envelope.clone(), body.clone());
    Message { envelope, body }.encode()
}

fn decode(bytes: &[u8]) -> Result<(Envelope, Body), DecodeError> {
    let Message { envelope, body } = Message::decode(&Bytes::copy_from_slice(bytes))?;
    Ok((envelope, body))
}

fn framed(kind: u8, version: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[kind, version], &length[..], body].concat()
}

fn id(number: u64) -> RaftId {
    RaftId::new(number).unwrap()
}

fn entry(index: u64, term: u64, payload: Payload) -> Entry {
    Entry {
        index: Index::new(index),
        term: Term::new(term),
        payload,
    }
}

fn envelope_of(group: u64, to: u64, term: u64, incarnation: u64, means: Option<u64>) -> Envelope {
    Envelope {
        group,
        to: id(to),
        term: Term::new(term),
        incarnation: Incarnation::new(incarnation),
        means: means.map(Incarnation::new),
    }
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let parts = (
        any::<u64>(),
        1..=u64::MAX,
        any::<u64>(),
        any::<u64>(),
        any::<Option<u64>>(),
    );
    parts.prop_map(|(group, to, term, incarnation, means)| {
        envelope_of(group, to, term, incarnation, means)
    })
}

fn payloads() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        prop::collection::vec(any::<u8>(), 0..50)
            .prop_map(|bytes| Payload::Command(Bytes::from(bytes))),
        memberships().prop_map(Payload::Membership),
    ]
}

fn memberships() -> impl Strategy<Value = Membership> {
    let voters = || prop::collection::vec((1..100_u64, any::<u64>()), 0..5);
    let learners = prop::collection::vec(100..200_u64, 0..3);
    (voters(), voters(), learners).prop_map(|(voters, outgoing, learners)| {
        let of = |voters: Vec<(u64, u64)>| {
            voters
                .into_iter()
                .fold(Membership::default(), |all, (voter, incarnation)| {
                    all.with_voter(id(voter), Incarnation::new(incarnation))
                })
        };
        let next = learners
            .into_iter()
            .fold(of(voters), |all, learner| all.with_learner(id(learner)));
        of(outgoing).towards(next)
    })
}

fn messages() -> impl Strategy<Value = Body> {
    let numbers = || (any::<u64>(), any::<u64>(), any::<u64>());
    prop_oneof![
        numbers().prop_map(|(round, index, term)| Body::PreVote(PreVote {
            round,
            last_index: Index::new(index),
            last_term: Term::new(term),
        })),
        (any::<u64>(), any::<bool>())
            .prop_map(|(round, granted)| Body::PreVoteReply(PreVoteReply { round, granted })),
        (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(index, term, transfer)| {
            Body::Vote(Vote {
                last_index: Index::new(index),
                last_term: Term::new(term),
                transfer,
            })
        }),
        any::<bool>().prop_map(|granted| Body::VoteReply(VoteReply { granted })),
        appends(),
        any::<u64>().prop_map(|matched| Body::AppendReply(AppendReply {
            verdict: Verdict::Accepted {
                matched: Index::new(matched)
            },
        })),
        numbers().prop_map(|(previous, hint, term)| Body::AppendReply(AppendReply {
            verdict: Verdict::Rejected {
                previous: Index::new(previous),
                hint: Index::new(hint),
                hint_term: Term::new(term),
            },
        })),
        (any::<u64>(), any::<u64>()).prop_map(|(commit, round)| Body::Heartbeat(Heartbeat {
            commit: Index::new(commit),
            round,
        })),
        any::<u64>().prop_map(|round| Body::HeartbeatReply(HeartbeatReply { round })),
        chunks(),
        (any::<u64>(), any::<u64>()).prop_map(|(index, wanted)| Body::SnapshotReply(
            SnapshotReply {
                index: Index::new(index),
                wanted,
            }
        )),
        Just(Body::TimeoutNow),
        any::<u64>().prop_map(|commit| Body::Commit(Commit {
            commit: Index::new(commit)
        })),
        (any::<u64>(), any::<u64>())
            .prop_map(|(life, number)| Body::ReadAsk(ReadAsk { life, number })),
        numbers().prop_map(|(life, number, index)| Body::ReadAnswer(ReadAnswer {
            life,
            number,
            index: Index::new(index),
        })),
    ]
}

fn appends() -> impl Strategy<Value = Body> {
    let entries = prop::collection::vec((any::<u64>(), payloads()), 0..6);
    (any::<u32>(), any::<u64>(), any::<u64>(), entries).prop_map(
        |(previous, term, commit, entries)| {
            let first = u64::from(previous) + 1;
            let entries = (first..)
                .zip(entries)
                .map(|(index, (term, payload))| entry(index, term, payload));
            Body::Append(Append {
                previous: Index::new(u64::from(previous)),
                previous_term: Term::new(term),
                commit: Index::new(commit),
                entries: entries.collect(),
            })
        },
    )
}

fn chunks() -> impl Strategy<Value = Body> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let data = prop::collection::vec(any::<u8>(), 0..50);
    (numbers, memberships(), data).prop_map(|((index, term, total, offset), membership, data)| {
        Body::Chunk(Box::new(Chunk {
            index: Index::new(index),
            term: Term::new(term),
            membership,
            total_bytes: total,
            offset,
            data: Bytes::from(data),
        }))
    })
}
