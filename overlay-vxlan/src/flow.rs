//! The outer source port, which spreads flows over the underlay's paths.

use std::net::IpAddr;

use overlay_core::Seed;

use crate::{
    hash::HashKey,
    headers::{Headers, Ip, Payload},
    wire::ipv4::Protocol,
};

/// First of the ports that RFC 7348 §5 recommends; the last is 65,535.
pub const SOURCE_PORT_MIN: u16 = 49_152;

/// Picks outer source ports. Two keys pick different ones, so that nobody can choose flows that share a path.
#[derive(Clone, Debug)]
pub struct FlowKey(HashKey);

impl FlowKey {
    /// Makes a key.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        Self(HashKey::new(&seed.derive("flows")))
    }

    /// Returns the outer source port of an inner frame: the same for all frames of a flow.
    ///
    /// Of IP the addresses, protocol and ports count, and the flow label (RFC 6438); of other frames, and of what cannot be
    /// read, the MAC addresses. Fragments are told apart without ports, which only the first of them has, so that they
    /// stay in order.
    #[must_use]
    #[inline]
    pub fn source_port(&self, frame: &[u8]) -> u16 {
        match self.plain_v4(frame) {
            Some(port) => port,
            None => self.any(frame),
        }
    }

    #[cold]
    #[inline(never)]
    fn any(&self, frame: &[u8]) -> u16 {
        match Headers::read(frame) {
            Ok(headers) => self.of_headers(&headers, frame),
            Err(_) => self.of_words(0, frame.iter().take(12).map(|octet| u64::from(*octet))),
        }
    }

    /// The port of a frame whose headers are known.
    pub(crate) fn of_headers(&self, headers: &Headers, bytes: &[u8]) -> u16 {
        let Payload::Ip(ip) = headers.payload else {
            let macs = [headers.source, headers.destination].map(|mac| {
                let [a, b, c, d, e, f] = mac.octets();
                u64::from_be_bytes([0, 0, a, b, c, d, e, f])
            });
            return self.of_words(0, macs);
        };
        let label = u64::from(ip.flow_label) << 8 | u64::from(ip.protocol.0);
        let transport = u64::from(ports(&ip, bytes)) << 32 | label;
        match (ip.source, ip.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [source, destination] = [source, destination]
                    .map(|address| u64::from(u32::from_le_bytes(address.octets())));
                port(self.0.pair(transport, destination << 32 | source))
            }
            (source, destination) => {
                let words = [source, destination].map(words).into_iter().flatten();
                self.of_words(transport, words)
            }
        }
    }

    /// The port of a whole packet of TCP or UDP over IPv4 without tags and options, as [`of_headers`](Self::of_headers)
    /// gives it, without looking at more than that takes.
    #[inline]
    fn plain_v4(&self, frame: &[u8]) -> Option<u16> {
        let header = frame.first_chunk::<38>()?;
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (link, fragment) = (word(12), word(20) & 0xff00_ff3f);
        let total = usize::from(u16::from_be_bytes([header[16], header[17]]));
        let (tcp, udp) = (u32::from(Protocol::TCP.0), u32::from(Protocol::UDP.0));
        // EtherType and length of the header; no fragment, and a protocol with ports, which are there.
        let is_plain = link & 0x00ff_ffff == 0x0045_0008
            && (fragment == tcp << 24 || fragment == udp << 24)
            && total >= 24
            && total <= frame.len() - 14;
        if !is_plain {
            return None;
        }
        let addresses = u64::from(word(30)) << 32 | u64::from(word(26));
        let transport = u64::from(word(34)) << 32 | u64::from(fragment >> 24);
        Some(port(self.0.pair(transport, addresses)))
    }

    #[inline]
    fn of_words(&self, first: u64, words: impl IntoIterator<Item = u64>) -> u16 {
        port(self.0.words(std::iter::once(first).chain(words)))
    }
}

#[inline]
fn port(hash: u64) -> u16 {
    SOURCE_PORT_MIN | (hash >> 50) as u16
}

/// Returns both ports of a whole packet of TCP or UDP.
fn ports(ip: &Ip, bytes: &[u8]) -> u32 {
    let has_ports = matches!(ip.protocol, Protocol::TCP | Protocol::UDP);
    let header = bytes.get(ip.upper_at..ip.end).unwrap_or_default();
    match header.first_chunk::<4>() {
        Some(ports) if has_ports && ip.fragment.is_none() => u32::from_le_bytes(*ports),
        _ => 0,
    }
}

fn words(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or_default())
}
