//! How a node comes to be in a cluster, and how it ceases to be: `init`, `join`, `leave`, removal, and rebuilding a
//! cluster from a survivor.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use overlay_core::{NodeId, Seed};
use overlay_raft::RaftId;
use tokio::sync::oneshot;

use super::{
    active::Active,
    bootstrap,
    clock::Clock,
    daemon::Supervisor,
    error::{StartError, StopError},
    store::{Identity, StoreError},
};
use crate::{
    Beginning, Config,
    agent::{AgentMemory, Assignment},
    api::{
        self, ClusterSettings, ErrorKind, InitRequest, JoinRequest, Joined, Recovered, Request,
        Response, Role,
    },
    identity::{
        JoinToken, UnlockKey, UnlockKeyError, ca_digest,
        certificate::{self, Authority, Subject},
        tls::Credentials,
    },
    state::{AddNode, ClusterSeed, ClusterState, Secret},
};

impl Supervisor {
    pub(super) async fn init(&mut self, init: InitRequest) -> Result<Response, api::Error> {
        if init.force_new_cluster {
            return Err(api::Error::new(ErrorKind::NotMember, NO_CLUSTER));
        }
        let address = self.address(init.advertise)?;
        let invalid = |error: certificate::CertificateError| {
            api::Error::new(ErrorKind::Platform, error.to_string())
        };
        let (key, request) = certificate::request().map_err(invalid)?;
        let (node, unix_now) = (
            certificate::node_of(&request).map_err(invalid)?,
            Clock::unix_now(),
        );
        let identity_key = Secret::random(&mut self.rng);
        let mut config = self.config(node, address);
        config.key = identity_key.clone();
        let mut seed = ClusterSeed::generate(&mut self.rng, &config, String::new(), String::new());
        let authority = Authority::generate(seed.id, unix_now).map_err(invalid)?;
        seed.ca_certificate = authority.certificate().to_owned();
        seed.ca_key = Secret::any(authority.key().as_bytes().to_vec());
        seed.pools = init.pools;
        seed.pool_split = init.pool_split.unwrap_or(24);
        let life = ClusterSettings::default().certificate_ms;
        let subject = Subject {
            cluster: seed.id,
            node,
            role: Role::Manager,
        };
        let certificate = authority
            .issue(&request, subject, unix_now, Duration::from_millis(life))
            .map_err(invalid)?;
        let raft = RaftId::new(1).expect("one is not zero");
        let identity = Identity {
            format: 0,
            node,
            cluster: seed.id,
            epoch: 0,
            raft: Some(raft),
            address,
            is_fixed: init.advertise.is_some(),
            credentials: Credentials {
                authority: authority.certificate().to_owned(),
                certificate,
                key,
                issuer: ca_digest(authority.certificate()),
            },
            key: identity_key,
            life: 0,
            seeds: Vec::new(),
        };
        // Whatever an earlier attempt left half done.
        self.store.clear().map_err(StartError::from)?;
        let mut active = Box::new(self.activate(identity, Beginning::Found).await?);
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

    pub(super) async fn join(&mut self, join: JoinRequest) -> Result<Response, api::Error> {
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
        let identity_key = Secret::random(&mut self.rng);
        let mut config = self.config(node, address);
        config.key = identity_key.clone();
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
            epoch: assignment.epoch,
            raft: assignment.standing.raft,
            address,
            is_fixed: join.advertise.is_some(),
            credentials: Credentials {
                authority: admission.authority,
                certificate: admission.certificate,
                key,
                issuer: admission.issuer,
            },
            key: identity_key,
            life: 0,
            seeds: assignment
                .standing
                .managers
                .iter()
                .filter(|manager| manager.node != node)
                .map(|manager| (manager.node, manager.management))
                .collect(),
        };
        self.begin(identity, *assignment).await
    }

