//! Sets and maps.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    attribute::{Attributes, Parsed},
    expression::{DATA_VALUE, DATA_VERDICT, LIST_ELEM},
    verdict::Verdict,
};

/// A set of keys, or a map of them to values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) kind: SetKind,
    /// Keys, and for a map what they lead to.
    pub(crate) elements: BTreeMap<Vec<u8>, Element>,
}

/// What is in a set, as the kernel and the usual tool name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetKind {
    flags: u32,
    key: u32,
    key_octets: u32,
    data: Option<(u32, u32)>,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// It is there.
    Present,
    /// Octets.
    Data(Vec<u8>),
    /// How the rule ends.
    Verdict(Verdict),
    /// Something that is never made here.
    Other,
}

impl SetKind {
    /// Addresses.
    pub(crate) fn addresses(v6: bool) -> Self {
        let (key, key_octets) = address(v6);
        Self {
            flags: 0,
            key,
            key_octets,
            data: None,
        }
    }

    /// Verdicts by addresses.
    pub(crate) fn verdicts(v6: bool) -> Self {
        let data = Some((VERDICTS, VERDICT_OCTETS));
        Self {
            flags: MAP,
            data,
            ..Self::addresses(v6)
        }
    }

    /// MAC addresses.
    pub(crate) const MACS: Self = Self {
        flags: 0,
        key: MAC,
        key_octets: 6,
        data: None,
    };

    /// Numbers of four octets.
    pub(crate) const NUMBERS: Self = Self {
        flags: 0,
        key: MARK,
        key_octets: 4,
        data: None,
    };

    /// Numbers of four octets with addresses after them.
    pub(crate) fn numbered_addresses(v6: bool) -> Self {
        let (_, octets) = address(v6);
        Self {
            flags: 0,
            key: OCTETS,
            key_octets: 4 + octets,
            data: None,
        }
    }

    /// Names of interfaces.
    pub(crate) const NAMES: Self = Self {
        flags: 0,
        key: NAME,
        key_octets: NAME_OCTETS,
        data: None,
    };

    /// Verdicts by names of interfaces.
    pub(crate) const BY_NAME: Self = Self {
        flags: MAP,
        data: Some((VERDICTS, VERDICT_OCTETS)),
        ..Self::NAMES
    };

    /// Verdicts by numbers of four octets.
    pub(crate) const BY_NUMBER: Self = Self {
        flags: MAP,
        key: MARK,
        key_octets: 4,
        data: Some((VERDICTS, VERDICT_OCTETS)),
    };

    /// Numbers by ranges of addresses.
    pub(crate) fn ranges(v6: bool) -> Self {
        let (key, key_octets) = address(v6);
        Self {
            flags: MAP | INTERVAL,
            key,
            key_octets,
            data: Some((MARK, 4)),
        }
    }

    /// Numbers by ranges of ports.
    pub(crate) const PORT_RANGES: Self = Self {
        flags: MAP | INTERVAL,
        key: PORT,
        key_octets: 2,
        data: Some((MARK, 4)),
    };

    /// Numbers by protocols of the transport layer.
    pub(crate) const PROTOCOLS: Self = Self {
        flags: MAP,
        key: PROTOCOL,
        key_octets: 1,
        data: Some((MARK, 4)),
    };

    /// Numbers by a mark and a priority.
    pub(crate) const PAIRS: Self = Self {
        flags: MAP,
        key: MARK << TYPE_BITS | PRIORITY,
        key_octets: 8,
        data: Some((MARK, 4)),
    };

    /// Verdicts by a mark and a priority.
    pub(crate) const BY_PAIR: Self = Self {
        data: Some((VERDICTS, VERDICT_OCTETS)),
        ..Self::PAIRS
    };

    /// Pairs of addresses.
    pub(crate) fn address_pairs(v6: bool) -> Self {
        let (key, octets) = address(v6);
        Self {
            flags: 0,
            key: key << TYPE_BITS | key,
            key_octets: 2 * octets,
            data: None,
        }
    }

    /// Numbers of connection tracking's zones, by names of interfaces.
    pub(crate) const ZONES: Self = Self {
        flags: MAP,
        data: Some((INTEGER, 2)),
        ..Self::NAMES
    };

    /// Whether a key is a first and a last one, one after the other, and stands for all from one to the other.
    pub(super) const fn is_ranged(self) -> bool {
        self.flags & INTERVAL != 0
    }

    /// Whether what is in there may lead to chains.
    pub(super) fn leads(self) -> bool {
        self.data.is_some_and(|(kind, _)| kind == VERDICTS)
    }

    /// Addresses by numbers.
    pub(crate) fn slots(v6: bool) -> Self {
        Self {
            flags: MAP,
            key: MARK,
            key_octets: 4,
            data: Some(address(v6)),
        }
    }

    pub(super) fn emit(self, attributes: Attributes) -> Attributes {
        let mut attributes = attributes;
        if self.flags != 0 {
            attributes = attributes.number(SET_FLAGS, self.flags);
        }
        attributes = attributes
            .number(SET_KEY_TYPE, self.key)
            .number(SET_KEY_LEN, self.key_octets);
        if let Some((kind, octets)) = self.data {
            attributes = attributes
                .number(SET_DATA_TYPE, kind)
                .number(SET_DATA_LEN, octets);
        }
        attributes
    }

    pub(super) fn parse(set: Parsed<'_>) -> Option<Self> {
        let kind = set.number(SET_DATA_TYPE);
        Some(Self {
            flags: set.number(SET_FLAGS).unwrap_or_default(),
            key: set.number(SET_KEY_TYPE)?,
            key_octets: set.number(SET_KEY_LEN)?,
            data: kind.map(|kind| (kind, set.number(SET_DATA_LEN).unwrap_or_default())),
        })
    }
}

