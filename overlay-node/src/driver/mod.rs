//! Sockets, clock and disk under a [`Node`](crate::Node), on tokio.
//!
//! A [`Daemon`] keeps a data directory, takes requests through its [`Handle`], and once its node is part of a cluster
//! drives it: management sessions over TLS, gossip, names, the log on disk, ports from any
//! [`Platform`](overlay_core::plane::Platform), and the frame path in a thread of its own.

mod active;
mod admission;
mod bootstrap;
mod clock;
mod daemon;
mod disk;
mod error;
mod executor;
mod ingress;
mod inprocess;
mod log;
mod logs;
mod membership;
mod names;
mod opening;
mod plane;
mod platform;
mod session;
mod store;
mod waiting;

pub use daemon::{Daemon, Handle, Options};
pub use disk::FileDisk;
pub use error::{StartError, StopError};
pub use executor::{Executor, NoTasks, Reports};
pub use inprocess::{InProcess, InProcessPort, PingError};
pub use logs::{LogClosed, LogLine, LogOptions, LogSink, Logs, logs};
pub use plane::PortIo;
pub use store::StoreError;
