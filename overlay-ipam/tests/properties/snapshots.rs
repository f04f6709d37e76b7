use ipnet::IpNet;
use overlay_ipam::{AddressSet, OwnerId, Pools, Subnet, SubnetConfig, SubnetRequest, VniAllocator};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde::Serialize;

use crate::subnet::{Op, config, ops, replay};

/// Changes some octets, cuts some off, or adds some.
fn damage(bytes: &mut Vec<u8>, hits: &[(Index, u8)], cut: Option<Index>) {
    for (at, octet) in hits {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = *octet;
        }
    }
    if let Some(cut) = cut.filter(|_| !bytes.is_empty()) {
        bytes.truncate(cut.index(bytes.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_subnets_are_refused_or_sound(
        config in config(),
        ops in ops(),
        hits in vec((any::<Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let Ok(mut subnet) = Subnet::new(config) else { return Ok(()) };
        for (index, op) in &ops {
            replay(op, index % 7, &mut subnet);
        }
        let mut bytes = postcard::to_allocvec(&subnet).unwrap();
        damage(&mut bytes, &hits, cut);
        if let Ok(mut restored) = postcard::from_bytes::<Subnet>(&bytes) {
            let again: Subnet = postcard::from_bytes(&postcard::to_allocvec(&restored).unwrap()).unwrap();
            prop_assert_eq!(again.state_hash(), restored.state_hash());
            let owners: Vec<OwnerId> = restored.leases().map(|lease| lease.owner).collect();
            replay(&Op::Allocate(200), 1, &mut restored);
            for owner in owners {
                prop_assert!(restored.release_owner(owner, 2).is_some());
            }
        }
    }

    #[test]
    fn any_octets_are_refused_or_sound(bytes in vec(any::<u8>(), 0..200)) {
        for version in [None, Some(0)] {
            let bytes: Vec<u8> = version.into_iter().chain(bytes.iter().copied()).collect();
            if let Ok(mut set) = postcard::from_bytes::<AddressSet>(&bytes) {
                let last = set.last();
                set.take_from(0..=last, 7);
                prop_assert!(set.iter().take(100).all(|number| number <= last && set.contains(number)));
            }
            if let Ok(mut pools) = postcard::from_bytes::<Pools>(&bytes) {
                let _ = pools.allocate(SubnetRequest::Any, &[]);
            }
            if let Ok(mut vnis) = postcard::from_bytes::<VniAllocator>(&bytes) {
                vnis.allocate().unwrap();
            }
            let _ = postcard::from_bytes::<Subnet>(&bytes);
        }
    }
}

/// The form of a subnet, to write down what no subnet would.
#[derive(Clone, Serialize)]
enum SubnetForm {
    V1 {
        config: SubnetConfig,
        cursor: u128,
        generation: u64,
        index: u64,
        leases: Vec<(u128, OwnerId, u64)>,
        resting: Vec<(u128, u64)>,
    },
}

fn form(
    change: impl FnOnce(&mut Vec<(u128, OwnerId, u64)>, &mut Vec<(u128, u64)>, &mut [u64; 2]),
) -> bool {
    let [one, two] = [1, 2].map(|octet| OwnerId::from_bytes([octet; 16]));
    let (mut leases, mut resting) = (vec![(2, one, 1), (3, two, 4)], vec![(9, 5), (7, 6)]);
    let mut numbers = [10, 4]; // cursor and generation
    change(&mut leases, &mut resting, &mut numbers);
    let prefix: IpNet = "10.0.1.0/28".parse().expect("a prefix");
    let config = SubnetConfig::new(prefix);
    let [cursor, generation] = numbers;
    let cursor = cursor.into();
    let form = SubnetForm::V1 {
        config,
        cursor,
        generation,
        index: 6,
        leases,
        resting,
    };
    let bytes = postcard::to_allocvec(&form).expect("memory is the only limit");
    postcard::from_bytes::<Subnet>(&bytes).is_ok()
}

#[test]
fn subnets_that_cannot_be_are_refused() {
    assert!(form(|_, _, _| {}));
    for (what, fine) in [
        ("the gateway is held", form(|leases, _, _| leases[0].0 = 1)),
        (
            "the broadcast address is held",
            form(|leases, _, _| leases[1].0 = 13),
        ),
        (
            "an address beyond is held",
            form(|leases, _, _| leases[1].0 = 14),
        ),
        (
            "an address is held twice",
            form(|leases, _, _| leases[1].0 = 0),
        ),
        (
            "the sum of places overflows",
            form(|leases, _, _| leases[1].0 = u128::MAX),
        ),
        (
            "an owner holds two addresses",
            form(|leases, _, _| leases[1].1 = leases[0].1),
        ),
        (
            "a lease has no generation",
            form(|leases, _, _| leases[0].2 = 0),
        ),
        (
            "a lease is of a later generation",
            form(|leases, _, _| leases[1].2 = 5),
        ),
        (
            "a held address rests",
            form(|_, resting, _| resting[0].0 = 5),
        ),
        (
            "an address rests twice",
            form(|_, resting, _| resting[1].0 = 9),
        ),
        (
            "a reserved address rests",
            form(|_, resting, _| resting[0].0 = 15),
        ),
        (
            "resting addresses are out of order",
            form(|_, resting, _| resting.reverse()),
        ),
        (
            "an address was released in the future",
            form(|_, resting, _| resting[1].1 = 7),
        ),
        (
            "the cursor is beyond the subnet",
            form(|_, _, numbers| numbers[0] = 16),
        ),
        (
            "the generation leaves no room to count",
            form(|_, _, numbers| numbers[1] = u64::MAX),
        ),
    ] {
        assert!(!fine, "{what}");
    }
}

#[test]
fn a_subnet_that_has_counted_as_far_as_it_may_is_stored_after_the_next_lease_too() {
    let config = SubnetConfig::new("10.0.1.0/28".parse().unwrap());
    let form = SubnetForm::V1 {
        config,
        cursor: 0,
        generation: u64::MAX >> 1,
        index: 0,
        leases: Vec::new(),
        resting: Vec::new(),
    };
    let mut subnet: Subnet = postcard::from_bytes(&postcard::to_allocvec(&form).unwrap()).unwrap();
    for octet in 1..4 {
        let owner = OwnerId::from_bytes([octet; 16]);
        let lease = subnet.allocate(owner, 1).unwrap();
        assert_eq!(
            subnet.release(lease.address, lease.generation, 2),
            Ok(lease)
        );
        assert_eq!(crate::stored(&subnet), subnet);
    }
}

/// The form of a set, likewise.
#[derive(Serialize)]
enum SetForm {
    V1 {
        last: u128,
        runs: Vec<(u128, LeavesForm)>,
    },
}

#[derive(Serialize)]
enum LeavesForm {
    Full(u128),
    In(Vec<u16>),
    #[expect(dead_code, reason = "takes its number in the order of the forms")]
    Out(Vec<u16>),
    Raw(Vec<u8>),
}

#[test]
fn sets_that_cannot_be_are_refused() {
    use LeavesForm::{Full, In, Raw};
    let read = |last, runs| {
        let form = SetForm::V1 { last, runs };
        let bytes = postcard::to_allocvec(&form).expect("memory is the only limit");
        postcard::from_bytes::<AddressSet>(&bytes).ok()
    };
    let whole = 3 * 4_096 - 1;
    let fine = read(whole, vec![(0, Full(2)), (0, In(vec![7, 1]))]).unwrap();
    assert_eq!((fine.len(), fine.first_clear(0)), (8_194, Some(8_192)));
    for last in [100, whole, 1 << 80] {
        let beyond = (last >> 12) + 1;
        for (what, runs) in [
            (
                "more full leaves than there are",
                vec![(0, Full(beyond + 1))],
            ),
            ("no full leaf", vec![(0, Full(0))]),
            ("a leaf beyond", vec![(beyond, In(vec![1]))]),
            ("full leaves beyond", vec![(beyond, Full(1))]),
            ("an empty leaf", vec![(0, In(vec![]))]),
            ("a number twice", vec![(0, In(vec![1, 0]))]),
            ("a number behind the leaf", vec![(0, In(vec![4_000, 96]))]),
            ("a sum that overflows", vec![(0, In(vec![u16::MAX, 1]))]),
            (
                "blocks that overflow",
                vec![(1, In(vec![1])), (u128::MAX, In(vec![1]))],
            ),
            ("half a leaf", vec![(0, Raw(vec![1; 256]))]),
            ("no raw leaf", vec![(0, Raw(vec![]))]),
        ] {
            assert!(read(last, runs).is_none(), "{what} of {last}");
        }
    }
    assert!(read(100, vec![(0, In(vec![100]))]).is_some());
    assert!(read(100, vec![(0, In(vec![101]))]).is_none());
    assert!(read(100, vec![(0, Full(1))]).is_none());
    assert!(read(u128::MAX, vec![(0, Full((1 << 116) + 1))]).is_none());
    assert!(read(u128::MAX, vec![(0, Full(1 << 116)), (0, In(vec![1]))]).is_none());
    assert!(read(u128::MAX, vec![(0, Full(1 << 116))]).is_some());
}

#[test]
fn the_stored_form_never_changes() {
    let mut subnet = Subnet::new(SubnetConfig::new("10.0.1.0/24".parse().unwrap())).unwrap();
    for owner in [1, 2] {
        subnet
            .allocate(OwnerId::from_bytes([owner; 16]), 5)
            .unwrap();
    }
    subnet
        .release_owner(OwnerId::from_bytes([1; 16]), 6)
        .unwrap();
    let mut pools = Pools::docker_default();
    pools.allocate(SubnetRequest::Any, &[]).unwrap();
    let mut set = AddressSet::new(300);
    for number in [1, 2, 200] {
        set.insert(number);
    }
    let stored = postcard::to_allocvec(&(&subnet, &pools, &set)).unwrap();
    let hex: String = stored.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(hex, include_str!("v1.hex").trim());
    let hashes = [subnet.state_hash(), pools.state_hash()];
    assert_eq!(hashes, HASHES);
}

/// Replicas of different releases compare these.
const HASHES: [u64; 2] = [1_260_348_711_659_237_975, 2_019_040_246_048_203_737];
