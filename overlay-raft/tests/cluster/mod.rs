//! Members under direct control: one alone, whose peers are the test, or several with a wire that the test can cut.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, of which each file uses a part"
)]

pub mod message;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{Instant, Machine, Seed};
use overlay_raft::{
    Change, ChangeError, Config, Entry, Event, HardState, Index, MessageError, Output, Payload,
    PersistTicket, ProposalId, ProposeError, Raft, RaftId, ReadId, ReadMode, Restored, Role,
    Snapshot, Term, Write,
};

pub use message::{Body, Message, membership};

pub const GROUP: u64 = 7;
pub const ELECTION: Duration = Duration::from_millis(500);
pub const HEARTBEAT: Duration = Duration::from_millis(100);

pub fn id(number: u64) -> RaftId {
    RaftId::new(number).unwrap()
}

pub fn config(number: u64) -> Config {
    Config {
        election_timeout: ELECTION,
        heartbeat_interval: HEARTBEAT,
        commit_delay: Duration::ZERO,
        ..Config::new(id(number), GROUP)
    }
}

pub fn command(text: &str) -> Payload {
    Payload::Command(Bytes::copy_from_slice(text.as_bytes()))
}

/// What a disk holds after the writes that were made.
#[derive(Clone, Default, Debug)]
pub struct Stored {
    pub hard_state: Option<HardState>,
    pub snapshot: Option<Snapshot>,
    pub entries: Vec<Entry>,
}

impl Stored {
    pub fn apply(&mut self, write: &Write) {
        if let Some(snapshot) = &write.snapshot {
            self.snapshot = Some(Snapshot::clone(snapshot));
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        self.entries.extend(write.entries.iter().cloned());
        self.hard_state = Some(write.hard_state.clone());
    }

    pub fn restore(&self) -> Restored {
        match (&self.hard_state, &self.snapshot) {
            (Some(hard_state), Some(snapshot)) => {
                Restored::check(hard_state.clone(), snapshot.clone(), self.entries.clone()).unwrap()
            }
            _ => Restored::empty(),
        }
    }

    /// A voter's disk: founded by `voters`, then `entries` of these terms, in the last of them.
    pub fn founded(number: u64, voters: &[u64], terms: &[u64]) -> Self {
        let mut entries = vec![Entry {
            index: Index::new(1),
            term: Term::ZERO,
            payload: Payload::Membership(membership(voters, &[])),
        }];
        for (at, term) in terms.iter().enumerate() {
            entries.push(Entry {
                index: Index::new(at as u64 + 2),
                term: Term::new(*term),
                payload: command(&format!("{term}")),
            });
        }
        let node = Node::joiner(number);
        let mut hard_state = node.stored.hard_state.unwrap();
        hard_state.incarnation = overlay_raft::Incarnation::FOUNDER;
        hard_state.term = entries.last().unwrap().term;
        hard_state.commit = Index::new(1);
        Self {
            hard_state: Some(hard_state),
            snapshot: node.stored.snapshot,
            entries,
        }
    }

    pub fn with_term(mut self, term: u64) -> Self {
        self.hard_state.as_mut().unwrap().term = Term::new(term);
        self
    }
}

/// A command that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    pub index: Index,
    pub term: Term,
    pub command: Bytes,
}

/// One member and all that it has let out.
#[derive(Debug)]
pub struct Node {
    pub raft: Raft,
    pub now: Instant,
    /// Writes are durable at once; otherwise they wait in `writes`.
    pub fast_disk: bool,
    pub writes: VecDeque<(Write, PersistTicket)>,
    pub stored: Stored,
    pub sent: VecDeque<(u64, Bytes)>,
    pub applied: Vec<Applied>,
    pub restored: Vec<Snapshot>,
    pub reads: Vec<(ReadId, u64)>,
    pub events: Vec<Event>,
}

impl Node {
    pub fn new(config: Config, now: Instant, stored: Stored, restored: Restored) -> Self {
        Self::start(config, now, stored, restored, true)
    }

    fn start(
        config: Config,
        now: Instant,
        stored: Stored,
        restored: Restored,
        fast_disk: bool,
    ) -> Self {
        let seed = Seed::from_u64(config.id.get() + 100 * now.as_millis());
        let mut node = Self {
            raft: Raft::new(config, seed, now, restored).unwrap(),
            now,
            fast_disk,
            writes: VecDeque::new(),
            stored,
            sent: VecDeque::new(),
            applied: Vec::new(),
            restored: Vec::new(),
            reads: Vec::new(),
            events: Vec::new(),
        };
        node.drain();
        node
    }

