//! The whole cluster in a box, under faults, from many seeds.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use overlay_core::{EndpointId, Rng, Seed, plane::Namespace};
use overlay_node::{
    Peer, Reply, Timers,
    api::{
        AttachRequest, ClusterUpdate, ErrorKind, NetworkCreate, NodeStatus, PolicyChange, Request,
        Response, Role, RuleSpec, Selector, Verdict,
    },
    sim::{Cluster, Options, SimHost},
    state::RequestId,
    wire::{self, Ask, Message},
};
use overlay_sim::{
    CrashPoint, HostId, World,
    faults::{Chaos, ChaosConfig, Weights},
    runner::{self, Soak, sometimes},
};

#[test]
fn three_hosts_become_a_cluster_and_their_endpoints_reach_each_other() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(1), 3));
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    let network = cluster.create_network(0, "my-net").unwrap();
    assert_eq!(network.subnets[0].subnet.to_string(), "10.0.1.0/24");
    assert_eq!(network.subnets[0].vni.get(), 4097);
    let endpoints: Vec<_> = (0..3)
        .map(|host| {
            cluster
                .attach(host, "my-net", &format!("alpine{}", host + 1))
                .unwrap()
        })
        .collect();
    cluster.run_for(Duration::from_millis(500));
    for (from, one) in endpoints.iter().enumerate() {
        for two in endpoints.iter().filter(|two| two.id != one.id) {
            let to = two.addresses[0].addr();
            assert_eq!(
                cluster.resolve(from, one.id, &two.name),
                [to],
                "{} of {}\n{}",
                two.name,
                one.name,
                cluster.describe()
            );
            assert!(
                cluster.ping(from, one.id, to),
                "{} to {}",
                one.name,
                two.name
            );
        }
    }
    assert_eq!(cluster.quiet_violations(), []);
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_is_left_of_the_attempt() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(2), 3));
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    cluster.create_network(1, "my-net").unwrap();
    cluster.attach(0, "my-net", "one").unwrap();
    let error = cluster.attach(1, "my-net", "one").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    let error = cluster.attach(1, "other", "one").unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let error = cluster.create_network(2, "my-net").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(cluster.quiet_violations(), []);
    cluster
        .ask(
            0,
            Request::Detach {
                endpoint: "one".to_owned(),
            },
        )
        .unwrap();
    cluster.attach(1, "my-net", "one").unwrap();
}

#[test]
fn a_name_goes_with_its_endpoint_on_every_host() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(8), 3));
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    let asker = cluster.attach(0, "my-net", "asker").unwrap();
    for host in [1, 2] {
        let one = cluster.attach(host, "my-net", "one").unwrap();
        cluster.run_for(Duration::from_millis(500));
        assert_eq!(
            cluster.resolve(0, asker.id, "one"),
            [one.addresses[0].addr()],
            "{}",
            cluster.describe()
        );
        let detach = Request::Detach {
            endpoint: "one".to_owned(),
        };
        cluster.ask(host, detach).unwrap();
        cluster.run_for(Duration::from_millis(500));
        assert!(cluster.resolve(0, asker.id, "one").is_empty());
    }
}

#[test]
fn a_leader_that_is_demoted_stays_until_the_others_can_do_without() {
    for (number, managers) in [(3, 2), (4, 2), (5, 3)] {
        let mut options = Options::new(Seed::from_u64(number), 3);
        options.managers = managers;
        let mut cluster = Cluster::new(options);
        assert!(cluster.settle(Duration::from_secs(10)));
        let leader = cluster.leader().unwrap();
        let demote = |host| Request::NodeSetRole {
            node: format!("host{host}"),
            role: Role::Worker,
        };
        cluster.ask(leader, demote(leader)).unwrap();
        assert!(
            cluster.settle(Duration::from_secs(5)),
            "{managers} managers\n{}",
            cluster.describe()
        );
        assert_ne!(cluster.leader(), Some(leader));
        cluster
            .create_network(cluster.leader().unwrap(), "a")
            .unwrap();
        assert_eq!(cluster.quiet_violations(), []);
    }
}

