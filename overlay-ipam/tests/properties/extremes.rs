//! Prefixes of every length, addresses of both families, the largest numbers: nothing panics.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use overlay_core::Vni;
use overlay_ipam::{
    AddressSet, Order, OwnerId, PoolConfig, Pools, Quarantine, Subnet, SubnetConfig, SubnetRequest,
    VniAllocator, VniError,
};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde::Serialize;

use crate::stored;

/// Numbers at the edges of the families, and any.
fn address() -> impl Strategy<Value = IpAddr> {
    let near = |numbers: &'static [u128]| {
        (select(numbers), 0_u128..4, any::<bool>()).prop_map(|(number, off, below)| {
            if below {
                number.wrapping_sub(off)
            } else {
                number.wrapping_add(off)
            }
        })
    };
    let v4 = prop_oneof![near(&[0, 1 << 31, 10 << 24, 1 << 32]), any::<u128>()];
    let v4 = v4.prop_map(|number| u32::try_from(number & 0xffff_ffff).expect("32 bits"));
    let v6 = prop_oneof![
        near(&[0, 1 << 127, 0xffff << 32, 1 << 64, 0xfd << 120]),
        any::<u128>()
    ];
    prop_oneof![
        v4.prop_map(|number| IpAddr::V4(number.into())),
        v6.prop_map(|number| IpAddr::V6(number.into())),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let length = prop_oneof![
        0_u8..=128,
        select(&[0_u8, 1, 2, 8, 29, 30, 31, 32, 64, 125, 126, 127, 128][..])
    ];
    (address(), length, 0_u8..8).prop_map(|(address, length, odd)| {
        let length = if address.is_ipv4() {
            length % 33
        } else {
            length
        };
        let prefix = IpNet::new(address, length).expect("at most the whole");
        if odd == 0 { prefix } else { prefix.trunc() }
    })
}

/// An address in the prefix, at one of its ends or in between.
fn inside(prefix: IpNet, at: IpAddr) -> IpAddr {
    match (prefix, at) {
        (IpNet::V4(prefix), IpAddr::V4(at)) => {
            let bits = u32::from(at) & u32::from(prefix.hostmask());
            IpAddr::V4((u32::from(prefix.network()) | bits).into())
        }
        (IpNet::V6(prefix), IpAddr::V6(at)) => {
            let bits = u128::from(at) & u128::from(prefix.hostmask());
            IpAddr::V6((u128::from(prefix.network()) | bits).into())
        }
        _ => at,
    }
}

fn config() -> impl Strategy<Value = SubnetConfig> {
    let part = || (address(), 0_u8..=128, 0_u8..16);
    let limits = (
        prop_oneof![0_u64..4, Just(u64::MAX), any::<u64>()],
        prop_oneof![0_u32..4, Just(u32::MAX)],
        any::<bool>(),
    );
    (
        prefix(),
        (option::of(address()), any::<bool>()),
        option::weighted(0.3, part()),
        vec(part(), 0..3),
        limits,
    )
        .prop_map(|(prefix, (gateway, reserve), range, excluded, limits)| {
            let part = |(at, longer, odd): (IpAddr, u8, u8)| {
                let at = if odd == 0 { at } else { inside(prefix, at) };
                let bits = if at.is_ipv4() { 32_u8 } else { 128 };
                let length = prefix.prefix_len().saturating_add(longer).min(bits);
                IpNet::new(at, length).expect("at most the whole").trunc()
            };
            SubnetConfig {
                gateway: gateway.map(|gateway| inside(prefix, gateway)),
                reserve_gateway: reserve,
                range: range.map(part),
                excluded: excluded.into_iter().map(part).collect(),
                order: if limits.2 {
                    Order::FirstFit
                } else {
                    Order::NextFit
                },
                quarantine: Quarantine {
                    indexes: limits.0,
                    addresses_max: limits.1,
                },
                ..SubnetConfig::new(prefix)
            }
        })
}

