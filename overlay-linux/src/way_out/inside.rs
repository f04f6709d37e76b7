//! The way out, inside the endpoint's namespace. Runs in a holder.

use std::{collections::BTreeSet, io, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;
use overlay_core::{MacAddr, plane::WayOut};
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Doing, Failure},
    namespace,
    netlink::{Link, LinkChange, Netlink},
};

/// The endpoint's end of the pair, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inner {
    index: u32,
    peer: u32,
    up: bool,
    addresses: Vec<IpNet>,
    /// The next hop of the default route that leaves by it.
    gateway: Option<IpAddr>,
}

impl Inner {
    /// Looks for an interface in the calling thread's namespace.
    pub(crate) fn find(interface: &str) -> Result<Option<Self>, Failure> {
        let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
        let link = netlink
            .find(interface)
            .doing(|| format!("look for {interface}"))?;
        let Some(link) = link else {
            return Ok(None);
        };
        let addresses = netlink.addresses(link.index);
        let addresses = addresses.doing(|| format!("list the addresses of {interface}"))?;
        let defaults = defaults(&mut netlink)?;
        let own = defaults.iter().find(|(index, _)| *index == link.index);
        Ok(Some(Self {
            index: link.index,
            peer: link.peer.unwrap_or(link.index),
            up: link.up,
            addresses,
            gateway: own.and_then(|(_, gateway)| *gateway),
        }))
    }

    /// Whether the host's interface is the other end.
    pub(super) fn is_end_of(&self, outer: &Link) -> bool {
        self.peer == outer.index && outer.peer.unwrap_or(outer.index) == self.index
    }

    /// Whether it is up and has its address. The default route may be another interface's in a namespace that is not ours.
    pub(super) fn fits(&self, way: &WayOut) -> bool {
        self.up && self.addresses == [IpNet::from(way.address)]
    }
}

/// Makes the endpoint's end such as `way` says, and says what had to change.
///
/// In a namespace of somebody else (`own` is false) a default route that is there already stays.
pub(crate) fn furnish(way: &WayOut, own: bool) -> Result<Vec<String>, Failure> {
    let mut netlink = Netlink::open().doing(|| "open a netlink socket".into())?;
    let (name, mut done) = (&way.interface, Vec::new());
    let looking = || format!("look for {name}");
    let link = netlink
        .find(name)
        .doing(|| format!("look for {name}"))?
        .ok_or_else(|| io::Error::from(Errno::ENODEV))
        .doing(looking)?;
    namespace::quieten_ipv6(name, false);
    let (mac, mtu) = (MacAddr::from_ipv4(way.address.addr()), u32::from(way.mtu));
    if link.mac != mac || link.mtu != mtu {
        let change = LinkChange {
            mac: Some(mac),
            mtu: Some(mtu),
            ..LinkChange::default()
        };
        let changed = netlink.change(link.index, change);
        changed.doing(|| format!("set MAC {mac} and MTU {mtu} of {name}"))?;
        done.push(format!("set MAC {mac} and MTU {mtu} of {name}"));
    }
    let wanted = [way.address.into()];
    set_addresses(&mut netlink, link.index, name, &wanted, &mut done)?;
    if !link.up {
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        let raised = netlink.change(link.index, up);
        raised.doing(|| format!("set {name} up"))?;
        done.push(format!("set {name} up"));
    }
    let gateway = IpAddr::from(way.gateway.addr());
    let defaults = defaults(&mut netlink)?;
    let there = defaults.contains(&(link.index, Some(gateway)));
    if !there && (own || defaults.is_empty()) {
        let everywhere = Ipv4Net::default().into();
        let added = netlink.add_route(link.index, everywhere, Some(gateway));
        added.doing(|| format!("add the default route by {gateway} on {name}"))?;
        done.push(format!("add the default route by {gateway} on {name}"));
    }
    Ok(done)
}

/// Gives an interface these addresses and no others.
pub(super) fn set_addresses(
    netlink: &mut Netlink,
    index: u32,
    name: &str,
    wanted: &[IpNet],
    done: &mut Vec<String>,
) -> Result<(), Failure> {
    let listing = || format!("list the addresses of {name}");
    let wanted: BTreeSet<IpNet> = wanted.iter().copied().collect();
    let present = netlink.addresses(index).doing(listing)?;
    // The foreign ones first: with the first one of a subnet the kernel drops all others of it.
    for address in present.iter().filter(|one| !wanted.contains(one)) {
        match netlink.remove_address(index, *address) {
            Err(error) if error.raw_os_error() == Some(Errno::EADDRNOTAVAIL as i32) => {}
            removed => removed.doing(|| format!("remove {address} from {name}"))?,
        }
        done.push(format!("remove {address} from {name}"));
    }
    let present = netlink.addresses(index).doing(listing)?;
    for address in wanted.iter().filter(|one| !present.contains(one)) {
        let added = netlink.add_address(index, *address);
        added.doing(|| format!("add {address} to {name}"))?;
        done.push(format!("add {address} to {name}"));
    }
    Ok(())
}

/// The interfaces and next hops of the default routes.
fn defaults(netlink: &mut Netlink) -> Result<Vec<(u32, Option<IpAddr>)>, Failure> {
    let routes = netlink.routes().doing(|| "list routes".into())?;
    let everywhere = routes
        .into_iter()
        .filter(|route| route.main && route.destination.prefix_len() == 0);
    let pairs = everywhere.flat_map(|route| {
        let interfaces = route.interfaces.into_iter();
        interfaces.map(move |index| (index, route.gateway))
    });
    Ok(pairs.collect())
}
