//! The formats as they are written down for ever: `tests/golden/*-1.txt`.
//!
//! A line is a name and octets in hexadecimal digits. `OVERLAY_GOLDEN=write` writes the files anew, which is right only as
//! long as no version with this format was released.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::BTreeMap, fmt::Debug, fs, net::IpAddr, path::PathBuf};

use bytes::Bytes;
use ipnet::IpNet;
use overlay_core::{
    EndpointId, MacAddr, NetworkId, NodeId, Seed, ServiceId, TaskId, Vni,
    plane::{AddressMatch, Namespace, NetworkPolicy, PolicyRule, Verdict},
};
use overlay_gossip::Lease;
use overlay_ipam::{OwnerId, Subnet, SubnetConfig};
use overlay_node::{
    agent::{
        AgentMemory, AssignedEndpoint, AssignedNetwork, AssignedPort, AssignedService,
        AssignedTask, Assignment, AssignmentChange, Backend, ServiceOnNetwork, Standing,
    },
    api::{
        self, AttachRequest, Availability, Balance, ClientAddress, ClusterUpdate, DesiredState,
        ErrorKind, Locality, NamedPort, NetworkChoice, NetworkCreate, NodeUpdate, PendingReason,
        Placement, Policy, PolicyChange, Protocol, PublishMode, PublishedPort, Request, Resources,
        Response, Role, RuleSpec, ServiceMode, ServiceSpec, Slot, SubnetSpec, TaskSpec, TaskState,
        TaskStatus, UpdatePhase,
    },
    identity::{LeaseSigner, NextAuthority, Pass, UnlockKey},
    state::{
        AddNode, AttachEndpoint, ClusterSeed, ClusterState, Command, EndpointRecord, IssuedToken,
        NodeDescription, Proposal, RequestId, Secret, SharedKeys, TaskChange, TaskEndpoint,
        TokenId,
    },
    wire::{self, Answer, Ask, ManagerAddress, Message},
};
use overlay_raft::RaftId;
use serde::{Serialize, de::DeserializeOwned};

#[test]
fn commands_in_the_log_keep_their_octets() {
    let proposals: Vec<_> = commands()
        .into_iter()
        .map(|command| (command_name(&command), proposal(command)))
        .collect();
    let golden = Golden::open("proposals-1");
    golden.check(&proposals, |proposal| {
        postcard::to_allocvec(proposal).unwrap()
    });
    for (name, proposal) in proposals {
        assert_eq!(golden.read::<Proposal>(name), proposal);
    }
}

#[test]
fn messages_of_a_session_keep_their_octets() {
    let messages: Vec<_> = messages()
        .into_iter()
        .map(|message| (message_name(&message), message))
        .collect();
    let golden = Golden::open("messages-1");
    golden.check(&messages, wire::encode);
    for (name, message) in messages {
        let decoded = wire::decode(&golden.bytes(name)).unwrap();
        assert_eq!(format!("{decoded:?}"), format!("{message:?}"));
        assert_eq!(wire::encode(&decoded), golden.bytes(name));
    }
}

#[test]
fn a_snapshot_keeps_its_octets() {
    let mut state = ClusterState::new();
    for (index, command) in (1..).zip(commands()) {
        // All of them are carried out but for the ones that end with nothing left to see.
        if matches!(
            command_name(&command),
            "RemoveNode"
                | "RemoveNetwork"
                | "DetachEndpoint"
                | "RemoveService"
                | "ChangePolicyRemove"
        ) {
            continue;
        }
        state.apply(index, proposal_number(index, command)).unwrap();
    }
    let refused = proposal_number(90, Command::RemoveNode { node: node(77) });
    state.apply(90, refused).unwrap_err();
    let golden = Golden::open("snapshot-1");
    golden.check(&[("state", state.clone())], ClusterState::snapshot);
    let restored = ClusterState::restore(&golden.bytes("state")).unwrap();
    assert_eq!(restored.hash(), state.hash());
    assert_eq!(restored.applied(), 90);
    assert_eq!(restored.endpoints().len(), 1);
}