impl Element {
    pub(super) fn emit(&self, key: &[u8]) -> Attributes {
        let key = Attributes::default().value(DATA_VALUE, key);
        let element = Attributes::default().nest(ELEM_KEY, &key);
        match self {
            Self::Present | Self::Other => element,
            Self::Data(octets) => {
                let data = Attributes::default().value(DATA_VALUE, octets);
                element.nest(ELEM_DATA, &data)
            }
            Self::Verdict(verdict) => {
                let data = Attributes::default().nest(DATA_VERDICT, &verdict.emit());
                element.nest(ELEM_DATA, &data)
            }
        }
    }

    /// An element: its key, whether it is the end of a range, and what it leads to.
    fn parse(element: Parsed<'_>) -> Option<(Vec<u8>, bool, Self)> {
        let key = element.nested(ELEM_KEY)?.value(DATA_VALUE)?.to_vec();
        let flags = element.number(ELEM_FLAGS);
        // An element that ends by itself, or is in any other way special, is none of ours.
        if element.value(ELEM_TIMEOUT).is_some() || flags.is_some_and(|flags| flags != RANGE_END) {
            return Some((key, false, Self::Other));
        }
        let ends = flags.is_some();
        let Some(data) = element.nested(ELEM_DATA) else {
            return Some((key, ends, Self::Present));
        };
        let octets = data.value(DATA_VALUE);
        let verdict = data.nested(DATA_VERDICT).and_then(Verdict::parse);
        let found = match (octets, verdict) {
            (Some(octets), _) => Self::Data(octets.to_vec()),
            (None, Some(verdict)) => Self::Verdict(verdict),
            (None, None) => Self::Other,
        };
        Some((key, ends, found))
    }
}

/// Elements in a message about them, and whether each is the end of a range.
pub(super) fn parse_elements(message: Parsed<'_>) -> Vec<(Vec<u8>, bool, Element)> {
    let list = message.nested(ELEMENTS).unwrap_or(Parsed(&[]));
    list.filter_map(|(_, element)| Element::parse(Parsed(element)))
        .collect()
}

/// All elements of a set, as they are known here.
pub(super) fn collect(
    kind: SetKind,
    mut found: Vec<(Vec<u8>, bool, Element)>,
) -> BTreeMap<Vec<u8>, Element> {
    let mut elements = BTreeMap::new();
    if !kind.is_ranged() {
        let plain = found.into_iter().map(|(key, ends, element)| {
            let element = if ends { Element::Other } else { element };
            (key, element)
        });
        return plain.collect();
    }
    // Where one range ends and the next begins, the end comes first.
    found.sort_by(|(one, is_end, _), (other, others, _)| (one, !is_end).cmp(&(other, !others)));
    let mut open: Option<(Vec<u8>, Element)> = None;
    for (key, ends, element) in found {
        let before = if ends {
            open.take()
        } else {
            open.replace((key.clone(), element))
        };
        if let Some((first, element)) = before {
            let element = if ends { element } else { Element::Other };
            elements.insert(
                [first, neighbour(key, false).unwrap_or_default()].concat(),
                element,
            );
        }
    }
    if let Some((first, element)) = open {
        let last = vec![u8::MAX; first.len()];
        elements.insert([first, last].concat(), element);
    }
    elements
}

/// The next key of that length, or the one before; none where there is no such.
fn neighbour(mut key: Vec<u8>, next: bool) -> Option<Vec<u8>> {
    let turns = if next { u8::MAX } else { 0 };
    for octet in key.iter_mut().rev() {
        let turned = *octet == turns;
        *octet = if next {
            octet.wrapping_add(1)
        } else {
            octet.wrapping_sub(1)
        };
        if !turned {
            return Some(key);
        }
    }
    None
}

/// The list of elements that a message is about.
pub(super) fn emit_elements<'a>(
    attributes: Attributes,
    kind: SetKind,
    elements: impl IntoIterator<Item = (&'a Vec<u8>, &'a Element)>,
) -> Attributes {
    let mut list = Attributes::default();
    for (key, element) in elements {
        if !kind.is_ranged() {
            list = list.nest(LIST_ELEM, &element.emit(key));
            continue;
        }
        let (first, last) = key.split_at(key.len() / 2);
        list = list.nest(LIST_ELEM, &element.emit(first));
        if let Some(end) = neighbour(last.to_vec(), true) {
            let end = Element::Present.emit(&end).number(ELEM_FLAGS, RANGE_END);
            list = list.nest(LIST_ELEM, &end);
        }
    }
    attributes.nest(ELEMENTS, &list)
}

/// An address as it is in sets and registers.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The tool's number and the length of addresses.
fn address(v6: bool) -> (u32, u32) {
    if v6 { (8, 16) } else { (7, 4) }
}

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
pub(super) const SET_ID: u16 = 10;
const MAP: u32 = 8;
const INTERVAL: u32 = 4;
/// `NFT_SET_ELEM_INTERVAL_END`.
const RANGE_END: u32 = 1;
/// The tool's number of marks of packets: integers in the machine's own octet order.
const MARK: u32 = 19;
/// Plain numbers, to the tool.
const INTEGER: u32 = 4;
/// Plain octets, to the tool.
const OCTETS: u32 = 5;
const MAC: u32 = 9;
const PROTOCOL: u32 = 12;
const PORT: u32 = 13;
const PRIORITY: u32 = 23;
/// By which one number is moved before the next, where several are side by side.
const TYPE_BITS: u32 = 6;
const NAME: u32 = 41;
const NAME_OCTETS: u32 = 16;
const VERDICTS: u32 = 0xffff_ff00;
const VERDICT_OCTETS: u32 = 16;
pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_TIMEOUT: u16 = 4;
