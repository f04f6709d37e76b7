use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use overlay_ipam::{
    AllocateError, Lease, Order, OwnerId, Quarantine, ReleaseError, Subnet, SubnetConfig,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::stored;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Allocate(u8),
    Reserve(u8, i16),
    ReleaseOwner(u8),
    /// The address, and how much older than the lease the generation is.
    Release(i16, u64),
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let op = prop_oneof![
        6 => (0_u8..40).prop_map(Op::Allocate),
        2 => (0_u8..40, -2_i16..40).prop_map(|(owner, at)| Op::Reserve(owner, at)),
        3 => (0_u8..40).prop_map(Op::ReleaseOwner),
        3 => (-1_i16..40, 0_u64..2).prop_map(|(at, age)| Op::Release(at, age)),
    ];
    // Indexes mostly ascend.
    vec(
        (prop_oneof![9 => 0_u64..3, 1 => Just(u64::MAX)], op),
        0..120,
    )
}

pub(crate) fn config() -> impl Strategy<Value = SubnetConfig> {
    let prefix = select(
        &[
            "10.0.0.0/28",
            "10.0.0.32/27",
            "10.0.0.2/31",
            "10.0.0.7/32",
            "255.255.255.248/29",
            "fd00::/123",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124",
            "fd00::6/127",
        ][..],
    );
    let prefix = prefix.prop_map(|text| text.parse::<IpNet>().expect("a prefix"));
    let part = (0_u128..40, 0_u8..5);
    let shape = (
        option::of(0_i16..20),
        any::<bool>(),
        option::of(part.clone()),
        vec(part, 0..3),
    );
    let order = prop_oneof![Just(Order::NextFit), Just(Order::FirstFit)];
    let rest = (
        prop_oneof![Just(u64::MAX), 0_u64..6],
        prop_oneof![Just(65_536), 0_u32..4],
    );
    (prefix, shape, order, rest).prop_map(|(prefix, shape, order, (indexes, addresses_max))| {
        let (gateway, reserve_gateway, range, excluded) = shape;
        let part = |(at, wider)| inner(prefix, at, wider);
        SubnetConfig {
            prefix,
            gateway: gateway.map(|at| address(prefix, at)),
            reserve_gateway,
            range: range.map(part),
            excluded: excluded.into_iter().map(part).collect(),
            order,
            quarantine: Quarantine {
                indexes,
                addresses_max,
            },
        }
    })
}

/// Linear scans over all addresses of a small subnet.
struct Model {
    config: SubnetConfig,
    /// Which addresses may be held, and whether they may be chosen.
    usable: BTreeMap<IpAddr, bool>,
    held: BTreeMap<IpAddr, (OwnerId, u64)>,
    resting: Vec<(IpAddr, u64)>,
    cursor: Option<IpAddr>,
    generation: u64,
    index: u64,
}

impl Model {
    fn new(config: SubnetConfig, gateway: Option<IpAddr>) -> Self {
        let (prefix, all) = (config.prefix, addresses(config.prefix));
        let usable = all.iter().copied().filter(|address| {
            let edge = all.len() > 2
                && (*address == prefix.network()
                    || prefix.addr().is_ipv4() && *address == prefix.broadcast());
            !edge
                && gateway != Some(*address)
                && !config.excluded.iter().any(|net| net.contains(address))
        });
        let range = config.range.unwrap_or(prefix);
        let usable = usable
            .map(|address| (address, range.contains(&address)))
            .collect();
        Self {
            config,
            usable,
            held: BTreeMap::new(),
            resting: Vec::new(),
            cursor: None,
            generation: 0,
            index: 0,
        }
    }

    fn pass(&mut self, index: u64) {
        self.index = self.index.max(index);
        let Quarantine {
            indexes,
            addresses_max,
        } = self.config.quarantine;
        let now = self.index;
        self.resting
            .retain(|(_, released)| now - released < indexes);
        let over = self.resting.len().saturating_sub(addresses_max as usize);
        self.resting.drain(..over);
    }

    fn holds(&self, owner: OwnerId) -> Option<Lease> {
        let (address, (owner, generation)) =
            self.held.iter().find(|(_, (other, _))| *other == owner)?;
        Some(Lease {
            address: *address,
            owner: *owner,
            generation: *generation,
        })
    }

    fn give(&mut self, owner: OwnerId, address: IpAddr) -> Lease {
        self.generation += 1;
        self.resting.retain(|(other, _)| *other != address);
        self.held.insert(address, (owner, self.generation));
        Lease {
            address,
            owner,
            generation: self.generation,
        }
    }

