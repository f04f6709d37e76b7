//! What the switch knows: networks, ports, remote endpoints, VTEPs.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use overlay_core::{Instant, MacAddr, Seed, Vni};

use crate::{
    announce::Moves,
    config::{NetworkConfig, PortCapabilities},
    fdb::{Fdb, NetworkIndex, NextHop},
    few::Few,
    hash::HashKey,
    probing::Probed,
    slab::Slab,
    switch::PortId,
    wire::{ipv6, vxlan},
};

/// All tables of a switch; the stages read them, the control plane writes them.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) networks: Slab<Network>,
    by_vni: HashMap<Vni, NetworkIndex, HashKey>,
    pub(crate) ports: Slab<Port>,
    by_port: HashMap<PortId, u32, HashKey>,
    vteps: Slab<Vtep>,
    by_vtep: BTreeMap<IpAddr, u32>,
    pub(crate) fdb: Fdb,
    /// Addresses that the switch answers for, and that no endpoint has.
    virtuals: HashMap<(NetworkIndex, IpAddr), MacAddr, HashKey>,
    pub(crate) moves: Moves,
}

/// One network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) vni: Vni,
    pub(crate) config: NetworkConfig,
    /// Its ports, in the order in which they were added.
    pub(crate) ports: Vec<u32>,
    /// Its VTEPs, sorted: the flood list.
    pub(crate) vteps: Vec<(IpAddr, u32)>,
    /// Who holds a MAC address, oldest first.
    holders: BTreeMap<MacAddr, Few<Holder>>,
    /// Who has an IP address, oldest first.
    claims: BTreeMap<IpAddr, Few<Claim>>,
    pub(crate) remotes: usize,
}

/// One local port.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    pub(crate) id: PortId,
    pub(crate) network: NetworkIndex,
    pub(crate) mac: MacAddr,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) capabilities: PortCapabilities,
}

/// One VTEP, for as long as a row or a flood list names it.
#[derive(Debug)]
pub(crate) struct Vtep {
    pub(crate) address: IpAddr,
    /// Largest outer IP packet, in octets, if that is known.
    pub(crate) path_mtu: Option<u16>,
    /// The search for it.
    pub(crate) probed: Option<Box<Probed>>,
    references: usize,
}

#[derive(Clone, Debug)]
struct Holder {
    hop: NextHop,
    addresses: Box<[IpAddr]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    mac: MacAddr,
    hop: NextHop,
}

/// During a move two endpoints have one address: a local one wins, then the newest.
fn winner<T>(candidates: &[T], hop: impl Fn(&T) -> NextHop) -> Option<&T> {
    let local = |candidate: &&T| matches!(hop(candidate), NextHop::Port(_));
    candidates.iter().rev().find(local).or(candidates.last())
}

impl Tables {
    pub(crate) fn new(seed: &Seed, former_addresses_max: usize) -> Self {
        let key = |label| HashKey::new(&seed.derive(label));
        Self {
            networks: Slab::new(),
            by_vni: HashMap::with_hasher(key("networks")),
            ports: Slab::new(),
            by_port: HashMap::with_hasher(key("ports")),
            vteps: Slab::new(),
            by_vtep: BTreeMap::new(),
            fdb: Fdb::new(seed),
            virtuals: HashMap::with_hasher(key("virtual addresses")),
            moves: Moves::new(former_addresses_max),
        }
    }

    pub(crate) fn network_index(&self, vni: Vni) -> Option<NetworkIndex> {
        self.by_vni.get(&vni).copied()
    }

    pub(crate) fn network_indices(&self) -> impl Iterator<Item = NetworkIndex> {
        self.networks
            .iter()
            .filter_map(|(index, _)| u16::try_from(index).ok())
            .map(NetworkIndex)
    }

    pub(crate) fn network(&self, index: NetworkIndex) -> Option<&Network> {
        self.networks.get(index.0.into())
    }

    pub(crate) fn network_mut(&mut self, index: NetworkIndex) -> Option<&mut Network> {
        self.networks.get_mut(index.0.into())
    }

