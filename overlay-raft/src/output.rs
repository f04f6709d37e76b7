//! What a machine asks its driver to do.

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::Bytes;
use overlay_core::Instant;

use crate::{
    Entries, Index, Membership, Message, Payload, ProposalId, RaftId, ReadId, Snapshot, Term,
    persist::WriteBatch,
};

/// One thing for the driver to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Make a write durable, then give its ticket back.
    Persist(WriteBatch),
    /// Send a message to a member. Messages may be lost, repeated and reordered.
    Send {
        /// The recipient.
        to: RaftId,
        /// The message; [`encode`](Message::encode) makes octets of it.
        message: Message,
    },
    /// Apply committed commands, in this order.
    Apply(ApplyBatch),
    /// Replace the application's state.
    Restore(Arc<Snapshot>),
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

/// Commands that a quorum holds durably, and this member too.
///
/// Each is handed out once in each life, in the order of the log; after a restart again from the snapshot on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApplyBatch {
    entries: Entries,
}

/// A command of an [`ApplyBatch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed<'a> {
    /// Its position. Positions of entries that are no commands are skipped.
    pub index: Index,
    /// The term in which it was proposed.
    pub term: Term,
    /// The command.
    pub command: &'a Bytes,
}

impl ApplyBatch {
    /// Makes a batch of the commands among `entries`; `None` if there is no command.
    pub(crate) fn new(entries: Entries) -> Option<Self> {
        let batch = Self { entries };
        let is_empty = batch.iter().next().is_none();
        (!is_empty).then_some(batch)
    }

    /// Returns the commands one by one.
    ///
    /// [`Raft::applied`](crate::Raft::applied) says what was handed out, which is ahead of what the application did as long as
    /// outputs wait.
    pub fn iter(&self) -> impl Iterator<Item = Committed<'_>> {
        self.entries
            .iter()
            .filter_map(|entry| match &entry.payload {
                Payload::Command(command) => Some(Committed {
                    index: entry.index,
                    term: entry.term,
                    command,
                }),
                Payload::Noop | Payload::Membership(_) => None,
            })
    }
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
    /// A change of the membership that this member proposed is certain; of one in two steps, the first.
    ChangeCommitted(ProposalId),
    /// Another entry was committed in the place of a proposal of this member: it will never be applied.
    ///
    /// Overwriting alone is no proof: a copy elsewhere may yet be committed by a later leader (Raft figure 8).
    ProposalLost(ProposalId),
    /// A snapshot took the place of a proposal of this member: it may be contained or not.
    ProposalUnknown(ProposalId),
    /// A read will not be answered, because another member leads, or nobody.
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
    /// A voter answers whose disk is not the one that was promoted: it has no vote. Demote it (or remove it and add it again),
    /// wait until that is committed, then promote it.
    VoterLostDisk {
        /// Who.
        id: RaftId,
    },
    /// A voter holds less than it acknowledged: its disk was lost, or put back to what it once was, and the member was started
    /// again as if nothing had happened. It is sent everything anew and its word counts for nothing here, until it is demoted
    /// and promoted as after [`VoterLostDisk`](Self::VoterLostDisk). It may have voted twice in a term, and entries that only it
    /// and members that are gone held are lost.
    VoterForgot {
        /// Who.
        id: RaftId,
        /// Up to where it had acknowledged the log.
        acknowledged: Index,
    },
    /// A write failed. Nothing more is sent, acknowledged or applied, nor told of proposals and reads that are open: what
    /// became of them is unknown. Rebuild the machine from what the disk holds.
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
    #[inline]
    pub(crate) fn push(&mut self, output: Output) {
        self.queue.push_back(output);
    }

    pub(crate) fn extend(&mut self, outputs: impl IntoIterator<Item = Output>) {
        self.queue.extend(outputs);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    /// Queues a message once ticket `required` came back; `done` is the newest that did.
    #[inline]
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

    /// Returns whether something that is applied up to `index` was not taken out yet.
    pub(crate) fn holds_commands_up_to(&self, index: Index) -> bool {
        self.queue.iter().any(|output| match output {
            Output::Apply(batch) => batch.iter().next().is_some_and(|one| one.index <= index),
            Output::Restore(snapshot) => snapshot.index <= index,
            _ => false,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What is longer is moved by a call, and an output is moved a dozen times.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_output_is_short() {
        assert!(size_of::<Output>() <= 128, "{}", size_of::<Output>());
    }
}
