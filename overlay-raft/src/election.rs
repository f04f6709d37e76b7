//! Elections: pre-vote, vote, and the loyalty that a live leader may expect (Raft §5.2, thesis §4.2.3 and §9.6).

use std::collections::BTreeSet;

use overlay_core::Instant;

use crate::{
    Incarnation, Raft, RaftId, Term,
    planted::{self, Bug},
    raft::Standing,
    trace::TraceEvent,
    wire::{Body, Envelope, PreVote, PreVoteReply, Vote, VoteReply},
};

impl Raft {
    /// Campaigns at once instead of waiting for the election time-out. Does nothing on a leader, or on a member that has
    /// no vote in any membership that may turn out to hold.
    pub fn campaign(&mut self, now: Instant) {
        self.touch(now);
        if self.stopped || self.is_leader() || !self.may_campaign() {
            return;
        }
        self.start_pre_vote();
        self.unsettle();
    }

    /// Returns whether silence for an election time-out means something to this member, which does not lead.
    pub(crate) fn waits_for_leader(&self) -> bool {
        self.may_campaign() || self.leader().is_some()
    }

    /// Returns whether this member may be needed as a leader. So may one that its latest membership is without, as long
    /// as its removal is not committed: its log may be the only one that holds it. Its own vote counts as little as ever
    /// (thesis §4.2.2).
    pub(crate) fn may_campaign(&self) -> bool {
        let (id, incarnation) = (self.config.id, self.hard_state.incarnation);
        self.log
            .memberships_from(self.hard_state.commit)
            .any(|membership| membership.incarnation(id) == Some(incarnation))
    }

    /// Draws the consequence of that silence: whoever may not campaign only forgets the leader.
    pub(crate) fn miss_leader(&mut self) {
        if self.may_campaign() {
            self.start_pre_vote();
        } else {
            self.become_follower(self.hard_state.term, None);
        }
    }

    /// Puts the next election off by a random time (Raft §5.2).
    pub(crate) fn postpone_election(&mut self) {
        let least = self.config.election_timeout;
        self.election_deadline = self.now + self.rng.duration(least..least * 2);
    }

