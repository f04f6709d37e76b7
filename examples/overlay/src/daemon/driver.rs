//! The real node: `overlay-node`'s driver over `overlay-linux`.

use std::{fs, net::UdpSocket, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use ipnet::{IpNet, Ipv4Net};
use overlay_core::{
    TaskId,
    plane::{Change, DataPath},
};
use overlay_linux::{
    Linux,
    netlink::Netlink,
    plane::{self, Underlay},
};
use overlay_node::driver::{
    CaptureOptions, Captured, Daemon, Executor, Finding, Handle, LogOptions, Logs, LookupOptions,
    Options, StopError,
};
use overlay_node::{Timers, WayOutConfig, plane::Found};

use super::{
    DaemonArgs,
    node::{Node, Soon},
    platform::OnLinux,
};
use crate::api::{Error, Request, Resources, Response};

/// The node of this host.
pub(super) struct Local(Handle);

/// The end of a node.
pub(super) type Stopped = Soon<Result<(), StopError>>;

/// Opens the node's data and goes on as what it says.
pub(super) async fn start(
    args: &DaemonArgs,
    name: String,
    data_dir: PathBuf,
    linux: Linux,
    executor: Arc<dyn Executor>,
    data_socket: Option<Arc<UdpSocket>>,
) -> anyhow::Result<(Local, Stopped)> {
    let mut options = Options::new(name, data_dir);
    options.timers = Timers::prompt();
    options.advertise = args.advertise_addr;
    options.listen = args.listen_addr;
    options.management_port = args.management_port;
    options.gossip_port = args.gossip_port;
    options.data_port = args.data_port;
    options.esp_port = args.esp_port;
    options.data_socket = data_socket;
    options.data_path = args.data_path.into();
    options.underlay_mtu = args.underlay_mtu;
    options.busy_poll = Duration::from_micros(args.busy_poll);
    options.resources = host_resources();
    options.routes = host_routes(args);
    options.way_out = (!args.no_way_out).then(|| WayOutConfig {
        subnet: args.way_out,
        mtu: args.underlay_mtu.unwrap_or(1_500),
        ..WayOutConfig::default()
    });
    let switch = matches!(options.data_path, DataPath::Kernel).then(|| switch(args));
    let platform = OnLinux::new(linux, switch.transpose()?, args.address().is_ipv6());
    options.kernel_seals = platform.kernel_seals();
    let daemon = Daemon::start_with(options, platform, executor).await?;
    Ok((Local(daemon.handle()), Box::pin(daemon.stopped())))
}

/// Returns where the namespace of the kernel plane is kept, if this host can have that plane.
fn switch(args: &DaemonArgs) -> anyhow::Result<PathBuf> {
    let underlay = Underlay {
        local: args.address(),
        port: args.data_port,
    };
    let path = args.data_dir.join("switch");
    let possible = plane::check(&underlay, &path.with_extension("check"));
    possible
        .context("the kernel cannot carry networks here; start the daemon with --data-path user")?;
    Ok(path)
}

/// Returns what this host has: the processors that the daemon may use, and the memory that the kernel has.
fn host_resources() -> Resources {
    let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64);
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    Resources {
        nano_cpus: cpus * 1_000_000_000,
        memory_bytes: total.unwrap_or(0) * 1_024,
    }
}

/// Returns where this host has routes to, but for the default one, the bridge that the daemon makes itself, and what is on the
/// link alone.
fn host_routes(args: &DaemonArgs) -> Vec<IpNet> {
    let routes = Netlink::open().and_then(|mut netlink| netlink.routes());
    let routes = routes.unwrap_or_else(|error| {
        tracing::warn!(%error, "the host's routes are not known: networks may get subnets that it has routes to");
        Vec::new()
    });
    let foreign = |destination: &Ipv4Net| {
        let own = !args.no_way_out && args.way_out.contains(destination);
        destination.prefix_len() > 0 && !own && !destination.network().is_link_local()
    };
    let destinations = routes.into_iter().filter(|route| route.main);
    let destinations = destinations.map(|route| route.destination);
    let mut found: Vec<_> = destinations.filter(foreign).map(IpNet::V4).collect();
    found.sort_unstable();
    found.dedup();
    found
}

impl Local {
    /// Hands leadership over and stops; programs go on.
    pub(super) async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl Node for Local {
    fn request(&self, request: Request) -> Soon<Result<Response, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.request(request).await })
    }

    fn capture(&self, options: CaptureOptions) -> Soon<Result<Captured, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.capture(options).await })
    }

    fn plan(&self) -> Soon<Result<Vec<Change>, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.plan().await })
    }

    fn diagnose(&self) -> Soon<Result<Vec<Finding>, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.diagnose().await })
    }

    fn lookup(&self, options: LookupOptions) -> Soon<Result<Vec<Found>, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.lookup(options).await })
    }

    fn logs(&self, task: TaskId, options: LogOptions) -> Soon<Result<Logs, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.logs(task, options).await })
    }
}