    pub(crate) fn port_index(&self, port: PortId) -> Option<u32> {
        self.by_port.get(&port).copied()
    }

    pub(crate) fn vtep(&self, index: u32) -> Option<&Vtep> {
        self.vteps.get(index)
    }

    pub(crate) fn vtep_mut(&mut self, index: u32) -> Option<&mut Vtep> {
        self.vteps.get_mut(index)
    }

    pub(crate) fn vtep_index(&self, address: IpAddr) -> Option<u32> {
        self.by_vtep.get(&address).copied()
    }

    /// Adds a network for which there is room.
    pub(crate) fn add_network(&mut self, vni: Vni, config: NetworkConfig) -> NetworkIndex {
        let index = self.networks.insert(Network {
            vni,
            config,
            ports: Vec::new(),
            vteps: Vec::new(),
            holders: BTreeMap::new(),
            claims: BTreeMap::new(),
            remotes: 0,
        });
        let index =
            u16::try_from(index).expect("`networks_max` is a u16 and numbers are used again");
        self.by_vni.insert(vni, NetworkIndex(index));
        NetworkIndex(index)
    }

    /// Removes a network with everything in it.
    pub(crate) fn remove_network(&mut self, vni: Vni) -> Option<NetworkIndex> {
        let index = self.network_index(vni)?;
        let network = self.network(index)?;
        let ports = network.ports.clone();
        let remotes: Vec<_> = network.remote_rows().collect();
        for port in ports {
            if let Some(id) = self.ports.get(port).map(|port| port.id) {
                self.remove_port(id);
            }
        }
        for (mac, vtep) in remotes {
            self.remove_holder(index, mac, NextHop::Vtep(vtep));
        }
        // What was learned goes with the VTEPs.
        self.set_vteps(index, Vec::new());
        self.set_virtuals(index, std::iter::empty());
        self.fdb.set_quota(index, 0);
        self.moves.forget(index);
        self.by_vni.remove(&vni);
        self.networks.remove(index.0.into());
        Some(index)
    }

    /// Adds a port to a network that exists.
    pub(crate) fn add_port(&mut self, port: Port) -> u32 {
        let (id, network, mac) = (port.id, port.network, port.mac);
        let addresses = port.addresses.clone();
        let index = self.ports.insert(port);
        self.by_port.insert(id, index);
        if let Some(network) = self.network_mut(network) {
            network.ports.push(index);
        }
        self.put_holder(network, mac, NextHop::Port(index), addresses);
        index
    }

    pub(crate) fn remove_port(&mut self, id: PortId) -> Option<Port> {
        let index = self.by_port.remove(&id)?;
        let port = self.ports.remove(index)?;
        if let Some(network) = self.network_mut(port.network) {
            network.ports.retain(|&other| other != index);
        }
        self.remove_holder(port.network, port.mac, NextHop::Port(index));
        Some(port)
    }

    /// Adds or changes a remote row, which is then the newest; an equal one stays as it is.
    pub(crate) fn set_remote(
        &mut self,
        network: NetworkIndex,
        mac: MacAddr,
        addresses: Vec<IpAddr>,
        vtep: IpAddr,
    ) {
        let known = self.vtep_index(vtep).map(NextHop::Vtep);
        let before = known.and_then(|hop| self.network(network)?.holder(mac, hop));
        if before.is_some_and(|holder| *holder.addresses == *addresses) {
            return;
        }
        // Taken before the former row gives its own back, so that the VTEP keeps its number.
        let index = self.acquire_vtep(vtep);
        self.remove_remote(network, mac, vtep);
        if let Some(network) = self.network_mut(network) {
            network.remotes += 1;
        }
        self.put_holder(network, mac, NextHop::Vtep(index), addresses);
    }

    pub(crate) fn remove_remote(
        &mut self,
        network: NetworkIndex,
        mac: MacAddr,
        vtep: IpAddr,
    ) -> bool {
        let Some(index) = self.vtep_index(vtep) else {
            return false;
        };
        let removed = self.remove_holder(network, mac, NextHop::Vtep(index));
        if removed && let Some(network) = self.network_mut(network) {
            network.remotes -= 1;
        }
        removed
    }

