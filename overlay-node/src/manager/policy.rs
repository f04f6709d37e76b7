//! Who on a network may reach whom: rules made into addresses for the nodes, and explained.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_core::{
    NetworkId,
    plane::{AddressMatch, FlowMatch, NetworkPolicy, PolicyRule},
};

use super::Manager;
use crate::{
    api::{
        self, ErrorKind, PAIRS_MAX, PolicyAnswer, PolicyInfo, PolicyQuestion, RuleInfo, RuleSpec,
        Selector, Verdict,
    },
    state::{ClusterState, EndpointRecord, NetworkRecord, ServiceRecord},
};

/// The addresses that fit each selector of a network's rules but for that of everybody.
type Meant = BTreeMap<Selector, BTreeSet<IpNet>>;

/// The policies of networks as addresses, and the index that they are true of.
#[derive(Debug, Default)]
pub(super) struct Policies {
    applied: u64,
    networks: BTreeMap<NetworkId, NetworkPolicy>,
}

impl Manager {
    /// Returns who on a network may reach whom, by addresses.
    pub(super) fn policy(&mut self, network: NetworkId) -> NetworkPolicy {
        let applied = self.state.applied();
        if self.policies.applied != applied {
            self.policies = Policies {
                applied,
                networks: BTreeMap::new(),
            };
        }
        let record = self.state.networks().get(&network);
        let Some(record) = record.filter(|record| record.has_policy()) else {
            return NetworkPolicy::default();
        };
        let known = self.policies.networks.entry(network);
        known
            .or_insert_with(|| compile(&self.state, record))
            .clone()
    }

    pub(super) fn describe_policy(&self, network: &str) -> Result<PolicyInfo, api::Error> {
        let network = self.known_network(network)?;
        let meant = meant(&self.state, network);
        let number = |selector: &Selector| Some(meant.get(&plain(selector))?.len() as u64);
        let rules = network.rules.iter();
        Ok(PolicyInfo {
            network: network.id,
            network_name: network.name.clone(),
            default: network.policy_default(),
            rules: rules
                .map(|rule| RuleInfo {
                    rule: rule.clone(),
                    from_addresses: number(&rule.from),
                    to_addresses: number(&rule.to),
                })
                .collect(),
            too_large: matches(network, &meant) > MATCHES_MAX,
        })
    }

    /// Says which rules decide about a flow, on each network that has both ends.
    pub(super) fn explain(
        &self,
        question: &PolicyQuestion,
    ) -> Result<Vec<PolicyAnswer>, api::Error> {
        let networks: Vec<_> = match &question.network {
            Some(network) => vec![self.known_network(network)?],
            None => {
                let networks = self.state.networks().values();
                networks.filter(|network| !network.ingress).collect()
            }
        };
        let mut answers = Vec::new();
        for network in &networks {
            let ends = |text| addresses(&self.state, network, text);
            let (from, to) = (ends(&question.from), ends(&question.to));
            let compiled = compile(&self.state, network);
            answers.extend(decide(network, &compiled, question, &from, &to));
        }
        if answers.is_empty() {
            let text = format!(
                "no network has both {:?} and {:?}, with addresses of the same family: give the name of an endpoint or of \
                 a service on the network, or an address in one of its subnets",
                question.from, question.to
            );
            return Err(api::Error::new(ErrorKind::NotFound, text));
        }
        Ok(answers)
    }

    fn known_network(&self, text: &str) -> Result<&NetworkRecord, api::Error> {
        let id = self.find_network(text)?;
        let unknown = crate::state::CommandError::UnknownNetwork { network: id };
        Ok(self.state.networks().get(&id).ok_or(unknown)?)
    }
}

