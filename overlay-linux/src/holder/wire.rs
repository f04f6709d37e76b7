//! What a daemon and a holder say to each other, and how: messages with descriptors over a Unix stream.
//!
//! ```text
//! 0         1         2         3             4              8
//! +---------+---------+---------+-------------+--------------+---------
//! | 'O'     | 'H'     | version | descriptors | length (BE)  | postcard
//! +---------+---------+---------+-------------+--------------+---------
//! ```
//! The descriptors come with the first octet of their message. A holder outlives daemons, also those of an older
//! release, so variants are only ever appended, and whatever else changes raises the version.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write},
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    time::Duration,
};

use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr};
use overlay_core::{
    EndpointId,
    plane::{ActualPort, NoSource, PortSpec, WayOut},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::spec::{Known, Spec};
use crate::{
    command::{CommandSpec, Exit, ProcessId, ProcessStatus},
    failure::Failure,
    port::PortKind,
    sys,
    way_out::inside::Inner,
};

/// What a daemon asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// First of all, and once: make the port. With a network namespace it is one of the kernel plane, whose outer end is in
    /// there. Answer: `Ready` and the port, if it has a descriptor.
    Setup(Box<Setup>),
    /// Answer: `Description` and the port; of several ports one.
    Describe,
    /// Answer: `Done`, a datagram socket and a listening one, bound to the address.
    Sockets(SocketAddr),
    /// Answer: `Actual`, of the port that `Describe` describes.
    Actual,
    /// Make the interface of its port as this says. Answer: `Repaired`.
    Repair(Box<Spec>),
    /// Start a program. Answer: `Started` and its streams; later `Exited`.
    Start { command: CommandSpec, main: bool },
    /// Take up a program that was started earlier. Answer: `Started` and its streams; later `Exited`.
    Follow(ProcessId),
    /// Send a signal to a program, or to all of its process group. Answer: `Done`.
    Signal {
        process: ProcessId,
        signal: i32,
        group: bool,
    },
    /// Send a signal to a program's process group, and kill it if it still runs after the grace. Answer: `Done`.
    Stop {
        process: ProcessId,
        signal: i32,
        grace: Duration,
    },
    /// Kill all programs, remove all ports and end. Answer: `Done`.
    Remove,
    /// Look for an interface. Answer: `Inner` and the endpoint's network namespace.
    Inner(String),
    /// Remember this as the way out that is asked for. Answer: `Done`.
    WayOut(Option<Box<WayOut>>),
    /// Make the inner end of the way out as it is remembered. Answer: `Repaired`.
    FurnishWayOut,
    /// Answer: `Done` and a stream socket that is not connected yet, of IPv6 if so.
    Stream { v6: bool },
    /// Make one more port. Answer: `Ready` and the port.
    AddPort(Box<Spec>),
    /// Remove a port; if it was the last, kill all programs and end. Answer: `Left`.
    RemovePort(EndpointId),
    /// As `Describe`, of this endpoint's port.
    DescribePort(EndpointId),
    /// As `Actual`, of this endpoint's port.
    ActualPort(EndpointId),
    /// Answer: `Done` and a datagram socket that is neither bound nor connected yet, of IPv6 if so.
    Datagrams { v6: bool },
    /// Answer: `Done` and a stream or datagram socket that shows this source, or `NoSource`. It is for reaching this
    /// endpoint.
    From {
        endpoint: EndpointId,
        source: SocketAddr,
        datagrams: bool,
    },
    /// With the switch namespace: make one more port, of the kernel plane. Answer: `Ready`.
    AddBridgedPort(Box<Spec>),
}

/// What a holder is made for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The first port.
    #[serde(with = "Known")]
    pub(crate) spec: PortSpec,
    /// The kind of port, where only one will do.
    pub(crate) kind: Option<PortKind>,
    /// The holder's own folder.
    pub(crate) folder: PathBuf,
    /// How much output is kept, in octets; twice that for a moment.
    pub(crate) output_bytes_max: u64,
}

/// What a holder answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Failed(Failure),
    Done,
    Ready(PortKind),
    Description(Box<Description>),
    Actual(ActualPort),
    Repaired(Vec<String>),
    Started(Streams, ProcessId),
    Exited(Exit),
    Inner(Option<Inner>),
    /// How many ports there are still; the holder ends if there are none.
    Left(u32),
    /// Why there is no socket with the source.
    NoSource(NoSource),
}

/// What a holder holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    #[serde(with = "Known")]
    pub(crate) spec: PortSpec,
    pub(crate) kind: PortKind,
    pub(crate) processes: Vec<ProcessStatus>,
}