    pub(crate) fn has_remote(&self, network: NetworkIndex, mac: MacAddr, vtep: IpAddr) -> bool {
        let hop = self.vtep_index(vtep).map(NextHop::Vtep);
        hop.is_some_and(|hop| {
            let network = self.network(network);
            network.is_some_and(|network| network.holder(mac, hop).is_some())
        })
    }

    /// Replaces the flood list; what was learned behind a VTEP that left is forgotten.
    pub(crate) fn set_vteps(&mut self, index: NetworkIndex, addresses: Vec<IpAddr>) {
        let vteps = addresses
            .into_iter()
            .map(|address| (address, self.acquire_vtep(address)));
        let vteps: Vec<_> = vteps.collect();
        let Some(network) = self.network_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut network.vteps, vteps.clone());
        for (address, vtep) in before {
            if vteps.binary_search(&(address, vtep)).is_err() {
                self.fdb.unlearn(index, Some(NextHop::Vtep(vtep)));
            }
            self.release_vtep(vtep);
        }
    }

    /// Returns where a MAC address of a network is.
    pub(crate) fn lookup(
        &self,
        now: Instant,
        network: NetworkIndex,
        mac: MacAddr,
    ) -> Option<NextHop> {
        self.fdb.lookup(now, network, mac)
    }

    /// Returns which MAC address an IP address of a network has.
    pub(crate) fn neighbour(
        &self,
        now: Instant,
        network: NetworkIndex,
        address: IpAddr,
    ) -> Option<MacAddr> {
        let known = self.network(network)?.claimant(address);
        if let Some(mac) = known.or_else(|| self.virtuals.get(&(network, address)).copied()) {
            return Some(mac);
        }
        // Link-local addresses are in no row: interfaces derive them.
        let IpAddr::V6(address) = address else {
            return None;
        };
        let mac = ipv6::link_local_mac(address)?;
        self.lookup(now, network, mac).map(|_| mac)
    }

    /// Returns whether a row says that `mac` has `address`, and none that wins says otherwise.
    pub(crate) fn has_claim(&self, network: NetworkIndex, address: IpAddr, mac: MacAddr) -> bool {
        let network = self.network(network);
        network.is_some_and(|network| network.claimant(address) == Some(mac))
    }

    /// Makes these the addresses of a network that the switch answers for.
    pub(crate) fn set_virtuals(
        &mut self,
        network: NetworkIndex,
        virtuals: impl Iterator<Item = (IpAddr, MacAddr)>,
    ) {
        self.virtuals.retain(|(of, _), _| *of != network);
        let virtuals = virtuals.map(|(address, mac)| ((network, address), mac));
        self.virtuals.extend(virtuals);
    }

    fn put_holder(
        &mut self,
        index: NetworkIndex,
        mac: MacAddr,
        hop: NextHop,
        addresses: Vec<IpAddr>,
    ) {
        let Some(network) = self.networks.get_mut(index.0.into()) else {
            return;
        };
        for address in &addresses {
            let before = network.claimant(*address);
            let claims = network.claims.entry(*address).or_default();
            claims.push(Claim { mac, hop });
            if let Some(after) = network.claimant(*address) {
                self.moves.here(index, *address, before, after);
            }
        }
        let addresses = addresses.into_boxed_slice();
        let holders = network.holders.entry(mac).or_default();
        holders.push(Holder { hop, addresses });
        self.program(index, mac);
    }

    fn remove_holder(&mut self, index: NetworkIndex, mac: MacAddr, hop: NextHop) -> bool {
        let Some(network) = self.networks.get_mut(index.0.into()) else {
            return false;
        };
        let holders = network.holders.get_mut(&mac);
        let removed = holders.and_then(|holders| {
            let holder = holders.remove(|holder| holder.hop == hop)?;
            Some((holder, holders.is_empty()))
        });
        let Some((holder, is_last)) = removed else {
            return false;
        };
        if is_last {
            network.holders.remove(&mac);
        }
        for address in &holder.addresses {
            let before = network.claimant(*address);
            if let Some(claims) = network.claims.get_mut(address) {
                claims.remove(|claim| *claim == Claim { mac, hop });
                if claims.is_empty() {
                    network.claims.remove(address);
                }
            }
            match (before, network.claimant(*address)) {
                (_, Some(after)) => self.moves.here(index, *address, before, after),
                (Some(before), None) => self.moves.gone(index, *address, before),
                (None, None) => {}
            }
        }
        self.program(index, mac);
        if let NextHop::Vtep(vtep) = hop {
            self.release_vtep(vtep);
        }
        true
    }

    /// Brings the FDB in line with who holds `mac`.
    fn program(&mut self, index: NetworkIndex, mac: MacAddr) {
        let Some(network) = self.networks.get(index.0.into()) else {
            return;
        };
        let holders = network.holders.get(&mac).map(Few::as_slice);
        match winner(holders.unwrap_or_default(), |holder| holder.hop) {
            Some(holder) => self.fdb.insert(index, mac, holder.hop),
            None => {
                self.fdb.remove(index, mac);
            }
        }
    }

    fn acquire_vtep(&mut self, address: IpAddr) -> u32 {
        if let Some(index) = self.vtep_index(address) {
            if let Some(vtep) = self.vteps.get_mut(index) {
                vtep.references += 1;
            }
            return index;
        }
        let vtep = Vtep {
            address,
            path_mtu: None,
            probed: None,
            references: 1,
        };
        let index = self.vteps.insert(vtep);
        self.by_vtep.insert(address, index);
        index
    }

    fn release_vtep(&mut self, index: u32) {
        let Some(vtep) = self.vteps.get_mut(index) else {
            return;
        };
        vtep.references -= 1;
        if vtep.references == 0 {
            self.by_vtep.remove(&vtep.address);
            self.vteps.remove(index);
        }
    }
}

