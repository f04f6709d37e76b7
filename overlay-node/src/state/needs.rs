//! What a service needs of the cluster: networks, ports, virtual addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_core::{NetworkId, ServiceId};

use super::{ClusterState, CommandError, INGRESS, NetworkRecord, node::is_name};
use crate::api::{
    ClientAddress, EndpointMode, Protocol, PublishMode, PublishedPort, ServiceMode, ServiceSpec,
};

/// What a spec needs of the cluster, not yet taken.
pub(super) struct Needs {
    pub(super) networks: Vec<NetworkId>,
    pub(super) ports: Vec<PublishedPort>,
    /// Virtual addresses that it has.
    pub(super) held: BTreeMap<NetworkId, Vec<IpNet>>,
    /// Networks that have some for it, and which ones it asks for.
    pub(super) wanted: Vec<(NetworkId, Vec<IpAddr>)>,
}

impl ClusterState {
    /// Works out what a spec needs, and refuses one that cannot be had. `held` are the virtual addresses that it has.
    pub(super) fn needs(
        &self,
        id: ServiceId,
        spec: &ServiceSpec,
        held: &BTreeMap<NetworkId, Vec<IpNet>>,
    ) -> Result<Needs, CommandError> {
        check_sizes(spec)?;
        check_names(spec)?;
        let mut networks: Vec<&NetworkRecord> = Vec::new();
        for wanted in &spec.networks {
            let network = self.find_network(&wanted.network)?;
            if networks.iter().any(|other| other.id == network.id) {
                return Err(invalid("the networks", "one is named twice"));
            }
            if network.ingress {
                let text = "ingress is for published ports: use -p";
                return Err(invalid("the networks", text));
            }
            if network.node.is_some() {
                let text = "one of scope local is on one node alone: use one of scope swarm";
                return Err(invalid("the networks", text));
            }
            networks.push(network);
        }
        let ports = self.choose_ports(id, spec)?;
        if networks.is_empty() && !spec.ports.is_empty() {
            networks.push(self.ingress().ok_or(CommandError::NoIngress)?);
        }
        let mut needs = Needs {
            networks: networks.iter().map(|network| network.id).collect(),
            ports,
            held: BTreeMap::new(),
            wanted: Vec::new(),
        };
        if spec.endpoint_mode == EndpointMode::Vip {
            for (network, wanted) in networks.iter().zip(&spec.networks) {
                let asked = &wanted.addresses;
                match held.get(&network.id) {
                    Some(held) => {
                        let has = |asked: &IpAddr| held.iter().any(|held| held.addr() == *asked);
                        if !asked.iter().all(has) {
                            let text = "a service keeps its virtual addresses: take it from the network, and put it there again with others";
                            return Err(invalid("the virtual addresses", text));
                        }
                        needs.held.insert(network.id, held.clone());
                    }
                    None => {
                        network.check(id.as_bytes(), asked)?;
                        needs.wanted.push((network.id, asked.clone()));
                    }
                }
            }
        }
        Ok(needs)
    }

