mod addressing;
mod locking;
mod policy;
mod services;
mod tables;
mod watch;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use overlay_core::{EndpointId, MacAddr, NetworkId, NodeId, Vni, plane::DataPath};
use overlay_raft::RaftId;

use super::*;
use crate::api::{ClusterSettings, ClusterUpdate, NetworkCreate, Resources, Role, SubnetSpec};

#[test]
fn init_keeps_the_first_subnet_and_vni_for_published_ports() {
    let lab = Lab::new();
    let ingress = lab.network(INGRESS);
    assert!(ingress.ingress);
    assert_eq!(ingress.subnets[0].prefix, net("10.0.0.0/24"));
    assert_eq!(ingress.subnets[0].vni.get(), 4096);
    let founder = &lab.state.nodes()[&node(1)];
    assert_eq!(founder.role, Role::Manager);
    assert_eq!(founder.raft, RaftId::new(1));
}

#[test]
fn a_cluster_is_made_once_and_nothing_goes_before_it() {
    let mut lab = Lab::empty();
    assert_eq!(
        lab.refused(Command::CreateNetwork {
            id: network(1),
            spec: spec("a")
        }),
        CommandError::NotInitialized
    );
    assert_eq!(
        lab.refused(Command::AddNode(add(2, Role::Worker))),
        CommandError::NotInitialized
    );
    let token = Secret::new(vec![1; 16]).unwrap();
    assert_eq!(
        lab.refused(Command::RotateToken {
            role: Role::Worker,
            secret: token
        }),
        CommandError::NotInitialized
    );
    lab.apply(Command::InitCluster(Box::new(seed()))).unwrap();
    assert_eq!(
        lab.refused(Command::InitCluster(Box::new(seed()))),
        CommandError::AlreadyInitialized
    );
}

#[test]
fn a_survivor_goes_on_alone_with_everything_but_the_other_managers() {
    let mut lab = Lab::new();
    for number in [2, 3] {
        lab.apply(Command::AddNode(add(number, Role::Manager)))
            .unwrap();
    }
    lab.apply(Command::AddNode(add(4, Role::Worker))).unwrap();
    let id = lab.create("a").unwrap();
    for on in [1, 2, 4] {
        let attach = AttachEndpoint {
            node: node(on),
            ..lab_attach(id, &format!("e{on}"), None, 1_000 + u64::from(on))
        };
        lab.apply(Command::AttachEndpoint(attach)).unwrap();
    }
    lab.apply(Command::RemoveNode { node: node(3) }).unwrap();
    assert_eq!(lab.state.former().len(), 1);
    let generation = |lab: &Lab, name| lab.state.endpoints()[&lab.named(name)].generation;
    let before = generation(&lab, "e4");
    let recover = |number, epoch| Command::Recover {
        manager: node(number),
        epoch,
    };
    let unknown = CommandError::UnknownNode { node: node(4) };
    assert_eq!(lab.refused(recover(4, 1)), unknown, "a worker holds no log");
    lab.apply(recover(1, 1)).unwrap();
    let nodes: Vec<_> = lab.state.nodes().keys().copied().collect();
    assert_eq!(nodes, [node(1), node(4)]);
    assert!(lab.state.former().is_empty());
    let left = lab
        .state
        .endpoints()
        .values()
        .map(|record| record.name.as_str());
    assert_eq!(left.collect::<Vec<_>>(), ["e1", "e4"]);
    assert_eq!(lab.state.cluster().unwrap().epoch, 1);
    // It may be proposed twice; what came meanwhile stays.
    lab.apply(Command::AddNode(add(2, Role::Manager))).unwrap();
    lab.apply(recover(1, 1)).unwrap();
    assert!(lab.state.nodes().contains_key(&node(2)));
    lab.attach(id, "later", None).unwrap();
    let after = generation(&lab, "later");
    assert!(
        after > before + 1_000_000,
        "a lease outbids those that were lost"
    );
}

#[test]
fn what_is_chosen_for_the_cluster_stays_until_it_is_chosen_anew() {
    let mut lab = Lab::new();
    let update = |task_history_limit, heartbeat_ms| Command::UpdateCluster {
        change: ClusterUpdate {
            task_history_limit,
            heartbeat_ms,
            ..ClusterUpdate::default()
        },
    };
    let settings = |lab: &Lab| lab.state.cluster().unwrap().settings;
    lab.apply(update(Some(2), None)).unwrap();
    lab.apply(update(None, Some(1))).unwrap();
    let expected = ClusterSettings {
        task_history_limit: 2,
        heartbeat_ms: Some(100),
        ..ClusterSettings::default()
    };
    assert_eq!(settings(&lab), expected, "not as often as was asked for");
    for wrong in [update(Some(101), None), update(None, Some(3_600_001))] {
        let refused = lab.refused(wrong);
        assert!(matches!(refused, CommandError::Limit { .. }), "{refused}");
    }
    assert_eq!(settings(&lab), expected);
}

