//! Layer-4 balancing behind virtual addresses: the model and the choice of a backend.
//!
//! A [`Balancer`] holds virtual addresses with weighted backends, chooses one for each new flow (Maglev's consistent
//! hash, weighted round robin, least connections; affinity by client if wanted), and keeps a bounded table of flows, so
//! that a connection stays where it is when backends come, drain and go. It is a [`Machine`](overlay_core::Machine).
//!
//! It does not touch packets: whoever forwards them asks [`Balancer::choose_tcp`] for each one and rewrites the
//! addresses. It does not check whether backends answer: their state comes in by [`Balancer::set_state`].
//!
//! ```
//! use overlay_core::{Instant, Machine, Seed};
//! use overlay_lb::{
//!     Backend, BackendId, BackendState, Balancer, Choice, Config, Event, FlowKey, Output, Protocol, TcpFlags, Vip, VipConfig,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let now = Instant::EPOCH;
//! let mut balancer = Balancer::new(Config::default(), &Seed::from_u64(1), now)?;
//! let vip = Vip { addr: "10.0.1.2".parse()?, proto: Protocol::Tcp, port: 80 };
//! balancer.set_vip(now, vip, VipConfig::default())?;
//! for last in 3..6 {
//!     let address = format!("10.0.1.{last}:8080").parse()?;
//!     balancer.set_backend(now, vip, Backend::new(BackendId::from_bytes([last; 16]), address))?;
//! }
//!
//! // A client connects: every later segment goes to the backend of the first.
//! let flow = FlowKey { vip, client: "10.0.1.77:40000".parse()? };
//! let choice = balancer.choose_tcp(now, flow, TcpFlags::SYN);
//! let Choice::Backend { id, .. } = choice else { panic!("three backends are active") };
//!
//! // That backend shall stop: it gets no new flows, and says when the last one has ended.
//! balancer.set_state(now, vip, id, BackendState::Draining)?;
//! assert_eq!(balancer.choose_tcp(now, flow, TcpFlags::ACK), choice);
//! assert_eq!(balancer.poll_output(), None);
//! balancer.choose_tcp(now, flow, TcpFlags::RST);
//! assert_eq!(balancer.poll_output(), Some(Output::Event(Event::Drained { vip, backend: id })));
//!
//! // A driver sleeps until here, calls `handle_timeout` and drains the outputs.
//! assert!(balancer.poll_timeout().is_some());
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `vip` | [`Vip`], [`Backend`], [`FlowKey`], …: the words |
//! | `balancer` | [`Balancer`], its outputs and its errors |
//! | `service` | one virtual address: the policies |
//! | `maglev` | [`Maglev`]: the consistent hash, of use alone, too |
//! | `flows`, `index`, `affinity` | the flow table, its index by hash, clients' last backends |
//! | `config` | [`Config`], [`Timeouts`] |
//! | `hash` | a keyed hash |

#![forbid(unsafe_code)]

mod addresses;
mod affinity;
mod balancer;
mod config;
mod flows;
mod fragments;
mod frame;
mod hash;
mod index;
mod maglev;
mod reset;
mod service;
mod vip;
mod wire;

pub use balancer::{BackendError, Balancer, Choice, Event, Output, Reject, Stats, VipError};
pub use config::{Config, ConfigError, Timeouts};
pub use flows::Sequence;
pub use frame::{DropReason, PartialChecksum, Verdict};
pub use maglev::Maglev;
pub use reset::Reset;
pub use vip::{
    Backend, BackendId, BackendState, Distance, FlowKey, Locality, Policy, Protocol, TcpFlags, Vip,
    VipConfig,
};