    pub fn founder(number: u64, voters: &[u64]) -> Self {
        Self::founder_with(config(number), voters)
    }

    pub fn founder_with(config: Config, voters: &[u64]) -> Self {
        let restored = Restored::bootstrap(voters.iter().map(|voter| id(*voter)));
        Self::new(config, Instant::EPOCH, Stored::default(), restored)
    }

    /// The only member, whose disk has not finished anything.
    pub fn alone_with_slow_disk() -> Self {
        let restored = Restored::bootstrap([id(1)]);
        Self::start(
            config(1),
            Instant::EPOCH,
            Stored::default(),
            restored,
            false,
        )
    }

    pub fn joiner(number: u64) -> Self {
        let restored = Restored::joining();
        Self::new(config(number), Instant::EPOCH, Stored::default(), restored)
    }

    pub fn from_disk(config: Config, stored: Stored) -> Self {
        let restored = stored.restore();
        Self::new(config, Instant::EPOCH, stored, restored)
    }

    /// A voter of three whose log has entries of these terms after the first.
    pub fn with_log(number: u64, terms: &[u64]) -> Self {
        Self::from_disk(config(number), Stored::founded(number, &[1, 2, 3], terms))
    }

    /// The leader of three founders, in term 1, its first entry replicated to 2 and committed.
    pub fn leader() -> Self {
        Self::leader_with(config(1))
    }

    /// As above, with other settings.
    pub fn leader_with(config: Config) -> Self {
        let mut node = Self::founder_with(config, &[1, 2, 3]);
        node.campaign();
        node.win(2);
        node.feed(2, Body::Accepted { matched: 2 });
        node.feed(3, Body::Accepted { matched: 2 });
        assert_eq!(node.raft.role(), Role::Leader);
        assert_eq!(node.raft.commit().get(), 2);
        node.sent.clear();
        node
    }

    /// Crashes and starts again from what the disk holds.
    pub fn restart(&mut self) {
        let config = self.raft.config().clone();
        let stored = self.stored.clone();
        let restored = stored.restore();
        *self = Self::start(config, self.now, stored, restored, self.fast_disk);
    }

    pub fn campaign(&mut self) {
        self.raft.campaign(self.now);
        self.drain();
    }

    /// Answers the pre-vote and the vote that are under way with the voice of `voter`.
    pub fn win(&mut self, voter: u64) {
        let round = self
            .messages()
            .into_iter()
            .rev()
            .find_map(|(_, message)| match message.body {
                Body::PreVote { round, .. } => Some(round),
                _ => None,
            })
            .expect("a pre-vote");
        let granted = true;
        self.feed(voter, Body::PreVoteReply { round, granted });
        self.feed(voter, Body::VoteReply { granted });
    }

    /// Feeds a message of the member's own term.
    pub fn feed(&mut self, from: u64, body: Body) {
        self.feed_at(from, self.raft.term().get(), body);
    }

    pub fn feed_at(&mut self, from: u64, term: u64, body: Body) {
        self.try_feed(from, term, body).unwrap();
    }

    pub fn try_feed(&mut self, from: u64, term: u64, body: Body) -> Result<(), MessageError> {
        let message = Message {
            group: GROUP,
            to: self.raft.id().get(),
            term,
            incarnation: 0,
            means: Some(self.raft.incarnation().get()),
            body,
        };
        self.feed_message(from, &message)
    }

    pub fn feed_message(&mut self, from: u64, message: &Message) -> Result<(), MessageError> {
        let message = overlay_raft::Message::decode(&message.encode().into()).unwrap();
        let result = self.raft.handle_message(self.now, id(from), message);
        self.drain();
        result
    }

    /// An append as the leader `from` of `term` sends it.
    pub fn append(
        &mut self,
        (from, term): (u64, u64),
        (previous, previous_term): (u64, u64),
        terms: &[u64],
        commit: u64,
    ) {
        let entries = terms
            .iter()
            .map(|term| (*term, command(&format!("{term}"))))
            .collect();
        let body = Body::Append {
            previous,
            previous_term,
            commit,
            entries,
        };
        self.feed_at(from, term, body);
    }

