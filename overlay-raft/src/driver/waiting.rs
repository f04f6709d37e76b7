//! Who waits for what.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::{
    Application, Applied, HandOverError, MembershipError, ProposalError, QueryError, member::Then,
};
use crate::{ApplyBatch, Index, ProposalId, Raft, RaftId, ReadId};

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// Everything that the machine took and did not decide yet. Replies to whoever has gone are lost, which is as well.
pub(super) struct Waiting<A: Application> {
    proposals: BTreeMap<ProposalId, Reply<Applied<A::Answer>, ProposalError>>,
    changes: BTreeMap<ProposalId, Reply<Index, MembershipError>>,
    /// Changes whose first step is committed.
    finishing: Vec<(Index, Reply<Index, MembershipError>)>,
    reads: BTreeMap<ReadId, Then<A>>,
    transfers: Vec<Reply<(), HandOverError>>,
}

impl<A: Application> Waiting<A> {
    pub(super) fn new() -> Self {
        Self {
            proposals: BTreeMap::new(),
            changes: BTreeMap::new(),
            finishing: Vec::new(),
            reads: BTreeMap::new(),
            transfers: Vec::new(),
        }
    }

    pub(super) fn proposal(
        &mut self,
        id: ProposalId,
        reply: Reply<Applied<A::Answer>, ProposalError>,
    ) {
        self.proposals.insert(id, reply);
    }

    pub(super) fn change(&mut self, id: ProposalId, reply: Reply<Index, MembershipError>) {
        self.changes.insert(id, reply);
    }

    pub(super) fn read(&mut self, id: ReadId, then: Then<A>) {
        self.reads.insert(id, then);
    }

    pub(super) fn transfer(&mut self, reply: Reply<(), HandOverError>) {
        self.transfers.push(reply);
    }

    /// Applies what is committed, and answers those who proposed it.
    pub(super) fn apply(&mut self, application: &mut A, batch: &ApplyBatch) {
        for committed in batch.iter() {
            let index = committed.index;
            let answer = application.apply(index, committed.command);
            let id = ProposalId {
                term: committed.term,
                index,
            };
            if let Some(reply) = self.proposals.remove(&id) {
                let _ = reply.send(Ok(Applied { index, answer }));
            }
        }
    }

    pub(super) fn change_committed(&mut self, id: ProposalId) {
        let reply = self.changes.remove(&id);
        self.finishing.extend(reply.map(|reply| (id.index, reply)));
    }

    /// Answers those whose changes are over: a joint membership is left by whoever leads.
    pub(super) fn finish_changes(&mut self, raft: &Raft) {
        if raft.is_membership_committed() && !raft.membership().is_joint() {
            for (index, reply) in self.finishing.drain(..) {
                let _ = reply.send(Ok(index));
            }
        }
    }

    pub(super) fn read_ready(&mut self, application: &A, id: ReadId, index: Index) {
        if let Some(then) = self.reads.remove(&id) {
            then(application, Ok(index));
        }
    }

    pub(super) fn read_lost(&mut self, application: &A, id: ReadId) {
        if let Some(then) = self.reads.remove(&id) {
            then(application, Err(QueryError::Lost));
        }
    }

    pub(super) fn proposal_lost(&mut self, id: ProposalId) {
        if let Some(reply) = self.proposals.remove(&id) {
            let _ = reply.send(Err(ProposalError::Lost));
        }
        if let Some(reply) = self.changes.remove(&id) {
            let _ = reply.send(Err(MembershipError::Lost));
        }
    }

    pub(super) fn proposal_unknown(&mut self, id: ProposalId) {
        if let Some(reply) = self.proposals.remove(&id) {
            let _ = reply.send(Err(ProposalError::Unknown));
        }
        if let Some(reply) = self.changes.remove(&id) {
            let _ = reply.send(Err(MembershipError::Unknown));
        }
    }

    /// Another member leads.
    pub(super) fn transferred(&mut self) {
        for reply in self.transfers.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    pub(super) fn transfer_failed(&mut self, to: RaftId) {
        for reply in self.transfers.drain(..) {
            let _ = reply.send(Err(HandOverError::TimedOut { to }));
        }
    }
}
