//! The way of a frame through the switch: admit, decide, carry out.

use std::net::IpAddr;

use overlay_core::{Instant, Vni};

use crate::{
    admit,
    config::HeaderFormat,
    exit::Exit,
    fdb::{Learned, NetworkIndex, NextHop},
    flow::FlowKey,
    frame::Frame,
    headers::{Headers, Payload},
    meters::Limit,
    mss,
    outer::{self, ECN_BITS, Ecn, Outer, Received},
    reply,
    sink::Sink,
    stats::DropReason,
    switch::{Event, Output, PortId, Switch},
    tables::Network,
    verdict::{Verdict, View},
    wire::vxlan::{self, NextProtocol},
};

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It went to a local port.
    ToPort,
    /// It went to a VTEP.
    ToVtep,
    /// It went to all others of its network.
    Flooded,
    /// It asked for an address, and the switch answered.
    Answered,
    /// It was dropped.
    Dropped(DropReason),
}

type Stage<T> = Result<T, DropReason>;

impl Switch {
    /// Takes a frame from a local port, checks and forwards it. Where it goes, `sink` is told before this returns.
    ///
    /// `frame` needs [`vxlan::HEADER_BYTES`] of headroom (an ICMP error needs 48, sealing [`esp::FRONT_BYTES`] more); what is
    /// left of it is unspecified.
    ///
    /// [`esp::FRONT_BYTES`]: crate::esp::FRONT_BYTES
    pub fn handle_local(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Outcome {
        self.now = self.now.max(now);
        match self.admit_from_port(port, frame) {
            Ok((from, headers)) => self.forward_from_port(from, &headers, frame, sink),
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    /// Takes the payload of a UDP datagram from a VTEP (VXLAN header and inner frame), checks and forwards it.
    pub fn handle_remote(
        &mut self,
        now: Instant,
        from: impl Into<Received>,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Outcome {
        match self.admit_remote(now, from, frame) {
            Ok(vni) => self.forward_remote(now, vni, frame, sink),
            Err(reason) => Outcome::Dropped(reason),
        }
    }

    /// The first half of [`handle_local`](Self::handle_local), for stages that come in between: only checks the frame.
    ///
    /// # Errors
    ///
    /// Why the frame is to be dropped; it is counted.
    pub fn admit_local(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        self.now = self.now.max(now);
        self.admit_from_port(port, frame).map(|_| ())
    }

    /// The second half of [`handle_local`](Self::handle_local): forwards a frame that was admitted.
    pub fn forward_local(
        &mut self,
        now: Instant,
        port: PortId,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Outcome {
        self.now = self.now.max(now);
        let Some(from) = self.tables.port_index(port) else {
            return self.drop(None, DropReason::UnknownPort);
        };
        let network = self.tables.ports.get(from).map(|port| port.network);
        match Headers::read(frame.bytes()) {
            Ok(headers) => self.forward_from_port(from, &headers, frame, sink),
            Err(_) => self.drop(network, DropReason::Malformed),
        }
    }

    /// The first half of [`handle_remote`](Self::handle_remote): removes the VXLAN header and checks the inner frame.
    ///
    /// # Errors
    ///
    /// Why the frame is to be dropped; it is counted.
    pub fn admit_remote(
        &mut self,
        now: Instant,
        from: impl Into<Received>,
        frame: &mut Frame,
    ) -> Result<Vni, DropReason> {
        let received = from.into();
        self.now = self.now.max(now);
        let header = vxlan::Packet::new_checked(frame.bytes()).map(|packet| packet.vni());
        let Ok(vni) = header else {
            return Err(self.count_drop(None, DropReason::VxlanHeader));
        };
        let Some(index) = self.tables.network_index(vni) else {
            return Err(self.count_drop(None, DropReason::UnknownNetwork));
        };
        let admitted = self.admit_from_vtep(index, received, frame);
        admitted.map_err(|reason| self.count_drop(Some(index), reason))?;
        Ok(vni)
    }

    /// The second half of [`handle_remote`](Self::handle_remote): forwards an inner frame that was admitted.
    pub fn forward_remote(
        &mut self,
        now: Instant,
        vni: Vni,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Outcome {
        self.now = self.now.max(now);
        let Some(index) = self.tables.network_index(vni) else {
            return self.drop(None, DropReason::UnknownNetwork);
        };
        let Ok(headers) = Headers::read(frame.bytes()) else {
            return self.drop(Some(index), DropReason::Malformed);
        };
        match self.carry_from_vtep(index, &headers, frame, sink) {
            Ok(outcome) => outcome,
            Err(reason) => self.drop(Some(index), reason),
        }
    }

    pub(crate) fn queue(&mut self, network: NetworkIndex, output: Output) {
        if self.outputs.len() < self.config.outputs_max {
            self.outputs.push_back(output);
        } else {
            self.meters.count(network, |stats| stats.outputs_lost += 1);
        }
    }

    fn admit_from_port(&mut self, port: PortId, frame: &Frame) -> Stage<(u32, Headers)> {
        let index = self.tables.port_index(port);
        let found = index.and_then(|index| Some((index, self.tables.ports.get(index)?)));
        let Some((index, port)) = found else {
            return Err(self.count_drop(None, DropReason::UnknownPort));
        };
        let (id, octets) = (port.network, frame.len());
        self.meters.count_from_port(id, index, octets);
        let admitted = self
            .tables
            .network(id)
            .map_or(Err(DropReason::UnknownNetwork), |network| {
                let headers = Headers::read(frame.bytes()).map_err(|_| DropReason::Malformed)?;
                admit::local(network, port, &headers, frame)?;
                Ok((index, headers))
            });
        admitted.map_err(|reason| {
            self.meters.count_port_drop(index, reason);
            self.count_drop(Some(id), reason)
        })
    }

    fn admit_from_vtep(
        &mut self,
        index: NetworkIndex,
        received: Received,
        frame: &mut Frame,
    ) -> Stage<()> {
        let from = received.from.to_canonical();
        let network = self
            .tables
            .network(index)
            .ok_or(DropReason::UnknownNetwork)?;
        match (network.config.encrypted, received.sealed) {
            (true, false) => return Err(DropReason::Unencrypted),
            (false, true) => return Err(DropReason::Encrypted),
            (true, true) | (false, false) => {}
        }
        let vtep = network.is_member(from).ok_or(DropReason::UnknownVtep)?;
        let may_learn = may_learn(network.config.header, frame)?;
        frame
            .pull_header(vxlan::HEADER_BYTES)
            .ok_or(DropReason::VxlanHeader)?;
        let octets = frame.len();
        self.meters.count_from_vtep(index, vtep, octets);
        self.take_path_packet(index, vtep, frame.bytes())?;
        let network = self
            .tables
            .network(index)
            .ok_or(DropReason::UnknownNetwork)?;
        let headers = Headers::read(frame.bytes()).map_err(|_| DropReason::Malformed)?;
        admit::remote(network, &headers, frame)?;
        let hop = NextHop::Vtep(vtep);
        match self.tables.lookup(self.now, index, headers.source) {
            Some(known) if known == hop && network.config.learning.is_none() => {}
            // While an endpoint moves, its former VTEP has a row, too; an endpoint of this node is nowhere else.
            Some(NextHop::Vtep(_)) if network.is_held(headers.source, hop) => {}
            _ if !may_learn
                && network.config.learning.is_some()
                && !self.tables.fdb.is_static(index, headers.source) => {}
            _ => self.learn(index, &headers, hop, from)?,
        }
        self.clamp_from_vtep(index, vtep, &headers, frame);
        self.combine_ecn(index, &headers, received.ecn, frame)
    }

    /// Lowers what TCP of a remote endpoint announces, by the path back to it.
    fn clamp_from_vtep(
        &self,
        index: NetworkIndex,
        vtep: u32,
        headers: &Headers,
        frame: &mut Frame,
    ) {
        let network = self.tables.network(index);
        if let Some(network) = network.filter(|network| network.config.mss_clamp)
            && let Some(vtep) = self.tables.vtep(vtep)
        {
            mss::clamp(frame, headers, vtep.inner_mtu(&network.config));
        }
    }

    /// Carries a mark of the underlay into the inner packet.
    fn combine_ecn(
        &mut self,
        index: NetworkIndex,
        headers: &Headers,
        outer: Ecn,
        frame: &mut Frame,
    ) -> Stage<()> {
        let Payload::Ip(ip) = &headers.payload else {
            return Ok(());
        };
        let inner = Ecn::from_traffic_class(ip.traffic_class);
        let combined = inner.decapsulate(outer);
        if combined.unexpected {
            self.meters.count(index, |stats| stats.ecn_unexpected += 1);
        }
        let ecn = combined.ecn.ok_or(DropReason::Congestion)?;
        if ecn != inner {
            headers.set_traffic_class(frame, ip.traffic_class & !ECN_BITS | ecn.bits());
        }
        Ok(())
    }

    /// Learns where a MAC address is, if the network learns and no static row says otherwise.
    fn learn(
        &mut self,
        index: NetworkIndex,
        headers: &Headers,
        hop: NextHop,
        vtep: IpAddr,
    ) -> Stage<()> {
        let network = self
            .tables
            .network(index)
            .ok_or(DropReason::UnknownNetwork)?;
        let age = network.config.learning.ok_or(DropReason::SourceMac)?;
        let (vni, mac) = (network.vni, headers.source);
        match self
            .tables
            .fdb
            .learn(self.now, index, mac, hop, self.now + age)
        {
            Learned::Refused => Err(DropReason::SourceMac),
            Learned::Refreshed => Ok(()),
            Learned::Full => {
                self.meters.count(index, |stats| stats.learning_full += 1);
                Ok(())
            }
            Learned::New | Learned::Moved { .. } => {
                self.meters.count(index, |stats| stats.learned += 1);
                self.queue(index, Output::Event(Event::Learned { vni, mac, vtep }));
                Ok(())
            }
        }
    }

    fn forward_from_port(
        &mut self,
        from: u32,
        headers: &Headers,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Outcome {
        let network = self.tables.ports.get(from).map(|port| port.network);
        match self.carry_from_port(from, headers, frame, sink) {
            Ok(outcome) => outcome,
            Err(reason) => {
                self.meters.count_port_drop(from, reason);
                self.drop(network, reason)
            }
        }
    }

    fn carry_from_port(
        &mut self,
        from: u32,
        headers: &Headers,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Stage<Outcome> {
        let Self {
            tables,
            meters,
            scratch,
            fragments,
            flow_key,
            now,
            ..
        } = self;
        let (tables, now) = (&*tables, *now);
        let port = tables.ports.get(from).ok_or(DropReason::UnknownPort)?;
        let index = port.network;
        let network = tables.network(index).ok_or(DropReason::UnknownNetwork)?;
        let view = View {
            tables,
            now,
            index,
            network,
            headers,
            frame,
        };
        let verdict = view.decide_local(from, port);
        let mut exit = Exit {
            index,
            network,
            tables,
            meters,
            scratch,
            fragments,
            sink,
        };
        match verdict {
            Verdict::Port(to, port) => {
                exit.clamp_mss(headers, network.config.mtu, frame);
                exit.send_to_port(to, port, frame).map(|()| Outcome::ToPort)
            }
            Verdict::Vtep(to, vtep, limit) => {
                exit.clamp_mss(headers, vtep.inner_mtu(&network.config), frame);
                let outer = outer(flow_key, network, headers, frame);
                exit.send_to_vtep((to, vtep), outer, limit, frame)
                    .map(|()| Outcome::ToVtep)
            }
            Verdict::Flood { to_ports, limit } => {
                if !exit.meters.admit(now, from, limit) {
                    return Err(match limit {
                        Limit::Resolve => DropReason::ResolveRate,
                        Limit::Flood | Limit::Icmp => DropReason::FloodRate,
                    });
                }
                let outer = outer(flow_key, network, headers, frame);
                let ports = to_ports.then_some(Some(from));
                exit.flood(ports, Some(outer), frame)
                    .map(|()| Outcome::Flooded)
            }
            Verdict::Answer { request, mac } => exit
                .answer((from, port), headers, &request, mac, frame)
                .map(|()| Outcome::Answered),
            Verdict::TooBig(ip, mtu) => {
                if !exit.meters.admit(now, from, Limit::Icmp) {
                    return Err(DropReason::TooBig);
                }
                let answer = reply::too_big(frame, headers, &ip, mtu);
                answer.map_err(|reply::NoRoom| DropReason::Headroom)?;
                exit.send_to_port(from, port, frame)?;
                Err(DropReason::TooBigAnswered)
            }
            Verdict::Drop(reason) => Err(reason),
        }
    }

    fn carry_from_vtep(
        &mut self,
        index: NetworkIndex,
        headers: &Headers,
        frame: &mut Frame,
        sink: &mut impl Sink,
    ) -> Stage<Outcome> {
        let Self {
            tables,
            meters,
            scratch,
            fragments,
            now,
            ..
        } = self;
        let (tables, now) = (&*tables, *now);
        let network = tables.network(index).ok_or(DropReason::UnknownNetwork)?;
        let view = View {
            tables,
            now,
            index,
            network,
            headers,
            frame,
        };
        let verdict = view.decide_remote();
        let mut exit = Exit {
            index,
            network,
            tables,
            meters,
            scratch,
            fragments,
            sink,
        };
        match verdict {
            Verdict::Port(to, port) => exit.send_to_port(to, port, frame).map(|()| Outcome::ToPort),
            Verdict::Flood { .. } => {
                if !exit.meters.admit_remote_flood(now, index) {
                    return Err(DropReason::FloodRate);
                }
                exit.flood(Some(None), None, frame)
                    .map(|()| Outcome::Flooded)
            }
            Verdict::Drop(reason) => Err(reason),
            Verdict::Vtep(..) | Verdict::Answer { .. } | Verdict::TooBig(..) => {
                Err(DropReason::NotLocal)
            }
        }
    }

    fn drop(&mut self, network: Option<NetworkIndex>, reason: DropReason) -> Outcome {
        Outcome::Dropped(self.count_drop(network, reason))
    }

    fn count_drop(&mut self, network: Option<NetworkIndex>, reason: DropReason) -> DropReason {
        self.meters.count_drop(network, reason);
        reason
    }
}

/// Reads what the VXLAN header says beside the VNI: whether the source of the frame may be learned.
fn may_learn(format: HeaderFormat, frame: &Frame) -> Stage<bool> {
    let header = || vxlan::Packet::new_checked(frame.bytes()).map_err(|_| DropReason::VxlanHeader);
    match format {
        HeaderFormat::Plain => Ok(true),
        HeaderFormat::GroupPolicy { .. } => {
            let policy = header()?.group_policy();
            Ok(policy.is_none_or(|policy| !policy.dont_learn))
        }
        HeaderFormat::Gpe => match header()?.next_protocol() {
            Ok(NextProtocol::ETHERNET) => Ok(true),
            Ok(_) | Err(_) => Err(DropReason::NextProtocol),
        },
    }
}

/// Returns what goes into the outer headers of a frame.
fn outer(flow_key: &FlowKey, network: &Network, headers: &Headers, frame: &Frame) -> Outer {
    Outer {
        source_port: flow_key.of_headers(headers, frame.bytes()),
        traffic_class: outer::traffic_class(network.config.dscp, headers),
    }
}
