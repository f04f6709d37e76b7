//! The switch and its control plane; `forward` is the way of a frame through it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
};

use overlay_core::{Instant, MacAddr, Machine, Seed, Vni, plane::RemoteEndpoint};

use crate::{
    announce::Announcement,
    config::{Config, NetworkConfig, PortCapabilities},
    error::{EndpointError, NetworkError},
    fdb::{NetworkIndex, NextHop},
    flow::FlowKey,
    frame::Frame,
    meters::Meters,
    probing::{Due, PathPacket},
    stats::{PortStats, Stats, VtepStats},
    tables::{Port, Tables},
};

/// A local port, numbered by whoever drives the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the switch tells beside the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Something happened.
    Event(Event),
    /// An address has moved: to be handed to [`Switch::announce`].
    Announce(Announcement),
    /// A probe of a path, or the acknowledgement of one: to be handed to [`Switch::send_path_packet`].
    PathPacket(PathPacket),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A MAC address was learned from a frame.
    Learned {
        /// The network.
        vni: Vni,
        /// The address.
        mac: MacAddr,
        /// Where it is.
        vtep: IpAddr,
    },
    /// A learned MAC address was not seen for so long that it was forgotten.
    Aged {
        /// The network.
        vni: Vni,
        /// The address.
        mac: MacAddr,
        /// Where it was.
        vtep: IpAddr,
    },
    /// Probing found another path MTU.
    PathMtu {
        /// The other end of the path.
        vtep: IpAddr,
        /// Octets of an outer IP packet.
        mtu: u16,
    },
}

/// The networks of one node: ports, remote endpoints, VTEPs, and the way of a frame between them.
///
/// See the [crate documentation](crate) for how it is driven.
#[derive(Debug)]
pub struct Switch {
    pub(crate) config: Config,
    pub(crate) now: Instant,
    pub(crate) tables: Tables,
    pub(crate) meters: Meters,
    pub(crate) flow_key: FlowKey,
    /// Where super-frames are cut.
    pub(crate) scratch: Frame,
    /// Where packets are fragmented.
    pub(crate) fragments: Frame,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) due: Due,
}

impl Switch {
    /// Makes a switch without networks. `seed` keys its hash tables.
    #[must_use]
    pub fn new(config: Config, seed: Seed) -> Self {
        Self {
            now: Instant::EPOCH,
            tables: Tables::new(&seed, config.former_addresses_max),
            meters: Meters::new(config),
            due: Due::new(seed.derive("probes")),
            flow_key: FlowKey::new(&seed),
            scratch: Frame::new(),
            fragments: Frame::new(),
            outputs: VecDeque::with_capacity(config.outputs_max),
            config,
        }
    }

    /// Adds a network.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Exists`] or [`NetworkError::Full`]; nothing changes.
    pub fn add_network(&mut self, vni: Vni, config: NetworkConfig) -> Result<(), NetworkError> {
        if self.tables.network_index(vni).is_some() {
            return Err(NetworkError::Exists { vni });
        }
        let max = usize::from(self.config.networks_max);
        if self.tables.networks.len() >= max {
            return Err(NetworkError::Full { max });
        }
        let quota = self.quota(&config);
        let index = self.tables.add_network(vni, config);
        self.tables.fdb.set_quota(index, quota);
        self.meters.reset_network(index);
        Ok(())
    }

    /// Changes the properties of a network. Without learning, what it learned is forgotten.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`]; nothing changes.
    pub fn set_network(&mut self, vni: Vni, config: NetworkConfig) -> Result<(), NetworkError> {
        let index = self.network_index(vni)?;
        let quota = self.quota(&config);
        if quota == 0 {
            self.tables.fdb.unlearn(index, None);
        }
        self.tables.fdb.set_quota(index, quota);
        if let Some(network) = self.tables.network_mut(index) {
            network.config = config;
        }
        Ok(())
    }

    /// Removes a network with its ports, rows and VTEPs; returns whether it was there.
    pub fn remove_network(&mut self, vni: Vni) -> bool {
        self.tables.remove_network(vni).is_some()
    }

    /// Adds a port of an endpoint that runs here.
    ///
    /// It wins over remote rows with the same addresses, and over older ports.
    ///
    /// # Errors
    ///
    /// [`EndpointError`]; nothing changes.
    pub fn add_port(
        &mut self,
        port: PortId,
        vni: Vni,
        mac: MacAddr,
        addresses: &[IpAddr],
    ) -> Result<(), EndpointError> {
        let network = self.check_endpoint(vni, mac, addresses)?;
        if self.tables.port_index(port).is_some() {
            return Err(EndpointError::PortExists { port });
        }
        let max = usize::from(self.config.ports_max);
        if self.tables.ports.len() >= max {
            return Err(EndpointError::Full { max });
        }
        let index = self.tables.add_port(Port {
            id: port,
            network,
            mac,
            addresses: canonical(addresses),
            capabilities: PortCapabilities::default(),
        });
        self.meters.reset_port(index);
        self.queue_moves();
        Ok(())
    }