    fn allocate(&mut self, owner: OwnerId, index: u64) -> Option<Lease> {
        let held = self.holds(owner);
        let full =
            |(address, dynamic): (&IpAddr, &bool)| !dynamic || self.held.contains_key(address);
        if held.is_none() && self.usable.iter().all(full) {
            return None;
        }
        self.pass(index);
        if held.is_some() {
            return held;
        }
        let free = |address: &IpAddr| {
            !self.held.contains_key(address)
                && !self.resting.iter().any(|(other, _)| other == address)
        };
        let choice = self
            .usable
            .iter()
            .filter(|(_, dynamic)| **dynamic)
            .map(|(address, _)| *address);
        let mut choice: Vec<_> = choice.filter(free).collect();
        if let (Order::NextFit, Some(cursor)) = (self.config.order, self.cursor) {
            choice.sort_by_key(|address| (*address <= cursor, *address));
        }
        let oldest = self.resting.first().map(|(address, _)| *address);
        let found = choice.first().copied().or(oldest)?;
        self.cursor = Some(found);
        Some(self.give(owner, found))
    }

    fn release(&mut self, lease: Lease, index: u64) {
        self.pass(index);
        self.held.remove(&lease.address);
        if self.usable[&lease.address] {
            self.resting.push((lease.address, self.index));
        }
        self.pass(self.index);
    }
}

/// Runs one operation on both; returns what the subnet said.
fn run(op: &Op, index: u64, subnet: &mut Subnet, model: &mut Model) -> Option<Lease> {
    let prefix = model.config.prefix;
    match *op {
        Op::Allocate(owner) => {
            let result = subnet.allocate(own(owner), index);
            assert_eq!(result.ok(), model.allocate(own(owner), index), "{result:?}");
            result.ok()
        }
        Op::Reserve(owner, at) => {
            let (owner, address) = (own(owner), address(prefix, at));
            let result = subnet.reserve(owner, address, index);
            match result {
                Ok(lease) => {
                    model.pass(index);
                    let held = model.holds(owner).filter(|lease| lease.address == address);
                    assert!(!model.held.contains_key(&address) || held.is_some());
                    assert!(model.usable.contains_key(&address));
                    let expected = held.unwrap_or_else(|| model.give(owner, address));
                    assert_eq!(lease, expected);
                }
                Err(AllocateError::Taken { owner: other, .. }) => {
                    assert_eq!(model.held[&address].0, other);
                    assert_ne!(other, owner);
                }
                Err(AllocateError::OwnerHolds { address: other, .. }) => {
                    assert_eq!(model.holds(owner).map(|lease| lease.address), Some(other));
                    assert_ne!(other, address);
                }
                Err(AllocateError::Reserved { reserved, .. }) => {
                    assert!(prefix.contains(&address) && !model.usable.contains_key(&address));
                    assert_eq!(subnet.reserved(address), Some(reserved));
                }
                Err(AllocateError::Outside { .. }) => assert!(!prefix.contains(&address)),
                Err(error) => unreachable!("{error}"),
            }
            result.ok()
        }
        Op::ReleaseOwner(owner) => {
            let lease = subnet.release_owner(own(owner), index);
            assert_eq!(lease, model.holds(own(owner)));
            lease.inspect(|lease| model.release(*lease, index))
        }
        Op::Release(at, age) => {
            let address = address(prefix, at);
            let current = model.held.get(&address).map_or(1, |held| held.1);
            let generation = current.wrapping_sub(age);
            let result = subnet.release(address, generation, index);
            let held = model.held.get(&address).copied();
            let expected = match held {
                None => Err(ReleaseError::Free { address }),
                Some((owner, current)) if current == generation => Ok(Lease {
                    address,
                    owner,
                    generation,
                }),
                Some(_) => Err(ReleaseError::Stale {
                    address,
                    generation,
                    current,
                }),
            };
            assert_eq!(result, expected);
            result.ok().inspect(|lease| model.release(*lease, index))
        }
    }
}

