//! A cluster of a hundred nodes in its daily life, as commands.
//!
//! The commands are made beforehand and from the same seed each time, so that making them is not measured. Each one
//! does what it says: none is refused, and no report is too late.

use std::collections::BTreeMap;

use overlay_core::{EndpointId, NetworkId, NodeId, Rng, Seed, ServiceId, TaskId};
use overlay_node::{
    api::{
        DesiredState, NetworkCreate, NodeUpdate, PublishedPort, Resources, Role, ServiceMode,
        ServiceSpec, Slot, TaskSpec, TaskState, TaskStatus,
    },
    state::{
        AddNode, AttachEndpoint, ClusterSeed, Command, NodeDescription, Proposal, RequestId,
        Secret, TaskChange,
    },
};

pub const NODES: usize = 100;
pub const NETWORKS: usize = 100;
pub const SERVICES: usize = 200;
pub const TASKS: usize = 2_000;
/// Endpoints of no task that there are at the start, and about as many from then on.
pub const ENDPOINTS: usize = 2_000;

/// What a command is about, with its share of a thousand commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Report,
    Attach,
    Detach,
    TaskCreate,
    TaskDesire,
    TaskRemove,
    NodeUpdate,
    NodeAddress,
    ServiceUpdate,
    NetworkCreate,
    NetworkRemove,
}

pub const SHARES: [(Kind, u64, &str); 11] = [
    (
        Kind::Report,
        400,
        "a task's report (half of them say again what was said, in other words)",
    ),
    (Kind::Attach, 125, "an endpoint is attached"),
    (Kind::Detach, 125, "an endpoint is detached"),
    (
        Kind::TaskCreate,
        50,
        "a task is made and given to a node, with its address",
    ),
    (Kind::TaskDesire, 50, "a task shall stop"),
    (Kind::TaskRemove, 50, "a task is forgotten"),
    (Kind::NodeUpdate, 75, "labels of a node change"),
    (Kind::NodeAddress, 25, "a node has another address"),
    (Kind::ServiceUpdate, 50, "a service has another spec"),
    (Kind::NetworkCreate, 25, "a network is created"),
    (Kind::NetworkRemove, 25, "a network is removed"),
];

/// Where a task is in its life.
struct Task {
    id: TaskId,
    service: usize,
    slot: u32,
    node: usize,
    state: TaskState,
    stopping: bool,
}

/// Makes commands, and knows what they lead to.
pub struct Mix {
    rng: Rng,
    index: u64,
    nodes: Vec<NodeId>,
    networks: Vec<NetworkId>,
    /// Networks that come and go.
    spare: Vec<NetworkId>,
    services: Vec<(ServiceId, u64)>,
    /// Tasks that run and shall run, those on their way there, those that shall stop, those that have ended.
    running: Vec<Task>,
    starting: Vec<Task>,
    stopping: Vec<Task>,
    ended: Vec<Task>,
    /// Slots without a task.
    vacant: Vec<(usize, u32)>,
    endpoints: Vec<(EndpointId, NodeId)>,
    named: u64,
}

impl Mix {
    pub fn new() -> Self {
        Self {
            rng: Seed::from_u64(1).rng(),
            index: 0,
            nodes: Vec::new(),
            networks: Vec::new(),
            spare: Vec::new(),
            services: Vec::new(),
            running: Vec::new(),
            starting: Vec::new(),
            stopping: Vec::new(),
            ended: Vec::new(),
            vacant: Vec::new(),
            endpoints: Vec::new(),
            named: 0,
        }
    }

    /// Makes the cluster.
    pub fn setup(&mut self) -> Vec<(u64, Proposal)> {
        let mut commands = vec![self.init()];
        for number in 1..NODES {
            let node = self.add_node(number);
            commands.push(self.propose(Command::AddNode(node)));
        }
        for _ in 0..NETWORKS {
            let (id, command) = self.create_network();
            self.networks.push(id);
            commands.push(self.propose(command));
        }
        for number in 0..SERVICES {
            let id = ServiceId::random(&mut self.rng);
            let spec = Box::new(self.spec(number));
            self.services.push((id, self.index + 1));
            commands.push(self.propose(Command::CreateService { id, spec }));
        }
        for number in 0..TASKS {
            let slot = u32::try_from(number / SERVICES + 1).expect("few");
            self.vacant.push((number % SERVICES, slot));
        }
        while !self.vacant.is_empty() {
            let create = self.create_task();
            commands.push(self.propose(create));
        }
        while !self.starting.is_empty() {
            let report = self.advance();
            commands.push(self.propose(report));
        }
        for _ in 0..ENDPOINTS {
            let attach = self.attach();
            commands.push(self.propose(attach));
        }
        for _ in 0..10 {
            let (id, command) = self.create_network();
            self.spare.push(id);
            commands.push(self.propose(command));
        }
        commands
    }

