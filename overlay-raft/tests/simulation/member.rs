//! A member with its disk and its application: a list of the operations that were applied.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    collections::VecDeque,
    ops::Range,
    rc::Rc,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use overlay_core::{DiskError, Instant, Machine, Rng};
use overlay_raft::{
    Committed, Config, Event, Incarnation, Index, Message, Output, ProposalId, Raft, RaftId,
    ReadId, ReadMode, Restored, Term, TraceEvent, WriteBatch,
    storage::{Log, OpenError, StorageConfig},
};
use overlay_sim::{Boot, Channel, Host, HostId, Outbox, runner::sometimes};

use crate::{
    checker::{Checker, decode},
    layer::{Layer, LayerDisk},
};

/// How a member of one seed is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) founders: usize,
    /// Whether leaders rely on clocks.
    pub(crate) leases: bool,
    /// Whose disk was lost: it must join then, not found.
    pub(crate) wiped: Rc<Cell<Option<HostId>>>,
    pub(crate) storage: StorageConfig,
    pub(crate) layer: Layer,
    /// Whether all faults are over: disks are fast then.
    pub(crate) healed: Rc<Cell<bool>>,
    /// How long a write takes.
    pub(crate) disk_delay: Range<Duration>,
    /// How often one takes a second instead, in parts of a million.
    pub(crate) stall_ppm: u32,
    /// After how many applied entries the log is compacted.
    pub(crate) compact_after: u64,
    pub(crate) configure: fn(&mut Config, &mut Rng),
}

/// One life of one member.
pub(crate) struct Member {
    pub(crate) raft: Option<Raft>,
    log: Option<Log<LayerDisk>>,
    writes: VecDeque<WriteBatch>,
    /// How many batches are written.
    written: u64,
    pub(crate) operations: Vec<u64>,
    pub(crate) applied: Index,
    /// What each must see at least, and who reads.
    reads: BTreeMap<ReadId, (Index, usize)>,
    proposals: BTreeMap<ProposalId, u64>,
    /// What the machine did and nobody has looked at yet.
    steps: Arc<Mutex<Vec<TraceEvent>>>,
    setup: Setup,
    checker: Rc<RefCell<Checker>>,
}

pub(crate) fn id_of(host: HostId) -> RaftId {
    RaftId::new(host.0 as u64 + 1).expect("not zero")
}

fn host_of(id: RaftId) -> HostId {
    HostId(usize::try_from(id.get() - 1).expect("few hosts"))
}

impl Member {
    pub(crate) fn boot(boot: Boot<'_>, setup: &Setup, checker: &Rc<RefCell<Checker>>) -> Self {
        let mut member = Self {
            raft: None,
            log: None,
            writes: VecDeque::new(),
            written: 0,
            operations: Vec::new(),
            applied: Index::ZERO,
            reads: BTreeMap::new(),
            proposals: BTreeMap::new(),
            steps: Arc::default(),
            setup: setup.clone(),
            checker: Rc::clone(checker),
        };
        let layered = setup.layer.over(&boot.disk, &boot.seed.derive("layer"));
        let opened = layered
            .map_err(OpenError::Disk)
            .and_then(|disk| Log::open(disk, setup.storage));
        if matches!(opened, Err(OpenError::Disk(DiskError::Failed { .. }))) {
            boot.outbox.exit();
            return member;
        }
        let (log, restored) = opened.expect("a crash damages nothing");
        let founders = (0..setup.founders).map(|host| id_of(HostId(host)));
        // Only a founder's very first life founds; whoever has no disk later has lost it.
        let founds = boot.host.0 < setup.founders && setup.wiped.get() != Some(boot.host);
        let restored = match restored {
            restored if !restored.is_empty() => restored,
            _ if founds => Restored::bootstrap(founders),
            _ => Restored::joining(),
        };
        let mut config = Config::new(id_of(boot.host), 7);
        config.clock_drift_ppm_max = setup.leases.then_some(110_000);
        (setup.configure)(&mut config, &mut boot.seed.derive("configure").rng());
        let raft = Raft::new(config, boot.seed.clone(), boot.now, restored);
        let mut raft = raft.expect("what Log::open returns is consistent");
        let steps = Arc::clone(&member.steps);
        raft.set_tracer(move |step| steps.lock().expect("one thread").push(step.clone()));
        member.raft = Some(raft);
        member.log = Some(log);
        member.check_steps();
        member
    }

