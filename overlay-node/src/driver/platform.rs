//! The platform's thread: making and removing ports blocks for as long as system calls do.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::mpsc as sync,
    thread,
};

use overlay_core::{
    EndpointId,
    plane::{Namespace, Platform, PlatformError, PortSpec, WayOutState},
};
use tokio::sync::{mpsc, oneshot};

use super::{PortIo, active::Input};

/// Sockets of an endpoint's resolver, bound inside its namespace.
pub(crate) type ResolverSockets = (UdpSocket, TcpListener);

enum Order {
    Create(Box<PortSpec>, mpsc::Sender<Input>),
    Remove(EndpointId),
    Stream(
        EndpointId,
        bool,
        oneshot::Sender<Result<TcpStream, PlatformError>>,
    ),
}

/// Orders for the thread; it ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub(crate) struct PlatformThread(sync::Sender<Order>);

impl PlatformThread {
    pub(crate) fn start<P>(mut platform: P) -> std::io::Result<Self>
    where
        P: Platform<Sockets = ResolverSockets> + Send + 'static,
        P::Port: PortIo,
    {
        let (sender, orders) = sync::channel();
        thread::Builder::new()
            .name("overlay-platform".to_owned())
            .spawn(move || {
                while let Ok(order) = orders.recv() {
                    match order {
                        Order::Create(spec, inputs) => {
                            let result = create(&mut platform, &spec);
                            let made = Input::Port {
                                endpoint: spec.endpoint,
                                result,
                            };
                            if inputs.blocking_send(made).is_err() {
                                tracing::debug!("a port was made for a node that stopped");
                            }
                        }
                        Order::Stream(endpoint, v6, reply) => {
                            // Whoever asked may have gone away.
                            let _ = reply.send(platform.open_stream(endpoint, v6));
                        }
                        Order::Remove(endpoint) => {
                            if let Err(error) = platform.remove_port(endpoint) {
                                tracing::warn!(%endpoint, %error, "a port could not be removed");
                            }
                        }
                    }
                }
            })?;
        Ok(Self(sender))
    }

    pub(crate) fn create(&self, spec: Box<PortSpec>, inputs: mpsc::Sender<Input>) {
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Create(spec, inputs));
    }

    /// Makes a TCP socket in an endpoint's namespace that is not connected yet.
    pub(crate) async fn stream(
        &self,
        endpoint: EndpointId,
        v6: bool,
    ) -> Result<TcpStream, PlatformError> {
        let (reply, made) = oneshot::channel();
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Stream(endpoint, v6, reply));
        made.await
            .unwrap_or(Err(PlatformError::UnknownEndpoint { endpoint }))
    }

    pub(crate) fn remove(&self, endpoint: EndpointId) {
        let _ = self.0.send(Order::Remove(endpoint));
    }
}

/// A port that was made, and its resolver's sockets where there are any.
pub(crate) struct MadePort {
    pub(crate) port: Box<dyn PortIo>,
    pub(crate) sockets: Option<ResolverSockets>,
}

impl std::fmt::Debug for MadePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MadePort(..)")
    }
}

fn create<P>(platform: &mut P, spec: &PortSpec) -> Result<MadePort, PlatformError>
where
    P: Platform<Sockets = ResolverSockets>,
    P::Port: PortIo,
{
    let port = platform.create_port(spec)?;
    if let Ok(Some(WayOutState::Closed(reason))) = platform.way_out(spec.endpoint) {
        let endpoint = spec.endpoint;
        tracing::warn!(%endpoint, %reason, "an endpoint has no way out of its networks");
    }
    let sockets = match (
        &spec.namespace,
        platform.open_sockets(spec.endpoint, RESOLVER),
    ) {
        (_, Ok(sockets)) => Some(sockets),
        (Namespace::Own, Err(error)) => {
            // An endpoint of our own without names would be half made.
            platform.remove_port(spec.endpoint)?;
            return Err(error);
        }
        (Namespace::Path(_) | Namespace::InProcess, Err(error)) => {
            let endpoint = spec.endpoint;
            tracing::info!(%endpoint, %error, "no resolver in this endpoint's namespace");
            None
        }
    };
    Ok(MadePort {
        port: Box::new(port),
        sockets,
    })
}

/// Where an endpoint's programs ask for names, as in Docker.
const RESOLVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
