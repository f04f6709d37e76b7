//! What happens to a message before its own handler: is it admitted, and what does its term say (Raft §5.1).

use crate::{
    Index, Membership, MessageError, Payload, Raft, RaftId, Term,
    planted::{self, Bug},
    snapshot::Chunk,
    wire::{Append, AppendReply, Body, Envelope, Verdict, VoteReply},
};

impl Raft {
    /// Refuses what no correct member of this cluster would send, before anything changes.
    pub(crate) fn admit(
        &self,
        from: RaftId,
        envelope: &Envelope,
        body: &Body,
    ) -> Result<(), MessageError> {
        if envelope.group != self.config.group {
            return Err(MessageError::WrongGroup {
                expected: self.config.group,
                found: envelope.group,
            });
        }
        if envelope.to != self.config.id {
            return Err(MessageError::WrongRecipient {
                expected: self.config.id,
                found: envelope.to,
            });
        }
        if from == self.config.id {
            return Err(MessageError::FromSelf { id: from });
        }
        at_most("term", envelope.term.get(), Term::MAX.get())?;
        match body {
            Body::Append(append) => self.admit_append(envelope.term, append),
            Body::Chunk(chunk) => self.admit_chunk(envelope.term, chunk),
            Body::AppendReply(AppendReply {
                verdict: Verdict::Accepted { matched },
            }) if self.is_leader() && envelope.term == self.term() => {
                at_most("matched", matched.get(), self.last_index().get())
            }
            _ => Ok(()),
        }
    }

    /// Acts on an admitted message.
    pub(crate) fn step(&mut self, from: RaftId, envelope: &Envelope, body: Body) {
        if envelope.term > self.term() && !self.enters_term_of(from, envelope, &body) {
            return;
        }
        if envelope.term < self.term() && !planted::has(Bug::HearsTheDead) {
            self.answer_stale(from, envelope, &body);
            return;
        }
        match body {
            Body::PreVote(body) => self.on_pre_vote(from, envelope, &body),
            Body::PreVoteReply(body) => self.on_pre_vote_reply(from, envelope, &body),
            Body::Vote(body) => self.on_vote(from, envelope, &body),
            Body::VoteReply(body) => self.on_vote_reply(from, envelope, &body),
            Body::Append(body) => {
                if self.follow(from) {
                    self.on_append(from, body);
                }
            }
            Body::Heartbeat(body) => {
                if self.follow(from) {
                    self.on_heartbeat(from, envelope, &body);
                }
            }
            Body::Chunk(body) => {
                if self.follow(from) {
                    self.on_chunk(from, *body);
                }
            }
            Body::Commit(body) => {
                if self.follow(from) {
                    self.on_commit(envelope, &body);
                }
            }
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::ReadAsk(body) => self.on_read_ask(from, &body),
            Body::ReadAnswer(body) => self.on_read_answer(from, &body),
            Body::AppendReply(body) => self.on_append_reply(from, envelope, &body),
            Body::HeartbeatReply(body) => self.on_heartbeat_reply(from, envelope, &body),
            Body::SnapshotReply(body) => self.on_snapshot_reply(from, envelope, &body),
        }
    }

    /// Enters the higher term of a message where that is due; returns whether the message still matters.
    fn enters_term_of(&mut self, from: RaftId, envelope: &Envelope, body: &Body) -> bool {
        match body {
            // Answered without entering the term: that is the point of asking first (thesis §9.6).
            Body::PreVote(_) | Body::PreVoteReply(_) => true,
            Body::Vote(body) => {
                if self.is_loyal() && !body.transfer {
                    return false;
                }
                self.become_follower(envelope.term, None);
                true
            }
            Body::Append(_)
            | Body::Heartbeat(_)
            | Body::Chunk(_)
            | Body::Commit(_)
            | Body::ReadAnswer(_)
            | Body::TimeoutNow => {
                self.become_follower(envelope.term, Some(from));
                true
            }
            Body::VoteReply(_)
            | Body::AppendReply(_)
            | Body::HeartbeatReply(_)
            | Body::SnapshotReply(_)
            | Body::ReadAsk(_) => {
                self.become_follower(envelope.term, None);
                false
            }
        }
    }