#[test]
fn the_memory_of_an_agent_keeps_its_octets() {
    let prefix = "172.18.0.0/24".parse().unwrap();
    let mut way_out = Subnet::new(SubnetConfig::new(prefix)).unwrap();
    way_out.allocate(OwnerId::from_bytes([1; 16]), 9).unwrap();
    let memory = AgentMemory {
        assignment: Some(assignment()),
        namespaces: BTreeMap::from([
            (endpoint(1), Namespace::InProcess),
            (endpoint(2), Namespace::Own),
            (endpoint(3), Namespace::Path("/run/netns/three".into())),
        ]),
        way_out: Some(way_out),
    };
    let golden = Golden::open("memory-1");
    let with = endpoint(2);
    let shared = AgentMemory {
        namespaces: BTreeMap::from([
            (with, Namespace::Own),
            (endpoint(4), Namespace::Shared { with, interface: 1 }),
        ]),
        ..AgentMemory::default()
    };
    let memories = [
        ("memory", memory),
        ("empty", AgentMemory::default()),
        ("shared", shared),
    ];
    golden.check(&memories, |memory| postcard::to_allocvec(memory).unwrap());
    for (name, memory) in memories {
        assert_eq!(golden.read::<AgentMemory>(name), memory);
    }
}

/// One of each variant, in an order in which each succeeds.
fn commands() -> Vec<Command> {
    let mut commands = vec![
        Command::InitCluster(Box::new(ClusterSeed {
            id: node(200),
            ca_certificate: "certificate".to_owned(),
            ca_key: Secret::any(b"key".to_vec()),
            lease_key: Secret::new(vec![5; 32]).unwrap(),
            gossip_keys: [6, 16, 26].map(|byte| Secret::new(vec![byte; 16]).unwrap()),
            worker_token: Secret::new(vec![7; 16]).unwrap(),
            manager_token: Secret::new(vec![8; 16]).unwrap(),
            pools: vec!["10.64.0.0/10".parse().unwrap()],
            pool_split: 25,
            ingress: network(255),
            manager: add(1, Role::Manager),
        })),
        Command::AddNode(add(2, Role::Worker)),
        Command::DescribeNode {
            node: node(2),
            description: description(),
        },
        Command::SetRole {
            node: node(2),
            role: Role::Manager,
        },
        Command::RotateToken {
            role: Role::Manager,
            secret: Secret::new(vec![9; 16]).unwrap(),
        },
        Command::CreateNetwork {
            id: network(1),
            spec: create(),
        },
        Command::AttachEndpoint(AttachEndpoint {
            id: endpoint(1),
            node: node(1),
            network: network(1),
            name: "one".to_owned(),
            aliases: vec!["any".to_owned()],
            addresses: vec!["10.99.0.35".parse().unwrap()],
        }),
        Command::DetachEndpoint {
            endpoint: endpoint(1),
            node: Some(node(1)),
        },
        Command::RemoveNetwork {
            network: network(1),
        },
        Command::RemoveNode { node: node(2) },
        Command::ExtendNetwork {
            network: network(1),
            subnets: vec![SubnetSpec {
                subnet: Some("fd00:98::/64".parse().unwrap()),
                ..SubnetSpec::default()
            }],
        },
        Command::RetireParts {
            parts: vec![raft(2)],
        },
        Command::Recover {
            manager: node(1),
            epoch: 300,
        },
    ];
    commands.extend(security_commands());
    commands.extend(service_commands());
    commands.extend(policy_commands());
    commands
}

/// See [`commands`].
fn policy_commands() -> Vec<Command> {
    let add = |before: Option<&str>| PolicyChange::Add {
        rule: rule(),
        before: before.map(str::to_owned),
        replace: true,
    };
    let verdict = Verdict::Deny;
    let name = "web".to_owned();
    let changes = [
        PolicyChange::Default { verdict },
        add(None),
        add(Some("web")),
        PolicyChange::Remove { name },
    ];
    let change = |change| Command::ChangePolicy {
        network: network(1),
        change: Box::new(change),
    };
    changes.map(change).into()
}

