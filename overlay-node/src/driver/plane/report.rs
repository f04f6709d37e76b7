//! What the frame path knows of itself, for whoever looks for what is amiss.

use std::net::IpAddr;

use overlay_core::Vni;
use overlay_vxlan::{Drops, policy};

use super::path::FramePath;

/// What the frame path has seen since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) paths: Vec<PathInfo>,
    /// Frames that were dropped, by network; none stands for those that are of no network here.
    pub(crate) drops: Vec<(Option<Vni>, Drops)>,
    /// What the policies of networks have counted.
    pub(crate) policies: Vec<(Vni, policy::Stats)>,
    /// Rows, ports, services and policies that were beyond a bound.
    pub(crate) refused: u64,
    /// Frames that an endpoint's interface did not take.
    pub(crate) not_written: u64,
    /// Datagrams that the underlay did not take.
    pub(crate) not_sent: u64,
    /// Frames of encrypted networks that were not sent, because there were no keys for their VTEP.
    pub(crate) not_sealed: u64,
    /// Datagrams at the port of ESP that no peer had sealed, or that came again.
    pub(crate) not_opened: u64,
}

/// What is known of the way to a VTEP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PathInfo {
    pub(crate) vtep: IpAddr,
    /// The largest outer packet that passes, in octets; none while it is not known.
    pub(crate) mtu: Option<u16>,
}

impl FramePath {
    pub(super) fn report(&self) -> Report {
        let (plane, switch) = (&self.plane, self.plane.switch());
        let paths = plane.vteps().into_iter().map(|vtep| PathInfo {
            vtep,
            mtu: switch.path_mtu(vtep),
        });
        let sealing = self.out.sealing.stats();
        let networks = plane.vnis().into_iter();
        let of = |vni| Some((Some(vni), switch.network_stats(vni)?.drops));
        let others = (None, switch.stats().drops);
        Report {
            paths: paths.collect(),
            drops: networks.filter_map(of).chain([others]).collect(),
            policies: plane.policy_stats().collect(),
            refused: plane.refused(),
            not_written: self.out.lost,
            not_sent: [&self.out.outbox, &self.out.esp_outbox]
                .into_iter()
                .flatten()
                .map(|outbox| outbox.lost())
                .sum(),
            not_sealed: sealing.no_association + sealing.exhausted + sealing.unfit,
            not_opened: sealing.received.refused(),
        }
    }
}
