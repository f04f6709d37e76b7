//! The headers that a balancer reads and changes: Ethernet, IPv4, IPv6, TCP, UDP, ICMP.
//!
//! Offsets are from the start of the header that the name says; numbers are in network order.
//!
//! ```text
//! Ethernet  | destination 6 | source 6 | [0x8100 tag 4] | type 2 |
//! IPv4      0 version, length | 2 total length | 4 id | 6 flags, offset | 8 TTL | 9 protocol | 10 checksum | 12 source | 16 destination
//! IPv6      0 version | 4 payload length | 6 next header | 7 hop limit | 8 source | 24 destination
//! TCP       0 source port | 2 destination port | 4 sequence | 8 acknowledgement | 12 length | 13 flags | 16 checksum
//! UDP       0 source port | 2 destination port | 4 length | 6 checksum
//! ICMP      0 type | 1 code | 2 checksum | 8 quoted packet of an error
//! ```

#![warn(
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

mod checksum;
mod ip;
mod octets;
mod tcp;

pub(crate) use checksum::{Delta, Sum};
pub(crate) use ip::{Addresses, Ip, addresses, network_at, plain_addresses};
pub(crate) use octets::{read, read_u16, write};
pub(crate) use tcp::Segment;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Length of an Ethernet header without a tag, in octets.
pub(crate) const ETHERNET_BYTES: usize = 14;
pub(crate) const IPV4_BYTES: usize = 20;
pub(crate) const IPV6_BYTES: usize = 40;
pub(crate) const TCP_BYTES: usize = 20;
pub(crate) const UDP_BYTES: usize = 8;
/// Length of the header of an ICMP message, in octets.
pub(crate) const ICMP_BYTES: usize = 8;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
