//! Services on the whole cluster in a box.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use overlay_core::{EndpointId, NodeId, Rng, Seed, TaskId};
use overlay_node::{
    api::{
        Availability, NetworkCreate, NodeUpdate, PolicyChange, Request, Response, RestartPolicy,
        RuleSpec, Selector, ServiceInfo, ServiceMode, ServiceSpec, TaskInfo, TaskSpec, TaskState,
        Verdict,
    },
    sim::{Cluster, Options},
    state::TaskRecord,
};
use overlay_sim::{
    HostId,
    faults::{Chaos, ChaosConfig},
    runner::{self, sometimes},
};

fn cluster(seed: u64, hosts: usize) -> Cluster {
    let mut options = Options::new(Seed::from_u64(seed), hosts);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    cluster
}

fn spec(name: &str, mode: ServiceMode, command: &str) -> ServiceSpec {
    ServiceSpec {
        name: name.to_owned(),
        mode,
        task: TaskSpec {
            command: vec![command.to_owned()],
            ..TaskSpec::default()
        },
        networks: vec!["my-net".into()],
        restart: RestartPolicy {
            delay_ms: 500,
            ..RestartPolicy::default()
        },
        ..ServiceSpec::default()
    }
}

fn create(cluster: &mut Cluster, spec: ServiceSpec) -> ServiceInfo {
    match cluster.ask(0, Request::ServiceCreate(Box::new(spec))) {
        Ok(Response::Services(mut services)) => services.remove(0),
        other => panic!("{other:?}"),
    }
}

fn tasks(cluster: &mut Cluster, service: &str) -> Vec<TaskInfo> {
    let request = Request::TaskList {
        service: Some(service.to_owned()),
        node: None,
    };
    match cluster.ask(0, request) {
        Ok(Response::Tasks(tasks)) => tasks,
        other => panic!("{other:?}"),
    }
}

/// The host of a task, its endpoints, and their addresses.
fn places(cluster: &mut Cluster) -> Vec<(usize, Vec<EndpointId>, Vec<IpAddr>)> {
    let state = cluster.leader_state().unwrap().clone();
    let running = state.tasks().values();
    let running = running.filter(|task| !task.endpoints.is_empty());
    let hosts: BTreeMap<_, _> = cluster
        .world()
        .machines()
        .filter_map(|(id, host)| Some((host.node()?.config().node, id.0)))
        .collect();
    let place = |task: &TaskRecord| {
        let records = task.endpoints.iter().map(|id| &state.endpoints()[id]);
        let addresses = records.map(|record| record.addresses[0].addr());
        let host = hosts[&task.node.unwrap()];
        (host, task.endpoints.clone(), addresses.collect())
    };
    running.map(place).collect()
}

#[test]
fn tasks_on_two_networks_are_found_on_both_and_see_both() {
    let mut cluster = cluster(5, 3);
    cluster.create_network(0, "other").unwrap();
    let mut both = spec("web", ServiceMode::Global, "run");
    both.networks.push("other".into());
    create(&mut cluster, both.clone());
    let one = cluster.attach(0, "my-net", "one").unwrap();
    let two = cluster.attach(1, "other", "two").unwrap();
    let askers = [
        (0, one.id, one.addresses[0].addr()),
        (1, two.id, two.addresses[0].addr()),
    ];
    cluster.run_for(Duration::from_secs(4));
    let check = |cluster: &mut Cluster| {
        let places = places(cluster);
        assert_eq!(places.len(), 3);
        for (network, (host, asker, _)) in askers.iter().enumerate() {
            let mut expected: Vec<_> = places.iter().map(|place| place.2[network]).collect();
            let mut found = cluster.resolve(*host, *asker, "tasks.web");
            expected.sort();
            found.sort();
            assert_eq!(found, expected, "network {network}");
            for address in found {
                assert!(cluster.ping(*host, *asker, address), "network {network}");
            }
        }
        // Nobody sees the network that he is not on.
        assert!(cluster.resolve(0, one.id, "two").is_empty());
        assert!(!cluster.ping(0, one.id, two.addresses[0].addr()));
        for (host, endpoints, _) in places {
            let [first, second] = endpoints[..] else {
                panic!("{endpoints:?}");
            };
            for (name, (.., address)) in ["one", "two.other"].into_iter().zip(&askers) {
                assert_eq!(cluster.resolve(host, first, name), [*address], "{name}");
            }
            // The namespace has one resolver, that of its first endpoint.
            assert!(cluster.resolve(host, second, "one").is_empty());
            assert!(cluster.ping(host, first, askers[0].2));
            assert!(cluster.ping(host, second, askers[1].2));
        }
    };
    check(&mut cluster);
    // What its host remembers is enough.
    cluster.world().crash(HostId(2));
    cluster.world().restart(HostId(2));
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.run_for(Duration::from_secs(10));
    check(&mut cluster);

    // Off the first network: other tasks, and whoever is on it alone sees them no more.
    both.networks.remove(0);
    both.update.monitor_ms = 500;
    let update = Request::ServiceUpdate {
        service: "web".to_owned(),
        version: None,
        spec: Box::new(both),
    };
    cluster.ask(0, update).unwrap();
    cluster.run_for(Duration::from_secs(20));
    assert!(cluster.resolve(0, one.id, "tasks.web").is_empty());
    let mut found = cluster.resolve(1, two.id, "tasks.web");
    let places = places(&mut cluster);
    let mut expected: Vec<_> = places.iter().map(|place| place.2[0]).collect();
    expected.sort();
    found.sort();
    assert!(places.iter().all(|place| place.1.len() == 1));
    assert_eq!((found.len(), found), (3, expected));
    assert_eq!(cluster.quiet_violations(), []);
}

