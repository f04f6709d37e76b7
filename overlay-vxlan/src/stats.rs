//! What the switch counted.

use std::fmt;

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The port is not in the tables.
    UnknownPort,
    /// The VNI is not in the tables.
    UnknownNetwork,
    /// The VXLAN header is cut short or has no valid VNI.
    VxlanHeader,
    /// What follows the VXLAN header is no Ethernet frame, or for the VTEP itself.
    NextProtocol,
    /// The network is encrypted, and the datagram came in the open.
    Unencrypted,
    /// The network is not encrypted, and the datagram came sealed.
    Encrypted,
    /// The outer source is no VTEP of the network.
    UnknownVtep,
    /// A header of the frame is cut short or lies about a length.
    Malformed,
    /// The source MAC address is not the port's, or not one that is known behind the VTEP.
    SourceMac,
    /// The source IP address, or what ARP or ND say of the sender, is not the port's.
    SourceAddress,
    /// The source or destination IP address is in none of the network's subnets.
    ForeignAddress,
    /// A router advertisement or redirect, which an endpoint has no business to send.
    RouterMessage,
    /// A VLAN tag in a network that does not pass them.
    VlanTag,
    /// A probe of the path MTU, or its acknowledgement: it was for the switch itself.
    PathPacket,
    /// A group address that bridges keep to themselves (IEEE 802.1Q table 8-1), such as that of spanning tree.
    ReservedGroup,
    /// The network's policy does not let it pass.
    Policy,
    /// The partial checksum or the kind of super-frame does not fit the frame.
    Offload,
    /// The underlay marked congestion, which the transport of the inner packet does not understand (RFC 6040 §4.2).
    Congestion,
    /// A broadcast, multicast or unknown frame above the rate.
    FloodRate,
    /// A request for an address that nobody has, above the rate.
    ResolveRate,
    /// The packet is bigger than the network's MTU, and the sender was not told: it could not be, or not again so soon.
    TooBig,
    /// The packet is bigger than the network's MTU, and the sender was told.
    TooBigAnswered,
    /// The destination is the port that the frame came from.
    SamePort,
    /// A frame from a VTEP for an endpoint that is not here; frames are never sent on.
    NotLocal,
    /// The frame has too little headroom for the headers.
    Headroom,
    /// The network is encrypted, and the sink did not seal the frame: there is no association with the VTEP, or nobody who
    /// seals. A flooded frame counts for each VTEP.
    NoAssociation,
}

impl DropReason {
    /// All reasons, in the order of the stages.
    pub const ALL: [Self; 26] = [
        Self::UnknownPort,
        Self::UnknownNetwork,
        Self::VxlanHeader,
        Self::NextProtocol,
        Self::Unencrypted,
        Self::Encrypted,
        Self::UnknownVtep,
        Self::Malformed,
        Self::SourceMac,
        Self::SourceAddress,
        Self::ForeignAddress,
        Self::RouterMessage,
        Self::VlanTag,
        Self::PathPacket,
        Self::ReservedGroup,
        Self::Policy,
        Self::Offload,
        Self::Congestion,
        Self::FloodRate,
        Self::ResolveRate,
        Self::TooBig,
        Self::TooBigAnswered,
        Self::SamePort,
        Self::NotLocal,
        Self::Headroom,
        Self::NoAssociation,
    ];

    /// Returns the name that a counter of it has: lower case with underscores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownPort => "unknown_port",
            Self::UnknownNetwork => "unknown_network",
            Self::VxlanHeader => "vxlan_header",
            Self::NextProtocol => "next_protocol",
            Self::Unencrypted => "unencrypted",
            Self::Encrypted => "encrypted",
            Self::UnknownVtep => "unknown_vtep",
            Self::Malformed => "malformed",
            Self::SourceMac => "source_mac",
            Self::SourceAddress => "source_address",
            Self::ForeignAddress => "foreign_address",
            Self::RouterMessage => "router_message",
            Self::VlanTag => "vlan_tag",
            Self::PathPacket => "path_packet",
            Self::ReservedGroup => "reserved_group",
            Self::Policy => "policy",
            Self::Offload => "offload",
            Self::Congestion => "congestion",
            Self::FloodRate => "flood_rate",
            Self::ResolveRate => "resolve_rate",
            Self::TooBig => "too_big",
            Self::TooBigAnswered => "too_big_answered",
            Self::SamePort => "same_port",
            Self::NotLocal => "not_local",
            Self::Headroom => "headroom",
            Self::NoAssociation => "no_association",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::error::Error for DropReason {}

/// Dropped frames by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    pub(crate) fn add(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Returns how many frames were dropped for `reason`.
    #[must_use]
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Returns how many frames were dropped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Walks over all reasons, those without a drop included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }
}

/// Frames and their octets, Ethernet header included, encapsulation not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Octets.
    pub octets: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, octets: usize) {
        self.frames += 1;
        self.octets += octets as u64;
    }
}

/// What was counted for the whole switch, or for one network. A super-frame counts once on the way in, and once for each
/// segment on the way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames from local ports.
    pub from_ports: Traffic,
    /// Frames from VTEPs.
    pub from_vteps: Traffic,
    /// Frames to local ports, answers included.
    pub to_ports: Traffic,
    /// Frames to VTEPs; a replicated frame counts for each.
    pub to_vteps: Traffic,
    /// Frames that were flooded.
    pub flooded: u64,
    /// ARP requests that were answered from the tables.
    pub arp_answered: u64,
    /// Neighbour solicitations that were answered from the tables.
    pub nd_answered: u64,
    /// Rows that were learned or moved.
    pub learned: u64,
    /// Rows that were not learned because the network's quota is used up.
    pub learning_full: u64,
    /// Frames from VTEPs whose inner and outer ECN fields no standard tunnel makes together (RFC 6040 §4.2).
    pub ecn_unexpected: u64,
    /// Addresses whose move was announced to the ports.
    pub announced: u64,
    /// Probes of path MTUs, and acknowledgements, that were sent.
    pub path_packets: u64,
    /// Outputs that were lost because nobody polled them.
    pub outputs_lost: u64,
    /// Dropped frames.
    pub drops: Drops,
}

/// What was counted for one VTEP, over all networks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VtepStats {
    /// Frames from it.
    pub received: Traffic,
    /// Frames to it.
    pub sent: Traffic,
}

/// What was counted for one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames from it.
    pub received: Traffic,
    /// Frames to it, answers included.
    pub sent: Traffic,
    /// Frames from it that were dropped.
    pub drops: Drops,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_of_its_own() {
        let mut drops = Drops::default();
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
            drops.add(reason);
            assert_eq!(drops.of(reason), 1);
        }
        assert_eq!(drops.total(), DropReason::ALL.len() as u64);
        let names: std::collections::BTreeSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
