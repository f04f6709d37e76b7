//! What a Docker user expects of addresses, one test for each rule.

use std::net::IpAddr;

use ipnet::IpNet;
use overlay_core::{MacAddr, Vni};
use overlay_ipam::{
    AllocateError, OwnerId, PoolConfig, PoolConfigError, PoolError, Pools, Subnet, SubnetConfig,
    SubnetRequest, VniAllocator, VniError,
};

#[test]
fn the_lowest_subnet_is_cut_and_cut_again_after_release() {
    let mut pools = Pools::docker_default();
    let mut any = || pools.allocate(SubnetRequest::Any, &[]).unwrap();
    assert_eq!(
        [any(), any(), any()],
        ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"].map(net)
    );
    pools.release(net("10.0.1.0/24")).unwrap();
    assert_eq!(
        pools.allocate(SubnetRequest::Any, &[]),
        Ok(net("10.0.1.0/24"))
    );
    assert_eq!(subnet("10.0.1.0/24").gateway(), Some(ip("10.0.1.1")));
}

#[test]
fn a_subnet_of_length_24_has_253_addresses() {
    let mut subnet = subnet("10.0.1.0/24");
    for owner in 0..253 {
        subnet.allocate(own(owner), 0).unwrap();
    }
    assert_eq!((subnet.available(), subnet.used()), (0, 253));
    let error = subnet.allocate(own(253), 0).unwrap_err();
    assert!(matches!(error, AllocateError::Exhausted { usage, .. } if usage.capacity == 253));
    let text = "no available addresses in 10.0.1.0/24: 253 of 253 are in use";
    assert_eq!(error.to_string(), text);
    for edge in ["10.0.1.0", "10.0.1.1", "10.0.1.255"] {
        assert_eq!(subnet.owner(ip(edge)), None);
    }
}

#[test]
fn addresses_are_serial_and_wrap() {
    let mut subnet = subnet("10.0.1.0/28");
    for (owner, expected) in (0..3).zip(["10.0.1.2", "10.0.1.3", "10.0.1.4"]) {
        assert_eq!(
            subnet.allocate(own(owner), 1).unwrap().address,
            ip(expected)
        );
    }
    subnet.release_owner(own(1), 2).unwrap();
    for (owner, last) in (3..13).zip(5..15) {
        let lease = subnet.allocate(own(owner), 3).unwrap();
        assert_eq!(lease.address, ip(&format!("10.0.1.{last}")));
    }
    assert_eq!(subnet.allocate(own(13), 4).unwrap().address, ip("10.0.1.3"));
    assert!(subnet.allocate(own(14), 5).is_err());
}

#[test]
fn states_that_differ_in_one_lease_are_not_equal() {
    let (mut one, other) = (subnet("10.0.1.0/24"), subnet("10.0.1.0/24"));
    assert_eq!((&one, one.state_hash()), (&other, other.state_hash()));
    one.allocate(own(1), 0).unwrap();
    assert_ne!(one, other);
    assert_ne!(one.state_hash(), other.state_hash());
    let mut pools = Pools::docker_default();
    pools.allocate(SubnetRequest::Any, &[]).unwrap();
    assert_ne!(pools, Pools::docker_default());
}

#[test]
fn tiny_subnets_give_every_address() {
    for (prefix, addresses) in [
        ("10.0.0.4/31", &["10.0.0.4", "10.0.0.5"][..]),
        ("10.0.0.4/32", &["10.0.0.4"]),
        ("fd00::4/127", &["fd00::4", "fd00::5"]),
        ("fd00::4/128", &["fd00::4"]),
    ] {
        let mut subnet = subnet(prefix);
        assert_eq!(subnet.gateway(), None);
        for (owner, address) in (0..).zip(addresses) {
            assert_eq!(subnet.allocate(own(owner), 0).unwrap().address, ip(address));
        }
        assert!(subnet.allocate(own(9), 0).is_err());
    }
}