#[test]
fn a_bridge_is_on_one_node_and_goes_with_it() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let bridge = || NetworkCreate {
        driver: "bridge".to_owned(),
        ..spec("here")
    };
    let create = |lab: &mut Lab, actor| {
        let (index, request) = (lab.next + 1, RequestId::from_bytes([actor; 16]));
        lab.next = index;
        let command = Command::CreateNetwork {
            id: network(77),
            spec: bridge(),
        };
        let proposal = Proposal {
            request,
            actor: node(actor),
            at_unix_ms: 0,
            command,
        };
        lab.state.apply(index, proposal)
    };
    create(&mut lab, 2).unwrap();
    assert_eq!(lab.network("here").node, Some(node(2)));
    let id = network(77);
    let elsewhere = lab.attach(id, "one", None).unwrap_err();
    assert!(
        matches!(elsewhere, CommandError::LocalNetwork { .. }),
        "{elsewhere}"
    );
    let attach = AttachEndpoint {
        node: node(2),
        ..lab_attach(id, "two", None, 500)
    };
    lab.apply(Command::AttachEndpoint(attach)).unwrap();
    lab.apply(Command::RemoveNode { node: node(2) }).unwrap();
    assert!(!lab.state.networks().contains_key(&id));
    // Its subnet is free again.
    create(&mut lab, 1).unwrap();
    assert_eq!(lab.network("here").subnets[0].prefix, net("10.0.1.0/24"));
    for name in ["host", "none"] {
        let refused = lab.create(name).unwrap_err();
        assert!(
            matches!(refused, CommandError::Predefined { .. }),
            "{refused}"
        );
    }
}

#[test]
fn an_init_that_fails_half_way_leaves_nothing() {
    let mut lab = Lab::empty();
    let overlapping = vec![net("10.0.0.0/8"), net("10.1.0.0/16")];
    for bad in [
        ClusterSeed {
            pools: overlapping,
            ..seed()
        },
        // Fails last, after the pools, the cluster and the network `ingress` were made.
        ClusterSeed {
            manager: AddNode {
                hostname: "not a name".to_owned(),
                ..add(1, Role::Manager)
            },
            ..seed()
        },
    ] {
        lab.refused(Command::InitCluster(Box::new(bad)));
        assert!(lab.state.cluster().is_none() && lab.state.networks().is_empty());
    }
}

#[test]
fn pools_of_the_cluster_replace_the_default_one() {
    let mut lab = Lab::empty();
    let pools = vec![net("172.30.0.0/16")];
    let seed = ClusterSeed {
        pools,
        pool_split: 26,
        ..seed()
    };
    lab.apply(Command::InitCluster(Box::new(seed))).unwrap();
    assert_eq!(lab.network(INGRESS).subnets[0].prefix, net("172.30.0.0/26"));
    lab.create("a").unwrap();
    assert_eq!(lab.network("a").subnets[0].prefix, net("172.30.0.64/26"));
}

#[test]
fn subnets_are_lowest_first_and_come_back_while_vnis_go_on() {
    let mut lab = Lab::new();
    let first = lab.create("a").unwrap();
    lab.create("b").unwrap();
    let a = lab.network("a").subnets[0].clone();
    assert_eq!((a.prefix, a.vni.get()), (net("10.0.1.0/24"), 4097));
    assert_eq!(a.gateway, Some(ip("10.0.1.1")));
    let b = &lab.network("b").subnets[0];
    assert_eq!((b.prefix, b.vni.get()), (net("10.0.2.0/24"), 4098));
    lab.apply(Command::RemoveNetwork { network: first })
        .unwrap();
    lab.create("c").unwrap();
    let c = &lab.network("c").subnets[0];
    assert_eq!((c.prefix, c.vni.get()), (net("10.0.1.0/24"), 4099));
}

#[test]
fn a_24_has_253_addresses_and_no_more() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    let mut addresses = BTreeSet::new();
    for n in 0..253 {
        let endpoint = lab.attach(network, &format!("e{n}"), None).unwrap();
        addresses.insert(lab.state.endpoints()[&endpoint].addresses[0]);
    }
    assert_eq!(addresses.len(), 253);
    assert_eq!(addresses.first(), Some(&net("10.0.1.2/24")));
    assert_eq!(addresses.last(), Some(&net("10.0.1.254/24")));
    let full = CommandError::SubnetFull {
        network: "a".to_owned(),
        used: 253,
    };
    assert_eq!(lab.attach(network, "one-more", None), Err(full));
    let gone = lab.named("e7");
    lab.detach(gone).unwrap();
    assert!(
        lab.attach(network, "one-more", None).is_ok(),
        "an address that was given back is given out when it is the last"
    );
}

