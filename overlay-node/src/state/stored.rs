//! How each kind of record is kept.

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_raft::RaftId;
use serde::Serialize;

use super::{
    Cluster, EndpointRecord, FormerPart, NetworkRecord, NodeRecord, ServiceRecord, SubnetRecord,
    TaskRecord,
    index::{EndpointIndex, NetworkIndex, NodeIndex, ServiceIndex, TaskIndex},
    table::Record,
    watch::Changed,
};

macro_rules! record {
    ($record:ty, $key:ty, $index:ty, $table:literal, $changed:ident) => {
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
        }
    };
}

record!(NodeRecord, NodeId, NodeIndex, 2, Node);
record!(EndpointRecord, EndpointId, EndpointIndex, 4, Endpoint);
record!(ServiceRecord, ServiceId, ServiceIndex, 5, Service);
record!(TaskRecord, TaskId, TaskIndex, 6, Task);

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

impl Record for NetworkRecord {
    type Key = NetworkId;
    type Index = NetworkIndex;
    const TABLE: u8 = 3;

    fn fits(&self, key: NetworkId) -> bool {
        self.id == key
    }

    /// The addresses of a subnet keep a hash of their own: there may be millions.
    fn form(&self) -> impl Serialize {
        let Self {
            id: _,
            name,
            driver,
            attachable,
            internal,
            ingress,
            subnets,
            mtu,
            options,
            labels,
            created_unix_ms,
        } = self;
        let rest = (name, driver, attachable, internal, ingress, mtu);
        (rest, options, labels, created_unix_ms, Subnets(subnets))
    }

    fn changed(previous: Option<Self>, new: Option<Self>) -> Option<Changed> {
        let (previous, new) = (previous.map(Box::new), new.map(Box::new));
        Some(Changed::Network { previous, new })
    }
}

/// Subnets with the hashes of their addresses.
struct Subnets<'a>(&'a [SubnetRecord]);

impl Serialize for Subnets<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|subnet| {
            let SubnetRecord {
                prefix,
                gateway,
                ip_range,
                vni,
                addresses,
            } = subnet;
            (prefix, gateway, ip_range, vni, addresses.state_hash())
        }))
    }
}

impl Record for FormerPart {
    type Key = RaftId;
    type Index = ();
    const TABLE: u8 = 7;

    fn fits(&self, _: RaftId) -> bool {
        true
    }

    /// Nobody but the managers themselves has to know.
    fn changed(_: Option<Self>, _: Option<Self>) -> Option<Changed> {
        None
    }
}
