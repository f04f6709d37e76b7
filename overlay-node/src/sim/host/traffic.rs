//! Packets of a simulated host: management, gossip and its streams, frames.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use overlay_core::Instant;
use overlay_gossip::{Output as GossipOutput, StreamId};
use overlay_sim::{Channel, HostId};
use overlay_vxlan::{Frame, Outer, PortId, Received, Sink, Unsealed};

use super::{super::packet::Packet, Effect, SimHost};
use crate::{Peer, RequestToken, api::Role, plane::Sealing, state::AddNode};

impl SimHost {
    pub(super) fn send(&mut self, to: HostId, channel: Channel, packet: &Packet) {
        self.effects
            .push_back(Effect::Send(to, channel, packet.encode()));
    }

    pub(super) fn on_packet(&mut self, from: HostId, packet: Packet) {
        let now = self.now;
        match packet {
            Packet::Join(node) => self.on_join(from, node),
            Packet::Admitted(assignment) => self.on_admitted(*assignment),
            Packet::Peer {
                node,
                manager,
                frame,
            } => {
                self.lines.insert(node, from);
                let role = if manager { Role::Manager } else { Role::Worker };
                if let Some(own) = &mut self.node {
                    own.handle_peer(now, Peer { node, role }, &frame)
                        .expect("streams do not damage frames");
                }
            }
            Packet::Gossip(bytes) => {
                let source = SocketAddr::new(address(from), GOSSIP_PORT);
                if let Some(own) = &mut self.node {
                    own.handle_gossip_datagram(now, source, &bytes);
                }
            }
            Packet::Vxlan(bytes) => {
                let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
                self.take_frame(now, address(from).into(), &mut frame);
            }
            Packet::Esp(bytes) => {
                let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
                if let Some(received) = self.sealing.open(address(from).into(), &mut frame) {
                    self.take_frame(now, received, &mut frame);
                }
            }
            Packet::Open(id) => {
                self.next += 1;
                let stream = self.next;
                self.accepted.insert((from, id), stream);
                let source = SocketAddr::new(address(from), GOSSIP_PORT);
                if let Some(own) = &mut self.node {
                    own.handle_stream_opened(now, StreamId::Accepted(stream), source);
                }
                self.send(from, Channel::Stream, &Packet::Opened(id));
            }
            Packet::Opened(id) => {
                if let Some(own) = &mut self.node {
                    own.handle_stream_connected(now, StreamId::Dialled(id));
                }
            }
            Packet::Data { id, dialler, bytes } => {
                if let Some(stream) = self.stream(from, id, dialler)
                    && let Some(own) = &mut self.node
                {
                    own.handle_stream_data(now, stream, &bytes);
                }
            }
            Packet::Close { id, dialler } => {
                if let Some(stream) = self.stream(from, id, dialler)
                    && let Some(own) = &mut self.node
                {
                    own.handle_stream_closed(now, stream);
                }
            }
        }
        self.pump();
    }

    /// Returns what a stream of another host is called here.
    pub(super) fn stream(&self, from: HostId, id: u64, dialler: bool) -> Option<StreamId> {
        if dialler {
            self.accepted
                .get(&(from, id))
                .map(|stream| StreamId::Accepted(*stream))
        } else {
            (self.dialled.get(&id) == Some(&from)).then_some(StreamId::Dialled(id))
        }
    }

    /// Returns where a stream goes, what it is called there, and whether this host dialled it.
    pub(super) fn far_end(&self, stream: StreamId) -> Option<(HostId, u64, bool)> {
        match stream {
            StreamId::Dialled(id) => self.dialled.get(&id).map(|host| (*host, id, true)),
            StreamId::Accepted(own) => {
                let found = self.accepted.iter().find(|(_, stream)| **stream == own);
                found.map(|((host, id), _)| (*host, *id, false))
            }
        }
    }

    pub(super) fn on_join(&mut self, from: HostId, node: AddNode) {
        self.next += 1;
        let token = RequestToken(self.next);
        if let Some(own) = self.node.as_mut().filter(|own| own.cluster().is_some()) {
            own.admit(self.now, token, node, None);
            self.joining.insert(token, from);
        }
    }

    fn take_frame(&mut self, now: Instant, received: Received, frame: &mut Frame) {
        let mut out = Out::new(&mut self.sealing);
        self.plane.handle_remote(now, received, frame, &mut out);
        let sent = out.sent;
        self.forward(sent);
    }

    pub(super) fn expire_flows(&mut self) {
        let mut out = Out::new(&mut self.sealing);
        self.plane.handle_timeout(self.now, &mut out);
        let sent = out.sent;
        self.forward(sent);
        self.pump();
    }

