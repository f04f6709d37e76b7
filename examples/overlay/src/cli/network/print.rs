//! Networks in Docker's columns and shapes.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::Serialize;

use crate::{
    api::{EndpointInfo, NetworkInfo},
    cli::{Table, listing::Item},
    time,
};

/// A line of `network ls`; fields in the order that Docker prints in JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkRow {
    created_at: String,
    driver: String,
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "IPv4")]
    ipv4: String,
    #[serde(rename = "IPv6")]
    ipv6: String,
    internal: String,
    labels: String,
    name: String,
    scope: String,
}

impl NetworkRow {
    pub(super) fn new(network: &NetworkInfo, whole: bool) -> Self {
        let labels: Vec<String> = network
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        Self {
            created_at: time::rfc3339(network.created_unix_ms),
            driver: network.driver.clone(),
            id: if whole {
                network.id.to_string()
            } else {
                network.id.short()
            },
            ipv4: has_ipv4(network).to_string(),
            ipv6: has_ipv6(network).to_string(),
            internal: network.internal.to_string(),
            labels: labels.join(","),
            name: network.name.clone(),
            scope: network.scope.clone(),
        }
    }
}

impl Item for NetworkRow {
    const FIELDS: &'static [(&'static str, &'static str)] = &[
        ("CreatedAt", "CREATED AT"),
        ("Driver", "DRIVER"),
        ("ID", "NETWORK ID"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("Name", "NAME"),
        ("Scope", "SCOPE"),
    ];

    fn identity(&self) -> String {
        self.id.clone()
    }
}

fn has_ipv4(network: &NetworkInfo) -> bool {
    network
        .subnets
        .iter()
        .any(|subnet| matches!(subnet.subnet, IpNet::V4(_)))
}

fn has_ipv6(network: &NetworkInfo) -> bool {
    network
        .subnets
        .iter()
        .any(|subnet| matches!(subnet.subnet, IpNet::V6(_)))
}

pub(super) fn table(rows: &[NetworkRow]) -> Table {
    let mut table = Table::new(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"]);
    for row in rows {
        table.row([
            row.id.clone(),
            row.name.clone(),
            row.driver.clone(),
            row.scope.clone(),
        ]);
    }
    table
}

/// A network as `inspect` prints it, in Docker's shape.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkJson {
    name: String,
    id: String,
    created: String,
    scope: String,
    driver: String,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: IpamJson,
    internal: bool,
    attachable: bool,
    ingress: bool,
    containers: BTreeMap<String, ContainerJson>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    peers: Vec<PeerJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamJson {
    driver: &'static str,
    config: Vec<SubnetJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SubnetJson {
    subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "Option::is_none")]
    ip_range: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auxiliary_addresses: BTreeMap<String, IpAddr>,
    used: u64,
    available: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerJson {
    name: String,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    mac_address: String,
    #[serde(rename = "IPv4Address")]
    ipv4_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
    aliases: Vec<String>,
    #[serde(rename = "NodeID")]
    node_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PeerJson {
    name: String,
    #[serde(rename = "IP")]
    ip: String,
}

/// Docker's option that tells the VNIs, one for each subnet.
const VNI_OPTION: &str = "com.docker.network.driver.overlay.vxlanid_list";

impl From<NetworkInfo> for NetworkJson {
    fn from(network: NetworkInfo) -> Self {
        let (enable_ipv4, enable_ipv6) = (has_ipv4(&network), has_ipv6(&network));
        let vnis: Vec<String> = network
            .subnets
            .iter()
            .map(|subnet| subnet.vni.to_string())
            .collect();
        let mut options = network.options;
        options
            .entry(VNI_OPTION.to_owned())
            .or_insert_with(|| vnis.join(","));
        let subnets = network.subnets.into_iter().map(|subnet| SubnetJson {
            subnet: subnet.subnet.to_string(),
            ip_range: subnet.ip_range.map(|range| range.to_string()),
            gateway: subnet.gateway.map(|gateway| gateway.to_string()),
            auxiliary_addresses: subnet.aux_addresses,
            used: subnet.used,
            available: subnet.available,
        });
        let peers = network.peers.into_iter().map(|peer| PeerJson {
            name: peer.node.to_string(),
            ip: peer.address.ip().to_string(),
        });
        Self {
            name: network.name,
            id: network.id.to_string(),
            created: time::rfc3339(network.created_unix_ms),
            scope: network.scope,
            driver: network.driver,
            enable_ipv4,
            enable_ipv6,
            ipam: IpamJson {
                driver: "default",
                config: subnets.collect(),
            },
            internal: network.internal,
            attachable: network.attachable,
            ingress: network.ingress,
            containers: network
                .endpoints
                .into_iter()
                .map(|endpoint| (endpoint.id.to_string(), ContainerJson::from(endpoint)))
                .collect(),
            options,
            labels: network.labels,
            peers: peers.collect(),
        }
    }
}

impl From<EndpointInfo> for ContainerJson {
    fn from(endpoint: EndpointInfo) -> Self {
        let first = |wanted: fn(&IpNet) -> bool| {
            let found = endpoint.addresses.iter().find(|address| wanted(address));
            found.map_or_else(String::new, ToString::to_string)
        };
        Self {
            ipv4_address: first(|address| matches!(address, IpNet::V4(_))),
            ipv6_address: first(|address| matches!(address, IpNet::V6(_))),
            name: endpoint.name,
            endpoint_id: endpoint.id.to_string(),
            mac_address: endpoint.mac.to_string(),
            aliases: endpoint.aliases,
            node_id: endpoint.node.to_string(),
        }
    }
}
