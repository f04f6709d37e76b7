//! A flow's key in 40 octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{FlowKey, Protocol, Vip, hash::halves};

/// An address and a port in words, as they lie in a key: cheaper to move and compare than what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// The octets of the address as a number; an IPv4 address fills the lower half of the second word.
    pub(crate) words: [u64; 2],
    pub(crate) port: u16,
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> Self {
        Self {
            words: words_of(address.ip()),
            port: address.port(),
        }
    }
}

pub(crate) fn words_of(address: IpAddr) -> [u64; 2] {
    halves(number(address).0)
}

/// Two addresses, two ports, the protocol: a flow as the client sees it, or as its backend does.
///
/// Both addresses, then both ports and a bit each for UDP and the address families, and one that is always set: a key
/// of zeroes is none.
#[derive(Clone, Copy, Debug, Eq, PartialOrd, Ord)]
pub(crate) struct Packed(pub(super) [u64; 5]);

/// Word by word, which is a few instructions; the derived one calls `memcmp`.
impl PartialEq for Packed {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let words = self.0.iter().zip(&other.0);
        words.fold(0, |differing, (one, other)| differing | (one ^ other)) == 0
    }
}

impl Packed {
    pub(crate) fn new(key: &FlowKey) -> Self {
        let vip = SocketAddr::new(key.vip.addr, key.vip.port);
        Self::of(key.vip.proto, vip, key.client)
    }

    /// Packs the flow of a backend: its own address, and that of whom it takes for its client.
    pub(crate) fn of(proto: Protocol, server: SocketAddr, client: SocketAddr) -> Self {
        let v6 = [server, client].map(|end| end.is_ipv6());
        Self::pack(proto, v6, server.into(), client.into())
    }

    /// Packs two ends of one packet.
    #[inline]
    pub(crate) fn of_ends(proto: Protocol, v6: bool, server: End, client: End) -> Self {
        Self::pack(proto, [v6; 2], server, client)
    }

    #[inline]
    fn pack(proto: Protocol, [first, second]: [bool; 2], server: End, client: End) -> Self {
        let ([a, b], [c, d]) = (server.words, client.words);
        let ports = u64::from(server.port) << 16 | u64::from(client.port);
        let bits = [proto == Protocol::Udp, first, second, true];
        let bits = (32..).zip(bits).map(|(shift, bit)| u64::from(bit) << shift);
        Self([a, b, c, d, bits.fold(ports, |all, bit| all | bit)])
    }

    /// Packs a fragmented packet; its words never meet those of a flow, because they lie in other tables.
    pub(crate) fn of_packet(v6: bool, [from, to]: [[u64; 2]; 2], proto: u8, id: u32) -> Self {
        let ([a, b], [c, d]) = (from, to);
        let bits = u64::from(proto) << 32 | u64::from(v6) << 40 | 1 << 41;
        Self([a, b, c, d, u64::from(id) | bits])
    }

    /// Returns both ends: server and client.
    #[inline]
    pub(crate) fn ends(&self) -> (End, End) {
        let Self([a, b, c, d, rest]) = *self;
        let [.., p, q, r, s] = rest.to_be_bytes();
        let server = End {
            words: [a, b],
            port: u16::from_be_bytes([p, q]),
        };
        let client = End {
            words: [c, d],
            port: u16::from_be_bytes([r, s]),
        };
        (server, client)
    }

    /// Both addresses, in words.
    pub(super) fn addresses(&self) -> [u64; 4] {
        let Self([addresses @ .., _]) = *self;
        addresses
    }

    /// The key that `short` is of, if that is not of IPv6.
    #[inline(always)]
    pub(super) fn of_short(short: Short) -> Self {
        let (server, client) = (short.addresses >> 32, short.addresses & 0xffff_ffff);
        Self([0, server, 0, client, short.rest])
    }

    /// The key that `short` is of, and these addresses.
    #[inline(always)]
    pub(super) fn of_wide(short: Short, [a, b, c, d]: [u64; 4]) -> Self {
        Self([a, b, c, d, short.rest])
    }

    /// Packs other ends of a flow of the same kind.
    #[inline]
    pub(super) fn with_ends(&self, server: End, client: End) -> Self {
        let Self([.., rest]) = *self;
        let ports = u64::from(server.port) << 16 | u64::from(client.port);
        let ([a, b], [c, d]) = (server.words, client.words);
        Self([a, b, c, d, rest & !0xffff_ffff | ports])
    }

    pub(crate) fn words(self) -> [u64; 5] {
        self.0
    }

    pub(crate) fn unpack(self) -> FlowKey {
        let Self([a, b, c, d, rest]) = self;
        let port = |shift: u32| u16::try_from(rest >> shift & 0xffff).expect("16 bits");
        let vip = Vip {
            addr: address(a, b, rest >> 33),
            proto: self.proto(),
            port: port(16),
        };
        FlowKey {
            vip,
            client: SocketAddr::new(address(c, d, rest >> 34), port(0)),
        }
    }

    fn proto(self) -> Protocol {
        if self.0[4] >> 32 & 1 == 1 {
            Protocol::Udp
        } else {
            Protocol::Tcp
        }
    }
}

/// What a slot holds of a key: all of it for IPv4, and what few flows have in common for IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short {
    /// Both IPv4 addresses; or some bits of the addresses.
    pub(super) addresses: u64,
    /// The ports and the bits behind them: [`REST_BITS`].
    pub(super) rest: u64,
}

impl Short {
    #[inline(always)]
    pub(super) fn of(key: &Packed) -> Self {
        let Packed([_, server, _, client, rest]) = *key;
        let addresses = server << 32 ^ client;
        Self { addresses, rest }
    }

    /// Whether one of the addresses is IPv6.
    #[inline(always)]
    pub(super) fn is_wide(self) -> bool {
        self.rest & WIDE != 0
    }
}

/// How many bits of a key follow the addresses.
pub(super) const REST_BITS: u32 = 36;
/// Those of the address families.
const WIDE: u64 = 0b11 << 33;

fn number(address: IpAddr) -> (u128, u64) {
    match address {
        IpAddr::V4(address) => (u32::from(address).into(), 0),
        IpAddr::V6(address) => (address.into(), 1),
    }
}

fn address(high: u64, low: u64, family: u64) -> IpAddr {
    match u32::try_from(low) {
        Ok(number) if family & 1 == 0 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_families_come_back_and_differ() {
        let addresses = ["10.0.1.2", "::ffff:10.0.1.2", "::a00:102", "fd00::1", "::"];
        let addresses = addresses.map(|text| text.parse::<IpAddr>().expect("an address"));
        let mut seen = Vec::new();
        for addr in addresses {
            for client in addresses {
                for proto in [Protocol::Tcp, Protocol::Udp] {
                    let vip = Vip {
                        addr,
                        proto,
                        port: 0xfffe,
                    };
                    let key = FlowKey {
                        vip,
                        client: SocketAddr::new(client, 0x0102),
                    };
                    let packed = Packed::new(&key);
                    let (short, addresses) = (Short::of(&packed), packed.addresses());
                    assert_eq!(short.is_wide(), !(addr.is_ipv4() && client.is_ipv4()));
                    let again = if short.is_wide() {
                        Packed::of_wide(short, addresses)
                    } else {
                        Packed::of_short(short)
                    };
                    assert_eq!((packed.unpack(), again), (key, packed));
                    assert!(!seen.contains(&Packed::new(&key)));
                    seen.push(Packed::new(&key));
                }
            }
        }
    }
}