fn compare(subnet: &Subnet, model: &Model) {
    let held = model
        .held
        .iter()
        .map(|(address, (owner, generation))| Lease {
            address: *address,
            owner: *owner,
            generation: *generation,
        });
    assert!(subnet.leases().eq(held));
    let dynamic = model.usable.values().filter(|dynamic| **dynamic).count();
    let chosen = model
        .held
        .keys()
        .filter(|address| model.usable[*address])
        .count();
    let usage = subnet.usage();
    assert_eq!(usage.capacity, dynamic as u128);
    assert_eq!(usage.chosen, chosen as u128);
    assert_eq!(usage.explicit, (model.held.len() - chosen) as u128);
    assert_eq!(usage.resting, model.resting.len() as u128);
    assert_eq!(
        (subnet.available(), subnet.used()),
        ((dynamic - chosen) as u128, model.held.len())
    );
    for address in addresses(model.config.prefix) {
        assert_eq!(
            subnet.owner(address),
            model.held.get(&address).map(|held| held.0)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn a_subnet_is_a_list_of_leases(config in config(), ops in ops(), cut in 0_usize..120, live in 0_u8..40) {
        let Ok(mut subnet) = Subnet::new(config.clone()) else {
            return Err(TestCaseError::reject("not a valid subnet"));
        };
        let mut model = Model::new(config.clone(), subnet.gateway());
        let mut restored = None;
        let mut now = 0_u64;
        for (nth, (step, op)) in ops.iter().enumerate() {
            if nth == cut {
                restored = Some(stored(&subnet));
            }
            // The largest step stands for an index from the past.
            let index = if *step == u64::MAX { 0 } else { now + step };
            now = now.max(index);
            let said = run(op, index, &mut subnet, &mut model);
            compare(&subnet, &model);
            // A replica that was restored in between says the same.
            if let Some(restored) = &mut restored {
                prop_assert_eq!(replay(op, index, restored), said);
                prop_assert_eq!(restored.state_hash(), subnet.state_hash());
            }
        }
        // So does one that replays everything.
        let (mut replica, mut now) = (Subnet::new(config).unwrap(), 0_u64);
        for (step, op) in &ops {
            let index = if *step == u64::MAX { 0 } else { now + step };
            now = now.max(index);
            replay(op, index, &mut replica);
        }
        prop_assert_eq!(replica.state_hash(), subnet.state_hash());
        prop_assert_eq!(&replica, &subnet);
        prop_assert_eq!(stored(&subnet).state_hash(), subnet.state_hash());
        prop_assert_eq!(&stored(&subnet), &subnet);
        let live: BTreeSet<_> = (0..live).map(own).collect();
        let audit = subnet.audit(&live);
        prop_assert!(audit.orphaned.iter().copied().eq(subnet.leases().filter(|lease| !live.contains(&lease.owner))));
        let missing = live.iter().copied().filter(|owner| subnet.lease_of(*owner).is_none());
        prop_assert!(audit.missing.into_iter().eq(missing));
    }
}

pub(crate) fn replay(op: &Op, index: u64, subnet: &mut Subnet) -> Option<Lease> {
    let prefix = subnet.prefix();
    match *op {
        Op::Allocate(owner) => subnet.allocate(own(owner), index).ok(),
        Op::Reserve(owner, at) => subnet.reserve(own(owner), address(prefix, at), index).ok(),
        Op::ReleaseOwner(owner) => subnet.release_owner(own(owner), index),
        Op::Release(at, age) => {
            let address = address(prefix, at);
            let lease = subnet.leases().find(|lease| lease.address == address);
            let current = lease.map_or(1, |lease| lease.generation);
            subnet
                .release(address, current.wrapping_sub(age), index)
                .ok()
        }
    }
}

fn own(number: u8) -> OwnerId {
    OwnerId::from_bytes([number; 16])
}

fn address(prefix: IpNet, at: i16) -> IpAddr {
    match prefix.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add_signed(at.into())).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add_signed(at.into())).into(),
    }
}

fn addresses(prefix: IpNet) -> Vec<IpAddr> {
    let mut all = vec![prefix.network()];
    while let Some(last) = all.last().filter(|last| **last != prefix.broadcast()) {
        all.push(match last {
            IpAddr::V4(last) => Ipv4Addr::from(u32::from(*last) + 1).into(),
            IpAddr::V6(last) => Ipv6Addr::from(u128::from(*last) + 1).into(),
        });
    }
    all
}

/// A part of the subnet, or something beside it.
fn inner(prefix: IpNet, at: u128, wider: u8) -> IpNet {
    let base = address(prefix, i16::try_from(at).expect("small"));
    let length = prefix.max_prefix_len() - wider;
    IpNet::new(base, length).expect("at most the whole").trunc()
}
