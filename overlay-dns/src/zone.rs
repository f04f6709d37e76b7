//! The names of one network.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, DefaultHasher, Hasher},
    net::IpAddr,
    sync::Arc,
};

use overlay_core::{EndpointId, ServiceId};

use crate::{
    records::{Port, Records, ServiceRecords},
    wire::Name,
};

/// A lower-cased name in wire form without the root's octet.
type Key = Arc<[u8]>;

/// Who contributes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Endpoint(EndpointId),
    Service(ServiceId),
}

/// What an address is to the name that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The virtual address of a service.
    Virtual,
    /// The address of an endpoint under one of its own names.
    Endpoint,
    /// The address of a task under a name of its service.
    Task,
}

/// One contribution to one name. Sorted, so that equal addresses stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    pub(crate) address: Option<IpAddr>,
    slot: u32,
}

/// The records of one holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) names: Vec<Key>,
    pub(crate) services: Vec<Key>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    pub(crate) texts: Vec<Vec<u8>>,
    pub(crate) canonical: Option<Key>,
    own_kind: Option<Kind>,
}

/// How much of one holder is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) names_max: usize,
    pub(crate) records_max: usize,
}

impl Held {
    /// Takes over an endpoint's records; counts what it left out in `refused`.
    pub(crate) fn endpoint(records: &Records, limits: Limits, refused: &mut u64) -> Self {
        let canonical = records.canonical.as_deref();
        let canonical = canonical.and_then(|text| key(text, refused));
        Self {
            names: keys(&records.names, limits, refused),
            services: keys(&records.services, limits, refused),
            canonical,
            own_kind: Some(Kind::Endpoint),
            ..Self::common(&records.addresses, &records.ports, &records.texts, limits)
        }
    }

    /// Takes over a service's records; counts what it left out in `refused`.
    pub(crate) fn service(records: &ServiceRecords, limits: Limits, refused: &mut u64) -> Self {
        Self {
            names: keys(&records.names, limits, refused),
            own_kind: Some(Kind::Virtual),
            ..Self::common(&records.addresses, &records.ports, &records.texts, limits)
        }
    }

    fn common(addresses: &[IpAddr], ports: &[Port], texts: &[Vec<u8>], limits: Limits) -> Self {
        let max = limits.records_max;
        let mut addresses: Vec<_> = addresses.iter().copied().take(max).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self {
            addresses,
            ports: ports.iter().take(max).cloned().collect(),
            texts: texts.iter().take(max).cloned().collect(),
            ..Self::default()
        }
    }

    /// Returns the name by which this holder is known.
    pub(crate) fn primary(&self) -> Option<&Key> {
        self.names.first().or(self.services.first())
    }

    fn entries(&self) -> impl Iterator<Item = (&Key, Kind)> {
        let own = self.own_kind.unwrap_or(Kind::Endpoint);
        let names = self.names.iter().map(move |key| (key, own));
        names.chain(self.services.iter().map(|key| (key, Kind::Task)))
    }
}

fn keys(texts: &[String], limits: Limits, refused: &mut u64) -> Vec<Key> {
    let mut keys: Vec<Key> = Vec::new();
    for text in texts.iter().take(limits.names_max) {
        if let Some(key) = key(text, refused)
            && !keys.contains(&key)
        {
            keys.push(key);
        }
    }
    let cut = texts.len().saturating_sub(limits.names_max);
    *refused += u64::try_from(cut).unwrap_or(u64::MAX);
    keys
}

fn key(text: &str, refused: &mut u64) -> Option<Key> {
    match Name::from_text(text) {
        Ok(name) => Some(name.lowercase().as_bytes().into()),
        Err(_) => {
            *refused += 1;
            None
        }
    }
}

/// Hashes with a key from the seed: a name owner cannot aim at collisions, and nothing iterates in hash order.
#[derive(Clone)]
pub(crate) struct Keyed(pub(crate) u64);

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed(..)")
    }
}

impl BuildHasher for Keyed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// The names of one network, and what they lead to.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    holders: BTreeMap<Holder, u32>,
    slots: Vec<Option<Held>>,
    free: Vec<u32>,
    names: HashMap<Key, Vec<Item>, Keyed>,
    /// Names that exist because something is below them, with the number of names that are (RFC 4592 §2.2.2).
    above: HashMap<Key, u32, Keyed>,
    addresses: BTreeMap<IpAddr, Vec<u32>>,
}