    /// Carries frames until every endpoint is quiet.
    pub(super) fn pump(&mut self) {
        loop {
            let mut out = Out::new(&mut self.sealing);
            let mut quiet = true;
            for (id, endpoint) in &mut self.endpoints {
                while let Some(bytes) = endpoint.poll_frame() {
                    quiet = false;
                    if let Some(port) = self.plane.port(*id) {
                        let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
                        self.plane
                            .handle_local(self.now, port, &mut frame, &mut out);
                    }
                }
                while let Some(echo) = endpoint.poll_reply() {
                    self.echoes.push_back(echo);
                }
            }
            let sent = out.sent;
            self.forward(sent);
            if quiet {
                return;
            }
        }
    }

    fn forward(&mut self, sent: Sent) {
        for (port, bytes) in sent.local {
            let endpoint = self.ports.get(&port).copied();
            if let Some(endpoint) = endpoint.and_then(|id| self.endpoints.get_mut(&id)) {
                endpoint.handle_frame(&bytes);
            }
        }
        for (vtep, packet) in sent.remote {
            if let Some(to) = host(vtep) {
                self.send(to, Channel::Datagram, &packet);
            }
        }
    }

    pub(super) fn on_gossip(&mut self, output: GossipOutput) {
        match output {
            GossipOutput::Datagram { to, bytes } => {
                if let Some(to) = host(to.ip()) {
                    self.send(to, Channel::Datagram, &Packet::Gossip(bytes));
                }
            }
            GossipOutput::Dial {
                stream: StreamId::Dialled(id),
                to,
            } => {
                if let Some(to) = host(to.ip()) {
                    self.dialled.insert(id, to);
                    self.send(to, Channel::Stream, &Packet::Open(id));
                }
            }
            GossipOutput::StreamSend { stream, bytes } => {
                if let Some((to, id, dialler)) = self.far_end(stream) {
                    self.send(to, Channel::Stream, &Packet::Data { id, dialler, bytes });
                }
            }
            GossipOutput::StreamClose { stream } => {
                if let Some((to, id, dialler)) = self.far_end(stream) {
                    self.send(to, Channel::Stream, &Packet::Close { id, dialler });
                }
                match stream {
                    StreamId::Dialled(id) => drop(self.dialled.remove(&id)),
                    StreamId::Accepted(own) => self.accepted.retain(|_, stream| *stream != own),
                }
            }
            GossipOutput::Dial { .. } | GossipOutput::Event(_) => {}
        }
    }

    pub(super) fn connect(&mut self) {
        let ports = self
            .endpoints
            .keys()
            .filter_map(|id| Some((self.plane.port(*id)?, *id)));
        self.ports = ports.collect();
    }
}

/// Frames that have left the switch.
#[derive(Default)]
struct Sent {
    local: Vec<(PortId, Vec<u8>)>,
    remote: Vec<(IpAddr, Packet)>,
}

/// Where frames leave the switch.
struct Out<'a> {
    sent: Sent,
    sealing: &'a mut Sealing,
}

impl<'a> Out<'a> {
    fn new(sealing: &'a mut Sealing) -> Self {
        let sent = Sent::default();
        Self { sent, sealing }
    }
}

impl Sink for Out<'_> {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        self.sent.local.push((port, frame.bytes().to_vec()));
    }

    fn to_vtep(&mut self, vtep: IpAddr, _outer: Outer, frame: &mut Frame) {
        let packet = Packet::Vxlan(frame.bytes().to_vec());
        self.sent.remote.push((vtep, packet));
    }

    fn to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        self.sealing.seal(vtep, outer, frame)?;
        let packet = Packet::Esp(frame.bytes().to_vec());
        self.sent.remote.push((vtep, packet));
        Ok(())
    }
}

/// Returns the underlay address of a host.
pub(in crate::sim) fn address(host: HostId) -> IpAddr {
    let number = u16::try_from(host.0 + 1).expect("a simulation has fewer than 65,535 hosts");
    let [a, b] = number.to_be_bytes();
    Ipv4Addr::new(172, 31, a, b).into()
}

pub(super) fn host(address: IpAddr) -> Option<HostId> {
    match address {
        IpAddr::V4(address) => {
            let [172, 31, a, b] = address.octets() else {
                return None;
            };
            usize::from(u16::from_be_bytes([a, b]))
                .checked_sub(1)
                .map(HostId)
        }
        IpAddr::V6(_) => None,
    }
}

const GOSSIP_PORT: u16 = 7_946;
