//! Hashes, indices, and identities that are in use.

use super::*;
use crate::api::{DesiredState, PublishMode, PublishedPort, ServiceSpec, Slot};

#[test]
fn the_identity_of_a_network_is_used_once() {
    let mut lab = Lab::new();
    let id = lab.create("a").unwrap();
    let again = Command::CreateNetwork {
        id,
        spec: spec("b"),
    };
    let in_use = CommandError::NetworkExists {
        name: "a".to_owned(),
        network: id,
    };
    assert_eq!(lab.refused(again), in_use);
}

#[test]
fn the_identity_of_a_service_is_used_once() {
    let mut lab = Lab::new();
    let id = ServiceId::from_bytes([7; 16]);
    let create = |name: &str| Command::CreateService {
        id,
        spec: Box::new(ServiceSpec {
            name: name.to_owned(),
            ..ServiceSpec::default()
        }),
    };
    lab.apply(create("one")).unwrap();
    let in_use = CommandError::ServiceExists {
        name: "one".to_owned(),
        service: id,
    };
    assert_eq!(lab.refused(create("two")), in_use);
}

/// A worker draws the identities of its endpoints itself.
#[test]
fn an_endpoint_does_not_get_the_address_of_a_service_by_its_identity() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    let id = ServiceId::from_bytes(7_u128.to_be_bytes());
    let spec = Box::new(ServiceSpec {
        name: "one".to_owned(),
        networks: vec!["a".into()],
        ..ServiceSpec::default()
    });
    lab.apply(Command::CreateService { id, spec }).unwrap();
    let address = lab.state.services()[&id].virtual_addresses[&network][0].addr();
    let attach = lab_attach(network, "thief", None, 7);
    let in_use = CommandError::AddressInUse {
        address,
        network: "a".to_owned(),
    };
    assert_eq!(lab.refused(Command::AttachEndpoint(attach)), in_use);
}

/// Likewise of the endpoint that a task will have.
#[test]
fn a_task_does_not_share_the_endpoint_of_another_one() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    let service = ServiceId::from_bytes([7; 16]);
    let spec = Box::new(ServiceSpec {
        name: "one".to_owned(),
        networks: vec!["a".into()],
        ..ServiceSpec::default()
    });
    lab.apply(Command::CreateService { id: service, spec })
        .unwrap();
    let task = TaskId::from_bytes([9; 16]);
    let number = u128::from_be_bytes([9; 16]) ^ u128::from_be_bytes(*network.as_bytes());
    let squatter = AttachEndpoint {
        id: EndpointId::from_bytes(number.to_be_bytes()),
        ..lab_attach(network, "squatter", None, 1)
    };
    let id = squatter.id;
    lab.apply(Command::AttachEndpoint(squatter)).unwrap();
    let changes = vec![
        TaskChange::Create {
            task,
            service,
            slot: Slot::Replica(1),
            spec_version: lab.state.services()[&service].spec_version,
            desired: DesiredState::Running,
        },
        TaskChange::Place {
            task,
            node: node(1),
        },
    ];
    lab.apply(Command::ChangeTasks { changes }).unwrap();
    assert_eq!(lab.state.endpoints()[&id].name, "squatter");
    let waiting = &lab.state.tasks()[&task];
    assert!(waiting.node.is_none() && waiting.endpoints.is_empty());
}

#[test]
fn ports_are_chosen_around_those_that_are_taken() {
    let mut lab = Lab::new();
    let port = |published| PublishedPort {
        published,
        target: 80,
        protocol: Default::default(),
        mode: PublishMode::Ingress,
        ..PublishedPort::default()
    };
    let mut create = |number: u8, ports: Vec<PublishedPort>| {
        let id = ServiceId::from_bytes([number; 16]);
        let spec = Box::new(ServiceSpec {
            name: format!("s{number}"),
            ports,
            ..ServiceSpec::default()
        });
        lab.apply(Command::CreateService { id, spec }).unwrap();
        let ports = lab.state.services()[&id].ports.iter();
        ports.map(|port| port.published).collect::<Vec<_>>()
    };
    create(1, vec![port(30_001)]);
    let other = PublishedPort {
        target: 81,
        ..port(0)
    };
    assert_eq!(
        create(2, vec![port(0), port(30_002), other]),
        [30_000, 30_002, 30_003]
    );
}

#[test]
fn each_part_of_the_state_is_in_the_hash() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    lab.attach(network, "e", None).unwrap();
    let base = lab.state.hash();
    let differs = |what: &str, change: &dyn Fn(&mut ClusterState)| {
        let mut state = lab.state.clone();
        change(&mut state);
        assert_ne!(state.hash(), base, "{what}");
    };
    differs("index", &|state| state.applied += 1);
    differs("part in the consensus", &|state| state.next_raft_id += 1);
    differs("pools", &|state| {
        state.pools.release(net("10.0.1.0/24")).unwrap();
    });
    differs("VNIs", &|state| {
        state.vnis.allocate().unwrap();
    });
    differs("requests", &|state| state.requests = Requests::default());
    differs("events", &|state| state.audit = Audit::default());
    differs("cluster", &|state| {
        let change = |cluster: &mut Cluster| cluster.created_unix_ms += 1;
        state.cluster.modify(&mut state.journal, (), change);
    });
    differs("former parts", &|state| {
        let part = FormerPart {
            node: node(1),
            management: "192.0.2.1:1".parse().unwrap(),
            gossip: "192.0.2.1:2".parse().unwrap(),
        };
        let id = RaftId::new(9).unwrap();
        state.former.insert(&mut state.journal, id, part);
    });
    differs("a lease", &|state| {
        state.networks.modify_part(network, |record| {
            let owner = overlay_ipam::OwnerId::from_bytes([1; 16]);
            record.addresses.allocate(owner, &[], 100).unwrap();
        });
    });
    differs("a network's label", &|state| {
        state
            .networks
            .modify(&mut state.journal, network, |record| {
                record.labels.insert("a".to_owned(), "b".to_owned());
            });
    });
}

#[test]
fn a_record_under_the_key_of_another_is_refused() {
    let lab = Lab::new();
    let mut state = lab.state.clone();
    let record = state.nodes()[&node(1)].clone();
    state.nodes.insert(&mut state.journal, node(2), record);
    assert_eq!(
        ClusterState::restore(&state.snapshot()).unwrap_err(),
        SnapshotError::Malformed
    );
    let table = "nodes";
    assert_eq!(state.check(), Err(Inconsistency::Table { table }));
}

#[test]
fn a_lease_of_nobody_is_found() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    lab.state.networks.modify_part(network, |record| {
        let owner = overlay_ipam::OwnerId::from_bytes([1; 16]);
        record.addresses.allocate(owner, &[], 100).unwrap();
    });
    let found = lab.state.check();
    assert!(
        matches!(&found, Err(Inconsistency::Leases { network: on, audit }) if *on == network && audit.orphaned.len() == 1),
        "{found:?}"
    );
}

#[test]
fn vnis_and_subnets_of_a_refused_network_are_as_if_never_taken() {
    let mut lab = Lab::new();
    let two = |spec: &mut NetworkCreate| {
        spec.subnets = vec![
            subnet("10.20.0.0/24"),
            subnet("10.20.1.0/24"),
            subnet("10.20.0.0/16"),
        ];
    };
    lab.create_with("a", two).unwrap_err();
    lab.create("b").unwrap();
    assert_eq!(lab.network("b").subnets[0].vni.get(), 4097);
}