#[test]
fn an_address_that_was_given_back_is_not_given_out_next() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    for name in ["e2", "e3", "e4"] {
        lab.attach(network, name, None).unwrap();
    }
    let gone = lab.named("e3");
    lab.detach(gone).unwrap();
    let next = lab.attach(network, "e5", None).unwrap();
    assert_eq!(lab.address(next), ip("10.0.1.5"));
}

#[test]
fn the_mac_address_is_made_from_the_ip_address() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    let endpoint = lab.attach(network, "e", Some(ip("10.0.1.35"))).unwrap();
    let record = &lab.state.endpoints()[&endpoint];
    assert_eq!(record.mac, MacAddr::new([0x02, 0x42, 10, 0, 1, 0x23]));
    assert_eq!(record.addresses, [net("10.0.1.35/24")]);
}

#[test]
fn an_address_asked_for_is_given_or_refused_with_the_reason() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    lab.attach(network, "e", Some(ip("10.0.1.9"))).unwrap();
    let taken = lab.attach(network, "f", Some(ip("10.0.1.9"))).unwrap_err();
    assert_eq!(
        taken,
        CommandError::AddressInUse {
            address: ip("10.0.1.9"),
            network: "a".to_owned()
        }
    );
    for unusable in ["10.0.2.9", "10.0.1.0", "10.0.1.1", "10.0.1.255", "fd00::1"] {
        let error = lab.attach(network, "f", Some(ip(unusable))).unwrap_err();
        assert!(
            matches!(error, CommandError::AddressUnusable { .. }),
            "{unusable}: {error}"
        );
    }
    lab.attach(network, "f", Some(ip("10.0.1.254"))).unwrap();
}

#[test]
fn names_are_unique_for_each_network_whatever_their_case() {
    let mut lab = Lab::new();
    let (a, b) = (lab.create("a").unwrap(), lab.create("b").unwrap());
    let first = lab.attach(a, "web", None).unwrap();
    assert_eq!(
        lab.attach(a, "WEB", None),
        Err(CommandError::NameInUse {
            name: "WEB".to_owned(),
            network: "a".to_owned(),
            endpoint: first
        })
    );
    lab.attach(b, "web", None).unwrap();
    assert_eq!(
        lab.create("a"),
        Err(CommandError::NetworkExists {
            name: "a".to_owned(),
            network: a
        })
    );
    let ingress = lab.create(INGRESS).unwrap_err();
    assert!(matches!(ingress, CommandError::InvalidNetwork { .. }));
}

#[test]
fn names_have_1_to_63_plain_characters() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    for good in ["x", "a.b", "a-b_c", "9", &"n".repeat(63)] {
        lab.attach(network, good, None).unwrap();
    }
    for bad in [
        "",
        "-a",
        ".a",
        "a.",
        "a..b",
        "a b",
        "ä",
        "a/b",
        &"n".repeat(64),
    ] {
        let error = lab.attach(network, bad, None).unwrap_err();
        let expected = CommandError::InvalidName {
            name: bad.to_owned(),
        };
        assert_eq!(error, expected);
        assert_eq!(lab.create(bad), Err(expected));
    }
    let aliases = |count| AttachEndpoint {
        aliases: vec!["x".to_owned(); count],
        ..lab_attach(network, "many", None, 900)
    };
    assert!(matches!(
        lab.refused(Command::AttachEndpoint(aliases(17))),
        CommandError::Limit { limit: 16, .. }
    ));
    lab.apply(Command::AttachEndpoint(aliases(16))).unwrap();
}

#[test]
fn an_overlap_names_the_network_that_has_the_other_subnet() {
    let mut lab = Lab::new();
    lab.create("a").unwrap();
    let error = lab
        .create_with("b", |spec| spec.subnets = vec![subnet("10.0.1.128/25")])
        .unwrap_err();
    assert_eq!(
        error,
        CommandError::SubnetOverlap {
            subnet: net("10.0.1.128/25"),
            other: net("10.0.1.0/24"),
            name: "a".to_owned()
        }
    );
    assert!(error.to_string().contains("\"a\""), "{error}");
    let error = lab
        .create_with("b", |spec| {
            spec.subnets = vec![subnet("192.168.0.0/16"), subnet("192.168.7.0/24")];
        })
        .unwrap_err();
    assert!(
        matches!(error, CommandError::SubnetOverlap { ref name, .. } if name.is_empty()),
        "{error}"
    );
    let error = lab
        .create_with("b", |spec| spec.subnets = vec![subnet("192.168.1.7/24")])
        .unwrap_err();
    assert_eq!(
        error,
        CommandError::HostBits {
            subnet: net("192.168.1.7/24"),
            expected: net("192.168.1.0/24")
        }
    );
    // What was refused took nothing.
    lab.create_with("b", |spec| spec.subnets = vec![subnet("192.168.0.0/16")])
        .unwrap();
}

