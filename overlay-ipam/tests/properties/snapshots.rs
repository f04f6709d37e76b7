use overlay_ipam::{AddressSet, OwnerId, Pools, Subnet, SubnetConfig, SubnetRequest, VniAllocator};
use proptest::{collection::vec, prelude::*, sample::Index};

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
