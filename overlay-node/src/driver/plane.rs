//! The frame path's thread: it owns the [`Plane`], the ports and the socket of UDP 4789, and waits on all of them.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use overlay_core::{EndpointId, NetworkId, Seed, plane::Desired};
use overlay_vxlan::{
    CoalesceConfig, Coalescer, Frame, Offload, Outer, PortCapabilities, PortId, Received, Sink,
    wire::vxlan,
};
use tokio::sync::oneshot;

pub(crate) use self::report::{PathInfo, Report};
use self::underlay::{Inbox, Outbox};
use super::{clock::Clock, opening::DataSocket};
use crate::plane::{Address, CaptureId, CaptureSpec, Found, Plane};

mod report;
mod underlay;

/// The frame side of an endpoint's port. Neither call blocks.
pub trait PortIo: AsFd + Send + 'static {
    /// Reads one frame (Ethernet II, without FCS) to the beginning of `place` and returns its length.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none waits; any other error says that the port is gone.
    fn read_into(&self, place: &mut [u8]) -> io::Result<(usize, Offload)>;

    /// Writes one frame.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is no room: the frame is lost. Any other error says that the port is gone.
    fn write_frame(&self, frame: &[u8], offload: Offload) -> io::Result<()>;

    /// Returns which frames are written as they are: by default only whole ones.
    fn capabilities(&self) -> PortCapabilities {
        PortCapabilities::default()
    }
}

/// Is told of a port that is there no more, which nobody asked for.
pub(crate) type Gone = Box<dyn Fn(EndpointId, &io::Error) + Send>;

enum Order {
    Add(EndpointId, Box<dyn PortIo>),
    Remove(EndpointId),
    Apply(Arc<Desired>),
    Flows(EndpointId, oneshot::Sender<Option<u32>>),
    Lookup(NetworkId, Vec<Address>, oneshot::Sender<Vec<Found>>),
    Capture(CaptureSpec, tokio::sync::mpsc::Sender<Vec<u8>>),
    Report(oneshot::Sender<Report>),
    Stop,
}

/// Orders for the thread; it ends when this is dropped.
pub(crate) struct PlaneThread {
    orders: mpsc::Sender<Order>,
    waker: Waker,
    clock: Clock,
    thread: Option<thread::JoinHandle<()>>,
}

impl PlaneThread {
    /// Starts the thread on a socket that is bound to the data port, if there is one.
    pub(crate) fn start(
        socket: Option<DataSocket>,
        clock: Clock,
        seed: Seed,
        busy_poll: Duration,
        gone: Gone,
    ) -> io::Result<Self> {
        let opened = socket
            .map(|socket| underlay::open(socket, &seed))
            .transpose()?;
        let (inbox, outbox) = opened.unzip();
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        if let Some(inbox) = &inbox {
            let source = &mut SourceFd(&inbox.descriptor());
            poll.registry()
                .register(source, UNDERLAY, Interest::READABLE)?;
        }
        let (orders, receiver) = mpsc::channel();
        let path = FramePath {
            plane: Plane::new(seed),
            out: Out {
                outbox,
                endpoints: BTreeMap::new(),
                ports: BTreeMap::new(),
                lost: 0,
            },
            poll,
            clock,
            busy_poll,
            gone,
            orders: receiver,
            tokens: BTreeMap::new(),
            next_token: 0,
            readers: BTreeMap::new(),
            next_capture: 0,
            inbox,
            frame: Frame::new(),
            coalescer: Coalescer::new(CoalesceConfig::default()),
        };
        let thread = thread::Builder::new()
            .name("overlay-plane".to_owned())
            .spawn(move || path.run())?;
        Ok(Self {
            orders,
            waker,
            clock,
            thread: Some(thread),
        })
    }

    pub(crate) fn add(&self, endpoint: EndpointId, port: Box<dyn PortIo>) {
        self.order(Order::Add(endpoint, port));
    }

    pub(crate) fn remove(&self, endpoint: EndpointId) {
        self.order(Order::Remove(endpoint));
    }

    pub(crate) fn apply(&self, desired: Arc<Desired>) {
        self.order(Order::Apply(desired));
    }

    /// Counts the flows to an endpoint in the data plane as it was applied last; the answer is dropped with the thread.
    pub(crate) fn flows_left(&self, endpoint: EndpointId) -> oneshot::Receiver<Option<u32>> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Flows(endpoint, reply));
        answer
    }

    /// Asks what the frame path knows of itself.
    pub(crate) fn report(&self) -> oneshot::Receiver<Report> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Report(reply));
        answer
    }

    /// Looks addresses up in the tables as they are; the answer is dropped with the thread.
    pub(crate) fn lookup(
        &self,
        network: NetworkId,
        addresses: Vec<Address>,
    ) -> oneshot::Receiver<Vec<Found>> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Lookup(network, addresses, reply));
        answer
    }

    /// Captures the frames of a network for as long as somebody reads; what is not read in time is lost.
    pub(crate) fn capture(&self, mut spec: CaptureSpec) -> tokio::sync::mpsc::Receiver<Vec<u8>> {
        spec.unix_epoch = self.clock.unix_epoch();
        let (sender, captured) = tokio::sync::mpsc::channel(CAPTURED_MAX);
        self.order(Order::Capture(spec, sender));
        captured
    }

    fn order(&self, order: Order) {
        let sent = self.orders.send(order).is_ok();
        if !sent || self.waker.wake().is_err() {
            tracing::error!("the frame path's thread is gone");
        }
    }
}