#[test]
fn a_sole_manager_that_restarts_is_found_at_once() {
    for seed in 0..10 {
        let mut options = Options::new(Seed::from_u64(seed), 4);
        options.managers = 1;
        let mut cluster = Cluster::new(options);
        assert!(cluster.settle(Duration::from_secs(10)));
        cluster.create_network(0, "my-net").unwrap();
        let own = cluster.attach(0, "my-net", "own").unwrap();
        let other = cluster.attach(1, "my-net", "other").unwrap();
        cluster.world().crash(HostId(0));
        cluster.run_for(Duration::from_secs(30));
        cluster.world().restart(HostId(0));
        cluster.run_for(Duration::from_secs(3));
        let description = cluster.describe();
        for (host, from, to) in [(0, &own, &other), (1, &other, &own)] {
            let address = to.addresses[0].addr();
            assert_eq!(
                cluster.resolve(host, from.id, &to.name),
                [address],
                "seed {seed}\n{description}"
            );
            assert!(
                cluster.ping(host, from.id, address),
                "seed {seed}\n{description}"
            );
        }
    }
}

#[test]
fn with_the_crates_own_timers_a_silent_node_is_down_after_three_heartbeats() {
    let mut options = Options::new(Seed::from_u64(17), 4);
    options.managers = 3;
    options.timers = Timers::default();
    let interval = options.timers.heartbeat_interval;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(60)));
    cluster.create_network(0, "my-net").unwrap();
    // What is assigned does not wait for a heartbeat.
    let own = cluster.attach(0, "my-net", "own").unwrap();
    let other = cluster.attach(3, "my-net", "other").unwrap();
    cluster.run_for(Duration::from_millis(500));
    let to = other.addresses[0].addr();
    assert_eq!(cluster.resolve(0, own.id, "other"), [to]);
    assert!(cluster.ping(0, own.id, to));
    cluster.world().crash(HostId(3));
    cluster.run_for(interval * 2);
    assert_eq!(status_of(&mut cluster, 0, "host3"), NodeStatus::Ready);
    cluster.run_for(interval * 2);
    assert_eq!(status_of(&mut cluster, 0, "host3"), NodeStatus::Down);
    // A leader that is gone is replaced, and the agents find the next one, without waiting for their heartbeats.
    let leader = cluster.leader().unwrap();
    let next = (leader + 1) % 3;
    cluster.world().crash(HostId(leader));
    cluster.run_for(Duration::from_secs(2));
    cluster.create_network(next, "another").unwrap();
    cluster.run_for(interval * 4);
    for host in (0..3).filter(|host| *host != leader) {
        let name = format!("host{host}");
        assert_eq!(
            status_of(&mut cluster, next, &name),
            NodeStatus::Ready,
            "{name}"
        );
    }
}

#[test]
fn heartbeats_are_as_often_as_was_chosen_for_the_cluster() {
    let mut options = Options::new(Seed::from_u64(18), 3);
    options.timers = Timers::default();
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(60)));
    let change = ClusterUpdate {
        heartbeat_ms: Some(300),
        ..ClusterUpdate::default()
    };
    cluster.ask(0, Request::ClusterUpdate(change)).unwrap();
    cluster.run_for(Duration::from_secs(3));
    for host in 0..3 {
        let name = format!("host{host}");
        assert_eq!(status_of(&mut cluster, 0, &name), NodeStatus::Ready);
    }
    let lost = (cluster.leader().unwrap() + 1) % 3;
    let asked = (lost + 1) % 3;
    cluster.world().crash(HostId(lost));
    cluster.run_for(Duration::from_millis(1_300));
    let name = format!("host{lost}");
    assert_eq!(status_of(&mut cluster, asked, &name), NodeStatus::Down);
}

fn status_of(cluster: &mut Cluster, asked: usize, name: &str) -> NodeStatus {
    match cluster.ask(asked, Request::NodeList) {
        Ok(Response::Nodes(nodes)) => {
            let node = nodes.iter().find(|node| node.hostname == name);
            node.map(|node| node.status).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_quorum_reads_say_that_they_are_stale_and_writes_who_is_missing() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(12), 3));
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    assert!(matches!(
        cluster.ask(0, Request::NetworkList),
        Ok(Response::Networks(_))
    ));
    for lost in [1, 2] {
        cluster.world().crash(HostId(lost));
    }
    cluster.run_for(Duration::from_secs(10));
    let Ok(Response::Stale(answer)) = cluster.ask(0, Request::NetworkList) else {
        panic!("it is not marked")
    };
    let Response::Networks(networks) = *answer else {
        panic!("{answer:?}")
    };
    assert!(networks.iter().any(|network| network.name == "my-net"));
    let refused = cluster.create_network(0, "other").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    for (name, is_missing) in [("host0", false), ("host1", true), ("host2", true)] {
        assert_eq!(refused.message.contains(name), is_missing, "{refused}");
    }
}

