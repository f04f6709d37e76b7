//! The loop that drives a member.

use std::net::SocketAddr;

use bytes::Bytes;
use overlay_core::{Disk, DiskError, Instant, Machine as _};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    Application, Applied, Arrival, Ended, HandOverError, Leading, Links, LogWriter,
    MembershipError, Options, ProposalError, Status, Transport, Written,
    clock::Clock,
    member::Then,
    waiting::{Reply, Waiting},
};
use crate::{Change, Event, Index, MessageError, Output, Raft, RaftId, ReadMode, Sending};

/// What a member is asked.
pub(super) enum Request<A: Application> {
    Propose {
        command: Bytes,
        reply: Reply<Applied<A::Answer>, ProposalError>,
    },
    Read {
        mode: ReadMode,
        then: Then<A>,
    },
    Look(Box<dyn FnOnce(&A) + Send>),
    Change {
        changes: Vec<Change>,
        reply: Reply<Index, MembershipError>,
    },
    Transfer {
        to: RaftId,
        reply: Reply<(), HandOverError>,
    },
    Peer(RaftId, Option<SocketAddr>),
    Status(oneshot::Sender<Status>),
    ShutDown,
}

/// Where everything comes from.
pub(super) struct Inputs<A: Application> {
    pub(super) written: mpsc::UnboundedReceiver<Written>,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    pub(super) requests: mpsc::Receiver<Request<A>>,
}

/// One thing that came.
enum Input<A: Application> {
    Written(Written),
    Arrival(Arrival),
    Request(Request<A>),
    Due,
    /// Nobody is there any more who could ask for anything.
    Abandoned,
}

/// A member: the machine and everything around it.
pub(super) struct Loop<A: Application, T, D> {
    raft: Raft,
    application: A,
    links: Links<T>,
    log: LogWriter<D>,
    clock: Clock,
    waiting: Waiting<A>,
    compaction: Compaction,
    leading: watch::Sender<Leading>,
    disk_error: Option<DiskError>,
    leaving: Option<Leaving>,
    /// The last message that was refused.
    refused: Option<(RaftId, MessageError)>,
}

/// When the log is compacted.
struct Compaction {
    entries: u64,
    /// Where it was tried last.
    at: Index,
    snapshot_bytes: u64,
    refused: u64,
}

/// The member is to end.
#[derive(Clone, Copy)]
enum Leaving {
    /// Once another member leads, or at this time.
    HandingOver(Instant),
    Now,
}

