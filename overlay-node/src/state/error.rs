//! Why a command changes nothing.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, Vni};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::api::{self, ErrorKind, Protocol};

/// Why a command changes nothing. Part of the log's outcome: variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum CommandError {
    /// The cluster was made already.
    #[error("the cluster was made already")]
    AlreadyInitialized,
    /// The log does not begin with the making of the cluster.
    #[error("the cluster was not made yet: run `init` on one node, then `join` on the others")]
    NotInitialized,
    /// There is no such node.
    #[error("no node {node}: `node ls` shows them")]
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// There is no such network.
    #[error("no network {network}: `network ls` shows them")]
    UnknownNetwork {
        /// The network.
        network: NetworkId,
    },
    /// There is no such endpoint.
    #[error("no endpoint {endpoint}")]
    UnknownEndpoint {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// It is the only manager left.
    #[error("node {node} is the last manager: promote another one first")]
    LastManager {
        /// The node.
        node: NodeId,
    },
    /// A manager cannot be removed.
    #[error("node {node} is a manager: demote it first, or use --force")]
    IsManager {
        /// The node.
        node: NodeId,
    },
    /// A name has characters or a length that names cannot have.
    #[error(
        "{name:?} cannot be a name: 1 to 63 letters, digits, `_`, `-` and `.`, beginning with a letter or digit"
    )]
    InvalidName {
        /// The name, cut to 80 characters.
        name: String,
    },
    /// A network of this name exists.
    #[error(
        "a network named {name:?} exists already ({network}): choose another name or remove it"
    )]
    NetworkExists {
        /// The name.
        name: String,
        /// The network that has it.
        network: NetworkId,
    },
    /// The driver is not offered.
    #[error(
        "driver {driver:?} is not offered: {}; use `overlay` for a network on all nodes, or `bridge` for one on this node alone",
        why_not(driver)
    )]
    UnknownDriver {
        /// The driver.
        driver: String,
    },
    /// An option is not known or its value is not valid.
    #[error("option {option:?} with value {value:?} is not valid: {reason}")]
    InvalidOption {
        /// The option.
        option: String,
        /// Its value.
        value: String,
        /// Why.
        reason: String,
    },
    /// The subnet has bits set behind its prefix.
    #[error("{subnet} has bits set behind its prefix: it should be {expected}")]
    HostBits {
        /// The subnet.
        subnet: IpNet,
        /// What was probably meant.
        expected: IpNet,
    },
    /// The subnet overlaps another one.
    #[error("subnet {subnet} overlaps {other} of network {name:?}: choose another one")]
    SubnetOverlap {
        /// The subnet.
        subnet: IpNet,
        /// The one it overlaps.
        other: IpNet,
        /// The network that has it; empty if it is the same request.
        name: String,
    },
    /// No pool has room for the subnet.
    #[error("all predefined address pools are fully subnetted: give --subnet or remove a network")]
    PoolsExhausted,
    /// The subnet is none that can be used.
    #[error("subnet {subnet} cannot be used: {reason}")]
    InvalidSubnet {
        /// The subnet, or what stood for it.
        subnet: String,
        /// Why.
        reason: String,
    },
    /// A VNI is in use or out of range.
    #[error("VNI {vni} is in use already: choose another one")]
    VniInUse {
        /// The VNI.
        vni: Vni,
    },
    /// Every VNI is in use.
    #[error("every VNI is in use: remove a network")]
    VnisExhausted,
    /// Something uses the network.
    #[error(
        "network {name:?} is in use by {endpoints} endpoint(s), {first:?} among them: stop or detach them first"
    )]
    NetworkInUse {
        /// The network.
        name: String,
        /// How many endpoints.
        endpoints: u64,
        /// The name of one of them.
        first: String,
    },
    /// No network can be made of what was asked for.
    #[error("network {name:?} cannot be created: {reason}")]
    InvalidNetwork {
        /// Its name.
        name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The service publishes ports and is on no network, and there is no network of published ports.
    #[error(
        "the service publishes ports and names no network, and there is no ingress network: name one with --network, or make one with `network create --ingress`"
    )]
    NoIngress,
    /// No pool has room for the subnet that no node has a route to already.
    #[error(
        "no subnet is left in the address pools that no node has a route to already ({route} among them): give --subnet"
    )]
    PoolsRouted {
        /// One of the routes.
        route: IpNet,
    },
    /// The network is kept for the cluster itself.
    #[error("network {name:?} is predefined: it cannot be created or removed")]
    Predefined {
        /// The network.
        name: String,
    },
    /// The network is on another node alone.
    #[error("network {name:?} is local to node {node}: what runs elsewhere cannot be on it")]
    LocalNetwork {
        /// The network.
        name: String,
        /// Its node.
        node: NodeId,
    },
    /// Standalone endpoints may not attach.
    #[error("network {name:?} is not attachable: create it with --attachable")]
    NotAttachable {
        /// The network.
        name: String,
    },
    /// The name is taken on this network.
    #[error(
        "the name {name:?} is in use on network {network:?} by endpoint {endpoint}: choose another one or remove it"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// The network.
        network: String,
        /// Who has it.
        endpoint: EndpointId,
    },
    /// The address is taken.
    #[error("address {address} is in use already on network {network:?}: choose another one")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// The network.
        network: String,
    },
    /// The address is in none of the network's subnets, or reserved in it.
    #[error("address {address} cannot be given out on network {network:?}: {reason}")]
    AddressUnusable {
        /// The address.
        address: IpAddr,
        /// The network.
        network: String,
        /// Why.
        reason: String,
    },
    /// No address is left.
    #[error(
        "no address is left on network {network:?} ({used} in use): remove endpoints or create a larger network"
    )]
    SubnetFull {
        /// The network.
        network: String,
        /// How many are in use.
        used: u64,
    },
    /// The endpoint is another node's.
    #[error("endpoint {endpoint} runs on node {node}: detach it there")]
    NotOwner {
        /// The endpoint.
        endpoint: EndpointId,
        /// The node that runs it.
        node: NodeId,
    },
    /// The endpoint goes with its task.
    #[error("endpoint {endpoint} is a task's: it goes when the task ends")]
    OfTask {
        /// The endpoint.
        endpoint: EndpointId,
    },
    /// There is no such service.
    #[error("no service {service}: `service ls` shows them")]
    UnknownService {
        /// The service.
        service: ServiceId,
    },
    /// A service of this name exists.
    #[error(
        "a service named {name:?} exists already ({service}): choose another name or remove it"
    )]
    ServiceExists {
        /// The name.
        name: String,
        /// The service that has it.
        service: ServiceId,
    },
    /// Somebody else changed the service meanwhile.
    #[error(
        "service {service} was changed meanwhile (version {found}, not {expected}): look at it and try again"
    )]
    Outdated {
        /// The service.
        service: ServiceId,
        /// The version that the client had seen.
        expected: u64,
        /// Its version.
        found: u64,
    },
    /// There is no spec to change back to.
    #[error("service {service} was never changed: there is nothing to roll back to")]
    NoPrevious {
        /// The service.
        service: ServiceId,
    },
    /// A part of a service's spec is not valid.
    #[error("{part} of the service is not valid: {reason}")]
    InvalidService {
        /// Which part.
        part: String,
        /// Why.
        reason: String,
    },
    /// The spec names a network that there is none of.
    #[error("no network {name:?}: `network ls` shows them")]
    NoSuchNetwork {
        /// The name.
        name: String,
    },
    /// A published port is taken.
    #[error(
        "port {port}/{protocol} is in use already by service {name:?} ({service}): choose another one"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: Protocol,
        /// The service that has it.
        service: ServiceId,
        /// Its name.
        name: String,
    },
    /// A service is on the network.
    #[error("network {network:?} is in use by service {service:?}: remove or update it first")]
    NetworkOfService {
        /// The network.
        network: String,
        /// The name of the service.
        service: String,
    },
    /// A limit of the cluster was reached.
    #[error("the limit of {limit} {what} is reached")]
    Limit {
        /// Of what.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Managers are not locked, so there is no unlock key.
    #[error(
        "managers are not locked, so there is no unlock key: `cluster update --autolock` makes one"
    )]
    NotLocked,
    /// There is no such join token.
    #[error("no join token {token}: `token ls` shows them")]
    UnknownToken {
        /// Its identity.
        token: String,
    },
    /// The join token lets nobody in any more.
    #[error(
        "the join token has expired, was revoked or has let in as many nodes as it was made for: get a fresh one"
    )]
    TokenSpent,
    /// The certificate authority is being replaced already.
    #[error(
        "the certificate authority is being replaced already: `ca` shows which nodes are waited for"
    )]
    AuthorityChanging,
    /// A network has no rule of this name.
    #[error("network {network:?} has no rule {name:?}: `policy ls` shows them")]
    UnknownRule {
        /// The network.
        network: String,
        /// The name.
        name: String,
    },
    /// A network has a rule of this name.
    #[error(
        "network {network:?} has a rule {name:?} already: choose another name, remove it or replace it"
    )]
    RuleExists {
        /// The network.
        network: String,
        /// The name.
        name: String,
    },
    /// A network's policy cannot be what was asked for.
    #[error("the policy of network {network:?} cannot be so: {reason}")]
    InvalidPolicy {
        /// The network.
        network: String,
        /// Why, and what was expected.
        reason: String,
    },
}

