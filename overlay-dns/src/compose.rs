//! Writes answers: which record sets stand at a place, and in which order.

mod services;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::ControlFlow,
};

use overlay_core::Rng;

use crate::{
    Transport,
    answer::Place,
    config::Config,
    directory::{Directory, Found, Network},
    records::View,
    wire::{Class, Full, HEADER_BYTES, Name, Owner, Rcode, RecordType, Section, Writer},
    zone::Zone,
};

/// Room for the members of a set, kept between answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    v4: Vec<[u8; 4]>,
    v6: Vec<[u8; 16]>,
    /// Numbers of records, and of a port or text in each.
    places: Vec<(u32, usize)>,
}

/// Writes record sets.
pub(crate) struct Composer<'a> {
    /// What there is, and what of it the client sees.
    pub(crate) data: (&'a Config, &'a Directory, &'a View),
    pub(crate) writer: Writer<'a>,
    pub(crate) members: &'a mut Members,
    pub(crate) rng: &'a mut Rng,
    pub(crate) transport: Transport,
    pub(crate) ttl: u32,
    pub(crate) negative_ttl: u32,
    /// Counts the changes of our data.
    pub(crate) serial: u32,
    pub(crate) truncated: bool,
}

impl Composer<'_> {
    /// Writes what is asked for at a place; the name to go on with if it is an alias.
    pub(crate) fn place(
        &mut self,
        name: &Name,
        kind: RecordType,
        place: &Place<'_>,
        first: bool,
    ) -> ControlFlow<Rcode, Name> {
        let owner = owner(name, first);
        let (mut apex, mut rcode) = (0, Rcode::NOERROR);
        let before = self.writer.counts();
        match place {
            Place::Found(found) => {
                apex = found.apex;
                if let Some(target) = alias(found) {
                    self.set(
                        Section::Answer,
                        owner,
                        RecordType::CNAME,
                        &[target],
                        |w, to| w.name(to, true),
                    );
                    if kind != RecordType::CNAME && !self.truncated {
                        return ControlFlow::Continue(target);
                    }
                } else {
                    self.found(owner, kind, found);
                }
            }
            Place::Reverse {
                network,
                address,
                apex: labels,
            } => {
                apex = *labels;
                self.pointers(owner, kind, network, *address);
            }
            Place::Localhost => self.localhost(owner, kind),
            Place::LoopbackPointer => self.loopback_pointer(owner, kind),
            Place::Nothing {
                rcode: code,
                apex: labels,
            } => (rcode, apex) = (*code, *labels),
            Place::Foreign => {}
        }
        if kind == RecordType::SOA && apex == 0 && rcode == Rcode::NOERROR {
            self.authority(Section::Answer, name, 0, first);
        } else if self.writer.counts() == before && !self.truncated {
            self.authority(Section::Authority, name, apex, first);
        }
        ControlFlow::Break(rcode)
    }

    fn found(&mut self, owner: Owner<'_>, kind: RecordType, found: &Found<'_>) {
        if found.port.is_some() {
            if matches!(kind, RecordType::SRV | RecordType::ANY) {
                self.services(owner, found);
            }
            return;
        }
        match kind {
            RecordType::A | RecordType::AAAA => self.address_set(owner, kind, found),
            RecordType::TXT => self.texts(owner, found),
            RecordType::ANY => {
                // One set, and not everything (RFC 8482 §4.1).
                let before = self.writer.counts();
                self.address_set(owner, RecordType::A, found);
                if self.writer.counts() == before && !self.truncated {
                    self.address_set(owner, RecordType::AAAA, found);
                }
                if self.writer.counts() == before && !self.truncated {
                    self.texts(owner, found);
                }
            }
            _ => {}
        }
    }

    fn address_set(&mut self, owner: Owner<'_>, kind: RecordType, found: &Found<'_>) {
        let zone = &found.network.zone;
        if kind == RecordType::A {
            let mut set = std::mem::take(&mut self.members.v4);
            set.clear();
            for source in found.sources {
                if let Some(address) = zone.single(source.slot()) {
                    set.push(address.octets());
                    continue;
                }
                set.extend(zone.addresses(source.slot()).filter_map(v4));
            }
            self.fixed_set(owner, kind, found.may_repeat(), &mut set);
            self.members.v4 = set;
        } else {
            let mut set = std::mem::take(&mut self.members.v6);
            set.clear();
            for source in found.sources {
                set.extend(zone.addresses(source.slot()).filter_map(v6));
            }
            self.fixed_set(owner, kind, found.may_repeat(), &mut set);
            self.members.v6 = set;
        }
    }

    /// Writes addresses, each once and in random order.
    fn fixed_set<const N: usize>(
        &mut self,
        owner: Owner<'_>,
        kind: RecordType,
        may_repeat: bool,
        members: &mut Vec<[u8; N]>,
    ) {
        if may_repeat {
            members.sort_unstable();
            members.dedup();
        }
        shuffle(self.rng, members);
        if let Owner::At(at) = owner {
            let fixed = (kind, Class::IN, self.ttl);
            let written = self.writer.fixed_set(Section::Answer, at, fixed, members);
            if written.is_ok() {
                return;
            }
        }
        self.set(Section::Answer, owner, kind, members, |w, octets| {
            w.bytes(octets)
        });
    }

    fn texts(&mut self, owner: Owner<'_>, found: &Found<'_>) {
        let zone = &found.network.zone;
        let text = |place: &(u32, usize)| zone.texts(place.0).get(place.1).map_or(&[][..], |t| t);
        let mut places = self.places(found, |slot| zone.texts(slot).len());
        places.sort_unstable_by_key(text);
        places.dedup_by(|one, other| text(one) == text(other));
        shuffle(self.rng, &mut places);
        let write = |w: &mut Writer<'_>, place: &(u32, usize)| {
            let text = text(place);
            if text.is_empty() {
                return w.bytes(&[0]);
            }
            // Character-strings of at most 255 octets (RFC 1035 §3.3.14).
            text.chunks(255).try_for_each(|part| {
                w.bytes(&[u8::try_from(part.len()).unwrap_or(u8::MAX)])?;
                w.bytes(part)
            })
        };
        self.set(Section::Answer, owner, RecordType::TXT, &places, write);
        self.members.places = places;
    }

    /// Lists what the sources of a name have, of which each has as many as `count` says.
    fn places(&mut self, found: &Found<'_>, count: impl Fn(u32) -> usize) -> Vec<(u32, usize)> {
        let mut places = std::mem::take(&mut self.members.places);
        places.clear();
        for source in found.sources {
            let slot = source.slot();
            places.extend((0..count(slot)).map(|number| (slot, number)));
        }
        places
    }

    fn pointers(&mut self, owner: Owner<'_>, kind: RecordType, network: &Network, address: IpAddr) {
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return;
        }
        let zone = &network.zone;
        let name = |place: &(u32, usize)| zone.primary(place.0);
        let mut places = std::mem::take(&mut self.members.places);
        places.clear();
        places.extend(zone.at_address(address).map(|slot| (slot, 0)));
        places.retain(|place| full_name(place.0, network).is_some());
        places.sort_unstable_by_key(name);
        places.dedup_by(|one, other| name(one) == name(other));
        shuffle(self.rng, &mut places);
        let write = |w: &mut Writer<'_>, place: &(u32, usize)| {
            let name = full_name(place.0, network).ok_or(Full)?;
            w.name(&name, true)
        };
        self.set(Section::Answer, owner, RecordType::PTR, &places, write);
        self.members.places = places;
    }

    fn loopback_pointer(&mut self, owner: Owner<'_>, kind: RecordType) {
        if matches!(kind, RecordType::PTR | RecordType::ANY) {
            self.set(
                Section::Answer,
                owner,
                RecordType::PTR,
                &[LOCALHOST],
                |w, name| w.bytes(name),
            );
        }
    }

    fn localhost(&mut self, owner: Owner<'_>, kind: RecordType) {
        let address = match kind {
            RecordType::A | RecordType::ANY => IpAddr::V4(Ipv4Addr::LOCALHOST),
            RecordType::AAAA => IpAddr::V6(Ipv6Addr::LOCALHOST),
            _ => return,
        };
        let kind = if kind == RecordType::ANY {
            RecordType::A
        } else {
            kind
        };
        self.set(Section::Answer, owner, kind, &[address], write_address);
    }

    /// Writes a whole record set, or nothing of it and marks the answer as truncated. Over TCP a set that is larger
    /// than any message is cut instead: there is nothing else that the client could try.
    fn set<T>(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        kind: RecordType,
        members: &[T],
        write: impl Fn(&mut Writer<'_>, &T) -> Result<(), Full>,
    ) {
        let mark = self.writer.mark();
        for member in members {
            let fixed = (kind, Class::IN, self.ttl);
            let written = self
                .writer
                .record(section, owner, fixed, |w| write(w, member));
            if written.is_err() {
                if self.transport == Transport::Udp {
                    self.writer.rollback(mark);
                    self.truncated = true;
                }
                return;
            }
        }
    }

    /// Writes the SOA record of the zone that begins `apex` labels into `name` (RFC 2308 §3).
    fn authority(&mut self, section: Section, name: &Name, apex: usize, first: bool) {
        let fixed = (RecordType::SOA, Class::IN, self.negative_ttl);
        let tail = self.authority_tail();
        let written = if first {
            let at = u16::try_from(HEADER_BYTES + name.offset(apex)).unwrap_or_default();
            self.writer.record(section, Owner::At(at), fixed, |w| {
                w.bytes(&(at | 0xc000).to_be_bytes())?;
                w.bytes(&tail)
            })
        } else {
            let zone = Name::from_wire(name.suffix(apex)).unwrap_or(Name::ROOT);
            self.writer.record(section, Owner::Name(&zone), fixed, |w| {
                w.name(&zone, true)?;
                w.bytes(&tail)
            })
        };
        self.truncated |= written.is_err();
    }

    /// Returns the data of an SOA record behind its first name.
    fn authority_tail(&self) -> [u8; NOBODY.len() + 20] {
        let mut tail = [0; NOBODY.len() + 20];
        let (nobody, numbers) = tail.split_at_mut(NOBODY.len());
        nobody.copy_from_slice(NOBODY);
        let values = [self.serial, 3_600, 600, 86_400, self.negative_ttl];
        for (place, value) in numbers.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        tail
    }
}

