//! The loop of the frame path's thread.

use std::{
    collections::BTreeMap, io, net::IpAddr, os::fd::AsRawFd as _, sync::mpsc, time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use overlay_core::{EndpointId, Instant, Seed};
use overlay_vxlan::{
    CoalesceConfig, Coalescer, Frame, Offload, Outer, PortCapabilities, PortId, Received, Sink,
    Unsealed, wire::vxlan,
};

use super::{
    Gone, Order, PortIo,
    underlay::{self, Inbox, Outbox},
};
use crate::{
    driver::{
        clock::Clock,
        opening::{DataSocket, PlaneSockets},
    },
    plane::{CaptureId, Plane, Sealing},
};

/// The frame path and everything that it waits on.
pub(super) struct FramePath {
    pub(super) plane: Plane,
    pub(super) out: Out,
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
    esp_inbox: Option<Inbox>,
    frame: Frame,
    coalescer: Coalescer<Tunnel>,
}

/// What frames have in common that came by the same tunnel.
type Tunnel = (Received, [u8; vxlan::HEADER_BYTES]);

/// Where frames leave.
pub(super) struct Out {
    /// None where the kernel has the data port: nothing leaves by this path then.
    pub(super) outbox: Option<Outbox>,
    /// None where the port of ESP is not to be had: nothing of encrypted networks leaves then.
    pub(super) esp_outbox: Option<Outbox>,
    pub(super) sealing: Sealing,
    endpoints: BTreeMap<EndpointId, Box<dyn PortIo>>,
    ports: BTreeMap<PortId, EndpointId>,
    pub(super) lost: u64,
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

    fn to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        let outbox = self.esp_outbox.as_mut().ok_or(Unsealed)?;
        self.sealing.seal(vtep, outer, frame)?;
        outbox.send(vtep, outer, frame.bytes());
        Ok(())
    }
}

impl Out {
    /// Sends what was held back for company.
    fn flush(&mut self) {
        for outbox in [&mut self.outbox, &mut self.esp_outbox]
            .into_iter()
            .flatten()
        {
            outbox.flush();
        }
    }
}

impl FramePath {
    pub(super) fn new(
        poll: Poll,
        sockets: PlaneSockets,
        clock: Clock,
        seed: Seed,
        busy_poll: Duration,
        gone: Gone,
        orders: mpsc::Receiver<Order>,
    ) -> io::Result<Self> {
        let open = |socket: Option<DataSocket>, token| -> io::Result<_> {
            let Some(socket) = socket else {
                return Ok((None, None));
            };
            let (inbox, outbox) = underlay::open(socket, &seed)?;
            let source = &mut SourceFd(&inbox.descriptor());
            poll.registry()
                .register(source, token, Interest::READABLE)?;
            Ok((Some(inbox), Some(outbox)))
        };
        let (inbox, outbox) = open(sockets.data, UNDERLAY)?;
        let (esp_inbox, esp_outbox) = open(sockets.esp, ESP)?;
        Ok(Self {
            out: Out {
                outbox,
                esp_outbox,
                sealing: Sealing::new(seed.derive("sealing")),
                endpoints: BTreeMap::new(),
                ports: BTreeMap::new(),
                lost: 0,
            },
            plane: Plane::new(seed),
            poll,
            clock,
            busy_poll,
            gone,
            orders,
            tokens: BTreeMap::new(),
            next_token: 0,
            readers: BTreeMap::new(),
            next_capture: 0,
            inbox,
            esp_inbox,
            frame: Frame::new(),
            coalescer: Coalescer::new(CoalesceConfig::default()),
        })
    }

    pub(super) fn run(mut self) {
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
                    UNDERLAY => self.receive(UNDERLAY),
                    ESP => self.receive(ESP),
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
            self.out.sealing.apply(&desired);
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

    fn receive(&mut self, token: Token) {
        for _ in 0..RECEIVES {
            let received = match token {
                ESP => self.receive_sealed(),
                _ => self.receive_some(),
            };
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier datagram; the next read goes on.
                Ok(()) | Err(_) => {}
            }
        }
        self.again(token);
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
        let mut forward =
            |tunnel: Tunnel, frame: &mut Frame| hand_on(plane, out, now, tunnel, frame);
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

    /// As [`receive_some`](Self::receive_some), of what peers have sealed.
    fn receive_sealed(&mut self) -> io::Result<()> {
        let Self {
            plane,
            out,
            esp_inbox,
            coalescer,
            frame: opened,
            clock,
            ..
        } = self;
        let Some(inbox) = esp_inbox else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let arrivals = inbox.receive()?;
        let now = clock.now();
        for arrival in arrivals {
            for datagram in arrival.datagrams() {
                opened
                    .receive_buffer(HEADROOM, datagram.len())
                    .copy_from_slice(datagram);
                opened.set_offload(Offload::default());
                let Some(received) = out.sealing.open(arrival.received, opened) else {
                    continue;
                };
                let Some((header, inner)) = opened.bytes().split_first_chunk() else {
                    continue;
                };
                let mut forward =
                    |tunnel: Tunnel, frame: &mut Frame| hand_on(plane, out, now, tunnel, frame);
                coalescer.push((received, *header), inner, None, &mut forward);
            }
        }
        let mut forward =
            |tunnel: Tunnel, frame: &mut Frame| hand_on(plane, out, now, tunnel, frame);
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
            None if token == ESP => self.esp_inbox.as_ref().map(Inbox::descriptor),
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

/// Hands a frame that came by a tunnel to the switch.
fn hand_on(
    plane: &mut Plane,
    out: &mut Out,
    now: Instant,
    (received, header): Tunnel,
    frame: &mut Frame,
) {
    if let Some(place) = frame.push_header(header.len()) {
        place.copy_from_slice(&header);
    }
    plane.handle_remote(now, received, frame, out);
}

pub(super) const WAKE: Token = Token(0);
const UNDERLAY: Token = Token(1);
const ESP: Token = Token(2);
const FIRST_PORT: usize = 3;
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
