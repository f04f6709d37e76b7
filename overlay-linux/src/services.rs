//! The kernel plane of services: virtual addresses by nf_tables, for the programs of one network namespace.
//!
//! The kernel's back end of what `overlay-lb` does to each frame: the flows that programs of a namespace begin to a virtual
//! address ([`DesiredService`](overlay_core::plane::DesiredService)) are led to its backends, TCP and UDP, IPv4 and IPv6, all
//! ports. A backend that drains keeps its flows and takes no new ones. The flows of one that is gone are forgotten: of TCP,
//! the connection is ended (`ECONNABORTED`), or else its next packet is answered by a reset; of UDP, the next datagram goes to
//! a backend that is there. What is left without a backend is refused at once: by a reset, or by port unreachable.
//!
//! # What it takes, and what it refuses
//!
//! A backend is chosen by a hash of the flow over [`SLOTS`] slots, shared out by weight so that nodes agree and few slots
//! move when backends change. Policies that take turns or count are refused ([`Refused`]); locality is compiled, affinity is
//! the hash of the client's address alone. It is neither the hash nor the table of `overlay-lb`: a flow that moves from one to
//! the other changes its backend. Only what programs in the namespace itself begin, or what it forwards, is led.
//!
//! A connection that is forwarded, and any where the kernel does not end connections (`CONFIG_INET_DIAG_DESTROY`), is reset
//! only when its client next sends. A datagram that is refused is told to its sender as `EPERM`, and by the socket's next error
//! as `ECONNREFUSED`. Echo requests to a virtual address are answered by port unreachable. The kernel holds about 100 KB a virtual address with several backends
//! in each namespace.
//!
//! A node whose networks are carried in user space serves virtual addresses there, and does not need it.
//!
//! # How it is used
//!
//! [`compile`] and [`plan()`] are pure: what shall be done is a value, whatever the [`Kernel`]. [`Reconciler`] does it:
//!
//! ```no_run
//! use std::collections::BTreeMap;
//! use overlay_core::{ServiceId, plane::DesiredService};
//! use overlay_linux::services::{Netfilter, Reconciler};
//!
//! # fn services() -> BTreeMap<ServiceId, DesiredService> { BTreeMap::new() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In a thread that is in the namespace of the programs.
//! let mut reconciler = Reconciler::new(Netfilter::open()?);
//! let report = reconciler.apply(&services())?;
//! for operation in &report.operations {
//!     println!("{operation}");
//! }
//! for (service, reason) in &report.refused {
//!     println!("{service} is not served by the kernel: {reason}");
//! }
//! # Ok(())
//! # }
//! ```

mod abort;
mod flows;
mod kernel;
mod plan;
mod reconciler;
mod rules;
mod slots;
mod vip;

#[cfg(test)]
mod tests;

pub use kernel::{Kernel, Netfilter};
pub use plan::{Actual, Flow, Operation, plan};
pub use reconciler::{Reconciler, Report, Stats};
pub use slots::SLOTS;
pub use vip::{HashBy, Refused, Vip, Wanted, compile, compile_all};