#[test]
fn a_subnet_of_any_address_is_cut_from_the_pools() {
    let mut lab = Lab::new();
    lab.create_with("a", |spec| spec.subnets = vec![subnet("0.0.0.0/26")])
        .unwrap();
    let prefix = lab.network("a").subnets[0].prefix;
    assert_eq!(prefix.prefix_len(), 26);
    assert!(net("10.0.0.0/8").contains(&prefix));
    lab.create_with("b", |spec| spec.subnets = vec![subnet("0.0.0.0/7")])
        .unwrap_err();
}

#[test]
fn a_range_bounds_what_is_chosen_and_not_what_is_asked_for() {
    let mut lab = Lab::new();
    let network = lab
        .create_with("a", |spec| {
            spec.subnets = vec![SubnetSpec {
                subnet: Some(net("10.1.0.0/16")),
                gateway: Some(ip("10.1.255.254")),
                ip_range: Some(net("10.1.2.0/26")),
                ..SubnetSpec::default()
            }];
        })
        .unwrap();
    assert_eq!(
        lab.network("a").subnets[0].gateway,
        Some(ip("10.1.255.254"))
    );
    lab.attach(network, "far", Some(ip("10.1.200.7"))).unwrap();
    for n in 0..70 {
        match lab.attach(network, &format!("e{n}"), None) {
            Ok(endpoint) => {
                let address = lab.address(endpoint);
                assert!(net("10.1.2.0/26").contains(&address), "{address}");
            }
            Err(error) => {
                assert!(n > 60, "{n}: {error}");
                assert!(matches!(error, CommandError::SubnetFull { .. }), "{error}");
                return;
            }
        }
    }
    panic!("a range of 64 addresses has no 70");
}

#[test]
fn a_gateway_outside_of_its_subnet_is_refused_and_takes_nothing() {
    let mut lab = Lab::new();
    let bad = |spec: &mut NetworkCreate| {
        spec.subnets = vec![SubnetSpec {
            gateway: Some(ip("10.9.0.1")),
            ..subnet("10.8.0.0/24")
        }];
    };
    let error = lab.create_with("a", bad).unwrap_err();
    assert!(
        matches!(error, CommandError::InvalidSubnet { .. }),
        "{error}"
    );
    lab.create_with("a", |spec| spec.subnets = vec![subnet("10.8.0.0/24")])
        .unwrap();
    assert_eq!(lab.network("a").subnets[0].vni.get(), 4097);
}

#[test]
fn a_network_has_16_subnets_at_the_most() {
    let mut lab = Lab::new();
    let many = |count: u8| {
        move |spec: &mut NetworkCreate| {
            spec.subnets = (0..count).map(|_| subnet("0.0.0.0/28")).collect();
        }
    };
    assert!(matches!(
        lab.create_with("a", many(17)).unwrap_err(),
        CommandError::Limit { limit: 16, .. }
    ));
    let network = lab.create_with("a", many(16)).unwrap();
    // A /28 has 13 addresses; the next subnet goes on.
    for n in 0..16 * 13 {
        lab.attach(network, &format!("e{n}"), None).unwrap();
    }
    assert_eq!(
        lab.attach(network, "more", None),
        Err(CommandError::SubnetFull {
            network: "a".to_owned(),
            used: 208
        })
    );
}

#[test]
fn an_encrypted_network_is_refused_rather_than_carried_in_clear() {
    let mut lab = Lab::new();
    for value in ["yes", "1", "TRUE", "aes"] {
        let error = lab.create_option("a", "encrypted", value).unwrap_err();
        assert!(
            matches!(error, CommandError::InvalidOption { .. }),
            "{error}"
        );
    }
    for (name, value, encrypted) in [("a", "false", false), ("b", "", true), ("c", "true", true)] {
        lab.create_option(name, "encrypted", value).unwrap();
        let mut networks = lab.state.networks().values();
        let made = networks.find(|network| network.name == name).unwrap();
        assert_eq!(made.is_encrypted(), encrypted);
    }
}

#[test]
fn options_are_understood_or_refused() {
    let mut lab = Lab::new();
    let mtu = "com.docker.network.driver.mtu";
    for bad in ["575", "9001", "-1", "", "many", "70000"] {
        assert!(
            matches!(
                lab.create_option("a", mtu, bad),
                Err(CommandError::InvalidOption { .. })
            ),
            "{bad}"
        );
    }
    lab.create_option("a", mtu, "576").unwrap();
    lab.create_option("b", mtu, "9000").unwrap();
    assert_eq!(lab.network("a").mtu, Some(576));
    assert_eq!(lab.network("b").mtu, Some(9000));
    for (at, (value, path)) in [
        ("auto", None),
        ("kernel", Some(DataPath::Kernel)),
        ("user", Some(DataPath::User)),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("path{at}");
        lab.create_option(&name, "data-path", value).unwrap();
        assert_eq!(lab.network(&name).data_path(), path);
    }
    assert!(matches!(
        lab.create_option("c", "data-path", "carrier-pigeon"),
        Err(CommandError::InvalidOption { .. })
    ));
    for (name, value, carries) in [("drops", "drop", false), ("carries", "carry", true)] {
        lab.create_option(name, "vlan-tags", value).unwrap();
        assert_eq!(lab.network(name).carries_vlans(), carries);
    }
    assert!(!lab.network("a").carries_vlans(), "by default");
    assert!(matches!(
        lab.create_option("c", "vlan-tags", "true"),
        Err(CommandError::InvalidOption { .. })
    ));
    assert!(matches!(
        lab.create_option("c", "no.such.option", "1"),
        Err(CommandError::InvalidOption { .. })
    ));
    let driver = lab
        .create_with("c", |spec| spec.driver = "macvlan".to_owned())
        .unwrap_err();
    let driver_name = "macvlan".to_owned();
    assert_eq!(
        driver,
        CommandError::UnknownDriver {
            driver: driver_name
        }
    );
    lab.create_with("c", |spec| spec.driver = "overlay".to_owned())
        .unwrap();
}

