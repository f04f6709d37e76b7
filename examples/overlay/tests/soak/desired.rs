//! What there shall be, as the managers tell it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context as _, ensure};
use ipnet::IpNet;

use crate::{
    support::{Cluster, name},
    world::NETWORKS,
};

/// One endpoint on one network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    pub(crate) network: usize,
    pub(crate) name: String,
    pub(crate) host: usize,
    pub(crate) id: String,
    pub(crate) mac: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// All endpoints, and the numbers of the networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) endpoints: BTreeSet<Endpoint>,
    pub(crate) vnis: Vec<u32>,
}

impl Desired {
    /// Asks by way of a host.
    pub(crate) fn ask(cluster: &Cluster, by: usize) -> anyhow::Result<Self> {
        let mut hosts = BTreeMap::new();
        for node in cluster.nodes(by)? {
            let id = node["ID"].as_str().context("a node without identity")?;
            let host = (0..crate::world::HOSTS).find(|host| node["Hostname"] == name(*host));
            hosts.insert(id.to_owned(), host.context("a foreign node")?);
        }
        let (mut endpoints, mut vnis) = (BTreeSet::new(), Vec::new());
        for (network, called) in NETWORKS.iter().enumerate() {
            let told = cluster.inspect(by, called)?;
            let numbers = &told["Options"]["com.docker.network.driver.overlay.vxlanid_list"];
            let first = numbers.as_str().and_then(|list| list.split(',').next());
            vnis.push(first.context("a network without number")?.parse()?);
            for one in told["Containers"].as_object().context("no list")?.values() {
                let text = |key: &str| {
                    let text = one[key].as_str().map(str::to_owned);
                    text.with_context(|| format!("no {key}: {one}"))
                };
                let both = [text("IPv4Address")?, text("IPv6Address")?];
                let addresses: Result<Vec<IpNet>, _> = both.iter().map(|one| one.parse()).collect();
                let addresses = addresses.with_context(|| format!("addresses of {one}"))?;
                let host = hosts.get(&text("NodeID")?);
                endpoints.insert(Endpoint {
                    network,
                    name: text("Name")?,
                    host: *host.with_context(|| format!("an unknown node: {one}"))?,
                    id: text("EndpointID")?,
                    mac: text("MacAddress")?,
                    addresses: addresses.iter().map(IpNet::addr).collect(),
                });
            }
        }
        let addresses = endpoints.iter().flat_map(|one| &one.addresses);
        let all: Vec<_> = addresses.collect();
        let distinct: BTreeSet<_> = all.iter().collect();
        ensure!(
            all.len() == distinct.len(),
            "an address was given twice: {endpoints:?}"
        );
        Ok(Self { endpoints, vnis })
    }

    pub(crate) fn on(&self, network: usize) -> impl Iterator<Item = &Endpoint> {
        let all = self.endpoints.iter();
        all.filter(move |one| one.network == network)
    }

    pub(crate) fn at(&self, host: usize) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |one| one.host == host)
    }

    /// Whether a host has an endpoint on a network, and so the network.
    pub(crate) fn carries(&self, host: usize, network: usize) -> bool {
        self.on(network).any(|one| one.host == host)
    }
}
