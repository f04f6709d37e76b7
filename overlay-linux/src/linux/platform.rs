//! The trait by which a node drives Linux.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
};

use overlay_core::{
    EndpointId,
    plane::{
        ActualPort, Change, DataPath, Desired, DesiredPort, Namespace, NoSource, Platform,
        PlatformError, PortSpec, WayOutState,
    },
};

use super::{Linux, Sockets, port_of, unexpected, unknown_if_absent, way_out::Bridges};
use crate::{
    holder::{
        self,
        server::NOT_UNDERSTOOD,
        spec::Spec,
        wire::{Reply, Request},
    },
    netlink::Netlink,
    port::Port,
    sys,
};

impl Platform for Linux {
    type Port = Port;
    type Sockets = Sockets;

    fn create_port(&mut self, spec: &PortSpec) -> Result<Option<Port>, PlatformError> {
        let mode = match &spec.namespace {
            Namespace::Own | Namespace::Shared { .. } => holder::OWN,
            Namespace::Path(path) => {
                check_namespace(path)?;
                holder::JOIN
            }
            Namespace::InProcess => {
                return Err(PlatformError::Unsupported {
                    what: "an endpoint inside the process",
                    reason: "this platform makes ports of the kernel; use the in-memory one".into(),
                });
            }
        };
        match self.describe(spec.endpoint) {
            Ok((description, port)) if is_same_port(&description.spec, spec) => {
                let mut port = port_of(port, description.kind)?;
                if !self.reconnect(spec)? && self.actual_port(spec.endpoint)?.is_none() {
                    // Somebody deleted its interface: the port is made anew, and programs go on.
                    port = self.make_port(spec.namespace.name(spec.endpoint), spec, mode)?;
                }
                if !spec.on_link.is_empty() || description.spec.mtu != spec.mtu {
                    // Its network may have grown, or its underlay has another MTU; a route that is there is no matter.
                    self.call(
                        spec.endpoint,
                        &Request::Repair(Box::new(Spec(spec.clone()))),
                    )?;
                }
                self.settle_way_out(
                    spec,
                    description.spec.way_out.as_ref(),
                    &mut Bridges::default(),
                );
                return Ok(port);
            }
            Ok(_) | Err(PlatformError::UnknownEndpoint { .. }) => {
                self.remove_port(spec.endpoint)?
            }
            Err(error) => return Err(error),
        }
        let name = spec.namespace.name(spec.endpoint);
        let port = self.make_port(name, spec, mode)?;
        let former = self.way_out_of(name);
        self.settle_way_out(spec, former.as_ref(), &mut Bridges::default());
        Ok(port)
    }

    fn remove_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError> {
        self.take_port(endpoint)
    }

    fn retain_ports(
        &mut self,
        kept: &BTreeSet<EndpointId>,
    ) -> Result<Vec<EndpointId>, PlatformError> {
        self.sweep(kept)
    }

    fn open_sockets(
        &mut self,
        endpoint: EndpointId,
        address: SocketAddr,
    ) -> Result<Sockets, PlatformError> {
        let (_, descriptors) = self.call(endpoint, &Request::Sockets(address))?;
        match <[OwnedFd; 2]>::try_from(descriptors) {
            Ok([udp, tcp]) => Ok(Sockets {
                udp: udp.into(),
                tcp: tcp.into(),
            }),
            Err(_) => Err(unexpected(&Reply::Done)),
        }
    }

