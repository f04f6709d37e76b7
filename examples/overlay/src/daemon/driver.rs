//! The real node: `overlay-node`'s driver over `overlay-linux`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use overlay_core::{
    EndpointId, TaskId,
    plane::{ActualPort, Change, Desired, Platform, PlatformError, PortSpec, WayOutState},
};
use overlay_linux::{Linux, Offload, Port, PortCapabilities, Sockets, netlink::Netlink};
use overlay_node::driver::{
    Daemon, Executor, Handle, LogOptions, Logs, Options, PortIo, StopError,
};
use overlay_node::{Timers, WayOutConfig};

use super::{
    DaemonArgs,
    node::{Node, Soon},
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
) -> anyhow::Result<(Local, Stopped)> {
    let mut options = Options::new(name, data_dir);
    options.timers = Timers::prompt();
    options.advertise = args.advertise_addr;
    options.listen = args.listen_addr;
    options.management_port = args.management_port;
    options.gossip_port = args.gossip_port;
    options.data_port = args.data_port;
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
    let daemon = Daemon::start_with(options, OnLinux(linux), executor).await?;
    Ok((Local(daemon.handle()), Box::pin(daemon.stopped())))
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

    fn logs(&self, task: TaskId, options: LogOptions) -> Soon<Result<Logs, Error>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.logs(task, options).await })
    }
}

/// `overlay-linux` with the types that the driver asks for.
struct OnLinux(Linux);

/// A port with the reading and writing that the driver asks for.
struct LinuxPort(Port);

impl Platform for OnLinux {
    type Port = LinuxPort;
    type Sockets = (UdpSocket, TcpListener);

    fn create_port(&mut self, spec: &PortSpec) -> Result<Option<LinuxPort>, PlatformError> {
        Ok(self.0.create_port(spec)?.map(LinuxPort))
    }

    fn remove_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError> {
        self.0.remove_port(endpoint)
    }

    fn retain_ports(
        &mut self,
        kept: &BTreeSet<EndpointId>,
    ) -> Result<Vec<EndpointId>, PlatformError> {
        self.0.retain_ports(kept)
    }

    fn open_sockets(
        &mut self,
        endpoint: EndpointId,
        address: SocketAddr,
    ) -> Result<Self::Sockets, PlatformError> {
        let Sockets { udp, tcp } = self.0.open_sockets(endpoint, address)?;
        Ok((udp, tcp))
    }

    fn open_stream(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<TcpStream, PlatformError> {
        self.0.open_stream(endpoint, v6, source)
    }

    fn open_datagrams(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<UdpSocket, PlatformError> {
        self.0.open_datagrams(endpoint, v6, source)
    }

    fn way_out(&mut self, endpoint: EndpointId) -> Result<Option<WayOutState>, PlatformError> {
        self.0.way_out(endpoint)
    }

    fn underlay_mtu(&mut self, address: IpAddr) -> Result<Option<u16>, PlatformError> {
        self.0.underlay_mtu(address)
    }

    fn apply(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        self.0.apply(desired)
    }

    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError> {
        self.0.actual()
    }
}

impl AsFd for LinuxPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl PortIo for LinuxPort {
    fn read_into(&self, place: &mut [u8]) -> io::Result<(usize, Offload)> {
        self.0.read_into(place)
    }

    fn write_frame(&self, frame: &[u8], offload: Offload) -> io::Result<()> {
        self.0.write_frame(frame, offload)
    }

    fn capabilities(&self) -> PortCapabilities {
        self.0.capabilities()
    }
}
