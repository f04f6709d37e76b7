//! Encrypted networks: what is planned for them, and what never happens.

use overlay_core::plane::{PeerKeys, SaKeys};

use super::*;
use crate::plane::guard;

#[test]
fn keys_are_replaced_without_a_gap() {
    let mut plane = plane();
    let mut desired = encrypted();
    let words = sealing_words(&plane.apply(&desired).unwrap());
    let expected = [
        "open what comes sealed to UDP 192.0.2.1:4500",
        "associate from 192.0.2.2: SPI 0x00001002",
        "associate to 192.0.2.2: SPI 0x00001001",
        "seal with SPI 0x00001001 to 192.0.2.2",
    ];
    assert_eq!(words, expected);
    assert_eq!(plane.apply(&desired).unwrap().operations, []);
    // What the peer will send with, long before it does.
    keys_of(&mut desired).inbound.push(keys(0x2002, 4));
    let words = sealing_words(&plane.apply(&desired).unwrap());
    assert_eq!(words, ["associate from 192.0.2.2: SPI 0x00002002"]);
    keys_of(&mut desired).outbound = keys(0x2001, 3);
    let words = sealing_words(&plane.apply(&desired).unwrap());
    let expected = [
        "associate to 192.0.2.2: SPI 0x00002001",
        "seal with SPI 0x00002001 to 192.0.2.2",
        "dissociate SPI 0x00001001 to 192.0.2.2",
    ];
    assert_eq!(words, expected);
    keys_of(&mut desired).inbound.remove(0);
    let words = sealing_words(&plane.apply(&desired).unwrap());
    assert_eq!(words, ["dissociate SPI 0x00001002 to 192.0.2.1"]);
    let gone = plane.apply(&Desired::default()).unwrap();
    let words: Vec<String> = gone.operations.iter().map(ToString::to_string).collect();
    let expected = [
        "seal no more to 192.0.2.2",
        "dissociate SPI 0x00002002 to 192.0.2.1",
        "dissociate SPI 0x00002001 to 192.0.2.2",
        "open no more what comes to UDP 192.0.2.1:4500",
        "remove the filter",
        "remove the guard",
    ];
    assert!(words.ends_with(&expected.map(str::to_owned)), "{words:?}");
    assert_eq!(plane.kernel().tables.sealing, Sealing::default());
}

#[test]
fn an_association_is_made_anew_only_if_it_is_another() {
    let mut plane = plane();
    let desired = encrypted();
    plane.apply(&desired).unwrap();
    let sealing = &mut plane.kernel().tables.sealing;
    let inbound = *sealing.associations.keys().next().unwrap();
    assert_eq!(inbound.spi, 0x1002);
    // A kernel that is locked down shows no keys: that is no reason to number from 1 again.
    let association = sealing.associations.get_mut(&inbound).unwrap();
    let mut shown = association.clone().unwrap();
    shown.secret.0 = None;
    *association = Some(shown.clone());
    assert_eq!(plane.apply(&desired).unwrap().operations, []);
    let other = |association: Option<crate::xfrm::Association>| {
        let mut plane = self::plane();
        plane.apply(&desired).unwrap();
        let associations = &mut plane.kernel().tables.sealing.associations;
        associations.insert(inbound, association);
        let report = plane.apply(&desired).unwrap();
        assert_eq!(plane.stats().repairs[&About::Sealing], 2);
        sealing_words(&report)
    };
    let expected = [
        "dissociate SPI 0x00001002 to 192.0.2.1",
        "associate from 192.0.2.2: SPI 0x00001002",
    ];
    let another_key = crate::xfrm::Secret(Some(keys(0x1002, 99)));
    shown.secret = another_key;
    assert_eq!(other(Some(shown.clone())), expected);
    shown.secret.0 = None;
    shown.port = 4501;
    assert_eq!(other(Some(shown)), expected);
    assert_eq!(other(None), expected);
}

#[test]
fn what_cannot_be_sealed_is_not_carried() {
    let mut plane = plane();
    let reason = NoSealing::Esp {
        error: error(Errno::ENOSYS),
    };
    plane.kernel().unfit = Some(reason.clone());
    let report = plane.apply(&encrypted()).unwrap();
    let id = NetworkId::from_bytes([1; 16]);
    assert_eq!(report.refused, [(id, Refused::Sealing { reason })]);
    closed(&plane.kernel().tables);
    let words = report.refused[0].1.to_string();
    assert!(words.contains("load the modules esp4"), "{words}");
    // A network that was in clear before is taken down.
    let mut before = encrypted();
    network(&mut before).encrypted = false;
    plane.apply(&before).unwrap();
    assert!(is_whole_with(plane.kernel(), &before));
    plane.apply(&encrypted()).unwrap();
    closed(&plane.kernel().tables);
    let port = &plane.kernel().tables.devices[&port_name(id_of_port())];
    assert_eq!(port.member, None);
}

