//! What a leader knows about one follower (Raft figure 2: `nextIndex`, `matchIndex`), and how it sends to it.

use std::{collections::VecDeque, sync::Arc};

use overlay_core::Instant;

use crate::{
    Incarnation, Index, RaftId, Snapshot,
    planted::{self, Bug},
};

/// What the leader knows about all the others, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followers(Vec<(RaftId, Progress)>);

impl Followers {
    pub(crate) fn get(&self, id: RaftId) -> Option<&Progress> {
        let at = self.position(id).ok()?;
        self.0.get(at).map(|(_, progress)| progress)
    }

    pub(crate) fn get_mut(&mut self, id: RaftId) -> Option<&mut Progress> {
        let at = self.position(id).ok()?;
        self.0.get_mut(at).map(|(_, progress)| progress)
    }

    /// Returns who has the place `at`.
    pub(crate) fn id_at(&self, at: usize) -> Option<RaftId> {
        self.0.get(at).map(|(id, _)| *id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RaftId, &Progress)> {
        self.0.iter().map(|(id, progress)| (*id, progress))
    }

    pub(crate) fn retain(&mut self, mut wanted: impl FnMut(RaftId, &mut Progress) -> bool) {
        self.0.retain_mut(|(id, progress)| wanted(*id, progress));
    }

    pub(crate) fn add(&mut self, id: RaftId, progress: impl FnOnce() -> Progress) {
        if let Err(at) = self.position(id) {
            self.0.insert(at, (id, progress()));
        }
    }

    fn position(&self, id: RaftId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&id, |(other, _)| *other)
    }
}

/// What the leader knows about one follower.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) mode: Mode,
    /// The last entry that the follower holds durably.
    pub(crate) matched: Index,
    /// The next entry to send.
    pub(crate) next: Index,
    /// The commit index that it was last told.
    pub(crate) told_commit: Index,
    /// The incarnation that it answered with; `None` before the first answer.
    pub(crate) incarnation: Option<Incarnation>,
    /// When it last answered.
    pub(crate) contact: Instant,
    /// The last heartbeat round that it acknowledged.
    pub(crate) round: u64,
    /// What was matched at the last acknowledged heartbeat: without progress since, something was lost.
    pub(crate) matched_at_heartbeat: Index,
    /// Refusals in a row of the very entry that it had acknowledged, each in another round of heartbeats; and the round of the
    /// last one.
    contradictions: (u32, u64),
    /// It holds less than it had acknowledged, which was up to here: its word counts for nothing.
    forgot: bool,
    /// It is no member any more: where that is in the log, and until when it is waited for to hear of it.
    parting: Option<(Index, Instant)>,
}

/// How entries are sent to a follower.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// One message at a time, until it is known where the logs agree.
    Probe {
        /// A message is on its way.
        waiting: bool,
    },
    /// Several messages at a time.
    Replicate { inflight: Inflight },
    /// A snapshot, piece by piece.
    Snapshot {
        snapshot: Arc<Snapshot>,
        /// Where the piece begins that is on its way.
        offset: u64,
        sent: Instant,
    },
}

