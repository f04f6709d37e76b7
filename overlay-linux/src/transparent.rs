//! Sockets that show a client's address to the endpoint, from inside its namespace. Runs in a holder.
//!
//! The socket is bound to an address that nobody in there has. What it sends reaches the namespace's own addresses as
//! everything local does; what is answered has to come back to it, instead of leaving by the default route:
//!
//! * Its packets have a mark, which what the kernel itself makes of them inherits: connections that are accepted
//!   (`tcp_fwmark_accept`), resets and ICMP errors (`fwmark_reflect`). A rule sends packets with the mark to a table in
//!   which all the world is local. The programs' own connections have no mark.
//! * Datagrams are answered by a socket of the program that has no mark. A rule for each source, by protocol, address and
//!   port, sends them to the same table, which also gives those without a source the endpoint's first address: the one that
//!   the client's datagram was sent to. Such a rule goes when its socket is found to be gone.
//!
//! Mark and table have the same number, one for each interface.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use ipnet::IpNet;
use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
};
use overlay_core::plane::NoSource;

use crate::{
    failure::{Doing, Failure},
    netlink::{Netlink, Rule},
    sys,
};

/// The clients' addresses that sockets towards one endpoint show.
#[derive(Debug)]
pub(crate) struct Sources {
    table: u32,
    /// What was made of each family, to be taken away again: the endpoint's address in the table's route.
    made: BTreeSet<IpAddr>,
    v4: Rules,
    v6: Rules,
}

/// The rules for datagrams of a family in the namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// How many there are, at the most.
    count: usize,
    /// How many there may be before the next look for those of sockets that are gone.
    look_at: usize,
}

impl Sources {
    /// For the endpoint with the interface `index`.
    pub(crate) fn new(index: u32) -> Self {
        Self {
            table: TABLES | (index & INDICES),
            made: BTreeSet::new(),
            v4: Rules::default(),
            v6: Rules::default(),
        }
    }

    /// Makes a socket that shows `source`, for connecting to one of the endpoint's addresses.
    ///
    /// What of rules and routes somebody took away is there again afterwards.
    pub(crate) fn open(
        &mut self,
        addresses: &[IpNet],
        source: SocketAddr,
        kind: SockType,
    ) -> Result<Result<OwnedFd, NoSource>, Failure> {
        let v6 = source.is_ipv6();
        if let Err(reason) = NoSource::check(source, v6) {
            return Ok(Err(reason));
        }
        if kind == SockType::Datagram && source.port() == NO_RULE {
            return Ok(Err(NoSource::Unsupported {
                reason: format!("no rule leads datagrams to port {NO_RULE} back"),
            }));
        }
        let own = addresses.iter().map(IpNet::addr);
        let Some(own) = own.into_iter().find(|own| own.is_ipv6() == v6) else {
            return Ok(Err(NoSource::NoAddress));
        };
        let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
        let links = netlink.links().doing(|| "list interfaces".into())?;
        for link in links {
            let listed = netlink.addresses(link.index);
            let listed = listed.doing(|| format!("list the addresses of {}", link.name))?;
            if listed.iter().any(|listed| listed.addr() == source.ip()) {
                return Ok(Err(NoSource::Own));
            }
        }
        self.furnish(&mut netlink, own)?;
        let socket = self.bind(source, kind)?;
        if kind == SockType::Datagram {
            // The port that was chosen, if it was.
            let bound = bound(&socket).doing(|| "look at the socket".into())?;
            self.lead_back(&mut netlink, bound)?;
        }
        Ok(Ok(socket))
    }

