use super::*;
use crate::api::{
    DesiredState, EndpointMode, NodeUpdate, PendingReason, Protocol, PublishMode, PublishedPort,
    ServiceMode, ServiceSpec, Slot, TaskState, TaskStatus, UpdatePhase,
};

fn service(number: u8) -> ServiceId {
    ServiceId::from_bytes([number; 16])
}

fn task(number: u8) -> TaskId {
    TaskId::from_bytes([0x40 + number; 16])
}

fn web() -> ServiceSpec {
    ServiceSpec {
        name: "web".to_owned(),
        mode: ServiceMode::Replicated(2),
        networks: vec!["a".into()],
        ports: vec![publish(8_080)],
        ..ServiceSpec::default()
    }
}

fn publish(published: u16) -> PublishedPort {
    PublishedPort {
        published,
        target: 80,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ..PublishedPort::default()
    }
}

impl Lab {
    /// A cluster with the network `a` and the service `web` on it.
    fn with_web() -> Self {
        let mut lab = Self::new();
        lab.create("a").unwrap();
        lab.create_service(1, web()).unwrap();
        lab
    }

    fn create_service(&mut self, number: u8, spec: ServiceSpec) -> Result<Outcome, CommandError> {
        let (id, spec) = (service(number), Box::new(spec));
        self.apply(Command::CreateService { id, spec })
    }

    fn change_tasks(&mut self, changes: Vec<TaskChange>) {
        self.apply(Command::ChangeTasks { changes }).unwrap();
    }

    /// Makes a task of `web` and gives it to the first node.
    fn place(&mut self, number: u8) {
        let spec_version = self.web().spec_version;
        self.change_tasks(vec![
            TaskChange::Create {
                task: task(number),
                service: service(1),
                slot: Slot::Replica(u32::from(number)),
                spec_version,
                desired: DesiredState::Running,
            },
            TaskChange::Place {
                task: task(number),
                node: node(1),
            },
        ]);
    }

    fn report(&mut self, from: u8, number: u8, state: TaskState) {
        let status = TaskStatus {
            state,
            ..TaskStatus::default()
        };
        self.apply(Command::ReportTasks {
            node: node(from),
            reports: vec![(task(number), status)],
        })
        .unwrap();
    }

    fn web(&self) -> &ServiceRecord {
        &self.state.services()[&service(1)]
    }

    fn task(&self, number: u8) -> &TaskRecord {
        &self.state.tasks()[&task(number)]
    }

    fn used(&self) -> usize {
        self.network("a").addresses.leases().count()
    }
}

#[test]
fn a_service_has_an_address_of_its_own_and_its_ports_to_itself() {
    let mut lab = Lab::with_web();
    assert_eq!(lab.web().virtual_addresses.len(), 1);
    assert_eq!(lab.used(), 1);
    let other = ServiceSpec {
        name: "other".to_owned(),
        endpoint_mode: EndpointMode::Dnsrr,
        ports: Vec::new(),
        ..web()
    };
    lab.create_service(2, other.clone()).unwrap();
    assert_eq!(lab.used(), 1, "clients choose among its tasks");
    let clash = ServiceSpec {
        name: "third".to_owned(),
        ..web()
    };
    let refused = lab.create_service(3, clash).unwrap_err();
    assert!(
        matches!(refused, CommandError::PortInUse { port: 8_080, .. }),
        "{refused:?}"
    );
    let mesh = ServiceSpec {
        name: "third".to_owned(),
        ports: vec![publish(0)],
        ..other.clone()
    };
    let refused = lab.create_service(3, mesh).unwrap_err();
    assert!(refused.to_string().contains("vip"), "{refused}");
    let chosen = |number: u8| ServiceSpec {
        name: format!("chosen{number}"),
        ports: vec![publish(0), publish(0)],
        ..web()
    };
    lab.create_service(4, chosen(4)).unwrap();
    lab.create_service(5, chosen(5)).unwrap();
    let ports: Vec<_> = [4, 5]
        .into_iter()
        .flat_map(|number| &lab.state.services()[&service(number)].ports)
        .map(|port| port.published)
        .collect();
    assert_eq!(ports, [30_000, 30_001, 30_002, 30_003]);
}

