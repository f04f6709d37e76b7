mod policy;

use std::collections::VecDeque;

use overlay_core::{EndpointId, TaskId};
use overlay_raft::{Entry, HardState, Index, Restored, Snapshot};

use super::*;
use crate::{
    api::{
        AttachRequest, ClusterUpdate, ErrorKind, NetworkCreate, NodeUpdate, Protocol, PublishMode,
        PublishedPort, Request, Response, Role, ServiceSpec, TaskState, TaskStatus,
    },
    state::{AddNode, ClusterSeed},
};

#[test]
fn a_request_that_comes_again_is_answered_as_it_was() {
    let mut lab = Lab::new();
    lab.add(2, Role::Worker);
    lab.attach(2, "one").unwrap();
    let detach = Request::Detach {
        endpoint: "one".to_owned(),
    };
    let request = lab.draw();
    for _ in 0..2 {
        let answer = lab.ask_as(2, request, Ask::Api(detach.clone()));
        assert_eq!(answer, Ok(Answer::Api(Response::Done)));
    }
    // Another request for the same is another matter.
    let error = lab.ask(2, detach).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

#[test]
fn an_assignment_is_sent_whole_until_it_is_acknowledged_and_then_what_changes() {
    let mut lab = Lab::new();
    lab.add(2, Role::Worker);
    let first = whole(lab.beat(2, 0).last().unwrap());
    let again = lab.beat(2, 0);
    assert_eq!(again.len(), 1, "it may be lost: {again:?}");
    assert_eq!(whole(&again[0]), first);
    for _ in 0..10 {
        assert!(lab.beat(2, first.version).is_empty());
    }
    lab.attach(2, "one").unwrap();
    let messages = lab.beat(2, first.version);
    let mut present = first;
    for message in &messages {
        match message {
            Message::AssignmentChange(change) => {
                assert!(change.version > present.version);
                present = present.changed((**change).clone()).unwrap();
            }
            // It was not acknowledged in time.
            message => assert_eq!(whole(message), present),
        }
    }
    assert_eq!(present.endpoints.len(), 1, "{messages:?}");
    assert_eq!(present.networks.len(), 1);
}

#[test]
fn an_agent_that_lost_a_change_is_sent_the_whole_once() {
    let mut lab = Lab::new();
    lab.add(2, Role::Worker);
    let first = whole(lab.beat(2, 0).last().unwrap());
    assert!(lab.beat(2, first.version).is_empty());
    lab.attach(2, "one").unwrap();
    lab.sent.clear();
    for _ in 0..3 {
        lab.manager.handle_assignment_lost(lab.now, node(2));
    }
    lab.carry_out();
    let [(to, message)] = &lab.sent[..] else {
        panic!("{:?}", lab.sent)
    };
    assert_eq!(*to, node(2));
    assert_eq!(whole(message).endpoints.len(), 1);
}

#[test]
fn every_node_hears_where_a_published_port_leads() {
    let mut lab = Lab::new();
    let mut known: BTreeMap<NodeId, Assignment> = BTreeMap::new();
    for number in [2, 3] {
        lab.add(number, Role::Worker);
        let first = whole(lab.beat(number, 0).last().unwrap());
        known.insert(node(number), first);
    }
    let port = |published| PublishedPort {
        published,
        target: 80,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ..PublishedPort::default()
    };
    let mut spec = ServiceSpec {
        name: "web".to_owned(),
        networks: vec!["net".into()],
        ports: vec![port(8_080)],
        ..ServiceSpec::default()
    };
    lab.ask(1, Request::ServiceCreate(Box::new(spec.clone())))
        .unwrap();
    lab.hear(&mut known);
    let tasks = |known: &BTreeMap<NodeId, Assignment>| -> Vec<(NodeId, TaskId)> {
        let each = known.iter();
        each.flat_map(|(node, assignment)| assignment.tasks.iter().map(|task| (*node, task.id)))
            .collect()
    };
    let [(on, task)] = tasks(&known)[..] else {
        panic!("{known:?}");
    };
    let leads_to = |known: &BTreeMap<NodeId, Assignment>, to: &[(u16, NodeId)]| {
        for assignment in known.values() {
            let ports = assignment.ports.iter();
            let found: Vec<_> = ports
                .flat_map(|port| {
                    let backends = port.backends.iter();
                    backends.map(|backend| (port.port.published, backend.node))
                })
                .collect();
            assert_eq!(found, to, "{:?}", assignment.ports);
        }
    };
    leads_to(&known, &[]);
    let status = |state| TaskStatus {
        state,
        ..TaskStatus::default()
    };
    let running = Ask::Report(vec![(task, status(TaskState::Running))]);
    lab.report(on, running);
    lab.hear(&mut known);
    leads_to(&known, &[(8_080, on)]);
    spec.ports = vec![port(9_090)];
    let update = Request::ServiceUpdate {
        service: "web".to_owned(),
        version: None,
        spec: Box::new(spec),
    };
    lab.ask(1, update).unwrap();
    lab.hear(&mut known);
    leads_to(&known, &[(9_090, on)]);
    lab.report(on, Ask::Report(vec![(task, status(TaskState::Failed))]));
    lab.hear(&mut known);
    leads_to(&known, &[]);
}

fn whole(message: &Message) -> Assignment {
    match message {
        Message::Assignment(assignment) => (**assignment).clone(),
        other => panic!("not a whole assignment: {other:?}"),
    }
}

#[test]
fn a_leader_that_has_not_applied_everything_sends_nobody_away() {
    let mut lab = Lab::new();
    let before = Index::new(lab.manager.state().applied());
    lab.add(2, Role::Worker);
    // The commit index on the disk may be an old one: nothing waits for it.
    lab.restart(before);
    lab.durable = false;
    while !lab.manager.leads() {
        lab.pass(TICK);
        lab.persist_one();
    }
    let lags = !lab.manager.state().nodes().contains_key(&node(2));
    assert!(lags && lab.manager.state().cluster().is_some());
    assert!(!lab.sends_away(2), "it may be in the log");
    lab.durable = true;
    lab.pass(TICK);
    assert!(lab.manager.state().nodes().contains_key(&node(2)));
    assert!(!lab.sends_away(2));
    assert!(lab.sends_away(3), "nobody knows it");
}

#[test]
fn an_agent_is_not_late_by_an_interval_that_it_has_not_heard_of() {
    let mut lab = Lab::new();
    lab.add(2, Role::Worker);
    lab.pass(TICK);
    let mut version = whole(lab.beat(2, 0).last().unwrap()).version;
    // It speaks every five seconds.
    lab.manager.handle_heartbeat(lab.now, node(2), version);
    lab.pass(Duration::from_secs(4));
    lab.sent.clear();
    let change = ClusterUpdate {
        heartbeat_ms: Some(100),
        ..ClusterUpdate::default()
    };
    lab.ask(1, Request::ClusterUpdate(change)).unwrap();
    lab.pass(TICK);
    assert!(lab.manager.is_heard(lab.now, node(2)));
    for (to, message) in std::mem::take(&mut lab.sent) {
        if let (Message::AssignmentChange(change), true) = (message, to == node(2)) {
            version = change.version;
        }
    }
    // Now it knows, and is late sooner.
    lab.manager.handle_heartbeat(lab.now, node(2), version);
    lab.pass(Duration::from_millis(300));
    assert!(lab.manager.is_heard(lab.now, node(2)));
    lab.pass(Duration::from_millis(100));
    assert!(!lab.manager.is_heard(lab.now, node(2)));
}

#[test]
fn former_parts_are_retired_by_one_request_at_a_time() {
    let mut lab = Lab::new();
    lab.add(2, Role::Manager);
    lab.pass(TICK * 10);
    let node = node(2).to_string();
    let force = true;
    lab.ask(1, Request::NodeRemove { node, force }).unwrap();
    lab.durable = false;
    lab.pass(TICK * 10);
    let before = lab.manager.raft().last_index();
    lab.pass(TICK * 100);
    assert_eq!(lab.manager.raft().last_index(), before);
    assert_eq!(lab.manager.state().former().len(), 1);
    lab.durable = true;
    lab.pass(TICK * 10);
    assert!(lab.manager.state().former().is_empty());
}

#[test]
fn managers_that_never_came_to_vote_are_removed_without_them() {
    let mut lab = Lab::new();
    for number in [2, 3] {
        lab.add(number, Role::Manager);
    }
    lab.pass(TICK * 10);
    assert_eq!(lab.manager.raft().membership().voters().count(), 1);
    // Who has the state alone does not go, as long as others wait for it.
    let sole = lab.ask(1, Request::Leave { force: true }).unwrap_err();
    assert_eq!(sole.kind, ErrorKind::QuorumLoss, "{sole}");
    assert!(sole.message.contains("demote what does not come"), "{sole}");
    for number in [2, 3] {
        let node = node(number).to_string();
        let force = true;
        lab.ask(1, Request::NodeRemove { node, force }).unwrap();
    }
    let alone = lab.ask(1, Request::Leave { force: true }).unwrap_err();
    assert_eq!(alone.kind, ErrorKind::QuorumLoss, "{alone}");
}

#[test]
fn managers_go_one_at_a_time() {
    let mut lab = Lab::new();
    for number in [2, 3] {
        lab.add(number, Role::Manager);
    }
    lab.pass(TICK * 10);
    lab.durable = false;
    let before = lab.manager.raft().last_index();
    let demotion = Request::NodeSetRole {
        node: node(2).to_string(),
        role: Role::Worker,
    };
    // A role may be taken among other changes, too.
    let change = Request::NodeUpdate(NodeUpdate {
        node: node(3).to_string(),
        role: Some(Role::Worker),
        ..NodeUpdate::default()
    });
    let asked = [demotion, change].map(|body| (lab.draw(), Ask::Api(body)));
    let ask = |lab: &mut Lab| {
        for (request, ask) in &asked {
            let (by, ask) = (node(1), ask.clone());
            let served = lab.manager.serve(lab.now, by, *request, ask);
            assert_eq!(served, Served::Taken);
        }
        lab.carry_out();
    };
    ask(&mut lab);
    // The second one is looked at again when the first one is done.
    let index = lab.manager.raft().last_index();
    assert_eq!(index.get(), before.get() + 1);
    lab.durable = true;
    lab.pass(TICK);
    ask(&mut lab);
    lab.pass(TICK);
    let state = lab.manager.state();
    assert_eq!(state.voters().count(), 1);
    assert!(asked.iter().all(|(id, _)| lab.answers.contains_key(id)));
}

/// A manager that leads alone, and a disk that is always quick or does not answer at all.
struct Lab {
    manager: Manager,
    now: Instant,
    durable: bool,
    tickets: VecDeque<PersistTicket>,
    disk: Disk,
    answers: BTreeMap<RequestId, Result<Answer, api::Error>>,
    sent: Vec<(NodeId, Message)>,
    requests: u64,
}

/// What a manager's disk holds.
#[derive(Clone, Default)]
struct Disk {
    snapshot: Option<Snapshot>,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::EPOCH;
        let seed = Seed::from_u64(1);
        let raft = RaftId::new(1).unwrap();
        let config = config(1);
        let first = ClusterSeed::generate(&mut seed.rng(), &config, String::new(), String::new());
        let restored = Restored::bootstrap([raft]);
        let boot = ManagerBoot {
            raft,
            cluster: first.id,
            epoch: 0,
            restored,
        };
        let manager = Manager::new(config.clone(), boot, &seed, now).unwrap();
        let mut lab = Self {
            manager,
            now,
            durable: true,
            tickets: VecDeque::new(),
            disk: Disk::default(),
            answers: BTreeMap::new(),
            sent: Vec::new(),
            requests: 0,
        };
        let (request, command) = (lab.draw(), Command::InitCluster(Box::new(first)));
        let proposal = Proposal::new(&config, now, node(1), request, command);
        lab.manager.initialize(now, proposal);
        lab.pass(TICK * 20);
        assert!(lab.manager.state().cluster().is_some());
        let create = NetworkCreate {
            name: "net".to_owned(),
            attachable: true,
            ..NetworkCreate::default()
        };
        lab.ask(1, Request::NetworkCreate(create)).unwrap();
        lab
    }

    fn draw(&mut self) -> RequestId {
        self.requests += 1;
        RequestId::from_bytes(u128::from(self.requests).to_be_bytes())
    }

    /// Carries out what the manager wants.
    fn carry_out(&mut self) {
        loop {
            while let Some(action) = self.manager.poll_action() {
                match action {
                    Action::Persist(batch) => {
                        let (write, ticket) = batch.into_parts();
                        assert_eq!(write.truncate_from, None, "a sole voter never takes back");
                        if let Some(snapshot) = write.snapshot {
                            let snapshot = Snapshot::clone(&snapshot);
                            (self.disk.snapshot, self.disk.entries) = (Some(snapshot), Vec::new());
                        }
                        self.disk.hard_state = Some(write.hard_state);
                        self.disk.entries.extend(write.entries.iter().cloned());
                        self.tickets.push_back(ticket);
                    }
                    Action::Answer {
                        request, result, ..
                    } => drop(self.answers.insert(request, result)),
                    Action::Send { to, message } => self.sent.push((to, message)),
                    Action::Raft { .. } | Action::LeaderChanged | Action::Failed => {}
                }
            }
            if self.manager.is_unsettled(self.now) {
                self.manager.handle_timeout(self.now);
                continue;
            }
            if !self.durable || self.tickets.is_empty() {
                return;
            }
            for ticket in std::mem::take(&mut self.tickets) {
                self.manager.handle_persisted(self.now, ticket);
            }
        }
    }

    fn persist_one(&mut self) {
        if let Some(ticket) = self.tickets.pop_front() {
            self.manager.handle_persisted(self.now, ticket);
        }
    }

    /// Makes the manager anew from its disk, which says that what is up to `commit` is committed.
    fn restart(&mut self, commit: Index) {
        let disk = self.disk.clone();
        let hard_state = HardState {
            commit,
            ..disk.hard_state.unwrap()
        };
        let restored = Restored::check(hard_state, disk.snapshot.unwrap(), disk.entries);
        let boot = ManagerBoot {
            raft: self.manager.raft_id(),
            cluster: self.manager.state().cluster().unwrap().id,
            epoch: 0,
            restored: restored.unwrap(),
        };
        self.tickets.clear();
        self.manager = Manager::new(config(1), boot, &Seed::from_u64(2), self.now).unwrap();
    }

    /// Lets an agent be heard; returns whether it is told that it is none of the cluster.
    fn sends_away(&mut self, number: u8) -> bool {
        self.sent.clear();
        self.manager.handle_heartbeat(self.now, node(number), 0);
        self.carry_out();
        self.sent
            .drain(..)
            .any(|(to, message)| to == node(number) && matches!(message, Message::Removed))
    }

    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        self.carry_out();
        while let Some(next) = self.manager.poll_timeout().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.manager.handle_timeout(self.now);
            self.carry_out();
        }
        self.now = until;
    }

    fn ask_as(&mut self, origin: u8, request: RequestId, ask: Ask) -> Result<Answer, api::Error> {
        let served = self.manager.serve(self.now, node(origin), request, ask);
        assert_eq!(served, Served::Taken);
        self.carry_out();
        self.answers.remove(&request).unwrap()
    }

    fn ask(&mut self, origin: u8, request: Request) -> Result<Answer, api::Error> {
        let id = self.draw();
        self.ask_as(origin, id, Ask::Api(request))
    }

    fn add(&mut self, number: u8, role: Role) {
        let id = self.draw();
        let ask = Ask::AddNode(AddNode::new(&config(number), role));
        self.ask_as(1, id, ask).unwrap();
    }

    fn attach(&mut self, on: u8, name: &str) -> Result<Answer, api::Error> {
        let attach = AttachRequest {
            network: "net".to_owned(),
            name: name.to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            namespace: overlay_core::plane::Namespace::InProcess,
            endpoint: Some(EndpointId::from_bytes([9; 16])),
        };
        self.ask(on, Request::Attach(attach))
    }

    fn report(&mut self, on: NodeId, ask: Ask) {
        let request = self.draw();
        self.manager.serve(self.now, on, request, ask);
        self.carry_out();
    }

    /// Lets all agents be heard for a while, and take what they are sent.
    fn hear(&mut self, known: &mut BTreeMap<NodeId, Assignment>) {
        for _ in 0..10 {
            for (node, assignment) in known.iter() {
                let version = assignment.version;
                self.manager.handle_heartbeat(self.now, *node, version);
            }
            self.pass(TICK);
            for (to, message) in std::mem::take(&mut self.sent) {
                let present = known.get_mut(&to).unwrap();
                *present = match message {
                    Message::AssignmentChange(change) => present.changed(*change).unwrap(),
                    message => whole(&message),
                };
            }
        }
    }

    /// Lets an agent that has `version` be heard, and time pass until it is heard again; returns what it is sent.
    fn beat(&mut self, number: u8, version: u64) -> Vec<Message> {
        let known = self
            .manager
            .handle_heartbeat(self.now, node(number), version);
        assert!(known);
        self.pass(config(1).timers.heartbeat_interval);
        std::mem::take(&mut self.sent)
            .into_iter()
            .filter(|(to, _)| *to == node(number))
            .map(|(_, message)| message)
            .collect()
    }
}

fn config(number: u8) -> Config {
    Config::new(
        node(number),
        format!("host{number}"),
        [192, 0, 2, number].into(),
    )
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}
