//! Deterministic simulation of sans-IO machines.
//!
//! A [`World`] runs any [`Machine`](overlay_core::Machine) that implements the small trait [`Host`], as many of them as
//! are wanted, on virtual time: a network that delays, loses, doubles, reorders, damages and cuts ([`NetworkConfig`]),
//! disks that lose or tear what was not synced ([`SimDisk`]), power that goes at any sync point, hosts that crash, are
//! killed, paused and restarted, clocks that drift. [`faults::Chaos`] draws a plan of all that from a seed,
//! [`runner::seeds`] runs a test over many seeds and prints the one command that replays a failure, and [`contract`]
//! checks that a machine keeps the contract of [`overlay_core::machine`].
//!
//! Everything comes from one [`Seed`](overlay_core::Seed): the same seed and the same calls give the same run, on every
//! platform ([`World::trace_hash`]).
//!
//! It does not simulate threads, sockets or a runtime: the drivers need tests of their own. It measures no bandwidth, and
//! a call of a host takes no virtual time (defer work with [`Outbox::after`] to model a slow disk). It does not shrink:
//! a failing seed is replayed whole.
//!
//! # Example
//!
//! One host numbers the requests of the others, and must never give a number twice, whatever happens. It writes each
//! number to its disk before it answers. Leave the sync out, and some seed finds it.
//!
//! ```
//! use std::{collections::{BTreeSet, VecDeque}, time::Duration};
//! use overlay_core::{Disk, DiskError, Instant, Machine, Seed};
//! use overlay_sim::{
//!     Boot, Channel, Host, HostId, NetworkConfig, Outbox, SimDisk, World,
//!     faults::{Chaos, ChaosConfig},
//!     runner,
//! };
//!
//! const COUNTER: HostId = HostId(0);
//!
//! /// The counter, or a client that asks every 20 ms.
//! struct Node { now: Instant, next: Option<Instant>, queue: VecDeque<Out>, disk: SimDisk, last: u64, numbers: Vec<u64> }
//!
//! enum Out { Ask, Answer { to: HostId } }
//!
//! impl Node {
//!     fn boot(boot: Boot<'_>) -> Self {
//!         let last = boot.disk.read("last").map_or(0, |bytes| bytes.len() as u64);
//!         let next = (boot.host != COUNTER).then_some(boot.now);
//!         Self { now: boot.now, next, queue: VecDeque::new(), disk: boot.disk, last, numbers: Vec::new() }
//!     }
//!     /// Makes one more number durable: the file grows by an octet.
//!     fn count(&mut self) -> Result<u64, DiskError> {
//!         self.disk.append("last", b"+")?;
//!         self.disk.sync("last")?;
//!         self.disk.sync_directory()?;
//!         self.last += 1;
//!         Ok(self.last)
//!     }
//! }
//!
//! impl Machine for Node {
//!     type Output = Out;
//!     fn handle_timeout(&mut self, now: Instant) {
//!         self.now = self.now.max(now);
//!         if self.next.is_some_and(|next| next <= self.now) {
//!             self.next = Some(self.now + Duration::from_millis(20));
//!             self.queue.push_back(Out::Ask);
//!         }
//!     }
//!     fn poll_timeout(&self) -> Option<Instant> {
//!         if self.queue.is_empty() { self.next } else { Some(self.now) }
//!     }
//!     fn poll_output(&mut self) -> Option<Out> { self.queue.pop_front() }
//! }
//!
//! impl Host for Node {
//!     fn deliver(&mut self, now: Instant, from: HostId, _channel: Channel, bytes: &[u8]) {
//!         self.now = self.now.max(now);
//!         match <[u8; 8]>::try_from(bytes) {
//!             Ok(number) => self.numbers.push(u64::from_le_bytes(number)),
//!             Err(_) => self.queue.push_back(Out::Answer { to: from }),
//!         }
//!     }
//!     fn route(&mut self, _now: Instant, output: Out, outbox: &mut Outbox) {
//!         match output {
//!             Out::Ask => outbox.send(COUNTER, Channel::Datagram, b"?".to_vec()),
//!             Out::Answer { to } => match self.count() {
//!                 // A stream: never doubled by the network, so a double is the counter's fault.
//!                 Ok(number) => outbox.send(to, Channel::Stream, number.to_le_bytes().to_vec()),
//!                 Err(_) => outbox.exit(),
//!             },
//!         }
//!     }
//! }
//!
//! runner::seeds("no_number_is_given_twice", 5, |seed| {
//!     let seed = Seed::from_u64(seed);
//!     let mut world = World::new(seed.clone(), NetworkConfig::lossy());
//!     for _ in 0..3 {
//!         world.add(Node::boot);
//!     }
//!     // Safety: whatever happens, no host that is up holds a number that another one holds.
//!     let mut chaos = Chaos::new(&seed, ChaosConfig::default());
//!     chaos.run_for(&mut world, Duration::from_secs(10), |world| {
//!         let mut seen = BTreeSet::new();
//!         for (_, node) in world.machines() {
//!             assert!(node.numbers.iter().all(|number| seen.insert(*number)));
//!         }
//!     });
//!     // Liveness: once all is well again, each client gets a number within a second.
//!     chaos.heal(&mut world);
//!     let count = |world: &World<Node>, host| world.host(HostId(host)).map_or(0, |node| node.numbers.len());
//!     let before = [count(&world, 1), count(&world, 2)];
//!     assert!(world.run_until(Duration::from_secs(1), |world| {
//!         count(world, 1) > before[0] && count(world, 2) > before[1]
//!     }));
//! });
//! ```
//!
//! # Modules
//!
//! | module | holds |
//! |---|---|
//! | crate root | [`World`] and what it is made of: [`Host`], [`Outbox`], [`Boot`], [`NetworkConfig`], [`SimDisk`], [`Stats`] |
//! | [`faults`] | plans of faults, with a safety and a liveness phase |
//! | [`runner`] | many seeds, the replay of a failing one, "sometimes" markers, soaks |
//! | [`contract`] | the checker of the machine contract |
//! | [`disk_contract`] | the checker of the contract of disks |

#![forbid(unsafe_code)]

mod clock;
pub mod contract;
mod disk;
pub mod disk_contract;
pub mod faults;
mod host;
mod network;
mod queue;
pub mod runner;
mod stats;
mod trace;
mod world;

pub use disk::{CrashPoint, SimDisk, Unsynced};
pub use host::{Boot, Channel, Host, HostId, Outbox};
pub use network::NetworkConfig;
pub use stats::{FaultKind, Stats};
pub use trace::{TraceEvent, TraceKind};
pub use world::World;
