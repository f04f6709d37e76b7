//! The trait by which a node drives Linux.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
};

use overlay_core::{
    EndpointId,
    plane::{ActualPort, Change, Desired, Namespace, Platform, PlatformError, PortSpec},
};

use super::{Linux, Sockets, exchange, port_of, system, unexpected};
use crate::{
    holder::{
        self,
        wire::{Reply, Request},
    },
    port::Port,
    sys,
};

impl Platform for Linux {
    type Port = Port;
    type Sockets = Sockets;

    fn create_port(&mut self, spec: &PortSpec) -> Result<Port, PlatformError> {
        let mode = match &spec.namespace {
            Namespace::Own => holder::OWN,
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
            Ok((description, port)) if description.spec == *spec => {
                return port_of(port, description.kind);
            }
            Ok(_) => self.remove_port(spec.endpoint)?,
            Err(PlatformError::UnknownEndpoint { .. }) => self.clear(spec.endpoint)?,
            Err(error) => return Err(error),
        }
        self.launch(spec, mode)
    }

    fn remove_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError> {
        match self.connect(endpoint) {
            Ok(mut connection) => {
                exchange(&mut connection, &Request::Remove)?;
                // The end of the stream is the end of the process.
                while connection.receive::<Reply>().is_ok() {}
            }
            Err(PlatformError::UnknownEndpoint { .. }) => {}
            Err(error) => return Err(error),
        }
        self.clear(endpoint)
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
                spec.mtu = network.mtu;
                spec.mac = port.mac;
                spec.addresses.clone_from(&port.addresses);
                match self.call(*endpoint, &Request::Repair(Box::new(spec)))? {
                    (Reply::Repaired(done), _) => {
                        let repairs = done.into_iter();
                        changes.extend(repairs.map(|done| Change::new(Some(*endpoint), done)));
                    }
                    (other, _) => return Err(unexpected(&other)),
                }
            }
        }
        Ok(changes)
    }

    fn actual(&mut self) -> Result<BTreeMap<EndpointId, ActualPort>, PlatformError> {
        let mut ports = BTreeMap::new();
        for endpoint in self.endpoints()? {
            match self.call(endpoint, &Request::Actual) {
                Ok((Reply::Actual(actual), _)) => {
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
}

impl Linux {
    /// Removes what a holder that is gone has left.
    fn clear(&self, endpoint: EndpointId) -> Result<(), PlatformError> {
        let folder = self.folder_of(endpoint);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system(&format!("remove {}", folder.display()), &error))
            }
            _ => Ok(()),
        }
    }
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
