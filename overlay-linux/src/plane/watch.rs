//! Hears of changes that somebody makes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType},
};
use overlay_core::plane::PlatformError;

use super::namespace::SwitchNamespace;
use crate::failure::{Doing, Failure};

/// Says when to look at the kernel again: links, rows or rules of the switch namespace, or rules of the underlay's, have
/// changed, perhaps by our own hand.
///
/// To be polled for readability, all of [`descriptors`](Self::descriptors); then [`is_due`](Self::is_due) takes away what
/// there is to read. Whoever changes is not told apart, and of too many changes the kernel drops some: each is a reason to
/// look, and none says what to look at.
#[derive(Debug)]
pub struct Watch {
    sockets: [OwnedFd; 3],
}

impl Watch {
    /// Begins to hear of changes in the switch namespace, and of rules in the calling thread's own.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn open(namespace: &SwitchNamespace) -> Result<Self, PlatformError> {
        let guard = hear(SockProtocol::NetlinkNetFilter, RULES)?;
        let [routes, rules] = namespace.within(|| {
            Ok([
                hear(SockProtocol::NetlinkRoute, LINKS | NEIGHBOURS)?,
                hear(SockProtocol::NetlinkNetFilter, RULES)?,
            ])
        })?;
        let sockets = [routes, rules, guard];
        Ok(Self { sockets })
    }

    /// Returns what to poll.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        self.sockets.each_ref().map(AsFd::as_fd)
    }

    /// Returns whether anything has changed since it was asked last. Never blocks.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn is_due(&mut self) -> io::Result<bool> {
        let mut due = false;
        for socket in &self.sockets {
            let mut buffer = [0; 8_192];
            loop {
                match socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                    // Of an overrun nothing is known but that there was something.
                    Ok(_) | Err(Errno::ENOBUFS) => due = true,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(due)
    }
}

fn hear(protocol: SockProtocol, groups: u32) -> Result<OwnedFd, Failure> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let doing = || "hear of changes by netlink".to_owned();
    let socket = socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol);
    let socket = socket.doing(doing)?;
    let address = NetlinkAddr::new(0, groups);
    socket::bind(socket.as_raw_fd(), &address).doing(doing)?;
    Ok(socket)
}

// `linux/rtnetlink.h`, as bits.
/// `RTMGRP_LINK`.
const LINKS: u32 = 1;
/// `RTMGRP_NEIGH`: rows of bridges and VXLAN devices are neighbours, too.
const NEIGHBOURS: u32 = 4;
/// The bit of `NFNLGRP_NFTABLES`, of `linux/netfilter/nfnetlink.h`.
const RULES: u32 = 1 << 6;
