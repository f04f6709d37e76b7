//! Questions about the state, as the local API answers them.

use overlay_core::{EndpointId, Instant, NetworkId, NodeId};

use super::Manager;
use crate::{
    api::{
        self, ClusterInfo, EndpointInfo, ErrorKind, IpamConfig, ManagerInfo, ManagerStatus,
        NetworkInfo, NextAuthorityInfo, NodeInfo, NodeStatus, Request, Response,
    },
    state::{EndpointRecord, NetworkRecord, NodeRecord},
};

impl Manager {
    pub(super) fn query(&self, now: Instant, request: &Request) -> Result<Response, api::Error> {
        match request {
            Request::JoinToken { role, .. } => self.token(*role).map(Response::Token),
            Request::NodeList => Ok(Response::Nodes(
                self.state
                    .nodes()
                    .values()
                    .map(|node| self.describe_node(now, node))
                    .collect(),
            )),
            Request::NodeInspect { node } => {
                let node = self.find_node(node)?;
                let node = self.state.nodes().get(&node);
                Ok(Response::Nodes(
                    node.map(|node| self.describe_node(now, node))
                        .into_iter()
                        .collect(),
                ))
            }
            Request::NetworkList => {
                let networks = self.state.networks().values();
                let describe = |network| self.describe_network(network, false);
                Ok(Response::Networks(networks.map(describe).collect()))
            }
            Request::NetworkInspect { network } => {
                let network = self.state.networks().get(&self.find_network(network)?);
                let describe = |network| self.describe_network(network, true);
                Ok(Response::Networks(
                    network.map(describe).into_iter().collect(),
                ))
            }
            Request::ServiceList | Request::ServiceInspect { .. } | Request::TaskList { .. } => {
                self.query_services(request)
            }
            Request::PolicyInspect { network } => {
                let policy = self.describe_policy(network)?;
                Ok(Response::Policy(Box::new(policy)))
            }
            Request::PolicyExplain(question) => self.explain(question).map(Response::PolicyAnswers),
            Request::ClusterInspect => self.describe_cluster(),
            Request::TokenList => self.describe_tokens(),
            Request::UnlockKey { .. } => self.unlock_key(),
            Request::Events { after } => {
                Ok(Response::Events(self.state.events_after(*after).collect()))
            }
            _ => Err(api::Error::new(
                ErrorKind::Invalid,
                "this request is no question",
            )),
        }
    }

    fn describe_cluster(&self) -> Result<Response, api::Error> {
        let cluster = self.state.cluster().ok_or_else(not_a_cluster)?;
        Ok(Response::Cluster(Box::new(ClusterInfo {
            id: cluster.id,
            created_unix_ms: cluster.created_unix_ms,
            epoch: cluster.epoch,
            settings: cluster.settings,
            ca_certificate: cluster.ca_certificate.clone(),
            autolock: cluster.unlock_key.is_some(),
            next_authority: cluster
                .next_authority
                .as_ref()
                .map(|next| NextAuthorityInfo {
                    certificate: next.certificate.clone(),
                    awaited: self.awaited_by_authority().collect(),
                }),
            key_generation: cluster.keys.generation,
            keys_rotated_unix_ms: cluster.keys.rotated_unix_ms,
            nodes: self.state.nodes().len(),
            managers: self.state.voters().count(),
        })))
    }

    pub(super) fn find_node(&self, text: &str) -> Result<NodeId, api::Error> {
        let nodes = self
            .state
            .nodes()
            .values()
            .map(|node| (node.id, node.hostname.as_str()));
        find("node", "`node ls` shows them", text, nodes)
    }

    pub(super) fn find_network(&self, text: &str) -> Result<NetworkId, api::Error> {
        let networks = self.state.networks().values();
        let names = networks.map(|network| (network.id, network.name.as_str()));
        find("network", "`network ls` shows them", text, names)
    }

    pub(super) fn find_endpoint(&self, node: NodeId, text: &str) -> Result<EndpointId, api::Error> {
        let own = self
            .state
            .endpoints()
            .values()
            .filter(|endpoint| endpoint.node == node);
        let names = own.map(|endpoint| (endpoint.id, endpoint.name.as_str()));
        find("endpoint on this node", "`ps` shows them", text, names)
    }

