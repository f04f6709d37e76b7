//! What the embedder commands: virtual addresses and backends.

use std::net::SocketAddr;

use overlay_core::Instant;
use thiserror::Error;

use super::{Balancer, Event, Output};
use crate::{
    Backend, BackendId, BackendState, Vip, VipConfig,
    service::{Member, Service},
};

impl Balancer {
    /// Says that backends may be missing until then: after a start, when they are learned one by one.
    ///
    /// Meanwhile segments from the middle of unknown connections are dropped, and so is what would be refused: what is
    /// dropped is sent again, while a connection that goes to another backend than before, or is refused, is lost.
    pub fn settle_until(&mut self, now: Instant, until: Instant) {
        self.pass(now);
        self.settled_at = until;
    }

    /// Adds a virtual address, or changes how it is served; its flows stay where they are.
    ///
    /// # Errors
    ///
    /// [`VipError::TooMany`]; nothing changes.
    pub fn set_vip(&mut self, now: Instant, vip: Vip, config: VipConfig) -> Result<(), VipError> {
        self.see(now);
        let max = self.config.vips_max;
        if !self.services.contains_key(&vip) && self.services.len() >= max as usize {
            return Err(VipError::TooMany { max });
        }
        self.pass(now);
        match self.services.get_mut(&vip) {
            Some(service) => service.configure(config),
            None => {
                self.services.insert(vip, Service::new(config));
                self.addresses.add(vip.addr);
            }
        }
        Ok(())
    }

    /// Removes a virtual address with its backends and flows; connections are reset. Returns false if it was not known.
    pub fn remove_vip(&mut self, now: Instant, vip: Vip) -> bool {
        self.pass(now);
        let Some(service) = self.services.remove(&vip) else {
            return false;
        };
        self.addresses.remove(vip.addr);
        for group in service.groups.into_values() {
            self.drop_member(group);
        }
        true
    }

    /// Adds a backend, or changes it.
    ///
    /// A backend that is down, or whose address has changed, loses its flows: connections are reset. One that drains
    /// keeps them, and [`Event::Drained`] says when the last one has ended (at once if there is none).
    ///
    /// # Errors
    ///
    /// See [`BackendError`]; nothing changes.
    pub fn set_backend(
        &mut self,
        now: Instant,
        vip: Vip,
        backend: Backend,
    ) -> Result<(), BackendError> {
        self.see(now);
        let unknown = BackendError::UnknownVip { vip };
        let service = self.services.get(&vip).ok_or(unknown)?;
        if vip.addr.is_ipv4() != backend.address.is_ipv4() {
            let address = backend.address;
            return Err(BackendError::Family { vip, address });
        }
        let (max, group) = (self.config.backends_max, service.groups.get(&backend.id));
        match group.copied() {
            None if service.groups.len() >= usize::from(max) => {
                return Err(BackendError::TooMany { vip, max });
            }
            None => {
                self.pass(now);
                self.add_member(vip, backend);
            }
            Some(group) => {
                self.pass(now);
                self.change_member(group, backend);
            }
        }
        Ok(())
    }

    /// Changes the state of a backend; see [`set_backend`](Self::set_backend).
    ///
    /// # Errors
    ///
    /// [`BackendError::UnknownVip`], [`BackendError::Unknown`]; nothing changes.
    pub fn set_state(
        &mut self,
        now: Instant,
        vip: Vip,
        id: BackendId,
        state: BackendState,
    ) -> Result<(), BackendError> {
        self.see(now);
        let group = self.group(vip, id)?;
        let member = self.member(group);
        let backend = member.ok_or(BackendError::Unknown { vip, id })?.backend;
        self.set_backend(now, vip, Backend { state, ..backend })
    }

    /// Removes a backend with its flows; connections are reset.
    ///
    /// # Errors
    ///
    /// [`BackendError::UnknownVip`], [`BackendError::Unknown`]; nothing changes.
    pub fn remove_backend(
        &mut self,
        now: Instant,
        vip: Vip,
        id: BackendId,
    ) -> Result<(), BackendError> {
        self.see(now);
        let group = self.group(vip, id)?;
        self.pass(now);
        if let Some(service) = self.services.get_mut(&vip) {
            service.groups.remove(&id);
            service.changed();
        }
        self.drop_member(group);
        Ok(())
    }

