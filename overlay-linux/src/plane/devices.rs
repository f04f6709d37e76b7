//! Devices as rtnetlink has them, and back.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind,
        InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    },
};
use nix::errno::Errno;
use overlay_core::{MacAddr, Vni};

use super::tables::{Device, Kind, Membership, Tunnel, is_ours};
use crate::netlink::{LinkChange, Netlink};

/// All interfaces of the switch namespace, by their numbers.
#[derive(Debug)]
pub(super) struct Links(BTreeMap<u32, Found>);

#[derive(Debug)]
struct Found {
    name: String,
    mac: MacAddr,
    device: Device,
    controller: Option<u32>,
    membership: Option<Membership>,
}

impl Links {
    pub(super) fn name(&self, index: u32) -> Option<&str> {
        self.0.get(&index).map(|found| found.name.as_str())
    }

    /// Whether an address is some interface's own.
    pub(super) fn has(&self, mac: MacAddr) -> bool {
        self.0.values().any(|found| found.mac == mac)
    }

    pub(super) fn indices(&self) -> BTreeMap<String, u32> {
        let all = self.0.iter();
        all.map(|(index, found)| (found.name.clone(), *index))
            .collect()
    }

    /// Those that are not, in bridges that are.
    pub(super) fn strangers(&self) -> BTreeMap<String, String> {
        let others = self.0.values().filter(|found| !is_ours(&found.name));
        let strangers = others.filter_map(|found| {
            let bridge = found.controller.and_then(|index| self.name(index));
            let bridge = bridge.filter(|bridge| is_ours(bridge))?;
            Some((found.name.clone(), bridge.to_owned()))
        });
        strangers.collect()
    }

    /// All of them, but for what they are members of.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Device)> {
        let all = self.0.values();
        all.map(|found| (found.name.as_str(), &found.device))
    }

    /// Those of our making.
    pub(super) fn ours(&self) -> BTreeMap<String, Device> {
        let ours = self.0.values().filter(|found| is_ours(&found.name));
        let ours = ours.map(|found| {
            let bridge = found.controller.and_then(|index| self.name(index));
            let membership = found.membership.unwrap_or(Membership::PORT);
            let member = bridge.map(|bridge| (bridge.to_owned(), membership));
            let device = Device {
                member,
                ..found.device.clone()
            };
            (found.name.clone(), device)
        });
        ours.collect()
    }
}

pub(super) fn read(netlink: &mut Netlink) -> io::Result<Links> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.call(request, NLM_F_DUMP)?;
    Ok(Links(answers.into_iter().filter_map(found).collect()))
}

/// Makes a bridge that tells no VLANs apart, and shows packets or not.
pub(super) fn make_bridge(netlink: &mut Netlink, name: &str, shown: [bool; 2]) -> io::Result<u32> {
    let info = |options| {
        let data = InfoData::Bridge(options);
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)];
        vec![LinkAttribute::LinkInfo(info)]
    };
    // Without a VLAN of its own, rows are made once and not again for that one.
    let mut options = vec![InfoBridge::VlanDefaultPvid(0)];
    options.extend(bridge_options(shown));
    match make(netlink, name, info(options)) {
        // A kernel without CONFIG_BRIDGE_VLAN_FILTERING.
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            make(netlink, name, info(bridge_options(shown).into()))?;
        }
        made => made?,
    }
    Ok(netlink.link(name)?.index)
}

