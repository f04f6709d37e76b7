//! A flow's key in 40 octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{FlowKey, Protocol, Vip, hash::halves};

/// Two addresses, two ports, the protocol: a flow as the client sees it, or as its backend does.
///
/// Both addresses, then both ports and a bit each for UDP and the address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed(pub(super) [u64; 5]);

impl Packed {
    pub(crate) fn new(key: &FlowKey) -> Self {
        let vip = SocketAddr::new(key.vip.addr, key.vip.port);
        Self::of(key.vip.proto, vip, key.client)
    }

    /// Packs the flow of a backend: its own address, and that of whom it takes for its client.
    pub(crate) fn of(proto: Protocol, server: SocketAddr, client: SocketAddr) -> Self {
        let (first, first_family) = number(server.ip());
        let (second, second_family) = number(client.ip());
        let [a, b] = halves(first);
        let [c, d] = halves(second);
        let proto = u64::from(proto == Protocol::Udp);
        let ports = u64::from(server.port()) << 16 | u64::from(client.port());
        let bits = proto << 32 | first_family << 33 | second_family << 34;
        Self([a, b, c, d, ports | bits])
    }

    /// Packs a fragmented packet; its words never meet those of a flow, because they lie in other tables.
    pub(crate) fn of_packet(source: IpAddr, destination: IpAddr, proto: u8, id: u32) -> Self {
        let (first, family) = number(source);
        let (second, _) = number(destination);
        let [a, b] = halves(first);
        let [c, d] = halves(second);
        Self([
            a,
            b,
            c,
            d,
            u64::from(id) | u64::from(proto) << 32 | family << 40,
        ])
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
                    assert_eq!(Packed::new(&key).unpack(), key);
                    assert!(!seen.contains(&Packed::new(&key)));
                    seen.push(Packed::new(&key));
                }
            }
        }
    }
}
