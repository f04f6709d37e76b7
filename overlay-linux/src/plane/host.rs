//! The kernel itself: rtnetlink and nf_tables of the switch namespace and of the underlay's, and XFRM of the latter.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::errno::Errno;
use overlay_core::plane::PlatformError;

use super::{
    devices, filter,
    filtering::{self, NoFiltering},
    fitness::NoSealing,
    guard,
    kernel::Kernel,
    namespace::SwitchNamespace,
    plan::Operation,
    policy, rows,
    sealer::Sealer,
    tables::{Device, Kind, Rules, Tables},
};
use crate::{
    failure::{Doing, Failure},
    namespace,
    netlink::{LinkChange, Netlink},
    nftables::{Nftables, Table, stages},
};

/// The kernel, by way of a switch namespace and of the underlay's: the one in which this was opened.
///
/// It needs `CAP_NET_ADMIN` over both. It touches the devices of its own names in the switch namespace, the tables
/// `bridge overlay_plane` and `inet overlay_policy` in there and `inet overlay_guard` in the underlay's, associations and policies of its own `reqid`
/// there, and nothing else.
#[derive(Debug)]
pub struct Host {
    namespace: SwitchNamespace,
    switch: Netlink,
    underlay: Netlink,
    filter: Nftables,
    packets: Nftables,
    guard: Nftables,
    sealer: Sealer,
    /// Whether the rules of networks can be carried out, as it was found when it was asked first.
    filtering: Option<Result<(), NoFiltering>>,
    /// The devices' numbers, as they were read back or made last.
    indices: BTreeMap<String, u32>,
}

/// How many frames and datagrams were dropped, by reason: in the words of `overlay-vxlan`.
pub type Drops = BTreeMap<&'static str, u64>;

impl Host {
    /// Opens the kernel's sides of the switch namespace and of the calling thread's own, wherever the thread goes
    /// afterwards.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]. Whether the kernel can all that the plane takes is said by [`check()`](super::check()).
    pub fn open(namespace: SwitchNamespace) -> Result<Self, PlatformError> {
        let netlink = || Netlink::open().doing(|| "open a netlink socket".into());
        let tables = || "open a netfilter socket".to_owned();
        let (underlay, guard) = (netlink()?, Nftables::open_inet().doing(tables)?);
        let (switch, filter, packets) = namespace.within(|| {
            let filter = Nftables::open_bridge().doing(tables)?;
            let packets = Nftables::open_inet().doing(tables)?;
            filtering::show_vlans();
            Ok((netlink()?, filter, packets))
        })?;
        Ok(Self {
            namespace,
            switch,
            underlay,
            filter,
            packets,
            guard,
            sealer: Sealer::open()?,
            filtering: None,
            indices: BTreeMap::new(),
        })
    }

    /// With the socket that opens sealed datagrams, as an earlier life of the daemon had it: see
    /// [`sealed_socket`](Self::sealed_socket).
    ///
    /// # Errors
    ///
    /// If it is no UDP socket, or the kernel opens no ESP; the host is as before.
    pub fn take_sealed_socket(&mut self, socket: OwnedFd) -> Result<(), PlatformError> {
        Ok(self.sealer.take(socket.into())?)
    }

