//! What must hold of a cluster, whatever happens to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{EndpointId, NetworkId, NodeId};
use overlay_raft::{Index, Term};
use thiserror::Error;

use super::Cluster;
use crate::state::EndpointRecord;

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Violation {
    /// Two managers lead in one term (Raft §5.2).
    #[error("hosts {first} and {second} both lead in term {term}")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Two logs have different entries at a committed index (Raft §5.3, §5.4.3).
    #[error("hosts {first} and {second} have different entries at committed index {index}")]
    LogMismatch {
        /// The index.
        index: Index,
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Two managers applied the same and have different states.
    #[error("hosts {first} and {second} applied {index} and have different states")]
    StateMismatch {
        /// The index.
        index: u64,
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// An address has two holders.
    #[error("address {address} of network {network} is held by {first} and {second}")]
    AddressTwice {
        /// The network.
        network: NetworkId,
        /// The address.
        address: IpAddr,
        /// One.
        first: EndpointId,
        /// The other.
        second: EndpointId,
    },
    /// Two members of a network have different tables, and nothing is under way.
    #[error("hosts {first} and {second} have different tables of network {network}")]
    TableMismatch {
        /// The network.
        network: NetworkId,
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// An endpoint that is attached has no row, or a row has no endpoint.
    #[error(
        "host {host} sees {rows} rows of network {network}, and {endpoints} endpoints are attached"
    )]
    RowsMismatch {
        /// The network.
        network: NetworkId,
        /// Who sees them.
        host: usize,
        /// How many rows.
        rows: usize,
        /// How many endpoints.
        endpoints: usize,
    },
}

impl Cluster {
    /// Returns what is wrong now, at any time and under any fault.
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = self.consensus_violations();
        for (_, host) in self.hosts().machines() {
            let Some(state) = host.node().and_then(|node| node.state()) else {
                continue;
            };
            let mut holders: BTreeMap<(NetworkId, IpAddr), EndpointId> = BTreeMap::new();
            for endpoint in state.endpoints().values() {
                for address in &endpoint.addresses {
                    let key = (endpoint.network, address.addr());
                    if let Some(first) = holders.insert(key, endpoint.id) {
                        let (network, address) = key;
                        let second = endpoint.id;
                        found.push(Violation::AddressTwice {
                            network,
                            address,
                            first,
                            second,
                        });
                    }
                }
            }
        }
        found
    }

    /// Returns what is wrong once everything was quiet for a while: tables that differ, rows that lack or are too many.
    pub fn quiet_violations(&self) -> Vec<Violation> {
        let mut found = self.violations();
        let mut tables: BTreeMap<NetworkId, (usize, u64)> = BTreeMap::new();
        for (id, host) in self.hosts().machines() {
            let Some(node) = host.node() else { continue };
            let (Some(gossip), Some(assignment)) = (node.gossip(), node.assignment()) else {
                continue;
            };
            for network in assignment.networks.iter().map(|network| network.id) {
                let digest = gossip.table_digest(network);
                let (first, known) = *tables.entry(network).or_insert((id.0, digest));
                if known != digest {
                    let second = id.0;
                    found.push(Violation::TableMismatch {
                        network,
                        first,
                        second,
                    });
                }
                let attached = self.attached(network);
                let seen: BTreeSet<_> = gossip.rows(network).map(|(_, row)| row.endpoint).collect();
                if attached.as_ref().is_some_and(|attached| *attached != seen) {
                    let endpoints = attached.map_or(0, |attached| attached.len());
                    let (host, rows) = (id.0, seen.len());
                    found.push(Violation::RowsMismatch {
                        network,
                        host,
                        rows,
                        endpoints,
                    });
                }
            }
        }
        found
    }

    /// Returns the nodes of the cluster as the leader's state has them.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        let state = self.leader_state();
        state
            .map(|state| state.nodes().keys().copied().collect())
            .unwrap_or_default()
    }

    /// Returns the names of all endpoints as the leader's state has them.
    pub fn attached_names(&self) -> BTreeSet<String> {
        let state = self.leader_state();
        let names = |state: &crate::state::ClusterState| {
            state
                .endpoints()
                .values()
                .map(|endpoint| endpoint.name.clone())
                .collect()
        };
        state.map(names).unwrap_or_default()
    }

    /// Returns the endpoints that run, each with its host.
    pub fn live_endpoints(&self) -> Vec<(usize, EndpointRecord)> {
        let Some(state) = self.leader_state() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for (id, host) in self.hosts().machines() {
            let records = host
                .endpoints()
                .filter_map(|endpoint| state.endpoints().get(&endpoint));
            found.extend(records.map(|record| (id.0, record.clone())));
        }
        found
    }

    fn attached(&self, network: NetworkId) -> Option<BTreeSet<EndpointId>> {
        let state = self.leader_state()?;
        Some(
            state
                .endpoints_of(network)
                .map(|endpoint| endpoint.id)
                .collect(),
        )
    }

    fn leader_state(&self) -> Option<&crate::state::ClusterState> {
        let leader = self.leader()?;
        self.hosts()
            .host(overlay_sim::HostId(leader))?
            .node()?
            .state()
    }

    fn consensus_violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut leaders: BTreeMap<Term, usize> = BTreeMap::new();
        let mut states: BTreeMap<u64, (usize, [u8; 32])> = BTreeMap::new();
        let mut entries: BTreeMap<Index, (usize, Term)> = BTreeMap::new();
        for (id, host) in self.hosts().machines() {
            let Some(node) = host.node() else { continue };
            let (Some(raft), Some(state)) = (node.raft(), node.state()) else {
                continue;
            };
            if raft.is_leader()
                && let Some(first) = leaders.insert(raft.term(), id.0)
            {
                let (term, second) = (raft.term(), id.0);
                found.push(Violation::TwoLeaders {
                    term,
                    first,
                    second,
                });
            }
            let hash = state.hash();
            let (first, known) = *states.entry(state.applied()).or_insert((id.0, hash));
            if known != hash {
                let (index, second) = (state.applied(), id.0);
                found.push(Violation::StateMismatch {
                    index,
                    first,
                    second,
                });
            }
            let mut index = raft.commit();
            while let Some(term) = raft
                .term_at(index)
                .filter(|_| index > raft.snapshot_index())
            {
                let (first, known) = *entries.entry(index).or_insert((id.0, term));
                if known != term {
                    let second = id.0;
                    found.push(Violation::LogMismatch {
                        index,
                        first,
                        second,
                    });
                }
                index = Index::new(index.get().saturating_sub(1));
            }
        }
        found
    }
}