#[test]
fn ports_of_tcp_and_udp_do_not_meet() {
    let mut lab = Lab::with_web();
    let udp = |published| PublishedPort {
        protocol: Protocol::Udp,
        ..publish(published)
    };
    let other = |name: &str, ports| ServiceSpec {
        name: name.to_owned(),
        ports,
        ..web()
    };
    let both = vec![udp(8_080), udp(0), publish(0)];
    lab.create_service(2, other("both", both)).unwrap();
    let ports = &lab.state.services()[&service(2)].ports;
    let ports: Vec<_> = ports.iter().map(|port| port.published).collect();
    assert_eq!(ports, [8_080, 30_000, 30_000]);
    let clash = other("third", vec![udp(8_080)]);
    let refused = lab.create_service(3, clash).unwrap_err();
    let protocol = match refused {
        CommandError::PortInUse { protocol, .. } => Some(protocol),
        _ => None,
    };
    assert_eq!(protocol, Some(Protocol::Udp), "{refused:?}");
}

#[test]
fn what_a_service_cannot_be_is_refused() {
    let mut lab = Lab::with_web();
    let refused = lab.create_service(2, web()).unwrap_err();
    assert!(
        matches!(refused, CommandError::ServiceExists { .. }),
        "{refused:?}"
    );
    let changed = |change: fn(&mut ServiceSpec)| {
        let mut spec = ServiceSpec {
            name: "other".to_owned(),
            ports: Vec::new(),
            ..web()
        };
        change(&mut spec);
        spec
    };
    for (change, part) in [
        (
            (|spec| spec.name = "no name".to_owned()) as fn(&mut ServiceSpec),
            "name",
        ),
        (|spec| spec.networks = vec!["b".into()], "no network \"b\""),
        (|spec| spec.networks = vec![INGRESS.into()], "ingress"),
        (|spec| spec.networks = vec!["a".into(); 2], "networks"),
        (
            |spec| spec.mode = ServiceMode::Replicated(u32::MAX),
            "replicas",
        ),
        (
            |spec| {
                spec.ports = vec![PublishedPort {
                    target: 0,
                    ..publish(1)
                }]
            },
            "target",
        ),
        (|spec| spec.ports = vec![publish(1), publish(1)], "twice"),
        (
            |spec| spec.task.command = vec!["x".repeat(70_000)],
            "octets",
        ),
    ] {
        let refused = lab.create_service(2, changed(change)).unwrap_err();
        assert!(refused.to_string().contains(part), "{part}: {refused}");
    }
    let zero = changed(|spec| spec.mode = ServiceMode::Replicated(0));
    lab.create_service(2, zero).unwrap();
}

#[test]
fn of_two_changes_of_one_version_the_second_is_refused() {
    let mut lab = Lab::with_web();
    let version = lab.web().version;
    let update = |replicas, version| Command::UpdateService {
        id: service(1),
        version,
        spec: Box::new(ServiceSpec {
            mode: ServiceMode::Replicated(replicas),
            ..web()
        }),
    };
    lab.apply(update(3, Some(version))).unwrap();
    let refused = lab.refused(update(4, Some(version)));
    assert!(
        matches!(refused, CommandError::Outdated { .. }),
        "{refused:?}"
    );
    assert_eq!(lab.web().spec().mode, ServiceMode::Replicated(3));
    lab.apply(update(5, None)).unwrap();
    lab.apply(Command::RollBackService { id: service(1) })
        .unwrap();
    assert_eq!(lab.web().spec().mode, ServiceMode::Replicated(3));
    assert_eq!(
        lab.web().update.as_ref().unwrap().phase,
        UpdatePhase::RollbackStarted
    );
    let renamed = Command::UpdateService {
        id: service(1),
        version: None,
        spec: Box::new(ServiceSpec {
            name: "new".to_owned(),
            ..web()
        }),
    };
    assert!(lab.refused(renamed).to_string().contains("keeps its name"));
    let unknown = Command::RollBackService { id: service(9) };
    assert!(matches!(
        lab.refused(unknown),
        CommandError::UnknownService { .. }
    ));
    let mut fresh = Lab::with_web();
    let nothing = Command::RollBackService { id: service(1) };
    assert!(matches!(
        fresh.refused(nothing),
        CommandError::NoPrevious { .. }
    ));
}

