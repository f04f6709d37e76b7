//! Making a node that works: everything that it needs is opened here.

use std::{collections::BTreeMap, sync::Arc};

use overlay_core::{Seed, plane::PlatformError};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{Active, INPUTS_MAX, Input};
use crate::{
    Beginning, Boot, Config, Node,
    driver::{
        clock::Clock,
        daemon::Options,
        error::StartError,
        executor::Executor,
        ingress::Ingress,
        logs, names,
        opening::{Bound, PlaneSockets, open_manager},
        plane::{Gone, PlaneThread},
        platform::{self, PlatformThread},
        renewal::Renewal,
        session,
        store::{Identity, Store},
    },
    identity::tls::Sides,
};

impl Active {
    /// Opens everything that a node needs and makes it.
    pub(crate) async fn start(
        options: &Options,
        clock: Clock,
        seed: Seed,
        store: Arc<Store>,
        (platform, executor): (PlatformThread, Arc<dyn Executor>),
        mut identity: Identity,
        beginning: Beginning,
    ) -> Result<Self, StartError> {
        let (inputs, received) = mpsc::channel(INPUTS_MAX);
        let (log, manager) = open_manager(&store, &mut identity, beginning, &inputs)?;
        let mut config = configure(options, &identity, clock, &platform).await;
        let (memory, seeds) = (store.memory()?, identity.seeds.clone());
        let boot = Boot {
            memory,
            manager,
            seeds,
        };
        let bound = Bound::open(options).await?;
        config.sealing = bound.sealing;
        let plane = frame_path(options, clock, &seed, bound.plane, &inputs)?;

        let underlay_mtu = config.underlay_mtu;
        let node = Node::new(config, seed, clock.now(), boot)?;
        platform.retain(node.endpoints().collect());
        let sides = Sides::new(&identity.credentials).map_err(|error| StartError::Credentials {
            reason: error.reason,
        })?;
        let (sides, watched) = watch::channel(sides);
        let mut tasks = JoinSet::new();
        let ingress = Ingress::new(
            identity.node,
            clock,
            options.listen,
            platform.clone(),
            watched.clone(),
        );
        let outputs = logs::Room::new();
        let (room, took) = (outputs.clone(), inputs.clone());
        let listening = session::listen(bound.listener, watched, platform.clone(), room, took);
        tasks.spawn(listening);
        if options.underlay_mtu.is_none() {
            let (platform, inputs) = (platform.clone(), inputs.clone());
            let watch = platform::watch_mtu(platform, identity.address, underlay_mtu, inputs);
            tasks.spawn(watch);
        }
        let (names, queries) = overlay_dns::driver::Sockets::new(Default::default());
        let mut active = Self {
            node,
            clock,
            identity,
            store,
            inputs,
            received,
            log,
            plane,
            platform,
            executor,
            outputs,
            ingress,
            gossip: bound.gossip,
            names,
            queries,
            sides,
            lines: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            tasks,
            renewal: Renewal::default(),
            certificate_check: clock.now(),
            rekeying: false,
            failed: None,
        };
        let upstreams = names::host_upstreams();
        active.node.set_upstreams(active.clock.now(), upstreams);
        active.carry_out();
        Ok(active)
    }
}

fn frame_path(
    options: &Options,
    clock: Clock,
    seed: &Seed,
    sockets: PlaneSockets,
    inputs: &mpsc::Sender<Input>,
) -> Result<PlaneThread, StartError> {
    let (seed, gone) = (seed.derive("plane"), lost_ports(inputs.clone()));
    let started = PlaneThread::start(sockets, clock, seed, options.busy_poll, gone);
    let what = "frame path";
    started.map_err(|error| StartError::Thread { what, error })
}

/// Tells the node of ports that are there no more: it makes them anew.
fn lost_ports(inputs: mpsc::Sender<Input>) -> Gone {
    Box::new(move |endpoint, error| {
        let lost = Input::Port {
            endpoint,
            result: Err(PlatformError::system(
                "read a port, whose interface may have been deleted,",
                error,
            )),
        };
        // The node may have stopped.
        let _ = inputs.blocking_send(lost);
    })
}

/// Returns what the options say of a node.
async fn configure(
    options: &Options,
    identity: &Identity,
    clock: Clock,
    platform: &PlatformThread,
) -> Config {
    let mut config = Config::new(identity.node, &options.name, identity.address);
    config.issuer = identity.credentials.issuer;
    config.key = identity.key.clone();
    config.life = identity.life;
    config.management_port = options.management_port;
    config.gossip_port = options.gossip_port;
    config.data_port = options.data_port;
    config.esp_port = options.esp_port;
    config.data_path = options.data_path;
    config.unix_epoch = clock.unix_epoch();
    config.timers = options.timers;
    config.underlay_mtu = match options.underlay_mtu {
        Some(mtu) => mtu,
        None => {
            let found = platform.underlay_mtu(identity.address).await;
            found.unwrap_or(platform::UNDERLAY_MTU)
        }
    };
    config.way_out = options.way_out.clone();
    config.resources = options.resources;
    config.routes.clone_from(&options.routes);
    config
}
