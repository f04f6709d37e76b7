mod namespaces;
mod readiness;

use overlay_core::{
    MacAddr, NodeId, ServiceId, Vni,
    plane::{DataPath, Distance},
};
use overlay_gossip::{Lease, PortMapping};

use proptest::prelude::*;

use super::*;
use crate::{
    api::{
        Balance, DesiredState, Locality, Protocol, PublishMode, PublishedPort, Role, Slot,
        TaskSpec, TaskState,
    },
    identity::{LeaseSigner, Pass},
    state::{EndpointRecord, Secret, SharedKeys, TaskEndpoint},
};

#[test]
fn what_is_detached_leaves_nothing_behind() {
    let mut agent = Agent::new(config(), AgentMemory::default(), Instant::EPOCH);
    let endpoint = EndpointId::from_bytes([1; 16]);
    agent.expect(endpoint, Namespace::InProcess);
    agent.assign(Instant::EPOCH, assignment(5, &[endpoint]));
    agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
    assert_eq!(agent.poll_memory().unwrap().namespaces.len(), 1);
    while agent.poll_wish().is_some() {}
    agent.assign(Instant::EPOCH, assignment(6, &[]));
    let memory = agent.poll_memory().unwrap();
    assert!(memory.namespaces.is_empty(), "{memory:?}");
    let wishes: Vec<_> = std::iter::from_fn(|| agent.poll_wish()).collect();
    let holds = |what: fn(&Wish) -> bool| wishes.iter().any(what);
    assert!(holds(|wish| matches!(wish, Wish::RemovePort(_))));
    assert!(holds(|wish| matches!(wish, Wish::RemoveClient(_))));
    assert!(holds(|wish| matches!(wish, Wish::DeleteRow(..))));
    assert!(holds(|wish| matches!(wish, Wish::LeaveNetwork(_))));
    assert!(holds(|wish| matches!(wish, Wish::RemoveZone(_))));
    assert!(agent.endpoints().is_empty() && agent.poll_timeout().is_none());
}

#[test]
fn what_was_asked_for_in_a_former_life_and_comes_late_is_an_orphan() {
    let mut agent = Agent::new(config(), AgentMemory::default(), Instant::EPOCH);
    let (known, late) = (
        EndpointId::from_bytes([1; 16]),
        EndpointId::from_bytes([2; 16]),
    );
    agent.expect(known, Namespace::Own);
    agent.assign(Instant::EPOCH, assignment(5, &[known]));
    agent.expect(late, Namespace::Own);
    let memory = agent.poll_memory().unwrap();
    let mut again = Agent::new(config(), memory, Instant::EPOCH);
    assert_eq!(again.poll_memory().unwrap().namespaces.len(), 1);
    again.assign(Instant::EPOCH, assignment(6, &[known, late]));
    let due = Instant::EPOCH + config().timers.orphan_grace;
    assert_eq!(again.take_orphans(due), [late]);
    assert_eq!(again.len(), 1);
}

#[test]
fn a_row_that_names_this_host_is_no_remote_endpoint() {
    let mut agent = Agent::new(config(), AgentMemory::default(), Instant::EPOCH);
    let own = EndpointId::from_bytes([1; 16]);
    agent.expect(own, Namespace::InProcess);
    agent.assign(Instant::EPOCH, assignment(5, &[own]));
    let row = |number: u8, vtep: [u8; 4]| {
        let other = assigned(EndpointId::from_bytes([number; 16]));
        row(&other, vtep.into(), RowState::Live, None)
    };
    // Its own; one that ran here a moment ago; one from elsewhere.
    let (one, old, other) = (
        row(1, [192, 0, 2, 1]),
        row(2, [192, 0, 2, 1]),
        row(3, [192, 0, 2, 3]),
    );
    let member = IpAddr::from([192, 0, 2, 4]);
    let desired = agent.desired(
        |_| vec![&one, &old, &other],
        |_| {
            [config().address, member]
                .map(|vtep| (vtep, Zone::new()))
                .into()
        },
    );
    let network = &desired.networks[&network()];
    assert_eq!(network.ports.keys().collect::<Vec<_>>(), [&own]);
    assert_eq!(
        network.remotes.keys().collect::<Vec<_>>(),
        [&other.endpoint]
    );
    assert_eq!(network.vteps, BTreeSet::from([other.vtep, member]));
}

