//! Hears of changes that somebody makes.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    libc,
    sys::socket::{self, MsgFlags, NetlinkAddr},
};
use overlay_core::plane::PlatformError;

use super::namespace::SwitchNamespace;
use crate::{
    failure::{Doing, Failure},
    sys,
};

/// Says when to look at the kernel again: links, rows or rules of the switch namespace, or rules, associations or policies of
/// the underlay's, have changed, perhaps by our own hand.
///
/// To be polled for readability, all of [`descriptors`](Self::descriptors); then [`is_due`](Self::is_due) takes away what
/// there is to read. Whoever changes is not told apart, and of too many changes the kernel drops some: each is a reason to
/// look, and none says what to look at.
#[derive(Debug)]
pub struct Watch {
    sockets: Vec<OwnedFd>,
}

impl Watch {
    /// Begins to hear of changes in the switch namespace, and of rules in the calling thread's own.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn open(namespace: &SwitchNamespace) -> Result<Self, PlatformError> {
        let hear_rules = || hear(libc::NETLINK_NETFILTER, RULES);
        let mut sockets = vec![hear_rules()?];
        match hear(sys::NETLINK_XFRM, SEALING) {
            // A kernel without IPsec.
            Err(failure) if failure.is_one_of(&[Errno::EPROTONOSUPPORT]) => {}
            heard => sockets.push(heard?),
        }
        sockets.extend(namespace.within(|| {
            Ok([
                hear(libc::NETLINK_ROUTE, LINKS | NEIGHBOURS)?,
                hear_rules()?,
            ])
        })?);
        Ok(Self { sockets })
    }

    /// Returns what to poll.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd).collect()
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

fn hear(protocol: libc::c_int, groups: u32) -> Result<OwnedFd, Failure> {
    let doing = || "hear of changes by netlink".to_owned();
    let socket = sys::open_netlink(protocol).doing(doing)?;
    let address = NetlinkAddr::new(0, groups);
    socket::bind(socket.as_raw_fd(), &address).doing(doing)?;
    Ok(socket)
}

// `linux/rtnetlink.h`, as bits.
/// `RTMGRP_LINK`.
const LINKS: u32 = 1;
/// `RTMGRP_NEIGH`: rows of bridges and VXLAN devices are neighbours, too.
const NEIGHBOURS: u32 = 4;
/// Of `linux/xfrm.h`, by bits: `XFRMNLGRP_SA`, `XFRMNLGRP_POLICY`.
const SEALING: u32 = 1 << 2 | 1 << 3;
/// The bit of `NFNLGRP_NFTABLES`, of `linux/netfilter/nfnetlink.h`.
const RULES: u32 = 1 << 6;
