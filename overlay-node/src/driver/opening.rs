//! What a node opens before it works: its log and the sockets that it listens on.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use overlay_core::plane::DataPath;
use tokio::sync::mpsc;

use super::{
    active::Input,
    daemon::Options,
    error::StartError,
    log::LogWriter,
    store::{Identity, Store},
};
use crate::{Beginning, ManagerBoot};

/// Opens a manager's log and says what it holds; nothing for a worker.
pub(super) fn open_manager(
    store: &Store,
    identity: &mut Identity,
    beginning: Beginning,
    inputs: &mpsc::Sender<Input>,
) -> Result<(Option<LogWriter>, Option<ManagerBoot>), StartError> {
    let Some(raft) = identity.raft else {
        return Ok((None, None));
    };
    let (log, found) = LogWriter::open(store.raft()?, inputs.clone())?;
    let boot = ManagerBoot::new(raft, identity.cluster, identity.epoch, found, beginning);
    identity.epoch = boot.epoch;
    Ok((Some(log), Some(boot)))
}

/// A socket that is bound to the data port.
pub(super) enum DataSocket {
    /// Of this process' network namespace: more may be opened there.
    Opened(UdpSocket),
    /// Of any other.
    Passed(UdpSocket),
}

/// The sockets of the frame path.
pub(super) struct PlaneSockets {
    /// None where the kernel has the data port.
    pub(super) data: Option<DataSocket>,
    /// None where the port of ESP is not to be had, or the kernel has it.
    pub(super) esp: Option<DataSocket>,
}

/// The sockets that a node listens on.
pub(super) struct Bound {
    pub(super) listener: tokio::net::TcpListener,
    pub(super) gossip: overlay_gossip::driver::Sockets,
    pub(super) plane: PlaneSockets,
    /// By which plane encrypted networks are carried, or why by none.
    pub(super) sealing: Result<DataPath, String>,
}

impl Bound {
    pub(super) async fn open(options: &Options) -> Result<Self, StartError> {
        if options.data_socket.is_some() && options.data_path == DataPath::Kernel {
            let error = io::Error::new(
                io::ErrorKind::InvalidInput,
                "the kernel plane has no use for a socket: pass none, or carry networks in user space",
            );
            let address = SocketAddr::new(options.listen, options.data_port);
            return Err(StartError::port("UDP", address, error));
        }
        let bind = |port| SocketAddr::new(options.listen, port);
        let listener = tokio::net::TcpListener::bind(bind(options.management_port))
            .await
            .map_err(|error| StartError::port("TCP", bind(options.management_port), error))?;
        let gossip = overlay_gossip::driver::Sockets::bind(bind(options.gossip_port))
            .await
            .map_err(|error| StartError::port("TCP and UDP", bind(options.gossip_port), error))?;
        let data = match options.data_path {
            DataPath::Kernel => None,
            DataPath::User => {
                let made = match &options.data_socket {
                    Some(socket) => passed(socket, options.data_port),
                    None => data_socket(bind(options.data_port)).map(DataSocket::Opened),
                };
                let refused = |error| StartError::port("UDP", bind(options.data_port), error);
                Some(made.map_err(refused)?)
            }
        };
        let in_kernel = options.kernel_seals && options.data_path == DataPath::Kernel;
        let (sealing, esp) = match esp_socket(options) {
            Err(reason) => (Err(reason), None),
            // The port is to be had, and left to whom it is for.
            Ok(_) if in_kernel => (Ok(DataPath::Kernel), None),
            Ok(socket) => (Ok(DataPath::User), Some(socket)),
        };
        Ok(Self {
            listener,
            gossip,
            plane: PlaneSockets { data, esp },
            sealing,
        })
    }
}

/// Opens the socket of ESP, or says why encrypted networks cannot be carried: all others can.
fn esp_socket(options: &Options) -> Result<DataSocket, String> {
    if options.data_socket.is_some() {
        return Err(
            "its daemon has but the one data socket that was passed: start it without".to_owned(),
        );
    }
    let address = SocketAddr::new(options.listen, options.esp_port);
    // Flows leave by it, too: RFC 3948 has one port for both.
    data_socket(address).map(DataSocket::Passed).map_err(|error| {
        format!(
            "its daemon cannot listen on UDP {address} ({error}): is another IPsec program running there? \
             Stop that one, or give all daemons another --esp-port"
        )
    })
}

/// Takes a socket that somebody else has opened.
fn passed(socket: &UdpSocket, port: u16) -> io::Result<DataSocket> {
    let bound = socket.local_addr()?;
    if bound.port() != port {
        let text = format!(
            "the socket that was passed is bound to {bound}, and all nodes use one data port: bind it to port {port}, or say the other port to all"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let socket = socket.try_clone()?;
    enlarge(&(&socket).into());
    Ok(DataSocket::Passed(socket))
}

/// Makes room for bursts: the kernel grants what its limit allows.
fn enlarge(socket: &socket2::SockRef<'_>) {
    let _ = socket.set_recv_buffer_size(DATA_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(DATA_BUFFER_BYTES);
}

/// Opens the socket of the data port with room for bursts.
fn data_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    enlarge(&(&socket).into());
    socket.bind(&address.into())?;
    Ok(socket.into())
}

const DATA_BUFFER_BYTES: usize = 4 * 1024 * 1024;
