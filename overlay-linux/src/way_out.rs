//! The way out, on the host's side: a bridge, a pair of interfaces for each port, forwarding and rules.
//!
//! ```text
//!  endpoint         host
//!  +----------+     +------------------------------------------------------+
//!  |     eth1 |-----| vo-0123456789ab ---+                                 |
//!  +----------+     |   (isolated)       | bridge 172.18.0.1/16 -- eth0 ---+--- the world
//!  +----------+     |                    |   forwards     masquerades      |
//!  |     eth1 |-----| vo-ba9876543210 ---+                                 |
//!  +----------+     +------------------------------------------------------+
//! ```
//! Everything is compared with what is there and made again where it differs, so that a restarted daemon, a flushed
//! firewall and a first start are one case. With its last port the bridge goes, and with it the rules and the forwarding.
//! A bridge that somebody else made is used as it is and stays.
//!
//! Rules of other tables apply, too: what another firewall drops of forwarded packets stays dropped.

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    poll::{PollTimeout, poll},
};
use overlay_core::{
    EndpointId, MacAddr,
    plane::{NoWayOut, WayOut},
};

use crate::{
    failure::{Doing, Failure},
    namespace,
    netlink::{Link, LinkChange, Netlink},
    nftables::Nftables,
};

mod filter;
mod forwarding;
pub(crate) mod inside;

use forwarding::Opened;
use inside::Inner;

/// The host's network: the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Host {
    netlink: Netlink,
    nftables: Nftables,
    /// Where it is written down which interfaces were made to forward.
    memory: PathBuf,
}

impl Host {
    /// Opens the calling thread's namespace. `folder` is the daemon's own.
    pub(crate) fn open(folder: &Path) -> Result<Self, NoWayOut> {
        let netlink = Netlink::open().doing(|| "open a netlink socket".into());
        let nftables = Nftables::open().doing(|| "open a netfilter socket".into());
        Ok(Self {
            netlink: netlink.map_err(refused)?,
            nftables: nftables.map_err(without_netfilter)?,
            memory: folder.join(MEMORY),
        })
    }

    /// Makes the bridge, its rules and the forwarding, and returns the bridge's index.
    pub(crate) fn furnish(
        &mut self,
        way: &WayOut,
        done: &mut Vec<String>,
    ) -> Result<u32, NoWayOut> {
        let table = self.nftables.read(TABLE).doing(|| read_table().into());
        let table = table.map_err(without_netfilter)?;
        if let Some(other) = table.as_ref().and_then(filter::bridge_of)
            && other != way.bridge
        {
            self.give_up(&other, way)?;
            done.push(format!("remove the former bridge {other}"));
        }
        let bridge = self.make_bridge(way, done)?;
        let remembered = table.as_ref().map(filter::opened_in).unwrap_or_default();
        let opened = Opened::plan(&mut self.netlink, bridge, &self.memory, remembered);
        let opened = opened.map_err(refused)?;
        // Before the rules and the settings, so that nothing is open that nobody remembers.
        opened.write(&self.memory).map_err(refused)?;
        let wanted = filter::table(way, opened.names());
        if table.as_ref() != Some(&wanted) {
            let replaced = self.nftables.replace(TABLE, &wanted);
            let replaced = replaced.doing(|| format!("make the nf_tables table {TABLE}"));
            replaced.map_err(without_netfilter)?;
            done.push(format!("make the nf_tables table {TABLE}"));
        }
        opened.open(&way.bridge, done).map_err(refused)?;
        Ok(bridge)
    }

    /// Joins an endpoint to the bridge by a pair of interfaces, or takes up the pair that is there.
    pub(crate) fn join(
        &mut self,
        endpoint: EndpointId,
        way: &WayOut,
        bridge: u32,
        inner: Option<&Inner>,
        namespace: BorrowedFd<'_>,
        done: &mut Vec<String>,
    ) -> Result<(), NoWayOut> {
        let name = end_name(endpoint);
        let mut found = self.find(&name).map_err(refused)?;
        if let Some(link) = found.take_if(|link| !inner.is_some_and(|inner| inner.is_end_of(link)))
        {
            let deleted = self.netlink.delete(link.index);
            deleted
                .doing(|| format!("delete the stray {name}"))
                .map_err(refused)?;
            done.push(format!("delete the stray {name}"));
        }
        let end = match found {
            Some(link) => link,
            None => {
                let made = self
                    .netlink
                    .create_veth(&name, &way.interface, Some(namespace));
                let doing = || format!("make veth {name} with {} inside", way.interface);
                made.doing(doing).map_err(refused)?;
                namespace::quieten_ipv6(&name, false);
                done.push(format!("make {} and its outer end {name}", way.interface));
                self.netlink
                    .link(&name)
                    .doing(|| format!("look for {name}"))
                    .map_err(refused)?
            }
        };
        self.furnish_end(&end, way, bridge, done).map_err(refused)
    }

