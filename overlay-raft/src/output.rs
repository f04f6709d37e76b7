//! What a machine asks its driver to do.

use std::{collections::VecDeque, fmt};

use bytes::Bytes;
use overlay_core::Instant;

use crate::{Index, Membership, ProposalId, RaftId, ReadId, Snapshot, Term, persist::WriteBatch};

/// One thing for the driver to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Make a write durable, then give its ticket back.
    Persist(WriteBatch),
    /// Send `bytes` to a member. Messages may be lost, repeated and reordered.
    Send {
        /// The recipient.
        to: RaftId,
        /// The message.
        bytes: Bytes,
    },
    /// Apply a committed command.
    Apply(Committed),
    /// Replace the application's state.
    Restore(Snapshot),
    /// Answer a read: everything up to `index` was handed out before.
    ReadReady {
        /// Which read.
        read: ReadId,
        /// What the answer must contain.
        index: Index,
    },
    /// Something that an operator or the embedder may want to know.
    Event(Event),
}

/// A command that a quorum holds durably, and this member too.
///
/// Handed out once in each life, in the order of the log; after a restart again from the snapshot on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Its position. Positions of entries that are no commands are skipped.
    pub index: Index,
    /// The term in which it was proposed.
    pub term: Term,
    /// The command.
    pub command: Bytes,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Another leader, or none, or another term.
    LeaderChanged {
        /// Who leads, if known.
        leader: Option<RaftId>,
        /// In which term.
        term: Term,
    },
    /// Another membership came into force, was committed, or came back because a newer one was overwritten.
    MembershipChanged {
        /// Where it is in the log.
        index: Index,
        /// The membership in force.
        membership: Membership,
        /// Whether it can no longer be overwritten.
        committed: bool,
    },
    /// Another entry was committed in the place of a proposal of this member: it will never be applied.
    ///
    /// Overwriting alone is no proof: a copy elsewhere may yet be committed by a later leader (Raft figure 8).
    ProposalLost(ProposalId),
    /// A snapshot took the place of a proposal of this member: it may be contained or not.
    ProposalUnknown(ProposalId),
    /// A read will not be answered, because this member no longer leads.
    ReadLost(ReadId),
    /// A transfer of leadership did not happen in time; this member leads on.
    TransferFailed {
        /// Who should have led.
        to: RaftId,
    },
    /// The disk did not finish a write within an election time-out; leadership was given up.
    DiskStalled {
        /// When the write was handed out.
        since: Instant,
    },
    /// A voter answers whose disk is not the one that was promoted: it has no vote. Remove it and add it again.
    VoterLostDisk {
        /// Who.
        id: RaftId,
    },
    /// A write failed. Nothing more is sent, acknowledged or applied; rebuild the machine from what the disk holds.
    Fatal,
}

/// The one queue, and what waits for the disk before it may enter it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Output>,
    /// With the number of the ticket that each waits for; numbers never fall.
    withheld: VecDeque<(u64, Output)>,
    /// What the driver was last told about leader and term.
    pub(crate) announced: (Option<RaftId>, Term),
}

impl Outbox {
    pub(crate) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    /// Queues a message once ticket `required` came back; `done` is the newest that did.
    pub(crate) fn send_after(&mut self, required: u64, done: u64, output: Output) {
        if required <= done {
            self.queue.push_back(output);
        } else {
            self.withheld.push_back((required, output));
        }
    }

    /// Releases what waited for the tickets up to `done`.
    pub(crate) fn release(&mut self, done: u64) {
        while self
            .withheld
            .front()
            .is_some_and(|(required, _)| *required <= done)
        {
            let released = self.withheld.pop_front().map(|(_, output)| output);
            self.queue.extend(released);
        }
    }

    /// Forgets what was withheld: answers of a term that has passed.
    pub(crate) fn forget_withheld(&mut self) {
        self.withheld.clear();
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.withheld.clear();
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns what waits for the disk.
    pub(crate) fn withheld(&self) -> impl fmt::Debug + '_ {
        &self.withheld
    }

    /// Returns how many outputs are queued or withheld.
    pub(crate) fn len(&self) -> usize {
        self.queue.len().saturating_add(self.withheld.len())
    }
}