    pub(super) fn describe_network(&self, network: &NetworkRecord, full: bool) -> NetworkInfo {
        let mut info = NetworkInfo {
            id: network.id,
            name: network.name.clone(),
            driver: network.driver.clone(),
            scope: if network.node.is_some() {
                "local"
            } else {
                "swarm"
            }
            .to_owned(),
            attachable: network.attachable,
            internal: network.internal,
            ingress: network.ingress,
            subnets: network
                .subnets
                .iter()
                .map(|subnet| {
                    let mut all = network.addresses.subnets();
                    let usage = all.find(|other| other.prefix() == subnet.prefix);
                    let usage = usage.map(|addresses| (addresses.used(), addresses.available()));
                    let (used, available) = usage.unwrap_or_default();
                    IpamConfig {
                        subnet: subnet.prefix,
                        gateway: subnet.gateway,
                        ip_range: subnet.ip_range,
                        aux_addresses: subnet.aux_addresses.clone(),
                        vni: subnet.vni,
                        used: used as u64,
                        available: u64::try_from(available).unwrap_or(u64::MAX),
                    }
                })
                .collect(),
            options: network.options.clone(),
            labels: network.labels.clone(),
            created_unix_ms: network.created_unix_ms,
            endpoints: Vec::new(),
            peers: Vec::new(),
            node: network.node,
        };
        if full {
            let endpoints: Vec<_> = self.state.endpoints_of(network.id).collect();
            let hosts =
                |node: &&NodeRecord| endpoints.iter().any(|endpoint| endpoint.node == node.id);
            info.peers = self
                .state
                .nodes()
                .values()
                .filter(hosts)
                .map(|node| ManagerInfo {
                    node: node.id,
                    address: node.gossip(),
                })
                .collect();
            info.endpoints = endpoints
                .iter()
                .map(|record| self.describe_endpoint(record))
                .collect();
        }
        info
    }

    pub(super) fn describe_endpoint(&self, record: &EndpointRecord) -> EndpointInfo {
        let network = self.state.networks().get(&record.network);
        EndpointInfo {
            id: record.id,
            name: record.name.clone(),
            aliases: record.aliases.clone(),
            network: record.network,
            network_name: network
                .map(|network| network.name.clone())
                .unwrap_or_default(),
            node: record.node,
            mac: record.mac,
            addresses: record.addresses.clone(),
            namespace: None,
            ready: false,
        }
    }

    fn describe_node(&self, now: Instant, node: &NodeRecord) -> NodeInfo {
        let status = self.status(now, node.id);
        let manager_status = node.raft.map(|raft| {
            if self.raft.leader() == Some(raft) {
                ManagerStatus::Leader
            } else if status == NodeStatus::Down {
                ManagerStatus::Unreachable
            } else {
                ManagerStatus::Reachable
            }
        });
        NodeInfo {
            id: node.id,
            hostname: node.hostname.clone(),
            is_self: false,
            status,
            availability: node.availability,
            role: node.role,
            manager_status,
            address: node.address,
            version: node.version.clone(),
            labels: node.labels.clone(),
            resources: node.resources,
        }
    }

    fn status(&self, now: Instant, node: NodeId) -> NodeStatus {
        if node == self.config.node || self.is_heard(now, node) {
            NodeStatus::Ready
        } else if !self.is_late(now, node) {
            NodeStatus::Unknown
        } else {
            NodeStatus::Down
        }
    }
}

/// Finds by whole identity, whole name, or unambiguous prefix of the identity.
pub(super) fn find<'a, Id: Copy + std::fmt::Display>(
    what: &str,
    next: &str,
    text: &str,
    candidates: impl Iterator<Item = (Id, &'a str)> + Clone,
) -> Result<Id, api::Error> {
    if let Some((id, _)) = candidates.clone().find(|(id, _)| id.to_string() == text) {
        return Ok(id);
    }
    let by_name: Vec<_> = candidates
        .clone()
        .filter(|(_, name)| *name == text)
        .collect();
    let prefixed =
        candidates.filter(|(id, _)| !text.is_empty() && id.to_string().starts_with(text));
    let found: Vec<_> = if by_name.is_empty() {
        prefixed.collect()
    } else {
        by_name
    };
    match found[..] {
        [(id, _)] => Ok(id),
        [] => Err(api::Error::new(
            ErrorKind::NotFound,
            format!("no {what} {text:?}: {next}"),
        )),
        _ => {
            let text = format!("{text:?} fits {} of them: give more of the ID", found.len());
            Err(api::Error::new(ErrorKind::Ambiguous, text))
        }
    }
}

pub(super) fn not_a_cluster() -> api::Error {
    let text = "this node is not part of a cluster: run `init` or `join` first";
    api::Error::new(ErrorKind::NotMember, text)
}