    fn furnish_end(
        &mut self,
        end: &Link,
        way: &WayOut,
        bridge: u32,
        done: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let (netlink, name) = (&mut self.netlink, &end.name);
        let mtu = u32::from(way.mtu);
        if end.controller != Some(bridge) || end.mtu != mtu {
            let change = LinkChange {
                controller: Some(bridge),
                mtu: Some(mtu),
                ..LinkChange::default()
            };
            let changed = netlink.change(end.index, change);
            changed.doing(|| format!("join {name} to {}", way.bridge))?;
            done.push(format!("join {name} to {}", way.bridge));
        }
        // Leaving a bridge and joining it again forgets this.
        if !end.isolated || end.controller != Some(bridge) {
            let isolated = netlink.isolate(end.index);
            isolated.doing(|| format!("isolate {name} from the other endpoints"))?;
            done.push(format!("isolate {name} from the other endpoints"));
        }
        if !end.up {
            set_up(netlink, end.index, name)?;
            done.push(format!("set {name} up"));
        }
        Ok(())
    }

    /// Waits until the kernel has seen that both ends of a pair are up: before, it drops what is sent.
    pub(crate) fn await_end(&mut self, endpoint: EndpointId) -> Result<(), NoWayOut> {
        let name = end_name(endpoint);
        for _ in 0..LINK_LOOKS_MAX {
            let link = self.find(&name).map_err(refused)?;
            if link.is_none_or(|link| link.running && link.forwarding) {
                break;
            }
            let _ = poll(&mut [], PollTimeout::from(1_u8));
        }
        // Later than ever seen; the endpoint loses its first packets then, and nothing else.
        Ok(())
    }

    /// Takes an endpoint from the bridge, and the bridge away if that was its last.
    pub(crate) fn leave(&mut self, endpoint: EndpointId, bridge: &str) -> Result<(), Failure> {
        let name = end_name(endpoint);
        if let Some(link) = self.find(&name)? {
            match self.netlink.delete(link.index) {
                // The namespace of its other end has just taken it along.
                Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => {}
                deleted => deleted.doing(|| format!("delete {name}"))?,
            }
        }
        self.end_if_unused(bridge)
    }

    /// Removes the bridge if no endpoint is left on it, and all that was made for it.
    pub(crate) fn end_if_unused(&mut self, bridge: &str) -> Result<(), Failure> {
        let links = self.netlink.links().doing(|| "list interfaces".into())?;
        let found = links.iter().find(|link| link.name == bridge);
        if found.is_some_and(|found| links.iter().any(|one| is_ours_on(one, found.index))) {
            return Ok(());
        }
        let table = self.nftables.read(TABLE).doing(|| read_table().into())?;
        let ours = |table| filter::bridge_of(table).is_none_or(|named| named == bridge);
        if let Some(table) = table.as_ref().filter(|table| ours(table)) {
            let remembered = filter::opened_in(table);
            Opened::remembered(&self.memory, remembered)?.close()?;
            let deleted = self.nftables.delete(TABLE);
            deleted.doing(|| format!("delete the nf_tables table {TABLE}"))?;
            Opened::forget(&self.memory)?;
        }
        if let Some(found) = found.filter(|found| found.alias.as_deref() == Some(ALIAS)) {
            let deleted = self.netlink.delete(found.index);
            deleted.doing(|| format!("delete bridge {bridge}"))?;
        }
        Ok(())
    }

