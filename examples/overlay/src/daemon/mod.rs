//! The daemon: a node, its programs, and the local API.

mod descriptors;
mod directory;
mod driver;
mod holders;
mod logs;
mod node;
mod platform;
mod programs;
mod records;
mod serve;
mod socket;
mod stream;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::Router;
use clap::{Args, ValueEnum};
use ipnet::Ipv4Net;
use overlay_core::plane::DataPath;
use overlay_linux::{Linux, PortKind};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{complain, print};
use directory::DataDirectory;
use programs::Programs;
use socket::{Gate, Socket};
use tasks::Tasks;

/// See the help texts.
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Where everything is kept that must outlive the daemon
    #[arg(long, value_name = "PATH", default_value = "/var/lib/overlay")]
    pub(crate) data_dir: PathBuf,
    /// The name of this host in the cluster [default: the host's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The address that other nodes reach this one at
    #[arg(long, value_name = "IP")]
    pub(crate) advertise_addr: Option<IpAddr>,
    /// The address to listen at
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub(crate) listen_addr: IpAddr,
    /// TCP port of cluster management
    #[arg(long, value_name = "PORT", default_value_t = 2377)]
    pub(crate) management_port: u16,
    /// TCP and UDP port of gossip
    #[arg(long, value_name = "PORT", default_value_t = 7946)]
    pub(crate) gossip_port: u16,
    /// UDP port of VXLAN
    #[arg(long, value_name = "PORT", default_value_t = 4789)]
    pub(crate) data_port: u16,
    /// UDP port of encrypted networks (ESP)
    #[arg(long, value_name = "PORT", default_value_t = 4500)]
    pub(crate) esp_port: u16,
    /// Carry frames by a UDP socket that was passed by socket activation (systemd's `ListenDatagram=`), bound to the data port
    #[arg(long)]
    pub(crate) data_socket: bool,
    /// What carries the frames of networks: this program (user), or the kernel's own VXLAN devices; auto is user
    #[arg(long, value_name = "PLANE", default_value = "auto")]
    pub(crate) data_path: DataPathArg,
    /// MTU of the network between the hosts, in octets, if not that of the interface with this host's address
    #[arg(long, value_name = "OCTETS")]
    pub(crate) underlay_mtu: Option<u16>,
    /// For how many microseconds the data plane looks for frames before it waits, for hosts with processors to spare
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    pub(crate) busy_poll: u64,
    /// Subnet of the bridge by which programs reach what this host reaches; not for internal networks
    #[arg(long, value_name = "SUBNET", default_value = "172.18.0.0/16")]
    pub(crate) way_out: Ipv4Net,
    /// Make no such bridge: programs reach their networks alone
    #[arg(long, conflicts_with = "way_out")]
    pub(crate) no_way_out: bool,
    /// By what means programs are attached, if not by the first that is to be had; for tests
    #[arg(long, value_name = "KIND", hide = true)]
    pub(crate) port_kind: Option<PortKindArg>,
    /// How much to say on standard error: error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "OVERLAY_LOG"
    )]
    pub(crate) log_level: tracing::Level,
}

impl DaemonArgs {
    /// Where other nodes reach this one, as far as that is said.
    fn address(&self) -> IpAddr {
        self.advertise_addr.unwrap_or(self.listen_addr)
    }
}

/// See [`DataPath`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DataPathArg {
    /// This program
    Auto,
    /// The kernel
    Kernel,
    /// This program
    User,
}

impl From<DataPathArg> for DataPath {
    fn from(path: DataPathArg) -> Self {
        match path {
            DataPathArg::Auto | DataPathArg::User => Self::User,
            DataPathArg::Kernel => Self::Kernel,
        }
    }
}

/// See [`PortKind`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PortKindArg {
    /// A TAP interface
    Tap,
    /// A veth pair with a packet socket
    Packet,
}

impl From<PortKindArg> for PortKind {
    fn from(kind: PortKindArg) -> Self {
        match kind {
            PortKindArg::Tap => Self::Tap,
            PortKindArg::Packet => Self::Packet,
        }
    }
}

/// How long requests may take to finish once the daemon is to end.
const LAST_REQUESTS_TIME_MAX: Duration = Duration::from_secs(2);

/// Runs the daemon until a signal ends it.
pub(crate) fn run(args: DaemonArgs, socket: PathBuf) -> ExitCode {
    tracing_subscriber::fmt()
        .with_max_level(args.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    descriptors::raise();
    // While there is one thread: the words of socket activation are in the environment, and are taken out of it.
    let result = passed(args.data_socket).and_then(|data| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build();
        let runtime = runtime.context("cannot start the runtime")?;
        runtime.block_on(daemon(args, &socket, data))
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Takes the socket of the data port, if one is asked for.
fn passed(wanted: bool) -> anyhow::Result<Option<Arc<UdpSocket>>> {
    if !wanted {
        return Ok(None);
    }
    let taken = listenfd::ListenFd::from_env().take_udp_socket(0);
    let taken = taken.context("what was passed for --data-socket is no UDP socket")?;
    let socket = taken.context(
        "--data-socket, but no socket was passed: start the daemon by socket activation, with `ListenDatagram=4789` for instance",
    )?;
    Ok(Some(Arc::new(socket)))
}

async fn daemon(
    args: DaemonArgs,
    socket: &Path,
    data_socket: Option<Arc<UdpSocket>>,
) -> anyhow::Result<()> {
    let directory = DataDirectory::open(&args.data_dir)?;
    let (socket, gate) = Socket::bind(socket)?;
    let holder = std::env::current_exe().context("cannot find the path of this program")?;
    let mut linux = Linux::new(directory.path().join("endpoints"), holder);
    if let Some(kind) = args.port_kind {
        linux = linux.with_kind(kind.into());
    }
    let holders = Arc::new(linux.clone());
    let tasks = Tasks::open(&directory.path().join("tasks"), holders.clone());
    let tasks = tasks.context("cannot read the tasks in the data directory")?;
    let name = args.name.clone().unwrap_or_else(hostname);
    let (node, stopped) = driver::start(
        &args,
        name.clone(),
        directory.path().join("node"),
        linux,
        Arc::new(tasks.clone()),
        data_socket,
    )
    .await?;
    let node = Arc::new(node);
    let programs = Programs::open(&directory.path().join("programs"), node.clone(), holders);
    let programs = programs.context("cannot read the programs in the data directory")?;
    programs.recover().await;
    print(&format!(
        "overlay daemon {name} is ready: socket {}, data in {}\n",
        socket.path().display(),
        directory.path().display()
    ));
    let router = serve::router(node.clone(), programs, tasks);
    tokio::select! {
        served = serve(gate, router) => served?,
        failed = stopped => return Ok(failed?),
    }
    node.shutdown().await;
    Ok(())
}

fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Serves the local API until a signal comes, and what was begun for a moment longer.
async fn serve(gate: Gate, router: Router) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (end, ending) = tokio::sync::watch::channel(false);
    let graceful = {
        let mut ending = ending.clone();
        async move { drop(ending.wait_for(|ending| *ending).await) }
    };
    let serving = axum::serve(gate, router)
        .with_graceful_shutdown(graceful)
        .into_future();
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served.context("the local API ended"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending; programs go on");
    end.send_replace(true);
    // Streams that go on are cut: their programs outlive the daemon.
    drop(tokio::time::timeout(LAST_REQUESTS_TIME_MAX, serving).await);
    Ok(())
}
