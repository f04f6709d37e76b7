//! What a daemon remembers of a program.

use ipnet::IpNet;
use overlay_core::{EndpointId, NetworkId, plane::Namespace};
use overlay_linux::ProcessId;
use serde::{Deserialize, Serialize};

use crate::{
    api::EndpointInfo,
    daemon::records::Recorded,
    wire::{ProgramInfo, ProgramState},
};

/// A program as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What its users see.
    pub(super) info: ProgramInfo,
    /// Its number with its holder, once it was started.
    pub(super) process: Option<ProcessId>,
    /// Whether its endpoints may still be attached.
    pub(super) attached: bool,
    /// Its endpoints by their interfaces, in the namespace that is named after the first one it ever had.
    #[serde(default)]
    pub(super) links: Vec<Link>,
}

/// A program's endpoint on one of its networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) endpoint: EndpointId,
    /// The number of its interface.
    pub(super) interface: u8,
    /// The network: its name, or what was asked for as long as it is not attached.
    pub(super) network: String,
    pub(super) network_id: Option<NetworkId>,
    pub(super) addresses: Vec<IpNet>,
    /// Whether it is there to stay. Otherwise it is being attached or detached: if a crash comes in between, it is detached.
    pub(super) stays: bool,
}

impl Record {
    /// Whether it runs, as far as this record knows.
    pub(super) fn running(&self) -> Option<ProcessId> {
        match self.info.state {
            ProgramState::Running { .. } => self.process,
            ProgramState::Created | ProgramState::Exited { .. } => None,
        }
    }

    /// Takes up the record of a release whose programs had one endpoint each.
    pub(super) fn upgrade(mut self) -> Self {
        if self.links.is_empty() && self.attached {
            let mut link = Link::new(self.info.id, 0, &self.info.network);
            link.addresses.clone_from(&self.info.addresses);
            link.stays = self.running().is_some();
            self.links.push(link);
        }
        self
    }

    /// Adds an endpoint on the lowest interface that is free.
    pub(super) fn add(&mut self, endpoint: EndpointId, network: &str) -> Link {
        let taken = |number: &u8| self.links.iter().any(|link| link.interface == *number);
        let interface = (0..u8::MAX).find(|number| !taken(number));
        let link = Link::new(endpoint, interface.unwrap_or(u8::MAX), network);
        self.links.push(link.clone());
        self.links.sort_by_key(|link| link.interface);
        link
    }

    /// Notes that an endpoint is attached.
    pub(super) fn attach(&mut self, attached: &EndpointInfo) {
        let mut links = self.links.iter_mut();
        if let Some(link) = links.find(|link| link.endpoint == attached.id) {
            link.network.clone_from(&attached.network_name);
            link.network_id = Some(attached.network);
            link.addresses.clone_from(&attached.addresses);
            link.stays = true;
        }
        self.show();
    }

    /// Notes that an endpoint is detached.
    pub(super) fn detach(&mut self, endpoint: EndpointId) {
        self.links.retain(|link| link.endpoint != endpoint);
        self.show();
    }

    /// Finds its endpoint on a network: by the network's whole identity, its name, or the beginning of its identity.
    pub(super) fn on(&self, network: &str) -> Option<&Link> {
        let id = |link: &Link| link.network_id.map(|id| id.to_string()).unwrap_or_default();
        let by_id = self.links.iter().find(|link| id(link) == network);
        let named = || self.links.iter().find(|link| link.network == network);
        let begins = || {
            let mut fitting = self
                .links
                .iter()
                .filter(|link| id(link).starts_with(network));
            let only = fitting.next().filter(|_| !network.is_empty());
            only.filter(|_| fitting.next().is_none())
        };
        by_id.or_else(named).or_else(begins)
    }

    /// Where the port of one of its endpoints goes.
    pub(super) fn namespace(&self, link: &Link) -> Namespace {
        let (with, interface) = (self.info.id, link.interface);
        if link.endpoint == with {
            Namespace::Own
        } else {
            Namespace::Shared { with, interface }
        }
    }

    fn show(&mut self) {
        let links = || self.links.iter().filter(|link| link.stays);
        let names: Vec<_> = links().map(|link| link.network.as_str()).collect();
        self.info.network = names.join(",");
        self.info.addresses = links().flat_map(|link| link.addresses.clone()).collect();
    }
}

impl Link {
    fn new(endpoint: EndpointId, interface: u8, network: &str) -> Self {
        Self {
            endpoint,
            interface,
            network: network.to_owned(),
            network_id: None,
            addresses: Vec::new(),
            stays: false,
        }
    }
}

impl Recorded for Record {
    fn name(&self) -> String {
        self.info.id.to_string()
    }
}
