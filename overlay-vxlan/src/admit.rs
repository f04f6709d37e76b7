//! Whether a frame may be what it says it is: pure checks on one frame against one port or one VTEP.

use std::net::{IpAddr, Ipv4Addr};

use overlay_core::MacAddr;

use crate::{
    config::VlanTags,
    frame::Frame,
    headers::{Headers, Ip, Payload},
    segment::segment_bytes_max,
    stats::DropReason,
    tables::{Network, Port},
    wire::{
        arp,
        icmpv6::{self, Kind},
        ipv4::Protocol,
        ipv6,
    },
};

/// Checks a frame from a local port: it must come from the port's addresses and no others.
pub(crate) fn local(
    network: &Network,
    port: &Port,
    headers: &Headers,
    frame: &Frame,
) -> Result<(), DropReason> {
    if headers.source != port.mac {
        return Err(DropReason::SourceMac);
    }
    any(network, headers)?;
    offload(headers, frame)?;
    match headers.seen(&network.config) {
        Payload::Arp(packet) => arp_sender(port, packet),
        Payload::Ip(ip) => {
            if !is_own(port, ip) {
                return Err(DropReason::SourceAddress);
            }
            neighbour_sender(port, ip, frame.bytes())
        }
        Payload::Other => Ok(()),
    }
}

/// Checks a frame from a VTEP, but for its source MAC address, which the tables know.
pub(crate) fn remote(
    network: &Network,
    headers: &Headers,
    frame: &Frame,
) -> Result<(), DropReason> {
    if headers.source.is_multicast() || headers.source == MacAddr::UNSPECIFIED {
        return Err(DropReason::SourceMac);
    }
    any(network, headers)?;
    match headers.seen(&network.config) {
        Payload::Arp(packet) => {
            let sender = packet.sender_address;
            if !sender.is_unspecified() && !network.has_subnet_of(sender.into()) {
                return Err(DropReason::ForeignAddress);
            }
            Ok(())
        }
        Payload::Ip(ip) => {
            if !is_inside(network, ip.source) || !is_inside(network, ip.destination) {
                return Err(DropReason::ForeignAddress);
            }
            discovery(ip, frame.bytes()).map(|_| ())
        }
        Payload::Other => Ok(()),
    }
}

/// Returns whether a packet from or to `address` may be in the network at all.
pub(crate) fn is_inside(network: &Network, address: IpAddr) -> bool {
    let everywhere = match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_multicast() || address.is_unicast_link_local() || address.is_unspecified()
        }
    };
    everywhere || network.has_subnet_of(address)
}

/// Checks what holds for every frame.
fn any(network: &Network, headers: &Headers) -> Result<(), DropReason> {
    if headers.is_tagged() && network.config.vlan_tags == VlanTags::Drop {
        return Err(DropReason::VlanTag);
    }
    if let [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x0f] = headers.destination.octets() {
        return Err(DropReason::ReservedGroup);
    }
    Ok(())
}

/// A checksum may be completed in the transport layer only: elsewhere it would rewrite what was checked.
fn offload(headers: &Headers, frame: &Frame) -> Result<(), DropReason> {
    let offload = frame.offload();
    if let Some(checksum) = offload.checksum {
        let Payload::Ip(ip) = headers.payload else {
            return Err(DropReason::Offload);
        };
        let start = usize::from(checksum.start);
        let end = start + usize::from(checksum.offset) + 2;
        if ip.fragment.is_some() || start < ip.upper_at || end > ip.end {
            return Err(DropReason::Offload);
        }
    }
    match offload.segment {
        Some(_) => segment_bytes_max(frame).map_or(Err(DropReason::Offload), |_| Ok(())),
        None => Ok(()),
    }
}

fn arp_sender(port: &Port, packet: &arp::Repr) -> Result<(), DropReason> {
    let sender = packet.sender_address;
    let is_probe = sender == Ipv4Addr::UNSPECIFIED && packet.operation == arp::Operation::REQUEST;
    if packet.sender_mac != port.mac || !(is_probe || port.has(sender.into())) {
        return Err(DropReason::SourceAddress);
    }
    Ok(())
}

fn is_own(port: &Port, ip: &Ip) -> bool {
    if port.has(ip.source) {
        return true;
    }
    match ip.source {
        IpAddr::V4(_) => false,
        // Before it has an address, an interface asks whether somebody else has it, and joins groups.
        IpAddr::V6(source) if source.is_unspecified() => {
            ip.destination.is_multicast() && ip.protocol == Protocol::ICMPV6
        }
        IpAddr::V6(source) => source == ipv6::link_local(port.mac),
    }
}

/// Checks what neighbour discovery says of the sender.
fn neighbour_sender(port: &Port, ip: &Ip, bytes: &[u8]) -> Result<(), DropReason> {
    let Some(message) = discovery(ip, bytes)? else {
        return Ok(());
    };
    let link_layer = message.link_layer().map_err(|_| DropReason::Malformed)?;
    let is_target_own = message.target().is_none_or(|target| {
        message.kind() == Kind::NEIGHBOUR_SOLICITATION
            || port.has(target.into())
            || target == ipv6::link_local(port.mac)
    });
    if link_layer.is_some_and(|mac| mac != port.mac) || !is_target_own {
        return Err(DropReason::SourceAddress);
    }
    Ok(())
}

/// Returns a message of neighbour discovery, if the packet is one; routers are none of the endpoints.
fn discovery<'a>(ip: &Ip, bytes: &'a [u8]) -> Result<Option<icmpv6::Packet<&'a [u8]>>, DropReason> {
    let upper = ip.upper(bytes);
    if ip.protocol != Protocol::ICMPV6 || !ip.source.is_ipv6() || upper.is_empty() {
        return Ok(None);
    }
    let kind = upper.first().map_or(Kind(0), |kind| Kind(*kind));
    match kind {
        Kind::ROUTER_ADVERTISEMENT | Kind::REDIRECT => Err(DropReason::RouterMessage),
        Kind::NEIGHBOUR_SOLICITATION | Kind::NEIGHBOUR_ADVERTISEMENT => {
            // Never in fragments (RFC 6980 §5).
            if ip.fragment.is_some() {
                return Err(DropReason::Malformed);
            }
            let message = icmpv6::Packet::new_checked(upper);
            message.map(Some).map_err(|_| DropReason::Malformed)
        }
        _ => Ok(None),
    }
}

impl Port {
    /// Returns whether `address` is one of the port's.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}