#[test]
fn a_network_is_carried_by_the_plane_that_it_asks_for_or_not_at_all() {
    use DataPath::{Kernel, User};
    for (asked, of_node, carried) in [
        (None, User, Some(User)),
        (None, Kernel, Some(Kernel)),
        (Some(Kernel), Kernel, Some(Kernel)),
        (Some(User), User, Some(User)),
        (Some(Kernel), User, None),
        (Some(User), Kernel, None),
    ] {
        let config = Config {
            data_path: of_node,
            ..config()
        };
        let mut agent = Agent::new(config, AgentMemory::default(), Instant::EPOCH);
        let own = EndpointId::from_bytes([1; 16]);
        agent.expect(own, Namespace::Own);
        let mut assignment = assignment(5, &[own]);
        assignment.networks[0].path = asked;
        agent.assign(Instant::EPOCH, assignment);
        let desired = agent.desired(|_| Vec::new(), |_| BTreeMap::new());
        let paths: Vec<_> = desired.networks.values().map(|of| of.path).collect();
        assert_eq!(paths, carried.into_iter().collect::<Vec<_>>());
        let wishes: Vec<_> = std::iter::from_fn(|| agent.poll_wish()).collect();
        let made = wishes.iter().find_map(|wish| match wish {
            Wish::CreatePort(spec) => Some(spec.path),
            _ => None,
        });
        assert_eq!(made, carried);
        let refused = wishes
            .iter()
            .any(|wish| matches!(wish, Wish::RefusePort(endpoint, _) if *endpoint == own));
        assert_eq!(refused, carried.is_none());
    }
}

#[test]
fn an_encrypted_network_is_carried_by_the_plane_that_seals_or_not_at_all() {
    use DataPath::{Kernel, User};
    let nobody = || Err("UDP 4500 is taken".to_owned());
    for (asked, of_node, sealing, carried) in [
        (None, User, Ok(User), Ok(User)),
        (None, Kernel, Ok(User), Ok(User)),
        (None, Kernel, Ok(Kernel), Ok(Kernel)),
        (Some(Kernel), Kernel, Ok(Kernel), Ok(Kernel)),
        (
            Some(Kernel),
            Kernel,
            Ok(User),
            Err("by user: create the network with data-path=auto, for its kernel cannot seal"),
        ),
        (Some(User), Kernel, Ok(User), Ok(User)),
        (
            Some(User),
            Kernel,
            Ok(Kernel),
            Err(
                "carries encrypted networks by kernel: create the network with data-path=auto, or start",
            ),
        ),
        (None, Kernel, nobody(), Err("UDP 4500 is taken")),
        (Some(User), User, nobody(), Err("UDP 4500 is taken")),
    ] {
        let config = Config {
            data_path: of_node,
            sealing,
            ..config()
        };
        let mut agent = Agent::new(config, AgentMemory::default(), Instant::EPOCH);
        let own = EndpointId::from_bytes([1; 16]);
        agent.expect(own, Namespace::Own);
        let mut assignment = assignment(5, &[own]);
        assignment.networks[0].path = asked;
        assignment.networks[0].encrypted = true;
        agent.assign(Instant::EPOCH, assignment);
        let desired = agent.desired(|_| Vec::new(), |_| BTreeMap::new());
        let paths: Vec<_> = desired.networks.values().map(|of| of.path).collect();
        assert_eq!(paths, carried.into_iter().collect::<Vec<_>>());
        let refusals = std::iter::from_fn(|| agent.poll_wish()).filter_map(|wish| match wish {
            Wish::RefusePort(_, error) => Some(error.to_string()),
            _ => None,
        });
        let refusals: Vec<_> = refusals.collect();
        match carried {
            Ok(_) => assert_eq!(refusals, [""; 0]),
            Err(why) => assert!(refusals.iter().any(|one| one.contains(why)), "{refusals:?}"),
        }
    }
}

