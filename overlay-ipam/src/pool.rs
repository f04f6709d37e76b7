//! Pools, and the subnets that are cut from them.

mod free;

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use self::free::Free;
use crate::{
    digest::Digest,
    prefix::{Block, Family},
};

/// The subnets of a cluster: cut from pools, or asked for by their prefix, never two that overlap.
///
/// A subnet of a pool is the lowest free block of its length, so what was released is given out again first, as Docker
/// does. Both indexes are ordered: the subnets by address, and what a pool has left as its largest aligned blocks.
#[derive(Clone, Debug)]
pub struct Pools {
    /// In the order of their addresses.
    pools: Vec<Pool>,
    allocated: BTreeMap<(Family, u128), Block>,
    /// Sum of the hashes of all allocated subnets.
    sum: u64,
}

#[derive(Clone, Debug)]
struct Pool {
    block: Block,
    split: u8,
    free: Free,
}

/// One range of addresses from which subnets are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolConfig {
    /// The range. Docker's default is 10.0.0.0/8.
    pub prefix: IpNet,
    /// Length of the subnets that are cut when none is asked for, in bits. At least that of the prefix; at most 29
    /// (IPv6: 125), because a network needs some addresses for itself. Docker's default is 24. Shorter wastes the
    /// pool, longer limits the endpoints of a network.
    pub split: u8,
}

/// Which subnet is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubnetRequest {
    /// One of the IPv4 pools' own length.
    Any,
    /// One of this length from the IPv4 pools: Docker's `0.0.0.0/26`.
    Length(u8),
    /// This very one; it need not lie in a pool.
    Exact(IpNet),
    /// One of the IPv6 pools' own length.
    AnyV6,
    /// One of this length from the IPv6 pools: `::/80`.
    LengthV6(u8),
}

impl SubnetRequest {
    /// Reads a prefix as Docker does: with the unspecified address it asks for any subnet of that length.
    pub fn from_prefix(prefix: IpNet) -> Self {
        match prefix {
            IpNet::V4(prefix) if prefix.addr().is_unspecified() => {
                Self::Length(prefix.prefix_len())
            }
            IpNet::V6(prefix) if prefix.addr().is_unspecified() => {
                Self::LengthV6(prefix.prefix_len())
            }
            IpNet::V4(_) | IpNet::V6(_) => Self::Exact(prefix),
        }
    }
}

impl Pools {
    /// Makes pools from which nothing is cut yet.
    ///
    /// # Errors
    ///
    /// See [`PoolConfigError`].
    pub fn new(configs: &[PoolConfig]) -> Result<Self, PoolConfigError> {
        let mut pools: Vec<Pool> = Vec::new();
        for PoolConfig { prefix, split } in configs.iter().copied() {
            let block = Block::new(prefix);
            if block.prefix() != prefix {
                return Err(PoolConfigError::HostBits {
                    prefix,
                    expected: block.prefix(),
                });
            }
            let split_max = block.family.bits() - 3;
            if split < block.length || split > split_max {
                return Err(PoolConfigError::Split {
                    prefix,
                    split,
                    split_max,
                });
            }
            if let Some(other) = pools.iter().find(|pool| pool.block.overlaps(block)) {
                return Err(PoolConfigError::Overlap {
                    prefix,
                    with: other.block.prefix(),
                });
            }
            pools.push(Pool {
                block,
                split,
                free: Free::new(block),
            });
        }
        pools.sort_by_key(|pool| pool.block);
        Ok(Self {
            pools,
            allocated: BTreeMap::new(),
            sum: 0,
        })
    }

