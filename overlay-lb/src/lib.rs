//! A layer-4 balancer behind virtual addresses, as a value that is handed frames and the time.
//!
//! A [`Balancer`] holds virtual addresses with weighted backends, chooses one for each new flow (Maglev's consistent
//! hash, weighted round robin, least connections; affinity by client and near backends first, if wanted), and keeps a
//! bounded table of flows, so that a connection stays where it is when backends come, drain and go. It is a
//! [`Machine`](overlay_core::Machine).
//!
//! In a frame path, [`Balancer::handle_outbound`] takes each frame that an endpoint sends and
//! [`Balancer::handle_inbound`] each that it is to get: they rewrite IPv4 and IPv6, TCP and UDP in place, ICMP errors and
//! fragments with them, and answer with a reset, port unreachable or an echo reply where nobody else would. Where the
//! rewriting is done elsewhere, [`Balancer::choose_tcp`] says whereto. [`Drains`] is the other side: whoever runs a
//! backend learns from all balancers that it may stop. Where connections are relayed instead of rewritten, [`proxy`] tells
//! the backend who the client is.
//!
//! A client that reaches a backend by the virtual address and directly, both from one port at once, has two connections
//! that look the same to the backend, and at most one of them works: the balancer knows only the one by the virtual
//! address, for it tracks no frame that it passes. Fragments that come before the first of their packet are dropped unless
//! [`Config::fragments_held_max`] says otherwise, and those of replies go on as they are.
//!
//! It does not check whether backends answer: their state comes in by [`Balancer::set_state`]. It does not resolve
//! addresses: who answers for a virtual address's link address is the switch's business.
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
//! In a frame path:
//!
//! ```
//! use overlay_core::Instant;
//! use overlay_lb::{Balancer, PartialChecksum, Verdict};
//!
//! /// A frame as a virtual interface gives it: octets, and what its sender left to the device.
//! fn from_endpoint(balancer: &mut Balancer, now: Instant, frame: &mut [u8], partial: Option<PartialChecksum>) {
//!     match balancer.handle_outbound(now, frame, partial) {
//!         Verdict::Pass | Verdict::Backend { addressed: true, .. } => forward(frame),
//!         Verdict::Backend { address, .. } => forward(resolve(frame, address)),
//!         Verdict::Answer(answer) => to_endpoint(answer),
//!         Verdict::Hairpin | Verdict::Client => to_endpoint(frame),
//!         Verdict::Held => {} // comes back as an output, if the configuration allows it
//!         Verdict::Drop(_reason) => {} // count it
//!     }
//! }
//! # fn forward(frame: &[u8]) {}
//! # fn resolve(frame: &mut [u8], address: std::net::SocketAddr) -> &[u8] { frame }
//! # fn to_endpoint(frame: &[u8]) {}
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `vip` | [`Vip`], [`Backend`], [`FlowKey`], …: the words |
//! | `balancer` | [`Balancer`], its outputs and its errors |
//! | `frame`, `wire` | the frame path: [`Verdict`], rewriting, answers; headers and checksums |
//! | `service` | one virtual address: the policies |
//! | `maglev` | [`Maglev`]: the consistent hash, of use alone, too |
//! | `flows`, `index`, `affinity`, `addresses` | the flow table, its index by hash, clients' last backends, which addresses are virtual |
//! | `fragments`, `held` | the ways of fragmented packets, fragments that came before their first one |
//! | `reset` | [`Reset`]: both ends of a connection that has to go hear of it |
//! | `drain` | [`Drains`]: draining by acknowledgement |
//! | [`proxy`] | the PROXY protocol: who the client of a relayed connection is |
//! | `config` | [`Config`], [`Timeouts`] |
//! | `hash` | keyed hashes |

#![forbid(unsafe_code)]

mod addresses;
mod affinity;
mod balancer;
mod config;
mod drain;
mod flows;
mod fragments;
mod frame;
mod hash;
mod held;
mod index;
mod maglev;
mod openings;
pub mod proxy;
mod reset;
mod service;
mod vip;
mod wire;

pub use balancer::{BackendError, Balancer, Choice, Event, Output, Reject, Stats, VipError};
pub use config::{Config, ConfigError, Timeouts};
pub use drain::{DrainConfig, DrainError, DrainOutput, Drains};
pub use flows::Sequence;
pub use frame::{DropReason, PartialChecksum, Verdict};
pub use maglev::Maglev;
pub use overlay_core::plane::{Distance, Locality, Policy, VipConfig};
pub use reset::Reset;
pub use vip::{Backend, BackendId, BackendState, FlowKey, Protocol, TcpFlags, Vip};
