use super::*;
use crate::api::{
    ClientAddress, EndpointMode, NamedPort, NetworkChoice, Protocol, PublishedPort, ServiceSpec,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network with a subnet of each family.
fn both(lab: &mut Lab, name: &str) -> NetworkId {
    let subnets = vec![subnet("10.7.0.0/29"), subnet("fd00:7::/64")];
    lab.create_with(name, |spec| spec.subnets = subnets)
        .unwrap()
}

fn attach(network: NetworkId, number: u64, addresses: &[&str]) -> Command {
    let mut attach = lab_attach(network, &format!("e{number}"), None, number);
    attach.addresses = addresses.iter().map(|text| ip(text)).collect();
    Command::AttachEndpoint(attach)
}

fn addresses(lab: &Lab, name: &str) -> Vec<String> {
    let endpoint = &lab.state.endpoints()[&lab.named(name)];
    endpoint.addresses.iter().map(IpNet::to_string).collect()
}

fn published() -> ServiceSpec {
    ServiceSpec {
        name: "web".to_owned(),
        ports: vec![PublishedPort {
            published: 8_080,
            target: 80,
            ..PublishedPort::default()
        }],
        ..ServiceSpec::default()
    }
}

fn create(number: u8, spec: ServiceSpec) -> Command {
    Command::CreateService {
        id: ServiceId::from_bytes([number; 16]),
        spec: Box::new(spec),
    }
}

#[test]
fn an_endpoint_has_an_address_of_each_family() {
    let mut lab = Lab::new();
    let network = both(&mut lab, "a");
    lab.apply(attach(network, 1, &[])).unwrap();
    assert_eq!(addresses(&lab, "e1"), ["10.7.0.2/29", "fd00:7::2/64"]);
    lab.apply(attach(network, 2, &["fd00:7::77"])).unwrap();
    assert_eq!(addresses(&lab, "e2"), ["10.7.0.3/29", "fd00:7::77/64"]);
    lab.apply(attach(network, 3, &["fd00:7::78", "10.7.0.6"]))
        .unwrap();
    assert_eq!(addresses(&lab, "e3"), ["10.7.0.6/29", "fd00:7::78/64"]);
    assert_eq!(
        lab.state.endpoints()[&lab.named("e3")].mac.to_string(),
        "02:42:0a:07:00:06"
    );
    // Refusals take nothing of the other family either; the harness compares the whole state.
    for refused in [
        &["10.7.0.2", "fd00:7::79"][..],
        &["fd00:7::77"],
        &["10.7.0.4", "10.7.0.5"],
        &["10.7.0.1"],
        &["192.0.2.1"],
    ] {
        lab.refused(attach(network, 9, refused));
    }
    lab.detach(lab.named("e3")).unwrap();
    // The IPv4 side fills up first, and that is said although IPv6 has room.
    for number in 10..13 {
        lab.apply(attach(network, number, &[])).unwrap();
    }
    let full = lab.refused(attach(network, 20, &[]));
    assert_eq!(
        full,
        CommandError::SubnetFull {
            network: "a".to_owned(),
            used: 5
        }
    );
}

#[test]
fn aliases_that_no_row_has_room_for_are_refused() {
    let mut lab = Lab::new();
    let network = lab.create("a").unwrap();
    let long = |count| {
        let mut attach = lab_attach(network, "e", None, 1);
        attach.aliases = vec!["x".repeat(63); count];
        Command::AttachEndpoint(attach)
    };
    let refused = lab.refused(long(9));
    assert!(
        matches!(refused, CommandError::Limit { limit: 512, .. }),
        "{refused}"
    );
    lab.apply(long(8)).unwrap();
}

#[test]
fn a_full_network_grows_by_a_subnet() {
    let mut lab = Lab::new();
    let network = lab
        .create_with("a", |spec| spec.subnets = vec![subnet("10.7.0.0/30")])
        .unwrap();
    lab.apply(attach(network, 1, &[])).unwrap();
    lab.refused(attach(network, 2, &[]));
    let extend = |subnets| Command::ExtendNetwork { network, subnets };
    let overlap = lab.refused(extend(vec![subnet("10.8.0.0/30"), subnet("10.7.0.0/29")]));
    assert!(
        matches!(overlap, CommandError::SubnetOverlap { .. }),
        "{overlap}"
    );
    lab.apply(extend(vec![subnet("10.8.0.0/30")])).unwrap();
    lab.apply(attach(network, 2, &[])).unwrap();
    assert_eq!(addresses(&lab, "e2"), ["10.8.0.2/30"]);
    assert_eq!(
        lab.refused(Command::ExtendNetwork {
            network: super::network(9),
            subnets: vec![]
        }),
        CommandError::UnknownNetwork {
            network: super::network(9)
        }
    );
    let many = lab.refused(extend(vec![subnet("0.0.0.0/28"); 15]));
    assert!(
        matches!(many, CommandError::Limit { limit: 16, .. }),
        "{many}"
    );
    // All of it comes back.
    lab.detach(lab.named("e1")).unwrap();
    lab.detach(lab.named("e2")).unwrap();
    lab.apply(Command::RemoveNetwork { network }).unwrap();
    lab.create_with("b", |spec| {
        spec.subnets = vec![subnet("10.7.0.0/30"), subnet("10.8.0.0/30")];
    })
    .unwrap();
}

#[test]
fn nobody_gets_an_address_that_is_set_aside() {
    let mut lab = Lab::new();
    let network = lab
        .create_with("a", |spec| {
            let mut subnet = subnet("10.7.0.0/29");
            for (name, address) in [("router", "10.7.0.2"), ("printer", "10.7.0.4")] {
                subnet.aux_addresses.insert(name.to_owned(), ip(address));
            }
            spec.subnets = vec![subnet];
        })
        .unwrap();
    lab.apply(attach(network, 1, &[])).unwrap();
    lab.apply(attach(network, 2, &[])).unwrap();
    assert_eq!(
        [addresses(&lab, "e1"), addresses(&lab, "e2")].concat(),
        ["10.7.0.3/29", "10.7.0.5/29"]
    );
    let refused = lab.refused(attach(network, 3, &["10.7.0.4"]));
    assert!(
        matches!(refused, CommandError::AddressUnusable { .. }),
        "{refused}"
    );
}

#[test]
fn subnets_keep_clear_of_the_routes_of_hosts() {
    let mut lab = Lab::new();
    let describe = |routes: &[&str]| Command::DescribeNode {
        node: node(1),
        description: NodeDescription {
            issuer: [0; 32],
            hostname: "host1".to_owned(),
            address: ip("192.0.2.1"),
            management_port: 2_377,
            gossip_port: 7_946,
            version: "0.1.0".to_owned(),
            resources: Default::default(),
            routes: routes.iter().map(|text| net(text)).collect(),
        },
    };
    // A default route is no reason.
    lab.apply(describe(&["0.0.0.0/0", "10.0.1.0/24", "10.0.2.128/25"]))
        .unwrap();
    let prefix = |lab: &Lab, name: &str| lab.network(name).subnets[0].prefix;
    lab.create("a").unwrap();
    assert_eq!(prefix(&lab, "a"), net("10.0.3.0/24"));
    // Whoever names a subnet knows better.
    lab.create_with("b", |spec| spec.subnets = vec![subnet("10.0.1.0/24")])
        .unwrap();
    lab.apply(describe(&["10.0.0.0/8"])).unwrap();
    let refused = lab.create("c").unwrap_err();
    assert_eq!(
        refused,
        CommandError::PoolsRouted {
            route: net("10.0.0.0/8")
        }
    );
}

#[test]
fn a_service_has_the_virtual_addresses_that_it_asks_for() {
    let mut lab = Lab::new();
    let network = both(&mut lab, "a");
    let on = |addresses: &[&str]| ServiceSpec {
        name: "web".to_owned(),
        networks: vec![NetworkChoice {
            network: "a".to_owned(),
            aliases: Vec::new(),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
        }],
        ..ServiceSpec::default()
    };
    lab.apply(create(1, on(&["fd00:7::50"]))).unwrap();
    let id = ServiceId::from_bytes([1; 16]);
    let has = |lab: &Lab| {
        lab.state.services()[&id]
            .virtual_addresses
            .get(&network)
            .cloned()
    };
    let first = vec![net("10.7.0.2/29"), net("fd00:7::50/64")];
    assert_eq!(has(&lab), Some(first.clone()));
    let taken = lab.refused(attach(network, 1, &["fd00:7::50"]));
    assert!(
        matches!(taken, CommandError::AddressInUse { .. }),
        "{taken}"
    );
    let update = |spec: ServiceSpec| Command::UpdateService {
        id,
        version: None,
        spec: Box::new(spec),
    };
    let moved = lab.refused(update(on(&["fd00:7::51"])));
    assert!(
        matches!(moved, CommandError::InvalidService { .. }),
        "{moved}"
    );
    lab.apply(update(on(&["10.7.0.2"]))).unwrap();
    assert_eq!(has(&lab), Some(first));
    let names = |mut spec: ServiceSpec| {
        spec.endpoint_mode = EndpointMode::Dnsrr;
        spec
    };
    lab.apply(update(names(on(&[])))).unwrap();
    assert_eq!(has(&lab), None);
    lab.apply(attach(network, 1, &["fd00:7::50"])).unwrap();
}

#[test]
fn a_service_that_publishes_and_names_no_network_is_on_that_of_published_ports() {
    let mut lab = Lab::new();
    let ingress = lab.network(INGRESS).id;
    let spec = published();
    lab.apply(create(1, spec.clone())).unwrap();
    let service = &lab.state.services()[&ServiceId::from_bytes([1; 16])];
    assert_eq!(service.networks, [ingress]);
    // Nobody reaches anybody by it, so there is nothing to balance.
    assert!(service.virtual_addresses.is_empty());
    let (task, spec_version) = (TaskId::from_bytes([9; 16]), service.spec_version);
    let id = service.id;
    let changes = vec![
        TaskChange::Create {
            task,
            service: id,
            slot: crate::api::Slot::Replica(1),
            spec_version,
            desired: crate::api::DesiredState::Running,
        },
        TaskChange::Place {
            task,
            node: node(1),
        },
    ];
    lab.apply(Command::ChangeTasks { changes }).unwrap();
    let endpoint = lab.state.tasks()[&task].endpoints[0];
    assert_eq!(lab.state.endpoints()[&endpoint].network, ingress);
    assert_eq!(
        lab.state.answering(&lab.state.tasks()[&task]).unwrap().id,
        endpoint
    );
    let remove = Command::RemoveNetwork { network: ingress };
    lab.refused(remove.clone());
    lab.apply(Command::RemoveService { id }).unwrap();
    lab.apply(Command::RemoveNode { node: node(1) })
        .unwrap_err();
    let ended = crate::api::TaskStatus {
        state: crate::api::TaskState::Shutdown,
        ..Default::default()
    };
    lab.apply(Command::ReportTasks {
        node: node(1),
        reports: vec![(task, ended)],
    })
    .unwrap();
    // It can be replaced by one with other options.
    lab.apply(remove).unwrap();
    assert_eq!(lab.refused(create(2, spec)), CommandError::NoIngress);
    lab.create(INGRESS).unwrap_err();
    let open = |spec: &mut NetworkCreate| {
        (spec.ingress, spec.attachable) = (true, true);
    };
    lab.create_with("edge", open).unwrap_err();
    lab.create_with("edge", |spec| {
        (spec.ingress, spec.attachable) = (true, false);
        spec.subnets = vec![subnet("172.30.0.0/24")];
    })
    .unwrap();
    lab.create_with("more", |spec| {
        (spec.ingress, spec.attachable) = (true, false);
    })
    .unwrap_err();
    lab.apply(create(2, published())).unwrap();
    let service = &lab.state.services()[&ServiceId::from_bytes([2; 16])];
    assert_eq!(service.networks, [lab.network("edge").id]);
}

#[test]
fn so_is_one_whose_ports_are_open_where_its_tasks_run() {
    let mut lab = Lab::new();
    let mut home = published();
    home.ports[0].mode = crate::api::PublishMode::Host;
    lab.apply(create(7, home)).unwrap();
    let service = &lab.state.services()[&ServiceId::from_bytes([7; 16])];
    assert_eq!(service.networks, [lab.network(INGRESS).id]);
    // One that publishes nothing is on none.
    let mut shy = published();
    (shy.name, shy.ports) = ("shy".to_owned(), Vec::new());
    lab.apply(create(8, shy)).unwrap();
    let service = &lab.state.services()[&ServiceId::from_bytes([8; 16])];
    assert!(service.networks.is_empty());
}

#[test]
fn names_of_a_service_are_such_as_can_be_asked_for() {
    let mut lab = Lab::new();
    lab.create("a").unwrap();
    let port = |name: &str, target| NamedPort {
        name: name.to_owned(),
        target,
        protocol: Protocol::Tcp,
    };
    let aliases = |aliases: &[&str]| {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        vec![NetworkChoice {
            network: "a".to_owned(),
            aliases,
            addresses: Vec::new(),
        }]
    };
    type Change = Box<dyn Fn(&mut ServiceSpec)>;
    let refused: Vec<Change> = vec![
        Box::new(move |spec| spec.named_ports = vec![port("", 80)]),
        Box::new(move |spec| spec.named_ports = vec![port("http", 0)]),
        Box::new(move |spec| spec.named_ports = vec![port("-http", 80)]),
        Box::new(move |spec| spec.named_ports = vec![port("a--b", 80)]),
        Box::new(move |spec| spec.named_ports = vec![port("80", 80)]),
        Box::new(move |spec| spec.named_ports = vec![port("_http", 80)]),
        Box::new(move |spec| spec.named_ports = vec![port("sixteen-letters-", 80)]),
        Box::new(move |spec| spec.named_ports = vec![port("http", 80), port("HTTP", 81)]),
        Box::new(move |spec| spec.networks = aliases(&["a b"])),
        Box::new(move |spec| spec.networks = aliases(&["x".repeat(63).as_str(); 4])),
        Box::new(|spec| spec.texts = vec!["x".repeat(256)]),
        Box::new(|spec| spec.texts = vec![String::new(); 17]),
        Box::new(|spec| {
            spec.ports[0].protocol = Protocol::Udp;
            spec.ports[0].client = ClientAddress::ProxyV2;
        }),
    ];
    for (number, change) in (10..).zip(refused) {
        let mut spec = published();
        change(&mut spec);
        let (named, texts) = (spec.named_ports.clone(), spec.networks.clone());
        let outcome = lab.apply(create(number, spec));
        assert!(outcome.is_err(), "{named:?} {texts:?}");
    }
    let mut spec = published();
    spec.named_ports = (0..16)
        .map(|n| port(&format!("p-{n}-abcdefghi"), 80))
        .collect();
    spec.networks = aliases(&["x".repeat(63).as_str(); 3]);
    spec.texts = vec!["x".repeat(255); 16];
    lab.apply(create(1, spec)).unwrap();
}