    /// Returns the networks that tasks of a spec are on; the name of one that is not there otherwise.
    pub(super) fn networks_of<'a>(
        &'a self,
        spec: &'a ServiceSpec,
    ) -> Result<Vec<&'a NetworkRecord>, &'a str> {
        let named = spec.networks.iter();
        let found = named.map(|wanted| {
            let found = self.find_network(&wanted.network);
            found.map_err(|_| wanted.network.as_str())
        });
        let found: Vec<_> = found.collect::<Result<_, _>>()?;
        if found.is_empty() && !spec.ports.is_empty() {
            return Ok(vec![self.ingress().ok_or(INGRESS)?]);
        }
        Ok(found)
    }

    /// Returns the network of published ports.
    pub(super) fn ingress(&self) -> Option<&NetworkRecord> {
        self.networks.get(self.networks.index().ingress()?)
    }

    /// Finds a network by its identity or its name.
    pub(super) fn find_network(&self, name: &str) -> Result<&NetworkRecord, CommandError> {
        let id = name.parse::<NetworkId>().ok();
        let by_id = id.and_then(|id| self.networks.get(id));
        by_id
            .or_else(|| self.network_named(name))
            .ok_or_else(|| CommandError::NoSuchNetwork {
                name: name.chars().take(80).collect(),
            })
    }

    fn choose_ports(
        &self,
        id: ServiceId,
        spec: &ServiceSpec,
    ) -> Result<Vec<PublishedPort>, CommandError> {
        let taken = self.services.index();
        let held = self.services.get(id);
        let held = held.map_or(&[][..], |service| &service.ports);
        let mut chosen: Vec<PublishedPort> = Vec::new();
        for port in &spec.ports {
            check_port(port, spec.endpoint_mode)?;
            let free = |number: u16, chosen: &[PublishedPort]| {
                let same = |other: &PublishedPort| {
                    other.published == number && other.protocol == port.protocol
                };
                let other = taken.other_with_port(id, port.protocol, number);
                other.is_none() && !chosen.iter().any(same)
            };
            let published = if port.published == 0 {
                // One that was chosen before is kept.
                let before = held.iter().find(|held| {
                    held.target == port.target
                        && held.protocol == port.protocol
                        && DYNAMIC_PORTS.contains(&held.published)
                });
                let before = before.map(|held| held.published);
                before
                    .filter(|number| free(*number, &chosen))
                    .or_else(|| {
                        let own = held.iter().filter(|held| held.protocol == port.protocol);
                        let own = own.map(|held| held.published);
                        let own = own.filter(|number| free(*number, &chosen));
                        let others = std::iter::successors(
                            taken.free_port(port.protocol, *DYNAMIC_PORTS.start()),
                            |number| taken.free_port(port.protocol, number.checked_add(1)?),
                        );
                        let other = others.into_iter().find(|number| free(*number, &chosen));
                        let all = own.chain(other);
                        all.filter(|number| DYNAMIC_PORTS.contains(number)).min()
                    })
                    .ok_or_else(|| limit("chosen ports", DYNAMIC_PORTS.count() as u64))?
            } else {
                port.published
            };
            if !free(published, &chosen) {
                let other = taken.other_with_port(id, port.protocol, published);
                return Err(match other.and_then(|other| self.services.get(other)) {
                    Some(service) => CommandError::PortInUse {
                        port: published,
                        protocol: port.protocol,
                        service: service.id,
                        name: service.spec().name.clone(),
                    },
                    None => invalid("a published port", "it is named twice"),
                });
            }
            chosen.push(PublishedPort {
                published,
                ..port.clone()
            });
        }
        Ok(chosen)
    }
}

fn check_sizes(spec: &ServiceSpec) -> Result<(), CommandError> {
    if let ServiceMode::Replicated(replicas) = spec.mode
        && replicas > REPLICAS_MAX
    {
        return Err(limit("replicas a service", u64::from(REPLICAS_MAX)));
    }
    let task = &spec.task;
    let strings = task.command.iter().chain(&task.environment);
    let octets: usize = strings.map(|part| part.len() + 1).sum();
    let (placement, labels) = (&spec.placement, &spec.labels);
    for (what, found, most) in [
        (
            "octets of a command and its environment",
            octets,
            COMMAND_BYTES_MAX,
        ),
        ("networks a service", spec.networks.len(), NETWORKS_MAX),
        ("published ports a service", spec.ports.len(), PORTS_MAX),
        ("named ports a service", spec.named_ports.len(), NAMED_MAX),
        ("texts a service", spec.texts.len(), TEXTS_MAX),
        (
            "constraints a service",
            placement.constraints.len(),
            RULES_MAX,
        ),
        (
            "preferences a service",
            placement.preferences.len(),
            RULES_MAX,
        ),
        ("labels a service", labels.len(), RULES_MAX),
    ] {
        if found > most {
            return Err(limit(what, most as u64));
        }
    }
    Ok(())
}

