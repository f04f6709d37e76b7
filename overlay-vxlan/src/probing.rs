//! Probing the paths to VTEPs: brings the probers of [`pmtu`] and the frames of the switch together.

use std::{collections::BTreeSet, net::IpAddr};

use overlay_core::{Instant, Machine, Seed, Vni};

use crate::{
    exit::{encapsulate, hand_over},
    fdb::NetworkIndex,
    flow::SOURCE_PORT_MIN,
    frame::Frame,
    outer::Outer,
    pmtu::{self, Prober},
    sink::Sink,
    stats::DropReason,
    switch::{Event, Output, Switch},
    tables::Network,
    wire::{
        ethernet::{self, EtherType},
        probe,
    },
};

/// A probe or an acknowledgement that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathPacket {
    /// Where it goes.
    pub vtep: IpAddr,
    /// A network of which both ends are members.
    pub vni: Vni,
    /// What it says.
    pub message: probe::Repr,
}

/// When the probers are due.
#[derive(Debug)]
pub(crate) struct Due {
    seed: Seed,
    /// Probers that were made: no two guess the same tokens.
    made: u64,
    /// Deadlines and numbers of VTEPs. The entry of a VTEP that is probed no more goes when it is due.
    deadlines: BTreeSet<(Instant, u32)>,
}

/// The prober of one VTEP.
#[derive(Debug)]
pub(crate) struct Probed {
    prober: Prober,
    /// Its entry in the deadlines.
    due: Option<Instant>,
    /// The network whose probes were sent last.
    network: Option<NetworkIndex>,
}

impl Due {
    pub(crate) const fn new(seed: Seed) -> Self {
        Self {
            seed,
            made: 0,
            deadlines: BTreeSet::new(),
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }
}

impl Switch {
    /// Starts, or changes, the search for the path MTU to a VTEP; `None` ends it, and what was found is forgotten.
    ///
    /// `underlay_mtu` is the MTU of the interface that packets to the VTEP leave by, in octets of IP: the largest size that
    /// is tried, and what holds until a probe says otherwise. What is found is the VTEP's path MTU, in place of what
    /// [`set_path_mtu`](Self::set_path_mtu) said. Probes are [`Output::PathPacket`]. Returns whether the tables know the
    /// VTEP; the search ends with its last row.
    pub fn probe_path(&mut self, now: Instant, vtep: IpAddr, underlay_mtu: Option<u16>) -> bool {
        self.now = self.now.max(now);
        let Some(index) = self.tables.vtep_index(vtep.to_canonical()) else {
            return false;
        };
        let Some(entry) = self.tables.vtep_mut(index) else {
            return false;
        };
        match (underlay_mtu, &mut entry.probed) {
            (None, probed) => {
                *probed = None;
                entry.path_mtu = None;
            }
            (Some(ceiling), Some(probed)) => probed.prober.set_ceiling(self.now, ceiling),
            (Some(ceiling), None) => {
                self.due.made += 1;
                let seed = self.due.seed.derive(&self.due.made.to_string());
                let prober = Prober::new(self.now, self.config.probing, ceiling, &seed);
                entry.path_mtu = Some(ceiling);
                entry.probed = Some(Box::new(Probed {
                    prober,
                    due: None,
                    network: None,
                }));
            }
        }
        self.settle_prober(index);
        true
    }

    /// Takes the MTU that an ICMP error of the underlay gives for packets to a VTEP (RFC 1191, RFC 8201).
    ///
    /// Anybody may have sent it, so it only decides which size is probed next. Returns whether it does.
    pub fn handle_packet_too_big(&mut self, now: Instant, vtep: IpAddr, mtu: u16) -> bool {
        self.now = self.now.max(now);
        let index = self.tables.vtep_index(vtep.to_canonical());
        let Some(index) = index else {
            return false;
        };
        let entry = self.tables.vtep_mut(index);
        let probed = entry.and_then(|entry| entry.probed.as_mut());
        let taken = probed.is_some_and(|probed| probed.prober.handle_packet_too_big(now, mtu));
        self.settle_prober(index);
        taken
    }

