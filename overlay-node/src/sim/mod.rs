//! The whole cluster in a box: nodes, disks, frame paths and endpoints on virtual time.
//!
//! ```
//! use std::time::Duration;
//! use overlay_core::Seed;
//! use overlay_node::{api, sim::{Cluster, Options}};
//!
//! let mut cluster = Cluster::new(Options::new(Seed::from_u64(1), 3));
//! assert!(cluster.settle(Duration::from_secs(10)), "three hosts are one cluster");
//! let network = api::NetworkCreate { name: "my-net".into(), attachable: true, ..Default::default() };
//! cluster.ask(0, api::Request::NetworkCreate(network)).unwrap();
//! let one = cluster.attach(1, "my-net", "alpine1").unwrap();
//! let two = cluster.attach(2, "my-net", "alpine2").unwrap();
//! cluster.run_for(Duration::from_millis(500));
//! assert_eq!(cluster.resolve(1, one.id, "alpine2"), [two.addresses[0].addr()]);
//! assert!(cluster.ping(1, one.id, two.addresses[0].addr()));
//! ```

mod check;
mod cluster;
mod host;
mod packet;
mod policy;

pub use check::Violation;
pub use cluster::{Cluster, Options};
pub use host::{Effect, SimHost};
