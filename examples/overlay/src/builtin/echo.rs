//! ICMP echo over a raw socket, or over a datagram socket where only that is allowed.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// A socket that sends echo requests to one host.
#[derive(Debug)]
pub(super) struct EchoSocket {
    socket: UdpSocket,
    host: IpAddr,
    raw: bool,
    identifier: u16,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The reply to the request of this number.
    Reply {
        /// Who replied.
        from: IpAddr,
        /// The number of the request.
        sequence: u16,
        /// What is left of the packet's time to live, where the socket tells it.
        ttl: Option<u8>,
        /// Octets of the ICMP message.
        length: usize,
    },
    /// A router or the host itself says that the request of this number did not arrive.
    Unreachable {
        /// Who says so.
        from: IpAddr,
        /// The number of the request.
        sequence: u16,
    },
}

/// The words that differ between the two versions.
#[derive(Clone, Copy, Debug)]
struct Types {
    request: u8,
    reply: u8,
    unreachable: u8,
}

const V4: Types = Types {
    request: 8,
    reply: 0,
    unreachable: 3,
};
const V6: Types = Types {
    request: 128,
    reply: 129,
    unreachable: 1,
};

const HEADER_BYTES: usize = 8;
const IPV6_HEADER_BYTES: usize = 40;
/// Octets after the ICMP header, as in everybody's ping.
pub(super) const PAYLOAD_BYTES: usize = 56;

impl EchoSocket {
    /// Opens a socket. `identifier` tells this ping's replies from another's.
    pub(super) fn open(host: IpAddr, identifier: u16) -> io::Result<Self> {
        let (domain, protocol) = match host {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let (socket, raw) = match Socket::new(domain, Type::RAW, Some(protocol)) {
            Ok(socket) => (socket, true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                (Socket::new(domain, Type::DGRAM, Some(protocol))?, false)
            }
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        // To tokio a datagram socket is one like the other.
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(Self {
            socket,
            host,
            raw,
            identifier,
        })
    }

    /// Sends the request of this number.
    pub(super) fn send(&self, sequence: u16) -> io::Result<()> {
        let message = request(self.types(), self.identifier, sequence);
        self.socket
            .try_send_to(&message, SocketAddr::new(self.host, 0))
            .map(|_| ())
    }

    /// Waits for an answer to one of the requests.
    pub(super) async fn receive(&self) -> io::Result<Answer> {
        let mut buffer = [0; 2_048];
        loop {
            let (length, from) = self.socket.recv_from(&mut buffer).await?;
            let packet = buffer.get(..length).unwrap_or_default();
            if let Some(answer) = self.parse(packet, from.ip()) {
                return Ok(answer);
            }
        }
    }

    const fn types(&self) -> Types {
        match self.host {
            IpAddr::V4(_) => V4,
            IpAddr::V6(_) => V6,
        }
    }

    fn parse(&self, packet: &[u8], from: IpAddr) -> Option<Answer> {
        let (message, ttl) = match (self.host, self.raw) {
            // A raw IPv4 socket delivers the IP header, too (raw(7)).
            (IpAddr::V4(_), true) => (skip_ipv4(packet)?, packet.get(8).copied()),
            _ => (packet, None),
        };
        let header = Header::read(message)?;
        // A datagram socket has an identifier of the kernel's, which also sorts out what is not its own.
        let own = |header: &Header| !self.raw || header.identifier == self.identifier;
        let types = self.types();
        if header.kind == types.reply && own(&header) && from == self.host {
            let length = message.len();
            return Some(Answer::Reply {
                from,
                sequence: header.sequence,
                ttl,
                length,
            });
        }
        if header.kind != types.unreachable {
            return None;
        }
        let about = message.get(HEADER_BYTES..)?;
        let about = match self.host {
            IpAddr::V4(_) => skip_ipv4(about)?,
            IpAddr::V6(_) => about.get(IPV6_HEADER_BYTES..)?,
        };
        let about =
            Header::read(about).filter(|about| about.kind == types.request && own(about))?;
        Some(Answer::Unreachable {
            from,
            sequence: about.sequence,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u8,
    identifier: u16,
    sequence: u16,
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let &[kind, _, _, _, a, b, c, d] = message.first_chunk::<HEADER_BYTES>()?;
        let (identifier, sequence) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        Some(Self {
            kind,
            identifier,
            sequence,
        })
    }
}

fn skip_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let words = usize::from(packet.first()? & 0x0f);
    packet.get(words * 4..)
}

fn request(types: Types, identifier: u16, sequence: u16) -> [u8; HEADER_BYTES + PAYLOAD_BYTES] {
    let mut message = [0; HEADER_BYTES + PAYLOAD_BYTES];
    for (octet, value) in message.iter_mut().skip(HEADER_BYTES).zip(0_u8..) {
        *octet = value;
    }
    let ([a, b], [c, d]) = (identifier.to_be_bytes(), sequence.to_be_bytes());
    let [x, y] = [0, 0];
    for (octet, value) in message.iter_mut().zip([types.request, 0, x, y, a, b, c, d]) {
        *octet = value;
    }
    // IPv6 sums a pseudo-header as well, which the kernel does (RFC 3542 §3.1).
    if types.request == V4.request {
        let [x, y] = checksum(&message).to_be_bytes();
        for (octet, value) in message.iter_mut().skip(2).zip([x, y]) {
            *octet = value;
        }
    }
    message
}

/// The Internet checksum (RFC 1071 §1).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let (high, low) = (pair.first().copied(), pair.get(1).copied());
        sum += u32::from(u16::from_be_bytes([high.unwrap_or(0), low.unwrap_or(0)]));
    }
    while let Ok(high @ 1..) = u16::try_from(sum >> 16) {
        sum = (sum & 0xffff) + u32::from(high);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_a_message_with_its_checksum_is_zero() {
        let message = request(V4, 0x1234, 7);
        assert_eq!(checksum(&message), 0);
        assert_eq!(message[0], 8);
        assert_ne!(request(V4, 0x1234, 8)[2..4], message[2..4]);
    }

    #[test]
    fn the_checksum_of_the_rfc_example() {
        // RFC 1071 §3.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
        assert_eq!(checksum(&[0xff; 8]), 0);
        assert_eq!(checksum(&[0x01]), !0x0100);
    }
}