    fn open_stream(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<TcpStream, PlatformError> {
        let socket = match source {
            None => self.socket(endpoint, &Request::Stream { v6 }),
            Some(source) => self.socket_from(endpoint, v6, source, false),
        };
        socket.map(TcpStream::from)
    }

    fn open_datagrams(
        &mut self,
        endpoint: EndpointId,
        v6: bool,
        source: Option<SocketAddr>,
    ) -> Result<UdpSocket, PlatformError> {
        let socket = match source {
            None => self.socket(endpoint, &Request::Datagrams { v6 }),
            Some(source) => self.socket_from(endpoint, v6, source, true),
        };
        socket.map(UdpSocket::from)
    }

    fn underlay_mtu(&mut self, address: IpAddr) -> Result<Option<u16>, PlatformError> {
        let mtu = Netlink::open().and_then(|mut netlink| netlink.mtu_at(address));
        mtu.map_err(|error| {
            PlatformError::system(format!("look for {address} on an interface"), &error)
        })
    }

    fn apply(&mut self, desired: &Desired) -> Result<Vec<Change>, PlatformError> {
        let (mut changes, mut failed) = (Vec::new(), None);
        let mut bridges = Bridges::default();
        for network in desired.networks.values() {
            for (endpoint, port) in &network.ports {
                if let Err(error) =
                    self.repair(*endpoint, network.mtu, port, &mut bridges, &mut changes)
                {
                    // The others are none the worse.
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            // What was done is told now; what fails still does so at the next look.
            Some(error) if changes.is_empty() => Err(error),
            _ => Ok(changes),
        }
    }

    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError> {
        let mut ports = BTreeMap::new();
        for endpoint in self.endpoints()? {
            if let Some(mut actual) = self.actual_port(endpoint)? {
                actual.way_out = self.way_out_state(endpoint)?;
                ports.insert(endpoint, actual);
            }
        }
        Ok(ports)
    }

    fn way_out(&mut self, endpoint: EndpointId) -> Result<Option<WayOutState>, PlatformError> {
        self.way_out_state(endpoint)
    }
}

impl Linux {
    /// Makes an endpoint's port as it is desired again, and adds what had to change.
    fn repair(
        &mut self,
        endpoint: EndpointId,
        mtu: u16,
        port: &DesiredPort,
        bridges: &mut Bridges,
        changes: &mut Vec<Change>,
    ) -> Result<(), PlatformError> {
        let mut spec = match self.describe(endpoint) {
            Ok((description, _)) => description.spec,
            // Ports are made by `create_port` alone.
            Err(PlatformError::UnknownEndpoint { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if self.reconnect(&spec)? {
            let made = format!("make {} again", spec.interface);
            changes.push(Change::new(Some(endpoint), made));
        }
        spec.mtu = mtu;
        spec.mac = port.mac;
        spec.addresses.clone_from(&port.addresses);
        let repair = Request::Repair(Box::new(Spec(spec.clone())));
        match self.call(endpoint, &repair) {
            Ok((Reply::Repaired(done), _)) => {
                let repairs = done.into_iter();
                changes.extend(repairs.map(|done| Change::new(Some(endpoint), done)));
            }
            Ok((other, _)) => return Err(unexpected(&other)),
            // Whoever reads the port finds out that it is gone, and has it made anew.
            Err(error) if is_absent(&error) && spec.path == DataPath::User => return Ok(()),
            Err(error) => return Err(error),
        }
        let done = self.settle_way_out(&spec, spec.way_out.as_ref(), bridges);
        let repairs = done.into_iter();
        changes.extend(repairs.map(|done| Change::new(Some(endpoint), done)));
        Ok(())
    }

    /// Reads back what is really there of an endpoint's port: nothing if it has none, or its interface was deleted.
    fn actual_port(&self, endpoint: EndpointId) -> Result<Option<ActualPort>, PlatformError> {
        let found = self.describe_any(endpoint).and_then(|(any, _)| {
            // A holder of an earlier release has one port, and knows of no other question.
            let asked = if any.spec.endpoint == endpoint {
                Request::Actual
            } else {
                Request::ActualPort(endpoint)
            };
            self.call(endpoint, &asked)
        });
        match found {
            Ok((Reply::Actual(actual), _)) => Ok(Some(actual)),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(PlatformError::UnknownEndpoint { .. }) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks a holder for a socket.
    fn socket(&self, endpoint: EndpointId, request: &Request) -> Result<OwnedFd, PlatformError> {
        let (reply, descriptors) = self.call(endpoint, request)?;
        let socket = descriptors.into_iter().next();
        socket.ok_or_else(|| unexpected(&reply))
    }

    /// Asks a holder for a socket that shows a client's address.
    fn socket_from(
        &self,
        endpoint: EndpointId,
        v6: bool,
        source: SocketAddr,
        datagrams: bool,
    ) -> Result<OwnedFd, PlatformError> {
        let refused = |reason| PlatformError::Source {
            address: source,
            reason,
        };
        NoSource::check(source, v6).map_err(refused)?;
        let request = Request::From {
            endpoint,
            source,
            datagrams,
        };
        match self.call(endpoint, &request) {
            Ok((Reply::NoSource(reason), _)) => Err(refused(reason)),
            Ok((reply, descriptors)) => {
                let socket = descriptors.into_iter().next();
                socket.ok_or_else(|| unexpected(&reply))
            }
            Err(PlatformError::System { operation, .. })
                if operation.starts_with(NOT_UNDERSTOOD) =>
            {
                let reason = "an earlier release started this program; start it anew".to_owned();
                Err(refused(NoSource::Unsupported { reason }))
            }
            Err(error) => Err(unknown_if_absent(error, endpoint)),
        }
    }
}

/// Whether a holder has no such port, or one whose interface somebody deleted.
fn is_absent(error: &PlatformError) -> bool {
    matches!(error, PlatformError::System { code, .. } if *code == nix::libc::ENODEV)
}

/// Whether a port can be taken up: a way out comes and goes without it, and an MTU is set anew.
fn is_same_port(made: &PortSpec, wanted: &PortSpec) -> bool {
    let (way_out, on_link) = (made.way_out.clone(), made.on_link.clone());
    let wanted = PortSpec {
        way_out,
        on_link,
        mtu: made.mtu,
        ..wanted.clone()
    };
    *made == wanted
}

/// Refuses early, and in words, what the holder could not enter.
fn check_namespace(path: &Path) -> Result<(), PlatformError> {
    let refused = |kind| PlatformError::Namespace {
        path: path.to_owned(),
        kind,
    };
    let file = File::open(path).map_err(|error| refused(error.kind()))?;
    // On another kind of file the question itself is an error.
    let network = sys::is_network(&file).unwrap_or(false);
    if network {
        Ok(())
    } else {
        Err(refused(io::ErrorKind::InvalidInput))
    }
}
