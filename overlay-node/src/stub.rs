//! A stub resolver's messages, for endpoints without an operating system (RFC 1035 §4.1).

use std::net::IpAddr;

use overlay_dns::wire::{Message, Name, Record, RecordType, Section};

/// Writes a query for the A records of `name`; `None` if that is no domain name.
pub(crate) fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let [a, b] = id.to_be_bytes();
    let mut message = vec![a, b, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(Name::from_text(name).ok()?.as_bytes());
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    Some(message)
}

/// Reads the addresses out of an answer.
pub(crate) fn addresses(answer: &[u8]) -> Vec<IpAddr> {
    let Ok(message) = Message::new_checked(answer) else {
        return Vec::new();
    };
    let octets = |record: Record<'_>| <[u8; 4]>::try_from(record.rdata).ok();
    message
        .records()
        .filter(|record| record.section == Section::Answer && record.kind == RecordType::A)
        .filter_map(octets)
        .map(IpAddr::from)
        .collect()
}
