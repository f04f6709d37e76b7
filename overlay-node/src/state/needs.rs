//! What a service needs of the cluster: networks, ports, virtual addresses.

use std::collections::BTreeMap;

use ipnet::IpNet;
use overlay_core::{NetworkId, ServiceId};

use super::{ClusterState, CommandError, NetworkRecord, endpoint::check_room};
use crate::api::{EndpointMode, PublishMode, PublishedPort, ServiceMode, ServiceSpec};

/// What a spec needs of the cluster, not yet taken.
pub(super) struct Needs {
    pub(super) networks: Vec<NetworkId>,
    pub(super) ports: Vec<PublishedPort>,
    /// Virtual addresses that it has.
    pub(super) held: BTreeMap<NetworkId, IpNet>,
    /// Networks that have another one for it.
    pub(super) wanted: Vec<NetworkId>,
}

impl ClusterState {
    /// Works out what a spec needs, and refuses one that cannot be had. `held` are the virtual addresses that it has.
    pub(super) fn needs(
        &self,
        id: ServiceId,
        spec: &ServiceSpec,
        held: &BTreeMap<NetworkId, IpNet>,
    ) -> Result<Needs, CommandError> {
        check_sizes(spec)?;
        let mut networks = Vec::new();
        for name in &spec.networks {
            let network = self.find_network(name)?;
            if networks.contains(&network.id) {
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
            networks.push(network.id);
        }
        let ports = self.choose_ports(id, spec)?;
        let mut needs = Needs {
            networks,
            ports,
            held: BTreeMap::new(),
            wanted: Vec::new(),
        };
        if spec.endpoint_mode == EndpointMode::Vip {
            for network in &needs.networks {
                if let Some(address) = held.get(network) {
                    needs.held.insert(*network, *address);
                } else if let Some(record) = self.networks.get(*network) {
                    check_room(record, id.as_bytes())?;
                    needs.wanted.push(*network);
                }
            }
        }
        Ok(needs)
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
            if port.target == 0 {
                return Err(invalid("a published port", "its target is 0"));
            }
            if port.mode == PublishMode::Ingress && spec.endpoint_mode == EndpointMode::Dnsrr {
                let text = "ports published in ingress mode need --endpoint-mode vip";
                return Err(invalid("a published port", text));
            }
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
            chosen.push(PublishedPort { published, ..*port });
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
/// How many constraints, preferences or labels a service has at the most.
const RULES_MAX: usize = 64;
