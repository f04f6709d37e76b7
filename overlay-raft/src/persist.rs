//! What must be on the disk before what may leave: writes, tickets, and the books about them.

use std::{collections::VecDeque, sync::Arc};

use overlay_core::Instant;

use crate::{
    Entries, Index, Snapshot,
    planted::{self, Bug},
    restore::HardState,
};

/// One atomic change of what the disk holds: all of it or nothing.
///
/// Applied in this order: the snapshot, which replaces *everything* that the disk held; the truncation; the entries;
/// the hard state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// Replaces snapshot and log; afterwards the log consists of [`entries`](Self::entries) alone.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Removes the entries from this index on.
    pub truncate_from: Option<Index>,
    /// Appended; the first follows the last that remains.
    pub entries: Entries,
    /// Replaces the hard state.
    pub hard_state: HardState,
}

impl Write {
    /// Makes one write of two that were handed out in this order, so that one sync makes both durable. The later one's
    /// ticket covers the earlier one's.
    pub fn absorb(&mut self, later: Self) {
        if later.snapshot.is_some() {
            *self = later;
            return;
        }
        if let Some(from) = later.truncate_from {
            let reaches_back = self.entries.first().is_none_or(|first| from <= first.index);
            self.entries = self.entries.before(from);
            if reaches_back && self.snapshot.is_none() {
                let earlier = self.truncate_from.unwrap_or(from);
                self.truncate_from = Some(from.min(earlier));
            }
        }
        for slice in later.entries.slices() {
            self.entries.push(slice.clone());
        }
        self.hard_state = later.hard_state;
    }
}

/// A write and the ticket that says it is done.
#[derive(Debug)]
#[must_use = "nothing that depends on the write leaves the machine before its ticket comes back"]
pub struct WriteBatch {
    write: Write,
    ticket: PersistTicket,
}

impl WriteBatch {
    pub(crate) fn new(write: Write, ticket: PersistTicket) -> Self {
        Self { write, ticket }
    }

    /// Returns what is to be written.
    pub fn write(&self) -> &Write {
        &self.write
    }

    /// Takes the batch apart: the write for the disk, the ticket for
    /// [`handle_persisted`](crate::Raft::handle_persisted) or
    /// [`handle_persist_failed`](crate::Raft::handle_persist_failed).
    pub fn into_parts(self) -> (Write, PersistTicket) {
        (self.write, self.ticket)
    }
}

/// Proof that a write was handed out, to be given back once it is durable.
///
/// It cannot be made or copied outside this crate; giving one back covers all earlier ones of the same machine.
///
/// ```compile_fail
/// fn twice(raft: &mut overlay_raft::Raft, now: overlay_core::Instant, ticket: overlay_raft::PersistTicket) {
///     raft.handle_persisted(now, ticket);
///     raft.handle_persisted(now, ticket); // moved
/// }
/// ```
///
/// ```compile_fail
/// let ticket = overlay_raft::PersistTicket { machine: 0, number: 1 }; // private
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a ticket that is dropped leaves the machine waiting"]
pub struct PersistTicket {
    /// Which life of which machine.
    machine: u64,
    number: u64,
}

/// What was handed out to the disk, what came back, and what is still to be handed out.
#[derive(Debug)]
pub(crate) struct Writes {
    machine: u64,
    /// The number of the next ticket; one more than the last that was issued.
    next: u64,
    /// The newest ticket that came back.
    done: u64,
    outstanding: VecDeque<Outstanding>,
    /// The last entry that was handed out in a write.
    handed: Index,
    /// The last entry that is durable and still in the log.
    durable: Index,
    truncate_from: Option<Index>,
    snapshot: bool,
    hard_state: bool,
}

#[derive(Debug)]
struct Outstanding {
    number: u64,
    issued: Instant,
    /// The last entry that is durable when this is done. Lowered when the log is truncated meanwhile: the write then
    /// brings to the disk what is no longer in the log, and must not vouch for what took its place.
    last: Index,
}

