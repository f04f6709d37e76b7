//! Virtual addresses in the namespaces of endpoints whose networks the kernel carries.

use std::{collections::BTreeMap, fs::File, os::unix::fs::MetadataExt};

use overlay_core::{
    EndpointId, ServiceId,
    plane::{DataPath, Desired, DesiredService, PlatformError},
};

use super::Linux;
use crate::{
    failure::{Doing, Failure},
    namespace,
    services::{Netfilter, Reconciler, Refused, Report as ServiceReport, Stats},
};

/// The virtual addresses of services, made in each endpoint's namespace by nf_tables: of the networks that the kernel
/// carries, where no switch sees a frame that could be led.
///
/// It is to be called with the same [`Desired`] as the plane's own [`Reconciler`](crate::plane::Reconciler), and as often.
#[derive(Debug, Default)]
pub struct EndpointServices {
    /// By the endpoint after which a namespace is named, with what tells it from a later one of the name.
    namespaces: BTreeMap<EndpointId, Known>,
    /// Of namespaces that are gone.
    former: Stats,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointReport {
    /// What was done, by the endpoint after which the namespace is named, in words.
    pub operations: Vec<(EndpointId, String)>,
    /// How many of them were repairs.
    pub repairs: u64,
    /// The services that the kernel does not serve.
    pub refused: BTreeMap<ServiceId, Refused>,
    /// The namespaces in which something failed, and what.
    pub failed: BTreeMap<EndpointId, PlatformError>,
}

/// A namespace.
#[derive(Debug)]
struct Known {
    /// Device and inode of its file.
    identity: (u64, u64),
    /// None where there is nothing to serve: then there is no table either, and connections are not tracked.
    reconciler: Option<Reconciler<Netfilter>>,
}

type Services<'a> = BTreeMap<ServiceId, &'a DesiredService>;

impl EndpointServices {
    /// Serves nothing yet, whatever an earlier life left in the namespaces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the namespaces of `linux` lead to the services of their networks, and to no others. One that is not there, or
    /// fails, is in the way of no other.
    ///
    /// # Errors
    ///
    /// If the state folder cannot be read; what fails in a namespace is in the [report](EndpointReport::failed).
    pub fn apply(
        &mut self,
        linux: &Linux,
        desired: &Desired,
    ) -> Result<EndpointReport, PlatformError> {
        let mut wanted: BTreeMap<EndpointId, Services<'_>> = BTreeMap::new();
        for network in desired.networks.values() {
            if network.path != DataPath::Kernel {
                continue;
            }
            for endpoint in network.ports.keys() {
                let services = wanted.entry(linux.name_of(*endpoint)?).or_default();
                services.extend(network.services.iter().map(|(id, service)| (*id, service)));
            }
        }
        let mut report = EndpointReport::default();
        let none = Services::new();
        let names = wanted.keys().chain(self.namespaces.keys());
        let names: Vec<EndpointId> = names.copied().collect();
        for name in names {
            let services = wanted.get(&name);
            match self.apply_to(linux, name, services.unwrap_or(&none), &mut report) {
                Ok(()) => {}
                Err(PlatformError::UnknownEndpoint { .. }) => self.forget(name),
                Err(error) => {
                    report.failed.insert(name, error);
                }
            }
            if services.is_none() {
                self.forget(name);
            }
        }
        Ok(report)
    }

    /// Returns what was done so far, in all namespaces.
    pub fn stats(&self) -> Stats {
        let present = self.namespaces.values();
        let present = present.filter_map(|known| known.reconciler.as_ref());
        let present = present.map(Reconciler::stats);
        present.fold(self.former, sum)
    }

    fn apply_to(
        &mut self,
        linux: &Linux,
        name: EndpointId,
        services: &Services<'_>,
        report: &mut EndpointReport,
    ) -> Result<(), PlatformError> {
        let (_, namespace) = linux.inner(name, "")?;
        let namespace = File::from(namespace);
        let found = namespace
            .metadata()
            .doing(|| "look at a namespace".into())?;
        let identity = (found.dev(), found.ino());
        let known = self.namespaces.get(&name);
        let known = known.filter(|known| known.identity == identity);
        let fresh = match known {
            // Also where there is nothing to serve: an earlier life may have left something.
            None => true,
            Some(known) => known.reconciler.is_none() && !services.is_empty(),
        };
        if fresh {
            self.forget(name);
            let reconciler = Some(Reconciler::new(open_in(&namespace)?));
            let known = Known {
                identity,
                reconciler,
            };
            self.namespaces.insert(name, known);
        }
        let known = self.namespaces.get_mut(&name);
        let Some(reconciler) = known.and_then(|known| known.reconciler.as_mut()) else {
            return Ok(());
        };
        // A table costs tens of milliseconds: it is not made in order to be removed.
        let done = if services.is_empty() && !reconciler.finds_any()? {
            ServiceReport::default()
        } else {
            reconciler.apply(services.iter().map(|(id, service)| (id, *service)))?
        };
        let words = done.operations.iter().map(ToString::to_string);
        let words = words.map(|words| (name, words));
        report.operations.extend(words);
        report.repairs += done.repairs;
        report.refused.extend(done.refused);
        if services.is_empty() {
            reconciler.kernel().remove()?;
            self.former = sum(self.former, reconciler.stats());
            if let Some(known) = self.namespaces.get_mut(&name) {
                known.reconciler = None;
            }
        }
        Ok(())
    }

    fn forget(&mut self, name: EndpointId) {
        let known = self.namespaces.remove(&name);
        if let Some(reconciler) = known.and_then(|known| known.reconciler) {
            self.former = sum(self.former, reconciler.stats());
        }
    }
}

fn sum(one: Stats, other: Stats) -> Stats {
    Stats {
        applied: one.applied + other.applied,
        operations: one.operations + other.operations,
        repairs: one.repairs + other.repairs,
        forgotten: one.forgotten + other.forgotten,
    }
}

fn open_in(namespace: &File) -> Result<Netfilter, PlatformError> {
    let home = namespace::current()?;
    namespace::enter(namespace)?;
    let opened = Netfilter::open();
    let back: Result<(), Failure> = namespace::enter(&home);
    back?;
    opened
}
