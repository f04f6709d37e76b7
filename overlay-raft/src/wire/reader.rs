//! From octets to values.

use bytes::Bytes;

use super::{
    Append, AppendReply, Body, Commit, Envelope, Heartbeat, HeartbeatReply, PreVote, PreVoteReply,
    ReadAnswer, ReadAsk, SnapshotReply, Verdict, Vote, VoteReply,
};
use crate::{
    DecodeError, Entry, Incarnation, Index, Membership, Payload, RaftId, Term, entries::Entries,
    snapshot::Chunk,
};

pub(super) struct Reader<'a> {
    bytes: &'a Bytes,
    kind: u8,
    /// What is to be read next.
    at: usize,
    /// Where the part begins that is being read, and its name.
    part: (usize, &'static str),
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a Bytes, kind: u8, at: usize) -> Self {
        Self {
            bytes,
            kind,
            at,
            part: (at, "message"),
        }
    }

    pub(super) fn envelope(&mut self) -> Result<Envelope, DecodeError> {
        self.begin("envelope");
        Ok(Envelope {
            group: self.number()?,
            to: self.id()?,
            term: self.term()?,
            incarnation: self.incarnation()?,
            means: match self.number()? {
                0 => None,
                1 => Some(self.incarnation()?),
                _ => return Err(self.malformed()),
            },
        })
    }

    pub(super) fn body(&mut self) -> Result<Body, DecodeError> {
        self.begin("message");
        Ok(match self.kind {
            1 => Body::PreVote(PreVote {
                round: self.number()?,
                last_index: self.index()?,
                last_term: self.term()?,
            }),
            2 => Body::PreVoteReply(PreVoteReply {
                round: self.number()?,
                granted: self.flag()?,
            }),
            3 => Body::Vote(Vote {
                last_index: self.index()?,
                last_term: self.term()?,
                transfer: self.flag()?,
            }),
            4 => Body::VoteReply(VoteReply {
                granted: self.flag()?,
            }),
            5 => Body::Append(self.append()?),
            6 => Body::AppendReply(AppendReply {
                verdict: self.verdict()?,
            }),
            7 => Body::Heartbeat(Heartbeat {
                commit: self.index()?,
                round: self.number()?,
            }),
            8 => Body::HeartbeatReply(HeartbeatReply {
                round: self.number()?,
            }),
            9 => Body::Chunk(Box::new(self.chunk()?)),
            10 => Body::SnapshotReply(SnapshotReply {
                index: self.index()?,
                wanted: self.number()?,
            }),
            11 => Body::TimeoutNow,
            12 => Body::Commit(Commit {
                commit: self.index()?,
            }),
            13 => Body::ReadAsk(ReadAsk {
                life: self.number()?,
                number: self.number()?,
            }),
            14 => Body::ReadAnswer(ReadAnswer {
                life: self.number()?,
                number: self.number()?,
                index: self.index()?,
            }),
            kind => return Err(DecodeError::UnknownKind { kind }),
        })
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.bytes.len().saturating_sub(self.at) {
            0 => Ok(()),
            extra => Err(DecodeError::TrailingBytes {
                offset: self.at,
                extra,
            }),
        }
    }

    fn append(&mut self) -> Result<Append, DecodeError> {
        let previous = self.index()?;
        let previous_term = self.term()?;
        let commit = self.index()?;
        let count = self.length()?;
        let mut entries = Vec::with_capacity(count.min(ENTRIES_AT_ONCE));
        let mut index = previous;
        for _ in 0..count {
            self.begin("entry");
            index = index.next();
            entries.push(Entry {
                index,
                term: self.term()?,
                payload: self.payload()?,
            });
        }
        Ok(Append {
            previous,
            previous_term,
            commit,
            entries: Entries::from(entries),
        })
    }

    fn payload(&mut self) -> Result<Payload, DecodeError> {
        Ok(match self.number()? {
            0 => Payload::Noop,
            1 => Payload::Command(self.octets()?),
            2 => Payload::Membership(self.membership()?),
            _ => return Err(self.malformed()),
        })
    }

    fn verdict(&mut self) -> Result<Verdict, DecodeError> {
        Ok(match self.number()? {
            0 => Verdict::Accepted {
                matched: self.index()?,
            },
            1 => Verdict::Rejected {
                previous: self.index()?,
                hint: self.index()?,
                hint_term: self.term()?,
            },
            _ => return Err(self.malformed()),
        })
    }

    fn chunk(&mut self) -> Result<Chunk, DecodeError> {
        Ok(Chunk {
            index: self.index()?,
            term: self.term()?,
            membership: self.membership()?,
            total_bytes: self.number()?,
            offset: self.number()?,
            data: self.octets()?,
        })
    }

    fn membership(&mut self) -> Result<Membership, DecodeError> {
        let voters = self.voters()?;
        let outgoing = self.voters()?;
        let mut learners = Vec::new();
        for _ in 0..self.length()? {
            learners.push(self.id()?);
        }
        Ok(Membership::from_parts(voters, outgoing, learners))
    }

    fn voters(&mut self) -> Result<Vec<(RaftId, Incarnation)>, DecodeError> {
        let mut voters = Vec::new();
        for _ in 0..self.length()? {
            voters.push((self.id()?, self.incarnation()?));
        }
        Ok(voters)
    }

    fn id(&mut self) -> Result<RaftId, DecodeError> {
        RaftId::new(self.number()?).ok_or_else(|| self.malformed())
    }

    fn term(&mut self) -> Result<Term, DecodeError> {
        self.number().map(Term::new)
    }

    fn index(&mut self) -> Result<Index, DecodeError> {
        self.number().map(Index::new)
    }

    fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        self.number().map(Incarnation::new)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    fn octets(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.length()?;
        let end = self.at.saturating_add(length);
        if end > self.bytes.len() {
            return Err(self.malformed());
        }
        let octets = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(octets)
    }

    /// Reads a count of things that take at least an octet each: more than are left cannot be there.
    fn length(&mut self) -> Result<usize, DecodeError> {
        let left = self.bytes.len().saturating_sub(self.at);
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > left {
            return Err(self.malformed());
        }
        Ok(length)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some(&octet) = self.bytes.get(self.at) else {
                return Err(self.malformed());
            };
            self.at = self.at.saturating_add(1);
            let bits = u64::from(octet & 0x7f);
            // The tenth octet has one bit left.
            if shift == 63 && bits > 1 {
                return Err(self.malformed());
            }
            value |= bits << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    fn begin(&mut self, part: &'static str) {
        self.part = (self.at, part);
    }

    fn malformed(&self) -> DecodeError {
        let (offset, part) = self.part;
        DecodeError::Malformed {
            kind: self.kind,
            part,
            offset,
        }
    }
}

/// For so many entries memory is asked for at once; for more as they are found to be there.
const ENTRIES_AT_ONCE: usize = 256;
