//! Endpoints that share a namespace.

use overlay_core::{
    ServiceId, TaskId,
    plane::{NoWayOut, WayOut},
};

use super::*;
use crate::{
    WayOutConfig,
    api::{DesiredState, Slot, TaskSpec, TaskState},
    state::TaskEndpoint,
};

#[test]
fn a_task_on_several_networks_has_one_namespace_one_client_and_starts_when_all_its_ports_are_ready()
{
    let mut agent = agent();
    let (task, [a, b, c]) = (TaskId::from_bytes([9; 16]), ids());
    // The last one has the lowest identity: the order is that of the task.
    let assignment = on_networks(5, Some(task), &[(c, 1), (b, 2), (a, 3)]);
    agent.assign(Instant::EPOCH, assignment);
    let wishes = drain(&mut agent);
    let ports = ports(&wishes);
    let places: Vec<_> = ports
        .iter()
        .map(|spec| {
            (
                spec.endpoint,
                spec.interface.as_str(),
                spec.namespace.clone(),
            )
        })
        .collect();
    let shared = |interface| Namespace::Shared { with: c, interface };
    assert_eq!(
        places,
        [
            (c, "eth0", Namespace::Own),
            (b, "eth1", shared(1)),
            (a, "eth2", shared(2)),
        ]
    );
    let view = View {
        networks: vec![network_number(1), network_number(2), network_number(3)],
        forward: true,
    };
    assert_eq!(clients(&wishes), [(c, Some(view))]);
    // All name the same way out, once.
    let way_out = ports[0].way_out.clone();
    assert!(way_out.is_some() && ports.iter().all(|spec| spec.way_out == way_out));

    for (endpoint, last) in [(b, false), (a, false), (c, true)] {
        agent.handle_port(Instant::EPOCH, endpoint, Ok(()));
        settle(&mut agent);
        let started = drain(&mut agent)
            .iter()
            .any(|wish| matches!(wish, Wish::StartTask(order) if order.endpoints == [c, b, a]));
        assert_eq!(started, last, "{endpoint}");
    }

    agent.assign(Instant::EPOCH, on_networks(6, None, &[]));
    let wishes = drain(&mut agent);
    let removed = |wish: &&Wish| matches!(wish, Wish::RemovePort(_));
    assert_eq!(wishes.iter().filter(removed).count(), 3);
    assert_eq!(clients(&wishes), [(c, None)]);
    let memory = agent.poll_memory().unwrap();
    assert!(memory.namespaces.is_empty(), "{memory:?}");
    let left = memory.way_out.map(|subnet| subnet.used());
    assert_eq!(left, Some(0), "addresses on the bridge");
}

#[test]
fn a_task_does_not_start_while_the_port_of_one_of_its_networks_fails() {
    let mut agent = agent();
    let (task, [a, b, _]) = (TaskId::from_bytes([9; 16]), ids());
    agent.assign(
        Instant::EPOCH,
        on_networks(5, Some(task), &[(a, 1), (b, 2)]),
    );
    settle(&mut agent);
    agent.handle_port(Instant::EPOCH, a, Ok(()));
    let error = PlatformError::UnknownEndpoint { endpoint: b };
    agent.handle_port(Instant::EPOCH, b, Err(error.clone()));
    let reports = agent.take_reports();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].1.state, TaskState::Preparing);
    assert_eq!(reports[0].1.message, error.to_string());
    drain(&mut agent);
    let due = agent.poll_timeout().unwrap();
    agent.handle_timeout(due);
    let again = drain(&mut agent);
    assert_eq!(ports(&again).len(), 1, "only the one that failed");
    agent.handle_port(due, b, Err(error));
    assert_eq!(agent.take_reports(), [], "that was said");
    let other = PlatformError::UnknownEndpoint { endpoint: a };
    agent.handle_port(due, b, Err(other.clone()));
    assert_eq!(agent.take_reports()[0].1.message, other.to_string());
    agent.handle_port(due, b, Ok(()));
    settle(&mut agent);
    let started = |wish: &Wish| matches!(wish, Wish::StartTask(_));
    assert!(drain(&mut agent).iter().any(started));
}

#[test]
fn the_view_of_a_namespace_follows_its_endpoints_also_without_the_first() {
    let mut agent = agent();
    let [a, b, c] = ids();
    agent.expect(a, Namespace::Own);
    agent.assign(Instant::EPOCH, on_networks(5, None, &[(a, 1)]));
    drain(&mut agent);
    for (endpoint, interface) in [(b, 1), (c, 2)] {
        assert_eq!(agent.holder_of(a, interface), None);
        agent.expect(endpoint, Namespace::Shared { with: a, interface });
        assert_eq!(agent.holder_of(a, interface), Some(endpoint));
    }
    agent.assign(
        Instant::EPOCH,
        on_networks(6, None, &[(a, 1), (b, 2), (c, 3)]),
    );
    let wishes = drain(&mut agent);
    let made: Vec<_> = ports(&wishes).iter().map(|spec| spec.endpoint).collect();
    assert_eq!(made, [b, c], "that of the first is there");
    assert_eq!(networks_of(&wishes, a), [1, 2, 3]);

    // The one after which it is named goes, and the way out stays: it is that of the namespace.
    agent.assign(Instant::EPOCH, on_networks(7, None, &[(b, 2), (c, 3)]));
    let wishes = drain(&mut agent);
    assert_eq!(networks_of(&wishes, a), [2, 3]);
    assert_eq!(ports(&wishes).len(), 0);
    let mut again = Agent::new(config_out(), agent.poll_memory().unwrap(), Instant::EPOCH);
    let wishes = drain(&mut again);
    assert_eq!(networks_of(&wishes, a), [2, 3], "after a restart");
    let places: Vec<_> = ports(&wishes)
        .iter()
        .map(|spec| spec.interface.clone())
        .collect();
    assert_eq!(places, ["eth1", "eth2"]);
}