    fn group(&self, vip: Vip, id: BackendId) -> Result<u32, BackendError> {
        let service = self
            .services
            .get(&vip)
            .ok_or(BackendError::UnknownVip { vip })?;
        let group = service.groups.get(&id).copied();
        group.ok_or(BackendError::Unknown { vip, id })
    }

    fn add_member(&mut self, vip: Vip, backend: Backend) {
        let member = Some(Member {
            vip,
            backend,
            credit: 0,
        });
        let group = match self.free.pop() {
            Some(group) => {
                self.members[group as usize] = member;
                group
            }
            None => {
                self.members.push(member);
                u32::try_from(self.members.len() - 1).expect("memory ends before")
            }
        };
        self.flows.set_group(group, backend.address);
        if let Some(service) = self.services.get_mut(&vip) {
            service.groups.insert(backend.id, group);
            service.changed();
        }
        self.started(vip, backend, group);
    }

    fn change_member(&mut self, group: u32, backend: Backend) {
        let Some(Some(member)) = self.members.get_mut(group as usize) else {
            return;
        };
        let (vip, before) = (member.vip, member.backend);
        if before == backend {
            return;
        }
        // The resets are for the address that the flows have.
        let lost = backend.state == BackendState::Down || before.address != backend.address;
        let had = lost && self.flows.live(group) > 0;
        if lost {
            self.cut(group);
            self.flows.set_group(group, backend.address);
        }
        if let Some(Some(member)) = self.members.get_mut(group as usize) {
            member.backend = backend;
        }
        if let Some(service) = self.services.get_mut(&vip) {
            service.changed();
        }
        if had || before.state != backend.state {
            self.started(vip, backend, group);
        }
    }

    fn drop_member(&mut self, group: u32) {
        self.cut(group);
        self.members[group as usize] = None;
        self.free.push(group);
    }

    /// Reports a backend that has nothing to drain.
    fn started(&mut self, vip: Vip, backend: Backend, group: u32) {
        if backend.state == BackendState::Draining && self.flows.live(group) == 0 {
            let backend = backend.id;
            self.outputs
                .push_back(Output::Event(Event::Drained { vip, backend }));
        }
    }
}

/// A virtual address could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VipError {
    /// There are as many as the configuration allows.
    #[error("there are {max} virtual addresses already")]
    TooMany {
        /// How many there may be.
        max: u32,
    },
}

/// A backend could not be added, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BackendError {
    /// There is no such virtual address.
    #[error("there is no virtual address {vip}")]
    UnknownVip {
        /// The virtual address.
        vip: Vip,
    },
    /// The virtual address has no such backend.
    #[error("virtual address {vip} has no backend {id}")]
    Unknown {
        /// The virtual address.
        vip: Vip,
        /// The backend.
        id: BackendId,
    },
    /// The address is not of the virtual address's family.
    #[error("backend address {address} is not of the family of {vip}")]
    Family {
        /// The virtual address.
        vip: Vip,
        /// The backend's address.
        address: SocketAddr,
    },
    /// There are as many as the configuration allows.
    #[error("virtual address {vip} has {max} backends already")]
    TooMany {
        /// The virtual address.
        vip: Vip,
        /// How many there may be.
        max: u16,
    },
}

#[cfg(test)]
mod tests {
    use overlay_core::Seed;

    use super::*;
    use crate::{Config, Protocol};

    #[test]
    fn the_room_of_removed_backends_is_used_again() {
        let now = Instant::EPOCH;
        let mut balancer = Balancer::new(Config::default(), &Seed::from_u64(1), now).unwrap();
        let vip = Vip {
            addr: [10, 0, 1, 2].into(),
            proto: Protocol::Tcp,
            port: 80,
        };
        for round in 0..100_u8 {
            balancer.set_vip(now, vip, VipConfig::default()).unwrap();
            for octet in [round, round + 100] {
                let (id, address) = (
                    BackendId::from_bytes([octet; 16]),
                    ([10, 1, 0, octet], 80).into(),
                );
                balancer
                    .set_backend(now, vip, Backend::new(id, address))
                    .unwrap();
            }
            balancer
                .remove_backend(now, vip, BackendId::from_bytes([round; 16]))
                .unwrap();
            balancer.remove_vip(now, vip);
        }
        assert_eq!(balancer.members.len(), 2);
    }
}
