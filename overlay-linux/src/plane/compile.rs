//! From what is desired to what the kernel shall hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{
    MacAddr, NetworkId, Vni,
    plane::{DataPath, Desired, DesiredNetwork},
};
use thiserror::Error;

use super::{
    filter,
    filtering::NoFiltering,
    fitness::NoSealing,
    guard,
    policy::{self, Compiled, Policed, TooMany},
    sealing::{self, Clash},
    tables::{Device, Hop, Place, Tables, Tunnel, bridge_name, port_name, vxlan_name},
};

/// The way between nodes, as the kernel's VXLAN devices take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The address of this node's VTEP: the outer source.
    pub local: IpAddr,
    /// The port of VXLAN, of UDP: 4789 (RFC 7348 §5).
    pub port: u16,
}

/// What shall be, and what of it cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What the kernel shall hold.
    pub tables: Tables,
    /// What it cannot hold, and why.
    pub refused: Vec<(NetworkId, Refused)>,
}

/// Why a network is not, or not entirely, carried.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// Another network has its number.
    #[error("network {other} has its VNI")]
    Number {
        /// The other one.
        other: NetworkId,
    },
    /// A VXLAN device speaks one family only.
    #[error("the VTEP {vtep} is not of the family of this node's {local}")]
    Family {
        /// The VTEP that is not reached.
        vtep: IpAddr,
        /// This node's.
        local: IpAddr,
    },
    /// It is encrypted, and the kernel cannot seal. Nothing of it passes.
    #[error("its packets cannot be sealed, and nothing of it passes: {reason}")]
    Sealing {
        /// Why not.
        reason: NoSealing,
    },
    /// It has rules, and the kernel cannot carry them out. Nothing of it passes.
    #[error("its rules cannot be carried out, and nothing of it passes: {reason}")]
    Filtering {
        /// Why not.
        reason: NoFiltering,
    },
    /// It has more rules than can be looked up. Nothing of it passes.
    #[error("nothing of it passes: {reason}")]
    Policy {
        /// What there is too much of.
        reason: TooMany,
    },
    /// It is encrypted, and so is one that the user plane carries: two would seal with one key. Nothing of it passes.
    #[error(
        "the encrypted network {other} has the user data path, and one key cannot be used by both: give both the same path"
    )]
    Paths {
        /// The other one.
        other: NetworkId,
    },
    /// Another peer's association has the SPI of this one's: what it sends cannot be opened.
    #[error("the SPI {spi:#010x} of the VTEP {vtep} is another one's")]
    Spi {
        /// The VTEP that is not heard.
        vtep: IpAddr,
        /// The SPI.
        spi: u32,
    },
    /// Two of its endpoints have one address, and a table has one row for it.
    #[error("the MAC address {mac} is more than one endpoint's")]
    Shared {
        /// The address, which is the first one's.
        mac: MacAddr,
    },
}

/// What the kernel can, where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Whether it can seal what encrypted networks send.
    pub seal: Result<(), NoSealing>,
    /// Whether it can carry out the rules of networks.
    pub filter: Result<(), NoFiltering>,
}

impl Abilities {
    /// Those of a kernel that can everything.
    pub const ALL: Self = Self {
        seal: Ok(()),
        filter: Ok(()),
    };
}

/// Compiles the networks whose path is the kernel; encrypted ones and those with rules as far as it can seal and filter.
pub fn compile(desired: &Desired, underlay: &Underlay, can: &Abilities) -> Wanted {
    let mut wanted = Wanted::default();
    let mut carried: BTreeMap<_, (NetworkId, &DesiredNetwork)> = BTreeMap::new();
    let mut policies: BTreeMap<_, Compiled> = BTreeMap::new();
    // Encrypted networks that are not carried.
    let mut closed: BTreeMap<_, NetworkId> = BTreeMap::new();
    for (id, network) in &desired.networks {
        if network.path != DataPath::Kernel {
            continue;
        }
        let other = carried.get(&network.vni).map(|(other, _)| *other);
        if let Some(other) = other.or_else(|| closed.get(&network.vni).copied()) {
            let reason = Refused::Number { other };
            wanted.refused.push((*id, reason));
            continue;
        }
        let compiled = match unsealed(desired, network, &can.seal) {
            Some(reason) => Err(reason),
            None => rules(network, &can.filter),
        };
        match compiled {
            Ok(compiled) => policies.extend(compiled.map(|policy| (network.vni, policy))),
            Err(reason) => {
                if network.encrypted {
                    closed.insert(network.vni, *id);
                }
                wanted.refused.push((*id, reason));
                continue;
            }
        }
        carried.insert(network.vni, (*id, network));
    }
    for (id, network) in carried.values() {
        let mut compiler = Compiler {
            underlay,
            network,
            judged: policies.contains_key(&network.vni),
            tables: &mut wanted.tables,
            refused: Vec::new(),
        };
        compiler.devices();
        compiler.rows();
        let refused = compiler.refused.into_iter();
        wanted.refused.extend(refused.map(|reason| (*id, reason)));
    }
    let networks: Vec<&DesiredNetwork> = carried.values().map(|(_, network)| *network).collect();
    if !networks.is_empty() {
        wanted.tables.filter = Some(filter::compile(&networks, &policed(&networks, &policies)));
    }
    if !networks.is_empty() || !closed.is_empty() {
        let closed = closed.into_keys().collect();
        wanted.tables.guard = Some(guard::compile(&networks, &closed, underlay));
    }
    if can.seal.is_ok() && users(desired).is_none() {
        let (sealing, clashes) = sealing::compile(desired, underlay);
        wanted.tables.sealing = sealing;
        for (id, network) in carried.values().filter(|(_, network)| network.encrypted) {
            let own = clashes
                .iter()
                .filter(|one| network.vteps.contains(&one.peer));
            let own = own.map(|Clash { peer, spi }| Refused::Spi {
                vtep: *peer,
                spi: *spi,
            });
            wanted.refused.extend(own.map(|reason| (*id, reason)));
        }
    }
    wanted
}