#[test]
fn published_ports_lead_to_the_first_network_that_is_not_internal() {
    let mut cluster = cluster(6, 1);
    let shy = NetworkCreate {
        name: "shy".to_owned(),
        internal: true,
        ..NetworkCreate::default()
    };
    cluster.ask(0, Request::NetworkCreate(shy)).unwrap();
    cluster.create_network(0, "other").unwrap();
    for (networks, answers) in [
        (vec!["shy", "other", "my-net"], 1),
        (vec!["my-net", "shy"], 0),
        (vec!["shy"], 0),
    ] {
        let mut web = spec("web", ServiceMode::Global, "run");
        web.networks = networks.iter().map(|name| (*name).into()).collect();
        create(&mut cluster, web);
        cluster.run_for(Duration::from_secs(3));
        let state = cluster.leader_state().unwrap();
        let task = state.tasks().values().next().unwrap();
        let answering = state.answering(task).unwrap();
        assert_eq!(answering.id, task.endpoints[answers], "{networks:?}");
        let service = "web".to_owned();
        cluster.ask(0, Request::ServiceRemove { service }).unwrap();
        cluster.run_for(Duration::from_secs(3));
    }
}

/// How many tasks of the service run on each host, by the hosts' own word.
fn running(cluster: &mut Cluster, service: &str) -> BTreeMap<usize, usize> {
    let tasks = tasks(cluster, service);
    let mut found = BTreeMap::new();
    for (id, host) in cluster.world().machines() {
        let here = host
            .running()
            .filter(|task| tasks.iter().any(|known| known.id == *task))
            .count();
        if here > 0 {
            found.insert(id.0, here);
        }
    }
    found
}

#[test]
fn replicas_spread_scale_and_go() {
    let mut cluster = cluster(1, 3);
    let created = create(&mut cluster, spec("web", ServiceMode::Replicated(3), "run"));
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(
        running(&mut cluster, "web"),
        BTreeMap::from([(0, 1), (1, 1), (2, 1)])
    );
    let listed = tasks(&mut cluster, "web");
    assert!(
        listed
            .iter()
            .all(|task| task.status.state == TaskState::Running),
        "{listed:?}"
    );
    for (replicas, most) in [(6, 2), (2, 1)] {
        let request = Request::ServiceScale {
            service: "web".to_owned(),
            replicas,
        };
        cluster.ask(1, request).unwrap();
        cluster.run_for(Duration::from_secs(3));
        let running = running(&mut cluster, "web");
        assert_eq!(running.values().sum::<usize>(), replicas as usize);
        assert!(running.values().all(|here| *here <= most), "{running:?}");
    }
    // The names lead to the tasks that run, and to no other.
    let asker = cluster.attach(0, "my-net", "asker").unwrap();
    cluster.run_for(Duration::from_secs(3));
    let mut addresses: Vec<_> = tasks(&mut cluster, "web")
        .into_iter()
        .filter(|task| task.status.state == TaskState::Running)
        .flat_map(|task| task.addresses)
        .collect();
    addresses.sort();
    assert_eq!(addresses.len(), 2);
    let mut found = cluster.resolve(0, asker.id, "tasks.web");
    found.sort();
    assert_eq!(found, addresses);
    for address in addresses {
        assert!(cluster.ping(0, asker.id, address));
    }
    // The service's own name leads to its virtual address, which answers as long as there is the service.
    let state = cluster.leader_state().unwrap();
    let service = state.service_named("web").unwrap();
    let address = service.virtual_addresses.values().next().unwrap()[0].addr();
    assert_eq!(cluster.resolve(0, asker.id, "web"), [address]);
    assert!(cluster.ping(0, asker.id, address));
    let request = Request::ServiceRemove {
        service: created.id.to_string(),
    };
    cluster.ask(2, request).unwrap();
    cluster.run_for(Duration::from_secs(3));
    let state = cluster.leader_state().unwrap();
    assert!(state.services().is_empty(), "{:?}", state.services());
    assert!(state.tasks().is_empty());
    assert_eq!(state.endpoints().len(), 1, "the asker alone");
    assert!(cluster.resolve(0, asker.id, "web").is_empty());
    assert!(!cluster.ping(0, asker.id, address));
    assert_eq!(cluster.quiet_violations(), []);
}

