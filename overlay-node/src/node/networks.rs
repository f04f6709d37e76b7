//! The networks that each node has by itself, as Docker shows them.

use std::collections::BTreeMap;

use overlay_core::NetworkId;

use super::Node;
use crate::{
    api::NetworkInfo,
    state::{BRIDGE, OF_EACH_NODE},
};

impl Node {
    /// Describes them: the host's own network, none, and the bridge of the way out if there is one.
    pub(super) fn own_networks(&self) -> Vec<NetworkInfo> {
        let bridge = self.config.way_out.as_ref();
        let bridge = bridge.map(|way_out| (way_out.bridge.as_str(), BRIDGE));
        let others = OF_EACH_NODE.iter().zip(["host", "null"]);
        let others = others.map(|(name, driver)| (*name, driver));
        bridge
            .into_iter()
            .chain(others)
            .map(|(name, driver)| self.describe_own(name, driver))
            .collect()
    }

    /// Finds one by its identity or its name.
    pub(super) fn own_network(&self, text: &str) -> Option<NetworkInfo> {
        let mut all = self.own_networks().into_iter();
        all.find(|network| network.name == text || network.id.to_string() == text)
    }

    fn describe_own(&self, name: &str, driver: &str) -> NetworkInfo {
        // The same over all lives, and another on each node.
        let mut id = *self.config.node.as_bytes();
        for (octet, letter) in id.iter_mut().zip(name.bytes()) {
            *octet ^= letter;
        }
        NetworkInfo {
            id: NetworkId::from_bytes(id),
            name: name.to_owned(),
            driver: driver.to_owned(),
            scope: "local".to_owned(),
            attachable: false,
            internal: false,
            ingress: false,
            subnets: Vec::new(),
            options: BTreeMap::new(),
            labels: BTreeMap::new(),
            created_unix_ms: 0,
            endpoints: Vec::new(),
            peers: Vec::new(),
            node: Some(self.config.node),
        }
    }
}
