//! Rows of bridges, VXLAN devices and neighbours as rtnetlink has them, and back.

use std::{io, net::IpAddr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
};
use overlay_core::MacAddr;

use super::{
    devices::Links,
    plan::Operation,
    tables::{Hop, Place, Tables, is_ours},
};
use crate::{
    failure::{Doing, Failure},
    netlink::{Netlink, family},
};

/// Reads all rows of our devices.
pub(super) fn read(
    netlink: &mut Netlink,
    links: &Links,
    tables: &mut Tables,
) -> Result<(), Failure> {
    for message in dump(netlink, AddressFamily::Bridge).doing(|| "list forwarding rows".into())? {
        forwarding(&message, links, tables);
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in dump(netlink, family).doing(|| "list neighbours".into())? {
            neighbour(&message, links, tables);
        }
    }
    Ok(())
}

/// The device whose number an operation on a row takes.
pub(super) fn device(operation: &Operation) -> Option<&str> {
    match operation {
        Operation::Forward { hop, .. } | Operation::Forget { hop, .. } => Some(&hop.device),
        Operation::Tunnel { device, .. } | Operation::Untunnel { device, .. } => Some(device),
        Operation::Answer { bridge, .. } | Operation::Unanswer { bridge, .. } => Some(bridge),
        _ => None,
    }
}

/// Carries out an operation on a row of the device of this number.
pub(super) fn carry_out(
    netlink: &mut Netlink,
    index: u32,
    operation: &Operation,
) -> io::Result<()> {
    let replace = NLM_F_CREATE | NLM_F_REPLACE;
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = AddressFamily::Bridge;
    let (flags, removes) = match operation {
        Operation::Forward { place, .. } => {
            message.header.state = NeighbourState::Noarp;
            message.header.flags = NeighbourFlags::Controller;
            message.attributes = at(place);
            (replace, false)
        }
        Operation::Forget { place, hop } => {
            message.header.flags = if hop.device == place.bridge {
                NeighbourFlags::Own
            } else {
                NeighbourFlags::Controller
            };
            message.attributes = at(place);
            (0, true)
        }
        Operation::Tunnel { mac, vtep, .. } => {
            message.header.state = NeighbourState::Permanent;
            message.header.flags = NeighbourFlags::Own;
            message.attributes = vec![hardware(*mac), address(*vtep)];
            let nobody = *mac == MacAddr::UNSPECIFIED;
            let flags = if nobody {
                NLM_F_CREATE | NLM_F_APPEND
            } else {
                replace
            };
            (flags, false)
        }
        Operation::Untunnel { mac, vtep, .. } => {
            message.header.flags = NeighbourFlags::Own;
            message.attributes = vec![hardware(*mac), address(*vtep)];
            (0, true)
        }
        Operation::Answer {
            address: asked,
            mac,
            ..
        } => {
            message.header.family = family(*asked);
            message.header.state = NeighbourState::Permanent;
            message.attributes = vec![address(*asked), hardware(*mac)];
            (replace, false)
        }
        Operation::Unanswer { address: asked, .. } => {
            message.header.family = family(*asked);
            message.attributes = vec![address(*asked)];
            (0, true)
        }
        _ => return Ok(()),
    };
    let request = if removes {
        RouteNetlinkMessage::DelNeighbour(message)
    } else {
        RouteNetlinkMessage::NewNeighbour(message)
    };
    netlink.call(request, NLM_F_ACK | flags).map(drop)
}

fn dump(netlink: &mut Netlink, family: AddressFamily) -> io::Result<Vec<NeighbourMessage>> {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    let answers = netlink.call(RouteNetlinkMessage::GetNeighbour(message), NLM_F_DUMP)?;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) => Some(message),
        _ => None,
    });
    Ok(rows.collect())
}

fn forwarding(message: &NeighbourMessage, links: &Links, tables: &mut Tables) {
    let (mut mac, mut vtep, mut bridge, mut vlan) = (None, None, None, None);
    let mut odd = !matches!(
        message.header.state,
        NeighbourState::Permanent | NeighbourState::Noarp
    );
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(octets) => mac = hardware_of(octets),
            NeighbourAttribute::Destination(found) => vtep = address_of(found),
            NeighbourAttribute::Controller(index) => bridge = links.name(*index),
            NeighbourAttribute::Vlan(found) => vlan = Some(*found),
            // Said only where they are not the device's own.
            NeighbourAttribute::Port(_)
            | NeighbourAttribute::Vni(_)
            | NeighbourAttribute::SourceVni(_)
            | NeighbourAttribute::IfIndex(_) => odd = true,
            _ => {}
        }
    }
    let (Some(mac), Some(device)) = (mac, links.name(message.header.ifindex)) else {
        return;
    };
    if let Some(vtep) = vtep.filter(|_| is_ours(device)) {
        let row = (device.to_owned(), mac);
        // What leads to a VTEP by other ways than ours, or not for ever, is replaced as if it led nowhere, or goes.
        let nowhere = if vtep.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        };
        let vtep = if odd { nowhere } else { vtep };
        tables.tunnels.entry(row).or_default().insert(vtep);
        return;
    }
    let Some(bridge) = bridge.filter(|bridge| is_ours(bridge)) else {
        return;
    };
    // Each member's own address is the bridge's to receive.
    if message.header.state == NeighbourState::Permanent && links.has(mac) {
        return;
    }
    let place = Place {
        bridge: bridge.to_owned(),
        mac,
        vlan,
    };
    let hop = Hop {
        device: device.to_owned(),
        fixed: message.header.state == NeighbourState::Noarp,
    };
    tables.forwarding.insert(place, hop);
}

fn neighbour(message: &NeighbourMessage, links: &Links, tables: &mut Tables) {
    let (mut mac, mut asked) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(octets) => mac = hardware_of(octets),
            NeighbourAttribute::Destination(found) => asked = address_of(found),
            _ => {}
        }
    }
    let device = links.name(message.header.ifindex);
    let (Some(device), Some(asked)) = (device.filter(|name| is_ours(name)), asked) else {
        return;
    };
    let permanent = match message.header.state {
        // Groups, and what is about to go.
        NeighbourState::Noarp | NeighbourState::Failed | NeighbourState::None => return,
        NeighbourState::Permanent => mac,
        _ => None,
    };
    let row = (device.to_owned(), asked);
    tables.neighbours.insert(row, permanent);
}

fn at(place: &Place) -> Vec<NeighbourAttribute> {
    let vlan = place.vlan.map(NeighbourAttribute::Vlan);
    [hardware(place.mac)].into_iter().chain(vlan).collect()
}

fn hardware(mac: MacAddr) -> NeighbourAttribute {
    NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())
}

fn hardware_of(octets: &[u8]) -> Option<MacAddr> {
    <[u8; 6]>::try_from(octets).ok().map(MacAddr::new)
}

fn address(address: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(NeighbourAddress::from(address))
}

fn address_of(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some((*v4).into()),
        NeighbourAddress::Inet6(v6) => Some((*v6).into()),
        // Of VXLAN devices the family is that of the row.
        NeighbourAddress::Other(octets) => {
            let v4 = <[u8; 4]>::try_from(octets.as_slice()).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(octets.as_slice()).map(IpAddr::from);
            v4.or_else(|_| v6()).ok()
        }
        _ => None,
    }
}
