//! Makes the kernel hold what is wanted, and goes on doing so.

use std::collections::{BTreeMap, BTreeSet};

use overlay_core::{
    NetworkId, Vni,
    plane::{DataPath, Desired, DesiredNetwork, PlatformError},
};

use super::{
    compile::{Abilities, Refused, Underlay, Wanted, compile},
    guard,
    kernel::{Kernel, passes},
    plan::{About, Operation, missing, plan},
    policy,
    tables::{Kind, Rules, Tables, vxlan_name},
};

/// Keeps a kernel at what is wanted: reads back, plans, carries out.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    underlay: Underlay,
    /// What was wanted when it last succeeded.
    last: Option<Tables>,
    stats: Stats,
}

/// What a [`Reconciler`] has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times that everything was as wanted afterwards.
    pub applied: u64,
    /// Times that it was not.
    pub failed: u64,
    /// Operations that were carried out.
    pub operations: u64,
    /// Those among them that somebody else made necessary: what was wanted had not changed.
    pub repairs: BTreeMap<About, u64>,
    /// What went wrong the last time that something did.
    pub last_failure: Option<PlatformError>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In order.
    pub operations: Vec<Operation>,
    /// How many of them were repairs.
    pub repairs: u64,
    /// What the kernel cannot carry.
    pub refused: Vec<(NetworkId, Refused)>,
    /// The ports that are not there, by their outer ends: whoever holds their endpoints makes them.
    pub missing: Vec<String>,
}

impl<K: Kernel> Reconciler<K> {
    /// Over a kernel, whatever an earlier life left in there.
    pub fn new(kernel: K, underlay: Underlay) -> Self {
        Self {
            kernel,
            underlay,
            last: None,
            stats: Stats::default(),
        }
    }

    /// Makes the kernel hold these networks, as far as their path is the kernel, and no others. To be called when they
    /// change, when a [`Watch`](super::Watch) says so, and now and then.
    ///
    /// What changes meanwhile is looked at again, a few times. An operation that fails is in the way of no other; but where
    /// the guard of an encrypted network cannot be made, its device is not made either, or deleted; and where a network gets
    /// rules that cannot be, so is its bridge. Rules that were there before stay until they can be replaced.
    ///
    /// # Errors
    ///
    /// The first failure of the last round; what could be done is done, and the next call goes on from there.
    pub fn apply(&mut self, desired: &Desired) -> Result<Report, PlatformError> {
        let applied = self.try_apply(desired);
        match &applied {
            Ok(_) => self.stats.applied += 1,
            Err(failure) => {
                self.stats.failed += 1;
                self.stats.last_failure = Some(failure.clone());
            }
        }
        applied
    }

