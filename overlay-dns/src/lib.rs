//! Sans-IO DNS for the endpoints of overlay networks: answers by name from a view, and forwards foreign names.
//!
//! A [`Resolver`] is told which networks each client is on ([`View`]), and which names and addresses endpoints and
//! services have in each network ([`Records`], [`ServiceRecords`]). It answers like the resolver that Docker puts at
//! 127.0.0.11 into each container, with names, aliases, `NAME.NETWORK`, `tasks.NAME`, virtual addresses and reverse
//! lookups, and unlike it with small TTLs, SOA records in negative answers, SRV, and a policy for what may leave. The
//! forwarder is part of the machine: random ids, a socket for each query, merging, fail-over, TCP after truncation, and
//! a cache.
//!
//! It does *not* open sockets (the feature `tokio` has a [socket half](#features)), follow referrals from the root,
//! validate signatures (it hands on the bits AD, CD and DO), transfer zones or take updates.
//!
//! # The loop that drives it
//!
//! ```
//! use overlay_core::{EndpointId, Instant, Machine, NetworkId, Seed};
//! use overlay_dns::{Config, Output, QueryToken, Records, Resolver, Transport, View};
//!
//! let (network, alpine) = (NetworkId::from_bytes([1; 16]), EndpointId::from_bytes([2; 16]));
//! let now = Instant::EPOCH;
//! let mut resolver = Resolver::new(Config::default(), Seed::from_u64(1), now);
//! resolver.set_network(now, network, "my-net");
//! resolver.set_client(now, alpine, View { networks: vec![network], forward: true });
//! resolver.set_upstreams(now, vec!["192.0.2.53:53".parse()?]);
//! let records = Records {
//!     names: vec!["alpine1".into()],
//!     addresses: vec!["10.0.1.2".parse()?],
//!     ..Records::default()
//! };
//! resolver.set_records(now, network, alpine, records);
//!
//! // A datagram arrived in the client's namespace: `alpine1 IN A`, id 7.
//! let query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07alpine1\x00\x00\x01\x00\x01";
//! resolver.handle_query(now, alpine, QueryToken(1), Transport::Udp, query)?;
//! while let Some(output) = resolver.poll_output() {
//!     match output {
//!         // Send `bytes` to whoever sent query `token`.
//!         Output::Answer { token, bytes, .. } => {
//!             assert_eq!(token, QueryToken(1));
//!             assert!(bytes.ends_with(&[10, 0, 1, 2]));
//!             resolver.recycle(now, bytes);
//!         }
//!         // Ask `to` from a fresh socket; hand what comes back to `handle_upstream`.
//!         Output::Forward { .. } => unreachable!("the name is ours"),
//!         // Close that socket.
//!         Output::CloseForward { .. } => {}
//!         Output::Event(event) => println!("{event:?}"),
//!     }
//! }
//! // Sleep until here, or until something arrives; then `handle_timeout`.
//! assert_eq!(resolver.poll_timeout(), None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a name is found
//!
//! A client's networks are searched in the order of its [`View`]; the first that has the name answers. `a.b.c` is
//! tried as it stands in all of them, then `a.b` in the network `c`, then `a` in the network `b.c`.
//!
//! | name | leads to |
//! |---|---|
//! | name or alias of endpoints | the addresses of all of them, each once, in random order |
//! | name of a service | its virtual addresses; without any, its tasks |
//! | `tasks.NAME` | the tasks of a service |
//! | `_port._protocol.NAME` | SRV records of the named ports |
//! | any of these, `.NETWORK` | the same, in this network only |
//! | below `in-addr.arpa`, `ip6.arpa` | primary name and network of the endpoint that has the address |
//! | below a network's name, absent | `NXDOMAIN`, see [`NetworkZones`] |
//! | reverse name in our subnets or private ranges, absent | `NXDOMAIN`, see [`Config::forward_private_reverse`] |
//! | `localhost` | the loopback address |
//! | below `invalid`, `local`, `onion`, absent | `NXDOMAIN` |
//! | anything else | forwarded, or `REFUSED` where the view forbids it |
//!
//! A name that exists answers for every type: without data of that type the answer is empty, and nothing is forwarded.
//!
//! Answers from these data ask for no memory, if their buffers come back by [`Resolver::recycle`].
//!
//! # Features
//!
//! `tokio`: the module `driver`, which owns sockets and connections and speaks to upstream servers. It reads and sends
//! datagrams in batches; threads with a resolver each may share a port.
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | messages as octets: a checked view and a writer |
//! | `resolver` | the machine |
//! | `query` | a client's query, and what is wrong with it |
//! | `directory`, `reverse`, `special` | where a name leads |
//! | `zone`, `holder`, `names`, `sorted` | what a network has, in little memory |
//! | `answer`, `compose` | answers from our own data |
//! | `forward`, `exchange`, `reply`, `cache` | upstream servers, and what they say |
//! | `driver` | the socket half (feature `tokio`) |

#![forbid(unsafe_code)]

mod answer;
mod cache;
mod compose;
mod config;
mod directory;
#[cfg(feature = "tokio")]
pub mod driver;
mod error;
mod event;
mod exchange;
mod forward;
mod holder;
mod names;
mod query;
mod records;
mod reply;
mod resolver;
mod reverse;
mod sorted;
mod special;
mod stats;
pub mod wire;
mod zone;

pub use config::{CacheConfig, Config, ForwardConfig, NetworkZones};
pub use error::{QueryError, UpstreamError};
pub use event::{Event, Failure};
pub use records::{Port, Records, ServiceRecords, View};
pub use resolver::{Output, QueryToken, Resolver, Transport, UpstreamToken};
pub use stats::Stats;