#[test]
fn a_namespace_has_a_way_out_as_long_as_one_of_its_networks_has() {
    let mut agent = agent();
    let [a, b, _] = ids();
    agent.expect(a, Namespace::Own);
    agent.expect(
        b,
        Namespace::Shared {
            with: a,
            interface: 1,
        },
    );
    // Network 4 is internal.
    agent.assign(Instant::EPOCH, on_networks(5, None, &[(a, 4)]));
    let wishes = drain(&mut agent);
    assert_eq!(ports(&wishes)[0].way_out, None);
    let forward = |wishes: &[Wish]| clients(wishes)[0].1.as_ref().unwrap().forward;
    assert!(!forward(&wishes));

    agent.assign(Instant::EPOCH, on_networks(6, None, &[(a, 4), (b, 1)]));
    let wishes = drain(&mut agent);
    let made = ports(&wishes);
    let (endpoints, way_out): (Vec<_>, Vec<_>) = made
        .iter()
        .map(|spec| (spec.endpoint, spec.way_out.is_some()))
        .unzip();
    assert_eq!((endpoints, way_out), (vec![b], vec![true]));
    assert!(forward(&wishes));

    agent.assign(Instant::EPOCH, on_networks(7, None, &[(a, 4)]));
    let wishes = drain(&mut agent);
    let told: Vec<_> = ports(&wishes)
        .iter()
        .map(|spec| (spec.endpoint, spec.way_out.clone()))
        .collect();
    assert_eq!(told, [(a, None)], "the port that is left hears of it");
    assert!(!forward(&wishes));
}

#[test]
fn the_way_out_takes_no_interface_of_a_network() {
    let mut agent = agent();
    let [a, ..] = ids();
    agent.expect(a, Namespace::Own);
    agent.assign(Instant::EPOCH, on_networks(5, None, &[(a, 1)]));
    let wishes = drain(&mut agent);
    let way_out: WayOut = ports(&wishes)[0].way_out.clone().unwrap();
    assert!(!way_out.interface.starts_with("eth"), "{way_out:?}");
    assert_eq!(way_out.check(), Ok::<(), NoWayOut>(()));
}

fn agent() -> Agent {
    Agent::new(config_out(), AgentMemory::default(), Instant::EPOCH)
}

fn config_out() -> Config {
    let mut config = config();
    config.way_out = Some(WayOutConfig {
        bridge: "overlay_gw".to_owned(),
        subnet: "172.18.0.0/24".parse().unwrap(),
        mtu: 1_500,
    });
    config
}

fn ids() -> [EndpointId; 3] {
    [1, 2, 3].map(|number| EndpointId::from_bytes([number; 16]))
}

fn drain(agent: &mut Agent) -> Vec<Wish> {
    std::iter::from_fn(|| agent.poll_wish()).collect()
}

fn ports(wishes: &[Wish]) -> Vec<&PortSpec> {
    let specs = wishes.iter().filter_map(|wish| match wish {
        Wish::CreatePort(spec) => Some(&**spec),
        _ => None,
    });
    specs.collect()
}

/// What was said of clients: their views, none of those that are gone.
fn clients(wishes: &[Wish]) -> Vec<(EndpointId, Option<View>)> {
    let said = wishes.iter().filter_map(|wish| match wish {
        Wish::SetClient(client, view, _) => Some((*client, Some(view.clone()))),
        Wish::RemoveClient(client) => Some((*client, None)),
        _ => None,
    });
    said.collect()
}

/// The numbers of the networks that the only client among them sees.
fn networks_of(wishes: &[Wish], client: EndpointId) -> Vec<u8> {
    let said = clients(wishes);
    let [(only, Some(view))] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert_eq!(*only, client);
    view.networks
        .iter()
        .map(|network| network.as_bytes()[0] - 100)
        .collect()
}

fn network_number(number: u8) -> NetworkId {
    NetworkId::from_bytes([100 + number; 16])
}

/// Endpoints on networks, of a task if one is given.
fn on_networks(version: u64, task: Option<TaskId>, endpoints: &[(EndpointId, u8)]) -> Assignment {
    let mut assignment = assignment(version, &[]);
    for (endpoint, number) in endpoints {
        let mut one = assigned(*endpoint);
        one.record.network = network_number(*number);
        one.record.task = task.map(|task| TaskEndpoint {
            task,
            service: ServiceId::from_bytes([7; 16]),
            service_name: "web".to_owned(),
        });
        assignment.endpoints.push(one);
        assignment.networks.push(AssignedNetwork {
            vlan_tags: false,
            encrypted: false,
            id: network_number(*number),
            name: format!("net{number}"),
            vni: Vni::new(4_096 + u32::from(*number)).unwrap(),
            subnets: vec![format!("10.0.{number}.0/24").parse().unwrap()],
            mtu: None,
            path: None,
            internal: *number == 4,
            ingress: false,
            policy: Default::default(),
            hides_names: false,
        });
    }
    assignment.endpoints.sort_by_key(|one| one.record.id);
    assignment.tasks.extend(task.map(|id| AssignedTask {
        id,
        service_name: "web".to_owned(),
        slot: Slot::Replica(1),
        spec: TaskSpec {
            command: vec!["true".to_owned()],
            ..TaskSpec::default()
        },
        desired: DesiredState::Running,
        endpoints: endpoints.iter().map(|(id, _)| *id).collect(),
    }));
    assignment
}
