//! The scheduler: ten thousand tasks on a thousand nodes, planned and applied.

use std::{collections::BTreeSet, time::Duration};

use overlay_core::{Instant, NetworkId, NodeId, Rng, Seed, ServiceId};
use overlay_node::{
    api::{
        DesiredState, NetworkCreate, NodeUpdate, Role, ServiceMode, ServiceSpec, SubnetSpec,
        TaskState, TaskStatus,
    },
    scheduler::{Scheduler, View},
    state::{AddNode, ClusterSeed, ClusterState, Command, Proposal, RequestId, Secret},
};

use crate::clock::cpu;

const NODES: u32 = 1_000;
const TASKS: u32 = 10_000;

pub fn run() {
    println!(
        "{NODES} nodes, {TASKS} tasks; CPU time of the scheduler's plans and of their application, hash included.\n"
    );
    println!(
        "| services | zones | network | place all: plan | apply | a plan without changes | one lost node: plan | apply | tasks replaced |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (services, zones, network) in [
        (1, 0, false),
        (1, 10, false),
        (100, 10, false),
        (100, 10, true),
    ] {
        let mut world = World::new(services, zones, network);
        let (plan, apply, _) = world.settle();
        world.run_all();
        let (quiet, _, none) = world.settle();
        assert_eq!(none, 0, "there is nothing to do");
        let lost = world.nodes[500];
        world.ready.remove(&lost);
        world.down.insert(lost);
        let (plan_again, apply_again, _) = world.settle();
        let placed = world.state.tasks().values();
        let placed = placed.filter(|task| task.status.state == TaskState::Assigned);
        println!(
            "| {services} | {zones} | {} | {plan:.1?} | {apply:.1?} | {quiet:.1?} | {plan_again:.1?} | {apply_again:.1?} | {} |",
            if network { "a /16" } else { "none" },
            placed.count()
        );
    }
}

struct World {
    state: ClusterState,
    scheduler: Scheduler,
    rng: Rng,
    nodes: Vec<NodeId>,
    ready: BTreeSet<NodeId>,
    down: BTreeSet<NodeId>,
    now: Instant,
}

impl World {
    fn new(services: u32, zones: u32, network: bool) -> Self {
        let mut world = Self {
            state: ClusterState::new(),
            scheduler: Scheduler::new(Seed::from_u64(1)),
            rng: Seed::from_u64(2).rng(),
            nodes: Vec::new(),
            ready: BTreeSet::new(),
            down: BTreeSet::new(),
            now: Instant::from_millis(1_000),
        };
        world.init();
        for number in 1..=NODES {
            let node = world.add_node(number, Role::Worker);
            world.ready.insert(node.id);
            let id = node.id;
            world.apply(Command::AddNode(node));
            if zones > 0 {
                let label = ("zone".to_owned(), format!("zone-{}", number % zones));
                let change = NodeUpdate {
                    labels_add: [label].into(),
                    ..NodeUpdate::default()
                };
                world.apply(Command::UpdateNode { node: id, change });
            }
        }
        let subnet = SubnetSpec {
            subnet: "10.128.0.0/16".parse().ok(),
            gateway: None,
            ip_range: None,
            ..SubnetSpec::default()
        };
        let id = NetworkId::random(&mut world.rng);
        let spec = NetworkCreate {
            name: "wide".to_owned(),
            subnets: vec![subnet],
            ..NetworkCreate::default()
        };
        world.apply(Command::CreateNetwork { id, spec });
        for number in 0..services {
            let mut spec = ServiceSpec {
                name: format!("service-{number}"),
                mode: ServiceMode::Replicated(TASKS / services),
                ..ServiceSpec::default()
            };
            if network {
                spec.networks = vec!["wide".into()];
            }
            if zones > 0 {
                spec.placement.preferences = vec!["spread=node.labels.zone".into()];
                spec.placement.constraints = vec!["node.role==worker".into()];
            }
            let (id, spec) = (ServiceId::random(&mut world.rng), Box::new(spec));
            world.apply(Command::CreateService { id, spec });
        }
        world
    }

    /// Plans and applies until there is nothing more to change; the time of both, and how many changes there were.
    fn settle(&mut self) -> (Duration, Duration, usize) {
        let (mut planning, mut applying, mut count) = (Duration::ZERO, Duration::ZERO, 0);
        loop {
            let view = View {
                services: self.state.services(),
                tasks: self.state.tasks(),
                nodes: self.state.nodes(),
                ready: &self.ready,
                down: &self.down,
                history_max: 5,
            };
            let (changes, took) = cpu(|| self.scheduler.plan(self.now, &view));
            planning += took;
            if changes.is_empty() {
                return (planning, applying, count);
            }
            count += changes.len();
            let ((), took) = cpu(|| {
                self.apply(Command::ChangeTasks { changes });
                std::hint::black_box(self.state.hash());
            });
            applying += took;
        }
    }

    /// Each node says that its tasks run.
    fn run_all(&mut self) {
        for node in self.nodes.clone() {
            let tasks = self.state.tasks_on(node);
            let tasks = tasks.filter(|task| task.desired == DesiredState::Running);
            let status = TaskStatus {
                state: TaskState::Running,
                ..TaskStatus::default()
            };
            let reports = tasks.map(|task| (task.id, status.clone())).collect();
            self.apply(Command::ReportTasks { node, reports });
        }
    }

    fn init(&mut self) {
        let secret = |byte| Secret::new(vec![byte; 16]).expect("16 octets");
        let manager = self.add_node(0, Role::Manager);
        self.apply(Command::InitCluster(Box::new(ClusterSeed {
            id: NodeId::from_bytes([200; 16]),
            ca_certificate: String::new(),
            ca_key: Secret::any(Vec::new()),
            lease_key: Secret::new(vec![2; 32]).expect("32 octets"),
            gossip_keys: [secret(3), secret(13), secret(23)],
            worker_token: secret(4),
            manager_token: secret(5),
            pools: Vec::new(),
            pool_split: 24,
            ingress: NetworkId::from_bytes([255; 16]),
            manager,
        })));
    }

    fn add_node(&mut self, number: u32, role: Role) -> AddNode {
        let [_, a, b, c] = number.to_be_bytes();
        let id = NodeId::random(&mut self.rng);
        self.nodes.push(id);
        AddNode {
            id,
            key: [0; 32],
            hostname: format!("host-{number}"),
            role,
            address: [10, a, b, c].into(),
            management_port: 2_377,
            gossip_port: 7_946,
            version: String::new(),
        }
    }

    fn apply(&mut self, command: Command) {
        let index = self.state.applied() + 1;
        let proposal = Proposal {
            request: RequestId::random(&mut self.rng),
            actor: NodeId::from_bytes([0; 16]),
            at_unix_ms: index,
            command,
        };
        self.state
            .apply(index, proposal)
            .expect("every command is carried out");
    }
}