    /// Says what [`apply`](Self::apply) would do now.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn plan(&mut self, desired: &Desired) -> Result<Report, PlatformError> {
        let wanted = self.compile(desired);
        let actual = self.kernel.read()?;
        let operations = plan(&wanted.tables, &actual);
        let repairs = self.repairs(&wanted.tables, operations.len());
        Ok(Report {
            repairs,
            operations,
            refused: wanted.refused,
            missing: names(missing(&wanted.tables, &actual)),
        })
    }

    /// Returns what was done so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Returns the kernel.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Returns the kernel, and lets go of the rest.
    pub fn into_kernel(self) -> K {
        self.kernel
    }

    /// Changes the way between nodes from the next call on.
    pub fn set_underlay(&mut self, underlay: Underlay) {
        self.underlay = underlay;
    }

    fn compile(&mut self, desired: &Desired) -> Wanted {
        let seals = |network: &DesiredNetwork| network.encrypted;
        let asked = !desired.peers.is_empty() || desired.networks.values().any(seals);
        // Of no matter to others, and not for nothing.
        let seal = if asked {
            self.kernel.can_seal(self.underlay.local.is_ipv6())
        } else {
            Ok(())
        };
        let has_rules = |network: &DesiredNetwork| {
            network.path == DataPath::Kernel && !network.policy.is_open()
        };
        let filter = if desired.networks.values().any(has_rules) {
            self.kernel.can_filter()
        } else {
            Ok(())
        };
        compile(desired, &self.underlay, &Abilities { seal, filter })
    }

    fn try_apply(&mut self, desired: &Desired) -> Result<Report, PlatformError> {
        let wanted = self.compile(desired);
        let mut report = Report {
            refused: wanted.refused,
            ..Report::default()
        };
        let wanted = wanted.tables;
        let mut failure = None;
        for _ in 0..ROUNDS_MAX {
            let actual = match self.kernel.read() {
                Err(error) if passes(&error) => {
                    failure = Some(error);
                    continue;
                }
                read => read?,
            };
            report.missing = names(missing(&wanted, &actual));
            let operations = plan(&wanted, &actual);
            if operations.is_empty() {
                self.last = Some(wanted);
                return Ok(report);
            }
            let (done, failed) = self.carry_out(&wanted, operations, &mut report);
            failure = failed;
            // A failure that does not pass is there in the next round, too.
            if !done || failure.as_ref().is_some_and(|error| !passes(error)) {
                break;
            }
        }
        failure.map_or(Ok(report), Err)
    }

    /// Carries out what can be; false if nothing could.
    fn carry_out(
        &mut self,
        wanted: &Tables,
        operations: Vec<Operation>,
        report: &mut Report,
    ) -> (bool, Option<PlatformError>) {
        let (mut done, mut failure) = (0, None::<PlatformError>);
        let is_repair = self.last.as_ref() == Some(wanted);
        let (mut unguarded, mut unjudged) = (BTreeSet::new(), BTreeSet::new());
        for operation in operations {
            if leaks(&operation, &unguarded) || opens(&operation, &unjudged) {
                continue;
            }
            match self.kernel.carry_out(&operation) {
                Ok(()) => {
                    done += 1;
                    if is_repair {
                        report.repairs += 1;
                        let repairs = self.stats.repairs.entry(operation.about());
                        *repairs.or_default() += 1;
                    }
                    report.operations.push(operation);
                }
                Err(error) => {
                    if let Operation::Guard { from, to } = &operation {
                        let (is, shall) =
                            (guard::sealed(from.as_ref()), guard::sealed(to.as_ref()));
                        unguarded.extend(shall.difference(&is));
                        self.take_down(&unguarded);
                    }
                    if let Operation::Filter { from, to } = &operation {
                        let (is, shall) = (judged(from.as_ref()), judged(to.as_ref()));
                        unjudged.extend(shall.difference(&is).cloned());
                        for name in unjudged.iter().cloned() {
                            // As above.
                            let _ = self.kernel.carry_out(&Operation::Delete { name });
                        }
                    }
                    // What does not pass says more than what does.
                    if failure.as_ref().is_none_or(passes) {
                        failure = Some(error);
                    }
                }
            }
        }
        self.stats.operations += done;
        (done > 0 || failure.as_ref().is_some_and(passes), failure)
    }

    /// Where what is not sealed cannot be held back, there is no device to send it.
    fn take_down(&mut self, unguarded: &BTreeSet<Vni>) {
        for vni in unguarded {
            let name = vxlan_name(*vni);
            // Mostly there is none, and the failure of the guard is told.
            let _ = self.kernel.carry_out(&Operation::Delete { name });
        }
    }

    fn repairs(&self, wanted: &Tables, operations: usize) -> u64 {
        let same = self.last.as_ref() == Some(wanted);
        if same { operations as u64 } else { 0 }
    }
}

/// Whether an operation makes or raises a device whose network nothing guards.
fn leaks(operation: &Operation, unguarded: &BTreeSet<Vni>) -> bool {
    let (Operation::Make { device, .. } | Operation::Set { to: device, .. }) = operation else {
        return false;
    };
    matches!(device.kind, Kind::Vxlan(tunnel) if unguarded.contains(&tunnel.vni))
}

/// Whether an operation makes a bridge or gives it a member, whose packets nothing judges.
fn opens(operation: &Operation, unjudged: &BTreeSet<String>) -> bool {
    let (Operation::Make { name, device }
    | Operation::Set {
        name, to: device, ..
    }) = operation
    else {
        return false;
    };
    let bridge = device.member.as_ref().map(|(bridge, _)| bridge);
    [Some(name), bridge]
        .into_iter()
        .flatten()
        .any(|one| unjudged.contains(one))
}

fn judged(rules: Option<&Rules>) -> BTreeSet<String> {
    policy::judged(rules.and_then(|rules| rules.packets.as_ref()))
}

fn names(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// How often what was done is looked at again. Each round costs two or three dumps of the kernel's tables.
const ROUNDS_MAX: usize = 5;