/// See [`commands`].
fn security_commands() -> Vec<Command> {
    let token = TokenId::from_bytes([7; 8]);
    vec![
        Command::UpdateCluster {
            change: ClusterUpdate {
                task_history_limit: Some(3),
                heartbeat_ms: Some(300),
                certificate_ms: Some(86_400_000),
                key_rotation_ms: Some(3_600_000),
            },
        },
        Command::RotateKeys {
            generation: 300,
            gossip: Secret::new(vec![36; 16]).unwrap(),
        },
        Command::IssueToken {
            id: token,
            token: IssuedToken {
                role: Role::Worker,
                secret: Secret::new(vec![9; 16]).unwrap(),
                expires_unix_ms: Some(u64::MAX),
                uses_left: Some(1),
                created_unix_ms: 200,
            },
        },
        Command::Admit {
            node: add(4, Role::Worker),
            token,
        },
        Command::RevokeToken { id: token },
        Command::BeginAuthority(Box::new(NextAuthority {
            certificate: "next".to_owned(),
            key: Secret::any(b"next key".to_vec()),
            cross: "cross".to_owned(),
        })),
        Command::FinishAuthority { digest: [3; 32] },
        Command::LockManagers {
            unlock: Some(UnlockKey::random(&mut Seed::from_u64(7).rng())),
            rotate: false,
        },
    ]
}

/// See [`commands`].
fn service_commands() -> Vec<Command> {
    vec![
        Command::UpdateNode {
            node: node(1),
            change: NodeUpdate {
                availability: Some(Availability::Pause),
                labels_add: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
                labels_remove: vec!["rack".to_owned()],
                ..NodeUpdate::default()
            },
        },
        Command::CreateService {
            id: service(1),
            spec: Box::new(service_spec("sleep")),
        },
        Command::UpdateService {
            id: service(1),
            version: None,
            spec: Box::new(service_spec("serve")),
        },
        Command::RollBackService { id: service(1) },
        Command::ChangeTasks {
            changes: task_changes(),
        },
        Command::ReportTasks {
            node: node(1),
            reports: vec![(
                task(1),
                TaskStatus {
                    state: TaskState::Failed,
                    since_unix_ms: 300,
                    message: "no such file".to_owned(),
                    pending: None,
                    exit_code: Some(127),
                },
            )],
        },
        Command::RemoveService { id: service(1) },
    ]
}

/// Names every variant: a new one does not compile without a line here, and fails without one in `commands`.
fn command_name(command: &Command) -> &'static str {
    match command {
        Command::InitCluster(_) => "InitCluster",
        Command::AddNode(_) => "AddNode",
        Command::DescribeNode { .. } => "DescribeNode",
        Command::SetRole { .. } => "SetRole",
        Command::RemoveNode { .. } => "RemoveNode",
        Command::RotateToken { .. } => "RotateToken",
        Command::CreateNetwork { .. } => "CreateNetwork",
        Command::RemoveNetwork { .. } => "RemoveNetwork",
        Command::AttachEndpoint(_) => "AttachEndpoint",
        Command::ExtendNetwork { .. } => "ExtendNetwork",
        Command::DetachEndpoint { .. } => "DetachEndpoint",
        Command::RetireParts { .. } => "RetireParts",
        Command::UpdateNode { .. } => "UpdateNode",
        Command::CreateService { .. } => "CreateService",
        Command::UpdateService { .. } => "UpdateService",
        Command::RollBackService { .. } => "RollBackService",
        Command::RemoveService { .. } => "RemoveService",
        Command::ChangeTasks { .. } => "ChangeTasks",
        Command::ReportTasks { .. } => "ReportTasks",
        Command::Recover { .. } => "Recover",
        Command::UpdateCluster { .. } => "UpdateCluster",
        Command::RotateKeys { .. } => "RotateKeys",
        Command::IssueToken { .. } => "IssueToken",
        Command::RevokeToken { .. } => "RevokeToken",
        Command::Admit { .. } => "Admit",
        Command::BeginAuthority(_) => "BeginAuthority",
        Command::FinishAuthority { .. } => "FinishAuthority",
        Command::LockManagers { .. } => "LockManagers",
        Command::ChangePolicy { change, .. } => match **change {
            PolicyChange::Add {
                before: Some(_), ..
            } => "ChangePolicyAddBefore",
            PolicyChange::Add { .. } => "ChangePolicyAdd",
            PolicyChange::Remove { .. } => "ChangePolicyRemove",
            PolicyChange::Default { .. } => "ChangePolicyDefault",
        },
    }
}

