//! What one network has: the records of its holders, by name, by address and by holder.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    holder::{Held, Holder},
    names::{Keyed, NameId, Names, Part, Source, place},
    records::Port,
    sorted::Sorted,
};

/// The records of one network.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    pub(crate) names: Names,
    records: Vec<Record>,
    free: Vec<u32>,
    extras: Vec<Option<Box<Extra>>>,
    free_extras: Vec<u32>,
    /// Records by their holders.
    holders: Sorted,
    /// Endpoints that have nothing but one IPv4 address, by it.
    singles: Sorted,
    /// All others, by each of their addresses.
    addresses: BTreeSet<(IpAddr, u32)>,
    /// How many endpoints have an address that another one had before them.
    shared: usize,
}

/// The records of one holder: 40 octets, which suffice for most tasks.
#[derive(Clone, Copy, Debug)]
struct Record {
    id: [u8; 16],
    /// Its names, then those of its services; with more than fits the number of its extra alone.
    links: [u32; LINKS],
    address: Ipv4Addr,
    names: u8,
    services: u8,
    owner: Owner,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Nobody,
    Endpoint,
    Service,
}

/// What a record holds besides names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Nothing.
    Bare,
    /// One IPv4 address.
    Single,
    /// What stands in the extra.
    Extra,
}

/// The records of a holder that has more than a [`Record`] holds.
#[derive(Clone, Debug)]
struct Extra {
    names: Vec<u32>,
    services: Vec<u32>,
    held: Held,
}

impl Zone {
    pub(crate) fn new(hash: &Keyed) -> Self {
        Self {
            names: Names::new(hash),
            records: Vec::new(),
            free: Vec::new(),
            extras: Vec::new(),
            free_extras: Vec::new(),
            holders: Sorted::default(),
            singles: Sorted::default(),
            addresses: BTreeSet::new(),
            shared: 0,
        }
    }

    /// Puts the records of a holder in the place of those it had; counts the names for which there is no room in
    /// `refused`. Returns true if that changed anything.
    pub(crate) fn set(&mut self, holder: Holder, held: Held, refused: &mut u64) -> bool {
        let old = self.find(holder);
        if old.is_some_and(|slot| self.is_same(slot, &held)) {
            return false;
        }
        if let Some(slot) = old {
            self.take(slot);
        }
        let (id, owner) = parts(holder);
        let mut record = Record {
            id,
            ..Record::EMPTY
        };
        record.owner = owner;
        let slot = place(&mut self.records, &mut self.free, record);
        if slot >= Source::SLOTS_MAX {
            self.records.pop();
            *refused += 1;
            return old.is_some();
        }
        let (names, services) = self.insert_names(slot, owner, &held, refused);
        let record = self.fill(record, held, names, services);
        if let Some(place) = self.records.get_mut(slot as usize) {
            *place = record;
        }
        let records = &self.records;
        let key = (owner, &id);
        self.holders
            .insert(slot, |other| by_holder(records, other, key));
        self.insert_addresses(slot);
        true
    }

    /// Forgets the records of a holder. Returns true if there were any.
    pub(crate) fn remove(&mut self, holder: Holder) -> bool {
        let slot = self.find(holder);
        if let Some(slot) = slot {
            self.take(slot);
        }
        slot.is_some()
    }

