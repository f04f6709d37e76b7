//! UDP and TCP on one port, as values.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
};

use overlay_core::Instant;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
};

use super::stream::{self, Order, Report};
use crate::{Gossip, Output, StreamId};

/// Something that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A datagram.
    Datagram {
        /// Its source.
        from: SocketAddr,
        /// Its octets.
        bytes: Vec<u8>,
    },
    /// Somebody opened a stream.
    StreamOpened {
        /// Its name.
        stream: StreamId,
        /// Who opened it.
        from: SocketAddr,
    },
    /// A stream that was dialled is open.
    StreamConnected {
        /// Its name.
        stream: StreamId,
    },
    /// Octets of a stream.
    StreamData {
        /// Its name.
        stream: StreamId,
        /// The octets.
        bytes: Vec<u8>,
    },
    /// A stream was closed by the other side, broke, or could not be opened.
    StreamClosed {
        /// Its name.
        stream: StreamId,
    },
}

impl Input {
    /// Hands the input to the machine. What was malformed is counted there.
    pub fn feed(self, gossip: &mut Gossip, now: Instant) {
        match self {
            Self::Datagram { from, bytes } => {
                // Counted as malformed by the machine; a datagram can be dropped and nothing else.
                gossip.handle_datagram(now, from, &bytes).ok();
            }
            Self::StreamOpened { stream, from } => gossip.handle_stream_opened(now, stream, from),
            Self::StreamConnected { stream } => gossip.handle_stream_connected(now, stream),
            Self::StreamData { stream, bytes } => gossip.handle_stream_data(now, stream, &bytes),
            Self::StreamClosed { stream } => gossip.handle_stream_closed(now, stream),
        }
    }
}

/// The sockets of one member: UDP and TCP on the same port.
#[derive(Debug)]
pub struct Sockets {
    datagrams: UdpSocket,
    listener: TcpListener,
    local: SocketAddr,
    streams: BTreeMap<StreamId, mpsc::UnboundedSender<Order>>,
    reports: mpsc::Receiver<(StreamId, Report)>,
    /// Cloned for each stream.
    reporter: mpsc::Sender<(StreamId, Report)>,
    accepted: u64,
    /// Datagrams that the system did not take.
    unsent: u64,
    buffer: Box<[u8]>,
}

impl Sockets {
    /// Opens both sockets. With port 0, a port is found that is free for both.
    ///
    /// # Errors
    ///
    /// What the system says: usually that the port is in use.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut tries = if address.port() == 0 { BIND_TRIES } else { 1 };
        loop {
            tries -= 1;
            let datagrams = UdpSocket::bind(address).await?;
            let local = datagrams.local_addr()?;
            match TcpListener::bind(local).await {
                Ok(listener) => return Ok(Self::of(datagrams, listener, local)),
                Err(error) if tries == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    fn of(datagrams: UdpSocket, listener: TcpListener, local: SocketAddr) -> Self {
        let (reporter, reports) = mpsc::channel(REPORTS_MAX);
        Self {
            datagrams,
            listener,
            local,
            streams: BTreeMap::new(),
            reports,
            reporter,
            accepted: 0,
            unsent: 0,
            buffer: vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice(),
        }
    }

    /// Returns the address of both sockets.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns how many datagrams the system did not take.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Waits for something to arrive. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Input {
        loop {
            tokio::select! {
                received = self.datagrams.recv_from(&mut self.buffer) => {
                    // An error is an ICMP message about a datagram of ours: the probe will tell.
                    if let Ok((length, from)) = received {
                        let bytes = self.buffer.get(..length).unwrap_or_default().to_vec();
                        return Input::Datagram { from: canonical(from), bytes };
                    }
                }
                accepted = self.listener.accept() => {
                    if let Ok((socket, from)) = accepted {
                        self.accepted += 1;
                        let stream = StreamId::Accepted(self.accepted);
                        let (orders, queue) = mpsc::unbounded_channel();
                        self.streams.insert(stream, orders);
                        tokio::spawn(stream::serve(socket, stream, queue, self.reporter.clone()));
                        return Input::StreamOpened { stream, from: canonical(from) };
                    }
                    // Out of descriptors: without a pause this would spin.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Some((stream, report)) = self.reports.recv() => {
                    if let Some(input) = self.report(stream, report) {
                        return input;
                    }
                }
            }
        }
    }

    /// Carries out an output; events are none of its business and ignored.
    ///
    /// Must be called inside a tokio runtime.
    pub fn apply(&mut self, output: Output) {
        match output {
            Output::Datagram { to, bytes } => {
                // A full socket buffer loses datagrams as a network does.
                let sent = self.datagrams.try_send_to(&bytes, self.reachable(to));
                self.unsent += u64::from(sent.is_err());
            }
            Output::Dial { stream, to } => {
                let (orders, queue) = mpsc::unbounded_channel();
                self.streams.insert(stream, orders);
                let to = self.reachable(to);
                tokio::spawn(stream::dial(to, stream, queue, self.reporter.clone()));
            }
            Output::StreamSend { stream, bytes } => {
                if let Some(orders) = self.streams.get(&stream) {
                    // A stream that broke reports that itself.
                    orders.send(Order::Write(bytes)).ok();
                }
            }
            Output::StreamClose { stream } => {
                if let Some(orders) = self.streams.remove(&stream) {
                    orders.send(Order::Close).ok();
                }
            }
            Output::Event(_) => {}
        }
    }

    fn report(&mut self, stream: StreamId, report: Report) -> Option<Input> {
        if !self.streams.contains_key(&stream) {
            return None;
        }
        Some(match report {
            Report::Connected => Input::StreamConnected { stream },
            Report::Data(bytes) => Input::StreamData { stream, bytes },
            Report::Closed => {
                self.streams.remove(&stream);
                Input::StreamClosed { stream }
            }
        })
    }

    /// A socket of IPv6 reaches IPv4 by mapped addresses.
    fn reachable(&self, to: SocketAddr) -> SocketAddr {
        match (self.local.ip(), to.ip()) {
            (IpAddr::V6(_), IpAddr::V4(ip)) => {
                SocketAddr::new(IpAddr::V6(ip.to_ipv6_mapped()), to.port())
            }
            _ => to,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

const BIND_TRIES: u32 = 16;
const REPORTS_MAX: usize = 64;
const DATAGRAM_BYTES_MAX: usize = 65_536;
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