/// One of each variant; of the ones that hold another message, one of each of those.
fn messages() -> Vec<Message> {
    let request = RequestId::from_bytes([0xa5; 16]);
    vec![
        Message::Raft {
            from: raft(1),
            to: raft(300),
            bytes: Bytes::from_static(b"consensus"),
        },
        Message::Ask {
            request,
            ask: Ask::Api(Request::Attach(AttachRequest {
                network: "net".to_owned(),
                name: "one".to_owned(),
                aliases: vec!["any".to_owned()],
                addresses: vec!["10.99.0.35".parse().unwrap()],
                namespace: Namespace::Own,
                endpoint: Some(endpoint(1)),
            })),
        },
        Message::Ask {
            request,
            ask: Ask::AddNode(add(3, Role::Manager)),
        },
        Message::Ask {
            request,
            ask: Ask::Admit {
                node: add(4, Role::Worker),
                token: TokenId::from_bytes([7; 8]),
            },
        },
        Message::Ask {
            request,
            ask: Ask::Report(vec![(task(1), TaskStatus::default())]),
        },
        Message::Ask {
            request,
            ask: Ask::Describe(description()),
        },
        Message::Answer {
            request,
            result: Ok(Answer::Taken),
        },
        Message::Answer {
            request,
            result: Ok(Answer::Api(Response::Done)),
        },
        Message::Answer {
            request,
            result: Ok(Answer::Admitted(Box::new(assignment()))),
        },
        Message::Answer {
            request,
            result: Err(api::Error::new(ErrorKind::Limit, "too many")),
        },
        Message::NotLeader {
            request: Some(request),
            leader: Some(node(1)),
            managers: managers(),
        },
        Message::Heartbeat {
            version: 300,
            epoch: 1,
        },
        Message::HeartbeatAck,
        Message::Assignment(Box::new(assignment())),
        Message::Removed,
        Message::AssignmentChange(Box::new(assignment_change())),
        Message::AssignmentLost,
    ]
}

/// Names every variant, as [`command_name`].
fn message_name(message: &Message) -> &'static str {
    match message {
        Message::Raft { .. } => "Raft",
        Message::Ask {
            ask: Ask::Api(_), ..
        } => "Ask.Api",
        Message::Ask {
            ask: Ask::AddNode(_),
            ..
        } => "Ask.AddNode",
        Message::Ask {
            ask: Ask::Admit { .. },
            ..
        } => "Ask.Admit",
        Message::Ask {
            ask: Ask::Report(_),
            ..
        } => "Ask.Report",
        Message::Ask {
            ask: Ask::Describe(_),
            ..
        } => "Ask.Describe",
        Message::Answer {
            result: Ok(Answer::Taken),
            ..
        } => "Answer.Taken",
        Message::Answer {
            result: Ok(Answer::Api(_)),
            ..
        } => "Answer.Api",
        Message::Answer {
            result: Ok(Answer::Admitted(_)),
            ..
        } => "Answer.Admitted",
        Message::Answer { result: Err(_), .. } => "Answer.Err",
        Message::NotLeader { .. } => "NotLeader",
        Message::Heartbeat { .. } => "Heartbeat",
        Message::HeartbeatAck => "HeartbeatAck",
        Message::Assignment(_) => "Assignment",
        Message::Removed => "Removed",
        Message::AssignmentChange(_) => "AssignmentChange",
        Message::AssignmentLost => "AssignmentLost",
    }
}

