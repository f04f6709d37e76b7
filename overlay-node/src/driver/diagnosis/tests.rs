//! What is said of what was found.

use std::collections::BTreeSet;

use overlay_core::{
    EndpointId, MacAddr, NetworkId, Vni,
    plane::{ActualPort, Change, DesiredNetwork, DesiredPort},
};

use super::*;

fn endpoint() -> EndpointId {
    EndpointId::from_bytes([1; 16])
}

fn desired(path: DataPath) -> Desired {
    let port = DesiredPort {
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        addresses: vec![
            "10.0.1.2/24".parse().unwrap(),
            "fd00::2/64".parse().unwrap(),
        ],
    };
    let network = DesiredNetwork {
        vlan_tags: false,
        encrypted: false,
        policy: Default::default(),
        vni: Vni::new(4_097).unwrap(),
        path,
        subnets: Vec::new(),
        mtu: 1_450,
        ports: [(endpoint(), port)].into(),
        remotes: BTreeMap::new(),
        vteps: BTreeSet::new(),
        services: BTreeMap::new(),
    };
    Desired {
        peers: Default::default(),
        underlay: None,
        networks: [(NetworkId::from_bytes([1; 16]), network)].into(),
    }
}

fn actual() -> ActualPort {
    ActualPort {
        interface: "eth0".to_owned(),
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        addresses: vec![
            "fd00::2/64".parse().unwrap(),
            "10.0.1.2/24".parse().unwrap(),
        ],
        mtu: 1_450,
        up: true,
        way_out: None,
    }
}

fn ports(actual: Option<ActualPort>) -> Vec<Finding> {
    let actual = actual.map(|actual| (endpoint(), actual));
    tables(
        Some(Ok(Vec::new())),
        &desired(DataPath::User),
        Some(Ok(actual.into_iter().collect())),
    )
}

#[test]
fn a_port_is_compared_with_what_it_shall_be() {
    let [good] = &ports(Some(actual()))[..] else {
        panic!("one finding");
    };
    assert_eq!((good.health, &good.advice), (Health::Good, &None));
    let [none] = &ports(None)[..] else {
        panic!("one finding");
    };
    assert_eq!(none.health, Health::Bad);
    type Meddle = fn(&mut ActualPort);
    let changes: [(Meddle, &str); 4] = [
        (|port| port.up = false, "down"),
        (|port| port.mtu = 1_000, "MTU is 1000, not 1450"),
        (
            |port| port.mac = MacAddr::BROADCAST,
            "not 02:00:00:00:00:01",
        ),
        (
            |port| port.addresses.truncate(1),
            "addresses are [fd00::2/64], not [10.0.1.2/24, fd00::2/64]",
        ),
    ];
    for (change, words) in changes {
        let mut port = actual();
        change(&mut port);
        let found = ports(Some(port));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].health, Health::Warning, "it is being repaired");
        assert!(found[0].found.contains(words), "{found:?}");
    }
}

#[test]
fn what_the_kernel_has_to_change_is_told_line_by_line() {
    let planned = |changes: &[&str]| {
        let changes = changes.iter().map(|action| Change::new(None, *action));
        let planned = Some(Ok(changes.collect()));
        let found = tables(planned, &desired(DataPath::Kernel), None);
        found.iter().map(|one| one.health).collect::<Vec<_>>()
    };
    assert_eq!(planned(&[]), [Health::Good]);
    assert_eq!(planned(&["a", "b"]), [Health::Warning; 2]);
}

#[test]
fn a_clock_that_was_set_is_told() {
    let by = |seconds| Drift {
        ahead: false,
        by: Duration::from_secs(seconds),
    };
    assert_eq!(clock(by(1)).health, Health::Good);
    let set = clock(by(60));
    assert_eq!(set.health, Health::Warning);
    assert!(set.found.contains("back by 60s"), "{set:?}");
}

#[test]
fn frames_that_were_lost_are_told_by_reason() {
    assert_eq!(frames_lost(&Report::default()), []);
    let lost = Report {
        drops: vec![(None, overlay_vxlan::Drops::default())],
        not_sent: 7,
        ..Report::default()
    };
    let [finding] = &frames_lost(&lost)[..] else {
        panic!("one finding: what was not dropped is not told");
    };
    assert_eq!((finding.health, &*finding.found), (Health::Warning, "7"));
}

#[test]
fn a_narrow_path_is_told_with_both_sizes() {
    let info = |mtu| PathInfo {
        vtep: "192.0.2.2".parse().unwrap(),
        mtu,
    };
    assert_eq!(path(&info(None), Some(1_500)), None);
    let found = |mtu| path(&info(Some(mtu)), Some(1_500)).unwrap();
    assert_eq!(found(1_500).health, Health::Good);
    assert_eq!(found(1_400).health, Health::Warning);
    assert!(found(1_400).advice.unwrap().contains("1400"));
}
