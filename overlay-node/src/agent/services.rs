//! The services that endpoints of this node reach by a virtual address.

use std::{collections::BTreeMap, net::IpAddr};

use overlay_core::{
    EndpointId, MacAddr, NetworkId, ServiceId,
    plane::{DesiredBackend, DesiredPort, DesiredService, Distance},
};
use overlay_dns::{Port, ServiceRecords};
use overlay_gossip::{PortMapping, Row, RowState};

use super::{Agent, AssignedService};
use crate::{
    api::{NamedPort, Protocol},
    state::TaskEndpoint,
};

/// What names of services lead to, by network and service.
pub(crate) type ServiceNames = BTreeMap<(NetworkId, ServiceId), ServiceRecords>;

/// What a row says of the service of its endpoint.
#[derive(Debug, Default)]
pub(super) struct ServiceWords {
    pub(super) names: Vec<String>,
    pub(super) ports: Vec<PortMapping>,
}

/// The zone of a node, empty if it is in none.
pub(crate) type Zone = String;

impl Agent {
    /// Returns the services of a network with the endpoints that serve them, by the rows of its table.
    pub(super) fn services_of(
        &self,
        network: NetworkId,
        rows: &[&Row],
        ports: &BTreeMap<EndpointId, DesiredPort>,
        zones: &BTreeMap<IpAddr, Zone>,
    ) -> BTreeMap<ServiceId, DesiredService> {
        let services = self.assignment().into_iter().flat_map(|all| &all.services);
        services
            .filter_map(|service| {
                let addresses = &service.networks.get(&network)?.addresses;
                let rows = rows.iter().filter(|row| row.service == Some(service.id));
                let backends = rows.filter(|row| {
                    // One that ran here a moment ago may still be in the table.
                    row.vtep != self.config.address || ports.contains_key(&row.endpoint)
                });
                let backend =
                    |row: &&Row| (row.endpoint, backend(row, self.distance(row.vtep, zones)));
                let service_plane = DesiredService {
                    mac: mac(service.id, addresses.first()?),
                    addresses: addresses.clone(),
                    config: service.balance.into(),
                    backends: backends.map(backend).collect(),
                };
                Some((service.id, service_plane))
            })
            .collect()
    }

    /// Returns how far a node is.
    fn distance(&self, vtep: IpAddr, zones: &BTreeMap<IpAddr, Zone>) -> Distance {
        let own = self.assignment().map_or("", |all| &all.standing.zone);
        if vtep == self.config.address {
            Distance::Node
        } else if !own.is_empty() && zones.get(&vtep).is_some_and(|zone| zone == own) {
            Distance::Zone
        } else {
            Distance::Far
        }
    }

    /// Returns what the names of services lead to.
    pub(crate) fn service_names(&self) -> ServiceNames {
        let services = self.assignment().into_iter().flat_map(|all| &all.services);
        let each = services.flat_map(|service| {
            service.networks.iter().map(|(network, on)| {
                let mut names = vec![service.name.clone()];
                names.extend(on.aliases.iter().cloned());
                let ports = service.ports.iter();
                let records = ServiceRecords {
                    names,
                    addresses: on.addresses.clone(),
                    // Without a virtual address the ports are those of the tasks.
                    ports: if on.addresses.is_empty() {
                        Vec::new()
                    } else {
                        ports
                            .map(mapping)
                            .filter_map(|port| found_by_name(&port))
                            .collect()
                    },
                    texts: service
                        .texts
                        .iter()
                        .map(|text| text.clone().into_bytes())
                        .collect(),
                };
                ((*network, service.id), records)
            })
        });
        each.collect()
    }

    /// Returns what a network's members learn of the service of an endpoint.
    pub(super) fn service_words(&self, network: NetworkId, owner: &TaskEndpoint) -> ServiceWords {
        let mut services = self.assignment().into_iter().flat_map(|all| &all.services);
        let service = services.find(|service| service.id == owner.service);
        let on = service.and_then(|service| service.networks.get(&network));
        let aliases = on.into_iter().flat_map(|on| &on.aliases).cloned();
        let ports = service.into_iter().flat_map(|service| &service.ports);
        ServiceWords {
            names: std::iter::once(owner.service_name.clone())
                .chain(aliases)
                .collect(),
            ports: ports.map(mapping).collect(),
        }
    }