/// Refuses a port that cannot be published as it says.
fn check_port(port: &PublishedPort, mode: EndpointMode) -> Result<(), CommandError> {
    if port.target == 0 {
        return Err(invalid("a published port", "its target is 0"));
    }
    if port.nodes.len() > RULES_MAX {
        return Err(limit("conditions a published port", RULES_MAX as u64));
    }
    let proxied = [ClientAddress::ProxyV1, ClientAddress::ProxyV2];
    if port.protocol != Protocol::Tcp && proxied.contains(&port.client) {
        let text = "the PROXY protocol is for TCP: of UDP, client=kept shows the client's address";
        return Err(invalid("a published port", text));
    }
    if port.mode == PublishMode::Ingress && mode == EndpointMode::Dnsrr {
        let text = "ports published in ingress mode need --endpoint-mode vip";
        return Err(invalid("a published port", text));
    }
    Ok(())
}

/// Refuses names that nobody could ask for, and more of them than a row of the network's table holds.
fn check_names(spec: &ServiceSpec) -> Result<(), CommandError> {
    for network in &spec.networks {
        for alias in &network.aliases {
            if !is_name(alias) {
                return Err(CommandError::InvalidName {
                    name: alias.chars().take(80).collect(),
                });
            }
        }
        let octets: usize = network.aliases.iter().map(|alias| alias.len() + 1).sum();
        if octets > ALIAS_BYTES_MAX {
            return Err(limit("octets of aliases a network", ALIAS_BYTES_MAX as u64));
        }
    }
    let mut known = BTreeSet::new();
    for port in &spec.named_ports {
        let name = port.name.as_bytes();
        let letters = name.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-');
        let ends = [name.first(), name.last()].contains(&Some(&b'-'));
        let is_name = (1..=15).contains(&name.len())
            && letters
            && !ends
            && !port.name.contains("--")
            && name.iter().any(u8::is_ascii_alphabetic);
        if !is_name {
            let text = "its name is one to 15 letters, digits and single hyphens, a letter among them (RFC 6335)";
            return Err(invalid("a named port", text));
        }
        if port.target == 0 {
            return Err(invalid("a named port", "its target is 0"));
        }
        if !known.insert((port.name.to_ascii_lowercase(), port.protocol)) {
            return Err(invalid("a named port", "it is named twice"));
        }
    }
    if spec.texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(limit("octets a text", TEXT_BYTES_MAX as u64));
    }
    Ok(())
}

pub(super) fn limit(what: &str, limit: u64) -> CommandError {
    CommandError::Limit {
        what: what.to_owned(),
        limit,
    }
}

pub(super) fn invalid(part: &str, reason: &str) -> CommandError {
    CommandError::InvalidService {
        part: part.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Published ports are chosen from these, as in Docker.
const DYNAMIC_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// How many tasks a replicated service has at the most.
const REPLICAS_MAX: u32 = 10_000;
/// How long a command and its environment are at the most, in octets.
const COMMAND_BYTES_MAX: usize = 65_536;
/// How many networks a service is on at the most: its tasks have an interface on each.
const NETWORKS_MAX: usize = 16;
/// How many ports a service publishes at the most.
const PORTS_MAX: usize = 64;
/// How many ports of a service have names at the most: each is in the rows of its endpoints.
const NAMED_MAX: usize = 16;
/// How many texts a service has at the most.
const TEXTS_MAX: usize = 16;
/// How long a text is at the most, in octets: a character string of DNS (RFC 1035 §3.3).
const TEXT_BYTES_MAX: usize = 255;
/// How long the aliases of a service on one network are at the most, in octets: they are in the rows of its endpoints.
const ALIAS_BYTES_MAX: usize = 192;
/// How many constraints, preferences or labels a service has at the most.
const RULES_MAX: usize = 64;
