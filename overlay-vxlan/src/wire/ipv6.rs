//! IPv6 (RFC 8200) and its extension headers.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Traffic class |              Flow label               |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |         Payload length        |  Next header  |   Hop limit   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                       Source, 16 octets                       |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     Destination, 16 octets                    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::net::Ipv6Addr;

use overlay_core::MacAddr;

use super::{
    DecodeError, EmitError,
    ipv4::Protocol,
    need,
    octets::{read_ipv6, read_u8, read_u16, read_u32, tail, write, write_u8, write_u16, write_u32},
    room,
};

/// Length of the header without extensions, in octets.
pub const HEADER_BYTES: usize = 40;
/// Extension headers that are walked at most; RFC 8200 §4.1 has seven in order.
pub const EXTENSIONS_MAX: usize = 8;

const VERSION_CLASS_LABEL: usize = 0;
const PAYLOAD_LENGTH: usize = 4;
const NEXT_HEADER: usize = 6;
const HOP_LIMIT: usize = 7;
const SOURCE: usize = 8;
const DESTINATION: usize = 24;

const TRAFFIC_CLASS: u32 = 0x0ff0_0000;
const FLOW_LABEL: u32 = 0x000f_ffff;

const HOP_BY_HOP: Protocol = Protocol(0);
const ROUTING: Protocol = Protocol(43);
const FRAGMENT: Protocol = Protocol(44);
const DESTINATION_OPTIONS: Protocol = Protocol(60);

/// A view of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T>(T);

impl<T: AsRef<[u8]>> Packet<T> {
    /// Takes a packet whose payload length fits the octets; octets behind it are padding.
    ///
    /// Extension headers are not looked at: see [`upper`](Self::upper).
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] or [`DecodeError::Version`].
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        need(bytes.as_ref(), HEADER_BYTES)?;
        let packet = Self(bytes);
        let octets = packet.0.as_ref();
        let version = read_u8(octets, VERSION_CLASS_LABEL) >> 4;
        if version != 6 {
            return Err(DecodeError::Version {
                expected: 6,
                found: version,
            });
        }
        need(octets, packet.total_bytes())?;
        Ok(packet)
    }

    /// Takes a packet whose header is known to be right, though its length may not fit the octets (yet).
    ///
    /// An accessor that would read outside of the octets returns zero or nothing.
    pub const fn new_unchecked(bytes: T) -> Self {
        Self(bytes)
    }

    /// Returns the length of the packet, in octets.
    pub fn total_bytes(&self) -> usize {
        usize::from(read_u16(self.0.as_ref(), PAYLOAD_LENGTH)).saturating_add(HEADER_BYTES)
    }

    /// Returns DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        let [class, _, _, _] = (read_u32(self.0.as_ref(), VERSION_CLASS_LABEL) << 4).to_be_bytes();
        class
    }

    /// Returns the flow label, 20 bits (RFC 6437).
    pub fn flow_label(&self) -> u32 {
        read_u32(self.0.as_ref(), VERSION_CLASS_LABEL) & FLOW_LABEL
    }

    /// Returns what follows the header, perhaps an extension header.
    pub fn next_header(&self) -> Protocol {
        Protocol(read_u8(self.0.as_ref(), NEXT_HEADER))
    }

    /// Returns how many hops are left.
    pub fn hop_limit(&self) -> u8 {
        read_u8(self.0.as_ref(), HOP_LIMIT)
    }

    /// Returns the address of the sender.
    pub fn source(&self) -> Ipv6Addr {
        read_ipv6(self.0.as_ref(), SOURCE)
    }

    /// Returns the address of the receiver.
    pub fn destination(&self) -> Ipv6Addr {
        read_ipv6(self.0.as_ref(), DESTINATION)
    }

    /// Returns what follows the header, extension headers included, without padding.
    pub fn payload(&self) -> &[u8] {
        let range = HEADER_BYTES..self.total_bytes();
        self.0.as_ref().get(range).unwrap_or_default()
    }

    /// Walks the extension headers to the upper layer.
    ///
    /// Hop-by-hop and destination options, routing and fragment headers are stepped over; any other next header *is*
    /// the upper layer. Of a packet that was cut short, such as an error quotes, what is there is walked.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if a header ends behind the packet, [`DecodeError::Field`] behind
    /// [`EXTENSIONS_MAX`] headers.
    pub fn upper(&self) -> Result<Upper, DecodeError> {
        let bytes = self.0.as_ref();
        let bytes = bytes.get(..self.total_bytes()).unwrap_or(bytes);
        let (mut protocol, mut offset) = (self.next_header(), HEADER_BYTES);
        let mut fragment = None;
        for _ in 0..=EXTENSIONS_MAX {
            let header = tail(bytes, offset..);
            let length = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                    need(header, 8)?;
                    // In units of 8 octets, the first 8 not counted (RFC 8200 §4.3).
                    usize::from(read_u8(header, 1)).saturating_add(1) << 3
                }
                FRAGMENT => {
                    need(header, 8)?;
                    let field = read_u16(header, 2);
                    let more = field & 1 == 1;
                    // An atomic fragment (offset 0, no more) is a whole packet (RFC 6946 §4).
                    if fragment.is_none() && (more || field >> 3 != 0) {
                        fragment = Some(Fragment {
                            offset: field >> 3,
                            more,
                            identification: read_u32(header, 4),
                        });
                    }
                    8
                }
                _ => {
                    return Ok(Upper {
                        protocol,
                        offset,
                        fragment,
                    });
                }
            };
            need(header, length)?;
            protocol = Protocol(read_u8(header, 0));
            offset = offset.saturating_add(length);
            if fragment.is_some_and(|fragment: Fragment| fragment.offset != 0) {
                // What follows is the middle of a payload, whatever the next header says.
                return Ok(Upper {
                    protocol,
                    offset,
                    fragment,
                });
            }
        }
        Err(DecodeError::Field {
            offset,
            expected: u32::from(Protocol::TCP.0),
            found: u32::from(protocol.0),
        })
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Writes DSCP and ECN.
    pub fn set_traffic_class(&mut self, traffic_class: u8) {
        let bytes = self.0.as_mut();
        let others = read_u32(bytes, VERSION_CLASS_LABEL) & !TRAFFIC_CLASS;
        let class = u32::from(traffic_class) << 20;
        write_u32(bytes, VERSION_CLASS_LABEL, others | class);
    }

    /// Writes the length of what follows the header, in octets.
    pub fn set_payload_bytes(&mut self, length: u16) {
        write_u16(self.0.as_mut(), PAYLOAD_LENGTH, length);
    }
}