/// Makes the rules of a network into those addresses that fit them now: of its endpoints, and virtual ones.
///
/// If that are more than [`MATCHES_MAX`], which no node would take, nobody reaches anybody.
///
/// A flow to a virtual address is judged under it where it leaves, and under that of the backend where it arrives: whoever
/// means a service means both.
fn compile(state: &ClusterState, network: &NetworkRecord) -> NetworkPolicy {
    let meant = meant(state, network);
    if matches(network, &meant) > MATCHES_MAX {
        return NetworkPolicy {
            default: Verdict::Deny,
            rules: Vec::new(),
        };
    }
    let addresses = |selector: &Selector| match selector {
        Selector::Any => AddressMatch::Any,
        // Nobody, if nobody fits.
        selector => AddressMatch::Of(meant.get(&plain(selector)).cloned().unwrap_or_default()),
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

/// Counts the addresses and kinds of traffic in the rules of a network.
fn matches(network: &NetworkRecord, meant: &Meant) -> usize {
    let number = |selector: &Selector| meant.get(&plain(selector)).map_or(1, BTreeSet::len);
    let each = |rule: &RuleSpec| number(&rule.from) + number(&rule.to) + rule.traffic.len();
    network.rules.iter().map(each).sum()
}

/// Finds the addresses that fit each selector of a network's rules, in one walk over its endpoints and services.
fn meant(state: &ClusterState, network: &NetworkRecord) -> Meant {
    let ends = network.rules.iter().flat_map(|rule| [&rule.from, &rule.to]);
    let mut meant: Meant = ends.map(|end| (plain(end), BTreeSet::new())).collect();
    meant.remove(&Selector::Any);
    if meant.is_empty() {
        return meant;
    }
    let mut add = |selector: Selector, nets: &[IpNet]| {
        if let Some(addresses) = meant.get_mut(&selector) {
            addresses.extend(nets.iter().map(|net| IpNet::from(net.addr())));
        }
    };
    for endpoint in state.endpoints_of(network.id) {
        let nets = &endpoint.addresses;
        add(plain(&Selector::Endpoint(endpoint.name.clone())), nets);
        if let Some(owner) = &endpoint.task {
            add(Selector::Service(owner.service_name.clone()), nets);
            let service = state.services().get(&owner.service);
            for label in service.into_iter().flat_map(labels) {
                add(label, nets);
            }
        }
    }
    for service in state.services_on(network.id) {
        if let Some(nets) = virtual_addresses(service, network) {
            add(Selector::Service(service.spec().name.clone()), nets);
            for label in labels(service) {
                add(label, nets);
            }
        }
    }
    meant
}

/// Names of endpoints are the same in whatever case.
fn plain(selector: &Selector) -> Selector {
    match selector {
        Selector::Endpoint(name) => Selector::Endpoint(name.to_ascii_lowercase()),
        other => other.clone(),
    }
}

fn labels(service: &ServiceRecord) -> impl Iterator<Item = Selector> {
    let labels = service.spec().labels.iter();
    labels.map(|(key, value)| Selector::Label {
        key: key.clone(),
        value: value.clone(),
    })
}

/// Returns what a service is reached by on a network; nothing of one that is being removed.
fn virtual_addresses<'a>(
    service: &'a ServiceRecord,
    network: &NetworkRecord,
) -> Option<&'a Vec<IpNet>> {
    let live = (!service.removing).then_some(service)?;
    live.virtual_addresses.get(&network.id)
}

/// Finds who is called so on a network: an address of one of its subnets, the endpoints of that name, or a service.
fn addresses(state: &ClusterState, network: &NetworkRecord, text: &str) -> BTreeSet<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let subnets = &mut network.subnets.iter();
        let has = subnets.any(|subnet| subnet.prefix.contains(&address));
        return has.then_some(address).into_iter().collect();
    }
    let is_meant = |endpoint: &&EndpointRecord| {
        let owner = endpoint.task.as_ref();
        endpoint.name.eq_ignore_ascii_case(text)
            || endpoint.id.to_string() == text
            || owner.is_some_and(|owner| owner.service_name == text)
    };
    let endpoints = state.endpoints_of(network.id).filter(is_meant);
    let endpoints = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let services = state.services_on(network.id);
    let services = services.filter(|service| service.spec().name == text);
    let services = services.filter_map(|service| virtual_addresses(service, network));
    endpoints
        .chain(services.flatten())
        .map(IpNet::addr)
        .collect()
}

/// Decides about each pair of addresses, and puts those together of which the same is true.
fn decide(
    network: &NetworkRecord,
    policy: &NetworkPolicy,
    question: &PolicyQuestion,
    from: &BTreeSet<IpAddr>,
    to: &BTreeSet<IpAddr>,
) -> Vec<PolicyAnswer> {
    let both = |from: &IpAddr| {
        let from = *from;
        let to = to.iter().copied();
        to.filter(move |to| from != *to && from.is_ipv4() == to.is_ipv4())
            .map(move |to| (from, to))
    };
    let mut pairs = from.iter().flat_map(both);
    let mut decided: BTreeMap<(Option<usize>, Verdict), Vec<_>> = BTreeMap::new();
    for (from, to) in pairs.by_ref().take(PAIRS_MAX) {
        let flow = FlowMatch {
            from,
            to,
            protocol: match question.protocol {
                ICMP if from.is_ipv6() => ICMPV6,
                protocol => protocol,
            },
            port: question.port,
        };
        let (verdict, rule) = policy.decide(&flow);
        decided.entry((rule, verdict)).or_default().push((from, to));
    }
    let left_out = pairs.count() as u64;
    let answer = |((rule, verdict), pairs): ((Option<usize>, Verdict), _)| PolicyAnswer {
        network: network.name.clone(),
        verdict,
        rule: rule.map(|at| (at as u64 + 1, policy.rules[at].name.clone())),
        pairs,
        left_out,
    };
    decided.into_iter().map(answer).collect()
}

/// How many addresses and kinds of traffic there may be in the rules of a network: as many as a node takes, and as an
/// assignment has room for.
const MATCHES_MAX: usize = 65_536;
/// RFC 792.
const ICMP: u8 = 1;
/// RFC 4443 §1.
const ICMPV6: u8 = 58;
