//! Reverse names (RFC 1035 §3.5, RFC 3596 §2.5) and the reverse zones that are never asked upstream (RFC 6303).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::wire::Name;

/// What a reverse name asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The addresses below the name.
    pub(crate) prefix: IpNet,
    /// Labels that are left of the last number understood.
    extra: usize,
}

impl Asked {
    /// Returns the address, if the name is that of one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let whole = self.prefix.prefix_len() == self.prefix.max_prefix_len();
        (whole && self.extra == 0).then(|| self.prefix.addr())
    }

    /// Returns true if the name stands for the whole prefix, and not for something below it that no address is.
    pub(crate) fn is_prefix(&self) -> bool {
        self.extra == 0
    }
}

/// Reads a lower-cased name below `in-addr.arpa` or `ip6.arpa`.
pub(crate) fn parse(name: &Name) -> Option<Asked> {
    let count = name.count().checked_sub(2)?;
    match name.suffix(count) {
        b"\x07in-addr\x04arpa" => {
            let mut octets = [0; 4];
            let mut read = 0_u8;
            for (place, index) in octets.iter_mut().zip((0..count).rev()) {
                let Some(octet) = name.label(index).and_then(decimal) else {
                    break;
                };
                *place = octet;
                read += 1;
            }
            let prefix = Ipv4Net::new(Ipv4Addr::from(octets), read * 8).ok()?;
            let extra = count - usize::from(read);
            Some(Asked {
                prefix: IpNet::V4(prefix),
                extra,
            })
        }
        b"\x03ip6\x04arpa" => {
            let mut bits = 0_u128;
            let mut read = 0_u8;
            for index in (0..count).rev().take(32) {
                let Some(nibble) = name.label(index).and_then(nibble) else {
                    break;
                };
                bits = bits << 4 | u128::from(nibble);
                read += 1;
            }
            let bits = bits
                .checked_shl(u32::from(32 - read) * 4)
                .unwrap_or_default();
            let prefix = Ipv6Net::new(Ipv6Addr::from_bits(bits), read * 4).ok()?;
            let extra = count - usize::from(read);
            Some(Asked {
                prefix: IpNet::V6(prefix),
                extra,
            })
        }
        _ => None,
    }
}

/// Reads an octet in decimal without leading zeroes.
fn decimal(label: &[u8]) -> Option<u8> {
    let canonical = label.len() == 1 || label.first() != Some(&b'0');
    if !canonical || label.len() > 3 || !label.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(label).ok()?.parse().ok()
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Returns how many labels the names of the zones that make up a subnet have: it is cut up at whole octets or nibbles.
pub(crate) fn labels(subnet: &IpNet) -> usize {
    let per_label = match subnet {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    2 + usize::from(subnet.prefix_len().div_ceil(per_label))
}

/// Returns the private zone that holds the prefix.
pub(crate) fn private_zone(prefix: &IpNet) -> Option<IpNet> {
    let zones = NEVER_GLOBAL.iter().chain(PRIVATE);
    let mut zones = zones.filter_map(|zone| zone.net());
    zones.find(|zone| zone.contains(prefix))
}

/// Returns true for the zones about which no server anywhere can know anything.
pub(crate) fn is_never_global(zone: &IpNet) -> bool {
    let mut zones = NEVER_GLOBAL.iter().filter_map(|zone| zone.net());
    zones.any(|other| other == *zone)
}

/// A prefix that can be written as a constant.
#[derive(Debug)]
struct Prefix(IpAddr, u8);

impl Prefix {
    const fn v4(octets: [u8; 4], length: u8) -> Self {
        let [a, b, c, d] = octets;
        Self(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
    }

    const fn v6(first: u16, length: u8) -> Self {
        Self(
            IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)),
            length,
        )
    }

    fn net(&self) -> Option<IpNet> {
        IpNet::new(self.0, self.1).ok()
    }
}

/// RFC 6303 §4.2, §4.3, §4.5: this host, loopback, link-local, documentation, broadcast.
const NEVER_GLOBAL: &[Prefix] = &[
    Prefix::v4([0, 0, 0, 0], 8),
    Prefix::v4([127, 0, 0, 0], 8),
    Prefix::v4([169, 254, 0, 0], 16),
    Prefix::v4([192, 0, 2, 0], 24),
    Prefix::v4([198, 51, 100, 0], 24),
    Prefix::v4([203, 0, 113, 0], 24),
    Prefix::v4([255, 255, 255, 255], 32),
    Prefix(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
    Prefix(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    Prefix(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0)),
        32,
    ),
    Prefix::v6(0xfe80, 10),
];

/// RFC 6303 §4.1, §4.4, RFC 7793: private use, shared address space, unique local.
const PRIVATE: &[Prefix] = &[
    Prefix::v4([10, 0, 0, 0], 8),
    Prefix::v4([172, 16, 0, 0], 12),
    Prefix::v4([192, 168, 0, 0], 16),
    Prefix::v4([100, 64, 0, 0], 10),
    Prefix::v6(0xfc00, 7),
];
