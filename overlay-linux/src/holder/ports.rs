//! The ports of a holder: all in the one network namespace that it keeps.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{errno::Errno, sys::socket::SockType};
use overlay_core::{
    EndpointId,
    plane::{ActualPort, NoSource, PortSpec, WayOut},
};

use crate::{
    failure::{Doing, Failure},
    port::{self, Made, PortKind},
    transparent::Sources,
};

/// The ports that a holder has made, and the way out that is asked for by all of them.
#[derive(Debug)]
pub(crate) struct Ports {
    /// The kind of port, where only one will do.
    kind: Option<PortKind>,
    held: BTreeMap<EndpointId, Held>,
    way_out: Option<WayOut>,
}

#[derive(Debug)]
struct Held {
    spec: PortSpec,
    made: Made,
    sources: Sources,
}

impl Held {
    fn remove(&mut self) -> Result<(), Failure> {
        let forgotten = self.sources.forget();
        self.made.remove().and(forgotten)
    }
}

impl Ports {
    pub(crate) fn new(kind: Option<PortKind>) -> Self {
        Self {
            kind,
            held: BTreeMap::new(),
            way_out: None,
        }
    }

    /// Makes a port in the namespace that the process is in; one that the endpoint has already is replaced.
    ///
    /// With a `switch` namespace its outer end is in there.
    pub(crate) fn add(
        &mut self,
        spec: PortSpec,
        switch: Option<BorrowedFd<'_>>,
    ) -> Result<(), Failure> {
        self.remove(spec.endpoint)?;
        let name = &spec.interface;
        if self.held.len() >= PORTS_MAX {
            let doing = format!("make a port more than {PORTS_MAX}");
            return Err(Failure::new(doing, &Errno::EMFILE.into()));
        }
        if let Some(other) = self.held.values().find(|one| one.spec.interface == *name) {
            let other = other.spec.endpoint;
            let doing = format!("make {name}, which is endpoint {other}'s");
            return Err(Failure::new(doing, &Errno::EEXIST.into()));
        }
        let made = port::make(&spec, self.kind, switch)?;
        let sources = Sources::new(made.index());
        let held = Held {
            spec,
            made,
            sources,
        };
        self.held.insert(held.spec.endpoint, held);
        Ok(())
    }

    /// Removes a port; an unknown one is fine.
    pub(crate) fn remove(&mut self, endpoint: EndpointId) -> Result<(), Failure> {
        let held = self.held.remove(&endpoint);
        held.map_or(Ok(()), |mut held| held.remove())
    }

    /// Removes all ports; the first failure is told.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        let held = std::mem::take(&mut self.held);
        let removed = held.into_values().map(|mut held| held.remove());
        removed.fold(Ok(()), Result::and)
    }

    /// Makes a port's interface as `spec` says again, and says what had to change.
    pub(crate) fn repair(&mut self, spec: &PortSpec) -> Result<Vec<String>, Failure> {
        let held = self.held.get_mut(&spec.endpoint).ok_or_else(unknown)?;
        let done = held.made.repair(spec)?;
        // Which plane a port belongs to is settled when it is made.
        let path = held.spec.path;
        held.spec = PortSpec {
            path,
            ..spec.clone()
        };
        Ok(done)
    }

    /// Reads back what is really there of a port.
    pub(crate) fn actual(&mut self, endpoint: EndpointId) -> Result<ActualPort, Failure> {
        let held = self.held.get_mut(&endpoint).ok_or_else(unknown)?;
        held.made.actual()
    }

    /// Makes a socket that shows `source` to those that it reaches at the endpoint's addresses.
    pub(crate) fn open_from(
        &mut self,
        endpoint: EndpointId,
        source: SocketAddr,
        kind: SockType,
    ) -> Result<Result<OwnedFd, NoSource>, Failure> {
        let held = self.held.get_mut(&endpoint).ok_or_else(unknown)?;
        held.sources.open(&held.spec.addresses, source, kind)
    }

    /// What a port was made from, by what means it is attached, and its descriptor if it has one.
    pub(crate) fn describe(
        &self,
        endpoint: EndpointId,
    ) -> Result<(PortSpec, PortKind, Option<OwnedFd>), Failure> {
        let held = self.held.get(&endpoint).ok_or_else(unknown)?;
        let port = held.made.port.as_ref();
        let port = port.map(|port| port.as_fd().try_clone_to_owned());
        let port = port.transpose();
        let port = port.doing(|| "copy the port's descriptor".into())?;
        Ok((self.spec(held), held.made.kind(), port))
    }

    /// The endpoint of the port that stands for all of them, towards a daemon that knows of one only.
    pub(crate) fn first(&self) -> Result<EndpointId, Failure> {
        self.held.keys().next().copied().ok_or_else(unknown)
    }

    /// What the ports were made from, by their interfaces.
    pub(crate) fn specs(&self) -> Vec<PortSpec> {
        let mut specs: Vec<_> = self.held.values().map(|held| self.spec(held)).collect();
        // As numbers: eth2 is before eth10.
        specs.sort_by(|a, b| {
            let key = |spec: &PortSpec| (spec.interface.len(), spec.interface.clone());
            key(a).cmp(&key(b))
        });
        specs
    }

    pub(crate) fn way_out(&self) -> Option<&WayOut> {
        self.way_out.as_ref()
    }

    pub(crate) fn set_way_out(&mut self, way_out: Option<WayOut>) {
        self.way_out = way_out;
    }

    fn spec(&self, held: &Held) -> PortSpec {
        PortSpec {
            way_out: self.way_out.clone(),
            ..held.spec.clone()
        }
    }
}

fn unknown() -> Failure {
    Failure::new("look for the endpoint's port", &Errno::ENODEV.into())
}

/// Ports in a namespace at the most.
const PORTS_MAX: usize = 64;