    /// Tells the networks of the endpoints here whose services have other names or ports than `before`.
    pub(super) fn retell_services(&mut self, before: &[AssignedService]) {
        let of = |services: &[AssignedService]| -> BTreeMap<_, _> {
            let each = services.iter();
            each.map(|service| {
                let aliases = service
                    .networks
                    .iter()
                    .map(|(network, on)| (*network, on.aliases.clone()));
                let aliases: BTreeMap<_, _> = aliases.collect();
                (service.id, (aliases, service.ports.clone()))
            })
            .collect()
        };
        let now = self.assignment().map_or(&[][..], |all| &all.services);
        let (before, now) = (of(before), of(now));
        let changed = |service: &ServiceId| before.get(service) != now.get(service);
        let endpoints: Vec<_> = self
            .endpoints
            .values()
            .map(|local| &local.assigned.record)
            .filter(|record| {
                record
                    .task
                    .as_ref()
                    .is_some_and(|owner| changed(&owner.service))
            })
            .map(|record| record.id)
            .collect();
        for endpoint in endpoints {
            self.put_row(endpoint);
        }
    }
}

fn mapping(port: &NamedPort) -> PortMapping {
    PortMapping {
        name: port.name.clone(),
        protocol: match port.protocol {
            Protocol::Tcp => overlay_gossip::Protocol::Tcp,
            Protocol::Udp => overlay_gossip::Protocol::Udp,
        },
        target: port.target,
        published: 0,
    }
}

/// Makes the DNS record of a port that has a name.
pub(super) fn found_by_name(port: &PortMapping) -> Option<Port> {
    let protocol = match port.protocol {
        overlay_gossip::Protocol::Tcp => "tcp",
        overlay_gossip::Protocol::Udp => "udp",
        overlay_gossip::Protocol::Sctp => "sctp",
    };
    (!port.name.is_empty()).then(|| Port {
        name: port.name.clone(),
        protocol: protocol.to_owned(),
        number: port.target,
        priority: 0,
        weight: 1,
    })
}

/// Returns which of `next` differ from `present`, and which are there no more.
pub(crate) fn changes(
    present: &ServiceNames,
    next: &ServiceNames,
) -> Vec<(NetworkId, ServiceId, Option<ServiceRecords>)> {
    let gone = present.keys().filter(|key| !next.contains_key(key));
    let gone = gone.map(|(network, service)| (*network, *service, None));
    let put = next
        .iter()
        .filter(|(key, records)| present.get(key) != Some(records));
    let put = put.map(|((network, service), records)| (*network, *service, Some(records.clone())));
    gone.chain(put).collect()
}

fn backend(row: &Row, distance: Distance) -> DesiredBackend {
    DesiredBackend {
        mac: row.mac,
        addresses: row.addresses.clone(),
        weight: row.weight,
        // Also what is starting: when its daemon was started anew, connections of before go on.
        draining: row.state != RowState::Live,
        distance,
    }
}

/// The MAC address that a virtual address is answered with.
fn mac(service: ServiceId, address: &IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(address) => MacAddr::from_ipv4(*address),
        IpAddr::V6(_) => {
            let [a, b, c, d, e, ..] = *service.as_bytes();
            // Locally administered, not a group's (IEEE 802 §8.4).
            MacAddr::new([0x02, a, b, c, d, e])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_are_put_and_those_that_are_gone_are_taken_back() {
        let id = |number| {
            (
                NetworkId::from_bytes([1; 16]),
                ServiceId::from_bytes([number; 16]),
            )
        };
        let records = |last| ServiceRecords {
            addresses: vec![[10, 0, 1, last].into()],
            ..ServiceRecords::default()
        };
        let present = ServiceNames::from([
            (id(1), records(1)),
            (id(2), records(2)),
            (id(3), records(3)),
        ]);
        let next = ServiceNames::from([
            (id(1), records(1)),
            (id(2), records(9)),
            (id(4), records(4)),
        ]);
        let of = |number, records| (id(number).0, id(number).1, records);
        let expected = [
            of(3, None),
            of(2, Some(records(9))),
            of(4, Some(records(4))),
        ];
        assert_eq!(changes(&present, &next), expected);
        assert_eq!(changes(&next, &next), []);
    }
}