    pub fn propose(&mut self, text: &str) -> Result<ProposalId, ProposeError> {
        let result = self
            .raft
            .propose(self.now, Bytes::copy_from_slice(text.as_bytes()));
        self.drain();
        result
    }

    pub fn change(&mut self, change: Change) -> Result<ProposalId, ChangeError> {
        self.change_all(&[change])
    }

    pub fn change_all(&mut self, changes: &[Change]) -> Result<ProposalId, ChangeError> {
        let result = self.raft.change(self.now, changes);
        self.drain();
        result
    }

    pub fn read(&mut self) -> ReadId {
        let read = self.raft.read_index(self.now, ReadMode::Quorum).unwrap();
        self.drain();
        read
    }

    /// Lets time pass, stopping at each deadline on the way.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.raft.poll_timeout().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.raft.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
        self.raft.handle_timeout(end);
        self.drain();
    }

    pub fn drain(&mut self) {
        while self
            .raft
            .poll_timeout()
            .is_some_and(|deadline| deadline <= self.now)
        {
            self.raft.handle_timeout(self.now);
            self.drain_outputs();
        }
    }

    fn drain_outputs(&mut self) {
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Persist(batch) => {
                    self.writes.push_back(batch.into_parts());
                    if self.fast_disk {
                        self.write_all();
                    }
                }
                Output::Send { to, message } => self.sent.push_back((to.get(), message.encode())),
                Output::Apply(batch) => {
                    self.applied.extend(batch.iter().map(|committed| Applied {
                        index: committed.index,
                        term: committed.term,
                        command: committed.command.clone(),
                    }));
                }
                Output::Restore(snapshot) => self.restored.push(Snapshot::clone(&snapshot)),
                Output::ReadReady { read, index } => self.reads.push((read, index.get())),
                Output::Event(event) => self.events.push(event),
            }
        }
    }

    /// The disk finishes its oldest write.
    pub fn write_one(&mut self) {
        let (write, ticket) = self.writes.pop_front().expect("a write");
        self.stored.apply(&write);
        self.raft.handle_persisted(self.now, ticket);
        self.drain();
    }

    pub fn write_all(&mut self) {
        while let Some((write, ticket)) = self.writes.pop_front() {
            self.stored.apply(&write);
            self.raft.handle_persisted(self.now, ticket);
        }
        self.drain();
    }

    /// Returns what was sent, without forgetting it.
    pub fn messages(&self) -> Vec<(u64, Message)> {
        self.sent
            .iter()
            .map(|(to, bytes)| (*to, Message::decode(bytes)))
            .collect()
    }

    /// Returns what was sent and forgets it.
    pub fn take(&mut self) -> Vec<(u64, Body)> {
        let messages = self.messages();
        self.sent.clear();
        messages
            .into_iter()
            .map(|(to, message)| (to, message.body))
            .collect()
    }

    /// Returns the terms of the log from index 2 on.
    pub fn terms(&self) -> Vec<u64> {
        (2..=self.raft.last_index().get())
            .map(|index| self.raft.term_at(Index::new(index)).unwrap().get())
            .collect()
    }

    pub fn commands(&self) -> Vec<String> {
        self.applied
            .iter()
            .map(|committed| String::from_utf8(committed.command.to_vec()).unwrap())
            .collect()
    }
}

/// Several members on one wire that delivers at once, except where it is cut.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub now: Instant,
    cut: BTreeSet<(u64, u64)>,
    down: BTreeSet<u64>,
}

impl Cluster {
    /// Founders 1 to `count`.
    pub fn new(count: u64) -> Self {
        Self::with(count, |_| {})
    }

    pub fn with(count: u64, adjust: impl Fn(&mut Config)) -> Self {
        let voters: Vec<u64> = (1..=count).collect();
        let nodes = voters.iter().map(|number| {
            let mut config = config(*number);
            adjust(&mut config);
            (*number, Node::founder_with(config, &voters))
        });
        Self {
            nodes: nodes.collect(),
            now: Instant::EPOCH,
            cut: BTreeSet::new(),
            down: BTreeSet::new(),
        }
    }

