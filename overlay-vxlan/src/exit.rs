//! Carrying a verdict out: answer, cut, encapsulate, count, and hand to the sink.

use std::net::IpAddr;

use overlay_core::MacAddr;

use crate::{
    fdb::NetworkIndex,
    fragment::fragment,
    frame::Frame,
    headers::Headers,
    meters::Meters,
    mss,
    outer::Outer,
    reply,
    segment::segment,
    sink::{Sink, Unsealed},
    stats::DropReason,
    tables::{Network, Port, Tables, Vtep},
    verdict::Request,
    wire::{ethernet, vxlan},
};

/// Carries a verdict out.
pub(crate) struct Exit<'a, S> {
    pub(crate) index: NetworkIndex,
    pub(crate) network: &'a Network,
    pub(crate) tables: &'a Tables,
    pub(crate) meters: &'a mut Meters,
    pub(crate) scratch: &'a mut Frame,
    pub(crate) fragments: &'a mut Frame,
    pub(crate) sink: &'a mut S,
}

impl<S: Sink> Exit<'_, S> {
    pub(crate) fn send_to_port(
        &mut self,
        to: u32,
        port: &Port,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        let Self {
            meters,
            scratch,
            sink,
            index,
            ..
        } = self;
        let offload = frame.offload();
        let mut send = |frame: &mut Frame| {
            let octets = frame.len();
            meters.count_to_port(*index, to, octets);
            sink.to_port(port.id, frame);
        };
        if port.capabilities.take(&offload) {
            send(frame);
            return Ok(());
        }
        let sent = segment(frame, scratch, Frame::HEADROOM, send);
        sent.map(|_| ()).map_err(|_| DropReason::Offload)
    }

    /// Sends a frame to a VTEP; packets beyond `limit` octets in fragments.
    pub(crate) fn send_to_vtep(
        &mut self,
        (to, vtep): (u32, &Vtep),
        outer: Outer,
        limit: Option<u16>,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        let Self {
            meters,
            scratch,
            fragments,
            sink,
            index,
            network,
            ..
        } = self;
        let mut sent = Ok(());
        let mut send = |frame: &mut Frame| {
            let octets = frame.len();
            encapsulate(network, frame)?;
            hand_over(network, vtep.address, outer, frame, *sink)?;
            meters.count_to_vtep(*index, to, octets);
            Ok(())
        };
        let done = segment(frame, scratch, Frame::HEADROOM, |frame| {
            let limit =
                limit.filter(|mtu| frame.len() > usize::from(*mtu) + ethernet::HEADER_BYTES);
            let result = match limit {
                None => send(frame),
                Some(mtu) => {
                    let mut all = Ok(());
                    fragment(frame, fragments, mtu, |frame| all = all.and(send(frame))).and(all)
                }
            };
            sent = sent.and(result);
        });
        done.map_err(|_| DropReason::Offload)?;
        sent
    }

    /// Lowers the maximum segment size of TCP to what fits `mtu`, if the network wants that.
    pub(crate) fn clamp_mss(&self, headers: &Headers, mtu: u16, frame: &mut Frame) {
        if self.network.config.mss_clamp {
            mss::clamp(frame, headers, mtu);
        }
    }

    /// Sends copies to the ports of the network but one, and to its VTEPs.
    pub(crate) fn flood(
        &mut self,
        ports: Option<Option<u32>>,
        outer: Option<Outer>,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        let Self {
            meters,
            scratch,
            sink,
            index,
            network,
            tables,
            ..
        } = self;
        meters.count(*index, |stats| stats.flooded += 1);
        let mut sent = Ok(());
        let done = segment(frame, scratch, Frame::HEADROOM, |frame| {
            let octets = frame.len();
            for &to in network
                .ports
                .iter()
                .filter(|to| ports.is_some_and(|but| but != Some(**to)))
            {
                if let Some(port) = tables.ports.get(to) {
                    meters.count_to_port(*index, to, octets);
                    sink.copy_to_port(port.id, frame);
                }
            }
            let Some(outer) = outer else {
                return;
            };
            if encapsulate(network, frame).is_err() {
                sent = Err(DropReason::Headroom);
                return;
            }
            for &(vtep, to) in &network.vteps {
                match hand_over_copy(network, vtep, outer, frame, *sink) {
                    Ok(()) => meters.count_to_vtep(*index, to, octets),
                    Err(reason) => meters.count_drop(Some(*index), reason),
                }
            }
        });
        done.map_err(|_| DropReason::Offload)?;
        sent
    }

    pub(crate) fn answer(
        &mut self,
        (to, port): (u32, &Port),
        headers: &Headers,
        request: &Request,
        mac: MacAddr,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        let answer = match request {
            Request::Arp(packet) => {
                self.meters
                    .count(self.index, |stats| stats.arp_answered += 1);
                reply::arp(frame, headers, packet, mac)
            }
            Request::Neighbour { asker, target } => {
                self.meters
                    .count(self.index, |stats| stats.nd_answered += 1);
                reply::neighbour(frame, headers, *asker, *target, mac)
            }
        };
        answer.map_err(|reply::NoRoom| DropReason::Headroom)?;
        self.send_to_port(to, port, frame)
    }
}

/// Hands a frame for a VTEP to the sink: every frame goes this way, or that of [`hand_over_copy`], and one of an encrypted
/// network never in the open.
pub(crate) fn hand_over(
    network: &Network,
    vtep: IpAddr,
    outer: Outer,
    frame: &mut Frame,
    sink: &mut impl Sink,
) -> Result<(), DropReason> {
    if network.config.encrypted {
        return sink
            .to_sealed_vtep(vtep, outer, frame)
            .map_err(|Unsealed| DropReason::NoAssociation);
    }
    sink.to_vtep(vtep, outer, frame);
    Ok(())
}

/// Hands a copy of a frame for one of several VTEPs to the sink.
fn hand_over_copy(
    network: &Network,
    vtep: IpAddr,
    outer: Outer,
    frame: &Frame,
    sink: &mut impl Sink,
) -> Result<(), DropReason> {
    if network.config.encrypted {
        return sink
            .copy_to_sealed_vtep(vtep, outer, frame)
            .map_err(|Unsealed| DropReason::NoAssociation);
    }
    sink.copy_to_vtep(vtep, outer, frame);
    Ok(())
}

/// Puts the VXLAN header in front.
pub(crate) fn encapsulate(network: &Network, frame: &mut Frame) -> Result<(), DropReason> {
    let header = frame
        .push_header(vxlan::HEADER_BYTES)
        .ok_or(DropReason::Headroom)?;
    header.copy_from_slice(&network.header().octets());
    Ok(())
}
