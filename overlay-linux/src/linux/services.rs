//! Virtual addresses in the namespaces of endpoints whose networks the kernel carries, and what may be opened to them.

use std::{collections::BTreeMap, fs::File, os::unix::fs::MetadataExt};

use ipnet::IpNet;
use overlay_core::{
    EndpointId, ServiceId,
    plane::{DataPath, Desired, DesiredNetwork, DesiredPort, DesiredService, PlatformError},
};

use super::Linux;
use crate::{
    failure::{Doing, Failure},
    namespace,
    nftables::{Nftables, Table, difference},
    plane::{ACCESS, Access, access},
    services::{Netfilter, Reconciler, Refused, Report as ServiceReport, Stats},
};

/// The virtual addresses of services, made in each endpoint's namespace by nf_tables: of the networks that the kernel
/// carries, where no switch sees a frame that could be led.
///
/// Where a network has rules, what programs may open to its virtual addresses is judged here, before a backend is chosen; what
/// they may open to the backend itself is judged on the way, by the [plane](crate::plane). Flows that are forwarded here, by
/// other endpoints' leave, are judged on the way only. A datagram that is denied is told to its sender as `EPERM`. Programs that
/// may change their namespace can take these rules away until the next call, but not those on the way.
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
    judge: Judge,
}

/// What keeps a namespace's rules for virtual addresses.
#[derive(Debug)]
struct Judge {
    tables: Nftables,
    /// What was wanted when it last succeeded.
    last: Option<Table>,
    /// Whether it is known what an earlier life left.
    looked: bool,
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
        let mut judged: BTreeMap<EndpointId, Vec<Access<'_>>> = BTreeMap::new();
        for network in desired.networks.values() {
            if network.path != DataPath::Kernel {
                continue;
            }
            for (endpoint, port) in &network.ports {
                let name = linux.name_of(*endpoint)?;
                judged
                    .entry(name)
                    .or_default()
                    .extend(accesses(network, port));
                let services = wanted.entry(name).or_default();
                services.extend(network.services.iter().map(|(id, service)| (*id, service)));
            }
        }
        let mut report = EndpointReport::default();
        let none = Services::new();
        let names = wanted.keys().chain(self.namespaces.keys());
        let names: Vec<EndpointId> = names.copied().collect();
        for name in names {
            let services = wanted.get(&name);
            let table = judged.get(&name).and_then(|all| access(all));
            let services = services.unwrap_or(&none);
            match self.apply_to(linux, name, services, table.as_ref(), &mut report) {
                Ok(()) => {}
                Err(PlatformError::UnknownEndpoint { .. }) => self.forget(name),
                Err(error) => {
                    report.failed.insert(name, error);
                }
            }
            if !wanted.contains_key(&name) {
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
        table: Option<&Table>,
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
            let (netfilter, tables) = open_in(&namespace)?;
            let known = Known {
                identity,
                reconciler: Some(Reconciler::new(netfilter)),
                judge: Judge {
                    tables,
                    last: None,
                    looked: false,
                },
            };
            self.namespaces.insert(name, known);
        }
        self.judge(name, table, report)?;
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

    /// Makes the rules for virtual addresses such as these, before anything leads there. Where they cannot be, nothing does.
    fn judge(
        &mut self,
        name: EndpointId,
        table: Option<&Table>,
        report: &mut EndpointReport,
    ) -> Result<(), PlatformError> {
        let Some(known) = self.namespaces.get_mut(&name) else {
            return Ok(());
        };
        let judge = &mut known.judge;
        match judge.apply(table) {
            Ok(words) => {
                if judge.last.as_ref() == table {
                    report.repairs += words.len() as u64;
                }
                judge.last = table.cloned();
                let words = words.into_iter().map(|one| format!("access: {one}"));
                report.operations.extend(words.map(|one| (name, one)));
                Ok(())
            }
            Err(failure) => {
                if let Some(reconciler) = &mut known.reconciler {
                    reconciler.kernel().remove()?;
                }
                Err(failure.into())
            }
        }
    }

    fn forget(&mut self, name: EndpointId) {
        let known = self.namespaces.remove(&name);
        if let Some(reconciler) = known.and_then(|known| known.reconciler) {
            self.former = sum(self.former, reconciler.stats());
        }
    }
}

impl Judge {
    /// Says what was done.
    fn apply(&mut self, wanted: Option<&Table>) -> Result<Vec<String>, Failure> {
        if wanted.is_none() && self.last.is_none() && self.looked {
            return Ok(Vec::new());
        }
        let doing = || format!("read the table {ACCESS}");
        let there = self.tables.read(ACCESS).doing(doing)?;
        self.looked = true;
        let doing = || format!("change the table {ACCESS}");
        match (there, wanted) {
            (None, None) => Ok(Vec::new()),
            (Some(_), None) => {
                self.tables.delete(ACCESS).doing(doing)?;
                Ok(vec!["remove the table".to_owned()])
            }
            (there, Some(wanted)) if there.as_ref() == Some(wanted) => Ok(Vec::new()),
            (there, Some(wanted)) => {
                let mut batch = self.tables.batch(ACCESS);
                batch.turn(there.as_ref(), wanted);
                if self.tables.commit(&batch).is_err() {
                    self.tables.replace(ACCESS, wanted).doing(doing)?;
                }
                Ok(difference(there.as_ref(), wanted).words)
            }
        }
    }
}

/// What leads from a port to the virtual addresses of its network, where that has rules.
fn accesses<'a>(network: &'a DesiredNetwork, port: &DesiredPort) -> Vec<Access<'a>> {
    if network.policy.is_open() {
        return Vec::new();
    }
    let services = network.services.values();
    let vips = services.flat_map(|service| service.addresses.iter().copied());
    let all = vips.flat_map(|to| {
        let own = port.addresses.iter().map(IpNet::addr);
        let own = own.filter(move |from| from.is_ipv6() == to.is_ipv6());
        own.map(move |from| Access {
            from,
            to,
            policy: &network.policy,
        })
    });
    all.collect()
}

fn sum(one: Stats, other: Stats) -> Stats {
    Stats {
        applied: one.applied + other.applied,
        operations: one.operations + other.operations,
        repairs: one.repairs + other.repairs,
        forgotten: one.forgotten + other.forgotten,
    }
}

fn open_in(namespace: &File) -> Result<(Netfilter, Nftables), PlatformError> {
    let home = namespace::current()?;
    namespace::enter(namespace)?;
    let opened = Netfilter::open();
    let tables = Nftables::open_inet().doing(|| "open a netfilter socket".into());
    let back: Result<(), Failure> = namespace::enter(&home);
    back?;
    Ok((opened?, tables?))
}
