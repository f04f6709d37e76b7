//! What a service offers, in Docker's shapes and with what Docker has not.

use std::net::IpAddr;

use serde::Serialize;

use super::print::{endpoint_mode, nanoseconds};
use crate::api::{
    Balance, ClientAddress, Locality, NamedPort, Policy, PublishMode, PublishedPort, ServiceSpec,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointSpecJson<'a> {
    mode: &'static str,
    ports: Vec<PortJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    named_ports: Vec<NamedPortJson<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    texts: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<BalanceJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PortJson<'a> {
    protocol: String,
    target_port: u16,
    published_port: u16,
    publish_mode: PublishMode,
    #[serde(rename = "HostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nodes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<ClientAddress>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NamedPortJson<'a> {
    name: &'a str,
    protocol: String,
    target_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BalanceJson {
    policy: Policy,
    affinity: u64,
    locality: Locality,
}

impl<'a> From<&'a ServiceSpec> for EndpointSpecJson<'a> {
    fn from(spec: &'a ServiceSpec) -> Self {
        let balance = &spec.balance;
        Self {
            mode: endpoint_mode(spec.endpoint_mode),
            ports: spec.ports.iter().map(PortJson::from).collect(),
            named_ports: spec.named_ports.iter().map(NamedPortJson::from).collect(),
            texts: &spec.texts,
            balance: (*balance != Balance::default()).then(|| BalanceJson {
                policy: balance.policy,
                affinity: nanoseconds(balance.affinity_ms),
                locality: balance.locality,
            }),
        }
    }
}

impl<'a> From<&'a PublishedPort> for PortJson<'a> {
    fn from(port: &'a PublishedPort) -> Self {
        Self {
            protocol: port.protocol.to_string(),
            target_port: port.target,
            published_port: port.published,
            publish_mode: port.mode,
            host_ip: port.address,
            nodes: &port.nodes,
            client: (port.client != ClientAddress::default()).then_some(port.client),
        }
    }
}

impl<'a> From<&'a NamedPort> for NamedPortJson<'a> {
    fn from(port: &'a NamedPort) -> Self {
        Self {
            name: &port.name,
            protocol: port.protocol.to_string(),
            target_port: port.target,
        }
    }
}
