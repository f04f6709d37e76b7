//! What must hold of a cluster, whatever happens to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{EndpointId, NetworkId, NodeId};
use overlay_raft::{Index, Raft, Term};
use thiserror::Error;

use super::Cluster;
use crate::state::{ClusterState, EndpointRecord};

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
    #[error("hosts {first} and {second} have different tables of network {network}: {difference}")]
    TableMismatch {
        /// The network.
        network: NetworkId,
        /// One.
        first: usize,
        /// The other.
        second: usize,
        /// What differs, for people.
        difference: String,
    },
    /// Two members of a network have equal rows and different digests of them: they send each other their tables for ever.
    #[error(
        "hosts {first} and {second} have equal rows of network {network} and different digests"
    )]
    DigestMismatch {
        /// The network.
        network: NetworkId,
        /// One.
        first: usize,
        /// The other.
        second: usize,
    },
    /// An endpoint that is attached has no row, or a row has no endpoint.
    #[error(
        "host {host} sees {rows} rows of network {network}, and {endpoints} endpoints are attached; beyond them: {strange}"
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
        /// The rows that no endpoint stands behind, with their owners.
        strange: String,
    },
    /// A node has another policy than the state says, and nothing is under way.
    #[error("host {host} has another policy of network {network} than the leader's state says")]
    PolicyMismatch {
        /// The host.
        host: usize,
        /// The network.
        network: NetworkId,
    },
}

/// What was seen of a cluster so far, so that lives and leaders are compared over time, and nothing is looked at twice.
#[derive(Debug, Default)]
pub(super) struct History {
    leaders: BTreeMap<Term, usize>,
    entries: BTreeMap<Index, (usize, Term)>,
    states: BTreeMap<u64, (usize, [u8; 32])>,
    /// Of each host: up to where its log was compared, and the last state that was.
    compared: BTreeMap<usize, (Index, u64)>,
}

impl Cluster {
    /// Returns what is wrong now, at any time and under any fault; compared with everything that was seen before.
    pub fn violations(&mut self) -> Vec<Violation> {
        let mut history = std::mem::take(&mut self.history);
        let mut found = Vec::new();
        for (id, host) in self.hosts().machines() {
            let Some(node) = host.node() else { continue };
            let (Some(raft), Some(state)) = (node.raft(), node.state()) else {
                continue;
            };
            if !history.compare(id.0, raft, state, &mut found) {
                continue;
            }
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
        self.history = history;
        found
    }

    /// Returns what is wrong once everything was quiet for a while: tables that differ, rows that lack or are too many,
    /// policies that are not what the rules say.
    pub fn quiet_violations(&mut self) -> Vec<Violation> {
        let mut found = self.violations();
        let mut tables: BTreeMap<NetworkId, (usize, Table)> = BTreeMap::new();
        for (id, host) in self.hosts().machines() {
            let Some(node) = host.node() else { continue };
            let (Some(gossip), Some(assignment)) = (node.gossip(), node.assignment()) else {
                continue;
            };
            self.compare_policies(id.0, node, &mut found);
            for network in assignment.networks.iter().map(|network| network.id) {
                let rows = gossip.rows(network);
                let table = Table {
                    rows: rows
                        .map(|(owner, row)| (owner.to_owned(), row.clone()))
                        .collect(),
                    digest: gossip.table_digest(network),
                };
                let (first, known) = tables
                    .entry(network)
                    .or_insert_with(|| (id.0, table.clone()));
                let (first, second) = (*first, id.0);
                if known.rows != table.rows {
                    let difference = known.difference(&table);
                    found.push(Violation::TableMismatch {
                        network,
                        first,
                        second,
                        difference,
                    });
                } else if known.digest != table.digest {
                    found.push(Violation::DigestMismatch {
                        network,
                        first,
                        second,
                    });
                }
                let attached = self.attached(network);
                let seen: BTreeSet<_> = gossip.rows(network).map(|(_, row)| row.endpoint).collect();
                if attached.as_ref().is_some_and(|attached| *attached != seen) {
                    let attached = attached.unwrap_or_default();
                    let strange = gossip
                        .rows(network)
                        .filter(|(_, row)| !attached.contains(&row.endpoint))
                        .map(|(owner, row)| format!("{} {:?} of {owner}", row.endpoint, row.names))
                        .collect::<Vec<_>>()
                        .join(", ");
                    let endpoints = attached.len();
                    let (host, rows) = (id.0, seen.len());
                    found.push(Violation::RowsMismatch {
                        network,
                        host,
                        rows,
                        endpoints,
                        strange,
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
        let names = |state: &ClusterState| {
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

    /// Returns the state as the leader applied it, if one host leads.
    pub fn leader_state(&self) -> Option<&ClusterState> {
        let leader = self.leader()?;
        self.hosts()
            .host(overlay_sim::HostId(leader))?
            .node()?
            .state()
    }
}

/// The rows of a network as one host sees them, with their owners.
#[derive(Clone, Debug)]
struct Table {
    rows: Vec<(String, overlay_gossip::Row)>,
    digest: u64,
}

impl Table {
    /// Says what differs, for people.
    fn difference(&self, other: &Self) -> String {
        let only = |one: &Self, two: &Self| -> Vec<_> {
            let missing = one.rows.iter().filter(|row| !two.rows.contains(row));
            missing
                .map(|(owner, row)| format!("{row:?} of {owner}"))
                .collect()
        };
        format!(
            "only the first has {:?}, only the second {:?}",
            only(self, other),
            only(other, self)
        )
    }
}

impl History {
    /// Compares a manager with all that was seen before; returns whether its state is new.
    fn compare(
        &mut self,
        host: usize,
        raft: &Raft,
        state: &ClusterState,
        found: &mut Vec<Violation>,
    ) -> bool {
        let second = host;
        if raft.is_leader() {
            let (term, first) = (
                raft.term(),
                *self.leaders.entry(raft.term()).or_insert(host),
            );
            if first != second {
                found.push(Violation::TwoLeaders {
                    term,
                    first,
                    second,
                });
            }
        }
        let (mut compared, applied) = self.compared.get(&host).copied().unwrap_or_default();
        if raft.commit() < compared {
            compared = Index::default(); // another life
        }
        let mut index = raft.commit();
        while index > compared {
            let Some(term) = raft
                .term_at(index)
                .filter(|_| index > raft.snapshot_index())
            else {
                break;
            };
            let (first, known) = *self.entries.entry(index).or_insert((host, term));
            if known != term {
                found.push(Violation::LogMismatch {
                    index,
                    first,
                    second,
                });
            }
            index = Index::new(index.get().saturating_sub(1));
        }
        let index = state.applied();
        self.compared.insert(host, (raft.commit(), index));
        if index == applied {
            return false;
        }
        let hash = state.hash();
        let (first, known) = *self.states.entry(index).or_insert((host, hash));
        if known != hash {
            found.push(Violation::StateMismatch {
                index,
                first,
                second,
            });
        }
        true
    }
}