    /// Five members of which 1 leads, 2 and 3 vote, and 4 and 5 are learners that have caught up.
    pub fn with_two_learners() -> Self {
        let mut cluster = Self::new(3);
        for number in [4, 5] {
            cluster.add_joiner(number);
        }
        cluster.elect(1);
        cluster.pass(HEARTBEAT);
        for number in [4, 5] {
            cluster.change(1, Change::AddLearner(id(number))).unwrap();
            cluster.pass(HEARTBEAT);
        }
        cluster
    }

    pub fn from_nodes(nodes: Vec<Node>) -> Self {
        Self {
            nodes: nodes
                .into_iter()
                .map(|node| (node.raft.id().get(), node))
                .collect(),
            now: Instant::EPOCH,
            cut: BTreeSet::new(),
            down: BTreeSet::new(),
        }
    }

    pub fn add_joiner(&mut self, number: u64) {
        let mut node = Node::joiner(number);
        node.now = self.now;
        self.nodes.insert(number, node);
    }

    pub fn node(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).unwrap()
    }

    pub fn raft(&self, number: u64) -> &Raft {
        &self.nodes[&number].raft
    }

    /// Cuts both ways between `number` and all others.
    pub fn isolate(&mut self, number: u64) {
        for other in self.nodes.keys().copied() {
            self.cut.insert((number, other));
            self.cut.insert((other, number));
        }
    }

    pub fn cut(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn crash(&mut self, number: u64) {
        self.down.insert(number);
        self.node(number).sent.clear();
    }

    pub fn restart(&mut self, number: u64) {
        self.down.remove(&number);
        let now = self.now;
        let node = self.node(number);
        node.now = now;
        node.restart();
    }

    /// Starts a member anew from another disk.
    pub fn restart_with(&mut self, mut node: Node) {
        node.now = self.now;
        let number = node.raft.id().get();
        self.down.remove(&number);
        self.nodes.insert(number, node);
    }

    /// Delivers until nothing is under way.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            for from in self.nodes.keys().copied().collect::<Vec<_>>() {
                let sent = std::mem::take(&mut self.node(from).sent);
                for (to, bytes) in sent {
                    moved = true;
                    let lost = self.cut.contains(&(from, to))
                        || self.down.contains(&to)
                        || self.down.contains(&from);
                    if let Some(node) = self.nodes.get_mut(&to).filter(|_| !lost) {
                        let message = overlay_raft::Message::decode(&bytes).unwrap();
                        node.raft
                            .handle_message(node.now, id(from), message)
                            .unwrap();
                        node.drain();
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass for everybody.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += Duration::from_millis(10);
            for number in self.nodes.keys().copied().collect::<Vec<_>>() {
                if self.down.contains(&number) {
                    continue;
                }
                let now = self.now;
                let node = self.node(number);
                node.now = now;
                node.raft.handle_timeout(now);
                node.drain();
            }
            self.settle();
        }
    }

    /// Has `number` elected, after whoever led is no longer heard.
    pub fn elect(&mut self, number: u64) {
        self.node(number).campaign();
        self.settle();
        assert!(self.raft(number).is_leader(), "{number} is not elected");
    }

    /// Waits for a leader among those that can reach a quorum; the one of the highest term.
    pub fn leader(&mut self) -> u64 {
        for _ in 0..500 {
            let leaders = self
                .nodes
                .iter()
                .filter(|(number, node)| !self.down.contains(number) && node.raft.is_leader());
            if let Some((number, _)) = leaders.max_by_key(|(_, node)| node.raft.term()) {
                return *number;
            }
            self.pass(Duration::from_millis(10));
        }
        panic!("nobody was elected");
    }

    pub fn propose(&mut self, number: u64, text: &str) -> ProposalId {
        let id = self.node(number).propose(text).unwrap();
        self.settle();
        id
    }

    pub fn change(&mut self, number: u64, change: Change) -> Result<ProposalId, ChangeError> {
        self.change_all(number, &[change])
    }

    pub fn change_all(
        &mut self,
        number: u64,
        changes: &[Change],
    ) -> Result<ProposalId, ChangeError> {
        let result = self.node(number).change_all(changes);
        self.settle();
        result
    }

    /// Compacts a member's log up to what it applied, with `data` as its state.
    pub fn compact(&mut self, number: u64, data: &'static [u8]) {
        let node = self.node(number);
        let index = node.raft.applied();
        node.raft
            .compact(node.now, index, Bytes::from_static(data))
            .unwrap();
        node.drain();
        self.settle();
    }
}
