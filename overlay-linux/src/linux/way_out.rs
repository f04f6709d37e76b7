//! The ways out of the ports, and the host's way in.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use ipnet::Ipv4Net;
use overlay_core::{
    EndpointId,
    plane::{NoWayOut, PlatformError, PortSpec, WayOut, WayOutState},
};

use super::{Linux, system, unexpected};
use crate::{
    failure::Failure,
    holder::{
        record::Record,
        wire::{Reply, Request},
    },
    way_out::{Host, inside::Inner, refused},
};

/// A chain of another firewall that drops forwarded packets unless one of its rules accepts them.
///
/// An `accept` of the way out's own rules does not help against it: where such a chain has no rule for the bridge, the way
/// out is open and leads nowhere. Docker makes one where it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppingChain {
    /// Its table, with the family: `ip filter`.
    pub table: String,
    /// Its name: `FORWARD`.
    pub chain: String,
}

/// Bridges that were looked at a moment ago, with their numbers: endpoints that are looked at together share one.
#[derive(Debug, Default)]
pub(super) struct Bridges(BTreeMap<(String, Ipv4Net), u32>);

impl Linux {
    /// Finds what may be in the way of ways out: for a warning, since what the rules in there say is not looked at.
    ///
    /// Rules of the kernel's older tables (`iptables-legacy`) are not seen.
    ///
    /// # Errors
    ///
    /// What the system says, among it that this takes a privilege.
    pub fn dropping_chains(&self) -> Result<Vec<DroppingChain>, PlatformError> {
        let host = Host::open(&self.folder);
        let found = host.and_then(|mut host| host.dropping_chains().map_err(refused));
        let chains = found.map_err(|reason| PlatformError::Unsupported {
            what: "a look at the host's firewall",
            reason: reason.to_string(),
        })?;
        let named = |(table, chain)| DroppingChain { table, chain };
        Ok(chains.into_iter().map(named).collect())
    }

    /// Returns the address by which the host reaches an endpoint: that of its way out.
    ///
    /// # Errors
    ///
    /// [`PlatformError::Unsupported`] with the reason if it has none; else see [`PlatformError`].
    pub fn address_from_host(&mut self, endpoint: EndpointId) -> Result<Ipv4Addr, PlatformError> {
        let reason = match self.way_out_state(endpoint)? {
            Some(WayOutState::Open) => match self.way_out_of(endpoint) {
                Some(way) => return Ok(way.address.addr()),
                None => return Err(PlatformError::UnknownEndpoint { endpoint }),
            },
            Some(WayOutState::Closed(reason)) => reason.to_string(),
            None => "its port asks for no way out".to_owned(),
        };
        Err(PlatformError::Unsupported {
            what: "a connection from the host to this endpoint",
            reason,
        })
    }

    /// Opens a TCP connection from the host to a port of an endpoint, by its way out: the hop of the ingress.
    ///
    /// Blocks for up to `patience`. Whoever does not want to block connects to
    /// [`address_from_host`](Self::address_from_host) by means of their own, from the daemon's namespace.
    ///
    /// # Errors
    ///
    /// As [`address_from_host`](Self::address_from_host), and what the system says of the connection.
    pub fn dial(
        &mut self,
        endpoint: EndpointId,
        port: u16,
        patience: Duration,
    ) -> Result<TcpStream, PlatformError> {
        let address = SocketAddr::from((self.address_from_host(endpoint)?, port));
        TcpStream::connect_timeout(&address, patience)
            .map_err(|error| system(&format!("connect to {address}"), &error))
    }

    /// Makes an endpoint's way out as its spec says, or takes it away; says what had to change.
    ///
    /// Never fails: a port is good without one, and why it is without is kept.
    pub(super) fn settle_way_out(
        &mut self,
        spec: &PortSpec,
        former: Option<&WayOut>,
        bridges: &mut Bridges,
    ) -> Vec<String> {
        let endpoint = spec.namespace.name(spec.endpoint);
        let place = |way: &WayOut| (way.bridge.clone(), way.interface.clone());
        let moved = former.map(place) != spec.way_out.as_ref().map(place);
        let mut done = Vec::new();
        if let Some(former) = former.filter(|_| moved)
            && self.leave_way_out(endpoint, former).is_ok()
        {
            // What could not be removed is in the way of the new one, which says so then.
            done.push(format!("remove {} and its outer end", former.interface));
        }
        if former != spec.way_out.as_ref() {
            // Also what cannot be made yet: the next try is by what the holder remembers. If it does not answer, that
            // try finds it out.
            let remember = Request::WayOut(spec.way_out.clone().map(Box::new));
            let _ = self.call(endpoint, &remember);
        }
        let Some(way) = &spec.way_out else {
            self.closed.remove(&endpoint);
            return done;
        };
        match self.open_way_out(endpoint, way, bridges, &mut done) {
            Ok(()) => {
                self.closed.remove(&endpoint);
            }
            Err(reason) => {
                // Nothing half made stays; the first failure says more than this one.
                let _ = self.leave_way_out(endpoint, way);
                self.closed.insert(endpoint, reason);
                done.clear();
            }
        }
        done
    }