impl std::fmt::Debug for PlaneThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlaneThread(..)")
    }
}

impl Drop for PlaneThread {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct FramePath {
    plane: Plane,
    out: Out,
    poll: Poll,
    clock: Clock,
    busy_poll: Duration,
    gone: Gone,
    orders: mpsc::Receiver<Order>,
    tokens: BTreeMap<Token, EndpointId>,
    next_token: usize,
    readers: BTreeMap<CaptureId, tokio::sync::mpsc::Sender<Vec<u8>>>,
    next_capture: CaptureId,
    inbox: Option<Inbox>,
    frame: Frame,
    coalescer: Coalescer<Tunnel>,
}

/// What frames have in common that came by the same tunnel.
type Tunnel = (Received, [u8; vxlan::HEADER_BYTES]);

/// Where frames leave.
struct Out {
    /// None where the kernel has the data port: nothing leaves by this path then.
    outbox: Option<Outbox>,
    endpoints: BTreeMap<EndpointId, Box<dyn PortIo>>,
    ports: BTreeMap<PortId, EndpointId>,
    lost: u64,
}

impl Sink for Out {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        let endpoint = self.ports.get(&port);
        if let Some(port) = endpoint.and_then(|endpoint| self.endpoints.get(endpoint)) {
            let written = port.write_frame(frame.bytes(), frame.offload());
            self.lost += u64::from(written.is_err());
        }
    }

    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) {
        if let Some(outbox) = &mut self.outbox {
            outbox.send(vtep, outer, frame.bytes());
        }
    }
}

impl Out {
    /// Sends what was held back for company.
    fn flush(&mut self) {
        if let Some(outbox) = &mut self.outbox {
            outbox.flush();
        }
    }
}

