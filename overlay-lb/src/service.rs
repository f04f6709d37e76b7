//! One virtual address and the choice among its backends.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use crate::{
    Backend, BackendId, BackendState, FlowKey, Locality, Maglev, Policy, Vip, VipConfig,
    flows::Flows,
    hash::{Key, halves},
};

/// What a virtual address is served by.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) config: VipConfig,
    /// The group of each backend: its number in the balancer's list.
    pub(crate) groups: BTreeMap<BackendId, u32>,
    /// The groups that take new flows, in the order of their identities; `None` after a change.
    takers: Option<Vec<u32>>,
    /// Made when first needed after a change.
    maglev: Option<Maglev>,
}

/// A backend in the balancer's list.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) vip: Vip,
    pub(crate) backend: Backend,
    /// How far its turn is ahead, for weighted round robin.
    pub(crate) credit: i64,
}

/// What a choice is made from.
pub(crate) struct Among<'a> {
    pub(crate) members: &'a mut [Option<Member>],
    pub(crate) flows: &'a Flows,
    pub(crate) maglev_entries: u32,
    pub(crate) maglev_seed: u64,
}

impl Service {
    pub(crate) fn new(config: VipConfig) -> Self {
        Self {
            config,
            groups: BTreeMap::new(),
            takers: None,
            maglev: None,
        }
    }

    /// Changes how it is served.
    pub(crate) fn configure(&mut self, config: VipConfig) {
        self.config = config;
        self.changed();
    }

    /// Notes that backends have changed.
    pub(crate) fn changed(&mut self) {
        (self.takers, self.maglev) = (None, None);
    }

    /// Whether a group is among those that take new flows.
    pub(crate) fn takes(&mut self, group: u32, members: &[Option<Member>]) -> bool {
        self.takers(members).contains(&group)
    }

    /// Chooses the backend of a flow among those that were not tried.
    pub(crate) fn choose_other(
        &mut self,
        flow: &FlowKey,
        among: &Among<'_>,
        tried: &[BackendId],
    ) -> Option<u32> {
        let takers = self.takers(among.members).iter();
        let others = takers.filter(|group| is_other(among.members, **group, tried));
        let others: Vec<_> = others.copied().collect();
        let hash = flow_hash(flow, false, among.maglev_seed);
        let nth = hash.checked_rem(others.len() as u64)?;
        others.get(usize::try_from(nth).ok()?).copied()
    }

    pub(crate) fn takers(&mut self, members: &[Option<Member>]) -> &[u32] {
        let locality = self.config.locality;
        self.takers
            .get_or_insert_with(|| takers(&self.groups, locality, members))
    }

    /// Chooses the backend of a new flow.
    pub(crate) fn choose(&mut self, flow: &FlowKey, among: &mut Among<'_>) -> Option<u32> {
        self.takers(among.members);
        let takers = self.takers.as_deref()?;
        if takers.is_empty() {
            return None;
        }
        match self.config.policy {
            Policy::Maglev => {
                let maglev = self.maglev.get_or_insert_with(|| table(takers, among));
                let hash = flow_hash(flow, self.config.affinity.is_some(), among.maglev_seed);
                takers.get(maglev.lookup(hash)?).copied()
            }
            Policy::WeightedRoundRobin => in_turn(takers, among.members),
            Policy::LeastConnections => {
                let load = |group: &u32| {
                    let weight = weight(among.members, *group);
                    (u64::from(among.flows.live(*group)) + 1, weight)
                };
                // Compares quotients by cross-multiplication; the first of equals wins.
                takers.iter().copied().reduce(|best, other| {
                    let ((best_flows, best_weight), (flows, weight)) = (load(&best), load(&other));
                    if flows * best_weight < best_flows * weight {
                        other
                    } else {
                        best
                    }
                })
            }
        }
    }
}

/// Returns whether a backend is none of these.
pub(crate) fn is_other(members: &[Option<Member>], group: u32, tried: &[BackendId]) -> bool {
    let member = members.get(group as usize).and_then(Option::as_ref);
    member.is_some_and(|member| !tried.contains(&member.backend.id))
}

/// Smooth weighted round robin: each turn every taker earns its weight, and the richest pays the sum of all for the flow.
fn in_turn(takers: &[u32], members: &mut [Option<Member>]) -> Option<u32> {
    let mut total = 0;
    for group in takers {
        let weight = i64::try_from(weight(members, *group)).ok()?;
        total += weight;
        members[*group as usize].as_mut()?.credit += weight;
    }
    let credit = |group: &u32| {
        members[*group as usize]
            .as_ref()
            .map(|member| member.credit)
    };
    let richest = *takers.iter().min_by_key(|group| Reverse(credit(group)))?;
    members[richest as usize].as_mut()?.credit -= total;
    Some(richest)
}

/// Those of the nearest rank in which somebody takes flows.
fn takers(
    groups: &BTreeMap<BackendId, u32>,
    locality: Locality,
    members: &[Option<Member>],
) -> Vec<u32> {
    let rank = |group: &u32| {
        let member = members[*group as usize].as_ref()?;
        let backend = &member.backend;
        let takes = backend.state == BackendState::Active && backend.weight > 0;
        locality.rank(backend.distance).filter(|_| takes)
    };
    let Some(nearest) = groups.values().filter_map(rank).min() else {
        return Vec::new();
    };
    let is_nearest = |group: &u32| rank(group) == Some(nearest);
    groups.values().copied().filter(is_nearest).collect()
}

fn table(takers: &[u32], among: &Among<'_>) -> Maglev {
    let members = takers
        .iter()
        .filter_map(|group| among.members[*group as usize].as_ref());
    let backends: Vec<_> = members
        .map(|member| (member.backend.id, member.backend.weight))
        .collect();
    Maglev::fill(among.maglev_entries, among.maglev_seed, &backends)
}

/// Hashes the client's address, and its port unless flows of one client shall go together. The virtual address is left
/// out, so that with affinity a client meets the same backend at all ports of a service.
fn flow_hash(flow: &FlowKey, together: bool, seed: u64) -> u64 {
    let number = match flow.client.ip() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let [high, low] = halves(number);
    let port = if together {
        0
    } else {
        u64::from(flow.client.port()) + 1
    };
    Key::new(seed, FLOW).hash([high, low, port])
}

fn weight(members: &[Option<Member>], group: u32) -> u64 {
    let member = members[group as usize].as_ref();
    member.map_or(0, |member| u64::from(member.backend.weight))
}

const FLOW: u64 = 0x666c_6f77;