    /// Says what is missing of an endpoint's way out, if anything is.
    pub(crate) fn missing(
        &mut self,
        endpoint: EndpointId,
        way: &WayOut,
        inner: Option<&Inner>,
    ) -> Result<Option<String>, Failure> {
        let name = end_name(endpoint);
        let Some(bridge) = self.find(&way.bridge)?.filter(|link| link.up) else {
            return Ok(Some(format!("bridge {} is not up", way.bridge)));
        };
        let joined =
            |link: &Link| link.up && link.isolated && link.controller == Some(bridge.index);
        let Some(end) = self.find(&name)?.filter(joined) else {
            return Ok(Some(format!("{name} is not up on {}", way.bridge)));
        };
        if !inner.is_some_and(|inner| inner.is_end_of(&end) && inner.fits(way)) {
            let missing = format!("{} is not as it shall be in the endpoint", way.interface);
            return Ok(Some(missing));
        }
        let addresses = self.netlink.addresses(bridge.index);
        let addresses = addresses.doing(|| format!("list the addresses of {}", way.bridge))?;
        if !addresses.contains(&way.gateway.into()) {
            return Ok(Some(format!("{} has not {}", way.bridge, way.gateway)));
        }
        let table = self.nftables.read(TABLE).doing(|| read_table().into())?;
        let whole = table.is_some_and(|table| {
            let wanted = filter::table(way, &filter::opened_in(&table));
            table == wanted
        });
        Ok((!whole).then(|| format!("the nf_tables table {TABLE} is not as it shall be")))
    }

    /// Finds other firewalls' chains that drop forwarded packets unless they accept them.
    pub(crate) fn dropping_chains(&mut self) -> Result<Vec<(String, String)>, Failure> {
        let found = self.nftables.dropping_chains(TABLE);
        found.doing(|| read_table().into())
    }

    /// Finds the bridge, or makes it.
    fn make_bridge(&mut self, way: &WayOut, done: &mut Vec<String>) -> Result<u32, NoWayOut> {
        let name = &way.bridge;
        let found = self.find(name).map_err(refused)?;
        let refuse = |reason: String| NoWayOut::Bridge {
            bridge: name.clone(),
            reason,
        };
        let Some(link) = found else {
            let made = self.netlink.create_bridge(name);
            let index = made
                .doing(|| format!("make bridge {name}"))
                .map_err(refused)?;
            done.push(format!("make bridge {name}"));
            let furnished = self.furnish_bridge(index, way, done);
            return furnished.map(|()| index).map_err(|failure| {
                // The first failure says more than this one.
                let _ = self.netlink.delete(index);
                refused(failure)
            });
        };
        if !link.bridge {
            return Err(refuse("an interface of this name is no bridge".into()));
        }
        let addresses = self.netlink.addresses(link.index);
        let addresses = addresses
            .doing(|| format!("list the addresses of {name}"))
            .map_err(refused)?;
        // An earlier life may have ended before it signed its new bridge.
        let unsigned = link.alias.is_none() && !link.up && addresses.is_empty();
        if link.alias.as_deref() == Some(ALIAS) || unsigned {
            let furnished = self.furnish_bridge(link.index, way, done);
            furnished.map_err(refused)?;
        } else if !addresses.contains(&way.gateway.into()) {
            let gateway = way.gateway;
            return Err(refuse(format!(
                "somebody else made it, without the address {gateway}"
            )));
        } else if !link.up {
            return Err(refuse("somebody else made it, and it is down".into()));
        }
        Ok(link.index)
    }

    /// Makes a bridge of ours as it shall be.
    fn furnish_bridge(
        &mut self,
        index: u32,
        way: &WayOut,
        done: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let (netlink, name) = (&mut self.netlink, &way.bridge);
        let link = netlink
            .link_at(index)
            .doing(|| format!("look for {name}"))?;
        if link.alias.as_deref() != Some(ALIAS) {
            let signed = netlink.set_alias(index, ALIAS);
            signed.doing(|| format!("sign bridge {name}"))?;
            namespace::quieten_ipv6(name, false);
        }
        // Without one of its own a bridge takes the lowest of its members', and changes it as they come and go.
        let mac = MacAddr::from_ipv4(way.gateway.addr());
        if link.mac != mac {
            let change = LinkChange {
                mac: Some(mac),
                ..LinkChange::default()
            };
            let changed = netlink.change(index, change);
            changed.doing(|| format!("set MAC {mac} of {name}"))?;
        }
        let wanted = [way.gateway.into()];
        inside::set_addresses(netlink, index, name, &wanted, done)?;
        if !link.up {
            set_up(netlink, index, name)?;
            done.push(format!("set {name} up"));
        }
        Ok(())
    }

