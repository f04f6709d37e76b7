//! What has to be done for what is there to become what is wanted.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::vip::{Vip, Wanted};

/// What the kernel really holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Whether the table is there, and but for the virtual addresses such as it shall be.
    pub sound: bool,
    /// The virtual addresses in it; none for one whose rules, slots or look-ups are not such as are ever made.
    pub vips: BTreeMap<IpAddr, Option<Vip>>,
    /// The flows to virtual addresses; those to backends that are wanted may be left out.
    pub flows: Vec<Flow>,
}

/// A flow that the kernel tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The transport protocol's number: 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// Who began it.
    pub client: SocketAddr,
    /// To whom it was.
    pub to: SocketAddr,
    /// Who gets it.
    pub backend: IpAddr,
    /// The kernel's number of it, if it has one.
    pub id: Option<u32>,
}

/// One step towards what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Make the table anew, without any virtual address; what was in it goes.
    Make,
    /// Make a virtual address lead there, in the place of what it led to.
    Put {
        /// The address.
        address: IpAddr,
        /// Where to.
        vip: Vip,
    },
    /// Take a virtual address away.
    Remove {
        /// The address.
        address: IpAddr,
    },
    /// Forget a flow whose backend serves no more.
    Forget {
        /// The flow.
        flow: Flow,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make => f.write_str("make the table"),
            Self::Put { address, vip } if vip.slots.is_empty() => {
                write!(f, "refuse flows to {address}")
            }
            Self::Put { address, vip } => {
                let mut backends = vip.slots.clone();
                backends.sort_unstable();
                backends.dedup();
                let (slots, count) = (vip.slots.len(), backends.len());
                write!(f, "lead {address} to {count} backends by {slots} slots")
            }
            Self::Remove { address } => write!(f, "remove {address}"),
            Self::Forget { flow } => {
                let Flow {
                    client,
                    to,
                    backend,
                    ..
                } = flow;
                write!(f, "forget the flow of {client} to {to} at {backend}")
            }
        }
    }
}

/// Plans what has to be done, in order; nothing if everything is as it shall be.
///
/// The flows that go are those to backends that a virtual address has no more, to the virtual address itself (which
/// began before it was one), and all of an address that is virtual no more.
pub fn plan(wanted: &BTreeMap<IpAddr, Wanted>, actual: &Actual) -> Vec<Operation> {
    let mut operations = Vec::new();
    if !actual.sound {
        operations.push(Operation::Make);
    }
    let there = |address: &IpAddr| actual.vips.get(address).filter(|_| actual.sound);
    if actual.sound {
        let gone = actual.vips.keys().filter(|one| !wanted.contains_key(one));
        operations.extend(gone.map(|address| Operation::Remove { address: *address }));
    }
    for (address, Wanted { vip, .. }) in wanted {
        if there(address) != Some(&Some(vip.clone())) {
            operations.push(Operation::Put {
                address: *address,
                vip: vip.clone(),
            });
        }
    }
    let gone = actual.flows.iter().filter(|flow| !is_wanted(wanted, flow));
    operations.extend(gone.map(|flow| Operation::Forget { flow: *flow }));
    operations
}

/// Whether a flow may stay.
pub(super) fn is_wanted(wanted: &BTreeMap<IpAddr, Wanted>, flow: &Flow) -> bool {
    let wanted = wanted.get(&flow.to.ip());
    wanted.is_some_and(|wanted| wanted.backends.contains(&flow.backend))
}