/// The networks that have rules.
fn policed<'a>(
    networks: &[&'a DesiredNetwork],
    policies: &'a BTreeMap<Vni, Compiled>,
) -> Vec<Policed<'a>> {
    let policed = networks.iter().filter_map(|network| {
        let policy = policies.get(&network.vni)?;
        Some(Policed { network, policy })
    });
    policed.collect()
}

/// Compiles the rules of a network; none if it is open.
fn rules(
    network: &DesiredNetwork,
    can_filter: &Result<(), NoFiltering>,
) -> Result<Option<Compiled>, Refused> {
    let compiled = policy::compile(&network.policy);
    let compiled = compiled.map_err(|reason| Refused::Policy { reason })?;
    match can_filter {
        Err(reason) if compiled.is_some() => {
            let reason = reason.clone();
            Err(Refused::Filtering { reason })
        }
        _ => Ok(compiled),
    }
}

/// Why an encrypted network cannot be carried; none if it can, or is not encrypted.
fn unsealed(
    desired: &Desired,
    network: &DesiredNetwork,
    can_seal: &Result<(), NoSealing>,
) -> Option<Refused> {
    if !network.encrypted {
        return None;
    }
    if let Err(reason) = can_seal {
        let reason = reason.clone();
        return Some(Refused::Sealing { reason });
    }
    users(desired).map(|other| Refused::Paths { other })
}

/// The encrypted network that the user plane carries, if it does: it seals with the same keys.
fn users(desired: &Desired) -> Option<NetworkId> {
    let mut networks = desired.networks.iter();
    let found = networks.find(|(_, one)| one.encrypted && one.path == DataPath::User);
    found.map(|(id, _)| *id)
}

struct Compiler<'a> {
    underlay: &'a Underlay,
    network: &'a DesiredNetwork,
    /// Whether it has rules.
    judged: bool,
    tables: &'a mut Tables,
    refused: Vec<Refused>,
}

impl Compiler<'_> {
    fn devices(&mut self) {
        let (vni, mtu) = (self.network.vni, u32::from(self.network.mtu));
        let (bridge, vxlan) = (bridge_name(vni), vxlan_name(vni));
        let tunnel = Tunnel::new(vni, self.underlay);
        let devices = &mut self.tables.devices;
        // Of a VLAN a bridge without VLAN filtering knows nothing, and would answer what is asked in one outside of it.
        let answers = !self.network.vlan_tags;
        devices.insert(vxlan, Device::vxlan(tunnel, &bridge, mtu, answers));
        for endpoint in self.network.ports.keys() {
            devices.insert(port_name(*endpoint), Device::port(&bridge, mtu));
        }
        devices.insert(bridge, Device::bridge(mtu, self.judged));
    }

    fn rows(&mut self) {
        let (network, vxlan) = (self.network, vxlan_name(self.network.vni));
        for (endpoint, port) in &network.ports {
            let addresses = port.addresses.iter().map(|address| address.addr());
            self.endpoint(port.mac, &port_name(*endpoint), addresses);
        }
        for remote in network.remotes.values() {
            if !self.reaches(remote.vtep) {
                continue;
            }
            if self.endpoint(remote.mac, &vxlan, remote.addresses.iter().copied()) {
                let row = (vxlan.clone(), remote.mac);
                let vtep = BTreeSet::from([remote.vtep]);
                self.tables.tunnels.insert(row, vtep);
            }
        }
        let vteps = network.vteps.iter().copied();
        let all: BTreeSet<IpAddr> = vteps.filter(|vtep| self.reaches(*vtep)).collect();
        if !all.is_empty() {
            let nobody = (vxlan, MacAddr::UNSPECIFIED);
            self.tables.tunnels.insert(nobody, all);
        }
    }

    /// Makes the rows of an endpoint behind a device; false if another one has its MAC address.
    fn endpoint(
        &mut self,
        mac: MacAddr,
        device: &str,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> bool {
        let bridge = bridge_name(self.network.vni);
        let place = Place {
            bridge: bridge.clone(),
            mac,
            vlan: None,
        };
        if self.tables.forwarding.contains_key(&place) {
            self.refused.push(Refused::Shared { mac });
            return false;
        }
        let hop = Hop {
            device: device.to_owned(),
            fixed: true,
        };
        self.tables.forwarding.insert(place, hop);
        for address in addresses {
            let neighbours = &mut self.tables.neighbours;
            neighbours
                .entry((bridge.clone(), address))
                .or_insert(Some(mac));
        }
        true
    }

    fn reaches(&mut self, vtep: IpAddr) -> bool {
        let local = self.underlay.local;
        if vtep.is_ipv4() == local.is_ipv4() {
            return true;
        }
        let refused = Refused::Family { vtep, local };
        if !self.refused.contains(&refused) {
            self.refused.push(refused);
        }
        false
    }
}
