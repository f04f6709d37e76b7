//! The part of a node that keeps the cluster state: consensus, and while it leads, requests and agents' sessions.

mod admission;
mod assign;
mod membership;
mod orchestrate;
mod policy;
mod query;
mod rotation;
mod serve;
mod services;
mod touched;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{EndpointId, Instant, Machine as _, NodeId, Rng, Seed};
use overlay_gossip::Lease;
use overlay_raft::{
    Event as RaftEvent, Index, Output as RaftOutput, PersistTicket, Raft, RaftId, ReadId,
    RestoreError, WriteBatch,
};

use self::{
    orchestrate::Orchestration,
    policy::Policies,
    touched::{CHANGES_MIN, Compared},
};
use crate::{
    Config,
    agent::{AssignedPort, Assignment},
    api,
    identity::{LeaseSigner, Pass},
    node::{ManagerBoot, group},
    state::{BRIDGE, Cluster, ClusterState, Command, Proposal, RequestId},
    wire::{Answer, Ask, Message},
};

/// What the manager wants done by the node that owns it.
#[derive(Debug)]
pub(crate) enum Action {
    Raft {
        to: RaftId,
        bytes: Bytes,
    },
    Persist(WriteBatch),
    Answer {
        to: NodeId,
        request: RequestId,
        result: Result<Answer, api::Error>,
    },
    /// A whole assignment, what changed of it, or that there is none any more.
    Send {
        to: NodeId,
        message: Message,
    },
    LeaderChanged,
    Failed,
}

/// Whether a request was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It will be answered, or is to be sent again when it is not.
    Taken,
    /// This manager does not lead.
    NotLeader,
}

/// The session of one agent with the leader.
#[derive(Debug)]
struct AgentSession {
    heard_at: Instant,
    /// How seldom it may speak: by what it acknowledged or, if that is more, by what it was sent since.
    interval: Duration,
    /// What was last sent, and which version of it the agent said it has.
    sent: Option<Assignment>,
    /// The index of the state that it was compared with last.
    compared: u64,
    acknowledged: u64,
    sent_at: Instant,
    /// When the whole was sent last.
    completed_at: Option<Instant>,
}

/// A read that waits until this leader knows that it still leads, and for the log to be applied.
#[derive(Debug)]
enum Read {
    /// What somebody asked.
    Question {
        origin: NodeId,
        request: RequestId,
        body: api::Request,
    },
    /// Whether an agent that speaks is none of the cluster.
    Membership { node: NodeId },
}

impl Read {
    fn is_for_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Question { request: one, .. }, Self::Question { request: two, .. }) => {
                one == two
            }
            (Self::Membership { node: one }, Self::Membership { node: two }) => one == two,
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Manager {
    config: Config,
    raft: Raft,
    raft_id: RaftId,
    /// Which group its log belongs to.
    epoch: u64,
    state: ClusterState,
    signer: Option<LeaseSigner>,
    /// Leases that were signed: a signature costs more than all the rest of an assignment.
    leases: BTreeMap<EndpointId, Lease>,
    /// Passes that were signed.
    passes: BTreeMap<NodeId, Pass>,
    rng: Rng,
    proposals: BTreeMap<RequestId, NodeId>,
    /// The request that takes a manager away, while it is under way.
    parting: Option<RequestId>,
    reads: BTreeMap<ReadId, Read>,
    sessions: BTreeMap<NodeId, AgentSession>,
    compared: Compared,
    /// All ports that services publish, and the index that this is true of.
    published: (u64, Vec<AssignedPort>),
    policies: Policies,
    /// The request that retires former parts, while it is under way.
    retiring: Option<RequestId>,
    /// The request that makes this manager the only one, while it is under way.
    recovering: Option<RequestId>,
    /// The request that replaces a shared key, or the authority, while it is under way.
    rotating: Option<RequestId>,
    seed: Seed,
    orchestration: Option<Orchestration>,
    led_since: Option<Instant>,
    actions: VecDeque<Action>,
    since_snapshot: u64,
    next_tick: Instant,
    /// The making of the cluster, until this manager leads and has proposed it.
    initial: Option<Proposal>,
    failed: bool,
}