/// A file of lines.
struct Golden {
    path: PathBuf,
    lines: BTreeMap<String, Vec<u8>>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let path = folder.join(format!("{name}.txt"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let (name, hex) = line.split_once(' ')?;
            Some((name.to_owned(), unhex(hex)))
        });
        Self {
            lines: lines.collect(),
            path,
        }
    }

    /// Compares each value's octets with its line, and requires a line for each and no other.
    fn check<T: Debug>(&self, values: &[(&str, T)], encode: impl Fn(&T) -> Vec<u8>) {
        if std::env::var_os("OVERLAY_GOLDEN").is_some_and(|value| value == "write") {
            let line = |(name, value): &(&str, T)| format!("{name} {}\n", hex(&encode(value)));
            let text: String = values.iter().map(line).collect();
            fs::write(&self.path, text).unwrap();
            assert!(
                values.is_empty(),
                "{:?} was written: look at the difference",
                self.path
            );
        }
        for (name, value) in values {
            let found = self.lines.get(*name).map(|bytes| hex(bytes));
            let shown: String = format!("{value:?}").chars().take(400).collect();
            assert_eq!(found, Some(hex(&encode(value))), "{name}: {shown}");
        }
        assert_eq!(
            self.lines.len(),
            values.len(),
            "a line for each and no other"
        );
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.lines[name].clone()
    }

    fn read<T: DeserializeOwned + Serialize>(&self, name: &str) -> T {
        let (value, rest) = postcard::take_from_bytes(&self.lines[name]).unwrap();
        assert!(rest.is_empty(), "{name} was not read to its end");
        value
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let octet = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(octet).collect()
}

fn proposal(command: Command) -> Proposal {
    proposal_number(300, command)
}

fn proposal_number(number: u64, command: Command) -> Proposal {
    Proposal {
        request: RequestId::from_bytes(u128::from(number).to_be_bytes()),
        actor: node(1),
        at_unix_ms: 1_700_000_000_000,
        command,
    }
}

fn create() -> NetworkCreate {
    let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    NetworkCreate {
        name: "net".to_owned(),
        driver: "overlay".to_owned(),
        attachable: true,
        internal: true,
        subnets: vec![SubnetSpec {
            subnet: Some("10.99.0.0/24".parse().unwrap()),
            gateway: Some("10.99.0.254".parse().unwrap()),
            ip_range: Some("10.99.0.0/26".parse().unwrap()),
            aux_addresses: BTreeMap::from([("router".to_owned(), "10.99.0.3".parse().unwrap())]),
        }],
        options: BTreeMap::from([option("com.docker.network.driver.mtu", "1400")]),
        labels: BTreeMap::from([option("color", "blue")]),
        ingress: false,
    }
}

fn description() -> NodeDescription {
    NodeDescription {
        hostname: "moved".to_owned(),
        address: "2001:db8::2".parse().unwrap(),
        management_port: 2_378,
        gossip_port: 7_947,
        version: "0.2.0".to_owned(),
        resources: Resources {
            nano_cpus: 1_500_000_000,
            memory_bytes: 1 << 30,
        },
        routes: vec!["10.7.0.0/16".parse().unwrap()],
        issuer: [7; 32],
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
        key: [number; 32],
    }
}

/// Each list has something put and something removed.
fn assignment_change() -> AssignmentChange {
    let next = assignment();
    let mut base = next.clone();
    base.version = 299;
    base.standing.role = Role::Worker;
    base.networks[0].id = network(9);
    base.endpoints[0].record.id = endpoint(9);
    base.tasks[0].id = task(9);
    base.ports[0].port.published = 9;
    base.difference(&next)
}

