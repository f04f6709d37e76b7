//! How each kind of record is kept.

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_raft::RaftId;
use serde::{Serialize, Serializer};

use super::{
    Cluster, EndpointRecord, FormerPart, NetworkRecord, NodeRecord, ServiceRecord, TaskEndpoint,
    TaskRecord,
    digest::Octets,
    index::{EndpointIndex, NetworkIndex, NodeIndex, ServiceIndex, TaskIndex},
    table::Record,
    watch::Changed,
};

macro_rules! record {
    ($record:ty, $key:ty, $index:ty, $table:literal, $changed:ident, { $($form:item)* }) => {
        impl Record for $record {
            type Key = $key;
            type Index = $index;
            const TABLE: u8 = $table;

            fn fits(&self, key: $key) -> bool {
                self.id == key
            }

            fn changed(previous: Option<Self>, new: Option<Self>) -> Option<Changed> {
                let (previous, new) = (previous.map(Box::new), new.map(Box::new));
                Some(Changed::$changed { previous, new })
            }

            $($form)*
        }
    };
}

record!(NodeRecord, NodeId, NodeIndex, 2, Node, {
    const LARGE: bool = true;
});

record!(NetworkRecord, NetworkId, NetworkIndex, 3, Network, {
    fn form(&self, _: NetworkId) -> impl Serialize {
        let Self {
            id,
            name,
            driver,
            attachable,
            internal,
            ingress,
            subnets,
            addresses: _,
            mtu,
            options,
            labels,
            created_unix_ms,
            node,
            rules,
        } = self;
        let names = (Octets(id.as_bytes()), name, driver, options, labels);
        let rest = (attachable, internal, ingress, mtu, created_unix_ms, node);
        (names, rest, subnets, rules)
    }

    /// The addresses keep a hash of their own: there may be millions.
    fn part(&self) -> Option<impl Serialize> {
        Some(self.addresses.state_hash())
    }
});

record!(EndpointRecord, EndpointId, EndpointIndex, 4, Endpoint, {
    fn form(&self, _: EndpointId) -> impl Serialize {
        let Self {
            id,
            node,
            network,
            name,
            aliases,
            addresses,
            mac,
            generation,
            task,
        } = self;
        let id = (
            Octets(id.as_bytes()),
            Octets(node.as_bytes()),
            Octets(network.as_bytes()),
        );
        let task = task.as_ref().map(|owner| {
            let TaskEndpoint {
                task,
                service,
                service_name,
            } = owner;
            (
                Octets(task.as_bytes()),
                Octets(service.as_bytes()),
                service_name,
            )
        });
        (id, name, aliases, addresses, mac, generation, task)
    }
});

record!(ServiceRecord, ServiceId, ServiceIndex, 5, Service, {
    fn form(&self, _: ServiceId) -> impl Serialize {
        let Self {
            id,
            specs: _,
            spec_version,
            previous_version,
            version,
            networks,
            ports,
            virtual_addresses,
            update,
            removing,
            created_unix_ms,
            updated_unix_ms,
        } = self;
        let versions = (spec_version, previous_version, version);
        let taken = (networks, ports, virtual_addresses);
        let times = (created_unix_ms, updated_unix_ms);
        (
            Octets(id.as_bytes()),
            versions,
            taken,
            update,
            removing,
            times,
        )
    }

    /// What a version of its spec says is never changed.
    fn pieces(&self) -> impl Iterator<Item = (u64, impl Serialize)> {
        self.specs.iter().map(|(version, spec)| (*version, spec))
    }
});

record!(TaskRecord, TaskId, TaskIndex, 6, Task, {
    fn form(&self, _: TaskId) -> impl Serialize {
        let Self {
            id,
            service,
            slot,
            spec_version,
            node,
            desired,
            status,
            endpoints,
            created,
        } = self;
        let node = node.as_ref().map(|node| Octets(node.as_bytes()));
        let id = (Octets(id.as_bytes()), Octets(service.as_bytes()), node);
        (
            id,
            slot,
            spec_version,
            desired,
            status,
            Endpoints(endpoints),
            created,
        )
    }
});

impl Record for Cluster {
    type Key = ();
    type Index = ();
    const TABLE: u8 = 1;
    const SECRET: bool = true;

    fn fits(&self, (): ()) -> bool {
        true
    }

    fn changed(previous: Option<Self>, new: Option<Self>) -> Option<Changed> {
        let (previous, new) = (previous.map(Box::new), new.map(Box::new));
        Some(Changed::Cluster { previous, new })
    }
}

struct Endpoints<'a>(&'a [EndpointId]);

impl Serialize for Endpoints<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|id| Octets(id.as_bytes())))
    }
}

impl Record for FormerPart {
    type Key = RaftId;
    type Index = ();
    const TABLE: u8 = 7;

    fn fits(&self, _: RaftId) -> bool {
        true
    }

    fn form(&self, key: RaftId) -> impl Serialize {
        (key, self)
    }

    /// Nobody but the managers themselves has to know.
    fn changed(_: Option<Self>, _: Option<Self>) -> Option<Changed> {
        None
    }
}
