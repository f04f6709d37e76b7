//! Ends connections of local programs whose backend is gone (sock_diag): also one that only waits is told.
//!
//! ```text
//! 0        1          2     3     4          8       10      12      28      44      48
//! +--------+----------+-----+-----+----------+-------+-------+-------+-------+-------+--------
//! | family | protocol | ext | pad | states   | sport | dport | src   | dst   | index | cookie     request
//! +--------+----------+-----+-----+----------+-------+-------+-------+-------+-------+--------
//! | family | state    | timer, …  | sport | dport | src   | dst   | index | cookie             answer, from 4 on
//! ```

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};

use super::plan::Flow;

/// A socket that asks about sockets of the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Diagnosis(OwnedFd);

impl Diagnosis {
    /// Opens one in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let descriptor = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        socket::bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(descriptor))
    }

    /// Ends the connection by which a local program began a flow; false if there is none, or the kernel ends none
    /// (`CONFIG_INET_DIAG_DESTROY`).
    pub(super) fn abort(&self, flow: &Flow) -> io::Result<bool> {
        let found = match self.ask(LOOK, 0, &request(flow, NO_COOKIE)) {
            Err(error) if is_none(&error) => return Ok(false),
            found => found?,
        };
        // Without a connection the kernel finds who listens at the port; that one is nobody we know.
        let Some(cookie) = connection(&found, flow) else {
            return Ok(false);
        };
        match self.ask(DESTROY, NLM_F_ACK, &request(flow, cookie)) {
            Err(error) if is_none(&error) => Ok(false),
            ended => ended.map(|_| true),
        }
    }

    /// Whether the kernel ends connections at all: then it says that there is none of this name.
    pub(super) fn is_possible(&self) -> io::Result<bool> {
        let nowhere = SocketAddr::from(([0; 4], 0));
        let none = Flow {
            protocol: TCP,
            client: nowhere,
            to: nowhere,
            backend: nowhere.ip(),
            id: None,
        };
        match self.ask(DESTROY, NLM_F_ACK, &request(&none, [0; 8])) {
            Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => Ok(false),
            Err(error) if is_none(&error) => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Sends a request and returns what is answered: nothing for an acknowledgement.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut octets = length.to_ne_bytes().to_vec();
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        octets.extend_from_slice(&[0; 8]);
        octets.extend_from_slice(body);
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(self.0.as_raw_fd(), &octets, &kernel, MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let length = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        let answered = buffer.get(4..6) == Some(&ERROR.to_ne_bytes());
        let body = buffer.get(HEADER_BYTES..).unwrap_or_default();
        if !answered {
            return Ok(body.to_vec());
        }
        match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
            Some(0) => Ok(Vec::new()),
            Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Whether there is no such socket, or no such request.
fn is_none(error: &io::Error) -> bool {
    let codes = [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::ESTALE].map(|code| code as i32);
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

fn request(flow: &Flow, cookie: [u8; 8]) -> Vec<u8> {
    let family = if flow.to.is_ipv6() { IPV6 } else { IPV4 };
    let mut octets = vec![family, flow.protocol, 0, 0];
    octets.extend_from_slice(&u32::MAX.to_ne_bytes());
    octets.extend_from_slice(&addresses(flow.client, flow.to));
    // Whatever the interface.
    octets.extend_from_slice(&[0; 4]);
    octets.extend_from_slice(&cookie);
    octets
}

fn addresses(own: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut octets = own.port().to_be_bytes().to_vec();
    octets.extend_from_slice(&peer.port().to_be_bytes());
    for address in [own.ip(), peer.ip()] {
        match address {
            IpAddr::V4(v4) => {
                octets.extend_from_slice(&v4.octets());
                octets.extend_from_slice(&[0; 12]);
            }
            IpAddr::V6(v6) => octets.extend_from_slice(&v6.octets()),
        }
    }
    octets
}

/// What names the connection in an answer, if it is about that of the flow.
fn connection(answer: &[u8], flow: &Flow) -> Option<[u8; 8]> {
    let state = *answer.get(1)?;
    let found = answer.get(4..4 + ADDRESSES_BYTES)?;
    let cookie = answer.get(COOKIE..COOKIE + 8)?.try_into().ok()?;
    // Of a socket of IPv6 that speaks IPv4 they are in its guise.
    let guised = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let same = found == addresses(flow.client, flow.to)
        || found == addresses(guised(flow.client), guised(flow.to));
    (same && state != LISTENS).then_some(cookie)
}

// `linux/sock_diag.h` and `linux/inet_diag.h`.
const LOOK: u16 = 20;
const DESTROY: u16 = 21;
const ERROR: u16 = 2;
const NO_COOKIE: [u8; 8] = [0xff; 8];
const HEADER_BYTES: usize = 16;
const ADDRESSES_BYTES: usize = 36;
/// After the addresses and the interface.
const COOKIE: usize = 4 + ADDRESSES_BYTES + 4;
const LISTENS: u8 = 10;
/// `IPPROTO_TCP`.
pub(super) const TCP: u8 = 6;
/// `AF_INET`.
const IPV4: u8 = 2;
/// `AF_INET6`.
const IPV6: u8 = 10;
/// An answer has a few hundred.
const ANSWER_BYTES_MAX: usize = 8_192;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow() -> Flow {
        Flow {
            protocol: 6,
            client: "10.0.1.2:1000".parse().unwrap(),
            to: "10.0.1.100:80".parse().unwrap(),
            backend: "10.0.1.3".parse().unwrap(),
            id: None,
        }
    }

    #[test]
    fn only_the_connection_itself_is_named() {
        let mut answer = vec![IPV4, 1, 0, 0];
        answer.extend_from_slice(&addresses(flow().client, flow().to));
        answer.extend_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(connection(&answer, &flow()), Some([1, 2, 3, 4, 5, 6, 7, 8]));
        for (at, octet) in [(1, LISTENS), (4, 9), (8, 9), (24, 9)] {
            let mut other = answer.clone();
            other[at] = octet;
            assert_eq!(connection(&other, &flow()), None, "{at}");
        }
        assert_eq!(request(&flow(), NO_COOKIE).len(), 56);
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(octets: Vec<u8>) {
            let _ = connection(&octets, &flow());
        }
    }
}
