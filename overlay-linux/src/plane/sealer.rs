//! The kernel's side of sealing, in the underlay's namespace.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use nix::errno::Errno;

use super::{
    fitness::{self, NoSealing},
    sealing::{Act, Sealing, SealingStep},
};
use crate::{
    failure::{Doing, Failure},
    namespace, sys,
    xfrm::{Association, AssociationId, Xfrm},
};

/// Associations, policies and the socket of one namespace.
#[derive(Debug)]
pub(super) struct Sealer {
    namespace: File,
    /// None in a kernel without XFRM.
    xfrm: Option<Xfrm>,
    socket: Option<(SocketAddr, UdpSocket)>,
    /// What was found when it was asked first, over IPv6 or not.
    fitness: BTreeMap<bool, Result<(), NoSealing>>,
    /// How far each association was when it was read last.
    reached: BTreeMap<AssociationId, (Association, u64)>,
}

impl Sealer {
    /// Of the namespace that the calling thread is in.
    pub(super) fn open() -> Result<Self, Failure> {
        let xfrm = match Xfrm::open() {
            Ok(xfrm) => Some(xfrm),
            Err(error) if is_absent(&error) => None,
            Err(error) => return Err(Failure::new("open an XFRM socket", &error)),
        };
        Ok(Self {
            namespace: namespace::current()?,
            xfrm,
            socket: None,
            fitness: BTreeMap::new(),
            reached: BTreeMap::new(),
        })
    }

    /// Whether the kernel can seal, over IPv4 or IPv6. It is tried once.
    pub(super) fn can_seal(&mut self, v6: bool) -> Result<(), NoSealing> {
        let fitness = self.fitness.entry(v6);
        let fitness = fitness.or_insert_with(|| fitness::can_seal(v6));
        fitness.clone()
    }

    pub(super) fn take(&mut self, socket: UdpSocket) -> Result<(), Failure> {
        let doing = || "take up the socket of sealed datagrams".to_owned();
        let address = socket.local_addr().doing(doing)?;
        sys::open_esp(&socket).doing(doing)?;
        self.socket = Some((address, socket));
        Ok(())
    }

    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|(_, socket)| socket.as_fd())
    }

    pub(super) fn read(&mut self) -> Result<Sealing, Failure> {
        let mut sealing = Sealing {
            socket: self.socket.as_ref().map(|(address, _)| *address),
            ..Sealing::default()
        };
        let Some(xfrm) = &mut self.xfrm else {
            return Ok(sealing);
        };
        let found = xfrm.associations();
        let found = found.doing(|| "list security associations".into())?;
        for (id, found) in found {
            if let Some(association) = &found.association {
                let reached = (association.clone(), found.sequence);
                self.reached.insert(id, reached);
            }
            sealing.associations.insert(id, found.association);
        }
        let policies = xfrm.policies();
        sealing.policies = policies.doing(|| "list security policies".into())?;
        Ok(sealing)
    }

    pub(super) fn carry_out(&mut self, step: &SealingStep) -> Result<(), Failure> {
        let doing = || step.to_string();
        match &step.0 {
            Act::Listen(at) => {
                let home = namespace::current()?;
                namespace::enter(&self.namespace)?;
                let listening = fitness::listen(*at);
                namespace::enter(&home)?;
                self.socket = Some((*at, listening?));
                return Ok(());
            }
            Act::Close(_) => {
                self.socket = None;
                return Ok(());
            }
            _ => {}
        }
        let absent = || Failure::new(doing(), &Errno::EPROTONOSUPPORT.into());
        let xfrm = self.xfrm.as_mut().ok_or_else(absent)?;
        let done = match &step.0 {
            Act::Associate(id, association) => {
                let reached = self.reached.get(id);
                let reached = reached.filter(|(found, _)| association.is(found));
                let after = reached.map_or(0, |(found, number)| beyond(found, *number));
                xfrm.associate(id, association, after)
            }
            Act::Dissociate(id) => xfrm.dissociate(id),
            Act::Seal(selector, policy) => xfrm.set_policy(selector, policy),
            Act::Unseal(selector) => xfrm.delete_policy(selector),
            Act::Listen(_) | Act::Close(_) => Ok(()),
        };
        done.doing(doing)
    }
}

/// Where an association goes on that somebody deleted: beyond all that was sent since it was read, and with what came by
/// then taken for seen. A receiver follows such a leap, as it is less than 2^31 (RFC 4303 appendix A2).
fn beyond(association: &Association, number: u64) -> u64 {
    if association.outbound {
        number.saturating_add(LEAP)
    } else {
        number
    }
}

fn is_absent(error: &io::Error) -> bool {
    let codes = [Errno::EPROTONOSUPPORT, Errno::EAFNOSUPPORT];
    let codes = codes.map(|code| code as i32);
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// A minute at 17 million packets a second.
const LEAP: u64 = 1 << 30;
