//! Several subnets of one network, against a list of leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_ipam::{
    AllocateError, Lease, OwnerId, Quarantine, ReleaseError, Subnet, SubnetConfig, Subnets,
    SubnetsError, Usage,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::stored;

#[derive(Clone, Debug)]
enum Op {
    Add(&'static str),
    Remove(&'static str),
    Allocate(u8),
    Reserve(u8, u8),
    ReleaseOwner(u8),
    Release(u8, u64),
}

/// Two of them overlap, one is of the other family.
const PREFIXES: [&str; 5] = [
    "10.0.0.0/29",
    "10.0.0.8/29",
    "10.0.0.16/28",
    "10.0.0.16/30",
    "fd00::/125",
];

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => select(&PREFIXES[..]).prop_map(Op::Add),
        1 => select(&PREFIXES[..]).prop_map(Op::Remove),
        8 => (0_u8..40).prop_map(Op::Allocate),
        3 => (0_u8..40, 0_u8..36).prop_map(|(owner, last)| Op::Reserve(owner, last)),
        3 => (0_u8..40).prop_map(Op::ReleaseOwner),
        2 => (0_u8..36, 0_u64..3).prop_map(|(last, age)| Op::Release(last, age)),
    ]
}

fn owner(nth: u8) -> OwnerId {
    OwnerId::from_bytes([nth; 16])
}

