//! The daemon: in a cluster or not yet, one loop that takes requests and drives the node if there is one.

use std::{
    net::{IpAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use overlay_core::{
    Rng, TaskId,
    plane::{Change, DataPath, Platform},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    PortIo,
    active::{ANY, Active},
    capture::{CaptureOptions, Captured},
    clock::{self, Clock},
    diagnosis::Finding,
    error::{StartError, StopError},
    executor::{Executor, NoTasks},
    logs::{LogAsk, LogOptions, Logs},
    lookup::LookupOptions,
    platform::{Planned, PlatformThread, ResolverSockets},
    store::Store,
};
use crate::{
    Timers, WayOutConfig,
    api::{self, ErrorKind, Info, LocalState, Request, Resources, Response},
    plane::Found,
};

/// How a daemon is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its host's name, for people.
    pub name: String,
    /// Where it keeps its log and identity; made if it does not exist.
    pub data_dir: PathBuf,
    /// The address that other nodes reach it at, unless `init` or `join` gives one.
    pub advertise: Option<IpAddr>,
    /// The address that it listens on. Default: all of IPv4.
    pub listen: IpAddr,
    /// TCP port for cluster management. Default 2377.
    pub management_port: u16,
    /// TCP and UDP port for gossip. Default 7946.
    pub gossip_port: u16,
    /// UDP port for VXLAN. Default 4789; all nodes use the same.
    pub data_port: u16,
    /// The port of UDP that carries encrypted networks, the same on all nodes. Default 4500. Where it is not to be had, such
    /// networks are refused, and all others are carried.
    pub esp_port: u16,
    /// A socket that is bound to the data port already, in another network namespace for instance: so that a daemon without any
    /// right over the host's network has a way to other nodes. All frames leave by it. Default: the daemon opens one, and
    /// some more to send by.
    pub data_socket: Option<Arc<UdpSocket>>,
    /// By which plane networks are carried: see [`Config::data_path`](crate::Config::data_path). By the kernel's, the data
    /// port is left to it. Default: the one in user space.
    pub data_path: DataPath,
    /// Whether the platform's kernel plane seals encrypted networks, too; of no matter where networks are carried in user
    /// space. If not, they are carried there, as they have a port of their own. Default: it does not.
    pub kernel_seals: bool,
    /// MTU of the underlay, in octets. Default: that of the interface with the node's address, 1500 where the platform does
    /// not know it.
    pub underlay_mtu: Option<u16>,
    /// How long the frame path looks for frames before it waits for them. One processor is busy for that long after each
    /// frame: round trips are longer if it is needed for something else. Default: not at all.
    pub busy_poll: Duration,
    /// The way out of endpoints whose networks are not internal. Default: there is none.
    pub way_out: Option<WayOutConfig>,
    /// What the host has to give to tasks. Default: it does not say, and counts as having enough of everything.
    pub resources: Resources,
    /// Where the host has routes to, besides the default one: subnets that are chosen for networks keep clear of them.
    /// Default: none.
    pub routes: Vec<IpNet>,
    /// How often and how long.
    pub timers: Timers,
}

impl Options {
    /// Makes options with the default of each field.
    pub fn new(name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            data_dir: data_dir.into(),
            advertise: None,
            listen: ANY,
            management_port: 2_377,
            gossip_port: 7_946,
            data_port: 4_789,
            esp_port: 4_500,
            data_socket: None,
            data_path: DataPath::User,
            kernel_seals: false,
            underlay_mtu: None,
            busy_poll: Duration::ZERO,
            way_out: None,
            resources: Resources::default(),
            routes: Vec::new(),
            timers: Timers::default(),
        }
    }
}

enum Call {
    Request(Request, oneshot::Sender<Result<Response, api::Error>>),
    Capture(
        CaptureOptions,
        oneshot::Sender<Result<Captured, api::Error>>,
    ),
    Plan(oneshot::Sender<Result<Vec<Change>, api::Error>>),
    Diagnose(oneshot::Sender<Result<Vec<Finding>, api::Error>>),
    Lookup(
        LookupOptions,
        oneshot::Sender<Result<oneshot::Receiver<Vec<Found>>, api::Error>>,
    ),
    Logs(LogAsk, oneshot::Sender<Result<Logs, api::Error>>),
    Shutdown(oneshot::Sender<()>),
}

/// A running daemon. It stops when all its handles are gone, or when it is told to.
#[derive(Debug)]
pub struct Daemon {
    handle: Handle,
    task: JoinHandle<Result<(), StopError>>,
}

/// Takes requests to a daemon.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Call>);

impl Daemon {
    /// Opens the data directory and goes on as what it says; on an empty one, waits for `init` or `join`, and on a locked one
    /// for `unlock`. The node runs no tasks.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start<P>(options: Options, platform: P) -> Result<Self, StartError>
    where
        P: Platform<Sockets = ResolverSockets> + Send + 'static,
        P::Port: PortIo,
    {
        Self::start_with(options, platform, Arc::new(NoTasks)).await
    }

