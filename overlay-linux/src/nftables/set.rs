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

    fn parse(element: Parsed<'_>) -> Option<(Vec<u8>, Self)> {
        let key = element.nested(ELEM_KEY)?.value(DATA_VALUE)?.to_vec();
        // An element that ends by itself, or is the end of a range, is none of ours.
        let odd = element.value(ELEM_FLAGS).is_some() || element.value(ELEM_TIMEOUT).is_some();
        if odd {
            return Some((key, Self::Other));
        }
        let Some(data) = element.nested(ELEM_DATA) else {
            return Some((key, Self::Present));
        };
        let octets = data.value(DATA_VALUE);
        let verdict = data.nested(DATA_VERDICT).and_then(Verdict::parse);
        let found = match (octets, verdict) {
            (Some(octets), _) => Self::Data(octets.to_vec()),
            (None, Some(verdict)) => Self::Verdict(verdict),
            (None, None) => Self::Other,
        };
        Some((key, found))
    }
}

/// Elements in a message about them.
pub(super) fn parse_elements(message: Parsed<'_>) -> Vec<(Vec<u8>, Element)> {
    let list = message.nested(ELEMENTS).unwrap_or(Parsed(&[]));
    list.filter_map(|(_, element)| Element::parse(Parsed(element)))
        .collect()
}

/// The list of elements that a message is about.
pub(super) fn emit_elements<'a>(
    attributes: Attributes,
    elements: impl IntoIterator<Item = (&'a Vec<u8>, &'a Element)>,
) -> Attributes {
    let list = elements
        .into_iter()
        .fold(Attributes::default(), |list, (key, element)| {
            list.nest(LIST_ELEM, &element.emit(key))
        });
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
/// The tool's number of marks of packets: integers in the machine's own octet order.
const MARK: u32 = 19;
/// Plain octets, to the tool.
const OCTETS: u32 = 5;
const MAC: u32 = 9;
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
