//! Answers that the switch gives in place of another host, written over the frame that asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use overlay_core::MacAddr;

use crate::{
    frame::Frame,
    headers::{Fragment, Headers, Ip},
    offload::Offload,
    wire::{
        arp, ethernet, icmpv4, icmpv6,
        ipv4::{self, Protocol},
        ipv6,
    },
};

/// Longest ICMP error for IPv4, in octets of IP (RFC 1812 §4.3.2.3).
const ICMPV4_ERROR_BYTES_MAX: usize = 576;
/// Longest ICMP error for IPv6, in octets of IP: the least MTU (RFC 4443 §2.4 c).
const ICMPV6_ERROR_BYTES_MAX: usize = 1_280;
/// Longest Ethernet header with its tags, in octets.
const ETHERNET_BYTES_MAX: usize = 22;

/// The frame had too little headroom, or room at its end, for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// Turns an ARP request into the reply that `target_address` is at `mac`.
pub(crate) fn arp(
    frame: &mut Frame,
    headers: &Headers,
    request: &arp::Repr,
    mac: MacAddr,
) -> Result<(), NoRoom> {
    let reply = arp::Repr {
        operation: arp::Operation::REPLY,
        sender_mac: mac,
        sender_address: request.target_address,
        target_mac: request.sender_mac,
        target_address: request.sender_address,
    };
    frame.set_offload(Offload::NONE);
    frame.resize(headers.payload_at + arp::PACKET_BYTES);
    turn(frame, headers.source, mac)?;
    let payload = frame.bytes_mut().get_mut(headers.payload_at..);
    reply.emit(payload.ok_or(NoRoom)?).map_err(|_| NoRoom)
}

/// Turns a neighbour solicitation into the advertisement that `target` is at `mac` (RFC 4861 §7.2.4).
pub(crate) fn neighbour(
    frame: &mut Frame,
    headers: &Headers,
    asker: Ipv6Addr,
    target: Ipv6Addr,
    mac: MacAddr,
) -> Result<(), NoRoom> {
    // Duplicate address detection asks without an address; all nodes are told then.
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let solicited = !asker.is_unspecified();
    let (destination, to) = if solicited {
        (asker, headers.source)
    } else {
        (all_nodes, ipv6::multicast_mac(all_nodes))
    };
    let advertisement = icmpv6::Repr::NeighbourAdvertisement {
        router: false,
        solicited,
        overrides: true,
        target,
        mac: Some(mac),
    };
    let network = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header: Protocol::ICMPV6,
        hop_limit: 255,
        source: target,
        destination,
        payload_bytes: 32,
    };
    frame.set_offload(Offload::NONE);
    frame.resize(headers.payload_at + ipv6::HEADER_BYTES + icmpv6::NEIGHBOUR_BYTES);
    turn(frame, to, mac)?;
    let packet = frame
        .bytes_mut()
        .get_mut(headers.payload_at..)
        .ok_or(NoRoom)?;
    network.emit(packet).map_err(|_| NoRoom)?;
    let message = packet.get_mut(ipv6::HEADER_BYTES..).ok_or(NoRoom)?;
    advertisement
        .emit(message, target, destination)
        .map_err(|_| NoRoom)
}

/// Returns whether an ICMP error may be sent about this packet (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
pub(crate) fn may_report(headers: &Headers, ip: &Ip, bytes: &[u8]) -> bool {
    let one_to_one = !headers.destination.is_multicast()
        && !ip.destination.is_multicast()
        && !ip.source.is_multicast()
        && !ip.source.is_unspecified();
    let is_error = match ip.protocol {
        Protocol::ICMP => icmpv4::Packet::new_checked(ip.upper(bytes)).is_ok_and(|p| p.is_error()),
        Protocol::ICMPV6 => {
            icmpv6::Packet::new_checked(ip.upper(bytes)).is_ok_and(|p| p.kind().is_error())
        }
        _ => false,
    };
    one_to_one && !is_error && ip.fragment != Some(Fragment::Later) && ip.dont_fragment
}