/// Which streams come with a started program, in this order.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Streams {
    pub(crate) terminal: bool,
    pub(crate) input: bool,
    pub(crate) output: bool,
    pub(crate) error: bool,
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    inbox: Vec<u8>,
    received: VecDeque<OwnedFd>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            inbox: Vec::new(),
            received: VecDeque::new(),
        }
    }

    /// Sends a message with its descriptors. Blocks as the stream does.
    pub(crate) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let octets = encode(message, descriptors.len())?;
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[] } else { &rights[..] };
        let sent = socket::sendmsg::<UnixAddr>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(&octets)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        let rest = octets.get(sent..).unwrap_or_default();
        (&self.stream).write_all(rest)
    }

    /// Waits for a message, as long as the stream's time limit says.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<(T, Vec<OwnedFd>)> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(message);
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes in what has arrived; false at the end of the stream.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; READ_BYTES];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; DESCRIPTORS_MAX]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = socket::recvmsg::<UnixAddr>(
            self.stream.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                self.received.extend(sys::adopt(&numbers));
            }
        }
        let read = message.bytes;
        self.inbox
            .extend_from_slice(buffer.get(..read).unwrap_or_default());
        Ok(read > 0)
    }

    /// Takes the next whole message, if there is one.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((descriptors, length)) = self.header()? else {
            return Ok(None);
        };
        let end = HEADER_BYTES + length;
        let Some(body) = self.inbox.get(HEADER_BYTES..end) else {
            return Ok(None);
        };
        let message = postcard::from_bytes(body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if self.received.len() < descriptors {
            return Err(invalid("descriptors are missing"));
        }
        self.inbox.drain(..end);
        let descriptors = self.received.drain(..descriptors).collect();
        Ok(Some((message, descriptors)))
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn header(&self) -> io::Result<Option<(usize, usize)>> {
        let Some(header) = self.inbox.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [o, h, version, descriptors, a, b, c, d] = *header;
        if [o, h] != MAGIC {
            return Err(invalid("this is no holder's conversation"));
        }
        if version != VERSION {
            return Err(invalid("the holder is of another release"));
        }
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Err(invalid("the message is too long"));
        }
        Ok(Some((usize::from(descriptors), length)))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn encode<T: Serialize>(message: &T, descriptors: usize) -> io::Result<Vec<u8>> {
    let body = postcard::to_allocvec(message)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    if body.len() > MESSAGE_BYTES_MAX || descriptors > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let descriptors = u8::try_from(descriptors).map_err(io::Error::other)?;
    let mut octets = Vec::with_capacity(HEADER_BYTES + body.len());
    octets.extend_from_slice(&MAGIC);
    octets.extend_from_slice(&[VERSION, descriptors]);
    octets.extend_from_slice(&length.to_be_bytes());
    octets.extend_from_slice(&body);
    Ok(octets)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const MAGIC: [u8; 2] = *b"OH";
const VERSION: u8 = 2;
const HEADER_BYTES: usize = 8;
const READ_BYTES: usize = 16_384;

/// Arguments and environment of a program fit in.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The port, the streams of a program, or the namespaces of a lab's hosts. The kernel passes up to 253.
const DESCRIPTORS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Connection, Connection) {
        let (one, other) = UnixStream::pair().unwrap();
        other.set_nonblocking(true).unwrap();
        (Connection::new(one), Connection::new(other))
    }

    fn replies(connection: &mut Connection) -> Vec<(String, usize)> {
        let mut all = Vec::new();
        while let Some((reply, descriptors)) = connection.next::<Reply>().unwrap() {
            all.push((format!("{reply:?}"), descriptors.len()));
        }
        all
    }

    #[test]
    fn descriptors_stay_with_their_message() {
        let (one, mut other) = pair();
        let null = File::open("/dev/null").unwrap();
        one.send(&Reply::Done, &[]).unwrap();
        one.send(&Reply::Ready(PortKind::Tap), &[null.as_fd(), null.as_fd()])
            .unwrap();
        one.send(&Reply::Done, &[null.as_fd()]).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            assert!(other.fill().unwrap());
            seen.extend(replies(&mut other));
        }
        let expected = [("Done", 0), ("Ready(Tap)", 2), ("Done", 1)];
        let expected = expected.map(|(text, count)| (text.to_owned(), count));
        assert_eq!(seen, expected);
        drop(one);
        assert!(!other.fill().unwrap(), "the end of the stream");
    }

    #[test]
    fn a_message_in_pieces_is_put_together() {
        let (mut one, mut other) = pair();
        let octets = encode(&Reply::Repaired(vec!["x".repeat(300)]), 0).unwrap();
        for octet in &octets[..octets.len() - 1] {
            one.stream.write_all(&[*octet]).unwrap();
            other.fill().unwrap();
            assert_eq!(replies(&mut other), []);
        }
        one.stream.write_all(&octets[octets.len() - 1..]).unwrap();
        other.fill().unwrap();
        assert_eq!(replies(&mut other).len(), 1);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let whole = encode(&Reply::Done, 0).unwrap();
        for (at, octet, said) in [
            (0, b'X', "this is no holder's conversation"),
            (2, VERSION + 1, "the holder is of another release"),
            (3, 1, "descriptors are missing"),
            (4, 0xff, "the message is too long"),
        ] {
            let mut octets = whole.clone();
            octets[at] = octet;
            let (_one, mut other) = pair();
            other.inbox = octets;
            let error = other.next::<Reply>().unwrap_err();
            assert_eq!(error.to_string(), said);
        }
        let long = Reply::Repaired(vec!["x".repeat(MESSAGE_BYTES_MAX)]);
        assert!(encode(&long, 0).is_err());
        assert!(encode(&Reply::Done, DESCRIPTORS_MAX + 1).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(octets: Vec<u8>, framed: bool) {
            let (_one, mut other) = pair();
            other.inbox = if framed {
                let length = u32::try_from(octets.len()).unwrap().to_be_bytes();
                [&MAGIC[..], &[VERSION, 0], &length, &octets].concat()
            } else {
                octets
            };
            let _ = other.next::<Request>();
            let _ = other.next::<Reply>();
        }
    }
}