    /// Returns the addresses of a record.
    pub(crate) fn addresses(&self, slot: u32) -> impl Iterator<Item = IpAddr> + use<'_> {
        let record = self.record(slot);
        let single = (record.shape == Shape::Single).then_some(IpAddr::V4(record.address));
        let held = self.held(slot).map(|held| held.addresses.as_slice());
        single
            .into_iter()
            .chain(held.unwrap_or_default().iter().copied())
    }

    /// Returns the only address, if it is one of IPv4.
    #[inline]
    pub(crate) fn single(&self, slot: u32) -> Option<Ipv4Addr> {
        let record = self.records.get(slot as usize)?;
        (record.shape == Shape::Single).then_some(record.address)
    }

    /// Returns the ports of a record.
    pub(crate) fn ports(&self, slot: u32) -> &[Port] {
        self.held(slot).map_or(&[], |held| &held.ports)
    }

    /// Returns the texts of a record.
    pub(crate) fn texts(&self, slot: u32) -> &[Vec<u8>] {
        self.held(slot).map_or(&[], |held| &held.texts)
    }

    /// Returns the name for which the names of a record are aliases.
    pub(crate) fn canonical(&self, slot: u32) -> Option<&[u8]> {
        self.held(slot)?.canonical.as_deref()
    }

    /// Returns the name by which the holder of a record is known.
    pub(crate) fn primary(&self, slot: u32) -> Option<&[u8]> {
        let (names, services) = self.links(slot);
        let first = names.first().or(services.first())?;
        Some(self.names.text(NameId(*first)))
    }

    /// Returns true if an address may stand in more than one of the records.
    pub(crate) fn has_shared_addresses(&self) -> bool {
        self.shared > 0
    }

    /// Returns the records of the endpoints and services that have the address.
    pub(crate) fn at_address(&self, address: IpAddr) -> impl Iterator<Item = u32> + use<'_> {
        let single = match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let singles = single.into_iter().flat_map(move |address| {
            let numbers = self
                .singles
                .from(move |slot| by_address(&self.records, slot, (address, 0)));
            numbers.take_while(move |slot| self.record(*slot).address == address)
        });
        let others = self.addresses.range((address, 0)..=(address, u32::MAX));
        singles.chain(others.map(|(_, slot)| *slot))
    }

    /// Returns true if an endpoint or a service has an address in the range, both ends included.
    pub(crate) fn has_address_within(&self, first: IpAddr, last: IpAddr) -> bool {
        if let (IpAddr::V4(first), IpAddr::V4(last)) = (first, last) {
            let mut after = self
                .singles
                .from(|slot| by_address(&self.records, slot, (first, 0)));
            if after
                .next()
                .is_some_and(|slot| self.record(slot).address <= last)
            {
                return true;
            }
        }
        let mut others = self.addresses.range((first, 0)..=(last, u32::MAX));
        others.next().is_some()
    }

    fn find(&self, holder: Holder) -> Option<u32> {
        let (id, owner) = parts(holder);
        self.holders
            .get(|slot| by_holder(&self.records, slot, (owner, &id)))
    }

    #[inline]
    fn record(&self, slot: u32) -> &Record {
        self.records.get(slot as usize).unwrap_or(&Record::EMPTY)
    }

    fn extra(&self, slot: u32) -> Option<&Extra> {
        let record = self.record(slot);
        let [number, ..] = record.links;
        let extra = (record.shape == Shape::Extra).then_some(number)?;
        self.extras.get(extra as usize)?.as_deref()
    }

    fn held(&self, slot: u32) -> Option<&Held> {
        self.extra(slot).map(|extra| &extra.held)
    }

    /// Returns the names of a record, and those of its services.
    fn links(&self, slot: u32) -> (&[u32], &[u32]) {
        if let Some(extra) = self.extra(slot) {
            return (&extra.names, &extra.services);
        }
        let record = self.record(slot);
        let (names, services) = (usize::from(record.names), usize::from(record.services));
        let (first, rest) = record.links.split_at_checked(names).unwrap_or_default();
        (first, rest.get(..services).unwrap_or_default())
    }

    fn is_same(&self, slot: u32, held: &Held) -> bool {
        let (names, services) = self.links(slot);
        let same = |links: &[u32], keys: &[Box<[u8]>]| {
            let texts = links.iter().map(|link| self.names.text(NameId(*link)));
            texts.eq(keys.iter().map(|key| &**key))
        };
        same(names, &held.names)
            && same(services, &held.services)
            && self.addresses(slot).eq(held.addresses.iter().copied())
            && self.ports(slot) == held.ports
            && self.texts(slot) == held.texts
            && self.canonical(slot) == held.canonical.as_deref()
    }

    fn insert_names(
        &mut self,
        slot: u32,
        owner: Owner,
        held: &Held,
        refused: &mut u64,
    ) -> (Vec<u32>, Vec<u32>) {
        let mut insert = |wire: &[u8], part| {
            let name = self.names.insert(wire, Source::new(part, slot));
            *refused += u64::from(name.is_none());
            name.map(|name| name.0)
        };
        let mut names = Vec::with_capacity(held.names.len());
        for wire in &held.names {
            let part = match owner {
                Owner::Service => Part::Virtual,
                _ if held.services.contains(wire) => Part::EndpointAndTask,
                _ => Part::Endpoint,
            };
            names.extend(insert(wire, part));
        }
        let mut services = Vec::with_capacity(held.services.len());
        for wire in &held.services {
            let own = held.names.contains(wire);
            let part = if own {
                Part::EndpointAndTask
            } else {
                Part::Task
            };
            services.extend(insert(wire, part)); // the same source twice counts once
        }
        (names, services)
    }

    /// Writes what is held into a record, or into an extra.
    fn fill(
        &mut self,
        mut record: Record,
        mut held: Held,
        names: Vec<u32>,
        services: Vec<u32>,
    ) -> Record {
        let plain = held.ports.is_empty() && held.texts.is_empty() && held.canonical.is_none();
        let shape = match held.addresses[..] {
            [] if plain => Some(Shape::Bare),
            [IpAddr::V4(address)] if plain => {
                record.address = address;
                Some(Shape::Single)
            }
            _ => None,
        };
        if let Some(shape) = shape
            && names.len() + services.len() <= LINKS
        {
            let links = names.iter().chain(&services);
            for (place, link) in record.links.iter_mut().zip(links) {
                *place = *link;
            }
            // No more than four.
            record.names = u8::try_from(names.len()).unwrap_or_default();
            record.services = u8::try_from(services.len()).unwrap_or_default();
            record.shape = shape;
            return record;
        }
        (held.names, held.services) = (Vec::new(), Vec::new()); // the links say them
        let extra = Extra {
            names,
            services,
            held,
        };
        let extra = Some(Box::new(extra));
        let number = place(&mut self.extras, &mut self.free_extras, extra);
        record.links = [number; LINKS];
        record.shape = Shape::Extra;
        record
    }

    /// Takes a record out of everything.
    fn take(&mut self, slot: u32) {
        let record = *self.record(slot);
        let records = &self.records;
        let key = (record.owner, &record.id);
        self.holders.remove(|other| by_holder(records, other, key));
        self.remove_addresses(slot);
        let (names, services) = self.links(slot);
        for name in [names, services].concat() {
            self.names.remove(NameId(name), slot);
        }
        if record.shape == Shape::Extra {
            let [number, ..] = record.links;
            if let Some(extra) = self.extras.get_mut(number as usize) {
                *extra = None;
                self.free_extras.push(number);
            }
        }
        if let Some(place) = self.records.get_mut(slot as usize) {
            *place = Record::EMPTY;
        }
        self.free.push(slot);
    }

    fn insert_addresses(&mut self, slot: u32) {
        for address in self.addresses(slot).collect::<Vec<_>>() {
            let shared = self.at_address(address).next().is_some();
            self.shared += usize::from(shared);
            match self.single(slot) {
                Some(single) => {
                    let (records, key) = (&self.records, (single, slot));
                    self.singles
                        .insert(slot, |other| by_address(records, other, key));
                }
                None => {
                    self.addresses.insert((address, slot));
                }
            }
        }
    }

    fn remove_addresses(&mut self, slot: u32) {
        for address in self.addresses(slot).collect::<Vec<_>>() {
            match self.single(slot) {
                Some(single) => {
                    let (records, key) = (&self.records, (single, slot));
                    self.singles.remove(|other| by_address(records, other, key));
                }
                None => {
                    self.addresses.remove(&(address, slot));
                }
            }
            let shared = self.at_address(address).next().is_some();
            self.shared -= usize::from(shared);
        }
    }
}