    pub(crate) fn raft(&self) -> &Raft {
        self.raft.as_ref().expect("a member that opened its disk")
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft.as_ref().is_some_and(Raft::is_leader)
    }

    pub(crate) fn propose(&mut self, now: Instant) -> Option<u64> {
        let raft = self.raft.as_mut()?;
        let mut checker = self.checker.borrow_mut();
        let operation = checker.operation();
        let command = Bytes::copy_from_slice(&operation.to_le_bytes());
        let id = raft.propose(now, command).ok()?;
        checker.on_proposed(id, operation);
        self.proposals.insert(id, operation);
        Some(operation)
    }

    pub(crate) fn read(&mut self, now: Instant, mode: ReadMode) {
        if let Some(raft) = &mut self.raft
            && let Ok(read) = raft.read_index(now, mode)
        {
            sometimes("a read by lease", raft.stats().lease_reads > 0);
            let mut checker = self.checker.borrow_mut();
            let (floor, reader) = (checker.read_floor(), checker.clients.on_read());
            self.reads.insert(read, (floor, reader));
        }
    }

    /// Compares what was done since the last time with the model.
    fn check_steps(&self) {
        let Some(raft) = &self.raft else {
            return;
        };
        let steps = std::mem::take(&mut *self.steps.lock().expect("one thread"));
        let mut checker = self.checker.borrow_mut();
        for step in &steps {
            checker.on_step((raft.id(), raft.incarnation()), step);
        }
    }

    /// The disk has finished everything up to batch `until`; only the newest ticket is given back.
    fn write_until(&mut self, now: Instant, until: u64) {
        let (Some(log), Some(raft)) = (&mut self.log, &mut self.raft) else {
            return;
        };
        let mut newest = None;
        while self.written < until {
            let Some(batch) = self.writes.pop_front() else {
                break;
            };
            self.written += 1;
            let (write, ticket) = batch.into_parts();
            if log.write(&write).is_err() {
                raft.handle_persist_failed(now, ticket);
                return;
            }
            sometimes("one ticket covers several", newest.is_some());
            newest = Some(ticket);
        }
        sometimes("a ticket leaves others out", !self.writes.is_empty());
        if let Some(ticket) = newest {
            raft.handle_persisted(now, ticket);
        }
    }

    fn on_event(&mut self, event: Event, outbox: &mut Outbox) {
        let mut checker = self.checker.borrow_mut();
        let raft = self.raft.as_ref().expect("an event comes from it");
        assert!(
            !matches!(event, Event::VoterForgot { .. }),
            "what was acknowledged was durable: {event:?}"
        );
        match event {
            Event::LeaderChanged { leader, .. }
                if leader == Some(raft.id()) && raft.is_leader() =>
            {
                checker.on_elected(raft);
            }
            Event::ChangeCommitted(id) => {
                sometimes("a change is certain", true);
                checker.on_changed(id);
            }
            Event::ProposalLost(id) => {
                sometimes("a proposal is lost", true);
                checker.on_lost(id);
            }
            Event::ProposalUnknown(_) => {
                sometimes("a snapshot takes a proposal's place", true);
            }
            Event::ReadLost(read) => {
                self.reads.remove(&read);
            }
            Event::DiskStalled { .. } => {
                sometimes("a leader with a slow disk hands over", true);
            }
            Event::VoterLostDisk { .. } => {
                sometimes("a wiped voter is noticed", true);
            }
            Event::Fatal => {
                sometimes("a write fails", true);
                outbox.exit();
            }
            _ => {}
        }
    }

    fn on_send(&self, to: RaftId, bytes: &[u8]) {
        let (kind, body) = (bytes[0], &bytes[6..]);
        if kind != 3 && kind != 4 {
            return;
        }
        type Envelope = (u64, RaftId, Term, Incarnation, Option<Incarnation>);
        let (envelope, rest): (Envelope, &[u8]) =
            postcard::take_from_bytes(body).expect("the envelope as documented");
        let own = self.raft().id();
        let candidate = match kind {
            3 => own,
            _ if rest == [1] => to,
            _ => return,
        };
        self.checker
            .borrow_mut()
            .on_vote(own, envelope.3, envelope.2, candidate);
    }

