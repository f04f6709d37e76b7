//! A netfilter socket that blocks: questions, and changes in one batch.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
    },
};

use super::attribute::Attributes;

/// A netfilter socket of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
    /// Which message of the last batch was refused first.
    refused: Option<usize>,
}

/// What a message is about.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) subsystem: u16,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) family: u8,
    pub(crate) about: Attributes,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let descriptor = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        socket::bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            descriptor,
            sequence: 0,
            refused: None,
        })
    }

    /// Lets batches be as long as this, in octets, as far as the system allows; returns how long they may be.
    pub(crate) fn make_room(&self, octets: usize) -> io::Result<usize> {
        let room = || -> io::Result<usize> {
            let room = socket::getsockopt(&self.descriptor, sockopt::SndBuf)?;
            Ok(room.saturating_sub(OVERHEAD_BYTES))
        };
        if room()? < octets {
            let wanted = octets.saturating_add(OVERHEAD_BYTES);
            // Beyond the system's limit where that is allowed, else up to it.
            if socket::setsockopt(&self.descriptor, sockopt::SndBufForce, &wanted).is_err() {
                socket::setsockopt(&self.descriptor, sockopt::SndBuf, &wanted)?;
            }
        }
        room()
    }

    /// Sends one question and returns the attributes of its answers.
    pub(crate) fn ask(&mut self, question: &Message) -> io::Result<Vec<Vec<u8>>> {
        let mut answers = Vec::new();
        self.ask_each(question, |answer| answers.push(answer.to_vec()))?;
        Ok(answers)
    }

    /// Sends one question and looks at its answers one by one.
    pub(crate) fn ask_each(
        &mut self,
        question: &Message,
        each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let first = self.sequence.wrapping_add(1);
        let mut octets = Vec::new();
        self.append(&mut octets, question, 0);
        self.send(&octets)?;
        self.answers(first, each)
    }

    /// Sends changes as one batch and waits for the end of the last one, or the first refusal.
    pub(crate) fn carry_out(&mut self, batch: &[Message]) -> io::Result<()> {
        let (Some(Message { subsystem, .. }), first) =
            (batch.first(), self.sequence.wrapping_add(1))
        else {
            return Ok(());
        };
        let (mut octets, subsystem) = (Vec::new(), *subsystem);
        let edge = |kind| Message {
            subsystem: 0,
            kind,
            flags: 0,
            family: 0,
            about: Attributes::default(),
        };
        self.append(&mut octets, &edge(BATCH_BEGIN), subsystem);
        for (at, message) in batch.iter().enumerate() {
            let last = at + 1 == batch.len();
            let flags = if last { NLM_F_ACK } else { 0 };
            let message = Message {
                flags: message.flags | flags,
                ..message.clone()
            };
            self.append(&mut octets, &message, 0);
        }
        self.append(&mut octets, &edge(BATCH_END), subsystem);
        self.refused = None;
        self.make_room(octets.len())?;
        self.send(&octets)?;
        self.answers(first, |_| {})
    }

    /// Which message of the last batch was refused, by its place in the batch, if one was.
    pub(crate) fn refused(&self) -> Option<usize> {
        self.refused
    }

    fn append(&mut self, octets: &mut Vec<u8>, message: &Message, resource: u16) {
        let Message {
            subsystem,
            kind,
            flags,
            family,
            about,
        } = message;
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER_BYTES + FAMILY_BYTES + about.octets().len();
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        octets.extend_from_slice(&length.to_ne_bytes());
        octets.extend_from_slice(&(subsystem << 8 | kind).to_ne_bytes());
        octets.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        octets.extend_from_slice(&self.sequence.to_ne_bytes());
        octets.extend_from_slice(&[0; 4]);
        octets.extend_from_slice(&[*family, VERSION]);
        octets.extend_from_slice(&resource.to_be_bytes());
        octets.extend_from_slice(about.octets());
    }

    fn send(&self, octets: &[u8]) -> io::Result<()> {
        let descriptor = self.descriptor.as_raw_fd();
        // What is left of an exchange that ended with its first refusal would fill the socket up.
        let mut rest = [0; FAMILY_BYTES];
        let mut next = || socket::recv(descriptor, &mut rest, MsgFlags::MSG_DONTWAIT);
        while let Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) = next() {}
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(descriptor, octets, &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Looks at answers to the messages from `first` on, up to an acknowledgement, the end of a dump or a refusal.
    fn answers(&mut self, first: u32, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sent = self.sequence.wrapping_sub(first);
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        loop {
            let length = socket::recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, sequence, body, after)) = split(rest) {
                rest = after;
                let place = sequence.wrapping_sub(first);
                if place > sent {
                    continue;
                }
                match kind {
                    ERROR => {
                        let answered = refusal(body);
                        // A batch begins with a message of its own.
                        let place = usize::try_from(place).ok().and_then(|at| at.checked_sub(1));
                        self.refused = place.filter(|_| answered.is_err());
                        return answered;
                    }
                    DONE => return Ok(()),
                    _ => each(body.get(FAMILY_BYTES..).unwrap_or_default()),
                }
            }
        }
    }
}

/// Splits the first message off: its kind, its number, what is in it, and what comes after it.
pub(crate) fn split(octets: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let header = octets.first_chunk::<HEADER_BYTES>()?;
    let [a, b, c, d, e, f, _, _, i, j, k, l, ..] = *header;
    let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok()?;
    let body = octets.get(HEADER_BYTES..length)?;
    let after = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
    let (kind, sequence) = (u16::from_ne_bytes([e, f]), u32::from_ne_bytes([i, j, k, l]));
    Some((kind, sequence, body, after))
}

pub(crate) fn refusal(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Message {
    /// How long it is, in octets.
    pub(crate) fn octets(&self) -> usize {
        HEADER_BYTES + FAMILY_BYTES + self.about.octets().len()
    }
}

const HEADER_BYTES: usize = 16;
/// Of `struct nfgenmsg`: family, version, resource.
const FAMILY_BYTES: usize = 4;
const VERSION: u8 = 0;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// What the kernel keeps of a socket's room for itself.
const OVERHEAD_BYTES: usize = 32;
/// The kernel sends at most 32 KiB at once, and a refusal repeats the message that it is about.
const ANSWER_BYTES_MAX: usize = 65_536;
