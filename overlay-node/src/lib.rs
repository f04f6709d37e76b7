//! The overlay crates put together: a node of a cluster as one machine.
//!
//! A [`Node`] owns consensus and cluster state (on managers), the agent that runs what was assigned, gossip, and names.
//! [`plane::Plane`] is the frame path beside it. Neither touches a socket, a clock or a disk: the feature `tokio` has a
//! `driver` that does, and the feature `sim` runs the very same value, a whole cluster of it, on virtual time.
//!
//! It starts no programs itself: an orchestrator attaches endpoints and does with them what it likes, or hands an executor
//! to the driver, which runs the tasks of services. `driver` shows how, in fewer than 60 lines.
//!
//! # The drive loop
//!
//! One node that makes a cluster of its own and answers a request, with a disk that is always quick:
//!
//! ```
//! use overlay_core::{Instant, Machine as _, NetworkId, NodeId, Seed};
//! use overlay_node::{Boot, Config, ManagerBoot, Node, Output, Reply, RequestToken, api, state};
//! use overlay_raft::{RaftId, Restored};
//!
//! let (seed, mut now) = (Seed::from_u64(1), Instant::EPOCH);
//! let mut rng = seed.derive("identities").rng();
//! let config = Config::new(NodeId::random(&mut rng), "one", [127, 0, 0, 1].into());
//! let first = state::ClusterSeed::generate(&mut rng, &config, "certificate".into(), "key".into());
//! let raft = RaftId::new(1).unwrap();
//! let manager = ManagerBoot { raft, cluster: first.id, epoch: 0, restored: Restored::bootstrap([raft]) };
//! let boot = Boot { memory: Default::default(), manager: Some(manager), seeds: Vec::new() };
//! let mut node = Node::new(config.clone(), seed, now, boot)?;
//!
//! node.initialize(now, RequestToken(1), first);
//! let create = api::NetworkCreate { name: "my-net".into(), attachable: true, ..Default::default() };
//! node.request(now, RequestToken(2), api::Request::NetworkCreate(create));
//!
//! let mut created = None;
//! while created.is_none() {
//!     while let Some(output) = node.poll_output() {
//!         match output {
//!             Output::Persist(batch) => {
//!                 let (_write, ticket) = batch.into_parts(); // a real driver writes and syncs here
//!                 node.handle_persisted(now, ticket);
//!             }
//!             Output::Reply { token: RequestToken(2), result } => created = Some(result),
//!             _ => {} // a real driver sends, makes ports and answers queries
//!         }
//!     }
//!     now = node.poll_timeout().expect("a node always has a deadline").max(now);
//!     node.handle_timeout(now);
//! }
//! let Some(Ok(Reply::Api(api::Response::Networks(networks)))) = created else { panic!() };
//! assert_eq!(networks[0].subnets[0].subnet.to_string(), "10.0.1.0/24");
//! # Ok::<(), overlay_node::NodeError>(())
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`state`] | the replicated state and its commands |
//! | [`api`] | requests and answers of the local API |
//! | [`agent`] | what a node has to run and to know |
//! | [`plane`] | the frame path |
//! | [`identity`] | join tokens, leases; certificates and TLS behind `tokio` |
//! | [`scheduler`] | which tasks there shall be, and where |
//! | [`wire`] | what nodes say to each other |
//! | `driver` | sockets, clock and disk, behind `tokio` |
//! | `sim` | the cluster in a box, behind `sim` |

#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
mod config;
pub mod identity;
mod manager;
mod node;
pub mod plane;
pub mod scheduler;
mod secret;
pub mod state;
#[cfg(any(feature = "sim", feature = "tokio"))]
mod stub;
pub mod wire;

#[cfg(feature = "tokio")]
pub mod driver;
#[cfg(feature = "sim")]
pub mod sim;

pub use config::{Config, Timers, WayOutConfig};
pub use node::{
    Beginning, Boot, Event, ManagerBoot, Node, NodeError, Output, Peer, Reply, RequestToken, group,
};