    fn on_apply(&mut self, committed: &Committed<'_>) {
        assert!(committed.index > self.applied, "applied twice or backwards");
        let raft = self.raft.as_ref().expect("it comes from it");
        let mut checker = self.checker.borrow_mut();
        let operation = checker.on_applied(raft, committed);
        self.operations.push(operation);
        self.applied = committed.index;
        let id = ProposalId {
            term: committed.term,
            index: committed.index,
        };
        if let Some(own) = self.proposals.remove(&id) {
            assert_eq!(own, operation, "another command under the same proposal");
            checker.on_acknowledged(operation, committed.index);
        }
    }

    fn compact(&mut self, now: Instant) {
        let after = self.setup.compact_after;
        let (Some(raft), applied) = (&mut self.raft, self.applied) else {
            return;
        };
        if applied.get() < raft.snapshot_index().get() + after {
            return;
        }
        let state: Vec<u8> = self
            .operations
            .iter()
            .flat_map(|operation| operation.to_le_bytes())
            .collect();
        raft.compact(now, applied, Bytes::from(state))
            .expect("what is applied can be compacted");
    }
}

impl Machine for Member {
    type Output = Output;

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(raft) = &mut self.raft {
            raft.handle_timeout(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.raft.as_ref().and_then(Raft::poll_timeout)
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.raft.as_mut().and_then(Raft::poll_output)
    }
}

impl Host for Member {
    fn deliver(&mut self, now: Instant, from: HostId, _: Channel, bytes: &[u8]) {
        if let Some(raft) = &mut self.raft {
            let message =
                Message::decode(&Bytes::copy_from_slice(bytes)).expect("as it was encoded");
            let result = raft.handle_message(now, id_of(from), message);
            // A replay of an old message may be about a log that is long compacted, but never a contradiction.
            result.expect("members send each other what is admitted");
        }
    }

    fn route(&mut self, now: Instant, output: Output, outbox: &mut Outbox) {
        // Before anybody can hear of them.
        self.check_steps();
        match output {
            Output::Persist(batch) => {
                let raft = self.raft.as_ref().expect("it comes from it");
                let mut before = None;
                for entry in batch.write().entries.iter() {
                    let before_term = before.or_else(|| raft.term_at(entry.index.previous()));
                    if let Some(before_term) = before_term {
                        self.checker.borrow_mut().on_entry(before_term, entry);
                    }
                    before = Some(entry.term);
                }
                self.checker.borrow().check_membership(raft);
                let delay = if self.setup.healed.get() {
                    Duration::from_millis(1)
                } else if outbox.rng().chance(self.setup.stall_ppm) {
                    Duration::from_secs(1)
                } else {
                    outbox.rng().duration(self.setup.disk_delay.clone())
                };
                self.writes.push_back(batch);
                let number = self.written + self.writes.len() as u64;
                outbox.after(delay, number);
            }
            Output::Send { to, message } => {
                let bytes = message.encode();
                self.on_send(to, &bytes);
                outbox.send(host_of(to), Channel::Datagram, bytes.to_vec());
            }
            Output::Apply(batch) => {
                for committed in batch.iter() {
                    self.on_apply(&committed);
                }
                self.compact(now);
            }
            Output::Restore(snapshot) => {
                sometimes("a snapshot is restored", true);
                self.operations = snapshot.data.chunks(8).map(decode).collect();
                self.applied = snapshot.index;
                self.checker
                    .borrow()
                    .check_state(snapshot.index, &self.operations);
            }
            Output::ReadReady { read, index } => {
                let (floor, reader) = self.reads.remove(&read).expect("answered once");
                let seen = self.operations.last().copied().unwrap_or_default();
                self.checker.borrow_mut().clients.on_answer(reader, seen);
                sometimes("a read is answered", true);
                sometimes("a follower answers a read", !self.is_leader());
                assert!(
                    index >= floor,
                    "a read sees {index}, but {floor} was acknowledged before it began"
                );
                let applied = self.raft().applied();
                assert!(applied >= index, "a read of {index} answered at {applied}");
            }
            Output::Event(event) => self.on_event(event, outbox),
        }
    }

    fn handle_deferred(&mut self, now: Instant, batch: u64) {
        self.write_until(now, batch);
    }
}