impl Manager {
    pub(crate) fn new(
        config: Config,
        boot: ManagerBoot,
        seed: &Seed,
        now: Instant,
    ) -> Result<Self, RestoreError> {
        let ManagerBoot {
            raft: raft_id,
            cluster,
            epoch,
            restored,
        } = boot;
        let mut raft_config = overlay_raft::Config::new(raft_id, group(cluster, epoch));
        raft_config.election_timeout = config.timers.raft_election_timeout;
        raft_config.heartbeat_interval = config.timers.raft_heartbeat_interval;
        let raft = Raft::new(raft_config, seed.derive("raft"), now, restored)?;
        let mut manager = Self {
            config,
            raft,
            raft_id,
            epoch,
            state: ClusterState::new(),
            signer: None,
            leases: BTreeMap::new(),
            passes: BTreeMap::new(),
            rng: seed.derive("manager").rng(),
            proposals: BTreeMap::new(),
            parting: None,
            reads: BTreeMap::new(),
            sessions: BTreeMap::new(),
            compared: Compared::default(),
            published: Default::default(),
            policies: Policies::default(),
            retiring: None,
            recovering: None,
            rotating: None,
            seed: seed.derive("orchestration"),
            orchestration: None,
            led_since: None,
            actions: VecDeque::new(),
            since_snapshot: 0,
            next_tick: now,
            initial: None,
            failed: false,
        };
        let changes_max = manager.config.changes_max.max(CHANGES_MIN);
        manager.state.watch(changes_max);
        manager.settle(now);
        Ok(manager)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.raft.handle_timeout(now);
        self.settle(now);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let tick = self.leads().then_some(self.next_tick);
        tick.into_iter().chain(self.raft.poll_timeout()).min()
    }

    /// Returns whether what the consensus was told has consequences that nobody has drawn.
    pub(crate) fn is_unsettled(&self, now: Instant) -> bool {
        self.raft.poll_timeout().is_some_and(|due| due <= now)
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn handle_raft(&mut self, now: Instant, from: RaftId, bytes: &Bytes) -> bool {
        let taken = overlay_raft::Message::decode(bytes)
            .is_ok_and(|message| self.raft.handle_message(now, from, message).is_ok());
        self.settle(now);
        taken
    }

    pub(crate) fn handle_persisted(&mut self, now: Instant, ticket: PersistTicket) {
        self.raft.handle_persisted(now, ticket);
        self.settle(now);
    }

    pub(crate) fn handle_persist_failed(&mut self, now: Instant, ticket: PersistTicket) {
        self.raft.handle_persist_failed(now, ticket);
        self.settle(now);
    }

    /// Hands leadership to another manager, if there is one and this one leads.
    pub(crate) fn step_aside(&mut self, now: Instant) {
        self.hand_over(now);
        self.settle(now);
    }

    fn hand_over(&mut self, now: Instant) {
        if !self.leads() {
            return;
        }
        let own = self.raft_id;
        let others: Vec<_> = self.raft.membership().voters().collect();
        for other in others.into_iter().filter(|other| *other != own) {
            if self.raft.transfer(now, other).is_ok() {
                break;
            }
        }
    }

    /// Makes the cluster as soon as this manager leads its own log.
    pub(crate) fn initialize(&mut self, now: Instant, proposal: Proposal) {
        self.initial = Some(proposal);
        self.propose_initial(now);
        self.settle(now);
    }

    fn propose_initial(&mut self, now: Instant) {
        if !self.leads() || self.state.cluster().is_some() {
            return;
        }
        let Some(proposal) = self.initial.clone() else {
            return;
        };
        if self.propose(now, &proposal) {
            self.initial = None;
        }
    }

    /// Returns whether the cluster is to be rebuilt from this survivor first, and proposes that.
    fn recover(&mut self, now: Instant) -> bool {
        let behind = |cluster: &Cluster| cluster.epoch < self.epoch;
        if !self.leads() || !self.state.cluster().is_some_and(behind) {
            return false;
        }
        let command = Command::Recover {
            manager: self.config.node,
            epoch: self.epoch,
        };
        self.recovering = self.propose_once(now, self.recovering, command);
        true
    }

    /// Returns whether the consensus took it; if not (busy, leadership just lost), whoever wants it tries again.
    fn propose(&mut self, now: Instant, proposal: &Proposal) -> bool {
        let bytes = postcard::to_allocvec(proposal).expect("every command serializes");
        let taken = self.raft.propose(now, Bytes::from(bytes)).is_ok();
        if taken {
            self.proposals.insert(proposal.request, proposal.actor);
        }
        taken
    }

    pub(crate) fn leads(&self) -> bool {
        self.raft.leader() == Some(self.raft_id)
    }

    /// Returns the leader's node, as far as it is known.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.node_of(self.raft.leader()?)
    }

