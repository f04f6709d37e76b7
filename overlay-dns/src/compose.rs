//! Writes answers: which record sets stand at a place, and in which order.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::ControlFlow,
};

use overlay_core::Rng;

use crate::{
    Transport,
    answer::Place,
    directory::{Found, Network, is_port},
    wire::{Class, Full, HEADER_BYTES, Name, Owner, Rcode, RecordType, Section, Writer},
    zone::Held,
};

/// Writes record sets.
pub(crate) struct Composer<'a> {
    pub(crate) writer: Writer<'a>,
    pub(crate) addresses: &'a mut Vec<IpAddr>,
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
            Place::LoopbackPointer => {
                let localhost = Name::from_text("localhost").unwrap_or(Name::ROOT);
                self.names(owner, kind, &[localhost]);
            }
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
        let mut addresses = std::mem::take(self.addresses);
        addresses.clear();
        let (mut first_kind, mut mixed) = (None, false);
        for item in found.selected() {
            let Some(address) = item.address.filter(|address| is_of(kind, *address)) else {
                continue;
            };
            mixed |= first_kind
                .replace(item.kind)
                .is_some_and(|kind| kind != item.kind);
            if addresses.last() != Some(&address) {
                addresses.push(address);
            }
        }
        if mixed {
            addresses.sort_unstable();
            addresses.dedup();
        }
        self.rng.shuffle(&mut addresses);
        self.set(Section::Answer, owner, kind, &addresses, write_address);
        *self.addresses = addresses;
    }

    fn texts(&mut self, owner: Owner<'_>, found: &Found<'_>) {
        let mut texts: Vec<&[u8]> = found
            .held()
            .flat_map(|held| held.texts.iter().map(Vec::as_slice))
            .collect();
        texts.sort_unstable();
        texts.dedup();
        self.rng.shuffle(&mut texts);
        self.set(
            Section::Answer,
            owner,
            RecordType::TXT,
            &texts,
            |w, text| {
                if text.is_empty() {
                    return w.bytes(&[0]);
                }
                // Character-strings of at most 255 octets (RFC 1035 §3.3.14).
                text.chunks(255).try_for_each(|part| {
                    w.bytes(&[u8::try_from(part.len()).unwrap_or(u8::MAX)])?;
                    w.bytes(part)
                })
            },
        );
    }

    fn services(&mut self, owner: Owner<'_>, found: &Found<'_>) {
        let Some(asked) = found.port else { return };
        let mut places = Vec::new();
        for held in found.held() {
            let Some(target) = full_name(held, found.network) else {
                continue;
            };
            for port in &held.ports {
                if is_port(port.name.as_bytes(), port.protocol.as_bytes(), asked) {
                    let numbers = [port.priority, port.weight, port.number];
                    if !places.iter().any(|(n, t, _)| *n == numbers && *t == target) {
                        places.push((numbers, target, held));
                    }
                }
            }
        }
        self.rng.shuffle(&mut places);
        self.writer.remember_question();
        self.set(
            Section::Answer,
            owner,
            RecordType::SRV,
            &places,
            |w, (numbers, target, _)| {
                for number in numbers {
                    w.bytes(&number.to_be_bytes())?;
                }
                w.name(target, false) // RFC 2782: not compressed
            },
        );
        if self.truncated {
            return;
        }
        for (at, (_, target, held)) in places.iter().enumerate() {
            let again = places.iter().take(at).any(|(_, other, _)| other == target);
            if !again && self.additional(target, held).is_err() {
                return; // what does not fit is asked for if it is needed
            }
        }
    }

    fn additional(&mut self, target: &Name, held: &Held) -> Result<(), Full> {
        for kind in [RecordType::A, RecordType::AAAA] {
            let mark = self.writer.mark();
            for address in held
                .addresses
                .iter()
                .filter(|address| is_of(kind, **address))
            {
                let written = self.writer.record(
                    Section::Additional,
                    Owner::Name(target),
                    (kind, Class::IN, self.ttl),
                    |w| write_address(w, address),
                );
                if written.is_err() {
                    self.writer.rollback(mark);
                    return written;
                }
            }
        }
        Ok(())
    }

    fn pointers(&mut self, owner: Owner<'_>, kind: RecordType, network: &Network, address: IpAddr) {
        let mut names = Vec::new();
        for held in network.zone.at_address(address) {
            if let Some(name) = full_name(held, network)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
        self.rng.shuffle(&mut names);
        self.names(owner, kind, &names);
    }

    fn names(&mut self, owner: Owner<'_>, kind: RecordType, names: &[Name]) {
        if matches!(kind, RecordType::PTR | RecordType::ANY) {
            let write = |w: &mut Writer<'_>, name: &Name| w.name(name, true);
            self.set(Section::Answer, owner, RecordType::PTR, names, write);
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
        let zone = Name::from_wire(name.suffix(apex)).unwrap_or(Name::ROOT);
        let at = u16::try_from(HEADER_BYTES + name.offset(apex)).unwrap_or_default();
        let owner = if first {
            Owner::At(at)
        } else {
            Owner::Name(&zone)
        };
        let (ttl, serial) = (self.negative_ttl, self.serial);
        let written = self
            .writer
            .record(section, owner, (RecordType::SOA, Class::IN, ttl), |w| {
                match owner {
                    Owner::At(at) => w.bytes(&(at | 0xc000).to_be_bytes())?,
                    Owner::Name(zone) => w.name(zone, true)?,
                }
                w.bytes(NOBODY)?;
                for number in [serial, 3_600, 600, 86_400, ttl] {
                    w.bytes(&number.to_be_bytes())?;
                }
                Ok(())
            });
        self.truncated |= written.is_err();
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
    if found.port.is_some() || found.selected().any(|item| item.address.is_some()) {
        return None;
    }
    let canonical = found.held().find_map(|held| held.canonical.as_ref())?;
    Name::from_wire(canonical)
}

/// Returns the primary name of a holder, in its network.
fn full_name(held: &Held, network: &Network) -> Option<Name> {
    let mut name = Name::from_wire(held.primary()?)?;
    if let Some(network) = &network.name {
        name.append(network).ok()?;
    }
    Some(name)
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

/// `nobody.invalid.`: nobody is responsible for a zone that a machine made (RFC 6303 §3).
const NOBODY: &[u8] = b"\x06nobody\x07invalid\x00";
