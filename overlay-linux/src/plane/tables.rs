//! What the kernel shall hold or does hold: devices, forwarding rows, neighbours and filters, as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{EndpointId, MacAddr, Vni};

use super::{compile::Underlay, sealing::Sealing};
use crate::nftables::Table;

/// All that the plane makes, or what of it is there. Devices go by their names in the switch namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Bridges, VXLAN devices and the outer ends of ports.
    pub devices: BTreeMap<String, Device>,
    /// Devices that are not of our making and members of bridges that are, with these: nothing checks their frames, so none
    /// are wanted.
    pub strangers: BTreeMap<String, String>,
    /// Where a bridge sends frames to a MAC address.
    pub forwarding: BTreeMap<Place, Hop>,
    /// Where a VXLAN device sends frames to a MAC address; those to nobody known go to all under the unspecified one.
    pub tunnels: BTreeMap<(String, MacAddr), BTreeSet<IpAddr>>,
    /// Who is asked for by ARP and neighbour discovery, and answered for, on a bridge; none if the row may age.
    pub neighbours: BTreeMap<(String, IpAddr), Option<MacAddr>>,
    /// The filter in the switch namespace.
    pub filter: Option<Rules>,
    /// The filter before the VXLAN devices, in the underlay's namespace.
    pub guard: Option<Rules>,
    /// What encrypted networks are sealed with, in the underlay's namespace.
    pub sealing: Sealing,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub kind: Kind,
    /// Largest IP packet, in octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// The bridge that it is a member of, and as what.
    pub member: Option<(String, Membership)>,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A bridge.
    Bridge {
        /// Whether it keeps multicast from those who did not ask for it; an overlay sends it to all.
        snooping: bool,
        /// Whether it tells VLANs apart.
        vlans: bool,
        /// Whether it speaks a spanning tree protocol.
        spanning_tree: bool,
        /// Whether the packets in its frames, of IPv4 and of IPv6, are shown to the rules for packets.
        shown: [bool; 2],
    },
    /// A VXLAN device over a socket of the underlay's namespace.
    Vxlan(Tunnel),
    /// The outer end of an endpoint's port.
    Port,
    /// Something else under a name of ours.
    Other(String),
}

/// How a VXLAN device encapsulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// The outer source.
    pub local: IpAddr,
    /// The destination port, of UDP.
    pub port: u16,
    /// Outer time to live, or hop limit.
    pub ttl: u8,
    /// Whether it learns from what arrives.
    pub learning: bool,
    /// Whether UDP over IPv4 has a checksum.
    pub checksum: bool,
    /// Whether UDP over IPv6 is sent without a checksum, and taken without one.
    pub zero_checksum6: [bool; 2],
}

/// How a device is a member of its bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Whether the bridge learns from what it sends.
    pub learning: bool,
    /// Whether it gets frames to unicast addresses that nobody has.
    pub unknown: bool,
    /// Whether it gets multicast and broadcast.
    pub groups: bool,
    /// Whether it is spared questions that the bridge can answer.
    pub suppress: bool,
    /// Whether frames may go back to where they came from.
    pub hairpin: bool,
    /// Whether it is kept from other isolated members.
    pub isolated: bool,
}

/// A MAC address on a bridge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The bridge.
    pub bridge: String,
    /// The MAC address.
    pub mac: MacAddr,
    /// The VLAN, where somebody made one.
    pub vlan: Option<u16>,
}

/// Where a bridge sends frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The member that they leave by, or the bridge itself.
    pub device: String,
    /// Whether it is such a row as is made here, which nothing learned replaces.
    pub fixed: bool,
}

/// A filter: the tables of nf_tables that it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub(crate) table: Table,
    /// Beside one for frames, that for the packets in them, where networks have rules for these.
    pub(crate) packets: Option<Table>,
}

impl Device {
    /// A bridge as it is made here, for a network whose packets are `judged` or not.
    pub(super) fn bridge(mtu: u32, judged: bool) -> Self {
        Self {
            kind: Kind::Bridge {
                snooping: false,
                vlans: false,
                spanning_tree: false,
                shown: [judged; 2],
            },
            mtu,
            up: true,
            member: None,
        }
    }

    /// A VXLAN device as it is made here. Where the bridge `answers` questions about addresses, it is spared these.
    pub(super) fn vxlan(tunnel: Tunnel, bridge: &str, mtu: u32, answers: bool) -> Self {
        let membership = Membership {
            suppress: answers,
            ..Membership::PORT
        };
        Self {
            kind: Kind::Vxlan(tunnel),
            mtu,
            up: true,
            member: Some((bridge.to_owned(), membership)),
        }
    }

    /// The outer end of a port.
    pub(super) fn port(bridge: &str, mtu: u32) -> Self {
        Self {
            kind: Kind::Port,
            mtu,
            up: true,
            member: Some((bridge.to_owned(), Membership::PORT)),
        }
    }
}

impl Tunnel {
    /// One as it is made here.
    pub(super) fn new(vni: Vni, underlay: &Underlay) -> Self {
        Self {
            vni,
            local: underlay.local,
            port: underlay.port,
            ttl: TTL,
            learning: false,
            checksum: true,
            // Sent with one (RFC 8200 §8.1), and taken without one, as RFC 7348 §5 asks of a receiver. Over IPv4 it says
            // nothing, but devices that differ in it share no socket with each other.
            zero_checksum6: [false, underlay.local.is_ipv6()],
        }
    }
}

impl Membership {
    /// That of a port, and of a VXLAN device: all addresses are known, so none gets what is for nobody known.
    pub(super) const PORT: Self = Self {
        learning: false,
        unknown: false,
        groups: true,
        suppress: false,
        hairpin: false,
        isolated: false,
    };
}

/// The name of a network's bridge.
pub fn bridge_name(vni: Vni) -> String {
    format!("{BRIDGE}{}", vni.get())
}

/// The name of a network's VXLAN device.
pub fn vxlan_name(vni: Vni) -> String {
    format!("{VXLAN}{}", vni.get())
}

/// The name of the outer end of an endpoint's port: of the endpoint's number as much as a name holds.
pub fn port_name(endpoint: EndpointId) -> String {
    let octets = endpoint.as_bytes().iter().take(PORT_OCTETS);
    let digits = octets.map(|octet| format!("{octet:02x}"));
    [PORT.to_owned(), digits.collect()].concat()
}

/// Whether a device of this name is of our making: all others are left alone.
pub(super) fn is_ours(name: &str) -> bool {
    let number = |digits: &str| {
        let number = digits.parse().ok().and_then(Vni::new);
        number.is_some_and(|vni| vni.get().to_string() == digits)
    };
    let hexadecimal = |digits: &str| {
        let lower = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        digits.len() == 2 * PORT_OCTETS && digits.bytes().all(lower)
    };
    name.strip_prefix(BRIDGE).is_some_and(number)
        || name.strip_prefix(VXLAN).is_some_and(number)
        || name.strip_prefix(PORT).is_some_and(hexadecimal)
}

/// As that of packets of programs.
const TTL: u8 = 64;
const BRIDGE: &str = "ovb";
const VXLAN: &str = "ovx";
const PORT: &str = "p";
/// A name has at most 15 octets.
const PORT_OCTETS: usize = 7;