#[test]
fn tasks_move_off_a_host_that_is_lost_or_drained() {
    let mut cluster = cluster(2, 4);
    create(&mut cluster, spec("web", ServiceMode::Replicated(4), "run"));
    create(&mut cluster, spec("agent", ServiceMode::Global, "run"));
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(running(&mut cluster, "agent").len(), 4);
    let drain = Request::NodeUpdate(NodeUpdate {
        node: "host1".to_owned(),
        availability: Some(Availability::Drain),
        ..NodeUpdate::default()
    });
    cluster.ask(0, drain).unwrap();
    cluster.run_for(Duration::from_secs(4));
    for service in ["web", "agent"] {
        let running = running(&mut cluster, service);
        assert!(!running.contains_key(&1), "{service}: {running:?}");
    }
    assert_eq!(running(&mut cluster, "web").values().sum::<usize>(), 4);
    cluster.world().crash(HostId(3));
    cluster.run_for(Duration::from_secs(6));
    let moved = running(&mut cluster, "web");
    assert_eq!(moved.values().sum::<usize>(), 4, "{moved:?}");
    assert!(moved.keys().all(|host| [0, 2].contains(host)), "{moved:?}");
    // It comes back, and what it ran is not run twice.
    cluster.world().restart(HostId(3));
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.run_for(Duration::from_secs(4));
    assert_eq!(running(&mut cluster, "web").values().sum::<usize>(), 4);
    assert_eq!(
        running(&mut cluster, "agent")
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [0, 2, 3]
    );
    assert_eq!(cluster.quiet_violations(), []);
}

/// Until how many tasks of the service run, in steps of ten milliseconds.
fn until_running(cluster: &mut Cluster, count: usize) -> Duration {
    let step = Duration::from_millis(10);
    for steps in 1..1_000 {
        cluster.run_for(step);
        let state = cluster.leader_state().unwrap();
        let running = state.tasks().values();
        let running = running.filter(|task| task.status.state == TaskState::Running);
        if running.count() == count {
            return step * steps;
        }
    }
    panic!("more or fewer than {count} tasks run after ten seconds");
}

#[test]
fn a_task_stops_when_all_have_said_that_they_send_it_nothing_more() {
    let mut cluster = cluster(7, 4);
    let mut web = spec("web", ServiceMode::Replicated(3), "run");
    web.placement.constraints = vec!["node.hostname!=host3".to_owned()];
    create(&mut cluster, web);
    // One that runs none of the tasks is on their network, too.
    cluster.attach(3, "my-net", "asker").unwrap();
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(running(&mut cluster, "web").len(), 3);
    let scale = |cluster: &mut Cluster, replicas| {
        let service = "web".to_owned();
        let request = Request::ServiceScale { service, replicas };
        cluster.ask(0, request).unwrap();
    };
    // Five seconds are what it may take, not what it takes.
    scale(&mut cluster, 2);
    let quick = until_running(&mut cluster, 2);
    assert!(quick < Duration::from_secs(1), "{quick:?}");
    // One that does not answer is awaited until it counts as down, or the five seconds are over.
    cluster.world().crash(HostId(3));
    scale(&mut cluster, 1);
    let slow = until_running(&mut cluster, 1);
    assert!(
        slow > quick + Duration::from_millis(500),
        "{slow:?}, and {quick:?} before"
    );
    assert!(slow < Duration::from_secs(7), "{slow:?}");
}