/// Turns a packet into the ICMP error that it is bigger than `mtu` (RFC 1191 §4, RFC 4443 §3.2).
///
/// The error comes from the packet's destination, the one address of which the sender knows that it is on the way.
pub(crate) fn too_big(
    frame: &mut Frame,
    headers: &Headers,
    ip: &Ip,
    mtu: u16,
) -> Result<(), NoRoom> {
    let (own_bytes, error_bytes_max) = match ip.source {
        IpAddr::V4(_) => (
            ipv4::HEADER_BYTES + icmpv4::HEADER_BYTES,
            ICMPV4_ERROR_BYTES_MAX,
        ),
        IpAddr::V6(_) => (
            ipv6::HEADER_BYTES + icmpv6::HEADER_BYTES,
            ICMPV6_ERROR_BYTES_MAX,
        ),
    };
    if frame.headroom() < own_bytes {
        return Err(NoRoom);
    }
    // Tags count against the network's MTU, and the sender knows nothing of them.
    let tag_bytes =
        u16::try_from(headers.payload_at - ethernet::HEADER_BYTES).map_err(|_| NoRoom)?;
    let mtu = mtu.saturating_sub(tag_bytes);
    let mut link = [0; ETHERNET_BYTES_MAX];
    let link = link.get_mut(..headers.payload_at).ok_or(NoRoom)?;
    link.copy_from_slice(frame.bytes().get(..headers.payload_at).ok_or(NoRoom)?);
    let packet_bytes = ip.end - headers.payload_at;
    let quoted = packet_bytes.min(error_bytes_max - own_bytes);

    frame.set_offload(Offload::NONE);
    frame.pull_header(headers.payload_at).ok_or(NoRoom)?;
    frame.truncate(quoted);
    frame.push_header(own_bytes).ok_or(NoRoom)?;
    match (ip.source, ip.destination) {
        (IpAddr::V4(sender), IpAddr::V4(destination)) => {
            emit_icmpv4(frame.bytes_mut(), destination, sender, mtu)?;
        }
        (IpAddr::V6(sender), IpAddr::V6(destination)) => {
            emit_icmpv6(frame.bytes_mut(), destination, sender, mtu)?;
        }
        _ => return Err(NoRoom),
    }
    frame
        .push_header(headers.payload_at)
        .ok_or(NoRoom)?
        .copy_from_slice(link);
    turn(frame, headers.source, headers.destination)
}

fn emit_icmpv4(
    packet: &mut [u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    mtu: u16,
) -> Result<(), NoRoom> {
    let payload_bytes = packet.len() - ipv4::HEADER_BYTES;
    let network = ipv4::Repr {
        traffic_class: 0,
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: Protocol::ICMP,
        source,
        destination,
        payload_bytes: u16::try_from(payload_bytes).map_err(|_| NoRoom)?,
    };
    network.emit(packet).map_err(|_| NoRoom)?;
    let message = packet.get_mut(ipv4::HEADER_BYTES..).ok_or(NoRoom)?;
    icmpv4::Repr::FragmentationNeeded { mtu }
        .emit(message)
        .map_err(|_| NoRoom)
}

fn emit_icmpv6(
    packet: &mut [u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    mtu: u16,
) -> Result<(), NoRoom> {
    let payload_bytes = packet.len() - ipv6::HEADER_BYTES;
    let network = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header: Protocol::ICMPV6,
        hop_limit: 64,
        source,
        destination,
        payload_bytes: u16::try_from(payload_bytes).map_err(|_| NoRoom)?,
    };
    network.emit(packet).map_err(|_| NoRoom)?;
    let message = packet.get_mut(ipv6::HEADER_BYTES..).ok_or(NoRoom)?;
    let error = icmpv6::Repr::PacketTooBig { mtu: mtu.into() };
    error.emit(message, source, destination).map_err(|_| NoRoom)
}

/// Sends the frame back; tags stay.
fn turn(frame: &mut Frame, destination: MacAddr, source: MacAddr) -> Result<(), NoRoom> {
    let mut link = ethernet::Packet::new_checked(frame.bytes_mut()).map_err(|_| NoRoom)?;
    link.set_destination(destination);
    link.set_source(source);
    Ok(())
}
