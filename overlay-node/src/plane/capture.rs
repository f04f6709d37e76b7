//! Captures: copies of the frames of a network, as endpoints see them, in the form of a pcapng file.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use overlay_core::{Instant, Vni};
use overlay_vxlan::{
    DropReason, Frame, Outer, PortId, Sink, Unsealed,
    pcapng::{Captured, Direction, InterfaceId, Writer},
    wire::vxlan,
};

/// One capture, by a number that its owner chose.
pub type CaptureId = u64;

/// What is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSpec {
    /// The network.
    pub vni: Vni,
    /// Its name, for people.
    pub name: String,
    /// Its MTU, in octets.
    pub mtu: u16,
    /// How much of each frame is kept, in octets.
    pub snap_bytes: u32,
    /// The Unix time of the plane's epoch.
    pub unix_epoch: Duration,
}

/// The captures of a node's frame path.
#[derive(Debug, Default)]
pub(super) struct Captures {
    running: BTreeMap<CaptureId, Capture>,
    /// The networks of the ports.
    ports: BTreeMap<PortId, Vni>,
}

#[derive(Debug)]
struct Capture {
    spec: CaptureSpec,
    writer: Writer,
    interface: InterfaceId,
    octets: Vec<u8>,
}

impl Captures {
    pub(super) fn start(&mut self, id: CaptureId, spec: CaptureSpec) {
        let mut octets = Vec::new();
        let mut writer = Writer::new(spec.snap_bytes, &mut octets);
        let interface = writer.interface(&spec.name, spec.mtu, &mut octets);
        let capture = Capture {
            spec,
            writer,
            interface,
            octets,
        };
        self.running.insert(id, capture);
    }

    pub(super) fn stop(&mut self, id: CaptureId) {
        self.running.remove(&id);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    pub(super) fn set_port(&mut self, port: PortId, vni: Vni) {
        self.ports.insert(port, vni);
    }

    pub(super) fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
    }

    pub(super) fn vni_of(&self, port: PortId) -> Option<Vni> {
        self.ports.get(&port).copied()
    }

    /// Takes what was captured since the last call. At most what one batch of frames comes to is held: whoever drives the
    /// plane asks after each.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (CaptureId, Vec<u8>)> {
        self.running.iter_mut().filter_map(|(id, capture)| {
            let octets = std::mem::take(&mut capture.octets);
            (!octets.is_empty()).then_some((*id, octets))
        })
    }

    pub(super) fn add(
        &mut self,
        now: Instant,
        vni: Vni,
        (direction, peer): (Direction, Option<IpAddr>),
        dropped: Option<DropReason>,
        frame: &Frame,
    ) {
        for capture in self.running.values_mut() {
            let Capture { spec, octets, .. } = capture;
            if spec.vni != vni {
                continue;
            }
            let captured = Captured {
                since_epoch: spec.unix_epoch + now.duration_since(Instant::EPOCH),
                direction,
                peer,
                dropped,
            };
            capture
                .writer
                .frame(capture.interface, &captured, frame, octets);
        }
    }

    /// Puts the captures before a sink. What is for a port came from `peer`, if from any.
    pub(super) fn tap<'a, S: Sink>(
        &'a mut self,
        now: Instant,
        peer: Option<IpAddr>,
        sink: &'a mut S,
    ) -> Tap<'a, S> {
        Tap {
            now,
            peer,
            captures: self,
            sink,
        }
    }
}

/// A sink before which frames are captured.
pub(super) struct Tap<'a, S> {
    now: Instant,
    peer: Option<IpAddr>,
    captures: &'a mut Captures,
    sink: &'a mut S,
}

impl<S: Sink> Sink for Tap<'_, S> {
    fn to_port(&mut self, port: PortId, frame: &mut Frame) {
        if !self.captures.is_idle()
            && let Some(vni) = self.captures.vni_of(port)
        {
            let way = (Direction::Inbound, self.peer);
            self.captures.add(self.now, vni, way, None, frame);
        }
        self.sink.to_port(port, frame);
    }

    fn to_vtep(&mut self, vtep: IpAddr, outer: Outer, frame: &mut Frame) {
        self.capture(vtep, frame);
        self.sink.to_vtep(vtep, outer, frame);
    }

    fn to_sealed_vtep(
        &mut self,
        vtep: IpAddr,
        outer: Outer,
        frame: &mut Frame,
    ) -> Result<(), Unsealed> {
        self.capture(vtep, frame);
        self.sink.to_sealed_vtep(vtep, outer, frame)
    }
}

/// A sink that hears of what does not reach a port.
pub(super) trait Hears: Sink {
    /// A frame that was for a port was dropped.
    fn dropped(&mut self, port: PortId, reason: DropReason, frame: &Frame);
}

impl<S: Sink> Hears for Tap<'_, S> {
    fn dropped(&mut self, port: PortId, reason: DropReason, frame: &Frame) {
        if !self.captures.is_idle()
            && let Some(vni) = self.captures.vni_of(port)
        {
            let way = (Direction::Inbound, self.peer);
            self.captures.add(self.now, vni, way, Some(reason), frame);
        }
    }
}

impl<S> Tap<'_, S> {
    /// Captures a frame that leaves for a VTEP.
    fn capture(&mut self, vtep: IpAddr, frame: &Frame) {
        if !self.captures.is_idle()
            && let Ok(header) = vxlan::Packet::new_checked(frame.bytes())
        {
            let vni = header.vni();
            let inner = frame.bytes().get(vxlan::HEADER_BYTES..).unwrap_or_default();
            let inner = Frame::with_headroom(0, inner);
            let way = (Direction::Outbound, Some(vtep));
            self.captures.add(self.now, vni, way, None, &inner);
        }
    }
}