#[test]
fn a_task_has_an_address_from_when_it_has_a_node_until_it_has_ended() {
    let mut lab = Lab::with_web();
    lab.place(1);
    assert_eq!(lab.task(1).status.state, TaskState::Assigned);
    let endpoint = &lab.state.endpoints()[&lab.task(1).endpoints[0]];
    assert_eq!(endpoint.task.as_ref().unwrap().service_name, "web");
    assert_eq!((endpoint.node, lab.used()), (node(1), 2));
    let detach = Command::DetachEndpoint {
        endpoint: endpoint.id,
        node: Some(node(1)),
    };
    assert!(matches!(lab.refused(detach), CommandError::OfTask { .. }));
    lab.report(2, 1, TaskState::Failed);
    assert_eq!(
        lab.task(1).status.state,
        TaskState::Assigned,
        "another node's word"
    );
    lab.report(1, 1, TaskState::Running);
    let since = lab.task(1).status.since_unix_ms;
    lab.report(1, 1, TaskState::Running);
    assert_eq!(lab.task(1).status.since_unix_ms, since, "said again");
    lab.report(1, 1, TaskState::Preparing);
    assert_eq!(
        lab.task(1).status.state,
        TaskState::Running,
        "nothing goes back"
    );
    lab.report(1, 1, TaskState::Failed);
    lab.report(1, 1, TaskState::Running);
    assert_eq!(lab.task(1).status.state, TaskState::Failed);
    assert_eq!((lab.state.endpoints().len(), lab.used()), (0, 1));
    let happened: Vec<_> = lab
        .state
        .events_after(0)
        .filter(|event| event.kind == "task")
        .map(|event| event.action)
        .collect();
    assert_eq!(happened, ["assigned", "running", "failed"]);
}

#[test]
fn a_task_without_an_address_waits_and_says_why() {
    let mut lab = Lab::new();
    let small = |spec: &mut NetworkCreate| {
        let subnet = Some(net("10.9.0.0/29"));
        spec.subnets = vec![SubnetSpec {
            subnet,
            gateway: None,
            ..SubnetSpec::default()
        }];
    };
    lab.create_with("a", small).unwrap();
    lab.create_service(1, web()).unwrap();
    for number in 1..=5 {
        lab.place(number);
    }
    let waiting = lab.task(5);
    let network = "a".to_owned();
    assert_eq!(
        waiting.status.pending,
        Some(PendingReason::Address { network })
    );
    assert_eq!((waiting.node, lab.used()), (None, 5));
}

#[test]
fn a_removed_service_goes_with_its_last_task() {
    let mut lab = Lab::with_web();
    lab.place(1);
    lab.place(2);
    let version = lab.web().spec_version;
    lab.change_tasks(vec![TaskChange::Create {
        task: task(3),
        service: service(1),
        slot: Slot::Replica(3),
        spec_version: version,
        desired: DesiredState::Running,
    }]);
    lab.report(1, 1, TaskState::Running);
    lab.apply(Command::RemoveService { id: service(1) })
        .unwrap();
    assert_eq!(lab.state.tasks().len(), 2, "one had no node");
    lab.create_service(2, web()).unwrap();
    assert_eq!(lab.task(1).desired, DesiredState::Remove);
    lab.report(1, 1, TaskState::Shutdown);
    assert!(lab.state.services().contains_key(&service(1)));
    let network = lab.network("a").id;
    let remove = Command::RemoveNetwork { network };
    lab.report(1, 2, TaskState::Shutdown);
    assert!(!lab.state.services().contains_key(&service(1)));
    assert!(matches!(
        lab.refused(remove.clone()),
        CommandError::NetworkOfService { .. }
    ));
    lab.apply(Command::RemoveService { id: service(2) })
        .unwrap();
    assert!(lab.state.services().is_empty() && lab.state.tasks().is_empty());
    assert_eq!(lab.used(), 0);
    lab.apply(remove).unwrap();
}