impl<A: Application, T: Transport, D: Disk + Send + 'static> Loop<A, T, D> {
    pub(super) fn new(
        raft: Raft,
        application: A,
        links: Links<T>,
        log: LogWriter<D>,
        clock: Clock,
        options: &Options,
        leading: watch::Sender<Leading>,
    ) -> Self {
        let compaction = Compaction {
            entries: options.compact_entries.max(1),
            at: raft.snapshot_index(),
            snapshot_bytes: 0,
            refused: 0,
        };
        Self {
            raft,
            application,
            links,
            log,
            clock,
            waiting: Waiting::new(),
            compaction,
            leading,
            disk_error: None,
            leaving: None,
            refused: None,
        }
    }

    /// Runs until the member is to end, and closes everything.
    pub(super) async fn run(mut self, mut inputs: Inputs<A>) -> Ended {
        self.drain();
        let why = loop {
            if let Some(why) = self.end() {
                break why;
            }
            let input = wait(self.clock, self.due(), &mut inputs).await;
            let now = self.clock.now();
            self.handle(now, input);
            self.take_all(now, &mut inputs);
            self.raft.handle_timeout(self.clock.now());
            self.drain();
            self.waiting.finish_changes(&self.raft);
            self.compact();
        };
        let Self { log, links, .. } = self;
        links.close().await;
        // What still waits in there may be said again to whoever leads.
        drop(inputs);
        // Closing waits for a sync; a panic over there was said on standard error.
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
        why
    }

    /// Returns when something is to be done although nothing came.
    fn due(&self) -> Option<Instant> {
        let due = self.raft.poll_timeout();
        match self.leaving {
            Some(Leaving::HandingOver(until)) => Some(due.map_or(until, |due| due.min(until))),
            Some(Leaving::Now) | None => due,
        }
    }

    /// Takes what else is there, so that it leaves together.
    fn take_all(&mut self, now: Instant, inputs: &mut Inputs<A>) {
        while let Ok(written) = inputs.written.try_recv() {
            self.handle(now, Input::Written(written));
        }
        for _ in 0..ARRIVALS_PER_TURN {
            let Ok(arrival) = inputs.arrivals.try_recv() else {
                break;
            };
            self.handle(now, Input::Arrival(arrival));
        }
        for _ in 0..REQUESTS_PER_TURN {
            let Ok(request) = inputs.requests.try_recv() else {
                break;
            };
            self.handle(now, Input::Request(request));
        }
    }

    fn handle(&mut self, now: Instant, input: Input<A>) {
        match input {
            Input::Written(Written::Durable(ticket)) => self.raft.handle_persisted(now, ticket),
            Input::Written(Written::Failed(ticket, error)) => {
                self.disk_error = Some(error);
                self.raft.handle_persist_failed(now, ticket);
            }
            Input::Arrival(Arrival { from, messages }) => {
                for message in messages {
                    // One that is refused changes nothing.
                    if let Err(error) = self.raft.handle_message(now, from, message) {
                        self.refused = Some((from, error));
                    }
                }
            }
            Input::Request(request) => self.handle_request(now, request),
            Input::Due => {}
            Input::Abandoned => self.leaving = Some(Leaving::Now),
        }
    }

    fn handle_request(&mut self, now: Instant, request: Request<A>) {
        match request {
            Request::Propose { command, reply } => match self.raft.propose(now, command) {
                Ok(id) => self.waiting.proposal(id, reply),
                Err(error) => drop(reply.send(Err(error.into()))),
            },
            Request::Read { mode, then } => match self.raft.read_index(now, mode) {
                Ok(id) => self.waiting.read(id, then),
                Err(error) => then(&self.application, Err(error.into())),
            },
            Request::Look(look) => look(&self.application),
            Request::Change { changes, reply } => match self.raft.change(now, &changes) {
                Ok(id) => self.waiting.change(id, reply),
                Err(error) => drop(reply.send(Err(error.into()))),
            },
            Request::Transfer { to, reply } => match self.raft.transfer(now, to) {
                Ok(()) => self.waiting.transfer(reply),
                Err(error) => drop(reply.send(Err(error.into()))),
            },
            Request::Peer(id, Some(address)) => self.links.set_peer(id, address),
            Request::Peer(id, None) => self.links.remove_peer(id),
            Request::Status(reply) => drop(reply.send(self.status(now))),
            Request::ShutDown => self.leave(now),
        }
    }

    /// Does what the machine wants done.
    fn drain(&mut self) {
        while let Some(output) = self.raft.poll_output() {
            match output {
                Output::Persist(batch) => self.log.write(batch),
                Output::Send { to, message } => self.links.send(to, message),
                Output::Apply(batch) => self.waiting.apply(&mut self.application, &batch),
                Output::Restore(snapshot) => {
                    self.application.restore(&snapshot.data);
                    self.compaction.at = snapshot.index;
                    self.compaction.snapshot_bytes = snapshot.data_bytes();
                }
                Output::ReadReady { read, index } => {
                    self.waiting.read_ready(&self.application, read, index);
                }
                Output::Event(event) => {
                    self.on_event(&event);
                    self.application.observe(&event);
                }
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        match *event {
            Event::LeaderChanged { leader, term } => {
                if leader.is_some_and(|leader| leader != self.raft.id()) {
                    self.waiting.transferred();
                }
                self.leading.send_replace(Leading { leader, term });
            }
            Event::ChangeCommitted(id) => self.waiting.change_committed(id),
            Event::ProposalLost(id) => self.waiting.proposal_lost(id),
            Event::ProposalUnknown(id) => self.waiting.proposal_unknown(id),
            Event::ReadLost(id) => self.waiting.read_lost(&self.application, id),
            Event::TransferFailed { to } => self.waiting.transfer_failed(to),
            Event::Fatal => self.leaving = Some(Leaving::Now),
            Event::MembershipChanged { .. }
            | Event::DiskStalled { .. }
            | Event::VoterLostDisk { .. }
            | Event::VoterForgot { .. } => {}
        }
    }

    /// Forgets the log that the application's state contains, if that is worth it.
    fn compact(&mut self) {
        let applied = self.raft.applied();
        let config = self.raft.config();
        let since = applied.get().saturating_sub(self.compaction.at.get());
        let weighs = self.raft.log_bytes();
        let worth = since >= self.compaction.entries && weighs >= self.compaction.snapshot_bytes;
        let kept = u64::try_from(config.trailing_entries_max).unwrap_or(u64::MAX);
        let full = since > kept.min(self.compaction.entries) && weighs >= config.log_bytes_max / 2;
        if !worth && !full {
            return;
        }
        let snapshot = self.application.snapshot();
        self.compaction.at = applied;
        self.compaction.snapshot_bytes = u64::try_from(snapshot.len()).unwrap_or(u64::MAX);
        let now = self.clock.now();
        if self.raft.compact(now, applied, snapshot).is_err() {
            self.compaction.refused += 1;
        }
    }

    /// Begins to end: a leader asks the most advanced voter to lead.
    fn leave(&mut self, now: Instant) {
        let successor = self
            .raft
            .followers()
            .filter(|one| {
                one.is_voter && !one.lost_disk && !matches!(one.sending, Sending::Snapshot { .. })
            })
            .max_by_key(|one| (one.matched, one.contact))
            .map(|one| one.id);
        let asked = successor.is_some_and(|to| self.raft.transfer(now, to).is_ok());
        self.leaving = Some(if asked {
            Leaving::HandingOver(now + self.raft.config().election_timeout)
        } else {
            Leaving::Now
        });
    }

    /// Returns why the member is to end at this point, if it is.
    fn end(&mut self) -> Option<Ended> {
        let over = match self.leaving? {
            Leaving::Now => true,
            Leaving::HandingOver(until) => !self.raft.is_leader() || self.clock.now() >= until,
        };
        over.then(|| self.disk_error.take().map_or(Ended::ShutDown, Ended::Disk))
    }

    fn status(&self, now: Instant) -> Status {
        let raft = &self.raft;
        Status {
            id: raft.id(),
            role: raft.role(),
            leader: raft.leader(),
            term: raft.term(),
            commit: raft.commit(),
            applied: raft.applied(),
            last_index: raft.last_index(),
            snapshot_index: raft.snapshot_index(),
            log_bytes: raft.log_bytes(),
            membership: raft.membership().clone(),
            followers: raft.followers().collect(),
            peers: self.links.peers(),
            now,
            stats: *raft.stats(),
            links: self.links.stats(),
            compactions_refused: self.compaction.refused,
            refused: self.refused.clone(),
        }
    }
}

/// Waits for something to happen. What is due already is not waited for: a timer takes a millisecond.
async fn wait<A: Application>(
    clock: Clock,
    due: Option<Instant>,
    inputs: &mut Inputs<A>,
) -> Input<A> {
    if due.is_some_and(|due| due <= clock.now()) {
        return Input::Due;
    }
    let sleep = async {
        match due {
            Some(due) => time::sleep_until(clock.deadline(due)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        Some(written) = inputs.written.recv() => Input::Written(written),
        Some(arrival) = inputs.arrivals.recv() => Input::Arrival(arrival),
        request = inputs.requests.recv() => request.map_or(Input::Abandoned, Input::Request),
        () = sleep => Input::Due,
    }
}

/// So many arrivals are taken before consequences are drawn.
const ARRIVALS_PER_TURN: usize = 64;

/// So many requests.
const REQUESTS_PER_TURN: usize = 1_024;