impl Record {
    const EMPTY: Self = Self {
        id: [0; 16],
        links: [0; LINKS],
        address: Ipv4Addr::UNSPECIFIED,
        names: 0,
        services: 0,
        owner: Owner::Nobody,
        shape: Shape::Bare,
    };
}

fn parts(holder: Holder) -> ([u8; 16], Owner) {
    match holder {
        Holder::Endpoint(id) => (*id.as_bytes(), Owner::Endpoint),
        Holder::Service(id) => (*id.as_bytes(), Owner::Service),
    }
}

fn by_holder(records: &[Record], slot: u32, (owner, id): (Owner, &[u8; 16])) -> Ordering {
    let record = records.get(slot as usize).unwrap_or(&Record::EMPTY);
    (record.owner, &record.id).cmp(&(owner, id))
}

fn by_address(records: &[Record], slot: u32, key: (Ipv4Addr, u32)) -> Ordering {
    let record = records.get(slot as usize).unwrap_or(&Record::EMPTY);
    (record.address, slot).cmp(&key)
}

/// How many names and services a record holds by itself: name, short identity, service, and an alias of either.
const LINKS: usize = 4;

#[cfg(test)]
mod tests {
    use overlay_core::{EndpointId, Seed};

    use super::*;

    /// Some with one address, some with more, some with texts, some with nothing.
    fn draw(rng: &mut overlay_core::Rng) -> Held {
        let name = |number: u64| -> Box<[u8]> {
            let wire = [&[2][..], format!("n{number}").as_bytes()].concat();
            wire.into()
        };
        let mut addresses: Vec<IpAddr> = (0..rng.below(4))
            .map(|_| match rng.below(3) {
                0 => IpAddr::from([
                    0xfd00,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    u16::try_from(rng.below(9)).unwrap(),
                ]),
                _ => IpAddr::from([10, 0, 0, u8::try_from(rng.below(9)).unwrap()]),
            })
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let first = rng.below(5);
        Held {
            names: (0..rng.below(5)).map(|more| name(first + more)).collect(),
            services: (0..rng.below(2)).map(|_| name(rng.below(9))).collect(),
            addresses,
            texts: (0..rng.below(2)).map(|_| b"text".to_vec()).collect(),
            ..Held::default()
        }
    }

