//! From values to octets.

use super::{Body, Envelope, Verdict};
use crate::{Entry, Incarnation, Membership, Payload, RaftId};

/// Returns about how many octets a body takes, so that memory is asked for once.
pub(super) fn size_hint(body: &Body) -> usize {
    const ENVELOPE: usize = 64;
    const ENTRY: usize = 16;
    let content = match body {
        Body::Append(body) => body
            .entries
            .iter()
            .map(|entry| match &entry.payload {
                Payload::Noop => ENTRY,
                Payload::Command(command) => command.len().saturating_add(ENTRY),
                Payload::Membership(membership) => {
                    membership.len().saturating_mul(32).saturating_add(ENTRY)
                }
            })
            .fold(0, usize::saturating_add),
        Body::Chunk(body) => body
            .data
            .len()
            .saturating_add(body.membership.len().saturating_mul(32)),
        _ => 0,
    };
    content.saturating_add(ENVELOPE)
}

pub(super) fn put_envelope(out: &mut Vec<u8>, envelope: &Envelope) {
    put(out, envelope.group);
    put(out, envelope.to.get());
    put(out, envelope.term.get());
    put(out, envelope.incarnation.get());
    match envelope.means {
        None => put(out, 0),
        Some(incarnation) => {
            put(out, 1);
            put(out, incarnation.get());
        }
    }
}

pub(super) fn put_body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::PreVote(body) => put_all(
            out,
            [body.round, body.last_index.get(), body.last_term.get()],
        ),
        Body::PreVoteReply(body) => put_all(out, [body.round, u64::from(body.granted)]),
        Body::Vote(body) => put_all(
            out,
            [
                body.last_index.get(),
                body.last_term.get(),
                u64::from(body.transfer),
            ],
        ),
        Body::VoteReply(body) => put(out, u64::from(body.granted)),
        Body::Append(body) => {
            put_all(
                out,
                [
                    body.previous.get(),
                    body.previous_term.get(),
                    body.commit.get(),
                ],
            );
            put_length(out, body.entries.len());
            for entry in body.entries.iter() {
                put_entry(out, entry);
            }
        }
        Body::AppendReply(body) => match body.verdict {
            Verdict::Accepted { matched } => put_all(out, [0, matched.get()]),
            Verdict::Rejected {
                previous,
                hint,
                hint_term,
            } => put_all(out, [1, previous.get(), hint.get(), hint_term.get()]),
        },
        Body::Heartbeat(body) => put_all(out, [body.commit.get(), body.round]),
        Body::HeartbeatReply(body) => put(out, body.round),
        Body::Chunk(body) => {
            put_all(out, [body.index.get(), body.term.get()]);
            put_membership(out, &body.membership);
            put_all(out, [body.total_bytes, body.offset]);
            put_octets(out, &body.data);
        }
        Body::SnapshotReply(body) => put_all(out, [body.index.get(), body.wanted]),
        Body::TimeoutNow => {}
        Body::Commit(body) => put(out, body.commit.get()),
        Body::ReadAsk(body) => put_all(out, [body.life, body.number]),
        Body::ReadAnswer(body) => put_all(out, [body.life, body.number, body.index.get()]),
    }
}

/// The index is left out: entries of a message follow each other.
fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put(out, entry.term.get());
    match &entry.payload {
        Payload::Noop => put(out, 0),
        Payload::Command(command) => {
            put(out, 1);
            put_octets(out, command);
        }
        Payload::Membership(membership) => {
            put(out, 2);
            put_membership(out, membership);
        }
    }
}

fn put_membership(out: &mut Vec<u8>, membership: &Membership) {
    put_voters(out, membership.voters_with_incarnation());
    put_voters(out, membership.outgoing_with_incarnation());
    put_length(out, membership.learners().count());
    for id in membership.learners() {
        put(out, id.get());
    }
}

fn put_voters(out: &mut Vec<u8>, voters: &[(RaftId, Incarnation)]) {
    put_length(out, voters.len());
    for (id, incarnation) in voters {
        put_all(out, [id.get(), incarnation.get()]);
    }
}

fn put_octets(out: &mut Vec<u8>, octets: &[u8]) {
    put_length(out, octets.len());
    out.extend_from_slice(octets);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put(out, u64::try_from(length).unwrap_or(u64::MAX));
}

fn put_all<const N: usize>(out: &mut Vec<u8>, values: [u64; N]) {
    for value in values {
        put(out, value);
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        let [low, ..] = value.to_le_bytes();
        out.push(low | 0x80);
        value >>= 7;
    }
    let [low, ..] = value.to_le_bytes();
    out.push(low);
}
