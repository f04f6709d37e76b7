//! Ports of the kernel plane: veth pairs whose outer ends are in the switch namespace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use overlay_core::{
    EndpointId,
    plane::{DataPath, PlatformError, PortSpec},
};

use super::{Linux, exchange_with, system, unexpected};
use crate::{
    failure::{Doing, Failure},
    holder::{
        spec::Spec,
        wire::{Reply, Request},
    },
    namespace,
    netlink::Netlink,
    plane::port_name,
    sys,
};

impl Linux {
    /// Opens the namespace of a port's outer end, if it is of the kernel plane.
    pub(super) fn switch_of(&self, spec: &PortSpec) -> Result<Option<File>, PlatformError> {
        if spec.path != DataPath::Kernel {
            return Ok(None);
        }
        let path = self.switch.as_ref();
        let path = path.ok_or_else(|| PlatformError::Unsupported {
            what: "a network that the kernel carries",
            reason: "this daemon has no switch namespace".to_owned(),
        })?;
        let doing = format!("open the switch namespace {}", path.display());
        let file = File::open(path).map_err(|error| system(&doing, &error))?;
        if sys::is_network(&file).unwrap_or(false) {
            Ok(Some(file))
        } else {
            Err(system(&doing, &io::ErrorKind::InvalidInput.into()))
        }
    }

    /// Asks the holder of the namespace that is named after `name` for one more port.
    pub(super) fn add_port(
        &self,
        name: EndpointId,
        spec: &PortSpec,
    ) -> Result<(Reply, Vec<OwnedFd>), PlatformError> {
        let (switch, known) = (self.switch_of(spec)?, Box::new(Spec(spec.clone())));
        let mut connection = self.connect(name)?;
        let (request, descriptors) = match &switch {
            None => (Request::AddPort(known), Vec::new()),
            Some(switch) => (Request::AddBridgedPort(known), vec![switch.as_fd()]),
        };
        exchange_with(&mut connection, &request, &descriptors)
    }

    /// Makes a port of the kernel plane again whose outer end is not where it should be; true if that was so. Programs
    /// and other ports of its namespace go on.
    pub(super) fn reconnect(&self, spec: &PortSpec) -> Result<bool, PlatformError> {
        // Without the namespace nothing can be said of it, and other ports are none the worse.
        let switch = self.switch.as_ref().map(|_| self.switch_of(spec));
        let Some(switch) = switch.transpose()?.flatten() else {
            return Ok(false);
        };
        if is_connected(&switch, spec.endpoint)? {
            return Ok(false);
        }
        match self.add_port(spec.endpoint, spec)? {
            (Reply::Ready(_), _) => Ok(true),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

/// Whether the outer end of an endpoint's port is in the switch namespace.
fn is_connected(switch: &File, endpoint: EndpointId) -> Result<bool, Failure> {
    let home = namespace::current()?;
    namespace::enter(switch)?;
    let netlink = Netlink::open().doing(|| "open a netlink socket".into());
    namespace::enter(&home)?;
    let name = port_name(endpoint);
    let found = netlink?.find(&name).doing(|| format!("look for {name}"))?;
    Ok(found.is_some())
}
