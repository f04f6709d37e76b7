//! Sans-IO SWIM membership on memberlist's wire, with per-network tables.
//!
//! [`Gossip`] is one member of a cluster. It is handed datagrams, the octets of streams and the time, and hands back
//! what to send and what happened. Members find each other by push/pull on streams, probe one another by ping and
//! indirect ping, suspect and refute (SWIM), with Lifeguard's local health, confirmations and nacks. What goes over the
//! wire are memberlist's messages, so that a cluster may have members of other make. Clusters that were split merge.
//!
//! On top it keeps a table for each network: which endpoint, with which addresses and names, is behind which VTEP.
//! Only members that joined a network get its rows; rows of a member that is Down are hidden, and shown again after it
//! came back and confirmed them. Rows carry a signed lease, which is verified once.
//!
//! It opens no socket, reads no clock and has no cipher: the driver owns the sockets (feature `tokio` has one), the
//! caller tells the time, and the cipher comes through [`overlay_core::aead`]. It does not agree on anything:
//! membership and rows converge, and may differ for a while.
//!
//! # Whom it trusts
//!
//! Who does not hold a key of the cluster's ring is not heard: what it sends is counted, and changes nothing. Who holds one
//! is a member, and believed in what it says of itself. With a [`MemberVerifier`] it has to prove its name and address, so
//! that a member which was taken over can speak for itself alone; the trait says what that leaves it. Without one,
//! as with memberlist, every member can speak for those that are not there.
//!
//! # The loop that drives it
//!
//! ```
//! use std::{collections::VecDeque, net::SocketAddr, time::Duration};
//! use overlay_core::{Instant, Machine, Seed};
//! use overlay_gossip::{Config, Gossip, Output, StreamId};
//!
//! // Two members, and a "network" that is a queue. A driver has sockets in its place.
//! let addresses: [SocketAddr; 2] = ["192.0.2.1:7946".parse()?, "192.0.2.2:7946".parse()?];
//! let mut now = Instant::EPOCH;
//! let mut members: Vec<Gossip> = Vec::new();
//! for (at, address) in addresses.iter().enumerate() {
//!     let config = Config::lan(format!("node-{at}"), *address);
//!     members.push(Gossip::new(config, Seed::from_u64(at as u64), now)?);
//! }
//! members[1].join(now, &addresses[..1]);
//!
//! let mut wire: VecDeque<(usize, Output)> = VecDeque::new();
//! let other = |id: StreamId| match id {
//!     StreamId::Dialled(number) => StreamId::Accepted(number), // with two members there is only one other
//!     StreamId::Accepted(number) => StreamId::Dialled(number),
//! };
//! while members.iter().any(|member| member.members().count() < 2) {
//!     for (at, member) in members.iter_mut().enumerate() {
//!         member.handle_timeout(now);
//!         wire.extend(std::iter::from_fn(|| member.poll_output()).map(|output| (at, output)));
//!     }
//!     while let Some((from, output)) = wire.pop_front() {
//!         let (peer, source) = (1 - from, addresses[from]);
//!         match output {
//!             Output::Datagram { bytes, .. } => {
//!                 // Malformed datagrams are counted by the machine; there is nothing else to do about them.
//!                 members[peer].handle_datagram(now, source, &bytes).ok();
//!             }
//!             Output::Dial { stream, .. } => {
//!                 members[from].handle_stream_connected(now, stream);
//!                 members[peer].handle_stream_opened(now, other(stream), source);
//!             }
//!             Output::StreamSend { stream, bytes } => {
//!                 members[peer].handle_stream_data(now, other(stream), &bytes);
//!             }
//!             Output::StreamClose { stream } => members[peer].handle_stream_closed(now, other(stream)),
//!             Output::Event(event) => println!("{now}: {event:?}"),
//!         }
//!         let member = &mut members[peer];
//!         wire.extend(std::iter::from_fn(|| member.poll_output()).map(|output| (peer, output)));
//!     }
//!     let next = members.iter().filter_map(|member| member.poll_timeout()).min();
//!     now = next.expect("a member that has somebody to probe has a deadline");
//! }
//! assert!(now < Instant::EPOCH + Duration::from_secs(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | memberlist's messages, packets and streams as octets |
//! | `gossip` | [`Gossip`]: membership, probes, dissemination, streams, healing |
//! | `table` | the tables: [`Row`], [`Lease`], news, digests, renewal after a restart |
//! | `roster`, `suspicion`, `awareness`, `queue` | members; Lifeguard's suspicion and local health; broadcasts |
//! | `claim` | [`MemberClaim`], [`MemberVerifier`] |
//! | `keyring` | [`Keyring`] |
//! | `config` | [`Config`], [`Timing`], [`Limits`] |
//! | `driver` (feature `tokio`) | the sockets, and a loop of a few lines |

#![forbid(unsafe_code)]

// Files that the tests in here share with those in `tests/`.
#[cfg(test)]
extern crate self as overlay_gossip;

mod awareness;
mod claim;
mod config;
#[cfg(feature = "tokio")]
pub mod driver;
mod error;
mod gossip;
mod keyring;
mod member;
mod output;
mod queue;
mod roster;
mod stats;
mod suspicion;
mod table;
pub mod wire;

pub use claim::{MemberClaim, MemberVerifier};
pub use config::{Config, LABEL_BYTES_MAX, Limits, META_BYTES_MAX, NAME_BYTES_MAX, Timing};
pub use error::{ConfigError, DecodeError, KeyError, RowError, SendError};
pub use gossip::Gossip;
pub use keyring::{KEYS_MAX, Keyring};
pub use member::{Incarnation, Member, MemberState, Name};
pub use output::{Event, Output, StreamId};
pub use stats::{Stats, TableStats};
pub use table::{Lease, LeaseVerifier, PortMapping, Protocol, ROW_BYTES_MAX, Row, RowState};