    /// Removes the bridge of an earlier configuration, unless endpoints are on it.
    fn give_up(&mut self, other: &str, way: &WayOut) -> Result<(), NoWayOut> {
        let links = self.netlink.links().doing(|| "list interfaces".into());
        let links = links.map_err(refused)?;
        let found = links.iter().find(|link| link.name == other);
        if found.is_some_and(|found| links.iter().any(|one| is_ours_on(one, found.index))) {
            return Err(NoWayOut::Bridge {
                bridge: way.bridge.clone(),
                reason: format!("this host's endpoints are on {other}"),
            });
        }
        self.end_if_unused(other).map_err(refused)
    }

    fn find(&mut self, name: &str) -> Result<Option<Link>, Failure> {
        self.netlink.find(name).doing(|| format!("look for {name}"))
    }
}

fn set_up(netlink: &mut Netlink, index: u32, name: &str) -> Result<(), Failure> {
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    netlink.change(index, up).doing(|| format!("set {name} up"))
}

/// The outer end's name in the host's namespace.
fn end_name(endpoint: EndpointId) -> String {
    format!("{END_PREFIX}{}", endpoint.short())
}

/// Whether this is the end of an endpoint's pair, on that bridge. Others may be on a bridge that somebody else made.
fn is_ours_on(link: &Link, bridge: u32) -> bool {
    link.controller == Some(bridge) && link.name.starts_with(END_PREFIX)
}

fn read_table() -> &'static str {
    "read the nf_tables tables"
}

/// Why there is none, where a system call says so.
pub(crate) fn refused(failure: Failure) -> NoWayOut {
    let privilege = [Errno::EPERM, Errno::EACCES, Errno::EROFS];
    let no_privilege = failure.is_one_of(&privilege);
    let (code, operation) = match failure.code {
        0 => (0, format!("{}: {}", failure.operation, failure.detail)),
        code => (code, failure.operation),
    };
    if no_privilege {
        NoWayOut::Privilege { operation, code }
    } else {
        NoWayOut::System { operation, code }
    }
}

/// The same, of a call to netfilter: what is not built into the kernel shows as something that does not exist.
fn without_netfilter(failure: Failure) -> NoWayOut {
    let absent = [
        Errno::ENOENT,
        Errno::EOPNOTSUPP,
        Errno::EPROTONOSUPPORT,
        Errno::EAFNOSUPPORT,
        Errno::EINVAL,
    ];
    if failure.is_one_of(&absent) {
        let Failure {
            operation, code, ..
        } = failure;
        return NoWayOut::Netfilter { operation, code };
    }
    refused(failure)
}

/// Reads a file; none if there is none.
fn read_if_any(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Of IPv4. One bridge at a time has it.
const TABLE: &str = "overlay";
/// How a bridge of ours is known.
const ALIAS: &str = "overlay: the endpoints' way out";
const END_PREFIX: &str = "vo-";
/// In the daemon's folder.
const MEMORY: &str = "way-out";
/// How often the outer end is looked at, once a millisecond.
const LINK_LOOKS_MAX: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_by_what_the_system_says() {
        let failure = |code| Failure {
            operation: "make it".into(),
            code,
            detail: String::new(),
        };
        for code in [Errno::EPERM, Errno::EACCES, Errno::EROFS] {
            for reason in [
                refused(failure(code as i32)),
                without_netfilter(failure(code as i32)),
            ] {
                assert!(
                    matches!(reason, NoWayOut::Privilege { .. }),
                    "{code}: {reason:?}"
                );
            }
        }
        // A kernel without nf_tables, without its part for NAT, or without netfilter at all.
        for code in [Errno::EINVAL, Errno::ENOENT, Errno::EPROTONOSUPPORT] {
            let reason = without_netfilter(failure(code as i32));
            assert!(
                matches!(reason, NoWayOut::Netfilter { .. }),
                "{code}: {reason:?}"
            );
            let reason = refused(failure(code as i32));
            assert!(
                matches!(reason, NoWayOut::System { .. }),
                "{code}: {reason:?}"
            );
        }
        let worded = Failure {
            detail: "odd".into(),
            ..failure(0)
        };
        assert_eq!(refused(worded).to_string(), "make it: odd");
    }

    #[test]
    fn the_outer_ends_name_fits() {
        let name = end_name(EndpointId::from_bytes([0xff; 16]));
        assert!(name.len() <= 15 && name.starts_with(END_PREFIX), "{name}");
    }
}