#[test]
fn vnis_asked_for_are_given_once() {
    let mut lab = Lab::new();
    let option = "com.docker.network.driver.overlay.vxlanid_list";
    let a = lab.create_option("a", option, "5000").unwrap();
    assert_eq!(lab.network("a").subnets[0].vni.get(), 5000);
    let vni = Vni::new(5000).unwrap();
    assert_eq!(
        lab.create_option("b", option, "5000"),
        Err(CommandError::VniInUse { vni })
    );
    let ingress = Vni::new(4096).unwrap();
    assert_eq!(
        lab.create_option("b", option, "4096"),
        Err(CommandError::VniInUse { vni: ingress })
    );
    for bad in ["16777216", "x", "", "5001,", "-1"] {
        assert!(
            matches!(
                lab.create_option("b", option, bad),
                Err(CommandError::InvalidOption { .. })
            ),
            "{bad:?}"
        );
    }
    lab.apply(Command::RemoveNetwork { network: a }).unwrap();
    lab.create_option("b", option, "5000").unwrap();
}

#[test]
fn a_network_in_use_is_not_removed() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    let one = lab.attach(network, "one", None).unwrap();
    let two = lab.attach(network, "two", None).unwrap();
    let error = lab.refused(Command::RemoveNetwork { network });
    assert!(
        matches!(error, CommandError::NetworkInUse { endpoints: 2, .. }),
        "{error}"
    );
    lab.detach(one).unwrap();
    lab.detach(two).unwrap();
    lab.apply(Command::RemoveNetwork { network }).unwrap();
    assert_eq!(
        lab.refused(Command::RemoveNetwork { network }),
        CommandError::UnknownNetwork { network }
    );
}

#[test]
fn only_attachable_networks_and_known_nodes_take_endpoints() {
    let mut lab = Lab::new();
    let closed = lab
        .create_with("closed", |spec| spec.attachable = false)
        .unwrap();
    assert!(matches!(
        lab.attach(closed, "e", None),
        Err(CommandError::NotAttachable { .. })
    ));
    let nowhere = network(99);
    assert_eq!(
        lab.attach(nowhere, "e", None),
        Err(CommandError::UnknownNetwork { network: nowhere })
    );
    let open = lab.create("open").unwrap();
    let stranger = AttachEndpoint {
        node: node(99),
        ..lab_attach(open, "e", None, 1)
    };
    assert_eq!(
        lab.refused(Command::AttachEndpoint(stranger)),
        CommandError::UnknownNode { node: node(99) }
    );
}

#[test]
fn an_endpoint_is_detached_by_its_own_node_only_and_its_identity_is_used_once() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let network = lab.create("a").unwrap();
    let endpoint = lab.attach(network, "e", None).unwrap();
    let foreign = Command::DetachEndpoint {
        endpoint,
        node: Some(node(2)),
    };
    assert_eq!(
        lab.refused(foreign),
        CommandError::NotOwner {
            endpoint,
            node: node(1)
        }
    );
    let again = AttachEndpoint {
        id: endpoint,
        ..lab_attach(network, "other", None, 1)
    };
    assert!(matches!(
        lab.refused(Command::AttachEndpoint(again)),
        CommandError::NameInUse { .. }
    ));
    lab.detach(endpoint).unwrap();
    assert_eq!(lab.network("a").addresses.leases().count(), 0);
    assert_eq!(
        lab.detach(endpoint),
        Err(CommandError::UnknownEndpoint { endpoint })
    );
}

#[test]
fn a_request_is_applied_once_also_over_a_snapshot() {
    let mut lab = Lab::new();
    let command = Command::CreateNetwork {
        id: network(50),
        spec: spec("a"),
    };
    let request = RequestId::from_bytes([7; 16]);
    let outcome = lab.apply_as(request, command.clone());
    assert_eq!(outcome, Ok(Outcome::Network(network(50))));
    let before = lab.substance();
    assert_eq!(lab.apply_as(request, command.clone()), outcome);
    lab.state = ClusterState::restore(&lab.state.snapshot()).unwrap();
    assert_eq!(lab.apply_as(request, command), outcome);
    // Also another command under the same request: it is the request that counts.
    let other = Command::RemoveNetwork {
        network: network(50),
    };
    assert_eq!(lab.apply_as(request, other), outcome);
    assert_eq!(lab.substance(), before);
}

