//! What a subnet is made from.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{digest::Digest, prefix::Block};

/// One subnet, and which of its addresses are given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// The subnet, without host bits.
    pub prefix: IpNet,
    /// The gateway's address, which nobody else gets. `None`, the default, takes the first usable address: `.1` of an
    /// IPv4 subnet. Subnets of one or two addresses then have none.
    pub gateway: Option<IpAddr>,
    /// Whether an address is kept for a gateway if none is named. True by default.
    pub reserve_gateway: bool,
    /// Addresses are chosen from this part of the subnet only (Docker's `--ip-range`); explicit requests may be for
    /// any. `None`, the default, is the whole subnet.
    pub range: Option<IpNet>,
    /// Addresses that are used otherwise (Docker's `--aux-address`, or whole ranges); nobody gets one of them. They are
    /// kept as ranges, so that a large one costs no more than a single address.
    pub excluded: Vec<IpNet>,
    /// In which order addresses are chosen.
    pub order: Order,
    /// How long a released address rests.
    pub quarantine: Quarantine,
}

impl SubnetConfig {
    /// Makes the default configuration: first usable address for the gateway, no exclusions, next-fit, quarantine.
    pub fn new(prefix: IpNet) -> Self {
        Self {
            prefix,
            gateway: None,
            reserve_gateway: true,
            range: None,
            excluded: Vec::new(),
            order: Order::default(),
            quarantine: Quarantine::default(),
        }
    }

    pub(super) fn digest(&self) -> u64 {
        let gateway = self.gateway.map(IpNet::from);
        let mut digest = Block::new(self.prefix).digest(Digest::new(LABEL));
        for part in [gateway, self.range] {
            digest = digest.word(part.is_some().into());
            digest = part.map_or(digest, |part| Block::new(part).digest(digest));
        }
        for excluded in &self.excluded {
            digest = Block::new(*excluded).digest(digest);
        }
        let order = match self.order {
            Order::NextFit => 0,
            Order::FirstFit => 1,
        };
        digest = digest.word(order).word(self.reserve_gateway.into());
        let Quarantine {
            indexes,
            addresses_max,
        } = self.quarantine;
        digest.word(indexes).word(addresses_max.into()).finish()
    }
}

/// In which order addresses are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The first free one behind the address chosen last, from the start again at the end: swarm mode's serial order.
    #[default]
    NextFit,
    /// The lowest free one.
    FirstFit,
}

/// How long a released address rests before others may get it.
///
/// A resting address is chosen when no other is free, the one released first before the others. Time is the index of
/// the log (or any other count that the embedder's commands carry), because replicas have no common clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// For how many indexes an address rests. The default is for ever: until nothing else is free. Zero switches it off.
    pub indexes: u64,
    /// How many addresses rest at once; beyond, the one released first is free again. 65,536 by default, which takes
    /// some 5 MB when reached.
    pub addresses_max: u32,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            indexes: u64::MAX,
            addresses_max: 65_536,
        }
    }
}

/// The subnet makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubnetError {
    /// A prefix has bits set behind its length.
    #[error("invalid subnet {prefix}: it should be {expected}")]
    HostBits {
        /// The prefix.
        prefix: IpNet,
        /// The network that it lies in.
        expected: IpNet,
    },
    /// The gateway is not in the subnet.
    #[error("subnet {prefix} does not contain gateway {gateway}")]
    GatewayOutside {
        /// The subnet.
        prefix: IpNet,
        /// The gateway.
        gateway: IpAddr,
    },
    /// The gateway has an address that no host may have.
    #[error("gateway {gateway} is the {reserved} of subnet {prefix}")]
    GatewayReserved {
        /// The subnet.
        prefix: IpNet,
        /// The gateway.
        gateway: IpAddr,
        /// What the address is.
        reserved: Reserved,
    },
    /// The range is not in the subnet.
    #[error("subnet {prefix} does not contain range {range}")]
    RangeOutside {
        /// The subnet.
        prefix: IpNet,
        /// The range.
        range: IpNet,
    },
    /// An excluded address is not in the subnet.
    #[error("subnet {prefix} does not contain {excluded}")]
    ExcludedOutside {
        /// The subnet.
        prefix: IpNet,
        /// The excluded addresses.
        excluded: IpNet,
    },
}

/// Why nobody gets an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reserved {
    /// The first address of an IPv4 subnet.
    Network,
    /// The last address of an IPv4 subnet.
    Broadcast,
    /// The first address of an IPv6 subnet: the routers' anycast address (RFC 4291 §2.6.1).
    RouterAnycast,
    /// The gateway.
    Gateway,
    /// Excluded by the configuration.
    Excluded,
}

impl std::fmt::Display for Reserved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Network => "network address",
            Self::Broadcast => "broadcast address",
            Self::RouterAnycast => "routers' anycast address",
            Self::Gateway => "gateway",
            Self::Excluded => "address excluded by configuration",
        })
    }
}

const LABEL: u64 = 0x7375_626e_6574;
