//! Counters and rate limits, apart from the tables, so that stages may borrow the one while they change the other.

use std::net::IpAddr;

use overlay_core::Instant;

use crate::{
    config::Config,
    fdb::NetworkIndex,
    limit::TokenBucket,
    stats::{DropReason, PortStats, Stats, VtepStats},
};

#[derive(Clone, Debug)]
pub(crate) struct Meters {
    config: Config,
    pub(crate) total: Stats,
    networks: Vec<NetworkMeter>,
    ports: Vec<PortMeter>,
    vteps: Vec<VtepMeter>,
}

#[derive(Clone, Debug)]
struct NetworkMeter {
    stats: Stats,
    remote_flood: TokenBucket,
}

#[derive(Clone, Debug)]
struct PortMeter {
    flood: TokenBucket,
    resolve: TokenBucket,
    icmp: TokenBucket,
    stats: PortStats,
}

#[derive(Clone, Debug)]
struct VtepMeter {
    address: IpAddr,
    stats: VtepStats,
    acknowledge: TokenBucket,
}

/// Which of a port's rates a frame counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Flood,
    Resolve,
    Icmp,
}

impl Meters {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            total: Stats::default(),
            networks: Vec::new(),
            ports: Vec::new(),
            vteps: Vec::new(),
        }
    }

    pub(crate) fn reset_network(&mut self, index: NetworkIndex) {
        let meter = NetworkMeter {
            stats: Stats::default(),
            remote_flood: TokenBucket::new(self.config.remote_flood_rate_max),
        };
        put(&mut self.networks, index.0.into(), meter);
    }

    pub(crate) fn reset_port(&mut self, index: u32) {
        let meter = PortMeter {
            flood: TokenBucket::new(self.config.flood_rate_max),
            resolve: TokenBucket::new(self.config.resolve_rate_max),
            icmp: TokenBucket::new(self.config.icmp_rate_max),
            stats: PortStats::default(),
        };
        put(&mut self.ports, index as usize, meter);
    }

    /// Makes room for the counters of a VTEP; they start anew if its number was another's before.
    pub(crate) fn cover_vtep(&mut self, index: u32, address: IpAddr) {
        let at = index as usize;
        if self
            .vteps
            .get(at)
            .is_none_or(|meter| meter.address != address)
        {
            let stats = VtepStats::default();
            let acknowledge = TokenBucket::new(self.config.acknowledge_rate_max);
            let meter = VtepMeter {
                address,
                stats,
                acknowledge,
            };
            put(&mut self.vteps, at, meter);
        }
    }

    pub(crate) fn network(&self, index: NetworkIndex) -> Option<&Stats> {
        self.networks
            .get(usize::from(index.0))
            .map(|meter| &meter.stats)
    }

    pub(crate) fn port(&self, index: u32) -> Option<&PortStats> {
        self.ports.get(index as usize).map(|meter| &meter.stats)
    }

    pub(crate) fn vtep(&self, index: u32) -> Option<&VtepStats> {
        self.vteps.get(index as usize).map(|meter| &meter.stats)
    }

    /// Counts for the whole switch and for one network.
    pub(crate) fn count(&mut self, network: NetworkIndex, add: impl Fn(&mut Stats)) {
        add(&mut self.total);
        if let Some(meter) = self.networks.get_mut(usize::from(network.0)) {
            add(&mut meter.stats);
        }
    }

    pub(crate) fn count_drop(&mut self, network: Option<NetworkIndex>, reason: DropReason) {
        match network {
            Some(network) => self.count(network, |stats| stats.drops.add(reason)),
            None => self.total.drops.add(reason),
        }
    }

    /// Counts a frame from a port.
    pub(crate) fn count_from_port(&mut self, network: NetworkIndex, port: u32, octets: usize) {
        self.count(network, |stats| stats.from_ports.add(octets));
        if let Some(meter) = self.ports.get_mut(port as usize) {
            meter.stats.received.add(octets);
        }
    }

    /// Counts a frame to a port.
    pub(crate) fn count_to_port(&mut self, network: NetworkIndex, port: u32, octets: usize) {
        self.count(network, |stats| stats.to_ports.add(octets));
        if let Some(meter) = self.ports.get_mut(port as usize) {
            meter.stats.sent.add(octets);
        }
    }

    /// Counts a dropped frame of a port, beside [`count_drop`](Self::count_drop).
    pub(crate) fn count_port_drop(&mut self, port: u32, reason: DropReason) {
        if let Some(meter) = self.ports.get_mut(port as usize) {
            meter.stats.drops.add(reason);
        }
    }

    pub(crate) fn count_to_vtep(&mut self, network: NetworkIndex, vtep: u32, octets: usize) {
        self.count(network, |stats| stats.to_vteps.add(octets));
        if let Some(meter) = self.vteps.get_mut(vtep as usize) {
            meter.stats.sent.add(octets);
        }
    }

    pub(crate) fn count_from_vtep(&mut self, network: NetworkIndex, vtep: u32, octets: usize) {
        self.count(network, |stats| stats.from_vteps.add(octets));
        if let Some(meter) = self.vteps.get_mut(vtep as usize) {
            meter.stats.received.add(octets);
        }
    }

    pub(crate) fn admit(&mut self, now: Instant, port: u32, limit: Limit) -> bool {
        let Some(meter) = self.ports.get_mut(port as usize) else {
            return false;
        };
        match limit {
            Limit::Flood => meter.flood.take(now),
            Limit::Resolve => meter.resolve.take(now),
            Limit::Icmp => meter.icmp.take(now),
        }
    }

    pub(crate) fn admit_probe(&mut self, now: Instant, vtep: u32) -> bool {
        let meter = self.vteps.get_mut(vtep as usize);
        meter.is_some_and(|meter| meter.acknowledge.take(now))
    }

    pub(crate) fn admit_remote_flood(&mut self, now: Instant, network: NetworkIndex) -> bool {
        let meter = self.networks.get_mut(usize::from(network.0));
        meter.is_some_and(|meter| meter.remote_flood.take(now))
    }
}

fn put<T: Clone>(meters: &mut Vec<T>, at: usize, meter: T) {
    if meters.len() <= at {
        meters.resize(at + 1, meter);
    } else {
        meters[at] = meter;
    }
}