impl Zone {
    pub(crate) fn new(hash: &Keyed) -> Self {
        Self {
            holders: BTreeMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            names: HashMap::with_hasher(hash.clone()),
            above: HashMap::with_hasher(hash.clone()),
            addresses: BTreeMap::new(),
        }
    }

    /// Puts the records of a holder in the place of those it had. Returns true if that changed anything.
    pub(crate) fn set(&mut self, holder: Holder, held: Held) -> bool {
        if self.held_by(holder) == Some(&held) {
            return false;
        }
        self.remove(holder);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("no memory holds 2^32 holders")
        });
        for (key, kind) in held.entries() {
            self.insert_name(key, kind, &held.addresses, slot);
        }
        if held.own_kind == Some(Kind::Endpoint) {
            for address in &held.addresses {
                self.addresses.entry(*address).or_default().push(slot);
            }
        }
        self.holders.insert(holder, slot);
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(held);
        }
        true
    }

    /// Forgets the records of a holder. Returns true if there were any.
    pub(crate) fn remove(&mut self, holder: Holder) -> bool {
        let Some(slot) = self.holders.remove(&holder) else {
            return false;
        };
        let place = self.slots.get_mut(slot as usize);
        let held = place.and_then(Option::take).unwrap_or_default();
        for (key, _) in held.entries() {
            self.remove_name(key, slot);
        }
        for address in &held.addresses {
            if let Some(slots) = self.addresses.get_mut(address) {
                slots.retain(|other| *other != slot);
                if slots.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
        self.free.push(slot);
        true
    }

    fn insert_name(&mut self, key: &Key, kind: Kind, addresses: &[IpAddr], slot: u32) {
        if !self.names.contains_key(key) {
            self.count_above(key, true);
        }
        let items = self.names.entry(Arc::clone(key)).or_default();
        let mut add = |address| {
            let item = Item {
                kind,
                address,
                slot,
            };
            if let Err(at) = items.binary_search(&item) {
                items.insert(at, item);
            }
        };
        if addresses.is_empty() {
            add(None);
        }
        for address in addresses {
            add(Some(*address));
        }
    }

    fn remove_name(&mut self, key: &Key, slot: u32) {
        let Some(items) = self.names.get_mut(key) else {
            return;
        };
        items.retain(|item| item.slot != slot);
        if items.is_empty() {
            self.names.remove(key);
            self.count_above(key, false);
        }
    }

    fn count_above(&mut self, key: &Key, up: bool) {
        let Some(name) = Name::from_wire(key) else {
            return;
        };
        for skipped in 1..name.count() {
            let above = name.suffix(skipped);
            if up {
                *self.above.entry(above.into()).or_default() += 1;
            } else if let Some(count) = self.above.get_mut(above) {
                *count -= 1;
                if *count == 0 {
                    self.above.remove(above);
                }
            }
        }
    }

    /// Returns what the name leads to; lower-cased wire form.
    pub(crate) fn items(&self, wire: &[u8]) -> Option<&[Item]> {
        self.names.get(wire).map(Vec::as_slice)
    }

    /// Returns true if something is below the name.
    pub(crate) fn is_above(&self, wire: &[u8]) -> bool {
        self.above.contains_key(wire)
    }

    /// Returns the records of the holder behind an item.
    pub(crate) fn held(&self, item: &Item) -> Option<&Held> {
        self.slots.get(item.slot as usize)?.as_ref()
    }

    /// Returns the endpoints that have the address.
    pub(crate) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = &Held> {
        let slots = self.addresses.get(&address).map_or(&[][..], Vec::as_slice);
        slots
            .iter()
            .filter_map(|slot| self.slots.get(*slot as usize)?.as_ref())
    }

    /// Returns true if an endpoint has an address in the range, both ends included.
    pub(crate) fn has_address_within(&self, first: IpAddr, last: IpAddr) -> bool {
        self.addresses.range(first..=last).next().is_some()
    }

    /// Returns how many names there are.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    fn held_by(&self, holder: Holder) -> Option<&Held> {
        let slot = self.holders.get(&holder)?;
        self.slots.get(*slot as usize)?.as_ref()
    }
}