impl Writes {
    /// Starts the books for a log that is durable up to `durable`.
    pub(crate) fn new(machine: u64, durable: Index) -> Self {
        Self {
            machine,
            next: 1,
            done: 0,
            outstanding: VecDeque::new(),
            handed: durable,
            durable,
            truncate_from: None,
            snapshot: false,
            hard_state: false,
        }
    }

    /// Returns which life of the machine it is.
    pub(crate) fn machine(&self) -> u64 {
        self.machine
    }

    /// Notes that the hard state changed.
    pub(crate) fn note_hard_state(&mut self) {
        self.hard_state = true;
    }

    /// Notes that the log was compacted: the next write holds the whole state.
    pub(crate) fn note_snapshot(&mut self) {
        self.snapshot = true;
    }

    /// Notes that the log was replaced by a snapshot at `index`.
    pub(crate) fn note_install(&mut self, index: Index) {
        self.snapshot = true;
        self.truncate_from = None;
        self.handed = index;
        self.lower(Index::ZERO);
    }

    /// Notes that the entries from `index` on were removed.
    pub(crate) fn note_truncated(&mut self, index: Index) {
        if index <= self.handed {
            self.truncate_from = Some(self.truncate_from.map_or(index, |from| from.min(index)));
            self.handed = index.previous();
        }
        self.lower(index.previous());
    }

    /// Returns the last entry that was handed out.
    pub(crate) fn handed(&self) -> Index {
        self.handed
    }

    /// Returns the last entry that is durable and still in the log.
    pub(crate) fn durable(&self) -> Index {
        self.durable
    }

    /// Returns the newest ticket that came back.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Returns whether something is to be written, in a log that ends at `last`.
    pub(crate) fn is_dirty(&self, last: Index) -> bool {
        self.hard_state || self.snapshot || self.truncate_from.is_some() || last > self.handed
    }

    /// Returns the number of the ticket that makes the present state durable.
    pub(crate) fn required(&self, last: Index) -> u64 {
        if self.is_dirty(last) {
            self.next
        } else {
            self.next - 1
        }
    }

    /// Returns how many tickets are out.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Returns when the oldest ticket that is out was issued.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.outstanding.front().map(|write| write.issued)
    }

    /// Takes what the next write must hold besides the hard state, and issues its ticket.
    pub(crate) fn issue(&mut self, now: Instant, last: Index) -> (Parts, PersistTicket) {
        let parts = Parts {
            snapshot: self.snapshot,
            truncate_from: self.truncate_from.take().filter(|_| !self.snapshot),
            after: self.handed,
        };
        let ticket = PersistTicket {
            machine: self.machine,
            number: self.next,
        };
        self.outstanding.push_back(Outstanding {
            number: self.next,
            issued: now,
            last,
        });
        self.next += 1;
        self.handed = last;
        self.snapshot = false;
        self.hard_state = false;
        (parts, ticket)
    }

    /// Takes a ticket back; covers all earlier ones. Returns whether it said anything new.
    pub(crate) fn complete(&mut self, ticket: &PersistTicket) -> bool {
        if !self.is_known(ticket) || ticket.number <= self.done {
            return false;
        }
        self.done = ticket.number;
        while let Some(write) = self.outstanding.front() {
            if write.number > ticket.number {
                break;
            }
            self.durable = self.durable.max(write.last);
            self.outstanding.pop_front();
        }
        true
    }

    /// Returns whether the ticket was issued by this very machine.
    pub(crate) fn is_known(&self, ticket: &PersistTicket) -> bool {
        ticket.machine == self.machine && ticket.number < self.next
    }

    fn lower(&mut self, last: Index) {
        self.durable = self.durable.min(last);
        for write in &mut self.outstanding {
            if !planted::has(Bug::TrustsOldTickets) {
                write.last = write.last.min(last);
            }
        }
    }
}

/// What a write must hold besides the hard state.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The snapshot, and all entries after it.
    pub(crate) snapshot: bool,
    pub(crate) truncate_from: Option<Index>,
    /// Otherwise the entries after this one.
    pub(crate) after: Index,
}
