//! The address of a client that a socket shows to those it connects to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a socket cannot show an address as its own.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NoSource {
    /// It is of the other family than the socket.
    #[error("it is not of the socket's family")]
    Family,
    /// It is no address of a single machine, or means another one in each place: unspecified, loopback, multicast,
    /// broadcast, link-local, or IPv4 in the guise of IPv6.
    #[error("{kind} addresses are no client's")]
    Kind {
        /// What it is, in a word: `loopback`.
        kind: SourceKind,
    },
    /// An interface in there has it.
    #[error("it is an address of the endpoint itself")]
    Own,
    /// The endpoint has no address of that family, so nothing in there could answer.
    #[error("the endpoint has no address of its family")]
    NoAddress,
    /// This platform cannot do it, or not for this endpoint.
    #[error("not possible here: {reason}")]
    Unsupported {
        /// Why not, and what would help.
        reason: String,
    },
}

/// A kind of address that is no single client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SourceKind {
    /// `0.0.0.0`, `::`, and the rest of `0.0.0.0/8`.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// `224.0.0.0/4`, `ff00::/8`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// `169.254.0.0/16`, `fe80::/10`.
    LinkLocal,
    /// `::ffff:0:0/96`.
    Ipv4Mapped,
}

impl std::fmt::Display for SourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::LinkLocal => "link-local",
            Self::Ipv4Mapped => "IPv4-mapped",
        })
    }
}

impl NoSource {
    /// Checks what needs no look at the endpoint: that a socket (of IPv6 if `v6`) could show `source` at all.
    ///
    /// # Errors
    ///
    /// [`NoSource::Family`] and [`NoSource::Kind`].
    pub fn check(source: SocketAddr, v6: bool) -> Result<(), Self> {
        if source.is_ipv6() != v6 {
            return Err(Self::Family);
        }
        kind(source.ip()).map_or(Ok(()), |kind| Err(Self::Kind { kind }))
    }
}

fn kind(address: IpAddr) -> Option<SourceKind> {
    let kinds = match address {
        IpAddr::V4(v4) => [
            (v4.octets()[0] == 0, SourceKind::Unspecified),
            (v4.is_loopback(), SourceKind::Loopback),
            (v4.is_multicast(), SourceKind::Multicast),
            (v4 == Ipv4Addr::BROADCAST, SourceKind::Broadcast),
            (v4.is_link_local(), SourceKind::LinkLocal),
        ],
        IpAddr::V6(v6) => [
            (v6.is_unspecified(), SourceKind::Unspecified),
            (v6.is_loopback(), SourceKind::Loopback),
            (v6.is_multicast(), SourceKind::Multicast),
            (v6.is_unicast_link_local(), SourceKind::LinkLocal),
            (v6.to_ipv4_mapped().is_some(), SourceKind::Ipv4Mapped),
        ],
    };
    kinds.into_iter().find_map(|(is, kind)| is.then_some(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_clients_address_is_refused_with_the_reason() {
        for (source, kind) in [
            ("0.0.0.0:1", SourceKind::Unspecified),
            ("0.1.2.3:1", SourceKind::Unspecified),
            ("127.0.0.11:1", SourceKind::Loopback),
            ("224.0.0.1:1", SourceKind::Multicast),
            ("239.255.255.255:1", SourceKind::Multicast),
            ("255.255.255.255:1", SourceKind::Broadcast),
            ("169.254.1.1:1", SourceKind::LinkLocal),
            ("[::]:1", SourceKind::Unspecified),
            ("[::1]:1", SourceKind::Loopback),
            ("[ff02::1]:1", SourceKind::Multicast),
            ("[fe80::1]:1", SourceKind::LinkLocal),
            ("[::ffff:203.0.113.9]:1", SourceKind::Ipv4Mapped),
        ] {
            let address: SocketAddr = source.parse().unwrap();
            let refused = NoSource::check(address, address.is_ipv6());
            assert_eq!(refused, Err(NoSource::Kind { kind }), "{source}");
        }
        for source in [
            "1.0.0.0:0",
            "203.0.113.9:65535",
            "223.255.255.255:1",
            "10.0.1.3:80",
            "[2001:db8::9]:1",
            "[fd00::9]:0",
        ] {
            let address: SocketAddr = source.parse().unwrap();
            assert_eq!(
                NoSource::check(address, address.is_ipv6()),
                Ok(()),
                "{source}"
            );
            let other = NoSource::check(address, address.is_ipv4());
            assert_eq!(other, Err(NoSource::Family), "{source}");
        }
    }
}