    /// Begins the node's life in a cluster that let it in.
    async fn begin(
        &mut self,
        identity: Identity,
        assignment: Assignment,
    ) -> Result<Response, api::Error> {
        let (node, role) = (identity.node, assignment.standing.role);
        self.store.clear().map_err(StartError::from)?;
        let memory = AgentMemory {
            assignment: Some(assignment),
            ..AgentMemory::default()
        };
        self.store.save_memory(&memory).map_err(StartError::from)?;
        let started = self.activate(identity.clone(), Beginning::Resume).await;
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

    /// Goes on as what the data directory says, if it says anything.
    pub(super) async fn resume(&mut self) -> Result<(), StartError> {
        let Some(mut identity) = self.store.identity()? else {
            return Ok(());
        };
        if let Some(address) = self.options.advertise.filter(|_| !identity.is_fixed) {
            // The host may have another address by now; the node tells the managers.
            identity.address = address;
        }
        // Before anything is said in this life.
        identity.life += 1;
        self.store.save_identity(&identity)?;
        let active = self.activate(identity, Beginning::Resume).await?;
        self.active = Some(Box::new(active));
        Ok(())
    }

    /// Opens a data directory that is locked, and goes on.
    pub(super) async fn unlock(&mut self, key: &str) -> Result<Response, api::Error> {
        let key: UnlockKey = key.parse().map_err(|error: UnlockKeyError| {
            api::Error::new(ErrorKind::Invalid, error.to_string())
        })?;
        if !self.store.unlock(&key).map_err(StartError::from)? {
            let text = "this is not the unlock key of this manager: give the one that was valid when its daemon stopped, \
                        or let it leave with --force and join again";
            return Err(api::Error::new(ErrorKind::Untrusted, text));
        }
        self.resume().await?;
        self.locked = false;
        Ok(Response::Done)
    }

    /// Erases a data directory that is locked.
    pub(super) fn forget(&mut self) -> Result<Response, api::Error> {
        self.store.clear().map_err(StartError::from)?;
        self.locked = false;
        self.platform.retain(BTreeSet::new());
        Ok(Response::Done)
    }

    pub(super) async fn leave(&mut self, force: bool) -> Result<Response, api::Error> {
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
        self.disband().await.map_err(StartError::from)?;
        Ok(Response::Done)
    }

    /// Rebuilds the cluster from this manager's disk, with it as the only one.
    pub(super) async fn recover(&mut self, init: InitRequest) -> Result<Response, api::Error> {
        let active = self.active.as_deref();
        let (active, state) = recoverable(active, &init)?;
        let mut identity = active.identity().clone();
        let others = state.voters().filter(|(_, node)| node.id != identity.node);
        let dropped = others
            .map(|(_, node)| (node.id, node.hostname.clone()))
            .collect();
        let index = state.applied();
        if init.advertise.is_some() {
            (identity.address, identity.is_fixed) = (self.address(init.advertise)?, true);
        }
        identity.life += 1;
        let former = identity.clone();
        self.store
            .save_identity(&former)
            .map_err(StartError::from)?;
        if let Some(active) = self.active.take() {
            active.stop().await;
        }
        let mut active = match self.activate(identity, Beginning::Recover).await {
            Ok(active) => Box::new(active),
            Err(error) => {
                // As it was; if that fails too, the next start of the daemon takes it up.
                let resumed = self.activate(former, Beginning::Resume).await;
                self.active = resumed.ok().map(Box::new);
                return Err(error.into());
            }
        };
        let epoch = active.identity().epoch;
        let rebuilt = tokio::time::timeout(PATIENCE, async {
            let behind =
                |state: &ClusterState| state.cluster().is_none_or(|cluster| cluster.epoch < epoch);
            while active.failure().is_none() && active.node().state().is_none_or(behind) {
                active.step().await;
            }
        });
        let in_time = rebuilt.await.is_ok();
        let saved = self.store.save_identity(active.identity());
        let recovered = active.node().state().map(|state| Recovered {
            node: active.identity().node,
            epoch,
            index,
            dropped,
            nodes: state.nodes().len(),
            networks: state.networks().len(),
            endpoints: state.endpoints().len(),
            services: state.services().len(),
        });
        self.active = Some(active);
        saved.map_err(StartError::from)?;
        match recovered.filter(|_| in_time) {
            Some(recovered) => Ok(Response::Recovered(recovered)),
            None => {
                let text = "the log was rewritten, but the manager does not lead yet: see the daemon's log and `info`";
                Err(api::Error::new(ErrorKind::Unavailable, text))
            }
        }
    }

    /// Lets go of everything that the cluster gave this node, and forgets the cluster.
    async fn disband(&mut self) -> Result<(), StoreError> {
        if let Some(mut active) = self.active.take() {
            active.disband();
            active.stop().await;
            // What the system carries goes with the cluster.
            self.platform.apply(Arc::default(), || {});
        }
        self.store.clear()
    }

    /// Waits for a new cluster, as the managers said that this node is none of the cluster's any more.
    pub(super) async fn removed(&mut self) -> Result<(), StopError> {
        tracing::warn!("this node was removed from its cluster: it stops what it ran there");
        self.disband().await.map_err(|error| StopError::Storage {
            reason: error.to_string(),
        })
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

    pub(super) async fn activate(
        &mut self,
        identity: Identity,
        beginning: Beginning,
    ) -> Result<Active, StartError> {
        let seed = Seed::from_bytes(self.rng.bytes());
        Active::start(
            &self.options,
            self.clock,
            seed,
            Arc::clone(&self.store),
            (self.platform.clone(), Arc::clone(&self.executor)),
            identity,
            beginning,
        )
        .await
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
}

/// Refuses to rebuild a cluster where there is nothing to rebuild it from, or no need to.
fn recoverable<'a>(
    active: Option<&'a Active>,
    init: &InitRequest,
) -> Result<(&'a Active, &'a ClusterState), api::Error> {
    let Some(active) = active else {
        return Err(api::Error::new(ErrorKind::NotMember, NO_CLUSTER));
    };
    let refuse = |kind, text: &str| Err(api::Error::new(kind, text));
    let Some(state) = active.node().state() else {
        let text =
            "this node is a worker and holds no copy of the cluster's state: run this on a manager";
        return refuse(ErrorKind::Invalid, text);
    };
    if state.cluster().is_none() {
        let text = "this manager has not caught up with the cluster yet: there is nothing to rebuild it from";
        return refuse(ErrorKind::Unavailable, text);
    }
    if active.node().leader().is_some() {
        let text = "the cluster has a leader: there is nothing to rebuild; to be rid of managers use `node demote` and `node rm`";
        return refuse(ErrorKind::Invalid, text);
    }
    if !init.pools.is_empty() || init.pool_split.is_some() {
        let text =
            "a cluster that is rebuilt keeps its address pools: leave --default-addr-pool out";
        return refuse(ErrorKind::Invalid, text);
    }
    Ok((active, state))
}

/// What is said where there is no cluster to rebuild.
const NO_CLUSTER: &str = "this node holds no cluster to rebuild: run this on a manager of it, or `init` without --force-new-cluster";
/// How long a manager that is alone may take until it leads.
const PATIENCE: Duration = Duration::from_secs(20);