impl FramePath {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            match self.wait(&mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::error!(%error, "the frame path cannot wait"),
                Ok(()) => {}
            }
            if !self.obey() {
                return;
            }
            for event in &events {
                match event.token() {
                    WAKE => {}
                    UNDERLAY => self.receive(),
                    token => self.read(token),
                }
            }
            self.hand_over_captured();
            let now = self.clock.now();
            if self.plane.poll_timeout().is_some_and(|due| due <= now) {
                self.plane.handle_timeout(now, &mut self.out);
                self.out.flush();
            }
        }
    }

    /// Waits until there is something to do, and before looks for it for a while if that is wanted.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        if !self.busy_poll.is_zero() {
            let end = self.clock.now() + self.busy_poll;
            while self.clock.now() < end {
                self.poll.poll(events, Some(Duration::ZERO))?;
                if !events.is_empty() {
                    return Ok(());
                }
            }
        }
        let now = self.clock.now();
        let due = self.plane.poll_timeout();
        let due = due.map_or(HOUSEKEEPING, |due| due.duration_since(now));
        self.poll.poll(events, Some(due.min(HOUSEKEEPING)))
    }

    /// Carries out what was ordered; returns false when it is time to stop.
    fn obey(&mut self) -> bool {
        let (mut latest, mut counts) = (None, Vec::new());
        loop {
            match self.orders.try_recv() {
                Ok(Order::Add(endpoint, port)) => self.add(endpoint, port),
                Ok(Order::Remove(endpoint)) => self.remove(endpoint),
                // Only the newest state counts.
                Ok(Order::Apply(desired)) => latest = Some(desired),
                Ok(Order::Flows(endpoint, reply)) => counts.push((endpoint, reply)),
                Ok(Order::Report(reply)) => {
                    // Whoever asked may have gone away.
                    let _ = reply.send(self.report());
                }
                Ok(Order::Lookup(network, addresses, reply)) => {
                    let found = addresses.into_iter();
                    let found = found.map(|address| self.plane.lookup(network, address));
                    // Whoever asked may have gone away.
                    let _ = reply.send(found.collect());
                }
                Ok(Order::Capture(spec, reader)) => {
                    self.plane.start_capture(self.next_capture, spec);
                    self.readers.insert(self.next_capture, reader);
                    self.next_capture += 1;
                }
                Ok(Order::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => break,
            }
        }
        if let Some(desired) = latest {
            self.plane.apply(self.clock.now(), &desired);
            self.connect();
        }
        for (endpoint, reply) in counts {
            // Whoever asked may have gone away.
            let _ = reply.send(self.plane.flows_left(endpoint));
        }
        true
    }

    fn hand_over_captured(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        self.readers.retain(|id, reader| {
            let reads = !reader.is_closed();
            if !reads {
                self.plane.stop_capture(*id);
            }
            reads
        });
        for (id, octets) in self.plane.take_captured() {
            if let Some(reader) = self.readers.get(&id) {
                // Whoever reads too slowly loses whole batches, and frames go on.
                let _ = reader.try_send(octets);
            }
        }
    }

    fn add(&mut self, endpoint: EndpointId, port: Box<dyn PortIo>) {
        self.remove(endpoint);
        let token = Token(FIRST_PORT + self.next_token);
        self.next_token += 1;
        let descriptor = port.as_fd().as_raw_fd();
        let source = &mut SourceFd(&descriptor);
        if let Err(error) = self
            .poll
            .registry()
            .register(source, token, Interest::READABLE)
        {
            return tracing::error!(%endpoint, %error, "a port cannot be waited on");
        }
        self.plane.set_capabilities(endpoint, port.capabilities());
        self.out.endpoints.insert(endpoint, port);
        self.tokens.insert(token, endpoint);
        // Registration is edge-triggered: what was sent before it would wait for the next frame.
        self.connect();
        self.read(token);
    }

    fn remove(&mut self, endpoint: EndpointId) {
        if let Some(port) = self.out.endpoints.remove(&endpoint) {
            let descriptor = port.as_fd().as_raw_fd();
            let _ = self.poll.registry().deregister(&mut SourceFd(&descriptor));
            self.tokens.retain(|_, other| *other != endpoint);
            self.plane
                .set_capabilities(endpoint, PortCapabilities::default());
        }
        self.connect();
    }

    /// Brings the switch's ports and their descriptors together.
    fn connect(&mut self) {
        self.out.ports = self
            .out
            .endpoints
            .keys()
            .filter_map(|endpoint| Some((self.plane.port(*endpoint)?, *endpoint)))
            .collect();
    }

    fn receive(&mut self) {
        for _ in 0..RECEIVES {
            match self.receive_some() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier datagram; the next read goes on.
                Ok(()) | Err(_) => {}
            }
        }
        self.again(UNDERLAY);
    }

    fn receive_some(&mut self) -> io::Result<()> {
        let Self {
            plane,
            out,
            inbox,
            coalescer,
            clock,
            ..
        } = self;
        let Some(inbox) = inbox else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let arrivals = inbox.receive()?;
        let now = clock.now();
        let mut forward = |(received, header): Tunnel, frame: &mut Frame| {
            if let Some(place) = frame.push_header(header.len()) {
                place.copy_from_slice(&header);
            }
            plane.handle_remote(now, received, frame, out);
        };
        for arrival in arrivals {
            let size_bytes = arrival.segment_bytes();
            for datagram in arrival.datagrams() {
                // What is too short for a header is counted as such.
                let (header, inner) = datagram.split_first_chunk().unwrap_or((&[0; _], &[]));
                coalescer.push((arrival.received, *header), inner, size_bytes, &mut forward);
            }
        }
        coalescer.flush(&mut forward);
        Ok(())
    }

    fn read(&mut self, token: Token) {
        let Some(endpoint) = self.tokens.get(&token).copied() else {
            return;
        };
        let read = self.read_some(endpoint);
        self.out.flush();
        match read {
            Ok(()) => self.again(token),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.remove(endpoint);
                (self.gone)(endpoint, &error);
            }
        }
    }

    /// Reads from a port; `Ok` if there may be more.
    fn read_some(&mut self, endpoint: EndpointId) -> io::Result<()> {
        let id = self.plane.port(endpoint);
        let now = self.clock.now();
        for _ in 0..BATCH {
            let Some(port) = self.out.endpoints.get(&endpoint) else {
                return Err(io::ErrorKind::WouldBlock.into());
            };
            let place = self.frame.receive_buffer(HEADROOM, FRAME_BYTES_MAX);
            match port.read_into(place) {
                Ok((length, offload)) => {
                    self.frame.truncate(length);
                    self.frame.set_offload(offload);
                    if let Some(id) = id {
                        self.plane
                            .handle_local(now, id, &mut self.frame, &mut self.out);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks to be woken for a source that was not read to its end, so that no source starves the others.
    fn again(&self, token: Token) {
        let descriptor = match self.tokens.get(&token) {
            Some(endpoint) => self
                .out
                .endpoints
                .get(endpoint)
                .map(|port| port.as_fd().as_raw_fd()),
            None => self.inbox.as_ref().map(Inbox::descriptor),
        };
        if let Some(descriptor) = descriptor {
            let source = &mut SourceFd(&descriptor);
            let _ = self
                .poll
                .registry()
                .reregister(source, token, Interest::READABLE);
        }
    }
}

const WAKE: Token = Token(0);
const UNDERLAY: Token = Token(1);
const FIRST_PORT: usize = 2;
/// Batches of captured frames that wait for their reader.
const CAPTURED_MAX: usize = 1_024;
/// Frames read from a port before the next source has its turn.
const BATCH: usize = 64;
/// Batches received from the underlay before the next source has its turn.
const RECEIVES: usize = 4;
/// Room in front of a frame for the headers of the overlay.
const HEADROOM: usize = Frame::HEADROOM;
/// Largest frame that is read: a super-frame of 64 KiB and its header.
const FRAME_BYTES_MAX: usize = 65_536 + 64;
/// The thread wakes at least this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
