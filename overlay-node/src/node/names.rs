//! Who finds which names. On most networks everybody finds all of them; a network may hide from each client the names of
//! whom it may not reach.
//!
//! Such a network has a zone for each client here, in which only what the client may reach is put: what is hidden is
//! answered as what there is not.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_core::{
    EndpointId, Instant, NetworkId, Rng, Seed, ServiceId,
    plane::{NetworkPolicy, TrafficMatch, Verdict},
};
use overlay_dns::{Records, Resolver, ServiceRecords, View};

use crate::agent::AssignedNetwork;

/// The resolver, and what it is told of networks that hide names.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) resolver: Resolver,
    hiding: BTreeMap<NetworkId, Hiding>,
    rng: Rng,
}

/// A network that hides names.
#[derive(Debug)]
struct Hiding {
    name: String,
    subnets: Vec<IpNet>,
    policy: NetworkPolicy,
    endpoints: BTreeMap<EndpointId, Records>,
    services: BTreeMap<ServiceId, ServiceRecords>,
    clients: BTreeMap<EndpointId, Shown>,
}

/// What a client sees of it.
#[derive(Debug)]
struct Shown {
    /// Its own zone.
    zone: NetworkId,
    /// From where it would reach others.
    addresses: Vec<IpAddr>,
    endpoints: BTreeSet<EndpointId>,
    services: BTreeSet<ServiceId>,
}

impl Names {
    pub(super) fn new(resolver: Resolver, seed: &Seed) -> Self {
        Self {
            resolver,
            hiding: BTreeMap::new(),
            rng: seed.rng(),
        }
    }

    /// Takes a network that has come, or has other subnets.
    pub(super) fn set_network(&mut self, now: Instant, network: &AssignedNetwork) {
        let (id, name, subnets) = (network.id, &network.name, &network.subnets);
        self.resolver.set_network(now, id, name);
        self.resolver.set_subnets(now, id, subnets);
        if !network.hides_names {
            return;
        }
        let hiding = self.hiding.entry(id).or_insert_with(|| Hiding {
            name: String::new(),
            subnets: Vec::new(),
            policy: NetworkPolicy::default(),
            endpoints: BTreeMap::new(),
            services: BTreeMap::new(),
            clients: BTreeMap::new(),
        });
        (hiding.name, hiding.subnets) = (name.clone(), subnets.clone());
        hiding.policy = network.policy.clone();
        hiding.retell(now, &mut self.resolver);
    }

    pub(super) fn remove_network(&mut self, now: Instant, network: NetworkId) {
        self.resolver.remove_network(now, network);
        let hiding = self.hiding.remove(&network);
        for shown in hiding.into_iter().flat_map(|one| one.clients.into_values()) {
            self.resolver.remove_network(now, shown.zone);
        }
    }

    /// Takes the policies that networks have now.
    pub(super) fn set_policies<'a>(
        &mut self,
        now: Instant,
        networks: impl Iterator<Item = &'a AssignedNetwork>,
    ) {
        if self.hiding.is_empty() {
            return;
        }
        for network in networks {
            if let Some(hiding) = self.hiding.get_mut(&network.id)
                && hiding.policy != network.policy
            {
                hiding.policy = network.policy.clone();
                hiding.retell(now, &mut self.resolver);
            }
        }
    }

    /// Says what a client can see; `addresses`: its own, by network.
    pub(super) fn set_client(
        &mut self,
        now: Instant,
        client: EndpointId,
        mut view: View,
        addresses: &BTreeMap<NetworkId, Vec<IpAddr>>,
    ) {
        self.remove_zones(now, client, &view.networks);
        for network in &mut view.networks {
            let Some(hiding) = self.hiding.get_mut(network) else {
                continue;
            };
            let shown = hiding.clients.entry(client).or_insert_with(|| Shown {
                zone: NetworkId::random(&mut self.rng),
                addresses: Vec::new(),
                endpoints: BTreeSet::new(),
                services: BTreeSet::new(),
            });
            shown.addresses = addresses.get(network).cloned().unwrap_or_default();
            *network = shown.zone;
            hiding.retell(now, &mut self.resolver);
        }
        self.resolver.set_client(now, client, view);
    }

    pub(super) fn remove_client(&mut self, now: Instant, client: EndpointId) {
        self.remove_zones(now, client, &[]);
        self.resolver.remove_client(now, client);
    }

    pub(super) fn set_records(
        &mut self,
        now: Instant,
        network: NetworkId,
        owner: EndpointId,
        records: Records,
    ) {
        match self.hiding.get_mut(&network) {
            None => self.resolver.set_records(now, network, owner, records),
            Some(hiding) => {
                hiding.endpoints.insert(owner, records);
                hiding.retell_endpoint(now, owner, &mut self.resolver);
            }
        }
    }

    pub(super) fn remove_records(&mut self, now: Instant, network: NetworkId, owner: EndpointId) {
        match self.hiding.get_mut(&network) {
            None => self.resolver.remove_records(now, network, owner),
            Some(hiding) => {
                hiding.endpoints.remove(&owner);
                hiding.retell_endpoint(now, owner, &mut self.resolver);
            }
        }
    }

    pub(super) fn set_service(
        &mut self,
        now: Instant,
        network: NetworkId,
        service: ServiceId,
        records: ServiceRecords,
    ) {
        match self.hiding.get_mut(&network) {
            None => self.resolver.set_service(now, network, service, records),
            Some(hiding) => {
                hiding.services.insert(service, records);
                hiding.retell_service(now, service, &mut self.resolver);
            }
        }
    }

    pub(super) fn remove_service(&mut self, now: Instant, network: NetworkId, service: ServiceId) {
        match self.hiding.get_mut(&network) {
            None => self.resolver.remove_service(now, network, service),
            Some(hiding) => {
                hiding.services.remove(&service);
                hiding.retell_service(now, service, &mut self.resolver);
            }
        }
    }

    /// Removes the zones of a client but for those of these networks.
    fn remove_zones(&mut self, now: Instant, client: EndpointId, kept: &[NetworkId]) {
        for (network, hiding) in &mut self.hiding {
            if !kept.contains(network)
                && let Some(shown) = hiding.clients.remove(&client)
            {
                self.resolver.remove_network(now, shown.zone);
            }
        }
    }
}

