//! SRV records, and the addresses of their targets.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Composer, alias, full_name, is_of, shuffle, target, write_address};
use crate::{
    answer::{ALIASES_MAX, Place, place},
    config::Config,
    directory::{Directory, Found, Network, is_port},
    records::View,
    wire::{Class, Full, Name, Owner, RecordType, Section, Writer},
    zone::Zone,
};

impl Composer<'_> {
    pub(super) fn services(&mut self, owner: Owner<'_>, found: &Found<'_>) {
        let Some(asked) = found.port else { return };
        let (network, zone) = (found.network, &found.network.zone);
        let port = |place: &(u32, usize)| zone.ports(place.0).get(place.1);
        let key = |place: &(u32, usize)| {
            let numbers = port(place).map(|port| (port.priority, port.weight, port.number));
            (target(place.0, zone), numbers)
        };
        let mut places = self.places(found, |slot| zone.ports(slot).len());
        places.retain(|place| {
            port(place).is_some_and(|p| is_port(p.name.as_bytes(), p.protocol.as_bytes(), asked))
        });
        places.sort_unstable_by_key(key);
        places.dedup_by(|one, other| key(one) == key(other));
        let data = self.data;
        let end = |place: &(u32, usize)| end_name(data, place.0, network);
        places.retain(|place| end(place).is_some());
        if places.iter().any(|place| !is_own(place.0, zone)) {
            // Aliases may lead to one end by several ways.
            let mut seen = Vec::new();
            places.retain(|place| {
                let (_, numbers) = key(place);
                let is_new = !seen.contains(&(end(place), numbers));
                seen.push((end(place), numbers));
                is_new
            });
        }
        shuffle(self.rng, &mut places);
        self.writer.remember_question();
        let write = |w: &mut Writer<'_>, place: &(u32, usize)| {
            let (Some(port), Some(target)) = (port(place), end(place)) else {
                return Err(Full);
            };
            for number in [port.priority, port.weight, port.number] {
                w.bytes(&number.to_be_bytes())?;
            }
            w.name(&target, false) // RFC 2782: not compressed
        };
        self.set(Section::Answer, owner, RecordType::SRV, &places, write);
        if !self.truncated {
            // What does not fit is asked for if it is needed.
            let _ = self.targets(network, &places);
        }
        self.members.places = places;
    }

    /// Writes the addresses of targets, of each once.
    fn targets(&mut self, network: &Network, places: &[(u32, usize)]) -> Result<(), Full> {
        let (zone, mut ends) = (&network.zone, Vec::new());
        for (at, (slot, _)) in places.iter().enumerate() {
            let mut before = places.iter().take(at);
            let again = before.any(|other| target(other.0, zone) == target(*slot, zone));
            let Some(name) = end_name(self.data, *slot, network).filter(|_| !again) else {
                continue;
            };
            if is_own(*slot, zone) {
                self.additional(&name, || zone.addresses(*slot))?;
            } else if !ends.contains(&name) {
                if let Place::Found(found) = place(self.data, &name, RecordType::A) {
                    let (zone, sources) = (&found.network.zone, found.sources.iter());
                    let addresses = sources.flat_map(|source| zone.addresses(source.slot()));
                    let addresses: BTreeSet<IpAddr> = addresses.collect();
                    self.additional(&name, || addresses.iter().copied())?;
                }
                ends.push(name);
            }
        }
        Ok(())
    }

    fn additional<I: Iterator<Item = IpAddr>>(
        &mut self,
        target: &Name,
        addresses: impl Fn() -> I,
    ) -> Result<(), Full> {
        for kind in [RecordType::A, RecordType::AAAA] {
            let mark = self.writer.mark();
            for address in addresses().filter(|address| is_of(kind, *address)) {
                let written = self.writer.record(
                    Section::Additional,
                    Owner::Name(target),
                    (kind, Class::IN, self.ttl),
                    |w| write_address(w, &address),
                );
                if written.is_err() {
                    self.writer.rollback(mark);
                    return written;
                }
            }
        }
        Ok(())
    }
}

/// Returns the name at which a holder's ports are, for a client: one that is no alias (RFC 2782). `None` if aliases lead
/// too far.
fn end_name(data: (&Config, &Directory, &View), slot: u32, network: &Network) -> Option<Name> {
    let mut name = full_name(slot, network)?;
    if is_own(slot, &network.zone) {
        return Some(name);
    }
    for _ in 0..ALIASES_MAX {
        let next = match place(data, &name, RecordType::A) {
            Place::Found(found) => alias(&found),
            _ => None,
        };
        match next {
            Some(next) => name = next,
            None => return Some(name),
        }
    }
    None
}

/// Whether a holder's ports are at its own name.
fn is_own(slot: u32, zone: &Zone) -> bool {
    target(slot, zone).is_none_or(|(_, own)| own)
}