#[test]
fn the_tasks_of_a_node_that_is_removed_are_given_up() {
    let mut lab = Lab::with_web();
    lab.apply(Command::AddNode(add(2, Role::Worker))).unwrap();
    let version = lab.web().spec_version;
    lab.change_tasks(vec![
        TaskChange::Create {
            task: task(1),
            service: service(1),
            slot: Slot::Replica(1),
            spec_version: version,
            desired: DesiredState::Running,
        },
        TaskChange::Place {
            task: task(1),
            node: node(2),
        },
    ]);
    lab.apply(Command::RemoveNode { node: node(2) }).unwrap();
    assert_eq!(lab.task(1).status.state, TaskState::Orphaned);
    assert_eq!((lab.state.endpoints().len(), lab.used()), (0, 1));
}

#[test]
fn what_no_longer_fits_a_decision_is_left_out() {
    let mut lab = Lab::with_web();
    let version = lab.web().spec_version;
    let create = |number, spec_version| TaskChange::Create {
        task: task(number),
        service: service(1),
        slot: Slot::Replica(1),
        spec_version,
        desired: DesiredState::Running,
    };
    lab.change_tasks(vec![
        create(1, version + 1),
        create(2, version),
        TaskChange::Place {
            task: task(2),
            node: node(9),
        },
        TaskChange::Place {
            task: task(7),
            node: node(1),
        },
        TaskChange::Remove { task: task(7) },
    ]);
    assert!(!lab.state.tasks().contains_key(&task(1)));
    assert_eq!(lab.task(2).node, None);
    let pause = NodeUpdate {
        availability: Some(crate::api::Availability::Pause),
        ..NodeUpdate::default()
    };
    let (node, change) = (node(1), pause);
    lab.apply(Command::UpdateNode { node, change }).unwrap();
    let place = TaskChange::Place {
        task: task(2),
        node,
    };
    lab.change_tasks(vec![place]);
    assert_eq!(lab.task(2).node, None, "it was paused meanwhile");
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let mut lab = Lab::with_web();
    let network = *lab.state.networks().keys().next().unwrap();
    lab.place(1);
    let refused = |what: &str, damage: &dyn Fn(&mut ClusterState)| {
        let mut state = lab.state.clone();
        damage(&mut state);
        let error = ClusterState::restore(&state.snapshot()).unwrap_err();
        assert_eq!(error, SnapshotError::Malformed, "{what}");
    };
    refused("no next part", &|state| state.next_raft_id = 0);
    refused("a part again", &|state| state.next_raft_id = 1);
    refused("a subnet that is free", &|state| {
        let prefix = state.networks()[&network].subnets[0].prefix;
        state.pools.release(prefix).unwrap();
    });
    refused("a subnet of two networks", &|state| {
        let other = NetworkId::from_bytes([9; 16]);
        let mut record = state.networks()[&network].clone();
        record.id = other;
        state.networks.insert(&mut state.journal, other, record);
    });
    refused("no spec", &|state| {
        let change = |record: &mut ServiceRecord| record.spec_version += 1;
        state
            .services
            .modify(&mut state.journal, service(1), change);
    });
    refused("a task without a spec", &|state| {
        let change = |record: &mut TaskRecord| record.spec_version += 1;
        state.tasks.modify(&mut state.journal, task(1), change);
    });
}
