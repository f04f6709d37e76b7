//! Replication from the leader's side (Raft §5.3): probing, pipelining, heartbeats, snapshots in pieces.

use std::sync::Arc;

use crate::{
    Event, Incarnation, Index, Raft, RaftId, Term,
    planted::{self, Bug},
    progress::{Mode, Progress},
    raft::Standing,
    snapshot::Chunk,
    wire::{
        Append, AppendReply, Body, Commit, Envelope, Heartbeat, HeartbeatReply, SnapshotReply,
        Verdict,
    },
};

impl Raft {
    /// Sends to each follower what it lacks and may be sent now.
    pub(crate) fn replicate(&mut self) {
        if !self.is_leader() {
            return;
        }
        let mut at = 0;
        while let Standing::Leader(leader) = &self.standing
            && let Some(id) = leader.followers.id_at(at)
        {
            while self.send_next(id) {}
            at += 1;
        }
        if self.config.commit_delay.is_zero() {
            self.tell_commit();
        }
        self.continue_transfer();
        self.settle_membership();
    }

    /// Starts a new round of heartbeats.
    pub(crate) fn broadcast_heartbeat(&mut self) {
        let next = self.now + self.config.heartbeat_interval;
        let commit = self.commit();
        let Standing::Leader(leader) = &mut self.standing else {
            return;
        };
        leader.heartbeat_deadline = next;
        if let Some(transfer) = &mut leader.transfer {
            transfer.asked = false;
        }
        let round = leader.rounds.begin(self.now);
        let heartbeats: Vec<(RaftId, Option<Incarnation>, Heartbeat)> = leader
            .followers
            .iter()
            .map(|(id, progress)| {
                let commit = if planted::has(Bug::TellsTooMuch) {
                    commit
                } else {
                    progress.certain(commit)
                };
                (id, progress.incarnation, Heartbeat { commit, round })
            })
            .collect();
        for (id, incarnation, heartbeat) in heartbeats {
            self.send(id, incarnation, Body::Heartbeat(heartbeat));
        }
    }

    pub(crate) fn on_append_reply(
        &mut self,
        from: RaftId,
        envelope: &Envelope,
        reply: &AppendReply,
    ) {
        let base = self.log.base();
        let Some(progress) = self.hear(from, envelope) else {
            return;
        };
        match reply.verdict {
            Verdict::Accepted { matched } => {
                if let Mode::Snapshot { snapshot, .. } = &progress.mode
                    && matched >= base.min(snapshot.index)
                {
                    progress.mode = Mode::Probe { waiting: false };
                }
                progress.accept(matched);
            }
            Verdict::Rejected {
                previous,
                hint,
                hint_term,
            } => match progress.mode {
                Mode::Probe { .. } if previous == progress.matched && previous > Index::ZERO => {
                    if progress.contradict() {
                        self.take_back(from, hint, hint_term);
                    }
                }
                Mode::Probe { .. } if previous == progress.next.previous() => {
                    let (agreed, _) = self.log.last_not_above(hint, hint_term);
                    let next = agreed.next().min(previous).max(Index::ZERO.next());
                    if let Some(progress) = self.progress_mut(from) {
                        progress.probe(next);
                    }
                }
                Mode::Replicate { .. } if previous > progress.matched => {
                    progress.probe(progress.matched.next());
                }
                // An answer to something that was sent before the leader knew better.
                Mode::Probe { .. } | Mode::Replicate { .. } | Mode::Snapshot { .. } => {}
            },
        }
    }

    /// Takes back what a follower acknowledged, and does not hold.
    fn take_back(&mut self, from: RaftId, hint: Index, hint_term: Term) {
        let (agreed, _) = self.log.last_not_above(hint, hint_term);
        let is_voter = self.membership().is_voter(from);
        let Some(progress) = self.progress_mut(from) else {
            return;
        };
        let acknowledged = progress.matched;
        progress.forget(agreed.next());
        if is_voter {
            self.outbox.event(Event::VoterForgot {
                id: from,
                acknowledged,
            });
        }
    }

    pub(crate) fn on_heartbeat_reply(
        &mut self,
        from: RaftId,
        envelope: &Envelope,
        reply: &HeartbeatReply,
    ) {
        let (now, last) = (self.now, self.log.last_index());
        let patience = self.config.heartbeat_interval * 2;
        let Some(progress) = self.hear(from, envelope) else {
            return;
        };
        progress.round = progress.round.max(reply.round);
        let stuck = progress.matched < last && progress.matched == progress.matched_at_heartbeat;
        progress.matched_at_heartbeat = progress.matched;
        match &mut progress.mode {
            Mode::Probe { waiting } => *waiting = false,
            Mode::Replicate { .. } if stuck => self.send_append(from, 0),
            Mode::Replicate { .. } => {}
            Mode::Snapshot { sent, .. } if now >= *sent + patience => self.send_chunk(from),
            Mode::Snapshot { .. } => {}
        }
    }

    pub(crate) fn on_snapshot_reply(
        &mut self,
        from: RaftId,
        envelope: &Envelope,
        reply: &SnapshotReply,
    ) {
        let Some(progress) = self.hear(from, envelope) else {
            return;
        };
        let Mode::Snapshot {
            snapshot, offset, ..
        } = &mut progress.mode
        else {
            return;
        };
        let total = snapshot.data_bytes();
        if snapshot.index != reply.index || reply.wanted >= total {
            return;
        }
        // Also backwards: the follower may have lost what it had, and then been sent the first pieces again by the network. An
        // answer that is late costs a piece too many, and the next one corrects it.
        if reply.wanted != *offset {
            *offset = reply.wanted;
            self.send_chunk(from);
        }
    }