    /// Tells the sender of an earlier term about the present one, where it asked for something.
    fn answer_stale(&mut self, from: RaftId, envelope: &Envelope, body: &Body) {
        match body {
            Body::PreVote(body) => self.refuse_stale_pre_vote(from, body),
            // Given by a voter that did not enter the candidate's term, so its own is lower.
            Body::PreVoteReply(body) => self.on_pre_vote_reply(from, envelope, body),
            Body::Vote(_) => self.send(from, None, Body::VoteReply(VoteReply { granted: false })),
            Body::Append(_) | Body::Heartbeat(_) | Body::Chunk(_) | Body::Commit(_) => {
                let verdict = Verdict::Rejected {
                    previous: Index::ZERO,
                    hint: Index::ZERO,
                    hint_term: Term::ZERO,
                };
                self.send(from, None, Body::AppendReply(AppendReply { verdict }));
            }
            Body::VoteReply(_)
            | Body::AppendReply(_)
            | Body::HeartbeatReply(_)
            | Body::SnapshotReply(_)
            | Body::ReadAsk(_)
            | Body::ReadAnswer(_)
            | Body::TimeoutNow => {}
        }
    }

    fn admit_append(&self, leader_term: Term, append: &Append) -> Result<(), MessageError> {
        let last = append.previous.plus(append.entries.len());
        at_most("index", last.get(), Index::MAX.get())?;
        let mut least = append.previous_term;
        for entry in append.entries.iter() {
            at_most("term of the entry before", least.get(), entry.term.get())?;
            least = entry.term;
            if let Payload::Membership(membership) = &entry.payload {
                self.admit_membership(membership)?;
            }
        }
        at_most("term of the last entry", least.get(), leader_term.get())?;
        if leader_term < self.term() {
            return Ok(());
        }
        let before = (append.previous, append.previous_term);
        let positions = append.entries.iter().map(|entry| (entry.index, entry.term));
        for (index, found) in [before].into_iter().chain(positions) {
            if let Some(expected) = self.log.term_at(index)
                && index <= self.commit()
                && found != expected
            {
                return Err(MessageError::CommittedConflict {
                    index,
                    expected,
                    found,
                });
            }
        }
        let new = append
            .entries
            .iter()
            .filter(|entry| entry.index > self.last_index())
            .fold(0, |sum: u64, entry| {
                sum.saturating_add(entry.weight_bytes())
            });
        // Twice what a leader takes: its first entries of new terms must find room where proposals filled the log, or
        // nothing could be committed, applied and compacted any more.
        let bytes_max = self.config.log_bytes_max.saturating_mul(2);
        let bytes = self.log.bytes().saturating_add(new);
        if new > 0 && bytes > bytes_max {
            return Err(MessageError::LogFull { bytes, bytes_max });
        }
        Ok(())
    }

    fn admit_chunk(&self, leader_term: Term, chunk: &Chunk) -> Result<(), MessageError> {
        at_most("index", chunk.index.get(), Index::MAX.get())?;
        at_most("term of the snapshot", chunk.term.get(), leader_term.get())?;
        at_most(
            "size of the snapshot",
            chunk.total_bytes,
            self.config.snapshot_bytes_max,
        )?;
        let length = u64::try_from(chunk.data.len()).unwrap_or(u64::MAX);
        at_most(
            "end of the chunk",
            chunk.offset.saturating_add(length),
            chunk.total_bytes,
        )?;
        self.admit_membership(&chunk.membership)
    }

    fn admit_membership(&self, membership: &Membership) -> Result<(), MessageError> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        at_most(
            "members",
            count(membership.len()),
            count(self.config.members_max),
        )?;
        if !membership.is_sound() {
            return Err(MessageError::Membership);
        }
        Ok(())
    }
}

fn at_most(field: &'static str, found: u64, max: u64) -> Result<(), MessageError> {
    if found > max {
        return Err(MessageError::OutOfRange { field, found, max });
    }
    Ok(())
}
