use ipnet::IpNet;
use overlay_ipam::{PoolConfig, PoolError, Pools, SubnetRequest};
use proptest::{collection::vec, prelude::*};

use crate::stored;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Allocate(SubnetRequest, Vec<IpNet>),
    /// Releases the n-th of what is allocated.
    Release(usize),
    /// Releases something that may not be allocated.
    ReleaseOther(IpNet),
}

/// Two small IPv4 pools and one IPv6 pool, so that they fill.
pub(crate) fn configs() -> Vec<PoolConfig> {
    let pool = |prefix: &str, split| PoolConfig {
        prefix: prefix.parse().expect("a prefix"),
        split,
    };
    vec![
        pool("192.168.1.0/25", 28),
        pool("10.7.0.0/26", 29),
        pool("fd00::/121", 124),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    let base = prop_oneof![
        (0_u32..64).prop_map(|at| 0x0a07_0000 | at),
        (0_u32..128).prop_map(|at| 0xc0a8_0100 | at),
        (0_u32..256).prop_map(|at| at << 24), // outside of the pools, or around them
    ];
    let v4 = (base, prop_oneof![4 => 25_u8..=32, 1 => 1_u8..25]).prop_map(|(base, length)| {
        IpNet::new(std::net::Ipv4Addr::from(base).into(), length).expect("32 at most")
    });
    let v6 = (0_u128..128, 118_u8..=128).prop_map(|(base, length)| {
        IpNet::new(
            std::net::Ipv6Addr::from(0xfd00 << 112 | base).into(),
            length,
        )
        .expect("128 at most")
    });
    // Mostly without host bits.
    (prop_oneof![3 => v4, 1 => v6], 0_u8..8)
        .prop_map(|(net, odd)| if odd == 0 { net } else { net.trunc() })
}

fn request() -> impl Strategy<Value = SubnetRequest> {
    prop_oneof![
        4 => Just(SubnetRequest::Any),
        4 => (24_u8..=33).prop_map(SubnetRequest::Length),
        4 => prefix().prop_map(SubnetRequest::Exact),
        2 => Just(SubnetRequest::AnyV6),
        2 => (120_u8..=129).prop_map(SubnetRequest::LengthV6),
    ]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (request(), vec(prefix(), 0..3)).prop_map(|(request, foreign)| Op::Allocate(request, foreign)),
        3 => (0_usize..20).prop_map(Op::Release),
        1 => prefix().prop_map(Op::ReleaseOther),
    ]
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Every candidate in every pool, one after the other.
fn naive(allocated: &[IpNet], request: SubnetRequest, foreign: &[IpNet]) -> Option<IpNet> {
    let (v4, length) = match request {
        SubnetRequest::Exact(prefix) => {
            let clash = allocated
                .iter()
                .chain(foreign)
                .any(|other| overlap(other, &prefix.trunc()));
            return Some(prefix).filter(|prefix| *prefix == prefix.trunc() && !clash);
        }
        SubnetRequest::Any => (true, None),
        SubnetRequest::Length(length) => (true, Some(length)),
        SubnetRequest::AnyV6 => (false, None),
        SubnetRequest::LengthV6(length) => (false, Some(length)),
    };
    let mut configs = configs();
    configs.sort();
    let pools = configs
        .iter()
        .filter(|pool| pool.prefix.addr().is_ipv4() == v4);
    let candidates = pools.flat_map(|pool| {
        let cut = pool.prefix.subnets(length.unwrap_or(pool.split));
        cut.into_iter().flatten()
    });
    let free = |candidate: &IpNet| {
        !allocated
            .iter()
            .chain(foreign)
            .any(|other| overlap(other, candidate))
    };
    candidates.into_iter().find(free)
}

fn run(op: &Op, pools: &mut Pools, model: &mut Vec<IpNet>) {
    let before = pools.state_hash();
    match op {
        Op::Allocate(request, foreign) => {
            let result = pools.allocate(*request, foreign);
            assert_eq!(
                result.ok(),
                naive(model, *request, foreign),
                "{request:?} {foreign:?}: {result:?}"
            );
            match result {
                Ok(prefix) => model.push(prefix),
                Err(PoolError::Overlap { prefix, with }) => {
                    assert!(model.contains(&with) && overlap(&prefix, &with));
                }
                Err(PoolError::Foreign { prefix, with }) => {
                    assert!(foreign.contains(&with) && overlap(&prefix, &with));
                }
                Err(_) => {}
            }
            assert_eq!(result.is_err(), before == pools.state_hash());
        }
        Op::Release(nth) => {
            if !model.is_empty() {
                let prefix = model.remove(nth % model.len());
                assert_eq!(pools.release(prefix), Ok(()));
            }
        }
        Op::ReleaseOther(prefix) => {
            let place = model.iter().position(|other| other == prefix);
            assert_eq!(pools.release(*prefix).is_ok(), place.is_some());
            place.map(|place| model.remove(place));
        }
    }
    assert_eq!(pools.len(), model.len());
    model.sort();
    assert!(pools.allocated().eq(model.iter().copied()));
}

/// Returns false if it was refused.
pub(crate) fn replay(op: &Op, pools: &mut Pools) -> bool {
    match op {
        Op::Allocate(request, foreign) => pools.allocate(*request, foreign).is_ok(),
        Op::Release(nth) => {
            let nth = nth % pools.len().max(1);
            let prefix = pools.allocated().nth(nth);
            prefix.is_none_or(|prefix| pools.release(prefix).is_ok())
        }
        Op::ReleaseOther(prefix) => pools.release(*prefix).is_ok(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn subnets_are_the_lowest_free_ones_and_never_overlap(ops in vec(op(), 0..60), probe in prefix()) {
        let mut pools = Pools::new(&configs()).unwrap();
        let mut model = Vec::new();
        for op in &ops {
            run(op, &mut pools, &mut model);
        }
        let overlapping = model.iter().find(|other| overlap(other, &probe.trunc()));
        prop_assert_eq!(pools.overlapping(probe), overlapping.copied());
        let mut again = stored(&pools);
        prop_assert_eq!(again.state_hash(), pools.state_hash());
        prop_assert_eq!(&again, &pools);
        prop_assert!(again.pools().eq(pools.pools()));
        // Everything goes back, and the pools are whole again.
        for prefix in model {
            prop_assert_eq!(pools.release(prefix), again.release(prefix));
        }
        let fresh = Pools::new(&configs()).unwrap();
        prop_assert_eq!(pools.state_hash(), fresh.state_hash());
        for length in [25, 26] {
            let request = SubnetRequest::Length(length);
            prop_assert_eq!(pools.allocate(request, &[]), fresh.clone().allocate(request, &[]));
        }
    }
}

#[test]
fn foreign_prefixes_are_skipped_at_once_and_not_remembered() {
    let mut pools = Pools::docker_default();
    let foreign: Vec<IpNet> = vec![
        "10.0.0.0/9".parse().unwrap(),
        "10.128.0.128/25".parse().unwrap(),
    ];
    let cut = pools.allocate(SubnetRequest::Any, &foreign).unwrap();
    assert_eq!(cut, "10.128.1.0/24".parse().unwrap());
    let cut = pools.allocate(SubnetRequest::Any, &[]).unwrap();
    assert_eq!(cut, "10.0.0.0/24".parse().unwrap());
    let all = ["0.0.0.0/0".parse().unwrap()];
    assert!(matches!(
        pools.allocate(SubnetRequest::Any, &all),
        Err(PoolError::Exhausted {
            allocated: 2,
            foreign: 1
        })
    ));
}

#[test]
fn the_overlapping_subnet_is_named() {
    let mut pools = Pools::docker_default();
    pools.allocate(SubnetRequest::Length(20), &[]).unwrap();
    let inner: IpNet = "10.0.3.0/24".parse().unwrap();
    let error = pools
        .allocate(SubnetRequest::Exact(inner), &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "subnet 10.0.3.0/24 overlaps subnet 10.0.0.0/20"
    );
    let odd: IpNet = "10.99.3.1/24".parse().unwrap();
    let error = pools.allocate(SubnetRequest::Exact(odd), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid subnet 10.99.3.1/24: it should be 10.99.3.0/24"
    );
}
