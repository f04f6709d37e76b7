//! What encrypted networks are sealed with: associations with peers, policies that use them, and the socket by which sealed
//! datagrams come (RFC 4303, RFC 3948).
//!
//! ```text
//!  ovb4097 ── ovx4097 ── VXLAN, UDP 4789 ── policy of the mark ── ESP ── UDP 4500 ──> peer
//!        └ postrouting: mark               └ overlay_guard: drop what no association sealed
//!
//!  peer ── UDP 4500 ── the socket ── ESP, an association of ours ── overlay_guard: member ── ovx4097 ── ovb4097
//! ```
//!
//! A frame that leaves by the VXLAN device of an encrypted network gets a mark on its bridge. The device looks its route up
//! by that mark, and so finds the policy; on its way out of the switch namespace the packet loses it. Where a frame has no
//! mark, or a peer no policy, the guard finds a packet that nothing will seal, and drops it; where a policy finds no
//! association, the kernel does.
//!
//! One key is never used by two planes, as both would number from 1: while an encrypted network is in the user plane, none
//! is in the kernel's. For the same reason what peers are sealed with stays for as long as [`Desired::peers`] has it,
//! whatever becomes of the networks, and an association that is as it shall be is never made anew. One that somebody deleted
//! goes on beyond the last number that was seen of it.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use overlay_core::plane::{Desired, PeerKeys, SaKeys};

use super::compile::Underlay;
use crate::xfrm::{Association, AssociationId, Policy, Secret, Selector};

/// Associations, policies and the socket, as they shall be or are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sealing {
    /// None where one is there under our number and is none such as are made here.
    pub(crate) associations: BTreeMap<AssociationId, Option<Association>>,
    pub(crate) policies: BTreeMap<Selector, Policy>,
    /// Where sealed datagrams come to.
    pub(crate) socket: Option<SocketAddr>,
}

/// One step towards what shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingStep(pub(crate) Act);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Opens the socket.
    Listen(SocketAddr),
    /// Closes it.
    Close(SocketAddr),
    Associate(AssociationId, Association),
    Dissociate(AssociationId),
    /// Makes or replaces a policy.
    Seal(Selector, Policy),
    Unseal(Selector),
}

/// An association that another peer has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clash {
    pub(super) peer: IpAddr,
    pub(super) spi: u32,
}

/// Compiles what the peers of the family of this node's VTEP are sealed with.
pub(super) fn compile(desired: &Desired, underlay: &Underlay) -> (Sealing, Vec<Clash>) {
    let (mut sealing, mut clashes) = (Sealing::default(), Vec::new());
    let port = desired.underlay.map_or(ESP_PORT, |end| end.esp_port);
    let local = underlay.local;
    for (peer, PeerKeys { outbound, inbound }) in &desired.peers {
        if peer.is_ipv4() != local.is_ipv4() {
            continue;
        }
        let make = |source, keys: &SaKeys, outbound| Association {
            source,
            secret: Secret(Some(keys.clone())),
            port,
            outbound,
            inner_port: underlay.port,
        };
        for keys in inbound {
            let id = id(local, keys);
            let association = make(*peer, keys, false);
            let made = sealing.associations.entry(id);
            let made = made.or_insert_with(|| Some(association.clone()));
            if *made != Some(association) {
                let (peer, spi) = (*peer, keys.spi);
                clashes.push(Clash { peer, spi });
            }
        }
        let association = make(local, outbound, true);
        sealing
            .associations
            .insert(id(*peer, outbound), Some(association));
        let selector = Selector::udp(local, *peer);
        let policy = Policy::new(local, *peer, outbound.spi);
        sealing.policies.insert(selector, policy);
        sealing.socket = Some(SocketAddr::new(local, port));
    }
    (sealing, clashes)
}

fn id(destination: IpAddr, keys: &SaKeys) -> AssociationId {
    let spi = keys.spi;
    AssociationId { destination, spi }
}

impl Sealing {
    /// What is to be added or replaced: what may come before what is sent, and what is sent with before it is used.
    pub(super) fn additions(&self, actual: &Self) -> Vec<SealingStep> {
        let mut acts = Vec::new();
        if let Some(at) = self.socket.filter(|at| actual.socket != Some(*at)) {
            acts.extend(actual.socket.map(Act::Close));
            acts.push(Act::Listen(at));
        }
        for outbound in [false, true] {
            for (id, wanted) in &self.associations {
                let Some(wanted) = wanted.as_ref().filter(|one| one.outbound == outbound) else {
                    continue;
                };
                match actual.associations.get(id) {
                    Some(Some(found)) if wanted.is(found) => continue,
                    Some(_) => acts.push(Act::Dissociate(*id)),
                    None => {}
                }
                acts.push(Act::Associate(*id, wanted.clone()));
            }
        }
        for (selector, policy) in &self.policies {
            if actual.policies.get(selector) != Some(policy) {
                acts.push(Act::Seal(*selector, policy.clone()));
            }
        }
        acts.into_iter().map(SealingStep).collect()
    }

    /// What is to be removed, once nothing uses it any more.
    pub(super) fn removals(&self, actual: &Self) -> Vec<SealingStep> {
        let policies = actual.policies.keys();
        let policies = policies.filter(|selector| !self.policies.contains_key(*selector));
        let associations = actual.associations.keys();
        let associations = associations.filter(|id| !self.associations.contains_key(*id));
        let acts = policies.map(|selector| Act::Unseal(*selector));
        let acts = acts.chain(associations.map(|id| Act::Dissociate(*id)));
        let closed = actual.socket.filter(|_| self.socket.is_none());
        let acts = acts.chain(closed.map(Act::Close));
        acts.map(SealingStep).collect()
    }
}

impl fmt::Display for SealingStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Act::Listen(at) => write!(f, "open what comes sealed to UDP {at}"),
            Act::Close(at) => write!(f, "open no more what comes to UDP {at}"),
            Act::Associate(id, association) => {
                let AssociationId { destination, spi } = id;
                let source = association.source;
                if association.outbound {
                    write!(f, "associate to {destination}: SPI {spi:#010x}")
                } else {
                    write!(f, "associate from {source}: SPI {spi:#010x}")
                }
            }
            Act::Dissociate(AssociationId { destination, spi }) => {
                write!(f, "dissociate SPI {spi:#010x} to {destination}")
            }
            Act::Seal(selector, policy) => {
                let spi = policy.spi().unwrap_or_default();
                write!(f, "seal with SPI {spi:#010x} to {}", peer(selector))
            }
            Act::Unseal(selector) => write!(f, "seal no more to {}", peer(selector)),
        }
    }
}

fn peer(selector: &Selector) -> String {
    let peer = selector.destination();
    peer.map_or_else(|| "nobody".to_owned(), |peer| peer.to_string())
}

/// Where nothing else is said (RFC 3948).
const ESP_PORT: u16 = 4_500;