    /// Draws the next command.
    pub fn next(&mut self) -> (Kind, u64, Proposal) {
        let mut drawn = self.rng.below(1_000);
        let (kind, ..) = SHARES
            .into_iter()
            .find(|(_, share, _)| {
                let found = drawn < *share;
                drawn = drawn.saturating_sub(*share);
                found
            })
            .expect("the shares make a thousand");
        let (kind, command) = self.make(kind);
        let (index, proposal) = self.propose(command);
        (kind, index, proposal)
    }

    /// Where one kind ran out, its counterpart comes instead: they have the same share.
    fn make(&mut self, kind: Kind) -> (Kind, Command) {
        match kind {
            Kind::Report => (kind, self.report()),
            Kind::Detach if self.endpoints.len() > ENDPOINTS / 2 => (kind, self.detach()),
            Kind::Attach if self.endpoints.len() > ENDPOINTS * 3 / 2 => {
                (Kind::Detach, self.detach())
            }
            Kind::Attach | Kind::Detach => (Kind::Attach, self.attach()),
            Kind::TaskCreate if !self.vacant.is_empty() => (kind, self.create_task()),
            Kind::TaskRemove if !self.ended.is_empty() => (kind, self.remove_task()),
            Kind::TaskCreate | Kind::TaskRemove | Kind::TaskDesire => {
                (Kind::TaskDesire, self.stop_task())
            }
            Kind::NodeUpdate => (kind, self.update_node()),
            Kind::NodeAddress => {
                let node = self.any_node();
                let address = [10, 1, self.octet(), self.octet()].into();
                let description = NodeDescription {
                    hostname: format!("host-{}", node.short()),
                    address,
                    management_port: 2_377,
                    gossip_port: 7_946,
                    version: "0.1.0".to_owned(),
                    resources: Resources::default(),
                    routes: Vec::new(),
                    issuer: [0; 32],
                };
                (kind, Command::DescribeNode { node, description })
            }
            Kind::ServiceUpdate => (kind, self.update_service()),
            Kind::NetworkRemove if !self.spare.is_empty() => {
                let at = self.below(self.spare.len());
                let network = self.spare.swap_remove(at);
                (kind, Command::RemoveNetwork { network })
            }
            Kind::NetworkCreate | Kind::NetworkRemove => {
                let (id, command) = self.create_network();
                self.spare.push(id);
                (Kind::NetworkCreate, command)
            }
        }
    }

    fn report(&mut self) -> Command {
        let half = self.rng.below(2) == 0;
        if half && !(self.starting.is_empty() && self.stopping.is_empty()) {
            return self.advance();
        }
        let at = self.below(self.running.len());
        let task = &self.running[at];
        let (id, node) = (task.id, self.nodes[task.node]);
        let message = format!("healthy, {} requests so far", self.rng.below(1_000_000));
        let status = TaskStatus {
            state: TaskState::Running,
            message,
            ..TaskStatus::default()
        };
        let reports = vec![(id, status)];
        Command::ReportTasks { node, reports }
    }

    /// Brings a task one step on.
    fn advance(&mut self) -> Command {
        let stopping =
            self.starting.is_empty() || (!self.stopping.is_empty() && self.rng.below(4) == 0);
        let list = if stopping {
            self.stopping.len()
        } else {
            self.starting.len()
        };
        let at = self.below(list);
        let list = if stopping {
            &mut self.stopping
        } else {
            &mut self.starting
        };
        let mut task = list.swap_remove(at);
        task.state = match task.state {
            _ if task.stopping => TaskState::Shutdown,
            TaskState::Assigned => TaskState::Preparing,
            TaskState::Preparing => TaskState::Starting,
            _ => TaskState::Running,
        };
        let status = TaskStatus {
            state: task.state,
            exit_code: task.stopping.then_some(0),
            ..TaskStatus::default()
        };
        let (node, reports) = (self.nodes[task.node], vec![(task.id, status)]);
        match task.state {
            TaskState::Shutdown => self.ended.push(task),
            TaskState::Running => self.running.push(task),
            _ => self.starting.push(task),
        }
        Command::ReportTasks { node, reports }
    }

    fn create_task(&mut self) -> Command {
        let at = self.below(self.vacant.len());
        let (service, slot) = self.vacant.swap_remove(at);
        let (task, node) = (TaskId::random(&mut self.rng), self.below(NODES));
        let (id, spec_version) = self.services[service];
        self.starting.push(Task {
            id: task,
            service,
            slot,
            node,
            state: TaskState::Assigned,
            stopping: false,
        });
        let create = TaskChange::Create {
            task,
            service: id,
            slot: Slot::Replica(slot),
            spec_version,
            desired: DesiredState::Running,
        };
        let node = self.nodes[node];
        let changes = vec![create, TaskChange::Place { task, node }];
        Command::ChangeTasks { changes }
    }

    fn stop_task(&mut self) -> Command {
        let at = self.below(self.running.len());
        let mut task = self.running.swap_remove(at);
        task.stopping = true;
        let desire = TaskChange::Desire {
            task: task.id,
            desired: DesiredState::Shutdown,
        };
        self.stopping.push(task);
        let changes = vec![desire];
        Command::ChangeTasks { changes }
    }

