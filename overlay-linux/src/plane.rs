//! The kernel plane of networks.

mod check;
mod compile;
mod devices;
mod filter;
mod guard;
mod host;
mod kernel;
mod namespace;
mod plan;
mod reconciler;
mod rows;
mod tables;
#[cfg(test)]
mod tests;
mod watch;

pub use check::{Obstacle, check};
pub use compile::{Refused, Underlay, Wanted, compile};
pub use host::{Drops, Host};
pub use kernel::Kernel;
pub use namespace::SwitchNamespace;
pub use plan::{About, Operation, missing, plan};
pub use reconciler::{Reconciler, Report, Stats};
pub use tables::{
    Device, Hop, Kind, Membership, Place, Rules, Tables, Tunnel, bridge_name, port_name, vxlan_name,
};
pub use watch::Watch;
