//! Addresses: states that come from elsewhere, and what is done with them.

use overlay_core::Vni;
use overlay_ipam::{
    AddressSet, NetworkAddresses, OwnerId, Pools, Subnet, SubnetRequest, Subnets, VniAllocator,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::input::Input;

/// An octet chooses what is read, then come the operations with their length, then the state.
pub fn ipam_snapshot(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.u8() % 6;
    let (operations, state) = (Input::new(input.bytes()), input.rest());
    match kind {
        0 => subnet(operations, state),
        1 => set(operations, state),
        2 => pools(operations, state),
        3 => vnis(operations, state),
        4 => subnets(operations, state),
        _ => network(operations, state),
    }
}

/// Reads a state; what was read is written, and reads the same.
fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let value: T = postcard::from_bytes(bytes).ok()?;
    survives(&value);
    Some(value)
}

fn survives<T: Serialize + DeserializeOwned>(value: &T) {
    let octets = postcard::to_allocvec(value).expect("a state serializes");
    let again: T = postcard::from_bytes(&octets).expect("what was written reads");
    let again = postcard::to_allocvec(&again).expect("a state serializes");
    assert_eq!(octets, again);
}

fn subnet(mut operations: Input<'_>, state: &[u8]) {
    let Some(mut subnet) = read::<Subnet>(state) else {
        return;
    };
    let mut index = 1_000;
    let mut leases: Vec<_> = subnet.leases().take(8).collect();
    while !operations.is_empty() {
        let owner = OwnerId::from_bytes([operations.u8() % 8; 16]);
        index += u64::from(operations.u8());
        match operations.u8() % 4 {
            0 | 1 => leases.extend(subnet.allocate(owner, index)),
            2 => {
                subnet.release_owner(owner, index);
            }
            _ => {
                if let Some(lease) = leases.pop() {
                    let _ = subnet.release(lease.address, lease.generation, index);
                    let _ = subnet.reserve(owner, lease.address, index);
                }
            }
        }
    }
    assert!(subnet.leases().take(100).all(|lease| {
        subnet.lease_of(lease.owner) == Some(lease) && subnet.owner(lease.address).is_some()
    }));
    let _ = (
        subnet.available(),
        subnet.used(),
        subnet.usage(),
        subnet.gateway(),
    );
    survives(&subnet);
    let again = postcard::to_allocvec(&subnet).expect("a state serializes");
    let again: Subnet = postcard::from_bytes(&again).expect("what was written reads");
    assert_eq!(again.state_hash(), subnet.state_hash());
}

fn set(mut operations: Input<'_>, state: &[u8]) {
    let Some(mut set) = read::<AddressSet>(state) else {
        return;
    };
    while !operations.is_empty() {
        let number = u128::from(operations.u16()) << (operations.u8() % 113);
        let before = set.len();
        match operations.u8() % 3 {
            0 => assert_eq!(set.insert(number), set.len() > before),
            1 => assert_eq!(set.remove(number), set.len() < before),
            _ => {
                let last = set.last();
                let taken = set.take_from(0..=last, number);
                assert!(taken.is_none_or(|taken| set.contains(taken)));
            }
        }
        assert!(
            set.first_set(number)
                .is_none_or(|found| set.contains(found))
        );
        assert!(
            set.first_clear(number)
                .is_none_or(|found| !set.contains(found))
        );
    }
    let counted = set.iter().take(100).count();
    assert!(set.len() > 100 || set.len() == counted as u128);
    survives(&set);
}

fn pools(mut operations: Input<'_>, state: &[u8]) {
    let Some(mut pools) = read::<Pools>(state) else {
        return;
    };
    let mut taken: Vec<_> = pools.allocated().take(8).collect();
    while !operations.is_empty() {
        let number = operations.u8();
        let request = match operations.u8() % 6 {
            0 => SubnetRequest::Any,
            1 => SubnetRequest::Length(number),
            2 => SubnetRequest::AnyV6,
            3 => SubnetRequest::LengthV6(number),
            4 => match ipnet::Ipv4Net::new([10, number, 0, 0].into(), operations.u8()) {
                Ok(prefix) => SubnetRequest::Exact(prefix.into()),
                Err(_) => continue,
            },
            _ => {
                if let Some(prefix) = taken.pop() {
                    let _ = pools.release(prefix);
                }
                continue;
            }
        };
        let foreign = taken.first().copied();
        if let Ok(prefix) = pools.allocate(request, foreign.as_slice()) {
            assert!(pools.allocated().any(|allocated| allocated == prefix));
            taken.push(prefix);
        }
    }
    survives(&pools);
}

fn vnis(mut operations: Input<'_>, state: &[u8]) {
    let Some(mut vnis) = read::<VniAllocator>(state) else {
        return;
    };
    while !operations.is_empty() {
        let vni = Vni::from_octets([0, operations.u8(), operations.u8()]);
        match operations.u8() % 3 {
            0 => {
                let taken = vnis.allocate();
                assert!(taken.is_err() || taken.is_ok_and(|taken| vnis.contains(taken)));
            }
            1 => {
                let _ = vnis.reserve(vni);
            }
            _ => {
                vnis.release(vni);
                assert!(!vnis.contains(vni));
            }
        }
    }
    survives(&vnis);
}

fn subnets(mut operations: Input<'_>, state: &[u8]) {
    let Some(mut subnets) = read::<Subnets>(state) else {
        return;
    };
    let mut index = 1_000;
    while !operations.is_empty() {
        let owner = OwnerId::from_bytes([operations.u8() % 8; 16]);
        index += u64::from(operations.u8());
        let held = subnets.lease_of(owner);
        if operations.u8() & 1 == 0 {
            assert_eq!(subnets.release_owner(owner, index), held);
        } else if let Ok(lease) = subnets.allocate(owner, index) {
            assert!(held.is_none_or(|held| held == lease));
            assert_eq!(subnets.lease_of(owner), Some(lease));
        }
    }
    survives(&subnets);
}

fn network(mut operations: Input<'_>, state: &[u8]) {
    let Some(mut network) = read::<NetworkAddresses>(state) else {
        return;
    };
    let mut index = 1_000;
    let mut asked: Vec<_> = network
        .leases()
        .take(8)
        .map(|lease| lease.address)
        .collect();
    while !operations.is_empty() {
        let owner = OwnerId::from_bytes([operations.u8() % 8; 16]);
        index += u64::from(operations.u8());
        let held = network.leases_of(owner);
        let before = network.state_hash();
        if operations.u8() & 1 == 0 {
            assert_eq!(network.release_owner(owner, index), held);
            continue;
        }
        let count = usize::from(operations.u8() % 3).min(asked.len());
        asked.rotate_left(count);
        let may = network.check(owner, &asked[..count]).is_ok();
        match network.allocate(owner, &asked[..count], index) {
            Ok(leases) => {
                assert!(
                    may && held
                        .iter()
                        .all(|held| leases.iter().any(|lease| lease == held))
                );
                assert_eq!(network.leases_of(owner), leases);
            }
            Err(_) => assert!(!may && network.state_hash() == before),
        }
    }
    survives(&network);
}
