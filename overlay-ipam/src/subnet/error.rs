//! Why an address was not given out or taken back.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

use super::{Reserved, Usage};
use crate::OwnerId;

/// An address could not be given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllocateError {
    /// All addresses that may be chosen are held.
    #[error("no available addresses in {prefix}: {} of {} are in use", usage.chosen, usage.capacity)]
    Exhausted {
        /// The subnet.
        prefix: IpNet,
        /// The counts.
        usage: Usage,
    },
    /// The network has no subnet.
    #[error("the network has no subnet")]
    NoSubnet,
    /// Somebody else holds the address.
    #[error("address {address} is already in use by {owner}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who holds it.
        owner: OwnerId,
    },
    /// The owner holds another address of this subnet.
    #[error("{owner} holds {address} already")]
    OwnerHolds {
        /// The owner.
        owner: OwnerId,
        /// The address that it holds.
        address: IpAddr,
    },
    /// Two addresses of one family were asked for.
    #[error("{address} and {other} are of one address family: an owner gets one of each")]
    TwoOfAFamily {
        /// The second one.
        address: IpAddr,
        /// The first one.
        other: IpAddr,
    },
    /// Nobody gets this address.
    #[error("address {address} is not given out: it is the {reserved}")]
    Reserved {
        /// The address.
        address: IpAddr,
        /// Why not.
        reserved: Reserved,
    },
    /// The address is not in the subnet.
    #[error("requested address {address} is out of range: the subnet is {prefix}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The subnet.
        prefix: IpNet,
    },
}

/// An address could not be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nobody holds the address.
    #[error("address {address} is not in use")]
    Free {
        /// The address.
        address: IpAddr,
    },
    /// The address has been given out anew since.
    #[error("address {address} has generation {current}, not {generation}")]
    Stale {
        /// The address.
        address: IpAddr,
        /// The generation of the release.
        generation: u64,
        /// The generation of the lease.
        current: u64,
    },
}