/// Where the extension headers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The upper layer.
    pub protocol: Protocol,
    /// Where it begins, in octets from the start of the packet.
    pub offset: usize,
    /// Set if the packet is one of several fragments.
    pub fragment: Option<Fragment>,
}

/// The place of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where it belongs, in units of 8 octets.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// What the fragments of a packet share.
    pub identification: u32,
}

/// The header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repr {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label; the lower 20 bits count.
    pub flow_label: u32,
    /// What follows the header.
    pub next_header: Protocol,
    /// Hops that are left.
    pub hop_limit: u8,
    /// Address of the sender.
    pub source: Ipv6Addr,
    /// Address of the receiver.
    pub destination: Ipv6Addr,
    /// Length of what follows the header, in octets.
    pub payload_bytes: u16,
}

impl Repr {
    /// Reads the header.
    pub fn parse<T: AsRef<[u8]>>(packet: &Packet<T>) -> Self {
        Self {
            traffic_class: packet.traffic_class(),
            flow_label: packet.flow_label(),
            next_header: packet.next_header(),
            hop_limit: packet.hop_limit(),
            source: packet.source(),
            destination: packet.destination(),
            payload_bytes: u16::try_from(packet.payload().len()).unwrap_or(u16::MAX),
        }
    }

    /// Writes the header to the start of `bytes`; what follows is the caller's.
    ///
    /// # Errors
    ///
    /// [`EmitError`] below 40 octets; nothing is written.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), EmitError> {
        let header = room(bytes, HEADER_BYTES)?;
        let class = u32::from(self.traffic_class) << 20;
        let first = 0x6000_0000 | class | (self.flow_label & FLOW_LABEL);
        write_u32(header, VERSION_CLASS_LABEL, first);
        write_u16(header, PAYLOAD_LENGTH, self.payload_bytes);
        write_u8(header, NEXT_HEADER, self.next_header.0);
        write_u8(header, HOP_LIMIT, self.hop_limit);
        write(header, SOURCE, self.source.octets());
        write(header, DESTINATION, self.destination.octets());
        Ok(())
    }
}

/// Returns the link-local address that an interface derives from its MAC address (RFC 4291 §2.5.6, appendix A).
#[must_use]
pub const fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from_bits(u128::from_be_bytes([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 0x02,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ]))
}