/// Makes a VXLAN device in another namespace, over a socket of the one that `underlay` is in.
pub(super) fn make_vxlan(
    underlay: &mut Netlink,
    name: &str,
    tunnel: &Tunnel,
    within: BorrowedFd<'_>,
) -> io::Result<()> {
    let [sent, taken] = tunnel.zero_checksum6;
    let local = match tunnel.local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    let options = vec![
        InfoVxlan::Id(tunnel.vni.get()),
        local,
        InfoVxlan::Port(tunnel.port),
        InfoVxlan::Ttl(tunnel.ttl),
        InfoVxlan::Learning(tunnel.learning),
        InfoVxlan::UDPCsum(tunnel.checksum),
        InfoVxlan::UDPZeroCsumTX(sent),
        InfoVxlan::UDPZeroCsumRX(taken),
        // A VTEP that is an address of this host is another plane's: all goes by sockets.
        InfoVxlan::Localbypass(false),
    ];
    let info = vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(options)),
    ];
    let attributes = vec![
        LinkAttribute::NetNsFd(within.as_raw_fd()),
        LinkAttribute::LinkInfo(info),
    ];
    make(underlay, name, attributes)
}

fn make(netlink: &mut Netlink, name: &str, attributes: Vec<LinkAttribute>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    message.attributes.extend(attributes);
    let request = RouteNetlinkMessage::NewLink(message);
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    netlink.call(request, flags).map(drop)
}

/// Changes what is different. A device that becomes a member goes up last: it is a proper one by then.
pub(super) fn set(
    netlink: &mut Netlink,
    index: u32,
    from: &Device,
    to: &Device,
    bridge: u32,
) -> io::Result<()> {
    if from.kind != to.kind {
        let data = match &to.kind {
            Kind::Bridge { shown, .. } => {
                let mut options = Vec::from(bridge_options(*shown));
                if matches!(from.kind, Kind::Bridge { vlans: true, .. }) {
                    options.push(InfoBridge::VlanFiltering(false));
                }
                Some((InfoKind::Bridge, InfoData::Bridge(options)))
            }
            Kind::Vxlan(tunnel) => {
                let options = vec![InfoVxlan::Learning(tunnel.learning)];
                Some((InfoKind::Vxlan, InfoData::Vxlan(options)))
            }
            Kind::Port | Kind::Other(_) => None,
        };
        if let Some((kind, data)) = data {
            let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(data)];
            properties(netlink, index, info)?;
        }
    }
    let name = |device: &Device| device.member.as_ref().map(|(bridge, _)| bridge.clone());
    let moved = name(from) != name(to);
    let change = LinkChange {
        mtu: (from.mtu != to.mtu).then_some(to.mtu),
        controller: moved.then_some(bridge),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        netlink.change(index, change)?;
    }
    if let Some((_, membership)) = to.member.as_ref().filter(|_| from.member != to.member) {
        let info = vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![
                InfoBridgePort::Learning(membership.learning),
                InfoBridgePort::UnicastFlood(membership.unknown),
                InfoBridgePort::MulticastFlood(membership.groups),
                InfoBridgePort::BroadcastFlood(membership.groups),
                InfoBridgePort::NeighSupress(membership.suppress),
                InfoBridgePort::HairpinMode(membership.hairpin),
                InfoBridgePort::Isolated(membership.isolated),
            ])),
        ];
        properties(netlink, index, info)?;
    }
    if from.up != to.up {
        let up = LinkChange {
            up: Some(to.up),
            ..LinkChange::default()
        };
        netlink.change(index, up)?;
    }
    Ok(())
}

/// What concerns a kind or a member is not looked at in a request to set a link.
fn properties(netlink: &mut Netlink, index: u32, info: Vec<LinkInfo>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::LinkInfo(info)];
    let request = RouteNetlinkMessage::NewLink(message);
    netlink.call(request, NLM_F_ACK).map(drop)
}

