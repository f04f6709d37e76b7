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
        ActualPort, Change, Desired, Namespace, NoSource, Platform, PlatformError, PortSpec,
        WayOutState,
    },
};

use super::{Linux, Sockets, port_of, unexpected, unknown_if_absent};
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
                let port = port_of(port, description.kind)?;
                self.reconnect(spec)?;
                if !spec.on_link.is_empty() {
                    // Its network may have grown; a route that is there is no matter.
                    self.call(
                        spec.endpoint,
                        &Request::Repair(Box::new(Spec(spec.clone()))),
                    )?;
                }
                self.settle_way_out(spec, description.spec.way_out.as_ref());
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
        self.settle_way_out(spec, former.as_ref());
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
        let mut changes = Vec::new();
        for network in desired.networks.values() {
            for (endpoint, port) in &network.ports {
                let mut spec = match self.describe(*endpoint) {
                    Ok((description, _)) => description.spec,
                    // Ports are made by `create_port` alone.
                    Err(PlatformError::UnknownEndpoint { .. }) => continue,
                    Err(error) => return Err(error),
                };
                if self.reconnect(&spec)? {
                    let made = format!("make {} again", spec.interface);
                    changes.push(Change::new(Some(*endpoint), made));
                }
                spec.mtu = network.mtu;
                spec.mac = port.mac;
                spec.addresses.clone_from(&port.addresses);
                let repair = Request::Repair(Box::new(Spec(spec.clone())));
                match self.call(*endpoint, &repair)? {
                    (Reply::Repaired(done), _) => {
                        let repairs = done.into_iter();
                        changes.extend(repairs.map(|done| Change::new(Some(*endpoint), done)));
                    }
                    (other, _) => return Err(unexpected(&other)),
                }
                let done = self.settle_way_out(&spec, spec.way_out.as_ref());
                let repairs = done.into_iter();
                changes.extend(repairs.map(|done| Change::new(Some(*endpoint), done)));
            }
        }
        Ok(changes)
    }

    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError> {
        let mut ports = BTreeMap::new();
        for endpoint in self.endpoints()? {
            let asked = match self.describe_any(endpoint) {
                Ok((any, _)) if any.spec.endpoint == endpoint => Request::Actual,
                Ok(_) => Request::ActualPort(endpoint),
                Err(PlatformError::UnknownEndpoint { .. }) => continue,
                Err(error) => return Err(error),
            };
            match self.call(endpoint, &asked) {
                Ok((Reply::Actual(mut actual), _)) => {
                    actual.way_out = self.way_out_state(endpoint)?;
                    ports.insert(endpoint, actual);
                }
                Ok((other, _)) => return Err(unexpected(&other)),
                Err(PlatformError::UnknownEndpoint { .. }) => {}
                // A holder whose interface somebody deleted has no port.
                Err(PlatformError::System { code, .. }) if code == nix::libc::ENODEV => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ports)
    }

    fn way_out(&mut self, endpoint: EndpointId) -> Result<Option<WayOutState>, PlatformError> {
        self.way_out_state(endpoint)
    }
}

impl Linux {
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

/// Whether a port can be taken up: a way out comes and goes without it.
fn is_same_port(made: &PortSpec, wanted: &PortSpec) -> bool {
    let (way_out, on_link) = (made.way_out.clone(), made.on_link.clone());
    let wanted = PortSpec {
        way_out,
        on_link,
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
