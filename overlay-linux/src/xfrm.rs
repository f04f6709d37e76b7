//! A small XFRM client that blocks: security associations and policies of one network namespace (RFC 4301 §4.4).
//!
//! Only what has this crate's `reqid` is read, and only that is ever changed: other IPsec on the host is left alone. A
//! socket belongs for ever to the namespace in which it was opened.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use nix::{
    errno::Errno,
    sys::socket::{self, MsgFlags, NetlinkAddr},
};

use crate::{
    nftables::socket::{refusal, split},
    sys,
};

mod association;
mod policy;
mod selector;
#[cfg(test)]
mod tests;

pub(crate) use association::{Association, AssociationId, Found, Secret};
pub(crate) use policy::Policy;
pub(crate) use selector::Selector;

/// An XFRM socket of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Xfrm {
    socket: OwnedFd,
    sequence: u32,
}

impl Xfrm {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = sys::open_netlink(sys::NETLINK_XFRM)?;
        socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Lists our associations.
    pub(crate) fn associations(&mut self) -> io::Result<BTreeMap<AssociationId, Found>> {
        let mut found = BTreeMap::new();
        self.call(GET_ASSOCIATION, NLM_F_DUMP, &mut [], |body| {
            found.extend(association::parse(body));
        })?;
        Ok(found)
    }

    /// Makes an association, which must not be there. It goes on after these sequence numbers.
    pub(crate) fn associate(
        &mut self,
        id: &AssociationId,
        association: &Association,
        after: u64,
    ) -> io::Result<()> {
        let mut body = association.emit(id, after);
        self.call(NEW_ASSOCIATION, NLM_F_ACK, &mut body, |_| {})
    }

    /// Deletes an association; one that is not there is fine.
    pub(crate) fn dissociate(&mut self, id: &AssociationId) -> io::Result<()> {
        let deleted = self.call(DELETE_ASSOCIATION, NLM_F_ACK, &mut id.emit(), |_| {});
        unless(deleted, Errno::ESRCH)
    }

    /// Lists our outbound policies.
    pub(crate) fn policies(&mut self) -> io::Result<BTreeMap<Selector, Policy>> {
        let mut found = BTreeMap::new();
        self.call(GET_POLICY, NLM_F_DUMP, &mut [], |body| {
            found.extend(Policy::parse(body));
        })?;
        Ok(found)
    }

    /// Makes an outbound policy, in the place of the one with this selector if there is one.
    pub(crate) fn set_policy(&mut self, selector: &Selector, policy: &Policy) -> io::Result<()> {
        let mut body = policy.emit(selector);
        self.call(UPDATE_POLICY, NLM_F_ACK, &mut body, |_| {})
    }

    /// Deletes an outbound policy; one that is not there is fine.
    pub(crate) fn delete_policy(&mut self, selector: &Selector) -> io::Result<()> {
        let mut body = policy::emit_id(selector);
        let deleted = self.call(DELETE_POLICY, NLM_F_ACK, &mut body, |_| {});
        unless(deleted, Errno::ENOENT)
    }

    /// Sends one request, and looks at its answers up to the acknowledgement, the end of the dump or the refusal. There may
    /// be keys in both: neither is left in memory.
    fn call(
        &mut self,
        kind: u16,
        flags: u16,
        body: &mut [u8],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        let mut octets = Vec::with_capacity(HEADER_BYTES + body.len());
        octets.extend_from_slice(&length.to_ne_bytes());
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        octets.extend_from_slice(&self.sequence.to_ne_bytes());
        octets.extend_from_slice(&[0; 4]);
        octets.extend_from_slice(body);
        let kernel = NetlinkAddr::new(0, 0);
        let sent = socket::sendto(self.socket.as_raw_fd(), &octets, &kernel, MsgFlags::empty());
        wipe(&mut octets);
        wipe(body);
        sent?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let answered = self.answers(&mut buffer, &mut each);
        wipe(&mut buffer);
        answered
    }

    fn answers(&self, buffer: &mut [u8], each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let length = socket::recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, sequence, body, after)) = split(rest) {
                rest = after;
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    ERROR => return refusal(body),
                    DONE => return Ok(()),
                    _ => each(body),
                }
            }
        }
    }
}

fn unless(done: io::Result<()>, fine: Errno) -> io::Result<()> {
    match done {
        Err(error) if error.raw_os_error() == Some(fine as i32) => Ok(()),
        done => done,
    }
}

fn wipe(octets: &mut [u8]) {
    octets.fill(0);
    // Keeps the writes above from being left out as dead.
    std::hint::black_box(octets);
}

/// What makes an association or a policy ours.
pub(crate) const REQID: u32 = 0x6f76_6c79;
/// What makes a packet one that shall be sealed. Only frames on their way to a VXLAN device have it, never packets.
pub(crate) const MARK: u32 = 0x6f76_6c79;

// `linux/xfrm.h`, by the names there without their prefix.
const NEW_ASSOCIATION: u16 = 0x10;
const DELETE_ASSOCIATION: u16 = 0x11;
const GET_ASSOCIATION: u16 = 0x12;
const DELETE_POLICY: u16 = 0x14;
const GET_POLICY: u16 = 0x15;
const UPDATE_POLICY: u16 = 0x19;
/// The attribute of a mark and its mask.
const ATTRIBUTE_MARK: u16 = 21;
/// `IPPROTO_ESP`.
const ESP: u8 = 50;
const TRANSPORT_MODE: u8 = 0;

const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel sends at most 32 KiB at once, and a refusal repeats the message that it is about.
const ANSWER_BYTES_MAX: usize = 65_536;