    /// Makes Docker's default pool of overlay networks: 10.0.0.0/8 in subnets of length 24.
    pub fn docker_default() -> Self {
        let prefix = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8).into();
        let block = Block::new(prefix);
        let free = Free::new(block);
        let pools = vec![Pool {
            block,
            split: 24,
            free,
        }];
        Self {
            pools,
            allocated: BTreeMap::new(),
            sum: 0,
        }
    }

    /// Cuts or takes a subnet.
    ///
    /// `foreign` are prefixes that are used elsewhere (host routes, other networks): subnets that overlap one are not
    /// chosen, and refused when asked for. They are not remembered.
    ///
    /// # Errors
    ///
    /// See [`PoolError`]; nothing changes.
    pub fn allocate(
        &mut self,
        request: SubnetRequest,
        foreign: &[IpNet],
    ) -> Result<IpNet, PoolError> {
        let block = match request {
            SubnetRequest::Any => self.choose(Family::V4, None, foreign)?,
            SubnetRequest::Length(length) => self.choose(Family::V4, Some(length), foreign)?,
            SubnetRequest::AnyV6 => self.choose(Family::V6, None, foreign)?,
            SubnetRequest::LengthV6(length) => self.choose(Family::V6, Some(length), foreign)?,
            SubnetRequest::Exact(prefix) => self.check(prefix, foreign)?,
        };
        for pool in &mut self.pools {
            if pool.block.overlaps(block) {
                pool.free.take(block);
            }
        }
        self.allocated.insert((block.family, block.base), block);
        self.sum = self.sum.wrapping_add(hash(block));
        Ok(block.prefix())
    }

    /// Takes a subnet back, as a whole.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotAllocated`]; nothing changes.
    pub fn release(&mut self, prefix: IpNet) -> Result<(), PoolError> {
        let block = Block::new(prefix);
        let key = (block.family, block.base);
        if block.prefix() != prefix || self.allocated.get(&key) != Some(&block) {
            return Err(PoolError::NotAllocated { prefix });
        }
        self.allocated.remove(&key);
        self.sum = self.sum.wrapping_sub(hash(block));
        for pool in &mut self.pools {
            if pool.block.overlaps(block) {
                pool.free.put(block);
            }
        }
        Ok(())
    }

    /// Returns the subnets that are allocated, IPv4 first, by address.
    pub fn allocated(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.allocated.values().map(|block| block.prefix())
    }

    /// Returns the pools, IPv4 first, by address.
    pub fn pools(&self) -> impl Iterator<Item = PoolConfig> + '_ {
        let config = |pool: &Pool| PoolConfig {
            prefix: pool.block.prefix(),
            split: pool.split,
        };
        self.pools.iter().map(config)
    }

    /// Returns the first allocated subnet that overlaps `prefix`.
    pub fn overlapping(&self, prefix: IpNet) -> Option<IpNet> {
        let block = Block::new(prefix);
        // Allocated subnets are disjoint: at most one starts before the block and reaches into it.
        let before = self
            .allocated
            .range(..=(block.family, block.base))
            .next_back();
        let within = self.allocated.range((block.family, block.base)..).next();
        let found = before.into_iter().chain(within).map(|(_, other)| *other);
        found
            .filter(|other| other.overlaps(block))
            .map(Block::prefix)
            .next()
    }

    /// Returns how many subnets are allocated.
    pub fn len(&self) -> usize {
        self.allocated.len()
    }

    /// Returns true if no subnet is allocated.
    pub fn is_empty(&self) -> bool {
        self.allocated.is_empty()
    }

    /// Returns a hash of the whole state: equal on all replicas that applied the same requests.
    pub fn state_hash(&self) -> u64 {
        let digest = Digest::new(LABEL).word(self.sum);
        let pools = self.pools.iter();
        pools
            .fold(digest, |digest, pool| {
                pool.block.digest(digest).word(pool.split.into())
            })
            .finish()
    }

    fn choose(
        &self,
        family: Family,
        length: Option<u8>,
        foreign: &[IpNet],
    ) -> Result<Block, PoolError> {
        let foreign = merge(family, foreign);
        let (mut possible, mut shortest) = (false, None);
        for pool in self.pools.iter().filter(|pool| pool.block.family == family) {
            let length = length.unwrap_or(pool.split);
            shortest = shortest
                .min(Some(pool.block.length))
                .or(Some(pool.block.length));
            if length < pool.block.length || length > family.bits() {
                continue;
            }
            possible = true;
            if let Some(block) = pool.free.lowest(length, &foreign) {
                return Ok(block);
            }
        }
        match (length, shortest) {
            (_, None) => Err(PoolError::NoPool),
            (Some(length), Some(shortest)) if !possible => Err(PoolError::Length {
                length,
                shortest,
                longest: family.bits(),
            }),
            _ => Err(PoolError::Exhausted {
                allocated: self.allocated.len(),
                foreign: foreign.len(),
            }),
        }
    }

    fn check(&self, prefix: IpNet, foreign: &[IpNet]) -> Result<Block, PoolError> {
        let block = Block::new(prefix);
        if block.prefix() != prefix {
            return Err(PoolError::HostBits {
                prefix,
                expected: block.prefix(),
            });
        }
        if let Some(with) = self.overlapping(prefix) {
            return Err(PoolError::Overlap { prefix, with });
        }
        match foreign
            .iter()
            .find(|other| Block::new(**other).overlaps(block))
        {
            Some(with) => Err(PoolError::Foreign {
                prefix,
                with: *with,
            }),
            None => Ok(block),
        }
    }
}