fn standing() -> Standing {
    Standing {
        heartbeat_ms: Some(300),
        role: Role::Manager,
        raft: Some(raft(2)),
        managers: managers(),
        keys: SharedKeys {
            generation: 9,
            gossip: vec![Secret::new(vec![6; 16]).unwrap()],
            rotated_unix_ms: 300,
            rotated_at: 299,
            due: 1,
        },
        authorities: vec!["certificate".to_owned()],
        issuer: [7; 32],
        certificate_ms: 86_400_000,
        lease_key: LeaseSigner::new(&Secret::new(vec![5; 32]).unwrap())
            .unwrap()
            .public_key(),
        pass: Pass {
            number: 4,
            key: [2; 32],
            signature: Bytes::from_static(&[6; 64]),
        },
        zone: "north".to_owned(),
    }
}

fn assignment() -> Assignment {
    Assignment {
        version: 300,
        cluster: node(200),
        epoch: 1,
        standing: standing(),
        networks: vec![AssignedNetwork {
            vlan_tags: false,
            encrypted: true,
            id: network(1),
            name: "net".to_owned(),
            vni: Vni::new(4097).unwrap(),
            subnets: vec!["10.99.0.0/24".parse().unwrap()],
            mtu: Some(1400),
            path: None,
            internal: true,
            ingress: false,
            policy: policy(),
            hides_names: true,
        }],
        services: vec![AssignedService {
            id: service(1),
            name: "web".to_owned(),
            networks: [(
                network(1),
                ServiceOnNetwork {
                    addresses: vec![[10, 99, 0, 9].into(), "fd00::9".parse().unwrap()],
                    aliases: vec!["www".to_owned()],
                },
            )]
            .into(),
            ports: named_ports(),
            texts: vec!["v=1".to_owned()],
            balance: balance(),
        }],
        endpoints: vec![assigned_endpoint()],
        tasks: vec![AssignedTask {
            id: task(1),
            service_name: "web".to_owned(),
            slot: Slot::Replica(1),
            spec: service_spec("serve").task,
            desired: DesiredState::Running,
            endpoints: vec![endpoint(1)],
        }],
        ports: vec![AssignedPort {
            port: port(),
            service_name: "web".to_owned(),
            open: true,
            backends: vec![Backend {
                node: node(1),
                role: Role::Worker,
                management: "192.0.2.1:2377".parse().unwrap(),
                endpoint: endpoint(1),
                addresses: vec!["10.99.0.35".parse().unwrap()],
            }],
        }],
    }
}

fn policy() -> NetworkPolicy {
    let to: IpNet = "fd00::9/128".parse().unwrap();
    NetworkPolicy {
        default: Verdict::Deny,
        rules: vec![PolicyRule {
            name: "web".to_owned(),
            from: AddressMatch::Any,
            to: [to].into_iter().collect(),
            traffic: rule().traffic.iter().map(|traffic| traffic.0).collect(),
            verdict: Verdict::Allow,
        }],
    }
}

fn rule() -> RuleSpec {
    let traffic = ["tcp/80-81", "udp/53", "icmp", "protocol/47", "any"];
    RuleSpec {
        name: "web".to_owned(),
        from: "label:tier=front".parse().unwrap(),
        to: "service:web".parse().unwrap(),
        traffic: traffic.map(|traffic| traffic.parse().unwrap()).to_vec(),
        verdict: Verdict::Allow,
    }
}