    fn remove_task(&mut self) -> Command {
        let at = self.below(self.ended.len());
        let task = self.ended.swap_remove(at);
        self.vacant.push((task.service, task.slot));
        let changes = vec![TaskChange::Remove { task: task.id }];
        Command::ChangeTasks { changes }
    }

    fn attach(&mut self) -> Command {
        let (id, node) = (EndpointId::random(&mut self.rng), self.any_node());
        let network = self.below(NETWORKS);
        self.endpoints.push((id, node));
        Command::AttachEndpoint(AttachEndpoint {
            id,
            node,
            network: self.networks[network],
            name: self.name("endpoint"),
            aliases: Vec::new(),
            addresses: Vec::new(),
        })
    }

    fn detach(&mut self) -> Command {
        let at = self.below(self.endpoints.len());
        let (endpoint, node) = self.endpoints.swap_remove(at);
        let node = Some(node);
        Command::DetachEndpoint { endpoint, node }
    }

    fn update_node(&mut self) -> Command {
        let node = self.any_node();
        let (name, value) = (self.rng.below(8), self.rng.below(100));
        let mut change = NodeUpdate::default();
        if self.rng.below(4) == 0 {
            change.labels_remove = vec![format!("label-{name}")];
        } else {
            let label = (format!("label-{name}"), format!("value-{value}"));
            change.labels_add = BTreeMap::from([label]);
        }
        Command::UpdateNode { node, change }
    }

    fn update_service(&mut self) -> Command {
        let number = self.below(SERVICES);
        let spec = Box::new(self.spec(number));
        self.services[number].1 = self.index + 1;
        let (id, version) = (self.services[number].0, None);
        Command::UpdateService { id, version, spec }
    }

    fn create_network(&mut self) -> (NetworkId, Command) {
        let id = NetworkId::random(&mut self.rng);
        let spec = NetworkCreate {
            name: self.name("network"),
            attachable: true,
            labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
            ..NetworkCreate::default()
        };
        (id, Command::CreateNetwork { id, spec })
    }

    /// A spec that differs from all before it.
    fn spec(&mut self, number: usize) -> ServiceSpec {
        let task = TaskSpec {
            command: vec!["serve".to_owned(), "--port".to_owned(), "80".to_owned()],
            environment: vec![format!("RELEASE={}", self.index)],
            ..TaskSpec::default()
        };
        let publishes = number.is_multiple_of(4);
        let port = PublishedPort {
            published: 0,
            target: 80,
            protocol: Default::default(),
            mode: Default::default(),
            ..PublishedPort::default()
        };
        ServiceSpec {
            name: format!("service-{number}"),
            mode: ServiceMode::Replicated(u32::try_from(TASKS / SERVICES).expect("few")),
            task,
            networks: vec![Self::networks_name(number % NETWORKS).as_str().into()],
            ports: publishes.then_some(port).into_iter().collect(),
            ..ServiceSpec::default()
        }
    }

    /// Networks are the first things that are named, and so known by their number.
    fn networks_name(number: usize) -> String {
        format!("network-{number}")
    }

    fn name(&mut self, what: &str) -> String {
        self.named += 1;
        format!("{what}-{}", self.named - 1)
    }

    fn init(&mut self) -> (u64, Proposal) {
        let secret = |byte| Secret::new(vec![byte; 16]).expect("16 octets");
        let manager = AddNode {
            role: Role::Manager,
            ..self.add_node(0)
        };
        self.propose(Command::InitCluster(Box::new(ClusterSeed {
            id: NodeId::from_bytes([200; 16]),
            ca_certificate: "certificate".repeat(60),
            ca_key: Secret::any(vec![1; 240]),
            lease_key: Secret::new(vec![2; 32]).expect("32 octets"),
            gossip_keys: [secret(3), secret(13), secret(23)],
            worker_token: secret(4),
            manager_token: secret(5),
            pools: Vec::new(),
            pool_split: 24,
            ingress: NetworkId::from_bytes([255; 16]),
            manager,
        })))
    }

    fn add_node(&mut self, number: usize) -> AddNode {
        let id = NodeId::random(&mut self.rng);
        self.nodes.push(id);
        AddNode {
            id,
            key: [0; 32],
            hostname: format!("host-{number}.example.net"),
            role: Role::Worker,
            address: [10, 1, 0, self.octet()].into(),
            management_port: 2_377,
            gossip_port: 7_946,
            version: "0.1.0".to_owned(),
        }
    }

    fn propose(&mut self, command: Command) -> (u64, Proposal) {
        self.index += 1;
        let proposal = Proposal {
            request: RequestId::random(&mut self.rng),
            actor: self.nodes[0],
            at_unix_ms: 1_700_000_000_000 + self.index,
            command,
        };
        (self.index, proposal)
    }

    fn any_node(&mut self) -> NodeId {
        let at = self.below(NODES);
        self.nodes[at]
    }

    fn octet(&mut self) -> u8 {
        u8::try_from(self.rng.below(256)).unwrap_or_default()
    }

    fn below(&mut self, length: usize) -> usize {
        usize::try_from(self.rng.below(length as u64)).unwrap_or_default()
    }
}
