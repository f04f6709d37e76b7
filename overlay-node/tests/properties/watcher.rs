//! Somebody who follows the changes and must know the same as the state.

use std::{collections::BTreeMap, fmt::Debug};

use overlay_core::{EndpointId, NetworkId, NodeId, ServiceId, TaskId};
use overlay_node::state::{
    Changed, ClusterState, EndpointRecord, NodeRecord, ServiceRecord, TaskRecord, WatchError,
};

use crate::command::actor;

#[derive(Debug, Default)]
pub(crate) struct Watcher {
    seen: u64,
    nodes: BTreeMap<NodeId, NodeRecord>,
    networks: BTreeMap<NetworkId, String>,
    endpoints: BTreeMap<EndpointId, EndpointRecord>,
    services: BTreeMap<ServiceId, ServiceRecord>,
    tasks: BTreeMap<TaskId, TaskRecord>,
    /// How often it had to read the whole state.
    pub(crate) lists: u32,
}

impl Watcher {
    /// Catches up, and compares.
    pub(crate) fn follow(&mut self, state: &ClusterState) {
        match state.changes_after(self.seen) {
            Ok(changes) => {
                let mut last = self.seen;
                for change in changes {
                    assert!(change.index >= last && change.index > self.seen);
                    assert_eq!(change.actor, actor(change.index));
                    last = change.index;
                    self.take(&change.object);
                }
            }
            Err(WatchError::Missed { asked, since }) => {
                assert_eq!(asked, self.seen);
                assert!(since > asked && since <= state.applied());
                self.list(state);
            }
            Err(other) => unreachable!("watching is on: {other}"),
        }
        self.seen = state.applied();
        assert_eq!(&self.nodes, state.nodes());
        assert_eq!(self.networks, names(state));
        assert_eq!(&self.endpoints, state.endpoints());
        assert_eq!(&self.services, state.services());
        assert_eq!(&self.tasks, state.tasks());
    }

    fn take(&mut self, object: &Changed) {
        match object.clone() {
            Changed::Node { previous, new } => put(&mut self.nodes, previous, new, |node| node.id),
            Changed::Network { previous, new } => {
                let name = |network: Box<overlay_node::state::NetworkRecord>| network.name;
                let id = previous.as_ref().or(new.as_ref()).unwrap().id;
                assert_eq!(self.networks.remove(&id), previous.map(name));
                self.networks.extend(new.map(name).map(|name| (id, name)));
            }
            Changed::Endpoint { previous, new } => {
                put(&mut self.endpoints, previous, new, |endpoint| endpoint.id);
            }
            Changed::Service { previous, new } => {
                put(&mut self.services, previous, new, |service| service.id);
            }
            Changed::Task { previous, new } => put(&mut self.tasks, previous, new, |task| task.id),
            Changed::Cluster { previous, new } => assert_ne!(previous, new),
            other => unreachable!("{other:?} is not known"),
        }
    }

    fn list(&mut self, state: &ClusterState) {
        self.lists += 1;
        self.nodes = state.nodes().clone();
        self.networks = names(state);
        self.endpoints = state.endpoints().clone();
        self.services = state.services().clone();
        self.tasks = state.tasks().clone();
    }
}

fn names(state: &ClusterState) -> BTreeMap<NetworkId, String> {
    let networks = state.networks().values();
    networks
        .map(|network| (network.id, network.name.clone()))
        .collect()
}

/// What it was must be what the watcher knows.
fn put<K: Ord + Copy, V: PartialEq + Debug>(
    known: &mut BTreeMap<K, V>,
    previous: Option<Box<V>>,
    new: Option<Box<V>>,
    id: impl Fn(&V) -> K,
) {
    let key = id(previous.as_deref().or(new.as_deref()).unwrap());
    assert_ne!(previous, new, "nothing changed");
    assert_eq!(known.remove(&key), previous.map(|record| *record));
    known.extend(new.map(|record| (key, *record)));
}