fn assigned_endpoint() -> AssignedEndpoint {
    let addresses = vec!["10.99.0.35/24".parse().unwrap()];
    let mac = MacAddr::new([0x02, 0x42, 10, 99, 0, 35]);
    AssignedEndpoint {
        record: EndpointRecord {
            id: endpoint(1),
            node: node(1),
            network: network(1),
            name: "one".to_owned(),
            aliases: vec!["any".to_owned()],
            addresses,
            mac,
            generation: 299,
            task: Some(TaskEndpoint {
                task: task(1),
                service: service(1),
                service_name: "web".to_owned(),
            }),
        },
        lease: Lease {
            network: network(1),
            endpoint: endpoint(1),
            node: node(1),
            addresses: vec!["10.99.0.35".parse().unwrap()],
            mac,
            generation: 299,
            signature: vec![0xee; 64].into(),
        },
    }
}

fn port() -> PublishedPort {
    PublishedPort {
        published: 8_080,
        target: 80,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        address: Some("192.0.2.9".parse().unwrap()),
        nodes: vec!["node.labels.edge==yes".to_owned()],
        client: ClientAddress::ProxyV2,
    }
}

fn named_ports() -> Vec<NamedPort> {
    vec![NamedPort {
        name: "http".to_owned(),
        target: 80,
        protocol: Protocol::Tcp,
    }]
}

fn balance() -> Balance {
    Balance {
        policy: Policy::LeastConnections,
        affinity_ms: 60_000,
        locality: Locality::Zone,
    }
}

fn service_spec(command: &str) -> ServiceSpec {
    ServiceSpec {
        name: "web".to_owned(),
        labels: BTreeMap::from([("color".to_owned(), "blue".to_owned())]),
        mode: ServiceMode::Replicated(3),
        task: TaskSpec {
            command: vec![command.to_owned(), "80".to_owned()],
            environment: vec!["A=b".to_owned()],
            directory: "/srv".to_owned(),
            drain_ms: 2_000,
            stop_grace_ms: 5_000,
            resources: Resources {
                nano_cpus: 500_000_000,
                memory_bytes: 1 << 20,
            },
        },
        networks: vec![NetworkChoice {
            network: "net".to_owned(),
            aliases: vec!["www".to_owned()],
            addresses: vec!["10.99.0.9".parse().unwrap()],
        }],
        ports: vec![port()],
        named_ports: named_ports(),
        texts: vec!["v=1".to_owned()],
        balance: balance(),
        placement: Placement {
            constraints: vec!["node.role!=manager".to_owned()],
            preferences: vec!["spread=node.labels.zone".to_owned()],
            replicas_per_node_max: 2,
        },
        ..ServiceSpec::default()
    }
}

/// One of each variant; most no longer fit when they are applied, and are left out.
fn task_changes() -> Vec<TaskChange> {
    let (task, service) = (task(1), service(1));
    vec![
        TaskChange::Create {
            task,
            service,
            slot: Slot::Replica(1),
            spec_version: 18,
            desired: DesiredState::Running,
        },
        TaskChange::Pend {
            task,
            reason: PendingReason::Constraint {
                constraint: "node.role!=manager".to_owned(),
            },
        },
        TaskChange::Place {
            task,
            node: node(1),
        },
        TaskChange::Desire {
            task,
            desired: DesiredState::Shutdown,
        },
        TaskChange::Orphan { task },
        TaskChange::Update {
            service,
            spec_version: 18,
            phase: UpdatePhase::Completed,
            message: "update completed".to_owned(),
        },
        TaskChange::RollBack {
            service,
            spec_version: 1,
        },
        TaskChange::Remove { task },
    ]
}

fn service(number: u8) -> ServiceId {
    ServiceId::from_bytes([0x50 + number; 16])
}

fn task(number: u8) -> TaskId {
    TaskId::from_bytes([number; 16])
}

fn managers() -> Vec<ManagerAddress> {
    vec![ManagerAddress {
        node: node(1),
        raft: raft(1),
        management: "192.0.2.1:2377".parse().unwrap(),
        gossip: "[2001:db8::1]:7946".parse().unwrap(),
    }]
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn network(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 16])
}

fn endpoint(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 16])
}

fn raft(number: u64) -> RaftId {
    RaftId::new(number).unwrap()
}
