//! The services that endpoints of this node reach by a virtual address.

use std::{collections::BTreeMap, net::IpAddr};

use overlay_core::{
    EndpointId, MacAddr, NetworkId, ServiceId,
    plane::{DesiredBackend, DesiredPort, DesiredService, Distance, VipConfig},
};
use overlay_dns::ServiceRecords;
use overlay_gossip::{Row, RowState};

use super::Agent;

/// What names of services lead to, by network and service.
pub(crate) type ServiceNames = BTreeMap<(NetworkId, ServiceId), ServiceRecords>;

impl Agent {
    /// Returns the services of a network with the endpoints that serve them, by the rows of its table.
    pub(super) fn services_of(
        &self,
        network: NetworkId,
        rows: &[&Row],
        ports: &BTreeMap<EndpointId, DesiredPort>,
    ) -> BTreeMap<ServiceId, DesiredService> {
        let services = self.assignment().into_iter().flat_map(|all| &all.services);
        services
            .filter_map(|service| {
                let address = *service.addresses.get(&network)?;
                let rows = rows.iter().filter(|row| row.service == Some(service.id));
                let backends = rows.filter(|row| {
                    // One that ran here a moment ago may still be in the table.
                    row.vtep != self.config.address || ports.contains_key(&row.endpoint)
                });
                let service_plane = DesiredService {
                    mac: mac(service.id, address),
                    addresses: vec![address],
                    config: VipConfig::default(),
                    backends: backends.map(|row| (row.endpoint, backend(row))).collect(),
                };
                Some((service.id, service_plane))
            })
            .collect()
    }

    /// Returns what the names of services lead to.
    pub(crate) fn service_names(&self) -> ServiceNames {
        let services = self.assignment().into_iter().flat_map(|all| &all.services);
        let each = services.flat_map(|service| {
            service.addresses.iter().map(|(network, address)| {
                let records = ServiceRecords {
                    names: vec![service.name.clone()],
                    addresses: vec![*address],
                    ..ServiceRecords::default()
                };
                ((*network, service.id), records)
            })
        });
        each.collect()
    }
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

fn backend(row: &Row) -> DesiredBackend {
    DesiredBackend {
        mac: row.mac,
        addresses: row.addresses.clone(),
        weight: row.weight,
        // Also what is starting: when its daemon was started anew, connections of before go on.
        draining: row.state != RowState::Live,
        distance: Distance::Far,
    }
}

/// The MAC address that a virtual address is answered with.
fn mac(service: ServiceId, address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(address) => MacAddr::from_ipv4(address),
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
