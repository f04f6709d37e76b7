//! What must hold of a state whatever was applied to it: for tests, simulations and whoever suspects a damaged one.

use std::collections::BTreeSet;

use overlay_core::NetworkId;
use overlay_ipam::{Audit, OwnerId, Subnet};
use overlay_raft::RaftId;
use thiserror::Error;

use super::{ClusterState, NetworkRecord, SnapshotError, TaskRecord};

/// A state contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Inconsistency {
    /// The hash or an index of a table is not what its records make them.
    #[error("hash or index of the table of {table} are not those of its records")]
    Table {
        /// Which table.
        table: &'static str,
    },
    /// What is read back from a snapshot is another state.
    #[error("a restored snapshot has another hash")]
    Hash,
    /// What was written as a snapshot cannot be read.
    #[error("a snapshot cannot be restored")]
    Snapshot(#[source] SnapshotError),
    /// A network's leases are not those of what lives on it.
    #[error("network {network} has leases of nobody, or lacks some: {audit:?}")]
    Leases {
        /// The network.
        network: NetworkId,
        /// What is amiss.
        audit: Audit,
    },
}

impl ClusterState {
    /// Makes everything that is kept along with the records anew, and compares. Takes as long as a snapshot and its
    /// restoration together.
    ///
    /// # Errors
    ///
    /// What was found first.
    pub fn check(&self) -> Result<(), Inconsistency> {
        for (table, holds) in [
            ("cluster", self.cluster.is_consistent()),
            ("nodes", self.nodes.is_consistent()),
            ("networks", self.networks.is_consistent()),
            ("endpoints", self.endpoints.is_consistent()),
            ("services", self.services.is_consistent()),
            ("tasks", self.tasks.is_consistent()),
            ("former parts", self.former.is_consistent()),
        ] {
            if !holds {
                return Err(Inconsistency::Table { table });
            }
        }
        let restored = Self::restore(&self.snapshot()).map_err(Inconsistency::Snapshot)?;
        if restored.hash() != self.hash() {
            return Err(Inconsistency::Hash);
        }
        self.check_leases()
    }

    /// Returns whether what commands take for granted holds: records are found that others name, and identities that will
    /// be drawn are free.
    pub(super) fn refers_to_what_is_there(&self) -> bool {
        let parts = self.nodes().values().filter_map(|node| node.raft);
        let parts = parts.chain(self.former().keys().copied());
        let networks = self.networks().values();
        let subnets =
            networks.flat_map(|network| network.subnets.iter().map(|subnet| subnet.prefix));
        let mut subnets: Vec<_> = subnets.collect();
        subnets.sort_unstable();
        let shares = |network: &NetworkRecord| {
            let prefixes: BTreeSet<_> =
                network.subnets.iter().map(|subnet| subnet.prefix).collect();
            let shared: BTreeSet<_> = network.addresses.subnets().map(Subnet::prefix).collect();
            prefixes == shared
        };
        let mut allocated: Vec<_> = self.pools.allocated().collect();
        allocated.sort_unstable();
        let stands = |task: &TaskRecord| {
            let service = self.services().get(&task.service);
            service.is_some_and(|service| service.specs.contains_key(&task.spec_version))
        };
        let services = &mut self.services().values();
        RaftId::new(self.next_raft_id).is_some_and(|next| parts.into_iter().all(|id| id < next))
            && subnets == allocated
            && self.networks().values().all(shares)
            && services.all(|service| service.specs.contains_key(&service.spec_version))
            && self.tasks().values().all(stands)
    }

    /// Looks for addresses that leaked, and for owners without one.
    fn check_leases(&self) -> Result<(), Inconsistency> {
        for network in self.networks().values() {
            let endpoints = self.endpoints().values();
            let endpoints = endpoints.filter(|endpoint| endpoint.network == network.id);
            let services = self.services().values();
            let services =
                services.filter(|service| service.virtual_addresses.contains_key(&network.id));
            let mut live: BTreeSet<_> = endpoints
                .map(|endpoint| OwnerId::from(endpoint.id))
                .collect();
            live.extend(services.map(|service| OwnerId::from(service.id)));
            let mut audit = network.addresses.audit(&live);
            // What was there when the network got a subnet of another family has none of that.
            audit
                .missing
                .retain(|owner| network.addresses.leases_of(*owner).is_empty());
            if audit != Audit::default() {
                let network = network.id;
                return Err(Inconsistency::Leases { network, audit });
            }
        }
        Ok(())
    }
}