impl From<CommandError> for api::Error {
    fn from(error: CommandError) -> Self {
        use CommandError as E;
        let kind = match &error {
            E::AlreadyInitialized => ErrorKind::AlreadyMember,
            E::NotInitialized => ErrorKind::NotMember,
            E::UnknownNode { .. }
            | E::UnknownNetwork { .. }
            | E::UnknownEndpoint { .. }
            | E::UnknownService { .. }
            | E::UnknownToken { .. }
            | E::UnknownRule { .. }
            | E::NoSuchNetwork { .. } => ErrorKind::NotFound,
            E::LastManager { .. } => ErrorKind::QuorumLoss,
            E::IsManager { .. }
            | E::NetworkInUse { .. }
            | E::NetworkOfService { .. }
            | E::AuthorityChanging
            | E::Predefined { .. } => ErrorKind::InUse,
            E::TokenSpent => ErrorKind::Untrusted,
            E::NotLocked
            | E::InvalidName { .. }
            | E::UnknownDriver { .. }
            | E::InvalidOption { .. }
            | E::HostBits { .. }
            | E::InvalidSubnet { .. }
            | E::InvalidNetwork { .. }
            | E::InvalidPolicy { .. }
            | E::NoIngress
            | E::InvalidService { .. }
            | E::NoPrevious { .. }
            | E::AddressUnusable { .. } => ErrorKind::Invalid,
            E::NetworkExists { .. }
            | E::RuleExists { .. }
            | E::ServiceExists { .. }
            | E::Outdated { .. }
            | E::PortInUse { .. }
            | E::SubnetOverlap { .. }
            | E::VniInUse { .. }
            | E::NameInUse { .. }
            | E::AddressInUse { .. } => ErrorKind::Conflict,
            E::PoolsExhausted | E::PoolsRouted { .. } | E::VnisExhausted | E::SubnetFull { .. } => {
                ErrorKind::Exhausted
            }
            E::LocalNetwork { .. }
            | E::NotAttachable { .. }
            | E::NotOwner { .. }
            | E::OfTask { .. } => ErrorKind::Forbidden,
            E::Limit { .. } => ErrorKind::Limit,
        };
        Self::new(kind, error.to_string())
    }
}

/// Says why a driver is not offered.
fn why_not(driver: &str) -> &'static str {
    match driver {
        "macvlan" | "ipvlan" => {
            "its endpoints would have addresses of the hosts' own network, which the hosts' kernels would have to carry"
        }
        "host" | "null" | "none" => "each node has the one that there can be",
        _ => "there is none of this name, and there are no plugins",
    }
}