#[test]
fn a_refusal_is_remembered_as_well() {
    let mut lab = Lab::new();
    let request = RequestId::from_bytes([8; 16]);
    let remove = |network| Command::RemoveNetwork { network };
    let refused = lab.apply_as(request, remove(network(50)));
    assert!(refused.is_err());
    lab.apply(Command::CreateNetwork {
        id: network(50),
        spec: spec("a"),
    })
    .unwrap();
    lab.state = ClusterState::restore(&lab.state.snapshot()).unwrap();
    assert_eq!(
        lab.apply_as(request, remove(network(50))),
        refused,
        "the answer that somebody may have had already"
    );
    assert_eq!(lab.state.outcome(request), Some(&refused));
}

#[test]
fn parts_in_the_consensus_are_never_used_again() {
    let mut lab = Lab::new();
    let mut seen = BTreeSet::from([RaftId::new(1).unwrap()]);
    let mut fresh = |outcome: Outcome| match outcome {
        Outcome::Node(_, Some(raft)) => assert!(seen.insert(raft), "{raft} twice"),
        other => panic!("{other:?} is no manager"),
    };
    fresh(lab.apply(Command::AddNode(add(2, Role::Manager))).unwrap());
    for _ in 0..3 {
        let demoted = lab.set_role(2, Role::Worker).unwrap();
        assert_eq!(demoted, Outcome::Node(node(2), None));
        fresh(lab.set_role(2, Role::Manager).unwrap());
    }
    // A node that joins again has an empty log.
    fresh(lab.apply(Command::AddNode(add(2, Role::Manager))).unwrap());
    lab.apply(Command::RemoveNode { node: node(2) }).unwrap();
    fresh(lab.apply(Command::AddNode(add(2, Role::Manager))).unwrap());
    lab.state = ClusterState::restore(&lab.state.snapshot()).unwrap();
    fresh(lab.apply(Command::AddNode(add(3, Role::Manager))).unwrap());
}

#[test]
fn a_part_that_a_node_had_is_kept_until_it_is_retired() {
    let mut lab = Lab::new();
    let part = |lab: &Lab| lab.state.nodes()[&node(2)].raft.unwrap();
    let join = || Command::AddNode(add(2, Role::Manager));
    let mut parts = BTreeSet::new();
    lab.apply(join()).unwrap();
    for end in [
        join(),
        Command::SetRole {
            node: node(2),
            role: Role::Worker,
        },
        Command::RemoveNode { node: node(2) },
    ] {
        lab.apply(join()).unwrap();
        parts.extend([part(&lab)]);
        lab.apply(end).unwrap();
        assert!(
            parts
                .iter()
                .all(|part| lab.state.former().contains_key(part)),
            "{parts:?} of {:?}",
            lab.state.former()
        );
    }
    let first = *parts.first().unwrap();
    let before = lab.state.former().len();
    lab.apply(Command::RetireParts { parts: vec![first] })
        .unwrap();
    assert_eq!(lab.state.former().len(), before - 1);
    assert!(!lab.state.former().contains_key(&first));
}

#[test]
fn a_role_that_a_node_has_already_changes_nothing() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let before = lab.substance();
    assert_eq!(lab.set_role(1, Role::Manager), Ok(Outcome::Done));
    assert_eq!(lab.set_role(2, Role::Worker), Ok(Outcome::Done));
    assert_eq!(lab.substance(), before);
    assert_eq!(
        lab.set_role(9, Role::Manager),
        Err(CommandError::UnknownNode { node: node(9) })
    );
}

#[test]
fn the_last_manager_stays() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let last = CommandError::LastManager { node: node(1) };
    assert_eq!(lab.set_role(1, Role::Worker), Err(last.clone()));
    assert_eq!(
        lab.refused(Command::RemoveNode { node: node(1) }),
        last,
        "whoever asks"
    );
    lab.set_role(2, Role::Manager).unwrap();
    assert_eq!(
        lab.refused(Command::AddNode(add(2, Role::Worker))),
        CommandError::IsManager { node: node(2) },
        "joining is not a way to demote"
    );
    lab.set_role(1, Role::Worker).unwrap();
    assert_eq!(
        lab.set_role(2, Role::Worker),
        Err(CommandError::LastManager { node: node(2) })
    );
}