    /// As [`start`](Self::start), on a node that runs tasks.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start_with<P>(
        options: Options,
        platform: P,
        executor: Arc<dyn Executor>,
    ) -> Result<Self, StartError>
    where
        P: Platform<Sockets = ResolverSockets> + Send + 'static,
        P::Port: PortIo,
    {
        let store = Arc::new(Store::open(&options.data_dir)?);
        let platform = PlatformThread::start(platform).map_err(|error| StartError::Thread {
            what: "platform",
            error,
        })?;
        let seed = clock::entropy().map_err(|error| StartError::Entropy {
            reason: error.to_string(),
        })?;
        let clock = Clock::start();
        let mut supervisor = Supervisor {
            rng: seed.derive("daemon").rng(),
            options,
            locked: store.is_locked(),
            store,
            platform,
            executor,
            clock,
            active: None,
        };
        if supervisor.locked {
            tracing::warn!(
                "the data directory is locked: run `unlock` with the cluster's unlock key"
            );
        } else {
            supervisor.resume().await?;
        }
        let (calls, received) = mpsc::channel(CALLS_MAX);
        let task = tokio::spawn(supervisor.run(received));
        Ok(Self {
            handle: Handle(calls),
            task,
        })
    }

    /// Returns a handle.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until the daemon has stopped.
    ///
    /// # Errors
    ///
    /// [`StopError`] if it stopped by itself.
    pub async fn stopped(self) -> Result<(), StopError> {
        drop(self.handle);
        self.task.await.unwrap_or_else(|error| {
            let reason = format!("its task ended ({error})");
            Err(StopError::Storage { reason })
        })
    }
}

