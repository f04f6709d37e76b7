//! The platform's thread: making and removing ports blocks for as long as system calls do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, mpsc as sync},
    thread,
    time::Duration,
};

use overlay_core::{
    EndpointId,
    plane::{
        ActualPort, Change, DataPath, Desired, Namespace, Platform, PlatformError, PortSpec,
        WayOutState,
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{PortIo, active::Input};
use crate::api;

mod repairs;

use repairs::{Carried, Look, Repairs};

/// Sockets of an endpoint's resolver, bound inside its namespace.
pub(crate) type ResolverSockets = (UdpSocket, TcpListener);

/// What would be changed.
pub(crate) type Planned = Result<Vec<Change>, api::Error>;

/// The ports that are really there.
pub(crate) type Actual = Result<BTreeMap<EndpointId, ActualPort>, PlatformError>;

enum Order {
    Retain(BTreeSet<EndpointId>),
    Create(Box<PortSpec>, mpsc::Sender<Input>),
    Remove(EndpointId),
    Apply(Arc<Desired>, Carried),
    Plan(Arc<Desired>, oneshot::Sender<Planned>),
    Actual(oneshot::Sender<Actual>),
    Stream(
        EndpointId,
        bool,
        Option<SocketAddr>,
        oneshot::Sender<Result<TcpStream, PlatformError>>,
    ),
    UnderlayMtu(IpAddr, oneshot::Sender<Result<Option<u16>, PlatformError>>),
    Datagrams(
        EndpointId,
        bool,
        Option<SocketAddr>,
        oneshot::Sender<Result<UdpSocket, PlatformError>>,
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
                let mut resolvers = Resolvers::default();
                let mut repairs = Repairs::default();
                while let Some(order) = repairs.next(&orders, |look, desired| match look {
                    Look::Changes => platform.apply_changes(desired),
                    Look::Everything => platform.apply(desired),
                }) {
                    match order {
                        Order::Retain(kept) => {
                            // Whoever had the sockets has gone: another life of the node, maybe in this very process.
                            resolvers = Resolvers::default();
                            repairs.settle(!kept.is_empty());
                            retain(&mut platform, &kept);
                        }
                        Order::Create(spec, inputs) => {
                            let result = create(&mut platform, &mut resolvers, &spec);
                            let made = Input::Port {
                                endpoint: spec.endpoint,
                                result,
                            };
                            if inputs.blocking_send(made).is_err() {
                                tracing::debug!("a port was made for a node that stopped");
                            }
                        }
                        // Of those that ask, some may have gone away.
                        Order::Stream(endpoint, v6, source, reply) => {
                            let _ = reply.send(platform.open_stream(endpoint, v6, source));
                        }
                        Order::Datagrams(endpoint, v6, source, reply) => {
                            let _ = reply.send(platform.open_datagrams(endpoint, v6, source));
                        }
                        Order::UnderlayMtu(address, reply) => {
                            let _ = reply.send(platform.underlay_mtu(address));
                        }
                        Order::Apply(desired, carried) => repairs.want(desired, carried),
                        Order::Plan(desired, reply) => {
                            let planned = platform.plan(&desired);
                            let refused = |error: PlatformError| {
                                api::Error::new(api::ErrorKind::Platform, error.to_string())
                            };
                            let _ = reply.send(planned.map_err(refused));
                        }
                        Order::Actual(reply) => {
                            let _ = reply.send(platform.actual());
                        }
                        Order::Remove(endpoint) => {
                            resolvers.remove(endpoint);
                            if let Err(error) = platform.remove_port(endpoint) {
                                tracing::warn!(%endpoint, %error, "a port could not be removed");
                            }
                        }
                    }
                }
            })?;
        Ok(Self(sender))
    }

    /// Begins another life of the node: removes what the one before left of all other endpoints than these, and opens the
    /// resolvers of these anew.
    pub(crate) fn retain(&self, kept: BTreeSet<EndpointId>) {
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Retain(kept));
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
        source: Option<SocketAddr>,
    ) -> Result<TcpStream, PlatformError> {
        let (reply, made) = oneshot::channel();
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Stream(endpoint, v6, source, reply));
        made.await
            .unwrap_or(Err(PlatformError::UnknownEndpoint { endpoint }))
    }

    /// Makes a UDP socket in an endpoint's namespace that is not bound yet.
    pub(crate) async fn datagrams(
        &self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<UdpSocket, PlatformError> {
        let (reply, made) = oneshot::channel();
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Datagrams(endpoint, v6, source, reply));
        made.await
            .unwrap_or(Err(PlatformError::UnknownEndpoint { endpoint }))
    }

    /// Makes the system hold what it carries of the data plane, and goes on doing so. `carried` is called on the thread when
    /// that was tried, unless something else is desired before.
    pub(crate) fn apply(&self, desired: Arc<Desired>, carried: impl FnOnce() + Send + 'static) {
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Apply(desired, Box::new(carried)));
    }

    /// Says what [`apply`](Self::apply) would change.
    pub(crate) fn plan(&self, desired: Arc<Desired>, reply: oneshot::Sender<Planned>) {
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Plan(desired, reply));
    }

    /// Reads back the ports that are really there; `None` from a thread that is gone.
    pub(crate) async fn actual(&self) -> Option<Actual> {
        let (reply, found) = oneshot::channel();
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::Actual(reply));
        found.await.ok()
    }

    /// Returns the MTU of the interface with an address, if it can be known.
    pub(crate) async fn underlay_mtu(&self, address: IpAddr) -> Option<u16> {
        let (reply, found) = oneshot::channel();
        // The thread ends only with the daemon.
        let _ = self.0.send(Order::UnderlayMtu(address, reply));
        let found = found.await.unwrap_or(Ok(None));
        found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the underlay's MTU is not known");
            None
        })
    }

    pub(crate) fn remove(&self, endpoint: EndpointId) {
        let _ = self.0.send(Order::Remove(endpoint));
    }
}