    pub(crate) fn progress_mut(&mut self, id: RaftId) -> Option<&mut Progress> {
        match &mut self.standing {
            Standing::Leader(leader) => leader.followers.get_mut(id),
            _ => None,
        }
    }

    /// Notes that a follower answered, and whether with another disk than before.
    fn hear(&mut self, from: RaftId, envelope: &Envelope) -> Option<&mut Progress> {
        let (now, next) = (self.now, self.log.last_index().next());
        let meant = self.membership().incarnation(from);
        let progress = self.progress_mut(from)?;
        if progress.incarnation != Some(envelope.incarnation) {
            if progress.incarnation.is_some() {
                *progress = Progress::new(next, now);
            }
            progress.incarnation = Some(envelope.incarnation);
            if meant.is_some_and(|meant| meant != envelope.incarnation) {
                self.outbox.event(Event::VoterLostDisk { id: from });
            }
        }
        let progress = self.progress_mut(from)?;
        progress.contact = now;
        Some(progress)
    }

    /// Sends one message to a follower if one is due; returns whether another may be.
    fn send_next(&mut self, id: RaftId) -> bool {
        let (commit, last) = (self.commit(), self.log.last_index());
        let (messages_max, bytes_max) = (self.config.inflight_max, self.config.inflight_bytes_max);
        let entries_max = self.config.entries_per_append_max;
        let Some(progress) = self.progress_mut(id) else {
            return false;
        };
        match &mut progress.mode {
            Mode::Probe { waiting: true } | Mode::Snapshot { .. } => false,
            Mode::Probe { waiting } => {
                *waiting = true;
                self.send_append(id, entries_max);
                false
            }
            Mode::Replicate { inflight } => {
                let more = progress.next <= last;
                if more && inflight.has_room(messages_max, bytes_max) {
                    self.send_append(id, entries_max);
                    return true;
                }
                if progress.told_commit < progress.certain(commit) {
                    self.delay_commit();
                }
                false
            }
        }
    }

    /// Sends entries from the follower's next one on; a snapshot if they are gone.
    fn send_append(&mut self, id: RaftId, entries_max: usize) {
        let commit = self.commit();
        let bytes_max = self.config.append_bytes_max;
        let Some(progress) = self.progress_mut(id) else {
            return;
        };
        let (previous, incarnation) = (progress.next.previous(), progress.incarnation);
        let Some(previous_term) = self.log.term_at(previous) else {
            self.begin_snapshot(id);
            return;
        };
        let (entries, weight) = self.log.batch_after(previous, entries_max, bytes_max);
        if let Some(progress) = self.progress_mut(id) {
            let last = entries.last().map_or(previous, |entry| entry.index);
            progress.told_commit = progress.told_commit.max(commit.min(last));
            if let Mode::Replicate { inflight } = &mut progress.mode
                && last > previous
            {
                inflight.push(last, weight);
                progress.next = last.next();
            }
        }
        let append = Append {
            previous,
            previous_term,
            commit,
            entries,
        };
        self.send(id, incarnation, Body::Append(append));
    }

    /// Has followers told what is committed before long.
    fn delay_commit(&mut self) {
        let deadline = self.now + self.config.commit_delay;
        if let Standing::Leader(leader) = &mut self.standing {
            leader.commit_deadline.get_or_insert(deadline);
        }
    }

    pub(crate) fn tell_commit_if_due(&mut self) {
        if let Standing::Leader(leader) = &mut self.standing
            && leader
                .commit_deadline
                .is_some_and(|deadline| deadline <= self.now)
        {
            self.tell_commit();
        }
    }

    /// Tells each follower that what it holds is committed, if it was not told.
    pub(crate) fn tell_commit(&mut self) {
        let commit = self.commit();
        let mut at = 0;
        while let Standing::Leader(leader) = &mut self.standing
            && let Some(id) = leader.followers.id_at(at)
        {
            leader.commit_deadline = None;
            if let Some(progress) = leader.followers.get_mut(id)
                && progress.told_commit < progress.certain(commit)
            {
                let commit = progress.certain(commit);
                progress.told_commit = commit;
                let incarnation = progress.incarnation;
                self.send(id, incarnation, Body::Commit(Commit { commit }));
            }
            at += 1;
        }
    }

    fn begin_snapshot(&mut self, id: RaftId) {
        let (snapshot, sent) = (Arc::clone(self.log.snapshot()), self.now);
        if let Some(progress) = self.progress_mut(id) {
            progress.mode = Mode::Snapshot {
                snapshot,
                offset: 0,
                sent,
            };
            self.stats.snapshots_sent += 1;
            self.send_chunk(id);
        }
    }

    fn send_chunk(&mut self, id: RaftId) {
        let (now, length) = (self.now, self.config.snapshot_chunk_bytes_max);
        let Some(progress) = self.progress_mut(id) else {
            return;
        };
        let incarnation = progress.incarnation;
        let Mode::Snapshot {
            snapshot,
            offset,
            sent,
        } = &mut progress.mode
        else {
            return;
        };
        *sent = now;
        let start = usize::try_from(*offset)
            .unwrap_or(usize::MAX)
            .min(snapshot.data.len());
        let end = start.saturating_add(length).min(snapshot.data.len());
        let chunk = Chunk {
            index: snapshot.index,
            term: snapshot.term,
            membership: snapshot.membership.clone(),
            total_bytes: snapshot.data_bytes(),
            offset: *offset,
            data: snapshot.data.slice(start..end),
        };
        self.send(id, incarnation, Body::Chunk(Box::new(chunk)));
    }
}
