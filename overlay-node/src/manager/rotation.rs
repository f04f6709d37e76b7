//! Keys and authorities that are replaced while everything goes on: the leader sees to it.

use std::time::Duration;

use overlay_core::{Instant, NodeId};

use super::Manager;
use crate::{
    identity::ca_digest,
    state::{Command, Proposal, RequestId, Secret},
};

impl Manager {
    /// Replaces the oldest shared key when the newest is old enough, or at once if somebody has the keys who shall not.
    ///
    /// The age counts from when the newest one was added, whoever led then. After a removal the next change waits until all
    /// agents that are there have the last one, so that everybody understands everybody all along.
    pub(super) fn rotate_keys(&mut self, now: Instant) {
        let Some(cluster) = self.state.cluster() else {
            return;
        };
        let (keys, period_ms) = (&cluster.keys, cluster.settings.key_rotation_ms);
        let unix_ms = self.unix_ms(now);
        // A clock that was set back must not keep a key for as long as it was wrong.
        let is_old = unix_ms.abs_diff(keys.rotated_unix_ms) >= period_ms;
        let is_spread = self.is_spread(now, keys.rotated_at)
            || unix_ms.abs_diff(keys.rotated_unix_ms) >= as_ms(SPREAD_MAX);
        if !(is_old || keys.due > 0 && is_spread) {
            return;
        }
        let generation = keys.generation;
        let gossip = Secret::random(&mut self.rng);
        let command = Command::RotateKeys { generation, gossip };
        self.rotating = self.propose_once(now, self.rotating, command);
    }

    /// Drops the former authority once every node has a certificate of the next one.
    pub(super) fn finish_authority(&mut self, now: Instant) {
        let cluster = self.state.cluster();
        let next = cluster.and_then(|cluster| cluster.next_authority.as_deref());
        let Some(next) = next else { return };
        let digest = ca_digest(&next.certificate);
        if self.awaited_by_authority().next().is_none() {
            let command = Command::FinishAuthority { digest };
            self.rotating = self.propose_once(now, self.rotating, command);
        }
    }

    /// Returns the nodes that have no certificate of the authority that signs.
    pub(super) fn awaited_by_authority(&self) -> impl Iterator<Item = NodeId> + '_ {
        let issuer = self.state.issuer();
        let nodes = self.state.nodes().values();
        nodes
            .filter(move |node| node.issuer != issuer)
            .map(|node| node.id)
    }

    /// Returns the Unix time in milliseconds.
    pub(super) fn unix_ms(&self, now: Instant) -> u64 {
        as_ms(self.config.unix_epoch).saturating_add(now.as_millis())
    }

    /// Returns whether all agents that are there have what was true at `index`.
    fn is_spread(&self, now: Instant, index: u64) -> bool {
        let mut heard = self.sessions.iter();
        heard.all(|(node, session)| !self.is_heard(now, *node) || session.acknowledged >= index)
    }

    /// Proposes a command, unless the request that did so before is still under way.
    pub(super) fn propose_once(
        &mut self,
        now: Instant,
        before: Option<RequestId>,
        command: Command,
    ) -> Option<RequestId> {
        if before.is_some_and(|request| self.proposals.contains_key(&request)) {
            return before;
        }
        let (own, request) = (self.config.node, RequestId::random(&mut self.rng));
        let proposal = Proposal::new(&self.config, now, own, request, command);
        self.propose(now, &proposal).then_some(request)
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long a change of keys waits for agents that are there and do not say that they have the last one.
const SPREAD_MAX: Duration = Duration::from_secs(10);