#[test]
fn a_node_that_was_away_finds_managers_that_it_never_knew() {
    let mut options = Options::new(Seed::from_u64(11), 3);
    options.managers = 1;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.world().crash(HostId(1));
    let set = |host: usize, role| Request::NodeSetRole {
        node: format!("host{host}"),
        role,
    };
    cluster.ask(0, set(2, Role::Manager)).unwrap();
    cluster.run_for(Duration::from_secs(2));
    cluster.ask(2, set(0, Role::Worker)).unwrap();
    cluster.run_for(Duration::from_secs(2));
    assert_eq!(cluster.leader(), Some(2), "{}", cluster.describe());
    cluster.world().restart(HostId(1));
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    cluster.create_network(2, "my-net").unwrap();
    cluster.attach(1, "my-net", "one").unwrap();
}

#[test]
fn a_certificate_outlives_a_role_but_its_rights_do_not() {
    let mut options = Options::new(Seed::from_u64(9), 4);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    let leader = cluster.leader().unwrap();
    let nodes: Vec<_> = (0..4)
        .map(|host| {
            let host = cluster.world().host(HostId(host)).unwrap();
            host.node().unwrap().config().node
        })
        .collect();
    let demoted = (leader + 1) % 3;
    let forged = |cluster: &mut Cluster, host: usize, role: Role, name: &str| {
        let node = nodes[host];
        let peer = Peer { node, role };
        let create = Request::NetworkCreate(NetworkCreate {
            name: name.to_owned(),
            ..NetworkCreate::default()
        });
        let frame = wire::encode(&Message::Ask {
            request: RequestId::from_bytes([name.as_bytes()[0]; 16]),
            ask: Ask::Api(create),
        });
        let leader = HostId(cluster.leader().unwrap());
        cluster
            .world()
            .with(leader, |host, now| host.receive(now, peer, &frame));
        cluster.run_for(Duration::from_secs(2));
        let mut networks = cluster.leader_state().unwrap().networks().values();
        networks.any(|network| network.name == name)
    };
    assert!(forged(&mut cluster, demoted, Role::Manager, "allowed"));
    assert!(!forged(&mut cluster, 3, Role::Worker, "worker"));
    let demote = Request::NodeSetRole {
        node: format!("host{demoted}"),
        role: Role::Worker,
    };
    cluster.ask(leader, demote).unwrap();
    assert!(cluster.settle(Duration::from_secs(5)));
    assert!(!forged(&mut cluster, demoted, Role::Manager, "demoted"));
    cluster.world().crash(HostId(3));
    let node = nodes[3].to_string();
    cluster
        .ask(leader, Request::NodeRemove { node, force: true })
        .unwrap();
    assert!(!forged(&mut cluster, 3, Role::Manager, "removed"));
}

#[test]
fn a_manager_that_leaves_takes_no_quorum_with_it() {
    for number in [6, 7] {
        let mut options = Options::new(Seed::from_u64(number), 3);
        options.managers = 2;
        let mut cluster = Cluster::new(options);
        assert!(cluster.settle(Duration::from_secs(10)));
        let leader = cluster.leader().unwrap();
        let leaver = if number == 6 { leader } else { 1 - leader };
        let refused = cluster
            .ask(leaver, Request::Leave { force: false })
            .unwrap_err();
        assert_eq!(refused.kind, ErrorKind::QuorumLoss);
        let id = HostId(leaver);
        let request = Request::Leave { force: true };
        cluster
            .world()
            .with(id, |host, now| host.request(now, request));
        let gone = |world: &World<SimHost>| !world.is_up(id);
        assert!(
            cluster.world().run_until(Duration::from_secs(5), gone),
            "it left\n{}",
            cluster.describe()
        );
        cluster.world().restart(id);
        assert!(
            cluster.settle(Duration::from_secs(10)),
            "it joined as another node\n{}",
            cluster.describe()
        );
        cluster.create_network(leaver, "a").unwrap();
    }
}