    /// Returns how often the cluster was rebuilt from a survivor when this manager's log began.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn raft_id(&self) -> RaftId {
        self.raft_id
    }

    pub(crate) fn state(&self) -> &ClusterState {
        &self.state
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Drains the consensus until it has nothing more to say and no tick is due. What follows from what it was told since
    /// its last time-out, the next one draws for all of it together.
    pub(crate) fn settle(&mut self, now: Instant) {
        loop {
            while let Some(output) = self.raft.poll_output() {
                self.on_raft(now, output);
            }
            if !self.leads() || now < self.next_tick {
                return;
            }
            self.next_tick = now + TICK;
            self.propose_initial(now);
            if self.recover(now) {
                continue;
            }
            self.reconcile_membership(now);
            self.retire_parts(now);
            self.rotate_keys(now);
            self.finish_authority(now);
            self.orchestrate(now);
            self.assign_all(now);
        }
    }

    fn on_raft(&mut self, now: Instant, output: RaftOutput) {
        match output {
            RaftOutput::Persist(batch) => self.actions.push_back(Action::Persist(batch)),
            RaftOutput::Send { to, message } => {
                let bytes = message.encode();
                self.actions.push_back(Action::Raft { to, bytes });
            }
            RaftOutput::Apply(batch) => {
                for committed in batch.iter() {
                    match postcard::from_bytes(committed.command) {
                        Ok(proposal) => self.apply(now, committed.index, proposal),
                        // A later version's command: this manager's state would differ from the others' from here on.
                        Err(_) => return self.fail(),
                    }
                }
            }
            RaftOutput::Restore(snapshot) => match ClusterState::restore(&snapshot.data) {
                Ok(state) => {
                    self.state.replace(state);
                    self.since_snapshot = 0;
                    self.learn_signer();
                }
                Err(_) => self.fail(),
            },
            // Everything up to its index was handed out, and so applied, before.
            RaftOutput::ReadReady { read, index: _ } => self.answer_read(now, read),
            RaftOutput::Event(event) => self.on_raft_event(now, event),
        }
    }

    fn on_raft_event(&mut self, now: Instant, event: RaftEvent) {
        match event {
            RaftEvent::LeaderChanged { .. } => {
                self.led_since = self.leads().then_some(now);
                self.orchestration = None;
                self.sessions.clear();
                if !self.leads() {
                    // Whoever asked asks the new leader; what was applied meanwhile is remembered there.
                    self.proposals.clear();
                    self.reads.clear();
                }
                self.propose_initial(now);
                self.next_tick = now;
                self.actions.push_back(Action::LeaderChanged);
            }
            RaftEvent::ReadLost(read) => {
                self.reads.remove(&read);
            }
            RaftEvent::Fatal => self.fail(),
            _ => {}
        }
    }

    fn apply(&mut self, now: Instant, index: Index, proposal: Proposal) {
        let request = proposal.request;
        let outcome = self.state.apply(index.get(), proposal);
        self.learn_signer();
        self.since_snapshot += 1;
        if self.since_snapshot >= self.config.snapshot_interval {
            self.since_snapshot = 0;
            let snapshot = Bytes::from(self.state.snapshot());
            // A snapshot that cannot be taken now is taken after the next interval.
            let _ = self.raft.compact(now, index, snapshot);
        }
        if let Some(origin) = self.proposals.remove(&request)
            && !self.keeps_silent(origin)
        {
            let result = self.respond(outcome);
            self.answer(origin, request, result);
        }
        if self.leads() && !self.recover(now) {
            self.reconcile_membership(now);
            self.orchestrate(now);
            self.assign_all(now);
        }
    }

    fn learn_signer(&mut self) {
        if self.signer.is_none() {
            let cluster = self.state.cluster();
            self.signer = cluster.and_then(|cluster| LeaseSigner::new(&cluster.lease_key));
        }
    }

    fn fail(&mut self) {
        if !self.failed {
            self.failed = true;
            self.actions.push_back(Action::Failed);
        }
    }
}

/// How often a leader compares what is with what shall be.
const TICK: Duration = Duration::from_millis(100);

pub(crate) use serve::is_question;

/// Whether `ask` is one that a worker's certificate allows.
pub(crate) fn allowed_for_worker(ask: &Ask) -> bool {
    match ask {
        Ask::Api(api::Request::NetworkCreate(spec)) => spec.driver == BRIDGE,
        Ask::Api(request) => matches!(
            request,
            api::Request::Attach(_)
                | api::Request::Detach { .. }
                | api::Request::Leave { .. }
                | api::Request::NetworkList
                | api::Request::NetworkInspect { .. }
                | api::Request::NetworkRemove { .. }
        ),
        Ask::Report(_) | Ask::Describe(_) => true,
        Ask::AddNode(_) | Ask::Admit { .. } => false,
    }
}