#[test]
fn a_service_is_served_by_those_that_are_there_and_run() {
    let mut agent = Agent::new(config(), AgentMemory::default(), Instant::EPOCH);
    let own = EndpointId::from_bytes([1; 16]);
    let service = ServiceId::from_bytes([7; 16]);
    let mut assigned_to_it = assignment(5, &[own]);
    assigned_to_it.services = vec![AssignedService {
        id: service,
        name: "web".to_owned(),
        networks: [(
            network(),
            ServiceOnNetwork {
                addresses: vec![[10, 0, 1, 200].into()],
                aliases: Vec::new(),
            },
        )]
        .into(),
        ports: Vec::new(),
        texts: Vec::new(),
        balance: Balance::default(),
    }];
    agent.expect(own, Namespace::InProcess);
    agent.assign(Instant::EPOCH, assigned_to_it);
    let row = |number: u8, vtep: u8, state| {
        let other = assigned(EndpointId::from_bytes([number; 16]));
        let mut row = row(&other, [192, 0, 2, vtep].into(), state, None);
        row.service = Some(service);
        row
    };
    let mut foreign = row(6, 3, RowState::Live);
    foreign.service = None;
    let rows = [
        row(1, 1, RowState::Live),
        // It ran here a moment ago.
        row(2, 1, RowState::Live),
        row(3, 3, RowState::Live),
        row(4, 3, RowState::Starting),
        row(5, 3, RowState::Draining),
        foreign,
    ];
    let desired = agent.desired(|_| rows.iter().collect(), |_| BTreeMap::new());
    let found = &desired.networks[&network()].services[&service];
    assert_eq!(found.addresses, [IpAddr::from([10, 0, 1, 200])]);
    let backends: Vec<_> = found
        .backends
        .iter()
        .map(|(id, backend)| (id.as_bytes()[0], backend.draining))
        .collect();
    assert_eq!(backends, [(1, false), (3, false), (4, true), (5, true)]);
    let names = agent.service_names();
    assert_eq!(names[&(network(), service)].names, ["web"]);
    assert_eq!(names[&(network(), service)].addresses, found.addresses);
}

