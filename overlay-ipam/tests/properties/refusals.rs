//! What is refused leaves no trace.

use std::fmt::Debug;

use overlay_core::Vni;
use overlay_ipam::{OwnerId, Pools, Subnet, SubnetConfig, VniAllocator};
use proptest::{collection::vec, prelude::*};
use serde::Serialize;

use crate::{
    pools::{self, configs},
    subnet::{config, ops, replay},
};

/// Everything that can be told of a state: its hash, its stored octets, its insides.
fn traces<T: Serialize + Debug>(state: &T, hash: u64) -> (u64, Vec<u8>, String) {
    let octets = postcard::to_allocvec(state).expect("memory is the only limit");
    (hash, octets, format!("{state:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn a_subnet_does_not_change_when_it_refuses(config in config(), ops in ops()) {
        let Ok(mut subnet) = Subnet::new(config.clone()) else {
            return Err(TestCaseError::reject("not a valid subnet"));
        };
        // To another one only that comes which was not refused.
        let mut spared = Subnet::new(config).unwrap();
        let mut now = 0_u64;
        for (step, op) in &ops {
            // The largest step stands for an index from the past.
            let index = if *step == u64::MAX { 0 } else { now + step };
            now = now.max(index);
            let before = subnet.clone();
            if let Some(lease) = replay(op, index, &mut subnet) {
                prop_assert_eq!(replay(op, index, &mut spared), Some(lease));
            } else {
                prop_assert_eq!(&subnet, &before);
                prop_assert_eq!(
                    traces(&subnet, subnet.state_hash()),
                    traces(&before, before.state_hash()),
                    "{:?} at {}", op, index
                );
            }
        }
        prop_assert_eq!(traces(&subnet, subnet.state_hash()), traces(&spared, spared.state_hash()));
    }

    #[test]
    fn pools_do_not_change_when_they_refuse(ops in vec(pools::op(), 0..60)) {
        let mut pools = Pools::new(&configs()).unwrap();
        for op in &ops {
            let before = pools.clone();
            if !pools::replay(op, &mut pools) {
                prop_assert_eq!(&pools, &before);
                prop_assert_eq!(
                    traces(&pools, pools.state_hash()),
                    traces(&before, before.state_hash()),
                    "{:?}", op
                );
            }
        }
    }

    #[test]
    fn the_numbers_of_networks_do_not_change_when_one_is_refused(ops in vec((any::<bool>(), 4_090_u32..4_100), 0..60)) {
        let mut vnis = VniAllocator::new();
        for (take, number) in ops {
            let vni = Vni::new(number).unwrap();
            let before = vnis.clone();
            let done = if take { vnis.reserve(vni).is_ok() } else { vnis.release(vni) };
            if !done {
                prop_assert_eq!(&vnis, &before);
                prop_assert_eq!(traces(&vnis, vnis.state_hash()), traces(&before, before.state_hash()));
            }
        }
    }
}

#[test]
fn a_quarantine_ends_with_the_first_request_behind_it_that_is_not_refused() {
    let own = |octet| OwnerId::from_bytes([octet; 16]);
    let mut config = SubnetConfig::new("10.0.0.0/29".parse().unwrap());
    config.quarantine.indexes = 10;
    let mut subnet = Subnet::new(config).unwrap();
    let lease = subnet.allocate(own(1), 100).unwrap();
    subnet.release_owner(own(1), 100).unwrap();
    let free = "10.0.0.6".parse().unwrap();
    for index in [105, 110, 1_000] {
        assert!(subnet.release(free, 1, index).is_err());
        assert_eq!(subnet.release_owner(own(1), index), None);
        assert_eq!(subnet.usage().resting, 1);
    }
    // Lower than the refused ones, but not than those that count.
    subnet.allocate(own(2), 109).unwrap();
    assert_eq!(subnet.usage().resting, 1);
    // An index from the past is raised to the last one that counts.
    subnet.allocate(own(3), 7).unwrap();
    assert_eq!(subnet.usage().resting, 1);
    subnet.allocate(own(4), 110).unwrap();
    assert_eq!(subnet.usage().resting, 0);
    assert_eq!(subnet.owner(lease.address), None);
}