/// Compares the pools and what is allocated.
impl PartialEq for Pools {
    fn eq(&self, other: &Self) -> bool {
        self.pools().eq(other.pools()) && self.allocated.values().eq(other.allocated.values())
    }
}

impl Eq for Pools {}

/// The pools make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PoolConfigError {
    /// The prefix has bits set behind its length.
    #[error("invalid pool {prefix}: it should be {expected}")]
    HostBits {
        /// The prefix.
        prefix: IpNet,
        /// The network that it lies in.
        expected: IpNet,
    },
    /// The length of the subnets is out of range.
    #[error("subnets of length {split} from pool {prefix}: expected {} to {split_max}", prefix.prefix_len())]
    Split {
        /// The pool.
        prefix: IpNet,
        /// The length that was asked for.
        split: u8,
        /// The largest length that is allowed.
        split_max: u8,
    },
    /// Two pools share addresses.
    #[error("pool {prefix} overlaps pool {with}")]
    Overlap {
        /// The pool.
        prefix: IpNet,
        /// The one before it.
        with: IpNet,
    },
}

/// A subnet could not be given out or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The prefix has bits set behind its length.
    #[error("invalid subnet {prefix}: it should be {expected}")]
    HostBits {
        /// The prefix.
        prefix: IpNet,
        /// The network that it lies in.
        expected: IpNet,
    },
    /// The subnet shares addresses with an allocated one.
    #[error("subnet {prefix} overlaps subnet {with}")]
    Overlap {
        /// The subnet that was asked for.
        prefix: IpNet,
        /// The allocated one.
        with: IpNet,
    },
    /// The subnet shares addresses with a prefix that is used elsewhere.
    #[error("subnet {prefix} overlaps {with}, which a node uses")]
    Foreign {
        /// The subnet that was asked for.
        prefix: IpNet,
        /// The prefix used elsewhere.
        with: IpNet,
    },
    /// No pool can ever have a subnet of this length.
    #[error("no pool has subnets of length {length}: expected {shortest} to {longest}")]
    Length {
        /// The length that was asked for.
        length: u8,
        /// The length of the largest pool.
        shortest: u8,
        /// The length of an address.
        longest: u8,
    },
    /// There is no pool of this address family.
    #[error("no address pool of this family")]
    NoPool,
    /// All pools are full.
    #[error(
        "all address pools have been fully subnetted ({allocated} subnets, {foreign} foreign ranges)"
    )]
    Exhausted {
        /// How many subnets are allocated.
        allocated: usize,
        /// How many separate foreign ranges were left out.
        foreign: usize,
    },
    /// This subnet is not allocated.
    #[error("subnet {prefix} is not allocated")]
    NotAllocated {
        /// The subnet.
        prefix: IpNet,
    },
}

/// Versions are appended, never changed.
#[derive(Serialize, Deserialize)]
enum Snapshot {
    V1 {
        pools: Vec<PoolConfig>,
        allocated: Vec<IpNet>,
    },
}

impl Serialize for Pools {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (pools, allocated) = (self.pools().collect(), self.allocated().collect());
        Snapshot::V1 { pools, allocated }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Pools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Snapshot::V1 { pools, allocated } = Snapshot::deserialize(deserializer)?;
        let mut pools = Self::new(&pools).map_err(de::Error::custom)?;
        for prefix in allocated {
            let request = SubnetRequest::Exact(prefix);
            pools.allocate(request, &[]).map_err(de::Error::custom)?;
        }
        Ok(pools)
    }
}

/// Turns prefixes of one family into ascending, disjoint ranges that do not touch.
fn merge(family: Family, prefixes: &[IpNet]) -> Vec<(u128, u128)> {
    let blocks = prefixes.iter().map(|prefix| Block::new(*prefix));
    let mut ranges: Vec<_> = blocks
        .filter(|block| block.family == family)
        .map(|block| (block.base, block.last()))
        .collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let joined = next.0 <= before.1.saturating_add(1);
        if joined {
            before.1 = before.1.max(next.1);
        }
        joined
    });
    ranges
}

fn hash(block: Block) -> u64 {
    block.digest(Digest::new(LABEL)).finish()
}

const LABEL: u64 = 0x706f_6f6c;