#[test]
fn how_a_service_is_balanced_changes_without_anything_else() {
    let mut cluster = cluster(8, 3);
    let mut web = spec("web", ServiceMode::Global, "run");
    create(&mut cluster, web.clone());
    cluster.run_for(Duration::from_secs(5));
    web.balance.affinity_ms = 60_000;
    let update = Request::ServiceUpdate {
        service: "web".to_owned(),
        version: None,
        spec: Box::new(web),
    };
    cluster.ask(0, update).unwrap();
    cluster.run_for(Duration::from_secs(1));
    for (_, host) in cluster.world().machines() {
        let desired = host.node().unwrap().desired();
        let services = desired
            .networks
            .values()
            .flat_map(|one| one.services.values());
        let affinities: Vec<_> = services.map(|service| service.config.affinity).collect();
        assert_eq!(affinities, [Some(Duration::from_secs(60))]);
    }
}

#[test]
fn a_task_that_ends_is_followed_by_another() {
    let mut cluster = cluster(3, 3);
    create(
        &mut cluster,
        spec("flaky", ServiceMode::Replicated(1), "fail"),
    );
    cluster.run_for(Duration::from_secs(6));
    let tasks = tasks(&mut cluster, "flaky");
    let failed = tasks
        .iter()
        .filter(|task| task.status.state == TaskState::Failed);
    assert!(failed.clone().count() >= 2, "{tasks:?}");
    assert!(failed.clone().all(|task| task.status.exit_code == Some(1)));
    assert!(failed.count() <= 6, "it backs off");
}

/// Creates, changes and removes services while hosts and links fail, and looks whether the cluster comes to what it said.
#[test]
fn services_survive_faults() {
    runner::seeds_reaching(
        "services_survive_faults",
        60,
        &[
            "a service was created under faults",
            "a service was changed under faults",
            "a service was removed under faults",
            "a host was drained",
            "a policy was changed under faults",
        ],
        survive,
    );
}

fn survive(number: u64) {
    let seed = Seed::from_u64(number);
    let mut rng = seed.derive("services").rng();
    let hosts = 3 + rng.index(3).unwrap_or_default();
    let mut options = Options::new(seed.derive("cluster"), hosts);
    options.managers = 3;
    let mut cluster = Cluster::new(options);
    assert!(cluster.settle(Duration::from_secs(10)));
    cluster.create_network(0, "my-net").unwrap();
    cluster.create_network(0, "other").unwrap();
    let mut chaos = Chaos::new(&seed, ChaosConfig::default());
    let mut waiting: Vec<(HostId, u64, Request)> = Vec::new();
    for step in 0..60 {
        let host = HostId(rng.index(hosts).unwrap_or_default());
        let request = request(&mut rng, hosts, step);
        let token = cluster
            .world()
            .with(host, |host, now| host.request(now, request.clone()));
        if let Some(Some(token)) = token {
            waiting.push((host, token, request));
        }
        chaos.run_for(cluster.world(), Duration::from_millis(300), |_| {});
        waiting.retain(|(host, token, request)| {
            let reply = cluster
                .world()
                .with(*host, |host, _| host.take_reply(*token));
            let Some(Some(reply)) = reply else {
                return reply == Some(None);
            };
            if reply.is_ok() {
                let what = match request {
                    Request::ServiceCreate(_) => "a service was created under faults",
                    Request::ServiceScale { .. } => "a service was changed under faults",
                    Request::ServiceRemove { .. } => "a service was removed under faults",
                    Request::NodeUpdate(_) => "a host was drained",
                    Request::PolicyChange { .. } => "a policy was changed under faults",
                    _ => return false,
                };
                sometimes(what, true);
            }
            false
        });
        let violations = cluster.violations();
        assert_eq!(violations, [], "{}", cluster.describe());
    }
    chaos.heal(cluster.world());
    for _ in 0..5 {
        for host in 0..hosts {
            if !cluster.world().is_up(HostId(host)) {
                cluster.world().restart(HostId(host));
            }
        }
        if cluster.settle(Duration::from_secs(6)) {
            break;
        }
    }
    cluster.run_for(Duration::from_secs(20));
    check(&mut cluster, number);
    // A packet of a former life may come that late; its owner disowns it within a digest and a grace.
    for _ in 0..4 {
        if cluster.quiet_violations().is_empty() {
            break;
        }
        cluster.run_for(Duration::from_secs(5));
    }
    assert_eq!(cluster.quiet_violations(), [], "{}", cluster.describe());
}

