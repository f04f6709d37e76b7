//! Deterministic simulation for sans-IO machines: virtual clock, network and disks with faults.

#![forbid(unsafe_code)]

mod clock;
pub mod contract;
mod disk;
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
