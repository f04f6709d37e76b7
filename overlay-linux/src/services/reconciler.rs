//! Makes the kernel hold what is wanted, and goes on doing so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_core::{
    ServiceId,
    plane::{DesiredService, PlatformError},
};

use super::{
    kernel::{Kernel, has_changed_meanwhile},
    plan::{Actual, Operation, is_wanted, plan},
    vip::{Refused, Wanted, compile_all},
};

/// Keeps a kernel at what is wanted: reads back, plans, carries out.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    /// What was wanted when it last succeeded.
    last: Option<BTreeMap<IpAddr, Wanted>>,
    stats: Stats,
}

/// What a [`Reconciler`] has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times that everything was as wanted afterwards.
    pub applied: u64,
    /// Operations on the table.
    pub operations: u64,
    /// Those among them that somebody else made necessary: what was wanted had not changed.
    pub repairs: u64,
    /// Flows that were forgotten.
    pub forgotten: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In order.
    pub operations: Vec<Operation>,
    /// How many of them were repairs.
    pub repairs: u64,
    /// The services that are not served by the kernel.
    pub refused: Vec<(ServiceId, Refused)>,
}

impl<K: Kernel> Reconciler<K> {
    /// Over a kernel, whatever an earlier life left in there.
    pub fn new(kernel: K) -> Self {
        Self {
            kernel,
            last: None,
            stats: Stats::default(),
        }
    }

    /// Makes the kernel hold these services and no others. To be called when they change, and now and then.
    ///
    /// First the table becomes such as is wanted, at once and entirely; then the flows of backends that serve no more are
    /// forgotten, so that none of them begins anew by the former rules. Whoever is interrupted in between goes on the next
    /// time, but for the flows of addresses that are virtual no more.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]. A service that is refused is no error: see [`Report::refused`].
    pub fn apply<'a>(
        &mut self,
        services: impl IntoIterator<Item = (&'a ServiceId, &'a DesiredService)>,
    ) -> Result<Report, PlatformError> {
        let (wanted, refused) = compile_all(services);
        let actual = self.kernel.read()?;
        let mut operations = plan(&wanted, &actual);
        let before = actual.vips.into_keys().chain(self.last_addresses());
        let known: BTreeSet<IpAddr> = before.chain(wanted.keys().copied()).collect();
        if !operations.is_empty() {
            match self.kernel.commit(&operations) {
                Err(error) if has_changed_meanwhile(&error) => {
                    // All anew, which depends on nothing that was read.
                    operations = plan(&wanted, &Actual::default());
                    self.kernel.commit(&operations)?;
                }
                committed => committed?,
            }
        }
        let repairs = self.repairs(&wanted, &operations);
        self.stats.repairs += repairs;
        self.stats.operations += operations.len() as u64;
        let ended = self.forget(&wanted, &known)?;
        operations.extend(ended);
        self.last = Some(wanted);
        self.stats.applied += 1;
        Ok(Report {
            operations,
            repairs,
            refused,
        })
    }

    /// Returns whether the kernel holds any virtual address, or tracks a flow to one.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn finds_any(&mut self) -> Result<bool, PlatformError> {
        let actual = self.kernel.read()?;
        Ok(!actual.vips.is_empty() || !actual.flows.is_empty())
    }

    /// Returns what was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Returns the kernel.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn last_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.last.iter().flat_map(|last| last.keys().copied())
    }

    /// How many operations are due to somebody else.
    fn repairs(&self, wanted: &BTreeMap<IpAddr, Wanted>, operations: &[Operation]) -> u64 {
        let Some(last) = &self.last else {
            return 0;
        };
        let vip = |of: &BTreeMap<IpAddr, Wanted>, address| {
            let wanted: Option<&Wanted> = of.get(address);
            wanted.map(|wanted| wanted.vip.clone())
        };
        let repairs = operations.iter().filter(|operation| match operation {
            Operation::Make => true,
            Operation::Put { address, .. } | Operation::Remove { address } => {
                vip(last, address) == vip(wanted, address)
            }
            Operation::Forget { .. } => false,
        });
        repairs.count() as u64
    }

    /// Forgets the flows to these addresses whose backends serve no more.
    fn forget(
        &mut self,
        wanted: &BTreeMap<IpAddr, Wanted>,
        known: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Operation>, PlatformError> {
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let flows = self
            .kernel
            .flows(&mut |flow| known.contains(&flow.to.ip()) && !is_wanted(wanted, flow))?;
        let vip = |(address, wanted): (&IpAddr, &Wanted)| (*address, Some(wanted.vip.clone()));
        let actual = Actual {
            sound: true,
            vips: wanted.iter().map(vip).collect(),
            flows,
        };
        let operations = plan(wanted, &actual);
        for operation in &operations {
            if let Operation::Forget { flow } = operation {
                self.kernel.forget(flow)?;
                self.stats.forgotten += 1;
            }
        }
        Ok(operations)
    }
}