    fn open_way_out(
        &self,
        endpoint: EndpointId,
        way: &WayOut,
        Bridges(bridges): &mut Bridges,
        done: &mut Vec<String>,
    ) -> Result<(), NoWayOut> {
        way.check()?;
        let mut host = Host::open(&self.folder)?;
        let bridge = match bridges.entry((way.bridge.clone(), way.gateway)) {
            Entry::Occupied(furnished) => *furnished.get(),
            Entry::Vacant(vacant) => *vacant.insert(host.furnish(way, done)?),
        };
        let (inner, namespace) = self.inner(endpoint, &way.interface).map_err(asked)?;
        host.join(
            endpoint,
            way,
            bridge,
            inner.as_ref(),
            namespace.as_fd(),
            done,
        )?;
        let request = Request::FurnishWayOut;
        match self.call(endpoint, &request).map_err(asked)? {
            (Reply::Repaired(inside), _) => done.extend(inside),
            (other, _) => return Err(asked(unexpected(&other))),
        }
        host.await_end(endpoint)
    }

    /// Takes an endpoint off its bridge, as far as this process may.
    pub(super) fn leave_way_out(
        &mut self,
        endpoint: EndpointId,
        way: &WayOut,
    ) -> Result<(), PlatformError> {
        self.closed.remove(&endpoint);
        let left = match Host::open(&self.folder) {
            Ok(mut host) => host.leave(endpoint, &way.bridge),
            // Without netfilter there is none.
            Err(_) => return Ok(()),
        };
        match left.map_err(|failure| (refused(failure.clone()), failure)) {
            // What may not be removed here was not made here.
            Ok(()) | Err((NoWayOut::Privilege { .. }, _)) => Ok(()),
            Err((_, failure)) => Err(failure.into()),
        }
    }

    /// What became of the way out of an endpoint, by what is really there.
    pub(super) fn way_out_state(
        &self,
        endpoint: EndpointId,
    ) -> Result<Option<WayOutState>, PlatformError> {
        let (description, _) = self.describe(endpoint)?;
        // All in a namespace have the same.
        let endpoint = self.name_of(endpoint)?;
        let Some(way) = description.spec.way_out else {
            return Ok(None);
        };
        if let Some(reason) = self.closed.get(&endpoint) {
            return Ok(Some(WayOutState::Closed(reason.clone())));
        }
        let (inner, _) = self.inner(endpoint, &way.interface)?;
        let missing = Host::open(&self.folder).and_then(|mut host| {
            host.missing(endpoint, &way, inner.as_ref())
                .map_err(refused)
        });
        Ok(Some(match missing {
            Ok(None) => WayOutState::Open,
            Ok(Some(missing)) => WayOutState::Closed(NoWayOut::Incomplete { missing }),
            Err(reason) => WayOutState::Closed(reason),
        }))
    }

    /// The way out that the ports of a namespace ask for, also of a holder that is gone.
    pub(super) fn way_out_of(&self, endpoint: EndpointId) -> Option<WayOut> {
        if let Ok((description, _)) = self.describe_any(endpoint) {
            return description.spec.way_out;
        }
        let record = Record::read(&self.folder_of(endpoint)).ok()?;
        record.ports.into_iter().find_map(|spec| spec.way_out)
    }

    /// Looks for an interface inside an endpoint, and returns the endpoint's network namespace.
    pub(super) fn inner(
        &self,
        endpoint: EndpointId,
        interface: &str,
    ) -> Result<(Option<Inner>, OwnedFd), PlatformError> {
        let (reply, descriptors) = self.call(endpoint, &Request::Inner(interface.to_owned()))?;
        match (reply, descriptors.into_iter().next()) {
            (Reply::Inner(inner), Some(namespace)) => Ok((inner, namespace)),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

/// What a holder did not do.
fn asked(error: PlatformError) -> NoWayOut {
    match error {
        PlatformError::System {
            operation, code, ..
        } => refused(Failure {
            operation,
            code,
            detail: String::new(),
        }),
        other => NoWayOut::System {
            operation: other.to_string(),
            code: 0,
        },
    }
}
