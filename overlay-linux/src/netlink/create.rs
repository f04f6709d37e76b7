//! Interfaces that are made.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
};

use super::{Link, Netlink};

impl Netlink {
    /// Makes a bridge and returns its index.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the name is taken; else what the kernel says.
    pub fn create_bridge(&mut self, name: &str) -> io::Result<u32> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        Ok(self.create(message, name)?.index)
    }

    /// Makes a pair of veth devices, the peer in another namespace if one is given, and returns the first one's index.
    ///
    /// The two have different indices: of a pair whose indices are equal, the kernel takes the ends for devices of a single
    /// end, sees that they are up only with its next round (`linkwatch`, once a second), and drops what is sent before.
    ///
    /// # Errors
    ///
    /// `EEXIST` if one of the names is taken; else what the kernel says.
    pub fn create_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_namespace: Option<BorrowedFd<'_>>,
    ) -> io::Result<u32> {
        let mut other = LinkMessage::default();
        other.attributes = vec![LinkAttribute::IfName(peer.to_owned())];
        if let Some(namespace) = peer_namespace {
            let descriptor = LinkAttribute::NetNsFd(namespace.as_raw_fd());
            other.attributes.push(descriptor);
        }
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
            ]),
        ];
        let differ = |made: &Link| made.peer.is_some_and(|peer| peer != made.index);
        let first = self.create(message.clone(), name)?;
        if differ(&first) {
            return Ok(first.index);
        }
        self.delete(first.index)?;
        for further in 2..INDICES_MAX {
            // The peer's is the next one that is free, as before; this one's is beyond that.
            message.header.index = first.index + further;
            match self.create(message.clone(), name) {
                Ok(made) if differ(&made) => return Ok(made.index),
                Ok(made) => self.delete(made.index)?,
                Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn create(&mut self, message: LinkMessage, name: &str) -> io::Result<Link> {
        let request = RouteNetlinkMessage::NewLink(message);
        self.command(request, NLM_F_CREATE | NLM_F_EXCL)?;
        self.link(name)
    }
}

/// Indices that are tried for one device.
const INDICES_MAX: u32 = 64;
