//! Who has records, and what of them is kept.

use std::net::IpAddr;

use overlay_core::{EndpointId, ServiceId};

use crate::{
    records::{Port, Records, ServiceRecords},
    wire::Name,
};

/// A lower-cased name in wire form without the root's octet.
type Key = Box<[u8]>;

/// Who contributes records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Endpoint(EndpointId),
    Service(ServiceId),
}

/// The records of one holder, as far as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) names: Vec<Key>,
    pub(crate) services: Vec<Key>,
    /// Sorted, each once.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    pub(crate) texts: Vec<Vec<u8>>,
    pub(crate) canonical: Option<Key>,
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
            ..Self::common(&records.addresses, &records.ports, &records.texts, limits)
        }
    }

    /// Takes over a service's records; counts what it left out in `refused`.
    pub(crate) fn service(records: &ServiceRecords, limits: Limits, refused: &mut u64) -> Self {
        Self {
            names: keys(&records.names, limits, refused),
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
