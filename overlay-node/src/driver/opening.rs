//! What a node opens before it works: its log and the sockets that it listens on.

use std::net::SocketAddr;

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
    let (log, found) = LogWriter::open(&store.raft(), inputs.clone())?;
    let boot = ManagerBoot::new(raft, identity.cluster, identity.epoch, found, beginning);
    identity.epoch = boot.epoch;
    Ok((Some(log), Some(boot)))
}

/// The sockets that a node listens on.
pub(super) struct Bound {
    pub(super) listener: tokio::net::TcpListener,
    pub(super) gossip: overlay_gossip::driver::Sockets,
    /// None where the kernel has the data port.
    pub(super) data: Option<std::net::UdpSocket>,
}

impl Bound {
    pub(super) async fn open(options: &Options) -> Result<Self, StartError> {
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
                let made = data_socket(bind(options.data_port));
                let refused = |error| StartError::port("UDP", bind(options.data_port), error);
                Some(made.map_err(refused)?)
            }
        };
        Ok(Self {
            listener,
            gossip,
            data,
        })
    }
}

/// Opens the socket of the data port with room for bursts.
fn data_socket(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // The kernel grants what its limit allows.
    let _ = socket.set_recv_buffer_size(DATA_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(DATA_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

const DATA_BUFFER_BYTES: usize = 4 * 1024 * 1024;
