//! Sans-IO DNS: zones from endpoints and services, answers, forwarding.

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
mod query;
mod records;
mod reply;
mod resolver;
mod reverse;
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