#[test]
fn what_a_removed_node_ran_is_gone_and_its_addresses_are_free() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let network = lab.create("a").unwrap();
    lab.attach(network, "stays", None).unwrap();
    for (id, name) in [(800, "goes1"), (801, "goes2")] {
        let attach = AttachEndpoint {
            node: node(2),
            ..lab_attach(network, name, None, id)
        };
        lab.apply(Command::AttachEndpoint(attach)).unwrap();
    }
    assert_eq!(lab.network("a").addresses.leases().count(), 3);
    lab.apply(Command::RemoveNode { node: node(2) }).unwrap();
    let left: Vec<_> = lab
        .state
        .endpoints()
        .values()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    assert_eq!(left, ["stays"]);
    assert_eq!(lab.network("a").addresses.leases().count(), 1);
    lab.attach(network, "goes1", Some(ip("10.0.1.3"))).unwrap();
}

#[test]
fn a_node_that_joins_again_keeps_what_it_runs() {
    let mut lab = Lab::new();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let network = lab.create("a").unwrap();
    let attach = AttachEndpoint {
        node: node(2),
        ..lab_attach(network, "e", None, 800)
    };
    lab.apply(Command::AttachEndpoint(attach)).unwrap();
    let moved = AddNode {
        address: ip("192.0.2.77"),
        ..add(2, Role::Worker)
    };
    lab.apply(Command::AddNode(moved)).unwrap();
    assert_eq!(lab.state.nodes()[&node(2)].address, ip("192.0.2.77"));
    assert_eq!(lab.state.endpoints_of(network).count(), 1);
    let address = ip("192.0.2.78");
    let describe = |hostname: &str| {
        let description = NodeDescription {
            issuer: [0; 32],
            hostname: hostname.to_owned(),
            address,
            management_port: 2_378,
            gossip_port: 7_947,
            version: "0.2.0".to_owned(),
            resources: Resources::default(),
            routes: Vec::new(),
        };
        let node = node(2);
        Command::DescribeNode { node, description }
    };
    let refused = lab.refused(describe("a b"));
    assert!(
        matches!(refused, CommandError::InvalidName { .. }),
        "{refused:?}"
    );
    lab.apply(describe("moved")).unwrap();
    let record = &lab.state.nodes()[&node(2)];
    assert_eq!(record.management(), "192.0.2.78:2378".parse().unwrap());
    assert_eq!(record.gossip(), "192.0.2.78:7947".parse().unwrap());
    assert_eq!((&*record.hostname, &*record.version), ("moved", "0.2.0"));
}

#[test]
fn a_rotated_token_replaces_its_own_kind_only() {
    let mut lab = Lab::new();
    let before = lab.state.cluster().unwrap().clone();
    for (role, byte) in [(Role::Worker, 0xa), (Role::Manager, 0xb)] {
        let secret = Secret::new(vec![byte; 16]).unwrap();
        lab.apply(Command::RotateToken { role, secret }).unwrap();
    }
    let after = lab.state.cluster().unwrap();
    assert_ne!(after.worker_token, before.worker_token);
    assert_eq!(after.worker_token.expose(), [0xa; 16]);
    assert_eq!(after.manager_token.expose(), [0xb; 16]);
}

#[test]
fn a_snapshot_that_is_cut_or_of_another_kind_is_refused() {
    let lab = Lab::new();
    let bytes = lab.state.snapshot();
    assert!(ClusterState::restore(&bytes).is_ok());
    for length in [0, 5, 9, 10, bytes.len() - 1] {
        let error = ClusterState::restore(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, SnapshotError::Truncated { .. }),
            "{length}: {error}"
        );
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(ClusterState::restore(&longer).is_err());
    let mut later = bytes.clone();
    later[1] = 2;
    assert_eq!(
        ClusterState::restore(&later).unwrap_err(),
        SnapshotError::Version { found: 2, known: 1 }
    );
    let mut other = bytes;
    other[0] = b'X';
    assert_eq!(
        ClusterState::restore(&other).unwrap_err(),
        SnapshotError::Malformed
    );
}

#[test]
fn secrets_are_not_printed() {
    let lab = Lab::new();
    let printed = format!("{:?}", lab.state);
    assert!(printed.contains("Secret(..)"));
    for secret in ["5, 5, 5", "6, 6, 6", "050505", "PRIVATE"] {
        assert!(!printed.contains(secret), "{secret}");
    }
}

/// A state, the next index and numbers for whatever needs one.
struct Lab {
    state: ClusterState,
    next: u64,
}

impl Lab {
    fn empty() -> Self {
        Self {
            state: ClusterState::new(),
            next: 0,
        }
    }

    fn new() -> Self {
        let mut lab = Self::empty();
        lab.apply(Command::InitCluster(Box::new(seed()))).unwrap();
        lab
    }

    fn apply_as(&mut self, request: RequestId, command: Command) -> Result<Outcome, CommandError> {
        self.next += 1;
        let proposal = Proposal {
            request,
            actor: node(1),
            at_unix_ms: 1_000 * self.next,
            command,
        };
        let before = self.substance();
        let known = self.state.outcome(request).is_some();
        let outcome = self.state.apply(self.next, proposal);
        assert_eq!(self.state.applied(), self.next);
        assert_eq!(self.state.check(), Ok(()));
        if outcome.is_err() || known {
            assert_eq!(self.substance(), before, "{outcome:?} changed something");
        }
        outcome
    }

