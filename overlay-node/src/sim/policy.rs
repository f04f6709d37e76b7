//! What a policy means, said anew and as plainly as can be: a rule after the other, a name after the other.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use overlay_core::{
    NetworkId,
    plane::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule, Verdict},
};

use super::{Cluster, Violation};
use crate::{
    Node,
    api::Selector,
    state::{ClusterState, NetworkRecord, ServiceRecord},
};

impl Cluster {
    /// Returns what becomes of an echo request from one endpoint to another one, by the names of both, as the leader's state
    /// has the rules.
    pub fn may_ping(&self, network: NetworkId, from: IpAddr, to: IpAddr) -> bool {
        let state = self.leader_state();
        let record = state.and_then(|state| state.networks().get(&network));
        let (Some(state), Some(record)) = (state, record) else {
            return false;
        };
        let icmp = FlowMatch {
            from,
            to,
            protocol: if from.is_ipv4() { 1 } else { 58 },
            port: 0,
        };
        let decides = record.rules.iter().find(|rule| {
            let has = |selector, address| {
                meant(state, record, selector).is_none_or(|all| all.contains(&IpNet::from(address)))
            };
            let mut traffic = rule.traffic.iter();
            has(&rule.from, from)
                && has(&rule.to, to)
                && traffic.any(|traffic| traffic.0.matches(&icmp))
        });
        let verdict = decides.map_or(record.policy_default(), |rule| rule.verdict);
        verdict == Verdict::Allow
    }

    /// Compares the policies that a node has, and has its frame path have, with what the leader's state says.
    pub(super) fn compare_policies(&self, host: usize, node: &Node, found: &mut Vec<Violation>) {
        let (Some(state), Some(assignment)) = (self.leader_state(), node.assignment()) else {
            return;
        };
        for network in &assignment.networks {
            let Some(record) = state.networks().get(&network.id) else {
                continue;
            };
            let said = said(state, record);
            let plane = node.desired().networks.get(&network.id);
            let differs = plane.is_some_and(|plane| plane.policy != said);
            if network.policy != said || differs {
                found.push(Violation::PolicyMismatch {
                    host,
                    network: network.id,
                });
            }
        }
    }
}

/// The policy of a network, as addresses.
fn said(state: &ClusterState, network: &NetworkRecord) -> NetworkPolicy {
    let addresses = |selector: &Selector| match meant(state, network, selector) {
        None => AddressMatch::Any,
        Some(nets) => AddressMatch::Of(nets),
    };
    let rules = network.rules.iter().map(|rule| PolicyRule {
        name: rule.name.clone(),
        from: addresses(&rule.from),
        to: addresses(&rule.to),
        traffic: rule.traffic.iter().map(|traffic| traffic.0).collect(),
        verdict: rule.verdict,
    });
    NetworkPolicy {
        default: network.policy_default(),
        rules: rules.collect(),
    }
}

/// The addresses that fit a selector; `None`: all.
fn meant(
    state: &ClusterState,
    network: &NetworkRecord,
    selector: &Selector,
) -> Option<BTreeSet<IpNet>> {
    let fits = |service: &ServiceRecord| match selector {
        Selector::Any => true,
        Selector::Service(name) => service.spec().name == *name,
        Selector::Label { key, value } => service.spec().labels.get(key) == Some(value),
        Selector::Endpoint(_) => false,
    };
    if *selector == Selector::Any {
        return None;
    }
    let endpoints = state.endpoints().values().filter(|endpoint| {
        let owner = endpoint.task.as_ref();
        let owner = owner.and_then(|owner| state.services().get(&owner.service));
        let named = matches!(selector, Selector::Endpoint(name) if name.eq_ignore_ascii_case(&endpoint.name));
        endpoint.network == network.id && (named || owner.is_some_and(fits))
    });
    let endpoints = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let services = state.services().values();
    let services = services.filter(|service| !service.removing && fits(service));
    let virtuals = services.filter_map(|service| service.virtual_addresses.get(&network.id));
    let all = endpoints.chain(virtuals.flatten());
    Some(all.map(|net| IpNet::from(net.addr())).collect())
}
