//! Making a port, from inside the endpoint's namespace. Runs in a holder.

use std::{
    collections::BTreeSet,
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::{
    errno::Errno,
    poll::{PollTimeout, poll},
};
use overlay_core::plane::{ActualPort, PortSpec};

use super::{Port, PortKind};
use crate::{
    failure::{Doing, Failure},
    namespace,
    netlink::{LinkChange, Netlink},
    plane::port_name,
    sys,
};

/// A port with what manages it: the inner end by way of its namespace, the outer end (if any) by way of the hidden one.
#[derive(Debug)]
pub(crate) struct Made {
    /// None of a port whose outer end is in the switch namespace: the kernel plane has it.
    pub(crate) port: Option<Port>,
    inner: Netlink,
    index: u32,
    outer: Option<(Netlink, u32)>,
}

/// Makes the port of `spec` in the calling thread's network namespace, in which the thread is afterwards as before.
///
/// With a `switch` namespace the outer end is in there, and nothing else about it is done: it is the kernel plane's.
pub(crate) fn make(
    spec: &PortSpec,
    wanted: Option<PortKind>,
    switch: Option<BorrowedFd<'_>>,
) -> Result<Made, Failure> {
    let inner = Netlink::open().doing(|| "open a netlink socket".into())?;
    let mut made = match (switch, wanted) {
        (Some(switch), _) => make_bridged(spec, inner, switch)?,
        (None, Some(PortKind::Tap)) => make_tap(spec, inner)?,
        (None, Some(PortKind::Packet | PortKind::Bridged)) => make_packet(spec, inner)?,
        (None, None) => match make_tap(spec, inner) {
            Ok(made) => made,
            Err(failure) if failure.is_one_of(NO_TUN) => {
                let inner = Netlink::open().doing(|| "open a netlink socket".into())?;
                make_packet(spec, inner)?
            }
            Err(failure) => return Err(failure),
        },
    };
    match made.furnish(spec) {
        Ok(()) => Ok(made),
        Err(failure) => {
            // A half made port must not stay in a namespace that is not ours; the first failure says more than this one.
            let _ = made.remove();
            Err(failure)
        }
    }
}

/// What says that `/dev/net/tun` is not to be had, rather than that this interface cannot be made.
const NO_TUN: &[Errno] = &[
    Errno::EACCES,
    Errno::EPERM,
    Errno::ENOENT,
    Errno::ENODEV,
    Errno::ENXIO,
];

fn make_tap(spec: &PortSpec, mut inner: Netlink) -> Result<Made, Failure> {
    let name = &spec.interface;
    let tap = sys::open_tap(name).doing(|| format!("make TAP {name} with /dev/net/tun"))?;
    let index = index_of(&mut inner, name)?;
    Ok(Made {
        port: Some(Port::new(tap.into(), PortKind::Tap)),
        inner,
        index,
        outer: None,
    })
}

fn make_packet(spec: &PortSpec, mut inner: Netlink) -> Result<Made, Failure> {
    let name = &spec.interface;
    let home = namespace::current()?;
    namespace::make_network()?;
    let made = make_outer(&home, spec);
    namespace::enter(&home)?;
    let (packet, outer, outer_index) = made?;
    let index = index_of(&mut inner, name)?;
    Ok(Made {
        port: Some(Port::new(packet.into(), PortKind::Packet)),
        inner,
        index,
        outer: Some((outer, outer_index)),
    })
}

/// The pair, with its outer end in the switch namespace.
fn make_bridged(
    spec: &PortSpec,
    mut inner: Netlink,
    switch: BorrowedFd<'_>,
) -> Result<Made, Failure> {
    let (name, outer) = (&spec.interface, port_name(spec.endpoint));
    let index = inner
        .create_veth(name, &outer, Some(switch))
        .doing(|| format!("make veth {name}, and {outer} in the switch namespace"))?;
    Ok(Made {
        port: None,
        inner,
        index,
        outer: None,
    })
}

/// In the hidden namespace: the pair, and the socket on its outer end.
fn make_outer(home: &File, spec: &PortSpec) -> Result<(File, Netlink, u32), Failure> {
    let name = &spec.interface;
    for interface in ["all", "default"] {
        namespace::quieten_ipv6(interface, false);
    }
    let mut outer = Netlink::open().doing(|| "open a netlink socket".into())?;
    let packet = sys::open_packet().doing(|| "open a packet socket".into())?;
    let index = outer
        .create_veth(OUTER, name, Some(home.as_fd()))
        .doing(|| format!("make veth {name}"))?;
    let up = LinkChange {
        up: Some(true),
        mtu: Some(u32::from(spec.mtu)),
        queue_frames_max: Some(QUEUE_FRAMES_MAX),
        ..LinkChange::default()
    };
    let furnished = outer
        .change(index, up)
        .doing(|| format!("set the outer end of {name} up"))
        .and_then(|()| {
            sys::bind_packet(&packet, index).doing(|| format!("bind to the outer end of {name}"))
        });
    match furnished {
        Ok(()) => Ok((packet, outer, index)),
        Err(failure) => {
            let _ = outer.delete(index);
            Err(failure)
        }
    }
}

fn index_of(netlink: &mut Netlink, name: &str) -> Result<u32, Failure> {
    let link = netlink.link(name).doing(|| format!("look for {name}"))?;
    Ok(link.index)
}

impl Made {
    /// Gives the inner end its properties, addresses and route.
    fn furnish(&mut self, spec: &PortSpec) -> Result<(), Failure> {
        let name = &spec.interface;
        let has_ipv6 = spec.addresses.iter().any(|a| a.addr().is_ipv6());
        namespace::quieten_ipv6(name, has_ipv6);
        namespace::keep_to_itself(name);
        let mut change = LinkChange {
            mtu: Some(u32::from(spec.mtu)),
            mac: Some(spec.mac),
            queue_frames_max: Some(QUEUE_FRAMES_MAX),
            segments_max: (!super::takes_udp_segments()).then_some(1),
            ..LinkChange::default()
        };
        if self.port.is_none() {
            // Frames that the kernel carries itself wait for nobody, and are cut up at the underlay.
            (change.queue_frames_max, change.segments_max) = (None, None);
        }
        self.inner
            .change(self.index, change)
            .doing(|| format!("set MAC {} and MTU {} of {name}", spec.mac, spec.mtu))?;
        for address in &spec.addresses {
            self.add_address(name, *address)?;
        }
        self.set_up(name)?;
        self.reach_directly(spec)?;
        if let Some(gateway) = spec.gateway {
            self.inner
                .add_route(self.index, everywhere(gateway), Some(gateway))
                .doing(|| format!("add the default route by {gateway} on {name}"))?;
        }
        self.await_outer()
    }

    /// Waits until the kernel has seen that both ends are up: before, it drops what is sent to the endpoint.
    fn await_outer(&mut self) -> Result<(), Failure> {
        let Some((netlink, index)) = &mut self.outer else {
            return Ok(());
        };
        for _ in 0..LINK_LOOKS_MAX {
            let link = netlink.link_at(*index);
            if link.doing(|| "look for the outer end".into())?.running {
                break;
            }
            let _ = poll(&mut [], PollTimeout::from(1_u8));
        }
        // Later than ever seen; the endpoint loses its first frames then, and nothing else.
        Ok(())
    }

    /// By what means the port is attached.
    pub(crate) fn kind(&self) -> PortKind {
        let port = self.port.as_ref();
        port.map_or(PortKind::Bridged, Port::kind)
    }

    /// The number of the inner end within its namespace.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Reads back what is really there.
    pub(crate) fn actual(&mut self) -> Result<ActualPort, Failure> {
        let link = self.inner.link_at(self.index);
        let link = link.doing(|| "look for the port's interface".into())?;
        let addresses = self.inner.addresses(self.index);
        let addresses = addresses.doing(|| format!("list the addresses of {}", link.name))?;
        Ok(ActualPort {
            interface: link.name,
            mac: link.mac,
            addresses,
            mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
            up: link.up,
            way_out: None,
        })
    }

    /// Makes the inner end as `spec` says again, and says in words what had to change.
    pub(crate) fn repair(&mut self, spec: &PortSpec) -> Result<Vec<String>, Failure> {
        let actual = self.actual()?;
        let (name, mut done) = (&actual.interface, Vec::new());
        if actual.mtu != spec.mtu {
            let mtu = LinkChange {
                mtu: Some(u32::from(spec.mtu)),
                ..LinkChange::default()
            };
            if let Some((netlink, index)) = &mut self.outer {
                let outer = netlink.change(*index, mtu);
                outer.doing(|| format!("set the MTU of the outer end of {name}"))?;
            }
            self.inner
                .change(self.index, mtu)
                .doing(|| format!("set MTU {} of {name}", spec.mtu))?;
            done.push(format!("MTU {} -> {} of {name}", actual.mtu, spec.mtu));
        }
        if actual.mac != spec.mac {
            let mac = LinkChange {
                mac: Some(spec.mac),
                ..LinkChange::default()
            };
            self.inner
                .change(self.index, mac)
                .doing(|| format!("set MAC {} of {name}", spec.mac))?;
            done.push(format!("MAC {} -> {} of {name}", actual.mac, spec.mac));
        }
        self.repair_addresses(&actual, spec, &mut done)?;
        if !actual.up {
            self.set_up(name)?;
            done.push(format!("set {name} up"));
        }
        // A route goes with its interface's address or state; setting it again is harmless.
        self.reach_directly(spec)?;
        if let Some(gateway) = spec.gateway.filter(|_| !done.is_empty()) {
            self.inner
                .add_route(self.index, everywhere(gateway), Some(gateway))
                .doing(|| format!("add the default route by {gateway} on {name}"))?;
        }
        Ok(done)
    }

    /// Takes foreign addresses away first: with the first one of a subnet the kernel drops all others of it.
    fn repair_addresses(
        &mut self,
        actual: &ActualPort,
        spec: &PortSpec,
        done: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let name = &actual.interface;
        let mut present: BTreeSet<IpNet> = actual.addresses.iter().copied().collect();
        let wanted: BTreeSet<IpNet> = spec.addresses.iter().copied().collect();
        for address in present.clone().difference(&wanted) {
            match self.inner.remove_address(self.index, *address) {
                Err(error) if error.raw_os_error() != Some(Errno::EADDRNOTAVAIL as i32) => {
                    return Err(error).doing(|| format!("remove {address} from {name}"));
                }
                _ => done.push(format!("remove {address} from {name}")),
            }
        }
        if !present.is_subset(&wanted) {
            let left = self.inner.addresses(self.index);
            let left = left.doing(|| format!("list the addresses of {name}"))?;
            present = left.into_iter().collect();
        }
        for address in wanted.difference(&present) {
            self.add_address(name, *address)?;
            done.push(format!("add {address} to {name}"));
        }
        Ok(())
    }

    /// Takes the interface out of the namespace, whoever else still has the port's descriptor.
    pub(crate) fn remove(&mut self) -> Result<(), Failure> {
        match self.inner.delete(self.index) {
            Err(error) if error.raw_os_error() != Some(Errno::ENODEV as i32) => {
                Err(error).doing(|| "delete the port's interface".into())
            }
            _ => Ok(()),
        }
    }

    fn reach_directly(&mut self, spec: &PortSpec) -> Result<(), Failure> {
        for prefix in &spec.on_link {
            self.inner
                .add_route(self.index, *prefix, None)
                .doing(|| format!("add the route to {prefix} on {}", spec.interface))?;
        }
        Ok(())
    }

    fn add_address(&mut self, name: &str, address: IpNet) -> Result<(), Failure> {
        self.inner
            .add_address(self.index, address)
            .doing(|| format!("add {address} to {name}"))
    }

    fn set_up(&mut self, name: &str) -> Result<(), Failure> {
        let up = LinkChange {
            up: Some(true),
            ..LinkChange::default()
        };
        self.inner
            .change(self.index, up)
            .doing(|| format!("set {name} up"))
    }
}

/// The destination of a default route of the gateway's family.
fn everywhere(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => Ipv4Net::default().into(),
        IpAddr::V6(_) => Ipv6Net::default().into(),
    }
}

/// The outer end's name, in a namespace that holds nothing else.
const OUTER: &str = "outer";

/// Frames that wait in the kernel while the reader is elsewhere: a burst of some megabytes.
const QUEUE_FRAMES_MAX: u32 = 2_000;

/// How often the outer end is looked at, once a millisecond.
const LINK_LOOKS_MAX: u32 = 1_000;