    /// Applies under a request of its own.
    fn apply(&mut self, command: Command) -> Result<Outcome, CommandError> {
        let request = RequestId::from_bytes(u128::from(self.next + 1).to_be_bytes());
        self.apply_as(request, command)
    }

    fn refused(&mut self, command: Command) -> CommandError {
        self.apply(command).unwrap_err()
    }

    /// The hash of the state without what every command changes: the index, the requests that are remembered, and the
    /// last index that a subnet has seen, by which quarantines end.
    fn substance(&self) -> [u8; 32] {
        let state = ClusterState {
            applied: 0,
            requests: Requests::default(),
            ..self.state.clone()
        };
        state.hash()
    }

    fn create_with(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut NetworkCreate),
    ) -> Result<NetworkId, CommandError> {
        let mut spec = spec(name);
        change(&mut spec);
        let id = network(u8::try_from(self.next + 1).unwrap_or(u8::MAX));
        match self.apply(Command::CreateNetwork { id, spec })? {
            Outcome::Network(network) => Ok(network),
            other => panic!("{other:?} is no network"),
        }
    }

    fn create(&mut self, name: &str) -> Result<NetworkId, CommandError> {
        self.create_with(name, |_| {})
    }

    fn create_option(
        &mut self,
        name: &str,
        option: &str,
        value: &str,
    ) -> Result<NetworkId, CommandError> {
        self.create_with(name, |spec| {
            spec.options.insert(option.to_owned(), value.to_owned());
        })
    }

    fn attach(
        &mut self,
        network: NetworkId,
        name: &str,
        address: Option<IpAddr>,
    ) -> Result<EndpointId, CommandError> {
        let attach = lab_attach(network, name, address, self.next + 1);
        match self.apply(Command::AttachEndpoint(attach))? {
            Outcome::Endpoint(endpoint) => Ok(endpoint),
            other => panic!("{other:?} is no endpoint"),
        }
    }

    fn detach(&mut self, endpoint: EndpointId) -> Result<Outcome, CommandError> {
        let node = Some(node(1));
        self.apply(Command::DetachEndpoint { endpoint, node })
    }

    fn set_role(&mut self, number: u8, role: Role) -> Result<Outcome, CommandError> {
        let node = node(number);
        self.apply(Command::SetRole { node, role })
    }

    fn network(&self, name: &str) -> &NetworkRecord {
        let mut networks = self.state.networks().values();
        networks.find(|network| network.name == name).unwrap()
    }

    fn named(&self, name: &str) -> EndpointId {
        let mut endpoints = self.state.endpoints().values();
        endpoints.find(|endpoint| endpoint.name == name).unwrap().id
    }

    fn address(&self, endpoint: EndpointId) -> IpAddr {
        self.state.endpoints()[&endpoint].addresses[0].addr()
    }
}

fn lab_attach(
    network: NetworkId,
    name: &str,
    address: Option<IpAddr>,
    number: u64,
) -> AttachEndpoint {
    AttachEndpoint {
        id: EndpointId::from_bytes(u128::from(number).to_be_bytes()),
        node: node(1),
        network,
        name: name.to_owned(),
        aliases: Vec::new(),
        addresses: address.into_iter().collect(),
    }
}

fn seed() -> ClusterSeed {
    ClusterSeed {
        id: node(200),
        ca_certificate: "a certificate".to_owned(),
        ca_key: Secret::any(b"PRIVATE".to_vec()),
        lease_key: Secret::new(vec![5; 32]).unwrap(),
        gossip_keys: [6, 7, 8].map(|byte| Secret::new(vec![byte; 16]).unwrap()),
        worker_token: Secret::new(vec![5; 16]).unwrap(),
        manager_token: Secret::new(vec![6; 16]).unwrap(),
        pools: Vec::new(),
        pool_split: 24,
        ingress: network(255),
        manager: add(1, Role::Manager),
    }
}

fn add(number: u8, role: Role) -> AddNode {
    AddNode {
        id: node(number),
        hostname: format!("host{number}"),
        role,
        address: IpAddr::from([192, 0, 2, number]),
        management_port: 2377,
        gossip_port: 7946,
        version: "0.1.0".to_owned(),
        key: [0; 32],
    }
}

fn spec(name: &str) -> NetworkCreate {
    NetworkCreate {
        name: name.to_owned(),
        attachable: true,
        ..NetworkCreate::default()
    }
}

fn subnet(prefix: &str) -> SubnetSpec {
    SubnetSpec {
        subnet: Some(net(prefix)),
        gateway: None,
        ip_range: None,
        ..SubnetSpec::default()
    }
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn network(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 16])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
