//! Who is in the consensus: what the state says of it, brought about one step at a time, and what must not be taken from it.

use std::collections::BTreeSet;

use overlay_core::{Instant, NodeId};
use overlay_raft::{Change, RaftId};

use super::Manager;
use crate::{
    api::{self, ErrorKind, Role},
    state::{Command, CommandError},
};

impl Manager {
    /// Returns whose part in the consensus this is, or was as long as it counts.
    pub(crate) fn node_of(&self, raft: RaftId) -> Option<NodeId> {
        let present = self.state.voters().map(|(id, node)| (id, node.id));
        let former = self
            .state
            .former()
            .iter()
            .map(|(id, part)| (*id, part.node));
        present
            .chain(former)
            .find(|(id, _)| *id == raft)
            .map(|(_, node)| node)
    }

    /// Returns whether a node may speak for this part in the consensus: its own, or one that this manager has not heard of yet.
    pub(crate) fn may_speak_for(&self, node: NodeId, part: RaftId) -> bool {
        match self.node_of(part) {
            Some(known) => known == node,
            None => !self.state.is_retired(part),
        }
    }

    /// Brings the consensus' membership one step nearer to what the state says.
    pub(super) fn reconcile_membership(&mut self, now: Instant) {
        let wanted: BTreeSet<_> = self.state.voters().map(|(id, _)| id).collect();
        let membership = self.raft.membership();
        let voters: BTreeSet<_> = membership.voters().collect();
        let learners: BTreeSet<_> = membership.learners().collect();
        if wanted.is_empty() {
            return;
        }
        let present: BTreeSet<_> = voters.union(&learners).copied().collect();
        let add = wanted.difference(&present).copied().map(Change::AddLearner);
        let promote = wanted.intersection(&learners).copied().map(Change::Promote);
        let others = present.difference(&wanted).copied();
        let remove = others
            .filter(|id| *id != self.raft_id)
            .map(Change::Remove)
            .collect::<Vec<_>>();
        // Refused while another change is under way or a learner lags: that one must not keep the others back.
        for change in add.chain(remove).chain(promote) {
            if self.raft.change(now, &[change]).is_ok() {
                return;
            }
        }
        if present.contains(&self.raft_id) && !wanted.contains(&self.raft_id) {
            // The next leader takes this manager out; if there is no other, nobody can.
            self.hand_over(now);
        }
    }

    /// Lets go of former parts that the membership is without. The command follows the change of membership in the log:
    /// once it is applied, that change is committed.
    pub(super) fn retire_parts(&mut self, now: Instant) {
        let membership = self.raft.membership();
        let parts: Vec<_> = self
            .state
            .former()
            .keys()
            .copied()
            .filter(|part| !membership.contains(*part))
            .collect();
        if parts.is_empty() {
            return;
        }
        let command = Command::RetireParts { parts };
        self.retiring = self.propose_once(now, self.retiring, command);
    }

    /// Returns whether the consensus may still count on the vote of a part that the node shall have no more.
    pub(super) fn is_awaited(&self, node: NodeId) -> bool {
        self.state.former().values().any(|part| part.node == node)
    }

    /// Returns whether a node that left must not hear of it yet: it would stop voting while its vote counts. It asks again.
    pub(super) fn keeps_silent(&self, origin: NodeId) -> bool {
        !self.state.nodes().contains_key(&origin) && self.is_awaited(origin)
    }

    pub(super) fn takes_manager(&self, command: &Command) -> bool {
        let node = match command {
            Command::RemoveNode { node } => node,
            Command::SetRole { node, role } if *role == Role::Worker => node,
            Command::UpdateNode { node, change } if change.role == Some(Role::Worker) => node,
            _ => return false,
        };
        let record = self.state.nodes().get(node);
        record.is_some_and(|record| record.raft.is_some())
    }

    /// Whether a manager may be on its way out that the state still has.
    pub(super) fn is_parting(&self) -> bool {
        let under_way = |request| self.proposals.contains_key(request);
        !self.is_current() || self.parting.as_ref().is_some_and(under_way)
    }

    pub(super) fn leave(&self, origin: NodeId, force: bool) -> Result<Command, api::Error> {
        let record = self.state.nodes().get(&origin);
        let record = record.ok_or(CommandError::UnknownNode { node: origin })?;
        if record.raft.is_some() && !force {
            let managers = self.state.voters().count();
            let text = format!(
                "this node is one of {managers} manager(s): demote it first, or use --force; \
                 {} would have to stay up for a quorum",
                quorum(managers.saturating_sub(1))
            );
            return Err(api::Error::new(ErrorKind::QuorumLoss, text));
        }
        let votes = |part| self.raft.membership().is_voter(part);
        let others = self.state.voters().filter(|(_, node)| node.id != origin);
        let (ready, coming): (Vec<_>, Vec<_>) = others.partition(|(part, _)| votes(*part));
        if record.raft.is_some() && ready.is_empty() && !coming.is_empty() {
            // Nobody would listen to a node that is none of the cluster's, and nobody else has the state.
            let text = format!(
                "the cluster's state is on this manager alone: wait until it is on {} as well, or demote what does not come",
                coming[0].1.hostname
            );
            return Err(api::Error::new(ErrorKind::QuorumLoss, text));
        }
        Ok(Command::RemoveNode { node: origin })
    }

    pub(super) fn remove(
        &self,
        now: Instant,
        node: &str,
        force: bool,
    ) -> Result<Command, api::Error> {
        let node = self.find_node(node)?;
        let record = self
            .state
            .nodes()
            .get(&node)
            .ok_or(CommandError::UnknownNode { node })?;
        if record.raft.is_some() && !force {
            return Err(CommandError::IsManager { node }.into());
        }
        if self.is_heard(now, node) && !force {
            let text = format!(
                "node {node} ({}) is not down: run `leave` on it first, or use --force",
                record.hostname
            );
            return Err(api::Error::new(ErrorKind::InUse, text));
        }
        self.keeps_quorum(now, node)?;
        Ok(Command::RemoveNode { node })
    }

    /// Refuses to take a manager away if those left that answer would be no quorum.
    pub(super) fn keeps_quorum(&self, now: Instant, without: NodeId) -> Result<(), api::Error> {
        let (votes, rest): (Vec<_>, Vec<_>) = self
            .state
            .voters()
            .filter(|(part, _)| self.raft.membership().is_voter(*part))
            .map(|(_, node)| node.id)
            .partition(|node| *node == without);
        if votes.is_empty() {
            return Ok(());
        }
        let own = self.config.node;
        let heard = rest
            .iter()
            .filter(|node| **node == own || self.is_heard(now, **node))
            .count();
        if heard < quorum(rest.len()) {
            let text = format!(
                "only {heard} of the {} managers left would answer, and {} are needed for a quorum: \
                 bring managers back or add one first",
                rest.len(),
                quorum(rest.len())
            );
            return Err(api::Error::new(ErrorKind::QuorumLoss, text));
        }
        Ok(())
    }
}

fn quorum(managers: usize) -> usize {
    managers / 2 + 1
}
