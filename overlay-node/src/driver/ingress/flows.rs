//! The flows of a published UDP port: who asked lately, and what carries it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::Instant;

/// A bounded table of flows by their clients. The one whose client was silent for longest gives way to a new one.
#[derive(Debug)]
pub(super) struct Flows<K, T> {
    by_client: BTreeMap<K, (Instant, T)>,
    by_use: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord, T> Flows<K, T> {
    pub(super) fn new() -> Self {
        Self {
            by_client: BTreeMap::new(),
            by_use: BTreeSet::new(),
        }
    }

    /// Notes that a client has sent something, and returns its flow.
    pub(super) fn handle_use(&mut self, now: Instant, client: K) -> Option<&mut T> {
        let (used, flow) = self.by_client.get_mut(&client)?;
        self.by_use.remove(&(*used, client));
        *used = now.max(*used);
        self.by_use.insert((*used, client));
        Some(flow)
    }

    /// Puts a flow in place of the client's former one. If the table is full, the one that was used least lately ends.
    pub(super) fn insert(&mut self, now: Instant, client: K, flow: T) {
        self.remove(client);
        if self.by_client.len() >= FLOWS_MAX {
            self.end_oldest(|_| true);
        }
        self.by_client.insert(client, (now, flow));
        self.by_use.insert((now, client));
    }

    /// Ends the flow that was used least lately of those that fit; returns whether there is one.
    pub(super) fn end_oldest(&mut self, mut fits: impl FnMut(&T) -> bool) -> bool {
        let mut oldest = self.by_use.iter().map(|(_, client)| *client);
        let found = oldest.find(|client| {
            let flow = self.by_client.get(client);
            flow.is_some_and(|(_, flow)| fits(flow))
        });
        found.is_some_and(|client| self.remove(client).is_some())
    }

    /// Ends the flows that nobody used for [`IDLE`]. Those of which `is_used` knows better stay for another such time.
    pub(super) fn handle_timeout(&mut self, now: Instant, mut is_used: impl FnMut(&T) -> bool) {
        while let Some((used, client)) = self.by_use.first().copied() {
            if used + IDLE > now {
                return;
            }
            match self.remove(client) {
                Some(flow) if is_used(&flow) => self.insert(now, client, flow),
                _ => {}
            }
        }
    }

    /// Keeps the flows that fit.
    pub(super) fn retain(&mut self, mut fits: impl FnMut(&T) -> bool) {
        self.by_client.retain(|client, (used, flow)| {
            let stays = fits(flow);
            if !stays {
                self.by_use.remove(&(*used, *client));
            }
            stays
        });
    }

    /// Returns when a flow has been idle for too long.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.by_use.first().map(|(used, _)| *used + IDLE)
    }

    fn remove(&mut self, client: K) -> Option<T> {
        let (used, flow) = self.by_client.remove(&client)?;
        self.by_use.remove(&(used, client));
        Some(flow)
    }
}

/// How many clients a published port serves at a time.
pub(super) const FLOWS_MAX: usize = 1_024;
/// How long a flow stays when nothing comes. Docker's is 300 s (IPVS); most UDP protocols ask once, and each flow to another
/// node is a connection.
pub(super) const IDLE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_idle_flow_ends_and_one_that_is_used_stays() {
        let mut flows = Flows::new();
        let start = Instant::EPOCH;
        assert_eq!(flows.poll_timeout(), None);
        for client in 0..3 {
            flows.insert(start, client, client);
        }
        let later = start + SECOND;
        assert_eq!(flows.handle_use(later, 1), Some(&mut 1));
        assert_eq!(flows.handle_use(later, 7), None);
        assert_eq!(flows.poll_timeout(), Some(start + IDLE));
        flows.handle_timeout(start + IDLE - SECOND, |_| false);
        assert_eq!(clients(&flows), [0, 1, 2], "none is idle for so long");
        // The task of the third still answers, though its client is silent.
        flows.handle_timeout(start + IDLE, |flow| *flow == 2);
        assert_eq!(clients(&flows), [1, 2]);
        assert_eq!(flows.poll_timeout(), Some(later + IDLE));
        flows.handle_timeout(start + IDLE + IDLE, |_| false);
        assert_eq!(clients(&flows), [0; 0]);
        assert_eq!(flows.poll_timeout(), None);
    }

    #[test]
    fn the_flow_that_was_used_least_lately_gives_way() {
        let mut flows = Flows::new();
        let mut now = Instant::EPOCH;
        for client in 0..FLOWS_MAX {
            now += SECOND / 1_000;
            flows.insert(now, client, client);
        }
        now += SECOND;
        flows.handle_use(now, 0);
        flows.insert(now, FLOWS_MAX, FLOWS_MAX);
        assert_eq!(flows.by_client.len(), FLOWS_MAX);
        assert_eq!(flows.handle_use(now, 1), None);
        assert!(flows.handle_use(now, 0).is_some());
        // One's own former flow gives way first.
        flows.insert(now, 2, 77);
        assert_eq!(flows.by_client.len(), FLOWS_MAX);
        assert_eq!(flows.handle_use(now, 2), Some(&mut 77));
        // The oldest of a kind: 4 is the first even one that was not used.
        assert!(flows.end_oldest(|flow| flow % 2 == 0));
        assert_eq!(flows.handle_use(now, 4), None);
        assert!(!flows.end_oldest(|_| false));
        assert_eq!(flows.by_use.len(), flows.by_client.len());
    }

    #[test]
    fn flows_end_with_what_carries_them() {
        let mut flows = Flows::new();
        let now = Instant::EPOCH;
        for client in 0..6 {
            flows.insert(now, client, client % 2);
        }
        flows.retain(|flow| *flow == 1);
        assert_eq!(clients(&flows), [1, 3, 5]);
        assert_eq!(flows.by_use.len(), 3);
    }

    #[test]
    fn time_that_goes_back_harms_nothing() {
        let mut flows = Flows::new();
        let now = Instant::EPOCH + IDLE;
        flows.insert(now, 1, 1);
        flows.handle_use(Instant::EPOCH, 1);
        flows.handle_timeout(Instant::EPOCH, |_| false);
        assert_eq!(flows.poll_timeout(), Some(now + IDLE));
        assert_eq!(flows.by_use.len(), 1);
    }

    fn clients(flows: &Flows<usize, usize>) -> Vec<usize> {
        flows.by_client.keys().copied().collect()
    }
}
