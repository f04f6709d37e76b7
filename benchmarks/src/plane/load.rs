//! Senders and receivers of datagrams, run inside the namespaces: batches of plain datagrams, or trains (GSO).

use std::{
    io::{self, IoSlice, IoSliceMut, Write as _},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::sys::socket::{self, MsgFlags, MultiHeaders, SockaddrStorage};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// Datagrams of one train, as in the figures that others have published.
const TRAIN: usize = 40;
/// Silence after which a receiver says what it got.
const SILENCE: Duration = Duration::from_millis(700);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Datagrams of this many octets, each on its own.
    Plain(usize),
    /// Trains of datagrams of this many octets.
    Train(usize),
}

impl Load {
    /// As it is written on a command line: `plain:64`, `train:1400`.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, octets) = text.split_once(':')?;
        let octets = octets.parse().ok()?;
        match kind {
            "plain" => Some(Self::Plain(octets)),
            "train" => Some(Self::Train(octets)),
            _ => None,
        }
    }
}

/// Sends for as long as said.
pub fn send(to: SocketAddr, load: Load, time: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind((any(to), 0))?;
    socket.connect(to)?;
    let end = Instant::now() + time;
    match load {
        Load::Plain(octets) => {
            let payload = vec![0x5a; octets];
            let datagrams: Vec<_> = (0..BATCH).map(|_| [IoSlice::new(&payload)]).collect();
            let nobody = vec![None::<SockaddrStorage>; BATCH];
            let mut headers = MultiHeaders::preallocate(BATCH, None);
            while Instant::now() < end {
                // A full queue loses datagrams, here as everywhere.
                let _ = socket::sendmmsg(
                    socket.as_raw_fd(),
                    &mut headers,
                    &datagrams,
                    &nobody,
                    [],
                    MsgFlags::empty(),
                );
            }
        }
        Load::Train(octets) => {
            let state = UdpSocketState::new((&socket).into())?;
            socket.set_nonblocking(false)?;
            let payload = vec![0x5a; octets * TRAIN];
            let train = Transmit {
                destination: to,
                ecn: None,
                contents: &payload,
                segment_size: Some(octets),
                src_ip: None,
            };
            while Instant::now() < end {
                let _ = state.try_send((&socket).into(), &train);
            }
        }
    }
    Ok(())
}

/// Receives until nothing comes any more; prints how many datagrams came in a second.
pub fn receive(at: SocketAddr, load: Load) -> io::Result<()> {
    let socket = UdpSocket::bind(at)?;
    let mut counter = Counter::default();
    let train = match load {
        Load::Plain(_) => None,
        Load::Train(_) => Some(UdpSocketState::new((&socket).into())?),
    };
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(SILENCE))?;
    println!("ready");
    io::stdout().flush()?;
    let mut rooms = vec![0; BATCH * 65_536];
    let waited = Instant::now();
    loop {
        let received = match &train {
            None => receive_plain(&socket, &mut rooms),
            Some(state) => receive_trains(state, &socket, &mut rooms),
        };
        match received {
            Ok(datagrams) => counter.add(datagrams),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if counter.datagrams > 0 || waited.elapsed() > Duration::from_secs(10) {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    println!("{:.0}", counter.rate());
    Ok(())
}

fn receive_plain(socket: &UdpSocket, rooms: &mut [u8]) -> io::Result<usize> {
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let mut rooms: Vec<_> = rooms
        .chunks_mut(65_536)
        .map(|room| [IoSliceMut::new(room)])
        .collect();
    let flags = MsgFlags::MSG_WAITFORONE;
    let descriptor = socket.as_raw_fd();
    let received = socket::recvmmsg(descriptor, &mut headers, &mut rooms, flags, None)?;
    Ok(received.count())
}

fn receive_trains(
    state: &UdpSocketState,
    socket: &UdpSocket,
    rooms: &mut [u8],
) -> io::Result<usize> {
    let mut rooms: Vec<_> = rooms
        .chunks_mut(65_536)
        .take(BATCH_SIZE)
        .map(IoSliceMut::new)
        .collect();
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    let count = state.recv(socket.into(), &mut rooms, &mut meta)?;
    let datagrams = |meta: &RecvMeta| meta.len.div_ceil(meta.stride.max(1));
    Ok(meta[..count].iter().map(datagrams).sum())
}

fn any(to: SocketAddr) -> &'static str {
    if to.is_ipv4() { "0.0.0.0" } else { "::" }
}

#[derive(Default)]
struct Counter {
    datagrams: usize,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Counter {
    fn add(&mut self, datagrams: usize) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.datagrams += datagrams;
    }

    fn rate(&self) -> f64 {
        match (self.first, self.last) {
            (Some(first), Some(last)) if last > first => {
                self.datagrams as f64 / (last - first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}
