//! Raft consensus as a value: messages, acknowledgements and the time go in, what to do comes out.
//!
//! Election with pre-vote and check-quorum, replication in batches and pipelines, membership changes of one member or of
//! many (joint consensus), learners, snapshots that travel inside the messages, linearizable reads on every member and by
//! lease, transfer of leadership; its own wire codec; and a checksummed log on any [`Disk`]
//! ([`storage`]). What must be durable before something leaves is kept inside until the [`PersistTicket`] comes back.
//!
//! It does no I/O, reads no clock and starts no thread. It does not authenticate: the driver vouches for the sender of a
//! message. It does not interpret commands, and it does not make a command that a client sends twice apply once: see
//! [below](#exactly-once).
//!
//! # The loop that drives a member
//!
//! ```
//! use bytes::Bytes;
//! use overlay_raft::{Config, Event, Instant, Machine, Output, Raft, RaftId, Restored, Seed};
//!
//! let id = RaftId::new(1).expect("not zero");
//! let mut now = Instant::EPOCH;
//! let mut raft = Raft::new(Config::new(id, 7), Seed::from_u64(1), now, Restored::bootstrap([id]))?;
//! let mut disk = Vec::new(); // a real driver writes with `storage::Log`
//! let mut state = Vec::new(); // the application
//! let mut proposed = false;
//!
//! while state.is_empty() {
//!     raft.handle_timeout(now);
//!     while let Some(output) = raft.poll_output() {
//!         match output {
//!             Output::Persist(batch) => {
//!                 let (write, ticket) = batch.into_parts();
//!                 disk.push(write);
//!                 raft.handle_persisted(now, ticket); // or `handle_persist_failed`
//!             }
//!             Output::Send { to, message: _ } => unreachable!("there is nobody but {id}, least of all {to}"),
//!             Output::Apply(batch) => state.extend(batch.iter().map(|committed| committed.command.clone())),
//!             Output::Restore(snapshot) => state = vec![snapshot.data.clone()],
//!             Output::ReadReady { .. } => {}
//!             Output::Event(Event::Fatal) => panic!("rebuild the member from its disk"),
//!             Output::Event(_) => {}
//!         }
//!     }
//!     if raft.is_leader() && !proposed {
//!         raft.propose(now, Bytes::from_static(b"hello"))?;
//!         proposed = true;
//!     }
//!     if let Some(deadline) = raft.poll_timeout() {
//!         now = deadline; // a real driver sleeps until then, or until a message arrives
//!     }
//! }
//! assert_eq!(state, ["hello"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What a driver may rely on:
//!
//! * *Turns.* Whatever is proposed, heard or made durable is collected, and [`handle_timeout`](overlay_core::Machine::handle_timeout)
//!   draws what follows from all of it: one message for each follower, one write. `poll_timeout` is due at once as long as
//!   something is collected. So a driver takes in all there is, calls it once, and drains.
//! * *Tickets.* What must be durable before something leaves is withheld inside until the [`PersistTicket`] comes back; one
//!   covers all before it. Forgetting it costs liveness, never safety. [`Write::absorb`] makes one write of several.
//! * *Ends.* What [`Raft::propose`] took is done when an entry of its [`ProposalId`]'s index *and* term is applied; what
//!   [`Raft::change`] took, with [`Event::ChangeCommitted`]. Otherwise [`Event::ProposalLost`] or, where a snapshot took its
//!   place, [`Event::ProposalUnknown`] says so, before the [`Output::Restore`]. After [`Event::Fatal`] and a restart nothing
//!   more is said of them.
//! * *Clocks.* Each member counts from a moment of its own, in each life. Nothing depends on them for safety but [`ReadMode::Lease`], which holds as long as no clock is off by more than
//!   [`Config::clock_drift_ppm_max`].
//!
//! # Exactly once
//!
//! A client whose answer was lost asks again, perhaps somebody else, and the command is in the log twice. That it takes effect
//! once is the application's doing (thesis §6.3), and takes three things, all of them in the replicated state so that every
//! member decides alike:
//!
//! 1. Each request carries an identity that the client keeps when it asks again: a session and a number, or random octets.
//! 2. Applying a request that is known changes nothing and gives the answer that was given.
//! 3. What is known has a bound, and what is forgotten is refused instead of applied: sessions are opened through the log, the
//!    one used least recently makes room in the order of the log, and a request of none is an error to the client.
//!
//! `examples/raft-kv` does it with sessions; `overlay-node` with random identities, of which the last ones are remembered, and
//! with commands that are harmless where they come again later than that.
//!
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | `raft` | [`Raft`], the machine, and the order in which consequences are drawn |
//! | `step` | which messages are admitted, and what their term says |
//! | `election`, `leader`, `follower`, `replication` | Raft §5, from each side |
//! | `query` | what a machine answers about itself |
//! | `read`, `transfer`, `change` | reads, transfer of leadership, membership and compaction |
//! | `log`, `entries`, `membership`, `progress`, `proposals`, `snapshot`, `entry`, `id` | the nouns |
//! | `persist` | [`Write`], [`WriteBatch`], [`PersistTicket`], and the books about them |
//! | `restore` | [`Restored`], what a member may start from |
//! | `trace` | [`TraceEvent`], the steps of the protocol for whoever checks them |
//! | `wire` | the messages as octets |
//! | [`storage`] | the log on a disk, sealed on request |
//! | `driver` | with the feature `tokio`: a member with sockets, log and loop |

#![forbid(unsafe_code)]

mod change;
mod config;
#[cfg(feature = "tokio")]
pub mod driver;
mod election;
mod entries;
mod entry;
mod error;
mod follower;
mod id;
mod leader;
mod log;
mod membership;
mod output;
mod persist;
#[cfg(overlay_raft_planted)]
pub mod planted;
#[cfg(not(overlay_raft_planted))]
mod planted;
mod progress;
mod proposals;
mod query;
mod raft;
mod read;
mod replication;
mod restore;
mod snapshot;
mod stats;
mod step;
pub mod storage;
mod trace;
mod transfer;
mod wire;

pub use config::{Config, ConfigError};
// What every embedding needs.
pub use entries::Entries;
pub use entry::{Entry, Payload};
pub use error::{
    ChangeError, CompactError, DecodeError, MessageError, ProposeError, ReadError, RestoreError,
    TransferError,
};
pub use id::{Incarnation, Index, ProposalId, RaftId, ReadId, Term};
pub use membership::{Change, Membership};
pub use output::{ApplyBatch, Committed, Event, Output};
pub use overlay_core::{Disk, DiskError, Instant, Machine, Seed};
pub use persist::{PersistTicket, Write, WriteBatch};
pub use progress::{FollowerStatus, Sending};
pub use raft::{Raft, Role};
pub use read::ReadMode;
pub use restore::{HardState, Restored};
pub use snapshot::Snapshot;
pub use stats::Stats;
pub use trace::TraceEvent;
pub use wire::Message;