#[test]
fn one_key_is_not_used_by_two_planes() {
    let mut desired = encrypted();
    let mut other = network(&mut desired).clone();
    other.path = DataPath::User;
    other.vni = Vni::new(4098).unwrap();
    let users = NetworkId::from_bytes([2; 16]);
    desired.networks.insert(users, other);
    let wanted = compile(&desired, &underlay(), &Abilities::ALL);
    let id = NetworkId::from_bytes([1; 16]);
    assert_eq!(wanted.refused, [(id, Refused::Paths { other: users })]);
    assert_eq!(wanted.tables.sealing, Sealing::default());
    closed(&wanted.tables);
}

#[test]
fn an_spi_is_one_peers() {
    let mut desired = encrypted();
    let twin = PeerKeys {
        outbound: keys(0x1003, 7),
        inbound: vec![keys(0x1002, 8)],
    };
    let vtep = "192.0.2.3".parse().unwrap();
    desired.peers.insert(vtep, twin);
    let refused = compile(&desired, &underlay(), &Abilities::ALL).refused;
    let id = NetworkId::from_bytes([1; 16]);
    assert_eq!(refused, [(id, Refused::Spi { vtep, spi: 0x1002 })]);
}

#[test]
fn without_a_guard_there_is_no_device() {
    // The guard is the second operation.
    let mut plane = plane();
    plane.kernel().refusals = vec![Some(Errno::EOPNOTSUPP), None];
    assert_eq!(
        plane.apply(&encrypted()).unwrap_err(),
        error(Errno::EOPNOTSUPP)
    );
    let devices = &plane.kernel().tables.devices;
    assert!(devices.contains_key("ovb4097"), "others go on");
    assert!(!devices.contains_key("ovx4097"));
    plane.apply(&encrypted()).unwrap();
    assert!(plane.kernel().tables.devices.contains_key("ovx4097"));
    // One that sent in clear goes, as long as nothing holds it back.
    let mut plane = self::plane();
    let mut before = encrypted();
    network(&mut before).encrypted = false;
    plane.apply(&before).unwrap();
    plane.kernel().refusals = vec![None, Some(Errno::EOPNOTSUPP), None];
    plane.apply(&encrypted()).unwrap_err();
    assert!(!plane.kernel().tables.devices.contains_key("ovx4097"));
}

#[test]
fn no_key_is_shown() {
    let mut plane = plane();
    let mut desired = encrypted();
    keys_of(&mut desired).outbound = keys(0x1001, 0xab);
    let report = plane.apply(&desired).unwrap();
    let shown = format!("{report:?} {:?} {plane:?}", plane.stats());
    assert!(shown.contains("4097") && shown.contains("Secret(..)"));
    for key in ["171, 171", "abab", "ABAB", "0xab"] {
        assert!(!shown.contains(key), "{key}");
    }
}

/// Nothing of the network is there but what holds it back.
fn closed(tables: &Tables) {
    let made = ["ovb4097", "ovx4097"].map(|name| tables.devices.contains_key(name));
    assert_eq!(made, [false, false]);
    assert_eq!((tables.tunnels.len(), tables.forwarding.len()), (0, 0));
    let sealed = guard::sealed(tables.guard.as_ref());
    assert_eq!(sealed, BTreeSet::from([vni()]));
}

/// As desired, on a kernel that cannot seal.
fn is_whole_with(fake: &Fake, desired: &Desired) -> bool {
    let wanted = compile(desired, &underlay(), &Abilities::ALL);
    plan(&wanted.tables, &fake.tables)
        .iter()
        .all(|operation| operation.about() == About::Sealing)
}

fn sealing_words(report: &Report) -> Vec<String> {
    let sealing = report.operations.iter();
    let sealing = sealing.filter(|operation| operation.about() == About::Sealing);
    sealing.map(ToString::to_string).collect()
}

fn encrypted() -> Desired {
    let mut desired = desired();
    network(&mut desired).encrypted = true;
    let peer = PeerKeys {
        outbound: keys(0x1001, 1),
        inbound: vec![keys(0x1002, 2)],
    };
    desired.peers.insert("192.0.2.2".parse().unwrap(), peer);
    desired
}

fn keys_of(desired: &mut Desired) -> &mut PeerKeys {
    desired.peers.values_mut().next().unwrap()
}

fn keys(spi: u32, octet: u8) -> SaKeys {
    SaKeys::new(spi, [octet; 16], [octet; 4])
}

fn id_of_port() -> EndpointId {
    id(1)
}
