//! The messages as documented in the crate's `wire` module, written down a second time: a change of the format shows.

use bytes::Bytes;
use overlay_raft::{Membership, Payload, RaftId};
use serde::{Serialize, de::DeserializeOwned};

#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    pub group: u64,
    pub to: u64,
    pub term: u64,
    /// The sender's.
    pub incarnation: u64,
    /// The recipient's, as the sender believes.
    pub means: Option<u64>,
    pub body: Body,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    PreVote {
        round: u64,
        last_index: u64,
        last_term: u64,
    },
    PreVoteReply {
        round: u64,
        granted: bool,
    },
    Vote {
        last_index: u64,
        last_term: u64,
        transfer: bool,
    },
    VoteReply {
        granted: bool,
    },
    Append {
        previous: u64,
        previous_term: u64,
        commit: u64,
        entries: Vec<(u64, Payload)>,
    },
    Accepted {
        matched: u64,
    },
    Rejected {
        previous: u64,
        hint: u64,
        hint_term: u64,
    },
    Heartbeat {
        commit: u64,
        round: u64,
    },
    HeartbeatReply {
        round: u64,
    },
    Chunk {
        index: u64,
        term: u64,
        membership: Membership,
        total: u64,
        offset: u64,
        data: Bytes,
    },
    SnapshotReply {
        index: u64,
        wanted: u64,
    },
    TimeoutNow,
    Commit {
        commit: u64,
    },
    ReadAsk {
        life: u64,
        number: u64,
    },
    ReadAnswer {
        life: u64,
        number: u64,
        index: u64,
    },
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        let mut body = put(&(self.group, self.to, self.term, self.incarnation, self.means));
        let (kind, rest) = match &self.body {
            Body::PreVote {
                round,
                last_index,
                last_term,
            } => (1, put(&(round, last_index, last_term))),
            Body::PreVoteReply { round, granted } => (2, put(&(round, granted))),
            Body::Vote {
                last_index,
                last_term,
                transfer,
            } => (3, put(&(last_index, last_term, transfer))),
            Body::VoteReply { granted } => (4, put(granted)),
            Body::Append {
                previous,
                previous_term,
                commit,
                entries,
            } => {
                let mut rest = put(&(
                    previous,
                    previous_term,
                    commit,
                    u32::try_from(entries.len()).unwrap(),
                ));
                for entry in entries {
                    rest.extend(put(entry));
                }
                (5, rest)
            }
            Body::Accepted { matched } => (6, put(&(0_u32, matched))),
            Body::Rejected {
                previous,
                hint,
                hint_term,
            } => (6, put(&(1_u32, previous, hint, hint_term))),
            Body::Heartbeat { commit, round } => (7, put(&(commit, round))),
            Body::HeartbeatReply { round } => (8, put(round)),
            Body::Chunk {
                index,
                term,
                membership,
                total,
                offset,
                data,
            } => (9, put(&(index, term, membership, total, offset, data))),
            Body::SnapshotReply { index, wanted } => (10, put(&(index, wanted))),
            Body::TimeoutNow => (11, Vec::new()),
            Body::Commit { commit } => (12, put(commit)),
            Body::ReadAsk { life, number } => (13, put(&(life, number))),
            Body::ReadAnswer {
                life,
                number,
                index,
            } => (14, put(&(life, number, index))),
        };
        body.extend(rest);
        let mut bytes = vec![kind, 2];
        bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        bytes.extend(body);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Self {
        assert_eq!(bytes[1], 2, "version");
        let length = u32::from_le_bytes(bytes[2..6].try_into().unwrap());
        assert_eq!(bytes.len(), 6 + length as usize, "length");
        let mut body = &bytes[6..];
        let (group, to, term, incarnation, means) = take(&mut body);
        let body = decode_body(bytes[0], &mut body);
        Self {
            group,
            to,
            term,
            incarnation,
            means,
            body,
        }
    }
}

fn decode_body(kind: u8, body: &mut &[u8]) -> Body {
    let decoded = match kind {
        1 => {
            let (round, last_index, last_term) = take(body);
            Body::PreVote {
                round,
                last_index,
                last_term,
            }
        }
        2 => {
            let (round, granted) = take(body);
            Body::PreVoteReply { round, granted }
        }
        3 => {
            let (last_index, last_term, transfer) = take(body);
            Body::Vote {
                last_index,
                last_term,
                transfer,
            }
        }
        4 => Body::VoteReply {
            granted: take(body),
        },
        5 => decode_append(body),
        6 => match take::<u32>(body) {
            0 => Body::Accepted {
                matched: take(body),
            },
            _ => {
                let (previous, hint, hint_term) = take(body);
                Body::Rejected {
                    previous,
                    hint,
                    hint_term,
                }
            }
        },
        7 => {
            let (commit, round) = take(body);
            Body::Heartbeat { commit, round }
        }
        8 => Body::HeartbeatReply { round: take(body) },
        9 => decode_chunk(body),
        10 => {
            let (index, wanted) = take(body);
            Body::SnapshotReply { index, wanted }
        }
        11 => Body::TimeoutNow,
        12 => Body::Commit { commit: take(body) },
        13 => {
            let (life, number) = take(body);
            Body::ReadAsk { life, number }
        }
        14 => {
            let (life, number, index) = take(body);
            Body::ReadAnswer {
                life,
                number,
                index,
            }
        }
        kind => panic!("kind {kind}"),
    };
    assert!(body.is_empty(), "{} octets left of {decoded:?}", body.len());
    decoded
}

fn decode_chunk(body: &mut &[u8]) -> Body {
    let (index, term, membership, total, offset, data) = take(body);
    Body::Chunk {
        index,
        term,
        membership,
        total,
        offset,
        data,
    }
}

fn decode_append(body: &mut &[u8]) -> Body {
    let (previous, previous_term, commit, count): (u64, u64, u64, u32) = take(body);
    Body::Append {
        previous,
        previous_term,
        commit,
        entries: (0..count).map(|_| take(body)).collect(),
    }
}

/// Founders and learners. Founders have incarnation zero.
pub fn membership(voters: &[u64], learners: &[u64]) -> Membership {
    joint(voters, &[], learners)
}

/// As above, on the way from the voters `outgoing`.
pub fn joint(voters: &[u64], outgoing: &[u64], learners: &[u64]) -> Membership {
    let id = |number: &u64| RaftId::new(*number).unwrap();
    let with_incarnation = |voters: &[u64]| -> Vec<(RaftId, u64)> {
        voters.iter().map(|voter| (id(voter), 0)).collect()
    };
    let learners: Vec<RaftId> = learners.iter().map(id).collect();
    let parts = (
        with_incarnation(voters),
        with_incarnation(outgoing),
        learners,
    );
    postcard::from_bytes(&put(&parts)).unwrap()
}

fn put(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

fn take<T: DeserializeOwned>(bytes: &mut &[u8]) -> T {
    let (value, rest) = postcard::take_from_bytes(bytes).expect("as documented");
    *bytes = rest;
    value
}
