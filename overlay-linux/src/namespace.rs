//! Entering, making and furnishing namespaces. Everything here changes the calling thread.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
};

use nix::{
    errno::Errno,
    sched::{self, CloneFlags},
    unistd,
};

use crate::{
    failure::{Doing, Failure},
    netlink::{LinkChange, Netlink},
};

/// Moves the calling process into new namespaces, in a new user namespace if it takes that.
///
/// Whether it takes that is found by trying. A user namespace is only to be had while the process has a single thread.
pub(crate) fn make(flags: CloneFlags) -> Result<Privilege, Failure> {
    match sched::unshare(flags) {
        Ok(()) => return Ok(Privilege::Given),
        Err(Errno::EPERM) => {}
        Err(error) => return Err(error).doing(|| format!("unshare {flags:?}")),
    }
    make_user()?;
    sched::unshare(flags).doing(|| format!("unshare {flags:?} in a new user namespace"))?;
    Ok(Privilege::UserNamespace)
}

/// Where the right to make namespaces came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The process had it.
    Given,
    /// From a new user namespace, in which the user is mapped to root.
    UserNamespace,
}

/// Moves the calling process, of one thread, into a new user namespace as its root.
pub(crate) fn make_user() -> Result<(), Failure> {
    let (user, group) = (unistd::geteuid(), unistd::getegid());
    let made = sched::unshare(CloneFlags::CLONE_NEWUSER);
    let why = match made {
        // The system's words for these would mislead: no disk is full, and no right is missing that a user could have.
        Err(Errno::ENOSPC) => " (see the limit user.max_user_namespaces)",
        Err(Errno::EPERM) => " (the system does not allow them to ordinary users)",
        _ => "",
    };
    made.doing(|| format!("unshare a user namespace{why}"))?;
    // Absent before Linux 3.19; without it the group map is refused, which says more.
    let _ = fs::write("/proc/self/setgroups", "deny");
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))
        .doing(|| "write /proc/self/uid_map".into())?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
        .doing(|| "write /proc/self/gid_map".into())
}

/// Opens the calling thread's network namespace.
pub(crate) fn current() -> Result<File, Failure> {
    let path = "/proc/thread-self/ns/net";
    File::open(path).doing(|| format!("open {path}"))
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(namespace: impl AsFd) -> Result<(), Failure> {
    sched::setns(namespace, CloneFlags::CLONE_NEWNET).doing(|| "enter a network namespace".into())
}

/// Moves the calling thread into a new network namespace.
pub(crate) fn make_network() -> Result<(), Failure> {
    sched::unshare(CloneFlags::CLONE_NEWNET).doing(|| "unshare a network namespace".into())
}

/// Brings the loopback interface up.
pub(crate) fn raise_loopback(netlink: &mut Netlink) -> Result<(), Failure> {
    let up = LinkChange {
        up: Some(true),
        ..LinkChange::default()
    };
    let loopback = netlink.link("lo").doing(|| "look for lo".into())?;
    netlink
        .change(loopback.index, up)
        .doing(|| "set lo up".into())
}

/// Keeps the kernel from sending IPv6 packets of its own accord on an interface (or `default`, for all to come).
///
/// With addresses of its own it still speaks IPv6, but neither makes up addresses nor listens to routers. Best effort:
/// where /proc is read-only there is only more noise.
pub(crate) fn quieten_ipv6(interface: &str, has_addresses: bool) {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(interface);
    let settings: &[(&str, &str)] = if has_addresses {
        &[
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("autoconf", "0"),
            ("dad_transmits", "0"),
            ("addr_gen_mode", "1"),
        ]
    } else {
        &[("disable_ipv6", "1")]
    };
    for (name, value) in settings {
        // A kernel without IPv6 has no such file.
        let _: io::Result<()> = fs::write(folder.join(name), value);
    }
}

/// Makes an interface ask and answer for its own addresses alone, not for those of the others in its namespace: their
/// networks know nothing of each other. Best effort, as [`quieten_ipv6`].
pub(crate) fn keep_to_itself(interface: &str) {
    let folder = Path::new("/proc/sys/net/ipv4/conf").join(interface);
    for (name, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        let _: io::Result<()> = fs::write(folder.join(name), value);
    }
}