#[test]
fn an_orphan_goes_back_though_the_first_attempts_are_lost() {
    let mut options = Options::new(Seed::from_u64(10), 4);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    attach_late(&mut cluster, 3, attach_as(EndpointId::from_bytes([3; 16])));
    assert_eq!(cluster.attached_names().len(), 1);
    cluster.world().partition(&[HostId(3)]);
    // Long enough for an attempt to be made and given up.
    cluster.run_for(Duration::from_secs(15));
    assert_eq!(cluster.attached_names().len(), 1);
    cluster.world().rejoin();
    cluster.run_for(Duration::from_secs(5));
    assert!(
        cluster.attached_names().is_empty(),
        "{}",
        cluster.describe()
    );
}

/// It knows managers that are none any more, and the keys of gossip are others.
#[test]
fn a_worker_that_missed_a_change_of_all_managers_is_led_to_those_there_are() {
    for seed in 0..10 {
        let mut options = Options::new(Seed::from_u64(seed), 4);
        options.managers = 1;
        let mut cluster = Cluster::new(options);
        assert!(cluster.settle(Duration::from_secs(10)));
        cluster.world().partition(&[HostId(3)]);
        let brief = ClusterUpdate {
            key_rotation_ms: Some(10_000),
            ..ClusterUpdate::default()
        };
        cluster.ask(0, Request::ClusterUpdate(brief)).unwrap();
        let role = |cluster: &mut Cluster, by: usize, of: usize, role: Role| {
            let node = format!("host{of}");
            cluster
                .ask(by, Request::NodeSetRole { node, role })
                .unwrap();
            cluster.run_for(Duration::from_secs(5));
        };
        role(&mut cluster, 0, 1, Role::Manager);
        role(&mut cluster, 0, 2, Role::Manager);
        role(&mut cluster, 1, 0, Role::Worker);
        cluster.run_for(Duration::from_secs(60));
        cluster.world().rejoin();
        let settled = cluster.settle(Duration::from_secs(30));
        assert!(settled, "seed {seed}\n{}", cluster.describe());
    }
}

#[test]
fn an_attach_that_was_given_up_is_not_run_when_it_comes_late() {
    let mut options = Options::new(Seed::from_u64(11), 4);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    let attach = attach_as(EndpointId::from_bytes([4; 16]));
    cluster.world().partition(&[HostId(3)]);
    let given_up = cluster.ask(3, attach.clone()).unwrap_err();
    assert_eq!(given_up.kind, ErrorKind::Unavailable, "{given_up}");
    cluster.world().rejoin();
    attach_late(&mut cluster, 3, attach);
    assert_eq!(cluster.attached_names().len(), 1);
    assert_eq!(cluster.live_endpoints(), [], "whoever asked was told no");
    cluster.run_for(Duration::from_secs(5));
    assert!(
        cluster.attached_names().is_empty(),
        "{}",
        cluster.describe()
    );
}

/// Two of three managers are lost for good; what they had committed with each other alone is lost with them.
#[test]
fn a_cluster_is_rebuilt_from_a_survivor_and_workers_follow_it() {
    for seed in 0..20 {
        let mut options = Options::new(Seed::from_u64(seed), 5);
        options.managers = 3;
        let mut cluster = Cluster::new(options);
        assert!(cluster.settle(Duration::from_secs(10)));
        cluster.create_network(0, "my-net").unwrap();
        let own = cluster.attach(0, "my-net", "own").unwrap();
        let other = cluster.attach(3, "my-net", "other").unwrap();
        lose_two_managers(&mut cluster);
        cluster
            .world()
            .with(HostId(0), |host, _| host.force_new_cluster());
        cluster.run_for(Duration::from_secs(1));
        cluster.world().restart(HostId(0));
        cluster.run_for(Duration::from_secs(10));
        let description = format!("seed {seed}\n{}", cluster.describe());
        assert_eq!(cluster.leader(), Some(0), "{description}");
        assert_eq!(cluster.nodes().len(), 3, "{description}");
        for host in [0, 3, 4] {
            let status = status_of(&mut cluster, 0, &format!("host{host}"));
            assert_eq!(status, NodeStatus::Ready, "{description}");
        }
        // What was there goes on, and new things come to be, on the workers too.
        cluster.create_network(0, "new").unwrap();
        let late = cluster.attach(4, "my-net", "late").unwrap();
        assert!(late.addresses != own.addresses && late.addresses != other.addresses);
        cluster.run_for(Duration::from_secs(3));
        for (host, from, to) in [(0, &own, &other), (3, &other, &late), (4, &late, &own)] {
            let address = to.addresses[0].addr();
            let found = cluster.resolve(host, from.id, &to.name);
            assert_eq!(found, [address], "{description}");
            assert!(cluster.ping(host, from.id, address), "{description}");
        }
        assert!(!cluster.attached_names().contains("lost"), "{description}");
        lost_managers_come_back(&mut cluster, seed);
    }
}