fn owner(name: &Name, first: bool) -> Owner<'_> {
    if first {
        Owner::At(12) // the question's name
    } else {
        Owner::Name(name)
    }
}

/// Returns the name for which a found one is an alias; none if it has an address.
fn alias(found: &Found<'_>) -> Option<Name> {
    let zone = &found.network.zone;
    let mut slots = found.sources.iter().map(|source| source.slot());
    if found.port.is_some()
        || slots
            .clone()
            .any(|slot| zone.addresses(slot).next().is_some())
    {
        return None;
    }
    let canonical = slots.find_map(|slot| zone.canonical(slot))?;
    Name::from_wire(canonical)
}

/// Returns the primary name of a holder or, without an address, what that is an alias of; and whether it is the former.
fn target(slot: u32, zone: &Zone) -> Option<(&[u8], bool)> {
    let alias = zone.canonical(slot);
    match alias.filter(|_| zone.addresses(slot).next().is_none()) {
        Some(canonical) => Some((canonical, false)),
        None => Some((zone.primary(slot)?, true)),
    }
}

/// Returns the whole of the name at which a holder is: of one of our own with its network.
fn full_name(slot: u32, network: &Network) -> Option<Name> {
    let (wire, own) = target(slot, &network.zone)?;
    let mut name = Name::from_wire(wire)?;
    if let Some(network) = network.name.as_ref().filter(|_| own) {
        name.append(network).ok()?;
    }
    Some(name)
}