proptest! {
    #[test]
    fn a_difference_leads_from_one_assignment_to_the_other(old in some_assignment(), new in some_assignment()) {
        let (old, new) = (Assignment { version: 7, ..old }, Assignment { version: 9, ..new });
        let change = old.difference(&new);
        prop_assert_eq!(old.changed(change.clone()), Some(new.clone()));
        prop_assert_eq!(new.changed(change), None, "it starts from another version");
        let none = new.difference(&new);
        prop_assert!(none.standing.is_none() && none.endpoints.put.is_empty() && none.tasks.removed.is_empty());
    }

    #[test]
    fn a_change_in_any_order_gives_one_of_each_in_order(new in some_assignment(), seed: u64) {
        let old = assignment(7, &[]);
        let mut change = old.difference(&Assignment { version: 9, ..new });
        let mut rng = overlay_core::Seed::from_u64(seed).rng();
        let twice = change.endpoints.put.clone();
        change.endpoints.put.extend(twice);
        change.endpoints.put.sort_by_key(|_| rng.below(100));
        let changed = old.changed(change).unwrap();
        let ids: Vec<_> = changed.endpoints.iter().map(Keyed::key).collect();
        prop_assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}

#[test]
fn the_row_of_a_service_that_offers_all_that_it_may_fits() {
    let endpoint = EndpointId::from_bytes([255; 16]);
    let mut one = assigned(endpoint);
    let name = "x".repeat(63);
    one.record.name = format!("{name}.4294967295.{}", endpoint.short());
    let addresses = [
        "10.255.255.255/24",
        "fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff/64",
    ];
    one.record.addresses = addresses.map(|text| text.parse().unwrap()).to_vec();
    one.lease.addresses = one.record.addresses.iter().map(IpNet::addr).collect();
    one.lease.signature = vec![0xff; 64].into();
    one.lease.generation = u64::MAX;
    let names = [&name[..], &name, &name, &name].map(str::to_owned);
    let port = |number| PortMapping {
        name: format!("p-{number:02}-{}", "x".repeat(10)),
        protocol: overlay_gossip::Protocol::Tcp,
        target: u16::MAX,
        published: 0,
    };
    let words = ServiceWords {
        names: names.to_vec(),
        ports: (0..16).map(port).collect(),
    };
    let vtep = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
    one.record.task = Some(TaskEndpoint {
        task: TaskId::from_bytes([9; 16]),
        service: ServiceId::from_bytes([255; 16]),
        service_name: name,
    });
    let row = row(&one, vtep, RowState::Live, Some(words));
    assert_eq!(row.check(network()), Ok(()), "{} octets", row.encoded_len());
}

#[test]
fn how_far_a_backend_is_goes_by_its_node_and_that_ones_zone() {
    let mut agent = Agent::new(config(), AgentMemory::default(), Instant::EPOCH);
    let (own, service) = (
        EndpointId::from_bytes([1; 16]),
        ServiceId::from_bytes([7; 16]),
    );
    let in_zone = |version, zone: &str| {
        let mut assignment = assignment(version, &[own]);
        assignment.standing.zone = zone.to_owned();
        let on = ServiceOnNetwork {
            addresses: vec![[10, 0, 1, 200].into(), "fd00::200".parse().unwrap()],
            aliases: vec!["www".to_owned()],
        };
        assignment.services = vec![AssignedService {
            id: service,
            name: "web".to_owned(),
            networks: [(network(), on)].into(),
            ports: Vec::new(),
            texts: Vec::new(),
            balance: Balance {
                locality: Locality::Zone,
                affinity_ms: 1_500,
                ..Balance::default()
            },
        }];
        assignment
    };
    agent.expect(own, Namespace::InProcess);
    let row = |number: u8| {
        let other = assigned(EndpointId::from_bytes([number; 16]));
        let vtep = [192, 0, 2, number].into();
        let mut row = row(&other, vtep, RowState::Live, None);
        row.service = Some(service);
        row
    };
    let rows = [row(1), row(2), row(3), row(4)];
    let zones = || -> BTreeMap<IpAddr, Zone> {
        let named = [(2, "north"), (3, "south"), (4, "")];
        let named = named.map(|(last, zone)| ([192, 0, 2, last].into(), zone.to_owned()));
        named.into()
    };
    use Distance::{Far, Node, Zone as Near};
    for (version, zone, expected) in [
        (5, "north", [Node, Near, Far, Far]),
        // Who is in none is near nobody.
        (6, "", [Node, Far, Far, Far]),
    ] {
        agent.assign(Instant::EPOCH, in_zone(version, zone));
        let desired = agent.desired(|_| rows.iter().collect(), |_| zones());
        let found = &desired.networks[&network()].services[&service];
        let distances: Vec<_> = found.backends.values().map(|one| one.distance).collect();
        assert_eq!(distances, expected, "{zone:?}");
        assert_eq!(found.addresses.len(), 2);
        assert_eq!(found.config.locality, Locality::Zone);
        assert_eq!(found.config.affinity, Some(Duration::from_millis(1_500)));
    }
    let names = agent.service_names();
    let records = &names[&(network(), service)];
    assert_eq!(records.names, ["web", "www"]);
    assert_eq!(records.addresses.len(), 2);
}

#[test]
fn a_task_that_serves_is_told_to_stop_when_its_flows_have_ended() {
    let endpoint = EndpointId::from_bytes([1; 16]);
    let task = TaskId::from_bytes([9; 16]);
    let with = |version, desired, drain_ms| {
        let mut assignment = assignment(version, &[endpoint]);
        assignment.endpoints[0].record.task = Some(TaskEndpoint {
            task,
            service: ServiceId::from_bytes([7; 16]),
            service_name: "web".to_owned(),
        });
        assignment.tasks = vec![AssignedTask {
            id: task,
            service_name: "web".to_owned(),
            slot: Slot::Replica(1),
            spec: TaskSpec {
                drain_ms,
                ..TaskSpec::default()
            },
            desired,
            endpoints: vec![endpoint],
        }];
        assignment
    };
    let wishes =
        |agent: &mut Agent| -> Vec<Wish> { std::iter::from_fn(|| agent.poll_wish()).collect() };
    let stops = |wishes: &[Wish]| wishes.iter().any(|wish| matches!(wish, Wish::StopTask(..)));
    let drains = |wishes: &[Wish]| wishes.iter().any(|wish| matches!(wish, Wish::Drain { .. }));
    let report = |state| TaskReport {
        task,
        state,
        message: String::new(),
        exit_code: None,
    };
    // Whether it runs, how long flows may go on, and whether anything is awaited.
    for (state, drain_ms, awaited) in [
        (TaskState::Running, 5_000, true),
        (TaskState::Running, 0, false),
        (TaskState::Starting, 5_000, false),
    ] {
        let mut agent = Agent::new(config(), AgentMemory::default(), Instant::EPOCH);
        agent.expect(endpoint, Namespace::InProcess);
        agent.assign(Instant::EPOCH, with(5, DesiredState::Running, drain_ms));
        agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
        settle(&mut agent);
        agent.handle_task(report(state));
        wishes(&mut agent);
        agent.assign(Instant::EPOCH, with(6, DesiredState::Shutdown, drain_ms));
        let first = wishes(&mut agent);
        assert_eq!((drains(&first), stops(&first)), (awaited, !awaited));
        // Its row says so before anybody waits.
        let row = first.iter().find_map(|wish| match wish {
            Wish::PutRow(_, row) => Some(row.state),
            _ => None,
        });
        assert_eq!(row, Some(RowState::Draining));
        if !awaited {
            continue;
        }
        agent.assign(Instant::EPOCH, with(7, DesiredState::Remove, drain_ms));
        agent.handle_drained(EndpointId::from_bytes([2; 16]));
        let nothing = wishes(&mut agent);
        assert!(!drains(&nothing) && !stops(&nothing), "{nothing:?}");
        agent.handle_drained(endpoint);
        assert!(stops(&wishes(&mut agent)));
        agent.handle_drained(endpoint);
        assert!(!stops(&wishes(&mut agent)), "once is enough");
        // One that is nobody's any more is not waited for, either.
        agent.assign(Instant::EPOCH, assignment(8, &[]));
        assert!(stops(&wishes(&mut agent)));
    }
}

fn some_assignment() -> impl Strategy<Value = Assignment> {
    let endpoints = prop::collection::btree_map(1..9_u8, 0..2_u64, 0..6);
    let tasks = prop::collection::btree_map(1..9_u8, any::<bool>(), 0..6);
    let ports = prop::collection::btree_map(1..9_u16, 0..2_u16, 0..6);
    let networks = prop::collection::btree_map(1..9_u8, any::<bool>(), 0..6);
    (endpoints, tasks, ports, networks, any::<bool>()).prop_map(
        |(endpoints, tasks, ports, networks, manager)| {
            let mut some = assignment(1, &[]);
            some.standing.role = if manager { Role::Manager } else { Role::Worker };
            some.endpoints = endpoints
                .into_iter()
                .map(|(number, generation)| {
                    let mut endpoint = assigned(EndpointId::from_bytes([number; 16]));
                    endpoint.record.generation = generation;
                    endpoint
                })
                .collect();
            some.tasks = tasks
                .into_iter()
                .map(|(number, stop)| AssignedTask {
                    id: TaskId::from_bytes([number; 16]),
                    service_name: "web".to_owned(),
                    slot: Slot::Replica(1),
                    spec: TaskSpec::default(),
                    desired: if stop {
                        DesiredState::Shutdown
                    } else {
                        DesiredState::Running
                    },
                    endpoints: Vec::new(),
                })
                .collect();
            some.ports = ports
                .into_iter()
                .map(|(published, target)| AssignedPort {
                    port: PublishedPort {
                        published,
                        target,
                        protocol: Protocol::Tcp,
                        mode: PublishMode::Ingress,
                        ..PublishedPort::default()
                    },
                    service_name: "web".to_owned(),
                    open: true,
                    backends: Vec::new(),
                })
                .collect();
            some.networks = networks
                .into_iter()
                .map(|(number, internal)| AssignedNetwork {
                    vlan_tags: false,
                    encrypted: false,
                    id: NetworkId::from_bytes([number; 16]),
                    name: format!("net{number}"),
                    vni: Vni::new(4_097).unwrap(),
                    subnets: Vec::new(),
                    mtu: None,
                    path: None,
                    internal,
                    ingress: false,
                    policy: Default::default(),
                    hides_names: false,
                })
                .collect();
            some
        },
    )
}

fn assignment(version: u64, endpoints: &[EndpointId]) -> Assignment {
    let signer = LeaseSigner::new(&Secret::new(vec![5; 32]).unwrap()).unwrap();
    let subnet = "10.0.1.0/24".parse().unwrap();
    let network = AssignedNetwork {
        vlan_tags: false,
        encrypted: false,
        id: network(),
        name: "net".to_owned(),
        vni: Vni::new(4_097).unwrap(),
        subnets: vec![subnet],
        mtu: None,
        path: None,
        internal: false,
        ingress: false,
        policy: Default::default(),
        hides_names: false,
    };
    Assignment {
        version,
        cluster: NodeId::from_bytes([200; 16]),
        epoch: 0,
        standing: Standing {
            heartbeat_ms: None,
            role: Role::Worker,
            raft: None,
            managers: Vec::new(),
            keys: SharedKeys {
                generation: 0,
                gossip: Vec::new(),
                rotated_unix_ms: 0,
                rotated_at: 0,
                due: 0,
            },
            authorities: Vec::new(),
            issuer: [0; 32],
            pass: Pass {
                number: 1,
                key: [0; 32],
                signature: Default::default(),
            },
            certificate_ms: 0,
            lease_key: signer.public_key(),
            zone: String::new(),
        },
        networks: (!endpoints.is_empty())
            .then_some(network)
            .into_iter()
            .collect(),
        services: Vec::new(),
        endpoints: endpoints.iter().copied().map(assigned).collect(),
        tasks: Vec::new(),
        ports: Vec::new(),
    }
}

fn assigned(id: EndpointId) -> AssignedEndpoint {
    let [number, ..] = *id.as_bytes();
    let address = IpAddr::from([10, 0, 1, number]);
    let record = EndpointRecord {
        id,
        node: config().node,
        network: network(),
        name: format!("e{number}"),
        aliases: Vec::new(),
        addresses: vec![IpNet::new(address, 24).unwrap()],
        mac: MacAddr::new([2, 0, 0, 0, 0, number]),
        generation: 4,
        task: None,
    };
    let lease = Lease {
        network: record.network,
        endpoint: id,
        node: record.node,
        addresses: vec![address],
        mac: record.mac,
        generation: record.generation,
        signature: Vec::new().into(),
    };
    AssignedEndpoint { record, lease }
}

fn config() -> Config {
    Config::new(NodeId::from_bytes([1; 16]), "host1", [192, 0, 2, 1].into())
}

fn network() -> NetworkId {
    NetworkId::from_bytes([100; 16])
}

/// All tables have come, and the system carries everything.
fn settle(agent: &mut Agent) {
    let networks: Vec<_> = agent.carried().map(|network| network.id).collect();
    for network in networks {
        agent.handle_synced(network);
    }
    agent.settle_ports(1, 1);
}