    /// Says what a port takes as it is.
    ///
    /// # Errors
    ///
    /// [`EndpointError::UnknownPort`]; nothing changes.
    pub fn set_port_capabilities(
        &mut self,
        port: PortId,
        capabilities: PortCapabilities,
    ) -> Result<(), EndpointError> {
        let index = self.tables.port_index(port);
        let found = index.and_then(|index| self.tables.ports.get_mut(index));
        found
            .ok_or(EndpointError::UnknownPort { port })?
            .capabilities = capabilities;
        Ok(())
    }

    /// Removes a port; returns whether it was there.
    pub fn remove_port(&mut self, port: PortId) -> bool {
        let removed = self.tables.remove_port(port).is_some();
        self.queue_moves();
        removed
    }

    /// Says that an endpoint is behind a VTEP.
    ///
    /// A row is named by network, MAC address and VTEP. Of several VTEPs for one MAC address, and of several MAC
    /// addresses for one IP address, the row that came or changed last wins; when it goes, the one before it is back.
    ///
    /// # Errors
    ///
    /// [`EndpointError`]; nothing changes.
    pub fn set_remote(
        &mut self,
        vni: Vni,
        mac: MacAddr,
        addresses: &[IpAddr],
        vtep: IpAddr,
    ) -> Result<(), EndpointError> {
        let index = self.check_endpoint(vni, mac, addresses)?;
        let vtep = vtep.to_canonical();
        let max = self.config.remotes_max;
        let is_new = !self.tables.has_remote(index, mac, vtep);
        let network = self.tables.network(index);
        if is_new && network.is_some_and(|network| network.remotes >= max) {
            return Err(EndpointError::Full { max });
        }
        self.tables
            .set_remote(index, mac, canonical(addresses), vtep);
        if let Some(index) = self.tables.vtep_index(vtep) {
            self.meters.cover_vtep(index, vtep);
        }
        self.queue_moves();
        Ok(())
    }

    /// Says that an endpoint is no longer behind a VTEP; returns whether it was.
    pub fn remove_remote(&mut self, vni: Vni, mac: MacAddr, vtep: IpAddr) -> bool {
        let index = self.tables.network_index(vni);
        let removed =
            index.is_some_and(|index| self.tables.remove_remote(index, mac, vtep.to_canonical()));
        self.queue_moves();
        removed
    }