/// Puts items into random order (Fisher–Yates). One draw of 64 bits serves for several steps, each of which takes as many
/// of its bits as it needs (Lemire 2019); what is left over is drawn anew before it could tell in the result.
fn shuffle<T>(rng: &mut Rng, items: &mut [T]) {
    let (mut bits, mut used) = (0_u64, u64::MAX);
    for at in (1..items.len()).rev() {
        let bound = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1);
        used = used.saturating_mul(bound);
        if used > USED_MAX {
            (bits, used) = (rng.next_u64(), bound);
        }
        let wide = u128::from(bits) * u128::from(bound);
        bits = u64::try_from(wide & u128::from(u64::MAX)).unwrap_or_default();
        items.swap(at, usize::try_from(wide >> 64).unwrap_or_default());
    }
}

fn v4(address: IpAddr) -> Option<[u8; 4]> {
    match address {
        IpAddr::V4(address) => Some(address.octets()),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<[u8; 16]> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address.octets()),
    }
}

fn is_of(kind: RecordType, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => kind == RecordType::A,
        IpAddr::V6(_) => kind == RecordType::AAAA,
    }
}

fn write_address(writer: &mut Writer<'_>, address: &IpAddr) -> Result<(), Full> {
    match address {
        IpAddr::V4(address) => writer.bytes(&address.octets()),
        IpAddr::V6(address) => writer.bytes(&address.octets()),
    }
}

/// The wire form of `localhost.`
const LOCALHOST: &[u8] = b"\x09localhost\x00";
/// `nobody.invalid.`: nobody is responsible for a zone that a machine made (RFC 6303 §3).
const NOBODY: &[u8] = b"\x06nobody\x07invalid\x00";
/// How many orders one draw decides between: the rest of its bits makes each as likely as any other, to one in 2^32.
const USED_MAX: u64 = 1 << 32;