#[test]
fn the_first_address_of_an_ipv6_subnet_is_never_given_and_the_last_is() {
    let mut subnet = subnet("fd00::/126");
    assert_eq!(subnet.gateway(), Some(ip("fd00::1")));
    let given: Vec<_> = (0..2)
        .map(|owner| subnet.allocate(own(owner), 0).unwrap().address)
        .collect();
    assert_eq!(given, [ip("fd00::2"), ip("fd00::3")]);
    let first = subnet.reserve(own(2), ip("fd00::"), 0);
    assert!(matches!(first, Err(AllocateError::Reserved { .. })));
}

#[test]
fn an_unspecified_prefix_asks_for_a_length() {
    let mut pools = Pools::docker_default();
    let mut ask = |prefix| pools.allocate(SubnetRequest::from_prefix(net(prefix)), &[]);
    assert_eq!(ask("0.0.0.0/26"), Ok(net("10.0.0.0/26")));
    let impossible = PoolError::Length {
        length: 7,
        shortest: 8,
        longest: 32,
    };
    assert_eq!(ask("0.0.0.0/7"), Err(impossible));
    assert_eq!(ask("::/64"), Err(PoolError::NoPool));
    assert_eq!(ask("10.9.0.0/16"), Ok(net("10.9.0.0/16")));
}

#[test]
fn automatic_addresses_come_from_the_range_only() {
    let range = Some(net("10.1.2.0/26"));
    let mut subnet = Subnet::new(SubnetConfig {
        range,
        ..SubnetConfig::new(net("10.1.0.0/16"))
    })
    .unwrap();
    let explicit = subnet.reserve(own(0), ip("10.1.200.7"), 0).unwrap();
    assert_eq!(explicit.address, ip("10.1.200.7"));
    for owner in 1..=64 {
        let address = subnet.allocate(own(owner), 0).unwrap().address;
        assert!(matches!((range, address), (Some(range), address) if range.contains(&address)));
    }
    assert!(subnet.allocate(own(65), 0).is_err());
    assert_eq!(subnet.usage().explicit, 1);
}

#[test]
fn subnets_of_pools_leave_three_bits_for_hosts() {
    let new = |prefix, split| {
        Pools::new(&[PoolConfig {
            prefix: net(prefix),
            split,
        }])
        .map(drop)
    };
    assert_eq!(new("10.0.0.0/8", 29), Ok(()));
    assert!(matches!(
        new("10.0.0.0/8", 30),
        Err(PoolConfigError::Split { split_max: 29, .. })
    ));
    assert!(matches!(
        new("10.0.0.0/8", 7),
        Err(PoolConfigError::Split { .. })
    ));
    assert_eq!(new("fd00::/8", 125), Ok(()));
    assert!(matches!(
        new("fd00::/8", 126),
        Err(PoolConfigError::Split { split_max: 125, .. })
    ));
}

#[test]
fn network_identifiers_are_serial_from_4096() {
    let mut vnis = VniAllocator::new();
    assert_eq!(
        [vnis.allocate(), vnis.allocate()],
        [Ok(vni(4096)), Ok(vni(4097))]
    );
    assert_eq!(
        vnis.reserve(vni(4097)),
        Err(VniError::Taken { vni: vni(4097) })
    );
    assert_eq!(
        (vnis.reserve(vni(0)), vnis.reserve(Vni::MAX)),
        (Ok(()), Ok(()))
    );
    assert!(vnis.release(vni(4096)));
    assert_eq!(vnis.allocate(), Ok(vni(4098)));
}

#[test]
fn a_mac_address_follows_from_the_address() {
    let IpAddr::V4(address) = ip("10.0.1.35") else {
        unreachable!()
    };
    assert_eq!(MacAddr::from_ipv4(address).to_string(), "02:42:0a:00:01:23");
}

fn subnet(prefix: &str) -> Subnet {
    Subnet::new(SubnetConfig::new(net(prefix))).expect("a valid subnet")
}

fn own(number: u128) -> OwnerId {
    OwnerId::from_bytes(number.to_be_bytes())
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn vni(number: u32) -> Vni {
    Vni::new(number).expect("24 bits")
}