    /// Takes the endpoint's own rules and routes away. Sockets that are still open hear nothing more.
    pub(crate) fn forget(&mut self) -> Result<(), Failure> {
        if self.made.is_empty() {
            return Ok(());
        }
        let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
        for own in std::mem::take(&mut self.made) {
            let rules = netlink.rules(own.is_ipv6());
            for rule in rules.doing(|| "list rules".into())? {
                let (Rule::Mark { table, .. } | Rule::Datagrams { table, .. }) = rule;
                if table == self.table {
                    let removed = netlink.remove_rule(rule);
                    removed.doing(|| format!("remove {rule:?}"))?;
                }
            }
            let loopback = netlink.link(LOOPBACK).doing(|| "look for lo".into())?;
            // It goes by itself with the address that is in it.
            match netlink.remove_local_route(self.table, loopback.index, own) {
                Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
                removed => removed.doing(|| format!("remove the routes of {own}"))?,
            }
        }
        Ok(())
    }

    /// Lets what is marked, and what comes of it, stay in the namespace.
    fn furnish(&mut self, netlink: &mut Netlink, own: IpAddr) -> Result<(), Failure> {
        let table = self.table;
        let reflect = if own.is_ipv6() { REFLECT_V6 } else { REFLECT };
        for setting in [ACCEPT, reflect] {
            raise(Path::new(setting))?;
        }
        let loopback = netlink.link(LOOPBACK).doing(|| "look for lo".into())?;
        self.made.insert(own);
        netlink
            .set_local_route(table, loopback.index, own)
            .doing(|| format!("make all addresses local in table {table}"))?;
        let v6 = own.is_ipv6();
        let rule = Rule::Mark { table, v6 };
        let added = netlink.add_rule(rule);
        added.doing(|| format!("add a rule for the mark {table:#x}"))
    }

    fn bind(&self, source: SocketAddr, kind: SockType) -> Result<OwnedFd, Failure> {
        let v6 = source.is_ipv6();
        let family = if v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = socket::socket(family, kind, flags, None);
        let made = made.doing(|| format!("make a {kind:?} socket"))?;
        let transparent = sys::set_transparent(&made, v6);
        transparent.doing(|| "let a socket have a foreign address".into())?;
        let marked = socket::setsockopt(&made, sockopt::Mark, &self.table);
        marked.doing(|| "mark a socket".into())?;
        if kind == SockType::Stream {
            for set in [
                // Several may have it, as long as they connect to different ones.
                socket::setsockopt(&made, sockopt::ReuseAddr, &true),
                // A port is chosen by where they connect to.
                socket::setsockopt(&made, sockopt::IpBindAddressNoPort, &true),
            ] {
                set.doing(|| "let sockets share an address".into())?;
            }
        }
        let bound = socket::bind(made.as_raw_fd(), &SockaddrStorage::from(source));
        bound.doing(|| format!("bind a {kind:?} socket to {source}"))?;
        Ok(made)
    }

    /// Lets datagrams to the address of a socket come to it.
    fn lead_back(&mut self, netlink: &mut Netlink, to: SocketAddr) -> Result<(), Failure> {
        let v6 = to.is_ipv6();
        let rules = if v6 { &mut self.v6 } else { &mut self.v4 };
        if rules.count >= rules.look_at {
            rules.count = sweep(netlink, v6)?;
            rules.look_at = (2 * rules.count).clamp(RULES_MIN, RULES_MAX);
        }
        let doing = || format!("add a rule for datagrams to {to}");
        if rules.count >= RULES_MAX {
            return Err(Failure::new(doing(), &Errno::EMFILE.into()));
        }
        // One of a former socket may lead elsewhere.
        let rule = |table| Rule::Datagrams { table, to };
        let former = netlink.remove_rule(rule(ANY_TABLE));
        former.doing(|| format!("remove the rule for datagrams to {to}"))?;
        netlink.add_rule(rule(self.table)).doing(doing)?;
        rules.count += 1;
        Ok(())
    }
}

/// Removes the rules of sockets that are gone; returns how many are left.
fn sweep(netlink: &mut Netlink, v6: bool) -> Result<usize, Failure> {
    let sockets = sockets(v6)?;
    let (mut left, rules) = (0, netlink.rules(v6).doing(|| "list rules".into())?);
    for rule in rules {
        match rule {
            Rule::Datagrams { table, to } if table & !INDICES == TABLES => {
                if sockets.contains(&to) {
                    left += 1;
                    continue;
                }
                let removed = netlink.remove_rule(rule);
                removed.doing(|| format!("remove the rule for datagrams to {to}"))?;
            }
            _ => {}
        }
    }
    Ok(left)
}