/// Returns the MAC address that a link-local address was derived from, if it was (the inverse of [`link_local`]).
#[must_use]
pub const fn link_local_mac(address: Ipv6Addr) -> Option<MacAddr> {
    match address.octets() {
        [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a, b, c, 0xff, 0xfe, d, e, f] => {
            Some(MacAddr::new([a ^ 0x02, b, c, d, e, f]))
        }
        _ => None,
    }
}

/// Returns the group that listens for solicitations of `address` (RFC 4291 §2.7.1).
#[must_use]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., x, y, z] = address.octets();
    Ipv6Addr::from_bits(u128::from_be_bytes([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, x, y, z,
    ]))
}

/// Returns the MAC address of a multicast group (RFC 2464 §7).
#[must_use]
pub const fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., w, x, y, z] = group.octets();
    MacAddr::new([0x33, 0x33, w, x, y, z])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_and_its_mac_belong_together() {
        let mac = MacAddr::new([0x02, 0x42, 0x0a, 0x00, 0x01, 0x23]);
        let address: Ipv6Addr = "fe80::42:aff:fe00:123".parse().unwrap();
        assert_eq!(link_local(mac), address);
        assert_eq!(link_local_mac(address), Some(mac));
        assert_eq!(link_local_mac("fe80::1".parse().unwrap()), None);
        assert_eq!(
            link_local_mac("fe80:0:0:1:42:aff:fe00:123".parse().unwrap()),
            None
        );
    }

    #[test]
    fn groups_follow_from_the_address() {
        let group = solicited_node("2001:db8::12:3456".parse().unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(group).to_string(), "33:33:ff:12:34:56");
    }

    /// A packet whose octets behind the fixed header are `rest`.
    fn packet(next_header: Protocol, rest: &[u8]) -> Vec<u8> {
        let repr = Repr {
            traffic_class: 0,
            flow_label: 0,
            next_header,
            hop_limit: 64,
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
            payload_bytes: u16::try_from(rest.len()).unwrap(),
        };
        let mut bytes = vec![0; HEADER_BYTES];
        repr.emit(&mut bytes).unwrap();
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn extension_headers_are_walked_to_the_upper_layer() {
        let mut rest = vec![43, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop, then routing
        rest.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // routing of 16 octets, then fragment
        rest.extend([58, 0, 0, 1, 0, 0, 0, 1]); // first fragment, then ICMPv6
        rest.extend([128, 0]);
        let bytes = packet(HOP_BY_HOP, &rest);
        let upper = Packet::new_checked(&bytes[..]).unwrap().upper().unwrap();
        assert_eq!(upper.protocol, Protocol::ICMPV6);
        assert_eq!(upper.offset, 40 + 8 + 16 + 8);
        assert_eq!(
            upper.fragment,
            Some(Fragment {
                offset: 0,
                more: true,
                identification: 1
            })
        );
    }

    #[test]
    fn a_later_fragment_ends_the_walk() {
        // Says that destination options follow, but octets of the middle do.
        let bytes = packet(FRAGMENT, &[60, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff]);
        let upper = Packet::new_checked(&bytes[..]).unwrap().upper().unwrap();
        assert_eq!(upper.offset, 48);
        assert_eq!(
            upper.fragment,
            Some(Fragment {
                offset: 1,
                more: false,
                identification: 1
            })
        );
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet() {
        let bytes = packet(FRAGMENT, &[17, 0, 0, 0, 0, 0, 0, 1]);
        let upper = Packet::new_checked(&bytes[..]).unwrap().upper().unwrap();
        assert_eq!((upper.protocol, upper.fragment), (Protocol::UDP, None));
    }

    #[test]
    fn endless_and_lying_extension_headers_are_refused() {
        let walk = |rest: &[u8]| {
            let bytes = packet(DESTINATION_OPTIONS, rest);
            Packet::new_checked(&bytes[..]).unwrap().upper()
        };
        let option = [60, 0, 0, 0, 0, 0, 0, 0];
        let mut exactly = option.repeat(EXTENSIONS_MAX);
        exactly[(EXTENSIONS_MAX - 1) * 8] = 17;
        assert_eq!(walk(&exactly).unwrap().offset, 40 + 8 * EXTENSIONS_MAX);
        assert!(walk(&option.repeat(EXTENSIONS_MAX + 1)).is_err());
        assert_eq!(
            walk(&[17, 1, 0, 0, 0, 0, 0, 0]).unwrap_err(),
            DecodeError::Truncated { need: 16, have: 8 }
        );
        assert_eq!(
            walk(&[17]).unwrap_err(),
            DecodeError::Truncated { need: 8, have: 1 }
        );
    }
}