/// The first of three managers does not know what the others and the workers do from then on.
fn lose_two_managers(cluster: &mut Cluster) {
    cluster.world().partition(&[HostId(0)]);
    cluster.run_for(Duration::from_secs(3));
    for number in 0..40 {
        cluster.create_network(1, &format!("lost{number}")).unwrap();
    }
    cluster.attach(4, "my-net", "lost").unwrap();
    for manager in [1, 2] {
        cluster.world().crash(HostId(manager));
    }
    cluster.world().rejoin();
    cluster.run_for(Duration::from_secs(5));
    assert_eq!(cluster.leader(), None);
    let refused = cluster.create_network(0, "none").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
}

/// They come back with their disks and are a quorum of the former group, as long as the survivor cannot tell them.
fn lost_managers_come_back(cluster: &mut Cluster, seed: u64) {
    for manager in [1, 2] {
        cluster.world().block(HostId(0), HostId(manager));
        cluster.world().block(HostId(manager), HostId(0));
        cluster.world().restart(HostId(manager));
    }
    cluster.run_for(Duration::from_secs(3));
    // Workers that look for a leader meanwhile are not theirs.
    cluster.world().crash(HostId(0));
    cluster.run_for(Duration::from_secs(5));
    cluster.world().restart(HostId(0));
    cluster.run_for(Duration::from_secs(6));
    let worker = status_of(cluster, 0, "host4");
    assert_eq!(worker, NodeStatus::Ready, "seed {seed}");
    // Then they learn that they are no members any more, and join again as new nodes.
    cluster.world().heal();
    cluster.run_for(Duration::from_secs(20));
    let description = format!("seed {seed}\n{}", cluster.describe());
    assert!(cluster.create_network(0, "after").is_ok(), "{description}");
    let state = cluster.leader_state().unwrap();
    let mut networks = state.networks().values();
    assert!(networks.all(|network| !network.name.starts_with("lost")));
    assert_eq!(state.cluster().unwrap().epoch, 1);
    for manager in [1, 2] {
        cluster.world().restart(HostId(manager));
    }
    assert!(cluster.settle(Duration::from_secs(30)), "{description}");
    assert_eq!(cluster.violations(), [], "{description}");
}

/// Its log is applied only after it was elected, and by then it was asked.
#[test]
fn a_manager_that_restarts_does_not_deny_what_its_log_holds() {
    let mut cluster = Cluster::new(Options::new(Seed::from_u64(12), 1));
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    let attached = cluster.attach(0, "my-net", "web").unwrap();
    cluster.world().crash(HostId(0));
    cluster.world().restart(HostId(0));
    let detach = Request::Detach {
        endpoint: attached.id.to_string(),
    };
    assert_eq!(cluster.ask(0, detach), Ok(Response::Done));
    cluster.run_for(Duration::from_secs(1));
    assert!(
        cluster.attached_names().is_empty(),
        "{}",
        cluster.describe()
    );
}

