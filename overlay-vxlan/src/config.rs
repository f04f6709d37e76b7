//! Bounds of a switch and properties of a network.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use crate::{
    esp,
    limit::Rate,
    offload::{Offload, SegmentKind},
    outer::{OuterDscp, encapsulation_bytes},
    pmtu,
    wire::vxlan::{Extension, GroupPolicy, NextProtocol},
};

/// The bounds of a [`Switch`](crate::Switch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Networks at once. Default 4,096. Too low: [`add_network`](crate::Switch::add_network) fails.
    pub networks_max: u16,
    /// Ports at once, over all networks. Default 4,096. Too low: [`add_port`](crate::Switch::add_port) fails.
    pub ports_max: u16,
    /// Remote rows of one network. Default 65,536, about 15 MB. Too low: endpoints are unreachable.
    pub remotes_max: usize,
    /// VTEPs of one network. Default 4,096. Too high: each flooded frame is replicated that often.
    pub vteps_max: usize,
    /// Virtual addresses of one network. Default 65,536, about 3 MB. Too low: services are not answered for.
    pub virtual_addresses_max: usize,
    /// Addresses of one endpoint. Default 32.
    pub addresses_max: usize,
    /// Rows that a network with learning may learn. Default 1,024; room for them is reserved when the network is added.
    pub learned_rows_max: u16,
    /// Outputs that wait for [`poll_output`](overlay_core::Machine::poll_output). Default 1,024; more are counted and lost.
    pub outputs_max: usize,
    /// Addresses without an endpoint whose last MAC address is remembered, so that the next one is announced if it
    /// differs. Default 1,024, about 100 KB; the oldest are forgotten.
    pub former_addresses_max: usize,
    /// Flooded frames of one port (broadcast, multicast, unknown unicast), before replication. Default 1,000 a second,
    /// 2,000 at once. Too high: one endpoint loads the whole network; too low: multicast applications lose frames.
    pub flood_rate_max: Rate,
    /// Requests of one port for addresses that nobody has (ARP and ND), before replication. Default 20 a second, 50 at
    /// once. Too high: a scan loads the network; too low: a peer that the tables lack yet is found later.
    pub resolve_rate_max: Rate,
    /// Flooded frames that one network takes from its VTEPs. Default 10,000 a second, 20,000 at once.
    pub remote_flood_rate_max: Rate,
    /// ICMP errors to one port (RFC 4443 §2.4 asks for a limit). Default 100 a second, 200 at once. Too low: path MTU
    /// discovery of many flows takes longer.
    pub icmp_rate_max: Rate,
    /// Probes of one VTEP that are acknowledged. Default 20 a second, 50 at once: more than a search takes.
    pub acknowledge_rate_max: Rate,
    /// How path MTUs are probed.
    pub probing: pmtu::Config,
}

impl Default for Config {
    fn default() -> Self {
        let rate = |per_second, burst| Rate { per_second, burst };
        Self {
            networks_max: 4_096,
            ports_max: 4_096,
            remotes_max: 65_536,
            vteps_max: 4_096,
            virtual_addresses_max: 65_536,
            addresses_max: 32,
            learned_rows_max: 1_024,
            outputs_max: 1_024,
            former_addresses_max: 1_024,
            flood_rate_max: rate(1_000, 2_000),
            resolve_rate_max: rate(20, 50),
            remote_flood_rate_max: rate(10_000, 20_000),
            icmp_rate_max: rate(100, 200),
            acknowledge_rate_max: rate(20, 50),
            probing: pmtu::Config::default(),
        }
    }
}