fn ask(subnet: &Subnet, address: IpAddr) {
    let held = subnet.owner(address);
    assert!(held.is_none() || subnet.reserved(address).is_none());
    let usage = subnet.usage();
    assert_eq!(subnet.available(), usage.capacity - usage.chosen);
    assert_eq!(subnet.used() as u128, usage.chosen + usage.explicit);
    assert!(
        subnet
            .gateway()
            .is_none_or(|gateway| subnet.prefix().contains(&gateway))
    );
    let audit = subnet.audit(&BTreeSet::from([OwnerId::from_bytes([0; 16])]));
    assert!(audit.orphaned.len() <= subnet.used());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn a_subnet_of_any_length_never_panics(
        config in config(),
        ops in vec((0_u8..8, 0_u8..6, address(), prop_oneof![0_u64..9, any::<u64>(), Just(u64::MAX)], any::<bool>()), 0..60),
    ) {
        let mut subnet = match Subnet::new(config) {
            Ok(subnet) => subnet,
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                return Err(TestCaseError::reject("not a valid subnet"));
            }
        };
        for (kind, owner, address, index, beside) in ops {
            let owner = OwnerId::from_bytes([owner; 16]);
            let address = if beside { address } else { inside(subnet.prefix(), address) };
            let before = subnet.clone();
            let refusal = match kind {
                0..3 => subnet.allocate(owner, index).err().map(|error| error.to_string()),
                3..5 => subnet.reserve(owner, address, index).err().map(|error| error.to_string()),
                5 => subnet.release_owner(owner, index).is_none().then(|| "nothing held".to_owned()),
                6 => subnet.release(address, index, index).err().map(|error| error.to_string()),
                _ => match subnet.lease_of(owner) {
                    Some(lease) => {
                        prop_assert_eq!(subnet.release(lease.address, lease.generation, index), Ok(lease));
                        None
                    }
                    None => None,
                },
            };
            if let Some(text) = refusal {
                prop_assert!(!text.is_empty());
                prop_assert_eq!(&subnet, &before);
                prop_assert_eq!(subnet.state_hash(), before.state_hash());
            }
            ask(&subnet, address);
        }
        prop_assert!(subnet.leases().all(|lease| subnet.prefix().contains(&lease.address)));
        prop_assert_eq!(stored(&subnet), subnet);
    }

    #[test]
    fn pools_of_any_length_never_panic(
        configs in vec((prefix(), 0_u8..=130), 0..4),
        ops in vec((0_u8..8, prefix(), any::<u8>(), vec(prefix(), 0..3)), 0..40),
    ) {
        let configs: Vec<_> = configs
            .into_iter()
            .map(|(prefix, split)| PoolConfig { prefix, split: split.max(prefix.prefix_len()) })
            .collect();
        // What makes no sense is left out.
        let fine: Vec<_> = configs.iter().copied().filter(|config| Pools::new(&[*config]).is_ok()).collect();
        let made = Pools::new(&configs).or_else(|_| Pools::new(&fine)).or_else(|_| Pools::new(&fine[..1]));
        let mut pools = made.unwrap();
        for (kind, prefix, length, foreign) in ops {
            let before = pools.clone();
            let request = match kind {
                0 => SubnetRequest::Any,
                1 => SubnetRequest::AnyV6,
                2 => SubnetRequest::Length(length % 40),
                3 => SubnetRequest::LengthV6(length),
                4 => SubnetRequest::from_prefix(prefix),
                _ => SubnetRequest::Exact(prefix),
            };
            let refusal = if kind == 7 {
                let place = usize::from(length) % pools.len().max(1);
                let prefix = pools.allocated().nth(place).unwrap_or(prefix);
                pools.release(prefix).err()
            } else {
                pools.allocate(request, &foreign).err()
            };
            if let Some(error) = refusal {
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!(&pools, &before);
                prop_assert_eq!(pools.state_hash(), before.state_hash());
            }
            let _ = pools.overlapping(prefix);
        }
        prop_assert_eq!(stored(&pools), pools);
    }

    #[test]
    fn a_set_of_any_size_never_panics(
        last in address(),
        ops in vec((0_u8..5, address(), address()), 0..60),
    ) {
        let number = |address| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        let mut set = AddressSet::new(number(last));
        for (kind, one, two) in ops {
            let (one, two) = (number(one), number(two));
            match kind {
                0..2 => { set.insert(one); }
                2 => { set.remove(one); }
                3 => { set.take_from(one..=two, one); }
                _ => { set.take_from(two.min(one)..=one.max(two), two); }
            }
            let _ = (set.contains(one), set.first_clear(two), set.first_set(two), set.iter().count());
        }
        prop_assert_eq!(stored(&set), set);
    }
}

#[test]
fn the_set_of_all_numbers_can_be_filled() {
    // All but the last leaf, as a snapshot says it.
    let form = SetForm::V1 {
        last: u128::MAX,
        runs: vec![(0, LeavesForm::Full((1 << 116) - 1))],
    };
    let bytes = postcard::to_allocvec(&form).expect("memory is the only limit");
    let mut set: AddressSet = postcard::from_bytes(&bytes).expect("well-formed");
    for number in u128::MAX - 4_095..=u128::MAX {
        assert_eq!(set.take_from(0..=u128::MAX, 0), Some(number));
    }
    assert_eq!(set.take_from(0..=u128::MAX, 0), None);
    assert!(!set.insert(7));
    // There are one more, which has no number.
    assert_eq!((set.len(), set.is_empty()), (u128::MAX, false));
    assert_eq!(stored(&set).len(), u128::MAX);
    assert!(set.remove(7));
    assert_eq!(set.len(), u128::MAX);
    assert!(set.remove(8));
    assert_eq!((set.len(), set.first_clear(0)), (u128::MAX - 1, Some(7)));
}

#[test]
fn the_last_identifier_is_given_out_and_then_none() {
    // All but one, as a snapshot says it.
    let full = |count| (0, LeavesForm::Full(count));
    let used = SetForm::V1 {
        last: Vni::MAX.get().into(),
        runs: vec![full(4_095), (0, LeavesForm::In(vec![0]))],
    };
    let form = VniForm::V1 {
        used,
        cursor: VniAllocator::FIRST,
    };
    let bytes = postcard::to_allocvec(&form).expect("memory is the only limit");
    let mut vnis: VniAllocator = postcard::from_bytes(&bytes).expect("well-formed");
    let first = 4_095 * 4_096 + 1;
    for number in first..=Vni::MAX.get() {
        assert_eq!(vnis.allocate().map(Vni::get), Ok(number));
    }
    let (before, hash) = (vnis.clone(), vnis.state_hash());
    let used = Vni::MAX.get() + 1;
    assert_eq!(vnis.allocate(), Err(VniError::Exhausted { used }));
    assert_eq!(
        vnis.reserve(Vni::MAX),
        Err(VniError::Taken { vni: Vni::MAX })
    );
    assert_eq!(vnis, before);
    assert_eq!(vnis.state_hash(), hash);
    assert_eq!(postcard::to_allocvec(&vnis), postcard::to_allocvec(&before));
}

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
}

#[derive(Serialize)]
enum VniForm {
    V1 { used: SetForm, cursor: Vni },
}
