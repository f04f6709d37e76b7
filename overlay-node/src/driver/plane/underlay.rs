//! The UDP sockets of the data port: batches in, trains of equal datagrams out.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use overlay_core::Seed;
use overlay_vxlan::{Arrival, Outer, Received, outer::Ecn};
use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::driver::opening::DataSocket;

/// Where all datagrams come in: a socket that is bound to the data port.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: Arc<Endpoint>,
    octets: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

/// Where datagrams leave.
#[derive(Debug)]
pub(super) struct Outbox {
    /// Bound to other ports: a flow always leaves by the same one, so that flows take the paths of the underlay in turn.
    senders: Vec<Arc<Endpoint>>,
    /// The data port.
    port: u16,
    train: Train,
    lost: u64,
}

#[derive(Debug)]
struct Endpoint {
    socket: UdpSocket,
    state: UdpSocketState,
}

/// Datagrams of one length that leave by one system call.
#[derive(Debug)]
struct Train {
    to: SocketAddr,
    sender: usize,
    ecn: Option<EcnCodepoint>,
    datagram_bytes: usize,
    octets: Vec<u8>,
    /// A shorter datagram ends it.
    complete: bool,
}

/// Takes a socket that is bound to the data port, or to that of ESP, and opens those that flows leave by where it is possible: a socket that
/// was passed is where the others cannot be.
pub(super) fn open(socket: DataSocket, seed: &Seed) -> io::Result<(Inbox, Outbox)> {
    let (socket, more) = match socket {
        DataSocket::Opened(socket) => (socket, SENDERS),
        DataSocket::Passed(socket) => (socket, 0),
    };
    let at = socket.local_addr()?;
    let receiver = Arc::new(Endpoint::new(socket)?);
    let mut ports = seed.derive("source ports").rng();
    let mut senders = Vec::new();
    for _ in 0..more {
        // RFC 7348 §5 recommends the dynamic ports. One that is taken is left out.
        let port = (ports.next_u64() >> 48) as u16 | SOURCE_PORT_MIN;
        match bind(SocketAddr::new(at.ip(), port)).and_then(Endpoint::new) {
            Ok(sender) => senders.push(Arc::new(sender)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    if senders.is_empty() {
        senders.push(Arc::clone(&receiver));
    }
    let inbox = Inbox {
        receiver,
        octets: vec![0; BATCH_SIZE * ARRIVAL_BYTES_MAX],
        meta: [RecvMeta::default(); BATCH_SIZE],
    };
    let outbox = Outbox {
        senders,
        port: at.port(),
        train: Train {
            to: at,
            sender: 0,
            ecn: None,
            datagram_bytes: 0,
            octets: Vec::with_capacity(TRAIN_BYTES_MAX),
            complete: false,
        },
        lost: 0,
    };
    Ok((inbox, outbox))
}

impl Inbox {
    /// The descriptor to wait for.
    pub(super) fn descriptor(&self) -> RawFd {
        self.receiver.socket.as_raw_fd()
    }

    /// Receives what waits, as far as one call does.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if nothing waits; any other error is one of an earlier datagram's, and the next call goes on.
    pub(super) fn receive(&mut self) -> io::Result<impl Iterator<Item = Arrival<'_>>> {
        let mut rooms = self.octets.chunks_mut(ARRIVAL_BYTES_MAX);
        let mut rooms: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        let Endpoint { socket, state } = &*self.receiver;
        let count = state.recv(socket.into(), &mut rooms, &mut self.meta)?;
        let arrivals = self.meta[..count].iter();
        let rooms = self.octets.chunks(ARRIVAL_BYTES_MAX);
        Ok(arrivals.zip(rooms).map(|(meta, room)| {
            let received = Received {
                from: meta.addr.ip(),
                ecn: ecn_of(meta.ecn),
                sealed: false,
            };
            Arrival::new(received, &room[..meta.len], meta.stride)
        }))
    }
}

impl Outbox {
    /// Sends a datagram to the data port of a VTEP, soon: [`flush`](Self::flush) is the end of a batch.
    pub(super) fn send(&mut self, vtep: IpAddr, outer: Outer, datagram: &[u8]) {
        let to = SocketAddr::new(vtep, self.port);
        let sender = usize::from(outer.source_port) % self.senders.len();
        let ecn = EcnCodepoint::from_bits(outer.traffic_class);
        let train = &self.train;
        let joins = !train.complete
            && (train.to, train.sender, train.ecn) == (to, sender, ecn)
            && datagram.len() <= train.datagram_bytes
            && train.octets.len() + datagram.len() <= TRAIN_BYTES_MAX
            && train.octets.len() < train.datagram_bytes * self.senders[sender].train_max();
        if !joins {
            self.flush();
            self.train.to = to;
            self.train.sender = sender;
            self.train.ecn = ecn;
            self.train.datagram_bytes = datagram.len();
        }
        let train = &mut self.train;
        train.octets.extend_from_slice(datagram);
        train.complete = datagram.len() < train.datagram_bytes;
    }

    /// How many datagrams the system did not take.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Sends what was held back for company.
    pub(super) fn flush(&mut self) {
        if self.train.octets.is_empty() {
            return;
        }
        let Train {
            to,
            sender,
            ecn,
            datagram_bytes,
            octets,
            ..
        } = &self.train;
        let endpoint = &self.senders[*sender];
        let whole = endpoint.send(*to, *ecn, octets, *datagram_bytes);
        if let Err(error) = whole {
            // Of a queue that is full there is nothing to be had one by one, either. A device may refuse trains although the system takes them; and one of an earlier error has none to blame.
            let full = error.kind() == io::ErrorKind::WouldBlock;
            let each = octets.chunks(*datagram_bytes);
            let lost = each.filter(|one| full || endpoint.send(*to, *ecn, one, one.len()).is_err());
            self.lost += lost.count() as u64;
        }
        self.train.octets.clear();
        self.train.complete = false;
    }
}

impl Endpoint {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    /// Returns how many datagrams may leave at once: one, once a device has refused more.
    fn train_max(&self) -> usize {
        self.state.max_gso_segments().min(TRAIN_DATAGRAMS_MAX)
    }

    fn send(
        &self,
        to: SocketAddr,
        ecn: Option<EcnCodepoint>,
        octets: &[u8],
        datagram_bytes: usize,
    ) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn,
            contents: octets,
            segment_size: (octets.len() > datagram_bytes).then_some(datagram_bytes),
            src_ip: None,
        };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

fn ecn_of(codepoint: Option<EcnCodepoint>) -> Ecn {
    Ecn::from_traffic_class(codepoint.map_or(0, |codepoint| codepoint as u8))
}

/// Opens a socket that only sends.
fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    let _ = socket.set_send_buffer_size(SEND_BYTES);
    // Nobody sends to it; what comes nevertheless takes no memory.
    let _ = socket.set_recv_buffer_size(0);
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Sockets that flows leave by: as many paths of the underlay, or queues of its devices, are used.
const SENDERS: usize = 16;
const SOURCE_PORT_MIN: u16 = overlay_vxlan::flow::SOURCE_PORT_MIN;
/// Payload of one UDP datagram over IPv4, which a train is until it is cut: 65,535 less headers.
const TRAIN_BYTES_MAX: usize = 65_535 - 20 - 8;
/// `UDP_MAX_SEGMENTS` of Linux before 6.10.
const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The system joins datagrams up to this.
const ARRIVAL_BYTES_MAX: usize = 65_535;
const SEND_BYTES: usize = 4 << 20;