/// Tells a node of each change of its underlay's MTU. One that is not known for a while is as it was.
pub(crate) async fn watch_mtu(
    platform: PlatformThread,
    address: IpAddr,
    mut known: u16,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        tokio::time::sleep(MTU_INTERVAL).await;
        let Some(mtu) = platform.underlay_mtu(address).await else {
            continue;
        };
        if mtu != known {
            tracing::info!(%address, before = known, now = mtu, "the underlay has another MTU");
            known = mtu;
            if inputs.send(Input::UnderlayMtu(mtu)).await.is_err() {
                return;
            }
        }
    }
}

/// How often the underlay's MTU is looked at.
const MTU_INTERVAL: Duration = Duration::from_secs(1);

/// A port that was made, and the sockets of its namespace's resolver if nobody has them yet, with the client's identity.
pub(crate) struct MadePort {
    /// None where the system carries its frames.
    pub(crate) port: Option<Box<dyn PortIo>>,
    pub(crate) resolver: Option<(EndpointId, ResolverSockets)>,
}

impl std::fmt::Debug for MadePort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MadePort(..)")
    }
}

/// The namespaces whose resolvers' sockets are open, by the endpoints after which they are named, with the endpoints in
/// there: each has one resolver.
#[derive(Debug, Default)]
struct Resolvers(BTreeMap<EndpointId, BTreeSet<EndpointId>>);

impl Resolvers {
    fn remove(&mut self, endpoint: EndpointId) {
        self.0.retain(|_, members| {
            members.remove(&endpoint);
            !members.is_empty()
        });
    }
}

fn retain<P: Platform>(platform: &mut P, kept: &BTreeSet<EndpointId>) {
    match platform.retain_ports(kept) {
        Ok(gone) => {
            for endpoint in gone {
                tracing::info!(%endpoint, "removed what was left of an endpoint");
            }
        }
        Err(error) => {
            tracing::warn!(%error, "what is left of endpoints could not be removed");
        }
    }
}

