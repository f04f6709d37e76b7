//! The addresses of a network of both families, against a list of leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use overlay_ipam::{
    AllocateError, Lease, Leases, NetworkAddresses, OwnerId, Quarantine, ReleaseError, Reserved,
    SubnetConfig, Subnets, SubnetsError,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::stored;

#[derive(Clone, Debug)]
enum Op {
    Add(&'static str),
    Remove(&'static str),
    Allocate(u8, Vec<IpAddr>),
    ReleaseOwner(u8),
    Release(IpAddr, u64),
}

/// By owner and whether it is IPv4.
type Held = BTreeMap<(OwnerId, bool), Lease>;

const PREFIXES: [&str; 5] = [
    "10.0.0.0/29",
    "10.0.0.8/30",
    "10.0.0.8/29",
    "fd00::/125",
    "fd00::8/126",
];

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => select(&PREFIXES[..]).prop_map(Op::Add),
        1 => select(&PREFIXES[..]).prop_map(Op::Remove),
        8 => (0_u8..16).prop_map(|nth| Op::Allocate(nth, Vec::new())),
        6 => (0_u8..16, vec(address(), 1..3)).prop_map(|(nth, asked)| Op::Allocate(nth, asked)),
        3 => (0_u8..16).prop_map(Op::ReleaseOwner),
        2 => (address(), 0_u64..3).prop_map(|(address, age)| Op::Release(address, age)),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    let v4 = (0_u8..18).prop_map(|last| IpAddr::from([10, 0, 0, last]));
    let v6 = (0_u16..18).prop_map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
    prop_oneof![v4, v6]
}

fn owner(nth: u8) -> OwnerId {
    OwnerId::from_bytes([nth; 16])
}

fn config(prefix: &str) -> SubnetConfig {
    SubnetConfig {
        quarantine: Quarantine {
            indexes: 5,
            addresses_max: 3,
        },
        ..SubnetConfig::new(prefix.parse().expect("a prefix"))
    }
}

fn family(network: &NetworkAddresses, is_v4: bool) -> &Subnets {
    if is_v4 { network.v4() } else { network.v6() }
}

fn covers(network: &NetworkAddresses, address: IpAddr) -> bool {
    let mut subnets = network.subnets();
    subnets.any(|subnet| subnet.prefix().contains(&address))
}

/// Whether somebody may have an address: it is in a subnet, and not reserved.
fn is_given_out(network: &NetworkAddresses, address: IpAddr) -> bool {
    let mut subnets = network.subnets();
    covers(network, address) && subnets.all(|subnet| subnet.reserved(address).is_none())
}

/// Whether the model gives an owner what it asks for.
fn is_granted(network: &NetworkAddresses, held: &Held, who: OwnerId, asked: &[IpAddr]) -> bool {
    let families = [true, false].map(|is_v4| {
        let asked: Vec<_> = asked
            .iter()
            .filter(|address| address.is_ipv4() == is_v4)
            .collect();
        let own = held.get(&(who, is_v4)).map(|lease| lease.address);
        match asked.as_slice() {
            [] => {
                let subnets = family(network, is_v4);
                subnets.subnets().len() == 0 || own.is_some() || subnets.usage().available() > 0
            }
            [address] => {
                let others = held.iter().filter(|((other, _), _)| *other != who);
                let mut others = others.map(|(_, lease)| lease.address);
                is_given_out(network, **address)
                    && own.is_none_or(|own| own == **address)
                    && others.all(|other| other != **address)
            }
            _ => false,
        }
    });
    families == [true; 2] && network.subnets().next().is_some()
}

/// Does what was asked on both; what is refused must leave the state as it was.
fn step(op: &Op, index: u64, network: &mut NetworkAddresses, held: &mut Held) {
    let before = network.clone();
    let refused = match op {
        Op::Add(prefix) => network.add(config(prefix)).is_err(),
        Op::Remove(text) => {
            let prefix: IpNet = text.parse().expect("a prefix");
            let known = before.subnets().any(|subnet| subnet.prefix() == prefix);
            let used = held.values().any(|lease| prefix.contains(&lease.address));
            let result = network.remove(prefix);
            assert_eq!(result.is_ok(), known && !used, "{result:?}");
            result.is_err()
        }
        Op::Allocate(nth, asked) => {
            let granted = is_granted(&before, held, owner(*nth), asked);
            assert_eq!(before.check(owner(*nth), asked).is_ok(), granted);
            let result = network.allocate(owner(*nth), asked, index);
            assert_eq!(result.is_ok(), granted, "{asked:?}: {result:?}");
            if let Ok(leases) = result {
                given(network, held, owner(*nth), asked, leases);
            }
            result.is_err()
        }
        Op::ReleaseOwner(nth) => {
            let leases = network.release_owner(owner(*nth), index);
            let known = Leases {
                v4: held.remove(&(owner(*nth), true)),
                v6: held.remove(&(owner(*nth), false)),
            };
            assert_eq!(leases, known);
            leases.is_empty()
        }
        Op::Release(address, age) => {
            let known = held
                .values()
                .find(|lease| lease.address == *address)
                .copied();
            let generation = known
                .map_or(1, |lease| lease.generation)
                .saturating_sub(*age);
            let result = network.release(*address, generation, index);
            match known {
                Some(lease) if lease.generation == generation => {
                    assert_eq!(result, Ok(lease));
                    held.remove(&(lease.owner, address.is_ipv4()));
                }
                Some(_) => assert!(matches!(result, Err(ReleaseError::Stale { .. }))),
                None => assert!(matches!(result, Err(ReleaseError::Free { .. }))),
            }
            result.is_err()
        }
    };
    let same = *network == before;
    assert_eq!(network.state_hash() == before.state_hash(), same);
    assert!(same || !refused);
}

/// Notes what an owner was given: one address of each family, the asked ones among them, which nobody else has.
fn given(
    network: &NetworkAddresses,
    held: &mut Held,
    who: OwnerId,
    asked: &[IpAddr],
    leases: Leases,
) {
    assert_eq!(leases, network.leases_of(who));
    for (lease, is_v4) in [(leases.v4, true), (leases.v6, false)] {
        assert_eq!(lease.is_some(), family(network, is_v4).subnets().len() > 0);
        let Some(lease) = lease else { continue };
        let address = lease.address;
        let mut asked = asked.iter().filter(|asked| asked.is_ipv4() == is_v4);
        assert!(asked.all(|asked| *asked == address));
        assert!(address.is_ipv4() == is_v4 && lease.owner == who);
        let mut others = held.iter().filter(|(key, _)| **key != (who, is_v4));
        assert!(others.all(|(_, other)| other.address != address));
        assert!(is_given_out(network, address));
        let known = held.insert((who, is_v4), lease);
        assert!(known.is_none_or(|known| known == lease));
    }
}

proptest! {
    #[test]
    fn a_network_of_both_families_is_one_list_of_leases(ops in vec(op(), 0..120)) {
        let (mut network, mut held) = (NetworkAddresses::new(), Held::new());
        let (mut replica, mut theirs) = (NetworkAddresses::new(), Held::new());
        for (index, op) in (0..).zip(&ops) {
            step(op, index, &mut network, &mut held);
            step(op, index, &mut replica, &mut theirs);
            prop_assert_eq!(network.state_hash(), replica.state_hash());
            let leases: BTreeSet<Lease> = network.leases().collect();
            prop_assert_eq!(&leases, &held.values().copied().collect());
            for lease in held.values() {
                prop_assert_eq!(network.owner(lease.address), Some(lease.owner));
            }
        }
        let restored: NetworkAddresses = stored(&network);
        prop_assert_eq!(restored.state_hash(), network.state_hash());
        prop_assert_eq!(restored, network);
    }
}

#[test]
fn a_network_grows_by_a_subnet_of_either_family() {
    let mut network = NetworkAddresses::new();
    let web = owner(1);
    assert_eq!(network.allocate(web, &[], 0), Err(AllocateError::NoSubnet));
    network
        .add(SubnetConfig::new("10.0.0.0/30".parse().unwrap()))
        .unwrap();
    let first = network.allocate(web, &[], 1).unwrap();
    assert_eq!((first.iter().count(), first.v6), (1, None));
    assert_eq!(network.audit(&[web].into()), overlay_ipam::Audit::default());
    let full = network.allocate(owner(2), &[], 2).unwrap_err();
    assert!(matches!(full, AllocateError::Exhausted { .. }));
    for prefix in ["10.0.1.0/24", "fd00::/64"] {
        network
            .add(SubnetConfig::new(prefix.parse().unwrap()))
            .unwrap();
    }
    // Who was there before lacks an IPv6 address, and gets it with the next request.
    assert_eq!(network.audit(&[web].into()).missing, [web]);
    let both = network.allocate(web, &[], 3).unwrap();
    assert_eq!(both.v4, first.v4);
    assert_eq!(both.v6.unwrap().address.to_string(), "fd00::2");
    assert_eq!(network.audit(&[web].into()), overlay_ipam::Audit::default());
    let other = network.allocate(owner(2), &[], 4).unwrap();
    assert_eq!(other.v4.unwrap().address.to_string(), "10.0.1.2");
    let orphaned = network.audit(&[web].into()).orphaned;
    assert_eq!(orphaned, other.iter().collect::<Vec<_>>());
    let overlap = network.add(SubnetConfig::new("fd00::/48".parse().unwrap()));
    assert!(matches!(overlap, Err(SubnetsError::Overlap { .. })));
    assert_eq!(network.release_owner(web, 5), both);
    assert!(network.leases_of(web).is_empty());
    assert_eq!(network.remove("10.0.0.0/30".parse().unwrap()), Ok(()));
}

#[test]
fn each_subnet_has_its_range_and_its_exclusions() {
    let mut network = NetworkAddresses::new();
    let aux: IpAddr = "10.0.0.9".parse().unwrap();
    for (prefix, range, excluded) in [
        ("10.0.0.0/24", "10.0.0.8/30", vec![IpNet::from(aux)]),
        ("10.0.1.0/24", "10.0.1.128/31", Vec::new()),
        ("fd00::/64", "fd00::ff00/127", Vec::new()),
    ] {
        let config = SubnetConfig {
            range: Some(range.parse().unwrap()),
            excluded,
            ..SubnetConfig::new(prefix.parse().unwrap())
        };
        network.add(config).unwrap();
    }
    let chosen = |leases: Leases| leases.v4.unwrap().address.to_string();
    // IPv6 has two addresses in its range; who asks for one outside of it needs none of these.
    let asked: Vec<IpAddr> = (0..5_u16)
        .map(|last| [0xfd00, 0, 0, 0, 0, 0, 0, 9 + last].into())
        .collect();
    let seen: Vec<_> = (1..=5)
        .map(|nth| {
            chosen(
                network
                    .allocate(owner(nth), &asked[usize::from(nth) - 1..][..1], 1)
                    .unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            "10.0.0.8",
            "10.0.0.10",
            "10.0.0.11",
            "10.0.1.128",
            "10.0.1.129"
        ]
    );
    let refused = network.allocate(owner(6), &[aux], 2);
    let reserved = Reserved::Excluded;
    assert_eq!(
        refused,
        Err(AllocateError::Reserved {
            address: aux,
            reserved
        })
    );
    // A service's fixed addresses, outside both ranges.
    let fixed = ["10.0.1.7", "fd00::7"].map(|text| text.parse().unwrap());
    let leases = network.allocate(owner(6), &fixed, 3).unwrap();
    assert!(leases.iter().map(|lease| lease.address).eq(fixed));
    assert_eq!(network.allocate(owner(6), &fixed, 4), Ok(leases));
    let elsewhere = ["10.0.1.8".parse().unwrap()];
    let holds = AllocateError::OwnerHolds {
        owner: owner(6),
        address: fixed[0],
    };
    assert_eq!(network.allocate(owner(6), &elsewhere, 5), Err(holds));
}

#[test]
fn what_one_family_refuses_leaves_no_trace_in_the_other() {
    let mut network = NetworkAddresses::new();
    for prefix in ["10.0.0.0/24", "fd00::/127"] {
        let config = SubnetConfig {
            reserve_gateway: false,
            ..SubnetConfig::new(prefix.parse().unwrap())
        };
        network.add(config).unwrap();
    }
    while network.v6().usage().available() > 0 {
        let nth = u8::try_from(network.v6().usage().chosen).unwrap();
        network.allocate(owner(nth), &[], 1).unwrap();
    }
    let before = (network.clone(), network.state_hash());
    let v4: IpAddr = "10.0.0.77".parse().unwrap();
    for asked in [&[][..], &[v4]] {
        let refused = network.allocate(owner(99), asked, 2);
        assert!(
            matches!(refused, Err(AllocateError::Exhausted { prefix, .. }) if prefix.addr().is_ipv6())
        );
        assert_eq!((network.clone(), network.state_hash()), before);
    }
    let other = "10.0.0.78".parse().unwrap();
    let twice = AllocateError::TwoOfAFamily {
        address: other,
        other: v4,
    };
    assert_eq!(network.allocate(owner(99), &[v4, other], 3), Err(twice));
    assert_eq!(network.state_hash(), before.1);
}

#[test]
fn stored_subnets_of_the_wrong_family_are_refused() {
    let subnets = |prefix: &str| {
        let mut subnets = Subnets::new();
        subnets.add(config(prefix)).unwrap();
        subnets
    };
    let (v4, v6) = (subnets("10.0.0.0/29"), subnets("fd00::/125"));
    let read = |pair: [&Subnets; 2]| {
        let bytes = postcard::to_allocvec(&(0_u8, pair[0], pair[1])).unwrap();
        postcard::from_bytes::<NetworkAddresses>(&bytes).is_ok()
    };
    assert!(read([&v4, &v6]));
    assert!(!read([&v6, &v4]) && !read([&v4, &v4]) && !read([&v6, &v6]));
}
