//! Words and contracts shared by the overlay crates.
//!
//! Time ([`Instant`]), randomness ([`Seed`], [`Rng`]), the shape of every state machine ([`Machine`]), identities
//! ([`NodeId`], [`NetworkId`], [`EndpointId`], [`ServiceId`], [`TaskId`]), words of the network ([`Vni`],
//! [`MacAddr`]), and the seams to what a core must not touch: [`Disk`], [`aead`] and [`plane`].
//!
//! It holds no protocol and does no I/O: nothing in here reads a clock, opens a socket or draws ambient randomness.
//!
//! # The loop that drives a machine
//!
//! Every machine of the family is driven by the same few lines. [`machine`] states the contract.
//!
//! ```
//! use std::{collections::VecDeque, time::Duration};
//! use overlay_core::{Instant, Machine};
//!
//! /// Says "tick" once a second.
//! struct Ticker { now: Instant, next: Instant, queue: VecDeque<&'static str> }
//!
//! impl Machine for Ticker {
//!     type Output = &'static str;
//!     fn handle_timeout(&mut self, now: Instant) {
//!         self.now = self.now.max(now);
//!         if self.now >= self.next {
//!             self.next = self.now + Duration::from_secs(1);
//!             self.queue.push_back("tick");
//!         }
//!     }
//!     fn poll_timeout(&self) -> Option<Instant> {
//!         Some(if self.queue.is_empty() { self.next } else { self.now })
//!     }
//!     fn poll_output(&mut self) -> Option<&'static str> { self.queue.pop_front() }
//! }
//!
//! let start = Instant::EPOCH;
//! let mut ticker = Ticker { now: start, next: start, queue: VecDeque::new() };
//! let mut ticks = 0;
//! let mut now = start;
//! while now < start + Duration::from_secs(3) {
//!     ticker.handle_timeout(now);
//!     while let Some(_output) = ticker.poll_output() { ticks += 1; }
//!     now = ticker.poll_timeout().expect("a ticker always has a deadline"); // a driver sleeps until here
//! }
//! assert_eq!(ticks, 3);
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | the trait [`Machine`] and its contract |
//! | [`time`] | [`Instant`] |
//! | [`random`] | [`Seed`] and [`Rng`] |
//! | [`id`] | identities |
//! | [`net`] | [`Vni`], [`MacAddr`] |
//! | [`disk`] | [`Disk`], what a log needs of a disk |
//! | [`aead`] | authenticated encryption, provided from outside |
//! | [`plane`] | [`plane::Desired`] state of the data plane and [`plane::Platform`], the operating system |

#![forbid(unsafe_code)]

pub mod aead;
pub mod disk;
pub mod id;
pub mod machine;
pub mod net;
pub mod plane;
pub mod random;
pub mod time;

pub use disk::{Disk, DiskError};
pub use id::{EndpointId, NetworkId, NodeId, ParseIdError, ServiceId, TaskId};
pub use machine::Machine;
pub use net::{MacAddr, ParseMacError, Vni};
pub use random::{Rng, Seed};
pub use time::Instant;