fn attach_as(endpoint: EndpointId) -> Request {
    Request::Attach(AttachRequest {
        network: "my-net".to_owned(),
        name: "late".to_owned(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        namespace: Namespace::InProcess,
        endpoint: Some(endpoint),
    })
}

/// Hands the leader a request of a worker that does not wait for the answer, and lets a second pass.
fn attach_late(cluster: &mut Cluster, host: usize, attach: Request) {
    let leader = HostId(cluster.leader().unwrap());
    let sender = cluster.world().host(HostId(host)).unwrap();
    let node = sender.node().unwrap().config().node;
    let role = Role::Worker;
    let frame = wire::encode(&Message::Ask {
        request: RequestId::from_bytes([1; 16]),
        ask: Ask::Api(attach),
    });
    cluster.world().with(leader, |host, now| {
        host.receive(now, Peer { node, role }, &frame);
    });
    cluster.run_for(Duration::from_secs(1));
}

/// Which hosts the power leaves at which of their sync points.
#[test]
fn a_host_may_lose_power_at_each_sync_point_of_its_life() {
    for host in 0..3 {
        let mut nth = 1;
        while walk(host, nth, CrashPoint::Before) {
            nth += 1;
        }
        sometimes("each sync point was reached", nth > 10);
        assert!(nth > 10, "host {host} has {nth} sync points");
        let mut nth = 1;
        while walk(host, nth, CrashPoint::After) {
            nth += 1;
        }
    }
}

/// Makes a cluster, a network and endpoints; `host` loses power at its `nth` sync point. Returns whether it did.
fn walk(host: usize, nth: u64, side: CrashPoint) -> bool {
    let mut options = Options::new(Seed::from_u64(9), 3);
    options.timers.orphan_grace = Duration::from_secs(2);
    let mut cluster = Cluster::new(options);
    let id = HostId(host);
    let mut struck = false;
    cluster.world().disk(id).crash_at_sync(nth, side);
    let mut restart = |cluster: &mut Cluster| {
        if !cluster.world().is_up(id) {
            struck = true;
            cluster.run_for(Duration::from_millis(200));
            cluster.world().restart(id);
        }
    };
    for _ in 0..20 {
        cluster.run_for(Duration::from_millis(150));
        restart(&mut cluster);
    }
    // A host that is down cannot answer, and one whose endpoint was cut off says so; both are asked again.
    let mut retry = |cluster: &mut Cluster, request: &dyn Fn(&mut Cluster) -> Option<ErrorKind>| {
        for _ in 0..4 {
            let failed = request(cluster);
            restart(cluster);
            match failed {
                None | Some(ErrorKind::Conflict) => return,
                Some(_) => cluster.run_for(Duration::from_secs(3)),
            }
        }
    };
    retry(&mut cluster, &|cluster| {
        cluster.create_network(host, "net").err().map(|e| e.kind)
    });
    for on in 0..3 {
        let name = format!("alpine{on}");
        retry(&mut cluster, &|cluster| {
            cluster.attach(on, "net", &name).err().map(|e| e.kind)
        });
    }
    cluster.world().disk(id).crash_at_sync(0, side);
    let context = format!("host {host}, sync point {nth}, {side:?}");
    assert!(
        cluster.settle(Duration::from_secs(20)),
        "{context}\n{}",
        cluster.describe()
    );
    cluster.remove_strangers().unwrap();
    cluster.run_for(Duration::from_secs(12));
    assert_eq!(
        cluster.quiet_violations(),
        [],
        "{context}\n{}",
        cluster.describe()
    );
    reach_each_other(&mut cluster);
    struck
}

/// One seed: twenty virtual seconds of faults and churn, then quiet; what was acknowledged is there.
fn survive(number: u64, roles: bool) {
    let seed = Seed::from_u64(number);
    let mut rng = seed.derive("churn").rng();
    let hosts = 3 + rng.index(3).unwrap_or_default();
    let mut options = Options::new(seed.derive("cluster"), hosts);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(
        cluster.settle(Duration::from_secs(10)),
        "{}",
        cluster.describe()
    );
    cluster.create_network(0, "net0").unwrap();
    let founders = cluster.nodes();
    let config = ChaosConfig {
        weights: Weights {
            sync_error: 4,
            append_error: 2,
            ..Weights::default()
        },
        ..ChaosConfig::default()
    };
    let mut chaos = Chaos::new(&seed, config);
    let mut churn = Churn {
        with_roles: roles,
        ..Churn::default()
    };
    for step in 0..80 {
        churn.act(&mut cluster, &mut rng, step);
        chaos.run_for(cluster.world(), Duration::from_millis(250), |_| {});
        churn.collect(&mut cluster);
        let violations = cluster.violations();
        if !violations.is_empty() {
            panic!("{violations:?}\n{}", cluster.describe());
        }
    }
    chaos.heal(cluster.world());
    settle(&mut cluster);
    cluster.remove_strangers().unwrap();
    // Retries end, orphans go back, tables meet.
    cluster.run_for(Duration::from_secs(15));
    settle(&mut cluster);
    churn.collect(&mut cluster);
    assert_eq!(cluster.quiet_violations(), [], "{}", cluster.describe());
    let attached = cluster.attached_names();
    for name in churn.acknowledged.keys() {
        assert!(
            attached.contains(name),
            "{name} was acknowledged and is gone: {attached:?}"
        );
    }
    sometimes(
        "an attach was acknowledged under faults",
        !churn.acknowledged.is_empty(),
    );
    sometimes("a request was refused", churn.refused > 0);
    sometimes("a network was created under faults", churn.networks > 1);
    sometimes("a role was changed", churn.roles > 0);
    sometimes("a policy was changed under faults", churn.policies > 0);
    sometimes("a host left", cluster.nodes() != founders);
    let errors = (0..hosts).map(|host| cluster.world().disk(HostId(host)).injected_errors());
    sometimes(
        "a disk failed",
        errors.fold(0, |sum, (append, sync)| sum + append + sync) > 0,
    );
    reach_each_other(&mut cluster);
}

/// Waits until the cluster is whole again; hosts that left on the way are started.
fn settle(cluster: &mut Cluster) {
    for _ in 0..10 {
        for host in 0..cluster.options().hosts {
            if !cluster.world().is_up(HostId(host)) {
                cluster.world().restart(HostId(host));
            }
        }
        if cluster.settle(Duration::from_secs(6)) {
            return;
        }
    }
    panic!("it does not settle\n{}", cluster.describe());
}

/// Whatever is there is reachable by name from elsewhere.
fn reach_each_other(cluster: &mut Cluster) {
    let endpoints = cluster.live_endpoints();
    for (host, from) in &endpoints {
        for (_, to) in endpoints
            .iter()
            .filter(|(_, to)| to.network == from.network && to.id != from.id)
        {
            let address = to.addresses[0].addr();
            let resolved = cluster.resolve(*host, from.id, &to.name);
            assert_eq!(resolved, [address], "{} of {}", to.name, from.name);
            let may = cluster.may_ping(from.network, from.addresses[0].addr(), address);
            sometimes("an endpoint may not reach another one", !may);
            assert_eq!(
                cluster.ping(*host, from.id, address),
                may,
                "{} to {}",
                from.name,
                to.name
            );
        }
    }
}

/// Rules about endpoints that may be there, or not, or not any more.
fn policy_change(rng: &mut Rng, step: u32) -> PolicyChange {
    let verdict = |deny| if deny { Verdict::Deny } else { Verdict::Allow };
    let name = |rng: &mut Rng| format!("rule{}", rng.below(4));
    match rng.below(8) {
        0 => PolicyChange::Default {
            verdict: verdict(rng.chance(300_000)),
        },
        1 => PolicyChange::Remove { name: name(rng) },
        _ => {
            let mut selector = || match rng.below(4) {
                0 => Selector::Any,
                _ => Selector::Endpoint(format!("Endpoint{}", rng.below(u64::from(step) + 10))),
            };
            let (from, to) = (selector(), selector());
            let traffic = match rng.below(3) {
                0 => "any",
                1 => "icmp,tcp/80",
                _ => "udp",
            };
            let traffic = traffic.split(',').map(|text| text.parse().unwrap());
            PolicyChange::Add {
                rule: RuleSpec {
                    name: name(rng),
                    from,
                    to,
                    traffic: traffic.collect(),
                    verdict: verdict(rng.chance(500_000)),
                },
                before: rng.chance(300_000).then(|| name(rng)),
                replace: rng.chance(500_000),
            }
        }
    }
}

#[test]
fn a_cluster_survives_faults_and_keeps_what_it_acknowledged() {
    runner::seeds_reaching(
        "a_cluster_survives_faults_and_keeps_what_it_acknowledged",
        200,
        &[
            "an attach was acknowledged under faults",
            "a request was refused",
            "a network was created under faults",
            "a policy was changed under faults",
            "an endpoint may not reach another one",
            "a disk failed",
        ],
        |number| survive(number, false),
    );
}

/// As above, and nodes are promoted and demoted, leave and join again meanwhile.
#[test]
fn a_cluster_survives_changes_of_roles_under_faults() {
    runner::seeds_reaching(
        "a_cluster_survives_changes_of_roles_under_faults",
        100,
        &["a role was changed", "a host left"],
        |number| survive(number, true),
    );
}

/// The big run, every fourth seed with changes of roles: `cargo test --release -p overlay-node --test simulation thousand --
/// --ignored --nocapture`, with `OVERLAY_SEEDS` for another number than 1,000.
#[test]
#[ignore = "a minute of two cores"]
fn a_thousand_seeds() {
    let count = std::env::var("OVERLAY_SEEDS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let soak = Soak {
        seeds: 0..count,
        elapsed_max: Duration::from_secs(3_600),
        threads: 2,
    };
    let report = runner::soak(&soak, |number| survive(number, number % 4 == 3))
        .unwrap_or_else(|failure| panic!("{failure}"));
    eprintln!("{report}");
    assert_eq!(report.seeds, count);
}

/// Requests under way, and what came of those before.
#[derive(Default)]
struct Churn {
    waiting: Vec<(usize, u64, String)>,
    /// Endpoints that must be there, each with its host.
    acknowledged: BTreeMap<String, usize>,
    /// Hosts that were told to leave: what they run may be gone from then on.
    leaving: BTreeSet<usize>,
    refused: u32,
    networks: usize,
    roles: u32,
    policies: u32,
    with_roles: bool,
}

impl Churn {
    fn act(&mut self, cluster: &mut Cluster, rng: &mut Rng, step: u32) {
        let host = rng.index(cluster.options().hosts).unwrap_or_default();
        let request = match rng.below(40) {
            0..=17 => {
                let network = format!("net{}", rng.below(self.networks as u64 + 1));
                Request::Attach(AttachRequest {
                    network,
                    name: format!("endpoint{step}"),
                    aliases: vec!["any".to_owned()],
                    addresses: Vec::new(),
                    namespace: Namespace::InProcess,
                    endpoint: None,
                })
            }
            18..=25 => {
                let Some(name) = self.acknowledged.keys().next().cloned() else {
                    return;
                };
                // Whether or not it is carried out: from now on it may be gone.
                self.acknowledged.remove(&name);
                Request::Detach { endpoint: name }
            }
            26..=30 => {
                let name = format!("net{}", self.networks + 1);
                Request::NetworkCreate(NetworkCreate {
                    name,
                    attachable: true,
                    ..NetworkCreate::default()
                })
            }
            31..=35 if self.with_roles => Request::NodeSetRole {
                node: format!(
                    "host{}",
                    rng.index(cluster.options().hosts).unwrap_or_default()
                ),
                role: if rng.chance(600_000) {
                    Role::Manager
                } else {
                    Role::Worker
                },
            },
            36 if self.with_roles => {
                self.leaving.insert(host);
                self.acknowledged.retain(|_, on| *on != host);
                Request::Leave {
                    force: rng.chance(500_000),
                }
            }
            37..=39 => Request::PolicyChange {
                network: format!("net{}", rng.below(self.networks as u64 + 1)),
                change: Box::new(policy_change(rng, step)),
            },
            _ => Request::NodeList,
        };
        let name = match &request {
            Request::Attach(attach) => attach.name.clone(),
            Request::NetworkCreate(create) => create.name.clone(),
            Request::NodeSetRole { .. } => "role".to_owned(),
            Request::PolicyChange { .. } => "policy".to_owned(),
            _ => String::new(),
        };
        let id = HostId(host);
        if let Some(Some(token)) = cluster
            .world()
            .with(id, |host, now| host.request(now, request))
        {
            self.waiting.push((host, token, name));
        }
    }

    fn collect(&mut self, cluster: &mut Cluster) {
        let waiting = std::mem::take(&mut self.waiting);
        for (host, token, name) in waiting {
            match cluster
                .world()
                .with(HostId(host), |host, _| host.take_reply(token))
            {
                Some(Some(Ok(Reply::Api(Response::Endpoints(_))))) => {
                    if !self.leaving.contains(&host) {
                        self.acknowledged.insert(name, host);
                    }
                }
                Some(Some(Ok(Reply::Api(Response::Networks(_))))) if !name.is_empty() => {
                    self.networks += 1;
                }
                Some(Some(Ok(Reply::Admitted(_)))) if name == "role" => self.roles += 1,
                Some(Some(Ok(Reply::Api(Response::Done)))) if name == "policy" => {
                    self.policies += 1
                }
                Some(Some(Err(_))) => self.refused += 1,
                Some(None) => self.waiting.push((host, token, name)),
                // Answered otherwise, or the host that was asked is no more.
                Some(Some(Ok(_))) | None => {}
            }
        }
    }
}