    /// Makes `rows` the remote rows of a network: what differs is removed, added and changed.
    ///
    /// Rows that were there keep their place among rows with the same address; new ones are newer, in their order. A row
    /// that [`set_remote`](Self::set_remote) would refuse is left out. Returns how many were.
    ///
    /// # Errors
    ///
    /// [`EndpointError::UnknownNetwork`]; nothing changes.
    pub fn set_remotes<'a>(
        &mut self,
        vni: Vni,
        rows: impl IntoIterator<Item = &'a RemoteEndpoint>,
    ) -> Result<usize, EndpointError> {
        let unknown = EndpointError::UnknownNetwork { vni };
        let index = self.tables.network_index(vni).ok_or(unknown)?;
        // Two endpoints with one MAC address behind one VTEP are one row with the addresses of both.
        let mut wanted: BTreeMap<(MacAddr, IpAddr), BTreeSet<IpAddr>> = BTreeMap::new();
        let mut order = Vec::new();
        for row in rows {
            let key = (row.mac, row.vtep.to_canonical());
            let addresses = wanted.entry(key).or_insert_with(|| {
                order.push(key);
                BTreeSet::new()
            });
            addresses.extend(row.addresses.iter().map(IpAddr::to_canonical));
        }
        let stale = self.tables.network(index).into_iter().flat_map(|network| {
            network.remote_rows().filter_map(|(mac, vtep)| {
                let key = (mac, self.tables.vtep(vtep)?.address);
                (!wanted.contains_key(&key)).then_some(key)
            })
        });
        let stale: Vec<_> = stale.collect();
        for (mac, vtep) in stale {
            self.tables.remove_remote(index, mac, vtep);
        }
        let mut refused = 0;
        for (mac, vtep) in order {
            let addresses: Vec<_> = wanted[&(mac, vtep)].iter().copied().collect();
            refused += usize::from(self.set_remote(vni, mac, &addresses, vtep).is_err());
        }
        self.queue_moves();
        Ok(refused)
    }

    /// Says which VTEPs take part in a network: its flood list, and the only accepted outer sources.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`] or [`NetworkError::Vteps`]; nothing changes.
    pub fn set_vteps(&mut self, vni: Vni, vteps: &BTreeSet<IpAddr>) -> Result<(), NetworkError> {
        let index = self.network_index(vni)?;
        let (max, found) = (self.config.vteps_max, vteps.len());
        if found > max {
            return Err(NetworkError::Vteps { max, found });
        }
        let addresses: BTreeSet<_> = vteps.iter().map(IpAddr::to_canonical).collect();
        self.tables
            .set_vteps(index, addresses.into_iter().collect());
        let network = self.tables.network(index);
        for (address, vtep) in network.into_iter().flat_map(|network| &network.vteps) {
            self.meters.cover_vtep(*vtep, *address);
        }
        Ok(())
    }

    /// Says which addresses of a network are virtual: the switch answers requests for them (ARP, ND) with these MAC
    /// addresses, which are nobody's. Whoever sends there must be met between [`admit_local`](Self::admit_local) and
    /// [`forward_local`](Self::forward_local) by who knows the way on, a balancer for instance.
    ///
    /// An endpoint that has such an address has it before the switch.
    ///
    /// # Errors
    ///
    /// [`NetworkError::Unknown`] or [`NetworkError::VirtualAddresses`]; nothing changes.
    pub fn set_virtual_addresses(
        &mut self,
        vni: Vni,
        addresses: &BTreeMap<IpAddr, MacAddr>,
    ) -> Result<(), NetworkError> {
        let index = self.network_index(vni)?;
        let (max, found) = (self.config.virtual_addresses_max, addresses.len());
        if found > max {
            return Err(NetworkError::VirtualAddresses { max, found });
        }
        let addresses = addresses.iter();
        let addresses = addresses.map(|(address, mac)| (address.to_canonical(), *mac));
        self.tables.set_virtuals(index, addresses);
        Ok(())
    }

    /// Returns what was counted for all networks, those that are gone included.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.meters.total
    }

    /// Returns what was counted for one network since it was added.
    #[must_use]
    pub fn network_stats(&self, vni: Vni) -> Option<&Stats> {
        self.meters.network(self.tables.network_index(vni)?)
    }

    /// Returns what was counted for one port since it was added.
    #[must_use]
    pub fn port_stats(&self, port: PortId) -> Option<&PortStats> {
        self.meters.port(self.tables.port_index(port)?)
    }

    /// Returns what was counted for one VTEP since the tables know it.
    #[must_use]
    pub fn vtep_stats(&self, vtep: IpAddr) -> Option<&VtepStats> {
        self.meters
            .vtep(self.tables.vtep_index(vtep.to_canonical())?)
    }

    /// Returns where the tables say that a MAC address is; a learned one until it was forgotten by
    /// [`handle_timeout`](Machine::handle_timeout).
    #[must_use]
    pub fn location(&self, vni: Vni, mac: MacAddr) -> Option<Location> {
        let index = self.tables.network_index(vni)?;
        match self.tables.lookup(NO_AGE, index, mac)? {
            NextHop::Port(port) => Some(Location::Port(self.tables.ports.get(port)?.id)),
            NextHop::Vtep(vtep) => Some(Location::Vtep(self.tables.vtep(vtep)?.address)),
        }
    }

    /// Returns which MAC address the tables give an IP address.
    #[must_use]
    pub fn neighbour(&self, vni: Vni, address: IpAddr) -> Option<MacAddr> {
        let index = self.tables.network_index(vni)?;
        self.tables.neighbour(NO_AGE, index, address.to_canonical())
    }

    fn network_index(&self, vni: Vni) -> Result<NetworkIndex, NetworkError> {
        self.tables
            .network_index(vni)
            .ok_or(NetworkError::Unknown { vni })
    }

    fn quota(&self, config: &NetworkConfig) -> usize {
        match config.learning {
            Some(_) => self.config.learned_rows_max.into(),
            None => 0,
        }
    }

    fn check_endpoint(
        &self,
        vni: Vni,
        mac: MacAddr,
        addresses: &[IpAddr],
    ) -> Result<NetworkIndex, EndpointError> {
        let index = self.tables.network_index(vni);
        let index = index.ok_or(EndpointError::UnknownNetwork { vni })?;
        if mac.is_multicast() || mac == MacAddr::UNSPECIFIED {
            return Err(EndpointError::Mac { mac });
        }
        let (max, found) = (self.config.addresses_max, addresses.len());
        if found > max {
            return Err(EndpointError::Addresses { max, found });
        }
        Ok(index)
    }
}

impl Machine for Switch {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.probe_due();
        let mut aged = Vec::new();
        self.tables
            .fdb
            .age(self.now, |network, mac, hop| aged.push((network, mac, hop)));
        for (network, mac, hop) in aged {
            let vni = self.tables.network(network).map(|network| network.vni);
            let NextHop::Vtep(vtep) = hop else { continue };
            let vtep = self.tables.vtep(vtep).map(|vtep| vtep.address);
            if let (Some(vni), Some(vtep)) = (vni, vtep) {
                self.queue(network, Output::Event(Event::Aged { vni, mac, vtep }));
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_empty() {
            let due = [self.tables.fdb.next_ageing(), self.due.next()];
            due.into_iter().flatten().min()
        } else {
            Some(self.now)
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

/// Where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Here, behind a port.
    Port(PortId),
    /// Behind a VTEP.
    Vtep(IpAddr),
}

/// Sorted, so that an equal set is an equal row.
fn canonical(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let set: BTreeSet<_> = addresses.iter().map(IpAddr::to_canonical).collect();
    set.into_iter().collect()
}

/// A time at which nothing is too old: what a query says does not depend on when the last frame came.
const NO_AGE: Instant = Instant::EPOCH;
