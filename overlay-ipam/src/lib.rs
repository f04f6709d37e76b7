//! Subnets from pools, addresses from subnets, owners and quarantine.
//!
//! [`Pools`] cut subnets that never overlap; a [`Subnet`] gives addresses to owners; [`Subnets`] are several of one
//! address family, which grow by one more, and [`NetworkAddresses`] those of both families; [`VniAllocator`] numbers
//! networks. All are plain data for a replicated state: no clock, no randomness, no hash order. The same requests in the
//! same order make the same state on every replica, [`state_hash`](Subnet::state_hash) proves it, and serde stores it
//! (a versioned form, checked when read).
//!
//! It does not talk to anybody: it neither asks hosts for their routes (the caller hands these in as foreign prefixes)
//! nor probes whether an address answers, and it does not program interfaces.
//!
//! ```
//! use overlay_ipam::{OwnerId, Pools, Subnet, SubnetConfig, SubnetRequest, VniAllocator};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (mut pools, mut vnis) = (Pools::docker_default(), VniAllocator::new());
//! let prefix = pools.allocate(SubnetRequest::Any, &[])?;
//! assert_eq!((prefix.to_string(), vnis.allocate()?.get()), ("10.0.0.0/24".into(), 4096));
//!
//! let mut subnet = Subnet::new(SubnetConfig::new(prefix))?;
//! let (web, index) = (OwnerId::from_bytes([1; 16]), 17); // the index of the command in the replicated log
//! let lease = subnet.allocate(web, index)?;
//! assert_eq!(lease.address.to_string(), "10.0.0.2"); // .1 is the gateway's
//! assert_eq!(subnet.allocate(web, index + 1)?, lease); // a repeated request gets the same
//!
//! subnet.release(lease.address, lease.generation, index + 2)?;
//! assert!(subnet.release(lease.address, lease.generation, index + 3).is_err()); // a repeated release takes nothing
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `pool` | [`Pools`]: subnets from pools |
//! | `subnet` | [`Subnet`]: addresses and their owners; [`Usage`]: counts and forecast |
//! | `subnets` | [`Subnets`]: several subnets of one network and family |
//! | `network` | [`NetworkAddresses`]: those of both families |
//! | `set` | [`AddressSet`]: which addresses are taken, and the next that is not |
//! | `vni` | [`VniAllocator`]: VXLAN network identifiers |
//! | `owner` | [`OwnerId`] |
//! | `prefix`, `digest` | arithmetic of both address families; the hash of states |

#![forbid(unsafe_code)]

mod digest;
mod network;
mod owner;
mod pool;
mod prefix;
mod set;
mod subnet;
mod subnets;
mod vni;

pub use network::{Leases, NetworkAddresses};
pub use owner::OwnerId;
pub use pool::{PoolConfig, PoolConfigError, PoolError, Pools, SubnetRequest};
pub use set::AddressSet;
pub use subnet::{
    AllocateError, Audit, Lease, Order, Quarantine, ReleaseError, Reserved, Subnet, SubnetConfig,
    SubnetError, Usage,
};
pub use subnets::{Subnets, SubnetsError};
pub use vni::{VniAllocator, VniError};