impl Network {
    /// Returns whether `address` is a VTEP of the network.
    pub(crate) fn is_member(&self, address: IpAddr) -> Option<u32> {
        let at = self.vteps.binary_search_by_key(&address, |(vtep, _)| *vtep);
        Some(self.vteps.get(at.ok()?)?.1)
    }

    /// Returns the VXLAN header of the network's frames.
    pub(crate) const fn header(&self) -> vxlan::Repr {
        vxlan::Repr::with_extension(self.vni, self.config.header.extension())
    }

    /// Returns whether `address` may be in a packet of the network.
    pub(crate) fn has_subnet_of(&self, address: IpAddr) -> bool {
        self.config.subnets.is_empty()
            || self
                .config
                .subnets
                .iter()
                .any(|subnet| subnet.contains(&address))
    }

    /// Returns who has an IP address, by the rows.
    fn claimant(&self, address: IpAddr) -> Option<MacAddr> {
        let claims = self.claims.get(&address)?;
        Some(winner(claims.as_slice(), |claim| claim.hop)?.mac)
    }

    /// Returns whether a row says that `mac` is at `hop`, be it the winning one or not.
    pub(crate) fn is_held(&self, mac: MacAddr, hop: NextHop) -> bool {
        self.holder(mac, hop).is_some()
    }

    /// Walks over the remote rows: MAC address and number of the VTEP.
    pub(crate) fn remote_rows(&self) -> impl Iterator<Item = (MacAddr, u32)> {
        self.holders.iter().flat_map(|(mac, holders)| {
            holders
                .as_slice()
                .iter()
                .filter_map(|holder| match holder.hop {
                    NextHop::Vtep(vtep) => Some((*mac, vtep)),
                    NextHop::Port(_) => None,
                })
        })
    }

    fn holder(&self, mac: MacAddr, hop: NextHop) -> Option<&Holder> {
        self.holders
            .get(&mac)?
            .as_slice()
            .iter()
            .find(|holder| holder.hop == hop)
    }
}