    /// Returns where the search for the path MTU to a VTEP is.
    #[must_use]
    pub fn probing_state(&self, vtep: IpAddr) -> Option<pmtu::State> {
        let index = self.tables.vtep_index(vtep.to_canonical())?;
        let probed = self.tables.vtep(index)?.probed.as_ref()?;
        Some(probed.prober.state())
    }

    /// Sends a probe or an acknowledgement: to call with each [`Output::PathPacket`].
    ///
    /// `sink` must send it in a packet that nobody fragments. In an encrypted network it is sealed like any other frame, so that
    /// what comes through is what frames of its size need. Returns whether it was sent: the VTEP is still a member of the
    /// network, and the sink could seal it.
    pub fn send_path_packet(
        &mut self,
        now: Instant,
        packet: &PathPacket,
        sink: &mut impl Sink,
    ) -> bool {
        self.now = self.now.max(now);
        let index = self.tables.network_index(packet.vni);
        let Some((index, network)) =
            index.and_then(|index| Some((index, self.tables.network(index)?)))
        else {
            return false;
        };
        if network.is_member(packet.vtep).is_none() {
            return false;
        }
        let inner_bytes = match packet.message {
            probe::Repr::Acknowledgement(_) => 0,
            probe::Repr::Probe(probe) => {
                let overhead = network.config.underlay_bytes(packet.vtep);
                let overhead = overhead.saturating_sub(ETHERNET_BYTES);
                usize::from(probe.size_bytes.saturating_sub(overhead))
            }
        };
        let least = ethernet::HEADER_BYTES + probe::HEADER_BYTES;
        let bytes = vec![0; inner_bytes.max(least)];
        let mut frame = Frame::with_headroom(Frame::HEADROOM, &bytes);
        if emit(&mut frame, network, packet).is_none() {
            return false;
        }
        let (probe::Repr::Probe(probe) | probe::Repr::Acknowledgement(probe)) = packet.message;
        // Each probe may take another of the underlay's paths; tries of one size take the same.
        let outer = Outer {
            source_port: SOURCE_PORT_MIN | (probe.token >> 50) as u16,
            traffic_class: 0,
        };
        let sent = hand_over(network, packet.vtep, outer, &mut frame, sink);
        match sent {
            Ok(()) => self.meters.count(index, |stats| stats.path_packets += 1),
            Err(reason) => self.meters.count_drop(Some(index), reason),
        }
        sent.is_ok()
    }

    /// Takes a frame of a member VTEP if it is a probe or an acknowledgement.
    pub(crate) fn take_path_packet(
        &mut self,
        index: NetworkIndex,
        vtep: u32,
        bytes: &[u8],
    ) -> Result<(), DropReason> {
        let Some(message) = read(bytes) else {
            return Ok(());
        };
        let now = self.now;
        match message {
            probe::Repr::Probe(probe) => {
                let address = self.tables.vtep(vtep).map(|vtep| vtep.address);
                let vni = self.tables.network(index).map(|network| network.vni);
                if self.meters.admit_probe(now, vtep)
                    && let (Some(vtep), Some(vni)) = (address, vni)
                {
                    let message = probe::Repr::Acknowledgement(probe);
                    let packet = PathPacket { vtep, vni, message };
                    self.queue(index, Output::PathPacket(packet));
                }
            }
            probe::Repr::Acknowledgement(probe) => {
                let entry = self.tables.vtep_mut(vtep);
                if let Some(probed) = entry.and_then(|entry| entry.probed.as_mut()) {
                    probed.prober.handle_acknowledgement(now, probe);
                    self.settle_prober(vtep);
                }
            }
        }
        Err(DropReason::PathPacket)
    }

