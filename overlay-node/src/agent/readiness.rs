//! When an endpoint is ready: its port is made, the tables of its network have come, and the system carries what they say.
//! A program that is started before finds neither the names nor the ways that were there when it was asked for.

use std::time::Duration;

use overlay_core::{EndpointId, Instant, NetworkId, plane::DataPath};

use super::{Agent, LocalEndpoint, PortState};

impl Agent {
    /// Takes the word of gossip that the tables of a network have come.
    pub(crate) fn handle_synced(&mut self, network: NetworkId) {
        if self.fetching.remove(&network).is_none() {
            return;
        }
        let on = |local: &&LocalEndpoint| local.assigned.record.network == network;
        let on = self.endpoints.values().filter(on);
        let on: Vec<EndpointId> = on.map(|local| local.assigned.record.id).collect();
        for endpoint in on {
            self.put_row(endpoint);
        }
    }

    /// Goes on with what runs since a former life: others rely on it, and it waits for nobody.
    pub(super) fn take_up(&mut self) {
        self.fetching.clear();
        for local in self.endpoints.values_mut() {
            local.fresh = false;
        }
    }

    /// Ends the waiting for tables that did not come: they come when they come.
    pub(super) fn stop_fetching(&mut self, now: Instant) {
        self.fetching.retain(|_, until| *until > now);
    }

    /// Declares endpoints ready whose way is whole; returns whether there were any. `ordered` is the data plane that was
    /// ordered last, and `carried` the last that the system carries.
    pub(crate) fn settle_ports(&mut self, ordered: u64, carried: u64) -> bool {
        let made = self.endpoints.iter().filter_map(|(endpoint, local)| {
            let network = local.assigned.record.network;
            let waits = self.fetching.contains_key(&network);
            match local.port {
                PortState::Made { ordered } if !waits => Some((*endpoint, network, ordered)),
                _ => None,
            }
        });
        let made: Vec<(EndpointId, NetworkId, Option<u64>)> = made.collect();
        let mut ready = false;
        for (endpoint, network, before) in made {
            let path = self.network(network).map(|network| self.path(network));
            let needed = before.unwrap_or(ordered);
            let whole = !matches!(path, Some(Ok(DataPath::Kernel))) || carried >= needed;
            if let Some(local) = self.endpoints.get_mut(&endpoint) {
                let ordered = Some(needed);
                local.port = if whole {
                    PortState::Ready
                } else {
                    PortState::Made { ordered }
                };
            }
            ready |= whole;
        }
        if ready {
            self.settle_tasks();
        }
        ready
    }
}

/// How long an endpoint waits for the tables of a network that its node has just joined. They come within two round trips,
/// unless packets are lost or nobody who knows is there.
pub(super) const FETCHING: Duration = Duration::from_millis(500);