fn create<P>(
    platform: &mut P,
    resolvers: &mut Resolvers,
    spec: &PortSpec,
) -> Result<MadePort, PlatformError>
where
    P: Platform<Sockets = ResolverSockets>,
    P::Port: PortIo,
{
    let port = platform.create_port(spec)?;
    if port.is_none() && spec.path == DataPath::User {
        return Err(PlatformError::Unsupported {
            what: "a port in user space",
            reason: "the platform gave none to read and write".to_owned(),
        });
    }
    let port = port.map(|port| -> Box<dyn PortIo> { Box::new(port) });
    let (endpoint, client) = (spec.endpoint, spec.namespace.name(spec.endpoint));
    if let Ok(Some(WayOutState::Closed(reason))) = platform.way_out(endpoint) {
        tracing::warn!(%endpoint, %reason, "an endpoint has no way out of its networks");
    }
    if let Some(members) = resolvers.0.get_mut(&client) {
        members.insert(endpoint);
        let resolver = None;
        return Ok(MadePort { port, resolver });
    }
    let opened = match (&spec.namespace, platform.open_sockets(endpoint, RESOLVER)) {
        (_, Ok(sockets)) => Some(sockets),
        (Namespace::Own | Namespace::Shared { .. } | Namespace::InProcess, Err(error)) => {
            // An endpoint of our own without names would be half made.
            platform.remove_port(endpoint)?;
            return Err(error);
        }
        (Namespace::Path(_), Err(error)) => {
            tracing::info!(%endpoint, %error, "no resolver in this endpoint's namespace");
            None
        }
    };
    let resolver = opened.map(|sockets| {
        resolvers.0.insert(client, BTreeSet::from([endpoint]));
        (client, sockets)
    });
    Ok(MadePort { port, resolver })
}

/// What nearly every Ethernet has, in octets.
pub(crate) const UNDERLAY_MTU: u16 = 1_500;

/// Where an endpoint's programs ask for names, as in Docker.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);

#[cfg(test)]
mod tests {
    use overlay_core::MacAddr;

    use super::*;
    use crate::driver::InProcess;

    #[test]
    fn the_sockets_of_a_namespace_are_opened_with_its_first_port_alone() {
        let (mut platform, mut resolvers) = (InProcess::new(), Resolvers::default());
        let mut made = |resolvers: &mut Resolvers, number, namespace| {
            let spec = spec(number, namespace);
            let made = create(&mut platform, resolvers, &spec).unwrap();
            made.resolver.map(|(client, _)| client)
        };
        let with = id(1);
        let shared = |interface| Namespace::Shared { with, interface };
        assert_eq!(made(&mut resolvers, 1, Namespace::InProcess), Some(with));
        assert_eq!(made(&mut resolvers, 2, shared(1)), None);
        assert_eq!(made(&mut resolvers, 2, shared(1)), None, "once more");
        assert_eq!(made(&mut resolvers, 4, Namespace::InProcess), Some(id(4)));
        // The first one goes, and another comes.
        resolvers.remove(with);
        assert_eq!(made(&mut resolvers, 3, shared(2)), None);
        // All go: the next one opens them again.
        resolvers.remove(id(2));
        resolvers.remove(id(3));
        assert_eq!(made(&mut resolvers, 5, shared(1)), Some(with));
    }

    fn spec(number: u8, namespace: Namespace) -> PortSpec {
        PortSpec {
            endpoint: id(number),
            interface: format!("eth{}", namespace.interface()),
            namespace,
            mac: MacAddr::new([2, 0, 0, 0, 0, number]),
            addresses: vec![format!("10.0.1.{number}/24").parse().unwrap()],
            on_link: Vec::new(),
            gateway: None,
            mtu: 1_450,
            hostname: "web".to_owned(),
            way_out: None,
            path: DataPath::User,
        }
    }

    fn id(number: u8) -> EndpointId {
        EndpointId::from_bytes([number; 16])
    }
}