    /// Returns the socket by which sealed datagrams come, if there is one. The kernel opens them for as long as any copy of
    /// it is open: whoever keeps one lets encrypted networks go on while no daemon is there.
    pub fn sealed_socket(&self) -> Option<BorrowedFd<'_>> {
        self.sealer.socket()
    }

    /// Returns the switch namespace.
    pub fn namespace(&self) -> &SwitchNamespace {
        &self.namespace
    }

    /// Returns the switch namespace and lets go of the rest.
    pub fn into_namespace(self) -> SwitchNamespace {
        self.namespace
    }

    /// Returns how much was dropped since the filters were made.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn drops(&mut self) -> Result<Drops, PlatformError> {
        let mut drops = Drops::new();
        let counted = self.filter.counted(filter::TABLE);
        let counted = counted.doing(|| format!("read the counters of {}", filter::TABLE))?;
        for (chain, packets) in counted {
            if let Some(reason) = filter::reason(&chain) {
                *drops.entry(reason).or_default() += packets;
            }
        }
        let counted = self.packets.counted(policy::TABLE);
        let counted = counted.doing(|| format!("read the counters of {}", policy::TABLE))?;
        let denied = counted.iter().filter(|(chain, _)| policy::drops(chain));
        let denied: u64 = denied.map(|(_, packets)| packets).sum();
        *drops.entry(policy::POLICY).or_default() += denied;
        let counted = self.guard.counted(guard::TABLE);
        let counted = counted.doing(|| format!("read the counters of {}", guard::TABLE))?;
        let strangers = counted.iter().filter(|(chain, _)| guard::drops(chain));
        let strangers = strangers.map(|(_, packets)| packets).sum();
        drops.insert("unknown_vtep", strangers);
        let clear = counted.iter().filter(|(chain, _)| guard::is_clear(chain));
        drops.insert("in_clear", clear.map(|(_, packets)| packets).sum());
        Ok(drops)
    }

    fn index(&self, name: &str) -> Result<u32, Failure> {
        let index = self.indices.get(name).copied();
        let missing = || std::io::Error::from(Errno::ENODEV);
        index
            .ok_or_else(missing)
            .doing(|| format!("look for {name}"))
    }

    fn make(&mut self, name: &str, device: &Device) -> Result<(), Failure> {
        let doing = || format!("make {name}");
        let index = match &device.kind {
            Kind::Vxlan(tunnel) => {
                let within = self.namespace.as_fd();
                let made = devices::make_vxlan(&mut self.underlay, name, tunnel, within);
                made.map_err(|error| taken(&error, tunnel.port).unwrap_or(error))
                    .doing(doing)?;
                self.switch.link(name).doing(doing)?.index
            }
            Kind::Bridge { shown, .. } => {
                devices::make_bridge(&mut self.switch, name, *shown).doing(doing)?
            }
            Kind::Port | Kind::Other(_) => {
                return Err(Errno::EOPNOTSUPP).doing(doing);
            }
        };
        self.indices.insert(name.to_owned(), index);
        let bare = Device {
            up: false,
            mtu: 0,
            member: None,
            kind: device.kind.clone(),
        };
        self.set(name, &bare, device)
    }

    fn set(&mut self, name: &str, from: &Device, to: &Device) -> Result<(), Failure> {
        let index = self.index(name)?;
        let bridge = match &to.member {
            Some((bridge, _)) => self.index(bridge)?,
            None => 0,
        };
        let set = devices::set(&mut self.switch, index, from, to, bridge);
        // A VXLAN device has its socket from when it goes up.
        let set = set.map_err(|error| match &to.kind {
            Kind::Vxlan(tunnel) => taken(&error, tunnel.port).unwrap_or(error),
            _ => error,
        });
        set.doing(|| format!("set the properties of {name}"))
    }
}

/// Makes tables such as these: the one of this name, and that for packets. What decides changes in one step, see [`stages`].
pub(super) fn change(
    tables: &mut Nftables,
    name: &str,
    from: Option<&Rules>,
    to: Option<&Rules>,
) -> Result<(), Failure> {
    let packets = from.and_then(|rules| rules.packets.as_ref());
    let wanted_packets = to.and_then(|rules| rules.packets.as_ref());
    if turn(tables, name, (from, packets), (to, wanted_packets)).is_ok() {
        return Ok(());
    }
    // It is another one than was read, or holds what cannot be changed: all anew, which depends on neither.
    let mut batch = tables.batch(name);
    batch.delete_table();
    if let Some(wanted) = to {
        batch.fill(&wanted.table);
    }
    if packets.is_some() || wanted_packets.is_some() {
        batch.go_on_with_inet(policy::TABLE);
        batch.delete_table();
    }
    if let Some(wanted) = wanted_packets {
        batch.fill(wanted);
    }
    let replaced = tables.commit(&batch);
    replaced.doing(|| {
        let refused = tables.refused(&batch).unwrap_or("change it");
        format!("change the table {name}: {refused}")
    })
}

fn turn(
    tables: &mut Nftables,
    name: &str,
    (from, mut packets): (Option<&Rules>, Option<&Table>),
    (to, wanted_packets): (Option<&Rules>, Option<&Table>),
) -> std::io::Result<()> {
    let stages = wanted_packets.map(|wanted| stages(packets, wanted));
    let early = stages.as_ref().and_then(|stages| stages.early.as_ref());
    let late = stages.as_ref().and_then(|stages| stages.late.as_ref());
    if let Some(early) = early {
        let mut batch = tables.batch(name);
        batch.go_on_with_inet(policy::TABLE);
        batch.turn(packets, early);
        tables.commit(&batch)?;
        packets = Some(early);
    }
    let mut batch = tables.batch(name);
    match to {
        Some(wanted) => batch.turn(from.map(|rules| &rules.table), &wanted.table),
        None => batch.delete_table(),
    }
    match (packets, late.or(wanted_packets)) {
        (None, None) => {}
        (there, Some(wanted)) => {
            if there != Some(wanted) {
                batch.go_on_with_inet(policy::TABLE);
                batch.turn(there, wanted);
            }
        }
        (Some(_), None) => {
            batch.go_on_with_inet(policy::TABLE);
            batch.delete_table();
        }
    }
    tables.commit(&batch)?;
    if let (Some(late), Some(wanted)) = (late, wanted_packets) {
        let mut batch = tables.batch(name);
        batch.go_on_with_inet(policy::TABLE);
        batch.turn(Some(late), wanted);
        tables.commit(&batch)?;
    }
    Ok(())
}