    #[test]
    fn what_was_set_is_found_and_what_was_removed_leaves_nothing() {
        let (mut zone, mut rng) = (Zone::new(&Keyed::new(1)), Seed::from_u64(2).rng());
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..5_000 {
            let holder = Holder::Endpoint(EndpointId::from_bytes(
                [u8::try_from(rng.below(12)).unwrap(); 16],
            ));
            if rng.chance(700_000) {
                let held = draw(&mut rng);
                let changed = model.insert(holder, held.clone()) != Some(held.clone());
                assert_eq!(zone.set(holder, held, &mut 0), changed);
            } else {
                assert_eq!(zone.remove(holder), model.remove(&holder).is_some());
            }
            let mut seen = BTreeSet::new();
            let mut shared = 0;
            for (holder, held) in &model {
                let slot = zone.find(*holder).unwrap();
                assert!(zone.is_same(slot, held));
                for address in &held.addresses {
                    shared += usize::from(!seen.insert(*address));
                    assert!(zone.at_address(*address).any(|other| other == slot));
                    assert!(zone.has_address_within(*address, *address));
                }
            }
            assert_eq!(zone.shared, shared);
            let all = [0, 255].map(|last| IpAddr::from([10, 0, 0, last]));
            let any = seen.iter().any(IpAddr::is_ipv4);
            assert_eq!(zone.has_address_within(all[0], all[1]), any);
        }
        for holder in model.keys() {
            zone.remove(*holder);
        }
        assert_eq!(
            (zone.names.len(), zone.shared, zone.addresses.len()),
            (0, 0, 0)
        );
        assert_eq!(zone.free.len(), zone.records.len());
        assert!(zone.extras.iter().all(Option::is_none));
        assert_eq!(size_of::<Record>(), 40);
    }
}
