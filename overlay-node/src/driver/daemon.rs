//! The daemon: in a cluster or not yet, one loop that takes requests and drives the node if there is one.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use overlay_core::{NodeId, Rng, Seed, plane::Platform};
use overlay_raft::RaftId;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    PortIo,
    active::{ANY, Active},
    bootstrap,
    clock::{self, Clock},
    error::{StartError, StopError},
    executor::{Executor, NoTasks},
    platform::{PlatformThread, ResolverSockets},
    store::{Identity, Store},
};
use crate::{
    Config, Timers, WayOutConfig,
    agent::AgentMemory,
    api::{
        self, ErrorKind, Info, InitRequest, JoinRequest, Joined, LocalState, Request, Response,
        Role,
    },
    identity::{
        JoinToken,
        certificate::{self, Authority},
        tls::Credentials,
    },
    state::{AddNode, ClusterSeed, Secret},
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
    /// MTU of the underlay, in octets. Default 1500.
    pub underlay_mtu: u16,
    /// The way out of endpoints whose networks are not internal. Default: there is none.
    pub way_out: Option<WayOutConfig>,
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
            underlay_mtu: 1_500,
            way_out: None,
            timers: Timers::default(),
        }
    }
}

enum Call {
    Request(Request, oneshot::Sender<Result<Response, api::Error>>),
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
    /// Opens the data directory and goes on as what it says; on an empty one, waits for `init` or `join`. The node runs no
    /// tasks.
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
            store,
            platform,
            executor,
            clock,
            active: None,
        };
        if let Some(identity) = supervisor.store.identity()? {
            supervisor.active = Some(Box::new(supervisor.activate(identity, None).await?));
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

struct Supervisor {
    options: Options,
    store: Arc<Store>,
    platform: PlatformThread,
    executor: Arc<dyn Executor>,
    clock: Clock,
    rng: Rng,
    active: Option<Box<Active>>,
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
                    () = active.step() => continue,
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
                Some(Call::Request(request, reply)) => self.serve(request, reply).await,
            }
        }
    }

    async fn serve(
        &mut self,
        request: Request,
        reply: oneshot::Sender<Result<Response, api::Error>>,
    ) {
        let result = match (request, &mut self.active) {
            (Request::Leave { force }, Some(_)) => self.leave(force).await,
            (request, Some(active)) => return active.request(request, reply),
            (Request::Info, None) => Ok(Response::Info(Box::new(self.info()))),
            (Request::Init(init), None) => self.init(init).await,
            (Request::Join(join), None) => self.join(join).await,
            (_, None) => {
                let text = "this node is not part of a cluster: run `init` to make one, or `join` to join one";
                Err(api::Error::new(ErrorKind::NotMember, text))
            }
        };
        // Whoever asked may have gone away.
        let _ = reply.send(result);
    }

    async fn init(&mut self, init: InitRequest) -> Result<Response, api::Error> {
        let address = self.address(init.advertise)?;
        let invalid = |error: certificate::CertificateError| {
            api::Error::new(ErrorKind::Platform, error.to_string())
        };
        let (key, request) = certificate::request().map_err(invalid)?;
        let (node, unix_now) = (
            certificate::node_of(&request).map_err(invalid)?,
            Clock::unix_now(),
        );
        let config = self.config(node, address);
        let mut seed = ClusterSeed::generate(&mut self.rng, &config, String::new(), String::new());
        let authority = Authority::generate(seed.id, unix_now).map_err(invalid)?;
        seed.ca_certificate = authority.certificate().to_owned();
        seed.ca_key = Secret::any(authority.key().as_bytes().to_vec());
        seed.pools = init.pools;
        seed.pool_split = init.pool_split.unwrap_or(24);
        let certificate = authority
            .issue(&request, node, seed.id, Role::Manager, unix_now)
            .map_err(invalid)?;
        let raft = RaftId::new(1).expect("one is not zero");
        let identity = Identity {
            format: 0,
            node,
            cluster: seed.id,
            raft: Some(raft),
            address,
            credentials: Credentials {
                authority: authority.certificate().to_owned(),
                certificate,
                key: Secret::any(key.into_bytes()),
            },
            seeds: Vec::new(),
        };
        // Whatever an earlier attempt left half done.
        self.store.clear().map_err(StartError::from)?;
        let mut active = Box::new(self.activate(identity, Some(raft)).await?);
        let made = active.initialize(seed).await;
        let kept = made.and_then(|_| {
            let saved = self.store.save_identity(active.identity());
            saved.map_err(|error| StartError::from(error).into())
        });
        if let Err(error) = kept {
            active.stop().await;
            self.store.clear().map_err(StartError::from)?;
            return Err(error);
        }
        self.active = Some(active);
        self.joined(node, Role::Manager).await
    }

    async fn join(&mut self, join: JoinRequest) -> Result<Response, api::Error> {
        let token: JoinToken =
            join.token
                .parse()
                .map_err(|error: crate::identity::TokenError| {
                    api::Error::new(ErrorKind::Invalid, error.to_string())
                })?;
        let address = self.address(join.advertise)?;
        let made = certificate::request().and_then(|(key, request)| {
            let node = certificate::node_of(&request)?;
            Ok((key, request, node))
        });
        let (key, request, node) =
            made.map_err(|error| api::Error::new(ErrorKind::Platform, error.to_string()))?;
        let config = self.config(node, address);
        let admission = bootstrap::join(
            &token,
            join.remote,
            request,
            AddNode::new(&config, Role::Worker),
        )
        .await?;
        let assignment = admission.assignment.ok_or_else(|| {
            api::Error::new(
                ErrorKind::Untrusted,
                "the manager let this node in without an assignment",
            )
        })?;
        let identity = Identity {
            format: 0,
            node,
            cluster: assignment.cluster,
            raft: assignment.raft,
            address,
            credentials: Credentials {
                authority: admission.authority,
                certificate: admission.certificate,
                key: Secret::any(key.into_bytes()),
            },
            seeds: assignment
                .managers
                .iter()
                .filter(|manager| manager.node != node)
                .map(|manager| (manager.node, manager.management))
                .collect(),
        };
        let role = assignment.role;
        self.store.clear().map_err(StartError::from)?;
        let memory = AgentMemory {
            assignment: Some(*assignment),
            ..AgentMemory::default()
        };
        self.store.save_memory(&memory).map_err(StartError::from)?;
        let started = self.activate(identity.clone(), None).await;
        let kept = started.and_then(|active| {
            self.store.save_identity(&identity)?;
            Ok(active)
        });
        match kept {
            Ok(active) => self.active = Some(Box::new(active)),
            Err(error) => {
                self.store.clear().map_err(StartError::from)?;
                return Err(error.into());
            }
        }
        self.joined(node, role).await
    }

    async fn leave(&mut self, force: bool) -> Result<Response, api::Error> {
        let Some(active) = &mut self.active else {
            return Ok(Response::Done);
        };
        let alone = active.node().state().is_some_and(|state| {
            let own = active.identity().node;
            state.voters().all(|(_, manager)| manager.id == own)
        });
        if alone && !force {
            let text = "this node is the last manager: leaving ends the cluster and erases its state; use --force if that is wanted";
            return Err(api::Error::new(ErrorKind::QuorumLoss, text));
        }
        if !alone {
            let (reply, mut answer) = oneshot::channel();
            active.request(Request::Leave { force }, reply);
            let result = loop {
                match answer.try_recv() {
                    Ok(result) => break result,
                    Err(oneshot::error::TryRecvError::Empty) => active.step().await,
                    Err(oneshot::error::TryRecvError::Closed) => break Ok(Response::Done),
                }
            };
            match result {
                // With force, a node leaves a cluster that it cannot reach.
                Err(error) if !(force && error.kind == ErrorKind::Unavailable) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        for endpoint in active.node().endpoints() {
            self.platform.remove(endpoint);
        }
        if let Some(active) = self.active.take() {
            active.stop().await;
        }
        self.store.clear().map_err(StartError::from)?;
        Ok(Response::Done)
    }

    async fn activate(
        &mut self,
        identity: Identity,
        first: Option<RaftId>,
    ) -> Result<Active, StartError> {
        let seed = Seed::from_bytes(self.rng.bytes());
        Active::start(
            &self.options,
            self.clock,
            seed,
            Arc::clone(&self.store),
            (self.platform.clone(), Arc::clone(&self.executor)),
            identity,
            first,
        )
        .await
    }

    async fn joined(&mut self, node: NodeId, role: Role) -> Result<Response, api::Error> {
        let mut joined = Joined {
            node,
            role,
            worker_token: None,
        };
        let Some(active) = &mut self.active else {
            return Ok(Response::Joined(joined));
        };
        if active.node().leads() {
            let (reply, mut answer) = oneshot::channel();
            let request = Request::JoinToken {
                role: Role::Worker,
                rotate: false,
            };
            active.request(request, reply);
            loop {
                match answer.try_recv() {
                    Ok(Ok(Response::Token(token))) => {
                        joined.worker_token = Some(token);
                        break;
                    }
                    Err(oneshot::error::TryRecvError::Empty) => active.step().await,
                    Ok(_) | Err(oneshot::error::TryRecvError::Closed) => break,
                }
            }
        }
        Ok(Response::Joined(joined))
    }

    fn address(&self, given: Option<IpAddr>) -> Result<IpAddr, api::Error> {
        let address = given.or(self.options.advertise).ok_or_else(|| {
            let text = "no address to advertise: give --advertise-addr with an address of this host that the others reach";
            api::Error::new(ErrorKind::Invalid, text)
        })?;
        if address.is_unspecified() || address.is_multicast() {
            let text = format!(
                "{address} cannot be advertised: give an address of this host that the others reach"
            );
            return Err(api::Error::new(ErrorKind::Invalid, text));
        }
        Ok(address)
    }

    fn config(&self, node: NodeId, address: IpAddr) -> Config {
        let mut config = Config::new(node, &self.options.name, address);
        config.management_port = self.options.management_port;
        config.gossip_port = self.options.gossip_port;
        config
    }

    fn info(&self) -> Info {
        Info {
            state: LocalState::Inactive,
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

/// How many requests may wait; their senders wait then.
const CALLS_MAX: usize = 1_024;