/// The system's words for a port that is not to be had would be of no help.
fn taken(error: &std::io::Error, port: u16) -> Option<std::io::Error> {
    let words = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            format!(
                "a program's socket has UDP port {port}, or another VXLAN device by other rules"
            )
        }
        Some(Errno::EEXIST) => format!("another VXLAN device has its VNI at UDP port {port}"),
        _ => return None,
    };
    Some(std::io::Error::new(std::io::ErrorKind::AddrInUse, words))
}

impl Kernel for Host {
    fn can_seal(&mut self, v6: bool) -> Result<(), NoSealing> {
        self.sealer.can_seal(v6)
    }

    fn can_filter(&mut self) -> Result<(), NoFiltering> {
        let found = self.filtering.get_or_insert_with(filtering::can_filter);
        found.clone()
    }

    fn read(&mut self) -> Result<Tables, PlatformError> {
        let mut tables = Tables::default();
        let links = devices::read(&mut self.switch).doing(|| "list interfaces".into())?;
        self.indices = links.indices();
        rows::read(&mut self.switch, &links, &mut tables)?;
        tables.devices = links.ours();
        tables.strangers = links.strangers();
        let filter = self.filter.read(filter::TABLE);
        let doing = || format!("read the table {}", filter::TABLE);
        let filter = filter.doing(doing)?;
        let packets = self.packets.read(policy::TABLE);
        let doing = || format!("read the table {}", policy::TABLE);
        let packets = packets.doing(doing)?;
        if filter.is_some() || packets.is_some() {
            let table = filter.unwrap_or_default();
            tables.filter = Some(Rules { table, packets });
        }
        let guard = self.guard.read(guard::TABLE);
        let doing = || format!("read the table {}", guard::TABLE);
        let guard = guard.doing(doing)?;
        tables.guard = guard.map(|table| Rules {
            table,
            packets: None,
        });
        tables.sealing = self.sealer.read()?;
        Ok(tables)
    }

    fn carry_out(&mut self, operation: &Operation) -> Result<(), PlatformError> {
        match operation {
            Operation::Filter { from, to } => {
                change(&mut self.filter, filter::TABLE, from.as_ref(), to.as_ref())?
            }
            Operation::Guard { from, to } => {
                change(&mut self.guard, guard::TABLE, from.as_ref(), to.as_ref())?;
            }
            Operation::Sealing(step) => self.sealer.carry_out(step)?,
            Operation::Make { name, device } => self.make(name, device)?,
            Operation::Set { name, from, to } => self.set(name, from, to)?,
            Operation::Expel { name, .. } => {
                let leave = LinkChange {
                    controller: Some(0),
                    ..LinkChange::default()
                };
                let left = self.switch.change(self.index(name)?, leave);
                left.doing(|| operation.to_string())?;
            }
            Operation::Delete { name } => {
                let index = self.index(name)?;
                let deleted = self.switch.delete(index);
                deleted.doing(|| format!("delete {name}"))?;
                self.indices.remove(name);
            }
            Operation::Forward { .. }
            | Operation::Forget { .. }
            | Operation::Tunnel { .. }
            | Operation::Untunnel { .. }
            | Operation::Answer { .. }
            | Operation::Unanswer { .. } => {
                let index = rows::device(operation).map_or(Ok(0), |name| self.index(name))?;
                let mut done = rows::carry_out(&mut self.switch, index, operation);
                if let (Operation::Answer { bridge, .. }, Err(error)) = (operation, &done)
                    && error.raw_os_error() == Some(Errno::EINVAL as i32)
                {
                    // On a bridge without IPv6 there are no neighbours of IPv6; it still has no address of its own.
                    self.namespace.within(|| {
                        namespace::quieten_ipv6(bridge, true);
                        Ok(())
                    })?;
                    done = rows::carry_out(&mut self.switch, index, operation);
                }
                done.doing(|| operation.to_string())?;
            }
        }
        Ok(())
    }
}
