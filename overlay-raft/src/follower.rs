//! Following: appends, heartbeats and snapshots from the leader (Raft §5.3, §7).

use std::sync::Arc;

use crate::{
    Event, Index, Payload, Raft, RaftId, Snapshot,
    entries::{Entries, Slice},
    planted::{self, Bug},
    raft::Standing,
    snapshot::{Chunk, Incoming},
    trace::TraceEvent,
    wire::{
        Append, AppendReply, Body, Commit, Envelope, Heartbeat, HeartbeatReply, SnapshotReply,
        Verdict,
    },
};

impl Raft {
    /// Takes `from` as the leader of the present term; returns whether it can be.
    pub(crate) fn follow(&mut self, from: RaftId) -> bool {
        match &mut self.standing {
            Standing::Leader(_) => {
                self.stats.conflicting_leaders += 1;
                return false;
            }
            Standing::Follower {
                leader: Some(leader),
                contact,
            } => {
                if *leader != from {
                    self.stats.conflicting_leaders += 1;
                    return false;
                }
                *contact = self.now;
                self.postpone_election();
            }
            Standing::Follower { leader: None, .. }
            | Standing::PreCandidate { .. }
            | Standing::Candidate { .. } => self.become_follower(self.hard_state.term, Some(from)),
        }
        self.vow();
        true
    }

    pub(crate) fn on_append(&mut self, from: RaftId, append: Append) {
        let commit = self.commit();
        let holds_previous = self.log.term_at(append.previous) == Some(append.previous_term);
        let skips =
            planted::has(Bug::SkipsTheConsistencyCheck) && append.previous <= self.log.last_index();
        let known = append.previous < commit || holds_previous || skips;
        if !known {
            let (hint, hint_term) = self
                .log
                .last_not_above(append.previous, append.previous_term);
            let verdict = Verdict::Rejected {
                previous: append.previous,
                hint,
                hint_term,
            };
            self.send(from, None, Body::AppendReply(AppendReply { verdict }));
            return;
        }
        self.incoming = None;
        // What is committed here is in the leader's log, so only what comes after it is looked at.
        let matched = append.previous.plus(append.entries.len()).max(commit);
        if planted::has(Bug::CommitsItsOwnTail) {
            self.commit_to(append.commit);
        }
        if self.append_received(&append.entries) {
            self.tell_membership();
        }
        if planted::has(Bug::TruncatesWithoutConflict) && matched < self.log.last_index() {
            self.truncate_from(matched.next());
        }
        self.commit_to(append.commit.min(matched));
        self.accept(from, matched);
    }

    /// Takes what the log lacks; removes what contradicts it. Returns whether the membership in force is another one.
    fn append_received(&mut self, entries: &Entries) -> bool {
        let mut changed = false;
        for slice in entries.slices() {
            let Some(new) = self.after_agreement(slice) else {
                continue;
            };
            if new.first().index <= self.log.last_index() {
                changed |= self.truncate_from(new.first().index);
            }
            changed |= new
                .as_ref()
                .iter()
                .any(|entry| matches!(entry.payload, Payload::Membership(_)));
            self.trace(|_| TraceEvent::Appended {
                first: new.first().index,
                terms: new.as_ref().iter().map(|entry| entry.term).collect(),
            });
            self.log.append_slice(new);
        }
        changed
    }

    /// Returns the entries of a slice from the first one on that the log does not hold.
    fn after_agreement(&self, slice: &Slice) -> Option<Slice> {
        let commit = self.commit();
        let mut agreed = slice.first().index.previous();
        for entry in slice.as_ref() {
            let holds = || self.log.term_at(entry.index) == Some(entry.term);
            if entry.index > commit && !holds() {
                break;
            }
            agreed = entry.index;
        }
        slice.after(agreed)
    }

    pub(crate) fn on_commit(&mut self, envelope: &Envelope, body: &Commit) {
        // The leader's books may be about an earlier disk of this member.
        if envelope.means == Some(self.hard_state.incarnation) {
            self.commit_to(body.commit);
        }
    }

    pub(crate) fn on_heartbeat(&mut self, from: RaftId, envelope: &Envelope, body: &Heartbeat) {
        // The leader's books may be about an earlier disk of this member.
        if envelope.means == Some(self.hard_state.incarnation) {
            self.commit_to(body.commit);
        }
        let reply = HeartbeatReply { round: body.round };
        self.send(from, None, Body::HeartbeatReply(reply));
        self.ask_again();
    }

    pub(crate) fn on_chunk(&mut self, from: RaftId, chunk: Chunk) {
        if chunk.index <= self.commit() {
            self.incoming = None;
            self.accept(from, self.commit());
            return;
        }
        let is_kept =
            planted::has(Bug::KeepsAContradictingLog) && self.log.term_at(chunk.index).is_some();
        if is_kept || self.log.term_at(chunk.index) == Some(chunk.term) {
            // The log holds the very entry, hence everything before it too: nothing to replace (Raft §5.3).
            self.incoming = None;
            self.commit_to(chunk.index);
            self.accept(from, chunk.index);
            return;
        }
        let mut incoming = self
            .incoming
            .take()
            .filter(|incoming| incoming.matches(from, &chunk))
            .unwrap_or_else(|| Incoming::new(from, &chunk));
        let wanted = incoming.take(&chunk);
        if wanted == chunk.total_bytes {
            let index = chunk.index;
            self.install(Snapshot {
                index,
                term: chunk.term,
                membership: chunk.membership,
                data: incoming.into_data(),
            });
            self.accept(from, index);
            return;
        }
        self.incoming = Some(incoming);
        let reply = SnapshotReply {
            index: chunk.index,
            wanted,
        };
        self.send(from, None, Body::SnapshotReply(reply));
    }

    /// Replaces the whole log by a snapshot that it contradicts or does not reach.
    fn install(&mut self, snapshot: Snapshot) {
        let index = snapshot.index;
        self.stats.snapshots_installed += 1;
        self.forget_proposals(index);
        let term = snapshot.term;
        self.trace(|_| TraceEvent::Installed { index, term });
        self.log.install(Arc::new(snapshot));
        self.writes.note_install(index);
        self.hard_state.commit = index;
        self.restoring = Some(self.writes.required(index));
        self.tell_membership();
    }

    /// Acknowledges that the log agrees with the leader's up to `matched`; leaves once that is durable.
    fn accept(&mut self, to: RaftId, matched: Index) {
        let before = self.accepted.map_or(Index::ZERO, |(_, before)| before);
        self.accepted = Some((to, matched.max(before)));
    }

    /// Removes entries that the leader does not have; returns whether a membership was among them.
    fn truncate_from(&mut self, index: Index) -> bool {
        self.trace(|_| TraceEvent::Truncated { from: index });
        let changed = self.log.truncate_from(index);
        self.writes.note_truncated(index);
        changed
    }

    /// Tells the driver which membership is in force.
    pub(crate) fn tell_membership(&mut self) {
        let (index, membership) = (self.log.membership_index(), self.log.membership().clone());
        self.trace(|_| TraceEvent::Reconfigured {
            index,
            membership: membership.clone(),
        });
        self.outbox.event(Event::MembershipChanged {
            index,
            membership,
            committed: index <= self.hard_state.commit,
        });
    }
}