    /// Follows `leader`, or nobody, in `term`, which is not lower than the present one.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<RaftId>) {
        if term > self.hard_state.term {
            self.enter_term(term, None);
        }
        self.trace(|raft| TraceEvent::Follows {
            term: raft.term(),
            leader,
        });
        let was_follower = matches!(self.standing, Standing::Follower { .. });
        self.end_leadership();
        self.standing = Standing::Follower {
            leader,
            contact: self.now,
        };
        if !was_follower || leader.is_some() {
            self.postpone_election();
        }
        self.announce();
    }

    /// Asks whether an election would be won, without entering a new term (thesis §9.6).
    pub(crate) fn start_pre_vote(&mut self) {
        self.trace(|_| TraceEvent::AsksFirst);
        let round = self.rng.next_u64();
        self.standing = Standing::PreCandidate {
            round,
            granted: BTreeSet::from([self.config.id]),
        };
        self.stats.pre_votes += 1;
        // Asking costs no term, so it is repeated sooner than an election: others may have been loyal a moment longer.
        let most = self.config.election_timeout;
        self.election_deadline = self.now + self.rng.duration(most / 2..most);
        self.announce();
        let body = Body::PreVote(PreVote {
            round,
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
        });
        self.ask_voters(&body);
        self.count_pre_votes();
    }

    /// Enters a new term and asks to be elected (Raft §5.2), unless it vowed not to.
    pub(crate) fn start_vote(&mut self, transfer: bool) {
        let is_vowed = self.is_vowed() && !transfer;
        let is_alone = self.membership().is_sole_voter(self.config.id);
        if self.hard_state.term >= Term::MAX || (is_vowed && !is_alone) {
            return;
        }
        self.enter_term(self.hard_state.term.next(), Some(self.config.id));
        self.trace(|raft| TraceEvent::Campaigns { term: raft.term() });
        self.standing = Standing::Candidate {
            granted: BTreeSet::new(),
            ticket: self.writes.required(self.log.last_index()),
        };
        self.stats.elections += 1;
        self.postpone_election();
        self.announce();
        let body = Body::Vote(Vote {
            last_index: self.log.last_index(),
            last_term: self.log.last_term(),
            transfer,
        });
        self.ask_voters(&body);
    }

    /// Counts the own vote once it is durable.
    pub(crate) fn count_own_vote(&mut self) {
        let (id, done) = (self.config.id, self.writes.done());
        if let Standing::Candidate { granted, ticket } = &mut self.standing
            && *ticket <= done
            && granted.insert(id)
        {
            self.count_votes();
        }
    }

    pub(crate) fn on_pre_vote(&mut self, from: RaftId, envelope: &Envelope, body: &PreVote) {
        if self.is_loyal() {
            return;
        }
        let granted = envelope.term >= self.hard_state.term
            && self.is_meant(envelope)
            && self.log.is_up_to_date(body.last_index, body.last_term);
        let reply = PreVoteReply {
            round: body.round,
            granted,
        };
        self.send(from, None, Body::PreVoteReply(reply));
    }

    /// Tells a candidate of an earlier term about the present one.
    pub(crate) fn refuse_stale_pre_vote(&mut self, from: RaftId, body: &PreVote) {
        let reply = PreVoteReply {
            round: body.round,
            granted: false,
        };
        self.send(from, None, Body::PreVoteReply(reply));
    }

    pub(crate) fn on_pre_vote_reply(
        &mut self,
        from: RaftId,
        envelope: &Envelope,
        body: &PreVoteReply,
    ) {
        if !body.granted {
            if envelope.term > self.hard_state.term {
                self.become_follower(envelope.term, None);
            }
            return;
        }
        let counts = self.is_from_voter(from, envelope);
        if let Standing::PreCandidate { round, granted } = &mut self.standing
            && *round == body.round
            && counts
            && granted.insert(from)
        {
            self.count_pre_votes();
        }
    }

    /// Answers a candidate of the present term.
    pub(crate) fn on_vote(&mut self, from: RaftId, envelope: &Envelope, body: &Vote) {
        let free =
            self.hard_state.vote.is_none_or(|vote| vote == from) || planted::has(Bug::VotesTwice);
        let granted = free
            && (!self.is_vowed() || body.transfer)
            && self.leader().is_none()
            && self.is_meant(envelope)
            && (self.log.is_up_to_date(body.last_index, body.last_term)
                || planted::has(Bug::VotesForAnyLog));
        if granted {
            if self.hard_state.vote != Some(from) {
                self.hard_state.vote = Some(from);
                self.note_vote();
                self.trace(|raft| TraceEvent::Votes {
                    term: raft.term(),
                    candidate: from,
                });
            }
            self.postpone_election();
        }
        self.send(from, None, Body::VoteReply(VoteReply { granted }));
    }

    pub(crate) fn on_vote_reply(&mut self, from: RaftId, envelope: &Envelope, body: &VoteReply) {
        let counts = body.granted && self.is_from_voter(from, envelope);
        if let Standing::Candidate { granted, .. } = &mut self.standing
            && counts
            && granted.insert(from)
        {
            self.count_votes();
        }
    }

    /// Returns whether a leader is alive, so that other candidates are not listened to (thesis §4.2.3).
    pub(crate) fn is_loyal(&self) -> bool {
        self.is_vowed() || self.hears_leader()
    }

    /// Returns whether a leader may rely on this member's vow.
    fn is_vowed(&self) -> bool {
        self.now < self.vow_until && !planted::has(Bug::BreaksItsVow)
    }

    fn hears_leader(&self) -> bool {
        match &self.standing {
            Standing::Leader(_) => true,
            Standing::Follower {
                leader: Some(_),
                contact,
            } => self.now < *contact + self.config.election_timeout,
            Standing::Follower { leader: None, .. }
            | Standing::PreCandidate { .. }
            | Standing::Candidate { .. } => false,
        }
    }

    /// Enters a higher term; `vote` is only ever this member itself.
    fn enter_term(&mut self, term: Term, vote: Option<RaftId>) {
        debug_assert!(term > self.hard_state.term, "terms only rise");
        self.hard_state.term = term;
        self.hard_state.vote = vote;
        self.note_vote();
        self.outbox.forget_withheld();
        self.accepted = None;
        self.incoming = None;
    }

    /// Has term and vote written before anything that follows from them is said.
    fn note_vote(&mut self) {
        if !planted::has(Bug::ForgetsItsVote) {
            self.writes.note_hard_state();
        }
    }

    /// Sends `body` to each other voter, naming the incarnation whose vote would count.
    fn ask_voters(&mut self, body: &Body) {
        let membership = self.membership();
        let others: Vec<(RaftId, Option<Incarnation>)> = membership
            .members()
            .filter(|id| *id != self.config.id && membership.is_voter(*id))
            .map(|id| (id, membership.incarnation(id)))
            .collect();
        for (id, incarnation) in others {
            self.send(id, incarnation, body.clone());
        }
    }

    fn count_pre_votes(&mut self) {
        if let Standing::PreCandidate { granted, .. } = &self.standing
            && self.membership().has_quorum(|id, _| granted.contains(&id))
        {
            self.start_vote(false);
        }
    }

    fn count_votes(&mut self) {
        if let Standing::Candidate { granted, .. } = &self.standing
            && self.membership().has_quorum(|id, _| granted.contains(&id))
        {
            self.become_leader();
        }
    }

    /// Returns whether the sender means this very incarnation of this member. The candidate's membership decides who
    /// votes, not the voter's, which may lag; but a disk that forgot its votes is somebody else.
    fn is_meant(&self, envelope: &Envelope) -> bool {
        envelope.means == Some(self.hard_state.incarnation) || planted::has(Bug::TrustsLostDisks)
    }

    /// Returns whether a vote from this sender counts in the membership in force.
    fn is_from_voter(&self, from: RaftId, envelope: &Envelope) -> bool {
        let meant = self.membership().incarnation(from);
        meant == Some(envelope.incarnation)
            || (meant.is_some() && planted::has(Bug::TrustsLostDisks))
    }

    /// Gives up what only a leader has. Reads that wait are lost.
    fn end_leadership(&mut self) {
        self.lose_own_reads();
    }
}
