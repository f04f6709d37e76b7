//! Sockets, clock and disk around a [`Raft`](crate::Raft), on tokio.
//!
//! A [`Member`] is the whole of it: it listens for its peers and dials them, keeps its log in a directory, drives the machine,
//! and replicates an [`Application`]. What follows is a cluster of one. Of three, each is told the same three addresses and 7, the number
//! by which members of different clusters refuse each other; whoever does not lead refuses proposals and says who does
//! ([`ProposeError::leader`](crate::ProposeError::leader)).
//!
//! ```
//! use std::{collections::BTreeMap, error::Error, net::SocketAddr};
//!
//! use bytes::Bytes;
//! use overlay_raft::{Config, Index, RaftId, ReadMode, driver::{Application, Member, Start}};
//!
//! #[derive(Default)]
//! struct Counter(u64);
//!
//! impl Application for Counter {
//!     type Answer = u64;
//!
//!     fn apply(&mut self, _index: Index, _command: &Bytes) -> u64 {
//!         self.0 += 1;
//!         self.0
//!     }
//!
//!     fn snapshot(&self) -> Bytes {
//!         Bytes::copy_from_slice(&self.0.to_le_bytes())
//!     }
//!
//!     fn restore(&mut self, snapshot: &Bytes) {
//!         self.0 = snapshot.as_ref().try_into().map(u64::from_le_bytes).unwrap_or_default();
//!     }
//! }
//!
//! # fn free_port() -> std::io::Result<u16> {
//! #     Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
//! # }
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let port = free_port()?;
//! # let directory = std::env::temp_dir().join(format!("overlay-raft-doc-{}", std::process::id()));
//! let id = RaftId::new(1).ok_or("not zero")?;
//! let peers = BTreeMap::from([(id, SocketAddr::from(([127, 0, 0, 1], port)))]);
//! // `Start::Resume` from the second time on: a directory that was lost is noticed then.
//! let member = Member::start(Start::Found, Config::new(id, 7), peers, &directory, Counter::default()).await?;
//! member.leader_known().await?; // after an election
//! let done = member.propose(Bytes::from_static(b"count")).await?;
//! assert_eq!(done.answer, 1);
//! let count = member.query(ReadMode::Quorum, |counter| counter.0).await?;
//! assert_eq!(count, 1);
//! member.shutdown().await;
//! # std::fs::remove_dir_all(directory)?;
//! # Ok::<(), Box<dyn Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn Error>>(())
//! ```
//!
//! # Addresses
//!
//! The log says who the members are, not where. A member that starts knows the addresses that it is given, and drops what is for a
//! member that it has no address of, and refuses its connections. So whoever adds members keeps their addresses where each
//! member finds them when it starts: best as a command in the application's state, as `examples/raft-kv` does, which tells
//! [`Member::set_peer`] whenever that part of the state changes.
//!
//! # What it trusts
//!
//! A connection begins with a hello: which cluster, which member speaks, which one is meant. That keeps apart what a mistake
//! in a table of addresses would mix up, and it **authenticates nobody**: whoever reaches the port may claim to be a member,
//! and a Raft member does what its peers say. Either only members reach the port, or a [`Transport`] makes sure of the peer:
//! it wraps each connection in TLS and says who the certificate names. What a stranger can do regardless is bounded: a message
//! is no longer than the settings make it ([`Config`](crate::Config)), room is made for what arrived and not for what is
//! claimed, and connections are counted ([`LinksConfig`]).
//!
//! # The parts
//!
//! Where the machine is a part of a larger one, the halves are used on their own: [`Links`] carries messages,
//! [`LogWriter`] has the log in a thread of its own, over [`FileDisk`] or any other [`Disk`](overlay_core::Disk).
//!
//! ```no_run
//! # use overlay_core::{Instant, Machine as _, Seed};
//! # use overlay_raft::{Config, Output, Raft, driver::*, storage::StorageConfig};
//! # async fn run(
//! #     config: Config,
//! #     seed: Seed,
//! #     listener: tokio::net::TcpListener,
//! #     disk: FileDisk,
//! #     clock: impl Fn() -> Instant,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let (tell, mut written) = tokio::sync::mpsc::unbounded_channel();
//! let (log, restored) = LogWriter::open(disk, StorageConfig::default(), move |what| tell.send(what).is_ok())?;
//! let (links, mut arrivals) = Links::start(LinksConfig::default(), &config, seed.derive("links"), listener, Tcp);
//! let mut raft = Raft::new(config, seed.derive("raft"), clock(), restored)?;
//! loop {
//!     while let Some(output) = raft.poll_output() {
//!         match output {
//!             Output::Persist(batch) => log.write(batch),
//!             Output::Send { to, message } => links.send(to, message),
//!             other => println!("{other:?}"), // the application's
//!         }
//!     }
//!     let pause = raft.poll_timeout().map_or(std::time::Duration::MAX, |due| due - clock());
//!     tokio::select! {
//!         biased;
//!         Some(written) = written.recv() => match written {
//!             Written::Durable(ticket) => raft.handle_persisted(clock(), ticket),
//!             Written::Failed(ticket, _) => raft.handle_persist_failed(clock(), ticket),
//!         },
//!         Some(arrival) = arrivals.recv() => for message in arrival.messages {
//!             let _ = raft.handle_message(clock(), arrival.from, message); // counted if it is refused
//!         },
//!         () = tokio::time::sleep(pause) => {}
//!     }
//!     raft.handle_timeout(clock());
//! }
//! # }
//! ```

mod accept;
mod application;
mod clock;
mod dial;
mod disk;
mod error;
mod hello;
mod links;
mod log;
mod member;
mod options;
mod run;
mod status;
mod transport;
mod waiting;

pub use application::Application;
pub use disk::FileDisk;
pub use error::{Ended, HandOverError, MembershipError, ProposalError, QueryError, StartError};
pub use links::{Arrival, Links, LinksConfig, LinksStats};
pub use log::{LogError, LogWriter, Written};
pub use member::{Applied, Member};
pub use options::{Options, Start};
pub use status::{Leading, Status};
pub use transport::{Accepted, Tcp, Transport, prepare};