/// The addresses of the namespace's datagram sockets.
fn sockets(v6: bool) -> Result<BTreeSet<SocketAddr>, Failure> {
    let path = if v6 {
        "/proc/thread-self/net/udp6"
    } else {
        "/proc/thread-self/net/udp"
    };
    let text = fs::read_to_string(path).doing(|| format!("read {path}"))?;
    Ok(text.lines().skip(1).filter_map(socket_of).collect())
}

/// The local address in a line of `/proc/net/udp` or `udp6`: words of 32 bits as they are in memory, in hexadecimal.
fn socket_of(line: &str) -> Option<SocketAddr> {
    let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut octets = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        octets.extend_from_slice(&word.to_ne_bytes());
    }
    let v4 = || <[u8; 4]>::try_from(octets.as_slice()).map(|v4| Ipv4Addr::from(v4).into());
    let v6 = || <[u8; 16]>::try_from(octets.as_slice()).map(|v6| Ipv6Addr::from(v6).into());
    let address: IpAddr = v4().or_else(|_| v6()).ok()?;
    Some(SocketAddr::new(address, port))
}

fn bound(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address: SockaddrStorage = socket::getsockname(socket.as_fd().as_raw_fd())?;
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddrV4::from(*v4).into());
    let v6 = address
        .as_sockaddr_in6()
        .map(|v6| SocketAddrV6::from(*v6).into());
    v4.or(v6)
        .ok_or_else(|| io::Error::from(Errno::EAFNOSUPPORT))
}

/// Sets a setting of the namespace to 1.
fn raise(path: &Path) -> Result<(), Failure> {
    let now = fs::read_to_string(path).doing(|| format!("read {}", path.display()))?;
    if now.trim() == "1" {
        return Ok(());
    }
    fs::write(path, "1").doing(|| format!("set {} to 1", path.display()))
}

/// Connections that are accepted, of both families, have the mark of what they answer.
const ACCEPT: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";
/// Resets and ICMP errors have it.
const REFLECT: &str = "/proc/sys/net/ipv4/fwmark_reflect";
const REFLECT_V6: &str = "/proc/sys/net/ipv6/fwmark_reflect";
const LOOPBACK: &str = "lo";
/// Where the tables begin, far from those that people and programs number: "ov" and the number of an interface.
const TABLES: u32 = 0x6f76_0000;
const INDICES: u32 = 0xffff;
/// The kernel refuses a rule for this port (`fib_rule_port_range_valid`).
const NO_RULE: u16 = u16::MAX;
/// In a removal: of whatever table.
const ANY_TABLE: u32 = 0;
/// Rules for datagrams of a family in a namespace of one endpoint; where several share one, they may be as many times more.
/// Each is looked at for whatever is sent without a known way.
const RULES_MAX: usize = 1_024;
/// So many are not looked at for sockets that are gone.
const RULES_MIN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_socket_is_found_by_its_line() {
        for (line, address) in [
            (
                "  335: 097100CB:9C40 0201000A:0035 01 00000000:00000000 00:00000000 00000000 0 0 1 2",
                "203.0.113.9:40000",
            ),
            (
                "  335: B80D0120000000000000000009000000:FFFF 00000000000000000000000000000000:0000 07",
                "[2001:db8::9]:65535",
            ),
        ] {
            assert_eq!(socket_of(line), Some(address.parse().unwrap()), "{line}");
        }
        for odd in [
            "",
            "1:",
            "1: 0:0",
            "1: 097100CB",
            "1: 097100CB:10000",
            "1: é97100CB:1",
        ] {
            assert_eq!(socket_of(odd), None, "{odd}");
        }
    }
}