/// Messages with entries that are on their way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflight {
    /// The last index of each, and its weight.
    messages: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Inflight {
    pub(crate) fn push(&mut self, last: Index, bytes: u64) {
        self.messages.push_back((last, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Forgets what arrived.
    pub(crate) fn arrived(&mut self, matched: Index) {
        while let Some(&(last, bytes)) = self.messages.front()
            && last <= matched
        {
            self.messages.pop_front();
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    pub(crate) fn has_room(&self, messages_max: usize, bytes_max: u64) -> bool {
        self.messages.len() < messages_max && (self.bytes < bytes_max || self.messages.is_empty())
    }
}

/// How a leader sends to a follower, as [`Raft::followers`](crate::Raft::followers) shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Sending {
    /// It looks for the point where the logs agree.
    Probe,
    /// It sends entries as they come.
    Replicate,
    /// It sends a snapshot.
    Snapshot {
        /// Octets that the follower has acknowledged.
        sent_bytes: u64,
        /// The size of the whole.
        total_bytes: u64,
    },
}

/// What a leader knows about one follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FollowerStatus {
    /// Who.
    pub id: RaftId,
    /// Whether it votes.
    pub is_voter: bool,
    /// The last entry that it holds durably.
    pub matched: Index,
    /// How it is sent to.
    pub sending: Sending,
    /// When it last answered.
    pub contact: Instant,
    /// Whether it answers with another disk than the one that was promoted; it has no vote then.
    pub lost_disk: bool,
}

impl Progress {
    /// Starts to probe at `next`.
    pub(crate) fn new(next: Index, now: Instant) -> Self {
        Self {
            mode: Mode::Probe { waiting: false },
            matched: Index::ZERO,
            next,
            told_commit: Index::ZERO,
            incarnation: None,
            contact: now,
            round: 0,
            matched_at_heartbeat: Index::ZERO,
            contradictions: (0, 0),
            forgot: false,
            parting: None,
        }
    }

    /// Notes that the follower refused the very entry that it had acknowledged; returns whether that is proof by now that it
    /// lost it. What the network repeats may be one such answer, or two: not one in each of several rounds.
    pub(crate) fn contradict(&mut self) -> bool {
        // It is asked again after the next heartbeat, not at once.
        self.mode = Mode::Probe { waiting: true };
        let (count, round) = self.contradictions;
        if self.round > round {
            self.contradictions = (count + 1, self.round);
        }
        self.contradictions.0 >= CONTRADICTIONS_MIN
    }

    /// Takes back what the follower acknowledged and lost.
    pub(crate) fn forget(&mut self, next: Index) {
        self.forgot = true;
        self.contradictions = (0, self.round);
        self.matched = Index::ZERO;
        self.told_commit = Index::ZERO;
        self.probe(next);
    }

    /// Notes that it has no vote, and so none that was given for something that it lost.
    pub(crate) fn lose_vote(&mut self) {
        self.forgot = false;
    }

    /// Notes that it is a member.
    pub(crate) fn stay(&mut self) {
        self.parting = None;
    }

    /// Notes that it is no member any more, by the committed membership at `index`; returns whether it has yet to hear of that,
    /// which is waited for until `until`.
    pub(crate) fn part(&mut self, index: Index, now: Instant, until: Instant) -> bool {
        let (index, until) = *self.parting.get_or_insert((index, until));
        self.told_commit < index && now < until
    }

    /// Returns whether the follower's answers come from the incarnation that the membership means.
    ///
    /// `expected` is `None` for a learner, whose acknowledgements count nowhere.
    pub(crate) fn counts(&self, expected: Incarnation) -> bool {
        let is_meant = self.incarnation == Some(expected) || planted::has(Bug::TrustsLostDisks);
        is_meant && !self.forgot
    }

    /// Returns whether the disk of a voter is known not to be the one that was promoted, or not to hold what it held.
    pub(crate) fn lost_disk(&self, expected: Incarnation) -> bool {
        self.forgot || self.incarnation.is_some_and(|found| found != expected)
    }

    /// Goes back to probing, at `next`.
    pub(crate) fn probe(&mut self, next: Index) {
        self.mode = Mode::Probe { waiting: false };
        self.next = next.max(self.matched.next());
    }

    /// Notes that the follower holds everything up to `matched`.
    pub(crate) fn accept(&mut self, matched: Index) {
        self.contradictions = (0, self.round);
        self.matched = self.matched.max(matched);
        self.next = self.next.max(self.matched.next());
        match &mut self.mode {
            Mode::Probe { .. } => {
                self.mode = Mode::Replicate {
                    inflight: Inflight::default(),
                };
                self.next = self.matched.next();
            }
            Mode::Replicate { inflight } => {
                inflight.arrived(matched);
            }
            Mode::Snapshot { .. } => {}
        }
    }

    /// Returns the commit index that may be told without entries: nothing that the follower may not hold.
    pub(crate) fn certain(&self, commit: Index) -> Index {
        self.matched.min(commit)
    }

    pub(crate) fn sending(&self) -> Sending {
        match &self.mode {
            Mode::Probe { .. } => Sending::Probe,
            Mode::Replicate { .. } => Sending::Replicate,
            Mode::Snapshot {
                snapshot, offset, ..
            } => Sending::Snapshot {
                sent_bytes: *offset,
                total_bytes: snapshot.data_bytes(),
            },
        }
    }
}

/// Rounds of heartbeats in which a follower must contradict itself.
const CONTRADICTIONS_MIN: u32 = 3;