impl Hiding {
    /// Tells all clients of all that they may reach.
    fn retell(&mut self, now: Instant, resolver: &mut Resolver) {
        for shown in self.clients.values() {
            resolver.set_network(now, shown.zone, &self.name);
            resolver.set_subnets(now, shown.zone, &self.subnets);
        }
        let endpoints: Vec<_> = self.endpoints.keys().copied().collect();
        for endpoint in endpoints {
            self.retell_endpoint(now, endpoint, resolver);
        }
        let services: Vec<_> = self.services.keys().copied().collect();
        for service in services {
            self.retell_service(now, service, resolver);
        }
    }

    fn retell_endpoint(&mut self, now: Instant, id: EndpointId, resolver: &mut Resolver) {
        let records = self.endpoints.get(&id);
        for shown in self.clients.values_mut() {
            let reached = |records: &&Records| shown.reaches(&self.policy, &records.addresses);
            match records.filter(reached) {
                Some(records) => {
                    resolver.set_records(now, shown.zone, id, records.clone());
                    shown.endpoints.insert(id);
                }
                None if shown.endpoints.remove(&id) => {
                    resolver.remove_records(now, shown.zone, id);
                }
                None => {}
            }
        }
        // Names of services without an address lead to whom of their tasks is seen.
        let bare = self.services.iter();
        let bare = bare.filter(|(_, records)| records.addresses.is_empty());
        let bare: Vec<_> = bare.map(|(service, _)| *service).collect();
        for service in bare {
            self.retell_service(now, service, resolver);
        }
    }

    fn retell_service(&mut self, now: Instant, id: ServiceId, resolver: &mut Resolver) {
        let records = self.services.get(&id);
        for shown in self.clients.values_mut() {
            let seen = |records: &&ServiceRecords| {
                let mut tasks = shown.endpoints.iter();
                let is_task = |task: &EndpointId| {
                    let task = self.endpoints.get(task);
                    let mut of = task.into_iter().flat_map(|task| &task.services);
                    of.any(|name| records.names.contains(name))
                };
                match records.addresses.is_empty() {
                    true => tasks.any(is_task),
                    false => shown.reaches(&self.policy, &records.addresses),
                }
            };
            match records.filter(seen) {
                Some(records) => {
                    resolver.set_service(now, shown.zone, id, records.clone());
                    shown.services.insert(id);
                }
                None if shown.services.remove(&id) => {
                    resolver.remove_service(now, shown.zone, id);
                }
                None => {}
            }
        }
    }
}

impl Shown {
    /// Returns whether the client may open any flow to any of these addresses.
    fn reaches(&self, policy: &NetworkPolicy, addresses: &[IpAddr]) -> bool {
        let mut pairs = self
            .addresses
            .iter()
            .flat_map(|from| addresses.iter().map(move |to| (*from, *to)));
        pairs.any(|(from, to)| from.is_ipv4() == to.is_ipv4() && may_reach(policy, from, to))
    }
}

/// Returns whether there is any traffic that may be between two addresses. Rules that deny some of it hide nothing.
fn may_reach(policy: &NetworkPolicy, from: IpAddr, to: IpAddr) -> bool {
    if from == to {
        return true;
    }
    let both = policy
        .rules
        .iter()
        .filter(|rule| rule.from.contains(from) && rule.to.contains(to));
    let mut decides = both
        .filter(|rule| rule.verdict == Verdict::Allow || rule.traffic.contains(&TrafficMatch::Any));
    let verdict = decides.next().map_or(policy.default, |rule| rule.verdict);
    verdict == Verdict::Allow
}

#[cfg(test)]
mod tests {
    use overlay_core::plane::PolicyRule;

    use super::*;

    #[test]
    fn whoever_may_be_sent_anything_is_reached() {
        let rule = |traffic, verdict| PolicyRule {
            name: String::new(),
            from: [address(1)].into_iter().collect(),
            to: [address(2)].into_iter().collect(),
            traffic: vec![traffic],
            verdict,
        };
        let icmp = |verdict| rule(TrafficMatch::Icmp, verdict);
        let any = |verdict| rule(TrafficMatch::Any, verdict);
        let (allow, deny) = (Verdict::Allow, Verdict::Deny);
        for (default, rules, reached) in [
            (allow, vec![], true),
            (deny, vec![], false),
            (deny, vec![icmp(allow)], true),
            (allow, vec![icmp(deny)], true),
            (allow, vec![any(deny)], false),
            (allow, vec![any(deny), icmp(allow)], false),
            (deny, vec![icmp(allow), any(deny)], true),
            (deny, vec![icmp(deny), any(allow)], true),
        ] {
            let policy = NetworkPolicy {
                default,
                rules: rules.clone(),
            };
            let found = may_reach(&policy, address(1), address(2));
            assert_eq!(found, reached, "{default:?} {rules:?}");
            let back = may_reach(&policy, address(2), address(1));
            assert_eq!(back, default == allow, "rules are of one direction");
            assert!(may_reach(&policy, address(1), address(1)));
        }
    }

    fn address(number: u8) -> IpAddr {
        [10, 0, 1, number].into()
    }
}