/// The properties of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Largest IP packet, in octets; a VLAN tag counts. Default 1,450: 1,500 less VXLAN over IPv4. Encrypted networks have
    /// room for 1,405 there; [`underlay_bytes`](Self::underlay_bytes) says what to take off.
    pub mtu: u16,
    /// Subnets; IP packets from or to elsewhere are dropped, but for link-local and multicast. Default none: not checked.
    pub subnets: Vec<IpNet>,
    /// How long a row that was learned from a frame lives. Default `None`: nothing is learned, and frames from MAC
    /// addresses that no row has are dropped.
    pub learning: Option<Duration>,
    /// What becomes of frames with a VLAN tag. Default: they are dropped (RFC 7348 §6.1).
    pub vlan_tags: VlanTags,
    /// Whether frames to and from VTEPs are sealed ([`esp`]). Then none leaves but by
    /// [`Sink::to_sealed_vtep`](crate::Sink::to_sealed_vtep), and none is taken that was not
    /// [`sealed`](crate::Received::sealed); of a network that is not encrypted none is taken that was. All members have to
    /// say the same. Default false.
    pub encrypted: bool,
    /// Octets of the underlay's packets beside encapsulation, sealing and inner packet, such as those of another tunnel below,
    /// which a path MTU has to have room for. Default 0. Too low: packets that fill the path are fragmented or lost.
    pub overhead_bytes: u16,
    /// Whether the maximum segment size that endpoints announce is lowered to what the network and the path have room
    /// for, in both directions. Default false: path MTU discovery does it. For endpoints that lose ICMP errors.
    pub mss_clamp: bool,
    /// How the VXLAN header is written and read. Default: as in RFC 7348.
    pub header: HeaderFormat,
    /// DSCP of the outer header. Default 0, as in Linux; an underlay that sorts by DSCP then sees one class only.
    pub dscp: OuterDscp,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            mtu: 1_450,
            subnets: Vec::new(),
            learning: None,
            vlan_tags: VlanTags::Drop,
            encrypted: false,
            overhead_bytes: 0,
            mss_clamp: false,
            header: HeaderFormat::Plain,
            dscp: OuterDscp::Fixed(0),
        }
    }
}

impl NetworkConfig {
    /// Returns how many octets of an outer IP packet to `vtep` are not the inner packet: encapsulation, sealing with the
    /// longest padding if the network is encrypted, and [`overhead_bytes`](Self::overhead_bytes).
    #[must_use]
    pub fn underlay_bytes(&self, vtep: IpAddr) -> u16 {
        let sealing = if self.encrypted {
            esp::OVERHEAD_BYTES_MAX
        } else {
            0
        };
        encapsulation_bytes(vtep)
            .saturating_add(sealing)
            .saturating_add(self.overhead_bytes)
    }
}

/// What becomes of frames with a VLAN tag (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VlanTags {
    /// They are dropped.
    #[default]
    Drop,
    /// Up to two tags pass, and the packet behind them is checked, and answered, like any other.
    Inspect,
    /// The VLANs of endpoints are networks of their own: their frames are carried by MAC addresses alone, and of what is in
    /// them nothing is checked or answered. A frame whose outer tag has no VLAN identifier (zero, a mere priority) is taken
    /// for an untagged one by whoever gets it, so it is inspected.
    Carry,
}

/// Which VXLAN header the members of a network use; all of them the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeaderFormat {
    /// That of RFC 7348; all other bits are zero, and ignored.
    #[default]
    Plain,
    /// With a group policy (draft-smith-vxlan-group-policy): frames of this node's endpoints come from group `id`. From a
    /// frame with the D flag nothing is learned.
    GroupPolicy {
        /// The group.
        id: u16,
    },
    /// The generic protocol extension (draft-ietf-nvo3-vxlan-gpe). What is no Ethernet frame is dropped.
    Gpe,
}

impl HeaderFormat {
    /// Returns what the headers of frames to VTEPs say beside the VNI.
    pub(crate) const fn extension(self) -> Extension {
        match self {
            Self::Plain => Extension::None,
            Self::GroupPolicy { id } => Extension::GroupPolicy(GroupPolicy {
                id,
                dont_learn: false,
                applied: false,
            }),
            Self::Gpe => Extension::NextProtocol(NextProtocol::ETHERNET),
        }
    }
}

/// What a port takes as it is, so that nobody has to do it in software.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCapabilities {
    /// Frames with a partial checksum. Default false: it is completed first.
    pub partial_checksum: bool,
    /// Super-frames of TCP. Default false: they are segmented first.
    pub segmentation: bool,
    /// Super-frames of UDP. Default false: they are segmented first.
    pub udp_segmentation: bool,
}

impl PortCapabilities {
    /// Returns whether a frame with this offload is taken as it is.
    #[must_use]
    pub fn take(&self, offload: &Offload) -> bool {
        let segments = match offload.segment.map(|segment| segment.kind) {
            None => true,
            Some(SegmentKind::TcpV4 | SegmentKind::TcpV6) => self.segmentation,
            Some(SegmentKind::Udp) => self.udp_segmentation,
        };
        segments && (self.partial_checksum || offload.checksum.is_none())
    }
}
