//! Words of the network that more than one crate needs.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A VXLAN network identifier, 24 bits (RFC 7348 §5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Vni(u32);

impl Vni {
    /// The smallest identifier, 0.
    pub const MIN: Self = Self(0);
    /// The largest identifier, 2^24 − 1.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// Makes an identifier; `None` if `number` needs more than 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Makes an identifier from the three octets of the header.
    pub const fn from_octets(octets: [u8; 3]) -> Self {
        Self(u32::from_be_bytes([0, octets[0], octets[1], octets[2]]))
    }

    /// Returns the three octets of the header, in network order.
    pub const fn octets(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// Returns the number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vni({})", self.0)
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number)
            .ok_or_else(|| de::Error::custom(format_args!("expected 24 bits, found {number}")))
    }
}

/// A MAC address, 48 bits (IEEE 802).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zeroes: no address.
    pub const UNSPECIFIED: Self = Self([0; 6]);

    /// Makes an address from its octets.
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Derives the address of an endpoint from its IPv4 address: `02:42` and its four octets, as Docker does.
    ///
    /// The same IPv4 address always has the same MAC address, so an ARP cache stays right when an address moves.
    pub const fn from_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// Returns the octets.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Returns true for group addresses, broadcast among them.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Returns true for the broadcast address.
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        f.pad(&format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"))
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddr({self})")
    }
}

/// The text was no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected six pairs of hexadecimal digits separated by colons, found {found:?}")]
pub struct ParseMacError {
    /// The text, cut to 32 characters.
    pub found: String,
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let malformed = || ParseMacError {
            found: text.chars().take(32).collect(),
        };
        let (mut octets, mut parts) = ([0; 6], text.split(':'));
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(malformed)?;
        }
        if parts.next().is_some() {
            Err(malformed())
        } else {
            Ok(Self(octets))
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?
                .parse()
                .map_err(de::Error::custom)
        } else {
            <[u8; 6]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vni_has_24_bits() {
        assert_eq!(Vni::new(0), Some(Vni::MIN));
        assert_eq!(Vni::new(0x00ff_ffff), Some(Vni::MAX));
        assert_eq!(Vni::new(0x0100_0000), None);
        assert_eq!(Vni::from_octets(Vni::MAX.octets()), Vni::MAX);
        assert_eq!(Vni::new(4097).map(Vni::octets), Some([0, 0x10, 0x01]));
    }

    #[test]
    fn a_mac_address_follows_from_the_ipv4_address() {
        let mac = MacAddr::from_ipv4(Ipv4Addr::new(10, 0, 1, 35));
        assert_eq!(mac.to_string(), "02:42:0a:00:01:23");
        assert_eq!("02:42:0A:00:01:23".parse(), Ok(mac));
        assert!(!mac.is_multicast());
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
    }

    #[test]
    fn malformed_mac_addresses_are_refused() {
        for text in [
            "",
            "02:42:0a:00:01",
            "02:42:0a:00:01:23:45",
            "2:42:0a:00:01:23",
            "02:42:0a:00:01:+3",
            "0x:42:0a:00:01:23",
        ] {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }
}
