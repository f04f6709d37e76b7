//! Sockets, clock and disk under a [`Node`](crate::Node), on tokio.
//!
//! A [`Daemon`] keeps a data directory, takes requests through its [`Handle`], and once its node is part of a cluster
//! drives it: management sessions over TLS, gossip, names, the log on disk, ports from any
//! [`Platform`](overlay_core::plane::Platform), and the frame path in a thread of its own.
//!
//! # An orchestrator of one's own
//!
//! A manager and an agent, each with an executor that runs tasks as whatever the orchestrator runs:
//!
//! ```
//! use std::{error::Error, net::IpAddr, sync::Arc, time::Duration};
//!
//! use overlay_core::TaskId;
//! use overlay_node::{
//!     agent::{TaskOrder, TaskReport},
//!     api::{InitRequest, JoinRequest, Request, Response, ServiceMode, ServiceSpec, TaskState},
//!     driver::{Daemon, Executor, InProcess, Options, Reports},
//! };
//!
//! struct Mine; // what starts and stops containers, virtual machines, functions, …
//!
//! impl Executor for Mine {
//!     fn start(&self, order: TaskOrder, reports: Reports) {
//!         // order.spec says what to run, order.endpoints where its network is; say so when it runs and when it ends.
//!         tokio::spawn(async move { reports.send(report(order.task, TaskState::Running)).await });
//!     }
//!
//!     fn stop(&self, task: TaskId, _grace: Duration, reports: Reports) {
//!         tokio::spawn(async move { reports.send(report(task, TaskState::Shutdown)).await });
//!     }
//! }
//!
//! fn report(task: TaskId, state: TaskState) -> TaskReport {
//!     TaskReport { task, state, message: String::new(), exit_code: None }
//! }
//!
//! async fn node(name: &str, address: [u8; 4]) -> Result<Daemon, Box<dyn Error>> {
//!     let folder = format!("overlay-doc-{}-{name}", std::process::id());
//!     let mut options = Options::new(name, std::env::temp_dir().join(folder));
//!     let address = IpAddr::from(address);
//!     (options.advertise, options.listen) = (Some(address), address);
//!     // With root, `overlay-linux`'s platform gives each task a network namespace; this one needs no privilege.
//!     Ok(Daemon::start_with(options, InProcess::new(), Arc::new(Mine)).await?)
//! }
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let (manager, agent) = (node("manager", [127, 92, 0, 1]).await?, node("agent", [127, 92, 0, 2]).await?);
//! let made = manager.handle().request(Request::Init(InitRequest::default())).await?;
//! let Response::Joined(made) = made else { unreachable!() };
//! let token = made.worker_token.ok_or("a manager has tokens")?;
//! let join = JoinRequest { token: token.token, remote: token.remote, advertise: None };
//! agent.handle().request(Request::Join(join)).await?;
//!
//! let mut service = ServiceSpec { name: "web".into(), mode: ServiceMode::Replicated(4), ..ServiceSpec::default() };
//! service.task.command = vec!["serve".into()];
//! manager.handle().request(Request::ServiceCreate(Box::new(service))).await?;
//! loop {
//!     let Response::Services(services) = manager.handle().request(Request::ServiceList).await? else { continue };
//!     if services[0].running == 4 {
//!         break; // `TaskList` says where each runs; `Events` what changed
//!     }
//!     tokio::time::sleep(Duration::from_millis(20)).await;
//! }
//! # for (daemon, name) in [(manager, "manager"), (agent, "agent")] {
//! #     daemon.handle().shutdown().await;
//! #     daemon.stopped().await?;
//! #     std::fs::remove_dir_all(std::env::temp_dir().join(format!("overlay-doc-{}-{name}", std::process::id())))?;
//! # }
//! # Ok::<(), Box<dyn Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn Error>>(())
//! ```

mod active;
mod admission;
mod bootstrap;
mod capture;
mod clock;
mod daemon;
mod diagnosis;
mod doorstep;
mod error;
mod executor;
mod ingress;
mod inprocess;
mod keeping;
mod log;
mod logs;
mod lookup;
mod membership;
mod names;
mod opening;
mod plane;
mod platform;
mod renewal;
mod session;
mod store;
mod waiting;

pub use capture::{CaptureOptions, Captured};
pub use daemon::{Daemon, Handle, Options};
pub use diagnosis::{Finding, Health};
pub use error::{StartError, StopError};
pub use executor::{Executor, NoTasks, Reports};
pub use inprocess::{InProcess, InProcessPort, PingError};
pub use logs::{LogClosed, LogLine, LogOptions, LogSink, Logs, logs};
pub use lookup::LookupOptions;
pub use overlay_raft::driver::FileDisk;
pub use plane::PortIo;
pub use store::StoreError;