fn found(answer: RouteNetlinkMessage) -> Option<(u32, Found)> {
    let RouteNetlinkMessage::NewLink(message) = answer else {
        return None;
    };
    let mut found = Found {
        name: String::new(),
        mac: MacAddr::UNSPECIFIED,
        device: Device {
            kind: Kind::Other(String::new()),
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            member: None,
        },
        controller: None,
        membership: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::Mtu(mtu) => found.device.mtu = mtu,
            LinkAttribute::Controller(index) => found.controller = Some(index),
            LinkAttribute::Address(octets) => {
                let octets = <[u8; 6]>::try_from(octets);
                found.mac = octets.map(MacAddr::new).unwrap_or_default();
            }
            LinkAttribute::LinkInfo(infos) => {
                found.device.kind = kind(&infos);
                found.membership = membership(&infos);
            }
            _ => {}
        }
    }
    Some((message.header.index, found))
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let named = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let other = || Kind::Other(named.map(|kind| format!("{kind:?}")).unwrap_or_default());
    match (named, data) {
        (Some(InfoKind::Veth), _) => Kind::Port,
        (Some(InfoKind::Bridge), Some(InfoData::Bridge(options))) => {
            let has = |option: InfoBridge| options.contains(&option);
            Kind::Bridge {
                snooping: has(InfoBridge::MulticastSnooping(true)),
                vlans: has(InfoBridge::VlanFiltering(true)),
                spanning_tree: !has(InfoBridge::StpState(BridgeStpState::Disabled)),
                shown: [
                    has(InfoBridge::NfCallIpTables(true)),
                    has(InfoBridge::NfCallIp6Tables(true)),
                ],
            }
        }
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(options))) => {
            tunnel(options).map_or_else(other, Kind::Vxlan)
        }
        _ => other(),
    }
}

fn tunnel(options: &[InfoVxlan]) -> Option<Tunnel> {
    let (mut vni, mut local, mut port) = (None, None, None);
    let (mut ttl, mut learning, mut checksum) = (0, false, false);
    let mut zero_checksum6 = [false; 2];
    for option in options {
        match option {
            InfoVxlan::Id(id) => vni = Vni::new(*id),
            InfoVxlan::Local(v4) => local = Some(IpAddr::from(*v4)),
            InfoVxlan::Local6(v6) => local = Some(IpAddr::from(*v6)),
            InfoVxlan::Port(found) => port = Some(*found),
            InfoVxlan::Ttl(found) => ttl = *found,
            InfoVxlan::Learning(found) => learning = *found,
            InfoVxlan::UDPCsum(found) => checksum = *found,
            InfoVxlan::UDPZeroCsumTX(found) => zero_checksum6[0] = *found,
            InfoVxlan::UDPZeroCsumRX(found) => zero_checksum6[1] = *found,
            // What forwards by other rules than ours.
            InfoVxlan::CollectMetadata(true) | InfoVxlan::Gpe | InfoVxlan::Vnifilter(true) => {
                return None;
            }
            _ => {}
        }
    }
    Some(Tunnel {
        vni: vni?,
        local: local?,
        port: port?,
        ttl,
        learning,
        checksum,
        zero_checksum6,
    })
}

fn membership(infos: &[LinkInfo]) -> Option<Membership> {
    let options = infos.iter().find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(options)) => Some(options),
        _ => None,
    })?;
    let has = |option: InfoBridgePort| options.contains(&option);
    // Of a port that is spared one of both, nothing is as wanted: setting it sets both.
    let groups = [true, false].map(|one| {
        has(InfoBridgePort::MulticastFlood(one)) && has(InfoBridgePort::BroadcastFlood(one))
    });
    Some(Membership {
        learning: has(InfoBridgePort::Learning(true)),
        unknown: has(InfoBridgePort::UnicastFlood(true)),
        groups: groups[0],
        suppress: has(InfoBridgePort::NeighSupress(true)),
        hairpin: has(InfoBridgePort::HairpinMode(true)),
        isolated: has(InfoBridgePort::Isolated(true)),
    })
}

/// Multicast goes to all, and there are no loops.
fn bridge_options([shown4, shown6]: [bool; 2]) -> [InfoBridge; 4] {
    [
        InfoBridge::MulticastSnooping(false),
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::NfCallIpTables(shown4),
        InfoBridge::NfCallIp6Tables(shown6),
    ]
}
