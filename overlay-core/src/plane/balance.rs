//! How the flows to a virtual address are spread over those who serve it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a virtual address is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipConfig {
    /// How a backend is chosen for a new flow.
    pub policy: Policy,
    /// For how long the next flow of a client's address goes to the backend of its last one. `None`, the default,
    /// chooses each flow by itself. Long times make loads uneven.
    pub affinity: Option<Duration>,
    /// Whether near backends come first.
    pub locality: Locality,
}

/// Whether near backends come first. Those farther away take new flows while no nearer one does.
///
/// Nodes choose alike by Maglev only if they choose among the same backends: with [`Any`](Self::Any).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// All backends, however far.
    #[default]
    Any,
    /// Those of this zone, this node's among them, before those of others.
    Zone,
    /// Those of this node, then those of this zone, then others.
    Node,
    /// Those of this node, and no others.
    NodeOnly,
}

impl Locality {
    /// Returns the rank of a backend at this distance: the first rank in which one takes flows takes all. `None`: it takes
    /// none.
    pub fn rank(self, distance: Distance) -> Option<u8> {
        match (self, distance) {
            (Self::Any, _) | (Self::Zone, Distance::Node | Distance::Zone) => Some(0),
            (Self::Zone, Distance::Far) => Some(1),
            (Self::Node | Self::NodeOnly, Distance::Node) => Some(0),
            (Self::Node, Distance::Zone) => Some(1),
            (Self::Node, Distance::Far) => Some(2),
            (Self::NodeOnly, _) => None,
        }
    }
}

/// How far a backend is from this balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Distance {
    /// On the same node.
    Node,
    /// On another node of the same zone.
    Zone,
    /// In another zone, or nobody said.
    #[default]
    Far,
}

/// How a backend is chosen for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// By a consistent hash of the flow (Maglev, NSDI'16 §3.4). Nodes that know the same backends choose alike, without
    /// talking: a flow that comes in at another node, or after a restart, still meets its backend.
    #[default]
    Maglev,
    /// In turn, by weight, the turns of each backend spread evenly.
    WeightedRoundRobin,
    /// The one with the fewest flows for its weight.
    LeastConnections,
}
