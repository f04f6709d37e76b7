//! States in which something was given out.

use overlay_fuzz::Script;
use overlay_ipam::{
    AddressSet, NetworkAddresses, OwnerId, PoolConfig, Pools, Subnet, SubnetConfig, SubnetRequest,
    Subnets, VniAllocator,
};
use serde::Serialize;

use crate::{Seed, seed};

fn state(name: &str, kind: u8, operations: &[u8], value: &impl Serialize) -> Seed {
    let octets = postcard::to_allocvec(value).expect("a state serializes");
    seed(
        name,
        Script::new()
            .op(&[kind])
            .bytes(operations)
            .op(&octets)
            .done(),
    )
}

fn subnet(prefix: &str, owners: u8) -> Subnet {
    let prefix = prefix.parse().expect("a prefix");
    let mut subnet = Subnet::new(SubnetConfig::new(prefix)).expect("a good subnet");
    for owner in 0..owners {
        let _ = subnet.allocate(OwnerId::from_bytes([owner; 16]), u64::from(owner));
    }
    subnet.release_owner(OwnerId::from_bytes([1; 16]), u64::from(owners));
    subnet
}

pub(crate) fn states() -> Vec<Seed> {
    let operations = [1, 2, 0, 9, 1, 0, 3, 1, 2, 9, 0, 3, 200, 1, 1];
    let mut dense = AddressSet::new(70_000);
    let mut sparse = AddressSet::new(u128::MAX);
    for number in (0..5_000).chain([6_000, 9_000, 70_000]) {
        dense.insert(number);
        sparse.insert(number << 3);
    }
    let pool = |prefix: &str, split| {
        let prefix = prefix.parse().expect("a prefix");
        PoolConfig { prefix, split }
    };
    let mut pools =
        Pools::new(&[pool("10.0.0.0/8", 24), pool("fd00::/48", 64)]).expect("good pools");
    for _ in 0..3 {
        let _ = pools.allocate(SubnetRequest::Any, &[]);
        let _ = pools.allocate(SubnetRequest::AnyV6, &[]);
    }
    let mut vnis = VniAllocator::new();
    for _ in 0..3 {
        let _ = vnis.allocate();
    }
    let mut subnets = Subnets::new();
    for prefix in ["10.0.1.0/29", "10.0.2.0/30"] {
        let prefix = prefix.parse().expect("a prefix");
        subnets
            .add(SubnetConfig::new(prefix))
            .expect("a good subnet");
    }
    for owner in 0..9 {
        let _ = subnets.allocate(OwnerId::from_bytes([owner; 16]), u64::from(owner));
    }
    let mut network = NetworkAddresses::new();
    for prefix in ["10.0.1.0/29", "fd00::/126", "10.0.2.0/29"] {
        let prefix = prefix.parse().expect("a prefix");
        network
            .add(SubnetConfig::new(prefix))
            .expect("a good subnet");
    }
    for owner in 0..3 {
        let _ = network.allocate(OwnerId::from_bytes([owner; 16]), &[], u64::from(owner));
    }
    vec![
        state("network", 5, &operations, &network),
        state("subnet-24", 0, &operations, &subnet("10.0.1.0/24", 5)),
        state("subnet-31", 0, &operations, &subnet("10.0.1.0/31", 2)),
        state("subnet-v6", 0, &operations, &subnet("fd00::/64", 9)),
        state("set-dense", 1, &operations, &dense),
        state("set-sparse", 1, &operations, &sparse),
        state(
            "pools",
            2,
            &[1, 0, 28, 1, 3, 2, 80, 3, 5, 4, 16, 0, 5],
            &pools,
        ),
        state("vnis", 3, &[1, 2, 0, 16, 1, 1, 16, 1, 2], &vnis),
        state("subnets", 4, &operations, &subnets),
    ]
}
