//! Namespaces that endpoints share: which one an endpoint is in, and what is left of it.
//!
//! A holder's folder has the name of the endpoint after which the namespace is named. That of each other endpoint in there
//! is a symbolic link to it: so the holder, its record and its output are found by way of any of them.

use std::{collections::BTreeSet, fs, io, os::unix::fs::symlink};

use overlay_core::{
    EndpointId,
    plane::{PlatformError, PortSpec},
};

use super::{Linux, exchange, make_folder, port_of, system, unexpected};
use crate::{
    holder::{
        record::Record,
        server::NOT_UNDERSTOOD,
        wire::{Reply, Request},
    },
    port::Port,
};

impl Linux {
    /// Makes a port in the namespace that is named after `name`, and the namespace if it is not there.
    pub(super) fn make_port(
        &self,
        name: EndpointId,
        spec: &PortSpec,
        mode: &str,
    ) -> Result<Option<Port>, PlatformError> {
        let endpoint = spec.endpoint;
        // Before the port: what is found by nobody would never be removed.
        self.link(endpoint, name)?;
        let added = match self.add_port(name, spec) {
            Err(PlatformError::UnknownEndpoint { .. }) => {
                self.clear(name)?;
                self.launch(name, spec, mode)
            }
            Ok((Reply::Ready(kind), descriptors)) => port_of(descriptors.into_iter().next(), kind),
            Ok((other, _)) => Err(unexpected(&other)),
            Err(PlatformError::System { operation, .. })
                if operation.starts_with(NOT_UNDERSTOOD) =>
            {
                Err(PlatformError::Unsupported {
                    what: "one more network",
                    reason: "an earlier release started this program; start it anew".to_owned(),
                })
            }
            Err(error) => Err(error),
        };
        if added.is_err() && endpoint != name {
            let _ = self.clear(endpoint);
        }
        added
    }

    /// Removes a port, and with the last one of its namespace all that lives in there.
    pub(super) fn take_port(&mut self, endpoint: EndpointId) -> Result<(), PlatformError> {
        let name = self.name_of(endpoint)?;
        let way = self.way_out_of(name);
        let others = self.others(name, endpoint)?;
        // A holder of an earlier release has one port and knows of no other way.
        let last = others.is_empty() && endpoint == name;
        let request = if last {
            Request::Remove
        } else {
            Request::RemovePort(endpoint)
        };
        let asked = self.connect(endpoint).and_then(|mut connection| {
            let (reply, _) = exchange(&mut connection, &request)?;
            let ended = !matches!(reply, Reply::Left(1..));
            // The end of the stream is the end of the process.
            while ended && connection.receive::<Reply>().is_ok() {}
            Ok(ended)
        });
        let ended = match asked {
            Ok(ended) => ended,
            // What it has written down is of use as long as a port in there is to be made again.
            Err(error) if is_over(&error) => {
                let record = Record::read(&self.folder_of(name));
                let own = |record: Record| record.port(name).is_some();
                endpoint == name || (others.is_empty() && !record.is_ok_and(own))
            }
            Err(error) => return Err(error),
        };
        if !ended {
            return if endpoint == name {
                Ok(())
            } else {
                self.clear(endpoint)
            };
        }
        let left = way.map_or(Ok(()), |way| self.leave_way_out(name, &way));
        self.clear(endpoint)?;
        self.clear(name)?;
        left
    }

    /// Removes all ports and folders but those of these endpoints.
    pub(super) fn sweep(
        &mut self,
        kept: &BTreeSet<EndpointId>,
    ) -> Result<Vec<EndpointId>, PlatformError> {
        let names: Result<BTreeSet<_>, _> = kept.iter().map(|one| self.name_of(*one)).collect();
        let names = names?;
        let mut gone = self.endpoints()?;
        gone.retain(|endpoint| {
            // The folder of a namespace stays with the last port in there, which may be another's.
            let in_use = names.contains(endpoint) && self.describe(*endpoint).is_err();
            !kept.contains(endpoint) && !in_use
        });
        // One that cannot be removed is in the way of no other.
        let removed = gone.iter().map(|endpoint| self.take_port(*endpoint));
        let removed = removed.fold(Ok(()), Result::and);
        removed.map(|()| gone)
    }

    /// Returns the endpoint after which the namespace of an endpoint is named.
    pub(super) fn name_of(&self, endpoint: EndpointId) -> Result<EndpointId, PlatformError> {
        let link = self.folder_of(endpoint);
        match fs::read_link(&link) {
            Ok(target) => {
                let name = target.to_str().and_then(|name| name.parse().ok());
                name.ok_or_else(|| {
                    let kind = io::ErrorKind::InvalidData.into();
                    system(&format!("follow {}", link.display()), &kind)
                })
            }
            // A folder of its own, or nothing.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                Ok(endpoint)
            }
            Err(error) => Err(system(&format!("read {}", link.display()), &error)),
        }
    }

    /// Returns the endpoints whose folders lead to that of `name`, but for one of them.
    fn others(&self, name: EndpointId, but: EndpointId) -> Result<Vec<EndpointId>, PlatformError> {
        let mut others = self.endpoints()?;
        others.retain(|other| {
            let leads = || self.name_of(*other).is_ok_and(|found| found == name);
            *other != but && *other != name && leads()
        });
        Ok(others)
    }

    fn link(&self, endpoint: EndpointId, name: EndpointId) -> Result<(), PlatformError> {
        if endpoint == name || self.name_of(endpoint)? == name {
            return Ok(());
        }
        let link = self.folder_of(endpoint);
        let made = make_folder(&self.folder).and_then(|()| symlink(name.to_string(), &link));
        made.map_err(|error| system(&format!("make {}", link.display()), &error))
    }

    /// Removes what a holder that is gone has left, or the link to the folder of one.
    fn clear(&self, endpoint: EndpointId) -> Result<(), PlatformError> {
        let folder = self.folder_of(endpoint);
        // A link goes, and not what it leads to.
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(system(&format!("remove {}", folder.display()), &error))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a holder is gone, or has ended while it was asked: one does whose daemon died before it was ready.
fn is_over(error: &PlatformError) -> bool {
    use io::ErrorKind as Kind;
    match error {
        PlatformError::UnknownEndpoint { .. } => true,
        PlatformError::System { kind, .. } => matches!(
            kind,
            Kind::ConnectionReset | Kind::BrokenPipe | Kind::UnexpectedEof
        ),
        _ => false,
    }
}