    /// Lets the probers that are due go on.
    pub(crate) fn probe_due(&mut self) {
        while let Some((due, index)) = self.due.deadlines.first().copied() {
            if due > self.now {
                return;
            }
            self.due.deadlines.pop_first();
            let entry = self.tables.vtep_mut(index);
            if let Some(probed) = entry.and_then(|entry| entry.probed.as_mut()) {
                probed.prober.handle_timeout(self.now);
                self.settle_prober(index);
            }
        }
    }

    /// Carries out what the prober of a VTEP wants, and notes when it is due again.
    fn settle_prober(&mut self, index: u32) {
        let mut queued = Vec::new();
        let Some(entry) = self.tables.vtep_mut(index) else {
            return;
        };
        let address = entry.address;
        let Some(mut probed) = entry.probed.take() else {
            return;
        };
        while let Some(output) = probed.prober.poll_output() {
            match output {
                pmtu::Output::Mtu(_) => queued.push(None),
                pmtu::Output::Probe(probe) => queued.push(Some(probe)),
            }
        }
        for output in queued {
            let Some(network) = self.common_network(probed.network, address) else {
                // A VTEP without a network has rows only, and nobody to answer.
                continue;
            };
            probed.network = Some(network);
            let vni = self.tables.network(network).map(|network| network.vni);
            let output = match (output, vni) {
                (Some(probe), Some(vni)) => Output::PathPacket(PathPacket {
                    vtep: address,
                    vni,
                    message: probe::Repr::Probe(probe),
                }),
                _ => Output::Event(Event::PathMtu {
                    vtep: address,
                    mtu: probed.prober.mtu(),
                }),
            };
            self.queue(network, output);
        }
        let due = probed.prober.poll_timeout();
        if let Some(before) = std::mem::replace(&mut probed.due, due) {
            self.due.deadlines.remove(&(before, index));
        }
        if let Some(due) = due {
            self.due.deadlines.insert((due, index));
        }
        if let Some(entry) = self.tables.vtep_mut(index) {
            entry.path_mtu = Some(probed.prober.mtu());
            entry.probed = Some(probed);
        }
    }

    /// Returns a network of which the VTEP is a member: the same one as long as it is. One that is not encrypted comes first,
    /// because there a probe is exactly as large as it says, and not up to three octets smaller (ESP ends on a multiple of
    /// four).
    fn common_network(&self, last: Option<NetworkIndex>, address: IpAddr) -> Option<NetworkIndex> {
        let find = |encrypted: bool| {
            let is_common = |index: &NetworkIndex| {
                let network = self.tables.network(*index);
                let network = network.filter(|network| network.config.encrypted == encrypted);
                network.is_some_and(|network| network.is_member(address).is_some())
            };
            last.filter(is_common)
                .or_else(|| self.tables.network_indices().find(is_common))
        };
        find(false).or_else(|| find(true))
    }
}

/// Reads what a frame says, if it is a probe or an acknowledgement.
fn read(bytes: &[u8]) -> Option<probe::Repr> {
    let link = ethernet::Packet::new_checked(bytes).ok()?;
    if link.destination() != probe::DESTINATION || link.ethertype() != EtherType::EXPERIMENT {
        return None;
    }
    probe::Repr::parse(link.payload()).ok()
}

fn emit(frame: &mut Frame, network: &Network, packet: &PathPacket) -> Option<()> {
    let link = ethernet::Repr {
        destination: probe::DESTINATION,
        source: probe::SOURCE,
        ethertype: EtherType::EXPERIMENT,
    };
    link.emit(frame.bytes_mut()).ok()?;
    let payload = frame.bytes_mut().get_mut(ethernet::HEADER_BYTES..)?;
    packet.message.emit(payload).ok()?;
    encapsulate(network, frame).ok()
}

/// The inner Ethernet header, which [`underlay_bytes`](crate::NetworkConfig::underlay_bytes) counts.
const ETHERNET_BYTES: u16 = 14;