fn request(rng: &mut Rng, hosts: usize, step: u32) -> Request {
    let service = format!("service{}", rng.below(5));
    match rng.below(22) {
        20 | 21 => policy_change(rng, service),
        0..=5 => {
            let mode = match rng.below(4) {
                0 => ServiceMode::Global,
                replicas => ServiceMode::Replicated(u32::try_from(replicas).unwrap()),
            };
            let mut created = spec(&service, mode, "run");
            if step.is_multiple_of(2) {
                created.networks.push("other".into());
            }
            if step.is_multiple_of(3) {
                created.labels.insert("tier".to_owned(), "front".to_owned());
            }
            Request::ServiceCreate(Box::new(created))
        }
        6..=10 => Request::ServiceScale {
            service,
            replicas: u32::try_from(rng.below(5)).unwrap(),
        },
        11..=12 => Request::ServiceRemove { service },
        13..=14 => {
            let mut changed = spec(&service, ServiceMode::Replicated(2), "run");
            changed.task.environment = vec![format!("STEP={step}")];
            changed.update.monitor_ms = 500;
            match step % 3 {
                0 => changed.networks.push("other".into()),
                1 => changed.networks.insert(0, "other".into()),
                _ => {}
            }
            Request::ServiceUpdate {
                service,
                version: None,
                spec: Box::new(changed),
            }
        }
        15..=17 => Request::NodeUpdate(NodeUpdate {
            node: format!("host{}", rng.index(hosts).unwrap_or_default()),
            availability: Some(match rng.below(3) {
                0 => Availability::Drain,
                1 => Availability::Pause,
                _ => Availability::Active,
            }),
            ..NodeUpdate::default()
        }),
        _ => Request::ServiceList,
    }
}

/// A rule about a service, or about those with a label, on one of the two networks.
fn policy_change(rng: &mut Rng, service: String) -> Request {
    let network = ["my-net", "other"][rng.index(2).unwrap_or_default()].to_owned();
    let label = "label:tier=front".parse().unwrap();
    let from = if rng.chance(500_000) {
        label
    } else {
        Selector::Any
    };
    let change = match rng.below(4) {
        0 => PolicyChange::Remove { name: service },
        _ => PolicyChange::Add {
            rule: RuleSpec {
                name: service.clone(),
                from,
                to: Selector::Service(service),
                traffic: vec!["tcp/80".parse().unwrap()],
                verdict: Verdict::Deny,
            },
            before: None,
            replace: true,
        },
    };
    let change = Box::new(change);
    Request::PolicyChange { network, change }
}

/// Each service has the tasks that it shall have, by the hosts' own word, and no host runs anything else.
fn check(cluster: &mut Cluster, number: u64) {
    let state = cluster.leader_state().unwrap().clone();
    let mut by_host: BTreeMap<TaskId, Vec<HostId>> = BTreeMap::new();
    for (id, host) in cluster.world().machines() {
        for task in host.running() {
            by_host.entry(task).or_default().push(id);
        }
    }
    for (task, hosts) in &by_host {
        let record = state.tasks().get(task);
        assert!(
            record.is_some(),
            "seed {number}: {task} runs and nobody knows it"
        );
        assert_eq!(hosts.len(), 1, "seed {number}: {task} runs on {hosts:?}");
    }
    let active = |node: &NodeId| state.nodes()[node].availability == Availability::Active;
    for service in state
        .services()
        .values()
        .filter(|service| !service.removing)
    {
        let running: Vec<_> = state
            .tasks_of(service.id)
            .filter(|task| by_host.contains_key(&task.id))
            .collect();
        let slots: BTreeSet<_> = running.iter().map(|task| task.slot).collect();
        assert_eq!(slots.len(), running.len(), "seed {number}: {running:?}");
        let spec = service.spec();
        let wanted = match spec.mode {
            ServiceMode::Replicated(replicas) => replicas as usize,
            ServiceMode::Global => state.nodes().keys().filter(|node| active(node)).count(),
        };
        let drained = |node: &NodeId| state.nodes()[node].availability == Availability::Drain;
        assert!(running.iter().all(|task| !drained(&task.node.unwrap())));
        let pauses = state
            .nodes()
            .values()
            .any(|node| node.availability == Availability::Pause);
        if state.nodes().keys().any(active) && !(pauses && spec.mode == ServiceMode::Global) {
            assert_eq!(
                running.len(),
                wanted,
                "seed {number}: {} is {:?}: {:#?}\\n{}",
                spec.name,
                service.update,
                state.tasks_of(service.id).collect::<Vec<_>>(),
                cluster.describe()
            );
        }
    }
}
