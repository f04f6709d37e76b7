//! The outer source port, which spreads flows over the underlay's paths.

use std::{
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
};

use crate::{
    hash::{HashKey, KeyedHasher},
    headers::{Headers, Ip, Payload},
    wire::ipv4::Protocol,
};

/// First of the ports that RFC 7348 §5 recommends; the last is 65,535.
pub const SOURCE_PORT_MIN: u16 = 49_152;

/// Picks the outer source port: a hash of the inner frame's headers, the same for all frames of a flow.
///
/// Fragments are hashed without ports, which only the first of them has, so that they stay in order.
pub(crate) fn source_port(key: &HashKey, headers: &Headers, bytes: &[u8]) -> u16 {
    let mut hasher = key.hasher();
    match headers.payload {
        Payload::Ip(ip) => {
            add_address(&mut hasher, ip.source);
            add_address(&mut hasher, ip.destination);
            let label = u64::from(ip.flow_label) << 8 | u64::from(ip.protocol.0);
            hasher.write_u64(u64::from(ports(&ip, bytes)) << 32 | label);
        }
        Payload::Arp(_) | Payload::Other => {
            headers.source.hash(&mut hasher);
            headers.destination.hash(&mut hasher);
        }
    }
    let bits = (hasher.finish() >> 50) as u16;
    SOURCE_PORT_MIN | bits
}

/// Returns both ports of a whole packet of TCP or UDP.
fn ports(ip: &Ip, bytes: &[u8]) -> u32 {
    let has_ports = matches!(ip.protocol, Protocol::TCP | Protocol::UDP);
    let header = bytes.get(ip.upper_at..ip.end).unwrap_or_default();
    match header.first_chunk::<4>() {
        Some(ports) if has_ports && ip.fragment.is_none() => u32::from_be_bytes(*ports),
        _ => 0,
    }
}

fn add_address(hasher: &mut KeyedHasher, address: IpAddr) {
    match address {
        IpAddr::V4(address) => hasher.write_u32(address.to_bits()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
}
