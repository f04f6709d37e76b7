//! The kernel below the plan, or a stand-in for it.

use nix::errno::Errno;
use overlay_core::plane::PlatformError;

use super::{
    abort::{Diagnosis, TCP},
    flows,
    plan::{Actual, Flow, Operation},
    rules,
};
use crate::{
    failure::Doing,
    nftables::{Batch, Nftables, Table, socket::Socket},
};

/// What carries the plan out.
pub trait Kernel {
    /// Reads back what is there, but for the flows.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn read(&mut self) -> Result<Actual, PlatformError>;

    /// Finds the tracked flows of TCP and UDP that `looked_for` says.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn flows(
        &mut self,
        looked_for: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, PlatformError>;

    /// Carries out all of the operations that change the table, or none; [`Operation::Forget`] is not among them.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn commit(&mut self, operations: &[Operation]) -> Result<(), PlatformError>;

    /// Forgets a flow; one that is gone is fine.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    fn forget(&mut self, flow: &Flow) -> Result<(), PlatformError>;
}

/// nf_tables and connection tracking of the network namespace in which it was opened.
///
/// It makes the table `inet overlay_services` and touches no other. Linux 5.2 or later; in a user namespace of the user's
/// own without any privilege outside.
#[derive(Debug)]
pub struct Netfilter {
    nftables: Nftables,
    tracked: Socket,
    /// Ends connections of local programs, if that is asked for.
    diagnosis: Option<Diagnosis>,
    /// As it was read back last.
    there: Option<Table>,
}

impl Netfilter {
    /// Opens the kernel's sides of the calling thread's network namespace, wherever the thread goes afterwards.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`]. Whether the kernel has all that the table takes is said by the first
    /// [`commit`](Kernel::commit).
    pub fn open() -> Result<Self, PlatformError> {
        let opening = || "open a netfilter socket".to_owned();
        Ok(Self {
            nftables: Nftables::open_inet().doing(opening)?,
            tracked: Socket::open().doing(opening)?,
            diagnosis: Some(Diagnosis::open().doing(|| "open a socket for sockets".into())?),
            there: None,
        })
    }

    /// Leaves connections whose flow is forgotten to their next packet, which is answered by a reset (`ECONNRESET`).
    ///
    /// Without this, those of local programs are ended at once (`ECONNABORTED`), where the kernel does that
    /// (`CONFIG_INET_DIAG_DESTROY`): also a program that only waits is told then.
    #[must_use]
    pub fn without_aborts(mut self) -> Self {
        self.diagnosis = None;
        self
    }

    /// Returns whether connections of local programs are ended at once when their flow is forgotten.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn ends_connections(&self) -> Result<bool, PlatformError> {
        let possible = self.diagnosis.as_ref().map(Diagnosis::is_possible);
        let possible = possible.unwrap_or(Ok(false));
        Ok(possible.doing(|| "ask whether connections can be ended".into())?)
    }

    /// Takes the table away with all that it holds. Tracked flows stay.
    ///
    /// # Errors
    ///
    /// See [`PlatformError`].
    pub fn remove(&mut self) -> Result<(), PlatformError> {
        let deleted = self.nftables.delete(rules::TABLE);
        Ok(deleted.doing(|| format!("delete the table {}", rules::TABLE))?)
    }

    fn append(&self, batch: &mut Batch, operation: &Operation, fresh: bool) {
        let there = self.there.as_ref().filter(|_| !fresh);
        match operation {
            Operation::Make => {
                batch.delete_table();
                batch.fill(&rules::skeleton());
            }
            Operation::Put { address, vip } => {
                if let Some(there) = there {
                    rules::remove(batch, *address, there);
                }
                rules::put(batch, *address, vip);
            }
            Operation::Remove { address } => {
                if let Some(there) = there {
                    rules::remove(batch, *address, there);
                }
            }
            Operation::Forget { .. } => {}
        }
    }
}

impl Kernel for Netfilter {
    fn read(&mut self) -> Result<Actual, PlatformError> {
        let read = self.nftables.read(rules::TABLE);
        self.there = read.doing(|| format!("read the table {}", rules::TABLE))?;
        Ok(rules::read(self.there.as_ref()))
    }

    fn flows(
        &mut self,
        looked_for: &mut dyn FnMut(&Flow) -> bool,
    ) -> Result<Vec<Flow>, PlatformError> {
        let found = flows::find(&mut self.tracked, looked_for);
        Ok(found.doing(|| "list tracked flows".into())?)
    }

    /// In one transaction, if the system lets a message be as long as that takes: of about 40 KiB (IPv4) or 60 KiB (IPv6) a
    /// virtual address with more than one backend. Where it does not, in several, in their order, and what is after the one
    /// that fails is not done.
    fn commit(&mut self, operations: &[Operation]) -> Result<(), PlatformError> {
        let fresh = operations.contains(&Operation::Make);
        let mut parts: Vec<Batch> = Vec::new();
        let mut whole = self.nftables.batch(rules::TABLE);
        for operation in operations {
            self.append(&mut whole, operation, fresh);
        }
        let room = self.nftables.room(whole.octets());
        let room = room.doing(|| "make room for a transaction".into())?;
        if whole.octets() <= room {
            parts.push(whole);
        } else {
            for operation in operations {
                let mut one = self.nftables.batch(rules::TABLE);
                self.append(&mut one, operation, fresh);
                match parts.last_mut() {
                    Some(last) if last.octets() + one.octets() <= room => {
                        self.append(last, operation, fresh);
                    }
                    _ => parts.push(one),
                }
            }
        }
        for part in parts.iter().filter(|part| !part.is_empty()) {
            let committed = self.nftables.commit(part);
            committed.doing(|| {
                let refused = self.nftables.refused(part).unwrap_or("change it");
                format!("change the table {}: {refused}", rules::TABLE)
            })?;
        }
        Ok(())
    }

    fn forget(&mut self, flow: &Flow) -> Result<(), PlatformError> {
        if let Some(diagnosis) = self.diagnosis.as_ref().filter(|_| flow.protocol == TCP) {
            // While it is tracked, so that its backend, if it lives, is told, too.
            let aborted = diagnosis.abort(flow);
            aborted.doing(|| format!("end the connection of {} to {}", flow.client, flow.to))?;
        }
        let forgotten = flows::forget(&mut self.tracked, flow);
        let doing = || format!("forget the flow of {} to {}", flow.client, flow.to);
        Ok(forgotten.doing(doing)?)
    }
}

/// Whether the table has become another one since it was read.
pub(super) fn has_changed_meanwhile(error: &PlatformError) -> bool {
    let codes = [Errno::EBUSY, Errno::ENOENT, Errno::EEXIST].map(|code| code as i32);
    matches!(error, PlatformError::System { code, .. } if codes.contains(code))
}
