//! Who may reach whom, on the frame path: a policy for each network that has one.
//!
//! A frame is looked at where it leaves an endpoint, before the balancer, and where it is about to be written to one, behind
//! the way back of the balancer: both see the virtual address. Frames of networks that are open pass by.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use overlay_core::{
    EndpointId, Instant, NetworkId, Seed, Vni,
    plane::{DesiredNetwork, NetworkPolicy, Verdict},
};
use overlay_vxlan::{
    DropReason, Frame, PortId,
    policy::{Config, Direction, Policy, Stats},
};

/// The policies of all networks that have one.
#[derive(Debug)]
pub(super) struct Policies {
    seed: Seed,
    networks: BTreeMap<NetworkId, Held>,
    /// The ports on these networks, and no others.
    ports: BTreeMap<PortId, NetworkId>,
    refused: u64,
}

#[derive(Debug)]
struct Held {
    vni: Vni,
    rules: NetworkPolicy,
    policy: Policy,
}

impl Policies {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            seed,
            networks: BTreeMap::new(),
            ports: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Returns how often the rules of a network were beyond a bound: nothing passes on it then.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns whether frames of a port are to be looked at.
    pub(super) fn concerns(&self, port: PortId) -> bool {
        self.ports.contains_key(&port)
    }

    /// Makes the policy of a network what `desired` says.
    pub(super) fn set_network(
        &mut self,
        now: Instant,
        id: NetworkId,
        desired: &DesiredNetwork,
        ports: &BTreeMap<EndpointId, PortId>,
    ) {
        if desired.policy.is_open() {
            return self.remove_network(id);
        }
        let held = match self.networks.entry(id) {
            Entry::Occupied(held) => {
                let held = held.into_mut();
                held.vni = desired.vni;
                held
            }
            Entry::Vacant(vacant) => {
                let seed = self.seed.derive(&id.to_string());
                let mut policy = Policy::new(Config::default(), &seed);
                // It was open until now, or this daemon was another one: there are flows that nobody here knows of.
                policy.settle_until(now, now + SETTLING);
                vacant.insert(Held {
                    vni: desired.vni,
                    rules: NetworkPolicy::default(),
                    policy,
                })
            }
        };
        if held.rules != desired.policy {
            if held.policy.set(now, &desired.policy).is_err() {
                self.refused += 1;
                // Fail closed: what was allowed before may not be any more.
                let nothing = NetworkPolicy {
                    default: Verdict::Deny,
                    rules: Vec::new(),
                };
                let closed = held.policy.set(now, &nothing);
                debug_assert!(closed.is_ok(), "no rules are within every bound");
            }
            held.rules = desired.policy.clone();
        }
        self.ports.retain(|_, on| *on != id);
        let here = desired.ports.keys().filter_map(|port| ports.get(port));
        self.ports.extend(here.map(|port| (*port, id)));
    }

    pub(super) fn remove_network(&mut self, id: NetworkId) {
        if self.networks.remove(&id).is_some() {
            self.ports.retain(|_, on| *on != id);
        }
    }

    /// Looks at a frame out of an endpoint, or into one; returns why it is to be dropped, if it is.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        direction: Direction,
        port: PortId,
        frame: &Frame,
    ) -> Option<DropReason> {
        let network = self.ports.get(&port)?;
        let held = self.networks.get_mut(network)?;
        let decision = held.policy.decide(now, direction, frame.bytes());
        decision.drop_reason()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let networks = self.networks.values();
        networks.filter_map(|held| held.policy.poll_timeout()).min()
    }

    /// Forgets the flows whose time is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for held in self.networks.values_mut() {
            held.policy.handle_timeout(now);
        }
    }

    /// Returns what was counted, by network.
    pub(super) fn stats(&self) -> impl Iterator<Item = (Vni, Stats)> + '_ {
        let networks = self.networks.values();
        networks.map(|held| (held.vni, held.policy.stats()))
    }
}

/// How long frames of flows that nobody knows count as parts of flows from before. Who sends nothing for so long begins anew.
const SETTLING: Duration = Duration::from_secs(30);