fn config(prefix: &str) -> SubnetConfig {
    SubnetConfig {
        quarantine: Quarantine {
            indexes: 9,
            addresses_max: 4,
        },
        ..SubnetConfig::new(prefix.parse().expect("a prefix"))
    }
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

/// Does what was asked on both; what is refused must leave the state as it was.
fn step(op: &Op, index: u64, subnets: &mut Subnets, held: &mut BTreeMap<OwnerId, Lease>) {
    let before = subnets.clone();
    let takes = |lease: Lease, held: &mut BTreeMap<OwnerId, Lease>| {
        let other = held.values().any(|other| other.address == lease.address);
        assert!(!other && subnets_cover(&before, lease.address));
        assert_eq!(held.insert(lease.owner, lease), None);
    };
    let refused = match *op {
        Op::Add(prefix) => add(prefix, subnets),
        Op::Remove(text) => {
            let prefix: IpNet = text.parse().expect("a prefix");
            let used = held.values().any(|lease| prefix.contains(&lease.address));
            let known = before.subnets().any(|subnet| subnet.prefix() == prefix);
            let result = subnets.remove(prefix);
            match (known, used) {
                (false, _) => assert_eq!(result, Err(SubnetsError::Unknown { prefix })),
                (true, true) => assert!(matches!(result, Err(SubnetsError::InUse { .. }))),
                (true, false) => assert_eq!(result, Ok(())),
            }
            result.is_err()
        }
        Op::Allocate(nth) => {
            let result = subnets.allocate(owner(nth), index);
            match (result, held.get(&owner(nth)).copied()) {
                (result, Some(lease)) => assert_eq!(result, Ok(lease)),
                (Ok(lease), None) => takes(lease, held),
                (Err(error), None) => {
                    assert_eq!(before.usage().available(), 0);
                    let empty = before.subnets().len() == 0;
                    assert_eq!(error == AllocateError::NoSubnet, empty);
                }
            }
            result.is_err()
        }
        Op::Reserve(nth, last) => reserve(nth, last, index, subnets, held),
        Op::ReleaseOwner(nth) => {
            let result = subnets.release_owner(owner(nth), index);
            assert_eq!(result, held.remove(&owner(nth)));
            result.is_none()
        }
        Op::Release(last, age) => {
            let known = held
                .values()
                .find(|lease| lease.address == address(last))
                .copied();
            let generation = known
                .map_or(1, |lease| lease.generation)
                .saturating_sub(age);
            let result = subnets.release(address(last), generation, index);
            match known {
                Some(lease) if lease.generation == generation => {
                    assert_eq!(result, Ok(lease));
                    held.remove(&lease.owner);
                }
                Some(_) => assert!(matches!(result, Err(ReleaseError::Stale { .. }))),
                None => assert!(matches!(result, Err(ReleaseError::Free { .. }))),
            }
            result.is_err()
        }
    };
    if refused {
        assert_eq!(
            (&*subnets, subnets.state_hash()),
            (&before, before.state_hash())
        );
    }
}

fn reserve(
    nth: u8,
    last: u8,
    index: u64,
    subnets: &mut Subnets,
    held: &mut BTreeMap<OwnerId, Lease>,
) -> bool {
    let result = subnets.reserve(owner(nth), address(last), index);
    let known = held.get(&owner(nth)).copied();
    let free = held.values().all(|lease| lease.address != address(last));
    match result {
        Ok(lease) if known == Some(lease) => {}
        Ok(lease) => {
            assert!(free && lease.address == address(last));
            assert_eq!(held.insert(lease.owner, lease), None);
        }
        Err(AllocateError::Taken { owner, .. }) => {
            assert_eq!(held[&owner].address, address(last));
        }
        Err(AllocateError::OwnerHolds { address, .. }) => {
            assert_eq!(known.map(|lease| lease.address), Some(address));
        }
        Err(AllocateError::Outside { .. } | AllocateError::NoSubnet) => {
            assert!(!subnets_cover(subnets, address(last)));
        }
        Err(AllocateError::Reserved { .. }) => assert!(free),
        Err(other) => unreachable!("{other:?}"),
    }
    result.is_err()
}

fn add(text: &str, subnets: &mut Subnets) -> bool {
    let prefix: IpNet = text.parse().expect("a prefix");
    let family = subnets
        .subnets()
        .all(|other| other.prefix().addr().is_ipv4() == prefix.addr().is_ipv4());
    let overlaps = |other: &Subnet| {
        other.prefix().contains(&prefix.addr()) || prefix.contains(&other.prefix().addr())
    };
    let with = subnets
        .subnets()
        .find(|other| overlaps(other))
        .map(Subnet::prefix);
    match (subnets.add(config(text)), with) {
        (Ok(subnet), None) => {
            assert_eq!(subnet.prefix(), prefix);
            false
        }
        (Err(SubnetsError::Family { .. }), _) => {
            assert!(!family);
            true
        }
        (Err(error), Some(with)) => {
            assert_eq!(error, SubnetsError::Overlap { prefix, with });
            true
        }
        other => unreachable!("{other:?}"),
    }
}

fn subnets_cover(subnets: &Subnets, address: IpAddr) -> bool {
    subnets
        .subnets()
        .any(|subnet| subnet.prefix().contains(&address))
}

proptest! {
    #[test]
    fn several_subnets_are_one_list_of_leases(ops in vec(op(), 0..120)) {
        let (mut subnets, mut held) = (Subnets::new(), BTreeMap::new());
        for (index, op) in (0..).zip(&ops) {
            step(op, index, &mut subnets, &mut held);
            let leases: BTreeMap<OwnerId, Lease> = subnets.leases().map(|lease| (lease.owner, lease)).collect();
            prop_assert_eq!(&leases, &held);
            prop_assert_eq!(subnets.leases().count(), held.len());
            let usage = subnets.usage();
            prop_assert_eq!(usage.chosen + usage.explicit, held.len() as u128);
            for lease in held.values() {
                prop_assert_eq!(subnets.lease_of(lease.owner), Some(*lease));
                prop_assert_eq!(subnets.owner(lease.address), Some(lease.owner));
            }
        }
        let restored: Subnets = stored(&subnets);
        prop_assert_eq!(restored.state_hash(), subnets.state_hash());
        prop_assert_eq!(restored, subnets);
    }
}

#[test]
fn a_full_network_grows_by_one_subnet_and_keeps_its_leases() {
    let mut subnets = Subnets::new();
    assert_eq!(subnets.allocate(owner(1), 0), Err(AllocateError::NoSubnet));
    subnets
        .add(SubnetConfig::new("10.0.0.0/29".parse().unwrap()))
        .unwrap();
    let first: Vec<_> = (1..=5)
        .map(|nth| subnets.allocate(owner(nth), 1).unwrap())
        .collect();
    let full = subnets.allocate(owner(6), 2).unwrap_err();
    assert_eq!(
        full.to_string(),
        "no available addresses in 10.0.0.0/29: 5 of 5 are in use"
    );
    let grown = "10.0.9.0/29".parse().unwrap();
    subnets.add(SubnetConfig::new(grown)).unwrap();
    let lease = subnets.allocate(owner(6), 3).unwrap();
    assert_eq!(lease.address.to_string(), "10.0.9.2");
    for (nth, lease) in (1..=5).zip(first) {
        assert_eq!(subnets.allocate(owner(nth), 4), Ok(lease));
    }
    // A service's static address in the second one, and an owner that has one elsewhere.
    let fixed = "10.0.9.5".parse().unwrap();
    assert_eq!(subnets.reserve(owner(9), fixed, 5).unwrap().address, fixed);
    let other = "10.0.9.6".parse().unwrap();
    let holds = AllocateError::OwnerHolds {
        owner: owner(1),
        address: "10.0.0.2".parse().unwrap(),
    };
    assert_eq!(subnets.reserve(owner(1), other, 6), Err(holds));
    let live: BTreeSet<_> = [1, 2, 3, 4, 6, 7].map(owner).into();
    let audit = subnets.audit(&live);
    assert_eq!(audit.missing, [owner(7)]);
    let orphaned: Vec<_> = audit.orphaned.iter().map(|lease| lease.owner).collect();
    assert_eq!(orphaned, [owner(5), owner(9)]);
    assert!(matches!(
        subnets.remove(grown),
        Err(SubnetsError::InUse { leases: 2, .. })
    ));
    subnets.release_owner(owner(6), 7).unwrap();
    subnets.release_owner(owner(9), 8).unwrap();
    assert_eq!(subnets.remove(grown), Ok(()));
}

#[test]
fn addresses_of_a_later_subnet_come_before_those_that_rest() {
    let mut subnets = Subnets::new();
    for prefix in ["10.0.0.0/29", "10.0.1.0/29"] {
        subnets
            .add(SubnetConfig::new(prefix.parse().unwrap()))
            .unwrap();
    }
    for nth in 1..=5 {
        subnets.allocate(owner(nth), 0).unwrap();
    }
    subnets.release_owner(owner(3), 1).unwrap();
    let lease = subnets.allocate(owner(6), 2).unwrap();
    assert_eq!(lease.address.to_string(), "10.0.1.2");
}

#[test]
fn a_stored_owner_of_two_subnets_is_refused() {
    let mut both = Vec::new();
    for prefix in ["10.0.0.0/29", "10.0.1.0/29"] {
        let mut subnet = Subnet::new(SubnetConfig::new(prefix.parse().unwrap())).unwrap();
        subnet.allocate(owner(1), 0).unwrap();
        both.push(subnet);
    }
    let bytes = |subnets: &[Subnet]| {
        let list = postcard::to_allocvec(subnets).unwrap();
        [vec![0], list].concat() // version 1
    };
    assert!(postcard::from_bytes::<Subnets>(&bytes(&both[..1])).is_ok());
    assert!(postcard::from_bytes::<Subnets>(&bytes(&both)).is_err());
    let twice = [
        both[0].clone(),
        Subnet::new(both[0].config().clone()).unwrap(),
    ];
    assert!(postcard::from_bytes::<Subnets>(&bytes(&twice)).is_err());
}

#[test]
fn a_forecast_goes_on_as_it_went() {
    let usage = |capacity, chosen| Usage {
        capacity,
        chosen,
        ..Usage::default()
    };
    let cases = [
        // Half are left after 100 units that took the other half.
        (usage(200, 0), usage(200, 100), 100, Some(100)),
        (usage(200, 90), usage(200, 100), 100, Some(1_000)),
        (usage(200, 100), usage(200, 100), 100, None),
        (usage(200, 150), usage(200, 100), 100, None),
        (usage(200, 199), usage(200, 200), 100, Some(0)),
        (usage(200, 200), usage(200, 200), 100, Some(0)),
        (usage(0, 0), usage(0, 0), 0, Some(0)),
        // More used than left in less than a unit, and a network that has grown.
        (usage(200, 0), usage(200, 199), 1, Some(1)),
        (usage(100, 50), usage(200, 100), 10, Some(20)),
        (
            usage(u128::MAX, 0),
            usage(u128::MAX, 1),
            u64::MAX,
            Some(u64::MAX),
        ),
        (
            usage(u128::MAX, 0),
            usage(u128::MAX, 1 << 100),
            1 << 30,
            Some((1 << 58) - (1 << 30) - 1),
        ),
    ];
    for (earlier, now, elapsed, expected) in cases {
        assert_eq!(
            now.exhausted_in(&earlier, elapsed),
            expected,
            "{earlier:?} {now:?}"
        );
    }
}
