//! Which backend a client's address had last.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use overlay_core::Instant;

use crate::{BackendId, Vip};

/// Bounded, by least recent use.
#[derive(Clone, Debug)]
pub(crate) struct Affinities {
    max: usize,
    clients: BTreeMap<(Vip, IpAddr), Entry>,
    /// Clients in the order of their last use.
    order: BTreeMap<u64, (Vip, IpAddr)>,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    backend: BackendId,
    last: Instant,
    order: u64,
}

impl Affinities {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max: max as usize,
            clients: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn get(
        &self,
        vip: Vip,
        client: IpAddr,
        timeout: Duration,
        now: Instant,
    ) -> Option<BackendId> {
        let entry = self.clients.get(&(vip, client))?;
        (now < entry.last + timeout).then_some(entry.backend)
    }

    pub(crate) fn set(&mut self, vip: Vip, client: IpAddr, backend: BackendId, now: Instant) {
        if self.max == 0 {
            return;
        }
        let (key, order) = ((vip, client), self.next);
        self.next += 1;
        let entry = Entry {
            backend,
            last: now,
            order,
        };
        if let Some(before) = self.clients.insert(key, entry) {
            self.order.remove(&before.order);
        }
        self.order.insert(order, key);
        if self.clients.len() > self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.clients.remove(&oldest);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }
}
