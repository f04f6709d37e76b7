//! What a virtual address shall lead to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use overlay_core::{
    ServiceId,
    plane::{DesiredBackend, DesiredService, Policy},
};
use thiserror::Error;

use super::slots::{self, Candidate, SLOTS};

/// Where the new flows to a virtual address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// By what a flow's slot is chosen.
    pub by: HashBy,
    /// The backend of each slot: none if flows are refused, one, or [`SLOTS`]. All of the virtual address's family.
    pub slots: Vec<IpAddr>,
}

/// By what a flow's slot is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// By its source address and both ports.
    Flow,
    /// By its source address alone: all flows of a client have the same backend.
    Client,
}

/// What a virtual address shall lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where its new flows go.
    pub vip: Vip,
    /// All backends of its family, also those that take no new flows: others' flows end.
    pub backends: BTreeSet<IpAddr>,
}

/// Why a service is not served by the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refused {
    /// The policy takes turns or counts flows, for which the kernel's rules have no memory.
    #[error(
        "{policy:?} is not to be had in the kernel, which chooses by a hash of the flow: Maglev"
    )]
    Policy {
        /// The one that is asked for.
        policy: Policy,
    },
    /// More backends take new flows than there are slots.
    #[error("{count} backends take new flows, but there are {SLOTS} slots")]
    Backends {
        /// How many they are.
        count: usize,
    },
    /// An address is no virtual one: unspecified, loopback, multicast or broadcast.
    #[error("{address} is no virtual address")]
    Address {
        /// The address.
        address: IpAddr,
    },
    /// Another service has the address.
    #[error("{address} is another service's")]
    Taken {
        /// The address.
        address: IpAddr,
    },
}

/// Compiles a service: what each of its virtual addresses shall lead to.
///
/// A weight of 0 takes no new flows, as draining does not. An affinity of whatever time (but zero, which is none) is by the
/// client's address alone and lasts as long as the backends do: longer than asked for, never shorter. Of a backend's
/// addresses the first of the family is used. A share below half a slot may be none.
///
/// # Errors
///
/// See [`Refused`]; [`Refused::Taken`] is said by [`compile_all`] only.
pub fn compile(service: &DesiredService) -> Result<BTreeMap<IpAddr, Wanted>, Refused> {
    let config = &service.config;
    if config.policy != Policy::Maglev {
        let policy = config.policy;
        return Err(Refused::Policy { policy });
    }
    let by = match config.affinity {
        None | Some(Duration::ZERO) => HashBy::Flow,
        Some(_) => HashBy::Client,
    };
    let mut compiled = BTreeMap::new();
    for address in &service.addresses {
        if !is_virtual(*address) {
            let address = *address;
            return Err(Refused::Address { address });
        }
        let reached = |backend: &DesiredBackend| {
            let mut own = backend.addresses.iter();
            own.find(|own| own.is_ipv6() == address.is_ipv6()).copied()
        };
        let candidates = candidates(service, reached);
        if candidates.len() > SLOTS {
            let count = candidates.len();
            return Err(Refused::Backends { count });
        }
        let slots = slots::assign(&candidates);
        // Of nothing it does not matter, and the kernel keeps no trace of it.
        let by = if slots.is_empty() { HashBy::Flow } else { by };
        let backends = service.backends.values().filter_map(reached).collect();
        let vip = Vip { by, slots };
        compiled.insert(*address, Wanted { vip, backends });
    }
    Ok(compiled)
}

/// Compiles services; those that are refused are told, and not among what is wanted.
pub fn compile_all<'a>(
    services: impl IntoIterator<Item = (&'a ServiceId, &'a DesiredService)>,
) -> (BTreeMap<IpAddr, Wanted>, Vec<(ServiceId, Refused)>) {
    let (mut wanted, mut refused) = (BTreeMap::new(), Vec::new());
    for (id, service) in services {
        let compiled = compile(service).and_then(|compiled| {
            let taken = compiled.keys().find(|one| wanted.contains_key(*one));
            match taken.copied() {
                Some(address) => Err(Refused::Taken { address }),
                None => Ok(compiled),
            }
        });
        match compiled {
            Ok(compiled) => wanted.extend(compiled),
            Err(reason) => refused.push((*id, reason)),
        }
    }
    (wanted, refused)
}

/// Those that take new flows: of the nearest that do.
fn candidates(
    service: &DesiredService,
    reached: impl Fn(&DesiredBackend) -> Option<IpAddr>,
) -> Vec<Candidate> {
    let mut ranked: BTreeMap<u8, Vec<Candidate>> = BTreeMap::new();
    for (id, backend) in &service.backends {
        let rank = service.config.locality.rank(backend.distance);
        let (Some(rank), Some(address)) = (rank, reached(backend)) else {
            continue;
        };
        if backend.draining || backend.weight == 0 {
            continue;
        }
        ranked.entry(rank).or_default().push(Candidate {
            id: *id,
            address,
            weight: backend.weight,
        });
    }
    let nearest = ranked.into_iter().next();
    nearest
        .map(|(_, candidates)| candidates)
        .unwrap_or_default()
}

fn is_virtual(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}