impl Handle {
    /// Asks the daemon for something and waits for the answer.
    ///
    /// # Errors
    ///
    /// [`api::Error`]: what was wrong and what to do next.
    pub async fn request(&self, request: Request) -> Result<Response, api::Error> {
        let (reply, answer) = oneshot::channel();
        let stopped = || api::Error::new(ErrorKind::Unavailable, "the daemon is stopping");
        self.0
            .send(Call::Request(request, reply))
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Reads what a task has written, also one of another node where this one is a manager.
    ///
    /// # Errors
    ///
    /// [`api::Error`]: what was wrong and what to do next; of a task that turns out not to be readable, the lines end with it.
    pub async fn logs(&self, task: TaskId, options: LogOptions) -> Result<Logs, api::Error> {
        let (reply, answer) = oneshot::channel();
        let stopped = || api::Error::new(ErrorKind::Unavailable, "the daemon is stopping");
        let call = Call::Logs(LogAsk { task, options }, reply);
        self.0.send(call).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Captures the frames of a network on this node until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// [`api::Error`]: what was wrong and what to do next.
    pub async fn capture(&self, options: CaptureOptions) -> Result<Captured, api::Error> {
        let (reply, answer) = oneshot::channel();
        let stopped = || api::Error::new(ErrorKind::Unavailable, "the daemon is stopping");
        let call = Call::Capture(options, reply);
        self.0.send(call).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Says what would be done now for the system to hold what it carries of the data plane; changes nothing.
    ///
    /// # Errors
    ///
    /// [`api::Error`]: what was wrong and what to do next.
    pub async fn plan(&self) -> Result<Vec<Change>, api::Error> {
        let (reply, answer) = oneshot::channel();
        let stopped = || api::Error::new(ErrorKind::Unavailable, "the daemon is stopping");
        self.0
            .send(Call::Plan(reply))
            .await
            .map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Looks for what is amiss with the node and its surroundings: peers, paths, ports, tables, the clock. Takes a few
    /// seconds where something does not answer.
    ///
    /// # Errors
    ///
    /// [`api::Error`]: what was wrong and what to do next.
    pub async fn diagnose(&self) -> Result<Vec<Finding>, api::Error> {
        let (reply, answer) = oneshot::channel();
        let stopped = || api::Error::new(ErrorKind::Unavailable, "the daemon is stopping");
        let call = Call::Diagnose(reply);
        self.0.send(call).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Looks addresses of a network up in the tables of this node's frame path; one answer for each, in their order.
    ///
    /// # Errors
    ///
    /// [`api::Error`]: what was wrong and what to do next, also where the system carries the network.
    pub async fn lookup(&self, options: LookupOptions) -> Result<Vec<Found>, api::Error> {
        let (reply, answer) = oneshot::channel();
        let stopped = || api::Error::new(ErrorKind::Unavailable, "the daemon is stopping");
        let call = Call::Lookup(options, reply);
        self.0.send(call).await.map_err(|_| stopped())?;
        let found = answer.await.map_err(|_| stopped())??;
        found.await.map_err(|_| stopped())
    }

    /// Stops the daemon; what it runs goes on where the platform lets it.
    pub async fn shutdown(&self) {
        let (reply, answer) = oneshot::channel();
        if self.0.send(Call::Shutdown(reply)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle(..)")
    }
}

/// What holds the node, if there is one, and makes and ends it.
pub(super) struct Supervisor {
    pub(super) options: Options,
    pub(super) store: Arc<Store>,
    pub(super) platform: PlatformThread,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) active: Option<Box<Active>>,
    /// Whether there is a node to go on as, once the unlock key is given.
    pub(super) locked: bool,
}

impl Supervisor {
    async fn run(mut self, mut calls: mpsc::Receiver<Call>) -> Result<(), StopError> {
        loop {
            if let Some(failure) = self.active.as_ref().and_then(|active| active.failure()) {
                return Err(failure.clone());
            }
            let call = match &mut self.active {
                None => calls.recv().await,
                Some(active) => tokio::select! {
                    call = calls.recv() => call,
                    () = active.step() => {
                        if active.is_removed() {
                            self.removed().await?;
                        }
                        continue;
                    }
                },
            };
            match call {
                None => return Ok(()),
                Some(Call::Shutdown(reply)) => {
                    if let Some(active) = &mut self.active {
                        active.retire().await;
                    }
                    if let Some(active) = self.active.take() {
                        active.stop().await;
                    }
                    let _ = reply.send(());
                    return Ok(());
                }
                Some(Call::Capture(options, reply)) => {
                    let begun = match &self.active {
                        Some(active) => active.capture(&options),
                        None => Err(self.not_active()),
                    };
                    // Whoever asked may have gone away.
                    let _ = reply.send(begun);
                }
                Some(Call::Plan(reply)) => self.plan(reply),
                Some(Call::Diagnose(reply)) => {
                    let patient = self.active.as_ref().map(|active| active.diagnosis());
                    let patient = patient.ok_or_else(|| self.not_active());
                    tokio::spawn(async move {
                        let findings = match patient {
                            Ok(patient) => Ok(patient.examine().await),
                            Err(error) => Err(error),
                        };
                        // Whoever asked may have gone away.
                        let _ = reply.send(findings);
                    });
                }
                Some(Call::Lookup(options, reply)) => {
                    let asked = match &self.active {
                        Some(active) => active.lookup(options),
                        None => Err(self.not_active()),
                    };
                    // Whoever asked may have gone away.
                    let _ = reply.send(asked);
                }
                Some(Call::Logs(ask, reply)) => {
                    let found = match &self.active {
                        Some(active) => active.logs(ask),
                        None => Err(self.not_active()),
                    };
                    // Whoever asked may have gone away.
                    let _ = reply.send(found);
                }
                Some(Call::Request(request, reply)) => self.serve(request, reply).await,
            }
        }
    }

    fn plan(&self, reply: oneshot::Sender<Planned>) {
        match &self.active {
            Some(active) => {
                let desired = Arc::clone(active.node().desired());
                self.platform.plan(desired, reply);
            }
            None => {
                // Whoever asked may have gone away.
                let _ = reply.send(Err(self.not_active()));
            }
        }
    }

    async fn serve(
        &mut self,
        request: Request,
        reply: oneshot::Sender<Result<Response, api::Error>>,
    ) {
        let result = match (request, &mut self.active) {
            (Request::Unlock { key }, None) => self.unlock(&key).await,
            (Request::Unlock { .. }, Some(_)) => Ok(Response::Done),
            (Request::Leave { force: true }, None) if self.locked => self.forget(),
            (Request::Info, None) => Ok(Response::Info(Box::new(self.info()))),
            (_, None) if self.locked => Err(self.not_active()),
            (Request::Leave { force }, Some(_)) => self.leave(force).await,
            (Request::Init(init), Some(_)) if init.force_new_cluster => self.recover(init).await,
            (request, Some(active)) => return active.request(request, reply),
            (Request::Init(init), None) => self.init(init).await,
            (Request::Join(join), None) => self.join(join).await,
            (_, None) => Err(not_a_member()),
        };
        // Whoever asked may have gone away.
        let _ = reply.send(result);
    }

    /// Says why there is no node that could do what was asked.
    fn not_active(&self) -> api::Error {
        match self.locked {
            true => locked(),
            false => not_a_member(),
        }
    }

    fn info(&self) -> Info {
        Info {
            state: match self.locked {
                true => LocalState::Locked,
                false => LocalState::Inactive,
            },
            name: self.options.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: None,
            cluster: None,
            role: None,
            address: self.options.advertise,
            leader: None,
            managers: Vec::new(),
            nodes_alive: 0,
            endpoints: 0,
            applied: None,
            warnings: Vec::new(),
        }
    }
}

fn locked() -> api::Error {
    let text = "this manager is locked since its daemon was started: run `unlock` with the key that `unlock-key` shows on another \
                manager; if the key is lost, `leave --force` erases what this node knows";
    api::Error::new(ErrorKind::Locked, text)
}

fn not_a_member() -> api::Error {
    let text = "this node is not part of a cluster: run `init` to make one, or `join` to join one";
    api::Error::new(ErrorKind::NotMember, text)
}

/// How many requests may wait; their senders wait then.
const CALLS_MAX: usize = 1_024;
